//! A private PgBouncer in transaction mode, in front of a PostgreSQL of the test's.

use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::time::Duration;

use super::postgres::Postgres;
use super::process::{dying_with_us, find_program};
use super::server::Server;

const STARTED: Duration = Duration::from_secs(20);

/// A pooler on a port of its own. Dropped, it is killed.
pub struct PgBouncer {
    server: Server,
    program: PathBuf,
    user: Option<(u32, u32)>,
}

impl PgBouncer {
    /// In front of `postgres`, with so many connections to a database at most; `None` where there is no
    /// PgBouncer here.
    ///
    /// # Panics
    /// Where it doesn't start: with its log.
    pub fn before(postgres: &Postgres, connections: u32) -> Option<PgBouncer> {
        let program = find_program("pgbouncer", &["/usr/sbin".into(), "/usr/local/bin".into()])?;
        let make = || {
            let folder = tempfile::Builder::new()
                .prefix("presswork-bouncer-")
                .tempdir();
            let folder = folder.expect("a temporary folder can be made");
            let user = postgres.user();
            let users = folder.path().join("users");
            std::fs::write(&users, "\"postgres\" \"\"\n").expect("a file");
            let bouncer = PgBouncer {
                server: Server::new("pgbouncer", folder),
                program: program.clone(),
                user,
            };
            let config = format!(
                "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = {}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n\
                 pool_mode = transaction\ndefault_pool_size = {connections}\n\
                 max_client_conn = 200\nserver_login_retry = 1\nquery_wait_timeout = 20\n",
                postgres.port(),
                bouncer.port(),
                users.display(),
            );
            let file = bouncer.server.folder().join("pgbouncer.ini");
            std::fs::write(&file, config).expect("a file");
            if let Some((uid, gid)) = user {
                for path in [bouncer.server.folder(), &users, &file] {
                    chown(path, Some(uid), Some(gid)).expect("root may give a file away");
                }
            }
            bouncer
        };
        Some(Server::first("PgBouncer", make, PgBouncer::launch))
    }

    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Ends it without a goodbye.
    pub fn kill9(&self) {
        self.server.kill9();
    }

    /// Starts it again on the same port.
    ///
    /// # Panics
    /// Where it doesn't start: with its log.
    pub fn restart(&self) {
        self.kill9();
        if let Err(error) = self.launch() {
            panic!("PgBouncer doesn't start again: {error}");
        }
    }

    fn launch(&self) -> Result<(), String> {
        use std::os::unix::process::CommandExt as _;
        let mut command = dying_with_us(&self.program, "KILL");
        command.arg(self.server.folder().join("pgbouncer.ini"));
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command.current_dir("/");
        let address = ("127.0.0.1", self.port());
        self.server
            .launch(command, STARTED, |_| TcpStream::connect(address).is_ok())
    }
}
