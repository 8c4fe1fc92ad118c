//! Who does a job: its own account, or one that stands in for it. Asked before an attempt begins; the
//! attempt then runs as if the job had named that account.

use std::sync::Arc;

use serde_json::Value;

use super::shared::Shared;
use crate::clock::Time;
use crate::config::{Config, falls_back_to};
use crate::context::Tried;
use crate::fallback::{Choice, Decision, MOMENT, bound, decide, has_some};
use crate::gate::{Cause, Closure, Scope as Area, Subject};
use crate::job::Job;
use crate::ledger::{Fence, LedgerError};
use crate::outcome::{Failure, Held, Outcome};
use crate::protocol::{away, lease_lost};
use crate::telemetry::metrics;

/// Who closes here, for people.
const ACTOR: &str = "presswork";
/// Where nobody can do such a job, others like it aren't tried for so long.
const NOBODY: chrono::Duration = chrono::Duration::seconds(5);
/// A job that waits for the one account at which it was sent looks no sooner again.
const SOON: chrono::Duration = chrono::Duration::seconds(1);

/// The job as an attempt runs it.
pub struct Provided {
    /// With the account that does it, and the model there.
    pub job: Arc<Job>,
    /// Whose stead that is, where it isn't the job's own account.
    pub tried: Option<Tried>,
}

/// The step at which it is recorded that an account does a job, and how.
fn step(account: &str) -> String {
    format!("provider-{account}")
}

/// Says who does a job, and records it where that isn't the job's own account.
///
/// # Errors
/// Nobody can now, or the ledger is away.
pub async fn provided(shared: &Shared, job: &Arc<Job>, fence: &Fence) -> Result<Provided, Outcome> {
    let own = Provided {
        job: job.clone(),
        tried: None,
    };
    let (Some(account), true) = (&job.account, falls_back_to(&job.kind).is_some()) else {
        return Ok(own);
    };
    let config = shared.config.load_full();
    // nothing was written down for a job that nobody has ever run
    let is_first = job.epoch <= 1 && !shared.running.is_looking(job.id);
    if is_first && !has_some(&config, &job.kind, account) {
        return Ok(own);
    }
    let effects = match is_first {
        true => Vec::new(),
        false => shared.ledger.effects(job.id).await.map_err(away)?,
    };
    let closures = shared.shut.closures();
    match decide(job, &config, &effects, &closures, shared.now()) {
        Decision::Own => Ok(own),
        Decision::Bound(there) if there == *account => Ok(own),
        Decision::Bound(there) => {
            let choice = recorded(shared, fence, &there).await.map_err(away)?;
            choice.map_or_else(|| Err(unrecorded(&there)), |it| moved(job, account, it?))
        }
        Decision::Other(choice) => {
            let choice = chosen(shared, job, fence, choice).await?;
            moved(job, account, choice)
        }
        Decision::Nobody(why) => {
            nobody(shared, job, account, &config, &why);
            Err(Outcome::shut(why))
        }
    }
}

/// What was recorded of an account.
async fn recorded(
    shared: &Shared,
    fence: &Fence,
    account: &str,
) -> Result<Option<Result<Choice, Outcome>>, LedgerError> {
    let step = step(account);
    let known = shared.ledger.step(fence.job, fence.revision, &step).await?;
    Ok(known.map(|text| {
        serde_json::from_str(&text).map_err(|e| {
            let message = format!("the recorded value of step `{step}` can't be read: {e}");
            let failure = Failure::permanent("step_value", message);
            Outcome::Held(Held::Nondeterministic, failure)
        })
    }))
}

/// The choice as it was recorded first: so that what is asked at an account stays the same.
async fn chosen(
    shared: &Shared,
    job: &Job,
    fence: &Fence,
    choice: Choice,
) -> Result<Choice, Outcome> {
    let known = recorded(shared, fence, &choice.account).await;
    if let Some(known) = known.map_err(away)? {
        return known;
    }
    let text = serde_json::to_string(&choice)
        .map_err(|e| Failure::permanent("step_value", format!("the choice is no JSON: {e}")))?;
    let step = step(&choice.account);
    let kept = shared.ledger.record_step(fence, &step, &text).await;
    if !kept.map_err(away)? {
        return Err(lease_lost());
    }
    metrics::fallback(&job.kind);
    tracing::info!(job = %job.id, kind = job.kind, account = choice.account, "it stands in for the job's own account: {}", choice.why);
    Ok(choice)
}

/// The job as it is done by another account.
fn moved(job: &Job, own: &str, choice: Choice) -> Result<Provided, Outcome> {
    let mut it = job.clone();
    if let Some(model) = &choice.model {
        let payload = serde_json::from_str::<Value>(&it.payload);
        let mut payload =
            payload.map_err(|e| Failure::permanent("payload", format!("it is no JSON: {e}")))?;
        payload["model"] = model.as_str().into();
        it.payload = payload.to_string().into();
    }
    it.account = Some(choice.account);
    Ok(Provided {
        job: Arc::new(it),
        tried: Some(Tried {
            account: own.to_owned(),
            why: choice.why,
        }),
    })
}

fn unrecorded(account: &str) -> Outcome {
    let message = format!(
        "it was sent for account `{account}`, and it isn't written down how; look there, then cancel it, or revive it with --edit"
    );
    Outcome::Held(
        Held::Nondeterministic,
        Failure::permanent("provider", message),
    )
}

/// Dispatch knows less than [`decide`]: what it let through in vain it doesn't try again for a moment.
fn nobody(shared: &Shared, job: &Job, account: &str, config: &Config, why: &str) {
    let area = Area {
        account: Some(account.to_owned()),
        tenant: Some(job.tenant.clone()),
        kind: Some(job.kind.clone()),
        ..Area::default()
    };
    let now = shared.now();
    let closure = Closure::new(Cause::Fallbacks, area, (ACTOR, why), now);
    shared.shut.close(closure.until(now + NOBODY), config, now);
}

/// How an attempt ended, as it counts for a job of which something was permitted already: dispatch goes by
/// the job's own account, so what such a job waits for it waits for by itself. What its own request was
/// answered is kept as it is.
pub async fn waited(shared: &Shared, job: &Job, outcome: Outcome) -> Outcome {
    let Outcome::Shut {
        reason,
        failure: None,
    } = outcome
    else {
        return outcome;
    };
    let (Some(own), true) = (&job.account, falls_back_to(&job.kind).is_some()) else {
        return Outcome::shut(reason);
    };
    let config = shared.config.load_full();
    let effects = match shared.ledger.effects(job.id).await {
        Ok(it) => it,
        Err(e) => return away(e),
    };
    match bound(job, &effects) {
        Some(there) if there != own || has_some(&config, &job.kind, own) => {
            let until = until(shared, job, there, &config);
            Outcome::Snoozed { until, reason }
        }
        _ => Outcome::shut(reason),
    }
}

/// When to look again at an account that is closed.
fn until(shared: &Shared, job: &Job, account: &str, config: &Config) -> Time {
    let now = shared.now();
    let platform = config.accounts.get(account);
    let subject = Subject {
        account: Some(account.to_owned()),
        platform: platform.map(|it| it.platform.clone()),
        ..Subject::of(job, config)
    };
    let closures = shared.shut.closures();
    let shut = closures.iter().filter(|it| it.shuts(&subject, now));
    let latest = shut.map(|it| it.until.unwrap_or(now + MOMENT)).max();
    latest.unwrap_or(now).clamp(now + SOON, now + MOMENT)
}
