//! An API over a real ledger on a free port, and a client that says exactly what it is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use presswork::api::keyring::Keyring;
use presswork::api::{Limits, Serving, State, serve_within};
use presswork::clock::Clock;
use presswork::config::Config;
use presswork::context::Context;
use presswork::context::Tools;
use presswork::engine::assemble;
use presswork::engine::doors::Doors;
use presswork::engine::shared::{Parts, Shared};
use presswork::handler::{AGE_MAX_S, Defaults, Handler, Kind};
use presswork::job::{Job, JobId};
use presswork::ledger::postgres::{PgOptions, Postgres, Role};
use presswork::ledger::sqlite::Sqlite;
use presswork::ledger::{Claim, Guard, Ledger, Run, Settled, Settlement};
use presswork::lifecycle::{Event, advance};
use presswork::outcome::Outcome;
use presswork::queue::memory::MemoryQueue;
use presswork::retry::Policy;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::kit;
use crate::kit::proxy::Proxy;

pub const SOON: Duration = Duration::from_secs(20);
pub const TOKEN: &str = "presswork_1_0123456789abcdef";

/// The ledgers of an engine and of its API in a PostgreSQL behind a proxy; a call is given up in seconds.
pub async fn far_ledgers() -> (Proxy, [Arc<dyn Ledger>; 2]) {
    let url = kit::postgres::Postgres::shared().create_database().await;
    let (proxy, url) = Proxy::before(&url);
    let open = |role: Role| {
        let mut options = PgOptions::new(role);
        options.call_timeout = Duration::from_secs(3);
        options.connect_timeout = Duration::from_secs(2);
        Arc::new(Postgres::open(&url.as_str().into(), options).expect("the kit's URLs can be read"))
    };
    let engine = open(Role::Ledger);
    engine.migrate().await.expect("migrates");
    (proxy, [engine, open(Role::Api)])
}

/// A kind that does nothing: these tests run no job.
pub struct Echo;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Text {
    #[allow(dead_code)]
    text: String,
    #[allow(dead_code)]
    n: Option<serde_json::Number>,
}

impl Handler for Echo {
    type Payload = Text;
    const DEFAULTS: Defaults = Defaults {
        name: "test.echo",
        about: "Does nothing.",
        lane: "default",
        retry: Policy {
            attempts_max: 3,
            base_ms: 1,
            cap_ms: 1,
        },
        timeout_s: 60,
        age_max_s: AGE_MAX_S,
        platforms: &[],
        example: "{\"text\":\"a\"}",
    };
    async fn run(_cx: &Context, _payload: Text) -> Result<Value, Outcome> {
        Ok(Value::Null)
    }
}

/// How a site differs from the usual one.
#[derive(Default)]
pub struct Wishes {
    pub limits: Limits,
    pub token: Option<&'static str>,
    pub backlog_max: Option<u64>,
    /// Ledgers for the engine and for the API; SQLite in a temp folder where there are none.
    pub ledgers: Option<[Arc<dyn Ledger>; 2]>,
    pub metrics_panic: bool,
}

/// An API that listens.
pub struct Site {
    pub addr: SocketAddr,
    pub shared: Arc<Shared>,
    pub doors: Doors,
    pub ledger: Arc<dyn Ledger>,
    pub stop: CancellationToken,
    pub task: tokio::task::JoinHandle<()>,
    _folder: TempDir,
}

pub async fn site() -> Site {
    Site::new(Wishes::default()).await
}

impl Site {
    pub async fn new(wishes: Wishes) -> Self {
        let folder = tempfile::tempdir().expect("a temp folder");
        let ledgers = match wishes.ledgers {
            Some(it) => it,
            None => {
                let path = folder.path().join("ledger.db");
                let engine = Sqlite::open(&path, Clock::System).await.expect("opens");
                engine.migrate().await.expect("migrates");
                let api = Sqlite::open(&path, Clock::System).await.expect("opens");
                [Arc::new(engine) as Arc<dyn Ledger>, Arc::new(api)]
            }
        };
        let [engine, ledger] = ledgers;
        let run = Run {
            id: Uuid::now_v7(),
            host: "test".to_owned(),
            boot: None,
            pid: std::process::id(),
            version: "0".to_owned(),
            began_at: Clock::System.now(),
        };
        engine
            .begin_run(&run, Duration::from_secs(600))
            .await
            .expect("begins");
        let config = config(&folder, wishes.backlog_max.unwrap_or(1_000_000));
        let tools = Tools::new(&config, engine.clone(), &Clock::System).expect("its tools");
        let parts = Parts {
            ledger: engine,
            queue: Arc::new(MemoryQueue::default()),
            inboxes: Vec::new(),
            config: Arc::new(config),
            kinds: Arc::new([Kind::of::<Echo>()]),
            clock: Clock::System,
            run,
            tools,
        };
        let (shared, _hints) = assemble(parts);
        let doors = Doors::new(shared.clone());
        let state = State {
            doors: doors.clone(),
            shared: shared.clone(),
            ledger: ledger.clone(),
            keyring: Arc::new(Keyring::new(ledger.clone())),
            render: match wishes.metrics_panic {
                true => Arc::new(|| panic!("as asked")),
                false => Arc::new(|| "presswork_up 1\n".to_owned()),
            },
        };
        let stop = CancellationToken::new();
        let listen = "127.0.0.1:0".parse().expect("an address");
        let token = wishes.token.map(Into::into);
        let serving = serve_within(wishes.limits, listen, token, state, stop.clone()).await;
        let Serving { addr, task } = serving.expect("listens");
        Self {
            addr,
            shared,
            doors,
            ledger,
            stop,
            task,
            _folder: folder,
        }
    }

    /// A job that a run has taken.
    pub async fn claimed(&self, run: Uuid, id: JobId) -> Job {
        let claim = Claim {
            run,
            generation: None,
            lane: Echo::DEFAULTS.lane.to_owned(),
            kinds: Arc::new([Echo::DEFAULTS.name.to_owned()]),
            concurrency: None,
            shut: Arc::default(),
            fair: Arc::default(),
        };
        let claimed = self.shared.ledger.claim(&claim, &[id]).await;
        let claimed = claimed.expect("the ledger is there");
        claimed.into_iter().next().expect("it is free")
    }

    /// The attempt at a job that was claimed ends so.
    pub async fn ended(&self, job: &Job, outcome: Outcome) {
        let ledger = &*self.shared.ledger;
        let now = ledger.now().await.expect("the ledger is there");
        let ended = Event::Ended(outcome);
        let settlement = Settlement {
            id: job.id,
            guard: Guard::Token(job.token.expect("it is claimed")),
            transition: advance(&job.facts(Policy::default()), ended, now).expect("it may end so"),
            attempt: None,
            result: None,
            fingerprint: None,
            edit: None,
            audit: None,
        };
        let settled = ledger.settle(&[settlement]).await.expect("it is settled");
        assert_eq!(settled, [Settled::Done]);
    }

    /// Connects; what is sent and read is the test's business.
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.expect("connects")
    }

    /// Sends a request head and a body as they are, and reads the answer.
    pub async fn raw(&self, bytes: &[u8]) -> Reply {
        let mut stream = self.connect().await;
        // a server that has said its word may close before it has read everything
        let _ = stream.write_all(bytes).await;
        read(&mut stream).await.expect("an answer")
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.raw(
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                .as_bytes(),
        )
        .await
    }

    /// Posts JSON with further headers, each ended by CR LF.
    pub async fn post_with(&self, path: &str, headers: &str, body: &[u8]) -> Reply {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
            body.len()
        );
        self.raw(&[head.as_bytes(), body].concat()).await
    }

    pub async fn post(&self, body: impl AsRef<[u8]>) -> Reply {
        self.post_with(
            "/v1/jobs",
            "content-type: application/json\r\n",
            body.as_ref(),
        )
        .await
    }
}

fn config(folder: &TempDir, backlog_max: u64) -> Config {
    let config = Config::default_embedded(folder.path());
    Config {
        backlog_max,
        ..config
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub text: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The problem's word, once its form is checked.
    pub fn problem(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{self:?}"
        );
        let body = self.json();
        assert_eq!(body["status"], self.status, "{self:?}");
        let texts = ["title", "code", "message"].map(|it| body[it].is_string());
        assert_eq!(texts, [true; 3], "{self:?}");
        assert!(body["recoverable"].is_boolean(), "{self:?}");
        let wait = body["retry_after"].as_u64().map(|it| it.to_string());
        assert_eq!(
            wait.unwrap_or_default(),
            self.header("retry-after"),
            "{self:?}"
        );
        let kind = body["type"].as_str().expect("a type");
        let code = kind
            .strip_prefix("urn:presswork:problem:")
            .expect("our own");
        assert_eq!(body["code"], code, "{self:?}");
        code.to_owned()
    }

    pub fn pointers(&self) -> Vec<String> {
        let violations = &self.json()["violations"];
        let violations = violations.as_array().unwrap_or_else(|| panic!("{self:?}"));
        violations
            .iter()
            .map(|it| it["pointer"].as_str().expect("a pointer").to_owned())
            .collect()
    }
}

/// Reads one answer; `None` when the server closes without one. Whatever it is, it has the headers
/// that every answer has.
pub async fn read(stream: &mut TcpStream) -> Option<Reply> {
    let reading = async {
        let mut bytes = Vec::new();
        loop {
            if let Some(reply) = parse(&bytes) {
                return Some(reply);
            }
            let mut chunk = [0; 16 * 1024];
            match stream.read(&mut chunk).await {
                Ok(n) if 0 < n => bytes.extend_from_slice(&chunk[..n]),
                _ => return None,
            }
        }
    };
    let reply = tokio::time::timeout(SOON, reading)
        .await
        .expect("an answer in time")?;
    assert_eq!(
        reply.header("x-content-type-options"),
        "nosniff",
        "{reply:?}"
    );
    assert_eq!(reply.header("cache-control"), "no-store", "{reply:?}");
    assert!(!reply.header("content-type").is_empty(), "{reply:?}");
    assert!(
        !reply
            .headers
            .keys()
            .any(|it| it.starts_with("access-control")),
        "{reply:?}"
    );
    Some(reply)
}

fn parse(bytes: &[u8]) -> Option<Reply> {
    let end = bytes.windows(4).position(|it| it == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: BTreeMap<String, String> = lines
        .filter_map(|it| it.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length")?.parse::<usize>().ok()?;
    let body = bytes.get(end + 4..end + 4 + length)?;
    let text = String::from_utf8(body.to_vec()).expect("UTF-8");
    Some(Reply {
        status,
        headers,
        text,
    })
}
