//! The daemon under the unit's filter of system calls, played by strace: what the unit doesn't allow
//! is refused with EPERM, as systemd would, and is named; the daemon goes its whole walk nevertheless.
//!
//! Skipped, with a line that says why, where strace or systemd-analyze isn't there or may not trace.

mod kit;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use presswork::sandbox::{Options, Sandbox, WORKER_SECRET};

use kit::daemon::{Daemon, Home};
use kit::port::Port;
use kit::postgres::Postgres;
use kit::redis::Redis;
use kit::wait;

const SOON: Duration = Duration::from_secs(60);

/// A job of each kind: kind, account, payload.
const SAMPLES: [(&str, Option<&str>, &str); 10] = [
    ("command.run", None, r#"{"command": "true"}"#),
    (
        "generate.text",
        Some("studio"),
        r#"{"model": "gpt-4.1-mini", "prompt": "A word"}"#,
    ),
    (
        "illustrate.image",
        Some("studio"),
        r#"{"model": "gpt-image-1", "prompt": "A fox", "size": "1024x1024"}"#,
    ),
    ("http.call", Some("team"), r#"{"data": "A call"}"#),
    (
        "post.bluesky",
        Some("bella"),
        r#"{"text": "A link: https://example.com/a"}"#,
    ),
    (
        "post.instagram",
        Some("iris"),
        r#"{"caption": "A picture", "images": [{"url": "https://example.com/a.jpg", "alt": "a dot"}]}"#,
    ),
    (
        "post.mastodon",
        Some("alice"),
        r#"{"text": "A picture", "media": [{"file": "dot.png", "type": "image/png", "alt": "a dot"}]}"#,
    ),
    (
        "post.x",
        Some("xenia"),
        r#"{"text": "A picture", "media": [{"file": "dot.png", "type": "image/png", "alt": "a dot"}]}"#,
    ),
    (
        "test.job",
        None,
        r#"{"fail_times": 1, "sleep_ms": 50, "progress": true}"#,
    ),
    (
        "upload.object",
        Some("shelf"),
        r#"{"url": "SANDBOX/", "key": "a/wall.html"}"#,
    ),
];

/// A picture of one dot.
const DOT: &[u8] =
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89\
    \0\0\0\rIDATx\x9cc\xf8\xff\xff?\0\x05\xfe\x02\xfe\xa75\x81\x84\0\0\0\0IEND\xaeB`\x82";

/// The groups of `systemd-analyze syscall-filter`, with the groups within them resolved.
struct Groups(BTreeMap<String, Vec<String>>);

impl Groups {
    fn of_this_systemd() -> Result<Self, String> {
        let said = Command::new("systemd-analyze")
            .args(["--no-pager", "syscall-filter"])
            .output()
            .map_err(|e| format!("systemd-analyze: {e}"))?;
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut current = String::new();
        for line in String::from_utf8_lossy(&said.stdout).lines() {
            let word = line.trim();
            if word.is_empty() || word.starts_with('#') {
                continue;
            }
            if line.starts_with('@') {
                current = word.to_owned();
            } else if !current.is_empty() {
                groups
                    .entry(current.clone())
                    .or_default()
                    .push(word.to_owned());
            }
        }
        if !groups.contains_key("@system-service") {
            return Err("systemd-analyze knows no @system-service".to_owned());
        }
        Ok(Self(groups))
    }

    fn calls(&self, name: &str) -> BTreeSet<String> {
        if !name.starts_with('@') {
            return BTreeSet::from([name.to_owned()]);
        }
        let group = self.0.get(name);
        let group = group.unwrap_or_else(|| panic!("the unit names {name}, which isn't there"));
        group.iter().flat_map(|it| self.calls(it)).collect()
    }

    /// What the unit allows: its first line, and what systemd allows always, without the others.
    fn allowed(&self) -> BTreeSet<String> {
        let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/presswork.service");
        let unit = fs::read_to_string(unit).expect("the unit is there");
        let mut allowed = self.calls("@default");
        for line in unit
            .lines()
            .filter_map(|it| it.strip_prefix("SystemCallFilter="))
        {
            let (names, denied) = line
                .strip_prefix('~')
                .map_or((line, false), |it| (it, true));
            for call in names.split_whitespace().flat_map(|it| self.calls(it)) {
                match denied {
                    true => allowed.remove(&call),
                    false => allowed.insert(call),
                };
            }
        }
        allowed
    }
}

/// The arguments by which strace lets a program make `allowed` calls, refuses the others with EPERM
/// and writes those, with the end of each thread, to `log`.
fn strace(allowed: &BTreeSet<String>, log: &Path) -> Vec<String> {
    // a call that this strace doesn't know is no error
    let allowed: Vec<String> = allowed.iter().map(|it| format!("?{it}")).collect();
    let others = format!("!{}", allowed.join(","));
    let log = log.to_str().expect("a path of ours").to_owned();
    let mut words: Vec<String> = ["strace", "-D", "-f", "-q", "--seccomp-bpf"]
        .map(str::to_owned)
        .into();
    words.extend(["-e".to_owned(), "signal=none".to_owned()]);
    words.extend(["-e".to_owned(), format!("trace={others}")]);
    words.extend(["-e".to_owned(), format!("inject={others}:error=EPERM")]);
    words.extend(["-o".to_owned(), log]);
    words
}

/// The calls of a log that were refused, as `name(arguments) = result`, once it is complete.
async fn refused(log: &Path, pid: u32) -> Vec<String> {
    // a short pid is padded
    let pid = pid.to_string();
    let ends = |line: &str| {
        let said = line.split_once(' ');
        said.is_some_and(|(of, call)| of == pid && call.trim_start().starts_with("+++ "))
    };
    let read = || fs::read_to_string(log).unwrap_or_default();
    wait::until("strace to write the program's end", SOON, async || {
        read().lines().any(ends)
    })
    .await;
    let text = read();
    let calls = text.lines().filter_map(|it| it.split_once(' '));
    let calls = calls.map(|(_, call)| call.trim_start());
    // a call that another thread's line cut in two was named by its first half
    let calls = calls.filter(|it| !it.starts_with("+++") && !it.starts_with("<... "));
    // a thread that ended before strace could look which call it was in: none was refused
    let calls = calls.filter(|it| *it != "???( <unfinished ...>");
    calls.map(ToOwned::to_owned).collect()
}

/// What the unit allows, if strace can hold a program to it here; tells why where it can't.
async fn filter() -> Option<BTreeSet<String>> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let log = folder.path().join("strace");
    let allowed = match Groups::of_this_systemd() {
        Ok(groups) => groups.allowed(),
        Err(why) => {
            eprintln!("skipped: the unit's filter of system calls: {why}");
            return None;
        }
    };
    let words = strace(&allowed, &log);
    let tried = Command::new(&words[0])
        .args(&words[1..])
        .arg("true")
        .output();
    let why = match tried {
        Ok(it) if it.status.success() && it.stderr.is_empty() => None,
        Ok(it) => Some(String::from_utf8_lossy(&it.stderr).into_owned()),
        Err(e) => Some(e.to_string()),
    };
    if let Some(why) = why {
        eprintln!("skipped: the unit's filter of system calls: strace: {why}");
        return None;
    }
    // it refuses, and says what
    let words = strace(&allowed, &folder.path().join("control"));
    let uid = rustix::process::getuid().as_raw().to_string();
    let mut control = Command::new(&words[0])
        .args(&words[1..])
        .args(["chown", &uid])
        .arg(folder.path())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it has just been started");
    let status = control.wait().expect("a child can be waited for");
    assert!(!status.success(), "a change of owner isn't refused");
    let said = refused(&folder.path().join("control"), control.id()).await;
    assert!(
        said.iter().any(|it| it.contains("chown")),
        "what is refused isn't said: {said:?}"
    );
    Some(allowed)
}

/// A daemon that strace holds to the unit's filter.
struct Held {
    home: Home,
    sandbox: Sandbox,
    api: SocketAddr,
    _port: Port,
    log: PathBuf,
    allowed: BTreeSet<String>,
}

impl Held {
    async fn new(allowed: BTreeSet<String>, ledger: &str, queue: &str) -> Self {
        let port = Port::take();
        let home = Home::new("").env("PRESSWORK_BOOT_ID", "a-boot");
        let sandbox = Sandbox::start(Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            dir: home.path().join("sandbox"),
            seed: None,
            fault_rate: 0.0,
            requests: false,
        });
        let sandbox = sandbox.await.expect("the sandbox starts");
        let mut home = home.env("PRESSWORK_LEDGER_URL", ledger);
        home = home.env("PRESSWORK_QUEUE_URL", queue);
        let mut config = format!(
            "[daemon]\nstate_dir = \"state\"\ndrain_s = 1\n[retry]\nbase_ms = 100\n[api]\nlisten = \"127.0.0.1:{}\"\n",
            port.number()
        );
        for (name, platform, more) in [
            ("alice", "mastodon", ""),
            ("bella", "bluesky", "identifier = \"bella.test\"\n"),
            ("studio", "openai", ""),
            ("xenia", "x", ""),
            ("iris", "instagram", "identifier = \"me\"\n"),
        ] {
            let url = sandbox.url();
            config.push_str(&format!("[accounts.{name}]\nplatform = \"{platform}\"\nbase_url = \"{url}/{platform}\"\n{more}secret = {{ env = \"SECRET_{name}\" }}\n"));
            home = home.env(&format!("SECRET_{name}"), &format!("sandbox-{name}"));
        }
        config.push_str(&format!(
            "[accounts.team]\nplatform = \"http\"\nbase_url = \"{}/http/team\"\nsecret = {{ env = \"SECRET_team\" }}\n\
             [commands.true]\nprogram = \"/bin/true\"\nmemory_mb = 512\ncpu_s = 9\n",
            sandbox.url()
        ));
        home = home.env("SECRET_team", WORKER_SECRET);
        let shelf = home.path().join("shelf");
        fs::create_dir(&shelf).expect("a folder can be made");
        config.push_str(&format!(
            "[accounts.shelf]\nplatform = \"folder\"\nfolder = {shelf:?}\n[media]\nfetch_http = true\nfetch_allow = \"{}\"\n",
            sandbox.addr()
        ));
        home.configure(&config);
        let media = home.path().join("state/media");
        fs::create_dir_all(&media).expect("a folder can be made");
        fs::write(media.join("dot.png"), DOT).expect("a picture can be written");
        let log = home.path().join("strace");
        Self {
            api: SocketAddr::from(([127, 0, 0, 1], port.number())),
            _port: port,
            home,
            sandbox,
            log,
            allowed,
        }
    }

    /// The daemon's start, its walk, and its end.
    async fn walk(self) {
        let words = strace(&self.allowed, &self.log);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let daemon = self.home.start_through(&words, &["run"]);
        daemon.wait_ready(self.api, SOON).await;
        self.cli(&["jobs", "list"]).await;
        for (kind, account, payload) in SAMPLES {
            let payload = payload.replace("SANDBOX", &self.sandbox.url());
            let mut words = vec!["enqueue", kind, "--payload", &payload, "--wait"];
            words.extend(account.iter().flat_map(|it| ["--account", it]));
            self.cli(&words).await;
        }
        self.cli(&["reload"]).await;
        daemon.signal("USR1");
        // all of it went well, but for the sample that fails once; a drain that gives up warns
        let log = daemon.stderr() + &daemon.stdout();
        let alarming = ["\"warn\"", "\"error\"", "not permitted"];
        let alarming: Vec<&str> = log
            .lines()
            .filter(|line| alarming.iter().any(|it| line.contains(it)))
            .filter(|line| !line.contains("test.job"))
            .collect();
        assert!(alarming.is_empty(), "{alarming:#?}");
        self.drain(&daemon).await;
        assert!(daemon.wait_exit(SOON).await.success());
        let mut outside = refused(&self.log, daemon.pid()).await;
        // SQLite gives its files to the folder's owner where it may: as root only, which no service is
        if rustix::process::geteuid().is_root() {
            outside.retain(|it| !it.starts_with("fchown("));
        }
        assert!(
            outside.is_empty(),
            "the unit's SystemCallFilter doesn't allow what the daemon calls: {outside:#?}"
        );
    }

    /// A stop while a job runs that won't end in time.
    async fn drain(&self, daemon: &Daemon) {
        self.cli(&["enqueue", "test.job", "--payload", "{\"sleep_ms\": 50000}"])
            .await;
        wait::until("it runs", SOON, async || {
            let running = ["jobs", "list", "--state", "running", "--json"];
            self.cli(&running).await.contains("\"running\"")
        })
        .await;
        daemon.signal("TERM");
    }

    async fn cli(&self, words: &[&str]) -> String {
        let done = self.home.cli(words).await;
        assert!(done.status.success(), "{words:?}: {done:?}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            let calls = said.lines().filter(|it| !it.contains(" +++ "));
            eprintln!("--- calls that the unit refuses:");
            calls.for_each(|it| eprintln!("{it}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_walk_stays_within_the_units_filter() {
    let Some(allowed) = filter().await else {
        return;
    };
    let held = Held::new(allowed, "sqlite:state/ledger.sqlite", "memory:").await;
    held.walk().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_walk_with_servers_stays_within_the_units_filter() {
    let Some(allowed) = filter().await else {
        return;
    };
    let (postgres, redis) = (Postgres::shared(), Redis::start());
    let ledger = postgres.create_database().await;
    Held::new(allowed, &ledger, &redis.url()).await.walk().await;
}

/// Who adds a kind adds a job of it to the walk.
#[tokio::test]
async fn the_walk_has_a_job_of_each_kind() {
    let home = Home::new("");
    let done = home.cli(&["kinds", "list", "--json"]).await;
    let said: serde_json::Value = serde_json::from_slice(&done.stdout).expect("it is JSON");
    let said = said.as_array().expect("a list of kinds");
    let kinds: BTreeSet<&str> = said.iter().filter_map(|it| it["kind"].as_str()).collect();
    assert_eq!(kinds, SAMPLES.iter().map(|it| it.0).collect());
}
