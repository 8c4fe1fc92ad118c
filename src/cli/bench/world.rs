//! What the bench measures: a daemon as it is installed, with private servers, or embedded.

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use serde::Serialize;

use super::produce::{OP, Order, Took};
use crate::clock::{Clock, Time};
use crate::config::Config;
use crate::job::Job;
use crate::ledger::{Attempt, Audit, Filter, Ledger, Pause};
use crate::lifecycle::State;
use crate::prove::talk;
use crate::servers::process::{Folder, Process};
use crate::servers::{self, Programs, Server, cpu_seconds};
use crate::stores::{self, Role};

/// The lane of the jobs.
const LANE: &str = "default";
/// Jobs that run there at once: more than any figure needs.
pub const ROOM: u32 = 12_000;
/// How long a phase may take.
const PHASE: Duration = Duration::from_secs(300);
/// How often it is looked whether a phase is over.
const LOOK: Duration = Duration::from_millis(50);
/// The daemon's counter of jobs that came in.
pub const ACCEPTED: &str = "presswork_jobs_accepted_total";
/// That of attempts that ended.
pub const SETTLED: &str = "presswork_jobs_settled_total";
/// A paused lane is noticed by every daemon within a second.
const NOTICED: Duration = Duration::from_secs(1);
/// Questions to the ledger at once, when all is looked at again.
const ASKED: usize = 8;

/// Processor seconds, by process.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cpu {
    /// The daemon.
    pub daemon: f64,
    /// PostgreSQL with all its processes; 0 when embedded.
    pub postgres: f64,
    /// Redis; 0 when embedded.
    pub redis: f64,
}

impl Cpu {
    /// All of them.
    pub fn sum(&self) -> f64 {
        self.daemon + self.postgres + self.redis
    }

    /// For 10,000 of `jobs` jobs, what was used since `before`.
    pub fn per_10k(&self, before: &Self, jobs: u32) -> Self {
        let each = |now: f64, then: f64| (now - then) / f64::from(jobs) * 10_000.0;
        Self {
            daemon: each(self.daemon, before.daemon),
            postgres: each(self.postgres, before.postgres),
            redis: each(self.redis, before.redis),
        }
    }
}

/// A daemon and what it stands on.
pub struct World {
    // in the order in which they end: the daemon before its servers
    daemon: Process,
    ledger: Arc<dyn Ledger>,
    postgres: Option<Server>,
    redis: Option<Server>,
    api: String,
    folder: Folder,
}

impl World {
    /// Starts it, with so many budgets that every job counts in.
    ///
    /// # Errors
    /// When a server or the daemon doesn't start.
    pub async fn start(embedded: bool, budgets: u32) -> anyhow::Result<Self> {
        let (folder, programs) = (Folder::make("bench")?, Programs::default());
        let (postgres, redis) = match embedded {
            true => (None, None),
            false => (
                Some(servers::postgres(&folder, &programs)?),
                Some(servers::redis(&folder, &programs)?),
            ),
        };
        let ledger = postgres.as_ref().map_or_else(
            || format!("sqlite:{}", folder.path.join("ledger.sqlite").display()),
            |it| it.url.clone(),
        );
        let queue = redis.as_ref().map_or("memory:", |it| it.url.as_str());
        let api = format!("127.0.0.1:{}", servers::free_port()?);
        let text = format!(
            "[daemon]\nstate_dir = {:?}\nlog = \"warn\"\n[ledger]\nurl = {ledger:?}\n\
             [queue]\nurl = {queue:?}\n[api]\nlisten = {api:?}\n[lanes.{LANE}]\nroom = {ROOM}\n",
            folder.path.join("state"),
        );
        let budgets = (0..budgets).map(|n| {
            format!("[budgets.bench-{n}]\nform = \"rolling\"\nmost = 1000000000\nwindow_s = 60\nop = \"{OP}\"\n")
        });
        let text = text + &budgets.collect::<String>();
        let file = folder.path.join("jobs.toml");
        std::fs::write(&file, &text)?;
        let config = Config::parse(&text, Some(&file), &|_| None)?;
        let ledger = stores::ledger(&config, &Clock::System, Role::Command).await?;
        ledger.migrate().await?;
        let mut daemon = Command::new(std::env::current_exe()?);
        daemon.arg("--config").arg(&file).arg("run");
        let daemon = folder.spawn(daemon)?;
        let world = Self {
            daemon,
            ledger,
            postgres,
            redis,
            api,
            folder,
        };
        let until = Instant::now() + Duration::from_secs(30);
        while world.ledger.live_runs().await?.is_empty() {
            ensure!(Instant::now() < until, "the daemon didn't start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(world)
    }

    /// The ledger's name.
    pub fn ledger_name(&self) -> &'static str {
        self.ledger.name()
    }

    /// The queue's name.
    pub fn queue_name(&self) -> &'static str {
        if self.redis.is_some() {
            "redis"
        } else {
            "memory"
        }
    }

    /// The quickest door: where producers that needn't wait for an answer push.
    pub fn inbox(&self) -> String {
        self.redis
            .as_ref()
            .map_or_else(|| self.api.clone(), |it| it.url.clone())
    }

    /// The HTTP API.
    pub fn api(&self) -> String {
        self.api.clone()
    }

    /// The ledger's time.
    ///
    /// # Errors
    /// When it doesn't answer.
    pub async fn now(&self) -> anyhow::Result<Time> {
        Ok(self.ledger.now().await?)
    }

    /// What was used up to now.
    pub fn cpu(&self) -> Cpu {
        let of = |it: &Option<Server>| it.as_ref().map_or(0.0, |it| cpu_seconds(it.pid()));
        Cpu {
            daemon: cpu_seconds(self.daemon.pid()),
            postgres: of(&self.postgres),
            redis: of(&self.redis),
        }
    }

    /// Memory of the daemon that is resident, in MB (10^6 bytes).
    ///
    /// # Errors
    /// Where there is no /proc.
    pub fn rss_mb(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.daemon.pid()))?;
        let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"));
        let kib = line.and_then(|it| it.trim().strip_suffix(" kB"));
        let kib: f64 = kib.context("no VmRSS")?.trim().parse()?;
        Ok((kib * 1.024 / 100.0).round() / 10.0)
    }

    /// What Redis keeps for each id in the lane's window, in bytes, all keys counted.
    ///
    /// # Errors
    /// When it doesn't answer.
    pub async fn redis_bytes_per_job(&self) -> anyhow::Result<Option<f64>> {
        const SUM: &[u8] = b"local bytes, ids = 0, 0
            for _, key in ipairs(redis.call('KEYS', '{pw:*')) do
                bytes = bytes + redis.call('MEMORY', 'USAGE', key, 'SAMPLES', '0')
                if string.sub(key, -6) == ':ready' then
                    ids = ids + redis.call('ZCARD', key)
                end
            end
            return math.floor(bytes * 10 / math.max(ids, 1))";
        let Some(redis) = &self.redis else {
            return Ok(None);
        };
        let said = talk::redis(redis.port, &[b"EVAL", SUM, b"0"]).await?;
        let tenths: f64 = said.trim_start_matches(':').parse()?;
        Ok(Some(tenths / 10.0))
    }

    /// Runs producers in a process of their own; all is acknowledged when they have ended.
    ///
    /// # Errors
    /// When a job isn't taken.
    pub async fn produce(&self, order: &Order) -> anyhow::Result<Took> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "--produce", &serde_json::to_string(order)?]);
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
        Ok(serde_json::from_str(&line?)?)
    }

    /// Pauses the lane, or lets it go on.
    ///
    /// # Errors
    /// When the ledger doesn't answer.
    pub async fn pause(&self, paused: bool) -> anyhow::Result<()> {
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
        let pause = paused.then_some(&pause);
        self.ledger.pause(LANE, pause, &audit).await?;
        if paused {
            tokio::time::sleep(NOTICED).await;
        }
        Ok(())
    }

    /// What the daemon has counted so far, whatever the labels.
    ///
    /// # Errors
    /// When it doesn't answer.
    pub async fn counted(&self, name: &str) -> anyhow::Result<u64> {
        let mut line = talk::Line::open(self.api.parse()?).await?;
        let (status, text) = line.ask("GET", "/metrics", b"").await?;
        ensure!(status == 200, "the API says {status}: {text}");
        let mut sum = 0.0;
        for line in text.lines().filter(|it| it.starts_with(name)) {
            let (_, value) = line.rsplit_once(' ').context("a metric without a value")?;
            sum += value.parse::<f64>()?;
        }
        Ok(sum as u64)
    }

    /// Waits until the daemon has counted so many. It is asked for this, and not the ledger, whose count of
    /// a large backlog would be part of what is measured.
    ///
    /// # Errors
    /// When it hasn't in time.
    pub async fn until_counted(&self, name: &str, wanted: u64) -> anyhow::Result<()> {
        let until = Instant::now() + PHASE;
        loop {
            let counted = self.counted(name).await?;
            if wanted <= counted {
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "after 5 minutes {name} is {counted}, not {wanted}"
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until the jobs, by state, are as wanted.
    ///
    /// # Errors
    /// When they aren't in time.
    pub async fn until(
        &self,
        what: &str,
        reached: impl Fn(&BTreeMap<State, u64>) -> bool,
    ) -> anyhow::Result<()> {
        let until = Instant::now() + PHASE;
        loop {
            let mut states = BTreeMap::new();
            for ((_, state), n) in self.ledger.counts().await? {
                *states.entry(state).or_default() += n;
            }
            if reached(&states) {
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "{what}: after 5 minutes the jobs are {states:?}"
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The jobs that completed since `since`, each with its one attempt: so many, no more and no fewer.
    ///
    /// # Errors
    /// When a job or an attempt is missing.
    pub async fn finished(&self, since: Time, jobs: u32) -> anyhow::Result<Vec<(Job, Attempt)>> {
        let filter = Filter {
            states: vec![State::Completed],
            after: Some(since),
            limit: jobs + 1,
            ..Filter::default()
        };
        let found = self.ledger.jobs(&filter).await?;
        ensure!(
            found.len() == jobs as usize,
            "{} of {jobs} jobs completed",
            found.len()
        );
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
        let found: Vec<anyhow::Result<(Job, Attempt)>> = futures_util::stream::iter(found)
            .map(with_attempt)
            .buffer_unordered(ASKED)
            .collect()
            .await;
        found.into_iter().collect()
    }
}
