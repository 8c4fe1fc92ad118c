//! Files that are still being written: hashed on the fly, locked while their writer lives, and gone
//! with it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::json::Digest;

/// A file that is being written. It is removed when dropped, unless it was published. All of this
/// blocks.
pub struct Spool {
    file: File,
    path: PathBuf,
    hasher: Sha256,
    size: u64,
    published: bool,
}

impl Spool {
    /// A new, empty file in `folder`, which is made where it isn't there.
    ///
    /// # Errors
    /// When it can't be made or locked.
    pub fn new(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        loop {
            let path = folder.join(Uuid::new_v4().simple().to_string());
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            file.lock()?;
            // a sweep may have found it between the two, taken it for abandoned and removed it
            let here = file.metadata()?.ino();
            if std::fs::metadata(&path).is_ok_and(|it| it.ino() == here) {
                return Ok(Self {
                    file,
                    path,
                    hasher: Sha256::new(),
                    size: 0,
                    published: false,
                });
            }
        }
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// The digest of all bytes so far.
    pub fn digest(&self) -> Digest {
        Digest(self.hasher.clone().finalize().into())
    }

    /// How many bytes there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file, to read from it.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        let name = self.path.file_name().and_then(|it| it.to_str());
        name.expect("its name is made of digits")
    }

    /// Makes what was written safe from a crash of the machine.
    ///
    /// # Errors
    /// When the disk says no.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// It was moved to its place, and stays.
    pub fn published(mut self) {
        self.published = true;
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if !self.published {
            // what is left behind, a sweep finds unlocked
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes what writers that are gone left behind in `folder`; how many files. A file whose writer
/// lives is locked.
///
/// # Errors
/// When the folder can't be read; one that isn't there is empty.
pub fn sweep(folder: &Path) -> io::Result<u64> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut gone = 0;
    for entry in entries {
        let path = entry?.path();
        match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            file => {
                let file = file?;
                match file.try_lock() {
                    Ok(()) => std::fs::remove_file(&path)?,
                    Err(TryLockError::WouldBlock) => continue,
                    Err(TryLockError::Error(e)) => return Err(e),
                }
            }
        }
        gone += 1;
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_takes_only_what_nobody_writes() {
        let folder = tempfile::tempdir().unwrap();
        let mut alive = Spool::new(folder.path()).unwrap();
        alive.append(b"ab").unwrap();
        std::fs::write(folder.path().join("abandoned"), b"x").unwrap();
        assert_eq!(sweep(folder.path()).unwrap(), 1);
        assert_eq!(std::fs::read(&alive.path).unwrap(), b"ab");
        assert_eq!(alive.digest(), Digest::of_bytes(b"ab"));
        drop(alive);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(sweep(&folder.path().join("none")).unwrap(), 0);
    }
}
