//! Tokens that are renewed: two hosts over one ledger against an issuer that rotates and revokes, by the
//! issuer's own list of what it was asked.

#[path = "../kit/mod.rs"]
mod kit;
#[path = "../engine/rig.rs"]
mod rig;
#[path = "../engine/wrap.rs"]
#[allow(dead_code)] // other binaries use the rest of it
mod wrap;
mod bench;
mod lives;
mod logins;
mod persons;
mod rounds;
