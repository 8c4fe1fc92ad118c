//! `check --print-acl`: what it prints, pasted as it stands, lets in the daemon and its producers, and the
//! whole way of a job goes through, also after a restart of either. (What it keeps out: tests/queue/acl.rs,
//! tests/engine/sql.rs.)

use std::time::Duration;

use redis::{Commands, Connection};
use serde_json::{Value, json};

use super::{Transcript, code, said};
use crate::kit::daemon::{Daemon, Home};
use crate::kit::port::Port;
use crate::kit::redis::Redis;
use crate::kit::wait;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn who_is_to_be_let_in_is_printed() {
    let mut it = Transcript::new("");
    it.run(&["check", "--print-acl"]).await;
    it.run(&["check", "--print-acl", "--json"]).await;
    it.home.configure(
        "[ledger]\nurl = \"postgres://127.0.0.1:1/none\"\n[queue]\nurl = \"redis://127.0.0.1:1/2\"\n\
         [inbox]\ntenants = \"acme, zoo\"\n",
    );
    it.run(&["check", "--print-acl"]).await;
    it.run(&["check", "--print-acl", "--ping"]).await;
    let output = it.home.cli(&["check", "--print-acl", "--json"]).await;
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let users = all["redis"].as_array().unwrap();
    let tenants: Vec<&Value> = users.iter().map(|it| &it["tenant"]).collect();
    assert_eq!(json!(tenants), json!([null, null, "acme", "zoo"]));
    assert_eq!(all["sql"].as_array().unwrap().len(), 3);
    it.matches("acl");
}

/// A daemon, and the Redis that has read what was printed for it. Each user has a password of its own.
struct Shop {
    redis: Redis,
    home: Home,
    api: Port,
    _folder: tempfile::TempDir,
}

fn password(user: &str) -> String {
    format!("secret-of-{user}")
}

impl Shop {
    async fn new() -> Self {
        let inbox = "[inbox]\ntenants = \"acme, zoo\"\n";
        let home = Home::new(&format!("[queue]\nurl = \"redis://127.0.0.1:1/\"\n{inbox}"));
        let output = home.cli(&["check", "--print-acl"]).await;
        let printed = said(&output.stdout);
        let (in_redis, _) = printed.split_once("\n-- ").expect("then comes SQL");
        let own = |line: &str| {
            let name = line.split(' ').nth(1).unwrap_or_default();
            line.replace("CHANGE-ME", &password(name)) + "\n"
        };
        let whole: String = in_redis.lines().map(own).collect();
        let users: String = in_redis
            .lines()
            .filter(|it| it.starts_with("user "))
            .map(own)
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (users, whole) = (file("users.acl", &users), file("part.conf", &whole));
        let redis = Redis::start_with(&["--aclfile", &users]);
        let other = Redis::start_with(&["--include", &whole]);
        let list = |it: &Redis| {
            let told = it.cli(&["ACL", "LIST"]);
            // in an order of each server's own, also within a selector's parentheses
            let words = told.split_whitespace();
            let mut words: Vec<String> = words.map(|it| it.replace(['(', ')'], "")).collect();
            words.sort_unstable();
            words
        };
        assert_eq!(list(&redis), list(&other), "redis.conf takes it, too");
        let api = Port::take();
        let home = home.env(
            "REDIS_URL",
            &format!(
                "redis://presswork:{}@127.0.0.1:{}/",
                password("presswork"),
                redis.port()
            ),
        );
        home.configure(&format!(
            "[daemon]\nlog = \"debug\"\n[ledger]\nurl = \"sqlite:ledger.sqlite\"\n\
             [queue]\nurl = {{ env = \"REDIS_URL\" }}\n[api]\nlisten = \"127.0.0.1:{}\"\n{inbox}",
            api.number()
        ));
        Self {
            redis,
            home,
            api,
            _folder: folder,
        }
    }

    async fn start(&self) -> Daemon {
        let daemon = self.home.start(&["run"]);
        let address = ([127, 0, 0, 1], self.api.number()).into();
        daemon.wait_ready(address, SOON).await;
        daemon
    }

    fn connect(&self, user: &str) -> Connection {
        let password = password(user);
        let url = format!("redis://{user}:{password}@127.0.0.1:{}/", self.redis.port());
        let client = redis::Client::open(url).unwrap();
        client.get_connection().unwrap()
    }

    /// Brings a job as this user, and waits for its receipt and its end.
    async fn bring(&self, user: &str, inbox: &str, key: &str) {
        let receipt = self.push(user, inbox, json!({"key": key})).await;
        assert_eq!(receipt["result"], "new", "{receipt}");
        let id = receipt["id"].as_str().unwrap();
        wait::until(&format!("job `{key}` is completed"), SOON, async || {
            let output = self.home.cli(&["jobs", "show", id, "--json"]).await;
            let told: Value = serde_json::from_slice(&output.stdout).unwrap();
            let job = &told["job"];
            job["state"] == "completed" && job["tenant"] == tenant_of(inbox)
        })
        .await;
    }

    async fn push(&self, user: &str, inbox: &str, members: Value) -> Value {
        let mut envelope = json!({"kind": "test.job", "payload": {}});
        for (name, value) in members.as_object().unwrap() {
            envelope[name] = value.clone();
        }
        let key = envelope["key"].as_str().unwrap().to_owned();
        envelope["reply_to"] = json!(key);
        let mut connection = self.connect(user);
        let _: u64 = connection.rpush(inbox, envelope.to_string()).unwrap();
        let receipts = format!("presswork:reply:{key}");
        let told = tokio::task::spawn_blocking(move || {
            connection.blpop::<_, Option<(String, String)>>(receipts, 60.0)
        });
        let (_, receipt) = told.await.unwrap().unwrap().expect("a receipt");
        serde_json::from_str(&receipt).unwrap()
    }
}

fn tenant_of(inbox: &str) -> &str {
    inbox.strip_prefix("presswork:inbox:").unwrap_or("default")
}

#[tokio::test(flavor = "multi_thread")]
async fn pasted_it_lets_jobs_through_to_their_receipts() {
    let shop = Shop::new().await;
    let daemon = shop.start().await;
    let (producer, acme) = ("presswork-producer", "presswork-producer-acme");
    shop.bring(producer, "presswork:inbox", "one").await;
    shop.bring(acme, "presswork:inbox:acme", "two").await;
    let foreign = json!({"key": "three", "tenant": "zoo"});
    let refused = shop.push(acme, "presswork:inbox:acme", foreign).await;
    assert_eq!(refused["result"], "refused", "{refused}");
    assert_eq!(refused["violations"][0]["pointer"], "/tenant");
    let output = shop.home.cli(&["quarantine", "list", "--json"]).await;
    let kept: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(kept[0]["door"], "inbox:acme", "{kept}");
    let output = shop.home.cli(&["check"]).await;
    let checked = said(&output.stdout);
    assert_eq!(code(&output), 0, "{checked}");
    assert!(checked.contains("inbox:zoo"), "{checked}");
    shop.redis.restart();
    shop.bring(acme, "presswork:inbox:acme", "four").await;
    shop.bring(producer, "presswork:inbox", "five").await;
    daemon.signal("TERM");
    assert!(daemon.wait_exit(SOON).await.success());
    let first = daemon.stderr();
    let daemon = shop.start().await;
    shop.bring(producer, "presswork:inbox", "six").await;
    shop.bring(acme, "presswork:inbox:acme", "seven").await;
    for log in [first, daemon.stderr()] {
        assert!(!log.contains("access list"), "{log}");
        assert!(!log.contains("secret-of-"), "{log}");
    }
    let denied = shop.redis.cli(&["ACL", "LOG"]);
    assert!(!denied.contains("username"), "{denied}");
}
