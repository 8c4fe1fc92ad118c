//! The only source of time: the system's clock, or one that a test moves by hand; and how times
//! are told to people.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Duration, SecondsFormat, SubsecRound, TimeZone, Utc};

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

/// A span of time for people, by its largest unit: `340 ms`, `2.4 s`, `3 m`, `5 h`, `2 d`.
pub fn span(span: Duration) -> String {
    let ms = span.num_milliseconds().unsigned_abs();
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        10_000..60_000 => format!("{} s", ms / 1_000),
        60_000..3_600_000 => format!("{} m", ms / 60_000),
        3_600_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// When, as seen from `now`: `3 m ago`, `in 5 h`, `now`.
pub fn when(at: Time, now: Time) -> String {
    let away = at - now;
    match away.num_milliseconds() {
        -999..=999 => "now".to_owned(),
        ..=-1_000 => format!("{} ago", span(away)),
        _ => format!("in {}", span(away)),
    }
}

/// A point in time, to the second, UTC.
pub fn stamp(at: Time) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
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

    #[test]
    fn times_are_told_for_people() {
        let now = Clock::System.now();
        assert_eq!(when(now - Duration::seconds(200), now), "3 m ago");
        assert_eq!(when(now + Duration::hours(5), now), "in 5 h");
        assert_eq!(when(now, now), "now");
        assert_eq!(span(Duration::milliseconds(2_450)), "2.4 s");
        assert_eq!(span(Duration::days(9)), "9 d");
    }
}
