//! The ledger: the truth about every job. One trait, two implementations, one conformance suite.

pub mod filter;
pub mod rows;
pub mod planned;
pub mod door;

pub mod postgres;
pub mod sqlite;

pub use door::*;
pub use filter::*;
pub use planned::*;
pub use rows::*;
