//! Accounts over HTTP: how they stand, and without any secret.

use std::sync::Arc;

use presswork::config::{Account, Config};
use presswork::gate::Cause;
use serde_json::json;

use super::site::{Site, Wishes};

const JSON: &str = "Content-Type: application/json\r\n";
const SECRET: &str = "the-secret-of-an-account";

fn with_account(config: &mut Config) {
    let account = Account {
        secret: SECRET.into(),
        ..Account::at("x", "http://127.0.0.1:1".parse().expect("an address"))
    };
    config.accounts.insert("bird".to_owned(), account);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_told_stopped_and_let_go_on_over_http() {
    let site = Site::new(Wishes::default()).await;
    let mut config = (**site.shared.config.load()).clone();
    with_account(&mut config);
    site.shared.config.store(Arc::new(config));
    let told = site.get("/v1/accounts").await;
    let all = told.json();
    assert_eq!(
        (&all["accounts"][0]["name"], &all["accounts"][0]["home"]),
        (&json!("bird"), &json!("jobs.toml")),
        "{all}"
    );
    assert_eq!(all["accounts"][0]["state"], "ok");
    assert!(!told.text.contains(SECRET), "{}", told.text);
    let say = async |path: &str, word: &str| site.post_with(path, JSON, word.as_bytes()).await;
    let word = r#"{"by": "ada", "reason": "a wrong price"}"#;
    let reply = say("/v1/accounts/bird/pause", word).await;
    let paused = reply.json();
    assert_eq!((reply.status, &paused["changed"]), (200, &json!(true)));
    assert_eq!(
        (&paused["account"]["state"], &paused["account"]["why"]),
        (&json!("paused"), &json!("a wrong price"))
    );
    let closures = site.ledger.closures().await.expect("a list");
    assert_eq!((closures.len(), closures[0].cause), (1, Cause::Stop));
    assert_eq!(closures[0].actor, "http: ada");
    let again = say("/v1/accounts/bird/pause", word).await.json();
    assert_eq!(again["changed"], false);
    let resumed = say("/v1/accounts/bird/resume", "{}").await.json();
    assert_eq!(
        (&resumed["changed"], &resumed["account"]["state"]),
        (&json!(true), &json!("ok"))
    );
    let again = say("/v1/accounts/bird/resume", "{}").await.json();
    assert_eq!(again["changed"], false);
    let none = say("/v1/accounts/brid/pause", "{}").await;
    assert_eq!((none.status, &*none.problem()), (404, "not-found"));
    assert!(none.text.contains("did you mean `bird`"), "{}", none.text);
    let bad = say("/v1/accounts/bird/pause", r#"{"reasn": ""}"#).await;
    assert_eq!((bad.status, &*bad.problem()), (400, "bad-request"));
}
