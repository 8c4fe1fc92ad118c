//! A job's place in its lane's line, in words, and what may be guessed from it; pure.

use std::time::Duration;

use serde::Serialize;

use crate::clock::{Time, span, stamp};
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

impl Place {
    /// In words; `is_free`: nothing else stands in its way.
    pub fn of(line: &Line, is_free: bool) -> Self {
        let most = u64::from(LINE_MAX);
        let (before, more) = (line.before.min(most), most < line.before);
        let text = match before {
            0 if is_free => "Nothing stands in its way, and it is next.".to_owned(),
            0 => "No due job of its lane comes before it.".to_owned(),
            _ if more => format!("More than {before} due jobs of its lane come before it."),
            1 => "About 1 due job of its lane comes before it.".to_owned(),
            n => format!("About {n} due jobs of its lane come before it."),
        };
        Self { before, more, text }
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
            let place = Place::of(&line(before, 0, 0), is_free);
            assert!(place.text.contains(text), "{text}: {place:?}");
            assert_eq!(
                (place.before, place.more),
                (before.min(most), most < before)
            );
        }
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
