//! The few calls that the journal makes to its disk, so that a test can make each of them fail.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Where files are made and removed.
pub trait Disk: Send {
    /// A new, empty file; whatever had its name is gone. It is durable that the file is there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sheet>>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// A file that is only appended to.
pub trait Sheet: Send {
    /// Appends all of `bytes`: the kernel has them when it returns. After an error any part of
    /// them may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes durable what was appended. After an error nothing is known of what was appended since
    /// the last sync, and asking again would say that all is well.
    fn sync(&mut self) -> io::Result<()>;
}

/// The host's own disk.
pub struct Host;

impl Disk for Host {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sheet>> {
        if let Err(e) = std::fs::remove_file(path)
            && e.kind() != io::ErrorKind::NotFound
        {
            return Err(e);
        }
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        sync_folder(path)?;
        Ok(Box::new(file))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
}

impl Sheet for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Makes durable which files are in the folder of `path`.
///
/// # Errors
/// When it can't be opened or synced.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Makes the folder, for its owner alone.
///
/// # Errors
/// When it can't be made, or isn't ours.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    std::fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    sync_folder(folder)
}
