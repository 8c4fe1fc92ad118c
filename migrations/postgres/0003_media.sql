-- The media store: what is in it, which jobs hold it, and which URLs it was fetched from.

CREATE TABLE presswork.media (
    digest     bytea PRIMARY KEY CHECK (length(digest) = 32),
    -- Where its bytes are, new each time that they are written: what is deleted late hits nothing newer.
    place      text NOT NULL UNIQUE,
    mime       text NOT NULL,
    size       bigint NOT NULL CHECK (0 <= size),
    width      bigint CHECK (0 < width),
    height     bigint CHECK (0 < height),
    at         timestamptz NOT NULL,
    -- Stored, fetched or named by a job: the grace counts from here.
    touched_at timestamptz NOT NULL,
    CONSTRAINT media_pixels CHECK ((width IS NULL) = (height IS NULL))
) WITH (fillfactor = 80);
CREATE INDEX media_touched ON presswork.media (touched_at);

-- A job holds what its payload, its steps or its result name, until it is dropped itself. A hold is
-- written before the job is: one whose job never came is found by its age and `sure`.
CREATE TABLE presswork.media_holds (
    digest bytea NOT NULL,
    job    uuid NOT NULL,
    at     timestamptz NOT NULL,
    -- The job was there when somebody looked.
    sure   boolean NOT NULL DEFAULT false,
    PRIMARY KEY (digest, job)
);
CREATE INDEX media_holds_job ON presswork.media_holds (job);
CREATE INDEX media_holds_unsure ON presswork.media_holds (at) WHERE NOT sure;

-- URLs are kept as digests: a signed one holds a secret.
CREATE TABLE presswork.media_fetched (
    url           bytea PRIMARY KEY CHECK (length(url) = 32),
    landed        bytea NOT NULL CHECK (length(landed) = 32),
    digest        bytea NOT NULL REFERENCES presswork.media ON DELETE CASCADE,
    etag          text,
    last_modified text,
    at            timestamptz NOT NULL
);
CREATE INDEX media_fetched_digest ON presswork.media_fetched (digest);

-- Work that platforms go on with after their answer.

-- What the platform calls it, from the very write that records the answer until it is known what became
-- of it: a call-back finds the job by it.
ALTER TABLE presswork.effects ADD COLUMN handle text;
ALTER TABLE presswork.effects ADD CONSTRAINT effects_under_way
    CHECK (handle IS NULL OR state = 'confirmed');
-- What a call-back said of the work's end (JSON), where its platform is believed: the first word stays.
ALTER TABLE presswork.effects ADD COLUMN told text;
CREATE INDEX effects_handle ON presswork.effects (account, handle) WHERE handle IS NOT NULL;

-- Call-backs that were taken, so that a repeated one does nothing.
CREATE TABLE presswork.calls (
    account text NOT NULL,
    id      text NOT NULL,
    at      timestamptz NOT NULL,
    PRIMARY KEY (account, id)
);
CREATE INDEX calls_at ON presswork.calls (at);
