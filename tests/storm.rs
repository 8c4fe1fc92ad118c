//! The storm: 2,000 jobs of seven kinds by three doors, two hosts, twenty kills at random, Redis killed and wiped,
//! Postgres killed; and a sandbox that misbehaves. Nothing lost, nothing settled twice, each effect
//! at most once by the sandbox's own log.
//!
//! `PRESSWORK_SEED` repeats the order of the blows (not their moments).

mod kit;
#[path = "storm/checker.rs"]
mod checker;
#[path = "storm/world.rs"]
mod world;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use checker::{Ends, Found, Wanted, check};
use kit::daemon::{Daemon, Home};
use kit::postgres::Postgres;
use kit::redis::Redis;
use kit::wait;
use presswork::ledger::Ledger;
use presswork::lifecycle::CRASHES_SUSPECT;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use sqlx::PgPool;
use world::{Host, Outside, READY, Stores, accept_directly, ended, envelope, rules};

const JOBS: usize = 2_000;
const KILLS: usize = 20;
/// How long one step may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);
/// Jobs that a producer brings at once.
const CHUNK: usize = 20;
/// What the sandbox is asked to do to some of the sends; after each a careful client still succeeds.
const FAULTS: [&str; 9] = [
    "act_500",
    "act_503",
    "act_reset",
    "reset",
    "503",
    "429 retry_after=1",
    "act_truncate",
    "act_lie",
    "act_late delay_ms=300",
];

/// What a blow hits.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Blow {
    /// One host, and perhaps the other at the same time.
    Kill(usize, bool),
    RedisKilled,
    RedisWiped,
    PostgresKilled,
}

fn seed() -> u64 {
    match std::env::var("PRESSWORK_SEED") {
        Ok(text) => text.parse().expect("PRESSWORK_SEED is a number"),
        Err(_) => rand::random::<u32>().into(),
    }
}

/// The jobs of a seed.
fn jobs(rng: &mut StdRng, page: &str) -> Vec<(Wanted, Value)> {
    let job = |n: usize| {
        let drawn = rng.random_range(0..100);
        let fault = match rng.random_range(0..10) {
            0 => FAULTS[rng.random_range(0..FAULTS.len())],
            _ => "",
        };
        let plain = json!({"sleep_ms": rng.random_range(0..60)});
        match drawn {
            // long enough to be hit more than once
            0 => envelope(n, "test.job", json!({"sleep_ms": 2_000}), ""),
            1..45 => envelope(n, "test.job", plain, ""),
            45..53 => envelope(n, "test.job", json!({"fail_times": 1 + n % 2}), ""),
            53..56 => envelope(n, "test.job", json!({"snooze_ms": 200}), ""),
            56..58 => envelope(n, "test.job", json!({"panic_times": 1}), ""),
            58..60 => {
                let fails = json!({"fail_times": 99, "class": "permanent", "code": "meant"});
                let (mut wanted, envelope) = envelope(n, "test.job", fails, "");
                wanted.ends = Ends::Dead("meant");
                (wanted, envelope)
            }
            60..70 => envelope(n, "post.mastodon", json!({}), fault),
            70..80 => envelope(n, "post.bluesky", json!({}), fault),
            80..84 => envelope(n, "post.x", json!({}), fault),
            84..88 => envelope(n, "post.instagram", json!({}), fault),
            88..92 => envelope(n, "upload.object", json!({"url": page}), ""),
            _ => envelope(n, "generate.text", json!({}), fault),
        }
    };
    (0..JOBS).map(job).collect()
}

/// When each blow falls: at so many jobs that have ended.
fn blows(rng: &mut StdRng) -> Vec<(usize, Blow)> {
    let mut blows: Vec<(usize, Blow)> = (0..KILLS)
        .map(|_| {
            let at = rng.random_range(20..JOBS * 19 / 20);
            let both = rng.random_range(0..5) == 0;
            (at, Blow::Kill(rng.random_range(0..2), both))
        })
        .collect();
    blows.push((JOBS / 4, Blow::RedisKilled));
    blows.push((JOBS / 2, Blow::RedisWiped));
    blows.push((JOBS * 3 / 4, Blow::PostgresKilled));
    blows.sort_by_key(|it| it.0);
    blows
}

/// What the producers and the nemesis share.
struct Storm {
    redis: Redis,
    postgres: Postgres,
    ledger: Arc<dyn Ledger>,
    pool: PgPool,
    hosts: [Host; 2],
    /// Jobs that some door has acknowledged.
    brought: AtomicUsize,
    /// The first half of the inbox's jobs has been pushed.
    half_pushed: AtomicBool,
    /// The wipe is over: the second half may be pushed.
    wiped: AtomicBool,
}

impl Storm {
    /// Jobs that have ended, or wait for a person.
    async fn count_ended(&self) -> usize {
        let sql = "SELECT (SELECT count(*) FROM presswork.finished_jobs)
                        + (SELECT count(*) FROM presswork.jobs WHERE state IN ('dead', 'unresolved'))";
        let counted: sqlx::Result<i64> = sqlx::query_scalar(sql).fetch_one(&self.pool).await;
        counted
            .ok()
            .and_then(|it| usize::try_from(it).ok())
            .unwrap_or(0)
    }

    async fn until_ended(&self, count: usize) {
        let what = || format!("{count} jobs have ended; brought: {:?}", self.brought);
        wait::until_or(what, PATIENCE, async || count <= self.count_ended().await).await;
    }

    /// Waits until no job is there that was the one suspect of a daemon that died. So a kill by the
    /// storm adds one such death to a job, never the last that buries it: of those, two more would have
    /// to come from leases that ran out on daemons that nobody killed.
    async fn until_calm(&self) {
        let sql = "SELECT count(*) FROM presswork.jobs WHERE $1 < crashes AND state <> 'dead'";
        let none = async || {
            let counted = sqlx::query_scalar(sql).bind(i64::from(CRASHES_SUSPECT));
            let counted: sqlx::Result<i64> = counted.fetch_one(&self.pool).await;
            counted.is_ok_and(|it| it == 0)
        };
        wait::until("what died alone has ended", PATIENCE, none).await;
    }

    async fn push(&self, chunk: &[(Wanted, Value)]) -> redis::RedisResult<()> {
        let client = redis::Client::open(self.redis.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut push = redis::cmd("RPUSH");
        push.arg("presswork:inbox");
        for (_, envelope) in chunk {
            push.arg(envelope.to_string());
        }
        push.query_async(&mut connection).await
    }

    /// By the Redis inbox. What was pushed before the wipe has to be in the ledger by then: a list
    /// that was wiped is gone.
    async fn by_inbox(&self, jobs: &[(Wanted, Value)]) {
        let (first, second) = jobs.split_at(jobs.len() / 2);
        for half in [first, second] {
            for chunk in half.chunks(CHUNK) {
                // an answer that was lost is asked for again: the keys are the same
                let pushed = async || self.push(chunk).await.is_ok();
                wait::until("Redis takes a push", PATIENCE, pushed).await;
                self.brought.fetch_add(chunk.len(), Ordering::SeqCst);
            }
            self.half_pushed.store(true, Ordering::SeqCst);
            let wiped = async || self.wiped.load(Ordering::SeqCst);
            wait::until("the wipe is over", PATIENCE, wiped).await;
        }
    }

    async fn by_http(&self, jobs: &[(Wanted, Value)]) {
        for (n, chunk) in jobs.chunks(CHUNK).enumerate() {
            let body: Vec<&Value> = chunk.iter().map(|it| &it.1).collect();
            let body = json!(body).to_string();
            let turn = Cell::new(n);
            wait::until("a host takes jobs", PATIENCE, async || {
                turn.set(turn.get() + 1);
                let Ok(answer) = self.hosts[turn.get() % 2].post(body.clone()).await else {
                    return false;
                };
                let told: Result<Vec<Value>, _> = serde_json::from_str(&answer.text);
                let taken = |it: &Value| matches!(it["status"].as_u64(), Some(200 | 201));
                told.is_ok_and(|it| it.len() == chunk.len() && it.iter().all(taken))
            })
            .await;
            self.brought.fetch_add(chunk.len(), Ordering::SeqCst);
        }
    }

    /// As the command line does: into the ledger, with no daemon between.
    async fn by_ledger(&self, jobs: &[(Wanted, Value)]) {
        let rules = rules(&self.hosts[0]);
        for chunk in jobs.chunks(CHUNK) {
            let chunk: Vec<Value> = chunk.iter().map(|it| it.1.clone()).collect();
            wait::until("the ledger takes jobs", PATIENCE, async || {
                accept_directly(&*self.ledger, &rules, &chunk).await.is_ok()
            })
            .await;
            self.brought.fetch_add(chunk.len(), Ordering::SeqCst);
        }
    }

    /// Nothing is in the inbox, nor on its way from it to the ledger.
    fn inbox_is_empty(&self) -> bool {
        let left = self.redis.cli(&["KEYS", "*presswork:inbox*"]);
        self.half_pushed.load(Ordering::SeqCst) && left.trim().is_empty()
    }

    async fn strike(&self, blow: Blow, daemons: &mut [Daemon; 2]) {
        match blow {
            Blow::Kill(host, both) => {
                let hit = match both {
                    true => vec![0, 1],
                    false => vec![host],
                };
                self.until_calm().await;
                for it in &hit {
                    daemons[*it].kill9();
                }
                for it in hit {
                    daemons[it] = self.hosts[it].run();
                    daemons[it].wait_ready(self.hosts[it].api, READY).await;
                }
            }
            Blow::RedisKilled => {
                self.redis.kill9();
                let more = self.count_ended().await + 20;
                self.until_ended(more).await;
                self.redis.restart();
            }
            Blow::RedisWiped => {
                let empty = async || self.inbox_is_empty();
                wait::until("the inbox is empty", PATIENCE, empty).await;
                self.redis.flushall();
                self.wiped.store(true, Ordering::SeqCst);
            }
            Blow::PostgresKilled => {
                self.postgres.kill9();
                self.postgres.restart();
            }
        }
    }
}

/// A sandbox in a process of its own; where it listens.
async fn sandbox(home: &Home) -> (Daemon, String) {
    let args = [
        "--json",
        "sandbox",
        "--listen",
        "127.0.0.1:0",
        "--dir",
        "outside",
    ];
    let process = home.start(&args);
    let url = || {
        let said: Value = serde_json::from_str(process.stdout().lines().next()?).ok()?;
        Some(said["url"].as_str()?.to_owned())
    };
    wait::until("the sandbox listens", READY, async || url().is_some()).await;
    let url = url().expect("it has just been seen");
    (process, url)
}

fn tell(seed: u64, found: &Found, began: Instant, kinds: &BTreeMap<&str, usize>) {
    println!(
        "storm: seed {seed}, {JOBS} jobs {kinds:?}, {KILLS} kills, {:.0?}\n{found:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_jobs_survive_twenty_kills_and_three_outages() {
    let seed = seed();
    println!("storm: PRESSWORK_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let outside_home = Home::new("");
    let (_outside, url) = sandbox(&outside_home).await;
    let jobs = jobs(&mut rng, &format!("{url}/"));
    let blows = blows(&mut rng);
    let (redis, postgres) = (Redis::start_durable(), Postgres::start());
    let database = postgres.create_database().await;
    let mut stores = Stores::new(&database, &redis.url());
    // a killed daemon's successor takes its jobs back at once; a lease that runs out on one that lives
    // would be a death that nobody ordered
    stores.lease_s = 10;
    let at = url.trim_start_matches("http://").trim_end_matches('/');
    stores.more = format!(
        "[lanes.default]\nconcurrency = 32\n\
         [kinds.\"generate.text\"]\nlane = \"generate\"\nresend_times = 4\n\
         [kinds.\"post.x\"]\nlook_after_ms = 200\nlook_for_s = 20\n\
         [kinds.\"post.instagram\"]\nlook_after_ms = 200\n\
         [media]\nfolder = \"{}\"\nfetch_http = true\nfetch_allow = \"{at}\"\n",
        // what one host has fetched the other may send
        outside_home.path().join("media").display()
    );
    let storm = Storm {
        ledger: stores.ledger().await,
        pool: PgPool::connect_lazy(&database).expect("a URL of our own"),
        hosts: [Host::new(&stores, &url), Host::new(&stores, &url)],
        redis,
        postgres,
        brought: AtomicUsize::new(0),
        half_pushed: AtomicBool::new(false),
        wiped: AtomicBool::new(false),
    };
    let began = Instant::now();
    let mut daemons = [storm.hosts[0].run(), storm.hosts[1].run()];
    for (daemon, host) in daemons.iter().zip(&storm.hosts) {
        daemon.wait_ready(host.api, READY).await;
    }
    let third = JOBS / 3;
    let nemesis = async {
        for (at, blow) in blows {
            storm.until_ended(at).await;
            let before = began.elapsed();
            storm.strike(blow, &mut daemons).await;
            println!(
                "{before:6.1?}: {blow:?} at {at} ended, {:.1?}",
                began.elapsed() - before
            );
        }
    };
    tokio::join!(
        storm.by_inbox(&jobs[..third]),
        storm.by_http(&jobs[third..2 * third]),
        storm.by_ledger(&jobs[2 * third..]),
        nemesis,
    );
    ended(&*storm.ledger, JOBS, PATIENCE).await;
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for (wanted, _) in &jobs {
        *kinds.entry(wanted.kind).or_default() += 1;
    }
    let wanted: Vec<Wanted> = jobs.into_iter().map(|it| it.0).collect();
    let found = check(&*storm.ledger, &wanted, &Outside::at(&url).acts().await).await;
    tell(seed, &found, began, &kinds);
    // no job here kills its daemon, and no storm of kills makes one look as if it did
    assert_eq!(found.poisoned, 0, "{found:?}");
    // a blow that hits nothing that runs is no blow
    assert!(0 < found.reclaimed, "{found:?}");
}
