//! A daemon that in the very moment of a crash point falls asleep beyond its lease, or is cut off from
//! the ledger or from the queue: with posts of class A, B and C, each is there once, or, where nobody
//! can know, in front of a person.
//!
//! `PRESSWORK_CRASH_ALL=1` runs every point with every fault and class (some minutes); otherwise a part
//! of them, always the same.

use futures_util::StreamExt;
use presswork::lifecycle::State;
use serde_json::{Value, json};

use crate::checker::{Wanted, by_key, check};
use crate::hit;
use crate::kit::postgres::Postgres;
use crate::kit::proxy::Proxy;
use crate::kit::redis::Redis;
use crate::kit::wait;
use crate::points::{AT_START, Door, POINTS, Work};
use crate::world::{ENDED, Host, Outside, READY, Stores, ended, envelope};

/// Cases that run at once.
const AT_ONCE: usize = 4;
/// One of so many cases is run where not all are.
const EACH: usize = 8;
/// A post of class A, of class B, of class C.
const KINDS: [&str; 3] = ["post.mastodon", "post.instagram", "post.x"];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// It sleeps for longer than its lease, and another one does its work.
    Asleep,
    /// It can't reach the ledger until its lease is past.
    NoLedger,
    /// It can't reach the queue.
    NoQueue,
}

/// The points that a job passes by way of the inbox; those around an effect once a class.
fn cases() -> Vec<(&'static str, Vec<&'static str>, Fault)> {
    let mut names: Vec<&'static str> = POINTS
        .iter()
        .filter(|(name, door, work)| {
            *door == Door::Inbox
                && !AT_START.contains(name)
                && !matches!(work, Work::Left | Work::Steps)
        })
        .map(|it| it.0)
        .collect();
    names.dedup();
    let mut cases = Vec::new();
    for name in names {
        let around_effect = name.starts_with("effect.") || name.starts_with("journal.");
        let works = match around_effect {
            true => KINDS.map(|it| vec![it]).to_vec(),
            false => vec![KINDS.to_vec()],
        };
        for kinds in works {
            for fault in [Fault::Asleep, Fault::NoLedger, Fault::NoQueue] {
                cases.push((name, kinds.clone(), fault));
            }
        }
    }
    cases
}

async fn hurt_at(point: &str, kinds: &[&'static str], fault: Fault) {
    let redis = Redis::start_durable();
    let url = Postgres::shared().create_database().await;
    let (ledger_way, by_ledger) = Proxy::before(&url);
    let (queue_way, by_queue) = Proxy::before(&redis.url());
    let looks = "[kinds.\"post.x\"]\nlook_after_ms = 200\nlook_for_s = 6\n\
                 [kinds.\"post.instagram\"]\nlook_after_ms = 200\nlook_for_s = 600\n";
    let stores = |ledger: &str, queue: &str| Stores {
        more: looks.to_owned(),
        ..Stores::new(ledger, queue)
    };
    let direct = stores(&url, &redis.url());
    let (ledger, outside) = (direct.ledger().await, Outside::new().await);
    let host = Host::new(&stores(&by_ledger, &by_queue), &outside.url);
    let jobs: Vec<(Wanted, Value)> = kinds
        .iter()
        .enumerate()
        .map(|(n, kind)| envelope(n, kind, json!({}), ""))
        .collect();
    let at = format!("{point} {kinds:?} {fault:?}");

    let daemon = host.run_to(point, "stop");
    host.queue_in_use(&daemon).await;
    for (_, envelope) in &jobs {
        redis.cli(&["RPUSH", "presswork:inbox", &envelope.to_string()]);
    }
    hit(&daemon, point, "stop").await;
    let other = Host::new(&direct, &outside.url);
    let mut awake = None;
    match fault {
        Fault::Asleep => {
            let it = other.run();
            it.wait_ready(other.api, READY).await;
            awake = Some(it);
            ended(&*ledger, jobs.len(), ENDED).await;
            daemon.signal("CONT");
        }
        Fault::NoLedger => {
            ledger_way.refuse();
            daemon.signal("CONT");
            wait::until(&format!("{at}: its lease is past"), ENDED, async || {
                ledger.live_runs().await.is_ok_and(|it| it.is_empty())
            })
            .await;
            ledger_way.heal();
        }
        Fault::NoQueue => {
            queue_way.refuse();
            daemon.signal("CONT");
            wait::until(&format!("{at}: it knows"), ENDED, async || {
                let told = host.get("/readyz").await;
                told.is_ok_and(|it| it.text.contains("\"usable\":false"))
            })
            .await;
            queue_way.heal();
        }
    }
    // whatever it was about to do, it has done it when it has worked on something new
    daemon.wait_ready(host.api, READY).await;
    let (wanted, more) = envelope(900, "test.job", json!({}), "");
    host.submit(&more).await;
    let mut all = jobs;
    all.push((wanted, more));
    ended(&*ledger, all.len(), ENDED).await;

    let wanted: Vec<Wanted> = all.iter().map(|it| it.0.clone()).collect();
    let acts = outside.acts().await;
    let found = check(&*ledger, &wanted, &acts).await;
    for job in by_key(&*ledger).await {
        let key = job.key.as_deref().unwrap_or_default();
        let is_there = acts.iter().any(|it| it.to_string().contains(key));
        match (job.state, job.kind.as_str()) {
            (State::Completed, _) => {}
            // what the platform has is found there; what it hasn't, X can't tell
            (State::Unresolved, "post.x") if !is_there => {}
            _ => panic!("{at}: {job:?}; on the platform: {is_there}"),
        }
        assert_eq!(job.attempts, 0, "{at}: {job:?}");
    }
    println!("{at}: all is well: {found:?}");
    drop(awake);
}

#[tokio::test(flavor = "multi_thread")]
async fn asleep_or_cut_off_at_any_point_nothing_is_lost_or_done_twice() {
    let all = std::env::var_os("PRESSWORK_CRASH_ALL").is_some();
    let cases = cases().into_iter().enumerate();
    // what wakes with a permit in its hand could do the worst
    let worst = |point, fault| point == "effect.after_permit" && fault == Fault::Asleep;
    let cases = cases.filter(|(n, it)| all || n % EACH == 0 || worst(it.0, it.2));
    let cases = cases.map(|(_, (point, kinds, fault))| async move {
        hurt_at(point, &kinds, fault).await;
    });
    let mut cases = futures_util::stream::iter(cases).buffer_unordered(AT_ONCE);
    while cases.next().await.is_some() {}
}

#[test]
fn every_point_meets_every_fault() {
    let all = cases();
    for class in KINDS {
        for fault in [Fault::Asleep, Fault::NoLedger, Fault::NoQueue] {
            let met = all
                .iter()
                .filter(|it| it.1.contains(&class) && it.2 == fault);
            assert!(20 <= met.count(), "{class} {fault:?}");
        }
    }
}
