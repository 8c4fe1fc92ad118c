//! Stopping, and going on, over HTTP.

use serde_json::json;

use super::site::{Site, Wishes};

const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stopped_over_http_is_told_with_who_and_why_and_goes_on() {
    let site = Site::new(Wishes::default()).await;
    let say = async |path: &str, word: serde_json::Value| {
        let body = word.to_string();
        site.post_with(path, JSON, body.as_bytes()).await
    };
    for (path, wrong, why) in [
        ("/v1/stop", json!({"account": "studio"}), "send "),
        ("/v1/stop", json!({"scope": {"acount": "x"}}), "acount"),
        (
            "/v1/stop",
            json!({"scope": {"account": "nobody"}}),
            "no account",
        ),
        ("/v1/stop", json!({"scope": {"tenant": ""}}), "is empty"),
        ("/v1/stop", json!({"wait_s": 11}), "at most 10"),
        ("/v1/go", json!({"scope": "studio"}), "send "),
    ] {
        let reply = say(path, wrong.clone()).await;
        assert_eq!(
            (reply.status, &*reply.problem()),
            (400, "bad-request"),
            "{wrong}"
        );
        assert!(reply.text.contains(why), "{wrong}: {}", reply.text);
    }
    assert_eq!(site.get("/v1/stops").await.json(), json!({"stops": []}));

    let label = json!({"label": "book=dune"});
    let word = json!({"scope": label, "by": "ada", "reason": "a wrong price"});
    let reply = say("/v1/stop", word).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let told = reply.json();
    assert_eq!(
        (&told["closure"]["scope"], &told["slipped"]),
        (&label, &json!([]))
    );
    assert_eq!(told["closure"]["actor"], "http: ada");
    assert!(
        !site.shared.shut.load().is_empty(),
        "this host knows at once"
    );
    let all = say("/v1/stop", json!({})).await;
    assert_eq!(all.json()["closure"]["scope"], json!({}));
    let stops = site.get("/v1/stops").await.json();
    assert_eq!(stops["stops"][0]["reason"], "a wrong price");
    assert_eq!(stops["stops"][1]["cause"], "stop");

    let gone = say("/v1/go", json!({"scope": {"label": "book"}})).await;
    assert_eq!(gone.status, 404, "{gone:?}");
    for scope in [label, json!({})] {
        let gone = say("/v1/go", json!({"scope": scope, "by": "ada"})).await;
        assert_eq!(gone.status, 200, "{gone:?}");
    }
    assert!(site.shared.shut.load().is_empty());
    assert_eq!(site.get("/v1/stops").await.json(), json!({"stops": []}));
}
