//! Logins that are under way: taken once, in time, and told how they ended.

use std::collections::BTreeMap;

use presswork::account::Sealed;
use presswork::oauth::begun::{Begun, Ended, digest};
use presswork::oauth::login::LASTS;

use super::fixture::Fixture;

async fn begun(f: &Fixture, state: &str) -> Begun {
    let until = f.time().await + LASTS;
    let it = Begun {
        digest: digest(&state.into()),
        account: "shop".to_owned(),
        platform: "x".to_owned(),
        tenant: Some("acme".to_owned()),
        label: "the shop's ü".to_owned(),
        settings: BTreeMap::from([("app".to_owned(), "news".to_owned())]),
        client: "x-app".to_owned(),
        redirect: "https://pw.example/v1/oauth/callback".to_owned(),
        verifier: Some(Sealed {
            key: "one".to_owned(),
            bytes: vec![1, 0, 255],
        }),
        by: "ada".to_owned(),
        until: chrono::DateTime::from_timestamp_micros(until.timestamp_micros()).unwrap(),
        replaces: true,
    };
    f.begin_login(&it).await.unwrap();
    it
}

pub async fn a_login_is_taken_once_and_in_time(f: Fixture) {
    let (one, late) = (begun(&f, "one").await, begun(&f, "late").await);
    assert_eq!(f.take_login(&digest(&"other".into())).await.unwrap(), None);
    assert_eq!(f.login_end(&one.digest).await.unwrap(), None);
    let taken = futures_util::future::join_all((0..8).map(|_| f.take_login(&one.digest))).await;
    let taken: Vec<Begun> = taken.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(taken, std::slice::from_ref(&one));
    assert_eq!(f.login_end(&one.digest).await.unwrap(), None);
    let end = Ended {
        done: false,
        told: "access_denied: No".to_owned(),
    };
    f.end_login(&one.digest, &end).await.unwrap();
    assert_eq!(f.login_end(&one.digest).await.unwrap(), Some(end));
    f.shift(601).await;
    assert_eq!(f.take_login(&late.digest).await.unwrap(), None);
    // what is long past is forgotten
    f.shift(3_601).await;
    let bare = Begun {
        verifier: None,
        tenant: None,
        replaces: false,
        ..begun(&f, "bare").await
    };
    assert_eq!(f.login_end(&one.digest).await.unwrap(), None);
    let next = Begun {
        digest: digest(&"next".into()),
        ..bare
    };
    f.begin_login(&next).await.unwrap();
    assert_eq!(f.take_login(&next.digest).await.unwrap(), Some(next));
}
