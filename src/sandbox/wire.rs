//! The sockets: an accept loop of its own, so that a request can ask for its connection to be reset or cut.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tower::ServiceExt;

/// Connections served at once; more wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 4096;

/// How the connection of a request shall end; a handler finds it among the request's extensions.
#[derive(Clone, Debug, Default)]
pub(super) struct Wire(Arc<AtomicU8>);

const OPEN: u8 = 0;
const CLOSE: u8 = 1;
const RESET: u8 = 2;

impl Wire {
    /// Instead of the next byte of an answer the peer sees the end of the stream.
    pub(super) fn close(&self) {
        self.0.store(CLOSE, Ordering::Release);
    }

    /// Instead of the next byte of an answer the peer sees a TCP reset.
    pub(super) fn reset(&self) {
        self.0.store(RESET, Ordering::Release);
    }
}

/// Serves until it is dropped, and with it every connection.
pub(super) async fn accept(listener: TcpListener, router: Router) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors: let some connection end before the next try.
                    tracing::warn!(%error, "the sandbox could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        connections.spawn(serve(stream, router.clone()));
    }
}

async fn serve(stream: TcpStream, router: Router) {
    let wire = Wire::default();
    // A delayed small packet only makes tests slow.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(Line {
        stream,
        wire: wire.clone(),
    });
    let service =
        hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let router = router.clone();
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(wire.clone());
            async move {
                Ok::<_, Infallible>(
                    router
                        .oneshot(request)
                        .await
                        .unwrap_or_else(|never| match never {}),
                )
            }
        });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(60));
    if let Err(error) = http.serve_connection(io, service).await {
        tracing::debug!(%error, "a connection of the sandbox ended");
    }
}

/// A TCP stream that obeys its [`Wire`].
struct Line {
    stream: TcpStream,
    wire: Wire,
}

impl Line {
    fn check(&self) -> io::Result<()> {
        match self.wire.0.load(Ordering::Acquire) {
            OPEN => Ok(()),
            RESET => {
                // With zero linger the kernel answers the drop of the socket with RST.
                self.stream.set_zero_linger()?;
                Err(io::Error::new(
                    io::ErrorKind::ConnectionReset,
                    "reset on request",
                ))
            }
            _ => Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "closed on request",
            )),
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
