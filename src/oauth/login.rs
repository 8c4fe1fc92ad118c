//! A login: the address that a person opens, and what proves that who comes back is who was sent.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use rand::TryRng as _;
use rand::rngs::SysRng;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use url::Url;

use crate::json::Digest;

use super::client::{Client, is_loopback};
use super::issuer::Pkce;

/// How long a person has for it.
pub const LASTS: TimeDelta = TimeDelta::minutes(10);
/// The longest code and state that are read, in bytes.
const LONGEST: usize = 8_192;

/// A login that was begun.
pub struct Login {
    /// What the person opens.
    pub url: Url,
    /// Where the issuer sends the person back to.
    pub redirect: Url,
    /// What comes back with them: who knows it is who was sent.
    pub state: SecretString,
    /// What the challenge in `url` was made of, where the issuer knows PKCE.
    pub verifier: Option<SecretString>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({})", self.redirect)
    }
}

/// What a person brought back.
#[derive(Debug)]
pub enum Returned {
    /// A code, to be redeemed once.
    Code(SecretString),
    /// The issuer gave none: its word, and its words for people.
    Denied(String, String),
}

/// Why what came back isn't taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stray {
    /// It names no state, or not this login's.
    #[error(
        "this address belongs to another login, or was changed: open the address that was printed last, and copy the whole address that it ends at"
    )]
    State,
    /// It has neither a code nor an error.
    #[error(
        "there is no code in it: copy the whole address from the browser, from http to the end"
    )]
    Nothing,
}

impl Login {
    /// Begins a login at `client`'s issuer, which sends the person to `redirect`.
    ///
    /// # Errors
    /// When the system has no random bytes to give.
    pub fn begin(client: &Client, redirect: Url) -> Result<Self, String> {
        Ok(Self::with(client, redirect, random()?, random()?))
    }

    fn with(client: &Client, redirect: Url, state: SecretString, verifier: SecretString) -> Self {
        let facts = client.facts();
        let mut url = client.authorize.clone();
        let hashed = Sha256::digest(verifier.expose_secret().as_bytes());
        let challenge = match facts.pkce {
            Pkce::No => None,
            Pkce::S256 => Some(URL_SAFE_NO_PAD.encode(hashed)),
            Pkce::HexAtHome => {
                let digest = Digest::of_bytes(verifier.expose_secret().as_bytes());
                is_loopback(&redirect).then(|| digest.hex())
            }
        };
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("response_type", "code");
            query.append_pair(facts.client_id, &client.id);
            query.append_pair("redirect_uri", redirect.as_str());
            query.append_pair("scope", &client.scopes.join(facts.separator));
            query.append_pair("state", state.expose_secret());
            if let Some(it) = &challenge {
                query.append_pair("code_challenge", it);
                query.append_pair("code_challenge_method", "S256");
            }
            query.extend_pairs(facts.authorize_with);
        }
        Self {
            url,
            redirect,
            state,
            verifier: challenge.map(|_| verifier),
        }
    }

    /// Reads what came back to the redirect.
    ///
    /// # Errors
    /// When it isn't this login's, or says nothing.
    pub fn returned(&self, query: &str) -> Result<Returned, Stray> {
        let back = Back::read(query);
        let mine = self.state.expose_secret().as_bytes();
        let same = back.state.as_deref().is_some_and(|it| {
            // of equal length or not: the time tells nothing
            bool::from(it.as_bytes().ct_eq(mine))
        });
        if !same {
            return Err(Stray::State);
        }
        back.returned()
    }
}

/// What a query says, before anybody asks whose it is.
#[derive(Default)]
pub struct Back {
    /// The state.
    pub state: Option<String>,
    code: Option<SecretString>,
    error: Option<(String, String)>,
}

impl Back {
    /// Reads a redirect's query; what is too long isn't there.
    pub fn read(query: &str) -> Self {
        let mut back = Self::default();
        let mut told = String::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if LONGEST < value.len() || value.is_empty() {
                continue;
            }
            match &*name {
                "state" => back.state = Some(value.into_owned()),
                "code" => back.code = Some(value.into_owned().into()),
                "error" => back.error = Some((word(&value), String::new())),
                "error_description" | "error_message" => told = words(&value),
                _ => {}
            }
        }
        if let Some(error) = &mut back.error {
            error.1 = told;
        }
        back
    }

    /// What it says, its state put aside.
    ///
    /// # Errors
    /// When it has neither a code nor an error.
    pub fn returned(self) -> Result<Returned, Stray> {
        match (self.error, self.code) {
            (Some((code, told)), _) => Ok(Returned::Denied(code, told)),
            (None, Some(code)) => Ok(Returned::Code(code)),
            (None, None) => Err(Stray::Nothing),
        }
    }
}

/// 256 random bits in base64url: 43 characters, as many as RFC 7636 asks of a verifier at least.
fn random() -> Result<SecretString, String> {
    let mut bytes = [0; 32];
    let filled = SysRng.try_fill_bytes(&mut bytes);
    filled.map_err(|e| format!("the system gives no random bytes: {e}"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes).into())
}

/// An error's word, of plain letters.
pub(super) fn word(text: &str) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    match text.chars().filter(plain).take(60).collect::<String>() {
        it if it.is_empty() => "error".to_owned(),
        it => it,
    }
}

/// Somebody else's words, without control characters and not for ever.
pub(super) fn words(text: &str) -> String {
    let plain = text.chars().filter(|it| !it.is_control());
    plain.take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::issuer::Issuer;
    use proptest::prelude::*;

    fn client(issuer: Issuer) -> Client {
        let url = |it: &str| Url::parse(it).unwrap();
        let facts = issuer.facts();
        Client {
            issuer,
            id: "app".to_owned(),
            secret: None,
            scopes: facts.scopes.iter().map(|&it| it.to_owned()).collect(),
            authorize: url(facts.authorize),
            token: url(facts.token),
            refresh: None,
            exchange: None,
            redirect: None,
        }
    }

    fn home() -> Url {
        Url::parse("http://127.0.0.1:8723/callback").unwrap()
    }

    /// The vector of RFC 7636, appendix B.
    #[test]
    fn the_challenge_is_the_standards() {
        let verifier = SecretString::from("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
        let login = Login::with(&client(Issuer::X), home(), "state".into(), verifier);
        let said: Vec<_> = login.url.query_pairs().into_owned().collect();
        let has = |key: &str, value: &str| said.contains(&(key.to_owned(), value.to_owned()));
        assert!(has(
            "code_challenge",
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        ));
        assert!(has("code_challenge_method", "S256") && has("state", "state"));
        assert!(has("redirect_uri", "http://127.0.0.1:8723/callback"));
        assert!(has(
            "scope",
            "tweet.read tweet.write users.read media.write offline.access"
        ));
    }

    #[test]
    fn tiktok_has_its_own_names_and_its_challenge_only_at_home() {
        let at = |redirect: &str| {
            let redirect = Url::parse(redirect).unwrap();
            Login::with(
                &client(Issuer::TikTok),
                redirect,
                "s".into(),
                "verifier".into(),
            )
        };
        let near = at("http://localhost:1/callback");
        let query = near.url.query().unwrap();
        let hex = Digest::of_bytes(b"verifier").hex();
        assert!(query.contains(&format!("code_challenge={hex}")), "{query}");
        assert!(
            query.contains("client_key=app") && query.contains("user.info.basic%2Cvideo.publish"),
            "{query}"
        );
        let far = at("https://pw.example/v1/oauth/callback");
        assert!(!far.url.query().unwrap().contains("code_challenge"));
        assert!(far.verifier.is_none() && near.verifier.is_some());
    }

    #[test]
    fn only_what_belongs_to_the_login_is_taken() {
        let login = Login::with(&client(Issuer::X), home(), "right".into(), "v".into());
        let Ok(Returned::Code(code)) = login.returned("state=right&code=c%2B1") else {
            panic!("a code");
        };
        assert_eq!(code.expose_secret(), "c+1");
        for strange in ["code=c", "state=wrong&code=c", "state=&code=c", ""] {
            assert_eq!(login.returned(strange).unwrap_err(), Stray::State);
        }
        assert_eq!(login.returned("state=right").unwrap_err(), Stray::Nothing);
        let denied = login.returned("error=access_denied&error_description=No%0A!&state=right");
        let Ok(Returned::Denied(code, told)) = denied else {
            panic!("denied");
        };
        assert_eq!((&*code, &*told), ("access_denied", "No!"));
    }

    #[test]
    fn no_two_logins_are_alike() {
        let login = || Login::begin(&client(Issuer::X), home()).unwrap();
        let (a, b) = (login(), login());
        assert_ne!(a.state.expose_secret(), b.state.expose_secret());
        let verifier = |it: &Login| it.verifier.clone().unwrap().expose_secret().to_owned();
        assert_ne!(verifier(&a), verifier(&b));
        assert_eq!(verifier(&a).len(), 43);
        assert_ne!(verifier(&a), a.state.expose_secret());
    }

    proptest! {
        #[test]
        fn no_query_panics_and_none_is_ours_by_chance(query in ".{0,80}") {
            let login = Login::begin(&client(Issuer::X), home()).unwrap();
            prop_assert_eq!(login.returned(&query).unwrap_err(), Stray::State);
        }
    }
}
