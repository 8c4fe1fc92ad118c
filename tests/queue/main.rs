//! The queue and the inbox keep their contracts: in memory, and in a real Redis.

#[path = "../kit/mod.rs"]
mod kit;

mod acl;
mod contract;
mod inbox;
mod model;
mod outage;

use std::sync::Arc;

use presswork::fair::STEP;
use presswork::job::{JobId, Priority};
use presswork::ledger::Hint;
use presswork::queue::QueueError;
use presswork::queue::redis::{RedisOptions, RedisQueue};
use uuid::Uuid;

/// The generation of most tests.
const NOW: i64 = 7;
const LANE: &str = "posts";

/// A queue in the Redis at `url`, with its usual keys.
fn open(url: &str) -> RedisQueue {
    let options = RedisOptions {
        url: url.into(),
        prefix: None,
    };
    RedisQueue::open(&options).expect("good options")
}

/// A queue in the Redis that all tests share, with keys of its own.
fn open_shared() -> RedisQueue {
    let options = RedisOptions {
        url: kit::redis::Redis::shared().url().into(),
        prefix: Some(format!("test-{}", Uuid::new_v4())),
    };
    RedisQueue::open(&options).expect("good options")
}

/// A job's id that is easy to read in a failed test.
fn job(n: u128) -> JobId {
    JobId(Uuid::from_u128(n))
}

fn jobs(range: impl IntoIterator<Item = u128>) -> Vec<JobId> {
    range.into_iter().map(job).collect()
}

fn hint(n: u128, priority: Priority, tenant: &str) -> Hint {
    Hint {
        id: job(n),
        priority,
        tenant: Arc::from(tenant),
        account: Arc::from(""),
        lifted: false,
        step: STEP,
    }
}

/// Hints of one priority and tenant.
fn hints(range: impl IntoIterator<Item = u128>, priority: Priority, tenant: &str) -> Vec<Hint> {
    let range = range.into_iter();
    range.map(|n| hint(n, priority, tenant)).collect()
}

fn is_stale<T>(answer: Result<T, QueueError>) -> bool {
    matches!(answer, Err(QueueError::Stale))
}

/// Why it is away.
fn away<T: std::fmt::Debug>(answer: Result<T, QueueError>) -> String {
    match answer {
        Err(QueueError::Away(why)) => why,
        other => panic!("should be away, is {other:?}"),
    }
}

/// Fills a Redis until it refuses to take more.
fn fill_up(server: &kit::redis::Redis) {
    server.cli(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    for n in 0..1_000 {
        let mut command = redis::cmd("SETRANGE");
        command.arg("filler").arg(n * 50_000).arg("x");
        if let Err(error) = command.exec(&mut connection) {
            assert_eq!(error.code(), Some("OOM"), "{error}");
            return;
        }
    }
    panic!("it never gets full");
}
