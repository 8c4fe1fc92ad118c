//! What is due: by priority, then the turns of tenants and their accounts, then age; and what has waited
//! too long lifts its priority.

use std::sync::Arc;
use std::time::Duration;

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::map::{get, micros, span_micros, text};
use super::open::told;
use crate::fair::Fair;
use crate::gate::Shut;
use crate::job::{Job, JobId, Priority};
use crate::ledger::door::Result;
use crate::ledger::rows::{Hint, Line, PACE};

/// A due job and where its turn starts in virtual time.
struct Turn {
    starts: u64,
    run_at: i64,
    id: Uuid,
    of: Arc<Head>,
}

impl Turn {
    fn order(&self) -> (u64, i64, Uuid) {
        (self.starts, self.run_at, self.id)
    }
}

/// The first job of an account of a tenant of a priority: what the index jumps to.
struct Head {
    rank: i64,
    tenant: Arc<str>,
    account: Arc<str>,
    /// When its oldest job is or was due.
    oldest: i64,
}

impl Head {
    fn priority(&self) -> Priority {
        Priority::of_rank(i16::try_from(self.rank).unwrap_or(i16::MAX))
    }
}

/// What a look at what is due goes by.
pub struct Look<'a> {
    now: i64,
    kinds: String,
    shut: &'a Shut,
    fair: &'a Fair,
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
    pub fn at(
        now: i64,
        kinds: &[String],
        shut: &'a Shut,
        fair: &'a Fair,
        limit: u32,
    ) -> Result<Self> {
        let within = shut.looks_within().then(|| entries(shut));
        Ok(Self {
            now,
            kinds: text(&kinds)?,
            shut,
            fair,
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
        let heads = self.heads(conn, lane).await?;
        let late = self.late(conn, lane, &heads).await?;
        // those of a lower priority take no turn before all of a higher one had theirs
        for level in heads.chunk_by(|one, next| level(one.rank, late) == level(next.rank, late)) {
            let mut turns: Vec<Turn> = Vec::new();
            for head in level {
                turns.extend(self.first_of(conn, lane, head, self.limit).await?);
            }
            turns.sort_by_key(Turn::order);
            hints.extend(turns.into_iter().map(|it| self.hint(it, late)));
            if most <= hints.len() {
                break;
            }
        }
        hints.truncate(most);
        Ok(hints)
    }

    fn hint(&self, it: Turn, late: i64) -> Hint {
        Hint {
            id: JobId(it.id),
            priority: it.of.priority(),
            tenant: it.of.tenant.clone(),
            account: it.of.account.clone(),
            lifted: level(it.of.rank, late) < it.of.rank,
            step: self.step(&it.of),
        }
    }

    fn step(&self, head: &Head) -> u64 {
        self.fair.step(head.priority(), &head.tenant, &head.account)
    }

    /// The accounts of a lane, of which not everything is shut, by priority.
    async fn heads(&self, conn: &mut SqliteConnection, lane: &str) -> Result<Vec<Arc<Head>>> {
        let mut heads: Vec<Arc<Head>> = Vec::new();
        let mut last = None;
        while let Some(next) = next_head(conn, lane, last.as_deref()).await? {
            let next = Arc::new(next);
            if !self.shut.is_whole(&next.account, &next.tenant) {
                heads.push(next.clone());
            }
            last = Some(next);
        }
        Ok(heads)
    }

    /// The lowest priority in which something has been due for longer than the lane's jobs may wait.
    async fn late(
        &self,
        conn: &mut SqliteConnection,
        lane: &str,
        heads: &[Arc<Head>],
    ) -> Result<i64> {
        let Some(waits) = self.fair.waits_at_most(lane) else {
            return Ok(0);
        };
        let before = self.now.saturating_sub(span_micros(waits));
        for head in heads.iter().rev() {
            // what the index has as its oldest may be of a kind that is shut, or that nobody here knows
            if 0 < head.rank
                && head.oldest <= before
                && let [first] = &*self.first_of(conn, lane, head, 1).await?
                && first.run_at <= before
            {
                return Ok(head.rank);
            }
        }
        Ok(0)
    }

    /// Where a job stands in its lane's line, and how fast that goes: what is due is counted up to the limit.
    pub async fn line(&self, conn: &mut SqliteConnection, job: &Job) -> Result<Line> {
        let most = u64::from(self.limit);
        let its = Arc::new(Head {
            rank: i64::from(job.priority.rank()),
            tenant: job.tenant.as_str().into(),
            account: job.account.as_deref().unwrap_or_default().into(),
            oldest: micros(job.run_at),
        });
        let ahead = self.first_of(conn, &job.lane, &its, self.limit).await?;
        let older = |it: &&Turn| (it.run_at, it.id) < (its.oldest, job.id.0);
        let mine = Turn {
            starts: ahead.iter().take_while(older).count() as u64 * self.step(&its),
            run_at: its.oldest,
            id: job.id.0,
            of: its.clone(),
        };
        let mut line = self.pace(conn, &job.lane).await?;
        let heads = self.heads(conn, &job.lane).await?;
        let late = self.late(conn, &job.lane, &heads).await?;
        let own = level(its.rank, late);
        for head in heads.iter().filter(|it| level(it.rank, late) <= own) {
            if most <= line.before {
                break;
            }
            let before = level(head.rank, late) < own;
            let limit = match before {
                true => self.limit,
                false => u32::try_from(mine.starts / self.step(head) + 1).unwrap_or(u32::MAX),
            };
            let first = self.first_of(conn, &job.lane, head, limit).await?;
            let goes_first = |it: &&Turn| before || it.order() < mine.order();
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
        head: &Arc<Head>,
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
                            OR (s.value ->> 3 = char(1) AND (created_at < due_at) IS NOT TRUE)))"
            )),
        };
        let query = query
            .bind(lane)
            .bind(head.rank)
            .bind(&*head.tenant)
            .bind(&*head.account)
            .bind(self.now)
            .bind(&self.kinds)
            .bind(limit);
        let query = match &self.within {
            None => query,
            Some(within) => query.bind(within),
        };
        let rows = query.fetch_all(conn).await.map_err(told)?;
        let step = self.step(head);
        let turn = |(turn, row)| {
            Ok(Turn {
                starts: turn as u64 * step,
                run_at: get(row, 1)?,
                id: get(row, 0)?,
                of: head.clone(),
            })
        };
        rows.iter().enumerate().map(turn).collect()
    }
}

/// The priority among which a rank's jobs take their turns, where those up to `late` were lifted.
fn level(rank: i64, late: i64) -> i64 {
    match rank <= late {
        true => 0,
        false => rank,
    }
}

/// The first account after `last` that has a job that may be claimed, due or not: of the same tenant, then
/// of the next. Two statements in one, since a comparison of rows goes by columns of the index alone.
async fn next_head(
    conn: &mut SqliteConnection,
    lane: &str,
    last: Option<&Head>,
) -> Result<Option<Head>> {
    let row = sqlx::query(
        "SELECT * FROM (
             SELECT priority, tenant, coalesce(account, ''), run_at FROM jobs
             WHERE lane = ?1 AND state IN ('scheduled', 'ready', 'retrying')
               AND priority = ?2 AND tenant = ?3 AND coalesce(account, '') > ?4
             ORDER BY coalesce(account, ''), run_at LIMIT 1)
         UNION ALL
         SELECT * FROM (
             SELECT priority, tenant, coalesce(account, ''), run_at FROM jobs
             WHERE lane = ?1 AND state IN ('scheduled', 'ready', 'retrying')
               AND (priority, tenant) > (?2, ?3)
             ORDER BY priority, tenant, coalesce(account, ''), run_at LIMIT 1)
         LIMIT 1",
    )
    .bind(lane)
    .bind(last.map_or(-1, |it| it.rank))
    .bind(last.map_or("", |it| &*it.tenant))
    .bind(last.map_or("", |it| &*it.account))
    .fetch_optional(conn)
    .await
    .map_err(told)?;
    let read = |row: SqliteRow| {
        Ok(Head {
            rank: get(&row, 0)?,
            tenant: get::<&str, _>(&row, 1)?.into(),
            account: get::<&str, _>(&row, 2)?.into(),
            oldest: get(&row, 3)?,
        })
    };
    row.map(read).transpose()
}
