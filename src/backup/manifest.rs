//! What a backup says of itself.

use serde::{Deserialize, Serialize};

use crate::clock::Time;

/// The member that holds a PostgreSQL ledger.
pub const DUMP: &str = "ledger.dump";
/// The member that holds a SQLite ledger.
pub const SQLITE: &str = "ledger.sqlite";
/// What the members of the media store begin with.
pub const MEDIA: &str = "media/";
/// The format that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// What a backup is, told by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of the file.
    pub format: u32,
    /// The version of the program that made it.
    pub presswork: String,
    /// `postgres` or `sqlite`.
    pub ledger: String,
    /// The version of the ledger's schema.
    pub schema: i64,
    /// The ledger's time when the backup began: what happened after it may be missing.
    pub at: Time,
    /// The major version of the `pg_dump` that made it.
    pub pg_dump: Option<u32>,
    /// Unfinished jobs and dead letters, shortly before the backup.
    pub unfinished: u64,
    /// Files of the media store in it. `None`: they were left out.
    pub media: Option<u64>,
    /// What is in it.
    pub members: Vec<Member>,
}

/// A part of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// The SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
}
