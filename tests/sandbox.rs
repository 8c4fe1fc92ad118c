//! The sandbox over real sockets: each platform's good path and refusals, repeats, every fault, and restarts.

use std::{net::SocketAddr, path::Path, time::Duration};

use presswork::sandbox::{Options, Sandbox};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nnot much of a picture";
const TID: &str = "3jzfcijpj2z2a";

/// A running sandbox with a client of it.
struct Bench {
    sandbox: Sandbox,
    client: Client,
    dir: tempfile::TempDir,
}

async fn start(dir: &Path, seed: Option<u64>, fault_rate: f64) -> Sandbox {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    Sandbox::start(Options {
        listen,
        dir: dir.to_owned(),
        seed,
        fault_rate,
    })
    .await
    .expect("starts")
}

impl Bench {
    async fn new() -> Bench {
        // Another test of this process may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().expect("a directory");
        let client = Client::builder()
            .timeout(Duration::from_secs(20))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client");
        Bench {
            sandbox: start(dir.path(), None, 0.0).await,
            client,
            dir,
        }
    }

    async fn restart(self) -> Bench {
        self.sandbox.stop().await;
        Bench {
            sandbox: start(self.dir.path(), None, 0.0).await,
            ..self
        }
    }

    fn call(&self, method: Method, path: &str, token: &str) -> reqwest::RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.sandbox.url()))
            .bearer_auth(token)
    }

    async fn get(&self, path: &str, token: &str) -> (StatusCode, Value) {
        read(
            self.call(Method::GET, path, token)
                .send()
                .await
                .expect("an answer"),
        )
        .await
    }

    async fn post(&self, path: &str, token: &str, body: Value) -> (StatusCode, Value) {
        read(
            self.call(Method::POST, path, token)
                .json(&body)
                .send()
                .await
                .expect("an answer"),
        )
        .await
    }

    async fn acts(&self, query: &str) -> Vec<Value> {
        let (status, acts) = self.get(&format!("/_sandbox/acts?{query}"), "").await;
        assert_eq!(status, 200, "{acts}");
        acts.as_array().expect("a list").clone()
    }

    async fn script(&self, fault: Value) {
        let (status, told) = self.post("/_sandbox/faults", "", fault).await;
        assert_eq!(status, 201, "{told}");
    }

    /// Posts a status with a key; the error of the client when there was no whole answer.
    async fn toot(&self, text: &str, key: &str) -> Result<Response, reqwest::Error> {
        let call = self.call(Method::POST, "/mastodon/api/v1/statuses", "sandbox-alice");
        call.header("Idempotency-Key", key)
            .json(&json!({"status": text}))
            .send()
            .await
    }

    async fn login(&self) -> (String, String) {
        let body = json!({"identifier": "alice.test", "password": "sandbox-secret"});
        let (status, session) = self
            .post("/bluesky/xrpc/com.atproto.server.createSession", "", body)
            .await;
        assert_eq!(status, 200, "{session}");
        (text(&session["accessJwt"]), text(&session["did"]))
    }

    async fn upload(&self, mime: &str, bytes: &'static [u8], alt: &str) -> (StatusCode, Value) {
        let part = reqwest::multipart::Part::bytes(bytes)
            .file_name("a")
            .mime_str(mime)
            .expect("a type");
        let form = reqwest::multipart::Form::new()
            .part("file", part)
            .text("description", alt.to_owned());
        let call = self
            .call(Method::POST, "/mastodon/api/v2/media", "sandbox-alice")
            .multipart(form);
        read(call.send().await.expect("an answer")).await
    }
}

async fn read(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    (status, response.json().await.expect("JSON"))
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn chat(prompt: &str) -> Value {
    json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": prompt}]})
}

fn record(words: &str) -> Value {
    json!({"$type": "app.bsky.feed.post", "text": words, "createdAt": "2026-01-01T00:00:00Z"})
}

const PUT: &str = "/bluesky/xrpc/com.atproto.repo.putRecord";
const CREATE: &str = "/bluesky/xrpc/com.atproto.repo.createRecord";
const CHAT: &str = "/openai/v1/chat/completions";

#[tokio::test]
async fn openai_writes_stores_lists_and_refuses() {
    let bench = Bench::new().await;
    let mut body = chat("Write a story about a cat");
    body["store"] = json!(true);
    body["metadata"] = json!({"job": "42"});
    let answer = bench
        .call(Method::POST, CHAT, "sandbox-alice")
        .json(&body)
        .send()
        .await
        .expect("an answer");
    for header in [
        "x-request-id",
        "openai-processing-ms",
        "x-ratelimit-remaining-requests",
    ] {
        assert!(answer.headers().contains_key(header), "{header}");
    }
    let (status, made) = read(answer).await;
    assert_eq!(status, 200, "{made}");
    assert!(text(&made["choices"][0]["message"]["content"]).contains("a cat"));
    assert!(made["usage"]["total_tokens"].as_u64() > Some(0));
    let (_, again) = bench
        .post(CHAT, "sandbox-alice", chat("Write a story about a cat"))
        .await;
    assert_eq!(
        again["choices"], made["choices"],
        "the same prompt has the same text"
    );
    assert_ne!(again["id"], made["id"]);

    let (_, list) = bench
        .get(&format!("{CHAT}?metadata[job]=42"), "sandbox-alice")
        .await;
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!(list["data"][0]["id"], made["id"]);
    let (_, list) = bench
        .get(&format!("{CHAT}?metadata[job]=42"), "sandbox-bob")
        .await;
    assert_eq!(list["data"], json!([]), "accounts don't see each other");

    let schema = json!({"type": "object", "properties": {"title": {"type": "string"}, "mood": {"enum": ["calm"]}},
        "required": ["title", "mood"], "additionalProperties": false});
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "s", "strict": true, "schema": schema}});
    let (_, made) = bench.post(CHAT, "sandbox-alice", body).await;
    let document: Value =
        serde_json::from_str(&text(&made["choices"][0]["message"]["content"])).expect("JSON");
    assert_eq!(document["mood"], "calm");

    let mut wrong = chat("x");
    wrong["stroe"] = json!(true);
    let (status, refusal) = bench.post(CHAT, "sandbox-alice", wrong).await;
    assert_eq!(
        (status.as_u16(), &refusal["error"]["param"]),
        (400, &json!("stroe"))
    );
    assert_eq!(refusal["error"]["type"], "invalid_request_error");
    for token in ["sk-x", "sandbox-expired-alice"] {
        let (status, refusal) = bench.post(CHAT, token, chat("x")).await;
        assert_eq!(
            (status.as_u16(), &refusal["error"]["code"]),
            (401, &json!("invalid_api_key"))
        );
    }
    assert_eq!(
        bench.acts("platform=openai&op=chat.completion").await.len(),
        3,
        "refusals cost nothing"
    );
}

#[tokio::test]
async fn mastodon_publishes_with_media_and_honours_keys_for_an_hour() {
    let bench = Bench::new().await;
    let (status, media) = bench.upload("image/png", PNG, "a cat").await;
    assert_eq!(
        (status.as_u16(), &media["type"]),
        (200, &json!("image")),
        "{media}"
    );
    let id = text(&media["id"]);
    let body = json!({"status": "Look https://example.com/ <b>", "media_ids": [id]});
    let post = |body: Value| {
        let call = bench.call(Method::POST, "/mastodon/api/v1/statuses", "sandbox-alice");
        call.header("Idempotency-Key", "k1").json(&body).send()
    };
    let answer = post(body.clone()).await.expect("an answer");
    assert!(answer.headers().contains_key("x-ratelimit-reset"));
    let (status, made) = read(answer).await;
    assert_eq!(status, 200, "{made}");
    assert_eq!(made["media_attachments"][0]["description"], "a cat");
    assert!(text(&made["content"]).contains("&lt;b&gt;"));
    let (_, repeated) = read(post(body.clone()).await.expect("an answer")).await;
    assert_eq!(repeated["id"], made["id"]);
    assert_eq!(bench.acts("op=status.create&key=k1").await.len(), 1);

    assert_eq!(
        bench
            .get(&format!("/mastodon/api/v1/media/{id}"), "sandbox-alice")
            .await
            .0,
        404,
        "attached"
    );
    let page = bench
        .client
        .get(text(&made["url"]))
        .send()
        .await
        .expect("a page");
    let page = page.text().await.expect("text");
    assert!(
        page.contains("&lt;b&gt;") && page.contains("alt=\"a cat\""),
        "{page}"
    );
    let account = text(&made["account"]["id"]);
    let (_, list) = bench
        .get(
            &format!("/mastodon/api/v1/accounts/{account}/statuses?exclude_reblogs=true"),
            "sandbox-alice",
        )
        .await;
    assert_eq!(list[0]["id"], made["id"]);
    let (_, own) = bench
        .get(
            "/mastodon/api/v1/accounts/verify_credentials",
            "sandbox-alice",
        )
        .await;
    assert_eq!(
        (&own["id"], &own["username"]),
        (&json!(account), &json!("alice"))
    );

    bench
        .post("/_sandbox/clock", "", json!({"advance_s": 3600}))
        .await;
    let (status, refusal) = read(post(body).await.expect("an answer")).await;
    assert_eq!(
        status, 422,
        "the key is forgotten, the file is taken: {refusal}"
    );
    let (_, third) = read(post(json!({"status": "anew"})).await.expect("an answer")).await;
    assert_ne!(third["id"], made["id"]);
}

#[tokio::test]
async fn mastodon_keeps_its_order_and_limits() {
    let bench = Bench::new().await;
    let (status, media) = bench.upload("image/gif", b"GIF89a", "moving").await;
    assert_eq!(
        (status.as_u16(), &media["url"]),
        (202, &Value::Null),
        "{media}"
    );
    let path = format!("/mastodon/api/v1/media/{}", text(&media["id"]));
    let with_media = json!({"status": "x", "media_ids": [media["id"]]});
    let (status, refusal) = bench
        .post(
            "/mastodon/api/v1/statuses",
            "sandbox-alice",
            with_media.clone(),
        )
        .await;
    assert_eq!(status, 422);
    assert!(text(&refusal["error"]).contains("not finished processing"));
    assert_eq!(bench.get(&path, "sandbox-alice").await.0, 206);
    assert_eq!(bench.get(&path, "sandbox-bob").await.0, 404);
    let told = bench
        .call(Method::PUT, &path, "sandbox-alice")
        .json(&json!({"description": "still"}))
        .send()
        .await;
    assert_eq!(
        read(told.expect("an answer")).await.1["description"],
        "still"
    );
    assert_eq!(bench.get(&path, "sandbox-alice").await.0, 200);
    assert_eq!(
        bench
            .post("/mastodon/api/v1/statuses", "sandbox-alice", with_media)
            .await
            .0,
        200
    );

    for wrong in [
        json!({"status": "x", "media_ids": ["1"]}),
        json!({"status": "x".repeat(501)}),
        json!({"status": "x", "unknown": 1}),
        json!({"status": "x", "scheduled_at": "2020-01-01T00:00:00Z"}),
    ] {
        let (status, refusal) = bench
            .post("/mastodon/api/v1/statuses", "sandbox-alice", wrong)
            .await;
        assert!(status == 422 && refusal["error"].is_string(), "{refusal}");
    }
    assert_eq!(
        bench
            .upload("image/png", b"\xff\xd8\xff\xe0", "a lie")
            .await
            .0,
        422
    );
    assert_eq!(bench.upload("text/plain", b"hello", "").await.0, 422);
    assert_eq!(
        bench
            .post(
                "/mastodon/api/v1/statuses",
                "nobody",
                json!({"status": "x"})
            )
            .await
            .0,
        401
    );
    let form = bench
        .call(Method::POST, "/mastodon/api/v1/statuses", "sandbox-alice")
        .form(&[("status", "by form"), ("sensitive", "true")]);
    let (status, made) = read(form.send().await.expect("an answer")).await;
    assert_eq!((status.as_u16(), &made["sensitive"]), (200, &json!(true)));
    assert_eq!(bench.acts("op=status.create").await.len(), 2);
    let (_, instance) = bench.get("/mastodon/api/v2/instance", "").await;
    assert_eq!(instance["configuration"]["statuses"]["max_characters"], 500);
}

#[tokio::test]
async fn mastodon_publishes_what_was_scheduled_when_its_time_comes() {
    let bench = Bench::new().await;
    let at = chrono::Utc::now() + chrono::TimeDelta::minutes(10);
    let body = json!({"status": "later", "scheduled_at": at.to_rfc3339()});
    let (status, planned) = bench
        .post("/mastodon/api/v1/statuses", "sandbox-alice", body)
        .await;
    assert_eq!(
        (status.as_u16(), &planned["params"]["text"]),
        (200, &json!("later")),
        "{planned}"
    );
    assert!(bench.acts("op=status.create").await.is_empty());
    let bench = bench.restart().await;
    bench
        .post("/_sandbox/clock", "", json!({"advance_s": 601}))
        .await;
    assert_eq!(bench.acts("op=status.create").await[0]["text"], "later");
}

#[tokio::test]
async fn bluesky_puts_once_and_names_what_is_there() {
    let bench = Bench::new().await;
    let (token, did) = bench.login().await;
    let blob = bench.call(
        Method::POST,
        "/bluesky/xrpc/com.atproto.repo.uploadBlob",
        &token,
    );
    let (status, blob) = read(
        blob.header("content-type", "image/png")
            .body(PNG)
            .send()
            .await
            .expect("an answer"),
    )
    .await;
    assert_eq!(status, 200, "{blob}");
    let mut post = record("héllo link");
    post["embed"] = json!({"$type": "app.bsky.embed.images", "images": [{"image": blob["blob"], "alt": "a cat"}]});
    post["facets"] = json!([{"index": {"byteStart": 7, "byteEnd": 11},
        "features": [{"$type": "app.bsky.richtext.facet#link", "uri": "https://example.com/"}]}]);
    let put = |record: &Value, swap: Option<Value>| {
        let mut body =
            json!({"repo": did, "collection": "app.bsky.feed.post", "rkey": TID, "record": record});
        if let Some(swap) = swap {
            body["swapRecord"] = swap;
        }
        body
    };
    let answer = bench
        .call(Method::POST, PUT, &token)
        .json(&put(&post, Some(Value::Null)))
        .send()
        .await;
    let answer = answer.expect("an answer");
    assert!(answer.headers().contains_key("ratelimit-reset"));
    let (status, made) = read(answer).await;
    assert_eq!(status, 200, "{made}");
    assert!(made["commit"].is_object() && text(&made["cid"]).starts_with("bafyrei"));
    let (status, again) = bench.post(PUT, &token, put(&post, Some(Value::Null))).await;
    assert_eq!(
        (status.as_u16(), &again["cid"], &again["commit"]),
        (200, &made["cid"], &Value::Null)
    );
    let (status, swap) = bench
        .post(PUT, &token, put(&record("other"), Some(Value::Null)))
        .await;
    assert_eq!(
        (status.as_u16(), &swap["error"]),
        (400, &json!("InvalidSwap"))
    );
    assert!(text(&swap["message"]).contains(&text(&made["cid"])));
    assert_eq!(bench.acts("platform=bluesky&op=putRecord").await.len(), 1);
    let create =
        json!({"repo": did, "collection": "app.bsky.feed.post", "rkey": TID, "record": post});
    assert_eq!(bench.post(CREATE, &token, create).await.0, 500);

    let get = format!(
        "/bluesky/xrpc/com.atproto.repo.getRecord?repo=alice.test&collection=app.bsky.feed.post&rkey={TID}"
    );
    let (_, found) = bench.get(&get, "").await;
    assert_eq!(
        (&found["cid"], &found["value"]["text"]),
        (&made["cid"], &json!("héllo link"))
    );
    let list = format!(
        "/bluesky/xrpc/com.atproto.repo.listRecords?repo={did}&collection=app.bsky.feed.post"
    );
    assert_eq!(
        bench.get(&list, "").await.1["records"][0]["uri"],
        made["uri"]
    );
    let page = text(&bench.acts("op=putRecord").await[0]["url"]);
    let page = bench
        .client
        .get(page)
        .send()
        .await
        .expect("a page")
        .text()
        .await
        .expect("text");
    assert!(
        page.contains("href=\"https://example.com/\"") && page.contains("alt=\"a cat\""),
        "{page}"
    );

    assert_eq!(
        bench.post(PUT, &token, put(&record("over"), None)).await.0,
        200,
        "without swapRecord it overwrites"
    );
    let gone = json!({"repo": did, "collection": "app.bsky.feed.post", "rkey": TID});
    assert_eq!(
        bench
            .post("/bluesky/xrpc/com.atproto.repo.deleteRecord", &token, gone)
            .await
            .0,
        200
    );
    let (status, missing) = bench.get(&get, "").await;
    assert_eq!(
        (status.as_u16(), &missing["error"]),
        (400, &json!("RecordNotFound"))
    );
}

#[tokio::test]
async fn bluesky_refuses_tokens_keys_and_records() {
    let bench = Bench::new().await;
    let (token, did) = bench.login().await;
    let body = |rkey: &str, record: Value| json!({"repo": did, "collection": "app.bsky.feed.post", "rkey": rkey, "record": record});
    let fine = body(TID, record("x"));
    let send = |token: Option<&str>| {
        let call = bench
            .client
            .post(format!("{}{CREATE}", bench.sandbox.url()))
            .json(&fine);
        token
            .map_or(call.try_clone().expect("a call"), |token| {
                call.bearer_auth(token)
            })
            .send()
    };
    for (token, status, error) in [
        (None, 401, "AuthMissing"),
        (Some("nonsense"), 400, "InvalidToken"),
        (Some("sandbox-jwt.alice.test.1-0"), 400, "InvalidToken"),
        (Some("sandbox-expired-alice"), 400, "ExpiredToken"),
    ] {
        let (given, told) = read(send(token).await.expect("an answer")).await;
        assert_eq!((given.as_u16(), &told["error"]), (status, &json!(error)));
    }
    let login = json!({"identifier": "alice.test", "password": "wrong"});
    let (status, told) = bench
        .post("/bluesky/xrpc/com.atproto.server.createSession", "", login)
        .await;
    assert_eq!(
        (status.as_u16(), &told["error"]),
        (401, &json!("AuthenticationRequired"))
    );
    let mut unknown = record("x");
    unknown["txet"] = json!("y");
    let missing =
        json!({"$type": "blob", "ref": {"$link": "bafkreia"}, "mimeType": "image/png", "size": 1});
    let mut blobless = record("x");
    blobless["embed"] =
        json!({"$type": "app.bsky.embed.images", "images": [{"image": missing, "alt": ""}]});
    for (wrong, error) in [
        (body("not-a-tid", record("x")), "InvalidRequest"),
        (body(TID, unknown), "InvalidRequest"),
        (body(TID, blobless), "BlobNotFound"),
        (
            json!({"repo": did, "collection": "app.bsky.feed.post", "record": record("x"), "rkye": TID}),
            "InvalidRequest",
        ),
    ] {
        let (status, told) = bench.post(PUT, &token, wrong).await;
        assert_eq!(
            (status.as_u16(), &told["error"]),
            (400, &json!(error)),
            "{told}"
        );
    }
    assert!(bench.acts("platform=bluesky").await.is_empty());
    bench
        .post("/_sandbox/clock", "", json!({"advance_s": 7201}))
        .await;
    let (_, told) = read(send(Some(&token)).await.expect("an answer")).await;
    assert_eq!(told["error"], "ExpiredToken");
}

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
            let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
            let key = format!("op=status.create&key={fault}");
            loop {
                let (_, seen) = bench
                    .get(&format!("/_sandbox/requests?key={fault}"), "")
                    .await;
                let acts = bench.acts(&key).await.len();
                if seen[0]["fault"] == fault && acts >= acted {
                    return (seen[0]["status"].clone(), acts);
                }
                assert!(
                    tokio::time::Instant::now() < deadline,
                    "{fault} was not played"
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
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
        .toot("[[fault:act_late delay_ms=200]]", "late")
        .await
        .expect_err("closed");
    assert!(
        bench.acts("op=status.create&key=late").await.is_empty(),
        "not yet"
    );
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while bench.acts("op=status.create&key=late").await.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "it never acted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
