//! `presswork unresolved`: effects of which a person must say whether they happened.

use super::cx::Cx;
use super::out::CliError;

/// Effects of which only a person can say whether they happened
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let _ = (cx, args);
    Err(CliError::failed("this build has no `unresolved` yet"))
}
