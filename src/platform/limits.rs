//! What answers teach of limits: when to come back, and what nothing is left of.
//!
//! Platforms tell it in headers of many forms; here they become one thing, [`Learned`]. An answer
//! teaches whatever its status: where a success says that nothing is left, the next request would be
//! refused, and isn't made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Duration, TimeZone, Utc};
use serde_json::Value;
use tokio::sync::Notify;

use crate::clock::Time;
use crate::outcome::{Class, Scope};

use super::http::{Answer, Ear, Lost};

/// A platform's word on when to come back is believed up to this.
pub const AFTER_MAX: Duration = Duration::days(7);
/// Smaller numbers of a reset are seconds from now on; larger ones are seconds since 1970.
const UNIX_LEAST: i64 = 1_000_000_000;
/// A share that is used up without a word on when calls are taken again: Meta counts over an hour that
/// rolls on, so a part of it is back by then.
const SHARE_WAIT: Duration = Duration::minutes(10);
/// A longer wait that Meta tells of is asked about again after this.
const REGAIN_MAX: Duration = Duration::days(1);

/// Nothing of a scope goes before a moment: its platform has said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    /// The account that asked, its app, or the whole server.
    pub scope: Scope,
    /// Until when, by the clock of the client that heard it.
    pub until: Time,
    /// What it said, for people.
    pub why: String,
}

/// Accounts of which nothing is asked for a while, as this host knows it.
#[derive(Debug, Default)]
pub struct Quiet(Mutex<Accounts>);

#[derive(Debug, Default)]
struct Accounts {
    /// By the ledger's word.
    told: HashMap<String, Time>,
    /// Heard here, and on its way to the ledger.
    heard: HashMap<String, Time>,
}

/// What was heard here is in the ledger by then, whose word holds from then on.
const ON_ITS_WAY: Duration = Duration::seconds(2);

impl Quiet {
    fn lock(&self) -> std::sync::MutexGuard<'_, Accounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the ledger says, in place of what it said before.
    pub fn told(&self, accounts: HashMap<String, Time>) {
        self.lock().told = accounts;
    }

    /// Nothing is asked of an account before a moment; the ledger is told now.
    pub fn heard(&self, account: &str, until: Time, now: Time) {
        let until = until.min(now + ON_ITS_WAY);
        let mut accounts = self.lock();
        let held = accounts.heard.entry(account.to_owned()).or_insert(until);
        *held = until.max(*held);
    }

    /// Until when nothing is asked of an account; `None`: it may be asked at `now`.
    pub fn until(&self, account: &str, now: Time) -> Option<Time> {
        let accounts = self.lock();
        let (told, heard) = (accounts.told.get(account), accounts.heard.get(account));
        told.max(heard).copied().filter(|it| now < *it)
    }
}

/// What the requests of one attempt, or of one look, were answered. Whoever makes them gets a client
/// that tells it here ([`super::http::Http::heard_by`]).
#[derive(Debug, Default)]
pub struct Heard {
    /// Whose requests they are, and what is known of it. `None`: they are made whatever is known.
    of: Option<(String, Arc<Quiet>)>,
    noted: Mutex<Noted>,
    learned: Notify,
}

#[derive(Debug, Default)]
struct Noted {
    learned: Vec<Learned>,
    last: Option<bool>,
}

impl Ear for Heard {
    fn held(&self, now: Time) -> Option<Time> {
        let (account, quiet) = self.of.as_ref()?;
        quiet.until(account, now)
    }

    fn answer(&self, answer: &Answer) {
        let learned = learned(answer);
        if let Some((account, quiet)) = &self.of {
            for it in &learned {
                // whatever its scope, this account is in it
                quiet.heard(account, it.until, answer.at);
            }
        }
        let taught = !learned.is_empty();
        let mut noted = self.lock();
        noted.last = Some(answer.status < 500);
        noted.learned.extend(learned);
        drop(noted);
        if taught {
            self.learned.notify_one();
        }
    }

    fn lost(&self, lost: &Lost) {
        // a request that can't be made, and a file that can't be read, are no fault of the platform's
        if !matches!(lost.code, "request" | "source" | "too_large") {
            self.lock().last = Some(false);
        }
    }
}

impl Heard {
    /// Of the requests of an account, which aren't made while `quiet` says so.
    pub fn of(account: &str, quiet: Arc<Quiet>) -> Self {
        Self {
            of: Some((account.to_owned(), quiet)),
            ..Self::default()
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last request was answered by a platform that works: a 5xx isn't such an answer, and
    /// neither is none. `None`: none was made.
    pub fn works(&self) -> Option<bool> {
        self.lock().last
    }

    /// Takes what was learned since the last time.
    pub fn take(&self) -> Vec<Learned> {
        std::mem::take(&mut self.lock().learned)
    }

    /// Waits until something is learned.
    pub async fn learned(&self) {
        self.learned.notified().await;
    }
}

/// What an answer teaches, whatever its status: who says that nothing is left, or when to come back.
pub fn learned(answer: &Answer) -> Vec<Learned> {
    let mut all = Vec::new();
    let mut learn = |scope, wait: Duration, why: String| {
        let wait = wait.min(AFTER_MAX);
        if Duration::zero() < wait {
            let until = answer.at + wait;
            all.push(Learned { scope, until, why });
        }
    };
    for it in windows(answer) {
        if let (Some(0), Some(wait)) = (it.remaining, it.reset) {
            learn(it.scope, wait, format!("nothing is left of {}", it.name));
        }
    }
    for (scope, wait, name) in shares(answer) {
        learn(scope, wait, format!("{name}: its share is used up"));
    }
    let scope = match answer.status {
        429 => Scope::Account,
        503 => Scope::Platform,
        _ => return all,
    };
    if let Some(wait) = retry_after(answer) {
        let why = format!("it answered {} and said when to come back", answer.status);
        learn(scope, wait, why);
    }
    all
}

/// When to come back, by the answer's own word: `Retry-After` in both forms, and where it means that
/// there were too many, the resets of all forms. Never more than seven days.
pub fn come_back(answer: &Answer, class: Class) -> Option<Duration> {
    let wait = match (retry_after(answer), class) {
        (Some(it), _) => it,
        (None, Class::Throttled) => {
            let spent = windows(answer).into_iter();
            let spent = spent.filter(|it| it.remaining.is_none_or(|it| it == 0));
            let resets = spent.filter_map(|it| it.reset);
            resets.chain(shares(answer).map(|it| it.1)).max()?
        }
        _ => return None,
    };
    Some(wait.clamp(Duration::zero(), AFTER_MAX))
}

/// `Retry-After: 120`, or `Retry-After: Fri, 31 Dec 1999 23:59:59 GMT` (RFC 9110, 10.2.3).
pub(super) fn retry_after(answer: &Answer) -> Option<Duration> {
    let text = answer.header("retry-after")?.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return seconds_of(seconds);
    }
    let at = DateTime::parse_from_rfc2822(text).ok()?;
    Some(at.with_timezone(&Utc) - answer.at)
}

fn seconds_of(seconds: f64) -> Option<Duration> {
    // the cap is applied before the cast, so that it can't overflow
    let most = AFTER_MAX.num_seconds() as f64;
    (seconds.is_finite() && 0.0 <= seconds)
        .then(|| Duration::milliseconds((seconds.min(most) * 1_000.0).ceil() as i64))
}

/// What an answer says of one count of requests.
struct Window {
    name: String,
    scope: Scope,
    remaining: Option<u64>,
    reset: Option<Duration>,
}

/// The forms in which a count is told, and whose it is: before and after the word (`remaining`,
/// `reset`). Bluesky; Mastodon and Pinterest; X, its days too; OpenAI.
const FORMS: [(&str, &str, Scope); 7] = [
    ("ratelimit-", "", Scope::Account),
    ("x-ratelimit-", "", Scope::Account),
    ("x-rate-limit-", "", Scope::Account),
    ("x-user-limit-24hour-", "", Scope::Account),
    ("x-app-limit-24hour-", "", Scope::App),
    ("x-ratelimit-", "-requests", Scope::Account),
    ("x-ratelimit-", "-tokens", Scope::Account),
];

fn windows(answer: &Answer) -> Vec<Window> {
    let told = FORMS.iter().filter_map(|(before, after, scope)| {
        let of = |word| answer.header(&format!("{before}{word}{after}"));
        let (remaining, reset) = (of("remaining"), of("reset"));
        remaining.or(reset)?;
        Some(Window {
            name: format!("{before}remaining{after}"),
            scope: *scope,
            remaining: remaining.and_then(|it| it.trim().parse().ok()),
            reset: reset.and_then(|it| moment(it, answer.at)),
        })
    });
    told.chain(structured(answer)).collect()
}

/// `RateLimit: "default";r=0;t=30, "day";r=100;t=3600` (the IETF's draft, as a structured field).
fn structured(answer: &Answer) -> Vec<Window> {
    let Some(text) = answer.header("ratelimit") else {
        return vec![];
    };
    let read = |item: &str| {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next()?.trim_matches('"').to_owned();
        let pairs: Vec<(&str, &str)> = parts.filter_map(|it| it.split_once('=')).collect();
        let of = |key| {
            pairs
                .iter()
                .find(|(it, _)| *it == key)?
                .1
                .parse::<u64>()
                .ok()
        };
        Some(Window {
            name: format!("ratelimit \"{name}\""),
            scope: Scope::Account,
            remaining: of("r"),
            reset: of("t").and_then(|it| seconds_of(it as f64)),
        })
    };
    text.split(',').filter_map(read).collect()
}

/// When a window begins anew: Unix seconds (X, Bluesky), seconds from now on (the IETF's older drafts),
/// RFC 3339 (Mastodon), or `1m0s` (OpenAI).
fn moment(text: &str, now: Time) -> Option<Duration> {
    let text = text.trim();
    match text.parse::<i64>() {
        Ok(it) if it < UNIX_LEAST => seconds_of(it as f64),
        Ok(it) => Some(Utc.timestamp_opt(it, 0).single()? - now),
        Err(_) => match DateTime::parse_from_rfc3339(text) {
            Ok(at) => Some(at.with_timezone(&Utc) - now),
            Err(_) => units(text),
        },
    }
}

/// `12ms`, `1m0s`, `6h0m0.5s`.
fn units(text: &str) -> Option<Duration> {
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3_600.0,
                "d" => 86_400.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    seconds_of(seconds)
}

/// Meta's usage, in percent of what may be used: of the app (`X-App-Usage`, one object), and of what a
/// business does by it (`X-Business-Use-Case-Usage`, a list for each business, with the minutes until
/// calls are taken again). Those that are used up, and for how long.
fn shares(answer: &Answer) -> impl Iterator<Item = (Scope, Duration, &'static str)> {
    let read = |name| serde_json::from_str::<Value>(answer.header(name)?).ok();
    let is_full = |it: &Value| {
        let percent = |key| it[key].as_f64().unwrap_or_default();
        let most = ["call_count", "total_time", "total_cputime"].map(percent);
        most.into_iter().any(|it| 100.0 <= it)
    };
    let businesses = read("x-business-use-case-usage");
    let cases = businesses.as_ref().and_then(Value::as_object);
    let cases = cases.into_iter().flat_map(|it| it.values());
    let cases: Vec<&Value> = cases.filter_map(Value::as_array).flatten().collect();
    let minutes = |it: &&Value| it["estimated_time_to_regain_access"].as_i64();
    let told = cases.iter().filter_map(minutes).max().filter(|it| 0 < *it);
    let told = told.map(|it| Duration::minutes(it.min(REGAIN_MAX.num_minutes())));
    // what one of them says is the best guess for the others
    let wait = told.unwrap_or(SHARE_WAIT);
    let app = read("x-app-usage").filter(is_full);
    let app = app.map(|_| (Scope::App, wait, "x-app-usage"));
    let business = told.is_some() || cases.iter().any(|it| is_full(it));
    let business = business.then_some((Scope::Account, wait, "x-business-use-case-usage"));
    app.into_iter().chain(business)
}

#[cfg(test)]
mod tests;
