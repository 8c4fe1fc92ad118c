//! The test kit does what it says: else every test that leans on it says nothing.

mod kit;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use kit::daemon::Home;
use kit::postgres::Postgres;
use kit::process::{Process, dying_with_us};
use kit::proxy::Direction::{Down, Up};
use kit::proxy::Proxy;
use kit::redis::Redis;
use kit::wait;
use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SOON: Duration = Duration::from_secs(10);

async fn execute(url: &str, sql: &'static str) {
    let mut connection = PgConnection::connect(url).await.expect("a connection");
    sqlx::raw_sql(sql)
        .execute(&mut connection)
        .await
        .expect("a statement");
}

async fn number(url: &str, sql: &'static str) -> i64 {
    let mut connection = PgConnection::connect(url).await.expect("a connection");
    sqlx::query_scalar(sql)
        .fetch_one(&mut connection)
        .await
        .expect("a row")
}

#[tokio::test]
async fn postgres_keeps_a_committed_row_over_a_kill() {
    let server = Postgres::start();
    let url = server.create_database().await;
    execute(&url, "CREATE TABLE t (x int)").await;
    execute(&url, "INSERT INTO t VALUES (1)").await;
    let mut open = PgConnection::connect(&url).await.expect("a connection");
    sqlx::raw_sql("BEGIN; INSERT INTO t VALUES (2)")
        .execute(&mut open)
        .await
        .expect("a row");
    server.kill9();
    assert!(
        PgConnection::connect(&url).await.is_err(),
        "it is still there"
    );
    server.restart();
    assert_eq!(number(&url, "SELECT count(*) FROM t").await, 1);
    server.restart();
    assert_eq!(number(&url, "SELECT count(*) FROM t").await, 1);
    server.stop();
    assert!(
        PgConnection::connect(&url).await.is_err(),
        "it is still there"
    );
}

#[tokio::test]
async fn postgres_is_as_durable_as_a_ledger_needs() {
    let server = Postgres::start_with(&[("max_connections", "10")]);
    let url = server.url("postgres");
    let sql = "SELECT count(*) FROM pg_settings WHERE (name, setting) IN (('fsync', 'on'), \
        ('full_page_writes', 'on'), ('synchronous_commit', 'on'), ('max_connections', '10'))";
    assert_eq!(number(&url, sql).await, 4);
}

#[tokio::test]
async fn databases_of_the_shared_postgres_are_apart() {
    let (one, two) = tokio::join!(
        Postgres::shared().create_database(),
        Postgres::shared().create_database()
    );
    assert_ne!(one, two);
    execute(&one, "CREATE TABLE only_here ()").await;
    let sql = "SELECT count(*) FROM pg_class WHERE relname = 'only_here'";
    assert_eq!((number(&one, sql).await, number(&two, sql).await), (1, 0));
}

/// The first user of a shared server is a test whose thread ends before the other tests are done.
#[test]
fn the_shared_servers_outlive_the_thread_that_started_them() {
    let start = || (Postgres::shared().url("postgres"), Redis::shared().port());
    let started = std::thread::spawn(start).join().expect("they start");
    assert_eq!(Redis::shared().cli(&["PING"]), "PONG");
    assert_eq!(started.1, Redis::shared().port());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    assert_eq!(
        runtime.block_on(number(&started.0, "SELECT count(*) FROM (SELECT) t")),
        1
    );
}

#[test]
fn redis_forgets_over_a_kill_unless_it_is_durable() {
    for (redis, kept) in [(Redis::start(), ""), (Redis::start_durable(), "1")] {
        assert_eq!(redis.cli(&["SET", "a", "1"]), "OK");
        let port = redis.port();
        redis.kill9();
        let refused = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        redis.restart();
        assert_eq!(redis.port(), port);
        assert_eq!(redis.cli(&["GET", "a"]), kept);
        redis.flushall();
        assert_eq!(redis.cli(&["DBSIZE"]), "0");
        redis.stop();
    }
}

#[tokio::test]
async fn a_frozen_redis_answers_when_it_has_thawed() {
    let redis = Redis::start();
    redis.freeze();
    let mut stream = TcpStream::connect(("127.0.0.1", redis.port()))
        .await
        .expect("the kernel accepts");
    stream
        .write_all(b"PING\r\n")
        .await
        .expect("the kernel takes it");
    let mut answer = [0; 7];
    let early =
        tokio::time::timeout(Duration::from_millis(50), stream.read_exact(&mut answer)).await;
    assert!(early.is_err(), "a frozen server answered");
    redis.thaw();
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"+PONG\r\n");
}

/// Sends back what it gets; a connection's close is passed on.
async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.into_split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.addr())
        .await
        .expect("the proxy accepts")
}

/// What comes back for `sent`, up to the end of the connection or `wanted` bytes.
async fn said(stream: &mut TcpStream, sent: &[u8], wanted: usize) -> std::io::Result<Vec<u8>> {
    stream.write_all(sent).await?;
    let mut got = vec![0; wanted];
    stream.read_exact(&mut got).await?;
    Ok(got)
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    let read = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut byte));
    read.await.is_err()
}

fn kind<T: std::fmt::Debug>(result: std::io::Result<T>) -> ErrorKind {
    result.expect_err("this must break").kind()
}

#[tokio::test]
async fn the_proxy_passes_and_counts() {
    let proxy = Proxy::to(echo().await);
    let mut stream = connect(&proxy).await;
    assert_eq!(
        said(&mut stream, b"hello", 5).await.expect("an echo"),
        b"hello"
    );
    assert_eq!((proxy.bytes(Up), proxy.bytes(Down)), (5, 5));
    assert_eq!((proxy.accepted(), proxy.open()), (1, 1));
    stream.shutdown().await.expect("a half close");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("an orderly end");
    assert!(rest.is_empty());
    wait::until("the proxy to close", SOON, async || proxy.open() == 0).await;
}

#[tokio::test]
async fn the_proxy_cuts_after_so_many_bytes_once() {
    let proxy = Proxy::to(echo().await);
    let mut stream = connect(&proxy).await;
    proxy.cut_after(Up, 3);
    assert_eq!(
        kind(said(&mut stream, b"hello", 5).await),
        ErrorKind::ConnectionReset
    );
    assert_eq!(proxy.bytes(Up), 3);
    assert!(proxy.has_cut(Up));

    proxy.cut_after(Down, 0);
    let mut stream = connect(&proxy).await;
    assert_eq!(
        kind(said(&mut stream, b"hello", 5).await),
        ErrorKind::ConnectionReset
    );
    assert_eq!(
        proxy.bytes(Up),
        3 + 5,
        "the server got it, and its answer was lost"
    );

    let mut stream = connect(&proxy).await;
    said(&mut stream, b"hello", 5)
        .await
        .expect("it happens once");
}

#[tokio::test]
async fn the_proxy_severs_one_direction() {
    let proxy = Proxy::to(echo().await);
    let mut stream = connect(&proxy).await;
    said(&mut stream, b"a", 1).await.expect("an echo");
    proxy.sever(Down);
    stream.write_all(b"b").await.expect("it goes up");
    wait::until("the server to get it", SOON, async || proxy.bytes(Up) == 2).await;
    assert!(is_silent(&mut stream).await);
    assert_eq!(proxy.bytes(Down), 1);
    proxy.heal();
    let healed = said(&mut stream, b"c", 1).await;
    assert_eq!(
        kind(healed),
        ErrorKind::ConnectionReset,
        "a stream with a hole went on"
    );
    said(&mut connect(&proxy).await, b"d", 1)
        .await
        .expect("an echo");
}

#[tokio::test]
async fn the_proxy_is_a_black_hole() {
    let proxy = Proxy::to(echo().await);
    let mut old = connect(&proxy).await;
    said(&mut old, b"a", 1).await.expect("an echo");
    let mut idle = connect(&proxy).await;
    said(&mut idle, b"a", 1).await.expect("an echo");
    proxy.black_hole();
    let mut new = connect(&proxy).await;
    for stream in [&mut old, &mut new] {
        stream.write_all(b"b").await.expect("it is swallowed");
        assert!(is_silent(stream).await);
    }
    assert_eq!(proxy.bytes(Up), 2);
    proxy.heal();
    for stream in [&mut old, &mut new] {
        assert_eq!(
            kind(said(stream, b"c", 1).await),
            ErrorKind::ConnectionReset
        );
    }
    said(&mut idle, b"c", 1)
        .await
        .expect("nothing of this one was lost");
}

#[tokio::test]
async fn the_proxy_refuses_and_resets() {
    let proxy = Proxy::to(echo().await);
    let mut old = connect(&proxy).await;
    said(&mut old, b"a", 1).await.expect("an echo");
    proxy.refuse();
    assert_eq!(
        kind(said(&mut old, b"b", 1).await),
        ErrorKind::ConnectionReset
    );
    let refused = TcpStream::connect(proxy.addr()).await;
    assert_eq!(kind(refused), ErrorKind::ConnectionRefused);
    proxy.heal();
    let mut old = connect(&proxy).await;
    said(&mut old, b"a", 1).await.expect("an echo");
    proxy.reset();
    assert_eq!(
        kind(said(&mut old, b"b", 1).await),
        ErrorKind::ConnectionReset
    );
    // The reset may be there before the connection is seen to be made.
    let new = async { TcpStream::connect(proxy.addr()).await?.read_u8().await };
    assert_eq!(kind(new.await), ErrorKind::ConnectionReset);
    proxy.heal();
    said(&mut connect(&proxy).await, b"d", 1)
        .await
        .expect("an echo");
}

#[tokio::test]
async fn the_proxy_drips() {
    let proxy = Proxy::to(echo().await);
    proxy.drip(100);
    let mut stream = connect(&proxy).await;
    let start = Instant::now();
    said(&mut stream, &[7; 50], 50).await.expect("an echo");
    let took = start.elapsed();
    assert!(
        took > Duration::from_millis(400),
        "50 bytes at 100/s took {took:?}"
    );
}

#[tokio::test]
async fn the_proxy_stands_before_a_url() {
    let (proxy, url) = Proxy::before(&Postgres::shared().create_database().await);
    assert_eq!(number(&url, "SELECT count(*) FROM (SELECT) t").await, 1);
    assert_eq!(proxy.accepted(), 1);
}

#[tokio::test]
#[should_panic(expected = "in vain for: pigs to fly")]
async fn waiting_has_an_end() {
    wait::until("pigs to fly", Duration::from_millis(20), async || false).await;
}

#[tokio::test]
#[should_panic(expected = "in vain for: an answer")]
async fn a_look_that_hangs_is_given_up() {
    wait::until(
        "an answer",
        Duration::from_millis(20),
        std::future::pending::<bool>,
    )
    .await;
}

#[test]
fn a_process_is_killed_with_its_children() {
    let folder = tempfile::tempdir().expect("a folder");
    let pid_file = folder.path().join("pid");
    let mut command = dying_with_us("/bin/sh".as_ref(), "KILL");
    command.args(["-c", "sleep 1000 & echo $! > pid; wait"]);
    command.current_dir(folder.path());
    let process = Process::start(command, folder.path());
    let mut child = String::new();
    wait::until_blocking("the child's pid", SOON, || {
        child = std::fs::read_to_string(&pid_file).unwrap_or_default();
        child.ends_with('\n')
    });
    assert!(kit::process::alive(child.trim().parse().expect("a pid")));
    process.kill9();
    assert!(process.ended().is_some());
    assert!(!kit::process::alive(child.trim().parse().expect("a pid")));
}

/// Starts itself as another test process, which says what it started and is then killed.
#[test]
fn nothing_outlives_a_killed_test_process() {
    const INNER: &str = "PRESSWORK_KIT_INNER";
    if let Ok(said) = std::env::var(INNER) {
        let redis = Redis::start();
        let postgres = Postgres::shared();
        let folder = |log: std::path::PathBuf| log.parent().expect("a folder").to_owned();
        let folders = [folder(redis.log()), folder(postgres.log())];
        let text = format!(
            "{} {} {} {} end",
            redis.port(),
            postgres.port(),
            folders[0].display(),
            folders[1].display()
        );
        std::fs::write(said, text).expect("a file can be written");
        loop {
            std::thread::park();
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let said = folder.path().join("said");
    let me = std::env::current_exe().expect("a test knows its own program");
    let mut inner = std::process::Command::new(me)
        .args(["--exact", "nothing_outlives_a_killed_test_process"])
        .env(INNER, &said)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("a test starts itself");
    let mut text = String::new();
    wait::until_blocking("the servers of the other process", SOON * 3, || {
        text = std::fs::read_to_string(&said).unwrap_or_default();
        text.ends_with("end")
    });
    let words: Vec<&str> = text.split(' ').collect();
    let open = |port: &str| std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_ok();
    assert!(open(words[0]) && open(words[1]));
    inner.kill().expect("it can be killed");
    inner.wait().expect("it can be waited for");
    wait::until_blocking("its servers and folders to be gone", SOON, || {
        let there = |path: &str| std::path::Path::new(path).exists();
        !open(words[0]) && !open(words[1]) && !there(words[2]) && !there(words[3])
    });
}

#[tokio::test]
async fn the_binary_runs_in_a_home_of_its_own() {
    let home = Home::new("# empty\n").env("PRESSWORK_NOTHING", "1");
    assert!(home.config().is_file());
    let daemon = home.start(&["--version"]);
    assert!(
        daemon.wait_exit(SOON).await.success(),
        "{}",
        daemon.stderr()
    );
    let output = home.cli(&["--version"]).await;
    assert!(output.status.success());
    assert_eq!(daemon.stdout().as_bytes(), output.stdout);
}
