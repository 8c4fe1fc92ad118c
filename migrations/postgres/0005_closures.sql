-- Closures: nothing of their scope goes until they are opened or their time is past.

CREATE TABLE presswork.closures (
    id       uuid PRIMARY KEY,
    cause    text NOT NULL CHECK (cause IN ('stop', 'account', 'breaker', 'learned')),
    -- The scope: all that isn't empty must fit.
    platform text NOT NULL,
    account  text NOT NULL,
    tenant   text NOT NULL,
    label    text NOT NULL,
    kind     text NOT NULL,
    -- How the label stands in the text of `jobs.labels`.
    mark     text NOT NULL,
    reason   text NOT NULL,
    actor    text NOT NULL,
    since    timestamptz NOT NULL,
    until    timestamptz,
    CONSTRAINT closures_scope UNIQUE (cause, platform, account, tenant, label, kind),
    CONSTRAINT closures_mark CHECK ((label = '') = (mark = ''))
);

-- Whether a closure stands before a job; `platform` is that of its account, as the daemon knows it. It is
-- volatile, so that it looks at what is committed by the moment at which it is called, however long the
-- statement that calls it has waited for a row before.
CREATE FUNCTION presswork.is_shut(platform text, account text, tenant text, kind text, labels text,
                                  now timestamptz) RETURNS boolean
    LANGUAGE sql VOLATILE
    AS $$
SELECT EXISTS (
    SELECT FROM presswork.closures c
    WHERE (c.until IS NULL OR now < c.until)
      AND (c.platform = '' OR c.platform = is_shut.platform)
      AND (c.account = '' OR c.account = is_shut.account)
      AND (c.tenant = '' OR c.tenant = is_shut.tenant)
      AND (c.kind = '' OR c.kind = is_shut.kind)
      AND (c.mark = '' OR 0 < strpos(labels, c.mark))
)
$$;

-- What is due takes turns between the accounts of a tenant, too, and passes over one that is shut without
-- walking its jobs.
DROP INDEX presswork.jobs_due;
CREATE INDEX jobs_due ON presswork.jobs (lane, priority, tenant, coalesce(account, ''), run_at, id)
    INCLUDE (kind)
    WHERE token IS NULL AND state IN ('scheduled', 'ready', 'retrying');
-- Of all functions a producer may call the one that is its door.
REVOKE ALL ON FUNCTION presswork.is_shut(text, text, text, text, text, timestamptz) FROM PUBLIC;
