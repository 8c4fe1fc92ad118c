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
