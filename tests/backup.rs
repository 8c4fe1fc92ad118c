//! Backup and restore with the real daemon: what was published after the backup isn't published again,
//! what nobody can know stands in front of a person, and a file that isn't whole is refused.

mod kit;
#[path = "storm/checker.rs"]
mod checker;
#[path = "storm/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use checker::by_key;
use kit::daemon::Daemon;
use kit::postgres::Postgres;
use kit::redis::Redis;
use kit::wait;
use presswork::effect::{EffectClass, EffectState};
use presswork::job::Job;
use presswork::ledger::Ledger;
use presswork::lifecycle::State;
use serde_json::{Value, json};
use sqlx::Connection as _;
use tempfile::TempDir;
use world::{Host, Outside, READY, Stores, envelope};

const SOON: Duration = Duration::from_secs(90);
/// Lanes of these tests: in one everything goes on at once, the others are paused at the backup.
const PAUSED: [&str; 2] = ["publish", "generate"];

/// A host, the outside, and a folder for what a backup is made of.
struct Scene {
    host: Host,
    stores: Stores,
    outside: Outside,
    folder: TempDir,
    jobs: usize,
}

impl Scene {
    async fn new(ledger: Option<&str>, queue: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let outside = Outside::new().await;
        let file = format!("sqlite:{}", folder.path().join("ledger.sqlite").display());
        let stores = Stores::new(ledger.unwrap_or(&file), queue);
        let host = Host::new(&stores, &outside.url);
        Self {
            host,
            stores,
            outside,
            folder,
            jobs: 0,
        }
    }

    fn file(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        path.to_str().expect("a path of ours").to_owned()
    }

    /// Runs a command, which must end so; what it said as JSON, where it did.
    async fn cli(&self, code: i32, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.push("--json");
        let output = self.host.home.cli(&args).await;
        let said = String::from_utf8_lossy(&output.stdout);
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}{wrong}");
        serde_json::from_str(&said)
            .or_else(|_| serde_json::from_str(&wrong))
            .unwrap_or_default()
    }

    /// Starts a daemon whose lanes are paused, as they are in the ledger.
    async fn start_paused(&self) -> Daemon {
        let daemon = self.host.run();
        daemon.wait_ready(self.host.api, READY).await;
        let seen = async || daemon.stderr().contains("lanes paused");
        wait::until("the daemon knows of the pauses", READY, seen).await;
        daemon
    }

    async fn resume(&self, lanes: &[&str]) {
        for lane in lanes {
            self.cli(0, &["lanes", "resume", lane]).await;
        }
    }

    /// Submits a job of a kind to a lane, to be found by its key.
    async fn submit(&mut self, kind: &'static str, lane: &str, fault: &str) -> String {
        self.jobs += 1;
        let payload = json!({"sleep_ms": 3_600_000});
        let (wanted, mut envelope) = envelope(self.jobs, kind, payload, fault);
        envelope["lane"] = lane.into();
        self.host.submit(&envelope).await;
        wanted.key
    }

    async fn job(&self, ledger: &dyn Ledger, key: &str) -> Job {
        let jobs = by_key(ledger).await;
        let found = jobs.into_iter().find(|it| it.key.as_deref() == Some(key));
        found.unwrap_or_else(|| panic!("{key} is in the ledger"))
    }

    async fn reaches(&self, ledger: &dyn Ledger, keys: &[&String], states: &[State]) {
        let what = format!("{keys:?} are {states:?}");
        wait::until(&what, SOON, async || {
            let jobs = by_key(ledger).await;
            let there = |key: &&String| {
                jobs.iter()
                    .any(|it| it.key.as_deref() == Some(key) && states.contains(&it.state))
            };
            keys.iter().all(there)
        })
        .await;
    }

    /// How often each key was published, and how many texts were generated.
    async fn acts(&self) -> BTreeMap<String, usize> {
        let mut acts = BTreeMap::new();
        for act in self.outside.acts().await {
            let op = act["op"].as_str().unwrap_or_default();
            let key = match op {
                "status.create" | "putRecord" => act["text"].as_str().unwrap_or_default(),
                // of a text the answer is told, not what was asked
                "chat.completion" => op,
                _ => continue,
            };
            let key = key.split(' ').next().unwrap_or_default();
            *acts.entry(key.to_owned()).or_default() += 1;
        }
        acts
    }
}

/// Backup amid the work, more work, the ledger's end, restore, and on.
async fn nothing_is_published_twice(mut scene: Scene, destroy: impl AsyncFn(&Scene)) {
    scene.cli(0, &["migrate"]).await;
    for lane in PAUSED {
        scene.cli(0, &["lanes", "pause", lane]).await;
    }
    let daemon = scene.start_paused().await;
    let ledger = scene.stores.ledger().await;
    let ledger = &*ledger;
    let done = scene.submit("post.mastodon", "default", "").await;
    let lost = scene.submit("post.mastodon", "default", "act_504").await;
    let sleeper = scene.submit("test.job", "default", "").await;
    let told = scene.submit("post.mastodon", "publish", "").await;
    let untold = scene.submit("post.bluesky", "publish", "").await;
    let text = scene.submit("generate.text", "generate", "").await;
    scene.reaches(ledger, &[&done], &[State::Completed]).await;
    scene.reaches(ledger, &[&sleeper], &[State::Running]).await;
    let id = scene.job(ledger, &lost).await.id;
    let sent = async || {
        ledger
            .effects(id)
            .await
            .is_ok_and(|it| it.iter().any(|it| 0 < it.sends))
    };
    wait::until("a post's answer is lost", SOON, sent).await;

    let backup = scene.file("backup.tar");
    let said = scene.cli(0, &["backup", &backup]).await;
    assert_eq!(said["media"], Value::Null);
    let mode = std::fs::metadata(&backup).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    scene.cli(4, &["backup", &backup]).await;
    scene.cli(0, &["backup", "--force", &backup]).await;
    assert_eq!(
        scene.cli(0, &["restore", "--check", &backup]).await["media"],
        Value::Null
    );

    // after it, one of the two posts is published, the text is paid for, and a new job comes
    scene.resume(&["generate"]).await;
    let late = scene.submit("post.mastodon", "default", "").await;
    scene
        .reaches(ledger, &[&text, &late, &lost], &[State::Completed])
        .await;
    scene
        .cli(
            0,
            &[
                "jobs",
                "cancel",
                &scene.job(ledger, &untold).await.id.to_string(),
            ],
        )
        .await;
    scene.resume(&["publish"]).await;
    scene.reaches(ledger, &[&told], &[State::Completed]).await;
    assert_eq!(scene.acts().await.get(&untold), None);

    // not while a daemon runs
    scene.cli(4, &["restore", "--force", &backup]).await;
    daemon.kill9();
    let over = async || ledger.live_runs().await.is_ok_and(|it| it.is_empty());
    if ledger.name() == "postgres" {
        wait::until("the dead daemon's lease is over", SOON, over).await;
    }
    // nor over what is there, nor anything that isn't whole
    scene.cli(4, &["restore", &backup]).await;
    let bytes = std::fs::read(&backup).unwrap();
    let torn = scene.file("torn.tar");
    let mut other = bytes.clone();
    other[bytes.len() / 2] ^= 0x10;
    for bytes in [&bytes[..bytes.len() - 3_000], &bytes[..10], &other] {
        std::fs::write(&torn, bytes).unwrap();
        scene.cli(1, &["restore", "--force", &torn]).await;
    }
    destroy(&scene).await;
    let said = scene
        .cli(0, &["restore", &backup, "--reason", "it's gone"])
        .await;
    let said = said["restored"].as_str().unwrap_or_default();
    assert!(said.contains("it's gone; 1 running jobs"), "{said}");

    let daemon = scene.start_paused().await;
    let ledger = scene.stores.ledger().await;
    let ledger = &*ledger;
    scene.resume(&PAUSED).await;
    let fresh = scene.submit("post.bluesky", "publish", "").await;
    let ended = [State::Completed, State::Unresolved];
    scene
        .reaches(
            ledger,
            &[&done, &lost, &told, &untold, &text, &fresh],
            &ended,
        )
        .await;
    for key in [&done, &lost, &text, &fresh] {
        assert_eq!(
            scene.job(ledger, key).await.state,
            State::Completed,
            "{key}"
        );
    }
    let listed = scene.cli(0, &["unresolved", "list"]).await;
    let listed = listed.as_array().expect("a list");
    assert_eq!(listed.len(), 2, "{listed:?}");
    for it in listed {
        let why = it["job"]["failure"]["message"].as_str().unwrap_or_default();
        assert!(why.contains("restored from a backup of"), "{why}");
    }
    // the paid call follows its own rule: once more, counted
    let result: Value =
        serde_json::from_str(&scene.job(ledger, &text).await.result.unwrap()).unwrap();
    assert_eq!(result["usage"]["sends"], 2);
    // whoever was running is put back, and nobody's death is charged to it
    scene.reaches(ledger, &[&sleeper], &[State::Running]).await;
    let slept = scene.job(ledger, &sleeper).await;
    assert_eq!((slept.crashes, slept.attempts), (0, 0));
    // a person looks, and says that one of them isn't there: it goes out, and the other never does
    let id = scene.job(ledger, &untold).await.id.to_string();
    scene
        .cli(0, &["unresolved", "resolve", &id, "--did-not-happen"])
        .await;
    scene.reaches(ledger, &[&untold], &[State::Completed]).await;
    let published = [&done, &lost, &told, &untold, &late, &fresh].map(|it| (it.clone(), 1));
    let mut expected = BTreeMap::from(published);
    expected.insert("chat.completion".to_owned(), 2);
    assert_eq!(scene.acts().await, expected);
    let audit = ledger.audit(None, 1_000).await.unwrap();
    assert!(audit.iter().any(|it| it.action == "restore"));
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_file_publishes_nothing_twice() {
    let scene = Scene::new(None, "memory:").await;
    nothing_is_published_twice(scene, async |scene| {
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(scene.file(&format!("ledger.sqlite{end}")));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_database_publishes_nothing_twice() {
    let (url, redis) = (Postgres::shared().create_database().await, Redis::start());
    // Redis outlives the ledger: what it holds is newer than what comes back
    let scene = Scene::new(Some(&url), &redis.url()).await;
    nothing_is_published_twice(scene, async |_| {
        let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
        let gone = "DROP SCHEMA presswork CASCADE";
        sqlx::raw_sql(gone).execute(&mut connection).await.unwrap();
    })
    .await;
}

fn files_of(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut todo) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path().is_dir() {
                true => todo.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found
}

/// By somebody's word that nothing ran, all goes on as it was; the media come back with the ledger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_ran_goes_on_by_itself() {
    let mut scene = Scene::new(None, "memory:").await;
    scene.cli(0, &["migrate"]).await;
    for lane in PAUSED {
        scene.cli(0, &["lanes", "pause", lane]).await;
    }
    let daemon = scene.start_paused().await;
    let ledger = scene.stores.ledger().await;
    let drawn = json!({
        "kind": "illustrate.image", "account": "studio", "key": "picture",
        "payload": {"model": "gpt-image-1", "prompt": "a bear"},
    });
    scene.host.submit(&drawn).await;
    let key = "picture".to_owned();
    scene.reaches(&*ledger, &[&key], &[State::Completed]).await;
    let waiting = scene.submit("post.bluesky", "publish", "").await;
    daemon.signal("TERM");
    daemon.wait_exit(READY).await;
    let result = scene.job(&*ledger, &key).await.result.unwrap();
    let result: Value = serde_json::from_str(&result).unwrap();
    drop(ledger);

    let backup = scene.file("backup.tar");
    assert_eq!(
        scene.cli(0, &["backup", "--media", &backup]).await["media"],
        1
    );
    let media = scene.host.home.path().join("state/media-store");
    let before = files_of(&media);
    assert_eq!(before.len(), 1, "{before:?}");
    std::fs::remove_dir_all(&media).unwrap();
    // what is there is put aside, not lost
    let said = scene
        .cli(0, &["restore", "--force", "--nothing-ran-since", &backup])
        .await;
    let aside = said["aside"].as_str().expect("it says where");
    assert!(Path::new(aside).exists());
    assert!(
        said["restored"].as_str().unwrap().contains("by their word"),
        "{said}"
    );
    assert_eq!(files_of(&media), before);

    let daemon = scene.start_paused().await;
    let ledger = scene.stores.ledger().await;
    scene.resume(&PAUSED).await;
    let picture = json!({"media": result["images"][0]["media"], "alt": "a bear"});
    let posted = json!({
        "kind": "post.mastodon", "account": "alice", "key": "posted",
        "payload": {"text": "posted with it", "media": [picture]},
    });
    scene.host.submit(&posted).await;
    let posted = "posted".to_owned();
    scene
        .reaches(&*ledger, &[&waiting, &posted], &[State::Completed])
        .await;
    let acts = scene.acts().await;
    assert_eq!(
        (acts.get(&waiting), acts.get(&posted)),
        (Some(&1), Some(&1))
    );
    drop(daemon);
}

/// A later restore doesn't forget an earlier one, and what stood in front of a person stays there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_restore_keeps_the_doubts_of_the_first() {
    let mut scene = Scene::new(None, "memory:").await;
    scene.cli(0, &["migrate"]).await;
    let daemon = scene.host.run();
    daemon.wait_ready(scene.host.api, READY).await;
    scene.cli(0, &["lanes", "pause", "publish"]).await;
    let seen = async || daemon.stderr().contains("lanes paused");
    wait::until("the daemon knows of the pause", READY, seen).await;
    let post = scene.submit("post.mastodon", "publish", "").await;
    let backup = scene.file("backup.tar");
    scene.cli(0, &["backup", &backup]).await;
    daemon.signal("TERM");
    daemon.wait_exit(READY).await;
    scene.cli(0, &["restore", "--force", &backup]).await;
    let second = scene.file("second.tar");
    scene.cli(0, &["backup", &second]).await;
    scene
        .cli(0, &["restore", "--force", "--nothing-ran-since", &second])
        .await;
    let daemon = scene.start_paused().await;
    scene.resume(&["publish"]).await;
    let ledger = scene.stores.ledger().await;
    scene
        .reaches(&*ledger, &[&post], &[State::Unresolved])
        .await;
    let job = scene.job(&*ledger, &post).await;
    let effects = ledger.effects(job.id).await.unwrap();
    let [effect] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(
        (effect.class, effect.state, effect.sends),
        (EffectClass::A, EffectState::Unresolved, 0)
    );
    assert!(effect.key_lost && effect.maybe_since.is_some());
    assert!(scene.acts().await.is_empty());
    drop(daemon);
}

/// A backup is of one kind of ledger, and needs PostgreSQL's programs for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_told() {
    let scene = Scene::new(None, "memory:").await;
    let backup = scene.file("backup.tar");
    scene.cli(5, &["backup", &backup]).await;
    assert!(!Path::new(&backup).exists());
    scene.cli(0, &["migrate"]).await;
    scene.cli(1, &["backup", &scene.file("no/where.tar")]).await;
    scene.cli(0, &["backup", &backup]).await;
    scene.cli(3, &["restore", &scene.file("missing.tar")]).await;
    // an empty ledger may be replaced
    scene.cli(0, &["restore", &backup]).await;
    let left = files_of(scene.folder.path());
    assert!(
        left.iter()
            .all(|it| !it.display().to_string().contains("partial")),
        "{left:?}"
    );

    let url = Postgres::shared().create_database().await;
    let other = Scene::new(Some(&url), "memory:").await;
    other.cli(4, &["restore", &backup]).await;
    other.cli(0, &["migrate"]).await;
    let output = other
        .host
        .home
        .cli(&["backup", "--json", &other.file("b.tar")])
        .await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // into the same, still empty; its functions and grants are as `migrate` made them
    other.cli(0, &["restore", &other.file("b.tar")]).await;
    other.cli(0, &["migrate", "--check"]).await;
    let daemon = other.host.run();
    daemon.wait_ready(other.host.api, READY).await;
}
