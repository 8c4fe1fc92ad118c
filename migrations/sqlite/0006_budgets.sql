-- What is used of budgets, by name and by whose part it is. What is in `uses` is that of
-- src/budget/uses.rs.
CREATE TABLE budgets (
    name       TEXT NOT NULL,
    whose      TEXT NOT NULL,
    version    INTEGER NOT NULL DEFAULT 0,
    uses       TEXT NOT NULL DEFAULT '{}',
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (name, whose)
) STRICT, WITHOUT ROWID;

-- Budgets that people changed by command: they hold over jobs.toml.
CREATE TABLE budget_changes (
    name   TEXT PRIMARY KEY,
    most   INTEGER NOT NULL CHECK (0 < most),
    reason TEXT NOT NULL,
    actor  TEXT NOT NULL,
    at     INTEGER NOT NULL,
    until  INTEGER
) STRICT, WITHOUT ROWID;
