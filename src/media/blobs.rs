//! Where the bytes are: a local folder, or any object store. Places are new for each write, so that
//! nothing is ever overwritten, and what is deleted late hits nothing newer.

use std::io::{self, Read as _, Seek as _};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetResultPayload, ObjectStore, ObjectStoreExt as _, PutPayload,
};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use super::spool::{self, Spool};
use crate::clock::Time;
use crate::crashpoint;
use crate::json::Digest;

/// Bytes on their way. Wrap it in `tokio_util::io::StreamReader` where an `AsyncRead` is wanted.
pub type ByteStream = BoxStream<'static, io::Result<Bytes>>;

/// What is read at once.
pub(crate) const READ: usize = 256 << 10;
/// A part of an upload: above the 5 MiB that S3 asks for, and 10,000 of them are enough.
const PART: usize = 8 << 20;
/// The folder of files that are being written, within a local store.
pub const SPOOL: &str = "tmp";
/// What the places of the store begin with.
const HOME: &str = "sha256";

/// What an object store has besides objects, and isn't told of by the crate's trait: uploads in parts
/// whose writers died, each of which is paid for.
#[async_trait]
pub trait Unfinished: Send + Sync {
    /// Gives up those that began before; how many.
    ///
    /// # Errors
    /// When the store can't be asked; the next call goes on.
    async fn give_up(&self, before: Time) -> io::Result<u64>;
}

/// Where the bytes are.
#[derive(Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    unfinished: Option<Arc<dyn Unfinished>>,
    spool: PathBuf,
    /// The spool lies within the store: a rename publishes.
    local: bool,
}

/// A place that has bytes.
#[derive(Clone, Debug)]
pub struct Found {
    /// The place.
    pub place: String,
    /// The digest that the place is for.
    pub digest: Option<Digest>,
    /// When it was written, by the store's clock.
    pub at: Time,
}

impl Blobs {
    /// A folder, for its owner only; it is made where it isn't there. Writes are on disk when they
    /// return, their folders included.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn folder(folder: &FilePath) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder)?;
        let store = LocalFileSystem::new_with_prefix(folder).map_err(told)?;
        Ok(Self {
            store: Arc::new(store.with_fsync(true)),
            unfinished: None,
            spool: folder.join(SPOOL),
            local: true,
        })
    }

    /// An object store. `spool` is a local folder: what comes in is gathered, hashed and looked at
    /// there, so that the object store only gets what is whole and fit.
    pub fn objects(store: Arc<dyn ObjectStore>, spool: PathBuf) -> Self {
        Self {
            store,
            unfinished: None,
            spool,
            local: false,
        }
    }

    /// As [`Blobs::objects`], for a store that tells of its unfinished uploads.
    pub fn bucket<S: ObjectStore + Unfinished>(store: S, spool: PathBuf) -> Self {
        let store = Arc::new(store);
        Self {
            unfinished: Some(store.clone()),
            ..Self::objects(store, spool)
        }
    }

    /// The folder of files that are being written.
    pub(super) fn spool(&self) -> &FilePath {
        &self.spool
    }

    /// A new place for bytes of this digest.
    pub(super) fn place(digest: &Digest) -> String {
        let (hex, new) = (digest.hex(), Uuid::new_v4().simple());
        format!("{HOME}/{}/{hex}.{new}", &hex[..2])
    }

    /// Brings what was written to its place; it is durable there when this returns.
    ///
    /// # Errors
    /// When the store says no; then nothing is there, or garbage that a sweep finds.
    pub(super) async fn publish(&self, mut spool: Spool, place: &str) -> io::Result<()> {
        let to = Path::from(place);
        crashpoint!("media.before_publish");
        if self.local {
            let from = Path::from(format!("{SPOOL}/{}", spool.name()));
            let spool = blocking(move || spool.sync().map(|()| spool)).await?;
            self.store.rename(&from, &to).await.map_err(told)?;
            spool.published();
        } else if spool.size() <= PART as u64 {
            let (_, bytes) = part(spool, 0).await?;
            let payload = PutPayload::from_bytes(bytes);
            self.store.put(&to, payload).await.map_err(told)?;
        } else {
            let mut upload = self.store.put_multipart(&to).await.map_err(told)?;
            let mut sent = 0;
            let done = async {
                while sent < spool.size() {
                    let bytes;
                    (spool, bytes) = part(spool, sent).await?;
                    sent += bytes.len() as u64;
                    upload.put_part(bytes.into()).await.map_err(told)?;
                    crashpoint!("media.after_part");
                }
                upload.complete().await.map_err(told).map(|_| ())
            };
            let done = done.await;
            if done.is_err() {
                // parts that nobody asks for are paid for: this is told by the error itself
                let _ = upload.abort().await;
            }
            done?;
        }
        Ok(())
    }

    /// The size of what is at a place; `None` when nothing is.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn size(&self, place: &str) -> io::Result<Option<u64>> {
        match self.store.head(&Path::from(place)).await {
            Ok(it) => Ok(Some(it.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(told(e)),
        }
    }

    /// What is at a place, from its first byte to its last.
    ///
    /// # Errors
    /// `NotFound` when nothing is there; others when the store can't be read.
    pub async fn read(&self, place: &str) -> io::Result<ByteStream> {
        let got = self.store.get(&Path::from(place)).await.map_err(told)?;
        Ok(match got.payload {
            GetResultPayload::File(file, _) => {
                ReaderStream::with_capacity(tokio::fs::File::from_std(file), READ).boxed()
            }
            GetResultPayload::Stream(stream) => stream.map_err(told).boxed(),
        })
    }

    /// A part of what is at a place, in memory.
    ///
    /// # Errors
    /// `NotFound` when nothing is there; others when it is shorter or can't be read.
    pub async fn part(&self, place: &str, range: Range<u64>) -> io::Result<Bytes> {
        let wanted = range.end.saturating_sub(range.start);
        let got = self.store.get_range(&Path::from(place), range).await;
        let got = got.map_err(told)?;
        if got.len() as u64 != wanted {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(got)
    }

    /// A part of what is at a place, as a stream that ends early where it is shorter.
    ///
    /// # Errors
    /// `NotFound` when nothing is there; others when the store can't be read.
    pub async fn range(&self, place: &str, range: Range<u64>) -> io::Result<ByteStream> {
        let size = range.end.saturating_sub(range.start);
        let options = GetOptions {
            range: Some(range.clone().into()),
            ..GetOptions::default()
        };
        let got = self.store.get_opts(&Path::from(place), options).await;
        Ok(match got.map_err(told)?.payload {
            GetResultPayload::File(mut file, _) => {
                let file = blocking(move || {
                    file.seek(io::SeekFrom::Start(range.start))?;
                    Ok(file)
                });
                let file = tokio::fs::File::from_std(file.await?).take(size);
                ReaderStream::with_capacity(file, READ).boxed()
            }
            GetResultPayload::Stream(stream) => stream.map_err(told).boxed(),
        })
    }

    /// Deletes what is at a place; nothing there is as good.
    ///
    /// # Errors
    /// When the store says no.
    pub(super) async fn delete(&self, place: &str) -> io::Result<()> {
        match self.store.delete(&Path::from(place)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(told(e)),
        }
    }

    /// Every place that has bytes, in no order. What was published before it began is in it.
    pub(super) fn list(&self) -> BoxStream<'static, io::Result<Found>> {
        let found = self.store.list(Some(&Path::from(HOME)));
        let read = |it: object_store::ObjectMeta| {
            let name = it.location.filename().and_then(|it| it.split('.').next());
            let name = name.and_then(|it| format!("media:sha256:{it}").parse().ok());
            Found {
                digest: name.map(|it: crate::reference::Name| it.0),
                place: it.location.to_string(),
                at: it.last_modified,
            }
        };
        found.map_ok(read).map_err(told).boxed()
    }

    /// Removes what writers that are gone left behind, in an object store only what began before `old`;
    /// how many files.
    ///
    /// # Errors
    /// When the folder can't be read, or the store can't be asked.
    pub(super) async fn sweep_unfinished(&self, old: Time) -> io::Result<u64> {
        let folder = self.spool.clone();
        let files = blocking(move || spool::sweep(&folder)).await?;
        Ok(match &self.unfinished {
            Some(it) => files + it.give_up(old).await?,
            None => files,
        })
    }
}

/// A part of what was written, and the spool again.
async fn part(mut spool: Spool, from: u64) -> io::Result<(Spool, Bytes)> {
    blocking(move || {
        let left = spool.size().saturating_sub(from).min(PART as u64);
        let mut bytes = Vec::with_capacity(usize::try_from(left).unwrap_or(PART));
        let file = spool.file();
        file.seek(io::SeekFrom::Start(from))?;
        file.take(left).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((spool, bytes.into()))
    })
    .await
}

/// Work that blocks, off the runtime's threads.
///
/// # Errors
/// Its own.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other)?
}

/// What the store says, as an error of input and output.
fn told(error: Error) -> io::Error {
    match error {
        Error::NotFound { .. } => io::Error::new(io::ErrorKind::NotFound, error),
        Error::Generic { source, .. } => io::Error::other(source),
        _ => io::Error::other(error),
    }
}
