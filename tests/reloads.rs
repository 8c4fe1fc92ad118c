//! Reloads under load: `jobs.toml` is written anew and HUP sent again and again while jobs flow, every
//! third file is bad, lanes come and go, limits change. Nothing is lost, each job is settled once, a
//! bad file changes nothing, and the daemon lives.

mod kit;
#[path = "storm/checker.rs"]
mod checker;
#[path = "storm/world.rs"]
mod world;

use std::time::{Duration, Instant};

use checker::check;
use kit::daemon::Daemon;
use kit::postgres::Postgres;
use kit::redis::Redis;
use kit::wait;
use presswork::daemon::Reloaded;
use reqwest::StatusCode;
use serde_json::json;
use world::{Host, Outside, READY, Stores, ended, envelope};

/// How long a reload, or the end of all jobs, may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Lanes that come and go.
const LANES: usize = 6;

/// Whether good file number `n` has lane `k`.
fn has(n: usize, k: usize) -> bool {
    !(n + k).is_multiple_of(3)
}

/// What good file number `n` says.
fn good(n: usize) -> String {
    let mut text = format!(
        "[lanes.default]\nconcurrency = {}\nroom = {}\n",
        1 + n % 24,
        1 + n % 7
    );
    for k in (0..LANES).filter(|k| has(n, *k)) {
        let concurrency = 1 + (7 * n + k) % 16;
        text.push_str(&format!("[lanes.extra-{k}]\nconcurrency = {concurrency}\n"));
    }
    text + &format!("[kinds.\"test.job\"]\ntimeout_s = {}\n", 30 + n % 30)
}

/// What bad file number `n` says: a lane that nothing else names, and a mistake.
fn bad(n: usize) -> String {
    let mistake = [
        "[lanes.default\n",
        "[lanes.default]\nconcurency = 3\n",
        "[lanes.default]\nroom = 0\n",
        "[kinds.\"no.such\"]\ntimeout_s = 3\n",
        "[accounts.new]\nplatform = \"mastodon\"\nbase_url = \"https://m.example\"\nsecret = { env = \"NO_SUCH\" }\n",
        "[kinds.\"test.job\"]\nlane = \"nowhere\"\n",
        "[lanes.default]\nroom = 3\n[lanes.default]\nroom = 4\n",
    ];
    format!(
        "[lanes.bad]\nconcurrency = 1\n{}",
        mistake[n % mistake.len()]
    )
}

/// Has the daemon read what is written now; whether it took it.
async fn reload(host: &Host, daemon: &Daemon) -> bool {
    let folder = host.home.path().join("state");
    let before = Reloaded::last(&folder);
    daemon.signal("HUP");
    let what = || format!("the reload is answered; {:?}", daemon.ended());
    wait::until_or(what, PATIENCE, async || {
        daemon.ended().is_some() || Reloaded::last(&folder) != before
    })
    .await;
    assert_eq!(daemon.ended(), None, "the daemon lives");
    let told = Reloaded::last(&folder).expect("it has just been told");
    assert_eq!(told.pid, daemon.pid());
    told.error.is_none()
}

async fn reloads_lose_nothing(stores: Stores, count: usize) {
    let outside = Outside::new().await;
    let host = Host::new(&stores, &outside.url);
    let mut held = 1;
    host.configure(&good(held));
    let daemon = host.run();
    daemon.wait_ready(host.api, READY).await;
    let door = stores.ledger().await;
    let began = Instant::now();
    let mut wanted = Vec::new();
    let (mut taken, mut refused) = (0, 0);
    let mut next = 0;
    let mut new = |kind: &'static str, lane: Option<usize>| {
        next += 1;
        let payload = match next % 5 {
            0 => json!({"fail_times": 1}),
            _ => json!({"sleep_ms": next % 40}),
        };
        let (job, mut envelope) = envelope(next, kind, payload, "");
        if let Some(k) = lane {
            envelope["lane"] = format!("extra-{k}").into();
        }
        (job, envelope)
    };
    for n in 2..count + 2 {
        let is_bad = n % 3 == 0;
        host.configure(&if is_bad { bad(n) } else { good(n) });
        // one comes while the file is read; its lane is there before and after, whichever holds
        let lane = (0..LANES).find(|k| has(held, *k) && (is_bad || has(n, *k)));
        let kind = if n % 10 == 1 {
            "post.mastodon"
        } else {
            "test.job"
        };
        let (job, envelope) = new(kind, lane.filter(|_| n % 2 == 0));
        let (took, _) = tokio::join!(reload(&host, &daemon), host.submit(&envelope));
        wanted.push(job);
        assert_eq!(took, !is_bad, "file {n}");
        if took {
            (held, taken) = (n, taken + 1);
            continue;
        }
        refused += 1;
        // the last good file holds: its lanes are there, the bad one's isn't
        let mut stray = new("test.job", None).1;
        stray["lane"] = "bad".into();
        let answer = host.post(stray.to_string()).await.expect("the API answers");
        assert_eq!(
            answer.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{answer:?}"
        );
        for k in 0..LANES {
            let (job, envelope) = new("test.job", Some(k));
            let answer = host
                .post(envelope.to_string())
                .await
                .expect("the API answers");
            let there = answer.status == StatusCode::CREATED;
            assert_eq!(there, has(held, k), "lane {k} by file {held}: {answer:?}");
            wanted.extend(there.then_some(job));
        }
    }
    assert_eq!(taken + refused, count);
    assert!(count / 3 <= refused, "every third file is bad: {refused}");
    // whatever lane it waits in: all are there in the end
    let all: String = (0..LANES)
        .map(|k| format!("[lanes.extra-{k}]\nconcurrency = 16\n"))
        .collect();
    host.configure(&all);
    assert!(reload(&host, &daemon).await);
    ended(&*door, wanted.len(), PATIENCE).await;
    let found = check(&*door, &wanted, &outside.acts().await).await;
    assert_eq!((found.reclaimed, found.poisoned), (0, 0), "{found:?}");
    assert_eq!(
        found.states.get("completed"),
        Some(&wanted.len()),
        "{found:?}"
    );
    let log = daemon.stderr();
    let count_of = |what: &str| log.lines().filter(|it| it.contains(what)).count();
    assert_eq!(count_of("was read anew and holds from now on"), taken + 1);
    assert_eq!(count_of("the old one holds"), refused);
    daemon.signal("TERM");
    assert!(daemon.wait_exit(PATIENCE).await.success());
    println!(
        "reloads: {count} in {:.1?}, {} jobs; {found:?}",
        began.elapsed(),
        wanted.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_reloads_under_load_lose_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = format!("sqlite:{}", folder.path().join("ledger.sqlite").display());
    reloads_lose_nothing(Stores::new(&ledger, "memory:"), 500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_over_servers_lose_nothing() {
    let (postgres, redis) = (Postgres::start(), Redis::start());
    let database = postgres.create_database().await;
    reloads_lose_nothing(Stores::new(&database, &redis.url()), 60).await;
}
