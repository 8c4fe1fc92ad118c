//! Settle: transitions written down, each guarded by its lease's token or its version.

use std::collections::HashSet;

use sqlx::Row;
use uuid::Uuid;

use super::codec;
use super::media;
use super::pool::{Pools, explain};
use crate::clock::Time;
use crate::ledger::door::{LedgerError, Result};
use crate::ledger::rows::{Guard, Settled, Settlement};
use crate::sabotage;

/// The guard. Not the state: with stale statistics the planner took the partial index of running
/// jobs for it, and was thirty times slower.
macro_rules! guarded {
    () => {
        "j.id = ANY(ARRAY[w.id]) AND (j.token = w.token OR j.version = w.version)"
    };
}

/// One statement for the whole batch. `gone`: jobs that leave the hot table, one row of history
/// each, with their attempts in it. `changed`: jobs that stay. A revive (`reset`) renews the age that
/// the kind allows and lifts a `not_after` that is past: else what is brought back after it expired
/// would expire at once. What a person admits is done however late it is, or is late from the time that
/// it is put to.
pub const SETTLE: &str = concat!(
    "WITH clock AS MATERIALIZED (SELECT presswork.now() AS now),
    want AS MATERIALIZED (
        SELECT * FROM unnest($1::int4[], $2::uuid[], $3::uuid[], $4::int8[], $5::text[],
                             $6::timestamptz[], $7::int4[], $8::int4[], $9::bool[], $10::text[],
                             $11::text[], $12::bool[], $13::bool[], $14::text[], $15::text[],
                             $16::text[], $17::int4[], $18::text[], $19::text[], $20::text[],
                             $21::text[], $22::bool[])
            AS w(n, id, token, version, state, run_at, attempts, crashes, reset, held, failure,
                 cancel, archive, result, fingerprint, payload, epoch, record, actor,
                 action, detail, admitted)
    ),
    gone AS (
        DELETE FROM presswork.jobs j USING want w, clock WHERE w.archive AND ",
    guarded!(),
    "   RETURNING w.n, j.id, j.kind, j.lane, j.tenant, j.account, j.priority, j.key,
                  coalesce(w.payload, j.payload) AS payload,
                  j.revision + (w.payload IS NOT NULL)::integer AS revision,
                  j.created_at, coalesce(w.run_at, j.run_at) AS run_at, j.not_after, j.expires_at,
                  j.attempts_max, j.timeout_s, j.labels, j.traceparent, j.reply_to, w.state,
                  CASE WHEN w.reset THEN 0 ELSE j.attempts END + w.attempts AS attempts,
                  w.crashes,
                  j.epoch, j.version + 1 AS version, coalesce(w.failure, j.failure) AS failure,
                  coalesce(w.fingerprint, j.fingerprint) AS fingerprint, w.result, w.record,
                  coalesce(j.ended_at, clock.now) AS ended_at, clock.now AS archived_at,
                  w.actor, w.action, w.detail
    ),
    past AS (
        DELETE FROM presswork.attempts a USING gone WHERE a.job = ANY(ARRAY[gone.id])
    ),
    kept AS (
        INSERT INTO presswork.finished_jobs (id, kind, lane, tenant, account, priority, key,
            payload, revision, created_at, run_at, not_after, expires_at, attempts_max, timeout_s,
            labels, traceparent, reply_to, state, attempts, crashes, epoch, version, failure,
            fingerprint, result, history, ended_at, archived_at)
        SELECT id, kind, lane, tenant, account, priority, key, payload, revision, created_at,
            run_at, not_after, expires_at, attempts_max, timeout_s, labels, traceparent, reply_to,
            state, attempts, crashes, epoch, version, failure, fingerprint, result,
            ARRAY(SELECT a.record FROM presswork.attempts a WHERE a.job = gone.id ORDER BY a.n)
                || CASE WHEN record IS NULL THEN '{}' ELSE ARRAY[record] END,
            ended_at, archived_at
        FROM gone
    ),
    changed AS (
        UPDATE presswork.jobs j
        SET state = w.state,
            run_at = coalesce(w.run_at, j.run_at),
            attempts = CASE WHEN w.reset THEN 0 ELSE j.attempts END + w.attempts,
            crashes = w.crashes,
            expires_at = CASE WHEN w.reset
                              THEN greatest(j.expires_at, clock.now + (j.expires_at - j.created_at))
                              WHEN w.admitted AND w.state = 'scheduled'
                              THEN greatest(j.expires_at, w.run_at + (j.expires_at - j.created_at))
                              ELSE j.expires_at END,
            not_after = CASE WHEN w.reset AND j.not_after <= clock.now THEN NULL
                             ELSE j.not_after END,
            due_at = CASE WHEN w.admitted AND w.state = 'scheduled' THEN w.run_at ELSE j.due_at END,
            late = CASE WHEN w.admitted AND w.state = 'ready' THEN 'publish' ELSE j.late END,
            held = w.held,
            failure = coalesce(w.failure, j.failure),
            fingerprint = coalesce(w.fingerprint, j.fingerprint),
            cancel = w.cancel OR (j.cancel AND w.state <> 'dead' AND NOT w.reset),
            token = CASE WHEN w.state = 'running' THEN j.token END,
            run = CASE WHEN w.state = 'running' THEN j.run END,
            claimed_at = CASE WHEN w.state = 'running' THEN j.claimed_at END,
            payload = coalesce(w.payload, j.payload),
            revision = j.revision + (w.payload IS NOT NULL)::integer,
            version = j.version + 1,
            ended_at = CASE WHEN w.state = 'dead' THEN coalesce(j.ended_at, clock.now) END
        FROM want w, clock WHERE NOT w.archive AND ",
    guarded!(),
    "   RETURNING w.n, j.id, w.epoch, w.record, w.actor, w.action, w.detail, clock.now
    ),
    tried AS (
        INSERT INTO presswork.attempts (job, epoch, record)
        SELECT id, epoch, record FROM changed WHERE record IS NOT NULL ORDER BY n
    ),
    done AS (
        SELECT n, id, actor, action, detail, archived_at AS at FROM gone
        UNION ALL SELECT n, id, actor, action, detail, now FROM changed
    ),
    noted AS (
        INSERT INTO presswork.audit (actor, action, job, detail, at)
        SELECT actor, action, id, detail, at FROM done WHERE actor IS NOT NULL ORDER BY n
    )
    SELECT n FROM done"
);

/// Writes transitions; see [`crate::ledger::door::Ledger::settle`].
pub async fn settle(pools: &Pools, batch: &[Settlement]) -> Result<Vec<Settled>> {
    for it in batch {
        if !it.transition.is_sound() {
            let said = format!("job {}: no sound transition: {:?}", it.id, it.transition);
            return Err(LedgerError::Row(said));
        }
    }
    let mut texts = Vec::new();
    for it in batch {
        let written = [it.result.as_deref(), it.edit.as_deref()];
        texts.extend(written.into_iter().flatten().map(|text| (it.id, text)));
    }
    media::hold(pools, &texts).await?;
    let mut settled = vec![Settled::Stale; batch.len()];
    let mut open: Vec<usize> = (0..batch.len()).collect();
    while !open.is_empty() {
        // of one job that is in the batch twice, the second in a statement after the first
        let mut seen = HashSet::new();
        let (mut round, later): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|it| seen.insert(batch[*it].id));
        open = later;
        // rows are locked in one order wherever the planner keeps that of the array
        round.sort_by_key(|it| batch[*it].id);
        let columns = Columns::of(batch, &round);
        let query = || columns.query().fetch_all(pools.planned());
        for row in pools.again(query).await? {
            let n: i32 = row.try_get("n").map_err(explain)?;
            if let Some(it) = usize::try_from(n).ok().and_then(|it| settled.get_mut(it)) {
                *it = Settled::Done;
            }
        }
    }
    Ok(settled)
}

/// A batch as arrays, one a column.
#[derive(Default)]
struct Columns {
    n: Vec<i32>,
    id: Vec<Uuid>,
    token: Vec<Option<Uuid>>,
    version: Vec<Option<i64>>,
    state: Vec<&'static str>,
    run_at: Vec<Option<Time>>,
    attempts: Vec<i32>,
    crashes: Vec<i32>,
    reset: Vec<bool>,
    held: Vec<Option<&'static str>>,
    failure: Vec<Option<String>>,
    cancel: Vec<bool>,
    archive: Vec<bool>,
    result: Vec<Option<String>>,
    fingerprint: Vec<Option<String>>,
    payload: Vec<Option<String>>,
    epoch: Vec<Option<i32>>,
    record: Vec<Option<String>>,
    actor: Vec<Option<String>>,
    action: Vec<Option<String>>,
    detail: Vec<Option<String>>,
    admitted: Vec<bool>,
}

impl Columns {
    fn of(batch: &[Settlement], part: &[usize]) -> Self {
        let mut columns = Self::default();
        for at in part {
            columns.push(*at, &batch[*at]);
        }
        columns
    }

    fn push(&mut self, at: usize, it: &Settlement) {
        let (token, version) = match it.guard {
            Guard::Token(token) => (Some(token), None),
            Guard::Version(version) => (None, Some(version)),
        };
        let transition = &it.transition;
        let audit = it.audit.as_ref();
        self.n.push(i32::try_from(at).unwrap_or(i32::MAX));
        self.id.push(it.id.0);
        self.token.push(token);
        self.version.push(version);
        self.state.push(transition.to.as_str());
        self.run_at.push(transition.run_at);
        self.attempts.push(codec::int(transition.attempts));
        self.crashes.push(codec::int(transition.crashes));
        self.reset.push(transition.reset);
        self.held.push(transition.held.map(|it| it.as_str()));
        self.failure
            .push(transition.failure.as_ref().map(codec::failure));
        self.cancel.push(transition.cancel);
        self.archive.push(transition.archive);
        self.result.push(it.result.clone());
        self.fingerprint.push(it.fingerprint.clone());
        self.payload.push(it.edit.as_deref().map(str::to_owned));
        let attempt = it.attempt.as_ref();
        self.epoch.push(attempt.map(|it| codec::int(it.epoch)));
        self.record.push(attempt.map(codec::record));
        self.actor.push(audit.map(|it| codec::plain(&it.actor)));
        self.action.push(audit.map(|it| codec::plain(&it.action)));
        self.detail.push(audit.map(|it| codec::plain(&it.detail)));
        self.admitted.push(transition.admitted);
    }

    fn query(&self) -> sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments> {
        sqlx::query(sabotage!(SETTLE, "settle.fence": "(j.token = w.token OR j.version = w.version)" => "(j.token = w.token OR j.version = w.version OR true)"))
            .bind(&self.n)
            .bind(&self.id)
            .bind(&self.token)
            .bind(&self.version)
            .bind(&self.state)
            .bind(&self.run_at)
            .bind(&self.attempts)
            .bind(&self.crashes)
            .bind(&self.reset)
            .bind(&self.held)
            .bind(&self.failure)
            .bind(&self.cancel)
            .bind(&self.archive)
            .bind(&self.result)
            .bind(&self.fingerprint)
            .bind(&self.payload)
            .bind(&self.epoch)
            .bind(&self.record)
            .bind(&self.actor)
            .bind(&self.action)
            .bind(&self.detail)
            .bind(&self.admitted)
    }
}
