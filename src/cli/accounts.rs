//! `presswork accounts`: the accounts of platforms, and how they stand.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::cx::Cx;
use super::login;
use super::out::{Cell, CliError, Exit, Out, Table, Tone, plain, stamp};
use super::paste;
use super::pick::span;
use super::trial;
use crate::account::{Credentials, State};
use crate::clock::{Time, when};
use crate::config::kept;
use crate::config::words::PLATFORMS;
use crate::ledger::Ledger;
use crate::operate::By;
use crate::operate::accounts::{self, Others, Shown, Wanted};
use crate::operate::persons;
use crate::person::Whose;
use crate::vault::Key;

const AFTER: &str = "\
An account stands in jobs.toml, or in the ledger, where its credentials are encrypted with a key that isn't
there ([vault] of jobs.toml). Daemons notice within a second what is changed here.

Examples:
  presswork accounts new-key > /etc/presswork/vault-key      once; then name it in [vault]
  presswork accounts add news --platform mastodon --set base_url=https://mastodon.example
                                                             asks for the token, and doesn't show it
  presswork accounts add films --platform s3 --set bucket=films < films.json
                                                             {\"secret\": \"...\", \"access_key_id\": \"...\"}
  presswork accounts login bird --client news-app             prints an address to open in a browser
  presswork accounts list
  presswork accounts test news                               ask the platform whether it takes it
  presswork accounts renew news --secret-file token          its jobs go on where they wait
  presswork accounts rotate-keys                             after a new key was put in front

Credentials are pasted, or come from standard input, a file or a variable: a secret on a line of its own, or
JSON with the keys that jobs.toml has for them (secret, access_key_id, webhook_secret, previous_secret).

Exit codes: 0 done, 1 the platform doesn't take it (test), or not all could be done (rotate-keys),
2 asked wrongly, 3 no such account, 4 it can't be done as things are, 5 ledger away";

/// Accounts: who acts at platforms, how they stand, with which credentials
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

/// Where credentials come from.
#[derive(Debug, clap::Args)]
struct From {
    /// Take the credentials from this variable
    #[arg(long, value_name = "NAME", conflicts_with = "secret_file")]
    secret_env: Option<String>,
    /// Take the credentials from this file
    #[arg(long, value_name = "PATH")]
    secret_file: Option<PathBuf>,
    /// How long they are good for, where that is known: 60d, 2h
    #[arg(long, value_name = "SPAN", value_parser = span)]
    expires: Option<Duration>,
}

/// Why something is done.
#[derive(Debug, clap::Args)]
struct Reason {
    /// Why, for those who wonder
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add an account to the ledger; its credentials are pasted, or come from standard input
    Add {
        /// Its name, as jobs name it
        #[arg(value_name = "NAME")]
        name: String,
        /// Its platform
        #[arg(long, value_name = "PLATFORM", value_parser = PLATFORMS)]
        platform: String,
        /// Whose jobs alone may use it
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// What people call it
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "",
            hide_default_value = true
        )]
        label: String,
        /// What jobs.toml would say of it: base_url=https://..., identifier=...; several times for several
        #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
        settings: Vec<(String, String)>,
        #[command(flatten)]
        from: From,
    },
    /// List the accounts of the ledger and of jobs.toml, and how they stand
    List,
    /// Show an account: all but its secrets
    Show {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Ask the platform whether it takes the account: one read, which costs nothing
    Test {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Give an account other credentials: its jobs go on where they wait
    Renew {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        from: From,
        /// Also where they are another person's: its jobs go out as that one
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        why: Reason,
    },
    /// Log an account in by a browser, and make it where there is none: its token is renewed from then on
    Login {
        /// Its name, as jobs name it
        #[arg(value_name = "NAME")]
        name: String,
        /// The app: NAME of an [oauth.NAME] in jobs.toml
        #[arg(long, value_name = "NAME")]
        client: String,
        /// Its platform, where the app's issuer has several
        #[arg(long, value_name = "PLATFORM", value_parser = PLATFORMS)]
        platform: Option<String>,
        /// Whose jobs alone may use it
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// What people call it
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "",
            hide_default_value = true
        )]
        label: String,
        /// What jobs.toml would say of it: identifier=...; several times for several
        #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
        settings: Vec<(String, String)>,
        /// The port of this machine that the browser comes back to (8723, or that of redirect_url)
        #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
        port: Option<u16>,
        /// The browser comes back to the API's public address, where the daemon ends the login
        #[arg(long, conflicts_with = "port")]
        public: bool,
        /// Also where the account is another person's: its jobs go out as who logs in
        #[arg(long)]
        replace: bool,
    },
    /// Stop an account's jobs, on all hosts
    Pause {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        why: Reason,
    },
    /// Let an account's jobs go on: after a pause, or after its credentials were refused
    Resume {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        why: Reason,
    },
    /// Forget an account, and its credentials
    Remove {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        /// Also where unfinished jobs name it: they wait for an account of that name
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        why: Reason,
    },
    /// Encrypt all credentials with the first key of [vault]
    RotateKeys,
    /// Print a new key for [vault]: 32 random bytes in base64
    NewKey,
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, such as base_url=https://mastodon.example".to_owned()),
    }
}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let ledger = cx.ledger().await?;
    let (ledger, config) = (&*ledger, &**cx.known());
    match args.command {
        Command::Add {
            name,
            platform,
            tenant,
            label,
            settings,
            from,
        } => {
            let wanted = Wanted {
                settings: together(settings)?,
                expires_at: expiry(ledger, &from).await?,
                name,
                platform,
                tenant,
                label,
                ..Wanted::default()
            };
            add(cx, ledger, wanted, &from).await
        }
        Command::List => list(cx, ledger).await,
        Command::Show { name } => show(cx, ledger, &name).await,
        Command::Test { name } => trial::run(cx, ledger, &name).await,
        Command::Renew {
            name,
            from,
            replace,
            why,
        } => {
            let shown = accounts::one(ledger, config, &name).await?;
            if shown.home != "ledger" {
                let said = format!("account `{}` stands in jobs.toml", plain(&name));
                return Err(CliError::conflict(said)
                    .hint("put the new secret where jobs.toml names it, then `presswork reload`"));
            }
            let credentials = pasted(&from, &shown.platform).await?;
            let expires_at = expiry(ledger, &from).await?;
            let by = cx.by(why.reason);
            // nothing can be compared with a person that isn't known; a test asks
            let whose = match shown.person {
                None => Whose::Untold,
                Some(_) => {
                    let is = kept::account(&name, &shown.platform, &shown.settings, &credentials);
                    persons::whose(&trial::http(cx)?, &is.map_err(CliError::conflict)?).await
                }
            };
            let others = Others {
                credentials: &credentials,
                scopes: &[],
                expires_at,
                whose,
                insists: replace,
            };
            let kept = accounts::renew(ledger, config, &name, others, &by).await?;
            let said = match kept.state {
                State::Paused => "has other credentials, and is still paused",
                _ => "has other credentials; its jobs go on within a second",
            };
            done(cx, ledger, &name, (said, true)).await
        }
        Command::Login {
            name,
            client,
            platform,
            tenant,
            label,
            settings,
            port,
            public,
            replace,
        } => {
            let asked = login::Asked {
                name: name.clone(),
                client,
                platform,
                tenant,
                label,
                settings: together(settings)?,
                port,
                public,
                replace,
            };
            let told = login::run(cx, ledger, asked).await?;
            match cx.out.json {
                true => done(cx, ledger, &name, ("", true)).await,
                false => cx.out.line(&plain(&told)),
            }
        }
        Command::Pause { name, why } => {
            let changed = accounts::pause(ledger, config, &name, &cx.by(why.reason)).await?;
            let said = match changed {
                true => "is paused: no permit is given for it any more, on any host",
                false => "was paused before",
            };
            done(cx, ledger, &name, (said, changed)).await
        }
        Command::Resume { name, why } => {
            let changed = accounts::resume(ledger, config, &name, &cx.by(why.reason)).await?;
            let said = match changed {
                true => "goes on within a second",
                false => "wasn't stopped; nothing was changed",
            };
            done(cx, ledger, &name, (said, changed)).await
        }
        Command::Remove { name, force, why } => {
            accounts::remove(ledger, config, &name, force, &cx.by(why.reason)).await?;
            match cx.out.json {
                true => cx.out.document(&serde_json::json!({"removed": name})),
                false => {
                    let said = format!(
                        "account {} is forgotten, with its credentials",
                        plain(&name)
                    );
                    cx.out.line(&said)
                }
            }
        }
        Command::RotateKeys => rotate(cx, ledger, &cx.by("")).await,
        Command::NewKey => new_key(cx.out),
    }
}

impl Args {
    /// It makes what a configuration is going to name, so it needs none.
    pub fn makes_a_key(&self) -> bool {
        matches!(self.command, Command::NewKey)
    }
}

/// Prints a new key for `[vault]`.
///
/// # Errors
/// When the system has no random bytes, or standard output can't be written to.
pub fn new_key(out: Out) -> Result<(), CliError> {
    let key = Key::fresh().map_err(CliError::failed)?;
    match out.json {
        true => out.document(&serde_json::json!({"key": key.expose_secret()})),
        false => out.line(key.expose_secret()),
    }
}

fn together(all: Vec<(String, String)>) -> Result<BTreeMap<String, String>, CliError> {
    let mut settings = BTreeMap::new();
    for (key, value) in all {
        if settings.insert(key.clone(), value).is_some() {
            return Err(CliError::usage(format!("--set {key} is said twice")));
        }
    }
    Ok(settings)
}

async fn expiry(ledger: &dyn Ledger, from: &From) -> Result<Option<Time>, CliError> {
    let Some(span) = from.expires else {
        return Ok(None);
    };
    let now = ledger.now().await?;
    let span = chrono::Duration::from_std(span).ok();
    let until = span.and_then(|it| now.checked_add_signed(it));
    until
        .map(Some)
        .ok_or_else(|| CliError::usage("--expires: it would end beyond all time"))
}

async fn pasted(from: &From, platform: &str) -> Result<Credentials, CliError> {
    let source = match (&from.secret_env, &from.secret_file) {
        (Some(name), _) => paste::Source::Variable(name.clone()),
        (None, Some(path)) => paste::Source::File(path.clone()),
        (None, None) => paste::Source::Standard,
    };
    let is_bucket = ["s3", "gcs"].contains(&platform);
    let read = tokio::task::spawn_blocking(move || paste::credentials(&source, is_bucket));
    read.await
        .map_err(|e| CliError::failed(e.to_string()))?
        .map_err(CliError::usage)
}

async fn add(cx: &Cx, ledger: &dyn Ledger, wanted: Wanted, from: &From) -> Result<(), CliError> {
    if cx.config.vault.first().is_none() {
        return Err(CliError::conflict(
            crate::vault::Unsealed::NoKey.to_string(),
        ));
    }
    let credentials = pasted(from, &wanted.platform).await?;
    let name = wanted.name.clone();
    accounts::add(ledger, cx.known(), wanted, &credentials, &cx.by("")).await?;
    let said = "is in the ledger; daemons know it within a second";
    done(cx, ledger, &name, (said, true)).await?;
    cx.out.note(&format!(
        "`presswork accounts test {}` asks its platform.",
        plain(&name)
    ));
    Ok(())
}

/// What became of an account.
#[derive(Serialize)]
struct Done {
    #[serde(flatten)]
    account: Shown,
    changed: bool,
}

async fn done(
    cx: &Cx,
    ledger: &dyn Ledger,
    name: &str,
    (said, changed): (&str, bool),
) -> Result<(), CliError> {
    if cx.out.json {
        let account = accounts::one(ledger, &cx.config, name).await?;
        return cx.out.document(&Done { account, changed });
    }
    cx.out.line(&format!("account {} {said}", plain(name)))
}

fn tone(state: State) -> Tone {
    match state {
        State::Ok => Tone::Good,
        State::Refreshing => Tone::Busy,
        State::Attention => Tone::Bad,
        State::Paused => Tone::Warn,
    }
}

async fn list(cx: &Cx, ledger: &dyn Ledger) -> Result<(), CliError> {
    let all = accounts::all(ledger, &cx.config).await?;
    if cx.out.json {
        return cx.out.document(&all);
    }
    let now = ledger.now().await?;
    let mut table = Table::new(&[
        "NAME",
        "PLATFORM",
        "TENANT",
        "STATE",
        "EXPIRES",
        "KEY",
        "STANDS IN",
        "",
    ]);
    for it in &all {
        let said = it.problem.as_ref().or(it.why.as_ref());
        table.row([
            it.name.as_str().into(),
            it.platform.as_str().into(),
            it.tenant.as_deref().unwrap_or("any").into(),
            Cell::toned(tone(it.state), it.state.as_str()),
            it.expires_at.map_or("-".into(), |at| when(at, now).into()),
            it.key.as_deref().unwrap_or("-").into(),
            it.home.into(),
            said.map_or("", String::as_str).into(),
        ]);
    }
    table.print(&cx.out)
}

async fn show(cx: &Cx, ledger: &dyn Ledger, name: &str) -> Result<(), CliError> {
    let it = accounts::one(ledger, &cx.config, name).await?;
    if cx.out.json {
        return cx.out.document(&it);
    }
    let mut table = Table::new(&["ACCOUNT", &plain(&it.name)]);
    let mut row = |what: &str, value: Option<String>| {
        if let Some(value) = value.filter(|it| !it.is_empty()) {
            table.row([what.into(), value.into()]);
        }
    };
    row("platform", Some(it.platform));
    row("label", Some(it.label));
    row(
        "tenant",
        Some(it.tenant.unwrap_or_else(|| "any".to_owned())),
    );
    row("stands in", Some(it.home.to_owned()));
    for (key, value) in it.settings {
        row(&key, Some(value));
    }
    row("state", Some(it.state.to_string()));
    row("why", it.why);
    row("since", it.since.map(stamp));
    row("problem", it.problem);
    row("scopes", Some(it.scopes.join(" ")));
    row("expires", it.expires_at.map(stamp));
    row("renewed by", it.client.map(|it| format!("[oauth.{it}]")));
    row(
        "credentials",
        it.version.map(|it| format!("the {it}. that it has had")),
    );
    row("key", it.key);
    let added = it.created_at.zip(it.created_by);
    row(
        "added",
        added.map(|(at, by)| format!("{} by {by}", stamp(at))),
    );
    row("is there", it.person.map(|it| it.to_string()));
    table.print(&cx.out)
}

async fn rotate(cx: &Cx, ledger: &dyn Ledger, by: &By) -> Result<(), CliError> {
    let told = |n: usize, all: usize| {
        if n != 0 && n.is_multiple_of(100) {
            cx.out.note(&format!("{n} of {all} accounts"));
        }
    };
    let rotated = accounts::rotate(ledger, cx.known(), by, told).await?;
    if cx.out.json {
        cx.out.document(&rotated)?;
    } else {
        let (now, before) = (rotated.rotated.len(), rotated.before);
        let key = plain(&rotated.key);
        cx.out.line(&format!(
            "{now} accounts are encrypted with the key {key} now, {before} were before"
        ))?;
        for (name, why) in &rotated.failed {
            cx.out.line(&format!("{}: {}", plain(name), plain(why)))?;
        }
        for id in &rotated.unused {
            cx.out.line(&format!(
                "nothing is encrypted with the key {} any more: take it out of [vault] on every host",
                plain(id)
            ))?;
        }
    }
    match rotated.failed.is_empty() {
        true => Ok(()),
        false => Err(CliError::said(Exit::Failed)),
    }
}
