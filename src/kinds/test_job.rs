//! `test.job`: a job whose behaviour is named by its payload, for trying a set-up, for figures and
//! for tests. An empty payload returns at once.

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Time;
use crate::config::Config;
use crate::context::Context;
use crate::handler::{AGE_MAX_S, Defaults, Handler};
use crate::job::Envelope;
use crate::json::Violation;
use crate::outcome::{Class, Failure, Outcome, Scope};
use crate::retry::Policy;

/// What it shall do, in this order: take a permit, tell progress, wait, block, snooze, panic, fail, succeed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Payload {
    /// Milliseconds that each attempt waits; at most a day.
    sleep_ms: u64,
    /// Milliseconds that each attempt blocks its thread; at most a minute.
    spin_ms: u64,
    /// Milliseconds that it is put off, once.
    snooze_ms: u64,
    /// The first attempts that panic.
    panic_times: u32,
    /// The attempts after those that fail.
    fail_times: u32,
    /// The class of those failures.
    class: FailAs,
    /// The code of those failures.
    code: Option<String>,
    /// When those failures say to come back, in milliseconds.
    retry_after_ms: Option<u64>,
    /// Tells its progress while it waits.
    progress: bool,
    /// Waits on even when it is told to stop.
    ignore_cancel: bool,
    /// An operation that each attempt takes a permit for, as a request does; its budgets count it.
    op: Option<String>,
    /// Its result.
    result: Value,
}

/// A class of failure.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum FailAs {
    #[default]
    Transient,
    Throttled,
    Permanent,
    Unauthorised,
    Unknown,
}

impl FailAs {
    fn class(self) -> Class {
        match self {
            Self::Transient => Class::Transient,
            Self::Throttled => Class::Throttled,
            Self::Permanent => Class::Permanent,
            Self::Unauthorised => Class::Unauthorised,
            Self::Unknown => Class::Unknown,
        }
    }
}

/// The longest wait: a day.
const SLEEP_MAX_MS: u64 = 86_400_000;
/// The longest block: a minute.
const SPIN_MAX_MS: u64 = 60_000;

/// What it takes a permit for is over within this, where nobody tells.
const PERMIT: Duration = Duration::from_secs(60);

/// The kind.
pub(super) struct TestJob;

impl Handler for TestJob {
    type Payload = Payload;
    const DEFAULTS: Defaults = Defaults {
        name: "test.job",
        about: "does what its payload says: waits, fails, panics, succeeds",
        lane: "default",
        retry: Policy {
            attempts_max: 8,
            base_ms: 2_000,
            cap_ms: 900_000,
        },
        timeout_s: 60,
        age_max_s: AGE_MAX_S,
        platforms: &[],
        example: r#"{"sleep_ms": 200, "fail_times": 1}"#,
    };

    fn preflight(payload: &Payload, _: &Envelope, _: &Config) -> Vec<Violation> {
        let bounds = [
            ("/sleep_ms", payload.sleep_ms, SLEEP_MAX_MS),
            ("/snooze_ms", payload.snooze_ms, SLEEP_MAX_MS),
            ("/spin_ms", payload.spin_ms, SPIN_MAX_MS),
        ];
        let beyond = bounds.into_iter().filter(|(_, is, most)| most < is);
        beyond
            .map(|(pointer, is, most)| Violation::new(pointer, format!("is {is}; at most {most}")))
            .collect()
    }

    async fn run(cx: &Context, payload: Payload) -> Result<Value, Outcome> {
        let permit = match &payload.op {
            Some(op) => Some(cx.permit(op, PERMIT).await?),
            None => None,
        };
        sleep(cx, &payload).await?;
        drop(permit);
        spin(payload.spin_ms);
        if 0 < payload.snooze_ms {
            snooze(cx, payload.snooze_ms).await?;
        }
        // the attempts' number stands still where an attempt isn't charged
        let turn = match payload.class.class() {
            Class::Transient | Class::Permanent => cx.attempt,
            Class::Throttled | Class::Unauthorised | Class::Unknown => cx.job.epoch,
        };
        if cx.attempt <= payload.panic_times {
            panic!("test.job was asked to panic in attempt {}", cx.attempt);
        }
        if turn <= payload.panic_times.saturating_add(payload.fail_times) {
            return Err(failure(&payload, turn).into());
        }
        Ok(payload.result)
    }
}

fn failure(payload: &Payload, turn: u32) -> Failure {
    let code = payload.code.as_deref().unwrap_or("asked");
    let message = format!("test.job was asked to fail (turn {turn})");
    let mut failure = Failure::new(payload.class.class(), Scope::Handler, code, message);
    failure.retry_after_ms = payload.retry_after_ms;
    failure
}

/// Waits in ten parts, so that there is progress to tell.
async fn sleep(cx: &Context, payload: &Payload) -> Result<(), Outcome> {
    const PARTS: u32 = 10;
    if payload.progress {
        cx.progress(0, "waiting");
    }
    let part = Duration::from_millis(payload.sleep_ms) / PARTS;
    for i in 1..=PARTS {
        if part.is_zero() {
            continue;
        }
        match payload.ignore_cancel {
            true => tokio::time::sleep(part).await,
            false => cx.wait(part).await?,
        }
        if payload.progress {
            let percent = u8::try_from(i * 100 / PARTS).unwrap_or(100);
            cx.progress(percent, "waiting");
        }
    }
    Ok(())
}

fn spin(ms: u64) {
    let end = Instant::now() + Duration::from_millis(ms.min(SPIN_MAX_MS));
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// Puts the job off, once: when that was is a recorded step.
async fn snooze(cx: &Context, ms: u64) -> Result<(), Outcome> {
    let wait = chrono::Duration::milliseconds(i64::try_from(ms).unwrap_or(i64::MAX / 2));
    let mut now_set = false;
    let set = async {
        now_set = true;
        Ok(cx.http.now() + wait)
    };
    let until: Time = cx.step("snoozed", set).await?;
    match now_set {
        true => Err(Outcome::Snoozed {
            until,
            reason: "test.job was asked to snooze".to_owned(),
        }),
        false => Ok(()),
    }
}
