//! A role's connections, and how a statement runs on one: straight, or in a transaction of its own.
//!
//! Behind PgBouncer in transaction mode, what isn't in a transaction may reach another server with each
//! message; and the driver sends a statement in two (parse, then bind). So each statement has a
//! transaction there, and its opening says what is otherwise said to a connection: that would outlive
//! our use of it. The answer is given when it is committed.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use sqlx::error::BoxDynError;
use sqlx::postgres::{
    PgArguments, PgConnection, PgPool, PgQueryResult, PgRow, PgStatement, PgTypeInfo, Postgres,
};
use sqlx::{AssertSqlSafe, Connection, Either, Execute, Executor, SqlStr, Transaction};

/// How a transaction begins.
#[derive(Clone, Debug)]
pub struct Opening {
    sql: Arc<str>,
    bounced: bool,
}

impl Opening {
    /// Begins a transaction.
    ///
    /// # Errors
    /// Those of the driver.
    pub async fn begin<'c>(&self, connection: &'c mut PgConnection) -> sqlx::Result<Opened<'c>> {
        let sql = AssertSqlSafe(self.sql.to_string());
        Ok(Opened {
            transaction: connection.begin_with(sql).await?,
            bounced: self.bounced,
        })
    }

    /// For a statement on this connection, in a transaction of its own.
    pub fn alone<'c>(&self, connection: &'c mut PgConnection) -> Alone<'c> {
        Alone {
            connection,
            opening: self.clone(),
        }
    }
}

/// A transaction that has begun. Dropped, it is rolled back.
pub struct Opened<'c> {
    transaction: Transaction<'c, Postgres>,
    bounced: bool,
}

impl Opened<'_> {
    /// For a statement of it.
    pub fn on(&mut self) -> Within<'_> {
        Within {
            connection: &mut self.transaction,
            bounced: self.bounced,
        }
    }

    /// # Errors
    /// Those of the driver.
    pub async fn commit(self) -> sqlx::Result<()> {
        self.transaction.commit().await
    }

    /// # Errors
    /// Those of the driver.
    pub async fn rollback(self) -> sqlx::Result<()> {
        self.transaction.rollback().await
    }
}

/// A statement that is prepared without a name: PgBouncer's server may know one of that name from
/// somebody else. (The driver gives names also where it keeps none.)
struct Nameless<E>(E);

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Nameless<E> {
    fn sql(self) -> SqlStr {
        self.0.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.0.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}

/// The connections of a role.
#[derive(Debug)]
pub struct Connections {
    pool: PgPool,
    opening: Opening,
}

impl Connections {
    /// Of a server itself: its connections have their settings.
    pub fn straight(pool: PgPool) -> Self {
        Self {
            pool,
            opening: Opening {
                sql: "BEGIN".into(),
                bounced: false,
            },
        }
    }

    /// Of PgBouncer: each transaction is told the settings, names and values that need no quotes within.
    pub fn bounced(pool: PgPool, settings: impl Iterator<Item = (&'static str, String)>) -> Self {
        let mut opening = "BEGIN".to_owned();
        for (name, value) in settings {
            // a list has a quote around each of its names, or around none
            let value = match name {
                "search_path" => value,
                _ => format!("'{value}'"),
            };
            opening.push_str(&format!("; SET LOCAL {name} = {value}"));
        }
        Self {
            pool,
            opening: Opening {
                sql: opening.into(),
                bounced: true,
            },
        }
    }

    /// How a transaction on one of them begins.
    pub fn opening(&self) -> Opening {
        self.opening.clone()
    }

    /// What gives the connections.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Closes all of them.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A statement's use of a transaction.
#[derive(Debug)]
pub struct Within<'c> {
    connection: &'c mut PgConnection,
    bounced: bool,
}

/// One statement's use of a connection.
#[derive(Debug)]
pub struct Alone<'c> {
    connection: &'c mut PgConnection,
    opening: Opening,
}

type Step = Either<PgQueryResult, PgRow>;

impl<'p> Executor<'p> for &'p Connections {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Step>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if !self.opening.bounced {
            return self.pool.fetch_many(query);
        }
        let all = async move {
            let mut connection = self.pool.acquire().await?;
            let alone = self.opening.alone(&mut connection);
            let all: Vec<Step> = alone.fetch_many(query).try_collect().await?;
            Ok::<_, sqlx::Error>(stream::iter(all).map(Ok))
        };
        stream::once(all).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if !self.opening.bounced {
            return self.pool.fetch_optional(query);
        }
        Box::pin(async move {
            let mut connection = self.pool.acquire().await?;
            let alone = self.opening.alone(&mut connection);
            alone.fetch_optional(query).await
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'p: 'e,
    {
        self.pool.prepare_with(sql, parameters)
    }
}

impl<'c> Executor<'c> for Alone<'c> {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Step>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let all = async move {
            let mut transaction = self.opening.begin(self.connection).await?;
            let all: Vec<Step> = transaction.on().fetch_many(query).try_collect().await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>(stream::iter(all).map(Ok))
        };
        stream::once(all).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            let mut transaction = self.opening.begin(self.connection).await?;
            let row = transaction.on().fetch_optional(query).await?;
            transaction.commit().await?;
            Ok(row)
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        self.connection.prepare_with(sql, parameters)
    }
}

impl<'c> Executor<'c> for Within<'c> {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Step>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        match self.bounced {
            true => self.connection.fetch_many(Nameless(query)),
            false => self.connection.fetch_many(query),
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        match self.bounced {
            true => self.connection.fetch_optional(Nameless(query)),
            false => self.connection.fetch_optional(query),
        }
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        self.connection.prepare_with(sql, parameters)
    }
}
