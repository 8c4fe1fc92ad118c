//! The relay: due jobs of the ledger into their lane's window of the queue; and the queue rebuilt
//! when it was wiped, restored, or away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc};

use super::shared::{BATCH, POLL, Shared};
use crate::config::Config;
use crate::crashpoint;
use crate::job::JobId;
use crate::ledger::Hint;
use crate::queue::QueueError;
use crate::sabotage;
use crate::telemetry::metrics;

/// The loop's own memory.
#[derive(Default)]
struct Memory {
    /// The generation under which lanes are known to be filled.
    generation: i64,
    /// Lanes that were started under it.
    lanes: BTreeSet<String>,
    /// Slots that looked leaked at the last look, by lane.
    suspects: BTreeMap<String, BTreeSet<JobId>>,
    /// Counts ticks, for what is looked at less often.
    ticks: u64,
    /// Until when the generation isn't counted on again, and how long that pause was.
    pause: Option<(Instant, Duration)>,
}

/// The relay of a daemon.
pub struct Relay {
    shared: Arc<Shared>,
    hints: Mutex<mpsc::Receiver<(String, Hint)>>,
    memory: Mutex<Memory>,
}

/// Slots are compared with what runs every so many ticks.
const COMPARE_EVERY: u64 = 8;
/// Due jobs of a lane that are looked for each time, and offered whatever the window holds.
const FIRST: u32 = 200;
/// The generation isn't counted on more often than this, doubling while nothing mends it.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

impl Relay {
    /// The relay, which gets fresh hints from `hints`.
    pub fn new(shared: Arc<Shared>, hints: mpsc::Receiver<(String, Hint)>) -> Self {
        Self {
            shared,
            hints: Mutex::new(hints),
            memory: Mutex::default(),
        }
    }

    /// Ticks until the daemon has ended: while it drains, too, since slots are still freed.
    pub async fn run(&self) {
        // side by side: what has just come in doesn't wait for a look at all lanes, nor that for a flood
        tokio::select! {
            () = self.ticks() => {}
            () = self.pass_on() => {}
        }
    }

    async fn ticks(&self) {
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = poll.tick() => {}
                () = self.shared.relay.notified() => {}
            }
            self.tick().await;
        }
    }

    /// Offers what is accepted, until nobody can accept any more.
    async fn pass_on(&self) {
        let mut hints = self.hints.lock().await;
        let mut fresh = Vec::new();
        while hints.recv_many(&mut fresh, BATCH).await != 0 {
            self.offer_fresh(std::mem::take(&mut fresh)).await;
        }
    }

    /// Jobs that were accepted a moment ago. What the queue can't take now the next tick brings.
    pub async fn offer_fresh(&self, fresh: Vec<(String, Hint)>) {
        if self.shared.shut.load().is_everything() {
            return;
        }
        let Some(generation) = self.shared.generation() else {
            self.shared.dispatch.all();
            return;
        };
        let mut lanes: BTreeMap<String, Vec<Hint>> = BTreeMap::new();
        for (lane, hint) in fresh {
            lanes.entry(lane).or_default().push(hint);
        }
        let mut woke = Vec::with_capacity(lanes.len());
        for (lane, hints) in lanes {
            // behind a backlog that the window doesn't hold they would push in before their turn
            if !self.shared.behind.is(&lane) && self.offer(generation, &lane, &hints).await {
                woke.push(lane);
            }
        }
        self.wake(&woke).await;
    }

    /// Offers to each lane what is due; rebuilds first where that is needed. Bounded: one window a lane.
    pub async fn tick(&self) {
        let mut memory = self.memory.lock().await;
        memory.ticks += 1;
        let Some(generation) = self.trusted(&mut memory).await else {
            return;
        };
        let config = self.shared.config.load_full();
        let mut woke = Vec::new();
        for lane in config.lanes.keys() {
            if !memory.lanes.contains(lane) {
                if !self.start_lane(generation, lane).await {
                    return;
                }
                memory.lanes.insert(lane.clone());
            }
        }
        // it was used without trouble since the last rebuild: the next one may come at once
        if memory
            .pause
            .is_some_and(|(until, it)| until + it < Instant::now())
        {
            memory.pause = None;
        }
        // only now: a dispatcher that came before its lane was started would find it stale
        self.shared.generation.store(generation, Ordering::SeqCst);
        let mut due = self.due(&config).await;
        for lane in config.lanes.keys() {
            if let Some(due) = &mut due {
                let first = due.remove(lane).unwrap_or_default();
                if self.refill(generation, lane, config.window, first).await {
                    woke.push(lane.clone());
                }
            }
            if memory.ticks.is_multiple_of(COMPARE_EVERY) {
                let before = memory.suspects.remove(lane).unwrap_or_default();
                let suspects = self.compare(generation, lane, &before).await;
                memory.suspects.insert(lane.clone(), suspects);
            }
        }
        self.wake(&woke).await;
    }

    /// The generation under which the queue may be used: counted on when the queue was wiped, its
    /// server restarted, or it was away.
    async fn trusted(&self, memory: &mut Memory) -> Option<i64> {
        let distrusted = self.shared.generation().is_none();
        if !distrusted && !memory.ticks.is_multiple_of(4) {
            return self.shared.generation();
        }
        let server = match self.shared.queue.server().await {
            Ok(it) => it,
            Err(e) => {
                metrics::queue_up(false);
                if let Some(generation) = self.shared.generation()
                    && self.shared.distrust_queue(generation)
                {
                    tracing::warn!("{e}; dispatch goes on from the ledger");
                }
                return None;
            }
        };
        let known = match self.shared.ledger.generation().await {
            Ok(it) => it,
            Err(_) => return None,
        };
        let other_server = known.server.as_deref() != Some(&server);
        // somebody has counted on since we last trusted it: then the lanes are rebuilt under that
        let behind = known.number != memory.generation;
        let number = if other_server || (distrusted && !behind) {
            if memory
                .pause
                .is_some_and(|(until, _)| Instant::now() < until)
            {
                return None;
            }
            // the first may come at once, and so may one after a rebuild that went well
            let longer = |it: Duration| (it * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            let pause = memory.pause.map_or(Duration::ZERO, |(_, it)| longer(it));
            memory.pause = Some((Instant::now() + pause, pause));
            match self
                .shared
                .ledger
                .next_generation(known.number, &server)
                .await
            {
                Ok(Some(it)) => it,
                _ => return None,
            }
        } else {
            known.number
        };
        if number != memory.generation {
            tracing::info!(
                generation = number,
                "the queue is filled anew from the ledger"
            );
            metrics::queue_rebuilt();
            *memory = Memory {
                generation: number,
                ticks: memory.ticks,
                pause: memory.pause,
                ..Memory::default()
            };
        }
        metrics::queue_up(true);
        Some(number)
    }

    /// Starts a lane under the generation, with the slots of what runs. Whoever comes first does it.
    async fn start_lane(&self, generation: i64, lane: &str) -> bool {
        let running = match self.shared.ledger.running(lane).await {
            Ok(it) => it,
            Err(e) => {
                tracing::warn!(lane, "rebuild: {e}");
                return false;
            }
        };
        let reset = async {
            crashpoint!("relay.before_reset", QueueError::Away)?;
            let reset = self.shared.queue.reset(generation, lane, &running).await;
            crashpoint!("relay.after_reset", QueueError::Away)?;
            reset
        };
        match reset.await {
            Ok(_) => true,
            Err(e) => {
                self.distrust(generation, &e);
                false
            }
        }
    }

    /// What goes first in each lane: all that is due where it is less than [`FIRST`]. One look for all
    /// lanes, so that a daemon with nothing to do asks little.
    async fn due(&self, config: &Config) -> Option<BTreeMap<String, Vec<Hint>>> {
        let lanes: Vec<String> = config.lanes.keys().cloned().collect();
        let most = FIRST.min(config.window);
        let kinds = &self.shared.kind_names;
        let shut = self.shared.shut.load();
        let fair = self.shared.fair.load();
        let ledger = &self.shared.ledger;
        match ledger.due_in(&lanes, kinds, &shut, &fair, most).await {
            Ok(due) => Some(due),
            Err(e) => {
                tracing::warn!("due: {e}");
                None
            }
        }
    }

    /// Offers what goes first, which must get in even when the window is full of what came before it;
    /// where more may be due and the window runs low, as much as fits it.
    async fn refill(&self, generation: i64, lane: &str, window: u32, first: Vec<Hint>) -> bool {
        let mut due = first;
        if due.len() < FIRST.min(window) as usize {
            self.shared.behind.set(lane, false);
        } else {
            let low = match self.shared.queue.size(generation, lane).await {
                Ok(size) => size < u64::from(window) / 2,
                Err(e) => {
                    self.distrust(generation, &e);
                    return false;
                }
            };
            if low {
                let kinds = &self.shared.kind_names;
                let shut = self.shared.shut.load();
                let fair = self.shared.fair.load();
                let ledger = &self.shared.ledger;
                due = match ledger.due(lane, kinds, &shut, &fair, window).await {
                    Ok(it) => it,
                    Err(e) => {
                        tracing::warn!(lane, "due: {e}");
                        return false;
                    }
                };
                self.shared.behind.set(lane, window as usize <= due.len());
            }
        }
        due.retain(|it| !self.shared.running.holds(it.id));
        !due.is_empty() && self.offer(generation, lane, &due).await
    }

    async fn offer(&self, generation: i64, lane: &str, hints: &[Hint]) -> bool {
        let window = self.shared.config.load().window;
        let offered = async {
            crashpoint!("queue.before_offer", QueueError::Away)?;
            let queue = &self.shared.queue;
            let size = queue.offer(generation, lane, hints, window).await?;
            if u64::from(window) <= size {
                // what is beyond it was dropped
                self.shared.behind.set(lane, true);
            }
            crashpoint!("queue.after_offer", QueueError::Away)
        };
        match offered.await {
            Ok(()) => true,
            Err(e) => {
                self.distrust(generation, &e);
                false
            }
        }
    }

    /// Slots that nobody uses: taken, and their answer lost; or of a run that is gone. One that
    /// looks leaked twice in a row is freed.
    async fn compare(
        &self,
        generation: i64,
        lane: &str,
        before: &BTreeSet<JobId>,
    ) -> BTreeSet<JobId> {
        let held = match self.shared.queue.held(generation, lane).await {
            Ok(it) => it,
            Err(e) => {
                // where nothing is due, nobody else asks a queue that was wiped meanwhile
                self.distrust(generation, &e);
                return BTreeSet::new();
            }
        };
        if held.is_empty() {
            return BTreeSet::new();
        }
        let Ok(live) = self.shared.ledger.live_runs().await else {
            return BTreeSet::new();
        };
        let me = self.shared.run_id();
        let unused = |(id, run): &(JobId, uuid::Uuid)| {
            if *run == me {
                !self.shared.running.holds(*id)
            } else {
                !live.iter().any(|it| it.id == *run)
            }
        };
        let unused = held.into_iter().filter(unused).map(|(id, _)| id);
        let (leaked, suspects): (Vec<JobId>, BTreeSet<JobId>) = {
            let (again, new): (Vec<_>, Vec<_>) = unused.partition(|id| before.contains(id));
            (again, new.into_iter().collect())
        };
        if !leaked.is_empty() {
            tracing::warn!(lane, slots = leaked.len(), "freed slots that nobody used");
            self.shared.free(lane, &leaked).await;
        }
        suspects
    }

    /// The next tick mends it.
    fn distrust(&self, generation: i64, e: &QueueError) {
        if sabotage!("wake.generation") {
            return;
        }
        if matches!(e, QueueError::Away(_)) {
            tracing::warn!("{e}; dispatch goes on from the ledger");
        }
        self.shared.distrust_queue(generation);
    }

    /// Wakes the dispatchers of lanes, here and on other hosts.
    async fn wake(&self, lanes: &[String]) {
        if lanes.is_empty() {
            return;
        }
        lanes.iter().for_each(|it| self.shared.dispatch.lane(it));
        if self.shared.queue.wake(lanes).await.is_err() {
            // other hosts poll
            tracing::debug!("the wake-up for other hosts was lost");
        }
    }
}
