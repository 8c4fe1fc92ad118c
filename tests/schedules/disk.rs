//! A disk in memory, whose calls take a while: what was synced of what was written is what survives.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use uuid::Uuid;

use crate::journal::disk::{Disk, Sheet};
use crate::journal::record::{Found, MAGIC, Record, Salt, SendId};
use crate::sync::point;

/// One file: its bytes, and how many of them are safe.
#[derive(Default)]
struct Page {
    bytes: Vec<u8>,
    safe: usize,
    /// A sync has failed: what wasn't safe by then is gone, though a later one may say that all is well.
    is_spoilt: bool,
}

/// The files of a run, by name.
#[derive(Clone, Default)]
pub struct Slow {
    pages: Arc<Mutex<BTreeMap<PathBuf, Page>>>,
    /// How many of the next syncs succeed, if not all.
    syncs: Arc<Mutex<Option<u32>>>,
}

struct SlowPage(Slow, PathBuf);

impl Slow {
    /// After so many syncs, one fails.
    pub fn fail_after(&self, syncs: u32) {
        *self.syncs.lock().unwrap() = Some(syncs);
    }

    /// The sends and answers of `run` that are written, or (`safe`) would survive the loss of power now.
    pub fn holds(&self, run: Uuid, safe: bool) -> Vec<(SendId, bool)> {
        let pages = self.pages.lock().unwrap();
        let mut held = vec![];
        for (path, page) in pages.iter() {
            let name = path.to_str().expect("the journal's own names");
            let number = name.split('.').nth(1).and_then(|it| it.parse().ok());
            let salt = Salt::new(run, number.expect("the journal's own names"));
            let end = if safe { page.safe } else { page.bytes.len() };
            let mut at = MAGIC.len();
            while at < end {
                let Found::Whole { record, size, .. } = Found::at(&page.bytes[at..end], salt)
                else {
                    panic!("{name} is no journal at {at}");
                };
                match record {
                    Record::Send { id, .. } => held.push((id, false)),
                    Record::Answer { id, .. } => held.push((id, true)),
                    _ => {}
                }
                at += size;
            }
        }
        held
    }
}

impl Disk for Slow {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sheet>> {
        point();
        let mut pages = self.pages.lock().unwrap();
        pages.insert(path.to_owned(), Page::default());
        Ok(Box::new(SlowPage(self.clone(), path.to_owned())))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.pages.lock().unwrap().remove(path);
        Ok(())
    }
}

impl Sheet for SlowPage {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        point();
        let mut pages = self.0.pages.lock().unwrap();
        pages.entry(self.1.clone()).or_default().bytes.extend(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        // what is appended after a sync began isn't safe by it
        let begun = self.0.pages.lock().unwrap()[&self.1].bytes.len();
        point();
        let mut left = self.0.syncs.lock().unwrap();
        match &mut *left {
            Some(0) => {
                *left = None;
                let mut pages = self.0.pages.lock().unwrap();
                pages.entry(self.1.clone()).or_default().is_spoilt = true;
                return Err(io::Error::other("the test says so"));
            }
            Some(more) => *more -= 1,
            None => {}
        }
        let mut pages = self.0.pages.lock().unwrap();
        if let Some(page) = pages.get_mut(&self.1)
            && !page.is_spoilt
        {
            page.safe = begun;
        }
        Ok(())
    }
}

/// A disk of this host's, which needs no sync: for what is read back by name.
pub struct Real;

struct RealPage(std::fs::File);

impl Disk for Real {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sheet>> {
        point();
        Ok(Box::new(RealPage(std::fs::File::create(path)?)))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
}

impl Sheet for RealPage {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        use io::Write as _;
        point();
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}
