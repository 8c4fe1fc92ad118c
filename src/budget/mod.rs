//! Budgets: how much may be done of something, counted exactly. Pure: what is used goes in, and whether
//! more may be taken comes out; where it is kept and shared is the gatekeeper's business (`engine::gatekeeper`).
//!
//! What protects a limit is the count at the platform, and nobody but the platform knows when a request
//! arrives there: at the earliest when it is sent, at the latest when its end is known. So what was taken
//! is *under way* until it is finished, and counts in full; only then does its window begin.

mod money;
mod form;
mod rule;
mod uses;
mod reserve;
mod forecast;
mod relax;
mod change;

pub use change::{Change, changed};
pub use forecast::{Asks, REACH, Stands, forecast};
pub use form::{Every, Form, NEVER};
pub use money::{Currency, Hold, Paid, Price, Spend, micros, money};
pub use relax::{RELAXING, relaxed};
pub use reserve::{Kept, KeptBack};
pub use rule::{Asked, Budget, Key, PACE, Per, matches};
pub use uses::{End, Refused, Share, Uses};

/// What is used is kept for so long after its last change: twice what the longest window counts.
pub const KEPT: std::time::Duration = std::time::Duration::from_secs(62 * 86_400);

/// What is used of one part of a budget, as the ledger keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    /// Which budget, and whose part.
    pub key: Key,
    /// Counts its changes: what a write compares.
    pub version: i64,
    /// What is used.
    pub uses: Uses,
}
