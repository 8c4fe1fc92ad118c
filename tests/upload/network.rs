//! A network that cuts and swallows: the upload ends nevertheless, once, and says how far it is.

use std::collections::BTreeMap;

use serde_json::json;

use crate::kit::proxy::{Direction, Proxy};
use crate::kit::wait;
use crate::moto::{Moto, completed, parts};
use crate::rig::{MIB, PART, Rig, SOON};

/// An account whose way to the bucket leads through a proxy of its own.
fn account(name: &str, url: &str) -> String {
    format!(
        "[accounts.{name}]\nplatform = \"s3\"\nbase_url = \"{url}\"\nbucket = \"films\"\n\
         access_key_id = {{ env = \"KEY_ID\" }}\nsecret = {{ env = \"KEY_SECRET\" }}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_cut_anywhere_ends_once() {
    let Some(moto) = Moto::shared().await else {
        return;
    };
    // how many places of each direction are cut
    let cuts = [
        ("whole", Direction::Up, 2),
        ("whole", Direction::Down, 1),
        ("parts", Direction::Up, 5),
        ("parts", Direction::Down, 7),
    ];
    let cases = cuts.iter().flat_map(|(name, direction, count)| {
        (0..*count).map(move |i| (*name, *direction, i, *count))
    });
    let cases: Vec<_> = cases.collect();
    let proxies: Vec<_> = cases.iter().map(|_| Proxy::before(&moto.url)).collect();
    let urls = proxies.iter().map(|it| it.1.as_str()).enumerate();
    let mut more: String = urls
        .map(|(i, url)| account(&format!("cut-{i}"), url))
        .collect();
    more.push_str("[lanes.uploads]\nconcurrency = 32\n");
    let (whole_way, url) = Proxy::before(&moto.url);
    let rig = Rig::new(&url, (&moto.id, &moto.secret), &more).await;
    let (small, large) = (rig.file(MIB, 31).await, rig.file(2 * PART, 30).await);
    let of = |name| match name {
        "whole" => (&small, json!({})),
        _ => (&large, json!({"part_bytes": PART})),
    };
    let _daemon = rig.run();
    let mut bytes = BTreeMap::new();
    for name in ["whole", "parts"] {
        let sums = || [Direction::Up, Direction::Down].map(|it| whole_way.bytes(it));
        let (before, (file, more)) = (sums(), of(name));
        let key = format!("cut/{name}");
        rig.done(rig.enqueue("films", file, &key, more).await).await;
        let after = sums();
        bytes.insert(name, [after[0] - before[0], after[1] - before[1]]);
    }
    let mut jobs = Vec::new();
    for (n, (name, direction, i, count)) in cases.into_iter().enumerate() {
        let all = bytes[name][usize::from(direction == Direction::Down)];
        proxies[n].0.cut_after(direction, all * i / count);
        let (file, more) = of(name);
        let key = format!("cut/{name}-{direction:?}-{i}");
        let id = rig.enqueue(&format!("cut-{n}"), file, &key, more).await;
        jobs.push((id, key, n, name, direction));
    }
    let (all, mut whole) = (jobs.len(), 0);
    for (id, key, n, name, direction) in jobs {
        let told = rig.done(id).await;
        whole += usize::from(!proxies[n].0.has_cut(direction));
        assert_eq!(moto.object(&key).await["sha256"], told["sha256"], "{key}");
        assert_eq!(moto.uploads(&key).await, [] as [&str; 0], "{key}");
        let asked = moto.asked(&key).await;
        let ends = completed(&asked);
        assert_eq!(ends, usize::from(name == "parts"), "{key}: {asked:?}");
        // a part whose answer was lost is known by the list
        let expected = if name == "parts" { "1,2" } else { "" };
        assert_eq!(parts(&asked).join(","), expected, "{key}: {asked:?}");
    }
    // whose lease is lost on a busy machine asks for less the second time, and may never come to the cut
    assert!(whole <= all / 8, "{whole} of {all} were never cut");
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
