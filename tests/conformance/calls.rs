//! Work that platforms go on with: whose it is, until it is known what became of it; and call-backs.

use std::time::Duration;

use presswork::effect::{Effect, EffectId, EffectState, Receipt, UNDER_WAY};
use presswork::job::{Job, Progress};
use presswork::ledger::{CALLS_KEPT, Conclusion, Word};
use presswork::lifecycle::Event;

use super::effects::{effect, one, to};
use super::fixture::{Fixture, KIND, fence, job};

const BUDGET: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
const INTENDED: (EffectState, u32) = (EffectState::Intended, 0);

/// A job whose effect was permitted.
async fn sent(f: &Fixture) -> (Job, Effect) {
    let (_, job) = f.start(job(KIND)).await;
    let (mine, wanted) = (fence(&job), effect(&job, "generate"));
    f.intend(&mine, &wanted).await.unwrap();
    assert!(
        f.permit(&mine, wanted.id, INTENDED, BUDGET, None)
            .await
            .unwrap()
    );
    (job, wanted)
}

/// The answer that only says under which id the work goes on.
async fn begun(f: &Fixture, id: &str) -> Conclusion {
    let confirmed = to(f, EffectState::Confirmed, "send 1: confirmed").await;
    let receipt = Receipt {
        remote_id: Some(id.to_owned()),
        url: None,
        at: confirmed.evidence.at,
        detail: serde_json::json!({UNDER_WAY: true}),
    };
    Conclusion {
        receipt: Some(receipt),
        ..confirmed
    }
}

pub async fn a_handle_finds_its_job_until_it_is_let_go(f: Fixture) {
    let (first, wanted) = sent(&f).await;
    assert_eq!(f.job_of_handle("press", "resp_1").await.unwrap(), None);
    let answer = begun(&f, "resp_1").await;
    assert!(f.conclude(wanted.id, 1, &answer).await.unwrap());
    assert_eq!(one(&f, &first).await.handle.as_deref(), Some("resp_1"));
    let found = f.job_of_handle("press", "resp_1").await.unwrap();
    assert_eq!(found, Some(first.id));
    for (account, handle) in [("other", "resp_1"), ("press", "resp_2"), ("press", "")] {
        let found = f.job_of_handle(account, handle).await.unwrap();
        assert_eq!(found, None, "{account} {handle}");
    }
    // of two jobs each lets go of its own only
    let (second, wanted) = sent(&f).await;
    let answer = begun(&f, "resp_2").await;
    assert!(f.conclude(wanted.id, 1, &answer).await.unwrap());
    let over = answer.evidence;
    f.let_go(second.id, "resp_1", &over).await.unwrap();
    f.let_go(first.id, "resp_2", &over).await.unwrap();
    assert_eq!(one(&f, &second).await.evidence.len(), 1);
    f.let_go(second.id, "resp_2", &over).await.unwrap();
    f.let_go(second.id, "resp_2", &over).await.unwrap();
    let gone = one(&f, &second).await;
    assert_eq!((gone.handle, gone.evidence.len()), (None, 2), "said once");
    assert!(gone.receipt.is_some_and(|it| it.handle() == Some("resp_2")));
    assert_eq!(f.job_of_handle("press", "resp_2").await.unwrap(), None);
    let found = f.job_of_handle("press", "resp_1").await.unwrap();
    assert_eq!(found, Some(first.id));
}

pub async fn a_handle_comes_with_its_answer_however_late(f: Fixture) {
    let (lost, wanted) = sent(&f).await;
    f.happen(&lost, Event::Reclaimed).await;
    let answer = begun(&f, "resp_1").await;
    assert!(f.conclude(wanted.id, 1, &answer).await.unwrap());
    let found = f.job_of_handle("press", "resp_1").await.unwrap();
    assert_eq!(found, Some(lost.id));
    // an answer that ends it all, and one with an id that no ledger could look for, leave no handle
    for (id, under_way) in [
        ("17", false),
        ("a\u{0}b", true),
        (&"x".repeat(300), true),
        ("", true),
    ] {
        let (job, wanted) = sent(&f).await;
        let mut answer = begun(&f, id).await;
        let receipt = answer.receipt.as_mut().unwrap();
        receipt.detail = serde_json::json!({UNDER_WAY: under_way});
        assert!(f.conclude(wanted.id, 1, &answer).await.unwrap());
        assert_eq!(one(&f, &job).await.handle, None, "{id}");
    }
}

pub async fn a_call_back_is_known_for_days_and_then_forgotten(f: Fixture) {
    let heard = async |account: &str, id: &str| f.was_called(account, id).await.unwrap();
    assert!(!heard("press", "wh_1").await);
    f.note_call("press", "wh_1").await.unwrap();
    f.note_call("press", "wh_1").await.unwrap();
    assert!(heard("press", "wh_1").await);
    assert!(!heard("other", "wh_1").await && !heard("press", "wh_2").await);
    f.shift(3 * 86_400).await;
    f.tidy(DAY, DAY).await.unwrap();
    assert!(
        heard("press", "wh_1").await,
        "platforms repeat for three days"
    );
    f.note_call("press", "wh_2").await.unwrap();
    let kept = i64::try_from(CALLS_KEPT.as_secs()).unwrap();
    f.shift(kept - 3 * 86_400 + 1).await;
    f.tidy(DAY, DAY).await.unwrap();
    assert!(!heard("press", "wh_1").await && heard("press", "wh_2").await);
}

pub async fn what_a_call_back_says_is_kept_and_the_first_end_stays(f: Fixture) {
    let half = Word::Progress(Progress {
        percent: 40,
        message: "half".to_owned(),
    });
    let end = |text: &str| Word::End(format!("{{\"Done\":\"{text}\"}}"));
    let (job, wanted) = sent(&f).await;
    let said = async |account: &str, id: EffectId, word: &Word| {
        f.called_back(account, id, word).await.unwrap()
    };
    // before its answer is here, too
    assert_eq!(said("press", wanted.id, &half).await, Some(job.id));
    let found = f.job(job.id).await.unwrap().unwrap();
    assert_eq!(found.progress.unwrap().percent, 40);
    for (account, id) in [("other", wanted.id), ("press", EffectId(uuid::Uuid::nil()))] {
        assert_eq!(said(account, id, &end("a")).await, None);
        assert_eq!(said(account, id, &half).await, None);
    }
    assert_eq!(one(&f, &job).await.told, None);
    assert_eq!(said("press", wanted.id, &end("a")).await, Some(job.id));
    assert_eq!(said("press", wanted.id, &end("b")).await, Some(job.id));
    assert_eq!(
        one(&f, &job).await.told.as_deref(),
        Some("{\"Done\":\"a\"}")
    );
    // once nothing is under way any more, nothing is heard
    let answer = begun(&f, "resp_1").await;
    assert!(f.conclude(wanted.id, 1, &answer).await.unwrap());
    assert_eq!(said("press", wanted.id, &half).await, Some(job.id));
    f.let_go(job.id, "resp_1", &answer.evidence).await.unwrap();
    assert_eq!(said("press", wanted.id, &half).await, None);
    assert_eq!(said("press", wanted.id, &end("c")).await, None);
}
