//! `presswork prove`: chaos certification of a user's own configuration.

use std::path::{Path, PathBuf};

use super::cx::{Globals, wrong_config};
use super::out::{CliError, Exit, Out, Tone};
use crate::config::{Config, ConfigErrors};
use crate::json::did_you_mean;
use crate::prove::evidence::Sort;
use crate::prove::{self, Options, Proof, html, report};
use crate::servers::Programs;

const AFTER: &str = "\
Starts private servers, the sandbox and daemons, each a process of its own, and takes your jobs.toml:
its lanes, limits, kinds and attempts hold, the sandbox stands in for the platforms, and your secrets
are not opened. Then it brings a mix of jobs by HTTP and by the Redis inbox, and meanwhile breaks
everything: at random moments, and some of it while posts are under way, which the sandbox holds for
that. At the end it joins what the producers were told, what the ledger says, and what the sandbox
really did.

Sorts of --blows, each with N from 0 to 5000 (usually 20 kills and 3 of each other sort; with --quick
3 and 1):
  kill      a daemon is killed (-9), and started again
  freeze    a daemon is frozen for longer than its lease
  stop      a daemon is told to stop, as a deploy does it
  clock     a daemon is killed, and started with a wrong clock (where libfaketime is installed)
  flush     everything in Redis is forgotten
  redis     Redis is killed
  postgres  PostgreSQL is killed
  cut       the connections of a daemon to a store are reset
  hole      they are swallowed for longer than a lease
  skew      the ledger's clock jumps

It fails by itself unless 50 sends of class B (Instagram) and 50 of class C (X) were in flight at a
fault (with --quick 5 of each), some of which acted with nobody to hear it. Class A: the platform
dedupes by a key of ours; B: it can be asked; C: neither; P: paid for, and invisible outside.

Examples:
  presswork prove --quick
  presswork --config jobs.toml prove --html report.html
  presswork prove --jobs 10000 --blows kill=100,stop=20 --seed 7 --json
  presswork prove --embedded                      on SQLite, with nothing installed
  presswork prove --check DIR                     judge again what --keep DIR has kept

Exit codes: 0 proven, 1 a promise was broken or it wasn't tried hard enough, 2 asked wrongly, 5 it
couldn't be run (no servers, or one that doesn't come up again), 130 interrupted";

/// Prove it under your own configuration: break everything, then compare what was said and done
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// Few jobs and blows: under a minute
    #[arg(long)]
    quick: bool,
    /// Jobs, beside those that are brought just before a blow [default: 2000, with --quick 120]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=800_000))]
    jobs: Option<u32>,
    /// How often each sort of blow is struck, such as kill=100,flush=0; the others as usual
    #[arg(long, value_name = "SORT=N,...", value_delimiter = ',', value_parser = blow)]
    blows: Vec<(Sort, usize)>,
    /// Daemons
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    daemons: u8,
    /// Repeats the order of the events
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// On SQLite and a queue in memory, with one daemon: only the daemon is broken
    #[arg(long, conflicts_with_all = ["postgres_bin", "redis_server"])]
    embedded: bool,
    /// Where `postgres` and `initdb` are
    #[arg(long, value_name = "DIR")]
    postgres_bin: Option<PathBuf>,
    /// The program `redis-server`
    #[arg(long, value_name = "PATH")]
    redis_server: Option<PathBuf>,
    /// Write the report as one page, with a timeline
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Keep what it was judged by, and the logs, in a new folder
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    keep: Option<PathBuf>,
    /// Judge again what was kept
    #[arg(long, value_name = "DIR", conflicts_with_all = ["quick", "jobs", "blows", "seed", "embedded"])]
    check: Option<PathBuf>,
}

/// Blows of a sort, at most.
const BLOWS_MAX: usize = 5_000;

/// `SORT=N`.
fn blow(text: &str) -> Result<(Sort, usize), String> {
    let names = Sort::ALL.map(Sort::name);
    let (name, times) = text
        .split_once('=')
        .ok_or_else(|| format!("write SORT=N, where SORT is one of {}", names.join(", ")))?;
    let sort = Sort::ALL.into_iter().find(|it| it.name() == name);
    let sort = sort.ok_or_else(|| {
        let meant = did_you_mean(name, names);
        format!(
            "unknown sort `{name}`{meant}; the sorts are {}",
            names.join(", ")
        )
    })?;
    let times = times.parse().ok().filter(|it| *it <= BLOWS_MAX);
    let times = times.ok_or_else(|| format!("`{name}` wants a number from 0 to {BLOWS_MAX}"))?;
    Ok((sort, times))
}

impl Args {
    /// What can't be asked for at once.
    fn contradiction(&self) -> Option<CliError> {
        let asked = |it: &&(Sort, usize)| self.embedded && it.0.needs_servers() && 0 < it.1;
        let (sort, times) = self.blows.iter().find(asked)?;
        let name = sort.name();
        let wrong = format!("--blows {name}={times}: with --embedded there is no server to break");
        Some(CliError::usage(wrong))
    }

    fn options(&self, config: String) -> Options {
        let of = |said: Option<u32>, quick: usize, long: usize| match said {
            Some(said) => said as usize,
            None if self.quick => quick,
            None => long,
        };
        Options {
            quick: self.quick,
            jobs: of(self.jobs, 120, 2_000),
            blows: self.blows.iter().copied().collect(),
            // a SQLite ledger is for exactly one daemon
            daemons: if self.embedded {
                1
            } else {
                self.daemons.into()
            },
            seed: self.seed.unwrap_or_else(|| rand::random::<u32>().into()),
            servers: (!self.embedded).then(|| Programs {
                postgres_bin: self.postgres_bin.clone(),
                redis_server: self.redis_server.clone(),
            }),
            config,
        }
    }
}

/// Proves it, and reports.
///
/// # Errors
/// When a promise was broken, or it couldn't be run.
pub async fn run(globals: &Globals, out: Out, args: Args) -> Result<(), CliError> {
    let failed = |e: anyhow::Error| match e.downcast_ref::<ConfigErrors>() {
        Some(wrong) => wrong_config(wrong).hint("`presswork check` tells where"),
        None => CliError::new(Exit::Away, format!("{e:#}")),
    };
    let proof = match &args.check {
        Some(folder) => prove::judged(folder).map_err(failed)?,
        None => {
            if let Some(wrong) = args.contradiction() {
                return Err(wrong);
            }
            let env = |name: &str| std::env::var(name).ok();
            let found = Config::find(globals.config.as_deref(), &env);
            let found = found.map_err(|e| wrong_config(&e))?;
            let options = args.options(found.map_or(String::new(), |it| it.1));
            if let Some(folder) = &args.keep {
                new_folder(folder)?;
            }
            let say = |text: &str| out.note(text);
            tokio::select! {
                proof = prove::run(&options, args.keep.as_deref(), &say) => proof.map_err(failed)?,
                stopped = stopped() => return Err(stopped),
            }
        }
    };
    if let Some(file) = &args.html {
        let written = std::fs::write(file, html::page(&proof));
        written
            .map_err(|e| CliError::failed(format!("{} can't be written: {e}", file.display())))?;
    }
    tell(out, &proof)?;
    match proof.verdict.proven {
        true => Ok(()),
        false => Err(CliError::said(Exit::Failed)),
    }
}

fn tell(out: Out, proof: &Proof) -> Result<(), CliError> {
    if out.json {
        return out.json_line(&proof.verdict);
    }
    let paint = |good: bool, text: &str| {
        let tone = if good { Tone::Good } else { Tone::Bad };
        out.paint(tone, text)
    };
    out.line(&report::text(&proof.verdict, paint))
}

/// Nothing that was kept before is mixed with what is kept now.
fn new_folder(folder: &Path) -> Result<(), CliError> {
    let made = std::fs::create_dir(folder);
    made.map_err(|e| CliError::usage(format!("--keep {}: {e}", folder.display())))
}

/// Returns when INT or TERM comes; a second one ends the process at once.
async fn stopped() -> CliError {
    let mut signals = match super::dev::signals() {
        Ok(signals) => signals,
        Err(e) => return e,
    };
    // its end is the end of the process
    let _ = signals.recv().await;
    CliError::new(
        Exit::Interrupted,
        "interrupted: what was started is stopped",
    )
}
