-- Who an account is at its platform, and logins that may make it somebody else.

-- the platform's own id of it, which stays whatever it is called; none as long as nobody asked
ALTER TABLE accounts ADD COLUMN person_id TEXT;
-- what it was called there when it was last asked
ALTER TABLE accounts ADD COLUMN person_name TEXT;

-- it may give the account another person's credentials
ALTER TABLE logins ADD COLUMN replaces INTEGER NOT NULL DEFAULT 0;
