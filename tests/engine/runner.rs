//! One attempt: its time-out, its panic, its cancel, its drain, and what ends it before it starts.

use std::time::Duration;

use presswork::config::Config;
use presswork::effect::EffectState;
use presswork::engine::shared::{Assigned, Hold};
use presswork::job::JobId;
use presswork::ledger::Claim;
use presswork::lifecycle::State;
use presswork::operate;
use presswork::outcome::Class;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::probe::{Says, World, kinds, no};
use crate::rig::{Base, Rig, somebody};
use crate::{LANE, SOON, kit, usual};

async fn rig() -> Rig {
    Rig::new(&Base::embedded().await, kinds(), usual).await
}

/// Begins the one attempt of a job.
async fn begin(rig: &Rig, envelope: &serde_json::Value) -> (JobId, tokio::task::JoinHandle<()>) {
    let id = rig.enqueue(envelope).await;
    let assigned = rig.take(LANE).await.pop().expect("it is claimed");
    (id, rig.begin(assigned))
}

async fn ended(run: tokio::task::JoinHandle<()>) {
    tokio::time::timeout(SOON, run)
        .await
        .expect("it ends")
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_out_ends_a_handler_that_does_not_listen() {
    let rig = rig().await;
    let world = World::new();
    let mut envelope = world.job("gate", "x");
    envelope["timeout_s"] = 1.into();
    let (id, run) = begin(&rig, &envelope).await;
    ended(run).await;
    let job = rig.expect(id, State::Retrying).await;
    let failure = job.failure.unwrap();
    assert_eq!(
        (failure.code.as_str(), job.attempts),
        ("timeout", 1),
        "{failure}"
    );
    kit::wait::until("it is gone", SOON, async || {
        world.dropped.load(std::sync::atomic::Ordering::SeqCst) == 1
    })
    .await;
}

/// A time-out while the platform thinks: what it answers in the end counts.
async fn late(says: Says) -> (Rig, std::sync::Arc<World>, JobId) {
    let rig = rig().await;
    let world = World::new();
    world.answers([Says::OnCue(Box::new(says))]);
    let mut envelope = world.job("keyed", "x");
    envelope["timeout_s"] = 1.into();
    let (id, run) = begin(&rig, &envelope).await;
    kit::wait::until("the time-out", SOON, async || world.is_told_to_stop()).await;
    assert!(!run.is_finished());
    world.cue.add_permits(1);
    ended(run).await;
    (rig, world, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_under_way_at_the_time_out_is_waited_for_and_its_answer_counts() {
    for _ in 0..5 {
        let (rig, world, id) = late(Says::Yes).await;
        assert_eq!(rig.effects(id).await[0].state, EffectState::Confirmed);
        let job = rig.expect(id, State::Completed).await;
        assert_eq!((job.attempts, world.sends()), (0, 1));

        let (rig, _, id) = late(Says::Lost).await;
        assert_eq!(rig.effects(id).await[0].state, EffectState::Unknown);
        let job = rig.expect(id, State::Retrying).await;
        assert_eq!(
            (job.attempts, job.failure.unwrap().class),
            (0, Class::Unknown),
            "an unknown charges nothing"
        );
    }
    let (rig, _, id) = late(no(Class::Transient, 0)).await;
    assert_eq!(rig.effects(id).await[0].state, EffectState::Refused);
    let job = rig.expect(id, State::Retrying).await;
    assert_eq!(job.attempts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_keeps_the_configuration_it_began_with() {
    let rig = rig().await;
    let world = World::new();
    let (first, run) = begin(&rig, &world.job("settings", "old")).await;
    kit::wait::until("it has begun", SOON, async || {
        !world.starts.lock().unwrap().is_empty()
    })
    .await;
    let old = rig.shared.config.load().window;
    let mut config = Config::clone(&rig.shared.config.load());
    config.window = old + 1;
    rig.shared.config.store(std::sync::Arc::new(config));
    world.gate.add_permits(2);
    ended(run).await;
    let (second, run) = begin(&rig, &world.job("settings", "new")).await;
    ended(run).await;
    for (id, window) in [(first, old), (second, old + 1)] {
        let result = rig.expect(id, State::Completed).await.result.unwrap();
        let result: serde_json::Value = serde_json::from_str(&result).unwrap();
        assert_eq!(result, json!([window, window]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_says_is_written_down_without_secrets() {
    let rig = rig().await;
    presswork::telemetry::redact::register(&"a-secret-of-the-configuration".to_owned().into());
    let said = "sk-0123456789abcdef and a-secret-of-the-configuration";
    let payload = json!({"fail_times": 1, "class": "permanent", "code": said});
    let id = rig
        .enqueue(&json!({"kind": "test.job", "payload": payload}))
        .await;
    rig.step(LANE).await;
    let failure = rig.expect(id, State::Dead).await.failure.unwrap();
    assert_eq!(failure.code, "*** and ***");
    let attempts = rig.attempts(id).await;
    assert_eq!(attempts[0].failure.as_ref().unwrap().code, "*** and ***");
    let payload = json!({"result": {"text": format!("it says {said}")}});
    let id = rig
        .enqueue(&json!({"kind": "test.job", "payload": payload}))
        .await;
    rig.step(LANE).await;
    // what looks like a secret may be the content; ours never is
    let result = rig.expect(id, State::Completed).await.result.unwrap();
    assert!(result.contains("sk-0123456789abcdef and ***"), "{result}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_a_failure_with_its_message() {
    let rig = rig().await;
    let envelope = json!({"kind": "test.job", "payload": {"panic_times": 1}});
    let id = rig.enqueue(&envelope).await;
    rig.step(LANE).await;
    let job = rig.expect(id, State::Retrying).await;
    let failure = job.failure.unwrap();
    assert_eq!((failure.code.as_str(), job.attempts), ("panic", 1));
    assert!(
        failure.message.contains("asked to panic in attempt 1"),
        "{failure}"
    );
    assert_eq!(rig.drive(id).await.state, State::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_job_is_cancelled_at_once_and_a_running_one_by_the_next_look() {
    let rig = rig().await;
    let world = World::new();
    let ledger = &*rig.base.ledger;
    let waiting = rig.enqueue(&world.job("note", "w")).await;
    assert_eq!(
        operate::cancel(ledger, waiting, &somebody()).await.unwrap(),
        State::Cancelled
    );
    assert_eq!(rig.step(LANE).await, 0);
    let (id, run) = begin(&rig, &world.job("watch", "r")).await;
    kit::wait::until("it runs", SOON, async || world.starts() == ["r"]).await;
    assert_eq!(
        operate::cancel(ledger, id, &somebody()).await.unwrap(),
        State::Running
    );
    rig.control.tick().await.unwrap();
    ended(run).await;
    let job = rig.expect(id, State::Cancelled).await;
    assert_eq!(job.attempts, 0);
    assert!(operate::cancel(ledger, id, &somebody()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_does_not_listen_is_cancelled_all_the_same() {
    let rig = rig().await;
    let world = World::new();
    let (id, run) = begin(&rig, &world.job("gate", "x")).await;
    operate::cancel(&*rig.base.ledger, id, &somebody())
        .await
        .unwrap();
    rig.control.tick().await.unwrap();
    ended(run).await;
    rig.expect(id, State::Cancelled).await;
}

/// A cancel that comes while the platform thinks.
async fn cancelled_amid(says: Says) -> (Rig, std::sync::Arc<World>, JobId) {
    let rig = rig().await;
    let world = World::new();
    world.answers([Says::OnCue(Box::new(says))]);
    let (id, run) = begin(&rig, &world.job("keyed", "x")).await;
    kit::wait::until("the send", SOON, async || world.sends() == 1).await;
    operate::cancel(&*rig.base.ledger, id, &somebody())
        .await
        .unwrap();
    rig.control.tick().await.unwrap();
    world.cue.add_permits(1);
    ended(run).await;
    (rig, world, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_amid_a_call_waits_for_the_outcome() {
    let (rig, _, id) = cancelled_amid(Says::Yes).await;
    rig.expect(id, State::Completed).await;

    let (rig, world, id) = cancelled_amid(no(Class::Transient, 0)).await;
    rig.expect(id, State::Cancelled).await;
    assert_eq!(world.sends(), 1, "what was refused isn't tried again");

    // it may have happened: that is found out first, under the same key, and then it ends
    let (rig, world, id) = cancelled_amid(Says::Lost).await;
    let job = rig.expect(id, State::Retrying).await;
    assert_eq!(job.failure.unwrap().class, Class::Unknown);
    let job = rig.drive(id).await;
    assert_eq!(job.state, State::Completed);
    assert_eq!(world.sends(), 2);
    let keys: Vec<_> = world
        .sent
        .lock()
        .unwrap()
        .iter()
        .map(|it| it.keep.clone())
        .collect();
    assert_eq!(keys[0], keys[1]);

    // a repeat that is refused tells nothing of the first: it is asked until one answer does
    let (rig, world, id) = cancelled_amid(Says::Lost).await;
    world.answers([no(Class::Transient, 0)]);
    let job = rig.drive(id).await;
    assert_eq!((job.state, world.sends()), (State::Completed, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_nobody_saw_before_the_attempt_failed_is_not_forgotten() {
    for base in Base::both().await {
        let rig = Rig::new(&base, kinds(), usual).await;
        let world = World::new();
        let (id, run) = begin(&rig, &world.job("gate_fail", "x")).await;
        operate::cancel(&*rig.base.ledger, id, &somebody())
            .await
            .unwrap();
        world.gate.add_permits(2);
        ended(run).await;
        let job = rig.drive(id).await;
        assert_eq!(
            job.state,
            State::Cancelled,
            "{}: {job:?}",
            base.ledger.name()
        );
        assert_eq!(world.starts().len(), 1, "it didn't run again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_gives_back_what_runs_at_no_charge() {
    let base = Base::embedded_live().await;
    let engine = base.whole(usual, kinds()).await;
    let world = World::new();
    let mut ids = Vec::new();
    for act in ["watch", "gate", "watch"] {
        let bytes = world.job(act, act).to_string();
        ids.push(
            engine
                .doors
                .submit(bytes.as_bytes())
                .await
                .unwrap()
                .id()
                .unwrap(),
        );
    }
    kit::wait::until("they run", SOON, async || world.starts().len() == 3).await;
    assert_eq!(engine.drain(Duration::from_millis(50)).await, 3);
    for id in ids {
        let job = base.ledger.job(id).await.unwrap().unwrap();
        assert_eq!(
            (job.state, job.attempts, job.crashes),
            (State::Ready, 0, 0),
            "{job:?}"
        );
        assert_eq!(
            base.ledger.attempts(id).await.unwrap()[0].outcome,
            "released"
        );
    }
    assert!(base.ledger.live_runs().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_claimed_and_did_not_begin_is_given_back_by_a_drain() {
    let base = Base::embedded_live().await;
    let engine = base
        .whole(
            |it: &mut Config| it.lanes.values_mut().for_each(|it| it.room = 100),
            kinds(),
        )
        .await;
    let world = World::new();
    for n in 0..50 {
        engine
            .doors
            .submit(world.job("watch", n).to_string().as_bytes())
            .await
            .unwrap();
    }
    engine.drain(Duration::ZERO).await;
    let counts = base.ledger.counts().await.unwrap();
    assert_eq!(
        counts.into_iter().collect::<Vec<_>>(),
        [((LANE.to_owned(), State::Ready), 50)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_comes_too_late_never_begins() {
    let rig = rig().await;
    let world = World::new();
    let mut envelope = world.job("note", "x");
    envelope["not_after"] = (rig.base.clock.now() + chrono::Duration::seconds(10))
        .to_rfc3339()
        .into();
    let claimed = rig.enqueue(&envelope).await;
    let assigned = rig.take(LANE).await.pop().unwrap();
    envelope["key"] = "other".into();
    let waiting = rig.enqueue(&envelope).await;
    rig.advance(Duration::from_secs(11)).await;
    ended(rig.begin(assigned)).await;
    rig.sweeper.tick(0).await.unwrap();
    for id in [claimed, waiting] {
        let job = rig.expect(id, State::Dead).await;
        assert_eq!(
            (job.failure.unwrap().code.as_str(), job.attempts),
            ("expired", 0)
        );
    }
    assert!(world.starts().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_is_unknown_here_is_given_back() {
    let base = Base::embedded().await;
    let knows = Rig::new(&base, kinds(), usual).await;
    let world = World::new();
    let id = knows.enqueue(&world.job("note", "x")).await;
    let rig = Rig::new(&base, presswork::kinds::all(), usual).await;
    assert_eq!(
        rig.step(LANE).await,
        0,
        "a daemon claims only kinds that it knows"
    );
    let claim = Claim {
        run: rig.shared.run_id(),
        generation: None,
        lane: LANE.to_owned(),
        kinds: knows.shared.kind_names.clone(),
        concurrency: None,
        shut: std::sync::Arc::default(),
        fair: std::sync::Arc::default(),
    };
    let job = base
        .ledger
        .claim(&claim, &[id])
        .await
        .unwrap()
        .pop()
        .unwrap();
    rig.shared.running.enter(&[id]);
    let place = std::sync::Arc::new(Semaphore::new(1))
        .try_acquire_owned()
        .unwrap();
    let hold = Hold::of(&rig.shared, &[id]).remove(&id).unwrap();
    ended(rig.begin(Assigned {
        hold: hold.into(),
        job: job.into(),
        place: place.into(),
    }))
    .await;
    let job = rig.expect(id, State::Ready).await;
    assert_eq!(job.attempts, 0);
    assert_eq!(knows.drive(id).await.state, State::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_kept_while_it_runs() {
    for base in Base::both().await {
        let rig = Rig::new(&base, kinds(), usual).await;
        let world = World::new();
        let (id, run) = begin(&rig, &world.job("tell", "x")).await;
        kit::wait::until("it is kept", SOON, async || {
            let progress = &rig.shared.progress;
            progress.tick(&*base.ledger).await.unwrap();
            rig.job(id)
                .await
                .progress
                .is_some_and(|it| it.percent == 42 && it.message == "half way")
        })
        .await;
        world.gate.add_permits(1);
        ended(run).await;
        rig.expect(id, State::Completed).await;
    }
}
