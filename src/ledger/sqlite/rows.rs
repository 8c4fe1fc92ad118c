//! Many rows in one statement. Each statement is a message to the connection's thread and one back, which cost
//! more than most of what is asked.

use sqlx::AssertSqlSafe;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection};

use super::open::told;
use crate::ledger::door::Result;

/// A statement whose parameters are still bound.
pub type Statement<'q> = Query<'q, Sqlite, SqliteArguments>;

/// How many rows a statement has: few sizes, so that each stays prepared. SQLite takes 32,766 parameters.
const SIZES: [usize; 3] = [128, 16, 1];

/// Inserts `all`: `into` is the statement up to `VALUES`, `columns` the parameters of a row, `bind` binds one
/// row's. `end` follows the rows.
pub async fn insert<'q, T>(
    conn: &mut SqliteConnection,
    (into, columns, end): (&str, usize, &str),
    all: &'q [T],
    bind: impl Fn(Statement<'q>, &'q T) -> Result<Statement<'q>>,
) -> Result<()> {
    let row = format!("({})", vec!["?"; columns].join(", "));
    let mut rest = all;
    for size in SIZES {
        while size <= rest.len() {
            let (now, later) = rest.split_at(size);
            let sql = format!("{into} VALUES {} {end}", vec![&*row; size].join(", "));
            let mut statement = sqlx::query(AssertSqlSafe(sql));
            for it in now {
                statement = bind(statement, it)?;
            }
            statement.execute(&mut *conn).await.map_err(told)?;
            rest = later;
        }
    }
    Ok(())
}
