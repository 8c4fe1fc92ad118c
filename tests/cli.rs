//! The command line as people see it: golden transcripts of the real binary, and whole walks with
//! a daemon. `UPDATE_GOLDEN=1` writes the transcripts anew.

mod kit;

#[path = "cli/accounts.rs"]
mod accounts;
#[path = "cli/acl.rs"]
mod acl;
#[path = "cli/files.rs"]
mod files;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use kit::daemon::Home;
use kit::port;
use regex::Regex;
use serde_json::Value;

const EMBEDDED: &str = "[ledger]\nurl = \"sqlite:ledger.sqlite\"\n";

/// `dev` to the samples' end, on whatever ports are free.
const DEV_ONCE: [&str; 6] = [
    "dev",
    "--once",
    "--api",
    "127.0.0.1:0",
    "--resp",
    "127.0.0.1:0",
];

/// What was typed, and what came back.
struct Transcript {
    home: Home,
    text: String,
}

impl Transcript {
    fn new(config: &str) -> Self {
        let home = Home::new(config).env("NO_COLOR", "1").env("USER", "ann");
        Self {
            home,
            text: String::new(),
        }
    }

    async fn run(&mut self, args: &[&str]) -> Output {
        self.run_with(args, "").await
    }

    async fn run_with(&mut self, args: &[&str], input: &str) -> Output {
        let output = self.home.cli_with_input(args, input).await;
        let quoted = |it: &&str| match it {
            it if it.contains([' ', '{', '\'']) || it.is_empty() => format!("'{it}'"),
            it => (*it).to_string(),
        };
        let args: Vec<String> = args.iter().map(quoted).collect();
        self.text
            .push_str(&format!("$ presswork {}\n", args.join(" ")));
        self.text.push_str(&said(&output.stdout));
        for line in said(&output.stderr).lines() {
            self.text.push_str(&format!("! {line}\n"));
        }
        self.text.push_str(&format!("[exit {}]\n\n", code(&output)));
        output
    }

    /// Compares with the file of this name.
    fn matches(self, name: &str) {
        let text = self
            .text
            .replace(&self.home.path().display().to_string(), "<home>");
        golden(name, &mask(&text));
    }
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the binary speaks UTF-8")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it exits")
}

/// What differs from run to run.
fn mask(text: &str) -> String {
    static MASKS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        let mask = |pattern: &str, by| (Regex::new(pattern).unwrap(), by);
        vec![
            mask(
                r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}",
                "<id>",
            ),
            mask(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(Z|\+00:00)", "<time>"),
            mask(r"in \d+\.\d s \(\d+ a second\)", "in <span>"),
            mask(r#""ms": \d+"#, "\"ms\": <ms>"),
            mask(r"(after|within) \d+(\.\d)? (ms|s)\b", "$1 <span>"),
        ]
    });
    let text = text.replace(
        concat!("presswork ", env!("CARGO_PKG_VERSION"), "\n"),
        "presswork <version>\n",
    );
    MASKS.iter().fold(text, |text, (mask, by)| {
        mask.replace_all(&text, *by).into_owned()
    })
}

fn golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    if wanted != text {
        let at = wanted
            .lines()
            .zip(text.lines())
            .take_while(|(a, b)| a == b)
            .count();
        let line = |of: &str| of.lines().nth(at).unwrap_or("(its end)").to_owned();
        panic!(
            "{} differs at line {}:\n  wanted {:?}\n  found  {:?}\n(UPDATE_GOLDEN=1 writes it anew)\n{text}",
            path.display(),
            at + 1,
            line(&wanted),
            line(text)
        );
    }
}

/// The names below `Commands:` of a help.
fn commands(help: &str) -> Vec<String> {
    let below = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    let lines = below.lines().take_while(|it| !it.is_empty());
    let named = lines.filter(|it| it.starts_with("  ") && !it.starts_with("   "));
    named
        .filter_map(|it| it.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn shells_and_readers_of_manuals_get_what_the_commands_say() {
    let home = Home::new(EMBEDDED);
    let syntax = [
        ("bash", "bash"),
        ("zsh", "_presswork"),
        ("fish", "complete -c presswork"),
    ];
    for (shell, word) in syntax {
        let output = home.cli(&["completions", shell]).await;
        assert_eq!(code(&output), 0, "{output:?}");
        let script = said(&output.stdout);
        assert!(
            script.contains(word) && script.contains("quarantine"),
            "{shell}"
        );
    }
    let output = home.cli(&["man", "pages"]).await;
    assert_eq!(code(&output), 0, "{output:?}");
    let page = |name: &str| std::fs::read_to_string(home.path().join("pages").join(name)).unwrap();
    assert!(page("presswork.1").contains("presswork\\-dead(1)"));
    assert!(page("presswork-dead-revive.1").contains("dry\\-run"));
}

#[tokio::test]
async fn each_command_helps() {
    let home = Home::new(EMBEDDED).env("NO_COLOR", "1");
    let top = said(&home.cli(&["--help"]).await.stdout);
    golden("help/presswork", &top);
    let names = commands(&top);
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        let mut todo = vec![vec![name.clone()]];
        let mut text = String::new();
        while let Some(path) = todo.pop() {
            let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
            args.push("--help");
            let output = home.cli(&args).await;
            let help = said(&output.stdout);
            assert_eq!(code(&output), 0, "{args:?}");
            let below = commands(&help).into_iter().rev();
            todo.extend(below.map(|it| path.iter().cloned().chain([it]).collect()));
            text.push_str(&format!("$ presswork {}\n{help}\n", args.join(" ")));
        }
        assert!(text.contains("Examples:"), "{name} shows no example");
        golden(&format!("help/{name}"), &text);
    }
}

#[tokio::test]
async fn what_is_asked_wrongly_is_told_so() {
    let mut it = Transcript::new("[daemon]\nlease_s = 0\n[ledgr]\nurl = \"x\"\n");
    it.run(&["--version"]).await;
    it.run(&["enqeue"]).await;
    it.run(&["enqueue", "test.job", "--paylod", "{}"]).await;
    it.run(&["--json", "enqueue"]).await;
    it.run(&["check"]).await;
    it.run(&["check", "--json"]).await;
    it.run(&["run"]).await;
    it.run(&["--config", "nope.toml", "kinds"]).await;
    it.run(&["--config", "jobs.toml", "dev"]).await;
    it.run(&["sandbox", "--fault-rate", "0.5"]).await;
    it.run(&["sandbox", "--seed", "1", "--fault-rate", "2"])
        .await;
    it.matches("errors");
}

#[tokio::test]
async fn a_ledger_is_made_checked_and_found() {
    let mut it = Transcript::new(EMBEDDED);
    it.run(&["enqueue", "test.job"]).await;
    it.run(&["migrate", "--check"]).await;
    it.run(&["check"]).await;
    it.run(&["migrate"]).await;
    it.run(&["migrate"]).await;
    it.run(&["migrate", "--check", "--json"]).await;
    it.run(&["check", "--offline"]).await;
    it.home.configure(
        "[ledger]\nurl = \"postgres://127.0.0.1:1/none\"\n[queue]\nurl = \"redis://127.0.0.1:1\"\n",
    );
    let output = it.home.cli(&["check"]).await;
    assert_eq!(code(&output), 5, "{}", said(&output.stdout));
    let output = it.home.cli(&["enqueue", "test.job"]).await;
    assert_eq!(code(&output), 5, "{}", said(&output.stderr));
    assert!(
        said(&output.stderr).contains("hint: `presswork check`"),
        "{}",
        said(&output.stderr)
    );
    it.matches("ledger");
}

#[tokio::test]
async fn kinds_and_their_schemas() {
    let mut it = Transcript::new(EMBEDDED);
    it.run(&["kinds"]).await;
    it.run(&["kinds", "schema", "test.job"]).await;
    it.run(&["kinds", "schema", "test.jb"]).await;
    let all = it.home.cli(&["kinds", "--json"]).await;
    let all: Value = serde_json::from_slice(&all.stdout).unwrap();
    for kind in all.as_array().unwrap() {
        let schema = it
            .home
            .cli(&["kinds", "schema", kind["kind"].as_str().unwrap()])
            .await;
        let schema: Value = serde_json::from_slice(&schema.stdout).unwrap();
        assert!(
            schema["properties"]["payload"]["properties"].is_object(),
            "{schema}"
        );
        assert!(!kind["example"].is_null());
    }
    it.matches("kinds");
}

#[tokio::test]
async fn jobs_are_taken_with_the_daemon_down() {
    let mut it = Transcript::new(EMBEDDED);
    it.home.cli(&["migrate"]).await;
    std::fs::write(it.home.path().join("payload.json"), "{\"sleep_ms\": 5}\n").unwrap();
    let taken = it.run(&["enqueue", "test.job"]).await;
    assert_eq!(code(&taken), 0);
    it.run(&[
        "enqueue",
        "test.job",
        "--key",
        "k1",
        "--payload",
        "@payload.json",
    ])
    .await;
    it.run_with(
        &["enqueue", "test.job", "--key", "k1", "--payload", "-"],
        "{\"sleep_ms\":5}",
    )
    .await;
    it.run(&[
        "enqueue",
        "test.job",
        "--key",
        "k1",
        "--payload",
        "@payload.json",
        "--priority",
        "high",
    ])
    .await;
    it.run(&[
        "enqueue",
        "test.job",
        "--key",
        "k1",
        "--payload",
        "{\"sleep_ms\": 6}",
    ])
    .await;
    it.run(&[
        "enqueue",
        "test.job",
        "--key",
        "k1",
        "--payload",
        "{\"sleep_ms\": 6}",
        "--json",
    ])
    .await;
    it.run(&[
        "enqueue",
        "test.job",
        "--key",
        "k2",
        "--json",
        "--at",
        "in 10m",
        "--not-after",
        "in 1h",
        "--label",
        "a=b",
        "--tenant",
        "ann",
        "--attempts",
        "3",
        "--timeout",
        "9",
    ])
    .await;
    it.run(&["enqueue", "test.jb"]).await;
    it.run(&[
        "enqueue",
        "test.job",
        "--payload",
        "{\"slep_ms\": 1}",
        "--lane",
        "fast",
    ])
    .await;
    it.run(&[
        "enqueue",
        "test.job",
        "--priority",
        "urgent",
        "--attempts",
        "0",
        "--traceparent",
        "x",
    ])
    .await;
    it.run(&["enqueue", "test.job", "--payload", "{oops"]).await;
    it.run(&["enqueue", "test.job", "--payload", "@nope.json"])
        .await;
    it.run(&["enqueue", "test.job", "--at", "tomorrow"]).await;
    it.run(&["enqueue", "test.job", "--at", "in ten"]).await;
    it.run(&["enqueue", "test.job", "--label", "=b"]).await;
    it.run(&[
        "enqueue",
        "post.mastodon",
        "--payload",
        "{\"text\": \"Hi\"}",
        "--json",
    ])
    .await;
    it.run(&["enqueue", "test.job", "--wait", "--wait-timeout", "1s"])
        .await;
    it.matches("enqueue");
}

#[tokio::test]
async fn a_full_backlog_is_a_bound_here_too() {
    let home = Home::new(&format!("{EMBEDDED}[inbox]\nbacklog_max = 1\n"));
    home.cli(&["migrate"]).await;
    assert_eq!(code(&home.cli(&["enqueue", "test.job"]).await), 0);
    let full = home.cli(&["enqueue", "test.job"]).await;
    assert_eq!(code(&full), 4, "{}", said(&full.stderr));
    assert!(said(&full.stderr).contains("backlog_max"));
}

#[tokio::test]
async fn waiting_ends_with_the_job() {
    let port = port::Port::take();
    let address = format!("127.0.0.1:{}", port.number());
    let mut it = Transcript::new(&format!(
        "{EMBEDDED}[api]\nlisten = \"{address}\"\n[retry]\nattempts = 2\nbase_ms = 1\ncap_ms = 1\n"
    ));
    let daemon = it.home.start(&["run"]);
    daemon
        .wait_ready(address.parse().unwrap(), Duration::from_secs(20))
        .await;
    let done = it
        .run(&[
            "enqueue",
            "test.job",
            "--payload",
            "{\"result\": {\"n\": 1}}",
            "--wait",
        ])
        .await;
    assert_eq!(code(&done), 0, "{}", it.text);
    assert!(said(&done.stdout).contains(r#"{"n":1}"#), "{}", it.text);
    let refused = it
        .run(&[
            "enqueue",
            "test.job",
            "--payload",
            "{\"fail_times\": 9, \"class\": \"permanent\", \"code\": \"nope\"}",
            "--wait",
            "--json",
        ])
        .await;
    assert_eq!(code(&refused), 1, "{}", it.text);
    assert!(said(&refused.stdout).contains("\"dead\""), "{}", it.text);
    let dead = it
        .home
        .cli(&[
            "enqueue",
            "test.job",
            "--payload",
            "{\"fail_times\": 9}",
            "--wait",
        ])
        .await;
    assert_eq!(code(&dead), 1);
    assert!(
        said(&dead.stderr).contains("dead revive"),
        "{}",
        said(&dead.stderr)
    );
    let late = it
        .home
        .cli(&[
            "enqueue",
            "test.job",
            "--payload",
            "{\"sleep_ms\": 60000}",
            "--wait",
            "--wait-timeout",
            "1s",
        ])
        .await;
    assert_eq!(code(&late), 1);
    assert!(
        said(&late.stderr).contains("it goes on"),
        "{}",
        said(&late.stderr)
    );
    // a running daemon notices within a quarter of a second; without the bell in a second, and a
    // busy machine gets five
    let before = Instant::now();
    let done = it
        .home
        .cli(&["enqueue", "test.job", "--wait", "--json"])
        .await;
    assert!(
        before.elapsed() < Duration::from_secs(5),
        "{:?}",
        before.elapsed()
    );
    let done: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(done["job"]["state"], "completed", "{done}");
    daemon.signal("TERM");
    assert_eq!(
        daemon.wait_exit(Duration::from_secs(40)).await.code(),
        Some(0)
    );
}

#[tokio::test]
async fn dev_shows_what_it_is_about_and_what_it_prints_works() {
    let home = Home::new("").env("NO_COLOR", "1");
    let first = home.cli(&DEV_ONCE).await;
    let text = said(&first.stdout);
    assert_eq!(code(&first), 0, "{text}\n{}", said(&first.stderr));
    assert!(text.contains("each ended as it should"), "{text}");
    let first_done = Regex::new(r"the first one, (\d+\.\d) s after the start").unwrap();
    let seconds: f64 = first_done.captures(&text).expect("it says when")[1]
        .parse()
        .unwrap();
    assert!(seconds < 3.0, "the first job was done after {seconds} s");
    let tried = printed(&text);
    assert_eq!(tried.len(), 3, "{text}");
    for command in &tried {
        let output = shell(home.path(), command);
        assert_eq!(
            code(&output),
            0,
            "{command}\n{}{}",
            said(&output.stdout),
            said(&output.stderr)
        );
    }
    let again = home.cli(&[&DEV_ONCE[..], &["--json"]].concat()).await;
    let told: Value = serde_json::from_slice(&again.stdout).expect("one document");
    assert_eq!(
        (code(&again), &told["good"]),
        (0, &Value::Bool(true)),
        "{told}"
    );
}

#[tokio::test]
async fn dev_stays_until_it_is_told_to_go() {
    let home = Home::new("").env("NO_COLOR", "1");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dev = home.start(&["dev", "--api", &address, "--resp", &address]);
    let told = || format!("the samples' end\n{}\n{}", dev.stdout(), dev.stderr());
    kit::wait::until_or(told, Duration::from_secs(60), async || {
        dev.stdout().contains("Ctrl-C ends it")
    })
    .await;
    assert!(
        dev.stderr().contains(&format!("{address} can't be used")),
        "{}",
        dev.stderr()
    );
    for command in printed(&dev.stdout()) {
        let output = shell(home.path(), &command);
        assert_eq!(
            code(&output),
            0,
            "{command}\n{}{}",
            said(&output.stdout),
            said(&output.stderr)
        );
    }
    // the dead letter was revived by the last of them, and its fault was for one time only
    let revived = || format!("the revived job's end\n{}", dev.stdout());
    let ends = async || {
        dev.stdout()
            .rsplit("Ctrl-C ends it")
            .next()
            .is_some_and(|it| it.contains("completed"))
    };
    kit::wait::until_or(revived, Duration::from_secs(20), ends).await;
    let second = home.cli(&DEV_ONCE).await;
    assert_eq!(code(&second), 1, "{}", said(&second.stdout));
    assert!(
        said(&second.stderr).contains("another `presswork dev`"),
        "{}",
        said(&second.stderr)
    );
    dev.signal("INT");
    assert_eq!(dev.wait_exit(Duration::from_secs(20)).await.code(), Some(0));
}

/// The commands that dev prints.
fn printed(text: &str) -> Vec<String> {
    let below = text
        .split("Try next, from this folder:\n")
        .nth(1)
        .unwrap_or_default();
    below
        .lines()
        .take_while(|it| !it.is_empty())
        .map(|it| it.trim().to_owned())
        .collect()
}

/// Runs what a person would paste.
fn shell(folder: &Path, command: &str) -> Output {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", command])
        .current_dir(folder)
        .stdin(Stdio::null());
    shell
        .env_remove("PRESSWORK_CONFIG")
        .output()
        .expect("a shell is there")
}

#[tokio::test]
async fn a_reader_that_leaves_is_no_error() {
    let home = Home::new(EMBEDDED);
    let output = shell(
        home.path(),
        &format!(
            "{{ {} kinds schema; echo \"exit $?\" >&2; }} | true",
            env!("CARGO_BIN_EXE_presswork")
        ),
    );
    assert_eq!(said(&output.stderr), "exit 0\n");
}
