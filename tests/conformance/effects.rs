//! Steps and effects: what a re-run finds, and the single-use permit.

use std::time::Duration;

use presswork::effect::{Effect, EffectClass, EffectId, EffectState, Evidence, Receipt};
use presswork::job::Job;
use presswork::ledger::{Conclusion, Fence};
use presswork::lifecycle::Event;
use presswork::outcome::Outcome;
use uuid::Uuid;

use super::fixture::{Fixture, KIND, LEASE, audit, fence, job, near};

const BUDGET: Duration = Duration::from_secs(60);

pub fn effect(job: &Job, step: &str) -> Effect {
    let of = (job.id, job.revision);
    Effect {
        intent: "abc".into(),
        keep: serde_json::json!({"key": "k\u{0}", "n": 1}),
        ..Effect::new(of, (step, 0), "press", "mastodon.status", EffectClass::A)
    }
}

async fn seen(f: &Fixture, what: &str) -> Evidence {
    Evidence::new(f.time().await, what.to_owned())
}

pub async fn to(f: &Fixture, to: EffectState, what: &str) -> Conclusion {
    let evidence = seen(f, what).await;
    let receipt = (to == EffectState::Confirmed).then(|| Receipt {
        remote_id: Some("17".into()),
        url: Some("https://example.org/17".into()),
        at: evidence.at,
        detail: serde_json::json!({"rev": "\u{0}ü"}),
    });
    Conclusion {
        to,
        receipt,
        evidence,
        look_in: None,
    }
}

pub async fn one(f: &Fixture, job: &Job) -> Effect {
    let mut effects = f.effects(job.id).await.unwrap();
    assert_eq!(effects.len(), 1);
    effects.remove(0)
}

fn words(effect: &Effect) -> Vec<&str> {
    effect.evidence.iter().map(|it| it.seen.as_str()).collect()
}

/// A claimed job with one effect written down.
async fn intended(f: &Fixture) -> (Job, Fence, EffectId) {
    let (_, job) = f.start(job(KIND)).await;
    let effect = effect(&job, "publish");
    let fence = fence(&job);
    f.intend(&fence, &effect)
        .await
        .unwrap()
        .expect("the lease is held");
    (job, fence, effect.id)
}

pub async fn the_first_value_of_a_step_stays(f: Fixture) {
    let (_, job) = f.start(job(KIND)).await;
    let fence = fence(&job);
    let value = r#"{"text": "\u0000 ü", "n": 1.10}"#;
    assert_eq!(f.step(job.id, 0, "draft").await.unwrap(), None);
    assert!(f.record_step(&fence, "draft", value).await.unwrap());
    assert!(f.record_step(&fence, "draft", "2").await.unwrap());
    assert_eq!(
        f.step(job.id, 0, "draft").await.unwrap().as_deref(),
        Some(value)
    );
    assert_eq!(
        f.step(job.id, 1, "draft").await.unwrap(),
        None,
        "of another revision"
    );
    assert_eq!(f.step(job.id, 0, "other").await.unwrap(), None);
}

pub async fn a_step_is_recorded_under_the_lease_only(f: Fixture) {
    let (_, job) = f.start(job(KIND)).await;
    let stale = fence(&job);
    f.happen(&job, Event::Reclaimed).await;
    assert!(!f.record_step(&stale, "draft", "1").await.unwrap());
    let claim = f.enter().await;
    let again = f.take(&claim, job.id).await;
    assert!(!f.record_step(&stale, "draft", "1").await.unwrap());
    assert_eq!(f.step(job.id, 0, "draft").await.unwrap(), None);
    assert!(f.record_step(&fence(&again), "draft", "2").await.unwrap());
}

pub async fn an_effect_is_written_down_once(f: Fixture) {
    let (_, job) = f.start(job(KIND)).await;
    let (wanted, fence) = (effect(&job, "publish"), fence(&job));
    let (first, now) = f
        .intend(&fence, &wanted)
        .await
        .unwrap()
        .expect("the lease is held");
    assert_eq!(first, wanted);
    assert!(near(now, f.time().await));
    let other = Effect {
        intent: "def".into(),
        keep: 2.into(),
        ..wanted.clone()
    };
    let (again, _) = f
        .intend(&fence, &other)
        .await
        .unwrap()
        .expect("the lease is held");
    assert_eq!(again, first, "what is there is returned");
    let second = effect(&job, "announce");
    f.intend(&fence, &second).await.unwrap();
    assert_eq!(
        f.effects(job.id).await.unwrap(),
        [first, second],
        "in the order of their writing"
    );
    f.happen(&job, Event::Reclaimed).await;
    assert_eq!(
        f.intend(&fence, &wanted).await.unwrap(),
        None,
        "the lease is lost"
    );
    assert_eq!(f.intend(&fence, &effect(&job, "late")).await.unwrap(), None);
    assert_eq!(f.effects(job.id).await.unwrap().len(), 2);
}

pub async fn a_permit_is_single_use(f: Fixture) {
    let (job, fence, id) = intended(&f).await;
    for sends in 0..3 {
        let state = [
            EffectState::Intended,
            EffectState::Sending,
            EffectState::Sending,
        ][sends];
        let sends = u32::try_from(sends).unwrap();
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let ledger = f.ledger.clone();
                tokio::spawn(async move {
                    ledger
                        .permit(&fence, id, (state, sends), BUDGET, None)
                        .await
                        .unwrap()
                })
            })
            .collect();
        let mut given = 0;
        for task in tasks {
            given += u32::from(task.await.unwrap());
        }
        assert_eq!(given, 1);
        assert_eq!(one(&f, &job).await.sends, sends + 1);
        f.shift(1).await;
    }
    let now = one(&f, &job).await;
    assert_eq!(
        (now.state, now.permit_run),
        (EffectState::Sending, Some(fence.run))
    );
    assert!(now.first_sent_at < now.permit_at);
}

pub async fn a_permit_needs_the_lease_and_its_time(f: Fixture) {
    let (job, mine, id) = intended(&f).await;
    let from = (EffectState::Intended, 0);
    let other = Fence {
        token: Uuid::new_v4(),
        ..mine
    };
    assert!(
        !f.permit(&other, id, from, BUDGET, None).await.unwrap(),
        "a wrong token"
    );
    let unknown = EffectId(Uuid::new_v4());
    assert!(
        !f.permit(&mine, unknown, from, BUDGET, None).await.unwrap(),
        "an unknown effect"
    );
    assert!(
        !f.permit(&mine, id, (EffectState::Refused, 0), BUDGET, None)
            .await
            .unwrap()
    );
    assert!(
        !f.permit(&mine, id, (EffectState::Intended, 1), BUDGET, None)
            .await
            .unwrap()
    );
    let long = LEASE + Duration::from_secs(60);
    assert!(
        !f.permit(&mine, id, from, long, None).await.unwrap(),
        "the lease is shorter"
    );
    f.shift(i64::try_from(LEASE.as_secs()).unwrap() - 30).await;
    assert!(
        !f.permit(&mine, id, from, BUDGET, None).await.unwrap(),
        "too little of it is left"
    );
    f.beat(mine.run, &[job.id], LEASE).await.unwrap();
    f.happen(&job, Event::Reclaimed).await;
    assert!(
        !f.permit(&mine, id, from, BUDGET, None).await.unwrap(),
        "nobody has the lease"
    );
    let claim = f.enter().await;
    let again = f.take(&claim, job.id).await;
    assert!(
        !f.permit(&mine, id, from, BUDGET, None).await.unwrap(),
        "another run has it"
    );
    assert_eq!(one(&f, &job).await.sends, 0);
    assert!(
        f.permit(&fence(&again), id, from, BUDGET, None)
            .await
            .unwrap()
    );
}

pub async fn no_permit_for_a_run_that_was_declared_dead(f: Fixture) {
    let (job, mine, id) = intended(&f).await;
    f.end_run(mine.run).await.unwrap();
    assert!(
        !f.permit(&mine, id, (EffectState::Intended, 0), BUDGET, None)
            .await
            .unwrap()
    );
    assert_eq!(one(&f, &job).await.state, EffectState::Intended);
}

pub async fn no_permit_of_another_job(f: Fixture) {
    let (_, _, id) = intended(&f).await;
    let (_, other) = f.start(job(KIND)).await;
    assert!(
        !f.permit(&fence(&other), id, (EffectState::Intended, 0), BUDGET, None)
            .await
            .unwrap()
    );
}

pub async fn an_effect_is_concluded_with_its_receipt(f: Fixture) {
    let (job, mine, id) = intended(&f).await;
    let done = to(&f, EffectState::Confirmed, "201").await;
    assert!(!f.conclude(id, 0, &done).await.unwrap(), "nothing was sent");
    assert!(
        f.permit(&mine, id, (EffectState::Intended, 0), BUDGET, None)
            .await
            .unwrap()
    );
    assert!(!f.conclude(id, 0, &done).await.unwrap());
    assert!(!f.conclude(id, 2, &done).await.unwrap());
    assert!(f.conclude(id, 1, &done).await.unwrap());
    let now = one(&f, &job).await;
    assert_eq!(
        (now.state, &now.receipt),
        (EffectState::Confirmed, &done.receipt)
    );
    assert_eq!(words(&now), ["201"]);
    let refused = to(&f, EffectState::Refused, "422").await;
    assert!(
        !f.conclude(id, 1, &refused).await.unwrap(),
        "it is concluded"
    );
    assert!(
        !f.permit(&mine, id, (EffectState::Confirmed, 0), BUDGET, None)
            .await
            .unwrap()
    );
    assert_eq!(one(&f, &job).await, now);
}

pub async fn a_late_answer_is_kept_though_the_lease_is_lost(f: Fixture) {
    let (job, mine, id) = intended(&f).await;
    assert!(
        f.permit(&mine, id, (EffectState::Intended, 0), BUDGET, None)
            .await
            .unwrap()
    );
    f.happen(&job, Event::Reclaimed).await;
    f.end_run(mine.run).await.unwrap();
    let claim = f.enter().await;
    let again = f.take(&claim, job.id).await;
    let late = to(&f, EffectState::Confirmed, "late 201").await;
    assert!(f.conclude(id, 1, &late).await.unwrap());
    let (found, _) = f
        .intend(&fence(&again), &effect(&job, "publish"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (found.state, found.receipt),
        (EffectState::Confirmed, late.receipt)
    );
}

pub async fn an_answer_to_an_older_send_concludes_nothing(f: Fixture) {
    let (job, mine, id) = intended(&f).await;
    assert!(
        f.permit(&mine, id, (EffectState::Intended, 0), BUDGET, None)
            .await
            .unwrap()
    );
    assert!(
        f.permit(&mine, id, (EffectState::Sending, 1), BUDGET, None)
            .await
            .unwrap()
    );
    let old = to(&f, EffectState::Refused, "old 422").await;
    assert!(!f.conclude(id, 1, &old).await.unwrap());
    assert_eq!(
        (one(&f, &job).await.state, one(&f, &job).await.sends),
        (EffectState::Sending, 2)
    );
    let new = to(&f, EffectState::Confirmed, "201").await;
    assert!(f.conclude(id, 2, &new).await.unwrap());
}

pub async fn evidence_accumulates_in_order(f: Fixture) {
    let (job, mine, id) = intended(&f).await;
    assert!(
        f.permit(&mine, id, (EffectState::Intended, 0), BUDGET, None)
            .await
            .unwrap()
    );
    f.witness(id, &seen(&f, "first \u{0}ü\"").await)
        .await
        .unwrap();
    assert!(
        f.conclude(id, 1, &to(&f, EffectState::Unknown, "second").await)
            .await
            .unwrap()
    );
    f.shift(1).await;
    f.witness(id, &seen(&f, "third").await).await.unwrap();
    let last = to(&f, EffectState::Unresolved, "fourth").await;
    assert!(
        f.decide(id, (EffectState::Unknown, 1), &last, None)
            .await
            .unwrap()
    );
    let now = one(&f, &job).await;
    assert_eq!(words(&now), ["first \u{0}ü\"", "second", "third", "fourth"]);
    assert_eq!(now.evidence[3], last.evidence);
    f.witness(EffectId(Uuid::new_v4()), &seen(&f, "of nothing").await)
        .await
        .unwrap();
}

pub async fn a_decision_compares_the_state(f: Fixture) {
    let (job, mine, id) = intended(&f).await;
    assert!(
        f.permit(&mine, id, (EffectState::Intended, 0), BUDGET, None)
            .await
            .unwrap()
    );
    let unresolved = to(&f, EffectState::Unresolved, "nobody can tell").await;
    assert!(
        f.decide(id, (EffectState::Sending, 1), &unresolved, None)
            .await
            .unwrap()
    );
    assert_eq!(f.audit(None, 10).await.unwrap(), [], "no person did it");
    let why = audit("resolve", Some(job.id), f.time().await);
    let happened = to(&f, EffectState::Confirmed, "ann saw it").await;
    assert!(
        !f.decide(id, (EffectState::Unknown, 1), &happened, Some(&why))
            .await
            .unwrap()
    );
    assert_eq!(f.audit(None, 10).await.unwrap(), [], "nothing was done");
    assert!(
        f.decide(id, (EffectState::Unresolved, 1), &happened, Some(&why))
            .await
            .unwrap()
    );
    assert!(
        !f.decide(id, (EffectState::Unresolved, 1), &happened, Some(&why))
            .await
            .unwrap()
    );
    let found = f.audit(Some(job.id), 10).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].actor.as_str(), found[0].action.as_str()),
        ("ann", "resolve")
    );
    assert_eq!(one(&f, &job).await.receipt, happened.receipt);
}

/// A person looked at the platform, and meanwhile it was sent once more: of that nothing was said.
pub async fn a_decision_on_a_send_that_was_repeated_is_refused(f: Fixture) {
    let (job, mine, id) = intended(&f).await;
    let unknown = to(&f, EffectState::Unknown, "no answer").await;
    for sends in 0..2 {
        let from = match sends {
            0 => EffectState::Intended,
            _ => EffectState::Unknown,
        };
        assert!(
            f.permit(&mine, id, (from, sends), BUDGET, None)
                .await
                .unwrap()
        );
        assert!(f.conclude(id, sends + 1, &unknown).await.unwrap());
    }
    let before = one(&f, &job).await;
    assert_eq!((before.state, before.sends), (EffectState::Unknown, 2));
    let why = audit("resolve", Some(job.id), f.time().await);
    let happened = to(&f, EffectState::Confirmed, "ann saw it").await;
    let decide = |sends| f.decide(id, (EffectState::Unknown, sends), &happened, Some(&why));
    for sends in [0, 1, 3] {
        assert!(!decide(sends).await.unwrap(), "{sends} sends");
    }
    assert_eq!(one(&f, &job).await, before);
    assert_eq!(f.audit(None, 10).await.unwrap(), [], "nothing was done");
    assert!(decide(2).await.unwrap());
    assert_eq!(one(&f, &job).await.state, EffectState::Confirmed);
}

pub async fn effects_and_steps_outlive_the_attempt_and_the_job(f: Fixture) {
    let (job, mine, id) = intended(&f).await;
    assert!(f.record_step(&mine, "draft", "1").await.unwrap());
    assert!(
        f.permit(&mine, id, (EffectState::Intended, 0), BUDGET, None)
            .await
            .unwrap()
    );
    assert!(
        f.conclude(id, 1, &to(&f, EffectState::Confirmed, "201").await)
            .await
            .unwrap()
    );
    let before = one(&f, &job).await;
    f.happen(&job, Event::Ended(Outcome::Completed(1.into())))
        .await;
    assert_eq!(one(&f, &job).await, before);
    assert_eq!(
        f.step(job.id, 0, "draft").await.unwrap().as_deref(),
        Some("1")
    );
}
