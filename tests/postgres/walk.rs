//! Each method of the door once against a real server: every statement is at least sound SQL.

use presswork::effect::{Effect, EffectClass, EffectState, Evidence, Receipt};
use presswork::job::Progress;
use presswork::ledger::{Audit, Conclusion, Fence, Filter, Pause, Quarantined, Reason};
use presswork::outcome::Failure;

use super::*;

const LEASE: Duration = Duration::from_secs(60);

fn audit(action: &str, job: Option<JobId>) -> Audit {
    Audit {
        actor: "somebody".into(),
        action: action.into(),
        job,
        detail: "a\0reason".into(),
        at: presswork::clock::Time::UNIX_EPOCH,
    }
}

async fn claimed(ledger: &Postgres, claim: &Claim) -> presswork::job::Job {
    let jobs = [new_job(None)];
    ledger.accept(&jobs).await.unwrap();
    let mut claimed = ledger.claim(claim, &[jobs[0].id]).await.unwrap();
    claimed.pop().expect("nobody else claims it")
}

fn fence(job: &presswork::job::Job) -> Fence {
    Fence {
        job: job.id,
        revision: job.revision,
        token: job.token.unwrap(),
        run: job.run.unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_is_permitted_once_and_under_the_lease_only() {
    let (ledger, _) = ledger().await;
    let claim = begin(&ledger).await;
    let job = claimed(&ledger, &claim).await;
    let lease = fence(&job);
    let other = Fence {
        token: Uuid::new_v4(),
        ..lease
    };
    let effect = Effect {
        intent: "i".into(),
        keep: serde_json::json!({"key": "k\0"}),
        ..Effect::new((job.id, 0), ("publish", 0), "a", "x", EffectClass::A)
    };
    assert!(ledger.intend(&other, &effect).await.unwrap().is_none());
    let (there, _) = ledger.intend(&lease, &effect).await.unwrap().unwrap();
    assert_eq!(there, effect);
    assert!(ledger.intend(&lease, &effect).await.unwrap().is_some());

    let from = (EffectState::Intended, 0);
    let permit = |fence: Fence, budget| {
        let (ledger, id) = (ledger.clone(), effect.id);
        async move { ledger.permit(&fence, id, from, budget, None).await.unwrap() }
    };
    assert!(!permit(other, Duration::ZERO).await, "another lease");
    assert!(
        !permit(lease, LEASE * 2).await,
        "not enough of the lease left"
    );
    let all = futures_util::future::join_all((0..8).map(|_| permit(lease, Duration::ZERO))).await;
    assert_eq!(all.iter().filter(|it| **it).count(), 1, "single use");

    let at = ledger.now().await.unwrap();
    let conclusion = Conclusion {
        to: EffectState::Confirmed,
        receipt: Some(Receipt {
            remote_id: Some("1".into()),
            url: None,
            at,
            detail: serde_json::Value::Null,
        }),
        evidence: Evidence::new(at, "201\0".into()),
        look_in: None,
    };
    assert!(!ledger.conclude(effect.id, 2, &conclusion).await.unwrap());
    assert!(ledger.conclude(effect.id, 1, &conclusion).await.unwrap());
    assert!(!ledger.conclude(effect.id, 1, &conclusion).await.unwrap());
    let word = audit("resolve", None);
    let decide = |from| ledger.decide(effect.id, from, &conclusion, Some(&word));
    assert!(!decide((EffectState::Unknown, 1)).await.unwrap());
    assert!(!decide((EffectState::Confirmed, 2)).await.unwrap());
    assert!(decide((EffectState::Confirmed, 1)).await.unwrap());
    ledger
        .witness(effect.id, &conclusion.evidence)
        .await
        .unwrap();
    let effects = ledger.effects(job.id).await.unwrap();
    assert_eq!(effects.len(), 1);
    assert_eq!((effects[0].sends, effects[0].evidence.len()), (1, 3));
    assert_eq!(effects[0].permit_run, job.run);
    let said = ledger.audit(Some(job.id), 10).await.unwrap();
    assert_eq!(said[0].action, "resolve");
    assert_eq!(said[0].detail, "a\u{fffd}reason");

    assert!(ledger.record_step(&lease, "s", "1").await.unwrap());
    assert!(ledger.record_step(&lease, "s", "2").await.unwrap());
    assert!(!ledger.record_step(&other, "t", "1").await.unwrap());
    let step = ledger.step(job.id, 0, "s").await.unwrap();
    assert_eq!(step.as_deref(), Some("1"), "the first stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_beats_is_missed_and_ends() {
    let (ledger, url) = ledger().await;
    let claim = begin(&ledger).await;
    let job = claimed(&ledger, &claim).await;
    let beat = |jobs: Vec<JobId>| {
        let ledger = ledger.clone();
        async move { ledger.beat(claim.run, &jobs, LEASE).await.unwrap() }
    };
    let lost = || async { ledger.lost(10).await.unwrap().len() };
    assert!(beat(vec![]).await.is_some());
    assert_eq!(lost().await, 0, "the list may be older than the claim");
    assert!(beat(vec![job.id]).await.is_some());
    assert_eq!(lost().await, 0);
    assert!(beat(vec![]).await.is_some());
    assert_eq!(lost().await, 1);
    assert_eq!(ledger.live_runs().await.unwrap().len(), 1);
    assert_eq!(ledger.running("test").await.unwrap(), [(job.id, claim.run)]);
    let token = job.token.unwrap();
    let progress = Progress {
        percent: 50,
        message: "half".into(),
    };
    let batch = [(job.id, token, progress.clone())];
    ledger.progress(&batch).await.unwrap();
    let seen = ledger.job(job.id).await.unwrap().unwrap();
    assert_eq!((seen.progress, seen.version), (Some(progress), job.version));

    let cancel = Transition {
        cancel: true,
        ..to(State::Running)
    };
    let ask = settlement(job.id, Guard::Version(job.version), cancel);
    assert_eq!(ledger.settle(&[ask]).await.unwrap(), [Settled::Done]);
    let lane = Pause {
        lane: "test".into(),
        reason: "r".into(),
        by: "me".into(),
        at: ledger.now().await.unwrap(),
    };
    let word = audit("pause", None);
    ledger.pause("test", Some(&lane), &word).await.unwrap();
    assert_eq!(ledger.paused().await.unwrap(), [lane]);
    assert_eq!(ledger.next_generation(0, "redis").await.unwrap(), Some(1));
    assert_eq!(ledger.next_generation(0, "redis").await.unwrap(), None);
    let generation = ledger.generation().await.unwrap();
    assert_eq!(generation.server.as_deref(), Some("redis"));
    let control = ledger.control(claim.run).await.unwrap();
    assert_eq!(control.cancels, [job.id]);
    assert_eq!(control.paused, ["test"]);
    assert_eq!(control.generation, 1);
    ledger.pause("test", None, &word).await.unwrap();
    assert_eq!(ledger.audit(None, 10).await.unwrap().len(), 2);

    let stale = Claim {
        generation: Some(0),
        ..claim.clone()
    };
    let jobs = [new_job(None)];
    ledger.accept(&jobs).await.unwrap();
    assert!(
        ledger
            .claim(&stale, &[jobs[0].id])
            .await
            .unwrap()
            .is_empty()
    );

    sql(&url, "UPDATE presswork.meta SET shift = '2 minutes'").await;
    assert!(ledger.live_runs().await.unwrap().is_empty());
    assert_eq!(lost().await, 1);
    ledger.end_run(claim.run).await.unwrap();
    assert_eq!(ledger.beat(claim.run, &[], LEASE).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_found_grouped_and_revived_with_a_new_age() {
    let (ledger, url) = ledger().await;
    let claim = begin(&ledger).await;
    let mut job = new_job(Some("k".into()));
    job.not_after = Some(ledger.now().await.unwrap() + chrono::Duration::hours(1));
    ledger.accept(std::slice::from_ref(&job)).await.unwrap();
    let live = ledger.claim(&claim, &[job.id]).await.unwrap().remove(0);
    let failure = Failure::permanent("too_long", "a post of\0 500 characters");
    let bury = Settlement {
        fingerprint: Some("f".into()),
        result: None,
        transition: Transition {
            attempts: 1,
            failure: Some(failure),
            ..to(State::Dead)
        },
        ..completed(&live)
    };
    let twice = [bury.clone(), bury];
    let settled = ledger.settle(&twice).await.unwrap();
    assert_eq!(settled, [Settled::Done, Settled::Stale]);
    let find = |error: &str| Filter {
        error: Some(error.into()),
        ..Filter::default()
    };
    for error in ["too_long", "500"] {
        assert_eq!(ledger.jobs(&find(error)).await.unwrap().len(), 1);
    }
    assert!(ledger.jobs(&find("100")).await.unwrap().is_empty());
    let groups = ledger.groups(&Filter::default()).await.unwrap();
    assert_eq!((groups[0].fingerprint.as_str(), groups[0].count), ("f", 1));

    sql(&url, "UPDATE presswork.meta SET shift = '3 days'").await;
    let dead = ledger.job(job.id).await.unwrap().unwrap();
    let payload = r#"{"text":"short"}"#;
    let revive = Settlement {
        edit: Some(payload.into()),
        audit: Some(audit("revive", Some(job.id))),
        ..settlement(
            job.id,
            Guard::Version(dead.version),
            Transition {
                reset: true,
                admitted: true,
                ..to(State::Ready)
            },
        )
    };
    assert_eq!(ledger.settle(&[revive]).await.unwrap(), [Settled::Done]);
    assert!(ledger.expired(10).await.unwrap().is_empty());
    let back = ledger.job(job.id).await.unwrap().unwrap();
    assert_eq!((back.revision, back.attempts, back.ended_at), (1, 0, None));
    let edited = NewJob {
        payload: payload.into(),
        digest: Digest::of_json(payload).unwrap(),
        id: JobId::mint(),
        ..job.clone()
    };
    let answers = ledger.accept(&[edited, job.clone()]).await.unwrap();
    assert!(matches!(answers[0], Acceptance::Conflict { id } if id == job.id));
    assert!(matches!(answers[1], Acceptance::Same { id, .. } if id == job.id));

    let discard = Transition {
        archive: true,
        ..to(State::Dead)
    };
    let discard = settlement(job.id, Guard::Version(back.version), discard);
    assert_eq!(ledger.settle(&[discard]).await.unwrap(), [Settled::Done]);
    assert_eq!(ledger.attempts(job.id).await.unwrap().len(), 1);
    assert_eq!(
        ledger.job(job.id).await.unwrap().unwrap().state,
        State::Dead
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quarantine_keeps_bytes_and_lets_go_once() {
    let (ledger, _) = ledger().await;
    let entry = Quarantined {
        id: JobId::mint(),
        door: "inbox".into(),
        at: ledger.now().await.unwrap(),
        reason: Reason::Malformed,
        message: "no JSON".into(),
        kind: Some("x".into()),
        bytes: vec![0, 255],
    };
    for _ in 0..2 {
        let entries = std::slice::from_ref(&entry);
        ledger.quarantine(entries).await.unwrap();
    }
    assert_eq!(
        ledger.quarantined(Some("x"), 9).await.unwrap(),
        std::slice::from_ref(&entry)
    );
    assert!(ledger.quarantined(Some("y"), 9).await.unwrap().is_empty());
    let one = ledger.quarantined_one(entry.id).await.unwrap();
    assert_eq!(one, Some(entry.clone()));
    let word = audit("discard", None);
    assert!(ledger.unquarantine(entry.id, &word).await.unwrap());
    assert!(!ledger.unquarantine(entry.id, &word).await.unwrap());
}
