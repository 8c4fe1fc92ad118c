//! The queue: a fast index over the ledger's due jobs, which may be wiped at any moment.
//!
//! It holds ids only, a bounded window a lane, and says under which **generation** it was filled.
//! Nothing in it is believed: what it gives are hints, the claim is the ledger's.

pub mod door;

mod bell;
pub mod memory;
pub mod redis;

pub use door::*;
