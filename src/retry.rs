//! When, if ever, again: exponential backoff with full jitter, stored and not slept.

use chrono::Duration;
use serde::{Deserialize, Serialize};

use crate::outcome::Failure;
use crate::sabotage;

/// How often, and how far apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Attempts in all, the first included. 1 to 100.
    pub attempts_max: u32,
    /// The widest wait before the second attempt, in milliseconds.
    pub base_ms: u64,
    /// No wait is wider than this, in milliseconds, but for a platform's own word.
    pub cap_ms: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            attempts_max: 8,
            base_ms: 2_000,
            cap_ms: 15 * 60_000,
        }
    }
}

/// A wait is never shorter, so that a jitter of nothing doesn't become a storm.
pub const FLOOR_MS: u64 = 100;

impl Policy {
    /// The wait after `failed` attempts (from 1), for a job whose random `seed` is fixed:
    /// full jitter over `min(cap, base * 2^(failed-1))`, but never before the platform's own
    /// word (`Retry-After`), which may pass the cap.
    pub fn wait(&self, failed: u32, failure: &Failure, seed: u64) -> Duration {
        let doublings = failed.saturating_sub(1).min(32);
        let widest = self.base_ms.saturating_mul(1 << doublings).min(self.cap_ms);
        let jitter = match widest {
            0 => 0,
            widest => {
                mix(seed ^ u64::from(failed).wrapping_mul(0x9E37_79B9_7F4A_7C15)) % (widest + 1)
            }
        };
        let told = failure.retry_after_ms.unwrap_or(0);
        let told = if sabotage!("failed.retry_after") {
            0
        } else {
            told
        };
        let wait = told.saturating_add(if told == 0 {
            jitter.max(FLOOR_MS)
        } else {
            jitter.min(told / 10)
        });
        Duration::milliseconds(
            i64::try_from(wait)
                .unwrap_or(i64::MAX)
                .min(366 * 86_400_000),
        )
    }
}

/// Spreads a seed's bits (splitmix64), so that neighbours draw unlike jitter.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn backoff_is_bounded(
            base in 0u64..10_000_000, cap in 0u64..100_000_000,
            failed in 0u32..1_000, seed: u64, told in prop::option::of(0u64..1_000_000_000),
        ) {
            let policy = Policy { attempts_max: 5, base_ms: base, cap_ms: cap };
            let mut failure = Failure::transient("x", "x");
            failure.retry_after_ms = told;
            let wait = policy.wait(failed, &failure, seed).num_milliseconds().unsigned_abs();
            prop_assert!(told.unwrap_or(0) <= wait);
            prop_assert!(FLOOR_MS <= wait || 0 < told.unwrap_or(0));
            let widest = cap.max(FLOOR_MS).max(told.unwrap_or(0) + told.unwrap_or(0) / 10);
            prop_assert!(wait <= widest);
            prop_assert_eq!(policy.wait(failed, &failure, seed), policy.wait(failed, &failure, seed));
        }
    }

    #[test]
    fn jitter_is_full_and_grows() {
        let policy = Policy {
            attempts_max: 8,
            base_ms: 1_000,
            cap_ms: 60_000,
        };
        let failure = Failure::transient("x", "x");
        let mean = |failed| {
            let waits =
                (0..2_000).map(|seed| policy.wait(failed, &failure, seed).num_milliseconds());
            waits.sum::<i64>() / 2_000
        };
        assert!((450..600).contains(&mean(1)), "{}", mean(1));
        assert!((3_600..4_400).contains(&mean(4)), "{}", mean(4));
        assert!((28_000..32_000).contains(&mean(9)), "{}", mean(9));
    }
}
