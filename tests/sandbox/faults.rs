//! Every fault does what its name says, the log holds the truth, and a restart remembers it.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::bench::*;
use crate::wait;

#[tokio::test]
async fn faults_that_answer_say_what_they_are() {
    let bench = Bench::new().await;
    for (fault, status, acted) in [
        ("refuse", 422, 0),
        ("401", 401, 0),
        ("403", 403, 0),
        ("404", 404, 0),
        ("429", 429, 0),
        ("500", 500, 0),
        ("503", 503, 0),
        ("act_500", 500, 1),
        ("act_503", 503, 1),
        ("act_504", 504, 1),
        ("redirect", 302, 0),
        ("empty", 200, 0),
        ("lie", 200, 0),
        ("act_lie", 200, 1),
        ("slow", 200, 1),
    ] {
        let words = format!("Hi [[fault:{fault} delay_ms=1]]");
        let answer = bench.toot(&words, fault).await.expect("an answer");
        assert_eq!(answer.status(), status, "{fault}");
        if fault == "429" {
            assert_eq!(answer.headers()["retry-after"], "1");
            assert_eq!(answer.headers()["x-ratelimit-remaining"], "0");
        }
        if fault == "redirect" {
            assert_eq!(answer.headers()["location"], "http://169.254.169.254/");
        }
        let body = answer.bytes().await.expect("a body");
        let readable = serde_json::from_slice::<Value>(&body).is_ok();
        assert_eq!(
            readable,
            !["empty", "lie", "act_lie", "redirect"].contains(&fault),
            "{fault}"
        );
        let key = format!("op=status.create&key={fault}");
        assert_eq!(bench.acts(&key).await.len(), acted, "{fault}");
        assert_eq!(
            bench.toot(&words, fault).await.expect("an answer").status(),
            200,
            "{fault} is played once"
        );
        assert_eq!(bench.acts(&key).await.len(), 1, "{fault}");
    }
    let (_, seen) = bench.get("/_sandbox/requests?key=act_504", "").await;
    assert_eq!(
        (&seen[0]["fault"], &seen[0]["status"]),
        (&json!("act_504"), &json!(504))
    );
    assert_eq!(
        (&seen[1]["fault"], &seen[1]["status"]),
        (&Value::Null, &json!(200))
    );
    let wall = bench
        .client
        .get(bench.sandbox.url())
        .send()
        .await
        .expect("the wall")
        .text()
        .await
        .expect("text");
    assert!(
        wall.contains("act_504") && !wall.contains("[[fault"),
        "{wall}"
    );
}

#[tokio::test]
async fn faults_that_break_the_connection_leave_the_truth_in_the_log() {
    let bench = Bench::new().await;
    for (fault, acted) in [
        ("reset", 0),
        ("act_reset", 1),
        ("truncate", 0),
        ("act_truncate", 1),
    ] {
        let whole = async {
            bench
                .toot(&format!("[[fault:{fault}]]"), fault)
                .await?
                .bytes()
                .await
        };
        let error = whole.await.expect_err(fault);
        assert!(!error.is_timeout(), "{fault}: {error:?}");
        assert_eq!(
            bench
                .acts(&format!("op=status.create&key={fault}"))
                .await
                .len(),
            acted,
            "{fault}"
        );
    }
    let (_, seen) = bench.get("/_sandbox/requests?key=act_reset", "").await;
    assert_eq!(seen[0]["status"], "none");
    for (fault, acted) in [("hang", 0), ("act_hang", 1)] {
        let words = format!("[[fault:{fault}]]");
        let played = async {
            let key = format!("op=status.create&key={fault}");
            let look = async || {
                let requests = format!("/_sandbox/requests?key={fault}");
                let (_, seen) = bench.get(&requests, "").await;
                (seen[0].clone(), bench.acts(&key).await.len())
            };
            wait::until(
                "the fault to be played",
                Duration::from_secs(10),
                async || {
                    let (seen, acts) = look().await;
                    seen["fault"] == fault && acts >= acted
                },
            )
            .await;
            let (seen, acts) = look().await;
            (seen["status"].clone(), acts)
        };
        tokio::select! {
            answer = bench.toot(&words, fault) => panic!("{fault} must not end: {answer:?}"),
            state = played => assert_eq!(state, (json!("none"), acted), "{fault}"),
        }
    }
}

#[tokio::test]
async fn a_reset_is_a_real_one_and_a_cut_body_began_well() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let bench = Bench::new().await;
    let raw = async |fault: &str| {
        let mut stream = tokio::net::TcpStream::connect(bench.sandbox.addr())
            .await
            .expect("connects");
        let body = json!({"status": format!("[[fault:{fault}]]")}).to_string();
        let head = "POST /mastodon/api/v1/statuses HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sandbox-alice\r\nContent-Type: application/json\r\n";
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer))
            .await
            .expect("ends");
        (
            end.map_err(|error| error.kind()),
            String::from_utf8_lossy(&answer).into_owned(),
        )
    };
    assert_eq!(
        raw("act_reset").await,
        (Err(std::io::ErrorKind::ConnectionReset), String::new())
    );
    assert_eq!(raw("act_late delay_ms=1").await, (Ok(0), String::new()));
    let (_, answer) = raw("act_truncate").await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let promised = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .expect("a length");
    assert!(
        head.starts_with("HTTP/1.1 200") && !body.is_empty(),
        "{answer}"
    );
    assert!(promised.parse::<usize>().expect("a number") > body.len());
}

#[tokio::test]
async fn faults_of_size_and_time() {
    let bench = Bench::new().await;
    let mut huge = bench
        .toot("[[fault:huge]]", "huge")
        .await
        .expect("an answer");
    let mut read = 0;
    while let Some(chunk) = huge.chunk().await.expect("a chunk") {
        read += chunk.len();
    }
    assert!(read > 200 * 1024 * 1024, "{read}");
    let mut drip = bench
        .toot("[[fault:drip]]", "drip")
        .await
        .expect("an answer");
    assert_eq!(
        drip.chunk()
            .await
            .expect("a chunk")
            .map(|chunk| chunk.len()),
        Some(1)
    );
    assert_eq!(bench.acts("op=status.create&key=drip").await.len(), 1);

    bench
        .toot("[[fault:act_late delay_ms=1500]]", "late")
        .await
        .expect_err("closed");
    assert!(
        bench.acts("op=status.create&key=late").await.is_empty(),
        "not yet"
    );
    wait::until("the late act", Duration::from_secs(10), async || {
        !bench.acts("op=status.create&key=late").await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn faults_are_scripted_for_any_platform() {
    let bench = Bench::new().await;
    bench.script(json!({"platform": "openai", "op": "chat.completion", "contains": "cat", "fault": "429", "retry_after_s": 7, "date": true})).await;
    bench
        .script(json!({"platform": "bluesky", "op": "putRecord", "fault": "act_500", "after": 1}))
        .await;
    assert_eq!(
        bench.post(CHAT, "sandbox-alice", chat("a dog")).await.0,
        200
    );
    let limited = bench
        .call(Method::POST, CHAT, "sandbox-alice")
        .json(&chat("a cat"))
        .send()
        .await
        .expect("an answer");
    assert!(
        limited.headers()["retry-after"]
            .to_str()
            .expect("text")
            .ends_with(" GMT")
    );
    assert_eq!(limited.headers()["x-ratelimit-remaining-requests"], "0");
    assert_eq!(
        read(limited).await.1["error"]["code"],
        "rate_limit_exceeded"
    );
    let (token, did) = bench.login().await;
    for (rkey, status) in [(TID, 200), ("3jzfcijpj2z2b", 500), ("3jzfcijpj2z2b", 200)] {
        let body = json!({"repo": did, "collection": "app.bsky.feed.post", "rkey": rkey, "record": record("x"), "swapRecord": null});
        let (given, told) = bench.post(PUT, &token, body).await;
        assert_eq!(given, status, "{told}");
    }
    assert_eq!(bench.acts("op=putRecord").await.len(), 2);
    let (status, told) = bench
        .post("/_sandbox/faults", "", json!({"fault": "oops"}))
        .await;
    assert!(
        status == 422 && text(&told["error"]).contains("act_reset"),
        "{told}"
    );
    bench.script(json!({"fault": "500"})).await;
    let dropped = bench
        .call(Method::DELETE, "/_sandbox/faults", "")
        .send()
        .await
        .expect("an answer");
    assert_eq!(read(dropped).await.1["dropped"], 1);
}

#[tokio::test]
async fn a_restart_remembers_and_a_reset_forgets() {
    let bench = Bench::new().await;
    let (_, media) = bench.upload("image/png", PNG, "a cat").await;
    let (_, toot) = read(bench.toot("hello", "k").await.expect("an answer")).await;
    let (token, did) = bench.login().await;
    let body = json!({"repo": did, "collection": "app.bsky.feed.post", "rkey": TID, "record": record("x"), "swapRecord": null});
    let (_, put) = bench.post(PUT, &token, body.clone()).await;
    let mut stored = chat("a cat");
    stored["store"] = json!(true);
    let (_, made) = bench.post(CHAT, "sandbox-alice", stored).await;
    let before = bench.acts("").await;

    let bench = bench.restart().await;
    assert_eq!(bench.acts("").await, before);
    assert_eq!(
        read(bench.toot("hello", "k").await.expect("an answer"))
            .await
            .1["id"],
        toot["id"]
    );
    assert_eq!(
        bench.post(PUT, &token, body).await.1["cid"],
        put["cid"],
        "the session lives on, too"
    );
    assert_eq!(
        bench.get(CHAT, "sandbox-alice").await.1["data"][0]["id"],
        made["id"]
    );
    let with_media = json!({"status": "x", "media_ids": [media["id"]]});
    assert_eq!(
        bench
            .post("/mastodon/api/v1/statuses", "sandbox-alice", with_media)
            .await
            .0,
        200
    );
    assert_eq!(bench.acts("").await.len(), before.len() + 1);
    let digest = text(&before[0]["media"][0]["digest"]);
    let file = bench
        .client
        .get(format!("{}/media/{digest}", bench.sandbox.url()))
        .send()
        .await
        .expect("a file");
    assert_eq!(file.bytes().await.expect("bytes"), PNG);

    bench.post("/_sandbox/reset", "", json!({})).await;
    assert!(bench.acts("").await.is_empty());
    assert_eq!(
        std::fs::read(bench.dir.path().join("acts.jsonl")).expect("the log"),
        b""
    );
}

#[tokio::test]
async fn a_seed_breaks_requests_but_never_the_log() {
    let bench = Bench::new().await;
    let dir = tempfile::tempdir().expect("a directory");
    let sandbox = start(dir.path(), Some(7), 0.5).await;
    let url = format!("{}/mastodon/api/v1/statuses", sandbox.url());
    let mut tries = 0;
    for n in 0..20 {
        loop {
            tries += 1;
            assert!(tries < 1000, "it never gets through");
            let call = bench
                .client
                .post(&url)
                .bearer_auth("sandbox-alice")
                .header("Idempotency-Key", format!("k{n}"));
            let call = call
                .timeout(Duration::from_millis(500))
                .json(&json!({"status": format!("post {n}")}));
            let Ok(answer) = call.send().await else {
                continue;
            };
            if answer.status() == 200
                && answer
                    .json::<Value>()
                    .await
                    .is_ok_and(|made| made["id"].is_string())
            {
                break;
            }
        }
    }
    assert!(tries > 20, "half of the requests should have been bent");
    let acts = bench
        .client
        .get(format!("{}/_sandbox/acts?op=status.create", sandbox.url()))
        .send()
        .await;
    let acts: Vec<Value> = acts.expect("an answer").json().await.expect("a list");
    let mut keys: Vec<_> = acts.iter().map(|act| text(&act["key"])).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(
        (acts.len(), keys.len()),
        (20, 20),
        "each key was published once"
    );
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_posts_at_once_are_all_on_disk() {
    let bench = Bench::new().await;
    let began = std::time::Instant::now();
    let posts = (0..400).map(|n| async move { n }).map(|n| async {
        let n = n.await;
        bench
            .toot(&format!("post {n}"), &format!("k{n}"))
            .await
            .map(|answer| answer.status())
    });
    for status in futures_util::future::join_all(posts).await {
        assert_eq!(status.expect("an answer"), 200);
    }
    assert!(
        began.elapsed() < Duration::from_secs(12),
        "below 2,000 posts a minute: {:?}",
        began.elapsed()
    );
    let log = std::fs::read_to_string(bench.dir.path().join("acts.jsonl")).expect("the log");
    let numbers: Vec<u64> = log
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).expect("an act")["n"]
                .as_u64()
                .expect("n")
        })
        .collect();
    assert_eq!(numbers, (1..=400).collect::<Vec<_>>());
}
