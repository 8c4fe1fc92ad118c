//! The embedded ledger: one SQLite file, for one daemon and the commands of its people.

mod open;
mod map;
mod rows;
mod media;
mod intake;
mod due;
mod dispatch;
mod settle;
mod closures;
mod effects;
mod runs;
mod calls;
mod results;
mod budgets;
mod look;
mod tokens;
mod tidy;
mod breakers;
mod restore;
mod store;
mod planned;
mod accounts;
mod late;
mod logins;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use uuid::Uuid;

use crate::budget::{Change, Counted, Key};
use crate::clock::Time;
use crate::effect::{Effect, EffectId, EffectState, Evidence};
use crate::fair::Fair;
use crate::gate::{Cause, Closure, Scope, Shut};
use crate::job::{Job, JobId, NewJob, Progress};
use crate::json::Digest;
use crate::ledger::door::{Ledger, Result, Together, Word};
use crate::ledger::filter::{Filter, Group};
use crate::ledger::rows::{
    Acceptance, Attempt, Audit, Claim, Concern, Conclusion, Control, Fence, Fetched, Generation,
    Hint, LINE_MAX, Line, Migrated, Offered, Pause, Quarantined, Reason, Run, Schema, Settled,
    Settlement, Standing, Stored,
};
use crate::lifecycle::State;
use crate::token::{Token, TokenId};
use open::told;

pub use open::KNOWN;
pub use restore::renew;
pub use store::Sqlite;

#[async_trait]
impl Ledger for Sqlite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    async fn migrate(&self) -> Result<Migrated> {
        self.write(|tx, _| Box::pin(open::migrate(tx))).await
    }

    async fn schema(&self) -> Result<Schema> {
        open::schema(&mut *self.reader().await?).await
    }

    /// `synchronous = FULL` and WAL are this program's own doing: nothing stands against it.
    async fn concerns(&self) -> Result<Vec<Concern>> {
        Ok(Vec::new())
    }

    async fn now(&self) -> Result<Time> {
        Ok(self.now())
    }

    async fn accept(&self, jobs: &[NewJob]) -> Result<Vec<Acceptance>> {
        let jobs = jobs.to_vec();
        self.write(move |tx, now| Box::pin(async move { intake::accept(tx, now, &jobs).await }))
            .await
    }

    async fn accept_together(&self, jobs: &[NewJob]) -> Result<Together> {
        let jobs = jobs.to_vec();
        self.write(move |tx, now| {
            Box::pin(async move { intake::accept_together(tx, now, &jobs).await })
        })
        .await
    }

    async fn quarantine(&self, entries: &[Quarantined]) -> Result<()> {
        let entries = entries.to_vec();
        self.write(move |tx, _| Box::pin(async move { intake::quarantine(tx, &entries).await }))
            .await
    }

    async fn quarantined(&self, kind: Option<&str>, limit: u32) -> Result<Vec<Quarantined>> {
        look::quarantined(&mut *self.reader().await?, kind, limit).await
    }

    async fn quarantined_one(&self, id: JobId) -> Result<Option<Quarantined>> {
        let row = sqlx::query("SELECT * FROM quarantine WHERE id = ?").bind(id.0);
        let row = row
            .fetch_optional(&mut *self.reader().await?)
            .await
            .map_err(told)?;
        row.as_ref().map(map::quarantined).transpose()
    }

    async fn quarantined_kinds(&self, kinds: &[String], limit: u32) -> Result<Vec<JobId>> {
        look::quarantined_kinds(&mut *self.reader().await?, kinds, limit).await
    }

    async fn requarantine(&self, from: Reason, entry: &Quarantined) -> Result<bool> {
        let entry = entry.clone();
        self.write(move |tx, _| {
            Box::pin(async move { intake::requarantine(tx, from, &entry).await })
        })
        .await
    }

    async fn unquarantine(&self, id: JobId, audit: &Audit) -> Result<bool> {
        let audit = audit.clone();
        self.write(move |tx, now| {
            Box::pin(async move { intake::unquarantine(tx, now, id, &audit).await })
        })
        .await
    }

    async fn due(
        &self,
        lane: &str,
        kinds: &[String],
        shut: &Shut,
        fair: &Fair,
        limit: u32,
    ) -> Result<Vec<Hint>> {
        let look = due::Look::at(self.now_micros(), kinds, shut, fair, limit)?;
        look.due(&mut *self.reader().await?, lane).await
    }

    async fn due_in(
        &self,
        lanes: &[String],
        kinds: &[String],
        shut: &Shut,
        fair: &Fair,
        limit: u32,
    ) -> Result<BTreeMap<String, Vec<Hint>>> {
        let look = due::Look::at(self.now_micros(), kinds, shut, fair, limit)?;
        let (mut reader, mut due) = (self.reader().await?, BTreeMap::new());
        for lane in lanes {
            let hints = look.due(&mut reader, lane).await?;
            if !hints.is_empty() {
                due.insert(lane.clone(), hints);
            }
        }
        Ok(due)
    }

    async fn claim(&self, claim: &Claim, ids: &[JobId]) -> Result<Vec<Job>> {
        let (claim, ids) = (claim.clone(), ids.to_vec());
        self.write(move |tx, now| {
            Box::pin(async move { dispatch::claim(tx, now, &claim, &ids).await })
        })
        .await
    }

    async fn claim_due(&self, claim: &Claim, limit: u32) -> Result<Vec<Job>> {
        let claim = claim.clone();
        self.write(move |tx, now| {
            Box::pin(async move { dispatch::claim_due(tx, now, &claim, limit).await })
        })
        .await
    }

    async fn settle(&self, batch: &[Settlement]) -> Result<Vec<Settled>> {
        let batch = batch.to_vec();
        self.write(move |tx, now| Box::pin(async move { settle::settle(tx, now, &batch).await }))
            .await
    }

    async fn lost(&self, limit: u32) -> Result<Vec<Job>> {
        dispatch::lost(&mut *self.reader().await?, self.now_micros(), limit).await
    }

    async fn expired(&self, limit: u32) -> Result<Vec<Job>> {
        dispatch::expired(&mut *self.reader().await?, self.now_micros(), limit).await
    }

    async fn progress(&self, batch: &[(JobId, Uuid, Progress)]) -> Result<()> {
        let batch = batch.to_vec();
        self.write(move |tx, _| Box::pin(async move { dispatch::progress(tx, &batch).await }))
            .await
    }

    async fn running(&self, lane: &str) -> Result<Vec<(JobId, Uuid)>> {
        dispatch::running(&mut *self.reader().await?, lane).await
    }

    async fn line(&self, job: &Job, kinds: &[String], shut: &Shut, fair: &Fair) -> Result<Line> {
        let look = due::Look::at(self.now_micros(), kinds, shut, fair, LINE_MAX + 1)?;
        look.line(&mut *self.reader().await?, job).await
    }

    async fn begin_run(&self, run: &Run, lease: Duration) -> Result<()> {
        let run = run.clone();
        self.write(move |tx, now| Box::pin(async move { runs::begin(tx, now, &run, lease).await }))
            .await
    }

    async fn beat(&self, run: Uuid, jobs: &[JobId], lease: Duration) -> Result<Option<Time>> {
        let jobs: Vec<String> = jobs.iter().map(map::hex).collect();
        let until = self
            .write(move |tx, now| {
                Box::pin(async move { runs::beat(tx, now, run, &jobs, lease).await })
            })
            .await?;
        until.map(map::time).transpose()
    }

    async fn end_run(&self, run: Uuid) -> Result<()> {
        self.write(move |tx, now| {
            Box::pin(async move {
                let ended = sqlx::query(
                    "UPDATE runs SET ended = 1, lease_until = min(lease_until, ?) WHERE id = ?",
                );
                ended.bind(now).bind(run).execute(tx).await.map_err(told)?;
                Ok(())
            })
        })
        .await
    }

    async fn live_runs(&self) -> Result<Vec<Run>> {
        runs::live(&mut *self.reader().await?, self.now_micros()).await
    }

    async fn lease(&self, run: Uuid) -> Result<Option<Time>> {
        runs::lease(&mut *self.reader().await?, run).await
    }

    async fn control(&self, run: Uuid) -> Result<Control> {
        runs::control(&mut *self.reader().await?, self.now_micros(), run).await
    }

    async fn generation(&self) -> Result<Generation> {
        runs::generation(&mut *self.reader().await?).await
    }

    async fn next_generation(&self, from: i64, server: &str) -> Result<Option<i64>> {
        let server = server.to_owned();
        self.write(move |tx, _| Box::pin(async move { runs::next(tx, from, &server).await }))
            .await
    }

    async fn close(&self, it: &Closure, shorten: bool, audit: Option<&Audit>) -> Result<Closure> {
        let (it, audit) = (it.clone(), audit.cloned());
        self.write(move |tx, now| {
            Box::pin(async move { closures::close(tx, now, &it, shorten, audit.as_ref()).await })
        })
        .await
    }

    async fn open(&self, cause: Cause, scope: &Scope, audit: Option<&Audit>) -> Result<bool> {
        let (scope, audit) = (scope.clone(), audit.cloned());
        self.write(move |tx, now| {
            Box::pin(async move { closures::open(tx, now, cause, &scope, audit.as_ref()).await })
        })
        .await
    }

    async fn closures(&self) -> Result<Vec<Closure>> {
        closures::closures(&mut *self.reader().await?, self.now_micros()).await
    }

    async fn step(&self, job: JobId, revision: u32, name: &str) -> Result<Option<String>> {
        effects::step(&mut *self.reader().await?, job, revision, name).await
    }

    async fn record_step(&self, fence: &Fence, name: &str, value: &str) -> Result<bool> {
        let (fence, name, value) = (*fence, name.to_owned(), value.to_owned());
        self.write(move |tx, now| {
            Box::pin(async move { effects::record_step(tx, now, &fence, &name, &value).await })
        })
        .await
    }

    async fn intend(&self, fence: &Fence, effect: &Effect) -> Result<Option<(Effect, Time)>> {
        let (fence, effect) = (*fence, effect.clone());
        let found = self
            .write(move |tx, now| {
                Box::pin(async move { Ok((effects::intend(tx, &fence, &effect).await?, now)) })
            })
            .await?;
        match found {
            (Some(effect), now) => Ok(Some((effect, map::time(now)?))),
            (None, _) => Ok(None),
        }
    }

    async fn permit(
        &self,
        fence: &Fence,
        id: EffectId,
        from: (EffectState, u32),
        budget: Duration,
        platform: Option<&str>,
    ) -> Result<bool> {
        let (fence, platform) = (*fence, platform.map(str::to_owned));
        self.write(move |tx, now| {
            Box::pin(async move {
                let within = (budget, platform.as_deref());
                effects::permit(tx, now, &fence, id, from, within).await
            })
        })
        .await
    }

    async fn repeats(&self, id: EffectId, within: Duration) -> Result<Option<Effect>> {
        self.write(move |tx, now| Box::pin(effects::repeats(tx, now, id, within)))
            .await
    }

    async fn conclude(&self, id: EffectId, sends: u32, conclusion: &Conclusion) -> Result<bool> {
        let conclusion = conclusion.clone();
        self.write(move |tx, now| {
            Box::pin(async move { effects::conclude(tx, now, id, sends, &conclusion).await })
        })
        .await
    }

    async fn decide(
        &self,
        id: EffectId,
        from: (EffectState, u32),
        conclusion: &Conclusion,
        audit: Option<&Audit>,
    ) -> Result<bool> {
        let (conclusion, audit) = (conclusion.clone(), audit.cloned());
        self.write(move |tx, now| {
            Box::pin(async move {
                effects::decide(tx, now, id, from, &conclusion, audit.as_ref()).await
            })
        })
        .await
    }

    async fn witness(&self, id: EffectId, evidence: &Evidence) -> Result<()> {
        let evidence = evidence.clone();
        self.write(move |tx, _| Box::pin(async move { effects::witness(tx, id, &evidence).await }))
            .await
    }

    async fn looks_due(&self, limit: u32, hold: Duration) -> Result<Vec<Effect>> {
        self.write(move |tx, now| Box::pin(effects::looks_due(tx, now, limit, hold)))
            .await
    }

    async fn is_anothers(&self, effect: &Effect, remote_id: &str, since: Time) -> Result<bool> {
        effects::is_anothers(&mut *self.reader().await?, effect, remote_id, since).await
    }

    async fn sending(&self, run: Uuid) -> Result<Vec<Effect>> {
        effects::sending(&mut *self.reader().await?, run).await
    }

    async fn effects(&self, job: JobId) -> Result<Vec<Effect>> {
        effects::of_job(&mut *self.reader().await?, job).await
    }

    async fn job_of_handle(&self, account: &str, handle: &str) -> Result<Option<JobId>> {
        calls::job_of_handle(&mut *self.reader().await?, account, handle).await
    }

    async fn let_go(&self, job: JobId, handle: &str, evidence: &Evidence) -> Result<()> {
        let (handle, evidence) = (handle.to_owned(), evidence.clone());
        self.write(move |tx, _| {
            Box::pin(async move { calls::let_go(tx, job, &handle, &evidence).await })
        })
        .await
    }

    async fn called_back(&self, account: &str, id: EffectId, said: &Word) -> Result<Option<JobId>> {
        let (account, said) = (account.to_owned(), said.clone());
        self.write(move |tx, _| {
            Box::pin(async move { calls::called_back(tx, &account, id, &said).await })
        })
        .await
    }

    async fn was_called(&self, account: &str, id: &str) -> Result<bool> {
        calls::heard(&mut *self.reader().await?, account, id).await
    }

    async fn note_call(&self, account: &str, id: &str) -> Result<()> {
        let (account, id) = (account.to_owned(), id.to_owned());
        self.write(move |tx, now| {
            Box::pin(async move { calls::hear(tx, now, &account, &id).await })
        })
        .await
    }

    async fn offer_result(&self, fence: &Fence, request: Digest, age: Duration) -> Result<bool> {
        let fence = *fence;
        self.write(move |tx, now| {
            Box::pin(async move { results::offer(tx, now, &fence, request, age).await })
        })
        .await
    }

    async fn offered_result(
        &self,
        tenant: &str,
        request: Digest,
        age: Duration,
    ) -> Result<Option<Offered>> {
        let (mut reader, now) = (self.reader().await?, self.now_micros());
        results::offered(&mut reader, now, tenant, request, age).await
    }

    async fn keep_media(&self, it: &Stored) -> Result<Stored> {
        let it = it.clone();
        self.write(move |tx, now| Box::pin(async move { media::keep(tx, now, &it).await }))
            .await
    }

    async fn use_media(&self, digest: Digest) -> Result<Option<Stored>> {
        self.write(move |tx, now| Box::pin(media::touched(tx, now, digest)))
            .await
    }

    async fn media(&self, digests: &[Digest]) -> Result<Vec<Stored>> {
        media::stored(&mut *self.reader().await?, digests).await
    }

    async fn held_media(&self, job: JobId) -> Result<Vec<Digest>> {
        media::held(&mut *self.reader().await?, job).await
    }

    async fn free_media(&self, grace: Duration, limit: u32) -> Result<Vec<Stored>> {
        self.write(move |tx, now| Box::pin(media::free(tx, now, grace, limit)))
            .await
    }

    async fn keep_fetched(&self, it: &Fetched) -> Result<bool> {
        let it = it.clone();
        self.write(move |tx, now| Box::pin(async move { media::keep_fetched(tx, now, &it).await }))
            .await
    }

    async fn fetched(&self, url: Digest) -> Result<Option<Fetched>> {
        media::fetched(&mut *self.reader().await?, url).await
    }

    async fn counted(&self, keys: &[Key]) -> Result<(Vec<Counted>, Time)> {
        let keys = keys.to_vec();
        self.write(move |tx, now| Box::pin(async move { budgets::read(tx, now, &keys).await }))
            .await
    }

    async fn count(&self, counted: &[Counted]) -> Result<Option<Time>> {
        let counted = counted.to_vec();
        self.write(move |tx, now| Box::pin(async move { budgets::write(tx, now, &counted).await }))
            .await
    }

    async fn all_counted(&self) -> Result<Vec<Counted>> {
        budgets::all(&mut *self.reader().await?).await
    }

    async fn change_budget(&self, change: &Change, audit: &Audit) -> Result<()> {
        let (it, audit) = (change.clone(), audit.clone());
        self.write(move |tx, now| Box::pin(budgets::change(tx, now, it, audit)))
            .await
    }

    async fn restore_budget(&self, name: &str, audit: &Audit) -> Result<bool> {
        let (name, audit) = (name.to_owned(), audit.clone());
        self.write(move |tx, now| Box::pin(budgets::restore(tx, now, name, audit)))
            .await
    }

    async fn budget_changes(&self) -> Result<Vec<Change>> {
        budgets::changes(&mut *self.reader().await?, self.now_micros()).await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        dispatch::one(&mut *self.reader().await?, id).await
    }

    async fn job_of_key(&self, tenant: &str, kind: &str, key: &str) -> Result<Option<JobId>> {
        look::job_of_key(&mut *self.reader().await?, (tenant, kind, key)).await
    }

    async fn attempts(&self, id: JobId) -> Result<Vec<Attempt>> {
        look::attempts(&mut *self.reader().await?, id).await
    }

    async fn jobs(&self, filter: &Filter) -> Result<Vec<Job>> {
        look::jobs(&mut *self.reader().await?, filter).await
    }

    async fn groups(&self, filter: &Filter) -> Result<Vec<Group>> {
        look::groups(&mut *self.reader().await?, filter).await
    }

    async fn counts(&self) -> Result<BTreeMap<(String, State), u64>> {
        intake::counts(&mut *self.reader().await?).await
    }

    async fn paused(&self) -> Result<Vec<Pause>> {
        look::paused(&mut *self.reader().await?).await
    }

    async fn pause(&self, lane: &str, pause: Option<&Pause>, audit: &Audit) -> Result<()> {
        let (lane, pause, audit) = (lane.to_owned(), pause.cloned(), audit.clone());
        self.write(move |tx, now| {
            Box::pin(async move { look::pause(tx, now, &lane, pause.as_ref(), &audit).await })
        })
        .await
    }

    async fn audit(&self, job: Option<JobId>, limit: u32) -> Result<Vec<Audit>> {
        look::audits(&mut *self.reader().await?, job, limit).await
    }

    async fn breakers(&self) -> Result<Vec<Standing>> {
        breakers::all(&mut *self.reader().await?).await
    }

    async fn put_breaker(&self, it: &Standing) -> Result<bool> {
        let it = it.clone();
        self.write(move |tx, now| Box::pin(async move { breakers::put(tx, now, &it).await }))
            .await
    }

    async fn add_token(&self, token: &Token, audit: &Audit) -> Result<bool> {
        let (token, audit) = (token.clone(), audit.clone());
        self.write(move |tx, now| {
            Box::pin(async move { tokens::add(tx, now, &token, &audit).await })
        })
        .await
    }

    async fn token(&self, id: TokenId) -> Result<Option<(Token, Time)>> {
        tokens::one(&mut *self.reader().await?, self.now_micros(), id).await
    }

    async fn tokens(&self, limit: u32) -> Result<Vec<Token>> {
        tokens::all(&mut *self.reader().await?, limit).await
    }

    async fn revoke_token(&self, id: TokenId, audit: &Audit) -> Result<bool> {
        let audit = audit.clone();
        self.write(move |tx, now| {
            Box::pin(async move { tokens::revoke(tx, now, id, &audit).await })
        })
        .await
    }

    async fn token_used(&self, id: TokenId) -> Result<()> {
        self.write(move |tx, now| Box::pin(tokens::used(tx, now, id)))
            .await
    }

    /// What is to go is looked for by a reader: the writing connection only deletes it.
    async fn tidy(&self, finished: Duration, keys: Duration) -> Result<u64> {
        let back = |it: Duration| i64::try_from(it.as_micros()).unwrap_or(i64::MAX / 2);
        let now = self.now_micros();
        let (finished, keys) = (
            now.saturating_sub(back(finished)),
            now.saturating_sub(back(keys)),
        );
        let (until, mut gone) = (Instant::now() + tidy::BUDGET, 0);
        while Instant::now() < until {
            let past = tidy::past(&mut *self.reader().await?, finished).await?;
            if past.is_empty() {
                break;
            }
            gone += self
                .write(move |tx, _| Box::pin(async move { tidy::drop_jobs(tx, &past).await }))
                .await?;
        }
        let mut more = true;
        while more && Instant::now() < until {
            let some;
            (some, more) = self
                .write(move |tx, now| Box::pin(tidy::drop_small(tx, keys, now)))
                .await?;
            gone += some;
        }
        self.write(move |tx, _| Box::pin(tidy::drop_runs(tx, finished)))
            .await?;
        Ok(gone)
    }
}
