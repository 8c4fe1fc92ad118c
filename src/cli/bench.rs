//! `presswork bench`: how fast it is here, on private servers that it starts itself.
//!
//! The daemon, the servers and the producers are processes of their own; fsync is on; claims and
//! outcomes are in the ledger, and at the end every job must have its attempt there.

use std::io::BufRead as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use chrono::DateTime;
use futures_util::StreamExt as _;
use serde::Serialize;

use super::cx::Cx;
use super::out::{CliError, Exit};
use crate::clock::{Clock, Time};
use crate::config::Config;
use crate::job::Job;
use crate::ledger::{Attempt, Audit, Filter, Ledger, Pause};
use crate::lifecycle::State;
use crate::queue::redis::{RedisOptions, RedisQueue};
use crate::servers::process::{Folder, Process};
use crate::servers::{self, Programs, Server, cpu_seconds};
use crate::stores::{self, Role};

const AFTER: &str = "\
drain_per_s       no-op jobs a second, from ready to their settled outcome
accept_per_s      envelopes a second, from the Redis inbox into the ledger
pickup_ms_*       from a producer's RPUSH to the start of the attempt, at --rate jobs a second
cpu_s_per_10k     processor seconds of all processes for 10,000 jobs of the drain, accepting included

Examples:
  presswork bench
  presswork bench --jobs 50000 --json

Exit codes: 0 measured, 1 it couldn't be (no servers, or a job without its attempt), 2 asked wrongly";

/// Measure how fast it is here, on private servers
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// Jobs of the drain
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    jobs: u32,
    /// Jobs a second while the pickup is measured
    #[arg(long, value_name = "N", default_value_t = 200)]
    rate: u32,
    /// Seconds for which the pickup is measured
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    seconds: u32,
    /// Produce instead: URL COUNT RATE (what the measurement starts as a process of its own)
    #[arg(long, hide = true, num_args = 3)]
    produce: Option<Vec<String>>,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Figures {
    jobs: u32,
    accept_per_s: f64,
    drain_per_s: f64,
    pickup_ms_p50: f64,
    pickup_ms_p99: f64,
    pickup_jobs: usize,
    cpu_s_per_10k: f64,
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
    if let Some(produce) = &args.produce {
        return produced(produce).await.map_err(failed);
    }
    if !cx.out.json {
        cx.out
            .line("starting private servers, a daemon and producers ...")?;
    }
    let figures = measure(&args).await.map_err(failed)?;
    if cx.out.json {
        let value = serde_json::to_value(&figures).unwrap_or_default();
        return cx.out.json_line(&value);
    }
    cx.out.line(&format!(
        "drain_per_s    {:>10.0}   ({} no-op jobs)",
        figures.drain_per_s, figures.jobs
    ))?;
    cx.out
        .line(&format!("accept_per_s   {:>10.0}", figures.accept_per_s))?;
    cx.out.line(&format!(
        "pickup_ms_p50  {:>10.1}   ({} jobs at {} a second)",
        figures.pickup_ms_p50, figures.pickup_jobs, args.rate
    ))?;
    cx.out
        .line(&format!("pickup_ms_p99  {:>10.1}", figures.pickup_ms_p99))?;
    cx.out.line(&format!(
        "cpu_s_per_10k  {:>10.2}   (all processes)",
        figures.cpu_s_per_10k
    ))?;
    cx.out.line(&format!(
        "{} attempts checked: every job has its own",
        figures.attempts_checked
    ))?;
    Ok(())
}

struct Bench {
    // in the order in which they end: the daemon before its servers
    daemon: Process,
    ledger: Arc<dyn Ledger>,
    postgres: Server,
    redis: Server,
    folder: Folder,
}

const LANE: &str = "default";

impl Bench {
    async fn start() -> anyhow::Result<Self> {
        let (folder, programs) = (Folder::make("bench")?, Programs::default());
        let postgres = servers::postgres(&folder, &programs)?;
        let redis = servers::redis(&folder, &programs)?;
        let text = format!(
            "[daemon]\nstate_dir = {:?}\nlog = \"warn\"\n[ledger]\nurl = {:?}\n[queue]\nurl = {:?}\n[api]\nlisten = \"off\"\n[lanes.{LANE}]\nroom = 4000\n",
            folder.path.join("state"),
            postgres.url,
            redis.url
        );
        let file = folder.path.join("jobs.toml");
        std::fs::write(&file, &text)?;
        let config = Config::parse(&text, Some(&file), &|_| None)?;
        let ledger = stores::ledger(&config, &Clock::System, Role::Command).await?;
        ledger.migrate().await?;
        let mut daemon = Command::new(std::env::current_exe()?);
        daemon.arg("--config").arg(&file).arg("run");
        let daemon = folder.spawn(daemon)?;
        let bench = Self {
            ledger,
            postgres,
            redis,
            daemon,
            folder,
        };
        let until = Instant::now() + Duration::from_secs(30);
        while bench.ledger.live_runs().await?.is_empty() {
            ensure!(Instant::now() < until, "the daemon didn't start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(bench)
    }

    fn cpu(&self) -> f64 {
        [self.postgres.pid(), self.redis.pid(), self.daemon.pid()]
            .into_iter()
            .map(cpu_seconds)
            .sum()
    }

    /// Starts producers in a process of their own; returns its processor seconds when it has ended.
    async fn produce(&self, count: u32, rate: u32) -> anyhow::Result<f64> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([
            "bench",
            "--produce",
            &self.redis.url,
            &count.to_string(),
            &rate.to_string(),
        ]);
        command.stdout(Stdio::piped());
        let mut child = self.folder.spawn(command)?;
        let out = child.stdout().context("the producers' output")?;
        let (line, status) = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            let read = std::io::BufReader::new(out).read_line(&mut line);
            child.wait();
            (read.map(|_| line), child.ended())
        })
        .await?;
        ensure!(
            status.is_some_and(|it| it.success()),
            "the producers failed"
        );
        Ok(line?.trim().parse().unwrap_or(0.0))
    }

    async fn pause(&self, paused: bool) -> anyhow::Result<()> {
        let at = self.ledger.now().await?;
        let (lane, by, reason) = (LANE.to_owned(), "bench".to_owned(), "bench".to_owned());
        let audit = Audit {
            actor: by.clone(),
            action: "pause".to_owned(),
            job: None,
            detail: reason.clone(),
            at,
        };
        let pause = Pause {
            lane,
            reason,
            by,
            at,
        };
        self.ledger
            .pause(LANE, paused.then_some(&pause), &audit)
            .await?;
        if paused {
            // a daemon notices within a second
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    /// Waits until so many jobs of the lane are in a state that `which` lets through.
    async fn until(&self, what: &str, reached: impl Fn(u64) -> bool) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(300);
        loop {
            let counts = self.ledger.counts().await?;
            let left = counts
                .iter()
                .filter(|((_, state), _)| !state.is_terminal())
                .map(|(_, n)| n)
                .sum();
            if reached(left) {
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "{what}: {left} jobs are left after 5 minutes"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The jobs that completed since `since`, each with its one attempt.
    async fn finished(&self, since: Time, most: u32) -> anyhow::Result<Vec<(Job, Attempt)>> {
        let filter = Filter {
            states: vec![State::Completed],
            after: Some(since),
            limit: most,
            ..Filter::default()
        };
        let jobs = self.ledger.jobs(&filter).await?;
        let ledger = &self.ledger;
        let with_attempt = |job: Job| async move {
            let mut attempts = ledger.attempts(job.id).await?;
            ensure!(
                attempts.len() == 1,
                "job {} has {} attempts, not one",
                job.id,
                attempts.len()
            );
            Ok((job, attempts.remove(0)))
        };
        let found: Vec<anyhow::Result<(Job, Attempt)>> = futures_util::stream::iter(jobs)
            .map(with_attempt)
            .buffer_unordered(4)
            .collect()
            .await;
        found.into_iter().collect()
    }
}

async fn measure(args: &Args) -> anyhow::Result<Figures> {
    let bench = Bench::start().await?;
    // a little first, so that caches and statistics aren't part of the figures
    bench.produce(500, 0).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    bench.until("warm-up", |left| left == 0).await?;

    bench.pause(true).await?;
    let (since, cpu, began) = (bench.ledger.now().await?, bench.cpu(), Instant::now());
    let produced = bench.produce(args.jobs, 0).await?;
    let jobs = u64::from(args.jobs);
    bench.until("accept", |left| left == jobs).await?;
    let accept_per_s = f64::from(args.jobs) / began.elapsed().as_secs_f64();
    bench.pause(false).await?;
    bench.until("drain", |left| left == 0).await?;
    let cpu = bench.cpu() - cpu + produced;
    let drained = bench.finished(since, args.jobs + 1).await?;
    ensure!(
        drained.len() == args.jobs as usize,
        "{} of {} jobs completed",
        drained.len(),
        args.jobs
    );
    let first = drained
        .iter()
        .map(|(_, it)| it.began_at)
        .min()
        .context("no attempt")?;
    let last = drained
        .iter()
        .map(|(_, it)| it.ended_at)
        .max()
        .context("no attempt")?;
    let took = (last - first).num_microseconds().unwrap_or(i64::MAX) as f64 / 1e6;

    let since = bench.ledger.now().await?;
    let count = args.rate * args.seconds;
    bench.produce(count, args.rate).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    bench.until("pickup", |left| left == 0).await?;
    let picked = bench.finished(since, count + 1).await?;
    if picked.len() != count as usize {
        bail!("{} of {count} jobs completed", picked.len());
    }
    let mut waits: Vec<f64> = picked
        .iter()
        .filter_map(|(job, attempt)| wait(job, attempt))
        .collect();
    waits.sort_by(f64::total_cmp);
    Ok(Figures {
        jobs: args.jobs,
        accept_per_s: accept_per_s.round(),
        drain_per_s: (f64::from(args.jobs) / took).round(),
        pickup_ms_p50: quantile(&waits, 0.50),
        pickup_ms_p99: quantile(&waits, 0.99),
        pickup_jobs: waits.len(),
        cpu_s_per_10k: cpu / f64::from(args.jobs) * 10_000.0,
        attempts_checked: drained.len() + picked.len(),
        ledger: bench.ledger.name(),
        queue: "redis",
    })
}

/// Milliseconds from the producer's push to the start of the attempt.
fn wait(job: &Job, attempt: &Attempt) -> Option<f64> {
    let pushed: i64 = job.labels.get(PUSHED)?.parse().ok()?;
    let pushed = DateTime::from_timestamp_micros(pushed)?;
    Some((attempt.began_at - pushed).num_microseconds()? as f64 / 1e3)
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = ((sorted.len() as f64 * q).ceil() as usize).clamp(1, sorted.len().max(1));
    sorted.get(at - 1).copied().unwrap_or(f64::NAN)
}

/// The label that holds when a producer pushed, in microseconds since 1970.
const PUSHED: &str = "pushed_us";

/// The producers' process: pushes COUNT envelopes to the inbox at RATE a second (0: as fast as it
/// goes), then prints its own processor seconds.
async fn produced(args: &[String]) -> anyhow::Result<()> {
    let [url, count, rate] = args else {
        bail!("URL COUNT RATE")
    };
    let (count, rate): (u32, u32) = (count.parse()?, rate.parse()?);
    let inbox = RedisQueue::open(&RedisOptions {
        url: url.clone().into(),
        prefix: None,
    })?
    .inbox();
    let envelope = || {
        let pushed = Clock::System.now().timestamp_micros();
        format!(r#"{{"kind":"test.job","payload":{{}},"labels":{{"{PUSHED}":"{pushed}"}}}}"#)
            .into_bytes()
    };
    let began = Instant::now();
    let mut sent = 0;
    while sent < count {
        let batch = match rate {
            0 => 500.min(count - sent),
            rate => {
                tokio::time::sleep_until(
                    (began + Duration::from_secs_f64(f64::from(sent) / f64::from(rate))).into(),
                )
                .await;
                1
            }
        };
        let envelopes: Vec<Vec<u8>> = (0..batch).map(|_| envelope()).collect();
        inbox
            .push(&envelopes)
            .await
            .map_err(|e| anyhow::anyhow!("{e}"))?;
        sent += batch;
    }
    println!("{}", cpu_seconds(std::process::id()));
    Ok(())
}
