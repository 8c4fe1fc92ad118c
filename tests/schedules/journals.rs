//! The journal's front and its thread: who writes is told once its own record is as safe as it must be.

use presswork::clock::Time;
use presswork::effect::EffectId;
use presswork::ledger::Run;
use uuid::Uuid;

use crate::disk::Slow;
use crate::in_any_order;
use crate::journal::record::SendId;
use crate::journal::{Journal, Options, on};

pub const RUN: Uuid = Uuid::from_u128(7);

pub fn run() -> Run {
    Run {
        id: RUN,
        host: "h".to_owned(),
        boot: Some("b".to_owned()),
        pid: 1,
        version: "x".to_owned(),
        began_at: Time::UNIX_EPOCH,
    }
}

pub const SYNCED: Options = Options {
    fsync: true,
    file_max: 4 << 20,
    disk_max: 64 << 20,
    keep: chrono::TimeDelta::MAX,
};

fn journal(disk: &Slow, options: Options) -> Journal {
    on(Box::new(disk.clone()), &run(), options).expect("the first file is written")
}

fn effect(n: u128) -> EffectId {
    EffectId(Uuid::from_u128(n))
}

/// Three write down what they send; which of them were told that it stands there, and whether it is so
/// at that moment.
async fn three_write(journal: &Journal, disk: &Slow, safe: bool) -> Vec<(u128, bool)> {
    let tasks: Vec<_> = (0..3)
        .map(|n| {
            let (journal, disk) = (journal.clone(), disk.clone());
            shuttle::future::spawn(async move {
                let id = SendId {
                    effect: effect(n),
                    send: 1,
                };
                let written = journal.send(id.effect, 1, Time::UNIX_EPOCH).await;
                let held = disk.holds(RUN, safe).contains(&(id, false));
                assert!(held || written.is_err(), "{n} was told too early");
                (n, written.is_ok())
            })
        })
        .collect();
    let mut told = vec![];
    for task in tasks {
        told.push(task.await.expect("nobody called it off"));
    }
    told
}

#[test]
fn a_write_returns_after_a_sync_that_began_after_it() {
    in_any_order(|| async {
        let disk = Slow::default();
        let journal = journal(&disk, SYNCED);
        let told = three_write(&journal, &disk, true).await;
        assert!(told.iter().all(|it| it.1), "all are written: {told:?}");
    });
}

#[test]
fn without_a_sync_it_returns_after_its_own_write() {
    in_any_order(|| async {
        let disk = Slow::default();
        let unsynced = Options {
            fsync: false,
            ..SYNCED
        };
        let told = three_write(&journal(&disk, unsynced), &disk, false).await;
        assert!(told.iter().all(|it| it.1), "all are written: {told:?}");
    });
}

#[test]
fn a_sync_that_fails_is_told_to_those_in_it_and_the_next_write_is_safe_again() {
    in_any_order(|| async {
        let disk = Slow::default();
        let journal = journal(&disk, SYNCED);
        disk.fail_after(crate::any(3));
        three_write(&journal, &disk, true).await;
        disk.fail_after(u32::MAX);
        let told = journal.send(effect(9), 1, Time::UNIX_EPOCH).await;
        told.expect("it is written again");
        let id = SendId {
            effect: effect(9),
            send: 1,
        };
        assert!(disk.holds(RUN, true).contains(&(id, false)));
    });
}

#[test]
fn after_the_end_nothing_is_written_and_nobody_waits() {
    in_any_order(|| async {
        let disk = Slow::default();
        let journal = journal(&disk, SYNCED);
        let ending = journal.clone();
        let end = shuttle::future::spawn(async move { ending.end().await });
        let told = three_write(&journal, &disk, true).await;
        let end = end.await.expect("nobody called it off");
        end.expect("the end is written");
        // who came too late is refused, and so is whoever comes now
        let late = journal.send(effect(9), 1, Time::UNIX_EPOCH).await;
        late.expect_err("the run has ended");
        let held = disk.holds(RUN, true).len();
        assert_eq!(held, told.iter().filter(|it| it.1).count(), "{told:?}");
    });
}
