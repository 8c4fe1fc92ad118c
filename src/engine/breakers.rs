//! The breakers as this host knows them: changed by compare-and-set at the ledger, and only by what
//! concerns them. While all is well nothing is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use crate::breaker::{Action, Breaker, Event, Settings, advance};
use crate::clock::Time;
use crate::ledger::{Ledger, LedgerError, Result, Standing};

/// Other hosts may be faster so often in a row.
const TRIES: usize = 10;

/// The breakers that ever counted a failure.
#[derive(Default)]
pub struct Breakers {
    known: ArcSwap<BTreeMap<String, Standing>>,
    turn: Mutex<()>,
}

impl Breakers {
    /// Reads them anew.
    ///
    /// # Errors
    /// When the ledger is away.
    pub async fn refresh(&self, ledger: &dyn Ledger) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.read(ledger).await
    }

    async fn read(&self, ledger: &dyn Ledger) -> Result<()> {
        let all = ledger.breakers().await?;
        let all = all.into_iter().map(|it| (it.scope.clone(), it)).collect();
        if **self.known.load() != all {
            self.known.store(Arc::new(all));
        }
        Ok(())
    }

    /// Whose breakers are open or half-open.
    pub fn shut(&self) -> Vec<String> {
        let known = self.known.load();
        let all = known.values();
        let shut = all.filter(|it| it.breaker.shut_until().is_some());
        shut.map(|it| it.scope.clone()).collect()
    }

    /// How one stands, as this host knows it.
    pub fn get(&self, scope: &str) -> Breaker {
        let known = self.known.load();
        let breaker = known.get(scope).map(|it| it.breaker.clone());
        breaker.unwrap_or_default()
    }

    /// Tells a breaker what happened. How it stands after that, and what follows: each action is told to
    /// one host only.
    ///
    /// # Errors
    /// When the ledger is away, or others change the same breaker again and again.
    pub async fn happened(
        &self,
        ledger: &dyn Ledger,
        scope: &str,
        event: Event,
        (now, settings): (Time, &Settings),
    ) -> Result<(Breaker, Vec<Action>)> {
        let _turn = self.turn.lock().await;
        for _ in 0..TRIES {
            let standing = self.known.load().get(scope).cloned();
            let (version, breaker) =
                standing.map_or_else(|| (0, Breaker::default()), |it| (it.version, it.breaker));
            let (next, actions) = advance(&breaker, event, now, settings);
            if next == breaker {
                return Ok((next, actions));
            }
            let it = Standing {
                scope: scope.to_owned(),
                version,
                breaker: next.clone(),
            };
            if ledger.put_breaker(&it).await? {
                let mut known = BTreeMap::clone(&self.known.load());
                let version = version + 1;
                known.insert(scope.to_owned(), Standing { version, ..it });
                self.known.store(Arc::new(known));
                return Ok((next, actions));
            }
            self.read(ledger).await?;
        }
        Err(LedgerError::Away(format!(
            "the breaker of {scope} is changed by others again and again"
        )))
    }
}
