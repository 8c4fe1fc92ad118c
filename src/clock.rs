//! The only source of time: the system's clock, or one that a test moves by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Duration, SubsecRound, TimeZone, Utc};

/// A point in time, UTC, kept to the microsecond: that is what Postgres stores.
pub type Time = DateTime<Utc>;

/// Where the time comes from. Cloning shares the same clock.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's wall clock.
    #[default]
    System,
    /// A clock that only moves when told: microseconds since 1970.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that stands still at `start` until [`Clock::advance`] moves it.
    pub fn manual(start: Time) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(start.timestamp_micros())))
    }

    /// The time now, to the microsecond.
    pub fn now(&self) -> Time {
        match self {
            Self::System => Utc::now().trunc_subsecs(6),
            Self::Manual(micros) => Utc
                .timestamp_micros(micros.load(Ordering::SeqCst))
                .single()
                .expect("a manual clock is set from a valid time"),
        }
    }

    /// Moves a manual clock on. A system clock can't be moved: nothing happens.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(micros) = self {
            let by = by.num_microseconds().unwrap_or(i64::MAX);
            micros.fetch_add(by, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(Utc.timestamp_opt(1_000, 0).unwrap());
        let shared = clock.clone();
        assert_eq!(clock.now().timestamp(), 1_000);
        shared.advance(Duration::seconds(5));
        assert_eq!(clock.now().timestamp(), 1_005);
    }
}
