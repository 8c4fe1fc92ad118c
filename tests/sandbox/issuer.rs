//! The issuer: a login with its proof, rotation, grace, revocation, and platforms that know its tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::bench::*;

const BACK: &str = "http://127.0.0.1:8723/callback";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

async fn set(bench: &Bench, values: Value) {
    let (status, told) = bench.post("/_sandbox/settings", "", values).await;
    assert_eq!(status, 200, "{told}");
}

async fn advance(bench: &Bench, by_s: u32) {
    let body = json!({"advance_s": by_s});
    let (status, told) = bench.post("/_sandbox/clock", "", body).await;
    assert_eq!(status, 200, "{told}");
}

/// Opens the page; what the person brings back.
async fn authorize(bench: &Bench, app: &str, challenge: bool) -> Vec<(String, String)> {
    let url = format!("{}/issuer/authorize", bench.sandbox.url());
    let mut query = vec![
        ("response_type", "code".to_owned()),
        ("client_id", app.to_owned()),
        ("redirect_uri", BACK.to_owned()),
        ("scope", "tweet.write".to_owned()),
        ("state", "s t+1".to_owned()),
    ];
    if challenge {
        let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
        query.push(("code_challenge", digest));
        query.push(("code_challenge_method", "S256".to_owned()));
    }
    let answer = bench.client.get(url).query(&query).send().await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), 302);
    let back = answer.headers()["location"].to_str().expect("a text");
    assert!(back.starts_with(BACK), "{back}");
    let back = url::Url::parse(back).expect("a URL");
    back.query_pairs().into_owned().collect()
}

fn said(back: &[(String, String)], name: &str) -> String {
    let found = back.iter().find(|it| it.0 == name);
    found.map(|it| it.1.clone()).unwrap_or_default()
}

async fn token(bench: &Bench, form: &[(&str, &str)]) -> (StatusCode, Value) {
    let url = format!("{}/issuer/token", bench.sandbox.url());
    let call = bench.client.post(url).form(form);
    let call = call.basic_auth("sandbox-app", Some("sandbox-app-secret"));
    read(call.send().await.expect("an answer")).await
}

async fn refresh(bench: &Bench, with: &str) -> (StatusCode, Value) {
    let form = [("grant_type", "refresh_token"), ("refresh_token", with)];
    token(bench, &form).await
}

async fn redeem(bench: &Bench, code: &str, verifier: &str) -> (StatusCode, Value) {
    let form = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", BACK),
        ("code_verifier", verifier),
    ];
    token(bench, &form).await
}

/// Tokens of a login.
async fn log_in(bench: &Bench) -> (String, String) {
    let back = authorize(bench, "sandbox-app", true).await;
    let (status, made) = redeem(bench, &said(&back, "code"), VERIFIER).await;
    assert_eq!(status, 200, "{made}");
    (text(&made["access_token"]), text(&made["refresh_token"]))
}

async fn works(bench: &Bench, token: &str) -> StatusCode {
    bench.get("/x/2/users/me", token).await.0
}

fn gone((status, told): (StatusCode, Value)) {
    assert_eq!(
        (status.as_u16(), &told["error"]),
        (400, &json!("invalid_grant")),
        "{told}"
    );
}

#[tokio::test]
async fn a_code_is_good_once_for_who_asked_for_it() {
    let bench = Bench::new().await;
    let back = authorize(&bench, "sandbox-app", true).await;
    assert_eq!(said(&back, "state"), "s t+1");
    let code = said(&back, "code");
    gone(redeem(&bench, &code, "another-verifier").await);
    let (status, made) = redeem(&bench, &code, VERIFIER).await;
    assert_eq!(status, 200, "{made}");
    assert_eq!(made["expires_in"], 7_200);
    let access = text(&made["access_token"]);
    assert_eq!(works(&bench, &access).await, 200);
    // a code that comes again was stolen from somebody
    gone(redeem(&bench, &code, VERIFIER).await);
    assert_eq!(works(&bench, &access).await, 401);
    gone(refresh(&bench, &text(&made["refresh_token"])).await);

    let late = said(&authorize(&bench, "sandbox-app", true).await, "code");
    advance(&bench, 61).await;
    gone(redeem(&bench, &late, VERIFIER).await);
    set(&bench, json!({"issuer_denies": true})).await;
    let back = authorize(&bench, "sandbox-app", true).await;
    assert_eq!(said(&back, "error"), "access_denied");
}

#[tokio::test]
async fn who_proves_nothing_gets_nothing() {
    let bench = Bench::new().await;
    let url = format!("{}/issuer/token", bench.sandbox.url());
    let (_, renews) = log_in(&bench).await;
    let form = [("grant_type", "refresh_token"), ("refresh_token", &renews)];
    let call = bench.client.post(&url).form(&form);
    let call = call.basic_auth("sandbox-app", Some("wrong"));
    let (status, told) = read(call.send().await.expect("an answer")).await;
    assert_eq!(
        (status.as_u16(), &told["error"]),
        (401, &json!("invalid_client"))
    );
    let (status, told) = token(&bench, &[("grant_type", "password")]).await;
    let word = &told["error"];
    assert_eq!(
        (status.as_u16(), word),
        (400, &json!("unsupported_grant_type"))
    );
    // a client without a secret has to prove itself by what it began with
    let page = format!("{}/issuer/authorize", bench.sandbox.url());
    let query = [
        ("response_type", "code"),
        ("client_id", "sandbox-public"),
        ("redirect_uri", BACK),
    ];
    let answer = bench.client.get(page).query(&query).send().await;
    assert_eq!(answer.expect("an answer").status(), 400);
    let code = said(&authorize(&bench, "sandbox-public", true).await, "code");
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", "sandbox-public"),
        ("code", &code),
        ("redirect_uri", BACK),
        ("code_verifier", VERIFIER),
    ];
    let call = bench.client.post(&url).form(&form);
    let (status, made) = read(call.send().await.expect("an answer")).await;
    assert_eq!(status, 200, "{made}");
    // nothing of all that touched the first grant
    assert_eq!(refresh(&bench, &renews).await.0, 200);
}

#[tokio::test]
async fn an_old_refresh_token_is_forgiven_once_in_its_grace_and_else_ends_its_family() {
    let bench = Bench::new().await;
    let (first, renews) = log_in(&bench).await;
    let (status, second) = refresh(&bench, &renews).await;
    assert_eq!(status, 200, "{second}");
    assert_ne!(second["refresh_token"], json!(renews));
    // as if that answer had been lost
    let (status, third) = refresh(&bench, &renews).await;
    assert_eq!(status, 200, "{third}");
    let acts = bench.acts("platform=issuer&op=token.refresh").await;
    let forgiven: Vec<_> = acts.iter().map(|it| &it["detail"]["forgiven"]).collect();
    assert_eq!(forgiven, [false, true]);
    let newest = text(&third["access_token"]);
    assert_eq!(works(&bench, &newest).await, 200);
    gone(refresh(&bench, &renews).await);
    for token in [&first, &newest] {
        assert_eq!(works(&bench, token).await, 401);
    }
    gone(refresh(&bench, &text(&third["refresh_token"])).await);
    assert_eq!(bench.acts("op=family.revoke").await.len(), 1);

    let (_, renews) = log_in(&bench).await;
    assert_eq!(refresh(&bench, &renews).await.0, 200);
    advance(&bench, 31).await;
    gone(refresh(&bench, &renews).await);

    set(&bench, json!({"issuer_grace_ms": 0})).await;
    let (_, renews) = log_in(&bench).await;
    assert_eq!(refresh(&bench, &renews).await.0, 200);
    gone(refresh(&bench, &renews).await);

    set(&bench, json!({"issuer_rotates": false})).await;
    let (_, renews) = log_in(&bench).await;
    for _ in 0..3 {
        let (status, made) = refresh(&bench, &renews).await;
        assert_eq!(
            (status.as_u16(), &made["refresh_token"]),
            (200, &json!(renews))
        );
    }
}

#[tokio::test]
async fn tokens_end_and_can_be_taken_back_and_a_restart_forgets_nothing() {
    let bench = Bench::new().await;
    set(
        &bench,
        json!({"issuer_access_s": 60, "issuer_account": "xenia"}),
    )
    .await;
    let (access, renews) = log_in(&bench).await;
    let (status, me) = bench.get("/x/2/users/me", &access).await;
    assert_eq!(
        (status.as_u16(), &me["data"]["username"]),
        (200, &json!("xenia"))
    );
    let statuses = "/mastodon/api/v1/statuses";
    let (status, told) = bench
        .post(statuses, &access, json!({"status": "hello"}))
        .await;
    assert_eq!(status, 200, "{told}");
    let bench = bench.restart().await;
    assert_eq!(works(&bench, &access).await, 200);
    advance(&bench, 61).await;
    assert_eq!(works(&bench, &access).await, 401);
    let (status, _) = bench
        .post(statuses, &access, json!({"status": "again"}))
        .await;
    assert_eq!(status, 401);
    let (status, made) = refresh(&bench, &renews).await;
    assert_eq!(status, 200, "{made}");
    let access = text(&made["access_token"]);
    assert_eq!(works(&bench, &access).await, 200);
    let url = format!("{}/issuer/revoke", bench.sandbox.url());
    let form = [("token", text(&made["refresh_token"]))];
    let call = bench.client.post(url).form(&form);
    let call = call.basic_auth("sandbox-app", Some("sandbox-app-secret"));
    assert_eq!(call.send().await.expect("an answer").status(), 200);
    assert_eq!(works(&bench, &access).await, 401);
    gone(refresh(&bench, &text(&made["refresh_token"])).await);
}

#[tokio::test]
async fn a_refresh_whose_answer_is_lost_was_acted_on() {
    let bench = Bench::new().await;
    let (_, renews) = log_in(&bench).await;
    bench
        .script(json!({
            "platform": "issuer", "op": "token.refresh", "account": "alice", "fault": "act_reset",
        }))
        .await;
    let form = [("grant_type", "refresh_token"), ("refresh_token", &renews)];
    let url = format!("{}/issuer/token", bench.sandbox.url());
    let call = bench.client.post(url).form(&form);
    let call = call.basic_auth("sandbox-app", Some("sandbox-app-secret"));
    assert!(call.send().await.is_err());
    assert_eq!(bench.acts("op=token.refresh").await.len(), 1);
    let (status, made) = refresh(&bench, &renews).await;
    assert_eq!(status, 200, "{made}");
    assert_eq!(works(&bench, &text(&made["access_token"])).await, 200);
}
