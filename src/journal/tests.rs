//! The journal as it is used: what it proves, how long it keeps what, who waits for whom, and a kill.

mod kit;
mod damage;
mod model;

use std::io::{self, BufRead as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel as gate;
use std::sync::{Arc, Mutex};

use chrono::TimeDelta;
use uuid::Uuid;

use super::disk::{Disk, Sheet};
use super::record::Record;
use super::writer::file_name;
use super::{Asked, Journal, Options, PERMIT_LAG, Past, Proof, proves, replay};
use crate::effect::EffectId;
use crate::ledger::Run;
use kit::*;

#[test]
fn what_is_absent_proves_something_only_where_nothing_can_be_lost() {
    let whole = |fsync, ended| {
        let disk = Memory::default();
        let mut writer = disk.writer(Options { fsync, ..SMALL }).unwrap();
        writer
            .commit(&[send(id(1, 1), 1), send(id(2, 1), 1), answer(id(2, 1))])
            .unwrap();
        if ended {
            writer.commit(&[Record::End]).unwrap();
        }
        read(disk.pages())
    };
    let absent = asked(id(1, 2), at(1));
    let no_boot = run(Uuid::from_u128(8), "h", None);
    for (fsync, ended, here, proof) in [
        (false, false, here(), Proof::NotSent),
        (false, false, rebooted(), Proof::Nothing),
        (false, false, no_boot.clone(), Proof::Nothing),
        (true, false, rebooted(), Proof::NotSent),
        (true, false, no_boot.clone(), Proof::NotSent),
        (false, true, rebooted(), Proof::NotSent),
        (
            true,
            true,
            run(Uuid::from_u128(8), "other", Some("b")),
            Proof::Nothing,
        ),
        (true, true, run(RUN, "h", Some("b")), Proof::Nothing),
    ] {
        let past = whole(fsync, ended);
        assert_eq!(
            proves(&past, &here, &absent),
            proof,
            "{fsync} {ended} {here:?}"
        );
        let of_another = Asked {
            run: Uuid::nil(),
            ..absent
        };
        assert_eq!(proves(&past, &here, &of_another), Proof::Nothing);
    }
    // what is there counts in any case
    let past = Past {
        complete: false,
        ..whole(false, false)
    };
    assert_eq!(proves(&past, &here(), &absent), Proof::Nothing);
    assert_eq!(
        proves(&past, &rebooted(), &asked(id(1, 1), at(1))),
        Proof::Sent
    );
    let heard = Proof::Answered(Box::new(conclusion(id(2, 1))));
    assert_eq!(proves(&past, &rebooted(), &asked(id(2, 1), at(1))), heard);
    // what the run dropped may be what is asked for
    let past = Past {
        dropped_until: Some(at(1)),
        ..whole(true, false)
    };
    assert_eq!(proves(&past, &here(), &absent), Proof::Nothing);
    let later = Asked {
        permit_at: at(2) + PERMIT_LAG,
        ..absent
    };
    assert_eq!(proves(&past, &here(), &later), Proof::NotSent);
}

#[test]
fn files_are_dropped_in_time_and_what_is_open_is_carried_over() {
    let disk = Memory::default();
    let options = Options {
        file_max: 2_000,
        disk_max: 20_000,
        keep: TimeDelta::hours(1),
        fsync: false,
    };
    let mut writer = disk.writer(options).unwrap();
    let (sent, lost) = (id(1, 1), id(2, 1));
    writer
        .commit(&[send(sent, 0), answer(sent), send(lost, 0)])
        .unwrap();
    for n in 0..2_000u32 {
        let it = id(1_000 + u128::from(n), 1);
        let concluded = Record::Concluded { id: it };
        writer
            .commit(&[send(it, i64::from(n)), answer(it), concluded])
            .unwrap();
    }
    let largest = disk.0.lock().unwrap().largest;
    assert!(18_000 < largest && largest < 25_000, "{largest}");
    let past = read(disk.pages());
    assert!(past.complete, "{:?}", past.damage);
    let heard = Proof::Answered(Box::new(conclusion(sent)));
    assert_eq!(proves(&past, &here(), &asked(sent, at(0))), heard);
    assert_eq!(proves(&past, &here(), &asked(lost, at(0))), Proof::Sent);
    assert_eq!(
        proves(&past, &here(), &asked(id(1_000, 1), at(0))),
        Proof::Nothing
    );
    assert_eq!(
        proves(&past, &here(), &asked(id(3, 1), at(3_000))),
        Proof::NotSent
    );

    // with room enough, time alone decides; and only what is concluded goes
    let disk = Memory::default();
    let options = Options {
        disk_max: u64::MAX,
        keep: TimeDelta::minutes(1),
        ..options
    };
    let mut writer = disk.writer(options).unwrap();
    for n in 0..600u32 {
        let it = id(u128::from(n), 1);
        let concluded = Record::Concluded { id: it };
        writer.commit(&[send(it, i64::from(n)), concluded]).unwrap();
    }
    let kept = read(disk.pages()).sends.len();
    assert!((60..200).contains(&kept), "{kept}");
    writer.commit(&[send(sent, 600)]).unwrap();
    for n in 601..1_200u32 {
        let it = id(u128::from(n), 1);
        let concluded = Record::Concluded { id: it };
        writer.commit(&[send(it, i64::from(n)), concluded]).unwrap();
    }
    assert!(
        600 <= read(disk.pages()).sends.len(),
        "an open send was dropped"
    );
    writer.commit(&[Record::Concluded { id: sent }]).unwrap();
    let many: Vec<Record> = (0..60).map(|n| send(id(n, 2), 1_201)).collect();
    writer.commit(&many).unwrap();
    writer.commit(&many).unwrap();
    assert!(
        read(disk.pages()).sends.len() < 300,
        "nothing is dropped any more"
    );
}

#[test]
fn a_failed_write_is_told_and_costs_nothing_later() {
    for (call, part, fsync) in [(4, 0, false), (4, 20, false), (4, 60, false), (7, 0, true)] {
        let disk = Memory::default();
        let mut writer = disk.writer(Options { fsync, ..SMALL }).unwrap();
        let before = disk.0.lock().unwrap().calls;
        assert_eq!(before, if fsync { 3 } else { 2 });
        disk.0.lock().unwrap().fails.insert(call, part);
        let mut told = Vec::new();
        for n in 1..=4 {
            let written = writer.commit(&[send(id(n, 1), 1), send(id(n + 10, 1), 1)]);
            told.push(written.is_ok());
        }
        let failed = told.iter().filter(|it| !**it).count();
        assert_eq!(failed, 1, "{call}: {told:?}");
        assert_eq!(
            disk.pages().len(),
            2,
            "{call}: a file that failed is left alone"
        );
        let past = read(disk.pages());
        assert!(past.complete, "{:?}", past.damage);
        for (n, told) in (1..).zip(told) {
            let expected = if told { Proof::Sent } else { Proof::NotSent };
            assert_eq!(
                proves(&past, &rebooted_or(fsync), &asked(id(n, 1), at(1))),
                expected
            );
        }
    }
}

fn rebooted_or(fsync: bool) -> Run {
    if fsync { rebooted() } else { here() }
}

/// A sync that waits until it is let go.
struct Slow {
    disk: Memory,
    begun: std::sync::mpsc::Sender<()>,
    go: Arc<Mutex<std::sync::mpsc::Receiver<()>>>,
}

struct SlowSheet(
    Box<dyn Sheet>,
    std::sync::mpsc::Sender<()>,
    Arc<Mutex<std::sync::mpsc::Receiver<()>>>,
);

impl Disk for Slow {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sheet>> {
        let sheet = self.disk.create(path)?;
        Ok(Box::new(SlowSheet(
            sheet,
            self.begun.clone(),
            self.go.clone(),
        )))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
}

impl Sheet for SlowSheet {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.1.send(()).unwrap();
        self.2.lock().unwrap().recv().unwrap();
        self.0.sync()
    }
}

#[test]
fn who_waits_while_a_sync_runs_shares_the_next_one() {
    let (begun, begins) = gate();
    let (go, gone) = gate();
    let disk = Memory::default();
    let slow = Slow {
        disk: disk.clone(),
        begun,
        go: Arc::new(Mutex::new(gone)),
    };
    let options = Options {
        fsync: true,
        ..Options::default()
    };
    go.send(()).unwrap();
    let journal = Journal::on(
        Box::new(slow),
        Path::new(""),
        &run(RUN, "h", Some("b")),
        options,
    );
    let journal = journal.unwrap();
    begins.recv().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let asked = std::rc::Rc::new(std::cell::Cell::new(0));
    let spawn = |n: u128| {
        let (journal, asked) = (journal.clone(), asked.clone());
        tokio::task::spawn_local(async move {
            asked.set(asked.get() + 1);
            let effect = EffectId(Uuid::from_u128(n));
            journal.send(effect, 1, at(1)).await
        })
    };
    let all_asked = async |count| {
        while asked.get() < count {
            tokio::task::yield_now().await;
        }
    };
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let first = spawn(0);
        all_asked(1).await;
        begins.recv().unwrap();
        let others: Vec<_> = (1..200).map(spawn).collect();
        all_asked(200).await;
        assert!(!first.is_finished(), "it returned before its sync");
        go.send(()).unwrap();
        first.await.unwrap().unwrap();
        assert!(
            others.iter().all(|it| !it.is_finished()),
            "one returned before its sync"
        );
        begins.recv().unwrap();
        go.send(()).unwrap();
        for it in others {
            it.await.unwrap().unwrap();
        }
    });
    assert_eq!(
        disk.0.lock().unwrap().syncs,
        3,
        "the header's, the first one's, the others'"
    );
    assert_eq!(read(disk.pages()).sends.len(), 200);
}

#[tokio::test]
async fn a_run_leaves_what_the_next_one_reads_and_retires() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("journal");
    assert_eq!(replay(&folder).unwrap(), []);
    let options = Options {
        file_max: 200,
        ..Options::default()
    };
    let journal = Journal::begin(&folder, &run(RUN, "h", Some("b")), options).unwrap();
    let (one, other) = (id(1, 1), id(2, 1));
    journal.send(one.effect, 1, at(1)).await.unwrap();
    journal.send(other.effect, 1, at(1)).await.unwrap();
    assert_eq!(journal.heard(one.effect, 1).await, None);
    journal
        .answer(one.effect, 1, at(2), &conclusion(one))
        .await
        .unwrap();
    assert_eq!(journal.heard(one.effect, 1).await, Some(conclusion(one)));
    assert_eq!(journal.heard(one.effect, 2).await, None);
    journal.concluded(one.effect, 1);
    assert_eq!(journal.heard(one.effect, 1).await, None);
    journal.end().await.unwrap();
    assert!(journal.send(other.effect, 2, at(3)).await.is_err());

    std::fs::write(folder.join("a.note"), "not ours").unwrap();
    let pasts = replay(&folder).unwrap();
    let [past] = &pasts[..] else {
        panic!("{pasts:?}")
    };
    assert!(past.complete && past.ended && 2 < past.files.len());
    assert_eq!((past.run, past.boot.as_deref()), (RUN, Some("b")));
    let heard = Proof::Answered(Box::new(conclusion(one)));
    assert_eq!(proves(past, &here(), &asked(one, at(1))), heard);
    assert_eq!(proves(past, &here(), &asked(other, at(1))), Proof::Sent);
    assert_eq!(
        proves(past, &rebooted(), &asked(id(2, 2), at(1))),
        Proof::NotSent
    );

    // a retirement that is cut off leaves what proves nothing by absence
    std::fs::remove_file(&past.files[0]).unwrap();
    let left = replay(&folder).unwrap();
    assert!(!left[0].complete);
    assert_eq!(
        proves(&left[0], &here(), &asked(id(2, 2), at(1))),
        Proof::Nothing
    );
    past.retire().unwrap();
    assert_eq!(replay(&folder).unwrap(), []);
    assert!(folder.join("a.note").exists());
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    let journal = Journal::begin(&folder, &here(), options).unwrap();
    journal.send(one.effect, 2, at(1)).await.unwrap();
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&folder.join(file_name(here().id, 0))), 0o600);
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_refused() {
    let disk = Memory::default();
    let journal = Journal::on(
        Box::new(disk.clone()),
        Path::new(""),
        &run(RUN, "h", None),
        Options::default(),
    );
    let journal = journal.unwrap();
    let mut long = conclusion(id(1, 1));
    journal.send(id(1, 1).effect, 1, at(1)).await.unwrap();
    long.evidence.seen = "x".repeat(super::front::ANSWER_MAX);
    let refused = journal
        .answer(id(1, 1).effect, 1, at(1), &long)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    long.evidence.seen = "x".repeat(super::front::ANSWER_MAX - 1_000);
    journal
        .answer(id(1, 1).effect, 1, at(1), &long)
        .await
        .unwrap();
    let proof = proves(&read(disk.pages()), &here(), &asked(id(1, 1), at(1)));
    assert_eq!(proof, Proof::Answered(Box::new(long)));
}

const FOLDER: &str = "JOURNAL_TEST_FOLDER";

/// Journals until it is killed, and says each send after it was written down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a child of a_kill_loses_no_acknowledged_record"]
async fn child_journals_until_it_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let options = Options {
        file_max: 64 << 10,
        ..Options::default()
    };
    let run = run(RUN, "h", Some("b"));
    let journal = Journal::begin(Path::new(&folder), &run, options).unwrap();
    let journals = async |lane: u128| {
        for n in 0.. {
            let id = id(lane << 64 | n, 1);
            journal.send(id.effect, 1, at(1)).await.unwrap();
            journal
                .answer(id.effect, 1, at(1), &conclusion(id))
                .await
                .unwrap();
            // ends the child, too, when its parent is gone
            println!("\n{lane} {n}");
            if n % 2 == 0 {
                journal.concluded(id.effect, 1);
            }
        }
    };
    tokio::join!(journals(0), journals(1), journals(2), journals(3));
}

#[test]
fn a_kill_loses_no_acknowledged_record() {
    const RECORDS: usize = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "--test-threads=1"])
        .arg("journal::tests::child_journals_until_it_is_killed")
        .env(FOLDER, dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let said = io::BufReader::new(child.stdout.take().unwrap()).lines();
    let word = |line: io::Result<String>| {
        let line = line.ok()?;
        let (lane, n) = line.split_once(' ')?;
        Some((lane.parse().ok()?, n.parse().ok()?))
    };
    let mut said = said.filter_map(word);
    let told: Vec<(u128, u128)> = said.by_ref().take(RECORDS / 2).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    // what it still said before the blow counts, too
    let told: Vec<(u128, u128)> = told.into_iter().chain(said).collect();
    assert!(RECORDS / 2 <= told.len(), "{}", told.len());
    let pasts = replay(dir.path()).unwrap();
    let [past] = &pasts[..] else {
        panic!("{pasts:?}")
    };
    assert!(past.complete && !past.ended, "{:?}", past.damage);
    for (lane, n) in &told {
        let id = id(lane << 64 | n, 1);
        let heard = Proof::Answered(Box::new(conclusion(id)));
        assert_eq!(proves(past, &here(), &asked(id, at(1))), heard);
    }
    let next = id(9 << 64, 1);
    assert_eq!(proves(past, &here(), &asked(next, at(1))), Proof::NotSent);
}
