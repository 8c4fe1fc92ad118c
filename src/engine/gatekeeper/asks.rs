//! What is asked of the gatekeeper, what it answers, and the taking: all that a request wants, or nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::budget::{
    Budget, Counted, End, Form, Kept, KeptBack, Key, Paid, Refused, Share, Spend, Uses,
};
use crate::clock::Time;
use crate::ledger;
use crate::sabotage;

/// Money that was reserved so lately may soon be known to be less.
const YOUNG: chrono::Duration = chrono::Duration::minutes(10);
/// A place is kept for so long after its time.
const KEPT_FOR: chrono::Duration =
    chrono::Duration::seconds(ledger::KEPT_FOR.as_secs().cast_signed());

/// What a request takes of one part of a budget.
#[derive(Clone, Debug)]
pub(super) struct Want {
    pub(super) key: Key,
    pub(super) form: Form,
    pub(super) amount: u64,
    /// It is money, and for what.
    pub(super) spend: Option<Spend>,
    /// The budget, where places are kept in it.
    pub(super) keeps: Option<Arc<Budget>>,
}

/// What is kept in each of what a request wants.
pub(super) type Beside = Vec<Arc<Kept>>;

/// A request that wants to go, and is over `within` from then.
pub(super) struct Ask {
    pub(super) wants: Arc<[Want]>,
    pub(super) within: Duration,
    /// The places that are kept in each of them, where there are any.
    pub(super) beside: Option<Beside>,
    /// When the job was wanted, where it was scheduled.
    pub(super) wanted_at: Option<Time>,
}

impl Ask {
    /// What is kept in the `n`-th that it wants, and not for itself.
    fn kept(&self, n: usize, now: Time) -> Option<&Kept> {
        let own = |at: Time| now - KEPT_FOR < at;
        if self.wanted_at.is_some_and(own) {
            return None;
        }
        let kept = self.beside.as_ref()?.get(n)?;
        (!kept.is_empty() && !sabotage!("budget.reserve")).then_some(&**kept)
    }
}

/// What was taken for a request.
pub(super) struct Grant {
    pub(super) wants: Arc<[Want]>,
    /// One for each of them, in order; of money none: it is reserved by its own name.
    pub(super) shares: Vec<Option<Share>>,
}

impl Grant {
    pub(super) fn parts(&self) -> impl Iterator<Item = (&Want, &Share)> {
        let parts = self.wants.iter().zip(&self.shares);
        parts.filter_map(|(want, share)| Some((want, share.as_ref()?)))
    }

    /// What was reserved, and where.
    pub(super) fn debts(&self) -> Vec<Debt> {
        let debt = |want: &Want| {
            let spend = want.spend.as_ref()?;
            Some(Debt {
                key: want.key.clone(),
                form: want.form,
                name: spend.name(),
                by: spend.by,
            })
        };
        self.wants.iter().filter_map(debt).collect()
    }
}

/// Money that is reserved in one part of a budget.
pub struct Debt {
    /// Where.
    pub key: Key,
    /// By which it is counted.
    pub form: Form,
    /// Under which name: see [`Spend::name`].
    pub name: String,
    /// Who reserved it.
    pub by: Uuid,
}

pub(super) enum Answer {
    Go(Grant),
    /// `early`: what is under way is usually over long before that.
    Full {
        key: Key,
        form: Form,
        amount: u64,
        used: u64,
        at: Time,
        now: Time,
        early: bool,
        /// It would fit, but for places that are kept.
        kept: Option<KeptBack>,
    },
    Away(String),
}

/// What is over.
pub(super) enum Over {
    /// A request, and when that was heard of; `None`: it wasn't sent.
    Request(Grant, Option<Instant>),
    /// A debt.
    Debt(Debt, Paid),
}

impl Over {
    /// What was taken for a request.
    pub(super) fn wants(&self) -> Option<&Arc<[Want]>> {
        match self {
            Self::Request(grant, _) => Some(&grant.wants),
            Self::Debt(..) => None,
        }
    }

    /// Where something was owed.
    pub(super) fn owed(&self) -> Option<&Key> {
        match self {
            Self::Request(..) => None,
            Self::Debt(debt, _) => Some(&debt.key),
        }
    }
}

/// Takes all that a request wants, or nothing.
pub(super) fn take(rows: &mut HashMap<&Key, Counted>, ask: &Ask, now: Time) -> Answer {
    let until = now + chrono::Duration::from_std(ask.within).unwrap_or_default();
    let mut taken: Vec<(&Want, Taken)> = Vec::with_capacity(ask.wants.len());
    let mut full: Option<(Time, Answer)> = None;
    for (n, want) in ask.wants.iter().enumerate() {
        let Some(row) = rows.get_mut(&want.key) else {
            return Answer::Away("a budget's row is gone".to_owned());
        };
        let kept = ask.kept(n, now);
        let mut kept = kept.and_then(|it| {
            let times = (now, until);
            row.uses.kept_back(&want.form, want.amount, it, times)
        });
        let got = match &want.spend {
            None => {
                let share = row.uses.take(&want.form, want.amount, now, until);
                share.map(Taken::Share)
            }
            Some(spend) => {
                let before = Taken::Money(Box::new(row.uses.clone()));
                let held = row.uses.reserve(&want.form, spend, want.amount, now);
                held.map(|()| before)
            }
        };
        let got = match (got, kept) {
            (Ok(it), Some(back)) => {
                taken.push((want, it));
                Err(Refused { at: back.at })
            }
            (got, _) => {
                kept = None;
                got
            }
        };
        match got {
            Ok(it) => taken.push((want, it)),
            Err(Refused { at }) if full.as_ref().is_none_or(|(latest, _)| *latest < at) => {
                let answer = Answer::Full {
                    key: want.key.clone(),
                    form: want.form,
                    amount: want.amount,
                    used: row.uses.used(&want.form, now),
                    at,
                    now,
                    // what a send costs in the end is less than what is reserved for it
                    early: match want.form {
                        Form::Concurrency { .. } => true,
                        _ => row.uses.has_held_since(now - YOUNG),
                    },
                    kept,
                };
                full = Some((at, answer));
            }
            Err(_) => {}
        }
    }
    let Some((_, answer)) = full else {
        return Answer::Go(Grant {
            wants: ask.wants.clone(),
            shares: taken
                .into_iter()
                .map(|(_, it)| match it {
                    Taken::Share(share) => Some(share),
                    Taken::Money(_) => None,
                })
                .collect(),
        });
    };
    for (want, it) in taken {
        if let Some(row) = rows.get_mut(&want.key) {
            match it {
                Taken::Share(share) => row.uses.finish(&want.form, &share, End::Unsent, now),
                Taken::Money(before) => row.uses = *before,
            }
        }
    }
    answer
}

/// What was taken of a part, to be given back where another part is full.
enum Taken {
    Share(Share),
    /// The part as it was: what was reserved may have stood for an earlier try.
    Money(Box<Uses>),
}
