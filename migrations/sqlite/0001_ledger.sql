-- The ledger of one daemon. Times are microseconds since 1970, ids 16 bytes, words as in the program.

CREATE TABLE meta (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    generation INTEGER NOT NULL DEFAULT 0,
    server     TEXT,
    -- of a ledger that was restored, when, and when its backup began: what jobs from before the restore
    -- did after the backup is unknown to it
    restored_at INTEGER,
    backup_at   INTEGER,
    CHECK ((restored_at IS NULL) = (backup_at IS NULL))
) STRICT;
INSERT INTO meta (one) VALUES (1);

-- Unfinished jobs and dead letters. The CHECKs say what lifecycle::Transition::is_sound says.
CREATE TABLE jobs (
    id           BLOB PRIMARY KEY,
    kind         TEXT NOT NULL,
    lane         TEXT NOT NULL,
    tenant       TEXT NOT NULL,
    account      TEXT,
    priority     INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 2),
    key          TEXT,
    payload      TEXT NOT NULL,
    revision     INTEGER NOT NULL DEFAULT 0,
    created_at   INTEGER NOT NULL,
    run_at       INTEGER NOT NULL,
    not_after    INTEGER,
    expires_at   INTEGER NOT NULL,
    attempts_max INTEGER NOT NULL CHECK (attempts_max >= 1),
    timeout_s    INTEGER NOT NULL CHECK (timeout_s >= 1),
    labels       TEXT NOT NULL DEFAULT '{}',
    traceparent  TEXT,
    reply_to     TEXT,
    state        TEXT NOT NULL CHECK (state IN ('waiting', 'scheduled', 'ready', 'running', 'retrying', 'held', 'unresolved', 'dead')),
    attempts     INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    crashes      INTEGER NOT NULL DEFAULT 0 CHECK (crashes >= 0),
    epoch        INTEGER NOT NULL DEFAULT 0,
    version      INTEGER NOT NULL DEFAULT 0,
    run          BLOB,
    token        BLOB,
    claimed_at   INTEGER,
    cancel       INTEGER NOT NULL DEFAULT 0 CHECK (cancel IN (0, 1)),
    held         TEXT CHECK (held IN ('account', 'breaker', 'budget', 'nondeterministic', 'policy')),
    failure      TEXT,
    fingerprint  TEXT,
    progress     TEXT,
    ended_at     INTEGER,
    CHECK ((state = 'running') = (token IS NOT NULL)),
    CHECK ((state = 'running') = (run IS NOT NULL)),
    CHECK ((state = 'running') = (claimed_at IS NOT NULL)),
    CHECK ((state = 'held') = (held IS NOT NULL)),
    CHECK ((state = 'dead') = (ended_at IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX jobs_due ON jobs (lane, priority, tenant, run_at, id) WHERE state IN ('scheduled', 'ready', 'retrying');
CREATE INDEX jobs_running ON jobs (run, lane, cancel) WHERE state = 'running';
CREATE INDEX jobs_old ON jobs (min(expires_at, coalesce(not_after, expires_at)))
    WHERE state IN ('waiting', 'scheduled', 'ready', 'retrying', 'held');
CREATE INDEX jobs_dead ON jobs (ended_at, fingerprint) WHERE state = 'dead';
CREATE INDEX jobs_created ON jobs (created_at);

-- Completed, cancelled and discarded jobs: written once, dropped when past their keeping.
CREATE TABLE finished_jobs (
    id           BLOB PRIMARY KEY,
    kind         TEXT NOT NULL,
    lane         TEXT NOT NULL,
    tenant       TEXT NOT NULL,
    account      TEXT,
    priority     INTEGER NOT NULL,
    key          TEXT,
    payload      TEXT NOT NULL,
    revision     INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    run_at       INTEGER NOT NULL,
    not_after    INTEGER,
    expires_at   INTEGER NOT NULL,
    attempts_max INTEGER NOT NULL,
    timeout_s    INTEGER NOT NULL,
    labels       TEXT NOT NULL,
    traceparent  TEXT,
    reply_to     TEXT,
    state        TEXT NOT NULL CHECK (state IN ('completed', 'cancelled', 'dead')),
    attempts     INTEGER NOT NULL,
    crashes      INTEGER NOT NULL,
    epoch        INTEGER NOT NULL,
    version      INTEGER NOT NULL,
    failure      TEXT,
    fingerprint  TEXT,
    result       TEXT,
    ended_at     INTEGER NOT NULL,
    -- a dead letter may be discarded long after it died: the keeping counts from here
    archived_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX finished_jobs_archived ON finished_jobs (archived_at);
CREATE INDEX finished_jobs_created ON finished_jobs (created_at);

CREATE TABLE attempts (
    job      BLOB NOT NULL,
    epoch    INTEGER NOT NULL,
    number   INTEGER NOT NULL,
    run      BLOB,
    host     TEXT NOT NULL,
    began_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    outcome  TEXT NOT NULL,
    failure  TEXT,
    PRIMARY KEY (job, epoch)
) STRICT, WITHOUT ROWID;

CREATE TABLE steps (
    job      BLOB NOT NULL,
    revision INTEGER NOT NULL,
    name     TEXT NOT NULL,
    value    TEXT NOT NULL,
    PRIMARY KEY (job, revision, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE effects (
    seq           INTEGER PRIMARY KEY,
    id            BLOB NOT NULL UNIQUE,
    job           BLOB NOT NULL,
    revision      INTEGER NOT NULL,
    step          TEXT NOT NULL,
    account       TEXT NOT NULL,
    op            TEXT NOT NULL,
    class         TEXT NOT NULL CHECK (class IN ('A', 'B', 'C', 'P')),
    state         TEXT NOT NULL CHECK (state IN ('intended', 'sending', 'confirmed', 'refused', 'unknown', 'unresolved')),
    intent        TEXT NOT NULL,
    keep          TEXT NOT NULL,
    -- what it says to the readers of its account, where a guard looks; and the window of the guard,
    -- where it refuses what was said within
    content       BLOB CHECK (length(content) = 32),
    guard_s       INTEGER CHECK (guard_s IS NULL OR content IS NOT NULL),
    sends         INTEGER NOT NULL DEFAULT 0,
    first_sent_at INTEGER,
    permit_at     INTEGER,
    permit_run    BLOB,
    -- the ledger was restored from a backup of that time, and it may have been sent since; under
    -- another key if the one in keep was minted after that, or (a handle) may have been replaced
    maybe_since   INTEGER,
    key_lost      INTEGER NOT NULL DEFAULT 0 CHECK (key_lost IN (0, 1)),
    receipt       TEXT,
    evidence      TEXT NOT NULL DEFAULT '[]',
    looks         INTEGER NOT NULL DEFAULT 0,
    look_at       INTEGER,
    CHECK (state = 'unknown' OR look_at IS NULL),
    CHECK (state <> 'confirmed' OR receipt IS NOT NULL),
    CHECK (state <> 'sending' OR sends > 0)
) STRICT;
CREATE INDEX effects_job ON effects (job, seq);
CREATE INDEX effects_looks ON effects (look_at) WHERE state = 'unknown';
CREATE INDEX effects_confirmed ON effects (account, permit_at) WHERE state = 'confirmed';
CREATE INDEX effects_sending ON effects (permit_run) WHERE state = 'sending';
CREATE INDEX effects_content ON effects (account, content) WHERE content IS NOT NULL;

-- What accepted jobs are going to say, for the guards of their accounts.
CREATE TABLE contents (
    account TEXT NOT NULL,
    digest  BLOB NOT NULL CHECK (length(digest) = 32),
    job     BLOB NOT NULL,
    at      INTEGER NOT NULL,
    -- its producer knows that it was said before
    again   INTEGER NOT NULL CHECK (again IN (0, 1)),
    PRIMARY KEY (account, digest, job)
) STRICT, WITHOUT ROWID;
CREATE INDEX contents_job ON contents (job) WHERE again;
CREATE INDEX contents_at ON contents (at);

-- Whose result may stand in for asking again, by the digest of what would be sent. The result itself is
-- that of the finished job: it is there, and holds its media, for as long as the job is kept.
CREATE TABLE results (
    tenant  TEXT NOT NULL,
    request BLOB NOT NULL CHECK (length(request) = 32),
    job     BLOB NOT NULL,
    at      INTEGER NOT NULL,
    until   INTEGER NOT NULL,
    PRIMARY KEY (tenant, request, job)
) STRICT, WITHOUT ROWID;
CREATE INDEX results_until ON results (until);

-- Keys outlive their jobs: a repeat long after the end is still the same job.
CREATE TABLE idempotency_keys (
    tenant   TEXT NOT NULL,
    kind     TEXT NOT NULL,
    key      TEXT NOT NULL,
    job      BLOB NOT NULL,
    digest   BLOB NOT NULL,
    options  TEXT NOT NULL,
    ended_at INTEGER,
    PRIMARY KEY (tenant, kind, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_keys_ended ON idempotency_keys (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE quarantine (
    id      BLOB PRIMARY KEY,
    door    TEXT NOT NULL,
    at      INTEGER NOT NULL,
    reason  TEXT NOT NULL,
    message TEXT NOT NULL,
    kind    TEXT,
    bytes   BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX quarantine_at ON quarantine (at);
-- what goes on by itself once a daemon knows its kind
CREATE INDEX quarantine_unknown ON quarantine (kind, at, id) WHERE reason = 'unknown_kind';

CREATE TABLE lanes (
    lane   TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    by     TEXT NOT NULL,
    at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE runs (
    id          BLOB PRIMARY KEY,
    host        TEXT NOT NULL,
    boot        TEXT,
    pid         INTEGER NOT NULL,
    version     TEXT NOT NULL,
    began_at    INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    beat_at     INTEGER NOT NULL,
    -- the beat before the last: what was claimed before it and isn't named is lost
    named_at    INTEGER NOT NULL DEFAULT 0,
    named       TEXT NOT NULL DEFAULT '[]',
    ended       INTEGER NOT NULL DEFAULT 0 CHECK (ended IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    seq    INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,
    actor  TEXT NOT NULL,
    action TEXT NOT NULL,
    job    BLOB,
    detail TEXT NOT NULL
) STRICT;
CREATE INDEX audit_job ON audit (job) WHERE job IS NOT NULL;
