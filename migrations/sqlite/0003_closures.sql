-- Closures: nothing of their scope goes until they are opened or their time is past.

CREATE TABLE closures (
    id       BLOB PRIMARY KEY,
    cause    TEXT NOT NULL CHECK (cause IN ('stop', 'account', 'breaker', 'learned')),
    -- the scope: all that isn't empty must fit
    platform TEXT NOT NULL,
    account  TEXT NOT NULL,
    tenant   TEXT NOT NULL,
    label    TEXT NOT NULL,
    kind     TEXT NOT NULL,
    -- how the label stands in the text of `jobs.labels`
    mark     TEXT NOT NULL,
    reason   TEXT NOT NULL,
    actor    TEXT NOT NULL,
    since    INTEGER NOT NULL,
    until    INTEGER,
    UNIQUE (cause, platform, account, tenant, label, kind),
    CHECK ((label = '') = (mark = ''))
) STRICT, WITHOUT ROWID;

-- What is due takes turns between the accounts of a tenant, too, and passes over one that is shut without
-- walking its jobs.
DROP INDEX jobs_due;
CREATE INDEX jobs_due ON jobs (lane, priority, tenant, coalesce(account, ''), run_at, id)
    WHERE state IN ('scheduled', 'ready', 'retrying');
