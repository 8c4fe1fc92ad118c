//! `presswork jobs`: look at jobs, cancel them, let held ones go on.

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::Subcommand;
use serde::Serialize;

use super::cx::Cx;
use super::follow::{end, follow};
use super::out::{Cell, CliError, Exit, Table, Tone, cut, plain, stamp, when};
use super::pick::{MOST, Which, time};
use super::story::{Story, heading, table, tone};
use super::watch::lines;
use crate::clock::Time;
use crate::job::{Job, JobId};
use crate::ledger::{Filter, Ledger};
use crate::lifecycle::State;
use crate::operate;
use crate::operate::receipt::{Receipt, receipt};
use crate::outcome::Held;

const AFTER: &str = "\
Examples:
  presswork jobs list                              what is unfinished, and the dead
  presswork jobs list --state running,retrying --lane mastodon
  presswork jobs show ID                           all of one, and why it isn't running
  presswork jobs receipt ID                        what was sent when, and the proof
  presswork jobs watch ID --json                   a line of JSON for each change
  presswork jobs cancel ID --reason 'wrong text'
  presswork jobs release --account main            its credentials are renewed
  presswork jobs release ID                        it is late: publish it all the same
  presswork jobs release ID --at 2027-01-31T09:00:00Z

Exit codes: 0 done, 2 asked wrongly, 3 not found, 4 refused, 5 ledger away;
watch: 0 completed, 1 it died, was cancelled or waits for a person, 130 interrupted";

/// Look at jobs, cancel them, let held ones go on
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List jobs, newest first: the unfinished ones and the dead, or those in the states named
    List {
        /// In any of these states: waiting, scheduled, ready, running, retrying, held, unresolved,
        /// completed, cancelled, dead
        #[arg(long, value_name = "STATE", value_delimiter = ',')]
        state: Vec<State>,
        #[command(flatten)]
        which: Which,
    },
    /// Show all of one: payload, attempts, effects, and why it isn't running
    Show {
        /// The job's id
        #[arg(value_name = "ID")]
        id: JobId,
    },
    /// Show what one did to the outside world: what was sent when, from where, and the proof
    Receipt {
        /// The job's id
        #[arg(value_name = "ID")]
        id: JobId,
    },
    /// Follow one to its end
    Watch {
        /// The job's id
        #[arg(value_name = "ID")]
        id: JobId,
    },
    /// Call jobs off: waiting ones at once, running ones are told to stop
    Cancel {
        /// The jobs' ids
        #[arg(value_name = "ID", required = true)]
        ids: Vec<JobId>,
        /// Why, for the audit
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "",
            hide_default_value = true
        )]
        reason: String,
    },
    /// Let held jobs go on: these, or all of an account or of a reason
    Release(Release),
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(["ids", "account", "held"]))]
struct Release {
    /// The jobs' ids
    #[arg(value_name = "ID", conflicts_with_all = ["account", "held"])]
    ids: Vec<JobId>,
    /// All that are held for this account
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// All that are held for this reason: account, breaker, budget, nondeterministic, policy
    #[arg(long, value_name = "REASON")]
    held: Option<Held>,
    /// Not before: RFC 3339, or `in 10m` [default: at once]
    #[arg(long, value_name = "WHEN")]
    at: Option<String>,
    /// Why, for the audit
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,
}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let ledger = cx.ledger().await?;
    match args.command {
        Command::List { state, which } => list(cx, &*ledger, state, &which).await,
        Command::Show { id } => {
            let story = Story::read(cx, &ledger, id).await?;
            match cx.out.json {
                true => cx.out.document(&story),
                false => story.print(&cx.out),
            }
        }
        Command::Receipt { id } => {
            let job = operate::job(&*ledger, id).await?;
            proof(cx, &receipt(&*ledger, &job).await?)
        }
        Command::Watch { id } if cx.out.json => lines(cx, &ledger, id).await,
        Command::Watch { id } => {
            operate::job(&*ledger, id).await?;
            end(cx, &follow(cx, &ledger, id, None).await?)
        }
        Command::Cancel { ids, reason } => cancel(cx, &ledger, ids, &reason).await,
        Command::Release(args) => release(cx, &ledger, args).await,
    }
}

async fn list(
    cx: &Cx,
    ledger: &dyn Ledger,
    states: Vec<State>,
    which: &Which,
) -> Result<(), CliError> {
    let filter = Filter {
        states,
        ..which.filter(which.few.asked())
    };
    let mut jobs = ledger.jobs(&filter).await?;
    which.few.cut(&cx.out, &mut jobs);
    if cx.out.json {
        return cx.out.document(&jobs);
    }
    if jobs.is_empty() {
        return cx.out.line("No jobs like that.");
    }
    let now = ledger.now().await?;
    let mut table = Table::new(&[
        "ID", "KIND", "LANE", "ACCOUNT", "STATE", "ACCEPTED", "FAILED", "NOTE",
    ]);
    for job in &jobs {
        table.row([
            job.id.to_string().into(),
            job.kind.as_str().into(),
            job.lane.as_str().into(),
            job.account.as_deref().unwrap_or("-").into(),
            Cell::toned(tone(job.state), job.state.as_str()),
            when(job.created_at, now).into(),
            format!("{}/{}", job.attempts, job.attempts_max).into(),
            cut(&note(job, now), 60).into(),
        ]);
    }
    table.print(&cx.out)
}

/// A receipt, for people or programs.
fn proof(cx: &Cx, it: &Receipt) -> Result<(), CliError> {
    if cx.out.json {
        return cx.out.document(it);
    }
    let out = &cx.out;
    let state = out.paint(tone(it.state), it.state.as_str());
    out.line(&format!("{}  {}  {state}", it.job, plain(&it.kind)))?;
    table(out, &[("payload", format!("sha256 {}", it.payload))])?;
    if it.effects.is_empty() {
        out.line("  It has sent nothing.")?;
    }
    for sent in &it.effects {
        heading(out, &format!("{}  {}", plain(&sent.op), sent.state))?;
        let mut facts = vec![
            ("account", plain(&sent.account)),
            ("effect", sent.id.to_string()),
            ("class", sent.class.to_string()),
            ("sends", sent.sends.to_string()),
        ];
        let mut more = |name, value: Option<String>| facts.extend(value.map(|it| (name, it)));
        more("first sent", sent.first_sent_at.map(stamp));
        more("last sent", sent.last_sent_at.map(stamp));
        more("from host", sent.host.as_deref().map(plain));
        more("attempt", sent.attempt.map(|it| it.to_string()));
        more("remote id", sent.remote_id.as_deref().map(plain));
        more("seen at", sent.url.as_deref().map(plain));
        more("confirmed", sent.confirmed_at.map(stamp));
        more("on the word of", sent.resolved_by.as_deref().map(plain));
        more("intent", Some(format!("sha256 {}", sent.intent)));
        table(out, &facts)?;
        for seen in &sent.evidence {
            out.line(&format!("    {}  {}", stamp(seen.at), plain(&seen.seen)))?;
        }
    }
    Ok(())
}

/// What matters most of a job in its state, in a few words.
fn note(job: &Job, now: Time) -> String {
    let code = job.failure.as_ref().map_or("", |it| it.code.as_str());
    match job.state {
        State::Running if job.cancel => "told to stop".to_owned(),
        State::Running => job.progress.as_ref().map_or(String::new(), |it| {
            format!("{}% {}", it.percent, it.message)
        }),
        State::Scheduled => when(job.run_at, now),
        State::Retrying => format!("{code}, again {}", when(job.run_at, now)),
        State::Held => {
            let message = job.failure.as_ref().map_or("", |it| it.message.as_str());
            job.held
                .map_or(String::new(), |it| format!("{it}: {message}"))
        }
        State::Dead | State::Unresolved => job
            .failure
            .as_ref()
            .map_or(String::new(), ToString::to_string),
        State::Waiting | State::Ready | State::Completed | State::Cancelled => String::new(),
    }
}

/// What became of one of several jobs.
#[derive(Serialize)]
struct Done {
    id: JobId,
    /// `cancelled`, `told to stop`, `released`, `refused`.
    what: &'static str,
    /// What else there is to say.
    why: Option<String>,
}

async fn cancel(
    cx: &Cx,
    ledger: &Arc<dyn Ledger>,
    ids: Vec<JobId>,
    reason: &str,
) -> Result<(), CliError> {
    let by = cx.by(reason);
    let mut done = Vec::new();
    let mut worst = None;
    for id in unique(ids) {
        match operate::cancel(&**ledger, id, &by).await {
            Ok(State::Running) => done.push(Done {
                id,
                what: "told to stop",
                why: told_to_stop(&**ledger, id).await?,
            }),
            Ok(_) => done.push(Done {
                id,
                what: "cancelled",
                why: None,
            }),
            Err(e) => done.push(refused(id, e.into(), &mut worst)?),
        }
    }
    tell(cx, &done, worst)
}

/// Of a running job it matters whether its daemon lives.
async fn told_to_stop(ledger: &dyn Ledger, id: JobId) -> Result<Option<String>, CliError> {
    let run = operate::job(ledger, id).await?.run;
    let alive = ledger
        .live_runs()
        .await?
        .iter()
        .any(|it| Some(it.id) == run);
    Ok((!alive)
        .then(|| "its daemon is gone: it ends when the next one takes its lease back".to_owned()))
}

async fn release(cx: &Cx, ledger: &Arc<dyn Ledger>, args: Release) -> Result<(), CliError> {
    let by = cx.by(&args.reason);
    let now = ledger.now().await?;
    let at = args.at.as_deref().map(|it| time("--at", it, now));
    let at = at.transpose()?;
    let ids = if args.ids.is_empty() {
        let filter = Filter {
            states: vec![State::Held],
            account: args.account,
            limit: MOST,
            ..Filter::default()
        };
        let held = ledger.jobs(&filter).await?.into_iter();
        let meant = held.filter(|it| args.held.is_none() || it.held == args.held);
        meant.map(|it| it.id).collect()
    } else {
        unique(args.ids)
    };
    if ids.is_empty() && !cx.out.json {
        return cx
            .out
            .line("No jobs are held like that; nothing was changed.");
    }
    let mut done = Vec::with_capacity(ids.len());
    let mut worst = None;
    for id in ids {
        match operate::release(&**ledger, id, at, &by).await {
            Ok(_) => done.push(Done {
                id,
                what: "released",
                why: None,
            }),
            Err(e) => done.push(refused(id, e.into(), &mut worst)?),
        }
    }
    tell(cx, &done, worst)
}

/// The ids, each once, in their order.
fn unique(mut ids: Vec<JobId>) -> Vec<JobId> {
    let mut seen = BTreeSet::new();
    ids.retain(|it| seen.insert(*it));
    ids
}

/// What couldn't be done to one job doesn't stop the others; a ledger that is away does.
fn refused(id: JobId, e: CliError, worst: &mut Option<Exit>) -> Result<Done, CliError> {
    match e.exit {
        Exit::Away | Exit::Failed => return Err(e),
        exit => {
            *worst = Some(if worst.is_none() {
                exit
            } else {
                Exit::Conflict
            })
        }
    }
    Ok(Done {
        id,
        what: "refused",
        why: Some(e.message),
    })
}

fn tell(cx: &Cx, done: &[Done], worst: Option<Exit>) -> Result<(), CliError> {
    if cx.out.json {
        cx.out.document(&done)?;
    } else {
        for it in done {
            let tone = if it.what == "refused" {
                Tone::Bad
            } else {
                Tone::Good
            };
            // what was refused names its job itself
            let what = cx.out.paint(tone, it.what);
            cx.out.line(&match (it.what, it.why.as_deref()) {
                ("refused", Some(why)) => format!("{what} {}", plain(why)),
                (_, Some(why)) => format!("{what} {}: {}", it.id, plain(why)),
                (_, None) => format!("{what} {}", it.id),
            })?;
        }
    }
    worst.map_or(Ok(()), |exit| Err(CliError::said(exit)))
}
