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

-- A token may be shown by whom it doesn't allow that kind or tenant.
ALTER TABLE presswork.quarantine DROP CONSTRAINT quarantine_reason_check,
    ADD CONSTRAINT quarantine_reason_check
        CHECK (reason IN ('malformed', 'unknown_kind', 'invalid', 'too_large', 'conflict', 'repeats',
                          'refused', 'forbidden'));
