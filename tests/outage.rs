//! Outages under load: Redis away, wiped or frozen; Postgres away or unreachable; daemons that die,
//! drain, reload, and are told what people want.

mod kit;
#[path = "outage/accounts.rs"]
mod accounts;
#[path = "outage/backlog.rs"]
mod backlog;
#[path = "outage/budgets.rs"]
mod budgets;
#[path = "outage/late.rs"]
mod late;
#[path = "outage/clocks.rs"]
mod clocks;
#[path = "outage/explain.rs"]
mod explain;
#[path = "outage/fallbacks.rs"]
mod fallbacks;
#[path = "outage/ledger.rs"]
mod ledger;
#[path = "outage/limits.rs"]
mod limits;
#[path = "outage/partition.rs"]
mod partition;
#[path = "outage/people.rs"]
mod people;
#[path = "outage/promotion.rs"]
mod promotion;
#[path = "outage/scale.rs"]
mod scale;
#[path = "outage/stops.rs"]
mod stops;
#[path = "outage/upgrade.rs"]
mod upgrade;
#[path = "storm/checker.rs"]
mod checker;
#[path = "storm/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use checker::{Wanted, check};
use kit::daemon::Daemon;
use kit::postgres::Postgres;
use kit::proxy::Proxy;
use kit::redis::Redis;
use kit::wait;
use presswork::clock::Time;
use presswork::job::{Job, JobId};
use presswork::ledger::{Audit, Filter, Ledger, Pause};
use presswork::lifecycle::State;
use presswork::operate::{self, By};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use world::{ENDED, Host, Outside, READY, Stores, accept_directly, ended, envelope, rules};

/// The stores of one case, and hosts on them.
struct Case {
    stores: Stores,
    redis: Redis,
    outside: Outside,
    ledger: Arc<dyn Ledger>,
    sent: Vec<Wanted>,
}

impl Case {
    async fn new() -> Self {
        Self::on(Postgres::shared()).await
    }

    async fn on(postgres: &Postgres) -> Self {
        let redis = Redis::start_durable();
        let url = postgres.create_database().await;
        let stores = Stores::new(&url, &redis.url());
        Self {
            ledger: stores.ledger().await,
            stores,
            redis,
            outside: Outside::new().await,
            sent: Vec::new(),
        }
    }

    fn host(&self) -> Host {
        Host::new(&self.stores, &self.outside.url)
    }

    /// The next job, of a kind.
    fn job(&mut self, kind: &'static str, payload: Value) -> Value {
        let (wanted, envelope) = envelope(self.sent.len(), kind, payload, "");
        self.sent.push(wanted);
        envelope
    }

    fn test_jobs(&mut self, count: usize, payload: &Value) -> Vec<Value> {
        let one = |_| self.job("test.job", payload.clone());
        (0..count).map(one).collect()
    }

    /// Some of each kind, over HTTP, until each is acknowledged.
    async fn load(&mut self, host: &Host, count: usize) {
        let kinds = ["test.job", "post.mastodon", "test.job", "post.bluesky"];
        for n in 0..count {
            let envelope = self.job(kinds[n % kinds.len()], json!({"sleep_ms": 20}));
            host.submit(&envelope).await;
        }
    }

    async fn all_well(&self) -> checker::Found {
        ended(&*self.ledger, self.sent.len(), ENDED).await;
        check(&*self.ledger, &self.sent, &self.outside.acts().await).await
    }

    async fn one(&self, id: JobId) -> Job {
        let job = self.ledger.job(id).await.expect("the ledger answers");
        job.expect("the job is there")
    }

    async fn until_state(&self, id: JobId, state: State) {
        let what = format!("job {id} is {state}");
        wait::until(&what, ENDED, async || self.one(id).await.state == state).await;
    }

    /// Sends one test job; its id.
    async fn send_one(&mut self, host: &Host, payload: Value) -> JobId {
        let envelope = self.job("test.job", payload);
        host.submit(&envelope).await;
        let ids = accept_directly(&*self.ledger, &rules(host), &[envelope]).await;
        ids.expect("it is the same again")[0]
    }
}

async fn told(daemon: &Daemon, what: &str) {
    let waiting = || format!("`{what}` in the log:\n{}", daemon.stderr());
    wait::until_or(waiting, ENDED, async || daemon.stderr().contains(what)).await;
}

async fn sql(url: &str, statement: &str) {
    let mut connection = PgConnection::connect(url).await.expect("connects");
    let done = sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()));
    let done = done.execute(&mut connection).await;
    done.expect("the statement is run");
}

fn by() -> By {
    By {
        actor: "test".to_owned(),
        reason: "because".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dispatch_goes_on_from_the_ledger_while_redis_is_away() {
    let mut case = Case::new().await;
    let host = case.host();
    let daemon = host.run();
    host.queue_in_use(&daemon).await;
    case.load(&host, 40).await;
    case.redis.kill9();
    case.load(&host, 40).await;
    let found = case.all_well().await;
    println!("while Redis was away: {found:?}");
    case.redis.restart();
    host.queue_in_use(&daemon).await;
    case.load(&host, 20).await;
    case.all_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dispatch_goes_on_from_the_ledger_while_redis_is_frozen() {
    let mut case = Case::new().await;
    let host = case.host();
    let daemon = host.run();
    host.queue_in_use(&daemon).await;
    case.load(&host, 20).await;
    case.redis.freeze();
    let began = Instant::now();
    case.load(&host, 20).await;
    case.all_well().await;
    println!("20 jobs ended {:?} after Redis froze", began.elapsed());
    case.redis.thaw();
    host.queue_in_use(&daemon).await;
    case.load(&host, 20).await;
    case.all_well().await;
}

/// 10,000 ready jobs, of which a few run at once; `PRESSWORK_READY_JOBS=100000` tries it with more.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_queue_is_filled_again_and_dispatch_goes_on_within_a_second() {
    let wanted = std::env::var("PRESSWORK_READY_JOBS").ok();
    let wanted = wanted.map(|it| it.parse().expect("a number of jobs"));
    let ready_jobs: usize = wanted.unwrap_or(10_000);
    let mut case = Case::new().await;
    case.stores.more = "[lanes.default]\nconcurrency = 4\n".to_owned();
    let host = case.host();
    let window = ready_jobs.to_string();
    let env = [("PRESSWORK_QUEUE_WINDOW", window.as_str())];
    let daemon = host.home.start_with(&["run"], &env);
    host.queue_in_use(&daemon).await;
    let rules = rules(&host);
    let envelopes = case.test_jobs(ready_jobs, &json!({"sleep_ms": 200}));
    for batch in envelopes.chunks(1_000) {
        let accepted = accept_directly(&*case.ledger, &rules, batch).await;
        accepted.expect("the ledger takes them");
    }
    let queued = || -> usize {
        let size = case.redis.cli(&["ZCARD", "{pw:lane:default}:ready"]);
        size.parse().expect("a number")
    };
    // a window is filled when it is below half; an empty one is filled whole
    let (half, full) = (ready_jobs / 2, ready_jobs * 9 / 10);
    wait::until("the window is filled", ENDED, async || half <= queued()).await;
    let running = async || -> BTreeSet<JobId> {
        let running = case.ledger.running("default").await;
        let running = running.expect("the ledger answers");
        running.into_iter().map(|it| it.0).collect()
    };
    wait::until("the lane is busy", ENDED, async || {
        running().await.len() == 4
    })
    .await;

    let before = running().await;
    case.redis.flushall();
    let flushed = Instant::now();
    wait::until("another job runs", ENDED, async || {
        !running().await.is_subset(&before)
    })
    .await;
    let dispatched = flushed.elapsed();
    wait::until("the window is full again", ENDED, async || full < queued()).await;
    let filled = flushed.elapsed();
    println!("after a flush: first dispatch in {dispatched:?}, {full} hints in {filled:?}");
    // a running job has to end first (200 ms); the rest is allowed to a busy machine
    assert!(dispatched < Duration::from_secs(2), "{dispatched:?}");
    let per_job = Duration::from_millis(2);
    assert!(
        filled < per_job * u32::try_from(ready_jobs).unwrap_or(u32::MAX),
        "{filled:?}"
    );
    assert!(
        running().await.len() <= 4,
        "the lane's limit holds across a flush"
    );
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_away_costs_time_and_no_job() {
    let postgres = Postgres::start();
    let mut case = Case::on(&postgres).await;
    let host = case.host();
    let daemon = host.run();
    host.queue_in_use(&daemon).await;
    case.load(&host, 40).await;
    postgres.kill9();
    let refused = case.job("test.job", json!({}));
    wait::until("HTTP says 503, and when to come back", ENDED, async || {
        let answer = host.post(refused.to_string()).await;
        let answer = answer.expect("the API answers while the ledger is away");
        assert_ne!(
            answer.status,
            StatusCode::CREATED,
            "nobody may promise this now"
        );
        answer.status == StatusCode::SERVICE_UNAVAILABLE
            && answer.headers.contains_key("retry-after")
    })
    .await;
    wait::until("it isn't ready meanwhile", ENDED, async || {
        let answer = host.get("/readyz").await;
        answer.is_ok_and(|it| it.status == StatusCode::SERVICE_UNAVAILABLE)
    })
    .await;
    postgres.restart();
    let back = Instant::now();
    host.submit(&refused).await;
    println!(
        "a job was taken {:?} after Postgres was back",
        back.elapsed()
    );
    assert!(
        back.elapsed() < Duration::from_secs(10),
        "{:?}",
        back.elapsed()
    );
    case.load(&host, 20).await;
    let found = case.all_well().await;
    println!(
        "after Postgres was away: {found:?}, all ended after {:?}",
        back.elapsed()
    );
    assert!(daemon.ended().is_none(), "the daemon lives through it");
}

/// The network swallows everything between one host and the ledger: it stops its handlers by its own
/// clock, and another host takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_cut_off_from_the_ledger_stops_and_another_takes_over() {
    let mut case = Case::new().await;
    let (proxy, through) = Proxy::before(&case.stores.ledger);
    let direct = case.stores.clone();
    let cut = Host::new(
        &Stores {
            ledger: through,
            ..direct.clone()
        },
        &case.outside.url,
    );
    let other = Host::new(&direct, &case.outside.url);
    let alone = cut.run();
    cut.queue_in_use(&alone).await;
    // longer than anybody waits: its attempts end because they are told to
    let id = case.send_one(&cut, json!({"sleep_ms": 50_000})).await;
    case.until_state(id, State::Running).await;
    let first = case.one(id).await.run;
    let helper = other.run();
    other.queue_in_use(&helper).await;
    proxy.black_hole();
    told(&alone, "running jobs are told to stop, at no charge").await;
    wait::until("another host runs it", ENDED, async || {
        let job = case.one(id).await;
        job.run.is_some() && job.run != first
    })
    .await;
    proxy.heal();
    told(&alone, "late settle refused").await;
    cut.queue_in_use(&alone).await;
    let stopped = case.ledger.attempts(id).await.expect("the ledger answers");
    let outcomes: Vec<_> = stopped.iter().map(|it| it.outcome.as_str()).collect();
    assert_eq!(outcomes, ["reclaimed"], "the other one runs it");
    let called_off = operate::cancel(&*case.ledger, id, &by()).await;
    called_off.expect("it can be cancelled");
    case.until_state(id, State::Cancelled).await;
    let job = case.one(id).await;
    assert_eq!(job.attempts, 0, "none was charged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_predecessor_on_the_same_host_is_reclaimed_at_once() {
    let mut case = Case::new().await;
    case.stores.lease_s = 30;
    let host = case.host();
    let daemon = host.run();
    host.queue_in_use(&daemon).await;
    let id = case.send_one(&host, json!({"sleep_ms": 1_500})).await;
    case.until_state(id, State::Running).await;
    let first = case.one(id).await.run;
    daemon.kill9();
    let restarted = Instant::now();
    let _again = host.run();
    wait::until("it runs again", ENDED, async || {
        let job = case.one(id).await;
        job.run.is_some() && job.run != first
    })
    .await;
    let taken = restarted.elapsed();
    println!("a dead predecessor's job ran again {taken:?} after the restart, lease 30 s");
    assert!(taken < Duration::from_secs(10), "{taken:?}");
    case.all_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_state_directory_has_one_daemon() {
    let case = Case::new().await;
    let host = case.host();
    let daemon = host.run();
    daemon.wait_ready(host.api, READY).await;
    let second = host.run();
    let status = second.wait_exit(READY).await;
    assert!(!status.success());
    let said = second.stderr();
    let who = format!("another daemon (process {}) holds", daemon.pid());
    assert!(
        said.contains(&who) && said.contains("daemon.state_dir"),
        "{said}"
    );
    assert!(daemon.ended().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_running_jobs_and_gives_the_rest_back() {
    let mut case = Case::new().await;
    let host = case.host();
    let daemon = host.run();
    host.queue_in_use(&daemon).await;
    let short = case.send_one(&host, json!({"sleep_ms": 2_000})).await;
    let long = case.send_one(&host, json!({"sleep_ms": 12_000})).await;
    for id in [short, long] {
        case.until_state(id, State::Running).await;
    }
    daemon.signal("TERM");
    told(&daemon, "stopping: no new jobs").await;
    let status = daemon.wait_exit(READY).await;
    assert_eq!(status.code(), Some(0), "{}", daemon.stderr());
    let (short, long) = (case.one(short).await, case.one(long).await);
    assert_eq!((short.state, short.attempts), (State::Completed, 0));
    assert_eq!(
        (long.state, long.attempts, long.crashes),
        (State::Ready, 0, 0),
        "given back at no charge"
    );
    let _again = host.run();
    case.all_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once_even_when_it_is_stuck() {
    let mut case = Case::new().await;
    let host = case.host();
    let daemon = host.run();
    host.queue_in_use(&daemon).await;
    // more of them than the runtime has threads
    for _ in 0..8 {
        let envelope = case.job("test.job", json!({"spin_ms": 15_000}));
        let accepted = accept_directly(&*case.ledger, &rules(&host), &[envelope]).await;
        accepted.expect("the ledger takes it");
    }
    wait::until("they run", ENDED, async || {
        let running = case.ledger.running("default").await;
        running.is_ok_and(|it| 2 <= it.len())
    })
    .await;
    daemon.signal("TERM");
    let asked = Instant::now();
    // signals of one number that wait are one, so the second is another
    daemon.signal("INT");
    let status = daemon.wait_exit(Duration::from_secs(10)).await;
    println!(
        "a stuck daemon ended {:?} after the second signal",
        asked.elapsed()
    );
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "{:?}",
        asked.elapsed()
    );
    assert_eq!(status.code(), Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_a_good_file_and_leaves_a_bad_one() {
    let mut case = Case::new().await;
    let host = case.host();
    let daemon = host.run();
    host.queue_in_use(&daemon).await;
    let mut to_extra = case.job("test.job", json!({}));
    to_extra["lane"] = "extra".into();
    let answer = host.post(to_extra.to_string()).await.expect("an answer");
    assert_eq!(
        answer.status,
        StatusCode::UNPROCESSABLE_ENTITY,
        "{}",
        answer.text
    );
    host.configure("[lanes.extra]\nconcurrency = 2\n");
    daemon.signal("HUP");
    told(&daemon, "the configuration was read anew").await;
    host.submit(&to_extra).await;
    case.all_well().await;

    host.configure("[lanes.extra]\nconcurrency = \"two\"\n");
    daemon.signal("HUP");
    told(
        &daemon,
        "the configuration wasn't changed, the old one holds",
    )
    .await;
    assert!(daemon.stderr().contains("lanes.extra.concurrency"));
    let mut again = case.job("test.job", json!({}));
    again["lane"] = "extra".into();
    host.submit(&again).await;
    case.all_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_report_is_written_on_request() {
    let mut case = Case::new().await;
    let host = case.host();
    let daemon = host.run();
    host.queue_in_use(&daemon).await;
    let id = case.send_one(&host, json!({"sleep_ms": 60_000})).await;
    case.until_state(id, State::Running).await;
    daemon.signal("USR1");
    told(&daemon, "held_here").await;
    let said = daemon.stderr();
    let line = said.lines().find(|it| it.contains("held_here"));
    let line = line.expect("it has just been seen").replace('\\', "");
    for part in ["\"held_here\":1", "\"running\":1", "\"draining\":false"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}
