//! What the service manager is told (`sd_notify(3)`): ready, reloading, stopping, how it stands, and
//! that the daemon isn't stuck. Where nobody asked (`NOTIFY_SOCKET` isn't set), nothing happens.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::engine::pulse::Pulse;
use crate::engine::shared::Shared;

/// A state may be extended by so much at a time; told every third of it.
const EXTENSION: Duration = Duration::from_secs(15);
/// How often the manager is told how the daemon stands.
pub const STATUS_EVERY: Duration = Duration::from_secs(5);

fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::debug!("the service manager wasn't told: {e}");
    }
}

/// It takes jobs from now on.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// How it stands, in a line.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// The configuration is read anew; [`ready`] ends it, whether it was good or not.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(e) => tracing::debug!("no monotonic clock: {e}"),
    }
}

/// It stops.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Does something that may take longer than the manager waits for a start or a stop: asks it for
/// more time again and again, for `most` in all. A runtime that is stuck asks for nothing.
pub async fn patiently<T>(most: Duration, act: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let mut every = tokio::time::interval(EXTENSION / 3);
    let extension = u32::try_from(EXTENSION.as_micros()).unwrap_or(u32::MAX);
    tokio::pin!(act);
    loop {
        tokio::select! {
            it = &mut act => return it,
            _ = every.tick(), if began.elapsed() < most => {
                tell(&[NotifyState::ExtendTimeoutUsec(extension)]);
            }
        }
    }
}

/// Tells the manager that the daemon lives for as long as neither the heartbeat's thread nor the
/// runtime is stuck; not that a store answers, which a restart wouldn't mend. The manager's
/// `WatchdogSec` (with its `TimeoutAbortSec`) must be shorter than the lease, so that what is stuck
/// is dead before another daemon takes its jobs.
///
/// # Errors
/// When the thread can't be started.
pub fn watch(shared: Arc<Shared>) -> std::io::Result<()> {
    let Some(within) = sd_notify::watchdog_enabled() else {
        return Ok(());
    };
    let lease = shared.config.load().lease;
    if lease <= within {
        tracing::warn!(
            lease_s = lease.as_secs(),
            watchdog_s = within.as_secs(),
            "the service's WatchdogSec isn't shorter than daemon.lease_s: a daemon that is stuck may \
             still be there when another one takes its jobs (they are fenced all the same)"
        );
    }
    let runtime = Arc::new(Pulse::default());
    let kept = runtime.clone();
    tokio::spawn(async move { kept.keep().await });
    std::thread::Builder::new()
        .name("watchdog".to_owned())
        .spawn(move || {
            let mut stuck = false;
            loop {
                std::thread::sleep(within / 4);
                let late = [("heartbeat", &shared.lease_pulse), ("runtime", &*runtime)]
                    .into_iter()
                    .find(|(_, it)| within / 2 < it.age());
                match late {
                    None => tell(&[NotifyState::Watchdog]),
                    Some((part, pulse)) if !stuck => tracing::error!(
                        "the {part} hasn't moved for {:?}: the service manager isn't told that the \
                         daemon lives, and will end it",
                        pulse.age()
                    ),
                    Some(_) => {}
                }
                stuck = late.is_some();
            }
        })?;
    Ok(())
}
