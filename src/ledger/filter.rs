//! Which jobs are looked for, and the groups they are told in.

use serde::Serialize;

use crate::clock::Time;
use crate::lifecycle::State;
use crate::outcome::Failure;

/// Which jobs to show or change. Empty fields let everything through.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Any of these states; empty: all unfinished ones and the dead.
    pub states: Vec<State>,
    /// This kind.
    pub kind: Option<String>,
    /// This lane.
    pub lane: Option<String>,
    /// This account.
    pub account: Option<String>,
    /// This tenant.
    pub tenant: Option<String>,
    /// The failure's code is this, or its message contains it.
    pub error: Option<String>,
    /// The failure's group.
    pub fingerprint: Option<String>,
    /// Ended (dead) or accepted (others) before.
    pub before: Option<Time>,
    /// Ended (dead) or accepted (others) at or after.
    pub after: Option<Time>,
    /// At most so many; 0 means 100.
    pub limit: u32,
}

impl Filter {
    /// The most jobs that it lets through.
    pub fn most(&self) -> u32 {
        if self.limit == 0 { 100 } else { self.limit }
    }

    /// The states that it lets through.
    pub fn let_through(&self) -> Vec<State> {
        if !self.states.is_empty() {
            return self.states.clone();
        }
        let past = |it: &State| matches!(it, State::Completed | State::Cancelled);
        State::ALL.iter().copied().filter(|it| !past(it)).collect()
    }
}

/// Dead letters of one error.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// The group.
    pub fingerprint: String,
    /// The kind they share.
    pub kind: String,
    /// One failure of the group.
    pub failure: Option<Failure>,
    /// How many.
    pub count: u64,
    /// When the first died.
    pub first: Time,
    /// When the last died.
    pub last: Time,
}
