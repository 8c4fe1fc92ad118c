//! Secrets never leak: 40 canaries of 20 shapes go through everything (configuration, wrong
//! configurations, platforms that repeat what they were sent, requests of strangers), and none comes
//! out of anything: logs at `trace`, command line, API, metrics, ledger, queue, files, `/proc`.

mod kit;
#[path = "storm/checker.rs"]
mod checker;
#[path = "canaries/echo.rs"]
mod echo;
#[path = "canaries/knock.rs"]
mod knock;
#[path = "storm/world.rs"]
mod world;

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use checker::by_key;
use echo::{Echo, FORMS, MODES};
use kit::daemon::{Daemon, Home};
use kit::port::Port;
use kit::postgres::Postgres;
use kit::redis::Redis;
use kit::wait;
use knock::knock;
use presswork::backup::DUMP;
use presswork::backup::archive::Archive;
use presswork::backup::tools::Tool;
use presswork::ledger::Ledger;
use presswork::lifecycle::State;
use serde_json::json;
use world::{Stores, client};

const SOON: Duration = Duration::from_secs(120);
const READY: Duration = Duration::from_secs(60);

/// A secret's heart: letters and digits that stand nowhere else.
fn heart(run: u64, n: u64) -> String {
    let mixed = (run * 100 + n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("Cn{run}{n:02}q{mixed:016x}W")
}

/// Shapes of secrets that no configuration names. A canary's heart stands for `CANARY`.
const SHAPES: [&str; 14] = [
    "sent Authorization: Bearer CANARY",
    "Set-Cookie: session=CANARY; Path=/; HttpOnly",
    "the token eyJhbGciOiJIUzI1NiJ9.CANARY.c2ln is old",
    "no such grant ya29.CANARY",
    "Error validating EAACANARY",
    "Incorrect key sk-proj-CANARY",
    "signed with whsec_CANARY",
    "-----BEGIN PRIVATE KEY-----\nCANARY\n-----END PRIVATE KEY-----",
    "Incorrect API key provided: 3fCANARY",
    "refused (basic CANARY==)",
    "see https://bucket.example/p?X-Amz-Credential=CANARY&X-Amz-Signature=CANARY&x=1",
    "see https://me:CANARY@h.example/p",
    r#"{"body":"{\"client_secret\":\"CANARY\"}"}"#,
    "GET /v1/me?key=CANARY&access_token=CANARY",
];

/// What comes out, and from where.
#[derive(Default)]
struct Out(Vec<(String, Vec<u8>)>);

impl Out {
    fn put(&mut self, from: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push((from.into(), bytes.into()));
    }

    fn said(&mut self, what: &str, output: Output) {
        self.put(format!("{what}, standard output"), output.stdout);
        self.put(format!("{what}, standard error"), output.stderr);
    }

    async fn cli(&mut self, home: &Home, args: &[&str]) {
        self.said(&args.join(" "), home.cli(args).await);
    }

    fn file(&mut self, path: &Path) {
        self.put(
            path.display().to_string(),
            std::fs::read(path).unwrap_or_default(),
        );
    }

    /// No heart, in no spelling, is in anything.
    fn holds_none_of(&self, hearts: &[String]) {
        let mut found = Vec::new();
        for (from, bytes) in &self.0 {
            let text = String::from_utf8_lossy(bytes);
            for heart in hearts {
                for spelling in spellings(heart) {
                    if let Some(at) = text.find(&spelling) {
                        let from_at = text.floor_char_boundary(at.saturating_sub(120));
                        let to = text.ceil_char_boundary((at + 60).min(text.len()));
                        found.push(format!("{from}: ...{}", &text[from_at..to]));
                    }
                }
            }
        }
        let (count, size) = (
            self.0.len(),
            self.0.iter().map(|it| it.1.len()).sum::<usize>(),
        );
        assert!(
            found.is_empty(),
            "{} leaks:\n{}",
            found.len(),
            found[..found.len().min(30)].join("\n")
        );
        println!("canaries: {count} outputs, {size} bytes, no leak");
    }
}

/// As it is, in hex, and what of its base64 stays wherever it begins.
fn spellings(heart: &str) -> Vec<String> {
    let hex: String = heart.bytes().map(|it| format!("{it:02x}")).collect();
    let mut all = vec![heart.to_owned(), heart.to_ascii_lowercase(), hex];
    for shift in 0..3 {
        let encoded = STANDARD_NO_PAD.encode("x".repeat(shift) + heart);
        all.push(encoded[4..encoded.len() - 4].to_owned());
    }
    all
}

/// A daemon with accounts whose secrets are canaries, and a platform that talks too much.
struct Scene {
    home: Home,
    stores: Stores,
    echo: Echo,
    api: std::net::SocketAddr,
    resp: std::net::SocketAddr,
    token: String,
    hearts: Vec<String>,
    run: u64,
    _ports: [Port; 2],
}

impl Scene {
    /// `stores` hold two canaries of their own where they have passwords.
    async fn new(run: u64, stores: Stores, ledger: &str, queue: &str, format: &str) -> Self {
        let hearts: Vec<String> = (0..20).map(|n| heart(run, n)).collect();
        let texts = SHAPES
            .iter()
            .zip(&hearts)
            .map(|(it, heart)| it.replace("CANARY", heart));
        // a session's tokens are in no configuration: the redactor learns them from the call
        let echo = Echo::start(texts.collect(), format!("{}.", hearts[14])).await;
        let (env, file, credential) = (&hearts[15], &hearts[16], &hearts[17]);
        let token = format!("{}/+=~", hearts[13]);
        let ports = [Port::take(), Port::take()];
        let [api, resp] = ports
            .each_ref()
            .map(|it| std::net::SocketAddr::from(([127, 0, 0, 1], it.number())));
        let url = &echo.url;
        let config = format!(
            "[daemon]\nstate_dir = \"state\"\nlog = \"trace,sqlx=trace,apalis_core=trace\"\nlog_format = \"{format}\"\n\
             [ledger]\nurl = {ledger}\n[queue]\nurl = {queue}\n\
             [api]\nlisten = \"{api}\"\ntoken = {{ env = \"DOOR\" }}\n\
             [resp]\nlisten = \"{resp}\"\n\
             [retry]\nattempts = 1\n\
             [accounts.studio]\nplatform = \"openai\"\nbase_url = \"{url}/v1\"\nsecret = {{ env = \"STUDIO\" }}\n\
             [accounts.alice]\nplatform = \"mastodon\"\nbase_url = \"{url}\"\nsecret = {{ file = \"alice.secret\" }}\n\
             [accounts.bella]\nplatform = \"bluesky\"\nbase_url = \"{url}\"\nidentifier = \"bella.test\"\n\
             secret = {{ credential = \"bella\" }}\n",
        );
        let home = Home::new(&config).env("DOOR", &token);
        let home = home.env("STUDIO", &format!("{env}/+\"=&%~"));
        let folder = home.path().to_str().expect("a path of ours").to_owned();
        let home = home.env("CREDENTIALS_DIRECTORY", &folder);
        std::fs::write(
            home.path().join("alice.secret"),
            format!("{file}/+\"=&%~\n"),
        )
        .unwrap();
        std::fs::write(home.path().join("bella"), format!("{credential}/+\"=&%~")).unwrap();
        Self {
            home,
            stores,
            echo,
            api,
            resp,
            token,
            hearts,
            run,
            _ports: ports,
        }
    }

    async fn ask(&self, path: &str, token: &str, body: Option<String>) -> String {
        let url = format!("http://{}{path}", self.api);
        let ask = match body {
            Some(body) => client()
                .post(url)
                .header("content-type", "application/json")
                .body(body),
            None => client().get(url),
        };
        let answer = ask.bearer_auth(token).send().await.expect("it answers");
        format!(
            "{:?} {}",
            answer.headers().clone(),
            answer.text().await.expect("it answers")
        )
    }

    /// A job for each thing that is told, in each way that it is told.
    async fn bring(&self) -> usize {
        let mut envelopes = Vec::new();
        for item in 0..SHAPES.len() + FORMS {
            for mode in 0..MODES {
                let text = format!("item-{item}-{mode}-");
                let (kind, account, payload) = match (item + mode) % 3 {
                    0 => (
                        "generate.text",
                        "studio",
                        json!({"model": "gpt-5-mini", "prompt": text}),
                    ),
                    1 => ("post.mastodon", "alice", json!({"text": text})),
                    _ => ("post.bluesky", "bella", json!({"text": text})),
                };
                envelopes.push(json!({
                    "v": 1, "kind": kind, "account": account, "key": text, "payload": payload,
                }));
            }
        }
        let count = envelopes.len();
        let answer = self
            .ask("/v1/jobs", &self.token, Some(json!(envelopes).to_string()))
            .await;
        assert_eq!(answer.matches("\"status\":201").count(), count, "{answer}");
        count
    }

    /// Everything that the daemon and the commands say while it runs.
    async fn gather(&self, daemon: &Daemon, ledger: &dyn Ledger, out: &mut Out) {
        daemon.wait_ready(self.api, READY).await;
        let count = self.bring().await;
        let ended = async || {
            // what refuses a secret parks its account: a person lets it go on, again and again
            for it in ledger.closures().await.expect("the ledger answers") {
                let opened = ledger.open(it.cause, &it.scope, None).await;
                opened.expect("the ledger answers");
            }
            let jobs = by_key(ledger).await;
            let told = |it: &presswork::job::Job| it.failure.is_some() || it.state.is_terminal();
            jobs.len() == count && jobs.iter().all(told)
        };
        wait::until("every job was answered", SOON, ended).await;
        assert!(count <= self.echo.told.load(Ordering::SeqCst));
        daemon.signal("USR1");
        let reported = async || daemon.stderr().contains("held_here");
        wait::until("the status report", READY, reported).await;
        let jobs = by_key(ledger).await;
        for job in &jobs {
            let id = job.id.to_string();
            out.put(
                format!("API, job {id}"),
                self.ask(&format!("/v1/jobs/{id}"), &self.token, None).await,
            );
        }
        for state in [
            State::Dead,
            State::Retrying,
            State::Held,
            State::Unresolved,
            State::Completed,
        ] {
            let Some(job) = jobs.iter().find(|it| it.state == state) else {
                continue;
            };
            let id = job.id.to_string();
            for args in [
                vec!["jobs", "show", &id],
                vec!["jobs", "show", &id, "--json"],
                vec!["dead", "show", &id],
            ] {
                out.cli(&self.home, &args).await;
            }
        }
        for args in [
            &["check"][..],
            &["check", "--json"],
            &["check", "--ping"],
            &["check", "--ping", "--json"],
            &["jobs", "list"],
            &["jobs", "list", "--json"],
            &["dead", "list"],
            &["dead", "list", "--json"],
            &["dead", "list", "--group"],
            &["unresolved", "list"],
            &["unresolved", "list", "--json"],
            &["quarantine", "list"],
            &["lanes"],
            &["kinds", "--json"],
            &["reload"],
        ] {
            out.cli(&self.home, args).await;
        }
        self.strangers(out).await;
        let answers = knock(self.resp, &self.hearts[0], &self.token).await;
        out.put("the Redis port", answers);
        for path in ["/metrics", "/readyz", "/livez"] {
            out.put(path, self.ask(path, &self.token, None).await);
        }
        let proc = format!("/proc/{}/cmdline", daemon.pid());
        out.file(Path::new(&proc));
    }

    /// The ledger's backup, and what is said about it.
    async fn back_up(&self, out: &mut Out) {
        let file = self.home.path().join("backup.tar");
        let name = file.to_str().expect("a path of ours");
        for args in [
            &["backup", "--media", name][..],
            &["backup", "--json", "--force", name],
            &["restore", "--check", name],
            &["restore", "--json", "--force", name],
        ] {
            out.cli(&self.home, args).await;
        }
        out.put("the backup", unpacked(&file));
    }

    /// Requests that bring secrets where none belongs.
    async fn strangers(&self, out: &mut Out) {
        let heart = &self.hearts[0];
        for (path, token, body) in [
            ("/v1/jobs".to_owned(), heart.as_str(), Some("{}".to_owned())),
            (
                format!("/v1/jobs?access_token={heart}"),
                &self.token,
                Some(format!("{{\"token\": \"{heart}\"")),
            ),
            (format!("/nowhere?key={heart}"), &self.token, None),
            (format!("/v1/jobs/sk-{heart}"), "", None),
        ] {
            out.put(
                format!("a stranger at {}", &path[..8]),
                self.ask(&path, token, body).await,
            );
        }
    }

    /// Configurations that are wrong, with secrets in the wrong place.
    async fn mistakes(&self, out: &mut Out) {
        let (a, b) = (&self.hearts[18], &self.hearts[19]);
        let account = |secret: &str| {
            format!(
                "[accounts.x]\nplatform = \"mastodon\"\nbase_url = \"https://m.example\"\nsecret = {secret}\n"
            )
        };
        for (n, config) in [
            account(&format!("\"{a}\"")),
            account(&format!("{{ env = \"{a}\" }}")),
            account(&format!("{{ file = \"{a}\" }}")),
            account(&format!("{{ credential = \"{a}\" }}")),
            account(&format!("{{ \"{a}\" = \"x\" }}")),
            account(&format!("{{ file = \"missing/{a}\" }}")),
            account(&format!("\"{a}")),
            format!("[ledger]\nurl = \"postgres://me:{b}@h.example/db\"\n"),
            format!("[ledger]\nurl = \"mysql://me:{b}@h.example/db\"\n"),
            format!("[ledger]\nurl = \"postgres://h.example/db?password={b}\"\n"),
            format!("[queue]\nurl = \"redis://:{b}@h.example:x\"\n"),
            format!("[queue]\nurl = \"sk-{b}\"\n"),
            format!("[api]\nlisten = \"sk-{a}\"\ntoken = \"{b}\"\n"),
            format!("[accounts.x]\nplatform = \"sk-{a}\"\nbase_url = \"https://u:{b}@m.example\"\n"),
            format!("[accounts.x]\nplatform = \"mastodon\"\nbase_url = \"https://m.example?access_token={b}\"\n"),
            format!("[accounts.x]\ntoken = \"{a}\"\npassword = \"{b}\"\n"),
            format!("[daemon]\nlog = \"token={a}\"\n"),
        ]
        .iter()
        .enumerate()
        {
            let home = Home::new(config);
            for args in [&["check"][..], &["check", "--json"], &["run"], &["--json", "run"]] {
                let output = home.cli(args).await;
                assert_eq!(output.status.code(), Some(2), "mistake {n}: {output:?}");
                out.said(&format!("mistake {n}: {}", args.join(" ")), output);
            }
        }
    }

    /// The daemon reads a wrong configuration, says so, and ends.
    async fn end(&self, daemon: Daemon, out: &mut Out) {
        let before = std::fs::read_to_string(self.home.config()).unwrap();
        let wrong = before.replace("{ env = \"STUDIO\" }", &format!("\"{}\"", self.hearts[18]));
        self.home.configure(&wrong);
        daemon.signal("HUP");
        let told = async || daemon.stderr().contains("the old one holds");
        wait::until("the wrong configuration is told", READY, told).await;
        daemon.signal("TERM");
        daemon.wait_exit(READY).await;
        out.put("the daemon's log", daemon.stderr());
        out.put("the daemon's standard output", daemon.stdout());
        let log = daemon.stderr();
        assert!(
            log.contains("TRACE") || log.contains("\"trace\""),
            "a log at trace"
        );
        assert!(log.contains("***"), "something was hidden");
        out.file(&self.home.path().join("state/reloaded.json"));
        out.file(&self.home.path().join("state/daemon.lock"));
    }

    fn hearts(&self) -> Vec<String> {
        // one that both runs know, so that a search that finds nothing ever would be seen
        assert!(
            spellings(&self.hearts[0])
                .iter()
                .any(|it| format!("x{}y", self.hearts[0]).contains(it))
        );
        assert_eq!(
            (self.hearts.len(), heart(self.run, 0)),
            (20, self.hearts[0].clone())
        );
        self.hearts.clone()
    }
}

/// Every row of every table of ours, as text.
async fn dump(url: &str) -> String {
    let pool = sqlx::PgPool::connect(url)
        .await
        .expect("the test's own connection");
    let tables = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname LIKE 'presswork%'";
    let tables: Vec<String> = sqlx::query_scalar(tables)
        .fetch_all(&pool)
        .await
        .expect("tables");
    assert!(3 < tables.len(), "{tables:?}");
    let mut all = String::new();
    for table in tables {
        let sql = sqlx::AssertSqlSafe(format!("SELECT t::text FROM {table} t"));
        let rows: Vec<String> = sqlx::query_scalar(sql)
            .fetch_all(&pool)
            .await
            .expect("rows");
        all.push_str(&format!("{table}\n{}\n", rows.join("\n")));
    }
    all
}

/// What a file of `presswork backup` holds: as SQL, where it is PostgreSQL's dump.
fn unpacked(file: &Path) -> Vec<u8> {
    let mut archive = Archive::open(file, &mut |_| {}).expect("a backup of ours is whole");
    let mut all = serde_json::to_vec(&archive.manifest).expect("a manifest is JSON");
    for member in archive.manifest.members.clone() {
        let mut bytes = Vec::new();
        let mut from = archive.read(&member.name).expect("it is in its list");
        from.read_to_end(&mut bytes).expect("it can be read");
        drop(from);
        if member.name == DUMP {
            let plain = file.with_extension("dump");
            std::fs::write(&plain, &bytes).expect("a file of our own");
            let tool = Tool::find("pg_restore", 15).expect("it came with the server");
            let made = tool.alone().arg("--file=-").arg(&plain).output();
            let made = made.expect("it starts");
            assert!(
                made.status.success() && 10_000 < made.stdout.len(),
                "{made:?}"
            );
            bytes = made.stdout;
        }
        all.extend(bytes);
    }
    all
}

/// What Redis writes to its disk.
async fn saved(url: &str) -> Vec<u8> {
    let client = redis::Client::open(url).expect("a URL of our own");
    let mut connection = client
        .get_multiplexed_async_connection()
        .await
        .expect("it answers");
    let mut config = async |words: &[&str]| -> redis::Value {
        let mut asked = redis::cmd("CONFIG");
        let told = asked.arg(words).query_async(&mut connection).await;
        told.expect("it answers")
    };
    // strings must be found in it
    config(&["SET", "rdbcompression", "no"]).await;
    let mut file = std::path::PathBuf::new();
    for name in ["dir", "dbfilename"] {
        let told = config(&["GET", name]).await;
        let told: HashMap<String, String> = redis::from_redis_value(told).expect("a pair");
        file.push(&told[name]);
    }
    let saved: redis::RedisResult<()> = redis::cmd("SAVE").query_async(&mut connection).await;
    saved.expect("it saves");
    let bytes = std::fs::read(&file).expect("it has been written");
    assert!(bytes.starts_with(b"REDIS"), "{}", file.display());
    bytes
}

/// Everything that Redis holds.
async fn held(url: &str) -> String {
    const ALL: &str = "local out = {} for _, key in ipairs(redis.call('KEYS', '*')) do \
        local kind = redis.call('TYPE', key).ok local value = '' \
        if kind == 'string' then value = redis.call('GET', key) \
        elseif kind == 'list' then value = cjson.encode(redis.call('LRANGE', key, 0, -1)) \
        elseif kind == 'set' then value = cjson.encode(redis.call('SMEMBERS', key)) \
        elseif kind == 'zset' then value = cjson.encode(redis.call('ZRANGE', key, 0, -1)) \
        elseif kind == 'hash' then value = cjson.encode(redis.call('HGETALL', key)) end \
        out[#out + 1] = key .. ' ' .. kind .. ' ' .. value end return table.concat(out, '\\n')";
    let client = redis::Client::open(url).expect("a URL of our own");
    let mut connection = client
        .get_multiplexed_async_connection()
        .await
        .expect("it answers");
    let all: redis::RedisResult<String> = redis::cmd("EVAL")
        .arg(ALL)
        .arg(0)
        .query_async(&mut connection)
        .await;
    all.expect("it answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_leaks_from_the_servers() {
    let (postgres, redis) = (Postgres::start(), Redis::start());
    let plain = postgres.create_database().await;
    // hearts 18 and 19: the passwords, as they are and as a URL writes them
    let (ledger, queue) = (heart(1, 18), heart(1, 19));
    redis.cli(&["CONFIG", "SET", "requirepass", &format!("{queue}/@+")]);
    let ledger_url = plain.replace("postgres@", &format!("postgres:{ledger}%2F%40+@"));
    let queue_url = redis
        .url()
        .replace("redis://", &format!("redis://:{queue}%2F%40+@"));
    let stores = Stores::new(&ledger_url, &queue_url);
    let scene = Scene::new(
        1,
        stores,
        "{ env = \"LEDGER\" }",
        "{ file = \"queue.url\" }",
        "json",
    )
    .await;
    let scene = Scene {
        home: scene.home.env("LEDGER", &ledger_url),
        ..scene
    };
    std::fs::write(scene.home.path().join("queue.url"), &queue_url).unwrap();
    let daemon = scene.home.start(&["run"]);
    let door = scene.stores.ledger().await;
    let mut out = Out::default();
    scene.gather(&daemon, &*door, &mut out).await;
    out.put("Redis", held(&queue_url).await);
    out.put("Redis' file", saved(&queue_url).await);
    scene.back_up(&mut out).await;
    scene.end(daemon, &mut out).await;
    out.put("PostgreSQL", dump(&plain).await);
    out.holds_none_of(&scene.hearts());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_leaks_from_the_embedded_stores_nor_from_mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.sqlite");
    let url = format!("sqlite:{}", file.display());
    let scene = Scene::new(
        2,
        Stores::new(&url, "memory:"),
        &format!("\"{url}\""),
        "\"memory:\"",
        "human",
    )
    .await;
    let daemon = scene.home.start(&["run"]);
    daemon.wait_ready(scene.api, READY).await;
    let door = scene.stores.ledger().await;
    let mut out = Out::default();
    scene.gather(&daemon, &*door, &mut out).await;
    scene.mistakes(&mut out).await;
    scene.back_up(&mut out).await;
    // also what SQLite hasn't moved yet
    out.file(&file);
    out.file(&file.with_extension("sqlite-wal"));
    scene.end(daemon, &mut out).await;
    out.file(&file);
    out.holds_none_of(&scene.hearts());
}
