//! Who may ask for what, and how much at once: tokens and their scopes, the `Host` of a loopback, time-outs
//! and panics.

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
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use super::keyring::{Denied, Keyring};
use super::problem::{self, Problem};
use crate::intake::Within;
use crate::json::Digest;
#[cfg(test)]
use crate::token::Grant;
use crate::token::{Asked, Shown, Token};

/// Who may ask.
pub struct Access {
    /// The configured token's digest: two digests are compared, so that not even its length shows.
    token: Option<Digest>,
    /// Where `pw_` tokens are looked up.
    keyring: Option<Arc<Keyring>>,
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
                keyring: None,
            }),
        }
    }

    /// With the tokens of `presswork tokens`, too.
    pub fn with(mut self, keyring: Arc<Keyring>) -> Self {
        self.keyring = Some(keyring);
        self
    }

    /// Whether nobody has to show a token.
    pub fn is_open(&self) -> bool {
        self.token.is_none()
    }

    /// Whether this is the configured token; the time that it takes tells nothing of it.
    pub fn is_token(&self, said: &[u8]) -> bool {
        let same = |it: &Digest| bool::from(Digest::of_bytes(said).0.ct_eq(&it.0));
        self.token.as_ref().is_some_and(same)
    }

    /// The `pw_` token that is shown.
    ///
    /// # Errors
    /// Why it doesn't count.
    pub async fn token(&self, shown: &Shown) -> Result<Arc<Token>, Denied> {
        match &self.keyring {
            Some(it) => it.open(shown).await,
            None => Err(Denied::Wrong),
        }
    }

    /// Which token a request shows; `None`: it may do everything without one of the ledger's.
    fn check(&self, request: &Request) -> Result<Option<Shown>, Problem> {
        if self.is_open() {
            local_host(request)?;
            same_origin(request)?;
        }
        let said = bearer(request.headers());
        match (said, said.and_then(Shown::parse)) {
            (Some(said), _) if self.is_token(said) => Ok(None),
            // whoever shows one is held to it, also where none is wanted
            (_, Some(shown)) => Ok(Some(shown)),
            _ if self.is_open() => Ok(None),
            _ if request.headers().contains_key(AUTHORIZATION) => Err(Denied::Wrong.into()),
            _ => Err(unauthorised(
                "this API wants a token: send `Authorization: Bearer TOKEN`",
                "Bearer realm=\"presswork\"",
            )),
        }
    }

    async fn caller(&self, shown: Option<Shown>) -> Result<Caller, Problem> {
        let Some(shown) = shown else {
            return Ok(Caller::ALL);
        };
        let token = Some(self.token(&shown).await?);
        Ok(Caller { token })
    }
}

/// What is said behind `Bearer`.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let said = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, said) = said.split_at_checked(7)?;
    let said = said.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !said.is_empty()).then_some(said)
}

fn unauthorised(said: &str, challenge: &'static str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorised", said)
        .header(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let said = match denied {
            Denied::Away(words) => return Self::ledger_away().detail(words),
            // whoever has the secret may know what became of it; to all others they are all the same
            Denied::Expired => "this token's time is over; ask for a new one",
            Denied::Revoked => "this token was revoked; ask for a new one",
            Denied::Wrong => "this isn't a token of this API",
        };
        unauthorised(said, "Bearer realm=\"presswork\", error=\"invalid_token\"")
    }
}

/// Who asks: what they may do, and what they are shown.
#[derive(Clone)]
pub struct Caller {
    /// The token that was shown. `None`: the configured one, or none is wanted; both may do everything.
    token: Option<Arc<Token>>,
}

impl Caller {
    /// Who may do everything.
    const ALL: Self = Self { token: None };

    /// Who has shown a token of this grant.
    #[cfg(test)]
    pub fn with(grant: Grant) -> Self {
        let token = Token {
            id: crate::token::TokenId(7),
            name: "n".to_owned(),
            digest: Digest::of_bytes(b""),
            grant,
            created_at: crate::clock::Time::UNIX_EPOCH,
            created_by: "ada".to_owned(),
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
        };
        let token = Some(Arc::new(token));
        Self { token }
    }

    /// Whether this may be done.
    pub fn may(&self, asked: Asked<'_>) -> bool {
        self.token.as_ref().is_none_or(|it| it.grant.may(asked))
    }

    /// Whether jobs of this tenant are there for them.
    pub fn sees(&self, tenant: &str) -> bool {
        self.token.as_ref().is_none_or(|it| it.grant.sees(tenant))
    }

    /// Whose jobs alone are theirs.
    pub fn tenant(&self) -> Option<&str> {
        self.token.as_ref()?.grant.tenant.as_deref()
    }

    /// What alone is taken from them.
    pub fn within(&self) -> Within<'_> {
        Within {
            tenant: self.tenant(),
            grant: self.token.as_ref().map(|it| &it.grant),
        }
    }

    /// Whether they are told what went wrong in an operator's words: hosts, evidence, platforms' answers.
    pub fn is_operator(&self) -> bool {
        self.may(Asked::Operate)
    }

    /// Who it was, for the audit.
    pub fn actor(&self) -> String {
        match &self.token {
            Some(it) => format!("{DOOR}: token {} ({})", it.id, it.name),
            None => DOOR.to_owned(),
        }
    }

    /// As [`Caller::actor`], with the name that a person gave.
    pub fn actor_named(&self, by: Option<String>) -> String {
        let who = self.actor();
        match by {
            Some(it) => format!("{who}: {it}"),
            None => who,
        }
    }
}

/// What a request asks for, by its method and path alone; `None`: nobody has to show anything.
fn asked(method: &Method, path: &str) -> Option<Asked<'static>> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match path {
        "/livez" | "/readyz" => None,
        // who brings a login's state is who was sent
        CALLBACK => None,
        // whoever calls back proves itself by a signature
        _ if path.starts_with(HOOKS) => None,
        "/metrics" | "/v1/stops" | "/v1/budgets" | "/v1/accounts" => Some(Asked::Figures),
        "/v1/stop" | "/v1/go" => Some(Asked::OperateAll),
        _ if path.starts_with("/v1/budgets/") => Some(Asked::OperateAll),
        _ if path.starts_with("/v1/accounts/") => Some(Asked::OperateAll),
        _ if reads => Some(Asked::Read),
        "/v1/jobs" => Some(Asked::Making),
        _ => Some(Asked::Operate),
    }
}

fn forbidden(caller: &Caller, asked: Asked<'_>) -> Problem {
    let whose = match (asked, caller.tenant()) {
        (Asked::Figures | Asked::OperateAll, Some(_)) => ", and be bound to no tenant",
        _ => "",
    };
    let said = format!("this token may not do that: it would need the scope `{asked}`{whose}");
    Problem::new(StatusCode::FORBIDDEN, "scope", said).with(json!({"needs": asked.to_string()}))
}

/// This door's name in metrics and in the audit.
pub const DOOR: &str = "http";
/// Where issuers send people back to at the end of a login.
pub const CALLBACK: &str = "/v1/oauth/callback";
/// Where platforms call back: below this.
pub const HOOKS: &str = "/v1/hooks/";

/// Lets through who may ask, for what they may; tells operators more of what went wrong.
pub async fn guard(
    State(access): State<Arc<Access>>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(asked) = asked(request.method(), request.uri().path()) else {
        return next.run(request).await;
    };
    let shown = access.check(&request);
    let caller = match shown {
        Ok(shown) => access.caller(shown).await,
        Err(problem) => Err(problem),
    };
    let caller = match caller {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    if !caller.may(asked) {
        return forbidden(&caller, asked).into_response();
    }
    let is_operator = caller.is_operator();
    request.extensions_mut().insert(caller);
    let response = next.run(request).await;
    match is_operator {
        true => problem::in_full(response),
        false => response,
    }
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
        let _place = match request.uri().path() {
            "/livez" | "/readyz" => None,
            _ => Some(bounds.places.acquire().await),
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

    #[tokio::test]
    async fn only_the_token_opens() {
        let token = SecretString::from("presswork_1_secret");
        let access = Access::new("0.0.0.0:1".parse().unwrap(), Some(&token)).unwrap();
        let ask = async |said: &str| {
            let request = request("POST", &[("authorization", said)]);
            let caller = access.caller(access.check(&request)?).await;
            caller.map(|it| it.is_operator())
        };
        assert_eq!(ask("Bearer presswork_1_secret").await, Ok(true));
        assert_eq!(ask("bearer   presswork_1_secret").await, Ok(true));
        for said in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer presswork_1_secre",
            "Bearer presswork_1_secrett",
            "Basic  presswork_1_secret",
            "presswork_1_secret",
            "Bearer pw_0123456789abcdef_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            let problem = ask(said).await.unwrap_err();
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
    fn each_route_asks_for_its_scope() {
        let of = |method: Method, path: &str| asked(&method, path);
        for path in ["/livez", "/readyz", "/v1/hooks/alice"] {
            assert_eq!(of(Method::GET, path), None);
            assert_eq!(of(Method::POST, path), None);
        }
        for (method, path, wants) in [
            (Method::POST, "/v1/jobs", Asked::Making),
            (Method::GET, "/v1/jobs", Asked::Read),
            (Method::GET, "/v1/jobs/x", Asked::Read),
            (Method::HEAD, "/v1/jobs/x/receipt", Asked::Read),
            (Method::GET, "/v1/unresolved", Asked::Read),
            (Method::POST, "/v1/jobs/x/cancel", Asked::Operate),
            (Method::POST, "/v1/jobs/x/resolve", Asked::Operate),
            (Method::GET, "/metrics", Asked::Figures),
            (Method::POST, "/metrics", Asked::Figures),
            (Method::GET, "/v1/stops", Asked::Figures),
            (Method::POST, "/v1/stop", Asked::OperateAll),
            (Method::POST, "/v1/go", Asked::OperateAll),
            (Method::GET, "/v1/budgets", Asked::Figures),
            (Method::POST, "/v1/budgets/x-posts", Asked::OperateAll),
            (Method::DELETE, "/v1/jobs/x", Asked::Operate),
            (Method::OPTIONS, "/anything", Asked::Operate),
            (Method::POST, "/v1/jobs/", Asked::Operate),
            (Method::POST, "//livez", Asked::Operate),
        ] {
            assert_eq!(of(method.clone(), path), Some(wants), "{method} {path}");
        }
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
