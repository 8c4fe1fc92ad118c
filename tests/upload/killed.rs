//! Killed at every part: what the store has is not sent again, and nothing is left behind.

use futures_util::StreamExt as _;
use presswork::lifecycle::State;
use serde_json::json;

use crate::moto::{Asked, Moto, completed, parts};
use crate::rig::{MIB, PART, Rig, SOON};

/// Each point with its hit, and how often uploads begin by then.
const POINTS: [(&str, usize, usize); 8] = [
    ("step.after_record", 2, 1),
    ("upload.after_create", 1, 2),
    ("upload.after_part", 1, 1),
    ("upload.after_part", 2, 1),
    ("upload.after_part", 3, 1),
    ("upload.before_complete", 1, 1),
    ("upload.after_complete", 1, 1),
    ("effect.after_conclude", 1, 1),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_where_its_daemon_was_killed() {
    let Some(moto) = Moto::shared().await else {
        return;
    };
    let cases = POINTS.map(|(point, nth, begun)| killed_at(moto, point, nth, begun));
    let mut cases = futures_util::stream::iter(cases).buffer_unordered(3);
    while cases.next().await.is_some() {}
}

async fn killed_at(moto: &Moto, point: &str, nth: usize, begun: usize) {
    let rig = Rig::of(moto).await;
    let file = rig.file(2 * PART + MIB, 20).await;
    let key = format!("killed/{point}-{nth}");
    // somebody else's of the same key, older than the job, stays
    let other = moto.begin(&key, 3_600).await;
    let more = json!({"part_bytes": PART});
    let id = rig.enqueue("films", &file, &key, more).await;
    let daemon = rig.run_to(point, nth);
    let status = daemon.wait_exit(SOON).await;
    assert!(!status.success(), "{point} {nth}: {status}");
    let _again = rig.run();
    let told = rig.done(id).await;
    assert_eq!(moto.object(&key).await["sha256"], told["sha256"], "{key}");
    let asked = moto.asked(&key).await;
    assert_eq!(parts(&asked).join(","), "1,2,3", "{key}: {asked:?}");
    assert_eq!(completed(&asked), 1, "{key}: {asked:?}");
    let begins = |it: &&Asked| it.query["uploads"].is_string() && it.method == "POST";
    assert_eq!(
        asked.iter().filter(begins).count(),
        begun,
        "{key}: {asked:?}"
    );
    assert_eq!(moto.uploads(&key).await, [other], "{key}");
}

/// What is taken away between the parts and the end leaves no parts behind.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_refused_at_the_end_is_given_up() {
    let Some(moto) = Moto::shared().await else {
        return;
    };
    let rig = Rig::of(moto).await;
    let file = rig.file(PART + MIB, 21).await;
    let key = "killed/taken";
    let id = rig
        .enqueue("films", &file, key, json!({"part_bytes": PART}))
        .await;
    let daemon = rig.run_to("upload.before_complete", 1);
    daemon.wait_exit(SOON).await;
    assert_eq!(moto.uploads(key).await.len(), 1);
    moto.put(key, "somebody else's").await;
    let _again = rig.run();
    let job = rig.ended(id).await;
    assert_eq!(job.state, State::Dead);
    assert_eq!(job.failure.expect("a failure").code, "exists");
    assert_eq!(moto.uploads(key).await, [] as [&str; 0]);
    assert_eq!(completed(&moto.asked(key).await), 0);
}
