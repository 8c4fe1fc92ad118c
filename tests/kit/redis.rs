//! A private Redis (7 or newer) in a folder of its own, for as long as a test needs it.
//!
//! A start takes some 20 ms, so each test that may disturb another starts its own.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::process::{dying_with_us, find_program, homebrew};
use super::server::Server;

const VERSION_MIN: u32 = 7;
const STARTED: Duration = Duration::from_secs(20);

/// A server on a port of its own, which keeps nothing on disk unless asked to. Dropped, it is
/// killed and its folder removed.
pub struct Redis {
    server: Server,
    options: Vec<String>,
}

impl Redis {
    /// # Panics
    /// Where there is no Redis to be found, or it doesn't start: with its log.
    pub fn start() -> Redis {
        Redis::start_with(&[])
    }

    /// A server that has every write in its append-only file before it answers.
    ///
    /// # Panics
    /// As [`Redis::start`].
    pub fn start_durable() -> Redis {
        Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// Starts a server with further options, such as `["--maxmemory", "1mb"]`.
    ///
    /// # Panics
    /// As [`Redis::start`].
    pub fn start_with(options: &[&str]) -> Redis {
        let make = || {
            let folder = tempfile::Builder::new()
                .prefix("presswork-redis-")
                .tempdir();
            Redis {
                server: Server::new("redis", folder.expect("a temporary folder can be made")),
                options: options.iter().map(|it| it.to_string()).collect(),
            }
        };
        Server::first("Redis", make, Redis::launch)
    }

    /// The one server that the tests of a process share: only with keys whose names no other test
    /// uses, and never to flush or kill. It is killed when the process ends.
    pub fn shared() -> &'static Redis {
        static SHARED: OnceLock<Redis> = OnceLock::new();
        SHARED.get_or_init(Redis::start)
    }

    pub fn port(&self) -> u16 {
        self.server.port()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port())
    }

    /// What `redis-cli` prints for a command, without the last line break: a user's view.
    ///
    /// # Panics
    /// Where the server doesn't answer, or answers with an error.
    pub fn cli(&self, args: &[&str]) -> String {
        let program = program("redis-cli");
        let mut command = Command::new(program);
        command.args(["-e", "-p", &self.port().to_string()]);
        let output = command.args(args).output().expect("redis-cli starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "redis-cli {args:?}: {said}{wrong}");
        said.trim_end_matches('\n').to_owned()
    }

    /// Forgets everything that is stored (loaded scripts stay).
    pub fn flushall(&self) {
        assert_eq!(self.cli(&["FLUSHALL"]), "OK");
    }

    /// Ends it without a goodbye. Returns when it is gone.
    pub fn kill9(&self) {
        self.server.kill9();
    }

    /// Stops and continues it by signals: in between, its port accepts and nobody answers.
    pub fn freeze(&self) {
        self.server.signal("STOP");
    }

    pub fn thaw(&self) {
        self.server.signal("CONT");
    }

    /// An orderly end.
    ///
    /// # Panics
    /// Where it takes longer than 20 s.
    pub fn stop(&self) {
        self.server.stop("TERM");
    }

    /// Starts it again on the same port and folder, after [`Redis::stop`] if it still runs. What it
    /// knew is gone unless it was [durable](Redis::start_durable).
    ///
    /// # Panics
    /// Where it doesn't start: with its log.
    pub fn restart(&self) {
        self.stop();
        if let Err(error) = self.launch() {
            panic!("Redis doesn't start again: {error}");
        }
    }

    pub fn log(&self) -> PathBuf {
        self.server.log()
    }

    fn launch(&self) -> Result<(), String> {
        let mut command = dying_with_us(&program("redis-server"), "KILL");
        command.args(["--port", &self.port().to_string()]);
        command.args(["--bind", "127.0.0.1", "--daemonize", "no"]);
        command.arg("--dir").arg(self.server.folder());
        command.args(["--save", "", "--appendonly", "no"]);
        // The last of two equal options wins.
        command.args(&self.options);
        self.server
            .launch(command, STARTED, |pid| self.is_ready(pid))
    }

    /// Whether the server on the port is our child, not one that happens to listen there, and has
    /// loaded its data.
    fn is_ready(&self, pid: u32) -> bool {
        let info = || -> redis::RedisResult<String> {
            let mut connection = redis::Client::open(self.url())?.get_connection()?;
            redis::cmd("INFO").query(&mut connection)
        };
        let Ok(info) = info() else { return false };
        let has = |line: &str| info.lines().any(|it| it == line);
        has(&format!("process_id:{pid}")) && has("loading:0")
    }
}

fn program(name: &str) -> PathBuf {
    static CHECKED: OnceLock<()> = OnceLock::new();
    let find = |name: &str| {
        find_program(name, &homebrew("redis"))
            .unwrap_or_else(|| panic!("no `{name}` here: `./scripts/test` installs it"))
    };
    CHECKED.get_or_init(|| {
        let output = Command::new(find("redis-server")).arg("--version").output();
        // Such as `Redis server v=7.0.15 sha=00000000:0 ...`
        let text = output.expect("redis-server starts").stdout;
        let text = String::from_utf8_lossy(&text).into_owned();
        let version = text.split_once("v=").map_or("", |(_, rest)| rest);
        let major = version.split('.').next().and_then(|it| it.parse().ok());
        assert!(
            major.is_some_and(|it: u32| VERSION_MIN <= it),
            "Redis {VERSION_MIN} or newer is needed, here is: {text}"
        );
    });
    find(name)
}
