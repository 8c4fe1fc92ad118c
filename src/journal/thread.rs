//! The thread that a run's journal is written by: whoever waits while a write or a sync is made is
//! taken by the next one, together.

use std::io;
use std::sync::Arc;

use super::past::Past;
use super::record::{Record, SendId};
use super::writer::Writer;
use crate::sync::oneshot;
use crate::sync::threads::Receiver;

/// What is written at once, bytes, one record aside: beyond it the others wait for the next write.
const BATCH: usize = 1 << 20;

/// A conclusion that was heard, if any.
pub type Json = Option<Arc<[u8]>>;
/// Who waits for an answer, and for which.
pub type Done<T> = oneshot::Sender<T>;

/// What the thread is asked.
pub enum Ask {
    /// Write this down; nobody waits for [`Record::Concluded`].
    Write(Record, Option<Done<io::Result<()>>>),
    /// What was heard of a send that isn't concluded.
    Heard(SendId, Done<Json>),
    /// All that is written down.
    Tell(Done<io::Result<Past>>),
}

/// Writes until nobody is left who could ask, or the run ended.
pub fn run(mut writer: Writer, asks: &Receiver<Ask>) {
    let mut fails = false;
    while let Ok(first) = asks.recv() {
        let batch = Batch::gather(first, asks);
        if !batch.records.is_empty() {
            let written = writer.commit(&batch.records);
            tell(&writer, &written, &mut fails);
            for done in batch.waiting {
                // who no longer waits has nothing to send, either
                let _ = done.send(copy(&written));
            }
        }
        for (id, done) in batch.heard {
            let _ = done.send(writer.heard(id));
        }
        for done in batch.tell {
            let _ = done.send(writer.told());
        }
        if let Some(Record::End) = batch.records.last() {
            return;
        }
    }
}

/// Says once that it can't be written, and once that it can again.
fn tell(writer: &Writer, written: &io::Result<()>, fails: &mut bool) {
    match written {
        Err(e) if !*fails => tracing::error!(
            "the send journal in {} can't be written, so nothing is sent: {e}; is the disk full?",
            writer.folder().display()
        ),
        Ok(()) if *fails => tracing::info!("the send journal is written again"),
        _ => {}
    }
    *fails = written.is_err();
}

/// What is asked by now, up to a bound or the end.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    waiting: Vec<Done<io::Result<()>>>,
    /// Answered after the write: what was asked before them counts.
    heard: Vec<(SendId, Done<Json>)>,
    tell: Vec<Done<io::Result<Past>>>,
}

impl Batch {
    fn gather(first: Ask, asks: &Receiver<Ask>) -> Self {
        let (mut it, mut size) = (Self::default(), 0);
        let mut next = Some(first);
        while let Some(ask) = next {
            match ask {
                Ask::Write(record, done) => {
                    size += record.size();
                    it.waiting.extend(done);
                    let ended = record == Record::End;
                    it.records.push(record);
                    if ended || BATCH <= size {
                        break;
                    }
                }
                Ask::Heard(id, done) => it.heard.push((id, done)),
                Ask::Tell(done) => it.tell.push(done),
            }
            next = asks.try_recv().ok();
        }
        it
    }
}

/// An error for each that waits.
fn copy(written: &io::Result<()>) -> io::Result<()> {
    match written {
        Ok(()) => Ok(()),
        Err(e) => {
            let message = format!("the send journal can't be written: {e}");
            Err(io::Error::new(e.kind(), message))
        }
    }
}
