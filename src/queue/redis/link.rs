//! The connection to Redis: calls fail fast while it is away, and it is made again in the background.
//!
//! No command is ever repeated here: whether one whose answer was lost may be sent again, its caller
//! knows.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, Pipeline,
    RedisError, ScriptInvocation,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::queue::door::{QueueError, Result};

/// An answer that takes longer counts as lost. (The driver's own default of 500 ms is shorter than
/// a fork of a large server may take.)
const ANSWER: Duration = Duration::from_secs(5);
/// A connection, with name look-up, TLS, AUTH and a first answer.
const CONNECT: Duration = Duration::from_secs(2);
/// The pauses between attempts to connect; jitter at most doubles them.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Scripts with flags came with it.
const VERSION_MIN: u32 = 7;

/// The pauses between attempts to connect, without end.
pub(super) fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(PAUSE_MIN)
        .with_max_delay(PAUSE_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}

/// A failure is told in words that may be shown.
type Told<T> = std::result::Result<T, String>;

#[derive(Clone)]
enum State {
    /// The first attempt is under way: calls wait for it.
    Starting,
    /// Connected; the number tells this connection from its successors.
    Up(u64, MultiplexedConnection),
    /// Away, and why.
    Down(String),
}

struct Server {
    client: Client,
    /// Host and port for messages: the URL may hold a password.
    place: String,
}

/// A server to which there is a connection, or soon will be again.
pub(super) struct Link {
    server: Arc<Server>,
    state: watch::Sender<State>,
    _supervisor: AbortOnDropHandle<()>,
}

impl Link {
    /// Begins to connect in the background. Errors: the URL is none (its text is never repeated).
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(super) fn open(url: &SecretString) -> Told<Self> {
        let server = Arc::new(Server::of(url)?);
        let state = watch::Sender::new(State::Starting);
        let supervisor = tokio::spawn(supervise(server.clone(), state.clone()));
        Ok(Self {
            server,
            state,
            _supervisor: AbortOnDropHandle::new(supervisor),
        })
    }

    /// One command.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        let (era, mut connection) = self.connection().await?;
        let answer = command.query_async(&mut connection).await;
        answer.map_err(|error| self.failed(era, &error))
    }

    /// Several commands at once.
    pub(super) async fn pipeline<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T> {
        let (era, mut connection) = self.connection().await?;
        let answer = commands.query_async(&mut connection).await;
        answer.map_err(|error| self.failed(era, &error))
    }

    /// A script; one that the server doesn't know (it hasn't run) is loaded first. Errors: a key of
    /// another type is [`QueueError::Stale`].
    pub(super) async fn invoke<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T> {
        let (era, mut connection) = self.connection().await?;
        let answer = script.invoke_async(&mut connection).await;
        answer.map_err(|error| self.failed(era, &error))
    }

    /// Asks whether the server is there; if not, a new connection is begun.
    pub(super) async fn probe(&self) {
        // The answer shows in the state.
        let _: Result<()> = self.query(&redis::cmd("PING")).await;
    }

    /// A connection of its own that hears what is published on a channel.
    pub(super) async fn subscribe(&self, channel: &str) -> Told<(PubSubSink, PubSubStream)> {
        let subscribed = async {
            let mut pubsub = self.server.client.get_async_pubsub().await?;
            pubsub.subscribe(channel).await?;
            Ok(pubsub.split())
        };
        match tokio::time::timeout(CONNECT, subscribed).await {
            Ok(Ok(both)) => Ok(both),
            Ok(Err(error)) => Err(self.server.tell(&error)),
            Err(_) => Err(self.server.silent(CONNECT)),
        }
    }

    async fn connection(&self) -> Result<(u64, MultiplexedConnection)> {
        let mut state = self.state.subscribe();
        let known = state.wait_for(|it| !matches!(it, State::Starting)).await;
        match known.as_deref() {
            Ok(State::Up(era, connection)) => Ok((*era, connection.clone())),
            Ok(State::Down(why)) => Err(QueueError::Away(why.clone())),
            Ok(State::Starting) | Err(_) => {
                Err(QueueError::Away(self.server.at("not connected yet")))
            }
        }
    }

    /// What an error means. Where the connection is of no more use, a new one is begun.
    fn failed(&self, era: u64, error: &RedisError) -> QueueError {
        let why = self.server.tell(error);
        // A replica or a server that loads may not be the one that the name leads to by now.
        let code = code(error);
        let elsewhere = matches!(&*code, "READONLY" | "LOADING" | "MASTERDOWN" | "NOAUTH");
        if elsewhere || error.is_io_error() || error.is_unrecoverable_error() {
            self.state.send_if_modified(|state| {
                let current = matches!(state, State::Up(now, _) if *now == era);
                if current {
                    *state = State::Down(why.clone());
                }
                current
            });
        }
        match &*code {
            "WRONGTYPE" => QueueError::Stale,
            _ => QueueError::Away(why),
        }
    }
}

/// Connects, waits until the connection has failed, and begins anew.
async fn supervise(server: Arc<Server>, state: watch::Sender<State>) {
    let mut seen = state.subscribe();
    let mut era = 0;
    loop {
        let mut pauses = pauses();
        let connection = loop {
            match server.connect().await {
                Ok(connection) => break connection,
                Err(why) => {
                    tracing::debug!(%why, "Redis is away");
                    state.send_replace(State::Down(why));
                }
            }
            tokio::time::sleep(pauses.next().unwrap_or(PAUSE_MAX)).await;
        };
        era += 1;
        tracing::info!(server = %server.place, "connected to Redis");
        state.send_replace(State::Up(era, connection));
        match seen
            .wait_for(|it| matches!(it, State::Down(_)))
            .await
            .as_deref()
        {
            Ok(State::Down(why)) => tracing::warn!(%why, "Redis is away"),
            _ => return,
        }
    }
}

impl Server {
    fn of(url: &SecretString) -> Told<Self> {
        let wrong = "the Redis URL is none: write one such as `redis://127.0.0.1:6379/0`, \
                     `rediss://user:password@host:6379` (TLS) or `unix:///run/redis.sock`";
        let info = url.expose_secret().into_connection_info();
        // The error may quote the URL.
        let info = info.map_err(|_| wrong.to_owned())?;
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = info.set_tcp_settings(tcp);
        let place = info.addr().to_string();
        let client = Client::open(info).map_err(|_| wrong.to_owned())?;
        Ok(Self { client, place })
    }

    /// A connection whose server has answered, isn't loading and is new enough.
    async fn connect(&self) -> Told<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(Some(ANSWER));
        let connected = async {
            let client = &self.client;
            let connection = client.get_multiplexed_async_connection_with_config(&config);
            let mut connection = connection.await?;
            redis::cmd("PING").exec_async(&mut connection).await?;
            let info: String = info().query_async(&mut connection).await?;
            Ok((connection, info))
        };
        let (connection, info) = match tokio::time::timeout(CONNECT, connected).await {
            Ok(connected) => connected.map_err(|error: RedisError| self.tell(&error))?,
            Err(_) => return Err(self.silent(CONNECT)),
        };
        let version = line(&info, "redis_version").unwrap_or_default();
        let major = version.split('.').next().and_then(|it| it.parse().ok());
        if major.is_none_or(|it: u32| it < VERSION_MIN) {
            return Err(self.at(&format!(
                "its version `{version}` is too old: Redis {VERSION_MIN} or newer is needed"
            )));
        }
        Ok(connection)
    }

    fn at(&self, what: &str) -> String {
        format!("{}: {what}", self.place)
    }

    fn silent(&self, within: Duration) -> String {
        self.at(&format!("no answer within {} s", within.as_secs()))
    }

    /// What went wrong, in words. Neither the driver nor the server repeats a password.
    fn tell(&self, error: &RedisError) -> String {
        let refused = "user or password are missing or refused";
        let said = || error.detail().unwrap_or_default().to_owned();
        let what = match &*code(error) {
            "READONLY" => "it is a replica and takes no writes".to_owned(),
            "LOADING" => "it is still loading its data".to_owned(),
            "MISCONF" => "it can't save to its disk and refuses writes: see its log".to_owned(),
            "OOM" => "its memory is full (maxmemory)".to_owned(),
            "NOREPLICAS" => "it has too few replicas and refuses writes".to_owned(),
            "MASTERDOWN" => "it is a replica that has lost its master".to_owned(),
            "BUSY" => "it is busy with a script of somebody".to_owned(),
            "MOVED" | "ASK" | "CROSSSLOT" => {
                "it is a node of a cluster: name a server of its own".to_owned()
            }
            "NOPERM" => format!("its access list forbids it: {}", said()),
            "NOAUTH" | "WRONGPASS" => refused.to_owned(),
            _ if error.kind() == ErrorKind::AuthenticationFailed => refused.to_owned(),
            _ if error.is_timeout() => return self.silent(ANSWER),
            _ if error.is_connection_refusal() => "the connection was refused".to_owned(),
            _ => error.to_string(),
        };
        self.at(&what)
    }
}

/// The first word of the server's error, also where it came within a transaction. Empty: it isn't
/// the server's.
fn code(error: &RedisError) -> String {
    let errors = error.clone().into_server_errors();
    let first = errors.as_deref().and_then(|it| it.first());
    first.map_or_else(String::new, |(_, it)| it.code().to_owned())
}

/// Asks for the server's own description.
pub(super) fn info() -> Cmd {
    let mut command = redis::cmd("INFO");
    command.arg("server");
    command
}

/// A value of the server's description.
pub(super) fn line<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let values = info.lines().filter_map(|it| it.split_once(':'));
    let mut values = values.filter(|(key, _)| *key == name);
    values.next().map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_url_is_explained_and_not_repeated() {
        for url in [
            "http://u:hunter2@host",
            "redis://u:hunter2@host:notaport",
            "hunter2",
        ] {
            let error = Server::of(&url.into()).err().unwrap();
            assert!(error.contains("redis://127.0.0.1:6379/0"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_place_holds_no_secret() {
        let server = Server::of(&"redis://u:hunter2@example.com:7000/1".into()).unwrap();
        assert_eq!(server.place, "example.com:7000");
    }

    #[test]
    fn a_description_is_read_by_line() {
        let info = "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\n";
        assert_eq!(line(info, "run_id"), Some("abc"));
        assert_eq!(line(info, "id"), None);
    }
}
