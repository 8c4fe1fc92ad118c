-- The media store: what is in it, which jobs hold it, and which URLs it was fetched from.

CREATE TABLE media (
    digest     BLOB PRIMARY KEY CHECK (length(digest) = 32),
    -- where its bytes are, new each time that they are written: what is deleted late hits nothing newer
    place      TEXT NOT NULL UNIQUE,
    mime       TEXT NOT NULL,
    size       INTEGER NOT NULL CHECK (size >= 0),
    width      INTEGER CHECK (width > 0),
    height     INTEGER CHECK (height > 0),
    at         INTEGER NOT NULL,
    -- stored, fetched or named by a job: the grace counts from here
    touched_at INTEGER NOT NULL,
    CHECK ((width IS NULL) = (height IS NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX media_touched ON media (touched_at);

-- A job holds what its payload, its steps or its result name, until it is dropped itself.
CREATE TABLE media_holds (
    digest BLOB NOT NULL,
    job    BLOB NOT NULL,
    PRIMARY KEY (digest, job)
) STRICT, WITHOUT ROWID;
CREATE INDEX media_holds_job ON media_holds (job);

-- URLs are kept as digests: a signed one holds a secret.
CREATE TABLE media_fetched (
    url           BLOB PRIMARY KEY CHECK (length(url) = 32),
    landed        BLOB NOT NULL CHECK (length(landed) = 32),
    digest        BLOB NOT NULL REFERENCES media ON DELETE CASCADE,
    etag          TEXT,
    last_modified TEXT,
    at            INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX media_fetched_digest ON media_fetched (digest);

-- Work that platforms go on with after their answer.

-- What the platform calls it, from the very write that records the answer until it is known what became
-- of it: a call-back finds the job by it.
ALTER TABLE effects ADD COLUMN handle TEXT CHECK (handle IS NULL OR state = 'confirmed');
-- What a call-back said of the work's end (JSON), where its platform is believed: the first word stays.
ALTER TABLE effects ADD COLUMN told TEXT;
CREATE INDEX effects_handle ON effects (account, handle) WHERE handle IS NOT NULL;

-- Call-backs that were taken, so that a repeated one does nothing.
CREATE TABLE calls (
    account TEXT NOT NULL,
    id      TEXT NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (account, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX calls_at ON calls (at);
