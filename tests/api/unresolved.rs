//! What only a person can say, over HTTP: the list, the evidence, the word, and receipts.

use std::time::Duration;

use presswork::effect::{Effect, EffectClass, EffectState, Evidence};
use presswork::job::JobId;
use presswork::ledger::{Conclusion, Fence};
use presswork::lifecycle::State;
use presswork::outcome::{Class, Failure, Outcome, Scope};
use serde_json::json;

use super::site::{Site, Wishes};

const JSON: &str = "content-type: application/json\r\n";

/// A job whose effect was sent once, whose answer was lost, and which nobody could look up.
pub async fn lost(site: &Site, text: &str) -> JobId {
    let body = json!({"kind": "test.echo", "payload": {"text": text}});
    let reply = site.post(body.to_string()).await;
    let id: JobId = reply.json()["id"].as_str().unwrap().parse().unwrap();
    let (ledger, run) = (&*site.shared.ledger, site.shared.run.clone());
    let lease = Duration::from_secs(600);
    ledger.begin_run(&run, lease).await.unwrap();
    let job = site.claimed(run.id, id).await;
    let token = job.token.unwrap();
    let fence = Fence {
        job: id,
        revision: 0,
        token,
        run: run.id,
    };
    let effect = Effect {
        intent: "5f6c".to_owned(),
        keep: json!({"a key": "of ours"}),
        ..Effect::new((id, 0), ("publish", 0), "main", "x.post", EffectClass::C)
    };
    ledger.intend(&fence, &effect).await.unwrap().unwrap();
    let from = (EffectState::Intended, 0);
    assert!(
        ledger
            .permit(&fence, effect.id, from, Duration::ZERO, None)
            .await
            .unwrap()
    );
    let now = ledger.now().await.unwrap();
    let conclusion = Conclusion {
        to: EffectState::Unresolved,
        receipt: None,
        evidence: Evidence::new(now, "send 1: reset: the answer was lost".to_owned()),
        look_in: None,
    };
    assert!(ledger.conclude(effect.id, 1, &conclusion).await.unwrap());
    let failure = Failure::new(Class::Unknown, Scope::Platform, "unresolved", "look there");
    site.ended(&job, Outcome::Unresolved(failure)).await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_says_what_happened_over_http() {
    let site = Site::new(Wishes::default()).await;
    let (there, gone) = (lost(&site, "there").await, lost(&site, "gone").await);

    let list = site.get("/v1/unresolved").await;
    assert_eq!(list.status, 200);
    let told = list.json();
    let ids: Vec<&str> = told["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["job"]["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, [gone.to_string(), there.to_string()], "newest first");
    let effect = &told["jobs"][1]["receipt"]["effects"][0];
    assert_eq!(
        effect["evidence"][0]["seen"],
        "send 1: reset: the answer was lost"
    );
    assert_eq!(
        (&effect["sends"], &effect["class"]),
        (&json!(1), &json!("C"))
    );
    assert!(
        !list.text.contains("of ours"),
        "what is kept for repeats is nobody's business"
    );

    let say = async |id: JobId, word: serde_json::Value| {
        let path = format!("/v1/jobs/{id}/resolve");
        site.post_with(&path, JSON, word.to_string().as_bytes())
            .await
    };
    for wrong in [
        json!({}),
        json!({"happened": "yes"}),
        json!({"happened": true, "link": "https://x.example/1"}),
        json!({"happened": true, "url": "ftp://x.example/1"}),
        json!({"happened": false, "url": "https://x.example/1"}),
    ] {
        let reply = say(there, wrong.clone()).await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (400, "bad-request"),
            "{wrong}"
        );
    }
    assert_eq!(
        say(JobId::mint(), json!({"happened": false})).await.status,
        404
    );

    let word =
        json!({"happened": true, "url": "https://x.example/1", "by": "ada", "reason": "I see it"});
    let reply = say(there, word.clone()).await;
    assert_eq!(
        (reply.status, &reply.json()["state"]),
        (200, &json!(State::Ready))
    );
    let again = say(there, word).await;
    assert_eq!(again.status, 409, "it has nothing left to say: {again:?}");
    assert_eq!(say(gone, json!({"happened": false})).await.status, 200);
    assert_eq!(site.get("/v1/unresolved").await.json()["jobs"], json!([]));

    let receipt = site.get(&format!("/v1/jobs/{there}/receipt")).await.json();
    let proof = &receipt["effects"][0];
    assert_eq!(proof["url"], "https://x.example/1");
    assert_eq!(
        (&proof["state"], &proof["resolved_by"]),
        (&json!("confirmed"), &json!("http: ada"))
    );
    let audit = site.shared.ledger.audit(Some(there), 9).await.unwrap();
    assert_eq!(
        (audit[0].actor.as_str(), audit[0].action.as_str()),
        ("http: ada", "resolve")
    );
    let refused = site.get(&format!("/v1/jobs/{gone}/receipt")).await.json();
    assert_eq!(refused["effects"][0]["state"], "refused");
    assert_eq!(
        site.get(&format!("/v1/jobs/{}/receipt", JobId::mint()))
            .await
            .status,
        404
    );
}
