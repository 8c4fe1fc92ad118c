//! What a request carries: nothing, a text, bytes, a form, or a stream of known length that is
//! produced anew for each call, so that a film is never in memory.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::BoxStream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use reqwest::{RequestBuilder, multipart};
use tokio::sync::watch;

/// The longest time in which nothing of a stream is taken by the other side.
const IDLE_WRITE: Duration = Duration::from_secs(30);

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
    /// A stream of so many bytes; its type is said by a header of the call.
    Stream(u64, Source),
}

/// Produces a stream from its first byte on, each time it is called.
pub type Source = Arc<dyn Fn() -> BoxStream<'static, io::Result<Bytes>> + Send + Sync>;

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

/// How a body goes out.
pub(super) struct Watch {
    /// A beat for each chunk that was taken; closed when there are no more.
    beats: Option<watch::Receiver<()>>,
    broken: Arc<OnceLock<String>>,
}

impl Watch {
    /// Ends, with how long nothing happened, when a stream's next chunk wasn't taken for
    /// [`IDLE_WRITE`], or `first_byte` has passed since its end.
    pub(super) async fn silence(&mut self, first_byte: Duration) -> Duration {
        if let Some(beats) = &mut self.beats {
            loop {
                match tokio::time::timeout(IDLE_WRITE, beats.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => break,
                    Err(_) => return IDLE_WRITE,
                }
            }
        }
        tokio::time::sleep(first_byte).await;
        first_byte
    }

    /// Why a stream of ours broke off, if it did.
    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }
}

/// Puts a body onto a request.
///
/// # Errors
/// What of it is no valid header.
pub(super) fn onto(
    request: RequestBuilder,
    body: &Body,
) -> Result<(RequestBuilder, Watch), &'static str> {
    let mut watch = Watch {
        beats: None,
        broken: Arc::default(),
    };
    let request = match body {
        Body::Empty => request,
        Body::Json(text) => request
            .header(CONTENT_TYPE, "application/json")
            .body(text.clone()),
        Body::Bytes(mime, bytes) => {
            let mime = HeaderValue::from_str(mime).map_err(|_| "the media type")?;
            request.header(CONTENT_TYPE, mime).body(bytes.clone())
        }
        Body::Multipart(parts) => request.multipart(form(parts).ok_or("a part")?),
        Body::Stream(size, source) => {
            let (beat, beats) = watch::channel(());
            watch.beats = Some(beats);
            let broken = watch.broken.clone();
            let stream = source()
                .inspect_ok(move |_| beat.send_replace(()))
                .inspect_err(move |e| {
                    // only the first one is told
                    let _ = broken.set(e.to_string());
                });
            request
                .header(CONTENT_LENGTH, *size)
                .body(reqwest::Body::wrap_stream(stream))
        }
    };
    Ok((request, watch))
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
