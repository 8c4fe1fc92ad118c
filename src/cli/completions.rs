//! `presswork completions` and `presswork man`: what a shell and a reader of manuals want, made from
//! the commands themselves.

use std::path::PathBuf;

use clap::Command;
use clap_complete::Shell;

use super::out::{CliError, Out};

const AFTER: &str = "\
Examples:
  presswork completions bash > /etc/bash_completion.d/presswork
  presswork completions zsh > ~/.zfunc/_presswork
  presswork completions fish > ~/.config/fish/completions/presswork.fish";

/// Print what makes a shell complete presswork's commands and options
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

const AFTER_MAN: &str = "\
Examples:
  presswork man /usr/local/share/man/man1
  presswork man . && man ./presswork-dead.1";

/// Write the manual pages, one a command, into a folder
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_MAN)]
pub struct ManArgs {
    /// The folder; it is made where it isn't there
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// Prints them.
///
/// # Errors
/// When standard output can't be written to.
pub fn run(out: Out, mut command: Command, args: &Args) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "presswork", &mut script);
    out.line(String::from_utf8_lossy(&script).trim_end())
}

/// Writes them.
///
/// # Errors
/// When the folder can't be written to.
pub fn man(out: Out, command: Command, args: &ManArgs) -> Result<(), CliError> {
    let folder = &args.folder;
    let told = |e: std::io::Error| CliError::failed(format!("{}: {e}", folder.display()));
    std::fs::create_dir_all(folder).map_err(told)?;
    clap_mangen::generate_to(command, folder).map_err(told)?;
    out.line(&format!("the manual pages are in {}", folder.display()))
}
