//! Writes a run's files: what is written, when the next one is begun, how long each is kept.
//!
//! A record counts once its write (with `fsync`, its sync, too) returned, and only then is it told.
//! A failed one is told as an error, the file is left as it is and never written or synced again (a
//! second sync would say that all is well): the next write begins a new file, whose header says how
//! much of the old one counts. Nothing was sent of what failed, so the sequence has no gap there.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::disk::{Disk, Sheet};
use super::past::Past;
use super::record::{Dropped, Header, MAGIC, PAYLOAD_MAX, Record, Salt, SendId};
use super::replay::replay_run;
use crate::clock::Time;
use crate::effect::EffectId;

/// What is carried over into a new file, bytes, one record aside.
const CARRY_MAX: usize = PAYLOAD_MAX;

/// How a journal is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// A send waits for its sync to the disk, too: what is absent proves something even after the
    /// host lost its power, not only after the process was killed.
    pub fsync: bool,
    /// A file of this length, bytes, is followed by another.
    pub file_max: u64,
    /// All files together, bytes, one of them aside: the oldest are dropped first, and what is open
    /// in them is carried over.
    pub disk_max: u64,
    /// A file is kept so long after its youngest send: a ledger that loses its newest rows (a
    /// standby was promoted) may ask for what it once knew.
    pub keep: chrono::Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            fsync: false,
            file_max: 4 << 20,
            disk_max: 64 << 20,
            keep: chrono::Duration::hours(1),
        }
    }
}

/// Who writes.
#[derive(Clone, Debug)]
pub struct Author {
    /// The run.
    pub run: Uuid,
    /// Its host.
    pub host: String,
    /// The kernel's boot id, where there is one.
    pub boot: Option<String>,
}

/// A send that the ledger has no conclusion of.
struct Open {
    send: u32,
    at: Time,
    answer: Option<(Time, Arc<[u8]>)>,
    /// The number of the file that holds it.
    file: u32,
}

/// A file that is there.
struct Written {
    number: u32,
    /// What counts of it, bytes.
    len: u64,
    /// The youngest send in it.
    until: Option<Time>,
    /// How many sends in it are open.
    open: usize,
}

/// A run's journal.
pub struct Writer {
    disk: Box<dyn Disk>,
    folder: PathBuf,
    author: Author,
    options: Options,
    /// The number of the next record.
    seq: u64,
    /// Oldest first; the last one is written to.
    files: VecDeque<Written>,
    /// The last of them; nothing after a failure.
    sheet: Option<Box<dyn Sheet>>,
    dropped: Option<Dropped>,
    /// One an effect: a later send is permitted only when the fate of the one before is settled.
    open: HashMap<EffectId, Open>,
    /// The youngest send.
    newest: Option<Time>,
}

/// What a file of this run is called.
pub fn file_name(run: Uuid, number: u32) -> String {
    format!("{run}.{number:04}.log")
}

impl Writer {
    /// Begins the first file.
    ///
    /// # Errors
    /// When it can't be made or written.
    pub fn begin(
        disk: Box<dyn Disk>,
        folder: PathBuf,
        author: Author,
        options: Options,
    ) -> io::Result<Self> {
        let mut it = Self {
            disk,
            folder,
            author,
            options,
            seq: 0,
            files: VecDeque::new(),
            sheet: None,
            dropped: None,
            open: HashMap::new(),
            newest: None,
        };
        it.turn()?;
        Ok(it)
    }

    /// What was heard of a send that isn't concluded.
    pub fn heard(&self, id: SendId) -> Option<Arc<[u8]>> {
        let open = self.open.get(&id.effect)?;
        let (_, conclusion) = open.answer.as_ref()?;
        (open.send == id.send).then(|| conclusion.clone())
    }

    /// All that is written and kept.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn told(&self) -> io::Result<Past> {
        let past = replay_run(&self.folder, self.author.run)?;
        past.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "its files are gone"))
    }

    /// Where it writes.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes records down, all or, as far as anybody is told, none.
    ///
    /// # Errors
    /// When the write, the sync, or a new file failed.
    pub fn commit(&mut self, records: &[Record]) -> io::Result<()> {
        let written = self.append(records);
        for record in records {
            match (record, &written) {
                // true whether it is written or not: the ledger has it
                (Record::Concluded { id }, _) => self.close(id.effect, |it| it.send == id.send),
                (record, Ok(())) => self.note(record),
                (_, Err(_)) => {}
            }
        }
        written
    }

    fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let full = |it: &Written| self.options.file_max <= it.len;
        if self.sheet.is_none() || self.files.back().is_none_or(full) {
            self.turn()?;
        }
        let (Some(sheet), Some(file)) = (&mut self.sheet, self.files.back_mut()) else {
            return Err(io::Error::other("no file is open"));
        };
        let salt = Salt::new(self.author.run, file.number);
        let (mut bytes, mut seq) = (Vec::new(), self.seq);
        for record in records {
            record.write(salt, seq, &mut bytes);
            seq += 1;
        }
        // a clean stop is worth a sync in any case: it proves what is absent, even after a new boot
        let waited = |it: &Record| !matches!(it, Record::Concluded { .. });
        let sync =
            (self.options.fsync && records.iter().any(waited)) || records.contains(&Record::End);
        if let Err(e) = put(&mut **sheet, &bytes, sync) {
            self.sheet = None;
            return Err(e);
        }
        self.seq = seq;
        file.len += bytes.len() as u64;
        Ok(())
    }

    /// Keeps account of what was written to the last file.
    fn note(&mut self, record: &Record) {
        match record {
            Record::Send { id, at } => {
                self.close(id.effect, |_| true);
                self.hold(id.effect, id.send, *at, None);
            }
            Record::Answer { id, at, conclusion } => {
                if let Some(open) = self.open.get_mut(&id.effect)
                    && open.send == id.send
                {
                    open.answer = Some((*at, conclusion.clone()));
                }
            }
            Record::Header(_) | Record::Concluded { .. } | Record::End => {}
        }
    }

    fn hold(&mut self, effect: EffectId, send: u32, at: Time, answer: Option<(Time, Arc<[u8]>)>) {
        let Some(file) = self.files.back_mut() else {
            return;
        };
        file.open += 1;
        file.until = file.until.max(Some(at));
        self.newest = self.newest.max(Some(at));
        let open = Open {
            send,
            at,
            answer,
            file: file.number,
        };
        self.open.insert(effect, open);
    }

    fn close(&mut self, effect: EffectId, which: impl Fn(&Open) -> bool) {
        if self.open.get(&effect).is_some_and(which)
            && let Some(open) = self.open.remove(&effect)
            && let Some(file) = self.files.iter_mut().find(|it| it.number == open.file)
        {
            file.open -= 1;
        }
    }

    /// Begins the next file, and drops the oldest ones that needn't be kept.
    fn turn(&mut self) -> io::Result<()> {
        let last = self.files.back();
        let number = last.map_or(0, |it| it.number + 1);
        let going = self.going();
        let dropped = self.files.range(..going).fold(self.dropped, |it, file| {
            let until = it.and_then(|it| it.until).max(file.until);
            let through = file.number;
            Some(Dropped { through, until })
        });
        let header = Header {
            run: self.author.run,
            number,
            host: self.author.host.clone(),
            boot: self.author.boot.clone(),
            fsync: self.options.fsync,
            previous_len: last.map_or(0, |it| it.len),
            after_failure: last.is_some() && self.sheet.is_none(),
            dropped,
        };
        let carried = self.carried(dropped);
        let (mut bytes, mut seq) = (MAGIC.to_vec(), self.seq);
        let salt = Salt::new(self.author.run, number);
        for record in std::iter::once(&Record::Header(header)).chain(&carried) {
            record.write(salt, seq, &mut bytes);
            seq += 1;
        }
        let name = self.folder.join(file_name(self.author.run, number));
        let mut sheet = self.disk.create(&name)?;
        put(&mut *sheet, &bytes, self.options.fsync)?;
        // from here on the new file is the last one
        (self.sheet, self.seq, self.dropped) = (Some(sheet), seq, dropped);
        self.files.push_back(Written {
            number,
            len: bytes.len() as u64,
            until: None,
            open: 0,
        });
        for record in &carried {
            self.note(record);
        }
        self.drop_files();
        Ok(())
    }

    /// How many of the oldest files needn't be kept: all in them is concluded and older than
    /// `keep`; or all of them together are too large.
    fn going(&self) -> usize {
        let mut total: u64 = self.files.iter().map(|it| it.len).sum();
        let needless = |it: &&Written| {
            let over = self.options.disk_max < total;
            total -= it.len;
            let is_old = match (it.until, self.newest) {
                (Some(until), Some(newest)) => self.options.keep <= newest - until,
                _ => true,
            };
            over || (it.open == 0 && is_old)
        };
        self.files.iter().take_while(needless).count()
    }

    /// The open sends of files that will be dropped, youngest first: as much as is bearable.
    fn carried(&self, dropped: Option<Dropped>) -> Vec<Record> {
        let Some(dropped) = dropped else {
            return vec![];
        };
        let goes = |(_, it): &(&EffectId, &Open)| it.file <= dropped.through;
        let mut open: Vec<_> = self.open.iter().filter(goes).collect();
        open.sort_by_key(|(_, it)| std::cmp::Reverse(it.at));
        let (mut carried, mut size) = (Vec::new(), 0);
        for (&effect, it) in open {
            if CARRY_MAX <= size {
                tracing::warn!(
                    "the send journal is too small for all open sends: some are left out, and will be unknown if this daemon dies"
                );
                break;
            }
            let id = SendId {
                effect,
                send: it.send,
            };
            carried.push(Record::Send { id, at: it.at });
            if let Some((at, conclusion)) = it.answer.clone() {
                carried.push(Record::Answer { id, at, conclusion });
            }
            size += carried
                .iter()
                .rev()
                .take(2)
                .map(Record::size)
                .sum::<usize>();
        }
        carried
    }

    /// Removes the files that the newest header calls dropped, oldest first: one that is missing
    /// in the middle would look like damage.
    fn drop_files(&mut self) {
        let Some(dropped) = self.dropped else { return };
        self.open.retain(|_, it| dropped.through < it.file);
        while let Some(file) = self.files.front()
            && file.number <= dropped.through
        {
            let path = self.folder.join(file_name(self.author.run, file.number));
            if let Err(e) = self.disk.remove(&path) {
                tracing::warn!("{} can't be removed: {e}", path.display());
                return;
            }
            self.files.pop_front();
        }
    }
}

fn put(sheet: &mut dyn Sheet, bytes: &[u8], sync: bool) -> io::Result<()> {
    sheet.append(bytes)?;
    if sync { sheet.sync() } else { Ok(()) }
}
