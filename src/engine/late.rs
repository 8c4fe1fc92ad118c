//! Jobs that come late: skipped, put before a person, or given their turn among those of their account.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::Duration;

use super::shared::Shared;
use crate::clock::Time;
use crate::config::Config;
use crate::effect::Effect;
use crate::job::{Job, Progress};
use crate::lateness::{Policy, Standing, Verdict, judge, paced, turn};
use crate::ledger::{LateBefore, LatePlace, Ledger};
use crate::outcome::{Class, Failure, Outcome, Scope};
use crate::platform::gate::{Lateness, PACED};
use crate::sabotage;
use crate::telemetry::{metrics, redact};

/// Jobs that are looked at before one that comes late, at most: with more, it is tried again before its turn.
const BEFORE_MAX: u32 = 200;

/// Judges one attempt's job.
pub struct Judge {
    ledger: Arc<dyn Ledger>,
    standing: Standing,
    job: Arc<Job>,
    /// What is overdue of its account goes one in each span of this length.
    pace: Option<Duration>,
}

impl Judge {
    /// Of a job, under a configuration.
    pub fn of(ledger: Arc<dyn Ledger>, job: Arc<Job>, config: &Config) -> Self {
        let account = job.account.as_ref();
        let account = account.and_then(|it| config.accounts.get(it));
        Self {
            ledger,
            standing: config.standing(&job.kind, &job.terms()),
            pace: account.and_then(|it| config.pace_of(it)),
            job,
        }
    }

    /// Whether it comes so late that it goes at its account's pace.
    ///
    /// # Errors
    /// How its attempt ends where nothing may be begun now.
    pub async fn look(&self, now: Time) -> Result<bool, Outcome> {
        if self.job.cancel || self.standing.is_in_time(now) {
            return Ok(false);
        }
        let effects = self.ledger.effects(self.job.id).await;
        let effects = effects.map_err(|e| Outcome::released(e.to_string()))?;
        let begun = effects.iter().filter_map(Effect::begun).min();
        let begun = begun.filter(|_| !sabotage!("late.begun"));
        let verdict = judge(&self.standing, begun, now);
        if let Some(outcome) = self.standing.outcome(verdict) {
            match verdict {
                Verdict::Skip(_) => metrics::late(Policy::Skip.as_str()),
                Verdict::Ask(_) => metrics::late(Policy::Ask.as_str()),
                Verdict::Go { .. } | Verdict::Expired => {}
            }
            return Err(outcome);
        }
        let overdue = verdict == Verdict::Go { overdue: true };
        if overdue && begun.is_none() {
            self.first(now).await?;
        }
        Ok(overdue)
    }

    /// Whether no other of its account goes before it.
    async fn first(&self, now: Time) -> Result<(), Outcome> {
        let job = &self.job;
        let (Some(pace), Some(due), Some(account)) = (self.pace, self.standing.due, &job.account)
        else {
            return Ok(());
        };
        let place = LatePlace {
            account: account.clone(),
            priority: job.priority,
            due,
            id: job.id,
        };
        let of = LateBefore {
            due: now - self.standing.grace,
            tried: now - pace,
            most: BEFORE_MAX,
        };
        let before = self.ledger.late_before(&place, &of).await;
        let before = before.map_err(|e| Outcome::released(e.to_string()))?;
        let Some(at) = turn(&before, pace, now) else {
            return Ok(());
        };
        let why = paced(account, pace, at);
        let why = Failure::new(Class::Throttled, Scope::Handler, PACED, why);
        Err(why.after(Some(at - now)).into())
    }
}

#[async_trait]
impl Lateness for Judge {
    async fn judge(&self, _: &Effect, now: Time) -> Result<bool, Outcome> {
        self.look(now).await
    }
}

/// A job that waits for its turn was not tried: it is put off, and says so meanwhile.
pub async fn put_off(shared: &Shared, job: &Job, outcome: Outcome) -> Outcome {
    let failure = match outcome {
        Outcome::Failed(it) if it.code == PACED => it,
        other => return other,
    };
    let until = shared.now() + failure.retry_after().unwrap_or_default();
    let reason = failure.message;
    if let Some(token) = job.token {
        let told = Progress {
            percent: 0,
            message: redact::text(&reason).into_owned(),
        };
        // for people only: a ledger that is away refuses the outcome, too
        if let Err(e) = shared.ledger.progress(&[(job.id, token, told)]).await {
            tracing::debug!(job = %job.id, "progress: {e}");
        }
    }
    Outcome::Snoozed { until, reason }
}
