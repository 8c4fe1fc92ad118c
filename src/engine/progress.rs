//! How far running attempts are, kept lazily: the newest of each job, once a second at most.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use crate::context::ProgressSink;
use crate::job::{JobId, Progress};
use crate::ledger::{Ledger, Result};

/// The newest progress of jobs whose lease is `token`.
#[derive(Clone, Default)]
pub struct Progresses {
    newest: Arc<Mutex<HashMap<JobId, (Uuid, Progress)>>>,
}

impl Progresses {
    /// Takes the newest progress of a job under its lease's token.
    pub fn tell(&self, job: JobId, token: Uuid, progress: Progress) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.insert(job, (token, progress));
    }

    /// Writes what is new; what the ledger can't take now is dropped: the next one says more.
    ///
    /// # Errors
    /// When the ledger can't take it.
    pub async fn tick(&self, ledger: &dyn Ledger) -> Result<()> {
        let newest =
            std::mem::take(&mut *self.newest.lock().unwrap_or_else(PoisonError::into_inner));
        if newest.is_empty() {
            return Ok(());
        }
        let batch: Vec<_> = newest
            .into_iter()
            .map(|(id, (token, it))| (id, token, it))
            .collect();
        ledger.progress(&batch).await
    }
}

/// The sink of one attempt.
pub struct Sink<F> {
    /// Where it is kept.
    pub progresses: Progresses,
    /// The lease's token.
    pub token: Uuid,
    /// Who else is told, at once.
    pub told: F,
}

impl<F: Fn(Progress) + Send + Sync> ProgressSink for Sink<F> {
    fn tell(&self, job: JobId, progress: Progress) {
        self.progresses.tell(job, self.token, progress.clone());
        (self.told)(progress);
    }
}
