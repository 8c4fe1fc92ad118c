//! Jobs in: every status of `POST /v1/jobs`.

use serde_json::{Value, json};

use crate::kit::wait;
use crate::site::{SOON, Site, Wishes, site};

const JSON: &str = "content-type: application/json\r\n";

fn envelope(key: &str, text: &str) -> String {
    json!({"kind": "test.echo", "key": key, "payload": {"text": text}}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_again_is_the_same_job_and_another_payload_a_conflict() {
    let site = site().await;
    let new = site.post(envelope("k", "a")).await;
    assert_eq!(new.status, 201, "{new:?}");
    let id = new.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(new.header("location"), format!("/v1/jobs/{id}"));
    assert_eq!(new.json()["result"], "new");
    let spaced =
        r#" { "payload" : { "text" : "a" }, "key":"k", "priority":"high", "kind":"test.echo" } "#;
    let same = site.post(spaced).await;
    assert_eq!(same.status, 200, "{same:?}");
    assert_eq!(same.json()["id"], id.as_str());
    assert_eq!(same.json()["differs"], json!(["/priority"]));
    let other = site.post(envelope("k", "b")).await;
    assert_eq!((other.status, other.problem().as_str()), (409, "conflict"));
    assert_eq!(other.json()["id"], id.as_str());
    assert_eq!(other.json()["differs"], json!(["/text"]));
    let unchanged = site.get(&format!("/v1/jobs/{id}")).await;
    assert_eq!(unchanged.json()["priority"], "normal");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_is_told_with_all_that_is_wrong() {
    let site = site().await;
    for no_json in [
        "",
        "{",
        "kind=test.echo",
        "[{]",
        "[{}] {}",
        "{\"kind\":\"a\"}}",
    ] {
        let reply = site.post(no_json).await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (400, "no-json"),
            "{no_json}"
        );
    }
    for bytes in [&b"{\"kind\":\"\xff\"}"[..], b"[\"\xff\"]"] {
        assert_eq!(site.post(bytes).await.status, 400);
    }
    let reply = site
        .post(r#"{"kind":"test.echo","prio":"high","payload":[],"timeout_s":0}"#)
        .await;
    assert_eq!(
        (reply.status, reply.problem().as_str()),
        (422, "no-envelope")
    );
    assert_eq!(reply.pointers(), ["/prio", "/payload", "/timeout_s"]);
    let reply = site
        .post(r#"{"kind":"test.echo","payload":{"txt":"a"},"lane":"defalt"}"#)
        .await;
    assert_eq!((reply.status, reply.problem().as_str()), (422, "invalid"));
    assert_eq!(reply.pointers(), ["/lane", "/payload/txt", "/payload/text"]);
    assert!(reply.text.contains("did you mean `text`"), "{reply:?}");
    let reply = site.post(r#"{"kind":"test.ecko","payload":{}}"#).await;
    assert_eq!(
        (reply.status, reply.problem().as_str()),
        (422, "unknown-kind")
    );
    assert!(reply.text.contains("did you mean `test.echo`"), "{reply:?}");
    assert_eq!(site.post("7").await.status, 422);
    let twice = r#"{"kind":"test.echo","kind":"test.echo","payload":{}}"#;
    assert_eq!(site.post(twice).await.pointers(), ["/kind"]);
    let deep = format!(
        r#"{{"kind":"test.echo","payload":{{"a":{}{}}}}}"#,
        "[".repeat(100),
        "]".repeat(100)
    );
    assert_eq!(site.post(deep).await.status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_plain_json_is_read() {
    let site = site().await;
    let body = envelope("k", "a");
    for headers in [
        "",
        "content-type: text/plain\r\n",
        "content-type: application/x-www-form-urlencoded\r\n",
        "content-type: application/json\r\ncontent-encoding: gzip\r\n",
    ] {
        let reply = site.post_with("/v1/jobs", headers, body.as_bytes()).await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (415, "wrong-type"),
            "{headers}"
        );
        assert_eq!(reply.header("accept-post"), "application/json");
    }
    let headers = "content-type: application/json;charset=utf-8\r\n";
    assert_eq!(
        site.post_with("/v1/jobs", headers, body.as_bytes())
            .await
            .status,
        201
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_told_so_however_it_comes() {
    let site = site().await;
    let large = envelope("k", &"x".repeat(256 * 1024));
    let reply = site.post(&large).await;
    assert_eq!((reply.status, reply.problem().as_str()), (413, "too-large"));
    let fits = envelope("k", &"x".repeat(255 * 1024));
    assert_eq!(site.post(fits).await.status, 201);
    // said beforehand: nothing of it is waited for
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\n{JSON}content-length: 999999999\r\nexpect: 100-continue\r\n\r\n"
    );
    assert_eq!(site.raw(head.as_bytes()).await.status, 413);
    // sent all the same
    let huge = vec![b' '; 9 * 1024 * 1024];
    assert_eq!(site.post(&huge).await.status, 413);
    // in chunks of which nobody knows how many come
    let mut chunked = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\n{JSON}transfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for part in huge.chunks(1024 * 1024) {
        chunked.extend(format!("{:x}\r\n", part.len()).into_bytes());
        chunked.extend(part);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    assert_eq!(site.raw(&chunked).await.status, 413);
    assert_eq!(site.get("/livez").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_an_array_is_answered_by_itself_and_in_order() {
    let site = site().await;
    site.post(envelope("taken", "a")).await;
    let all = [
        envelope("new", "a"),
        envelope("taken", "a"),
        envelope("taken", "b"),
        r#"{"kind":"test.echo","payload":{}}"#.to_owned(),
        "7".to_owned(),
        envelope("large", &"x".repeat(256 * 1024)),
        envelope("last", "a"),
    ];
    let reply = site.post(format!("[{}]", all.join(" , "))).await;
    assert_eq!(reply.status, 207, "{reply:?}");
    let told = reply.json();
    let statuses: Vec<u64> = told
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["status"].as_u64().unwrap())
        .collect();
    assert_eq!(statuses, [201, 200, 409, 422, 422, 413, 201]);
    assert_eq!(told[2]["id"], told[1]["id"]);
    assert_eq!(told[2]["differs"], json!(["/text"]));
    assert_eq!(told[3]["violations"][0]["pointer"], "/payload/text");
    assert_eq!(reply.header("retry-after"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_twice_in_an_array_is_one_job() {
    let site = site().await;
    let all = vec![envelope("k", "a"); 20];
    let reply = site.post(format!("[{}]", all.join(","))).await;
    let told = reply.json();
    let told = told.as_array().unwrap();
    assert!(told.iter().all(|it| it["id"] == told[0]["id"]), "{reply:?}");
    let new = told.iter().filter(|it| it["status"] == 201).count();
    assert_eq!(new, 1, "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_has_at_most_a_thousand_envelopes() {
    let site = site().await;
    let of = |n: usize| {
        let all: Vec<String> = (0..n).map(|i| envelope(&format!("k{i}"), "a")).collect();
        format!("[{}]", all.join(","))
    };
    let reply = site.post(of(1_001)).await;
    assert_eq!((reply.status, reply.problem().as_str()), (413, "too-large"));
    assert!(
        site.ledger.counts().await.unwrap().is_empty(),
        "none of it was taken"
    );
    let reply = site.post(of(1_000)).await;
    assert_eq!(reply.status, 207);
    assert!(
        reply
            .json()
            .as_array()
            .unwrap()
            .iter()
            .all(|it| it["status"] == 201)
    );
    assert_eq!(
        site.ledger.counts().await.unwrap().values().sum::<u64>(),
        1_000
    );
    assert_eq!(site.post("[]").await.status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_come_as_a_header() {
    let site = site().await;
    let keyless = r#"{"kind":"test.echo","payload":{"text":"a", "n": 12345678901234567890123}}"#;
    let send = async |headers: &str, body: &str| {
        site.post_with("/v1/jobs", &format!("{JSON}{headers}"), body.as_bytes())
            .await
    };
    let first = send("idempotency-key: \"k\"\r\n", keyless).await;
    assert_eq!(first.status, 201, "{first:?}");
    let again = send("Idempotency-Key: k\r\n", keyless).await;
    assert_eq!(
        (again.status, again.json()["id"].clone()),
        (200, first.json()["id"].clone())
    );
    let id = id_of(&first.json());
    let job = site.ledger.job(id).await.unwrap().unwrap();
    assert_eq!(job.key.as_deref(), Some("k"));
    assert_eq!(
        &*job.payload,
        r#"{"text":"a", "n": 12345678901234567890123}"#
    );
    assert_eq!(
        send("idempotency-key: k\r\n", &envelope("k", "b"))
            .await
            .problem(),
        "conflict"
    );
    let two = send("idempotency-key: other\r\n", &envelope("k", "a")).await;
    assert_eq!((two.status, two.problem().as_str()), (409, "two-keys"));
    let many = send("idempotency-key: k\r\n", &format!("[{keyless}]")).await;
    assert_eq!((many.status, many.problem().as_str()), (400, "bad-request"));
    let long = format!("idempotency-key: {}\r\n", "k".repeat(256));
    assert_eq!(send(&long, keyless).await.pointers(), ["/key"]);
}

fn id_of(receipt: &Value) -> presswork::job::JobId {
    receipt["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_payload_is_kept_and_shown_as_it_came() {
    let site = site().await;
    let payload =
        r#"{ "text" : "\u0000\u00e9 ü" ,  "n":1234567890123456789012345678901234567890.10 }"#;
    let new = site
        .post(format!(r#"{{"kind":"test.echo","payload":{payload}}}"#))
        .await;
    assert_eq!(new.status, 201, "{new:?}");
    let shown = site.get(new.header("location")).await;
    assert!(shown.text.contains(payload), "{shown:?}");
    let job = site.ledger.job(id_of(&new.json())).await.unwrap().unwrap();
    assert_eq!(&*job.payload, payload);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_backlog_and_a_drain_are_told_with_when_to_come_back() {
    let wishes = Wishes {
        backlog_max: Some(2),
        ..Wishes::default()
    };
    let site = Site::new(wishes).await;
    for i in 0..2 {
        assert_eq!(site.post(envelope(&format!("k{i}"), "a")).await.status, 201);
    }
    // only now: what is counted as it is accepted counts twice for a moment
    let counting = site.doors.clone();
    tokio::spawn(async move { counting.count().await });
    wait::until("the backlog is known to be full", SOON, async || {
        site.post(envelope("k0", "a")).await.status == 429
    })
    .await;
    let full = site.post(envelope("k3", "a")).await;
    assert_eq!((full.status, full.problem().as_str()), (429, "full"));
    assert_eq!(full.header("retry-after"), "5");
    let many = site.post(format!("[{}]", envelope("k3", "a"))).await;
    assert_eq!((many.status, many.header("retry-after")), (207, "5"));
    assert_eq!(many.json()[0]["status"], 429);
    site.shared.draining.cancel();
    let stopping = site.post(envelope("k3", "a")).await;
    assert_eq!(
        (stopping.status, stopping.problem().as_str()),
        (503, "stopping")
    );
    assert_eq!(stopping.header("retry-after"), "5");
}
