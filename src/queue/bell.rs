//! The bell that wakes the dispatchers of this process.

use tokio::sync::Notify;

/// Wakes whoever waits; when nobody does, the next one to wait.
#[derive(Default)]
pub(super) struct Bell(Notify);

impl Bell {
    /// Wakes all that wait now. One more wake is kept, so that a ring between two waits isn't lost:
    /// at worst somebody looks once in vain.
    pub(super) fn ring(&self) {
        self.0.notify_waiters();
        self.0.notify_one();
    }

    /// Returns at the next ring, or at once after one that nobody waited for.
    pub(super) async fn rung(&self) {
        self.0.notified().await;
    }
}
