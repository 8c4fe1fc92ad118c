//! What becomes of a backlog: when each job gets its share of a budget, if nothing else comes. Pure: the
//! very form is played ahead, with places kept as they are; what a request takes in time is left out.

use super::form::{Form, NEVER};
use super::reserve::Kept;
use super::uses::{End, Uses};
use crate::clock::Time;

/// A forecast reaches so far; what comes later isn't told.
pub const REACH: chrono::Duration = chrono::Duration::days(400);
/// Moments that are played at most.
const MOMENTS: usize = 20_000;

/// A job that will ask for its share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asks {
    /// From when on.
    pub from: Time,
    /// It was scheduled for a time.
    pub planned: bool,
}

/// How a budget stands, and what it is by.
#[derive(Clone, Copy, Debug)]
pub struct Stands<'a> {
    /// What it allows.
    pub form: &'a Form,
    /// What each job takes.
    pub amount: u64,
    /// Places are kept for those that were scheduled.
    pub keeps: bool,
    /// What is used.
    pub uses: &'a Uses,
}

impl Form {
    /// Whether it can be said ahead when there is room: what is under way ends when it ends, and what a send
    /// costs is known after it.
    pub const fn has_forecast(&self) -> bool {
        match self {
            Self::Bucket { .. } | Self::Rolling { .. } | Self::Calendar { .. } => true,
            Self::Concurrency { .. } | Self::Spend { .. } => false,
        }
    }
}

/// When each of these gets its share, one for each; `None`: not within [`REACH`], or nobody can say. Those
/// that were scheduled go first at their time, the others in the order in which they ask, and those that
/// ask at the same time in the order given.
pub fn forecast(stands: Stands<'_>, asks: &[Asks], now: Time) -> Vec<Option<Time>> {
    let mut expected = vec![None; asks.len()];
    if !stands.form.has_forecast() || stands.form.most() < stands.amount {
        return expected;
    }
    let mut order: Vec<usize> = (0..asks.len()).collect();
    order.sort_by_key(|n| (asks[*n].from.max(now), *n));
    let (planned, others) = order
        .into_iter()
        .partition(|n| stands.keeps && asks[*n].planned);
    let mut play = Play {
        stands,
        uses: stands.uses.clone(),
    };
    let mut lines = [Line::of(planned, now), Line::of(others, now)];
    let mut at = now;
    for _ in 0..MOMENTS {
        let next = (0..2).filter_map(|n| Some((lines[n].next(asks)?, n)));
        let Some((moment, line)) = next.min() else {
            break;
        };
        at = at.max(moment);
        if now + REACH < at {
            break;
        }
        let kept = match line {
            0 => Kept::default(),
            _ => lines[0].kept(asks, &stands),
        };
        let (taken, after) = play.moment(lines[line].asking(asks, at), &kept, at);
        for n in lines[line].take(taken) {
            expected[n] = Some(at);
        }
        lines[line].after = after;
    }
    expected
}

/// Those that ask in one order.
struct Line {
    jobs: Vec<usize>,
    first: usize,
    /// Before that it is in vain.
    after: Time,
}

impl Line {
    const fn of(jobs: Vec<usize>, now: Time) -> Self {
        Self {
            jobs,
            first: 0,
            after: now,
        }
    }

    fn left(&self) -> &[usize] {
        &self.jobs[self.first..]
    }

    /// When the first of it asks.
    fn next(&self, asks: &[Asks]) -> Option<Time> {
        let first = *self.left().first()?;
        Some(asks[first].from.max(self.after)).filter(|it| *it < NEVER)
    }

    /// How many ask by then.
    fn asking(&self, asks: &[Asks], at: Time) -> u64 {
        let ask = self.left().iter().take_while(|n| asks[**n].from <= at);
        ask.count() as u64
    }

    /// The places that are kept for those that are left: no more than there are in all.
    fn kept(&self, asks: &[Asks], stands: &Stands<'_>) -> Kept {
        let most = usize::try_from(stands.form.places(stands.amount)).unwrap_or(usize::MAX);
        let nearest = self.left().iter().take(most);
        Kept::of(stands.amount, nearest.map(|n| asks[*n].from))
    }

    fn take(&mut self, count: u64) -> Vec<usize> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let taken: Vec<usize> = self.left().iter().take(count).copied().collect();
        self.first += taken.len();
        taken
    }
}

struct Play<'a> {
    stands: Stands<'a>,
    uses: Uses,
}

impl Play<'_> {
    /// Lets as many go at a moment as fit, of so many that ask; and when the next may.
    fn moment(&mut self, asking: u64, kept: &Kept, at: Time) -> (u64, Time) {
        let Stands { form, amount, .. } = self.stands;
        let fits = |count: u64| {
            let all = amount.saturating_mul(count);
            let uses = &self.uses;
            uses.kept_back(form, all, kept, (at, at)).is_none() && uses.fits_at(form, all, at) <= at
        };
        // the most that fit; one more doesn't
        let (mut fit, mut over) = (0, asking + 1);
        while fit + 1 < over {
            let count = fit + (over - fit) / 2;
            if fits(count) {
                fit = count;
            } else {
                over = count;
            }
        }
        if 0 < fit
            && let Ok(share) = self.uses.take(form, amount * fit, at, at)
        {
            self.uses.finish(form, &share, End::Sent(at), at);
        }
        if fit == asking {
            return (fit, at);
        }
        let plain = self.uses.fits_at(form, amount, at);
        let beside = self.uses.kept_back(form, amount, kept, (at, at));
        let after = beside.map_or(plain, |it| it.at.max(plain));
        // time goes on, whatever is rounded
        (fit, after.max(at + chrono::Duration::microseconds(1)))
    }
}

#[cfg(test)]
mod tests;
