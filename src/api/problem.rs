//! What the API says when it can't do what was asked: problem details (RFC 9457), with the four members
//! that every error has which leaves Presswork (`code`, `message`, `recoverable`, `retry_after`). They are
//! fit for a user's eyes; `detail`, in an operator's words, is for operators.

use std::time::Duration;

use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::ledger::LedgerError;
use crate::operate::Refused;
use crate::telemetry::redact;

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
    message: String,
    /// For operators, where there is more to say.
    detail: Option<String>,
    more: Map<String, Value>,
    retry_after: Option<Duration>,
    header: Option<(HeaderName, HeaderValue)>,
}

/// How long a client waits before it asks a ledger again that is away.
pub const AWAY: Duration = Duration::from_secs(2);

impl Problem {
    /// A problem. `word` is stable and short: `conflict`, `too-large`.
    pub fn new(status: StatusCode, word: &'static str, message: impl Into<String>) -> Self {
        let said = Said {
            word,
            message: message.into(),
            detail: None,
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
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", message)
    }

    /// The body is larger than it may be.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message)
    }

    /// It can't be done now; later it may.
    pub fn later(word: &'static str, message: impl Into<String>, after: Duration) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, word, message).after(after)
    }

    /// The ledger can't be asked.
    pub fn ledger_away() -> Self {
        let said = "the ledger can't be reached; ask again";
        Self::later("ledger-away", said, AWAY)
    }

    /// A defect: the log knows more, the client doesn't.
    pub fn defect() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "defect",
            "something is wrong with this daemon, not with the request; its log says what",
        )
    }

    /// With what only operators are told, without secrets.
    pub fn detail(mut self, detail: impl AsRef<str>) -> Self {
        self.said.detail = Some(redact::text(detail.as_ref()).into_owned());
        self
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

    /// Whether the same request may work another time.
    pub fn is_recoverable(&self) -> bool {
        self.said.retry_after.is_some() || self.status == StatusCode::REQUEST_TIMEOUT
    }

    /// As JSON, `in_full` for operators.
    pub fn body(&self, in_full: bool) -> Map<String, Value> {
        let said = &self.said;
        let head = json!({
            "type": format!("urn:presswork:problem:{}", said.word),
            "title": self.status.canonical_reason().unwrap_or("Problem"),
            "status": self.status.as_u16(),
            "code": said.word,
            "message": said.message,
            "recoverable": self.is_recoverable(),
            "retry_after": said.retry_after.map(seconds),
        });
        let mut body = match head {
            Value::Object(it) => it,
            _ => Map::new(),
        };
        if in_full {
            let detail = said.detail.as_ref().unwrap_or(&said.message);
            body.insert("detail".to_owned(), detail.clone().into());
        }
        body.extend(said.more.clone());
        body
    }

    fn response(self, in_full: bool) -> Response {
        let text = Value::Object(self.body(in_full)).to_string();
        let json = HeaderValue::from_static("application/problem+json");
        let mut response = (self.status, [(CONTENT_TYPE, json)], text).into_response();
        if let Some(wait) = self.said.retry_after {
            let wait = HeaderValue::from(seconds(wait));
            response.headers_mut().insert(RETRY_AFTER, wait);
        }
        if let Some((name, value)) = self.said.header.clone() {
            response.headers_mut().insert(name, value);
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// The answer as operators get it: where it tells a problem, with the detail.
pub fn in_full(mut response: Response) -> Response {
    match response.extensions_mut().remove::<Problem>() {
        Some(problem) => problem.response(true),
        None => response,
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

/// Without the detail: who asks is known to the guard alone, which adds it.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.response(false)
    }
}

impl From<LedgerError> for Problem {
    fn from(e: LedgerError) -> Self {
        // the words may hold a host's name: they are for the log, and for operators
        tracing::warn!("api: {e}");
        let problem = match e.is_away() {
            true => Self::ledger_away(),
            false => Self::defect(),
        };
        problem.detail(e.to_string())
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
const ENDPOINTS: [&str; 21] = [
    "POST /v1/jobs",
    "GET /v1/jobs/{id}",
    "GET /v1/jobs/{id}/explain",
    "POST /v1/jobs/{id}/cancel",
    "POST /v1/jobs/{id}/release",
    "GET /v1/jobs/{id}/receipt",
    "POST /v1/jobs/{id}/resolve",
    "GET /v1/unresolved",
    "GET /v1/stops",
    "POST /v1/stop",
    "POST /v1/go",
    "GET /v1/budgets",
    "POST /v1/budgets/{name}",
    "GET /v1/accounts",
    "POST /v1/accounts/{name}/pause",
    "POST /v1/accounts/{name}/resume",
    "POST /v1/hooks/{account}",
    "GET /v1/oauth/callback",
    "GET /livez",
    "GET /readyz",
    "GET /metrics",
];

/// Whether a path is one of an endpoint's.
fn is_of(endpoint: &str, path: &str) -> bool {
    let (parts, said) = (endpoint.split('/'), path.split('/'));
    let same = |(part, said): (&str, &str)| part == said || part.starts_with('{');
    parts.clone().count() == said.clone().count() && parts.zip(said).all(same)
}

/// The answer to an unknown path.
pub async fn unknown_path(uri: axum::http::Uri) -> Problem {
    let said = format!("there is no {}", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "no-such-path", said).with(json!({"endpoints": ENDPOINTS}))
}

/// The answer to a known path with another method.
pub async fn wrong_method(method: axum::http::Method, uri: axum::http::Uri) -> Problem {
    let posts = ENDPOINTS
        .iter()
        .filter_map(|it| it.strip_prefix("POST "))
        .any(|it| is_of(it, uri.path()));
    let allowed = if posts { "POST" } else { "GET, HEAD" };
    let said = format!("{} takes {allowed}, not {method}", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong-method", said)
        .with(json!({"endpoints": ENDPOINTS}))
        .header(ALLOW, HeaderValue::from_static(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_told() {
        let routes = include_str!("mod.rs").matches("        .route(").count();
        assert_eq!(ENDPOINTS.len(), routes);
    }

    #[test]
    fn an_endpoint_s_paths_are_told_from_others() {
        assert!(is_of("/v1/jobs/{id}/cancel", "/v1/jobs/7/cancel"));
        for path in ["/v1/jobs/7", "/v1/jobs/7/cancel/", "/v1/jobs/7/receipt"] {
            assert!(!is_of("/v1/jobs/{id}/cancel", path), "{path}");
        }
        assert!(!is_of("/v1/jobs", "/v1"));
    }

    #[test]
    fn a_problem_says_when_to_come_back_in_whole_seconds_never_too_few() {
        let wait = Duration::from_millis(1_001);
        let response = Problem::later("full", "x", wait).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn every_problem_has_the_same_four_members_and_the_detail_is_for_operators() {
        let later = Problem::later("full", "come back", Duration::from_millis(1_001));
        for (problem, recoverable, wait) in [
            (Problem::bad("no"), false, Value::Null),
            (Problem::defect(), false, Value::Null),
            (later, true, json!(2)),
            (
                Problem::new(StatusCode::REQUEST_TIMEOUT, "slow", "no"),
                true,
                Value::Null,
            ),
        ] {
            let problem = problem.detail("db-7, with password=hunter2");
            let told = problem.body(false);
            assert_eq!(told["code"], problem.said.word);
            assert_eq!(told["message"], problem.said.message);
            assert_eq!(told["recoverable"], recoverable);
            assert_eq!(told["retry_after"], wait);
            assert!(!told.contains_key("detail"));
            assert_eq!(problem.body(true)["detail"], "db-7, with password=***");
        }
        assert_eq!(Problem::bad("no").body(true)["detail"], "no");
    }

    #[test]
    fn a_ledgers_own_words_are_for_operators() {
        for e in [
            LedgerError::Away("host db-7 refused".to_owned()),
            LedgerError::Other("host db-7 is odd".to_owned()),
        ] {
            let away = e.is_away();
            let problem = Problem::from(e);
            let told = |in_full| Value::Object(problem.body(in_full)).to_string();
            assert!(!told(false).contains("db-7") && told(true).contains("db-7"));
            assert_eq!(problem.is_recoverable(), away);
            assert_eq!(problem.status.as_u16(), if away { 503 } else { 500 });
            assert_eq!(problem.retry_after().is_some(), away);
        }
    }
}
