//! Redis behind sentinels: the master is whom they call so, and that only while it is.

use std::time::Instant;

use presswork::queue::{Queue, QueueError};

use crate::kit::redis::Sentinels;
use crate::kit::wait;
use crate::tls::{authority, proof};
use crate::{Case, SOON, queue, said};

#[tokio::test(flavor = "multi_thread")]
async fn a_master_dies_while_jobs_flow_and_the_next_one_is_found() {
    a_master_dies(Sentinels::start()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_by_tls() {
    let Some(authority) = authority() else { return };
    a_master_dies(Sentinels::start_with(Some(&proof(&authority)))).await;
}

async fn a_master_dies(redis: Sentinels) {
    let mut case = Case::with_queue(&redis.url()).await;
    let (host, daemon) = case.host().await;
    case.load(&host, 10).await;
    said(&daemon, "filled anew", 1).await;
    let (password, _) = Sentinels::PASSWORDS;
    let failover = async {
        let began = Instant::now();
        redis.master.kill9();
        // two of three are enough to choose the next master, and to ask
        redis.kill_one();
        wait::until("the replica is the master", SOON, async || {
            redis
                .replica
                .is_master(&["-a", password, "--no-auth-warning"])
        })
        .await;
        let promoted = began.elapsed();
        said(&daemon, "filled anew", 2).await;
        host.queue_in_use(&daemon).await;
        (promoted, began.elapsed())
    };
    let (promoted, back) = case.while_jobs_flow(&host, failover).await;
    println!("the replica is the master after {promoted:?}, the queue in use after {back:?}");
    // the inbox is there, too
    let entry = case.job().to_string();
    let inbox = queue(&redis.url()).inbox();
    inbox
        .push(&[entry.into_bytes()])
        .await
        .expect("it takes it");
    case.load(&host, 10).await;
    case.all_well().await;
    assert!(daemon.ended().is_none(), "the daemon lives through it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_is_none_a_name_and_a_password_that_are_wrong_are_told() {
    let redis = Sentinels::start();
    let away = async |url: &str| match queue(url).server().await {
        Err(QueueError::Away(why)) => why,
        other => panic!("should be away, is {other:?}"),
    };
    let (password, own) = Sentinels::PASSWORDS;
    let why = away(&redis.url().replace("/main?", "/other?")).await;
    assert!(why.contains("no master `other`"), "{why}");
    for secret in [password, own] {
        let why = away(&redis.url().replace(secret, "hunter2")).await;
        assert!(why.contains("refused") && !why.contains("hunter2"), "{why}");
    }
    queue(&redis.url()).server().await.expect("all is right");
    // the sentinels take seconds to notice
    let demote = [
        "-a",
        password,
        "--no-auth-warning",
        "REPLICAOF",
        "127.0.0.1",
        "1",
    ];
    redis.master.cli(&demote);
    let why = away(&redis.url()).await;
    assert!(why.contains("the sentinels call it the master"), "{why}");
}
