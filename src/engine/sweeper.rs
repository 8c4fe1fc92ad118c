//! The sweeper: takes back what dead runs held, buries what is too old, keeps the house clean.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::settler::in_parts;
use super::shared::Shared;
use crate::clock::Time;
use crate::crashpoint;
use crate::job::{Job, JobId};
use crate::ledger::{AttemptEnd, Guard, LedgerError, Result, Settled, Settlement};
use crate::lifecycle::{Event, advance};
use crate::media::Swept;
use crate::telemetry::metrics;

/// How often lost leases are looked for.
const EVERY: Duration = Duration::from_millis(500);
/// Old jobs are looked for every so many ticks.
const EXPIRE_EVERY: u64 = 10;
/// How often the history is tidied: each time for a bounded while.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// The media store is swept at the start, and again every so many times: it lists every file.
const SWEEP_EVERY: u64 = 60;
/// Jobs that a tick takes back at most.
const MOST: u32 = 1_000;

/// The sweeper of a daemon.
pub struct Sweeper {
    shared: Arc<Shared>,
}

impl Sweeper {
    /// The sweeper.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Ticks until the daemon has ended.
    pub async fn run(&self) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for tick in 0u64.. {
            every.tick().await;
            if let Err(e) = self.tick(tick).await {
                tracing::warn!("sweeper: {e}");
            }
        }
    }

    /// Tidies the history and the media store now and then: a loop of its own, so that no reclaim
    /// waits for it.
    pub async fn keep_house(&self) {
        let mut every = tokio::time::interval(TIDY_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for round in 0u64.. {
            every.tick().await;
            let config = self.shared.config.load_full();
            let tidy = self
                .shared
                .ledger
                .tidy(config.keep_finished, config.keep_keys);
            if let Err(e) = tidy.await {
                tracing::warn!("tidy: {e}");
            }
            if round.is_multiple_of(SWEEP_EVERY) {
                self.sweep_media(config.media.grace).await;
            }
        }
    }

    /// Takes away the media that no job has held for `grace`, and what dead writers left.
    async fn sweep_media(&self, grace: Duration) {
        match self.shared.tools.media.sweep(grace).await {
            Ok(it) if it == Swept::default() => {}
            Ok(Swept {
                unfinished,
                free,
                strays,
            }) => tracing::info!(unfinished, free, strays, "the media store was swept"),
            Err(e) => tracing::warn!("sweeping the media store: {e}; the next round goes on"),
        }
    }

    /// One round. Bounded by `MOST` jobs.
    ///
    /// # Errors
    /// When the ledger is away; the next round goes on.
    pub async fn tick(&self, tick: u64) -> Result<()> {
        self.reclaim().await?;
        if tick.is_multiple_of(EXPIRE_EVERY) {
            self.expire().await?;
        }
        Ok(())
    }

    /// Takes back the leases of dead runs, by the same transition and the same settle as any end.
    ///
    /// # Errors
    /// When the ledger is away.
    pub async fn reclaim(&self) -> Result<usize> {
        let brake = *self
            .shared
            .brake
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if brake.is_some_and(|it| Instant::now() < it) {
            return Ok(0);
        }
        let mut lost = self.shared.ledger.lost(MOST).await?;
        // what runs here is alive, whatever a late heartbeat makes it look like
        let me = Some(self.shared.run_id());
        lost.retain(|it| it.run != me || !self.shared.running.holds(it.id));
        if lost.is_empty() {
            return Ok(0);
        }
        crashpoint!("reclaim.before_settle", LedgerError::Away)?;
        let done = self.end(&lost, &Event::Reclaimed, "reclaimed").await?;
        metrics::reclaimed(done as u64);
        Ok(done)
    }

    async fn expire(&self) -> Result<usize> {
        let old = self.shared.ledger.expired(MOST).await?;
        self.end(&old, &Event::Expired, "expired").await
    }

    /// Ends what can end so, by one batch. One that the ledger refuses keeps no other from its end.
    async fn end(&self, jobs: &[Job], event: &Event, word: &str) -> Result<usize> {
        let now = self.shared.now();
        let ended = |job| Some((job, self.settlement(job, event, word, now)?));
        let (jobs, batch): (Vec<&Job>, Vec<Settlement>) = jobs.iter().filter_map(ended).unzip();
        if batch.is_empty() {
            return Ok(0);
        }
        let settled = in_parts(&*self.shared.ledger, &batch).await;
        let mut slots: BTreeMap<&str, Vec<JobId>> = BTreeMap::new();
        let mut away = None;
        for (job, settled) in jobs.into_iter().zip(settled) {
            match settled {
                Ok(Settled::Done) => {
                    tracing::warn!(job = %job.id, kind = job.kind, lane = job.lane, epoch = job.epoch, "{word}");
                    slots.entry(&job.lane).or_default().push(job.id);
                }
                Ok(Settled::Stale) => {}
                Err(e) if e.is_away() => away = Some(e),
                Err(e) => tracing::error!(job = %job.id, kind = job.kind, "not {word}: {e}"),
            }
        }
        if let Some(e) = away {
            tracing::warn!("sweeper: {e}; the next round goes on");
        }
        for (lane, ids) in &slots {
            self.shared.free(lane, ids).await;
        }
        self.shared.relay.notify_one();
        Ok(slots.values().map(Vec::len).sum())
    }

    fn settlement(&self, job: &Job, event: &Event, word: &str, now: Time) -> Option<Settlement> {
        let facts = job.facts(self.shared.policy(&job.kind));
        let transition = advance(&facts, event.clone(), now).ok()?;
        let attempt = job.token.map(|_| AttemptEnd {
            epoch: job.epoch,
            number: job.attempts + 1,
            run: job.run,
            host: self.shared.run.host.clone(),
            began_at: job.claimed_at.unwrap_or(now),
            ended_at: now,
            outcome: word.to_owned(),
            failure: transition.failure.clone(),
        });
        let failure = transition.failure.as_ref();
        Some(Settlement {
            id: job.id,
            guard: job.token.map_or(Guard::Version(job.version), Guard::Token),
            fingerprint: failure.map(|it| it.fingerprint(&job.kind)),
            transition,
            attempt,
            result: None,
            edit: None,
            audit: None,
        })
    }
}
