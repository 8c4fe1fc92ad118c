//! What an issuer's answer means: one total function.
//!
//! Only what is answered before the issuer works counts as refused. Everything that isn't a clear answer
//! (5xx, a redirect, a 200 that can't be read) leaves open whether the old refresh token was used up.

use std::fmt;

use secrecy::SecretString;
use serde_json::{Map, Value};

use super::login::{word, words};

/// The longest token that is taken, in bytes.
const TOKEN_MAX: usize = 16 * 1024;
/// What an issuer may say that a token lives: two years.
const LIFE_MAX_S: u64 = 2 * 366 * 86_400;
/// Scopes that are kept at most.
const SCOPES_MAX: usize = 100;

/// Tokens that were given.
#[derive(Clone)]
pub struct Grant {
    /// What requests are made with.
    pub access: SecretString,
    /// What renews it, where one came: where none did, the old one stays.
    pub refresh: Option<SecretString>,
    /// Seconds that `access` lives, if that was said.
    pub expires_in_s: Option<u64>,
    /// What was granted, if that was said.
    pub scopes: Option<Vec<String>>,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let for_s = self.expires_in_s;
        write!(f, "Grant(for {for_s:?} s)")
    }
}

/// What an answer means.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// New tokens.
    Granted(Grant),
    /// The grant is no more (used up, revoked, expired): only a person can give another.
    Gone(Told),
    /// The request is refused as such: the client's id, secret, address or scopes are wrong. The grant
    /// wasn't touched.
    Client(Told),
    /// It was certainly not acted on: it may be asked again, after so many seconds if that was said.
    Later(Told, Option<u64>),
    /// Nobody knows whether the grant was renewed.
    Unknown(Told),
}

/// An issuer's words: a word for programs, and what people read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// A short, stable word.
    pub code: String,
    /// For people; holds no secret that the request knew.
    pub message: String,
}

impl Told {
    /// Words.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => f.write_str(&self.code),
            it => write!(f, "{}: {it}", self.code),
        }
    }
}

/// What a whole answer means.
pub fn judge(status: u16, retry_after_s: Option<u64>, body: &[u8]) -> Verdict {
    let said = serde_json::from_slice::<Value>(body).ok();
    let said = said.as_ref().and_then(Value::as_object);
    let told = said.and_then(error_of);
    match (status, told) {
        // TikTok answers some errors with 200
        (200..300, Some(it)) => refused(400, it, retry_after_s),
        (200..300, None) => match said.and_then(granted) {
            Some(it) => Verdict::Granted(it),
            None => {
                let message = format!("answered {status} without a token that can be read");
                Verdict::Unknown(Told::new("unreadable", message))
            }
        },
        (400..500, Some(it)) => refused(status, it, retry_after_s),
        (400..500, None) => {
            let bare = Told::new(&format!("http_{status}"), format!("answered {status}"));
            refused(status, bare, retry_after_s)
        }
        (_, told) => {
            let bare = || Told::new(&format!("http_{status}"), format!("answered {status}"));
            Verdict::Unknown(told.unwrap_or_else(bare))
        }
    }
}

/// What a refusal means, by its word and else by its status.
fn refused(status: u16, told: Told, retry_after_s: Option<u64>) -> Verdict {
    match told.code.as_str() {
        // RFC 6749, 5.2; Google: also for a user's password that was changed
        "invalid_grant" | "access_denied" => Verdict::Gone(told),
        // X, of a refresh token that was used: "Value passed for the token was invalid."
        "invalid_request" if told.message.contains("token was invalid") => Verdict::Gone(told),
        // Meta: 190 of a token that expired or was revoked, 102 of a session that did
        "190" | "102" => Verdict::Gone(told),
        // TikTok
        "access_token_invalid" | "refresh_token_invalid" => Verdict::Gone(told),
        "invalid_client"
        | "unauthorized_client"
        | "unsupported_grant_type"
        | "invalid_scope"
        | "invalid_request"
        | "101" => Verdict::Client(told),
        "slow_down" | "rate_limit_exceeded" | "temporarily_unavailable" => {
            Verdict::Later(told, retry_after_s)
        }
        // Meta: of the app, the user, the page, of all; 1 and 2 are its own troubles, after which nobody knows
        "4" | "17" | "32" | "613" => Verdict::Later(told, retry_after_s),
        "1" | "2" if status != 401 => Verdict::Unknown(told),
        _ => match status {
            400 => Verdict::Gone(told),
            429 => Verdict::Later(told, retry_after_s),
            // a gateway's time-out, a conflict, too early: it may have been acted on
            408 | 409 | 425 => Verdict::Unknown(told),
            _ => Verdict::Client(told),
        },
    }
}

/// The error in an answer, in any of the forms that there are.
fn error_of(said: &Map<String, Value>) -> Option<Told> {
    let text = |it: &Value| match it {
        Value::String(it) => Some(it.clone()),
        Value::Number(it) => Some(it.to_string()),
        _ => None,
    };
    let field = |map: &Map<String, Value>, names: &[&str]| {
        let found = names.iter().find_map(|it| map.get(*it).and_then(text));
        found.map(|it| words(&it))
    };
    let told = |code: String, message: Option<String>| Told {
        code: word(&code),
        message: message.unwrap_or_default(),
    };
    match said.get("error") {
        // RFC 6749
        Some(Value::String(code)) if !code.is_empty() && code != "ok" => {
            let message = field(said, &["error_description", "error_message", "message"]);
            return Some(told(code.clone(), message));
        }
        // Meta, TikTok: the whole error is an object
        Some(Value::Object(inner)) => {
            let code = field(inner, &["code", "status", "type"])?;
            if code == "ok" || code == "0" {
                return None;
            }
            return Some(told(code, field(inner, &["message", "log_id"])));
        }
        _ => {}
    }
    // TikTok's older form
    if let Some(Value::Object(inner)) = said.get("data")
        && let Some(code) = field(inner, &["error_code"])
        && code != "0"
    {
        return Some(told(code, field(inner, &["description", "captcha"])));
    }
    // Instagram's login
    if let Some(code) = field(said, &["error_type"]) {
        return Some(told(code, field(said, &["error_message"])));
    }
    // Pinterest: {code, message}, and nothing of a token
    if said.contains_key("access_token") {
        return None;
    }
    let (code, message) = (field(said, &["code"])?, field(said, &["message"])?);
    Some(told(format!("error_{code}"), Some(message)))
}

fn granted(said: &Map<String, Value>) -> Option<Grant> {
    // Instagram's and TikTok's older answers hold it one level deeper
    let inner = match said.get("data") {
        Some(Value::Array(list)) => list.first().and_then(Value::as_object),
        Some(Value::Object(it)) => Some(it),
        _ => None,
    };
    let said = match said.contains_key("access_token") {
        true => said,
        false => inner?,
    };
    let token = |name: &str| {
        let text = said.get(name)?.as_str()?;
        let plain = text.chars().all(|it| it.is_ascii_graphic());
        let fits = !text.is_empty() && text.len() <= TOKEN_MAX && plain;
        fits.then(|| SecretString::from(text))
    };
    let seconds = |it: &Value| match it {
        Value::Number(it) => it
            .as_u64()
            .or_else(|| it.as_f64().map(|it| it.max(0.0) as u64)),
        Value::String(it) => it.trim().parse().ok(),
        _ => None,
    };
    // Meta says 0 of what doesn't end
    let expires_in_s = said.get("expires_in").and_then(seconds);
    let expires_in_s = expires_in_s.filter(|it| *it != 0);
    let scopes = said.get("scope").or_else(|| said.get("permissions"));
    let refresh = match said.get("refresh_token") {
        None | Some(Value::Null) => None,
        // one that can't be kept would be one that is lost
        Some(_) => Some(token("refresh_token")?),
    };
    Some(Grant {
        access: token("access_token")?,
        refresh,
        expires_in_s: expires_in_s.map(|it| it.min(LIFE_MAX_S)),
        scopes: scopes.and_then(scopes_of),
    })
}

fn scopes_of(said: &Value) -> Option<Vec<String>> {
    let all: Vec<String> = match said {
        Value::String(it) => {
            let all = it.split([' ', ',']).filter(|it| !it.is_empty());
            all.take(SCOPES_MAX).map(words).collect()
        }
        Value::Array(it) => {
            let all = it.iter().filter_map(Value::as_str);
            all.take(SCOPES_MAX).map(words).collect()
        }
        _ => return None,
    };
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;

    fn grant(body: &str) -> Grant {
        match judge(200, None, body.as_bytes()) {
            Verdict::Granted(it) => it,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tokens_are_read_in_every_form_that_there_is() {
        let x = grant(
            r#"{"token_type":"bearer","expires_in":7200,"access_token":"a1","scope":"tweet.read offline.access","refresh_token":"r1"}"#,
        );
        assert_eq!(x.access.expose_secret(), "a1");
        assert_eq!(x.refresh.unwrap().expose_secret(), "r1");
        assert_eq!(x.expires_in_s, Some(7_200));
        assert_eq!(x.scopes.unwrap(), ["tweet.read", "offline.access"]);
        let text = grant(r#"{"access_token":"a","expires_in":"3600"}"#);
        assert_eq!(
            (text.expires_in_s, text.refresh.is_none()),
            (Some(3_600), true)
        );
        let tiktok =
            grant(r#"{"access_token":"a","scope":"a,b","open_id":"o","expires_in":86400.0}"#);
        assert_eq!(tiktok.expires_in_s, Some(86_400));
        assert_eq!(tiktok.scopes.unwrap(), ["a", "b"]);
        let instagram =
            grant(r#"{"data":[{"access_token":"a","user_id":"1","permissions":"p1,p2"}]}"#);
        assert_eq!(instagram.scopes.unwrap(), ["p1", "p2"]);
        let older = grant(r#"{"data":{"access_token":"a","error_code":0},"message":"success"}"#);
        assert_eq!(older.access.expose_secret(), "a");
        let endless = grant(r#"{"access_token":"a","expires_in":0}"#);
        assert_eq!(endless.expires_in_s, None);
        let huge = grant(r#"{"access_token":"a","expires_in":18446744073709551615}"#);
        assert_eq!(huge.expires_in_s, Some(LIFE_MAX_S));
    }

    #[test]
    fn each_refusal_has_its_meaning() {
        let meant = |status, body: &str| match judge(status, Some(7), body.as_bytes()) {
            Verdict::Granted(_) => "granted",
            Verdict::Gone(_) => "gone",
            Verdict::Client(_) => "client",
            Verdict::Later(_, after) => {
                assert_eq!(after, Some(7));
                "later"
            }
            Verdict::Unknown(_) => "unknown",
        };
        let cases = [
            (400, r#"{"error":"invalid_grant"}"#, "gone"),
            (
                400,
                r#"{"error":"invalid_request","error_description":"Value passed for the token was invalid."}"#,
                "gone",
            ),
            (
                400,
                r#"{"error":{"message":"Error validating access token","type":"OAuthException","code":190}}"#,
                "gone",
            ),
            (
                200,
                r#"{"error":"invalid_grant","error_description":"Refresh token is invalid","log_id":"1"}"#,
                "gone",
            ),
            (
                200,
                r#"{"data":{"error_code":10008,"description":"expired"},"message":"error"}"#,
                "gone",
            ),
            (401, r#"{"error":"invalid_client"}"#, "client"),
            (
                400,
                r#"{"error":"invalid_request","error_description":"Missing required parameter [client_id]."}"#,
                "client",
            ),
            (
                400,
                r#"{"error":{"message":"Invalid client_secret","code":101}}"#,
                "client",
            ),
            (
                401,
                r#"{"code":2,"message":"Authentication failed."}"#,
                "client",
            ),
            (401, "", "client"),
            (404, "<html>", "client"),
            (400, "<html>", "gone"),
            (429, "", "later"),
            (400, r#"{"error":{"message":"limit","code":4}}"#, "later"),
            (
                400,
                r#"{"error":{"message":"An unknown error occurred","code":1}}"#,
                "unknown",
            ),
            (500, r#"{"error":"invalid_grant"}"#, "unknown"),
            (503, "", "unknown"),
            (302, "", "unknown"),
            (408, "", "unknown"),
            (200, "<html>", "unknown"),
            (200, r#"{"access_token":""}"#, "unknown"),
            (
                200,
                r#"{"access_token":"a","refresh_token":"with\nbreak"}"#,
                "unknown",
            ),
            (
                200,
                r#"{"access_token":"a","refresh_token":"r"}"#,
                "granted",
            ),
            (
                200,
                r#"{"access_token":"a","error":{"code":"ok"}}"#,
                "granted",
            ),
        ];
        for (status, body, expected) in cases {
            assert_eq!(meant(status, body), expected, "{status} {body}");
        }
    }

    #[test]
    fn what_is_told_is_short_and_one_line() {
        let body = format!(
            r#"{{"error":"a b\n","error_description":"{}"}}"#,
            "x".repeat(9_000)
        );
        let Verdict::Gone(told) = judge(400, None, body.as_bytes()) else {
            panic!("gone");
        };
        assert_eq!((told.code.as_str(), told.message.len()), ("ab", 300));
    }

    proptest! {
        #[test]
        fn no_answer_panics_and_only_a_success_grants(status in 0u16..1000, body in ".{0,60}") {
            let verdict = judge(status, None, body.as_bytes());
            let good = (200..300).contains(&status);
            prop_assert!(good || !matches!(verdict, Verdict::Granted(_)));
            // what broke over there may have been done
            prop_assert!(status < 500 || matches!(verdict, Verdict::Unknown(_)));
        }
    }
}
