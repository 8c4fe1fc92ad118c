//! `presswork migrate`: the schema of the ledger.

use super::cx::Cx;
use super::out::{CliError, Exit};
use crate::config::Store;

const AFTER: &str = "\
The daemon does the same when it starts. Migrations run under a lock: of several that start at once
one migrates, the others wait.

Examples:
  presswork migrate
  presswork migrate --check      only look: exit 0 when nothing is to be done, 5 when something is
  presswork --config /etc/presswork/jobs.toml migrate --json

Exit codes: 0 done, 2 asked wrongly, 5 the ledger is away, or --check finds work";

/// Bring the ledger's schema up to date
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// Only look
    #[arg(long)]
    check: bool,
}

/// Runs it.
///
/// # Errors
/// When the ledger can't be reached, is newer than this program, or `--check` finds work.
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    if args.check {
        return check(cx).await;
    }
    if let Store::Sqlite(file) = &cx.config.ledger
        && let Some(folder) = file.parent()
    {
        std::fs::create_dir_all(folder)
            .map_err(|e| CliError::away(format!("{} can't be made: {e}", folder.display())))?;
    }
    let done = cx.open().await?.migrate().await?;
    if cx.out.json {
        return cx.out.document(&done);
    }
    cx.out.line(&match (done.from, done.to) {
        (from, to) if from == to => format!("the ledger is at version {to} already: nothing to do"),
        (0, to) => format!("the ledger was empty and is at version {to} now"),
        (from, to) => format!("the ledger went from version {from} to {to}"),
    })
}

async fn check(cx: &Cx) -> Result<(), CliError> {
    if let Store::Sqlite(file) = &cx.config.ledger
        && !file.exists()
    {
        return Err(
            CliError::away(format!("there is no ledger at {} yet", file.display()))
                .hint("`presswork migrate` makes it"),
        );
    }
    let schema = cx.open().await?.schema().await?;
    if cx.out.json {
        cx.out.document(&schema)?;
        return if schema.fits() {
            Ok(())
        } else {
            Err(CliError::said(Exit::Away))
        };
    }
    let (found, known) = (schema.found, schema.known);
    if found == known {
        return cx
            .out
            .line(&format!("the ledger is at version {known}: nothing to do"));
    }
    if schema.fits() {
        return cx.out.line(&format!(
            "the ledger is at version {found}; this program speaks version {known} and works with it"
        ));
    }
    let hint = if found < known {
        "`presswork migrate` brings it up to date"
    } else {
        "use the newer presswork that migrated it"
    };
    Err(CliError::away(format!(
        "the ledger is at version {found}, this program speaks version {known}"
    ))
    .hint(hint))
}
