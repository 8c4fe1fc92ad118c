//! Private servers for a measurement: PostgreSQL and Redis on free ports, in a folder of their own,
//! with fsync on; stopped and removed at the end.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How long a server may take to start.
const STARTED: Duration = Duration::from_secs(30);

/// A server that ends with this value.
pub struct Server {
    /// Its URL.
    pub url: String,
    process: Child,
    interrupt: bool,
}

impl Server {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.interrupt {
            // PostgreSQL's fast shutdown; it takes its own children along
            let _ = Command::new("kill")
                .args(["-INT", &self.process.id().to_string()])
                .status();
        } else {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

/// A folder that is removed at the end.
pub struct Folder(pub PathBuf);

impl Folder {
    /// Makes one below the system's temporary folder.
    pub fn make() -> anyhow::Result<Self> {
        let path =
            std::env::temp_dir().join(format!("presswork-bench-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&path).with_context(|| format!("can't make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A program on PATH, or where Debian and Homebrew keep PostgreSQL's.
fn program(name: &str) -> anyhow::Result<PathBuf> {
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
pub fn postgres(folder: &Folder) -> anyhow::Result<Server> {
    let home = folder.0.join("postgres");
    fs::create_dir(&home)?;
    let user = unprivileged(&home)?;
    let as_user = |mut command: Command| {
        if let Some((uid, gid)) = user {
            command.uid(uid).gid(gid);
        }
        command.current_dir(&home).env("LC_ALL", "C");
        command
    };
    if let Some((uid, gid)) = user {
        chown(&home, Some(uid), Some(gid))?;
    }
    let data = home.join("data");
    let mut initdb = as_user(Command::new(program("initdb")?));
    let made = initdb
        .arg("-D")
        .arg(&data)
        .args(["-A", "trust", "-U", "presswork", "-E", "UTF8", "--no-sync"])
        .output()?;
    if !made.status.success() {
        bail!("initdb failed: {}", String::from_utf8_lossy(&made.stderr));
    }
    let port = free_port()?;
    let log = fs::File::create(folder.0.join("postgres.log"))?;
    let mut server = as_user(Command::new(program("postgres")?));
    server
        .arg("-D")
        .arg(&data)
        .arg("-k")
        .arg(&home)
        .args(["-p", &port.to_string()]);
    for setting in [
        "listen_addresses=127.0.0.1",
        "fsync=on",
        "full_page_writes=on",
        "synchronous_commit=on",
        "max_connections=60",
        "shared_buffers=256MB",
        "max_wal_size=2GB",
    ] {
        server.args(["-c", setting]);
    }
    let process = server
        .stdout(log.try_clone()?)
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()?;
    let server = Server {
        url: format!("postgres://presswork@127.0.0.1:{port}/postgres"),
        process,
        interrupt: true,
    };
    ready(
        &folder.0.join("postgres.log"),
        "ready to accept connections",
    )?;
    Ok(server)
}

/// Starts a private Redis without persistence: it is only a fast lane.
///
/// # Errors
/// As [`postgres`].
pub fn redis(folder: &Folder) -> anyhow::Result<Server> {
    let port = free_port()?;
    let log = fs::File::create(folder.0.join("redis.log"))?;
    let mut server = Command::new(program("redis-server")?);
    server.args([
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]);
    server.arg("--dir").arg(&folder.0);
    let process = server
        .stdout(log.try_clone()?)
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()?;
    let server = Server {
        url: format!("redis://127.0.0.1:{port}"),
        process,
        interrupt: false,
    };
    ready(&folder.0.join("redis.log"), "Ready to accept connections")?;
    Ok(server)
}

fn ready(log: &Path, words: &str) -> anyhow::Result<()> {
    let until = Instant::now() + STARTED;
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        if text.contains(words) {
            return Ok(());
        }
        if until < Instant::now() {
            bail!("a private server didn't start:\n{text}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Seconds of processor time that a process, its children and those it has waited for have used.
/// 0 where there is no /proc.
pub fn cpu_seconds(pid: u32) -> f64 {
    // of Linux, whatever the machine: USER_HZ is 100
    const TICKS: f64 = 100.0;
    let mut ticks = 0;
    let mut todo = vec![pid];
    while let Some(pid) = todo.pop() {
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
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            todo.extend(
                children
                    .split_whitespace()
                    .filter_map(|it| it.parse::<u32>().ok()),
            );
        }
    }
    ticks as f64 / TICKS
}
