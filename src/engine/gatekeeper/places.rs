//! The places that are kept for jobs that were scheduled: read where a long window is asked for, once a
//! second at most for each part of a budget.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as Lock, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use super::asks::{Beside, Want};
use crate::budget::{Kept, Key};
use crate::config::Config;
use crate::handler::Kind;
use crate::ledger::{Ledger, LedgerError};
use crate::operate::askers::askers;

/// What was read counts for so long: what is called off, or done, frees its place by then.
const FRESH: Duration = Duration::from_secs(1);
/// Places of one part of a budget that are looked at: the nearest.
const MOST: u32 = 10_000;
/// Parts that are kept in mind.
const PARTS_MAX: usize = 10_000;

/// Who may have places.
struct Source {
    config: Arc<ArcSwap<Config>>,
    kinds: Arc<[Kind]>,
}

struct Read {
    at: Instant,
    kept: Arc<Kept>,
}

/// The places that are kept.
pub(super) struct Places {
    ledger: Arc<dyn Ledger>,
    source: OnceLock<Source>,
    read: Lock<HashMap<Key, Read>>,
    /// Held by who reads: of many that ask at once, one does.
    turn: Mutex<()>,
}

impl Places {
    pub(super) fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self {
            ledger,
            source: OnceLock::new(),
            read: Lock::default(),
            turn: Mutex::default(),
        }
    }

    /// From now on places are kept, for jobs of these kinds. Said again it changes nothing.
    pub(super) fn begin(&self, config: Arc<ArcSwap<Config>>, kinds: Arc<[Kind]>) {
        self.source.get_or_init(|| Source { config, kinds });
    }

    /// What is kept in what a request wants, one for each; `None`: nothing is, in any of it.
    pub(super) async fn of(&self, wants: &[Want]) -> Result<Option<Beside>, LedgerError> {
        let Some(source) = self.source.get() else {
            return Ok(None);
        };
        if wants.iter().all(|it| it.keeps.is_none()) {
            return Ok(None);
        }
        let mut all = Vec::with_capacity(wants.len());
        for want in wants {
            let kept = match want.keeps {
                Some(_) => self.one(source, want).await?,
                None => Arc::default(),
            };
            all.push(kept);
        }
        let some = all.iter().any(|it| !it.is_empty());
        Ok(some.then_some(all))
    }

    fn known(&self, key: &Key) -> Option<Arc<Kept>> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let it = read.get(key).filter(|it| it.at.elapsed() < FRESH)?;
        Some(it.kept.clone())
    }

    async fn one(&self, source: &Source, want: &Want) -> Result<Arc<Kept>, LedgerError> {
        if let Some(kept) = self.known(&want.key) {
            return Ok(kept);
        }
        let _turn = self.turn.lock().await;
        if let Some(kept) = self.known(&want.key) {
            return Ok(kept);
        }
        let at = Instant::now();
        let kept = Arc::new(self.look(source, want).await?);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if PARTS_MAX < read.len() {
            read.retain(|_, it| it.at.elapsed() < FRESH);
        }
        let it = Read {
            at,
            kept: kept.clone(),
        };
        read.insert(want.key.clone(), it);
        Ok(kept)
    }

    async fn look(&self, source: &Source, want: &Want) -> Result<Kept, LedgerError> {
        let Some(budget) = &want.keeps else {
            return Ok(Kept::default());
        };
        let config = source.config.load_full();
        let Some(askers) = askers(budget, &want.key.whose, &config, &source.kinds) else {
            return Ok(Kept::default());
        };
        let ahead = want.form.looks_ahead().to_std().unwrap_or_default();
        let places = want.form.places(want.amount);
        let most = u32::try_from(places).unwrap_or(MOST).min(MOST);
        let planned = self.ledger.planned(&askers, ahead, most).await?;
        Ok(Kept::of(want.amount, planned.iter().map(|it| it.at)))
    }
}
