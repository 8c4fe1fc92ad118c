//! Accounts that are kept in the ledger: what is kept of them, what their credentials are, and how they
//! stand. Pure.
//!
//! What jobs run by is `config::Account`, whichever place an account stands in: that of a kept one is
//! made by the rules of `jobs.toml`.

use std::collections::BTreeMap;
use std::fmt;

use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Time;
use crate::outcome::words;
use crate::person::Person;

/// The longest label and the longest reason, in characters.
pub const TEXT_MAX: usize = 300;
/// The largest credentials, sealed, in bytes.
pub const SEALED_MAX: usize = 256 * 1024;

words! {
    /// How a kept account stands.
    State {
        /// Its jobs go.
        Ok = "ok",
        /// Its credentials are being renewed. Its jobs go, unless the old ones were refused.
        Refreshing = "refreshing",
        /// Its credentials are refused or past: its jobs wait until a person has renewed them.
        Attention = "needs_attention",
        /// A person stopped it.
        Paused = "paused",
    }
}

impl State {
    /// Whether jobs of such an account go.
    pub fn goes(self) -> bool {
        matches!(self, Self::Ok | Self::Refreshing)
    }
}

/// Credentials as they are stored: encrypted, with the id of the key beside them.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Which key opens them.
    pub key: String,
    /// What it opens; see [`vault`](crate::vault).
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({}, {} bytes)", self.key, self.bytes.len())
    }
}

/// Who renews an account's credentials, and until when nobody else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The run of a daemon.
    pub by: Uuid,
    /// By the ledger's clock. After it anybody may take the turn.
    pub until: Time,
}

/// What renews an account's credentials, and how far that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The `[oauth.NAME]` that the grant was given to.
    pub client: String,
    /// Since when it has these credentials, by the ledger's clock.
    pub at: Time,
    /// Requests for others of whose answer nobody knows.
    pub tries: u32,
    /// Before then nobody asks for others.
    pub not_before: Option<Time>,
    /// Its platform has refused these.
    pub refused: bool,
}

impl Granted {
    /// Of credentials that were just given to a client.
    pub fn new(client: impl Into<String>, at: Time) -> Self {
        Self {
            client: client.into(),
            at,
            tries: 0,
            not_before: None,
            refused: false,
        }
    }
}

/// An account as the ledger keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Its name, as jobs name it.
    pub name: String,
    /// Its platform.
    pub platform: String,
    /// Whose jobs alone may use it; `None`: everybody's.
    pub tenant: Option<String>,
    /// What people call it.
    pub label: String,
    /// What `jobs.toml` would say of it beside its platform and its secrets, key by key.
    pub settings: BTreeMap<String, String>,
    /// Its credentials.
    pub sealed: Sealed,
    /// Counts its credentials, from 1: one more each time that others take their place.
    pub version: i64,
    /// Which state of this row it is: another one after each write. Given by the ledger; a write compares it.
    pub edition: i64,
    /// What its credentials allow, in the platform's words, where it told.
    pub scopes: Vec<String>,
    /// When its credentials end, where that is known.
    pub expires_at: Option<Time>,
    /// How it stands.
    pub state: State,
    /// Why it stands so, for people.
    pub why: Option<String>,
    /// Since when it stands so, by the ledger's clock.
    pub since: Time,
    /// Who renews its credentials.
    pub turn: Option<Turn>,
    /// What renews its credentials; `None`: a person alone.
    pub granted: Option<Granted>,
    /// Who it is at its platform, where that was ever told.
    pub person: Option<Person>,
    /// When it was added, by the ledger's clock.
    pub created_at: Time,
    /// Who added it.
    pub created_by: String,
}

/// Other credentials of an account.
#[derive(Clone, Debug)]
pub struct Renewed {
    /// They themselves.
    pub sealed: Sealed,
    /// What they allow, where that was told.
    pub scopes: Vec<String>,
    /// When they end, where that is known.
    pub expires_at: Option<Time>,
    /// What renews them in their turn.
    pub granted: Option<Granted>,
}

impl Kept {
    /// The same, standing otherwise; whoever renewed it doesn't any more, and where it stands well, what was
    /// refused is tried anew.
    pub fn standing(self, state: State, why: Option<String>) -> Self {
        let granted = self.granted.map(|it| Granted {
            refused: it.refused && state != State::Ok,
            ..it
        });
        Self {
            state,
            why: why.map(|it| it.chars().take(TEXT_MAX).collect()),
            turn: None,
            granted,
            ..self
        }
    }

    /// Whether its credentials were refused, and others are being asked for: its jobs wait that long.
    pub fn waits_for_others(&self) -> bool {
        let refused = self.granted.as_ref().is_some_and(|it| it.refused);
        self.state == State::Refreshing && refused
    }

    /// The same with other credentials: it stands well then, unless a person stopped it.
    pub fn renewed(self, others: Renewed) -> Self {
        let (state, why) = match self.state {
            State::Paused => (State::Paused, self.why.clone()),
            _ => (State::Ok, None),
        };
        let version = self.version + 1;
        Self {
            sealed: others.sealed,
            version,
            scopes: others.scopes,
            expires_at: others.expires_at,
            granted: others.granted,
            ..self.standing(state, why)
        }
    }
}

/// What an account proves by who it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The token, key or app password; of a bucket its secret access key.
    pub secret: SecretString,
    /// Which key of a bucket `secret` is of.
    #[serde(default)]
    pub access_key_id: Option<SecretString>,
    /// What its platform signs its call-backs with.
    #[serde(default)]
    pub webhook_secret: Option<SecretString>,
    /// Signs calls beside `secret` while receivers change from the one to the other.
    #[serde(default)]
    pub previous_secret: Option<SecretString>,
    /// What a new `secret` is asked for with.
    #[serde(default)]
    pub refresh_token: Option<SecretString>,
    /// The name of the client that asks.
    #[serde(default)]
    pub client: Option<String>,
}

/// The parts of credentials that `jobs.toml` has keys for.
pub const PARTS: [&str; 4] = [
    "secret",
    "access_key_id",
    "webhook_secret",
    "previous_secret",
];

impl Credentials {
    /// Nothing but a secret.
    pub fn of(secret: SecretString) -> Self {
        Self {
            secret,
            ..Self::default()
        }
    }

    /// The part of this name, one of [`PARTS`]; `None`: it wasn't said.
    pub fn part(&self, name: &str) -> Option<&SecretString> {
        let it = match name {
            "secret" => Some(&self.secret),
            "access_key_id" => self.access_key_id.as_ref(),
            "webhook_secret" => self.webhook_secret.as_ref(),
            "previous_secret" => self.previous_secret.as_ref(),
            _ => None,
        };
        it.filter(|it| !it.expose_secret().is_empty())
    }

    /// As JSON, to be sealed. What is there of it in memory is overwritten when it goes.
    pub fn to_json(&self) -> Zeroizing<Vec<u8>> {
        #[derive(Serialize)]
        struct Said<'a> {
            secret: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            access_key_id: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            webhook_secret: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            previous_secret: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            refresh_token: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            client: Option<&'a str>,
        }
        let text =
            |it: &'_ Option<SecretString>| it.as_ref().map_or(0, |it| it.expose_secret().len());
        let all = [
            &self.access_key_id,
            &self.webhook_secret,
            &self.previous_secret,
            &self.refresh_token,
        ];
        let letters = self.secret.expose_secret().len() + all.into_iter().map(text).sum::<usize>();
        // escaped, a character takes six at most: what is written never moves, and leaves no copy
        let client = self.client.as_ref().map_or(0, String::len);
        let mut json = Zeroizing::new(Vec::with_capacity(6 * (letters + client) + 256));
        let said = Said {
            secret: self.secret.expose_secret(),
            access_key_id: self.access_key_id.as_ref().map(|it| it.expose_secret()),
            webhook_secret: self.webhook_secret.as_ref().map(|it| it.expose_secret()),
            previous_secret: self.previous_secret.as_ref().map(|it| it.expose_secret()),
            refresh_token: self.refresh_token.as_ref().map(|it| it.expose_secret()),
            client: self.client.as_deref(),
        };
        serde_json::to_writer(&mut *json, &said).expect("texts are JSON");
        json
    }

    /// From JSON that was sealed.
    ///
    /// # Errors
    /// When it is none, without any of it.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        // serde's own words may repeat what stands there
        serde_json::from_slice(json).map_err(|e| {
            format!(
                "what was sealed can't be read (column {}): a newer presswork may have written it",
                e.column()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Option<SecretString> {
        Some(SecretString::from(text))
    }

    #[test]
    fn credentials_come_back_whole_and_are_never_shown() {
        let all = Credentials {
            secret: "s3cret-\u{1}\"ü".into(),
            access_key_id: secret("key-id"),
            webhook_secret: None,
            previous_secret: secret("before"),
            refresh_token: secret("refresh-me"),
            client: Some("x-app".to_owned()),
        };
        let json = all.to_json();
        let back = Credentials::from_json(&json).unwrap();
        assert_eq!(back.to_json(), json);
        assert_eq!(
            back.part("secret").unwrap().expose_secret(),
            "s3cret-\u{1}\"ü"
        );
        assert!(back.part("webhook_secret").is_none() && back.part("client").is_none());
        let shown = format!(
            "{all:?} {:?}",
            Sealed {
                key: "k".to_owned(),
                bytes: json.to_vec()
            }
        );
        for it in ["s3cret", "key-id", "before", "refresh-me"] {
            assert!(!shown.contains(it), "{shown}");
        }
        let e = Credentials::from_json(b"{\"secret\": hunter22}").unwrap_err();
        assert!(!e.contains("hunter22"), "{e}");
        let e = Credentials::from_json(b"{\"secret\": \"a\", \"hunter22\": 1}").unwrap_err();
        assert!(!e.contains("hunter22"), "{e}");
    }

    #[test]
    fn what_is_renewed_goes_on_unless_a_person_stopped_it() {
        let sealed = |n: u8| Sealed {
            key: "k".to_owned(),
            bytes: vec![n],
        };
        let kept = |state| Kept {
            name: "a".to_owned(),
            platform: "x".to_owned(),
            tenant: None,
            label: String::new(),
            settings: BTreeMap::new(),
            sealed: sealed(1),
            version: 4,
            edition: 9,
            scopes: vec![],
            expires_at: None,
            state,
            why: Some("because".to_owned()),
            since: Time::UNIX_EPOCH,
            turn: Some(Turn {
                by: Uuid::nil(),
                until: Time::UNIX_EPOCH,
            }),
            granted: Some(Granted {
                tries: 2,
                refused: true,
                ..Granted::new("app", Time::UNIX_EPOCH)
            }),
            person: None,
            created_at: Time::UNIX_EPOCH,
            created_by: "ada".to_owned(),
        };
        for state in State::ALL {
            let was = kept(*state);
            let is = was.clone().renewed(Renewed {
                sealed: sealed(2),
                scopes: vec!["write".to_owned()],
                expires_at: None,
                granted: Some(Granted::new("app", Time::UNIX_EPOCH)),
            });
            assert_eq!((is.version, is.edition, is.turn), (5, 9, None), "{state}");
            let granted = is.granted.clone().unwrap();
            assert_eq!((granted.tries, granted.refused), (0, false), "{state}");
            assert_eq!(is.sealed, sealed(2));
            let wanted = match state {
                State::Paused => (State::Paused, was.why),
                _ => (State::Ok, None),
            };
            assert_eq!((is.state, is.why), wanted, "{state}");
        }
    }
}
