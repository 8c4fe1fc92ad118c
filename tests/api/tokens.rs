//! Tokens over HTTP: what each scope opens, whose jobs are seen, what is told, and how soon a revocation
//! counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use presswork::api::keyring::FRESH;
use presswork::clock::Clock;
use presswork::ledger::Ledger;
use presswork::ledger::sqlite::Sqlite;
use presswork::operate::By;
use presswork::operate::tokens::{self, Wanted};
use presswork::token::{Grant, TokenId};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::kit::wait;
use crate::site::{Reply, SOON, Site, TOKEN, Wishes};
use crate::wrap::Faulty;

const JSON: &str = "content-type: application/json\r\n";

pub fn by() -> By {
    By {
        actor: "ada".to_owned(),
        reason: String::new(),
    }
}

/// A new token of these scopes: its id, and how it is shown.
pub async fn token(
    ledger: &dyn Ledger,
    scopes: &str,
    tenant: Option<&str>,
    expires: Option<Duration>,
) -> (TokenId, String) {
    let wanted = Wanted {
        name: format!("for {scopes}"),
        grant: Grant::read(scopes, tenant.map(str::to_owned)).expect("scopes"),
        expires,
    };
    let created = tokens::create(ledger, &wanted, &by()).await.expect("made");
    (created.token.id, created.text.expose_secret().to_owned())
}

async fn guarded() -> Site {
    let wishes = Wishes {
        token: Some(TOKEN),
        ..Wishes::default()
    };
    Site::new(wishes).await
}

async fn ask(site: &Site, token: &str, method: &str, path: &str, body: &str) -> Reply {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {token}\r\n{JSON}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    site.raw(head.as_bytes()).await
}

async fn get(site: &Site, token: &str, path: &str) -> Reply {
    ask(site, token, "GET", path, "").await
}

async fn post(site: &Site, token: &str, body: &Value) -> Reply {
    ask(site, token, "POST", "/v1/jobs", &body.to_string()).await
}

fn envelope(key: &str) -> Value {
    json!({"kind": "test.echo", "key": key, "payload": {"text": "a"}})
}

fn of_tenant(key: &str, tenant: &str) -> Value {
    let mut envelope = envelope(key);
    envelope["tenant"] = tenant.into();
    envelope
}

#[tokio::test(flavor = "multi_thread")]
async fn each_scope_opens_its_routes_and_no_other() {
    let site = guarded().await;
    let place = post(&site, TOKEN, &envelope("k")).await;
    let place = place.header("location").to_owned();
    let cancel = format!("{place}/cancel");
    let resolve = format!("{place}/resolve");
    let receipt = format!("{place}/receipt");
    let word = r#"{"happened": false}"#;
    // what each is answered: that it may not, or what it would be answered with every right
    for (scopes, wants) in [
        ("enqueue", [201, 403, 403, 403, 403, 403, 403, 403]),
        ("enqueue:test.*", [201, 403, 403, 403, 403, 403, 403, 403]),
        ("enqueue:other", [403, 403, 403, 403, 403, 403, 403, 403]),
        ("read", [403, 200, 200, 200, 200, 403, 403, 404]),
        ("operate", [403, 200, 200, 200, 200, 409, 409, 404]),
        ("enqueue read", [201, 200, 200, 200, 200, 403, 403, 404]),
        ("admin", [201, 200, 200, 200, 200, 409, 409, 404]),
    ] {
        let (_, token) = token(&*site.ledger, scopes, None, None).await;
        let token = token.as_str();
        // a job that was called off can't be called off, nor resolved
        ask(&site, TOKEN, "POST", &cancel, "").await;
        let told = [
            post(&site, token, &envelope(scopes)).await.status,
            get(&site, token, &place).await.status,
            get(&site, token, &receipt).await.status,
            get(&site, token, "/v1/unresolved").await.status,
            get(&site, token, "/metrics").await.status,
            ask(&site, token, "POST", &cancel, "").await.status,
            ask(&site, token, "POST", &resolve, word).await.status,
            get(&site, token, "/v1/nothing").await.status,
        ];
        assert_eq!(told, wants, "{scopes}");
    }
    let (_, token) = token(&*site.ledger, "read", None, None).await;
    let refused = ask(&site, &token, "POST", &cancel, "").await;
    assert_eq!(refused.problem(), "scope");
    assert_eq!(refused.json()["needs"], "operate");
    assert_eq!(refused.json().get("detail"), None);
    // who did it is written down
    let (id, token) = crate::tokens::token(&*site.ledger, "operate", None, None).await;
    let fresh = post(&site, TOKEN, &envelope("fresh")).await;
    let cancel = format!("{}/cancel", fresh.header("location"));
    assert_eq!(ask(&site, &token, "POST", &cancel, "").await.status, 200);
    let audit = site.ledger.audit(None, 1).await.unwrap().remove(0);
    assert_eq!(audit.actor, format!("http: token {id} (for operate)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_batch_only_the_kinds_of_the_token_are_taken() {
    let site = guarded().await;
    let (_, token) = token(&*site.ledger, "enqueue:test.echo", None, None).await;
    let mut other = envelope("b");
    other["kind"] = "test.other".into();
    let batch = json!([envelope("a"), other, envelope("c"), 7]);
    let reply = post(&site, &token, &batch).await;
    assert_eq!(reply.status, 207, "{reply:?}");
    let told = reply.json();
    let statuses: Vec<_> = told
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["status"])
        .collect();
    assert_eq!(statuses, [201, 403, 201, 422]);
    let refused = &told[1];
    assert_eq!(refused["code"], "scope");
    assert_eq!(refused["reason"], "forbidden");
    assert_eq!(refused["recoverable"], false);
    assert_eq!(refused["violations"][0]["pointer"], "/kind");
    let told = refused["violations"][0]["message"].as_str().unwrap();
    assert!(told.contains("enqueue:test.other"), "{told}");
    assert_eq!(refused.get("detail"), None);
    let alone = post(&site, &token, &other_of(&batch)).await;
    assert_eq!((alone.status, alone.problem().as_str()), (403, "scope"));
}

fn other_of(batch: &Value) -> Value {
    batch[1].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_token_makes_and_sees_that_tenants_jobs_only() {
    let site = guarded().await;
    let (_, token) = token(&*site.ledger, "admin", Some("acme"), None).await;
    let own = post(&site, &token, &envelope("own")).await;
    assert_eq!(own.status, 201, "{own:?}");
    let own = own.header("location").to_owned();
    let shown = get(&site, &token, &own).await.json();
    assert_eq!(shown["tenant"], "acme");
    assert_eq!(
        post(&site, &token, &of_tenant("own", "acme")).await.status,
        200
    );
    let foreign = post(&site, &token, &of_tenant("x", "other")).await;
    assert_eq!(
        (foreign.status, foreign.problem().as_str()),
        (422, "invalid")
    );
    assert_eq!(foreign.pointers(), ["/tenant"]);
    // another one's is as if it never was, to the byte
    let others = post(&site, TOKEN, &of_tenant("o", "other")).await;
    let others = others.header("location").to_owned();
    let never = format!("/v1/jobs/{}", presswork::job::JobId::mint());
    for (what, method, body) in [
        ("", "GET", ""),
        ("/receipt", "GET", ""),
        ("/cancel", "POST", ""),
        ("/resolve", "POST", r#"{"happened": false}"#),
    ] {
        let of = |place: &str| format!("{place}{what}");
        let hidden = ask(&site, &token, method, &of(&others), body).await;
        let none = ask(&site, &token, method, &of(&never), body).await;
        assert_eq!((hidden.status, none.status), (404, 404), "{what}");
        let bare = |reply: &Reply, place: &str| {
            let id = place.rsplit('/').next().expect("an id");
            reply.text.replace(id, "ID")
        };
        assert_eq!(bare(&hidden, &others), bare(&none, &never), "{what}");
    }
    assert_eq!(get(&site, TOKEN, &others).await.json()["state"], "ready");
    // the metrics tell of all tenants
    let refused = get(&site, &token, "/metrics").await;
    assert_eq!((refused.status, refused.problem().as_str()), (403, "scope"));
    assert_eq!(
        get(&site, &token, "/v1/unresolved").await.json(),
        json!({"jobs": []})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_token_opens_nothing_and_only_its_owner_is_told_why() {
    let site = guarded().await;
    let (revoked, first) = token(&*site.ledger, "read", None, None).await;
    tokens::revoke(&*site.ledger, revoked, &by()).await.unwrap();
    let (_, over) = token(&*site.ledger, "read", None, Some(Duration::ZERO)).await;
    let (_, good) = token(&*site.ledger, "read", None, None).await;
    let with = |head: &str, tail: &str| format!("{}{}", &head[..20], &tail[20..]);
    let unknown = with("pw_ffffffffffffffff_", &good);
    for (said, word) in [
        (&first, "revoked"),
        (&over, "over"),
        // a right id with a wrong secret isn't told what became of it
        (&with(&first, &good), "isn't a token"),
        (&with(&over, &good), "isn't a token"),
        (&with(&good, &over), "isn't a token"),
        (&unknown, "isn't a token"),
        (&good[..20].to_owned(), "isn't a token"),
        (&format!("{good}x"), "isn't a token"),
    ] {
        let reply = get(&site, said, "/v1/unresolved").await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (401, "unauthorised")
        );
        assert!(reply.text.contains(word), "{word}: {reply:?}");
        assert!(reply.header("www-authenticate").contains("invalid_token"));
        let secret = &said[20..];
        assert!(
            secret.is_empty() || !reply.text.contains(secret),
            "{reply:?}"
        );
    }
    assert_eq!(get(&site, &good, "/v1/unresolved").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_opens_nothing_within_two_seconds() {
    let site = guarded().await;
    let (id, token) = token(&*site.ledger, "read", None, None).await;
    let status = async || get(&site, &token, "/v1/unresolved").await.status;
    assert_eq!(status().await, 200);
    tokens::revoke(&*site.ledger, id, &by()).await.unwrap();
    let began = Instant::now();
    wait::until("the revocation counts", SOON, async || {
        status().await == 401
    })
    .await;
    assert!(began.elapsed() < FRESH + Duration::from_secs(2));
    assert_eq!(status().await, 401);
}

/// A site whose API's ledger is counted, and may be away.
async fn counted() -> (tempfile::TempDir, Arc<Faulty>, Site) {
    let folder = tempfile::tempdir().expect("a temp folder");
    let path = folder.path().join("ledger.db");
    let engine = Sqlite::open(&path, Clock::System).await.expect("opens");
    engine.migrate().await.expect("migrates");
    let api = Sqlite::open(&path, Clock::System).await.expect("opens");
    let api = Faulty::new(Arc::new(api));
    let wishes = Wishes {
        token: Some(TOKEN),
        ledgers: Some([Arc::new(engine), api.clone()]),
        ..Wishes::default()
    };
    (folder, api, Site::new(wishes).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_and_many_guesses_cost_the_ledger_little() {
    let (_folder, ledger, site) = counted().await;
    let (id, token) = token(&*site.ledger, "enqueue", None, None).await;
    let looks = || ledger.calls("token");
    let (before, began) = (looks(), Instant::now());
    let all = (0..200).map(|n| {
        let (site, token) = (&site, &token);
        async move { post(site, token, &envelope(&n.to_string())).await.status }
    });
    let told = futures_util::future::join_all(all).await;
    assert!(told.iter().all(|it| *it == 201), "{told:?}");
    // as many as may be asked at once, each time that the last look is past
    let rounds = began.elapsed().as_secs() / FRESH.as_secs() + 1;
    assert!(looks() - before <= 4 * rounds, "{} looks", looks() - before);
    wait::until("its use is noted", SOON, async || {
        let (token, _) = site.ledger.token(id).await.unwrap().unwrap();
        token.last_used_at.is_some()
    })
    .await;
    let uses = ledger.calls("token_used");
    assert!((1..=4).contains(&uses), "{uses}");
    // the same wrong one over and over
    let wrong = format!("pw_ffffffffffffffff_{}", &token[20..]);
    let (before, began) = (looks(), Instant::now());
    for _ in 0..50 {
        assert_eq!(get(&site, &wrong, "/v1/unresolved").await.status, 401);
    }
    let rounds = began.elapsed().as_secs() / FRESH.as_secs() + 1;
    assert!(looks() - before <= rounds, "{} looks", looks() - before);
    // what can't be a token isn't looked for
    let before = looks();
    for wrong in ["pw_", "pw_x_y", "hunter2", &token[..40]] {
        assert_eq!(get(&site, wrong, "/v1/unresolved").await.status, 401);
    }
    assert_eq!(looks(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_ledger_is_away_a_token_is_told_to_come_back() {
    let (_folder, ledger, site) = counted().await;
    let (_, token) = token(&*site.ledger, "read", None, None).await;
    ledger.away("token");
    let reply = get(&site, &token, "/v1/unresolved").await;
    assert_eq!(
        (reply.status, reply.problem().as_str()),
        (503, "ledger-away")
    );
    assert_eq!(reply.json()["recoverable"], true);
    assert_eq!(reply.json().get("detail"), None);
    // the configured one needs no ledger
    assert_eq!(get(&site, TOKEN, "/v1/unresolved").await.status, 200);
    ledger.back();
    assert_eq!(get(&site, &token, "/v1/unresolved").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_are_told_what_went_wrong_in_the_ledgers_words() {
    let (_folder, ledger, site) = counted().await;
    let (_, reader) = token(&*site.ledger, "read", None, None).await;
    let (_, operator) = token(&*site.ledger, "operate", None, None).await;
    for token in [&reader, &operator] {
        assert_eq!(get(&site, token, "/v1/unresolved").await.status, 200);
    }
    ledger.away("jobs");
    let told = get(&site, &reader, "/v1/unresolved").await;
    assert_eq!(told.problem(), "ledger-away");
    assert_eq!(told.json().get("detail"), None);
    for token in [operator.as_str(), TOKEN] {
        let told = get(&site, token, "/v1/unresolved").await;
        assert_eq!(told.problem(), "ledger-away");
        let detail = told.json()["detail"].as_str().map(str::to_owned);
        assert!(
            detail.is_some_and(|it| it.contains("the test says so")),
            "{told:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_a_token_is_held_to_it_where_none_is_wanted() {
    let site = crate::site::site().await;
    let (_, token) = token(&*site.ledger, "enqueue", Some("acme"), None).await;
    let own = post(&site, &token, &envelope("k")).await;
    assert_eq!(own.status, 201);
    assert_eq!(get(&site, &token, own.header("location")).await.status, 403);
    let shown = site.get(own.header("location")).await.json();
    assert_eq!(shown["tenant"], "acme");
    let wrong = format!("pw_ffffffffffffffff_{}", &token[20..]);
    assert_eq!(get(&site, &wrong, own.header("location")).await.status, 401);
    // any other word is passed over, as it always was
    assert_eq!(
        get(&site, "hunter2", own.header("location")).await.status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_reads_sees_what_became_of_a_job_and_nothing_of_the_inside() {
    let site = crate::site::site().await;
    let id = crate::unresolved::lost(&site, "there").await;
    let (_, reader) = token(&*site.ledger, "read", Some("default"), None).await;
    let (_, operator) = token(&*site.ledger, "operate", Some("default"), None).await;
    let host = site.shared.run.host.clone();
    for place in [
        format!("/v1/jobs/{id}"),
        format!("/v1/jobs/{id}/receipt"),
        "/v1/unresolved".to_owned(),
    ] {
        let read = get(&site, &reader, &place).await;
        let operated = get(&site, &operator, &place).await;
        assert_eq!((read.status, operated.status), (200, 200), "{place}");
        for inside in ["the answer was lost", "look there", &format!("\"{host}\"")] {
            assert!(!read.text.contains(inside), "{place}: {inside}: {read:?}");
        }
        assert!(
            operated.text.contains("the answer was lost"),
            "{operated:?}"
        );
    }
    let place = format!("/v1/jobs/{id}");
    let read = get(&site, &reader, &place).await.json();
    let failure = &read["failure"];
    assert_eq!(failure["code"], "unresolved");
    assert_eq!(failure["recoverable"], false);
    assert_eq!(failure["retry_after"], Value::Null);
    assert_eq!(failure.get("detail"), None);
    let operated = get(&site, &operator, &place).await.json();
    assert_eq!(operated["failure"]["message"], failure["message"]);
    assert_eq!(operated["failure"]["detail"], "look there");
}
