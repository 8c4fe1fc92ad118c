//! Media: written down once, held by what names them, forgotten when nothing does.

use std::time::Duration;

use presswork::json::Digest;
use presswork::ledger::{Fence, Fetched, Settled, Settlement, Stored};
use presswork::lifecycle::Event;
use presswork::outcome::Outcome;
use presswork::reference::{Name, Pixels};

use super::fixture::{Fixture, KIND, audit, fence, follows, job, keyed, with_payload};

const GRACE: Duration = Duration::from_secs(600);

fn stored(content: &str) -> Stored {
    let digest = Digest::of_bytes(content.as_bytes());
    Stored {
        digest,
        place: format!("sha256/{}.{content}", digest.hex()),
        mime: "image/png".to_owned(),
        size: 5_000_000_000,
        pixels: Some(Pixels {
            width: u32::MAX,
            height: 1,
        }),
    }
}

fn naming(content: &str) -> String {
    format!(r#"{{"media":"{}"}}"#, Name(stored(content).digest))
}

/// Stores media of these contents, and lets their grace pass.
async fn old(f: &Fixture, contents: &[&str]) {
    for it in contents {
        f.keep_media(&stored(it)).await.unwrap();
    }
    f.shift(700).await;
}

async fn freed(f: &Fixture) -> Vec<Digest> {
    let mut freed: Vec<Digest> = f
        .free_media(GRACE, 100)
        .await
        .unwrap()
        .iter()
        .map(|it| it.digest)
        .collect();
    freed.sort_by_key(|it| it.0);
    freed
}

fn sorted(contents: &[&str]) -> Vec<Digest> {
    let mut all: Vec<Digest> = contents.iter().map(|it| stored(it).digest).collect();
    all.sort_by_key(|it| it.0);
    all
}

/// The first place stays: whoever comes later learns it.
pub async fn media_are_written_down_once(f: Fixture) {
    let first = stored("a");
    assert_eq!(f.keep_media(&first).await.unwrap(), first);
    let second = Stored {
        place: "elsewhere".to_owned(),
        ..first.clone()
    };
    assert_eq!(f.keep_media(&second).await.unwrap(), first);
    let film = Stored {
        pixels: None,
        mime: "video/mp4".to_owned(),
        ..stored("b")
    };
    f.keep_media(&film).await.unwrap();
    assert_eq!(f.use_media(film.digest).await.unwrap(), Some(film.clone()));
    assert_eq!(f.use_media(stored("c").digest).await.unwrap(), None);
    let asked = [first.digest, film.digest, stored("c").digest];
    let mut found = f.media(&asked).await.unwrap();
    found.sort_by(|a, b| a.mime.cmp(&b.mime));
    assert_eq!(found, [first, film]);
    assert_eq!(f.media(&[]).await.unwrap(), []);
}

/// What a payload, a step and a result name is held, whatever its age.
pub async fn what_a_job_names_is_held(f: Fixture) {
    old(&f, &["payload", "step", "result", "edit", "nobody's"]).await;
    let new = with_payload(job(KIND), &naming("payload"));
    let (_, running) = f.start(new).await;
    let id = running.id;
    let fence = fence(&running);
    assert!(
        f.record_step(&fence, "draw", &naming("step"))
            .await
            .unwrap()
    );
    let now = f.time().await;
    let done = Event::Ended(Outcome::Completed(1.into()));
    let settlement = Settlement {
        result: Some(naming("result")),
        edit: Some(naming("edit").into()),
        ..follows(&running, done, now)
    };
    assert_eq!(f.settle_one(settlement).await, Settled::Done);
    f.shift(7_000).await;
    assert_eq!(freed(&f).await, sorted(&["nobody's"]));
    assert_eq!(
        f.held_media(id).await.unwrap(),
        sorted(&["payload", "step", "result", "edit"])
    );
    assert_eq!(freed(&f).await, []);
}

/// The hold ends with the job's row; the grace counts from the last use.
pub async fn what_a_dropped_job_held_is_free(f: Fixture) {
    old(&f, &["a"]).await;
    let new = with_payload(job(KIND), &naming("a"));
    let (_, running) = f.start(new).await;
    f.happen(&running, Event::Ended(Outcome::Completed(1.into())))
        .await;
    f.shift(3 * 86_400).await;
    f.tidy(Duration::from_secs(86_400), Duration::from_secs(86_400))
        .await
        .unwrap();
    assert_eq!(f.job(running.id).await.unwrap(), None);
    assert_eq!(f.held_media(running.id).await.unwrap(), []);
    assert_eq!(freed(&f).await, sorted(&["a"]));
}

/// A use, a hold and being stored again start the grace anew.
pub async fn the_grace_starts_anew_with_each_use(f: Fixture) {
    old(&f, &["used", "stored", "forgotten", "named"]).await;
    f.use_media(stored("used").digest).await.unwrap();
    f.keep_media(&stored("stored")).await.unwrap();
    // the same job again: its payload names media, and holds nothing
    let one = with_payload(keyed("k"), &naming("named"));
    f.add(&[one]).await;
    assert_eq!(freed(&f).await, sorted(&["forgotten"]));
    f.shift(700).await;
    assert_eq!(freed(&f).await, sorted(&["used", "stored"]));
    assert_eq!(f.media(&sorted(&["named"])).await.unwrap().len(), 1);
}

/// What was to be a job and never became one holds nothing for ever.
pub async fn what_was_not_accepted_holds_nothing(f: Fixture) {
    old(&f, &["a", "b"]).await;
    f.add(&[keyed("k")]).await;
    // the key is taken by another payload: a conflict; and a lease that is lost
    let other = with_payload(keyed("k"), &naming("a"));
    f.accept(&[other]).await.unwrap();
    let (_, running) = f.start(job(KIND)).await;
    let stale = Fence {
        token: uuid::Uuid::new_v4(),
        ..fence(&running)
    };
    assert!(!f.record_step(&stale, "draw", &naming("b")).await.unwrap());
    let cancelled = Settlement {
        audit: Some(audit("cancel", Some(running.id), f.time().await)),
        ..follows(&running, Event::Ended(Outcome::Cancelled), f.time().await)
    };
    f.settle_one(cancelled).await;
    f.shift(3 * 86_400).await;
    let day = Duration::from_secs(86_400);
    f.tidy(day, day).await.unwrap();
    assert_eq!(freed(&f).await, sorted(&["a", "b"]));
}

/// Of many, so many as were asked for; each once, though two sweep at the same time.
pub async fn of_concurrent_sweeps_each_media_go_to_one(f: Fixture) {
    let contents: Vec<String> = (0..40).map(|it| it.to_string()).collect();
    let contents: Vec<&str> = contents.iter().map(String::as_str).collect();
    old(&f, &contents).await;
    let sweep = || f.free_media(GRACE, 15);
    let (a, b) = tokio::join!(sweep(), sweep());
    let (a, b) = (a.unwrap(), b.unwrap());
    assert!(a.len() <= 15 && b.len() <= 15 && 15 <= a.len() + b.len());
    let mut all: Vec<Digest> = a.iter().chain(&b).map(|it| it.digest).collect();
    all.extend(freed(&f).await);
    all.sort_by_key(|it| it.0);
    assert_eq!(all, sorted(&contents));
}

/// A URL leads to what it led to last; what was forgotten is not remembered.
pub async fn what_a_url_led_to_goes_with_its_media(f: Fixture) {
    let digest = |it: &str| Digest::of_bytes(it.as_bytes());
    let fetched = |media: &str| Fetched {
        url: digest("url"),
        landed: digest("landed"),
        media: stored(media).digest,
        etag: Some("\"1\"".to_owned()),
        last_modified: None,
        at: chrono::DateTime::UNIX_EPOCH,
    };
    assert_eq!(f.fetched(digest("url")).await.unwrap(), None);
    assert!(!f.keep_fetched(&fetched("a")).await.unwrap());
    old(&f, &["a", "b"]).await;
    assert!(f.keep_fetched(&fetched("a")).await.unwrap());
    let before = f.fetched(digest("url")).await.unwrap().unwrap();
    assert!(super::fixture::near(before.at, f.time().await));
    assert_eq!(
        Fetched {
            at: fetched("a").at,
            ..before.clone()
        },
        fetched("a")
    );
    f.shift(60).await;
    assert!(f.keep_fetched(&fetched("b")).await.unwrap());
    let after = f.fetched(digest("url")).await.unwrap().unwrap();
    assert_eq!(after.media, stored("b").digest);
    assert!(before.at < after.at);
    assert_eq!(freed(&f).await, sorted(&["a", "b"]));
    assert_eq!(f.fetched(digest("url")).await.unwrap(), None);
}
