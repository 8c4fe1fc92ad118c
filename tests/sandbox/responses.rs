//! OpenAI's responses in the background: begun, read, stopped, remembered; and their call-backs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::bench::*;
use crate::wait;

const ALICE: &str = "sandbox-alice";
const PATH: &str = "/openai/v1/responses";
const DEADLINE: Duration = Duration::from_secs(20);

impl Bench {
    async fn set(&self, settings: Value) {
        let (status, told) = self.post("/_sandbox/settings", "", settings).await;
        assert_eq!(status, 200, "{told}");
    }

    /// Begins a response; its id.
    async fn respond(&self, more: Value) -> String {
        let mut body = json!({"model": "gpt-5-mini", "input": "a fox", "background": true});
        let into = body.as_object_mut().expect("an object");
        into.extend(more.as_object().expect("an object").clone());
        let (status, told) = self.post(PATH, ALICE, body).await;
        assert_eq!(status, 200, "{told}");
        text(&told["id"])
    }

    async fn stands(&self, id: &str) -> Value {
        let (status, told) = self.get(&format!("{PATH}/{id}"), ALICE).await;
        assert_eq!(status, 200, "{told}");
        told
    }

    async fn calls(&self) -> Vec<Value> {
        let told = self.get("/_sandbox/calls", "").await.1;
        told.as_array().expect("a list").clone()
    }
}

#[tokio::test]
async fn a_response_is_worked_on_and_stays_readable() {
    let bench = Bench::new().await;
    bench.set(json!({"openai_work_ms": 100_000})).await;
    let (status, begun) = bench
        .post(
            PATH,
            ALICE,
            json!({"model": "gpt-5-mini", "input": "a fox", "background": true}),
        )
        .await;
    assert_eq!((status.as_u16(), &begun["status"]), (200, &json!("queued")));
    assert_eq!(begun["output"], json!([]));
    let id = text(&begun["id"]);
    let (missing, _) = bench.get(&format!("{PATH}/{id}"), "sandbox-bob").await;
    assert_eq!(missing, 404, "it is somebody else's");
    bench
        .post("/_sandbox/clock", "", json!({"advance_s": 50}))
        .await;
    let told = bench.stands(&id).await;
    assert_eq!(
        (&told["status"], &told["usage"]),
        (&json!("in_progress"), &Value::Null)
    );
    bench
        .post("/_sandbox/clock", "", json!({"advance_s": 50}))
        .await;
    let bench = bench.restart().await;
    bench
        .post("/_sandbox/clock", "", json!({"advance_s": 100}))
        .await;
    let told = bench.stands(&id).await;
    assert_eq!(told["status"], "completed");
    let message = &told["output"][1];
    assert_eq!(
        (&message["type"], &message["role"]),
        (&json!("message"), &json!("assistant"))
    );
    assert!(text(&message["content"][0]["text"]).contains("fox"));
    assert!(
        told["usage"]["output_tokens"]
            .as_u64()
            .is_some_and(|it| 0 < it)
    );
    assert_eq!(bench.acts("op=response.create").await.len(), 1);
}

#[tokio::test]
async fn a_response_is_stopped_once_and_only_in_the_background() {
    let bench = Bench::new().await;
    bench.set(json!({"openai_work_ms": 100_000})).await;
    let id = bench.respond(json!({})).await;
    for _ in 0..2 {
        let (status, told) = bench
            .post(&format!("{PATH}/{id}/cancel"), ALICE, json!({}))
            .await;
        assert_eq!(
            (status.as_u16(), &told["status"]),
            (200, &json!("cancelled"))
        );
    }
    assert_eq!(bench.acts("op=response.cancel").await.len(), 1);
    bench
        .post("/_sandbox/clock", "", json!({"advance_s": 200}))
        .await;
    assert_eq!(bench.stands(&id).await["status"], "cancelled");
    let bench = bench.restart().await;
    assert_eq!(bench.stands(&id).await["status"], "cancelled");
    let at_once = bench.respond(json!({"background": false})).await;
    assert_eq!(bench.stands(&at_once).await["status"], "completed");
    let path = format!("{PATH}/{at_once}/cancel");
    assert_eq!(bench.post(&path, ALICE, json!({})).await.0, 400);
    assert_eq!(
        bench
            .post(&format!("{PATH}/resp_x/cancel"), ALICE, json!({}))
            .await
            .0,
        404
    );
}

#[tokio::test]
async fn a_response_ends_as_asked_and_mistakes_are_refused() {
    let bench = Bench::new().await;
    for (ends, member) in [("failed", "error"), ("incomplete", "incomplete_details")] {
        bench
            .set(json!({"openai_work_ms": 0, "openai_work_ends": ends}))
            .await;
        let id = bench.respond(json!({})).await;
        let told = bench.stands(&id).await;
        assert_eq!(told["status"], ends);
        assert!(told[member].is_object(), "{told}");
    }
    bench.set(json!({"openai_work_ms": 0})).await;
    let cut = bench.respond(json!({"max_output_tokens": 16})).await;
    assert_eq!(bench.stands(&cut).await["status"], "incomplete");
    for wrong in [
        json!({"model": "gpt-5-mini", "input": "x", "seed": 1}),
        json!({"model": "gpt-5-mini"}),
    ] {
        let (status, told) = bench.post(PATH, ALICE, wrong).await;
        assert_eq!(
            (status.as_u16(), &told["error"]["type"]),
            (400, &json!("invalid_request_error"))
        );
    }
    let bare = bench
        .call(Method::POST, PATH, ALICE)
        .body("{}")
        .send()
        .await;
    assert_eq!(bare.expect("an answer").status(), 415);
}

/// Takes call-backs; what came, each whole.
async fn receiver(status: u16) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let taken: Arc<Mutex<Vec<String>>> = Arc::default();
    let into = taken.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = vec![];
            let mut chunk = [0; 4096];
            while !String::from_utf8_lossy(&bytes).contains("\"data\"") {
                match stream.read(&mut chunk).await {
                    Ok(n) if 0 < n => bytes.extend_from_slice(&chunk[..n]),
                    _ => break,
                }
            }
            into.lock()
                .expect("whole")
                .push(String::from_utf8_lossy(&bytes).into_owned());
            let answer =
                format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, taken)
}

#[tokio::test]
async fn call_backs_are_sent_as_asked() {
    let bench = Bench::new().await;
    for (plan, times) in [
        ("once", 1),
        ("twice", 2),
        ("late", 1),
        ("early", 1),
        ("forged", 1),
    ] {
        let (url, taken) = receiver(202).await;
        bench
            .set(json!({
                "openai_work_ms": 0, "openai_hook": plan, "openai_hook_late_ms": 10, "openai_hook_url": url,
                "openai_hook_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            }))
            .await;
        let before = bench.calls().await.len();
        let id = bench.respond(json!({})).await;
        if plan == "early" {
            assert_eq!(taken.lock().expect("whole").len(), 1, "before the answer");
        }
        wait::until("it is sent", DEADLINE, async || {
            bench.calls().await.len() == before + times
        })
        .await;
        let calls = bench.calls().await.split_off(before);
        for call in &calls {
            assert_eq!(
                (&call["about"], &call["event"]),
                (&json!(id), &json!("response.completed"))
            );
            assert_eq!(
                (&call["status"], &call["id"]),
                (&json!(202), &calls[0]["id"])
            );
        }
        let taken = taken.lock().expect("whole").clone();
        assert_eq!(taken.len(), times);
        for it in taken {
            assert!(
                it.starts_with("POST /hook HTTP/1.1\r\n") && it.contains(&id),
                "{it}"
            );
            for name in [
                "webhook-id: wh_",
                "webhook-timestamp: ",
                "webhook-signature: v1,",
            ] {
                assert!(it.contains(name), "{it}");
            }
        }
    }
    // one that isn't taken is sent again
    let (url, _taken) = receiver(500).await;
    bench
        .set(json!({"openai_work_ms": 0, "openai_hook_url": url, "openai_hook_secret": "whsec_AAAA"}))
        .await;
    let before = bench.calls().await.len();
    bench.respond(json!({})).await;
    wait::until("it is sent again", DEADLINE, async || {
        before + 2 <= bench.calls().await.len()
    })
    .await;
}
