//! `presswork run`: the daemon.

use std::path::Path;

use super::cx::{Cx, Globals, kinds, wrong_config};
use super::out::CliError;
use crate::config::{Config, unknown_variables};
use crate::handler::Kind;
use crate::ledger::LedgerError;
use crate::{daemon, telemetry};

const AFTER: &str = "\
Signals: TERM and INT stop it (running jobs may finish within daemon.drain_s, the rest is given back
at no charge; a second one ends it at once), HUP reads the configuration anew (the old one holds if
the new one is wrong), USR1 writes a status report to the log.

Examples:
  presswork run
  presswork --config /etc/presswork/jobs.toml run
  PRESSWORK_LOG=info,presswork::engine=debug presswork run

Exit codes: 0 stopped as asked, 1 it can't start or go on, 2 the configuration is wrong, 5 the ledger
is away or refuses, 130 ended by a second signal";

/// Run the daemon: what a service manager starts
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {}

/// Runs it until it is told to stop.
///
/// # Errors
/// What stood against starting; or that it couldn't go on.
pub async fn run(globals: &Globals, cx: &Cx, _args: Args) -> Result<(), CliError> {
    known_kinds(&cx.config)?;
    let env = |name: &str| std::env::var(name).ok().filter(|it| !it.is_empty());
    let level = move |config: &Config| env("PRESSWORK_LOG").unwrap_or_else(|| config.log.clone());
    let log = telemetry::init(cx.config.log_format, &level(&cx.config)).map_err(CliError::usage)?;
    telemetry::install_panic_hook();
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for stray in unknown_variables(names) {
        tracing::warn!("{stray}");
    }
    let path = globals.config.clone();
    let reload = move || {
        let config = reread(path.as_deref()).map_err(|e| e.message)?;
        log.set_level(&level(&config))?;
        Ok(config)
    };
    daemon::run((*cx.config).clone(), reload)
        .await
        .map_err(|e| stopped(&e))
}

fn reread(path: Option<&Path>) -> Result<Config, CliError> {
    let config =
        Config::load(path, &|name| std::env::var(name).ok()).map_err(|e| wrong_config(&e))?;
    known_kinds(&config)?;
    Ok(config)
}

/// Settings of a kind that isn't there are a slip of the pen, which would hold for nothing.
pub(super) fn known_kinds(config: &Config) -> Result<(), CliError> {
    let all = kinds();
    let known: Vec<&str> = all.iter().map(Kind::name).collect();
    let wrong = config.check_kinds(&known);
    if wrong.is_empty() {
        return Ok(());
    }
    let lines: String = wrong.iter().map(|it| format!("\n  {it}")).collect();
    Err(
        CliError::usage(format!("the configuration is wrong:{lines}"))
            .hint("`presswork check` shows all of it"),
    )
}

/// Why the daemon doesn't start, or can't go on.
pub(super) fn stopped(e: &anyhow::Error) -> CliError {
    let message = format!("{e:#}");
    match e.downcast_ref::<LedgerError>() {
        // `Other` is a ledger that was reached and refused us: the password, the database's name
        Some(LedgerError::Away(_) | LedgerError::Schema(_) | LedgerError::Other(_)) => {
            CliError::away(message).hint("`presswork check` looks at the connections")
        }
        _ => CliError::failed(message),
    }
}
