//! A promoted standby that may lack the newest commits, as the ledger itself sees it: here the same
//! server, whose ledger believes that it was on another timeline before.

use presswork::effect::{Effect, EffectClass, EffectId, EffectState, Evidence, Receipt};
use presswork::job::Job;
use presswork::ledger::{Fence, History, Told};
use serde_json::json;

use super::*;

const BEFORE: &str = "
    UPDATE presswork.meta SET timeline = 'before/00000001';
    UPDATE presswork.workers SET heard = 'before/00000001', beat_at = presswork.now()";
const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(3_600);

struct Scene {
    ledger: Arc<Postgres>,
    url: String,
    claim: Claim,
}

impl Scene {
    async fn new() -> Self {
        let (ledger, url) = ledger().await;
        let claim = begin(&ledger).await;
        Self { ledger, url, claim }
    }

    async fn running(&self) -> (Job, Fence) {
        let new = new_job(None);
        self.ledger
            .accept(std::slice::from_ref(&new))
            .await
            .unwrap();
        let job = self.ledger.claim(&self.claim, &[new.id]).await.unwrap();
        let job = job.into_iter().next().expect("it is free");
        let fence = Fence {
            job: job.id,
            revision: 0,
            token: job.token.unwrap(),
            run: self.claim.run,
        };
        (job, fence)
    }

    async fn history(&self) -> History {
        self.ledger
            .history()
            .await
            .unwrap()
            .expect("a server has one")
    }

    async fn intended(&self, fence: &Fence, class: EffectClass) -> Option<Effect> {
        let new = effect(fence.job, class);
        let found = self.ledger.intend(fence, &new).await.unwrap();
        found.map(|it| it.0)
    }

    async fn permit(&self, fence: &Fence, it: &Effect) -> bool {
        let from = (it.state, it.sends);
        let permit = self
            .ledger
            .permit(fence, it.id, from, Duration::from_secs(1), None);
        permit.await.unwrap()
    }

    async fn one(&self, job: JobId) -> Effect {
        let effects = self.ledger.effects(job).await.unwrap();
        effects.into_iter().next().expect("it has one")
    }

    async fn told(&self, effect: EffectId, send: u32, state: EffectState) -> Told {
        let at = self.ledger.now().await.unwrap();
        let receipt = (state == EffectState::Confirmed).then(|| Receipt {
            remote_id: Some("42".to_owned()),
            url: None,
            at,
            detail: json!(null),
        });
        let seen = format!("send {send}: {state}");
        let evidence = Evidence::new(at, seen);
        Told {
            effect,
            send,
            at,
            state,
            receipt,
            evidence,
        }
    }

    async fn testify(&self, told: Told) -> (usize, usize) {
        let (timeline, run) = (self.history().await.current, self.claim.run);
        let mended = self.ledger.testify(&timeline, run, &[told]).await.unwrap();
        (mended.forward, mended.kept)
    }
}

fn effect(job: JobId, class: EffectClass) -> Effect {
    Effect {
        intent: "what".to_owned(),
        keep: json!({"key": "k"}),
        ..Effect::new((job, 0), ("publish", 0), "alice", "x.post", class)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_another_timeline_nothing_is_permitted_until_all_have_told() {
    let scene = Scene::new().await;
    let (known, fence) = scene.running().await;
    let (unknown, other) = scene.running().await;
    let (refused, third) = scene.running().await;
    let it = scene.intended(&fence, EffectClass::C).await.unwrap();
    let history = scene.history().await;
    assert!(!history.is_held() && history.fork.is_none());
    let generation = scene.ledger.generation().await.unwrap().number;
    sql(&scene.url, BEFORE).await;

    assert!(!scene.permit(&fence, &it).await, "not on another timeline");
    assert!(
        scene.intended(&fence, EffectClass::C).await.is_some(),
        "what is there is shown"
    );
    assert!(
        scene.intended(&other, EffectClass::A).await.is_none(),
        "and nothing new begun"
    );
    assert!(
        scene.history().await.fork.is_none(),
        "a look changes nothing"
    );
    scene.ledger.found().await.unwrap();
    let history = scene.history().await;
    assert!(history.is_held() && history.fork.is_some());
    assert_eq!(history.silent.len(), 1);
    assert_eq!(history.silent[0].run, scene.claim.run);
    let counted = scene.ledger.generation().await.unwrap().number;
    assert_eq!(
        counted,
        generation + 1_000_000,
        "the queue may know a later one"
    );
    // who notices again notes nothing again
    let run = scene.claim.run;
    scene
        .ledger
        .beat(run, &[], LONG)
        .await
        .unwrap()
        .expect("the run is known");
    assert_eq!(scene.history().await.fork, history.fork);
    assert_eq!(
        scene.ledger.lift(&history, (NOW, LONG)).await.unwrap(),
        None
    );

    let confirmed = scene.told(it.id, 1, EffectState::Confirmed).await;
    assert_eq!(scene.testify(confirmed.clone()).await, (1, 0));
    let sent = effect(unknown.id, EffectClass::A).id;
    let sent = scene.told(sent, 1, EffectState::Sending).await;
    assert_eq!(scene.testify(sent.clone()).await, (0, 1));
    let not = effect(refused.id, EffectClass::C).id;
    let not = scene.told(not, 1, EffectState::Refused).await;
    assert_eq!(scene.testify(not).await, (0, 1));
    let stranger = scene
        .told(EffectId(Uuid::new_v4()), 1, EffectState::Confirmed)
        .await;
    assert_eq!(scene.testify(stranger).await, (0, 1));
    assert_eq!(scene.testify(confirmed.clone()).await, (0, 0), "told twice");
    assert_eq!(scene.testify(sent).await, (0, 0), "told twice");
    let later = scene.told(confirmed.effect, 2, EffectState::Sending).await;
    assert_eq!(
        scene.testify(later).await,
        (0, 0),
        "it is confirmed already"
    );
    let elsewhere = scene
        .ledger
        .testify("before/00000001", run, &[confirmed])
        .await;
    assert!(
        elsewhere.unwrap_err().is_away(),
        "an old primary is told nothing"
    );
    let found = scene.one(known.id).await;
    assert_eq!((found.state, found.sends), (EffectState::Confirmed, 1));
    assert_eq!(found.receipt.unwrap().remote_id.as_deref(), Some("42"));
    assert!(
        scene.intended(&other, EffectClass::A).await.is_none(),
        "still held"
    );

    assert!(
        scene
            .ledger
            .heard(&history.current, run, Some(77))
            .await
            .unwrap()
    );
    let history = scene.history().await;
    assert!(history.silent.is_empty());
    assert_eq!(
        scene.ledger.lift(&history, (LONG, LONG)).await.unwrap(),
        None,
        "too early"
    );
    let lifted = scene
        .ledger
        .lift(&history, (NOW, LONG))
        .await
        .unwrap()
        .expect("it is time");
    assert_eq!(
        (lifted.doubted, lifted.strange, lifted.lost_wal),
        (0, 3, Some(77))
    );
    assert_eq!(
        scene.ledger.lift(&history, (NOW, LONG)).await.unwrap(),
        None,
        "once"
    );
    assert!(!scene.history().await.is_held());

    let it = scene
        .intended(&other, EffectClass::A)
        .await
        .expect("it goes on");
    assert_eq!(
        (it.state, it.sends, it.permit_run),
        (EffectState::Sending, 1, Some(run))
    );
    assert!(
        it.key_lost,
        "another key was minted than the one that was sent"
    );
    let it = scene
        .intended(&third, EffectClass::C)
        .await
        .expect("it goes on");
    assert_eq!((it.state, it.sends), (EffectState::Refused, 1));
    assert!(
        scene.permit(&third, &it).await,
        "it certainly didn't happen"
    );
    let audit = scene.ledger.audit(None, 10).await.unwrap();
    let promotion = audit
        .iter()
        .find(|it| it.action == "promotion")
        .expect("it is told");
    assert!(
        promotion.detail.contains("at least 77 bytes are lost"),
        "{}",
        promotion.detail
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_silent_run_may_have_sent_is_doubted_until_it_tells() {
    let scene = Scene::new().await;
    let (known, fence) = scene.running().await;
    let (begun, second) = scene.running().await;
    let (_, third) = scene.running().await;
    let it = scene.intended(&fence, EffectClass::C).await.unwrap();
    let sending = scene.intended(&second, EffectClass::B).await.unwrap();
    assert!(scene.permit(&second, &sending).await);
    sql(&scene.url, BEFORE).await;
    scene.ledger.found().await.unwrap();
    let history = scene.history().await;
    assert_eq!(
        scene.ledger.lift(&history, (NOW, LONG)).await.unwrap(),
        None
    );
    let lifted = scene
        .ledger
        .lift(&history, (NOW, NOW))
        .await
        .unwrap()
        .expect("it is time");
    assert_eq!((lifted.doubted, lifted.lost_wal), (2, None));
    let doubted = scene.one(known.id).await;
    assert_eq!((doubted.state, doubted.sends), (EffectState::Unknown, 0));
    assert_eq!(doubted.maybe_since, Some(history.silent[0].last_at));
    let doubted = scene.one(begun.id).await;
    assert_eq!(
        (doubted.state, doubted.key_lost),
        (EffectState::Unknown, true)
    );
    // what is written down only now may have been sent, too; not what was accepted only now
    let late = scene.intended(&third, EffectClass::A).await.unwrap();
    assert_eq!((late.state, late.key_lost), (EffectState::Unknown, true));
    let (_, fresh) = scene.running().await;
    let fresh = scene.intended(&fresh, EffectClass::A).await.unwrap();
    assert_eq!(fresh.state, EffectState::Intended);

    let came_back = scene.told(it.id, 1, EffectState::Confirmed).await;
    assert_eq!(scene.testify(came_back).await, (1, 0));
    let cleared = scene.one(known.id).await;
    assert_eq!(
        (cleared.state, cleared.maybe_since),
        (EffectState::Confirmed, None)
    );
    // but a refusal clears nothing: another may have sent it after that
    let refused = scene.told(late.id, 1, EffectState::Refused).await;
    assert_eq!(scene.testify(refused).await, (1, 0));
    assert_eq!(scene.one(third.job).await.state, EffectState::Unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_the_new_primary_is_permitted_nothing_by_the_old_one() {
    let scene = Scene::new().await;
    let (_, fence) = scene.running().await;
    let it = scene.intended(&fence, EffectClass::C).await.unwrap();
    let here = scene.history().await.current;
    scene.ledger.follow("7000000000000000000/00000002");
    assert!(!scene.permit(&fence, &it).await);
    scene.ledger.follow(&here);
    assert!(scene.permit(&fence, &it).await);
    for (current, follows, before) in [
        ("7/00000001", "7/00000002", true),
        ("7/0000000F", "7/00000010", true),
        ("7/00000002", "7/00000002", false),
        ("7/00000003", "7/00000002", false),
        ("8/00000001", "7/00000002", false),
    ] {
        assert_eq!(
            History::is_before(current, follows),
            before,
            "{current} {follows}"
        );
    }
}

/// A run that ended before the promotion, or was dead for long, is nobody to wait for; one that ends
/// after it is.
#[tokio::test(flavor = "multi_thread")]
async fn only_who_may_have_sent_what_was_lost_is_waited_for() {
    let scene = Scene::new().await;
    let (ended, dead) = (
        begin(&scene.ledger).await.run,
        begin(&scene.ledger).await.run,
    );
    scene.ledger.end_run(ended).await.unwrap();
    sql(
        &scene.url,
        "UPDATE presswork.workers SET ended_on = 'before/00000001' WHERE ended;
         UPDATE presswork.workers SET heard = 'before/00000001', beat_at = presswork.now()",
    )
    .await;
    let mut connection = PgConnection::connect(&scene.url).await.unwrap();
    let long_ago = "UPDATE presswork.workers SET beat_at = presswork.now() - interval '1 hour',
                    lease_until = presswork.now() - interval '59 minutes' WHERE run = $1";
    sqlx::query(long_ago)
        .bind(dead)
        .execute(&mut connection)
        .await
        .unwrap();
    sql(
        &scene.url,
        "UPDATE presswork.meta SET timeline = 'before/00000001'",
    )
    .await;
    // it stops before anybody has noticed
    scene.ledger.end_run(scene.claim.run).await.unwrap();
    scene.ledger.found().await.unwrap();
    let silent: Vec<Uuid> = scene
        .history()
        .await
        .silent
        .iter()
        .map(|it| it.run)
        .collect();
    assert_eq!(silent, [scene.claim.run]);
    // and who begins now has lost nothing
    let new = begin(&scene.ledger).await.run;
    assert!(scene.history().await.heard.contains(&new));
}
