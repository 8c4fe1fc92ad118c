-- The SQL door: `presswork.enqueue` within a producer's own transaction.

-- Envelopes that were committed and wait for a daemon to take them in. A row goes when its job is in
-- `jobs` or its bytes are in `quarantine`.
CREATE TABLE presswork.intake (
    -- Becomes the job's id: taking a row twice is taking the same job twice.
    id       uuid PRIMARY KEY,
    seq      bigint GENERATED ALWAYS AS IDENTITY,
    envelope text NOT NULL,
    at       timestamptz NOT NULL,
    -- The daemon, and which of its loops, that takes it in.
    run      uuid,
    slot     integer,
    CONSTRAINT intake_taken CHECK ((run IS NULL) = (slot IS NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.01);
CREATE INDEX intake_waiting ON presswork.intake (seq) WHERE run IS NULL;
CREATE INDEX intake_of_run ON presswork.intake (run, slot, seq) WHERE run IS NOT NULL;

-- An id as daemons mint them (UUID version 7, RFC 9562): by time, so that ids of one day lie together.
CREATE FUNCTION presswork.mint() RETURNS uuid
    LANGUAGE sql VOLATILE
    AS $$
SELECT encode(
    set_bit(set_bit(
        overlay(uuid_send(gen_random_uuid()) PLACING
                substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                FROM 1 FOR 6),
        52, 1), 53, 1),
    'hex')::uuid
$$;

-- One envelope as it is, JSON in a text: what it says is checked by the daemon, as at every door.
CREATE FUNCTION presswork.enqueue_envelope(envelope text) RETURNS uuid
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, presswork, pg_temp
    AS $$
DECLARE
    minted uuid := presswork.mint();
BEGIN
    IF envelope IS NULL THEN
        RAISE 'the envelope is null: write the job as JSON, {"v": 1, "kind": ..., "payload": ...}'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    -- four times what a daemon takes: as much is kept in quarantine, and more nobody means
    IF 1048576 < octet_length(envelope) THEN
        RAISE 'the envelope has % bytes, and 262144 are the most: name media by their URL or reference',
            octet_length(envelope) USING ERRCODE = 'program_limit_exceeded';
    END IF;
    INSERT INTO presswork.intake (id, envelope, at) VALUES (minted, envelope, clock_timestamp());
    RETURN minted;
END $$;

-- A job, written by the fields of its envelope. Returns the id that it gets, if its key is new.
CREATE FUNCTION presswork.enqueue(
    kind         text,
    payload      json,
    key          text DEFAULT NULL,
    tenant       text DEFAULT NULL,
    account      text DEFAULT NULL,
    lane         text DEFAULT NULL,
    priority     text DEFAULT NULL,
    run_at       timestamptz DEFAULT NULL,
    not_after    timestamptz DEFAULT NULL,
    attempts_max integer DEFAULT NULL,
    timeout_s    integer DEFAULT NULL,
    labels       json DEFAULT NULL,
    traceparent  text DEFAULT NULL,
    again        boolean DEFAULT NULL
) RETURNS uuid
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, presswork, pg_temp
    AS $$
DECLARE
    fields text;
BEGIN
    IF kind IS NULL OR payload IS NULL THEN
        RAISE '% is null: SELECT presswork.enqueue(''post.mastodon'', ''{"text": "hello"}'')',
            CASE WHEN kind IS NULL THEN 'the kind' ELSE 'the payload' END
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    -- The payload stays as it was written: building it anew would lose what JSON may say twice.
    SELECT string_agg(to_json(f.name) || ':' || f.value, ',' ORDER BY f.n) INTO fields
    FROM (VALUES (1, 'v', '1'), (2, 'kind', to_json(kind)::text), (3, 'payload', payload::text),
                 (4, 'key', to_json(key)::text), (5, 'tenant', to_json(tenant)::text),
                 (6, 'account', to_json(account)::text), (7, 'lane', to_json(lane)::text),
                 (8, 'priority', to_json(priority)::text), (9, 'run_at', to_json(run_at)::text),
                 (10, 'not_after', to_json(not_after)::text),
                 (11, 'attempts_max', attempts_max::text), (12, 'timeout_s', timeout_s::text),
                 (13, 'labels', labels::text), (14, 'traceparent', to_json(traceparent)::text),
                 (15, 'again', again::text)) AS f (n, name, value)
    WHERE f.value IS NOT NULL;
    RETURN presswork.enqueue_envelope('{' || fields || '}');
END $$;

-- The same with a payload that is a text or jsonb. Which of them a literal is, PostgreSQL decides: text.
DO $$
DECLARE
    fields constant text := 'key, tenant, account, lane, priority, run_at, not_after, attempts_max,
                             timeout_s, labels, traceparent, again';
    as_type text;
BEGIN
    FOREACH as_type IN ARRAY ARRAY['text', 'jsonb'] LOOP
        EXECUTE format(
            'CREATE FUNCTION presswork.enqueue(
                kind text, payload %s, key text DEFAULT NULL, tenant text DEFAULT NULL,
                account text DEFAULT NULL, lane text DEFAULT NULL, priority text DEFAULT NULL,
                run_at timestamptz DEFAULT NULL, not_after timestamptz DEFAULT NULL,
                attempts_max integer DEFAULT NULL, timeout_s integer DEFAULT NULL,
                labels json DEFAULT NULL, traceparent text DEFAULT NULL,
                again boolean DEFAULT NULL
            ) RETURNS uuid LANGUAGE sql VOLATILE SECURITY DEFINER
            SET search_path = pg_catalog, presswork, pg_temp
            AS ''SELECT presswork.enqueue(kind, payload::json, %s)''',
            as_type, fields);
    END LOOP;
END $$;

-- What a producer may do is this, and nothing else. Functions are open to everybody when they are made.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA presswork FROM PUBLIC;

-- Roles belong to the whole server: another ledger there may have made it, and whoever may make tables
-- may not always make roles (`presswork check --print-acl` prints what an administrator has to run).
DO $$
DECLARE
    door record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'presswork_producer') THEN
        CREATE ROLE presswork_producer NOLOGIN;
    END IF;
    GRANT USAGE ON SCHEMA presswork TO presswork_producer;
    FOR door IN SELECT p.oid::regprocedure AS it FROM pg_proc p
                WHERE p.pronamespace = 'presswork'::regnamespace
                  AND p.proname IN ('enqueue', 'enqueue_envelope') LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO presswork_producer', door.it);
    END LOOP;
EXCEPTION
    WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN
        RAISE NOTICE 'the role presswork_producer isn''t made: %', SQLERRM;
END $$;
