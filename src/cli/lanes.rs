//! `presswork lanes`: what is in each lane; pause one, let it go on.

use std::collections::{BTreeMap, BTreeSet};

use clap::Subcommand;
use serde::Serialize;

use super::cx::Cx;
use super::out::{Cell, CliError, Table, Tone, plain, stamp};
use crate::json::did_you_mean;
use crate::ledger::{Audit, Ledger, Pause};
use crate::lifecycle::State;

const AFTER: &str = "\
Examples:
  presswork lanes list
  presswork lanes pause mastodon --reason 'instance is moving'
  presswork lanes resume mastodon

A running daemon notices within a second. What runs in a paused lane runs on; nothing new starts.

Exit codes: 0 done, 2 asked wrongly, 3 no such lane, 5 ledger away";

/// Lanes: what is in them; pause one, let it go on
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the lanes, their limits, and how many jobs are where
    List,
    /// Start no more jobs of a lane
    Pause {
        /// The lane
        #[arg(value_name = "LANE")]
        lane: String,
        /// Why, for those who wonder
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "",
            hide_default_value = true
        )]
        reason: String,
    },
    /// Let a paused lane go on
    Resume {
        /// The lane
        #[arg(value_name = "LANE")]
        lane: String,
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
        Command::List => list(cx, &*ledger).await,
        Command::Pause { lane, reason } => turn(cx, &*ledger, &lane, &reason, true).await,
        Command::Resume { lane, reason } => turn(cx, &*ledger, &lane, &reason, false).await,
    }
}

/// A lane, as it is listed.
#[derive(Default, Serialize)]
struct Listed {
    lane: String,
    /// It is in `jobs.toml`, or one of the built-in ones.
    configured: bool,
    concurrency: Option<u32>,
    room: Option<u32>,
    /// Jobs by state; those without any are left out.
    jobs: BTreeMap<State, u64>,
    paused: Option<Pause>,
}

/// Every lane: the configured ones, and those in which there are jobs or that are paused.
async fn lanes(cx: &Cx, ledger: &dyn Ledger) -> Result<BTreeMap<String, Listed>, CliError> {
    let mut lanes: BTreeMap<String, Listed> = BTreeMap::new();
    for (name, lane) in &cx.config.lanes {
        let it = lanes.entry(name.clone()).or_default();
        it.configured = true;
        (it.concurrency, it.room) = (lane.concurrency, Some(lane.room));
    }
    for ((name, state), count) in ledger.counts().await? {
        lanes.entry(name).or_default().jobs.insert(state, count);
    }
    for pause in ledger.paused().await? {
        let it = lanes.entry(pause.lane.clone()).or_default();
        it.paused = Some(pause);
    }
    for (name, it) in &mut lanes {
        it.lane.clone_from(name);
    }
    Ok(lanes)
}

/// The states that have a column, in the order of a job's life.
const COLUMNS: [State; 7] = [
    State::Ready,
    State::Scheduled,
    State::Running,
    State::Retrying,
    State::Held,
    State::Unresolved,
    State::Dead,
];

async fn list(cx: &Cx, ledger: &dyn Ledger) -> Result<(), CliError> {
    let lanes: Vec<Listed> = lanes(cx, ledger).await?.into_values().collect();
    if cx.out.json {
        return cx.out.document(&lanes);
    }
    let mut table = Table::new(&[
        "LANE",
        "CONCURRENCY",
        "ROOM",
        "READY",
        "SCHEDULED",
        "RUNNING",
        "RETRYING",
        "HELD",
        "UNRESOLVED",
        "DEAD",
        "",
    ]);
    for it in &lanes {
        let limit = |it: Option<u32>| Cell::number(it.map_or("-".to_owned(), |it| it.to_string()));
        let mut row = vec![
            it.lane.as_str().into(),
            limit(it.concurrency),
            limit(it.room),
        ];
        row.extend(COLUMNS.map(|state| Cell::number(it.jobs.get(&state).copied().unwrap_or(0))));
        row.push(match &it.paused {
            Some(pause) => Cell::toned(Tone::Warn, told(pause)),
            None if !it.configured => {
                Cell::toned(Tone::Warn, "not in jobs.toml: no daemon serves it")
            }
            None => "".into(),
        });
        table.row(row);
    }
    table.print(&cx.out)
}

fn told(pause: &Pause) -> String {
    let reason = match pause.reason.as_str() {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    format!("paused by {} since {}{reason}", pause.by, stamp(pause.at))
}

/// What a pause or a resume did.
#[derive(Serialize)]
struct Turned<'a> {
    lane: &'a str,
    paused: bool,
    changed: bool,
}

async fn turn(
    cx: &Cx,
    ledger: &dyn Ledger,
    lane: &str,
    reason: &str,
    pause: bool,
) -> Result<(), CliError> {
    let lanes = lanes(cx, ledger).await?;
    let Some(listed) = lanes.get(lane) else {
        let names: BTreeSet<&str> = lanes.keys().map(String::as_str).collect();
        let near = did_you_mean(lane, names.iter().copied());
        let names: Vec<&str> = names.into_iter().collect();
        return Err(
            CliError::missing(format!("there is no lane `{lane}`{near}"))
                .hint(format!("there are: {}", names.join(", "))),
        );
    };
    let changed = listed.paused.is_some() != pause;
    // a second pause stands for its reason, if it has one
    let again = pause && !reason.is_empty();
    if changed || again {
        let (by, at) = (cx.by(reason), ledger.now().await?);
        let audit = Audit {
            actor: by.actor.clone(),
            action: if pause { "pause" } else { "resume" }.to_owned(),
            job: None,
            detail: match reason {
                "" => lane.to_owned(),
                reason => format!("{lane}: {reason}"),
            },
            at,
        };
        let entry = Pause {
            lane: lane.to_owned(),
            reason: by.reason,
            by: by.actor,
            at,
        };
        ledger.pause(lane, pause.then_some(&entry), &audit).await?;
    }
    if cx.out.json {
        return cx.out.document(&Turned {
            lane,
            paused: pause,
            changed,
        });
    }
    let lane = plain(lane);
    cx.out.line(&match (pause, &listed.paused) {
        (true, None) => format!("{lane} is paused; what runs in it runs on"),
        (true, Some(before)) if again => {
            format!("{lane} stays paused; it was {}", plain(&told(before)))
        }
        (true, Some(before)) => format!("{lane} is left as it is: {}", plain(&told(before))),
        (false, Some(_)) => format!("{lane} goes on"),
        (false, None) => format!("{lane} isn't paused; nothing was changed"),
    })
}
