//! What makes it go: one loop, one file, `run()` around a bounded `tick()`.
//!
//! [`Engine::start`] puts the loops together and keeps them alive; [`Engine::drain`] ends them:
//! quiet, wait, give the rest back at no charge.

pub mod batcher;
pub mod rounds;
pub mod gatekeeper;
pub mod progress;
pub mod pulse;
pub mod pressure;
pub mod wakes;
pub mod breakers;
pub mod gates;
pub mod heard;
pub mod shared;
pub mod accounts;
pub mod renewing;
pub mod refresher;
pub mod parked;
pub mod settler;
pub mod scopes;
pub mod fallbacks;
pub mod late;
pub mod runner;
pub mod lane;
pub mod dispatcher;
pub mod relay;
pub mod lease;
pub mod sweeper;
pub mod reconciler;
pub mod bills;
pub mod control;
pub mod failover;
pub mod guard;
pub mod group;
pub mod doors;
pub mod quarantine;
pub mod supervisor;
pub mod lanes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, Semaphore, broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::context::{Stop, Tools};
use crate::fair::Fair;
use crate::ledger::{Hint, Ledger};
use doors::Doors;
use gatekeeper::Gatekeeper;
use lanes::Lanes;
use relay::Relay;
use shared::{Parts, Running, Shared};
use supervisor::Supervisor;

/// Happenings that a slow watcher may be behind before it misses some.
const HAPPENINGS: usize = 4_096;
/// Fresh hints that may wait for the relay; what doesn't fit it finds by itself.
const HINTS: usize = 20_000;

/// What the loops share, and the relay's end of the hints: for tests that step loops by hand.
pub fn assemble(parts: Parts) -> (Arc<Shared>, mpsc::Receiver<(String, Hint)>) {
    let (hints, hinted) = mpsc::channel(HINTS);
    let gate = Gatekeeper::start(parts.ledger.clone(), parts.config.budgets.clone());
    let fair = Fair::of(&parts.config);
    let config = Arc::new(ArcSwap::new(parts.config));
    gate.keep_places(config.clone(), parts.kinds.clone());
    let tools = Tools {
        gate: Some(gate.clone()),
        ..parts.tools
    };
    let names = parts.kinds.iter().map(|it| it.name().to_owned());
    let kind_names: Arc<[String]> = names.collect();
    let shared = Arc::new(Shared {
        settling: settler::start(parts.ledger.clone()),
        freeing: shared::start_freeing(parts.queue.clone()),
        shut: gates::Gates::of(kind_names.clone()),
        kind_names,
        ledger: parts.ledger,
        queue: parts.queue,
        inboxes: parts.inboxes,
        fair: ArcSwap::from_pointee(fair),
        config,
        kinds: parts.kinds,
        clock: parts.clock,
        run: parts.run,
        tools,
        gate,
        running: Running::default(),
        generation: AtomicI64::new(0),
        paused: ArcSwap::default(),
        dispatch: wakes::Wakes::default(),
        behind: shared::Behind::default(),
        breakers: breakers::Breakers::default(),
        quiet: Arc::default(),
        accounts: heard::Heard::default(),
        relay: Notify::new(),
        hints,
        suspects: Arc::new(Semaphore::new(1)),
        progress: progress::Progresses::default(),
        happenings: broadcast::channel(HAPPENINGS).0,
        draining: CancellationToken::new(),
        ledger_up: AtomicBool::new(true),
        live: AtomicU32::new(1),
        skew: AtomicI64::new(0),
        lease_pulse: pulse::Pulse::default(),
        pressure: pressure::Gauge::default(),
        brake: std::sync::Mutex::new(None),
    });
    (shared, hinted)
}

/// A running daemon.
pub struct Engine {
    /// What the loops share.
    pub shared: Arc<Shared>,
    /// The doors by which jobs come in.
    pub doors: Doors,
    /// Fires when the daemon can't go on: a loop won't live, or the run was declared dead.
    pub failed: CancellationToken,
    lanes: Lanes,
    failover: Arc<failover::Failover>,
    refresher: Arc<refresher::Refresher>,
    supervisor: Supervisor,
    ended: CancellationToken,
    lease: std::thread::JoinHandle<()>,
}

impl Engine {
    /// Enters the run in the ledger, then starts every loop. `lease_ledger` is a door to the same
    /// ledger with connections of its own, for the heartbeat's thread.
    ///
    /// # Errors
    /// When the ledger doesn't take the run, or the heartbeat's thread can't be started.
    pub async fn start(parts: Parts, lease_ledger: Arc<dyn Ledger>) -> anyhow::Result<Self> {
        let (shared, hints) = assemble(parts);
        let (ended, failed) = (CancellationToken::new(), CancellationToken::new());
        let began = Instant::now();
        let length = shared.config.load().lease;
        let failover = Arc::new(failover::Failover::begin(shared.clone()).await?);
        shared.ledger.begin_run(&shared.run, length).await?;
        // the accounts are there before the first job is
        accounts::learn(&shared).await?;
        parked::renewed(&shared).await?;
        // a daemon that starts while much is shut takes none of it first; permits ask for themselves
        if let Err(e) = shared.look_at_closures().await {
            tracing::debug!("closures: {e}");
        }
        let lease = lease::Lease::new(shared.clone(), lease_ledger, began)
            .start(ended.clone(), failed.clone())?;
        let supervisor = Supervisor::new(ended.clone(), failed.clone());
        let engine = Self {
            doors: Doors::new(shared.clone()),
            lanes: Lanes::new(
                shared.clone(),
                Supervisor::new(shared.draining.clone(), failed.clone()),
            ),
            refresher: Arc::new(refresher::Refresher::new(shared.clone())),
            shared,
            failed,
            failover,
            supervisor,
            ended,
            lease,
        };
        engine.loops(hints);
        engine.lanes.fit();
        Ok(engine)
    }

    fn loops(&self, hints: mpsc::Receiver<(String, Hint)>) {
        let never = CancellationToken::new();
        let relay = Arc::new(Relay::new(self.shared.clone(), hints));
        let sweeper = Arc::new(sweeper::Sweeper::new(self.shared.clone()));
        let control = Arc::new(control::Control::new(self.shared.clone()));
        macro_rules! keep {
            ($name:literal, $of:ident, $run:ident) => {{
                let of = $of.clone();
                self.supervisor.keep($name, never.clone(), move || {
                    let of = of.clone();
                    async move {
                        of.$run().await;
                        Ok(())
                    }
                });
            }};
        }
        keep!("relay", relay, run);
        keep!("sweeper", sweeper, run);
        keep!("housekeeping", sweeper, keep_house);
        let reconciler = Arc::new(reconciler::Reconciler::new(self.shared.clone()));
        keep!("reconciler", reconciler, run);
        keep!("control", control, run);
        let prober = Arc::new(scopes::Prober::new(self.shared.clone()));
        keep!("breakers", prober, run);
        let failover = &self.failover;
        keep!("failover", failover, run);
        let gate = &self.shared.gate;
        keep!("budgets", gate, run);
        let bills = Arc::new(bills::Bills::new(self.shared.clone()));
        keep!("bills", bills, run);
        keep!("changes of budgets", control, learn_budgets);
        let refresher = &self.refresher;
        keep!("refreshes", refresher, run);
        let learner = Arc::new(parked::Learner::new(self.shared.clone()));
        keep!("accounts", learner, run);
        keep!("progress", control, keep_progress);
        keep!("wake-ups", control, listen);
        let guard = Arc::new(guard::Guard::new(self.shared.clone()));
        keep!("memory", guard, run);
        let doors = self.doors.clone();
        keep!("backlog", doors, count);
        let keeper = Arc::new(quarantine::Quarantine::new(
            self.shared.clone(),
            self.doors.clone(),
        ));
        self.supervisor
            .keep("quarantine", self.shared.draining.clone(), move || {
                let keeper = keeper.clone();
                async move {
                    keeper.run().await;
                    Ok(())
                }
            });
        for inbox in &self.shared.inboxes {
            // a tenant's share of the stream is what one loop moves
            let slots = inbox.tenant().map_or(INBOX_SLOTS, |_| 1);
            let turn = Arc::new(doors::Turn::default());
            for slot in 0..slots {
                let (doors, inbox) = (self.doors.clone(), (inbox.clone(), turn.clone()));
                self.supervisor
                    .keep("inbox", self.shared.draining.clone(), move || {
                        let (doors, (inbox, turn)) = (doors.clone(), inbox.clone());
                        async move {
                            doors.inbox(inbox, slot, turn).await;
                            Ok(())
                        }
                    });
            }
        }
    }

    /// Swaps the configuration whole; attempts that run keep the one they began with.
    pub fn reload(&self, mut config: Config) {
        let lease = self.shared.config.load().lease;
        if config.lease != lease {
            tracing::warn!("daemon.lease_s holds from the next start on");
            config.lease = lease;
        }
        let budgets = config.budgets.clone();
        accounts::reload(&self.shared, &config);
        if self.shared.gate.reload(budgets, self.shared.now()) {
            self.shared.open_budgets();
        }
        self.lanes.fit();
        self.shared.relay.notify_one();
        self.shared.dispatch.all();
    }

    /// Stops: takes nothing more, waits for what runs until `deadline` is past, tells the rest to
    /// stop and gives it back at no charge. Returns how many were given back.
    pub async fn drain(self, deadline: Duration) -> usize {
        self.shared.draining.cancel();
        self.shared.dispatch.all();
        // the lanes end by themselves when their dispatchers have stopped and their jobs have ended
        let began = Instant::now();
        let _ = tokio::time::timeout(deadline, self.lanes.ended()).await;
        let left = self.shared.running.len();
        if 0 < left {
            tracing::warn!(
                jobs = left,
                "the drain's deadline is past: running jobs are given back"
            );
            self.shared.running.stop_all(Stop::Drain);
            let _ = tokio::time::timeout(STOPPING, self.lanes.ended()).await;
        }
        // new tokens may be here and nowhere else
        let rest = deadline.saturating_sub(began.elapsed());
        self.refresher.end(rest.max(STOPPING)).await;
        // a server that lost this run's entry must still be told what it sent
        let _ = tokio::time::timeout(TELLING, self.failover.tick()).await;
        self.ended.cancel();
        self.supervisor.abort().await;
        if let Err(e) = self.shared.ledger.end_run(self.shared.run_id()).await {
            tracing::warn!("the run's lease couldn't be ended: {e}; it runs out by itself");
        }
        // the heartbeat's thread ends by the same token; it may be in a call with a deadline
        let lease = self.lease;
        let _ = tokio::task::spawn_blocking(move || lease.join()).await;
        left
    }

    /// How the daemon stands, for people: what USR1 writes to the log.
    pub async fn status(&self) -> serde_json::Value {
        let counts = self.shared.ledger.counts().await.unwrap_or_default();
        let mut lanes: BTreeMap<String, BTreeMap<&str, u64>> = BTreeMap::new();
        for ((lane, state), n) in counts {
            lanes.entry(lane).or_default().insert(state.as_str(), n);
        }
        serde_json::json!({
            "run": self.shared.run,
            "held_here": self.shared.running.len(),
            "lanes": lanes,
            "paused": **self.shared.paused.load(),
            "queue": {"name": self.shared.queue.name(), "generation": self.shared.generation()},
            "ledger": {"name": self.shared.ledger.name(), "up": self.shared.ledger_up.load(std::sync::atomic::Ordering::SeqCst)},
            "pressure": format!("{:?}", self.shared.pressure.get()).to_lowercase(),
            "draining": self.shared.draining.is_cancelled(),
        })
    }
}

/// A last look at the ledger's server may take so long.
const TELLING: Duration = Duration::from_secs(5);
/// Lists that one daemon moves inbox entries to at once.
const INBOX_SLOTS: u32 = 2;
/// How long jobs that were told to stop may take to settle: a call under way is waited for.
const STOPPING: Duration = Duration::from_secs(10);
