-- Where the breakers stand, of servers that failed. `version` counts the changes: who writes compares it
-- with what they read. `state` is JSON.

CREATE TABLE breakers (
    scope      TEXT PRIMARY KEY CHECK (scope <> ''),
    version    INTEGER NOT NULL CHECK (0 < version),
    state      TEXT NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT;
