//! What a test may set about the simulated platforms beyond their faults: `POST /_sandbox/settings`.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::acts::held;

/// The values, by the names in the request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Values {
    /// How long X refuses the same text of the same account, in seconds; 0 switches the filter off.
    pub(super) x_duplicate_window_s: u32,
    /// Posts of an Instagram account within 24 hours.
    pub(super) instagram_quota: u32,
    /// How often a look at an Instagram container with a video still finds it in progress.
    pub(super) instagram_looks: u32,
}

impl Default for Values {
    fn default() -> Values {
        Values {
            x_duplicate_window_s: 86_400,
            // far above the real 100, so that a load test passes
            instagram_quota: 30_000,
            instagram_looks: 1,
        }
    }
}

/// The values of one sandbox.
#[derive(Debug, Default)]
pub(super) struct Settings(Mutex<Values>);

impl Settings {
    /// The values as they are.
    pub(super) fn now(&self) -> Values {
        *held(&self.0)
    }

    /// Sets them all: what a request doesn't name goes back to its default.
    pub(super) fn set(&self, values: Values) {
        *held(&self.0) = values;
    }
}
