//! When, if ever, again: by policy, by the platform's word, at no charge, or never.

use std::time::Duration;

use presswork::config::{Config, KindSettings};
use presswork::lifecycle::State;
use presswork::operate;
use presswork::outcome::{Class, Held};
use presswork::retry::Policy;
use serde_json::{Value, json};

use crate::probe::{World, kinds};
use crate::rig::{Base, Rig, somebody};
use crate::{LANE, usual};

fn policy(config: &mut Config) {
    let retry = Some(Policy {
        attempts_max: 3,
        base_ms: 1_000,
        cap_ms: 2_000,
    });
    config.kinds.insert(
        "test.job".to_owned(),
        KindSettings {
            retry,
            ..KindSettings::default()
        },
    );
}

fn job(payload: Value) -> Value {
    json!({"kind": "test.job", "payload": payload})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_of_the_configuration_spaces_and_ends_the_attempts() {
    for base in Base::both().await {
        let rig = Rig::new(&base, kinds(), policy).await;
        let id = rig.enqueue(&job(json!({"fail_times": 9}))).await;
        for attempt in 1..=2_u32 {
            // by what this host knows of the ledger's time, which stands still between two heartbeats
            let before = rig.shared.now();
            assert_eq!(rig.step(LANE).await, 1);
            let it = rig.expect(id, State::Retrying).await;
            let wait = (it.run_at - before).num_milliseconds();
            assert!(
                (100..=1_000 * i64::from(attempt)).contains(&wait),
                "attempt {attempt}: {wait} ms"
            );
            assert_eq!(it.attempts, attempt);
            // the time of a real server goes on by itself
            if base.database.is_none() {
                assert_eq!(rig.step(LANE).await, 0, "not before its time");
            }
            rig.advance(Duration::from_secs(3)).await;
        }
        assert_eq!(rig.step(LANE).await, 1);
        let it = rig.expect(id, State::Dead).await;
        assert_eq!(it.attempts, 3);
        let history = rig.attempts(id).await;
        let numbers: Vec<_> = history
            .iter()
            .map(|it| (it.number, it.epoch, it.outcome.as_str()))
            .collect();
        assert_eq!(
            numbers,
            [(1, 1, "failed"), (2, 2, "failed"), (3, 3, "failed")]
        );
        assert_eq!(it.fingerprint.as_deref().map(str::len), Some(12));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_before_the_platforms_own_word() {
    let rig = Rig::new(&Base::embedded().await, kinds(), policy).await;
    for class in ["transient", "throttled"] {
        let id = rig
            .enqueue(&job(
                json!({"fail_times": 1, "class": class, "retry_after_ms": 90_000}),
            ))
            .await;
        let before = rig.base.clock.now();
        rig.step(LANE).await;
        let it = rig.expect(id, State::Retrying).await;
        let wait = (it.run_at - before).num_milliseconds();
        assert!(
            (90_000..=99_000).contains(&wait),
            "{class}: {wait} ms, beyond the cap"
        );
        rig.advance(Duration::from_millis(89_990)).await;
        assert_eq!(rig.step(LANE).await, 0);
        assert_eq!(rig.drive(id).await.state, State::Completed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn throttled_unauthorised_and_unknown_charge_nothing() {
    for base in Base::both().await {
        let rig = Rig::new(&base, kinds(), policy).await;
        for class in ["throttled", "unknown"] {
            let id = rig
                .enqueue(&job(json!({"fail_times": 7, "class": class})))
                .await;
            let it = rig.drive(id).await;
            assert_eq!(
                (it.state, it.attempts, it.epoch),
                (State::Completed, 0, 8),
                "{class}"
            );
        }
        let id = rig
            .enqueue(&job(json!({"fail_times": 1, "class": "unauthorised"})))
            .await;
        let it = rig.drive(id).await;
        assert_eq!(
            (it.state, it.held, it.attempts),
            (State::Held, Some(Held::Account), 0)
        );
        assert_eq!(rig.step(LANE).await, 0);
        operate::release(&*base.ledger, id, None, &somebody())
            .await
            .unwrap();
        let it = rig.drive(id).await;
        assert_eq!(
            (it.state, it.held, it.attempts),
            (State::Completed, None, 0)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_failure_is_buried_at_once_and_a_snooze_counts_nothing() {
    let rig = Rig::new(&Base::embedded().await, kinds(), policy).await;
    let id = rig
        .enqueue(&job(json!({"fail_times": 1, "class": "permanent"})))
        .await;
    let it = rig.drive(id).await;
    assert_eq!(
        (it.state, it.attempts, it.failure.unwrap().class),
        (State::Dead, 1, Class::Permanent)
    );

    let id = rig.enqueue(&job(json!({"snooze_ms": 3_600_000}))).await;
    let before = rig.base.clock.now();
    rig.step(LANE).await;
    let it = rig.expect(id, State::Scheduled).await;
    assert_eq!((it.run_at - before).num_minutes(), 60);
    let it = rig.drive(id).await;
    assert_eq!((it.state, it.attempts), (State::Completed, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_revived_begins_anew() {
    for base in Base::both().await {
        let rig = Rig::new(&base, kinds(), policy).await;
        let id = rig.enqueue(&job(json!({"fail_times": 9}))).await;
        assert_eq!(rig.drive(id).await.state, State::Dead);
        operate::revive(&*base.ledger, id, None, &somebody())
            .await
            .unwrap();
        let it = rig.expect(id, State::Ready).await;
        assert_eq!((it.attempts, it.crashes, it.ended_at), (0, 0, None));
        let it = rig.drive(id).await;
        assert_eq!(
            (it.state, it.attempts),
            (State::Dead, 3),
            "it has all its attempts again"
        );
        let edited = operate::edit(&rig.shared.rules(), &it, r#"{"fail_times": 0}"#).unwrap();
        operate::revive(&*base.ledger, id, Some(&edited), &somebody())
            .await
            .unwrap();
        let it = rig.drive(id).await;
        assert_eq!((it.state, it.revision), (State::Completed, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revived_after_it_expired_does_not_expire_at_once() {
    for base in Base::both().await {
        let rig = Rig::new(&base, kinds(), usual).await;
        let world = World::new();
        let mut envelope = world.job("note", "x");
        envelope["not_after"] = (base.clock.now() + chrono::Duration::seconds(5))
            .to_rfc3339()
            .into();
        let id = rig.enqueue(&envelope).await;
        let old = rig.enqueue(&world.job("note", "old")).await;
        rig.advance(Duration::from_secs(8 * 86_400)).await;
        rig.sweeper.tick(0).await.unwrap();
        for id in [id, old] {
            rig.expect(id, State::Dead).await;
            operate::revive(&*base.ledger, id, None, &somebody())
                .await
                .unwrap();
            rig.sweeper.tick(0).await.unwrap();
            let it = rig.drive(id).await;
            assert_eq!(it.state, State::Completed, "{}: {it:?}", base.ledger.name());
        }
    }
}
