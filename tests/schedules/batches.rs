//! The group commit's gatherer: who submits is answered once, with its own answer, whatever becomes of
//! the others.

use std::future::poll_fn;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use crate::batcher::Batcher;
use crate::sync::{Semaphore, point};
use crate::{any, in_any_order};

/// What was written, and how.
#[derive(Default)]
struct Disk {
    writes: usize,
    under_way: usize,
    batches: Vec<Vec<u32>>,
}

/// Takes numbers, and answers each.
type Numbers = Batcher<u32, Result<u32, u32>>;

/// Writes of at most `most` items, at most `in_flight` at once: each takes a while. What `breaks` says so
/// panics midway, or is answered with an error (`Err` of the item) by the whole batch.
fn batcher(
    most: usize,
    in_flight: usize,
    breaks: impl Fn(&[u32]) -> Breaks + Send + Sync + 'static,
) -> (Numbers, Arc<Mutex<Disk>>) {
    let disk = Arc::new(Mutex::new(Disk::default()));
    let (seen, breaks) = (disk.clone(), Arc::new(breaks));
    let batcher = Batcher::start(most, in_flight, move |items: Vec<u32>| {
        let (disk, breaks) = (disk.clone(), breaks.clone());
        async move {
            {
                let mut disk = disk.lock().unwrap();
                disk.writes += 1;
                disk.under_way += 1;
                disk.batches.push(items.clone());
                assert!(disk.under_way <= in_flight, "too many writes at once");
                assert!(!items.is_empty() && items.len() <= most, "{items:?}");
            }
            point();
            disk.lock().unwrap().under_way -= 1;
            match breaks(&items) {
                // no word on standard error for each of thousands
                Breaks::Panic => resume_unwind(Box::new("the test says so")),
                Breaks::Error => items.into_iter().map(Err).collect(),
                Breaks::Nothing => items.into_iter().map(Ok).collect(),
            }
        }
    });
    (batcher, seen)
}

enum Breaks {
    Nothing,
    Error,
    Panic,
}

/// Each of `submitters` submits `each` items one after the other; what each was told.
async fn all_told(
    batcher: &Batcher<u32, Result<u32, u32>>,
    (submitters, each): (u32, u32),
) -> Vec<(u32, Option<Result<u32, u32>>)> {
    let tasks: Vec<_> = (0..submitters)
        .map(|who| {
            let batcher = batcher.clone();
            shuttle::future::spawn(async move {
                let mut told = vec![];
                for n in 0..each {
                    let item = who * 100 + n;
                    told.push((item, batcher.submit(item).await));
                }
                told
            })
        })
        .collect();
    let mut told = vec![];
    for task in tasks {
        told.extend(task.await.expect("nobody called it off"));
    }
    told
}

#[test]
fn each_is_answered_once_with_its_own_answer_and_in_its_order() {
    in_any_order(|| async {
        let (batcher, disk) = batcher(2, 2, |_| Breaks::Nothing);
        for (item, answer) in all_told(&batcher, (3, 2)).await {
            assert_eq!(answer, Some(Ok(item)));
        }
        let written = disk.lock().unwrap().batches.concat();
        let mut all = written.clone();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 100, 101, 200, 201], "each was written once");
        for who in 0..3 {
            let own = written.iter().filter(|it| **it / 100 == who);
            assert!(own.is_sorted(), "{written:?}");
        }
    });
}

/// One submitter's items break what they are written with: in the end each turn has been of such a write.
fn broken(item: &u32) -> bool {
    item / 100 == 1
}

#[test]
fn a_write_that_fails_or_panics_reaches_those_in_it_and_nobody_else() {
    for panics in [false, true] {
        in_any_order(move || async move {
            let (batcher, disk) = batcher(2, 2, move |items| match items.iter().any(broken) {
                true if panics => Breaks::Panic,
                true => Breaks::Error,
                false => Breaks::Nothing,
            });
            let told = all_told(&batcher, (3, 2)).await;
            let batches = disk.lock().unwrap().batches.clone();
            for (item, answer) in told {
                let of = batches.iter().find(|it| it.contains(&item));
                let broke = of.expect("it was written").iter().any(broken);
                let wanted = match broke {
                    true if panics => None,
                    true => Some(Err(item)),
                    false => Some(Ok(item)),
                };
                assert_eq!(answer, wanted, "{item} of {batches:?}");
            }
            // it goes on: a turn of a write that panicked is free again
            for item in [7, 8, 9] {
                assert_eq!(batcher.submit(item).await, Some(Ok(item)));
            }
        });
    }
}

#[test]
fn who_goes_away_stops_nobody() {
    in_any_order(|| async {
        let (batcher, disk) = batcher(2, 1, |_| Breaks::Nothing);
        let gone = batcher.clone();
        let gone = shuttle::future::spawn(async move { gone.submit(900).await });
        let leaves = shuttle::future::spawn(async move {
            for _ in 0..any(6) {
                point();
            }
            gone.abort();
        });
        for (item, answer) in all_told(&batcher, (2, 2)).await {
            assert_eq!(answer, Some(Ok(item)));
        }
        leaves.await.expect("nobody called it off");
        let written = disk.lock().unwrap().batches.concat();
        assert!(written.iter().filter(|it| **it == 900).count() <= 1);
    });
}

#[test]
fn what_waits_together_is_written_together() {
    in_any_order(|| async {
        let gate = Arc::new(Semaphore::new(0));
        let (open, seen) = (gate.clone(), Arc::new(Mutex::new(Vec::new())));
        let written = seen.clone();
        let batcher = Batcher::start(100, 1, move |items: Vec<u32>| {
            written.lock().unwrap().push(items.len());
            let gate = gate.clone();
            async move {
                drop(gate.acquire_owned().await);
                items
            }
        });
        let first = batcher.clone();
        let first = shuttle::future::spawn(async move { first.submit(0).await });
        // the first batch is under way, and stays so
        while seen.lock().unwrap().is_empty() {
            shuttle::future::yield_now().await;
        }
        let mut rest: Vec<_> = (1..6).map(|it| Box::pin(batcher.submit(it))).collect();
        for it in &mut rest {
            // polled once, it is submitted
            let submitted = poll_fn(|cx| Poll::Ready(it.as_mut().poll(cx).is_pending()));
            assert!(submitted.await);
        }
        open.add_permits(1);
        assert_eq!(first.await.unwrap(), Some(0));
        for (item, it) in (1..).zip(rest) {
            assert_eq!(it.await, Some(item));
        }
        assert_eq!(*seen.lock().unwrap(), [1, 5]);
    });
}

#[test]
fn nobody_is_left_waiting_by_one_that_ends() {
    in_any_order(|| async {
        // its first write takes the gatherer with it: who submits later is told so, too
        let batcher = Batcher::<u32, u32>::start(1, 1, move |items: Vec<u32>| {
            if items[0] == 0 {
                resume_unwind(Box::new("the test says so"));
            }
            async move { items }
        });
        let tasks: Vec<_> = (0..4)
            .map(|item| {
                let batcher = batcher.clone();
                shuttle::future::spawn(async move { (item, batcher.submit(item).await) })
            })
            .collect();
        drop(batcher);
        for task in tasks {
            let (item, answer) = task.await.expect("nobody called it off");
            assert!(
                answer.is_none() || answer == Some(item),
                "{item}: {answer:?}"
            );
            assert!(item != 0 || answer.is_none(), "it wasn't written");
        }
    });
}
