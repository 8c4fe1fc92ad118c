//! The run's lease: renewed every third of it on a thread, a runtime and connections of its own,
//! so that no handler can starve it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::clock::Time;
use crate::context::Stop;
use crate::ledger::Ledger;
use crate::telemetry::metrics;

/// Before the lease ends by this host's own clock, by this part of it, handlers are told to stop.
const MARGIN: u32 = 5;

/// The heartbeat of a run.
pub struct Lease {
    shared: Arc<Shared>,
    ledger: Arc<dyn Ledger>,
    length: Duration,
    /// When the lease certainly still holds until: measured from before the request.
    holds_until: Instant,
    told: bool,
    /// The last beat was missed.
    is_late: bool,
    /// How far the ledger's clock is ahead, in microseconds, as the beats have shown so far.
    skew: Option<i64>,
}

/// What a beat brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The lease is renewed.
    Renewed,
    /// The ledger didn't answer; the lease still holds for a while.
    Missed,
    /// The lease is past: everything that ran was told to stop.
    Past,
    /// The ledger says this run is dead: the daemon must end.
    Dead,
}

impl Lease {
    /// The heartbeat of a run that began just now, over a ledger door of its own.
    pub fn new(shared: Arc<Shared>, ledger: Arc<dyn Ledger>, began: Instant) -> Self {
        let length = shared.config.load().lease;
        Self {
            shared,
            ledger,
            length,
            holds_until: began + length,
            told: false,
            is_late: false,
            skew: None,
        }
    }

    /// Starts the thread. It ends when `ended` fires; when it ends otherwise (the run is declared dead,
    /// or it panics) it fires `dead`: without a beat others take over what runs here.
    ///
    /// # Errors
    /// When the thread or its runtime can't be started.
    pub fn start(
        mut self,
        ended: CancellationToken,
        dead: CancellationToken,
    ) -> std::io::Result<std::thread::JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("lease".to_owned())
            .spawn(move || {
                // also by a panic: a daemon without a heartbeat has no business going on
                let dead = dead.drop_guard();
                let shared = self.shared.clone();
                runtime.block_on(async move {
                    tokio::select! {
                        () = shared.lease_pulse.keep() => {}
                        () = self.beats() => {}
                        () = ended.cancelled() => {
                            dead.disarm();
                        }
                    }
                    shared.lease_pulse.rest();
                });
            })
    }

    /// Beats until the run is declared dead.
    async fn beats(&mut self) {
        loop {
            let wait = match self.tick().await {
                Beat::Renewed => self.length / 3,
                Beat::Missed | Beat::Past => self.length / 12,
                Beat::Dead => return,
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// One beat: names the jobs held here, renews, and tells handlers to stop when it can't.
    pub async fn tick(&mut self) -> Beat {
        let asked = Instant::now();
        let jobs = self.shared.running.ids();
        let beat = tokio::time::timeout(
            self.length / 4,
            self.ledger.beat(self.shared.run_id(), &jobs, self.length),
        )
        .await;
        match beat {
            Ok(Ok(Some(until))) => {
                self.renewed(until, asked);
                self.told = false;
                self.shared.ledger_up.store(true, Ordering::SeqCst);
                metrics::ledger_up(true);
                metrics::lease_remaining(self.length);
                Beat::Renewed
            }
            Ok(Ok(None)) => {
                tracing::error!("the ledger says that this run is dead: stopping");
                self.shared.running.stop_all(Stop::LeaseLost);
                Beat::Dead
            }
            Ok(Err(e)) => self.missed(&e.to_string()),
            Err(_) => self.missed("no answer in time"),
        }
    }

    fn renewed(&mut self, until: Time, asked: Instant) {
        self.holds_until = asked + self.length;
        // the beat was written somewhere between the request and the answer
        let length = chrono::Duration::from_std(self.length).unwrap_or_default();
        let least = (until - length) - self.shared.clock.now();
        let least = least.num_microseconds().unwrap_or(0);
        let took = i64::try_from(asked.elapsed().as_micros()).unwrap_or(0);
        let skew = narrowed(self.skew, least, took);
        self.skew = Some(skew);
        self.shared.skew.store(skew, Ordering::Relaxed);
        if self.is_late {
            self.is_late = false;
            self.brake();
        }
    }

    /// Whoever couldn't reach the ledger either needs a moment to renew before anything is reclaimed.
    fn brake(&self) {
        let brake = self.shared.brake.lock();
        *brake.unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + self.length / 2);
    }

    fn missed(&mut self, why: &str) -> Beat {
        self.shared.ledger_up.store(false, Ordering::SeqCst);
        self.is_late = true;
        self.brake();
        let left = self.holds_until.saturating_duration_since(Instant::now());
        metrics::ledger_up(false);
        metrics::lease_remaining(left);
        tracing::warn!(
            left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            "heartbeat: {why}"
        );
        if self.length / MARGIN < left {
            return Beat::Missed;
        }
        if !self.told {
            self.told = true;
            tracing::error!(
                "the lease couldn't be renewed: running jobs are told to stop, at no charge"
            );
            self.shared.running.stop_all(Stop::LeaseLost);
        }
        Beat::Past
    }
}

/// How far the ledger's clock is ahead, in microseconds: a beat shows that it is at least `least`, and at
/// most as long more as the beat `took`. A slow beat, which shows little, doesn't undo what a quick one has
/// shown.
fn narrowed(known: Option<i64>, least: i64, took: i64) -> i64 {
    let most = least.saturating_add(took.max(0));
    known.map_or(least + took.max(0) / 2, |it| it.clamp(least, most))
}

#[cfg(test)]
mod tests {
    use super::narrowed;

    #[test]
    fn a_quick_beat_shows_the_skew_and_a_slow_one_leaves_it() {
        // the clocks agree; a first beat of 40 ms, read at its end, lets half of that be thought
        let first = narrowed(None, 0, 40_000);
        assert_eq!(first, 20_000);
        let quick = narrowed(Some(first), -700, 1_000);
        assert_eq!(quick, 300);
        assert_eq!(narrowed(Some(quick), -90_000, 100_000), 300);
        // a clock was set
        assert_eq!(narrowed(Some(quick), 59_999_500, 1_000), 59_999_500);
        assert_eq!(narrowed(Some(quick), -60_000_500, 1_000), -59_999_500);
    }
}
