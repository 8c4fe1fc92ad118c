//! What this host last heard of the ledger's accounts.

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::account::Kept;
use crate::config::kept::Misfit;

/// What this host last heard of the ledger's accounts.
pub struct Heard {
    /// Which edition of them. Held across a read, so that an older one never comes after a newer one.
    pub edition: tokio::sync::Mutex<Option<i64>>,
    seen: Mutex<Seen>,
    /// The file's secrets may be others than before: what was parked for them is looked through.
    pub anew: AtomicBool,
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            edition: tokio::sync::Mutex::default(),
            seen: Mutex::default(),
            anew: AtomicBool::new(true),
        }
    }
}

/// The accounts, and those of them that aren't used as they stand.
#[derive(Default)]
pub struct Seen {
    /// The accounts.
    pub kept: Vec<Kept>,
    /// Those that aren't used here.
    pub misfits: Vec<Misfit>,
}

impl Heard {
    /// What was seen. Held while the configuration is swapped: a reload and a change don't cross.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
