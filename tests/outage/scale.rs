//! Several daemons on the same stores: they share a lane's slots, and who comes or goes changes nothing
//! but how fast it goes.

use std::collections::BTreeMap;
use std::sync::Mutex;

use presswork::ledger::Attempt;
use uuid::Uuid;

use super::*;

/// Jobs of the lane that run at once, on all hosts.
const SLOTS: usize = 6;
/// Jobs of each part of the test.
const JOBS: usize = 240;

async fn attempts(case: &Case, ids: &[JobId]) -> Vec<Attempt> {
    let mut all = Vec::new();
    for id in ids {
        let attempts = case.ledger.attempts(*id).await;
        all.extend(attempts.expect("the ledger answers"));
    }
    all
}

/// How many of them ran at once, at most.
fn at_once(attempts: &[Attempt]) -> usize {
    let began = attempts.iter().map(|it| (it.began_at, 1));
    let ended = attempts.iter().map(|it| (it.ended_at, -1));
    let mut turns: Vec<(Time, isize)> = began.chain(ended).collect();
    // where one ends as another begins, the end comes first
    turns.sort();
    let running = turns.iter().scan(0, |running, (_, turn)| {
        *running += turn;
        Some(*running)
    });
    usize::try_from(running.max().unwrap_or(0)).expect("more began than ended")
}

/// Jobs that the daemons have to run, written down at once.
pub async fn backlog(case: &mut Case, host: &Host) -> Vec<JobId> {
    let envelopes = case.test_jobs(JOBS, &json!({"sleep_ms": 100}));
    let accepted = accept_directly(&*case.ledger, &rules(host), &envelopes).await;
    accepted.expect("the ledger takes them")
}

/// Who ran how many of the lane's jobs, as far as they were seen running, until all have ended.
pub async fn shares(case: &Case) -> BTreeMap<Uuid, usize> {
    // an attempt doesn't say who ran it, a running job does
    let seen: Mutex<BTreeMap<JobId, Uuid>> = Mutex::default();
    wait::until("all have ended", ENDED, async || {
        let running = case.ledger.running("default").await;
        let running = running.expect("the ledger answers");
        seen.lock().unwrap().extend(running);
        let counts = case.ledger.counts().await.expect("the ledger answers");
        counts.keys().all(|(_, state)| state.is_terminal())
    })
    .await;
    let mut shares: BTreeMap<Uuid, usize> = BTreeMap::new();
    for run in seen.into_inner().unwrap().values() {
        *shares.entry(*run).or_default() += 1;
    }
    println!("jobs of the lane, by who ran them: {shares:?}");
    shares
}

/// Each has some, and half of what would be even at least.
pub fn assert_fair(shares: &BTreeMap<Uuid, usize>, daemons: usize) {
    assert_eq!(shares.len(), daemons, "each has some: {shares:?}");
    let least = shares.values().sum::<usize>() / daemons / 2;
    assert!(
        shares.values().all(|it| least <= *it),
        "each has its share: {shares:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn three_daemons_share_a_lane_and_who_comes_or_goes_changes_only_its_speed() {
    let mut case = Case::new().await;
    case.stores.more = format!("[lanes.default]\nconcurrency = {SLOTS}\n");
    let hosts = [case.host(), case.host(), case.host()];
    let mut daemons = Vec::new();
    for host in &hosts {
        let daemon = host.run();
        host.queue_in_use(&daemon).await;
        daemons.push(daemon);
    }
    let mut ids = backlog(&mut case, &hosts[0]).await;
    let shares = shares(&case).await;
    assert_fair(&shares, hosts.len());

    // one dies amid its jobs, one stops, one comes
    ids.extend(backlog(&mut case, &hosts[0]).await);
    let gone = daemons.remove(0);
    wait::until("all slots are used", ENDED, async || {
        let running = case.ledger.running("default").await;
        running.expect("the ledger answers").len() == SLOTS
    })
    .await;
    gone.kill9();
    daemons.remove(0).signal("TERM");
    let late = case.host();
    daemons.push(late.run());
    case.all_well().await;
    let all = attempts(&case, &ids).await;
    assert!(at_once(&all) <= SLOTS, "{} at once", at_once(&all));
}
