//! What the API stands on.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::Request;
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, Semaphore};

use super::body::{self, LARGE_AT_ONCE};
use super::guard::Limits;
use super::keyring::Keyring;
use super::problem::Problem;
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

/// The largest body of a person's word, in bytes.
const WORD_MAX: usize = 8 * 1024;

impl Api {
    /// A person's word: a small body of JSON. `form` tells what to send instead.
    ///
    /// # Errors
    /// It is no JSON, too large, too slow, or not of that form.
    pub async fn word<T: DeserializeOwned>(
        &self,
        request: Request,
        form: &str,
    ) -> Result<T, Problem> {
        let (head, body) = request.into_parts();
        body::check_type(&head.headers)?;
        let within = self.limits.body;
        let read = body::read(&head.headers, body, WORD_MAX, within, &self.large).await?;
        serde_json::from_slice(&read.bytes).map_err(|e| Problem::bad(format!("send {form}: {e}")))
    }

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
