//! Accounts of the ledger, as one daemon comes to know them: added, given away, and without their key.

use std::collections::BTreeMap;

use presswork::account::{Credentials, Kept, State as Stands};
use presswork::config::{Config, Home};
use presswork::engine::accounts::learn;
use presswork::gate::{Cause, Scope};
use presswork::lifecycle::State;
use presswork::operate::accounts::{Wanted, add, remove};
use presswork::operate::stops::{self, Hand};
use presswork::outcome::Held;
use presswork::vault::{Key, Vault};
use serde_json::{Value, json};

use crate::LANE;
use crate::probe::{Says, World, kinds};
use crate::rig::{Base, Rig, somebody};

fn vault(n: u8) -> Vault {
    let text = format!("{n:02x}{}", "1f".repeat(31));
    Vault::new(vec![Key::read("one", &text.into()).unwrap()])
}

fn keyed(config: &mut Config) {
    config.vault = vault(1);
}

/// The ledger takes an account of a platform that this test's kind knows nothing of: it only names it.
async fn added(base: &Base, tenant: Option<&str>) -> Kept {
    let mut config = Config::default_embedded(std::path::Path::new("/nowhere"));
    keyed(&mut config);
    let wanted = Wanted {
        name: "press".to_owned(),
        platform: "x".to_owned(),
        tenant: tenant.map(str::to_owned),
        settings: BTreeMap::from([("base_url".to_owned(), "http://127.0.0.1:1".to_owned())]),
        ..Wanted::default()
    };
    let secret = Credentials::of("a-secret-of-some-length".into());
    add(&*base.ledger, &config, wanted, &secret, &somebody())
        .await
        .unwrap()
}

fn post(world: &World) -> Value {
    let mut envelope = world.job("keyed", "x");
    envelope["account"] = "press".into();
    envelope
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_just_added_is_known_when_a_job_comes_to_it() {
    for base in Base::both().await {
        let rig = Rig::new(&base, kinds(), keyed).await;
        let world = World::new();
        world.answers([Says::Yes]);
        let id = rig.enqueue(&post(&world)).await;
        let kept = added(&base, None).await;
        assert_eq!(rig.step(LANE).await, 1);
        rig.expect(id, State::Completed).await;
        let config = rig.shared.config.load_full();
        let home = config.accounts["press"].home;
        assert_eq!(home, Home::Ledger { version: 1 });
        // nothing has changed since, and then it is gone
        assert!(!learn(&rig.shared).await.unwrap());
        remove(&*base.ledger, &config, &kept.name, false, &somebody())
            .await
            .unwrap();
        assert!(learn(&rig.shared).await.unwrap());
        assert!(!rig.shared.config.load().accounts.contains_key("press"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_does_not_begin_for_an_account_of_another_tenant() {
    for base in Base::both().await {
        let rig = Rig::new(&base, kinds(), keyed).await;
        let world = World::new();
        let id = rig.enqueue(&post(&world)).await;
        // it was accepted, and the account is another tenant's since
        added(&base, Some("acme")).await;
        assert_eq!(rig.step(LANE).await, 1);
        let job = rig.expect(id, State::Held).await;
        assert_eq!((job.held, job.attempts), (Some(Held::Account), 0));
        let failure = job.failure.expect("why it is held");
        assert_eq!(failure.code, "wrong_tenant");
        assert!(!failure.message.contains("acme"), "{failure}");
        assert_eq!(world.sends(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_key_an_accounts_jobs_wait_on_that_host_alone() {
    for base in Base::both().await {
        added(&base, None).await;
        let without = Rig::new(&base, kinds(), |it| it.vault = vault(2)).await;
        learn(&without.shared).await.unwrap();
        let world = World::new();
        // it is known, and taken
        let id = without.enqueue(&post(&world)).await;
        assert_eq!(without.step(LANE).await, 0);
        let other = without.enqueue(&world.job("keyed", "y")).await;
        assert_eq!(without.step(LANE).await, 1);
        without.expect(other, State::Completed).await;
        let job = without.expect(id, State::Ready).await;
        assert_eq!((job.attempts, world.sends()), (0, 1));
        let with = Rig::new(&base, kinds(), keyed).await;
        learn(&with.shared).await.unwrap();
        assert_eq!(with.step(LANE).await, 1);
        with.expect(id, State::Completed).await;
        // no stop of anybody's was needed
        let hand = Hand {
            actor: "ann",
            reason: "",
        };
        assert_eq!(stops::go_all(&*base.ledger, hand).await.unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_refused_again_and_again_keeps_nobody_else_back() {
    for base in Base::both().await {
        added(&base, None).await;
        let rig = Rig::new(&base, kinds(), keyed).await;
        let refused = json!({"fail_times": 99, "class": "unauthorised"});
        let envelope = json!({"kind": "test.job", "account": "press", "payload": refused});
        let id = rig.enqueue(&envelope).await;
        let lane = rig.job(id).await.lane;
        let area = Scope {
            account: Some("press".to_owned()),
            ..Scope::default()
        };
        let hand = Hand {
            actor: "ann",
            reason: "nothing is wrong with it",
        };
        for round in 1..5 {
            assert_eq!(rig.step(&lane).await, 1, "{round}");
            rig.expect(id, State::Ready).await;
            let kept = base.ledger.account("press").await.unwrap().unwrap();
            assert_eq!(kept.state, Stands::Attention, "{round}");
            let opened = stops::go_on(&*base.ledger, (None, &area), hand).await;
            assert_eq!(opened.unwrap(), [Cause::Credentials], "{round}");
            rig.shared.look_at_closures().await.unwrap();
        }
        assert_eq!(rig.step(&lane).await, 1);
        let job = rig.expect(id, State::Held).await;
        assert_eq!((job.held, job.attempts), (Some(Held::Account), 0));
        assert_eq!(base.ledger.closures().await.unwrap(), []);
    }
}
