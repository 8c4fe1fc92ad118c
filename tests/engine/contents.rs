//! The content guard through the doors and a handler's context.

use presswork::config::{Account, Config};
use presswork::content::{Guard, Reaction};
use presswork::effect::EffectState;
use presswork::intake::Answer;
use presswork::lifecycle::State;
use presswork::operate::{self, Verdict};
use serde_json::{Value, json};

use crate::LANE;
use crate::probe::{Says, World, kinds};
use crate::rig::{Base, Rig, somebody};

fn guarded(platform: &'static str, reaction: Reaction) -> impl FnOnce(&mut Config) {
    move |config| {
        let account = Account {
            secret: "token".into(),
            guard: Guard {
                reaction,
                ..Guard::default()
            },
            ..Account::at(platform, "http://127.0.0.1:1".parse().expect("an address"))
        };
        config.accounts.insert("press".to_owned(), account);
    }
}

/// A job of the world's that publishes for the guarded account.
fn post(world: &World) -> Value {
    let mut envelope = world.job("keyed", "x");
    envelope["account"] = "press".into();
    envelope
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_account_has_just_said_is_not_sent_again() {
    for base in Base::both().await {
        let rig = Rig::new(&base, kinds(), guarded("test", Reaction::Refuse)).await;
        let world = World::new();
        world.answers([Says::Lost, Says::Yes]);
        let first = rig.enqueue(&post(&world)).await;
        rig.step(LANE).await;
        rig.expect(first, State::Retrying).await;
        // its answer was lost: it may have been said
        let second = rig.enqueue(&post(&world)).await;
        rig.step(LANE).await;
        let job = rig.expect(second, State::Dead).await;
        let failure = job.failure.expect("why it is dead");
        assert_eq!(failure.code, "same_content");
        // a machine so slow that the first one's repeat was due, too, knows by now
        let told = match world.sends() {
            1 => "may have published",
            _ => "published",
        };
        assert!(failure.message.contains(told), "{failure}");
        assert!(failure.message.contains(&first.to_string()), "{failure}");
        let unsent = &rig.effects(second).await[0];
        assert_eq!((unsent.state, unsent.sends), (EffectState::Intended, 0));
        assert_eq!(rig.drive(first).await.state, State::Completed);
        assert_eq!(world.sends(), 2, "its own repeat is no repetition");
        // another text may be said, and so may the same when it is meant
        "other".clone_into(&mut world.text.lock().unwrap());
        let other = rig.enqueue(&post(&world)).await;
        assert_eq!(rig.drive(other).await.state, State::Completed);
        assert_eq!(world.sends(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_says_that_it_was_not_said_frees_the_words() {
    let base = Base::embedded().await;
    let rig = Rig::new(&base, kinds(), guarded("test", Reaction::Refuse)).await;
    let world = World::new();
    world.answers([Says::Lost, Says::Lost]);
    let mut paid = post(&world);
    paid["payload"]["act"] = "paid".into();
    let first = rig.enqueue(&paid).await;
    assert_eq!(rig.drive(first).await.state, State::Unresolved);
    let second = rig.enqueue(&post(&world)).await;
    rig.step(LANE).await;
    rig.expect(second, State::Dead).await;
    operate::resolve(
        &*rig.base.ledger,
        first,
        &Verdict::DidNotHappen,
        &somebody(),
    )
    .await
    .unwrap();
    operate::cancel(&*rig.base.ledger, first, &somebody())
        .await
        .unwrap();
    let third = rig.enqueue(&post(&world)).await;
    assert_eq!(rig.drive(third).await.state, State::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warning_is_told_and_the_post_is_sent() {
    for base in Base::both().await {
        let rig = Rig::new(&base, kinds(), guarded("test", Reaction::Warn)).await;
        let world = World::new();
        let first = rig.enqueue(&post(&world)).await;
        assert_eq!(rig.drive(first).await.state, State::Completed);
        let second = rig.enqueue(&post(&world)).await;
        assert_eq!(rig.drive(second).await.state, State::Completed);
        assert_eq!(world.sends(), 2);
        let seen = &rig.effects(second).await[0].evidence;
        let told = format!("job {first} published");
        assert_eq!(
            seen.iter().filter(|it| it.seen.contains(&told)).count(),
            1,
            "{seen:?}"
        );
        assert_eq!(rig.effects(first).await[0].evidence.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_repeats_another_is_answered_so() {
    for base in Base::both().await {
        let edit = guarded("mastodon", Reaction::Refuse);
        let rig = Rig::new(&base, presswork::kinds::all(), edit).await;
        let post = |text: &str| json!({"kind": "post.mastodon", "account": "press", "payload": {"text": text}});
        let first = rig.enqueue(&post("Hello,  World")).await;
        let answer = rig.submit(&post("hello, world")).await;
        assert_eq!(answer, Answer::Repeats { id: first });
        let mut meant = post("Hello, World");
        meant["again"] = true.into();
        rig.enqueue(&meant).await;
        let mut answers = post("Hello, World");
        answers["payload"]["reply_to_id"] = "17".into();
        rig.enqueue(&answers).await;
    }
}
