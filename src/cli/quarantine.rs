//! `presswork quarantine`: what the inbox brought and could not be accepted.

use super::cx::Cx;
use super::out::CliError;

/// What the inbox brought and could not be accepted
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let _ = (cx, args);
    Err(CliError::failed("this build has no `quarantine` yet"))
}
