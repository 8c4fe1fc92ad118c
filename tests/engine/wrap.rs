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
        self.gate("migrate").await?;
        let it = self.inner.migrate().await;
        self.after("migrate").await?;
        it
    }
    async fn schema(&self) -> Result<Schema> {
        self.gate("schema").await?;
        let it = self.inner.schema().await;
        self.after("schema").await?;
        it
    }
    async fn concerns(&self) -> Result<Vec<Concern>> {
        self.gate("concerns").await?;
        let it = self.inner.concerns().await;
        self.after("concerns").await?;
        it
    }
    async fn now(&self) -> Result<Time> {
        self.gate("now").await?;
        let it = self.inner.now().await;
        self.after("now").await?;
        it
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
        self.gate("quarantine").await?;
        let it = self.inner.quarantine(entries).await;
        self.after("quarantine").await?;
        it
    }
    async fn quarantined(&self, kind: Option<&str>, limit: u32) -> Result<Vec<Quarantined>> {
        self.gate("quarantined").await?;
        let it = self.inner.quarantined(kind, limit).await;
        self.after("quarantined").await?;
        it
    }
    async fn quarantined_one(&self, id: JobId) -> Result<Option<Quarantined>> {
        self.gate("quarantined_one").await?;
        let it = self.inner.quarantined_one(id).await;
        self.after("quarantined_one").await?;
        it
    }
    async fn quarantined_kinds(&self, kinds: &[String], limit: u32) -> Result<Vec<JobId>> {
        self.gate("quarantined_kinds").await?;
        let it = self.inner.quarantined_kinds(kinds, limit).await;
        self.after("quarantined_kinds").await?;
        it
    }
    async fn requarantine(&self, from: Reason, entry: &Quarantined) -> Result<bool> {
        self.gate("requarantine").await?;
        let it = self.inner.requarantine(from, entry).await;
        self.after("requarantine").await?;
        it
    }
    async fn unquarantine(&self, id: JobId, audit: &Audit) -> Result<bool> {
        self.gate("unquarantine").await?;
        let it = self.inner.unquarantine(id, audit).await;
        self.after("unquarantine").await?;
        it
    }
    async fn due(
        &self,
        lane: &str,
        kinds: &[String],
        shut: &Shut,
        fair: &Fair,
        limit: u32,
    ) -> Result<Vec<Hint>> {
        self.gate("due").await?;
        let it = self.inner.due(lane, kinds, shut, fair, limit).await;
        self.after("due").await?;
        it
    }
    async fn due_in(
        &self,
        lanes: &[String],
        kinds: &[String],
        shut: &Shut,
        fair: &Fair,
        limit: u32,
    ) -> Result<BTreeMap<String, Vec<Hint>>> {
        self.gate("due_in").await?;
        let it = self.inner.due_in(lanes, kinds, shut, fair, limit).await;
        self.after("due_in").await?;
        it
    }
    async fn claim(&self, claim: &Claim, ids: &[JobId]) -> Result<Vec<Job>> {
        self.gate("claim").await?;
        let it = self.inner.claim(claim, ids).await;
        self.after("claim").await?;
        it
    }
    async fn claim_due(&self, claim: &Claim, limit: u32) -> Result<Vec<Job>> {
        self.gate("claim_due").await?;
        let it = self.inner.claim_due(claim, limit).await;
        self.after("claim_due").await?;
        it
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
        self.gate("lost").await?;
        let it = self.inner.lost(limit).await;
        self.after("lost").await?;
        it
    }
    async fn expired(&self, limit: u32) -> Result<Vec<Job>> {
        self.gate("expired").await?;
        let it = self.inner.expired(limit).await;
        self.after("expired").await?;
        it
    }
    async fn progress(&self, batch: &[(JobId, Uuid, Progress)]) -> Result<()> {
        self.gate("progress").await?;
        let it = self.inner.progress(batch).await;
        self.after("progress").await?;
        it
    }
    async fn running(&self, lane: &str) -> Result<Vec<(JobId, Uuid)>> {
        self.gate("running").await?;
        let it = self.inner.running(lane).await;
        self.after("running").await?;
        it
    }
    async fn line(&self, job: &Job, kinds: &[String], shut: &Shut, fair: &Fair) -> Result<Line> {
        through!(self, line(job, kinds, shut, fair))
    }
    async fn lease(&self, run: Uuid) -> Result<Option<Time>> {
        through!(self, lease(run))
    }
    async fn begin_run(&self, run: &Run, lease: Duration) -> Result<()> {
        self.gate("begin_run").await?;
        let it = self.inner.begin_run(run, lease).await;
        self.after("begin_run").await?;
        it
    }
    async fn beat(&self, run: Uuid, jobs: &[JobId], lease: Duration) -> Result<Option<Time>> {
        self.gate("beat").await?;
        let it = self.inner.beat(run, jobs, lease).await;
        self.after("beat").await?;
        it
    }
    async fn end_run(&self, run: Uuid) -> Result<()> {
        self.gate("end_run").await?;
        let it = self.inner.end_run(run).await;
        self.after("end_run").await?;
        it
    }
    async fn live_runs(&self) -> Result<Vec<Run>> {
        self.gate("live_runs").await?;
        let it = self.inner.live_runs().await;
        self.after("live_runs").await?;
        it
    }
    async fn control(&self, run: Uuid) -> Result<Control> {
        self.gate("control").await?;
        let it = self.inner.control(run).await;
        self.after("control").await?;
        it
    }
    async fn generation(&self) -> Result<Generation> {
        self.gate("generation").await?;
        let it = self.inner.generation().await;
        self.after("generation").await?;
        it
    }
    async fn next_generation(&self, from: i64, server: &str) -> Result<Option<i64>> {
        self.gate("next_generation").await?;
        let it = self.inner.next_generation(from, server).await;
        self.after("next_generation").await?;
        it
    }
    async fn step(&self, job: JobId, revision: u32, name: &str) -> Result<Option<String>> {
        self.gate("step").await?;
        let it = self.inner.step(job, revision, name).await;
        self.after("step").await?;
        it
    }
    async fn record_step(&self, fence: &Fence, name: &str, value: &str) -> Result<bool> {
        self.gate("record_step").await?;
        let it = self.inner.record_step(fence, name, value).await;
        self.after("record_step").await?;
        it
    }
    async fn intend(&self, fence: &Fence, effect: &Effect) -> Result<Option<(Effect, Time)>> {
        self.gate("intend").await?;
        let it = self.inner.intend(fence, effect).await;
        self.after("intend").await?;
        it
    }
    async fn permit(
        &self,
        fence: &Fence,
        id: EffectId,
        from: (presswork::effect::EffectState, u32),
        budget: Duration,
        platform: Option<&str>,
    ) -> Result<bool> {
        self.gate("permit").await?;
        let it = self.inner.permit(fence, id, from, budget, platform).await;
        self.after("permit").await?;
        it
    }
    async fn repeats(&self, id: EffectId, within: Duration) -> Result<Option<Effect>> {
        self.inner.repeats(id, within).await
    }
    async fn conclude(&self, id: EffectId, sends: u32, conclusion: &Conclusion) -> Result<bool> {
        self.gate("conclude").await?;
        let it = self.inner.conclude(id, sends, conclusion).await;
        self.after("conclude").await?;
        it
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
        self.gate("decide").await?;
        let it = self.inner.decide(id, from, conclusion, audit).await;
        self.after("decide").await?;
        it
    }
    async fn witness(&self, id: EffectId, evidence: &Evidence) -> Result<()> {
        self.gate("witness").await?;
        let it = self.inner.witness(id, evidence).await;
        self.after("witness").await?;
        it
    }
    async fn effects(&self, job: JobId) -> Result<Vec<Effect>> {
        self.gate("effects").await?;
        let it = self.inner.effects(job).await;
        self.after("effects").await?;
        it
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
        self.gate("job").await?;
        let it = self.inner.job(id).await;
        self.after("job").await?;
        it
    }
    async fn job_of_key(&self, tenant: &str, kind: &str, key: &str) -> Result<Option<JobId>> {
        through!(self, job_of_key(tenant, kind, key))
    }
    async fn attempts(&self, id: JobId) -> Result<Vec<Attempt>> {
        self.gate("attempts").await?;
        let it = self.inner.attempts(id).await;
        self.after("attempts").await?;
        it
    }
    async fn jobs(&self, filter: &Filter) -> Result<Vec<Job>> {
        self.gate("jobs").await?;
        let it = self.inner.jobs(filter).await;
        self.after("jobs").await?;
        it
    }
    async fn groups(&self, filter: &Filter) -> Result<Vec<Group>> {
        self.gate("groups").await?;
        let it = self.inner.groups(filter).await;
        self.after("groups").await?;
        it
    }
    async fn counts(&self) -> Result<BTreeMap<(String, presswork::lifecycle::State), u64>> {
        self.gate("counts").await?;
        let it = self.inner.counts().await;
        self.after("counts").await?;
        it
    }
    async fn paused(&self) -> Result<Vec<Pause>> {
        self.gate("paused").await?;
        let it = self.inner.paused().await;
        self.after("paused").await?;
        it
    }
    async fn pause(&self, lane: &str, pause: Option<&Pause>, audit: &Audit) -> Result<()> {
        self.gate("pause").await?;
        let it = self.inner.pause(lane, pause, audit).await;
        self.after("pause").await?;
        it
    }
    async fn audit(&self, job: Option<JobId>, limit: u32) -> Result<Vec<Audit>> {
        self.gate("audit").await?;
        let it = self.inner.audit(job, limit).await;
        self.after("audit").await?;
        it
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
        self.gate("offered_result").await?;
        let it = self.inner.offered_result(tenant, request, age).await;
        self.after("offered_result").await?;
        it
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
        self.gate("tidy").await?;
        let it = self.inner.tidy(finished, keys).await;
        self.after("tidy").await?;
        it
    }
}
