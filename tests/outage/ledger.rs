//! A ledger that is there and doesn't do what it should: its disk is full, its connections are used up,
//! its tables are locked, and answers that it has given get lost.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use presswork::lifecycle::State;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::kit::postgres::Postgres;
use crate::kit::proxy::{Direction, Proxy};
use crate::kit::wait;
use crate::world::{ENDED, Host, Stores, accept_directly, ended, envelope, rules};
use crate::{Case, sql, told};

/// A small file system of its own, for as long as it lives.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where nobody may mount one here.
    fn new(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size},mode=0777"),
                "tmpfs",
            ])
            .arg(folder.path())
            .stderr(std::process::Stdio::null())
            .status();
        mounted.is_ok_and(|it| it.success()).then(|| Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn fill(&self) {
        let file = std::fs::File::create(self.path().join("filler")).expect("a file");
        let mut file = std::io::BufWriter::new(file);
        let zeros = [0; 8_192];
        while std::io::Write::write_all(&mut file, &zeros).is_ok() {}
        // what didn't fit isn't written when it is dropped either
        drop(file.into_parts());
    }

    fn empty(&self) {
        std::fs::remove_file(self.path().join("filler")).expect("the filler is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_acknowledges_nothing_and_loses_nothing() {
    let Some(disk) = SmallDisk::new("48m") else {
        println!("skipped: no file system may be mounted here");
        return;
    };
    let postgres = Postgres::start();
    let mut case = Case::on(&postgres).await;
    // the tables on the small disk, the write-ahead log on the large one: then the server lives on
    let place = disk.path().join("space");
    std::fs::create_dir(&place).expect("a folder");
    let server = std::fs::metadata(postgres.log().parent().expect("a folder").join("data"));
    let owner = server.expect("the server's folder is there");
    let (uid, gid) = {
        use std::os::unix::fs::MetadataExt as _;
        (owner.uid(), owner.gid())
    };
    std::os::unix::fs::chown(&place, Some(uid), Some(gid)).expect("it may be given away");
    let name = case
        .stores
        .ledger
        .rsplit('/')
        .next()
        .expect("a name")
        .to_owned();
    let main = postgres.url("postgres");
    sql(
        &main,
        &format!("CREATE TABLESPACE small LOCATION '{}'", place.display()),
    )
    .await;
    sql(
        &main,
        &format!("ALTER DATABASE {name} SET default_tablespace = small"),
    )
    .await;
    let host = case.host();
    let daemon = host.run();
    host.queue_in_use(&daemon).await;
    case.load(&host, 20).await;

    disk.fill();
    // large, so that the room within the tables is soon used up
    let big = "x".repeat(1_000);
    let mut refused = None;
    let mut taken = 0;
    while refused.is_none() {
        let mut large = case.job("test.job", json!({"sleep_ms": 0}));
        large["labels"] = json!({"a": big, "b": big, "c": big});
        let answer = host.post(large.to_string()).await.expect("the API answers");
        match answer.status {
            StatusCode::CREATED => taken += 1,
            StatusCode::SERVICE_UNAVAILABLE => {
                assert!(answer.headers.contains_key("retry-after"));
                refused = Some(large);
            }
            status => panic!("{status}: {}", answer.text),
        }
        assert!(taken < 100_000, "the disk is full");
    }
    println!("{taken} jobs were taken by what room there was");
    told(&daemon, "No space left on device").await;
    disk.empty();
    host.submit(&refused.expect("one was refused")).await;
    case.load(&host, 10).await;
    case.all_well().await;
    assert!(daemon.ended().is_none(), "the daemon lives through it");
    drop(daemon);
    drop(postgres);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_run_out_cost_time_and_no_job() {
    let settings = [
        ("max_connections", "24"),
        ("superuser_reserved_connections", "1"),
    ];
    let postgres = Postgres::start_with(&settings);
    let mut case = Case::on(&postgres).await;
    let host = case.host();
    let daemon = host.run();
    host.queue_in_use(&daemon).await;
    case.load(&host, 10).await;
    // somebody else takes all that are left
    let mut theirs = Vec::new();
    while let Ok(it) = PgConnection::connect(&case.stores.ledger).await {
        theirs.push(it);
    }
    assert!(!theirs.is_empty());
    let envelopes: Vec<Value> = (0..30)
        .map(|_| case.job("test.job", json!({"sleep_ms": 10})))
        .collect();
    for envelope in &envelopes {
        host.submit(envelope).await;
    }
    drop(theirs);
    case.load(&host, 10).await;
    let found = case.all_well().await;
    assert_eq!(found.reclaimed, 0, "no lease was lost: {found:?}");
    assert!(daemon.ended().is_none(), "the daemon lives through it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_lock_costs_time_and_no_lease() {
    // more than there are connections to the ledger
    const POSTS: usize = 24;
    let mut case = Case::new().await;
    case.stores.more = format!("[lanes.instagram]\nconcurrency = {POSTS}\n");
    let host = case.host();
    let daemon = host.run();
    host.queue_in_use(&daemon).await;
    let id = case.send_one(&host, json!({"sleep_ms": 60_000})).await;
    case.until_state(id, State::Running).await;
    // each of them has to write something down soon, and waits for the lock on a connection of its own
    let slow = "slow op=container.create delay_ms=3000";
    let posts = (0..POSTS).map(|n| envelope(1 + n, "post.instagram", Value::Null, slow));
    let (wanted, posts): (Vec<_>, Vec<_>) = posts.unzip();
    case.sent.extend(wanted);
    let accepted = accept_directly(&*case.ledger, &rules(&host), &posts).await;
    accepted.expect("the ledger takes them");
    wait::until("the posts are under way", ENDED, async || {
        let running = case.ledger.running("instagram").await;
        running.expect("the ledger answers").len() == POSTS
    })
    .await;
    let run = case.one(id).await.run.expect("it runs");
    let mut theirs = PgConnection::connect(&case.stores.ledger)
        .await
        .expect("connects");
    let lock = "BEGIN; LOCK TABLE presswork.jobs IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(lock)
        .execute(&mut theirs)
        .await
        .expect("it is locked");
    // its lease ends later and later all the same, four leases long, and never lapses: what takes jobs
    // back waits for the lock too, so that only who looks sees a lapse
    let beats = "SELECT extract(epoch FROM max(lease_until))::float8, \
        extract(epoch FROM max(lease_until) - clock_timestamp())::float8 \
        FROM presswork.workers WHERE NOT ended";
    let mut look = PgConnection::connect(&case.stores.ledger)
        .await
        .expect("connects");
    let mut lease = async || -> (f64, f64) {
        let read = sqlx::query_as(beats).fetch_one(&mut look).await;
        read.expect("the runs aren't locked")
    };
    let (began, _) = lease().await;
    let enough = began + 4.0 * f64::from(case.stores.lease_s);
    let deadline = Instant::now() + ENDED;
    loop {
        let (until, left) = lease().await;
        assert!(0.0 < left, "the lease lapsed {} s ago", -left);
        if enough <= until {
            break;
        }
        assert!(Instant::now() < deadline, "its lease isn't renewed");
        tokio::task::yield_now().await;
    }
    sqlx::raw_sql("COMMIT")
        .execute(&mut theirs)
        .await
        .expect("it is unlocked");
    case.load(&host, 10).await;
    let job = case.one(id).await;
    assert_eq!((job.state, job.run), (State::Running, Some(run)), "{job:?}");
    presswork::operate::cancel(&*case.ledger, id, &crate::by())
        .await
        .expect("it can be cancelled");
    ended(&*case.ledger, case.sent.len(), ENDED).await;
    assert!(daemon.ended().is_none(), "the daemon lives through it");
}

/// The answer to what the ledger has committed is lost, at any byte: a producer that asks again with
/// the same key gets the same job, and what was acknowledged is there.
#[tokio::test(flavor = "multi_thread")]
async fn an_acceptance_whose_answer_is_lost_is_the_same_job_again() {
    const JOBS: usize = 300;
    let mut case = Case::new().await;
    let (proxy, through) = Proxy::before(&case.stores.ledger);
    let stores = Stores {
        ledger: through,
        ..case.stores.clone()
    };
    let host = Host::new(&stores, &case.outside.url);
    let daemon = host.run();
    host.queue_in_use(&daemon).await;
    let seed: u64 = rand::random::<u32>().into();
    let mut dice = StdRng::seed_from_u64(seed);
    let mut again = 0;
    for _ in 0..JOBS {
        let envelope = case.job("test.job", json!({"sleep_ms": 0}));
        if dice.random_bool(0.5) {
            proxy.cut_after(Direction::Down, dice.random_range(0..600));
        }
        // created at the first answer, or known from the one that was lost
        again += usize::from(host.submit(&envelope).await == StatusCode::OK);
    }
    proxy.heal();
    let found = case.all_well().await;
    println!("seed {seed}: {again} of {JOBS} were there already: {found:?}");
    assert!(
        0 < again,
        "no answer was lost after its commit (seed {seed})"
    );
}

/// A claim in a bounded lane is a transaction: its COMMIT arrives, the answer doesn't.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_commit_is_not_answered_is_taken_back() {
    let mut case = Case::new().await;
    let (proxy, through) = Proxy::before(&case.stores.ledger);
    let stores = Stores {
        ledger: through,
        more: "[lanes.default]\nconcurrency = 3\n".to_owned(),
        ..case.stores.clone()
    };
    let host = Host::new(&stores, &case.outside.url);
    let daemon = host.run();
    host.queue_in_use(&daemon).await;
    for _ in 0..5 {
        proxy.cut_after_commit();
        let ids = case.test_jobs(6, &json!({"sleep_ms": 5}));
        for envelope in &ids {
            host.submit(envelope).await;
        }
        wait::until("a commit's answer was lost", ENDED, async || {
            proxy.has_cut_commit()
        })
        .await;
        case.all_well().await;
    }
    assert!(daemon.ended().is_none(), "the daemon lives through it");
}
