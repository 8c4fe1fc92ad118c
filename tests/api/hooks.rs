//! Call-backs: who is believed, what they lead to, and what they can't do.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use presswork::config::{Account, Config};
use presswork::effect::{Effect, EffectClass, EffectState, Evidence, Receipt, UNDER_WAY};
use presswork::job::{Job, JobId};
use presswork::ledger::{Conclusion, Fence};
use presswork::lifecycle::State;
use presswork::outcome::Outcome;
use serde_json::json;
use sha2::Sha256;
use tokio::io::AsyncWriteExt;

use crate::kit::wait;
use crate::site::{Reply, SOON, Site, TOKEN, Wishes, site};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Accounts of OpenAI: one that is called back, and one that isn't.
async fn listening(wishes: Wishes) -> Site {
    let site = Site::new(wishes).await;
    let account = |secret: Option<&str>| Account {
        secret: "sk-0123456789".into(),
        webhook_secret: secret.map(Into::into),
        ..Account::at("openai", "https://api.example.com/v1".parse().unwrap())
    };
    let mut config = Config::clone(&site.shared.config.load());
    config
        .accounts
        .insert("studio".into(), account(Some(SECRET)));
    config.accounts.insert("quiet".into(), account(None));
    site.shared.config.store(Arc::new(config));
    site
}

/// The headers of a message, signed with a secret, its time so many seconds from now.
fn signed(secret: &str, id: &str, body: &str, from_now: i64) -> String {
    let at = chrono::Utc::now().timestamp() + from_now;
    let key = STANDARD
        .decode(secret.strip_prefix("whsec_").unwrap())
        .unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{id}.{at}.{body}").as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    format!(
        "content-type: application/json\r\nwebhook-id: {id}\r\nwebhook-timestamp: {at}\r\nwebhook-signature: v1,{signature}\r\n"
    )
}

fn event(handle: &str) -> String {
    json!({"object": "event", "id": "evt_1", "type": "response.completed", "created_at": 1, "data": {"id": handle}})
        .to_string()
}

impl Site {
    async fn call(&self, account: &str, headers: &str, body: &str) -> Reply {
        let path = format!("/v1/hooks/{account}");
        self.post_with(&path, headers, body.as_bytes()).await
    }

    /// A good call-back; what it led to.
    async fn called(&self, id: &str, handle: &str) -> String {
        let body = event(handle);
        let reply = self
            .call("studio", &signed(SECRET, id, &body, 0), &body)
            .await;
        assert_eq!(reply.status, 202, "{reply:?}");
        reply.json()["led_to"].as_str().unwrap().to_owned()
    }

    async fn job(&self, id: JobId) -> Job {
        self.ledger.job(id).await.unwrap().unwrap()
    }

    /// A job that is running, and for which OpenAI works on `handle`.
    async fn adopting(&self, handle: &str) -> Job {
        let body = json!({"kind": "test.echo", "payload": {"text": handle}});
        let id = self.post_as(&body.to_string()).await;
        let ledger = &*self.shared.ledger;
        let job = self.claimed(self.shared.run.id, id).await;
        let fence = Fence {
            job: id,
            revision: 0,
            token: job.token.unwrap(),
            run: self.shared.run.id,
        };
        let effect = Effect {
            intent: "5f6c".to_owned(),
            ..Effect::new(
                (id, 0),
                ("generate", 0),
                "studio",
                "openai.response",
                EffectClass::P,
            )
        };
        ledger.intend(&fence, &effect).await.unwrap();
        let from = (EffectState::Intended, 0);
        let budget = Duration::from_secs(1);
        assert!(
            ledger
                .permit(&fence, effect.id, from, budget, None)
                .await
                .unwrap()
        );
        let at = ledger.now().await.unwrap();
        let confirmed = Conclusion {
            to: EffectState::Confirmed,
            receipt: Some(Receipt {
                remote_id: Some(handle.to_owned()),
                url: None,
                at,
                detail: json!({UNDER_WAY: true}),
            }),
            evidence: Evidence::new(at, "send 1: confirmed".to_owned()),
            look_in: None,
        };
        assert!(ledger.conclude(effect.id, 1, &confirmed).await.unwrap());
        job
    }

    async fn post_as(&self, body: &str) -> JobId {
        let headers =
            format!("content-type: application/json\r\nauthorization: Bearer {TOKEN}\r\n");
        let reply = self.post_with("/v1/jobs", &headers, body.as_bytes()).await;
        reply.json()["id"].as_str().unwrap().parse().unwrap()
    }

    /// The job waits for an hour.
    async fn put_off(&self, job: &Job) {
        let now = self.ledger.now().await.unwrap();
        let outcome = Outcome::Snoozed {
            until: now + chrono::TimeDelta::hours(1),
            reason: "OpenAI works".to_owned(),
        };
        self.ended(job, outcome).await;
        assert_eq!(self.job(job.id).await.state, State::Scheduled);
    }
}

fn with_token() -> Wishes {
    Wishes {
        token: Some(TOKEN),
        ..Wishes::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_back_wakes_its_job_once_and_needs_no_token() {
    let site = listening(with_token()).await;
    let job = site.adopting("resp_1").await;
    site.put_off(&job).await;
    // one that comes before the handle is known, or about another
    assert_eq!(site.called("wh_0", "resp_0").await, "nobody");
    assert_eq!(site.job(job.id).await.state, State::Scheduled);
    assert_eq!(site.called("wh_1", "resp_1").await, "woken");
    let woken = site.job(job.id).await;
    assert_eq!(
        (woken.state, woken.attempts),
        (State::Ready, 0),
        "{woken:?}"
    );
    assert!(woken.run_at <= site.ledger.now().await.unwrap());
    assert_eq!(site.called("wh_1", "resp_1").await, "repeated");
    assert_eq!(
        site.job(job.id).await.version,
        woken.version,
        "nothing was done"
    );
    // and the token still guards all else
    assert_eq!(site.get("/v1/unresolved").await.status, 401);
    assert_eq!(site.get("/v1/hooksx").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_accounts_own_signature_is_believed_and_nothing_tells_why() {
    let site = listening(with_token()).await;
    let job = site.adopting("resp_1").await;
    site.put_off(&job).await;
    let body = event("resp_1");
    let good = signed(SECRET, "wh_1", &body, 0);
    let refused = [
        site.call("studio", &signed(OTHER, "wh_1", &body, 0), &body)
            .await,
        site.call("studio", &good, &body.replace("evt_1", "evt_2"))
            .await,
        site.call("studio", &good.replace("wh_1", "wh_2"), &body)
            .await,
        site.call("nobody", &good, &body).await,
        site.call("quiet", &good, &body).await,
        site.call("quiet", &signed(OTHER, "wh_1", &body, 0), &body)
            .await,
        site.call("%ff", &good, &body).await,
    ];
    for it in &refused {
        assert_eq!(
            (it.status, it.problem().as_str()),
            (401, "unsigned"),
            "{it:?}"
        );
        assert_eq!(it.text, refused[0].text, "nothing tells which");
    }
    for late in [-400, 400] {
        let it = site
            .call("studio", &signed(SECRET, "wh_1", &body, late), &body)
            .await;
        assert_eq!(
            (it.status, it.problem().as_str()),
            (401, "unsigned"),
            "{it:?}"
        );
    }
    let bare = site
        .call("studio", "content-type: application/json\r\n", &body)
        .await;
    assert_eq!(bare.status, 401);
    let still = site.job(job.id).await;
    assert_eq!(still.state, State::Scheduled, "{still:?}");
    // what was refused used nothing up
    assert_eq!(site.called("wh_1", "resp_1").await, "woken");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_and_makes_no_sense_is_taken_and_does_nothing() {
    let site = listening(Wishes::default()).await;
    for (n, body) in [
        "",
        "x",
        "[]",
        r#"{"type":"batch.completed","data":{"id":"resp_1"}}"#,
    ]
    .iter()
    .enumerate()
    {
        let headers = signed(SECRET, &format!("wh_{n}"), body, 0);
        // through a proxy that is asked for by its own name
        let headers = format!("{headers}x-forwarded-host: hooks.example\r\n");
        let reply = site.call("studio", &headers, body).await;
        assert_eq!(reply.status, 202, "{reply:?}");
        assert_eq!(reply.json()["led_to"], "nobody");
    }
    let huge = "x".repeat(64 * 1024 + 1);
    let reply = site
        .call("studio", &signed(SECRET, "wh_9", &huge, 0), &huge)
        .await;
    assert_eq!((reply.status, reply.problem().as_str()), (413, "too-large"));
    let get = site.get("/v1/hooks/studio").await;
    assert_eq!((get.status, get.header("allow")), (405, "POST"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_asks_right_now_is_waited_for() {
    let site = listening(Wishes {
        token: Some(TOKEN),
        ..Wishes::default()
    })
    .await;
    let job = site.adopting("resp_1").await;
    // it never comes to an end: the platform is asked to send it again, and that counts as the first
    let body = event("resp_1");
    let reply = site
        .call("studio", &signed(SECRET, "wh_1", &body, 0), &body)
        .await;
    assert_eq!((reply.status, reply.problem().as_str()), (503, "busy"));
    let call = site.called("wh_1", "resp_1");
    let put_off = async {
        tokio::task::yield_now().await;
        site.put_off(&job).await;
    };
    let (led_to, ()) = tokio::join!(call, put_off);
    assert_eq!(led_to, "woken");
    assert_eq!(site.job(job.id).await.state, State::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn call_backs_that_hang_take_no_place_of_others() {
    let site = site().await;
    let head = format!(
        "POST /v1/hooks/studio HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n{}\r\n",
        signed(SECRET, "wh_1", "", 0)
    );
    let hanging = std::sync::Mutex::new(vec![]);
    let hang = async || {
        let mut stream = site.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        hanging.lock().unwrap().push(stream);
    };
    for _ in 0..16 {
        hang().await;
    }
    wait::until("there is no place left", SOON, async || {
        let reply = site
            .call("studio", &signed(SECRET, "wh_1", "", 0), "")
            .await;
        let is_full = (reply.status, reply.problem().as_str()) == (503, "busy");
        if !is_full {
            // this very look may have had the place that one of them then didn't get
            hang().await;
        }
        is_full
    })
    .await;
    assert_eq!(site.get("/v1/unresolved").await.status, 200);
    drop(hanging);
    wait::until("there is room again", SOON, async || {
        site.call("studio", &signed(SECRET, "wh_1", "", 0), "")
            .await
            .status
            == 401
    })
    .await;
}
