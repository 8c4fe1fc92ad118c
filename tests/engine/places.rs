//! Places that are kept: what was scheduled goes out at its time, whatever was imported before it.

use std::time::Duration;

use presswork::budget::{Budget, Every, Form, Per};
use presswork::clock::Time;
use presswork::config::Config;
use presswork::job::JobId;
use presswork::ledger::Filter;
use presswork::lifecycle::State;
use presswork::operate::explain::{Eyes, explain};
use presswork::operate::facts::Facts;
use presswork::operate::{self, budgets};
use serde_json::{Value, json};

use crate::rig::{Base, Rig, somebody};
use crate::{LANE, SOON, kit};

const HOUR: Duration = Duration::from_secs(3_600);
/// What is refused is looked at again after this at the latest.
const AGAIN: Duration = Duration::from_secs(31);

fn calendar() -> Form {
    Form::Calendar {
        most: 50,
        every: Every::Day,
        zone: chrono_tz::UTC,
    }
}

fn rolling() -> Form {
    Form::Rolling {
        most: 50,
        window: chrono::Duration::hours(24),
    }
}

fn of(form: Form) -> impl Fn(&mut Config) {
    move |config| {
        let budget = Budget {
            kind: Some("test.*".to_owned()),
            ..Budget::of_all(form, Per::Tenant)
        };
        config.budgets.insert("posts".to_owned(), budget);
        crate::limits(None, 64)(config);
    }
}

fn post(run_at: Option<Time>) -> Value {
    json!({
        "kind": "test.job", "tenant": "acme", "lane": LANE, "run_at": run_at,
        "payload": {"op": "test.post"},
    })
}

/// Hosts over one ledger, at a minute past midnight; ten posts for nine o'clock, then many at once.
struct Day {
    base: Base,
    hosts: Vec<Rig>,
    ten: Vec<JobId>,
    bulk: Vec<JobId>,
}

impl Day {
    async fn begin(base: &Base, form: Form, hosts: usize, bulk: usize) -> Self {
        let now = base.ledger.now().await.unwrap();
        let second = now.timestamp().rem_euclid(86_400).unsigned_abs();
        base.advance(Duration::from_secs(86_460 - second)).await;
        let mut all = Vec::new();
        for _ in 0..hosts {
            all.push(Rig::new(base, presswork::kinds::all(), of(form)).await);
        }
        for host in &all {
            host.lease.lock().await.tick().await;
        }
        let now = base.ledger.now().await.unwrap();
        let nine = now + chrono::Duration::minutes(9 * 60 - 1);
        let mut day = Self {
            base: base.clone(),
            hosts: all,
            ten: vec![],
            bulk: vec![],
        };
        if day.hosts.is_empty() {
            return day;
        }
        for _ in 0..10 {
            day.ten.push(day.hosts[0].enqueue(&post(Some(nine))).await);
        }
        for _ in 0..bulk {
            day.bulk.push(day.hosts[0].enqueue(&post(None)).await);
        }
        day
    }

    async fn advance(&self, by: Duration) {
        self.base.advance(by).await;
        for host in &self.hosts {
            host.lease.lock().await.tick().await;
            // what was shut here for a while is open again
            host.control.tick().await.unwrap();
        }
    }

    /// All that goes on, on all hosts by turns.
    async fn run(&self) {
        loop {
            let mut ran = 0;
            for host in &self.hosts {
                ran += host.step(LANE).await;
            }
            if ran == 0 {
                return;
            }
        }
    }

    async fn done(&self, of: &[JobId]) -> usize {
        let filter = Filter {
            states: vec![State::Completed],
            limit: 1_000,
            ..Filter::default()
        };
        let done = self.base.ledger.jobs(&filter).await.unwrap();
        let its: Vec<_> = done.iter().filter(|it| of.contains(&it.id)).collect();
        let charged = its.iter().find(|it| 0 < it.attempts);
        assert!(charged.is_none(), "waiting is no failure: {charged:?}");
        its.len()
    }

    /// Looks again and again, as hosts do, until so many of the bulk have gone out.
    async fn until(&self, bulk: usize) {
        kit::wait::until("what is free is taken", SOON, async || {
            self.advance(AGAIN).await;
            self.run().await;
            bulk <= self.done(&self.bulk).await
        })
        .await;
        self.advance(AGAIN).await;
        self.run().await;
        assert_eq!(self.done(&self.bulk).await, bulk);
    }
}

async fn ten_keep_their_places(base: &Base, form: Form, hosts: usize, bulk: usize) -> Day {
    let day = Day::begin(base, form, hosts, bulk).await;
    day.run().await;
    assert_eq!(day.done(&day.bulk).await, 40, "ten places are kept");
    assert_eq!(day.done(&day.ten).await, 0);
    day.advance(8 * HOUR).await;
    day.run().await;
    assert_eq!(
        (day.done(&day.bulk).await, day.done(&day.ten).await),
        (40, 0)
    );
    day.advance(HOUR - Duration::from_secs(59)).await;
    day.run().await;
    assert_eq!(day.done(&day.ten).await, 10, "at their time");
    assert_eq!(day.done(&day.bulk).await, 40);
    day
}

#[tokio::test(flavor = "multi_thread")]
async fn scheduled_posts_keep_their_places_of_the_day_against_an_import() {
    for base in Base::both().await {
        let day = ten_keep_their_places(&base, calendar(), 1, 500).await;
        // the next day is the import's alone
        day.advance(15 * HOUR).await;
        day.until(90).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_kept_by_all_hosts() {
    for base in Base::both().await {
        let day = ten_keep_their_places(&base, calendar(), 2, 150).await;
        day.advance(15 * HOUR).await;
        day.until(90).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_kept_in_a_rolling_window() {
    for base in Base::both().await {
        let day = ten_keep_their_places(&base, rolling(), 1, 150).await;
        // what the import took at first has run out, and the ten count until nine
        day.advance(15 * HOUR + HOUR / 2).await;
        day.until(80).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_place_of_what_is_called_off_is_free() {
    for base in Base::both().await {
        let day = Day::begin(&base, calendar(), 1, 150).await;
        day.run().await;
        assert_eq!(day.done(&day.bulk).await, 40);
        let by = somebody();
        for id in &day.ten[..3] {
            operate::cancel(&*base.ledger, *id, &by).await.unwrap();
        }
        day.until(43).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_the_backlog_is_told() {
    for base in Base::both().await {
        let day = Day::begin(&base, calendar(), 1, 150).await;
        day.run().await;
        let (host, kinds) = (&day.hosts[0], presswork::kinds::all());
        let config = host.shared.config.load_full();
        let part = async || {
            let limits = budgets::limits(&*base.ledger, &config, &kinds).await;
            let mut parts = limits.unwrap().budgets.into_iter();
            let part = parts.find(|it| it.budget == "posts" && it.whose == "acme");
            let part = part.expect("something was counted in it");
            (
                part.used,
                part.frees_at,
                part.outlook.expect("its kinds are known"),
            )
        };
        let nine = host.job(day.ten[0]).await.wanted_at().unwrap();
        let begins = |days: i64| {
            nine - chrono::Duration::hours(9) + chrono::Duration::seconds(days * 86_400 + 5)
        };
        let (used, frees_at, told) = part().await;
        // a minute's or two, by when midnight was
        let near = |a: Option<Time>, b: Time| {
            a.is_some_and(|it| (it - b).abs() < chrono::Duration::minutes(2))
        };
        assert_eq!((used, told.kept), (40, 10));
        assert!(near(frees_at, begins(1)), "{frees_at:?}");
        assert_eq!((told.backlog, told.scheduled, told.held), (120, 10, 0));
        assert!(near(told.drains_at, begins(3)), "{told:?}");
        assert_eq!((told.late, told.misses, told.more), (0, vec![], false));
        // more than there are places: the later ones come a day too late
        let ten = nine + chrono::Duration::hours(1);
        let mut over = Vec::new();
        for _ in 0..30 {
            over.push(host.enqueue(&post(Some(ten))).await);
        }
        let (_, _, told) = part().await;
        assert_eq!((told.kept, told.late, told.misses.len()), (40, 30, 20));
        assert!(over.contains(&told.misses[0].job));
        assert_eq!(told.misses[0].wanted_at, ten);
        assert!(near(told.misses[0].expected_at, begins(1)), "{told:?}");
        // and who waits is told why
        let names: Vec<String> = kinds.iter().map(|it| it.name().to_owned()).collect();
        let waits = host.job(day.bulk[149]).await;
        let facts = Facts::read(&*base.ledger, &config, &names, waits).await;
        let why = explain(&facts.unwrap(), &config, Eyes::Operator);
        let why = &why.constraints[0].text;
        assert!(
            why.contains("40 places are kept for jobs scheduled until"),
            "{why}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_keeps_no_places_gives_all_to_who_comes_first() {
    let base = Base::embedded().await;
    let mut day = Day::begin(&base, calendar(), 0, 0).await;
    let none = |config: &mut Config| {
        of(calendar())(config);
        config.budgets.get_mut("posts").unwrap().reserve = false;
    };
    let host = Rig::new(&base, presswork::kinds::all(), none).await;
    let now = base.ledger.now().await.unwrap();
    let nine = now + chrono::Duration::hours(9);
    host.enqueue(&post(Some(nine))).await;
    for _ in 0..60 {
        day.bulk.push(host.enqueue(&post(None)).await);
    }
    day.hosts.push(host);
    day.run().await;
    assert_eq!(day.done(&day.bulk).await, 50);
}
