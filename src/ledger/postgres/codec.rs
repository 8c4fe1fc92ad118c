//! Rows of Postgres as what the ledger's door speaks of, and back.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::effect::{Effect, EffectId};
use crate::job::{Job, JobId, Priority};
use crate::json::Digest;
use crate::ledger::rows::{Attempt, Audit, Pause, Quarantined, Run};
use crate::outcome::Failure;

/// The columns of a job in `presswork.jobs AS j`.
macro_rules! live_columns {
    () => {
        "j.id, j.kind, j.lane, j.tenant, j.account, j.priority, j.key, j.payload, j.revision, \
         j.created_at, j.run_at, j.not_after, j.due_at, j.late, j.late_after_s, j.expires_at, j.attempts_max, j.timeout_s, j.labels, \
         j.traceparent, j.reply_to, j.state, j.attempts, j.crashes, j.epoch, j.version, j.run, \
         j.token, j.claimed_at, j.cancel, j.held, j.failure, j.fingerprint, j.progress, \
         NULL::text AS result, j.ended_at"
    };
}
/// The same columns of a job in `presswork.finished_jobs AS f`.
macro_rules! finished_columns {
    () => {
        "f.id, f.kind, f.lane, f.tenant, f.account, f.priority, f.key, f.payload, f.revision, \
         f.created_at, f.run_at, f.not_after, NULL::timestamptz AS due_at, NULL::text AS late, \
         NULL::integer AS late_after_s, f.expires_at, f.attempts_max, f.timeout_s, f.labels, \
         f.traceparent, f.reply_to, f.state, f.attempts, f.crashes, f.epoch, f.version, \
         NULL::uuid AS run, NULL::uuid AS token, NULL::timestamptz AS claimed_at, \
         false AS cancel, NULL::text AS held, f.failure, f.fingerprint, NULL::text AS progress, \
         f.result, f.ended_at"
    };
}
/// The columns of an effect in `presswork.effects AS e`.
macro_rules! effect_columns {
    () => {
        "e.id, e.job, e.revision, e.step, e.account, e.op, e.class, e.state, e.intent, e.keep, \
         e.content, e.guard_s, e.sends, e.first_sent_at, e.permit_at, e.permit_run, e.maybe_since, \
         e.key_lost, e.receipt, e.evidence, e.looks, e.look_at, e.handle, e.told"
    };
}
/// The columns of an entry of `presswork.quarantine`.
macro_rules! quarantine_columns {
    () => {
        "id, door, at, reason, message, kind, bytes"
    };
}
pub(super) use {effect_columns, finished_columns, live_columns, quarantine_columns};

/// A job, from `live_columns!` or `finished_columns!`.
pub fn job(row: &PgRow) -> sqlx::Result<Job> {
    Ok(Job {
        id: JobId(row.try_get("id")?),
        kind: row.try_get("kind")?,
        lane: row.try_get("lane")?,
        tenant: row.try_get("tenant")?,
        account: row.try_get("account")?,
        priority: Priority::of_rank(row.try_get("priority")?),
        key: row.try_get("key")?,
        payload: Arc::from(row.try_get::<&str, _>("payload")?),
        revision: count(row, "revision")?,
        created_at: row.try_get("created_at")?,
        run_at: row.try_get("run_at")?,
        not_after: row.try_get("not_after")?,
        expires_at: row.try_get("expires_at")?,
        due_at: row.try_get("due_at")?,
        late: optional_word(row, "late")?,
        late_after_s: row
            .try_get::<Option<i32>, _>("late_after_s")?
            .map(i32::unsigned_abs),
        attempts_max: count(row, "attempts_max")?,
        timeout_s: count(row, "timeout_s")?,
        labels: json(row, "labels")?,
        traceparent: row.try_get("traceparent")?,
        reply_to: row.try_get("reply_to")?,
        state: word(row, "state")?,
        attempts: count(row, "attempts")?,
        crashes: count(row, "crashes")?,
        epoch: count(row, "epoch")?,
        version: row.try_get("version")?,
        run: row.try_get("run")?,
        token: row.try_get("token")?,
        claimed_at: row.try_get("claimed_at")?,
        cancel: row.try_get("cancel")?,
        held: optional_word(row, "held")?,
        failure: optional_json(row, "failure")?,
        fingerprint: row.try_get("fingerprint")?,
        progress: optional_json(row, "progress")?,
        result: row.try_get("result")?,
        ended_at: row.try_get("ended_at")?,
    })
}

/// An effect, from the columns of `presswork.effects`.
pub fn effect(row: &PgRow) -> sqlx::Result<Effect> {
    let evidence: Vec<String> = row.try_get("evidence")?;
    let evidence = evidence.iter().map(|it| read_json("evidence", it));
    Ok(Effect {
        id: EffectId(row.try_get("id")?),
        job: JobId(row.try_get("job")?),
        revision: count(row, "revision")?,
        step: row.try_get("step")?,
        account: row.try_get("account")?,
        op: row.try_get("op")?,
        class: word(row, "class")?,
        state: word(row, "state")?,
        intent: row.try_get("intent")?,
        keep: json(row, "keep")?,
        content: row.try_get::<Option<[u8; 32]>, _>("content")?.map(Digest),
        guard_s: row
            .try_get::<Option<i32>, _>("guard_s")?
            .map(i32::unsigned_abs),
        sends: count(row, "sends")?,
        first_sent_at: row.try_get("first_sent_at")?,
        permit_at: row.try_get("permit_at")?,
        permit_run: row.try_get("permit_run")?,
        maybe_since: row.try_get("maybe_since")?,
        key_lost: row.try_get("key_lost")?,
        receipt: optional_json(row, "receipt")?,
        evidence: evidence.collect::<sqlx::Result<_>>()?,
        looks: count(row, "looks")?,
        look_at: row.try_get("look_at")?,
        handle: row.try_get("handle")?,
        told: row.try_get("told")?,
    })
}

/// An entry of the quarantine.
pub fn quarantined(row: &PgRow) -> sqlx::Result<Quarantined> {
    Ok(Quarantined {
        id: JobId(row.try_get("id")?),
        door: row.try_get("door")?,
        at: row.try_get("at")?,
        reason: word(row, "reason")?,
        message: row.try_get("message")?,
        kind: row.try_get("kind")?,
        bytes: row.try_get("bytes")?,
    })
}

/// A run.
pub fn run(row: &PgRow) -> sqlx::Result<Run> {
    Ok(Run {
        id: row.try_get("run")?,
        host: row.try_get("host")?,
        boot: row.try_get("boot")?,
        pid: count(row, "pid")?,
        version: row.try_get("version")?,
        began_at: row.try_get("began_at")?,
    })
}

/// A lane's pause.
pub fn pause(row: &PgRow) -> sqlx::Result<Pause> {
    Ok(Pause {
        lane: row.try_get("lane")?,
        reason: row.try_get("reason")?,
        by: row.try_get("by")?,
        at: row.try_get("at")?,
    })
}

/// A line of the audit.
pub fn audit(row: &PgRow) -> sqlx::Result<Audit> {
    Ok(Audit {
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        job: row.try_get::<Option<Uuid>, _>("job")?.map(JobId),
        detail: row.try_get("detail")?,
        at: row.try_get("at")?,
    })
}

/// An attempt, from its record.
pub fn attempt(record: &str) -> sqlx::Result<Attempt> {
    let read: Record = read_json("record", record)?;
    Ok(Attempt {
        epoch: read.epoch,
        number: read.number,
        host: read.host,
        began_at: read.began_at,
        ended_at: read.ended_at,
        outcome: read.outcome,
        failure: read.failure,
    })
}

/// An attempt as it is stored: one JSON text.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Record {
    epoch: u32,
    number: u32,
    run: Option<Uuid>,
    host: String,
    began_at: crate::clock::Time,
    ended_at: crate::clock::Time,
    outcome: String,
    failure: Option<Failure>,
}

/// The record of an attempt that ended.
pub fn record(it: &crate::ledger::rows::AttemptEnd) -> String {
    text(&Record {
        epoch: it.epoch,
        number: it.number,
        run: it.run,
        host: it.host.clone(),
        began_at: it.began_at,
        ended_at: it.ended_at,
        outcome: it.outcome.clone(),
        failure: it.failure.clone(),
    })
}

/// A failure's JSON.
pub fn failure(it: &Failure) -> String {
    text(&it.storable())
}

/// The JSON text of a value of ours.
pub fn text<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("our own types have string keys and no failing parts")
}

/// Text for people without the one character that Postgres can't hold.
pub fn plain(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A count for an `integer` column; what doesn't fit is more than any bound allows.
pub fn int(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn count(row: &PgRow, column: &str) -> sqlx::Result<u32> {
    let number: i32 = row.try_get(column)?;
    u32::try_from(number).map_err(|e| wrong(column, e))
}

/// Seconds, for `interval '1 second' * $n`.
pub fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// A word from a text column.
pub fn word<T: FromStr<Err = String>>(row: &PgRow, column: &str) -> sqlx::Result<T> {
    let word: &str = row.try_get(column)?;
    word.parse().map_err(|e: String| wrong(column, e))
}

/// A word of a fixed set from a text column, where there is one.
pub fn optional_word<T: FromStr<Err = String>>(
    row: &PgRow,
    column: &str,
) -> sqlx::Result<Option<T>> {
    let word: Option<&str> = row.try_get(column)?;
    let word = word.map(|it| it.parse().map_err(|e: String| wrong(column, e)));
    word.transpose()
}

/// A value from a text column that holds JSON.
pub fn json<T: DeserializeOwned>(row: &PgRow, column: &str) -> sqlx::Result<T> {
    read_json(column, row.try_get(column)?)
}

/// A value from a text column that holds JSON, or nothing.
pub fn optional_json<T: DeserializeOwned>(row: &PgRow, column: &str) -> sqlx::Result<Option<T>> {
    let text: Option<&str> = row.try_get(column)?;
    text.map(|it| read_json(column, it)).transpose()
}

/// A value from JSON that a column held.
pub fn read_json<T: DeserializeOwned>(column: &str, text: &str) -> sqlx::Result<T> {
    serde_json::from_str(text).map_err(|e| wrong(column, e))
}

fn wrong(
    column: &str,
    why: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: why.into(),
    }
}
