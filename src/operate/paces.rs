//! What is overdue of accounts and goes out at their pace: how many wait, when the next goes, and the last.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::budget::{Asks, Counted, Form, PACE, Stands, Uses, forecast};
use crate::clock::Time;
use crate::config::Config;
use crate::lateness::{Verdict, judge};
use crate::ledger::Waiting;

/// What is overdue of an account, if nothing else comes and nothing stops it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pace {
    /// The account.
    pub account: String,
    /// One goes in so many seconds; `None`: it has no pace, and what is overdue goes at once.
    pub pace_s: Option<i64>,
    /// Overdue jobs that wait. What will be skipped or put before a person isn't among them, nor what waits
    /// for a person already.
    pub waiting: u64,
    /// There are more jobs than were looked at: what is told here is the least.
    pub more: bool,
    /// When the next of them goes, or, where none waits, when one that comes may; `None`: without a pace, or
    /// nobody can say.
    pub next_at: Option<Time>,
    /// When the last of them has gone; `None`: none waits, without a pace, or nobody can say.
    pub drains_at: Option<Time>,
}

/// The accounts of which something is overdue, or whose last turn still keeps the next one back; by name.
/// `more`: there are more that wait.
pub fn paces(
    (waiting, more): (&[Waiting], bool),
    counted: &[Counted],
    config: &Config,
    now: Time,
) -> Vec<Pace> {
    let mut overdue: BTreeMap<&str, Vec<Asks>> = BTreeMap::new();
    for it in waiting {
        if let Some(account) = it.account.as_deref()
            && is_overdue(it, config, now)
        {
            overdue.entry(account).or_default().push(Asks {
                from: it.run_at,
                planned: false,
            });
        }
    }
    let turns = counted.iter().filter(|it| it.key.name == PACE);
    let turns: BTreeMap<&str, &Uses> = turns.map(|it| (it.key.whose.as_str(), &it.uses)).collect();
    for account in turns.keys() {
        overdue.entry(account).or_default();
    }
    let unused = Uses::default();
    let all = overdue.into_iter().filter_map(|(account, asks)| {
        let said = config.accounts.get(account);
        let pace = said.and_then(|it| config.pace_of(it));
        let uses = turns.get(account).copied().unwrap_or(&unused);
        let (next_at, drains_at) = match pace {
            Some(window) => expected(&Form::Rolling { most: 1, window }, uses, &asks, now),
            None => (None, None),
        };
        (!asks.is_empty() || next_at.is_some()).then(|| Pace {
            account: account.to_owned(),
            pace_s: pace.map(|it| it.num_seconds()),
            waiting: asks.len() as u64,
            more,
            next_at,
            drains_at,
        })
    });
    all.collect()
}

fn is_overdue(it: &Waiting, config: &Config, now: Time) -> bool {
    let standing = config.standing(&it.kind, &it.terms);
    !it.held && judge(&standing, it.begun, now) == Verdict::Go { overdue: true }
}

/// When the next goes, and the last. Where none waits: when one may, if that isn't now.
fn expected(form: &Form, uses: &Uses, asks: &[Asks], now: Time) -> (Option<Time>, Option<Time>) {
    if asks.is_empty() {
        let room_at = uses.fits_at(form, 1, now);
        return ((now < room_at).then_some(room_at), None);
    }
    let stands = Stands {
        form,
        amount: 1,
        keeps: false,
        uses,
    };
    let turns = forecast(stands, asks, now);
    let next = turns.iter().flatten().min().copied();
    let all = turns.into_iter().collect::<Option<Vec<Time>>>();
    (next, all.and_then(|it| it.into_iter().max()))
}

#[cfg(test)]
mod tests;
