//! The inbox: a list to which any program appends, and the runs' own lists of what they took.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use redis::Script;
use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::keys::{InboxKeys, Names};
use super::link::Link;
use crate::inbox::{Entry, Inbox, InboxError, Result};
use crate::job::JobId;
use crate::queue::door::QueueError;

static TAKE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/inbox_take.lua")));
static DONE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/inbox_done.lua")));
static REPLY: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/reply.lua")));

/// At most so many entries are moved by one call, whatever was asked for.
const MOST: u32 = 1_000;
/// A call stops moving when its answer has this many bytes: an envelope has 256 KiB at most, but
/// anybody may push more.
const BYTES: usize = 16 * 1024 * 1024;
/// How long the server is waited for, in seconds.
const ARRIVED_S: u32 = 1;
/// How often an inbox is looked at of which the server doesn't tell when something comes in.
const UNHEARD: Duration = Duration::from_millis(100);
/// How long a receipt waits for its reader, in seconds.
const REPLY_S: i64 = 300;
/// An id in front of an entry's bytes, without the space between them.
const ID_LEN: usize = 36;

/// What the connection says, before it is told to whom the key belongs.
type Told<T> = std::result::Result<T, QueueError>;

/// An inbox in Redis: that of everybody, or a tenant's. Entries keep their order; any bytes may be in them.
pub struct RedisInbox {
    link: Arc<Link>,
    names: Names,
    keys: InboxKeys,
    tenant: Option<String>,
    /// Waits for entries.
    apart: Mutex<Option<MultiplexedConnection>>,
}

impl RedisInbox {
    pub(super) fn new(link: Arc<Link>, names: Names, tenant: Option<String>) -> Self {
        let keys = names.inbox(tenant.as_deref());
        Self {
            link,
            names,
            keys,
            tenant,
            apart: Mutex::default(),
        }
    }

    /// Appends envelopes, as any producer would: one `RPUSH`.
    ///
    /// # Errors
    /// Redis is away, or the key is of another type.
    pub async fn push(&self, envelopes: &[Vec<u8>]) -> Result<()> {
        let mut command = redis::cmd("RPUSH");
        command.arg(&self.keys.inbox).arg(envelopes);
        let length: Told<u64> = self.link.query(&self.keys.inbox, &command).await;
        length.map(drop).map_err(|error| self.explain(error))
    }

    fn explain(&self, error: QueueError) -> InboxError {
        InboxError(match error {
            QueueError::Stale => format!(
                "`{}` or a key that belongs to it is of another type than Presswork made it: \
                 rename or delete it",
                self.keys.inbox
            ),
            QueueError::Away(why) => why,
        })
    }
}

#[async_trait]
impl Inbox for RedisInbox {
    fn door(&self) -> &'static str {
        "inbox"
    }

    fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    fn is_durable(&self) -> bool {
        false
    }

    /// Blocks at the server, on a connection of its own: an empty inbox costs a command a second, and
    /// an entry is seen at once. The first entry is moved to where it is, so that nothing is lost
    /// when the answer is.
    async fn arrived(&self) {
        let mut connection = self.apart.lock().await;
        let mut command = redis::cmd("BLMOVE");
        command.arg(&self.keys.inbox).arg(&self.keys.inbox);
        command.arg("LEFT").arg("LEFT").arg(ARRIVED_S);
        // taken out: a caller that goes away leaves the command under way, and the connection with it
        let mut it = match connection.take() {
            Some(it) => it,
            None => match self.link.apart(&self.keys.inbox).await {
                Ok(it) => it,
                Err(why) => {
                    tracing::debug!(%why, "the inbox is looked at from time to time");
                    return tokio::time::sleep(UNHEARD).await;
                }
            },
        };
        match command.exec_async(&mut it).await {
            Ok(()) => *connection = Some(it),
            Err(why) => {
                tracing::debug!(%why, "the inbox is looked at from time to time");
                tokio::time::sleep(UNHEARD).await;
            }
        }
    }

    async fn take(&self, run: Uuid, slot: u32, most: u32) -> Result<Vec<Entry>> {
        let mut call = TAKE.key(&self.keys.inbox);
        call.key(self.keys.taken(run, slot)).key(&self.keys.holders);
        call.arg(format!("{run}:{slot}")).arg(BYTES);
        for _ in 0..most.min(MOST) {
            call.arg(JobId::mint().to_string());
        }
        let entries: Told<Vec<Vec<u8>>> = self.link.invoke(&self.keys.inbox, &call).await;
        let entries = entries.map_err(|error| self.explain(error))?;
        Ok(entries.into_iter().filter_map(unwrap_entry).collect())
    }

    async fn done(&self, run: Uuid, slot: u32, entries: &[Entry]) -> Result<()> {
        let mut call = DONE.key(self.keys.taken(run, slot));
        call.key(&self.keys.holders).arg(format!("{run}:{slot}"));
        for entry in entries {
            call.arg(entry.id.to_string());
        }
        let removed: Told<u64> = self.link.invoke(&self.keys.inbox, &call).await;
        removed.map_err(|error| self.explain(error))?;
        Ok(())
    }

    async fn holders(&self) -> Result<Vec<(Uuid, u32)>> {
        let mut command = redis::cmd("SMEMBERS");
        command.arg(&self.keys.holders);
        let holders: Told<Vec<String>> = self.link.query(&self.keys.inbox, &command).await;
        let holders = holders.map_err(|error| self.explain(error))?;
        let parse = |it: &String| {
            let (run, slot) = it.split_once(':')?;
            Some((run.parse().ok()?, slot.parse().ok()?))
        };
        // Whatever else is in the set, no list belongs to it.
        Ok(holders.iter().filter_map(parse).collect())
    }

    async fn waiting(&self) -> Result<u64> {
        let mut command = redis::cmd("LLEN");
        command.arg(&self.keys.inbox);
        let waiting = self.link.query(&self.keys.inbox, &command).await;
        waiting.map_err(|error| self.explain(error))
    }

    async fn reply(&self, token: &str, receipt: &str) -> Result<()> {
        let Some(key) = self.names.reply(token) else {
            return Err(InboxError(
                "the token of a reply list has 1 to 64 letters, digits, - and _ only".to_owned(),
            ));
        };
        let mut call = REPLY.key(&key);
        call.arg(receipt).arg(REPLY_S);
        let done: Told<u64> = self.link.invoke(&key, &call).await;
        done.map(drop).map_err(|error| self.explain(error))
    }
}

/// Takes the id from the front of an entry. The script lets no other through.
fn unwrap_entry(mut wrapped: Vec<u8>) -> Option<Entry> {
    let id = std::str::from_utf8(wrapped.get(..ID_LEN)?).ok()?;
    let id = id.parse().ok()?;
    wrapped.drain(..=ID_LEN);
    Some(Entry { id, bytes: wrapped })
}
