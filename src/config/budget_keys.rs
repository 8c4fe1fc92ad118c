//! What may be said of a budget: each key's type, bounds, default and why.

use super::shape::{Key, Shape, TEXT, int, key, text};
use super::words::PLATFORMS;

/// The forms, by their words.
pub(super) const FORMS: [&str; 5] = ["concurrency", "bucket", "rolling", "calendar", "spend"];

const LOW: &str = "; to stop it altogether, pause its lane";
const HIGH: &str = ", because no platform lets more through";

/// The keys of a budget.
pub(super) const BUDGET_KEYS: [Key; 17] = [
    key(
        "form",
        Shape::Word {
            of: &FORMS,
            default: None,
        },
    ),
    int("most", (1, LOW), (1_000_000_000, HIGH), None),
    int(
        "window_s",
        (1, ", because what is shorter is a matter of the network"),
        (2_678_400, " (31 days); for longer, form = \"calendar\""),
        None,
    ),
    int("burst", (1, LOW), (1_000_000_000, HIGH), None),
    key(
        "every",
        Shape::Word {
            of: &["day", "month"],
            default: None,
        },
    ),
    text("zone", "UTC"),
    text("currency", "USD"),
    key(
        "per",
        Shape::Word {
            of: &["all", "platform", "app", "account", "tenant", "kind", "op"],
            default: Some("all"),
        },
    ),
    int(
        "amount",
        (1, ", because what takes nothing needs no budget"),
        (
            1_000_000,
            ", because a budget that one request uses up is none",
        ),
        Some(1),
    ),
    key(
        "platform",
        Shape::Word {
            of: &PLATFORMS,
            default: None,
        },
    ),
    key("app", TEXT),
    key("account", TEXT),
    key("tenant", TEXT),
    key("kind", TEXT),
    key("op", TEXT),
    key("reserve", Shape::Bool { default: true }),
    key("off", Shape::Bool { default: false }),
];
