-- When its producer wanted a job, where that lay ahead when it was accepted: until it has run, a place in
-- budgets is kept for it. Unlike `run_at` it stays as it was.
ALTER TABLE jobs ADD COLUMN wanted_at INTEGER;

-- What was accepted before this and never claimed is still scheduled for the time that it was wanted at.
UPDATE jobs SET wanted_at = run_at WHERE state = 'scheduled' AND epoch = 0;

-- Those that a place is kept for: by account, and by kind, each by time.
CREATE INDEX jobs_planned_account ON jobs (account, wanted_at, id)
    WHERE wanted_at IS NOT NULL AND state IN ('scheduled', 'ready', 'running', 'retrying');
CREATE INDEX jobs_planned_kind ON jobs (kind, wanted_at, id)
    WHERE wanted_at IS NOT NULL AND state IN ('scheduled', 'ready', 'running', 'retrying');
