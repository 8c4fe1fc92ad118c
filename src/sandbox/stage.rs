//! The way of every request: read, choose a fault, act or not, answer well or badly.

use std::{io::SeekFrom, sync::Arc, time::Duration};

use axum::{
    body::{Body, to_bytes},
    extract::{Request as HttpRequest, State},
    http::{HeaderValue, StatusCode},
    response::Response,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncSeekExt},
    task::JoinSet,
};
use tokio_util::io::ReaderStream;

use super::{
    acts::{ActLog, held},
    clock::Clock,
    exchange::{Answer, MAX_BODY, Peek, Platform, Request, Slice},
    faults::FaultBook,
    journal::Journal,
    play::{Fault, Play},
    settings::Settings,
    spool::{Spool, Unreceived},
    wire::Wire,
};

/// What all platforms of one sandbox share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Arc<Clock>,
    pub(super) acts: Arc<ActLog>,
    pub(super) faults: FaultBook,
    pub(super) journal: Arc<Journal>,
    pub(super) settings: Arc<Settings>,
    pub(super) spool: Arc<Spool>,
    /// Acts that are still to come; they end with the sandbox.
    pub(super) late: std::sync::Mutex<JoinSet<()>>,
}

/// One platform on its stage.
pub(super) struct Stage<P> {
    pub(super) platform: P,
    pub(super) shared: Arc<Shared>,
}

/// A request on its way: its number in the journal and its connection.
struct Running {
    n: u64,
    wire: Wire,
}

/// The size of the body that the fault `huge` sends, in bytes.
const HUGE: usize = 200 * 1024 * 1024;

/// The handler of everything below a platform's prefix.
pub(super) async fn serve<P: Platform>(
    State(stage): State<Arc<Stage<P>>>,
    http: HttpRequest,
) -> Response {
    let wire = http.extensions().get::<Wire>().cloned().unwrap_or_default();
    let (parts, body) = http.into_parts();
    let query = parts.uri.query().unwrap_or_default().as_bytes();
    let path = parts.uri.path();
    let mut request = Request {
        path: path.strip_prefix(P::PREFIX).unwrap_or(path).to_owned(),
        query: url::form_urlencoded::parse(query).into_owned().collect(),
        method: parts.method,
        headers: parts.headers,
        body: Bytes::new(),
        file: None,
    };
    let call = (request.method.as_str().to_owned(), path.to_owned());
    let call = (call.0.as_str(), call.1.as_str());
    let (peek, op) = match take_in(&stage, &mut request, body).await {
        Ok(()) => stage.platform.read(&request).await,
        Err(status) => {
            let peek = Peek {
                op: "unreadable",
                ..Peek::default()
            };
            (peek, Err(stage.platform.error(status, None)))
        }
    };
    drop(request);
    let n = stage
        .shared
        .journal
        .arrived(stage.shared.clock.now(), P::NAME, call, &peek);
    let _underway = stage.shared.journal.watch(&stage.shared.clock, n);
    let running = Running { n, wire };
    match stage.shared.faults.choose(P::NAME, &peek) {
        Err(why) => stage.send(
            &running,
            &peek,
            stage.platform.error(P::REFUSAL, Some(&why)),
        ),
        Ok(None) => {
            let answer = stage.act(&peek, op).await;
            stage.send(&running, &peek, answer)
        }
        Ok(Some(play)) => {
            stage.shared.journal.bent(n, play.fault.name());
            misbehave(stage, running, peek, op, play).await
        }
    }
}

/// Reads a body, into memory or a file; `Err` holds the status of a refusal.
async fn take_in<P: Platform>(
    stage: &Stage<P>,
    request: &mut Request,
    body: Body,
) -> Result<(), u16> {
    if P::streams(&request.method, &request.path) {
        let received = stage.shared.spool.receive(body).await;
        request.file = Some(Arc::new(received.map_err(|why| match why {
            Unreceived::TooLarge => 413u16,
            Unreceived::Failed(error) => {
                tracing::warn!(%error, "a request body could not be kept");
                500
            }
        })?));
        return Ok(());
    }
    request.body = to_bytes(body, MAX_BODY).await.map_err(|error| {
        tracing::debug!(%error, "a request body could not be read");
        413u16
    })?;
    Ok(())
}

async fn misbehave<P: Platform>(
    stage: Arc<Stage<P>>,
    running: Running,
    peek: Peek,
    mut op: Result<P::Op, Answer>,
    play: Play,
) -> Response {
    if let (Ok(op), Some(lag_ms)) = (&mut op, play.lag_ms) {
        P::lag(op, lag_ms);
    }
    if play.fault == Fault::ActLate {
        running.wire.close();
        let after = Duration::from_millis(u64::from(play.delay_ms));
        let late = Arc::clone(&stage);
        let mut tasks = held(&stage.shared.late);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            tokio::time::sleep(after).await;
            late.act(&peek, op).await;
        });
        return unanswered();
    }
    let done = if play.fault.acts() {
        Some(stage.act(&peek, op).await)
    } else {
        None
    };
    let platform = &stage.platform;
    let failed = |usual: u16| platform.error(play.status.unwrap_or(usual), None);
    let answer = match (play.fault, done) {
        (Fault::Hang | Fault::ActHang, _) => std::future::pending().await,
        (Fault::Reset | Fault::ActReset, _) => {
            running.wire.reset();
            return unanswered();
        }
        (Fault::Drop, _) => {
            tokio::time::sleep(Duration::from_millis(u64::from(play.delay_ms))).await;
            running.wire.close();
            return unanswered();
        }
        // What was refused for good was not acted on: say so, or the fault would tell a lie about the act.
        (
            Fault::ActFailed
            | Fault::ActUnavailable
            | Fault::ActTimeout
            | Fault::ActRefuse
            | Fault::ActLie,
            Some(done),
        ) if !done.succeeded() => done,
        (Fault::Refuse, _) => failed(P::REFUSAL),
        (Fault::Unauthorized, _) => failed(401),
        (Fault::Forbidden, _) => failed(403),
        (Fault::NotFound, _) => failed(404),
        (Fault::Limited, _) => return stage.limited(&running, play),
        (Fault::Failed | Fault::ActFailed, _) => failed(500),
        (Fault::Unavailable | Fault::ActUnavailable, _) => failed(503),
        (Fault::ActTimeout, _) => failed(504),
        (Fault::ActRefuse, _) => platform.denial(),
        (Fault::Lag, Some(done)) => done,
        (Fault::Lie, _) => Answer {
            status: 200,
            headers: Vec::new(),
            own: Vec::new(),
            body: Bytes::from_static(
                b"<!doctype html><title>Just a moment</title><p>Checking your browser.",
            ),
            file: None,
            mime: "text/html; charset=utf-8",
        },
        (Fault::ActLie, _) => Answer {
            body: Bytes::from_static(b"\x00\xff{\"id\": \xfe"),
            ..ok(&[])
        },
        (Fault::Redirect, _) => Answer {
            status: 302,
            ..ok(&[("location", "http://169.254.169.254/")])
        },
        (Fault::Empty, _) => ok(&[]),
        (Fault::Truncate, _) => return stage.bent(&running, &peek, ok(&[]), Shape::Cut).await,
        (Fault::ActTruncate, Some(done)) => {
            return stage.bent(&running, &peek, done, Shape::Cut).await;
        }
        (Fault::Drip, Some(done)) => return stage.bent(&running, &peek, done, Shape::Drip).await,
        (Fault::Huge, Some(done)) => return stage.bent(&running, &peek, done, Shape::Huge).await,
        (Fault::Slow, Some(done)) => {
            tokio::time::sleep(Duration::from_millis(u64::from(play.delay_ms))).await;
            done
        }
        (
            Fault::ActTruncate
            | Fault::Drip
            | Fault::Huge
            | Fault::Slow
            | Fault::Lag
            | Fault::ActLate,
            _,
        ) => failed(500),
    };
    stage.send(&running, &peek, answer)
}

/// How a body is sent when it is not sent well.
enum Shape {
    Cut,
    Drip,
    Huge,
}

impl<P: Platform> Stage<P> {
    /// Acts, and answers when the act is on disk.
    async fn act(&self, peek: &Peek, op: Result<P::Op, Answer>) -> Answer {
        let account = peek.account.as_deref().unwrap_or("anybody");
        if self
            .platform
            .rates()
            .spend(account, self.shared.clock.now())
            .over
        {
            return self.wait(429, 60);
        }
        let answer = match op {
            Ok(op) => self.platform.perform(op).await,
            Err(refusal) => refusal,
        };
        match self.shared.acts.settled().await {
            Ok(()) => answer,
            Err(why) => self.platform.error(500, Some(&why)),
        }
    }

    /// An answer about too many requests.
    fn wait(&self, status: u16, after: impl ToString) -> Answer {
        let answer = self.platform.error(status, None);
        match P::RETRY_AFTER {
            true => answer.with("retry-after", after),
            false => answer,
        }
    }

    fn limited(&self, running: &Running, play: Play) -> Response {
        let now = self.shared.clock.now();
        let wait = i64::from(play.retry_after_s);
        let retry_after = if play.date {
            // A date is compared with the reader's clock, not with ours.
            let until = chrono::Utc::now() + chrono::TimeDelta::seconds(wait);
            until.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
        } else {
            wait.to_string()
        };
        let mut answer = self.wait(play.status.unwrap_or(429), retry_after);
        let rate = self.platform.rates().spent(play.retry_after_s, now);
        answer
            .headers
            .extend(self.platform.rate_headers(&rate, now));
        self.respond(running, answer, Body::from)
    }

    fn send(&self, running: &Running, peek: &Peek, answer: Answer) -> Response {
        let answer = self.dressed(peek, answer);
        self.respond(running, answer, Body::from)
    }

    async fn bent(&self, running: &Running, peek: &Peek, answer: Answer, shape: Shape) -> Response {
        let mut answer = self.dressed(peek, answer);
        if let Some(slice) = answer.file.take() {
            match beginning(&slice).await {
                Ok(bytes) => answer.body = bytes,
                Err(error) => answer = self.platform.error(500, Some(&error.to_string())),
            }
        }
        if matches!(shape, Shape::Cut) {
            // At least a kilobyte more is promised than will come.
            let promised = answer.body.len() + 1024;
            answer = answer.with("content-length", promised);
            answer.body.truncate(answer.body.len() / 2);
        }
        self.respond(running, answer, |body| match shape {
            Shape::Cut => cut(body),
            Shape::Drip => drip(body),
            Shape::Huge => huge(body),
        })
    }

    fn dressed(&self, peek: &Peek, mut answer: Answer) -> Answer {
        let now = self.shared.clock.now();
        let rate = self
            .platform
            .rates()
            .look(peek.account.as_deref().unwrap_or("anybody"), now);
        answer
            .headers
            .extend(self.platform.rate_headers(&rate, now));
        answer
    }

    fn respond(
        &self,
        running: &Running,
        answer: Answer,
        body: impl FnOnce(Bytes) -> Body,
    ) -> Response {
        self.shared.journal.answered(running.n, answer.status);
        let mut response = Response::new(Body::empty());
        *response.status_mut() =
            StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        answer.put_headers(response.headers_mut());
        response
            .headers_mut()
            .entry("cache-control")
            .or_insert(HeaderValue::from_static("no-store"));
        *response.body_mut() = match answer.file {
            None => body(answer.body),
            Some(slice) => {
                response
                    .headers_mut()
                    .insert("content-length", HeaderValue::from(slice.bytes));
                streamed(*slice)
            }
        };
        response
    }
}

/// So much of a file that a bent answer has enough to bend.
async fn beginning(slice: &Slice) -> std::io::Result<Bytes> {
    let mut file = tokio::fs::File::open(&slice.path).await?;
    file.seek(SeekFrom::Start(slice.start)).await?;
    let mut bytes = Vec::new();
    let most = slice.bytes.min(MAX_BODY as u64);
    file.take(most).read_to_end(&mut bytes).await?;
    Ok(bytes.into())
}

fn streamed(slice: Slice) -> Body {
    let opened = async move {
        let mut file = tokio::fs::File::open(&slice.path).await?;
        file.seek(SeekFrom::Start(slice.start)).await?;
        let file = file.take(slice.bytes);
        Ok::<_, std::io::Error>(ReaderStream::with_capacity(file, 64 * 1024))
    };
    Body::from_stream(stream::once(opened).try_flatten())
}

/// An answer that says yes and nothing more.
fn ok(headers: &[(&'static str, &str)]) -> Answer {
    Answer {
        status: 200,
        headers: headers
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect(),
        own: Vec::new(),
        body: Bytes::new(),
        file: None,
        mime: "application/json; charset=utf-8",
    }
}

/// What hyper gets when the connection's [`Wire`] will swallow it.
fn unanswered() -> Response {
    Response::new(Body::from("never sent"))
}

/// A body that ends in an error, after what there is of it had time to leave.
fn cut(body: Bytes) -> Body {
    Body::from_stream(stream::unfold(Some(body), |rest| async move {
        match rest {
            Some(bytes) if !bytes.is_empty() => Some((Ok(bytes), Some(Bytes::new()))),
            Some(_) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some((Err(std::io::Error::other("cut on request")), None))
            }
            None => None,
        }
    }))
}

fn drip(body: Bytes) -> Body {
    Body::from_stream(stream::unfold(body, |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let byte = rest.split_to(1);
        Some((Ok::<_, std::io::Error>(byte), rest))
    }))
}

/// The answer with so much white space behind it that nobody should read on.
fn huge(body: Bytes) -> Body {
    const SPACES: &[u8] = &[b' '; 64 * 1024];
    let first = stream::once(async move { Ok::<_, std::io::Error>(body) });
    let rest = stream::iter((0..HUGE / SPACES.len()).map(|_| Ok(Bytes::from_static(SPACES))));
    Body::from_stream(first.chain(rest))
}
