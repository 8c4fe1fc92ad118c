//! The clients that people have, against the real daemon: redis-cli, Python's `redis`, Node's `ioredis`.
//! What a client expects is asserted in its own language (`client.py`, `client.mjs`).

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use presswork::clock::Clock;
use presswork::ledger::Ledger;
use presswork::ledger::sqlite::Sqlite;

use crate::harbour::Client;
use crate::kit::daemon::{Daemon, Home};
use crate::kit::languages::{done, node_with, python_with, text_of};
use crate::kit::port::Port;
use crate::kit::process::{find_program, homebrew};
use crate::site::TOKEN;

/// How long a client's whole script, and a daemon's start, may take.
pub const READY: Duration = Duration::from_secs(90);
pub const INBOX: &str = "presswork:inbox";

/// A folder with a configuration by which a daemon listens at both ports.
pub struct Pier {
    pub home: Home,
    pub api: SocketAddr,
    pub resp: SocketAddr,
    _ports: [Port; 2],
}

impl Pier {
    pub fn new() -> Self {
        let ports = [Port::take(), Port::take()];
        let [api, resp] = ports
            .each_ref()
            .map(|it| SocketAddr::from(([127, 0, 0, 1], it.number())));
        let config = format!(
            "[daemon]\nlog = \"trace\"\n[ledger]\nurl = \"sqlite:ledger.sqlite\"\n[api]\nlisten = \"{api}\"\n\
             token = {{ env = \"API_TOKEN\" }}\n[resp]\nlisten = \"{resp}\"\n"
        );
        Self {
            home: Home::new(&config).env("API_TOKEN", TOKEN),
            api,
            resp,
            _ports: ports,
        }
    }

    pub async fn start(&self, env: &[(&str, &str)]) -> Daemon {
        let daemon = self.home.start_with(&["run"], env);
        daemon.wait_ready(self.api, READY).await;
        daemon
    }

    /// A client that has shown the token.
    pub async fn client(&self) -> Client {
        let mut client = Client::connect(self.resp).await;
        assert_eq!(client.say(&["AUTH", TOKEN]).await, "OK");
        client
    }

    pub async fn ledger(&self) -> Sqlite {
        let file = self.home.path().join("ledger.sqlite");
        let ledger = Sqlite::open(&file, Clock::System).await;
        ledger.expect("the daemon's ledger opens")
    }

    /// Whether there is a job of this key.
    pub async fn has(&self, key: &str) -> bool {
        let ledger = self.ledger().await;
        let found = ledger.job_of_key("default", "test.job", key).await;
        found.expect("the ledger answers").is_some()
    }
}

/// An envelope that is fine.
pub fn job(key: &str, sleep_ms: u32) -> String {
    format!(r#"{{"kind": "test.job", "key": "{key}", "payload": {{"sleep_ms": {sleep_ms}}}}}"#)
}

/// Past the harness, which keeps what a test that passes prints.
fn skip(what: &str, why: &str) {
    let told = format!("skipped: {what} at the Redis port: {why}\n");
    let told = std::io::stderr().write_all(told.as_bytes());
    told.expect("standard error is open");
}

async fn script(program: PathBuf, file: PathBuf, pier: &Pier) -> String {
    let mut command = Command::new(program);
    let port = pier.resp.port().to_string();
    command
        .arg(&file)
        .args([&port, TOKEN])
        .current_dir(pier.home.path());
    let output = done(command, READY).await;
    let (said, wrong) = (text_of(&output.stdout), text_of(&output.stderr));
    assert!(
        output.status.success(),
        "{}\n{said}\n{wrong}",
        file.display()
    );
    said
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/resp")
        .join(name)
}

/// Nobody is told the token, whatever was said.
fn keeps_the_token(daemon: &Daemon) {
    let log = daemon.stderr();
    assert!(log.contains("the Redis port listens"), "{log}");
    assert!(!log.contains(TOKEN), "the log tells the token");
}

fn redis_cli(pier: &Pier, args: &[&str], input: Option<&[u8]>) -> (String, bool) {
    let program = find_program("redis-cli", &homebrew("redis")).expect("redis-cli is there");
    let mut command = Command::new(program);
    command
        .args(["-e", "-p", &pier.resp.port().to_string()])
        .args(args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.env_remove("REDISCLI_AUTH");
    let mut child = command.spawn().expect("redis-cli starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin
        .write_all(input.unwrap_or_default())
        .expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let told = format!("{}{}", text_of(&output.stdout), text_of(&output.stderr));
    (told, output.status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_cli_works() {
    let pier = Pier::new();
    let daemon = pier.start(&[]).await;
    let auth = ["--no-auth-warning", "-a", TOKEN];
    let run = |args: &[&str]| redis_cli(&pier, &[&auth[..], args].concat(), None);
    assert_eq!(
        run(&["RPUSH", INBOX, &job("a", 0)]),
        ("1\n".to_owned(), true)
    );
    assert!(pier.has("a").await);
    let (ids, good) = run(&["-3", "PRESSWORK.ENQUEUE", &job("a", 0), &job("b", 0)]);
    assert!(good && ids.lines().count() == 2, "{ids}");
    let (told, good) = run(&[
        "RPUSH",
        INBOX,
        &job("c", 0),
        r#"{"kind": "test.jb", "payload": {}}"#,
    ]);
    assert!(
        !good && told.contains("UNKNOWNKIND [1] of 2") && told.contains("test.job"),
        "{told}"
    );
    assert!(!pier.has("c").await);
    let (told, good) = redis_cli(&pier, &["RPUSH", INBOX, &job("c", 0)], None);
    assert!(!good && told.contains("NOAUTH"), "{told}");
    let wrong = [
        "--no-auth-warning",
        "-a",
        "nonsense",
        "RPUSH",
        INBOX,
        &job("c", 0),
    ];
    let (told, good) = redis_cli(&pier, &wrong, None);
    assert!(!good && told.contains("WRONGPASS"), "{told}");
    // what a person types, a line each
    let typed = format!("MULTI\nRPUSH {INBOX} '{}'\nEXEC\n", job("d", 0));
    let (told, _) = redis_cli(&pier, &auth, Some(typed.as_bytes()));
    assert_eq!(told, "OK\nQUEUED\n1\n");
    let mut many = Vec::new();
    for n in 0..1_000 {
        many.extend(crate::harbour::wire(&[
            "RPUSH",
            INBOX,
            &job(&format!("p{n}"), 0),
        ]));
    }
    let (told, good) = redis_cli(&pier, &[&auth[..], &["--pipe"]].concat(), Some(&many));
    assert!(good && told.contains("errors: 0, replies: 1000"), "{told}");
    assert!(pier.has("p0").await && pier.has("p999").await);
    keeps_the_token(&daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn python_redis_works() {
    let python = match python_with("redis").await {
        Ok(it) => it,
        Err(why) => return skip("Python's redis", &why),
    };
    let pier = Pier::new();
    let daemon = pier.start(&[]).await;
    let said = script(python, source("client.py"), &pier).await;
    assert!(said.ends_with("all is well\n"), "{said}");
    assert!(pier.has("python-2-0").await && pier.has("python-3-299").await);
    assert!(!pier.has("python-none").await);
    keeps_the_token(&daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn node_ioredis_works() {
    let (node, modules) = match node_with("ioredis").await {
        Ok(it) => it,
        Err(why) => return skip("Node's ioredis", &why),
    };
    let pier = Pier::new();
    let daemon = pier.start(&[]).await;
    // modules are looked for beside the script
    let file = pier.home.path().join("client.mjs");
    std::fs::copy(source("client.mjs"), &file).expect("a script can be copied");
    std::os::unix::fs::symlink(modules, pier.home.path().join("node_modules")).expect("a link");
    let said = script(node, file, &pier).await;
    assert!(said.ends_with("all is well\n"), "{said}");
    assert!(pier.has("node-0").await && pier.has("node-299").await);
    assert!(!pier.has("node-none").await);
    keeps_the_token(&daemon);
}
