//! Credentials that are refused park their account, on all hosts, with one request; what it was parked for is
//! renewed in the ledger or in `jobs.toml`, and its jobs go on. Judged by the sandbox's own list of requests.

use std::path::PathBuf;

use presswork::account::State as Stands;
use presswork::gate::Cause;

use super::*;
use crate::stops::command;

const JOBS: usize = 3;
/// What credentials look like that must be nowhere.
const OLD: &str = "sandbox-amy.old";
const NEW: &str = "sandbox-amy.new";

impl Case {
    async fn post_as(&mut self, host: &Host, account: &str) -> Vec<JobId> {
        let mut ids = Vec::new();
        for _ in 0..JOBS {
            let mut post = self.job("post.mastodon", json!({}));
            post["account"] = account.into();
            host.submit(&post).await;
            let key = post["key"].as_str().expect("a key");
            let id = self
                .ledger
                .job_of_key("default", "post.mastodon", key)
                .await;
            ids.push(id.expect("the ledger answers").expect("it was taken"));
        }
        ids
    }

    /// Waits until no job of these is under way, and each keeps its place uncharged.
    async fn parked(&self, ids: &[JobId], why: &str) {
        wait::until("its account is parked", ENDED, async || {
            let closures = self.ledger.closures().await.expect("the ledger answers");
            closures.iter().any(|it| it.cause == Cause::Credentials)
        })
        .await;
        for id in ids {
            self.until_state(*id, State::Ready).await;
            let job = self.one(*id).await;
            assert_eq!(
                (job.attempts, job.crashes, job.held),
                (0, 0, None),
                "{job:?}"
            );
        }
        let closures = self.ledger.closures().await.expect("the ledger answers");
        assert_eq!(closures.len(), 1, "{closures:?}");
        assert!(closures[0].reason.contains(why), "{}", closures[0]);
    }

    async fn completed(&self, ids: &[JobId]) {
        for id in ids {
            self.until_state(*id, State::Completed).await;
            assert_eq!(self.one(*id).await.attempts, 0);
        }
    }

    /// All that the ledger holds of accounts, and of what was done to them, as text.
    async fn everything(&self) -> String {
        let mut connection = PgConnection::connect(&self.stores.ledger)
            .await
            .expect("connects");
        let mut all = String::new();
        for table in [
            "accounts",
            "closures",
            "audit",
            "jobs",
            "finished_jobs",
            "effects",
        ] {
            let sql =
                format!("SELECT coalesce(string_agg(t::text, ' '), '') FROM presswork.{table} t");
            let query = sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(sql));
            all.push_str(&query.fetch_one(&mut connection).await.expect("a text"));
        }
        all
    }
}

/// How many statuses an account tried to make.
async fn tried(case: &Case, account: &str) -> usize {
    let url = format!("{}/_sandbox/requests?platform=mastodon", case.outside.url);
    let answer = world::client().get(url).send().await;
    let text = answer.expect("the sandbox answers").text().await;
    let list: Vec<Value> = serde_json::from_str(&text.expect("a text")).expect("JSON");
    let of = |it: &&Value| it["account"] == account && it["op"] == "status.create";
    list.iter().filter(of).count()
}

async fn refuses(case: &Case, account: &str) {
    let script = json!({"platform": "mastodon", "op": "status.create", "account": account,
        "fault": "401", "times": 1_000});
    let url = format!("{}/_sandbox/faults", case.outside.url);
    let asked = world::client().post(url).json(&script).send().await;
    assert_eq!(
        asked.expect("the sandbox answers").status(),
        StatusCode::CREATED
    );
}

fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("a file can be written");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_park_their_account_on_all_hosts_until_they_are_renewed() {
    let mut case = Case::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    let key = file(&folder, "vault.key", &"0123456789abcdef".repeat(4));
    case.stores.more = format!(
        "[lanes.mastodon]\nconcurrency = 1\n[vault]\nkeys = [{{ id = \"one\", file = {:?} }}]\n",
        key.display().to_string()
    );
    let (one, other) = (case.host(), case.host());
    let (first, second) = (one.run(), other.run());
    one.queue_in_use(&first).await;
    other.queue_in_use(&second).await;

    // an account of the ledger: one request, and all of its jobs keep their places
    refuses(&case, "amy.old").await;
    let (old, new) = (file(&folder, "old", OLD), file(&folder, "new", NEW));
    let (old, new) = (old.display().to_string(), new.display().to_string());
    let base_url = format!("base_url={}/mastodon", case.outside.url);
    let add = [
        "accounts",
        "add",
        "amy",
        "--platform",
        "mastodon",
        "--set",
        &base_url,
    ];
    let added = command(&one, &[&add[..], &["--secret-file", &old]].concat()).await;
    assert_eq!(
        (&added["state"], &added["key"]),
        (&json!("ok"), &json!("one"))
    );
    let ids = case.post_as(&other, "amy").await;
    case.parked(&ids, "http_401").await;
    assert_eq!(tried(&case, "amy.old").await, 1, "the others weren't sent");
    let kept = case
        .ledger
        .account("amy")
        .await
        .expect("the ledger answers");
    let kept = kept.expect("it is there");
    assert_eq!(kept.state, Stands::Attention);
    assert!(kept.why.expect("a reason").contains("http_401"));
    let told = command(&one, &["explain", &ids[JOBS - 1].to_string()]).await;
    let told = told.to_string();
    assert!(
        told.contains("credentials") && told.contains("http_401"),
        "{told}"
    );
    // a person renews them, and each goes on in its place
    command(&other, &["accounts", "renew", "amy", "--secret-file", &new]).await;
    case.completed(&ids).await;
    // a host that is told to go on before it has read them tries the old ones once more, at no charge
    assert!(tried(&case, "amy.old").await <= 3);
    assert_eq!(tried(&case, "amy.new").await, JOBS);
    let tested = command(&one, &["accounts", "test", "amy"]).await;
    assert_eq!(tested["works"], true, "{tested}");
    let pinged = command(&one, &["check", "--ping"]).await;
    let all = pinged["findings"].as_array().expect("a list");
    let amy = all.iter().find(|it| it["what"] == "accounts.amy");
    assert_eq!(amy.expect("it is asked, too")["account"], "ok", "{pinged}");

    // one of jobs.toml goes on once its hosts have read the other secret
    refuses(&case, "alice").await;
    let ids = case.post_as(&one, "alice").await;
    case.parked(&ids, "http_401").await;
    assert_eq!(tried(&case, "alice").await, 1);
    for host in [&one, &other] {
        let secret = host.home.path().join("alice.secret");
        std::fs::write(secret, "sandbox-alice.new").expect("a secret can be written");
    }
    // what a host still has of the old ones parks it again, and lets nothing through
    command(&one, &["reload"]).await;
    command(&other, &["reload"]).await;
    case.completed(&ids).await;
    assert_eq!(tried(&case, "alice.new").await, JOBS);
    // and a restart with the old ones, and then with the new ones, does the same
    refuses(&case, "alice.new").await;
    let ids = case.post_as(&one, "alice").await;
    case.parked(&ids, "http_401").await;
    drop((first, second));
    for host in [&one, &other] {
        let secret = host.home.path().join("alice.secret");
        std::fs::write(secret, "sandbox-alice.newer").expect("a secret can be written");
    }
    let (first, second) = (one.run(), other.run());
    one.queue_in_use(&first).await;
    case.completed(&ids).await;
    assert_eq!(tried(&case, "alice.newer").await, JOBS);

    // nothing of them is anywhere
    let mut all = case.everything().await;
    for daemon in [&first, &second] {
        all.push_str(&daemon.stderr());
        all.push_str(&daemon.stdout());
    }
    for secret in [OLD, NEW, "sandbox-alice.new"] {
        let digits: String = secret.bytes().map(|it| format!("{it:02x}")).collect();
        assert!(!all.contains(secret) && !all.contains(&digits), "{secret}");
    }
    assert!(
        all.contains("amy"),
        "what was looked through is what there is"
    );
}
