//! The HTTP API over a real socket and a real ledger: what it takes, what it refuses, and how.

#[path = "../kit/mod.rs"]
mod kit;
mod site;

mod bounds;
mod doors;
mod hooks;
mod looks;
mod stops;
mod unresolved;
