//! A daemon over SQLite with accounts in buckets and a folder, files in its media store, and its jobs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use presswork::clock::Clock;
use presswork::config::Config;
use presswork::job::{Job, JobId};
use presswork::ledger::Ledger;
use presswork::ledger::sqlite::Sqlite;
use presswork::lifecycle::State;
use presswork::media::{Limits, Media};
use presswork::reference::Reference;
use presswork::stores;
use serde_json::{Value, json};

use crate::kit::daemon::{Daemon, Home};
use crate::kit::process::tail;
use crate::kit::wait;
use crate::moto::Moto;

/// How long a job may take: a debug build on a busy machine.
pub const SOON: Duration = Duration::from_secs(120);
pub const MIB: u64 = 1 << 20;
/// The smallest parts.
pub const PART: u64 = 5 * MIB;

pub struct Rig {
    pub home: Home,
    pub ledger: Arc<dyn Ledger>,
    pub media: Media,
    pub shelf: PathBuf,
}

impl Rig {
    /// With the bucket at `url`, for whoever has this key; `more` of jobs.toml.
    pub async fn new(url: &str, key: (&str, &str), more: &str) -> Rig {
        let home = Home::new("").env("KEY_ID", key.0).env("KEY_SECRET", key.1);
        let root = home.path().to_owned();
        let shelf = root.join("shelf");
        std::fs::create_dir(&shelf).expect("a folder can be made");
        let text = format!(
            "[daemon]\nstate_dir = {:?}\nlease_s = 2\ndrain_s = 1\n[api]\nlisten = \"off\"\n\
             [retry]\nattempts = 20\nbase_ms = 20\ncap_ms = 100\n[keep]\nfinished_days = 1\n\
             [accounts.films]\nplatform = \"s3\"\nbase_url = \"{url}\"\nbucket = \"films\"\n\
             access_key_id = {{ env = \"KEY_ID\" }}\nsecret = {{ env = \"KEY_SECRET\" }}\n\
             [accounts.shelf]\nplatform = \"folder\"\nfolder = {shelf:?}\n{more}",
            root.join("state")
        );
        home.configure(&text);
        let env = |name: &str| match name {
            "KEY_ID" => Some(key.0.to_owned()),
            "KEY_SECRET" => Some(key.1.to_owned()),
            _ => None,
        };
        let config = Config::parse(&text, None, &env).expect("a valid configuration");
        std::fs::create_dir(root.join("state")).expect("a folder can be made");
        let file = root.join("state/ledger.sqlite");
        let ledger = Sqlite::open(&file, Clock::System).await;
        let ledger: Arc<dyn Ledger> = Arc::new(ledger.expect("a ledger"));
        ledger.migrate().await.expect("its schema");
        let media = stores::media(&config, ledger.clone(), &Clock::System);
        Rig {
            home,
            media: media.expect("a media store"),
            ledger,
            shelf,
        }
    }

    /// With moto's bucket.
    pub async fn of(moto: &Moto) -> Rig {
        Rig::new(&moto.url, (&moto.id, &moto.secret), "").await
    }

    /// A file of this size in the media store; `seed` tells it from others.
    pub async fn file(&self, size: u64, seed: u64) -> Reference {
        let limits = Limits {
            bytes: 4 << 30,
            pixels: 1,
            ratio: 1,
        };
        let mut draft = self.media.draft(limits, Some("video/x-test"));
        let mut block = vec![0_u8; 1 << 20];
        let mut left = size;
        while 0 < left {
            block[..8].copy_from_slice(&left.to_le_bytes());
            block[8..16].copy_from_slice(&seed.to_le_bytes());
            let now = left.min(MIB);
            let bytes = &block[..usize::try_from(now).expect("a mebibyte")];
            draft.write(bytes).await.expect("a draft");
            left -= now;
        }
        draft.finish().await.expect("a file")
    }

    /// Enqueues an upload; what `more` says is part of its payload.
    pub async fn enqueue(&self, account: &str, file: &Reference, key: &str, more: Value) -> JobId {
        let mut payload = json!({"media": file.media, "key": key});
        let members = more.as_object().expect("an object").clone();
        payload.as_object_mut().expect("an object").extend(members);
        let payload = payload.to_string();
        let words = [
            "enqueue",
            "upload.object",
            "--account",
            account,
            "--json",
            "--payload",
        ];
        let done = self.home.cli(&[&words[..], &[&payload]].concat()).await;
        assert!(done.status.success(), "{done:?}");
        let told: Value = serde_json::from_slice(&done.stdout).expect("it is JSON");
        let id = told["id"]
            .as_str()
            .unwrap_or_else(|| panic!("an id in {told}"));
        id.parse().expect("an id")
    }

    pub async fn job(&self, id: JobId) -> Job {
        let job = self.ledger.job(id).await.expect("the ledger answers");
        job.expect("the job is there")
    }

    /// Waits until a job has ended, or is held.
    pub async fn ended(&self, id: JobId) -> Job {
        let ends = [
            State::Completed,
            State::Dead,
            State::Cancelled,
            State::Held,
            State::Unresolved,
        ];
        let said = || tail(&self.home.path().join("stderr-1.log"));
        let what = || format!("the end of {id}; the first daemon said:\n{}", said());
        wait::until_or(what, SOON, async || {
            ends.contains(&self.job(id).await.state)
        })
        .await;
        self.job(id).await
    }

    /// As [`Rig::ended`], and it has completed; its result.
    pub async fn done(&self, id: JobId) -> Value {
        let job = self.ended(id).await;
        assert_eq!(job.state, State::Completed, "{:?}", job.failure);
        serde_json::from_str(job.result.as_deref().expect("a result")).expect("it is JSON")
    }

    pub fn run(&self) -> Daemon {
        self.home.start(&["run"])
    }

    /// A daemon that is killed when it passes a point for the `nth` time.
    pub fn run_to(&self, point: &str, nth: usize) -> Daemon {
        let armed = format!("{point}:{nth}:kill");
        self.home
            .start_with(&["run"], &[("PRESSWORK_CRASH", &armed)])
    }
}
