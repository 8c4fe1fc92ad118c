//! The media store: its places, its limits, what a kill leaves, and how little memory 2 GB take.

mod kit;
#[path = "upload/moto.rs"]
#[allow(dead_code)]
mod moto;

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use moto::Moto;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _};
use presswork::clock::Clock;
use presswork::config::Config;
use presswork::json::Digest;
use presswork::ledger::Ledger;
use presswork::ledger::sqlite::Sqlite;
use presswork::media::blobs::Blobs;
use presswork::media::{Limits, Media, MediaError, Swept};
use presswork::platform::http::Http;
use presswork::platform::objects::store::Store;
use presswork::reference::{Name, Reference};
use tempfile::TempDir;

const MIB: usize = 1 << 20;
const GRACE: Duration = Duration::from_secs(86_400);
const LIMITS: Limits = Limits {
    bytes: 4 << 30,
    pixels: 1_000_000,
    ratio: 10,
};

/// A store, its ledger, and a way behind its back.
struct Rig {
    media: Media,
    ledger: Arc<dyn Ledger>,
    clock: Clock,
    raw: Arc<dyn ObjectStore>,
    _dir: Option<TempDir>,
}

async fn rig(dir: &Path, blobs: Blobs, raw: Arc<dyn ObjectStore>) -> Rig {
    let clock = Clock::manual(Clock::System.now());
    let ledger = Sqlite::open(&dir.join("ledger.sqlite"), clock.clone()).await;
    let ledger: Arc<dyn Ledger> = Arc::new(ledger.unwrap());
    ledger.migrate().await.unwrap();
    Rig {
        media: Media::new(blobs, ledger.clone(), clock.clone()),
        ledger,
        clock,
        raw,
        _dir: None,
    }
}

/// The store in a folder, which may be there already.
async fn in_folder(dir: &Path) -> Rig {
    let folder = dir.join("store");
    let blobs = Blobs::folder(&folder).unwrap();
    let raw = LocalFileSystem::new_with_prefix(&folder).unwrap();
    rig(dir, blobs, Arc::new(raw)).await
}

async fn folder() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let rig = in_folder(dir.path()).await;
    Rig {
        _dir: Some(dir),
        ..rig
    }
}

async fn objects() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let raw = Arc::new(InMemory::new());
    let blobs = Blobs::objects(raw.clone(), dir.path().join("spool"));
    let rig = rig(dir.path(), blobs, raw).await;
    Rig {
        _dir: Some(dir),
        ..rig
    }
}

/// The store in moto's bucket, below a prefix that nobody else has, or has now.
fn in_bucket(url: &str, key: (&str, &str), prefix: &str) -> Store {
    let text = format!(
        "[accounts.films]\nplatform = \"s3\"\nbase_url = \"{url}\"\nbucket = \"films\"\n\
         access_key_id = {{ env = \"ID\" }}\nsecret = {{ env = \"SECRET\" }}\n"
    );
    let env = |name: &str| match name {
        "ID" => Some(key.0.to_owned()),
        "SECRET" => Some(key.1.to_owned()),
        _ => None,
    };
    let config = Config::parse(&text, None, &env).unwrap();
    let http = Http::new(Clock::System).unwrap();
    Store::new(http, config.accounts["films"].clone(), prefix)
}

/// `None`, said in a line, where moto isn't installed.
async fn bucket() -> Option<Rig> {
    let moto = Moto::shared().await?;
    let dir = tempfile::tempdir().unwrap();
    let prefix = format!("media/{}", uuid::Uuid::new_v4());
    let store = in_bucket(&moto.url, (&moto.id, &moto.secret), &prefix);
    let blobs = Blobs::bucket(store.clone(), dir.path().join("spool"));
    let rig = rig(dir.path(), blobs, Arc::new(store)).await;
    Some(Rig {
        _dir: Some(dir),
        ..rig
    })
}

impl Rig {
    async fn put(&self, bytes: &[u8]) -> Result<Reference, MediaError> {
        self.media.put(LIMITS, None, bytes).await
    }

    /// Every place that has bytes, and every file that is being written.
    async fn places(&self) -> Vec<object_store::path::Path> {
        let all: Vec<_> = self.raw.list(None).try_collect().await.unwrap();
        all.into_iter().map(|it| it.location).collect()
    }

    fn later(&self) {
        self.clock.advance(chrono::Duration::days(2));
    }
}

/// Bytes that begin like nothing known and differ everywhere.
fn content(size: usize, seed: u8) -> Vec<u8> {
    let byte = |i: usize| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed;
    let mut bytes: Vec<u8> = (0..size).map(byte).collect();
    bytes[0] = b'.';
    bytes
}

/// The contract of every place, for a folder and for an object store.
mod contract {
    use super::*;

    pub async fn what_goes_in_comes_out(rig: Rig) {
        for size in [1, MIB - 1, MIB, MIB + 1, 8 * MIB, 20 * MIB + 7] {
            let bytes = content(size, 1);
            let it = rig.put(&bytes).await.unwrap();
            assert_eq!(it.media, Name(Digest::of_bytes(&bytes)));
            assert_eq!(it.bytes, size as u64);
            assert_eq!(it.mime, "application/octet-stream");
            let (same, stream) = rig.media.read(it.media).await.unwrap();
            assert_eq!(same, it);
            let back: Vec<Bytes> = stream.try_collect().await.unwrap();
            assert!(back.concat() == bytes, "{size} bytes came back changed");
            let (_, whole) = rig.media.whole(it.media, size as u64).await.unwrap();
            assert!(whole == bytes);
            let part = rig.media.part(it.media, size as u64 / 2..size as u64).await;
            assert!(part.unwrap() == bytes[size / 2..]);
            let e = rig
                .media
                .whole(it.media, size as u64 - 1)
                .await
                .unwrap_err();
            assert!(matches!(e, MediaError::Unfit(_)), "{e}");
        }
        assert_eq!(rig.places().await.len(), 6);
    }

    pub async fn the_same_bytes_are_stored_once(rig: Rig) {
        let bytes = content(9 * MIB, 2);
        let all = (0..8).map(|_| rig.put(&bytes));
        let all = futures_util::future::try_join_all(all).await.unwrap();
        assert!(all.windows(2).all(|it| it[0] == it[1]));
        assert_eq!(rig.places().await.len(), 1);
        rig.put(&bytes).await.unwrap();
        assert_eq!(rig.places().await.len(), 1);
    }

    pub async fn damage_is_told_and_mended(rig: Rig) {
        let bytes = content(MIB, 3);
        let it = rig.put(&bytes).await.unwrap();
        let place = rig.places().await.remove(0);
        let mut other = bytes.clone();
        other[MIB / 2] ^= 1;
        rig.raw.put(&place, other.into()).await.unwrap();
        let (_, stream) = rig.media.read(it.media).await.unwrap();
        let e = stream.try_collect::<Vec<_>>().await.unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::InvalidData);
        let damaged = rig.media.whole(it.media, u64::MAX).await;
        assert_eq!(damaged.unwrap_err(), MediaError::Damaged(it.media));
        rig.raw.delete(&place).await.unwrap();
        assert_eq!(rig.media.intact(it.media).await.unwrap(), None);
        let gone = rig.media.whole(it.media, u64::MAX).await;
        assert_eq!(gone.unwrap_err(), MediaError::Gone(it.media));
        assert_eq!(rig.put(&bytes).await.unwrap(), it);
        assert_eq!(rig.media.whole(it.media, u64::MAX).await.unwrap().1, bytes);
        assert_eq!(rig.places().await, [place]);
    }

    pub async fn a_sweep_takes_what_nobody_needs(rig: Rig) {
        let (held, free) = (content(10, 4), content(10, 5));
        let held = rig.put(&held).await.unwrap();
        rig.put(&free).await.unwrap();
        let payload = serde_json::to_string(&held).unwrap();
        accept(&*rig.ledger, &payload).await;
        assert_eq!(rig.media.sweep(GRACE).await.unwrap(), Swept::default());
        rig.later();
        let young = rig.put(&content(10, 6)).await.unwrap();
        let stray = format!("sha256/00/{}.x", Digest::of_bytes(b"").hex());
        rig.raw.put(&stray.into(), "".into()).await.unwrap();
        rig.raw.put(&"other/file".into(), "".into()).await.unwrap();
        let swept = rig.media.sweep(GRACE).await.unwrap();
        let (free, strays) = (1, 1);
        assert_eq!(
            swept,
            Swept {
                free,
                strays,
                ..Swept::default()
            }
        );
        assert_eq!(rig.places().await.len(), 3);
        for it in [held, young] {
            assert_eq!(rig.media.intact(it.media).await.unwrap(), Some(it));
        }
    }

    pub async fn what_is_given_up_leaves_nothing(rig: Rig) {
        let mut draft = rig.media.draft(LIMITS, None);
        draft.write(&content(3 * MIB, 7)).await.unwrap();
        drop(draft);
        assert_eq!(rig.places().await, []);
        let few = Limits {
            bytes: 10,
            ..LIMITS
        };
        let e = rig.media.put(few, None, &[b'.'; 11][..]).await.unwrap_err();
        assert!(
            matches!(&e, MediaError::Unfit(it) if it.contains("more than 10")),
            "{e}"
        );
        assert!(matches!(rig.put(b"").await, Err(MediaError::Unfit(_))));
        assert_eq!(rig.places().await, []);
    }
}

macro_rules! contract {
    ($($case:ident),+ $(,)?) => {
        mod in_a_folder {
            $(#[tokio::test] async fn $case() { super::contract::$case(super::folder().await).await; })+
        }
        mod in_an_object_store {
            $(#[tokio::test] async fn $case() { super::contract::$case(super::objects().await).await; })+
        }
        mod in_a_bucket {
            $(#[tokio::test] async fn $case() {
                if let Some(rig) = super::bucket().await { super::contract::$case(rig).await; }
            })+
        }
    };
}

contract! {
    what_goes_in_comes_out,
    the_same_bytes_are_stored_once,
    damage_is_told_and_mended,
    a_sweep_takes_what_nobody_needs,
    what_is_given_up_leaves_nothing,
}

/// Accepts a job with this payload.
async fn accept(ledger: &dyn Ledger, payload: &str) {
    let job = presswork::job::NewJob {
        id: presswork::job::JobId::mint(),
        kind: "demo.work".to_owned(),
        lane: "default".to_owned(),
        tenant: "default".to_owned(),
        account: None,
        priority: presswork::job::Priority::Normal,
        key: None,
        payload: payload.into(),
        digest: Digest::of_bytes(payload.as_bytes()),
        run_at: None,
        not_after: None,
        late: None,
        late_after_s: None,
        attempts_max: 1,
        timeout_s: 1,
        age_max_s: 86_400 * 365,
        labels: Default::default(),
        traceparent: None,
        reply_to: None,
        options: "{}".to_owned(),
        said: None,
    };
    ledger.accept(&[job]).await.unwrap();
}

#[tokio::test]
async fn what_jobs_name_is_kept_and_what_they_gave_up_is_not() {
    let rig = folder().await;
    let picture = rig.put(&png(3, 2)).await.unwrap();
    let payload = serde_json::json!({"text": "x", "media": [picture]});
    accept(&*rig.ledger, &payload.to_string()).await;
    let nobodys = rig.put(&png(2, 3)).await.unwrap();
    rig.later();
    assert_eq!(rig.media.sweep(GRACE).await.unwrap().free, 1);
    assert_eq!(rig.media.look(picture.media).await.unwrap(), picture);
    assert!(rig.media.look(nobodys.media).await.is_err());
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let sides = [width.to_be_bytes(), height.to_be_bytes()].concat();
    [
        &b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..],
        &sides,
        b"\x08\x06\0\0\0",
    ]
    .concat()
}

#[tokio::test]
async fn pictures_are_measured_before_anybody_decodes_them() {
    let rig = folder().await;
    let it = rig.put(&png(1_000, 1_000)).await.unwrap();
    assert_eq!(it.mime, "image/png");
    assert_eq!(it.pixels.map(|it| it.width), Some(1_000));
    for (picture, why) in [
        (png(1_001, 1_000), "1000000 are the most"),
        (png(u32::MAX, u32::MAX), "are the most"),
        (png(11, 1), "10 times"),
        (png(1, 11), "10 times"),
        (png(0, 5), "doesn't tell its pixels"),
        (b"\x89PNG\r\n\x1a\n".to_vec(), "doesn't tell its pixels"),
        (b"\xff\xd8\xff\xd9".to_vec(), "doesn't tell its pixels"),
    ] {
        match rig.put(&picture).await {
            Err(MediaError::Unfit(e)) => assert!(e.contains(why), "{e}"),
            other => panic!("{why}: {other:?}"),
        }
    }
    assert_eq!(rig.places().await.len(), 1);
}

#[tokio::test]
async fn a_type_is_told_by_the_bytes() {
    let rig = folder().await;
    let put = async |bytes: &[u8], declared| {
        rig.media
            .put(LIMITS, Some(declared), bytes)
            .await
            .unwrap()
            .mime
    };
    assert_eq!(put(&png(1, 1), "text/html").await, "image/png");
    assert_eq!(put(b"a,b", "text/csv; charset=utf-8").await, "text/csv");
    assert_eq!(put(b"a,c", "image/png").await, "application/octet-stream");
    assert_eq!(put(b"a,d", "text/\"x").await, "application/octet-stream");
    assert_eq!(
        put(b"\0\0\0\x18ftypisom\0\0\0\0mp41mp42", "").await,
        "video/mp4"
    );
}

/// A test of this file, in a process of its own, with `name=value` in its environment.
fn child(test: &str, environment: &[(&str, &str)]) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test, "--ignored", "--nocapture"]);
    child
        .envs(environment.iter().copied())
        .stdout(Stdio::piped());
    child
}

/// Where a child works; it does nothing when somebody runs all ignored tests.
fn child_dir() -> Option<std::path::PathBuf> {
    std::env::var_os("MEDIA_TEST_DIR").map(Into::into)
}

fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|it| it.starts_with("VmHWM:")).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        << 10
}

const TWO_GIGABYTES: u64 = 2 << 30;
/// What moto keeps in its memory, and sums up in Python.
const A_QUARTER: u64 = 256 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a child of two_gigabytes_move_in_little_memory"]
async fn child_moves_two_gigabytes() {
    let Some(dir) = child_dir() else { return };
    moves(in_folder(&dir).await, TWO_GIGABYTES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a child of a_quarter_of_a_gigabyte_moves_through_a_bucket_in_little_memory"]
async fn child_moves_through_a_bucket() {
    let Some(dir) = child_dir() else { return };
    moves(child_bucket(&dir).await, A_QUARTER).await;
}

/// The bucket that a child is told of.
async fn child_bucket(dir: &Path) -> Rig {
    let told = |name: &str| std::env::var(name).unwrap();
    let key = (told("MEDIA_TEST_ID"), told("MEDIA_TEST_SECRET"));
    let (url, prefix) = (told("MEDIA_TEST_URL"), told("MEDIA_TEST_PREFIX"));
    let store = in_bucket(&url, (&key.0, &key.1), &prefix);
    let blobs = Blobs::bucket(store.clone(), dir.join("spool"));
    rig(dir, blobs, Arc::new(store)).await
}

/// Brings a file of this size in and out, after a small one, and tells how much more memory it took.
async fn moves(rig: Rig, large: u64) {
    let mut block = content(64 << 10, 0);
    let mut least = 0;
    for size in [16 * MIB as u64, large] {
        let mut draft = rig.media.draft(LIMITS, None);
        for i in 0..size / block.len() as u64 {
            block[8..16].copy_from_slice(&i.to_le_bytes());
            draft.write(&block).await.unwrap();
        }
        let it = draft.finish().await.unwrap();
        assert_eq!(it.bytes, size);
        let (_, mut stream) = rig.media.read(it.media).await.unwrap();
        let mut read = 0;
        while let Some(bytes) = stream.try_next().await.unwrap() {
            read += bytes.len() as u64;
        }
        assert_eq!(read, size);
        if size == large {
            println!("more: {}", peak() - least);
        }
        least = peak();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn two_gigabytes_move_in_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let more = more_of(child(
        "child_moves_two_gigabytes",
        &[("MEDIA_TEST_DIR", place)],
    ));
    println!("2 GB moved in and out with {} KiB more", more >> 10);
    assert!(more <= 64 << 20, "{more} bytes more were resident");
}

/// How much more memory a child's large file took.
fn more_of(mut child: Command) -> u64 {
    let child = child.output().unwrap();
    let told = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{told}");
    let more = told.split("more: ").nth(1).unwrap();
    more.split_whitespace().next().unwrap().parse().unwrap()
}

/// What tells a child of moto's bucket.
fn bucket_of<'a>(moto: &'a Moto, dir: &'a str, prefix: &'a str) -> [(&'static str, &'a str); 5] {
    [
        ("MEDIA_TEST_DIR", dir),
        ("MEDIA_TEST_URL", &moto.url),
        ("MEDIA_TEST_ID", &moto.id),
        ("MEDIA_TEST_SECRET", &moto.secret),
        ("MEDIA_TEST_PREFIX", prefix),
    ]
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_quarter_of_a_gigabyte_moves_through_a_bucket_in_little_memory() {
    let Some(moto) = Moto::shared().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let environment = bucket_of(moto, dir.path().to_str().unwrap(), "media/large");
    let more = more_of(child("child_moves_through_a_bucket", &environment));
    println!(
        "256 MiB moved through a bucket with {} KiB more",
        more >> 10
    );
    assert!(more <= 64 << 20, "{more} bytes more were resident");
}

/// What dies between a file and its row leaves garbage that the sweep takes; never a row without its
/// bytes.
#[cfg(feature = "crashpoints")]
mod killed {
    use super::*;

    #[tokio::test]
    #[ignore = "a child of a_kill_leaves_only_garbage"]
    async fn child_is_killed() {
        let Some(dir) = child_dir() else { return };
        let rig = in_folder(&dir).await;
        rig.put(&content(3 * MIB, 9)).await.unwrap();
        rig.later();
        rig.media.sweep(GRACE).await.unwrap();
    }

    #[tokio::test]
    #[ignore = "a child of a_kill_leaves_only_garbage_in_a_bucket"]
    async fn child_is_killed_before_a_bucket() {
        let Some(dir) = child_dir() else { return };
        let rig = child_bucket(&dir).await;
        rig.put(&content(9 * MIB, 9)).await.unwrap();
        rig.later();
        rig.media.sweep(GRACE).await.unwrap();
    }

    /// As in a folder; and an upload in parts whose writer died is given up.
    #[tokio::test]
    async fn a_kill_leaves_only_garbage_in_a_bucket() {
        let Some(moto) = Moto::shared().await else {
            return;
        };
        for (point, unfinished, strays) in [
            ("media.after_part", 2, 0),
            ("media.before_row", 0, 1),
            ("media.before_delete", 0, 1),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let prefix = format!("media/killed/{point}");
            let mut environment = bucket_of(moto, dir.path().to_str().unwrap(), &prefix).to_vec();
            let crash = format!("{point}:1:kill");
            environment.push(("PRESSWORK_CRASH", &crash));
            let died = child("killed::child_is_killed_before_a_bucket", &environment);
            let died = { died }.output().unwrap();
            assert_eq!(died.status.code(), None, "{point} wasn't reached");
            let store = in_bucket(&moto.url, (&moto.id, &moto.secret), &prefix);
            let blobs = Blobs::bucket(store.clone(), dir.path().join("spool"));
            let rig = rig(dir.path(), blobs, Arc::new(store)).await;
            let bytes = content(9 * MIB, 9);
            let name = Name(Digest::of_bytes(&bytes));
            assert_eq!(rig.media.look(name).await, Err(MediaError::Gone(name)));
            let young = rig.media.sweep(GRACE).await.unwrap();
            // the file that was being written is nobody's from the start
            assert_eq!(young.unfinished + young.strays, unfinished / 2, "{point}");
            rig.later();
            let swept = rig.media.sweep(GRACE).await.unwrap();
            let expected = Swept {
                unfinished: unfinished / 2,
                free: 0,
                strays,
            };
            assert_eq!(swept, expected, "{point}");
            assert_eq!(rig.places().await, [], "{point}");
            let it = rig.put(&bytes).await.unwrap();
            assert_eq!(rig.media.whole(it.media, u64::MAX).await.unwrap().1, bytes);
        }
    }

    #[tokio::test]
    async fn a_kill_leaves_only_garbage() {
        let none = Swept::default();
        for (point, swept) in [
            (
                "media.before_publish",
                Swept {
                    unfinished: 1,
                    ..none
                },
            ),
            ("media.before_row", Swept { strays: 1, ..none }),
            ("media.before_delete", Swept { strays: 1, ..none }),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let place = dir.path().to_str().unwrap();
            let crash = format!("{point}:1:kill");
            let environment = [("MEDIA_TEST_DIR", place), ("PRESSWORK_CRASH", &crash)];
            let died = child("killed::child_is_killed", &environment)
                .output()
                .unwrap();
            assert_eq!(died.status.code(), None, "{point} wasn't reached");
            let rig = in_folder(dir.path()).await;
            let bytes = content(3 * MIB, 9);
            let name = Name(Digest::of_bytes(&bytes));
            assert_eq!(rig.media.look(name).await, Err(MediaError::Gone(name)));
            assert_eq!(rig.places().await.len(), 1, "{point}");
            rig.later();
            assert_eq!(rig.media.sweep(GRACE).await.unwrap(), swept, "{point}");
            assert_eq!(rig.places().await, [], "{point}");
            let it = rig.put(&bytes).await.unwrap();
            assert_eq!(rig.media.whole(it.media, u64::MAX).await.unwrap().1, bytes);
        }
    }
}
