-- Jobs that were scheduled for a time (`due_at` lay ahead when they were accepted): until they have run, a
-- place in budgets is kept for them.

-- What was accepted before this and never claimed is still scheduled for the time that it was wanted at.
UPDATE presswork.jobs SET due_at = run_at WHERE state = 'scheduled' AND epoch = 0 AND due_at IS NULL;

-- Those that a place is kept for: by account, and by kind, each by time.
CREATE INDEX jobs_planned_account ON presswork.jobs (account, due_at, id)
    WHERE created_at < due_at AND state IN ('scheduled', 'ready', 'running', 'retrying');
CREATE INDEX jobs_planned_kind ON presswork.jobs (kind, due_at, id)
    WHERE created_at < due_at AND state IN ('scheduled', 'ready', 'running', 'retrying');
