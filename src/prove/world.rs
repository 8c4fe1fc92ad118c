//! The world of a proof: private stores, the sandbox and the daemons, each a process of its own, that are
//! killed, stopped and started again; and what became of each.

use std::fs::File;
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::block_in_place;

use super::books::{Books, Place};
use super::evidence::{Life, Ms};
use super::furnish::{Furnished, Furnisher, Stores};
use super::proxy::Proxy;
use super::talk;
use crate::clock::Clock;
use crate::servers::process::{Folder, Process};
use crate::servers::{self, Programs, Server};

/// How long a daemon, or the sandbox, may take to be ready on a busy machine.
const READY: Duration = Duration::from_secs(90);
/// How long a daemon that is told to stop may take: well beyond its own deadline.
const STOPPED: Duration = Duration::from_secs(180);
/// How often it is looked whether it has.
const STOPPED_EVERY: Duration = Duration::from_millis(2);
/// What a daemon logs when the ledger refuses an outcome of a lease that was lost.
const LATE: &str = "late settle refused";
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Now.
pub fn now() -> Ms {
    Clock::System.now().timestamp_millis()
}

/// A simulated internet, in a process of its own.
pub struct Outside {
    /// Its base URL.
    pub url: String,
    /// Its address.
    pub addr: SocketAddr,
    /// Where its log is.
    pub dir: PathBuf,
    _process: Process,
}

impl Outside {
    async fn start(folder: &Folder) -> anyhow::Result<Self> {
        let dir = folder.path.join("outside");
        let mut command = ourselves()?;
        command.args(["--json", "sandbox", "--requests", "--listen", "127.0.0.1:0"]);
        command.arg("--dir").arg(&dir).stdout(Stdio::piped());
        command.stderr(File::create(folder.path.join("outside.log"))?);
        let mut process = folder.spawn(command)?;
        let out = process.stdout().context("the sandbox's output")?;
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            std::io::BufReader::new(out)
                .read_line(&mut line)
                .map(|_| line)
        });
        let line = tokio::time::timeout(READY, line).await;
        let line = line.context("the sandbox doesn't start")???;
        let told: Value = serde_json::from_str(&line).context("the sandbox doesn't start")?;
        let url = told["url"].as_str().context("the sandbox's address")?;
        let outside = Self {
            addr: url.trim_start_matches("http://").parse()?,
            url: url.to_owned(),
            dir,
            _process: process,
        };
        // X's filter would hide a second post behind a refusal
        let settings = json!({"x_duplicate_window_s": 0});
        outside.control("POST", "settings", Some(&settings)).await?;
        Ok(outside)
    }

    /// Asks its control paths for something.
    ///
    /// # Errors
    /// When it doesn't do it.
    pub async fn control(&self, how: &str, what: &str, body: Option<&Value>) -> anyhow::Result<()> {
        let path = format!("/_sandbox/{what}");
        let (status, said) = talk::http(self.addr, how, &path, body).await?;
        ensure!(status < 300, "the sandbox refuses {what}: {said}");
        Ok(())
    }
}

/// A place where one daemon runs at a time.
pub struct Host {
    /// Counted from 0.
    pub n: usize,
    /// Where its API listens.
    pub api: SocketAddr,
    /// Between it and the ledger.
    pub ledger: Option<Proxy>,
    /// Between it and the queue.
    pub queue: Option<Proxy>,
    home: PathBuf,
    config: PathBuf,
    daemon: Mutex<Option<(Process, Ms)>>,
}

/// Everything there is.
pub struct World {
    /// The daemons.
    pub hosts: Vec<Host>,
    /// The outside.
    pub outside: Outside,
    /// The queue's server.
    pub redis: Option<Mutex<Server>>,
    /// Where it listens, also while it is down.
    pub redis_port: Option<u16>,
    /// The ledger's server.
    pub postgres: Option<Mutex<Server>>,
    /// The ledger, read straight.
    pub books: Books,
    /// Where the ledger is.
    pub place: Place,
    /// What the daemons run by.
    pub furnished: Furnished,
    lives: std::sync::Mutex<Vec<Life>>,
    /// Last: it goes when nothing lives in it any more.
    pub folder: Folder,
}

/// libfaketime, where it is installed as Debian does it.
pub fn libfaketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let mut found = folders.map(|it| it.path().join("faketime/libfaketime.so.1"));
    found.find(|it| it.exists())
}

/// This very program, without the settings of whoever calls it.
fn ourselves() -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("PRESSWORK_") || text.starts_with("RUST_") {
            command.env_remove(&name);
        }
    }
    Ok(command)
}

impl World {
    /// Starts all of it: `daemons` of them, by the configuration `text`.
    ///
    /// # Errors
    /// When something doesn't start.
    pub async fn start(
        text: &str,
        daemons: usize,
        programs: Option<&Programs>,
    ) -> anyhow::Result<Self> {
        let folder = Folder::make("prove")?;
        let outside = Outside::start(&folder).await?;
        let furnisher = Furnisher::new(text, &outside.url, &folder.path)?;
        let (mut postgres, mut redis) = (None, None);
        if let Some(programs) = programs {
            postgres = Some(block_in_place(|| servers::postgres(&folder, programs))?);
            redis = Some(block_in_place(|| servers::redis(&folder, programs))?);
        }
        let place = match &postgres {
            Some(server) => Place::Postgres(server.url.clone()),
            None => Place::Sqlite(folder.path.join("ledger.sqlite")),
        };
        let mut hosts = Vec::new();
        let mut furnished = None;
        for n in 0..daemons {
            let home = folder.path.join(format!("daemon-{}", n + 1));
            std::fs::create_dir(&home)?;
            let api = SocketAddr::from(([127, 0, 0, 1], servers::free_port()?));
            let ledger = before(postgres.as_ref()).await?;
            let queue = before(redis.as_ref()).await?;
            let stores = Stores {
                ledger: through(ledger.as_ref(), postgres.as_ref()).unwrap_or_else(|| {
                    format!("sqlite:{}", folder.path.join("ledger.sqlite").display())
                }),
                queue: through(queue.as_ref(), redis.as_ref())
                    .unwrap_or_else(|| "memory:".to_owned()),
            };
            let (config, found) = furnisher.daemon(&home, api, &stores)?;
            furnished = Some(found);
            hosts.push(Host {
                n,
                api,
                ledger,
                queue,
                home,
                config,
                daemon: Mutex::new(None),
            });
        }
        let world = Self {
            hosts,
            outside,
            redis_port: redis.as_ref().map(|it| it.port),
            redis: redis.map(Mutex::new),
            postgres: postgres.map(Mutex::new),
            books: Books::of(place.clone()),
            place,
            furnished: furnished.context("a proof needs a daemon")?,
            lives: std::sync::Mutex::default(),
            folder,
        };
        for host in &world.hosts {
            // one after the other: the first brings the schema up to date
            world.run(host).await?;
            world.ready(host).await?;
        }
        Ok(world)
    }

    /// Starts a host's daemon.
    ///
    /// # Errors
    /// When it can't be started.
    pub async fn run(&self, host: &Host) -> anyhow::Result<()> {
        self.run_at(host, None).await
    }

    /// Starts a host's daemon, by a clock of its own if one is said, as libfaketime reads it. Its steady
    /// clock stays what it is.
    ///
    /// # Errors
    /// When it can't be started, or there is no libfaketime.
    pub async fn run_at(&self, host: &Host, clock: Option<&str>) -> anyhow::Result<()> {
        let mut daemon = host.daemon.lock().await;
        let path = host.home.join("log");
        let log = File::options().append(true).create(true).open(path)?;
        let mut command = ourselves()?;
        command.arg("--config").arg(&host.config).arg("run");
        if let Some(clock) = clock {
            command.env("LD_PRELOAD", libfaketime().context("no libfaketime")?);
            command.env("FAKETIME", clock);
            for name in ["FAKETIME_DONT_FAKE_MONOTONIC", "DONT_FAKE_MONOTONIC"] {
                command.env(name, "1");
            }
        }
        command.current_dir(&host.home);
        command.stdout(log.try_clone()?).stderr(log);
        *daemon = Some((self.folder.spawn(command)?, now()));
        Ok(())
    }

    /// Waits until a host's daemon is ready; one that ends by itself meanwhile is started again.
    ///
    /// # Errors
    /// When it never is: with the end of its log.
    pub async fn ready(&self, host: &Host) -> anyhow::Result<()> {
        let until = Instant::now() + READY;
        loop {
            let asked = talk::http(host.api, "GET", "/readyz", None).await;
            if matches!(asked, Ok((200, _))) {
                return Ok(());
            }
            if until < Instant::now() {
                let n = host.n + 1;
                bail!("daemon {n} isn't ready:\n{}", tail(&host.home.join("log")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Starts daemons again that ended by themselves, as a service manager does. Never returns.
    ///
    /// # Errors
    /// When one can't be started.
    pub async fn supervise(&self) -> anyhow::Result<()> {
        loop {
            tokio::time::sleep(LOOK_EVERY * 5).await;
            for host in &self.hosts {
                let ended = {
                    let mut daemon = host.daemon.lock().await;
                    let ended = daemon.as_mut().and_then(|it| Some((it.0.ended()?, it.1)));
                    if ended.is_some() {
                        *daemon = None;
                    }
                    ended
                };
                if let Some((status, since)) = ended {
                    self.lived(host, since, &format!("ended by itself ({status})"));
                    self.run(host).await?;
                }
            }
        }
    }

    /// Kills a host's daemon; returns its process, if one was there.
    pub async fn kill(&self, host: &Host) -> Option<u32> {
        let (mut process, since) = host.daemon.lock().await.take()?;
        let pid = process.pid();
        block_in_place(|| process.kill9());
        self.lived(host, since, "killed");
        Some(pid)
    }

    /// Tells a host's daemon to stop, and waits for its end; how long that took, and its exit code.
    /// Nothing where there is none.
    ///
    /// # Errors
    /// When it doesn't end: with the end of its log.
    pub async fn stop(&self, host: &Host) -> anyhow::Result<Option<(Duration, Option<i32>)>> {
        let Some((mut process, since)) = host.daemon.lock().await.take() else {
            return Ok(None);
        };
        let began = Instant::now();
        process.signal(Signal::TERM);
        loop {
            if let Some(status) = process.ended() {
                self.lived(host, since, "stopped");
                return Ok(Some((began.elapsed(), status.code())));
            }
            if STOPPED < began.elapsed() {
                let n = host.n + 1;
                bail!("daemon {n} doesn't stop:\n{}", tail(&host.home.join("log")));
            }
            tokio::time::sleep(STOPPED_EVERY).await;
        }
    }

    /// The process of a host's daemon, if one is there.
    pub async fn pid(&self, host: &Host) -> Option<u32> {
        let daemon = host.daemon.lock().await;
        daemon.as_ref().map(|it| it.0.pid())
    }

    /// Outcomes of lost leases that the ledger refused, by the logs of all daemons.
    ///
    /// # Errors
    /// When a log can't be read.
    pub fn late_writes_refused(&self) -> anyhow::Result<usize> {
        let mut refused = 0;
        for host in &self.hosts {
            let log = File::open(host.home.join("log"))?;
            for line in std::io::BufReader::new(log).split(b'\n') {
                refused += usize::from(String::from_utf8_lossy(&line?).contains(LATE));
            }
        }
        Ok(refused)
    }

    /// Stops a host's daemon, or lets it go on.
    pub async fn freeze(&self, host: &Host, frozen: bool) {
        if let Some((process, _)) = host.daemon.lock().await.as_mut() {
            process.signal(if frozen { Signal::STOP } else { Signal::CONT });
        }
    }

    /// Ends all daemons, and returns what became of each.
    pub async fn end(&self) -> Vec<Life> {
        for host in &self.hosts {
            let taken = host.daemon.lock().await.take();
            if let Some((mut process, since)) = taken {
                block_in_place(|| process.kill9());
                self.lived(host, since, "the end");
            }
        }
        let mut lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *lives)
    }

    fn lived(&self, host: &Host, from: Ms, end: &str) {
        let mut lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        lives.push(Life {
            who: format!("daemon {}", host.n + 1),
            from,
            until: now(),
            end: end.to_owned(),
        });
    }

    /// Nothing is in the inbox, nor on its way from there to the ledger.
    pub async fn inbox_is_empty(&self) -> bool {
        let Some(port) = self.redis_port else {
            return true;
        };
        let keys = talk::redis(port, &[b"KEYS", b"*presswork:inbox*"]).await;
        keys.is_ok_and(|it| it == "*0")
    }

    /// Copies what may be looked at later.
    ///
    /// # Errors
    /// When a file can't be copied.
    pub fn keep(&self, to: &Path) -> anyhow::Result<()> {
        for name in ["acts.jsonl", "requests.jsonl"] {
            std::fs::copy(self.outside.dir.join(name), to.join(name))?;
        }
        for host in &self.hosts {
            let name = |what: &str| to.join(format!("daemon-{}.{what}", host.n + 1));
            std::fs::copy(host.home.join("log"), name("log"))?;
            std::fs::copy(&host.config, name("toml"))?;
        }
        for name in ["postgres.log", "redis.log"] {
            let from = self.folder.path.join(name);
            if from.exists() {
                std::fs::copy(from, to.join(name))?;
            }
        }
        Ok(())
    }
}

async fn before(server: Option<&Server>) -> anyhow::Result<Option<Proxy>> {
    let Some(server) = server else {
        return Ok(None);
    };
    Ok(Some(Proxy::before(server.port).await?))
}

/// A server's URL, by way of a proxy.
fn through(proxy: Option<&Proxy>, server: Option<&Server>) -> Option<String> {
    let (proxy, server) = (proxy?, server?);
    let port = |it: u16| format!("127.0.0.1:{it}");
    Some(
        server
            .url
            .replace(&port(server.port), &port(proxy.addr.port())),
    )
}

/// The end of a log.
fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
