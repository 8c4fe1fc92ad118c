//! Several hosts that count in the same budgets at once, as fast as they can: never one too many, and what
//! is allowed is taken. `PRESSWORK_TOKENS=1000000` tries it with so many.

mod kit;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use presswork::budget::{Asked, Budget, Form, Per};
use presswork::engine::gatekeeper::Gatekeeper;
use presswork::ledger::Ledger;
use presswork::ledger::postgres::{PgOptions, Postgres, Role};
use presswork::platform::gate::Gate;

const WINDOW: Duration = Duration::from_secs(1);

fn asked(account: &str) -> Asked<'_> {
    Asked {
        platform: "x",
        account,
        tenant: "acme",
        kind: "post.x",
        op: "x.post",
        nearby: false,
        spend: None,
    }
}

fn budget(form: Form, per: Per) -> Budget {
    Budget {
        form,
        per,
        platform: None,
        account: None,
        tenant: None,
        kind: None,
        op: None,
        amount: 1,
        published: false,
    }
}

async fn ledger(url: &str) -> Arc<dyn Ledger> {
    let ledger = Postgres::open(&url.into(), PgOptions::new(Role::Ledger)).expect("a good URL");
    ledger.migrate().await.expect("it is migrated");
    Arc::new(ledger)
}

/// The most that began within any span of the window's length.
fn most_within(times: &mut [Instant]) -> usize {
    times.sort();
    let mut first = 0;
    let mut most = 0;
    for at in 0..times.len() {
        while WINDOW <= times[at] - times[first] {
            first += 1;
        }
        most = most.max(at - first + 1);
    }
    most
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_race_never_take_one_too_many() {
    let said = std::env::var("PRESSWORK_TOKENS").ok();
    let tokens: usize = said.map_or(30_000, |it| it.parse().expect("a number"));
    const HOSTS: usize = 3;
    const ASKERS: usize = 64;
    let most: usize = if tokens <= 100_000 { 3_000 } else { 8_000 };
    let url = kit::postgres::Postgres::shared().create_database().await;
    let window = chrono::Duration::from_std(WINDOW).expect("a second");
    let form = Form::Rolling {
        most: most as u64,
        window,
    };
    let budgets = BTreeMap::from([
        ("all".to_owned(), budget(form, Per::All)),
        // of two that are needed, the other one must come back where this one is refused
        ("each".to_owned(), budget(form, Per::Account)),
    ]);
    let taken: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let mut hosts = Vec::new();
    for _ in 0..HOSTS {
        hosts.push(Gatekeeper::start(ledger(&url).await, budgets.clone()));
    }
    let began = Instant::now();
    let asker = async |host: Arc<Gatekeeper>, n: usize| {
        let account = format!("account-{}", n % 2);
        loop {
            let patience = Duration::from_secs(2);
            let within = Duration::from_millis(500);
            match host.take(&asked(&account), within, patience).await {
                Ok(pass) => {
                    // it reaches the platform at any time until it is over
                    let arrives = Instant::now();
                    pass.over(true);
                    let mut taken = taken.lock().expect("nobody panicked");
                    taken.push(arrives);
                    if tokens <= taken.len() {
                        return;
                    }
                }
                Err(_) if tokens <= taken.lock().expect("nobody panicked").len() => return,
                Err(_) => {}
            }
        }
    };
    let askers = hosts
        .iter()
        .flat_map(|host| (0..ASKERS).map(move |n| (host.clone(), n)));
    join_all(askers.map(|(host, n)| asker(host, n))).await;
    let took = began.elapsed();
    let mut times = std::mem::take(&mut *taken.lock().expect("nobody panicked"));
    let count = times.len();
    let found = most_within(&mut times);
    // the first window's worth comes at once, each next one a window later
    let ideal = (count as f64 / most as f64 - 1.0) * WINDOW.as_secs_f64();
    println!(
        "{count} of at most {most} in any second, by {HOSTS} hosts, in {took:?} (ideal {ideal:.1} s): at most {found} in one"
    );
    assert!(found <= most, "{found} of {most}");
    assert!(ideal * 0.95 <= took.as_secs_f64());
}
