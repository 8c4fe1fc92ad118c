//! `presswork reload`: the running daemon reads its configuration anew.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::cx::Cx;
use super::out::{CliError, Exit};
use crate::daemon::{Reloaded, holder};

const AFTER: &str = "\
The file is checked here first, as a whole; then the daemon on this host that uses the same state
folder (daemon.state_dir) is told (SIGHUP), and its answer is waited for. Attempts that run keep the
configuration they began with. A file that is wrong changes nothing.

Examples:
  presswork reload
  presswork --config /etc/presswork/jobs.toml reload --json

Exit codes: 0 the new configuration holds, 2 it is wrong, 3 no daemon runs here, 1 no answer";

/// The longest wait for the daemon's answer.
const PATIENCE: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Let the running daemon read its configuration anew
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// When no daemon runs here, or it doesn't answer, or says that the configuration is wrong.
pub async fn run(cx: &Cx, _args: Args) -> Result<(), CliError> {
    super::run::known_kinds(&cx.config)?;
    let folder = &cx.config.state_dir;
    let seen = holder(folder)
        .map_err(|e| CliError::failed(format!("{} can't be read: {e}", folder.display())))?;
    let pid = seen
        .and_then(|it| i32::try_from(it).ok())
        .and_then(Pid::from_raw);
    let Some(pid) = pid else {
        let message = format!("no daemon holds {}", folder.display());
        return Err(CliError::missing(message)
            .hint("`presswork run` starts one; another daemon.state_dir is another daemon"));
    };
    let before = Reloaded::last(folder);
    kill_process(pid, Signal::HUP).map_err(|e| {
        CliError::failed(format!(
            "process {} can't be told: {e}",
            pid.as_raw_nonzero()
        ))
        .hint("be the user that the daemon runs as, or `systemctl reload presswork`")
    })?;
    let answer = tokio::time::timeout(PATIENCE, async {
        loop {
            match Reloaded::last(folder) {
                Some(it) if Some(&it) != before.as_ref() => return it,
                _ => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    });
    let answer = answer.await.map_err(|_| {
        CliError::failed(format!("the daemon didn't answer within {PATIENCE:?}"))
            .hint("its log may say why")
    })?;
    if let Some(error) = answer.error {
        let message = format!("the daemon keeps the old configuration: {error}");
        return Err(CliError::new(Exit::Usage, message));
    }
    if cx.out.json {
        return cx.out.document(&answer);
    }
    cx.out.line("the daemon has read its configuration anew")
}
