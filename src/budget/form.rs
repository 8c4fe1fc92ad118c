//! The forms that a budget can have.

use std::fmt;

use chrono::{Datelike, Days, Duration, LocalResult, Months, NaiveDate, NaiveTime, TimeZone};
use chrono_tz::Tz;

use super::money::{Currency, money};
use crate::clock::{Time, span};
use crate::outcome::words;

words! {
    /// How often a calendar's budget begins anew.
    Every {
        /// At each midnight of its zone.
        Day = "day",
        /// At the midnight that begins a month of its zone.
        Month = "month",
    }
}

/// What a budget allows. Amounts are requests, or whatever a budget counts (points).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// So many under way at once.
    Concurrency {
        /// At least 1.
        most: u64,
    },
    /// A token bucket: `most` in each `window` on average, and `burst` at once. In any span of time no
    /// more than `burst` and what the span brings.
    Bucket {
        /// At least 1.
        most: u64,
        /// More than nothing.
        window: Duration,
        /// At least 1.
        burst: u64,
    },
    /// So many in any span of this length.
    Rolling {
        /// At least 1.
        most: u64,
        /// More than nothing.
        window: Duration,
    },
    /// So many in each day or month of a time zone.
    Calendar {
        /// At least 1.
        most: u64,
        /// When it begins anew.
        every: Every,
        /// Where.
        zone: Tz,
    },
    /// So much money in each day or month of a time zone. Amounts are millionths of the currency's unit.
    Spend {
        /// At least 1.
        most: u64,
        /// What is counted.
        currency: Currency,
        /// When it begins anew.
        every: Every,
        /// Where.
        zone: Tz,
    },
}

/// A time that doesn't come: what is asked for is more than a budget ever allows.
pub const NEVER: Time = Time::MAX_UTC;

/// By so much the platform's midnight may be off ours: what is sent that close to it counts on both sides.
const MIDNIGHT: Duration = Duration::seconds(5);

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Concurrency { most } => write!(f, "{most} at once"),
            Self::Bucket {
                most,
                window,
                burst,
            } => write!(f, "{most} in {}, {burst} at once", span(*window)),
            Self::Rolling { most, window } => write!(f, "{most} in any {}", span(*window)),
            Self::Calendar { most, every, zone } => write!(f, "{most} a {every} ({zone})"),
            Self::Spend {
                most, every, zone, ..
            } => write!(f, "{} a {every} ({zone})", self.amount(*most)),
        }
    }
}

impl Form {
    /// Its word in `jobs.toml`.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Concurrency { .. } => "concurrency",
            Self::Bucket { .. } => "bucket",
            Self::Rolling { .. } => "rolling",
            Self::Calendar { .. } => "calendar",
            Self::Spend { .. } => "spend",
        }
    }

    /// Whether it counts money.
    pub const fn is_money(&self) -> bool {
        matches!(self, Self::Spend { .. })
    }

    /// An amount of it, for people: `12`, `0.35 USD`.
    pub fn amount(&self, it: u64) -> String {
        match self {
            Self::Spend { currency, .. } => format!("{} {currency}", money(it)),
            _ => it.to_string(),
        }
    }

    /// The most that it allows at once.
    pub fn most(&self) -> u64 {
        match self {
            Self::Concurrency { most }
            | Self::Rolling { most, .. }
            | Self::Calendar { most, .. }
            | Self::Spend { most, .. } => *most,
            Self::Bucket { burst, .. } => *burst,
        }
    }

    /// The periods in which something may count that is sent now and over by `until`: one, or two around
    /// midnight. Empty for other forms.
    pub(super) fn periods(&self, now: Time, until: Time) -> Vec<i64> {
        let (every, zone) = match self {
            Self::Calendar { every, zone, .. } => (every, zone),
            // nobody else counts it: it is spent when it is asked for
            Self::Spend { every, zone, .. } => return vec![period(*every, *zone, now)],
            _ => return Vec::new(),
        };
        let first = period(*every, *zone, now - MIDNIGHT);
        let last = period(*every, *zone, until.max(now) + MIDNIGHT);
        // what is under way for longer than a period counts in the first and the last: it is one request
        match first == last {
            true => vec![first],
            false => vec![first, last],
        }
    }

    /// The first and the last moment of what counts in a period of a calendar, where it is sent then and
    /// over `within` from then: a little more than the period.
    pub(super) fn counts_from(&self, of: i64, within: Duration) -> (Time, Time) {
        let begins = match self {
            Self::Calendar { every, zone, .. } | Self::Spend { every, zone, .. } => {
                begin(*every, *zone, of)
            }
            _ => NEVER,
        };
        (begins - MIDNIGHT - within, self.ends(of))
    }

    /// When the period of a calendar is over for sure; [`NEVER`] of other forms.
    pub(super) fn ends(&self, period: i64) -> Time {
        match self {
            Self::Calendar { every, zone, .. } => begin(*every, *zone, period + 1) + MIDNIGHT,
            Self::Spend { every, zone, .. } => begin(*every, *zone, period + 1),
            _ => NEVER,
        }
    }
}

/// Days since the year 1, or months since the year 0.
fn period(every: Every, zone: Tz, at: Time) -> i64 {
    let date = at.with_timezone(&zone).date_naive();
    match every {
        Every::Day => i64::from(date.num_days_from_ce()),
        Every::Month => i64::from(date.year()) * 12 + i64::from(date.month0()),
    }
}

/// The moment in which a period begins in its zone.
fn begin(every: Every, zone: Tz, period: i64) -> Time {
    let date = match every {
        Every::Day => {
            let day = i32::try_from(period).ok();
            day.and_then(NaiveDate::from_num_days_from_ce_opt)
        }
        Every::Month => i32::try_from(period.div_euclid(12))
            .ok()
            .and_then(|year| NaiveDate::from_ymd_opt(year, 1, 1))
            .and_then(|it| {
                it.checked_add_months(Months::new(
                    u32::try_from(period.rem_euclid(12)).unwrap_or(0),
                ))
            }),
    };
    date.and_then(|it| midnight(zone, it)).unwrap_or(NEVER)
}

/// Where the clocks change at midnight, that hour comes twice, and the first one counts; or not at all, and
/// the day begins with the first moment that there is.
fn midnight(zone: Tz, date: NaiveDate) -> Option<Time> {
    let local = date.and_time(NaiveTime::MIN);
    match zone.from_local_datetime(&local) {
        LocalResult::Single(it) | LocalResult::Ambiguous(it, _) => Some(it.to_utc()),
        LocalResult::None => {
            let before = zone.from_local_datetime(&(date - Days::new(1)).and_time(NaiveTime::MIN));
            let mut at = before.earliest()?.to_utc() + Duration::hours(20);
            // no zone's clocks change by other than whole minutes
            while at.with_timezone(&zone).date_naive() < date {
                at += Duration::minutes(1);
            }
            Some(at)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono_tz::America::{Los_Angeles, Sao_Paulo};

    fn at(text: &str) -> Time {
        text.parse().unwrap()
    }

    fn daily(zone: Tz) -> Form {
        Form::Calendar {
            most: 1,
            every: Every::Day,
            zone,
        }
    }

    #[test]
    fn a_day_is_that_of_its_zone_when_the_clocks_change() {
        let form = daily(Los_Angeles);
        let end = |now: &str| form.ends(form.periods(at(now), at(now))[0]) - MIDNIGHT;
        // 8 March 2026 has 23 hours there, 1 November 25
        assert_eq!(end("2026-03-08T12:00:00Z"), at("2026-03-09T07:00:00Z"));
        assert_eq!(end("2026-03-07T12:00:00Z"), at("2026-03-08T08:00:00Z"));
        assert_eq!(end("2026-11-01T12:00:00Z"), at("2026-11-02T08:00:00Z"));
        assert_eq!(end("2026-10-31T12:00:00Z"), at("2026-11-01T07:00:00Z"));
    }

    #[test]
    fn a_day_without_midnight_begins_with_its_first_moment() {
        // in Brazil the clocks went from 00:00 to 01:00 on 4 November 2018
        let form = daily(Sao_Paulo);
        let now = at("2018-11-03T12:00:00Z");
        let end = form.ends(form.periods(now, now)[0]) - MIDNIGHT;
        assert_eq!(end, at("2018-11-04T03:00:00Z"));
    }

    #[test]
    fn months_end_where_they_end() {
        let form = Form::Calendar {
            most: 1,
            every: Every::Month,
            zone: Tz::UTC,
        };
        let end = |now: &str| form.ends(form.periods(at(now), at(now))[0]) - MIDNIGHT;
        assert_eq!(end("2026-12-15T00:00:00Z"), at("2027-01-01T00:00:00Z"));
        assert_eq!(end("2028-02-29T00:00:00Z"), at("2028-03-01T00:00:00Z"));
    }

    #[test]
    fn what_is_sent_around_midnight_counts_on_both_sides() {
        let form = daily(Tz::UTC);
        let of = |from: &str, until: &str| form.periods(at(from), at(until)).len();
        assert_eq!(of("2026-05-01T12:00:00Z", "2026-05-01T12:01:00Z"), 1);
        assert_eq!(of("2026-05-01T23:59:30Z", "2026-05-02T00:00:10Z"), 2);
        assert_eq!(of("2026-05-02T00:00:03Z", "2026-05-02T00:00:04Z"), 2);
    }
}
