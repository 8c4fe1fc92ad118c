//! Each platform's good path, its refusals and its repeats.

use reqwest::Method;
use serde_json::{Value, json};

use crate::bench::*;

#[tokio::test]
async fn openai_draws_edits_and_refuses() {
    let bench = Bench::new().await;
    let draw = json!({"model": "gpt-image-1", "prompt": "a cat", "n": 2, "size": "1536x1024"});
    let (status, made) = bench.post(DRAW, "sandbox-alice", draw.clone()).await;
    assert_eq!(status, 200, "{made}");
    let data = made["data"].as_array().expect("pictures");
    assert_eq!((data.len(), &made["size"]), (2, &json!("1536x1024")));
    assert!(
        made["usage"]["output_tokens"].as_u64() > Some(0),
        "{}",
        made["usage"]
    );
    let (_, again) = bench.post(DRAW, "sandbox-alice", draw).await;
    assert_eq!(
        again["data"], made["data"],
        "the same prompt has the same pictures"
    );

    let by_url = json!({"model": "dall-e-3", "prompt": "a cat"});
    let (_, made) = bench.post(DRAW, "sandbox-alice", by_url).await;
    let url = text(&made["data"][0]["url"]);
    let picture = bench.client.get(url).send().await.expect("it is there");
    assert_eq!(picture.headers()["content-type"], "image/png");
    let picture = picture.bytes().await.expect("its bytes");
    assert_eq!(picture[16..24], [0, 0, 4, 0, 0, 0, 4, 0], "1024 x 1024");

    let form = |field: &'static str| {
        let file = reqwest::multipart::Part::bytes(picture.to_vec()).file_name("a.png");
        let file = file.mime_str("image/png").expect("a type");
        reqwest::multipart::Form::new()
            .text("model", "gpt-image-1")
            .text("prompt", "a hat")
            .part(field, file)
    };
    for (field, expected) in [("image[]", 200), ("image", 200), ("picture", 400)] {
        let call = bench.call(Method::POST, EDIT, "sandbox-alice");
        let call = call.multipart(form(field)).send().await.expect("an answer");
        let (status, told) = read(call).await;
        assert_eq!(status, expected, "{field}: {told}");
    }
    let wrong = json!({"model": "gpt-image-1", "prompt": "a", "negative_prompt": "b"});
    let (status, refusal) = bench.post(DRAW, "sandbox-alice", wrong).await;
    assert_eq!(
        (status.as_u16(), &refusal["error"]["code"]),
        (400, &json!("unknown_parameter"))
    );

    let wall = bench.client.get(format!("{}/", bench.sandbox.url()));
    let wall = wall
        .send()
        .await
        .expect("the wall")
        .text()
        .await
        .expect("a page");
    assert!(
        wall.contains("<h2>Pictures</h2>") && wall.contains("a hat"),
        "{wall}"
    );
    assert_eq!(bench.acts("op=image.edit").await.len(), 2);
    assert_eq!(bench.acts("op=image.generate").await.len(), 3);
}

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
