//! Whose turn it is: weights, and what has waited for longer than its lane lets it.

use std::collections::BTreeMap;
use std::path::Path;

use presswork::config::Config;
use presswork::fair::Fair;
use presswork::gate::{Cause, Closure, Scope, Shut};
use presswork::job::{JobId, NewJob, Priority};
use presswork::ledger::{Claim, Hint};
use presswork::lifecycle::Event;
use presswork::outcome::Outcome;

use super::fixture::{Fixture, KIND, LANE, job, kinds};

/// Ten minutes in [`LANE`]; a tenant of weight 3, and accounts of 2 and 5.
fn fair() -> Fair {
    let account = |name: &str, weight: u32| {
        format!(
            "[accounts.{name}]\nplatform = \"mastodon\"\nbase_url = \"https://example.com\"\n\
             secret = {{ env = \"SECRET\" }}\nweight = {weight}\n"
        )
    };
    let text = format!(
        "[lanes.{LANE}]\nwaits_at_most_s = 600\n[tenants.big]\nweight = 3\n{}{}",
        account("ann", 2),
        account("bob", 5)
    );
    let env = |name: &str| (name == "SECRET").then(|| "a-secret-of-a-good-length".to_owned());
    Fair::of(&Config::parse(&text, None, &env).expect("it is well-formed"))
}

async fn due(f: &Fixture, fair: &Fair, limit: u32) -> Vec<Hint> {
    due_of(f, &Shut::default(), fair, limit).await
}

/// What one look and a look at several lanes tell alike.
async fn due_of(f: &Fixture, shut: &Shut, fair: &Fair, limit: u32) -> Vec<Hint> {
    let alone = f.due(LANE, &kinds(), shut, fair, limit).await.unwrap();
    let lanes = ["other".to_owned(), LANE.to_owned()];
    let mut all = f.due_in(&lanes, &kinds(), shut, fair, limit).await.unwrap();
    assert_eq!(all.remove(LANE).unwrap_or_default(), alone);
    alone
}

/// `count` jobs of a tenant that have been due for so many seconds.
async fn add(f: &Fixture, count: usize, priority: Priority, tenant: &str, ago: i64) -> Vec<JobId> {
    let now = f.time().await;
    let one = || NewJob {
        priority,
        tenant: tenant.into(),
        run_at: Some(now - chrono::Duration::seconds(ago)),
        ..job(KIND)
    };
    f.add(&(0..count).map(|_| one()).collect::<Vec<_>>()).await
}

fn ids(hints: &[Hint]) -> Vec<JobId> {
    hints.iter().map(|it| it.id).collect()
}

pub async fn what_waited_too_long_takes_turns(f: Fixture) {
    let fair = fair();
    let high = add(&f, 40, Priority::High, "a", 5).await;
    let normal = add(&f, 4, Priority::Normal, "b", 5).await;
    let low = add(&f, 3, Priority::Low, "c", 500).await;
    // not yet
    let first = due(&f, &fair, 100).await;
    assert!(first.iter().all(|it| !it.lifted));
    assert!(first[..40].iter().all(|it| high.contains(&it.id)));
    assert!(first[44..].iter().all(|it| low.contains(&it.id)));

    f.shift(110).await;
    let lifted = due(&f, &fair, 100).await;
    assert_eq!(lifted.len(), 47);
    for it in &lifted {
        assert_eq!(it.lifted, it.priority != Priority::High, "{it:?}");
    }
    // the oldest at once, and then each in its share: one of low and two of normal to four of high
    assert_eq!(lifted[0].priority, Priority::Low);
    let places = |of: &[JobId]| -> Vec<usize> {
        let place = |id: &JobId| lifted.iter().position(|it| it.id == *id).unwrap();
        let mut places: Vec<usize> = of.iter().map(place).collect();
        places.sort_unstable();
        places
    };
    for (n, place) in places(&low).into_iter().enumerate() {
        assert!(place <= 7 * n, "{n} of low is at {place}");
    }
    for (n, place) in places(&normal).into_iter().enumerate() {
        assert!(place <= 7 * (n + 1) / 2, "{n} of normal is at {place}");
    }
    // for whoever claims without a queue, and in what people are told, too
    for (n, hint) in lifted.iter().enumerate() {
        let job = f.look(hint.id).await;
        let line = f.line(&job, &kinds(), &Shut::default(), &fair).await;
        assert_eq!(line.unwrap().before, n as u64, "{hint:?}");
    }
    let claim = Claim {
        fair: fair.clone().into(),
        ..f.enter().await
    };
    let taken = f.claim_due(&claim, 7).await.unwrap();
    let taken: Vec<JobId> = taken.into_iter().map(|it| it.id).collect();
    assert_eq!(taken, ids(&lifted[..7]));

    // and no longer than until it is caught up with
    for id in low.iter().filter(|it| !taken.contains(it)) {
        f.take(&claim, *id).await;
    }
    for id in &low {
        let job = f.look(*id).await;
        f.happen(&job, Event::Ended(Outcome::Completed(1.into())))
            .await;
    }
    let then = due(&f, &fair, 100).await;
    assert!(!then.is_empty() && then.iter().all(|it| !it.lifted));
    assert!(then.is_sorted_by_key(|it| it.priority.rank()));
    // who says nothing of it lets it wait
    add(&f, 1, Priority::Low, "c", 90_000).await;
    assert!(due(&f, &fair, 1).await[0].lifted);
    assert!(!due(&f, &Fair::default(), 1).await[0].lifted);
}

pub async fn only_what_may_run_lifts_its_priority(f: Fixture) {
    let fair = fair();
    let high = add(&f, 5, Priority::High, "a", 5).await;
    let late = |kind: &str| NewJob {
        priority: Priority::Low,
        account: Some("ann".to_owned()),
        labels: [("book".to_owned(), "1".to_owned())].into(),
        ..job(kind)
    };
    let mut shut_one = late(KIND);
    let mut unknown = late("demo.other");
    for it in [&mut shut_one, &mut unknown] {
        it.run_at = Some(f.time().await - chrono::Duration::seconds(900));
    }
    unknown.account = None;
    f.add(&[shut_one, unknown]).await;
    add(&f, 2, Priority::Low, "c", 5).await;
    assert!(due(&f, &fair, 1).await[0].lifted, "while nothing is shut");
    let account = Scope {
        account: Some("ann".to_owned()),
        ..Scope::default()
    };
    let label = Scope {
        label: Some("book=1".to_owned()),
        ..Scope::default()
    };
    for scope in [account, label] {
        let closure = Closure::new(Cause::Stop, scope, ("anna", "a test"), f.time().await);
        let config = Config::default_embedded(Path::new("/nowhere"));
        let shut = Shut::of(&[closure], &config, f.time().await);
        let found = due_of(&f, &shut, &fair, 100).await;
        assert_eq!(found.len(), 7);
        assert!(found.iter().all(|it| !it.lifted), "{found:?}");
        assert!(found[..5].iter().all(|it| high.contains(&it.id)));
    }
}

pub async fn what_is_due_is_shared_by_weight(f: Fixture) {
    let fair = fair();
    let mut jobs = Vec::new();
    let flows = [
        ("small", None, 1.0),
        ("big", None, 3.0),
        ("small", Some("ann"), 2.0),
        ("big", Some("bob"), 15.0),
    ];
    for (tenant, account, _) in flows {
        let one = || NewJob {
            tenant: tenant.into(),
            account: account.map(str::to_owned),
            ..job(KIND)
        };
        jobs.extend((0..300).map(|_| one()));
    }
    f.add(&jobs).await;
    for limit in [1, 4, 21, 100, 350] {
        let first = due(&f, &fair, limit).await;
        assert_eq!(first.len(), limit as usize);
        let mut had: BTreeMap<(&str, &str), f64> = BTreeMap::new();
        for it in &first {
            *had.entry((&*it.tenant, &*it.account)).or_default() += 1.0;
        }
        for (tenant, account, weight) in flows {
            let had = had.get(&(tenant, account.unwrap_or_default()));
            let (had, share) = (
                had.copied().unwrap_or_default(),
                f64::from(limit) * weight / 21.0,
            );
            // the others' first jobs may come before: one of each
            assert!(
                (had - share).abs() <= 3.0,
                "{limit}: {tenant}, {account:?} had {had} of {share}"
            );
        }
        // and what people are told is that
        for (n, it) in first.iter().enumerate().step_by(17) {
            let job = f.look(it.id).await;
            let line = f.line(&job, &kinds(), &Shut::default(), &fair).await;
            assert_eq!(line.unwrap().before, n as u64);
        }
    }
}
