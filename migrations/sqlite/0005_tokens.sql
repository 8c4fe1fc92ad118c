-- The API's tokens: who may ask for what.

CREATE TABLE tokens (
    -- 16 hexadecimal digits; no secret
    id           TEXT PRIMARY KEY CHECK (length(id) = 16),
    name         TEXT NOT NULL,
    -- the SHA-256 of its secret, which is kept nowhere
    digest       BLOB NOT NULL CHECK (length(digest) = 32),
    -- what it may do, separated by spaces
    scopes       TEXT NOT NULL CHECK (scopes <> ''),
    -- whose jobs alone
    tenant       TEXT,
    created_at   INTEGER NOT NULL,
    created_by   TEXT NOT NULL,
    expires_at   INTEGER,
    revoked_at   INTEGER,
    -- written at most once a minute
    last_used_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_created ON tokens (created_at);
