//! The media store: pictures and films between steps, named by their digests, streamed in and out.
//!
//! What comes in is written to a file of its own, hashed on the fly and looked at ([`sniff`]); fit, it
//! is brought to its place, made durable, and only then written down in the ledger. So a row never
//! lacks its bytes: whatever dies in between leaves bytes without a row, which [`Media::sweep`] finds.
//! What no job holds is forgotten by the ledger first, and deleted then; a place is used once, so
//! that a late delete hits nothing that came after.

pub mod sniff;
mod spool;
pub mod blobs;

use std::io::{self, Seek as _};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::clock::Clock;
use crate::crashpoint;
use crate::json::Digest;
use crate::ledger::{Ledger, LedgerError, Stored};
use crate::outcome::{Failure, Outcome};
use crate::reference::{Name, Pixels, Reference};
use blobs::{Blobs, ByteStream, Found, blocking};
use spool::Spool;

/// What is gathered in memory before it is written.
const CHUNK: usize = 1 << 20;
/// The largest part that is read into memory at once.
pub const PART_MAX: u64 = 64 << 20;
/// Media that a sweep forgets, or strays that it looks up, at once.
const BATCH: usize = 500;

/// What may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a file at most.
    pub bytes: u64,
    /// Pixels of a picture at most, by its head.
    pub pixels: u64,
    /// How many times a picture's long side may be its short one.
    pub ratio: u32,
}

/// Why media can't be stored or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MediaError {
    /// It breaks a limit, or is no file that can be kept.
    #[error("{0}")]
    Unfit(String),
    /// It isn't stored (any more).
    #[error("{0} isn't in the media store; it may have been cleaned up when no job held it")]
    Gone(Name),
    /// Its bytes are no longer those of its digest.
    #[error("the bytes of {0} in the media store are damaged; restore them, or store it anew")]
    Damaged(Name),
    /// The store can't be written or read now.
    #[error("the media store failed: {0}")]
    Away(String),
    /// The ledger can't be reached.
    #[error("{0}")]
    Ledger(String),
}

impl From<MediaError> for Outcome {
    /// A ledger that is away charges no attempt: stopping is not failing.
    fn from(error: MediaError) -> Self {
        let message = error.to_string();
        let failure = match error {
            MediaError::Unfit(_) => Failure::permanent("media", message),
            MediaError::Gone(_) => Failure::permanent("media_gone", message),
            MediaError::Damaged(_) => Failure::permanent("media_damaged", message),
            MediaError::Away(_) => Failure::transient("media_store", message),
            MediaError::Ledger(reason) => return Self::Released { reason },
        };
        failure.into()
    }
}

impl From<LedgerError> for MediaError {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error.to_string())
    }
}

fn away(error: io::Error) -> MediaError {
    MediaError::Away(error.to_string())
}

/// The media store. Cloning shares it.
#[derive(Clone)]
pub struct Media {
    blobs: Blobs,
    ledger: Arc<dyn Ledger>,
    clock: Clock,
}

/// What a sweep took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Files whose writer died.
    pub unfinished: u64,
    /// Media that no job held.
    pub free: u64,
    /// Bytes that the ledger knows nothing of.
    pub strays: u64,
}

impl Media {
    /// The store over these bytes and this ledger. A folder, or an object store's prefix, belongs to
    /// one ledger: of two, each would take the other's media for strays.
    pub fn new(blobs: Blobs, ledger: Arc<dyn Ledger>, clock: Clock) -> Self {
        Self {
            blobs,
            ledger,
            clock,
        }
    }

    /// Begins to write media. `declared` is what somebody says their type is: it counts where the
    /// first bytes tell none, for what is neither picture, film nor sound.
    pub fn draft(&self, limits: Limits, declared: Option<&str>) -> Draft {
        Draft {
            media: self.clone(),
            limits,
            declared: declared.map(str::to_owned),
            spool: None,
            broken: false,
            size: 0,
            buffer: Vec::new(),
        }
    }

    /// Stores what a reader gives; see [`Media::draft`].
    ///
    /// # Errors
    /// As [`Draft::write`] and [`Draft::finish`]; [`MediaError::Away`] when the reader fails.
    pub async fn put(
        &self,
        limits: Limits,
        declared: Option<&str>,
        mut from: impl AsyncRead + Unpin,
    ) -> Result<Reference, MediaError> {
        let mut draft = self.draft(limits, declared);
        let mut buffer = bytes::BytesMut::new();
        loop {
            buffer.reserve(CHUNK / 4);
            match from.read_buf(&mut buffer).await {
                Ok(0) => return draft.finish().await,
                Ok(_) => draft.write(&buffer.split()).await?,
                Err(e) => return Err(away(e)),
            }
        }
    }

    /// What is stored under a name, its grace anew: from now on there is time to hold it.
    ///
    /// # Errors
    /// [`MediaError::Gone`] when it isn't stored.
    pub async fn look(&self, name: Name) -> Result<Reference, MediaError> {
        Ok(self.stored(name).await?.reference())
    }

    /// As [`Media::look`], and the bytes are there: `None` where not, to be stored anew.
    ///
    /// # Errors
    /// When the store or the ledger is away.
    pub async fn intact(&self, name: Name) -> Result<Option<Reference>, MediaError> {
        let Some(stored) = self.ledger.use_media(name.0).await? else {
            return Ok(None);
        };
        let size = self.blobs.size(&stored.place).await.map_err(away)?;
        Ok((size == Some(stored.size)).then(|| stored.reference()))
    }

    async fn stored(&self, name: Name) -> Result<Stored, MediaError> {
        let stored = self.ledger.use_media(name.0).await?;
        stored.ok_or(MediaError::Gone(name))
    }

    /// The bytes of media, as a stream that ends with an error of kind `InvalidData` when they are not
    /// those of the digest.
    ///
    /// # Errors
    /// [`MediaError::Gone`] when it isn't stored; others when the store can't be read.
    pub async fn read(&self, name: Name) -> Result<(Reference, ByteStream), MediaError> {
        let stored = self.stored(name).await?;
        let stream = self.blobs.read(&stored.place).await;
        let stream = stream.map_err(|e| lost(name, e))?;
        Ok((stored.reference(), checked(name, stream)))
    }

    /// The bytes of media in memory, when they are at most `most`.
    ///
    /// # Errors
    /// [`MediaError::Unfit`] when there are more; as [`Media::read`]; [`MediaError::Damaged`].
    pub async fn whole(&self, name: Name, most: u64) -> Result<(Reference, Bytes), MediaError> {
        let (reference, stream) = self.read(name).await?;
        if most.min(PART_MAX) < reference.bytes {
            let is = reference.bytes;
            let message = format!("{name} has {is} bytes; at most {most} are taken");
            return Err(MediaError::Unfit(message));
        }
        let size = usize::try_from(reference.bytes).unwrap_or(0);
        let gather = |mut all: Vec<u8>, some: Bytes| async move {
            all.extend_from_slice(&some);
            Ok(all)
        };
        let bytes = stream.try_fold(Vec::with_capacity(size), gather).await;
        Ok((reference, bytes.map_err(|e| lost(name, e))?.into()))
    }

    /// A part of the bytes of media, at most [`PART_MAX`], for uploads that go on where they stopped.
    /// Parts aren't checked against the digest.
    ///
    /// # Errors
    /// As [`Media::read`]; [`MediaError::Unfit`] when the part is too large.
    pub async fn part(&self, name: Name, range: Range<u64>) -> Result<Bytes, MediaError> {
        if PART_MAX < range.end.saturating_sub(range.start) {
            let message = format!("at most {PART_MAX} bytes are read at once");
            return Err(MediaError::Unfit(message));
        }
        let stored = self.stored(name).await?;
        let part = self.blobs.part(&stored.place, range).await;
        part.map_err(|e| lost(name, e))
    }

    /// A part of the bytes of media, of any size, as a stream. Parts aren't checked against the digest.
    ///
    /// # Errors
    /// As [`Media::read`].
    pub async fn range(&self, name: Name, range: Range<u64>) -> Result<ByteStream, MediaError> {
        let stored = self.stored(name).await?;
        let stream = self.blobs.range(&stored.place, range).await;
        stream.map_err(|e| lost(name, e))
    }

    /// Takes away what isn't needed: files whose writer died, media that no job has held for `grace`,
    /// and bytes older than that which the ledger knows nothing of. For the start, and now and then.
    ///
    /// # Errors
    /// When the store or the ledger is away; the next one goes on.
    pub async fn sweep(&self, grace: Duration) -> Result<Swept, MediaError> {
        let old = self.clock.now() - chrono::Duration::from_std(grace).unwrap_or_default();
        let mut swept = Swept {
            unfinished: self.blobs.sweep_unfinished(old).await.map_err(away)?,
            ..Swept::default()
        };
        loop {
            let free = self.ledger.free_media(grace, BATCH as u32).await?;
            for it in &free {
                crashpoint!("media.before_delete");
                self.blobs.delete(&it.place).await.map_err(away)?;
            }
            swept.free += free.len() as u64;
            if free.len() < BATCH {
                break;
            }
        }
        let is_old = |it: &Found| std::future::ready(it.at < old);
        let mut listed = self.blobs.list().try_filter(is_old).try_chunks(BATCH);
        while let Some(found) = listed.next().await {
            swept.strays += self.strays(&found.map_err(|e| away(e.1))?).await?;
        }
        Ok(swept)
    }

    /// Deletes those of `found` that the ledger doesn't have in this place.
    async fn strays(&self, found: &[Found]) -> Result<u64, MediaError> {
        let digests: Vec<Digest> = found.iter().filter_map(|it| it.digest).collect();
        let known = self.ledger.media(&digests).await?;
        let mut gone = 0;
        for it in found {
            if it.digest.is_some() && known.iter().all(|known| known.place != it.place) {
                self.blobs.delete(&it.place).await.map_err(away)?;
                gone += 1;
            }
        }
        Ok(gone)
    }
}

/// Why bytes that the ledger knows can't be read.
fn lost(name: Name, error: io::Error) -> MediaError {
    match error.kind() {
        io::ErrorKind::NotFound => MediaError::Gone(name),
        io::ErrorKind::InvalidData => MediaError::Damaged(name),
        _ => away(error),
    }
}

/// A stream whose end is an error unless its bytes are those of the digest.
fn checked(name: Name, stream: ByteStream) -> ByteStream {
    let start = (stream, Some(Sha256::new()));
    let next = move |(mut stream, mut hasher): (ByteStream, Option<Sha256>)| async move {
        match (stream.next().await, &mut hasher) {
            (Some(Ok(bytes)), Some(hash)) => {
                hash.update(&bytes);
                Some((Ok(bytes), (stream, hasher)))
            }
            (Some(Err(e)), _) => Some((Err(e), (stream, None))),
            (None, Some(hash)) if <[u8; 32]>::from(hash.clone().finalize()) != name.0.0 => {
                let message = MediaError::Damaged(name).to_string();
                let e = io::Error::new(io::ErrorKind::InvalidData, message);
                Some((Err(e), (stream, None)))
            }
            _ => None,
        }
    };
    futures_util::stream::unfold(start, next).boxed()
}

/// Media that are being written. Dropped before its end it leaves nothing.
pub struct Draft {
    media: Media,
    limits: Limits,
    declared: Option<String>,
    spool: Option<Spool>,
    /// A write was given up midway: what is in the file is not what was written.
    broken: bool,
    size: u64,
    buffer: Vec<u8>,
}

impl Draft {
    /// Adds bytes.
    ///
    /// # Errors
    /// [`MediaError::Unfit`] when there are too many now; [`MediaError::Away`] when they can't be
    /// written, or an earlier call was dropped before its end.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), MediaError> {
        self.size = self.size.saturating_add(bytes.len() as u64);
        let most = self.limits.bytes;
        if most < self.size {
            let message = format!("has more than {most} bytes, the most that are stored");
            return Err(MediaError::Unfit(message));
        }
        while !bytes.is_empty() {
            self.buffer
                .reserve_exact(CHUNK.saturating_sub(self.buffer.len()));
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == CHUNK {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), MediaError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(MediaError::Away("a write was given up midway".to_owned()));
        }
        let folder = self.media.blobs.spool().to_owned();
        let (spool, mut buffer) = (self.spool.take(), std::mem::take(&mut self.buffer));
        let write = blocking(move || {
            let mut spool = match spool {
                Some(it) => it,
                None => Spool::new(&folder)?,
            };
            spool.append(&buffer)?;
            buffer.clear();
            Ok((spool, buffer))
        });
        let (spool, buffer) = write.await.map_err(away)?;
        (self.spool, self.buffer, self.broken) = (Some(spool), buffer, false);
        Ok(())
    }

    /// Stores what was written, and tells how to name it. It has the store's grace from now on: until
    /// then some job has to hold it (a step's value, a result or a payload that names it).
    ///
    /// # Errors
    /// [`MediaError::Unfit`] when it is empty, or a picture with too many pixels, too long and narrow,
    /// or none that can be read; others when the store or the ledger is away.
    pub async fn finish(mut self) -> Result<Reference, MediaError> {
        self.flush().await?;
        let (Some(spool), Some(media)) = (self.spool.take(), Some(self.media.clone())) else {
            return Err(MediaError::Away("nothing was written".to_owned()));
        };
        let looked = blocking(move || about(spool)).await.map_err(away)?;
        let (spool, about) = looked;
        let mime = self.fit(&about)?;
        let mut stored = Stored {
            digest: spool.digest(),
            place: Blobs::place(&spool.digest()),
            mime,
            size: spool.size(),
            pixels: about.pixels,
        };
        if let Some(known) = media.ledger.use_media(stored.digest).await? {
            let there = media.blobs.size(&known.place).await.map_err(away)?;
            if there == Some(known.size) {
                return Ok(known.reference());
            }
            // somebody deleted or cut them by hand: they are brought back to where they belong
            stored = known;
        }
        let place = stored.place.clone();
        media.blobs.publish(spool, &place).await.map_err(away)?;
        crashpoint!("media.before_row");
        let kept = media.ledger.keep_media(&stored).await?;
        if kept.place != place {
            // another one stored the same at the same time
            media.blobs.delete(&place).await.map_err(away)?;
        }
        Ok(kept.reference())
    }

    /// The media type, when all limits are kept.
    fn fit(&self, about: &About) -> Result<String, MediaError> {
        let unfit = |message: String| Err(MediaError::Unfit(message));
        if self.size == 0 {
            return unfit("is empty".to_owned());
        }
        let Some(mime) = about.mime else {
            return Ok(self.unsniffed());
        };
        match about.pixels {
            Some(Pixels { width, height }) => {
                let pixels = u64::from(width) * u64::from(height);
                let (long, short) = (width.max(height), width.min(height));
                let (most, ratio) = (self.limits.pixels, self.limits.ratio);
                if most < pixels {
                    return unfit(format!(
                        "has {width} x {height} pixels; {most} are the most"
                    ));
                }
                if u64::from(short) * u64::from(ratio) < u64::from(long) {
                    return unfit(format!(
                        "has {width} x {height} pixels: one side is more than {ratio} times the other"
                    ));
                }
            }
            None if mime.starts_with("image/") => {
                return unfit(format!("begins like {mime}, but doesn't tell its pixels"));
            }
            None => {}
        }
        Ok(mime.to_owned())
    }

    /// The type of what doesn't tell it: a picture, film or sound would, so that none is claimed.
    fn unsniffed(&self) -> String {
        let declared = self.declared.as_deref().unwrap_or_default();
        let plain = declared.split(';').next().unwrap_or_default().trim();
        let plain = plain.to_ascii_lowercase();
        let word = |it: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c);
            !it.is_empty() && it.len() <= 64 && it.chars().all(fits)
        };
        let claims = ["image", "video", "audio"];
        match plain.split_once('/') {
            Some((kind, sub)) if word(kind) && word(sub) && !claims.contains(&kind) => plain,
            _ => "application/octet-stream".to_owned(),
        }
    }
}

/// What the first bytes of a file tell.
struct About {
    mime: Option<&'static str>,
    pixels: Option<Pixels>,
}

fn about(mut spool: Spool) -> io::Result<(Spool, About)> {
    use std::io::Read as _;
    let file = spool.file();
    file.rewind()?;
    let mut head = Vec::with_capacity(sniff::HEAD);
    file.take(sniff::HEAD as u64).read_to_end(&mut head)?;
    let mime = sniff::mime(&head);
    let pixels = match mime {
        Some(mime) => sniff::pixels(mime, &mut io::BufReader::new(file))?,
        None => None,
    };
    Ok((spool, About { mime, pixels }))
}
