//! `presswork go`: what was stopped goes on.

use serde::Serialize;

use super::cx::Cx;
use super::out::{CliError, plain};
use super::stop::ScopeArgs;
use crate::gate::{Cause, Closure};
use crate::ledger::Ledger;
use crate::operate::stops::{self, Hand, command};

const AFTER: &str = "\
Examples:
  presswork go                                    after `presswork stop`
  presswork go --account studio                   after `presswork stop --account studio`, or where its
                                                  credentials were refused
  presswork go --all                              all that people stopped
  presswork go --account studio --cause breaker   what a daemon shut by itself

What is named must be what was stopped: `presswork stop --list` tells what is. Stops add up: what another
one still holds doesn't go on by this one. Daemons notice within a second.

Exit codes: 0 done, 2 asked wrongly, 3 nothing like that is stopped, 5 ledger away";

/// Let go on what was stopped
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    #[command(flatten)]
    scope: ScopeArgs,
    /// All that people stopped
    #[arg(long, conflicts_with_all = ["platform", "account", "tenant", "label", "cause"])]
    all: bool,
    /// What was shut for this cause alone: stop, credentials, account, breaker, learned
    #[arg(long, value_name = "CAUSE", value_parser = cause)]
    cause: Option<Cause>,
    /// Why, for the audit
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,
}

fn cause(word: &str) -> Result<Cause, String> {
    word.parse()
}

/// What goes on, and what is still shut.
#[derive(Serialize)]
struct Gone {
    opened: Vec<Closure>,
    shut: Vec<Closure>,
}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let ledger = cx.ledger().await?;
    let by = cx.by(args.reason);
    let hand = Hand {
        actor: &by.actor,
        reason: &by.reason,
    };
    let opened = if args.all {
        stops::go_all(&*ledger, hand).await?
    } else {
        let scope = args.scope.scope();
        let before = ledger.closures().await?;
        let opened = stops::go_on(&*ledger, (args.cause, &scope), hand).await?;
        if opened.is_empty() {
            return Err(missing(&*ledger, &format!("{scope} isn't stopped")).await?);
        }
        let is_it = |it: &Closure| opened.contains(&it.cause) && it.scope == scope;
        before.into_iter().filter(is_it).collect()
    };
    let shut = ledger.closures().await?;
    if cx.out.json {
        return cx.out.document(&Gone { opened, shut });
    }
    if opened.is_empty() {
        return cx.out.line("Nothing is stopped.");
    }
    for it in &opened {
        let what = plain(&it.scope.to_string());
        cx.out.line(&format!("Goes on: {what}."))?;
    }
    for it in &shut {
        let what = plain(&it.to_string());
        cx.out.note(&format!("still shut: {what}"));
    }
    Ok(())
}

async fn missing(ledger: &dyn Ledger, what: &str) -> Result<CliError, CliError> {
    let closures = ledger.closures().await?;
    let wrong = CliError::missing(what);
    if closures.is_empty() {
        return Ok(wrong.hint("nothing is"));
    }
    let commands: Vec<String> = closures
        .iter()
        .map(|it| format!("`{}`", command(it)))
        .collect();
    Ok(wrong.hint(format!("what is shut goes on by {}", commands.join(", "))))
}
