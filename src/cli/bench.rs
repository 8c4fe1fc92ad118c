//! `presswork bench`: how fast it is here.

use super::cx::Cx;
use super::out::CliError;

/// Measure how fast it is here, on private servers
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let _ = (cx, args);
    Err(CliError::failed("this build has no `bench` yet"))
}
