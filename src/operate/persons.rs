//! Whose the credentials of accounts are: asked, and learned.

use std::time::Duration;

use super::accounts;
use super::deed::{By, Refused};
use crate::account::Kept;
use crate::config::{Account, Config, kept};
use crate::ledger::Ledger;
use crate::person::{Person, Whose};
use crate::platform;
use crate::platform::http::Http;

/// How long a platform may take to tell, each time that it is asked.
const PATIENCE: Duration = Duration::from_secs(6);

/// Asks whose an account's credentials are.
pub async fn whose(http: &Http, account: &Account) -> Whose {
    platform::whose(http, account, PATIENCE).await
}

/// Asks who an account is, by the credentials that it has, and writes it down, where nobody did before. What
/// isn't told stays unknown: they may be past.
///
/// # Errors
/// When the account is gone, or the ledger is away.
pub async fn ask(
    http: &Http,
    (ledger, config): (&dyn Ledger, &Config),
    was: &Kept,
    by: &By,
) -> Result<(), Refused> {
    if was.person.is_some() || !was.state.goes() {
        return Ok(());
    }
    let Ok(account) = kept::made(&config.vault, was) else {
        return Ok(());
    };
    if let Whose::Of(person) = whose(http, &account).await {
        learn(ledger, config, (&was.name, was.version), (&person, by)).await?;
    }
    Ok(())
}

/// Writes down who an account is, as its platform has just told of its credentials of this `version`. Whether
/// that is new: what is known stays.
///
/// # Errors
/// When there is no such account in the ledger, or that is away.
pub async fn learn(
    ledger: &dyn Ledger,
    config: &Config,
    (name, version): (&str, i64),
    (person, by): (&Person, &By),
) -> Result<bool, Refused> {
    let by = By {
        actor: by.actor.clone(),
        reason: format!("of {person}"),
    };
    let change = |was: Kept| {
        let is_new = was.person.is_none() && was.version == version;
        Ok(is_new.then(|| Kept {
            person: Some(person.clone()),
            ..was
        }))
    };
    accounts::put(ledger, config, name, ("account.person", &by), change).await
}
