//! The host-local send journal: what this run was about to send, and what it heard.
//!
//! A kill between an answer and the ledger's commit makes what was known unknown, and one between a
//! permit and the request's first byte makes what never left look as if it had. So a run writes
//! [`Journal::send`] before the first byte and [`Journal::answer`] after the last one; the next
//! daemon on this host, which holds the lock of the state folder, reads them ([`replay`]) and asks
//! what they prove ([`proves`]). The ledger stays the truth: a journal that is lost costs answers,
//! never a promise.
//!
//! Files are `<run>.<number>.log`; the format is [`record`]'s, what is kept how long [`Options`]'.

pub mod record;
pub mod disk;
mod past;
mod replay;
mod writer;
mod thread;
mod front;
#[cfg(test)]
mod tests;

pub use front::Journal;
pub use past::{Asked, Damage, PERMIT_LAG, Past, Proof, Seen, proves};
pub use replay::replay;
pub use writer::Options;
