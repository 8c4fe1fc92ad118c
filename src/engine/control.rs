//! Control: what people changed is noticed within a second; progress is kept; wake-ups of other
//! hosts are passed on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::rounds::rounds;
use super::shared::Shared;
use super::{accounts, scopes};
use crate::context::Stop;
use crate::gate::Cause;
use crate::ledger::Result;
use crate::queue::Woken;

/// How often the ledger is asked what people changed: with the time that a dispatcher or the relay
/// takes to look, far below the second that is promised.
const EVERY: Duration = Duration::from_millis(200);
/// How often it is asked what people changed of budgets: with what that takes, below the second that is
/// promised.
const BUDGETS_EVERY: Duration = Duration::from_millis(500);
/// How often progress is kept.
const KEEP_EVERY: Duration = Duration::from_millis(300);

/// The control loop of a daemon.
pub struct Control {
    shared: Arc<Shared>,
}

impl Control {
    /// The control loop.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Ticks until the daemon has ended.
    pub async fn run(&self) {
        rounds(EVERY, "control", || self.tick()).await;
    }

    /// One round.
    ///
    /// # Errors
    /// When the ledger is away.
    pub async fn tick(&self) -> Result<()> {
        let control = self.shared.ledger.control(self.shared.run_id()).await?;
        self.shared.live.store(control.live, Ordering::Relaxed);
        for id in control.cancels {
            self.shared.running.stop(id, Stop::Cancelled);
        }
        scopes::quiet(&self.shared, &control.closures);
        self.shared.gate.relax(&control.closures, self.shared.now());
        let paused: BTreeSet<String> = control.paused.into_iter().collect();
        if **self.shared.paused.load() != paused {
            tracing::info!(paused = ?paused, "lanes paused");
            self.shared.paused.store(Arc::new(paused));
            self.shared.dispatch.all();
        }
        // what goes on since its credentials were renewed goes on with those
        if self
            .shared
            .shut
            .lets_go(Cause::Credentials, &control.closures)
        {
            accounts::learn(&self.shared).await?;
        }
        self.shared.learn_closures(control.closures);
        Ok(())
    }

    /// Learns what people changed of budgets, until the daemon has ended.
    pub async fn learn_budgets(&self) {
        rounds(BUDGETS_EVERY, "changes of budgets", || async {
            if self.shared.gate.learn(self.shared.now()).await? {
                self.shared.open_budgets();
            }
            Ok(())
        })
        .await;
    }

    /// Keeps progress until the daemon has ended: a loop of its own, so that no cancel waits for it.
    pub async fn keep_progress(&self) {
        rounds(KEEP_EVERY, "progress", || {
            self.shared.progress.tick(&*self.shared.ledger)
        })
        .await;
    }

    /// Passes wake-ups of other hosts on, until the daemon has ended.
    pub async fn listen(&self) {
        loop {
            match self.shared.queue.woken().await {
                Woken::All => self.shared.dispatch.all(),
                Woken::Lanes(lanes) => lanes.iter().for_each(|it| self.shared.dispatch.lane(it)),
            }
            // a queue that answers at once, without a reason, mustn't make this spin
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
