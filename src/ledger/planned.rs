//! Jobs that were scheduled for a time, and what waits beside them: what budgets keep places for.

use std::time::Duration;

use async_trait::async_trait;

use super::door::Result;
use crate::clock::Time;
use crate::job::JobId;

/// A place is kept for so long after a job's time, where something holds the job up.
pub const KEPT_FOR: Duration = Duration::from_secs(24 * 3_600);
/// Scheduled jobs that are looked through for those of an account or a tenant, of each kind.
pub const LOOKED_AT: u32 = 10_000;

/// Whose requests count in a part of a budget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Askers {
    /// The kinds of their jobs.
    pub kinds: Vec<String>,
    /// Their accounts; `None`: any, or none.
    pub accounts: Option<Vec<String>>,
    /// Their tenant; `None`: any.
    pub tenant: Option<String>,
}

/// A job that a place is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The job.
    pub job: JobId,
    /// When its producer wanted it.
    pub at: Time,
}

/// A job that waits for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The job.
    pub job: JobId,
    /// When it may run.
    pub run_at: Time,
    /// When its producer wanted it, where that lay ahead when it was accepted.
    pub wanted_at: Option<Time>,
}

/// What budgets ask of the ledger besides what is used of them.
#[async_trait]
pub trait Places: Send + Sync {
    /// The jobs of these that were scheduled for a time less than `ahead` from now, or not longer than
    /// [`KEPT_FOR`] ago, and haven't sent anything yet: the nearest first, at most `limit`. Without an
    /// account to go by, of each kind [`LOOKED_AT`] are looked through.
    async fn planned(&self, of: &Askers, ahead: Duration, limit: u32) -> Result<Vec<Planned>>;
    /// The jobs of these that wait for their turn or their time, in the order in which they may run, at
    /// most `limit`; and how many of them are held, counted up to `limit`. For people: it is no quick look.
    async fn backlog(&self, of: &Askers, limit: u32) -> Result<(Vec<Waiting>, u64)>;
}
