//! Entries of the quarantine whose kind becomes known: taken once, by however many daemons.

use presswork::clock::Clock;
use presswork::engine::quarantine::Quarantine;
use presswork::job::JobId;
use presswork::ledger::{Quarantined, Reason};
use presswork::lifecycle::State;
use presswork::operate::Known;
use serde_json::{Value, json};

use crate::probe::{World, kinds};
use crate::rig::{Base, Rig};
use crate::wrap::Faulty;
use crate::{LANE, usual};

/// As a daemon kept it that didn't know the kind.
fn entry(envelope: &Value) -> Quarantined {
    Quarantined {
        id: JobId::mint(),
        door: "inbox".into(),
        at: Clock::System.now(),
        reason: Reason::UnknownKind,
        message: "it is no kind that this daemon knows".into(),
        kind: envelope["kind"].as_str().map(str::to_owned),
        bytes: envelope.to_string().into_bytes(),
    }
}

fn keeper(rig: &Rig) -> Quarantine {
    Quarantine::new(rig.shared.clone(), rig.doors.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_its_kind_is_taken_once_by_two_daemons() {
    for base in Base::both().await {
        let (one, two) = (
            Rig::new(&base, kinds(), usual).await,
            Rig::new(&base, kinds(), usual).await,
        );
        let world = World::new();
        let many: Vec<_> = (0..130).map(|n| entry(&world.job("note", n))).collect();
        let taken = json!({"kind": "test.job", "payload": {"result": 1}, "key": "k"});
        one.enqueue(&taken).await;
        let wrong = entry(&json!({"kind": "test.job", "payload": {"fial_times": 1}}));
        let clash = entry(&json!({"kind": "test.job", "payload": {"result": 2}, "key": "k"}));
        let foreign = entry(&json!({"kind": "post.moon", "payload": {}}));
        let ledger = &base.ledger;
        ledger.quarantine(&many).await.unwrap();
        let others = [wrong.clone(), clash.clone(), foreign.clone()];
        ledger.quarantine(&others).await.unwrap();

        let (first, second) = (keeper(&one), keeper(&two));
        let (a, b) = tokio::join!(first.tick(), second.tick());
        let (a, b) = (a.unwrap(), b.unwrap());
        assert!(130 <= a.accepted + b.accepted, "{a:?} {b:?}");
        assert_eq!(a.refused + b.refused, 2, "{a:?} {b:?}");

        // each is one job, and its release is audited once, as the daemon's doing
        for it in &many {
            one.expect(it.id, State::Ready).await;
            let audit = ledger.audit(Some(it.id), 9).await.unwrap();
            assert_eq!(audit.len(), 1, "{audit:?}");
            assert_eq!(audit[0].action, "release");
            assert_eq!(audit[0].actor, "daemon on rig");
        }
        // the others have the reason of now, keep their bytes, and aren't tried again
        let now = async |id| ledger.quarantined_one(id).await.unwrap().unwrap();
        let invalid = now(wrong.id).await;
        assert_eq!(invalid.reason, Reason::Invalid);
        assert!(
            invalid.message.contains("fail_times"),
            "{}",
            invalid.message
        );
        assert_eq!(
            (invalid.bytes, invalid.at),
            (wrong.bytes, now(wrong.id).await.at)
        );
        assert_eq!(now(clash.id).await.reason, Reason::Conflict);
        assert_eq!(now(foreign.id).await.reason, Reason::UnknownKind);
        assert_eq!(first.tick().await.unwrap(), Known::default());

        while one.step(LANE).await != 0 {}
        let mut starts = world.starts();
        assert_eq!(starts.len(), 130);
        starts.sort();
        starts.dedup();
        assert_eq!(starts.len(), 130);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_was_cut_off_makes_no_second_job() {
    for mut base in Base::both().await {
        let faulty = Faulty::new(base.ledger.clone());
        base.ledger = faulty.clone();
        let rig = Rig::new(&base, kinds(), usual).await;
        let world = World::new();
        let it = entry(&world.job("note", 1));
        base.ledger
            .quarantine(std::slice::from_ref(&it))
            .await
            .unwrap();
        // accepted, and killed before the entry was let go
        faulty.away("unquarantine");
        assert!(keeper(&rig).tick().await.is_err());
        faulty.back();
        assert_eq!(rig.step(LANE).await, 1);
        let known = keeper(&rig).tick().await.unwrap();
        assert_eq!((known.accepted, known.refused), (1, 0));
        assert_eq!(base.ledger.quarantined(None, 9).await.unwrap(), []);
        assert_eq!(rig.step(LANE).await, 0);
        assert_eq!(world.starts().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_backlog_lets_nothing_out_of_quarantine() {
    let base = Base::embedded().await;
    let rig = Rig::new(&base, kinds(), |config| config.backlog_max = 1).await;
    rig.enqueue(&json!({"kind": "test.job", "payload": {}}))
        .await;
    let it = entry(&json!({"kind": "test.job", "payload": {}}));
    base.ledger
        .quarantine(std::slice::from_ref(&it))
        .await
        .unwrap();
    assert_eq!(keeper(&rig).tick().await.unwrap(), Known::default());
    assert!(base.ledger.job(it.id).await.unwrap().is_none());
}
