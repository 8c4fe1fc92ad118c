//! What is due, and who takes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use presswork::fair::Fair;
use presswork::gate::Shut;
use presswork::job::{Job, JobId, NewJob, Priority};
use presswork::ledger::Claim;
use presswork::lifecycle::{Event, State};
use presswork::outcome::{Failure, Outcome};
use uuid::Uuid;

use super::fixture::{Fixture, KIND, LANE, LEASE, at_most, job, kinds};

async fn due(f: &Fixture, limit: u32) -> Vec<JobId> {
    let hints = f
        .due(LANE, &kinds(), &Shut::default(), &Fair::default(), limit)
        .await
        .unwrap();
    hints.into_iter().map(|it| it.id).collect()
}

fn ids(jobs: &[Job]) -> Vec<JobId> {
    jobs.iter().map(|it| it.id).collect()
}

pub async fn due_is_by_priority_then_age(f: Fixture) {
    let now = f.time().await;
    let at = |priority, ago| NewJob {
        priority,
        run_at: Some(now - chrono::Duration::seconds(ago)),
        ..job(KIND)
    };
    let jobs = [
        at(Priority::Low, 900),
        at(Priority::Normal, 10),
        at(Priority::High, 1),
        at(Priority::Normal, 20),
        at(Priority::High, 2),
    ];
    let added = f.add(&jobs).await;
    let order: Vec<JobId> = [4, 2, 3, 1, 0].map(|it: usize| added[it]).into();
    assert_eq!(due(&f, 10).await, order);
    assert_eq!(due(&f, 3).await, order[..3]);
    let hints = f
        .due(LANE, &kinds(), &Shut::default(), &Fair::default(), 1)
        .await
        .unwrap();
    assert_eq!(
        (hints[0].priority, &*hints[0].tenant),
        (Priority::High, "default")
    );
}

pub async fn due_is_fair_between_tenants(f: Fixture) {
    let many: Vec<NewJob> = (0..1_000)
        .map(|_| NewJob {
            tenant: "many".into(),
            ..job(KIND)
        })
        .collect();
    let many = f.add(&many).await;
    f.shift(1).await;
    let few: Vec<NewJob> = (0..3)
        .map(|_| NewJob {
            tenant: "few".into(),
            ..job(KIND)
        })
        .collect();
    let few = f.add(&few).await;
    let first = due(&f, 6).await;
    assert!(
        few.iter().all(|it| first.contains(it)),
        "all three are among the first six"
    );
    assert_eq!(first.iter().filter(|it| many.contains(it)).count(), 3);
    assert_eq!(due(&f, 2_000).await.len(), 1_003);
}

pub async fn due_of_several_lanes_is_that_of_each(f: Fixture) {
    for (lane, tenant, many) in [("a", "x", 5), ("a", "y", 2), ("b", "x", 3), ("d", "x", 1)] {
        let one = || NewJob {
            lane: lane.into(),
            tenant: tenant.into(),
            ..job(KIND)
        };
        f.add(&(0..many).map(|_| one()).collect::<Vec<_>>()).await;
    }
    let later = NewJob {
        lane: "c".into(),
        run_at: Some(f.time().await + chrono::Duration::hours(1)),
        ..job(KIND)
    };
    f.add(&[later]).await;
    let lanes: Vec<String> = ["b", "c", "a", "nothing"].map(str::to_owned).to_vec();
    for limit in [1, 4, 100] {
        let together = f
            .due_in(&lanes, &kinds(), &Shut::default(), &Fair::default(), limit)
            .await
            .unwrap();
        let here: Vec<&str> = together.keys().map(String::as_str).collect();
        assert_eq!(here, ["a", "b"], "lanes without anything due are left out");
        for (lane, hints) in &together {
            assert_eq!(
                *hints,
                f.due(lane, &kinds(), &Shut::default(), &Fair::default(), limit)
                    .await
                    .unwrap(),
                "{lane}"
            );
        }
    }
    assert_eq!(
        f.due_in(&[], &kinds(), &Shut::default(), &Fair::default(), 9)
            .await
            .unwrap()
            .len(),
        0
    );
    assert_eq!(
        f.due_in(&lanes, &[], &Shut::default(), &Fair::default(), 9)
            .await
            .unwrap()
            .len(),
        0
    );
}

pub async fn due_is_only_what_may_be_claimed(f: Fixture) {
    let elsewhere = NewJob {
        lane: "other".into(),
        ..job(KIND)
    };
    let unknown = job("demo.unknown");
    let later = NewJob {
        run_at: Some(f.time().await + chrono::Duration::hours(1)),
        ..job(KIND)
    };
    let (ready, cancelled) = (job(KIND), job(KIND));
    f.add(&[elsewhere, unknown, later, ready.clone(), cancelled.clone()])
        .await;
    let (_, running) = f.start(job(KIND)).await;
    let (_, failed) = f.start(job(KIND)).await;
    f.happen(&failed, Event::Ended(Failure::permanent("x", "x").into()))
        .await;
    f.happen(&f.look(cancelled.id).await, Event::CancelAsked)
        .await;
    assert_eq!(due(&f, 10).await, [ready.id]);
    assert_eq!(f.look(running.id).await.state, State::Running);
    assert!(
        f.due(LANE, &[], &Shut::default(), &Fair::default(), 10)
            .await
            .unwrap()
            .is_empty(),
        "a daemon that knows no kind"
    );
}

pub async fn a_job_becomes_due_as_the_clock_moves(f: Fixture) {
    let now = f.time().await;
    let later = NewJob {
        run_at: Some(now + chrono::Duration::hours(1)),
        ..job(KIND)
    };
    f.add(std::slice::from_ref(&later)).await;
    let (claim, retried) = f.start(job(KIND)).await;
    let retried = f
        .happen(&retried, Event::Ended(Failure::transient("x", "x").into()))
        .await;
    assert_eq!(retried.state, State::Retrying);
    assert!(now < retried.run_at && retried.run_at < now + chrono::Duration::minutes(50));
    assert_eq!(due(&f, 10).await, []);
    assert_eq!(f.claim(&claim, &[later.id, retried.id]).await.unwrap(), []);
    f.shift(3_000).await;
    assert_eq!(due(&f, 10).await, [retried.id]);
    f.shift(700).await;
    f.beat(claim.run, &[], LEASE).await.unwrap();
    assert_eq!(due(&f, 10).await, [retried.id, later.id]);
    // nothing was written for it
    assert_eq!(f.look(later.id).await.state, State::Scheduled);
    assert_eq!(f.take(&claim, later.id).await.state, State::Running);
}

pub async fn claim_is_a_compare_and_set(f: Fixture) {
    let ids = f.add(&[job(KIND)]).await;
    let (one, other) = (f.enter().await, f.enter().await);
    let first = f.take(&one, ids[0]).await;
    assert_eq!(
        (first.state, first.epoch, first.run),
        (State::Running, 1, Some(one.run))
    );
    assert!(first.token.is_some() && first.claimed_at.is_some());
    assert_eq!(f.look(ids[0]).await, first, "the answer is what is written");
    for claim in [&one, &other] {
        assert_eq!(f.claim(claim, &ids).await.unwrap(), [], "it is taken");
    }
    assert_eq!(f.look(ids[0]).await.token, first.token);
    let released = f
        .happen(
            &first,
            Event::Ended(Outcome::Released { reason: "x".into() }),
        )
        .await;
    // what is given back isn't taken again at once
    f.shift(1).await;
    let second = f.take(&other, ids[0]).await;
    assert_eq!((second.epoch, second.run), (2, Some(other.run)));
    assert_ne!(second.token, first.token);
    assert!(first.version < released.version && released.version < second.version);
}

pub async fn of_concurrent_claims_each_job_goes_to_one(f: Fixture) {
    let jobs: Vec<NewJob> = (0..200).map(|_| job(KIND)).collect();
    let ids = f.add(&jobs).await;
    let mut tasks = vec![];
    for turn in 0..4 {
        let (ledger, claim, mut ids) = (f.ledger.clone(), f.enter().await, ids.clone());
        if turn % 2 == 1 {
            ids.reverse();
        }
        tasks.push(tokio::spawn(async move {
            let mut mine = vec![];
            for part in ids.chunks(40) {
                mine.extend(ledger.claim(&claim, part).await.unwrap());
            }
            mine
        }));
    }
    let mut taken: BTreeMap<JobId, Uuid> = BTreeMap::new();
    for task in tasks {
        for job in task.await.unwrap() {
            let token = job.token.expect("a claimed job has a token");
            assert_eq!(
                taken.insert(job.id, token),
                None,
                "two runs have the same job"
            );
        }
    }
    assert_eq!(taken.len(), ids.len());
    let tokens: BTreeSet<&Uuid> = taken.values().collect();
    assert_eq!(tokens.len(), ids.len(), "each lease has a token of its own");
}

pub async fn a_claim_of_an_old_generation_gets_nothing(f: Fixture) {
    let ids = f.add(&[job(KIND), job(KIND)]).await;
    let claim = f.enter().await;
    let old = f.generation().await.unwrap().number;
    let new = f
        .next_generation(old, "server")
        .await
        .unwrap()
        .expect("nobody else counted");
    let of = |generation| Claim {
        generation: Some(generation),
        ..claim.clone()
    };
    assert_eq!(f.claim(&of(old), &ids).await.unwrap(), []);
    assert_eq!(f.claim_due(&of(old), 10).await.unwrap(), []);
    assert_eq!(f.look(ids[0]).await.epoch, 0);
    assert_eq!(f.claim(&of(new), &ids[..1]).await.unwrap().len(), 1);
    assert_eq!(
        f.claim(&claim, &ids[1..]).await.unwrap().len(),
        1,
        "not from a queue"
    );
}

pub async fn a_claim_takes_only_what_is_due(f: Fixture) {
    let later = NewJob {
        run_at: Some(f.time().await + chrono::Duration::hours(1)),
        ..job(KIND)
    };
    let (ready, cancelled) = (job(KIND), job(KIND));
    f.add(&[later.clone(), ready.clone(), cancelled.clone()])
        .await;
    let (claim, dead) = f.start(job(KIND)).await;
    f.happen(&dead, Event::Ended(Failure::permanent("x", "x").into()))
        .await;
    f.happen(&f.look(cancelled.id).await, Event::CancelAsked)
        .await;
    let wanted = [
        later.id,
        cancelled.id,
        JobId::mint(),
        dead.id,
        ready.id,
        ready.id,
    ];
    assert_eq!(ids(&f.claim(&claim, &wanted).await.unwrap()), [ready.id]);
    assert_eq!(f.look(later.id).await.version, 0);
}

pub async fn claims_come_in_the_order_of_the_hints(f: Fixture) {
    let jobs: Vec<NewJob> = (0..50).map(|_| job(KIND)).collect();
    let mut wanted = f.add(&jobs).await;
    let half = wanted.split_off(25);
    let wanted: Vec<JobId> = half
        .into_iter()
        .rev()
        .zip(wanted)
        .flat_map(|(a, b)| [a, b])
        .collect();
    let claim = f.enter().await;
    assert_eq!(ids(&f.claim(&claim, &wanted).await.unwrap()), wanted);
}

pub async fn claim_due_takes_what_is_due_in_order(f: Fixture) {
    let low = NewJob {
        priority: Priority::Low,
        ..job(KIND)
    };
    let high = NewJob {
        priority: Priority::High,
        ..job(KIND)
    };
    let unknown = NewJob {
        priority: Priority::High,
        ..job("demo.unknown")
    };
    f.add(&[low.clone(), high.clone(), unknown]).await;
    let claim = f.enter().await;
    let elsewhere = Claim {
        lane: "other".into(),
        ..claim.clone()
    };
    assert_eq!(f.claim_due(&elsewhere, 10).await.unwrap(), []);
    let first = f.claim_due(&claim, 1).await.unwrap();
    assert_eq!(ids(&first), [high.id]);
    assert_eq!(first[0].run, Some(claim.run));
    let none = f.claim_due(&at_most(1, &claim), 10).await.unwrap();
    assert_eq!(none, [], "one is running, and no more may");
    assert_eq!(f.claim_due(&at_most(0, &claim), 10).await.unwrap(), []);
    let second = f.claim_due(&at_most(2, &claim), 10).await.unwrap();
    assert_eq!(ids(&second), [low.id]);
}

/// Eight claim by ids and eight by what is due, all at once.
pub async fn claims_never_exceed_the_concurrency(f: Fixture) {
    const CONCURRENCY: u32 = 5;
    let jobs: Vec<NewJob> = (0..60).map(|_| job(KIND)).collect();
    let all = f.add(&jobs).await;
    let mut tasks = vec![];
    for task in 0..16usize {
        let (ledger, claim) = (f.ledger.clone(), at_most(CONCURRENCY, &f.enter().await));
        let mut some = all.clone();
        some.rotate_left(task * 3);
        tasks.push(tokio::spawn(async move {
            let mut mine = vec![];
            for turn in 0..4 {
                let taken = match task % 2 {
                    0 => ledger.claim_due(&claim, 2).await,
                    _ => ledger.claim(&claim, &some[turn..turn + 3]).await,
                };
                mine.extend(taken.unwrap());
                let running = ledger.running(LANE).await.unwrap().len();
                assert!(running <= CONCURRENCY as usize, "{running} are running");
            }
            mine
        }));
    }
    let mut taken = BTreeSet::new();
    for task in tasks {
        taken.extend(ids(&task.await.unwrap()));
    }
    assert_eq!(taken.len(), CONCURRENCY as usize);
    let first = *taken.first().expect("five are running");
    f.happen(
        &f.look(first).await,
        Event::Ended(Outcome::Completed(1.into())),
    )
    .await;
    let claim = at_most(CONCURRENCY, &f.enter().await);
    let more = f.claim_due(&claim, 10).await.unwrap();
    assert_eq!(more.len(), 1, "one place is free");
}

pub async fn a_claim_by_ids_takes_the_first_that_have_room(f: Fixture) {
    let jobs: Vec<NewJob> = (0..6).map(|_| job(KIND)).collect();
    let mut wanted = f.add(&jobs).await;
    wanted.reverse();
    let claim = f.enter().await;
    f.take(&claim, wanted[0]).await;
    // the first of them is taken: it needs no place
    let taken = f.claim(&at_most(3, &claim), &wanted).await.unwrap();
    assert_eq!(ids(&taken), wanted[1..3]);
    assert_eq!(f.claim(&at_most(3, &claim), &wanted).await.unwrap(), []);
    let elsewhere = NewJob {
        lane: "other".into(),
        ..job(KIND)
    };
    let other = f.add(&[elsewhere]).await;
    let claim = Claim {
        lane: "other".into(),
        ..at_most(1, &claim)
    };
    let taken = f.claim(&claim, &other).await.unwrap();
    assert_eq!(ids(&taken), other, "each lane has its own bound");
}

/// By the ledger's clock: what it claimed would be taken from it at once, and might run twice.
pub async fn a_run_that_is_over_claims_nothing(f: Fixture) {
    let wanted = f.add(&[job(KIND), job(KIND)]).await;
    let (late, ended) = (f.enter().await, f.enter().await);
    f.end_run(ended.run).await.unwrap();
    f.shift(3_601).await;
    let nobody = Claim {
        run: Uuid::new_v4(),
        ..late.clone()
    };
    for claim in [&late, &ended, &nobody] {
        for claim in [claim.clone(), at_most(9, claim)] {
            assert_eq!(f.claim(&claim, &wanted).await.unwrap(), []);
            assert_eq!(f.claim_due(&claim, 10).await.unwrap(), []);
        }
    }
    assert_eq!(f.look(wanted[0]).await.epoch, 0);
    // it beats again: nobody declared it dead
    assert!(f.beat(late.run, &[], LEASE).await.unwrap().is_some());
    assert_eq!(ids(&f.claim(&late, &wanted).await.unwrap()), wanted);
}

/// A hint says neither: it may be older than a reload, or another host's.
pub async fn a_claim_takes_only_its_lane_and_kinds(f: Fixture) {
    let elsewhere = NewJob {
        lane: "other".into(),
        ..job(KIND)
    };
    let wanted = f.add(&[job("demo.unknown"), elsewhere, job(KIND)]).await;
    let claim = f.enter().await;
    let ignorant = Claim {
        kinds: Arc::new([]),
        ..claim.clone()
    };
    for bound in [None, Some(9)] {
        let of = |claim: &Claim| Claim {
            concurrency: bound,
            ..claim.clone()
        };
        assert_eq!(f.claim(&of(&ignorant), &wanted).await.unwrap(), []);
        assert_eq!(f.claim_due(&of(&ignorant), 10).await.unwrap(), []);
        assert_eq!(f.claim(&of(&claim), &wanted[..2]).await.unwrap(), []);
    }
    assert_eq!(ids(&f.claim(&claim, &wanted).await.unwrap()), wanted[2..]);
    assert_eq!(f.look(wanted[0]).await.state, State::Ready);
}
