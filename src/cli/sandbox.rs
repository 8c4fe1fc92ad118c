//! `presswork sandbox`: a simulated internet.

use super::cx::Cx;
use super::out::CliError;

/// Run the sandbox: OpenAI, Mastodon and Bluesky as they would answer
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let _ = (cx, args);
    Err(CliError::failed("this build has no `sandbox` yet"))
}
