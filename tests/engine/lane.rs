//! A lane's worker: it ends when stopped, never by itself, and takes its jobs along when aborted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use presswork::engine::lane;
use presswork::engine::shared::Assigned;
use presswork::lifecycle::State;
use tokio::sync::mpsc;

use crate::probe::{World, kinds};
use crate::rig::{Base, Rig};
use crate::stormy::Stormy;
use crate::{LANE, SOON, kit, limits};

/// Claimed jobs, for a worker of the test's own.
async fn assigned(count: usize) -> Vec<Assigned> {
    let base = Base::embedded().await;
    let rig = Rig::new(&base, kinds(), limits(None, 50)).await;
    let world = World::new();
    for n in 0..count {
        rig.enqueue(&world.job("note", n)).await;
    }
    let taken = rig.take(LANE).await;
    assert_eq!(taken.len(), count);
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_ends_when_stopped_and_only_after_its_jobs() {
    let (jobs, claimed) = mpsc::channel(10);
    let (done, gate) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(tokio::sync::Semaphore::new(0)),
    );
    let work = {
        let (done, gate) = (done.clone(), gate.clone());
        move |_: Assigned| {
            let (done, gate) = (done.clone(), gate.clone());
            async move {
                gate.acquire().await.unwrap().forget();
                done.fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    let mut worker = tokio::spawn(async move { lane::run("x", claimed, work).await });
    for it in assigned(3).await {
        jobs.send(it).await.unwrap();
    }
    drop(jobs);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut worker).await;
    assert!(early.is_err(), "it ended before its jobs: {early:?}");
    gate.add_permits(3);
    tokio::time::timeout(SOON, worker)
        .await
        .expect("it ends")
        .unwrap()
        .unwrap();
    assert_eq!(done.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_never_ends_by_itself_and_a_panic_does_not_end_it() {
    let (jobs, claimed) = mpsc::channel(10);
    let done = Arc::new(AtomicUsize::new(0));
    let work = {
        let done = done.clone();
        move |_: Assigned| {
            let done = done.clone();
            async move {
                let turn = done.fetch_add(1, Ordering::SeqCst);
                assert!(turn % 2 == 1, "the test wants a panic");
            }
        }
    };
    let mut worker = tokio::spawn(async move { lane::run("x", claimed, work).await });
    for (n, it) in assigned(4).await.into_iter().enumerate() {
        jobs.send(it).await.unwrap();
        kit::wait::until("the job ran", SOON, async || {
            done.load(Ordering::SeqCst) == n + 1
        })
        .await;
        let ended = tokio::time::timeout(Duration::from_millis(100), &mut worker).await;
        assert!(
            ended.is_err(),
            "the worker ended after {} jobs: {ended:?}",
            n + 1
        );
    }
    drop(jobs);
    tokio::time::timeout(SOON, worker)
        .await
        .expect("it ends")
        .unwrap()
        .unwrap();
}

struct Gone(Arc<AtomicUsize>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_really_aborts_what_runs() {
    let (jobs, claimed) = mpsc::channel(10);
    let (began, gone) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let work = {
        let (began, gone) = (began.clone(), gone.clone());
        move |_: Assigned| {
            let (began, gone) = (began.clone(), Gone(gone.clone()));
            async move {
                began.fetch_add(1, Ordering::SeqCst);
                let _gone = gone;
                std::future::pending::<()>().await;
            }
        }
    };
    let worker = tokio::spawn(async move { lane::run("x", claimed, work).await });
    for it in assigned(4).await {
        jobs.send(it).await.unwrap();
    }
    kit::wait::until("all run", SOON, async || began.load(Ordering::SeqCst) == 4).await;
    worker.abort();
    kit::wait::until("all are gone", SOON, async || {
        gone.load(Ordering::SeqCst) == 4
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_storm_of_the_queue_loses_nothing_and_ends_nothing() {
    for seed in [7, 42] {
        let mut base = Base::embedded_live().await;
        let storm = Stormy::new(base.queue.clone(), seed);
        storm.per_mille.store(300, Ordering::SeqCst);
        base.queue = storm.clone();
        let engine = base.whole(limits(Some(8), 16), kinds()).await;
        let world = World::new();
        let mut ids = Vec::new();
        let unfinished = async || -> u64 { base.ledger.counts().await.unwrap().values().sum() };
        // in rounds, as a queue that isn't trusted is asked little: it is needed again for the next
        let until = Instant::now() + Duration::from_secs(60);
        while ids.len() < 200 || storm.failed.load(Ordering::SeqCst) <= 5 {
            assert!(Instant::now() < until, "there is no storm");
            for n in ids.len()..ids.len() + 20 {
                let bytes = world.job("yield", n).to_string();
                let answer = engine.doors.submit(bytes.as_bytes()).await.unwrap();
                ids.push(answer.id().unwrap());
            }
            kit::wait::until_or(
                || {
                    let errors = storm.failed.load(Ordering::SeqCst);
                    format!("all ended (seed {seed}, {errors} errors)")
                },
                Duration::from_secs(60),
                async || unfinished().await == 0,
            )
            .await;
        }
        for id in &ids {
            let job = base.ledger.job(*id).await.unwrap().unwrap();
            assert_eq!(
                (job.state, job.attempts, job.crashes),
                (State::Completed, 0, 0),
                "{job:?}"
            );
        }
        let mut starts = world.starts();
        starts.sort();
        starts.dedup();
        assert_eq!(
            (starts.len(), world.starts().len()),
            (ids.len(), ids.len()),
            "each ran once"
        );
        assert!(world.peak.load(Ordering::SeqCst) <= 8, "{:?}", world.peak);
        assert!(!engine.failed.is_cancelled());
        assert_eq!(engine.drain(SOON).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_a_reload_closes_takes_nothing_more_and_ends() {
    let base = Base::embedded_live().await;
    let engine = base.whole(limits(None, 4), kinds()).await;
    let world = World::new();
    let submit = async |lane: &str, name: &str| {
        let mut envelope = world.job("gate", name);
        envelope["lane"] = lane.into();
        engine
            .doors
            .submit(envelope.to_string().as_bytes())
            .await
            .unwrap()
    };
    let with = |lanes: &[&str]| {
        let mut config = base.config();
        for lane in lanes {
            let limits = presswork::config::Lane {
                concurrency: None,
                room: 4,
                ..presswork::config::Lane::default()
            };
            config.lanes.insert((*lane).to_owned(), limits);
        }
        config
    };
    engine.reload(with(&["extra"]));
    submit("extra", "first").await;
    kit::wait::until("it runs", SOON, async || world.starts() == ["first"]).await;
    submit("extra", "second").await;
    kit::wait::until("both run", SOON, async || world.starts().len() == 2).await;
    engine.reload(with(&[]));
    world.gate.add_permits(1);
    let running = async || base.ledger.running("extra").await.unwrap().len();
    kit::wait::until("one has ended", SOON, async || running().await == 1).await;
    // opened anew beside the old one's last job; one dispatcher serves it
    engine.reload(with(&["extra"]));
    for name in ["a", "b", "c", "d", "e", "f"] {
        submit("extra", name).await;
    }
    kit::wait::until("the lane is full", SOON, async || running().await == 5).await;
    world.gate.add_permits(20);
    kit::wait::until("all ended", SOON, async || {
        base.ledger.counts().await.unwrap().is_empty()
    })
    .await;
    assert_eq!(world.starts().len(), 8);
    assert_eq!(engine.drain(SOON).await, 0);
}
