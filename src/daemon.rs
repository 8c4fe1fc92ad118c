//! The daemon as a process: its lock, its run, its engine, its servers, its signals.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::api::keyring::Keyring;
use crate::clock::{Clock, Time};
use crate::config::{Config, Store};
use crate::context::Tools;
use crate::engine::Engine;
use crate::engine::pressure::Pressure;
use crate::engine::shared::Parts;
use crate::engine::{failover, guard};
use crate::handler::Kind;
use crate::journal::{self, Journal};
use crate::ledger::{Ledger, Run};
use crate::recovery::{self, Recovered};
use crate::sabotage;
use crate::stores::{self, Role};
use crate::telemetry::metrics;
use crate::{api, kinds, resp, service, testimony};

/// The proof that no other daemon uses the same state: the kernel frees it when the process dies.
struct Lock {
    file: File,
    predecessor: Option<Uuid>,
    /// The folder is no copy of another machine's.
    here: bool,
}

impl Lock {
    /// Takes the lock of a folder.
    fn take(path: &Path) -> anyhow::Result<Self> {
        if let Some(folder) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("can't make {}", folder.display()))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        let mut file = file.with_context(|| format!("can't open {}", path.display()))?;
        let mut holder = String::new();
        let taken = file.try_lock();
        // whatever it holds is only a hint of who that was
        let _ = file.read_to_string(&mut holder);
        taken.map_err(|_| {
            let pid = holder.split_whitespace().nth(1).unwrap_or("unknown");
            anyhow::anyhow!(
                "another daemon (process {pid}) holds {}; stop it, or set another daemon.state_dir",
                path.display()
            )
        })?;
        // a copied folder names a run of another machine, which may well live
        let here = holder
            .split_whitespace()
            .nth(2)
            .is_none_or(|it| it == machine());
        let predecessor = holder
            .split_whitespace()
            .next()
            .filter(|_| here)
            .and_then(|it| Uuid::parse_str(it).ok());
        Ok(Self {
            file,
            predecessor,
            here,
        })
    }

    /// Names the run that holds it now.
    fn hold(&mut self, run: &Run) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        write!(self.file, "{} {} {}", run.id, run.pid, machine())?;
        self.file.sync_data()
    }
}

/// While it lives, no daemon runs on this host with a configuration.
pub struct Locked(Vec<Lock>);

/// Takes what a daemon holds for itself: the state folder, and the ledger's file where it is one.
///
/// # Errors
/// When a daemon holds it, or the files can't be made.
pub fn lock(config: &Config) -> anyhow::Result<Locked> {
    let mut locks = vec![Lock::take(&config.state_dir.join(LOCK))?];
    if let Store::Sqlite(path) = &config.ledger {
        locks.push(Lock::take(&path.with_extension("lock"))?);
    }
    Ok(Locked(locks))
}

/// The process of the daemon that holds this state folder.
///
/// # Errors
/// When the folder can't be read.
pub fn holder(state_dir: &Path) -> std::io::Result<Option<u32>> {
    let mut file = match File::open(state_dir.join(LOCK)) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    match file.try_lock_shared() {
        Ok(()) => return Ok(None),
        Err(std::fs::TryLockError::WouldBlock) => {}
        Err(std::fs::TryLockError::Error(e)) => return Err(e),
    }
    let mut said = String::new();
    file.read_to_string(&mut said)?;
    Ok(said
        .split_whitespace()
        .nth(1)
        .and_then(|it| it.parse().ok()))
}

/// What the daemon has to say of the last time it read its configuration anew: kept in the state
/// folder for whoever asked for it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reloaded {
    /// The process.
    pub pid: u32,
    /// When.
    pub at: Time,
    /// Why the old configuration still holds; nothing when the new one does.
    pub error: Option<String>,
}

impl Reloaded {
    fn file(state_dir: &Path) -> PathBuf {
        state_dir.join("reloaded.json")
    }

    /// The last one, if there was any.
    pub fn last(state_dir: &Path) -> Option<Self> {
        let said = std::fs::read(Self::file(state_dir)).ok()?;
        serde_json::from_slice(&said).ok()
    }

    fn keep(&self, state_dir: &Path) -> std::io::Result<()> {
        let file = Self::file(state_dir);
        let new = file.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(self)?)?;
        std::fs::rename(new, file)
    }
}

/// In the state folder.
const LOCK: &str = "daemon.lock";
/// In the state folder: the send journals.
const JOURNALS: &str = "journal";
/// The longest start, which brings a large ledger's schema up to date, that a service manager is
/// asked to wait for.
const START_MAX: Duration = Duration::from_secs(3_600);
/// What a stop may take beyond the drain's deadline.
const STOP_SLACK: Duration = Duration::from_secs(30);

/// Histograms gather samples until somebody looks; without a scraper this does.
const UPKEEP: Duration = Duration::from_secs(5);

/// A running daemon.
pub struct Daemon {
    /// What makes it go.
    pub engine: Engine,
    /// Where the API listens.
    pub api: Option<SocketAddr>,
    /// Where the Redis port listens.
    pub resp: Option<SocketAddr>,
    servers_stop: CancellationToken,
    servers: Vec<tokio::task::JoinHandle<()>>,
    state_dir: PathBuf,
    _locks: Vec<Lock>,
}

/// What tells this machine from a copy of it, where the system knows.
fn machine() -> String {
    let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    match id.trim() {
        "" => "-".to_owned(),
        id => id.to_owned(),
    }
}

/// This run of the daemon, on this host.
fn this_run(clock: &Clock) -> Run {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .ok()
            .map(|it| it.trim().to_owned())
    };
    Run {
        id: Uuid::new_v4(),
        host: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        // a service manager may hide /proc, and tell it instead
        boot: read("/proc/sys/kernel/random/boot_id")
            .or_else(|| std::env::var("PRESSWORK_BOOT_ID").ok()),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        began_at: clock.now(),
    }
}

impl Daemon {
    /// Starts a daemon: lock, ledger (migrated, and asked whether it is durable), queue, engine, API.
    /// Ready when it returns; Redis may still be away.
    ///
    /// # Errors
    /// What stands against starting, in words for people.
    pub async fn start(config: Config, kinds: Vec<Kind>) -> anyhow::Result<Self> {
        let clock = Clock::System;
        let run = this_run(&clock);
        let Locked(mut locks) = lock(&config)?;
        let ledger = stores::ledger(&config, &clock, Role::Engine).await?;
        prepare(&*ledger).await?;
        let embedded = matches!(config.ledger, Store::Sqlite(_));
        recover(&*ledger, &run, &locks[0], &config.state_dir).await?;
        testify(&*ledger, &run, &locks[0], &config.state_dir).await?;
        reclaim_predecessors(&*ledger, &locks, embedded).await?;
        for lock in &mut locks {
            lock.hold(&run).context("can't write to the lock file")?;
        }
        let (queue, mut inboxes) = stores::queue(&config).await?;
        inboxes.extend(ledger.clone().inbox());
        let lease = match sabotage!("lease.connections") {
            true => ledger.clone(),
            false => stores::ledger(&config, &clock, Role::Lease).await?,
        };
        let api_ledger = stores::ledger(&config, &clock, Role::Api).await?;
        let (api, resp) = (config.api.clone(), config.resp);
        let state_dir = config.state_dir.clone();
        let mut tools = Tools::new(&config, ledger.clone(), &clock)?;
        let journals = config.state_dir.join(JOURNALS);
        let journal = Journal::begin(&journals, &run, journal::Options::default());
        let told = || format!("can't begin a send journal in {}", journals.display());
        tools.journal = Some(journal.with_context(told)?);
        let parts = Parts {
            ledger,
            queue,
            inboxes,
            config: Arc::new(config),
            kinds: kinds.into(),
            clock,
            run,
            tools,
        };
        for (what, key, listen) in [
            ("the API", "api.listen", api.listen),
            ("the Redis port", "resp.listen", resp),
        ] {
            // told now, and not when jobs have been taken already
            let bound = listen.map(std::net::TcpListener::bind).transpose();
            bound.with_context(|| {
                let listen = listen.map_or(String::new(), |it| it.to_string());
                format!("{what} can't listen on {listen} ({key})")
            })?;
        }
        guard::files(&parts.config);
        let engine = Engine::start(parts, lease).await?;
        let mut daemon = Self {
            engine,
            api: None,
            resp: None,
            servers_stop: CancellationToken::new(),
            servers: Vec::new(),
            state_dir,
            _locks: locks,
        };
        if api.listen.is_some() {
            // whatever door is open first, its jobs are counted
            metrics::install();
        }
        let tokens: resp::Tokens = (api.token, Arc::new(Keyring::new(api_ledger.clone())));
        if let Some(listen) = resp {
            daemon.open_resp(listen, tokens.clone()).await?;
        }
        // last: who is told that it is ready finds all doors open
        if let Some(listen) = api.listen {
            daemon.open_api(listen, tokens, api_ledger).await?;
        }
        Ok(daemon)
    }

    async fn open_resp(&mut self, listen: SocketAddr, tokens: resp::Tokens) -> anyhow::Result<()> {
        let (doors, stop) = (self.engine.doors.clone(), self.servers_stop.clone());
        let serving = resp::serve(listen, tokens, doors, stop).await?;
        tracing::info!(address = %serving.addr, "the Redis port listens");
        self.resp = Some(serving.addr);
        self.servers.push(serving.task);
        Ok(())
    }

    async fn open_api(
        &mut self,
        listen: SocketAddr,
        (token, keyring): resp::Tokens,
        ledger: Arc<dyn Ledger>,
    ) -> anyhow::Result<()> {
        let metrics = metrics::install();
        let (kept, stop) = (metrics.clone(), self.servers_stop.clone());
        tokio::spawn(async move {
            while stop
                .run_until_cancelled(tokio::time::sleep(UPKEEP))
                .await
                .is_some()
            {
                kept.upkeep();
            }
        });
        let state = api::State {
            doors: self.engine.doors.clone(),
            shared: self.engine.shared.clone(),
            ledger,
            keyring,
            render: Arc::new(move || metrics.render()),
        };
        let serving = api::serve(listen, token, state, self.servers_stop.clone()).await?;
        tracing::info!(address = %serving.addr, "the API listens");
        self.api = Some(serving.addr);
        self.servers.push(serving.task);
        Ok(())
    }

    /// How it stands, in a line for the service manager.
    fn summary(&self) -> String {
        let shared = &self.engine.shared;
        let ledger = match shared.ledger_up.load(Ordering::SeqCst) {
            true => "answers",
            false => "is away",
        };
        let queue = match shared.generation() {
            Some(_) => "in use",
            None => "away or being rebuilt",
        };
        let pressed = match shared.pressure.get() {
            Pressure::None => "",
            _ => "short of memory: ",
        };
        format!(
            "{pressed}{} running here, {} unfinished; ledger ({}) {ledger}, queue ({}) {queue}",
            shared.running.len(),
            self.engine.doors.backlog(),
            shared.ledger.name(),
            shared.queue.name(),
        )
    }

    /// Takes a configuration that was read anew, or says why not; the old one holds then.
    fn reload(&self, read: Result<Config, String>) {
        service::reloading();
        let shared = &self.engine.shared;
        let error = match read {
            Ok(config) => {
                for key in shared.config.load().fixed_since(&config) {
                    tracing::warn!("{key} holds from the next start on");
                }
                self.engine.reload(config);
                tracing::info!("the configuration was read anew and holds from now on");
                None
            }
            Err(e) => {
                tracing::error!("the configuration wasn't changed, the old one holds:\n{e}");
                Some(e)
            }
        };
        service::ready(&self.summary());
        let reloaded = Reloaded {
            pid: std::process::id(),
            at: shared.clock.now(),
            error,
        };
        if let Err(e) = reloaded.keep(&self.state_dir) {
            tracing::warn!("whoever asked for the configuration to be read isn't told: {e}");
        }
    }

    /// Stops: no new jobs, running ones get until the drain's deadline, the rest is given back at no
    /// charge. Returns how many were given back.
    pub async fn stop(self) -> usize {
        let drain = self.engine.shared.config.load().drain;
        service::stopping(&format!(
            "{} still running, which get {} s at most",
            self.engine.shared.running.len(),
            drain.as_secs()
        ));
        service::patiently(drain + STOP_SLACK, async {
            let journal = self.engine.shared.tools.journal.clone();
            let given_back = self.engine.drain(drain).await;
            if let Some(journal) = journal
                && let Err(e) = journal.end().await
            {
                tracing::warn!("the send journal has no end: {e}");
            }
            self.servers_stop.cancel();
            // they end by themselves within their own bounds
            let ended = futures_util::future::join_all(self.servers);
            let _ = tokio::time::timeout(Duration::from_secs(5), ended).await;
            given_back
        })
        .await
    }
}

/// Brings the schema up to date and asks the ledger whether it is durable.
///
/// # Errors
/// When it can't be reached, is newer than this program, or isn't durable.
async fn prepare(ledger: &dyn Ledger) -> anyhow::Result<()> {
    let migrated = ledger.migrate().await?;
    if migrated.from != migrated.to {
        tracing::info!(
            from = migrated.from,
            to = migrated.to,
            "the ledger's schema was brought up to date"
        );
    }
    let schema = ledger.schema().await?;
    if schema.known < schema.found {
        let (found, known) = (schema.found, schema.known);
        tracing::warn!(
            "the ledger's schema has version {found}, by a newer program on another host; this one speaks version {known}, works with it, and is to be upgraded, too"
        );
    }
    let concerns = ledger.concerns().await?;
    for concern in concerns.iter().filter(|it| !it.fatal) {
        tracing::warn!("{}: {}", concern.setting, concern.message);
    }
    let fatal: Vec<String> = concerns
        .iter()
        .filter(|it| it.fatal)
        .map(|it| format!("{}: {}", it.setting, it.message))
        .collect();
    if !fatal.is_empty() {
        anyhow::bail!(
            "the ledger isn't durable, and a daemon that promises that nothing is lost won't start on it:\n{}",
            fatal.join("\n")
        );
    }
    Ok(())
}

/// The lock proves that whoever wrote the journals here is dead: what they tell is written down.
async fn recover(
    ledger: &dyn Ledger,
    run: &Run,
    lock: &Lock,
    state_dir: &Path,
) -> anyhow::Result<()> {
    let folder = state_dir.join(JOURNALS);
    if !lock.here {
        return recovery::forget(&folder).context("can't remove another machine's send journals");
    }
    let found = recovery::recover(ledger, run, &folder).await?;
    if found != Recovered::default() {
        let Recovered {
            not_sent,
            answered,
            sent,
        } = found;
        tracing::info!(
            not_sent,
            answered,
            sent,
            "the send journals told what dead runs of this host were sending"
        );
    }
    Ok(())
}

/// A ledger that was taken over by a standby is told what the dead runs of this host sent.
async fn testify(
    ledger: &dyn Ledger,
    run: &Run,
    lock: &Lock,
    state_dir: &Path,
) -> anyhow::Result<()> {
    let Some(history) = failover::noted(ledger).await?.filter(|_| lock.here) else {
        return Ok(());
    };
    let folder = state_dir.join(JOURNALS);
    let mended = testimony::of_the_dead(ledger, run, &history, &folder).await?;
    failover::call(ledger, &mended).await?;
    if 0 < mended.forward + mended.kept {
        let told = mended.forward + mended.kept;
        tracing::warn!(
            told,
            "the send journals told what the ledger had lost when another server took it over"
        );
    }
    Ok(())
}

/// The lock proves that the runs that held it before are dead: what they ran is reclaimed at once.
async fn reclaim_predecessors(
    ledger: &dyn Ledger,
    locks: &[Lock],
    embedded: bool,
) -> anyhow::Result<()> {
    let mut dead: Vec<Uuid> = locks.iter().filter_map(|it| it.predecessor).collect();
    if embedded {
        // the file belongs to one daemon: whoever else is entered there is dead, too
        dead.extend(ledger.live_runs().await?.iter().map(|it| it.id));
    }
    for run in dead {
        ledger.end_run(run).await?;
    }
    Ok(())
}

/// What the process is asked by signals.
enum Asked {
    Stop,
    Reload,
    Status,
}

/// Listens for signals on a thread of its own: TERM and INT stop, and a second one ends the process
/// even with a stuck runtime; HUP reloads; USR1 writes a status report.
fn signals() -> anyhow::Result<mpsc::UnboundedReceiver<Asked>> {
    let again = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // in this order: the first sets the flag, the second finds it set and ends the process
        signal_hook::flag::register_conditional_shutdown(signal, 130, again.clone())?;
        signal_hook::flag::register(signal, again.clone())?;
    }
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
    let (asked, asks) = mpsc::unbounded_channel();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                let ask = match signal {
                    SIGHUP => Asked::Reload,
                    SIGUSR1 => Asked::Status,
                    _ => Asked::Stop,
                };
                if asked.send(ask).is_err() {
                    return;
                }
            }
        })?;
    Ok(asks)
}

/// Runs the daemon until it is told to stop. `reload` reads the configuration anew for HUP.
///
/// # Errors
/// What stood against starting; or that the daemon couldn't go on.
pub async fn run(
    config: Config,
    reload: impl Fn() -> Result<Config, String>,
) -> anyhow::Result<()> {
    let mut asks = signals()?;
    let starting = Daemon::start(config, kinds::all());
    let daemon = service::patiently(START_MAX, starting).await?;
    service::watch(daemon.engine.shared.clone()).context("can't start the watchdog's thread")?;
    service::ready(&daemon.summary());
    let mut status = tokio::time::interval(service::STATUS_EVERY);
    tracing::info!(run = %daemon.engine.shared.run.id, version = env!("CARGO_PKG_VERSION"), "ready");
    loop {
        tokio::select! {
            ask = asks.recv() => match ask {
                Some(Asked::Reload) => daemon.reload(reload()),
                Some(Asked::Status) => {
                    let status = daemon.engine.status().await;
                    tracing::info!(%status, "status");
                }
                Some(Asked::Stop) | None => break,
            },
            _ = status.tick() => service::status(&daemon.summary()),
            () = daemon.engine.failed.cancelled() => {
                let why = "a loop won't live, or the ledger says that this run is dead";
                daemon.stop().await;
                anyhow::bail!("{why}: see the log; the service manager starts it again");
            }
        }
    }
    tracing::info!("stopping: no new jobs; running ones may finish (a second signal ends at once)");
    let given_back = daemon.stop().await;
    tracing::info!(given_back, "stopped");
    Ok(())
}
