//! Several hosts that count in the same budgets at once, as fast as they can: never one too many, and what
//! is allowed is taken. `PRESSWORK_TOKENS=1000000` tries it with so many.
//!
//! In one test the hosts are processes of their own, which are killed; what they send is counted where it
//! arrives. Such a process is this same program, and runs [`a_host`].

mod kit;

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use presswork::budget::{Asked, Budget, Form, Per};
use presswork::engine::gatekeeper::Gatekeeper;
use presswork::ledger::Ledger;
use presswork::ledger::postgres::{PgOptions, Postgres, Role};
use presswork::platform::gate::Gate;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const WINDOW: Duration = Duration::from_secs(1);
const HOSTS: usize = 3;
/// Requests that a host has under way at most.
const ASKERS: usize = 64;

/// How many tokens are taken: `usually`, or as many as are asked for.
fn tokens(usually: usize) -> usize {
    let said = std::env::var("PRESSWORK_TOKENS").ok();
    said.map_or(usually, |it| it.parse().expect("a number"))
}

fn asked(account: &str) -> Asked<'_> {
    Asked {
        pace: None,
        platform: "x",
        app: "",
        account,
        tenant: "acme",
        kind: "post.x",
        op: "x.post",
        nearby: false,
        spend: None,
        wanted_at: None,
    }
}

async fn ledger(url: &str) -> Arc<dyn Ledger> {
    let ledger = Postgres::open(&url.into(), PgOptions::new(Role::Ledger)).expect("a good URL");
    ledger.migrate().await.expect("it is migrated");
    Arc::new(ledger)
}

/// The most that began within any span of this length.
fn most_within(times: &mut [Instant], window: Duration) -> usize {
    times.sort();
    let mut first = 0;
    let mut most = 0;
    for at in 0..times.len() {
        while window <= times[at] - times[first] {
            first += 1;
        }
        most = most.max(at - first + 1);
    }
    most
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_race_never_take_one_too_many() {
    let tokens = tokens(30_000);
    let most: usize = if tokens <= 100_000 { 3_000 } else { 8_000 };
    let url = kit::postgres::Postgres::shared().create_database().await;
    let window = chrono::Duration::from_std(WINDOW).expect("a second");
    let form = Form::Rolling {
        most: most as u64,
        window,
    };
    let budgets = BTreeMap::from([
        ("all".to_owned(), Budget::of_all(form, Per::All)),
        // of two that are needed, the other one must come back where this one is refused
        ("each".to_owned(), Budget::of_all(form, Per::Account)),
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
    let found = most_within(&mut times, WINDOW);
    // the first window's worth comes at once, each next one a window later
    let ideal = (count as f64 / most as f64 - 1.0) * WINDOW.as_secs_f64();
    println!(
        "{count} of at most {most} in any second, by {HOSTS} hosts, in {took:?} (ideal {ideal:.1} s): at most {found} in one"
    );
    assert!(found <= most, "{found} of {most}");
    assert!(ideal * 0.95 <= took.as_secs_f64());
}

/// Where the hosts of the test below find the ledger and the platform, and what they may send.
const LEDGER: &str = "PRESSWORK_TEST_LEDGER";
const PLATFORM: &str = "PRESSWORK_TEST_PLATFORM";
const MOST: &str = "PRESSWORK_TEST_MOST";
/// The window of that test: with a longer one a kill costs less of what is allowed.
const LONG: Duration = Duration::from_secs(4);
/// What a host may have under way is over by then: what a killed one had counts for as long.
const WITHIN: Duration = Duration::from_millis(500);

fn posts(most: u64) -> BTreeMap<String, Budget> {
    let window = chrono::Duration::from_std(LONG).expect("some seconds");
    let form = Form::Rolling { most, window };
    BTreeMap::from([("posts".to_owned(), Budget::of_all(form, Per::Account))])
}

/// A host that sends for as long as it lives and the platform answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "no test by itself: the next one runs it"]
async fn a_host() {
    let said = |name| std::env::var(name).expect("the test below says it");
    let most = said(MOST).parse().expect("a number");
    let host = Gatekeeper::start(ledger(&said(LEDGER)).await, posts(most));
    let platform = said(PLATFORM);
    let asker = async || {
        let Ok(mut platform) = TcpStream::connect(&platform).await else {
            return;
        };
        platform.set_nodelay(true).expect("it is a socket");
        loop {
            let patience = Duration::from_secs(1);
            let Ok(pass) = host.take(&asked("ada"), WITHIN, patience).await else {
                continue;
            };
            let sent = platform.write_all(b"p").await.is_ok();
            let answered = platform.read_u8().await.is_ok();
            pass.over(true);
            if !(sent && answered) {
                return;
            }
        }
    };
    join_all((0..ASKERS).map(|_| asker())).await;
}

struct Killed(Child);

impl Killed {
    fn start(url: &str, platform: &str, most: usize) -> Self {
        let mut me = Command::new(std::env::current_exe().expect("a test knows its own program"));
        me.args(["a_host", "--exact", "--ignored"]);
        me.env(LEDGER, url).env(PLATFORM, platform);
        me.env(MOST, most.to_string());
        me.stdout(Stdio::null()).stderr(Stdio::null());
        Self(me.spawn().expect("it starts"))
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // SIGKILL, wherever it stands
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_killed_never_send_one_too_many_and_use_what_is_allowed() {
    let tokens = tokens(20_000);
    let most: usize = if tokens <= 100_000 { 3_000 } else { 16_000 };
    let kills = 10;
    let url = kit::postgres::Postgres::shared().create_database().await;
    ledger(&url).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let platform = listener.local_addr().expect("it listens").to_string();
    let arrived: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let counts = arrived.clone();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let counts = counts.clone();
            tokio::spawn(async move {
                let _ = from.set_nodelay(true);
                while from.read_u8().await.is_ok() {
                    counts.lock().expect("nobody panicked").push(Instant::now());
                    if from.write_all(b"p").await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    let count = || arrived.lock().expect("nobody panicked").len();
    let mut hosts: Vec<Killed> = (0..HOSTS)
        .map(|_| Killed::start(&url, &platform, most))
        .collect();
    let patience = LONG * 4 * u32::try_from(tokens / most + 10).expect("not that many");
    for kill in 1..=kills {
        let so_many = tokens * kill / (kills + 1);
        let what = format!("{so_many} have arrived");
        kit::wait::until(&what, patience, async || so_many <= count()).await;
        let host = kill % HOSTS;
        hosts[host] = Killed::start(&url, &platform, most);
    }
    let what = format!("{tokens} have arrived");
    kit::wait::until(&what, patience, async || tokens <= count()).await;
    drop(hosts);
    let mut times = std::mem::take(&mut *arrived.lock().expect("nobody panicked"));
    let found = most_within(&mut times, LONG);
    let took = times[times.len() - 1] - times[0];
    // in whole windows, so that the last one's worth hasn't to come at its end
    let windows = took.as_secs_f64() / LONG.as_secs_f64() + 1.0;
    let used = times.len() as f64 / (windows * most as f64);
    println!(
        "{} arrived in {took:?} from {HOSTS} hosts with {kills} kills: at most {found} of {most} within {LONG:?}; {:.1} % of what is allowed was used",
        times.len(),
        used * 100.0
    );
    assert!(found <= most, "{found} of {most}");
    // a busy machine, and a debug build, waste some; who asks for many has a release build and a quiet one
    let least = if tokens <= 100_000 { 0.5 } else { 0.95 };
    assert!(least <= used, "{used}");
}
