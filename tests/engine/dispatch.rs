//! What goes first, how much at once, and what happens when the queue doesn't know better.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use presswork::engine::dispatcher::Took;
use presswork::ledger::{Audit, Claim, Pause};
use presswork::lifecycle::State;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::probe::{World, kinds};
use crate::rig::{Base, Rig};
use crate::stormy::Stormy;
use crate::wrap::Faulty;
use crate::{LANE, kit, limits, usual};

fn with(mut envelope: Value, name: &str, value: &str) -> Value {
    envelope[name] = value.into();
    envelope
}

#[tokio::test(flavor = "multi_thread")]
async fn priority_goes_first_then_the_tenants_take_turns() {
    for base in Base::both().await {
        let rig = Rig::new(&base, kinds(), limits(None, 1)).await;
        let world = World::new();
        for priority in ["low", "normal", "high"] {
            for (tenant, count) in [("a", 4), ("b", 2)] {
                for n in 0..count {
                    let job = world.job("note", format!("{priority}-{tenant}{n}"));
                    let job = with(with(job, "priority", priority), "tenant", tenant);
                    rig.enqueue(&job).await;
                    rig.advance(Duration::from_millis(1)).await;
                }
            }
        }
        while rig.step(LANE).await != 0 {}
        let starts = world.starts();
        let of = |priority: &str| -> Vec<&str> {
            starts
                .iter()
                .filter_map(|it| it.strip_prefix(priority)?.strip_prefix('-'))
                .collect()
        };
        let expected = ["a0", "b0", "a1", "b1", "a2", "a3"];
        for priority in ["high", "normal", "low"] {
            assert_eq!(of(priority), expected, "{} {starts:?}", base.ledger.name());
        }
        let places: Vec<_> = ["high", "normal", "low"]
            .map(|it| starts.iter().position(|at| at.starts_with(it)).unwrap())
            .into();
        assert_eq!(places, [0, 6, 12], "{starts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrency_is_counted_across_hosts() {
    for base in Base::both().await {
        let hosts = [
            Rig::new(&base, kinds(), limits(Some(3), 10)).await,
            Rig::new(&base, kinds(), limits(Some(3), 10)).await,
        ];
        let world = World::new();
        for n in 0..40 {
            hosts[n % 2].enqueue(&world.job("gate", n)).await;
        }
        let mut runs = Vec::new();
        let mut ended = 0;
        for round in 0.. {
            for host in &hosts {
                runs.extend(host.take(LANE).await.into_iter().map(|it| host.begin(it)));
            }
            let running = base.ledger.running(LANE).await.unwrap().len();
            assert!(running <= 3, "{running} run at once");
            if runs.is_empty() {
                break;
            }
            assert_eq!(running, runs.len());
            // one ends, and its place is taken by the other host or this one
            world.gate.add_permits(1);
            let done = async {
                while !runs.iter().any(tokio::task::JoinHandle::is_finished) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(crate::SOON, done)
                .await
                .unwrap_or_else(|_| panic!("round {round}: none ends"));
            ended += runs.iter().filter(|it| it.is_finished()).count();
            runs.retain(|it| !it.is_finished());
        }
        assert_eq!(
            (ended, world.peak.load(Ordering::SeqCst)),
            (40, 3),
            "{}",
            base.ledger.name()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn room_is_taken_before_jobs_are() {
    let base = Base::embedded().await;
    let rig = Rig::new(&base, kinds(), limits(None, 2)).await;
    let world = World::new();
    for n in 0..5 {
        rig.enqueue(&world.job("note", n)).await;
    }
    let taken = rig.take(LANE).await;
    assert_eq!(taken.len(), 2);
    assert_eq!(
        base.ledger.running(LANE).await.unwrap().len(),
        2,
        "no more than there is room for is claimed"
    );
    drop(taken);
    assert_eq!(
        rig.take(LANE).await.len(),
        2,
        "the place travels with the job"
    );
}

/// What a person does to the lane.
async fn pause(base: &Base, is: bool) {
    let at = base.clock.now();
    let pause = Pause {
        lane: LANE.into(),
        reason: "a test".into(),
        by: "anna".into(),
        at,
    };
    let audit = Audit {
        actor: "anna".into(),
        action: if is { "pause" } else { "resume" }.into(),
        job: None,
        detail: String::new(),
        at,
    };
    let pause = is.then_some(&pause);
    base.ledger.pause(LANE, pause, &audit).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_lane_takes_nothing_until_it_goes_on() {
    let base = Base::embedded().await;
    let rig = Rig::new(&base, kinds(), usual).await;
    let world = World::new();
    rig.enqueue(&world.job("note", "x")).await;
    pause(&base, true).await;
    rig.control.tick().await.unwrap();
    assert_eq!(rig.step(LANE).await, 0);
    pause(&base, false).await;
    rig.control.tick().await.unwrap();
    assert_eq!(rig.step(LANE).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_was_paused_while_it_was_full_takes_nothing_when_there_is_room() {
    let base = Base::embedded().await;
    let rig = Rig::new(&base, kinds(), limits(None, 1)).await;
    let world = World::new();
    for n in 0..2 {
        rig.enqueue(&world.job("note", n)).await;
    }
    let taken = rig.take(LANE).await;
    assert_eq!(taken.len(), 1);
    let tick = rig.tick(LANE);
    tokio::pin!(tick);
    tokio::select! {
        biased;
        took = &mut tick => panic!("there was no room, and it took {took:?}"),
        () = std::future::ready(()) => {}
    }
    pause(&base, true).await;
    rig.control.tick().await.unwrap();
    drop(taken);
    assert_eq!(tick.await, Took::Nothing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_hint_is_refused_by_the_ledger_and_gives_its_slot_back() {
    for base in Base::both().await {
        let rig = Rig::new(&base, kinds(), limits(Some(2), 2)).await;
        let world = World::new();
        let id = rig.enqueue(&world.job("note", "x")).await;
        rig.relay.tick().await;
        // somebody else was faster, past the queue
        let other = Rig::new(&base, kinds(), usual).await;
        let claim = Claim {
            run: other.shared.run_id(),
            generation: None,
            lane: LANE.to_owned(),
            kinds: other.shared.kind_names.clone(),
            concurrency: None,
            shut: Arc::default(),
            fair: Arc::default(),
        };
        assert_eq!(base.ledger.claim(&claim, &[id]).await.unwrap().len(), 1);
        assert!(rig.dispatch(LANE).await.is_empty());
        let generation = rig.shared.generation().unwrap();
        assert_eq!(base.queue.held(generation, LANE).await.unwrap(), []);
        assert!(rig.shared.running.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_generation_refuses_claims_under_the_old_one() {
    for base in Base::both().await {
        let rig = Rig::new(&base, kinds(), usual).await;
        let world = World::new();
        let id = rig.enqueue(&world.job("note", "x")).await;
        rig.relay.tick().await;
        let known = base.ledger.generation().await.unwrap();
        let next = base
            .ledger
            .next_generation(known.number, "another server")
            .await
            .unwrap();
        assert!(next.is_some_and(|it| known.number < it));
        assert!(
            rig.dispatch(LANE).await.is_empty(),
            "claimed under a generation that is behind"
        );
        rig.expect(id, State::Ready).await;
        for _ in 0..8 {
            rig.relay.tick().await;
        }
        assert_eq!(rig.step(LANE).await, 1, "rebuilt");
        rig.expect(id, State::Completed).await;
    }
}

/// Who frees a slot hears of it first: without manners it would keep all that it ever had.
#[tokio::test]
async fn a_daemon_takes_its_share_first_and_what_the_others_leave_later() {
    for base in Base::both().await {
        let name = base.ledger.name();
        let host = Rig::new(&base, kinds(), limits(Some(5), 10)).await;
        let other = Rig::new(&base, kinds(), limits(Some(5), 10)).await;
        let world = World::new();
        for n in 0..9 {
            host.enqueue(&world.job("gate", n)).await;
        }
        host.relay.tick().await;
        host.control.tick().await.unwrap();
        let (took, first) = host.turn(LANE, true).await;
        assert_eq!((took, first.len()), (Took::Jobs(3), 3), "{name}");
        let (took, none) = host.turn(LANE, true).await;
        assert_eq!((took, none.len()), (Took::Share, 0), "{name}");
        let (took, rest) = host.turn(LANE, false).await;
        assert_eq!((took, rest.len()), (Took::Jobs(2), 2), "{name}");

        // one of its own ends: below its share it asks nobody
        drop(rest);
        let mut first = first.into_iter();
        host.begin(first.next().unwrap());
        world.gate.add_permits(1);
        let slots = async || base.ledger.running(LANE).await.unwrap().len();
        kit::wait::until("it has ended", crate::SOON, async || slots().await == 4).await;
        kit::wait::until("its place is free", crate::SOON, async || {
            host.turn(LANE, true).await.0 == Took::Jobs(1)
        })
        .await;

        // alone it waits for nobody
        other
            .shared
            .ledger
            .end_run(other.shared.run_id())
            .await
            .unwrap();
        host.control.tick().await.unwrap();
        assert_eq!(host.shared.live.load(Ordering::Relaxed), 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_queue_the_ledger_gives_and_keeps_the_concurrency() {
    for mut base in Base::both().await {
        let storm = Stormy::new(base.queue.clone(), 1);
        base.queue = storm.clone();
        let hosts = [
            Rig::new(&base, kinds(), limits(Some(3), 10)).await,
            Rig::new(&base, kinds(), limits(Some(3), 10)).await,
        ];
        let world = World::new();
        for n in 0..6 {
            hosts[0].enqueue(&world.job("gate", n)).await;
        }
        let mut runs = Vec::new();
        let first = hosts[0].take(LANE).await;
        assert_eq!(first.len(), 3);
        let mut first = first.into_iter();
        runs.push(hosts[0].begin(first.next().unwrap()));
        runs.extend(first.map(|it| hosts[0].begin(it)));
        storm.away.store(true, Ordering::SeqCst);
        for host in &hosts {
            for _ in 0..4 {
                host.relay.tick().await;
            }
            assert_eq!(host.shared.generation(), None);
            assert!(host.dispatch(LANE).await.is_empty(), "the lane is full");
        }
        world.gate.add_permits(2);
        kit::wait::until("two end", crate::SOON, async || {
            runs.iter().filter(|it| it.is_finished()).count() == 2
        })
        .await;
        for host in &hosts {
            runs.extend(host.take(LANE).await.into_iter().map(|it| host.begin(it)));
        }
        assert_eq!(
            base.ledger.running(LANE).await.unwrap().len(),
            3,
            "{}",
            base.ledger.name()
        );
        storm.away.store(false, Ordering::SeqCst);
        // both notice at once
        tokio::join!(hosts[0].relay.tick(), hosts[1].relay.tick());
        for _ in 0..8 {
            tokio::join!(hosts[0].relay.tick(), hosts[1].relay.tick());
        }
        let generation = hosts[0]
            .shared
            .generation()
            .expect("the queue is used again");
        assert_eq!(hosts[1].shared.generation(), Some(generation));
        let sorted = |mut it: Vec<_>| {
            it.sort();
            it
        };
        let held = sorted(base.queue.held(generation, LANE).await.unwrap());
        assert_eq!(
            held,
            sorted(base.ledger.running(LANE).await.unwrap()),
            "rebuilt with the slots of what runs"
        );
        world.gate.add_permits(10);
        for _ in 0..4 {
            for host in &hosts {
                runs.extend(host.take(LANE).await.into_iter().map(|it| host.begin(it)));
            }
            for run in runs.drain(..) {
                run.await.unwrap();
            }
        }
        assert_eq!(world.starts().len(), 6);
        assert!(base.ledger.counts().await.unwrap().is_empty());
        assert!(world.peak.load(Ordering::SeqCst) <= 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_nobody_uses_are_freed() {
    for base in Base::both().await {
        let rig = Rig::new(&base, kinds(), limits(Some(1), 1)).await;
        let world = World::new();
        let id = rig.enqueue(&world.job("note", "x")).await;
        rig.relay.tick().await;
        let generation = rig.shared.generation().unwrap();
        // taken, and the answer lost; the second in the name of a run that is gone
        let taken = base
            .queue
            .take(generation, LANE, rig.shared.run_id(), 1, Some(1))
            .await
            .unwrap();
        assert_eq!(taken.ids, [id]);
        assert_eq!(rig.step(LANE).await, 0, "the slot is held");
        for _ in 0..24 {
            rig.relay.tick().await;
        }
        assert_eq!(base.queue.held(generation, LANE).await.unwrap(), []);
        assert_eq!(rig.step(LANE).await, 1);
        let next = rig.enqueue(&world.job("note", "y")).await;
        rig.relay.tick().await;
        assert_eq!(
            base.queue
                .take(generation, LANE, Uuid::new_v4(), 1, Some(1))
                .await
                .unwrap()
                .ids,
            [next]
        );
        for _ in 0..24 {
            rig.relay.tick().await;
        }
        assert_eq!(rig.step(LANE).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_queue_that_was_wiped_is_noticed_before_a_job_comes() {
    let redis = kit::redis::Redis::start();
    let base = Base::on(kit::postgres::Postgres::shared(), &redis.url(), None).await;
    let rig = Rig::new(&base, kinds(), usual).await;
    rig.relay.tick().await;
    let before = rig.shared.generation().expect("the queue is used");
    redis.flushall();
    kit::wait::until("it is filled anew", crate::SOON, async || {
        rig.relay.tick().await;
        rig.shared.generation().is_some_and(|it| before < it)
    })
    .await;
    // what is said of the old generation by then changes nothing
    rig.shared.distrust_queue(before);
    assert!(rig.shared.generation().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_redis_is_filled_anew_with_the_slots_of_what_runs() {
    let redis = kit::redis::Redis::start();
    let base = Base::on(kit::postgres::Postgres::shared(), &redis.url(), None).await;
    let rig = Rig::new(&base, kinds(), limits(Some(2), 5)).await;
    let world = World::new();
    for n in 0..4 {
        rig.enqueue(&world.job("gate", n)).await;
    }
    let runs: Vec<_> = rig
        .take(LANE)
        .await
        .into_iter()
        .map(|it| rig.begin(it))
        .collect();
    assert_eq!(runs.len(), 2);
    redis.flushall();
    assert!(rig.dispatch(LANE).await.len() <= 2);
    for _ in 0..8 {
        rig.relay.tick().await;
        assert!(rig.dispatch(LANE).await.is_empty(), "two run already");
    }
    world.gate.add_permits(10);
    for run in runs {
        run.await.unwrap();
    }
    assert_eq!(rig.step(LANE).await, 2);
    assert!(base.ledger.counts().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_answer_was_lost_is_taken_back_at_no_attempt() {
    let mut base = Base::embedded().await;
    let faulty = Faulty::new(base.ledger.clone());
    base.ledger = faulty.clone();
    let rig = Rig::new(&base, kinds(), usual).await;
    let world = World::new();
    let id = rig.enqueue(&world.job("note", "x")).await;
    rig.relay.tick().await;
    faulty.lose("claim");
    assert!(rig.dispatch(LANE).await.is_empty());
    faulty.back();
    rig.expect(id, State::Running).await;
    // a beat names what runs here, and this isn't among it; the next beat proves it
    for _ in 0..3 {
        rig.advance(Duration::from_secs(1)).await;
    }
    rig.sweeper.reclaim().await.unwrap();
    let job = rig.expect(id, State::Ready).await;
    assert_eq!((job.attempts, job.crashes), (0, 1));
    assert_eq!(rig.drive(id).await.state, State::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_delivery_of_a_job_is_never_run() {
    for base in Base::both().await {
        let rig = Rig::new(&base, kinds(), usual).await;
        let world = World::new();
        let id = rig.enqueue(&world.job("gate", "x")).await;
        let run = rig.begin(rig.take(LANE).await.pop().unwrap());
        let generation = rig.shared.generation().unwrap();
        base.queue.release(generation, LANE, &[id]).await.unwrap();
        let hint = presswork::ledger::Hint {
            id,
            priority: presswork::job::Priority::Normal,
            tenant: "default".into(),
            account: "".into(),
            lifted: false,
            step: 1,
        };
        base.queue
            .offer(generation, LANE, &[hint], 10)
            .await
            .unwrap();
        assert!(rig.dispatch(LANE).await.is_empty());
        assert!(rig.shared.running.holds(id), "what runs stays named");
        world.gate.add_permits(1);
        run.await.unwrap();
        assert_eq!(world.starts().len(), 1);
        rig.expect(id, State::Completed).await;
        assert_eq!(
            base.queue.held(generation, LANE).await.unwrap(),
            [],
            "{}",
            json!({"store": base.queue.name()})
        );
    }
}
