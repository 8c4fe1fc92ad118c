//! Where a job stands in its lane's line, how fast that goes, and how long a run's lease lasts.

use std::path::Path;
use std::time::Duration;

use presswork::config::Config;
use presswork::fair::Fair;
use presswork::gate::{Cause, Closure, Scope, Shut};
use presswork::job::{JobId, NewJob, Priority};
use presswork::ledger::{LINE_MAX, Line, PACE};
use presswork::lifecycle::Event;
use presswork::outcome::Outcome;
use uuid::Uuid;

use super::fixture::{Fixture, KIND, LANE, LEASE, job, kinds};

fn shut(scopes: &[Scope]) -> Shut {
    let now = presswork::clock::Time::UNIX_EPOCH;
    let closure = |scope: &Scope| Closure::new(Cause::Stop, scope.clone(), ("ada", ""), now);
    let closures: Vec<Closure> = scopes.iter().map(closure).collect();
    Shut::of(
        &closures,
        &Config::default_embedded(Path::new("/nowhere")),
        now,
    )
}

async fn line(f: &Fixture, id: JobId, shut: &Shut) -> Line {
    let job = f.look(id).await;
    f.line(&job, &kinds(), shut, &Fair::default())
        .await
        .expect("it is answered")
}

pub async fn a_place_in_line_is_that_of_what_is_due(f: Fixture) {
    let now = f.time().await;
    let mut jobs = Vec::new();
    for (tenant, account, priority, count) in [
        ("acme", "", Priority::Normal, 4),
        ("acme", "ann", Priority::Normal, 2),
        ("zeta", "bob", Priority::Normal, 5),
        ("acme", "ann", Priority::High, 3),
        ("zeta", "", Priority::Low, 2),
    ] {
        for n in 0..count {
            let label = ("book".to_owned(), (n % 2).to_string());
            jobs.push(NewJob {
                tenant: tenant.into(),
                account: Some(account.to_owned()).filter(|it| !it.is_empty()),
                priority,
                run_at: Some(now - chrono::Duration::seconds(100 - (n * 7) % 50)),
                labels: [label].into(),
                ..job(KIND)
            });
        }
    }
    f.add(&jobs).await;
    // none of these is in the line
    let apart = [
        NewJob {
            run_at: Some(now + chrono::Duration::hours(1)),
            priority: Priority::High,
            ..job(KIND)
        },
        NewJob {
            priority: Priority::High,
            ..job("demo.other")
        },
        NewJob {
            lane: "other".into(),
            ..job(KIND)
        },
    ];
    f.add(&apart).await;
    let of = |tenant: &str| Some(tenant.to_owned());
    let tenant = Scope {
        tenant: of("acme"),
        ..Scope::default()
    };
    let account = Scope {
        account: of("bob"),
        ..Scope::default()
    };
    let label = Scope {
        label: of("book=1"),
        ..Scope::default()
    };
    for scopes in [
        vec![],
        vec![tenant.clone()],
        vec![account.clone()],
        vec![label.clone()],
        vec![account, label],
    ] {
        let shut = shut(&scopes);
        let due = f
            .due(LANE, &kinds(), &shut, &Fair::default(), 100)
            .await
            .unwrap();
        assert!(!due.is_empty());
        for (n, hint) in due.iter().enumerate() {
            let line = line(&f, hint.id, &shut).await;
            assert_eq!(line.before, n as u64, "{scopes:?}");
            assert_eq!((line.completed, line.span), (0, Duration::ZERO));
        }
    }
    // one that is shut itself is told where it would be
    let first = f
        .due(LANE, &kinds(), &Shut::default(), &Fair::default(), 1)
        .await
        .unwrap();
    assert_eq!(line(&f, first[0].id, &shut(&[tenant])).await.before, 0);
}

pub async fn a_place_in_line_is_counted_within_its_bound(f: Fixture) {
    let last = NewJob {
        priority: Priority::Low,
        ..job(KIND)
    };
    let last = f.add(&[last]).await[0];
    assert_eq!(line(&f, last, &Shut::default()).await.before, 0);
    for tenant in 0..11 {
        let one = || NewJob {
            tenant: format!("t{tenant}"),
            ..job(KIND)
        };
        let many: Vec<NewJob> = (0..1_000).map(|_| one()).collect();
        f.add(&many).await;
    }
    let bound = u64::from(LINE_MAX) + 1;
    assert_eq!(line(&f, last, &Shut::default()).await.before, bound);
}

pub async fn a_lanes_pace_is_that_of_the_last_minutes(f: Fixture) {
    let completed = || Event::Ended(Outcome::Completed(1.into()));
    for _ in 0..3 {
        let (_, one) = f.start(job(KIND)).await;
        f.happen(&one, completed()).await;
        f.shift(10).await;
    }
    let elsewhere = NewJob {
        lane: "other".into(),
        ..job(KIND)
    };
    let (_, other) = f.start(elsewhere).await;
    f.happen(&other, completed()).await;
    let off = f.add(&[job(KIND)]).await[0];
    f.happen(&f.look(off).await, Event::CancelAsked).await;
    let waits = f.add(&[job(KIND)]).await[0];
    let seen = line(&f, waits, &Shut::default()).await;
    assert_eq!((seen.before, seen.completed), (0, 3));
    let span = seen.span.as_secs();
    assert!((30..90).contains(&span), "{span}");
    let past = i64::try_from(PACE.as_secs()).expect("minutes");
    f.shift(past).await;
    let seen = line(&f, waits, &Shut::default()).await;
    assert_eq!((seen.completed, seen.span), (0, Duration::ZERO));
}

pub async fn a_runs_lease_is_told_until_it_is_ended(f: Fixture) {
    let claim = f.enter().await;
    let until = f.lease(claim.run).await.unwrap().expect("it has a lease");
    let left = until - f.time().await;
    let lease = chrono::Duration::from_std(LEASE).expect("a span");
    assert!(left <= lease && lease - left < chrono::Duration::minutes(1));
    let renewed = f.beat(claim.run, &[], LEASE * 2).await.unwrap();
    assert_eq!(f.lease(claim.run).await.unwrap(), renewed);
    f.shift(3 * 3_600).await;
    assert_eq!(f.lease(claim.run).await.unwrap(), renewed, "it is past");
    f.end_run(claim.run).await.unwrap();
    assert_eq!(f.lease(claim.run).await.unwrap(), None);
    assert_eq!(f.lease(Uuid::new_v4()).await.unwrap(), None);
}
