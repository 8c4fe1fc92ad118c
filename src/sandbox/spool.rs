//! Bodies that are too large for memory: they stream into files below the sandbox's folder, hashed on the way.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::body::Body;
use bytes::BytesMut;
use futures_util::StreamExt;
use md5::Md5;
use sha2::{Digest, Sha256};

use super::text::hex;

/// The largest body of one request, in bytes: a single PUT of S3.
const MAX_FILE: u64 = 5 * 1024 * 1024 * 1024;
/// What is gathered before it's written, in bytes.
const BATCH: usize = 1024 * 1024;

/// Where bodies wait until a platform keeps them.
#[derive(Debug)]
pub(super) struct Spool {
    dir: PathBuf,
    /// Parts of uploads that aren't complete, a folder for each upload.
    parts: PathBuf,
}

/// Why a body isn't here.
#[derive(Debug)]
pub(super) enum Unreceived {
    /// Larger than 5 GiB.
    TooLarge,
    /// The file can't be written.
    Failed(io::Error),
}

/// A body in a file; the file goes with it, unless a platform keeps it.
#[derive(Debug)]
pub(super) struct Spooled {
    path: PathBuf,
    pub(super) bytes: u64,
    pub(super) sha256: [u8; 32],
    pub(super) md5: [u8; 16],
    /// The connection died before the end.
    pub(super) cut: bool,
}

impl Spooled {
    /// The SHA-256 in hexadecimal.
    pub(super) fn digest(&self) -> String {
        hex(&self.sha256)
    }

    /// Whether the file begins with these bytes.
    ///
    /// # Errors
    /// When it can't be read.
    pub(super) fn begins(&self, bytes: &[u8]) -> io::Result<bool> {
        let mut head = Vec::new();
        let most = bytes.len() as u64;
        File::open(&self.path)?.take(most).read_to_end(&mut head)?;
        Ok(head == bytes)
    }

    /// Moves the file to where it is kept, by its digest; on disk when this returns.
    ///
    /// # Errors
    /// When it can't be moved.
    pub(super) fn keep(&self, folder: &Path) -> io::Result<()> {
        let to = folder.join(self.digest());
        if !to.try_exists()? {
            std::fs::rename(&self.path, &to)?;
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        // a kept one is gone already; what is left of a crash goes at the next start
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A file that is being written.
struct Writing {
    file: File,
    sha256: Sha256,
    md5: Md5,
    spooled: Spooled,
}

impl Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sha256.update(bytes);
        self.md5.update(bytes);
        self.spooled.bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    fn end(mut self, cut: bool) -> io::Result<Spooled> {
        self.file.sync_all()?;
        self.spooled.sha256 = self.sha256.finalize().into();
        self.spooled.md5 = self.md5.finalize().into();
        self.spooled.cut = cut;
        Ok(self.spooled)
    }
}

impl Spool {
    /// The spool of a directory, emptied of what a crash left.
    ///
    /// # Errors
    /// When it can't be used.
    pub(super) fn open(dir: &Path) -> io::Result<Spool> {
        let parts = dir.join("parts");
        std::fs::create_dir_all(&parts)?;
        let dir = dir.join("spool");
        if dir.try_exists()? {
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir_all(&dir)?;
        Ok(Spool { dir, parts })
    }

    fn begin(&self) -> io::Result<Writing> {
        let path = self
            .dir
            .join(format!("{}.part", uuid::Uuid::new_v4().simple()));
        Ok(Writing {
            file: File::create(&path)?,
            sha256: Sha256::new(),
            md5: Md5::new(),
            spooled: Spooled {
                path,
                bytes: 0,
                sha256: [0; 32],
                md5: [0; 16],
                cut: false,
            },
        })
    }

    /// Takes a body to its end, or to where its connection died.
    ///
    /// # Errors
    /// When it is too large or can't be written.
    pub(super) async fn receive(&self, body: Body) -> Result<Spooled, Unreceived> {
        let mut writing = self.begin().map_err(Unreceived::Failed)?;
        let mut stream = body.into_data_stream();
        let mut batch = BytesMut::with_capacity(BATCH);
        let mut cut = false;
        loop {
            let more = stream.next().await;
            let ended = !matches!(more, Some(Ok(_)));
            match more {
                Some(Ok(bytes)) => batch.extend_from_slice(&bytes),
                Some(Err(error)) => {
                    tracing::debug!(%error, "a request body was cut");
                    cut = true;
                }
                None => {}
            }
            if batch.len() >= BATCH || (ended && !batch.is_empty()) {
                let bytes = batch.split().freeze();
                let written = tokio::task::spawn_blocking(move || {
                    writing.write(&bytes)?;
                    Ok::<_, io::Error>(writing)
                });
                writing = flat(written.await).map_err(Unreceived::Failed)?;
                if writing.spooled.bytes > MAX_FILE {
                    return Err(Unreceived::TooLarge);
                }
            }
            if ended {
                let ended = tokio::task::spawn_blocking(move || writing.end(cut));
                return flat(ended.await).map_err(Unreceived::Failed);
            }
        }
    }

    /// Keeps a part of an upload by its digest, on disk when this returns.
    ///
    /// # Errors
    /// When it can't be moved.
    pub(super) async fn keep_part(&self, file: Arc<Spooled>, upload: &str) -> io::Result<()> {
        let folder = self.parts.join(upload);
        let kept = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&folder)?;
            file.keep(&folder)
        });
        flat(kept.await)
    }

    /// Where a part is kept.
    pub(super) fn part(&self, upload: &str, digest: &str) -> PathBuf {
        self.parts.join(upload).join(digest)
    }

    /// Drops the parts of an upload that is over.
    pub(super) async fn drop_parts(&self, upload: &str) {
        let gone = tokio::fs::remove_dir_all(self.parts.join(upload)).await;
        if let Err(error) = gone
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, upload, "parts of an upload could not be removed");
        }
    }

    /// Drops the parts of all uploads.
    pub(super) fn forget_parts(&self) {
        let gone = std::fs::remove_dir_all(&self.parts);
        if let Err(error) = gone.and_then(|()| std::fs::create_dir_all(&self.parts)) {
            tracing::warn!(%error, "parts of uploads could not be removed");
        }
    }

    /// Joins files to one.
    ///
    /// # Errors
    /// When one can't be read, or the whole can't be written.
    pub(super) async fn joined(&self, parts: Vec<PathBuf>) -> io::Result<Spooled> {
        let mut writing = self.begin()?;
        let joined = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; BATCH];
            for part in parts {
                let mut file = File::open(part)?;
                loop {
                    match file.read(&mut buffer)? {
                        0 => break,
                        read => writing.write(&buffer[..read])?,
                    }
                }
            }
            writing.end(false)
        });
        flat(joined.await)
    }
}

fn flat<T>(joined: Result<io::Result<T>, tokio::task::JoinError>) -> io::Result<T> {
    joined.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_hashed_kept_and_joined() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = Spool::open(dir.path()).expect("opens");
        let words = vec![b'a'; BATCH + 7];
        let first = spool
            .receive(Body::from(words.clone()))
            .await
            .expect("written");
        assert_eq!((first.bytes, first.cut), (words.len() as u64, false));
        assert_eq!(first.sha256, super::super::text::sha256(&words));
        first.keep(dir.path()).expect("kept");
        let kept = dir.path().join(first.digest());
        drop(first);
        let whole = spool
            .joined(vec![kept.clone(), kept])
            .await
            .expect("joined");
        assert_eq!(whole.bytes, 2 * words.len() as u64);
        let waiting = || {
            std::fs::read_dir(dir.path().join("spool"))
                .expect("there")
                .count()
        };
        assert_eq!(waiting(), 1);
        drop(whole);
        assert_eq!(waiting(), 0, "what nobody keeps goes");
    }

    #[tokio::test]
    async fn a_body_that_is_cut_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = Spool::open(dir.path()).expect("opens");
        let pieces = [Ok("some"), Err(io::Error::other("gone"))];
        let body = Body::from_stream(futures_util::stream::iter(pieces));
        let cut = spool.receive(body).await.expect("written");
        assert_eq!((cut.bytes, cut.cut), (4, true));
    }
}
