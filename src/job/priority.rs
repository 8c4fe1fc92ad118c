//! What goes first within a lane.

use crate::outcome::words;

words! {
    /// What goes first within a lane.
    Priority {
        /// Before all others.
        High = "high",
        /// The default.
        Normal = "normal",
        /// When nothing else is ready.
        Low = "low",
    }
}

impl Priority {
    /// Its number in SQL and in the queue's scores: 0 goes first.
    pub fn rank(self) -> i16 {
        self as i16
    }

    /// The priority of a stored number; one out of range counts as low.
    pub fn of_rank(rank: i16) -> Self {
        match rank {
            ..=0 => Self::High,
            1 => Self::Normal,
            _ => Self::Low,
        }
    }
}
