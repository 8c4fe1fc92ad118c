//! How pressed for memory a daemon is: what the guard sees, and others go by.

use std::sync::atomic::{AtomicU8, Ordering};

/// How pressed for memory the daemon is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Pressure {
    /// It takes and runs jobs.
    #[default]
    None,
    /// It runs nothing new.
    High,
    /// It takes nothing in, either.
    Critical,
}

/// The pressure as last looked at.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU8);

impl Gauge {
    /// The pressure.
    pub fn get(&self) -> Pressure {
        match self.0.load(Ordering::Relaxed) {
            0 => Pressure::None,
            1 => Pressure::High,
            _ => Pressure::Critical,
        }
    }

    /// Says what was seen.
    pub fn set(&self, pressure: Pressure) {
        self.0.store(pressure as u8, Ordering::Relaxed);
    }
}

/// Percent of the limit at which a pressure begins, and below which it ends: apart, so that it
/// doesn't flutter.
const HIGH: (u64, u64) = (75, 65);
const CRITICAL: (u64, u64) = (90, 80);

/// The pressure of `used` bytes of `limit`, after that which was.
pub fn judge(used: u64, limit: u64, was: Pressure) -> Pressure {
    let percent = used.saturating_mul(100) / limit.max(1);
    let holds = |(begins, ends): (u64, u64), at: Pressure| {
        begins <= percent || (at <= was && ends <= percent)
    };
    if holds(CRITICAL, Pressure::Critical) {
        Pressure::Critical
    } else if holds(HIGH, Pressure::High) {
        Pressure::High
    } else {
        Pressure::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pressure_begins_higher_than_it_ends() {
        use Pressure::*;
        for (percent, was, now) in [
            (74, None, None),
            (75, None, High),
            (70, High, High),
            (70, None, None),
            (64, High, None),
            (90, High, Critical),
            (85, Critical, Critical),
            (85, High, High),
            (79, Critical, High),
            (10, Critical, None),
            (400, None, Critical),
        ] {
            assert_eq!(judge(percent, 100, was), now, "{percent} % after {was:?}");
        }
        assert_eq!(
            judge(1, 0, None),
            Critical,
            "no limit is no division by zero"
        );
    }
}
