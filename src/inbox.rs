//! An inbox: where envelopes wait that programs of any language brought, until intake has taken them in.
//! Redis has one (a list), PostgreSQL the other (the rows of `presswork.enqueue`).

use async_trait::async_trait;
use uuid::Uuid;

use crate::job::JobId;

/// The inbox can't be reached: later it may.
#[derive(Debug, thiserror::Error)]
#[error("the inbox can't be reached: {0}")]
pub struct InboxError(pub String);

/// The result of a call to an inbox.
pub type Result<T> = std::result::Result<T, InboxError>;

/// The list that producers append to, in Redis and at Presswork's own port. With a colon and a tenant
/// behind it, it is that tenant's.
pub const INBOX: &str = "presswork:inbox";

/// An entry of an inbox, moved to a run's own list.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Taking the same entry twice is taking the same job twice.
    pub id: JobId,
    /// The bytes as they came.
    pub bytes: Vec<u8>,
}

/// Where an inbox stands, in a text that quarantine keeps: its door and, where it takes jobs of one tenant
/// only, that tenant.
pub fn place(inbox: &dyn Inbox) -> String {
    match inbox.tenant() {
        Some(tenant) => format!("{}:{tenant}", inbox.door()),
        None => inbox.door().to_owned(),
    }
}

/// The tenant whose jobs alone are taken at a [`place`].
pub fn tenant_at(place: &str) -> Option<&str> {
    place.split_once(':').map(|it| it.1)
}

/// An inbox, the same for every store. Every call is atomic and safe to repeat.
#[async_trait]
pub trait Inbox: Send + Sync + 'static {
    /// Which door it is, in one word: in metrics, in the quarantine, and in the keys of entries that
    /// have none of their own.
    fn door(&self) -> &'static str;
    /// Only jobs of this tenant are taken here. `None`: anybody's.
    fn tenant(&self) -> Option<&str> {
        None
    }
    /// Whether what is in it was acknowledged as safely as the ledger does; if not, how long it lies
    /// there is measured.
    fn is_durable(&self) -> bool;
    /// Waits until there may be entries to take; a second at most. May return without a reason, but
    /// never makes a caller spin: neither on an empty inbox nor on one that can't be reached.
    async fn arrived(&self);
    /// Moves up to `most` entries (0: none) to this run's list of `slot` and returns all that list holds: so
    /// what an earlier take left unfinished comes first, with its ids. `slot` is a small number;
    /// each slot is used by one loop.
    async fn take(&self, run: Uuid, slot: u32, most: u32) -> Result<Vec<Entry>>;
    /// Removes these entries from a run's list: the ledger has committed them. Only these: the run
    /// may live and have taken more.
    async fn done(&self, run: Uuid, slot: u32, entries: &[Entry]) -> Result<()>;
    /// The runs that hold lists.
    async fn holders(&self) -> Result<Vec<(Uuid, u32)>>;
    /// Entries that no run has taken.
    async fn waiting(&self) -> Result<u64>;
    /// Writes a receipt (JSON text) where the producer that named `token` looks for it; kept for five
    /// minutes.
    async fn reply(&self, token: &str, receipt: &str) -> Result<()>;
}
