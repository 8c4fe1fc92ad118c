//! The inbox loses nothing and doubles nothing, whoever dies in between.

use presswork::inbox::{Entry, Inbox, InboxError};
use presswork::job::JobId;
use presswork::queue::redis::{RedisOptions, RedisQueue};
use redis::Commands;
use uuid::Uuid;

use super::{fill_up, open};
use crate::kit::proxy::Direction::Down;
use crate::kit::proxy::Proxy;
use crate::kit::redis::Redis;
use crate::kit::wait;

const INBOX: &str = "presswork:inbox";
const SOON: std::time::Duration = std::time::Duration::from_secs(10);
const RUN: Uuid = Uuid::from_u128(1);
const OTHER: Uuid = Uuid::from_u128(2);

/// Why it is away.
fn away<T: std::fmt::Debug>(answer: Result<T, InboxError>) -> String {
    answer.expect_err("should be away").0
}

fn producer(server: &Redis) -> redis::Connection {
    let client = redis::Client::open(server.url()).unwrap();
    client.get_connection().unwrap()
}

fn push(server: &Redis, entries: &[&[u8]]) {
    let mut producer = producer(server);
    for entry in entries {
        let _: u64 = producer.rpush(INBOX, *entry).unwrap();
    }
}

fn bytes(entries: &[Entry]) -> Vec<&[u8]> {
    entries.iter().map(|it| &*it.bytes).collect()
}

fn keys(server: &Redis) -> Vec<String> {
    producer(server).keys("*").unwrap()
}

#[tokio::test]
async fn entries_come_in_order_and_go_when_they_are_done() {
    let server = Redis::start();
    let inbox = open(&server.url()).inbox();
    assert_eq!(inbox.take(RUN, 0, 9).await.unwrap(), []);
    assert!(inbox.holders().await.unwrap().is_empty());
    push(&server, &[b"one", b"two", b"three", b"four"]);
    assert_eq!(inbox.waiting().await.unwrap(), 4);
    assert_eq!(inbox.take(RUN, 0, 0).await.unwrap(), []);
    let first = inbox.take(RUN, 0, 3).await.unwrap();
    assert_eq!(bytes(&first), [b"one" as &[u8], b"two", b"three"]);
    assert!(first.is_sorted_by_key(|it| it.id), "ids in order");
    assert_eq!(inbox.waiting().await.unwrap(), 1);
    assert_eq!(inbox.holders().await.unwrap(), [(RUN, 0)]);
    // More is taken before the first ones are done.
    let more = inbox.take(RUN, 0, 3).await.unwrap();
    assert_eq!(more[..3], first[..], "the same, with the same ids");
    assert_eq!(more[3].bytes, b"four");
    inbox.done(RUN, 0, &first).await.unwrap();
    assert_eq!(inbox.take(RUN, 0, 0).await.unwrap(), more[3..]);
    // Again, and from the middle.
    inbox.done(RUN, 0, &first).await.unwrap();
    push(&server, &[b"five", b"six"]);
    let rest = inbox.take(RUN, 0, 9).await.unwrap();
    inbox.done(RUN, 0, &rest[1..2]).await.unwrap();
    let left = inbox.take(RUN, 0, 0).await.unwrap();
    assert_eq!(bytes(&left), [b"four" as &[u8], b"six"]);
    inbox.done(RUN, 0, &left).await.unwrap();
    assert_eq!(keys(&server), [] as [String; 0], "nothing is left behind");
}

#[tokio::test]
async fn a_run_that_dies_leaves_its_entries_with_their_ids() {
    let server = Redis::start();
    push(&server, &[b"one", b"two"]);
    let dead = open(&server.url()).inbox();
    let taken = dead.take(RUN, 4, 1).await.unwrap();
    drop(dead);
    // Another host adopts it, and gets nothing else by that.
    let host = open(&server.url()).inbox();
    assert_eq!(host.holders().await.unwrap(), [(RUN, 4)]);
    assert_eq!(host.take(RUN, 4, 0).await.unwrap(), taken);
    let own = host.take(OTHER, 0, 9).await.unwrap();
    assert_eq!(bytes(&own), [b"two"]);
    let mut holders = host.holders().await.unwrap();
    holders.sort();
    assert_eq!(holders, [(RUN, 4), (OTHER, 0)]);
    // What is done of one list isn't looked for in another.
    host.done(OTHER, 0, &taken).await.unwrap();
    assert_eq!(host.take(RUN, 4, 0).await.unwrap(), taken);
    host.done(RUN, 4, &taken).await.unwrap();
    assert_eq!(host.holders().await.unwrap(), [(OTHER, 0)]);
    // A name that is left without a list is forgotten by who looks.
    let _: u64 = producer(&server)
        .sadd("{presswork:inbox}:holders", format!("{RUN}:4"))
        .unwrap();
    assert_eq!(host.take(RUN, 4, 0).await.unwrap(), []);
    assert_eq!(host.holders().await.unwrap(), [(OTHER, 0)]);
}

#[tokio::test]
async fn a_take_whose_answer_is_lost_is_taken_again_with_the_same_ids() {
    let server = Redis::start();
    let (proxy, url) = Proxy::before(&server.url());
    let inbox = open(&url).inbox();
    push(&server, &[b"one", b"two"]);
    // The server knows the script then: the next answer is the take's own.
    assert_eq!(inbox.take(RUN, 0, 0).await.unwrap(), []);
    proxy.cut_after(Down, 0);
    away(inbox.take(RUN, 0, 1).await);
    assert!(proxy.has_cut(Down));
    let list = format!("{{presswork:inbox}}:taken:{RUN}:0");
    let wrapped: Vec<String> = producer(&server).lrange(&list, 0, -1).unwrap();
    let id: JobId = wrapped[0].split_once(' ').unwrap().0.parse().unwrap();
    wait::until("the connection is back", SOON, async || {
        inbox.waiting().await.is_ok()
    })
    .await;
    let taken = inbox.take(RUN, 0, 0).await.unwrap();
    assert_eq!((taken.len(), taken[0].id), (1, id));
}

#[tokio::test]
async fn any_bytes_come_through() {
    let server = Redis::start();
    let inbox = open(&server.url()).inbox();
    let every: Vec<u8> = (0..=255).collect();
    let long = vec![b'\n'; 300_000];
    let like_ours = format!("{} {{}}", Uuid::new_v4());
    let entries: [&[u8]; 6] = [b"", b"\0", b"\r\n ", &every, &long, like_ours.as_bytes()];
    push(&server, &entries);
    let taken = inbox.take(RUN, 0, 9).await.unwrap();
    assert_eq!(bytes(&taken), entries);
    assert_eq!(inbox.take(RUN, 0, 0).await.unwrap(), taken);
    inbox.done(RUN, 0, &taken).await.unwrap();
    assert_eq!(keys(&server), [] as [String; 0]);
}

#[tokio::test]
async fn a_take_is_bounded_in_bytes() {
    let server = Redis::start();
    let large = vec![b'x'; 10 * 1024 * 1024];
    push(&server, &[&large, &large, &large]);
    let inbox = open(&server.url()).inbox();
    let two = inbox.take(RUN, 0, 9).await.unwrap();
    assert_eq!(two.len(), 2);
    assert_eq!(
        inbox.take(RUN, 0, 9).await.unwrap().len(),
        2,
        "no more until they are done"
    );
    inbox.done(RUN, 0, &two).await.unwrap();
    assert_eq!(inbox.take(RUN, 0, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_others_put_into_a_run_s_list_goes_through_the_inbox() {
    let server = Redis::start();
    let inbox = open(&server.url()).inbox();
    push(&server, &[b"one"]);
    let one = inbox.take(RUN, 0, 1).await.unwrap();
    let list = format!("{{presswork:inbox}}:taken:{RUN}:0");
    let _: u64 = producer(&server).rpush(list, "not ours").unwrap();
    let all = inbox.take(RUN, 0, 9).await.unwrap();
    assert_eq!(all[0], one[0]);
    assert_eq!(bytes(&all), [b"one" as &[u8], b"not ours"]);
}

#[tokio::test]
async fn a_key_of_another_type_is_explained_and_loses_nothing() {
    let server = Redis::start();
    let inbox = open(&server.url()).inbox();
    let _: () = producer(&server).set(INBOX, "text").unwrap();
    for why in [
        away(inbox.waiting().await),
        away(inbox.take(RUN, 0, 9).await),
    ] {
        assert!(
            why.contains("`presswork:inbox`") && why.contains("rename"),
            "{why}"
        );
    }
    let _: () = producer(&server).del(INBOX).unwrap();
    push(&server, &[b"one"]);
    let list = format!("{{presswork:inbox}}:taken:{RUN}:0");
    for key in [list.as_str(), "{presswork:inbox}:holders"] {
        let _: () = producer(&server).set(key, "text").unwrap();
        away(inbox.take(RUN, 0, 9).await);
        assert_eq!(inbox.waiting().await.unwrap(), 1, "{key}");
        let _: () = producer(&server).del(key).unwrap();
    }
}

#[tokio::test]
async fn it_empties_a_full_redis() {
    let server = Redis::start();
    let inbox = open(&server.url()).inbox();
    push(&server, &[b"one", b"two"]);
    fill_up(&server);
    let refused: Result<u64, _> = producer(&server).rpush(INBOX, "three");
    assert_eq!(refused.unwrap_err().code(), Some("OOM"));
    let taken = inbox.take(RUN, 0, 9).await.unwrap();
    assert_eq!(taken.len(), 2);
    inbox.done(RUN, 0, &taken).await.unwrap();
    let left = keys(&server);
    assert!(left.iter().all(|it| it == "filler"), "{left:?}");
    let why = away(inbox.reply("r-1", "{}").await);
    assert!(why.contains("memory is full"), "{why}");
}

#[tokio::test]
async fn a_receipt_waits_five_minutes() {
    let server = Redis::start();
    let inbox = open(&server.url()).inbox();
    inbox.reply("r_1-A", r#"{"id":"x"}"#).await.unwrap();
    let mut producer = producer(&server);
    let ttl: i64 = producer.ttl("presswork:reply:r_1-A").unwrap();
    assert!((290..=300).contains(&ttl), "{ttl}");
    let receipt: String = producer.lpop("presswork:reply:r_1-A", None).unwrap();
    assert_eq!(receipt, r#"{"id":"x"}"#);
    for token in ["", "a:b", "a b", "ü"] {
        let why = away(inbox.reply(token, "{}").await);
        assert!(why.contains("letters, digits"), "{why}");
    }
    assert_eq!(keys(&server), [] as [String; 0]);
}

#[tokio::test]
async fn an_installation_s_prefix_keeps_it_apart() {
    let server = Redis::start();
    let options = RedisOptions {
        url: server.url().into(),
        prefix: Some("staging".to_owned()),
    };
    let inbox = RedisQueue::open(&options).unwrap().inbox();
    push(&server, &[b"not for staging"]);
    assert_eq!(inbox.take(RUN, 0, 9).await.unwrap(), []);
    let _: u64 = producer(&server)
        .rpush("staging:presswork:inbox", "one")
        .unwrap();
    assert_eq!(bytes(&inbox.take(RUN, 0, 9).await.unwrap()), [b"one"]);
}

#[tokio::test]
async fn a_tenant_s_inbox_is_apart_from_everybody_s() {
    let server = Redis::start();
    let queue = open(&server.url());
    let (all, acme, zoo) = (
        queue.inbox(),
        queue.inbox_of("acme"),
        queue.inbox_of("a:c.m-e"),
    );
    assert_eq!((all.tenant(), acme.tenant()), (None, Some("acme")));
    push(&server, &[b"everybody's"]);
    for key in ["presswork:inbox:acme", "presswork:inbox:a:c.m-e"] {
        let _: u64 = producer(&server).rpush(key, key).unwrap();
    }
    acme.arrived().await;
    let taken = acme.take(RUN, 0, 9).await.unwrap();
    assert_eq!(bytes(&taken), [b"presswork:inbox:acme"]);
    assert_eq!(acme.holders().await.unwrap(), [(RUN, 0)]);
    let list = format!("{{presswork:inbox:acme}}:taken:{RUN}:0");
    assert!(keys(&server).contains(&list));
    for other in [&all, &zoo] {
        assert_eq!(other.waiting().await.unwrap(), 1);
        assert!(other.holders().await.unwrap().is_empty());
        other.done(RUN, 0, &taken).await.unwrap();
    }
    assert_eq!(acme.take(RUN, 0, 9).await.unwrap(), taken);
    acme.done(RUN, 0, &taken).await.unwrap();
    let left = zoo.take(RUN, 0, 9).await.unwrap();
    assert_eq!(bytes(&left), [b"presswork:inbox:a:c.m-e"]);
}
