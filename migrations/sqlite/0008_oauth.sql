-- What renews an account's credentials, and logins that are under way.

-- the [oauth.NAME] that the grant was given to
ALTER TABLE accounts ADD COLUMN client TEXT;
-- since when it has these credentials
ALTER TABLE accounts ADD COLUMN granted_at INTEGER;
-- requests for others of whose answer nobody knows
ALTER TABLE accounts ADD COLUMN tries INTEGER NOT NULL DEFAULT 0;
-- before then nobody asks for others
ALTER TABLE accounts ADD COLUMN not_before INTEGER;
-- its platform has refused these
ALTER TABLE accounts ADD COLUMN refused INTEGER NOT NULL DEFAULT 0;

CREATE TABLE logins (
    -- the SHA-256 of the state, which is kept nowhere
    digest   BLOB PRIMARY KEY CHECK (length(digest) = 32),
    account  TEXT NOT NULL,
    platform TEXT NOT NULL,
    tenant   TEXT,
    label    TEXT NOT NULL,
    -- as accounts.settings
    settings TEXT NOT NULL,
    -- the [oauth.NAME] that asks
    client   TEXT NOT NULL,
    -- where the issuer sends the person back to
    redirect TEXT NOT NULL,
    -- which key opens the verifier, and itself: see src/vault.rs
    key      TEXT,
    verifier BLOB,
    begun_by TEXT NOT NULL,
    -- it is good once, and until then
    until    INTEGER NOT NULL,
    taken_at INTEGER,
    -- how it ended, for who began it
    done     INTEGER,
    told     TEXT,
    CHECK ((key IS NULL) = (verifier IS NULL)),
    CHECK ((done IS NULL) = (told IS NULL))
) STRICT, WITHOUT ROWID;
