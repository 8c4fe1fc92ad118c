//! Places that are kept: what was scheduled for a time finds its place in a long window then, whatever
//! asks before it.
//!
//! A place is one request, of the budget's amount. Whoever it is kept for takes it as if nothing were kept;
//! anybody else takes only what stays free at each moment at which a kept place is wanted. So with nothing
//! kept nothing changes.

use super::form::{Form, NEVER};
use super::uses::{Uses, micros, slice, span, time, up};
use crate::clock::{Time, stamp};

/// The shortest window in which places are kept: what frees sooner is soon there again.
const LONG: chrono::Duration = chrono::Duration::hours(1);
/// Periods that are looked ahead for room: with more of them full nobody knows when there is some.
const PERIODS: usize = 62;

impl Form {
    /// Whether places are kept in it: in rolling windows of an hour and more, and in calendars.
    pub fn keeps_places(&self) -> bool {
        match self {
            Self::Rolling { window, .. } => LONG <= *window,
            Self::Calendar { .. } => true,
            Self::Concurrency { .. } | Self::Bucket { .. } | Self::Spend { .. } => false,
        }
    }

    /// How far ahead a place may be wanted that matters to what is taken now, and is over soon.
    pub fn looks_ahead(&self) -> chrono::Duration {
        match self {
            // what counts until the end of its slice, and is under way for some minutes at most
            Self::Rolling { window, .. } => *window + *window / 32 + LONG,
            Self::Calendar { every, .. } => match every {
                super::form::Every::Day => chrono::Duration::hours(26),
                super::form::Every::Month => chrono::Duration::days(32),
            },
            _ => chrono::Duration::zero(),
        }
    }

    /// So many places of `amount` each are all that it allows.
    pub fn places(&self, amount: u64) -> u64 {
        self.most() / amount.max(1)
    }
}

/// When places are wanted that are kept: the nearest first, several at one time together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// What each of them is.
    each: u64,
    wanted: Vec<(i64, u64)>,
}

impl Kept {
    /// Places of `each` that are wanted at these times.
    pub fn of(each: u64, times: impl IntoIterator<Item = Time>) -> Self {
        let mut all: Vec<i64> = times.into_iter().map(micros).collect();
        all.sort_unstable();
        let mut wanted: Vec<(i64, u64)> = Vec::new();
        for at in all {
            match wanted.last_mut() {
                Some((last, count)) if *last == at => *count += 1,
                _ => wanted.push((at, 1)),
            }
        }
        Self { each, wanted }
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// How many are kept now: those that what is taken now would count beside.
    pub fn count(&self, form: &Form, now: Time) -> u64 {
        let now_us = micros(now);
        match form {
            Form::Rolling { window, .. } => {
                self.between(now_us, now_us, now_us.saturating_add(span(*window)))
            }
            Form::Calendar { .. } => {
                let period = form.periods(now, now).first().copied();
                period.map_or(0, |it| {
                    let (from, to) = form.counts_from(it, chrono::Duration::zero());
                    self.between(now_us, micros(from), micros(to))
                })
            }
            Form::Concurrency { .. } | Form::Bucket { .. } | Form::Spend { .. } => 0,
        }
    }

    /// How many are wanted from `from` on and before `to`; what is wanted already is wanted now.
    fn between(&self, now: i64, from: i64, to: i64) -> u64 {
        let its = self.wanted.iter();
        its.filter(|it| (from..to).contains(&it.0.max(now)))
            .fold(0, |sum, it| sum.saturating_add(it.1))
    }

    /// The last time before `to` at which one is wanted.
    fn last_before(&self, to: i64) -> Option<Time> {
        let mut its = self.wanted.iter().rev();
        its.find(|it| it.0 < to).map(|it| time(it.0))
    }
}

/// It would fit, but the places are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptBack {
    /// When there is room beside them, if nobody else takes anything until then; [`NEVER`]: nobody knows.
    pub at: Time,
    /// How many are kept that stand before it.
    pub places: u64,
    /// The last of them is wanted then.
    pub until: Time,
}

impl KeptBack {
    /// What is kept, for people.
    pub fn told(&self) -> String {
        let places = match self.places {
            1 => "1 place is".to_owned(),
            count => format!("{count} places are"),
        };
        let until = stamp(self.until);
        format!("{places} kept for jobs scheduled until {until}")
    }
}

impl Uses {
    /// When more is there to be used than now, whoever asks: a calendar begins anew, or the first of what
    /// counts in a rolling window runs out. `None`: nothing counts, or nobody knows.
    pub fn frees_at(&self, form: &Form, now: Time) -> Option<Time> {
        let mut tidy = self.clone();
        let now = tidy.tidy(form, now);
        let first = tidy.amounts().keys().next();
        match form {
            Form::Calendar { .. } | Form::Spend { .. } => {
                let period = form.periods(now, now).first().copied()?;
                Some(form.ends(period))
            }
            Form::Rolling { window, .. } => first.map(|it| time(it.saturating_add(span(*window)))),
            Form::Concurrency { .. } | Form::Bucket { .. } => None,
        }
    }

    /// Whether `amount`, surely over by `until`, takes a place that is kept: then it has to wait. Says
    /// nothing of whether it fits without them, and never that more than is ever allowed has to wait.
    pub fn kept_back(
        &self,
        form: &Form,
        amount: u64,
        kept: &Kept,
        (now, until): (Time, Time),
    ) -> Option<KeptBack> {
        if kept.is_empty() || !form.keeps_places() || form.most() < amount {
            return None;
        }
        let mut tidy = self.clone();
        let now = tidy.tidy(form, now);
        let within = until.max(now) - now;
        match form {
            Form::Rolling { most, window } => {
                let look = Look {
                    room: i128::from(*most) - i128::from(amount),
                    stays: span(*window),
                    slice: slice(*window),
                    within: within.num_microseconds().unwrap_or(0),
                };
                let (now, at) = (micros(now), look.first_room(&tidy, kept, micros(now)));
                let end = look.end(now);
                (now < at).then(|| KeptBack {
                    at: time(at),
                    places: kept.between(now, now, end),
                    until: kept.last_before(end).unwrap_or(NEVER),
                })
            }
            Form::Calendar { .. } => tidy.kept_in_periods(form, amount, kept, (now, within)),
            Form::Concurrency { .. } | Form::Bucket { .. } | Form::Spend { .. } => None,
        }
    }

    fn kept_in_periods(
        &self,
        form: &Form,
        amount: u64,
        kept: &Kept,
        (now, within): (Time, chrono::Duration),
    ) -> Option<KeptBack> {
        let now_us = micros(now);
        let places = |period: i64| {
            let (from, to) = form.counts_from(period, within);
            kept.between(now_us, micros(from), micros(to))
        };
        let is_full = |period: &i64| {
            let wanted = places(*period).saturating_mul(kept.each);
            let all = wanted.saturating_add(amount);
            form.most() < self.counted(&[*period]).saturating_add(all)
        };
        let full = |at: Time| form.periods(at, at + within).into_iter().find(is_full);
        let first = full(now)?;
        let mut at = form.ends(first);
        for _ in 0..PERIODS {
            match full(at) {
                Some(period) => at = form.ends(period),
                None => break,
            }
        }
        Some(KeptBack {
            at,
            places: places(first),
            until: kept.last_before(micros(form.ends(first))).unwrap_or(NEVER),
        })
    }
}

/// What is looked for in a rolling window; times and spans in microseconds.
struct Look {
    /// What may be used besides.
    room: i128,
    stays: i64,
    slice: i64,
    within: i64,
}

impl Look {
    /// Until when it counts what is taken at a time.
    const fn end(&self, at: i64) -> i64 {
        up(at.saturating_add(self.within), self.slice).saturating_add(self.stays)
    }

    /// The first moment from `now` on at which what is taken leaves room for all that is wanted for as long
    /// as it counts itself: `uses` run out, and who wants a place takes it then.
    fn first_room(&self, uses: &Uses, kept: &Kept, now: i64) -> i64 {
        let each = i128::from(kept.each);
        let mut changes: Vec<(i64, i128)> = Vec::new();
        for (key, counted) in uses.amounts() {
            changes.push((key.saturating_add(self.stays), -i128::from(*counted)));
        }
        for (at, places) in &kept.wanted {
            let at = (*at).max(now);
            changes.push((at, i128::from(*places) * each));
            changes.push((self.end(at), -i128::from(*places) * each));
        }
        changes.sort_unstable();
        let mut used = i128::from(uses.total());
        let (mut from, mut at) = (now, now);
        for (time, change) in changes {
            // from `from` to `time` so much is used
            if self.room < used && from < time && from < self.end(at) {
                at = time;
            }
            used += change;
            from = from.max(time);
        }
        at
    }
}

#[cfg(test)]
mod tests;
