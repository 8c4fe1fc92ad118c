//! The command line: one file a command.

pub mod out;
pub mod cx;
pub mod pick;
pub mod editor;
pub mod story;
pub mod follow;
pub mod run;
pub mod reload;
pub mod dev;
pub mod sandbox;
pub mod watch;
pub mod columns;
pub mod rows;
pub mod bulk;
pub mod enqueue;
pub mod jobs;
pub mod explain;
pub mod dead;
pub mod unresolved;
pub mod quarantine;
pub mod lanes;
pub mod budgets;
pub mod stop;
pub mod go;
pub mod tokens;
mod paste;
mod trial;
pub mod login;
pub mod accounts;
pub mod kinds;
mod acl;
pub mod check;
pub mod migrate;
pub mod backup;
pub mod restore;
pub mod completions;
pub mod bench;
pub mod prove;

use std::ffi::OsString;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::command::keeper;
use cx::{Cx, Globals};
use out::{CliError, Colour, Exit, Out};

const ABOUT: &str =
    "A job daemon for people who make and publish things: nothing lost, nothing published
or paid for twice, every platform's rules kept.";

const AFTER: &str = "\
Examples:
  presswork dev                                   try it: nothing to install
  presswork enqueue generate.text --account studio --wait \\
      --payload '{\"model\": \"gpt-4.1-mini\", \"prompt\": \"A haiku about presses\"}'
  presswork jobs list                             what is going on
  presswork explain ID                            why one isn't running
  presswork dead list --group                     what went wrong, by cause
  presswork stop                                  nothing more is sent, on any host

Exit codes:
    0  done
    1  tried and failed (a job that was waited for died)
    2  asked wrongly (an unknown option, a bad payload, a bad jobs.toml)
    3  not found
    4  refused: it can't be done as things are (wrong state, a key that is taken)
    5  the ledger or the queue can't be reached
  130  interrupted (Ctrl-C)";

#[derive(Debug, Parser)]
#[command(name = "presswork", version, about = ABOUT, after_help = AFTER, max_term_width = 100)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::Args),
    Run(run::Args),
    Reload(reload::Args),
    Enqueue(enqueue::Args),
    Jobs(jobs::Args),
    Explain(explain::Args),
    Dead(dead::Args),
    Unresolved(unresolved::Args),
    Quarantine(quarantine::Args),
    Lanes(lanes::Args),
    Budgets(budgets::Args),
    Stop(stop::Args),
    Go(go::Args),
    Accounts(accounts::Args),
    Tokens(tokens::Args),
    Kinds(kinds::Args),
    Check(check::Args),
    Migrate(migrate::Args),
    Backup(backup::Args),
    Restore(restore::Args),
    Sandbox(sandbox::Args),
    Bench(bench::Args),
    Prove(prove::Args),
    Completions(completions::Args),
    Man(completions::ManArgs),
}

/// Does what the arguments ask (the first names the program), and returns the process's exit code.
///
/// Not `async`: the whole tree of commands would be compiled once more, in the binary.
pub fn main(args: Vec<OsString>) -> u8 {
    if let Some(code) = keeper::called(&args) {
        return code;
    }
    let json = args.iter().any(|it| it == "--json");
    let parsed = commands()
        .try_get_matches_from(args)
        .and_then(|it| Cli::from_arg_matches(&it));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => return misunderstood(&e, json) as u8,
    };
    let out = Out::new(cli.globals.json, cli.globals.color);
    match wait_for(command(cli, out)) {
        Ok(()) => Exit::Done as u8,
        Err(e) => {
            out.error(&e);
            e.exit as u8
        }
    }
}

fn wait_for(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().build();
    let runtime =
        runtime.map_err(|e| CliError::failed(format!("no threads can be started: {e}")))?;
    let done = runtime.block_on(command);
    // what still runs in the background must not keep a command from ending
    runtime.shutdown_background();
    done
}

/// The commands; those below a command show its examples and exit codes, too.
fn commands() -> clap::Command {
    Cli::command().mut_subcommands(|command| {
        let after = command.get_after_help().cloned();
        command.mut_subcommands(|below| match &after {
            Some(after) => below.after_help(after.clone()),
            None => below,
        })
    })
}

/// Help, the version, or what is wrong with the arguments, in clap's words.
fn misunderstood(e: &clap::Error, json: bool) -> Exit {
    if json && e.use_stderr() {
        let text = e.to_string();
        let message = text.trim_start_matches("error: ");
        // the way to the help is for people
        let message = message.split("\n\nFor more information").next();
        let message = message.unwrap_or_default().trim_end();
        Out::new(true, Colour::Never).error(&CliError::usage(message));
    } else {
        // there is nobody left to tell of a closed standard output
        let _ = e.print();
    }
    if e.use_stderr() {
        Exit::Usage
    } else {
        Exit::Done
    }
}

async fn command(cli: Cli, out: Out) -> Result<(), CliError> {
    let cx = || Cx::new(&cli.globals, out);
    match cli.command {
        // these need no configuration: one brings its own, one is the outside, one makes its own of what
        // the user's file says, two are about the command, one makes what the configuration is going to name
        Command::Dev(args) => dev::run(&cli.globals, out, args).await,
        Command::Sandbox(args) => sandbox::run(out, args).await,
        Command::Prove(args) => prove::run(&cli.globals, out, args).await,
        Command::Completions(args) => completions::run(out, commands(), &args),
        Command::Man(args) => completions::man(out, commands(), &args),
        Command::Accounts(args) if args.makes_a_key() => accounts::new_key(out),
        Command::Run(args) => run::run(&cli.globals, &cx()?, args).await,
        Command::Reload(args) => reload::run(&cx()?, args).await,
        Command::Enqueue(args) => enqueue::run(&cx()?, args).await,
        Command::Jobs(args) => jobs::run(&cx()?, args).await,
        Command::Explain(args) => explain::run(&cx()?, args).await,
        Command::Dead(args) => dead::run(&cx()?, args).await,
        Command::Unresolved(args) => unresolved::run(&cx()?, args).await,
        Command::Quarantine(args) => quarantine::run(&cx()?, args).await,
        Command::Lanes(args) => lanes::run(&cx()?, args).await,
        Command::Budgets(args) => budgets::run(&cx()?, args).await,
        Command::Stop(args) => stop::run(&cx()?, args).await,
        Command::Go(args) => go::run(&cx()?, args).await,
        Command::Accounts(args) => accounts::run(&cx()?, args).await,
        Command::Tokens(args) => tokens::run(&cx()?, args).await,
        Command::Kinds(args) => kinds::run(&cx()?, args).await,
        Command::Check(args) => check::run(&cx()?, args).await,
        Command::Migrate(args) => migrate::run(&cx()?, args).await,
        Command::Backup(args) => backup::run(&cx()?, args).await,
        Command::Restore(args) => restore::run(&cx()?, args).await,
        Command::Bench(args) => bench::run(&cx()?, args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_fit_together() {
        commands().debug_assert();
    }
}
