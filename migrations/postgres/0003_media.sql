-- The media store: what is in it, which jobs hold it, and which URLs it was fetched from.

CREATE TABLE presswork.media (
    digest     bytea PRIMARY KEY CHECK (length(digest) = 32),
    -- Where its bytes are, new each time that they are written: what is deleted late hits nothing newer.
    place      text NOT NULL UNIQUE,
    mime       text NOT NULL,
    size       bigint NOT NULL CHECK (0 <= size),
    width      bigint CHECK (0 < width),
    height     bigint CHECK (0 < height),
    at         timestamptz NOT NULL,
    -- Stored, fetched or named by a job: the grace counts from here.
    touched_at timestamptz NOT NULL,
    CONSTRAINT media_pixels CHECK ((width IS NULL) = (height IS NULL))
) WITH (fillfactor = 80);
CREATE INDEX media_touched ON presswork.media (touched_at);

-- A job holds what its payload, its steps or its result name, until it is dropped itself. A hold is
-- written before the job is: one whose job never came is found by its age and `sure`.
CREATE TABLE presswork.media_holds (
    digest bytea NOT NULL,
    job    uuid NOT NULL,
    at     timestamptz NOT NULL,
    -- The job was there when somebody looked.
    sure   boolean NOT NULL DEFAULT false,
    PRIMARY KEY (digest, job)
);
CREATE INDEX media_holds_job ON presswork.media_holds (job);
CREATE INDEX media_holds_unsure ON presswork.media_holds (at) WHERE NOT sure;

-- URLs are kept as digests: a signed one holds a secret.
CREATE TABLE presswork.media_fetched (
    url           bytea PRIMARY KEY CHECK (length(url) = 32),
    landed        bytea NOT NULL CHECK (length(landed) = 32),
    digest        bytea NOT NULL REFERENCES presswork.media ON DELETE CASCADE,
    etag          text,
    last_modified text,
    at            timestamptz NOT NULL
);
CREATE INDEX media_fetched_digest ON presswork.media_fetched (digest);

-- As before, and what a dropped job held is free.
CREATE OR REPLACE FUNCTION presswork.drop_partition(cutoff timestamptz, pages bigint) RETURNS bigint
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
