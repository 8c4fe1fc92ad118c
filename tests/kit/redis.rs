//! A private Redis (7 or newer) in a folder of its own, for as long as a test needs it; alone, as a
//! server of a cluster, or with sentinels that watch it.
//!
//! A start takes some 20 ms, so each test that may disturb another starts its own. The variable
//! `PRESSWORK_TEST_REDIS` names another program to start, such as a `valkey-server`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::port::Port;
use super::process::{dying_with_us, find_program, homebrew, installed_by_scripts};
use super::server::Server;
use super::wait;

const VERSION_MIN: u32 = 7;
const STARTED: Duration = Duration::from_secs(20);

/// A server on a port of its own, which keeps nothing on disk unless asked to. Dropped, it is
/// killed and its folder removed.
pub struct Redis {
    server: Server,
    program: PathBuf,
    options: Vec<String>,
    /// By which the servers of a cluster talk.
    _bus: Option<Port>,
    secure: Option<Port>,
}

/// What a server proves itself with to those who come by TLS, as paths.
#[derive(Clone, Debug)]
pub struct Tls {
    pub cert: String,
    pub key: String,
    pub root: String,
}

impl Tls {
    /// Listens on a port besides, and speaks by TLS with its like.
    fn options(&self, port: u16) -> [(&'static str, String); 6] {
        [
            ("tls-port", port.to_string()),
            ("tls-cert-file", self.cert.clone()),
            ("tls-key-file", self.key.clone()),
            ("tls-ca-cert-file", self.root.clone()),
            ("tls-auth-clients", "no".to_owned()),
            ("tls-replication", "yes".to_owned()),
        ]
    }
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
        Redis::of(&program("redis-server"), options, false, None)
    }

    /// A Valkey, where `scripts/test` could install one.
    ///
    /// # Panics
    /// As [`Redis::start`].
    pub fn start_valkey(options: &[&str]) -> Option<Redis> {
        let program = find_program("valkey-server", &[installed_by_scripts("valkey")])?;
        Some(Redis::of(&program, options, false, None))
    }

    /// A server that is to be one of a cluster.
    fn start_member(tls: Option<&Tls>) -> Redis {
        let options = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "1000",
            "--cluster-replica-validity-factor",
            "0",
            "--tls-cluster",
            if tls.is_some() { "yes" } else { "no" },
        ];
        Redis::of(&program("redis-server"), &options, true, tls)
    }

    fn of(program: &Path, options: &[&str], in_cluster: bool, tls: Option<&Tls>) -> Redis {
        let make = || {
            let folder = tempfile::Builder::new()
                .prefix("presswork-redis-")
                .tempdir();
            let bus = in_cluster.then(Port::take);
            let mut options: Vec<String> = options.iter().map(|it| it.to_string()).collect();
            if let Some(bus) = &bus {
                options.extend(["--cluster-port".to_owned(), bus.number().to_string()]);
            }
            let secure = tls.map(|_| Port::take());
            if let (Some(tls), Some(port)) = (tls, &secure) {
                let said = tls.options(port.number()).into_iter();
                options.extend(said.flat_map(|(name, value)| [format!("--{name}"), value]));
            }
            Redis {
                server: Server::new("redis", folder.expect("a temporary folder can be made")),
                program: program.to_owned(),
                options,
                _bus: bus,
                secure,
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

    /// The port by which others reach it: that of TLS, where it has one.
    pub fn public_port(&self) -> u16 {
        self.secure.as_ref().map_or(self.port(), Port::number)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port())
    }

    /// What `redis-cli` prints for a command, without the last line break: a user's view.
    ///
    /// # Panics
    /// Where the server doesn't answer, or answers with an error.
    pub fn cli(&self, args: &[&str]) -> String {
        cli(self.port(), args)
    }

    /// Whether it is a master by now; `login` is what `redis-cli` is told before. One that is being promoted
    /// ends its clients' connections: that is no answer.
    pub fn is_master(&self, login: &[&str]) -> bool {
        let said = output(self.port(), &[login, &["ROLE"]].concat());
        said.status.success() && said.stdout.starts_with(b"master")
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
        let mut command = dying_with_us(&self.program, "KILL");
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
    /// loaded its data (unless it is to be slow in that).
    fn is_ready(&self, pid: u32) -> bool {
        let mut password = self.options.iter().skip_while(|it| *it != "--requirepass");
        let user = password.nth(1).map(|it| format!(":{it}@"));
        let url = format!(
            "redis://{}127.0.0.1:{}/",
            user.unwrap_or_default(),
            self.port()
        );
        let info = || -> redis::RedisResult<String> {
            let mut connection = redis::Client::open(&*url)?.get_connection()?;
            redis::cmd("INFO").query(&mut connection)
        };
        let Ok(info) = info() else { return false };
        let has = |line: &str| info.lines().any(|it| it == line);
        let loaded = self.options.iter().any(|it| it == "--key-load-delay") || has("loading:0");
        has(&format!("process_id:{pid}")) && loaded
    }
}

/// What `redis-cli` prints for a command to the server on a port.
///
/// # Panics
/// As [`Redis::cli`].
pub fn cli(port: u16, args: &[&str]) -> String {
    let output = output(port, args);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "redis-cli {args:?}: {said}{wrong}");
    said.trim_end_matches('\n').to_owned()
}

fn output(port: u16, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(program("redis-cli"));
    command.args(["-e", "-p", &port.to_string()]);
    command.args(args).output().expect("redis-cli starts")
}

/// Slots of every cluster.
const SLOTS: u16 = 16_384;

/// Masters that share the slots evenly, and a replica of the first.
pub struct Cluster {
    pub masters: Vec<Redis>,
    pub replica: Redis,
    tls: Option<Tls>,
}

impl Cluster {
    /// Three masters and a replica; returns when all of them know that the cluster is whole.
    ///
    /// # Panics
    /// Where they don't come together.
    pub fn start() -> Cluster {
        Cluster::start_with(None)
    }

    /// As [`Cluster::start`]; they speak by TLS.
    pub fn start_with(tls: Option<&Tls>) -> Cluster {
        let masters: Vec<Redis> = (0..3).map(|_| Redis::start_member(tls)).collect();
        let replica = Redis::start_member(tls);
        let share = SLOTS.div_ceil(3);
        for (n, master) in (0..).zip(&masters) {
            let last = (share * (n + 1)).min(SLOTS) - 1;
            let (first, last) = ((share * n).to_string(), last.to_string());
            master.cli(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            let epoch = (n + 1).to_string();
            master.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
        }
        for other in masters[1..].iter().chain([&replica]) {
            let (port, bus) = (masters[0].public_port(), masters[0]._bus.as_ref());
            let bus = bus.expect("a member has a bus").number().to_string();
            other.cli(&["CLUSTER", "MEET", "127.0.0.1", &port.to_string(), &bus]);
        }
        let cluster = Cluster {
            masters,
            replica,
            tls: tls.cloned(),
        };
        let first = cluster.masters[0].cli(&["CLUSTER", "MYID"]);
        wait::until_blocking("the replica to know its master", STARTED, || {
            cluster.replica.cli(&["CLUSTER", "NODES"]).contains(&first)
        });
        cluster.replica.cli(&["CLUSTER", "REPLICATE", &first]);
        wait::until_blocking("the cluster to be whole", STARTED, || cluster.is_whole());
        cluster
    }

    /// Whether all that live call it whole, the replica has what its master has, and all know of it.
    fn is_whole(&self) -> bool {
        let all = self.masters.iter().chain([&self.replica]);
        let all: Vec<&Redis> = all.collect();
        all.iter().all(|it| {
            it.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
                && it.cli(&["CLUSTER", "NODES"]).matches("connected").count() == all.len()
                && it.cli(&["CLUSTER", "NODES"]).contains("slave")
        }) && self
            .replica
            .cli(&["INFO", "replication"])
            .contains("master_link_status:up")
    }

    /// The URL of one of its servers: it knows the others.
    pub fn url(&self) -> String {
        let port = self.masters[1].public_port();
        match &self.tls {
            None => format!("redis-cluster://127.0.0.1:{port}"),
            Some(tls) => {
                let root = &tls.root;
                format!("rediss-cluster://127.0.0.1:{port}/?sslrootcert={root}")
            }
        }
    }

    /// The slot of a key.
    pub fn slot(&self, key: &str) -> String {
        self.masters[0].cli(&["CLUSTER", "KEYSLOT", key])
    }

    /// Which master has a slot.
    ///
    /// # Panics
    /// Where none says so.
    pub fn owner(&self, slot: &str) -> usize {
        let key_count = |it: &Redis| it.cli(&["CLUSTER", "SLOTS"]);
        let table = key_count(&self.masters[1]);
        let lines: Vec<&str> = table.lines().map(str::trim).collect();
        let wanted: u16 = slot.parse().expect("a slot is a number");
        let ports: Vec<String> = self
            .masters
            .iter()
            .map(|it| it.port().to_string())
            .collect();
        // each range: first, last, then host, port, id of its master and of its replicas
        for n in 0..lines.len().saturating_sub(3) {
            let (Ok(first), Ok(last)) = (lines[n].parse::<u16>(), lines[n + 1].parse::<u16>())
            else {
                continue;
            };
            let port = ports.iter().position(|it| it == lines[n + 3]);
            if let (true, Some(port)) = ((first..=last).contains(&wanted), port) {
                return port;
            }
        }
        panic!("nobody has slot {slot}:\n{table}");
    }

    /// Begins to move a slot from one master to another: from now on its keys are on their way.
    pub fn begin_move(&self, slot: &str, from: usize, to: usize) {
        let id = |n: usize| self.masters[n].cli(&["CLUSTER", "MYID"]);
        self.masters[to].cli(&["CLUSTER", "SETSLOT", slot, "IMPORTING", &id(from)]);
        self.masters[from].cli(&["CLUSTER", "SETSLOT", slot, "MIGRATING", &id(to)]);
    }

    /// Moves up to `most` keys of a slot that is on its way; how many it were.
    pub fn move_keys(&self, slot: &str, from: usize, to: usize, most: usize) -> usize {
        let keys = self.masters[from].cli(&["CLUSTER", "GETKEYSINSLOT", slot, &most.to_string()]);
        let keys: Vec<&str> = keys.lines().filter(|it| !it.is_empty()).collect();
        let port = self.masters[to].port().to_string();
        for key in &keys {
            self.masters[from].cli(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
        }
        keys.len()
    }

    /// Ends it: all keys are moved, and everybody is told.
    pub fn end_move(&self, slot: &str, from: usize, to: usize) {
        while self.move_keys(slot, from, to, 100) > 0 {}
        let id = self.masters[to].cli(&["CLUSTER", "MYID"]);
        for n in [to, from] {
            self.masters[n].cli(&["CLUSTER", "SETSLOT", slot, "NODE", &id]);
        }
    }
}

/// A master, its replica, and three sentinels that watch them.
pub struct Sentinels {
    pub master: Redis,
    pub replica: Redis,
    watchers: Vec<Server>,
    /// Theirs, where they speak by TLS.
    secure: Vec<Port>,
    tls: Option<Tls>,
}

impl Sentinels {
    /// The password of master and replica, and that of the sentinels.
    pub const PASSWORDS: (&str, &str) = ("of-the-master", "of-the-sentinels");

    /// Returns when the sentinels know each other and the replica.
    ///
    /// # Panics
    /// Where they don't come together.
    pub fn start() -> Sentinels {
        Sentinels::start_with(None)
    }

    /// As [`Sentinels::start`]; all of them speak by TLS.
    pub fn start_with(tls: Option<&Tls>) -> Sentinels {
        let (password, own) = Self::PASSWORDS;
        let auth = ["--requirepass", password, "--masterauth", password];
        let auth = [&auth[..], &["--repl-diskless-sync-delay", "0"]].concat();
        let server = |options: &[&str]| Redis::of(&program("redis-server"), options, false, tls);
        let master = server(&auth);
        let port = master.public_port().to_string();
        let replicaof = format!("127.0.0.1 {port}");
        let replica = server(&[&auth[..], &["--replicaof", &replicaof]].concat());
        let secure: Vec<Port> = (0..3).filter_map(|_| tls.map(|_| Port::take())).collect();
        let watchers = (0..3).map(|n| {
            let tls = tls
                .zip(secure.get(n))
                .map(|(it, port)| it.options(port.number()));
            let make = || {
                let folder = tempfile::Builder::new()
                    .prefix("presswork-sentinel-")
                    .tempdir();
                Server::new("sentinel", folder.expect("a temporary folder can be made"))
            };
            Server::first("a sentinel", make, |it| watch(it, &port, tls.as_ref()))
        });
        let sentinels = Sentinels {
            watchers: watchers.collect(),
            master,
            replica,
            secure,
            tls: tls.cloned(),
        };
        wait::until_blocking("the sentinels to know all", STARTED, || {
            sentinels.watchers.iter().all(|it| {
                let told = cli(
                    it.port(),
                    &["-a", own, "--no-auth-warning", "SENTINEL", "MASTER", "main"],
                );
                let lines: Vec<&str> = told.lines().collect();
                let is = |name: &str, value: &str| lines.windows(2).any(|it| it == [name, value]);
                is("num-slaves", "1") && is("num-other-sentinels", "2") && is("flags", "master")
            })
        });
        sentinels
    }

    /// By all of the sentinels.
    pub fn url(&self) -> String {
        let (password, own) = Self::PASSWORDS;
        let ports: Vec<u16> = match &self.tls {
            None => self.watchers.iter().map(Server::port).collect(),
            Some(_) => self.secure.iter().map(Port::number).collect(),
        };
        let hosts = ports.iter().map(|it| format!("127.0.0.1:{it}"));
        let hosts = hosts.collect::<Vec<_>>().join(",");
        let at = format!("://:{password}@{hosts}/main?sentinel_password={own}");
        match &self.tls {
            None => format!("redis-sentinel{at}"),
            Some(tls) => format!("rediss-sentinel{at}&sslrootcert={}", tls.root),
        }
    }

    /// Ends one of the sentinels.
    pub fn kill_one(&self) {
        self.watchers[0].kill9();
    }
}

fn watch(server: &Server, master: &str, tls: Option<&[(&str, String); 6]>) -> Result<(), String> {
    let (password, own) = Sentinels::PASSWORDS;
    let config = server.folder().join("sentinel.conf");
    let tls = tls.into_iter().flatten();
    let tls: String = tls
        .map(|(name, value)| format!("{name} {value}\n"))
        .collect();
    let text = format!(
        "{tls}port {}\nbind 127.0.0.1\ndir {}\nrequirepass {own}\nsentinel sentinel-pass {own}\n\
         sentinel monitor main 127.0.0.1 {master} 2\nsentinel auth-pass main {password}\n\
         sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n",
        server.port(),
        server.folder().display(),
    );
    std::fs::write(&config, text).map_err(|error| error.to_string())?;
    let mut command = dying_with_us(&program("redis-server"), "KILL");
    command.arg(&config).arg("--sentinel");
    let port = server.port();
    server.launch(command, STARTED, |pid| {
        let info = || -> redis::RedisResult<String> {
            let url = format!("redis://:{own}@127.0.0.1:{port}/");
            let mut connection = redis::Client::open(url)?.get_connection()?;
            redis::cmd("INFO").arg("server").query(&mut connection)
        };
        info().is_ok_and(|it| it.contains(&format!("process_id:{pid}")))
    })
}

fn program(name: &str) -> PathBuf {
    static CHECKED: OnceLock<()> = OnceLock::new();
    let find = |name: &str| {
        let said = std::env::var_os("PRESSWORK_TEST_REDIS").filter(|_| name == "redis-server");
        let said = said.and_then(|it| find_program(&it.to_string_lossy(), &[]));
        said.or_else(|| find_program(name, &homebrew("redis")))
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
