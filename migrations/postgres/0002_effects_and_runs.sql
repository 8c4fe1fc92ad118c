-- Steps and effects of jobs, the daemon's runs, paused lanes, and who did what.

CREATE TABLE presswork.steps (
    job      uuid NOT NULL,
    revision integer NOT NULL,
    name     text NOT NULL,
    value    text NOT NULL,
    at       timestamptz NOT NULL,
    PRIMARY KEY (job, revision, name)
);

CREATE TABLE presswork.effects (
    id            uuid PRIMARY KEY,
    n             bigint GENERATED ALWAYS AS IDENTITY,
    job           uuid NOT NULL,
    revision      integer NOT NULL CHECK (0 <= revision),
    step          text NOT NULL,
    account       text NOT NULL,
    op            text NOT NULL,
    class         text NOT NULL CHECK (class IN ('A', 'B', 'C', 'P')),
    state         text NOT NULL CHECK (state IN ('intended', 'sending', 'confirmed', 'refused',
                                                 'unknown', 'unresolved')),
    intent        text NOT NULL,
    keep          text NOT NULL,
    -- What it says to the readers of its account, where a guard looks; and the window of the guard,
    -- where it refuses what was said within.
    content       bytea CHECK (length(content) = 32),
    guard_s       integer CHECK (0 <= guard_s),
    sends         integer NOT NULL DEFAULT 0 CHECK (0 <= sends),
    first_sent_at timestamptz,
    permit_at     timestamptz,
    permit_run    uuid,
    -- The ledger was restored from a backup of that time, and it may have been sent since; under
    -- another key if the one in `keep` was minted after that, or (a handle) may have been replaced.
    maybe_since   timestamptz,
    key_lost      boolean NOT NULL DEFAULT false,
    receipt       text,
    -- One JSON text each, newest last.
    evidence      text[] NOT NULL DEFAULT '{}',
    -- How often it was looked for since its last permit, and when it is next.
    looks         integer NOT NULL DEFAULT 0 CHECK (0 <= looks),
    look_at       timestamptz,
    CONSTRAINT effects_permits CHECK ((0 < sends) = (first_sent_at IS NOT NULL)
                                  AND (0 < sends) = (permit_at IS NOT NULL)
                                  AND (0 < sends) = (permit_run IS NOT NULL)),
    CONSTRAINT effects_sending CHECK (state <> 'sending' OR 0 < sends),
    CONSTRAINT effects_guarded CHECK (guard_s IS NULL OR content IS NOT NULL),
    CONSTRAINT effects_looked_for CHECK (state = 'unknown' OR look_at IS NULL)
) WITH (fillfactor = 80);
CREATE INDEX effects_job ON presswork.effects (job, n);
CREATE INDEX effects_looks ON presswork.effects (look_at) WHERE state = 'unknown';
-- What was found at a platform may be another effect's.
CREATE INDEX effects_confirmed ON presswork.effects (account, permit_at) WHERE state = 'confirmed';
CREATE INDEX effects_sending ON presswork.effects (permit_run) WHERE state = 'sending';
CREATE INDEX effects_content ON presswork.effects (account, content) WHERE content IS NOT NULL;

-- Whether another effect that says the same for the account may have happened within the window. It
-- takes the content's lock first, held until the permit that asks is committed: of two that ask at once
-- the second sees the first one's permit. VOLATILE, so that the look is made after the lock was had,
-- not as of the beginning of the statement that calls; dear, so that it is called last.
CREATE FUNCTION presswork.is_said(of_account text, of_content bytea, but uuid, within_s integer)
    RETURNS boolean LANGUAGE plpgsql VOLATILE COST 100000 SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(
        'presswork.content:' || of_account || ':' || encode(of_content, 'hex'), 0));
    RETURN EXISTS (
        SELECT FROM presswork.effects e
        WHERE e.account = of_account AND e.content = of_content AND e.id <> but
          AND e.state IN ('sending', 'confirmed', 'unknown', 'unresolved')
          AND presswork.now() - within_s * interval '1 second' < e.permit_at);
END $$;

-- What the send journals of hosts told, after a standby was promoted with a lost tail, of effects that the
-- ledger didn't know: the last send of each. A job that comes to such an effect begins from here.
CREATE TABLE presswork.testimony (
    effect   uuid PRIMARY KEY,
    send     integer NOT NULL CHECK (0 < send),
    run      uuid NOT NULL,
    first_at timestamptz NOT NULL,
    at       timestamptz NOT NULL,
    state    text NOT NULL CHECK (state IN ('sending', 'confirmed', 'refused', 'unknown')),
    receipt  text,
    evidence text[] NOT NULL
);
CREATE INDEX testimony_at ON presswork.testimony (at);

-- When the newest job that isn't finished was accepted. Not in SQL, which would be made a part of the
-- statement that calls: a beat names this, and must not wait for a lock of the jobs unless it is called.
CREATE FUNCTION presswork.newest() RETURNS timestamptz
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN (SELECT created_at FROM presswork.jobs ORDER BY id DESC LIMIT 1);
END $$;

-- What accepted jobs are going to say, for the guards of their accounts.
CREATE TABLE presswork.contents (
    account text NOT NULL,
    digest  bytea NOT NULL CHECK (length(digest) = 32),
    job     uuid NOT NULL,
    at      timestamptz NOT NULL,
    -- Its producer knows that it was said before.
    again   boolean NOT NULL,
    PRIMARY KEY (account, digest, job)
);
CREATE INDEX contents_job ON presswork.contents (job) WHERE again;
CREATE INDEX contents_at ON presswork.contents (at);

-- Whose result may stand in for asking again, by the digest of what would be sent. The result itself is
-- that of the finished job: it is there, and holds its media, for as long as the job is kept.
CREATE TABLE presswork.results (
    tenant  text NOT NULL,
    request bytea NOT NULL CHECK (length(request) = 32),
    job     uuid NOT NULL,
    at      timestamptz NOT NULL,
    until   timestamptz NOT NULL,
    PRIMARY KEY (tenant, request, job)
);
CREATE INDEX results_until ON presswork.results (until);

-- Runs of the daemon: narrow, so that a heartbeat waits for nobody.
CREATE TABLE presswork.workers (
    run         uuid PRIMARY KEY,
    host        text NOT NULL,
    boot        text,
    pid         integer NOT NULL,
    version     text NOT NULL,
    began_at    timestamptz NOT NULL,
    lease_until timestamptz NOT NULL,
    -- Stopped, or declared dead: it never comes back.
    ended       boolean NOT NULL DEFAULT false,
    -- The jobs that it named in its last beat, when that was, and the beat before.
    jobs        uuid[] NOT NULL DEFAULT '{}',
    beat_at     timestamptz,
    before_at   timestamptz,
    -- The timeline on which it began, or since which its send journal has told all that it knows.
    heard       text,
    -- The timeline on which it ended.
    ended_on    text
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0.1);

-- A lane stands here while it is paused.
CREATE TABLE presswork.lanes (
    lane   text PRIMARY KEY,
    reason text NOT NULL,
    by     text NOT NULL,
    at     timestamptz NOT NULL
);

CREATE TABLE presswork.audit (
    n      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    actor  text NOT NULL,
    action text NOT NULL,
    job    uuid,
    detail text NOT NULL,
    at     timestamptz NOT NULL
);
CREATE INDEX audit_job ON presswork.audit (job, n) WHERE job IS NOT NULL;
