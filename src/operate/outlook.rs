//! What becomes of the jobs that wait for a budget: the places that are kept, when the backlog has gone
//! out, and which scheduled jobs come too late.

use serde::Serialize;

use super::askers::askers;
use crate::budget::{Asks, Budget, Kept, Per, Stands, Uses, forecast};
use crate::clock::Time;
use crate::config::Config;
use crate::handler::Kind;
use crate::job::JobId;
use crate::ledger::{Ledger, LedgerError, Waiting};

/// Waiting jobs that are looked at, of all budgets together: those that may run first.
const BACKLOG: u32 = 20_000;
/// Scheduled jobs that come too late are named up to this.
const NAMED: usize = 20;
/// So late a job is still in its time.
const IN_TIME: chrono::Duration = chrono::Duration::minutes(1);

/// What becomes of those who ask for a part of a budget, if nothing else comes and nothing fails.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outlook {
    /// Jobs that wait for their turn or their time, scheduled ones too; held ones aren't among them.
    pub backlog: u64,
    /// Of those, jobs that were scheduled for a time.
    pub scheduled: u64,
    /// Jobs that wait for a person.
    pub held: u64,
    /// There are more than were looked at: what is told here is the least.
    pub more: bool,
    /// Places that are kept now for jobs that were scheduled.
    pub kept: u64,
    /// When the last of the jobs that weren't scheduled gets its share; `None`: there are none, or nobody
    /// can say.
    pub drains_at: Option<Time>,
    /// Scheduled jobs that don't get their share at their time.
    pub late: u64,
    /// The first of them.
    pub misses: Vec<Miss>,
}

/// A scheduled job that doesn't get its share at its time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Miss {
    /// The job.
    pub job: JobId,
    /// When its producer wanted it.
    pub wanted_at: Time,
    /// When it gets its share; `None`: nobody can say.
    pub expected_at: Option<Time>,
}

/// What waits, read once for all budgets.
pub struct Backlog {
    waiting: Vec<Waiting>,
    more: bool,
}

impl Backlog {
    /// Reads it.
    ///
    /// # Errors
    /// When the ledger is away.
    pub async fn read(ledger: &dyn Ledger, kinds: &[Kind]) -> Result<Self, LedgerError> {
        let names: Vec<String> = kinds.iter().map(|it| it.name().to_owned()).collect();
        let waiting = ledger.backlog(&names, BACKLOG).await?;
        let more = u32::try_from(waiting.len()).is_ok_and(|it| BACKLOG <= it);
        Ok(Self { waiting, more })
    }

    /// All of it, those that may run first at the front; held ones, too. And whether there is more than was
    /// read.
    pub fn waiting(&self) -> (&[Waiting], bool) {
        (&self.waiting, self.more)
    }

    /// What becomes of those who ask for a part of a budget; `None` where nobody is known to.
    pub fn of(
        &self,
        (budget, whose): (&Budget, &str),
        uses: &Uses,
        (config, kinds): (&Config, &[Kind]),
        now: Time,
    ) -> Option<Outlook> {
        if whose.is_empty() && budget.per != Per::All {
            return None;
        }
        let askers = askers(budget, whose, config, kinds)?;
        let its: Vec<&Waiting> = self.waiting.iter().filter(|it| askers.has(it)).collect();
        let (held, waiting): (Vec<&Waiting>, Vec<&Waiting>) =
            its.into_iter().partition(|it| it.held);
        let asks: Vec<Asks> = waiting.iter().map(|it| asks(it)).collect();
        let stands = Stands {
            form: &budget.form,
            amount: budget.amount,
            keeps: budget.keeps_places(),
            uses,
        };
        let expected = forecast(stands, &asks, now);
        let all = waiting.iter().zip(&expected);
        let (scheduled, others): (Vec<_>, Vec<_>) = all.partition(|it| it.0.wanted_at.is_some());
        let drains = others
            .iter()
            .map(|it| *it.1)
            .collect::<Option<Vec<Time>>>()
            .and_then(|it| it.into_iter().max());
        let missed = |(job, expected): &(&&Waiting, &Option<Time>)| {
            let wanted_at = job.wanted_at?;
            let in_time = expected.is_some_and(|it| it <= wanted_at + IN_TIME);
            (!in_time && budget.form.has_forecast()).then_some(Miss {
                job: job.job,
                wanted_at,
                expected_at: **expected,
            })
        };
        let mut misses: Vec<Miss> = scheduled.iter().filter_map(missed).collect();
        let late = misses.len() as u64;
        misses.truncate(NAMED);
        let kept = Kept::of(budget.amount, scheduled.iter().map(|it| it.0.run_at));
        let kept = kept.count(&budget.form, now);
        Some(Outlook {
            backlog: waiting.len() as u64,
            scheduled: scheduled.len() as u64,
            held: held.len() as u64,
            more: self.more,
            kept: match budget.keeps_places() {
                true => kept.min(budget.form.places(budget.amount)),
                false => 0,
            },
            drains_at: drains,
            late,
            misses,
        })
    }
}

fn asks(it: &Waiting) -> Asks {
    Asks {
        from: it.run_at,
        planned: it.wanted_at.is_some(),
    }
}
