//! `presswork dev`: everything on one machine, with samples.

use super::cx::Cx;
use super::out::CliError;

/// Try it: everything on this machine, nothing installed, with sample jobs
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let _ = (cx, args);
    Err(CliError::failed("this build has no `dev` yet"))
}
