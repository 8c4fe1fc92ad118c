-- Who an account is at its platform, and logins that may make it somebody else.

ALTER TABLE presswork.accounts
    -- the platform's own id of it, which stays whatever it is called; none as long as nobody asked
    ADD COLUMN person_id   text,
    -- what it was called there when it was last asked
    ADD COLUMN person_name text,
    ADD CONSTRAINT accounts_person CHECK ((person_id IS NULL) = (person_name IS NULL));

ALTER TABLE presswork.logins
    -- it may give the account another person's credentials
    ADD COLUMN replaces boolean NOT NULL DEFAULT false;
