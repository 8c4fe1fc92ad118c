//! `presswork kinds`: what jobs can be, and their schemas.

use super::cx::Cx;
use super::out::CliError;

/// What jobs can be, and their JSON Schemas
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let _ = (cx, args);
    Err(CliError::failed("this build has no `kinds` yet"))
}
