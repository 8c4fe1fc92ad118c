//! The sandbox's own clock: wall time plus an offset that a test may push forward.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};

/// Wall time plus what `POST /_sandbox/clock` added; it never runs backwards by request.
#[derive(Debug, Default)]
pub(super) struct Clock {
    offset_s: AtomicI64,
}

/// A hundred years: beyond it dates stop being printable in the formats the platforms use.
const MAX_OFFSET_S: i64 = 100 * 365 * 86_400;

impl Clock {
    pub(super) fn now(&self) -> DateTime<Utc> {
        Utc::now() + TimeDelta::seconds(self.offset_s())
    }

    /// Seconds this clock is ahead of wall time.
    pub(super) fn offset_s(&self) -> i64 {
        self.offset_s.load(Ordering::Relaxed)
    }

    /// Moves the clock forward; answers the new offset in seconds (a hundred years at most).
    pub(super) fn advance(&self, by_s: u32) -> i64 {
        let moved = (self.offset_s() + i64::from(by_s)).min(MAX_OFFSET_S);
        self.offset_s.store(moved, Ordering::Relaxed);
        moved
    }

    /// Back to wall time.
    pub(super) fn reset(&self) {
        self.offset_s.store(0, Ordering::Relaxed);
    }
}
