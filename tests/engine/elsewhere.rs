//! What a ledger lost: that another account did a job. It isn't done a second time at the job's own.

use std::time::Duration;

use presswork::effect::{EffectId, EffectState, Evidence};
use presswork::ledger::Told;
use presswork::lifecycle::State;
use presswork::operate::{self, Verdict};
use sqlx::Connection as _;

use crate::fallbacks::{CHAT, LANES, Pair, TEXT, envelope};
use crate::rig::{Base, somebody};

/// Each kind's step at which it asks, and who stands in.
const STEPS: [(&str, &str, &str, &str); 3] = [
    (TEXT, "generate", "b", CHAT),
    ("illustrate.image", "draw", "b", "image.generate"),
    ("http.call", "call", "call-b", "call"),
];

/// Changes the ledger behind everybody's back.
async fn sql(base: &Base, statements: &str) {
    let url = base.database.as_deref().expect("it has servers");
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements))
        .execute(&mut connection)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_elsewhere_and_lost_with_the_ledgers_tail_is_a_persons_to_decide() {
    let base = Base::servers().await;
    let pair = Pair::new(&base, |_| {}).await;
    let mut jobs = Vec::new();
    for (kind, step, account, op) in STEPS {
        let id = pair.one.enqueue(&envelope(kind, "default")).await;
        jobs.push((id, EffectId::new(id, 0, step, 0, account), account, op));
    }
    let refused = pair.text().await;
    jobs.push((
        refused,
        EffectId::new(refused, 0, "generate", 0, "b"),
        "b",
        CHAT,
    ));
    // a standby took over that knows the jobs, and not that another account was chosen for them
    sql(
        &base,
        "UPDATE presswork.meta SET timeline = 'before/00000001';
         UPDATE presswork.workers SET heard = 'before/00000001', beat_at = presswork.now()",
    )
    .await;
    base.ledger.found().await.unwrap();
    let history = base.ledger.history().await.unwrap().expect("it has one");
    let at = base.ledger.now().await.unwrap();
    for (id, effect, ..) in &jobs {
        let state = match *id == refused {
            true => EffectState::Refused,
            false => EffectState::Confirmed,
        };
        let told = Told {
            effect: *effect,
            send: 1,
            at,
            state,
            receipt: None,
            evidence: Evidence::new(at, "send 1".to_owned()),
        };
        let run = pair.one.shared.run_id();
        let mended = base.ledger.testify(&history.current, run, &[told]).await;
        assert_eq!(mended.unwrap().kept, 1);
    }
    let lanes: Vec<String> = {
        let mut lanes = Vec::new();
        for (id, ..) in &jobs {
            lanes.push(pair.one.job(*id).await.lane);
        }
        lanes
    };
    // until all have told, nothing is done at all
    pair.learn().await;
    for lane in &lanes {
        pair.other.step(lane).await;
    }
    for rig in [&pair.one, &pair.other] {
        let run = rig.shared.run_id();
        base.ledger
            .heard(&history.current, run, None)
            .await
            .unwrap();
    }
    let wait = (Duration::ZERO, Duration::from_secs(3_600));
    let history = base.ledger.history().await.unwrap().expect("it has one");
    base.ledger
        .lift(&history, wait)
        .await
        .unwrap()
        .expect("all have told");
    pair.one.advance(Duration::from_secs(5)).await;
    pair.learn().await;
    for _ in 0..4 {
        for lane in LANES {
            pair.other.step(lane).await;
        }
    }
    // what certainly didn't happen there is done here
    pair.done(refused, "a").await;
    let by = somebody();
    for (id, _, account, op) in &jobs[..3] {
        let job = pair.one.expect(*id, State::Unresolved).await;
        let why = job.failure.unwrap().message;
        assert!(
            why.contains("send journal") && why.contains(&format!("`{account}`")),
            "{why}"
        );
        let texts = usize::from(*op == CHAT);
        assert_eq!(pair.a.count("requests", op).await, texts, "{op}");
        let said = Verdict::DidNotHappen;
        operate::resolve(&*base.ledger, *id, &said, &by)
            .await
            .unwrap();
    }
    for lane in LANES {
        for _ in 0..2 {
            pair.one.step(lane).await;
        }
    }
    for (id, ..) in &jobs {
        pair.one.expect(*id, State::Completed).await;
    }
    for op in [CHAT, "image.generate", "call"] {
        assert_eq!(pair.b.count("requests", op).await, 0, "{op}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_a_call_that_may_have_gone_elsewhere_is_a_persons_to_decide() {
    let base = Base::servers().await;
    let with = Pair::new(&base, |_| {}).await;
    let alone = Base::servers().await;
    let without = Pair::new(&alone, |config| config.kinds.clear()).await;
    for (pair, base, asks) in [(&with, &base, true), (&without, &alone, false)] {
        let id = pair.one.enqueue(&envelope("http.call", "default")).await;
        sql(
            base,
            "UPDATE presswork.meta SET restored_at = presswork.now() + interval '1 second',
                                       backup_at = presswork.now() - interval '1 hour'",
        )
        .await;
        pair.one.advance(Duration::from_secs(5)).await;
        pair.one.step("calls").await;
        let calls = pair.a.count("requests", "call").await;
        if !asks {
            // its endpoint knows what it has done
            pair.one.expect(id, State::Completed).await;
            assert_eq!(calls, 1);
            continue;
        }
        let job = pair.one.expect(id, State::Unresolved).await;
        let why = job.failure.unwrap().message;
        assert!(
            why.contains("restored from a backup") && why.contains("`call-b`"),
            "{why}"
        );
        assert_eq!(calls, 0);
        let by = somebody();
        operate::resolve(&*base.ledger, id, &Verdict::DidNotHappen, &by)
            .await
            .unwrap();
        pair.one.step("calls").await;
        pair.done(id, "call-a").await;
    }
}
