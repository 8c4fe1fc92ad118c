//! What holds for any bytes at all, a property a file: the fuzzer looks for bytes for which it
//! doesn't, and `tests/fuzz.rs` tries some thousand each time the tests run.
//!
//! `holds` panics where its property doesn't hold.

pub mod answers;
pub mod config;
pub mod envelope;
pub mod redactor;
pub mod resp;
pub mod url_guard;
