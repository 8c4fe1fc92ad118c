//! What people change is noticed within a second, measured by the ledger's clock.

use super::*;

/// So often each change is made.
const TRIES: usize = 5;
/// The lane that people pause: one job at a time, one after the other.
const STREAM: &str = "stream";

/// From the change's commit to its effect, both by the ledger's clock. A second is promised; a busy
/// machine may delay some of the tries, and none by much.
fn within_a_second(what: &str, took: &[chrono::Duration]) {
    let took: Vec<i64> = took
        .iter()
        .map(chrono::Duration::num_milliseconds)
        .collect();
    println!("{what}: {took:?} ms");
    assert_eq!(took.len(), TRIES);
    assert!(took.iter().any(|it| *it < 1_000), "{what}: {took:?} ms");
    assert!(took.iter().all(|it| *it < 5_000), "{what}: {took:?} ms");
}

impl Case {
    /// When the newest change of this name was written down.
    async fn audited(&self, job: Option<JobId>, action: &str) -> Time {
        let audit = self.ledger.audit(job, 1).await;
        let audit = audit.expect("the ledger answers");
        assert_eq!(audit[0].action, action);
        audit[0].at
    }

    /// Pauses the lane, or lets it go on; when that was.
    async fn pause(&self, is: bool) -> Time {
        let at = self.ledger.now().await.expect("the ledger answers");
        let action = if is { "pause" } else { "resume" };
        let audit = Audit {
            actor: "test".to_owned(),
            action: action.to_owned(),
            job: None,
            detail: "because".to_owned(),
            at,
        };
        let pause = Pause {
            lane: STREAM.to_owned(),
            reason: "because".to_owned(),
            by: "test".to_owned(),
            at,
        };
        let pause = is.then_some(&pause);
        let paused = self.ledger.pause(STREAM, pause, &audit).await;
        paused.expect("a lane can be paused");
        self.audited(None, action).await
    }

    async fn runs(&self, lane: &str) -> bool {
        let running = self.ledger.running(lane).await;
        !running.expect("the ledger answers").is_empty()
    }

    /// When the attempts began of the lane's jobs that have ended, in order.
    async fn begun(&self) -> Vec<Time> {
        let filter = Filter {
            lane: Some(STREAM.to_owned()),
            states: vec![State::Completed],
            limit: 10_000,
            ..Filter::default()
        };
        let jobs = self.ledger.jobs(&filter).await.expect("the ledger answers");
        let mut begun = Vec::new();
        for job in jobs {
            let attempts = self.ledger.attempts(job.id).await;
            let attempts = attempts.expect("the ledger answers");
            begun.extend(attempts.iter().map(|it| it.began_at));
        }
        begun.sort();
        begun
    }
}

/// A lane that is busy all the time is paused and goes on; some that wait in it are called off.
async fn pauses_and_cancels_of_waiting_jobs(case: &mut Case, host: &Host, daemon: &Daemon) {
    const JOBS: usize = 400;
    let mut envelopes = case.test_jobs(JOBS, &json!({"sleep_ms": 50}));
    for it in &mut envelopes {
        it["lane"] = STREAM.into();
    }
    let ids = accept_directly(&*case.ledger, &rules(host), &envelopes).await;
    let ids = ids.expect("the ledger takes them");
    let noticed = async |changes: usize| {
        wait::until("the change is noticed", ENDED, async || {
            let said = daemon.stderr();
            changes
                == said
                    .lines()
                    .filter(|it| it.contains("lanes paused"))
                    .count()
        })
        .await;
    };
    let (mut changes, mut cancelled) = (Vec::new(), Vec::new());
    for n in 0..TRIES {
        wait::until("the lane is busy", ENDED, async || case.runs(STREAM).await).await;
        let paused = case.pause(true).await;
        noticed(2 * n + 1).await;
        wait::until("what ran has ended", ENDED, async || {
            !case.runs(STREAM).await
        })
        .await;
        // the claim of the next one may be under way; the one after it waits
        let mut waiting = Vec::new();
        for id in &ids {
            if waiting.len() < 2 && case.one(*id).await.state == State::Ready {
                waiting.push(*id);
            }
        }
        let next = waiting.get(1).copied();
        let next = next.expect("enough jobs for all tries");
        let state = operate::cancel(&*case.ledger, next, &by()).await;
        assert_eq!(state.expect("it can be cancelled"), State::Cancelled);
        cancelled.push(next);
        changes.push((paused, case.pause(false).await));
        noticed(2 * n + 2).await;
    }
    let last = changes.last().expect("there were some").1;
    wait::until("the lane goes on", ENDED, async || {
        case.begun().await.last().is_some_and(|it| last < *it)
    })
    .await;
    let begun = case.begun().await;
    let late = |(paused, resumed): &(Time, Time)| {
        let late = begun.iter().rfind(|it| *it < resumed);
        late.map_or(chrono::Duration::zero(), |it| *it - *paused)
    };
    let idle = |(_, resumed): &(Time, Time)| {
        let first = begun.iter().find(|it| resumed <= *it);
        *first.expect("it went on") - *resumed
    };
    within_a_second("a pause", &changes.iter().map(late).collect::<Vec<_>>());
    within_a_second("a resume", &changes.iter().map(idle).collect::<Vec<_>>());
    for id in cancelled {
        let attempts = case.ledger.attempts(id).await;
        assert_eq!(attempts.expect("the ledger answers"), [], "{id}");
        assert_eq!(case.one(id).await.state, State::Cancelled);
    }
}

async fn cancels_of_running_jobs(case: &mut Case, host: &Host, payload: Value) {
    let mut took = Vec::new();
    for _ in 0..TRIES {
        let id = case.send_one(host, payload.clone()).await;
        case.until_state(id, State::Running).await;
        let state = operate::cancel(&*case.ledger, id, &by()).await;
        assert_eq!(state.expect("it can be cancelled"), State::Running);
        let asked = case.audited(Some(id), "cancel").await;
        case.until_state(id, State::Cancelled).await;
        let attempts = case.ledger.attempts(id).await;
        took.push(attempts.expect("the ledger answers")[0].ended_at - asked);
    }
    within_a_second(&format!("a cancel of {payload}"), &took);
}

async fn revives(case: &mut Case, host: &Host) {
    let payload = json!({"fail_times": 1, "class": "permanent"});
    let mut took = Vec::new();
    for _ in 0..TRIES {
        let id = case.send_one(host, payload.clone()).await;
        case.until_state(id, State::Dead).await;
        let revived = operate::revive(&*case.ledger, id, None, &by()).await;
        revived.expect("it can be revived");
        let asked = case.audited(Some(id), "revive").await;
        let attempts = async || {
            let attempts = case.ledger.attempts(id).await;
            attempts.expect("the ledger answers")
        };
        wait::until("it has run again", ENDED, async || {
            attempts().await.len() == 2
        })
        .await;
        took.push(attempts().await[1].began_at - asked);
    }
    within_a_second("a revive", &took);
}

async fn releases(case: &mut Case, host: &Host, quarantined: &[JobId]) {
    let mut took = Vec::new();
    for entry in quarantined {
        let mended = case.job("test.job", json!({})).to_string();
        let bytes = Some(mended.as_bytes());
        let rules = rules(host);
        let id = operate::release_quarantined(&*case.ledger, &rules, *entry, bytes, &by()).await;
        let id = id.expect("it can be accepted now");
        case.until_state(id, State::Completed).await;
        let attempts = case.ledger.attempts(id).await;
        let attempts = attempts.expect("the ledger answers");
        took.push(attempts[0].began_at - case.one(id).await.created_at);
    }
    within_a_second("a release from quarantine", &took);
}

async fn what_people_change_is_noticed(redis_is_away: bool) {
    let mut case = Case::new().await;
    case.stores.more = format!("[lanes.{STREAM}]\nconcurrency = 1\n");
    let host = case.host();
    let daemon = host.run();
    host.queue_in_use(&daemon).await;
    for n in 0..TRIES {
        let entry = format!("{n}: no envelope");
        case.redis.cli(&["RPUSH", "presswork:inbox", &entry]);
    }
    let quarantined = async || -> Vec<JobId> {
        let entries = case.ledger.quarantined(None, 100).await;
        let entries = entries.expect("the ledger answers");
        entries.iter().map(|it| it.id).collect()
    };
    wait::until("they are in quarantine", ENDED, async || {
        quarantined().await.len() == TRIES
    })
    .await;
    let quarantined = quarantined().await;
    if redis_is_away {
        case.redis.kill9();
        wait::until("dispatch goes on from the ledger", ENDED, async || {
            let told = host.get("/readyz").await;
            told.is_ok_and(|it| it.text.contains("\"usable\":false"))
        })
        .await;
    }
    pauses_and_cancels_of_waiting_jobs(&mut case, &host, &daemon).await;
    cancels_of_running_jobs(&mut case, &host, json!({"sleep_ms": 50_000})).await;
    let deaf = json!({"sleep_ms": 50_000, "ignore_cancel": true});
    cancels_of_running_jobs(&mut case, &host, deaf).await;
    revives(&mut case, &host).await;
    releases(&mut case, &host, &quarantined).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_change_is_noticed_within_a_second() {
    what_people_change_is_noticed(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_change_is_noticed_within_a_second_while_redis_is_away() {
    what_people_change_is_noticed(true).await;
}
