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
