//! The accept loop: connections within bounds, heads that must come in time, a graceful end.
//! (`axum::serve` sets no timer, so that its connections wait for a head for ever.)

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::guard::Limits;

/// The most bytes of a request's head.
const HEAD_MAX: usize = 64 * 1024;
/// Between two tries to accept when the system refuses.
const PAUSE: Duration = Duration::from_millis(50);

/// A server that listens.
pub struct Serving {
    /// Where: with the port that the system chose, if it was asked to.
    pub addr: SocketAddr,
    /// Ends when the server has stopped.
    pub task: JoinHandle<()>,
}

/// Listens, and answers by `router` until `stop` fires.
///
/// # Errors
/// When the address can't be listened on.
pub async fn listen(
    listen: SocketAddr,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) -> anyhow::Result<Serving> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("the API can't listen on {listen}; choose another address ([api] listen), or end the program that holds it"))?;
    let addr = listener.local_addr()?;
    let task = tokio::spawn(accept(listener, router, limits, stop));
    Ok(Serving { addr, task })
}

async fn accept(listener: TcpListener, router: Router, limits: Limits, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(limits.connections));
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let next = tokio::select! {
            () = stop.cancelled() => break,
            next = next => next,
        };
        let (Ok((stream, _)), Ok(place)) = next else {
            // out of descriptors, or the peer is gone already: others may still be answered
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (router, limits, stop) = (router.clone(), limits.clone(), stop.clone());
        connections.spawn(answer(stream, place, router, limits, stop));
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn answer(
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    // only a matter of speed
    let _ = stream.set_nodelay(true);
    let service =
        hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let router = router.clone();
            async move {
                let answered = router.oneshot(request.map(Body::new)).await;
                Ok::<_, Infallible>(answered.unwrap_or_else(|never| match never {}))
            }
        });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_MAX);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing(&stop, limits.age) => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(limits.stop, connection).await {
                Ok(ended) => ended,
                Err(_) => return tracing::debug!("api: a request that didn't end was cut off"),
            }
        }
    };
    if let Err(e) = ended {
        tracing::debug!("api: a connection ended: {e}");
    }
}

/// Comes when the server stops or the connection is too old.
async fn closing(stop: &CancellationToken, age: Duration) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(age) => {}
    }
}
