//! TLS with an authority of one's own, certificates of clients, and users that may do little.

use std::path::Path;

use presswork::ledger::Ledger as _;
use presswork::ledger::postgres::{PgOptions, Postgres as PostgresLedger, Role};
use presswork::queue::redis::{PASSWORD, users};
use presswork::queue::{Queue as _, QueueError};
use sqlx::{Connection as _, PgConnection};

use crate::kit::pki::Authority;
use crate::kit::port::Port;
use crate::kit::postgres::Postgres;
use crate::kit::redis::{Redis, Tls};
use crate::{Case, queue};

fn shown(path: &Path) -> String {
    path.display().to_string()
}

pub fn authority() -> Option<Authority> {
    let authority = Authority::new();
    if authority.is_none() {
        println!("skipped: there is no openssl here, which makes the certificates");
    }
    authority
}

/// What servers on this host prove themselves with, by their address: so they name each other.
pub fn proof(authority: &Authority) -> Tls {
    let (cert, key) = authority.sign("redis", "IP:127.0.0.1");
    Tls {
        cert: shown(&cert),
        key: shown(&key),
        root: shown(&authority.root()),
    }
}

/// The user that is made for the daemon, over TLS on both sides.
#[tokio::test(flavor = "multi_thread")]
async fn redis_by_tls_as_a_user_of_few_rights() {
    let Some(authority) = authority() else { return };
    let (cert, key) = authority.sign("redis", "DNS:localhost");
    let (own, own_key) = authority.sign("presswork", "DNS:presswork");
    let root = shown(&authority.root());
    let port = Port::take();
    let tls = port.number().to_string();
    let (cert, key) = (shown(&cert), shown(&key));
    let options = [
        ["--tls-port", &tls],
        ["--tls-cert-file", &cert],
        ["--tls-key-file", &key],
        ["--tls-ca-cert-file", &root],
        ["--tls-auth-clients", "yes"],
        ["--acllog-max-len", "1000"],
    ];
    let server = Redis::start_with(&options.concat());
    // as `presswork check --print-acl` prints it
    let user = users(&server.url().into(), None, &[]).unwrap().remove(0);
    let rules = user
        .rules
        .iter()
        .map(|it| it.replace(PASSWORD, "s3cret-of-it"));
    let rules: Vec<String> = rules.collect();
    let mut line = vec!["ACL", "SETUSER", "daemon"];
    line.extend(rules.iter().map(String::as_str));
    assert_eq!(server.cli(&line), "OK");

    let at = |host: &str, more: &str| format!("rediss://daemon:s3cret-of-it@{host}:{tls}/0?{more}");
    let trusting = format!("sslrootcert={root}");
    let mutual = format!(
        "{trusting}&sslcert={}&sslkey={}",
        shown(&own),
        shown(&own_key)
    );
    for (url, told) in [
        (
            at("127.0.0.1", &mutual),
            "write the host as the certificate has it",
        ),
        (at("localhost", ""), "name the CA that signed it"),
        (at("localhost", &trusting), "sslcert=PATH"),
    ] {
        match queue(&url).server().await {
            Err(QueueError::Away(why)) => {
                assert!(why.contains(told) && !why.contains("s3cret"), "{why}");
            }
            other => panic!("{told}: {other:?}"),
        }
    }

    let mut case = Case::with_queue(&at("localhost", &mutual)).await;
    let (host, daemon) = case.host().await;
    case.load(&host, 12).await;
    let mut entry = case.job();
    entry["reply_to"] = "tok-1".into();
    let inbox = queue(&at("localhost", &mutual)).inbox();
    inbox
        .push(&[entry.to_string().into_bytes()])
        .await
        .expect("it takes it");
    // a slot is given back, and compared, a few seconds long
    case.all_well().await;
    assert_eq!(server.cli(&["LLEN", "presswork:reply:tok-1"]), "1");
    let refused = server.cli(&["ACL", "LOG"]);
    assert_eq!(refused, "", "the daemon needs more rights");
    drop(daemon);

    let url = format!("redis://daemon:s3cret-of-it@127.0.0.1:{}/", server.port());
    let mut user = redis::Client::open(url).unwrap().get_connection().unwrap();
    for forbidden in [
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "CONFIG GET *",
        "ACL LIST",
        "GET presswork:inbox",
        "DEL presswork:inbox",
        "RENAME presswork:inbox other",
        "RPUSH other x",
        "HGETALL pw:lane:default",
        "SUBSCRIBE others",
        "PUBLISH others x",
        "EVAL return(1) 0",
        "SCRIPT FLUSH",
        "CLIENT LIST",
        "SHUTDOWN",
        "REPLICAOF NO ONE",
    ] {
        let mut words = forbidden.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        words.for_each(|it| {
            command.arg(it);
        });
        let refused = command.exec(&mut user).unwrap_err();
        assert_eq!(refused.code(), Some("NOPERM"), "{forbidden}: {refused}");
    }
}

/// The server proves who it is, and so does the daemon, whose certificate is its only password.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_by_tls_with_both_sides_proven() {
    let Some(authority) = authority() else { return };
    let (cert, key) = authority.sign("postgres", "DNS:localhost");
    let (own, own_key) = authority.sign("app", "DNS:app");
    let hba = authority.root().with_file_name("pg_hba.conf");
    let rules = "local all all trust\nhost all postgres 127.0.0.1/32 trust\n\
                 hostssl all app all cert\n";
    std::fs::write(&hba, rules).unwrap();
    // it takes no key that others may read
    if let Some((uid, gid)) = Postgres::shared().user() {
        std::os::unix::fs::chown(&key, Some(uid), Some(gid)).unwrap();
    }
    let root = shown(&authority.root());
    let server = Postgres::start_with(&[
        ("ssl", "on"),
        ("ssl_cert_file", &shown(&cert)),
        ("ssl_key_file", &shown(&key)),
        ("ssl_ca_file", &root),
        ("hba_file", &shown(&hba)),
    ]);
    let url = server.create_database().await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let role = "CREATE ROLE app SUPERUSER LOGIN";
    sqlx::raw_sql(role).execute(&mut connection).await.unwrap();

    let name = url.rsplit('/').next().unwrap().to_owned();
    let at = |host: &str, more: &str| {
        let port = server.port();
        format!("postgres://app@{host}:{port}/{name}?sslmode=verify-full{more}")
    };
    let trusting = format!("&sslrootcert={root}");
    let mutual = format!(
        "{trusting}&sslcert={}&sslkey={}",
        shown(&own),
        shown(&own_key)
    );
    for (url, told) in [
        (
            at("127.0.0.1", &mutual),
            "write the host as the certificate has it",
        ),
        (at("localhost", ""), "name the CA that signed it"),
        (at("localhost", &trusting), "sslcert=PATH"),
    ] {
        let ledger = PostgresLedger::open(&url.clone().into(), PgOptions::new(Role::Cli)).unwrap();
        let why = ledger.schema().await.unwrap_err().to_string();
        assert!(why.contains(told), "{told}: {why}");
    }

    let redis = Redis::start();
    let mut case = Case::new(&at("localhost", &mutual), &redis.url()).await;
    let (host, _daemon) = case.host().await;
    case.load(&host, 12).await;
    case.all_well().await;
    let sql = "SELECT count(*)::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
               WHERE application_name LIKE 'presswork-%' AND NOT ssl";
    assert_eq!(
        server.asked(&url, sql).await,
        "0",
        "all connections are by TLS"
    );
    let check = host.home.cli(&["check"]).await;
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(!said.contains("sslmode"), "{said}");
}
