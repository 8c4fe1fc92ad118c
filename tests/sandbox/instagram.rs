//! Instagram: containers, their life, the point of no return, the upload service, and its manners.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::bench::*;
use crate::wait;

const ALICE: &str = "sandbox-alice";
const JPEG: &[u8] = b"\xff\xd8\xff\xe0not much of a picture";
const DEADLINE: Duration = Duration::from_secs(20);

fn code(told: &Value) -> (i64, i64) {
    let of = |name: &str| told["error"][name].as_i64().unwrap_or_default();
    (of("code"), of("error_subcode"))
}

impl Bench {
    async fn graph(&self, path: &str) -> (StatusCode, Value) {
        self.get(&format!("/instagram/v25.0/{path}"), ALICE).await
    }

    /// A JPEG that stands behind a URL of this machine.
    async fn picture(&self) -> String {
        let (status, kept) = self.upload("image/jpeg", JPEG, "").await;
        assert_eq!(status, 200, "{kept}");
        text(&self.acts("op=media.create").await[0]["url"])
    }

    async fn container(&self, form: &[(&str, &str)]) -> (StatusCode, Value) {
        let call = self.call(Method::POST, "/instagram/v25.0/me/media", ALICE);
        read(call.form(form).send().await.expect("an answer")).await
    }

    /// A container with a picture that nobody needs to fetch.
    async fn ready(&self, caption: &str) -> String {
        let form = [
            ("image_url", "https://example.com/a.jpg"),
            ("caption", caption),
        ];
        let (status, made) = self.container(&form).await;
        assert_eq!(status, 200, "{made}");
        text(&made["id"])
    }

    async fn publish(&self, creation: &str) -> (StatusCode, Value) {
        let path = format!("/instagram/v25.0/me/media_publish?creation_id={creation}");
        let call = self.call(Method::POST, &path, ALICE);
        read(call.send().await.expect("an answer")).await
    }

    async fn state(&self, container: &str) -> String {
        let (status, told) = self
            .graph(&format!("{container}?fields=status_code,status"))
            .await;
        assert_eq!(status, 200, "{told}");
        text(&told["status_code"])
    }

    async fn published(&self) -> usize {
        self.acts("op=media.publish").await.len()
    }
}

#[tokio::test]
async fn a_picture_is_published_once() {
    let bench = Bench::new().await;
    let picture = bench.picture().await;
    let form = [
        ("image_url", picture.as_str()),
        ("caption", "Tea & <cake> #tea"),
        ("alt_text", "a cake"),
    ];
    let (status, made) = bench.container(&form).await;
    assert_eq!(status, 200, "{made}");
    let id = text(&made["id"]);
    assert_eq!(bench.published().await, 0, "nothing is visible yet");
    assert_eq!(bench.state(&id).await, "FINISHED");
    let (status, done) = bench.publish(&id).await;
    assert_eq!(status, 200, "{done}");
    assert_eq!(bench.state(&id).await, "PUBLISHED");
    let (status, told) = bench.publish(&id).await;
    assert_eq!((status.as_u16(), code(&told)), (400, (9007, 2_207_027)));
    assert!(text(&told["error"]["fbtrace_id"]).len() > 10);
    assert_eq!(bench.published().await, 1);

    let path = format!(
        "{}?fields=permalink,timestamp,caption,alt_text,media_type,media_url",
        text(&done["id"])
    );
    let (_, media) = bench.graph(&path).await;
    assert_eq!(
        (&media["caption"], &media["alt_text"]),
        (&json!("Tea & <cake> #tea"), &json!("a cake"))
    );
    assert!(text(&media["timestamp"]).ends_with("+0000"));
    assert_eq!(media["media_type"], "IMAGE");
    let page = bench.client.get(text(&media["permalink"])).send().await;
    let page = page.expect("a page").text().await.expect("text");
    assert!(
        page.contains("Tea &amp; &lt;cake&gt;") && page.contains("alt=\"a cake\""),
        "{page}"
    );
    let file = bench.client.get(text(&media["media_url"])).send().await;
    assert_eq!(file.expect("a file").bytes().await.expect("bytes"), JPEG);
    let (_, list) = bench.graph("me/media?fields=id,caption").await;
    assert_eq!(list["data"][0]["id"], done["id"]);
    let stranger = format!("/instagram/{}?fields=caption", text(&done["id"]));
    let (status, told) = bench.get(&stranger, "sandbox-bob").await;
    assert_eq!((status.as_u16(), code(&told)), (400, (100, 33)));
}

#[tokio::test]
async fn what_is_wrong_is_told_in_the_graphs_envelope() {
    let bench = Bench::new().await;
    let told = bench
        .container(&[("image_url", "http://127.0.0.1:1/a.jpg")])
        .await;
    assert_eq!((told.0.as_u16(), code(&told.1)), (400, (9004, 2_207_052)));
    let (_, png) = bench.upload("image/png", PNG, "").await;
    assert!(png["id"].is_string());
    let png = text(&bench.acts("op=media.create").await[0]["url"]);
    assert_eq!(
        code(&bench.container(&[("image_url", &png)]).await.1),
        (36_001, 2_207_005)
    );
    let long = "x".repeat(2201);
    let form = [
        ("image_url", "https://example.com/a.jpg"),
        ("caption", &long),
    ];
    assert_eq!(code(&bench.container(&form).await.1), (36_004, 2_207_010));
    assert_eq!(code(&bench.container(&[("caption", "x")]).await.1).0, 100);
    assert_eq!(code(&bench.publish("123").await.1), (24, 2_207_006));
    let (_, told) = bench.graph("me?fields=username,shoe_size").await;
    assert!(text(&told["error"]["message"]).contains("shoe_size"));
    for (token, expected) in [
        ("sandbox-expired-a", (190, 463)),
        ("other", (190, 0)),
        ("", (190, 0)),
    ] {
        let (status, told) = bench.get("/instagram/me?fields=id", token).await;
        assert_eq!((status.as_u16(), code(&told)), (400, expected), "{told}");
        assert_eq!(told["error"]["type"], "OAuthException");
    }
    let answer = bench.call(Method::GET, "/instagram/me?fields=user_id,username", ALICE);
    let answer = answer.send().await.expect("an answer");
    for header in ["x-app-usage", "x-business-use-case-usage"] {
        let usage: Value =
            serde_json::from_str(answer.headers()[header].to_str().expect("text")).expect("JSON");
        assert!(usage.is_object(), "{header}");
    }
    let me = read(answer).await.1;
    let by_id = format!(
        "{}/content_publishing_limit?fields=quota_usage,config",
        text(&me["user_id"])
    );
    assert_eq!(bench.graph(&by_id).await.1["data"][0]["quota_usage"], 0);
    let by_token = "/instagram/me?fields=username&access_token=sandbox-bob";
    let bob = bench
        .client
        .get(format!("{}{by_token}", bench.sandbox.url()))
        .send()
        .await;
    assert_eq!(read(bob.expect("an answer")).await.1["username"], "bob");
}

#[tokio::test]
async fn a_quota_is_kept_and_a_container_expires() {
    let bench = Bench::new().await;
    let limits = json!({"instagram_quota": 2});
    bench.post("/_sandbox/settings", "", limits).await;
    let old = bench.ready("old").await;
    for n in 0..2 {
        let id = bench.ready(&format!("post {n}")).await;
        assert_eq!(bench.publish(&id).await.0, 200);
    }
    let (status, told) = bench.publish(&old).await;
    assert_eq!((status.as_u16(), code(&told)), (403, (9, 2_207_042)));
    let path = "me/content_publishing_limit?fields=config%7Bquota_total%7D,quota_usage";
    let (_, limit) = bench.graph(path).await;
    assert_eq!(
        (
            &limit["data"][0]["quota_usage"],
            &limit["data"][0]["config"]["quota_total"]
        ),
        (&json!(2), &json!(2))
    );
    bench
        .post("/_sandbox/clock", "", json!({"advance_s": 86_400}))
        .await;
    assert_eq!(bench.state(&old).await, "EXPIRED");
    assert_eq!(code(&bench.publish(&old).await.1), (24, 2_207_008));
    let fresh = bench.ready("fresh").await;
    assert_eq!(bench.publish(&fresh).await.0, 200, "the day is over");
}

#[tokio::test]
async fn a_carousel_has_children_that_are_not_published_alone() {
    let bench = Bench::new().await;
    let picture = bench.picture().await;
    let mut children = Vec::new();
    for alt in ["one", "two"] {
        let form = [
            ("image_url", picture.as_str()),
            ("is_carousel_item", "true"),
            ("alt_text", alt),
        ];
        children.push(text(&bench.container(&form).await.1["id"]));
    }
    assert_eq!(bench.publish(&children[0]).await.0, 400);
    let both = children.join(",");
    let form = [
        ("media_type", "CAROUSEL"),
        ("children", both.as_str()),
        ("caption", "Two"),
    ];
    let (status, made) = bench.container(&form).await;
    assert_eq!(status, 200, "{made}");
    assert_eq!(bench.publish(&text(&made["id"])).await.0, 200);
    let act = &bench.acts("op=media.publish").await[0];
    assert_eq!(act["media"].as_array().map(Vec::len), Some(2));
    assert_eq!(act["media"][1]["alt"], "two");
    let lonely = bench.ready("no item").await;
    let both = format!("{},{lonely}", children[0]);
    let form = [("media_type", "CAROUSEL"), ("children", both.as_str())];
    assert_eq!(code(&bench.container(&form).await.1), (24, 2_207_006));
}

#[tokio::test]
async fn a_reel_is_sent_in_pieces_and_goes_on_after_a_break() {
    use tokio::io::AsyncWriteExt;
    let bench = Bench::new().await;
    let form = [
        ("media_type", "REELS"),
        ("upload_type", "resumable"),
        ("caption", "Moving"),
    ];
    let (status, made) = bench.container(&form).await;
    assert_eq!(status, 200, "{made}");
    let (id, uri) = (text(&made["id"]), text(&made["uri"]));
    assert_eq!(bench.state(&id).await, "IN_PROGRESS");
    assert_eq!(code(&bench.publish(&id).await.1), (9007, 2_207_027));

    let mut stream = tokio::net::TcpStream::connect(bench.sandbox.addr())
        .await
        .expect("connects");
    let path = uri.strip_prefix(&bench.sandbox.url()).expect("its own");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: OAuth {ALICE}\r\noffset: 0\r\nfile_size: 10\r\nContent-Length: 10\r\n\r\n1234"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.shutdown().await.expect("half closed");
    wait::until("the first piece", DEADLINE, async || {
        let (_, told) = bench.graph(&format!("{id}?fields=video_status")).await;
        told["video_status"]["uploading_phase"]["bytes_transferred"] == 4
    })
    .await;
    drop(stream);
    let send = async |offset: usize, bytes: &'static str| {
        let call = bench
            .client
            .post(&uri)
            .header("Authorization", format!("OAuth {ALICE}"));
        let call = call
            .header("offset", offset)
            .header("file_size", 10)
            .body(bytes);
        read(call.send().await.expect("an answer")).await
    };
    let (status, told) = send(0, "1234567890").await;
    assert_eq!(
        (status.as_u16(), &told["debug_info"]["type"]),
        (400, &json!("OffsetInvalidError"))
    );
    let (status, told) = send(4, "567890").await;
    assert_eq!(
        (status.as_u16(), &told["success"]),
        (200, &json!(true)),
        "{told}"
    );
    assert_eq!(bench.state(&id).await, "IN_PROGRESS", "the first look");
    assert_eq!(bench.state(&id).await, "FINISHED");
    assert_eq!(bench.publish(&id).await.0, 200);
    let act = &bench.acts("op=media.publish").await[0];
    assert_eq!(
        (&act["media"][0]["bytes"], &act["key"]),
        (&json!(10), &json!(id))
    );
    let file = format!(
        "{}/media/{}",
        bench.sandbox.url(),
        text(&act["media"][0]["digest"])
    );
    let file = bench.client.get(file).send().await.expect("a file");
    assert_eq!(file.bytes().await.expect("bytes"), "1234567890");
}

#[tokio::test]
async fn a_video_that_cant_be_fetched_ends_in_error() {
    let bench = Bench::new().await;
    let form = [
        ("media_type", "REELS"),
        ("video_url", "http://127.0.0.1:1/a.mp4"),
    ];
    let (status, made) = bench.container(&form).await;
    assert_eq!(status, 200, "{made}");
    let id = text(&made["id"]);
    assert_eq!(bench.state(&id).await, "ERROR");
    let (_, told) = bench.graph(&format!("{id}?fields=status")).await;
    assert!(text(&told["status"]).contains("2207052"), "{told}");
    assert_eq!(bench.publish(&id).await.0, 400);
}

#[tokio::test]
async fn a_mark_in_the_caption_is_played_when_it_is_published() {
    let bench = Bench::new().await;
    for (fault, status, acted) in [
        ("refuse", 400, 0),
        ("401", 401, 0),
        ("429 retry_after=90", 400, 0),
        ("503", 503, 0),
        ("act_refuse", 403, 1),
        ("act_500", 500, 1),
        ("act_504", 504, 1),
        ("act_500 status=200", 200, 1),
    ] {
        let before = bench.published().await;
        let id = bench.ready(&format!("Hi [[fault:{fault}]]")).await;
        let path = format!("/instagram/me/media_publish?creation_id={id}");
        let answer = bench.call(Method::POST, &path, ALICE).send().await;
        let answer = answer.expect("an answer");
        if fault.starts_with("429") {
            let usage = answer.headers()["x-business-use-case-usage"].to_str();
            let usage: Value = serde_json::from_str(usage.expect("text")).expect("JSON");
            let usage = usage
                .as_object()
                .and_then(|all| all.values().next())
                .expect("one");
            assert_eq!(usage[0]["estimated_time_to_regain_access"], 2);
        }
        let (given, told) = read(answer).await;
        assert_eq!(given, status, "{fault}: {told}");
        assert!(told["error"]["code"].is_i64(), "{told}");
        if fault == "act_refuse" {
            assert_eq!(code(&told), (4, 2_207_051));
        }
        assert_eq!(bench.published().await - before, acted, "{fault}");
        let state = if acted == 1 { "PUBLISHED" } else { "FINISHED" };
        assert_eq!(bench.state(&id).await, state, "{fault}");
    }
    let before = bench.published().await;
    let id = bench.ready("Hi [[fault:act_late delay_ms=300]]").await;
    let path = format!("/instagram/me/media_publish?creation_id={id}");
    bench
        .call(Method::POST, &path, ALICE)
        .send()
        .await
        .expect_err("closed");
    wait::until("the late act", DEADLINE, async || {
        bench.published().await > before
    })
    .await;
    let form = [
        ("image_url", "https://example.com/a.jpg"),
        ("caption", "x [[fault:503 op=container.create]]"),
    ];
    assert_eq!(
        bench.container(&form).await.0,
        503,
        "a mark that names the operation"
    );
}

#[tokio::test]
async fn lists_may_lag_and_a_restart_remembers() {
    let bench = Bench::new().await;
    bench.script(json!({"platform": "instagram", "op": "media.publish", "fault": "lag", "lag_ms": 60_000})).await;
    let id = bench.ready("slow").await;
    let waiting = bench.ready("waiting").await;
    assert_eq!(bench.publish(&id).await.0, 200);
    let seen = async |bench: &Bench| {
        bench.graph("me/media").await.1["data"]
            .as_array()
            .map(Vec::len)
    };
    assert_eq!(bench.state(&id).await, "PUBLISHED", "only lists lag");
    assert_eq!(seen(&bench).await, Some(0));
    let bench = bench.restart().await;
    assert_eq!(seen(&bench).await, Some(0));
    bench
        .post("/_sandbox/clock", "", json!({"advance_s": 61}))
        .await;
    assert_eq!(seen(&bench).await, Some(1));
    assert_eq!(bench.state(&id).await, "PUBLISHED");
    assert_eq!(bench.publish(&id).await.0, 400);
    assert_eq!(bench.publish(&waiting).await.0, 200);
}
