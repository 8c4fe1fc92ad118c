//! The one HTTP client: time-outs, byte caps, no redirects, no proxies, no hidden retries.
//!
//! A call is made once. What comes back is an [`Answer`], or [`Lost`], which says whether any byte
//! of the request can have left this machine: that decides whether it may be made again.

use std::any::Any;
use std::collections::HashMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, ClientBuilder, Method, multipart};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use crate::clock::{Clock, Time};

/// A connection must stand within this: DNS, TCP and TLS.
const CONNECT: Duration = Duration::from_secs(5);
/// The default wait for the head of an answer, the request's upload included.
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
}

type Kept = Arc<dyn Any + Send + Sync>;

/// A request's body. Cloning is cheap.
#[derive(Clone)]
pub enum Body {
    /// None.
    Empty,
    /// JSON text.
    Json(String),
    /// Bytes of a media type.
    Bytes(String, Bytes),
    /// A form with files.
    Multipart(Vec<Part>),
}

/// A part of a form.
#[derive(Clone)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// Its file's name and media type, when it is a file.
    pub file: Option<(String, String)>,
    /// What it holds.
    pub bytes: Bytes,
}

/// One request, to be made once.
pub struct Call {
    method: Method,
    url: Url,
    bearer: Option<SecretString>,
    secrets: Vec<SecretString>,
    headers: Vec<(&'static str, String)>,
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

    /// With a bearer token.
    pub fn bearer(mut self, token: &SecretString) -> Self {
        self.bearer = Some(token.clone());
        self
    }

    /// With a header that is no secret.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
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

    /// The answer's body may have so many bytes, instead of [`BODY_MAX`].
    pub fn at_most(mut self, bytes: usize) -> Self {
        self.body_max = bytes;
        self
    }

    /// The secrets that must not come back in what is told of the answer.
    pub fn secrets(&self) -> Vec<&SecretString> {
        self.bearer.iter().chain(&self.secrets).collect()
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

/// No whole answer came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Lost {
    /// Whether a byte of the request can have left this machine.
    pub sent: bool,
    /// A stable word: `connect`, `timeout`, `reset`, `too_large`, `request`.
    pub code: &'static str,
    /// What happened, for people.
    pub message: String,
}

impl Lost {
    fn new(sent: bool, code: &'static str, message: String) -> Self {
        Self {
            sent,
            code,
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
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
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
        })
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
        match tokio::time::timeout(call.deadline, self.exchange(call, &host)).await {
            Ok(it) => it,
            Err(_) => {
                let within = call.deadline.as_secs_f32();
                let message = format!("{host} gave no whole answer within {within:.0} s");
                Err(Lost::new(true, "timeout", message))
            }
        }
    }

    async fn exchange(&self, call: &Call, host: &str) -> Result<Answer, Lost> {
        let request = self.request(call)?;
        let head = tokio::time::timeout(call.first_byte, request.send()).await;
        let mut response = match head {
            Ok(Ok(it)) => it,
            Ok(Err(e)) => return Err(not_answered(e, host)),
            Err(_) => {
                let within = call.first_byte.as_secs();
                let message = format!("{host} began no answer within {within} s");
                return Err(Lost::new(true, "timeout", message));
            }
        };
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

    fn request(&self, call: &Call) -> Result<reqwest::RequestBuilder, Lost> {
        let client = if call.fresh {
            &self.fresh
        } else {
            &self.pooled
        };
        let unfit = |what: &str| Lost::new(false, "request", format!("{what} is no valid header"));
        let mut request = client.request(call.method.clone(), call.url.clone());
        for (name, value) in &call.headers {
            let value = HeaderValue::from_str(value).map_err(|_| unfit(name))?;
            request = request.header(HeaderName::from_static(name), value);
        }
        if let Some(token) = &call.bearer {
            let value = format!("Bearer {}", token.expose_secret());
            let mut value = HeaderValue::from_str(&value).map_err(|_| unfit("the token"))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        Ok(match &call.body {
            Body::Empty => request,
            Body::Json(text) => request
                .header(CONTENT_TYPE, "application/json")
                .body(text.clone()),
            Body::Bytes(mime, bytes) => {
                let mime = HeaderValue::from_str(mime).map_err(|_| unfit("the media type"))?;
                request.header(CONTENT_TYPE, mime).body(bytes.clone())
            }
            Body::Multipart(parts) => request.multipart(form(parts).ok_or(unfit("a part"))?),
        })
    }
}

fn form(parts: &[Part]) -> Option<multipart::Form> {
    parts.iter().try_fold(multipart::Form::new(), |form, part| {
        let size = part.bytes.len() as u64;
        let mut body = multipart::Part::stream_with_length(part.bytes.clone(), size);
        if let Some((name, mime)) = &part.file {
            body = body.file_name(name.clone()).mime_str(mime).ok()?;
        }
        Some(form.part(part.name, body))
    })
}

async fn whole(response: &mut reqwest::Response, most: usize, host: &str) -> Result<Bytes, Lost> {
    let mut body = Vec::new();
    loop {
        match tokio::time::timeout(IDLE_READ, response.chunk()).await {
            Ok(Ok(Some(chunk))) if body.len() + chunk.len() <= most => body.extend(chunk),
            Ok(Ok(Some(_))) => {
                let message = format!("{host} answers more than {most} bytes");
                return Err(Lost::new(true, "too_large", message));
            }
            Ok(Ok(None)) => return Ok(body.into()),
            Ok(Err(e)) => {
                let message = format!("{host}'s answer broke off: {}", chain(e));
                return Err(Lost::new(true, "reset", message));
            }
            Err(_) => {
                let within = IDLE_READ.as_secs();
                let message = format!("{host} fell silent for {within} s amid its answer");
                return Err(Lost::new(true, "timeout", message));
            }
        }
    }
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
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A server that answers one connection with `bytes` and closes, or falls silent.
    async fn server(bytes: Vec<u8>, close: bool) -> (Url, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 65_536];
            let n = socket.read(&mut asked).await.unwrap();
            let _gone = socket.write_all(&bytes).await;
            if !close {
                std::future::pending::<()>().await;
            }
            String::from_utf8_lossy(&asked[..n]).into_owned()
        });
        let url = Url::parse(&format!("http://127.0.0.1:{port}/x")).unwrap();
        (url, task)
    }

    async fn asked(bytes: &[u8], close: bool) -> Result<Answer, Lost> {
        let (url, _task) = server(bytes.to_vec(), close).await;
        let http = Http::new(Clock::System).unwrap();
        http.send(&Call::get(url, Duration::from_millis(500))).await
    }

    #[tokio::test]
    async fn answers_are_bounded() {
        let answer = asked(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", true).await;
        assert_eq!(answer.unwrap().body, "{}");
        let e = asked(
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n{}",
            false,
        )
        .await;
        assert_eq!(e.unwrap_err().code, "too_large");
        let e = asked(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}", true).await;
        assert_eq!(e.unwrap_err().code, "reset");
        let e = asked(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}", false).await;
        assert_eq!(e.unwrap_err().code, "timeout");
        let e = asked(b"", true).await.unwrap_err();
        assert!(e.sent && e.code == "reset", "{e:?}");
        let mut endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        endless.extend(vec![b'x'; BODY_MAX + 1]);
        assert_eq!(asked(&endless, false).await.unwrap_err().code, "too_large");
        let wide = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(HEADERS_MAX));
        assert_eq!(
            asked(wide.as_bytes(), false).await.unwrap_err().code,
            "too_large"
        );
    }

    /// On a fresh connection, and on one that was used before: there a client may think that nobody
    /// read the request.
    #[tokio::test]
    async fn a_call_without_an_answer_is_made_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(AtomicUsize::new(0));
        let counted = seen.clone();
        let server = tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut asked = vec![0; 65_536];
                while 0 < socket.read(&mut asked).await.unwrap_or(0) {
                    // every second request is read, and the connection cut
                    if counted.fetch_add(1, Ordering::SeqCst) % 2 == 1 {
                        break;
                    }
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    socket.write_all(answer).await.unwrap();
                }
            }
        });
        let url = Url::parse(&format!("http://127.0.0.1:{port}/x")).unwrap();
        let http = Http::new(Clock::System).unwrap();
        let wait = Duration::from_secs(20);
        let calls = || {
            let get = Call::get(url.clone(), wait);
            [get, Call::post(url.clone(), Body::Empty, wait)]
        };
        let fresh = calls().map(Call::fresh);
        let mut sent = 0;
        for call in calls().into_iter().chain(fresh) {
            for is_answered in [true, false] {
                sent += 1;
                let answer = http.send(&call).await;
                assert_eq!(answer.is_ok(), is_answered, "request {sent}");
                assert_eq!(seen.load(Ordering::SeqCst), sent, "it was sent again");
            }
        }
        server.abort();
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer() {
        let moved =
            b"HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(asked(moved, true).await.unwrap().status, 307);
    }

    #[tokio::test]
    async fn nothing_was_sent_where_nobody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let url = Url::parse(&format!("http://127.0.0.1:{port}/")).unwrap();
        let http = Http::new(Clock::System).unwrap();
        let call = Call::post(url, Body::Json("{}".into()), Duration::from_secs(5));
        let e = http.send(&call).await.unwrap_err();
        assert!(!e.sent && e.code == "connect", "{e:?}");
    }

    #[tokio::test]
    async fn a_form_goes_out_with_its_length_and_types() {
        let (url, task) = server(
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(),
            true,
        )
        .await;
        let file = Part {
            name: "file",
            file: Some(("a.png".into(), "image/png".into())),
            bytes: Bytes::from_static(b"PNG!"),
        };
        let alt = Part {
            name: "description",
            file: None,
            bytes: Bytes::from_static("ein Bär".as_bytes()),
        };
        let http = Http::new(Clock::System).unwrap();
        let token = SecretString::from("t0ken");
        let call = Call::post(
            url,
            Body::Multipart(vec![alt, file]),
            Duration::from_secs(5),
        );
        http.send(&call.bearer(&token).fresh()).await.unwrap();
        let sent = task.await.unwrap();
        assert!(sent.contains("authorization: Bearer t0ken"), "{sent}");
        assert!(sent.contains("content-length: "), "{sent}");
    }

    #[test]
    fn a_path_goes_behind_the_bases_own() {
        let to = |base: &str, path: &str| below(&Url::parse(base).unwrap(), path).to_string();
        assert_eq!(to("https://a.example", "/v1/x"), "https://a.example/v1/x");
        assert_eq!(
            to("https://a.example/v1/", "/v1/x"),
            "https://a.example/v1/x"
        );
        assert_eq!(to("http://h:1/openai/", "/v1/x"), "http://h:1/openai/v1/x");
        assert_eq!(
            to("http://h:1/m?q=1#f", "/api/v1/x"),
            "http://h:1/m/api/v1/x"
        );
    }

    #[test]
    fn what_is_kept_is_one_for_all_clones() {
        let http = Http::new(Clock::System).unwrap();
        let one = http.clone().kept::<Mutex<u32>>("a".into());
        *one.lock().unwrap() = 7;
        assert_eq!(*http.kept::<Mutex<u32>>("a".into()).lock().unwrap(), 7);
        assert_eq!(*http.kept::<Mutex<u32>>("b".into()).lock().unwrap(), 0);
    }
}
