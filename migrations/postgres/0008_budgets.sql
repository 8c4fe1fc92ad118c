-- What is used of budgets, by name and by whose part it is. Written by compare-and-set on the version, all
-- that a request needs at once: so no host ever counts on what another one took. What is in `uses` is
-- that of src/budget/uses.rs.
CREATE TABLE presswork.budgets (
    name       text NOT NULL,
    whose      text NOT NULL,
    version    bigint NOT NULL DEFAULT 0,
    uses       text NOT NULL DEFAULT '{}',
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (name, whose)
) WITH (
    -- Few rows, each written hundreds of times a second: they stay on their page.
    fillfactor = 10,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_cost_delay = 0
);

-- Budgets that people changed by command: they hold over jobs.toml, on all hosts.
CREATE TABLE presswork.budget_changes (
    name   text PRIMARY KEY,
    most   bigint NOT NULL CHECK (0 < most),
    reason text NOT NULL,
    actor  text NOT NULL,
    at     timestamptz NOT NULL,
    until  timestamptz
);
