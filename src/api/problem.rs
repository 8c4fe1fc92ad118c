//! What the API says when it can't do what was asked: problem details (RFC 9457).

use std::time::Duration;

use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::ledger::LedgerError;
use crate::operate::Refused;

/// A problem: its status, a stable word for programs, and a sentence for people.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    said: Box<Said>,
}

#[derive(Clone, Debug, PartialEq)]
struct Said {
    word: &'static str,
    detail: String,
    more: Map<String, Value>,
    retry_after: Option<Duration>,
    header: Option<(HeaderName, HeaderValue)>,
}

/// How long a client waits before it asks a ledger again that is away.
pub const AWAY: Duration = Duration::from_secs(2);

impl Problem {
    /// A problem. `word` is stable and short: `conflict`, `too-large`.
    pub fn new(status: StatusCode, word: &'static str, detail: impl Into<String>) -> Self {
        let said = Said {
            word,
            detail: detail.into(),
            more: Map::new(),
            retry_after: None,
            header: None,
        };
        Self {
            status,
            said: Box::new(said),
        }
    }

    /// The request can't be read.
    pub fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", detail)
    }

    /// The body is larger than it may be.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
    }

    /// It can't be done now; later it may.
    pub fn later(word: &'static str, detail: impl Into<String>, after: Duration) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, word, detail).after(after)
    }

    /// A defect: the log knows more, the client doesn't.
    pub fn defect() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "defect",
            "something is wrong with this daemon, not with the request; its log says what",
        )
    }

    /// With more members: those of an object; anything else adds none.
    pub fn with(mut self, more: Value) -> Self {
        if let Value::Object(more) = more {
            self.said.more.extend(more);
        }
        self
    }

    /// With the time after which it may be asked again.
    pub fn after(mut self, wait: Duration) -> Self {
        self.said.retry_after = Some(wait);
        self
    }

    /// With a header that goes with the status.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.said.header = Some((name, value));
        self
    }

    /// The time after which it may be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        self.said.retry_after
    }

    /// As JSON.
    pub fn body(&self) -> Map<String, Value> {
        let head = json!({
            "type": format!("urn:presswork:problem:{}", self.said.word),
            "title": self.status.canonical_reason().unwrap_or("Problem"),
            "status": self.status.as_u16(),
            "detail": self.said.detail,
        });
        let mut body = match head {
            Value::Object(it) => it,
            _ => Map::new(),
        };
        if let Some(wait) = self.said.retry_after {
            body.insert("retry_after_s".to_owned(), seconds(wait).into());
        }
        body.extend(self.said.more.clone());
        body
    }
}

/// Whole seconds as `Retry-After` wants them, never too few.
pub fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() != 0)
}

/// A JSON answer.
pub fn answer(status: StatusCode, body: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => {
            let json = HeaderValue::from_static("application/json");
            (status, [(CONTENT_TYPE, json)], bytes).into_response()
        }
        Err(e) => {
            tracing::error!("api: an answer couldn't be written: {e}");
            Problem::defect().into_response()
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let text = Value::Object(self.body()).to_string();
        let json = HeaderValue::from_static("application/problem+json");
        let mut response = (self.status, [(CONTENT_TYPE, json)], text).into_response();
        if let Some(wait) = self.said.retry_after {
            let wait = HeaderValue::from(seconds(wait));
            response.headers_mut().insert(RETRY_AFTER, wait);
        }
        if let Some((name, value)) = self.said.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<LedgerError> for Problem {
    fn from(e: LedgerError) -> Self {
        // the words may hold a host's name: they are for the log
        tracing::warn!("api: {e}");
        if e.is_away() {
            Self::later(
                "ledger-away",
                "the ledger can't be reached; ask again",
                AWAY,
            )
        } else {
            Self::defect()
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Missing(said) => Self::new(StatusCode::NOT_FOUND, "no-such-job", said),
            Refused::Unfit(said) => Self::new(StatusCode::CONFLICT, "unfit", said),
            Refused::Invalid(violations) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid",
                "the payload can't be accepted",
            )
            .with(json!({"violations": violations})),
            Refused::Ledger(e) => e.into(),
        }
    }
}

/// What there is: told to whoever asks for something else.
const ENDPOINTS: [&str; 7] = [
    "POST /v1/jobs",
    "GET /v1/jobs/{id}",
    "POST /v1/jobs/{id}/cancel",
    "POST /v1/hooks/{account}",
    "GET /livez",
    "GET /readyz",
    "GET /metrics",
];

/// The answer to an unknown path.
pub async fn unknown_path(uri: axum::http::Uri) -> Problem {
    let said = format!("there is no {}", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "no-such-path", said).with(json!({"endpoints": ENDPOINTS}))
}

/// The answer to a known path with another method.
pub async fn wrong_method(method: axum::http::Method, uri: axum::http::Uri) -> Problem {
    let allowed = match uri.path() {
        "/v1/jobs" => "POST",
        path if path.ends_with("/cancel") || path.starts_with("/v1/hooks/") => "POST",
        _ => "GET, HEAD",
    };
    let said = format!("{} takes {allowed}, not {method}", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong-method", said)
        .with(json!({"endpoints": ENDPOINTS}))
        .header(ALLOW, HeaderValue::from_static(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_when_to_come_back_in_whole_seconds_never_too_few() {
        let wait = Duration::from_millis(1_001);
        let response = Problem::later("full", "x", wait).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn a_ledgers_own_words_stay_in_the_log() {
        for e in [
            LedgerError::Away("host db-7 refused".to_owned()),
            LedgerError::Other("host db-7 is odd".to_owned()),
        ] {
            let away = e.is_away();
            let problem = Problem::from(e);
            assert!(!Value::Object(problem.body()).to_string().contains("db-7"));
            assert_eq!(problem.status.as_u16(), if away { 503 } else { 500 });
            assert_eq!(problem.retry_after().is_some(), away);
        }
    }
}
