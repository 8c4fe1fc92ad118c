//! What the loops of one daemon share.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::batcher::Batcher;
use super::gatekeeper::Gatekeeper;
use super::gates::Changed;
use super::pressure::Pressure;
use crate::clock::{Clock, Time};
use crate::config::Config;
use crate::context::{Stop, StopSign, Tools};
use crate::effect::Effect;
use crate::fair::Fair;
use crate::gate::{Cause, Closure};
use crate::handler::Kind;
use crate::inbox::Inbox;
use crate::intake::{Answer, Rules};
use crate::job::{Job, JobId, NewJob, Progress};
use crate::ledger::{Hint, Ledger, LedgerError, Run, Settled, Settlement};
use crate::outcome::{Class, Outcome};
use crate::platform::limits::Quiet;
use crate::queue::Queue;
use crate::retry::Policy;

/// Jobs that a claim, a settle or an accept writes at once, at most.
pub const BATCH: usize = 500;
/// How often an idle loop looks by itself: nothing waits longer than this for a lost notice.
pub const POLL: Duration = Duration::from_millis(250);

/// What one daemon is made of: given from outside, so that tests bring their own.
pub struct Parts {
    /// The truth.
    pub ledger: Arc<dyn Ledger>,
    /// The fast lane.
    pub queue: Arc<dyn Queue>,
    /// The inboxes that are emptied: those of Redis, the SQL door.
    pub inboxes: Vec<Arc<dyn Inbox>>,
    /// The configuration to begin with.
    pub config: Arc<Config>,
    /// The kinds that this program knows.
    pub kinds: Arc<[Kind]>,
    /// The clock of this host.
    pub clock: Clock,
    /// This run of the daemon.
    pub run: Run,
    /// What handlers reach the world with.
    pub tools: Tools,
}

/// Something that happened to a job here, for whoever watches this daemon.
#[derive(Clone, Debug)]
pub struct Happening {
    /// The job.
    pub job: Arc<Job>,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum What {
    /// An attempt began; its number for people.
    Began(u32),
    /// The attempt is so far.
    Progress(Progress),
    /// The attempt ended, and this follows.
    Ended(Outcome, crate::lifecycle::Transition),
}

/// A job that this daemon holds: claimed, waiting for its turn, or running.
struct Held {
    /// Tells this entry from a later one of the same job.
    number: u64,
    sign: StopSign,
    stop: Option<Stop>,
    /// It was called off before it was claimed, and only runs to learn whether an effect happened.
    looking: bool,
}

/// The jobs that this daemon holds. An id is entered before it is claimed, so that a heartbeat made
/// meanwhile names it.
#[derive(Default)]
pub struct Running {
    held: Mutex<HashMap<JobId, Held>>,
    entered: AtomicU64,
}

impl Running {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters ids that are about to be claimed; those that are here already are left out of the
    /// answer: a second delivery is never run.
    pub fn enter(&self, ids: &[JobId]) -> Vec<JobId> {
        let mut held = self.lock();
        let mut entered = Vec::with_capacity(ids.len());
        for id in ids {
            if let std::collections::hash_map::Entry::Vacant(place) = held.entry(*id) {
                place.insert(self.entry());
                entered.push(*id);
            }
        }
        entered
    }

    fn entry(&self) -> Held {
        Held {
            number: self.entered.fetch_add(1, Ordering::Relaxed),
            sign: StopSign::default(),
            stop: None,
            looking: false,
        }
    }

    /// Enters ids that the ledger has just given to this run: an entry that is still there belongs
    /// to a lease that has ended, and is replaced.
    pub fn enter_claimed(&self, ids: &[JobId]) {
        let mut held = self.lock();
        for id in ids {
            held.insert(*id, self.entry());
        }
    }

    /// Forgets a job: it is settled, or wasn't claimed.
    pub fn leave(&self, id: JobId) {
        self.lock().remove(&id);
    }

    fn number(&self, id: JobId) -> Option<u64> {
        self.lock().get(&id).map(|it| it.number)
    }

    fn leave_entry(&self, id: JobId, number: u64) {
        let mut held = self.lock();
        if held.get(&id).is_some_and(|it| it.number == number) {
            held.remove(&id);
        }
    }

    /// The jobs held, for the heartbeat.
    pub fn ids(&self) -> Vec<JobId> {
        self.lock().keys().copied().collect()
    }

    /// Whether a job is held here.
    pub fn holds(&self, id: JobId) -> bool {
        self.lock().contains_key(&id)
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What tells the job to stop.
    pub fn sign(&self, id: JobId) -> StopSign {
        self.lock()
            .get(&id)
            .map(|it| it.sign.clone())
            .unwrap_or_default()
    }

    /// The job runs only to learn whether an effect happened: a cancel doesn't stop it any more, nor
    /// does one that came before.
    pub fn looking(&self, id: JobId) {
        if let Some(held) = self.lock().get_mut(&id) {
            held.looking = true;
            if held.stop == Some(Stop::Cancelled) {
                held.stop = None;
                held.sign = StopSign::default();
            }
        }
    }

    /// Whether the job runs although it was called off.
    pub fn is_looking(&self, id: JobId) -> bool {
        self.lock().get(&id).is_some_and(|it| it.looking)
    }

    /// Whether somebody called the job off since it was claimed, or it runs although it was called off.
    pub fn is_called_off(&self, id: JobId) -> bool {
        let held = self.lock();
        let called_off = |it: &Held| it.looking || it.stop == Some(Stop::Cancelled);
        held.get(&id).is_some_and(called_off)
    }

    /// Tells a job to stop; the first reason stays.
    pub fn stop(&self, id: JobId, why: Stop) {
        if let Some(held) = self.lock().get_mut(&id)
            && !(held.looking && why == Stop::Cancelled)
        {
            held.stop.get_or_insert(why);
            held.sign.raise(why);
        }
    }

    /// Tells all jobs to stop.
    pub fn stop_all(&self, why: Stop) {
        for held in self.lock().values_mut() {
            held.stop.get_or_insert(why);
            held.sign.raise(why);
        }
    }

    /// Why a job was told to stop.
    pub fn why(&self, id: JobId) -> Option<Stop> {
        self.lock().get(&id).and_then(|it| it.stop)
    }
}

/// A job's entry in [`Running`], for as long as somebody works on it. What panics or is aborted on the
/// way from the claim to the settled outcome drops it: then no heartbeat names the job any more, and
/// the sweeper takes it back. Without this such a job would be running for ever.
pub struct Hold {
    shared: Arc<Shared>,
    id: JobId,
    number: u64,
}

impl Hold {
    /// The holds of jobs that were just entered.
    pub fn of(shared: &Arc<Shared>, ids: &[JobId]) -> HashMap<JobId, Self> {
        let hold = |id: &JobId| {
            let number = shared.running.number(*id)?;
            let (shared, id) = (shared.clone(), *id);
            Some((id, Self { shared, id, number }))
        };
        ids.iter().filter_map(hold).collect()
    }
}

impl Hold {
    /// Forgets the job, unless it was entered again meanwhile.
    pub fn leave(&self) {
        self.shared.running.leave_entry(self.id, self.number);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A claimed job on its way to its lane's worker, with the place it takes there.
#[derive(Clone)]
pub struct Assigned {
    /// Its entry among what this daemon holds.
    pub hold: Arc<Hold>,
    /// The job, as claimed.
    pub job: Arc<Job>,
    /// Its place in the lane; given back when the last clone goes.
    pub place: Arc<OwnedSemaphorePermit>,
}

/// A settlement on its way to the ledger.
pub type Settling = Batcher<Settlement, Result<Settled, Arc<LedgerError>>>;

/// A settled job's slot on its way back to the queue: generation, lane, job. Whether it was freed.
pub type Freeing = Batcher<(i64, String, JobId), bool>;

/// Starts freeing slots together: one script a lane for all that ended meanwhile.
pub fn start_freeing(queue: Arc<dyn Queue>) -> Freeing {
    Batcher::start(BATCH, 2, move |batch: Vec<(i64, String, JobId)>| {
        let queue = queue.clone();
        async move {
            let mut lanes: HashMap<(i64, &str), Vec<JobId>> = HashMap::new();
            for (generation, lane, id) in &batch {
                lanes.entry((*generation, lane)).or_default().push(*id);
            }
            let mut freed = HashMap::new();
            for ((generation, lane), ids) in lanes {
                let done = queue.release(generation, lane, &ids).await.is_ok();
                freed.insert((generation, lane), done);
            }
            let is_freed = |(generation, lane, _): &(i64, String, JobId)| {
                freed.get(&(*generation, lane.as_str())) == Some(&true)
            };
            batch.iter().map(is_freed).collect()
        }
    })
}

/// Lanes of which more is due than their window holds: the relay knows, the dispatchers ask.
#[derive(Default)]
pub struct Behind(Mutex<BTreeSet<String>>);

impl Behind {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this one is.
    pub fn is(&self, lane: &str) -> bool {
        self.lock().contains(lane)
    }

    /// It is, or isn't any more.
    pub fn set(&self, lane: &str, is: bool) {
        let mut lanes = self.lock();
        if is {
            lanes.insert(lane.to_owned());
        } else {
            lanes.remove(lane);
        }
    }
}

/// What the loops of one daemon share.
pub struct Shared {
    /// The truth.
    pub ledger: Arc<dyn Ledger>,
    /// The fast lane.
    pub queue: Arc<dyn Queue>,
    /// The inboxes that are emptied: those of Redis, the SQL door.
    pub inboxes: Vec<Arc<dyn Inbox>>,
    /// The configuration; a reload swaps it whole.
    pub config: Arc<ArcSwap<Config>>,
    /// Whose turn is next, as that configuration says.
    pub fair: ArcSwap<Fair>,
    /// The kinds that this program knows.
    pub kinds: Arc<[Kind]>,
    /// Their names.
    pub kind_names: Arc<[String]>,
    /// The clock of this host.
    pub clock: Clock,
    /// This run.
    pub run: Run,
    /// What handlers reach the world with.
    pub tools: Tools,
    /// Counts requests to platforms.
    pub gate: Arc<Gatekeeper>,
    /// The jobs held here.
    pub running: Running,
    /// The queue's generation; 0 while the queue can't be used.
    pub generation: AtomicI64,
    /// Lanes that are paused.
    pub paused: ArcSwap<BTreeSet<String>>,
    /// The breakers of servers that failed.
    pub breakers: super::breakers::Breakers,
    /// Accounts of which nothing is asked for a while.
    pub quiet: Arc<Quiet>,
    /// What was heard of the ledger's accounts.
    pub accounts: super::heard::Heard,
    /// What is shut: dispatch passes over it.
    pub shut: super::gates::Gates,
    /// Wakes the dispatchers.
    pub dispatch: super::wakes::Wakes,
    /// Wakes the relay: the queue is stale, or a window runs low.
    pub relay: Notify,
    /// Lanes of which more is due than their window holds.
    pub behind: Behind,
    /// Due jobs for the relay, as soon as they are accepted.
    pub hints: mpsc::Sender<(String, Hint)>,
    /// Group commit of outcomes.
    pub settling: Settling,
    /// Slots of settled jobs, freed together.
    pub freeing: Freeing,
    /// The turn of a suspect: of those that may be what kills this daemon, one runs at a time.
    pub suspects: Arc<Semaphore>,
    /// Progress to be kept.
    pub progress: super::progress::Progresses,
    /// For whoever watches.
    pub happenings: broadcast::Sender<Happening>,
    /// No more claims: the daemon drains.
    pub draining: CancellationToken,
    /// The ledger answers; set by the heartbeat.
    pub ledger_up: AtomicBool,
    /// Daemons that are alive, this one included; set by the control loop.
    pub live: AtomicU32,
    /// How far the ledger's clock is ahead of this host's, in microseconds; set by the heartbeat.
    pub skew: AtomicI64,
    /// The heartbeat's thread lives.
    pub lease_pulse: super::pulse::Pulse,
    /// How pressed for memory it is; set by the guard.
    pub pressure: super::pressure::Gauge,
    /// After a missed heartbeat nothing is reclaimed before this: others may only be late, too.
    pub brake: Mutex<Option<Instant>>,
}

impl Shared {
    /// What intake decides by now.
    pub fn rules(&self) -> Rules {
        Rules {
            config: self.config.load_full(),
            kinds: self.kinds.clone(),
        }
    }

    /// Tells the relay of jobs that are due at once. What it can't take it finds by itself.
    pub fn hint(&self, jobs: &[NewJob], answers: &[Answer]) {
        let fair = self.fair.load();
        for (job, answer) in jobs.iter().zip(answers) {
            if let Answer::New {
                id,
                lane,
                due: true,
                ..
            } = answer
            {
                let account = job.account.as_deref().unwrap_or_default();
                let hint = Hint {
                    id: *id,
                    priority: job.priority,
                    tenant: job.tenant.as_str().into(),
                    account: account.into(),
                    lifted: false,
                    step: fair.step(job.priority, &job.tenant, account),
                };
                if self.hints.try_send((lane.clone(), hint)).is_err() {
                    return;
                }
            }
        }
    }

    /// The kind of a name.
    pub fn kind(&self, name: &str) -> Option<&Kind> {
        self.kinds.iter().find(|it| it.name() == name)
    }

    /// The policy of a kind by now.
    pub fn policy(&self, kind: &str) -> Policy {
        self.kind(kind)
            .map_or_else(Policy::default, |it| it.settings(&self.config.load()).retry)
    }

    /// The generation to speak to the queue with; `None` while it can't be used.
    pub fn generation(&self) -> Option<i64> {
        Some(self.generation.load(Ordering::SeqCst)).filter(|it| *it != 0)
    }

    /// The queue answered badly under this generation: nothing is taken from it until the relay has
    /// mended it. Said a second time, or of a generation that was left behind, it changes nothing and
    /// wakes nobody: a queue that answers but refuses mustn't make the relay spin. Whether it was the
    /// first to say so: who tells people of it, once.
    pub fn distrust_queue(&self, generation: i64) -> bool {
        let trusted =
            self.generation
                .compare_exchange(generation, 0, Ordering::SeqCst, Ordering::SeqCst);
        if trusted.is_ok() {
            self.relay.notify_one();
            self.dispatch.all();
        }
        trusted.is_ok()
    }

    /// The lane is paused, or the daemon drains, or is pressed for memory.
    pub fn is_paused(&self, lane: &str) -> bool {
        self.draining.is_cancelled()
            || Pressure::None < self.pressure.get()
            || self.paused.load().contains(lane)
    }

    /// Takes over what the ledger's closures are; wakes everybody where something goes again.
    pub fn learn_closures(&self, written: Vec<Closure>) {
        let changed = self.shut.learn(written, &self.config.load(), self.now());
        self.wake_for(changed);
    }

    /// What waits for budgets is looked at again: other ones hold now.
    pub fn open_budgets(&self) {
        let changed = self
            .shut
            .open(Cause::Budget, &self.config.load(), self.now());
        self.wake_for(changed);
    }

    /// Shuts these scopes on this host alone, in place of what was shut here for the same cause.
    pub fn shut_here(&self, cause: Cause, closures: Vec<Closure>) {
        let changed = self
            .shut
            .put(cause, closures, &self.config.load(), self.now());
        self.wake_for(changed);
    }

    fn wake_for(&self, changed: Changed) {
        if changed.opened {
            self.relay.notify_one();
            self.dispatch.all();
        }
    }

    /// As [`Shared::learn_closures`], asked of the ledger now: who was refused by one that this host
    /// doesn't know yet must not come back for the same.
    ///
    /// # Errors
    /// When the ledger is away.
    pub async fn look_at_closures(&self) -> Result<(), LedgerError> {
        let written = self.ledger.closures().await?;
        self.learn_closures(written);
        Ok(())
    }

    /// Frees the slot of a job that ended, and wakes who waits for it. A queue that is away is
    /// rebuilt when it is back: then the slot is free by itself.
    pub async fn free(&self, lane: &str, ids: &[JobId]) {
        if let Some(generation) = self.generation()
            && self.queue.release(generation, lane, ids).await.is_err()
        {
            self.distrust_queue(generation);
        }
        self.dispatch.lane(lane);
    }

    /// As [`Shared::free`], together with other jobs that end at this moment.
    pub async fn free_settled(&self, lane: &str, id: JobId) {
        if let Some(generation) = self.generation() {
            let freed = self.freeing.submit((generation, lane.to_owned(), id)).await;
            if freed != Some(true) {
                self.distrust_queue(generation);
            }
        }
        self.dispatch.lane(lane);
    }

    /// Tells whoever watches.
    pub fn tell(&self, job: &Arc<Job>, what: What) {
        // nobody may be watching
        let _ = self.happenings.send(Happening {
            job: job.clone(),
            what,
        });
    }

    /// What a failure counts as when a handler panicked or the program has no such kind.
    pub fn own_failure(code: &str, message: String) -> crate::outcome::Failure {
        crate::outcome::Failure::new(
            Class::Transient,
            crate::outcome::Scope::Handler,
            code,
            message,
        )
    }

    /// The time by the ledger's clock, as the last heartbeat knew it: what is stored is compared there.
    pub fn now(&self) -> Time {
        self.clock.now() + self.ahead()
    }

    /// How far the ledger's clock is ahead of this host's.
    pub fn ahead(&self) -> chrono::Duration {
        chrono::Duration::microseconds(self.skew.load(Ordering::Relaxed))
    }

    /// Whether an effect of a job may have happened and nobody knows yet, or a platform goes on working
    /// for it. A ledger that can't say counts as yes: looking once more is cheap.
    pub async fn is_open(&self, job: &Job) -> bool {
        match self.ledger.effects(job.id).await {
            Ok(effects) => effects.iter().any(Effect::is_unfinished),
            Err(_) => true,
        }
    }

    /// Whether a platform goes on working for a job.
    pub async fn is_worked_on(&self, job: &Job) -> bool {
        let effects = self.ledger.effects(job.id).await;
        effects.is_ok_and(|it| it.iter().any(|it| it.handle.is_some()))
    }

    /// Whether a job was called off and runs only because a platform goes on working for it.
    pub async fn is_only_worked_on(&self, job: &Job) -> bool {
        let effects = match self.running.is_looking(job.id) {
            true => self.ledger.effects(job.id).await.unwrap_or_default(),
            false => vec![],
        };
        let open = effects.iter().any(Effect::is_open);
        !open && effects.iter().any(|it| it.handle.is_some())
    }

    /// This run's id.
    pub fn run_id(&self) -> Uuid {
        self.run.id
    }
}
