//! What a daemon does again and again.

use std::future::Future;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::ledger::Result;

/// A round now and every `pause`, for as long as it is polled: of rounds that take longer none is made up
/// for. One that fails (the ledger is away) is told, as `name`'s, to whoever looks closely; the next goes on.
pub async fn rounds<T, F>(pause: Duration, name: &str, round: impl Fn() -> F)
where
    F: Future<Output = Result<T>>,
{
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(e) = round().await {
            tracing::debug!("{name}: {e}");
        }
    }
}
