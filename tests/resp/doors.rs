//! Jobs in: what is taken, what is refused and in which words, all or none.

use std::sync::Arc;

use presswork::clock::Clock;
use presswork::engine::pressure::Pressure;
use presswork::ledger::Ledger;
use presswork::ledger::sqlite::Sqlite;
use presswork::resp::Limits;
use serde_json::{Value, json};

use crate::harbour::{Harbour, envelope, error, wire};
use crate::site::{TOKEN, Wishes, far_ledgers};
use crate::wrap::Faulty;

const INBOX: &str = "presswork:inbox";

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_there_when_it_is_answered_and_the_same_again_is_no_other() {
    let harbour = Harbour::usual().await;
    let mut client = harbour.connect().await;
    let job = envelope("k", "a");
    assert_eq!(client.say(&["RPUSH", INBOX, &job]).await, 1);
    assert!(harbour.has("default", "k").await);
    assert_eq!(client.say(&["lpush", INBOX, &job]).await, 1);
    let ids = client
        .say(&["PRESSWORK.ENQUEUE", &job, &envelope("l", "a")])
        .await;
    let known = harbour
        .site
        .ledger
        .job_of_key("default", "test.echo", "k")
        .await;
    assert_eq!(ids[0], known.unwrap().unwrap().to_string());
    assert_eq!(ids.as_array().unwrap().len(), 2);
    let one = client.say(&["PRESSWORK.ENQUEUE", &job]).await;
    assert_eq!(one, json!([ids[0]]));
    let many = [
        "RPUSH",
        INBOX,
        &job,
        &envelope("m", "a"),
        &envelope("m", "a"),
    ];
    assert_eq!(client.say(&many).await, 3);
    let wrong = client.wrong(&["RPUSH", INBOX, &envelope("k", "b")]).await;
    assert!(
        wrong.starts_with("CONFLICT its key is taken by job "),
        "{wrong}"
    );
    assert!(
        wrong.contains(ids[0].as_str().unwrap()) && wrong.contains("/text"),
        "{wrong}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_may_name_the_tenant_whose_jobs_alone_are_taken() {
    let harbour = Harbour::usual().await;
    let mut client = harbour.connect().await;
    let own = format!("{INBOX}:acme");
    assert_eq!(client.say(&["RPUSH", &own, &envelope("k", "a")]).await, 1);
    assert!(harbour.has("acme", "k").await && !harbour.has("default", "k").await);
    let said = |tenant: &str| {
        json!({"kind": "test.echo", "key": "l", "tenant": tenant, "payload": {"text": "a"}})
            .to_string()
    };
    assert_eq!(client.say(&["RPUSH", &own, &said("acme")]).await, 1);
    let wrong = client.wrong(&["RPUSH", &own, &said("other")]).await;
    assert!(wrong.starts_with("INVALID /tenant: is `other`"), "{wrong}");
    assert!(!harbour.has("other", "l").await);
    for key in [
        "inbox",
        "presswork:inbox:",
        "presswork:inbox:a b",
        "presswork:reply:x",
    ] {
        let wrong = client.wrong(&["RPUSH", key, &envelope("n", "a")]).await;
        assert!(
            wrong.starts_with("ERR ") && wrong.contains(INBOX),
            "{wrong}"
        );
    }
}

/// Every door gives the same answer to the same bytes.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_refused_as_by_http_in_the_same_words() {
    let harbour = Harbour::usual().await;
    let mut client = harbour.connect().await;
    let large = envelope("k", &"x".repeat(300_000));
    for (word, bytes) in [
        ("MALFORMED", "no JSON"),
        ("MALFORMED", "{"),
        (
            "MALFORMED",
            r#"{"kind":"test.echo","prio":"high","payload":[],"timeout_s":0}"#,
        ),
        ("UNKNOWNKIND", r#"{"kind":"test.ecoh","payload":{}}"#),
        (
            "INVALID",
            r#"{"kind":"test.echo","lane":"nowhere","payload":{"text":7}}"#,
        ),
        ("TOOLARGE", &large),
    ] {
        let wrong = client.wrong(&["RPUSH", INBOX, bytes]).await;
        let http = harbour.site.post(bytes).await;
        let violations = http.json()["violations"].as_array().unwrap().clone();
        assert!(!violations.is_empty(), "{http:?}");
        assert!(wrong.starts_with(&format!("{word} ")), "{wrong}");
        let reason = http.json()["reason"].as_str().unwrap().replace('_', "");
        assert_eq!(reason.to_uppercase(), word);
        for it in violations {
            let (pointer, message) = (
                it["pointer"].as_str().unwrap(),
                it["message"].as_str().unwrap(),
            );
            assert!(
                wrong.contains(pointer) && wrong.contains(message),
                "{it} isn't in: {wrong}"
            );
        }
        assert_eq!(client.say(&["PING"]).await, "PONG", "it goes on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refused_envelope_refuses_them_all() {
    let harbour = Harbour::usual().await;
    let mut client = harbour.connect().await;
    client.say(&["RPUSH", INBOX, &envelope("taken", "a")]).await;
    let (good, more) = (envelope("good", "a"), envelope("more", "a"));
    let conflict = envelope("taken", "b");
    for (bad, told) in [
        ("{}", "MALFORMED [1] of 3, so that none was taken: "),
        (
            conflict.as_str(),
            "CONFLICT [1] of 3, so that none was taken: its key is taken by job ",
        ),
        (
            envelope("good", "b").as_str(),
            "CONFLICT [1] of 3, so that none was taken: /key: is that of [0] beside it",
        ),
    ] {
        for command in [&["RPUSH", INBOX][..], &["PRESSWORK.ENQUEUE"]] {
            let words = [command, &[&good, bad, &more]].concat();
            let wrong = client.wrong(&words).await;
            assert!(wrong.starts_with(told), "{wrong}");
        }
        assert!(!harbour.has("default", "good").await && !harbour.has("default", "more").await);
    }
    assert_eq!(client.say(&["RPUSH", INBOX, &good, &more]).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_takes_all_or_none() {
    let harbour = Harbour::usual().await;
    let mut client = harbour.connect().await;
    let (a, b, c) = (envelope("a", "a"), envelope("b", "a"), envelope("c", "a"));
    for words in [
        &["RPUSH", INBOX, &a][..],
        &["PING"],
        &["PRESSWORK.ENQUEUE", &b, &c],
    ] {
        client.send(&wire(&["MULTI"])).await;
        client.send(&wire(words)).await;
        client.send(&wire(&["RPUSH", INBOX, "{}"])).await;
        client.send(&wire(&["EXEC"])).await;
        for told in ["OK", "QUEUED", "QUEUED"] {
            assert_eq!(client.hear().await.unwrap(), told);
        }
        let wrong = error(&client.hear().await.unwrap());
        let told = "EXECABORT Transaction discarded because of command [1]: MALFORMED ";
        assert!(wrong.starts_with(told), "{wrong}");
    }
    for key in ["a", "b", "c"] {
        assert!(!harbour.has("default", key).await, "{key}");
    }
    for words in [
        &["MULTI"][..],
        &["RPUSH", INBOX, &a],
        &["PING"],
        &["PRESSWORK.ENQUEUE", &b, &c],
    ] {
        client.say(words).await;
    }
    assert!(!harbour.has("default", "a").await, "nothing before EXEC");
    let done = client.say(&["EXEC"]).await;
    assert_eq!((&done[0], &done[1]), (&json!(1), &json!("PONG")));
    assert_eq!(done[2].as_array().unwrap().len(), 2);
    for key in ["a", "b", "c"] {
        assert!(harbour.has("default", key).await, "{key}");
    }
    for words in [
        &["MULTI"][..],
        &["RPUSH", INBOX, &envelope("d", "a")],
        &["DISCARD"],
    ] {
        client.say(words).await;
    }
    assert!(!harbour.has("default", "d").await);
    client.say(&["MULTI"]).await;
    assert_eq!(client.say(&["EXEC"]).await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_is_answered_in_order_each_by_itself() {
    let harbour = Harbour::usual().await;
    let mut client = harbour.connect().await;
    let (mut bytes, mut wanted) = (Vec::new(), Vec::new());
    for n in 0..300 {
        let job = envelope(&format!("k{n}"), "a");
        match n % 6 {
            0 => bytes.extend(wire(&["ECHO", &n.to_string()])),
            1 => bytes.extend(wire(&["RPUSH", INBOX, "{}"])),
            2 => bytes.extend(wire(&[
                "RPUSH",
                INBOX,
                &job,
                &envelope(&format!("l{n}"), "a"),
            ])),
            3 => bytes.extend(wire(&["RPUSH", INBOX, &job, "[]"])),
            _ => bytes.extend(wire(&["RPUSH", INBOX, &job])),
        }
        wanted.push(match n % 6 {
            0 => n.to_string().into(),
            1 => json!({"error": "MALFORMED"}),
            2 => json!(2),
            3 => json!({"error": "MALFORMED"}),
            _ => json!(1),
        });
    }
    client.send(&bytes).await;
    for (n, wanted) in wanted.into_iter().enumerate() {
        let answer = client.hear().await.expect("an answer");
        match wanted["error"].as_str() {
            Some(word) => assert!(error(&answer).starts_with(word), "{n}: {answer}"),
            None => assert_eq!(answer, wanted, "{n}"),
        }
        if n % 6 == 3 {
            assert!(!harbour.has("default", &format!("k{n}")).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_wanted_and_never_told() {
    let wishes = Wishes {
        token: Some(TOKEN),
        ..Wishes::default()
    };
    let harbour = Harbour::new(Limits::default(), wishes).await;
    let job = envelope("k", "a");
    let mut client = harbour.connect().await;
    for words in [
        &["PING"][..],
        &["RPUSH", INBOX, &job],
        &["HELLO", "3"],
        &["NONSENSE"],
    ] {
        let wrong = client.wrong(words).await;
        assert!(
            wrong.starts_with("NOAUTH ") && !wrong.contains(TOKEN),
            "{wrong}"
        );
    }
    for words in [
        &["AUTH", "nonsense"][..],
        &["AUTH", "default", &TOKEN[1..]],
        &["HELLO", "3", "AUTH", "default", ""],
    ] {
        let wrong = client.wrong(words).await;
        assert!(
            wrong.starts_with("WRONGPASS ") && !wrong.contains("nonsense"),
            "{wrong}"
        );
    }
    assert!(!harbour.has("default", "k").await);
    assert_eq!(client.say(&["AUTH", TOKEN]).await, "OK");
    assert_eq!(client.say(&["RPUSH", INBOX, &job]).await, 1);
    let mut other = harbour.connect().await;
    let hello = other
        .say(&["HELLO", "3", "AUTH", "whoever", TOKEN, "SETNAME", "me"])
        .await;
    assert_eq!(
        (&hello["proto"], &hello["server"]),
        (&json!(3), &json!("presswork"))
    );
    assert_eq!(other.say(&["CLIENT", "GETNAME"]).await, "me");
    let told = [
        other.wrong(&["CLIENT", "LIST"]).await,
        other.say(&["INFO"]).await.to_string(),
    ];
    assert!(told.iter().all(|it| !it.contains(TOKEN)), "{told:?}");
    assert_eq!(other.say(&["RESET"]).await, "RESET");
    assert!(other.wrong(&["PING"]).await.starts_with("NOAUTH "));
    let mut tries = harbour.connect().await;
    for _ in 0..8 {
        tries.send(&wire(&["AUTH", "nonsense"])).await;
    }
    assert_eq!(tries.closed().await.len(), 8, "a guesser is let go");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_what_they_ask_first() {
    let harbour = Harbour::usual().await;
    let mut client = harbour.connect().await;
    let hello = client.say(&["HELLO"]).await;
    assert_eq!(hello.as_array().unwrap().len(), 14, "{hello}");
    assert_eq!(client.say(&["HELLO", "3"]).await["proto"], 3);
    assert!(client.wrong(&["HELLO", "4"]).await.starts_with("NOPROTO "));
    assert_eq!(client.say(&["CLIENT", "GETNAME"]).await, Value::Null);
    assert_eq!(
        client.say(&["CLIENT", "SETINFO", "LIB-NAME", "x"]).await,
        "OK"
    );
    assert!(client.say(&["CLIENT", "ID"]).await.is_i64());
    assert_eq!(client.say(&["SELECT", "0"]).await, "OK");
    assert!(
        client
            .wrong(&["SELECT", "1"])
            .await
            .contains("one database")
    );
    let count = client.say(&["COMMAND", "COUNT"]).await;
    let all = client.say(&["COMMAND"]).await;
    assert_eq!(count, all.as_array().unwrap().len());
    let info = client.say(&["COMMAND", "INFO", "rpush", "get"]).await;
    assert_eq!((&info[0][0], &info[1]), (&json!("rpush"), &Value::Null));
    assert_eq!(client.say(&["COMMAND", "DOCS"]).await, json!({}));
    assert!(
        client
            .say(&["INFO"])
            .await
            .as_str()
            .unwrap()
            .contains("loading:0")
    );
    let wrong = client.wrong(&["LRANGE", INBOX, "0", "-1"]).await;
    assert!(
        wrong.contains("`lrange` isn't known") && wrong.contains("RPUSH"),
        "{wrong}"
    );
    // a person who types
    client.send(b"ping\r\nECHO \"a b\"\r\n").await;
    assert_eq!(client.hear().await.unwrap(), "PONG");
    assert_eq!(client.hear().await.unwrap(), "a b");
    let typed = format!("RPUSH {INBOX} '{}'\r\n", envelope("typed", "a"));
    client.send(typed.as_bytes()).await;
    assert_eq!(client.hear().await.unwrap(), 1);
    client.send(&wire(&["QUIT"])).await;
    assert_eq!(client.closed().await, ["OK"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_now_is_told_so_that_clients_try_again() {
    let wishes = Wishes {
        backlog_max: Some(2),
        ..Wishes::default()
    };
    let harbour = Harbour::new(Limits::default(), wishes).await;
    let mut client = harbour.connect().await;
    let (a, b, c) = (envelope("a", "a"), envelope("b", "a"), envelope("c", "a"));
    harbour.site.shared.pressure.set(Pressure::Critical);
    let wrong = client.wrong(&["RPUSH", INBOX, &a]).await;
    assert!(
        wrong.starts_with("TRYAGAIN ") && wrong.contains("memory"),
        "{wrong}"
    );
    harbour.site.shared.pressure.set(Pressure::None);
    assert_eq!(client.say(&["RPUSH", INBOX, &a, &b]).await, 2);
    for words in [&["RPUSH", INBOX, &c][..], &["RPUSH", INBOX, &c, &b]] {
        let wrong = client.wrong(words).await;
        assert!(
            wrong.starts_with("TRYAGAIN ") && wrong.contains("bound of 2"),
            "{wrong}"
        );
    }
    for words in [&["MULTI"][..], &["RPUSH", INBOX, &c]] {
        client.say(words).await;
    }
    assert!(client.wrong(&["EXEC"]).await.starts_with("TRYAGAIN "));
    harbour.site.shared.draining.cancel();
    assert_eq!(client.say(&["PING"]).await, "PONG", "until it brings a job");
    client.send(&wire(&["RPUSH", INBOX, &c])).await;
    let told = client.closed().await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        error(&told[0]).starts_with("LOADING the daemon is stopping"),
        "{told:?}"
    );
    assert!(!harbour.has("default", "c").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_away_is_told_and_comes_back_by_itself() {
    let (proxy, ledgers) = far_ledgers().await;
    let wishes = Wishes {
        ledgers: Some(ledgers),
        ..Wishes::default()
    };
    let harbour = Harbour::new(Limits::default(), wishes).await;
    let mut client = harbour.connect().await;
    let (a, b) = (envelope("a", "a"), envelope("b", "a"));
    assert_eq!(client.say(&["RPUSH", INBOX, &a]).await, 1);
    assert_eq!(client.say(&["RPUSH", INBOX, &a, &b]).await, 2);
    proxy.refuse();
    for words in [&["RPUSH", INBOX, &a][..], &["RPUSH", INBOX, &a, &b]] {
        let wrong = client.wrong(words).await;
        assert!(
            wrong.starts_with("LOADING the ledger can't be reached"),
            "{wrong}"
        );
        assert!(!wrong.contains("127.0.0.1"), "{wrong}");
    }
    proxy.heal();
    let back = async { while client.say(&["RPUSH", INBOX, &a, &b]).await != 2 {} };
    let back = tokio::time::timeout(crate::site::SOON, back).await;
    back.expect("it takes jobs again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_ahead_shares_commits_and_one_refused_stops_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = async || {
        let ledger = Sqlite::open(&folder.path().join("ledger.db"), Clock::System).await;
        Arc::new(ledger.expect("it opens"))
    };
    let engine = open().await;
    engine.migrate().await.expect("it migrates");
    let counting = Faulty::new(engine);
    let ledgers: [Arc<dyn Ledger>; 2] = [counting.clone(), open().await];
    let wishes = Wishes {
        ledgers: Some(ledgers),
        ..Wishes::default()
    };
    let harbour = Harbour::new(Limits::default(), wishes).await;
    let mut client = harbour.connect().await;
    let (mut bytes, mut groups) = (Vec::new(), Vec::new());
    for n in 0..300 {
        bytes.extend(wire(&["RPUSH", INBOX, &envelope(&format!("k{n}"), "a")]));
        let (a, b) = (
            envelope(&format!("l{n}"), "a"),
            envelope(&format!("m{n}"), "a"),
        );
        groups.extend(wire(&["RPUSH", INBOX, &a, &b]));
    }
    client.send(&bytes).await;
    for n in 0..300 {
        assert_eq!(client.hear().await.unwrap(), 1, "{n}");
    }
    assert!(
        counting.calls("accept") < 100,
        "{}",
        counting.calls("accept")
    );
    client.send(&groups).await;
    for n in 0..300 {
        assert_eq!(client.hear().await.unwrap(), 2, "{n}");
    }
    let calls = counting.calls("accept_together");
    assert!(calls < 100, "{calls}");
    // one of them meets another's key
    let mut groups = Vec::new();
    for n in 0..20 {
        let second = if n == 7 {
            "k7".to_owned()
        } else {
            format!("o{n}")
        };
        let (a, b) = (envelope(&format!("n{n}"), "a"), envelope(&second, "b"));
        groups.extend(wire(&["RPUSH", INBOX, &a, &b]));
    }
    client.send(&groups).await;
    for n in 0..20 {
        let answer = client.hear().await.unwrap();
        match n {
            7 => assert!(error(&answer).starts_with("CONFLICT [1] of 2"), "{answer}"),
            _ => assert_eq!(answer, 2, "{n}"),
        }
        assert_eq!(harbour.has("default", &format!("n{n}")).await, n != 7);
    }
}
