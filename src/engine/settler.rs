//! Settle: write an outcome down, then give the slot back. The one tail of every attempt.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use uuid::Uuid;

use super::batcher::Batcher;
use super::shared::{BATCH, Hold, Settling, Shared, What};
use crate::clock::Time;
use crate::crashpoint;
use crate::job::Job;
use crate::ledger::{AttemptEnd, Guard, Ledger, LedgerError, Settled, Settlement};
use crate::lifecycle::{Event, advance};
use crate::outcome::{Class, Failure, Outcome, Scope};
use crate::telemetry::metrics;

/// Starts the group commit of outcomes.
pub fn start(ledger: Arc<dyn Ledger>) -> Settling {
    Batcher::start(BATCH, 3, move |batch: Vec<Settlement>| {
        let ledger = ledger.clone();
        async move { in_parts(&*ledger, &batch).await }
    })
}

/// Settles a batch, one answer each, in order. One that the ledger refuses is found by halving: it
/// never blocks the others.
pub async fn in_parts(
    ledger: &dyn Ledger,
    batch: &[Settlement],
) -> Vec<Result<Settled, Arc<LedgerError>>> {
    let mut answers = Vec::with_capacity(batch.len());
    let mut todo = vec![batch];
    while let Some(part) = todo.pop() {
        match written(ledger, part).await {
            Ok(settled) => answers.extend(settled.into_iter().map(Ok)),
            Err(e) if e.is_away() || part.len() == 1 => {
                let e = Arc::new(e);
                answers.extend(part.iter().map(|_| Err(e.clone())));
            }
            Err(_) => {
                let (left, right) = part.split_at(part.len() / 2);
                todo.push(right);
                todo.push(left);
            }
        }
    }
    answers
}

async fn written(ledger: &dyn Ledger, part: &[Settlement]) -> Result<Vec<Settled>, LedgerError> {
    crashpoint!("settle.before_commit", LedgerError::Away)?;
    let settled = ledger.settle(part).await?;
    crashpoint!("settle.after_commit", LedgerError::Away)?;
    Ok(settled)
}

/// How an attempt ended: what [`settle`] needs besides the job.
pub struct Ended {
    /// What happened.
    pub event: Event,
    /// When the attempt began.
    pub began_at: Time,
    /// The outcome's word for the history.
    pub word: &'static str,
}

/// Writes down how a claimed job's attempt ended, and frees its slot. While the ledger is away it
/// tries again: the job stays named in the heartbeat, and the token decides in the end.
pub async fn settle(shared: &Shared, job: &Arc<Job>, hold: &Hold, ended: Ended) {
    let now = shared.now();
    let outcome = match &ended.event {
        Event::Ended(it) => Some(it.clone()),
        _ => None,
    };
    let Some(token) = job.token else {
        tracing::error!(job = %job.id, "a claimed job without a token: a defect");
        return;
    };
    let mut facts = job.facts(shared.policy(&job.kind));
    // asked since it was claimed; but given back, its open effect still has to be looked at
    facts.cancel |= shared.running.is_called_off(job.id);
    facts.open = facts.cancel && shared.is_open(job).await;
    let transition = match advance(&facts, ended.event, now) {
        Ok(it) => it,
        Err(e) => {
            tracing::error!(job = %job.id, "{e}: a defect");
            return;
        }
    };
    let failure = transition.failure.clone();
    let settlement = Settlement {
        id: job.id,
        guard: Guard::Token(token),
        attempt: Some(AttemptEnd {
            epoch: job.epoch,
            number: job.attempts + 1,
            run: job.run,
            host: shared.run.host.clone(),
            began_at: ended.began_at,
            ended_at: now,
            outcome: ended.word.to_owned(),
            failure: failure.clone(),
        }),
        result: match &outcome {
            Some(Outcome::Completed(value)) => Some(value.to_string()),
            _ => None,
        },
        fingerprint: failure.as_ref().map(|it| it.fingerprint(&job.kind)),
        transition: transition.clone(),
        edit: None,
        audit: None,
    };
    let settled = commit(shared, job, settlement).await;
    crashpoint!("settle.before_release");
    hold.leave();
    shared.free_settled(&job.lane, job.id).await;
    report(shared, job, settled, outcome, transition, ended.began_at);
}

fn report(
    shared: &Shared,
    job: &Arc<Job>,
    settled: Option<Settled>,
    outcome: Option<Outcome>,
    transition: crate::lifecycle::Transition,
    began_at: Time,
) {
    let ms = (shared.now() - began_at).num_milliseconds();
    match (settled, outcome) {
        (Some(Settled::Done), Some(outcome)) => {
            let failure = outcome.failure();
            let (class, code) = (
                failure.map(|it| it.class.as_str()),
                failure.map(|it| it.code.as_str()),
            );
            tracing::info!(job = %job.id, kind = job.kind, lane = job.lane, attempt = job.attempts + 1,
                outcome = outcome.word(), state = %transition.to, class, code, ms, "attempt ended");
            metrics::settled(&job.lane, outcome.word());
            if let Some(kind) = shared.kind(&job.kind) {
                metrics::attempt(
                    kind.name(),
                    (shared.now() - began_at).to_std().unwrap_or_default(),
                );
            }
            shared.tell(job, What::Ended(outcome, transition));
        }
        (Some(Settled::Done), None) => {
            tracing::info!(job = %job.id, kind = job.kind, state = %transition.to, "job ended before its attempt");
        }
        (Some(Settled::Stale), _) => {
            metrics::settles_stale(1);
            tracing::warn!(job = %job.id, kind = job.kind, epoch = job.epoch, "late settle refused: the lease was lost");
        }
        (None, _) => {
            tracing::warn!(job = %job.id, kind = job.kind, "not settled: the daemon ended first; the lease will run out");
        }
    }
}

/// Submits until the ledger has answered. `None` when the daemon ends first.
///
/// An outcome that the ledger refuses to store (and would refuse for ever) is replaced by one that
/// says so: a dead letter that a person sees, not a job that runs again and again.
async fn commit(shared: &Shared, job: &Job, mut settlement: Settlement) -> Option<Settled> {
    let mut replaced = false;
    let mut waits = waits();
    loop {
        match shared.settling.submit(settlement.clone()).await? {
            Ok(it) => return Some(it),
            Err(e) if !e.is_away() && !replaced => {
                tracing::error!(job = %settlement.id, "the outcome can't be stored: {e}");
                replaced = true;
                settlement = unstorable(shared, job, settlement, &e);
            }
            Err(e) => tracing::warn!(job = %settlement.id, "settle: {e}; trying again"),
        }
        tokio::time::sleep(waits.next()?).await;
    }
}

/// How long to wait from one try to the next while the ledger is away; it never ends.
fn waits() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(1))
        .with_jitter()
        .without_max_times()
        .build()
}

/// Charges a suspect's crash ahead, just before its handler begins: should this daemon die, it is
/// written down which of its suspects had begun. Tries until the ledger has answered; written twice it
/// counts once. `None` when the daemon ends first.
pub async fn charge_ahead(shared: &Shared, job: &Job, token: Uuid) -> Option<Settled> {
    let facts = job.facts(shared.policy(&job.kind));
    let transition = match advance(&facts, Event::Begun, shared.now()) {
        Ok(it) => it,
        Err(e) => {
            tracing::error!(job = %job.id, "{e}: a defect");
            return None;
        }
    };
    let settlement = Settlement {
        id: job.id,
        guard: Guard::Token(token),
        transition,
        attempt: None,
        result: None,
        fingerprint: None,
        edit: None,
        audit: None,
    };
    let mut waits = waits();
    loop {
        match shared.settling.submit(settlement.clone()).await? {
            Ok(it) => return Some(it),
            Err(e) => tracing::warn!(job = %job.id, "charge ahead: {e}; trying again"),
        }
        tokio::time::sleep(waits.next()?).await;
    }
}

/// The settlement that stands in for one that the ledger refuses.
fn unstorable(shared: &Shared, job: &Job, settlement: Settlement, e: &LedgerError) -> Settlement {
    let message = format!("the attempt ended, but the ledger refused its outcome: {e}");
    let failure = Failure::new(Class::Permanent, Scope::Handler, "unstorable", message);
    let event = Event::Ended(failure.clone().into());
    let facts = job.facts(shared.policy(&job.kind));
    let Ok(transition) = advance(&facts, event, shared.now()) else {
        return settlement;
    };
    Settlement {
        transition,
        result: None,
        fingerprint: Some(failure.fingerprint(&job.kind)),
        attempt: settlement.attempt.map(|it| AttemptEnd {
            outcome: "failed".to_owned(),
            failure: Some(failure),
            ..it
        }),
        ..settlement
    }
}
