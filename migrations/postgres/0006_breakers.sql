-- Where the breakers stand: of servers that failed, shared by all hosts.

CREATE TABLE presswork.breakers (
    scope      text PRIMARY KEY CHECK (scope <> ''),
    -- Counts the changes: who writes compares it with what they read.
    version    bigint NOT NULL CHECK (0 < version),
    -- As JSON.
    state      text NOT NULL,
    changed_at timestamptz NOT NULL
);
