-- Jobs: the hot table, the history in partitions, the idempotency keys, the clock.
-- The names of states, reasons and classes are those of src/lifecycle.rs and src/outcome.rs.

-- One row: the queue's generation, by how much a test has moved the clock, how far the keys of
-- finished jobs are swept, how many pages of the oldest partition `drop_partition` is done with; and,
-- of a ledger that was restored, when, and when its backup began: what jobs from before the restore did
-- after the backup is unknown to it. And of the server: on which timeline effects are permitted, on
-- which other one the ledger was found last (a standby was promoted), when, where that began, the last
-- beat of anybody that came along, and how much of the old server's log certainly didn't.
CREATE TABLE presswork.meta (
    one               boolean PRIMARY KEY DEFAULT true CHECK (one),
    generation        bigint NOT NULL DEFAULT 0,
    generation_server text,
    shift             interval NOT NULL DEFAULT '0',
    keys_swept        timestamptz NOT NULL DEFAULT clock_timestamp(),
    pages_dropped     bigint NOT NULL DEFAULT 0,
    restored_at       timestamptz,
    backup_at         timestamptz,
    timeline          text NOT NULL,
    found_on          text,
    found_at          timestamptz,
    found_wal         pg_lsn,
    known_until       timestamptz,
    lost_wal          bigint,
    CONSTRAINT meta_restored CHECK ((restored_at IS NULL) = (backup_at IS NULL))
);

-- Which server this is, and on which timeline of its history: another one after a standby was promoted,
-- a base backup was brought back to a point in time, or a dump was moved. Null on a standby. Not of the
-- last checkpoint (`pg_control_checkpoint`), which comes some time after a promotion.
CREATE FUNCTION presswork.timeline() RETURNS text
    LANGUAGE plpgsql STABLE
    AS $$
DECLARE
    server text := '-';
BEGIN
    IF pg_catalog.pg_is_in_recovery() THEN
        RETURN NULL;
    END IF;
    BEGIN
        SELECT system_identifier INTO server FROM pg_catalog.pg_control_system();
    EXCEPTION WHEN insufficient_privilege THEN
        -- where only administrators may ask, the timeline alone has to do
        server := '-';
    END;
    RETURN server || '/' || pg_catalog.left(
        pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8);
END $$;
INSERT INTO presswork.meta (timeline) VALUES (presswork.timeline());

-- The ledger's clock. STABLE, although it moves within a statement, so that indexes can be searched
-- by it; a statement that needs one time for all its rows reads it once.
CREATE FUNCTION presswork.now() RETURNS timestamptz
    LANGUAGE sql STABLE
    AS $$ SELECT clock_timestamp() + shift FROM presswork.meta $$;

-- Unfinished and dead jobs. Nothing is written when a job merely becomes due.
CREATE TABLE presswork.jobs (
    id           uuid PRIMARY KEY,
    kind         text NOT NULL,
    lane         text NOT NULL,
    tenant       text NOT NULL,
    account      text,
    priority     smallint NOT NULL CHECK (priority BETWEEN 0 AND 2),
    key          text,
    -- The bytes as they came. Not jsonb, which refuses \u0000 and doesn't keep what was signed.
    payload      text NOT NULL,
    revision     integer NOT NULL DEFAULT 0 CHECK (0 <= revision),
    created_at   timestamptz NOT NULL,
    run_at       timestamptz NOT NULL,
    not_after    timestamptz,
    expires_at   timestamptz NOT NULL,
    attempts_max integer NOT NULL CHECK (0 < attempts_max),
    timeout_s    integer NOT NULL CHECK (0 < timeout_s),
    labels       text NOT NULL DEFAULT '{}',
    traceparent  text,
    reply_to     text,
    state        text NOT NULL,
    attempts     integer NOT NULL DEFAULT 0 CHECK (0 <= attempts),
    crashes      integer NOT NULL DEFAULT 0 CHECK (0 <= crashes),
    epoch        integer NOT NULL DEFAULT 0 CHECK (0 <= epoch),
    version      bigint NOT NULL DEFAULT 0,
    run          uuid,
    token        uuid,
    claimed_at   timestamptz,
    cancel       boolean NOT NULL DEFAULT false,
    held         text CHECK (held IN ('account', 'breaker', 'budget', 'nondeterministic', 'policy')),
    failure      text,
    fingerprint  text,
    progress     text,
    ended_at     timestamptz,
    CONSTRAINT jobs_state CHECK (state IN ('waiting', 'scheduled', 'ready', 'running', 'retrying',
                                           'held', 'unresolved', 'dead')),
    CONSTRAINT jobs_held CHECK ((state = 'held') = (held IS NOT NULL)),
    CONSTRAINT jobs_lease CHECK ((state = 'running') = (token IS NOT NULL)
                             AND (state = 'running') = (run IS NOT NULL)
                             AND (state = 'running') = (claimed_at IS NOT NULL)),
    CONSTRAINT jobs_ended CHECK ((state = 'dead') = (ended_at IS NOT NULL)),
    CONSTRAINT jobs_cancel CHECK (NOT (cancel AND state = 'dead'))
) WITH (
    -- Room for a claim and a retry on the row's own page; dead rows are swept often and fast.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_analyze_threshold = 1000
);

-- What may be claimed: by lane, then priority, then tenant, then due time.
CREATE INDEX jobs_due ON presswork.jobs (lane, priority, tenant, run_at, id) INCLUDE (kind)
    WHERE token IS NULL AND state IN ('scheduled', 'ready', 'retrying');
CREATE INDEX jobs_running ON presswork.jobs (lane, run) WHERE token IS NOT NULL;
CREATE INDEX jobs_cancels ON presswork.jobs (run) WHERE cancel AND token IS NOT NULL;
CREATE INDEX jobs_expiry ON presswork.jobs (least(not_after, expires_at))
    WHERE token IS NULL AND state IN ('waiting', 'scheduled', 'ready', 'retrying', 'held');
CREATE INDEX jobs_dead ON presswork.jobs (ended_at) WHERE state = 'dead';
CREATE INDEX jobs_dead_groups ON presswork.jobs (fingerprint, ended_at) WHERE state = 'dead';
CREATE INDEX jobs_parked ON presswork.jobs (state, id)
    WHERE state IN ('waiting', 'held', 'unresolved');

-- Completed, cancelled and discarded jobs, one partition for each day (UTC) in which they were
-- moved here; a day that is past its keeping is dropped, not vacuumed. A row carries the job's
-- attempts, so that the common job with one attempt costs one row.
CREATE TABLE presswork.finished_jobs (
    id           uuid NOT NULL,
    kind         text NOT NULL,
    lane         text NOT NULL,
    tenant       text NOT NULL,
    account      text,
    priority     smallint NOT NULL,
    key          text,
    payload      text NOT NULL,
    revision     integer NOT NULL,
    created_at   timestamptz NOT NULL,
    run_at       timestamptz NOT NULL,
    not_after    timestamptz,
    expires_at   timestamptz NOT NULL,
    attempts_max integer NOT NULL,
    timeout_s    integer NOT NULL,
    labels       text NOT NULL,
    traceparent  text,
    reply_to     text,
    state        text NOT NULL CHECK (state IN ('completed', 'cancelled', 'dead')),
    attempts     integer NOT NULL,
    crashes      integer NOT NULL,
    epoch        integer NOT NULL,
    version      bigint NOT NULL,
    failure      text,
    fingerprint  text,
    result       text,
    -- The attempts, as the JSON texts that `attempts` held, oldest first.
    history      text[] NOT NULL,
    ended_at     timestamptz NOT NULL,
    archived_at  timestamptz NOT NULL
) PARTITION BY RANGE (archived_at);
CREATE INDEX finished_jobs_id ON presswork.finished_jobs (id);
-- Finished jobs come in the order of their end, so that a few pages of this index find an hour.
CREATE INDEX finished_jobs_archived ON presswork.finished_jobs USING brin (archived_at)
    WITH (autosummarize = on);
-- Where no partition was made in time, a job's end must still be written down.
CREATE TABLE presswork.finished_jobs_other PARTITION OF presswork.finished_jobs DEFAULT;

-- The attempts of jobs that are in `jobs`, one JSON text each.
CREATE TABLE presswork.attempts (
    job    uuid NOT NULL,
    epoch  integer NOT NULL,
    n      bigint GENERATED ALWAYS AS IDENTITY,
    record text NOT NULL,
    PRIMARY KEY (job, n)
);

-- Keys may outlive their jobs: a repeat long after the end is still the same job. A settle doesn't
-- touch them; `ended_at` is set when the job's partition goes before its key does.
CREATE TABLE presswork.idempotency_keys (
    tenant   text NOT NULL,
    kind     text NOT NULL,
    key      text NOT NULL,
    digest   bytea NOT NULL CHECK (length(digest) = 32),
    job      uuid NOT NULL,
    options  text NOT NULL,
    ended_at timestamptz,
    PRIMARY KEY (tenant, kind, key)
);
CREATE INDEX idempotency_keys_ended ON presswork.idempotency_keys (ended_at)
    WHERE ended_at IS NOT NULL;

-- What couldn't be accepted.
CREATE TABLE presswork.quarantine (
    id      uuid PRIMARY KEY,
    door    text NOT NULL,
    at      timestamptz NOT NULL,
    reason  text NOT NULL CHECK (reason IN ('malformed', 'unknown_kind', 'invalid', 'too_large',
                                            'conflict', 'repeats', 'refused')),
    message text NOT NULL,
    kind    text,
    bytes   bytea NOT NULL
);
CREATE INDEX quarantine_at ON presswork.quarantine (at DESC, id DESC);
-- What goes on by itself once a daemon knows its kind.
CREATE INDEX quarantine_unknown ON presswork.quarantine (kind, at, id)
    WHERE reason = 'unknown_kind';

-- Makes the partitions for `ahead` days from today on. What had to go to the default partition
-- meanwhile moves into its own. SECURITY DEFINER: the daemon's role needs no right to make tables.
CREATE FUNCTION presswork.make_partitions(ahead integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    today date := (presswork.now() AT TIME ZONE 'UTC')::date;
    made  integer := 0;
    day   date;
    name  text;
    since timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('presswork.partitions', 0));
    FOR i IN 0 .. least(ahead, 31) LOOP
        day := today + i;
        name := 'finished_jobs_' || to_char(day, 'YYYYMMDD');
        since := day::timestamp AT TIME ZONE 'UTC';
        CONTINUE WHEN to_regclass('presswork.' || name) IS NOT NULL;
        EXECUTE format('CREATE TABLE presswork.%I (LIKE presswork.finished_jobs INCLUDING ALL)', name);
        EXECUTE format('WITH moved AS (DELETE FROM presswork.finished_jobs_other
                            WHERE $1 <= archived_at AND archived_at < $1 + interval ''24 hours''
                            RETURNING *)
                        INSERT INTO presswork.%I SELECT * FROM moved', name) USING since;
        EXECUTE format('ALTER TABLE presswork.finished_jobs ATTACH PARTITION presswork.%I
                            FOR VALUES FROM (%L) TO (%L)', name, since, since + interval '24 hours');
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

-- Drops the oldest partition that is past its keeping (all of it was moved here before `cutoff`), with
-- the steps, effects and holds of media of its jobs; keys that stay learn when their job ended. In pieces, so that no
-- statement of it takes longer than a usual call may: one call does `pages` of it (nobody writes to it
-- any more: pages stay what they are), the call after its last page drops it. Returns how many jobs
-- were done, or null where there is nothing to drop.
CREATE FUNCTION presswork.drop_partition(cutoff timestamptz, pages bigint) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    name  text;
    since bigint;
    gone  bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('presswork.partitions', 0));
    SELECT c.relname INTO name
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'presswork.finished_jobs'::regclass
          AND c.relname ~ '^finished_jobs_[0-9]{8}$'
          AND (to_date(right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp AT TIME ZONE 'UTC' <= cutoff
          -- today's stays, however short the keeping
          AND to_date(right(c.relname, 8), 'YYYYMMDD') < (presswork.now() AT TIME ZONE 'UTC')::date
        ORDER BY c.relname LIMIT 1;
    IF name IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT pages_dropped INTO since FROM presswork.meta;
    IF since < pg_relation_size(format('presswork.%I', name)::regclass)
               / current_setting('block_size')::bigint THEN
        EXECUTE format('
            WITH gone AS MATERIALIZED (
                SELECT id, tenant, kind, key, archived_at FROM presswork.%I
                WHERE $1 <= ctid AND ctid < $2
            ),
            steps AS (DELETE FROM presswork.steps s USING gone WHERE s.job = gone.id),
            effects AS (DELETE FROM presswork.effects e USING gone WHERE e.job = gone.id),
            holds AS (DELETE FROM presswork.media_holds h USING gone WHERE h.job = gone.id),
            keys AS (
                UPDATE presswork.idempotency_keys k SET ended_at = gone.archived_at FROM gone
                WHERE k.tenant = gone.tenant AND k.kind = gone.kind AND k.key = gone.key
                  AND k.job = gone.id
            )
            SELECT count(*) FROM gone', name)
            INTO gone
            USING format('(%s,0)', since)::tid, format('(%s,0)', since + pages)::tid;
        UPDATE presswork.meta SET pages_dropped = since + pages;
        RETURN gone;
    END IF;
    EXECUTE format('ALTER TABLE presswork.finished_jobs DETACH PARTITION presswork.%I', name);
    EXECUTE format('DROP TABLE presswork.%I', name);
    UPDATE presswork.meta SET pages_dropped = 0;
    RETURN 0;
END $$;
REVOKE ALL ON FUNCTION presswork.make_partitions(integer),
                       presswork.drop_partition(timestamptz, bigint) FROM PUBLIC;

SELECT presswork.make_partitions(7);
