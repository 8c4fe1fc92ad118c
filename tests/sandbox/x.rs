//! X: posts that nothing protects but a filter of repeats, uploads in segments, a timeline that lags.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::bench::*;
use crate::wait;

const TWEETS: &str = "/x/2/tweets";
const ALICE: &str = "sandbox-alice";

impl Bench {
    async fn tweet(&self, text: &str) -> (StatusCode, Value) {
        self.post(TWEETS, ALICE, json!({"text": text})).await
    }

    async fn me(&self) -> String {
        let (status, me) = self.get("/x/2/users/me", ALICE).await;
        assert_eq!(status, 200, "{me}");
        text(&me["data"]["id"])
    }

    async fn timeline(&self, query: &str) -> Value {
        let path = format!("/x/2/users/{}/tweets?{query}", self.me().await);
        let (status, list) = self.get(&path, ALICE).await;
        assert_eq!(status, 200, "{list}");
        list
    }

    async fn begin(&self, mime: &str, category: &str, bytes: usize) -> Value {
        let body = json!({"media_type": mime, "media_category": category, "total_bytes": bytes});
        let path = "/x/2/media/upload/initialize";
        let (status, told) = self.post(path, ALICE, body).await;
        assert_eq!(status, 200, "{told}");
        told["data"].clone()
    }

    async fn append(&self, id: &str, index: usize, bytes: &'static [u8]) -> (StatusCode, Value) {
        let form = reqwest::multipart::Form::new()
            .text("segment_index", index.to_string())
            .part(
                "media",
                reqwest::multipart::Part::bytes(bytes).file_name("blob"),
            );
        let path = format!("/x/2/media/upload/{id}/append");
        let call = self.call(Method::POST, &path, ALICE).multipart(form);
        read(call.send().await.expect("an answer")).await
    }

    async fn finalize(&self, id: &str) -> (StatusCode, Value) {
        let path = format!("/x/2/media/upload/{id}/finalize");
        let call = self.call(Method::POST, &path, ALICE);
        read(call.send().await.expect("an answer")).await
    }
}

#[tokio::test]
async fn a_text_is_published_once_and_its_twin_refused() {
    let bench = Bench::new().await;
    let words = "Tea & <cake> at https://example.com/?a=1&b=2 #Tea";
    let call = bench.call(Method::POST, TWEETS, ALICE);
    let answer = call.json(&json!({"text": words})).send().await;
    let answer = answer.expect("an answer");
    for header in [
        "x-rate-limit-limit",
        "x-rate-limit-remaining",
        "x-rate-limit-reset",
    ] {
        let value = answer.headers()[header].to_str().expect("text");
        assert!(value.parse::<u64>().is_ok(), "{header}: {value}");
    }
    let (status, made) = read(answer).await;
    assert_eq!(status, 201, "{made}");
    let data = &made["data"];
    assert!(text(&data["text"]).starts_with("Tea &amp; &lt;cake&gt; at https://t.co/"));
    assert_eq!(data["edit_history_post_ids"], json!([data["id"]]));

    let answer = bench
        .call(Method::POST, TWEETS, ALICE)
        .json(&json!({"text": words}));
    let answer = answer.send().await.expect("an answer");
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let (status, refusal) = read(answer).await;
    assert_eq!(
        (status.as_u16(), &refusal["type"]),
        (403, &json!("about:blank"))
    );
    assert!(text(&refusal["detail"]).contains("duplicate content"));
    assert_eq!(bench.acts("op=post.create").await.len(), 1);
    let bob = bench
        .post(TWEETS, "sandbox-bob", json!({"text": words}))
        .await;
    assert_eq!(bob.0, 201, "accounts don't share the filter");

    let list = bench
        .timeline("post.fields=created_at,entities,author_id")
        .await;
    assert_eq!(list["meta"]["result_count"], 1);
    let post = &list["data"][0];
    assert_eq!(post["id"], data["id"]);
    assert_eq!(
        post["entities"]["urls"][0]["expanded_url"],
        "https://example.com/?a=1&b=2"
    );
    assert_eq!(post["author_id"], bench.me().await);
    let at = text(&post["created_at"]);
    let after = at.replace(&at[at.len() - 5..], "Z");
    assert_eq!(
        bench.timeline(&format!("start_time={after}")).await["data"][0]["id"],
        data["id"]
    );
    let later = bench.timeline("start_time=2999-01-01T00:00:00Z").await;
    assert_eq!(later, json!({"meta": {"result_count": 0}}));

    bench
        .post("/_sandbox/clock", "", json!({"advance_s": 86_401}))
        .await;
    assert_eq!(bench.tweet(words).await.0, 201, "the window is over");
    bench
        .post("/_sandbox/settings", "", json!({"x_duplicate_window_s": 0}))
        .await;
    assert_eq!(bench.tweet(words).await.0, 201, "the filter is off");
    let page = bench
        .client
        .get(text(&bench.acts("op=post.create").await[0]["url"]));
    let page = page
        .send()
        .await
        .expect("a page")
        .text()
        .await
        .expect("text");
    assert!(page.contains("Tea &amp; &lt;cake&gt;"), "{page}");
}

#[tokio::test]
async fn mistakes_are_refused_in_problem_form() {
    let bench = Bench::new().await;
    let invalid = "https://api.x.com/2/problems/invalid-request";
    for body in [
        json!({"text": "a", "idempotency_key": "b"}),
        json!({"text": ""}),
        json!({"text": "x".repeat(281)}),
        json!({"text": "日".repeat(141)}),
        json!({"text": "a", "media": {"media_ids": ["1"]}}),
        json!({"text": "a", "media": {"media_ids": []}}),
        json!({"text": "a", "reply": {}}),
        json!({"text": "a", "poll": {"options": ["b"], "duration_minutes": 5}}),
    ] {
        let (status, told) = bench.post(TWEETS, ALICE, body.clone()).await;
        assert_eq!(
            (status.as_u16(), &told["type"]),
            (400, &json!(invalid)),
            "{body}: {told}"
        );
    }
    let reply = json!({"text": "a", "reply": {"in_reply_to_tweet_id": "1"}});
    assert_eq!(bench.post(TWEETS, ALICE, reply).await.0, 403);
    for token in ["", "sandbox-expired-alice", "other"] {
        let (status, told) = bench.post(TWEETS, token, json!({"text": "a"})).await;
        assert_eq!(
            (status.as_u16(), &told["title"]),
            (401, &json!("Unauthorized"))
        );
    }
    let path = format!("/x/2/users/{}/tweets", bench.me().await);
    for query in [
        "max_results=4",
        "start_time=now",
        "post.fields=words",
        "a=b",
    ] {
        let (status, told) = bench.get(&format!("{path}?{query}"), ALICE).await;
        assert_eq!(status, 400, "{query}: {told}");
    }
    assert_eq!(bench.get("/x/2/tweets/123", ALICE).await.0, 404);
    assert_eq!(bench.get("/x/2/users/123/tweets", ALICE).await.0, 404);
    assert!(bench.acts("platform=x").await.is_empty());
}

#[tokio::test]
async fn a_picture_goes_up_in_segments_and_is_found_by_its_key() {
    let bench = Bench::new().await;
    let upload = bench.begin("image/png", "tweet_image", PNG.len()).await;
    let (id, key) = (text(&upload["id"]), text(&upload["media_key"]));
    assert_eq!(upload["expires_after_secs"], 1_295_999);
    let (first, rest) = PNG.split_at(10);
    assert_eq!(bench.append(&id, 1, rest).await.0, 200, "in any order");
    assert_eq!(bench.finalize(&id).await.0, 400, "something is missing");
    for _ in 0..2 {
        let (status, told) = bench.append(&id, 0, first).await;
        assert_eq!(status, 200, "again, too: {told}");
    }
    assert_eq!(
        bench.append(&id, 2, b"more").await.0,
        400,
        "more than was said"
    );
    let (status, done) = bench.finalize(&id).await;
    assert_eq!(status, 200, "{done}");
    assert_eq!(done["data"]["size"], PNG.len());
    assert_eq!(
        (&done["data"]["media_key"], &done["data"]["processing_info"]),
        (&json!(key), &Value::Null)
    );
    let alt = json!({"id": id, "metadata": {"alt_text": {"text": "a cat"}}});
    let (status, told) = bench.post("/x/2/media/metadata", ALICE, alt).await;
    assert_eq!(status, 200, "{told}");

    let post = json!({"text": "Look", "media": {"media_ids": [id]}});
    let stranger = bench.post(TWEETS, "sandbox-bob", post.clone()).await;
    assert_eq!(stranger.0, 400, "the files of others can't be used");
    let (status, made) = bench.post(TWEETS, ALICE, post.clone()).await;
    assert_eq!(status, 201, "{made}");
    assert!(text(&made["data"]["text"]).starts_with("Look https://t.co/"));
    assert_eq!(bench.post(TWEETS, ALICE, post).await.0, 403, "a duplicate");

    let query = "post.fields=attachments,entities&expansions=attachments.media_keys&media.fields=alt_text,url";
    let list = bench.timeline(query).await;
    assert_eq!(list["data"][0]["attachments"]["media_keys"], json!([key]));
    assert_eq!(
        list["data"][0]["entities"]["urls"][0]["media_key"],
        json!(key)
    );
    let file = &list["includes"]["media"][0];
    assert_eq!(
        (&file["alt_text"], &file["type"]),
        (&json!("a cat"), &json!("photo"))
    );
    let bytes = bench.client.get(text(&file["url"])).send().await;
    assert_eq!(
        bytes.expect("it is there").bytes().await.expect("bytes"),
        PNG
    );

    let late = bench.begin("image/png", "tweet_image", PNG.len()).await;
    let late = text(&late["id"]);
    bench.append(&late, 0, PNG).await;
    bench.finalize(&late).await;
    bench
        .post("/_sandbox/clock", "", json!({"advance_s": 86_401}))
        .await;
    let post = json!({"text": "Too late", "media": {"media_ids": [late]}});
    assert_eq!(
        bench.post(TWEETS, ALICE, post).await.0,
        400,
        "media go stale after a day"
    );
}

#[tokio::test]
async fn a_video_is_processed_first() {
    let bench = Bench::new().await;
    let upload = bench.begin("video/mp4", "tweet_video", 5).await;
    let id = text(&upload["id"]);
    assert!(text(&upload["media_key"]).starts_with("7_"));
    assert_eq!(bench.append(&id, 0, b"video").await.0, 200);
    let (_, done) = bench.finalize(&id).await;
    assert_eq!(done["data"]["processing_info"]["state"], "pending");
    assert_eq!(done["data"]["processing_info"]["check_after_secs"], 1);
    let post = json!({"text": "", "media": {"media_ids": [id]}});
    assert_eq!(
        bench.post(TWEETS, ALICE, post.clone()).await.0,
        400,
        "not yet"
    );
    let path = format!("/x/2/media/upload?command=STATUS&media_id={id}");
    for state in ["in_progress", "succeeded"] {
        let (_, told) = bench.get(&path, ALICE).await;
        assert_eq!(told["data"]["processing_info"]["state"], state, "{told}");
    }
    assert_eq!(bench.post(TWEETS, ALICE, post).await.0, 201);
}

#[tokio::test]
async fn what_was_made_shows_when_the_lag_is_over() {
    let bench = Bench::new().await;
    bench.tweet("at once").await;
    bench.script(json!({"platform": "x", "account": "alice", "op": "post.create", "fault": "lag", "lag_ms": 60_000})).await;
    let lost = json!({"text": "later [[fault:act_reset]]"});
    let lost = bench.call(Method::POST, TWEETS, ALICE).json(&lost).send();
    lost.await.expect_err("reset");
    let (status, made) = bench
        .tweet("later by mark [[fault:lag lag_ms=120000]]")
        .await;
    assert_eq!(status, 201);
    assert_eq!(bench.acts("op=post.create").await.len(), 3);
    let seen = async || bench.timeline("").await["meta"]["result_count"].as_u64();
    assert_eq!(seen().await, Some(1));
    let one = format!("/x/2/tweets/{}", text(&made["data"]["id"]));
    assert_eq!(bench.get(&one, ALICE).await.0, 200, "only lists lag");
    bench
        .post("/_sandbox/clock", "", json!({"advance_s": 61}))
        .await;
    assert_eq!(seen().await, Some(2));
    bench
        .post("/_sandbox/clock", "", json!({"advance_s": 60}))
        .await;
    assert_eq!(seen().await, Some(3));
}

#[tokio::test]
async fn a_timeline_has_pages() {
    let bench = Bench::new().await;
    for n in 0..12 {
        assert_eq!(bench.tweet(&format!("post {n}")).await.0, 201);
    }
    let mut seen = Vec::new();
    let mut query = "max_results=5".to_owned();
    loop {
        let page = bench.timeline(&query).await;
        let list = page["data"].as_array().expect("posts");
        seen.extend(list.iter().map(|post| text(&post["text"])));
        match page["meta"]["next_token"].as_str() {
            Some(token) => query = format!("max_results=5&pagination_token={token}"),
            None => break,
        }
    }
    let expected: Vec<_> = (0..12).rev().map(|n| format!("post {n}")).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn faults_have_the_form_of_x_and_the_log_the_truth() {
    let bench = Bench::new().await;
    for (fault, status, acted) in [
        ("refuse", 403, 0),
        ("401", 401, 0),
        ("429", 429, 0),
        ("503", 503, 0),
        ("500 status=402", 402, 0),
        ("act_500", 500, 1),
        ("act_504", 504, 1),
        ("act_refuse", 403, 1),
        ("act_500 status=200", 200, 1),
    ] {
        let words = format!("Hi [[fault:{fault}]]");
        let call = bench
            .call(Method::POST, TWEETS, ALICE)
            .json(&json!({"text": words}));
        let answer = call.send().await.expect("an answer");
        if fault == "429" {
            assert_eq!(answer.headers()["x-rate-limit-remaining"], "0");
            assert!(!answer.headers().contains_key("retry-after"));
        }
        let (given, told) = read(answer).await;
        assert_eq!(given, status, "{fault}: {told}");
        assert!(
            told["title"].is_string() || told["errors"].is_array(),
            "{told}"
        );
        let made = bench.acts("op=post.create").await;
        let made = made.iter().filter(|act| act["text"] == words).count();
        assert_eq!(made, acted, "{fault}");
    }
    for fault in ["act_late delay_ms=1", "act_truncate", "truncate", "reset"] {
        let words = format!("Hi [[fault:{fault}]]");
        let call = bench
            .call(Method::POST, TWEETS, ALICE)
            .json(&json!({"text": words}));
        let whole = async { call.send().await?.bytes().await };
        whole.await.expect_err(fault);
        let wanted = usize::from(fault.starts_with("act"));
        let deadline = std::time::Duration::from_secs(10);
        wait::until("the act of a fault", deadline, async || {
            let made = bench.acts("op=post.create").await;
            made.iter().filter(|act| act["text"] == words).count() == wanted
        })
        .await;
    }
}

#[tokio::test]
async fn a_restart_remembers_posts_uploads_and_the_filter() {
    let bench = Bench::new().await;
    assert_eq!(bench.tweet("once").await.0, 201);
    let upload = bench.begin("image/png", "tweet_image", PNG.len()).await;
    let id = text(&upload["id"]);
    bench.append(&id, 0, &PNG[..10]).await;
    let bench = bench.restart().await;
    assert_eq!(bench.tweet("once").await.0, 403);
    bench.append(&id, 1, &PNG[10..]).await;
    assert_eq!(bench.finalize(&id).await.0, 200);
    let bench = bench.restart().await;
    let post = json!({"text": "x", "media": {"media_ids": [id]}});
    let (status, made) = bench.post(TWEETS, ALICE, post).await;
    assert_eq!(status, 201, "{made}");
    let path = format!("/x/2/tweets/{}", text(&made["data"]["id"]));
    let gone = bench.call(Method::DELETE, &path, ALICE).send().await;
    assert_eq!(
        read(gone.expect("an answer")).await.1["data"]["deleted"],
        true
    );
    let bench = bench.restart().await;
    assert_eq!(bench.get(&path, ALICE).await.0, 404);
    assert_eq!(bench.timeline("").await["meta"]["result_count"], 1);
}
