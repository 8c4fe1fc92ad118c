//! Budgets over HTTP.

use serde_json::json;

use super::site::{Site, Wishes};

const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_told_and_changed_over_http() {
    let site = Site::new(Wishes::default()).await;
    let say = async |path: &str, word: serde_json::Value| {
        let body = word.to_string();
        site.post_with(path, JSON, body.as_bytes()).await
    };
    let told = async || {
        let all = site.get("/v1/budgets").await.json();
        let all = all["budgets"].as_array().expect("a list").clone();
        let one = all.into_iter().find(|it| it["budget"] == "x-posts");
        one.expect("it is built in")
    };
    let before = told().await;
    assert_eq!(
        (&before["most"], &before["used"], &before["changed"]),
        (&json!(100), &json!(0), &json!(null))
    );
    for (word, why) in [
        (json!({"most": 0}), "1 to"),
        (json!({"most": "ten"}), "a whole number"),
        (json!({"mots": 1}), "mots"),
    ] {
        let reply = say("/v1/budgets/x-posts", word.clone()).await;
        assert_eq!(
            (reply.status, &*reply.problem()),
            (400, "bad-request"),
            "{word}"
        );
        assert!(reply.text.contains(why), "{word}: {}", reply.text);
    }
    let reply = say("/v1/budgets/x-post", json!({"most": 1})).await;
    assert_eq!(reply.status, 404);
    assert!(
        reply.text.contains("did you mean `x-posts`"),
        "{}",
        reply.text
    );

    let word = json!({"most": 10, "for_s": 7200, "by": "ada", "reason": "new"});
    assert_eq!(say("/v1/budgets/x-posts", word).await.status, 200);
    let after = told().await;
    assert_eq!(
        (&after["most"], &after["changed"]["actor"]),
        (&json!(10), &json!("http: ada"))
    );
    let back = say("/v1/budgets/x-posts", json!({"most": null})).await;
    assert_eq!(back.json(), json!({"budget": "x-posts", "changed": true}));
    assert_eq!(told().await, before);
}
