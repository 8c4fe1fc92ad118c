//! The ledger as it is: read by plain SQL over a connection of our own, not by the engine's door, which
//! might believe what it wrote.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, Row as _, SqliteConnection};
use tokio::sync::Mutex;

use super::evidence::{EffectRow, Ms, Past, Row};

/// How long a question may take: a server that was stopped or cut off doesn't answer.
const ANSWERED: Duration = Duration::from_secs(20);
/// The same of everything that the ledger knows, which may be a million jobs.
const ALL_ANSWERED: Duration = Duration::from_secs(600);

/// Where the ledger is.
#[derive(Clone, Debug)]
pub enum Place {
    /// The URL of a PostgreSQL.
    Postgres(String),
    /// A SQLite file.
    Sqlite(PathBuf),
}

enum Connection {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

/// A reader of the ledger.
pub struct Books {
    place: Place,
    connection: Mutex<Option<Connection>>,
}

/// A job at work: its id and its lease's number.
pub type Held = (String, u32);

/// A question, as each of the two is asked.
struct Question {
    postgres: &'static str,
    sqlite: &'static str,
}

/// Jobs that have ended, or wait for a person.
const ENDED: Question = Question {
    postgres: "SELECT ((SELECT count(*) FROM presswork.finished_jobs)
        + (SELECT count(*) FROM presswork.jobs WHERE state IN ('dead', 'unresolved')))::text",
    sqlite: "SELECT CAST((SELECT count(*) FROM finished_jobs)
        + (SELECT count(*) FROM jobs WHERE state IN ('dead', 'unresolved')) AS TEXT)",
};
/// All jobs.
const COUNT: Question = Question {
    postgres: "SELECT ((SELECT count(*) FROM presswork.finished_jobs)
        + (SELECT count(*) FROM presswork.jobs))::text",
    sqlite: "SELECT CAST((SELECT count(*) FROM finished_jobs)
        + (SELECT count(*) FROM jobs) AS TEXT)",
};
/// Jobs at work, with their daemon's process.
const AT_WORK: Question = Question {
    postgres: "SELECT w.pid::text, j.id::text, j.epoch::text FROM presswork.jobs j
        JOIN presswork.workers w ON w.run = j.run",
    sqlite: "SELECT CAST(r.pid AS TEXT), hex(j.id), CAST(j.epoch AS TEXT) FROM jobs j
        JOIN runs r ON r.id = j.run",
};
/// Jobs that are held, by whomever, and the number of their lease.
const LEASES: Question = Question {
    postgres: "SELECT id::text, epoch::text FROM presswork.jobs WHERE run IS NOT NULL",
    sqlite: "SELECT hex(id), CAST(epoch AS TEXT) FROM jobs WHERE run IS NOT NULL",
};
/// Jobs that have not ended.
const OPEN: Question = Question {
    postgres: "SELECT count(*)::text FROM presswork.jobs
        WHERE state NOT IN ('dead', 'unresolved')",
    sqlite: "SELECT CAST(count(*) AS TEXT) FROM jobs
        WHERE state NOT IN ('dead', 'unresolved')",
};
/// Jobs that nobody has taken and whose time has come, of a PostgreSQL.
const READY: &str = "SELECT count(*)::text FROM presswork.jobs
    WHERE token IS NULL AND state IN ('scheduled', 'ready', 'retrying')
        AND run_at <= presswork.now()";
/// Jobs whose owners died so often that they are run alone, and have not ended.
const SUSPECTS: Question = Question {
    postgres: "SELECT count(*)::text FROM presswork.jobs
        WHERE 2 < crashes AND state NOT IN ('dead', 'unresolved')",
    sqlite: "SELECT CAST(count(*) AS TEXT) FROM jobs
        WHERE 2 < crashes AND state NOT IN ('dead', 'unresolved')",
};
const JOBS: Question = Question {
    postgres: "SELECT id::text, coalesce(key, ''), kind, state, attempts::text,
            attempts_max::text, crashes::text, epoch::text, failure
        FROM presswork.jobs
        UNION ALL SELECT id::text, coalesce(key, ''), kind, state, attempts::text,
            attempts_max::text, crashes::text, epoch::text, failure
        FROM presswork.finished_jobs",
    sqlite: "SELECT hex(id), coalesce(key, ''), kind, state, CAST(attempts AS TEXT),
            CAST(attempts_max AS TEXT), CAST(crashes AS TEXT), CAST(epoch AS TEXT), failure
        FROM jobs
        UNION ALL SELECT hex(id), coalesce(key, ''), kind, state, CAST(attempts AS TEXT),
            CAST(attempts_max AS TEXT), CAST(crashes AS TEXT), CAST(epoch AS TEXT), failure
        FROM finished_jobs",
};
/// Attempts that are over, oldest first: the job, the epoch, the outcome, the failure.
const ATTEMPTS: Question = Question {
    postgres: "SELECT job, record::json ->> 'epoch', record::json ->> 'outcome',
            (record::json -> 'failure')::text
        FROM (SELECT id::text AS job, n, record
                FROM presswork.finished_jobs, unnest(history) WITH ORDINALITY AS h (record, n)
              UNION ALL SELECT job::text, n, record FROM presswork.attempts) AS every
        ORDER BY job, n",
    sqlite: "SELECT hex(job), CAST(epoch AS TEXT), outcome, failure FROM attempts
        ORDER BY job, epoch",
};
/// Effects: the job, what, class, state, permits, the last one's time in milliseconds.
const EFFECTS: Question = Question {
    postgres: "SELECT job::text, op, class, state, sends::text,
            (extract(epoch FROM permit_at) * 1000)::bigint::text
        FROM presswork.effects ORDER BY job, n",
    sqlite: "SELECT hex(job), op, class, state, CAST(sends AS TEXT),
            CAST(permit_at / 1000 AS TEXT)
        FROM effects ORDER BY job, seq",
};
const QUARANTINE: Question = Question {
    postgres: "SELECT reason || ': ' || message FROM presswork.quarantine",
    sqlite: "SELECT reason || ': ' || message FROM quarantine",
};
type Answer = Vec<Vec<Option<String>>>;

impl Books {
    /// Of a ledger; nothing is opened yet.
    pub fn of(place: Place) -> Self {
        Self {
            place,
            connection: Mutex::new(None),
        }
    }

    async fn open(&self) -> anyhow::Result<Connection> {
        Ok(match &self.place {
            Place::Postgres(url) => Connection::Postgres(PgConnection::connect(url).await?),
            Place::Sqlite(path) => {
                let options = sqlx::sqlite::SqliteConnectOptions::new();
                let options = options.filename(path).busy_timeout(ANSWERED);
                Connection::Sqlite(SqliteConnection::connect_with(&options).await?)
            }
        })
    }

    /// Asks; where a connection that was open already turns out to be broken, once more by a new one.
    async fn ask(&self, question: &Question) -> anyhow::Result<Answer> {
        self.ask_for(question, ANSWERED).await
    }

    async fn ask_for(&self, question: &Question, within: Duration) -> anyhow::Result<Answer> {
        let mut held = self.connection.lock().await;
        if let Some(mut connection) = held.take()
            && let Ok(answer) = asked(&mut connection, question, within).await
        {
            *held = Some(connection);
            return Ok(answer);
        }
        let opened = self.open().await;
        let mut connection = opened.context("the ledger can't be opened")?;
        let answer = asked(&mut connection, question, within).await?;
        *held = Some(connection);
        Ok(answer)
    }

    async fn number(&self, question: &Question) -> anyhow::Result<usize> {
        let answer = self.ask(question).await?;
        let number = answer.first().and_then(|it| it.first()?.as_deref());
        Ok(number.context("no number")?.parse()?)
    }

    /// Jobs that have ended, or wait for a person.
    ///
    /// # Errors
    /// When the ledger doesn't answer.
    pub async fn ended(&self) -> anyhow::Result<usize> {
        self.number(&ENDED).await
    }

    /// All jobs.
    ///
    /// # Errors
    /// When the ledger doesn't answer.
    pub async fn count(&self) -> anyhow::Result<usize> {
        self.number(&COUNT).await
    }

    /// Jobs that have not ended.
    ///
    /// # Errors
    /// When the ledger doesn't answer.
    pub async fn open_jobs(&self) -> anyhow::Result<usize> {
        self.number(&OPEN).await
    }

    /// Jobs that nobody has taken and whose time has come.
    ///
    /// # Errors
    /// When the ledger doesn't answer, or is a SQLite file.
    pub async fn ready(&self) -> anyhow::Result<usize> {
        let question = Question {
            postgres: READY,
            sqlite: "",
        };
        self.number(&question).await
    }

    /// Whether no job is run alone as what may kill its daemon: one more kill might bury it for that.
    pub async fn calm(&self) -> bool {
        self.number(&SUSPECTS).await.is_ok_and(|it| it == 0)
    }

    /// The jobs that a daemon's process is running.
    ///
    /// # Errors
    /// When the ledger doesn't answer.
    pub async fn at_work(&self, pid: u32) -> anyhow::Result<Vec<Held>> {
        let pid = pid.to_string();
        let all = self.ask(&AT_WORK).await?;
        let mine = all.iter().filter(|it| it[0].as_deref() == Some(&*pid));
        mine.map(|it| Ok((text(it, 1), number(it, 2)?))).collect()
    }

    /// The jobs that any daemon holds, alive or dead.
    ///
    /// # Errors
    /// When the ledger doesn't answer.
    pub async fn held(&self) -> anyhow::Result<HashSet<Held>> {
        let all = self.ask(&LEASES).await?;
        let all = all.iter().map(|it| Ok((text(it, 0), number(it, 1)?)));
        all.collect()
    }

    /// Whether none of some jobs is held any more as it was: each was taken back, or has ended.
    pub async fn taken_back(&self, held: &[Held]) -> bool {
        let now = self.held().await;
        now.is_ok_and(|now| !held.iter().any(|it| now.contains(it)))
    }

    /// Makes the clock of a PostgreSQL ledger jump.
    ///
    /// # Errors
    /// When it doesn't answer, or has no clock of its own.
    pub async fn shift(&self, by_ms: i64) -> anyhow::Result<()> {
        let Connection::Postgres(mut connection) = self.open().await? else {
            anyhow::bail!("a SQLite ledger has no clock of its own");
        };
        let sql = "UPDATE presswork.meta SET shift = shift + make_interval(secs => $1)";
        let secs = by_ms as f64 / 1_000.0;
        sqlx::query(sql).bind(secs).execute(&mut connection).await?;
        Ok(())
    }

    /// All that the ledger says of its jobs, and why it quarantined what it did.
    ///
    /// # Errors
    /// When it doesn't answer, or says something strange.
    pub async fn all(&self) -> anyhow::Result<(Vec<Row>, Vec<String>)> {
        let mut rows = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for it in self.ask_for(&JOBS, ALL_ANSWERED).await? {
            let failure = failure(it[8].as_deref());
            places.insert(text(&it, 0), rows.len());
            rows.push(Row {
                id: text(&it, 0),
                key: text(&it, 1),
                kind: text(&it, 2),
                state: text(&it, 3),
                attempts: number(&it, 4)?,
                attempts_max: number(&it, 5)?,
                crashes: number(&it, 6)?,
                epoch: number(&it, 7)?,
                code: failure["code"].as_str().map(str::to_owned),
                history: Vec::new(),
                effects: Vec::new(),
            });
        }
        for it in self.ask_for(&ATTEMPTS, ALL_ANSWERED).await? {
            let failure = failure(it[3].as_deref());
            let past = Past {
                epoch: number(&it, 1)?,
                outcome: text(&it, 2),
                class: failure["class"].as_str().map(str::to_owned),
            };
            let place = places.get(&text(&it, 0));
            let place = place.context("attempts of a job that isn't there")?;
            rows[*place].history.push(past);
        }
        for it in self.ask_for(&EFFECTS, ALL_ANSWERED).await? {
            let effect = EffectRow {
                op: text(&it, 1),
                class: text(&it, 2),
                state: text(&it, 3),
                sends: number(&it, 4)?,
                permit_at: it[5].as_deref().map(str::parse::<Ms>).transpose()?,
            };
            let place = places.get(&text(&it, 0));
            let place = place.context("an effect of a job that isn't there")?;
            rows[*place].effects.push(effect);
        }
        let quarantined = self.ask_for(&QUARANTINE, ALL_ANSWERED).await?;
        let quarantined = quarantined.iter().map(|it| text(it, 0)).collect();
        Ok((rows, quarantined))
    }
}

async fn asked(
    connection: &mut Connection,
    question: &Question,
    within: Duration,
) -> anyhow::Result<Answer> {
    let asked = tokio::time::timeout(within, answer(connection, question)).await;
    let answer = asked.context("the ledger doesn't answer")?;
    answer.context("the ledger can't be read")
}

async fn answer(connection: &mut Connection, question: &Question) -> sqlx::Result<Answer> {
    match connection {
        Connection::Postgres(it) => {
            let rows = sqlx::query(question.postgres).fetch_all(it).await?;
            let row = |it: &sqlx::postgres::PgRow| (0..it.len()).map(|n| it.try_get(n)).collect();
            rows.iter().map(row).collect()
        }
        Connection::Sqlite(it) => {
            let rows = sqlx::query(question.sqlite).fetch_all(it).await?;
            let row = |it: &sqlx::sqlite::SqliteRow| (0..it.len()).map(|n| it.try_get(n)).collect();
            rows.iter().map(row).collect()
        }
    }
}

fn text(row: &[Option<String>], at: usize) -> String {
    row[at].clone().unwrap_or_default()
}

fn number(row: &[Option<String>], at: usize) -> anyhow::Result<u32> {
    let text = row[at].as_deref().context("no number")?;
    text.parse()
        .with_context(|| format!("{text:?} is no number"))
}

fn failure(text: Option<&str>) -> Value {
    serde_json::from_str(text.unwrap_or("null")).unwrap_or_default()
}
