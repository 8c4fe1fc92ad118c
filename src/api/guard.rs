//! Who may ask, and how much at once: the token, the `Host` of a loopback, time-outs and panics.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, HOST, ORIGIN, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use super::problem::Problem;
use crate::json::Digest;

/// Who may ask.
pub struct Access {
    /// The token's digest: two digests are compared, so that not even its length shows.
    token: Option<Digest>,
}

impl Access {
    /// The access to a server that listens at `listen`.
    ///
    /// # Errors
    /// Without a token beyond loopback, or with an empty one.
    pub fn new(listen: SocketAddr, token: Option<&SecretString>) -> anyhow::Result<Self> {
        Self::of("the API", listen, token)
    }

    /// As [`Access::new`], of another server; `what` it is, for people.
    ///
    /// # Errors
    /// As [`Access::new`].
    pub fn of(
        what: &str,
        listen: SocketAddr,
        token: Option<&SecretString>,
    ) -> anyhow::Result<Self> {
        match token.map(SecretString::expose_secret) {
            Some(token) if token.trim().is_empty() => {
                bail!(
                    "the API's token is empty; set [api] token, or leave it out to listen on 127.0.0.1 only"
                )
            }
            None if !listen.ip().to_canonical().is_loopback() => bail!(
                "{what} won't listen on {listen} without a token: anybody who reaches it could make jobs; \
                 set [api] token, or listen on 127.0.0.1"
            ),
            token => Ok(Self {
                token: token.map(|it| Digest::of_bytes(it.as_bytes())),
            }),
        }
    }

    /// Whether nobody has to show a token.
    pub fn is_open(&self) -> bool {
        self.token.is_none()
    }

    /// Whether this is the token; the time that it takes tells nothing of it.
    pub fn is_token(&self, said: &[u8]) -> bool {
        self.token.as_ref().is_some_and(|it| is(it, said))
    }

    fn check(&self, request: &Request) -> Result<(), Problem> {
        match &self.token {
            Some(token) => bearer(token, request.headers()),
            None => {
                local_host(request)?;
                same_origin(request)
            }
        }
    }
}

/// Where platforms call back: below this.
pub const HOOKS: &str = "/v1/hooks/";

/// Anybody may ask whether the daemon lives and is ready.
fn is_probe(request: &Request) -> bool {
    matches!(request.uri().path(), "/livez" | "/readyz")
}

/// Whoever calls back proves itself by a signature.
fn is_signed(request: &Request) -> bool {
    request.uri().path().starts_with(HOOKS)
}

/// Lets through who may ask.
pub async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    match access.check(&request) {
        Err(problem) if !is_probe(&request) && !is_signed(&request) => problem.into_response(),
        _ => next.run(request).await,
    }
}

fn is(token: &Digest, said: &[u8]) -> bool {
    Digest::of_bytes(said).0.ct_eq(&token.0).into()
}

fn bearer(token: &Digest, headers: &HeaderMap) -> Result<(), Problem> {
    let refused = |said: &str, challenge: &'static str| {
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorised", said)
            .header(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
    };
    let Some(said) = headers.get(AUTHORIZATION) else {
        return Err(refused(
            "this API wants its token: send `Authorization: Bearer TOKEN`",
            "Bearer realm=\"presswork\"",
        ));
    };
    let said = said.as_bytes();
    let scheme = said.get(..7).unwrap_or_default();
    let same = is(token, said.get(7..).unwrap_or_default().trim_ascii());
    if same && scheme.eq_ignore_ascii_case(b"bearer ") {
        return Ok(());
    }
    Err(refused(
        "this isn't the API's token",
        "Bearer realm=\"presswork\", error=\"invalid_token\"",
    ))
}

/// Without a token only a `Host` that can't be rebound may be asked for: else any page in a browser
/// reaches this API through a name of its own that it points to 127.0.0.1.
fn local_host(request: &Request) -> Result<(), Problem> {
    let said = request.headers().get(HOST).and_then(|it| it.to_str().ok());
    let asked = request.uri().authority().map(|it| it.as_str());
    if said.is_some_and(is_local) && asked.is_none_or(is_local) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "foreign-host",
        "without a token this API answers only to localhost, 127.0.0.1 and [::1]: send one of them as Host, or set [api] token",
    ))
}

/// Whether `host` (with or without a port) is `localhost` or a loopback address.
fn is_local(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, "0"),
    };
    let is_loopback = match name.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
        Some(address) => address.parse().is_ok_and(|it: Ipv6Addr| it.is_loopback()),
        None => name.parse().is_ok_and(|it: Ipv4Addr| it.is_loopback()),
    };
    port.parse::<u16>().is_ok() && (is_loopback || name.eq_ignore_ascii_case("localhost"))
}

/// Without a token no page of another origin may change anything: a plain POST needs no preflight.
fn same_origin(request: &Request) -> Result<(), Problem> {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(());
    }
    let header = |name: &str| request.headers().get(name).map(HeaderValue::as_bytes);
    let site = header("sec-fetch-site");
    let foreign_site = site.is_some_and(|it| it != b"same-origin" && it != b"none");
    let host = header(HOST.as_str()).unwrap_or_default();
    let origin = header(ORIGIN.as_str()).map(|it| it.strip_prefix(b"http://").unwrap_or(it));
    if !foreign_site && origin.is_none_or(|it| it == host) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "foreign-origin",
        "a page of another origin may not change anything here",
    ))
}

/// How much the API takes at once, and for how long.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A connection's next request head must be there by then.
    pub head: Duration,
    /// A request's body must be there by then.
    pub body: Duration,
    /// A request must be answered by then.
    pub request: Duration,
    /// A connection is closed at this age, once its open request has ended: so that one whose peer
    /// sends and never reads isn't kept for ever.
    pub age: Duration,
    /// Open requests have this long to end when the server stops or the connection is too old.
    pub stop: Duration,
    /// Connections at once; more wait in the kernel's line.
    pub connections: usize,
    /// Requests at once, the probes not counted; more wait for their turn.
    pub requests: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            body: Duration::from_secs(15),
            request: Duration::from_secs(30),
            age: Duration::from_secs(600),
            stop: Duration::from_secs(5),
            connections: 1_024,
            requests: 256,
        }
    }
}

/// What [`bounded`] holds requests to.
pub struct Bounds {
    places: Semaphore,
    request: Duration,
}

impl Bounds {
    /// The bounds that `limits` set.
    pub fn new(limits: &Limits) -> Self {
        Self {
            places: Semaphore::new(limits.requests),
            request: limits.request,
        }
    }
}

/// Bounds a request in number and time, turns a panic into an answer, and adds the headers that
/// every answer has.
pub async fn bounded(State(bounds): State<Arc<Bounds>>, request: Request, next: Next) -> Response {
    let what = format!("{} {}", request.method(), request.uri().path());
    let answered = async {
        let _place = match is_probe(&request) {
            true => None,
            false => Some(bounds.places.acquire().await),
        };
        next.run(request).await
    };
    let answered = AssertUnwindSafe(answered).catch_unwind();
    let mut response = match tokio::time::timeout(bounds.request, answered).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            // the panic hook has said where and why
            tracing::error!("api: {what:?} panicked");
            Problem::defect().into_response()
        }
        Err(_) => Problem::later(
            "slow",
            format!(
                "no answer within {} s; it may have been done: send the same again, with the same key",
                bounds.request.as_secs_f32()
            ),
            Duration::from_secs(2),
        )
        .into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn request(method: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = axum::http::Request::builder()
            .method(method)
            .uri("/v1/jobs");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    fn open() -> Access {
        Access::new("127.0.0.1:0".parse().unwrap(), None).unwrap()
    }

    #[test]
    fn without_a_token_it_stays_at_home() {
        let token = SecretString::from("t".repeat(32));
        for (listen, fits) in [
            ("127.0.0.1:1", true),
            ("127.0.0.2:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("192.168.0.1:1", false),
        ] {
            let listen = listen.parse().unwrap();
            assert_eq!(Access::new(listen, None).is_ok(), fits, "{listen}");
            assert!(Access::new(listen, Some(&token)).is_ok(), "{listen}");
            assert!(Access::new(listen, Some(&SecretString::from(" "))).is_err());
        }
    }

    #[test]
    fn only_the_token_opens() {
        let token = SecretString::from("presswork_1_secret");
        let access = Access::new("0.0.0.0:1".parse().unwrap(), Some(&token)).unwrap();
        let ask = |said: &str| access.check(&request("POST", &[("authorization", said)]));
        assert!(ask("Bearer presswork_1_secret").is_ok());
        assert!(ask("bearer   presswork_1_secret").is_ok());
        for said in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer presswork_1_secre",
            "Bearer presswork_1_secrett",
            "Basic  presswork_1_secret",
            "presswork_1_secret",
        ] {
            let problem = ask(said).unwrap_err();
            assert_eq!(problem.status, StatusCode::UNAUTHORIZED, "{said}");
            assert!(
                problem
                    .into_response()
                    .headers()
                    .contains_key(WWW_AUTHENTICATE)
            );
        }
        assert!(access.check(&request("GET", &[])).is_err());
    }

    #[test]
    fn a_rebound_name_is_no_loopback() {
        for (host, fits) in [
            ("localhost", true),
            ("LocalHost:8787", true),
            ("127.0.0.1", true),
            ("127.0.0.1:8787", true),
            ("[::1]", true),
            ("[::1]:8787", true),
            ("evil.example", false),
            ("localhost.evil.example:80", false),
            ("127.0.0.1.evil.example", false),
            ("localhost:80:80", false),
            ("localhost:", false),
            ("::1", false),
            ("[127.0.0.1]", false),
            ("10.0.0.1:8787", false),
            ("", false),
        ] {
            let asked = open().check(&request("GET", &[("host", host)]));
            assert_eq!(asked.is_ok(), fits, "{host}");
        }
        assert!(
            open().check(&request("GET", &[])).is_err(),
            "no Host at all"
        );
    }

    #[test]
    fn a_page_of_another_origin_changes_nothing() {
        let host = ("host", "localhost:8787");
        let ask = |more: (&str, &str)| open().check(&request("POST", &[host, more])).is_ok();
        assert!(ask(("accept", "*/*")));
        assert!(ask(("origin", "http://localhost:8787")));
        assert!(ask(("sec-fetch-site", "same-origin")));
        assert!(!ask(("origin", "http://evil.example")));
        assert!(!ask(("origin", "http://localhost:3000")));
        assert!(!ask(("origin", "null")));
        assert!(!ask(("sec-fetch-site", "cross-site")));
        assert!(!ask(("sec-fetch-site", "same-site")));
    }
}
