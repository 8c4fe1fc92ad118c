//! Presswork's own Redis port: the same `RPUSH` as to the inbox, from the client library that a
//! program already has, answered after the ledger's commit.
//!
//! ```text
//! RPUSH presswork:inbox ENVELOPE ...         how many jobs that is; all or none
//! RPUSH presswork:inbox:TENANT ENVELOPE ...  the same, of this tenant's jobs only
//! PRESSWORK.ENQUEUE ENVELOPE ...             their ids; all or none
//! MULTI ... EXEC                             all that is queued, or none
//! ```
//!
//! and what clients ask besides (`HELLO`, `AUTH`, `CLIENT`, `PING` ...). Whatever can't be done is told
//! as an error: a word for programs, then what was wrong, on one line.

pub mod wire;
pub mod reply;
mod commands;
pub mod session;
mod port;
mod answers;
mod link;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use secrecy::SecretString;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::Serving;
use crate::api::body::LARGE_AT_ONCE;
use crate::api::guard::Access;
use crate::api::keyring::Keyring;
use crate::engine::doors::Doors;
use port::Port;

pub use port::Limits;

/// Between two tries to accept when the system refuses.
const PAUSE: Duration = Duration::from_millis(50);
/// How long somebody may take to be told that there is no place for them.
const FAREWELL: Duration = Duration::from_millis(100);

/// The configured token, and where all others are looked up.
pub type Tokens = (Option<SecretString>, Arc<Keyring>);

/// Serves the port at `listen` until `stop` fires; then what is under way has a few seconds to end.
///
/// # Errors
/// When the address can't be listened on, or lies beyond loopback and there is no token.
pub async fn serve(
    listen: SocketAddr,
    tokens: Tokens,
    doors: Doors,
    stop: CancellationToken,
) -> anyhow::Result<Serving> {
    serve_within(Limits::default(), listen, tokens, doors, stop).await
}

/// As [`serve`], within other limits.
///
/// # Errors
/// As [`serve`].
pub async fn serve_within(
    limits: Limits,
    listen: SocketAddr,
    tokens: Tokens,
    doors: Doors,
    stop: CancellationToken,
) -> anyhow::Result<Serving> {
    let (token, keyring) = tokens;
    let access = Access::of("the Redis port", listen, token.as_ref())?.with(keyring);
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("the Redis port can't listen on {listen}; choose another address ([resp] listen), or end the program that holds it"))?;
    let addr = listener.local_addr()?;
    let port = Arc::new(Port {
        limits,
        access,
        doors,
        large: Semaphore::new(LARGE_AT_ONCE),
        clients: AtomicU64::new(0),
        stop,
    });
    let task = tokio::spawn(accept(listener, port));
    Ok(Serving { addr, task })
}

async fn accept(listener: TcpListener, port: Arc<Port>) {
    let links = TaskTracker::new();
    let places = Arc::new(Semaphore::new(port.limits.connections));
    loop {
        let next = tokio::select! {
            () = port.stop.cancelled() => break,
            next = listener.accept() => next,
        };
        let Ok((stream, _)) = next else {
            // out of descriptors, or the peer is gone already: others may still be answered
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            turn_away(stream).await;
            continue;
        };
        let number = port.clients.fetch_add(1, Ordering::Relaxed) + 1;
        let port = port.clone();
        links.spawn(async move {
            link::serve(stream, number, &port).await;
            drop(place);
        });
    }
    drop(listener);
    links.close();
    links.wait().await;
}

async fn turn_away(mut stream: TcpStream) {
    let told = stream.write_all(b"-ERR max number of clients reached\r\n");
    // who doesn't listen isn't waited for
    let _ = tokio::time::timeout(FAREWELL, told).await;
}
