//! The dispatcher of a lane: room first, then as many jobs as that, then the ledger's claim.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::shared::{Assigned, BATCH, Hold, POLL, Shared};
use crate::crashpoint;
use crate::job::{Job, JobId};
use crate::ledger::{Claim, LedgerError};
use crate::queue::{QueueError, Taken};
use crate::telemetry::metrics;

/// The pause after a take of which the ledger gave nothing.
const STALE_PAUSE: Duration = Duration::from_millis(25);

/// How long the slots beyond a daemon's share are left to the others: a little longer than it takes them
/// to look by themselves.
const MANNERS: Duration = Duration::from_millis(300);

/// How often a lane is looked at in which nothing is ready. Each offer rings; that is for a ring that
/// was lost on its way from another host.
const IDLE: Duration = Duration::from_secs(1);

/// A lane's dispatcher.
pub struct Dispatcher {
    shared: Arc<Shared>,
    lane: String,
    room: Arc<Semaphore>,
    jobs: mpsc::Sender<Assigned>,
    closed: CancellationToken,
}

/// What a tick did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Took {
    /// So many jobs were handed to the lane.
    Jobs(usize),
    /// Hints were taken, and the ledger gave none of them: look again in a moment.
    Stale,
    /// There was nothing for now, or no room.
    Nothing,
    /// This daemon has its share of the lane's slots; the others may have the rest first.
    Share,
    /// Nothing at all is ready in the queue: whoever puts something there rings.
    Empty,
}

impl Dispatcher {
    /// The dispatcher of `lane`, with `room` places, which hands jobs to `jobs` until `closed` fires.
    pub fn new(
        shared: Arc<Shared>,
        lane: &str,
        room: Arc<Semaphore>,
        jobs: mpsc::Sender<Assigned>,
        closed: CancellationToken,
    ) -> Self {
        Self {
            shared,
            lane: lane.to_owned(),
            room,
            jobs,
            closed,
        }
    }

    /// Ticks until the daemon drains or the lane is closed.
    pub async fn run(&self) {
        let shared = self.shared.clone();
        let bell = shared.dispatch.of(&self.lane);
        let over = || shared.draining.is_cancelled() || self.closed.is_cancelled();
        let mut polite = true;
        while !over() && !self.jobs.is_closed() {
            // registered before the tick, so that a notice during it isn't lost
            let woken = bell.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let took = self.turn(polite).await;
            polite = true;
            let wait = match took {
                Took::Jobs(_) => continue,
                Took::Share => MANNERS,
                // the lane may be full by the ledger's count: asking at once would make it spin
                Took::Stale => {
                    let pause = tokio::time::sleep(STALE_PAUSE);
                    shared.draining.run_until_cancelled(pause).await;
                    continue;
                }
                Took::Nothing => POLL,
                Took::Empty => IDLE,
            };
            tokio::select! {
                () = woken => {}
                () = shared.draining.cancelled() => {}
                () = self.closed.cancelled() => {}
                // what the others left by then is anybody's
                () = tokio::time::sleep(wait) => polite = took != Took::Share,
            }
        }
    }

    /// Takes room, then jobs, claims them and hands them over. Bounded: one batch.
    pub async fn tick(&self) -> Took {
        self.turn(false).await
    }

    /// As [`Dispatcher::tick`]; `polite`: no more than this daemon's share of the lane's slots.
    pub async fn turn(&self, polite: bool) -> Took {
        if self.shared.is_paused(&self.lane) {
            return Took::Nothing;
        }
        let Some(mut places) = self.places().await else {
            return Took::Nothing;
        };
        // room may have come long after the lane was paused
        if self.shared.is_paused(&self.lane) {
            return Took::Nothing;
        }
        let mut most = u32::try_from(places.len()).unwrap_or(u32::MAX);
        if polite && let Some(left) = self.share_left(most) {
            most = most.min(left);
        }
        if most == 0 {
            return Took::Share;
        }
        match self.shared.generation() {
            Some(generation) => {
                let Some(taken) = self.take(generation, most).await else {
                    return Took::Nothing;
                };
                if taken.ids.is_empty() {
                    return match taken.ready {
                        0 => Took::Empty,
                        // the lane is full: a slot that another host frees rings nowhere
                        _ => Took::Nothing,
                    };
                }
                self.claim(generation, taken.ids, &mut places).await
            }
            None => self.claim_due(most, &mut places).await,
        }
    }

    /// Where several daemons share a lane's slots: how many of them this one may take at once, with
    /// `places` of its own in hand. Else the daemon that frees a slot would take it again before the
    /// others have heard of it, and run nearly everything.
    fn share_left(&self, places: u32) -> Option<u32> {
        let live = self.shared.live.load(Ordering::Relaxed).max(1);
        let config = self.shared.config.load();
        let lane = config.lanes.get(&self.lane)?;
        let concurrency = lane.concurrency.filter(|_| 1 < live)?;
        let free = u32::try_from(self.room.available_permits()).unwrap_or(u32::MAX);
        let taken = lane.places().saturating_sub(free.saturating_add(places));
        Some(concurrency.div_ceil(live).saturating_sub(taken))
    }

    /// At least one place, and as many as are free.
    async fn places(&self) -> Option<Vec<OwnedSemaphorePermit>> {
        let first = tokio::select! {
            place = self.room.clone().acquire_owned() => place.ok()?,
            () = self.shared.draining.cancelled() => return None,
            () = self.closed.cancelled() => return None,
        };
        let mut places = vec![first];
        while places.len() < BATCH
            && let Ok(place) = self.room.clone().try_acquire_owned()
        {
            places.push(place);
        }
        Some(places)
    }

    async fn take(&self, generation: i64, most: u32) -> Option<Taken> {
        let config = self.shared.config.load_full();
        let concurrency = config.lanes.get(&self.lane)?.concurrency;
        match self.taken(generation, most, concurrency).await {
            Ok(taken) => {
                // where the window holds all that is due, there is nothing to fill it with; and one that is
                // empty already was told of when it was emptied
                let low = taken.ready < u64::from(config.window) / 4;
                if low && !taken.ids.is_empty() && self.shared.behind.is(&self.lane) {
                    self.shared.relay.notify_one();
                }
                Some(taken)
            }
            Err(e) => {
                if self.shared.distrust_queue(generation) && matches!(e, QueueError::Away(_)) {
                    tracing::warn!("{e}; dispatch goes on from the ledger");
                }
                None
            }
        }
    }

    async fn taken(
        &self,
        generation: i64,
        most: u32,
        concurrency: Option<u32>,
    ) -> Result<Taken, QueueError> {
        crashpoint!("queue.before_take", QueueError::Away)?;
        let (queue, run) = (&self.shared.queue, self.shared.run_id());
        let taken = queue
            .take(generation, &self.lane, run, most, concurrency)
            .await?;
        if !taken.ids.is_empty() {
            crashpoint!("queue.after_take", QueueError::Away)?;
        }
        Ok(taken)
    }

    async fn claim(
        &self,
        generation: i64,
        ids: Vec<JobId>,
        places: &mut Vec<OwnedSemaphorePermit>,
    ) -> Took {
        let mine = self.shared.running.enter(&ids);
        let holds = Hold::of(&self.shared, &mine);
        let Some(claim) = self.claim_as(Some(generation)) else {
            self.give_back(&mine).await;
            return Took::Nothing;
        };
        let claimed = match self.claimed(&claim, &mine).await {
            Ok(it) => it,
            Err(e) => {
                tracing::warn!(lane = self.lane, "claim: {e}");
                // it may have been committed: then the sweeper finds them unnamed
                self.give_back(&mine).await;
                self.pause_for_ledger().await;
                return Took::Nothing;
            }
        };
        let stale: Vec<JobId> = mine
            .iter()
            .copied()
            .filter(|id| !claimed.iter().any(|it| it.id == *id))
            .collect();
        if !stale.is_empty() {
            metrics::claims_stale(stale.len() as u64);
            tracing::debug!(lane = self.lane, stale = stale.len(), "stale hints");
            self.give_back(&stale).await;
        }
        self.hand_over(claimed, holds, places).await
    }

    async fn claimed(&self, claim: &Claim, ids: &[JobId]) -> Result<Vec<Job>, LedgerError> {
        crashpoint!("claim.before_commit", LedgerError::Away)?;
        let claimed = self.shared.ledger.claim(claim, ids).await?;
        crashpoint!("claim.after_commit", LedgerError::Away)?;
        Ok(claimed)
    }

    async fn claimed_due(&self, claim: &Claim, most: u32) -> Result<Vec<Job>, LedgerError> {
        crashpoint!("claim.before_due", LedgerError::Away)?;
        let claimed = self.shared.ledger.claim_due(claim, most).await?;
        if !claimed.is_empty() {
            crashpoint!("claim.after_due", LedgerError::Away)?;
        }
        Ok(claimed)
    }

    /// How this run claims in the lane; `None` when the lane is no longer configured.
    fn claim_as(&self, generation: Option<i64>) -> Option<Claim> {
        let concurrency = self.shared.config.load().lanes.get(&self.lane)?.concurrency;
        Some(Claim {
            run: self.shared.run_id(),
            generation,
            lane: self.lane.clone(),
            kinds: self.shared.kind_names.clone(),
            concurrency,
            shut: self.shared.shut.load(),
            fair: self.shared.fair.load_full(),
        })
    }

    /// Without a queue the ledger gives: counted there, so that the lane's concurrency holds.
    async fn claim_due(&self, most: u32, places: &mut Vec<OwnedSemaphorePermit>) -> Took {
        let Some(claim) = self.claim_as(None) else {
            return Took::Nothing;
        };
        match self.claimed_due(&claim, most).await {
            Ok(claimed) if claimed.is_empty() => Took::Nothing,
            Ok(claimed) => {
                let ids: Vec<JobId> = claimed.iter().map(|it| it.id).collect();
                self.shared.running.enter_claimed(&ids);
                let holds = Hold::of(&self.shared, &ids);
                self.hand_over(claimed, holds, places).await
            }
            Err(e) => {
                tracing::warn!(lane = self.lane, "claim: {e}");
                self.pause_for_ledger().await;
                Took::Nothing
            }
        }
    }

    async fn hand_over(
        &self,
        claimed: Vec<Job>,
        mut holds: HashMap<JobId, Hold>,
        places: &mut Vec<OwnedSemaphorePermit>,
    ) -> Took {
        if claimed.is_empty() {
            return Took::Stale;
        }
        let count = claimed.len();
        for job in claimed {
            let place = places
                .pop()
                .expect("never more jobs are claimed than places were taken");
            let Some(hold) = holds.remove(&job.id) else {
                // it was taken back and claimed again meanwhile: the newer entry runs it
                continue;
            };
            let assigned = Assigned {
                hold: Arc::new(hold),
                job: Arc::new(job),
                place: Arc::new(place),
            };
            if self.jobs.send(assigned).await.is_err() {
                // its hold went with it: the sweeper finds it unnamed
                tracing::warn!(lane = self.lane, "the lane was closed before its job began");
            }
        }
        Took::Jobs(count)
    }

    async fn give_back(&self, ids: &[JobId]) {
        for id in ids {
            self.shared.running.leave(*id);
        }
        self.shared.free(&self.lane, ids).await;
    }

    async fn pause_for_ledger(&self) {
        tokio::select! {
            () = self.shared.draining.cancelled() => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
}
