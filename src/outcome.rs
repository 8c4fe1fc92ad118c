//! How an attempt ends, and why it failed.

use std::fmt;

use chrono::Duration;
use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::json::Digest;

/// Declares an enum of words with one spelling each, the same in JSON, SQL and for people.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant),+ }
        impl $name {
            /// Every word, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// The spelling in JSON, SQL and for people.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(word: &str) -> Result<Self, String> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => {
                        let known = [$($word),+];
                        let near = $crate::json::did_you_mean(word, known);
                        Err(format!("`{word}` is none of {}{near}", known.join(", ")))
                    }
                }
            }
        }
    };
}
pub(crate) use words;

words! {
    /// What a failure means for the next attempt.
    Class {
        /// It may work another time.
        Transient = "transient",
        /// Too many, too fast: wait as told, at no charge.
        Throttled = "throttled",
        /// It will never work like this.
        Permanent = "permanent",
        /// The account's credentials are refused: a person must renew them.
        Unauthorised = "unauthorised",
        /// The outside may or may not have acted.
        Unknown = "unknown",
    }
}

words! {
    /// What a failure concerns: the narrowest thing that has to change.
    Scope {
        /// This job's content.
        Content = "content",
        /// This account.
        Account = "account",
        /// This application (its key, its quota).
        App = "app",
        /// The platform as a whole.
        Platform = "platform",
        /// Presswork itself, or its handler.
        Handler = "handler",
    }
}

/// Why an attempt failed. The message is for people and holds no secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// What it means for the next attempt.
    pub class: Class,
    /// What it concerns.
    pub scope: Scope,
    /// A short, stable word: `http_503`, `timeout`, `too_long`.
    pub code: String,
    /// What happened, where, and what to do.
    pub message: String,
    /// The platform's own word on when to come back (Retry-After, reset headers).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// The account may do nothing any more, says its platform.
pub const RESTRICTED: &str = "restricted";
/// What the account did was blocked, says its platform; it may have been done all the same.
pub const BLOCKED: &str = "action_blocked";
/// The codes of a platform's refusals of an account: nothing of it is sent before a person has been there.
pub const POLICY: [&str; 2] = [RESTRICTED, BLOCKED];
/// The code of a job that came too late, by its own rule.
pub const LATE: &str = "late";
/// A longer message is cut: it is for a person to read.
const MESSAGE_MAX: usize = 2_048;
/// A platform's word on when to come back is taken for a year at most.
const YEAR_MS: i64 = 366 * 86_400_000;

impl Failure {
    /// A failure; a message beyond 2 KiB is cut.
    pub fn new(class: Class, scope: Scope, code: &str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if MESSAGE_MAX < message.len() {
            message.truncate(message.floor_char_boundary(MESSAGE_MAX));
            message.push('…');
        }
        let code = code.to_owned();
        Self {
            class,
            scope,
            code,
            message,
            retry_after_ms: None,
        }
    }

    /// It may work another time.
    pub fn transient(code: &str, message: impl Into<String>) -> Self {
        Self::new(Class::Transient, Scope::Platform, code, message)
    }

    /// This content will never work like this.
    pub fn permanent(code: &str, message: impl Into<String>) -> Self {
        Self::new(Class::Permanent, Scope::Content, code, message)
    }

    /// With the platform's own word on when to come back.
    pub fn after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after_ms = wait.map(|it| it.num_milliseconds().max(0).unsigned_abs());
        self
    }

    /// The platform's own word on when to come back.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after_ms
            .map(|ms| Duration::milliseconds(i64::try_from(ms).unwrap_or(YEAR_MS).min(YEAR_MS)))
    }

    /// Whether the same may work another time, without anybody doing anything.
    pub fn is_recoverable(&self) -> bool {
        matches!(self.class, Class::Transient | Class::Throttled)
    }

    /// What happened, fit for the eyes of whoever uses what Presswork works for: nothing of it comes from
    /// a platform or a handler. The message is for operators.
    pub fn told(&self) -> &'static str {
        match (self.class, self.scope) {
            _ if self.code == LATE => "It came too late; nothing was sent.",
            (Class::Transient, Scope::Handler) => "It didn't work this time, and may another time.",
            (Class::Transient, _) => {
                "The platform couldn't do it this time; another time it may work."
            }
            (Class::Throttled, _) => "The platform asks for a pause; then it goes on.",
            (Class::Permanent, Scope::Content) => "This can't be done as it was asked.",
            (Class::Permanent, Scope::Account) => "The account may not do this.",
            (Class::Permanent, Scope::App | Scope::Platform) => "The platform doesn't allow this.",
            (Class::Permanent, Scope::Handler) => "It can't be done; an operator has to look.",
            (Class::Unauthorised, _) => {
                "The platform no longer lets the account in; it has to be connected anew."
            }
            (Class::Unknown, _) => "It isn't known whether it happened.",
        }
    }

    /// Without NUL characters, which only a platform could have put into it: Postgres can't hold one,
    /// and for SQLite's functions a text ends there.
    pub fn storable(&self) -> Self {
        let plain = |text: &str| text.replace('\0', "\u{fffd}");
        Self {
            code: plain(&self.code),
            message: plain(&self.message),
            ..self.clone()
        }
    }

    /// Groups failures of one cause: numbers, identifiers and quoted words don't count.
    pub fn fingerprint(&self, kind: &str) -> String {
        let unquoted = |text: &str, mark: char| text.split(mark).step_by(2).collect::<String>();
        let message = unquoted(&unquoted(&self.message, '`'), '"');
        let has_digit = |word: &&str| word.contains(|c: char| c.is_ascii_digit());
        let plain: Vec<&str> = message
            .split_whitespace()
            .filter(|it| !has_digit(it))
            .collect();
        let plain = plain.join(" ");
        let text = format!("{kind}\n{}\n{}\n{plain}", self.class, self.code);
        Digest::of_bytes(text.as_bytes()).hex()[..12].to_owned()
    }
}

words! {
    /// Why a job is held: it goes on when a person has mended this.
    Held {
        /// The account's credentials were refused.
        Account = "account",
        /// The platform keeps failing.
        Breaker = "breaker",
        /// The budget is spent.
        Budget = "budget",
        /// A re-run would send something else than was written down.
        Nondeterministic = "nondeterministic",
        /// An operator's rule.
        Policy = "policy",
    }
}

/// How an attempt ended. `Err` of a handler converts from [`Failure`].
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Done; the value is the job's result.
    Completed(serde_json::Value),
    /// Failed; what the class says decides what follows.
    Failed(Failure),
    /// Not now: again at `until`, at no charge.
    Snoozed {
        /// When to go on.
        until: Time,
        /// Why, for people.
        reason: String,
    },
    /// The handler stopped because the job was cancelled.
    Cancelled,
    /// The daemon stops, or lost its lease: back to the lane, at no charge.
    Released {
        /// Why, for people.
        reason: String,
    },
    /// A closure stands before it: back to its place in the lane, at no charge, until that is open.
    Shut {
        /// What is closed, and why, for people.
        reason: String,
        /// What the platform said, where this job's own request was answered so.
        failure: Option<Failure>,
    },
    /// Only a person can let it go on.
    Held(Held, Failure),
    /// An effect may or may not have happened, and only a person can say.
    Unresolved(Failure),
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Outcome {
    /// Given back, for a reason.
    pub fn released(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::Released { reason }
    }

    /// Given back to its place, for what is closed.
    pub fn shut(reason: String) -> Self {
        let failure = None;
        Self::Shut { reason, failure }
    }

    /// The outcome's word in the attempts' history.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Completed(_) => "completed",
            Self::Failed(_) => "failed",
            Self::Snoozed { .. } => "snoozed",
            Self::Cancelled => "cancelled",
            Self::Released { .. } | Self::Shut { .. } => "released",
            Self::Held(..) => "held",
            Self::Unresolved(_) => "unresolved",
        }
    }

    /// The failure behind it, if there is one.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(it) | Self::Held(_, it) | Self::Unresolved(it) => Some(it),
            Self::Shut { failure, .. } => failure.as_ref(),
            _ => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed(_) | Self::Cancelled => f.write_str(self.word()),
            Self::Snoozed { reason, .. }
            | Self::Released { reason }
            | Self::Shut { reason, .. } => {
                write!(f, "{}: {reason}", self.word())
            }
            Self::Failed(it) | Self::Held(_, it) | Self::Unresolved(it) => {
                write!(f, "{}: {it}", self.word())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_groups_one_cause() {
        let of =
            |message: &str| Failure::transient("http_503", message).fingerprint("post.mastodon");
        assert_eq!(
            of("answered 503 after 12 ms"),
            of("answered 503 after 9001 ms")
        );
        assert_eq!(
            of("no account `a b`, sorry"),
            of("no account `other`, sorry")
        );
        assert_ne!(of("no account"), of("no picture"));
    }

    #[test]
    fn words_have_one_spelling() {
        for class in Class::ALL {
            let json = serde_json::to_value(class).unwrap();
            assert_eq!(json, class.as_str());
            assert_eq!(class.as_str().parse::<Class>().unwrap(), *class);
        }
        let e = "transent".parse::<Class>().unwrap_err();
        assert!(e.contains("did you mean `transient`"), "{e}");
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let failure = Failure::permanent("x", "ü".repeat(5_000));
        assert!(failure.message.len() <= MESSAGE_MAX + 3 && failure.message.ends_with('…'));
    }
}
