//! The HTTP API over a real socket and a real ledger: what it takes, what it refuses, and how.

#[path = "../kit/mod.rs"]
mod kit;
mod site;
#[allow(dead_code)] // its ledger doesn't go wrong in every way
#[path = "../engine/wrap.rs"]
mod wrap;

mod accounts;
mod bounds;
mod budgets;
mod doors;
mod explain;
mod held;
mod hooks;
mod looks;
mod stops;
mod tokens;
mod unresolved;
