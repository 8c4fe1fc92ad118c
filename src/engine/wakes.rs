//! What wakes the dispatchers: each lane has a bell of its own, so that what happens in one lane makes
//! no other one look.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The bells of the lanes. A lane has one from when it is first named.
#[derive(Default)]
pub struct Wakes(Mutex<HashMap<String, Arc<Notify>>>);

impl Wakes {
    /// The bell of a lane, for its dispatcher to wait at.
    pub fn of(&self, lane: &str) -> Arc<Notify> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = lanes.get(lane) {
            return bell.clone();
        }
        lanes.entry(lane.to_owned()).or_default().clone()
    }

    /// There may be something to take in a lane, or a slot is free.
    pub fn lane(&self, lane: &str) {
        let lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = lanes.get(lane) {
            bell.notify_waiters();
        }
    }

    /// Something changed that concerns all lanes.
    pub fn all(&self) {
        let lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for bell in lanes.values() {
            bell.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::sync::futures::OwnedNotified;

    use super::*;

    #[test]
    fn a_lane_is_woken_by_its_own_bell_and_by_all() {
        let wakes = Wakes::default();
        let waits = |lane: &str| {
            let mut waiting = Box::pin(wakes.of(lane).notified_owned());
            assert!(!waiting.as_mut().enable());
            waiting
        };
        let woken = |it: &mut std::pin::Pin<Box<OwnedNotified>>| it.now_or_never().is_some();
        let (mut here, mut there) = (waits("one"), waits("other"));
        wakes.lane("one");
        wakes.lane("unheard of");
        assert!(woken(&mut here) && !woken(&mut there));
        let mut here = waits("one");
        wakes.all();
        assert!(woken(&mut here) && woken(&mut there));
    }
}
