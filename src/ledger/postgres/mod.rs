//! The ledger over PostgreSQL: one statement a write, no transaction that a dropped call could
//! leave open. The tables are in `migrations/postgres`.

mod connections;
mod pool;
mod codec;
mod schema;
mod media;
mod promotion;
mod intake;
mod sql_door;
mod dispatch;
mod line;
mod late;
mod settle;
mod runs;
mod closures;
mod effects;
mod results;
mod budgets;
mod planned;
mod look;
mod tokens;
mod accounts;
mod logins;
mod tidy;
mod breakers;
mod restore;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use uuid::Uuid;

use crate::account::Kept;
use crate::budget::{Change, Counted, Key};
use crate::clock::Time;
use crate::effect::{Effect, EffectId, EffectState, Evidence};
use crate::fair::Fair;
use crate::gate::{Cause, Closure, Scope, Shut};
use crate::inbox::Inbox;
use crate::job::{Job, JobId, NewJob, Progress};
use crate::json::Digest;
use crate::ledger::door::*;
use crate::ledger::filter::{Filter, Group};
use crate::ledger::planned::{Askers, Planned, Waiting};
use crate::ledger::rows::*;
use crate::lifecycle::State;
use crate::oauth::begun::{Begun, Ended};
use crate::token::{Token, TokenId};

pub use pool::{PgOptions, Role, hooked};
pub use restore::{prepare, renew};
pub use schema::KNOWN;
pub use sql_door::producers_role;

/// A ledger in PostgreSQL 14 or newer.
#[derive(Debug)]
pub struct Postgres {
    pools: Arc<pool::Pools>,
    /// The timeline on which effects are permitted; nothing: the one that the ledger names.
    follows: RwLock<Option<String>>,
}

impl Postgres {
    /// A ledger at `url`. Connects when it is first used; its connections belong to the runtime
    /// that first uses it.
    ///
    /// # Errors
    /// [`LedgerError::Other`] when the URL can't be read.
    pub fn open(url: &SecretString, options: PgOptions) -> Result<Self> {
        let pools = Arc::new(pool::Pools::new(url, options)?);
        Ok(Self {
            pools,
            follows: RwLock::default(),
        })
    }

    /// The server's major version, for whoever runs PostgreSQL's own programs against it.
    ///
    /// # Errors
    /// When it can't be asked; [`LedgerError::Other`] behind PgBouncer, which those programs can't use.
    pub async fn server_major(&self) -> Result<u32> {
        if self.pools.by_bouncer() {
            let said = "the ledger's URL leads to PgBouncer, and PostgreSQL's programs need the server itself: name it for this command, PRESSWORK_LEDGER_URL=postgres://...";
            return Err(LedgerError::Other(said.to_owned()));
        }
        let sql = "SELECT current_setting('server_version_num')::integer / 10000";
        let query = sqlx::query_scalar(sql);
        let major: i32 = self.pools.call(query.fetch_one(self.pools.main())).await?;
        Ok(major.unsigned_abs())
    }

    fn followed(&self) -> Option<String> {
        let follows = self.follows.read().unwrap_or_else(PoisonError::into_inner);
        follows.clone()
    }

    /// Gives every connection back; calls after it fail as away.
    pub async fn close(&self) {
        self.pools.close().await;
    }
}

#[async_trait]
impl Places for Postgres {
    async fn planned(&self, of: &Askers, ahead: Duration, limit: u32) -> Result<Vec<Planned>> {
        planned::nearest(&self.pools, of, ahead, limit).await
    }

    async fn backlog(&self, kinds: &[String], limit: u32) -> Result<Vec<Waiting>> {
        planned::backlog(&self.pools, kinds, limit).await
    }
}

#[async_trait]
impl Accounts for Postgres {
    async fn add_account(&self, it: &Kept, audit: &Audit) -> Result<bool> {
        accounts::add(&self.pools, it, audit).await
    }

    async fn account(&self, name: &str) -> Result<Option<Kept>> {
        accounts::one(&self.pools, name).await
    }

    async fn accounts(&self) -> Result<Vec<Kept>> {
        accounts::all(&self.pools).await
    }

    async fn put_account(
        &self,
        was: &Kept,
        it: &Kept,
        audit: Option<&Audit>,
    ) -> Result<Option<i64>> {
        accounts::put(&self.pools, was, it, audit).await
    }

    async fn remove_account(&self, name: &str, audit: &Audit) -> Result<bool> {
        accounts::remove(&self.pools, name, audit).await
    }

    async fn accounts_edition(&self) -> Result<i64> {
        accounts::edition(&self.pools).await
    }
}

#[async_trait]
impl Logins for Postgres {
    async fn begin_login(&self, it: &Begun) -> Result<()> {
        logins::begin(&self.pools, it).await
    }

    async fn take_login(&self, digest: &[u8]) -> Result<Option<Begun>> {
        logins::take(&self.pools, digest).await
    }

    async fn end_login(&self, digest: &[u8], end: &Ended) -> Result<()> {
        logins::end(&self.pools, digest, end).await
    }

    async fn login_end(&self, digest: &[u8]) -> Result<Option<Ended>> {
        logins::ended(&self.pools, digest).await
    }
}

#[async_trait]
impl Backlog for Postgres {
    async fn late_before(&self, place: &LatePlace, of: &LateBefore) -> Result<Vec<Time>> {
        late::before(&self.pools, place, of).await
    }
}

#[async_trait]
impl Ledger for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn now(&self) -> Result<Time> {
        let query = sqlx::query_scalar("SELECT presswork.now()");
        self.pools.call(query.fetch_one(self.pools.main())).await
    }

    async fn migrate(&self) -> Result<Migrated> {
        schema::migrate(&self.pools).await
    }

    async fn schema(&self) -> Result<Schema> {
        schema::schema(&self.pools).await
    }

    async fn concerns(&self) -> Result<Vec<Concern>> {
        schema::concerns(&self.pools).await
    }

    fn inbox(self: Arc<Self>) -> Option<Arc<dyn Inbox>> {
        Some(sql_door::inbox(self.pools.clone()))
    }

    async fn accept(&self, jobs: &[NewJob]) -> Result<Vec<Acceptance>> {
        intake::accept(&self.pools, jobs).await
    }

    async fn accept_together(&self, jobs: &[NewJob]) -> Result<Together> {
        intake::accept_together(&self.pools, jobs).await
    }

    async fn quarantine(&self, entries: &[Quarantined]) -> Result<()> {
        intake::quarantine(&self.pools, entries).await
    }

    async fn quarantined(&self, kind: Option<&str>, limit: u32) -> Result<Vec<Quarantined>> {
        intake::quarantined(&self.pools, kind, limit).await
    }

    async fn quarantined_one(&self, id: JobId) -> Result<Option<Quarantined>> {
        intake::quarantined_one(&self.pools, id).await
    }

    async fn quarantined_kinds(&self, kinds: &[String], limit: u32) -> Result<Vec<JobId>> {
        intake::quarantined_kinds(&self.pools, kinds, limit).await
    }

    async fn requarantine(&self, from: Reason, entry: &Quarantined) -> Result<bool> {
        intake::requarantine(&self.pools, from, entry).await
    }

    async fn unquarantine(&self, id: JobId, audit: &Audit) -> Result<bool> {
        intake::unquarantine(&self.pools, id, audit).await
    }

    async fn due(
        &self,
        lane: &str,
        kinds: &[String],
        shut: &Shut,
        fair: &Fair,
        limit: u32,
    ) -> Result<Vec<Hint>> {
        dispatch::due(&self.pools, lane, kinds, shut, fair, limit).await
    }

    async fn due_in(
        &self,
        lanes: &[String],
        kinds: &[String],
        shut: &Shut,
        fair: &Fair,
        limit: u32,
    ) -> Result<BTreeMap<String, Vec<Hint>>> {
        dispatch::due_in(&self.pools, lanes, kinds, shut, fair, limit).await
    }

    async fn claim(&self, claim: &Claim, ids: &[JobId]) -> Result<Vec<Job>> {
        dispatch::claim(&self.pools, claim, ids).await
    }

    async fn claim_due(&self, claim: &Claim, limit: u32) -> Result<Vec<Job>> {
        dispatch::claim_due(&self.pools, claim, limit).await
    }

    async fn settle(&self, batch: &[Settlement]) -> Result<Vec<Settled>> {
        settle::settle(&self.pools, batch).await
    }

    async fn lost(&self, limit: u32) -> Result<Vec<Job>> {
        dispatch::lost(&self.pools, limit).await
    }

    async fn expired(&self, limit: u32) -> Result<Vec<Job>> {
        dispatch::expired(&self.pools, limit).await
    }

    async fn progress(&self, batch: &[(JobId, Uuid, Progress)]) -> Result<()> {
        dispatch::progress(&self.pools, batch).await
    }

    async fn running(&self, lane: &str) -> Result<Vec<(JobId, Uuid)>> {
        dispatch::running(&self.pools, lane).await
    }

    async fn line(&self, job: &Job, kinds: &[String], shut: &Shut, fair: &Fair) -> Result<Line> {
        line::line(&self.pools, job, kinds, shut, fair).await
    }

    async fn begin_run(&self, run: &Run, lease: Duration) -> Result<()> {
        runs::begin_run(&self.pools, run, lease).await
    }

    async fn beat(&self, run: Uuid, jobs: &[JobId], lease: Duration) -> Result<Option<Time>> {
        runs::beat(&self.pools, run, jobs, lease).await
    }

    async fn end_run(&self, run: Uuid) -> Result<()> {
        runs::end_run(&self.pools, run).await
    }

    async fn live_runs(&self) -> Result<Vec<Run>> {
        runs::live_runs(&self.pools).await
    }

    async fn lease(&self, run: Uuid) -> Result<Option<Time>> {
        runs::lease(&self.pools, run).await
    }

    async fn control(&self, run: Uuid) -> Result<Control> {
        runs::control(&self.pools, run).await
    }

    async fn generation(&self) -> Result<Generation> {
        runs::generation(&self.pools).await
    }

    async fn next_generation(&self, from: i64, server: &str) -> Result<Option<i64>> {
        runs::next_generation(&self.pools, from, server).await
    }

    async fn history(&self) -> Result<Option<History>> {
        promotion::history(&self.pools).await.map(Some)
    }

    async fn found(&self) -> Result<()> {
        promotion::found(&self.pools).await
    }

    fn follow(&self, timeline: &str) {
        let mut follows = self.follows.write().unwrap_or_else(PoisonError::into_inner);
        *follows = Some(timeline.to_owned());
    }

    async fn told_of(&self, effects: &[EffectId]) -> Result<Option<Vec<EffectId>>> {
        promotion::told_of(&self.pools, effects).await
    }

    async fn testify(&self, timeline: &str, run: Uuid, told: &[Told]) -> Result<Mended> {
        promotion::testify(&self.pools, timeline, run, told).await
    }

    async fn heard(&self, timeline: &str, run: Uuid, lost_wal: Option<u64>) -> Result<bool> {
        promotion::heard(&self.pools, timeline, run, lost_wal).await
    }

    async fn lift(&self, history: &History, wait: (Duration, Duration)) -> Result<Option<Lifted>> {
        promotion::lift(&self.pools, history, wait).await
    }

    async fn close(&self, it: &Closure, shorten: bool, audit: Option<&Audit>) -> Result<Closure> {
        closures::close(&self.pools, it, shorten, audit).await
    }

    async fn open(&self, cause: Cause, scope: &Scope, audit: Option<&Audit>) -> Result<bool> {
        closures::open(&self.pools, cause, scope, audit).await
    }

    async fn closures(&self) -> Result<Vec<Closure>> {
        closures::closures(&self.pools).await
    }

    async fn step(&self, job: JobId, revision: u32, name: &str) -> Result<Option<String>> {
        effects::step(&self.pools, job, revision, name).await
    }

    async fn record_step(&self, fence: &Fence, name: &str, value: &str) -> Result<bool> {
        effects::record_step(&self.pools, fence, name, value).await
    }

    async fn intend(&self, fence: &Fence, effect: &Effect) -> Result<Option<(Effect, Time)>> {
        effects::intend(&self.pools, fence, effect).await
    }

    async fn permit(
        &self,
        fence: &Fence,
        id: EffectId,
        from: (EffectState, u32),
        budget: Duration,
        platform: Option<&str>,
    ) -> Result<bool> {
        let follows = (self.followed(), platform);
        effects::permit(&self.pools, fence, id, from, budget, follows).await
    }

    async fn repeats(&self, id: EffectId, within: Duration) -> Result<Option<Effect>> {
        effects::repeats(&self.pools, id, within).await
    }

    async fn conclude(&self, id: EffectId, sends: u32, conclusion: &Conclusion) -> Result<bool> {
        effects::conclude(&self.pools, id, sends, conclusion).await
    }

    async fn decide(
        &self,
        id: EffectId,
        from: (EffectState, u32),
        conclusion: &Conclusion,
        audit: Option<&Audit>,
    ) -> Result<bool> {
        effects::decide(&self.pools, id, from, conclusion, audit).await
    }

    async fn witness(&self, id: EffectId, evidence: &Evidence) -> Result<()> {
        effects::witness(&self.pools, id, evidence).await
    }

    async fn looks_due(&self, limit: u32, hold: Duration) -> Result<Vec<Effect>> {
        effects::looks_due(&self.pools, limit, hold).await
    }

    async fn is_anothers(&self, effect: &Effect, remote_id: &str, since: Time) -> Result<bool> {
        effects::is_anothers(&self.pools, effect, remote_id, since).await
    }

    async fn sending(&self, run: Uuid) -> Result<Vec<Effect>> {
        effects::sending(&self.pools, run).await
    }

    async fn effects(&self, job: JobId) -> Result<Vec<Effect>> {
        effects::effects(&self.pools, job).await
    }

    async fn job_of_handle(&self, account: &str, handle: &str) -> Result<Option<JobId>> {
        effects::job_of_handle(&self.pools, account, handle).await
    }

    async fn let_go(&self, job: JobId, handle: &str, evidence: &Evidence) -> Result<()> {
        effects::let_go(&self.pools, job, handle, evidence).await
    }

    async fn called_back(
        &self,
        account: &str,
        effect: EffectId,
        said: &Word,
    ) -> Result<Option<JobId>> {
        effects::called_back(&self.pools, account, effect, said).await
    }

    async fn was_called(&self, account: &str, id: &str) -> Result<bool> {
        effects::heard(&self.pools, account, id).await
    }

    async fn note_call(&self, account: &str, id: &str) -> Result<()> {
        effects::hear(&self.pools, account, id).await
    }

    async fn offer_result(&self, fence: &Fence, request: Digest, age: Duration) -> Result<bool> {
        results::offer(&self.pools, fence, request, age).await
    }

    async fn offered_result(
        &self,
        tenant: &str,
        request: Digest,
        age: Duration,
    ) -> Result<Option<Offered>> {
        results::offered(&self.pools, tenant, request, age).await
    }

    async fn keep_media(&self, it: &Stored) -> Result<Stored> {
        media::keep(&self.pools, it).await
    }

    async fn use_media(&self, digest: Digest) -> Result<Option<Stored>> {
        media::touched(&self.pools, digest).await
    }

    async fn media(&self, digests: &[Digest]) -> Result<Vec<Stored>> {
        media::stored(&self.pools, digests).await
    }

    async fn held_media(&self, job: JobId) -> Result<Vec<Digest>> {
        media::held(&self.pools, job).await
    }

    async fn free_media(&self, grace: Duration, limit: u32) -> Result<Vec<Stored>> {
        media::free(&self.pools, grace, limit).await
    }

    async fn keep_fetched(&self, it: &Fetched) -> Result<bool> {
        media::keep_fetched(&self.pools, it).await
    }

    async fn fetched(&self, url: Digest) -> Result<Option<Fetched>> {
        media::fetched(&self.pools, url).await
    }

    async fn counted(&self, keys: &[Key]) -> Result<(Vec<Counted>, Time)> {
        budgets::read(&self.pools, keys).await
    }

    async fn count(&self, counted: &[Counted]) -> Result<Option<Time>> {
        budgets::write(&self.pools, counted).await
    }

    async fn all_counted(&self) -> Result<Vec<Counted>> {
        budgets::all(&self.pools).await
    }

    async fn change_budget(&self, change: &Change, audit: &Audit) -> Result<()> {
        budgets::change(&self.pools, change, audit).await
    }

    async fn restore_budget(&self, name: &str, audit: &Audit) -> Result<bool> {
        budgets::restore(&self.pools, name, audit).await
    }

    async fn budget_changes(&self) -> Result<Vec<Change>> {
        budgets::changes(&self.pools).await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        look::job(&self.pools, id).await
    }

    async fn job_of_key(&self, tenant: &str, kind: &str, key: &str) -> Result<Option<JobId>> {
        look::job_of_key(&self.pools, tenant, kind, key).await
    }

    async fn attempts(&self, id: JobId) -> Result<Vec<Attempt>> {
        look::attempts(&self.pools, id).await
    }

    async fn jobs(&self, filter: &Filter) -> Result<Vec<Job>> {
        look::jobs(&self.pools, filter).await
    }

    async fn groups(&self, filter: &Filter) -> Result<Vec<Group>> {
        look::groups(&self.pools, filter).await
    }

    async fn counts(&self) -> Result<BTreeMap<(String, State), u64>> {
        look::counts(&self.pools).await
    }

    async fn paused(&self) -> Result<Vec<Pause>> {
        look::paused(&self.pools).await
    }

    async fn pause(&self, lane: &str, pause: Option<&Pause>, audit: &Audit) -> Result<()> {
        look::pause(&self.pools, lane, pause, audit).await
    }

    async fn audit(&self, job: Option<JobId>, limit: u32) -> Result<Vec<Audit>> {
        look::audit(&self.pools, job, limit).await
    }

    async fn breakers(&self) -> Result<Vec<Standing>> {
        breakers::all(&self.pools).await
    }

    async fn put_breaker(&self, it: &Standing) -> Result<bool> {
        breakers::put(&self.pools, it).await
    }

    async fn add_token(&self, token: &Token, audit: &Audit) -> Result<bool> {
        tokens::add(&self.pools, token, audit).await
    }

    async fn token(&self, id: TokenId) -> Result<Option<(Token, Time)>> {
        tokens::one(&self.pools, id).await
    }

    async fn tokens(&self, limit: u32) -> Result<Vec<Token>> {
        tokens::all(&self.pools, limit).await
    }

    async fn revoke_token(&self, id: TokenId, audit: &Audit) -> Result<bool> {
        tokens::revoke(&self.pools, id, audit).await
    }

    async fn token_used(&self, id: TokenId) -> Result<()> {
        tokens::used(&self.pools, id).await
    }

    async fn tidy(&self, finished: Duration, keys: Duration) -> Result<u64> {
        tidy::tidy(&self.pools, finished, keys).await
    }
}
