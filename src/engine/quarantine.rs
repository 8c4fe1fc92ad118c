//! The quarantine's keeper: what waits there only because no daemon knew its kind is taken as soon as
//! one does, by the same call as a person's `quarantine release`.

use std::sync::Arc;
use std::time::Duration;

use super::doors::Doors;
use super::shared::Shared;
use crate::ledger::Result;
use crate::operate::{By, Known, release_known};

/// How often it looks: while daemons are exchanged one by one, the old ones still put entries there.
const EVERY: Duration = Duration::from_secs(60);
/// Entries of one batch.
const MOST: u32 = 100;

/// The quarantine's keeper of a daemon.
pub struct Quarantine {
    shared: Arc<Shared>,
    doors: Doors,
}

impl Quarantine {
    /// The keeper. `doors` have the bound on the backlog.
    pub fn new(shared: Arc<Shared>, doors: Doors) -> Self {
        Self { shared, doors }
    }

    /// Looks at the start, and now and then until the daemon drains.
    pub async fn run(&self) {
        while !self.shared.draining.is_cancelled() {
            if let Err(e) = self.tick().await {
                tracing::warn!("quarantine: {e}");
            }
            tokio::select! {
                () = self.shared.draining.cancelled() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// One round: batch after batch until nothing is left that moves, the backlog is at its bound, or
    /// the daemon drains.
    ///
    /// # Errors
    /// When the ledger is away; the next round goes on.
    pub async fn tick(&self) -> Result<Known> {
        let by = By {
            actor: format!("daemon on {}", self.shared.run.host),
            reason: "its kind is known by now".to_owned(),
        };
        let mut all = Known::default();
        while !self.doors.is_full() && !self.shared.draining.is_cancelled() {
            let rules = self.shared.rules();
            let known = release_known(&*self.shared.ledger, &rules, MOST, &by).await?;
            let moved = known.accepted + known.refused;
            if moved == 0 {
                break;
            }
            self.doors.released(known.accepted as u64);
            self.shared.relay.notify_one();
            tracing::info!(
                accepted = known.accepted,
                still_refused = known.refused,
                "quarantine: entries whose kind is known by now"
            );
            all.accepted += known.accepted;
            all.refused += known.refused;
        }
        Ok(all)
    }
}
