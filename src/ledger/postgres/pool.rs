//! Connections to Postgres: kept apart by role, bounded in time, never given back half-open.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions, PgSslMode};
use sqlx::{Connection, Executor};

use super::connections::Connections;
use crate::ledger::door::{LedgerError, Result};
use crate::sabotage;
use crate::tls;

/// What a pool is for. Each has its own connections, so that none can starve another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The heartbeat: its pool must be used from the heartbeat's own runtime only.
    Lease,
    /// The engine's reads and writes.
    Ledger,
    /// The HTTP API.
    Api,
    /// A command of the command line.
    Cli,
}

impl Role {
    /// The name of its connections at the server (`pg_stat_activity.application_name`).
    fn application(self) -> &'static str {
        match self {
            Self::Lease => "presswork-lease",
            Self::Ledger => "presswork-ledger",
            Self::Api => "presswork-api",
            Self::Cli => "presswork-cli",
        }
    }
}

/// How to reach Postgres.
#[derive(Clone, Debug)]
pub struct PgOptions {
    /// What the connections are for; they are named `presswork-<role>` at the server.
    pub role: Role,
    /// The most connections. The engine keeps a third of them for what isn't the hot path, and has a third as
    /// many again for claims; other roles have as many again for intake, where they take jobs in.
    pub max_connections: u32,
    /// The URL leads to PgBouncer in transaction mode: no statement is kept prepared, and each has a
    /// transaction of its own with our settings in it. `?pgbouncer=true` in the URL says the same.
    pub pgbouncer: bool,
    /// A call is given up after this long; the server gives it up a little before.
    pub call_timeout: Duration,
    /// Connecting, or waiting for a free connection, is given up after this long.
    pub connect_timeout: Duration,
}

impl PgOptions {
    /// The usual options of a role.
    pub fn new(role: Role) -> Self {
        let max_connections = match role {
            Role::Lease => 2,
            Role::Ledger => 8,
            Role::Api | Role::Cli => 4,
        };
        Self {
            role,
            max_connections,
            pgbouncer: false,
            call_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
        }
    }
}

/// A statement waits for a lock at most this long.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// The server ends a transaction that nobody goes on with.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that was idle for longer is asked whether it still lives before it is used.
const IDLE_TRUSTED: Duration = Duration::from_secs(1);
/// The server asks a silent client whether it still lives after 30 s, then each 10 s, 3 times: what a
/// host that vanished has locked is free again soon. (The driver can't do so for its own end: there
/// the time-outs of each call stand in.)
const KEEPALIVES: [(&str, &str); 3] = [
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
];
/// What claims are told besides: a commit doesn't wait for the disk.
const HASTE: (&str, &str) = ("synchronous_commit", "off");
/// What the connections for the hot path are told besides. Its statements are few, and the same thousands of
/// times a minute: planned anew for each batch, they cost the server more than to run. So each is planned
/// once, for parameters and tables of any size, and maybe while these are empty: it must leave the planner
/// no way but that by an index. So a table that grows is joined with `column = ANY(ARRAY[list.column])`,
/// which can be nothing else, also in statements that only have to be right once
/// (tests/postgres/hot_path.rs).
const PLANNED: [(&str, &str); 2] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
];
/// What a dropped call left behind is waited for so long, then the connection is closed.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
/// The server gives a statement up so long before the client does, so that its word is heard.
const SERVER_FIRST: Duration = Duration::from_secs(1);
/// What may be wrong with the URL.
const BOUNCER: &str =
    "where the URL leads to PgBouncer in transaction mode, it ends in ?pgbouncer=true";
/// A look for what stands in the way of a connection takes so long at most.
const CAUSE: Duration = Duration::from_secs(1);
/// How often a call is made again that lost a deadlock or waited for a lock in vain.
const CONTENDED_MAX: u32 = 5;

/// A transaction's work. Its parameters are owned: it runs in a task of its own.
pub type Work<'c, T> = BoxFuture<'c, Result<T>>;

/// The pools of one role. They belong to the runtime that first uses them.
#[derive(Debug)]
pub struct Pools {
    connect: PgConnectOptions,
    options: PgOptions,
    main: OnceLock<Connections>,
    claims: OnceLock<Connections>,
    planned: OnceLock<Connections>,
}

impl Pools {
    /// Pools that connect when they are first used.
    ///
    /// # Errors
    /// When the URL can't be read.
    pub fn new(url: &SecretString, mut options: PgOptions) -> Result<Self> {
        let unreadable = || {
            // the parsers' own words may quote the URL, and with it the password
            let form = "postgres://USER:PASSWORD@HOST:5432/DATABASE";
            LedgerError::Other(format!("the ledger's URL can't be read; write {form}"))
        };
        let mut url = url::Url::parse(url.expose_secret()).map_err(|_| unreadable())?;
        options.pgbouncer |= take_pgbouncer(&mut url);
        let connect: PgConnectOptions = url.as_str().parse().map_err(|_| unreadable())?;
        let connect = connect.application_name(options.role.application());
        let connect = if options.pgbouncer {
            // it would refuse a setting of the connection's start that it doesn't know
            connect.statement_cache_capacity(0).extra_float_digits(None)
        } else {
            connect.options(settings(&options)).options(KEEPALIVES)
        };
        Ok(Self {
            connect,
            options,
            main: OnceLock::new(),
            claims: OnceLock::new(),
            planned: OnceLock::new(),
        })
    }

    /// Connections for questions of any kind, each planned for what it asks.
    pub fn main(&self) -> &Connections {
        let max = match self.options.role {
            Role::Ledger => self.aside(),
            _ => self.options.max_connections,
        };
        self.main.get_or_init(|| self.pool(vec![], max))
    }

    /// Connections whose commits don't wait for the disk: for claims only, which the next permit or
    /// outcome makes durable.
    pub fn claims(&self) -> &Connections {
        let more = || [vec![HASTE], PLANNED.to_vec()].concat();
        self.claims
            .get_or_init(|| self.pool(more(), self.options.max_connections.div_ceil(3)))
    }

    /// Connections for the hot path: what each job needs on its way from intake to its outcome.
    pub fn planned(&self) -> &Connections {
        let max = match self.options.role {
            Role::Ledger => self.options.max_connections - self.aside(),
            _ => self.options.max_connections,
        };
        self.planned
            .get_or_init(|| self.pool(PLANNED.to_vec(), max))
    }

    /// Of the engine's connections, those that are kept for what isn't the hot path: a server has few.
    fn aside(&self) -> u32 {
        self.options.max_connections.div_ceil(3)
    }

    fn pool(&self, more: Vec<(&'static str, &'static str)>, max: u32) -> Connections {
        let pool = PgPoolOptions::new()
            .max_connections(max.max(1))
            .acquire_timeout(self.options.connect_timeout)
            .idle_timeout(Duration::from_secs(5 * 60))
            .max_lifetime(Duration::from_secs(30 * 60));
        let pool = hooked(pool);
        if !self.options.pgbouncer {
            let connect = self.connect.clone().options(more);
            return Connections::straight(pool.connect_lazy_with(connect));
        }
        let more = more
            .into_iter()
            .map(|(name, value)| (name, value.to_owned()));
        let settings = settings(&self.options).into_iter().chain(more);
        Connections::bounced(pool.connect_lazy_with(self.connect.clone()), settings)
    }

    /// Where the server isn't on this host, and who it is isn't proven: where.
    pub fn unproven(&self) -> Option<&str> {
        let host = self.connect.get_host();
        let ip: Option<std::net::IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        let here = self.connect.get_socket().is_some()
            || host == "localhost"
            || ip.is_some_and(|it| it.is_loopback());
        let proven = matches!(self.connect.get_ssl_mode(), PgSslMode::VerifyFull);
        (!here && !proven).then_some(host)
    }

    /// Closes what was opened.
    pub async fn close(&self) {
        let all = [&self.main, &self.claims, &self.planned].into_iter();
        for connections in all.filter_map(OnceLock::get) {
            connections.close().await;
        }
    }

    /// Waits for a call, but not for ever.
    ///
    /// # Errors
    /// As the ledger's door says; [`LedgerError::Away`] when it took too long.
    pub async fn call<T>(&self, call: impl Future<Output = sqlx::Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.options.call_timeout, call).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(e)) => Err(self.explain(e).await),
            Err(_) => Err(self.too_late()),
        }
    }

    /// As [`explain`]; where there was no connection, why.
    async fn explain(&self, error: sqlx::Error) -> LedgerError {
        if !matches!(error, sqlx::Error::PoolTimedOut) {
            return explain(error);
        }
        // the pool tries again and again, and keeps what stood in its way to itself
        let (host, port) = (self.connect.get_host(), self.connect.get_port());
        let try_once = PgConnection::connect_with(&self.connect);
        let why = match tokio::time::timeout(CAUSE, try_once).await {
            Ok(Ok(connection)) => {
                drop(connection);
                "all connections of this program are in use".to_owned()
            }
            Ok(Err(e)) => explain(e).to_string(),
            Err(_) => "no answer".to_owned(),
        };
        LedgerError::Away(format!("no connection to {host}:{port}: {why}"))
    }

    /// As [`Pools::call`], but what lost a deadlock is made again, a few times: for a single
    /// statement, of which nothing was done then.
    ///
    /// # Errors
    /// As [`Pools::call`].
    pub async fn again<T, F>(&self, make: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = sqlx::Result<T>>,
    {
        for time in 1.. {
            let done = tokio::time::timeout(self.options.call_timeout, make()).await;
            match done {
                Ok(Err(e)) if time < CONTENDED_MAX && is_contended(&e) => {
                    let wait = rand::rng().random_range(1..=10 * u64::from(time));
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(e)) => return Err(self.explain(e).await),
                Err(_) => break,
            }
        }
        Err(self.too_late())
    }

    /// Whether the URL leads to PgBouncer.
    pub fn by_bouncer(&self) -> bool {
        self.options.pgbouncer
    }

    /// How long a call may take.
    pub fn patience(&self) -> Duration {
        self.options.call_timeout
    }

    /// Work of several statements, in a task of its own: a caller that goes away can't leave it half
    /// done. Behind PgBouncer each statement of it needs a transaction ([`Connections::opening`]). After `limit` the connection is closed, not given back: a peer that vanished answers no
    /// rollback, and the server ends what nobody goes on with.
    ///
    /// # Errors
    /// Those of `work`; [`LedgerError::Away`] when it took too long.
    pub async fn apart<T, W>(&self, pool: &Connections, limit: Duration, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut PgConnection) -> Work<'c, T> + Send + 'static,
    {
        let pool = pool.pool().clone();
        let task = tokio::spawn(async move {
            let mut connection = pool.acquire().await.map_err(explain)?;
            let done = tokio::time::timeout(limit, work(&mut connection)).await;
            done.unwrap_or_else(|_| {
                drop(connection.detach());
                Err(too_late(limit))
            })
        });
        match task.await {
            Ok(done) => done,
            Err(e) => Err(LedgerError::Other(format!(
                "a transaction ended early: {e}"
            ))),
        }
    }

    fn too_late(&self) -> LedgerError {
        too_late(self.options.call_timeout)
    }
}

/// What each connection is told, or each transaction behind PgBouncer.
fn settings(options: &PgOptions) -> [(&'static str, String); 6] {
    let statement = options.call_timeout.saturating_sub(SERVER_FIRST);
    let millis = |it: Duration| it.as_millis().max(1).to_string();
    [
        ("statement_timeout", millis(statement)),
        ("lock_timeout", millis(LOCK_TIMEOUT.min(statement))),
        (
            "idle_in_transaction_session_timeout",
            millis(IDLE_IN_TRANSACTION_TIMEOUT),
        ),
        ("search_path", "pg_catalog,pg_temp".to_owned()),
        // a batch of keys against a table of any size: by the index, on today's disks
        ("random_page_cost", "1.1".to_owned()),
        // what takes milliseconds isn't worth a compiler's tenth of a second
        ("jit", "off".to_owned()),
    ]
}

/// Takes `pgbouncer=true` out of a URL; whether it was there.
fn take_pgbouncer(url: &mut url::Url) -> bool {
    let all: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let (ours, theirs): (Vec<_>, Vec<_>) = all.into_iter().partition(|it| it.0 == "pgbouncer");
    if ours.is_empty() {
        return false;
    }
    url.set_query(None);
    if !theirs.is_empty() {
        url.query_pairs_mut().extend_pairs(theirs);
    }
    ours.iter().any(|it| it.1 == "true")
}

/// The hooks of every pool of ours.
///
/// In sqlx 0.9.0 a future that is dropped inside `begin` gives a connection with an open transaction
/// back, and later writes vanish with it (sqlx #4385): so each connection is rolled back when it
/// comes home. Kept until the fix (#4394) is in a release.
pub fn hooked(pool: PgPoolOptions) -> PgPoolOptions {
    pool.test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if IDLE_TRUSTED < meta.idle_for {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_release(|connection, _| {
            Box::pin(async move {
                if sabotage!("pool.rollback") {
                    return Ok(true);
                }
                // after a BEGIN, as a ROLLBACK without a transaction is a line in the server's log;
                // in a transaction that failed it errs, and the connection is closed
                let undone = connection.execute("BEGIN; ROLLBACK");
                match tokio::time::timeout(RELEASE_TIMEOUT, undone).await {
                    Ok(done) => done.map(|_| true),
                    Err(_) => Err(sqlx::Error::PoolTimedOut),
                }
            })
        })
}

fn too_late(limit: Duration) -> LedgerError {
    LedgerError::Away(format!("no answer within {} ms", limit.as_millis()))
}

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Serialisation failure, deadlock, lock not available.
fn is_contended(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("40001" | "40P01" | "55P03"))
}

/// The server gave the statement up: it took longer than the time-out.
pub fn is_cancelled(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("57014")
}

/// What an error means at the ledger's door, by its SQLSTATE (PostgreSQL's Appendix A).
pub fn explain(error: sqlx::Error) -> LedgerError {
    if let sqlx::Error::Database(said) = &error {
        let code = said.code().unwrap_or_default().into_owned();
        let message = format!("{} (SQLSTATE {code})", said.message());
        return match code.as_bytes() {
            [b'2', b'2' | b'3', ..] => LedgerError::Row(message),
            // no such table, column, function, schema; 26000: no such prepared statement
            b"42P01" | b"42703" | b"42883" | b"3F000" => LedgerError::Schema(format!(
                "the ledger's tables don't fit this program; run `presswork migrate`: {message}"
            )),
            b"26000" | b"42P05" => LedgerError::Other(format!("{message}; {BOUNCER}")),
            // PgBouncer says so of everything; of all else it may be another time
            b"08P01" if message.contains("startup parameter") => {
                LedgerError::Other(format!("{message}; {BOUNCER}"))
            }
            // 08 connection, 25006 read only (a standby), 25P03/04 idle or long transaction,
            // 40 rolled back, 53 no resources, 55P03 lock, 57 shut down or cancelled, 58 disk
            [b'0', b'8', ..]
            | [b'4', b'0', ..]
            | [b'5', b'3' | b'7' | b'8', ..]
            | b"25006"
            | b"25P03"
            | b"25P04"
            | b"55P03" => LedgerError::Away(message),
            _ => LedgerError::Other(tls::advised(&message)),
        };
    }
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) => {
            LedgerError::Away(tls::advised(&error.to_string()))
        }
        sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => LedgerError::Away(error.to_string()),
        // a text with a NUL, which the driver itself refuses to send
        sqlx::Error::Encode(_) => LedgerError::Row(error.to_string()),
        _ => LedgerError::Other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_name_pgbouncer_and_no_error_quotes_it() {
        let open = |url: &str| Pools::new(&url.into(), PgOptions::new(Role::Cli));
        let pools = open("postgres://u:p@h/d?sslmode=disable&pgbouncer=true").unwrap();
        assert!(pools.options.pgbouncer);
        assert!(!open("postgres://u:p@h/d").unwrap().options.pgbouncer);
        for url in [
            "postgres://u:s3cret@h:port/d",
            "s3cret",
            "postgres://u:s3cret@h/d?sslmode=s3cret",
        ] {
            let error = open(url).unwrap_err().to_string();
            assert!(
                !error.contains("s3cret") && error.contains("HOST"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_may_work_later_is_told_apart() {
        assert!(explain(sqlx::Error::PoolTimedOut).is_away());
        assert!(!explain(sqlx::Error::RowNotFound).is_away());
    }
}
