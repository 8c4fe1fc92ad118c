//! moto's S3 with authentication on: one server for all tests of the process, and a look behind it.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::port::Port;
use crate::kit::process::{Process, dying_with_us, tail};
use crate::kit::wait;

const READY: Duration = Duration::from_secs(120);

/// The server.
pub struct Moto {
    pub url: String,
    pub id: String,
    pub secret: String,
    _process: Process,
    _port: Port,
}

/// What a request was.
#[derive(Debug)]
pub struct Asked {
    pub method: String,
    pub status: u64,
    pub query: Value,
}

impl Moto {
    /// The one of this process; `None`, said in a line, where moto isn't installed.
    pub async fn shared() -> Option<&'static Moto> {
        static SHARED: OnceLock<Option<Moto>> = OnceLock::new();
        let start = || {
            let moto = SHARED.get_or_init(Moto::start);
            if moto.is_none() {
                eprintln!(
                    "skipped: moto isn't installed (scripts/test does it, with python3 and pip)"
                );
            }
            moto.as_ref()
        };
        let started = tokio::task::spawn_blocking(start).await;
        started.expect("moto starts")
    }

    fn start() -> Option<Moto> {
        let python = python()?;
        let port = Port::take();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("moto-{}", port.number()));
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/upload/moto_server.py");
        let (said, errors) = (folder.join("stdout.log"), folder.join("stderr.log"));
        let create = |path: &Path| std::fs::File::create(path).expect("a log can be made");
        let mut command = dying_with_us(&python, "KILL");
        command.arg(script).arg(port.number().to_string());
        command.stdin(Stdio::null());
        command.stdout(create(&said)).stderr(create(&errors));
        let process = Process::start(command, &folder);
        let told = || -> Option<Value> {
            let mut text = String::new();
            let file = std::fs::File::open(&said).ok()?;
            file.take(4_096).read_to_string(&mut text).ok()?;
            serde_json::from_str(text.lines().next()?).ok()
        };
        let listens = || std::net::TcpStream::connect(("127.0.0.1", port.number())).is_ok();
        let is_up = wait::within(READY, || {
            let ended = process.ended();
            assert!(ended.is_none(), "moto ended:\n{}", tail(&errors));
            told().is_some() && listens()
        });
        assert!(is_up, "moto doesn't start:\n{}", tail(&errors));
        let key = told().expect("it has just been read");
        let text = |name: &str| key[name].as_str().expect("a text").to_owned();
        Some(Moto {
            url: format!("http://127.0.0.1:{}", port.number()),
            id: text("id"),
            secret: text("secret"),
            _process: process,
            _port: port,
        })
    }

    async fn test(&self, path: &str, asked: Value) -> Value {
        // another test of this process may have installed it
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = format!("{}/_test/{path}", self.url);
        let client = reqwest::Client::builder().no_proxy().build();
        let call = client.expect("a client").post(url).json(&asked);
        let answer = call.send().await.expect("moto answers");
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.expect("moto answers JSON")
    }

    /// The next fitting request of a key goes wrong.
    pub async fn fault(&self, key: &str, fault: &str) {
        self.test("fault", json!({"key": key, "fault": fault}))
            .await;
    }

    /// Another client begins an upload of a key, so long ago; its id.
    pub async fn begin(&self, key: &str, age_s: u64) -> String {
        let told = self
            .test("begin", json!({"key": key, "age_s": age_s}))
            .await;
        told["id"].as_str().expect("an id").to_owned()
    }

    /// Another client puts an object.
    pub async fn put(&self, key: &str, text: &str) {
        self.test("put", json!({"key": key, "text": text})).await;
    }

    /// The object under a key, or null.
    pub async fn object(&self, key: &str) -> Value {
        self.test("state", json!({})).await["objects"][key].clone()
    }

    /// The ids of the unfinished uploads of a key.
    pub async fn uploads(&self, key: &str) -> Vec<String> {
        let state = self.test("state", json!({})).await;
        let all = state["uploads"].as_array().expect("a list").iter();
        let of_key = all.filter(|it| it["key"] == key);
        let id = |it: &Value| it["id"].as_str().expect("an id").to_owned();
        of_key.map(id).collect()
    }

    /// The requests of a key so far.
    pub async fn asked(&self, key: &str) -> Vec<Asked> {
        let state = self.test("state", json!({})).await;
        let all = state["requests"].as_array().expect("a list").iter();
        let asked = |it: &Value| Asked {
            method: it["method"].as_str().expect("a text").to_owned(),
            status: it["status"].as_u64().expect("a number"),
            query: it["query"].clone(),
        };
        all.filter(|it| it["key"] == key).map(asked).collect()
    }
}

/// The numbers of the parts that were sent and taken.
pub fn parts(asked: &[Asked]) -> Vec<String> {
    let taken = asked
        .iter()
        .filter(|it| it.method == "PUT" && it.status == 200);
    let number = |it: &Asked| Some(it.query["partNumber"].as_str()?.to_owned());
    taken.filter_map(number).collect()
}

/// How often an upload was completed.
pub fn completed(asked: &[Asked]) -> usize {
    let ends = |it: &&Asked| it.method == "POST" && it.query["uploadId"].is_string();
    asked
        .iter()
        .filter(ends)
        .filter(|it| it.status == 200)
        .count()
}

/// Where `scripts/test` has put it, or a Python that has it.
fn python() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?;
    let own = target.join("moto/bin/python");
    let named = std::env::var_os("PRESSWORK_TEST_MOTO").map(PathBuf::from);
    named.into_iter().chain([own]).find(|it| it.is_file())
}
