//! What a store answers, and what becomes of it.

use presswork::gate::Cause;
use presswork::lifecycle::State;
use serde_json::{Value, json};

use crate::kit::wait;
use crate::moto::{Moto, completed, parts};
use crate::rig::{MIB, PART, Rig, SOON};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_arrives_whole_or_in_parts() {
    let Some(moto) = Moto::shared().await else {
        return;
    };
    let rig = Rig::of(moto).await;
    let (small, large) = (rig.file(MIB, 1).await, rig.file(2 * PART + MIB, 2).await);
    let more = json!({"metadata": {"made-by": "a test"}, "cache_control": "no-cache", "content_type": "video/mp4"});
    let one = rig
        .enqueue("films", &small, "answers/a b/ü.mp4", more)
        .await;
    let parted = json!({"part_bytes": PART});
    let two = rig.enqueue("films", &large, "answers/large", parted).await;
    let _daemon = rig.run();
    let told = rig.done(one).await;
    let object = moto.object("answers/a b/ü.mp4").await;
    assert_eq!(object["sha256"], told["sha256"], "{object}");
    assert_eq!(told["sha256"], small.media.0.hex());
    assert_eq!(
        (&told["bytes"], &told["bucket"]),
        (&json!(MIB), &json!("films"))
    );
    let url = format!("{}/films/answers/a%20b/%C3%BC.mp4", moto.url);
    assert_eq!(told["url"], url);
    let etag = object["etag"]
        .as_str()
        .unwrap()
        .trim_matches('"')
        .to_owned();
    assert_eq!(told["etag"], etag);
    let kept = object["metadata"].to_string().to_lowercase();
    for word in ["a test", "presswork-effect", "presswork-sha256"] {
        assert!(kept.contains(word), "{kept}");
    }
    let told = rig.done(two).await;
    let object = moto.object("answers/large").await;
    assert_eq!(object["sha256"], told["sha256"], "{object}");
    let asked = moto.asked("answers/large").await;
    assert_eq!(
        (parts(&asked).join(","), completed(&asked)),
        ("1,2,3".to_owned(), 1)
    );
    assert_eq!(moto.uploads("answers/large").await, [] as [&str; 0]);
    let output = rig.home.cli(&["check", "--ping"]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("s3 takes it: bucket films"), "{said}");
    assert!(
        asked.iter().all(|it| it.status < 400 || it.status == 404),
        "{asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_holds_the_account_and_says_what_to_do() {
    let Some(moto) = Moto::shared().await else {
        return;
    };
    let rig = Rig::new(&moto.url, (&moto.id, "the-wrong-secret-of-a-bucket"), "").await;
    let (small, large) = (rig.file(MIB, 3).await, rig.file(PART + MIB, 4).await);
    let one = rig
        .enqueue("films", &small, "secret/small", json!({}))
        .await;
    let two = rig
        .enqueue("films", &large, "secret/large", json!({"part_bytes": PART}))
        .await;
    let daemon = rig.run();
    wait::until("the account is parked", SOON, async || {
        !rig.ledger.closures().await.expect("a list").is_empty()
    })
    .await;
    let closures = rig.ledger.closures().await.expect("a list");
    let closure = &closures[0];
    assert_eq!((closures.len(), closure.cause), (1, Cause::Credentials));
    assert_eq!(closure.scope.account.as_deref(), Some("films"));
    assert!(
        closure.reason.contains("SignatureDoesNotMatch")
            && closure.reason.contains("isn't that of `access_key_id`"),
        "{closure}"
    );
    wait::until("its jobs keep their places", SOON, async || {
        let (one, two) = (rig.job(one).await, rig.job(two).await);
        [one, two]
            .iter()
            .all(|it| (it.state, it.attempts, it.held) == (State::Ready, 0, None))
    })
    .await;
    let output = rig.home.cli(&["check", "--ping"]).await;
    let said = format!("{output:?}{}{}", daemon.stderr(), daemon.stdout());
    assert!(
        said.contains("unauthorised") && said.contains("can be written"),
        "{said}"
    );
    assert!(!said.contains("the-wrong-secret"), "{said}");
    assert_eq!(moto.object("secret/small").await, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_replaced_only_where_it_may_be() {
    let Some(moto) = Moto::shared().await else {
        return;
    };
    let rig = Rig::of(moto).await;
    let (small, large) = (rig.file(MIB, 5).await, rig.file(PART + MIB, 6).await);
    let _daemon = rig.run();
    for (file, key, parted) in [
        (&small, "taken/small", json!({})),
        (&large, "taken/large", json!({"part_bytes": PART})),
    ] {
        moto.put(key, "somebody else's").await;
        let job = rig
            .ended(rig.enqueue("films", file, key, parted.clone()).await)
            .await;
        assert_eq!(job.state, State::Dead, "{key}");
        assert_eq!(job.failure.expect("a failure").code, "exists", "{key}");
        assert_eq!(moto.uploads(key).await, [] as [&str; 0], "{key}");
        let mut over = parted.clone();
        over["overwrite"] = json!(true);
        let told = rig.done(rig.enqueue("films", file, key, over).await).await;
        assert_eq!(moto.object(key).await["sha256"], told["sha256"], "{key}");
        // the same bytes are there already: by another job, which is as good
        let before = moto.asked(key).await.len();
        rig.done(rig.enqueue("films", file, key, parted).await)
            .await;
        let asked = moto.asked(key).await;
        assert!(
            asked[before..]
                .iter()
                .all(|it| it.status != 200 || it.method == "HEAD"),
            "{asked:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_refuses_for_the_moment_is_sent_again() {
    let Some(moto) = Moto::shared().await else {
        return;
    };
    let rig = Rig::of(moto).await;
    let (small, large) = (rig.file(MIB, 7).await, rig.file(PART + MIB, 8).await);
    let mut jobs = Vec::new();
    for (fault, status) in [("corrupt", 400), ("slow_down", 503)] {
        let key = format!("again/{fault}");
        moto.fault(&key, fault).await;
        jobs.push((
            rig.enqueue("films", &small, &key, json!({})).await,
            key,
            status,
        ));
        let key = format!("again/{fault}-part");
        moto.fault(&key, fault).await;
        let parted = json!({"part_bytes": PART});
        jobs.push((
            rig.enqueue("films", &large, &key, parted).await,
            key,
            status,
        ));
    }
    // an error that comes as a success, of an upload that goes on
    let key = "again/error".to_owned();
    moto.fault(&key, "error_in_200").await;
    let parted = json!({"part_bytes": PART});
    jobs.push((rig.enqueue("films", &large, &key, parted).await, key, 200));
    let _daemon = rig.run();
    for (id, key, status) in jobs {
        let told = rig.done(id).await;
        assert_eq!(moto.object(&key).await["sha256"], told["sha256"], "{key}");
        let asked = moto.asked(&key).await;
        assert!(
            asked.iter().any(|it| it.status == status),
            "{key}: {asked:?}"
        );
        assert_eq!(moto.uploads(&key).await, [] as [&str; 0], "{key}");
    }
}
