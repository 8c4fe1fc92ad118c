//! A bucket as a place of the media store: `object_store`'s trait over our own client, which signs,
//! streams and sends in parts already. The crate's own buckets would bring a second such client, and a
//! minute and a half of the build.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable as _};
use bytes::Bytes;
use chrono::DateTime;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, Extensions, GetOptions, GetRange, GetResult, GetResultPayload,
    ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result, UploadPart,
};

use crate::clock::Time;
use crate::config::Account;
use crate::json::Digest;
use crate::media::blobs::{READ, Unfinished};
use crate::outcome::Class;
use crate::platform::http::{Answer, Body, Call, Http};
use crate::platform::verdict::CallError;

use super::bucket::Bucket;
use super::multipart::{Open, Part, is_gone};
use super::xml::Element;

/// What a call without a large body may take, answer included.
const CALL: Duration = Duration::from_secs(60);
/// The slowest line that a body is meant for, in bytes a second.
const SLOWEST: u64 = 32 << 10;
/// How often a call is made that no whole answer came to, or a "come back later". Each can be made again:
/// a place is used once, and what is there twice is the same.
const TRIES: usize = 4;
/// The pauses between them, the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// A bucket, or what is below a prefix in it. Cloning shares it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    http: Http,
    account: Account,
    /// Empty, or with a `/` at its end.
    prefix: String,
}

impl Store {
    /// The places below `prefix` in an account's bucket.
    pub fn new(http: Http, account: Account, prefix: &str) -> Self {
        let prefix = match prefix.trim_matches('/') {
            "" => String::new(),
            it => format!("{it}/"),
        };
        Self(Arc::new(Inner {
            http,
            account,
            prefix,
        }))
    }

    /// The bucket, for a call with a body of so many bytes.
    fn bucket(&self, bytes: u64) -> Bucket<'_> {
        Bucket {
            http: &self.0.http,
            account: &self.0.account,
            deadline: CALL + Duration::from_secs(bytes / SLOWEST),
        }
    }

    fn key(&self, location: &Path) -> String {
        format!("{}{location}", self.0.prefix)
    }

    /// What is under a key by the headers of an answer.
    fn meta(&self, location: &Path, answer: &Answer) -> Result<ObjectMeta> {
        let number = |it: &str| it.trim().parse::<u64>().ok();
        // of a part: `bytes 0-9/100`
        let whole = answer.header("content-range");
        let whole = whole.and_then(|it| number(it.rsplit('/').next()?));
        let size = whole.or_else(|| number(answer.header("content-length")?));
        let size = size.ok_or_else(|| self.without(location, answer, "its length"))?;
        let at = answer.header("last-modified");
        let at = at.and_then(|it| DateTime::parse_from_rfc2822(it).ok());
        let at = at.ok_or_else(|| self.without(location, answer, "its Last-Modified"))?;
        Ok(ObjectMeta {
            location: location.clone(),
            last_modified: at.into(),
            size,
            e_tag: answer.header("etag").map(str::to_owned),
            version: None,
        })
    }

    fn without(&self, location: &Path, answer: &Answer, what: &str) -> Error {
        told(location, self.bucket(0).without(answer, what))
    }

    /// A page of what is below a prefix, and where the next one begins.
    async fn page(
        &self,
        prefix: &str,
        from: Option<String>,
    ) -> Result<(Vec<ObjectMeta>, Option<String>)> {
        let mut pairs = vec![("list-type", "2"), ("prefix", prefix)];
        if let Some(from) = &from {
            pairs.push(("continuation-token", from));
        }
        let bucket = self.bucket(0);
        let list = again(|| bucket.list("", &pairs, "ListBucketResult")).await;
        let list = list.map_err(|e| told(&Path::from(prefix), e))?;
        let read = |it: &Element| {
            let key = it.get("Key")?.strip_prefix(&self.0.prefix)?;
            let at = DateTime::parse_from_rfc3339(it.get("LastModified")?);
            Some(ObjectMeta {
                location: Path::parse(key).ok()?,
                last_modified: at.ok()?.into(),
                size: it.get("Size")?.parse().ok()?,
                e_tag: it.get("ETag").map(str::to_owned),
                version: None,
            })
        };
        // what others keep there under no name of ours is none of ours
        let found = list.all("Contents").filter_map(read).collect();
        let next = list.get("NextContinuationToken").map(str::to_owned);
        let more = list.get("IsTruncated") == Some("true") && next != from;
        Ok((found, next.filter(|_| more)))
    }

    async fn delete_one(&self, location: Path) -> Result<Path> {
        let bucket = self.bucket(0);
        let key = self.key(&location);
        let done = again(|| {
            let call = Call::delete(bucket.url(&key, &[]), bucket.deadline);
            bucket.ask(call, Digest::of_bytes(b""))
        });
        match done.await {
            Ok(_) => Ok(location),
            Err(e) => Err(told(&location, e)),
        }
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bucket = self.0.account.bucket.as_ref();
        let name = bucket.map_or("", |it| it.name.as_str());
        write!(f, "bucket {name}/{}", self.0.prefix)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[async_trait]
impl ObjectStore for Store {
    async fn put_opts(&self, at: &Path, payload: PutPayload, how: PutOptions) -> Result<PutResult> {
        if how.mode != PutMode::Overwrite {
            return Err(self.never("a put under a condition"));
        }
        let (size, body, digest) = body(&payload);
        let bucket = self.bucket(size);
        let key = self.key(at);
        let put = again(|| {
            let call = Call::put(bucket.url(&key, &[]), body.clone(), bucket.deadline);
            bucket.ask(call, digest)
        });
        let answer = put.await.map_err(|e| told(at, e))?;
        Ok(put_result(answer.header("etag").map(str::to_owned)))
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (bucket, key) = (self.bucket(0), self.key(at));
        // an answer that was lost leaves an upload behind: the sweep gives it up
        let id = again(|| bucket.begin_as(&key, |call| call)).await;
        Ok(Box::new(Upload {
            id: id.map_err(|e| told(at, e))?,
            store: self.clone(),
            at: at.clone(),
            begun: 0,
            parts: Arc::default(),
        }))
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        let (bucket, key) = (self.bucket(0), self.key(at));
        let url = bucket.url(&key, &[]);
        if how.head {
            let none = Digest::of_bytes(b"");
            let head = again(|| bucket.ask(Call::head(url.clone(), bucket.deadline), none));
            let meta = self.meta(at, &head.await.map_err(|e| told(at, e))?)?;
            return Ok(got(
                GetResultPayload::Stream(stream::empty().boxed()),
                meta,
                0..0,
            ));
        }
        let range = match &how.range {
            None => None,
            Some(GetRange::Bounded(it)) => {
                Some(format!("bytes={}-{}", it.start, it.end.saturating_sub(1)))
            }
            Some(GetRange::Offset(from)) => Some(format!("bytes={from}-")),
            Some(GetRange::Suffix(last)) => Some(format!("bytes=-{last}")),
        };
        let opened = again(|| {
            let call = Call::get(url.clone(), bucket.deadline);
            bucket.open(match &range {
                Some(it) => call.header("range", it),
                None => call,
            })
        });
        let (head, body) = opened.await.map_err(|e| told(at, e))?;
        let meta = self.meta(at, &head)?;
        let given = match &how.range {
            None => 0..meta.size,
            Some(it) if head.status == 206 => it.as_range(meta.size).map_err(|e| {
                let failed = std::io::Error::other(e.to_string());
                generic(failed)
            })?,
            Some(_) => return Err(self.without(at, &head, "the part that was asked for")),
        };
        let body = body.map_err(generic).boxed();
        Ok(got(GetResultPayload::Stream(body), meta, given))
    }

    fn delete_stream(
        &self,
        all: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |at: Path| {
            let store = store.clone();
            async move { store.delete_one(at).await }
        };
        all.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let below = prefix.map_or_else(String::new, |it| format!("{it}/"));
        let start = (
            self.clone(),
            format!("{}{below}", self.0.prefix),
            Some(None),
        );
        let next = |(store, prefix, from): (Self, String, Option<Option<String>>)| async move {
            let Some(from) = from else { return Ok(None) };
            let (found, next) = store.page(&prefix, from).await?;
            let found = stream::iter(found.into_iter().map(Ok));
            Ok::<_, Error>(Some((found, (store, prefix, next.map(Some)))))
        };
        stream::try_unfold(start, next).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(self.never("a list of folders"))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(self.never("a copy"))
    }
}

impl Store {
    /// What the media store asks of no place.
    fn never(&self, what: &str) -> Error {
        Error::NotImplemented {
            operation: what.to_owned(),
            implementer: self.to_string(),
        }
    }
}

#[async_trait]
impl Unfinished for Store {
    async fn give_up(&self, before: Time) -> std::io::Result<u64> {
        let bucket = self.bucket(0);
        let found = again(|| bucket.all_unfinished(&self.0.prefix)).await;
        let is_old = |it: &&(String, Open)| it.1.at.is_some_and(|at| at < before);
        let mut gone = 0;
        for (key, open) in found
            .map_err(CallError::harmless)
            .map_err(std::io::Error::other)?
            .iter()
            .filter(is_old)
        {
            let done = again(|| bucket.abort(key, &open.id)).await;
            done.map_err(CallError::harmless)
                .map_err(std::io::Error::other)?;
            gone += 1;
        }
        Ok(gone)
    }
}

/// A file on its way in parts.
#[derive(Debug)]
struct Upload {
    store: Store,
    at: Path,
    id: String,
    /// Parts whose sending has begun.
    begun: u32,
    parts: Arc<Mutex<Vec<Part>>>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        self.begun += 1;
        let (number, parts) = (self.begun, self.parts.clone());
        let (store, at, id) = (self.store.clone(), self.at.clone(), self.id.clone());
        Box::pin(async move {
            let (size, body, digest) = body(&payload);
            let (bucket, key) = (store.bucket(size), store.key(&at));
            let sent = again(|| bucket.put_part(&key, &id, number, (size, body.clone(), digest)));
            let part = sent.await.map_err(|e| told(&at, e))?;
            // a number and a word were pushed, or weren't: nothing can be half done
            parts
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(part);
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let mut parts = self
            .parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        parts.sort_by_key(|it| it.number);
        let (bucket, key) = (self.store.bucket(0), self.store.key(&self.at));
        let done = again(|| bucket.complete_as(&key, &self.id, &parts, |call| call)).await;
        match done {
            Ok((etag, _)) => Ok(put_result(etag)),
            // completed by a call whose answer was lost: nobody else has this place
            Err(e) if is_gone(&e) => {
                let there = self
                    .store
                    .get_opts(&self.at, GetOptions::new().with_head(true));
                Ok(put_result(there.await?.meta.e_tag))
            }
            Err(e) => Err(told(&self.at, e)),
        }
    }

    async fn abort(&mut self) -> Result<()> {
        let (bucket, key) = (self.store.bucket(0), self.store.key(&self.at));
        let done = again(|| bucket.abort(&key, &self.id)).await;
        done.map_err(|e| told(&self.at, e))
    }
}

/// A payload as a body: its size, its bytes, which may go out more than once, and their digest.
fn body(payload: &PutPayload) -> (u64, Body, Digest) {
    let bytes = Bytes::from(payload.clone());
    let digest = Digest::of_bytes(&bytes);
    let size = bytes.len() as u64;
    // in pieces, so that a slow line is told from a dead one
    let source = Arc::new(move || {
        let (bytes, size) = (bytes.clone(), bytes.len());
        let piece = move |from: usize| Ok(bytes.slice(from..size.min(from + READ)));
        stream::iter((0..size).step_by(READ).map(piece)).boxed()
    });
    (size, Body::Stream(size, source), digest)
}

/// Makes a call that may be made again until it is answered, [`TRIES`] times at most.
async fn again<T, F: Future<Output = std::result::Result<T, CallError>>>(
    call: impl FnMut() -> F,
) -> std::result::Result<T, CallError> {
    let waits = ExponentialBuilder::default()
        .with_min_delay(PAUSES.0)
        .with_max_delay(PAUSES.1)
        .with_max_times(TRIES - 1)
        .with_jitter();
    let passes = |e: &CallError| match e {
        CallError::Unknown(_) => true,
        CallError::Refused(it) => matches!(it.class, Class::Transient | Class::Throttled),
    };
    call.retry(waits).when(passes).await
}

fn got(payload: GetResultPayload, meta: ObjectMeta, range: Range<u64>) -> GetResult {
    GetResult {
        payload,
        meta,
        range,
        attributes: Attributes::default(),
        extensions: Extensions::default(),
    }
}

fn put_result(e_tag: Option<String>) -> PutResult {
    PutResult {
        e_tag,
        version: None,
        extensions: Extensions::default(),
    }
}

fn generic(error: std::io::Error) -> Error {
    Error::Generic {
        store: "bucket",
        source: error.into(),
    }
}

/// What a refusal, or a lost answer, means to the media store.
fn told(at: &Path, error: CallError) -> Error {
    let is_absent = matches!(error.refusal(), Some("NoSuchKey" | "http_404"));
    let failure = error.harmless();
    match is_absent {
        true => Error::NotFound {
            path: at.to_string(),
            source: failure.into(),
        },
        false => generic(std::io::Error::other(failure)),
    }
}
