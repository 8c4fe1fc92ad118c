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
mod commands;
pub mod session;
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
use crate::engine::doors::Doors;

/// How much the port takes at once, and for how long.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A client has shown the token by then.
    pub auth: Duration,
    /// A command that has begun is whole by then, and a transaction ended.
    pub command: Duration,
    /// A command is answered by then.
    pub answer: Duration,
    /// A client that doesn't read its answers is waited for so long.
    pub write: Duration,
    /// A client that says nothing is kept so long.
    pub idle: Duration,
    /// What is under way has this long to end when the server stops.
    pub stop: Duration,
    /// Connections at once; more are told so and closed.
    pub connections: usize,
    /// Commands that are read at once of what a client sent ahead, and the bytes of them.
    pub ahead: (usize, usize),
    /// Bytes of answers that wait for a client: with more nothing further is read from it.
    pub unread: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            auth: Duration::from_secs(10),
            command: Duration::from_secs(30),
            answer: Duration::from_secs(30),
            write: Duration::from_secs(30),
            idle: Duration::from_secs(900),
            stop: Duration::from_secs(5),
            connections: 1_024,
            ahead: (1_000, 1 << 20),
            unread: 256 << 10,
        }
    }
}

/// What the connections share.
struct Port {
    limits: Limits,
    access: Access,
    doors: Doors,
    /// Places for more than an envelope's bytes of a command or a transaction that isn't whole.
    large: Semaphore,
    clients: AtomicU64,
    stop: CancellationToken,
}

/// Between two tries to accept when the system refuses.
const PAUSE: Duration = Duration::from_millis(50);
/// How long somebody may take to be told that there is no place for them.
const FAREWELL: Duration = Duration::from_millis(100);

/// Serves the port at `listen` until `stop` fires; then what is under way has a few seconds to end.
///
/// # Errors
/// When the address can't be listened on, or lies beyond loopback and there is no token.
pub async fn serve(
    listen: SocketAddr,
    token: Option<SecretString>,
    doors: Doors,
    stop: CancellationToken,
) -> anyhow::Result<Serving> {
    serve_within(Limits::default(), listen, token, doors, stop).await
}

/// As [`serve`], within other limits.
///
/// # Errors
/// As [`serve`].
pub async fn serve_within(
    limits: Limits,
    listen: SocketAddr,
    token: Option<SecretString>,
    doors: Doors,
    stop: CancellationToken,
) -> anyhow::Result<Serving> {
    let access = Access::of("the Redis port", listen, token.as_ref())?;
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
