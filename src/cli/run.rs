//! `presswork run`: the daemon.

use super::cx::Cx;
use super::out::CliError;

/// Run the daemon
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let _ = (cx, args);
    Err(CliError::failed("this build has no `run` yet"))
}
