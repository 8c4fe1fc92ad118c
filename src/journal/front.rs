//! A run's journal, as those see it who send: each waits until what it wrote is as durable as it must be.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::disk::{Disk, Host, make_folder};
use super::past::Past;
use super::record::{PAYLOAD_MAX, Record, SendId};
use super::thread::{self, Ask};
use super::writer::{Author, Options, Writer};
use crate::clock::Time;
use crate::effect::EffectId;
use crate::ledger::{Conclusion, Run};
use crate::sync::threads::{Sender, channel};
use crate::sync::{oneshot, thread as threads};

/// An answer that is longer, bytes of JSON, isn't written down.
pub(super) const ANSWER_MAX: usize = PAYLOAD_MAX - 64;

/// The journal of this run. Cloning shares it; when the last clone is gone, its thread ends.
#[derive(Clone)]
pub struct Journal {
    asks: Sender<Ask>,
    turns: Arc<AtomicU64>,
}

impl Journal {
    /// Begins the journal of `run` in `folder`, which is made if need be. Earlier ones there are to
    /// be [`replay`](super::replay())ed before.
    ///
    /// # Errors
    /// When the folder, the first file or the thread can't be made.
    pub fn begin(folder: &Path, run: &Run, options: Options) -> io::Result<Self> {
        make_folder(folder)?;
        Self::on(Box::new(Host), folder, run, options)
    }

    /// As [`Journal::begin`], on any disk.
    pub(super) fn on(
        disk: Box<dyn Disk>,
        folder: &Path,
        run: &Run,
        options: Options,
    ) -> io::Result<Self> {
        let author = Author {
            run: run.id,
            host: run.host.clone(),
            boot: run.boot.clone(),
        };
        let writer = Writer::begin(disk, folder.to_owned(), author, options)?;
        let (asks, asked) = channel();
        threads::Builder::new()
            .name("journal".to_owned())
            .spawn(move || thread::run(writer, &asked))?;
        let turns = Arc::default();
        Ok(Self { asks, turns })
    }

    /// Writes down that send number `send` (from 1) of an effect goes out now. When it returns, the
    /// kernel has it, with [`Options::fsync`] the disk; only then may the first byte leave. `at` is
    /// the ledger's time, read at most [`PERMIT_LAG`](super::PERMIT_LAG) before the permit was given.
    ///
    /// # Errors
    /// When it isn't written down: nothing may be sent. The next one may work (a full disk).
    pub async fn send(&self, effect: EffectId, send: u32, at: Time) -> io::Result<()> {
        let id = SendId { effect, send };
        self.write(Record::Send { id, at }).await
    }

    /// Writes down what a send led to, without secrets. As durable as [`Journal::send`].
    ///
    /// # Errors
    /// When it isn't written down: the ledger's write is all that is left then.
    pub async fn answer(
        &self,
        effect: EffectId,
        send: u32,
        at: Time,
        conclusion: &Conclusion,
    ) -> io::Result<()> {
        let json = serde_json::to_vec(conclusion)?;
        if ANSWER_MAX < json.len() {
            let message = format!("an answer of {} bytes is too long to be kept", json.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let id = SendId { effect, send };
        let conclusion = json.into();
        self.write(Record::Answer { id, at, conclusion }).await
    }

    /// Writes down that the ledger has the conclusion of a send, some time: nobody need wait for it.
    pub fn concluded(&self, effect: EffectId, send: u32) {
        let id = SendId { effect, send };
        // a thread that is gone has said so to whoever sends
        let _ = self.asks.send(Ask::Write(Record::Concluded { id }, None));
    }

    /// What this run itself heard of a send whose conclusion the ledger doesn't have yet: it was
    /// away when the answer came.
    pub async fn heard(&self, effect: EffectId, send: u32) -> Option<Conclusion> {
        let (done, answer) = oneshot::channel();
        let id = SendId { effect, send };
        self.asks.send(Ask::Heard(id, done)).ok()?;
        let json: Arc<[u8]> = answer.await.ok()??;
        serde_json::from_slice(&json).ok()
    }

    /// How often the ledger's server was replaced, as far as this daemon has noticed. A permit that was
    /// asked for before the number changed is void once its send is written down: see [`Journal::turn`].
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::SeqCst)
    }

    /// Voids what was permitted until now and isn't sent yet. Whoever compares [`Journal::turns`] after
    /// [`Journal::send`] either sees the change, or what it wrote is in the next [`Journal::told`].
    pub fn turn(&self) {
        self.turns.fetch_add(1, Ordering::SeqCst);
    }

    /// All that this run has written down so far and still keeps.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn told(&self) -> io::Result<Past> {
        let gone = || io::Error::other("the send journal has ended");
        let (done, answer) = oneshot::channel();
        self.asks.send(Ask::Tell(done)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Writes the end of a clean stop and makes everything durable; whatever is sent afterwards is
    /// refused.
    ///
    /// # Errors
    /// When it isn't written: the run will look as if it had been killed.
    pub async fn end(&self) -> io::Result<()> {
        self.write(Record::End).await
    }

    async fn write(&self, record: Record) -> io::Result<()> {
        let gone = || io::Error::other("the send journal has ended");
        let (done, written) = oneshot::channel();
        let ask = Ask::Write(record, Some(done));
        self.asks.send(ask).map_err(|_| gone())?;
        written.await.map_err(|_| gone())?
    }
}
