//! Jobs looked at and called off, probes, metrics, and a ledger that goes away.

use std::sync::atomic::Ordering;

use presswork::ledger::{Audit, Pause};
use serde_json::json;

use crate::kit::wait;
use crate::site::{SOON, Site, Wishes, far_ledgers, site};

const ENVELOPE: &str = r#"{"kind":"test.echo","payload":{"text":"a"},"labels":{"a":"b"}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_says_where_it_stands_and_why() {
    let site = site().await;
    let new = site.post(ENVELOPE).await;
    let place = new.header("location").to_owned();
    let job = site.get(&place).await;
    assert_eq!(
        (job.status, job.header("content-type")),
        (200, "application/json")
    );
    let job = job.json();
    assert_eq!(job["id"], new.json()["id"]);
    assert_eq!(
        (&job["state"], &job["kind"]),
        (&json!("ready"), &json!("test.echo"))
    );
    assert_eq!(job["payload"], json!({"text": "a"}));
    assert_eq!(job["labels"], json!({"a": "b"}));
    assert_eq!((&job["history"], &job["effects"]), (&json!([]), &json!([])));
    let why = |job: &serde_json::Value| job["why"].as_str().unwrap_or_default().to_owned();
    assert!(why(&job).contains("Nothing stands in its way"), "{job}");
    let pause = Pause {
        lane: "default".into(),
        reason: "repairs".into(),
        by: "ann".into(),
        at: site.ledger.now().await.unwrap(),
    };
    let audit = Audit {
        actor: "ann".into(),
        action: "pause".into(),
        job: None,
        detail: String::new(),
        at: pause.at,
    };
    site.ledger
        .pause("default", Some(&pause), &audit)
        .await
        .unwrap();
    let paused = why(&site.get(&place).await.json());
    assert!(
        paused.starts_with("Its lane `default` is paused by ann since ")
            && paused.ends_with(": repairs."),
        "{paused}"
    );
    let later = r#"{"kind":"test.echo","payload":{"text":"a"},"run_at":"2199-01-01T00:00:00Z"}"#;
    let later = site.post(later).await;
    let later = site.get(later.header("location")).await.json();
    assert_eq!(later["state"], "scheduled");
    assert!(
        why(&later).starts_with("It waits for its time, 2199-01-01T00:00:00Z"),
        "{later}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_with_what_is() {
    let site = site().await;
    let none = site
        .get("/v1/jobs/01890000-0000-7000-8000-000000000000")
        .await;
    assert_eq!((none.status, none.problem().as_str()), (404, "no-such-job"));
    for bad in ["/v1/jobs/7", "/v1/jobs/%ff", "/v1/jobs/x%2fy"] {
        let bad = site.get(bad).await;
        assert_eq!((bad.status, bad.problem().as_str()), (400, "bad-request"));
    }
    let path = site.get("/v2/jobs").await;
    assert_eq!(
        (path.status, path.problem().as_str()),
        (404, "no-such-path")
    );
    let endpoints = path.json()["endpoints"].as_array().unwrap().clone();
    assert!(endpoints.contains(&json!("POST /v1/jobs")));
    // each that is told is there, and says so of any other method
    for endpoint in &endpoints {
        let (method, path) = endpoint.as_str().unwrap().split_once(' ').unwrap();
        let path = path.replace(['{', '}'], "");
        let allowed = if method == "POST" {
            "POST"
        } else {
            "GET, HEAD"
        };
        let head = format!("PUT {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let reply = site.raw(head.as_bytes()).await;
        assert_eq!(
            (reply.status, reply.header("allow")),
            (405, allowed),
            "{path}"
        );
    }
    for (method, path, allowed) in [
        ("GET", "/v1/jobs", "POST"),
        ("DELETE", "/v1/jobs/7", "GET, HEAD"),
        ("GET", "/v1/jobs/7/cancel", "POST"),
        ("POST", "/readyz", "GET, HEAD"),
        ("OPTIONS", "/v1/jobs", "POST"),
    ] {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let reply = site.raw(head.as_bytes()).await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (405, "wrong-method"),
            "{method} {path}"
        );
        assert_eq!(reply.header("allow"), allowed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_job_is_called_off_once() {
    let site = site().await;
    let place = site.post(ENVELOPE).await.header("location").to_owned();
    let path = format!("{place}/cancel");
    let wrong = site
        .post_with(
            &path,
            "content-type: application/json\r\n",
            b"{\"because\":1}",
        )
        .await;
    assert_eq!(wrong.status, 400);
    let large = vec![b' '; 5_000];
    assert_eq!(site.post_with(&path, "", &large).await.status, 413);
    let off = site
        .post_with(
            &path,
            "content-type: application/json\r\n",
            b"{\"reason\":\"a slip\"}",
        )
        .await;
    assert_eq!(
        (off.status, &off.json()["state"]),
        (200, &json!("cancelled"))
    );
    let shown = site.get(&place).await.json();
    assert!(
        shown["why"]
            .as_str()
            .unwrap()
            .starts_with("It was cancelled at "),
        "{shown}"
    );
    let id = shown["id"].as_str().unwrap().parse().unwrap();
    let audit = site.ledger.audit(Some(id), 10).await.unwrap();
    assert!(
        audit
            .iter()
            .any(|it| it.actor == "http" && it.detail == "a slip"),
        "{audit:?}"
    );
    let again = site.post_with(&path, "", b"").await;
    assert_eq!((again.status, again.problem().as_str()), (409, "unfit"));
    let none = site
        .post_with(
            "/v1/jobs/01890000-0000-7000-8000-000000000000/cancel",
            "",
            b"",
        )
        .await;
    assert_eq!((none.status, none.problem().as_str()), (404, "no-such-job"));
    assert_eq!(
        site.post_with("/v1/jobs/7/cancel", "", b"").await.status,
        400
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_means_ledger_lease_and_no_drain_but_not_the_queue() {
    let site = site().await;
    assert_eq!(site.get("/livez").await.status, 200);
    let ready = site.get("/readyz").await;
    assert_eq!(ready.status, 200, "{ready:?}");
    // nothing has filled the queue: that is told, and doesn't count
    assert_eq!(
        ready.json()["queue"],
        json!({"name": "memory", "usable": false})
    );
    site.shared.ledger_up.store(false, Ordering::SeqCst);
    assert_eq!(site.get("/readyz").await.status, 503);
    site.shared.ledger_up.store(true, Ordering::SeqCst);
    assert_eq!(site.get("/readyz").await.status, 200);
    site.ledger.end_run(site.shared.run_id()).await.unwrap();
    wait::until("the lost lease shows", SOON, async || {
        let reply = site.get("/readyz").await;
        reply.status == 503 && reply.json()["lease_held"] == false
    })
    .await;
    assert_eq!(site.get("/livez").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_daemon_lives_and_is_not_ready() {
    let site = site().await;
    assert_eq!(site.get("/readyz").await.status, 200);
    site.shared.draining.cancel();
    let reply = site.get("/readyz").await;
    assert_eq!(
        (reply.status, &reply.json()["draining"]),
        (503, &json!(true))
    );
    assert_eq!(site.get("/livez").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_as_prometheus_reads_them() {
    let site = site().await;
    let reply = site.get("/metrics").await;
    assert_eq!(
        (reply.status, reply.text.as_str()),
        (200, "presswork_up 1\n")
    );
    assert_eq!(
        reply.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_away_is_told_and_comes_back_by_itself() {
    let (proxy, ledgers) = far_ledgers().await;
    let site = Site::new(Wishes {
        ledgers: Some(ledgers),
        ..Wishes::default()
    })
    .await;
    let body = r#"{"kind":"test.echo","key":"k","payload":{"text":"a"}}"#;
    let place = site.post(body).await.header("location").to_owned();
    assert_eq!(site.get("/readyz").await.status, 200);
    proxy.refuse();
    let away = site.post(body).await;
    assert_eq!((away.status, away.problem().as_str()), (503, "ledger-away"));
    assert!(!away.header("retry-after").is_empty());
    let many = site.post(format!("[{body},7]")).await;
    assert_eq!(
        (&many.json()[0]["status"], &many.json()[1]["status"]),
        (&json!(503), &json!(422))
    );
    assert!(!many.header("retry-after").is_empty());
    let away = site.get(&place).await;
    assert_eq!((away.status, away.problem().as_str()), (503, "ledger-away"));
    assert_eq!(
        site.post_with(&format!("{place}/cancel"), "", b"")
            .await
            .status,
        503
    );
    wait::until("it isn't ready", SOON, async || {
        site.get("/readyz").await.status == 503
    })
    .await;
    assert_eq!(site.get("/livez").await.status, 200);
    proxy.heal();
    wait::until("it is ready again", SOON, async || {
        site.get("/readyz").await.status == 200
    })
    .await;
    let back = site.post(body).await;
    assert_eq!(
        (back.status, back.json()["result"].clone()),
        (200, json!("same"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_is_read_as_the_readme_says() {
    let site = site().await;
    let null = r#"{"v":null,"kind":"test.echo","payload":{"text":"a"},"key":null,"labels":null}"#;
    assert_eq!(site.post(null).await.status, 201);
    let wrong = site
        .post(r#"{"kind":null,"labels":{"":"x","ok":7},"payload":null}"#)
        .await;
    assert_eq!(wrong.status, 422);
    let wrong = wrong.json();
    let violations = wrong["violations"].as_array().unwrap();
    let pointers: Vec<_> = violations.iter().map(|it| &it["pointer"]).collect();
    assert_eq!(pointers, ["/labels/", "/labels/ok", "/kind", "/payload"]);
}
