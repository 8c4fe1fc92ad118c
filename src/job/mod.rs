//! A job: one request for work, immutable once accepted, and the envelope it came in.

pub mod priority;
pub mod envelope;
pub mod schema;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Time;
use crate::content::Said;
use crate::json::Digest;
use crate::lateness::{Policy, Terms};

pub use envelope::Envelope;
pub use priority::Priority;

/// A job's id: UUIDv7, so that ids sort by their making.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub Uuid);

impl JobId {
    /// A new id.
    pub fn mint() -> Self {
        Self(Uuid::now_v7())
    }

    /// Bits that are fixed for the job and look random: the seed of its jitter.
    pub fn seed(&self) -> u64 {
        let (high, low) = self.0.as_u64_pair();
        high ^ low
    }
}

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for JobId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Uuid::parse_str(text).map(Self).map_err(|_| {
            format!(
                "`{text}` is no job id; write it in full, such as 01a2013b-d0be-76ac-aca2-68db3205294d"
            )
        })
    }
}

/// The tenant of an envelope that names none.
pub const DEFAULT_TENANT: &str = "default";

/// A job as intake hands it to the ledger: checked, with its defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJob {
    /// Minted by the door (the Redis inbox mints it when it moves the entry).
    pub id: JobId,
    /// Which handler.
    pub kind: String,
    /// Which line it waits in.
    pub lane: String,
    /// Whose it is.
    pub tenant: String,
    /// The account it acts for, by its name in the configuration.
    pub account: Option<String>,
    /// What goes first.
    pub priority: Priority,
    /// The idempotency key, unique for (tenant, kind).
    pub key: Option<String>,
    /// The payload's bytes as they came.
    pub payload: Arc<str>,
    /// The digest of the payload's canonical form.
    pub digest: Digest,
    /// Not before. `None`: at once, by the ledger's clock.
    pub run_at: Option<Time>,
    /// Not after: a job that couldn't start by then is dead as `expired`.
    pub not_after: Option<Time>,
    /// What becomes of it when it comes late. `None`: what its kind's settings say by then.
    pub late: Option<Policy>,
    /// How late that is, in seconds after its time. `None`: what its kind's settings say by then.
    pub late_after_s: Option<u32>,
    /// Attempts in all.
    pub attempts_max: u32,
    /// An attempt is ended after this many seconds.
    pub timeout_s: u32,
    /// The oldest it may grow, in seconds from its acceptance, or from `run_at` where that is later,
    /// before it is dead as `expired`.
    pub age_max_s: u32,
    /// The producer's own labels.
    pub labels: BTreeMap<String, String>,
    /// W3C trace context, passed on.
    pub traceparent: Option<String>,
    /// The token of the list that gets the receipt.
    pub reply_to: Option<String>,
    /// The options as asked, for telling what differs in a repeat (compact JSON).
    pub options: String,
    /// What it is going to say, where its account's guard looks.
    pub said: Option<Said>,
}

/// A job as the ledger holds it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Which handler.
    pub kind: String,
    /// Which line it waits in.
    pub lane: String,
    /// Whose it is.
    pub tenant: String,
    /// The account it acts for.
    pub account: Option<String>,
    /// What goes first.
    pub priority: Priority,
    /// The idempotency key.
    pub key: Option<String>,
    /// The payload's bytes as they came.
    #[serde(skip)]
    pub payload: Arc<str>,
    /// Counts the edits of an operator, from 0.
    pub revision: u32,
    /// When it was accepted.
    pub created_at: Time,
    /// Not before.
    pub run_at: Time,
    /// Not after.
    pub not_after: Option<Time>,
    /// When it is too old to go on: its kind's maximum age after it was accepted, or after the
    /// `run_at` it was accepted with where that is later.
    pub expires_at: Time,
    /// When it was to be done: the `run_at` it was accepted with, else its acceptance, or what a person
    /// said since. `None` of finished jobs, and of those that an older version accepted.
    pub due_at: Option<Time>,
    /// What becomes of it when it comes late. `None`: what its kind's settings say.
    pub late: Option<Policy>,
    /// How late that is, in seconds after `due_at`. `None`: what its kind's settings say.
    pub late_after_s: Option<u32>,
    /// Attempts in all.
    pub attempts_max: u32,
    /// An attempt is ended after this many seconds.
    pub timeout_s: u32,
    /// The producer's own labels.
    pub labels: BTreeMap<String, String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// The token of the list that gets the receipt.
    pub reply_to: Option<String>,
    /// Where it stands.
    pub state: crate::lifecycle::State,
    /// Attempts that were charged.
    pub attempts: u32,
    /// Owners that died in a row while they ran it: whatever the handler itself comes to sets it back to
    /// 0. From [`crate::lifecycle::CRASHES_SUSPECT`] on, the one of an attempt that has begun is in it ahead.
    pub crashes: u32,
    /// The number of its lease: how often it was claimed. For people; the token is the fence.
    pub epoch: u32,
    /// Counts the changes of state; what an operator's change compares.
    pub version: i64,
    /// The run that holds its lease.
    pub run: Option<Uuid>,
    /// The lease's token.
    #[serde(skip)]
    pub token: Option<Uuid>,
    /// When the lease was taken.
    pub claimed_at: Option<Time>,
    /// Somebody asked to cancel it.
    pub cancel: bool,
    /// Why it is held.
    pub held: Option<crate::outcome::Held>,
    /// The last failure.
    pub failure: Option<crate::outcome::Failure>,
    /// The group of its last failure.
    pub fingerprint: Option<String>,
    /// How far the running attempt is: percent, and words.
    pub progress: Option<Progress>,
    /// Its result, when completed.
    #[serde(serialize_with = "as_json")]
    pub result: Option<String>,
    /// When it reached its terminal state.
    pub ended_at: Option<Time>,
}

impl Job {
    /// When it is to be done, where that lay ahead when it was accepted, or a person said so since: a place
    /// in budgets is kept for it. Of finished jobs it isn't known any more.
    pub fn wanted_at(&self) -> Option<Time> {
        self.due_at.filter(|it| self.created_at < *it)
    }

    /// When it was to be done, as far as that is known: until its first attempt has ended, `run_at` tells.
    pub fn due(&self) -> Option<Time> {
        let first = || (self.epoch <= 1).then_some(self.run_at);
        self.due_at.or_else(first)
    }

    /// What it says of its own lateness.
    pub fn terms(&self) -> Terms {
        Terms {
            due: self.due(),
            not_after: self.not_after,
            late: self.late,
            late_after_s: self.late_after_s,
        }
    }

    /// What [`crate::lifecycle::advance`] needs to know of it, under its kind's policy.
    pub fn facts(&self, policy: crate::retry::Policy) -> crate::lifecycle::Facts {
        crate::lifecycle::Facts {
            state: self.state,
            attempts: self.attempts,
            attempts_max: self.attempts_max,
            crashes: self.crashes,
            cancel: self.cancel,
            open: false,
            seed: self.id.seed(),
            expires_at: self.expires_at,
            policy,
        }
    }
}

fn as_json<S: serde::Serializer>(text: &Option<String>, s: S) -> Result<S::Ok, S::Error> {
    let value = text
        .as_deref()
        .map(serde_json::from_str::<&serde_json::value::RawValue>);
    match value {
        Some(Ok(raw)) => raw.serialize(s),
        _ => s.serialize_none(),
    }
}

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// 0 to 100.
    pub percent: u8,
    /// What is going on, for people.
    pub message: String,
}
