//! A private PostgreSQL (14 or newer) in a folder of its own, for as long as a test needs it.
//!
//! The newest of this machine, or the one of the folder that `PRESSWORK_TEST_POSTGRES` names.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use super::process::{dying_with_us, find_program, homebrew, installed_by_scripts};
use super::server::Server;
use super::wait;

const VERSION_MIN: u32 = 14;
/// A start after a kill replays what was written since the last checkpoint.
const STARTED: Duration = Duration::from_secs(30);

/// What a ledger needs to be true, and what keeps the server to itself.
const SETTINGS: [(&str, &str); 7] = [
    ("listen_addresses", "127.0.0.1"),
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("synchronous_commit", "on"),
    ("max_connections", "200"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
];

/// A server on a port of its own. Dropped, it is stopped and its folder removed.
pub struct Postgres {
    server: Server,
    installed: &'static Installed,
    settings: Vec<(String, String)>,
}

impl Postgres {
    /// # Panics
    /// Where there is no PostgreSQL to be found, or it doesn't start: with its log.
    pub fn start() -> Postgres {
        Postgres::start_with(&[])
    }

    /// Starts a server with settings of `postgresql.conf` that differ from the usual, such as
    /// `("max_connections", "10")`.
    ///
    /// # Panics
    /// As [`Postgres::start`].
    pub fn start_with(settings: &[(&str, &str)]) -> Postgres {
        Postgres::of(installed(), settings)
    }

    /// One of a major version, where `scripts/test` could install it.
    ///
    /// # Panics
    /// As [`Postgres::start`].
    pub fn start_version(major: u32) -> Option<Postgres> {
        let folder = installed_by_scripts(&format!("postgres-{major}"));
        let debian = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
        let (found, version, folder) = [folder, debian].into_iter().find_map(candidate)?;
        assert_eq!(found, major, "{}", folder.display());
        let installed = Box::leak(Box::new(Installed::of(version, folder)));
        Some(Postgres::of(installed, &[]))
    }

    fn of(installed: &'static Installed, settings: &[(&str, &str)]) -> Postgres {
        let all = SETTINGS.iter().chain(settings);
        let settings = all.map(|(name, value)| (name.to_string(), value.to_string()));
        let settings: Vec<_> = settings.collect();
        let make = || Postgres {
            server: Server::new("postgres", new_folder(installed)),
            installed,
            settings: settings.clone(),
        };
        Server::first("PostgreSQL", make, Postgres::launch)
    }

    /// The one server that the tests of a process share; each makes a database of its own in it. It
    /// is stopped when the process ends.
    pub fn shared() -> &'static Postgres {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Postgres::start)
    }

    /// A standby that follows this server by way of `through`, a proxy in front of it.
    ///
    /// # Panics
    /// Where it can't be copied, or doesn't start: with its log.
    pub fn standby(&self, through: SocketAddr) -> Postgres {
        let make = || Postgres {
            server: Server::new("standby", copied_folder(self.installed, through)),
            installed: self.installed,
            settings: self.settings.clone(),
        };
        Server::first("a standby", make, Postgres::launch)
    }

    /// Waits until this standby has all that `primary` has committed by now.
    ///
    /// # Panics
    /// Where it doesn't catch up within half a minute.
    pub async fn catch_up(&self, primary: &Postgres) {
        let asked = "SELECT pg_current_wal_lsn()::text";
        let lsn: String = self.asked(&primary.url("postgres"), asked).await;
        let sql =
            format!("SELECT coalesce('{lsn}'::pg_lsn <= pg_last_wal_replay_lsn(), false)::text");
        let here = self.url("postgres");
        wait::until("the standby has caught up", STARTED, async || {
            self.asked(&here, &sql).await == "true"
        })
        .await;
    }

    /// Makes a primary of this standby, whose old one is gone.
    ///
    /// # Panics
    /// Where it doesn't take over within a minute.
    pub async fn promote(&self) {
        let here = self.url("postgres");
        let done = self.asked(&here, "SELECT pg_promote(true, 60)::text").await;
        assert_eq!(done, "true", "the standby takes over");
    }

    /// One text, asked as a superuser.
    pub async fn asked(&self, url: &str, sql: &str) -> String {
        let mut connection = PgConnection::connect(url)
            .await
            .expect("it takes connections");
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        sqlx::query_scalar(sql)
            .fetch_one(&mut connection)
            .await
            .expect("it answers")
    }

    /// Whom it runs as, where we are root: uid and gid.
    pub fn user(&self) -> Option<(u32, u32)> {
        self.installed.user.as_ref().map(|it| (it.1, it.2))
    }

    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// The URL of the database `name`, as a superuser.
    pub fn url(&self, name: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port())
    }

    /// A fresh, empty database; its URL.
    ///
    /// # Panics
    /// Where the server is down.
    pub async fn create_database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut connection = PgConnection::connect(&self.url("postgres"))
            .await
            .expect("the test's PostgreSQL takes connections");
        // `template0` lets nobody in, so databases may be made from it at the same time.
        let sql = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE template0"));
        sqlx::raw_sql(sql)
            .execute(&mut connection)
            .await
            .expect("a database can be made");
        connection.close().await.expect("the connection closes");
        self.url(&name)
    }

    /// Ends the postmaster and all its children as a loss of power to the process would: nothing is
    /// flushed, nobody says goodbye. Returns when all are gone.
    pub fn kill9(&self) {
        self.server.kill9();
    }

    /// An orderly, fast end: open transactions are rolled back, connections closed.
    ///
    /// # Panics
    /// Where it takes longer than 20 s.
    pub fn stop(&self) {
        self.server.stop("INT");
    }

    /// Starts it again on the same port and data, after [`Postgres::stop`] if it still runs.
    ///
    /// # Panics
    /// Where it doesn't start: with its log.
    pub fn restart(&self) {
        self.stop();
        if let Err(error) = self.launch() {
            panic!("PostgreSQL doesn't start again: {error}");
        }
    }

    /// What it has logged, for messages.
    pub fn log(&self) -> PathBuf {
        self.server.log()
    }

    fn data(&self) -> PathBuf {
        self.server.folder().join("data")
    }

    fn launch(&self) -> Result<(), String> {
        // SIGQUIT rather than SIGKILL when we die: it gives its System V memory back.
        let mut command = dying_with_us(&self.installed.folder.join("postgres"), "QUIT");
        command.arg("-D").arg(self.data());
        command.args(["-p", &self.port().to_string()]);
        command.arg("-k").arg(self.server.folder());
        for (name, value) in &self.settings {
            command.args(["-c", &format!("{name}={value}")]);
        }
        as_server_user(self.installed, &mut command);
        self.server
            .launch(command, STARTED, |pid| self.is_ready(pid))
    }

    /// The first line of `postmaster.pid` is the server's pid: if it is our child's, it is ours and
    /// not one that happens to listen on the port. The eighth says whether it takes connections.
    fn is_ready(&self, pid: u32) -> bool {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.first() == Some(&pid.to_string().as_str()) && lines.get(7) == Some(&"ready")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.server.stop_or_kill("QUIT");
    }
}

/// The PostgreSQL of this machine, and whom it runs as.
pub struct Installed {
    folder: PathBuf,
    version: String,
    /// Name, uid and gid, where we are root: the server refuses to run as root.
    user: Option<(String, u32, u32)>,
}

fn installed() -> &'static Installed {
    static INSTALLED: OnceLock<Installed> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let (_, version, folder) = candidates().into_iter().max().unwrap_or_else(|| {
            panic!("no PostgreSQL {VERSION_MIN} or newer here: `./scripts/test` installs it")
        });
        Installed::of(version, folder)
    })
}

impl Installed {
    fn of(version: String, folder: PathBuf) -> Installed {
        Installed {
            folder,
            version,
            user: (id("-u", None) == Some(0)).then(unprivileged_user),
        }
    }
}

/// Major version, full version and `bin` folder of each server that is new enough.
fn candidates() -> Vec<(u32, String, PathBuf)> {
    if let Some(said) = std::env::var_os("PRESSWORK_TEST_POSTGRES") {
        return candidate(said.into()).into_iter().collect();
    }
    let mut folders = homebrew("postgresql");
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.filter_map(|it| Some(it.ok()?.path().join("bin"))));
    }
    // where it really lies: beside it are all its programs
    let in_path = find_program("postgres", &[]).and_then(|it| it.canonicalize().ok());
    folders.extend(in_path.and_then(|it| Some(it.parent()?.to_owned())));
    folders.into_iter().filter_map(candidate).collect()
}

fn candidate(folder: PathBuf) -> Option<(u32, String, PathBuf)> {
    let server = Command::new(folder.join("postgres"))
        .arg("--version")
        .output();
    // Such as `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`
    let text = String::from_utf8(server.ok()?.stdout).ok()?;
    let version = text.split_whitespace().nth(2)?.to_owned();
    let digits = version.split(|it: char| !it.is_ascii_digit()).next()?;
    let major: u32 = digits.parse().ok()?;
    let whole = folder.join("initdb").is_file();
    (VERSION_MIN <= major && whole).then_some((major, version, folder))
}

fn unprivileged_user() -> (String, u32, u32) {
    for name in ["postgres", "_postgres", "nobody"] {
        if let (Some(uid), Some(gid)) = (id("-u", Some(name)), id("-g", Some(name))) {
            return (name.to_owned(), uid, gid);
        }
    }
    panic!("PostgreSQL doesn't run as root, and neither `postgres` nor `nobody` exists here");
}

fn id(what: &str, user: Option<&str>) -> Option<u32> {
    let output = Command::new("id").arg(what).args(user).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

fn as_server_user(here: &Installed, command: &mut Command) {
    if let Some((_, uid, gid)) = &here.user {
        command.uid(*uid).gid(*gid);
    }
    // The user may not be allowed to enter the folder that we are in.
    command.current_dir("/");
}

/// A folder with a fresh cluster in it. It lies in the system's temporary folder, which every user
/// may enter and whose path is short enough for a socket's name.
fn new_folder(here: &Installed) -> TempDir {
    let folder = empty_folder(here);
    let data = folder.path().join("data");
    copy(&template(here), &data);
    if let Some((_, uid, gid)) = &here.user {
        // A template that went through an archive (a cache between CI runs) may have lost its owner.
        let owner = format!("{uid}:{gid}");
        run(Command::new("chown").arg("-R").arg(owner).arg(&data));
    }
    folder
}

/// A folder with a copy of a server that runs, which goes on following it.
fn copied_folder(here: &Installed, through: SocketAddr) -> TempDir {
    let folder = empty_folder(here);
    let mut command = Command::new(here.folder.join("pg_basebackup"));
    command.args([
        "-R",
        "-X",
        "stream",
        "--checkpoint=fast",
        "--no-sync",
        "-U",
        "postgres",
    ]);
    command.arg("-h").arg(through.ip().to_string());
    command.arg("-p").arg(through.port().to_string());
    command.arg("-D").arg(folder.path().join("data"));
    as_server_user(here, &mut command);
    run(&mut command);
    folder
}

fn empty_folder(here: &Installed) -> TempDir {
    let folder = tempfile::Builder::new().prefix("presswork-pg-").tempdir();
    let folder = folder.expect("a temporary folder can be made");
    if let Some((_, uid, gid)) = &here.user {
        chown(folder.path(), Some(*uid), Some(*gid)).expect("root may give a folder away");
    }
    folder
}

/// A cluster as `initdb` leaves it, which takes seconds: made once, copied for each server.
fn template(here: &Installed) -> PathBuf {
    // one at a time within this process, too
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(|it| it.into_inner());
    let user = here.user.as_ref().map_or("self", |it| it.0.as_str());
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let template = base.join(format!("postgres-{}-{user}", here.version));
    let lock = File::create(base.join("postgres.lock")).expect("a lock file can be made");
    // Held until the end of this function: another test process may be about to do the same.
    lock.lock().expect("a lock file can be locked");
    if !template.exists() {
        make_template(here, &template);
    }
    template
}

fn make_template(here: &Installed, template: &Path) {
    let folder = empty_folder(here);
    let data = folder.path().join("data");
    let mut command = Command::new(here.folder.join("initdb"));
    command.arg("-D").arg(&data).args(["-U", "postgres"]);
    command.args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]);
    as_server_user(here, &mut command);
    run(&mut command);
    let partial = template.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).expect("half a template can be removed");
    }
    copy(&data, &partial);
    fs::rename(&partial, template).expect("the template can be put in its place");
}

/// By `cp`, as it keeps modes.
fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {said}");
}
