//! How an account comes back after a limit that its platform told of: with one request at once, then with
//! twice as many, and so on. Whoever begins with a whole backlog is told to stop again at once. Pure.

use chrono::Duration;

use crate::clock::Time;

/// The name under which the requests of such accounts are counted: no budget has it.
pub const RELAXING: &str = "relaxing";
/// The number doubles so often; then there is none any more.
const STEPS: i64 = 6;
/// Each number holds for a part of the time that nothing went, at least and at most so long.
const PART: i32 = 16;
const LEAST: i64 = 1;
const MOST: i64 = 15;

/// How many requests of an account may be under way at `now`, of which nothing went from `since` to `until`;
/// `None`: as many as ever.
pub fn relaxed((since, until): (Time, Time), now: Time) -> Option<u64> {
    if now < until {
        return Some(1);
    }
    let part = (until - since) / PART;
    let step = part.clamp(Duration::seconds(LEAST), Duration::seconds(MOST));
    let steps = (now - until).num_milliseconds() / step.num_milliseconds();
    (steps < STEPS).then(|| 1 << steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: i64) -> Time {
        Time::UNIX_EPOCH + Duration::milliseconds(ms)
    }

    #[test]
    fn it_doubles_in_steps_by_how_long_nothing_went() {
        let minute = (at(0), at(60_000));
        let found = [59_999, 60_000, 63_749, 63_750, 67_500, 82_499, 82_500];
        let found = found.map(|ms| relaxed(minute, at(ms)));
        let most = [Some(1), Some(1), Some(1), Some(2), Some(4), Some(32), None];
        assert_eq!(found, most);
        // neither in no time nor for hours
        assert_eq!(relaxed((at(0), at(10)), at(1_009)), Some(1));
        assert_eq!(relaxed((at(0), at(86_400_000)), at(86_490_000)), None);
    }

    proptest! {
        #[test]
        fn it_never_goes_down_and_always_ends(shut in 0_i64..90_000_000, a in 0_i64..200_000, b in 0_i64..200_000) {
            let of = |after: i64| relaxed((at(0), at(shut)), at(shut + after)).unwrap_or(u64::MAX);
            prop_assert!(of(a.min(b)) <= of(a.max(b)));
            prop_assert_eq!(of(0), 1);
            prop_assert_eq!(of(STEPS * MOST * 1_000), u64::MAX);
        }
    }
}
