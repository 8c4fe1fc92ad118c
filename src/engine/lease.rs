//! The run's lease: renewed every third of it on a thread, a runtime and connections of its own,
//! so that no handler can starve it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::shared::{Shared, Stop};
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
        }
    }

    /// Starts the thread. It ends when `ended` fires; when the run is declared dead it fires `dead`.
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
                runtime.block_on(async move {
                    loop {
                        let wait = match self.tick().await {
                            Beat::Renewed => self.length / 3,
                            Beat::Missed | Beat::Past => self.length / 12,
                            Beat::Dead => {
                                dead.cancel();
                                return;
                            }
                        };
                        tokio::select! {
                            () = ended.cancelled() => return,
                            () = tokio::time::sleep(wait) => {}
                        }
                    }
                });
            })
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
            Ok(Ok(Some(_))) => {
                self.holds_until = asked + self.length;
                self.told = false;
                self.shared.ledger_up.store(true, Ordering::SeqCst);
                metrics::ledger_up(true);
                metrics::lease_remaining(self.length);
                Beat::Renewed
            }
            Ok(Ok(None)) => {
                tracing::error!("the ledger says that this run is dead: stopping");
                self.shared.running.stop_all(Stop::Lease);
                Beat::Dead
            }
            Ok(Err(e)) => self.missed(&e.to_string()),
            Err(_) => self.missed("no answer in time"),
        }
    }

    fn missed(&mut self, why: &str) -> Beat {
        self.shared.ledger_up.store(false, Ordering::SeqCst);
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
            self.shared.running.stop_all(Stop::Lease);
        }
        Beat::Past
    }
}
