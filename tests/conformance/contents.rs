//! The content guard: at intake, and at the permit.

use std::time::Duration;

use presswork::content::{Guard, Reaction, Said, digest};
use presswork::effect::{Effect, EffectId, EffectState};
use presswork::job::{Job, NewJob};
use presswork::ledger::{Acceptance, Together};
use presswork::lifecycle::Event;

use super::effects::{effect, to as concluded};
use super::fixture::{Fixture, KIND, fence, job, keyed};

const HOUR: Duration = Duration::from_secs(3_600);
const BUDGET: Duration = Duration::from_secs(60);

/// A job of an account that is going to say a text.
fn says(new: NewJob, text: &str, reaction: Reaction) -> NewJob {
    NewJob {
        account: Some("press".into()),
        said: Some(Said {
            digest: digest::<&str>(text, &[], &[]).expect("something is said"),
            guard: Guard {
                reaction,
                within: HOUR,
            },
            again: false,
        }),
        ..new
    }
}

fn again(new: NewJob) -> NewJob {
    let said = new.said.map(|it| Said { again: true, ..it });
    NewJob { said, ..new }
}

async fn accepted(f: &Fixture, new: &NewJob) -> Acceptance {
    let answers = f.accept(std::slice::from_ref(new)).await.unwrap();
    answers.into_iter().next().unwrap()
}

fn new(it: &NewJob, repeats: Option<&NewJob>) -> Acceptance {
    Acceptance::New {
        id: it.id,
        due: true,
        repeats: repeats.map(|it| it.id),
    }
}

pub async fn what_was_just_said_is_refused_at_intake(f: Fixture) {
    let refused = |text| says(job(KIND), text, Reaction::Refuse);
    let first = refused("Hello");
    assert_eq!(accepted(&f, &first).await, new(&first, None));
    let repeats = Acceptance::Repeats { id: first.id };
    assert_eq!(accepted(&f, &refused(" hello ")).await, repeats);
    for other in [
        refused("Hello!"),
        NewJob {
            account: Some("other".into()),
            ..refused("Hello")
        },
        job(KIND),
        again(refused("Hello")),
    ] {
        assert_eq!(accepted(&f, &other).await, new(&other, None));
    }
    let warned = says(job(KIND), "Hello!", Reaction::Warn);
    let Acceptance::New { repeats, .. } = accepted(&f, &warned).await else {
        panic!("a warning refuses nothing");
    };
    assert!(repeats.is_some());
    f.shift(3_601).await;
    let later = refused("Hello");
    assert_eq!(accepted(&f, &later).await, new(&later, None));
}

pub async fn the_same_job_again_repeats_nothing(f: Fixture) {
    let first = says(keyed("k"), "Hello", Reaction::Refuse);
    assert_eq!(accepted(&f, &first).await, new(&first, None));
    let same = NewJob {
        id: job(KIND).id,
        ..first.clone()
    };
    assert!(matches!(accepted(&f, &same).await, Acceptance::Same { id, .. } if id == first.id));
    let plain = says(job(KIND), "Bye", Reaction::Refuse);
    assert_eq!(accepted(&f, &plain).await, new(&plain, None));
    assert!(
        matches!(accepted(&f, &plain).await, Acceptance::Same { id, .. } if id == plain.id),
        "an entry that is taken twice"
    );
    let other = says(keyed("other"), "Hello", Reaction::Refuse);
    let repeats = Acceptance::Repeats { id: first.id };
    assert_eq!(accepted(&f, &other).await, repeats);
    f.shift(3_601).await;
    assert_eq!(
        accepted(&f, &other).await,
        new(&other, None),
        "what was refused holds no key"
    );
}

pub async fn of_one_batch_the_first_says_it(f: Fixture) {
    let batch: Vec<NewJob> = (0..5)
        .map(|n| {
            let text = ["one", "two"][n % 2];
            says(job(KIND), text, Reaction::Refuse)
        })
        .collect();
    let repeats = |at: usize| Acceptance::Repeats { id: batch[at].id };
    let expected = [
        new(&batch[0], None),
        new(&batch[1], None),
        repeats(0),
        repeats(1),
        repeats(0),
    ];
    assert_eq!(f.accept(&batch).await.unwrap(), expected);
}

pub async fn together_what_was_just_said_refuses_them_all(f: Fixture) {
    let first = says(job(KIND), "one", Reaction::Refuse);
    assert_eq!(accepted(&f, &first).await, new(&first, None));
    let batch = [job(KIND), says(job(KIND), "one", Reaction::Refuse)];
    let why = Acceptance::Repeats { id: first.id };
    let refused = Together::Refused { at: 1, why };
    assert_eq!(f.accept_together(&batch).await.unwrap(), refused);
    assert_eq!(f.job(batch[0].id).await.unwrap(), None);
    let warned = says(job(KIND), "one", Reaction::Warn);
    let told = Together::Written(vec![new(&warned, Some(&first))]);
    assert_eq!(f.accept_together(&[warned]).await.unwrap(), told);
}

pub async fn what_will_not_be_said_is_no_repetition(f: Fixture) {
    let ids = f.add(&[says(job(KIND), "one", Reaction::Refuse)]).await;
    let called_off = f.look(ids[0]).await;
    f.happen(&called_off, Event::CancelAsked).await;
    let instead = says(job(KIND), "one", Reaction::Refuse);
    assert_eq!(accepted(&f, &instead).await, new(&instead, None));
    let (_, done) = f.start(says(job(KIND), "two", Reaction::Refuse)).await;
    let value = serde_json::json!({});
    f.happen(
        &done,
        Event::Ended(presswork::outcome::Outcome::Completed(value)),
    )
    .await;
    let repeats = Acceptance::Repeats { id: done.id };
    let late = says(job(KIND), "two", Reaction::Refuse);
    assert_eq!(accepted(&f, &late).await, repeats, "it was said");
}

/// An effect of a claimed job, guarded for an hour.
async fn guarded(f: &Fixture, new: NewJob) -> (Job, EffectId) {
    let (_, job) = f.start(new).await;
    let wanted = Effect {
        content: digest::<&str>("Hello", &[], &[]),
        guard_s: Some(3_600),
        ..effect(&job, "publish")
    };
    let found = f.intend(&fence(&job), &wanted).await.unwrap();
    let (there, _) = found.expect("the lease is held");
    assert_eq!(there.content, wanted.content);
    (job, wanted.id)
}

async fn permit(f: &Fixture, (job, id): &(Job, EffectId)) -> bool {
    let from = (EffectState::Intended, 0);
    f.permit(&fence(job), *id, from, BUDGET, None)
        .await
        .unwrap()
}

pub async fn no_permit_while_another_may_have_said_it(f: Fixture) {
    let first = guarded(&f, job(KIND)).await;
    let second = guarded(&f, job(KIND)).await;
    assert!(permit(&f, &first).await);
    for to in [
        EffectState::Unknown,
        EffectState::Unresolved,
        EffectState::Confirmed,
    ] {
        assert!(!permit(&f, &second).await);
        let other = f.repeats(second.1, HOUR).await.unwrap().unwrap();
        assert_eq!((other.id, other.job), (first.1, first.0.id));
        let told = concluded(&f, to, "told").await;
        match other.state {
            EffectState::Sending => assert!(f.conclude(first.1, 1, &told).await.unwrap()),
            state => {
                let decided = f.decide(first.1, (state, 1), &told, None).await;
                assert!(decided.unwrap());
            }
        }
    }
    assert!(!permit(&f, &second).await);
    f.shift(3_601).await;
    assert_eq!(f.repeats(second.1, HOUR).await.unwrap(), None);
}

pub async fn what_was_refused_was_not_said(f: Fixture) {
    let first = guarded(&f, job(KIND)).await;
    let second = guarded(&f, job(KIND)).await;
    assert!(permit(&f, &first).await);
    let refused = concluded(&f, EffectState::Refused, "told").await;
    assert!(f.conclude(first.1, 1, &refused).await.unwrap());
    assert!(permit(&f, &second).await);
    assert!(
        permit_again(&f, &first).await.is_none(),
        "now the other one says it"
    );
}

/// A second permit for an effect that was refused.
async fn permit_again(f: &Fixture, (job, id): &(Job, EffectId)) -> Option<()> {
    let from = (EffectState::Refused, 1);
    let given = f
        .permit(&fence(job), *id, from, BUDGET, None)
        .await
        .unwrap();
    given.then_some(())
}

pub async fn a_producer_may_mean_it(f: Fixture) {
    let first = guarded(&f, job(KIND)).await;
    assert!(permit(&f, &first).await);
    let meant = again(says(job(KIND), "Hello", Reaction::Refuse));
    let second = guarded(&f, meant).await;
    let found = f.effects(second.0.id).await.unwrap();
    assert_eq!(found[0].guard_s, None);
    assert!(permit(&f, &second).await);
}

pub async fn of_permits_at_once_one_says_it(f: Fixture) {
    for _ in 0..5 {
        let mut all = Vec::new();
        for _ in 0..8 {
            all.push(guarded(&f, job(KIND)).await);
        }
        let asked = all.iter().map(|it| permit(&f, it));
        let given = futures_util::future::join_all(asked).await;
        assert_eq!(given.iter().filter(|it| **it).count(), 1);
        f.shift(3_601).await;
    }
}

pub async fn what_was_said_long_ago_is_forgotten(f: Fixture) {
    let first = says(job(KIND), "Hello", Reaction::Refuse);
    assert_eq!(accepted(&f, &first).await, new(&first, None));
    let day = Duration::from_secs(86_400);
    f.tidy(day * 90, day * 90).await.unwrap();
    let repeats = Acceptance::Repeats { id: first.id };
    let second = says(job(KIND), "Hello", Reaction::Refuse);
    assert_eq!(accepted(&f, &second).await, repeats, "it was kept");
    f.shift(31 * 86_400).await;
    assert_eq!(f.tidy(day * 90, day * 90).await.unwrap(), 1);
}
