//! Tokens at the Redis port: what their scopes and their tenant let through, and how soon a revocation
//! counts on a connection that is open.

use std::sync::Arc;
use std::time::{Duration, Instant};

use presswork::api::keyring::FRESH;
use presswork::clock::Clock;
use presswork::ledger::Ledger;
use presswork::ledger::sqlite::Sqlite;
use presswork::operate::By;
use presswork::operate::tokens::{self, Wanted};
use presswork::resp::Limits;
use presswork::token::{Grant, TokenId};
use secrecy::ExposeSecret;
use serde_json::json;

use crate::harbour::{Client, Harbour, envelope};
use crate::kit::wait;
use crate::site::{SOON, TOKEN, Wishes};
use crate::wrap::Faulty;

const INBOX: &str = "presswork:inbox";

fn by() -> By {
    By {
        actor: "ada".to_owned(),
        reason: String::new(),
    }
}

async fn token(ledger: &dyn Ledger, scopes: &str, tenant: Option<&str>) -> (TokenId, String) {
    let wanted = Wanted {
        name: "n".to_owned(),
        grant: Grant::read(scopes, tenant.map(str::to_owned)).expect("scopes"),
        expires: None,
    };
    let created = tokens::create(ledger, &wanted, &by()).await.expect("made");
    (created.token.id, created.text.expose_secret().to_owned())
}

async fn guarded() -> Harbour {
    let wishes = Wishes {
        token: Some(TOKEN),
        ..Wishes::default()
    };
    Harbour::new(Limits::default(), wishes).await
}

async fn known(harbour: &Harbour, token: &str) -> Client {
    let mut client = harbour.connect().await;
    assert_eq!(client.say(&["AUTH", token]).await, "OK");
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_push_what_its_scopes_say() {
    let harbour = guarded().await;
    let ledger = &*harbour.site.ledger;
    let (_, echo) = token(ledger, "enqueue:test.*", None).await;
    let mut client = harbour.connect().await;
    let hello = client.say(&["HELLO", "3", "AUTH", "default", &echo]).await;
    assert_eq!(hello["server"], "presswork", "{hello}");
    assert_eq!(client.say(&["RPUSH", INBOX, &envelope("k", "a")]).await, 1);
    assert!(harbour.has("default", "k").await);
    let other = json!({"kind": "other.kind", "key": "o", "payload": {}}).to_string();
    let wrong = client.wrong(&["RPUSH", INBOX, &other]).await;
    assert!(
        wrong.starts_with("NOPERM ") && wrong.contains("enqueue:other.kind"),
        "{wrong}"
    );
    // all or none
    let wrong = client
        .wrong(&["RPUSH", INBOX, &envelope("l", "a"), &other])
        .await;
    assert!(wrong.starts_with("NOPERM [1] of 2"), "{wrong}");
    for words in [
        &["MULTI"][..],
        &["RPUSH", INBOX, &envelope("l", "a")],
        &["RPUSH", INBOX, &other],
    ] {
        client.say(words).await;
    }
    let wrong = client.wrong(&["EXEC"]).await;
    assert!(
        wrong.starts_with("EXECABORT ") && wrong.contains("NOPERM"),
        "{wrong}"
    );
    assert!(!harbour.has("default", "l").await);
    // one that may not make any is let in, and told so
    let (_, reader) = token(ledger, "read", None).await;
    let mut client = known(&harbour, &reader).await;
    assert_eq!(client.say(&["PING"]).await, "PONG");
    let wrong = client
        .wrong(&["PRESSWORK.ENQUEUE", &envelope("l", "a")])
        .await;
    assert!(
        wrong.starts_with("NOPERM ") && wrong.contains("`enqueue`"),
        "{wrong}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_token_pushes_that_tenants_jobs_only() {
    let harbour = guarded().await;
    let (_, own) = token(&*harbour.site.ledger, "enqueue", Some("acme")).await;
    let mut client = known(&harbour, &own).await;
    assert_eq!(client.say(&["RPUSH", INBOX, &envelope("k", "a")]).await, 1);
    assert!(harbour.has("acme", "k").await && !harbour.has("default", "k").await);
    let inbox = format!("{INBOX}:acme");
    assert_eq!(client.say(&["RPUSH", &inbox, &envelope("l", "a")]).await, 1);
    assert!(harbour.has("acme", "l").await);
    let inbox = format!("{INBOX}:other");
    let wrong = client.wrong(&["RPUSH", &inbox, &envelope("m", "a")]).await;
    assert!(
        wrong.starts_with("NOPERM ") && wrong.contains("`acme`"),
        "{wrong}"
    );
    let said =
        json!({"kind": "test.echo", "key": "m", "tenant": "other", "payload": {"text": "a"}});
    let wrong = client.wrong(&["RPUSH", INBOX, &said.to_string()]).await;
    assert!(wrong.starts_with("INVALID /tenant"), "{wrong}");
    assert!(!harbour.has("other", "m").await && !harbour.has("acme", "m").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_token_is_refused_and_only_its_owner_is_told_why() {
    let harbour = guarded().await;
    let ledger = &*harbour.site.ledger;
    let (id, revoked) = token(ledger, "enqueue", None).await;
    tokens::revoke(ledger, id, &by()).await.unwrap();
    let (_, good) = token(ledger, "enqueue", None).await;
    let mixed = format!("{}{}", &revoked[..20], &good[20..]);
    let mut client = harbour.connect().await;
    for (said, word) in [(&revoked, "revoked"), (&mixed, "isn't a token")] {
        let wrong = client.wrong(&["AUTH", "default", said]).await;
        assert!(
            wrong.starts_with("WRONGPASS ") && wrong.contains(word),
            "{wrong}"
        );
        assert!(!wrong.contains(&said[20..]), "{wrong}");
        let wrong = client.wrong(&["PING"]).await;
        assert!(wrong.starts_with("NOAUTH "), "{wrong}");
    }
    assert_eq!(client.say(&["AUTH", &good]).await, "OK");
    assert_eq!(client.say(&["PING"]).await, "PONG");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_counts_on_open_connections_within_two_seconds() {
    let harbour = guarded().await;
    let (id, token) = token(&*harbour.site.ledger, "enqueue", None).await;
    let mut client = known(&harbour, &token).await;
    assert_eq!(client.say(&["PING"]).await, "PONG");
    tokens::revoke(&*harbour.site.ledger, id, &by())
        .await
        .unwrap();
    let began = Instant::now();
    // half a transaction goes with it
    assert_eq!(client.say(&["MULTI"]).await, "OK");
    let client = tokio::sync::Mutex::new(client);
    wait::until("the revocation counts", SOON, async || {
        let job = envelope("late", "a");
        let said = client.lock().await.say(&["RPUSH", INBOX, &job]).await;
        said["error"]
            .as_str()
            .is_some_and(|it| it.starts_with("NOAUTH "))
    })
    .await;
    assert!(began.elapsed() < FRESH + Duration::from_secs(2));
    assert!(!harbour.has("default", "late").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_token_cannot_be_looked_up_nothing_is_taken_and_clients_try_again() {
    let folder = tempfile::tempdir().expect("a temp folder");
    let path = folder.path().join("ledger.db");
    let engine = Sqlite::open(&path, Clock::System).await.expect("opens");
    engine.migrate().await.expect("migrates");
    let api = Sqlite::open(&path, Clock::System).await.expect("opens");
    let ledger = Faulty::new(Arc::new(api));
    let wishes = Wishes {
        token: Some(TOKEN),
        ledgers: Some([Arc::new(engine), ledger.clone()]),
        ..Wishes::default()
    };
    let harbour = Harbour::new(Limits::default(), wishes).await;
    let (_, token) = token(&*ledger, "enqueue", None).await;
    let mut open = known(&harbour, &token).await;
    ledger.away("token");
    let mut late = harbour.connect().await;
    let (_, other) = crate::tokens::token(&*ledger, "enqueue", None).await;
    let wrong = late.wrong(&["AUTH", &other]).await;
    assert!(wrong.starts_with("LOADING "), "{wrong}");
    // the open one goes on as long as what is known of its token counts
    assert_eq!(open.say(&["RPUSH", INBOX, &envelope("k", "a")]).await, 1);
    let open = tokio::sync::Mutex::new(open);
    wait::until("nothing more is known of it", SOON, async || {
        let job = envelope("k", "a");
        let said = open.lock().await.say(&["RPUSH", INBOX, &job]).await;
        said["error"]
            .as_str()
            .is_some_and(|it| it.starts_with("LOADING "))
    })
    .await;
    ledger.back();
    let mut open = open.into_inner();
    assert_eq!(open.say(&["RPUSH", INBOX, &envelope("l", "a")]).await, 1);
    assert_eq!(late.say(&["AUTH", &other]).await, "OK");
}
