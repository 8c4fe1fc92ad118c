//! Who may ask, how much, for how long; and how it ends.

use std::time::Duration;

use presswork::api::keyring::Keyring;
use presswork::api::{Limits, State, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kit::wait;
use crate::site::{SOON, Site, TOKEN, Wishes, read, site};

const ENVELOPE: &str = r#"{"kind":"test.echo","key":"k","payload":{"text":"a"}}"#;
const SHORT: Duration = Duration::from_millis(200);

fn limited(limits: Limits) -> Wishes {
    Wishes {
        limits,
        ..Wishes::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_guards_all_but_the_probes() {
    let site = Site::new(Wishes {
        token: Some(TOKEN),
        ..Wishes::default()
    })
    .await;
    let ask = async |path: &str, authorization: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nhost: anything.example\r\n{authorization}\r\n");
        site.raw(head.as_bytes()).await
    };
    for path in [
        "/metrics",
        "/v1/jobs/7",
        "/v1/jobs",
        "/nowhere",
        "/readyz/",
        "/livez/../metrics",
    ] {
        for authorization in [
            "",
            "authorization: Bearer nonsense\r\n",
            "authorization: Basic eA==\r\n",
        ] {
            let reply = ask(path, authorization).await;
            assert_eq!(
                (reply.status, reply.problem().as_str()),
                (401, "unauthorised"),
                "{path}"
            );
            assert!(reply.header("www-authenticate").starts_with("Bearer "));
            assert!(!reply.text.contains(TOKEN));
        }
    }
    let right = format!("authorization: Bearer {TOKEN}\r\n");
    assert_eq!(ask("/metrics", &right).await.status, 200);
    assert_eq!(ask("/nowhere", &right).await.status, 404);
    assert_eq!(ask("/livez", "").await.status, 200);
    assert_eq!(ask("/readyz", "").await.status, 200);
    let headers = format!("content-type: application/json\r\n{right}");
    assert_eq!(site.post(ENVELOPE).await.status, 401);
    let taken = site
        .post_with("/v1/jobs", &headers, ENVELOPE.as_bytes())
        .await;
    assert_eq!(taken.status, 201, "{taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_only_a_local_name_is_answered() {
    let site = site().await;
    let ask = async |head: &str| site.raw(format!("{head}\r\n").as_bytes()).await;
    for head in [
        "GET /metrics HTTP/1.1\r\nhost: evil.example\r\n",
        "GET /metrics HTTP/1.1\r\n",
        "GET http://evil.example/metrics HTTP/1.1\r\nhost: localhost\r\n",
        "POST /v1/jobs/7/cancel HTTP/1.1\r\nhost: localhost\r\norigin: http://evil.example\r\n",
    ] {
        assert_eq!(ask(head).await.status, 403, "{head}");
    }
    let port = site.addr.port();
    for host in [
        "localhost".to_owned(),
        format!("127.0.0.1:{port}"),
        format!("[::1]:{port}"),
    ] {
        let reply = ask(&format!("GET /metrics HTTP/1.1\r\nhost: {host}\r\n")).await;
        assert_eq!(reply.status, 200, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_listens_beyond_loopback_only_with_a_token_and_says_when_a_port_is_taken() {
    let site = site().await;
    let state = || State {
        doors: site.doors.clone(),
        shared: site.shared.clone(),
        ledger: site.ledger.clone(),
        keyring: Keyring::new(site.ledger.clone()).into(),
        render: std::sync::Arc::new(String::new),
    };
    let stop = || site.stop.clone();
    let all = "0.0.0.0:0".parse().unwrap();
    let refused = serve(all, None, state(), stop())
        .await
        .err()
        .expect("it is refused");
    assert!(
        refused.to_string().contains("without a token"),
        "{refused:#}"
    );
    assert!(
        serve(all, Some(TOKEN.into()), state(), stop())
            .await
            .is_ok()
    );
    let taken = serve(site.addr, None, state(), stop())
        .await
        .err()
        .expect("it is taken");
    assert!(
        taken.to_string().contains("can't listen on 127.0.0.1"),
        "{taken:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_comes_too_slowly_is_not_waited_for() {
    let site = Site::new(limited(Limits {
        head: SHORT,
        ..Limits::default()
    }))
    .await;
    for sent in ["", "GET /livez HTTP/1.1\r\nhost: loc"] {
        let mut stream = site.connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "it still waits after {sent:?}");
        assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
    }
    // a connection that is kept after an answer isn't kept for ever
    let mut stream = site.connect().await;
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(read(&mut stream).await.unwrap().status, 200);
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "an idle connection is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_too_slowly_or_breaks_off_is_told_so() {
    let site = Site::new(limited(Limits {
        body: SHORT,
        ..Limits::default()
    }))
    .await;
    let head = "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let slow = site
        .raw(format!("{head}content-length: 99\r\n\r\n{{").as_bytes())
        .await;
    assert_eq!((slow.status, slow.problem().as_str()), (408, "slow-body"));
    let bad = site
        .raw(format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\n").as_bytes())
        .await;
    assert_eq!(bad.status, 400);
    assert_eq!(site.post(ENVELOPE).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_room_is_told_in_time_and_probes_need_none() {
    let limits = Limits {
        requests: 0,
        request: Duration::from_secs(1),
        ..Limits::default()
    };
    let site = Site::new(limited(limits)).await;
    let slow = site.post(ENVELOPE).await;
    assert_eq!((slow.status, slow.problem().as_str()), (503, "slow"));
    assert_eq!(slow.header("retry-after"), "2");
    assert_eq!(site.get("/livez").await.status, 200);
    assert_eq!(site.get("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_bound_wait_for_their_turn() {
    let site = Site::new(limited(Limits {
        connections: 1,
        ..Limits::default()
    }))
    .await;
    let mut first = site.connect().await;
    let ask = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";
    first.write_all(ask).await.unwrap();
    assert_eq!(read(&mut first).await.unwrap().status, 200);
    let mut second = site.connect().await;
    second.write_all(ask).await.unwrap();
    let early = tokio::time::timeout(SHORT, read(&mut second)).await;
    assert!(early.is_err(), "two at once");
    drop(first);
    assert_eq!(read(&mut second).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_an_answer_that_tells_nothing_of_the_inside() {
    let site = Site::new(Wishes {
        metrics_panic: true,
        ..Wishes::default()
    })
    .await;
    let mut stream = site.connect().await;
    for _ in 0..2 {
        // the same connection goes on
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .unwrap();
        let reply = read(&mut stream).await.unwrap();
        assert_eq!((reply.status, reply.problem().as_str()), (500, "defect"));
        assert!(
            !reply.text.contains("as asked") && !reply.text.contains(".rs"),
            "{reply:?}"
        );
    }
    assert_eq!(site.post(ENVELOPE).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_what_is_open_and_takes_nothing_new() {
    let site = site().await;
    let mut idle = site.connect().await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(read(&mut idle).await.unwrap().status, 200);
    let mut open = site.connect().await;
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        ENVELOPE.len()
    );
    open.write_all(head.as_bytes()).await.unwrap();
    let mut asked = [0; 25];
    open.read_exact(&mut asked).await.unwrap();
    assert_eq!(
        &asked, b"HTTP/1.1 100 Continue\r\n\r\n",
        "its handler reads the body"
    );
    site.stop.cancel();
    wait::until("the port is closed", SOON, async || {
        TcpStream::connect(site.addr).await.is_err()
    })
    .await;
    assert!(read(&mut idle).await.is_none(), "an idle connection ends");
    assert!(!site.task.is_finished(), "the open request is waited for");
    open.write_all(ENVELOPE.as_bytes()).await.unwrap();
    assert_eq!(read(&mut open).await.unwrap().status, 201);
    tokio::time::timeout(SOON, site.task)
        .await
        .expect("the server ends")
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_will_not_end_does_not_hold_the_stop_up() {
    let site = Site::new(limited(Limits {
        stop: SHORT,
        ..Limits::default()
    }))
    .await;
    let mut open = site.connect().await;
    let head = b"POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n";
    open.write_all(head).await.unwrap();
    let mut asked = [0; 25];
    open.read_exact(&mut asked).await.unwrap();
    site.stop.cancel();
    tokio::time::timeout(SOON, site.task)
        .await
        .expect("the server ends")
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_sends_and_never_reads_is_not_kept() {
    let limits = Limits {
        age: SHORT,
        stop: SHORT,
        ..Limits::default()
    };
    let site = Site::new(limited(limits)).await;
    let mut stream = site.connect().await;
    let ask = "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(1_000);
    let sending = async { while stream.write_all(ask.as_bytes()).await.is_ok() {} };
    let ended = tokio::time::timeout(SOON, sending).await;
    assert!(ended.is_ok(), "it is still connected");
}
