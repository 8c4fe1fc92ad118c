//! The one way in, through the doors of an engine: answers, culprits, callers that go away.

use presswork::engine::doors::Busy;
use presswork::intake::Answer;
use presswork::ledger::Reason;
use presswork::operate::{By, Refused, release_quarantined};
use presswork::queue::redis::{RedisOptions, RedisQueue};
use serde_json::json;

use crate::probe::{World, kinds};
use crate::rig::{Base, Rig};
use crate::wrap::Faulty;
use crate::{LANE, kit, usual};

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_ledger_refuses_blocks_nobody() {
    let mut base = Base::embedded().await;
    let faulty = Faulty::new(base.ledger.clone());
    base.ledger = faulty.clone();
    let rig = Rig::new(&base, kinds(), usual).await;
    faulty.poison("13");
    let world = World::new();
    let submits = (0..40).map(|n| {
        let mut envelope = world.job("note", n);
        envelope["key"] = n.to_string().into();
        async { rig.submit(&{ envelope }).await }
    });
    let answers = futures_util::future::join_all(submits).await;
    for (n, answer) in answers.iter().enumerate() {
        match answer {
            Answer::New { .. } => assert_ne!(n, 13),
            Answer::Refused(it) => assert_eq!((n, it.reason), (13, Reason::Refused)),
            other => panic!("{n}: {other:?}"),
        }
    }
    assert_eq!(rig.step(LANE).await, 39);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_again_is_said_and_another_payload_is_a_conflict() {
    for base in Base::both().await {
        let rig = Rig::new(&base, kinds(), usual).await;
        let first =
            json!({"kind": "test.job", "payload": {"result": 1}, "key": "k", "priority": "low"});
        let id = rig.enqueue(&first).await;
        let bytes =
            br#"{ "key":"k", "payload": { "result" : 1 }, "kind": "test.job" , "priority": "low"}"#;
        let again = rig.doors.submit(bytes).await.unwrap();
        assert_eq!(
            again,
            Answer::Same {
                id,
                differs: vec![]
            }
        );
        let mut options = first.clone();
        options["priority"] = "high".into();
        assert_eq!(
            rig.submit(&options).await,
            Answer::Same {
                id,
                differs: vec!["/priority".into()]
            }
        );
        let mut other = first.clone();
        other["payload"]["result"] = 2.into();
        assert_eq!(
            rig.submit(&other).await,
            Answer::Conflict {
                id,
                differs: vec!["/result".into()]
            }
        );
        // also when the first has ended
        rig.drive(id).await;
        assert_eq!(
            rig.submit(&first).await,
            Answer::Same {
                id,
                differs: vec![]
            }
        );
        assert_eq!(
            rig.submit(&other).await,
            Answer::Conflict {
                id,
                differs: vec!["/result".into()]
            }
        );
        other["tenant"] = "another".into();
        assert!(
            matches!(rig.submit(&other).await, Answer::New { .. }),
            "a key belongs to a tenant"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_go_away_undo_and_double_nothing() {
    for base in Base::both().await {
        let rig = Rig::new(&base, kinds(), usual).await;
        let world = World::new();
        let envelopes: Vec<_> = (0..120)
            .map(|n| {
                let mut envelope = world.job("note", n);
                envelope["key"] = n.to_string().into();
                envelope
            })
            .collect();
        for (n, envelope) in envelopes.iter().enumerate() {
            let bytes = envelope.to_string();
            let mut submit = Box::pin(rig.doors.submit(bytes.as_bytes()));
            for _ in 0..n % 5 {
                if futures_util::poll!(&mut submit).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let again = futures_util::future::join_all(envelopes.iter().map(|it| rig.submit(it))).await;
        assert!(
            again
                .iter()
                .all(|it| matches!(it, Answer::New { .. } | Answer::Same { .. }))
        );
        while rig.step(LANE).await != 0 {}
        let mut starts = world.starts();
        assert_eq!(starts.len(), 120, "{}", base.ledger.name());
        starts.sort();
        starts.dedup();
        assert_eq!(starts.len(), 120);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_says_when_it_can_not_take_more() {
    let mut base = Base::embedded().await;
    let faulty = Faulty::new(base.ledger.clone());
    base.ledger = faulty.clone();
    let rig = Rig::new(&base, kinds(), usual).await;
    let bytes = br#"{"kind": "test.job", "payload": {}, "key": "k"}"#;
    faulty.lose("accept");
    assert_eq!(rig.doors.submit(bytes).await, Err(Busy::Away));
    faulty.back();
    // it was written down, and the answer lost: the same again
    assert!(matches!(
        rig.doors.submit(bytes).await,
        Ok(Answer::Same { .. })
    ));
    rig.shared.draining.cancel();
    assert_eq!(rig.doors.submit(bytes).await, Err(Busy::Stopping));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_inbox_brings_is_written_down_or_kept_with_its_reason() {
    let redis = crate::kit::redis::Redis::start();
    let base = Base::on(crate::kit::postgres::Postgres::shared(), &redis.url(), None).await;
    let rig = Rig::new(&base, kinds(), usual).await;
    let push = |it: &str| redis.cli(&["RPUSH", "presswork:inbox", it]);
    push(r#"{"kind": "test.job", "payload": {"result": 1}, "key": "k", "reply_to": "token-1"}"#);
    push(r#"{"kind": "test.job", "payload": {}}"#);
    push("no JSON");
    push(r#"{"kind": "test.jop", "payload": {}}"#);
    push(r#"{"kind": "test.job", "payload": {"sleep": 1}}"#);
    push(r#"{"kind": "test.job", "payload": {"result": 2}, "key": "k"}"#);
    push(r#"{"kind": "test.job", "payload": {"result": 1}, "key": "k"}"#);
    let inbox = base.inbox.clone().unwrap();
    let (doors, draining) = (rig.doors.clone(), rig.shared.draining.clone());
    let moved = inbox.clone();
    let mover = tokio::spawn(async move { doors.inbox(moved, 0, std::sync::Arc::default()).await });
    crate::kit::wait::until("the inbox is empty", crate::SOON, async || {
        inbox.waiting().await.unwrap() == 0 && inbox.holders().await.unwrap().is_empty()
    })
    .await;
    draining.cancel();
    mover.await.unwrap();
    let mut reasons: Vec<_> = base
        .ledger
        .quarantined(None, 10)
        .await
        .unwrap()
        .iter()
        .map(|it| it.reason.as_str())
        .collect();
    reasons.sort_unstable();
    assert_eq!(
        reasons,
        ["conflict", "invalid", "malformed", "unknown_kind"]
    );
    let entries = base.ledger.quarantined(None, 10).await.unwrap();
    let unknown = entries
        .iter()
        .find(|it| it.reason == Reason::UnknownKind)
        .unwrap();
    assert!(
        unknown.message.contains("did you mean `test.job`"),
        "{}",
        unknown.message
    );
    assert_eq!(base.ledger.counts().await.unwrap().values().sum::<u64>(), 2);
    crate::kit::wait::until("the receipt is there", crate::SOON, async || {
        redis
            .cli(&["LRANGE", "presswork:reply:token-1", "0", "-1"])
            .contains(r#""result":"new""#)
    })
    .await;
}

/// An entry leaves the inbox when the ledger has it, not before.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_ledger_could_not_take_is_still_in_the_inbox() {
    let prefix = format!("rig-{}", uuid::Uuid::new_v4());
    let redis = kit::redis::Redis::shared().url();
    let postgres = kit::postgres::Postgres::shared();
    let mut base = Base::on(postgres, &redis, Some(prefix.clone())).await;
    let faulty = Faulty::new(base.ledger.clone());
    base.ledger = faulty.clone();
    let rig = Rig::new(&base, kinds(), usual).await;
    let options = RedisOptions {
        url: redis.as_str().into(),
        prefix: Some(prefix),
    };
    let inbox = RedisQueue::open(&options).unwrap().inbox();
    let envelope = World::new().job("note", "x").to_string();
    inbox.push(&[envelope.into_bytes()]).await.unwrap();
    let run = rig.shared.run_id();
    faulty.away("accept");
    for _ in 0..2 {
        let said = rig.doors.tick(&inbox, run, 0, 500).await.unwrap_err();
        assert!(said.contains("the test says so"), "{said}");
    }
    faulty.back();
    assert_eq!(rig.doors.tick(&inbox, run, 0, 500).await, Ok(1));
    assert_eq!(rig.step(LANE).await, 1);
    assert_eq!(rig.doors.tick(&inbox, run, 0, 500).await, Ok(0));
}

/// Also when a person lets it go on, later.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_inbox_takes_that_tenants_jobs_only() {
    let prefix = format!("rig-{}", uuid::Uuid::new_v4());
    let redis = kit::redis::Redis::shared();
    let postgres = kit::postgres::Postgres::shared();
    let base = Base::on(postgres, &redis.url(), Some(prefix.clone())).await;
    let rig = Rig::new(&base, kinds(), usual).await;
    let options = RedisOptions {
        url: redis.url().into(),
        prefix: Some(prefix.clone()),
    };
    let inbox = RedisQueue::open(&options).unwrap().inbox_of("acme");
    let envelope = |key: &str, tenant: &str| {
        format!(
            r#"{{"kind": "test.job", "payload": {{}}, "key": "{key}", "reply_to": "{key}"{tenant}}}"#
        )
    };
    for it in [
        envelope("none", ""),
        envelope("own", r#", "tenant": "acme""#),
        envelope("foreign", r#", "tenant": "zoo""#),
        r#"{"kind": "test.job", "payload": {"slep_ms": 1}}"#.to_owned(),
    ] {
        inbox.push(&[it.into_bytes()]).await.unwrap();
    }
    let run = rig.shared.run_id();
    assert_eq!(rig.doors.tick(&inbox, run, 0, 500).await, Ok(4));
    let ledger = &*base.ledger;
    for key in ["none", "own"] {
        let job = ledger.job_of_key("acme", "test.job", key).await.unwrap();
        assert!(job.is_some(), "{key}");
    }
    let receipt = redis.cli(&["LPOP", &format!("{prefix}:presswork:reply:foreign")]);
    let receipt: serde_json::Value = serde_json::from_str(&receipt).unwrap();
    assert_eq!(receipt["result"], "refused");
    assert_eq!(receipt["violations"][0]["pointer"], "/tenant");
    let entries = ledger.quarantined(None, 10).await.unwrap();
    let kept = |text: &str| {
        let has = |it: &&presswork::ledger::Quarantined| it.message.contains(text);
        entries.iter().find(has).expect(text).clone()
    };
    let (foreign, slip) = (kept("only jobs of `acme` are taken"), kept("slep_ms"));
    for it in [&foreign, &slip] {
        assert_eq!((it.reason, &*it.door), (Reason::Invalid, "inbox:acme"));
    }
    // corrected, both are the tenant's, and no correction makes them another's
    let by = By {
        actor: "ann".to_owned(),
        reason: String::new(),
    };
    let rules = rig.shared.rules();
    let again = envelope("foreign", r#", "tenant": "zoo", "labels": {"n": "1"}"#);
    let again = release_quarantined(ledger, &rules, foreign.id, Some(again.as_bytes()), &by).await;
    assert!(matches!(again, Err(Refused::Invalid(_))), "{again:?}");
    let right = br#"{"kind": "test.job", "payload": {"sleep_ms": 1}}"#;
    for entry in [foreign.id, slip.id] {
        let job = release_quarantined(ledger, &rules, entry, Some(right), &by).await;
        assert_eq!(rig.job(job.unwrap()).await.tenant, "acme");
    }
}
