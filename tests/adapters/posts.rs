//! Mastodon and Bluesky: keys of our own, sessions, pictures, limits.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use presswork::clock::Clock;
use presswork::outcome::Class;
use presswork::platform::CallError;
use presswork::platform::bluesky::tid;
use presswork::platform::mastodon::{Limits, Processing, Status};
use serde_json::json;

use crate::{PNG, Platform, SLOW, World, record, status};

#[tokio::test]
async fn another_record_under_our_key_is_never_overwritten() {
    let world = World::new().await;
    let account = world.account(Platform::Bluesky, "taken");
    let bluesky = world.bluesky(&account, SLOW);
    let rkey = tid(Clock::System.now(), 3);
    bluesky.publish(&rkey, &record("first")).await.unwrap();
    let e = bluesky.publish(&rkey, &record("second")).await.unwrap_err();
    assert_eq!(e.refusal(), Some("key_taken"), "{e}");
    let found = bluesky.find(&rkey).await.unwrap().unwrap();
    assert_eq!(found.value["text"], "first");
    assert!(
        bluesky
            .find(&tid(Clock::System.now(), 4))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn one_login_serves_all_jobs_and_an_expired_token_is_renewed() {
    let world = World::new().await;
    let account = world.account(Platform::Bluesky, "many");
    let bluesky = world.bluesky(&account, SLOW);
    let now = Clock::System.now();
    let publish = async |i: u16| bluesky.publish(&tid(now, i), &record("x")).await.unwrap();
    join_all((0..8).map(publish)).await;
    let logins = async || {
        let path = "/_sandbox/requests";
        let of = async |op| {
            world
                .get(path, &[("platform", "bluesky"), ("op", op)])
                .await
                .len()
        };
        (of("createSession").await, of("refreshSession").await)
    };
    assert_eq!(logins().await, (1, 0));
    // access tokens of the sandbox live two hours, refresh tokens sixty days
    world
        .post("/_sandbox/clock", json!({"advance_s": 3 * 3_600}))
        .await;
    join_all((8..16).map(publish)).await;
    assert_eq!(logins().await, (1, 1));
    world
        .post("/_sandbox/clock", json!({"advance_s": 61 * 86_400}))
        .await;
    publish(16).await;
    assert_eq!(logins().await, (2, 2));
    assert_eq!(world.count("acts", "putRecord", "many.test").await, 17);
}

#[tokio::test]
async fn a_refused_login_is_not_tried_by_every_job() {
    let world = World::new().await;
    let mut account = world.account(Platform::Bluesky, "shut");
    account.secret = "not-the-password".to_owned().into();
    let bluesky = world.bluesky(&account, SLOW);
    for _ in 0..5 {
        let Err(CallError::Refused(it)) = bluesky.session().await else {
            panic!("a wrong password opened a session");
        };
        assert_eq!(it.class, Class::Unauthorised);
        assert!(!it.message.contains("not-the-password"), "{it}");
    }
    let asked = world
        .get("/_sandbox/requests", &[("op", "createSession")])
        .await;
    assert_eq!(asked.len(), 1);
    // another password is another try
    account.secret = "sandbox-shut".to_owned().into();
    world.bluesky(&account, SLOW).session().await.unwrap();
}

#[tokio::test]
async fn pictures_go_up_with_their_descriptions() {
    let world = World::new().await;
    let account = world.account(Platform::Mastodon, "pictures");
    let mastodon = world.mastodon(&account, SLOW);
    let (name, bytes) = ("media-0.png".to_owned(), Bytes::from_static(PNG));
    let focus = Some((0.5, -0.25));
    let made = mastodon
        .upload(name, "image/png", bytes, "ein Bär", focus)
        .await
        .unwrap();
    assert!(made.ready);
    assert_eq!(
        mastodon.processing(&made.id).await.unwrap(),
        Processing::Ready
    );
    let sent = Status {
        media_ids: vec![made.id.clone()],
        ..status("look")
    };
    let receipt = mastodon.publish("k", &sent).await.unwrap();
    assert!(receipt.url.is_some());
    // attached: the instance doesn't show it any more
    assert_eq!(
        mastodon.processing(&made.id).await.unwrap(),
        Processing::Hidden
    );
    let acts = world
        .get(
            "/_sandbox/acts",
            &[("op", "status.create"), ("account", "pictures")],
        )
        .await;
    assert_eq!(acts[0]["media"][0]["alt"], "ein Bär");

    let account = world.account(Platform::Bluesky, "pictures");
    let bluesky = world.bluesky(&account, SLOW);
    let blob = bluesky
        .upload("image/png", Bytes::from_static(PNG))
        .await
        .unwrap();
    let again = bluesky
        .upload("image/png", Bytes::from_static(PNG))
        .await
        .unwrap();
    assert_eq!(blob, again);
    let mut post = record("look");
    post["embed"] =
        json!({"$type": "app.bsky.embed.images", "images": [{"image": blob, "alt": "bear"}]});
    bluesky
        .publish(&tid(Clock::System.now(), 9), &post)
        .await
        .unwrap();
    let acts = world
        .get(
            "/_sandbox/acts",
            &[("op", "putRecord"), ("account", "pictures.test")],
        )
        .await;
    assert_eq!(acts[0]["media"][0]["alt"], "bear");
}

#[tokio::test]
async fn a_film_is_processed_before_it_can_be_attached() {
    let world = World::new().await;
    let account = world.account(Platform::Mastodon, "film");
    let mastodon = world.mastodon(&account, SLOW);
    let bytes = Bytes::from_static(b"\0\0\0\x18ftypmp42 not much of a film");
    let made = mastodon
        .upload("a.mp4".to_owned(), "video/mp4", bytes, "", None)
        .await
        .unwrap();
    assert!(!made.ready);
    let sent = Status {
        media_ids: vec![made.id.clone()],
        ..status("look")
    };
    let Err(CallError::Refused(early)) = mastodon.publish("k", &sent).await else {
        panic!("it was attached before it was ready");
    };
    assert_eq!(early.class, Class::Transient, "{early}");
    assert_eq!(
        mastodon.processing(&made.id).await.unwrap(),
        Processing::Underway
    );
    assert_eq!(
        mastodon.processing(&made.id).await.unwrap(),
        Processing::Ready
    );
    mastodon.publish("k", &sent).await.unwrap();
}

#[tokio::test]
async fn an_instances_limits_are_asked_once() {
    let world = World::new().await;
    let account = world.account(Platform::Mastodon, "limits");
    let mastodon = world.mastodon(&account, SLOW);
    let all = join_all((0..4).map(|_| mastodon.limits())).await;
    let all: Vec<Arc<Limits>> = all.into_iter().map(Result::unwrap).collect();
    assert_eq!(all[0].characters, 500);
    assert_eq!(all[0].media, 4);
    let asked = world
        .get("/_sandbox/requests", &[("op", "instance.get")])
        .await;
    assert_eq!(asked.len(), 1);
}
