//! Who does something to what, why, and why it wasn't done.

use crate::clock::Time;
use crate::job::JobId;
use crate::json::Violation;
use crate::ledger::{Audit, LedgerError};

/// Why a person's change wasn't made.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no such thing.
    #[error("{0}")]
    Missing(String),
    /// It can't be done to it as it is.
    #[error("{0}")]
    Unfit(String),
    /// The edited payload breaks its kind's schema.
    #[error("the payload can't be accepted: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Violation>),
    /// The ledger couldn't do it.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Who does it, and why.
#[derive(Clone, Debug)]
pub struct By {
    /// A person's login, a token's name, or a loop of the daemon.
    pub actor: String,
    /// The reason given.
    pub reason: String,
}

impl By {
    /// The deed as the audit tells it.
    pub fn audit(&self, action: &str, job: JobId, at: Time) -> Audit {
        Audit {
            actor: self.actor.clone(),
            action: action.to_owned(),
            job: Some(job),
            detail: self.reason.clone(),
            at,
        }
    }
}
