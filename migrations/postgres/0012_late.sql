-- When a job was to be done, and what becomes of it when it comes late. Programs of the version before
-- write neither, and do all of it however late it is.

ALTER TABLE presswork.jobs
    ADD COLUMN due_at       timestamptz,
    ADD COLUMN late         text CHECK (late IN ('publish', 'skip', 'ask')),
    ADD COLUMN late_after_s integer CHECK (0 < late_after_s);

-- What goes before a job that comes late, account by account.
CREATE INDEX jobs_late ON presswork.jobs (account, priority, due_at, id) INCLUDE (run_at, claimed_at)
    WHERE account IS NOT NULL AND state IN ('scheduled', 'ready', 'running', 'retrying');

-- The SQL door's function gets the two members at its end: what named or placed the others goes on.
DROP FUNCTION presswork.enqueue(text, json, text, text, text, text, text, timestamptz, timestamptz,
                                integer, integer, json, text, boolean);
DROP FUNCTION presswork.enqueue(text, text, text, text, text, text, text, timestamptz, timestamptz,
                                integer, integer, json, text, boolean);
DROP FUNCTION presswork.enqueue(text, jsonb, text, text, text, text, text, timestamptz, timestamptz,
                                integer, integer, json, text, boolean);

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
    again        boolean DEFAULT NULL,
    late         text DEFAULT NULL,
    late_after_s integer DEFAULT NULL
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
                 (15, 'again', again::text), (16, 'late', to_json(late)::text),
                 (17, 'late_after_s', late_after_s::text)) AS f (n, name, value)
    WHERE f.value IS NOT NULL;
    RETURN presswork.enqueue_envelope('{' || fields || '}');
END $$;

-- The same with a payload that is a text or jsonb. Which of them a literal is, PostgreSQL decides: text.
DO $$
DECLARE
    fields constant text := 'key, tenant, account, lane, priority, run_at, not_after, attempts_max,
                             timeout_s, labels, traceparent, again, late, late_after_s';
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
                again boolean DEFAULT NULL, late text DEFAULT NULL, late_after_s integer DEFAULT NULL
            ) RETURNS uuid LANGUAGE sql VOLATILE SECURITY DEFINER
            SET search_path = pg_catalog, presswork, pg_temp
            AS ''SELECT presswork.enqueue(kind, payload::json, %s)''',
            as_type, fields);
    END LOOP;
END $$;

-- Functions are open to everybody when they are made.
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
