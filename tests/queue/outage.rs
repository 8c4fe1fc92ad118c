//! Redis may be wiped, killed, frozen, full or read-only at any moment.

use std::time::{Duration, Instant};

use presswork::job::Priority::{High, Normal};
use presswork::queue::redis::{RedisOptions, RedisQueue};
use presswork::queue::{Queue, QueueError, Woken};
use uuid::Uuid;

use super::{LANE, NOW, away, fill_up, hints, is_stale, job, jobs, open};
use crate::kit::proxy::Direction::Down;
use crate::kit::proxy::Proxy;
use crate::kit::redis::Redis;
use crate::kit::wait;

const SOON: Duration = Duration::from_secs(10);
/// Within this time after Redis is back, calls work again.
const BACK: Duration = Duration::from_secs(5);
/// What fails fast doesn't wait for an answer (5 s) nor for a connection (2 s).
const FAST: Duration = Duration::from_millis(1_500);
const RUN: Uuid = Uuid::from_u128(1);

async fn filled(queue: &RedisQueue) {
    queue.reset(NOW, LANE, &[]).await.unwrap();
    let some = hints(0..4, Normal, "a");
    assert_eq!(queue.offer(NOW, LANE, &some, 9).await.unwrap(), 4);
}

async fn is_back(queue: &RedisQueue, within: Duration) {
    wait::until("Redis to be there again", within, async || {
        queue.server().await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_wiped_redis_is_stale() {
    let server = Redis::start();
    let queue = open(&server.url());
    filled(&queue).await;
    server.flushall();
    assert!(is_stale(queue.take(NOW, LANE, RUN, 9, None).await));
    assert!(is_stale(
        queue.offer(NOW, LANE, &hints([1], High, "a"), 9).await
    ));
    assert!(is_stale(queue.size(NOW, LANE).await));
    assert!(is_stale(queue.held(NOW, LANE).await));
    assert!(is_stale(queue.release(NOW, LANE, &[job(1)]).await));
    assert!(queue.reset(NOW + 1, LANE, &[(job(9), RUN)]).await.unwrap());
    assert_eq!(queue.held(NOW + 1, LANE).await.unwrap(), [(job(9), RUN)]);
}

#[tokio::test]
async fn no_single_lost_key_breaks_the_concurrency() {
    let server = Redis::start();
    let queue = open(&server.url());
    for (n, name) in ["held", "ready", "clock", "turns:1"]
        .into_iter()
        .enumerate()
    {
        let now = NOW + n as i64;
        queue.reset(now, LANE, &[]).await.unwrap();
        let some = hints(0..6, Normal, "a");
        queue.offer(now, LANE, &some, 9).await.unwrap();
        let taken = queue.take(now, LANE, RUN, 3, Some(3)).await.unwrap();
        assert_eq!(taken.held, 3);
        assert_eq!(
            server.cli(&["DEL", &format!("{{pw:lane:{LANE}}}:{name}")]),
            "1"
        );
        match queue.offer(now, LANE, &some, 9).await {
            Ok(ready) => assert_eq!(ready, 3, "{name}"),
            Err(error) => assert!(is_stale::<()>(Err(error)) && name == "held"),
        }
        match queue.take(now, LANE, RUN, 9, Some(3)).await {
            Ok(taken) => assert_eq!((taken.ids.len(), taken.held), (0, 3), "{name}"),
            Err(error) => assert!(is_stale::<()>(Err(error)) && name == "held"),
        }
    }
}

#[tokio::test]
async fn a_key_of_another_type_is_stale_until_the_lane_is_reset() {
    let server = Redis::start();
    let queue = open(&server.url());
    for (n, name) in ["held", "ready", "clock"].into_iter().enumerate() {
        let now = NOW + n as i64;
        queue.reset(now, LANE, &[]).await.unwrap();
        server.cli(&["SET", &format!("{{pw:lane:{LANE}}}:{name}"), "text"]);
        let offer = queue.offer(now, LANE, &hints(0..4, Normal, "a"), 2).await;
        assert!(is_stale(offer), "{name}");
    }
    assert!(queue.reset(99, LANE, &[]).await.unwrap());
    let some = hints(0..4, Normal, "a");
    assert_eq!(queue.offer(99, LANE, &some, 2).await.unwrap(), 2);
}

#[tokio::test]
async fn a_lane_that_another_versions_daemon_filled_is_stale() {
    let server = Redis::start();
    let queue = open(&server.url());
    filled(&queue).await;
    // as those before it wrote it: the number alone
    let held = format!("{{pw:lane:{LANE}}}:held");
    server.cli(&["HSET", &held, "generation", &NOW.to_string()]);
    assert!(is_stale(queue.size(NOW, LANE).await));
    assert!(is_stale(queue.take(NOW, LANE, RUN, 9, None).await));
    let some = hints(0..4, Normal, "a");
    assert!(is_stale(queue.offer(NOW, LANE, &some, 9).await));
    assert!(queue.reset(NOW, LANE, &[]).await.unwrap());
    assert_eq!(queue.offer(NOW, LANE, &some, 9).await.unwrap(), 4);
}

#[tokio::test]
async fn scripts_that_were_flushed_are_loaded_again() {
    let server = Redis::start();
    let queue = open(&server.url());
    filled(&queue).await;
    server.cli(&["SCRIPT", "FLUSH", "SYNC"]);
    let taken = queue.take(NOW, LANE, RUN, 2, None).await.unwrap();
    assert_eq!(taken.ids, jobs(0..2));
}

#[tokio::test]
async fn a_full_redis_still_serves_its_lanes() {
    let server = Redis::start();
    let queue = open(&server.url());
    filled(&queue).await;
    fill_up(&server);
    let taken = queue.take(NOW, LANE, RUN, 2, None).await.unwrap();
    assert_eq!(taken.ids.len(), 2);
    let more = hints(10..12, High, "a");
    assert_eq!(queue.offer(NOW, LANE, &more, 9).await.unwrap(), 4);
    queue.release(NOW, LANE, &taken.ids).await.unwrap();
    assert!(queue.reset(NOW + 1, LANE, &[]).await.unwrap());
}

#[tokio::test]
async fn a_killed_redis_is_away_and_soon_back() {
    let server = Redis::start();
    let queue = open(&server.url());
    filled(&queue).await;
    let before = queue.server().await.unwrap();
    server.kill9();
    away(queue.size(NOW, LANE).await);
    for _ in 0..3 {
        let start = Instant::now();
        let why = away(queue.take(NOW, LANE, RUN, 9, None).await);
        assert!(start.elapsed() < FAST, "{:?}", start.elapsed());
        assert!(why.contains(&server.port().to_string()), "{why}");
    }
    away(queue.wake(&[]).await);
    server.restart();
    is_back(&queue, BACK).await;
    assert_ne!(queue.server().await.unwrap(), before);
    assert!(is_stale(queue.size(NOW, LANE).await));
    filled(&queue).await;
}

#[tokio::test]
async fn a_restart_is_noticed_before_anybody_calls() {
    let server = Redis::start();
    let queue = open(&server.url());
    let before = queue.server().await.unwrap();
    let channel = ["PUBSUB", "NUMSUB", "presswork:wake"];
    let heard = async || server.cli(&channel).ends_with('1');
    wait::until("the channel to be heard", SOON, heard).await;
    server.restart();
    wait::until("the channel to be heard again", SOON, heard).await;
    // The channel told the other connection. (One of the two is the one that asks.)
    wait::until("the other connection", SOON, async || {
        let clients = server.cli(&["CLIENT", "LIST", "TYPE", "normal"]);
        clients.lines().count() == 2
    })
    .await;
    is_back(&queue, BACK).await;
    assert_ne!(queue.server().await.unwrap(), before);
}

#[tokio::test]
async fn a_redis_that_is_not_there_yet_is_found_when_it_comes() {
    let server = Redis::start();
    server.stop();
    let queue = open(&server.url());
    let why = away(queue.server().await);
    assert!(why.contains("refused"), "{why}");
    server.restart();
    is_back(&queue, BACK).await;
}

#[tokio::test]
async fn a_lost_answer_is_not_repeated_behind_our_back() {
    let server = Redis::start();
    let (proxy, url) = Proxy::before(&server.url());
    let queue = open(&url);
    filled(&queue).await;
    let loaded = queue.take(NOW, LANE, RUN, 0, None).await.unwrap();
    assert_eq!(loaded.ready, 4);
    proxy.cut_after(Down, 0);
    away(queue.take(NOW, LANE, RUN, 1, None).await);
    assert!(proxy.has_cut(Down));
    is_back(&queue, BACK).await;
    assert_eq!(queue.held(NOW, LANE).await.unwrap(), [(job(0), RUN)]);
    assert_eq!(queue.size(NOW, LANE).await.unwrap(), 3);
    // The engine sees that it doesn't run it.
    queue.release(NOW, LANE, &[job(0)]).await.unwrap();
    assert!(queue.held(NOW, LANE).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_silent_redis_is_away_after_one_wait() {
    let server = Redis::start();
    let (proxy, url) = Proxy::before(&server.url());
    let queue = open(&url);
    filled(&queue).await;
    proxy.black_hole();
    let why = away(queue.size(NOW, LANE).await);
    assert!(why.contains("no answer within 5 s"), "{why}");
    let start = Instant::now();
    away(queue.size(NOW, LANE).await);
    assert!(start.elapsed() < FAST, "{:?}", start.elapsed());
    let start = Instant::now();
    queue.woken().await;
    assert!(start.elapsed() < Duration::from_secs(4));
    proxy.heal();
    is_back(&queue, BACK).await;
    assert_eq!(queue.size(NOW, LANE).await.unwrap(), 4);
}

#[tokio::test]
async fn a_replica_is_away_until_it_is_the_master() {
    let server = Redis::start();
    let queue = open(&server.url());
    filled(&queue).await;
    // Nobody listens on port 1; its data stay.
    server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let why = away(queue.take(NOW, LANE, RUN, 1, None).await);
    assert!(why.contains("replica"), "{why}");
    server.cli(&["REPLICAOF", "NO", "ONE"]);
    let taken = std::sync::Mutex::new(None);
    wait::until("it to take writes", BACK, async || {
        let answer = queue.take(NOW, LANE, RUN, 1, None).await;
        let is_ok = answer.is_ok();
        *taken.lock().unwrap() = answer.ok();
        is_ok
    })
    .await;
    let taken = taken.into_inner().unwrap();
    assert_eq!(taken.unwrap().ids, jobs([0]));
}

#[tokio::test]
async fn a_redis_that_refuses_writes_says_why() {
    let server = Redis::start();
    let queue = open(&server.url());
    filled(&queue).await;
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let why = away(queue.take(NOW, LANE, RUN, 1, None).await);
    assert!(why.contains("too few replicas"), "{why}");
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    assert_eq!(
        queue.take(NOW, LANE, RUN, 1, None).await.unwrap().ids,
        jobs([0])
    );
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_shown() {
    let server = Redis::start();
    server.cli(&["CONFIG", "SET", "requirepass", "right"]);
    let url = format!("redis://:hunter2@127.0.0.1:{}/", server.port());
    let why = away(open(&url).server().await);
    assert!(why.contains("refused") && !why.contains("hunter2"), "{why}");
    let url = format!("redis://127.0.0.1:{}/", server.port());
    let why = away(open(&url).server().await);
    assert!(why.contains("refused"), "{why}");
    let url = format!("redis://:right@127.0.0.1:{}/", server.port());
    open(&url).server().await.unwrap();
    let options = RedisOptions {
        url: "redis://:hunter2@:::".into(),
        prefix: None,
    };
    let error = RedisQueue::open(&options).err().unwrap();
    assert!(!format!("{error:?} {options:?}").contains("hunter2"));
    let options = RedisOptions {
        url: url.into(),
        prefix: Some("a}b".to_owned()),
    };
    let error = RedisQueue::open(&options).err().unwrap();
    assert!(error.to_string().contains("`a}b`"), "{error}");
}

#[tokio::test]
async fn a_wake_reaches_other_hosts_also_after_a_restart() {
    let server = Redis::start();
    let (here, there) = (open(&server.url()), open(&server.url()));
    let lanes = ["posts".to_owned(), "films".to_owned()];
    for _ in 0..2 {
        wait::until("both to hear", SOON, async || {
            server
                .cli(&["PUBSUB", "NUMSUB", "presswork:wake"])
                .ends_with('2')
        })
        .await;
        // Until it is quiet: a new channel rings by itself.
        let quiet = Duration::from_millis(900);
        while tokio::time::timeout(quiet, there.woken()).await.is_ok() {}
        let woken = tokio::time::timeout(quiet, there.woken());
        let wake = async || loop {
            match here.wake(&lanes).await {
                Err(QueueError::Away(_)) => tokio::task::yield_now().await,
                other => return other.unwrap(),
            }
        };
        let (woken, ()) = tokio::join!(woken, wake());
        let woken = woken.expect("the other host is woken");
        assert_eq!(woken, Woken::Lanes(lanes.clone().into()));
        server.restart();
    }
}
