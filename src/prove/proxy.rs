//! A TCP proxy between a daemon and a store, which resets or swallows on request.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// What it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rules {
    /// Swallows all that comes, in both directions, and answers nothing.
    hole: bool,
    /// Connections of earlier eras are reset.
    era: u64,
}

/// A proxy; it ends with this value.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub addr: SocketAddr,
    rules: watch::Sender<Rules>,
    task: AbortHandle,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// In front of a port of the loopback address.
    ///
    /// # Errors
    /// When it can't listen.
    pub async fn before(port: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let (rules, seen) = watch::channel(Rules::default());
        let task = tokio::spawn(accept(listener, port, seen)).abort_handle();
        Ok(Self { addr, rules, task })
    }

    /// Resets what is open; new connections pass.
    pub fn cut(&self) {
        self.rules.send_modify(|it| it.era += 1);
    }

    /// Swallows everything, or lets it pass again; what was swallowed is missing, so that its
    /// connections are reset then.
    pub fn hole(&self, hole: bool) {
        self.rules.send_modify(|it| {
            it.hole = hole;
            it.era += u64::from(!hole);
        });
    }
}

async fn accept(listener: TcpListener, port: u16, rules: watch::Receiver<Rules>) {
    // dropped with this task, and with it every connection
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => drop(connections.spawn(serve(client, port, rules.clone()))),
                // out of descriptors: some connection ends before the next try
                Err(_) => tokio::task::yield_now().await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(mut client: TcpStream, port: u16, mut rules: watch::Receiver<Rules>) {
    let era = rules.borrow_and_update().era;
    let over = {
        let mut rules = rules.clone();
        async move {
            // an error is the proxy's own end
            let _ = rules.wait_for(|it| it.era != era).await;
        }
    };
    let pass = async {
        if rules.wait_for(|it| !it.hole).await.is_err() {
            return;
        }
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else {
            return;
        };
        for stream in [&client, &server] {
            // it can only fail on a connection that is broken, which the first read shows
            let _ = stream.set_nodelay(true);
        }
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        tokio::join!(
            pump(&mut from_client, &mut to_server, rules.clone()),
            pump(&mut from_server, &mut to_client, rules.clone()),
        );
    };
    tokio::select! {
        () = pass => {}
        () = over => {}
    }
    // with zero linger the kernel answers the drop of the socket with a reset
    let _ = client.set_zero_linger();
}

/// Passes what comes on, until its end; in a hole what comes is gone, an end included.
async fn pump(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
    to: &mut (impl tokio::io::AsyncWrite + Unpin),
    mut rules: watch::Receiver<Rules>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await;
        let hole = rules.borrow().hole;
        match read {
            Ok(0) | Err(_) if hole => {
                let _ = rules.wait_for(|it| !it.hole).await;
                return;
            }
            Ok(0) | Err(_) => {
                let _ = to.shutdown().await;
                return;
            }
            Ok(_) if hole => {}
            // a side that is gone shows at the next read from it
            Ok(n) => drop(to.write_all(&buffer[..n]).await),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn echo() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        port
    }

    async fn ask(stream: &mut TcpStream) -> std::io::Result<u8> {
        stream.write_all(b"x").await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn it_passes_cuts_and_swallows() {
        let proxy = Proxy::before(echo().await).await.unwrap();
        let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
        assert_eq!(ask(&mut stream).await.unwrap(), b'x');
        proxy.cut();
        assert!(ask(&mut stream).await.is_err());
        let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
        assert_eq!(ask(&mut stream).await.unwrap(), b'x');
        proxy.hole(true);
        let swallowed = tokio::time::timeout(Duration::from_millis(50), ask(&mut stream));
        assert!(swallowed.await.is_err(), "nothing comes out of a hole");
        proxy.hole(false);
        assert!(stream.read_u8().await.is_err(), "nor what was swallowed");
        let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
        assert_eq!(ask(&mut stream).await.unwrap(), b'x');
    }
}
