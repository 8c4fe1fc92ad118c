//! `presswork explain`: everything that keeps a job from running, in order, and its place in line.

use super::cx::{Cx, kinds};
use super::out::{CliError, Out, Tone, plain};
use super::story::{heading, tone};
use crate::job::JobId;
use crate::operate;
use crate::operate::explain::{Explanation, Eyes, What, explain};
use crate::operate::facts::Facts;

const AFTER: &str = "\
Everything that binds is told in its order, with what holds it, until when, and the command that helps:
its time, a stop, an account that needs attention, a breaker, a limit that a platform told of, a paused
lane, a budget that is used up, a full lane, no daemon. What a job will ask a platform for isn't known
before it runs, so budgets are told with the operations that they are about.

Examples:
  presswork explain 01a2013b-d0be-76ac-aca2-68db3205294d
  presswork explain 01a2013b-d0be-76ac-aca2-68db3205294d --json

Exit codes: 0 done, 2 asked wrongly, 3 not found, 5 ledger away";

/// Why a job isn't running: all that keeps it, its place in line, and an estimate
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// The job's id
    #[arg(value_name = "ID")]
    id: JobId,
}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let ledger = cx.ledger().await?;
    let job = operate::job(&*ledger, args.id).await?;
    let kinds: Vec<String> = kinds().iter().map(|it| it.name().to_owned()).collect();
    let facts = Facts::read(&*ledger, cx.known(), &kinds, job).await?;
    let told = explain(&facts, cx.known(), Eyes::Operator);
    match cx.out.json {
        true => cx.out.document(&told),
        false => print(&cx.out, &told),
    }
}

fn print(out: &Out, told: &Explanation) -> Result<(), CliError> {
    let state = out.paint(tone(told.state), told.state.as_str());
    out.line(&format!("{}  {}  {state}", told.job, plain(&told.kind)))?;
    if let Some(it) = &told.fallback {
        heading(out, "Who does it")?;
        out.line(&format!("  {}", plain(&it.text)))?;
    }
    if !told.constraints.is_empty() {
        heading(out, title(told))?;
    }
    for (n, it) in told.constraints.iter().enumerate() {
        out.line(&format!("  {}. {}", n + 1, plain(&it.text)))?;
        if let Some(command) = &it.command {
            out.line(&out.paint(Tone::Faint, &format!("       {}", plain(command))))?;
        }
    }
    if let Some(place) = &told.place {
        heading(out, &format!("Its place in lane {}", plain(&told.lane)))?;
        out.line(&format!("  {}", place.text))?;
    }
    if let Some(estimate) = &told.estimate {
        out.line(&format!("  {}", estimate.text))?;
    }
    Ok(())
}

fn title(told: &Explanation) -> &'static str {
    match told.constraints.first().map(|it| it.what) {
        Some(What::Running) => "Where it runs",
        Some(What::Ended) => "How it ended",
        _ => "What stands in its way",
    }
}
