//! `presswork bench`: how fast it is here, on private servers that it starts itself.
//!
//! The daemon, the servers and the producers are processes of their own; fsync is on; claims and
//! outcomes are in the ledger, and at the end every job must have its attempt there.

pub mod produce;
pub mod world;

use anyhow::Context as _;
use chrono::DateTime;
use serde::Serialize;

use super::cx::Cx;
use super::out::{CliError, Exit, Out};
use crate::job::Job;
use crate::ledger::Attempt;
use crate::lifecycle::State;
use produce::{Order, SENT, produce};
use world::{ACCEPTED, Cpu, SETTLED, World};

const AFTER: &str = "\
drain_per_s          no-op jobs a second, from ready to their settled outcome
cpu_s_per_10k        processor seconds of all processes for 10,000 jobs of the drain
pickup_ms_*          from a producer's RPUSH to the start of the attempt, at --rate jobs a second
waiting_per_s        jobs a second of 5,000 that wait 50 ms each
accept_per_s         envelopes a second, from the Redis inbox into the ledger
accept_http_per_s    one by one over 32 connections
accept_batch_per_s   100 in a request, over 8 connections
redis_bytes_per_job  what Redis keeps for an id in a full window
rss_mb_*             the daemon's resident memory, idle and with 10,000 jobs that run

With --embedded the inbox and its figures are left out: jobs come over HTTP.

Examples:
  presswork bench
  presswork bench --jobs 50000 --json
  presswork bench --embedded
  presswork bench --budgets 10           what it costs to count each job in ten budgets

Exit codes: 0 measured, 1 it couldn't be (no servers, or a job without its attempt), 2 asked wrongly";

/// Measure how fast it is here, on private servers
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// Jobs of the drain
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    jobs: u32,
    /// Jobs a second while the pickup is measured
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Seconds for which the pickup is measured
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// SQLite and a queue in memory, as where nothing is configured
    #[arg(long)]
    embedded: bool,
    /// Each job takes a permit under so many budgets, none of which is ever used up
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    budgets: u32,
    /// Produce instead, as this order says (what the measurement starts as a process of its own)
    #[arg(long, hide = true)]
    produce: Option<String>,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Figures {
    jobs: u32,
    budgets: u32,
    drain_per_s: f64,
    cpu_s_per_10k: f64,
    cpu_s_per_10k_by: Cpu,
    pickup_ms_p50: f64,
    pickup_ms_p99: f64,
    pickup_jobs: usize,
    waiting_per_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    accept_per_s: Option<f64>,
    accept_http_per_s: f64,
    accept_batch_per_s: f64,
    /// With the producers', of the batches.
    accept_cpu_s_per_10k: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_bytes_per_job: Option<f64>,
    rss_mb_idle: f64,
    rss_mb_10k_running: f64,
    attempts_checked: usize,
    ledger: &'static str,
    queue: &'static str,
}

/// Runs it.
///
/// # Errors
/// When the servers can't be started, or a job has no attempt.
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let failed = |e: anyhow::Error| CliError::new(Exit::Failed, format!("{e:#}"));
    if let Some(order) = &args.produce {
        let order: Order = serde_json::from_str(order).map_err(|e| failed(e.into()))?;
        let took = produce(order).await.map_err(failed)?;
        return cx
            .out
            .line(&serde_json::to_string(&took).unwrap_or_default());
    }
    if !cx.out.json {
        let what = if args.embedded {
            ""
        } else {
            "private servers, "
        };
        cx.out
            .line(&format!("starting {what}a daemon and producers ..."))?;
    }
    let figures = measure(&args).await.map_err(failed)?;
    if cx.out.json {
        let value = serde_json::to_value(&figures).unwrap_or_default();
        return cx.out.json_line(&value);
    }
    told(&cx.out, &figures, &args)
}

/// The figures for people.
fn told(out: &Out, it: &Figures, args: &Args) -> Result<(), CliError> {
    let line = |name: &str, value: f64, digits: usize, note: &str| {
        let line = format!("{name:<20} {value:>10.digits$}   {note}");
        out.line(line.trim_end())
    };
    let by = &it.cpu_s_per_10k_by;
    let split = format!(
        "(daemon {:.2}, PostgreSQL {:.2}, Redis {:.2})",
        by.daemon, by.postgres, by.redis
    );
    let picked = format!("({} jobs at {} a second)", it.pickup_jobs, args.rate);
    line(
        "drain_per_s",
        it.drain_per_s,
        0,
        &format!("({} no-op jobs)", it.jobs),
    )?;
    line("cpu_s_per_10k", it.cpu_s_per_10k, 2, &split)?;
    line("pickup_ms_p50", it.pickup_ms_p50, 1, &picked)?;
    line("pickup_ms_p99", it.pickup_ms_p99, 1, "")?;
    line(
        "waiting_per_s",
        it.waiting_per_s,
        0,
        "(5,000 jobs of 50 ms)",
    )?;
    if let Some(accepted) = it.accept_per_s {
        line("accept_per_s", accepted, 0, "(Redis inbox)")?;
    }
    line(
        "accept_http_per_s",
        it.accept_http_per_s,
        0,
        "(one by one, 32 connections)",
    )?;
    line(
        "accept_batch_per_s",
        it.accept_batch_per_s,
        0,
        "(100 a request, 8 connections)",
    )?;
    line(
        "accept_cpu_s_per_10k",
        it.accept_cpu_s_per_10k,
        2,
        "(of the batches, producers included)",
    )?;
    if let Some(bytes) = it.redis_bytes_per_job {
        line("redis_bytes_per_job", bytes, 1, "")?;
    }
    line("rss_mb_idle", it.rss_mb_idle, 1, "")?;
    line("rss_mb_10k_running", it.rss_mb_10k_running, 1, "")?;
    out.line(&format!(
        "{} attempts checked: every job has its own",
        it.attempts_checked
    ))
}

/// Jobs that are accepted one by one, over so many connections.
const SINGLE: (u32, u32) = (4_000, 32);
/// Jobs that are accepted in batches, of so many each, over so many connections.
const BATCHES: (u32, u32, u32) = (20_000, 100, 8);
/// Jobs that wait, and for how long in milliseconds.
const WAITING: (u32, u64) = (5_000, 50);
/// Jobs that run while the memory is looked at, for longer than that takes.
const RUNNING: (u32, u64) = (10_000, 3_600_000);
/// Jobs that are run first, so that caches and statistics aren't part of the figures.
const WARM_UP: u32 = 2_000;

fn done(states: &std::collections::BTreeMap<State, u64>) -> bool {
    states.iter().all(|(it, n)| it.is_terminal() || *n == 0)
}

/// Orders, the usual ones.
struct Orders {
    inbox: String,
    api: String,
    counted: bool,
}

impl Orders {
    fn batches(&self, count: u32, sleep_ms: u64) -> Order {
        Order {
            to: self.api.clone(),
            count,
            rate: 0,
            connections: BATCHES.2,
            batch: BATCHES.1,
            sleep_ms,
            counted: self.counted,
        }
    }

    fn single(&self, count: u32) -> Order {
        Order {
            connections: SINGLE.1,
            batch: 1,
            ..self.batches(count, 0)
        }
    }

    /// By the quickest door there is.
    fn quick(&self, count: u32, rate: u32) -> Order {
        let base = match rate {
            0 => self.batches(count, 0),
            _ => self.single(count),
        };
        Order {
            to: self.inbox.clone(),
            rate,
            ..base
        }
    }
}

async fn measure(args: &Args) -> anyhow::Result<Figures> {
    let world = World::start(args.embedded, args.budgets).await?;
    let orders = Orders {
        inbox: world.inbox(),
        api: world.api(),
        counted: 0 < args.budgets,
    };
    let rss_mb_idle = world.rss_mb()?;
    world.produce(&orders.quick(WARM_UP, 0)).await?;
    world.until_counted(SETTLED, u64::from(WARM_UP)).await?;
    world.until("warm-up", done).await?;
    let mut checked = 0;

    // accepted while nothing runs, drained while nothing is accepted
    world.pause(true).await?;
    let since = world.now().await?;
    let jobs = u64::from(args.jobs);
    let accepted = world.counted(ACCEPTED).await?;
    let began = std::time::Instant::now();
    world.produce(&orders.quick(args.jobs, 0)).await?;
    world.until_counted(ACCEPTED, accepted + jobs).await?;
    let accept_per_s = f64::from(args.jobs) / began.elapsed().as_secs_f64();
    let redis_bytes_per_job = world.redis_bytes_per_job().await?;
    let settled = world.counted(SETTLED).await?;
    let cpu = world.cpu();
    world.pause(false).await?;
    world.until_counted(SETTLED, settled + jobs).await?;
    let by = world.cpu().per_10k(&cpu, args.jobs);
    world.until("drain", done).await?;
    let drained = world.finished(since, args.jobs).await?;
    let drain_per_s = rate(&drained)?;
    checked += drained.len();

    let since = world.now().await?;
    let count = args.rate * args.seconds;
    let settled = world.counted(SETTLED).await?;
    world.produce(&orders.quick(count, args.rate)).await?;
    // what is still in the inbox no ledger knows of
    world
        .until_counted(SETTLED, settled + u64::from(count))
        .await?;
    world.until("pickup", done).await?;
    let picked = world.finished(since, count).await?;
    checked += picked.len();
    let mut waits: Vec<f64> = picked
        .iter()
        .filter_map(|(job, attempt)| wait(job, attempt))
        .collect();
    waits.sort_by(f64::total_cmp);

    world.pause(true).await?;
    let since = world.now().await?;
    let single = world.produce(&orders.single(SINGLE.0)).await?;
    let cpu = world.cpu();
    let batches = world.produce(&orders.batches(BATCHES.0, 0)).await?;
    let accepting = world.cpu().sum() - cpu.sum() + batches.cpu_s;
    world.pause(false).await?;
    world.until("the accepted", done).await?;
    let accepted = world.finished(since, SINGLE.0 + BATCHES.0).await?;
    checked += accepted.len();

    world.pause(true).await?;
    let since = world.now().await?;
    world.produce(&orders.batches(WAITING.0, WAITING.1)).await?;
    world.pause(false).await?;
    world.until("waiting", done).await?;
    let waited = world.finished(since, WAITING.0).await?;
    checked += waited.len();

    world.produce(&orders.batches(RUNNING.0, RUNNING.1)).await?;
    let run = |states: &std::collections::BTreeMap<State, u64>| {
        u64::from(RUNNING.0) <= states.get(&State::Running).copied().unwrap_or(0)
    };
    world.until("running", run).await?;
    let rss_mb_10k_running = world.rss_mb()?;

    Ok(Figures {
        jobs: args.jobs,
        budgets: args.budgets,
        drain_per_s,
        cpu_s_per_10k: by.sum(),
        cpu_s_per_10k_by: by,
        pickup_ms_p50: quantile(&waits, 0.50),
        pickup_ms_p99: quantile(&waits, 0.99),
        pickup_jobs: waits.len(),
        waiting_per_s: rate(&waited)?,
        accept_per_s: (!args.embedded).then(|| accept_per_s.round()),
        accept_http_per_s: (f64::from(SINGLE.0) / single.seconds).round(),
        accept_batch_per_s: (f64::from(BATCHES.0) / batches.seconds).round(),
        accept_cpu_s_per_10k: accepting / f64::from(BATCHES.0) * 10_000.0,
        redis_bytes_per_job,
        rss_mb_idle,
        rss_mb_10k_running,
        attempts_checked: checked,
        ledger: world.ledger_name(),
        queue: world.queue_name(),
    })
}

/// Jobs a second, from the first start to the last end.
fn rate(jobs: &[(Job, Attempt)]) -> anyhow::Result<f64> {
    let began = jobs.iter().map(|(_, it)| it.began_at).min();
    let ended = jobs.iter().map(|(_, it)| it.ended_at).max();
    let took = ended.context("no attempt")? - began.context("no attempt")?;
    let seconds = took.num_microseconds().unwrap_or(i64::MAX).max(1) as f64 / 1e6;
    Ok((jobs.len() as f64 / seconds).round())
}

/// Milliseconds from when the producer sent a job to the start of its attempt.
fn wait(job: &Job, attempt: &Attempt) -> Option<f64> {
    let sent: i64 = job.labels.get(SENT)?.parse().ok()?;
    let sent = DateTime::from_timestamp_micros(sent)?;
    Some((attempt.began_at - sent).num_microseconds()? as f64 / 1e3)
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = ((sorted.len() as f64 * q).ceil() as usize).clamp(1, sorted.len().max(1));
    sorted.get(at - 1).copied().unwrap_or(f64::NAN)
}
