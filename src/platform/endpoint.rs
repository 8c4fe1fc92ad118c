//! A team's own endpoint that does the work: calls signed as Standard Webhooks has it, under an id that
//! is the same in each repetition; answers that are results; and what its call-backs say.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use url::Url;
use uuid::Uuid;

use crate::config::{Account, webhook_key};
use crate::effect::{EffectId, Receipt, UNDER_WAY};
use crate::job::Progress;
use crate::outcome::{Class, Failure, Scope};

use super::http::{Answer, Body, Call, Http, below};
use super::limits::come_back;
use super::verdict::{
    CallError, Meaning, Progressed, Rules, Said, judge, lost, refused, unreadable,
};

/// What an endpoint's answers mean.
pub const RULES: Rules = Rules {
    platform: "the endpoint",
    said,
    meaning,
};

/// So many answers of a kind that no repeat mends (a redirect, no JSON, too large) are taken for an
/// accident; the last of them is told as what it is.
const ACCIDENTS: u32 = 2;
/// The longest note of a progress, in bytes.
const NOTE_MAX: usize = 500;

/// An endpoint, and how long a call may take, answer included.
pub struct Endpoint<'a> {
    /// The client.
    pub http: &'a Http,
    /// The account.
    pub account: &'a Account,
    /// The longest that a call may take.
    pub deadline: Duration,
}

/// How work ended that an endpoint went on with.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Ended {
    /// Done; the result.
    Done(Value),
    /// It came to nothing.
    Failed(Failure),
}

/// What a call-back says.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// How far the work is.
    Progress(Progress),
    /// How it ended.
    Ended(Ended),
}

/// What is signed, and with which key: HMAC-SHA256 over id, time and body (Standard Webhooks).
pub fn digest(key: &[u8], id: &str, at: &str, body: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in [id.as_bytes(), b".", at.as_bytes(), b".", body] {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

impl Endpoint<'_> {
    /// Where a sub-path is.
    pub fn place(&self, path: Option<&str>) -> Url {
        match path {
            Some(path) => below(&self.account.base_url, &format!("/{path}")),
            None => self.account.base_url.clone(),
        }
    }

    /// Calls, once, under an effect's id; `lost` earlier calls under it have no known answer. The
    /// receipt's detail has the `result`, or says that the work is under way, and perhaps where it can
    /// be asked about.
    ///
    /// # Errors
    /// What was refused, or unknown: then it may be done.
    pub async fn call(
        &self,
        id: EffectId,
        path: Option<&str>,
        body: String,
        lost: u32,
    ) -> Result<Receipt, CallError> {
        let call = Call::post(self.place(path), Body::Json(body.clone()), self.deadline);
        let call = self.signed(call, id, body.as_bytes())?;
        let found = self.answered(&call).await;
        let (answer, found) = found.map_err(|it| no_accident(it, lost))?;
        let (remote_id, detail) = match found {
            Some(result) => (None, json!({"result": result})),
            None => {
                let place = self.status_place(call.url(), &answer);
                let place = place.map(String::from);
                (
                    Some(id.to_string()),
                    json!({UNDER_WAY: true, "status_url": place}),
                )
            }
        };
        Ok(Receipt {
            remote_id,
            url: None,
            at: answer.at,
            detail,
        })
    }

    /// Asks, once, how far the work is that was begun under an effect's id: there the endpoint answers as
    /// to the call itself.
    ///
    /// # Errors
    /// What was lost, or refused without a word on the work: it can be asked again.
    pub async fn look(&self, id: EffectId, place: Url) -> Result<Progressed<Ended>, CallError> {
        let call = self.signed(Call::get(place, self.deadline), id, b"")?;
        match self.answered(&call).await {
            Ok((_, Some(result))) => Ok(Progressed::Ended(Ended::Done(result))),
            Ok((answer, None)) => {
                let told = answer.json::<Value>().ok();
                let progress = told.and_then(|it| progress(&it));
                let after = come_back(&answer, Class::Transient).and_then(|it| it.to_std().ok());
                Ok(Progressed::IsAt(progress, after))
            }
            Err(CallError::Refused(it)) if it.class == Class::Permanent => {
                Ok(Progressed::Ended(Ended::Failed(it)))
            }
            Err(e) => Err(e),
        }
    }

    /// Tells it to stop the work that was begun under an effect's id; what it said.
    ///
    /// # Errors
    /// What was refused or lost.
    pub async fn stop(&self, id: EffectId, place: Url) -> Result<String, CallError> {
        let call = self.signed(Call::delete(place, self.deadline), id, b"")?;
        let (answer, _) = self.answered(&call).await?;
        Ok(format!("it answered {}", answer.status))
    }

    /// Whether somebody is there: a HEAD, to which any answer will do, since nothing but a call can tell
    /// whether the signature is taken.
    ///
    /// # Errors
    /// What was lost, or refused for who asks.
    pub async fn who(&self) -> Result<String, CallError> {
        let call = Call::head(self.place(None), self.deadline);
        let answer = self.http.send(&call).await;
        let answer = answer.map_err(|it| lost(&RULES, &it))?;
        match answer.status {
            status @ (200..300 | 400 | 402..500) if status != 403 => Ok(format!(
                "it is there and answers {status} to HEAD; whether it takes the signature only a job tells"
            )),
            _ => Err(judge(&RULES, &call, &answer)),
        }
    }

    /// With the headers that prove whose it is, signed anew each time.
    fn signed(&self, call: Call, id: EffectId, body: &[u8]) -> Result<Call, CallError> {
        let (id, at) = (id.to_string(), self.http.now().timestamp().to_string());
        let mut signatures = Vec::new();
        let secrets = [
            Some(&self.account.secret),
            self.account.previous_secret.as_ref(),
        ];
        for secret in secrets.into_iter().flatten() {
            let key = webhook_key(secret).map_err(|why| {
                let message = format!("the account's secret: {why}");
                let scope = Scope::Account;
                CallError::Refused(Failure::new(Class::Unauthorised, scope, "secret", message))
            })?;
            let signature = digest(&key, &id, &at, body);
            signatures.push(format!("v1,{}", STANDARD.encode(signature)));
        }
        let mut call = call.hiding(&self.account.secret);
        if let Some(secret) = &self.account.previous_secret {
            call = call.hiding(secret);
        }
        Ok(call
            .header("webhook-id", id)
            .header("webhook-timestamp", at)
            .header("webhook-signature", signatures.join(" "))
            .fresh()
            .patient())
    }

    /// A success with its result; without one (202) the work goes on.
    async fn answered(&self, call: &Call) -> Result<(Answer, Option<Value>), CallError> {
        let answer = self.http.send(call).await;
        let answer = answer.map_err(|it| lost(&RULES, &it))?;
        let result = match answer.status {
            202 => None,
            200..300 if answer.body.trim_ascii().is_empty() => Some(Value::Null),
            200..300 => {
                let read = answer.json();
                Some(read.map_err(|why| unreadable(&RULES, call, &answer, &why))?)
            }
            _ => return Err(judge(&RULES, call, &answer)),
        };
        Ok((answer, result))
    }

    /// Where the endpoint wants to be asked, if that is the endpoint's own: our signature goes nowhere
    /// else, whatever an answer says.
    fn status_place(&self, called: &Url, answer: &Answer) -> Option<Url> {
        let place = called.join(answer.header("location")?).ok()?;
        let own = place.origin() == self.account.base_url.origin();
        let anonymous = place.username().is_empty() && place.password().is_none();
        if !own || !anonymous {
            tracing::warn!(
                "an endpoint names another server to be asked about its work, which isn't asked"
            );
            return None;
        }
        Some(place)
    }
}

/// What a call-back says, and of which effect: `{"id": ..., "progress": 40, "note": "..."}`, or with
/// `result` or `error`.
///
/// # Errors
/// What can't be understood, for people.
pub fn told_of(event: &[u8]) -> Result<(EffectId, Told), String> {
    let event: Value = serde_json::from_slice(event).map_err(|e| format!("it is no JSON: {e}"))?;
    let id = event["id"].as_str().and_then(|it| it.parse::<Uuid>().ok());
    let id = id.ok_or("`id` is the webhook-id of the call that it is about")?;
    let told = match (event.get("result"), event.get("error")) {
        (Some(_), Some(_)) => return Err("`result` or `error`, not both".to_owned()),
        (Some(result), None) => Told::Ended(Ended::Done(result.clone())),
        (None, Some(error)) => Told::Ended(Ended::Failed(failed(error)?)),
        (None, None) => {
            let progress = progress(&event);
            let message = "`progress` (0 to 100), `result` or `error` is missing";
            Told::Progress(progress.ok_or(message)?)
        }
    };
    Ok((EffectId(id), told))
}

/// `{"progress": 40, "note": "..."}`, whatever else stands there.
fn progress(told: &Value) -> Option<Progress> {
    let percent = told["progress"].as_f64()?;
    let note = told["note"].as_str().unwrap_or_default();
    Some(Progress {
        percent: percent.clamp(0.0, 100.0) as u8,
        message: note[..note.floor_char_boundary(NOTE_MAX)].to_owned(),
    })
}

/// `"words"`, or `{"message": "words", "code": "word", "retry": true}`.
fn failed(error: &Value) -> Result<Failure, String> {
    let message = error.as_str().or(error["message"].as_str());
    let message = message.ok_or("`error` is a text, or an object with `message`")?;
    let class = match &error["retry"] {
        Value::Bool(true) => Class::Transient,
        Value::Bool(false) | Value::Null => Class::Permanent,
        _ => return Err("`retry` is true or false".to_owned()),
    };
    let word = |it: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        (1..=60).contains(&it.len()) && it.chars().all(plain)
    };
    let code = error["code"].as_str().filter(word).unwrap_or("endpoint");
    let scope = match class {
        Class::Permanent => Scope::Content,
        _ => Scope::Platform,
    };
    let message = format!("the endpoint says: {message}");
    Ok(Failure::new(class, scope, code, message))
}

/// An error's body: `{"error": "words"}`, `{"error": {"code", "message"}}`, `{"message": ...}`, or as
/// RFC 9457 has it.
fn said(body: &[u8]) -> Said {
    let Ok(told) = serde_json::from_slice::<Value>(body) else {
        return Said::default();
    };
    let inner = match &told["error"] {
        it @ Value::Object(_) => it,
        _ => &told,
    };
    let text = |it: &Value| it.as_str().map(str::to_owned);
    let words = [
        &inner["message"],
        &told["error"],
        &told["detail"],
        &told["title"],
    ];
    Said {
        code: text(&inner["code"]),
        message: words.into_iter().find_map(text),
    }
}

/// 408, 425 and 409 (`the same id is being worked on`, as in the IETF's draft on idempotency keys) leave
/// open what became of it, and the rest of 4xx is an answer.
fn meaning(status: u16, _: &Said) -> Option<Meaning> {
    match status {
        401 | 403 | 408 | 409 | 425 | 429 => None,
        400..500 => Some(refused(Class::Permanent, Scope::Content)),
        _ => None,
    }
}

/// An answer that a proxy may have given once is the endpoint's own when it comes again and again.
fn no_accident(e: CallError, lost: u32) -> CallError {
    let CallError::Unknown(it) = &e else { return e };
    let lasting =
        it.code == "unreadable" || it.code == "too_large" || it.code.starts_with("http_3");
    if lost < ACCIDENTS || !lasting {
        return e;
    }
    let advice = match it.code.starts_with("http_3") {
        true => "redirects aren't followed: write the last address as base_url",
        false => "a result is JSON of at most 1 MiB, or nothing",
    };
    let message = format!("{}; {advice}", it.message);
    CallError::Refused(Failure::new(
        Class::Permanent,
        Scope::Account,
        &it.code,
        message,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::verdict::usual;
    use proptest::prelude::*;

    #[test]
    fn the_official_example_is_signed_alike() {
        // of the Standard Webhooks libraries
        let key = webhook_key(&"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()).unwrap();
        let (id, at) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330");
        let signature = digest(&key, id, at, br#"{"test": 2432232314}"#);
        let text = STANDARD.encode(signature);
        assert_eq!(text, "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_status_has_its_meaning() {
        for status in 300..600 {
            let none = Said::default();
            let it = meaning(status, &none).unwrap_or_else(|| usual(status));
            let expected = match status {
                401 | 403 => (false, Class::Unauthorised),
                429 => (false, Class::Throttled),
                408 | 409 | 425 => (true, Class::Unknown),
                400..500 => (false, Class::Permanent),
                _ => (true, Class::Unknown),
            };
            assert_eq!((it.acted, it.class), expected, "{status}");
        }
    }

    #[test]
    fn what_no_repeat_mends_is_told_in_the_end() {
        let of = |code: &str, lost| {
            let it = Failure::new(Class::Unknown, Scope::Platform, code, "x");
            matches!(
                no_accident(CallError::Unknown(it), lost),
                CallError::Refused(_)
            )
        };
        for code in ["unreadable", "too_large", "http_302"] {
            assert!(!of(code, 0) && !of(code, 1) && of(code, 2), "{code}");
        }
        assert!(!of("http_503", 9) && !of("reset", 9) && !of("timeout", 9));
    }

    #[test]
    fn a_call_back_says_one_thing() {
        let id = "5f0c2a1e-6f0b-5c43-9d0e-0a4e8a1b2c3d";
        let of = |more: &str| told_of(format!(r#"{{"id": "{id}", {more}}}"#).as_bytes());
        let told = |more: &str| of(more).unwrap().1;
        assert_eq!(of(r#""result": null"#).unwrap().0.to_string(), id);
        assert_eq!(
            told(r#""result": null"#),
            Told::Ended(Ended::Done(Value::Null))
        );
        let half = Progress {
            percent: 40,
            message: "half".to_owned(),
        };
        assert_eq!(
            told(r#""progress": 40.7, "note": "half""#),
            Told::Progress(half)
        );
        let failed = |more: &str| match told(more) {
            Told::Ended(Ended::Failed(it)) => (it.class, it.code),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            failed(r#""error": "no""#),
            (Class::Permanent, "endpoint".into())
        );
        let again = r#""error": {"message": "no", "code": "busy", "retry": true}"#;
        assert_eq!(failed(again), (Class::Transient, "busy".into()));
        for wrong in [
            r#""x": 1"#,
            r#""result": 1, "error": "x""#,
            r#""error": {}"#,
            r#""error": {"message": "a", "retry": 1}"#,
        ] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        assert!(told_of(br#"{"id": "x", "result": 1}"#).is_err());
    }

    #[test]
    fn an_errors_words_are_found() {
        let of = |text: &str| (said(text.as_bytes()).code, said(text.as_bytes()).message);
        let both = (Some("bad".to_owned()), Some("no".to_owned()));
        assert_eq!(of(r#"{"error": {"code": "bad", "message": "no"}}"#), both);
        assert_eq!(of(r#"{"code": "bad", "message": "no"}"#), both);
        assert_eq!(of(r#"{"error": "no"}"#), (None, both.1.clone()));
        assert_eq!(
            of(r#"{"title": "x", "detail": "no"}"#),
            (None, both.1.clone())
        );
        assert_eq!(of("<html>"), (None, None));
    }

    proptest! {
        #[test]
        fn no_body_panics(body: Vec<u8>, text in ".{0,60}") {
            said(&body);
            said(text.as_bytes());
            let _ = told_of(&body);
            let _ = told_of(format!(r#"{{"id": "5f0c2a1e-6f0b-5c43-9d0e-0a4e8a1b2c3d", "progress": 1, "note": {}}}"#, Value::from(text)).as_bytes());
        }
    }
}
