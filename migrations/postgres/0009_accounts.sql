-- Accounts of platforms. Their credentials are encrypted with a key that isn't here.

CREATE TABLE presswork.accounts (
    name        text PRIMARY KEY,
    platform    text NOT NULL,
    -- whose jobs alone may use it
    tenant      text,
    label       text NOT NULL,
    -- what jobs.toml would say of it but for its secrets, as JSON
    settings    text NOT NULL,
    -- which key opens the credentials, and they themselves: see src/vault.rs
    key         text NOT NULL,
    credentials bytea NOT NULL,
    -- counts the credentials
    version     bigint NOT NULL CHECK (0 < version),
    -- which write of any account was the last one of this row: what a write compares
    edition     bigint NOT NULL,
    -- what the credentials allow, separated by spaces
    scopes      text NOT NULL,
    expires_at  timestamptz,
    state       text NOT NULL CHECK (state IN ('ok', 'refreshing', 'needs_attention', 'paused')),
    why         text,
    since       timestamptz NOT NULL,
    -- the run that renews the credentials, and until when nobody else does
    held_by     uuid,
    held_until  timestamptz,
    created_at  timestamptz NOT NULL,
    created_by  text NOT NULL,
    CONSTRAINT accounts_turn CHECK ((held_by IS NULL) = (held_until IS NULL))
);

-- Counts the writes, so that who asks whether anything has changed reads one row.
CREATE TABLE presswork.accounts_edition (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    edition bigint NOT NULL
);
INSERT INTO presswork.accounts_edition (edition) VALUES (0);

-- Credentials that are refused close their account. Of those of an account in jobs.toml a salted digest is
-- kept, by which a host that starts with others sees that they were renewed.
ALTER TABLE presswork.closures DROP CONSTRAINT closures_cause_check,
    ADD CONSTRAINT closures_cause_check
        CHECK (cause IN ('stop', 'account', 'breaker', 'learned', 'credentials')),
    ADD COLUMN refused text;
