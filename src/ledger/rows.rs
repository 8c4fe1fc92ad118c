//! What goes in and out at the ledger's door.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::breaker::Breaker;
use crate::clock::{Time, stamp};
use crate::effect::{EffectId, EffectState, Evidence, Receipt};
use crate::fair::Fair;
use crate::gate::{Closure, Shut};
use crate::job::{JobId, Priority};
use crate::json::Digest;
use crate::lifecycle::Transition;
use crate::outcome::{Failure, words};
use crate::reference::{Name, Pixels, Reference};

/// What a migration did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Migrated {
    /// The version before it; 0 for an empty store.
    pub from: i64,
    /// The version after it.
    pub to: i64,
}

/// How the store and the program fit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Schema {
    /// The store's version; 0 for an empty one.
    pub found: i64,
    /// The newest version that this program knows.
    pub known: i64,
    /// The store works with programs that know this version at least: a newer program's steps may only
    /// have added to it.
    pub oldest: i64,
}

impl Schema {
    /// Whether this program works with the store.
    pub const fn fits(&self) -> bool {
        self.known <= self.found && self.oldest <= self.known
    }
}

/// Something that stands against calling the ledger durable.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Concern {
    /// The setting: `fsync`.
    pub setting: String,
    /// What it is, what it should be, and why.
    pub message: String,
    /// The daemon must not start with it.
    pub fatal: bool,
}

/// The ledger's answer to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Acceptance {
    /// It is new; due at once or later.
    New {
        /// Its id.
        id: JobId,
        /// It may be dispatched now.
        due: bool,
        /// The last job that said the same for the same account within its guard's window.
        repeats: Option<JobId>,
    },
    /// Nothing was written: its account said the same within its guard's window, which refuses that.
    Repeats {
        /// The job that said it, or is about to.
        id: JobId,
    },
    /// Its key, kind and payload are known: this is the job.
    Same {
        /// The job's id.
        id: JobId,
        /// The options it was accepted with (compact JSON).
        options: String,
    },
    /// Its key is taken by another payload.
    Conflict {
        /// The job that has the key.
        id: JobId,
    },
}

words! {
    /// Why an entry is in quarantine.
    Reason {
        /// It is no JSON, or no envelope.
        Malformed = "malformed",
        /// No daemon here knows its kind.
        UnknownKind = "unknown_kind",
        /// Its payload breaks the kind's schema, or its options break a bound.
        Invalid = "invalid",
        /// It is larger than an envelope may be.
        TooLarge = "too_large",
        /// Its key is taken by another payload.
        Conflict = "conflict",
        /// Its account said the same shortly before.
        Repeats = "repeats",
        /// Who sent it may not make jobs of its kind.
        Forbidden = "forbidden",
        /// The ledger refused it.
        Refused = "refused",
    }
}

/// What couldn't be accepted, with its bytes and the exact reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quarantined {
    /// The id that it would have had.
    pub id: JobId,
    /// The door: `inbox`, `sql`, `http`, `cli`.
    pub door: String,
    /// When it came.
    pub at: Time,
    /// Why it is here.
    pub reason: Reason,
    /// What was wrong, where, and what to write instead.
    pub message: String,
    /// Its kind, where it could be read.
    pub kind: Option<String>,
    /// The bytes as they came.
    #[serde(serialize_with = "lossy")]
    pub bytes: Vec<u8>,
}

fn lossy<S: serde::Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&String::from_utf8_lossy(bytes))
}

/// A hint for the queue: this job may be due. The claim is the ledger's.
#[derive(Clone, Debug, PartialEq)]
pub struct Hint {
    /// The job.
    pub id: JobId,
    /// What goes first.
    pub priority: Priority,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// Whom it acts for; empty without an account.
    pub account: Arc<str>,
    /// Its priority has waited too long, and takes turns with high: see [`crate::fair`].
    pub lifted: bool,
    /// What it takes of its lane's virtual time: see [`Fair::step`](crate::fair::Fair::step).
    pub step: u64,
}

/// Who claims, and what it may take.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The run that will hold the leases. One that ended, or whose lease is past, gets nothing.
    pub run: Uuid,
    /// The queue's generation that gave the hints. `None`: not from a queue.
    pub generation: Option<i64>,
    /// The lane; jobs of another are passed over.
    pub lane: String,
    /// The kinds that the run knows; jobs of another are passed over.
    pub kinds: Arc<[String]>,
    /// Never more of the lane than this run at once, on all hosts together. `None`: no bound.
    pub concurrency: Option<u32>,
    /// Jobs that it names are passed over.
    pub shut: Arc<Shut>,
    /// Whose turn is next, where the hints are the ledger's own.
    pub fair: Arc<Fair>,
}

/// What a write compares: it is made only while this lease is the current one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fence {
    /// The job.
    pub job: JobId,
    /// The job's revision.
    pub revision: u32,
    /// The lease's token.
    pub token: Uuid,
    /// The run that holds it.
    pub run: Uuid,
}

/// What a settlement compares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Guard {
    /// The lease's token: the job is running under it.
    Token(Uuid),
    /// The job's version: nobody changed it since it was read.
    Version(i64),
}

/// One change of a job's state.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The job.
    pub id: JobId,
    /// What must still be true.
    pub guard: Guard,
    /// What follows.
    pub transition: Transition,
    /// The attempt that ended, for the history.
    pub attempt: Option<AttemptEnd>,
    /// The result (JSON text), when completed.
    pub result: Option<String>,
    /// The group of the failure.
    pub fingerprint: Option<String>,
    /// Another payload (an operator's edit); counts the revision on. The key keeps the producer's digest.
    pub edit: Option<Arc<str>>,
    /// Who did it, where a person did.
    pub audit: Option<Audit>,
}

/// How an attempt ended, for the history.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptEnd {
    /// The number of its lease.
    pub epoch: u32,
    /// Its number for people: charged attempts so far, plus one.
    pub number: u32,
    /// The run that ran it.
    pub run: Option<Uuid>,
    /// The host that ran it.
    pub host: String,
    /// When it began.
    pub began_at: Time,
    /// When it ended.
    pub ended_at: Time,
    /// The outcome's word: `completed`, `failed`, `snoozed`, `released`, `reclaimed` ...
    pub outcome: String,
    /// Why it failed.
    pub failure: Option<Failure>,
}

/// An attempt, as the history tells it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attempt {
    /// The number of its lease.
    pub epoch: u32,
    /// Its number for people.
    pub number: u32,
    /// The host that ran it.
    pub host: String,
    /// When it began.
    pub began_at: Time,
    /// When it ended.
    pub ended_at: Time,
    /// The outcome's word.
    pub outcome: String,
    /// Why it failed.
    pub failure: Option<Failure>,
}

/// What became of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is written down.
    Done,
    /// Its guard no longer held: nothing changed.
    Stale,
}

/// A run of the daemon on a host.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// Its id, new at each start.
    pub id: Uuid,
    /// The host's name.
    pub host: String,
    /// The kernel's boot id, where there is one.
    pub boot: Option<String>,
    /// The process.
    pub pid: u32,
    /// The program's version.
    pub version: String,
    /// When it began.
    pub began_at: Time,
}

/// What a daemon must notice within a second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Control {
    /// Jobs of this run that somebody asked to cancel.
    pub cancels: Vec<JobId>,
    /// Lanes that are paused.
    pub paused: Vec<String>,
    /// What is closed, for dispatch to pass over.
    pub closures: Vec<Closure>,
    /// The queue's generation.
    pub generation: i64,
    /// Daemons that are alive, this one included.
    pub live: u32,
}

/// The queue's generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The counter.
    pub number: i64,
    /// The queue's server that it was counted for.
    pub server: Option<String>,
}

/// Where the ledger's server stands in its own history. A timeline names the server and a branch of its
/// history: another one after a standby was promoted.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// The timeline on which effects are permitted.
    pub permitted: String,
    /// The one that the server which answered is on.
    pub current: String,
    /// How far its log is, in bytes from its beginning.
    pub wal: u64,
    /// Where the current timeline began, if the ledger was found on it after another one.
    pub fork: Option<Fork>,
    /// The runs that began on the current timeline, or have told all since.
    pub heard: Vec<Uuid>,
    /// The runs that must tell before effects are permitted.
    pub silent: Vec<Silent>,
}

impl History {
    /// Whether effects are held back: the newest commits of another server may be missing.
    pub fn is_held(&self) -> bool {
        self.permitted != self.current
    }

    /// Whether `current` is an earlier branch of the history that `follows` names: an old primary that
    /// still answers.
    pub fn is_before(current: &str, follows: &str) -> bool {
        match (current.split_once('/'), follows.split_once('/')) {
            // hexadecimal, of one length
            (Some((server, at)), Some((other, then))) => server == other && at < then,
            _ => false,
        }
    }
}

/// Where a timeline began.
#[derive(Clone, Debug, PartialEq)]
pub struct Fork {
    /// When it was found: what was accepted later was sent by nobody before.
    pub found_at: Time,
    /// The last beat of anybody that came along: all that was written before is known.
    pub known_until: Time,
    /// How far its log was then.
    pub wal: u64,
    /// How much of the old server's log certainly didn't come along, in bytes, as far as daemons told.
    pub lost_wal: Option<u64>,
}

/// A run that may have sent what the ledger lost, and hasn't told.
#[derive(Clone, Debug, PartialEq)]
pub struct Silent {
    /// The run.
    pub run: Uuid,
    /// Its host.
    pub host: String,
    /// When it was heard of last.
    pub last_at: Time,
}

/// What a send journal tells of a send.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The effect.
    pub effect: EffectId,
    /// The number of the send, from 1.
    pub send: u32,
    /// When it was permitted, by the ledger's clock.
    pub at: Time,
    /// What it led to; `sending`: no answer was heard.
    pub state: EffectState,
    /// Proof, when confirmed.
    pub receipt: Option<Receipt>,
    /// What was seen.
    pub evidence: Evidence,
}

/// What a testimony changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mended {
    /// Effects that the ledger knew, and that went forward.
    pub forward: usize,
    /// Sends of effects that the ledger doesn't know, kept for whoever comes to them.
    pub kept: usize,
    /// The jobs of those that went forward and are confirmed or refused now.
    pub jobs: Vec<JobId>,
}

/// What is known of a promotion when effects are permitted again.
#[derive(Clone, Debug, PartialEq)]
pub struct Lifted {
    /// Effects that runs which didn't tell may have sent.
    pub doubted: u64,
    /// Sends that were told of which the ledger has no effect: their jobs are lost, or come to them yet.
    pub strange: u64,
    /// How much of the old server's log is certainly lost, in bytes. `None`: no daemon could tell.
    pub lost_wal: Option<u64>,
}

/// How an effect's permit ended, or what was decided of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conclusion {
    /// The state after it.
    pub to: EffectState,
    /// Proof, when confirmed.
    pub receipt: Option<Receipt>,
    /// What was seen.
    pub evidence: Evidence,
    /// The wait before it is looked for, from now on; `None`: it isn't (any more).
    pub look_in: Option<Duration>,
}

impl Conclusion {
    /// What the platform goes on working under, by the receipt.
    pub fn handle(&self) -> Option<&str> {
        self.receipt.as_ref().and_then(Receipt::handle)
    }
}

/// How long it is known that a call-back was taken: longer than a platform repeats one (OpenAI: three
/// days), and far longer than its signature holds.
pub const CALLS_KEPT: Duration = Duration::from_secs(4 * 86_400);

/// A result that may stand in for asking again.
#[derive(Clone, Debug, PartialEq)]
pub struct Offered {
    /// The job that has it.
    pub job: JobId,
    /// When it was offered.
    pub at: Time,
    /// The job's result (JSON text).
    pub result: String,
}

/// What a ledger has to know that was restored from a backup.
#[derive(Clone, Debug, PartialEq)]
pub struct Restored {
    /// The ledger's time when the backup began: what was done after it is unknown.
    pub backup_at: Time,
    /// Somebody vouches that nothing was done after it: no daemon ran since.
    pub nothing_ran: bool,
    /// Who restores it.
    pub actor: String,
    /// The backup, and the reason given.
    pub detail: String,
}

impl Restored {
    /// Why an entry of the quarantine doesn't go on by itself after the restore: behind its message.
    pub fn parked(&self) -> String {
        let at = stamp(self.backup_at);
        format!("; the ledger was restored from a backup of {at}: it may have been accepted since")
    }
}

/// By how much a restore counts the queue's generation on: more than any ledger ever counts, so that
/// the queue of what was lost is never taken for the new one's.
pub const GENERATIONS_SKIPPED: i64 = 1_000_000;

/// Media in the store, as the ledger knows them.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The digest of their bytes.
    pub digest: Digest,
    /// Where their bytes are, within the store; new each time that they are written.
    pub place: String,
    /// Their media type.
    pub mime: String,
    /// Their size in bytes, below 2^63.
    pub size: u64,
    /// Their pixels, when they are a picture.
    pub pixels: Option<Pixels>,
}

impl Stored {
    /// From a row's columns; what of it can't be read.
    pub(super) fn of_columns(
        digest: Digest,
        (place, mime): (String, String),
        size: i64,
        (width, height): (Option<i64>, Option<i64>),
    ) -> Result<Self, String> {
        let number = |it: i64| u32::try_from(it).map_err(|e| format!("{it} pixels: {e}"));
        let pixels = match width.zip(height) {
            Some((width, height)) => Some(Pixels {
                width: number(width)?,
                height: number(height)?,
            }),
            None => None,
        };
        Ok(Self {
            digest,
            place,
            mime,
            size: u64::try_from(size).map_err(|e| format!("{size} bytes: {e}"))?,
            pixels,
        })
    }

    /// How payloads and results tell them.
    pub fn reference(&self) -> Reference {
        Reference {
            media: Name(self.digest),
            mime: self.mime.clone(),
            bytes: self.size,
            pixels: self.pixels,
        }
    }
}

/// What a URL led to.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    /// The URL's digest: it may hold a secret.
    pub url: Digest,
    /// The digest of the URL that answered at last: the validators are its own.
    pub landed: Digest,
    /// The media that came.
    pub media: Digest,
    /// The answer's `ETag`.
    pub etag: Option<String>,
    /// The answer's `Last-Modified`.
    pub last_modified: Option<String>,
    /// When it was asked; written by the ledger's clock, ignored on the way in.
    pub at: Time,
}

/// Where the breaker of a server stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whose it is: a platform and where it is reached.
    pub scope: String,
    /// Counts its changes; 0: nothing is written down of it.
    pub version: i64,
    /// How it stands.
    pub breaker: Breaker,
}

/// A look at a line counts no further than this.
pub const LINE_MAX: u32 = 10_000;
/// A line's pace is that of the last so long.
pub const PACE: Duration = Duration::from_secs(300);

/// Where a job stands in its lane's line, and how fast that goes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Line {
    /// Due jobs whose turn comes before its own, as things stand; [`LINE_MAX`] and one: more than that.
    pub before: u64,
    /// So many jobs of the lane were completed within `span`, which lies within the last [`PACE`].
    pub completed: u64,
    /// How long that took; nothing where there were none.
    pub span: Duration,
}

/// A lane's pause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pause {
    /// The lane.
    pub lane: String,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// When.
    pub at: Time,
}

/// Who did what.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Audit {
    /// Who: a person's login, a token's name, or a loop of the daemon.
    pub actor: String,
    /// What: `revive`, `discard`, `cancel`, `resolve`, `pause` ...
    pub action: String,
    /// The job, where it concerns one.
    pub job: Option<JobId>,
    /// The reason given, and what else explains it.
    pub detail: String,
    /// When; written by the ledger's clock, ignored on the way in.
    pub at: Time,
}
