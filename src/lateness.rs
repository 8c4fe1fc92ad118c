//! How late a job is, what follows from it, and the turns of those that come late; pure.
//!
//! Lateness counts from the time a job was asked for (its first `run_at`, or its acceptance) to the
//! moment in which its first effect would be permitted. What was begun is finished, however late.

use chrono::Duration;

use crate::clock::{Time, span, stamp};
use crate::lifecycle::expired;
use crate::outcome::{Failure, Held, LATE, Outcome, words};

words! {
    /// What becomes of a job that comes later than it may.
    Policy {
        /// It is done all the same.
        Publish = "publish",
        /// It is given up, and nothing is sent.
        Skip = "skip",
        /// It waits for a person's word.
        Ask = "ask",
    }
}

/// Seconds that a job may be late where nothing else is said.
pub const AFTER_S: u32 = 3_600;
/// The longest that can be said: a year.
pub const AFTER_MAX_S: u32 = 31_536_000;

/// What is to be known of a job to judge how late it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// When it was to be done. `None`: nobody knows (an older version accepted it), and it is never late.
    pub due: Option<Time>,
    /// Not after this.
    pub not_after: Option<Time>,
    /// What becomes of it when it comes late.
    pub policy: Policy,
    /// How late that is.
    pub after: Duration,
    /// What is later than this goes at its account's pace.
    pub grace: Duration,
}

/// What a job itself says of it; [`crate::config::Config::standing`] adds what holds where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    /// When it was to be done; `None`: nobody knows.
    pub due: Option<Time>,
    /// Not after this.
    pub not_after: Option<Time>,
    /// What becomes of it when it comes late.
    pub late: Option<Policy>,
    /// How late that is, in seconds.
    pub late_after_s: Option<u32>,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// It is done.
    Go {
        /// It comes so late that it goes at its account's pace.
        overdue: bool,
    },
    /// It is given up, being so late.
    Skip(Duration),
    /// A person is asked, it being so late.
    Ask(Duration),
    /// Its `not_after` is past.
    Expired,
}

/// Judges a job at `now`. `begun`: when its first effect was permitted; what was begun is finished.
pub fn judge(it: &Standing, begun: Option<Time>, now: Time) -> Verdict {
    let late = |at: Time| it.due.map_or(Duration::zero(), |due| at - due);
    if let Some(at) = begun {
        let overdue = it.grace < late(at);
        return Verdict::Go { overdue };
    }
    if it.not_after.is_some_and(|end| end < now) {
        return Verdict::Expired;
    }
    let late = late(now);
    match it.policy {
        Policy::Skip if it.after < late => Verdict::Skip(late),
        Policy::Ask if it.after < late => Verdict::Ask(late),
        Policy::Publish | Policy::Skip | Policy::Ask => Verdict::Go {
            overdue: it.grace < late,
        },
    }
}

impl Standing {
    /// Whether it is in time, whatever was begun.
    pub fn is_in_time(&self, now: Time) -> bool {
        judge(self, None, now) == Verdict::Go { overdue: false }
    }

    /// How an attempt ends by a verdict; `None`: it goes on.
    pub fn outcome(&self, verdict: Verdict) -> Option<Outcome> {
        let told = |late: Duration, policy: Policy| {
            let due = self.due.map(stamp).unwrap_or_default();
            let most = span(self.after);
            format!(
                "it was due at {due} and is {} late, more than the {most} that it may be (late = \"{policy}\"); nothing was sent",
                span(late)
            )
        };
        Some(match verdict {
            Verdict::Go { .. } => return None,
            Verdict::Expired => expired().into(),
            Verdict::Skip(late) => Failure::permanent(LATE, told(late, Policy::Skip)).into(),
            Verdict::Ask(late) => {
                let why = Failure::permanent(LATE, told(late, Policy::Ask));
                Outcome::Held(Held::Policy, why)
            }
        })
    }
}

/// A pace in words: to the second, as it was said.
pub fn one_in(pace: Duration) -> String {
    format!("one in {} s", pace.num_seconds())
}

/// What is told of an overdue job that waits for its turn.
pub fn paced(account: &str, pace: Duration, at: Time) -> String {
    format!(
        "paced: what is overdue of account `{account}` goes {}: next at {}",
        one_in(pace),
        stamp(at)
    )
}

/// The turn of an overdue job of an account whose overdue jobs go one in each `pace`; `None`: it is the
/// first. `before`: when those that go before it run next, as far as they are on their way. Who waits for
/// longer than a turn (a platform refused it) keeps nobody back.
pub fn turn(before: &[Time], pace: Duration, now: Time) -> Option<Time> {
    let mut before: Vec<Time> = before.iter().map(|it| now.max(*it)).collect();
    before.sort_unstable();
    let mut slot = now;
    let mut counted = false;
    for at in before {
        if slot + pace < at {
            break;
        }
        slot = slot.max(at) + pace;
        counted = true;
    }
    counted.then_some(slot)
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;
    use proptest::prelude::*;

    use super::*;

    fn at(s: i64) -> Time {
        chrono::Utc.timestamp_opt(1_800_000_000 + s, 0).unwrap()
    }

    fn standing() -> impl Strategy<Value = Standing> {
        let time = || proptest::option::of((-10_000i64..10_000).prop_map(at));
        let seconds = || (0i64..8_000).prop_map(Duration::seconds);
        let policy = prop_oneof![Just(Policy::Publish), Just(Policy::Skip), Just(Policy::Ask)];
        (time(), time(), policy, seconds(), seconds()).prop_map(
            |(due, not_after, policy, after, grace)| Standing {
                due,
                not_after,
                policy,
                after,
                grace,
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_begun_is_finished_and_not_after_wins(
            it in standing(),
            begun in proptest::option::of((-10_000i64..10_000).prop_map(at)),
            now in (-10_000i64..10_000).prop_map(at),
        ) {
            let verdict = judge(&it, begun, now);
            let late = it.due.map_or(Duration::zero(), |due| now - due);
            if begun.is_some() {
                prop_assert!(matches!(verdict, Verdict::Go { .. }), "{verdict:?}");
            } else if it.not_after.is_some_and(|end| end < now) {
                prop_assert_eq!(verdict, Verdict::Expired);
            } else if it.policy == Policy::Publish || late <= it.after {
                let overdue = it.grace < late;
                prop_assert_eq!(verdict, Verdict::Go { overdue });
            } else {
                let wanted = match it.policy {
                    Policy::Skip => Verdict::Skip(late),
                    _ => Verdict::Ask(late),
                };
                prop_assert_eq!(verdict, wanted);
            }
            // what needs no look at effects is in time with any
            if it.is_in_time(now) {
                let earlier = begun.filter(|it| *it <= now);
                prop_assert_eq!(judge(&it, earlier, now), Verdict::Go { overdue: false });
            }
            prop_assert_eq!(it.outcome(verdict).is_none(), matches!(verdict, Verdict::Go { .. }));
        }

        #[test]
        fn turns_are_a_pace_apart_and_nobody_overtakes(
            count in 1usize..40,
            tried in proptest::collection::vec(0usize..40, 0..80),
        ) {
            // all are on their way; each that is tried is put off to its turn
            let pace = Duration::seconds(60);
            let mut runs = vec![at(0); count];
            for n in tried.into_iter().filter(|it| *it < count) {
                if let Some(slot) = turn(&runs[..n], pace, at(0)) {
                    runs[n] = slot;
                }
            }
            for n in 0..count {
                if let Some(slot) = turn(&runs[..n], pace, at(0)) {
                    runs[n] = slot;
                }
            }
            for (n, run) in runs.iter().enumerate() {
                let steps = i32::try_from(n).unwrap();
                prop_assert!(at(0) + pace * steps <= *run, "{n}: {run}");
                prop_assert!(runs[..n].iter().all(|it| *it + pace <= *run), "{n}: {runs:?}");
            }
        }
    }

    #[test]
    fn who_waits_for_something_else_keeps_nobody_back() {
        let pace = Duration::seconds(60);
        assert_eq!(turn(&[], pace, at(0)), None);
        assert_eq!(turn(&[at(3_600)], pace, at(0)), None);
        assert_eq!(turn(&[at(-5)], pace, at(0)), Some(at(60)));
        // they wait for their turns already
        let waiting = [at(60), at(120), at(180)];
        assert_eq!(turn(&waiting, pace, at(0)), Some(at(240)));
        assert_eq!(turn(&[at(60), at(3_600)], pace, at(30)), Some(at(120)));
    }
}
