//! The file of a backup: a tar archive (POSIX ustar) that is whole or isn't there, and that is checked
//! whole before anything is taken from it. All of it blocks.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::manifest::{FORMAT, Manifest, Member};

/// Tar's unit.
const BLOCK: usize = 512;
/// What is copied at once.
const CHUNK: usize = 256 << 10;
/// The last member.
const MANIFEST: &str = "manifest.json";
/// A manifest is longer only with more media than anybody has.
const MANIFEST_MAX: u64 = 1 << 30;
/// The largest size in eleven octal digits; larger ones are spelt in base 256, as GNU tar does.
const OCTAL_MAX: u64 = 0o77_777_777_777;
/// A name, and the folder before it, are at most so long.
const NAME_MAX: usize = 100;
const FOLDER_MAX: usize = 155;

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It can't be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no backup, or not all of it, or not as it was written.
    #[error("{0}")]
    Damaged(String),
}

fn damaged<T>(what: impl Into<String>) -> Result<T, Unusable> {
    Err(Unusable::Damaged(what.into()))
}

/// A backup that is being written, beside the place that it is for. Dropped, it is gone.
#[derive(Debug)]
pub struct Writer {
    file: File,
    temp: PathBuf,
    to: PathBuf,
    members: Vec<Member>,
    done: bool,
}

impl Writer {
    /// Begins a backup that will be at `to`, for its owner only.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub fn create(to: &Path) -> io::Result<Self> {
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.partial", uuid::Uuid::new_v4().simple()));
        let temp = to.with_file_name(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temp)?;
        Ok(Self {
            file,
            temp,
            to: to.to_owned(),
            members: Vec::new(),
            done: false,
        })
    }

    /// Adds a member from a stream whose length needn't be known; tells how many bytes each step took.
    ///
    /// # Errors
    /// When `from` can't be read, or the file can't be written (a full disk).
    pub fn add(
        &mut self,
        name: &str,
        from: &mut dyn Read,
        tell: &mut dyn FnMut(u64),
    ) -> io::Result<()> {
        let head = self.file.stream_position()?;
        self.file.write_all(&header(name, 0)?)?;
        let (mut hash, mut size) = (Sha256::new(), 0u64);
        let mut chunk = vec![0; CHUNK];
        loop {
            let n = match from.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            hash.update(&chunk[..n]);
            self.file.write_all(&chunk[..n])?;
            size += n as u64;
            tell(n as u64);
        }
        self.file.write_all(&[0; BLOCK][..padding(size)])?;
        self.file.seek(SeekFrom::Start(head))?;
        self.file.write_all(&header(name, size)?)?;
        self.file.seek(SeekFrom::End(0))?;
        self.members.push(Member {
            name: name.to_owned(),
            bytes: size,
            sha256: hex(hash),
        });
        Ok(())
    }

    /// Ends it with its manifest, which gets the list of members, and puts it in its place; it is
    /// durable there when this returns. Its size in bytes.
    ///
    /// # Errors
    /// When it can't be written, or something is there by now and may not be replaced.
    pub fn finish(mut self, mut manifest: Manifest, replace: bool) -> io::Result<u64> {
        manifest.members = std::mem::take(&mut self.members);
        let text = serde_json::to_vec_pretty(&manifest)?;
        self.add(MANIFEST, &mut &text[..], &mut |_| {})?;
        self.file.write_all(&[0; 2 * BLOCK])?;
        self.file.sync_all()?;
        let size = self.file.metadata()?.len();
        if !replace && self.to.exists() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        std::fs::rename(&self.temp, &self.to)?;
        self.done = true;
        sync_folder(&self.to)?;
        Ok(size)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.done {
            // nothing more can be done about it, and its name says what it is
            let _ = std::fs::remove_file(&self.temp);
        }
    }
}

/// Makes what was renamed to a path durable.
///
/// # Errors
/// When its folder can't be written.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// A backup that was found whole.
#[derive(Debug)]
pub struct Archive {
    file: File,
    /// What it says of itself.
    pub manifest: Manifest,
    /// Where each member begins, in the manifest's order.
    starts: Vec<u64>,
}

impl Archive {
    /// Opens a backup and reads all of it once: each byte is as it was written.
    ///
    /// # Errors
    /// [`Unusable::Damaged`] when it isn't.
    pub fn open(path: &Path, tell: &mut dyn FnMut(u64)) -> Result<Self, Unusable> {
        let mut file = File::open(path)?;
        let (mut starts, mut found) = (Vec::new(), Vec::new());
        let manifest: Manifest = loop {
            let Some((name, size)) = next(&mut file)? else {
                return damaged("it ends before its manifest: it was cut off, or is no backup");
            };
            let start = file.stream_position()?;
            let mut member = (&file).take(size);
            if name == MANIFEST {
                let mut text = Vec::new();
                member.take(MANIFEST_MAX).read_to_end(&mut text)?;
                break read_manifest(&text)?;
            }
            let sha256 = hashed(&mut member, tell)?;
            found.push(Member {
                name,
                bytes: size,
                sha256,
            });
            starts.push(start);
            file.seek(SeekFrom::Start(start + size + padding(size) as u64))?;
        };
        if let Some((is, was)) = found
            .iter()
            .zip(&manifest.members)
            .find(|(is, was)| is != was)
        {
            let (name, was) = (&is.name, &was.name);
            return damaged(format!(
                "its part `{name}` isn't what was written as `{was}`"
            ));
        }
        if found.len() != manifest.members.len() {
            return damaged("parts of it are missing");
        }
        Ok(Self {
            file,
            manifest,
            starts,
        })
    }

    /// The names of its members.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.manifest.members.iter().map(|it| it.name.as_str())
    }

    /// The bytes of a member.
    ///
    /// # Errors
    /// [`Unusable::Damaged`] when there is none by that name.
    pub fn read(&mut self, name: &str) -> Result<impl Read + use<'_>, Unusable> {
        let members = self.manifest.members.iter();
        let Some((at, member)) = members.enumerate().find(|(_, it)| it.name == name) else {
            return damaged(format!("it has no part `{name}`"));
        };
        self.file.seek(SeekFrom::Start(self.starts[at]))?;
        Ok(BufReader::with_capacity(CHUNK, &mut self.file).take(member.bytes))
    }
}

fn read_manifest(text: &[u8]) -> Result<Manifest, Unusable> {
    // the format first: a newer one may look otherwise
    let said: serde_json::Value = serde_json::from_slice(text)
        .map_err(|e| Unusable::Damaged(format!("its manifest can't be read: {e}")))?;
    match said["format"].as_u64() {
        Some(it) if u64::from(FORMAT) < it => damaged(format!(
            "it has format {it}, and this program reads up to {FORMAT}: use the presswork that made it ({})",
            said["presswork"]
        )),
        _ => serde_json::from_value(said)
            .map_err(|e| Unusable::Damaged(format!("its manifest can't be read: {e}"))),
    }
}

fn hashed(from: &mut impl Read, tell: &mut dyn FnMut(u64)) -> io::Result<String> {
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
    loop {
        match from.read(&mut chunk)? {
            0 => return Ok(hex(hash)),
            n => {
                hash.update(&chunk[..n]);
                tell(n as u64);
            }
        }
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize()
        .iter()
        .map(|it| format!("{it:02x}"))
        .collect()
}

fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).expect("less than a block");
    (BLOCK - over) % BLOCK
}

/// The head of a member: a file for its owner only.
fn header(name: &str, size: u64) -> io::Result<[u8; BLOCK]> {
    let mut head = [0; BLOCK];
    let cut = match name.len() {
        ..=NAME_MAX => Some(("", name)),
        _ => name.rsplit_once('/'),
    };
    let fits = |it: &(&str, &str)| it.0.len() <= FOLDER_MAX && it.1.len() <= NAME_MAX;
    let Some((folder, name)) = cut.filter(fits) else {
        return Err(io::Error::other(format!("too long for a backup: {name}")));
    };
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size <= OCTAL_MAX {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    put(345, folder.as_bytes());
    let sum: u32 = head.iter().map(|it| u32::from(*it)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(head)
}

/// The name and size of the next member; `None` at the archive's end.
fn next(file: &mut File) -> Result<Option<(String, u64)>, Unusable> {
    let mut head = [0; BLOCK];
    match file.read_exact(&mut head) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e.into()),
    }
    if head == [0; BLOCK] {
        return Ok(None);
    }
    let said = octal(&head[148..156]);
    let sum: u64 = head.iter().map(|it| u64::from(*it)).sum();
    let blanks = head[148..156].iter().map(|it| u64::from(*it)).sum::<u64>();
    if said != Some(sum - blanks + 8 * u64::from(b' ')) {
        return damaged("it is no backup of Presswork, or is damaged");
    }
    let size = match head[124] {
        0x80 => head[128..136].try_into().ok().map(u64::from_be_bytes),
        _ => octal(&head[124..136]),
    };
    let folder = text(&head[345..345 + FOLDER_MAX]);
    match (size, folder, text(&head[..NAME_MAX])) {
        (Some(size), Some(""), Some(name)) => Ok(Some((name.to_owned(), size))),
        (Some(size), Some(folder), Some(name)) => Ok(Some((format!("{folder}/{name}"), size))),
        _ => damaged("the head of one of its parts can't be read"),
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|it| *it == 0);
    std::str::from_utf8(&bytes[..end.unwrap_or(bytes.len())]).ok()
}

fn octal(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    u64::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format: FORMAT,
            presswork: "0".to_owned(),
            ledger: "sqlite".to_owned(),
            schema: 1,
            at: crate::clock::Time::UNIX_EPOCH,
            pg_dump: None,
            unfinished: 0,
            media: None,
            members: vec![],
        }
    }

    fn write(to: &Path) {
        let mut writer = Writer::create(to).unwrap();
        let long = vec![7; 3 * CHUNK + 1];
        writer.add("long", &mut &long[..], &mut |_| {}).unwrap();
        writer.add("empty", &mut &b""[..], &mut |_| {}).unwrap();
        writer.finish(manifest(), false).unwrap();
    }

    #[test]
    fn what_was_written_comes_back_and_a_changed_byte_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backup");
        write(&path);
        let mut archive = Archive::open(&path, &mut |_| {}).unwrap();
        assert_eq!(archive.names().collect::<Vec<_>>(), ["long", "empty"]);
        let mut text = Vec::new();
        archive
            .read("long")
            .unwrap()
            .read_to_end(&mut text)
            .unwrap();
        assert_eq!(text, vec![7; 3 * CHUNK + 1]);
        assert!(archive.read("other").is_err());
        let whole = std::fs::read(&path).unwrap();
        for at in [3, 700, CHUNK, whole.len() - 1_600] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let seen = Archive::open(&path, &mut |_| {});
            assert!(matches!(seen, Err(Unusable::Damaged(_))), "byte {at}");
        }
        for cut in [0, 100, 5_000, whole.len() - 2_000] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(Archive::open(&path, &mut |_| {}).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn nothing_is_left_of_one_that_was_given_up_and_nothing_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backup");
        drop(Writer::create(&path).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        std::fs::write(&path, "mine").unwrap();
        let writer = Writer::create(&path).unwrap();
        assert!(writer.finish(manifest(), false).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn sizes_beyond_eight_gibibytes_are_told() {
        for size in [0, OCTAL_MAX, OCTAL_MAX + 1, 1 << 50] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("head");
            let name = format!("media/{}/{}", "a".repeat(100), "b".repeat(100));
            std::fs::write(&path, header(&name, size).unwrap()).unwrap();
            let read = next(&mut File::open(&path).unwrap()).unwrap();
            assert_eq!(read, Some((name, size)));
        }
        assert!(header(&"a".repeat(101), 0).is_err());
    }
}
