//! What the world looks like from here: one HTTP client, and a file a platform.

pub mod http;

use crate::outcome::Failure;

/// Why a call brought no success, and whether the platform may have acted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CallError {
    /// It certainly did not act: nothing was sent, or the answer says so.
    #[error("{0}")]
    Refused(Failure),
    /// It may have acted: time-out, reset, 5xx, an unreadable answer.
    #[error("{0}")]
    Unknown(Failure),
}

impl CallError {
    /// The failure, for a call that changes nothing outside: then a lost answer is transient.
    pub fn harmless(self) -> Failure {
        match self {
            Self::Refused(it) => it,
            Self::Unknown(it) => Failure {
                class: crate::outcome::Class::Transient,
                ..it
            },
        }
    }
}
