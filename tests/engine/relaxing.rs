//! An account comes back slowly after its platform asked for less: on all hosts together.

use std::time::Duration;

use presswork::budget::Asked;
use presswork::gate::{Cause, Closure, Scope};
use presswork::platform::gate::{Full, Gate as _, Pass};
use tokio_util::task::AbortOnDropHandle;

use crate::probe::kinds;
use crate::rig::{Base, Rig};
use crate::{SOON, kit};

async fn take(host: &Rig, account: &str) -> Result<Pass, Full> {
    let asked = Asked {
        platform: "mastodon",
        app: "",
        account,
        tenant: "default",
        kind: "post.mastodon",
        op: "mastodon.status",
        nearby: true,
        spend: None,
        wanted_at: None,
        pace: None,
    };
    let gate = &host.shared.gate;
    gate.take(&asked, Duration::from_secs(60), Duration::ZERO)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_comes_back_slowly_after_its_platform_asked_for_less() {
    for base in Base::both().await {
        let one = Rig::new(&base, kinds(), |_| {}).await;
        let other = Rig::new(&base, kinds(), |_| {}).await;
        // what is over is told
        let telling = [&one, &other].map(|host| {
            let gate = host.shared.gate.clone();
            AbortOnDropHandle::new(tokio::spawn(async move { gate.run().await }))
        });
        let pass_time = async |s: u64| {
            base.advance(Duration::from_secs(s)).await;
            for host in [&one, &other] {
                host.control.tick().await.unwrap();
            }
        };
        let free: Vec<_> = [take(&one, "ann").await, take(&other, "ann").await].into();
        assert!(free.iter().all(Result::is_ok), "nothing was closed");
        let now = one.shared.now();
        let scope = Scope {
            account: Some("ann".to_owned()),
            ..Scope::default()
        };
        // what nothing went for is told in 32 s, so each number holds for two
        let closure = Closure::new(Cause::Learned, scope, ("presswork", "429"), now)
            .until(now + chrono::Duration::seconds(32));
        base.ledger.close(&closure, false, None).await.unwrap();
        pass_time(1).await;
        pass_time(32).await;
        let first = take(&one, "ann").await.expect("one goes");
        let full = take(&other, "ann")
            .await
            .err()
            .expect("a second one doesn't");
        assert!(
            full.message.contains("comes back slowly"),
            "{}",
            full.message
        );
        drop(take(&other, "bob").await.expect("no other account waits"));
        first.over(true);
        kit::wait::until("the next one goes", SOON, async || {
            take(&other, "ann").await.is_ok()
        })
        .await;
        pass_time(6).await;
        let mut under_way = Vec::new();
        for host in [&one, &other].into_iter().cycle().take(16) {
            under_way.extend(take(host, "ann").await.ok());
        }
        assert!((2..=8).contains(&under_way.len()), "{}", under_way.len());
        pass_time(10).await;
        for host in [&one, &other].into_iter().cycle().take(64) {
            under_way.push(take(host, "ann").await.expect("there is no end any more"));
        }
        drop(telling);
    }
}
