//! The queue in Redis (7 or newer): for any number of hosts. Its scripts are in `scripts/`.
//!
//! One connection carries all commands, another one hears the wake-ups. Commands are never repeated
//! here; each is safe to repeat. A key that is lost, alone or with all others, costs time only: with
//! `held` goes the generation, and the lane is rebuilt.

mod keys;
mod link;

mod inbox;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{FromRedisValue, Script, ScriptInvocation};
use secrecy::SecretString;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

pub use inbox::RedisInbox;
use keys::Names;
use link::Link;

use super::bell::Bell;
use super::door::{Queue, QueueError, Result, Taken};
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
/// [`Queue::woken`] returns after this long at the latest, also while the channel is away.
const WOKEN: Duration = Duration::from_secs(1);
/// After this much silence the channel is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(15);
/// How long it may take to answer.
const PONG: Duration = Duration::from_secs(5);

/// Where Redis is, and how its keys are told from others'.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// `redis://user:password@host:6379/0`, `rediss://` with TLS, or `unix:///path`. Never shown.
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
        let listener = tokio::spawn(listen(link.clone(), names.wake(), bell.clone()));
        Ok(Self {
            link,
            names,
            bell,
            _listener: AbortOnDropHandle::new(listener),
        })
    }

    /// The inbox in the same Redis, over the same connection.
    pub fn inbox(&self) -> RedisInbox {
        RedisInbox::new(self.link.clone(), self.names.clone())
    }

    /// A call of a lane's script, with its keys and the generation.
    fn call<'a>(&self, script: &'a Script, generation: i64, lane: &str) -> ScriptInvocation<'a> {
        let mut call = script.prepare_invoke();
        for key in self.names.lane(lane) {
            call.key(key);
        }
        call.arg(generation);
        call
    }

    /// Runs a lane's script. It answers nil when the lane is under another generation.
    async fn run<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T> {
        let answer: Option<T> = self.link.invoke(call).await?;
        answer.ok_or(QueueError::Stale)
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
        let info: String = self.link.query(&link::info()).await?;
        let id = link::line(&info, "run_id").map(str::to_owned);
        id.ok_or_else(|| QueueError::Away("it doesn't tell its run_id".to_owned()))
    }

    async fn offer(&self, generation: i64, lane: &str, hints: &[Hint], window: u32) -> Result<u64> {
        let mut rest = hints;
        loop {
            let (now, later) = rest.split_at(rest.len().min(HINTS));
            let mut call = self.call(&OFFER, generation, lane);
            call.arg(window);
            for hint in now {
                call.arg(hint.id.to_string());
                call.arg(hint.priority.rank()).arg(&*hint.tenant);
            }
            let size = self.run(&call).await?;
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
        let (ids, ready, held): (Vec<String>, u64, u64) = self.run(&call).await?;
        let ids = ids.iter().map(|it| parse(it)).collect::<Result<_>>()?;
        Ok(Taken { ids, ready, held })
    }

    async fn release(&self, generation: i64, lane: &str, ids: &[JobId]) -> Result<()> {
        let mut call = self.call(&RELEASE, generation, lane);
        for id in ids {
            call.arg(id.to_string());
        }
        let _: u64 = self.run(&call).await?;
        Ok(())
    }

    async fn held(&self, generation: i64, lane: &str) -> Result<Vec<(JobId, Uuid)>> {
        let call = self.call(&HELD, generation, lane);
        let held: Vec<(String, String)> = self.run(&call).await?;
        let slot = |(id, run): &(String, String)| Ok((parse(id)?, parse(run)?));
        held.iter().map(slot).collect()
    }

    async fn size(&self, generation: i64, lane: &str) -> Result<u64> {
        self.run(&self.call(&SIZE, generation, lane)).await
    }

    async fn reset(&self, generation: i64, lane: &str, held: &[(JobId, Uuid)]) -> Result<bool> {
        let mut call = self.call(&RESET, generation, lane);
        for (id, run) in held {
            call.arg(id.to_string()).arg(run.to_string());
        }
        self.run(&call).await
    }

    async fn wake(&self) -> Result<()> {
        self.bell.ring();
        let mut command = redis::cmd("PUBLISH");
        command.arg(self.names.wake()).arg("");
        self.link.query(&command).await
    }

    async fn woken(&self) {
        // At the end of the time there is a reason to return, too: callers look for themselves.
        let _ = tokio::time::timeout(WOKEN, self.bell.rung()).await;
    }
}

/// Rings the bell at each wake-up on the channel, and subscribes again whenever it was lost.
async fn listen(link: Arc<Link>, channel: String, bell: Arc<Bell>) {
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
        bell.ring();
        hear(sink, stream, &bell).await;
        // The server has gone: so the other connection learns it before somebody uses it.
        link.probe().await;
        tokio::time::sleep(link::pauses().next().unwrap_or(WOKEN)).await;
    }
}

/// Returns when the channel is lost.
async fn hear(mut sink: PubSubSink, mut stream: PubSubStream, bell: &Bell) {
    loop {
        match tokio::time::timeout(SILENCE, stream.next()).await {
            Ok(Some(_)) => bell.ring(),
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
