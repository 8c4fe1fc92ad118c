//! A standby that was promoted, perhaps without the newest commits: noticed by the timeline, mended by
//! what send journals tell, and only then permitted to send again.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::codec;
use super::codec::seconds;
use super::pool::{Pools, explain};
use crate::clock::Time;
use crate::effect::{EffectId, Evidence, restored};
use crate::job::JobId;
use crate::ledger::door::{LedgerError, Result};
use crate::ledger::rows::{Fork, GENERATIONS_SKIPPED, History, Lifted, Mended, Silent, Told};

/// Notes, once a timeline, that the ledger was found on another one than effects are permitted on. The
/// queue may know a later generation than this ledger: it is filled anew.
macro_rules! note_fork {
    () => {
        "UPDATE presswork.meta
         SET found_on = presswork.timeline(), found_wal = pg_current_wal_lsn(), lost_wal = NULL,
             found_at = greatest(presswork.now(), presswork.newest()) + interval '1 microsecond',
             known_until = coalesce((SELECT max(beat_at) FROM presswork.workers), presswork.now()),
             generation = generation + 1000000, generation_server = NULL
         WHERE timeline <> presswork.timeline() AND found_on IS DISTINCT FROM presswork.timeline()"
    };
}
pub(super) use note_fork;
const _: () = assert!(GENERATIONS_SKIPPED == 1_000_000, "as `note_fork` says");

const FOUND: &str = note_fork!();

/// The runs whose journals have to tell before anything is sent: those that may have sent what this
/// ledger lost. One that had ended, or whose lease was past, by the last beat that came along may not.
/// The timeline is asked for once, not for each row: the server reads a file for it.
macro_rules! silent {
    () => {
        "SELECT w.run, w.host, coalesce(w.beat_at, w.began_at) AS last_at
         FROM presswork.workers w, presswork.meta m
         WHERE m.timeline <> (SELECT presswork.timeline()) AND m.found_on = (SELECT presswork.timeline())
           AND w.heard IS DISTINCT FROM (SELECT presswork.timeline())
           AND (NOT w.ended OR w.ended_on = (SELECT presswork.timeline()))
           AND m.known_until <= w.lease_until"
    };
}

const HISTORY: &str = concat!(
    "WITH here AS MATERIALIZED (SELECT presswork.timeline() AS timeline),
    silent AS MATERIALIZED (",
    silent!(),
    ")
    SELECT m.timeline AS permitted, here.timeline AS current,
        CASE WHEN here.timeline IS NOT NULL
             THEN (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint END AS wal,
        m.found_on = here.timeline AS forked, m.found_at, m.known_until,
        (m.found_wal - '0/0'::pg_lsn)::bigint AS found_wal, m.lost_wal,
        ARRAY(SELECT run FROM presswork.workers WHERE heard = here.timeline) AS heard,
        ARRAY(SELECT run FROM silent ORDER BY run) AS silent,
        ARRAY(SELECT host FROM silent ORDER BY run) AS hosts,
        ARRAY(SELECT last_at FROM silent ORDER BY run) AS lasts
    FROM presswork.meta m CROSS JOIN here"
);

/// Where this ledger's server stands in its own history.
pub async fn history(pools: &Pools) -> Result<History> {
    let row = pools.call(sqlx::query(HISTORY).fetch_one(pools.main()));
    read(&row.await?)
}

/// Notes where the timeline that the server is on began, unless effects are permitted on it or somebody
/// was quicker.
pub async fn found(pools: &Pools) -> Result<()> {
    let query = || sqlx::query(FOUND).execute(pools.main());
    pools.again(query).await.map(|_| ())
}

fn read(row: &PgRow) -> Result<History> {
    let current: Option<String> = row.try_get("current").map_err(explain)?;
    let current =
        current.ok_or_else(|| LedgerError::Away("this server is a standby".to_owned()))?;
    let fork = |row: &PgRow| -> sqlx::Result<Fork> {
        Ok(Fork {
            found_at: row.try_get("found_at")?,
            known_until: row.try_get("known_until")?,
            wal: row.try_get::<i64, _>("found_wal")?.unsigned_abs(),
            lost_wal: row
                .try_get::<Option<i64>, _>("lost_wal")?
                .map(i64::unsigned_abs),
        })
    };
    let history = |row: &PgRow| -> sqlx::Result<History> {
        let runs: Vec<Uuid> = row.try_get("silent")?;
        let hosts: Vec<String> = row.try_get("hosts")?;
        let lasts: Vec<Time> = row.try_get("lasts")?;
        let silent = runs.into_iter().zip(hosts).zip(lasts);
        let forked: Option<bool> = row.try_get("forked")?;
        Ok(History {
            permitted: row.try_get("permitted")?,
            current,
            wal: row.try_get::<i64, _>("wal")?.unsigned_abs(),
            fork: forked.unwrap_or(false).then(|| fork(row)).transpose()?,
            heard: row.try_get("heard")?,
            silent: silent
                .map(|((run, host), last_at)| Silent { run, host, last_at })
                .collect(),
        })
    };
    history(row).map_err(explain)
}

/// Effects go forward to what was told of them, never back: a later permit than the ledger knows, or the
/// answer to the last one. What the ledger doesn't know at all is kept until a job comes to it; unless it
/// is from before the last beat that came along: then it was known, and is forgotten with its job.
/// The handle (class B) may have been replaced before the send; and once effects are permitted again, a
/// key may have been minted anew: by those nothing is proven.
const TESTIFY: &str = "
WITH here AS MATERIALIZED (
    SELECT m.timeline <> presswork.timeline() AS held, m.known_until FROM presswork.meta m
    WHERE presswork.timeline() = $1
),
told AS MATERIALIZED (
    SELECT t.*, here.held, here.known_until
    FROM unnest($3::uuid[], $4::integer[], $5::timestamptz[], $6::text[], $7::text[], $8::text[])
         AS t(effect, send, at, state, receipt, evidence), here
),
known AS MATERIALIZED (
    SELECT id FROM presswork.effects WHERE id = ANY($3) ORDER BY id FOR UPDATE
),
forward AS (
    UPDATE presswork.effects e
    SET state = CASE WHEN t.state = 'refused' AND e.maybe_since IS NOT NULL THEN 'unknown'
                     ELSE t.state END,
        maybe_since = CASE WHEN t.state <> 'confirmed' THEN e.maybe_since END,
        key_lost = t.state <> 'confirmed' AND (e.key_lost OR (e.sends < t.send
            AND (e.class = 'B' OR (NOT t.held AND e.keep <> 'null')))),
        permit_at = CASE WHEN e.sends < t.send THEN t.at ELSE e.permit_at END,
        first_sent_at = coalesce(e.first_sent_at, t.at), permit_run = $2, sends = t.send,
        receipt = coalesce(t.receipt, e.receipt), evidence = e.evidence || t.evidence,
        looks = 0, look_at = NULL
    FROM told t JOIN known k ON k.id = t.effect
    WHERE e.id = t.effect AND e.state <> 'confirmed'
      AND (e.sends < t.send
           OR (e.sends = t.send AND e.permit_run = $2
               AND ((e.state = 'sending' AND t.state <> 'sending')
                    OR (e.state IN ('unknown', 'unresolved') AND t.state IN ('confirmed', 'refused')
                        AND NOT (t.state = 'refused' AND e.maybe_since IS NOT NULL)))))
    RETURNING e.job, e.state
),
kept AS (
    INSERT INTO presswork.testimony AS k (effect, send, run, first_at, at, state, receipt, evidence)
    SELECT effect, send, $2, at, at, state, receipt, ARRAY[evidence] FROM told
    WHERE effect <> ALL(ARRAY(SELECT id FROM known))
      AND known_until - interval '5 minutes' <= at
    ON CONFLICT (effect) DO UPDATE
    SET send = excluded.send, run = excluded.run, at = excluded.at, state = excluded.state,
        receipt = excluded.receipt, evidence = k.evidence || excluded.evidence
    WHERE k.send < excluded.send
       OR (k.send = excluded.send AND k.run = excluded.run
           AND k.state = 'sending' AND excluded.state <> 'sending')
    RETURNING 1
)
SELECT EXISTS (SELECT FROM here) AS here, ARRAY(SELECT job FROM forward) AS jobs,
       ARRAY(SELECT state FROM forward) AS states, (SELECT count(*) FROM kept) AS kept";

/// Writes down what a run's send journal tells; each effect once in a batch.
pub async fn testify(pools: &Pools, timeline: &str, run: Uuid, told: &[Told]) -> Result<Mended> {
    let effects: Vec<Uuid> = told.iter().map(|it| it.effect.0).collect();
    let sends: Vec<i32> = told.iter().map(|it| codec::int(it.send)).collect();
    let ats: Vec<Time> = told.iter().map(|it| it.at).collect();
    let states: Vec<&str> = told.iter().map(|it| it.state.as_str()).collect();
    let receipts = told.iter().map(|it| it.receipt.as_ref().map(codec::text));
    let receipts: Vec<Option<String>> = receipts.collect();
    let evidence: Vec<String> = told.iter().map(|it| codec::text(&it.evidence)).collect();
    let query = || {
        sqlx::query(TESTIFY)
            .bind(timeline)
            .bind(run)
            .bind(&effects)
            .bind(&sends)
            .bind(&ats)
            .bind(&states)
            .bind(&receipts)
            .bind(&evidence)
            .fetch_one(pools.main())
    };
    let row = pools.again(query).await?;
    let read = |row: &PgRow| -> sqlx::Result<(bool, Mended)> {
        let jobs: Vec<Uuid> = row.try_get("jobs")?;
        let states: Vec<String> = row.try_get("states")?;
        let kept: i64 = row.try_get("kept")?;
        let mended = Mended {
            forward: jobs.len(),
            kept: usize::try_from(kept).unwrap_or(usize::MAX),
            jobs: jobs
                .into_iter()
                .zip(states)
                .filter(|(_, state)| matches!(state.as_str(), "confirmed" | "refused"))
                .map(|(job, _)| JobId(job))
                .collect(),
        };
        Ok((row.try_get("here")?, mended))
    };
    match read(&row).map_err(explain)? {
        (true, mended) => Ok(mended),
        (false, _) => Err(elsewhere()),
    }
}

fn elsewhere() -> LedgerError {
    LedgerError::Away("another server of the same ledger answered".to_owned())
}

/// Both in one look: what was told before effects were permitted again is there.
const TOLD_OF: &str = "
SELECT m.timeline = presswork.timeline() AS permitted,
       ARRAY(SELECT t.effect FROM presswork.testimony t
             WHERE t.effect = ANY($1) AND t.state <> 'refused') AS told
FROM presswork.meta m";

/// Those of these effects that were told of and may have happened.
pub async fn told_of(pools: &Pools, effects: &[EffectId]) -> Result<Option<Vec<EffectId>>> {
    let effects: Vec<Uuid> = effects.iter().map(|it| it.0).collect();
    let look = || {
        sqlx::query(TOLD_OF)
            .bind(&effects)
            .fetch_one(pools.planned())
    };
    let row = pools.again(look).await?;
    let read = |row: &PgRow| -> sqlx::Result<Option<Vec<EffectId>>> {
        let permitted: Option<bool> = row.try_get("permitted")?;
        let told: Vec<Uuid> = row.try_get("told")?;
        let told = told.into_iter().map(EffectId).collect();
        Ok((permitted == Some(true)).then_some(told))
    };
    read(&row).map_err(explain)
}

const HEARD: &str = "
WITH lost AS (
    UPDATE presswork.meta SET lost_wal = greatest(lost_wal, $3)
    WHERE found_on = presswork.timeline() AND presswork.timeline() = $1
      AND lost_wal IS DISTINCT FROM greatest(lost_wal, $3)
)
UPDATE presswork.workers SET heard = $1
WHERE run = $2 AND presswork.timeline() = $1";

/// A run's journal has told all that it knows.
pub async fn heard(
    pools: &Pools,
    timeline: &str,
    run: Uuid,
    lost_wal: Option<u64>,
) -> Result<bool> {
    let lost = lost_wal.map(|it| i64::try_from(it).unwrap_or(i64::MAX));
    let query = || {
        sqlx::query(HEARD)
            .bind(timeline)
            .bind(run)
            .bind(lost)
            .execute(pools.main())
    };
    Ok(pools.again(query).await?.rows_affected() == 1)
}

/// What the silent runs may have done since they were heard of last is doubted, as after a restore.
const LIFT: &str = concat!(
    "WITH silent AS MATERIALIZED (",
    silent!(),
    "),
    due AS MATERIALIZED (
        SELECT m.timeline, m.found_at, m.known_until, (SELECT min(last_at) FROM silent) AS last_at
        FROM presswork.meta m
        WHERE m.timeline <> presswork.timeline() AND m.found_on = presswork.timeline()
          AND presswork.timeline() = $1
          AND m.found_at + $2 * interval '1 second' <= presswork.now()
          AND (SELECT min(last_at) FROM silent) IS NOT DISTINCT FROM $4
          AND ($4 IS NULL OR m.found_at + $3 * interval '1 second' <= presswork.now())
        FOR UPDATE
    ),
    doubted AS (
        UPDATE presswork.effects e
        SET state = CASE e.state WHEN 'unresolved' THEN e.state ELSE 'unknown' END,
            maybe_since = least(e.maybe_since, due.last_at), key_lost = e.key_lost OR e.class = 'B',
            evidence = e.evidence || $5::text
        FROM presswork.jobs j, due
        WHERE j.id = e.job AND e.state <> 'confirmed' AND due.last_at IS NOT NULL
          AND NOT (e.state = 'sending' AND EXISTS (
              SELECT FROM presswork.workers w
              WHERE w.run = e.permit_run AND w.heard = (SELECT presswork.timeline())))
        RETURNING 1
    ),
    parked AS (
        UPDATE presswork.quarantine
        SET reason = 'refused', message = message || $6
        FROM due WHERE reason = 'unknown_kind' AND due.last_at IS NOT NULL AND at < due.found_at
    ),
    lifted AS (
        UPDATE presswork.meta m
        SET timeline = presswork.timeline(),
            restored_at = CASE WHEN due.last_at IS NULL THEN m.restored_at
                          ELSE greatest(m.restored_at, due.found_at) END,
            backup_at = least(m.backup_at, due.last_at)
        FROM due
        RETURNING m.lost_wal
    ),
    counted AS (
        SELECT (SELECT count(*) FROM doubted) AS doubted,
               (SELECT count(*) FROM presswork.testimony t
                WHERE due.known_until - interval '5 minutes' <= t.at
                  AND NOT EXISTS (SELECT FROM presswork.effects e WHERE e.id = t.effect)) AS strange,
               lifted.lost_wal
        FROM due, lifted
    ),
    noted AS (
        INSERT INTO presswork.audit (actor, action, detail, at)
        SELECT 'failover', 'promotion',
               format('another server took this ledger over (timeline %s): of the old one''s log %s lost; '
                      '%s sends were told that this ledger has no effect of; %s effects may have been sent%s',
                      $1, coalesce('at least ' || lost_wal || ' bytes are', 'it isn''t known what is'),
                      strange, doubted, $7::text), presswork.now()
        FROM counted
    )
    SELECT doubted, strange, lost_wal FROM counted"
);

/// Permits effects again, if it is time. `at_least` after the change was found; with runs that haven't
/// told, `at_most` after it: then what they may have done is doubted.
pub async fn lift(
    pools: &Pools,
    history: &History,
    (at_least, at_most): (Duration, Duration),
) -> Result<Option<Lifted>> {
    let last_at = history.silent.iter().map(|it| it.last_at).min();
    let seen = last_at.map(restored).unwrap_or_default();
    let evidence = Evidence::new(last_at.unwrap_or_default(), seen);
    let parked = format!("; {}", evidence.seen);
    let hosts: Vec<&str> = history.silent.iter().map(|it| it.host.as_str()).collect();
    let by = match hosts.as_slice() {
        [] => String::new(),
        hosts => format!(", by hosts that said nothing: {}", hosts.join(", ")),
    };
    let query = || {
        sqlx::query(LIFT)
            .bind(&history.current)
            .bind(seconds(at_least))
            .bind(seconds(at_most))
            .bind(last_at)
            .bind(codec::text(&evidence))
            .bind(&parked)
            .bind(codec::plain(&by))
            .fetch_optional(pools.main())
    };
    let read = |row: &PgRow| -> sqlx::Result<Lifted> {
        let count =
            |name: &str| -> sqlx::Result<u64> { Ok(row.try_get::<i64, _>(name)?.unsigned_abs()) };
        Ok(Lifted {
            doubted: count("doubted")?,
            strange: count("strange")?,
            lost_wal: row
                .try_get::<Option<i64>, _>("lost_wal")?
                .map(i64::unsigned_abs),
        })
    };
    let row = pools.again(query).await?;
    row.as_ref().map(read).transpose().map_err(explain)
}
