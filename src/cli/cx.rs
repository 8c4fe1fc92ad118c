//! What every command works with: the configuration, the ledger, the way to speak.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tokio::sync::OnceCell;

use super::out::{CliError, Colour, Exit, Out};
use crate::clock::Clock;
use crate::config::{Config, ConfigErrors, Place, Store};
use crate::handler::Kind;
use crate::intake::{Refusal, Rules};
use crate::ledger::{Ledger, LedgerError};
use crate::operate::By;
use crate::stores::{self, Role};

/// The options that every command takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Globals {
    /// The configuration [else $PRESSWORK_CONFIG, ./jobs.toml, /etc/presswork/jobs.toml]
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        help_heading = "Global options"
    )]
    pub config: Option<PathBuf>,
    /// Speak JSON, errors on standard error, too
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Colour; auto: on a terminal, unless NO_COLOR is set
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        hide_possible_values = true,
        hide_default_value = true,
        value_name = "auto|always|never",
        help_heading = "Global options"
    )]
    pub color: Colour,
}

/// What every command works with.
pub struct Cx {
    /// The configuration, as the file and the environment say it.
    pub config: Arc<Config>,
    /// How to speak.
    pub out: Out,
    /// This host's clock; what the ledger says by its own clock is asked of the ledger.
    pub clock: Clock,
    ledger: OnceCell<Arc<dyn Ledger>>,
    /// The configuration with the accounts of the ledger, once that is open.
    known: OnceLock<Arc<Config>>,
}

impl Cx {
    /// Reads the configuration; opens nothing yet.
    ///
    /// # Errors
    /// When the configuration is wrong: every error at once.
    pub fn new(globals: &Globals, out: Out) -> Result<Self, CliError> {
        Ok(Self::of(read(globals.config.as_deref())?, out))
    }

    /// With a configuration that was read already.
    pub fn of(config: Config, out: Out) -> Self {
        Self {
            config: Arc::new(config),
            out,
            clock: Clock::System,
            ledger: OnceCell::new(),
            known: OnceLock::new(),
        }
    }

    /// The ledger, opened at the first call; its schema fits this program.
    ///
    /// # Errors
    /// When it can't be reached, or was never migrated, or is newer than this program.
    pub async fn ledger(&self) -> Result<Arc<dyn Ledger>, CliError> {
        let opened = self.ledger.get_or_try_init(|| async {
            if let Store::Sqlite(file) = &self.config.ledger
                && !file.exists()
            {
                return Err(unmigrated(&format!(
                    "there is no ledger at {} yet",
                    file.display()
                )));
            }
            let ledger = self.open().await?;
            let schema = ledger.schema().await.map_err(|e| match e {
                // reached, but not let in: the password, the database's name
                LedgerError::Other(_) => CliError::away(e.to_string())
                    .hint("`presswork check` says what is wrong with it"),
                e => e.into(),
            })?;
            match schema.found {
                0 => Err(unmigrated("the ledger is empty")),
                found if found < schema.known => Err(unmigrated(&format!(
                    "the ledger's schema is version {found}, older than this program's {}",
                    schema.known
                ))),
                found if !schema.fits() => Err(CliError::away(format!(
                    "the ledger's schema is version {found}, newer than this program's {}",
                    schema.known
                ))
                .hint("use the newer presswork that migrated it")),
                _ => {
                    let (known, _) = self.config.with_kept(&ledger.accounts().await?);
                    let _ = self.known.set(Arc::new(known));
                    Ok(ledger)
                }
            }
        });
        opened.await.cloned()
    }

    /// The ledger as it is, whatever its schema.
    ///
    /// # Errors
    /// When it can't be opened.
    pub async fn open(&self) -> Result<Arc<dyn Ledger>, CliError> {
        let opened = stores::ledger(&self.config, &self.clock, Role::Command).await;
        opened.map_err(|e| {
            CliError::away(format!("the ledger can't be opened: {e:#}"))
                .hint("`presswork check` says what is wrong with it")
        })
    }

    /// The bound on unfinished jobs holds at this door, too.
    ///
    /// # Errors
    /// When it is reached.
    pub async fn room(&self, ledger: &dyn Ledger) -> Result<(), CliError> {
        let counts = ledger.counts().await?;
        let unfinished = counts.iter().filter(|((_, state), _)| !state.is_terminal());
        let most = self.config.backlog_max;
        if unfinished.map(|(_, n)| n).sum::<u64>() < most {
            return Ok(());
        }
        let told = format!("the backlog is at its bound of {most} unfinished jobs");
        Err(CliError::conflict(told)
            .hint("try again later, or raise inbox.backlog_max in jobs.toml"))
    }

    /// The configuration with the accounts of the ledger, where that was opened; else without.
    pub fn known(&self) -> &Arc<Config> {
        self.known.get().unwrap_or(&self.config)
    }

    /// What intake decides by.
    pub fn rules(&self) -> Rules {
        Rules {
            config: self.known().clone(),
            kinds: kinds(),
        }
    }

    /// The person at the terminal, for the audit.
    pub fn by(&self, reason: impl Into<String>) -> By {
        let name = |it: &str| std::env::var(it).ok().filter(|it| !it.is_empty());
        By {
            actor: name("USER")
                .or_else(|| name("LOGNAME"))
                .unwrap_or_else(|| "cli".to_owned()),
            reason: reason.into(),
        }
    }
}

fn unmigrated(what: &str) -> CliError {
    CliError::new(Exit::Away, what)
        .hint("`presswork migrate` prepares it; the daemon does so by itself when it starts")
}

/// The kinds that this program knows.
pub fn kinds() -> Arc<[Kind]> {
    crate::kinds::all().into()
}

/// Tells what is wrong with a job of this kind.
pub fn refused(kind: &str, refusal: &Refusal) -> CliError {
    let hint = match crate::kinds::find(kind) {
        Some(kind) => format!(
            "`presswork kinds schema {}` says what it takes",
            kind.name()
        ),
        None => "`presswork kinds` lists them".to_owned(),
    };
    CliError::violations("the job is refused", &refusal.violations)
        .with("reason", refusal.reason)
        .hint(hint)
}

/// The configuration of a path, of the environment, of `jobs.toml`, or the built-in one.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn read(path: Option<&Path>) -> Result<Config, CliError> {
    let env = |name: &str| std::env::var(name).ok();
    Config::load(path, &env).map_err(|e| wrong_config(&e))
}

/// What is wrong with a configuration, for people and for programs.
pub fn wrong_config(e: &ConfigErrors) -> CliError {
    let file = e.origin.as_ref().map(|it| it.display().to_string());
    let errors: Vec<serde_json::Value> = e
        .errors
        .iter()
        .map(|it| {
            let mut error = serde_json::json!({"key": it.key, "message": it.message});
            match &it.place {
                Place::File { line, column } => {
                    error["file"] = file.clone().into();
                    error["line"] = (*line).into();
                    error["column"] = (*column).into();
                }
                Place::Variable(name) => error["variable"] = name.clone().into(),
                Place::Nowhere => {}
            }
            error
        })
        .collect();
    let lines: String = e
        .to_string()
        .lines()
        .map(|it| format!("\n  {it}"))
        .collect();
    CliError::usage(format!("the configuration is wrong:{lines}")).with("errors", errors)
}
