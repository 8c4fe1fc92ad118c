//! The ledger's conformance suite: every implementation keeps the same contract, case by case.

#[macro_use]
mod conformance;

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
