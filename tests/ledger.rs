//! The ledger's conformance suite: every implementation keeps the same contract, case by case.

#[macro_use]
mod conformance;
mod kit;

/// The ledger in a SQLite file.
mod sqlite {
    use std::sync::Arc;

    use presswork::clock::Clock;
    use presswork::ledger::{Ledger, sqlite::Sqlite};

    use crate::conformance::Fixture;

    async fn store() -> Fixture {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let clock = Clock::manual(Clock::System.now());
        let ledger = Sqlite::open(&folder.path().join("ledger.sqlite"), clock.clone())
            .await
            .expect("a new file can be opened");
        ledger.migrate().await.expect("an empty file is migrated");
        let shift = move |seconds| -> futures_util::future::BoxFuture<'static, ()> {
            clock.advance(chrono::Duration::seconds(seconds));
            Box::pin(async {})
        };
        Fixture::new(Arc::new(ledger), Box::new(shift), Box::new(folder))
    }

    conformance!(store);
}

/// The ledger in PostgreSQL: a database of its own for each case.
mod postgres {
    use std::sync::Arc;

    use futures_util::future::BoxFuture;
    use presswork::ledger::Ledger;
    use presswork::ledger::postgres::{PgOptions, Postgres, Role};
    use sqlx::{Connection, PgConnection};

    use crate::conformance::Fixture;
    use crate::kit;

    async fn shift(url: String, seconds: i64) {
        let mut connection = PgConnection::connect(&url).await.expect("it connects");
        sqlx::query("UPDATE presswork.meta SET shift = shift + $1 * interval '1 second'")
            .bind(seconds)
            .execute(&mut connection)
            .await
            .expect("the clock is moved");
        connection.close().await.expect("the connection closes");
    }

    async fn store() -> Fixture {
        let url = kit::postgres::Postgres::shared().create_database().await;
        let ledger = Postgres::open(&url.as_str().into(), PgOptions::new(Role::Ledger))
            .expect("the kit's URLs can be read");
        ledger
            .migrate()
            .await
            .expect("an empty database is migrated");
        let shift =
            move |seconds| -> BoxFuture<'static, ()> { Box::pin(shift(url.clone(), seconds)) };
        Fixture::new(Arc::new(ledger), Box::new(shift), Box::new(()))
    }

    conformance!(store);
}
