//! The README as pasted: its snippets run as they stand against a real daemon and make their jobs,
//! its commands parse, its configuration is valid, and its tables leave nothing out.
//!
//! A snippet is a fence behind a comment: `<!-- test: HOW, makes KEY ..., says TEXT -->`. HOW is
//! `sh`, `node`, `node with ioredis`, `python`, `python with redis`, `ruby`, `php`, `go`, `psql` (by a
//! shell, with a ledger in PostgreSQL), `envelope`, `jobs.toml`, or `setup`, which stands before each `sh`. Only addresses are put in their place, in plain text: the
//! API's port, that of the Redis port, and Redis' (for `redis-cli`, which names none, by a wrapper of
//! the same name in PATH).

mod kit;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use presswork::clock::Clock;
use presswork::job::Job;
use presswork::job::envelope::MEMBERS;
use presswork::ledger::postgres::{PgOptions, Role};
use presswork::ledger::sqlite::Sqlite;
use presswork::ledger::{Filter, Ledger};
use presswork::lifecycle::State;
use serde_json::Value;

use kit::daemon::{Daemon, Home};
use kit::languages::{done, node, node_with, python_with, text_of};
use kit::port::Port;
use kit::postgres::Postgres;
use kit::process::{find_program, homebrew};
use kit::redis::Redis;
use kit::wait;

const README: &str = include_str!("../README.md");
/// How long a snippet, and then its jobs, may take.
const SOON: Duration = Duration::from_secs(90);

/// A fence of the README that is run.
struct Snippet {
    /// The line of its comment.
    line: usize,
    how: String,
    /// The keys of the jobs that it makes.
    makes: Vec<String>,
    /// What it prints, among other things.
    says: Option<String>,
    text: String,
}

impl Snippet {
    fn read(line: usize, comment: &str, text: String) -> Self {
        let mut parts = comment.split(", ");
        let mut snippet = Self {
            line,
            how: parts.next().unwrap_or_default().to_owned(),
            makes: Vec::new(),
            says: None,
            text,
        };
        for part in parts {
            match part.split_once(' ') {
                Some(("makes", keys)) => {
                    snippet.makes = keys.split(' ').map(str::to_owned).collect();
                }
                Some(("says", text)) => snippet.says = Some(text.to_owned()),
                _ => panic!("README.md:{line}: `{part}` isn't understood"),
            }
        }
        if snippet.how == "envelope" {
            let envelope: Value = serde_json::from_str(&snippet.text).expect("an envelope is JSON");
            let key = envelope["key"]
                .as_str()
                .expect("an envelope here has a key");
            snippet.makes.push(key.to_owned());
        }
        snippet
    }
}

/// The fences with their language and text; and the prose without them.
fn fences() -> (Vec<(usize, String, String)>, String) {
    let (mut found, mut prose) = (Vec::new(), String::new());
    let mut open: Option<(usize, String, String)> = None;
    for (i, line) in README.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => open = Some((i + 1, language.to_owned(), String::new())),
            (None, None) => prose.extend([line, "\n"]),
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some((_, _, text)), None) => text.extend([line, "\n"]),
        }
    }
    assert!(open.is_none(), "README.md: a fence isn't closed");
    (found, prose)
}

fn snippets() -> Vec<Snippet> {
    let lines: Vec<&str> = README.lines().collect();
    let marked = |line: usize| {
        let comment = lines[line.checked_sub(2)?].strip_prefix("<!-- test: ")?;
        comment.strip_suffix(" -->")
    };
    let (fences, _) = fences();
    let read = |(line, _, text): (usize, String, String)| {
        marked(line).map(|it| Snippet::read(line - 1, it, text))
    };
    let found: Vec<Snippet> = fences.into_iter().filter_map(read).collect();
    let marks = README.matches("<!-- test: ").count();
    assert_eq!(found.len(), marks, "a comment stands before no fence");
    found
}

/// What a reader has running: a daemon that listens at all doors, and the programs in PATH.
struct Desk {
    redis: Redis,
    api: SocketAddr,
    resp: SocketAddr,
    setup: String,
    home: Home,
    _ports: [Port; 2],
    _daemon: Daemon,
}

impl Desk {
    async fn furnish(setup: String) -> Self {
        let (redis, ports) = (Redis::start(), [Port::take(), Port::take()]);
        let home = Home::new("");
        let [api, resp] = ports
            .each_ref()
            .map(|it| SocketAddr::from(([127, 0, 0, 1], it.number())));
        let (queue, listen) = (redis.url(), [api.to_string(), resp.to_string()]);
        let args = [
            "dev", "--redis", &queue, "--api", &listen[0], "--resp", &listen[1],
        ];
        let daemon = home.start(&args);
        daemon.wait_ready(api, SOON).await;
        let bin = home.path().join("bin");
        std::fs::create_dir(&bin).expect("a folder can be made");
        symlink(env!("CARGO_BIN_EXE_presswork"), bin.join("presswork")).expect("a link");
        let cli = find_program("redis-cli", &homebrew("redis")).expect("redis-cli is there");
        let wrapper = format!(
            "#!/bin/sh\nexec '{}' -p {} \"$@\"\n",
            cli.display(),
            redis.port()
        );
        let path = bin.join("redis-cli");
        std::fs::write(&path, wrapper).expect("a wrapper can be written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("it may run");
        Self {
            redis,
            api,
            resp,
            setup,
            home,
            _ports: ports,
            _daemon: daemon,
        }
    }

    /// Where the sandbox of this desk listens, by its own settings.
    fn sandbox(&self) -> String {
        let settings = self.home.path().join(".presswork/jobs.toml");
        let settings = std::fs::read_to_string(settings).expect("dev has written it");
        let allowed = settings.split_once("fetch_allow = \"");
        let (_, address) = allowed.expect("its pictures may be fetched");
        address.split('"').next().unwrap_or_default().to_owned()
    }

    /// With the addresses of this desk.
    fn here(&self, text: &str) -> String {
        text.replace("127.0.0.1:8787", &self.api.to_string())
            .replace("6379", &self.redis.port().to_string())
            .replace("6380", &self.resp.port().to_string())
            .replace("127.0.0.1:8090", &self.sandbox())
    }

    /// Runs a snippet; `None` where it can't be run here, and then says so.
    async fn run(&self, snippet: &Snippet) -> Option<String> {
        let text = self.here(&snippet.text);
        let (program, ending, text) = match snippet.how.as_str() {
            "envelope" => return Some(self.redis.cli(&["RPUSH", "presswork:inbox", &text])),
            "sh" if text.contains("curl ") && find_program("curl", &[]).is_none() => {
                return skip(snippet, "there is no curl");
            }
            "sh" => (
                PathBuf::from("/bin/sh"),
                "sh",
                format!("{}{text}", self.setup),
            ),
            "node" => match node().await {
                Some(it) => (it, "mjs", text),
                None => return skip(snippet, "there is no Node 18 or newer"),
            },
            "python" => match find_program("python3", &[]) {
                Some(it) => (it, "py", text),
                None => return skip(snippet, "there is no python3"),
            },
            how @ ("ruby" | "php" | "go") => match find_program(how, &[]) {
                Some(it) => (it, how, text),
                None => return skip(snippet, &format!("there is no {how}")),
            },
            "python with redis" => match python_with("redis").await {
                Ok(it) => (it, "py", text),
                Err(why) => return skip(snippet, &why),
            },
            "node with ioredis" => match node_with("ioredis").await {
                Ok((it, modules)) => {
                    let link = self.home.path().join("node_modules");
                    symlink(modules, link).expect("a link");
                    (it, "mjs", text)
                }
                Err(why) => return skip(snippet, &why),
            },
            how => panic!("README.md:{}: nobody runs `{how}`", snippet.line),
        };
        let file = self.home.path().join(format!("snippet.{ending}"));
        std::fs::write(&file, text).expect("a snippet can be written");
        let mut command = Command::new(program);
        // its own way to be asked to run a file
        command.args((ending == "go").then_some("run"));
        command.arg(&file).current_dir(self.home.path());
        let path = std::env::var_os("PATH").unwrap_or_default();
        let bin = self.home.path().join("bin");
        let all = std::iter::once(bin).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(all).expect("a PATH"));
        Some(said_by(command, snippet).await)
    }
}

/// What a snippet prints that ends well.
async fn said_by(command: Command, snippet: &Snippet) -> String {
    let output = done(command, SOON).await;
    let (said, wrong) = (text_of(&output.stdout), text_of(&output.stderr));
    let (line, status) = (snippet.line, output.status);
    assert!(
        status.success(),
        "README.md:{line}: {status}\n{said}\n{wrong}"
    );
    said
}

/// Past the harness, which keeps what a test that passes prints.
fn skip(snippet: &Snippet, why: &str) -> Option<String> {
    let told = format!(
        "skipped: the {} snippet of README.md:{}: {why}\n",
        snippet.how, snippet.line
    );
    std::io::stderr()
        .write_all(told.as_bytes())
        .expect("standard error is open");
    None
}

/// Waits until each of these keys is a completed job.
async fn completed(ledger: &dyn Ledger, snippet: &Snippet) {
    let filter = Filter {
        states: State::ALL.to_vec(),
        limit: 1_000,
        ..Filter::default()
    };
    for key in &snippet.makes {
        let what = format!("README.md:{}: a completed job `{key}`", snippet.line);
        wait::until(&what, SOON, async || {
            let jobs = ledger.jobs(&filter).await.expect("the ledger answers");
            let has = |it: &&Job| it.key.as_deref() == Some(key);
            let state = jobs.iter().find(has).map(|it| it.state);
            assert_ne!(state, Some(State::Dead), "{what}");
            state == Some(State::Completed)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_snippet_works_as_pasted() {
    let (setup, snippets): (Vec<_>, Vec<_>) =
        snippets().into_iter().partition(|it| it.how == "setup");
    let desk = Desk::furnish(setup.into_iter().map(|it| it.text).collect()).await;
    let file = desk.home.path().join(".presswork/ledger.sqlite");
    let ledger = Sqlite::open(&file, Clock::System)
        .await
        .expect("the ledger of dev");
    let mut keys = BTreeSet::new();
    let elsewhere = ["jobs.toml", "psql"];
    let here = snippets.iter();
    for snippet in here.filter(|it| !elsewhere.contains(&&*it.how)) {
        let line = snippet.line;
        assert!(
            !snippet.makes.is_empty(),
            "README.md:{line}: it makes no job"
        );
        let new = snippet.makes.iter().all(|it| keys.insert(it.clone()));
        assert!(new, "README.md:{line}: another snippet has its key");
        let Some(said) = desk.run(snippet).await else {
            continue;
        };
        if let Some(word) = &snippet.says {
            assert!(
                said.contains(word),
                "README.md:{line}: not said: {word}\n{said}"
            );
        }
        completed(&ledger, snippet).await;
    }
    // those doors need nothing but what every test needs
    assert!(keys.contains("hello-redis") && keys.contains("hello-cli"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_psql_commits_is_a_job() {
    let snippets = snippets();
    let snippet = snippets.iter().find(|it| it.how == "psql");
    let snippet = snippet.expect("there is one for psql");
    if find_program("psql", &[]).is_none() {
        skip(snippet, "there is no psql");
        return;
    }
    let url = Postgres::shared().create_database().await;
    let port = Port::take();
    let api = SocketAddr::from(([127, 0, 0, 1], port.number()));
    let home = Home::new(&format!(
        "[ledger]\nurl = {{ env = \"DATABASE_URL\" }}\n[api]\nlisten = \"{api}\"\n"
    ));
    let home = home.env("DATABASE_URL", &url);
    let daemon = home.start(&["run"]);
    daemon.wait_ready(api, SOON).await;
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", &snippet.text])
        .env("DATABASE_URL", &url);
    said_by(command, snippet).await;
    let options = PgOptions::new(Role::Cli);
    let ledger = presswork::ledger::postgres::Postgres::open(&url.as_str().into(), options);
    completed(&ledger.expect("the daemon's ledger"), snippet).await;
}

/// Every `presswork ...` of the page: in fences for a shell, behind a `$`, as advice, and in prose.
fn commands() -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut add = |line: usize, text: &str| {
        let text = text.trim().replace("cargo run --release -- ", "presswork ");
        let at = text.starts_with("presswork ").then_some(0);
        if let Some(at) = at.or_else(|| text.find("| presswork ").map(|it| it + 2)) {
            let command = text[at..].split(" # ").next().unwrap_or_default();
            found.insert(command.trim_end().to_owned(), line);
        }
    };
    let (fences, prose) = fences();
    for (line, language, text) in fences {
        for it in text.replace("\\\n", " ").lines() {
            match language.as_str() {
                "sh" => add(line, it),
                _ if it.starts_with("    presswork ") => add(line, it),
                _ => it
                    .strip_prefix("$ ")
                    .into_iter()
                    .for_each(|it| add(line, it)),
            }
        }
    }
    let prose = prose.replace('\n', " ");
    prose
        .split('`')
        .skip(1)
        .step_by(2)
        .for_each(|it| add(0, it));
    found
}

#[tokio::test]
async fn every_command_parses() {
    let home = Home::new("");
    let commands = commands();
    assert!(
        30 < commands.len(),
        "only {} commands are found",
        commands.len()
    );
    for (command, line) in commands {
        // what is asked for help is read up to there, so that a wrong word or option is told
        let asked = command
            .replace(" KIND", " test.job")
            .replace(" ID", " 01a2013b-d0be-76ac-aca2-68db3205294d");
        let mut shell = Command::new("/bin/sh");
        let binary = env!("CARGO_BIN_EXE_presswork");
        let script = format!("presswork() {{ '{binary}' \"$@\"; }}\n{asked} --help");
        shell.args(["-c", &script]).current_dir(home.path());
        let output = done(shell, SOON).await;
        let wrong = text_of(&output.stderr);
        assert!(
            output.status.success(),
            "README.md:{line}: {command}\n{wrong}"
        );
    }
}

#[tokio::test]
async fn the_configuration_is_valid() {
    let snippets = snippets();
    let excerpts: Vec<&Snippet> = snippets.iter().filter(|it| it.how == "jobs.toml").collect();
    assert_eq!(excerpts.len(), 3);
    for excerpt in excerpts {
        let mut home = Home::new(&excerpt.text);
        for it in excerpt.text.split("env = \"").skip(1) {
            let name = it.split('"').next().unwrap_or_default();
            home = home.env(
                name,
                match name {
                    "DATABASE_URL" => "postgres://presswork@db.example/presswork",
                    "REDIS_URL" => "redis://cache.example:6379/0",
                    "VAULT_KEY" => "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
                    _ => "a-secret-of-a-good-length",
                },
            );
        }
        let output = home.cli(&["check", "--offline"]).await;
        let (said, wrong) = (text_of(&output.stdout), text_of(&output.stderr));
        assert!(output.status.success(), "{said}\n{wrong}");
    }
}

/// The part of the page under a heading.
fn section(heading: &str) -> &'static str {
    let (_, rest) = README
        .split_once(&format!("\n{heading}\n"))
        .expect("the section is there");
    rest.split("\n## ").next().unwrap_or_default()
}

#[test]
fn every_member_of_the_envelope_is_documented() {
    let rows = section("## The envelope").lines();
    let named = rows.filter_map(|it| it.strip_prefix("| `")?.split('`').next());
    let named: BTreeSet<&str> = named.collect();
    assert_eq!(named, BTreeSet::from(MEMBERS));
}

#[tokio::test]
async fn every_kind_is_documented_with_its_payload() {
    let home = Home::new("");
    let kinds = section("## Kinds");
    for kind in presswork::kinds::all() {
        let name = kind.name();
        let output = home.cli(&["kinds", "schema", name]).await;
        let schema: Value = serde_json::from_slice(&output.stdout).expect("a schema is JSON");
        let members = schema["properties"]["payload"]["properties"].as_object();
        let (_, about) = kinds.split_once(&format!("**`{name}`**")).expect(name);
        let about = about.split("\n**`").next().unwrap_or_default();
        for member in members.expect("a payload has members").keys() {
            let told = about.contains(&format!("`{member}`"));
            assert!(told, "README.md: {name} doesn't tell of `{member}`");
        }
    }
}
