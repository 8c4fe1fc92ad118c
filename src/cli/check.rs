//! `presswork check`: the configuration and the connections.

use super::cx::Cx;
use super::out::CliError;

/// Check the configuration and the connections
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let _ = (cx, args);
    Err(CliError::failed("this build has no `check` yet"))
}
