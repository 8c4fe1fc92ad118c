//! `presswork dead`: dead letters, and what to do about them.

use super::cx::Cx;
use super::out::CliError;

/// Dead letters: look at them, revive them, give them up
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let _ = (cx, args);
    Err(CliError::failed("this build has no `dead` yet"))
}
