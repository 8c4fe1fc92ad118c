//! Random histories: two runs, a person and a sweeper against a small model of who may own a job.

use std::collections::{BTreeMap, BTreeSet};

use presswork::job::{Job, JobId, NewJob};
use presswork::ledger::{Claim, Filter, Settled};
use presswork::lifecycle::{Event, State, advance, is_suspect};
use presswork::outcome::{Class, Failure, Held, Outcome, Scope};
use presswork::retry::Policy;
use uuid::Uuid;

use super::fixture::{Fixture, KIND, LEASE, at_most, follows, job};

const STEPS: u32 = 400;

/// Splitmix64: the same history for the same seed, in every release of every crate.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((x ^ (x >> 31)) % sides as u64).expect("less than the sides")
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() {
            None
        } else {
            from.get(self.roll(from.len()))
        }
    }
}

/// What the model knows of the store.
#[derive(Default)]
struct Model {
    accepted: Vec<JobId>,
    /// Who may own what: the token of the current lease.
    owners: BTreeMap<JobId, Uuid>,
    /// Every lease there ever was, as its holder saw the job: stale ones are tried, too.
    leases: Vec<Job>,
    ended: BTreeMap<JobId, State>,
    archived: BTreeSet<JobId>,
}

impl Model {
    fn taken(&mut self, jobs: Vec<Job>) {
        for job in jobs {
            let token = job.token.expect("a claimed job has a token");
            assert_eq!(
                self.owners.insert(job.id, token),
                None,
                "two own {}",
                job.id
            );
            assert!(
                !self.ended.contains_key(&job.id),
                "an ended job was claimed"
            );
            assert!(
                self.leases.iter().all(|it| it.token != job.token),
                "a token was used again"
            );
            self.leases.push(job);
        }
    }

    /// A settlement was written down: `held` is the token that it was guarded by, if any.
    fn settled(&mut self, id: JobId, held: Option<Uuid>, event: &Event, to: State, archive: bool) {
        if let Some(token) = held {
            assert_eq!(self.owners.get(&id), Some(&token), "a stale lease was good");
        }
        let left = self.ended.remove(&id);
        let may_leave = matches!(event, Event::Revived | Event::Discarded);
        assert!(left.is_none() || may_leave, "{event:?} left {left:?}");
        assert!(!self.archived.contains(&id), "the history was changed");
        if to != State::Running {
            self.owners.remove(&id);
        }
        if to.is_terminal() {
            self.ended.insert(id, to);
        }
        if archive {
            self.archived.insert(id);
        }
    }
}

fn outcome(dice: &mut Dice, now: presswork::clock::Time) -> Outcome {
    let class = *dice.pick(Class::ALL).expect("there are classes");
    let failure = Failure::new(class, Scope::Platform, "x", "x");
    match dice.roll(8) {
        0 | 1 => Outcome::Completed(1.into()),
        2 => Outcome::Snoozed {
            until: now + chrono::Duration::seconds(40),
            reason: "x".into(),
        },
        3 => Outcome::Released { reason: "x".into() },
        4 => Outcome::Held(Held::Account, failure),
        5 => Outcome::Unresolved(failure),
        6 => Outcome::Cancelled,
        _ => Outcome::Failed(failure),
    }
}

/// Ends a lease, current or stale; the model says which it is.
async fn end(f: &Fixture, model: &mut Model, dice: &mut Dice) {
    let Some(lease) = dice.pick(&model.leases).cloned() else {
        return;
    };
    let now = f.time().await;
    let event = match dice.roll(5) {
        0 => Event::Reclaimed,
        1 if is_suspect(lease.crashes) => Event::Begun,
        _ => Event::Ended(outcome(dice, now)),
    };
    let token = lease.token.expect("a lease has a token");
    let current = model.owners.get(&lease.id) == Some(&token);
    let settlement = follows(&lease, event.clone(), now);
    let (to, archive) = (settlement.transition.to, settlement.transition.archive);
    let expected = if current {
        Settled::Done
    } else {
        Settled::Stale
    };
    assert_eq!(f.settle_one(settlement).await, expected, "{event:?}");
    if current {
        model.settled(lease.id, Some(token), &event, to, archive);
    }
}

/// A person's deed, on what they saw a while ago or now.
async fn meddle(f: &Fixture, model: &mut Model, dice: &mut Dice, seen: &mut BTreeMap<JobId, Job>) {
    let Some(id) = dice.pick(&model.accepted).copied() else {
        return;
    };
    let fresh = f.look(id).await;
    let known = match dice.roll(3) {
        0 => seen.get(&id).cloned().unwrap_or_else(|| fresh.clone()),
        _ => fresh.clone(),
    };
    let events = [
        Event::CancelAsked,
        Event::Revived,
        Event::Discarded,
        Event::Mended,
        Event::Admitted(None),
        Event::Resolved,
        Event::Expired,
    ];
    let event = dice.pick(&events).expect("there are events").clone();
    let now = f.time().await;
    seen.insert(id, fresh.clone());
    // what has left for the history can't be changed, whatever a command believes
    if advance(&known.facts(Policy::default()), event.clone(), now).is_err() {
        return;
    }
    let unlocked = Job {
        token: None,
        ..known.clone()
    };
    let settlement = follows(&unlocked, event.clone(), now);
    let (to, archive) = (settlement.transition.to, settlement.transition.archive);
    let open = known.version == fresh.version && !model.archived.contains(&id);
    let expected = if open { Settled::Done } else { Settled::Stale };
    assert_eq!(
        f.settle_one(settlement).await,
        expected,
        "{event:?} of {known:?} on {fresh:?}"
    );
    if open {
        model.settled(id, None, &event, to, archive);
    }
}

async fn claim(f: &Fixture, model: &mut Model, dice: &mut Dice, runs: &[Claim; 2]) {
    let run = &runs[dice.roll(2)];
    if dice.roll(3) == 0 {
        let jobs = f.claim_due(&at_most(6, run), 3).await.unwrap();
        model.taken(jobs);
        return;
    }
    let ids: Vec<JobId> = (0..3)
        .filter_map(|_| dice.pick(&model.accepted).copied())
        .collect();
    let (one, two) = tokio::join!(f.claim(&runs[0], &ids), f.claim(&runs[1], &ids));
    model.taken(one.unwrap());
    model.taken(two.unwrap());
}

/// Every accepted job is in exactly one state, owned as the model says, and counted once.
async fn check(f: &Fixture, model: &Model) {
    let mut open = BTreeMap::new();
    for id in &model.accepted {
        let job = f.look(*id).await;
        assert_eq!(job.token, model.owners.get(id).copied(), "{job:?}");
        assert_eq!(job.state == State::Running, job.token.is_some());
        assert_eq!(
            job.state.is_terminal().then_some(job.state),
            model.ended.get(id).copied()
        );
        if !model.archived.contains(id) {
            *open.entry((job.lane, job.state)).or_insert(0u64) += 1;
        }
    }
    assert_eq!(f.counts().await.unwrap(), open);
    let finished = Filter {
        states: vec![State::Completed, State::Cancelled],
        limit: 10_000,
        ..Filter::default()
    };
    let finished: BTreeSet<JobId> = f
        .jobs(&finished)
        .await
        .unwrap()
        .iter()
        .map(|it| it.id)
        .collect();
    let expected = model
        .ended
        .iter()
        .filter(|it| *it.1 != State::Dead)
        .map(|it| *it.0);
    assert_eq!(finished, expected.collect());
}

async fn history(f: Fixture, seed: u64) {
    let runs = [f.enter().await, f.enter().await];
    let (mut dice, mut model, mut seen) = (Dice(seed), Model::default(), BTreeMap::new());
    for step in 0..STEPS {
        match dice.roll(10) {
            0 | 1 => {
                let new: Vec<NewJob> = (0..=dice.roll(3)).map(|_| job(KIND)).collect();
                model.accepted.extend(f.add(&new).await);
            }
            2..=4 => claim(&f, &mut model, &mut dice, &runs).await,
            5..=7 => end(&f, &mut model, &mut dice).await,
            8 => meddle(&f, &mut model, &mut dice, &mut seen).await,
            _ => {
                f.shift(15).await;
                for run in &runs {
                    f.beat(run.run, &[], LEASE).await.unwrap();
                }
            }
        }
        if step % 25 == 0 {
            check(&f, &model).await;
        }
    }
    check(&f, &model).await;
    let quiet = model.ended.is_empty() || model.leases.len() < 50;
    assert!(!quiet, "the history was too quiet to tell anything");
}

pub async fn any_history_keeps_one_owner_and_every_job(f: Fixture) {
    history(f, 1).await;
}

pub async fn another_history_keeps_one_owner_and_every_job(f: Fixture) {
    history(f, 20_260_107).await;
}

pub async fn a_third_history_keeps_one_owner_and_every_job(f: Fixture) {
    history(f, 0xdead_beef).await;
}
