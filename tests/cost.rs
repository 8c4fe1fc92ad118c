//! The cost card: what 100 jobs cost in SQL statements and Redis commands, by path. A change that
//! makes a job dearer turns it red; `UPDATE_GOLDEN=1` writes what is true now.
//!
//! Loops are stepped by hand, so that polling doesn't count. Statements are counted in the server's
//! own log, commands by the server's own statistics.

mod kit;
#[path = "engine/probe.rs"]
#[allow(dead_code)]
mod probe;
#[path = "engine/rig.rs"]
mod rig;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use presswork::config::{Config, KindSettings, Lane};
use presswork::lifecycle::State;
use presswork::retry::Policy;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use probe::{World, kinds};
use rig::{Base, Rig};

const JOBS: usize = 100;
const LANE: &str = "default";

/// Of connections, of the look whether the server is the same, and of this test.
const MAINTENANCE: [&str; 9] = [
    "info",
    "command",
    "ping",
    "hello",
    "auth",
    "client",
    "subscribe",
    "config",
    "script",
];

/// What a path costs for 100 jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cost {
    /// Statements, BEGIN and COMMIT included.
    sql: u64,
    /// Commands that were sent: round trips.
    redis_sent: u64,
    /// Commands that scripts ran inside.
    redis_inside: u64,
}

impl Cost {
    fn since(self, before: Self) -> Self {
        Self {
            sql: self.sql - before.sql,
            redis_sent: self.redis_sent - before.redis_sent,
            redis_inside: self.redis_inside - before.redis_inside,
        }
    }
}

struct Bench {
    postgres: kit::postgres::Postgres,
    redis: kit::redis::Redis,
    base: Base,
}

impl Bench {
    async fn new() -> Self {
        let settings = [("log_statement", "all"), ("log_line_prefix", "<%a>")];
        let postgres = kit::postgres::Postgres::start_with(&settings);
        let redis = kit::redis::Redis::start();
        let base = Base::on(&postgres, &redis.url(), None).await;
        Self {
            postgres,
            redis,
            base,
        }
    }

    fn now(&self) -> Cost {
        let log = std::fs::read(self.postgres.log()).unwrap();
        let log = String::from_utf8_lossy(&log);
        let counts = |line: &&str| {
            line.starts_with("<presswork-")
                && (line.contains(" execute ") || line.contains(" statement: "))
        };
        let (mut sent, mut inside) = (0, 0);
        for line in self.redis.cli(&["INFO", "commandstats"]).lines() {
            let Some((name, calls)) = line
                .trim()
                .strip_prefix("cmdstat_")
                .and_then(|it| it.split_once(":calls="))
            else {
                continue;
            };
            let calls: u64 = calls.split(',').next().unwrap().parse().unwrap();
            match name {
                "evalsha" | "eval" | "publish" => sent += calls,
                name if MAINTENANCE.iter().any(|it| name.starts_with(it)) => {}
                _ => inside += calls,
            }
        }
        Cost {
            sql: log.lines().filter(counts).count() as u64,
            redis_sent: sent,
            redis_inside: inside,
        }
    }

    async fn of(&self, act: impl AsyncFnOnce()) -> Cost {
        let before = self.now();
        act().await;
        self.now().since(before)
    }
}

fn config(config: &mut Config) {
    config.lanes.insert(
        LANE.to_owned(),
        Lane {
            concurrency: Some(500),
            room: 500,
            ..Lane::default()
        },
    );
    let retry = Some(Policy {
        attempts_max: 3,
        base_ms: 100,
        cap_ms: 100,
    });
    config.kinds.insert(
        "test.job".to_owned(),
        KindSettings {
            retry,
            ..KindSettings::default()
        },
    );
}

async fn accepted(rig: &Rig, envelopes: &[Value]) {
    join_all(envelopes.iter().map(|it| rig.enqueue(it))).await;
}

/// From the ledger to the lane and through it: one attempt of each.
async fn attempted(rig: &Rig) {
    let mut count = 0;
    while count < JOBS {
        let step = rig.step(LANE).await;
        assert_ne!(step, 0, "{count} ran, the others don't");
        count += step;
    }
}

fn noops() -> Vec<Value> {
    (0..JOBS)
        .map(
            |_| json!({"kind": "test.job", "payload": {}, "key": uuid::Uuid::new_v4().to_string()}),
        )
        .collect()
}

async fn card() -> BTreeMap<&'static str, Cost> {
    let bench = Bench::new().await;
    let rig = Rig::new(&bench.base, kinds(), config).await;
    let world = World::new();
    // connections, prepared statements and scripts are paid for once
    accepted(&rig, &noops()).await;
    attempted(&rig).await;
    let mut card = BTreeMap::new();

    let jobs = noops();
    card.insert(
        "accepted one by one",
        bench.of(async || accepted(&rig, &jobs).await).await,
    );
    card.insert(
        "attempted and completed",
        bench.of(async || attempted(&rig).await).await,
    );

    for job in noops() {
        bench
            .redis
            .cli(&["RPUSH", "presswork:inbox", &job.to_string()]);
    }
    let inbox = bench.base.inbox.clone().unwrap();
    let moved = bench
        .of(async || {
            assert_eq!(
                rig.doors.tick(&*inbox, rig.shared.run_id(), 0, 500).await,
                Ok(JOBS)
            )
        })
        .await;
    card.insert("from the inbox", moved);
    attempted(&rig).await;

    let mut failing = noops();
    failing
        .iter_mut()
        .for_each(|it| it["payload"]["fail_times"] = 1.into());
    accepted(&rig, &failing).await;
    let retried = bench.of(async || attempted(&rig).await).await;
    card.insert("attempted and retried", retried);
    rig.advance(std::time::Duration::from_secs(1)).await;
    attempted(&rig).await;

    let effects: Vec<Value> = (0..JOBS).map(|n| world.job("keyed", n)).collect();
    accepted(&rig, &effects).await;
    card.insert(
        "attempted with an effect",
        bench.of(async || attempted(&rig).await).await,
    );
    assert_eq!(world.sends(), JOBS);

    let idle = bench
        .of(async || {
            rig.relay.tick().await;
            rig.dispatch(LANE).await;
            rig.control.tick().await.unwrap();
            rig.sweeper.reclaim().await.unwrap();
        })
        .await;
    card.insert("nothing to do, one round of the loops", idle);
    let counts = bench.base.ledger.counts().await.unwrap();
    assert!(
        counts.keys().all(|(_, state)| *state == State::Completed),
        "{counts:?}"
    );
    card
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cost.json")
}

/// What waits for an answer still joins this batch or the next, and a batch more is a statement, a
/// script and some twelve commands within it: so much is no change, one more for each of the 100
/// jobs is.
fn band(kept: u64, slack: u64) -> std::ops::RangeInclusive<u64> {
    let slack = kept / 10 + slack;
    kept.saturating_sub(slack)..=kept + slack
}

// on one thread what is ready together is written together, so that batches don't form by chance
#[tokio::test]
async fn a_job_costs_what_it_cost() {
    let card = card().await;
    let told = serde_json::to_string_pretty(&card).unwrap() + "\n";
    println!("{told}");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(golden().parent().unwrap()).unwrap();
        std::fs::write(golden(), told).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(golden())
        .expect("tests/golden/cost.json; UPDATE_GOLDEN=1 writes it");
    let kept: BTreeMap<String, Cost> = serde_json::from_str(&kept).unwrap();
    assert_eq!(kept.len(), card.len());
    for (path, now) in card {
        let was = kept[path];
        for (what, slack, was, now) in [
            ("SQL statements", 8, was.sql, now.sql),
            ("Redis commands", 8, was.redis_sent, now.redis_sent),
            (
                "commands within scripts",
                30,
                was.redis_inside,
                now.redis_inside,
            ),
        ] {
            let word = if was < now {
                "dearer"
            } else {
                "cheaper; write it down with UPDATE_GOLDEN=1"
            };
            assert!(
                band(was, slack).contains(&now),
                "100 jobs {path}: {now} {what}, were {was}: {word}"
            );
        }
    }
}
