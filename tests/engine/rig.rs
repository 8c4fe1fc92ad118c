//! An engine that a test steps by hand: the same parts as the daemon's, without its loops.

// several test binaries include it, each uses a part
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use presswork::clock::{Clock, Time};
use presswork::config::{Config, Lane};
use presswork::context::Tools;
use presswork::engine::control::Control;
use presswork::engine::dispatcher::{Dispatcher, Took};
use presswork::engine::doors::Doors;
use presswork::engine::lease::Lease;
use presswork::engine::reconciler::Reconciler;
use presswork::engine::relay::Relay;
use presswork::engine::shared::{Assigned, BATCH, Parts, Shared};
use presswork::engine::sweeper::Sweeper;
use presswork::engine::{Engine, assemble, runner};
use presswork::handler::Kind;
use presswork::inbox::Inbox;
use presswork::intake::Answer;
use presswork::job::{Job, JobId};
use presswork::ledger::postgres::{PgOptions, Postgres, Role};
use presswork::ledger::sqlite::Sqlite;
use presswork::ledger::{Attempt, Ledger, Run};
use presswork::lifecycle::State;
use presswork::operate::By;
use presswork::queue::Queue;
use presswork::queue::memory::MemoryQueue;
use presswork::queue::redis::{RedisOptions, RedisQueue};
use serde_json::Value;
use sqlx::Connection;
use tempfile::TempDir;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::kit;

/// Where a rig keeps things; several rigs on one base are several hosts.
#[derive(Clone)]
pub struct Base {
    pub ledger: Arc<dyn Ledger>,
    pub queue: Arc<dyn Queue>,
    /// The one of Redis.
    pub inbox: Option<Arc<dyn Inbox>>,
    /// The SQL door.
    pub sql: Option<Arc<dyn Inbox>>,
    pub clock: Clock,
    pub dir: Arc<TempDir>,
    /// The Postgres database, where there is one.
    pub database: Option<String>,
}

impl Base {
    /// One of each pair of stores.
    pub async fn both() -> [Self; 2] {
        [Self::embedded().await, Self::servers().await]
    }

    /// SQLite in a folder of its own, and the queue in memory; time stands still.
    pub async fn embedded() -> Self {
        Self::sqlite(still()).await
    }

    /// As [`Base::embedded`], by the machine's clock: for whole engines.
    pub async fn embedded_live() -> Self {
        Self::sqlite(Clock::System).await
    }

    async fn sqlite(clock: Clock) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.sqlite");
        let ledger = Sqlite::open(&path, clock.clone()).await.unwrap();
        ledger.migrate().await.unwrap();
        Self {
            ledger: Arc::new(ledger),
            queue: Arc::new(MemoryQueue::default()),
            inbox: None,
            sql: None,
            clock,
            dir: Arc::new(dir),
            database: None,
        }
    }

    /// A database of its own in the tests' Postgres, keys of its own in the tests' Redis.
    pub async fn servers() -> Self {
        let redis = kit::redis::Redis::shared().url();
        Self::on(
            kit::postgres::Postgres::shared(),
            &redis,
            Some(format!("rig-{}", Uuid::new_v4())),
        )
        .await
    }

    /// In these servers.
    pub async fn on(
        postgres: &kit::postgres::Postgres,
        redis: &str,
        prefix: Option<String>,
    ) -> Self {
        let url = postgres.create_database().await;
        let options = PgOptions::new(Role::Ledger);
        let ledger = Postgres::open(&url.as_str().into(), options).unwrap();
        ledger.migrate().await.unwrap();
        let options = RedisOptions {
            url: redis.into(),
            prefix,
        };
        let queue = RedisQueue::open(&options).unwrap();
        let ledger = Arc::new(ledger);
        Self {
            sql: ledger.clone().inbox(),
            ledger,
            inbox: Some(Arc::new(queue.inbox())),
            queue: Arc::new(queue),
            clock: still(),
            dir: Arc::new(tempfile::tempdir().unwrap()),
            database: Some(url),
        }
    }

    pub fn config(&self) -> Config {
        let mut config = Config::default_embedded(self.dir.path());
        config.api.listen = None;
        config
    }

    pub fn parts(&self, config: Config, kinds: Vec<Kind>) -> Parts {
        let run = Run {
            id: Uuid::now_v7(),
            host: "rig".to_owned(),
            boot: None,
            pid: std::process::id(),
            version: "0".to_owned(),
            began_at: self.clock.now(),
        };
        let tools = Tools::new(&config, self.ledger.clone(), &self.clock).unwrap();
        Parts {
            ledger: self.ledger.clone(),
            queue: self.queue.clone(),
            inboxes: self.inbox.iter().chain(&self.sql).cloned().collect(),
            config: Arc::new(config),
            kinds: kinds.into(),
            clock: self.clock.clone(),
            run,
            tools,
        }
    }

    /// A whole engine, with its loops.
    pub async fn whole(&self, edit: impl FnOnce(&mut Config), kinds: Vec<Kind>) -> Engine {
        let mut config = self.config();
        edit(&mut config);
        Engine::start(self.parts(config, kinds), self.door_for_leases().await)
            .await
            .unwrap()
    }

    /// Connections of their own for the heartbeat, as the daemon has them.
    async fn door_for_leases(&self) -> Arc<dyn Ledger> {
        match &self.database {
            Some(url) => {
                Arc::new(Postgres::open(&url.as_str().into(), PgOptions::new(Role::Lease)).unwrap())
            }
            None => {
                let path = self.dir.path().join("ledger.sqlite");
                Arc::new(Sqlite::open(&path, self.clock.clone()).await.unwrap())
            }
        }
    }

    /// Moves the time on, of the hosts and of the ledger.
    pub async fn advance(&self, by: Duration) {
        self.clock.advance(chrono::Duration::from_std(by).unwrap());
        if let Some(url) = &self.database {
            let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
            sqlx::query("UPDATE presswork.meta SET shift = shift + $1 * interval '1 second'")
                .bind(by.as_secs_f64())
                .execute(&mut connection)
                .await
                .unwrap();
        }
    }
}

/// A clock that stands still, now.
fn still() -> Clock {
    Clock::manual(Clock::System.now())
}

/// One lane, with the end of the channel at which a worker would stand.
pub struct Line {
    dispatcher: Dispatcher,
    claimed: Mutex<mpsc::Receiver<Assigned>>,
    pub room: Arc<Semaphore>,
}

/// An engine without loops: one host.
pub struct Rig {
    pub base: Base,
    pub shared: Arc<Shared>,
    pub relay: Arc<Relay>,
    pub sweeper: Sweeper,
    pub control: Control,
    pub reconciler: Reconciler,
    pub doors: Doors,
    pub lease: Mutex<Lease>,
    lines: BTreeMap<String, Line>,
}

impl Rig {
    pub async fn new(base: &Base, kinds: Vec<Kind>, edit: impl FnOnce(&mut Config)) -> Self {
        let mut config = base.config();
        edit(&mut config);
        let lanes = config.lanes.clone();
        let (shared, hints) = assemble(base.parts(config, kinds));
        let length = shared.config.load().lease;
        shared.ledger.begin_run(&shared.run, length).await.unwrap();
        let lines = lanes
            .iter()
            .map(|(name, lane)| (name.clone(), line(&shared, name, lane)));
        Self {
            base: base.clone(),
            relay: Arc::new(Relay::new(shared.clone(), hints)),
            sweeper: Sweeper::new(shared.clone()),
            control: Control::new(shared.clone()),
            reconciler: Reconciler::new(shared.clone()),
            doors: Doors::new(shared.clone()),
            lease: Mutex::new(Lease::new(
                shared.clone(),
                base.ledger.clone(),
                Instant::now(),
            )),
            lines: lines.collect(),
            shared,
        }
    }

    pub async fn submit(&self, envelope: &Value) -> Answer {
        self.doors
            .submit(envelope.to_string().as_bytes())
            .await
            .unwrap()
    }

    /// # Panics
    /// Where it isn't new.
    pub async fn enqueue(&self, envelope: &Value) -> JobId {
        match self.submit(envelope).await {
            Answer::New { id, .. } => id,
            other => panic!("{envelope}: {other:?}"),
        }
    }

    pub async fn job(&self, id: JobId) -> Job {
        self.base.ledger.job(id).await.unwrap().unwrap()
    }

    pub async fn attempts(&self, id: JobId) -> Vec<Attempt> {
        self.base.ledger.attempts(id).await.unwrap()
    }

    pub async fn effects(&self, id: JobId) -> Vec<presswork::effect::Effect> {
        self.base.ledger.effects(id).await.unwrap()
    }

    pub async fn advance(&self, by: Duration) {
        self.base.advance(by).await;
        self.lease.lock().await.tick().await;
    }

    /// Fills the queue, then takes all that there is room for.
    pub async fn take(&self, lane: &str) -> Vec<Assigned> {
        self.relay.tick().await;
        self.dispatch(lane).await
    }

    /// One turn of the lane's dispatcher, which leaves others their share if it is `polite`.
    pub async fn turn(&self, lane: &str, polite: bool) -> (Took, Vec<Assigned>) {
        let line = &self.lines[lane];
        let took = line.dispatcher.turn(polite).await;
        let mut claimed = line.claimed.lock().await;
        let taken = std::iter::from_fn(|| claimed.try_recv().ok()).collect();
        (took, taken)
    }

    /// Takes all that there is room for from the queue as it is.
    pub async fn dispatch(&self, lane: &str) -> Vec<Assigned> {
        let line = &self.lines[lane];
        let mut taken = Vec::new();
        // a dispatcher waits for room, and a test for nothing
        while 0 < line.room.available_permits() {
            let (took, more) = self.turn(lane, false).await;
            taken.extend(more);
            if matches!(took, Took::Nothing | Took::Empty) {
                break;
            }
        }
        taken
    }

    /// One tick of a lane's dispatcher: where there is no room, it waits for some.
    pub async fn tick(&self, lane: &str) -> Took {
        self.lines[lane].dispatcher.tick().await
    }

    pub fn begin(&self, assigned: Assigned) -> tokio::task::JoinHandle<()> {
        tokio::spawn(runner::run(self.shared.clone(), assigned))
    }

    /// One attempt of each job that is due and has room, to its end. How many there were.
    pub async fn step(&self, lane: &str) -> usize {
        let taken = self.take(lane).await;
        let runs: Vec<_> = taken.into_iter().map(|it| self.begin(it)).collect();
        let count = runs.len();
        for run in runs {
            run.await.unwrap();
        }
        count
    }

    /// Moves the time to when the job's account isn't closed any more. Whether only a person opens it.
    async fn wait_for_its_account(&self, job: &Job, now: Time) -> bool {
        let closures = self.base.ledger.closures().await.unwrap_or_default();
        let own = closures.iter();
        let own = own.filter(|it| it.scope.account.is_some() && it.scope.account == job.account);
        let of_people = own.clone().any(|it| it.until.is_none());
        if let Some(until) = own.filter_map(|it| it.until).max() {
            let wait = (until - now).to_std().unwrap_or_default();
            self.advance(wait + Duration::from_millis(2)).await;
        }
        // as the control loop does
        if let Err(e) = self.shared.look_at_closures().await {
            assert!(e.is_away(), "{e}");
        }
        of_people
    }

    /// Steps, and moves the time to when the job may run next, until it waits for nobody but people.
    pub async fn drive(&self, id: JobId) -> Job {
        for _ in 0..60 {
            let job = self.job(id).await;
            if !job.state.is_claimable() {
                return job;
            }
            // what a real heartbeat does by itself: a server's time goes on
            self.lease.lock().await.tick().await;
            let now: Time = self.base.ledger.now().await.unwrap();
            if now < job.run_at {
                let wait = (job.run_at - now).to_std().unwrap();
                self.advance(wait + Duration::from_millis(2)).await;
            }
            if self.wait_for_its_account(&job, now).await {
                return job;
            }
            // a ledger that is away for a moment is asked again in the next round, as the loop does
            if let Err(e) = self.reconciler.tick().await {
                assert!(e.is_away(), "{e}");
            }
            self.step(&job.lane).await;
        }
        panic!("job {id} doesn't come to an end: {:?}", self.job(id).await);
    }

    /// # Panics
    /// Where it stands elsewhere.
    pub async fn expect(&self, id: JobId, state: State) -> Job {
        let job = self.job(id).await;
        assert_eq!(job.state, state, "{job:?}");
        job
    }
}

fn line(shared: &Arc<Shared>, name: &str, lane: &Lane) -> Line {
    let room = Arc::new(Semaphore::new(lane.places() as usize));
    let (jobs, claimed) = mpsc::channel(BATCH);
    Line {
        dispatcher: Dispatcher::new(
            shared.clone(),
            name,
            room.clone(),
            jobs,
            CancellationToken::new(),
        ),
        claimed: Mutex::new(claimed),
        room,
    }
}

/// A person.
pub fn somebody() -> By {
    By {
        actor: "anna".to_owned(),
        reason: "a test".to_owned(),
    }
}
