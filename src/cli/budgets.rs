//! `presswork budgets`: how much may be done of what, how much of it is used, and another number for it.

use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;

use super::cx::{Cx, kinds};
use super::out::{Cell, CliError, Table, Tone, plain, stamp};
use super::pick::span;
use crate::clock::{Time, when};
use crate::lateness::one_in;
use crate::ledger::Ledger;
use crate::operate::budgets;
use crate::operate::outlook::Miss;
use crate::operate::paces::Pace;
use crate::operate::stops::Hand;

const AFTER: &str = "\
A budget that counts each account (tenant, platform, kind, operation) apart has a line for each that has
used something of it. In long windows places are kept for jobs that were scheduled (kept); the backlog is
what waits for it, and when it has gone out if nothing else comes. What platforms publish of their limits is
built in; [budgets] of jobs.toml changes it, adds to it, or turns it off. What is set here holds over
jobs.toml, on all hosts, within a second; what runs runs on.

Below stand the accounts of which something is overdue, which goes out at their pace (pace_s): how many wait,
when the next goes, and when the last, if nothing else comes and nothing stops it.

Examples:
  presswork budgets
  presswork budgets --misses
  presswork budgets set x-posts --most 10 --for 2h --reason 'the account is new'
  presswork budgets set money --most 20.00 --for 1d
  presswork budgets reset x-posts

Exit codes: 0 done, 2 asked wrongly, 3 no such budget, 5 ledger away";

/// Budgets: what may be done, how much of it is used, another number for it
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// List the scheduled jobs that won't get their share at their time
    #[arg(long)]
    misses: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the budgets and what is used of them
    List,
    /// Allow another number, on all hosts
    Set {
        /// The budget
        #[arg(value_name = "BUDGET")]
        name: String,
        /// How much it allows; of a budget that counts money an amount, such as 20.00
        #[arg(long, value_name = "N")]
        most: String,
        /// For so long (30m, 2h, 7d); until it is reset unless said
        #[arg(long = "for", value_name = "SPAN", value_parser = span)]
        lasts: Option<Duration>,
        /// Why, for those who wonder
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "",
            hide_default_value = true
        )]
        reason: String,
    },
    /// Let a budget allow again what jobs.toml says
    Reset {
        /// The budget
        #[arg(value_name = "BUDGET")]
        name: String,
        /// Why, for the audit
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "",
            hide_default_value = true
        )]
        reason: String,
    },
}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let ledger = cx.ledger().await?;
    match args.command {
        None if args.misses => misses(cx, &*ledger).await,
        None | Some(Command::List) => list(cx, &*ledger).await,
        Some(Command::Set {
            name,
            most,
            lasts,
            reason,
        }) => set(cx, &*ledger, (&name, &most), lasts, reason).await,
        Some(Command::Reset { name, reason }) => reset(cx, &*ledger, &name, reason).await,
    }
}

async fn list(cx: &Cx, ledger: &dyn Ledger) -> Result<(), CliError> {
    let limits = budgets::limits(ledger, cx.known(), &kinds()).await?;
    if cx.out.json {
        return cx.out.document(&limits);
    }
    let now = limits.now;
    let mut table = Table::new(&["BUDGET", "OF", "ALLOWS", "USED", "", "BACKLOG", ""]);
    for it in &limits.budgets {
        let full = it
            .room_at
            .map(|at| format!("used up: room again {}", when(at, now)));
        let said = match &it.changed {
            Some(change) => format!("set by {} {}", change.actor, when(change.at, now)),
            None if it.built_in => "built in".to_owned(),
            None => String::new(),
        };
        table.row(vec![
            plain(&it.budget).as_str().into(),
            plain(&it.whose).as_str().into(),
            it.allows.as_str().into(),
            Cell::number(used(it)),
            full.map_or_else(|| "".into(), |it| Cell::toned(Tone::Warn, it)),
            backlog(it, now),
            plain(&said).as_str().into(),
        ]);
    }
    table.print(&cx.out)?;
    paces(cx, &limits.paces, now)
}

/// What is overdue, and goes out at its account's pace.
fn paces(cx: &Cx, all: &[Pace], now: Time) -> Result<(), CliError> {
    if all.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["OVERDUE OF", "PACE", "WAITING", "NEXT", "LAST"]);
    for it in all {
        let pace = match it.pace_s {
            Some(seconds) => one_in(chrono::Duration::seconds(seconds)),
            None => "at once".to_owned(),
        };
        let more = if it.more { " at least" } else { "" };
        table.row(vec![
            plain(&it.account).as_str().into(),
            pace.into(),
            Cell::number(format!("{}{more}", it.waiting)),
            it.next_at
                .map_or_else(String::new, |at| when(at, now))
                .into(),
            it.drains_at
                .map_or_else(String::new, |at| when(at, now))
                .into(),
        ]);
    }
    cx.out.line("")?;
    table.print(&cx.out)
}

fn used(it: &budgets::Part) -> String {
    let reserved = match it.reserved {
        0 => String::new(),
        some => format!(" ({} reserved)", it.amount(some)),
    };
    let kept = match it.outlook.as_ref().map_or(0, |it| it.kept) {
        0 => String::new(),
        some => format!(" ({some} kept)"),
    };
    let (used, most) = (it.amount(it.used), it.amount(it.most));
    format!("{used} of {most}{reserved}{kept}")
}

/// How many wait for it, and when they have gone out.
fn backlog(it: &budgets::Part, now: Time) -> Cell {
    let Some(outlook) = it.outlook.as_ref().filter(|it| 0 < it.backlog + it.held) else {
        return "".into();
    };
    let mut said = outlook.backlog.to_string();
    if let Some(at) = outlook.drains_at.filter(|at| now < *at) {
        said.push_str(&format!(", done {}", when(at, now)));
    }
    if outlook.more {
        said.push_str(" at least");
    }
    if 0 < outlook.held {
        said.push_str(&format!(", {} held", outlook.held));
    }
    match outlook.late {
        0 => said.as_str().into(),
        late => Cell::toned(Tone::Warn, format!("{said}, {late} too late")),
    }
}

/// A scheduled job that doesn't get its share at its time.
#[derive(Serialize)]
struct Missed<'a> {
    budget: &'a str,
    whose: &'a str,
    #[serde(flatten)]
    miss: &'a Miss,
}

async fn misses(cx: &Cx, ledger: &dyn Ledger) -> Result<(), CliError> {
    let limits = budgets::limits(ledger, cx.known(), &kinds()).await?;
    let all = limits.budgets.iter().flat_map(|it| {
        let (budget, whose) = (it.budget.as_str(), it.whose.as_str());
        let misses = it.outlook.iter().flat_map(|it| &it.misses);
        misses.map(move |miss| Missed {
            budget,
            whose,
            miss,
        })
    });
    let all: Vec<Missed<'_>> = all.collect();
    if cx.out.json {
        return cx.out.document(&all);
    }
    let mut table = Table::new(&["JOB", "WANTED", "EXPECTED", "BUDGET", "OF"]);
    for it in &all {
        let expected = it.miss.expected_at.map(stamp);
        table.row(vec![
            it.miss.job.to_string().as_str().into(),
            stamp(it.miss.wanted_at).as_str().into(),
            expected.as_deref().unwrap_or("not known").into(),
            plain(it.budget).as_str().into(),
            plain(it.whose).as_str().into(),
        ]);
    }
    table.print(&cx.out)
}

async fn set(
    cx: &Cx,
    ledger: &dyn Ledger,
    (name, text): (&str, &str),
    lasts: Option<Duration>,
    reason: String,
) -> Result<(), CliError> {
    budgets::known(&cx.config.budgets, name).map_err(CliError::missing)?;
    let most = budgets::most(&cx.config.budgets, name, text).map_err(CliError::usage)?;
    let by = cx.by(reason);
    let hand = Hand {
        actor: &by.actor,
        reason: &by.reason,
    };
    let lasts = lasts.and_then(|it| chrono::Duration::from_std(it).ok());
    let change = budgets::set(ledger, (name, most), lasts, hand).await?;
    if cx.out.json {
        return cx.out.document(&change);
    }
    let until = change.until.map(|it| format!(" until {}", stamp(it)));
    cx.out.line(&format!(
        "{} allows {text} now{}; daemons notice within a second",
        plain(name),
        until.unwrap_or_default()
    ))
}

/// What a reset did.
#[derive(Serialize)]
struct Restored<'a> {
    budget: &'a str,
    changed: bool,
}

async fn reset(cx: &Cx, ledger: &dyn Ledger, name: &str, reason: String) -> Result<(), CliError> {
    let by = cx.by(reason);
    let hand = Hand {
        actor: &by.actor,
        reason: &by.reason,
    };
    let changed = budgets::reset(ledger, name, hand).await?;
    if !changed {
        // it may be of a budget that jobs.toml no longer has
        budgets::known(&cx.config.budgets, name).map_err(CliError::missing)?;
    }
    if cx.out.json {
        return cx.out.document(&Restored {
            budget: name,
            changed,
        });
    }
    let name = plain(name);
    cx.out.line(&match changed {
        true => format!("{name} allows again what jobs.toml says"),
        false => format!("{name} wasn't set; nothing was changed"),
    })
}
