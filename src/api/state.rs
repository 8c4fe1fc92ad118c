//! What the API stands on.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Mutex, Semaphore};

use super::body::LARGE_AT_ONCE;
use super::guard::Limits;
use super::keyring::Keyring;
use crate::engine::doors::Doors;
use crate::engine::shared::Shared;
use crate::ledger::Ledger;

/// What the API stands on: given from outside.
pub struct State {
    /// The doors that jobs come in by.
    pub doors: Doors,
    /// What the loops of this daemon share.
    pub shared: Arc<Shared>,
    /// A door to the same ledger with connections of its own, so that the API starves no loop.
    pub ledger: Arc<dyn Ledger>,
    /// The tokens that people show, by the same door.
    pub keyring: Arc<Keyring>,
    /// The metrics, as Prometheus reads them.
    pub render: Arc<dyn Fn() -> String + Send + Sync>,
}

/// What the handlers of all requests share.
pub struct Api {
    /// What was given.
    pub given: State,
    /// How much is taken at once.
    pub limits: Limits,
    /// Places for bodies beyond an envelope's size.
    pub large: Semaphore,
    /// Places for call-backs, which anybody may send: so they can't take those of others.
    pub calls: Semaphore,
    /// The last look at the ledger, so that probes can't wear it out.
    pub looked: Mutex<Option<(Instant, Looked)>>,
}

/// What a look at the ledger brought.
#[derive(Clone, Debug, PartialEq)]
pub struct Looked {
    /// It answered.
    pub answers: bool,
    /// Its schema is the one that this program knows.
    pub fits: bool,
    /// This run's lease isn't past.
    pub leased: bool,
}

/// Call-backs that are read at once; more are sent away for a moment.
const CALLS_AT_ONCE: usize = 16;

impl Api {
    /// What the handlers of all requests share.
    pub fn new(given: State, limits: Limits) -> Self {
        Self {
            given,
            limits,
            large: Semaphore::new(LARGE_AT_ONCE),
            calls: Semaphore::new(CALLS_AT_ONCE),
            looked: Mutex::new(None),
        }
    }
}
