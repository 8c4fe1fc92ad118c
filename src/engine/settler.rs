//! Settle: write an outcome down, then give the slot back. The one tail of every attempt.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use super::batcher::Batcher;
use super::shared::{BATCH, Hold, Settling, Shared, Stop, What};
use crate::clock::Time;
use crate::crashpoint;
use crate::job::Job;
use crate::ledger::{AttemptEnd, Guard, Ledger, Settled, Settlement};
use crate::lifecycle::{Event, advance};
use crate::outcome::Outcome;

/// Starts the group commit of outcomes.
pub fn start(ledger: Arc<dyn Ledger>) -> Settling {
    Batcher::start(BATCH, 3, move |batch: Vec<Settlement>| {
        let ledger = ledger.clone();
        async move {
            crashpoint!("settle.before_commit");
            let settled = ledger.settle(&batch).await;
            crashpoint!("settle.after_commit");
            match settled {
                Ok(it) => it.into_iter().map(Ok).collect(),
                Err(e) => {
                    let e = Arc::new(e);
                    batch.iter().map(|_| Err(e.clone())).collect()
                }
            }
        }
    })
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
    let now = shared.clock.now();
    let outcome = match &ended.event {
        Event::Ended(it) => Some(it.clone()),
        _ => None,
    };
    let Some(token) = job.token else {
        tracing::error!(job = %job.id, "a claimed job without a token: a defect");
        return;
    };
    let mut facts = job.facts(shared.policy(&job.kind));
    // the job is as it was claimed: somebody may have called it off since. A handler that was told to
    // stop says no more than that it stopped, and would be run again
    facts.cancel |= shared.running.why(job.id) == Some(Stop::Cancel);
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
    let settled = commit(shared, settlement).await;
    crashpoint!("settle.before_release");
    hold.leave();
    shared.free(&job.lane, &[job.id]).await;
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
    let ms = (shared.clock.now() - began_at).num_milliseconds();
    match (settled, outcome) {
        (Some(Settled::Done), Some(outcome)) => {
            tracing::info!(job = %job.id, kind = job.kind, lane = job.lane, attempt = job.attempts + 1,
                outcome = outcome.word(), state = %transition.to, ms, "attempt ended");
            shared.tell(job, What::Ended(outcome, transition));
        }
        (Some(Settled::Done), None) => {
            tracing::info!(job = %job.id, kind = job.kind, state = %transition.to, "job ended before its attempt");
        }
        (Some(Settled::Stale), _) => {
            tracing::warn!(job = %job.id, kind = job.kind, epoch = job.epoch, "late settle refused: the lease was lost");
        }
        (None, _) => {
            tracing::warn!(job = %job.id, kind = job.kind, "not settled: the daemon ended first; the lease will run out");
        }
    }
}

/// Submits until the ledger has answered. `None` when the daemon ends first.
async fn commit(shared: &Shared, settlement: Settlement) -> Option<Settled> {
    let mut waits = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(1))
        .with_jitter()
        .without_max_times()
        .build();
    loop {
        match shared.settling.submit(settlement.clone()).await? {
            Ok(it) => return Some(it),
            Err(e) => tracing::warn!(job = %settlement.id, "settle: {e}; trying again"),
        }
        tokio::time::sleep(waits.next()?).await;
    }
}
