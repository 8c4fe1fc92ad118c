//! `presswork enqueue`: a job from the command line.

use super::cx::Cx;
use super::out::CliError;

/// Enqueue a job, and wait for its end if asked
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let _ = (cx, args);
    Err(CliError::failed("this build has no `enqueue` yet"))
}
