//! What an answer means: one total function from a status to "it did not act" or "nobody knows".
//!
//! Only what a platform answers *before* it works counts as refused. Everything else that isn't a
//! success (408, 409, 5xx, redirects, resets, time-outs, what can't be read) leaves open whether it
//! acted, and is looked at again before anything is repeated.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::budget::Paid;
use crate::effect::Receipt;
use crate::job::Progress;
use crate::outcome::{Class, Failure, Scope};
use crate::telemetry::redact::{self, Redactor};

use super::gate::{Bill, paid};
use super::http::{Answer, Call, Http, Lost};
use super::limits;

/// Why a call brought no success, and whether the platform may have acted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CallError {
    /// It certainly did not act: nothing was sent, or the answer says so.
    #[error("{0}")]
    Refused(Failure),
    /// It may have acted: time-out, reset, 5xx, an unreadable answer.
    #[error("{0}")]
    Unknown(Failure),
}

impl CallError {
    /// The failure, for a call that changes nothing outside: then a lost answer is transient.
    pub fn harmless(self) -> Failure {
        match self {
            Self::Refused(it) => it,
            Self::Unknown(it) => Failure {
                class: Class::Transient,
                ..it
            },
        }
    }

    /// The failure's code, if the platform refused.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused(it) => Some(&it.code),
            Self::Unknown(_) => None,
        }
    }
}

/// Settles a bill by what an answer says of it, as far as it says anything.
pub fn settle(bill: Bill, answer: &Result<Receipt, CallError>) {
    match answer {
        Ok(receipt) => {
            if let Some(paid) = paid(receipt) {
                bill.settle(paid);
            }
        }
        Err(CallError::Refused(_)) => bill.settle(Paid::Nothing),
        Err(CallError::Unknown(_)) => {}
    }
}

/// What a platform says of work that it goes on with after its answer.
#[derive(Debug)]
pub enum Progressed<T> {
    /// It has ended, well or badly.
    Ended(T),
    /// It goes on; and when the platform wants to be asked again, if it says so.
    GoesOn(Option<std::time::Duration>),
    /// As [`Progressed::GoesOn`]; and how far it is, unless nothing new is known of that.
    IsAt(Option<Progress>, Option<std::time::Duration>),
}

/// What an error's body says, as far as the platform's form allows to read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Its word for programs.
    pub code: Option<String>,
    /// Its words for people.
    pub message: Option<String>,
}

/// What a refusal or a lost answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// Whether it may have acted.
    pub acted: bool,
    /// What it means for the next attempt.
    pub class: Class,
    /// What it concerns.
    pub scope: Scope,
}

/// A meaning of something that certainly did not happen.
pub const fn refused(class: Class, scope: Scope) -> Meaning {
    Meaning {
        acted: false,
        class,
        scope,
    }
}

/// Nobody knows whether it happened.
pub const UNKNOWN: Meaning = Meaning {
    acted: true,
    class: Class::Unknown,
    scope: Scope::Platform,
};

/// What differs between platforms.
pub struct Rules {
    /// Its name, for people.
    pub platform: &'static str,
    /// Reads an error's body.
    pub said: fn(&[u8]) -> Said,
    /// Its own meaning of a status, where it differs from the usual one.
    pub meaning: fn(u16, &Said) -> Option<Meaning>,
}

/// The meaning of a status that is no success, where a platform doesn't say otherwise.
pub fn usual(status: u16) -> Meaning {
    match status {
        400 | 404 | 405 | 410 | 413 | 415 | 422 => refused(Class::Permanent, Scope::Content),
        401 | 403 => refused(Class::Unauthorised, Scope::Account),
        429 => refused(Class::Throttled, Scope::Account),
        _ => UNKNOWN,
    }
}

/// What is told of an error's body at most, in bytes.
const TOLD_MAX: usize = 2_048;
/// What is told of a body that isn't in the platform's form: some proxy's page says little.
const PAGE_MAX: usize = 300;

/// What an answer that is no success, or can't be read, means.
pub fn judge(rules: &Rules, call: &Call, answer: &Answer) -> CallError {
    let said = (rules.said)(&answer.body);
    let meaning = (rules.meaning)(answer.status, &said).unwrap_or_else(|| usual(answer.status));
    let status = answer.status;
    let code = said
        .code
        .as_deref()
        .filter(|it| is_word(it) && redact(it, call) == **it)
        .map_or(format!("http_{status}"), str::to_owned);
    let words = match &said.message {
        Some(it) => cut(&redact(it, call), TOLD_MAX),
        None => page(answer, call),
    };
    let message = format!("{} answered {status}: {words}", rules.platform);
    let failure = Failure::new(meaning.class, meaning.scope, &code, message)
        .after(limits::come_back(answer, meaning.class));
    match meaning.acted {
        false => CallError::Refused(failure),
        true => CallError::Unknown(failure),
    }
}

/// What a success that can't be read means: nobody knows what was made.
pub fn unreadable(rules: &Rules, call: &Call, answer: &Answer, why: &str) -> CallError {
    let message = format!(
        "{} answered {} and it can't be read: {}",
        rules.platform,
        answer.status,
        cut(&redact(why, call), PAGE_MAX)
    );
    let failure = Failure::new(UNKNOWN.class, UNKNOWN.scope, "unreadable", message);
    CallError::Unknown(failure)
}

/// What a lost answer means.
pub fn lost(rules: &Rules, lost: &Lost) -> CallError {
    let message = format!("{}: {lost}", rules.platform);
    match lost.sent {
        false if lost.held.is_some() => {
            let failure = Failure::new(Class::Throttled, Scope::Handler, lost.code, message);
            CallError::Refused(failure.after(lost.held))
        }
        false => CallError::Refused(Failure::transient(lost.code, message)),
        true => CallError::Unknown(Failure::new(
            UNKNOWN.class,
            UNKNOWN.scope,
            lost.code,
            message,
        )),
    }
}

/// Makes a call once; a success is read as `T`.
///
/// # Errors
/// What the answer, or its loss, means by `rules`.
pub async fn ask<T: DeserializeOwned>(
    http: &Http,
    rules: &Rules,
    call: &Call,
) -> Result<(T, Answer), CallError> {
    let answer = http.send(call).await.map_err(|it| lost(rules, &it))?;
    let it = read(rules, call, &answer)?;
    Ok((it, answer))
}

/// What an answer says: a success read as `T`.
///
/// # Errors
/// What it means by `rules` where it is no success, or can't be read.
pub fn read<'a, T: Deserialize<'a>>(
    rules: &Rules,
    call: &Call,
    answer: &'a Answer,
) -> Result<T, CallError> {
    if !(200..300).contains(&answer.status) {
        return Err(judge(rules, call, answer));
    }
    answer
        .json()
        .map_err(|why| unreadable(rules, call, answer, &why))
}

/// A stable word, and not a sentence or a secret.
fn is_word(code: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (1..=60).contains(&code.len()) && code.chars().all(plain)
}

fn page(answer: &Answer, call: &Call) -> String {
    let text = String::from_utf8_lossy(&answer.body[..answer.body.len().min(TOLD_MAX)]);
    let mut words: Vec<&str> = text.split_whitespace().collect();
    if TOLD_MAX < answer.body.len() && 1 < words.len() {
        words.pop(); // half a word may be half a secret, which nothing recognises
    }
    let text = words.join(" ");
    match cut(&redact(&text, call), PAGE_MAX) {
        it if it.is_empty() => "nothing".to_owned(),
        it => it,
    }
}

/// Without the call's own secrets (a session's, which no configuration names), without those of the
/// configuration, and without what looks like one.
pub(super) fn redact(text: &str, call: &Call) -> String {
    let mut redactor = Redactor::default();
    for secret in call.secrets() {
        redactor.register(secret);
    }
    redact::text(&redactor.redact(text)).into_owned()
}

fn cut(text: &str, most: usize) -> String {
    match text.len() <= most {
        true => text.to_owned(),
        false => format!("{}…", &text[..text.floor_char_boundary(most)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;
    use bytes::Bytes;
    use chrono::{TimeZone as _, Utc};
    use proptest::prelude::*;
    use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
    use secrecy::SecretString;

    const PLAIN: Rules = Rules {
        platform: "Somewhere",
        said: |_| Said {
            code: None,
            message: None,
        },
        meaning: |_, _| None,
    };

    fn now() -> Time {
        Utc.timestamp_opt(1_800_000_000, 0).unwrap()
    }

    fn answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let header = |(name, value): &(&str, &str)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        };
        Answer {
            status,
            headers: headers.iter().map(header).collect::<HeaderMap>(),
            body: Bytes::copy_from_slice(body),
            at: now(),
        }
    }

    fn call() -> Call {
        let url = url::Url::parse("https://a.example").unwrap();
        Call::get(url, std::time::Duration::from_secs(1))
    }

    #[test]
    fn only_what_comes_before_the_work_is_refused() {
        let known = [400, 401, 403, 404, 405, 410, 413, 415, 422, 429];
        for status in (100..600).filter(|it| !(200..300).contains(it)) {
            let error = judge(&PLAIN, &call(), &answer(status, &[], b""));
            let refused = matches!(error, CallError::Refused(_));
            assert_eq!(refused, known.contains(&status), "{status}");
        }
    }

    #[test]
    fn what_is_told_holds_no_secret_and_is_short() {
        let own = SecretString::from("hunter2!");
        let body = format!("<html>hunter2! {}</html>", "x".repeat(9_000));
        let error = judge(
            &PLAIN,
            &call().hiding(&own),
            &answer(500, &[], body.as_bytes()),
        );
        let told = error.to_string();
        assert!(!told.contains("hunter2!") && told.len() < 400, "{told}");
    }

    #[test]
    fn a_page_that_is_cut_tells_no_half_of_a_secret() {
        let own = SecretString::from("hunter2-hunter2");
        let blanks = " ".repeat(TOLD_MAX - "no: hunter2-".len());
        let body = format!("no:{blanks}hunter2-hunter2 and more");
        let answer = answer(500, &[], body.as_bytes());
        let told = judge(&PLAIN, &call().hiding(&own), &answer).to_string();
        assert!(told.ends_with("no:"), "{told}");
    }

    #[test]
    fn neither_a_code_nor_what_cannot_be_read_tells_the_secret() {
        const ECHO: Rules = Rules {
            said: |body| Said {
                code: Some(String::from_utf8_lossy(body).into_owned()),
                message: None,
            },
            ..PLAIN
        };
        let own = SecretString::from("hunter2-hunter2");
        let call = call().bearer(&own);
        let CallError::Refused(failure) =
            judge(&ECHO, &call, &answer(400, &[], b"hunter2-hunter2"))
        else {
            panic!("400 is refused");
        };
        assert_eq!(failure.code, "http_400");
        let why = "invalid type: string \"hunter2-hunter2\", expected u64";
        let told = unreadable(&PLAIN, &call, &answer(200, &[], b""), why).to_string();
        assert!(
            !told.contains("hunter2") && told.contains("expected u64"),
            "{told}"
        );
    }

    #[test]
    fn nothing_sent_is_refused() {
        let it = |sent| Lost {
            sent,
            code: "x",
            held: None,
            message: String::new(),
        };
        assert!(matches!(lost(&PLAIN, &it(false)), CallError::Refused(_)));
        assert!(matches!(lost(&PLAIN, &it(true)), CallError::Unknown(_)));
    }

    proptest! {
        #[test]
        fn no_header_or_body_panics(status in 100u16..600, header in "[ -~]{0,40}", body: Vec<u8>) {
            let headers = ["retry-after", "ratelimit-reset", "x-ratelimit-reset-requests"].map(|it| (it, header.as_str()));
            let error = judge(&PLAIN, &call(), &answer(status, &headers, &body));
            prop_assert!(error.harmless().retry_after().is_none_or(|it| it <= limits::AFTER_MAX));
        }
    }
}
