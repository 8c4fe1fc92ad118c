//! Transitions written down under their guards, and what is left of them.

use presswork::job::{Job, JobId, NewJob};
use presswork::ledger::{AttemptEnd, Guard, LedgerError, Settled, Settlement};
use presswork::lifecycle::{CRASHES_MAX, CRASHES_SUSPECT, Event, State, Transition};
use presswork::outcome::{Class, Failure, Held, Outcome, Scope};
use uuid::Uuid;

use super::fixture::{Fixture, KIND, LEASE, audit, follows, job, keyed, near, with_payload};

fn failure(class: Class) -> Failure {
    Failure::new(class, Scope::Platform, "http_503", "\"busy\" ü")
}

/// Every way a running attempt can end, and the ways out of where that leads.
fn histories(f_now: presswork::clock::Time) -> Vec<Vec<Event>> {
    let ended = |outcome: Outcome| Event::Ended(outcome);
    let failed = |class| Event::Ended(failure(class).into());
    let mut all = vec![
        vec![ended(Outcome::Completed(serde_json::json!({"url": "x"})))],
        vec![ended(Outcome::Cancelled)],
        vec![ended(Outcome::Released {
            reason: "drain".into(),
        })],
        vec![ended(Outcome::Snoozed {
            until: f_now + chrono::Duration::hours(1),
            reason: "x".into(),
        })],
        vec![
            ended(Outcome::Unresolved(failure(Class::Unknown))),
            Event::Resolved,
        ],
        vec![failed(Class::Transient), Event::CancelAsked],
        vec![failed(Class::Throttled), Event::Expired],
        vec![failed(Class::Unknown)],
        vec![failed(Class::Permanent), Event::Revived],
        vec![failed(Class::Permanent), Event::Discarded],
        vec![failed(Class::Unauthorised), Event::Mended],
        vec![Event::Reclaimed],
        vec![Event::Expired],
        vec![Event::CancelAsked, Event::Reclaimed],
        vec![Event::CancelAsked, failed(Class::Unknown)],
    ];
    for held in Held::ALL {
        all.push(vec![
            ended(Outcome::Held(*held, failure(Class::Unauthorised))),
            Event::CancelAsked,
        ]);
    }
    all
}

fn check(before: &Job, done: &Transition, after: &Job) {
    let told = format!("{done:?}");
    assert_eq!(
        (after.state, after.held, after.cancel),
        (done.to, done.held, done.cancel),
        "{told}"
    );
    assert_eq!(after.run_at, done.run_at.unwrap_or(before.run_at), "{told}");
    assert_eq!(
        after.failure,
        done.failure.clone().or(before.failure.clone()),
        "{told}"
    );
    let attempts = if done.reset { 0 } else { before.attempts };
    assert_eq!(
        (after.attempts, after.crashes),
        (attempts + done.attempts, done.crashes)
    );
    assert_eq!(
        (after.version, after.epoch),
        (before.version + 1, before.epoch)
    );
    assert_eq!(
        after.ended_at.is_some(),
        after.state.is_terminal(),
        "{told}"
    );
    assert_eq!(
        after.token.is_some(),
        after.state == State::Running,
        "{told}"
    );
    assert_eq!(
        (&after.payload, after.created_at),
        (&before.payload, before.created_at)
    );
}

pub async fn every_transition_round_trips(f: Fixture) {
    let claim = f.enter().await;
    for history in histories(f.time().await) {
        let ids = f.add(&[job(KIND)]).await;
        let mut job = f.take(&claim, ids[0]).await;
        for event in history {
            let settlement = follows(&job, event, f.time().await);
            let done = settlement.transition.clone();
            assert_eq!(f.settle_one(settlement).await, Settled::Done, "{done:?}");
            let after = f.look(job.id).await;
            check(&job, &done, &after);
            job = after;
        }
    }
}

fn completed(job: &Job, now: presswork::clock::Time) -> Settlement {
    follows(job, Event::Ended(Outcome::Completed(1.into())), now)
}

pub async fn a_stale_token_changes_nothing(f: Fixture) {
    let (_, first) = f.start(job(KIND)).await;
    let now = f.time().await;
    f.happen(&first, Event::Reclaimed).await;
    let late = Settlement {
        audit: Some(audit("late", Some(first.id), now)),
        ..completed(&first, now)
    };
    assert_eq!(
        f.settle_one(late.clone()).await,
        Settled::Stale,
        "nobody has the lease"
    );
    let other = f.enter().await;
    let second = f.take(&other, first.id).await;
    let late = Settlement {
        attempt: Some(attempt(1, now)),
        ..late
    };
    assert_eq!(
        f.settle_one(late).await,
        Settled::Stale,
        "somebody else has it"
    );
    assert_eq!(f.look(first.id).await, second);
    assert_eq!(f.attempts(first.id).await.unwrap(), []);
    assert_eq!(f.audit(None, 10).await.unwrap(), []);
    let unknown = Settlement {
        id: JobId::mint(),
        ..completed(&second, now)
    };
    assert_eq!(f.settle_one(unknown).await, Settled::Stale);
    assert_eq!(f.settle_one(completed(&second, now)).await, Settled::Done);
    assert_eq!(
        f.settle_one(completed(&second, now)).await,
        Settled::Stale,
        "it has ended"
    );
}

pub async fn a_stale_version_changes_nothing(f: Fixture) {
    let ids = f.add(&[job(KIND), job(KIND)]).await;
    let now = f.time().await;
    let (seen, other) = (f.look(ids[0]).await, f.look(ids[1]).await);
    let claim = f.enter().await;
    let running = f.take(&claim, ids[0]).await;
    // one stale guard doesn't stop the rest of its batch
    let cancel = |job: &Job| follows(job, Event::CancelAsked, now);
    let settled = f.settle(&[cancel(&seen), cancel(&other)]).await.unwrap();
    assert_eq!(settled, [Settled::Stale, Settled::Done]);
    assert_eq!(f.look(ids[0]).await, running);
    assert_eq!(f.look(ids[1]).await.state, State::Cancelled);
}

pub async fn of_one_job_twice_in_a_batch_the_first_wins(f: Fixture) {
    let (_, job) = f.start(job(KIND)).await;
    let now = f.time().await;
    let failed = follows(&job, Event::Ended(Failure::permanent("x", "x").into()), now);
    let batch = [failed, completed(&job, now)];
    assert_eq!(
        f.settle(&batch).await.unwrap(),
        [Settled::Done, Settled::Stale]
    );
    let dead = f.look(job.id).await;
    assert_eq!(dead.state, State::Dead);
    let batch = [
        follows(&dead, Event::Revived, now),
        follows(&dead, Event::Discarded, now),
    ];
    assert_eq!(
        f.settle(&batch).await.unwrap(),
        [Settled::Done, Settled::Stale]
    );
    assert_eq!(f.look(job.id).await.state, State::Ready);
}

pub async fn a_finished_job_is_still_found(f: Fixture) {
    let (_, job) = f.start(keyed("k")).await;
    f.shift(60).await;
    let now = f.time().await;
    let result = r#"{"url": "https://example.org/ü", "n": 12345678901234567890.50}"#;
    let settlement = Settlement {
        result: Some(result.into()),
        ..completed(&job, now)
    };
    assert_eq!(f.settle_one(settlement).await, Settled::Done);
    let done = f.look(job.id).await;
    assert_eq!(
        (done.state, done.result.as_deref()),
        (State::Completed, Some(result))
    );
    assert!(near(done.ended_at.expect("it has ended"), now) && done.created_at < now);
    assert_eq!(
        (done.epoch, done.version, &done.key),
        (1, job.version + 1, &job.key)
    );
    assert_eq!((done.token, done.run, done.cancel), (None, None, false));
    assert!(
        f.counts().await.unwrap().is_empty(),
        "it is no longer counted"
    );
    let claim = f.enter().await;
    assert_eq!(f.claim(&claim, &[job.id]).await.unwrap(), []);
}

/// A dead letter that is given up later still died when it died.
pub async fn a_discarded_job_keeps_the_time_of_its_death(f: Fixture) {
    let (_, job) = f.start(job(KIND)).await;
    let dead = f
        .happen(&job, Event::Ended(Failure::permanent("x", "x").into()))
        .await;
    f.shift(5_000).await;
    let gone = f.happen(&dead, Event::Discarded).await;
    assert_eq!((gone.state, gone.ended_at), (State::Dead, dead.ended_at));
    assert_eq!(gone.failure, dead.failure);
    assert!(f.counts().await.unwrap().is_empty());
}

fn attempt(epoch: u32, now: presswork::clock::Time) -> AttemptEnd {
    AttemptEnd {
        epoch,
        number: epoch,
        run: Some(Uuid::new_v4()),
        host: format!("host {epoch}"),
        began_at: now,
        ended_at: now + chrono::Duration::seconds(3),
        outcome: "failed".into(),
        failure: Some(failure(Class::Transient)),
    }
}

pub async fn attempts_are_told_in_order(f: Fixture) {
    let claim = f.enter().await;
    let ids = f.add(&[job(KIND)]).await;
    for epoch in 1..=3 {
        let job = f.take(&claim, ids[0]).await;
        let now = f.time().await;
        let event = Event::Ended(failure(Class::Transient).into());
        let settlement = Settlement {
            attempt: Some(attempt(epoch, now)),
            ..follows(&job, event, now)
        };
        assert_eq!(f.settle_one(settlement).await, Settled::Done);
        f.shift(86_400).await;
        f.beat(claim.run, &[], LEASE).await.unwrap();
    }
    let before = f.attempts(ids[0]).await.unwrap();
    assert_eq!(
        before.iter().map(|it| it.epoch).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    let job = f.take(&claim, ids[0]).await;
    let now = f.time().await;
    let last = AttemptEnd {
        outcome: "completed".into(),
        failure: None,
        ..attempt(4, now)
    };
    let settlement = Settlement {
        attempt: Some(last.clone()),
        ..completed(&job, now)
    };
    assert_eq!(f.settle_one(settlement).await, Settled::Done);
    let all = f.attempts(ids[0]).await.unwrap();
    assert_eq!(all[..3], before, "they are kept when the job ends");
    let end = &all[3];
    assert_eq!((end.epoch, end.number, &end.host), (4, 4, &last.host));
    assert_eq!((end.began_at, end.ended_at), (last.began_at, last.ended_at));
    assert_eq!((end.outcome.as_str(), &end.failure), ("completed", &None));
    assert_eq!(before[0].failure, Some(failure(Class::Transient)));
}

pub async fn a_revived_job_starts_anew(f: Fixture) {
    let new = NewJob {
        attempts_max: 1,
        ..keyed("k")
    };
    let (claim, job) = f.start(new).await;
    let now = f.time().await;
    let event = Event::Ended(Failure::transient("x", "x").into());
    let settlement = Settlement {
        fingerprint: Some("abc".into()),
        ..follows(&job, event, now)
    };
    assert_eq!(f.settle_one(settlement).await, Settled::Done);
    let dead = f.look(job.id).await;
    assert_eq!((dead.state, dead.attempts), (State::Dead, 1));
    assert_eq!(dead.fingerprint.as_deref(), Some("abc"));
    f.shift(100).await;
    let ready = f.happen(&dead, Event::Revived).await;
    assert_eq!(
        (ready.state, ready.attempts, ready.crashes),
        (State::Ready, 0, 0)
    );
    assert_eq!((ready.ended_at, ready.epoch), (None, 1));
    assert!(ready.failure.is_some(), "why it died is still told");
    assert_eq!(f.take(&claim, job.id).await.epoch, 2);
}

/// Reviving renews the age that the kind allows and lifts a `not_after` that is past: else what is
/// brought back after it expired would expire at once.
pub async fn a_revived_job_does_not_expire_at_once(f: Fixture) {
    let not_after = Some(f.time().await + chrono::Duration::hours(1));
    let ids = f
        .add(&[NewJob {
            not_after,
            ..job(KIND)
        }])
        .await;
    f.shift(30 * 86_400).await;
    let old = f.expired(10).await.unwrap();
    assert_eq!(old.iter().map(|it| it.id).collect::<Vec<_>>(), ids);
    let dead = f.happen(&old[0], Event::Expired).await;
    assert_eq!(dead.state, State::Dead);
    let ready = f.happen(&dead, Event::Revived).await;
    assert_eq!(f.expired(10).await.unwrap(), []);
    assert_eq!(ready.not_after, None);
    assert!(near(
        ready.expires_at,
        f.time().await + chrono::Duration::days(7)
    ));
}

/// The key stands for what the job does now: a repeat of the edited payload is the same job.
/// A producer that repeats what it sent gets its job, whatever an operator made of it.
pub async fn an_edit_changes_payload_and_revision_but_not_the_key(f: Fixture) {
    let (_, job) = f.start(keyed("k")).await;
    let dead = f
        .happen(&job, Event::Ended(Failure::permanent("x", "x").into()))
        .await;
    let payload = r#"{ "n": 2, "text": "\u0000" }"#;
    let now = f.time().await;
    let settlement = Settlement {
        edit: Some(payload.into()),
        ..follows(&dead, Event::Revived, now)
    };
    assert_eq!(f.settle_one(settlement).await, Settled::Done);
    let edited = f.look(job.id).await;
    assert_eq!((&*edited.payload, edited.revision), (payload, 1));
    let answers = f
        .accept(&[keyed("k"), with_payload(keyed("k"), payload)])
        .await
        .unwrap();
    let same = presswork::ledger::Acceptance::Same {
        id: job.id,
        options: "{}".into(),
    };
    let conflict = presswork::ledger::Acceptance::Conflict { id: job.id };
    assert_eq!(answers, [same, conflict]);
}

pub async fn who_did_it_is_written_down_with_the_change(f: Fixture) {
    let ids = f.add(&[job(KIND)]).await;
    let seen = f.look(ids[0]).await;
    let now = f.time().await;
    let told = audit("cancel", Some(ids[0]), now - chrono::Duration::days(9));
    let settlement = Settlement {
        audit: Some(told.clone()),
        ..follows(&seen, Event::CancelAsked, now)
    };
    let settled = f.settle(&[settlement.clone(), settlement]).await.unwrap();
    assert_eq!(settled, [Settled::Done, Settled::Stale]);
    let found = f.audit(Some(ids[0]), 10).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (&found[0].actor, &found[0].action),
        (&told.actor, &told.action)
    );
    assert_eq!((found[0].job, &found[0].detail), (told.job, &told.detail));
    assert!(near(found[0].at, now), "by the ledger's clock");
}

/// A defect of the caller's: it must not be written, nor what is in its batch.
pub async fn an_unsound_transition_is_refused_whole(f: Fixture) {
    let (_, running) = f.start(job(KIND)).await;
    let (_, other) = f.start(job(KIND)).await;
    let now = f.time().await;
    let mut odd = completed(&running, now);
    odd.transition.archive = false;
    let error = f
        .settle(&[completed(&other, now), odd.clone()])
        .await
        .unwrap_err();
    assert!(matches!(error, LedgerError::Row(_)), "{error:?}");
    odd.transition = Transition {
        to: State::Held,
        ..odd.transition
    };
    let error = f.settle(&[completed(&other, now), odd]).await.unwrap_err();
    assert!(matches!(error, LedgerError::Row(_)), "{error:?}");
    assert_eq!(
        (f.look(running.id).await, f.look(other.id).await),
        (running, other)
    );
}

/// A job whose owners died so often that it is a suspect, claimed once more.
async fn suspect(f: &Fixture) -> Job {
    let ids = f.add(&[job(KIND)]).await;
    for crash in 1..=CRASHES_SUSPECT {
        let claim = f.enter().await;
        let job = f.take(&claim, ids[0]).await;
        let back = f.happen(&job, Event::Reclaimed).await;
        assert_eq!((back.state, back.crashes), (State::Ready, crash));
    }
    f.take(&f.enter().await, ids[0]).await
}

pub async fn a_reclaim_charges_until_suspicion_and_then_only_what_began(f: Fixture) {
    let mut job = suspect(&f).await;
    for crashes in CRASHES_SUSPECT..CRASHES_MAX {
        assert_eq!(job.crashes, crashes);
        let back = f.happen(&job, Event::Reclaimed).await;
        assert_eq!(
            (back.state, back.crashes),
            (State::Ready, crashes),
            "it waited for its turn"
        );
        let claimed = f.take(&f.enter().await, job.id).await;
        let begun = f.happen(&claimed, Event::Begun).await;
        assert_eq!(
            (begun.state, begun.crashes),
            (State::Running, crashes + 1),
            "ahead"
        );
        assert_eq!(
            (begun.token, begun.run, begun.claimed_at, begun.epoch),
            (
                claimed.token,
                claimed.run,
                claimed.claimed_at,
                claimed.epoch
            ),
            "it keeps its lease"
        );
        let back = f.happen(&begun, Event::Reclaimed).await;
        assert_eq!(back.crashes, crashes + 1, "charged once");
        if back.state == State::Dead {
            assert_eq!(back.crashes, CRASHES_MAX);
            assert_eq!(back.failure.map(|it| it.code).as_deref(), Some("poison"));
            return;
        }
        job = f.take(&f.enter().await, job.id).await;
    }
    panic!("it was never buried: {job:?}");
}

/// What ends the attempt knows the job as it was claimed: so a charge ahead is taken back by what gives
/// the job back, whether it was written or not.
pub async fn a_charge_ahead_is_for_the_lease_and_is_taken_back(f: Fixture) {
    let claimed = suspect(&f).await;
    let now = f.time().await;
    let ahead = follows(&claimed, Event::Begun, now);
    let foreign = Settlement {
        guard: Guard::Token(Uuid::new_v4()),
        ..ahead.clone()
    };
    assert_eq!(f.settle_one(foreign).await, Settled::Stale);
    assert_eq!(f.look(claimed.id).await, claimed);
    for _ in 0..2 {
        assert_eq!(f.settle_one(ahead.clone()).await, Settled::Done);
        let begun = f.look(claimed.id).await;
        assert_eq!(begun.crashes, CRASHES_SUSPECT + 1, "twice is once");
    }
    let released = Outcome::Released { reason: "x".into() };
    let back = f.happen(&claimed, Event::Ended(released)).await;
    assert_eq!((back.state, back.crashes), (State::Ready, CRASHES_SUSPECT));
    assert_eq!(
        f.settle_one(ahead).await,
        Settled::Stale,
        "its lease is over"
    );
}

pub async fn an_attempt_that_ends_by_itself_forgets_the_crashes(f: Fixture) {
    for event in [
        Event::Ended(Outcome::Completed(1.into())),
        Event::Ended(failure(Class::Transient).into()),
        Event::Ended(failure(Class::Permanent).into()),
        Event::Ended(Outcome::Snoozed {
            until: f.time().await,
            reason: "x".into(),
        }),
    ] {
        let claimed = suspect(&f).await;
        f.happen(&claimed, Event::Begun).await;
        let after = f.happen(&claimed, event.clone()).await;
        assert_eq!(after.crashes, 0, "{event:?}");
    }
}

pub async fn leaving_running_clears_the_lease(f: Fixture) {
    let (claim, job) = f.start(job(KIND)).await;
    let outcome = Outcome::Snoozed {
        until: f.time().await,
        reason: "x".into(),
    };
    let snoozed = f.happen(&job, Event::Ended(outcome)).await;
    assert_eq!(
        (snoozed.run, snoozed.token, snoozed.claimed_at),
        (None, None, None)
    );
    assert_eq!((snoozed.state, snoozed.attempts), (State::Scheduled, 0));
    assert_eq!(f.running(super::fixture::LANE).await.unwrap(), []);
    assert_eq!(f.take(&claim, job.id).await.epoch, 2);
}

pub async fn asking_to_cancel_a_running_job_leaves_its_lease(f: Fixture) {
    let (_, job) = f.start(job(KIND)).await;
    let now = f.time().await;
    // a person's command compares the version: it has no lease
    let asked = Settlement {
        guard: Guard::Version(job.version),
        ..follows(&job, Event::CancelAsked, now)
    };
    assert_eq!(f.settle_one(asked).await, Settled::Done);
    let after = f.look(job.id).await;
    assert!(after.cancel);
    assert_eq!(
        (after.state, after.token, after.run),
        (State::Running, job.token, job.run)
    );
    assert_eq!(after.claimed_at, job.claimed_at);
    // the lease still ends the attempt, although the version has moved
    let ended = follows(&after, Event::Ended(Outcome::Cancelled), now);
    assert_eq!(f.settle_one(ended).await, Settled::Done);
    assert_eq!(f.look(job.id).await.state, State::Cancelled);
}

/// Only a platform could have put a NUL into a message, and PostgreSQL can't look into JSON that
/// holds one: the ledger may change that character, but not lose the failure, nor the search.
pub async fn a_failure_with_a_nul_is_kept_and_found(f: Fixture) {
    let (_, job) = f.start(job(KIND)).await;
    let odd = Failure::permanent("http_400", "before \0 after");
    let now = f.time().await;
    let settlement = Settlement {
        attempt: Some(AttemptEnd {
            failure: Some(odd.clone()),
            ..attempt(1, now)
        }),
        audit: Some(presswork::ledger::Audit {
            detail: "a\0b".into(),
            ..audit("bury", Some(job.id), now)
        }),
        ..follows(&job, Event::Ended(odd.into()), now)
    };
    assert_eq!(f.settle_one(settlement).await, Settled::Done);
    for error in ["http_400", "before", "after"] {
        let filter = presswork::ledger::Filter {
            error: Some(error.into()),
            ..Default::default()
        };
        let found = f.jobs(&filter).await.unwrap();
        assert_eq!(found.len(), 1, "{error}");
        assert_eq!(f.groups(&filter).await.unwrap().len(), 1, "{error}");
    }
    assert_eq!(f.attempts(job.id).await.unwrap().len(), 1);
    assert_eq!(f.audit(Some(job.id), 10).await.unwrap().len(), 1);
}
