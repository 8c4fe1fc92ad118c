//! Accounts that come back after a limit that their platform told of.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::asks::Want;
use crate::budget::{Form, Key, RELAXING, relaxed};
use crate::clock::Time;
use crate::gate::{Cause, Closure};

/// What is known of them.
#[derive(Default)]
pub(super) struct Relaxing {
    /// From when until when nothing of an account went, by the ledger's time.
    limits: Mutex<HashMap<String, (Time, Time)>>,
    /// How many requests of an account may be under way now.
    most: ArcSwap<HashMap<String, u64>>,
}

impl Relaxing {
    /// What is closed now.
    pub(super) fn told(&self, closures: &[Closure], now: Time) {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        for it in closures.iter().filter(|it| it.cause == Cause::Learned) {
            if let (Some(account), Some(until)) = (&it.scope.account, it.until) {
                limits.insert(account.clone(), (it.since, until));
            }
        }
        limits.retain(|_, it| relaxed(*it, now).is_some());
        let most: HashMap<String, u64> = limits
            .iter()
            .filter_map(|(account, it)| Some((account.clone(), relaxed(*it, now)?)))
            .collect();
        if most != **self.most.load() {
            self.most.store(Arc::new(most));
        }
    }

    /// What a request wants, and its account's turn where that comes back.
    pub(super) fn beside(&self, wants: Arc<[Want]>, account: &str) -> Arc<[Want]> {
        let Some(most) = self.most.load().get(account).copied() else {
            return wants;
        };
        let turn = Want {
            key: Key {
                name: RELAXING.to_owned(),
                whose: account.to_owned(),
            },
            form: Form::Concurrency { most },
            amount: 1,
            spend: None,
            keeps: None,
        };
        wants.iter().cloned().chain([turn]).collect()
    }
}
