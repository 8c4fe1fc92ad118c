//! The queue's door, the same for every store.

use std::collections::BTreeSet;

use async_trait::async_trait;
use uuid::Uuid;

use crate::job::JobId;
use crate::ledger::Hint;

/// What can go wrong at the queue's door.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// It was wiped, restored, or filled under another generation: it must be rebuilt.
    #[error("the queue was filled under another generation")]
    Stale,
    /// It can't be reached: later it may.
    #[error("the queue can't be reached: {0}")]
    Away(String),
}

/// The result of a call to the queue.
pub type Result<T> = std::result::Result<T, QueueError>;

/// What a take brought.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Taken {
    /// The jobs, in the order in which they should start; each holds a slot of the lane now.
    pub ids: Vec<JobId>,
    /// What is still ready in the lane's window.
    pub ready: u64,
    /// The slots of the lane that are held, these included.
    pub held: u64,
}

/// The queue's door. Every call is atomic in its lane and safe to repeat.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// `redis` or `memory`.
    fn name(&self) -> &'static str;
    /// The server's own id, new at each of its starts: a restart is noticed by it.
    async fn server(&self) -> Result<String>;
    /// Puts hints into a lane's window, by priority and the turns of flows (see [`crate::fair`]). Ids that are
    /// there, or hold a slot, are left as they are; one that was [lifted](Hint::lifted) since moves up. Beyond `window` the last ones are dropped (the ledger has
    /// them). Returns the size of the window after it.
    async fn offer(&self, generation: i64, lane: &str, hints: &[Hint], window: u32) -> Result<u64>;
    /// Takes up to `most` jobs in order, as long as fewer than `concurrency` slots are held, and
    /// gives each a slot in the name of `run`.
    async fn take(
        &self,
        generation: i64,
        lane: &str,
        run: Uuid,
        most: u32,
        concurrency: Option<u32>,
    ) -> Result<Taken>;
    /// Frees slots. Ids that hold none are passed over, also those that are ready: if they ended
    /// otherwise, the ledger gives none of them to who takes them.
    async fn release(&self, generation: i64, lane: &str, ids: &[JobId]) -> Result<()>;
    /// The jobs that hold a slot, and in whose name.
    async fn held(&self, generation: i64, lane: &str) -> Result<Vec<(JobId, Uuid)>>;
    /// How many are ready in the lane's window.
    async fn size(&self, generation: i64, lane: &str) -> Result<u64>;
    /// Empties a lane and starts it under `generation` with these slots held; does nothing when it
    /// is under `generation` already. Whether it did.
    async fn reset(&self, generation: i64, lane: &str, held: &[(JobId, Uuid)]) -> Result<bool>;
    /// Tells the dispatchers of these lanes, here and on other hosts, that there is something to take.
    async fn wake(&self, lanes: &[String]) -> Result<()>;
    /// Waits until somebody calls [`Queue::wake`] (here or on another host), or may have called it
    /// unheard. May return without a reason; callers poll besides. Of several that wait, one learns the
    /// lanes.
    async fn woken(&self) -> Woken;
}

/// Where there may be something to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Woken {
    /// In these lanes; none: nobody said so.
    Lanes(BTreeSet<String>),
    /// In any: a wake-up may have been lost.
    All,
}
