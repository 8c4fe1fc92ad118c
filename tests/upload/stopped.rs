//! Stopped midway: what is called off leaves nothing in its bucket, what a drain stops goes on.

use std::time::Duration;

use presswork::job::JobId;
use presswork::lifecycle::State;
use serde_json::json;

use crate::kit::daemon::Daemon;
use crate::kit::proxy::{Direction, Proxy};
use crate::kit::wait;
use crate::moto::{Asked, Moto, completed, parts};
use crate::rig::{PART, Rig, SOON};

/// An upload of three parts that has begun, and whose parts drip.
struct Midway {
    rig: Rig,
    proxy: Proxy,
    daemon: Daemon,
    id: JobId,
}

/// A minute and a half for all parts: whatever is done meanwhile comes before their end.
const DRIP: u64 = PART / 30;

async fn midway(moto: &Moto, key: &str, more: &str, drip: u64) -> Midway {
    let (proxy, url) = Proxy::before(&moto.url);
    let rig = Rig::new(&url, (&moto.id, &moto.secret), more).await;
    let file = rig.file(3 * PART, 50).await;
    let id = rig
        .enqueue("films", &file, key, json!({"part_bytes": PART}))
        .await;
    proxy.drip(drip);
    // a busy machine mustn't lose the lease: then nobody would be there to clear away
    let lease = [("PRESSWORK_DAEMON_LEASE_S", "60")];
    let daemon = rig.home.start_with(&["run"], &lease);
    wait::until("the upload to begin", SOON, async || {
        moto.asked(key).await.iter().any(begins)
    })
    .await;
    Midway {
        rig,
        proxy,
        daemon,
        id,
    }
}

fn begins(it: &Asked) -> bool {
    it.query["uploads"].is_string() && it.method == "POST" && it.status == 200
}

async fn cancel(it: &Midway) {
    let id = it.id.to_string();
    let done = it.rig.home.cli(&["jobs", "cancel", &id]).await;
    assert!(done.status.success(), "{done:?}");
}

async fn is_cancelled(it: &Midway) {
    let job = it.rig.ended(it.id).await;
    let said = it.daemon.stderr();
    assert_eq!(job.state, State::Cancelled, "{:?}\n{said}", job.failure);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_upload_leaves_nothing_in_its_bucket() {
    let Some(moto) = Moto::shared().await else {
        return;
    };
    let key = "stopped/cancelled";
    let it = midway(moto, key, "", DRIP).await;
    cancel(&it).await;
    is_cancelled(&it).await;
    // it was given up before the job was settled
    assert_eq!(moto.uploads(key).await, [] as [&str; 0]);
    assert_eq!(completed(&moto.asked(key).await), 0);
    assert!(moto.object(key).await.is_null());
    assert!(!it.daemon.stderr().contains("stays in its bucket"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_a_drain_stops_goes_on() {
    let Some(moto) = Moto::shared().await else {
        return;
    };
    let key = "stopped/drained";
    let it = midway(moto, key, "", DRIP).await;
    let upload = moto.uploads(key).await;
    assert_eq!(upload.len(), 1);
    it.daemon.signal("TERM");
    assert!(it.daemon.wait_exit(SOON).await.success());
    assert_eq!(moto.uploads(key).await, upload);
    it.proxy.heal();
    let _again = it.rig.run();
    it.rig.done(it.id).await;
    let asked = moto.asked(key).await;
    assert_eq!(asked.iter().filter(|it| begins(it)).count(), 1, "{asked:?}");
    assert_eq!(parts(&asked).join(","), "1,2,3", "{asked:?}");
    assert_eq!(moto.uploads(key).await, [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_last_attempt_takes_too_long_leaves_nothing() {
    let Some(moto) = Moto::shared().await else {
        return;
    };
    let key = "stopped/late";
    let more = "[kinds.\"upload.object\"]\ntimeout_s = 8\nattempts = 1\n";
    // five seconds a part: none is late, and both together are
    let it = midway(moto, key, more, PART / 5).await;
    let job = it.rig.ended(it.id).await;
    assert_eq!(job.state, State::Dead);
    let failure = job.failure.expect("a failure");
    assert!(failure.message.contains("(timeout_s)"), "{failure}");
    assert_eq!(moto.uploads(key).await, [] as [&str; 0]);
}

/// A store that doesn't answer holds the cancel for a moment only, and what stays there is told.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_given_up_is_told() {
    let Some(moto) = Moto::shared().await else {
        return;
    };
    let key = "stopped/unheard";
    let it = midway(moto, key, "", DRIP).await;
    it.proxy.sever(Direction::Up);
    cancel(&it).await;
    is_cancelled(&it).await;
    assert_eq!(moto.uploads(key).await.len(), 1);
    wait::until("the warning", Duration::from_secs(10), async || {
        it.daemon.stderr().contains("stays in its bucket")
    })
    .await;
}
