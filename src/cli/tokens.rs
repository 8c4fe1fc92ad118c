//! `presswork tokens`: who may ask the API and the Redis port for what.

use std::time::Duration;

use clap::Subcommand;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::cx::Cx;
use super::out::{Cell, CliError, Table, Tone, plain, stamp};
use super::pick::span;
use crate::api::keyring::FRESH;
use crate::ledger::Ledger;
use crate::operate::tokens::{self, Known, Wanted};
use crate::token::{Grant, Scope, Standing, Token, TokenId};

const AFTER: &str = "\
Examples:
  presswork tokens create --name 'shop, staging' --scope 'enqueue:post.*' --scope read \\
      --tenant shop --expires 90d
  presswork tokens list
  presswork tokens revoke 01a2013bd0be76ac --reason 'left in a log'

Scopes:
  enqueue       make jobs; enqueue:KIND of one kind, 'enqueue:post.*' of all that begin so
  read          see jobs, their receipts and the metrics
  operate       read; cancel and resolve jobs; see why things went wrong in an operator's words
  admin         everything

A token is shown as `Authorization: Bearer TOKEN` over HTTP, and as the password of the Redis port. One
that is bound to a tenant makes and sees that tenant's jobs only. A running daemon notices a revocation
within two seconds.

Exit codes: 0 done, 2 asked wrongly, 3 no such token, 4 it can't be made so, 5 ledger away";

/// Tokens: who may ask the API and the Redis port for what
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a token; it is shown this once
    Create {
        /// What people call it: who has it, and for what
        #[arg(long, value_name = "NAME")]
        name: String,
        /// What it may do; several times for several
        #[arg(long, value_name = "SCOPE", required = true)]
        scope: Vec<Scope>,
        /// Whose jobs alone it makes and sees
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// Until when it counts: 90s, 15m, 2h, 90d; unless said, until it is revoked
        #[arg(long, value_name = "SPAN", value_parser = span)]
        expires: Option<Duration>,
    },
    /// List the tokens, newest first
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Show a token: all but its secret, which nobody has kept
    Show {
        /// Its id: 16 digits
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Take a token back, for good
    Revoke {
        /// Its id: 16 digits
        #[arg(value_name = "ID")]
        id: String,
        /// Why, for the audit
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "",
            hide_default_value = true
        )]
        reason: String,
    },
}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let ledger = cx.ledger().await?;
    let ledger = &*ledger;
    match args.command {
        Command::Create {
            name,
            scope,
            tenant,
            expires,
        } => {
            let grant = Grant {
                scopes: scope,
                tenant,
            };
            let wanted = Wanted {
                name,
                grant,
                expires,
            };
            create(cx, ledger, &wanted).await
        }
        Command::List { limit } => list(cx, ledger, limit).await,
        Command::Show { id } => show(cx, &tokens::known(ledger, read(&id)?).await?),
        Command::Revoke { id, reason } => revoke(cx, ledger, read(&id)?, &reason).await,
    }
}

/// Not clap's to read: it would repeat what was said, which may be the whole token.
fn read(id: &str) -> Result<TokenId, CliError> {
    id.parse().map_err(CliError::usage)
}

/// A new token, the only time that it is shown.
#[derive(Serialize)]
struct Created<'a> {
    token: &'a str,
    #[serde(flatten)]
    kept: &'a Token,
}

async fn create(cx: &Cx, ledger: &dyn Ledger, wanted: &Wanted) -> Result<(), CliError> {
    let created = tokens::create(ledger, wanted, &cx.by("")).await?;
    let token = created.text.expose_secret();
    if cx.out.json {
        let kept = &created.token;
        return cx.out.document(&Created { token, kept });
    }
    cx.out.line(token)?;
    cx.out.note(&format!(
        "This is token {}. It is never shown again: the ledger keeps only a digest of it.",
        created.token.id
    ));
    Ok(())
}

async fn list(cx: &Cx, ledger: &dyn Ledger, limit: u32) -> Result<(), CliError> {
    let all = tokens::all(ledger, limit).await?;
    if cx.out.json {
        return cx.out.document(&all);
    }
    let mut table = Table::new(&["ID", "NAME", "SCOPES", "TENANT", "CREATED", "USED", "", ""]);
    for Known { token, standing } in &all {
        let used = token.last_used_at.map_or("never".to_owned(), stamp);
        table.row([
            token.id.to_string().into(),
            token.name.as_str().into(),
            token.grant.words().into(),
            token.grant.tenant.as_deref().unwrap_or("any").into(),
            stamp(token.created_at).into(),
            used.into(),
            Cell::toned(tone(*standing), standing.as_str()),
            ends(token).into(),
        ]);
    }
    table.print(&cx.out)
}

fn tone(standing: Standing) -> Tone {
    match standing {
        Standing::Good => Tone::Good,
        Standing::Expired | Standing::Revoked => Tone::Faint,
    }
}

fn ends(token: &Token) -> String {
    match (token.revoked_at, token.expires_at) {
        (Some(at), _) => format!("since {}", stamp(at)),
        (None, Some(at)) => format!("until {}", stamp(at)),
        (None, None) => String::new(),
    }
}

fn show(cx: &Cx, known: &Known) -> Result<(), CliError> {
    if cx.out.json {
        return cx.out.document(known);
    }
    let token = &known.token;
    let ends = [known.standing.as_str().to_owned(), ends(token)];
    let mut table = Table::new(&["TOKEN", &token.id.to_string()]);
    for (what, value) in [
        ("name", token.name.clone()),
        ("scopes", token.grant.words()),
        (
            "tenant",
            token.grant.tenant.clone().unwrap_or("any".to_owned()),
        ),
        (
            "created",
            format!("{} by {}", stamp(token.created_at), token.created_by),
        ),
        (
            "last used",
            token.last_used_at.map_or("never".to_owned(), stamp),
        ),
        ("standing", ends.join(" ").trim_end().to_owned()),
    ] {
        table.row([what.into(), value.into()]);
    }
    table.print(&cx.out)
}

/// What a revocation did.
#[derive(Serialize)]
struct Revoked {
    #[serde(flatten)]
    known: Known,
    changed: bool,
}

async fn revoke(cx: &Cx, ledger: &dyn Ledger, id: TokenId, reason: &str) -> Result<(), CliError> {
    let (known, changed) = tokens::revoke(ledger, id, &cx.by(reason)).await?;
    if cx.out.json {
        return cx.out.document(&Revoked { known, changed });
    }
    let name = plain(&known.token.name);
    cx.out.line(&match changed {
        true => format!(
            "token {id} ({name}) is revoked; daemons know it within {} s",
            FRESH.as_secs()
        ),
        false => format!("token {id} ({name}) was revoked before; nothing was changed"),
    })
}
