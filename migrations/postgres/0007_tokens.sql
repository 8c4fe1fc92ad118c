-- The API's tokens: who may ask for what.

CREATE TABLE presswork.tokens (
    -- 16 hexadecimal digits; no secret
    id           text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{16}$'),
    name         text NOT NULL,
    -- the SHA-256 of its secret, which is kept nowhere
    digest       bytea NOT NULL CHECK (octet_length(digest) = 32),
    -- what it may do, separated by spaces
    scopes       text NOT NULL CHECK (scopes <> ''),
    -- whose jobs alone
    tenant       text,
    created_at   timestamptz NOT NULL,
    created_by   text NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    -- written at most once a minute
    last_used_at timestamptz
);
CREATE INDEX tokens_created ON presswork.tokens (created_at);
