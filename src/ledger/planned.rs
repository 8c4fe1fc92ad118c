//! Jobs that were scheduled for a time, and what waits beside them: what budgets keep places for.

use std::time::Duration;

use crate::clock::Time;
use crate::job::JobId;
use crate::lateness::Terms;

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

impl Askers {
    /// Whether a job is one of theirs.
    pub fn has(&self, it: &Waiting) -> bool {
        let accounts = self.accounts.as_ref();
        self.kinds.contains(&it.kind)
            && accounts.is_none_or(|all| it.account.as_ref().is_some_and(|it| all.contains(it)))
            && self
                .tenant
                .as_ref()
                .is_none_or(|tenant| *tenant == it.tenant)
    }
}

/// A job that a place is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The job.
    pub job: JobId,
    /// When its producer wanted it.
    pub at: Time,
}

/// A job that waits for its turn, its time, or a person.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// The job.
    pub job: JobId,
    /// Its kind.
    pub kind: String,
    /// Its tenant.
    pub tenant: String,
    /// Its account.
    pub account: Option<String>,
    /// A person has to mend something first.
    pub held: bool,
    /// When it may run.
    pub run_at: Time,
    /// When its producer wanted it, where that lay ahead when it was accepted.
    pub wanted_at: Option<Time>,
    /// What it says of its own lateness.
    pub terms: Terms,
    /// When its first effect was permitted, as [`crate::effect::Effect::begun`]; `None`: nothing of it was
    /// begun.
    pub begun: Option<Time>,
}
