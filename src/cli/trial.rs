//! `presswork accounts test`: its platform is asked whether it takes an account, and who that is there.

use std::time::Duration;

use serde::Serialize;

use super::cx::Cx;
use super::out::{CliError, Exit, plain};
use crate::config::Home;
use crate::ledger::Ledger;
use crate::operate::{accounts, persons};
use crate::person::Person;
use crate::platform::http::Http;
use crate::platform::{self, Found};

/// How long a platform may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client that asks platforms.
///
/// # Errors
/// When there can be none here.
pub fn http(cx: &Cx) -> Result<Http, CliError> {
    Http::new(cx.clock.clone()).map_err(|e| CliError::failed(format!("{e:#}")))
}

/// What its platform said.
#[derive(Serialize)]
struct Tested<'a> {
    account: &'a str,
    works: bool,
    message: String,
    /// Whose its credentials are, where its platform tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    person: Option<Person>,
}

/// Asks the platform of an account whether it takes it, and learns who it is there.
///
/// # Errors
/// When it doesn't, or the account isn't one that can be asked about.
pub async fn run(cx: &Cx, ledger: &dyn Ledger, name: &str) -> Result<(), CliError> {
    let shown = accounts::one(ledger, &cx.config, name).await?;
    let account = cx.known().accounts.get(name);
    let account = account.ok_or_else(|| {
        CliError::conflict(format!(
            "account `{name}` isn't one that this program knows the platform of"
        ))
    })?;
    if let Some(why) = &account.unusable {
        return Err(CliError::conflict(format!("account `{name}`: {why}")));
    }
    let found = platform::ping(&http(cx)?, account, PATIENCE).await;
    let (works, message, person) = match found {
        Ok(Found { told, person }) => {
            let said = format!("{} takes it: {told}", account.platform);
            match (&shown.person, &person) {
                (Some(was), Some(is)) if was.id != is.id => {
                    let other = format!(
                        "{said}, but that is {is}, and the account is of {was}: give it credentials of {was}, or say by --replace (`renew`, `login`) that it is another's now"
                    );
                    (false, other, person)
                }
                _ => (true, said, person),
            }
        }
        Err(e) => (false, e.message, None),
    };
    if let (Home::Ledger { version }, Some(person)) = (&account.home, &person) {
        let by = cx.by("");
        persons::learn(ledger, &cx.config, (name, *version), (person, &by)).await?;
    }
    let message = crate::telemetry::redact::text(&message).into_owned();
    match cx.out.json {
        true => cx.out.document(&Tested {
            account: name,
            works,
            message,
            person,
        })?,
        false => cx
            .out
            .line(&format!("account {}: {}", plain(name), plain(&message)))?,
    }
    match works {
        true => Ok(()),
        false => Err(CliError::said(Exit::Failed)),
    }
}
