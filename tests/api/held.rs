//! A person's word on a held job, over HTTP: it goes on, now or at another time.

use presswork::clock::Time;
use presswork::job::{Job, JobId};
use presswork::lifecycle::State;
use presswork::outcome::{Failure, Held, Outcome};
use serde_json::{Value, json};

use crate::site::{Reply, Site, Wishes};
use crate::tokens::token;

const JSON: &str = "content-type: application/json\r\n";

async fn enqueued(site: &Site, key: &str, not_after: Option<Time>) -> JobId {
    let word = json!({
        "kind": "test.echo", "key": key, "tenant": "acme", "payload": {"text": "a"},
        "not_after": not_after,
    });
    let new = site.post(word.to_string()).await;
    assert_eq!(new.status, 201, "{new:?}");
    new.json()["id"].as_str().unwrap().parse().unwrap()
}

/// A job whose attempt found that it comes too late.
async fn held(site: &Site, key: &str, not_after: Option<Time>) -> JobId {
    let id = enqueued(site, key, not_after).await;
    let job = site.claimed(site.shared.run.id, id).await;
    let why = Failure::permanent("late", "it was due at noon");
    site.ended(&job, Outcome::Held(Held::Policy, why)).await;
    assert_eq!(look(site, id).await.state, State::Held);
    id
}

async fn look(site: &Site, id: JobId) -> Job {
    site.ledger.job(id).await.unwrap().expect("it is there")
}

async fn release(site: &Site, id: JobId, word: &Value) -> Reply {
    let path = format!("/v1/jobs/{id}/release");
    let body = word.to_string();
    site.post_with(&path, JSON, body.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_job_is_released_over_http_now_or_at_another_time() {
    let site = Site::new(Wishes::default()).await;
    let now = site.ledger.now().await.unwrap();
    let hours = |n: i64| now + chrono::Duration::hours(n);

    // at once, with who said so
    let id = held(&site, "now", None).await;
    let word = json!({"by": "ada", "reason": "the news is still news"});
    let reply = release(&site, id, &word).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.json(), json!({"id": id, "state": "ready"}));
    let job = look(&site, id).await;
    assert_eq!((job.state, job.held), (State::Ready, None));
    let audit = site.ledger.audit(Some(id), 20).await.unwrap();
    let one = audit.iter().find(|it| it.action == "release");
    let one = one.expect("it was written down");
    assert_eq!((one.actor.as_str(), one.job), ("http: ada", Some(id)));
    assert!(one.detail.contains("still news"), "{one:?}");

    // it isn't held any more
    let again = release(&site, id, &json!({})).await;
    assert_eq!((again.status, &*again.problem()), (409, "unfit"));
    assert!(again.text.contains("isn't held"), "{again:?}");
    assert_eq!(look(&site, id).await.version, job.version);

    // a time ahead is its new time, one that is past means at once
    let later = held(&site, "later", None).await;
    let reply = release(&site, later, &json!({"at": hours(3)})).await;
    assert_eq!(reply.json(), json!({"id": later, "state": "scheduled"}));
    let job = look(&site, later).await;
    assert_eq!((job.run_at, job.due_at), (hours(3), Some(hours(3))));
    let past = held(&site, "past", None).await;
    let reply = release(&site, past, &json!({"at": hours(-3)})).await;
    assert_eq!(reply.json(), json!({"id": past, "state": "ready"}));
    assert!(now <= look(&site, past).await.run_at);

    // never after its own end, and nothing that is no time
    let ends = held(&site, "ends", Some(hours(2))).await;
    let reply = release(&site, ends, &json!({"at": hours(3)})).await;
    assert_eq!((reply.status, &*reply.problem()), (409, "unfit"));
    assert!(reply.text.contains("not_after"), "{reply:?}");
    for wrong in [
        json!({"at": "tomorrow"}),
        json!({"when": hours(1)}),
        json!([]),
    ] {
        let reply = release(&site, ends, &wrong).await;
        assert_eq!((reply.status, &*reply.problem()), (400, "bad-request"));
        assert!(reply.text.contains("2027-01-31T09:00:00Z"), "{reply:?}");
    }
    assert_eq!(look(&site, ends).await.state, State::Held);
    let reply = release(&site, ends, &json!({"at": hours(1)})).await;
    assert_eq!(reply.json()["state"], "scheduled");

    let gone = release(&site, JobId::mint(), &json!({})).await;
    assert_eq!((gone.status, &*gone.problem()), (404, "no-such-job"));
    let path = format!("/v1/jobs/{ends}/release");
    let wrong = site.get(&path).await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, "POST"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_job_is_released_by_whom_it_is_given() {
    let site = Site::new(Wishes::default()).await;
    let id = held(&site, "k", None).await;
    let release = async |token: &str| {
        let head = format!(
            "POST /v1/jobs/{id}/release HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {token}\r\n{JSON}content-length: 2\r\n\r\n{{}}"
        );
        site.raw(head.as_bytes()).await
    };
    for (scopes, tenant, status, problem) in [
        ("read", None, 403, "scope"),
        ("read", Some("acme"), 403, "scope"),
        ("enqueue", Some("acme"), 403, "scope"),
        // another tenant's job is as if it never was
        ("operate", Some("zeta"), 404, "no-such-job"),
    ] {
        let (_, token) = token(&*site.ledger, scopes, tenant, None).await;
        let reply = release(&token).await;
        assert_eq!(
            (reply.status, &*reply.problem()),
            (status, problem),
            "{scopes} {tenant:?}"
        );
        assert_eq!(look(&site, id).await.state, State::Held);
    }
    let (_, token) = token(&*site.ledger, "operate", Some("acme"), None).await;
    assert_eq!(release(&token).await.status, 200);
    assert_eq!(look(&site, id).await.state, State::Ready);
}
