//! Lost answers of classes B and C: looked for, never sent before that, and never for ever.

use std::time::Duration;

use presswork::clock::Time;
use presswork::config::{Config, KindSettings};
use presswork::effect::Resend;
use presswork::effect::{EffectState, IN_FLIGHT, Looking, Receipt};
use presswork::finding::Finding;
use presswork::job::JobId;
use presswork::lifecycle::State;
use presswork::operate::{self, Verdict};

use crate::probe::{Says, World, kinds};
use crate::rig::{Base, Rig, somebody};
use crate::{LANE, SOON, kit, usual};

fn there() -> Finding {
    there_as("found-1")
}

fn there_as(id: &str) -> Finding {
    Finding::Happened(Box::new(Receipt {
        remote_id: Some(id.to_owned()),
        url: Some("https://example.com/found".to_owned()),
        at: Time::UNIX_EPOCH,
        detail: serde_json::Value::Null,
    }))
}

fn absent() -> Finding {
    Finding::DidNotHappen("the container expired".to_owned())
}

/// A job of `act` whose first answer is lost and which waits for a look.
async fn lost(base: &Base, act: &str) -> (Rig, std::sync::Arc<World>, JobId) {
    let rig = Rig::new(base, kinds(), usual).await;
    let world = World::new();
    world.answers([Says::Lost]);
    let id = rig.enqueue(&world.job(act, "x")).await;
    rig.step(LANE).await;
    let job = rig.expect(id, State::Retrying).await;
    assert_eq!((job.attempts, world.sends(), world.looks()), (0, 1, 0));
    (rig, world, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_certainly_did_not_happen_is_sent_again_with_another_handle() {
    for base in Base::both().await {
        let (rig, world, id) = lost(&base, "handle").await;
        world.finds([absent()]);
        let job = rig.drive(id).await;
        assert_eq!(
            (job.state, job.attempts, world.sends(), world.looks()),
            (State::Completed, 0, 2, 1),
            "{job:?}"
        );
        let sent = world.sent.lock().unwrap();
        assert_ne!(sent[0].keep, sent[1].keep);
        assert_eq!(sent[1].lost, 0, "nothing was spent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_proves_nothing_while_the_lost_request_may_be_under_way() {
    for base in Base::both().await {
        let (rig, world, id) = lost(&base, "handle").await;
        // looked at too early, by hand: the platform may still act
        let effect = rig.effects(id).await.pop().unwrap();
        let rule = crate::probe::LOOKED_UP;
        let at = effect.permit_at.unwrap() + chrono::TimeDelta::seconds(1);
        let class = presswork::effect::EffectClass::B;
        let early = presswork::effect::Effect { class, ..effect };
        let looking = rule.looking.unwrap();
        let judged = presswork::finding::judge(&early, &looking, IN_FLIGHT, absent(), at);
        assert_eq!(judged.to, EffectState::Unknown);
        world.finds([there()]);
        assert_eq!(rig.drive(id).await.state, State::Completed);
        assert_eq!(world.sends(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_completes_the_job_which_is_called_at_once() {
    for base in Base::both().await {
        for act in ["handle", "blind"] {
            let (rig, world, id) = lost(&base, act).await;
            let unlisted = Finding::CannotTell("not listed yet".to_owned());
            world.finds([unlisted, there_as(act)]);
            rig.advance(Looking::USUAL.wait(0)).await;
            rig.reconciler.tick().await.unwrap();
            let waiting = rig.expect(id, State::Retrying).await;
            rig.advance(Looking::USUAL.wait(1)).await;
            assert_eq!(rig.reconciler.tick().await.unwrap(), 1);
            let called = rig.expect(id, State::Retrying).await;
            assert!(called.run_at <= base.ledger.now().await.unwrap());
            assert!(waiting.version < called.version);
            let job = rig.drive(id).await;
            assert_eq!(
                (job.state, job.attempts, world.sends(), world.looks()),
                (State::Completed, 0, 1, 2),
                "{job:?}"
            );
            assert_eq!(job.result, Some(format!(r#"{{"id":"{act}"}}"#)));
            let effect = rig.effects(id).await.pop().unwrap();
            let seen: Vec<&str> = effect.evidence.iter().map(|it| it.seen.as_str()).collect();
            assert_eq!(seen[1..], ["look 1: not listed yet", "look 2: it is there"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_found_is_left_to_a_person_and_never_sent() {
    for base in Base::both().await {
        let (rig, world, id) = lost(&base, "blind").await;
        // whatever an adapter says: without a handle, not found proves nothing
        world.finds([absent(), absent()]);
        let job = rig.drive(id).await;
        assert_eq!(
            (job.state, job.attempts, world.sends()),
            (State::Unresolved, 0, 1),
            "{job:?}"
        );
        let looks = world.looks();
        assert!((10..=20).contains(&looks), "{looks}");
        assert_eq!(rig.effects(id).await[0].state, EffectState::Unresolved);
        rig.advance(Duration::from_secs(86_400)).await;
        assert_eq!(rig.reconciler.tick().await.unwrap(), 0, "not for ever");
        let verdict = Verdict::DidNotHappen;
        operate::resolve(&*base.ledger, id, &verdict, &somebody())
            .await
            .unwrap();
        let job = rig.drive(id).await;
        assert_eq!((job.state, world.sends()), (State::Completed, 2), "{job:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_word_sends_again_what_was_looked_for_in_vain_and_not_for_ever() {
    for base in Base::both().await {
        for (resend, lost, state, sends) in [
            (Resend::DuplicateFilter, 1, State::Completed, 2),
            (Resend::DuplicateFilter, 9, State::Unresolved, 2),
            (Resend::Always, 2, State::Completed, 3),
            (Resend::Always, 9, State::Unresolved, 3),
        ] {
            let edit = |config: &mut Config| {
                let said = KindSettings {
                    resend: Some(resend),
                    ..KindSettings::default()
                };
                config.kinds.insert("test.probe".to_owned(), said);
            };
            let rig = Rig::new(&base, kinds(), edit).await;
            let world = World::new();
            world.answers((0..lost).map(|_| Says::Lost));
            let id = rig.enqueue(&world.job("blind", "x")).await;
            let job = rig.drive(id).await;
            assert_eq!(
                (job.state, world.sends()),
                (state, sends),
                "{resend}: {job:?}"
            );
            assert!(5 < world.looks(), "it is looked for first");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_look_for_is_left_to_a_person() {
    for base in Base::both().await {
        let (rig, world, id) = lost(&base, "blind").await;
        rig.step(LANE).await;
        let stranger = Rig::new(&base, presswork::kinds::all(), usual).await;
        for _ in 0..40 {
            stranger.reconciler.tick().await.unwrap();
            rig.advance(Duration::from_secs(30)).await;
        }
        let effect = rig.effects(id).await.pop().unwrap();
        assert_eq!(effect.state, EffectState::Unresolved, "{effect:?}");
        assert_eq!((world.sends(), world.looks()), (1, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_whose_daemon_died_is_looked_for_not_repeated() {
    for base in Base::both().await {
        for act in ["handle", "blind"] {
            let rig = Rig::new(&base, kinds(), usual).await;
            let world = World::new();
            world.answers([Says::Never]);
            world.finds([there_as(act)]);
            let id = rig.enqueue(&world.job(act, "x")).await;
            let victim = Rig::new(&base, kinds(), usual).await;
            let run = victim.begin(victim.take(LANE).await.pop().unwrap());
            kit::wait::until("it is sent", SOON, async || world.sends() == 1).await;
            run.abort();
            base.ledger.end_run(victim.shared.run_id()).await.unwrap();
            rig.sweeper.reclaim().await.unwrap();
            let job = rig.drive(id).await;
            assert_eq!(
                (job.state, world.sends(), world.looks()),
                (State::Completed, 1, 1),
                "{job:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_called_off_ends_after_the_look() {
    for base in Base::both().await {
        for (found, effect) in [
            (there(), EffectState::Confirmed),
            (absent(), EffectState::Refused),
        ] {
            let (rig, world, id) = lost(&base, "handle").await;
            operate::cancel(&*base.ledger, id, &somebody())
                .await
                .unwrap();
            world.finds([found]);
            let job = rig.drive(id).await;
            assert_eq!((job.state, world.sends()), (State::Cancelled, 1), "{job:?}");
            assert_eq!(world.looks(), 1);
            // what was there before the cancel stays written down
            assert_eq!(rig.effects(id).await[0].state, effect);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_post_proves_one_job_of_two_alike() {
    for base in Base::both().await {
        let (rig, world, first) = lost(&base, "blind").await;
        world.finds([there()]);
        assert_eq!(rig.drive(first).await.state, State::Completed);
        // its twin finds the same post, each time: that is the first one's
        world.answers([Says::Lost]);
        let second = rig.enqueue(&world.job("blind", "twin")).await;
        world.finds(std::iter::repeat_n(there(), 30));
        let job = rig.drive(second).await;
        assert_eq!(
            (job.state, world.sends()),
            (State::Unresolved, 2),
            "{job:?}"
        );
        let effect = rig.effects(second).await.pop().unwrap();
        let seen = &effect.evidence.last().unwrap().seen;
        assert!(effect.evidence[1].seen.contains("found-1"), "{seen}");
    }
}
