//! Jobs that come late: when each was to be done, what a person's word changes, and what goes before it.

use chrono::Duration;
use presswork::job::{JobId, NewJob, Priority};
use presswork::lateness::Policy;
use presswork::ledger::{LateBefore, LatePlace};
use presswork::lifecycle::{Event, State};
use presswork::outcome::{Class, Failure, Held, Outcome, Scope};

use super::fixture::{Fixture, KIND, job};

fn held() -> Event {
    let why = Failure::permanent("late", "it was due");
    Event::Ended(Outcome::Held(Held::Policy, why))
}

pub async fn a_job_keeps_the_time_that_it_was_asked_for(f: Fixture) {
    let now = f.time().await;
    let at = now + Duration::minutes(5);
    let said = NewJob {
        run_at: Some(at),
        late: Some(Policy::Ask),
        late_after_s: Some(90),
        ..job(KIND)
    };
    let ids = f.add(&[said, job(KIND)]).await;
    let (said, bare) = (f.look(ids[0]).await, f.look(ids[1]).await);
    assert_eq!(said.due_at, Some(at));
    assert_eq!(
        (said.late, said.late_after_s),
        (Some(Policy::Ask), Some(90))
    );
    assert_eq!(bare.due_at, Some(bare.run_at));
    assert_eq!((bare.late, bare.late_after_s), (None, None));
    f.shift(600).await;
    let claim = f.enter().await;
    let running = f.take(&claim, ids[0]).await;
    assert_eq!((running.due_at, running.late), (Some(at), said.late));
    let failed = Failure::new(Class::Transient, Scope::Platform, "http_503", "busy");
    let later = f.happen(&running, Event::Ended(failed.into())).await;
    assert_eq!(later.state, State::Retrying);
    assert!(at < later.run_at);
    assert_eq!((later.due_at, later.late), (Some(at), said.late));
}

pub async fn what_a_person_admits_is_late_no_more(f: Fixture) {
    let now = f.time().await;
    let late = || NewJob {
        run_at: Some(now - Duration::hours(2)),
        late: Some(Policy::Ask),
        ..job(KIND)
    };
    // at once: it is done however late it is, and stays overdue
    let (_, running) = f.start(late()).await;
    let due = running.due_at;
    let waits = f.happen(&running, held()).await;
    assert_eq!((waits.state, waits.late), (State::Held, Some(Policy::Ask)));
    let goes = f.happen(&waits, Event::Admitted(None)).await;
    assert_eq!((goes.state, goes.held), (State::Ready, None));
    assert_eq!((goes.late, goes.due_at), (Some(Policy::Publish), due));
    // at another time: from then on it is late again
    let (_, running) = f.start(late()).await;
    let waits = f.happen(&running, held()).await;
    let at = f.time().await + Duration::days(30);
    let goes = f.happen(&waits, Event::Admitted(Some(at))).await;
    assert_eq!((goes.state, goes.run_at), (State::Scheduled, at));
    assert_eq!((goes.late, goes.due_at), (Some(Policy::Ask), Some(at)));
    assert!(at < goes.expires_at, "it must not expire before that");
    // what is brought back is wanted, however late
    let (_, running) = f.start(late()).await;
    let skipped = Failure::permanent("late", "it was due");
    let dead = f.happen(&running, Event::Ended(skipped.into())).await;
    assert_eq!((dead.state, dead.attempts), (State::Dead, 0));
    let back = f.happen(&dead, Event::Revived).await;
    assert_eq!(
        (back.state, back.late),
        (State::Ready, Some(Policy::Publish))
    );
    // what was held for something else is as late as it was
    let (_, running) = f.start(late()).await;
    let refused = Failure::new(Class::Unauthorised, Scope::Account, "401", "no");
    let waits = f.happen(&running, Event::Ended(refused.into())).await;
    let goes = f.happen(&waits, Event::Mended).await;
    assert_eq!((goes.state, goes.late), (State::Ready, Some(Policy::Ask)));
}

pub async fn what_goes_before_a_late_job_is_known(f: Fixture) {
    let now = f.time().await;
    let ago = |minutes: i64| now - Duration::minutes(minutes);
    let of = |account: &str, priority: Priority, minutes: i64| NewJob {
        account: Some(account.to_owned()),
        priority,
        run_at: Some(ago(minutes)),
        ..job(KIND)
    };
    let ids = f
        .add(&[
            of("ann", Priority::Normal, 90),
            of("ann", Priority::Normal, 80),
            of("ann", Priority::Normal, 70),
            of("ann", Priority::Low, 95),
            of("ann", Priority::High, 10),
            of("bob", Priority::Normal, 99),
            NewJob {
                account: None,
                ..of("", Priority::Normal, 99)
            },
        ])
        .await;
    let before = async |id: JobId, of: LateBefore| {
        let job = f.look(id).await;
        let place = LatePlace {
            account: job.account.clone().expect("it has one"),
            priority: job.priority,
            due: job.due_at.expect("it is known"),
            id,
        };
        let mut all = f.late_before(&place, &of).await.expect("it is answered");
        all.sort();
        all
    };
    let any = LateBefore {
        due: now,
        tried: ago(200),
        most: 10,
    };
    assert!(before(ids[4], any).await.is_empty());
    assert_eq!(before(ids[0], any).await, [ago(10)]);
    assert_eq!(before(ids[2], any).await, [ago(90), ago(80), ago(10)]);
    let all_but_its_own = [ago(90), ago(80), ago(70), ago(10)];
    assert_eq!(before(ids[3], any).await, all_but_its_own);
    assert!(before(ids[5], any).await.is_empty());
    // those that aren't overdue, that nobody tried for long, or that are too many
    let overdue = LateBefore {
        due: ago(30),
        ..any
    };
    assert_eq!(before(ids[2], overdue).await, [ago(90), ago(80)]);
    let tried = LateBefore {
        tried: ago(85),
        ..any
    };
    assert_eq!(before(ids[2], tried).await, [ago(80), ago(10)]);
    let few = LateBefore { most: 2, ..any };
    assert_eq!(before(ids[2], few).await, [ago(90), ago(10)]);
    // one that runs counts from when it began, one that was put off from then, one that has ended not at all
    let claim = f.enter().await;
    let first = f.take(&claim, ids[0]).await;
    let began = first.claimed_at.expect("it runs");
    let second = f.take(&claim, ids[1]).await;
    let until = now + Duration::hours(1);
    let reason = "paced".to_owned();
    f.happen(&second, Event::Ended(Outcome::Snoozed { until, reason }))
        .await;
    let high = f.take(&claim, ids[4]).await;
    let done = Outcome::Completed(serde_json::Value::Null);
    let settled = super::fixture::follows(&high, Event::Ended(done), f.time().await);
    f.settle_one(settled).await;
    assert_eq!(before(ids[2], any).await, [began, until]);
}
