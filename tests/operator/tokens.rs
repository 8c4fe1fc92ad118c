//! Tokens from their making to their end: the command, two real daemons over one ledger file's doors, and
//! everything that was written on the way, in which none of them may be found.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::kit::daemon::Home;
use crate::kit::port::Port;
use crate::kit::wait;

const SOON: Duration = Duration::from_secs(60);
const TOKEN: &str = "the-configured-token-0123456789";

struct House {
    home: Home,
    api: SocketAddr,
    resp: SocketAddr,
    _ports: [Port; 2],
}

impl House {
    fn new() -> Self {
        let ports = [Port::take(), Port::take()];
        let [api, resp] = ports
            .each_ref()
            .map(|it| SocketAddr::from(([127, 0, 0, 1], it.number())));
        let config = format!(
            "[daemon]\nlog = \"debug\"\n[ledger]\nurl = \"sqlite:ledger.sqlite\"\n[api]\nlisten = \"{api}\"\ntoken = {{ env = \"API_TOKEN\" }}\n[resp]\nlisten = \"{resp}\"\n"
        );
        let home = Home::new(&config)
            .env("API_TOKEN", TOKEN)
            .env("USER", "ada");
        Self {
            home,
            api,
            resp,
            _ports: ports,
        }
    }

    async fn cli(&self, args: &[&str], exit: i32) -> (String, String) {
        let output = self.home.cli(args).await;
        let text = |it: &[u8]| String::from_utf8(it.to_vec()).expect("UTF-8");
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {out}{err}");
        (out, err)
    }

    async fn json(&self, args: &[&str], exit: i32) -> Value {
        let args = [args, &["--json"]].concat();
        let (out, err) = self.cli(&args, exit).await;
        let text = if exit == 0 { out } else { err };
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// What is answered to these bytes until the other side closes.
    fn say(addr: SocketAddr, bytes: &str) -> String {
        let mut stream = TcpStream::connect(addr).expect("connects");
        stream.set_read_timeout(Some(SOON)).expect("a deadline");
        stream.write_all(bytes.as_bytes()).expect("it is sent");
        let mut told = Vec::new();
        // a server that has said its word may cut the connection
        let _ = stream.read_to_end(&mut told);
        String::from_utf8_lossy(&told).into_owned()
    }

    fn http(&self, token: &str, method: &str, path: &str, body: &str) -> String {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Self::say(self.api, &head)
    }

    fn push(&self, token: &str, envelope: &str) -> String {
        let words = |all: &[&str]| {
            let mut out = format!("*{}\r\n", all.len());
            for it in all {
                out.push_str(&format!("${}\r\n{it}\r\n", it.len()));
            }
            out
        };
        let push = ["RPUSH", "presswork:inbox", envelope];
        let all = [words(&["AUTH", token]), words(&push), words(&["QUIT"])];
        Self::say(self.resp, &all.concat())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_both_doors_until_it_is_revoked_and_is_written_nowhere() {
    let house = House::new();
    house.cli(&["migrate"], 0).await;
    let create = [
        "tokens",
        "create",
        "--name",
        "shop",
        "--scope",
        "enqueue:test.*",
    ];
    let more = ["--tenant", "acme", "--expires", "90d"];
    let (token, note) = house.cli(&[&create[..], &more].concat(), 0).await;
    let token = token.trim_end();
    assert!(
        token.starts_with("pw_") && token.len() == 63,
        "{}",
        token.len()
    );
    assert!(
        note.contains("never shown again") && !note.contains(token),
        "{note}"
    );
    let id = &token[3..19];
    let made = house.json(&[&create[..5], &["read"]].concat(), 0).await;
    let reader = made["token"].as_str().expect("its text").to_owned();
    assert_eq!(made["scopes"], serde_json::json!(["read"]));

    let daemon = house.home.start(&["run"]);
    daemon.wait_ready(house.api, SOON).await;
    let envelope = |key: &str| format!(r#"{{"kind":"test.job","key":"{key}","payload":{{}}}}"#);
    let told = house.http(token, "POST", "/v1/jobs", &envelope("a"));
    assert!(told.starts_with("HTTP/1.1 201"), "{told}");
    let told = house.push(token, &envelope("b"));
    assert!(told.contains("+OK\r\n:1\r\n"), "{told}");
    let told = house.http(token, "GET", "/v1/unresolved", "");
    assert!(
        told.starts_with("HTTP/1.1 403") && told.contains("`read`"),
        "{told}"
    );
    let told = house.http(&reader, "GET", "/v1/unresolved", "");
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    let told = house.push(&reader, &envelope("c"));
    assert!(told.contains("-NOPERM "), "{told}");
    let told = house.http(TOKEN, "GET", "/metrics", "");
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    for it in house.json(&["jobs", "list"], 0).await.as_array().unwrap() {
        assert_eq!(it["tenant"], "acme");
    }
    wait::until("its use is noted", SOON, async || {
        !house.json(&["tokens", "show", id], 0).await["last_used_at"].is_null()
    })
    .await;

    let (said, _) = house
        .cli(&["tokens", "revoke", id, "--reason", "left in a log"], 0)
        .await;
    assert!(said.contains("is revoked"), "{said}");
    wait::until("the revocation counts at both doors", SOON, async || {
        let http = house.http(token, "POST", "/v1/jobs", &envelope("a"));
        http.starts_with("HTTP/1.1 401")
            && house.push(token, &envelope("b")).contains("-WRONGPASS ")
    })
    .await;
    let (again, _) = house.cli(&["tokens", "revoke", token], 0).await;
    assert!(again.contains("was revoked before"), "{again}");
    let shown = house.json(&["tokens", "show", id], 0).await;
    assert_eq!(
        (&shown["standing"], &shown["name"]),
        (&"revoked".into(), &"shop".into())
    );
    assert_eq!(shown["created_by"], "ada");
    let (list, _) = house.cli(&["tokens", "list"], 0).await;
    assert!(
        list.contains("revoked") && list.contains("enqueue:test.*"),
        "{list}"
    );
    daemon.signal("TERM");
    assert!(daemon.wait_exit(SOON).await.success());

    // neither in the log, nor in the ledger, nor in anything else that was written
    let secrets = [token, &reader].map(|it| it[20..].to_owned());
    let mut todo = vec![house.home.path().to_owned()];
    let mut seen = 0;
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            let inside = std::fs::read_dir(&path).expect("a folder");
            todo.extend(inside.map(|it| it.expect("an entry").path()));
            continue;
        }
        let bytes = std::fs::read(&path).expect("a file");
        seen += 1;
        for secret in &secrets {
            let found = bytes
                .windows(secret.len())
                .any(|it| it == secret.as_bytes());
            assert!(!found, "{}", path.display());
        }
    }
    assert!(3 < seen, "{seen} files");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_of_tokens_is_told_without_them() {
    let house = House::new();
    house.cli(&["migrate"], 0).await;
    let secret = "A".repeat(43);
    let wrong = format!("pw_xyz_{secret}");
    for (args, exit, says) in [
        (&["tokens", "revoke", &wrong][..], 2, "no token's id"),
        (
            &["tokens", "show", "0123456789abcdef"],
            3,
            "there is no token",
        ),
        (&["tokens", "create", "--name", "x"], 2, "--scope"),
        (
            &["tokens", "create", "--name", "x", "--scope", "raed"],
            2,
            "did you mean `read`",
        ),
        (
            &["tokens", "create", "--name", "", "--scope", "read"],
            4,
            "1 to 100",
        ),
        (
            &[
                "tokens", "create", "--name", "x", "--scope", "read", "--tenant", "a b",
            ],
            4,
            "no tenant's name",
        ),
        (
            &[
                "tokens",
                "create",
                "--name",
                "x",
                "--scope",
                "read",
                "--expires",
                "soon",
            ],
            2,
            "--expires",
        ),
    ] {
        let told = house.json(args, exit).await.to_string();
        assert!(
            told.contains(says) && !told.contains(&secret),
            "{args:?}: {told}"
        );
    }
}
