//! What may be said of jobs that come late: each key's type, bounds, default and why.

use super::shape::{Key, Section, Shape, int, key};
use crate::lateness::AFTER_MAX_S;

const DAY_S: u64 = 86_400;

/// Of a kind: what becomes of its jobs that come late.
pub(super) const LATE: Key = key(
    "late",
    Shape::Word {
        of: &["publish", "skip", "ask"],
        default: None,
    },
);

/// Of a kind: how late that is.
pub(super) const LATE_AFTER: Key = int(
    "late_after_s",
    (1, ", because nothing is done in no time"),
    (
        AFTER_MAX_S as u64,
        " (a year), because a job that waits longer was forgotten",
    ),
    None,
);

/// Of an account: how far apart its overdue jobs go.
pub(super) const PACE_S: Key = int("pace_s", (0, ""), (DAY_S, PACE_HIGH), None);

const PACE_HIGH: &str = " (a day), because a backlog that goes slower never ends";

/// What holds for all of them.
pub(super) const SECTION: Section = Section {
    name: "late",
    by_name: false,
    overlay: false,
    keys: &[
        int(
            "grace_s",
            (0, ""),
            (
                DAY_S,
                " (a day), because what is a day late comes with a backlog",
            ),
            Some(60),
        ),
        int("pace_s", (0, ""), (DAY_S, PACE_HIGH), Some(60)),
    ],
};
