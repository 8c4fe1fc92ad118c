//! What is used of a budget, and the only ways in which that changes.

use std::collections::BTreeMap;

use chrono::{Duration, TimeZone, Utc};
use serde::{Deserialize, Serialize};

use super::form::{Form, NEVER};
use super::money::{Hold, Paid, Spend};
use crate::clock::Time;
use crate::sabotage;

/// The parts that a rolling window is counted in: what it frees comes by a sixty-fourth of it late at most.
const SLICES: i64 = 64;
/// Microseconds: ends of requests are told apart by no less, so that thousands under way are few numbers.
const UNDER_WAY: i64 = 10_000;
/// A bucket's content is kept in millionths.
const MILLION: i128 = 1_000_000;

/// What is used of a budget. Times are the ledger's, in microseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Uses {
    /// When it was last changed: its time never goes back, whoever's clock does.
    #[serde(default)]
    at: i64,
    /// The form that it was counted by: what was counted by another one means nothing.
    #[serde(default)]
    form: String,
    /// A bucket's content at `at`, in millionths: it runs out by the bucket's rate.
    #[serde(default, skip_serializing_if = "is_nothing")]
    content: u64,
    /// Amounts: under way, by when they are surely over (concurrency, buckets); by the end of the slice in
    /// which they count (rolling windows); by period (calendars).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    amounts: BTreeMap<i64, u64>,
    /// Money that was reserved, and counts, for sends of which nobody knows yet what they cost.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    holds: BTreeMap<String, Hold>,
}

/// Holds of one part of a budget; beyond that the oldest estimate counts as spent for good.
const HOLDS_MAX: usize = 1_000;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde wants")]
const fn is_nothing(it: &u64) -> bool {
    *it == 0
}

/// What was taken of one budget, until it is finished.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    keys: Keys,
    amount: u64,
}

/// Where something is counted: in one place, or in two around a midnight.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Keys {
    first: i64,
    second: Option<i64>,
}

impl Keys {
    const fn one(first: i64) -> Self {
        Self {
            first,
            second: None,
        }
    }

    fn all(self) -> impl Iterator<Item = i64> {
        std::iter::once(self.first).chain(self.second)
    }
}

/// How what was taken ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// It may have reached the platform, at the latest at this time.
    Sent(Time),
    /// It certainly didn't leave.
    Unsent,
}

/// It doesn't fit now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When it would, if nobody took anything until then; [`NEVER`]: it is more than is ever allowed.
    pub at: Time,
}

impl Uses {
    /// Takes `amount` for something that is surely over by `until`, or nothing.
    ///
    /// # Errors
    /// It doesn't fit.
    pub fn take(
        &mut self,
        form: &Form,
        amount: u64,
        now: Time,
        until: Time,
    ) -> Result<Share, Refused> {
        let now = self.tidy(form, now);
        let until = until.max(now);
        if form.most() < amount {
            return Err(Refused { at: NEVER });
        }
        let keys = match form {
            Form::Calendar { .. } | Form::Spend { .. } => {
                let periods = form.periods(now, until);
                Keys {
                    first: periods[0],
                    second: periods.get(1).copied(),
                }
            }
            Form::Rolling { window, .. } if sabotage!("budget.under_way") => {
                Keys::one(up(micros(now), slice(*window)))
            }
            Form::Rolling { window, .. } => Keys::one(up(micros(until), slice(*window))),
            Form::Concurrency { .. } | Form::Bucket { .. } => {
                Keys::one(up(micros(until), UNDER_WAY))
            }
        };
        if let Some(at) = self.full(form, amount, now, keys) {
            return Err(Refused { at });
        }
        for key in keys.all() {
            let counted = self.amounts.entry(key).or_default();
            *counted = counted.saturating_add(amount);
        }
        Ok(Share { keys, amount })
    }

    /// What was taken is over. Once a share.
    pub fn finish(&mut self, form: &Form, share: &Share, end: End, now: Time) {
        self.tidy(form, now);
        match (form, end) {
            (Form::Spend { .. }, End::Sent(_)) => {}
            (_, End::Unsent) | (Form::Concurrency { .. }, _) => {
                for key in share.keys.all() {
                    self.back(key, share.amount);
                }
            }
            (Form::Bucket { .. }, End::Sent(_)) => {
                let keys = share.keys.all();
                let over: u64 = keys.map(|it| self.back(it, share.amount)).sum();
                self.content = self.content.saturating_add(millions(over));
            }
            (Form::Rolling { window, .. }, End::Sent(end)) => {
                let over = up(micros(end), slice(*window));
                for key in share.keys.all().filter(|it| over < *it) {
                    let amount = self.back(key, share.amount);
                    if 0 < amount {
                        let counted = self.amounts.entry(over).or_default();
                        *counted = counted.saturating_add(amount);
                    }
                }
            }
            (Form::Calendar { .. }, End::Sent(end)) => {
                // it came before midnight for sure: then only the first day counts it
                let counted = form.periods(end, end);
                if let Some(key) = share.keys.second
                    && counted.iter().all(|it| *it < key)
                {
                    self.back(key, share.amount);
                }
            }
        }
    }

    /// Takes what a send may cost, until [`Uses::settle`] says what it did. The same send may be taken
    /// again by who took its job over: of both, one at most is permitted.
    ///
    /// # Errors
    /// It doesn't fit.
    pub fn reserve(
        &mut self,
        form: &Form,
        spend: &Spend,
        micros: u64,
        now: Time,
    ) -> Result<(), Refused> {
        let now = self.tidy(form, now);
        let name = spend.name();
        let mut before = self.clone();
        if let Some(it) = self.holds.remove(&name) {
            self.back(it.period, it.micros);
        }
        let share = match self.take(form, micros, now, now) {
            Ok(it) => it,
            // what it may have cost the last time stays counted; another try costs nothing more
            Err(e) => {
                let held = before.holds.get_mut(&name).filter(|_| spend.repeats);
                let stays = held.map(|it| (it.by, it.send) = (spend.by, spend.send));
                *self = before;
                return stays.ok_or(e);
            }
        };
        let hold = Hold {
            job: spend.job,
            effect: spend.effect,
            send: spend.send,
            each: spend.each,
            by: spend.by,
            micros,
            period: share.keys.first,
            at: self.at,
        };
        self.holds.insert(name, hold);
        if HOLDS_MAX < self.holds.len() {
            let oldest = self.holds.iter().min_by_key(|it| it.1.at);
            if let Some(name) = oldest.map(|it| it.0.clone()) {
                self.holds.remove(&name);
            }
        }
        Ok(())
    }

    /// It is known what became of what was reserved under `name` by `by`. Said again it changes nothing.
    pub fn settle(&mut self, form: &Form, (name, by): (&str, uuid::Uuid), paid: Paid, now: Time) {
        self.tidy(form, now);
        // who took it over since may be sending it
        if self.holds.get(name).is_none_or(|it| it.by != by) {
            return;
        }
        let Some(hold) = self.holds.remove(name) else {
            return;
        };
        let cost = match paid {
            Paid::Estimate => return,
            Paid::Nothing => 0,
            Paid::Cost(micros) => micros,
        };
        self.back(hold.period, hold.micros);
        if 0 < cost {
            let counted = self.amounts.entry(hold.period).or_default();
            *counted = counted.saturating_add(cost);
        }
    }

    /// Whether anything was reserved since `then` of which nobody knows yet what it cost.
    pub fn has_held_since(&self, then: Time) -> bool {
        self.holds.values().any(|it| micros(then) <= it.at)
    }

    /// How much of what counts now is reserved only.
    pub fn reserved(&self, form: &Form, now: Time) -> u64 {
        let now_us = micros(now).max(self.at);
        let period = form.periods(time(now_us), time(now_us)).first().copied();
        let of_now = self.holds.values().filter(|it| Some(it.period) == period);
        of_now.fold(0, |sum, it| sum.saturating_add(it.micros))
    }

    /// What is reserved, by name.
    pub const fn holds(&self) -> &BTreeMap<String, Hold> {
        &self.holds
    }

    /// No longer counts `amount` there; how much of it still was. What isn't there was over by its time.
    fn back(&mut self, key: i64, amount: u64) -> u64 {
        let Some(counted) = self.amounts.get_mut(&key) else {
            return 0;
        };
        let back = amount.min(*counted);
        *counted -= back;
        if *counted == 0 {
            self.amounts.remove(&key);
        }
        back
    }

    /// What counts now, of which amount at most `form.most()` is allowed.
    pub fn used(&self, form: &Form, now: Time) -> u64 {
        let mut it = self.clone();
        let now = it.tidy(form, now);
        match form {
            Form::Calendar { .. } | Form::Spend { .. } => it.counted(&form.periods(now, now)),
            Form::Bucket { .. } => it.total() + it.content.div_ceil(1_000_000),
            Form::Concurrency { .. } | Form::Rolling { .. } => it.total(),
        }
    }

    /// When `amount` would fit, if nobody took anything until then; `now` if it fits.
    pub fn fits_at(&self, form: &Form, amount: u64, now: Time) -> Time {
        let mut it = self.clone();
        match it.take(form, amount, now, now) {
            Ok(_) => now,
            Err(Refused { at }) => at,
        }
    }

    /// Forgets what no longer counts, and returns the time that counts.
    pub(super) fn tidy(&mut self, form: &Form, now: Time) -> Time {
        let now_us = micros(now).max(self.at);
        if self.form != form.word() {
            *self = Self {
                at: now_us,
                form: form.word().to_owned(),
                ..Self::default()
            };
        }
        match form {
            Form::Concurrency { .. } => self.forget(now_us + 1),
            Form::Rolling { window, .. } => self.forget(now_us - span(*window) + 1),
            Form::Bucket { most, window, .. } => {
                let mut from = self.at;
                let later = self.amounts.split_off(&(now_us + 1));
                // what nobody finished (its host died) begins to run out at its own time
                for (until, amount) in std::mem::replace(&mut self.amounts, later) {
                    self.run_out(*most, *window, until.max(from) - from);
                    from = from.max(until);
                    self.content = self.content.saturating_add(millions(amount));
                }
                self.run_out(*most, *window, now_us - from);
            }
            Form::Calendar { .. } | Form::Spend { .. } => {
                let first = form.periods(time(now_us), time(now_us))[0];
                self.forget(first);
                self.holds.retain(|_, it| first <= it.period);
            }
        }
        self.at = now_us;
        time(now_us)
    }

    /// Forgets what is counted before `from`; mostly nothing is, so no map is built for it.
    fn forget(&mut self, from: i64) {
        while let Some(first) = self.amounts.first_entry()
            && *first.key() < from
        {
            first.remove();
        }
    }

    fn run_out(&mut self, most: u64, window: Duration, elapsed: i64) {
        let out = i128::from(elapsed) * i128::from(most) * MILLION / i128::from(span(window));
        let left = i128::from(self.content) - out;
        self.content = u64::try_from(left.max(0)).unwrap_or(u64::MAX);
    }

    /// What is counted, by its key.
    pub(super) const fn amounts(&self) -> &BTreeMap<i64, u64> {
        &self.amounts
    }

    pub(super) fn total(&self) -> u64 {
        self.amounts.values().fold(0, |a, b| a.saturating_add(*b))
    }

    pub(super) fn counted(&self, keys: &[i64]) -> u64 {
        let counted = keys.iter().filter_map(|it| self.amounts.get(it));
        counted.copied().max().unwrap_or(0)
    }

    /// When there will be room for it, where there is none. `self` is tidy.
    fn full(&self, form: &Form, amount: u64, now: Time, keys: Keys) -> Option<Time> {
        let most = form.most();
        let over = |used: u64| most < used.saturating_add(amount);
        match form {
            Form::Concurrency { .. } | Form::Rolling { .. } => {
                let mut left = self.total();
                if !over(left) {
                    return None;
                }
                let stays = match form {
                    Form::Rolling { window, .. } => span(*window),
                    _ => 0,
                };
                for (key, counted) in &self.amounts {
                    left = left.saturating_sub(*counted);
                    if !over(left) {
                        return Some(time(key + stays));
                    }
                }
                Some(NEVER)
            }
            Form::Bucket {
                most: rate, window, ..
            } => {
                let held = millions(self.total()).saturating_add(self.content);
                let room = millions(most).saturating_sub(millions(amount));
                let much = held.saturating_sub(room);
                if much == 0 {
                    return None;
                }
                // what is under way ends later, and then begins to run out: a first guess
                let wait = i128::from(much) * i128::from(span(*window));
                let wait = wait.div_euclid(i128::from(*rate) * MILLION) + 1;
                Some(now + Duration::microseconds(i64::try_from(wait).unwrap_or(i64::MAX / 4)))
            }
            Form::Calendar { .. } | Form::Spend { .. } => {
                let full = keys.all().filter(|it| over(self.counted(&[*it])));
                full.map(|it| form.ends(it)).max()
            }
        }
    }
}

pub(super) fn micros(at: Time) -> i64 {
    at.timestamp_micros()
}

pub(super) fn time(micros: i64) -> Time {
    Utc.timestamp_micros(micros).single().unwrap_or(NEVER)
}

pub(super) fn span(window: Duration) -> i64 {
    window.num_microseconds().unwrap_or(i64::MAX).max(1)
}

pub(super) fn slice(window: Duration) -> i64 {
    (span(window) / SLICES).max(1)
}

/// The next multiple of `step`.
pub(super) const fn up(at: i64, step: i64) -> i64 {
    at.div_euclid(step) * step + if at.rem_euclid(step) == 0 { 0 } else { step }
}

fn millions(amount: u64) -> u64 {
    amount.saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests;
