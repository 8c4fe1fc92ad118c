//! Runs of the daemon, their leases, and what is lost without them.

use std::time::Duration;

use presswork::job::{Job, JobId, Progress};
use presswork::ledger::Settlement;
use presswork::lifecycle::{Event, State};
use presswork::outcome::{Failure, Outcome};
use uuid::Uuid;

use super::fixture::{Fixture, KIND, LANE, LEASE, follows, job, near, run};

const SHORT: Duration = Duration::from_secs(30);

async fn lost(f: &Fixture) -> Vec<JobId> {
    let mut ids: Vec<JobId> = f.lost(100).await.unwrap().iter().map(|it| it.id).collect();
    ids.sort();
    ids
}

pub async fn a_job_of_a_dead_run_is_lost(f: Fixture) {
    let claim = f.enter().await;
    f.beat(claim.run, &[], SHORT).await.unwrap();
    let ids = f.add(&[job(KIND), job(KIND)]).await;
    let first = f.take(&claim, ids[0]).await;
    f.take(&claim, ids[1]).await;
    assert_eq!(lost(&f).await, []);
    f.shift(31).await;
    assert_eq!(lost(&f).await, ids);
    assert_eq!(f.lost(1).await.unwrap().len(), 1);
    let seen = f.lost(10).await.unwrap();
    let seen = seen
        .iter()
        .find(|it| it.id == first.id)
        .expect("it is told");
    assert_eq!(seen, &first, "with its lease, under which it is reclaimed");
    let back = f.happen(seen, Event::Reclaimed).await;
    assert_eq!((back.state, back.crashes), (State::Ready, 1));
    assert_eq!(lost(&f).await, ids[1..]);
}

/// Absence proves a loss only when the job was claimed before the beat before the last one.
pub async fn a_job_that_its_run_no_longer_names_is_lost(f: Fixture) {
    let claim = f.enter().await;
    let ids = f.add(&[job(KIND), job(KIND), job(KIND)]).await;
    let (forgotten, named, late) = (ids[0], ids[1], ids[2]);
    f.take(&claim, forgotten).await;
    f.take(&claim, named).await;
    f.shift(5).await;
    f.beat(claim.run, &[named], LEASE).await.unwrap();
    assert_eq!(
        lost(&f).await,
        [],
        "one beat proves nothing: its list may be older than the claim"
    );
    f.shift(5).await;
    f.take(&claim, late).await;
    f.shift(5).await;
    f.beat(claim.run, &[named], LEASE).await.unwrap();
    assert_eq!(
        lost(&f).await,
        [forgotten],
        "the late one was claimed after the beat before"
    );
    f.shift(5).await;
    f.beat(claim.run, &[named, forgotten], LEASE).await.unwrap();
    assert_eq!(lost(&f).await, [late], "what is named is not lost");
    f.shift(5).await;
    f.beat(claim.run, &ids, LEASE).await.unwrap();
    assert_eq!(lost(&f).await, []);
}

pub async fn an_ended_run_loses_its_jobs_at_once(f: Fixture) {
    let (claim, mine) = f.start(job(KIND)).await;
    let (_, other) = f.start(job(KIND)).await;
    f.end_run(claim.run).await.unwrap();
    assert_eq!(lost(&f).await, [mine.id]);
    assert_ne!(mine.run, other.run);
}

pub async fn expired_are_waiting_jobs_past_their_time(f: Fixture) {
    let now = f.time().await;
    let hour = Some(now + chrono::Duration::hours(1));
    let limited = || presswork::job::NewJob {
        not_after: hour,
        ..job(KIND)
    };
    let (_, running) = f.start(limited()).await;
    let (_, dead) = f.start(limited()).await;
    f.happen(&dead, Event::Ended(Failure::permanent("x", "x").into()))
        .await;
    let aged = presswork::job::NewJob {
        age_max_s: 7_200,
        ..job(KIND)
    };
    let (young, waiting) = (job(KIND), limited());
    f.add(&[waiting.clone(), aged.clone(), young]).await;
    let told = |jobs: Vec<Job>| jobs.iter().map(|it| it.id).collect::<Vec<_>>();
    assert_eq!(told(f.expired(10).await.unwrap()), []);
    f.shift(3_601).await;
    assert_eq!(told(f.expired(10).await.unwrap()), [waiting.id]);
    f.shift(3_600).await;
    let mut both = told(f.expired(10).await.unwrap());
    both.sort();
    assert_eq!(both, [aged.id, waiting.id]);
    assert_eq!(f.expired(1).await.unwrap().len(), 1);
    let unresolved = Event::Ended(Outcome::Unresolved(Failure::permanent("x", "x")));
    f.happen(&running, unresolved).await;
    assert_eq!(
        f.expired(10).await.unwrap().len(),
        2,
        "a person is waited for, however long"
    );
}

pub async fn progress_is_kept_under_the_token(f: Fixture) {
    let (_, mine) = f.start(job(KIND)).await;
    let (_, other) = f.start(job(KIND)).await;
    let at = |percent| Progress {
        percent,
        message: "half of \"it\" ü".into(),
    };
    let token = mine.token.expect("it is claimed");
    let batch = [
        (other.id, Uuid::new_v4(), at(10)),
        (JobId::mint(), token, at(20)),
        (mine.id, token, at(50)),
    ];
    f.progress(&batch).await.unwrap();
    let seen = f.look(mine.id).await;
    assert_eq!(seen.progress, Some(at(50)));
    assert_eq!(f.look(other.id).await.progress, None);
    assert_eq!(
        seen.version, mine.version,
        "a percentage is no change of state"
    );
    // the next attempt begins at nothing
    let back = f
        .happen(
            &seen,
            Event::Ended(Outcome::Released { reason: "x".into() }),
        )
        .await;
    f.progress(&[(mine.id, token, at(99))]).await.unwrap();
    let claim = f.enter().await;
    // what is given back isn't taken again at once
    f.shift(1).await;
    assert_eq!(f.take(&claim, back.id).await.progress, None);
}

pub async fn running_names_jobs_and_their_runs(f: Fixture) {
    let elsewhere = presswork::job::NewJob {
        lane: "other".into(),
        ..job(KIND)
    };
    let (there, one) = f.start(elsewhere).await;
    let (here, two) = f.start(job(KIND)).await;
    f.add(&[job(KIND)]).await;
    assert_eq!(f.running(LANE).await.unwrap(), [(two.id, here.run)]);
    assert_eq!(f.running("other").await.unwrap(), [(one.id, there.run)]);
    assert_eq!(f.running("none").await.unwrap(), []);
}

pub async fn a_beat_renews_the_lease(f: Fixture) {
    let mine = run(f.time().await);
    f.begin_run(&mine, SHORT).await.unwrap();
    f.shift(20).await;
    let until = f
        .beat(mine.id, &[], SHORT)
        .await
        .unwrap()
        .expect("it lives");
    assert!(near(until, f.time().await + chrono::Duration::seconds(30)));
    f.shift(20).await;
    assert_eq!(f.live_runs().await.unwrap(), [mine]);
    assert_eq!(
        f.beat(Uuid::new_v4(), &[], SHORT).await.unwrap(),
        None,
        "nobody knows it"
    );
}

/// Nobody has declared it dead: it goes on, and what was taken from it meanwhile has another token.
pub async fn a_lapsed_run_may_come_back(f: Fixture) {
    let mine = run(f.time().await);
    f.begin_run(&mine, SHORT).await.unwrap();
    f.shift(120).await;
    assert_eq!(f.live_runs().await.unwrap(), []);
    assert!(f.beat(mine.id, &[], SHORT).await.unwrap().is_some());
    assert_eq!(f.live_runs().await.unwrap().len(), 1);
}

pub async fn a_run_declared_dead_never_comes_back(f: Fixture) {
    let (claim, mine) = f.start(job(KIND)).await;
    f.end_run(claim.run).await.unwrap();
    f.end_run(claim.run).await.unwrap();
    for _ in 0..2 {
        assert_eq!(f.beat(claim.run, &[mine.id], LEASE).await.unwrap(), None);
        assert_eq!(f.live_runs().await.unwrap(), []);
        assert_eq!(lost(&f).await, [mine.id]);
        f.shift(10).await;
    }
}

pub async fn live_runs_tell_where_they_run(f: Fixture) {
    let now = f.time().await;
    let (old, mut new) = (run(now - chrono::Duration::hours(1)), run(now));
    new.boot = None;
    f.begin_run(&new, LEASE).await.unwrap();
    f.begin_run(&old, SHORT).await.unwrap();
    assert_eq!(f.live_runs().await.unwrap(), [old, new.clone()]);
    f.shift(60).await;
    assert_eq!(f.live_runs().await.unwrap(), [new]);
}

pub async fn control_tells_cancels_pauses_and_the_generation(f: Fixture) {
    let (claim, mine) = f.start(job(KIND)).await;
    let (_, other) = f.start(job(KIND)).await;
    f.start(job(KIND)).await;
    let now = f.time().await;
    let cancel = |job: &Job| -> Settlement { follows(job, Event::CancelAsked, now) };
    f.settle(&[cancel(&mine), cancel(&other)]).await.unwrap();
    let pause = presswork::ledger::Pause {
        lane: LANE.into(),
        reason: "x".into(),
        by: "ann".into(),
        at: now,
    };
    let why = super::fixture::audit("pause", None, now);
    f.pause(LANE, Some(&pause), &why).await.unwrap();
    let before = f.generation().await.unwrap().number;
    f.next_generation(before, "server").await.unwrap();
    let control = f.control(claim.run).await.unwrap();
    assert_eq!(control.cancels, [mine.id]);
    assert_eq!(control.paused, [LANE]);
    assert_eq!(control.generation, before + 1);
    let live = f.live_runs().await.unwrap().len();
    assert_eq!((control.live as usize, live), (3, 3));
    f.end_run(claim.run).await.unwrap();
    assert_eq!(f.control(claim.run).await.unwrap().live, 2);
    assert_eq!(f.control(Uuid::new_v4()).await.unwrap().cancels, []);
}

pub async fn the_generation_is_counted_by_compare_and_set(f: Fixture) {
    let first = f.generation().await.unwrap();
    assert_eq!(first.server, None);
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let ledger = f.ledger.clone();
            let server = format!("server {n}");
            tokio::spawn(async move {
                (
                    ledger.next_generation(first.number, &server).await.unwrap(),
                    server,
                )
            })
        })
        .collect();
    let mut won = vec![];
    for task in tasks {
        if let (Some(number), server) = task.await.unwrap() {
            won.push((number, Some(server)));
        }
    }
    let now = f.generation().await.unwrap();
    assert_eq!(won, [(now.number, now.server)]);
    assert_eq!(now.number, first.number + 1);
    assert_eq!(f.next_generation(first.number, "late").await.unwrap(), None);
}
