//! What this host last heard of the ledger's accounts.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use secrecy::{ExposeSecret as _, SecretString};

use crate::account::Kept;
use crate::config::kept::Misfit;
use crate::config::{Account, Config, Home};
use crate::telemetry::redact;

/// What this host last heard of the ledger's accounts.
pub struct Heard {
    /// Which edition of them. Held across a read, so that an older one never comes after a newer one.
    pub edition: tokio::sync::Mutex<Option<i64>>,
    seen: Mutex<Seen>,
    /// By account: the secret that it had before.
    before: Mutex<BTreeMap<String, SecretString>>,
    /// The file's secrets may be others than before: what was parked for them is looked through.
    pub anew: AtomicBool,
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            edition: tokio::sync::Mutex::default(),
            seen: Mutex::default(),
            before: Mutex::default(),
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

    /// Forgets secrets that were renewed twice. The one before the present one may be in use for a moment,
    /// and stays hidden.
    pub fn renewed(&self, was: &Config, is: &Config) {
        let of = |it: &Account| it.secret.expose_secret().to_owned();
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, old) in &was.accounts {
            let new = is.accounts.get(name);
            let is_kept = matches!(old.home, Home::Ledger { .. });
            if !is_kept || new.is_some_and(|it| of(it) == of(old)) {
                continue;
            }
            let Some(gone) = before.insert(name.clone(), old.secret.clone()) else {
                continue;
            };
            let used = is
                .accounts
                .values()
                .any(|it| of(it) == gone.expose_secret());
            if !used && gone.expose_secret() != of(old) {
                redact::forget(&gone);
            }
        }
    }
}
