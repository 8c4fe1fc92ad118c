//! Two gigabytes in little memory: into a store that swallows everything, and answers as S3 does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::rig::{MIB, Rig};

/// Reads requests and forgets them; counts the bytes of their bodies.
async fn swallow(socket: TcpStream, swallowed: Arc<AtomicU64>) -> std::io::Result<()> {
    let mut socket = BufReader::with_capacity(256 << 10, socket);
    loop {
        let (mut head, mut line) = (String::new(), String::new());
        while socket.read_line(&mut line).await? != 0 && line != "\r\n" {
            head.push_str(&std::mem::take(&mut line).to_lowercase());
        }
        if head.is_empty() {
            return Ok(());
        }
        let size = head.split("content-length: ").nth(1);
        let size = size.and_then(|it| it.lines().next()?.trim().parse::<u64>().ok());
        let mut body = (&mut socket).take(size.unwrap_or(0));
        let taken = tokio::io::copy(&mut body, &mut tokio::io::sink()).await?;
        swallowed.fetch_add(taken, Ordering::Relaxed);
        let (status, body) = match head.split(' ').next().unwrap_or_default() {
            "head" => ("404 Not Found", ""),
            "post" if head.contains("uploads=") => (
                "200 OK",
                "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>",
            ),
            "post" => (
                "200 OK",
                "<CompleteMultipartUploadResult><ETag>\"e\"</ETag></CompleteMultipartUploadResult>",
            ),
            _ => ("200 OK", ""),
        };
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status}\r\netag: \"e\"\r\ncontent-length: {length}\r\n\r\n{body}");
        socket.get_mut().write_all(answer.as_bytes()).await?;
    }
}

/// The most memory that a process has had resident, in bytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|it| it.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn two_gigabytes_are_uploaded_in_little_memory() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let swallowed = Arc::new(AtomicU64::new(0));
    let counted = swallowed.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(swallow(socket, counted.clone()));
        }
    });
    let rig = Rig::new(&url, ("an-id-of-nobody", "a-secret-of-nobody"), "").await;
    let small = rig.file(40 * MIB, 50).await;
    let large = rig.file(2 << 30, 51).await;
    let daemon = rig.run();
    rig.done(rig.enqueue("films", &small, "small", json!({})).await)
        .await;
    let least = peak(daemon.pid());
    let before = swallowed.load(Ordering::Relaxed);
    let told = rig
        .done(rig.enqueue("films", &large, "large", json!({})).await)
        .await;
    assert_eq!(told["sha256"], large.media.0.hex());
    assert!(2 << 30 <= swallowed.load(Ordering::Relaxed) - before);
    let more = peak(daemon.pid()) - least;
    println!("2 GB uploaded with {} KiB more", more >> 10);
    assert!(more <= 64 << 20, "{more} bytes more were resident");
}
