//! `command.run` by real daemons: what a program gets and what it doesn't, its limits, its end, and that
//! nothing which it started outlives its attempt.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use presswork::job::Job;
use presswork::lifecycle::State;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Place;
use crate::kit::daemon::Daemon;
use crate::kit::languages::text_of;
use crate::kit::process::{alive, find_program};
use crate::kit::wait;
use crate::workers::readme;
use crate::world::{ENDED, Host, READY};

const CANARY: &str = "canary-4711-0815-sings";

/// A place with programs.
struct Shop {
    place: Place,
    folder: TempDir,
}

impl Shop {
    /// Of daemons that outlive each test: a busy machine doesn't cost them their lease.
    async fn new() -> Self {
        let mut shop = Self::of_mortals().await;
        shop.place.stores.lease_s = 30;
        shop
    }

    /// Of daemons that are killed, and whose jobs are taken back soon.
    async fn of_mortals() -> Self {
        Self {
            place: Place::new().await,
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command of a script; `more` of its table.
    fn script(&mut self, name: &str, interpreter: &str, text: &str, more: &str) {
        let path = self.path(name);
        let here = self.folder.path().display().to_string();
        let text = format!("#!{interpreter}\n{}", text.replace("HERE", &here));
        fs::write(&path, text).expect("a script can be written");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("it may run");
        let table = format!(
            "[commands.{name}]\nprogram = \"{}\"\n{more}\n",
            path.display()
        );
        self.place.stores.more.push_str(&table);
    }

    fn shell(&mut self, name: &str, text: &str, more: &str) {
        self.script(name, "/bin/sh", text, more);
    }

    fn python(&mut self, name: &str, text: &str, more: &str) {
        let found = find_program("python3", &[]).expect("python3 is there");
        // what is in PATH may be somebody's wrapper, which sets variables of its own
        let mut itself = Command::new(found);
        itself.args(["-c", "import sys; print(sys.executable, end='')"]);
        let itself = itself.output().expect("python3 runs").stdout;
        self.script(name, &text_of(&itself), text, more);
    }

    async fn run(&self, host: &Host) -> Daemon {
        let temp = self.path("tmp");
        fs::create_dir_all(&temp).expect("a folder can be made");
        let temp = temp.display().to_string();
        let daemon = host.home.start_with(&["run"], &[("TMPDIR", &temp)]);
        daemon.wait_ready(host.api, READY).await;
        daemon
    }

    /// The folders of commands that there are.
    fn folders(&self) -> usize {
        fs::read_dir(self.path("tmp"))
            .expect("the folder is there")
            .count()
    }

    async fn submit(&self, host: &Host, key: &str, command: &str, input: Value) {
        let envelope = json!({"v": 1, "kind": "command.run", "key": key,
            "payload": {"command": command, "input": input}});
        host.submit(&envelope).await;
    }

    async fn ended(&self, key: &str, state: State) -> Job {
        let what = || self.place.stands(key);
        wait::until(&format!("{key} is {state}"), ENDED, async || {
            let job = what().await;
            let over = matches!(
                job.state,
                State::Completed | State::Dead | State::Unresolved | State::Held | State::Cancelled
            );
            assert!(!over || job.state == state, "{key}: {job:?}");
            job.state == state
        })
        .await;
        what().await
    }

    async fn done(&self, host: &Host, command: &str, input: Value) -> Value {
        let key = format!("key-{command}");
        self.submit(host, &key, command, input).await;
        result(&self.ended(&key, State::Completed).await)
    }

    /// The numbers of the processes that a script wrote down.
    async fn pids(&self, name: &str, count: usize) -> Vec<u32> {
        let read = || -> Vec<u32> {
            let text = fs::read_to_string(self.path(name)).unwrap_or_default();
            text.lines().filter_map(|it| it.parse().ok()).collect()
        };
        wait::until("its processes run", ENDED, async || read().len() == count).await;
        read()
    }
}

fn result(job: &Job) -> Value {
    serde_json::from_str(job.result.as_deref().expect("it has a result")).expect("it is JSON")
}

async fn gone(pids: &[u32]) {
    wait::until("all that it started is gone", ENDED, async || {
        pids.iter().all(|it| !alive(*it))
    })
    .await;
}

/// Two that would stay: one in the group, one that left its session; both heedless of TERM.
const STAYS: &str = "trap '' TERM\n\
    (trap '' TERM; while :; do sleep 1; done) & echo $! >>HERE/pids.new\n\
    setsid sh -c \"trap '' TERM; echo \\$\\$ >>HERE/pids.new; while :; do sleep 1; done\" &\n\
    while [ \"$(wc -l <HERE/pids.new)\" -lt 2 ]; do sleep 0.05; done\n\
    echo $$ >>HERE/pids.new; mv HERE/pids.new HERE/pids\n\
    while :; do sleep 1; done\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_command_gets_what_it_was_given_and_nothing_else() {
    let mut shop = Shop::new().await;
    let secret = shop.path("secret");
    fs::write(&secret, CANARY).expect("a secret can be written");
    let env = format!(
        "args = [\"$HOME\", \"a b\"]\nenv = {{ LEVEL = \"7\", KEY = {{ file = \"{}\" }} }}\nmemory_mb = 900\ncpu_s = 50\nopen_files = 99\nfile_mb = 3\n",
        secret.display()
    );
    shop.python(
        "look",
        r#"
import json, os, resource as r, sys
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
fds = sorted(int(it) for it in os.listdir("/proc/self/fd"))
env = dict(os.environ)
key = env.pop("KEY")
print(json.dumps({
    "args": sys.argv[1:], "env": env, "has_key": len(key), "cwd": os.getcwd(), "files": os.listdir("."),
    "fds": [it for it in fds if os.path.exists("/proc/self/fd/%d" % it)],
    "leads": os.getsid(0) == os.getpid() == os.getpgid(0), "no_new_privs": status["NoNewPrivs"].strip(),
    "mode": oct(os.stat(".").st_mode & 0o777),
    "limits": [r.getrlimit(it)[0] for it in (r.RLIMIT_AS, r.RLIMIT_CPU, r.RLIMIT_NOFILE, r.RLIMIT_FSIZE, r.RLIMIT_CORE)],
    "input": json.load(sys.stdin), "rest": sys.stdin.read(),
}))
"#,
        &env,
    );
    let host = shop.place.host();
    let temp = shop.path("tmp");
    fs::create_dir_all(&temp).expect("a folder can be made");
    // the daemon itself is started with a file open and a variable that is nobody's business
    let script = format!(
        "exec 7<'{}'; export NOBODYS=business TMPDIR='{}'; exec \"$0\" \"$@\"",
        secret.display(),
        temp.display()
    );
    let daemon = host
        .home
        .start_through(&["/bin/sh", "-c", &script], &["run"]);
    daemon.wait_ready(host.api, READY).await;
    let large = "x".repeat(200_000);
    let input = json!({"a": [1, {"b": "ü\n"}], "large": large});
    let seen = shop.done(&host, "look", input.clone()).await;
    let (job, effect) = shop.place.job("key-look").await;
    let cwd = seen["cwd"].as_str().expect("a folder");
    assert!(
        Path::new(cwd).starts_with(temp.canonicalize().expect("it is there")),
        "{cwd}"
    );
    let home = seen["env"]["HOME"].as_str().expect("a home");
    let env = json!({
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8",
        "HOME": home, "TMPDIR": home, "PRESSWORK_JOB_ID": job.id, "PRESSWORK_ATTEMPT": "1",
        "PRESSWORK_KEY": effect.id, "LEVEL": "7",
    });
    assert_eq!(seen["env"], env);
    assert_eq!(
        Path::new(home).canonicalize().ok(),
        None,
        "its folder is gone"
    );
    assert_eq!(seen["has_key"], CANARY.len());
    assert_eq!(seen["args"], json!(["$HOME", "a b"]), "no shell reads them");
    assert_eq!((&seen["input"], &seen["rest"]), (&input, &json!("")));
    assert_eq!(seen["fds"], json!([0, 1, 2]));
    assert_eq!(
        (&seen["leads"], &seen["no_new_privs"]),
        (&json!(true), &json!("1"))
    );
    assert_eq!(
        (&seen["mode"], &seen["files"]),
        (&json!("0o700"), &json!([]))
    );
    assert_eq!(seen["limits"], json!([900u64 << 20, 50, 99, 3 << 20, 0]));
    assert_eq!(shop.folders(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_says_is_bounded_and_tells_no_secret() {
    let mut shop = Shop::new().await;
    let secret = shop.path("secret");
    fs::write(&secret, CANARY).expect("a secret can be written");
    let keyed = format!("env = {{ KEY = {{ file = \"{}\" }} }}\n", secret.display());
    shop.shell("tells", "echo \"no: $KEY\" >&2; echo \"{\\\"progress\\\": 1, \\\"note\\\": \\\"$KEY\\\"}\"; exit 65", &keyed);
    shop.shell("prints", "echo \"{\\\"progress\\\": 40, \\\"note\\\": \\\"half\\\"}\"; echo \"{\\\"key\\\": \\\"$KEY\\\"}\"", &keyed);
    shop.shell("loud", "printf '\"'; head -c 3000000 /dev/zero | tr '\\0' 'x'; printf '\"'; head -c 300000 /dev/zero | tr '\\0' 'y' >&2; exit 0", "output_bytes_max = 1000");
    shop.shell("binary", "printf '\\001\\377\\000'", "repeatable = true");
    shop.shell("deaf", "exec 0<&-; echo '\"done\"'", "");
    shop.shell("mute", ":", "");
    let host = shop.place.host();
    host.configure("");
    let debug = fs::read_to_string(host.home.config()).expect("it is there");
    host.home
        .configure(&debug.replace("log = \"info\"", "log = \"debug\""));
    let daemon = shop.run(&host).await;
    let huge = json!("x".repeat(240_000));
    assert_eq!(shop.done(&host, "deaf", huge).await, "done");
    assert_eq!(shop.done(&host, "mute", Value::Null).await, Value::Null);
    shop.done(&host, "prints", Value::Null).await;
    for (name, code) in [
        ("tells", "exit_65"),
        ("loud", "output"),
        ("binary", "output"),
    ] {
        shop.submit(&host, name, name, Value::Null).await;
        let failure = shop
            .ended(name, State::Dead)
            .await
            .failure
            .expect("it says why");
        assert_eq!(failure.code, code, "{failure}");
        assert!(failure.message.len() < 2_200, "{failure}");
    }
    // its words are heard, at debug, without the secret
    assert!(
        daemon.stderr().contains("tells says: no: "),
        "{}",
        daemon.stderr()
    );
    let mut told = daemon.stderr() + &daemon.stdout();
    for key in ["tells", "key-prints"] {
        let job = shop.place.stands(key).await;
        let effects = shop
            .place
            .ledger
            .effects(job.id)
            .await
            .expect("they are there");
        let attempts = shop
            .place
            .ledger
            .attempts(job.id)
            .await
            .expect("they are there");
        told += &format!("{job:?} {effects:?} {attempts:?}");
    }
    assert!(!told.contains(CANARY), "a secret was told");
    assert_eq!(shop.folders(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_end_of_a_command_leads_where_it_is_documented() {
    let mut shop = Shop::new().await;
    let exits = "read n; exit $n";
    shop.shell("once", exits, "");
    shop.shell("often", exits, "repeatable = true");
    shop.python("greedy", "x = 'x' * (1 << 30)", "memory_mb = 200");
    shop.shell("busy", "while :; do :; done", "cpu_s = 1");
    shop.shell(
        "writer",
        "exec head -c 3000000 /dev/zero >large",
        "file_mb = 1",
    );
    shop.shell("dies", "kill -9 $$", "repeatable = true");
    shop.place
        .stores
        .more
        .push_str("[commands.absent]\nprogram = \"/nowhere/at/all\"\n");
    let host = shop.place.host();
    let _daemon = shop.run(&host).await;
    let cases = [
        ("once", 0, State::Completed, 0, ""),
        ("once", 65, State::Dead, 1, "exit_65"),
        ("once", 75, State::Dead, 5, "exit_75"),
        ("once", 1, State::Dead, 5, "exit_1"),
        ("once", 76, State::Unresolved, 0, "unresolved"),
        ("often", 76, State::Dead, 5, "exit_76"),
        ("once", 77, State::Held, 0, "exit_77"),
        ("once", 78, State::Held, 0, "exit_78"),
        ("absent", 0, State::Held, 0, "exit_127"),
        ("greedy", 0, State::Dead, 5, "exit_1"),
        ("busy", 0, State::Unresolved, 0, "unresolved"),
        ("writer", 0, State::Unresolved, 0, "unresolved"),
        ("dies", 0, State::Dead, 5, "signal"),
    ];
    for (command, n, ..) in cases {
        shop.submit(&host, &format!("{command}-{n}"), command, json!(n))
            .await;
    }
    for (command, n, state, attempts, code) in cases {
        let job = shop.ended(&format!("{command}-{n}"), state).await;
        let told = format!("{job:?}");
        assert_eq!(job.attempts, attempts, "{told}");
        assert_eq!(
            job.failure.map_or(String::new(), |it| it.code),
            code,
            "{told}"
        );
    }
    let told = shop
        .place
        .stands("greedy-0")
        .await
        .failure
        .expect("it says why")
        .message;
    assert!(told.contains("memory_mb = 200"), "{told}");
    for (key, words) in [("busy-0", "cpu_s = 1"), ("writer-0", "file_mb = 1")] {
        let (_, effect) = shop.place.job(key).await;
        assert!(format!("{effect:?}").contains(words), "{effect:?}");
    }
    assert_eq!(shop.folders(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_command_started_outlives_its_time() {
    let mut shop = Shop::new().await;
    shop.shell("stays", STAYS, "timeout_s = 2");
    // one that ends by itself leaves nothing behind either
    shop.shell(
        "leaves",
        "setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $! >HERE/left; echo 1",
        "",
    );
    let host = shop.place.host();
    let _daemon = shop.run(&host).await;
    assert_eq!(shop.done(&host, "leaves", Value::Null).await, 1);
    gone(&shop.pids("left", 1).await).await;
    shop.submit(&host, "stays", "stays", Value::Null).await;
    let pids = shop.pids("pids", 3).await;
    shop.ended("stays", State::Unresolved).await;
    assert!(
        pids.iter().all(|it| !alive(*it)),
        "they are gone before it is settled"
    );
    let (_, effect) = shop.place.job("stays").await;
    assert!(
        format!("{effect:?}").contains("took longer than 2 s"),
        "{effect:?}"
    );
    assert_eq!(shop.folders(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemons_command_dies_and_is_run_again_only_where_it_may_be() {
    for (more, stands) in [
        ("", State::Unresolved),
        ("repeatable = true", State::Completed),
    ] {
        let mut shop = Shop::of_mortals().await;
        let text = format!("[ -e HERE/pids ] && echo 2 && exit 0\n{STAYS}");
        shop.shell("stays", &text, more);
        let host = shop.place.host();
        let daemon = shop.run(&host).await;
        shop.submit(&host, "stays", "stays", Value::Null).await;
        let pids = shop.pids("pids", 3).await;
        assert!(pids.iter().all(|it| alive(*it)), "they run");
        // the daemon alone, at once
        daemon.signal("KILL");
        gone(&pids).await;
        wait::until("its folder is gone", ENDED, async || shop.folders() == 0).await;
        let _again = shop.run(&host).await;
        let job = shop.ended("stays", stands).await;
        assert_eq!(job.attempts, 0, "{job:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_ends_with_a_cancel_and_with_a_drain() {
    let mut shop = Shop::new().await;
    shop.shell("stays", STAYS, "repeatable = true");
    let host = shop.place.host();
    let daemon = shop.run(&host).await;
    shop.submit(&host, "first", "stays", Value::Null).await;
    let pids = shop.pids("pids", 3).await;
    let id = shop.place.stands("first").await.id.to_string();
    let done = host.home.cli(&["jobs", "cancel", &id]).await;
    assert!(done.status.success(), "{done:?}");
    shop.ended("first", State::Cancelled).await;
    assert!(
        pids.iter().all(|it| !alive(*it)),
        "they are gone before it is settled"
    );
    fs::remove_file(shop.path("pids")).expect("it was there");
    shop.submit(&host, "second", "stays", Value::Null).await;
    let pids = shop.pids("pids", 3).await;
    daemon.signal("TERM");
    assert!(daemon.wait_exit(READY).await.success());
    assert!(
        pids.iter().all(|it| !alive(*it)),
        "they are gone with the daemon"
    );
    let job = shop.place.stands("second").await;
    assert_eq!(
        (job.state, job.attempts),
        (State::Ready, 0),
        "stopping is not failing"
    );
    assert_eq!(shop.folders(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_script_is_a_command() {
    let mut shop = Shop::new().await;
    let text = readme("sh");
    let (_, text) = text
        .split_once('\n')
        .expect("its first line names the shell");
    shop.shell("count", text, "");
    let host = shop.place.host();
    let _daemon = shop.run(&host).await;
    let seen = shop.done(&host, "count", json!("three small words")).await;
    assert_eq!(seen, json!({"words": 3}));
    let job = shop.place.stands("key-count").await;
    assert!(job.progress.is_none_or(|it| it.percent <= 100));
}
