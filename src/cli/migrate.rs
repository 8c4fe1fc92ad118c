//! `presswork migrate`: the schema of the ledger.

use super::cx::Cx;
use super::out::CliError;

/// Bring the ledger's schema up to date
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let _ = (cx, args);
    Err(CliError::failed("this build has no `migrate` yet"))
}
