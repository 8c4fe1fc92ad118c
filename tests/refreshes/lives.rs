//! An account's life: refused amid its work, revoked, logged in again; a host that dies or is told to stop with
//! new tokens in its hands.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use presswork::account::State as Stands;
use presswork::gate::Cause;
use presswork::intake::Answer;
use presswork::kinds;
use presswork::lifecycle::State;
use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};

use crate::bench::{Host, LIFE_S, Outside, kept, pass, token};
use crate::kit::wait;
use crate::rig::Base;

/// What this thread says of a renewal's end.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<String>>>);

impl Said {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl<S: Subscriber> Layer<S> for Said {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                let _ = write!(self.0, " {field}={value:?}");
            }
            fn record_str(&mut self, field: &Field, value: &str) {
                let _ = write!(self.0, " {field}={value}");
            }
        }
        let mut text = Text(event.metadata().level().to_string());
        event.record(&mut text);
        if event.metadata().target().ends_with("refresher") {
            self.0.lock().unwrap().push(text.0);
        }
    }
}

const SOON: Duration = Duration::from_secs(20);
const LANE: &str = "mastodon";

fn post(n: usize) -> Value {
    json!({"kind": "post.mastodon", "account": "press", "payload": {"text": format!("number {n}")}})
}

async fn causes(base: &Base) -> Vec<Cause> {
    let all = base.ledger.closures().await.unwrap();
    all.into_iter().map(|it| it.cause).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_amid_its_work_an_account_is_renewed_and_its_jobs_are_charged_nothing() {
    for base in Base::both().await {
        let outside = Outside::new().await;
        outside.log_in(&base, "press").await;
        let host = Host::new(&base, &outside, kinds::all()).await;
        host.hear().await;
        let ids = [
            host.rig.enqueue(&post(1)).await,
            host.rig.enqueue(&post(2)).await,
        ];
        outside.fault("status.create", "press", "401").await;
        host.rig.step(LANE).await;
        let it = kept(&base, "press").await;
        assert_eq!(it.state, Stands::Refreshing, "{it:?}");
        assert!(it.granted.as_ref().unwrap().refused);
        assert_eq!(causes(&base).await, [Cause::Credentials]);
        // nothing of it is taken meanwhile, whoever looks
        host.hear().await;
        assert_eq!(host.rig.step(LANE).await, 0);
        assert_eq!(host.renew().await, 1);
        let it = kept(&base, "press").await;
        assert_eq!((it.state, it.version), (Stands::Ok, 2));
        assert_eq!(causes(&base).await, []);
        host.hear().await;
        while host.rig.step(LANE).await != 0 {}
        for id in ids {
            let job = host.rig.expect(id, State::Completed).await;
            assert_eq!((job.attempts, job.held), (0, None), "{job:?}");
        }
        // refused anew at once, it is asked for anew a minute later, and no sooner
        outside.fault("status.create", "press", "401").await;
        let id = host.rig.enqueue(&post(3)).await;
        host.rig.step(LANE).await;
        assert_eq!(host.renew().await, 0);
        assert_eq!(causes(&base).await, [Cause::Credentials]);
        pass(&outside, &base, 61).await;
        assert_eq!(host.renew().await, 1);
        host.hear().await;
        host.rig.step(LANE).await;
        host.rig.expect(id, State::Completed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_account_waits_for_a_person_whose_login_lets_its_jobs_go_on() {
    for base in Base::both().await {
        let outside = Outside::new().await;
        outside.log_in(&base, "press").await;
        let host = Host::new(&base, &outside, kinds::all()).await;
        host.hear().await;
        let id = host.rig.enqueue(&post(1)).await;
        // a rotating token that is replaced behind our back, and then comes: the family is revoked
        outside.set(json!({"issuer_grace_ms": 0})).await;
        outside.fault("token.refresh", "press", "act_reset").await;
        pass(&outside, &base, LIFE_S - 600).await;
        assert_eq!(host.renew().await, 1);
        let it = kept(&base, "press").await;
        assert_eq!(it.state, Stands::Attention, "{it:?}");
        let why = it.why.unwrap();
        assert!(why.contains("invalid_grant"), "{why}");
        assert!(
            why.contains("presswork accounts login press --client app"),
            "{why}"
        );
        assert_eq!(outside.requests("token.refresh", "press").await, 2);
        assert_eq!(causes(&base).await, [Cause::Credentials]);
        host.hear().await;
        assert_eq!((host.rig.step(LANE).await, host.refresher.tick()), (0, 0));
        let job = host.rig.expect(id, State::Ready).await;
        assert_eq!((job.attempts, job.held), (0, None));

        let it = outside.log_in(&base, "press").await;
        assert_eq!((it.state, it.version), (Stands::Ok, 2));
        assert!(outside.takes(&token(&it)).await);
        assert_eq!(causes(&base).await, []);
        host.hear().await;
        host.rig.step(LANE).await;
        let job = host.rig.expect(id, State::Completed).await;
        assert_eq!(job.attempts, 0);
        // and is renewed as before
        outside.set(json!({})).await;
        pass(&outside, &base, LIFE_S - 600).await;
        assert_eq!(host.renew().await, 1);
        assert_eq!(kept(&base, "press").await.version, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_tokens_are_held_until_the_ledger_takes_them_and_used_by_nobody_before() {
    for base in Base::both().await {
        let outside = Outside::new().await;
        let first = outside.log_in(&base, "press").await;
        let (one, other) = (
            Host::new(&base, &outside, vec![]).await,
            Host::new(&base, &outside, vec![]).await,
        );
        pass(&outside, &base, LIFE_S - 600).await;
        one.hear().await;
        // its write is begun, and from its request on it reaches no ledger
        let begun = one.ledger.calls("put_account");
        outside.fault("token.refresh", "press", "slow").await;
        assert_eq!(one.refresher.tick(), 1);
        wait::until("it has begun", SOON, async || {
            begun < one.ledger.calls("put_account")
        })
        .await;
        one.ledger.away("*");
        wait::until("the issuer gave other tokens", SOON, async || {
            !outside.acts("token.refresh", "press").await.is_empty()
        })
        .await;
        let it = kept(&base, "press").await;
        assert_eq!(
            (it.state, it.version, &it.sealed),
            (Stands::Refreshing, 1, &first.sealed)
        );
        // whoever else looks leaves it to who has it, also when its time is just past
        assert_eq!(other.renew().await, 0);
        // who has to stop now says whose tokens go with it
        let said = Said::default();
        let hears = tracing_subscriber::registry().with(said.clone());
        let hears = tracing::subscriber::set_default(hears);
        wait::until("it has them, and says so", SOON, async || {
            one.refresher.end(Duration::from_millis(20)).await;
            !said.all().is_empty()
        })
        .await;
        drop(hears);
        let told = said.all().remove(0);
        for says in ["ERROR", "account=press", "they are lost", "log in again"] {
            assert!(told.contains(says), "{says}: {told}");
        }
        base.advance(Duration::from_secs(61)).await;
        other.hear().await;
        assert_eq!(other.refresher.tick(), 1);
        one.ledger.back();
        one.refresher.idle().await;
        other.refresher.idle().await;
        let it = kept(&base, "press").await;
        assert_eq!((it.state, it.version, it.turn), (Stands::Ok, 2, None));
        assert!(outside.takes(&token(&it)).await);
        assert_eq!(outside.requests("token.refresh", "press").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_died_with_new_tokens_in_its_hands_is_stood_in_for_with_the_one_retry() {
    for (grace_ms, lives) in [(600_000, true), (0, false)] {
        for base in Base::both().await {
            let outside = Outside::new().await;
            outside.log_in(&base, "press").await;
            outside.set(json!({"issuer_grace_ms": grace_ms})).await;
            let other = Host::new(&base, &outside, vec![]).await;
            pass(&outside, &base, LIFE_S - 600).await;
            {
                let one = Host::new(&base, &outside, vec![]).await;
                one.hear().await;
                let begun = one.ledger.calls("put_account");
                outside.fault("token.refresh", "press", "slow").await;
                one.refresher.tick();
                wait::until("it has begun", SOON, async || {
                    begun < one.ledger.calls("put_account")
                })
                .await;
                // it never reaches its ledger again
                one.ledger.away("*");
                wait::until("the issuer acted", SOON, async || {
                    !outside.acts("token.refresh", "press").await.is_empty()
                })
                .await;
            }
            assert_eq!(other.renew().await, 0, "its time isn't past");
            pass(&outside, &base, 61).await;
            assert_eq!(other.renew().await, 1);
            let it = kept(&base, "press").await;
            match lives {
                true => {
                    assert_eq!((it.state, it.version), (Stands::Ok, 2), "{it:?}");
                    assert!(outside.takes(&token(&it)).await);
                }
                false => assert_eq!((it.state, it.version), (Stands::Attention, 1), "{it:?}"),
            }
            assert_eq!(outside.requests("token.refresh", "press").await, 2);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_renews_by_itself_what_was_refused() {
    let base = Base::embedded_live().await;
    let outside = Outside::new().await;
    outside.log_in(&base, "press").await;
    outside.fault("status.create", "press", "401").await;
    let engine = base.whole(|it| outside.edit(it), kinds::all()).await;
    let answer = engine.doors.submit(post(1).to_string().as_bytes()).await;
    let Answer::New { id, .. } = answer.unwrap() else {
        panic!("it is new");
    };
    wait::until("it is posted", SOON, async || {
        let job = base.ledger.job(id).await.unwrap().unwrap();
        job.state == State::Completed
    })
    .await;
    assert_eq!(base.ledger.job(id).await.unwrap().unwrap().attempts, 0);
    let it = kept(&base, "press").await;
    assert_eq!((it.state, it.version), (Stands::Ok, 2));
    assert_eq!(outside.requests("token.refresh", "press").await, 1);
    engine.drain(Duration::from_secs(5)).await;
}
