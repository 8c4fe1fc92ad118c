//! The producers of the bench, in a process of their own: they push to the inbox or post to the API, as
//! fast as it goes or at a rate, and say what it took.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::prove::talk::Line;
use crate::queue::redis::{RedisInbox, RedisOptions, RedisQueue};
use crate::servers::cpu_seconds;

/// The label that holds when a producer sent its job, in microseconds since 1970.
pub const SENT: &str = "sent_us";

/// The operation that jobs take a permit for.
pub const OP: &str = "bench.call";

/// Envelopes of one `RPUSH`.
const PUSHED: u32 = 500;
/// How long a door that is full or away is tried again.
const PATIENCE: Duration = Duration::from_secs(60);

/// What producers shall do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Where: `redis://...`, or the API's `ADDRESS:PORT`.
    pub to: String,
    /// So many jobs.
    pub count: u32,
    /// Jobs a second; 0: as fast as it goes.
    pub rate: u32,
    /// Connections to the API.
    pub connections: u32,
    /// Envelopes in one request to the API.
    pub batch: u32,
    /// How long each job waits, in milliseconds.
    pub sleep_ms: u64,
    /// Each job takes a permit, which budgets count.
    pub counted: bool,
}

/// What it took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Took {
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Processor seconds of the producers' process.
    pub cpu_s: f64,
}

/// Produces; all of it was acknowledged when it returns.
///
/// # Errors
/// When a door doesn't take a job.
pub async fn produce(order: Order) -> anyhow::Result<Took> {
    let before = cpu_seconds(std::process::id());
    let began = Instant::now();
    if order.to.contains("://") {
        let url = order.to.clone().into();
        let queue = RedisQueue::open(&RedisOptions { url, prefix: None })?;
        push(&queue.inbox(), &order, began).await?;
    } else {
        post(&order, began).await?;
    }
    Ok(Took {
        seconds: began.elapsed().as_secs_f64(),
        cpu_s: cpu_seconds(std::process::id()) - before,
    })
}

fn envelope(order: &Order) -> String {
    let sent = Clock::System.now().timestamp_micros();
    let payload = match (order.sleep_ms, order.counted) {
        (0, false) => "{}".to_owned(),
        (ms, false) => format!(r#"{{"sleep_ms":{ms}}}"#),
        (ms, true) => format!(r#"{{"sleep_ms":{ms},"op":"{OP}"}}"#),
    };
    format!(r#"{{"kind":"test.job","payload":{payload},"labels":{{"{SENT}":"{sent}"}}}}"#)
}

/// Waits until job `n` is due.
async fn due(order: &Order, began: Instant, n: u32) {
    if 0 < order.rate {
        let after = Duration::from_secs_f64(f64::from(n) / f64::from(order.rate));
        tokio::time::sleep_until((began + after).into()).await;
    }
}

async fn push(inbox: &RedisInbox, order: &Order, began: Instant) -> anyhow::Result<()> {
    let mut sent = 0;
    while sent < order.count {
        due(order, began, sent).await;
        let most = if order.rate == 0 { PUSHED } else { 1 };
        let batch = most.min(order.count - sent);
        let envelopes: Vec<Vec<u8>> = (0..batch).map(|_| envelope(order).into_bytes()).collect();
        inbox.push(&envelopes).await?;
        sent += batch;
    }
    Ok(())
}

/// All connections take the next jobs of one count, so that none waits for a slow one.
async fn post(order: &Order, began: Instant) -> anyhow::Result<()> {
    let to: SocketAddr = order.to.parse().context("the API's address")?;
    let order = Arc::new(order.clone());
    let next = Arc::new(AtomicU32::new(0));
    let mut lines = tokio::task::JoinSet::new();
    for _ in 0..order.connections.max(1) {
        let (order, next) = (order.clone(), next.clone());
        lines.spawn(async move {
            let mut line = Line::open(to).await?;
            loop {
                let first = next.fetch_add(order.batch, Ordering::SeqCst);
                if order.count <= first {
                    return Ok(());
                }
                due(&order, began, first).await;
                one(&mut line, &order, order.batch.min(order.count - first)).await?;
            }
        });
    }
    while let Some(done) = lines.join_next().await {
        let done: anyhow::Result<()> = done?;
        done?;
    }
    Ok(())
}

/// One request, with one envelope or an array of them.
async fn one(line: &mut Line, order: &Order, batch: u32) -> anyhow::Result<()> {
    let body = match order.batch {
        1 => envelope(order),
        _ => {
            let all: Vec<String> = (0..batch).map(|_| envelope(order)).collect();
            format!("[{}]", all.join(","))
        }
    };
    let until = Instant::now() + PATIENCE;
    loop {
        let (status, said) = line.ask("POST", "/v1/jobs", body.as_bytes()).await?;
        match (status, order.batch) {
            (201, 1) => return Ok(()),
            (207, _) => {
                let taken = said.matches(r#""status":201"#).count();
                ensure!(
                    taken == batch as usize,
                    "of {batch} jobs {taken} were taken"
                );
                return Ok(());
            }
            (429 | 503, _) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            _ => bail!("the API says {status}: {said}"),
        }
    }
}
