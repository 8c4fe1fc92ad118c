//! Tokens of the API: kept without their secrets, taken back for good, and how they were used.

use presswork::ledger::Audit;
use presswork::token::{Grant, Minted, Standing, Token, TokenId};

use super::fixture::{Fixture, audit, near};

async fn token(f: &Fixture, name: &str, scopes: &str) -> Token {
    let minted = Minted::new().unwrap();
    let now = f.time().await;
    Token {
        id: minted.id,
        name: name.to_owned(),
        digest: minted.digest,
        grant: Grant::read(scopes, None).unwrap(),
        created_at: now,
        created_by: "ann".to_owned(),
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
    }
}

async fn deed(f: &Fixture, action: &str) -> Audit {
    audit(action, None, f.time().await)
}

async fn add(f: &Fixture, token: &Token) -> bool {
    let deed = deed(f, "token.create").await;
    f.add_token(token, &deed).await.unwrap()
}

async fn found(f: &Fixture, id: TokenId) -> Token {
    f.token(id).await.unwrap().expect("it is there").0
}

pub async fn a_token_comes_back_as_it_was(f: Fixture) {
    let mut token = token(&f, "shop ü", "enqueue:post.* read").await;
    assert_eq!(f.token(token.id).await.unwrap(), None);
    token.grant.tenant = Some("acme".to_owned());
    // as precise as the ledgers are
    let until = f.time().await + chrono::Duration::days(90);
    token.expires_at = chrono::DateTime::from_timestamp_micros(until.timestamp_micros());
    assert!(add(&f, &token).await);
    let (back, now) = f.token(token.id).await.unwrap().unwrap();
    assert!(near(back.created_at, now));
    let created_at = back.created_at;
    let wanted = Token {
        created_at,
        ..token.clone()
    };
    assert_eq!(back, wanted);
    assert_eq!(f.tokens(10).await.unwrap(), [wanted]);
    let told = f.audit(None, 1).await.unwrap().remove(0);
    assert_eq!(
        (told.action.as_str(), told.actor.as_str()),
        ("token.create", "ann")
    );
}

pub async fn an_id_is_taken_once(f: Fixture) {
    let (one, other) = (
        token(&f, "one", "read").await,
        token(&f, "other", "admin").await,
    );
    assert!(add(&f, &one).await);
    let same_id = Token {
        id: one.id,
        ..other
    };
    assert!(!add(&f, &same_id).await);
    assert_eq!(found(&f, one.id).await.name, "one");
    assert_eq!(f.audit(None, 9).await.unwrap().len(), 1);
}

pub async fn tokens_come_newest_first(f: Fixture) {
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        let token = token(&f, name, "read").await;
        assert!(add(&f, &token).await);
        ids.insert(0, token.id);
        f.shift(1).await;
    }
    let told = |most: u32| {
        let f = &f;
        async move {
            let all = f.tokens(most).await.unwrap();
            all.iter().map(|it| it.id).collect::<Vec<_>>()
        }
    };
    assert_eq!(told(10).await, ids);
    assert_eq!(told(2).await, ids[..2]);
}

pub async fn a_revoked_token_stays_revoked(f: Fixture) {
    let one = token(&f, "one", "read").await;
    assert!(add(&f, &one).await);
    let deed = deed(&f, "token.revoke").await;
    assert!(f.revoke_token(one.id, &deed).await.unwrap());
    let (back, now) = f.token(one.id).await.unwrap().unwrap();
    assert_eq!(back.standing(now), Standing::Revoked);
    let at = back.revoked_at.unwrap();
    assert!(near(at, now));
    f.shift(60).await;
    assert!(!f.revoke_token(one.id, &deed).await.unwrap());
    assert_eq!(found(&f, one.id).await.revoked_at, Some(at));
    assert!(!f.revoke_token(TokenId(7), &deed).await.unwrap());
    let told = f.audit(None, 9).await.unwrap();
    let told: Vec<&str> = told.iter().map(|it| it.action.as_str()).collect();
    assert_eq!(told, ["token.revoke", "token.create"]);
}

pub async fn a_token_ends_by_the_ledgers_clock(f: Fixture) {
    let mut one = token(&f, "one", "read").await;
    one.expires_at = Some(f.time().await + chrono::Duration::hours(1));
    assert!(add(&f, &one).await);
    let standing = || async {
        let (token, now) = f.token(one.id).await.unwrap().unwrap();
        token.standing(now)
    };
    assert_eq!(standing().await, Standing::Good);
    f.shift(3_601).await;
    assert_eq!(standing().await, Standing::Expired);
}

pub async fn a_use_is_noted_once_a_minute(f: Fixture) {
    let one = token(&f, "one", "read").await;
    assert!(add(&f, &one).await);
    f.token_used(one.id).await.unwrap();
    let first = found(&f, one.id).await.last_used_at.unwrap();
    assert!(near(first, f.time().await));
    f.token_used(one.id).await.unwrap();
    assert_eq!(found(&f, one.id).await.last_used_at, Some(first));
    f.shift(61).await;
    f.token_used(one.id).await.unwrap();
    assert!(first < found(&f, one.id).await.last_used_at.unwrap());
    // of one that is none nothing is noted
    f.token_used(TokenId(7)).await.unwrap();
}
