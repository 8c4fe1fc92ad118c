//! Rows to words and back.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use chrono::{TimeZone, Utc};
use serde::de::DeserializeOwned;
use sqlx::sqlite::SqliteRow;
use sqlx::{ColumnIndex, Decode, Row, Sqlite, Type};
use uuid::Uuid;

use super::open::told;
use crate::clock::Time;
use crate::effect::{Effect, EffectId};
use crate::job::{Job, JobId, Priority};
use crate::json::Digest;
use crate::ledger::door::{LedgerError, Result};
use crate::ledger::rows::{Attempt, Audit, Pause, Quarantined, Run};
use crate::outcome::Failure;

/// A column's value.
pub fn get<'r, T, I>(row: &'r SqliteRow, column: I) -> Result<T>
where
    T: Decode<'r, Sqlite> + Type<Sqlite>,
    I: ColumnIndex<SqliteRow>,
{
    row.try_get(column).map_err(told)
}

/// What is told of a row that can't be read.
pub fn odd(what: &str, e: impl std::fmt::Display) -> LedgerError {
    LedgerError::Other(format!("a row that this program can't read: {what}: {e}"))
}

/// Microseconds of a time.
pub fn micros(at: Time) -> i64 {
    at.timestamp_micros()
}

/// A span in microseconds, as times are kept.
pub fn span_micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX / 2)
}

/// The time of microseconds.
pub fn time(micros: i64) -> Result<Time> {
    Utc.timestamp_micros(micros)
        .single()
        .ok_or_else(|| odd("time", micros))
}

/// The time of microseconds, where there are any.
pub fn maybe_time(micros: Option<i64>) -> Result<Option<Time>> {
    micros.map(time).transpose()
}

fn maybe_digest(bytes: Option<&[u8]>) -> Result<Option<Digest>> {
    let read = |it: &[u8]| it.try_into().map(Digest).map_err(|e| odd("digest", e));
    bytes.map(read).transpose()
}

/// A stored word.
pub fn word<T: FromStr<Err = String>>(text: &str) -> Result<T> {
    text.parse().map_err(|e| odd("word", e))
}

/// Stored JSON.
pub fn json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| odd("JSON", e))
}

fn maybe_json<T: DeserializeOwned>(text: Option<&str>) -> Result<Option<T>> {
    text.map(json).transpose()
}

/// Anything as stored JSON.
pub fn text<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| odd("JSON", e))
}

/// An id as statements name it within JSON.
pub fn hex(id: &JobId) -> String {
    id.0.simple()
        .encode_upper(&mut Uuid::encode_buffer())
        .to_owned()
}

/// A failure's JSON.
pub fn failure(it: &Failure) -> Result<String> {
    text(&it.storable())
}

fn count(row: &SqliteRow, column: &str) -> Result<u32> {
    u32::try_from(get::<i64, _>(row, column)?).map_err(|e| odd(column, e))
}

/// The columns that a job is read from, of either table; `hot` names those the history lacks.
macro_rules! job_columns {
    (hot) => {
        "id, kind, lane, tenant, account, priority, key, payload, revision, created_at, run_at, due_at, not_after, late, \
         late_after_s, expires_at, attempts_max, timeout_s, labels, traceparent, reply_to, state, attempts, crashes, \
         epoch, version, run, token, \
         claimed_at, cancel, held, failure, fingerprint, progress, NULL AS result, ended_at"
    };
    (finished) => {
        "id, kind, lane, tenant, account, priority, key, payload, revision, created_at, run_at, \
         NULL AS due_at, not_after, NULL AS late, NULL AS late_after_s, expires_at, \
         attempts_max, timeout_s, labels, traceparent, reply_to, state, attempts, crashes, epoch, version, NULL AS run, \
         NULL AS token, NULL AS claimed_at, 0 AS cancel, NULL AS held, failure, fingerprint, NULL AS progress, result, ended_at"
    };
}
pub(super) use job_columns;

/// A job.
pub fn job(row: &SqliteRow) -> Result<Job> {
    let labels: BTreeMap<String, String> = json(get(row, "labels")?)?;
    let priority = i16::try_from(get::<i64, _>(row, "priority")?).unwrap_or(i16::MAX);
    Ok(Job {
        id: JobId(get::<Uuid, _>(row, "id")?),
        kind: get(row, "kind")?,
        lane: get(row, "lane")?,
        tenant: get(row, "tenant")?,
        account: get(row, "account")?,
        priority: Priority::of_rank(priority),
        key: get(row, "key")?,
        payload: get::<&str, _>(row, "payload")?.into(),
        revision: count(row, "revision")?,
        created_at: time(get(row, "created_at")?)?,
        run_at: time(get(row, "run_at")?)?,
        not_after: maybe_time(get(row, "not_after")?)?,
        expires_at: time(get(row, "expires_at")?)?,
        due_at: maybe_time(get(row, "due_at")?)?,
        late: get::<Option<&str>, _>(row, "late")?.map(word).transpose()?,
        late_after_s: get(row, "late_after_s")?,
        attempts_max: count(row, "attempts_max")?,
        timeout_s: count(row, "timeout_s")?,
        labels,
        traceparent: get(row, "traceparent")?,
        reply_to: get(row, "reply_to")?,
        state: word(get(row, "state")?)?,
        attempts: count(row, "attempts")?,
        crashes: count(row, "crashes")?,
        epoch: count(row, "epoch")?,
        version: get(row, "version")?,
        run: get(row, "run")?,
        token: get(row, "token")?,
        claimed_at: maybe_time(get(row, "claimed_at")?)?,
        cancel: get::<i64, _>(row, "cancel")? != 0,
        held: get::<Option<&str>, _>(row, "held")?.map(word).transpose()?,
        failure: maybe_json(get(row, "failure")?)?,
        fingerprint: get(row, "fingerprint")?,
        progress: maybe_json(get(row, "progress")?)?,
        result: get(row, "result")?,
        ended_at: maybe_time(get(row, "ended_at")?)?,
    })
}

/// An effect.
pub fn effect(row: &SqliteRow) -> Result<Effect> {
    Ok(Effect {
        id: EffectId(get(row, "id")?),
        job: JobId(get(row, "job")?),
        revision: count(row, "revision")?,
        step: get(row, "step")?,
        account: get(row, "account")?,
        op: get(row, "op")?,
        class: word(get(row, "class")?)?,
        state: word(get(row, "state")?)?,
        intent: get(row, "intent")?,
        keep: json(get(row, "keep")?)?,
        content: maybe_digest(get(row, "content")?)?,
        guard_s: get(row, "guard_s")?,
        sends: count(row, "sends")?,
        first_sent_at: maybe_time(get(row, "first_sent_at")?)?,
        permit_at: maybe_time(get(row, "permit_at")?)?,
        permit_run: get(row, "permit_run")?,
        maybe_since: maybe_time(get(row, "maybe_since")?)?,
        key_lost: get(row, "key_lost")?,
        receipt: maybe_json(get(row, "receipt")?)?,
        evidence: json(get(row, "evidence")?)?,
        looks: count(row, "looks")?,
        look_at: maybe_time(get(row, "look_at")?)?,
        handle: get(row, "handle")?,
        told: get(row, "told")?,
    })
}

/// An attempt.
pub fn attempt(row: &SqliteRow) -> Result<Attempt> {
    Ok(Attempt {
        epoch: count(row, "epoch")?,
        number: count(row, "number")?,
        host: get(row, "host")?,
        began_at: time(get(row, "began_at")?)?,
        ended_at: time(get(row, "ended_at")?)?,
        outcome: get(row, "outcome")?,
        failure: maybe_json(get(row, "failure")?)?,
    })
}

/// An entry of the quarantine.
pub fn quarantined(row: &SqliteRow) -> Result<Quarantined> {
    Ok(Quarantined {
        id: JobId(get(row, "id")?),
        door: get(row, "door")?,
        at: time(get(row, "at")?)?,
        reason: word(get(row, "reason")?)?,
        message: get(row, "message")?,
        kind: get(row, "kind")?,
        bytes: get(row, "bytes")?,
    })
}

/// A run.
pub fn run(row: &SqliteRow) -> Result<Run> {
    Ok(Run {
        id: get(row, "id")?,
        host: get(row, "host")?,
        boot: get(row, "boot")?,
        pid: count(row, "pid")?,
        version: get(row, "version")?,
        began_at: time(get(row, "began_at")?)?,
    })
}

/// A lane's pause.
pub fn pause(row: &SqliteRow) -> Result<Pause> {
    Ok(Pause {
        lane: get(row, "lane")?,
        reason: get(row, "reason")?,
        by: get(row, "by")?,
        at: time(get(row, "at")?)?,
    })
}

/// Who did what.
pub fn audit(row: &SqliteRow) -> Result<Audit> {
    Ok(Audit {
        actor: get(row, "actor")?,
        action: get(row, "action")?,
        job: get::<Option<Uuid>, _>(row, "job")?.map(JobId),
        detail: get(row, "detail")?,
        at: time(get(row, "at")?)?,
    })
}
