-- When a job was to be done, and what becomes of it when it comes late.

ALTER TABLE jobs ADD COLUMN due_at INTEGER;
ALTER TABLE jobs ADD COLUMN late TEXT CHECK (late IN ('publish', 'skip', 'ask'));
ALTER TABLE jobs ADD COLUMN late_after_s INTEGER CHECK (late_after_s > 0);

-- What goes before a job that comes late, account by account.
CREATE INDEX jobs_late ON jobs (account, priority, due_at, id)
    WHERE account IS NOT NULL AND state IN ('scheduled', 'ready', 'running', 'retrying');
