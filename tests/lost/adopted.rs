//! Work that OpenAI goes on with, by real daemons: killed around the write that stores its handle, it is
//! paid for once; and call-backs over the wire.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use presswork::lifecycle::State;
use serde_json::{Value, json};
use sha2::Sha256;
use tempfile::TempDir;

use crate::Place;
use crate::kit::wait;
use crate::world::{ENDED, Host, READY, client, ended};

pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A place whose account `caller` is called back.
struct Office {
    place: Place,
    _secrets: TempDir,
}

impl Office {
    async fn new(settings: Value) -> Self {
        let mut place = Place::new().await;
        let secrets = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = secrets.path().join(name);
            std::fs::write(&path, text).expect("a secret can be written");
            path.display().to_string()
        };
        let (key, hook) = (file("key", "sandbox-caller"), file("hook", SECRET));
        place.stores.more.push_str(&format!(
            "[accounts.caller]\nplatform = \"openai\"\nbase_url = \"{}/openai\"\n\
             secret = {{ file = \"{key}\" }}\nwebhook_secret = {{ file = \"{hook}\" }}\n",
            place.outside.url
        ));
        let office = Self {
            place,
            _secrets: secrets,
        };
        office.tell("settings", settings).await;
        office
    }

    async fn tell(&self, what: &str, body: Value) {
        let url = format!("{}/_sandbox/{what}", self.place.outside.url);
        let told = client().post(url).json(&body).send().await;
        assert!(told.expect("the sandbox answers").status().is_success());
    }

    async fn calls(&self) -> Vec<Value> {
        let url = format!("{}/_sandbox/calls", self.place.outside.url);
        let told = client().get(url).send().await.expect("it answers");
        serde_json::from_str(&told.text().await.expect("a text")).expect("JSON")
    }

    /// How often a response was begun.
    async fn begun(&self) -> usize {
        let acts = self.place.outside.acts().await;
        acts.iter()
            .filter(|it| it["op"] == "response.create")
            .count()
    }

    async fn submit(&self, host: &Host, key: &str) {
        let payload = json!({"model": "gpt-5-mini", "prompt": key, "background": true});
        let envelope = json!({"v": 1, "kind": "generate.text", "key": key, "account": "caller", "payload": payload});
        host.submit(&envelope).await;
    }

    /// Waits until a job has been put off while OpenAI works under the handle that is returned.
    async fn adopted(&self, key: &str) -> String {
        wait::until("its work is adopted", ENDED, async || {
            let jobs = crate::by_key(&*self.place.ledger).await;
            let job = jobs.into_iter().find(|it| it.key.as_deref() == Some(key));
            job.is_some_and(|it| it.state == State::Scheduled)
        })
        .await;
        let (_, effect) = self.place.job(key).await;
        effect.handle.expect("it is stored with the answer")
    }

    async fn completed(&self, key: &str) {
        let (job, effect) = self.place.job(key).await;
        assert_eq!(job.state, State::Completed, "{job:?} {effect:?}");
        assert_eq!((job.attempts, effect.handle), (0, None), "{job:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemons_paid_work_is_asked_about_by_another_host() {
    let office = Office::new(json!({"openai_work_ms": 600_000})).await;
    let (first, second) = (office.place.host(), office.place.host());
    let daemon = first.run();
    daemon.wait_ready(first.api, READY).await;
    office.submit(&first, "job-000001").await;
    office.adopted("job-000001").await;
    daemon.kill9();
    let heir = second.run();
    heir.wait_ready(second.api, READY).await;
    office.tell("clock", json!({"advance_s": 600})).await;
    ended(&*office.place.ledger, 1, ENDED).await;
    office.completed("job-000001").await;
    assert_eq!(office.begun().await, 1, "paid for once");
}

#[cfg(feature = "crashpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn killed_around_the_write_of_its_handle_work_is_paid_for_once() {
    // the answer is in the send journal; it is in the ledger; the attempt has yet to be settled
    for point in [
        "effect.after_response",
        "effect.after_conclude",
        "settle.before_commit",
    ] {
        let office = Office::new(json!({"openai_work_ms": 0})).await;
        let host = office.place.host();
        let daemon = host.run_to(point, "kill");
        daemon.wait_ready(host.api, READY).await;
        office.submit(&host, "job-000001").await;
        assert!(!daemon.wait_exit(READY).await.success(), "{point}");
        let again = host.run();
        again.wait_ready(host.api, READY).await;
        ended(&*office.place.ledger, 1, ENDED).await;
        office.completed("job-000001").await;
        assert_eq!(office.begun().await, 1, "{point}");
    }
}

pub fn signed(id: &str, body: &str) -> [(&'static str, String); 3] {
    let at = chrono::Utc::now().timestamp();
    let key = STANDARD.decode(SECRET.strip_prefix("whsec_").expect("it begins so"));
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.expect("base64")).expect("a key");
    mac.update(format!("{id}.{at}.{body}").as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    [
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", at.to_string()),
        ("webhook-signature", format!("v1,{signature}")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_back_ends_a_long_wait() {
    let office = Office::new(json!({"openai_work_ms": 600_000})).await;
    let host = office.place.host();
    let daemon = host.run();
    daemon.wait_ready(host.api, READY).await;
    office.submit(&host, "job-000001").await;
    // the older the work is, the longer are the waits between two questions
    let far = chrono::TimeDelta::seconds(7);
    wait::until("it is put off for long", ENDED, async || {
        let jobs = crate::by_key(&*office.place.ledger).await;
        let now = office.place.ledger.now().await.expect("it answers");
        let waits =
            |it: &presswork::job::Job| it.state == State::Scheduled && now + far < it.run_at;
        jobs.iter().any(waits)
    })
    .await;
    let handle = office.adopted("job-000001").await;
    office.tell("clock", json!({"advance_s": 600})).await;
    let body = json!({"type": "response.completed", "data": {"id": handle}}).to_string();
    let url = format!("http://{}/v1/hooks/caller", host.api);
    let mut call = client().post(url).body(body.clone());
    for (name, value) in signed("wh_1", &body) {
        call = call.header(name, value);
    }
    let since = std::time::Instant::now();
    let answer = call.send().await.expect("the daemon answers");
    assert_eq!(answer.status(), 202);
    ended(&*office.place.ledger, 1, ENDED).await;
    let took = since.elapsed();
    println!("ended {took:?} after the call-back");
    assert!(took < Duration::from_secs(5), "not by the next question");
    office.completed("job-000001").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_call_backs_each_job_ends_once() {
    let office = Office::new(json!({})).await;
    let host = office.place.host();
    let daemon = host.run();
    daemon.wait_ready(host.api, READY).await;
    let plans = ["once", "twice", "late", "never", "forged", "early"];
    for (n, plan) in plans.iter().enumerate() {
        let work_ms = if *plan == "early" { 0 } else { 1_500 };
        let settings = json!({
            "openai_work_ms": work_ms, "openai_hook": plan, "openai_hook_late_ms": 3_000,
            "openai_hook_url": format!("http://{}/v1/hooks/caller", host.api), "openai_hook_secret": SECRET,
        });
        office.tell("settings", settings).await;
        office.submit(&host, &format!("job-{n:06}")).await;
        wait::until("it is begun", ENDED, async || office.begun().await == n + 1).await;
    }
    ended(&*office.place.ledger, plans.len(), ENDED).await;
    for n in 0..plans.len() {
        office.completed(&format!("job-{n:06}")).await;
    }
    // those that are still under way are sent, too: 1 + 2 + 1 + 0 + 1 + 1
    wait::until("all were sent", Duration::from_secs(60), async || {
        let calls = office.calls().await;
        let final_ones = calls.iter().filter(|it| it["status"] != 503);
        final_ones.count() == 6
    })
    .await;
    let refused = office
        .calls()
        .await
        .iter()
        .filter(|it| it["status"] == 401)
        .count();
    assert_eq!(refused, 1, "the forged one");
    assert_eq!(office.begun().await, plans.len());
}
