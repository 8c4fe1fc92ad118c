//! All that a proof was judged by, together with what was found.

use super::check::Verdict;
use super::evidence::Evidence;
use super::outside::{Act, Request};

/// All that a proof was judged by, and how.
#[derive(Debug)]
pub struct Proof {
    /// What was done, told and written down.
    pub evidence: Evidence,
    /// What happened outside.
    pub acts: Vec<Act>,
    /// What the outside was asked.
    pub requests: Vec<Request>,
    /// What was found.
    pub verdict: Verdict,
}
