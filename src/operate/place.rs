//! A job's place in its lane's line, in words, and what may be guessed from it; pure.

use std::time::Duration;

use serde::Serialize;

use crate::clock::{Time, span, stamp, when};
use crate::fair::Fair;
use crate::job::{Job, Priority};
use crate::ledger::{LINE_MAX, Line};

/// Of fewer completed jobs no pace is told.
const PACED: u64 = 3;

/// Where a due job is in its lane's line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Place {
    /// About so many due jobs of its lane come before it, as things stand.
    pub before: u64,
    /// There are more than that.
    pub more: bool,
    /// The share of its tenant and account of the lane, against 1 of those that nobody gave one; operators are
    /// told.
    pub weight: Option<u32>,
    /// From then on it takes turns with higher priorities; `None`: it is of the highest, or its lane isn't
    /// configured.
    pub lifted_at: Option<Time>,
    /// The same in words.
    pub text: String,
}

/// When it may start: no promise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// By the lane's pace.
    pub at: Time,
    /// The same in words, with what it rests on.
    pub text: String,
}

/// How a job takes turns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turns {
    /// Its share, for whom that is meant.
    pub weight: Option<u32>,
    /// When it has waited long enough.
    pub lifted_at: Option<Time>,
}

impl Turns {
    /// Of a due job.
    pub fn of(job: &Job, fair: &Fair) -> Self {
        let waits = fair.waits_at_most(&job.lane);
        let waits = waits.filter(|_| job.priority != Priority::High);
        let waits = waits.and_then(|it| chrono::Duration::from_std(it).ok());
        Self {
            weight: Some(fair.weight(&job.tenant, job.account.as_deref().unwrap_or_default())),
            lifted_at: waits.and_then(|it| job.run_at.checked_add_signed(it)),
        }
    }

    fn words(&self, now: Time) -> String {
        let mut words = match self.weight {
            Some(weight) if 1 < weight => {
                format!(" It takes turns with weight {weight}, where others have 1.")
            }
            _ => String::new(),
        };
        words += &match self.lifted_at {
            Some(at) if at <= now => format!(
                " Since {} it takes turns with higher priorities, because it has waited so long.",
                stamp(at)
            ),
            Some(at) => format!(
                " From {} on ({}) it takes turns with higher priorities.",
                stamp(at),
                when(at, now)
            ),
            None => String::new(),
        };
        words
    }
}

impl Place {
    /// In words; `is_free`: nothing else stands in its way.
    pub fn of(line: &Line, is_free: bool, turns: Turns, now: Time) -> Self {
        let most = u64::from(LINE_MAX);
        let (before, more) = (line.before.min(most), most < line.before);
        let text = match before {
            0 if is_free => "Nothing stands in its way, and it is next.".to_owned(),
            0 => "No due job of its lane comes before it.".to_owned(),
            _ if more => format!("More than {before} due jobs of its lane come before it."),
            1 => "About 1 due job of its lane comes before it.".to_owned(),
            n => format!("About {n} due jobs of its lane come before it."),
        };
        let text = match before {
            0 if is_free => text,
            _ => text + &turns.words(now),
        };
        Self {
            before,
            more,
            weight: turns.weight,
            lifted_at: turns.lifted_at,
            text,
        }
    }
}

impl Estimate {
    /// From a line's pace, where it has one, and where there is something to be waited for.
    pub fn of(line: &Line, is_full: bool, now: Time) -> Option<Self> {
        if line.completed < PACED || line.span.is_zero() || (line.before == 0 && !is_full) {
            return None;
        }
        // of a full lane one must end before the first can start
        let ends = line.before + u64::from(is_full);
        let each = line.span.as_secs_f64() / line.completed as f64;
        let wait = Duration::try_from_secs_f64(each * ends as f64).ok()?;
        let wait = chrono::Duration::from_std(wait).ok()?;
        let at = now.checked_add_signed(wait)?;
        let within = match u64::from(LINE_MAX) < line.before {
            true => "in more than",
            false => "in about",
        };
        let text = format!(
            "By its lane's pace it starts {within} {}, at {}. That is an estimate: {} jobs were completed within {}, and what comes first may still come in.",
            span(wait),
            stamp(at),
            line.completed,
            span(chrono::Duration::from_std(line.span).ok()?),
        );
        Some(Self { at, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(before: u64, completed: u64, seconds: u64) -> Line {
        Line {
            before,
            completed,
            span: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn a_place_is_told_roughly_and_within_its_bound() {
        let most = u64::from(LINE_MAX);
        for (before, is_free, text) in [
            (0, true, "it is next"),
            (0, false, "No due job"),
            (1, true, "About 1 due job of its lane comes"),
            (12, false, "About 12 due jobs"),
            (most, true, "About 10000 due jobs"),
            (most + 1, true, "More than 10000 due jobs"),
        ] {
            let none = Turns {
                weight: None,
                lifted_at: None,
            };
            let place = Place::of(&line(before, 0, 0), is_free, none, Time::UNIX_EPOCH);
            assert!(place.text.contains(text), "{text}: {place:?}");
            assert_eq!(
                (place.before, place.more),
                (before.min(most), most < before)
            );
        }
    }

    #[test]
    fn weight_and_ageing_are_told_to_whom_they_concern() {
        let now = Time::UNIX_EPOCH + chrono::Duration::hours(1);
        let place = |before, weight, minutes: Option<i64>| {
            let turns = Turns {
                weight,
                lifted_at: minutes.map(|it| now + chrono::Duration::minutes(it)),
            };
            Place::of(&line(before, 0, 0), true, turns, now).text
        };
        let told = place(5, Some(4), Some(3));
        assert!(told.contains("weight 4"), "{told}");
        assert!(
            told.contains("From 1970-01-01") && told.contains("(in 3 m) it takes turns"),
            "{told}"
        );
        let told = place(5, Some(1), Some(-3));
        assert!(
            !told.contains("weight") && told.contains("Since 1970-01-01"),
            "{told}"
        );
        let told = place(5, None, None);
        assert!(
            told.ends_with("come before it."),
            "of the highest nothing is to be said: {told}"
        );
        let told = place(0, Some(4), Some(3));
        assert!(told.ends_with("it is next."), "{told}");
    }

    #[test]
    fn an_estimate_needs_a_pace_and_something_to_wait_for_and_says_what_it_is() {
        let now = Time::UNIX_EPOCH;
        let at =
            |line: &Line, full| Estimate::of(line, full, now).map(|it| (it.at - now).num_seconds());
        assert_eq!(at(&line(60, 30, 60), false), Some(120));
        assert_eq!(at(&line(60, 30, 60), true), Some(122));
        assert_eq!(at(&line(0, 30, 60), true), Some(2));
        for none in [line(0, 30, 60), line(60, PACED - 1, 60), line(60, 30, 0)] {
            assert_eq!(at(&none, false), None, "{none:?}");
        }
        let told = Estimate::of(&line(60, 30, 60), false, now).unwrap().text;
        assert!(
            told.contains("in about 2 m") && told.contains("estimate"),
            "{told}"
        );
        let told = Estimate::of(&line(u64::from(LINE_MAX) + 1, 30, 60), false, now);
        assert!(told.unwrap().text.contains("in more than"));
    }
}
