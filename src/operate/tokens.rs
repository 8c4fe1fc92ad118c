//! Tokens of the API: made, looked at, taken back.

use std::time::Duration;

use secrecy::SecretString;
use serde::Serialize;

use super::deed::{By, Refused};
use crate::clock::Time;
use crate::job::envelope::is_name;
use crate::ledger::{Audit, Ledger};
use crate::token::{Grant, Minted, Standing, Token, TokenId, check_name};

/// A token as it is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub grant: Grant,
    /// How long; `None`: until it is revoked.
    pub expires: Option<Duration>,
}

/// A new token: its text is known here and now only.
pub struct Created {
    /// The token as it is kept.
    pub token: Token,
    /// The token as it is shown once.
    pub text: SecretString,
}

/// A token, and whether it counts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Known {
    /// The token.
    #[serde(flatten)]
    pub token: Token,
    /// Whether it counts now, by the ledger's clock.
    pub standing: Standing,
}

impl Known {
    fn of(token: Token, now: Time) -> Self {
        let standing = token.standing(now);
        Self { token, standing }
    }
}

/// Ids are random: a second try after a taken one is one too many already.
const TRIES: usize = 3;

/// Makes a token.
///
/// # Errors
/// When its name, its tenant or its time is no such thing.
pub async fn create(ledger: &dyn Ledger, wanted: &Wanted, by: &By) -> Result<Created, Refused> {
    check_name(&wanted.name).map_err(Refused::Unfit)?;
    if let Some(tenant) = wanted.grant.tenant.as_deref().filter(|it| !is_name(it)) {
        let said = format!("`{tenant}` is no tenant's name: letters, digits and ._-@:/+");
        return Err(Refused::Unfit(said));
    }
    let now = ledger.now().await?;
    let expires_at = wanted.expires.map(|it| {
        let span = chrono::Duration::from_std(it).ok();
        let until = span.and_then(|it| now.checked_add_signed(it));
        until.ok_or_else(|| Refused::Unfit("it would end beyond all time".to_owned()))
    });
    let expires_at = expires_at.transpose()?;
    for _ in 0..TRIES {
        let minted = Minted::new().map_err(Refused::Unfit)?;
        let token = Token {
            id: minted.id,
            name: wanted.name.clone(),
            digest: minted.digest,
            grant: wanted.grant.clone(),
            created_at: now,
            created_by: by.actor.clone(),
            expires_at,
            revoked_at: None,
            last_used_at: None,
        };
        let audit = audit("token.create", &token, by);
        if ledger.add_token(&token, &audit).await? {
            let text = minted.text;
            return Ok(Created { token, text });
        }
    }
    let said = "no id was free: the system's random bytes aren't random";
    Err(Refused::Unfit(said.to_owned()))
}

/// Who did what to which token, without its secret.
fn audit(action: &str, token: &Token, by: &By) -> Audit {
    let (id, name, words) = (token.id, &token.name, token.grant.words());
    let tenant = token.grant.tenant.as_ref();
    let tenant = tenant.map_or(String::new(), |it| format!(", tenant {it}"));
    let reason = match by.reason.as_str() {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    Audit {
        actor: by.actor.clone(),
        action: action.to_owned(),
        job: None,
        detail: format!("{id} ({name}; {words}{tenant}){reason}"),
        at: token.created_at,
    }
}

/// The token of an id.
///
/// # Errors
/// When there is none.
pub async fn known(ledger: &dyn Ledger, id: TokenId) -> Result<Known, Refused> {
    let found = ledger.token(id).await?;
    let known = found.map(|(token, now)| Known::of(token, now));
    known.ok_or_else(|| {
        Refused::Missing(format!(
            "there is no token {id}; `presswork tokens list` shows those there are"
        ))
    })
}

/// Tokens, newest first, at most `limit`.
///
/// # Errors
/// When the ledger is away.
pub async fn all(ledger: &dyn Ledger, limit: u32) -> Result<Vec<Known>, Refused> {
    let now = ledger.now().await?;
    let all = ledger.tokens(limit).await?;
    Ok(all.into_iter().map(|it| Known::of(it, now)).collect())
}

/// Takes a token back, for good; whether it wasn't before.
///
/// # Errors
/// When there is no such token.
pub async fn revoke(ledger: &dyn Ledger, id: TokenId, by: &By) -> Result<(Known, bool), Refused> {
    let before = known(ledger, id).await?;
    let audit = audit("token.revoke", &before.token, by);
    let revoked = ledger.revoke_token(id, &audit).await?;
    Ok((known(ledger, id).await?, revoked))
}
