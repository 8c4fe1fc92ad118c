//! The tokens that the simulated issuer gave, for the platforms that are asked with them.

use std::{collections::HashMap, sync::Mutex};

use chrono::{DateTime, Utc};

use super::{
    acts::held,
    exchange::{Token, token},
};

/// How a token of the issuer begins.
pub(super) const ISSUED: &str = "issued.";

/// Access tokens, by their text.
#[derive(Debug, Default)]
pub(super) struct Grants(Mutex<HashMap<String, Given>>);

#[derive(Debug)]
struct Given {
    account: String,
    family: String,
    expires: DateTime<Utc>,
}

impl Grants {
    /// Whose token it is: the issuer's while they live, and those that are always good.
    pub(super) fn who(&self, bearer: Option<&str>, now: DateTime<Utc>) -> Token {
        let Some(text) = bearer.filter(|it| it.starts_with(ISSUED)) else {
            return token(bearer);
        };
        match held(&self.0).get(text) {
            Some(it) if now < it.expires => Token::Account(it.account.clone()),
            Some(_) => Token::Expired,
            None => Token::Unknown,
        }
    }

    /// Whose a token of the issuer is, and of which family, while it lives.
    pub(super) fn family(&self, text: &str, now: DateTime<Utc>) -> Option<(String, String)> {
        let given = held(&self.0);
        let found = given.get(text).filter(|it| now < it.expires)?;
        Some((found.account.clone(), found.family.clone()))
    }

    /// A token was given.
    pub(super) fn give(&self, text: &str, (account, family): (&str, &str), end: DateTime<Utc>) {
        let given = Given {
            account: account.to_owned(),
            family: family.to_owned(),
            expires: end,
        };
        held(&self.0).insert(text.to_owned(), given);
    }

    /// All tokens of a family are taken back.
    pub(super) fn revoke(&self, family: &str) {
        held(&self.0).retain(|_, it| it.family != family);
    }

    /// The platforms refuse all that the issuer gave an account so far, as when a person takes an app's
    /// access away for a moment: what renews them stays good.
    pub(super) fn forget(&self) {
        held(&self.0).clear();
    }
}
