//! What every queue promises, whatever it is made of.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use presswork::fair::STEP;
use presswork::job::Priority::{High, Low, Normal};
use presswork::ledger::Hint;
use presswork::queue::memory::MemoryQueue;
use presswork::queue::{Queue, Woken};
use uuid::Uuid;

use super::{LANE, NOW, hint, hints, is_stale, job, jobs};

const WINDOW: u32 = 100;

/// Each case is a test of the queue in memory and one of the queue in Redis.
macro_rules! cases {
    ($($name:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&super::MemoryQueue::default()).await;
            })+
        }
        mod redis {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&crate::open_shared()).await;
            })+
        }
    };
}

cases! {
    gives_in_the_order_offered,
    gives_high_priority_first,
    a_large_tenant_does_not_starve_a_small_one,
    turns_start_anew_when_the_window_is_empty,
    evicts_what_is_last,
    evicts_low_for_high,
    evicted_jobs_keep_their_tenants_turn,
    shares_are_by_weight_within_two_jobs,
    a_new_flow_waits_for_one_turn_of_each_other,
    a_lifted_job_moves_up_and_takes_turns,
    an_account_takes_turns_of_its_own,
    never_holds_more_than_the_concurrency,
    other_lanes_have_slots_of_their_own,
    every_call_under_another_generation_is_stale,
    reset_empties_and_holds,
    reset_does_nothing_under_the_same_generation,
    release_frees_slots_only,
    a_repeated_offer_changes_nothing,
    takes_and_releases_thousands,
    a_wake_reaches_who_waits,
    a_wake_between_waits_is_kept,
    tells_its_server,
}

async fn fill(queue: &impl Queue, hints: &[Hint]) -> u64 {
    queue.reset(NOW, LANE, &[]).await.unwrap();
    queue.offer(NOW, LANE, hints, WINDOW).await.unwrap()
}

async fn take(queue: &impl Queue, most: u32) -> Vec<presswork::job::JobId> {
    let taken = queue.take(NOW, LANE, Uuid::nil(), most, None).await;
    taken.unwrap().ids
}

async fn gives_in_the_order_offered(queue: &impl Queue) {
    // Against the order of their ids.
    let offered = hints([5, 3, 9, 1], Normal, "a");
    assert_eq!(fill(queue, &offered).await, 4);
    let taken = queue.take(NOW, LANE, Uuid::nil(), 2, None).await.unwrap();
    assert_eq!(taken.ids, jobs([5, 3]));
    assert_eq!((taken.ready, taken.held), (2, 2));
    assert_eq!(take(queue, 0).await, jobs([]));
    assert_eq!(take(queue, 9).await, jobs([9, 1]));
    assert_eq!(take(queue, 9).await, jobs([]));
}

async fn gives_high_priority_first(queue: &impl Queue) {
    let mut offered = hints([1, 2], Low, "a");
    offered.extend(hints([3, 4], Normal, "b"));
    offered.extend(hints([5], High, "a"));
    fill(queue, &offered).await;
    assert_eq!(take(queue, 2).await, jobs([5, 3]));
    let late = hints([6], High, "b");
    queue.offer(NOW, LANE, &late, WINDOW).await.unwrap();
    assert_eq!(take(queue, 9).await, jobs([6, 4, 1, 2]));
}

async fn a_large_tenant_does_not_starve_a_small_one(queue: &impl Queue) {
    queue.reset(NOW, LANE, &[]).await.unwrap();
    let large = hints(0..3_000, Normal, "large");
    queue.offer(NOW, LANE, &large, 10_000).await.unwrap();
    assert_eq!(take(queue, 10).await, jobs(0..10));
    let small = hints(5_000..5_003, Normal, "small");
    queue.offer(NOW, LANE, &small, 10_000).await.unwrap();
    let next = take(queue, 6).await;
    let small = next.iter().filter(|it| job(5_000) <= **it);
    assert_eq!(small.count(), 3, "three of the next six: {next:?}");
    // Who waited has saved nothing up.
    let late = hints(5_010..5_020, Normal, "small");
    queue.offer(NOW, LANE, &late, 10_000).await.unwrap();
    let next = take(queue, 10).await;
    let small = next.iter().filter(|it| job(5_000) <= **it).count();
    assert!((4..=6).contains(&small), "about half: {next:?}");
}

async fn turns_start_anew_when_the_window_is_empty(queue: &impl Queue) {
    fill(queue, &hints(0..50, Normal, "a")).await;
    assert_eq!(take(queue, 50).await.len(), 50);
    let mut offered = hints([100, 101], Normal, "a");
    offered.extend(hints([200, 201], Normal, "b"));
    queue.offer(NOW, LANE, &offered, WINDOW).await.unwrap();
    assert_eq!(take(queue, 4).await, jobs([100, 200, 101, 201]));
}

async fn evicts_what_is_last(queue: &impl Queue) {
    queue.reset(NOW, LANE, &[]).await.unwrap();
    let many = hints(0..2_500, Normal, "a");
    let offer = |window| queue.offer(NOW, LANE, &many, window);
    assert_eq!(offer(1_500).await.unwrap(), 1_500);
    assert_eq!(queue.size(NOW, LANE).await.unwrap(), 1_500);
    // A smaller window cuts what is there, also when nothing is offered.
    assert_eq!(queue.offer(NOW, LANE, &[], 20).await.unwrap(), 20);
    assert_eq!(take(queue, 99).await, jobs(0..20));
    assert_eq!(offer(0).await.unwrap(), 0);
}

async fn evicts_low_for_high(queue: &impl Queue) {
    let mut offered = hints(0..60, Low, "a");
    offered.extend(hints(100..140, Normal, "a"));
    assert_eq!(fill(queue, &offered).await, 100);
    let high = hints(200..270, High, "b");
    assert_eq!(queue.offer(NOW, LANE, &high, WINDOW).await.unwrap(), 100);
    let mut expected = jobs(200..270);
    expected.extend(jobs(100..130));
    assert_eq!(take(queue, 999).await, expected);
}

async fn evicted_jobs_keep_their_tenants_turn(queue: &impl Queue) {
    fill(queue, &hints(0..10, Normal, "a")).await;
    // Offered again and again, and there is never room for them.
    for _ in 0..20 {
        let more = hints(10..60, Normal, "a");
        assert_eq!(queue.offer(NOW, LANE, &more, 10).await.unwrap(), 10);
    }
    let mut both = hints(100..120, Normal, "b");
    both.extend(hints([10, 11], Normal, "a"));
    queue.offer(NOW, LANE, &both, 40).await.unwrap();
    let order = take(queue, 99).await;
    let place = |n| order.iter().position(|it| *it == job(n)).unwrap();
    assert!(
        place(109) < place(10) && place(11) < place(112),
        "{order:?}"
    );
}

/// Hints of a flow of this weight.
fn weighing(
    range: impl IntoIterator<Item = u128>,
    priority: presswork::job::Priority,
    tenant: &str,
    weight: u64,
) -> Vec<Hint> {
    let mut hints = hints(range, priority, tenant);
    for it in &mut hints {
        it.step = (STEP << priority.rank()) / weight;
    }
    hints
}

async fn shares_are_by_weight_within_two_jobs(queue: &impl Queue) {
    queue.reset(NOW, LANE, &[]).await.unwrap();
    let weights = [1, 2, 5];
    for (n, weight) in (0..).zip(weights) {
        let first = n * 1_000;
        let all = weighing(first..first + 900, Normal, &format!("of-{weight}"), weight);
        queue.offer(NOW, LANE, &all, 10_000).await.unwrap();
    }
    // whoever looks whenever, each has had its share of what was served, give or take less than two jobs
    let mut had = [0_u64; 3];
    for round in 1..=80 {
        for id in take(queue, 10).await {
            had[(id.0.as_u128() / 1_000) as usize] += 1;
        }
        for (had, weight) in had.into_iter().zip(weights) {
            let share = round as f64 * 10.0 * weight as f64 / 8.0;
            assert!((had as f64 - share).abs() < 2.0, "{round}: {had}, {share}");
        }
    }
}

async fn a_new_flow_waits_for_one_turn_of_each_other(queue: &impl Queue) {
    queue.reset(NOW, LANE, &[]).await.unwrap();
    // an import, some others that wait as well, and a heavy one
    let import = hints(0..5_000, Normal, "import");
    queue.offer(NOW, LANE, &import, 10_000).await.unwrap();
    for n in 0..6 {
        let first = 10_000 + 100 * n;
        let other = weighing(
            first..first + 100,
            Normal,
            &format!("other-{n}"),
            1 + n as u64,
        );
        queue.offer(NOW, LANE, &other, 10_000).await.unwrap();
    }
    for n in 0..20_u128 {
        take(queue, 7).await;
        let single = hints([90_000 + n], Normal, &format!("single-{n}"));
        queue.offer(NOW, LANE, &single, 10_000).await.unwrap();
        let next = take(queue, 8).await;
        let before = next.iter().position(|it| *it == single[0].id);
        assert!(before.is_some_and(|it| it <= 7), "{n}: {next:?}");
    }
}

async fn a_lifted_job_moves_up_and_takes_turns(queue: &impl Queue) {
    queue.reset(NOW, LANE, &[]).await.unwrap();
    let high = weighing(0..400, High, "h", 1);
    let low = weighing(1_000..1_010, Low, "l", 1);
    queue.offer(NOW, LANE, &high, WINDOW * 9).await.unwrap();
    queue.offer(NOW, LANE, &low, WINDOW * 9).await.unwrap();
    assert_eq!(take(queue, 40).await, jobs(0..40), "high goes first");
    // as long as it isn't lifted; then once in five, wherever it was offered before
    let lifted = low.into_iter().map(|it| Hint { lifted: true, ..it });
    let mut lifted: Vec<Hint> = lifted.collect();
    lifted.extend(
        weighing(1_010..1_020, Low, "l", 1)
            .into_iter()
            .map(|it| Hint { lifted: true, ..it }),
    );
    for _ in 0..3 {
        let size = queue.offer(NOW, LANE, &lifted, WINDOW * 9).await.unwrap();
        assert_eq!(size, 380, "each is there once");
    }
    let next = take(queue, 100).await;
    let low: Vec<_> = next
        .iter()
        .filter(|it| job(1_000) <= **it)
        .copied()
        .collect();
    assert_eq!(low, jobs(1_000..1_020), "in their order: {next:?}");
    for (n, id) in low.iter().enumerate() {
        let place = next.iter().position(|it| it == id).unwrap();
        assert!(place <= 5 * n + 1, "{n} is at {place}");
    }
}

async fn an_account_takes_turns_of_its_own(queue: &impl Queue) {
    queue.reset(NOW, LANE, &[]).await.unwrap();
    let of = |range: std::ops::Range<u128>, account: &str| {
        let of = hints(range, Normal, "a").into_iter().map(|it| Hint {
            account: account.into(),
            ..it
        });
        of.collect::<Vec<_>>()
    };
    queue
        .offer(NOW, LANE, &of(0..50, "ann"), WINDOW)
        .await
        .unwrap();
    queue
        .offer(NOW, LANE, &of(100..103, "ben"), WINDOW)
        .await
        .unwrap();
    queue
        .offer(NOW, LANE, &of(200..203, ""), WINDOW)
        .await
        .unwrap();
    let expected = [0, 100, 200, 1, 101, 201, 2, 102, 202, 3, 4];
    assert_eq!(take(queue, 11).await, jobs(expected));
}

async fn never_holds_more_than_the_concurrency(queue: &impl Queue) {
    fill(queue, &hints(0..50, Normal, "a")).await;
    let runs = [Uuid::from_u128(1), Uuid::from_u128(2)];
    let take = |run| queue.take(NOW, LANE, run, 3, Some(5));
    assert_eq!(take(runs[0]).await.unwrap().ids, jobs(0..3));
    let second = take(runs[1]).await.unwrap();
    assert_eq!(second.ids, jobs(3..5));
    assert_eq!((second.ready, second.held), (45, 5));
    assert_eq!(take(runs[0]).await.unwrap().ids, jobs([]));
    let mut held = queue.held(NOW, LANE).await.unwrap();
    held.sort();
    let whose = |n: u128| if n < 3 { runs[0] } else { runs[1] };
    let expected: Vec<_> = (0..5).map(|n| (job(n), whose(n))).collect();
    assert_eq!(held, expected);
    queue.release(NOW, LANE, &jobs([1, 4])).await.unwrap();
    assert_eq!(take(runs[1]).await.unwrap().ids, jobs([5, 6]));
    // A lower bound than what is held already gives nothing, and takes nothing away.
    let lower = queue.take(NOW, LANE, runs[0], 9, Some(2)).await.unwrap();
    assert_eq!((lower.ids.len(), lower.held), (0, 5));
}

async fn other_lanes_have_slots_of_their_own(queue: &impl Queue) {
    fill(queue, &hints(0..5, Normal, "a")).await;
    assert!(is_stale(queue.size(NOW, "images").await));
    queue.reset(NOW + 1, "images", &[]).await.unwrap();
    assert_eq!(queue.size(NOW + 1, "images").await.unwrap(), 0);
    let same = hints([0], Normal, "a");
    queue.offer(NOW + 1, "images", &same, 9).await.unwrap();
    assert_eq!(take(queue, 5).await.len(), 5);
    assert_eq!(queue.size(NOW + 1, "images").await.unwrap(), 1);
    assert!(queue.held(NOW + 1, "images").await.unwrap().is_empty());
}

async fn every_call_under_another_generation_is_stale(queue: &impl Queue) {
    let run = Uuid::nil();
    let all_stale = async |generation| {
        let some = hints([1], Normal, "a");
        assert!(is_stale(queue.offer(generation, LANE, &some, 9).await));
        assert!(is_stale(queue.offer(generation, LANE, &[], 9).await));
        assert!(is_stale(queue.take(generation, LANE, run, 9, None).await));
        assert!(is_stale(queue.take(generation, LANE, run, 0, None).await));
        let ids = jobs([1]);
        assert!(is_stale(queue.release(generation, LANE, &ids).await));
        assert!(is_stale(queue.release(generation, LANE, &[]).await));
        assert!(is_stale(queue.held(generation, LANE).await));
        assert!(is_stale(queue.size(generation, LANE).await));
    };
    all_stale(NOW).await;
    fill(queue, &hints([1], Normal, "a")).await;
    all_stale(NOW - 1).await;
    all_stale(NOW + 1).await;
    assert_eq!(take(queue, 9).await, jobs([1]));
}

async fn reset_empties_and_holds(queue: &impl Queue) {
    fill(queue, &hints(0..30, Normal, "a")).await;
    assert_eq!(take(queue, 5).await.len(), 5);
    let run = Uuid::from_u128(3);
    let held = vec![(job(2), run), (job(40), run)];
    assert!(queue.reset(NOW + 1, LANE, &held).await.unwrap());
    assert_eq!(queue.size(NOW + 1, LANE).await.unwrap(), 0);
    let mut now = queue.held(NOW + 1, LANE).await.unwrap();
    now.sort();
    assert_eq!(now, held);
    let again = hints([1, 2, 40], Normal, "a");
    let size = queue.offer(NOW + 1, LANE, &again, 9).await.unwrap();
    assert_eq!(size, 1, "what is held isn't ready");
    let full = queue.take(NOW + 1, LANE, run, 9, Some(2)).await.unwrap();
    assert_eq!((full.ids.len(), full.ready, full.held), (0, 1, 2));
}

async fn reset_does_nothing_under_the_same_generation(queue: &impl Queue) {
    assert!(queue.reset(NOW, LANE, &[]).await.unwrap());
    fill(queue, &hints(0..3, Normal, "a")).await;
    assert_eq!(take(queue, 1).await, jobs([0]));
    let other = [(job(9), Uuid::nil())];
    assert!(!queue.reset(NOW, LANE, &other).await.unwrap());
    let held = queue.held(NOW, LANE).await.unwrap();
    assert_eq!(held, [(job(0), Uuid::nil())]);
    assert_eq!(take(queue, 9).await, jobs([1, 2]));
}

async fn release_frees_slots_only(queue: &impl Queue) {
    fill(queue, &hints(0..4, Normal, "a")).await;
    assert_eq!(take(queue, 2).await, jobs([0, 1]));
    // One that is held, one that is ready and stays so, one that isn't there; and again.
    for _ in 0..2 {
        queue.release(NOW, LANE, &jobs([0, 3, 77])).await.unwrap();
    }
    let held = queue.held(NOW, LANE).await.unwrap();
    assert_eq!(held, [(job(1), Uuid::nil())]);
    assert_eq!(queue.size(NOW, LANE).await.unwrap(), 2);
    // What was freed may come again: a retry.
    let again = hints([0], Normal, "a");
    assert_eq!(queue.offer(NOW, LANE, &again, 9).await.unwrap(), 3);
    assert_eq!(take(queue, 9).await, jobs([2, 3, 0]));
}

async fn a_repeated_offer_changes_nothing(queue: &impl Queue) {
    let offered = hints(0..4, Normal, "a");
    fill(queue, &offered).await;
    assert_eq!(take(queue, 1).await, jobs([0]));
    // Held, ready, in another order and priority, and twice in one call.
    let mut again = hints([3, 2, 1, 0], High, "a");
    again.extend(hints([8, 8], Normal, "a"));
    assert_eq!(queue.offer(NOW, LANE, &again, WINDOW).await.unwrap(), 4);
    assert_eq!(take(queue, 9).await, jobs([1, 2, 3, 8]));
}

async fn takes_and_releases_thousands(queue: &impl Queue) {
    queue.reset(NOW, LANE, &[]).await.unwrap();
    let many = hints(0..6_001, Normal, "a");
    let size = queue.offer(NOW, LANE, &many, 10_000).await.unwrap();
    assert_eq!(size, 6_001);
    let taken = take(queue, 10_000).await;
    assert_eq!(taken, jobs(0..6_001));
    let held = queue.held(NOW, LANE).await.unwrap();
    assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), 6_001);
    assert!(queue.reset(NOW + 1, LANE, &held).await.unwrap());
    let carried = queue.held(NOW + 1, LANE).await.unwrap();
    assert_eq!(carried.len(), 6_001);
    queue.release(NOW + 1, LANE, &taken).await.unwrap();
    assert!(queue.held(NOW + 1, LANE).await.unwrap().is_empty());
}

/// Less than the second after which a queue may return without a reason.
const PROMPT: Duration = Duration::from_millis(900);

/// The best of five: a busy machine may stall once, a wake that isn't there is never prompt.
async fn promptly(what: &str, mut act: impl AsyncFnMut()) {
    for _ in 0..5 {
        if tokio::time::timeout(PROMPT, act()).await.is_ok() {
            return;
        }
    }
    panic!("{what}: never within {PROMPT:?}");
}

async fn a_wake_reaches_who_waits(queue: &impl Queue) {
    promptly("all are woken", async || {
        let lanes = ["posts".to_owned()];
        let (_, _, wake) =
            futures_util::future::join3(queue.woken(), queue.woken(), queue.wake(&lanes)).await;
        wake.unwrap();
    })
    .await;
}

async fn a_wake_between_waits_is_kept(queue: &impl Queue) {
    promptly("woken by what came before", async || {
        // what rang before is no reason of this one
        let _ = tokio::time::timeout(Duration::from_millis(1), queue.woken()).await;
        for lane in ["posts", "films"] {
            queue.wake(&[lane.to_owned()]).await.unwrap();
        }
        let lanes = ["films", "posts"].map(str::to_owned);
        match queue.woken().await {
            // the channel was only just there: once more
            Woken::All => std::future::pending().await,
            woken => assert_eq!(woken, Woken::Lanes(lanes.into())),
        }
    })
    .await;
}

async fn tells_its_server(queue: &impl Queue) {
    let server = queue.server().await.unwrap();
    assert!(16 <= server.len(), "{server}");
    assert_eq!(queue.server().await.unwrap(), server);
    assert!(["redis", "memory"].contains(&queue.name()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_get_each_job_once() {
    for queue in [
        Arc::new(MemoryQueue::default()) as Arc<dyn Queue>,
        Arc::new(super::open_shared()),
    ] {
        queue.reset(NOW, LANE, &[]).await.unwrap();
        let offered: Vec<_> = (0..2_000)
            .map(|n| {
                hint(
                    n,
                    [High, Normal, Low][n as usize % 3],
                    ["a", "b"][n as usize % 2],
                )
            })
            .collect();
        queue.offer(NOW, LANE, &offered, 5_000).await.unwrap();
        let mut takers = tokio::task::JoinSet::new();
        for run in 0..8 {
            let queue = queue.clone();
            takers.spawn(async move {
                let mut got = Vec::new();
                loop {
                    let run = Uuid::from_u128(run);
                    let taken = queue.take(NOW, LANE, run, 7, Some(30)).await.unwrap();
                    assert!(taken.held <= 30);
                    queue.release(NOW, LANE, &taken.ids).await.unwrap();
                    if taken.ids.is_empty() && taken.ready == 0 {
                        return got;
                    }
                    got.extend(taken.ids);
                }
            });
        }
        let mut all: Vec<_> = takers.join_all().await.into_iter().flatten().collect();
        all.sort();
        assert_eq!(all, jobs(0..2_000));
    }
}
