//! Effects without a known answer: when they are looked for, by whom, and what a dead run sent.

use std::time::Duration;

use presswork::effect::{EffectClass, EffectState};
use presswork::ledger::Conclusion;

use super::effects::{effect, one, to};
use super::fixture::{Fixture, KIND, fence, job, near};

const BUDGET: Duration = Duration::from_secs(60);
const HOLD: Duration = Duration::from_secs(60);

async fn lost(f: &Fixture, look_in: Option<u64>) -> Conclusion {
    Conclusion {
        look_in: look_in.map(Duration::from_secs),
        ..to(f, EffectState::Unknown, "the answer was lost").await
    }
}

pub async fn what_is_unknown_is_looked_for_when_it_is_due(f: Fixture) {
    let (_, job) = f.start(job(KIND)).await;
    let (mine, wanted) = (fence(&job), effect(&job, "publish"));
    f.intend(&mine, &wanted).await.unwrap();
    let intended = (EffectState::Intended, 0);
    assert!(
        f.permit(&mine, wanted.id, intended, BUDGET, None)
            .await
            .unwrap()
    );
    assert_eq!(
        f.looks_due(9, HOLD).await.unwrap(),
        [],
        "its answer may come"
    );
    let unknown = lost(&f, Some(10)).await;
    assert!(f.conclude(wanted.id, 1, &unknown).await.unwrap());
    let before = one(&f, &job).await;
    let due = before.look_at.expect("it is to be looked for");
    assert!(near(due, f.time().await + chrono::TimeDelta::seconds(10)));
    f.shift(9).await;
    assert_eq!(f.looks_due(9, HOLD).await.unwrap(), [], "not yet");
    f.shift(2).await;
    assert_eq!(f.looks_due(0, HOLD).await.unwrap(), []);
    let taken = f.looks_due(9, HOLD).await.unwrap();
    assert_eq!(taken, [one(&f, &job).await]);
    assert_eq!(taken[0].looks, 1);
    assert_eq!(f.looks_due(9, HOLD).await.unwrap(), [], "it is taken");
    // whoever took it died
    f.shift(61).await;
    assert_eq!(f.looks_due(9, HOLD).await.unwrap()[0].looks, 2);
    // a look that told nothing, and one that did
    let from = (EffectState::Unknown, 1);
    let again = lost(&f, Some(1)).await;
    assert!(f.decide(wanted.id, from, &again, None).await.unwrap());
    f.shift(2).await;
    assert_eq!(f.looks_due(9, HOLD).await.unwrap()[0].looks, 3);
    let there = to(&f, EffectState::Confirmed, "it is there").await;
    assert!(f.decide(wanted.id, from, &there, None).await.unwrap());
    assert!(
        !f.decide(wanted.id, from, &again, None).await.unwrap(),
        "a look that came late"
    );
    f.shift(3_600).await;
    assert_eq!(f.looks_due(9, HOLD).await.unwrap(), []);
    assert_eq!(one(&f, &job).await.look_at, None);
}

pub async fn an_unknown_effect_without_a_look_is_left_alone(f: Fixture) {
    let (_, job) = f.start(job(KIND)).await;
    let (mine, wanted) = (fence(&job), effect(&job, "publish"));
    f.intend(&mine, &wanted).await.unwrap();
    f.permit(&mine, wanted.id, (EffectState::Intended, 0), BUDGET, None)
        .await
        .unwrap();
    let unknown = lost(&f, None).await;
    assert!(f.conclude(wanted.id, 1, &unknown).await.unwrap());
    f.shift(20).await;
    assert_eq!(f.looks_due(9, HOLD).await.unwrap(), []);
    // a send that is permitted counts its looks anew
    let due = lost(&f, Some(0)).await;
    assert!(
        f.decide(wanted.id, (EffectState::Unknown, 1), &due, None)
            .await
            .unwrap()
    );
    assert_eq!(f.looks_due(9, HOLD).await.unwrap().len(), 1);
    assert!(
        f.permit(&mine, wanted.id, (EffectState::Unknown, 1), BUDGET, None)
            .await
            .unwrap()
    );
    let sending = one(&f, &job).await;
    assert_eq!((sending.looks, sending.look_at), (0, None));
}

pub async fn the_sends_of_a_run_are_found(f: Fixture) {
    let (_, job) = f.start(job(KIND)).await;
    let (mine, wanted) = (fence(&job), effect(&job, "publish"));
    f.intend(&mine, &wanted).await.unwrap();
    assert_eq!(f.sending(mine.run).await.unwrap(), []);
    f.permit(&mine, wanted.id, (EffectState::Intended, 0), BUDGET, None)
        .await
        .unwrap();
    assert_eq!(f.sending(mine.run).await.unwrap(), [one(&f, &job).await]);
    assert_eq!(f.sending(uuid::Uuid::new_v4()).await.unwrap(), []);
    let there = to(&f, EffectState::Confirmed, "it is there").await;
    f.conclude(wanted.id, 1, &there).await.unwrap();
    assert_eq!(f.sending(mine.run).await.unwrap(), []);
}

pub async fn a_handle_is_renewed_only_while_nothing_depends_on_it(f: Fixture) {
    for (class, renewed) in [(EffectClass::A, false), (EffectClass::B, true)] {
        let (_, job) = f.start(job(KIND)).await;
        let mine = fence(&job);
        let mut wanted = effect(&job, "publish");
        wanted.class = class;
        let keep = async |value: u64| {
            let it = presswork::effect::Effect {
                keep: value.into(),
                ..wanted.clone()
            };
            f.intend(&mine, &it)
                .await
                .unwrap()
                .expect("the lease is held")
                .0
                .keep
        };
        assert_eq!(keep(1).await, 1);
        assert_eq!(keep(2).await, if renewed { 2 } else { 1 });
        f.permit(&mine, wanted.id, (EffectState::Intended, 0), BUDGET, None)
            .await
            .unwrap();
        let stays = keep(3).await;
        assert_ne!(stays, 3, "a request with it may be under way");
        let unknown = lost(&f, None).await;
        f.conclude(wanted.id, 1, &unknown).await.unwrap();
        assert_eq!(keep(4).await, stays);
        let not_there = to(&f, EffectState::Refused, "it isn't there").await;
        f.decide(wanted.id, (EffectState::Unknown, 1), &not_there, None)
            .await
            .unwrap();
        assert_eq!(keep(5).await, if renewed { 5.into() } else { stays });
    }
}

pub async fn what_another_effect_was_confirmed_as_is_its_own(f: Fixture) {
    let confirmed = async |account: &str, op: &str| {
        let (_, job) = f.start(job(KIND)).await;
        let (mine, mut wanted) = (fence(&job), effect(&job, "publish"));
        (wanted.account, wanted.op) = (account.to_owned(), op.to_owned());
        f.intend(&mine, &wanted).await.unwrap();
        let from = (EffectState::Intended, 0);
        assert!(
            f.permit(&mine, wanted.id, from, BUDGET, None)
                .await
                .unwrap()
        );
        let there = to(&f, EffectState::Confirmed, "it is there").await;
        assert!(f.conclude(wanted.id, 1, &there).await.unwrap());
        one(&f, &job).await
    };
    let before = f.time().await - chrono::TimeDelta::seconds(60);
    let first = confirmed("press", "x.post").await;
    // the fixture's receipt is of remote id 17
    assert!(
        !f.is_anothers(&first, "17", before).await.unwrap(),
        "its own"
    );
    let (_, job) = f.start(job(KIND)).await;
    let mut other = effect(&job, "publish");
    (other.account, other.op) = ("press".to_owned(), "x.post".to_owned());
    assert!(f.is_anothers(&other, "17", before).await.unwrap());
    assert!(!f.is_anothers(&other, "18", before).await.unwrap());
    let later = f.time().await + chrono::TimeDelta::seconds(60);
    assert!(
        !f.is_anothers(&other, "17", later).await.unwrap(),
        "long ago"
    );
    other.account = "another".to_owned();
    assert!(!f.is_anothers(&other, "17", before).await.unwrap());
    (other.account, other.op) = ("press".to_owned(), "mastodon.status".to_owned());
    assert!(!f.is_anothers(&other, "17", before).await.unwrap());
}
