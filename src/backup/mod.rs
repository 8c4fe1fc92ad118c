//! Backups: one file that holds the ledger, on request the media too, and what is needed to check it.
//!
//! The file is a plain tar archive, so that `tar` shows and unpacks it where no Presswork is:
//! `ledger.dump` (PostgreSQL's custom format) or `ledger.sqlite`, `media/...`, and last
//! `manifest.json`, which names the size and SHA-256 of each of them.

mod manifest;
pub mod archive;
pub mod tools;

pub use manifest::*;
