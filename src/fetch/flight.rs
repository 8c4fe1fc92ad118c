//! Single flight: who needs the same at the same time waits for one call, together.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, Weak};

use crate::sync::{Mutex, OnceCell};

/// The calls that are under way, by what they are for.
pub struct Flights<K, T> {
    flights: Mutex<HashMap<K, Weak<OnceCell<T>>>>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self {
            flights: Mutex::default(),
        }
    }
}

impl<K: Copy + Eq + Hash, T: Clone> Flights<K, T> {
    /// What the call for `key` led to: of the one that is under way, or of `call`, which is begun now.
    /// When who makes it goes away, it is dropped, and the next of those that wait makes its own.
    pub async fn get<F: Future<Output = T>>(&self, key: K, call: impl FnOnce() -> F) -> T {
        let flight = self.join(key);
        flight.get_or_init(call).await.clone()
    }

    fn join(&self, key: K) -> Arc<OnceCell<T>> {
        // what is in it is whole, whoever panicked
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // one that has ended is over, even while some of those that waited haven't looked yet: what it
        // led to (an error, say) may be older than the question
        if let Some(it) = flights.get(&key).and_then(Weak::upgrade)
            && !it.initialized()
        {
            return it;
        }
        flights.retain(|_, it| 0 < it.strong_count());
        let flight = Arc::new(OnceCell::new());
        flights.insert(key, Arc::downgrade(&flight));
        flight
    }
}
