//! Fetching a caller's file: from this machine only. Of any other address only the URL is noted.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_util::io::ReaderStream;
use url::{Host, Url};

use super::super::spool::{Spool, Spooled};

/// Bytes of a video, the largest file that is fetched.
const MOST: u64 = 300 * 1024 * 1024;
/// How long a fetch may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes of an answer's head.
const HEAD: u64 = 64 * 1024;

/// What came of it.
pub(super) enum Fetched {
    /// The file.
    File(Arc<Spooled>),
    /// The address isn't on this machine: the sandbox never calls anything outside.
    Noted,
    /// It isn't there.
    Failed(String),
}

/// Fetches a file by plain HTTP from the loopback interface, without following redirects.
pub(super) async fn fetch(url: &str, spool: &Spool) -> Fetched {
    let Ok(url) = Url::parse(url) else {
        return Fetched::Failed("the URL can't be read".into());
    };
    if !matches!(url.scheme(), "http" | "https") {
        return Fetched::Failed(format!("{} is no scheme for media", url.scheme()));
    }
    let here = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if !here || url.scheme() == "https" {
        return Fetched::Noted;
    }
    match tokio::time::timeout(PATIENCE, get(&url, spool)).await {
        Ok(Ok(file)) => Fetched::File(file),
        Ok(Err(why)) => Fetched::Failed(why),
        Err(_) => Fetched::Failed("it took too long".into()),
    }
}

async fn get(url: &Url, spool: &Spool) -> Result<Arc<Spooled>, String> {
    let told = |error: std::io::Error| error.to_string();
    let port = url.port_or_known_default().unwrap_or(80);
    let host = match url.host() {
        Some(Host::Ipv6(ip)) => ip.to_string(),
        Some(Host::Ipv4(ip)) => ip.to_string(),
        // no resolver has a say in what is local
        _ => "127.0.0.1".to_owned(),
    };
    let mut stream = TcpStream::connect((host, port)).await.map_err(told)?;
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
    // HTTP/1.0: the body is never chunked
    let ask = format!(
        "GET {path} HTTP/1.0\r\nHost: {authority}\r\nUser-Agent: facebookexternalhit/1.1\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(ask.as_bytes()).await.map_err(told)?;
    let mut head = BufReader::new(stream).take(HEAD);
    let mut line = String::new();
    head.read_line(&mut line).await.map_err(told)?;
    let status = line
        .split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    if status != "200" {
        return Err(format!("it was answered with {status}"));
    }
    let mut length = None;
    loop {
        line.clear();
        let read = head.read_line(&mut line).await.map_err(told)?;
        if read == 0 {
            return Err("the answer ends in its head".into());
        }
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse::<u64>().ok();
        }
    }
    let body = head
        .into_inner()
        .take(length.unwrap_or(u64::MAX).min(MOST + 1));
    let body = Body::from_stream(ReaderStream::with_capacity(body, 64 * 1024));
    let file = spool
        .receive(body)
        .await
        .map_err(|why| format!("{why:?}"))?;
    if file.cut || length.is_some_and(|length| length != file.bytes) {
        return Err("the file is not whole".into());
    }
    Ok(Arc::new(file))
}
