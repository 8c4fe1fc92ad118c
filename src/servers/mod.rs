//! Private servers for a command that measures or proves: PostgreSQL and Redis on free ports, in a folder
//! of their own, with fsync on; they may be killed and started again, and end with the command.

pub mod process;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::Signal;

use process::{Folder, Process, family};

/// How long a server may take to start: one that was killed replays its log first.
const STARTED: Duration = Duration::from_secs(60);
/// Ports below those that systems take for outgoing connections (Linux from 32768 on), which would grab
/// one while its server is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Where the servers' programs are; where nothing is said they are looked for.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    /// The folder of `postgres` and `initdb`.
    pub postgres_bin: Option<PathBuf>,
    /// The program `redis-server`.
    pub redis_server: Option<PathBuf>,
}

/// A server that ends with this value.
pub struct Server {
    /// Its URL.
    pub url: String,
    /// Where it listens, on the loopback address.
    pub port: u16,
    log: PathBuf,
    /// What its log says once it serves.
    ready: &'static str,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    process: Option<Process>,
    /// PostgreSQL's fast shutdown is an INT; Redis has nothing to lose.
    interrupt: bool,
}

impl Server {
    /// Its process; 0 while it is down.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Process::pid)
    }

    /// Ends it and its children without a good-bye.
    pub fn kill9(&mut self) {
        self.process = None;
    }

    /// Starts it, on the same port and folder each time; waits until it serves.
    ///
    /// # Errors
    /// When it doesn't: with its log.
    pub fn start(&mut self, folder: &Folder) -> anyhow::Result<()> {
        let until = Instant::now() + STARTED;
        loop {
            let log = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&self.log)?;
            let before = usize::try_from(log.metadata()?.len()).unwrap_or(usize::MAX);
            let mut command = (self.command)();
            command.stdout(log.try_clone()?).stderr(log);
            let mut process = folder.spawn(command)?;
            loop {
                let text = fs::read(&self.log).unwrap_or_default();
                let text = String::from_utf8_lossy(text.get(before..).unwrap_or_default());
                if text.contains(self.ready) {
                    self.process = Some(process);
                    return Ok(());
                }
                if until < Instant::now() {
                    bail!("a private server didn't start:\n{text}");
                }
                if process.ended().is_some() {
                    // a killed one's port or memory may still be held for a moment
                    std::thread::sleep(Duration::from_millis(200));
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process
            && self.interrupt
        {
            process.signal(Signal::INT);
            process.wait();
        }
    }
}

/// A port on which nobody listens, and that no outgoing connection takes.
///
/// # Errors
/// When there is none.
pub fn free_port() -> anyhow::Result<u16> {
    for _ in 0..1_000 {
        let port = rand::random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port between {} and {} is free", PORTS.start, PORTS.end)
}

/// The program of this name: where it was said to be, on PATH, or where Debian and Homebrew keep
/// PostgreSQL's.
fn program(name: &str, said: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(said) = said {
        let found = said.is_file().then(|| said.clone());
        return found.with_context(|| format!("there is no program {}", said.display()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for base in ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"] {
        let versions = fs::read_dir(base).into_iter().flatten().flatten();
        let mut versions: Vec<PathBuf> = versions.map(|it| it.path().join("bin")).collect();
        versions.sort();
        folders.extend(versions.into_iter().rev());
    }
    folders
        .iter()
        .map(|it| it.join(name))
        .find(|it| it.is_file())
        .with_context(|| format!("`{name}` isn't installed: `scripts/test` installs what is needed, or install postgresql and redis-server"))
}

/// PostgreSQL refuses to run as root: then somebody without rights runs it.
fn unprivileged(folder: &Path) -> anyhow::Result<Option<(u32, u32)>> {
    if fs::metadata(folder)?.uid() != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    for name in ["postgres", "nobody"] {
        let line = users.lines().find(|it| it.split(':').next() == Some(name));
        let mut ids = line
            .into_iter()
            .flat_map(|it| it.split(':').skip(2).take(2))
            .flat_map(str::parse);
        if let (Some(uid), Some(gid)) = (ids.next(), ids.next()) {
            return Ok(Some((uid, gid)));
        }
    }
    bail!("PostgreSQL doesn't run as root, and there is no user postgres or nobody to run it as")
}

/// Starts a private PostgreSQL with fsync on.
///
/// # Errors
/// When it isn't installed, or doesn't start: with its log.
pub fn postgres(folder: &Folder, programs: &Programs) -> anyhow::Result<Server> {
    let bin = |name: &str| {
        let said = programs.postgres_bin.as_ref().map(|it| it.join(name));
        program(name, said)
    };
    let (initdb, postgres) = (bin("initdb")?, bin("postgres")?);
    let home = folder.path.join("postgres");
    fs::create_dir(&home)?;
    let user = unprivileged(&home)?;
    if let Some((uid, gid)) = user {
        chown(&home, Some(uid), Some(gid))?;
    }
    let at = home.clone();
    let as_user = move |program: &Path| {
        let mut command = Command::new(program);
        if let Some((uid, gid)) = user {
            command.uid(uid).gid(gid);
        }
        command.current_dir(&at).env("LC_ALL", "C");
        command
    };
    let data = home.join("data");
    let made = as_user(&initdb)
        .arg("-D")
        .arg(&data)
        .args(["-A", "trust", "-U", "presswork", "-E", "UTF8", "--no-sync"])
        .stdin(Stdio::null())
        .output()?;
    if !made.status.success() {
        bail!("initdb failed: {}", String::from_utf8_lossy(&made.stderr));
    }
    let port = free_port()?;
    let command = move || {
        let mut command = as_user(&postgres);
        command.arg("-D").arg(&data).arg("-k").arg(&home);
        command.args(["-p", &port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "fsync=on",
            "full_page_writes=on",
            "synchronous_commit=on",
            "max_connections=400",
            "shared_buffers=256MB",
            "max_wal_size=2GB",
        ] {
            command.args(["-c", setting]);
        }
        command
    };
    let mut server = Server {
        url: format!("postgres://presswork@127.0.0.1:{port}/postgres"),
        port,
        log: folder.path.join("postgres.log"),
        ready: "ready to accept connections",
        command: Box::new(command),
        process: None,
        interrupt: true,
    };
    server.start(folder)?;
    Ok(server)
}

/// Starts a private Redis without persistence: it is only a fast lane.
///
/// # Errors
/// As [`postgres`].
pub fn redis(folder: &Folder, programs: &Programs) -> anyhow::Result<Server> {
    let program = program("redis-server", programs.redis_server.clone())?;
    let (port, dir) = (free_port()?, folder.path.clone());
    let command = move || {
        let mut command = Command::new(&program);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(&dir);
        command
    };
    let mut server = Server {
        url: format!("redis://127.0.0.1:{port}"),
        port,
        log: folder.path.join("redis.log"),
        ready: "Ready to accept connections",
        command: Box::new(command),
        process: None,
        interrupt: false,
    };
    server.start(folder)?;
    Ok(server)
}

/// Seconds of processor time that a process, its children and those it has waited for have used.
/// 0 where there is no /proc.
pub fn cpu_seconds(pid: u32) -> f64 {
    // of Linux, whatever the machine: USER_HZ is 100
    const TICKS: f64 = 100.0;
    let mut ticks = 0;
    for pid in family(pid) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // the name, in parentheses, may hold anything; behind it utime is the 12th field
        let fields = stat
            .rsplit_once(')')
            .map_or("", |it| it.1)
            .split_whitespace();
        ticks += fields
            .skip(11)
            .take(4)
            .filter_map(|it| it.parse::<u64>().ok())
            .sum::<u64>();
    }
    ticks as f64 / TICKS
}
