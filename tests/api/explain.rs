//! Why a job isn't running, over HTTP: in full for operators, and for users without hosts, people, others'
//! jobs and commands.

use std::time::Duration;

use presswork::gate::{Cause, Closure, Scope};
use presswork::job::JobId;
use presswork::ledger::Run;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::site::{Reply, Site, site};
use crate::tokens::token;

fn envelope(key: &str, tenant: &str) -> String {
    json!({"kind": "test.echo", "key": key, "tenant": tenant, "payload": {"text": "a"}}).to_string()
}

/// A new job; where it is explained.
async fn enqueued(site: &Site, key: &str, tenant: &str) -> (JobId, String) {
    let new = site.post(envelope(key, tenant)).await;
    assert_eq!(new.status, 201, "{new:?}");
    let id = new.json()["id"].as_str().and_then(|it| it.parse().ok());
    let path = format!("{}/explain", new.header("location"));
    (id.expect("an id"), path)
}

async fn get_as(site: &Site, token: &str, path: &str) -> Reply {
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    site.raw(head.as_bytes()).await
}

fn kinds_of(told: &Value) -> Vec<&str> {
    let all = told["constraints"].as_array().expect("a list").iter();
    all.filter_map(|it| it["what"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_keeps_a_job_is_told_and_to_users_without_hosts_and_people() {
    let site = site().await;
    let (first, path) = enqueued(&site, "first", "acme").await;
    let (_, behind) = enqueued(&site, "behind", "acme").await;
    let free = site.get(&path).await.json();
    assert_eq!(
        (&free["state"], &free["constraints"]),
        (&json!("ready"), &json!([]))
    );
    assert!(
        free["place"]["text"]
            .as_str()
            .is_some_and(|it| it.contains("it is next"))
    );
    let next = site.get(&behind).await.json();
    assert_eq!(next["place"]["before"], 1, "{next}");

    let now = site.ledger.now().await.unwrap();
    let scope = Scope {
        tenant: Some("acme".to_owned()),
        ..Scope::default()
    };
    let stop = Closure::new(Cause::Stop, scope.clone(), ("ada", "a wrong price"), now);
    site.ledger.close(&stop, true, None).await.unwrap();
    let told = site.get(&behind).await.json();
    assert_eq!(kinds_of(&told), ["stop"]);
    let one = &told["constraints"][0];
    assert_eq!(
        (&one["by"], &one["command"]),
        (&json!("ada"), &json!("presswork go --tenant acme"))
    );
    assert!(
        one["text"]
            .as_str()
            .is_some_and(|it| it.contains("a wrong price"))
    );

    let (_, user) = token(&*site.ledger, "read", Some("acme"), None).await;
    let seen = get_as(&site, &user, &behind).await;
    assert_eq!((seen.status, kinds_of(&seen.json())), (200, vec!["stop"]));
    let seen = &seen.text;
    assert!(
        !seen.contains("ada") && !seen.contains("wrong price") && !seen.contains("presswork"),
        "{seen}"
    );
    for (tenant, in_full) in [(None, true), (Some("acme"), false)] {
        let (_, operator) = token(&*site.ledger, "operate", tenant, None).await;
        let seen = get_as(&site, &operator, &behind).await;
        assert_eq!(seen.text.contains("a wrong price"), in_full, "{seen:?}");
    }
    // another tenant's job is as if it never was
    let (_, others) = enqueued(&site, "other", "zeta").await;
    let hidden = get_as(&site, &user, &others).await;
    assert_eq!(
        (hidden.status, hidden.problem().as_str()),
        (404, "no-such-job")
    );
    let (_, none) = token(&*site.ledger, "enqueue", None, None).await;
    assert_eq!(get_as(&site, &none, &behind).await.status, 403);

    // one that runs, and another one's host
    site.ledger.open(Cause::Stop, &scope, None).await.unwrap();
    let run = Run {
        id: Uuid::now_v7(),
        host: "press-9".to_owned(),
        boot: None,
        pid: 9,
        version: "0".to_owned(),
        began_at: now,
    };
    let lease = Duration::from_secs(600);
    site.ledger.begin_run(&run, lease).await.unwrap();
    site.claimed(run.id, first).await;
    let told = site.get(&path).await.json();
    assert_eq!(kinds_of(&told), ["running"]);
    assert_eq!(told["constraints"][0]["by"], "press-9");
    let seen = get_as(&site, &user, &path).await;
    assert_eq!(kinds_of(&seen.json()), ["running"]);
    assert!(!seen.text.contains("press-9"), "{seen:?}");
    assert_eq!(seen.json()["constraints"][0]["text"], "It is under way.");
}
