//! A small world for the real binary: stores, a sandbox that outlives every daemon, hosts with a
//! daemon each, and the doors by which jobs come in.

#![allow(dead_code)]

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use presswork::clock::Clock;
use presswork::config::Config;
use presswork::intake::{Rules, accept, admit};
use presswork::job::JobId;
use presswork::ledger::postgres::{PgOptions, Postgres as PostgresLedger, Role};
use presswork::ledger::sqlite::Sqlite;
use presswork::ledger::{Ledger, LedgerError};
use presswork::sandbox::{Options, Sandbox};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::checker::{Ends, Wanted, all_ended};
use crate::kit::daemon::{Daemon, Home};
use crate::kit::port::Port;
use crate::kit::wait;

/// How long a daemon may take to be ready: a debug build on a busy machine.
pub const READY: Duration = Duration::from_secs(60);
/// How long jobs may take to end once nothing is in their way.
pub const ENDED: Duration = Duration::from_secs(90);

/// Platforms, the account of each, and what it needs besides.
const ACCOUNTS: [(&str, &str, &str); 6] = [
    ("studio", "openai", ""),
    ("alice", "mastodon", ""),
    ("bella", "bluesky", "identifier = \"bella.test\"\n"),
    ("xenia", "x", ""),
    ("iris", "instagram", "identifier = \"me\"\n"),
    ("bookshelf", "s3", "bucket = \"storm\"\npath_style = true\n"),
];

/// What all daemons of a case share.
#[derive(Clone, Debug)]
pub struct Stores {
    pub ledger: String,
    pub queue: String,
    pub lease_s: u32,
    /// More of `jobs.toml`.
    pub more: String,
}

impl Stores {
    pub fn new(ledger: &str, queue: &str) -> Self {
        Self {
            ledger: ledger.to_owned(),
            queue: queue.to_owned(),
            lease_s: 2,
            more: String::new(),
        }
    }

    /// A door to the ledger for the test itself.
    pub async fn ledger(&self) -> Arc<dyn Ledger> {
        match self.ledger.strip_prefix("sqlite:") {
            Some(path) => {
                let opened = Sqlite::open(std::path::Path::new(path), Clock::System).await;
                Arc::new(opened.expect("the test opens the ledger, too"))
            }
            None => {
                let url = self.ledger.clone().into();
                let opened = PostgresLedger::open(&url, PgOptions::new(Role::Cli));
                Arc::new(opened.expect("the test opens the ledger, too"))
            }
        }
    }
}

/// A sandbox in the test's own process: no kill of a daemon reaches it.
pub struct Outside {
    pub url: String,
    _sandbox: Option<Sandbox>,
    _dir: Option<TempDir>,
}

impl Outside {
    pub async fn new() -> Self {
        Self::on(Ipv4Addr::LOCALHOST).await
    }

    /// One that listens on an address of this host's.
    pub async fn on(address: Ipv4Addr) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let options = Options {
            listen: SocketAddr::from((address, 0)),
            dir: dir.path().to_owned(),
            seed: None,
            fault_rate: 0.0,
            requests: false,
        };
        let sandbox = Sandbox::start(options).await.expect("the sandbox starts");
        Self {
            url: sandbox.url(),
            _sandbox: Some(sandbox),
            _dir: Some(dir),
        }
    }

    /// One that runs elsewhere.
    pub fn at(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            _sandbox: None,
            _dir: None,
        }
    }

    /// What really happened.
    pub async fn acts(&self) -> Vec<Value> {
        let url = format!("{}/_sandbox/acts", self.url);
        let answer = client().get(url).send().await.expect("the sandbox answers");
        let text = answer.text().await.expect("the sandbox answers");
        serde_json::from_str(&text).expect("the sandbox answers JSON")
    }
}

/// An HTTP client of the test's own.
pub fn client() -> reqwest::Client {
    // another test of this process may have installed it
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(Duration::from_secs(20))
        .build()
        .expect("a client can be made")
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

/// A host with a state directory and a port of its own, on which one daemon runs at a time.
pub struct Host {
    pub home: Home,
    pub api: SocketAddr,
    client: reqwest::Client,
    config: String,
    _port: Port,
}

impl Host {
    pub fn new(stores: &Stores, sandbox: &str) -> Self {
        let port = Port::take();
        let api = SocketAddr::from(([127, 0, 0, 1], port.number()));
        let home = Home::new("");
        let config = config(stores, sandbox, api, &home);
        home.configure(&config);
        Self {
            home,
            api,
            client: client(),
            config,
            _port: port,
        }
    }

    pub fn run(&self) -> Daemon {
        self.home.start(&["run"])
    }

    /// Starts a daemon that does `action` at the first hit of a crash point.
    pub fn run_to(&self, point: &str, action: &str) -> Daemon {
        let armed = format!("{point}:1:{action}");
        self.home
            .start_with(&["run"], &[("PRESSWORK_CRASH", &armed)])
    }

    /// Writes the configuration anew, with more at its end.
    pub fn configure(&self, more: &str) {
        self.home.configure(&format!("{}{more}", self.config));
    }

    pub async fn get(&self, path: &str) -> reqwest::Result<Answer> {
        let url = format!("http://{}{path}", self.api);
        read(self.client.get(url).send().await?).await
    }

    pub async fn post(&self, body: String) -> reqwest::Result<Answer> {
        let url = format!("http://{}/v1/jobs", self.api);
        let ask = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json");
        read(ask.body(body).send().await?).await
    }

    /// Sends an envelope until it is acknowledged, as a good producer does; what was answered.
    pub async fn submit(&self, envelope: &Value) -> StatusCode {
        let told = Cell::new(None);
        let what = format!("{} takes {envelope}", self.api);
        wait::until(&what, READY, async || {
            told.set(
                self.post(envelope.to_string())
                    .await
                    .ok()
                    .map(|it| it.status),
            );
            matches!(told.get(), Some(StatusCode::CREATED | StatusCode::OK))
        })
        .await;
        told.get().expect("it has just been told")
    }

    /// Waits until jobs are dispatched by way of the queue.
    pub async fn queue_in_use(&self, daemon: &Daemon) {
        daemon.wait_ready(self.api, READY).await;
        wait::until("the queue is in use", READY, async || {
            let told = self.get("/readyz").await;
            told.is_ok_and(|it| it.text.contains("\"usable\":true"))
        })
        .await;
    }
}

async fn read(answer: reqwest::Response) -> reqwest::Result<Answer> {
    Ok(Answer {
        status: answer.status(),
        headers: answer.headers().clone(),
        text: answer.text().await?,
    })
}

fn config(stores: &Stores, sandbox: &str, api: SocketAddr, home: &Home) -> String {
    let folder: PathBuf = home.path().to_owned();
    let mut text = format!(
        "[daemon]\nstate_dir = \"{}\"\nlease_s = {}\ndrain_s = 5\nlog = \"info\"\n\
         [ledger]\nurl = {}\n[queue]\nurl = {}\n[api]\nlisten = \"{api}\"\n\
         [retry]\nattempts = 5\nbase_ms = 100\ncap_ms = 400\n\
         [lanes.publish]\nconcurrency = 16\n[lanes.generate]\nconcurrency = 16\n",
        folder.join("state").display(),
        stores.lease_s,
        address(&folder.join("ledger.url"), &stores.ledger),
        address(&folder.join("queue.url"), &stores.queue),
    );
    for (name, platform, more) in ACCOUNTS {
        let mut more = more.to_owned();
        let secret = folder.join(format!("{name}.secret"));
        std::fs::write(&secret, format!("sandbox-{name}")).expect("a secret can be written");
        if platform == "s3" {
            // an access key is its account's name here
            let id = folder.join(format!("{name}.id"));
            std::fs::write(&id, name).expect("a secret can be written");
            more.push_str(&format!(
                "access_key_id = {{ file = \"{}\" }}\n",
                id.display()
            ));
        }
        text.push_str(&format!(
            "[accounts.{name}]\nplatform = \"{platform}\"\nbase_url = \"{sandbox}/{platform}\"\n\
             {more}secret = {{ file = \"{}\" }}\n",
            secret.display()
        ));
    }
    if !stores.more.contains("[breaker]") {
        // the faults of these tests come so closely that a breaker would do nothing but wait
        text.push_str("[breaker]\nfailures = 0\n");
    }
    text.push_str(&stores.more);
    text
}

/// A store's address as `jobs.toml` says it: in a file of its own where it holds a password.
fn address(file: &std::path::Path, url: &str) -> String {
    let user = url.split_once("://").and_then(|it| it.1.rsplit_once('@'));
    if !user.is_some_and(|it| it.0.contains(':')) {
        return format!("{url:?}");
    }
    std::fs::write(file, url).expect("a secret can be written");
    format!("{{ file = {:?} }}", file.display().to_string())
}

/// What a job's text asks the sandbox to do; nothing, or a fault's marker.
pub fn text(key: &str, fault: &str) -> String {
    match fault {
        "" => format!("{key} says hello"),
        fault => format!("{key} says [[fault:{fault}]]"),
    }
}

/// The envelope of job number `n`, of a kind, with a payload or a fault for its text.
pub fn envelope(n: usize, kind: &'static str, payload: Value, fault: &str) -> (Wanted, Value) {
    let key = format!("job-{n:06}");
    let (account, payload) = match kind {
        "post.mastodon" => (Some("alice"), json!({"text": text(&key, fault)})),
        "post.bluesky" => (Some("bella"), json!({"text": text(&key, fault)})),
        "post.x" => {
            let mut post = json!({"text": text(&key, fault)});
            if payload["media"].is_array() {
                post["media"] = payload["media"].clone();
            }
            (Some("xenia"), post)
        }
        "post.instagram" => {
            let fox = json!({"url": "https://example.com/fox.jpg", "alt": "a fox"});
            let post = json!({"caption": text(&key, fault), "images": [fox]});
            (Some("iris"), post)
        }
        "upload.object" => {
            let file = json!({"url": payload["url"], "key": format!("{key}.html")});
            (Some("bookshelf"), file)
        }
        "generate.text" => {
            let asked = json!({"model": "gpt-5-mini", "prompt": text(&key, fault)});
            (Some("studio"), asked)
        }
        _ => (None, payload),
    };
    let mut envelope = json!({"v": 1, "kind": kind, "key": key, "payload": payload});
    if let Some(account) = account {
        envelope["account"] = account.into();
    }
    let wanted = Wanted {
        key,
        kind,
        ends: Ends::Completed,
    };
    (wanted, envelope)
}

/// Waits until `count` jobs are in the ledger and all have ended.
pub async fn ended(ledger: &dyn Ledger, count: usize, deadline: Duration) {
    let what = format!("{count} jobs have ended");
    wait::until(&what, deadline, async || {
        // the second look counts: between the first and the list the last job may have come in
        all_ended(ledger).await
            && count <= crate::checker::by_key(ledger).await.len()
            && all_ended(ledger).await
    })
    .await;
}

/// What intake decides by on a host: for a producer that writes to the ledger itself, as the command
/// line does.
pub fn rules(host: &Host) -> Rules {
    let config = Config::load(Some(&host.home.config()), &|_| None);
    Rules {
        config: Arc::new(config.expect("the configuration is good")),
        kinds: presswork::kinds::all().into(),
    }
}

/// Writes envelopes down by way of intake, all in one batch.
///
/// # Errors
/// When the ledger can't take them now.
pub async fn accept_directly(
    ledger: &dyn Ledger,
    rules: &Rules,
    envelopes: &[Value],
) -> Result<Vec<JobId>, LedgerError> {
    let admitted = envelopes.iter().map(|it| {
        let bytes = it.to_string();
        admit(rules, JobId::mint(), bytes.as_bytes()).expect("the test's envelopes are good")
    });
    let admitted: Vec<_> = admitted.collect();
    let answers = accept(ledger, &admitted).await?;
    let ids = answers
        .iter()
        .map(|it| it.id().expect("an accepted job has an id"));
    Ok(ids.collect())
}
