//! A login that is begun at one place and ends at another: what is written down of it meanwhile.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use crate::account::Sealed;
use crate::clock::Time;

/// A login as the ledger keeps it. Its state is the authority to end it, once, and isn't in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// The SHA-256 of its state, of 256 random bits: 32 bytes.
    pub digest: Vec<u8>,
    /// The account that is made, or gets other credentials.
    pub account: String,
    /// Its platform.
    pub platform: String,
    /// Whose jobs alone may use it.
    pub tenant: Option<String>,
    /// What people call it.
    pub label: String,
    /// What is set of it beside its secrets.
    pub settings: BTreeMap<String, String>,
    /// The `[oauth.NAME]` that asks.
    pub client: String,
    /// Where the issuer sends the person back to.
    pub redirect: String,
    /// What its challenge was made of, where the issuer knows PKCE.
    pub verifier: Option<Sealed>,
    /// Who began it.
    pub by: String,
    /// Until when it can be ended, by the ledger's clock.
    pub until: Time,
    /// It may give the account another person's credentials.
    pub replaces: bool,
}

/// How a login ended, for who began it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The account has its credentials.
    pub done: bool,
    /// For people.
    pub told: String,
}

/// What a state is looked up by.
pub fn digest(state: &SecretString) -> Vec<u8> {
    Sha256::digest(state.expose_secret().as_bytes()).to_vec()
}
