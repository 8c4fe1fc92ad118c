//! `presswork jobs`: look at jobs, cancel them, let held ones go on.

use super::cx::Cx;
use super::out::CliError;

/// Look at jobs, cancel them, let held ones go on
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let _ = (cx, args);
    Err(CliError::failed("this build has no `jobs` yet"))
}
