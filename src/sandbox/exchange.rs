//! One request and its answer, and what a platform of the sandbox must be able to say.

use std::{path::PathBuf, sync::Arc};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{
    acts::Act,
    rate::{Rate, Rates},
    spool::Spooled,
};

/// The largest request body that is read, in bytes; it bounds memory, and every platform's files.
pub(super) const MAX_BODY: usize = 64 * 1024 * 1024;

/// A request as a platform sees it: whole, with its path below the platform's prefix.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// The body of a request that [`Platform::streams`].
    pub(super) file: Option<Arc<Spooled>>,
}

impl Request {
    /// A header's text; nothing when it is absent or not text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The token of `Authorization: Bearer ...`.
    pub(super) fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }

    /// The media type without its parameters, in lower case; empty when there is none.
    pub(super) fn content_type(&self) -> String {
        let full = self.header("content-type").unwrap_or_default();
        full.split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
    }

    /// The path's parts between slashes.
    pub(super) fn parts(&self) -> Vec<&str> {
        self.path
            .split('/')
            .filter(|part| !part.is_empty())
            .collect()
    }

    /// The first value of a query parameter.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// What the bearer token of a simple platform says.
#[derive(Debug, PartialEq)]
pub(super) enum Token {
    /// `sandbox-<account>`
    Account(String),
    /// `sandbox-expired-...`
    Expired,
    /// There is none.
    Missing,
    /// It is none of ours.
    Unknown,
}

/// Reads the sandbox's tokens: `sandbox-alice` is the account alice, `sandbox-expired-x` is always refused.
pub(super) fn token(bearer: Option<&str>) -> Token {
    let Some(bearer) = bearer else {
        return Token::Missing;
    };
    let Some(account) = bearer.strip_prefix("sandbox-") else {
        return Token::Unknown;
    };
    if account.starts_with("expired-") || account == "expired" {
        return Token::Expired;
    }
    let plain = (1..=64).contains(&account.len())
        && account
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if plain {
        Token::Account(account.to_owned())
    } else {
        Token::Unknown
    }
}

/// An answer before a fault bends it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    /// Headers whose names the platform doesn't choose, and that make way for its own.
    pub(super) own: Vec<(String, String)>,
    pub(super) body: Bytes,
    /// Sent instead of the body, from a file.
    pub(super) file: Option<Slice>,
    pub(super) mime: &'static str,
}

/// A part of a file.
#[derive(Debug)]
pub(super) struct Slice {
    pub(super) path: PathBuf,
    pub(super) start: u64,
    pub(super) bytes: u64,
}

impl Answer {
    pub(super) fn json(status: u16, body: &Value) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            own: Vec::new(),
            body: Bytes::from(body.to_string()),
            file: None,
            mime: "application/json; charset=utf-8",
        }
    }

    /// Adds a header; a value that can't be a header's is left out when the answer is sent.
    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Answer {
        self.headers.push((name, value.to_string()));
        self
    }

    pub(super) fn succeeded(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Copies the headers into a response's.
    pub(super) fn put_headers(&self, into: &mut HeaderMap) {
        into.insert("content-type", HeaderValue::from_static(self.mime));
        for (name, value) in &self.own {
            if let (Ok(name), Ok(value)) = (
                HeaderName::from_bytes(name.as_bytes()),
                HeaderValue::from_str(value),
            ) {
                into.insert(name, value);
            }
        }
        for (name, value) in &self.headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                into.insert(*name, value);
            }
        }
    }
}

/// What can be told of a request before it is acted on: faults are chosen by it.
#[derive(Clone, Debug, Default)]
pub(super) struct Peek {
    pub(super) op: &'static str,
    pub(super) account: Option<String>,
    /// Idempotency-Key or record key.
    pub(super) key: Option<String>,
    /// The post's text, the prompt or the description of a file.
    pub(super) text: Option<String>,
    /// Whether the request may do something, or only reads.
    pub(super) writes: bool,
    /// A marker in the text is meant for another request, unless it names this one's operation.
    pub(super) quiet: bool,
}

/// A platform of the sandbox.
pub(super) trait Platform: Send + Sync + 'static {
    /// A request that was understood and may be acted on.
    type Op: Send + 'static;
    /// As acts, faults and the request list name it.
    const NAME: &'static str;
    /// The path prefix in front of what [`Request::path`] holds.
    const PREFIX: &'static str;
    /// The status of a definitive refusal.
    const REFUSAL: u16;
    /// Whether an answer about too many requests has Retry-After.
    const RETRY_AFTER: bool = true;

    /// Whether the body of a request goes to a file instead of memory, however large it is.
    fn streams(_method: &Method, _path: &str) -> bool {
        false
    }
    /// Understands a request without doing anything. `Err` holds the platform's refusal.
    fn read(
        &self,
        request: &Request,
    ) -> impl Future<Output = (Peek, Result<Self::Op, Answer>)> + Send;
    /// Lists shall show what the operation makes only `lag_ms` later, where the platform has such lists.
    fn lag(_op: &mut Self::Op, _lag_ms: u32) {}
    /// Does it and answers. Every act is recorded when this returns.
    fn perform(&self, op: Self::Op) -> impl Future<Output = Answer> + Send;
    /// An error in the platform's own form; without a message the usual one of that status.
    fn error(&self, status: u16, message: Option<&str>) -> Answer;
    /// The refusal that the platform is known to answer although it acted.
    fn denial(&self) -> Answer {
        self.error(Self::REFUSAL, None)
    }
    fn rates(&self) -> &Rates;
    /// The platform's own headers about its rate limit.
    fn rate_headers(&self, rate: &Rate, now: DateTime<Utc>) -> Vec<(&'static str, String)>;
    /// Remembers an act of an earlier life.
    fn replay(&self, act: &Act);
    /// Forgets everything.
    fn forget(&self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_accounts() {
        assert_eq!(token(Some("sandbox-alice")), Token::Account("alice".into()));
        assert_eq!(token(Some("sandbox-expired-alice")), Token::Expired);
        assert_eq!(token(Some("sandbox-")), Token::Unknown);
        assert_eq!(token(Some("sk-1")), Token::Unknown);
        assert_eq!(token(Some("sandbox-a/b")), Token::Unknown);
        assert_eq!(token(None), Token::Missing);
    }
}
