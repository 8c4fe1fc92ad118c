-- Housekeeping in pieces: no statement of it takes longer than a usual call may.

-- How many pages of the oldest partition are done with, of those that `drop_partition` looks at.
ALTER TABLE presswork.meta ADD COLUMN pages_dropped bigint NOT NULL DEFAULT 0;

-- Finished jobs come in the order of their end, so that a few pages of this index find an hour.
CREATE INDEX finished_jobs_archived ON presswork.finished_jobs USING brin (archived_at)
    WITH (autosummarize = on);

-- As before, but one call does `pages` of the oldest partition that is past its keeping (nobody
-- writes to it any more: pages stay what they are); the call after its last page drops it. Returns
-- how many jobs were done, or null where there is nothing to drop.
DROP FUNCTION presswork.drop_partition(timestamptz);
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
REVOKE ALL ON FUNCTION presswork.drop_partition(timestamptz, bigint) FROM PUBLIC;
