//! The ledger's door: the one trait that both implementations keep, and how it fails.
//!
//! Every method is one durable write or one read; batches are written in one statement. Methods
//! are safe to drop: what they began is finished or undone, never left half-open in a pool.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::filter::{Filter, Group};
use super::planned::{Askers, Planned, Waiting};
use super::rows::*;
use crate::account::{Kept, State};
use crate::budget::{Change, Counted, Key};
use crate::clock::Time;
use crate::effect::{Effect, EffectId, Evidence};
use crate::fair::Fair;
use crate::gate::{Cause, Closure, Scope, Shut};
use crate::inbox::Inbox;
use crate::job::{Job, JobId, NewJob, Priority, Progress};
use crate::json::Digest;
use crate::oauth::begun::{Begun, Ended};
use crate::token::{Token, TokenId};

/// What can go wrong at the ledger's door.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It can't be reached, or isn't ready: later it may.
    #[error("the ledger can't be reached: {0}")]
    Away(String),
    /// Its schema is newer than this program.
    #[error("{0}")]
    Schema(String),
    /// It refused one of a batch: bisect to find which.
    #[error("the ledger refused a row: {0}")]
    Row(String),
    /// Anything else: a defect, or a ledger that was tampered with.
    #[error("the ledger failed: {0}")]
    Other(String),
}

impl LedgerError {
    /// Whether the same call may work later.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Away(_))
    }
}

/// The result of a call to the ledger.
pub type Result<T> = std::result::Result<T, LedgerError>;

/// What a call-back says of work, where its platform is believed.
#[derive(Clone, Debug, PartialEq)]
pub enum Word {
    /// How far it is.
    Progress(Progress),
    /// How it ended, as JSON.
    End(String),
}

/// The ledger's answer to jobs that go together.
#[derive(Clone, Debug, PartialEq)]
pub enum Together {
    /// All are there: new, or the same again. One answer each, in order.
    Written(Vec<Acceptance>),
    /// None was written.
    Refused {
        /// The place of one that can't be, from 0.
        at: usize,
        /// Why: its key is taken, or it repeats.
        why: Acceptance,
    },
}

/// What a write of an account does to its closures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The account is closed for this.
    pub close: Option<Cause>,
    /// What it was closed for, it is no longer.
    pub open: Vec<Cause>,
}

impl Gate {
    /// Of an account that was `was` and becomes `is`: what stands still closes it, and what it leaves opens
    /// it. What a person stopped is let go only by leaving [`State::Paused`].
    pub fn between(was: &Kept, is: &Kept) -> Self {
        let left = |state: State| was.state == state && is.state != state;
        let close = match is.state {
            State::Attention => Some(Cause::Credentials),
            State::Refreshing if is.waits_for_others() => Some(Cause::Credentials),
            State::Paused => Some(Cause::Stop),
            State::Ok | State::Refreshing => None,
        };
        let mut open = Vec::new();
        if left(State::Paused) {
            open.push(Cause::Stop);
        }
        let tried_anew = is.state == State::Ok && was.state != State::Ok;
        if (tried_anew || was.version != is.version) && close != Some(Cause::Credentials) {
            open.push(Cause::Credentials);
        }
        Self { close, open }
    }
}

/// The accounts that the ledger keeps. How one stands and whether its jobs go are one write: see [`Gate`].
#[async_trait]
pub trait Accounts: Send + Sync {
    /// Writes a new account down, whose creation and `since` are the ledger's time; false: the name is
    /// taken, and nothing was written.
    async fn add_account(&self, it: &Kept, audit: &Audit) -> Result<bool>;
    /// One account.
    async fn account(&self, name: &str) -> Result<Option<Kept>>;
    /// All of them, by name.
    async fn accounts(&self) -> Result<Vec<Kept>>;
    /// Writes an account as `it` is, if it is still of the edition of `was`, as it was read: compare-and-set.
    /// Its name, its creation and `since` are the ledger's to keep. The new edition; `None`: somebody else
    /// wrote it or removed it, and nothing was written.
    async fn put_account(
        &self,
        was: &Kept,
        it: &Kept,
        audit: Option<&Audit>,
    ) -> Result<Option<i64>>;
    /// Forgets an account, its credentials with it; whether it was there.
    async fn remove_account(&self, name: &str, audit: &Audit) -> Result<bool>;
    /// Another number after each change of any account, and the same while nothing changes: one row's read.
    async fn accounts_edition(&self) -> Result<i64>;
}

/// Logins that are begun at one place and end at another. What is an hour past is forgotten.
#[async_trait]
pub trait Logins: Send + Sync {
    /// Writes a login down.
    async fn begin_login(&self, it: &Begun) -> Result<()>;
    /// Takes the login of this digest, which is good once and until its time is past; `None`: there is none,
    /// it was taken, or it is too late.
    async fn take_login(&self, digest: &[u8]) -> Result<Option<Begun>>;
    /// Says how it ended.
    async fn end_login(&self, digest: &[u8], end: &Ended) -> Result<()>;
    /// How it ended; `None`: it hasn't.
    async fn login_end(&self, digest: &[u8]) -> Result<Option<Ended>>;
}

/// A job's place among those of its account that come late: by priority, then by the time that they were
/// asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct LatePlace {
    /// The account.
    pub account: String,
    /// What goes first.
    pub priority: Priority,
    /// When the job was to be done.
    pub due: Time,
    /// The job.
    pub id: JobId,
}

/// Which of those before a job are looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LateBefore {
    /// Those that were to be done before this: the others aren't overdue.
    pub due: Time,
    /// Those that began to run, or are to run next, no earlier than this: what was passed over for longer
    /// is shut, or its lane is.
    pub tried: Time,
    /// So many at most: the first ones.
    pub most: u32,
}

/// What a ledger knows of jobs that come late.
#[async_trait]
pub trait Backlog: Send + Sync {
    /// When the jobs run next that go before this one, or began to run: of its account, unfinished, waiting
    /// for nobody.
    async fn late_before(&self, place: &LatePlace, of: &LateBefore) -> Result<Vec<Time>>;
}

/// What budgets ask of the ledger besides what is used of them.
#[async_trait]
pub trait Places: Send + Sync {
    /// The jobs of these that were scheduled for a time less than `ahead` from now, or not longer than
    /// [`super::planned::KEPT_FOR`] ago, and haven't sent anything yet: the nearest first, at most `limit`. Without an
    /// account to go by, of each kind [`super::planned::LOOKED_AT`] are looked through.
    async fn planned(&self, of: &Askers, ahead: Duration, limit: u32) -> Result<Vec<Planned>>;
    /// The jobs of these kinds that wait for their turn, their time or a person, in the order in which they
    /// may run, at most `limit`. For people: it is no quick look.
    async fn backlog(&self, kinds: &[String], limit: u32) -> Result<Vec<Waiting>>;
}

/// The ledger's door.
#[async_trait]
pub trait Ledger: Accounts + Backlog + Logins + Places + Send + Sync + 'static {
    /// `postgres` or `sqlite`.
    fn name(&self) -> &'static str;

    // ---- opening

    /// Brings the schema up to date, under a lock, and says what it applied.
    async fn migrate(&self) -> Result<Migrated>;
    /// The schema's version, and the one that this program knows.
    async fn schema(&self) -> Result<Schema>;
    /// What stands against calling this ledger durable: empty when nothing does.
    async fn concerns(&self) -> Result<Vec<Concern>>;
    /// The ledger's clock: leases and due times are read by it.
    async fn now(&self) -> Result<Time>;

    // ---- intake

    /// The rows that producers committed to the ledger within their own transactions, where it has them.
    fn inbox(self: Arc<Self>) -> Option<Arc<dyn Inbox>> {
        None
    }
    /// Writes jobs down under their idempotency keys. One answer a job, in order. All or nothing:
    /// on [`LedgerError::Row`] none was written. Two of one batch may share a key, or say the same.
    async fn accept(&self, jobs: &[NewJob]) -> Result<Vec<Acceptance>>;
    /// As [`Ledger::accept`], all or none: where one is refused (its key is taken by another payload, or
    /// its account's guard refuses what it says), none is written. No two of them may share a key.
    async fn accept_together(&self, jobs: &[NewJob]) -> Result<Together>;
    /// Keeps what couldn't be accepted. An id that is there already is left as it is.
    async fn quarantine(&self, entries: &[Quarantined]) -> Result<()>;
    /// What is in quarantine, newest first.
    async fn quarantined(&self, kind: Option<&str>, limit: u32) -> Result<Vec<Quarantined>>;
    /// One entry of the quarantine.
    async fn quarantined_one(&self, id: JobId) -> Result<Option<Quarantined>>;
    /// Entries of the quarantine whose kind was unknown and is one of `kinds`, the oldest of a kind
    /// first, at most `limit`.
    async fn quarantined_kinds(&self, kinds: &[String], limit: u32) -> Result<Vec<JobId>>;
    /// Gives an entry of the quarantine the reason and the message of `entry` if its reason is still
    /// `from`; whether it was.
    async fn requarantine(&self, from: Reason, entry: &Quarantined) -> Result<bool>;
    /// Takes an entry out of the quarantine; whether it was there.
    async fn unquarantine(&self, id: JobId, audit: &Audit) -> Result<bool>;

    // ---- dispatch

    /// Due jobs of a lane, at most `limit`: highest priority first, then by the turns of tenants and their
    /// accounts (a job without one counts as one more), by their weights, then oldest `run_at` first. Where
    /// something has been due for longer than `fair` lets its lane's jobs wait, its priority and those above
    /// take turns. Only kinds in `kinds`, and nothing that `shut` names: an account or a
    /// tenant that is shut is passed over without a look at its jobs, where a kind or a label is, job by job.
    async fn due(
        &self,
        lane: &str,
        kinds: &[String],
        shut: &Shut,
        fair: &Fair,
        limit: u32,
    ) -> Result<Vec<Hint>>;
    /// As [`Ledger::due`], of each of these lanes in one look: at most `limit` each, lanes in which
    /// nothing is due left out.
    async fn due_in(
        &self,
        lanes: &[String],
        kinds: &[String],
        shut: &Shut,
        fair: &Fair,
        limit: u32,
    ) -> Result<BTreeMap<String, Vec<Hint>>>;
    /// Takes the leases of those of `ids` that are still claimable and due, and of the claim's lane and
    /// kinds, and that `claim.shut` doesn't name: compare-and-set, a fresh token each, `epoch + 1`, state `running`. Refuses all when
    /// `claim.generation` is behind, or the run ended or its lease is past by the ledger's clock.
    /// Never more than `claim.concurrency` of the lane run across all hosts (serialised per lane where
    /// it is bounded): of more, the first of `ids`. The write may be made durable with the next
    /// synchronous commit (permit, outcome).
    async fn claim(&self, claim: &Claim, ids: &[JobId]) -> Result<Vec<Job>>;
    /// Without a queue: as [`Ledger::claim`], of the jobs that are due now, at most `limit`.
    async fn claim_due(&self, claim: &Claim, limit: u32) -> Result<Vec<Job>>;
    /// Writes transitions, each guarded by its lease's token or its version. One answer each, in
    /// order; a stale guard changes nothing. This is the one way a job's state changes but for claim.
    /// Durable when it returns.
    async fn settle(&self, batch: &[Settlement]) -> Result<Vec<Settled>>;
    /// Running jobs whose run is dead (its lease is past), or lives but no longer names them although
    /// they were claimed before the beat *before* its last one: a list is made after the beat before
    /// it returned, and a job is entered in it before its claim is sent, so only then is its absence
    /// a proof.
    async fn lost(&self, limit: u32) -> Result<Vec<Job>>;
    /// Waiting jobs whose `not_after` or `expires_at` is past.
    async fn expired(&self, limit: u32) -> Result<Vec<Job>>;
    /// Keeps how far running attempts are; lazily durable. Ids without that token are passed over.
    async fn progress(&self, batch: &[(JobId, Uuid, Progress)]) -> Result<()>;
    /// The running jobs of a lane and their runs.
    async fn running(&self, lane: &str) -> Result<Vec<(JobId, Uuid)>>;
    /// Where a job stands in its lane's line, whatever its own state: by what is due of `kinds` and isn't
    /// `shut`, in the order of [`Ledger::due`]; and how fast the line went. A bounded look: see [`LINE_MAX`].
    async fn line(&self, job: &Job, kinds: &[String], shut: &Shut, fair: &Fair) -> Result<Line>;

    // ---- runs

    /// Enters a run of the daemon with a lease of `lease` from now.
    async fn begin_run(&self, run: &Run, lease: Duration) -> Result<()>;
    /// Renews a run's lease and names the jobs that it runs. Returns the lease's new end by the
    /// ledger's clock, or `None` when the run was declared dead meanwhile.
    async fn beat(&self, run: Uuid, jobs: &[JobId], lease: Duration) -> Result<Option<Time>>;
    /// Ends a run's lease at once: it stopped, or is proven dead.
    async fn end_run(&self, run: Uuid) -> Result<()>;
    /// The runs whose lease isn't past.
    async fn live_runs(&self) -> Result<Vec<Run>>;
    /// When a run's lease ends, or did; `None`: it isn't known, or the run was ended.
    async fn lease(&self, run: Uuid) -> Result<Option<Time>>;
    /// What a daemon must notice within a second: cancels of the jobs it runs, paused lanes, what
    /// is closed, the
    /// generation.
    async fn control(&self, run: Uuid) -> Result<Control>;
    /// The queue's generation.
    async fn generation(&self) -> Result<Generation>;
    /// Counts the generation on from `from`, naming the queue's server: `None` when somebody else did.
    async fn next_generation(&self, from: i64, server: &str) -> Result<Option<i64>>;

    // ---- a server that took another one's place. It may have lost the newest commits, and nothing is
    // permitted on it until the send journals of those that sent have told. A file has no standby: what
    // a ledger doesn't say otherwise is that nothing of this ever happens.

    /// Where the server stands in its own history. `None`: nobody can take its place. Changes nothing.
    async fn history(&self) -> Result<Option<History>> {
        Ok(None)
    }
    /// Notes that the server was found on another timeline than effects are permitted on, and where that
    /// one began; once each. So does every beat.
    async fn found(&self) -> Result<()> {
        Ok(())
    }
    /// From now on this door permits on no other timeline than this one.
    fn follow(&self, _timeline: &str) {}
    /// Takes over what a run's send journal tells, if the server is on `timeline`: effects go forward to
    /// it, never back; what isn't known is kept until a job comes to it. An effect is told of once in a
    /// batch, its earlier sends in batches before. Told twice it changes nothing.
    async fn testify(&self, _timeline: &str, _run: Uuid, _told: &[Told]) -> Result<Mended> {
        Ok(Mended::default())
    }
    /// Those of these effects that a send journal told of, that may have happened, and that no job has come
    /// to. `None`: not all journals have told yet, and nothing may be sent.
    async fn told_of(&self, _effects: &[EffectId]) -> Result<Option<Vec<EffectId>>> {
        Ok(Some(Vec::new()))
    }
    /// A run has told all that may have been lost; and how much of the old server's log, in bytes, it
    /// knows to be lost. Whether the run is known.
    async fn heard(&self, _timeline: &str, _run: Uuid, _lost_wal: Option<u64>) -> Result<bool> {
        Ok(false)
    }
    /// Permits effects on the current timeline again: `wait.0` after it was found, if all who may have sent
    /// what was lost have told; else `wait.1` after it, and what the silent ones may have sent is doubted.
    /// `None`: it isn't time, or somebody else did.
    async fn lift(
        &self,
        _history: &History,
        _wait: (Duration, Duration),
    ) -> Result<Option<Lifted>> {
        Ok(None)
    }

    // ---- closures: nothing of their scope is permitted, and dispatch passes over it

    /// Closes a scope, and returns how it is closed then. Of a cause and a scope there is one closure: what
    /// is closed already gets the reason, the actor, and `until`, which is never moved to an earlier time
    /// unless `shorten` says so. `since` is the ledger's. Once it returns no permit is given within the scope.
    async fn close(&self, it: &Closure, shorten: bool, audit: Option<&Audit>) -> Result<Closure>;
    /// Opens what was closed of a scope for a cause; whether it was.
    async fn open(&self, cause: Cause, scope: &Scope, audit: Option<&Audit>) -> Result<bool>;
    /// What is closed now, the oldest first.
    async fn closures(&self) -> Result<Vec<Closure>>;

    // ---- steps and effects

    /// The recorded value of a step (JSON text).
    async fn step(&self, job: JobId, revision: u32, name: &str) -> Result<Option<String>>;
    /// Records a step's value under the lease's token; whether it was written (false: lease lost).
    /// A value that is there already stays.
    async fn record_step(&self, fence: &Fence, name: &str, value: &str) -> Result<bool>;
    /// Writes an effect down as `intended` unless it is there; returns what is there, and the
    /// ledger's time. Of one of class B that is intended or refused, `keep` is written anew: the handle
    /// that was there leads to nothing. `None`: the lease is lost.
    async fn intend(&self, fence: &Fence, effect: &Effect) -> Result<Option<(Effect, Time)>>;
    /// The single-use permit: to `sending` for the current lease, if the effect still is in state
    /// `from` with `sends` permits given so far, the job's lease is this one, and the run's lease
    /// lasts for `budget` more, its guard knows no other that says the same, and the server hasn't taken
    /// another one's place since ([`Ledger::history`]), and nothing is
    /// closed that fits the job, and its account is no other tenant's: `platform` is that of its account, where it is known. A closure that was
    /// committed before this began is seen. `sends + 1`; its looks are counted anew. Durable when it returns.
    async fn permit(
        &self,
        fence: &Fence,
        id: EffectId,
        from: (crate::effect::EffectState, u32),
        budget: Duration,
        platform: Option<&str>,
    ) -> Result<bool>;
    /// The last effect of the same account that says the same as this one, and was permitted within so
    /// long and not refused: the one that the guard of the content looks at.
    async fn repeats(&self, id: EffectId, within: Duration) -> Result<Option<Effect>>;
    /// Ends what a permit began: guarded by the permit's number only (`sends`), so that an answer
    /// that came late is still kept. Adds to the evidence. False: somebody else concluded it.
    async fn conclude(&self, id: EffectId, sends: u32, conclusion: &Conclusion) -> Result<bool>;
    /// A person's, or a decision's, word on an effect that still is in state `from` with `sends`
    /// permits given: of a send that was repeated meanwhile nothing was said.
    async fn decide(
        &self,
        id: EffectId,
        from: (crate::effect::EffectState, u32),
        conclusion: &Conclusion,
        audit: Option<&Audit>,
    ) -> Result<bool>;
    /// Adds to an effect's evidence.
    async fn witness(&self, id: EffectId, evidence: &Evidence) -> Result<()>;
    /// Takes the unknown effects whose next look is due, the longest due first, at most `limit`: their
    /// looks are counted, and nobody else takes them for `hold`.
    async fn looks_due(&self, limit: u32, hold: Duration) -> Result<Vec<Effect>>;
    /// Whether another confirmed effect of the same account and operation, permitted since `since`, has
    /// this remote id for its own.
    async fn is_anothers(&self, effect: &Effect, remote_id: &str, since: Time) -> Result<bool>;
    /// The effects of which this run holds the last permit without a known answer.
    async fn sending(&self, run: Uuid) -> Result<Vec<Effect>>;
    /// The effects of a job, in the order they were written down.
    async fn effects(&self, job: JobId) -> Result<Vec<Effect>>;

    // ---- work that platforms go on with

    // A handle (see `Receipt::handle`) is stored by the write that concludes its effect.

    /// The job that waits for what a platform does under a handle for an account.
    async fn job_of_handle(&self, account: &str, handle: &str) -> Result<Option<JobId>>;
    /// Takes a handle off its job's effect, since it is known what became of the work; adds to the
    /// evidence. Of a handle that is gone already it changes nothing.
    async fn let_go(&self, job: JobId, handle: &str, evidence: &Evidence) -> Result<()>;
    /// Writes down what a call-back said of what `effect` began for `account`: the progress of its job,
    /// or how it ended, of which the first word stays. The job; `None` where nothing is under way by
    /// that effect, nor can be.
    async fn called_back(
        &self,
        account: &str,
        effect: EffectId,
        said: &Word,
    ) -> Result<Option<JobId>>;
    /// Whether a call-back of this id was taken before, within [`CALLS_KEPT`].
    async fn was_called(&self, account: &str, id: &str) -> Result<bool>;
    /// Writes down that a call-back was taken.
    async fn note_call(&self, account: &str, id: &str) -> Result<()>;

    // ---- results of the same request

    /// Offers the result that this job will have, once it has completed, to jobs of its tenant whose
    /// request has this digest, for `age` from now; under the lease's token (false: lease lost). What
    /// a job offered before stays.
    async fn offer_result(&self, fence: &Fence, request: Digest, age: Duration) -> Result<bool>;
    /// The newest result that was offered for a request within `age`, of a job of this tenant that has
    /// completed and is still kept.
    async fn offered_result(
        &self,
        tenant: &str,
        request: Digest,
        age: Duration,
    ) -> Result<Option<Offered>>;

    // ---- media

    // Every text that is written down for a job (payload, step, result) holds the media that it names,
    // and starts their grace anew.

    /// Writes down that media are stored, unless their digest is known; returns what is there then,
    /// whose grace starts anew.
    async fn keep_media(&self, it: &Stored) -> Result<Stored>;
    /// What is stored under a digest; its grace starts anew.
    async fn use_media(&self, digest: Digest) -> Result<Option<Stored>>;
    /// What is stored under these digests, in any order. Changes nothing.
    async fn media(&self, digests: &[Digest]) -> Result<Vec<Stored>>;
    /// The media that a job holds, in the order of their digests.
    async fn held_media(&self, job: JobId) -> Result<Vec<Digest>>;
    /// Forgets media that no job holds and whose grace is over, at most `limit`, and returns them: their
    /// bytes are the caller's to delete. With them goes what was known of their URLs.
    async fn free_media(&self, grace: Duration, limit: u32) -> Result<Vec<Stored>>;
    /// Writes down what a URL led to, by the ledger's clock, in place of what was known; false when
    /// those media are stored no more.
    async fn keep_fetched(&self, it: &Fetched) -> Result<bool>;
    /// What a URL led to when it was last asked.
    async fn fetched(&self, url: Digest) -> Result<Option<Fetched>>;

    // ---- budgets

    /// What is used of these parts of budgets, and the ledger's time. A part that isn't there begins
    /// empty, at version 0.
    async fn counted(&self, keys: &[Key]) -> Result<(Vec<Counted>, Time)>;
    /// Writes all of these if each still has the version that it was read with, which counts on then;
    /// else none. The ledger's time if it did, durable when it returns. No part twice.
    async fn count(&self, counted: &[Counted]) -> Result<Option<Time>>;
    /// All parts of budgets that anything was ever counted in, by name and part.
    async fn all_counted(&self) -> Result<Vec<Counted>>;
    /// Changes a budget, in place of what was changed of it before; when is the ledger's time.
    async fn change_budget(&self, change: &Change, audit: &Audit) -> Result<()>;
    /// Takes the change of a budget back; whether there was one.
    async fn restore_budget(&self, name: &str, audit: &Audit) -> Result<bool>;
    /// What was changed of budgets and isn't past, by name.
    async fn budget_changes(&self) -> Result<Vec<Change>>;

    // ---- looking

    /// One job, unfinished or finished.
    async fn job(&self, id: JobId) -> Result<Option<Job>>;
    /// The job of an idempotency key.
    async fn job_of_key(&self, tenant: &str, kind: &str, key: &str) -> Result<Option<JobId>>;
    /// The attempts of a job, oldest first.
    async fn attempts(&self, id: JobId) -> Result<Vec<Attempt>>;
    /// Jobs that a filter lets through, newest first (dead ones: latest ended first).
    async fn jobs(&self, filter: &Filter) -> Result<Vec<Job>>;
    /// Dead letters by the group of their error, largest first.
    async fn groups(&self, filter: &Filter) -> Result<Vec<Group>>;
    /// Jobs by lane and state, the finished ones left out.
    async fn counts(&self) -> Result<BTreeMap<(String, crate::lifecycle::State), u64>>;
    /// Lanes that are paused, with the reason and who did it.
    async fn paused(&self) -> Result<Vec<Pause>>;
    /// Pauses a lane or lets it go on.
    async fn pause(&self, lane: &str, pause: Option<&Pause>, audit: &Audit) -> Result<()>;
    /// Who did what, newest first, at most `limit`.
    async fn audit(&self, job: Option<JobId>, limit: u32) -> Result<Vec<Audit>>;

    // ---- breakers: where they stand, shared by all hosts

    /// Those that ever counted a failure, by scope.
    async fn breakers(&self) -> Result<Vec<Standing>>;
    /// Writes down how one stands now, if it still is at the version that it was read with: compare-and-set.
    /// Its version is one more then. Whether it was written.
    async fn put_breaker(&self, it: &Standing) -> Result<bool>;

    // ---- tokens of the API

    /// Writes a new token down, whose creation is the ledger's time; false: its id is taken, and nothing
    /// was written.
    async fn add_token(&self, token: &Token, audit: &Audit) -> Result<bool>;
    /// A token, whether it still counts or not, and the ledger's time.
    async fn token(&self, id: TokenId) -> Result<Option<(Token, Time)>>;
    /// Tokens, newest first, at most `limit`.
    async fn tokens(&self, limit: u32) -> Result<Vec<Token>>;
    /// Takes a token back, for good; whether it was there and wasn't taken back before.
    async fn revoke_token(&self, id: TokenId, audit: &Audit) -> Result<bool>;
    /// A token was used: written down if that is a minute ago, lazily durable.
    async fn token_used(&self, id: TokenId) -> Result<()>;

    // ---- housekeeping

    /// Makes room ahead (partitions) and drops what is past its keeping: finished jobs after
    /// `finished`, keys after `keys` from their job's end, offers of results at their end, call-backs after [`CALLS_KEPT`]. Says how much went. In small pieces, and in
    /// bounded time (half a minute): the next call goes on.
    async fn tidy(&self, finished: Duration, keys: Duration) -> Result<u64>;
}
