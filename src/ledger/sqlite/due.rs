//! What is due: by priority, then the turns of tenants and their accounts, then age.

use std::sync::Arc;
use std::time::Duration;

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::map::{get, micros, span_micros, text};
use super::open::told;
use crate::gate::Shut;
use crate::job::{Job, JobId, Priority};
use crate::ledger::door::Result;
use crate::ledger::rows::{Hint, Line, PACE};

/// A due job and its turn among those of its account, from 0.
struct Turn {
    turn: usize,
    run_at: i64,
    id: Uuid,
    tenant: Arc<str>,
}

/// The first job of an account of a tenant of a priority: what the index jumps to.
struct Head {
    rank: i64,
    tenant: Arc<str>,
    account: String,
}

impl Head {
    fn before_all() -> Self {
        Self {
            rank: -1,
            tenant: Arc::from(""),
            account: String::new(),
        }
    }
}

/// What a look at what is due goes by.
pub struct Look<'a> {
    now: i64,
    kinds: String,
    shut: &'a Shut,
    /// The entries that look at more than accounts and tenants, where there are some.
    within: Option<String>,
    limit: u32,
}

/// What is shut, as statements read it: an array of account, tenant, kind and mark each.
pub fn entries(shut: &Shut) -> Result<String> {
    let it = shut.columns();
    let entry = |n: usize| [&it.accounts[n], &it.tenants[n], &it.kinds[n], &it.marks[n]];
    let entries: Vec<_> = (0..it.accounts.len()).map(entry).collect();
    text(&entries)
}

/// The oldest due jobs of an account, of those that `$within` lets through.
macro_rules! first {
    ($within:literal) => {
        concat!(
            "SELECT id, run_at FROM jobs
             WHERE lane = ?1 AND priority = ?2 AND tenant = ?3 AND coalesce(account, '') = ?4
               AND state IN ('scheduled', 'ready', 'retrying')
               AND run_at <= ?5 AND kind IN (SELECT value FROM json_each(?6)) ",
            $within,
            " ORDER BY run_at, id LIMIT ?7"
        )
    };
}
impl<'a> Look<'a> {
    /// At most `limit` jobs of `kinds` that are due by `now` and that `shut` doesn't name.
    pub fn at(now: i64, kinds: &[String], shut: &'a Shut, limit: u32) -> Result<Self> {
        let within = shut.looks_within().then(|| entries(shut));
        Ok(Self {
            now,
            kinds: text(&kinds)?,
            shut,
            within: within.transpose()?,
            limit,
        })
    }

    /// Due jobs of a lane. Jumps from account to account over the index `jobs_due` and looks at no more
    /// than `limit` jobs of each: the cost is by tenants, their accounts and limit, not by the backlog.
    pub async fn due(&self, conn: &mut SqliteConnection, lane: &str) -> Result<Vec<Hint>> {
        let most = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let mut hints = Vec::new();
        if self.shut.is_everything() {
            return Ok(hints);
        }
        let mut level: Vec<Turn> = Vec::new();
        let mut head = Head::before_all();
        while hints.len() < most {
            let next = next_head(conn, lane, &head).await?;
            // those of a lower priority take no turn before all of a higher one had theirs
            if next.as_ref().is_none_or(|it| it.rank != head.rank) {
                take_turns(head.rank, &mut level, &mut hints);
            }
            let Some(next) = next else { break };
            head = next;
            if !self.shut.is_whole(&head.account, &head.tenant) {
                level.extend(self.first_of(conn, lane, &head, self.limit).await?);
            }
        }
        hints.truncate(most);
        Ok(hints)
    }

    /// Where a job stands in its lane's line, and how fast that goes: what is due is counted up to the limit.
    pub async fn line(&self, conn: &mut SqliteConnection, job: &Job) -> Result<Line> {
        let most = u64::from(self.limit);
        let (rank, age) = (
            i64::from(job.priority.rank()),
            (micros(job.run_at), job.id.0),
        );
        let its = Head {
            rank,
            tenant: job.tenant.as_str().into(),
            account: job.account.clone().unwrap_or_default(),
        };
        let older = |it: &&Turn| (it.run_at, it.id) < age;
        let ahead = self.first_of(conn, &job.lane, &its, self.limit).await?;
        let turn = ahead.iter().take_while(older).count();
        let mut line = self.pace(conn, &job.lane).await?;
        let mut head = Head::before_all();
        while line.before < most {
            let Some(next) = next_head(conn, &job.lane, &head).await? else {
                break;
            };
            head = next;
            if rank < head.rank {
                break;
            }
            if self.shut.is_whole(&head.account, &head.tenant) {
                continue;
            }
            let limit = match head.rank < rank {
                true => self.limit,
                false => u32::try_from(turn + 1).unwrap_or(u32::MAX),
            };
            let first = self.first_of(conn, &job.lane, &head, limit).await?;
            let goes_first = |it: &&Turn| head.rank < rank || it.turn < turn || older(it);
            line.before += first.iter().filter(goes_first).count() as u64;
        }
        line.before = line.before.min(most);
        Ok(line)
    }

    /// What was completed of a lane lately, from the oldest on.
    async fn pace(&self, conn: &mut SqliteConnection, lane: &str) -> Result<Line> {
        let row = sqlx::query(
            "SELECT coalesce(sum(is_one), 0),
                    CASE WHEN count(*) < ?3 THEN ?4 - min(CASE WHEN is_one THEN archived_at END)
                         ELSE max(archived_at) - min(archived_at) END
             FROM (SELECT lane = ?1 AND state = 'completed' AS is_one, archived_at
                   FROM finished_jobs WHERE ?2 < archived_at ORDER BY archived_at LIMIT ?3)",
        )
        .bind(lane)
        .bind(self.now.saturating_sub(span_micros(PACE)))
        .bind(self.limit)
        .bind(self.now)
        .fetch_one(conn)
        .await
        .map_err(told)?;
        let span: Option<i64> = get(&row, 1)?;
        Ok(Line {
            before: 0,
            completed: get::<i64, _>(&row, 0)?.unsigned_abs(),
            span: Duration::from_micros(span.unwrap_or_default().unsigned_abs()),
        })
    }

    /// The oldest due jobs of an account, at most `limit`.
    async fn first_of(
        &self,
        conn: &mut SqliteConnection,
        lane: &str,
        head: &Head,
        limit: u32,
    ) -> Result<Vec<Turn>> {
        let query = match &self.within {
            None => sqlx::query(first!("")),
            Some(_) => sqlx::query(first!(
                "AND NOT EXISTS (
                     SELECT 1 FROM json_each(?8) s
                     WHERE s.value ->> 0 IN ('', ?4) AND s.value ->> 1 IN ('', ?3)
                       AND s.value ->> 2 IN ('', kind)
                       AND (s.value ->> 3 = '' OR instr(labels, s.value ->> 3)
                            OR (s.value ->> 3 = char(1) AND wanted_at IS NULL)))"
            )),
        };
        let query = query
            .bind(lane)
            .bind(head.rank)
            .bind(&*head.tenant)
            .bind(&head.account)
            .bind(self.now)
            .bind(&self.kinds)
            .bind(limit);
        let query = match &self.within {
            None => query,
            Some(within) => query.bind(within),
        };
        let rows = query.fetch_all(conn).await.map_err(told)?;
        let turn = |(turn, row)| {
            Ok(Turn {
                turn,
                run_at: get(row, 1)?,
                id: get(row, 0)?,
                tenant: head.tenant.clone(),
            })
        };
        rows.iter().enumerate().map(turn).collect()
    }
}

fn take_turns(rank: i64, level: &mut Vec<Turn>, hints: &mut Vec<Hint>) {
    level.sort_by_key(|it| (it.turn, it.run_at, it.id));
    let priority = Priority::of_rank(i16::try_from(rank).unwrap_or(i16::MAX));
    hints.extend(level.drain(..).map(|it| Hint {
        id: JobId(it.id),
        priority,
        tenant: it.tenant,
    }));
}

/// The first account after `head` that has a job that may be claimed, due or not: of the same tenant, then
/// of the next. Two statements in one, since a comparison of rows goes by columns of the index alone.
async fn next_head(conn: &mut SqliteConnection, lane: &str, head: &Head) -> Result<Option<Head>> {
    let row = sqlx::query(
        "SELECT * FROM (
             SELECT priority, tenant, coalesce(account, '') FROM jobs
             WHERE lane = ?1 AND state IN ('scheduled', 'ready', 'retrying')
               AND priority = ?2 AND tenant = ?3 AND coalesce(account, '') > ?4
             ORDER BY coalesce(account, '') LIMIT 1)
         UNION ALL
         SELECT * FROM (
             SELECT priority, tenant, coalesce(account, '') FROM jobs
             WHERE lane = ?1 AND state IN ('scheduled', 'ready', 'retrying')
               AND (priority, tenant) > (?2, ?3)
             ORDER BY priority, tenant, coalesce(account, '') LIMIT 1)
         LIMIT 1",
    )
    .bind(lane)
    .bind(head.rank)
    .bind(&*head.tenant)
    .bind(&head.account)
    .fetch_optional(conn)
    .await
    .map_err(told)?;
    let read = |row: SqliteRow| {
        Ok(Head {
            rank: get(&row, 0)?,
            tenant: get::<&str, _>(&row, 1)?.into(),
            account: get(&row, 2)?,
        })
    };
    row.map(read).transpose()
}
