//! Results that may stand in for asking again: found by their request, within their age.

use std::time::Duration;

use presswork::job::{Job, JobId, NewJob};
use presswork::json::Digest;
use presswork::ledger::{Fence, Settled, Settlement};
use presswork::lifecycle::Event;
use presswork::outcome::Outcome;

use super::fixture::{Fixture, KIND, fence, follows, job};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

fn request(n: u8) -> Digest {
    Digest::of_bytes(&[n])
}

/// Runs a job up to the offer of its result.
async fn offering(f: &Fixture, new: NewJob, n: u8) -> Job {
    let (_, job) = f.start(new).await;
    let offered = f.offer_result(&fence(&job), request(n), HOUR).await;
    assert!(offered.unwrap());
    job
}

async fn complete(f: &Fixture, job: &Job, result: &str) {
    let outcome = Event::Ended(Outcome::Completed(serde_json::Value::Null));
    let settlement = Settlement {
        result: Some(result.to_owned()),
        ..follows(job, outcome, f.time().await)
    };
    assert_eq!(f.settle_one(settlement).await, Settled::Done);
}

async fn found(f: &Fixture, tenant: &str, n: u8, age: Duration) -> Option<(JobId, String)> {
    let found = f.offered_result(tenant, request(n), age).await.unwrap();
    found.map(|it| (it.job, it.result))
}

pub async fn a_result_is_found_once_its_job_has_completed(f: Fixture) {
    assert_eq!(found(&f, "default", 1, HOUR).await, None);
    let first = offering(&f, job(KIND), 1).await;
    assert_eq!(found(&f, "default", 1, HOUR).await, None);
    complete(&f, &first, "1").await;
    let one = Some((first.id, "1".to_owned()));
    assert_eq!(found(&f, "default", 1, HOUR).await, one);
    // one that was offered and whose job ended otherwise hides nothing
    f.shift(1).await;
    let second = offering(&f, job(KIND), 1).await;
    assert_eq!(found(&f, "default", 1, HOUR).await, one);
    f.happen(&second, Event::Ended(Outcome::Cancelled)).await;
    assert_eq!(found(&f, "default", 1, HOUR).await, one);
    f.shift(1).await;
    let third = offering(&f, job(KIND), 1).await;
    complete(&f, &third, "3").await;
    let newest = Some((third.id, "3".to_owned()));
    assert_eq!(found(&f, "default", 1, HOUR).await, newest);
}

pub async fn a_result_belongs_to_a_tenant_and_a_request(f: Fixture) {
    let new = NewJob {
        tenant: "ours".to_owned(),
        ..job(KIND)
    };
    let done = offering(&f, new, 1).await;
    complete(&f, &done, "1").await;
    assert!(found(&f, "ours", 1, HOUR).await.is_some());
    assert_eq!(found(&f, "ours", 2, HOUR).await, None);
    assert_eq!(found(&f, "default", 1, HOUR).await, None);
}

pub async fn a_result_is_found_within_its_age(f: Fixture) {
    let done = offering(&f, job(KIND), 1).await;
    f.shift(600).await;
    complete(&f, &done, "1").await;
    assert!(found(&f, "default", 1, HOUR).await.is_some());
    // counted from when it was there, by whoever asks
    assert_eq!(found(&f, "default", 1, HOUR / 12).await, None);
    f.shift(3_100).await;
    assert_eq!(found(&f, "default", 1, HOUR).await, None);
}

pub async fn a_result_is_offered_under_the_lease_only(f: Fixture) {
    let (_, running) = f.start(job(KIND)).await;
    let lost = Fence {
        token: uuid::Uuid::new_v4(),
        ..fence(&running)
    };
    assert!(!f.offer_result(&lost, request(1), HOUR).await.unwrap());
    // a re-run offers the same again, and the first stays
    let held = fence(&running);
    assert!(f.offer_result(&held, request(1), HOUR).await.unwrap());
    let at = f.time().await;
    f.shift(60).await;
    assert!(f.offer_result(&held, request(1), HOUR).await.unwrap());
    complete(&f, &running, "1").await;
    let offer = f.offered_result("default", request(1), HOUR).await;
    assert!(offer.unwrap().unwrap().at <= at);
}

pub async fn offers_that_are_past_are_dropped(f: Fixture) {
    let done = offering(&f, job(KIND), 1).await;
    complete(&f, &done, "1").await;
    f.tidy(DAY, DAY).await.unwrap();
    assert!(found(&f, "default", 1, HOUR).await.is_some());
    f.shift(3_700).await;
    // by an age that is longer now than when it was offered
    assert!(found(&f, "default", 1, DAY).await.is_some());
    assert!(0 < f.tidy(DAY, DAY).await.unwrap());
    assert_eq!(found(&f, "default", 1, DAY).await, None);
    assert!(f.look(done.id).await.result.is_some());
}
