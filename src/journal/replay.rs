//! Reads the journals of earlier runs. Nothing in them is guessed: what is cut short at the very end
//! was told to nobody, and anything else that isn't as it was written is reported as [`Damage`], after
//! which absence proves nothing any more.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::past::{Damage, Past};
use super::record::{Dropped, Found, Header, MAGIC, Record, Salt};

/// A larger file isn't ours: it is not read.
const FILE_MAX: u64 = 256 << 20;
/// Reads the journals in `folder`, before this run begins its own there. The caller holds the lock
/// of the state folder: whoever wrote them is dead. In order of the runs' ids.
///
/// # Errors
/// When the folder can't be read. A file that can't be read is damage of its run.
pub fn replay(folder: &Path) -> io::Result<Vec<Past>> {
    let runs = files(folder)?;
    Ok(runs.into_iter().map(read_files).collect())
}

/// Reads the journal of one run in `folder`; nothing where it has no file there.
///
/// # Errors
/// As [`replay`].
pub fn replay_run(folder: &Path, run: Uuid) -> io::Result<Option<Past>> {
    let mut runs = files(folder)?;
    Ok(runs.remove(&run).map(|files| read_files((run, files))))
}

/// The files of each run, by their numbers.
fn files(folder: &Path) -> io::Result<BTreeMap<Uuid, BTreeMap<u32, PathBuf>>> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        it => it?,
    };
    let mut runs: BTreeMap<Uuid, BTreeMap<u32, PathBuf>> = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        if let Some((run, number)) = parse_name(&path) {
            runs.entry(run).or_default().insert(number, path);
        }
    }
    Ok(runs)
}

fn read_files((run, files): (Uuid, BTreeMap<u32, PathBuf>)) -> Past {
    let read = |(number, path): (u32, PathBuf)| Page {
        number,
        bytes: load(&path),
        path,
    };
    read_run(run, files.into_iter().map(read).collect())
}

fn load(path: &Path) -> io::Result<Vec<u8>> {
    let len = std::fs::metadata(path)?.len();
    if FILE_MAX < len {
        return Err(io::Error::other(format!(
            "{len} bytes are no journal of ours"
        )));
    }
    std::fs::read(path)
}

/// `<run>.<number>.log`
fn parse_name(path: &Path) -> Option<(Uuid, u32)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".log")?;
    let (run, number) = name.split_once('.')?;
    Some((Uuid::parse_str(run).ok()?, number.parse().ok()?))
}

/// A file, as it was read.
pub(super) struct Page {
    pub number: u32,
    pub path: PathBuf,
    pub bytes: io::Result<Vec<u8>>,
}

impl Page {
    fn all(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }

    fn salt(&self, run: Uuid) -> Salt {
        Salt::new(run, self.number)
    }

    /// The number of its first record, as far as that can be read.
    fn first_seq(&self, run: Uuid) -> u64 {
        match self.first(run) {
            Found::Whole { seq, .. } if 0 < self.number => seq,
            _ => 0,
        }
    }

    /// What its first record is.
    fn first(&self, run: Uuid) -> Found {
        match self.all().get(MAGIC.len()..) {
            Some(rest) if !rest.is_empty() => Found::at(rest, self.salt(run)),
            _ => Found::Short,
        }
    }

    fn header(&self, run: Uuid) -> Option<Header> {
        match self.first(run) {
            Found::Whole {
                record: Record::Header(it),
                ..
            } => Some(it),
            _ => None,
        }
    }
}

/// Reads a run's files, in the order of their numbers.
pub(super) fn read_run(run: Uuid, mut pages: Vec<Page>) -> Past {
    let files = pages.iter().map(|it| it.path.clone()).collect();
    // it was being begun when the run died: nothing in it was told to anybody
    if let Some(last) = pages.last()
        && last.bytes.is_ok()
        && last.first(run) == Found::Short
    {
        pages.pop();
    }
    let headers: Vec<Option<Header>> = pages.iter().map(|it| it.header(run)).collect();
    let dropped = headers.iter().flatten().rev().find_map(|it| it.dropped);
    let mut reader = Reader::new(run, headers.iter().flatten().next(), dropped, files);
    let mut expected = dropped.map_or(0, |it| it.through + 1);
    for (i, page) in pages.iter().enumerate() {
        if i == 0 && page.number <= expected {
            // a file that should have been dropped may still be there
            expected = page.number;
            reader.seq = page.first_seq(run);
        }
        if page.number != expected {
            reader.damaged(page, 0, format!("file {expected} before it is missing"));
        }
        expected = page.number + 1;
        let rest = &headers[i + 1..];
        reader.page(page, rest.first().map(Option::as_ref));
    }
    reader.past.complete = reader.past.damage.is_empty() && !pages.is_empty();
    reader.past
}

struct Reader {
    past: Past,
    /// The number of the next record.
    seq: u64,
}

impl Reader {
    fn new(
        run: Uuid,
        header: Option<&Header>,
        dropped: Option<Dropped>,
        files: Vec<PathBuf>,
    ) -> Self {
        let past = Past {
            run,
            host: header.map(|it| it.host.clone()),
            boot: header.and_then(|it| it.boot.clone()),
            fsync: header.is_some_and(|it| it.fsync),
            complete: false,
            ended: false,
            dropped_until: dropped.and_then(|it| it.until),
            sends: BTreeMap::new(),
            damage: vec![],
            files,
        };
        Self { past, seq: 0 }
    }

    fn damaged(&mut self, page: &Page, offset: usize, what: String) {
        self.past.damage.push(Damage {
            file: page.path.clone(),
            offset: offset as u64,
            what,
        });
    }

    /// Reads a file. `next` is the header of the one after it, where there is one (and where that
    /// one can be read).
    fn page(&mut self, page: &Page, next: Option<Option<&Header>>) {
        if let Err(e) = &page.bytes {
            return self.damaged(page, 0, format!("can't be read: {e}"));
        }
        if !page.all().starts_with(MAGIC) {
            let what = "doesn't begin as a journal of this version does".to_owned();
            self.damaged(page, 0, what);
        }
        let bytes = self.counted(page, next.flatten());
        let salt = page.salt(self.past.run);
        let mut at = MAGIC.len();
        while let Some(rest) = bytes.get(at..).filter(|it| !it.is_empty()) {
            match Found::at(rest, salt) {
                Found::Whole { record, seq, size } => {
                    self.whole(page, at, record, seq);
                    at += size;
                }
                // a record that was being written when the run died: nobody was told
                Found::Short if next.is_none() => return,
                Found::Short => {
                    return self.damaged(page, at, "a record is cut short".to_owned());
                }
                Found::Spoilt { seq, size } => {
                    self.damaged(page, at, format!("record {seq} doesn't match its checksum"));
                    self.seq = seq + 1;
                    at += size;
                }
                Found::Unreadable => {
                    let found = Found::next(bytes, at + 1, salt);
                    let end = found.unwrap_or(bytes.len());
                    let what = format!("{} bytes are no records", end - at);
                    self.damaged(page, at, what);
                    at = end;
                }
            }
        }
    }

    /// As much of a file as its writer counted.
    fn counted<'a>(&mut self, page: &'a Page, next: Option<&Header>) -> &'a [u8] {
        let bytes = page.all();
        let Some(next) = next else { return bytes };
        let len = usize::try_from(next.previous_len).unwrap_or(usize::MAX);
        if bytes.len() < len {
            let what = format!("it had {len} bytes and ends here");
            self.damaged(page, bytes.len(), what);
        } else if len < bytes.len() && !next.after_failure {
            let what = format!("{} bytes more than were written", bytes.len() - len);
            self.damaged(page, len, what);
        }
        &bytes[..len.min(bytes.len())]
    }

    fn whole(&mut self, page: &Page, at: usize, record: Record, seq: u64) {
        if seq != self.seq {
            let what = format!("record {seq} stands where {} should", self.seq);
            self.damaged(page, at, what);
        }
        self.seq = seq + 1;
        let is_first = at == MAGIC.len();
        let fits = match &record {
            Record::Header(it) => is_first && it.run == self.past.run && it.number == page.number,
            _ => !is_first && !self.past.ended,
        };
        if !fits {
            self.damaged(page, at, format!("record {seq} doesn't belong here"));
        }
        self.past.ended = record == Record::End;
        if let Err(e) = self.take(record) {
            self.damaged(page, at, format!("record {seq} isn't understood: {e}"));
        }
    }

    fn take(&mut self, record: Record) -> serde_json::Result<()> {
        match record {
            Record::Header(_) | Record::End => {}
            Record::Send { id, at } => self.past.sends.entry(id).or_default().sent_at = Some(at),
            Record::Answer { id, conclusion, .. } => {
                // it was sent, even if what was heard isn't understood
                let seen = self.past.sends.entry(id).or_default();
                seen.answer = Some(serde_json::from_slice(&conclusion)?);
            }
            Record::Concluded { id } => self.past.sends.entry(id).or_default().concluded = true,
        }
        Ok(())
    }
}
