//! What the journal's tests share: sends, a disk in memory that fails when told, and a sample.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use chrono::TimeDelta;
use uuid::Uuid;

use crate::clock::Time;
use crate::effect::{EffectId, EffectState, Evidence, Receipt};
use crate::journal::disk::{Disk, Sheet};
use crate::journal::past::{Asked, Past, Seen};
use crate::journal::record::{Found, MAGIC, Record, Salt, SendId};
use crate::journal::replay::{Page, read_run};
use crate::journal::writer::{Author, Options, Writer, file_name};
use crate::ledger::{Conclusion, Run};

pub const RUN: Uuid = Uuid::from_u128(7);

pub fn at(second: i64) -> Time {
    Time::from_timestamp(1_800_000_000 + second, 0).unwrap()
}

pub fn id(effect: u128, send: u32) -> SendId {
    SendId {
        effect: EffectId(Uuid::from_u128(effect)),
        send,
    }
}

pub fn conclusion(id: SendId) -> Conclusion {
    Conclusion {
        to: EffectState::Confirmed,
        receipt: Some(Receipt {
            remote_id: Some(format!("{}/{}", id.effect, id.send)),
            url: None,
            at: at(1),
            detail: serde_json::json!("a\u{0}b"),
        }),
        evidence: Evidence::new(at(1), "confirmed".to_owned()),
        look_in: None,
    }
}

pub fn send(id: SendId, second: i64) -> Record {
    Record::Send { id, at: at(second) }
}

pub fn answer(id: SendId) -> Record {
    let conclusion = serde_json::to_vec(&conclusion(id)).unwrap().into();
    Record::Answer {
        id,
        at: at(1),
        conclusion,
    }
}

pub fn run(id: Uuid, host: &str, boot: Option<&str>) -> Run {
    Run {
        id,
        host: host.to_owned(),
        boot: boot.map(str::to_owned),
        pid: 1,
        version: "x".to_owned(),
        began_at: at(0),
    }
}

/// The run after it, on the same boot.
pub fn here() -> Run {
    run(Uuid::from_u128(8), "h", Some("b"))
}

/// The run after it, after the power was lost.
pub fn rebooted() -> Run {
    run(Uuid::from_u128(8), "h", Some("c"))
}

pub fn asked(id: SendId, permit_at: Time) -> Asked {
    Asked {
        run: RUN,
        effect: id.effect,
        send: id.send,
        permit_at,
    }
}

/// A disk in memory that fails when told.
#[derive(Clone, Default)]
pub struct Memory(pub Arc<Mutex<Drive>>);

#[derive(Default)]
pub struct Drive {
    /// The bytes, and how many of them were synced.
    pub files: BTreeMap<PathBuf, (Vec<u8>, usize)>,
    /// Calls so far.
    pub calls: usize,
    pub syncs: usize,
    /// Calls that fail; of an append so many bytes are written all the same.
    pub fails: BTreeMap<usize, usize>,
    pub largest: usize,
}

impl Drive {
    fn call(&mut self) -> Result<(), (io::Error, usize)> {
        self.calls += 1;
        let full = io::Error::from(io::ErrorKind::StorageFull);
        match self.fails.get(&self.calls) {
            Some(part) => Err((full, *part)),
            None => Ok(()),
        }
    }
}

impl Disk for Memory {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sheet>> {
        let mut drive = self.0.lock().unwrap();
        drive.files.remove(path);
        drive.call().map_err(|(e, _)| e)?;
        drive.files.insert(path.to_owned(), (vec![], 0));
        Ok(Box::new((self.clone(), path.to_owned())))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut drive = self.0.lock().unwrap();
        drive.call().map_err(|(e, _)| e)?;
        drive.files.remove(path);
        Ok(())
    }
}

impl Sheet for (Memory, PathBuf) {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut drive = self.0.0.lock().unwrap();
        let called = drive.call();
        let file = &mut drive.files.get_mut(&self.1).unwrap().0;
        let written = match &called {
            Ok(()) => bytes.len(),
            Err((_, part)) => part % (bytes.len() + 1),
        };
        file.extend(&bytes[..written]);
        let total = drive.files.values().map(|it| it.0.len()).sum();
        drive.largest = drive.largest.max(total);
        called.map_err(|(e, _)| e)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut drive = self.0.0.lock().unwrap();
        drive.syncs += 1;
        drive.call().map_err(|(e, _)| e)?;
        let file = drive.files.get_mut(&self.1).unwrap();
        file.1 = file.0.len();
        Ok(())
    }
}

impl Memory {
    pub fn pages(&self) -> Vec<(u32, Vec<u8>)> {
        let drive = self.0.lock().unwrap();
        let number = |path: &Path| path.to_str().unwrap().split('.').nth(1).unwrap().parse();
        let page = |(path, (bytes, _)): (&PathBuf, &(Vec<u8>, usize))| {
            (number(path).unwrap(), bytes.clone())
        };
        drive.files.iter().map(page).collect()
    }

    pub fn writer(&self, options: Options) -> io::Result<Writer> {
        let author = Author {
            run: RUN,
            host: "h".to_owned(),
            boot: Some("b".to_owned()),
        };
        Writer::begin(Box::new(self.clone()), PathBuf::new(), author, options)
    }
}

pub fn read(pages: Vec<(u32, Vec<u8>)>) -> Past {
    let page = |(number, bytes)| Page {
        number,
        path: file_name(RUN, number).into(),
        bytes: Ok(bytes),
    };
    read_run(RUN, pages.into_iter().map(page).collect())
}

pub const SMALL: Options = Options {
    fsync: false,
    file_max: 2_500,
    disk_max: u64::MAX,
    keep: TimeDelta::MAX,
};

/// A journal of so many records in more than three files, and its records with the place where
/// each ends.
pub type Sample = (Vec<(u32, Vec<u8>)>, Vec<(u32, usize, Record)>);

pub fn sample(count: usize, file_max: u64) -> Sample {
    let disk = Memory::default();
    let mut writer = disk.writer(Options { file_max, ..SMALL }).unwrap();
    let mut written = 0;
    for n in 0.. {
        let id = id(n, 1 + u32::try_from(n % 3).unwrap());
        let mut records = vec![send(id, 1)];
        if n % 7 == 0 {
            records.push(answer(id));
        }
        if n % 4 != 0 {
            records.push(Record::Concluded { id });
        }
        written += records.len();
        writer.commit(&records).unwrap();
        if count <= written + 1 {
            break;
        }
    }
    writer.commit(&[Record::End]).unwrap();
    let pages = disk.pages();
    let mut records = Vec::new();
    for (number, bytes) in &pages {
        let mut at = MAGIC.len();
        while at < bytes.len() {
            match Found::at(&bytes[at..], Salt::new(RUN, *number)) {
                Found::Whole { record, size, .. } => {
                    at += size;
                    records.push((*number, at, record));
                }
                other => panic!("{other:?} at {at} of {number}"),
            }
        }
    }
    assert!(3 < pages.len() && count <= records.len(), "{}", pages.len());
    (pages, records)
}

pub fn note(truth: &mut BTreeMap<SendId, Seen>, record: &Record) {
    match record {
        Record::Send { id, at } => truth.entry(*id).or_default().sent_at = Some(*at),
        Record::Answer { id, .. } => truth.entry(*id).or_default().answer = Some(conclusion(*id)),
        Record::Concluded { id } => truth.entry(*id).or_default().concluded = true,
        Record::Header(_) | Record::End => {}
    }
}

/// How many facts `past` lacks of the truth.
///
/// # Panics
/// Where it says more than the truth, or something else.
pub fn lacks(past: &Past, truth: &BTreeMap<SendId, Seen>) -> usize {
    let facts = |it: &Seen| {
        usize::from(it.sent_at.is_some())
            + usize::from(it.answer.is_some())
            + usize::from(it.concluded)
    };
    for (id, seen) in &past.sends {
        let truth = truth.get(id).expect("it was never sent");
        assert!(seen.sent_at.is_none() || seen.sent_at == truth.sent_at);
        assert!(seen.answer.is_none() || seen.answer == truth.answer);
        assert!(!seen.concluded || truth.concluded);
    }
    let all: usize = truth.values().map(facts).sum();
    all - past.sends.values().map(facts).sum::<usize>()
}
