-- What renews an account's credentials, and logins that are under way.

ALTER TABLE presswork.accounts
    -- the [oauth.NAME] that the grant was given to
    ADD COLUMN client     text,
    -- since when it has these credentials
    ADD COLUMN granted_at timestamptz,
    -- requests for others of whose answer nobody knows
    ADD COLUMN tries      integer NOT NULL DEFAULT 0 CHECK (0 <= tries),
    -- before then nobody asks for others
    ADD COLUMN not_before timestamptz,
    -- its platform has refused these
    ADD COLUMN refused    boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT accounts_grant CHECK ((client IS NULL) = (granted_at IS NULL));

CREATE TABLE presswork.logins (
    -- the SHA-256 of the state, which is kept nowhere
    digest   bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    account  text NOT NULL,
    platform text NOT NULL,
    tenant   text,
    label    text NOT NULL,
    -- as accounts.settings
    settings text NOT NULL,
    -- the [oauth.NAME] that asks
    client   text NOT NULL,
    -- where the issuer sends the person back to
    redirect text NOT NULL,
    -- which key opens the verifier, and itself: see src/vault.rs
    key      text,
    verifier bytea,
    begun_by text NOT NULL,
    -- it is good once, and until then
    until    timestamptz NOT NULL,
    taken_at timestamptz,
    -- how it ended, for who began it
    done     boolean,
    told     text,
    CHECK ((key IS NULL) = (verifier IS NULL)),
    CHECK ((done IS NULL) = (told IS NULL))
);
