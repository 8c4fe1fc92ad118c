//! The one HTTP client: time-outs, byte caps, no redirects, no proxies, no hidden retries.
//!
//! A call is made once. What comes back is an [`Answer`], or [`Lost`], which says whether any byte
//! of the request can have left this machine: that decides whether it may be made again.

use std::any::Any;
use std::borrow::Cow;
use std::collections::HashMap;
use std::error::Error as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, try_unfold};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, ClientBuilder, Method};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use crate::clock::{Clock, Time, stamp};
use crate::sabotage;

use super::body::{self, Watch};
pub use super::body::{Body, Part};
use super::gate::{self, BUDGET, Caller, PATIENCE, Pass};

/// A connection must stand within this: DNS, TCP and TLS.
const CONNECT: Duration = Duration::from_secs(5);
/// The default wait for the head of an answer; the request's upload is included, unless it is a
/// stream: then it begins at its end.
pub(super) const FIRST_BYTE: Duration = Duration::from_secs(30);
/// The longest silence within an answer's body.
pub(super) const IDLE_READ: Duration = Duration::from_secs(10);
/// The default cap on an answer's body: 1 MiB is much for an API.
pub const BODY_MAX: usize = 1 << 20;
/// The cap on all of an answer's headers together.
const HEADERS_MAX: usize = 64 << 10;

/// The one HTTP client. Cloning shares its pool and what adapters keep in it.
#[derive(Clone)]
pub struct Http {
    pooled: Client,
    fresh: Client,
    clock: Clock,
    kept: Arc<Mutex<HashMap<String, Kept>>>,
    caller: Option<Caller>,
    ear: Option<Arc<dyn Ear>>,
}

type Kept = Arc<dyn Any + Send + Sync>;

/// Who is asked before each call, and hears what came of it.
pub trait Ear: Send + Sync {
    /// Until when no call may be made, if none may now.
    fn held(&self, now: Time) -> Option<Time>;
    /// An answer, whatever it says; of one that comes as a stream its head.
    fn answer(&self, answer: &Answer);
    /// No whole answer came.
    fn lost(&self, lost: &Lost);
}

/// One request, to be made once.
pub struct Call {
    method: Method,
    url: Url,
    bearer: Option<SecretString>,
    authorization: Option<SecretString>,
    secrets: Vec<SecretString>,
    headers: Vec<(Cow<'static, str>, String)>,
    body: Body,
    fresh: bool,
    deadline: Duration,
    first_byte: Duration,
    body_max: usize,
}

impl Call {
    fn new(method: Method, url: Url, body: Body, deadline: Duration) -> Self {
        Self {
            method,
            url,
            bearer: None,
            authorization: None,
            secrets: vec![],
            headers: vec![],
            body,
            fresh: false,
            deadline,
            first_byte: FIRST_BYTE,
            body_max: BODY_MAX,
        }
    }

    /// A GET that must be over, answer included, within `deadline`.
    pub fn get(url: Url, deadline: Duration) -> Self {
        Self::new(Method::GET, url, Body::Empty, deadline)
    }

    /// A POST that must be over, answer included, within `deadline`.
    pub fn post(url: Url, body: Body, deadline: Duration) -> Self {
        Self::new(Method::POST, url, body, deadline)
    }

    /// A PUT that must be over, answer included, within `deadline`.
    pub fn put(url: Url, body: Body, deadline: Duration) -> Self {
        Self::new(Method::PUT, url, body, deadline)
    }

    /// A DELETE that must be over, answer included, within `deadline`.
    pub fn delete(url: Url, deadline: Duration) -> Self {
        Self::new(Method::DELETE, url, Body::Empty, deadline)
    }

    /// A HEAD that must be over within `deadline`: what is asked for is told in the answer's headers.
    pub fn head(url: Url, deadline: Duration) -> Self {
        Self::new(Method::HEAD, url, Body::Empty, deadline)
    }

    /// Its method.
    pub fn method(&self) -> &str {
        self.method.as_str()
    }

    /// Where it goes.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Its headers so far, without the authorization and those that its body brings.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let headers = self.headers.iter();
        headers.map(|(name, value)| (name.as_ref(), value.as_str()))
    }

    /// With a bearer token.
    pub fn bearer(mut self, token: &SecretString) -> Self {
        self.bearer = Some(token.clone());
        self
    }

    /// With a whole `Authorization`, which proves a secret and doesn't hold it.
    pub fn authorization(mut self, value: SecretString) -> Self {
        self.authorization = Some(value);
        self
    }

    /// With a header that is no secret; its name in small letters.
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The body or the URL holds this secret: it is removed from whatever is told of the answer.
    pub fn hiding(mut self, secret: &SecretString) -> Self {
        self.secrets.push(secret.clone());
        self
    }

    /// Over a connection of its own: one that was kept may be closed by the other side in the very
    /// moment of sending, and then nobody knows whether the request arrived.
    pub fn fresh(mut self) -> Self {
        self.fresh = true;
        self
    }

    /// The head of the answer may take as long as the whole call: a model thinks first.
    pub fn patient(mut self) -> Self {
        self.first_byte = self.deadline;
        self
    }

    /// The head of the answer may take so long, counted from the end of a body that is a stream.
    pub fn answered_within(mut self, wait: Duration) -> Self {
        self.first_byte = wait;
        self
    }

    /// The answer's body may have so many bytes, instead of [`BODY_MAX`].
    pub fn at_most(mut self, bytes: usize) -> Self {
        self.body_max = bytes;
        self
    }

    /// The secrets that must not come back in what is told of the answer.
    pub fn secrets(&self) -> Vec<&SecretString> {
        let own = self.bearer.iter().chain(&self.authorization);
        own.chain(&self.secrets).collect()
    }
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, at most 64 KiB.
    pub headers: HeaderMap,
    /// The body, at most the call's cap.
    pub body: Bytes,
    /// When it was there.
    pub at: Time,
}

impl Answer {
    /// A header's text, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body, read as JSON.
    ///
    /// # Errors
    /// What doesn't fit, in serde's words.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, String> {
        serde_json::from_slice(&self.body).map_err(|e| e.to_string())
    }
}

/// The body of an answer on its way.
pub type Stream = BoxStream<'static, io::Result<Bytes>>;

/// The code of a call that wasn't made, since none may be for a while.
pub const HELD: &str = "held";

/// No whole answer came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Lost {
    /// Whether a byte of the request can have left this machine.
    pub sent: bool,
    /// A stable word: `connect`, `timeout`, `reset`, `too_large`, `request`, `source`, `held`, `budget`.
    pub code: &'static str,
    /// It wasn't made because none may be made for so long.
    pub held: Option<chrono::Duration>,
    /// What happened, for people.
    pub message: String,
}

impl Lost {
    fn new(sent: bool, code: &'static str, message: String) -> Self {
        Self {
            sent,
            code,
            held: None,
            message,
        }
    }
}

/// What every client of ours is: it follows nothing, repeats nothing, asks no proxy of the
/// environment, and keeps at most `idle` connections to a host.
pub(super) fn builder(idle: usize) -> ClientBuilder {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // an error says that another thread was faster, which is as good
        let _faster = rustls::crypto::ring::default_provider().install_default();
    }
    let builder = Client::builder();
    let builder = match sabotage!("http.redirects") {
        true => builder,
        false => builder.redirect(reqwest::redirect::Policy::none()),
    };
    let builder = builder.retry(match sabotage!("http.retries") {
        // what a client does that means well
        true => reqwest::retry::for_host("127.0.0.1").classify_fn(|it| {
            match it.status().is_none_or(|it| it.is_server_error()) {
                true => it.retryable(),
                false => it.success(),
            }
        }),
        false => reqwest::retry::never(),
    });
    builder
        .no_proxy()
        .referer(false)
        .connect_timeout(CONNECT)
        .pool_max_idle_per_host(idle)
        .pool_idle_timeout(Duration::from_secs(15))
        .user_agent(concat!("presswork/", env!("CARGO_PKG_VERSION")))
}

impl Http {
    /// The client. TLS runs on ring, installed for the process unless a provider is there.
    ///
    /// # Errors
    /// When the system's certificates can't be read.
    pub fn new(clock: Clock) -> anyhow::Result<Self> {
        Ok(Self {
            pooled: builder(4).build()?,
            fresh: builder(0).build()?,
            clock,
            kept: Arc::default(),
            caller: None,
            ear: None,
        })
    }

    /// The client for requests of this caller, where they are counted: each goes through its gate.
    pub fn of(&self, caller: Option<Caller>) -> Self {
        Self {
            caller,
            ..self.clone()
        }
    }

    /// What lets this request go.
    async fn pass(&self, call: &Call) -> Result<Pass, Lost> {
        if let Some(taken) = gate::taken() {
            return Ok(taken);
        }
        let Some(caller) = &self.caller else {
            return Ok(Pass::free());
        };
        let op = caller.op(call.method());
        let taken = caller.take((&op, None), call.deadline, PATIENCE).await;
        taken.map_err(|it| Lost {
            held: chrono::Duration::from_std(it.wait).ok(),
            ..Lost::new(false, BUDGET, it.message)
        })
    }

    /// The same client, of whose calls `ear` hears.
    pub fn heard_by(&self, ear: Arc<dyn Ear>) -> Self {
        Self {
            ear: Some(ear),
            ..self.clone()
        }
    }

    /// The time by the client's clock.
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// What an adapter keeps between calls (a session, an instance's limits) under `key`, made by
    /// `T::default` at first. Keys name accounts and hosts of the configuration, so they are few.
    pub fn kept<T: Default + Any + Send + Sync>(&self, key: String) -> Arc<T> {
        // what is kept is only handed out here: a panic elsewhere can't have left it half done
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || -> Kept { Arc::new(T::default()) };
        let held = kept.entry(key.clone()).or_insert_with(fresh).clone();
        held.downcast::<T>().unwrap_or_else(|_| {
            let fresh = Arc::new(T::default());
            kept.insert(key, fresh.clone());
            fresh
        })
    }

    /// Makes a call, once.
    ///
    /// # Errors
    /// When no whole answer came within the call's bounds.
    pub async fn send(&self, call: &Call) -> Result<Answer, Lost> {
        let host = call.url.host_str().unwrap_or("the platform").to_owned();
        let exchange = async {
            let response = self.head(call, &host).await?;
            self.answer(response, call, &host).await
        };
        let pass = self.admitted(call, &host).await?;
        let done = tokio::time::timeout(call.deadline, exchange).await;
        let done = done.unwrap_or_else(|_| Err(late(call, &host)));
        pass.over(done.as_ref().map_or_else(|it| it.sent, |_| true));
        self.note(done.as_ref());
        done
    }

    /// What lets this request go; it may have been waited for, and something heard meanwhile.
    async fn admitted(&self, call: &Call, host: &str) -> Result<Pass, Lost> {
        self.may_ask(host)?;
        let pass = self.pass(call).await?;
        if let Err(held) = self.may_ask(host) {
            pass.over(false);
            return Err(held);
        }
        Ok(pass)
    }

    fn may_ask(&self, host: &str) -> Result<(), Lost> {
        let now = self.clock.now();
        let Some(until) = self.ear.as_ref().and_then(|it| it.held(now)) else {
            return Ok(());
        };
        let message = format!("{host} isn't asked before {}", stamp(until));
        Err(Lost {
            held: Some(until - now),
            ..Lost::new(false, HELD, message)
        })
    }

    fn note(&self, done: Result<&Answer, &Lost>) {
        match (&self.ear, done) {
            (Some(ear), Ok(answer)) => ear.answer(answer),
            (Some(ear), Err(lost)) => ear.lost(lost),
            (None, _) => {}
        }
    }

    /// Makes a call, once; the body of a success comes as a stream, of any length and for as long as it
    /// isn't silent: only its head has to be there within the call's deadline. What isn't a success
    /// is whole.
    ///
    /// # Errors
    /// When no head came within the call's bounds.
    pub async fn open(&self, call: &Call) -> Result<(Answer, Option<Stream>), Lost> {
        let host = call.url.host_str().unwrap_or("the platform").to_owned();
        let opened = async {
            let response = self.head(call, &host).await?;
            if !response.status().is_success() {
                return Ok((self.answer(response, call, &host).await?, None));
            }
            let head = Answer {
                status: response.status().as_u16(),
                headers: response.headers().clone(),
                body: Bytes::new(),
                at: self.clock.now(),
            };
            let host = host.clone();
            let next = move |mut response: reqwest::Response| {
                let host = host.clone();
                async move {
                    let bytes = chunk(&mut response, &host).await;
                    let bytes = bytes.map_err(io::Error::other)?;
                    Ok(bytes.map(|it| (it, response)))
                }
            };
            Ok((head, Some(try_unfold(response, next).boxed())))
        };
        let pass = self.admitted(call, &host).await?;
        let done = tokio::time::timeout(call.deadline, opened).await;
        let done = done.unwrap_or_else(|_| Err(late(call, &host)));
        pass.over(done.as_ref().map_or_else(|it| it.sent, |_| true));
        self.note(done.as_ref().map(|(head, _)| head));
        done
    }

    async fn head(&self, call: &Call, host: &str) -> Result<reqwest::Response, Lost> {
        let (request, mut watch) = self.request(call)?;
        let head = tokio::select! {
            biased;
            head = request.send() => head,
            within = watch.silence(call.first_byte) => {
                let within = within.as_secs();
                let message = format!("{host} took and answered nothing for {within} s");
                return Err(Lost::new(true, "timeout", message));
            }
        };
        match (head, watch.broken()) {
            (Ok(it), _) => Ok(it),
            (Err(_), Some(why)) => {
                let message = format!("what was being sent to {host} can't be read: {why}");
                Err(Lost::new(true, "source", message))
            }
            (Err(e), None) => Err(not_answered(e, host)),
        }
    }

    async fn answer(
        &self,
        mut response: reqwest::Response,
        call: &Call,
        host: &str,
    ) -> Result<Answer, Lost> {
        let headers = response.headers().clone();
        let size: usize = headers
            .iter()
            .map(|(n, v)| n.as_str().len() + v.len())
            .sum();
        let declared = response.content_length().unwrap_or(0);
        let most = call.body_max as u64;
        if HEADERS_MAX < size || most < declared {
            let message =
                format!("{host} answers {declared} bytes with {size} bytes of headers: too large");
            return Err(Lost::new(true, "too_large", message));
        }
        let body = whole(&mut response, call.body_max, host).await?;
        Ok(Answer {
            status: response.status().as_u16(),
            headers,
            body,
            at: self.clock.now(),
        })
    }

    fn request(&self, call: &Call) -> Result<(reqwest::RequestBuilder, Watch), Lost> {
        let client = if call.fresh {
            &self.fresh
        } else {
            &self.pooled
        };
        let unfit = |what: &str| Lost::new(false, "request", format!("{what} is no valid header"));
        let mut request = client.request(call.method.clone(), call.url.clone());
        for (name, value) in &call.headers {
            let value = HeaderValue::from_str(value).map_err(|_| unfit(name))?;
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unfit(name))?;
            request = request.header(name, value);
        }
        let bearer = call.bearer.as_ref();
        let bearer = bearer.map(|it| format!("Bearer {}", it.expose_secret()));
        let whole = call.authorization.as_ref();
        if let Some(value) = bearer.or_else(|| Some(whole?.expose_secret().to_owned())) {
            let mut value = HeaderValue::from_str(&value).map_err(|_| unfit("the token"))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        body::onto(request, &call.body).map_err(unfit)
    }
}

async fn whole(response: &mut reqwest::Response, most: usize, host: &str) -> Result<Bytes, Lost> {
    let mut body = Vec::new();
    while let Some(chunk) = chunk(response, host).await? {
        if most < body.len() + chunk.len() {
            let message = format!("{host} answers more than {most} bytes");
            return Err(Lost::new(true, "too_large", message));
        }
        body.extend(chunk);
    }
    Ok(body.into())
}

/// The next bytes of a body; nothing at its end.
async fn chunk(response: &mut reqwest::Response, host: &str) -> Result<Option<Bytes>, Lost> {
    match tokio::time::timeout(IDLE_READ, response.chunk()).await {
        Ok(Ok(it)) => Ok(it),
        Ok(Err(e)) => {
            let message = format!("{host}'s answer broke off: {}", chain(e));
            Err(Lost::new(true, "reset", message))
        }
        Err(_) => {
            let within = IDLE_READ.as_secs();
            let message = format!("{host} fell silent for {within} s amid its answer");
            Err(Lost::new(true, "timeout", message))
        }
    }
}

fn late(call: &Call, host: &str) -> Lost {
    let within = call.deadline.as_secs_f32();
    let message = format!("{host} gave no whole answer within {within:.0} s");
    Lost::new(true, "timeout", message)
}

pub(super) fn not_answered(error: reqwest::Error, host: &str) -> Lost {
    if error.is_connect() {
        let message = format!("can't connect to {host}: {}", chain(error));
        Lost::new(false, "connect", message)
    } else if error.is_builder() {
        let message = format!("no request to {host} can be made: {}", chain(error));
        Lost::new(false, "request", message)
    } else {
        let code = if error.is_timeout() {
            "timeout"
        } else {
            "reset"
        };
        let message = format!("{host} gave no answer: {}", chain(error));
        Lost::new(true, code, message)
    }
}

/// The innermost cause says most; the URL may hold secrets.
pub(super) fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause = error.source();
    let mut told = error.to_string();
    while let Some(it) = cause {
        told = it.to_string();
        cause = it.source();
    }
    told
}

/// `base` with `path` behind its own: a platform may live below a path. A `/v1` at the end of
/// `base` isn't doubled.
pub fn below(base: &Url, path: &str) -> Url {
    let own = base.path().trim_end_matches('/');
    let own = match path.starts_with("/v1/") {
        true => own.strip_suffix("/v1").unwrap_or(own),
        false => own,
    };
    let mut url = base.clone();
    url.set_path(&format!("{own}{path}"));
    url.set_query(None);
    url.set_fragment(None);
    url
}

#[cfg(test)]
mod tests;
