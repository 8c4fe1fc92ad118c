//! What the one client promises, against servers that misbehave.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A server that answers one connection with `bytes` and closes, or falls silent.
async fn server(bytes: Vec<u8>, close: bool) -> (Url, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut asked = vec![0; 65_536];
        let n = socket.read(&mut asked).await.unwrap();
        let _gone = socket.write_all(&bytes).await;
        if !close {
            std::future::pending::<()>().await;
        }
        String::from_utf8_lossy(&asked[..n]).into_owned()
    });
    let url = Url::parse(&format!("http://127.0.0.1:{port}/x")).unwrap();
    (url, task)
}

async fn asked(bytes: &[u8], close: bool) -> Result<Answer, Lost> {
    // far more than a busy machine takes
    asked_within(bytes, close, Duration::from_secs(30)).await
}

async fn asked_within(bytes: &[u8], close: bool, limit: Duration) -> Result<Answer, Lost> {
    let (url, _task) = server(bytes.to_vec(), close).await;
    let http = Http::new(Clock::System).unwrap();
    http.send(&Call::get(url, limit)).await
}

#[tokio::test]
async fn answers_are_bounded() {
    let answer = asked(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", true).await;
    assert_eq!(answer.unwrap().body, "{}");
    let e = asked(
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n{}",
        false,
    )
    .await;
    assert_eq!(e.unwrap_err().code, "too_large");
    let e = asked(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}", true).await;
    assert_eq!(e.unwrap_err().code, "reset");
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}";
    let e = asked_within(half, false, Duration::from_millis(500)).await;
    assert_eq!(e.unwrap_err().code, "timeout");
    let e = asked(b"", true).await.unwrap_err();
    assert!(e.sent && e.code == "reset", "{e:?}");
    let mut endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    endless.extend(vec![b'x'; BODY_MAX + 1]);
    assert_eq!(asked(&endless, false).await.unwrap_err().code, "too_large");
    let wide = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(HEADERS_MAX));
    assert_eq!(
        asked(wide.as_bytes(), false).await.unwrap_err().code,
        "too_large"
    );
}

/// On a fresh connection, and on one that was used before: there a client may think that nobody
/// read the request.
#[tokio::test]
async fn a_call_without_an_answer_is_made_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let server = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 65_536];
            while 0 < socket.read(&mut asked).await.unwrap_or(0) {
                // every second request is read, and the connection cut
                if counted.fetch_add(1, Ordering::SeqCst) % 2 == 1 {
                    break;
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                socket.write_all(answer).await.unwrap();
            }
        }
    });
    let url = Url::parse(&format!("http://127.0.0.1:{port}/x")).unwrap();
    let http = Http::new(Clock::System).unwrap();
    let wait = Duration::from_secs(20);
    let calls = || {
        let get = Call::get(url.clone(), wait);
        [get, Call::post(url.clone(), Body::Empty, wait)]
    };
    let fresh = calls().map(Call::fresh);
    let mut sent = 0;
    for call in calls().into_iter().chain(fresh) {
        for is_answered in [true, false] {
            sent += 1;
            let answer = http.send(&call).await;
            assert_eq!(answer.is_ok(), is_answered, "request {sent}");
            assert_eq!(seen.load(Ordering::SeqCst), sent, "it was sent again");
        }
    }
    server.abort();
}

#[tokio::test]
async fn a_redirect_is_an_answer() {
    let moved = b"HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(asked(moved, true).await.unwrap().status, 307);
}

#[tokio::test]
async fn nothing_was_sent_where_nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let url = Url::parse(&format!("http://127.0.0.1:{port}/")).unwrap();
    let http = Http::new(Clock::System).unwrap();
    let call = Call::post(url, Body::Json("{}".into()), Duration::from_secs(5));
    let e = http.send(&call).await.unwrap_err();
    assert!(!e.sent && e.code == "connect", "{e:?}");
}

#[tokio::test]
async fn a_form_goes_out_with_its_length_and_types() {
    let (url, task) = server(
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(),
        true,
    )
    .await;
    let file = Part {
        name: "file",
        file: Some(("a.png".into(), "image/png".into())),
        bytes: Bytes::from_static(b"PNG!"),
    };
    let alt = Part {
        name: "description",
        file: None,
        bytes: Bytes::from_static("ein Bär".as_bytes()),
    };
    let http = Http::new(Clock::System).unwrap();
    let token = SecretString::from("t0ken");
    let call = Call::post(
        url,
        Body::Multipart(vec![alt, file]),
        Duration::from_secs(5),
    );
    http.send(&call.bearer(&token).fresh()).await.unwrap();
    let sent = task.await.unwrap();
    assert!(sent.contains("authorization: Bearer t0ken"), "{sent}");
    assert!(sent.contains("content-length: "), "{sent}");
}

#[test]
fn a_path_goes_behind_the_bases_own() {
    let to = |base: &str, path: &str| below(&Url::parse(base).unwrap(), path).to_string();
    assert_eq!(to("https://a.example", "/v1/x"), "https://a.example/v1/x");
    assert_eq!(
        to("https://a.example/v1/", "/v1/x"),
        "https://a.example/v1/x"
    );
    assert_eq!(to("http://h:1/openai/", "/v1/x"), "http://h:1/openai/v1/x");
    assert_eq!(
        to("http://h:1/m?q=1#f", "/api/v1/x"),
        "http://h:1/m/api/v1/x"
    );
}

#[test]
fn what_is_kept_is_one_for_all_clones() {
    let http = Http::new(Clock::System).unwrap();
    let one = http.clone().kept::<Mutex<u32>>("a".into());
    *one.lock().unwrap() = 7;
    assert_eq!(*http.kept::<Mutex<u32>>("a".into()).lock().unwrap(), 7);
    assert_eq!(*http.kept::<Mutex<u32>>("b".into()).lock().unwrap(), 0);
}

#[tokio::test]
async fn a_stream_goes_out_with_its_length_and_says_why_it_broke_off() {
    use futures_util::StreamExt as _;
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec();
    let (url, task) = server(answer, true).await;
    let http = Http::new(Clock::System).unwrap();
    let whole = || futures_util::stream::iter([Ok(Bytes::from_static(b"abc"))]).boxed();
    let body = Body::Stream(3, Arc::new(whole));
    let call = Call::put(url, body, Duration::from_secs(5));
    http.send(&call.header("x-own", "1").fresh()).await.unwrap();
    let sent = task.await.unwrap();
    assert!(
        sent.starts_with("PUT /x ") && sent.contains("content-length: 3"),
        "{sent}"
    );
    assert!(
        sent.contains("x-own: 1") && !sent.contains("chunked"),
        "{sent}"
    );

    let (url, _task) = server(vec![], false).await;
    let broken = || {
        let gone = std::io::Error::other("the disk is gone");
        futures_util::stream::iter([Ok(Bytes::from_static(b"a")), Err(gone)]).boxed()
    };
    let body = Body::Stream(3, Arc::new(broken));
    let call = Call::put(url, body, Duration::from_secs(5));
    let e = http.send(&call.fresh()).await.unwrap_err();
    assert!(
        e.code == "source" && e.message.contains("the disk is gone"),
        "{e:?}"
    );
}
