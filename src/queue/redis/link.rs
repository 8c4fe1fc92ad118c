//! The connection to Redis: calls fail fast while it is away, and it is made again in the background.
//!
//! No command is ever repeated here: whether one whose answer was lost may be sent again, its caller
//! knows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use redis::{Cmd, FromRedisValue, RedisError, ScriptInvocation, Value};
use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::cluster::{Cluster, Failed};
use super::node::{self, Call, Node, Told};
use super::place::Place;
use crate::queue::door::{QueueError, Result};

/// The pauses between attempts to connect; jitter at most doubles them.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// The pauses between attempts to connect, without end.
pub(super) fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(PAUSE_MIN)
        .with_max_delay(PAUSE_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Where calls go.
#[derive(Clone)]
enum Route {
    /// To this server, with its place for messages.
    One(MultiplexedConnection, Arc<str>),
    Cluster(Arc<Cluster>),
}

#[derive(Clone)]
enum State {
    /// The first attempt is under way: calls wait for it.
    Starting,
    /// Connected; the number tells this connection from its successors.
    Up(u64, Route),
    /// Away, and why.
    Down(String),
}

struct Server {
    place: Place,
    /// For messages: the URL may hold a password.
    shown: String,
    /// The servers of a cluster as they were last known, beside those that the URL names.
    known: Mutex<Vec<Node>>,
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
        let (place, shown) = Place::of(url)?;
        let server = Arc::new(Server {
            place,
            shown,
            known: Mutex::default(),
        });
        let state = watch::Sender::new(State::Starting);
        let supervisor = tokio::spawn(supervise(server.clone(), state.clone()));
        Ok(Self {
            server,
            state,
            _supervisor: AbortOnDropHandle::new(supervisor),
        })
    }

    /// One command; `key` is the one that it names.
    pub(super) async fn query<T: FromRedisValue>(&self, key: &str, command: &Cmd) -> Result<T> {
        self.call(key, Call::Command(command)).await
    }

    /// A script, whose keys all share the slot of `key`. Errors: a key of another type is
    /// [`QueueError::Stale`].
    pub(super) async fn invoke<T: FromRedisValue>(
        &self,
        key: &str,
        script: &ScriptInvocation<'_>,
    ) -> Result<T> {
        self.call(key, Call::Script(script)).await
    }

    async fn call<T: FromRedisValue>(&self, key: &str, call: Call<'_>) -> Result<T> {
        let (era, route) = self.route().await?;
        match route {
            Route::One(mut connection, place) => {
                let answer = call.on(&mut connection).await;
                answer.map_err(|error| self.failed(era, &place, &error))
            }
            Route::Cluster(cluster) => {
                let answer = cluster.run(key, call).await;
                answer.map_err(|failed| self.failed_in(era, failed))
            }
        }
    }

    /// The server's own id, new at each of its starts; of a cluster, one for all its masters.
    pub(super) async fn server(&self) -> Result<String> {
        let (era, route) = self.route().await?;
        match route {
            Route::One(mut connection, place) => {
                let info = node::info().query_async::<String>(&mut connection).await;
                let info = info.map_err(|error| self.failed(era, &place, &error))?;
                let id = node::line(&info, "run_id").map(str::to_owned);
                id.ok_or_else(|| QueueError::Away("it doesn't tell its run_id".to_owned()))
            }
            Route::Cluster(cluster) => {
                let id = cluster.server().await;
                id.map_err(|failed| self.failed_in(era, failed))
            }
        }
    }

    /// Asks whether the server is there; if not, a new connection is begun.
    pub(super) async fn probe(&self) {
        // The answer shows in the state.
        let _: Result<String> = self.server().await;
    }

    /// A connection of its own to the server that has `key`, for what blocks there: it isn't made again
    /// when it is lost, or the key is moved.
    pub(super) async fn apart(&self, key: &str) -> Told<MultiplexedConnection> {
        let node = match (&self.server.place, self.route().await) {
            (Place::One(node), _) => node.clone(),
            (Place::Sentinels(sentinels), _) => sentinels.master().await?,
            (Place::Cluster(..), Ok((_, Route::Cluster(cluster)))) => cluster
                .node(key)
                .ok_or_else(|| format!("{}: no server has the key", self.server.shown))?,
            (Place::Cluster(..), _) => {
                return Err(format!("{}: not connected", self.server.shown));
            }
        };
        node.connect().await
    }

    /// A connection of its own that hears what is published on a channel.
    pub(super) async fn subscribe(&self, channel: &str) -> Told<(PubSubSink, PubSubStream)> {
        let nodes = match &self.server.place {
            Place::One(node) => vec![node.clone()],
            Place::Sentinels(sentinels) => vec![sentinels.master().await?],
            // what is published at one of them is heard at all
            Place::Cluster(seeds, _) => self.server.seeds(seeds),
        };
        let mut told = String::new();
        for node in nodes {
            match node.subscribe(channel).await {
                Ok(both) => return Ok(both),
                Err(why) => told = why,
            }
        }
        Err(told)
    }

    async fn route(&self) -> Result<(u64, Route)> {
        let mut state = self.state.subscribe();
        let known = state.wait_for(|it| !matches!(it, State::Starting)).await;
        match known.as_deref() {
            Ok(State::Up(era, route)) => Ok((*era, route.clone())),
            Ok(State::Down(why)) => Err(QueueError::Away(why.clone())),
            Ok(State::Starting) | Err(_) => {
                let shown = &self.server.shown;
                Err(QueueError::Away(format!("{shown}: not connected yet")))
            }
        }
    }

    fn failed_in(&self, era: u64, failed: Failed) -> QueueError {
        match failed {
            Failed::Said(place, error) => self.failed(era, &place, &error),
            Failed::Lost(why) => self.lost(era, why),
        }
    }

    /// What an error means. Where the connection is of no more use, a new one is begun.
    fn failed(&self, era: u64, place: &str, error: &RedisError) -> QueueError {
        let why = node::tell(place, error);
        let code = node::code(error);
        // A replica or a server that loads may not be the one that the name leads to by now; in a
        // cluster, one that became a master since the table was read may have old contents.
        let elsewhere = match &*code {
            "READONLY" | "LOADING" | "MASTERDOWN" | "NOAUTH" => true,
            "MOVED" | "CLUSTERDOWN" => matches!(self.server.place, Place::Cluster(..)),
            _ => false,
        };
        match &*code {
            "WRONGTYPE" => QueueError::Stale,
            _ if elsewhere || error.is_io_error() || error.is_unrecoverable_error() => {
                self.lost(era, why)
            }
            _ => QueueError::Away(why),
        }
    }

    /// Begins a new connection, unless somebody has by now.
    fn lost(&self, era: u64, why: String) -> QueueError {
        self.state.send_if_modified(|state| {
            let current = matches!(state, State::Up(now, _) if *now == era);
            if current {
                *state = State::Down(why.clone());
            }
            current
        });
        QueueError::Away(why)
    }
}

/// Connects, waits until the connection has failed, and begins anew.
async fn supervise(server: Arc<Server>, state: watch::Sender<State>) {
    let mut seen = state.subscribe();
    let mut era = 0;
    loop {
        let mut pauses = pauses();
        let route = loop {
            match server.connect().await {
                Ok(route) => break route,
                Err(why) => {
                    tracing::debug!(%why, "Redis is away");
                    state.send_replace(State::Down(why));
                }
            }
            tokio::time::sleep(pauses.next().unwrap_or(PAUSE_MAX)).await;
        };
        era += 1;
        tracing::info!(server = %server.shown, "connected to Redis");
        state.send_replace(State::Up(era, route));
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
    async fn connect(&self) -> Told<Route> {
        match &self.place {
            Place::One(node) => Ok(Route::One(node.connect().await?, (&*node.place).into())),
            Place::Sentinels(sentinels) => {
                let master = sentinels.master().await?;
                let connected = connect_master(&master).await;
                let connection = connected.inspect_err(|_| sentinels.doubt())?;
                Ok(Route::One(connection, (&*master.place).into()))
            }
            Place::Cluster(seeds, way) => {
                let cluster = Cluster::connect(&self.seeds(seeds), way).await?;
                *self.known() = cluster.known();
                Ok(Route::Cluster(Arc::new(cluster)))
            }
        }
    }

    /// Who may be asked about the cluster: whom the URL names, then whom those named.
    fn seeds(&self, seeds: &[Node]) -> Vec<Node> {
        let mut all = seeds.to_vec();
        let known = self.known();
        let new = known
            .iter()
            .filter(|it| !seeds.iter().any(|seed| seed.place == it.place));
        all.extend(new.cloned());
        all
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Vec<Node>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sentinels may not have noticed yet that a master is none any more.
async fn connect_master(node: &Node) -> Told<MultiplexedConnection> {
    let mut connection = node.connect().await?;
    let role = redis::cmd("ROLE");
    let role = role.query_async::<Vec<Value>>(&mut connection).await;
    let role = role.map_err(|error| node::tell(&node.place, &error))?;
    let is_master = role
        .first()
        .and_then(|it| String::from_redis_value_ref(it).ok())
        .is_some_and(|it| it == "master");
    match is_master {
        true => Ok(connection),
        false => Err(format!(
            "{}: the sentinels call it the master, and it isn't",
            node.place
        )),
    }
}
