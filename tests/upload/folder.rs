//! A folder: a file appears whole, once, and replaces nothing unless it may.

use presswork::lifecycle::State;
use presswork::outcome::Held;
use serde_json::json;

use crate::rig::{MIB, Rig};

async fn rig() -> Rig {
    let key = ("an-id-of-nobody", "a-secret-of-nobody");
    Rig::new("http://127.0.0.1:1", key, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_put_into_a_folder_and_replaces_nothing_unless_it_may() {
    let rig = rig().await;
    let (one, other) = (rig.file(3 * MIB, 40).await, rig.file(MIB, 41).await);
    let _daemon = rig.run();
    let told = rig
        .done(rig.enqueue("shelf", &one, "a/b/c d.bin", json!({})).await)
        .await;
    let path = rig.shelf.join("a/b/c d.bin");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 3 * MIB);
    let url = format!("file://{}/a/b/c%20d.bin", rig.shelf.display());
    assert_eq!(told["url"], url);
    assert_eq!(
        (&told["sha256"], &told["etag"]),
        (&json!(one.media.0.hex()), &json!(one.media.0.hex()))
    );
    // the same again is as good as there, another one isn't
    rig.done(rig.enqueue("shelf", &one, "a/b/c d.bin", json!({})).await)
        .await;
    let taken = rig.enqueue("shelf", &other, "a/b/c d.bin", json!({})).await;
    let job = rig.ended(taken).await;
    assert_eq!(job.state, State::Dead);
    assert_eq!(job.failure.expect("a failure").code, "exists");
    let over = json!({"overwrite": true});
    rig.done(rig.enqueue("shelf", &other, "a/b/c d.bin", over).await)
        .await;
    assert_eq!(std::fs::metadata(&path).unwrap().len(), MIB);
    // a link that leads out is none of the folder's, whatever is there
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), rig.shelf.join("out")).unwrap();
    std::fs::copy(&path, elsewhere.path().join("same")).unwrap();
    std::fs::write(elsewhere.path().join("another"), "x").unwrap();
    for key in ["out/none", "out/same", "out/another", "out/folder/x"] {
        let out = rig.enqueue("shelf", &other, key, json!({})).await;
        let failure = rig.ended(out).await.failure;
        assert_eq!(failure.expect("a failure").code, "key", "{key}");
    }
    let left: Vec<_> = std::fs::read_dir(rig.shelf.join("a/b")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_there_holds_the_account() {
    let rig = rig().await;
    let file = rig.file(MIB, 42).await;
    std::fs::remove_dir(&rig.shelf).unwrap();
    let id = rig.enqueue("shelf", &file, "x", json!({})).await;
    let _daemon = rig.run();
    let job = rig.ended(id).await;
    assert_eq!((job.state, job.held), (State::Held, Some(Held::Account)));
    let output = rig.home.cli(&["check", "--ping"]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("accounts.shelf.folder"), "{said}");
    // mended and released, it goes on
    std::fs::create_dir(&rig.shelf).unwrap();
    let released = rig
        .home
        .cli(&["jobs", "release", "--account", "shelf"])
        .await;
    assert!(released.status.success(), "{released:?}");
    let done = || async { rig.job(id).await.state == State::Completed };
    crate::kit::wait::until("it completes", crate::rig::SOON, done).await;
}

#[cfg(feature = "crashpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_leaves_nothing_unfinished_in_a_folder() {
    let rig = rig().await;
    let file = rig.file(MIB, 43).await;
    for point in ["effect.after_permit", "effect.after_response"] {
        let id = rig.enqueue("shelf", &file, point, json!({})).await;
        rig.run_to(point, 1).wait_exit(crate::rig::SOON).await;
        let again = rig.run();
        rig.done(id).await;
        again.kill9();
    }
    let left = std::fs::read_dir(&rig.shelf).unwrap();
    let mut left: Vec<_> = left.map(|it| it.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["effect.after_permit", "effect.after_response"]);
}
