//! Media: what is stored, which jobs hold it, and what URLs led to.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::pool::{Pools, explain};
use crate::job::JobId;
use crate::json::Digest;
use crate::ledger::door::Result;
use crate::ledger::rows::{Fetched, Stored};
use crate::reference::named_in;
use crate::sabotage;

/// Holds whose job was never seen that one call looks at.
const UNSURE: i64 = 1_000;

fn digest(row: &PgRow, column: &str) -> sqlx::Result<Digest> {
    let bytes: Vec<u8> = row.try_get(column)?;
    let odd = |e: Vec<u8>| sqlx::Error::Decode(format!("{column}: {} bytes", e.len()).into());
    bytes.try_into().map(Digest).map_err(odd)
}

fn read(row: &PgRow) -> sqlx::Result<Stored> {
    let names = (row.try_get("place")?, row.try_get("mime")?);
    let pixels = (row.try_get("width")?, row.try_get("height")?);
    let size = row.try_get("size")?;
    Stored::of_columns(digest(row, "digest")?, names, size, pixels)
        .map_err(|e| sqlx::Error::Decode(e.into()))
}

/// The media's grace starts anew with it: who frees them waits for this row, and then looks again.
const HOLD: &str = "
WITH want AS MATERIALIZED (
    SELECT DISTINCT job, digest FROM unnest($1::uuid[], $2::bytea[]) AS w(job, digest)
),
touched AS (
    UPDATE presswork.media m SET touched_at = presswork.now()
    WHERE m.digest IN (SELECT digest FROM want)
)
INSERT INTO presswork.media_holds (digest, job, at)
SELECT digest, job, presswork.now() FROM want
ON CONFLICT DO NOTHING";

/// Holds what these texts name, each for its job. Before the texts themselves are written: a hold too
/// many is found later, one too few is not.
pub async fn hold(pools: &Pools, texts: &[(JobId, &str)]) -> Result<()> {
    let (mut jobs, mut digests) = (Vec::new(), Vec::new());
    for (job, text) in texts {
        for named in named_in(text) {
            jobs.push(job.0);
            digests.push(named.0.to_vec());
        }
    }
    if jobs.is_empty() || sabotage!("media.hold") {
        return Ok(());
    }
    let query = || {
        sqlx::query(HOLD)
            .bind(&jobs)
            .bind(&digests)
            .execute(pools.main())
    };
    pools.again(query).await.map(|_| ())
}

const KEEP: &str = "
INSERT INTO presswork.media (digest, place, mime, size, width, height, at, touched_at)
VALUES ($1, $2, $3, $4, $5, $6, presswork.now(), presswork.now())
ON CONFLICT (digest) DO UPDATE SET touched_at = excluded.touched_at
RETURNING digest, place, mime, size, width, height";

/// Writes down that media are stored.
pub async fn keep(pools: &Pools, it: &Stored) -> Result<Stored> {
    let query = || {
        sqlx::query(KEEP)
            .bind(it.digest.0.to_vec())
            .bind(&it.place)
            .bind(&it.mime)
            .bind(i64::try_from(it.size).unwrap_or(i64::MAX))
            .bind(it.pixels.map(|it| i64::from(it.width)))
            .bind(it.pixels.map(|it| i64::from(it.height)))
            .fetch_one(pools.main())
    };
    let row = pools.again(query).await?;
    read(&row).map_err(explain)
}

/// What is stored under a digest, its grace anew.
pub async fn touched(pools: &Pools, digest: Digest) -> Result<Option<Stored>> {
    let sql = "UPDATE presswork.media SET touched_at = presswork.now() WHERE digest = $1
               RETURNING digest, place, mime, size, width, height";
    let query = || {
        sqlx::query(sql)
            .bind(digest.0.to_vec())
            .fetch_optional(pools.main())
    };
    let row = pools.again(query).await?;
    row.as_ref().map(read).transpose().map_err(explain)
}

/// What is stored under these digests.
pub async fn stored(pools: &Pools, digests: &[Digest]) -> Result<Vec<Stored>> {
    let digests: Vec<Vec<u8>> = digests.iter().map(|it| it.0.to_vec()).collect();
    let sql = "SELECT digest, place, mime, size, width, height FROM presswork.media
               WHERE digest = ANY($1)";
    let query = sqlx::query(sql).bind(digests);
    let rows = pools.call(query.fetch_all(pools.main())).await?;
    let rows = rows.iter().map(read);
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}

/// The media that a job holds.
pub async fn held(pools: &Pools, job: JobId) -> Result<Vec<Digest>> {
    let sql = "SELECT digest FROM presswork.media_holds WHERE job = $1 ORDER BY digest";
    let query = sqlx::query(sql).bind(job.0);
    let rows = pools.call(query.fetch_all(pools.main())).await?;
    let rows = rows.iter().map(|row| digest(row, "digest"));
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}

/// Of holds that were written for jobs which then weren't accepted nobody else would ever hear.
const PROVE: &str = "
WITH unsure AS MATERIALIZED (
    SELECT h.digest, h.job,
           EXISTS (SELECT FROM presswork.jobs j WHERE j.id = h.job)
           OR EXISTS (SELECT FROM presswork.finished_jobs f WHERE f.id = h.job) AS there
    FROM presswork.media_holds h
    WHERE NOT h.sure AND h.at < presswork.now() - $1 * interval '1 second'
    ORDER BY h.at LIMIT $2
),
proven AS (
    UPDATE presswork.media_holds h SET sure = true FROM unsure u
    WHERE u.there AND h.digest = u.digest AND h.job = u.job
)
DELETE FROM presswork.media_holds h USING unsure u
WHERE NOT u.there AND h.digest = u.digest AND h.job = u.job";

/// The row is locked by whoever touches it; the conditions are looked at again after that.
const FREE: &str = "
DELETE FROM presswork.media m
WHERE m.digest = ANY(ARRAY(
        SELECT c.digest FROM presswork.media c
        WHERE c.touched_at < presswork.now() - $1 * interval '1 second'
          AND NOT EXISTS (SELECT FROM presswork.media_holds h WHERE h.digest = c.digest)
        ORDER BY c.touched_at LIMIT $2))
  AND m.touched_at < presswork.now() - $1 * interval '1 second'
RETURNING digest, place, mime, size, width, height";

/// Forgets media that no job holds.
pub async fn free(pools: &Pools, grace: Duration, limit: u32) -> Result<Vec<Stored>> {
    let grace = grace.as_secs_f64();
    let prove = || {
        sqlx::query(PROVE)
            .bind(grace)
            .bind(UNSURE)
            .execute(pools.main())
    };
    pools.again(prove).await?;
    // not made again by itself: what an attempt whose answer was lost forgot would be told to nobody
    // (its bytes are strays then, which the store finds)
    let query = sqlx::query(FREE).bind(grace).bind(i64::from(limit));
    let rows = pools.call(query.fetch_all(pools.main())).await?;
    let rows = rows.iter().map(read);
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}

const KEEP_FETCHED: &str = "
INSERT INTO presswork.media_fetched (url, landed, digest, etag, last_modified, at)
SELECT $1, $2, m.digest, $4, $5, presswork.now() FROM presswork.media m WHERE m.digest = $3
FOR SHARE OF m
ON CONFLICT (url) DO UPDATE
SET landed = excluded.landed, digest = excluded.digest, etag = excluded.etag,
    last_modified = excluded.last_modified, at = excluded.at";

/// Writes down what a URL led to.
pub async fn keep_fetched(pools: &Pools, it: &Fetched) -> Result<bool> {
    let query = || {
        sqlx::query(KEEP_FETCHED)
            .bind(it.url.0.to_vec())
            .bind(it.landed.0.to_vec())
            .bind(it.media.0.to_vec())
            .bind(&it.etag)
            .bind(&it.last_modified)
            .execute(pools.main())
    };
    Ok(pools.again(query).await?.rows_affected() == 1)
}

/// What a URL led to.
pub async fn fetched(pools: &Pools, url: Digest) -> Result<Option<Fetched>> {
    let sql = "SELECT url, landed, digest, etag, last_modified, at FROM presswork.media_fetched
               WHERE url = $1";
    let query = sqlx::query(sql).bind(url.0.to_vec());
    let row = pools.call(query.fetch_optional(pools.main())).await?;
    let read = |row: &PgRow| {
        Ok(Fetched {
            url: digest(row, "url")?,
            landed: digest(row, "landed")?,
            media: digest(row, "digest")?,
            etag: row.try_get("etag")?,
            last_modified: row.try_get("last_modified")?,
            at: row.try_get("at")?,
        })
    };
    row.as_ref().map(read).transpose().map_err(explain)
}
