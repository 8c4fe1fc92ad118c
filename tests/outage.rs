//! Outages under load: Redis away, wiped or frozen; Postgres away or unreachable; daemons that die,
//! drain, reload, and are told what people want.

mod kit;
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

/// 10,000 ready jobs, of which a few run at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_queue_is_filled_again_and_dispatch_goes_on_within_a_second() {
    const READY_JOBS: usize = 10_000;
    let mut case = Case::new().await;
    case.stores.more = "[lanes.default]\nconcurrency = 4\n".to_owned();
    let host = case.host();
    let daemon = host.run();
    host.queue_in_use(&daemon).await;
    let rules = rules(&host);
    let envelopes = case.test_jobs(READY_JOBS, &json!({"sleep_ms": 200}));
    for batch in envelopes.chunks(1_000) {
        let accepted = accept_directly(&*case.ledger, &rules, batch).await;
        accepted.expect("the ledger takes them");
    }
    let queued = || -> usize {
        let size = case.redis.cli(&["ZCARD", "{pw:lane:default}:ready"]);
        size.parse().expect("a number")
    };
    // a window is filled when it is below half; an empty one is filled whole
    let (half, full) = (READY_JOBS / 2, READY_JOBS * 9 / 10);
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
    println!("after a flush: first dispatch in {dispatched:?}, 10,000 hints in {filled:?}");
    // a running job has to end first (200 ms); the rest is allowed to a busy machine
    assert!(dispatched < Duration::from_secs(2), "{dispatched:?}");
    assert!(filled < Duration::from_secs(20), "{filled:?}");
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

/// So often each change is made.
const TRIES: usize = 5;
/// The lane that people pause: one job at a time, one after the other.
const STREAM: &str = "stream";

/// From the change's commit to its effect, both by the ledger's clock. A second is promised; a busy
/// machine may delay some of the tries, and none by much.
fn within_a_second(what: &str, took: &[chrono::Duration]) {
    let took: Vec<i64> = took
        .iter()
        .map(chrono::Duration::num_milliseconds)
        .collect();
    println!("{what}: {took:?} ms");
    assert_eq!(took.len(), TRIES);
    assert!(took.iter().any(|it| *it < 1_000), "{what}: {took:?} ms");
    assert!(took.iter().all(|it| *it < 5_000), "{what}: {took:?} ms");
}

impl Case {
    /// When the newest change of this name was written down.
    async fn audited(&self, job: Option<JobId>, action: &str) -> Time {
        let audit = self.ledger.audit(job, 1).await;
        let audit = audit.expect("the ledger answers");
        assert_eq!(audit[0].action, action);
        audit[0].at
    }

    /// Pauses the lane, or lets it go on; when that was.
    async fn pause(&self, is: bool) -> Time {
        let at = self.ledger.now().await.expect("the ledger answers");
        let action = if is { "pause" } else { "resume" };
        let audit = Audit {
            actor: "test".to_owned(),
            action: action.to_owned(),
            job: None,
            detail: "because".to_owned(),
            at,
        };
        let pause = Pause {
            lane: STREAM.to_owned(),
            reason: "because".to_owned(),
            by: "test".to_owned(),
            at,
        };
        let pause = is.then_some(&pause);
        let paused = self.ledger.pause(STREAM, pause, &audit).await;
        paused.expect("a lane can be paused");
        self.audited(None, action).await
    }

    async fn runs(&self, lane: &str) -> bool {
        let running = self.ledger.running(lane).await;
        !running.expect("the ledger answers").is_empty()
    }

    /// When the attempts began of the lane's jobs that have ended, in order.
    async fn begun(&self) -> Vec<Time> {
        let filter = Filter {
            lane: Some(STREAM.to_owned()),
            states: vec![State::Completed],
            limit: 10_000,
            ..Filter::default()
        };
        let jobs = self.ledger.jobs(&filter).await.expect("the ledger answers");
        let mut begun = Vec::new();
        for job in jobs {
            let attempts = self.ledger.attempts(job.id).await;
            let attempts = attempts.expect("the ledger answers");
            begun.extend(attempts.iter().map(|it| it.began_at));
        }
        begun.sort();
        begun
    }
}

/// A lane that is busy all the time is paused and goes on; some that wait in it are called off.
async fn pauses_and_cancels_of_waiting_jobs(case: &mut Case, host: &Host, daemon: &Daemon) {
    const JOBS: usize = 400;
    let mut envelopes = case.test_jobs(JOBS, &json!({"sleep_ms": 50}));
    for it in &mut envelopes {
        it["lane"] = STREAM.into();
    }
    let ids = accept_directly(&*case.ledger, &rules(host), &envelopes).await;
    let ids = ids.expect("the ledger takes them");
    let noticed = async |changes: usize| {
        wait::until("the change is noticed", ENDED, async || {
            let said = daemon.stderr();
            changes
                == said
                    .lines()
                    .filter(|it| it.contains("lanes paused"))
                    .count()
        })
        .await;
    };
    let (mut changes, mut cancelled) = (Vec::new(), Vec::new());
    for n in 0..TRIES {
        wait::until("the lane is busy", ENDED, async || case.runs(STREAM).await).await;
        let paused = case.pause(true).await;
        noticed(2 * n + 1).await;
        wait::until("what ran has ended", ENDED, async || {
            !case.runs(STREAM).await
        })
        .await;
        // the claim of the next one may be under way; the one after it waits
        let mut waiting = Vec::new();
        for id in &ids {
            if waiting.len() < 2 && case.one(*id).await.state == State::Ready {
                waiting.push(*id);
            }
        }
        let next = waiting.get(1).copied();
        let next = next.expect("enough jobs for all tries");
        let state = operate::cancel(&*case.ledger, next, &by()).await;
        assert_eq!(state.expect("it can be cancelled"), State::Cancelled);
        cancelled.push(next);
        changes.push((paused, case.pause(false).await));
        noticed(2 * n + 2).await;
    }
    let last = changes.last().expect("there were some").1;
    wait::until("the lane goes on", ENDED, async || {
        case.begun().await.last().is_some_and(|it| last < *it)
    })
    .await;
    let begun = case.begun().await;
    let late = |(paused, resumed): &(Time, Time)| {
        let late = begun.iter().rfind(|it| *it < resumed);
        late.map_or(chrono::Duration::zero(), |it| *it - *paused)
    };
    let idle = |(_, resumed): &(Time, Time)| {
        let first = begun.iter().find(|it| resumed <= *it);
        *first.expect("it went on") - *resumed
    };
    within_a_second("a pause", &changes.iter().map(late).collect::<Vec<_>>());
    within_a_second("a resume", &changes.iter().map(idle).collect::<Vec<_>>());
    for id in cancelled {
        let attempts = case.ledger.attempts(id).await;
        assert_eq!(attempts.expect("the ledger answers"), [], "{id}");
        assert_eq!(case.one(id).await.state, State::Cancelled);
    }
}

async fn cancels_of_running_jobs(case: &mut Case, host: &Host, payload: Value) {
    let mut took = Vec::new();
    for _ in 0..TRIES {
        let id = case.send_one(host, payload.clone()).await;
        case.until_state(id, State::Running).await;
        let state = operate::cancel(&*case.ledger, id, &by()).await;
        assert_eq!(state.expect("it can be cancelled"), State::Running);
        let asked = case.audited(Some(id), "cancel").await;
        case.until_state(id, State::Cancelled).await;
        let attempts = case.ledger.attempts(id).await;
        took.push(attempts.expect("the ledger answers")[0].ended_at - asked);
    }
    within_a_second(&format!("a cancel of {payload}"), &took);
}

async fn revives(case: &mut Case, host: &Host) {
    let payload = json!({"fail_times": 1, "class": "permanent"});
    let mut took = Vec::new();
    for _ in 0..TRIES {
        let id = case.send_one(host, payload.clone()).await;
        case.until_state(id, State::Dead).await;
        let revived = operate::revive(&*case.ledger, id, None, &by()).await;
        revived.expect("it can be revived");
        let asked = case.audited(Some(id), "revive").await;
        let attempts = async || {
            let attempts = case.ledger.attempts(id).await;
            attempts.expect("the ledger answers")
        };
        wait::until("it has run again", ENDED, async || {
            attempts().await.len() == 2
        })
        .await;
        took.push(attempts().await[1].began_at - asked);
    }
    within_a_second("a revive", &took);
}

async fn releases(case: &mut Case, host: &Host, quarantined: &[JobId]) {
    let mut took = Vec::new();
    for entry in quarantined {
        let mended = case.job("test.job", json!({})).to_string();
        let bytes = Some(mended.as_bytes());
        let rules = rules(host);
        let id = operate::release_quarantined(&*case.ledger, &rules, *entry, bytes, &by()).await;
        let id = id.expect("it can be accepted now");
        case.until_state(id, State::Completed).await;
        let attempts = case.ledger.attempts(id).await;
        let attempts = attempts.expect("the ledger answers");
        took.push(attempts[0].began_at - case.one(id).await.created_at);
    }
    within_a_second("a release from quarantine", &took);
}

async fn what_people_change_is_noticed(redis_is_away: bool) {
    let mut case = Case::new().await;
    case.stores.more = format!("[lanes.{STREAM}]\nconcurrency = 1\n");
    let host = case.host();
    let daemon = host.run();
    host.queue_in_use(&daemon).await;
    for n in 0..TRIES {
        let entry = format!("{n}: no envelope");
        case.redis.cli(&["RPUSH", "presswork:inbox", &entry]);
    }
    let quarantined = async || -> Vec<JobId> {
        let entries = case.ledger.quarantined(None, 100).await;
        let entries = entries.expect("the ledger answers");
        entries.iter().map(|it| it.id).collect()
    };
    wait::until("they are in quarantine", ENDED, async || {
        quarantined().await.len() == TRIES
    })
    .await;
    let quarantined = quarantined().await;
    if redis_is_away {
        case.redis.kill9();
        wait::until("dispatch goes on from the ledger", ENDED, async || {
            let told = host.get("/readyz").await;
            told.is_ok_and(|it| it.text.contains("\"usable\":false"))
        })
        .await;
    }
    pauses_and_cancels_of_waiting_jobs(&mut case, &host, &daemon).await;
    cancels_of_running_jobs(&mut case, &host, json!({"sleep_ms": 50_000})).await;
    let deaf = json!({"sleep_ms": 50_000, "ignore_cancel": true});
    cancels_of_running_jobs(&mut case, &host, deaf).await;
    revives(&mut case, &host).await;
    releases(&mut case, &host, &quarantined).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_change_is_noticed_within_a_second() {
    what_people_change_is_noticed(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_change_is_noticed_within_a_second_while_redis_is_away() {
    what_people_change_is_noticed(true).await;
}
