//! The queue in this process: for one host with nothing else configured, and for tests.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use uuid::Uuid;

use super::bell::Bell;
use super::door::{Queue, QueueError, Result, Taken, Woken};
use crate::job::JobId;
use crate::ledger::Hint;

/// As many turns are kept beyond those that the window needs, before old ones are thrown away.
const TURNS_SPARE: usize = 64;
/// The last turn, as in Redis, where a priority's turns end before the next one's: a window that isn't
/// empty for so long that it gets there is served by id.
const TURN_MAX: u64 = (1 << 48) - 1;

/// A queue that lives and dies with its process. It starts empty, so that each lane has to be
/// [reset](Queue::reset) first.
pub struct MemoryQueue {
    server: String,
    lanes: Mutex<HashMap<String, Lane>>,
    bell: Bell,
}

impl Default for MemoryQueue {
    fn default() -> Self {
        Self {
            server: Uuid::new_v4().to_string(),
            lanes: Mutex::default(),
            bell: Bell::default(),
        }
    }
}

/// Where a job stands: its rank (0 where its own was lifted), its turn, its own priority's rank, and its id to
/// tell equals apart.
type Place = (i16, u64, i16, JobId);

/// Whose turn it is: own priority's rank, tenant, account.
type Flow = (i16, Arc<str>, Arc<str>);

#[derive(Default)]
struct Lane {
    generation: i64,
    ready: BTreeMap<Place, Flow>,
    waiting: HashMap<JobId, Place>,
    held: BTreeMap<JobId, Uuid>,
    clocks: BTreeMap<i16, Clock>,
}

/// The turns within a priority (start-time fair queueing): each job of a flow starts a step after
/// its last one, and nobody starts before the turn that is being served.
#[derive(Default)]
struct Clock {
    now: u64,
    next: HashMap<Flow, u64>,
}

impl Lane {
    fn add(&mut self, hint: &Hint) {
        if self.held.contains_key(&hint.id) {
            return;
        }
        let own = hint.priority.rank();
        let rank = if hint.lifted { 0 } else { own };
        match self.waiting.get(&hint.id) {
            Some(place) if hint.lifted && rank < place.0 => self.ready.remove(place),
            Some(_) => return,
            None => None,
        };
        let flow = (own, hint.tenant.clone(), hint.account.clone());
        let clock = self.clocks.entry(rank).or_default();
        let next = clock.next.entry(flow.clone()).or_default();
        let turn = clock.now.max(*next).min(TURN_MAX);
        *next = turn + hint.step;
        let place = (rank, turn, own, hint.id);
        self.waiting.insert(hint.id, place);
        self.ready.insert(place, flow);
    }

    /// Drops what is beyond the window and gives the flows their turns back: otherwise who is
    /// evicted and offered again would stand further behind each time.
    fn evict(&mut self, window: usize) {
        while window < self.ready.len() {
            let Some(((rank, turn, _, id), flow)) = self.ready.pop_last() else {
                return;
            };
            self.waiting.remove(&id);
            let next = self.clocks.get_mut(&rank);
            if let Some(next) = next.and_then(|it| it.next.get_mut(&flow)) {
                *next = turn.min(*next);
            }
        }
    }

    fn take(&mut self, run: Uuid, most: usize) -> Vec<JobId> {
        let mut ids = Vec::new();
        while ids.len() < most {
            let Some(((rank, turn, _, id), _)) = self.ready.pop_first() else {
                break;
            };
            self.waiting.remove(&id);
            self.held.insert(id, run);
            self.clocks.entry(rank).or_default().now = turn;
            ids.push(id);
        }
        let most = 2 * self.ready.len() + TURNS_SPARE;
        for clock in self.clocks.values_mut() {
            if most < clock.next.len() {
                clock.next.retain(|_, next| clock.now < *next);
            }
        }
        ids
    }

    /// An empty window has no past: whoever comes next, comes first.
    fn rest(&mut self) {
        if self.ready.is_empty() {
            self.clocks.clear();
        }
    }
}

impl MemoryQueue {
    fn lanes(&self) -> MutexGuard<'_, HashMap<String, Lane>> {
        self.lanes.lock().expect("no holder of this lock panics")
    }

    /// Does something with a lane that is under this generation.
    fn within<T>(
        &self,
        generation: i64,
        lane: &str,
        act: impl FnOnce(&mut Lane) -> T,
    ) -> Result<T> {
        match self.lanes().get_mut(lane) {
            Some(lane) if lane.generation == generation => Ok(act(lane)),
            _ => Err(QueueError::Stale),
        }
    }
}

#[async_trait]
impl Queue for MemoryQueue {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn server(&self) -> Result<String> {
        Ok(self.server.clone())
    }

    async fn offer(&self, generation: i64, lane: &str, hints: &[Hint], window: u32) -> Result<u64> {
        self.within(generation, lane, |lane| {
            hints.iter().for_each(|it| lane.add(it));
            lane.evict(window as usize);
            lane.rest();
            lane.ready.len() as u64
        })
    }

    async fn take(
        &self,
        generation: i64,
        lane: &str,
        run: Uuid,
        most: u32,
        concurrency: Option<u32>,
    ) -> Result<Taken> {
        self.within(generation, lane, |lane| {
            let free = concurrency.map_or(usize::MAX, |it| {
                (it as usize).saturating_sub(lane.held.len())
            });
            let ids = lane.take(run, free.min(most as usize));
            lane.rest();
            Taken {
                ids,
                ready: lane.ready.len() as u64,
                held: lane.held.len() as u64,
            }
        })
    }

    async fn release(&self, generation: i64, lane: &str, ids: &[JobId]) -> Result<()> {
        self.within(generation, lane, |lane| {
            for id in ids {
                lane.held.remove(id);
            }
        })
    }

    async fn held(&self, generation: i64, lane: &str) -> Result<Vec<(JobId, Uuid)>> {
        self.within(generation, lane, |lane| {
            lane.held.iter().map(|(id, run)| (*id, *run)).collect()
        })
    }

    async fn size(&self, generation: i64, lane: &str) -> Result<u64> {
        self.within(generation, lane, |lane| lane.ready.len() as u64)
    }

    async fn reset(&self, generation: i64, lane: &str, held: &[(JobId, Uuid)]) -> Result<bool> {
        let mut lanes = self.lanes();
        if lanes
            .get(lane)
            .is_some_and(|it| it.generation == generation)
        {
            return Ok(false);
        }
        let fresh = Lane {
            generation,
            held: held.iter().copied().collect(),
            ..Lane::default()
        };
        lanes.insert(lane.to_owned(), fresh);
        Ok(true)
    }

    async fn wake(&self, lanes: &[String]) -> Result<()> {
        self.bell.ring(lanes.iter().cloned());
        Ok(())
    }

    async fn woken(&self) -> Woken {
        self.bell.rung().await
    }
}
