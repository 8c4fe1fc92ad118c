//! `presswork stop`: nothing more goes, of everything or of a part; and what that came too late for.

use std::time::Duration;

use serde::Serialize;

use super::cx::Cx;
use super::out::{CliError, Table, Tone, plain, stamp, when};
use crate::gate::{Closure, Scope};
use crate::ledger::Ledger;
use crate::operate::stops::{self, Hand, Slipped, checked, command};

const AFTER: &str = "\
Examples:
  presswork stop --reason 'wrong price in the campaign'
  presswork stop --account studio
  presswork stop --platform mastodon --tenant acme
  presswork stop --label campaign=spring
  presswork stop --list                           what is stopped, by whom and why
  presswork go                                    lets everything go on

Where several are named, only what fits all of them is stopped. From the moment at which this answers
no host gets a permit to send anything of it. Jobs stay where they are, and are charged no attempt.
What had its permit before is told, with how it ended, if that is known by the end of --wait.

Exit codes: 0 done, 2 asked wrongly, 5 ledger away";

/// Stop everything, or a platform, an account, a tenant, a label; at once, on all hosts
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    #[command(flatten)]
    scope: ScopeArgs,
    /// Why, for those who wonder
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,
    /// How long to wait for calls that had their permit before
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=600))]
    wait: u64,
    /// Stop nothing: list what is stopped or shut, by whom and why
    #[arg(long, conflicts_with_all = ["platform", "account", "tenant", "label", "reason", "wait"])]
    list: bool,
}

/// What is meant; nothing named is everything.
#[derive(Debug, Default, clap::Args)]
pub struct ScopeArgs {
    /// All accounts of this platform
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// This account
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Jobs of this tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Jobs with this label, or with any value of it
    #[arg(long, value_name = "NAME[=VALUE]")]
    label: Option<String>,
}

impl ScopeArgs {
    /// As a scope.
    pub fn scope(self) -> Scope {
        Scope {
            platform: self.platform,
            account: self.account,
            tenant: self.tenant,
            label: self.label,
            kind: None,
        }
    }
}

/// What was stopped, and what that came too late for.
#[derive(Serialize)]
struct Stopped<'a> {
    closure: &'a Closure,
    slipped: &'a [Slipped],
}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let ledger = cx.ledger().await?;
    if args.list {
        return list(cx, &*ledger).await;
    }
    let scope = checked(args.scope.scope(), cx.known()).map_err(CliError::usage)?;
    let by = cx.by(args.reason);
    let hand = Hand {
        actor: &by.actor,
        reason: &by.reason,
    };
    let closure = stops::stop(&*ledger, scope, hand).await?;
    let wait = Duration::from_secs(args.wait);
    if !cx.out.json {
        let stopped = plain(&closure.scope.to_string());
        cx.out.line(&format!(
            "Stopped: {stopped}, at {}. No permit is given for it any more, on any host.",
            stamp(closure.since)
        ))?;
    }
    let slipped = stops::slipped(&*ledger, cx.known(), &closure.scope, wait).await?;
    if cx.out.json {
        return cx.out.document(&Stopped {
            closure: &closure,
            slipped: &slipped,
        });
    }
    told(cx, &*ledger, &slipped).await?;
    let go = plain(&command(&closure));
    cx.out.line(&format!("It goes on by `{go}`."))
}

async fn told(cx: &Cx, ledger: &dyn Ledger, slipped: &[Slipped]) -> Result<(), CliError> {
    if slipped.is_empty() {
        return cx.out.line("Nothing slipped through.");
    }
    let calls = match slipped.len() {
        1 => "1 call".to_owned(),
        n => format!("{n} calls"),
    };
    cx.out.line(&format!(
        "{calls} had a permit before, and slipped through:"
    ))?;
    let now = ledger.now().await?;
    let mut table = Table::new(&["JOB", "OP", "ACCOUNT", "HOST", "PERMITTED", "ENDED"]);
    for it in slipped {
        let ended = match (it.is_open(), &it.url) {
            (true, _) => super::out::Cell::toned(Tone::Warn, "not yet"),
            (false, Some(url)) => format!("{}: {url}", it.state).into(),
            (false, None) => it.state.to_string().into(),
        };
        table.row([
            it.job.to_string().into(),
            it.op.as_str().into(),
            match it.account.as_str() {
                "" => "-".into(),
                account => account.into(),
            },
            it.host.as_str().into(),
            it.permitted_at
                .map_or("-".into(), |at| when(at, now).into()),
            ended,
        ]);
    }
    table.print(&cx.out)
}

async fn list(cx: &Cx, ledger: &dyn Ledger) -> Result<(), CliError> {
    let closures = ledger.closures().await?;
    if cx.out.json {
        return cx.out.document(&closures);
    }
    if closures.is_empty() {
        return cx.out.line("Nothing is stopped.");
    }
    let mut table = Table::new(&["WHAT", "CAUSE", "BY", "SINCE", "UNTIL", "WHY", "GOES ON BY"]);
    for it in &closures {
        table.row([
            it.scope.to_string().into(),
            it.cause.as_str().into(),
            it.actor.as_str().into(),
            stamp(it.since).into(),
            it.until.map_or("-".into(), |at| stamp(at).into()),
            it.reason.as_str().into(),
            command(it).into(),
        ]);
    }
    table.print(&cx.out)
}
