//! Two passes over every kind: the answer of each of its writes is lost, one at a time; and all of it is
//! run twice. Each job ends as it should, and acts once, by the sandbox's own log.

use std::sync::Arc;

use presswork::config::{Bucket, Config};
use presswork::effect::EffectClass;
use presswork::job::JobId;
use presswork::lifecycle::State;
use serde_json::{Value, json};

use crate::adopt::Outside;
use crate::rig::{Base, Rig};
use crate::wrap::Faulty;
use crate::{SOON, kit};

/// What an attempt writes.
const WRITES: &[&str] = &[
    "record_step",
    "intend",
    "permit",
    "conclude",
    "decide",
    "settle",
    "keep_media",
    "use_media",
    "offer_result",
    "let_go",
];
/// No kind writes more often.
const MOST: u32 = 40;

/// A kind's job, and the sandbox's name of what it does.
struct Case {
    name: &'static str,
    kind: &'static str,
    account: &'static str,
    payload: Value,
    op: &'static str,
}

fn cases(outside: &Outside) -> Vec<Case> {
    let case = |name, kind, account, op, payload| Case {
        name,
        kind,
        account,
        payload,
        op,
    };
    let asked = |background: bool| json!({"model": "gpt-5-mini", "prompt": "a fox", "background": background});
    let drawn = json!({"model": "gpt-image-1", "prompt": "a fox"});
    let said = || json!({"text": "a fox"});
    let shown = json!({"caption": "a fox", "images": [{"url": "https://example.com/fox.jpg", "alt": "a fox"}]});
    let page = format!("{}/", outside.sandbox.url());
    vec![
        case(
            "text",
            "generate.text",
            "openai",
            "chat.completion",
            asked(false),
        ),
        case(
            "adopted",
            "generate.text",
            "openai",
            "response.create",
            asked(true),
        ),
        case(
            "picture",
            "illustrate.image",
            "openai",
            "image.generate",
            drawn,
        ),
        case(
            "status",
            "post.mastodon",
            "mastodon",
            "status.create",
            said(),
        ),
        case("record", "post.bluesky", "bluesky", "putRecord", said()),
        case("post", "post.x", "x", "post.create", said()),
        case(
            "gallery",
            "post.instagram",
            "instagram",
            "media.publish",
            shown,
        ),
        case(
            "file",
            "upload.object",
            "s3",
            "object.put",
            json!({"url": page, "key": "page.html"}),
        ),
        case(
            "call",
            "http.call",
            "http",
            "call",
            json!({"type": "fox.draw", "data": "a fox"}),
        ),
    ]
}

fn accounts(outside: &Outside) -> impl Fn(&mut Config) {
    move |config| {
        for platform in [
            "openai",
            "mastodon",
            "bluesky",
            "x",
            "instagram",
            "s3",
            "http",
        ] {
            let mut account = outside.account(platform);
            account.guard.reaction = presswork::content::Reaction::Allow;
            if platform == "http" {
                account.secret = presswork::sandbox::WORKER_SECRET.into();
                account.base_url.set_path("/http/me");
            }
            if platform == "s3" {
                account.secret = "sandbox-me".into();
                account.bucket = Some(Bucket {
                    name: "films".to_owned(),
                    region: "us-east-1".to_owned(),
                    access_key_id: "me".into(),
                    path_style: true,
                });
            }
            config.accounts.insert(platform.to_owned(), account);
        }
        config.media.fetch_http = true;
        config.media.fetch_allow = vec![outside.sandbox.addr()];
    }
}

/// The envelope of the case's job number `n`, which says something of its own.
fn envelope(case: &Case, n: u32) -> Value {
    let mut payload = case.payload.clone();
    for member in ["text", "caption", "prompt", "key"] {
        if let Some(said) = payload[member].as_str() {
            payload[member] = format!("{n}-{said}").into();
        }
    }
    json!({"kind": case.kind, "account": case.account, "payload": payload})
}

/// It ended as it should, and did what it does once; what is paid for may have been sent again where
/// nobody knew.
async fn once(rig: &Rig, outside: &Outside, case: &Case, id: JobId, before: usize, at: &str) {
    let job = rig.job(id).await;
    let acts = outside.count("acts", case.op).await - before;
    let effect = rig.effects(id).await.pop().expect("it has an effect");
    match (job.state, effect.class) {
        (State::Completed, EffectClass::P) => {
            assert!(
                (1..=effect.sends as usize).contains(&acts),
                "{at}: {acts} acts"
            );
        }
        (State::Completed, _) => assert_eq!(acts, 1, "{at}: {effect:?}"),
        // permitted, and never sent: which X can't tell
        (State::Unresolved, EffectClass::C) => assert_eq!(acts, 0, "{at}: {effect:?}"),
        _ => panic!("{at}: {job:?} {effect:?}"),
    }
    assert_eq!(job.attempts, 0, "{at}: {job:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_any_write_of_any_kind_costs_nothing() {
    let outside = Outside::new(json!({"openai_work_ms": 0, "http_work_ms": 1})).await;
    for case in cases(&outside) {
        let mut base = Base::embedded().await;
        let faulty = Faulty::new(base.ledger.clone());
        base.ledger = faulty.clone();
        let rig = outside.host_with(&base, accounts(&outside)).await;
        let mut writes = 0;
        for n in 1..MOST {
            let before = outside.count("acts", case.op).await;
            let id = rig.enqueue(&envelope(&case, n)).await;
            faulty.lose_nth(WRITES, n);
            rig.drive(id).await;
            let lost = faulty.has_lost();
            faulty.lose_nth(&[], 0);
            once(
                &rig,
                &outside,
                &case,
                id,
                before,
                &format!("{}, write {n}", case.name),
            )
            .await;
            if !lost {
                break;
            }
            writes = n;
        }
        println!("{}: each of {writes} writes", case.name);
        assert!(
            (4..MOST - 1).contains(&writes),
            "{}: {writes} writes",
            case.name
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_run_twice_acts_once() {
    let outside = Outside::new(json!({"openai_work_ms": 0, "http_work_ms": 1})).await;
    for case in cases(&outside) {
        let base = Base::embedded().await;
        let rig = outside.host_with(&base, accounts(&outside)).await;
        let faulty = Faulty::new(base.ledger.clone());
        let mortal = Base {
            ledger: Arc::<Faulty>::clone(&faulty),
            ..base.clone()
        };
        let before = outside.count("acts", case.op).await;
        let id = rig.enqueue(&envelope(&case, 0)).await;
        // its host dies with the outcome in its hands, each time that it comes to one
        for _ in 0..2 {
            let victim = outside.host_with(&mortal, accounts(&outside)).await;
            let lane = rig.job(id).await.lane;
            faulty.away("settle");
            let seen = faulty.calls("settle");
            let Some(taken) = victim.take(&lane).await.pop() else {
                break;
            };
            let run = victim.begin(taken);
            let what = format!("{}: it comes to an outcome", case.name);
            kit::wait::until(&what, SOON, async || seen < faulty.calls("settle")).await;
            run.abort();
            let _ = run.await;
            faulty.back();
            let run = victim.shared.run_id();
            base.ledger.end_run(run).await.unwrap();
            rig.sweeper.reclaim().await.unwrap();
            rig.expect(id, State::Ready).await;
        }
        rig.drive(id).await;
        once(&rig, &outside, &case, id, before, case.name).await;
    }
}
