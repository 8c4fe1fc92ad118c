//! What `psql` does before and after a dump is restored, in one transaction with it: so that no daemon
//! ever finds a ledger that doesn't know that it was restored.

use super::codec;
use crate::effect::{Evidence, restored};
use crate::ledger::rows::{GENERATIONS_SKIPPED, Restored};

/// Before: an empty schema. It is kept where there is one, with what was granted on it; what depends on
/// the ledger's tables from outside stops the restore.
const PREPARE: &str = r"
\set ON_ERROR_STOP on
SET client_min_messages = warning;
SET standard_conforming_strings = on;
BEGIN;
SET LOCAL lock_timeout = '10s';
DO $presswork$
DECLARE
    live bigint;
    all_tables text;
    all_functions text;
BEGIN
    IF to_regnamespace('presswork') IS NULL THEN
        CREATE SCHEMA presswork;
        RETURN;
    END IF;
    IF to_regclass('presswork.workers') IS NOT NULL THEN
        LOCK TABLE presswork.workers IN ACCESS EXCLUSIVE MODE;
        EXECUTE 'SELECT count(*) FROM presswork.workers
                 WHERE NOT ended AND presswork.now() < lease_until' INTO live;
        IF 0 < live THEN
            RAISE EXCEPTION 'a daemon has begun to use this ledger';
        END IF;
    END IF;
    SELECT string_agg(format('%I.%I', 'presswork', relname), ', ') INTO all_tables FROM pg_class
        WHERE relnamespace = 'presswork'::regnamespace AND relkind IN ('r', 'p')
          AND NOT relispartition;
    SELECT string_agg(oid::regprocedure::text, ', ') INTO all_functions FROM pg_proc
        WHERE pronamespace = 'presswork'::regnamespace;
    IF all_tables IS NOT NULL THEN
        IF NOT REPLACE_IT THEN
            RAISE EXCEPTION 'the schema presswork holds tables: %', all_tables;
        END IF;
        EXECUTE 'DROP TABLE ' || all_tables;
    END IF;
    IF all_functions IS NOT NULL THEN
        EXECUTE 'DROP FUNCTION ' || all_functions;
    END IF;
END $presswork$;
";

/// What `psql` reads before the dump. `replace`: what is there may go.
pub fn prepare(replace: bool) -> String {
    PREPARE.replace("REPLACE_IT", if replace { "true" } else { "false" })
}

/// After: runs are over, and what they ran is put back; the queue is filled anew. Unless nothing ran
/// since the backup, whatever wasn't confirmed by then may have been sent, and what waited for its kind
/// may have been accepted.
/// A handle (class B) may have been replaced since: nothing that is read through it clears.
const RENEW: &str = "
SET search_path = pg_catalog, pg_temp;
WITH ended AS (
    UPDATE presswork.workers
    SET ended = true, lease_until = least(lease_until, presswork.now()), jobs = '{}'
    WHERE NOT ended
),
freed AS (
    UPDATE presswork.jobs
    SET state = 'ready', run = NULL, token = NULL, claimed_at = NULL, progress = NULL,
        version = version + 1
    WHERE token IS NOT NULL
    RETURNING 1
),
doubted AS (
    UPDATE presswork.effects e
    SET state = CASE e.state WHEN 'unresolved' THEN e.state ELSE 'unknown' END,
        maybe_since = least(e.maybe_since, BACKUP_AT), key_lost = e.key_lost OR e.class = 'B',
        evidence = e.evidence || EVIDENCE::text
    FROM presswork.jobs j
    WHERE j.id = e.job AND e.state <> 'confirmed' AND NOT NOTHING_RAN
    RETURNING 1
),
parked AS (
    UPDATE presswork.quarantine
    SET reason = 'refused', message = message || PARKED
    WHERE reason = 'unknown_kind' AND NOT NOTHING_RAN
),
known AS (
    UPDATE presswork.meta m
    SET generation = generation + SKIPPED, generation_server = NULL,
        timeline = presswork.timeline(), found_on = NULL,
        restored_at = CASE WHEN NOTHING_RAN THEN m.restored_at
                      ELSE greatest(m.restored_at, presswork.now(), BACKUP_AT,
                                    (SELECT max(created_at) FROM presswork.jobs))
                           + interval '1 microsecond' END,
        backup_at = CASE WHEN NOTHING_RAN THEN m.backup_at ELSE least(m.backup_at, BACKUP_AT) END
)
INSERT INTO presswork.audit (actor, action, detail, at)
SELECT ACTOR, 'restore',
       DETAIL || format('; %s running jobs were put back, %s effects may have been sent since',
                        (SELECT count(*) FROM freed), (SELECT count(*) FROM doubted)),
       presswork.now();
COMMIT;
";

/// What `psql` reads after the dump.
pub fn renew(it: &Restored) -> String {
    let evidence = Evidence::new(it.backup_at, restored(it.backup_at));
    let at = format!("{}::timestamptz", literal(&it.backup_at.to_rfc3339()));
    let nothing_ran = if it.nothing_ran { "true" } else { "false" };
    // what people wrote comes last and in one go: nothing is looked for in it
    let sql = RENEW
        .replace("SKIPPED", &GENERATIONS_SKIPPED.to_string())
        .replace("NOTHING_RAN", nothing_ran)
        .replace("BACKUP_AT", &at)
        .replace("EVIDENCE", &literal(&codec::text(&evidence)))
        .replace("PARKED", &literal(&it.parked()));
    let (before, after) = sql.split_once("ACTOR").expect("it names the actor");
    let (between, after) = after.split_once("DETAIL").expect("it names the detail");
    let (actor, detail) = (literal(&it.actor), literal(&it.detail));
    [before, &actor, between, &detail, after].concat()
}

fn literal(text: &str) -> String {
    format!("'{}'", codec::plain(text).replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_is_only_text() {
        let it = Restored {
            backup_at: crate::clock::Time::UNIX_EPOCH,
            nothing_ran: false,
            actor: "o'neil DETAIL".to_owned(),
            detail: "'); DROP TABLE x; --\\".to_owned(),
        };
        let sql = renew(&it);
        assert!(sql.contains("SELECT 'o''neil DETAIL', 'restore',"), "{sql}");
        assert!(sql.contains("''); DROP TABLE x; --\\' ||"), "{sql}");
        assert!(!sql.contains("NOTHING_RAN") && !sql.contains("EVIDENCE"));
    }
}
