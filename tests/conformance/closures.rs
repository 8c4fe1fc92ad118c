//! Closures: nothing of their scope is permitted, or dispatched, until they are open.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use presswork::config::{Account, Config};
use presswork::effect::{Effect, EffectClass, EffectState};
use presswork::fair::Fair;
use presswork::gate::{Cause, Closure, Scope, Shut};
use presswork::job::{Job, JobId, NewJob, Priority};
use presswork::ledger::Claim;
use presswork::lifecycle::{Event, State};
use presswork::outcome::Outcome;

use super::fixture::{Fixture, KIND, LANE, audit, fence, job, kinds};

/// What a permit asks for of the lease.
const BUDGET: Duration = Duration::from_secs(60);
const FROM: (EffectState, u32) = (EffectState::Intended, 0);

fn scope(parts: &[(&str, &str)]) -> Scope {
    let parts = parts
        .iter()
        .map(|(part, it)| ((*part).to_owned(), serde_json::Value::from(*it)));
    serde_json::from_value(parts.collect()).expect("a scope")
}

fn closure(cause: Cause, parts: &[(&str, &str)]) -> Closure {
    let now = presswork::clock::Time::UNIX_EPOCH;
    Closure::new(cause, scope(parts), ("ada", "why"), now)
}

/// Accounts `ann` and `bob` of mastodon, `cat` of x.
fn config() -> Config {
    let mut config = Config::default_embedded(std::path::Path::new("/nowhere"));
    for (name, platform) in [("ann", "mastodon"), ("bob", "mastodon"), ("cat", "x")] {
        let url = "https://example.com".parse().expect("a URL");
        config
            .accounts
            .insert(name.to_owned(), Account::at(platform, url));
    }
    config
}

pub fn new(account: &str, tenant: &str, labels: &[(&str, &str)]) -> NewJob {
    let labels = labels.iter();
    NewJob {
        account: Some(account.to_owned()).filter(|it| !it.is_empty()),
        tenant: tenant.to_owned(),
        labels: labels
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect::<BTreeMap<_, _>>(),
        ..job(KIND)
    }
}

/// What dispatch passes over by now.
async fn shut(f: &Fixture) -> Shut {
    let closures = f.closures().await.unwrap();
    Shut::of(&closures, &config(), f.time().await)
}

async fn due(f: &Fixture, shut: &Shut) -> Vec<JobId> {
    let hints = f
        .due(LANE, &kinds(), shut, &Fair::default(), 100)
        .await
        .unwrap();
    let lanes = [LANE.to_owned(), "none".to_owned()];
    let together = f
        .due_in(&lanes, &kinds(), shut, &Fair::default(), 100)
        .await
        .unwrap();
    assert_eq!(together.get(LANE).cloned().unwrap_or_default(), hints);
    hints.into_iter().map(|it| it.id).collect()
}

pub async fn a_closure_is_told_until_it_is_opened(f: Fixture) {
    let now = f.time().await;
    let ann = closure(Cause::Stop, &[("account", "ann"), ("label", "a=b'\"c")]);
    let told = f.close(&ann, false, Some(&audit("stop", None, now))).await;
    let told = told.unwrap();
    assert_eq!(
        (told.id, &told.scope, told.until),
        (ann.id, &ann.scope, None)
    );
    assert!(now <= told.since, "by the ledger's clock");
    assert_eq!((&*told.actor, &*told.reason), ("ada", "why"));
    // the oldest is told first
    f.shift(1).await;
    let breaker = closure(Cause::Breaker, &[("platform", "x"), ("kind", KIND)]);
    let breaker = f.close(&breaker, false, None).await.unwrap();
    assert_eq!(f.closures().await.unwrap(), [told.clone(), breaker.clone()]);
    let run = f.enter().await.run;
    let control = f.control(run).await.unwrap();
    assert_eq!(control.closures, [told, breaker.clone()]);
    assert_eq!(f.audit(None, 9).await.unwrap()[0].action, "stop");

    let go = audit("go", None, now);
    for wrong in [scope(&[]), scope(&[("account", "ann")])] {
        assert!(!f.open(Cause::Stop, &wrong, Some(&go)).await.unwrap());
    }
    assert!(!f.open(Cause::Breaker, &ann.scope, Some(&go)).await.unwrap());
    assert_eq!(f.audit(None, 9).await.unwrap().len(), 1);
    assert!(f.open(Cause::Stop, &ann.scope, Some(&go)).await.unwrap());
    assert!(!f.open(Cause::Stop, &ann.scope, Some(&go)).await.unwrap());
    assert_eq!(f.closures().await.unwrap(), [breaker]);
    let deeds = f.audit(None, 9).await.unwrap();
    let deeds: Vec<&str> = deeds.iter().map(|it| &*it.action).collect();
    assert_eq!(deeds, ["go", "stop"]);
    let budget = closure(Cause::Budget, &[]);
    assert!(
        f.close(&budget, false, None).await.is_err(),
        "a host's own is never written down"
    );
}

pub async fn closed_again_it_is_never_for_shorter_unless_that_is_said(f: Fixture) {
    let now = f.time().await;
    let at = |s: i64| now + chrono::Duration::seconds(s);
    let learned = || closure(Cause::Learned, &[("account", "ann")]);
    let first = f
        .close(&learned().until(at(60)), false, None)
        .await
        .unwrap();
    let shorter = Closure {
        reason: "less".to_owned(),
        actor: "bob".to_owned(),
        ..learned().until(at(30))
    };
    let again = f.close(&shorter, false, None).await.unwrap();
    assert_eq!((again.id, again.since), (first.id, first.since));
    assert_eq!(again.until, Some(at(60)));
    assert_eq!((&*again.reason, &*again.actor), ("less", "bob"));
    let longer = f
        .close(&learned().until(at(90)), false, None)
        .await
        .unwrap();
    assert_eq!(longer.until, Some(at(90)));
    let forced = f.close(&shorter, true, None).await.unwrap();
    assert_eq!(forced.until, Some(at(30)));
    let ever = f.close(&learned(), false, None).await.unwrap();
    assert_eq!(ever.until, None);
    let ever = f
        .close(&learned().until(at(90)), false, None)
        .await
        .unwrap();
    assert_eq!(ever.until, None);
    assert_eq!(f.closures().await.unwrap(), [ever]);

    // one whose time is past was open: it begins anew
    let forced = f.close(&shorter, true, None).await.unwrap();
    f.shift(31).await;
    assert_eq!(f.closures().await.unwrap(), []);
    let run = f.enter().await.run;
    assert_eq!(f.control(run).await.unwrap().closures, []);
    assert!(!f.open(Cause::Learned, &forced.scope, None).await.unwrap());
    f.close(&learned().until(at(40)), false, None)
        .await
        .unwrap();
    f.shift(31).await;
    let anew = f
        .close(&learned().until(at(99)), false, None)
        .await
        .unwrap();
    assert!(anew.id != first.id && first.since < anew.since);
    assert_eq!(anew.until, Some(at(99)));
    f.shift(99).await;
    let week = Duration::from_secs(7 * 86_400);
    assert!(1 <= f.tidy(week, week).await.unwrap(), "it is forgotten");
}

pub async fn permitted(f: &Fixture, job: &Job, platform: Option<&str>) -> bool {
    let account = job.account.clone().unwrap_or_default();
    let effect = Effect::new((job.id, 0), ("post", 0), &account, "x.post", EffectClass::C);
    let mine = fence(job);
    f.intend(&mine, &effect).await.unwrap().unwrap();
    let given = f.permit(&mine, effect.id, FROM, BUDGET, platform).await;
    let given = given.unwrap();
    let now = &f.effects(job.id).await.unwrap()[0];
    let state = if given {
        EffectState::Sending
    } else {
        EffectState::Intended
    };
    assert_eq!((now.state, now.sends), (state, u32::from(given)));
    given
}

pub async fn nothing_is_permitted_within_a_closure(f: Fixture) {
    let (_, one) = f.start(new("ann", "acme", &[("book", "dune")])).await;
    for parts in [
        &[][..],
        &[("platform", "mastodon")],
        &[("account", "ann")],
        &[("tenant", "acme")],
        &[("label", "book=dune")],
        &[("label", "book")],
        &[("kind", KIND)],
        &[
            ("platform", "mastodon"),
            ("tenant", "acme"),
            ("label", "book"),
        ],
    ] {
        let closed = f.close(&closure(Cause::Stop, parts), false, None).await;
        let closed = closed.unwrap();
        assert!(!permitted(&f, &one, Some("mastodon")).await, "{parts:?}");
        f.open(Cause::Stop, &closed.scope, None).await.unwrap();
    }
    for parts in [
        &[("platform", "x")][..],
        &[("account", "bob")],
        &[("tenant", "zeta")],
        &[("label", "book=emma")],
        &[("label", "dune")],
        &[("kind", "demo.other")],
        &[("account", "ann"), ("tenant", "zeta")],
    ] {
        let other = closure(Cause::Breaker, parts);
        f.close(&other, false, None).await.unwrap();
    }
    let until = f.time().await + chrono::Duration::seconds(5);
    let learned = closure(Cause::Learned, &[("account", "ann")]).until(until);
    f.close(&learned, false, None).await.unwrap();
    assert!(!permitted(&f, &one, Some("mastodon")).await);
    f.shift(6).await;
    assert!(permitted(&f, &one, Some("mastodon")).await, "it is past");
    let (_, bare) = f.start(new("", "acme", &[])).await;
    assert!(permitted(&f, &bare, None).await, "of no platform");
    f.close(&closure(Cause::Stop, &[]), false, None)
        .await
        .unwrap();
    let (_, late) = f.start(new("cat", "acme", &[])).await;
    assert!(!permitted(&f, &late, Some("x")).await);
}

pub async fn what_is_shut_is_passed_over_and_given_again(f: Fixture) {
    let jobs = [
        new("ann", "acme", &[("book", "dune")]),
        new("bob", "acme", &[("book", "emma")]),
        new("cat", "zeta", &[]),
        new("", "zeta", &[("book", "dune"), ("x", "\"book\":\"emma\"")]),
        NewJob {
            priority: Priority::High,
            ..new("ann", "zeta", &[])
        },
    ];
    let ids = f.add(&jobs).await;
    let before: Vec<Job> = {
        let mut all = Vec::new();
        for id in &ids {
            all.push(f.look(*id).await);
        }
        all
    };
    let claim = f.enter().await;
    for (parts, goes) in [
        (&[][..], &[][..]),
        (&[("platform", "mastodon")], &[2, 3]),
        (&[("platform", "pinterest")], &[0, 1, 2, 3, 4]),
        (&[("account", "ann")], &[1, 2, 3]),
        (&[("tenant", "zeta")], &[0, 1]),
        (&[("account", "ann"), ("tenant", "acme")], &[1, 2, 3, 4]),
        (&[("label", "book")], &[2, 4]),
        (&[("label", "book=dune")], &[1, 2, 4]),
        (&[("label", "book=emma")], &[0, 2, 3, 4]),
        (&[("kind", KIND)], &[]),
        (&[("kind", "demo.other")], &[0, 1, 2, 3, 4]),
        (&[("kind", KIND), ("account", "cat")], &[0, 1, 3, 4]),
    ] {
        let closed = f.close(&closure(Cause::Stop, parts), false, None).await;
        let closed = closed.unwrap();
        let shut = shut(&f).await;
        let mut found = due(&f, &shut).await;
        found.sort();
        let mut wanted: Vec<JobId> = goes.iter().map(|n| ids[*n]).collect();
        wanted.sort();
        assert_eq!(found, wanted, "{parts:?}");
        let mine = Claim {
            shut: Arc::new(shut),
            ..claim.clone()
        };
        let shut: Vec<JobId> = ids
            .iter()
            .filter(|it| !wanted.contains(it))
            .copied()
            .collect();
        assert_eq!(f.claim(&mine, &shut).await.unwrap(), [], "{parts:?}");
        if wanted.is_empty() {
            assert_eq!(f.claim_due(&mine, 9).await.unwrap(), [], "{parts:?}");
        }
        f.open(Cause::Stop, &closed.scope, None).await.unwrap();
    }
    for (id, before) in ids.iter().zip(before) {
        assert_eq!(f.look(*id).await, before, "nothing was written");
    }
    let ann = closure(Cause::Stop, &[("account", "ann")]);
    f.close(&ann, false, None).await.unwrap();
    let mine = Claim {
        shut: Arc::new(shut(&f).await),
        ..claim.clone()
    };
    let one = f.claim(&mine, &ids[..2]).await.unwrap();
    assert_eq!(one.len(), 1, "the other one is shut");
    assert_eq!(f.claim_due(&mine, 9).await.unwrap().len(), 2);
    f.open(Cause::Stop, &ann.scope, None).await.unwrap();
    assert_eq!(f.claim_due(&claim, 9).await.unwrap().len(), 2);
}

pub async fn due_is_fair_between_the_accounts_of_a_tenant(f: Fixture) {
    let many: Vec<NewJob> = (0..600).map(|_| new("ann", "acme", &[])).collect();
    f.add(&many).await;
    f.shift(1).await;
    let bobs = f
        .add(&[new("bob", "acme", &[]), new("bob", "acme", &[])])
        .await;
    let none = f.add(&[new("", "acme", &[])]).await;
    let hints = f
        .due(LANE, &kinds(), &Shut::default(), &Fair::default(), 5)
        .await
        .unwrap();
    let first: Vec<JobId> = hints.into_iter().map(|it| it.id).collect();
    assert!(
        bobs.iter().chain(&none).all(|it| first.contains(it)),
        "{first:?}"
    );
    f.close(&closure(Cause::Account, &[("account", "ann")]), false, None)
        .await
        .unwrap();
    let left = due(&f, &shut(&f).await).await;
    assert_eq!(left.len(), 3, "those behind 600 that are shut");
}

pub async fn what_is_given_back_by_a_closure_keeps_its_place(f: Fixture) {
    let (claim, running) = f.start(new("ann", "acme", &[])).await;
    f.shift(5).await;
    let later = f.add(&[new("ann", "acme", &[])]).await;
    let reason = "x".to_owned();
    let back = f
        .happen(
            &running,
            Event::Ended(Outcome::Shut {
                reason,
                failure: None,
            }),
        )
        .await;
    assert_eq!((back.state, back.attempts), (State::Ready, 0));
    assert_eq!(back.run_at, running.run_at);
    assert_eq!(due(&f, &Shut::default()).await, [back.id, later[0]]);
    assert_eq!(f.claim_due(&claim, 9).await.unwrap().len(), 2);
}
