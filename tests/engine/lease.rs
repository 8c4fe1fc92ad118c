//! The heartbeat: missed, past, dead; and jobs that are told to stop by the host's own clock.

use std::time::Duration;

use presswork::config::Config;
use presswork::engine::lease::{Beat, Lease};
use presswork::intake::Within;
use presswork::lifecycle::State;
use tokio_util::sync::CancellationToken;

use crate::probe::{World, kinds};
use crate::rig::{Base, Rig};
use crate::wrap::Faulty;
use crate::{LANE, SOON, kit};

fn short(config: &mut Config) {
    config.lease = Duration::from_millis(1_500);
}

async fn faulty() -> (Base, std::sync::Arc<Faulty>) {
    let mut base = Base::embedded_live().await;
    let faulty = Faulty::new(base.ledger.clone());
    base.ledger = faulty.clone();
    (base, faulty)
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_stop_before_the_lease_ends_by_the_hosts_own_clock() {
    let (base, faulty) = faulty().await;
    let rig = Rig::new(&base, kinds(), short).await;
    let world = World::new();
    let id = rig.enqueue(&world.job("watch", "x")).await;
    let run = rig.begin(rig.take(LANE).await.pop().unwrap());
    let beat = async || rig.lease.lock().await.tick().await;
    assert_eq!(beat().await, Beat::Renewed);
    faulty.away("*");
    assert_eq!(beat().await, Beat::Missed);
    assert!(!world.is_told_to_stop());
    kit::wait::until("the lease is past", SOON, async || {
        beat().await == Beat::Past
    })
    .await;
    kit::wait::until("the job is told", SOON, async || world.is_told_to_stop()).await;
    faulty.back();
    tokio::time::timeout(SOON, run)
        .await
        .expect("it settles when the ledger is back")
        .unwrap();
    let job = rig.expect(id, State::Ready).await;
    assert_eq!((job.attempts, job.crashes), (0, 0));
    assert_eq!(rig.attempts(id).await[0].outcome, "released");
    assert_eq!(beat().await, Beat::Renewed, "nobody declared it dead");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_declared_dead_stops_and_settles_nothing() {
    let (base, _) = faulty().await;
    let rig = Rig::new(&base, kinds(), short).await;
    let other = Rig::new(&base, kinds(), short).await;
    let world = World::new();
    let id = rig.enqueue(&world.job("gate", "x")).await;
    let run = rig.begin(rig.take(LANE).await.pop().unwrap());
    kit::wait::until("it runs", SOON, async || world.starts().len() == 1).await;
    base.ledger.end_run(rig.shared.run_id()).await.unwrap();
    assert_eq!(other.sweeper.reclaim().await.unwrap(), 1);
    assert_eq!(rig.lease.lock().await.tick().await, Beat::Dead);
    assert!(world.is_told_to_stop());
    world.gate.add_permits(1);
    tokio::time::timeout(SOON, run)
        .await
        .expect("it ends")
        .unwrap();
    let job = other.expect(id, State::Ready).await;
    assert_eq!(
        (job.attempts, job.crashes),
        (0, 1),
        "the late settle changed nothing"
    );
    let words: Vec<_> = other
        .attempts(id)
        .await
        .into_iter()
        .map(|it| it.outcome)
        .collect();
    assert_eq!(words, ["reclaimed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_was_away_at_the_end_gets_the_outcome_all_the_same() {
    let (base, faulty) = faulty().await;
    let rig = Rig::new(&base, kinds(), short).await;
    let world = World::new();
    let id = rig.enqueue(&world.job("note", "x")).await;
    let assigned = rig.take(LANE).await.pop().unwrap();
    faulty.away("settle");
    let run = rig.begin(assigned);
    kit::wait::until("it tried", SOON, async || 2 < faulty.calls("settle")).await;
    assert!(
        rig.shared.running.holds(id),
        "the heartbeat goes on naming it"
    );
    faulty.back();
    run.await.unwrap();
    rig.expect(id, State::Completed).await;
    // a settle that was made, and its answer lost, is made again: stale, and nothing is counted twice
    let id = rig.enqueue(&world.job("note", "y")).await;
    let assigned = rig.take(LANE).await.pop().unwrap();
    faulty.lose("settle");
    let run = rig.begin(assigned);
    kit::wait::until("it was lost", SOON, async || {
        rig.job(id).await.state == State::Completed
    })
    .await;
    faulty.back();
    run.await.unwrap();
    assert_eq!(rig.attempts(id).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_thread_of_a_whole_engine_renews_while_handlers_block() {
    // not over SQLite: a transaction whose thread is blocked keeps all others from writing
    let base = Base::servers().await;
    let engine = base.whole(short, kinds()).await;
    // more blocking handlers than there are threads; together, as the first of them blocks this thread, too
    let bytes = br#"{"kind": "test.job", "payload": {"spin_ms": 3000}}"#;
    let eight = [(bytes.as_slice(), Within::default()); 8];
    engine.doors.submit_together(&eight).await.unwrap().unwrap();
    // a look of this test is blocked as anything else is, and its wait for the server may be over before
    // anybody reads the answer: only a look that came through tells anything
    let ended = async || base.ledger.counts().await.is_ok_and(|left| left.is_empty());
    kit::wait::until("all ended", Duration::from_secs(60), ended).await;
    for job in base
        .ledger
        .jobs(&presswork::ledger::Filter {
            states: vec![State::Completed],
            ..Default::default()
        })
        .await
        .unwrap()
    {
        assert_eq!((job.crashes, job.epoch), (0, 1), "{job:?}");
    }
    assert!(!engine.failed.is_cancelled());
    engine.drain(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_that_panics_ends_its_daemon() {
    let (base, faulty) = faulty().await;
    let rig = Rig::new(&base, kinds(), short).await;
    let (ended, dead) = (CancellationToken::new(), CancellationToken::new());
    let began = std::time::Instant::now();
    let start = || {
        Lease::new(rig.shared.clone(), base.ledger.clone(), began)
            .start(ended.clone(), dead.clone())
            .unwrap()
    };
    let sound = start();
    faulty.panic_at("beat");
    let broken = start();
    tokio::time::timeout(SOON, dead.cancelled())
        .await
        .expect("without a beat others take over what runs here");
    ended.cancel();
    let join = |thread: std::thread::JoinHandle<()>| tokio::task::spawn_blocking(|| thread.join());
    // whichever beat next
    let (broken, sound) = (join(broken).await.unwrap(), join(sound).await.unwrap());
    assert!(broken.is_err() || sound.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_that_is_ended_declares_nobody_dead() {
    let (base, _) = faulty().await;
    let rig = Rig::new(&base, kinds(), short).await;
    let (ended, dead) = (CancellationToken::new(), CancellationToken::new());
    let began = std::time::Instant::now();
    let lease = Lease::new(rig.shared.clone(), base.ledger.clone(), began);
    let thread = lease.start(ended.clone(), dead.clone()).unwrap();
    ended.cancel();
    let joined = tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
    assert!(joined.is_ok() && !dead.is_cancelled());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_can_not_be_taken_back_keeps_no_other() {
    let (base, faulty) = faulty().await;
    let rig = Rig::new(&base, kinds(), short).await;
    let other = Rig::new(&base, kinds(), short).await;
    let world = World::new();
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(rig.enqueue(&world.job("note", n)).await);
    }
    assert_eq!(rig.take(LANE).await.len(), 5);
    base.ledger.end_run(rig.shared.run_id()).await.unwrap();
    faulty.never_settle(ids[2]);
    assert_eq!(other.sweeper.reclaim().await.unwrap(), 4);
    for (n, id) in ids.iter().enumerate() {
        let state = if n == 2 { State::Running } else { State::Ready };
        other.expect(*id, state).await;
    }
}
