//! The bell that wakes the dispatchers of this process.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::door::Woken;

/// Wakes whoever waits; when nobody does, the next one to wait.
pub(super) struct Bell {
    notify: Notify,
    /// The lanes for which it rang since somebody heard it.
    rung: Mutex<Woken>,
}

const NOTHING: Woken = Woken::Lanes(BTreeSet::new());

impl Default for Bell {
    fn default() -> Self {
        Self {
            notify: Notify::new(),
            rung: Mutex::new(NOTHING),
        }
    }
}

impl Bell {
    /// Wakes all that wait now, for these lanes. One more wake is kept, so that a ring between two
    /// waits isn't lost: at worst somebody looks once in vain.
    pub(super) fn ring(&self, lanes: impl Iterator<Item = String>) {
        if let Woken::Lanes(rung) = &mut *self.rung.lock().unwrap_or_else(PoisonError::into_inner) {
            rung.extend(lanes);
        }
        self.notify_all();
    }

    /// As [`Bell::ring`], for all lanes.
    pub(super) fn ring_all(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = Woken::All;
        self.notify_all();
    }

    fn notify_all(&self) {
        self.notify.notify_waiters();
        self.notify.notify_one();
    }

    /// Returns at the next ring, or at once after one that nobody waited for.
    pub(super) async fn rung(&self) -> Woken {
        self.notify.notified().await;
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut rung, NOTHING)
    }
}
