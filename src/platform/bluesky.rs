//! Bluesky (an atproto PDS): sessions, blobs, records under keys of our own, facets, and what an
//! error means.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use chrono::{TimeDelta, TimeZone, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::clock::Time;
use crate::config::Account;
use crate::effect::Receipt;
use crate::json::Digest;
use crate::outcome::{Class, Failure, RESTRICTED, Scope};

use super::http::{Body, Call, Http, below};
use super::session::Sessions;
use super::verdict::{CallError, Meaning, Rules, Said, ask, refused};

/// Graphemes of a post (app.bsky.feed.post).
pub const GRAPHEMES_MAX: usize = 300;
/// Bytes of a post (app.bsky.feed.post).
pub const BYTES_MAX: usize = 3_000;
/// Pictures of a post (app.bsky.embed.images).
pub const IMAGES_MAX: usize = 4;
/// Bytes of a picture (app.bsky.embed.images).
pub const IMAGE_BYTES_MAX: u64 = 2_000_000;
/// Languages of a post (app.bsky.feed.post).
pub const LANGS_MAX: usize = 3;
/// The collection of posts.
const POSTS: &str = "app.bsky.feed.post";

/// A session is renewed when it has less than this to live.
const RENEW_BEFORE: TimeDelta = TimeDelta::seconds(60);

/// A session: who it is, and the token that says so.
#[derive(Clone)]
pub struct Session {
    /// The account's DID.
    pub did: String,
    /// Its handle.
    pub handle: String,
    access: SecretString,
    refresh: SecretString,
    expires: Option<Time>,
}

/// A session as a PDS tells it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opened {
    access_jwt: String,
    refresh_jwt: String,
    handle: String,
    did: String,
}

#[derive(Deserialize)]
struct Written {
    uri: String,
    cid: String,
}

/// A record that is there.
#[derive(Deserialize)]
pub struct Found {
    /// Its address.
    pub uri: String,
    /// Its content's id.
    pub cid: Option<String>,
    /// What it says.
    pub value: Value,
}

/// An account of a PDS.
pub struct Bluesky<'a> {
    /// The client, which keeps the session.
    pub http: &'a Http,
    /// The account.
    pub account: &'a Account,
    /// What each call may take.
    pub deadline: Duration,
}

impl Bluesky<'_> {
    /// The account's session: the one that is kept, renewed where it is old, a new one where there
    /// is none. One at a time for an account.
    ///
    /// # Errors
    /// Unauthorised when the credentials are refused; what was refused or lost else.
    pub async fn session(&self) -> Result<Session, CallError> {
        self.session_but(None).await
    }

    /// A session whose token isn't `stale`.
    async fn session_but(&self, stale: Option<&SecretString>) -> Result<Session, CallError> {
        let is_dead = |it: &Session, now: Time| {
            it.expires.is_some_and(|at| at - now < RENEW_BEFORE)
                || stale.is_some_and(|stale| stale.expose_secret() == it.access.expose_secret())
        };
        let renew = |it: Session| async move { self.renew(&it.refresh).await };
        let sessions = self.sessions();
        sessions
            .get(|| self.http.now(), is_dead, renew, || self.login())
            .await
    }

    /// The place of this account's session. Another password is another place.
    fn sessions(&self) -> Arc<Sessions<Session>> {
        let who = self.account.identifier.as_deref().unwrap_or_default();
        let secret = Digest::of_bytes(self.account.secret.expose_secret().as_bytes());
        let base = &self.account.base_url;
        let key = format!("bluesky session {base} {who} {}", secret.hex());
        self.http.kept::<Sessions<Session>>(key)
    }

    async fn login(&self) -> Result<Session, CallError> {
        let Some(who) = &self.account.identifier else {
            let message = "a Bluesky account needs `identifier`: its handle or DID";
            let failure = Failure::new(
                Class::Unauthorised,
                Scope::Account,
                "no_identifier",
                message,
            );
            return Err(CallError::Refused(failure));
        };
        let body = json!({"identifier": who, "password": self.account.secret.expose_secret()});
        let call = self
            .post(
                "com.atproto.server.createSession",
                Body::Json(body.to_string()),
            )
            .hiding(&self.account.secret);
        let (opened, _) = ask::<Opened>(self.http, &RULES, &call).await?;
        Ok(opened.into())
    }

    async fn renew(&self, refresh: &SecretString) -> Result<Session, CallError> {
        let call = self
            .post("com.atproto.server.refreshSession", Body::Empty)
            .bearer(refresh);
        let (opened, _) = ask::<Opened>(self.http, &RULES, &call).await?;
        Ok(opened.into())
    }

    fn post(&self, method: &str, body: Body) -> Call {
        let url = below(&self.account.base_url, &format!("/xrpc/{method}"));
        Call::post(url, body, self.deadline)
    }

    fn get(&self, method: &str, query: &[(&str, &str)]) -> Call {
        let mut url = below(&self.account.base_url, &format!("/xrpc/{method}"));
        url.query_pairs_mut().extend_pairs(query);
        Call::get(url, self.deadline)
    }

    /// Makes a call with the session's token; with a renewed one if that had expired, which the PDS
    /// says before it acts.
    async fn signed<T: DeserializeOwned>(
        &self,
        call: impl Fn(&Session) -> Call,
    ) -> Result<(T, Time), CallError> {
        let session = self.session().await?;
        let first = call(&session).bearer(&session.access);
        let e = match ask::<T>(self.http, &RULES, &first).await {
            Ok((it, answer)) => return Ok((it, answer.at)),
            Err(e) => e,
        };
        if !matches!(e.refusal(), Some("ExpiredToken" | "InvalidToken")) {
            return Err(e);
        }
        let session = self.session_but(Some(&session.access)).await?;
        let second = call(&session).bearer(&session.access);
        let (it, answer) = ask::<T>(self.http, &RULES, &second).await?;
        Ok((it, answer.at))
    }

    /// Uploads a picture and returns its blob, which is named by its content. Without a record that
    /// holds it, the PDS forgets it after some minutes.
    ///
    /// # Errors
    /// What was refused or lost; a repeat makes the same blob.
    pub async fn upload(&self, mime: &str, bytes: Bytes) -> Result<Value, CallError> {
        #[derive(Deserialize)]
        struct Made {
            blob: Value,
        }
        let body = Body::Bytes(mime.to_owned(), bytes);
        let call = |_: &Session| {
            let body = body.clone();
            self.post("com.atproto.repo.uploadBlob", body).patient()
        };
        let (made, _) = self.signed::<Made>(call).await?;
        Ok(made.blob)
    }

    /// The DID of a handle; `None` if nobody has it.
    ///
    /// # Errors
    /// What was lost, or refused for another reason.
    pub async fn resolve(&self, handle: &str) -> Result<Option<String>, CallError> {
        #[derive(Deserialize)]
        struct Resolved {
            did: String,
        }
        let call = self.get("com.atproto.identity.resolveHandle", &[("handle", handle)]);
        match ask::<Resolved>(self.http, &RULES, &call).await {
            Ok((it, _)) => Ok(Some(it.did)),
            Err(CallError::Refused(it)) if it.class == Class::Permanent => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The post under `rkey`, if there is one.
    ///
    /// # Errors
    /// What was lost, or refused for another reason.
    pub async fn find(&self, rkey: &str) -> Result<Option<Found>, CallError> {
        let call = |session: &Session| {
            let query = [
                ("repo", session.did.as_str()),
                ("collection", POSTS),
                ("rkey", rkey),
            ];
            self.get("com.atproto.repo.getRecord", &query)
        };
        match self.signed::<Found>(call).await {
            Ok((it, _)) => Ok(Some(it)),
            Err(e) if matches!(e.refusal(), Some("RecordNotFound")) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes a post under our own key, once; where the same post is there already, that is it.
    ///
    /// # Errors
    /// What was refused; or unknown: then it may be there, and the same may be written again.
    pub async fn publish(&self, rkey: &str, record: &Value) -> Result<Receipt, CallError> {
        let call = |session: &Session| {
            let body = json!({
                "repo": session.did, "collection": POSTS, "rkey": rkey, "record": record,
                // "nothing is there yet": without it another record would be overwritten
                "swapRecord": null,
            });
            let body = Body::Json(body.to_string());
            self.post("com.atproto.repo.putRecord", body).fresh()
        };
        match self.signed::<Written>(call).await {
            Ok((it, at)) => Ok(receipt(rkey, it.uri, Some(it.cid), at)),
            Err(e) if matches!(e.refusal(), Some("InvalidSwap")) => self.taken(rkey, record).await,
            Err(e) => Err(e),
        }
    }

    /// There is a record under our key: ours, or another one?
    async fn taken(&self, rkey: &str, record: &Value) -> Result<Receipt, CallError> {
        let unknown = |message: String| {
            let failure = Failure::new(Class::Unknown, Scope::Platform, "look_up", message);
            CallError::Unknown(failure)
        };
        let found = self.find(rkey).await.map_err(|e| {
            unknown(format!(
                "a record is there under our key, but it can't be read: {e}"
            ))
        })?;
        match found {
            Some(it) if it.value == *record => Ok(receipt(rkey, it.uri, it.cid, self.http.now())),
            Some(it) => {
                let uri = it.uri;
                let message = format!(
                    "{uri} holds another text than this job's; look there: it was edited, or made by somebody else"
                );
                Err(CallError::Refused(Failure::permanent("key_taken", message)))
            }
            None => Err(unknown(
                "Bluesky said that a record was there, and then that it wasn't".to_owned(),
            )),
        }
    }
}

/// The receipt of a post; its address names the account.
pub fn receipt(rkey: &str, uri: String, cid: Option<String>, at: Time) -> Receipt {
    let who = uri
        .strip_prefix("at://")
        .and_then(|it| it.split('/').next());
    let url = who.map(|who| format!("https://bsky.app/profile/{who}/post/{rkey}"));
    Receipt {
        url,
        remote_id: Some(uri),
        at,
        detail: json!({ "cid": cid }),
    }
}

impl From<Opened> for Session {
    fn from(opened: Opened) -> Self {
        Self {
            expires: expiry(&opened.access_jwt),
            did: opened.did,
            handle: opened.handle,
            access: opened.access_jwt.into(),
            refresh: opened.refresh_jwt.into(),
        }
    }
}

/// When a JSON web token expires, if it says so.
fn expiry(token: &str) -> Option<Time> {
    #[derive(Deserialize)]
    struct Claims {
        exp: i64,
    }
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    Utc.timestamp_opt(claims.exp, 0).single()
}

/// A timestamp identifier (atproto TID): a record key that sorts by its making. `clock` is random,
/// so that two of the same microsecond differ.
pub fn tid(at: Time, clock: u16) -> String {
    const ALPHABET: &[u8; 32] = b"234567abcdefghijklmnopqrstuvwxyz";
    let micros = u64::try_from(at.timestamp_micros()).unwrap_or(0) & ((1 << 53) - 1);
    let bits = micros << 10 | u64::from(clock & 0x3FF);
    // 13 characters of 5 bits: the topmost holds the four highest bits, of which one is nought
    let letter = |i: u32| char::from(ALPHABET[(bits >> (60 - 5 * i) & 31) as usize]);
    (0..13).map(letter).collect()
}

/// What Bluesky's answers mean.
pub const RULES: Rules = Rules {
    platform: "Bluesky",
    said,
    meaning,
};

fn said(body: &[u8]) -> Said {
    #[derive(Deserialize)]
    struct Told {
        error: String,
        message: Option<String>,
    }
    match serde_json::from_slice::<Told>(body) {
        // a person has to talk to whoever runs the server
        Ok(told) if ["AccountTakedown", "AccountSuspended"].contains(&told.error.as_str()) => {
            let words = told.message.unwrap_or_default();
            Said {
                message: Some(format!("{}: {words}", told.error)),
                code: Some(RESTRICTED.to_owned()),
            }
        }
        Ok(told) => Said {
            message: Some(told.message.unwrap_or_else(|| told.error.clone())),
            code: Some(told.error),
        },
        Err(_) => Said::default(),
    }
}

fn meaning(status: u16, said: &Said) -> Option<Meaning> {
    let unauthorised = Some(refused(Class::Unauthorised, Scope::Account));
    match (status, said.code.as_deref().unwrap_or_default()) {
        // a PDS says 400 to tokens that it can't use
        (400 | 401 | 403, "ExpiredToken" | "InvalidToken" | "AuthMissing") => unauthorised,
        (
            400 | 401 | 403,
            RESTRICTED
            | "AccountDeactivated"
            | "AuthenticationRequired"
            | "AuthFactorTokenRequired",
        ) => unauthorised,
        // the PDS dropped a picture that no record held yet: the next attempt uploads it again
        (400, "BlobNotFound") => Some(refused(Class::Transient, Scope::Content)),
        (501, "MethodNotImplemented") => Some(refused(Class::Permanent, Scope::Platform)),
        (400, "RateLimitExceeded") => Some(refused(Class::Throttled, Scope::Account)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::verdict::usual;
    use proptest::prelude::*;

    fn class(status: u16, error: &str) -> (bool, Class) {
        let body = json!({"error": error, "message": "m"}).to_string();
        let it = meaning(status, &said(body.as_bytes())).unwrap_or_else(|| usual(status));
        (it.acted, it.class)
    }

    #[test]
    fn each_status_has_its_meaning() {
        for status in 300..600 {
            let expected = match status {
                400 | 404 | 405 | 410 | 413 | 415 | 422 => (false, Class::Permanent),
                401 | 403 => (false, Class::Unauthorised),
                429 => (false, Class::Throttled),
                _ => (true, Class::Unknown),
            };
            assert_eq!(class(status, "Whatever"), expected, "{status}");
        }
        assert_eq!(class(400, "ExpiredToken"), (false, Class::Unauthorised));
        assert_eq!(class(400, "AccountTakedown"), (false, Class::Unauthorised));
        assert_eq!(class(400, "BlobNotFound"), (false, Class::Transient));
        assert_eq!(
            class(501, "MethodNotImplemented"),
            (false, Class::Permanent)
        );
        assert_eq!(class(500, "InternalServerError"), (true, Class::Unknown));
    }

    #[test]
    fn a_tid_has_its_known_spelling_and_sorts() {
        let at = |micros| Utc.timestamp_micros(micros).unwrap();
        // the example of atproto.com/specs/tid that is nought
        assert_eq!(tid(at(0), 0), "2222222222222");
        assert_eq!(tid(at(1_700_000_000_000_000), 0).len(), 13);
        let (one, two) = (
            tid(at(1_700_000_000_000_000), 1_023),
            tid(at(1_700_000_000_000_001), 0),
        );
        assert!(one < two && one.starts_with('3'), "{one} {two}");
    }

    #[test]
    fn a_token_tells_when_it_expires() {
        let claims = URL_SAFE_NO_PAD.encode(br#"{"exp":1800000000}"#);
        let told = expiry(&format!("x.{claims}.y"));
        assert_eq!(told.map(|it| it.timestamp()), Some(1_800_000_000));
        assert_eq!(expiry("opaque"), None);
    }

    proptest! {
        #[test]
        fn nothing_that_is_read_panics(body: Vec<u8>, token in ".{0,60}", micros: i64, clock: u16) {
            said(&body);
            expiry(&token);
            if let Some(at) = Utc.timestamp_micros(micros).single() {
                let tid = tid(at, clock);
                prop_assert!(tid.len() == 13 && "234567abcdefghij".contains(&tid[..1]));
            }
        }
    }
}
