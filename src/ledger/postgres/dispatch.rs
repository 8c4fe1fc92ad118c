//! Dispatch: what is due, who takes it, and what was lost on the way.

use std::collections::{BTreeMap, HashMap};

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};
use uuid::Uuid;

use super::codec::{self, live_columns};
use super::connections::{Opening, Within};
use super::pool::{Pools, explain};
use crate::fair::Fair;
use crate::gate::Shut;
use crate::job::{Job, JobId, Priority, Progress};
use crate::ledger::door::Result;
use crate::ledger::rows::{Claim, Hint};
use crate::sabotage;

/// The predicate of the index `jobs_due`, word for word.
macro_rules! claimable {
    () => {
        "j.token IS NULL AND j.state IN ('scheduled', 'ready', 'retrying')"
    };
}

/// What each job of a flow takes of virtual time: [`Fair::step`], in SQL.
macro_rules! step {
    () => {
        "((5040 << going.priority) / least(greatest(
             coalesce(((SELECT tenants FROM weight) ->> going.tenant)::int8, 1)
             * coalesce(((SELECT accounts FROM weight) ->> going.account)::int8, 1), 1), 1000))"
    };
}

/// The time, and the weights: read once.
macro_rules! clock {
    () => {
        "clock AS MATERIALIZED (SELECT presswork.now() AS now),
    weight AS MATERIALIZED (SELECT $5::text::jsonb AS tenants, $6::text::jsonb AS accounts),"
    };
}

/// The due jobs of an account, the oldest first, that are what `$one` says.
macro_rules! oldest {
    ($lane:literal, $one:expr) => {
        concat!(
            "
            SELECT j.id, j.run_at FROM presswork.jobs j
            WHERE j.lane = ",
            $lane,
            " AND j.priority = going.priority AND j.tenant = going.tenant
              AND coalesce(j.account, '') = going.account
              AND j.run_at <= (SELECT now FROM clock) AND j.kind = ANY($2) AND ",
            claimable!(),
            $one,
            " ORDER BY j.run_at, j.id"
        )
    };
}

/// What is due in a lane. Jumps from account to account over the index (a loose scan), looks at no more
/// than `$3` jobs of each, and takes turns between them: the cost is by tenants, their accounts and limit,
/// not by the backlog. Flows are told apart by numbers until all is chosen, so that no names are sorted. The
/// oldest job of each tells whether something has waited longer than `$waits`. Of
/// three forms, so that what isn't closed costs nothing: `$heads` are the accounts
/// that may go, `$one` is what a job must be besides.
macro_rules! due {
    ($lane:literal, $waits:literal, open) => {
        due!($lane, $waits, "", "head", "")
    };
    ($lane:literal, $waits:literal, accounts) => {
        due!($lane, $waits, going!(), "going", "")
    };
    ($lane:literal, $waits:literal, jobs) => {
        due!($lane, $waits, going!(), "going", within!())
    };
    ($lane:literal, $waits:literal, $going:expr, $heads:literal, $one:expr) => {
        concat!(
            "WITH RECURSIVE ",
            clock!(),
            "
    head AS (
        (SELECT j.priority, j.tenant, coalesce(j.account, '') AS account FROM presswork.jobs j
         WHERE j.lane = ",
            $lane,
            " AND ",
            claimable!(),
            "    ORDER BY j.priority, j.tenant, coalesce(j.account, '') LIMIT 1)
        UNION ALL
        SELECT next.priority, next.tenant, next.account FROM head CROSS JOIN LATERAL (
            SELECT j.priority, j.tenant, coalesce(j.account, '') AS account FROM presswork.jobs j
            WHERE j.lane = ",
            $lane,
            " AND (j.priority, j.tenant, coalesce(j.account, ''))
                  > (head.priority, head.tenant, head.account) AND ",
            claimable!(),
            "       ORDER BY j.priority, j.tenant, coalesce(j.account, '') LIMIT 1) next
    ),",
            $going,
            "
    late AS MATERIALIZED (
        SELECT max(going.priority) AS priority FROM ",
            $heads,
            " going CROSS JOIN LATERAL (",
            oldest!($lane, $one),
            " LIMIT 1) one
        WHERE 0 < going.priority
          AND one.run_at <= (SELECT now FROM clock) - ",
            $waits,
            " * interval '1 second'
    ),
    level AS MATERIALIZED (
        SELECT row_number() OVER () AS flow, going.priority, going.tenant, going.account, ",
            step!(),
            " AS step,
               CASE WHEN going.priority <= (SELECT priority FROM late) THEN 0
                    ELSE going.priority END AS level
        FROM ",
            $heads,
            " going
    ),
    turn AS (
        SELECT going.flow, going.level, one.id, one.run_at, (one.n - 1) * going.step AS starts
        FROM level going CROSS JOIN LATERAL (
            SELECT first.id, first.run_at, row_number() OVER (ORDER BY first.run_at, first.id) AS n
            FROM (",
            oldest!($lane, $one),
            " LIMIT $3) first) one
    ),
    best AS (
        SELECT turn.flow, turn.starts, turn.run_at, turn.id FROM turn
        ORDER BY turn.level, turn.starts, turn.run_at, turn.id LIMIT $3
    )
    SELECT best.id, going.priority, going.tenant, going.account, going.level, best.starts, best.run_at
    FROM best JOIN level going ON going.flow = best.flow
    ORDER BY going.level, best.starts, best.run_at, best.id"
        )
    };
}

/// The accounts of which not everything is shut. Materialised: they are chosen before their jobs are
/// looked at.
macro_rules! going {
    () => {
        "
    shut AS MATERIALIZED (
        SELECT s.account, s.tenant, s.kind, s.mark
        FROM unnest($7::text[], $8::text[], $9::text[], $10::text[]) AS s(account, tenant, kind, mark)
    ),
    going AS MATERIALIZED (
        SELECT head.priority, head.tenant, head.account FROM head
        WHERE NOT EXISTS (SELECT FROM shut s
                          WHERE s.kind = '' AND s.mark = '' AND (s.account = '' OR s.account = head.account)
                            AND (s.tenant = '' OR s.tenant = head.tenant))
    ),"
    };
}

/// A job that no entry names which looks at more than its account and tenant.
macro_rules! within {
    () => {
        " AND NOT EXISTS (SELECT FROM shut s
                              WHERE (s.kind <> '' OR s.mark <> '')
                                AND (s.account = '' OR s.account = going.account)
                                AND (s.tenant = '' OR s.tenant = going.tenant)
                                AND (s.kind = '' OR s.kind = j.kind)
                                AND (s.mark = '' OR 0 < strpos(j.labels, s.mark)
                                     OR (s.mark = chr(1) AND (j.created_at < j.due_at) IS NOT TRUE)))
        "
    };
}

pub(super) use {claimable, clock, going, step, within};

macro_rules! due_in {
    ($form:ident) => {
        concat!(
            "SELECT l.lane, d.id, d.priority, d.tenant, d.account, d.level
    FROM unnest($1::text[], $4::float8[]) AS l(lane, waits) CROSS JOIN LATERAL (",
            due!("l.lane", "l.waits", $form),
            ") d ORDER BY l.lane, d.level, d.starts, d.run_at, d.id"
        )
    };
}

const DUE: [&str; 3] = [
    due!("$1", "$4::float8", open),
    due!("$1", "$4::float8", accounts),
    due!("$1", "$4::float8", jobs),
];
const DUE_IN: [&str; 3] = [due_in!(open), due_in!(accounts), due_in!(jobs)];

/// Which of three forms a look at what is due takes.
fn form(shut: &Shut) -> usize {
    match (shut.is_empty(), shut.looks_within()) {
        (true, _) => 0,
        (false, false) => 1,
        (false, true) => 2,
    }
}

/// Rows that somebody else holds are passed over, so a claim waits for nobody and can't deadlock.
/// What may be claimed is told as an expression (`coalesce`): else the planner may take the index of what is
/// due for it, and walk the whole lane to find a few ids.
macro_rules! claim {
    ($passes_over:literal) => {
        concat!(
            "WITH clock AS MATERIALIZED (SELECT presswork.now() AS now),
    free AS MATERIALIZED (
        SELECT j.id, w.token
        FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS w(id, token, n)
             JOIN presswork.jobs j ON j.id = ANY(ARRAY[w.id])
        WHERE j.run_at <= (SELECT now FROM clock) AND j.lane = $5 AND j.kind = ANY($6)
          AND ($4::int8 IS NULL OR (SELECT generation FROM presswork.meta) <= $4)
          AND (SELECT NOT r.ended AND clock.now < r.lease_until
               FROM presswork.workers r, clock WHERE r.run = $3) AND coalesce(",
            claimable!(),
            ", false)",
            $passes_over,
            "
        ORDER BY w.n LIMIT $7 FOR UPDATE OF j SKIP LOCKED
    )
    UPDATE presswork.jobs j
    SET state = 'running', token = free.token, run = $3, claimed_at = clock.now,
        epoch = j.epoch + 1, version = j.version + 1, progress = NULL
    FROM free, clock WHERE j.id = ANY(ARRAY[free.id])
    RETURNING ",
            live_columns!()
        )
    };
}

/// Where nothing is closed.
const CLAIM: &str = claim!("");
/// What is closed is passed over.
const CLAIM_OPEN: &str = claim!(
    " AND NOT EXISTS (
              SELECT FROM unnest($8::text[], $9::text[], $10::text[], $11::text[])
                  AS s(account, tenant, kind, mark)
              WHERE (s.account = '' OR s.account = j.account) AND (s.tenant = '' OR s.tenant = j.tenant)
                AND (s.kind = '' OR s.kind = j.kind)
                AND (s.mark = '' OR 0 < strpos(j.labels, s.mark)
                     OR (s.mark = chr(1) AND (j.created_at < j.due_at) IS NOT TRUE)))"
);

fn due_query<'q>(
    lane: &'q str,
    kinds: &'q [String],
    shut: &Shut,
    fair: &Fair,
    limit: u32,
) -> Query<'q> {
    let query = sqlx::query(DUE[form(shut)]);
    let query = query.bind(lane).bind(kinds).bind(i64::from(limit));
    let query = query.bind(waits(fair, lane));
    passing_over(by_weight(query, fair), shut)
}

/// How long a lane's jobs may wait, in seconds.
pub fn waits(fair: &Fair, lane: &str) -> Option<f64> {
    fair.waits_at_most(lane).map(|it| it.as_secs_f64())
}

/// Binds the weights: two parameters.
pub fn by_weight<'q>(query: Query<'q>, fair: &Fair) -> Query<'q> {
    let [tenants, accounts] = fair.weights();
    query.bind(tenants).bind(accounts)
}

/// Binds what is shut, where the statement asks for it.
fn passing_over<'q>(query: Query<'q>, shut: &Shut) -> Query<'q> {
    if shut.is_empty() {
        return query;
    }
    shut_columns(query, shut)
}

/// Binds what is shut: four parameters.
pub fn shut_columns<'q>(query: Query<'q>, shut: &Shut) -> Query<'q> {
    let it = shut.columns();
    query
        .bind(it.accounts)
        .bind(it.tenants)
        .bind(it.kinds)
        .bind(it.marks)
}

/// At most `limit`; `None`: as many as there are.
fn claim_query<'q>(claim: &'q Claim, ids: &[Uuid], limit: Option<u32>) -> Query<'q> {
    let tokens: Vec<Uuid> = ids.iter().map(|_| Uuid::new_v4()).collect();
    let sql = if claim.shut.is_empty() {
        CLAIM
    } else {
        CLAIM_OPEN
    };
    let sql = sabotage!(sql, "claim.generation": "(SELECT generation FROM presswork.meta) <= $4" => "true");
    let query = sqlx::query(sql)
        .bind(ids.to_vec())
        .bind(tokens)
        .bind(claim.run)
        .bind(claim.generation)
        .bind(&claim.lane)
        .bind(&*claim.kinds)
        .bind(limit.map(i64::from));
    passing_over(query, &claim.shut)
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn hint(row: &PgRow, fair: &Fair) -> sqlx::Result<Hint> {
    let rank: i16 = row.try_get("priority")?;
    let priority = Priority::of_rank(rank);
    let (tenant, account): (&str, &str) = (row.try_get("tenant")?, row.try_get("account")?);
    Ok(Hint {
        id: JobId(row.try_get("id")?),
        priority,
        tenant: tenant.into(),
        account: account.into(),
        lifted: row.try_get::<i32, _>("level")? < i32::from(rank),
        step: fair.step(priority, tenant, account),
    })
}

/// Due jobs of a lane, by turns.
pub async fn due(
    pools: &Pools,
    lane: &str,
    kinds: &[String],
    shut: &Shut,
    fair: &Fair,
    limit: u32,
) -> Result<Vec<Hint>> {
    if shut.is_everything() {
        return Ok(vec![]);
    }
    let query = due_query(lane, kinds, shut, fair, limit);
    let rows = pools.call(query.fetch_all(pools.planned())).await?;
    let rows = rows.iter().map(|it| hint(it, fair));
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}

/// Due jobs of several lanes.
pub async fn due_in(
    pools: &Pools,
    lanes: &[String],
    kinds: &[String],
    shut: &Shut,
    fair: &Fair,
    limit: u32,
) -> Result<BTreeMap<String, Vec<Hint>>> {
    if shut.is_everything() {
        return Ok(BTreeMap::new());
    }
    let waits: Vec<Option<f64>> = lanes.iter().map(|it| waits(fair, it)).collect();
    let query = sqlx::query(DUE_IN[form(shut)])
        .bind(lanes)
        .bind(kinds)
        .bind(i64::from(limit))
        .bind(waits);
    let query = passing_over(by_weight(query, fair), shut);
    let rows = pools.call(query.fetch_all(pools.planned())).await?;
    let mut due: BTreeMap<String, Vec<Hint>> = BTreeMap::new();
    for row in &rows {
        let lane = row.try_get("lane").map_err(explain)?;
        due.entry(lane)
            .or_default()
            .push(hint(row, fair).map_err(explain)?);
    }
    Ok(due)
}

/// Takes the leases of those that are still free.
pub async fn claim(pools: &Pools, claim: &Claim, ids: &[JobId]) -> Result<Vec<Job>> {
    let ids = each_once(ids.iter().map(|it| it.0));
    if claim.shut.is_everything() {
        return Ok(vec![]);
    }
    if claim.concurrency.is_some() {
        return claim_in_lane(pools, claim, Wanted::These(ids)).await;
    }
    let query = || claim_query(claim, &ids, None).fetch_all(pools.claims());
    let rows = pools.again(query).await?;
    in_order(&rows, &ids)
}

fn each_once(ids: impl Iterator<Item = Uuid>) -> Vec<Uuid> {
    let mut seen = std::collections::HashSet::new();
    ids.filter(|it| seen.insert(*it)).collect()
}

/// `RETURNING` keeps no order: that of the hints is priority and fairness.
fn in_order(rows: &[PgRow], ids: &[Uuid]) -> Result<Vec<Job>> {
    let place: HashMap<Uuid, usize> = ids.iter().copied().zip(0..).collect();
    let mut jobs = jobs(rows)?;
    jobs.sort_by_key(|it| place.get(&it.id.0).copied().unwrap_or(usize::MAX));
    Ok(jobs)
}

fn jobs(rows: &[PgRow]) -> Result<Vec<Job>> {
    let jobs = rows.iter().map(codec::job);
    jobs.collect::<sqlx::Result<_>>().map_err(explain)
}

const LANE_LOCK: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended('presswork.lane:' || $1, 0))";
const LANE_RUNNING: &str =
    "SELECT count(*) FROM presswork.jobs j WHERE j.lane = $1 AND j.token IS NOT NULL";

/// What is to be claimed under the lane's lock.
enum Wanted {
    These(Vec<Uuid>),
    /// What is due, at most so many.
    Due(u32),
}

/// Takes the leases of due jobs of a lane, under the lane's lock.
pub async fn claim_due(pools: &Pools, claim: &Claim, limit: u32) -> Result<Vec<Job>> {
    if claim.shut.is_everything() {
        return Ok(vec![]);
    }
    claim_in_lane(pools, claim, Wanted::Due(limit)).await
}

async fn claim_in_lane(pools: &Pools, claim: &Claim, wanted: Wanted) -> Result<Vec<Job>> {
    let claim = claim.clone();
    let opening = pools.claims().opening();
    let (ids, rows) = pools
        .apart(pools.claims(), pools.patience(), |connection| {
            Box::pin(async move {
                under_lock(connection, &opening, &claim, wanted)
                    .await
                    .map_err(explain)
            })
        })
        .await?;
    in_order(&rows, &ids)
}

async fn under_lock(
    connection: &mut PgConnection,
    opening: &Opening,
    claim: &Claim,
    wanted: Wanted,
) -> sqlx::Result<(Vec<Uuid>, Vec<PgRow>)> {
    let mut transaction = opening.begin(connection).await?;
    sqlx::query(LANE_LOCK)
        .bind(&claim.lane)
        .execute(transaction.on())
        .await?;
    // after the lock, in a statement of its own: it sees what the lock's last holder wrote
    let room = match claim.concurrency {
        None => u32::MAX,
        Some(concurrency) => room(transaction.on(), &claim.lane, concurrency).await?,
    };
    let ids = match wanted {
        _ if room == 0 => vec![],
        Wanted::These(ids) => ids,
        Wanted::Due(limit) => due_ids(transaction.on(), claim, limit.min(room)).await?,
    };
    if ids.is_empty() {
        transaction.rollback().await?;
        return Ok((vec![], vec![]));
    }
    let rows = claim_query(claim, &ids, Some(room))
        .fetch_all(transaction.on())
        .await?;
    transaction.commit().await?;
    Ok((ids, rows))
}

async fn due_ids(connection: Within<'_>, claim: &Claim, limit: u32) -> sqlx::Result<Vec<Uuid>> {
    let hints = due_query(&claim.lane, &claim.kinds, &claim.shut, &claim.fair, limit)
        .fetch_all(connection)
        .await?;
    hints.iter().map(|row| row.try_get("id")).collect()
}

async fn room(connection: Within<'_>, lane: &str, concurrency: u32) -> sqlx::Result<u32> {
    let running: i64 = sqlx::query_scalar(LANE_RUNNING)
        .bind(lane)
        .fetch_one(connection)
        .await?;
    let running = u32::try_from(running).unwrap_or(u32::MAX);
    if sabotage!("claim.room") {
        return Ok(concurrency);
    }
    Ok(concurrency.saturating_sub(running))
}

const LOST: &str = concat!(
    "WITH clock AS MATERIALIZED (SELECT presswork.now() AS now),
    named AS MATERIALIZED (
        SELECT w.run, n.job FROM presswork.workers w, unnest(w.jobs) AS n(job)
        WHERE NOT w.ended
    )
    SELECT ",
    live_columns!(),
    " FROM presswork.jobs j LEFT JOIN presswork.workers w ON w.run = j.run
         LEFT JOIN named n ON n.run = j.run AND n.job = j.id
    WHERE j.token IS NOT NULL
      AND (w.run IS NULL OR w.ended OR w.lease_until < (SELECT now FROM clock)
           OR (j.claimed_at < w.before_at AND n.job IS NULL))
    ORDER BY j.claimed_at, j.id LIMIT $1"
);

/// Running jobs that nobody runs any more.
pub async fn lost(pools: &Pools, limit: u32) -> Result<Vec<Job>> {
    let sql = sabotage!(LOST, "lost.lease": "w.lease_until < (SELECT now FROM clock)" => "true");
    let query = sqlx::query(sql).bind(i64::from(limit));
    jobs(&pools.call(query.fetch_all(pools.main())).await?)
}

const EXPIRED: &str = concat!(
    "SELECT ",
    live_columns!(),
    " FROM presswork.jobs j
    WHERE j.token IS NULL AND j.state IN ('waiting', 'scheduled', 'ready', 'retrying', 'held')
      AND least(j.not_after, j.expires_at) < presswork.now()
    ORDER BY least(j.not_after, j.expires_at) LIMIT $1"
);

/// Jobs that didn't start in time.
pub async fn expired(pools: &Pools, limit: u32) -> Result<Vec<Job>> {
    let query = sqlx::query(EXPIRED).bind(i64::from(limit));
    jobs(&pools.call(query.fetch_all(pools.main())).await?)
}

const PROGRESS: &str = "
UPDATE presswork.jobs j SET progress = w.progress
FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS w(id, token, progress)
WHERE j.id = ANY(ARRAY[w.id]) AND j.token = w.token";

/// Keeps how far attempts are. No change of state: the version stays, so that an operator's
/// command on a running job isn't refused for a percentage.
pub async fn progress(pools: &Pools, batch: &[(JobId, Uuid, Progress)]) -> Result<()> {
    let mut batch: Vec<_> = batch.iter().collect();
    batch.sort_by_key(|it| it.0);
    let query = || {
        sqlx::query(PROGRESS)
            .bind(batch.iter().map(|it| it.0.0).collect::<Vec<_>>())
            .bind(batch.iter().map(|it| it.1).collect::<Vec<_>>())
            .bind(
                batch
                    .iter()
                    .map(|it| codec::text(&it.2))
                    .collect::<Vec<_>>(),
            )
            .execute(pools.claims())
    };
    pools.again(query).await.map(|_| ())
}

/// The running jobs of a lane and their runs.
pub async fn running(pools: &Pools, lane: &str) -> Result<Vec<(JobId, Uuid)>> {
    let sql = "SELECT j.id, j.run FROM presswork.jobs j
               WHERE j.lane = $1 AND j.token IS NOT NULL ORDER BY j.id";
    let rows = pools
        .call(sqlx::query(sql).bind(lane).fetch_all(pools.main()))
        .await?;
    let read = |row: &PgRow| Ok((JobId(row.try_get("id")?), row.try_get("run")?));
    let rows = rows.iter().map(read);
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}
