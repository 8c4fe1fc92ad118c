//! The effect protocol through a handler's context: at most one send a permit, every unknown explained.

use std::sync::Arc;
use std::time::Duration;

use presswork::effect::EffectState;
use presswork::job::JobId;
use presswork::lifecycle::State;
use presswork::operate::{self, Verdict};
use presswork::outcome::{Class, Held};

use crate::probe::{Says, World, kinds, no};
use crate::rig::{Base, Rig, somebody};
use crate::{LANE, SOON, kit, usual};

async fn set(
    base: &Base,
    act: &str,
    says: impl IntoIterator<Item = Says>,
) -> (Rig, Arc<World>, JobId) {
    let rig = Rig::new(base, kinds(), usual).await;
    let world = World::new();
    world.answers(says);
    let id = rig.enqueue(&world.job(act, "x")).await;
    (rig, world, id)
}

fn keys(world: &World) -> Vec<serde_json::Value> {
    world
        .sent
        .lock()
        .unwrap()
        .iter()
        .map(|it| it.keep.clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rerun_finds_the_step_and_the_receipt_and_sends_nothing() {
    for base in Base::both().await {
        let (rig, world, id) = set(&base, "steps", []).await;
        let victim = Rig::new(&base, kinds(), usual).await;
        let run = victim.begin(victim.take(LANE).await.pop().unwrap());
        kit::wait::until("it is confirmed", SOON, async || {
            rig.effects(id)
                .await
                .first()
                .is_some_and(|it| it.state == EffectState::Confirmed)
        })
        .await;
        // its host dies between the receipt and the outcome
        run.abort();
        base.ledger.end_run(victim.shared.run_id()).await.unwrap();
        rig.sweeper.reclaim().await.unwrap();
        world.gate.add_permits(2);
        let job = rig.drive(id).await;
        assert_eq!(
            (job.state, job.crashes, world.sends()),
            (State::Completed, 0, 1),
            "{job:?}"
        );
        assert_eq!(
            job.result.as_deref(),
            Some(r#"{"step":"hello","receipt":{"id":"remote-1"}}"#)
        );
        assert_eq!(world.starts().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn class_a_repeats_with_the_same_key_while_it_lives_and_asks_after() {
    for base in Base::both().await {
        let (rig, world, id) = set(&base, "keyed", [Says::Lost, Says::Lost]).await;
        let job = rig.drive(id).await;
        assert_eq!(
            (job.state, job.attempts, world.sends()),
            (State::Completed, 0, 3),
            "{job:?}"
        );
        assert!(
            keys(&world).windows(2).all(|it| it[0] == it[1]),
            "{:?}",
            keys(&world)
        );
        let effect = rig.effects(id).await.pop().unwrap();
        assert_eq!(
            (effect.state, effect.sends, effect.evidence.len()),
            (EffectState::Confirmed, 3, 3)
        );

        // the key is an hour old: the platform has forgotten it
        let (rig, world, id) = set(&base, "keyed", [Says::Lost]).await;
        rig.step(LANE).await;
        rig.expect(id, State::Retrying).await;
        rig.advance(Duration::from_secs(3_500)).await;
        let job = rig.drive(id).await;
        assert_eq!(
            (job.state, world.sends()),
            (State::Unresolved, 1),
            "{job:?}"
        );
        assert!(job.failure.unwrap().message.contains("forgotten our key"));
        assert_eq!(rig.effects(id).await[0].state, EffectState::Unresolved);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_called_off_is_not_paid_for_again() {
    for base in Base::both().await {
        let (rig, world, id) = set(&base, "paid", [Says::Lost]).await;
        rig.step(LANE).await;
        rig.expect(id, State::Retrying).await;
        operate::cancel(&*base.ledger, id, &somebody())
            .await
            .unwrap();
        let job = rig.drive(id).await;
        assert_eq!((job.state, world.sends()), (State::Cancelled, 1), "{job:?}");
        let effect = rig.effects(id).await.pop().unwrap();
        assert_eq!(effect.state, EffectState::Unknown, "nobody knows");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn class_p_repeats_once_and_then_a_person_says() {
    for base in Base::both().await {
        for (verdict, sends) in [
            (
                Verdict::Happened {
                    url: Some("https://example.com/2".into()),
                },
                2,
            ),
            (Verdict::DidNotHappen, 3),
        ] {
            let (rig, world, id) = set(&base, "paid", [Says::Lost, Says::Lost]).await;
            let job = rig.drive(id).await;
            assert_eq!(
                (job.state, job.attempts, world.sends()),
                (State::Unresolved, 0, 2),
                "{job:?}"
            );
            assert!(
                operate::cancel(&*base.ledger, id, &somebody())
                    .await
                    .is_err()
            );
            assert_eq!(rig.step(LANE).await, 0);
            operate::resolve(&*base.ledger, id, &verdict, &somebody())
                .await
                .unwrap();
            let job = rig.drive(id).await;
            assert_eq!(
                (job.state, world.sends()),
                (State::Completed, sends),
                "{verdict:?}: {job:?}"
            );
            let effect = rig.effects(id).await.pop().unwrap();
            assert_eq!(effect.state, EffectState::Confirmed);
            assert!(
                effect
                    .evidence
                    .iter()
                    .any(|it| it.seen.contains("anna says")),
                "{effect:?}"
            );
            let audit = base.ledger.audit(Some(id), 10).await.unwrap();
            assert!(
                audit
                    .iter()
                    .any(|it| it.actor == "anna" && it.action == "resolve"),
                "{audit:?}"
            );
            assert!(
                operate::resolve(&*base.ledger, id, &verdict, &somebody())
                    .await
                    .is_err()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_uses_up_no_repeat_of_a_paid_call() {
    let base = Base::embedded().await;
    let (rig, world, id) = set(
        &base,
        "paid",
        [
            no(Class::Throttled, 1_000),
            Says::Lost,
            no(Class::Throttled, 1_000),
        ],
    )
    .await;
    let job = rig.drive(id).await;
    assert_eq!((job.state, world.sends()), (State::Completed, 4), "{job:?}");
    assert_eq!(
        world
            .sent
            .lock()
            .unwrap()
            .iter()
            .map(|it| it.lost)
            .collect::<Vec<_>>(),
        [0, 0, 1, 1]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_that_hangs_ends_by_its_budget_as_unknown() {
    let base = Base::embedded().await;
    let (rig, world, id) = set(&base, "keyed", [Says::Never]).await;
    rig.step(LANE).await;
    let job = rig.expect(id, State::Retrying).await;
    assert_eq!(job.failure.unwrap().class, Class::Unknown);
    assert!(
        rig.effects(id).await[0].evidence[0]
            .seen
            .contains("no answer within 5 s")
    );
    assert_eq!(rig.drive(id).await.state, State::Completed);
    assert_eq!(world.sends(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rerun_that_would_send_something_else_is_held() {
    for base in Base::both().await {
        let (rig, world, id) = set(&base, "keyed", [no(Class::Transient, 0)]).await;
        rig.step(LANE).await;
        *world.text.lock().unwrap() = "something else".to_owned();
        let job = rig.drive(id).await;
        assert_eq!(
            (job.state, job.held, world.sends()),
            (State::Held, Some(Held::Nondeterministic), 1)
        );
        *world.text.lock().unwrap() = "hello".to_owned();
        operate::release(&*base.ledger, id, None, &somebody())
            .await
            .unwrap();
        assert_eq!(rig.drive(id).await.state, State::Completed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_lost_gives_no_permit_and_records_no_step() {
    for base in Base::both().await {
        let (rig, world, id) = set(&base, "steps", []).await;
        let slow = Rig::new(&base, kinds(), usual).await;
        let assigned = slow.take(LANE).await.pop().unwrap();
        base.ledger.end_run(slow.shared.run_id()).await.unwrap();
        rig.sweeper.reclaim().await.unwrap();
        // it goes on as if nothing had happened
        slow.begin(assigned).await.unwrap();
        assert_eq!(world.sends(), 0);
        assert_eq!(rig.effects(id).await, []);
        rig.expect(id, State::Ready).await;
        world.gate.add_permits(1);
        assert_eq!(rig.drive(id).await.state, State::Completed);
        assert_eq!(world.sends(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_is_given_once_and_a_host_that_died_amid_a_send_leaves_an_unknown() {
    for base in Base::both().await {
        let (rig, world, id) = set(&base, "keyed", [Says::OnCue(Box::new(Says::Yes))]).await;
        let slow = Rig::new(&base, kinds(), usual).await;
        let run = slow.begin(slow.take(LANE).await.pop().unwrap());
        kit::wait::until("it sends", SOON, async || world.sends() == 1).await;
        let effect = rig.effects(id).await.pop().unwrap();
        assert_eq!((effect.state, effect.sends), (EffectState::Sending, 1));
        base.ledger.end_run(slow.shared.run_id()).await.unwrap();
        rig.sweeper.reclaim().await.unwrap();
        // `sending` by a dead run: repeated under the same key
        let job = rig.drive(id).await;
        assert_eq!((job.state, world.sends()), (State::Completed, 2));
        assert_eq!(keys(&world)[0], keys(&world)[1]);
        // the first answer comes late: it can't undo what is known, nor settle
        world.cue.add_permits(1);
        run.await.unwrap();
        let after = rig.effects(id).await.pop().unwrap();
        assert_eq!((after.state, after.sends), (EffectState::Confirmed, 2));
        let seen: Vec<&str> = after.evidence.iter().map(|it| it.seen.as_str()).collect();
        let late = seen.iter().filter(|it| it.starts_with("came late: send 1"));
        assert_eq!(late.count(), 1, "it is kept, and nothing more: {seen:?}");
        assert_eq!(rig.expect(id, State::Completed).await.result, job.result);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_away_at_the_permit_sends_nothing() {
    let mut base = Base::embedded().await;
    let faulty = crate::wrap::Faulty::new(base.ledger.clone());
    base.ledger = faulty.clone();
    let (rig, world, id) = set(&base, "keyed", []).await;
    faulty.away("permit");
    rig.step(LANE).await;
    assert_eq!(world.sends(), 0);
    let job = rig.expect(id, State::Ready).await;
    assert_eq!(job.attempts, 0, "a ledger that is away charges nothing");
    faulty.back();
    // what is given back isn't taken again at once
    rig.advance(Duration::from_secs(1)).await;
    // the permit was given, and the answer lost: nobody knows whether it was sent
    faulty.lose("permit");
    rig.step(LANE).await;
    assert_eq!(world.sends(), 0);
    assert_eq!(rig.effects(id).await[0].state, EffectState::Sending);
    faulty.back();
    // sent, and the ledger away when the answer came; a request may be under way for a while
    rig.advance(Duration::from_secs(10)).await;
    faulty.away("conclude");
    rig.step(LANE).await;
    assert_eq!(world.sends(), 1);
    faulty.back();
    assert_eq!(rig.drive(id).await.state, State::Completed);
    assert!(keys(&world).windows(2).all(|it| it[0] == it[1]));
}
