//! What the connections of the port share: its limits, who may come in, and where jobs go.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::api::guard::Access;
use crate::engine::doors::Doors;

/// How much the port takes at once, and for how long.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A client has shown the token by then.
    pub auth: Duration,
    /// A command that has begun is whole by then, and a transaction ended.
    pub command: Duration,
    /// A command is answered by then.
    pub answer: Duration,
    /// A client that doesn't read its answers is waited for so long.
    pub write: Duration,
    /// A client that says nothing is kept so long.
    pub idle: Duration,
    /// What is under way has this long to end when the server stops.
    pub stop: Duration,
    /// Connections at once; more are told so and closed.
    pub connections: usize,
    /// Commands that are read at once of what a client sent ahead, and the bytes of them.
    pub ahead: (usize, usize),
    /// Bytes of answers that wait for a client: with more nothing further is read from it.
    pub unread: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            auth: Duration::from_secs(10),
            command: Duration::from_secs(30),
            answer: Duration::from_secs(30),
            write: Duration::from_secs(30),
            idle: Duration::from_secs(900),
            stop: Duration::from_secs(5),
            connections: 1_024,
            ahead: (1_000, 1 << 20),
            unread: 256 << 10,
        }
    }
}

/// What the connections share.
pub struct Port {
    /// How much is taken at once.
    pub limits: Limits,
    /// Who may do anything here.
    pub access: Access,
    /// Where jobs go.
    pub doors: Doors,
    /// Places for more than an envelope's bytes of a command or a transaction that isn't whole.
    pub large: Semaphore,
    /// How many clients there have been.
    pub clients: AtomicU64,
    /// Fires when the server stops.
    pub stop: CancellationToken,
}
