-- Accounts of platforms. Their credentials are encrypted with a key that isn't here.

CREATE TABLE accounts (
    name        TEXT PRIMARY KEY,
    platform    TEXT NOT NULL,
    -- whose jobs alone may use it
    tenant      TEXT,
    label       TEXT NOT NULL,
    -- what jobs.toml would say of it but for its secrets, as JSON
    settings    TEXT NOT NULL,
    -- which key opens the credentials, and they themselves: see src/vault.rs
    key         TEXT NOT NULL,
    credentials BLOB NOT NULL,
    -- counts the credentials
    version     INTEGER NOT NULL CHECK (0 < version),
    -- which write of any account was the last one of this row: what a write compares
    edition     INTEGER NOT NULL,
    -- what the credentials allow, separated by spaces
    scopes      TEXT NOT NULL,
    expires_at  INTEGER,
    state       TEXT NOT NULL CHECK (state IN ('ok', 'refreshing', 'needs_attention', 'paused')),
    why         TEXT,
    since       INTEGER NOT NULL,
    -- the run that renews the credentials, and until when nobody else does
    held_by     BLOB,
    held_until  INTEGER,
    created_at  INTEGER NOT NULL,
    created_by  TEXT NOT NULL,
    CHECK ((held_by IS NULL) = (held_until IS NULL))
) STRICT, WITHOUT ROWID;

-- Counts the writes, so that who asks whether anything has changed reads one row.
CREATE TABLE accounts_edition (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    edition INTEGER NOT NULL
) STRICT;
INSERT INTO accounts_edition (one, edition) VALUES (1, 0);

-- Credentials that are refused close their account. Of those of an account in jobs.toml a salted digest is
-- kept, by which a host that starts with others sees that they were renewed.
CREATE TABLE closures_anew (
    id       BLOB PRIMARY KEY,
    cause    TEXT NOT NULL CHECK (cause IN ('stop', 'account', 'breaker', 'learned', 'credentials')),
    -- the scope: all that isn't empty must fit
    platform TEXT NOT NULL,
    account  TEXT NOT NULL,
    tenant   TEXT NOT NULL,
    label    TEXT NOT NULL,
    kind     TEXT NOT NULL,
    -- how the label stands in the text of `jobs.labels`
    mark     TEXT NOT NULL,
    reason   TEXT NOT NULL,
    actor    TEXT NOT NULL,
    since    INTEGER NOT NULL,
    until    INTEGER,
    refused  TEXT,
    UNIQUE (cause, platform, account, tenant, label, kind),
    CHECK ((label = '') = (mark = ''))
) STRICT, WITHOUT ROWID;
INSERT INTO closures_anew (id, cause, platform, account, tenant, label, kind, mark, reason, actor, since, until)
SELECT id, cause, platform, account, tenant, label, kind, mark, reason, actor, since, until FROM closures;
DROP TABLE closures;
ALTER TABLE closures_anew RENAME TO closures;
