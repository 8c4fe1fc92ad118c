//! How much, and for how long: every limit of the port, and its end.

use std::time::Duration;

use presswork::resp::{Limits, serve};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use crate::harbour::{Client, Harbour, SHORT, envelope, error, tokens, wire};
use crate::kit::wait;
use crate::site::{SOON, TOKEN, Wishes};

const INBOX: &str = "presswork:inbox";

fn guarded() -> Wishes {
    Wishes {
        token: Some(TOKEN),
        ..Wishes::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_listens_beyond_loopback_only_with_a_token_and_says_when_a_port_is_taken() {
    let harbour = Harbour::usual().await;
    let doors = || harbour.site.doors.clone();
    let tokens = |token| tokens(&harbour.site, token);
    let stop = CancellationToken::new();
    let all = "0.0.0.0:0".parse().unwrap();
    let refused = serve(all, tokens(None), doors(), stop.clone()).await.err();
    let refused = refused.expect("it is refused").to_string();
    assert!(
        refused.contains("the Redis port won't listen on 0.0.0.0:0 without a token"),
        "{refused}"
    );
    let served = serve(all, tokens(Some(TOKEN)), doors(), stop.clone()).await;
    assert!(served.is_ok());
    let taken = serve(harbour.addr, tokens(None), doors(), stop.clone())
        .await
        .err();
    let taken = taken.expect("it is taken").to_string();
    assert!(
        taken.contains("the Redis port can't listen on 127.0.0.1"),
        "{taken}"
    );
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_there_are_places_are_told() {
    let harbour = Harbour::limited(Limits {
        connections: 2,
        ..Limits::default()
    })
    .await;
    let (mut first, mut second) = (harbour.connect().await, harbour.connect().await);
    assert_eq!(first.say(&["PING"]).await, "PONG");
    assert_eq!(second.say(&["PING"]).await, "PONG");
    let told = harbour.connect().await.closed().await;
    assert_eq!(error(&told[0]), "ERR max number of clients reached");
    drop(first);
    wait::until("a place is free", SOON, async || {
        let mut next = harbour.connect().await;
        next.send(&wire(&["PING"])).await;
        next.hear().await == Some("PONG".into())
    })
    .await;
    assert_eq!(second.say(&["PING"]).await, "PONG");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_token_is_let_go_and_may_send_little() {
    let limits = Limits {
        auth: SHORT,
        ..Limits::default()
    };
    let harbour = Harbour::new(limits, guarded()).await;
    for sent in [&b""[..], b"*2\r\n$4\r\nAU", b"PING\r\nPING\r\n"] {
        let mut client = harbour.connect().await;
        client.send(sent).await;
        for told in client.closed().await {
            assert!(error(&told).starts_with("NOAUTH "), "{told}");
        }
    }
    let harbour = Harbour::new(Limits::default(), guarded()).await;
    let mut client = harbour.connect().await;
    let large = envelope("k", &"x".repeat(100_000));
    let wrong = client.wrong(&["RPUSH", INBOX, &large]).await;
    assert!(wrong.starts_with("NOAUTH "), "{wrong}");
    assert!(error(&client.say(&["AUTH", &large]).await).contains("too long"));
    assert_eq!(client.say(&["AUTH", TOKEN]).await, "OK");
    assert_eq!(client.say(&["RPUSH", INBOX, &large]).await, 1);
    let mut typist = harbour.connect().await;
    typist.send(&[b'x'; 5_000]).await;
    let told = typist.closed().await;
    assert!(
        error(&told[0]).contains("too big inline request"),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_or_stops_midway_is_let_go() {
    let harbour = Harbour::limited(Limits {
        idle: SHORT,
        ..Limits::default()
    })
    .await;
    let mut client = harbour.connect().await;
    assert_eq!(client.say(&["PING"]).await, "PONG");
    assert_eq!(client.closed().await, [Value::Null; 0]);
    let harbour = Harbour::limited(Limits {
        command: SHORT,
        ..Limits::default()
    })
    .await;
    for sent in [
        &b"*2\r\n$4\r\nECHO\r\n$10\r\nabc"[..],
        b"*1",
        b"PIN",
        b"MULTI\r\n",
    ] {
        let mut client = harbour.connect().await;
        client.send(sent).await;
        client.closed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_is_told_and_the_next_command_is_answered() {
    let harbour = Harbour::usual().await;
    let mut client = harbour.connect().await;
    let large = "x".repeat((256 << 10) + 1);
    let good = envelope("k", "a");
    let wrong = client.wrong(&["RPUSH", INBOX, &good, &large]).await;
    assert!(
        wrong.starts_with("TOOLARGE [1] is 262145 bytes; an envelope has at most"),
        "{wrong}"
    );
    let wrong = client.wrong(&["PRESSWORK.ENQUEUE", &large]).await;
    assert!(wrong.starts_with("TOOLARGE [0] "), "{wrong}");
    let many = [&["RPUSH", INBOX][..], &vec![good.as_str(); 1_001]].concat();
    let wrong = client.wrong(&many).await;
    assert!(
        wrong.starts_with("TOOLARGE 1003 words are too many"),
        "{wrong}"
    );
    let heavy = [&["RPUSH", INBOX][..], &vec![&large[1..]; 33]].concat();
    let wrong = client.wrong(&heavy).await;
    assert!(
        wrong.starts_with("TOOLARGE a command has at most 8388608 bytes"),
        "{wrong}"
    );
    assert!(!harbour.has("default", "k").await);
    assert_eq!(client.say(&["RPUSH", INBOX, &good]).await, 1);
    assert_eq!(client.say(&many[..1_002]).await, 1_000, "as many as may be");
    client.say(&["MULTI"]).await;
    for n in 0..1_000 {
        assert_eq!(client.say(&["PING"]).await, "QUEUED", "{n}");
    }
    assert!(
        client
            .wrong(&["PING"])
            .await
            .starts_with("TOOLARGE a transaction has at most")
    );
    assert!(client.wrong(&["EXEC"]).await.starts_with("EXECABORT "));
    for absurd in [
        &b"*1048577\r\n"[..],
        b"*1\r\n$536870913\r\n",
        b"*1\r\n!3\r\n",
    ] {
        let mut client = harbour.connect().await;
        client.send(absurd).await;
        let told = client.closed().await;
        assert!(
            error(&told[0]).starts_with("ERR Protocol error"),
            "{told:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_ahead_is_answered_whatever_is_read_at_once() {
    let harbour = Harbour::limited(Limits {
        ahead: (3, 100),
        unread: 64,
        ..Limits::default()
    })
    .await;
    let mut client = harbour.connect().await;
    let mut bytes = Vec::new();
    for n in 0..500 {
        bytes.extend(wire(&["ECHO", &n.to_string()]));
    }
    client.send(&bytes).await;
    client
        .stream
        .shutdown()
        .await
        .expect("half of it is closed");
    let told = client.closed().await;
    let wanted: Vec<Value> = (0..500).map(|n: u32| n.to_string().into()).collect();
    assert_eq!(told, wanted, "also of one that says nothing more");
}

/// What isn't read isn't gathered: the server stops reading, and lets go of the client in the end.
#[tokio::test(flavor = "multi_thread")]
async fn who_never_reads_is_let_go() {
    let harbour = Harbour::limited(Limits {
        write: SHORT,
        ..Limits::default()
    })
    .await;
    let mut client = harbour.connect().await;
    let ask = wire(&["ECHO", &"x".repeat(200_000)]);
    let sending = async { while client.stream.write_all(&ask).await.is_ok() {} };
    let ended = tokio::time::timeout(SOON, sending).await;
    assert!(ended.is_ok(), "it takes and takes");
    assert_eq!(harbour.connect().await.say(&["PING"]).await, "PONG");
}

/// Large commands wait for a place, and who is slow with one loses it.
#[tokio::test(flavor = "multi_thread")]
async fn few_large_commands_are_held_at_once() {
    let harbour = Harbour::limited(Limits {
        command: Duration::from_secs(2),
        ..Limits::default()
    })
    .await;
    let word = "x".repeat(250_000);
    let whole = wire(&[&["RPUSH", INBOX][..], &[word.as_str(); 8]].concat());
    let mut slow: Vec<Client> = Vec::new();
    for _ in 0..8 {
        let mut client = harbour.connect().await;
        client.send(&whole[..1_500_000]).await;
        slow.push(client);
    }
    let mut client = harbour.connect().await;
    let (a, b) = (envelope("a", "a"), envelope("b", "a"));
    assert_eq!(
        client.say(&["RPUSH", INBOX, &a, &b]).await,
        2,
        "the small ones need none"
    );
    for client in &mut slow {
        assert_eq!(client.closed().await, [Value::Null; 0]);
    }
    client.send(&whole).await;
    let told = client.hear().await.expect("a place is free again");
    assert!(error(&told).starts_with("MALFORMED [0] of 8"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_browser_was_made_to_send_is_not_done() {
    let harbour = Harbour::usual().await;
    let mut client = harbour.connect().await;
    let push = String::from_utf8(wire(&["RPUSH", INBOX, &envelope("k", "a")])).unwrap();
    let sent = format!("POST / HTTP/1.1\r\nHost: {}\r\n\r\n{push}", harbour.addr);
    client.send(sent.as_bytes()).await;
    let told = client.closed().await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(error(&told[0]).contains("not HTTP"));
    assert!(!harbour.has("default", "k").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_what_was_answered_answered() {
    let harbour = Harbour::usual().await;
    let mut client = harbour.connect().await;
    assert_eq!(
        client.say(&["RPUSH", INBOX, &envelope("k", "a")]).await,
        json!(1)
    );
    let mut midway = harbour.connect().await;
    midway.send(b"*2\r\n$4\r\nECHO\r\n").await;
    harbour.stop.cancel();
    assert_eq!(client.closed().await, [Value::Null; 0]);
    assert_eq!(midway.closed().await, [Value::Null; 0]);
    let ended = tokio::time::timeout(SOON, harbour.task).await;
    assert!(ended.is_ok_and(|it| it.is_ok()));
    assert!(tokio::net::TcpStream::connect(harbour.addr).await.is_err());
}
