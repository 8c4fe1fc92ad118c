//! One Redis server: how it is spoken to, whether it is fit, and what its errors mean.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection, PubSubSink, PubSubStream};
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue,
    IntoConnectionInfo, RedisConnectionInfo, RedisError, RedisResult, ScriptInvocation,
    TlsCertificates,
};

use crate::tls;

/// An answer that takes longer counts as lost. (The driver's own default of 500 ms is shorter than
/// a fork of a large server may take.)
const ANSWER: Duration = Duration::from_secs(5);
/// A connection, with name look-up, TLS, AUTH and a first answer.
const CONNECT: Duration = Duration::from_secs(2);
/// Scripts with flags came with it. Valkey, which began as 7.2, says so as well.
const VERSION_MIN: u32 = 7;

/// A failure is told in words that may be shown.
pub(super) type Told<T> = Result<T, String>;

/// What is asked of a server.
#[derive(Clone, Copy)]
pub(super) enum Call<'a> {
    Command(&'a Cmd),
    /// One that the server doesn't know (it hasn't run) is loaded first.
    Script(&'a ScriptInvocation<'a>),
}

impl Call<'_> {
    /// The answer on this connection.
    pub(super) async fn on<T: FromRedisValue>(
        &self,
        connection: &mut impl ConnectionLike,
    ) -> RedisResult<T> {
        match self {
            Self::Command(it) => it.query_async(connection).await,
            Self::Script(it) => it.invoke_async(connection).await,
        }
    }
}

/// How a server is spoken to, wherever it is.
#[derive(Clone)]
pub(super) struct Way {
    /// User, password, database.
    pub(super) settings: RedisConnectionInfo,
    /// With TLS, and who is trusted: nothing said, whom this host trusts.
    pub(super) tls: Option<TlsCertificates>,
}

impl Way {
    /// A server at a host and port. Errors: the certificates are none.
    pub(super) fn to(&self, host: &str, port: u16) -> Told<Node> {
        let host = host.to_owned();
        let place = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let addr = match self.tls {
            None => ConnectionAddr::Tcp(host, port),
            Some(_) => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            },
        };
        let wrong = |error: RedisError| format!("{place}: {error}");
        let info = addr.into_connection_info().map_err(wrong)?;
        let info = info.set_redis_settings(self.settings.clone());
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = match &self.tls {
            None => Client::open(info),
            Some(certificates) => Client::build_with_tls(info, certificates.clone()),
        };
        let client = client.map_err(wrong)?;
        Ok(Node { client, place })
    }
}

/// One server.
#[derive(Clone)]
pub(super) struct Node {
    client: Client,
    /// Host and port for messages: the URL may hold a password.
    pub(super) place: String,
}

impl Node {
    /// A server that a URL of the driver's own names. Errors: it is none.
    pub(super) fn of(url: &str) -> RedisResult<Self> {
        let client = Client::open(url)?;
        let place = client.get_connection_info().addr().to_string();
        Ok(Self { client, place })
    }

    /// A connection whose server has answered, isn't loading and is new enough.
    pub(super) async fn connect(&self) -> Told<MultiplexedConnection> {
        let connected = async {
            let mut connection = self.dial().await?;
            redis::cmd("PING").exec_async(&mut connection).await?;
            let info: String = info().query_async(&mut connection).await?;
            Ok((connection, info))
        };
        let (connection, info) = self.within(CONNECT, connected).await?;
        let version = line(&info, "redis_version").unwrap_or_default();
        let major = version.split('.').next().and_then(|it| it.parse().ok());
        if major.is_none_or(|it: u32| it < VERSION_MIN) {
            return Err(self.at(&format!(
                "its version `{version}` is too old: Redis {VERSION_MIN} or newer is needed"
            )));
        }
        Ok(connection)
    }

    /// Asks it once, on a connection of its own.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd, within: Duration) -> Told<T> {
        let asked = async { command.query_async(&mut self.dial().await?).await };
        self.within(within, asked).await
    }

    /// A connection of its own that hears what is published on a channel.
    pub(super) async fn subscribe(&self, channel: &str) -> Told<(PubSubSink, PubSubStream)> {
        let subscribed = async {
            let mut pubsub = self.client.get_async_pubsub().await?;
            pubsub.subscribe(channel).await?;
            Ok(pubsub.split())
        };
        self.within(CONNECT, subscribed).await
    }

    async fn dial(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(Some(ANSWER));
        let client = &self.client;
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    async fn within<T>(
        &self,
        most: Duration,
        done: impl Future<Output = RedisResult<T>>,
    ) -> Told<T> {
        match tokio::time::timeout(most, done).await {
            Ok(done) => done.map_err(|error| tell(&self.place, &error)),
            Err(_) => Err(silent(&self.place, most)),
        }
    }

    fn at(&self, what: &str) -> String {
        format!("{}: {what}", self.place)
    }
}

fn silent(place: &str, within: Duration) -> String {
    format!("{place}: no answer within {} s", within.as_secs())
}

/// What went wrong, in words. Neither the driver nor the server repeats a password.
pub(super) fn tell(place: &str, error: &RedisError) -> String {
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
        "CLUSTERDOWN" => format!("its cluster is down: {}", said()),
        "TRYAGAIN" => "the cluster is moving these keys from one server to another".to_owned(),
        "MOVED" | "ASK" => format!(
            "the keys are at another server of its cluster ({}); a cluster's URL is redis-cluster://{place}",
            said()
        ),
        "CROSSSLOT" => format!("it is a server of a cluster: write redis-cluster://{place}"),
        "NOPERM" => format!("its access list forbids it: {}", said()),
        "NOAUTH" | "WRONGPASS" => refused.to_owned(),
        _ if error.kind() == ErrorKind::AuthenticationFailed => refused.to_owned(),
        _ if error.is_timeout() => return silent(place, ANSWER),
        _ if error.is_connection_refusal() => "the connection was refused".to_owned(),
        _ => tls::advised(&error.to_string()),
    };
    format!("{place}: {what}")
}

/// The first word of the server's error, also where it came within a transaction. Empty: it isn't
/// the server's.
pub(super) fn code(error: &RedisError) -> String {
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
    fn a_description_is_read_by_line() {
        let info = "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\n";
        assert_eq!(line(info, "run_id"), Some("abc"));
        assert_eq!(line(info, "id"), None);
    }
}
