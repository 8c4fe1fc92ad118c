//! A job for unit tests, which change of it what they are about.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::clock::Time;
use crate::job::{Job, JobId, Priority};
use crate::lifecycle::State;

/// A job of tenant `acme` that was accepted at that time, was due at once, and that nobody has tried yet.
pub fn job(kind: &str, account: &str, at: Time) -> Job {
    Job {
        id: JobId(Uuid::from_u128(1)),
        kind: kind.to_owned(),
        lane: "default".to_owned(),
        tenant: "acme".to_owned(),
        account: Some(account.to_owned()),
        priority: Priority::Normal,
        key: None,
        payload: "{}".into(),
        revision: 0,
        created_at: at,
        run_at: at,
        not_after: None,
        due_at: None,
        late: None,
        late_after_s: None,
        expires_at: at + chrono::Duration::days(1),
        attempts_max: 3,
        timeout_s: 60,
        labels: BTreeMap::new(),
        traceparent: None,
        reply_to: None,
        state: State::Ready,
        attempts: 0,
        crashes: 0,
        epoch: 0,
        version: 1,
        run: None,
        token: None,
        claimed_at: None,
        cancel: false,
        held: None,
        failure: None,
        fingerprint: None,
        progress: None,
        result: None,
        ended_at: None,
    }
}
