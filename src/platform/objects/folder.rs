//! A folder of this host as a place for objects: a file appears whole and durable under its key, or not
//! at all, and replaces nothing unless it may.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use futures_util::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use crate::clock::Time;
use crate::config::Account;
use crate::effect::Receipt;
use crate::media::blobs::{ByteStream, blocking};
use crate::outcome::{Class, Failure, Scope};
use crate::platform::verdict::CallError;

use super::bucket::exists;
use super::object::Object;

/// What names of files that aren't whole yet begin with.
const UNFINISHED: &str = ".presswork-";

/// A folder, as an account.
#[derive(Clone, Copy)]
pub struct Folder<'a> {
    /// The account.
    pub account: &'a Account,
}

/// A whole file that has not its name yet. Dropped, it is removed.
pub struct Staged {
    unfinished: PathBuf,
    to: PathBuf,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // it is gone where it was published; else a later attempt removes it
        let _ = fs::remove_file(&self.unfinished);
    }
}

impl Folder<'_> {
    fn root(&self) -> PathBuf {
        let path = self.account.base_url.to_file_path();
        path.unwrap_or_else(|()| PathBuf::from("/"))
    }

    /// The folder's path.
    pub fn name(&self) -> String {
        self.root().display().to_string()
    }

    /// Whether an object is under its key already, byte for byte.
    ///
    /// # Errors
    /// Permanent, as `exists`, when something else is there that must not be replaced; others when the
    /// folder can't be read.
    pub async fn look(&self, object: &Object) -> Result<bool, Failure> {
        let root = self.root();
        let to = root.join(&object.key);
        let (bytes, digest) = (object.source.bytes, object.source.media.0);
        let same = blocking(move || {
            // what lies elsewhere is nobody's to be told of
            let real = root.canonicalize()?;
            match to.parent().unwrap_or(&root).canonicalize() {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
                home => within(&real, &home?)?,
            }
            let about = match fs::symlink_metadata(&to) {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
                it => it?,
            };
            let same = about.is_file() && about.len() == bytes && hash(&to)? == digest.0;
            Ok(Some(same))
        });
        match same.await.map_err(|e| failure(&e, object))? {
            Some(false) if !object.overwrite => Err(exists(object)),
            same => Ok(same == Some(true)),
        }
    }

    /// Writes an object's bytes beside its place and brings them to the disk; `told` hears how many
    /// have been written.
    ///
    /// # Errors
    /// When the folder can't be written, or the bytes can't be read.
    pub async fn stage(
        &self,
        object: &Object,
        mut bytes: ByteStream,
        told: impl Fn(u64),
    ) -> Result<Staged, Failure> {
        let (root, key) = (self.root(), object.key.clone());
        let mark = format!("{UNFINISHED}{}-", object.effect);
        let name = format!("{mark}{:08x}", rand::random::<u32>());
        let staged = blocking(move || {
            let to = root.join(key);
            let home = home(&root, &to)?;
            remove_older(&home, &mark)?;
            let unfinished = home.join(name);
            let file = File::create_new(&unfinished)?;
            Ok((file, Staged { unfinished, to }))
        });
        let (file, staged) = staged.await.map_err(|e| failure(&e, object))?;
        let mut file = tokio::fs::File::from_std(file);
        let mut written = 0;
        loop {
            let next = bytes.try_next().await;
            let next = next.map_err(|e| Failure::transient("media_store", e.to_string()))?;
            let Some(chunk) = next else { break };
            let done = file.write_all(&chunk).await;
            done.map_err(|e| failure(&e, object))?;
            written += chunk.len() as u64;
            told(written);
        }
        let done = async {
            file.flush().await?;
            file.sync_all().await
        };
        done.await.map_err(|e| failure(&e, object))?;
        Ok(staged)
    }

    /// Gives a staged file its name.
    ///
    /// # Errors
    /// Refused, as `exists`, when something else has it by now; unknown when the disk fails after that.
    pub async fn publish(
        &self,
        object: &Object,
        staged: Staged,
        at: Time,
    ) -> Result<Receipt, CallError> {
        let overwrite = object.overwrite;
        let named = blocking(move || {
            match overwrite {
                true => fs::rename(&staged.unfinished, &staged.to)?,
                false => fs::hard_link(&staged.unfinished, &staged.to)?,
            }
            Ok(staged.to.clone())
        });
        let to = match named.await {
            Ok(it) => it,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                let same = self.look(object).await.map_err(CallError::Refused)?;
                return match same {
                    true => Ok(self.receipt(object, at)),
                    false => Err(CallError::Refused(exists(object))),
                };
            }
            // files can be made there, as one just was: it is the link that can't
            Err(e) if !overwrite && e.kind() == ErrorKind::PermissionDenied => {
                let none = io::Error::new(ErrorKind::Unsupported, e);
                return Err(CallError::Refused(failure(&none, object)));
            }
            Err(e) => return Err(CallError::Refused(failure(&e, object))),
        };
        let home = to.parent().map_or_else(|| self.root(), Path::to_owned);
        let durable = blocking(move || File::open(home)?.sync_all()).await;
        durable.map_err(|e| CallError::Unknown(failure(&e, object)))?;
        Ok(self.receipt(object, at))
    }

    /// The proof that an object is there.
    pub fn receipt(&self, object: &Object, at: Time) -> Receipt {
        Receipt {
            remote_id: Some(object.key.clone()),
            url: Some(object.url(self.account).into()),
            at,
            detail: serde_json::json!({"etag": object.source.media.0.hex()}),
        }
    }

    /// Whether files can be made there.
    ///
    /// # Errors
    /// What keeps them from being made.
    pub async fn who(&self) -> Result<String, CallError> {
        let root = self.root();
        let file = root.join(format!("{UNFINISHED}check-{:08x}", rand::random::<u32>()));
        let tried = blocking(move || {
            File::create_new(&file)?;
            fs::remove_file(&file)
        });
        match tried.await {
            Ok(()) => Ok(format!("{} can be written", root.display())),
            Err(e) => {
                let message = format!("{} can't be written: {e}", root.display());
                let failure = Failure::new(Class::Unauthorised, Scope::Account, "folder", message);
                Err(CallError::Refused(failure))
            }
        }
    }
}

/// The folder that a key's file belongs into, made where it isn't there. It never lies outside of
/// `root`, which is not made: a disk that isn't mounted must not be filled in its stead.
fn home(root: &Path, to: &Path) -> io::Result<PathBuf> {
    let real = root.canonicalize()?;
    let home = to.parent().unwrap_or(root);
    let inside = home.strip_prefix(root).unwrap_or(Path::new(""));
    let mut path = real.clone();
    for part in inside.components() {
        path.push(part);
        match fs::create_dir(&path) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        within(&real, &path.canonicalize()?)?;
    }
    Ok(home.to_owned())
}

/// That a folder lies in another one; both without links.
fn within(root: &Path, folder: &Path) -> io::Result<()> {
    match folder.starts_with(root) {
        true => Ok(()),
        false => Err(io::Error::new(
            ErrorKind::InvalidInput,
            format!("{} leads out of the folder", folder.display()),
        )),
    }
}

/// What earlier attempts of the same effect left when they were killed.
fn remove_older(home: &Path, mark: &str) -> io::Result<()> {
    for entry in fs::read_dir(home)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(mark) {
            // another attempt may be at it, too
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

fn hash(path: &Path) -> io::Result<[u8; 32]> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// What keeps a file from its place. What a person has to mend holds the account's jobs.
fn failure(error: &io::Error, object: &Object) -> Failure {
    let key = &object.key;
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::NotFound | ErrorKind::ReadOnlyFilesystem => {
            let message = format!(
                "`{key}` can't be written: {error}; make the account's `folder`, let the daemon's user write there (under systemd ReadWritePaths= too), then `presswork jobs release`"
            );
            Failure::new(Class::Unauthorised, Scope::Account, "folder", message)
        }
        ErrorKind::InvalidInput
        | ErrorKind::InvalidFilename
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory => {
            let message = format!("`{key}` is no key for this folder: {error}");
            Failure::permanent("key", message)
        }
        ErrorKind::Unsupported => {
            let message = format!(
                "`{key}`: this file system has no hard links, without which a file can't be kept from being replaced ({error}); say \"overwrite\": true, or choose another folder"
            );
            Failure::permanent("no_links", message)
        }
        _ => Failure::transient("folder", format!("`{key}` can't be written: {error}")),
    }
}
