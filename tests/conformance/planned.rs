//! Jobs that were scheduled for a time: who has a place in budgets, and who goes where others are shut.

use std::sync::Arc;
use std::time::Duration;

use presswork::effect::{Effect, EffectClass, EffectState};
use presswork::fair::Fair;
use presswork::gate::{Cause, Closure, Scope, Shut};
use presswork::job::{JobId, NewJob};
use presswork::lateness::Policy;
use presswork::ledger::{Askers, Claim, KEPT_FOR};
use presswork::lifecycle::{Event, State};
use presswork::outcome::Outcome;

use super::closures;
use super::fixture::{Fixture, KIND, LANE, fence, job, kinds};

const DAY: Duration = Duration::from_secs(24 * 3_600);

async fn at(f: &Fixture, seconds: i64) -> presswork::clock::Time {
    f.time().await + chrono::Duration::seconds(seconds)
}

/// A job of an account and a tenant that is wanted in so many seconds.
async fn wanted(f: &Fixture, account: &str, tenant: &str, seconds: i64) -> JobId {
    let new = NewJob {
        run_at: Some(at(f, seconds).await),
        ..closures::new(account, tenant, &[])
    };
    f.add(&[new]).await[0]
}

fn of(accounts: Option<&[&str]>, tenant: Option<&str>) -> Askers {
    Askers {
        kinds: kinds(),
        accounts: accounts.map(|it| it.iter().map(|it| (*it).to_owned()).collect()),
        tenant: tenant.map(str::to_owned),
    }
}

async fn planned(f: &Fixture, of: &Askers) -> Vec<JobId> {
    let all = f.planned(of, DAY, 100).await.unwrap();
    assert!(all.is_sorted_by_key(|it| (it.at, it.job)));
    all.into_iter().map(|it| it.job).collect()
}

pub async fn who_was_scheduled_has_a_place_by_account_tenant_and_kind(f: Fixture) {
    let late = wanted(&f, "ann", "acme", 7_200).await;
    let soon = wanted(&f, "ann", "zeta", 3_600).await;
    let bob = wanted(&f, "bob", "acme", 60).await;
    let nobodys = wanted(&f, "", "acme", 90).await;
    // due at once, late already, in another kind, too far ahead
    wanted(&f, "ann", "acme", -60).await;
    f.add(&[closures::new("ann", "acme", &[])]).await;
    let other = NewJob {
        run_at: Some(at(&f, 60).await),
        ..job("demo.other")
    };
    f.add(&[other]).await;
    wanted(&f, "ann", "acme", 2 * 86_400).await;
    let any = of(None, None);
    assert_eq!(planned(&f, &any).await, [bob, nobodys, soon, late]);
    for (askers, found) in [
        (of(Some(&["ann"]), None), vec![soon, late]),
        (of(Some(&["ann"]), Some("acme")), vec![late]),
        (of(Some(&["ann", "bob"]), None), vec![bob, soon, late]),
        (of(None, Some("acme")), vec![bob, nobodys, late]),
        (of(Some(&["gone"]), None), vec![]),
    ] {
        assert_eq!(planned(&f, &askers).await, found, "{askers:?}");
    }
    let first = f.planned(&any, DAY, 2).await.unwrap();
    assert_eq!(first.len(), 2);
    assert_eq!(first[0].job, bob);
    assert_eq!(
        f.planned(&any, Duration::from_secs(70), 9)
            .await
            .unwrap()
            .len(),
        1
    );
    let kinds = vec![KIND.to_owned(), "demo.other".to_owned()];
    let both = Askers { kinds, ..any };
    assert_eq!(planned(&f, &both).await.len(), 5);
    assert_eq!(
        f.look(soon).await.wanted_at(),
        Some(f.look(soon).await.run_at)
    );
}

pub async fn a_place_is_free_once_its_job_has_ended_or_sent_or_is_very_late(f: Fixture) {
    let any = of(None, None);
    let cancelled = wanted(&f, "ann", "acme", 60).await;
    let sent = wanted(&f, "ann", "acme", 61).await;
    let late = wanted(&f, "bob", "acme", 62).await;
    assert_eq!(planned(&f, &any).await, [cancelled, sent, late]);
    let job = f.look(cancelled).await;
    f.happen(&job, Event::CancelAsked).await;
    assert_eq!(planned(&f, &any).await, [sent, late]);
    f.shift(70).await;
    let claim = f.enter().await;
    let job = f.take(&claim, sent).await;
    assert_eq!(planned(&f, &any).await, [sent, late], "it only runs");
    let fence = fence(&job);
    let step = ("post", 0);
    let effect = Effect::new((job.id, 0), step, "ann", "demo.post", EffectClass::C);
    let (effect, _) = f.intend(&fence, &effect).await.unwrap().unwrap();
    assert_eq!(planned(&f, &any).await, [sent, late], "it only means to");
    let from = (EffectState::Intended, 0);
    let budget = Duration::from_secs(60);
    assert!(
        f.permit(&fence, effect.id, from, budget, None)
            .await
            .unwrap()
    );
    assert_eq!(planned(&f, &any).await, [late]);
    assert_eq!(planned(&f, &of(Some(&["ann"]), None)).await, []);
    // put off it keeps the time that it was wanted at, and its place
    let claim = f.enter().await;
    let job = f.take(&claim, late).await;
    let snooze = Outcome::Snoozed {
        until: at(&f, 2 * 86_400).await,
        reason: "later".to_owned(),
    };
    let job = f.happen(&job, Event::Ended(snooze)).await;
    assert_eq!(job.state, State::Scheduled);
    assert!(job.wanted_at().is_some_and(|it| it < job.run_at));
    assert_eq!(planned(&f, &any).await, [late]);
    f.shift(i64::try_from(KEPT_FOR.as_secs()).unwrap()).await;
    assert_eq!(planned(&f, &any).await, []);
    // what is only put off was never scheduled
    let new = f.add(&[closures::new("ann", "acme", &[])]).await[0];
    let claim = f.enter().await;
    let job = f.take(&claim, new).await;
    let snooze = Outcome::Snoozed {
        until: at(&f, 3_600).await,
        reason: "later".to_owned(),
    };
    f.happen(&job, Event::Ended(snooze)).await;
    assert_eq!(planned(&f, &any).await, []);
}

pub async fn what_was_scheduled_goes_where_the_rest_is_shut(f: Fixture) {
    let slot = wanted(&f, "ann", "acme", 60).await;
    f.shift(61).await;
    let bulk = f.add(&[closures::new("ann", "acme", &[])]).await[0];
    let scope = Scope {
        account: Some("ann".to_owned()),
        tenant: Some("acme".to_owned()),
        kind: Some(KIND.to_owned()),
        ..Scope::default()
    };
    let now = f.time().await;
    let closure = Closure::new(Cause::Budget, scope, ("presswork", "full"), now);
    let config = presswork::config::Config::default_embedded(std::path::Path::new("/nowhere"));
    let all = Shut::of([&closure], &config, now);
    let spares = closure.sparing_planned();
    let spares = Shut::of([&spares], &config, now);
    let due = async |shut: &Shut| -> Vec<JobId> {
        let hints = f
            .due(LANE, &kinds(), shut, &Fair::default(), 100)
            .await
            .unwrap();
        hints.into_iter().map(|it| it.id).collect()
    };
    assert_eq!(due(&Shut::default()).await, [slot, bulk]);
    assert_eq!(due(&all).await, []);
    assert_eq!(due(&spares).await, [slot]);
    let claim = Claim {
        shut: Arc::new(spares),
        ..f.enter().await
    };
    let jobs = f.claim(&claim, &[bulk, slot]).await.unwrap();
    assert_eq!(jobs.iter().map(|it| it.id).collect::<Vec<_>>(), [slot]);
}

pub async fn a_backlog_is_told_in_its_order(f: Fixture) {
    let bulk = f.add(&[closures::new("ann", "acme", &[])]).await[0];
    let slot = wanted(&f, "ann", "acme", 3_600).await;
    let held = f.add(&[closures::new("ann", "acme", &[])]).await[0];
    wanted(&f, "bob", "acme", 60).await;
    let claim = f.enter().await;
    let job = f.take(&claim, held).await;
    let why = presswork::outcome::Failure::permanent("no_account", "gone");
    let why = Outcome::Held(presswork::outcome::Held::Account, why);
    f.happen(&job, Event::Ended(why)).await;
    let waiting = f.backlog(&kinds(), 100).await.unwrap();
    let ann = of(Some(&["ann"]), None);
    let its: Vec<_> = waiting.iter().filter(|it| ann.has(it)).collect();
    let jobs: Vec<(JobId, bool)> = its.iter().map(|it| (it.job, it.held)).collect();
    assert_eq!(jobs, [(bulk, false), (held, true), (slot, false)]);
    assert_eq!(its[0].wanted_at, None);
    assert_eq!(its[2].wanted_at, Some(its[2].run_at));
    assert_eq!(waiting.len(), 4);
    for (askers, count) in [
        (of(None, Some("acme")), 4),
        (of(None, Some("zeta")), 0),
        (of(Some(&["bob", "gone"]), Some("acme")), 1),
    ] {
        let its = waiting.iter().filter(|it| askers.has(it));
        assert_eq!(its.count(), count, "{askers:?}");
    }
    assert_eq!(f.backlog(&kinds(), 1).await.unwrap().len(), 1);
    let other = ["demo.other".to_owned()];
    assert!(f.backlog(&other, 9).await.unwrap().is_empty());
}

pub async fn a_backlog_tells_how_late_its_jobs_may_be_and_what_was_begun(f: Fixture) {
    let due = at(&f, -600).await;
    let said = NewJob {
        run_at: Some(due),
        not_after: Some(at(&f, 7_200).await),
        late: Some(Policy::Skip),
        late_after_s: Some(900),
        ..closures::new("ann", "acme", &[])
    };
    let said = f.add(&[said]).await[0];
    let bare = f.add(&[closures::new("ann", "acme", &[])]).await[0];
    let of = async |id: JobId| {
        let waiting = f.backlog(&kinds(), 100).await.unwrap();
        let one = waiting.into_iter().find(|it| it.job == id).unwrap();
        // as the job itself tells
        assert_eq!(one.terms, f.look(id).await.terms());
        one
    };
    let one = of(said).await;
    assert_eq!((one.terms.due, one.begun), (Some(due), None));
    assert_eq!(
        (one.terms.late, one.terms.late_after_s),
        (Some(Policy::Skip), Some(900))
    );
    let terms = of(bare).await.terms;
    assert_eq!((terms.late, terms.late_after_s), (None, None));
    // it was put off, and its time stays; what it only means to do wasn't begun
    let claim = f.enter().await;
    let job = f.take(&claim, said).await;
    let fence = fence(&job);
    let step = ("post", 0);
    let effect = Effect::new((job.id, 0), step, "ann", "demo.post", EffectClass::C);
    let (effect, _) = f.intend(&fence, &effect).await.unwrap().unwrap();
    let put_off = async |seconds: i64, job: &presswork::job::Job| {
        let snooze = Outcome::Snoozed {
            until: at(&f, seconds).await,
            reason: "later".to_owned(),
        };
        f.happen(job, Event::Ended(snooze)).await
    };
    put_off(60, &job).await;
    let one = of(said).await;
    assert_eq!((one.terms.due, one.begun), (Some(due), None));
    assert!(due < one.run_at);
    // and now it is
    f.shift(90).await;
    let job = f.take(&claim, said).await;
    let from = (EffectState::Intended, 0);
    let budget = Duration::from_secs(60);
    let renewed = super::fixture::fence(&job);
    let permit = f.permit(&renewed, effect.id, from, budget, None);
    assert!(permit.await.unwrap());
    let begun = f.effects(said).await.unwrap()[0].begun();
    assert!(begun.is_some());
    put_off(60, &job).await;
    assert_eq!(of(said).await.begun, begun);
}
