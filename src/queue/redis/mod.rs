//! The queue in Redis (7 or newer): for any number of hosts. Its scripts are in `scripts/`.
//!
//! A server, the one that sentinels call the master, or a cluster: the keys of each script share a
//! slot. One connection a server carries all commands, another one hears the wake-ups. Commands are never
//! repeated here; each is safe to repeat. A key that is lost, alone or with all others, costs time only: with
//! `held` goes the generation, and the lane is rebuilt.

mod keys;
mod acl;
mod node;
mod cluster;
mod sentinel;
mod place;
mod link;
mod inbox;

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{FromRedisValue, Script, ScriptInvocation};
use secrecy::SecretString;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

pub use acl::{PASSWORD, User, users};
pub use inbox::RedisInbox;
use keys::Names;
use link::Link;

use super::bell::Bell;
use super::door::{Queue, QueueError, Result, Taken, Woken};
use crate::job::JobId;
use crate::ledger::Hint;

static OFFER: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/offer.lua")));
static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/take.lua")));
static RELEASE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/release.lua")));
static HELD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/held.lua")));
static SIZE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/size.lua")));
static RESET: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/reset.lua")));

/// Hints that go into one script: it takes some milliseconds, in which Redis does nothing else, and
/// `unpack` bears no more than 8,000 values.
const HINTS: usize = 1_000;
/// What the scripts keep, and how, behind the generation's number: a lane that was filled in another form, by
/// another version's daemon, is stale like one of another generation, and is rebuilt.
const FORM: &str = "2";
/// [`Queue::woken`] returns after this long at the latest, also while the channel is away.
const WOKEN: Duration = Duration::from_secs(1);
/// After this much silence the channel is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(15);
/// How long it may take to answer.
const PONG: Duration = Duration::from_secs(5);

/// Where Redis is, and how its keys are told from others'.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// `redis://user:password@host:6379/0`, `redis-sentinel://host:26379,host:26379/MASTER/0`,
    /// `redis-cluster://host:6379,host:6379`, these with TLS as `rediss`, or `unix:///path`. Never shown.
    pub url: SecretString,
    /// Put in front of each key and channel with a colon, so that several installations can share a
    /// server: letters, digits, `_`, `-`, `.` and `:`, 64 at most. `None`: the inbox is
    /// `presswork:inbox`.
    pub prefix: Option<String>,
}

/// The queue in Redis.
///
/// A [`take`](Queue::take) whose answer is lost leaves its slots held in the run's name: compare
/// [`held`](Queue::held) with what really runs from time to time, and release the rest. An
/// [`offer`](Queue::offer) of more than 1,000 hints is made in parts, each atomic.
pub struct RedisQueue {
    link: Arc<Link>,
    names: Names,
    bell: Arc<Bell>,
    /// Tells one's own wake-ups from those of others.
    origin: String,
    _listener: AbortOnDropHandle<()>,
}

impl RedisQueue {
    /// Begins to connect in the background and returns at once: Redis may be away. The first calls
    /// wait for the first attempt (2 s at most).
    ///
    /// # Errors
    /// The URL or the prefix is wrong.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn open(options: &RedisOptions) -> anyhow::Result<Self> {
        let names = Names::new(options.prefix.as_deref()).map_err(anyhow::Error::msg)?;
        let link = Link::open(&options.url).map_err(anyhow::Error::msg)?;
        let link = Arc::new(link);
        let bell = Arc::new(Bell::default());
        let origin = Uuid::new_v4().to_string();
        let listener = listen(link.clone(), names.wake(), origin.clone(), bell.clone());
        let listener = tokio::spawn(listener);
        Ok(Self {
            link,
            names,
            bell,
            origin,
            _listener: AbortOnDropHandle::new(listener),
        })
    }

    /// The inbox in the same Redis, over the same connection.
    pub fn inbox(&self) -> RedisInbox {
        RedisInbox::new(self.link.clone(), self.names.clone(), None)
    }

    /// A tenant's own inbox there; `tenant` is a name as envelopes take it.
    pub fn inbox_of(&self, tenant: &str) -> RedisInbox {
        let tenant = Some(tenant.to_owned());
        RedisInbox::new(self.link.clone(), self.names.clone(), tenant)
    }

    /// A call of a lane's script, with its keys and the generation.
    fn call<'a>(&self, script: &'a Script, generation: i64, lane: &str) -> ScriptInvocation<'a> {
        let mut call = script.prepare_invoke();
        for key in self.names.lane(lane) {
            call.key(key);
        }
        call.arg(format!("{generation}.{FORM}"));
        call
    }

    /// Runs a lane's script. It answers nil when the lane is under another generation.
    async fn run<T: FromRedisValue>(&self, lane: &str, call: &ScriptInvocation<'_>) -> Result<T> {
        let [held, ..] = self.names.lane(lane);
        let answer: Option<T> = self.link.invoke(&held, call).await?;
        answer.ok_or(QueueError::Stale)
    }
}

/// The tenant, and the account where there is one: a line's end is in no name.
fn whose(hint: &Hint) -> String {
    match &*hint.account {
        "" => hint.tenant.to_string(),
        account => format!("{}\n{account}", hint.tenant),
    }
}

/// Reads an id or a run that one of our scripts wrote. Where it is none, somebody else was there.
fn parse<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| QueueError::Stale)
}

#[async_trait]
impl Queue for RedisQueue {
    fn name(&self) -> &'static str {
        "redis"
    }

    async fn server(&self) -> Result<String> {
        self.link.server().await
    }

    async fn offer(&self, generation: i64, lane: &str, hints: &[Hint], window: u32) -> Result<u64> {
        let mut rest = hints;
        loop {
            let (now, later) = rest.split_at(rest.len().min(HINTS));
            let mut call = self.call(&OFFER, generation, lane);
            call.arg(window);
            for hint in now {
                let own = hint.priority.rank();
                let rank = if hint.lifted { 0 } else { own };
                call.arg(hint.id.to_string()).arg(rank).arg(own);
                call.arg(whose(hint)).arg(hint.step);
            }
            let size = self.run(lane, &call).await?;
            if later.is_empty() {
                return Ok(size);
            }
            rest = later;
        }
    }

    async fn take(
        &self,
        generation: i64,
        lane: &str,
        run: Uuid,
        most: u32,
        concurrency: Option<u32>,
    ) -> Result<Taken> {
        let mut call = self.call(&TAKE, generation, lane);
        call.arg(run.to_string()).arg(most);
        call.arg(concurrency.map(|it| it.to_string()).unwrap_or_default());
        let (ids, ready, held): (Vec<String>, u64, u64) = self.run(lane, &call).await?;
        let ids = ids.iter().map(|it| parse(it)).collect::<Result<_>>()?;
        Ok(Taken { ids, ready, held })
    }

    async fn release(&self, generation: i64, lane: &str, ids: &[JobId]) -> Result<()> {
        let mut call = self.call(&RELEASE, generation, lane);
        for id in ids {
            call.arg(id.to_string());
        }
        let _: u64 = self.run(lane, &call).await?;
        Ok(())
    }

    async fn held(&self, generation: i64, lane: &str) -> Result<Vec<(JobId, Uuid)>> {
        let call = self.call(&HELD, generation, lane);
        let held: Vec<(String, String)> = self.run(lane, &call).await?;
        let slot = |(id, run): &(String, String)| Ok((parse(id)?, parse(run)?));
        held.iter().map(slot).collect()
    }

    async fn size(&self, generation: i64, lane: &str) -> Result<u64> {
        self.run(lane, &self.call(&SIZE, generation, lane)).await
    }

    async fn reset(&self, generation: i64, lane: &str, held: &[(JobId, Uuid)]) -> Result<bool> {
        let mut call = self.call(&RESET, generation, lane);
        for (id, run) in held {
            call.arg(id.to_string()).arg(run.to_string());
        }
        self.run(lane, &call).await
    }

    async fn wake(&self, lanes: &[String]) -> Result<()> {
        self.bell.ring(lanes.iter().cloned());
        let mut command = redis::cmd("PUBLISH");
        let channel = self.names.wake();
        command.arg(&channel);
        command.arg(format!("{}\n{}", self.origin, lanes.join("\n")));
        self.link.query(&channel, &command).await
    }

    async fn woken(&self) -> Woken {
        // At the end of the time there is a reason to return, too: callers look for themselves.
        let rung = tokio::time::timeout(WOKEN, self.bell.rung()).await;
        rung.unwrap_or_else(|_| Woken::Lanes(BTreeSet::new()))
    }
}

/// Rings the bell for a wake-up of another daemon; one's own rang when it was sent.
fn heard(message: &redis::Msg, origin: &str, bell: &Bell) {
    // from whoever says no lanes: all
    match message.get_payload_bytes() {
        b"" => bell.ring_all(),
        bytes => {
            let text = String::from_utf8_lossy(bytes);
            let mut lines = text.lines();
            if lines.next() != Some(origin) {
                bell.ring(lines.map(str::to_owned));
            }
        }
    }
}

/// Rings the bell at each wake-up on the channel, and subscribes again whenever it was lost.
async fn listen(link: Arc<Link>, channel: String, origin: String, bell: Arc<Bell>) {
    loop {
        let mut pauses = link::pauses();
        let (sink, stream) = loop {
            match link.subscribe(&channel).await {
                Ok(both) => break both,
                Err(why) => tracing::debug!(%why, "the wake-up channel is away"),
            }
            tokio::time::sleep(pauses.next().unwrap_or(WOKEN)).await;
        };
        // Something may have been said meanwhile.
        bell.ring_all();
        hear(sink, stream, &origin, &bell).await;
        // The server has gone: so the other connection learns it before somebody uses it.
        link.probe().await;
        tokio::time::sleep(link::pauses().next().unwrap_or(WOKEN)).await;
    }
}

/// Returns when the channel is lost.
async fn hear(mut sink: PubSubSink, mut stream: PubSubStream, origin: &str, bell: &Bell) {
    loop {
        match tokio::time::timeout(SILENCE, stream.next()).await {
            Ok(Some(message)) => heard(&message, origin, bell),
            Ok(None) => return,
            Err(_) => {
                let pong = sink.ping::<redis::Value>();
                if !matches!(tokio::time::timeout(PONG, pong).await, Ok(Ok(_))) {
                    return;
                }
            }
        }
    }
}
