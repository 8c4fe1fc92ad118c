//! A server of a few lines: it answers each request's head with bytes, and keeps what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What a server was asked: the request's head.
pub type Asked = Arc<Mutex<Vec<String>>>;
/// What a server answers to a request's head; `None`: nothing, ever.
pub type Answers = Arc<dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync>;

pub fn answer(status: &str, headers: &str, body: &[u8]) -> Option<Vec<u8>> {
    let size = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {size}\r\n\r\n");
    Some([head.as_bytes(), body].concat())
}

async fn talk(mut socket: TcpStream, asked: Asked, answers: Answers) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read_buf(&mut head).await {
            Ok(n) if 0 < n => {}
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    asked.lock().unwrap().push(head.clone());
    match answers(&head) {
        Some(bytes) => drop(socket.write_all(&bytes).await),
        None => std::future::pending().await,
    }
}

pub fn serve(listener: TcpListener, answers: Answers) -> Asked {
    let asked = Asked::default();
    let told = asked.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(talk(socket, told.clone(), answers.clone()));
        }
    });
    asked
}

/// A server of its own, and where.
pub async fn server(
    answers: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> (SocketAddr, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    (at, serve(listener, Arc::new(answers)))
}

/// The path that a request's head asks for.
pub fn path(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or_default()
}
