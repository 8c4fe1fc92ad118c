//! `presswork lanes`: lanes, paused and let go on.

use super::cx::Cx;
use super::out::CliError;

/// Lanes: how they stand; pause them and let them go on
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let _ = (cx, args);
    Err(CliError::failed("this build has no `lanes` yet"))
}
