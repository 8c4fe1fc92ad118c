//! `presswork run`: the daemon.

use super::cx::{self, Cx};
use super::out::{CliError, Exit};
use crate::{config, daemon, telemetry};

const AFTER: &str = "\
Signals: TERM and INT drain (no new jobs, running ones may finish within daemon.drain_s, the rest is given
back at no charge); a second one ends at once. HUP reads the configuration anew: a bad file changes nothing.
USR1 writes a status report to the log.

Examples:
  presswork run
  presswork --config /etc/presswork/jobs.toml run";

/// Run the daemon
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {}

/// Runs it until it is told to stop.
///
/// # Errors
/// What stood against starting, or against going on.
pub async fn run(cx: &Cx, _: Args) -> Result<(), CliError> {
    let config = (*cx.config).clone();
    telemetry::init(config.log_format, &config.log)
        .map_err(|e| CliError::usage(format!("daemon.log: {e}")))?;
    telemetry::install_panic_hook();
    for unread in config::unknown_variables(
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()),
    ) {
        tracing::warn!("{unread}");
    }
    let path = config.origin.clone();
    let reload = move || cx::read(path.as_deref()).map_err(|e| e.message);
    daemon::run(config, reload)
        .await
        .map_err(|e| CliError::new(Exit::Failed, format!("{e:#}")))
}
