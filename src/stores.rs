//! Opens the stores that a configuration names.

use std::sync::Arc;

use anyhow::Context as _;

use crate::clock::Clock;
use crate::config::{Config, Store};
use crate::inbox::Inbox;
use crate::ledger::Ledger;
use crate::ledger::postgres::{PgOptions, Postgres, Role as PgRole};
use crate::ledger::sqlite::Sqlite;
use crate::media::Media;
use crate::media::blobs::{Blobs, SPOOL};
use crate::platform::http::Http;
use crate::platform::objects::store::Store as Bucket;
use crate::queue::Queue;
use crate::queue::memory::MemoryQueue;
use crate::queue::redis::{RedisOptions, RedisQueue, User, users};

/// The media store of a configuration, over its ledger. A bucket is connected to when first used.
///
/// # Errors
/// When its folder can't be made, or the system's certificates can't be read.
pub fn media(config: &Config, ledger: Arc<dyn Ledger>, clock: &Clock) -> anyhow::Result<Media> {
    let folder = &config.media.folder;
    let local = Blobs::folder(folder)
        .with_context(|| format!("media.folder: {} can't be used", folder.display()))?;
    let blobs = match config.media_account() {
        Some(account) => {
            let http = Http::new(clock.clone())?;
            let bucket = Bucket::new(http, account.clone(), &config.media.prefix);
            Blobs::bucket(bucket, folder.join(SPOOL))
        }
        None => local,
    };
    Ok(Media::new(blobs, ledger, clock.clone()))
}

/// What a ledger's door is opened for: each has connections of its own, so that none starves another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The heartbeat's thread.
    Lease,
    /// The engine's loops.
    Engine,
    /// The HTTP API.
    Api,
    /// A command of a person.
    Command,
}

/// The ledger of a configuration. Doesn't migrate it; a server is connected to when first used.
///
/// # Errors
/// When its address can't be used, or its file can't be opened.
pub async fn ledger(config: &Config, clock: &Clock, role: Role) -> anyhow::Result<Arc<dyn Ledger>> {
    Ok(match &config.ledger {
        Store::Sqlite(path) => Arc::new(Sqlite::open(path, clock.clone()).await?),
        Store::Server(url) => {
            let role = match role {
                Role::Lease => PgRole::Lease,
                Role::Engine => PgRole::Ledger,
                Role::Api => PgRole::Api,
                Role::Command => PgRole::Cli,
            };
            Arc::new(Postgres::open(url, PgOptions::new(role))?)
        }
        Store::Memory => anyhow::bail!(
            "ledger.url = \"memory:\": the ledger is the truth and needs a disk; write sqlite:PATH or postgres://..."
        ),
    })
}

/// Where the Redis of a configuration is, if its queue is in one.
fn redis(config: &Config) -> Option<RedisOptions> {
    match &config.queue {
        Store::Server(url) => Some(RedisOptions {
            url: url.clone(),
            prefix: None,
        }),
        Store::Memory | Store::Sqlite(_) => None,
    }
}

/// The queue of a configuration, and its inboxes where it has some: that of everybody, and one for each
/// of the tenants. A server is connected to when first used.
///
/// # Errors
/// When its address can't be used.
pub async fn queue(config: &Config) -> anyhow::Result<(Arc<dyn Queue>, Vec<Arc<dyn Inbox>>)> {
    if let Some(options) = redis(config) {
        let queue = RedisQueue::open(&options)?;
        let mut inboxes: Vec<Arc<dyn Inbox>> = vec![Arc::new(queue.inbox())];
        for tenant in &config.tenants {
            inboxes.push(Arc::new(queue.inbox_of(tenant)));
        }
        return Ok((Arc::new(queue), inboxes));
    }
    match config.queue {
        Store::Memory => Ok((Arc::new(MemoryQueue::default()), Vec::new())),
        _ => anyhow::bail!("queue.url: the queue is memory: or redis://..., not a file"),
    }
}

/// The users that the Redis of a configuration should know, each with what it needs and no more; none
/// where its queue isn't in one.
///
/// # Errors
/// When its address can't be used.
pub fn redis_users(config: &Config) -> anyhow::Result<Vec<User>> {
    match redis(config) {
        Some(it) => users(&it.url, it.prefix.as_deref(), &config.tenants),
        None => Ok(Vec::new()),
    }
}
