//! What may be said of turns: weights, and how long priority may make others wait.

use super::shape::{Key, Section, int};

/// The wait of a lane that says none, in seconds.
pub(super) const WAITS_AT_MOST_S: u64 = 600;

/// Of tenants and accounts: their share.
pub(super) const WEIGHT: Key = int(
    "weight",
    (
        1,
        ", because who has no turn waits for ever; to stop somebody, `presswork stop`",
    ),
    (
        100,
        ", because beside a larger one all others seem to stand still",
    ),
    Some(1),
);

/// Of lanes: how long higher priorities may go first.
pub(super) const WAITS_AT_MOST: Key = int(
    "waits_at_most_s",
    (
        1,
        ", because otherwise high, normal and low would be the same",
    ),
    (
        31_536_000,
        " (a year), because a job that waits longer was forgotten",
    ),
    Some(WAITS_AT_MOST_S),
);

/// What may be said of a tenant.
pub(super) const TENANTS: Section = Section {
    name: "tenants",
    by_name: true,
    overlay: false,
    keys: &[WEIGHT],
};
