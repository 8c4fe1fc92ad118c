//! A network that cuts and swallows: the upload ends nevertheless, once, and says how far it is.

use serde_json::json;

use crate::kit::proxy::{Direction, Proxy};
use crate::kit::wait;
use crate::moto::{Moto, completed, parts};
use crate::rig::{MIB, PART, Rig, SOON};

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_cut_anywhere_ends_once() {
    let Some(moto) = Moto::shared().await else {
        return;
    };
    let (proxy, url) = Proxy::before(&moto.url);
    let rig = Rig::new(&url, (&moto.id, &moto.secret), "").await;
    let file = rig.file(2 * PART, 30).await;
    let small = rig.file(MIB, 31).await;
    let _daemon = rig.run();
    // a lost answer of what is seen costs two seconds each
    for (name, file, more, cuts) in [
        ("whole", &small, json!({}), [2, 2]),
        ("parts", &file, json!({"part_bytes": PART}), [5, 7]),
    ] {
        let sums = || (proxy.bytes(Direction::Up), proxy.bytes(Direction::Down));
        let before = sums();
        let key = format!("cut/{name}");
        rig.done(rig.enqueue("films", file, &key, more.clone()).await)
            .await;
        let after = sums();
        let all = (after.0 - before.0, after.1 - before.1);
        let both = [(Direction::Up, all.0), (Direction::Down, all.1)];
        for ((direction, all), cuts) in both.into_iter().zip(cuts) {
            for i in 0..cuts {
                let at = all * i / cuts;
                let key = format!("cut/{name}-{direction:?}-{at}");
                proxy.cut_after(direction, at);
                let id = rig.enqueue("films", file, &key, more.clone()).await;
                let told = rig.done(id).await;
                assert!(proxy.has_cut(direction), "{key}");
                assert_eq!(moto.object(&key).await["sha256"], told["sha256"], "{key}");
                assert_eq!(moto.uploads(&key).await, [] as [&str; 0], "{key}");
                let asked = moto.asked(&key).await;
                let ends = completed(&asked);
                assert_eq!(ends, usize::from(name == "parts"), "{key}: {asked:?}");
                let sent = parts(&asked);
                assert!(sent.len() <= 3, "{key}: {asked:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_answers_are_swallowed_goes_on_when_its_time_is_over() {
    let Some(moto) = Moto::shared().await else {
        return;
    };
    let (proxy, url) = Proxy::before(&moto.url);
    let more = "[kinds.\"upload.object\"]\ntimeout_s = 4\n";
    let rig = Rig::new(&url, (&moto.id, &moto.secret), more).await;
    let small = rig.file(MIB, 32).await;
    let large = rig.file(2 * PART, 33).await;
    let whole = rig.enqueue("films", &small, "hung/whole", json!({})).await;
    let parted = json!({"part_bytes": PART});
    let in_parts = rig.enqueue("films", &large, "hung/parts", parted).await;
    proxy.sever(Direction::Down);
    let _daemon = rig.run();
    wait::until("both to have asked", SOON, async || {
        let put = moto
            .asked("hung/whole")
            .await
            .iter()
            .any(|it| it.method == "PUT");
        put && !moto.asked("hung/parts").await.is_empty()
    })
    .await;
    proxy.heal();
    for (id, key) in [(whole, "hung/whole"), (in_parts, "hung/parts")] {
        let told = rig.done(id).await;
        assert_eq!(moto.object(key).await["sha256"], told["sha256"], "{key}");
        assert_eq!(moto.uploads(key).await, [] as [&str; 0], "{key}");
    }
    let asked = moto.asked("hung/whole").await;
    let taken = asked
        .iter()
        .filter(|it| it.method == "PUT" && it.status == 200);
    assert_eq!(taken.count(), 1, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_says_how_far_it_is() {
    let Some(moto) = Moto::shared().await else {
        return;
    };
    let (proxy, url) = Proxy::before(&moto.url);
    let rig = Rig::new(&url, (&moto.id, &moto.secret), "").await;
    let file = rig.file(3 * PART, 34).await;
    let more = json!({"part_bytes": PART});
    let id = rig.enqueue("films", &file, "progress", more).await;
    proxy.drip(2 << 20);
    let _daemon = rig.run();
    for word in ["part 1 of 3", "part 2 of 3"] {
        wait::until(word, SOON, async || {
            let progress = rig.job(id).await.progress;
            progress.is_some_and(|it| it.message == word && (5..95).contains(&it.percent))
        })
        .await;
    }
    proxy.heal();
    rig.done(id).await;
}
