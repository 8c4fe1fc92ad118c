//! The vectors for authors of client libraries (docs/envelope): every door gives the same answer to the
//! same bytes. `UPDATE_GOLDEN=1` writes the answers anew, as HTTP gives them.

mod kit;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kit::daemon::{Daemon, Home};
use kit::port::Port;
use kit::postgres::Postgres;
use kit::redis::Redis;
use kit::wait;
use presswork::job::Envelope;
use serde_json::{Map, Value, json};
use sqlx::{Connection, PgConnection};

const SOON: Duration = Duration::from_secs(60);
const INBOX: &str = "presswork:inbox";

/// An envelope, and what every door says of it.
struct Vector {
    said: Map<String, Value>,
    bytes: Vec<u8>,
}

impl Vector {
    fn read(line: &str) -> Self {
        let said: Map<String, Value> = serde_json::from_str(line).expect("a vector is JSON");
        let bytes = match (&said.get("envelope"), &said.get("envelope_base64")) {
            (Some(Value::String(text)), None) => text.clone().into_bytes(),
            (None, Some(Value::String(text))) => STANDARD.decode(text).expect("base64"),
            _ => panic!("a vector has one envelope: {line}"),
        };
        Self { said, bytes }
    }

    fn name(&self) -> &str {
        self.said["name"].as_str().expect("it has a name")
    }

    fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.bytes).ok()
    }

    /// `new`, `same`, `conflict` or `refused`.
    fn result(&self) -> &str {
        let result = self.said["answer"]["result"].as_str();
        result.expect("its answer says so")
    }

    fn reason(&self) -> &str {
        match self.result() {
            "refused" => self.said["answer"]["reason"].as_str().expect("a reason"),
            other => other,
        }
    }

    /// What is told where it is refused, a line for each violation.
    fn told(&self) -> Vec<String> {
        let violations = self.said["answer"]["violations"].as_array();
        let told = |it: &Value| match (it["pointer"].as_str(), it["message"].as_str()) {
            (Some(""), Some(message)) => message.to_owned(),
            (Some(pointer), Some(message)) => format!("{pointer}: {message}"),
            _ => panic!("a violation has a pointer and a message: {it}"),
        };
        violations.into_iter().flatten().map(told).collect()
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/envelope")
}

fn vectors() -> Vec<Vector> {
    let text = std::fs::read_to_string(folder().join("vectors.jsonl")).expect("they are there");
    text.lines().map(Vector::read).collect()
}

/// A daemon with an empty ledger, and all of its doors.
struct House {
    redis: Redis,
    url: String,
    api: SocketAddr,
    resp: SocketAddr,
    home: Home,
    _ports: [Port; 2],
    _daemon: Daemon,
}

impl House {
    async fn new() -> Self {
        let (redis, ports) = (Redis::start(), [Port::take(), Port::take()]);
        let url = Postgres::shared().create_database().await;
        let [api, resp] = ports
            .each_ref()
            .map(|it| SocketAddr::from(([127, 0, 0, 1], it.number())));
        let accounts = std::fs::read_to_string(folder().join("jobs.toml")).expect("it is there");
        let home = Home::new(&format!(
            "[ledger]\nurl = \"{url}\"\n[queue]\nurl = \"{}\"\n[api]\nlisten = \"{api}\"\n\
             [resp]\nlisten = \"{resp}\"\n{accounts}",
            redis.url()
        ));
        let home = home.env("ALICE", "the-token-of-alice");
        let daemon = home.start(&["run"]);
        daemon.wait_ready(api, SOON).await;
        Self {
            redis,
            url,
            api,
            resp,
            home,
            _ports: ports,
            _daemon: daemon,
        }
    }

    /// How many jobs there are, and what is in quarantine, the newest last.
    async fn held(&self) -> (i64, Vec<(String, String)>) {
        let mut connection = PgConnection::connect(&self.url).await.expect("connects");
        let jobs = "SELECT (SELECT count(*) FROM presswork.jobs)
                         + (SELECT count(*) FROM presswork.finished_jobs)";
        let jobs = sqlx::query_scalar(jobs).fetch_one(&mut connection).await;
        let kept = "SELECT reason, message FROM presswork.quarantine ORDER BY at, id";
        let kept = sqlx::query_as(kept).fetch_all(&mut connection).await;
        (jobs.expect("a count"), kept.expect("a list"))
    }

    async fn sql(&self, envelope: &str) {
        let mut connection = PgConnection::connect(&self.url).await.expect("connects");
        sqlx::query("SELECT presswork.enqueue_envelope($1)")
            .bind(envelope)
            .execute(&mut connection)
            .await
            .expect("it is taken");
        wait::until("the row is taken in", SOON, async || {
            let connection = PgConnection::connect(&self.url).await;
            let mut connection = connection.expect("connects");
            let left = "SELECT count(*) FROM presswork.intake";
            let left = sqlx::query_scalar(left).fetch_one(&mut connection).await;
            left.is_ok_and(|it: i64| it == 0)
        })
        .await;
    }

    async fn push(&self, bytes: &[u8]) {
        let client = redis::Client::open(self.redis.url()).expect("an address");
        let mut connection = client.get_connection().expect("connects");
        redis::cmd("RPUSH")
            .arg(INBOX)
            .arg(bytes)
            .exec(&mut connection)
            .expect("it is taken");
        let holders = format!("{{{INBOX}}}:holders");
        wait::until("the entry is taken in", SOON, async || {
            self.redis.cli(&["EXISTS", INBOX, &holders]).trim() == "0"
        })
        .await;
    }
}

/// What a door that answers nobody has done with a vector.
async fn done_with(house: &House, vector: &Vector, before: (i64, Vec<(String, String)>)) {
    let (jobs, kept) = house.held().await;
    let (name, fresh) = (vector.name(), &kept[before.1.len()..]);
    assert_eq!(
        jobs - before.0,
        i64::from(vector.result() == "new"),
        "{name}"
    );
    match (vector.result(), fresh) {
        ("new" | "same", []) | ("conflict", [_]) => {}
        ("refused", [(_, message)]) => assert_eq!(*message, vector.told().join("\n"), "{name}"),
        (result, fresh) => panic!("{name}: {result}, and in quarantine {fresh:?}"),
    }
    if let [(reason, _)] = fresh {
        assert_eq!(reason, vector.reason(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_says_what_the_vectors_say() {
    let house = House::new().await;
    let url = format!("http://{}/v1/jobs", house.api);
    // whoever else runs here may have done it
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::new();
    let mut written = String::new();
    for mut vector in vectors() {
        let request = client.post(&url).header("Content-Type", "application/json");
        let answer = request
            .body(vector.bytes.clone())
            .send()
            .await
            .expect("an answer");
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.expect("JSON");
        let mut told = json!({"result": body["result"]});
        // what is no object at all isn't an envelope to HTTP, but a request that can't be read
        if let (Value::Null, Err(violations)) = (&body["result"], Envelope::parse(&vector.bytes)) {
            assert!([400, 422].contains(&status), "{}: {body}", vector.name());
            told = json!({"result": "refused", "reason": "malformed", "violations": violations});
        }
        for it in ["reason", "violations", "differs"] {
            if !body[it].is_null() {
                told[it] = body[it].clone();
            }
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            vector.said.insert("answer".to_owned(), told.clone());
        }
        let name = vector.name();
        assert_eq!(vector.said["answer"], told, "{name}");
        let wanted = match (vector.result(), vector.reason()) {
            ("new", _) => &[201][..],
            ("same", _) => &[200],
            ("conflict", _) => &[409],
            _ => &[422, 400],
        };
        assert!(wanted.contains(&status), "{name}: {status} {body}");
        written.push_str(&Value::Object(vector.said).to_string());
        written.push('\n');
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(folder().join("vectors.jsonl"), written).expect("it can be written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_redis_port_says_what_the_vectors_say() {
    let house = House::new().await;
    let client = redis::Client::open(format!("redis://{}/", house.resp)).expect("an address");
    let mut connection = client.get_connection().expect("connects");
    for vector in vectors() {
        let name = vector.name();
        let mut command = redis::cmd("RPUSH");
        let answer: redis::RedisResult<u64> = command
            .arg(INBOX)
            .arg(&*vector.bytes)
            .query(&mut connection);
        match (vector.result(), answer) {
            ("new" | "same", Ok(1)) => {}
            (_, Err(e)) => {
                let word = vector.reason().replace('_', "").to_uppercase();
                let told = format!(
                    "{} {}",
                    e.code().unwrap_or_default(),
                    e.detail().unwrap_or_default()
                );
                assert!(told.starts_with(&format!("{word} ")), "{name}: {told}");
                let message = vector.told().join("; ");
                assert!(told.ends_with(&message), "{name}: {told}, not {message}");
            }
            (result, answer) => panic!("{name}: {result}, and {answer:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inbox_does_what_the_vectors_say() {
    let house = House::new().await;
    for vector in vectors() {
        let before = house.held().await;
        house.push(&vector.bytes).await;
        done_with(&house, &vector, before).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_does_what_the_vectors_say() {
    let house = House::new().await;
    for vector in vectors() {
        let Some(text) = vector.text() else { continue };
        let before = house.held().await;
        house.sql(text).await;
        done_with(&house, &vector, before).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_says_what_the_vectors_say() {
    let house = House::new().await;
    for vector in vectors() {
        let name = vector.name();
        // an empty line is none, and what isn't a text can't be typed here
        let Some(text) = vector.text().filter(|it| !it.is_empty()) else {
            continue;
        };
        let args = ["--json", "enqueue", "--jsonl", "-"];
        let output = house.home.cli_with_input(&args, text).await;
        let told: Value = serde_json::from_slice(&output.stdout).expect("a summary");
        let counted = match vector.result() {
            it @ ("new" | "same") => it,
            _ => "rejected",
        };
        assert_eq!(
            (&told["rows"], &told[counted]),
            (&1.into(), &1.into()),
            "{name}: {told}"
        );
        let reason = told["reasons"][0]["reason"].as_str().unwrap_or_default();
        match vector.result() {
            "refused" => assert_eq!(reason, vector.told().join("; "), "{name}"),
            "conflict" => assert!(reason.contains("its key is taken"), "{name}: {reason}"),
            _ => {}
        }
    }
}
