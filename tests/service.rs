//! The daemon as a service: what it tells the service manager, played here by a socket; the unit.

mod kit;

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kit::daemon::{Daemon, Home};
use kit::port::Port;
use kit::wait;

const SOON: Duration = Duration::from_secs(30);

/// Plays the service manager: hears all that is told.
struct Manager {
    home: Home,
    told: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    fn new(config: &str) -> Self {
        let home = Home::new(config);
        let path = home.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket can be made");
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = told.clone();
        std::thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(length) = socket.recv(&mut message) {
                let message = String::from_utf8_lossy(&message[..length]).into_owned();
                heard.lock().unwrap().push(message);
            }
        });
        let path = path.to_str().expect("a path of ours").to_owned();
        let home = home.env("NOTIFY_SOCKET", &path);
        Self { home, told }
    }

    /// The lines that it was told so far.
    fn lines(&self) -> Vec<String> {
        let told = self.told.lock().unwrap();
        told.iter()
            .flat_map(|it| it.lines().map(str::to_owned))
            .collect()
    }

    fn count(&self, line: &str) -> usize {
        self.lines()
            .iter()
            .filter(|it| it.starts_with(line))
            .count()
    }

    async fn hears(&self, line: &str, times: usize) {
        let what = || format!("{times} x {line} in {:?}", self.lines());
        wait::until_or(what, SOON, async || times <= self.count(line)).await;
    }

    async fn enqueue(&self, payload: &str) {
        let done = self
            .home
            .cli(&["enqueue", "test.job", "--payload", payload])
            .await;
        assert!(done.status.success(), "{done:?}");
    }

    async fn runs(&self, jobs: usize) {
        wait::until("they run", SOON, async || {
            let listed = self
                .home
                .cli(&["jobs", "list", "--state", "running", "--json"])
                .await;
            let text = String::from_utf8_lossy(&listed.stdout).into_owned();
            jobs <= text.matches("\"running\"").count()
        })
        .await;
    }
}

fn embedded(more: &str) -> String {
    format!("[ledger]\nurl = \"sqlite:ledger.sqlite\"\n[api]\nlisten = \"off\"\n{more}")
}

fn log(daemon: &Daemon) -> String {
    daemon.stderr() + &daemon.stdout()
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_is_told_without_redis_and_the_status_says_how_it_stands() {
    let nobody = Port::take();
    let queue = format!("[queue]\nurl = \"redis://127.0.0.1:{}\"\n", nobody.number());
    let manager = Manager::new(&embedded(&queue));
    let daemon = manager.home.start(&["run"]);
    manager.hears("READY=1", 1).await;
    manager
        .hears(
            "STATUS=0 running here, 0 unfinished; ledger (sqlite) answers, queue (redis) away",
            1,
        )
        .await;
    // a start that takes long isn't given up
    assert!(
        1 <= manager.count("EXTEND_TIMEOUT_USEC="),
        "{:?}",
        manager.lines()
    );
    daemon.signal("TERM");
    assert!(daemon.wait_exit(SOON).await.success());
    manager.hears("STOPPING=1", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_ready_whose_ledger_cannot_be_had() {
    let manager = Manager::new("[ledger]\nurl = \"sqlite:/proc/none/ledger.sqlite\"\n");
    let daemon = manager.home.start(&["run"]);
    assert!(!daemon.wait_exit(SOON).await.success());
    assert_eq!(manager.count("READY=1"), 0, "{:?}", manager.lines());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_is_told_from_its_begin_to_its_end_and_answered() {
    let manager = Manager::new(&embedded(""));
    let none = manager.home.cli(&["reload"]).await;
    assert_eq!(none.status.code(), Some(3), "{none:?}");
    let daemon = manager.home.start(&["run"]);
    manager.hears("READY=1", 1).await;
    manager
        .home
        .configure(&embedded("[lanes.extra]\nconcurrency = 2\n"));
    let done = manager.home.cli(&["reload"]).await;
    assert!(done.status.success(), "{done:?}");
    manager.hears("RELOADING=1", 1).await;
    manager.hears("MONOTONIC_USEC=", 1).await;
    manager.hears("READY=1", 2).await;
    // the command looks first
    manager
        .home
        .configure(&embedded("[lanes.extra]\nconcurrency = \"two\"\n"));
    let refused = manager.home.cli(&["reload"]).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert_eq!(manager.count("RELOADING=1"), 1);
    // a signal doesn't, and the daemon is ready all the same
    daemon.signal("HUP");
    manager.hears("RELOADING=1", 2).await;
    manager.hears("READY=1", 3).await;
    let accepted = manager.home.cli(&["lanes", "list", "--json"]).await;
    assert_eq!(accepted.status.code(), Some(2), "the file is still wrong");
    daemon.signal("TERM");
    assert!(daemon.wait_exit(SOON).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_at_a_stop_gets_its_time_from_the_manager() {
    let manager = Manager::new(&embedded("[daemon]\ndrain_s = 2\n"));
    let daemon = manager.home.start(&["run"]);
    manager.hears("READY=1", 1).await;
    manager.enqueue("{\"sleep_ms\": 60000}").await;
    manager.runs(1).await;
    let extended = manager.count("EXTEND_TIMEOUT_USEC=");
    daemon.signal("TERM");
    manager
        .hears("STATUS=1 still running, which get 2 s at most", 1)
        .await;
    manager.hears("EXTEND_TIMEOUT_USEC=", extended + 1).await;
    assert!(daemon.wait_exit(SOON).await.success());
}

/// It is ended by the manager then, before its lease is.
#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_runtime_is_no_longer_said_to_live() {
    let manager = Manager::new(&embedded(""));
    let daemon = manager
        .home
        .start_with(&["run"], &[("WATCHDOG_USEC", "2000000")]);
    manager.hears("WATCHDOG=1", 3).await;
    // more of them than the runtime has threads
    let threads = std::thread::available_parallelism().map_or(2, |it| it.get());
    for _ in 0..threads * 2 {
        manager.enqueue("{\"spin_ms\": 15000}").await;
    }
    wait::until("it is noticed", SOON, async || {
        log(&daemon).contains("the runtime hasn't moved for")
    })
    .await;
    let before = manager.count("WATCHDOG=1");
    wait::until(
        "the daemon is past it",
        Duration::from_secs(90),
        async || before < manager.count("WATCHDOG=1"),
    )
    .await;
}

/// `Key=value` lines of the unit, by key.
fn unit() -> BTreeMap<String, Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/presswork.service");
    let text = std::fs::read_to_string(path).unwrap();
    let mut unit: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines().filter(|it| !it.starts_with('#')) {
        if let Some((key, value)) = line.split_once('=') {
            unit.entry(key.to_owned())
                .or_default()
                .push(value.to_owned());
        }
    }
    unit
}

#[test]
fn the_units_times_fit_the_defaults_of_the_configuration() {
    let unit = unit();
    let seconds = |key: &str| -> u64 { unit[key][0].parse().unwrap() };
    let defaults = presswork::config::Config::default_embedded(Path::new("."));
    let dead_after = seconds("WatchdogSec") + seconds("TimeoutAbortSec");
    assert!(dead_after < defaults.lease.as_secs());
    assert!(defaults.drain.as_secs() < seconds("TimeoutStopSec"));
    assert_eq!(unit["Type"], ["notify"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn short_of_memory_it_runs_less_and_takes_less_and_recovers() {
    let port = Port::take();
    let config = format!(
        "[ledger]\nurl = \"sqlite:ledger.sqlite\"\n[api]\nlisten = \"127.0.0.1:{}\"\n[daemon]\nmemory_mb = 16\n",
        port.number()
    );
    let manager = Manager::new(&config);
    let daemon = manager.home.start(&["run"]);
    manager.hears("READY=1", 1).await;
    // what it takes by itself is more than that, but nothing runs that could end
    manager.enqueue("{\"sleep_ms\": 600000}").await;
    manager.runs(1).await;
    manager
        .hears("STATUS=short of memory: 1 running here", 1)
        .await;
    let url = format!("http://127.0.0.1:{}/v1/jobs", port.number());
    // an error says that another test was faster
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::new();
    let post = async || {
        let body = "{\"kind\": \"test.job\", \"payload\": {}}";
        let answer = client
            .post(&url)
            .header("content-type", "application/json")
            .body(body);
        answer.send().await.expect("it answers")
    };
    let refused = post().await;
    assert_eq!(refused.status().as_u16(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert!(refused.text().await.unwrap().contains("short of memory"));
    // written down by another process, and not run
    manager.enqueue("{}").await;
    manager
        .hears("STATUS=short of memory: 1 running here", 2)
        .await;
    let first = manager
        .home
        .cli(&["jobs", "list", "--state", "running", "--json"])
        .await;
    let first = String::from_utf8_lossy(&first.stdout).into_owned();
    let id = first
        .split('"')
        .find(|it| it.len() == 36)
        .expect("an id")
        .to_owned();
    // two processes write to one file here: who comes second at a bad moment is told to try again
    wait::until("the first one is told to stop", SOON, async || {
        let told = manager.home.cli(&["jobs", "cancel", &id]).await;
        told.status.success()
    })
    .await;
    wait::until(
        "the other runs when the first has ended",
        SOON,
        async || {
            let left = manager.home.cli(&["jobs", "list", "--json"]).await;
            left.stdout.trim_ascii() == b"[]"
        },
    )
    .await;
    wait::until("and jobs are taken in", SOON, async || {
        post().await.status().as_u16() == 201
    })
    .await;
    daemon.signal("TERM");
    assert!(daemon.wait_exit(SOON).await.success());
}
