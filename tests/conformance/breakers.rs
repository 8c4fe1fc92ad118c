//! Breakers: where they stand, changed by who knows how they stood.

use presswork::breaker::{Breaker, State};
use presswork::ledger::Standing;

use super::fixture::Fixture;

fn standing(scope: &str, version: i64, breaker: Breaker) -> Standing {
    Standing {
        scope: scope.to_owned(),
        version,
        breaker,
    }
}

pub async fn a_breaker_is_changed_by_who_knows_how_it_stood(f: Fixture) {
    assert_eq!(f.breakers().await.unwrap(), []);
    let now = f.time().await;
    let failed = Breaker {
        failures: vec![now],
        ..Breaker::default()
    };
    let open = Breaker {
        state: State::Open(now),
        cool_down_ms: 30_000,
        ..Breaker::default()
    };
    let (one, other) = ("x at https://api.x.com", "mastodon at https://b.example");
    assert!(
        f.put_breaker(&standing(one, 0, failed.clone()))
            .await
            .unwrap()
    );
    assert!(
        !f.put_breaker(&standing(one, 0, open.clone()))
            .await
            .unwrap()
    );
    assert!(
        !f.put_breaker(&standing(one, 2, open.clone()))
            .await
            .unwrap()
    );
    assert!(
        f.put_breaker(&standing(other, 0, failed.clone()))
            .await
            .unwrap()
    );
    let both = [standing(other, 1, failed.clone()), standing(one, 1, failed)];
    assert_eq!(f.breakers().await.unwrap(), both);
    assert!(
        f.put_breaker(&standing(one, 1, open.clone()))
            .await
            .unwrap()
    );
    assert_eq!(f.breakers().await.unwrap()[1], standing(one, 2, open));
}

pub async fn of_many_at_once_one_changes_a_breaker(f: Fixture) {
    let put = async |n: i64| {
        let mut version = 0;
        let mut lost = 0;
        loop {
            let now = f.time().await;
            let breaker = Breaker {
                failures: vec![now + chrono::Duration::seconds(n)],
                ..Breaker::default()
            };
            if f.put_breaker(&standing("x", version, breaker))
                .await
                .unwrap()
            {
                return lost;
            }
            lost += 1;
            version = f.breakers().await.unwrap()[0].version;
        }
    };
    futures_util::future::join_all((0..8).map(put)).await;
    assert_eq!(f.breakers().await.unwrap()[0].version, 8);
}
