//! Signs of life: when a part of the daemon last moved, for whoever watches that it isn't stuck.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often what is alive says so.
pub const EVERY: Duration = Duration::from_millis(250);

/// A part that has ended of its own will is never late.
const RESTS: u64 = u64::MAX;

/// The pulse of one part of the daemon.
#[derive(Debug)]
pub struct Pulse {
    since: Instant,
    /// Milliseconds after `since`.
    last: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            last: AtomicU64::new(0),
        }
    }
}

impl Pulse {
    /// It lives.
    pub fn beat(&self) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(RESTS - 1);
        self.last.store(now, Ordering::Relaxed);
    }

    /// It has ended of its own will.
    pub fn rest(&self) {
        self.last.store(RESTS, Ordering::Relaxed);
    }

    /// How long it hasn't moved.
    pub fn age(&self) -> Duration {
        match self.last.load(Ordering::Relaxed) {
            RESTS => Duration::ZERO,
            last => self
                .since
                .elapsed()
                .saturating_sub(Duration::from_millis(last)),
        }
    }

    /// Beats for as long as the runtime that polls it isn't stuck.
    pub async fn keep(&self) {
        loop {
            self.beat();
            tokio::time::sleep(EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rests_is_never_late_and_what_is_stuck_grows_old() {
        let since = Instant::now()
            .checked_sub(Duration::from_secs(9))
            .expect("the machine is up for longer");
        let pulse = Pulse {
            since,
            last: AtomicU64::new(0),
        };
        assert!(Duration::from_secs(9) <= pulse.age());
        pulse.beat();
        assert!(pulse.age() < Duration::from_secs(9));
        pulse.rest();
        assert_eq!(pulse.age(), Duration::ZERO);
    }
}
