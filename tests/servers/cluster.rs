//! Redis as a cluster: every script's keys in one slot, slots that move, and masters that die.

use std::time::Instant;

use presswork::inbox::Inbox as _;
use presswork::job::{JobId, Priority};
use presswork::ledger::Hint;
use presswork::queue::{Queue, QueueError};
use uuid::Uuid;

use crate::kit::redis::{Cluster, Redis};
use crate::kit::wait;
use crate::tls::{authority, proof};
use crate::{Case, SOON, queue, said};

const NOW: i64 = 7;
const RUN: Uuid = Uuid::from_u128(1);
const INBOX: &str = "presswork:inbox";
const LANES: [&str; 6] = ["default", "mastodon", "bluesky", "openai", "x", "uploads"];

fn held(lane: &str) -> String {
    format!("{{pw:lane:{lane}}}:held")
}

fn hints(count: u128) -> Vec<Hint> {
    let hint = |n| Hint {
        id: JobId(Uuid::from_u128(n)),
        priority: Priority::Normal,
        tenant: "a".into(),
        account: "".into(),
        lifted: false,
        step: 1,
    };
    (1..=count).map(hint).collect()
}

fn away<T: std::fmt::Debug>(answer: Result<T, QueueError>) -> String {
    match answer {
        Err(QueueError::Away(why)) => why,
        other => panic!("should be away, is {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_lane_is_served_by_the_master_of_its_slot() {
    every_lane_is_served(Cluster::start()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_by_tls() {
    let Some(authority) = authority() else { return };
    every_lane_is_served(Cluster::start_with(Some(&proof(&authority)))).await;
}

async fn every_lane_is_served(cluster: Cluster) {
    let queue = queue(&cluster.url());
    let mut owners: Vec<usize> = LANES
        .iter()
        .map(|lane| cluster.owner(&cluster.slot(&held(lane))))
        .collect();
    for lane in LANES {
        queue.reset(NOW, lane, &[]).await.unwrap();
        assert_eq!(queue.offer(NOW, lane, &hints(4), 9).await.unwrap(), 4);
    }
    // scripts that a server forgot, or never knew, are loaded there
    for master in &cluster.masters {
        master.cli(&["SCRIPT", "FLUSH", "SYNC"]);
    }
    for lane in LANES {
        let taken = queue.take(NOW, lane, RUN, 2, Some(3)).await.unwrap();
        assert_eq!(
            (taken.ids.len(), taken.ready, taken.held),
            (2, 2, 2),
            "{lane}"
        );
        queue.release(NOW, lane, &taken.ids[..1]).await.unwrap();
        assert_eq!(queue.held(NOW, lane).await.unwrap().len(), 1);
    }
    // what one master loses is stale, and nothing else
    cluster.masters[owners[0]].flushall();
    for (lane, owner) in LANES.iter().zip(&owners) {
        let size = queue.size(NOW, lane).await;
        match *owner == owners[0] {
            true => assert!(matches!(size, Err(QueueError::Stale)), "{lane}: {size:?}"),
            false => assert_eq!(size.unwrap(), 2, "{lane}"),
        }
    }
    owners.sort_unstable();
    owners.dedup();
    assert!(1 < owners.len(), "the lanes are spread");
    // a master that starts again is another server, whatever the others are
    let before = queue.server().await.unwrap();
    assert_eq!(queue.server().await.unwrap(), before);
    cluster.masters[2].restart();
    wait::until("another server", SOON, async || {
        queue.server().await.is_ok_and(|it| it != before)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_on_their_way_are_followed_and_waited_for() {
    let cluster = Cluster::start();
    let queue = queue(&cluster.url());
    let inbox = queue.inbox();
    let slot = cluster.slot(INBOX);
    let from = cluster.owner(&slot);
    let to = (from + 1) % 3;
    let at = |n: usize| cluster.masters[n].cli(&["CLUSTER", "COUNTKEYSINSLOT", &slot]);
    inbox.push(&[b"before".to_vec()]).await.unwrap();
    assert_eq!(inbox.take(RUN, 0, 1).await.unwrap().len(), 1);
    cluster.begin_move(&slot, from, to);
    // a key that isn't there any more is made where the slot goes
    inbox.push(&[b"amid".to_vec()]).await.unwrap();
    assert_eq!((&*at(from), &*at(to)), ("2", "1"));
    // keys of which each has some can't be used together
    let why = inbox.take(RUN, 0, 1).await.unwrap_err().to_string();
    assert!(why.contains("moving"), "{why}");
    let ended = async {
        tokio::task::yield_now().await;
        cluster.end_move(&slot, from, to);
    };
    let (taken, ()) = tokio::join!(inbox.take(RUN, 0, 1), ended);
    let taken = taken.expect("it is waited for, and the new master is asked");
    assert_eq!(taken.len(), 2, "both, in their order: {taken:?}");
    assert_eq!(
        (&*at(from), taken[0].bytes.as_slice()),
        ("0", &b"before"[..])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_of_the_wrong_form_is_told_the_right_one() {
    let cluster = Cluster::start();
    let one = queue(&cluster.masters[0].url());
    let mut told = String::new();
    for lane in LANES {
        if let Err(QueueError::Away(why)) = one.reset(NOW, lane, &[]).await {
            told = why;
        }
    }
    assert!(told.contains("redis-cluster://127.0.0.1:"), "{told}");
    let single = Redis::start();
    let url = format!("redis-cluster://127.0.0.1:{}", single.port());
    let why = away(queue(&url).server().await);
    assert!(why.contains("write redis://127.0.0.1:"), "{why}");
}

/// The slots of all lanes that are used, and of the inbox, go from master to master while jobs flow.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_resharded_while_jobs_flow() {
    let cluster = Cluster::start();
    let mut case = Case::with_queue(&cluster.url()).await;
    let (host, daemon) = case.host().await;
    case.load(&host, 10).await;
    let producer = queue(&cluster.url()).inbox();
    let entries: Vec<_> = (0..16).map(|_| case.job()).collect();
    let mut entries = entries.iter();
    let lanes = ["default", "mastodon", "bluesky"];
    let keys: Vec<String> = lanes
        .iter()
        .map(|it| held(it))
        .chain([INBOX.to_owned()])
        .collect();
    let began = Instant::now();
    let reshard = async {
        let mut moves = 0;
        for _ in 0..2 {
            for key in &keys {
                let slot = cluster.slot(key);
                let from = cluster.owner(&slot);
                let to = (from + 1) % 3;
                cluster.begin_move(&slot, from, to);
                cluster.move_keys(&slot, from, to, 1);
                for _ in 0..2 {
                    let entry = entries.next().expect("as many as are sent");
                    // whoever isn't answered sends it again: its key makes it one job
                    wait::until("the inbox takes it", SOON, async || {
                        producer
                            .push(&[entry.to_string().into_bytes()])
                            .await
                            .is_ok()
                    })
                    .await;
                }
                cluster.end_move(&slot, from, to);
                moves += 1;
            }
        }
        moves
    };
    let moves = case.while_jobs_flow(&host, reshard).await;
    println!("{moves} slots moved in {:?}", began.elapsed());
    host.queue_in_use(&daemon).await;
    case.load(&host, 10).await;
    case.all_well().await;
    let rebuilds = daemon.stderr().matches("filled anew").count();
    println!("the queue was filled anew {rebuilds} times");
    assert!(daemon.ended().is_none(), "the daemon lives through it");
}

/// Its replica takes over, the daemon goes on with it, and fills the queue anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_master_of_a_cluster_dies_while_jobs_flow() {
    let cluster = Cluster::start();
    let mut case = Case::with_queue(&cluster.url()).await;
    let (host, daemon) = case.host().await;
    case.load(&host, 10).await;
    said(&daemon, "filled anew", 1).await;
    let failover = async {
        let began = Instant::now();
        cluster.masters[0].kill9();
        wait::until("the replica is the master", SOON, async || {
            cluster.replica.is_master(&[])
        })
        .await;
        let promoted = began.elapsed();
        said(&daemon, "filled anew", 2).await;
        host.queue_in_use(&daemon).await;
        (promoted, began.elapsed())
    };
    let (promoted, back) = case.while_jobs_flow(&host, failover).await;
    println!("the replica is the master after {promoted:?}, the queue in use after {back:?}");
    case.load(&host, 10).await;
    case.all_well().await;
    assert!(daemon.ended().is_none(), "the daemon lives through it");
}
