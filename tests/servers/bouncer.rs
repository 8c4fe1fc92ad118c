//! PostgreSQL behind PgBouncer in transaction mode: nothing that we need is kept by a session.

use std::sync::Arc;
use std::time::Duration;

use presswork::ledger::postgres::{PgOptions, Postgres as PostgresLedger, Role};
use presswork::ledger::{Claim, Ledger};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::kit::pgbouncer::PgBouncer;
use crate::kit::postgres::Postgres;
use crate::kit::redis::Redis;
use crate::{Case, said};

/// Fewer connections to the server than the daemon has to PgBouncer: so they are shared from statement
/// to statement.
const CONNECTIONS: u32 = 3;

fn before(postgres: &Postgres) -> Option<PgBouncer> {
    let bouncer = PgBouncer::before(postgres, CONNECTIONS);
    if bouncer.is_none() {
        println!("skipped: there is no pgbouncer here");
    }
    bouncer
}

/// The URL by way of PgBouncer.
fn by(bouncer: &PgBouncer, direct: &str) -> String {
    let name = direct.rsplit('/').next().expect("a database");
    format!(
        "postgres://postgres@127.0.0.1:{}/{name}?pgbouncer=true",
        bouncer.port()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_flow_while_pgbouncer_and_the_server_behind_it_start_again() {
    let postgres = Postgres::start();
    let Some(bouncer) = before(&postgres) else {
        return;
    };
    let direct = postgres.create_database().await;
    let redis = Redis::start();
    let mut case = Case::new(&by(&bouncer, &direct), &redis.url()).await;
    // it is migrated that way, too
    let (host, daemon) = case.host().await;
    case.load(&host, 30).await;
    let restarts = async {
        bouncer.kill9();
        said(&daemon, "refused", 1).await;
        bouncer.restart();
        host.queue_in_use(&daemon).await;
        postgres.kill9();
        postgres.restart();
        host.queue_in_use(&daemon).await;
    };
    case.while_jobs_flow(&host, restarts).await;
    case.load(&host, 30).await;
    case.all_well().await;
    assert!(daemon.ended().is_none(), "the daemon lives through it");
    let told = daemon.stderr();
    for wrong in ["prepared statement", "SQLSTATE 26000", "pgbouncer=true"] {
        assert!(!told.contains(wrong), "{told}");
    }
    let many =
        "SELECT count(*)::text FROM pg_stat_activity WHERE application_name LIKE 'presswork-%'";
    let many: u32 = postgres.asked(&direct, many).await.parse().unwrap();
    assert!(many <= CONNECTIONS, "{many} connections");
}

/// What is set for us ends with our transaction: the next one on the connection is somebody else's.
#[tokio::test(flavor = "multi_thread")]
async fn settings_hold_for_our_statements_and_nobody_elses() {
    let postgres = Postgres::start();
    let Some(bouncer) = before(&postgres) else {
        return;
    };
    let direct = postgres.create_database().await;
    let url = by(&bouncer, &direct);
    let options = PgOptions {
        call_timeout: Duration::from_millis(2_500),
        ..PgOptions::new(Role::Ledger)
    };
    let ledger = PostgresLedger::open(&url.clone().into(), options).unwrap();
    ledger.migrate().await.expect("it is migrated");
    let claim = Claim {
        run: Uuid::from_u128(1),
        generation: None,
        lane: "default".to_owned(),
        kinds: Vec::new().into(),
        concurrency: Some(1),
        shut: Arc::default(),
        fair: Arc::default(),
    };
    let many = (0..40).map(|_| ledger.claim_due(&claim, 1));
    for done in futures_util::future::join_all(many).await {
        done.expect("no call meets another's session");
    }
    let theirs = url.replace("?pgbouncer=true", "?statement-cache-capacity=0");
    for (name, expected) in [
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("synchronous_commit", "on"),
        ("search_path", "\"$user\", public"),
    ] {
        let sql = format!("SHOW {name}");
        assert_eq!(asked_simply(&theirs, &sql).await, expected, "{name}");
    }
    // and they do hold: the server itself gives a statement up before we do
    let lock = "BEGIN; LOCK TABLE presswork.jobs IN ACCESS EXCLUSIVE MODE";
    let mut locked = PgConnection::connect(&direct).await.unwrap();
    sqlx::raw_sql(lock).execute(&mut locked).await.unwrap();
    let why = ledger.counts().await.unwrap_err().to_string();
    assert!(why.contains("55P03") || why.contains("57014"), "{why}");
}

/// By the simple protocol, as `psql` does.
async fn asked_simply(url: &str, sql: &str) -> String {
    use sqlx::Row as _;
    use std::str::FromStr as _;
    let options = sqlx::postgres::PgConnectOptions::from_str(url).unwrap();
    let options = options.extra_float_digits(None);
    let connection = sqlx::ConnectOptions::connect(&options).await;
    let mut connection: PgConnection = connection.unwrap();
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    let row = sqlx::raw_sql(sql).fetch_one(&mut connection).await.unwrap();
    row.get(0)
}

/// Without the word in the URL it can't work, and says what is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_does_not_say_pgbouncer_is_told_so() {
    let postgres = Postgres::start();
    let Some(bouncer) = before(&postgres) else {
        return;
    };
    let direct = postgres.create_database().await;
    let url = by(&bouncer, &direct).replace("?pgbouncer=true", "");
    let ledger = PostgresLedger::open(&url.into(), PgOptions::new(Role::Cli)).unwrap();
    let why = ledger.schema().await.unwrap_err().to_string();
    assert!(why.contains("?pgbouncer=true"), "{why}");
}
