//! X and Instagram: what is read back after a lost answer, and what proves what.

use bytes::Bytes;
use chrono::TimeDelta;
use presswork::clock::Clock;
use presswork::outcome::Class;
use presswork::platform::CallError;
use presswork::platform::instagram::State;
use presswork::platform::x::{Post, Processing, X};
use presswork::platform::x_words::{Found, plain};
use serde_json::json;

use crate::{PNG, Platform, SLOW, World, fox};

fn post(text: &str) -> Post {
    Post {
        text: text.to_owned(),
        ..Post::default()
    }
}

/// What the timeline of the last minute tells.
async fn listed(x: &X<'_>) -> (Vec<Found>, bool) {
    let me = x.me().await.unwrap();
    let since = Clock::System.now() - TimeDelta::minutes(1);
    x.posts(&me.id, since, None).await.unwrap()
}

#[tokio::test]
async fn a_lost_post_is_read_back_as_it_was_sent() {
    let world = World::new().await;
    let account = world.account(Platform::X, "texts");
    let x = world.x(&account, SLOW);
    assert_eq!(x.me().await.unwrap().username, "texts");
    let texts = [
        "Tea & <cake> at https://example.com/?a=1&b=2 #Tea",
        "日本 👩‍👩‍👧 &amp; &lt;",
        "two lines\nand http://example.com/a, https://example.com/b.",
    ];
    for text in texts {
        world.fault("texts", "post.create", "act_reset", 0).await;
        let lost = x.publish(&post(text), "texts").await;
        assert!(matches!(lost, Err(CallError::Unknown(_))), "{lost:?}");
    }
    let (found, all) = listed(&x).await;
    assert!(all && found.len() == texts.len(), "{found:?}");
    for (it, text) in found.iter().rev().zip(texts) {
        let sent = plain(text, false);
        assert!(it.texts.iter().any(|it| plain(it, false) == sent), "{it:?}");
        assert!(it.created_at.is_some() && it.media_keys.is_empty());
    }
    let first = found.last().unwrap().id.clone();
    let answer = Post {
        reply_to: Some(first.clone()),
        ..post("an answer")
    };
    x.publish(&answer, "texts").await.unwrap();
    let quote = Post {
        quote: Some(first.clone()),
        ..post("a quote")
    };
    x.publish(&quote, "texts").await.unwrap();
    let (found, _) = listed(&x).await;
    assert_eq!(found[1].reply_to.as_ref(), Some(&first));
    assert_eq!(found[0].quote.as_ref(), Some(&first));
    // the filter of repeats names no id, and may speak of our own request
    let twin = x.publish(&post(texts[0]), "texts").await;
    let Err(CallError::Unknown(it)) = twin else {
        panic!("{twin:?}");
    };
    assert_eq!(it.code, "duplicate");
}

#[tokio::test]
async fn an_upload_is_named_by_its_key_and_described() {
    let world = World::new().await;
    let account = world.account(Platform::X, "files");
    let x = world.x(&account, SLOW);
    let (mut keys, mut ids) = (vec![], vec![]);
    for (mime, bytes) in [("image/png", PNG), ("image/gif", b"GIF89a moving")] {
        let bytes = Bytes::from_static(bytes);
        let upload = x.initialize(mime, bytes.len()).await.unwrap();
        for _ in 0..2 {
            x.append(&upload.id, 0, bytes.clone()).await.unwrap();
        }
        let mut state = x.finalize(&upload.id).await.unwrap();
        while let Processing::Underway(wait) = state {
            assert!(mime == "image/gif" && wait <= SLOW, "{wait:?}");
            state = x.processing(&upload.id).await.unwrap();
        }
        assert_eq!(state, Processing::Ready);
        x.describe(&upload.id, "a bear").await.unwrap();
        let sent = Post {
            media_ids: vec![upload.id.clone()],
            ..post("look")
        };
        let receipt = x.publish(&sent, "files").await.unwrap();
        ids.insert(0, receipt.remote_id.unwrap());
        keys.insert(0, vec![upload.media_key]);
    }
    let (found, _) = listed(&x).await;
    let told: Vec<_> = found.iter().map(|it| it.media_keys.clone()).collect();
    assert_eq!(told, keys);
    assert!(found.iter().map(|it| &it.id).eq(&ids));
    let acts = [("op", "post.create"), ("account", "files")];
    for act in world.get("/_sandbox/acts", &acts).await {
        assert_eq!(act["media"][0]["alt"], "a bear");
    }
}

#[tokio::test]
async fn a_server_that_knows_no_newer_name_is_asked_by_the_older_one() {
    let world = World::new().await;
    let account = world.account(Platform::X, "older");
    let x = world.x(&account, SLOW);
    let me = x.me().await.unwrap();
    // as if it didn't know a parameter; the sandbox itself knows the older name without what it named
    let script = json!({"account": "older", "op": "user.posts", "fault": "500", "status": 400});
    world.post("/_sandbox/faults", script).await;
    let since = Clock::System.now() - TimeDelta::minutes(1);
    let told = x.posts(&me.id, since, None).await.unwrap_err().to_string();
    assert!(
        told.contains("`tweet.fields`") && told.contains("referenced_tweets"),
        "{told}"
    );
    assert_eq!(world.count("requests", "user.posts", "older").await, 2);
    assert!(x.posts(&me.id, since, None).await.is_ok());
}

#[tokio::test]
async fn an_error_of_publishing_is_believed_only_where_the_container_agrees() {
    let world = World::new().await;
    let account = world.account(Platform::Instagram, "agrees");
    let instagram = world.instagram(&account, SLOW);
    let since = Clock::System.now() - TimeDelta::seconds(5);
    let container = async |caption| instagram.container(caption, &[fox()]).await.unwrap();
    let once = container("once").await;
    assert_eq!(instagram.state(&once).await.unwrap(), State::Finished);
    let receipt = instagram.publish(&once, "once", since).await.unwrap();
    assert!(receipt.url.is_some());
    assert_eq!(instagram.state(&once).await.unwrap(), State::Published);
    // it is refused because it was published: which is the same post, found by its caption
    let again = instagram.publish(&once, "once", since).await.unwrap();
    assert_eq!(
        (again.remote_id, again.url),
        (receipt.remote_id, receipt.url)
    );
    assert_eq!(world.count("acts", "media.publish", "agrees").await, 1);

    // blocked, and live all the same
    world
        .fault("agrees", "media.publish", "act_refuse", 0)
        .await;
    let blocked = container("blocked").await;
    let lost = instagram.publish(&blocked, "blocked", since).await;
    assert!(matches!(lost, Err(CallError::Unknown(_))), "{lost:?}");
    assert_eq!(instagram.state(&blocked).await.unwrap(), State::Published);
    let found = instagram.published(&blocked, "blocked", since).await;
    assert!(found.remote_id.is_some());
    // two of them: nobody can tell which one it became
    let twin = container("blocked").await;
    instagram.publish(&twin, "blocked", since).await.unwrap();
    let found = instagram.published(&blocked, "blocked", since).await;
    assert_eq!(found.remote_id, None);
}

#[tokio::test]
async fn a_container_that_expired_is_dead_and_a_quota_is_told_before() {
    let world = World::new().await;
    let account = world.account(Platform::Instagram, "old");
    let instagram = world.instagram(&account, SLOW);
    let since = Clock::System.now();
    let pair = [fox(), fox()];
    let carousel = instagram.container("two", &pair).await.unwrap();
    instagram.publish(&carousel, "two", since).await.unwrap();
    let settings = json!({"instagram_quota": 1});
    world.post("/_sandbox/settings", settings).await;
    assert!(!instagram.may_publish().await.unwrap());
    let made = instagram.container("late", &[fox()]).await.unwrap();
    let spent = instagram.publish(&made, "late", since).await;
    let Err(CallError::Refused(it)) = spent else {
        panic!("{spent:?}");
    };
    assert_eq!(it.class, Class::Throttled, "{it}");
    assert_eq!(it.retry_after(), Some(TimeDelta::hours(1)));
    world
        .post("/_sandbox/clock", json!({"advance_s": 86_401}))
        .await;
    assert!(instagram.may_publish().await.unwrap());
    assert!(matches!(
        instagram.state(&made).await.unwrap(),
        State::Dead(_)
    ));
    let dead = instagram.publish(&made, "late", since).await;
    let Err(CallError::Refused(it)) = dead else {
        panic!("{dead:?}");
    };
    assert_eq!(
        (it.class, it.code.as_str()),
        (Class::Transient, "container")
    );
}
