//! The media store in a bucket, by the real daemon.

use serde_json::json;

use crate::moto::Moto;
use crate::rig::{MIB, PART, Rig};

#[tokio::test(flavor = "multi_thread")]
async fn media_in_a_bucket_are_uploaded_from_there() {
    let Some(moto) = Moto::shared().await else {
        return;
    };
    let more = "[media]\naccount = \"films\"\nprefix = \"stored/media\"\n";
    let rig = Rig::new(&moto.url, (&moto.id, &moto.secret), more).await;
    let file = rig.file(2 * PART + MIB, 60).await;
    let folder = rig.home.path().join("state/media-store");
    assert!(!folder.join("sha256").exists(), "it went into the folder");
    let checked = rig.home.cli(&["check", "--ping"]).await;
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success(), "{said}");
    let _daemon = rig.run();
    let parts = json!({"part_bytes": PART});
    for (account, key, more) in [
        ("films", "stored/whole.mp4", json!({})),
        ("films", "stored/parts.mp4", parts),
        ("shelf", "film.mp4", json!({})),
    ] {
        let told = rig.done(rig.enqueue(account, &file, key, more).await).await;
        assert_eq!(told["sha256"], file.media.0.hex(), "{key}");
        if account == "films" {
            assert_eq!(moto.object(key).await["sha256"], told["sha256"], "{key}");
        }
    }
    let copied = std::fs::metadata(rig.shelf.join("film.mp4")).expect("a file");
    assert_eq!(copied.len(), file.bytes);
    let backup = rig.home.cli(&["backup", "--media", "x.tar"]).await;
    let said = String::from_utf8_lossy(&backup.stderr).into_owned();
    assert_eq!(backup.status.code(), Some(2), "{said}");
    assert!(
        said.contains("the bucket films, below stored/media/"),
        "{said}"
    );
}
