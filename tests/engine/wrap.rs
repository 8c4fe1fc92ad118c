//! A ledger that misbehaves on request: it is away for some calls, or loses an answer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use presswork::account::Kept;
use presswork::budget::{Change, Counted, Key};
use presswork::clock::Time;
use presswork::effect::{Effect, EffectId, Evidence};
use presswork::fair::Fair;
use presswork::gate::{Cause, Closure, Scope, Shut};
use presswork::job::{Job, JobId, NewJob, Progress};
use presswork::json::Digest;
use presswork::ledger::*;
use presswork::oauth::begun::{Begun, Ended};
use presswork::token::{Token, TokenId};
use uuid::Uuid;

/// A ledger some of whose calls are away before they begin, or whose answers are lost.
pub struct Faulty {
    inner: Arc<dyn Ledger>,
    away: Mutex<HashSet<&'static str>>,
    lost: Mutex<HashSet<&'static str>>,
    calls: Mutex<HashMap<&'static str, u64>>,
    /// Refuses batches with a job of this key.
    poison: Mutex<Option<String>>,
    /// Refuses batches that settle this job.
    unsettled: Mutex<Option<JobId>>,
    /// A call of this name panics.
    panics: Mutex<Option<&'static str>>,
    /// Of calls of these names, the answer of the n-th from now on is lost.
    nth: Mutex<(&'static [&'static str], u32)>,
}

impl Faulty {
    pub fn new(inner: Arc<dyn Ledger>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            away: Mutex::default(),
            lost: Mutex::default(),
            calls: Mutex::default(),
            poison: Mutex::default(),
            unsettled: Mutex::default(),
            panics: Mutex::default(),
            nth: Mutex::default(),
        })
    }

    /// Calls of this name are away until [`Faulty::back`]; `*` means all.
    pub fn away(&self, name: &'static str) {
        self.away.lock().unwrap().insert(name);
    }

    /// Calls of this name are made, and their answers lost, until [`Faulty::back`].
    pub fn lose(&self, name: &'static str) {
        self.lost.lock().unwrap().insert(name);
    }

    /// Of calls of these names, the `n`-th from now on (from 1) is made, and its answer is lost.
    pub fn lose_nth(&self, names: &'static [&'static str], n: u32) {
        *self.nth.lock().unwrap() = (names, n);
    }

    /// Whether the answer of [`Faulty::lose_nth`] was lost.
    pub fn has_lost(&self) -> bool {
        self.nth.lock().unwrap().1 == 0
    }

    pub fn back(&self) {
        self.away.lock().unwrap().clear();
        self.lost.lock().unwrap().clear();
    }

    /// Batches with a job of this key are refused, as a store refuses a row.
    pub fn poison(&self, key: &str) {
        *self.poison.lock().unwrap() = Some(key.to_owned());
    }

    /// Batches that settle this job are refused, as a store refuses a row.
    pub fn never_settle(&self, id: JobId) {
        *self.unsettled.lock().unwrap() = Some(id);
    }

    /// Calls of this name panic.
    pub fn panic_at(&self, name: &'static str) {
        *self.panics.lock().unwrap() = Some(name);
    }

    /// How often a call was asked for.
    pub fn calls(&self, name: &str) -> u64 {
        self.calls.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    async fn gate(&self, name: &'static str) -> Result<()> {
        *self.calls.lock().unwrap().entry(name).or_default() += 1;
        let panics = *self.panics.lock().unwrap() == Some(name);
        assert!(!panics, "the test says so");
        let away = self.away.lock().unwrap();
        match away.contains(name) || away.contains("*") {
            true => Err(LedgerError::Away("the test says so".to_owned())),
            false => Ok(()),
        }
    }

    async fn after(&self, name: &'static str) -> Result<()> {
        let mut nth = self.nth.lock().unwrap();
        let is_next = 0 < nth.1 && nth.0.contains(&name);
        nth.1 -= u32::from(is_next);
        let is_lost = is_next && nth.1 == 0;
        match is_lost || self.lost.lock().unwrap().contains(name) {
            true => Err(LedgerError::Away("the test lost the answer".to_owned())),
            false => Ok(()),
        }
    }
}

/// A call that may be away, or whose answer may be lost.
macro_rules! through {
    ($self:ident, $name:ident($($arg:expr),*)) => {{
        $self.gate(stringify!($name)).await?;
        let it = $self.inner.$name($($arg),*).await;
        $self.after(stringify!($name)).await?;
        it
    }};
}

#[async_trait]
impl Places for Faulty {
    async fn planned(&self, of: &Askers, ahead: Duration, limit: u32) -> Result<Vec<Planned>> {
        through!(self, planned(of, ahead, limit))
    }
    async fn backlog(&self, kinds: &[String], limit: u32) -> Result<Vec<Waiting>> {
        through!(self, backlog(kinds, limit))
    }
}

#[async_trait]
impl Accounts for Faulty {
    async fn add_account(&self, it: &Kept, audit: &Audit) -> Result<bool> {
        through!(self, add_account(it, audit))
    }
    async fn account(&self, name: &str) -> Result<Option<Kept>> {
        through!(self, account(name))
    }
    async fn accounts(&self) -> Result<Vec<Kept>> {
        through!(self, accounts())
    }
    async fn put_account(
        &self,
        was: &Kept,
        it: &Kept,
        audit: Option<&Audit>,
    ) -> Result<Option<i64>> {
        through!(self, put_account(was, it, audit))
    }
    async fn remove_account(&self, name: &str, audit: &Audit) -> Result<bool> {
        through!(self, remove_account(name, audit))
    }
    async fn accounts_edition(&self) -> Result<i64> {
        through!(self, accounts_edition())
    }
}

#[async_trait]
impl Logins for Faulty {
    async fn begin_login(&self, it: &Begun) -> Result<()> {
        through!(self, begin_login(it))
    }
    async fn take_login(&self, digest: &[u8]) -> Result<Option<Begun>> {
        through!(self, take_login(digest))
    }
    async fn end_login(&self, digest: &[u8], end: &Ended) -> Result<()> {
        through!(self, end_login(digest, end))
    }
    async fn login_end(&self, digest: &[u8]) -> Result<Option<Ended>> {
        through!(self, login_end(digest))
    }
}

#[async_trait]
impl Backlog for Faulty {
    async fn late_before(&self, place: &LatePlace, of: &LateBefore) -> Result<Vec<Time>> {
        through!(self, late_before(place, of))
    }
}

#[async_trait]
impl Ledger for Faulty {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    async fn migrate(&self) -> Result<Migrated> {
        through!(self, migrate())
    }
    async fn schema(&self) -> Result<Schema> {
        through!(self, schema())
    }
    async fn concerns(&self) -> Result<Vec<Concern>> {
        through!(self, concerns())
    }
    async fn now(&self) -> Result<Time> {
        through!(self, now())
    }
    async fn accept(&self, jobs: &[NewJob]) -> Result<Vec<Acceptance>> {
        self.gate("accept").await?;
        let poison = self.poison.lock().unwrap().clone();
        if poison.is_some() && jobs.iter().any(|it| it.key == poison) {
            return Err(LedgerError::Row("the test refuses this row".to_owned()));
        }
        let it = self.inner.accept(jobs).await;
        self.after("accept").await?;
        it
    }
    async fn accept_together(&self, jobs: &[NewJob]) -> Result<Together> {
        through!(self, accept_together(jobs))
    }
    async fn quarantine(&self, entries: &[Quarantined]) -> Result<()> {
        through!(self, quarantine(entries))
    }
    async fn quarantined(&self, kind: Option<&str>, limit: u32) -> Result<Vec<Quarantined>> {
        through!(self, quarantined(kind, limit))
    }
    async fn quarantined_one(&self, id: JobId) -> Result<Option<Quarantined>> {
        through!(self, quarantined_one(id))
    }
    async fn quarantined_kinds(&self, kinds: &[String], limit: u32) -> Result<Vec<JobId>> {
        through!(self, quarantined_kinds(kinds, limit))
    }
    async fn requarantine(&self, from: Reason, entry: &Quarantined) -> Result<bool> {
        through!(self, requarantine(from, entry))
    }
    async fn unquarantine(&self, id: JobId, audit: &Audit) -> Result<bool> {
        through!(self, unquarantine(id, audit))
    }
    async fn due(
        &self,
        lane: &str,
        kinds: &[String],
        shut: &Shut,
        fair: &Fair,
        limit: u32,
    ) -> Result<Vec<Hint>> {
        through!(self, due(lane, kinds, shut, fair, limit))
    }
    async fn due_in(
        &self,
        lanes: &[String],
        kinds: &[String],
        shut: &Shut,
        fair: &Fair,
        limit: u32,
    ) -> Result<BTreeMap<String, Vec<Hint>>> {
        through!(self, due_in(lanes, kinds, shut, fair, limit))
    }
    async fn claim(&self, claim: &Claim, ids: &[JobId]) -> Result<Vec<Job>> {
        through!(self, claim(claim, ids))
    }
    async fn claim_due(&self, claim: &Claim, limit: u32) -> Result<Vec<Job>> {
        through!(self, claim_due(claim, limit))
    }
    async fn settle(&self, batch: &[Settlement]) -> Result<Vec<Settled>> {
        self.gate("settle").await?;
        let unsettled = *self.unsettled.lock().unwrap();
        if unsettled.is_some_and(|id| batch.iter().any(|it| it.id == id)) {
            return Err(LedgerError::Row("the test refuses this row".to_owned()));
        }
        let it = self.inner.settle(batch).await;
        self.after("settle").await?;
        it
    }
    async fn lost(&self, limit: u32) -> Result<Vec<Job>> {
        through!(self, lost(limit))
    }
    async fn expired(&self, limit: u32) -> Result<Vec<Job>> {
        through!(self, expired(limit))
    }
    async fn progress(&self, batch: &[(JobId, Uuid, Progress)]) -> Result<()> {
        through!(self, progress(batch))
    }
    async fn running(&self, lane: &str) -> Result<Vec<(JobId, Uuid)>> {
        through!(self, running(lane))
    }
    async fn line(&self, job: &Job, kinds: &[String], shut: &Shut, fair: &Fair) -> Result<Line> {
        through!(self, line(job, kinds, shut, fair))
    }
    async fn lease(&self, run: Uuid) -> Result<Option<Time>> {
        through!(self, lease(run))
    }
    async fn begin_run(&self, run: &Run, lease: Duration) -> Result<()> {
        through!(self, begin_run(run, lease))
    }
    async fn beat(&self, run: Uuid, jobs: &[JobId], lease: Duration) -> Result<Option<Time>> {
        through!(self, beat(run, jobs, lease))
    }
    async fn end_run(&self, run: Uuid) -> Result<()> {
        through!(self, end_run(run))
    }
    async fn live_runs(&self) -> Result<Vec<Run>> {
        through!(self, live_runs())
    }
    async fn control(&self, run: Uuid) -> Result<Control> {
        through!(self, control(run))
    }
    async fn generation(&self) -> Result<Generation> {
        through!(self, generation())
    }
    async fn next_generation(&self, from: i64, server: &str) -> Result<Option<i64>> {
        through!(self, next_generation(from, server))
    }
    async fn step(&self, job: JobId, revision: u32, name: &str) -> Result<Option<String>> {
        through!(self, step(job, revision, name))
    }
    async fn record_step(&self, fence: &Fence, name: &str, value: &str) -> Result<bool> {
        through!(self, record_step(fence, name, value))
    }
    async fn intend(&self, fence: &Fence, effect: &Effect) -> Result<Option<(Effect, Time)>> {
        through!(self, intend(fence, effect))
    }
    async fn permit(
        &self,
        fence: &Fence,
        id: EffectId,
        from: (presswork::effect::EffectState, u32),
        budget: Duration,
        platform: Option<&str>,
    ) -> Result<bool> {
        through!(self, permit(fence, id, from, budget, platform))
    }
    async fn repeats(&self, id: EffectId, within: Duration) -> Result<Option<Effect>> {
        self.inner.repeats(id, within).await
    }
    async fn conclude(&self, id: EffectId, sends: u32, conclusion: &Conclusion) -> Result<bool> {
        through!(self, conclude(id, sends, conclusion))
    }
    async fn looks_due(&self, limit: u32, hold: Duration) -> Result<Vec<Effect>> {
        self.inner.looks_due(limit, hold).await
    }
    async fn is_anothers(&self, effect: &Effect, remote_id: &str, since: Time) -> Result<bool> {
        self.inner.is_anothers(effect, remote_id, since).await
    }
    async fn sending(&self, run: Uuid) -> Result<Vec<Effect>> {
        self.inner.sending(run).await
    }
    async fn decide(
        &self,
        id: EffectId,
        from: (presswork::effect::EffectState, u32),
        conclusion: &Conclusion,
        audit: Option<&Audit>,
    ) -> Result<bool> {
        through!(self, decide(id, from, conclusion, audit))
    }
    async fn witness(&self, id: EffectId, evidence: &Evidence) -> Result<()> {
        through!(self, witness(id, evidence))
    }
    async fn effects(&self, job: JobId) -> Result<Vec<Effect>> {
        through!(self, effects(job))
    }
    async fn keep_media(&self, it: &Stored) -> Result<Stored> {
        through!(self, keep_media(it))
    }
    async fn use_media(&self, digest: Digest) -> Result<Option<Stored>> {
        through!(self, use_media(digest))
    }
    async fn media(&self, digests: &[Digest]) -> Result<Vec<Stored>> {
        through!(self, media(digests))
    }
    async fn held_media(&self, job: JobId) -> Result<Vec<Digest>> {
        through!(self, held_media(job))
    }
    async fn free_media(&self, grace: Duration, limit: u32) -> Result<Vec<Stored>> {
        through!(self, free_media(grace, limit))
    }
    async fn keep_fetched(&self, it: &Fetched) -> Result<bool> {
        through!(self, keep_fetched(it))
    }
    async fn fetched(&self, url: Digest) -> Result<Option<Fetched>> {
        through!(self, fetched(url))
    }
    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        through!(self, job(id))
    }
    async fn job_of_key(&self, tenant: &str, kind: &str, key: &str) -> Result<Option<JobId>> {
        through!(self, job_of_key(tenant, kind, key))
    }
    async fn attempts(&self, id: JobId) -> Result<Vec<Attempt>> {
        through!(self, attempts(id))
    }
    async fn jobs(&self, filter: &Filter) -> Result<Vec<Job>> {
        through!(self, jobs(filter))
    }
    async fn groups(&self, filter: &Filter) -> Result<Vec<Group>> {
        through!(self, groups(filter))
    }
    async fn counts(&self) -> Result<BTreeMap<(String, presswork::lifecycle::State), u64>> {
        through!(self, counts())
    }
    async fn paused(&self) -> Result<Vec<Pause>> {
        through!(self, paused())
    }
    async fn pause(&self, lane: &str, pause: Option<&Pause>, audit: &Audit) -> Result<()> {
        through!(self, pause(lane, pause, audit))
    }
    async fn audit(&self, job: Option<JobId>, limit: u32) -> Result<Vec<Audit>> {
        through!(self, audit(job, limit))
    }
    async fn offer_result(&self, fence: &Fence, request: Digest, age: Duration) -> Result<bool> {
        through!(self, offer_result(fence, request, age))
    }
    async fn offered_result(
        &self,
        tenant: &str,
        request: Digest,
        age: Duration,
    ) -> Result<Option<Offered>> {
        through!(self, offered_result(tenant, request, age))
    }
    async fn job_of_handle(&self, account: &str, handle: &str) -> Result<Option<JobId>> {
        through!(self, job_of_handle(account, handle))
    }
    async fn let_go(&self, job: JobId, handle: &str, evidence: &Evidence) -> Result<()> {
        through!(self, let_go(job, handle, evidence))
    }
    async fn called_back(
        &self,
        account: &str,
        effect: EffectId,
        said: &Word,
    ) -> Result<Option<JobId>> {
        through!(self, called_back(account, effect, said))
    }
    async fn was_called(&self, account: &str, id: &str) -> Result<bool> {
        through!(self, was_called(account, id))
    }
    async fn note_call(&self, account: &str, id: &str) -> Result<()> {
        through!(self, note_call(account, id))
    }
    async fn counted(&self, keys: &[Key]) -> Result<(Vec<Counted>, Time)> {
        through!(self, counted(keys))
    }
    async fn count(&self, counted: &[Counted]) -> Result<Option<Time>> {
        through!(self, count(counted))
    }
    async fn all_counted(&self) -> Result<Vec<Counted>> {
        through!(self, all_counted())
    }
    async fn change_budget(&self, change: &Change, audit: &Audit) -> Result<()> {
        through!(self, change_budget(change, audit))
    }
    async fn restore_budget(&self, name: &str, audit: &Audit) -> Result<bool> {
        through!(self, restore_budget(name, audit))
    }
    async fn budget_changes(&self) -> Result<Vec<Change>> {
        through!(self, budget_changes())
    }
    async fn close(&self, it: &Closure, shorten: bool, audit: Option<&Audit>) -> Result<Closure> {
        through!(self, close(it, shorten, audit))
    }
    async fn open(&self, cause: Cause, scope: &Scope, audit: Option<&Audit>) -> Result<bool> {
        through!(self, open(cause, scope, audit))
    }
    async fn closures(&self) -> Result<Vec<Closure>> {
        through!(self, closures())
    }
    async fn breakers(&self) -> Result<Vec<Standing>> {
        through!(self, breakers())
    }
    async fn put_breaker(&self, it: &Standing) -> Result<bool> {
        through!(self, put_breaker(it))
    }
    async fn add_token(&self, token: &Token, audit: &Audit) -> Result<bool> {
        through!(self, add_token(token, audit))
    }
    async fn token(&self, id: TokenId) -> Result<Option<(Token, Time)>> {
        through!(self, token(id))
    }
    async fn tokens(&self, limit: u32) -> Result<Vec<Token>> {
        through!(self, tokens(limit))
    }
    async fn revoke_token(&self, id: TokenId, audit: &Audit) -> Result<bool> {
        through!(self, revoke_token(id, audit))
    }
    async fn token_used(&self, id: TokenId) -> Result<()> {
        through!(self, token_used(id))
    }
    async fn tidy(&self, finished: Duration, keys: Duration) -> Result<u64> {
        through!(self, tidy(finished, keys))
    }
}
