//! The Redis port over real sockets: what it takes, what it refuses and how, its limits, the clients
//! that people have, and a daemon that is killed before it answers.

#[path = "../kit/mod.rs"]
mod kit;
#[allow(dead_code)] // these tests ask its API less than those of the API do
#[path = "../api/site.rs"]
mod site;
#[allow(dead_code)] // nor does its ledger go wrong in every way
#[path = "../engine/wrap.rs"]
mod wrap;
mod harbour;

mod bounds;
mod clients;
mod doors;
mod killed;
mod tokens;
