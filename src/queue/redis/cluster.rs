//! A cluster: which of its servers has a key, and a connection to each.
//!
//! The driver's own client of clusters repeats what was lost on the way; here only what a server has
//! refused is sent again, to the one that it names. Only servers that were masters when the table was
//! read are followed to: one that was a replica until now may have old contents, so the whole
//! connection counts as lost, and the queue is filled anew.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crc::{CRC_16_XMODEM, Crc};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisFuture, ServerErrorKind, Value,
};

use super::node::{self, Call, Node, Told, Way};
use crate::json::Digest;

/// Of every cluster.
const SLOTS: u16 = 16_384;
static CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);
/// A call is sent on from server to server at once so many times; after that with pauses, for as long
/// as keys on their way are waited for.
const HOPS: u32 = 4;
/// Keys that are on their way from one server to another are waited for so long.
const MOVING: Duration = Duration::from_secs(1);
/// And asked for this often.
const MOVING_PAUSE: Duration = Duration::from_millis(10);

/// The slot of a key: that of its hash tag, where it has one.
fn slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|it| it.1.split_once('}'));
    let hashed = tag.map(|it| it.0).filter(|it| !it.is_empty());
    CRC.checksum(hashed.unwrap_or(key).as_bytes()) % SLOTS
}

type Address = (String, u16);

/// What went wrong.
pub(super) enum Failed {
    /// The answer of the server at this place.
    Said(String, RedisError),
    /// In words: the cluster isn't whole, or a server of it is away.
    Lost(String),
}

#[derive(Default)]
struct Table {
    /// By the first slot of each range: the last one, and who has them.
    slots: BTreeMap<u16, (u16, Address)>,
    /// Slots that were moved since it was read.
    moved: BTreeMap<u16, Address>,
    /// The masters.
    masters: BTreeMap<Address, (Node, MultiplexedConnection)>,
    /// The masters' and the replicas' addresses, for a time when the masters are gone.
    known: Vec<Address>,
}

/// The servers of a cluster.
pub(super) struct Cluster {
    way: Way,
    table: Mutex<Table>,
}

impl Cluster {
    /// Connects to all masters that one of `seeds` names.
    pub(super) async fn connect(seeds: &[Node], way: &Way) -> Told<Self> {
        let mut whys: Vec<String> = Vec::new();
        for seed in seeds {
            let connected = async {
                let connection = seed.connect().await?;
                let cluster = Self {
                    way: way.clone(),
                    table: Mutex::default(),
                };
                let read = cluster.read(seed, connection).await;
                read.map_err(|why| format!("{}: {why}", seed.place))?;
                Ok(cluster)
            };
            match connected.await {
                Ok(cluster) => return Ok(cluster),
                Err(why) => whys.push(why),
            }
        }
        Err(whys.join("; "))
    }

    /// Reads which server has which slots, and connects to those that are new.
    async fn read(&self, from: &Node, mut connection: MultiplexedConnection) -> Told<()> {
        let mut asked = redis::cmd("CLUSTER");
        asked.arg("SLOTS");
        let answer = asked.query_async::<Vec<Value>>(&mut connection).await;
        let ranges = answer.map_err(|error| match error.detail() {
            Some(said) if said.contains("cluster support disabled") => {
                format!("it is no cluster: write redis://{}/0", from.place)
            }
            _ => error.to_string(),
        })?;
        let host = from.place.rsplit_once(':').map_or("", |it| it.0);
        let host = host.trim_matches(['[', ']']);
        let mut new = Table::default();
        let mut covered = 0;
        for range in &ranges {
            let (first, last, servers) =
                range_of(range, host).ok_or("its table of slots can't be read")?;
            covered += u32::from(last - first) + 1;
            new.known.extend(servers.iter().cloned());
            let master = servers.into_iter().next();
            new.slots.insert(
                first,
                (last, master.ok_or("a range of slots without a master")?),
            );
        }
        if covered != u32::from(SLOTS) {
            let lost = u32::from(SLOTS) - covered;
            return Err(format!("no server has {lost} of the cluster's slots"));
        }
        let masters: Vec<Address> = new.slots.values().map(|it| it.1.clone()).collect();
        for address in masters {
            if new.masters.contains_key(&address) {
                continue;
            }
            let there = self.table().masters.get(&address).cloned();
            let master = match there {
                Some(it) => it,
                None => {
                    let node = self.way.to(&address.0, address.1)?;
                    let connection = node.connect().await?;
                    (node, connection)
                }
            };
            new.masters.insert(address, master);
        }
        *self.table() = new;
        Ok(())
    }

    /// The masters' own ids as one. Reads the table anew, from the same server as all other hosts, so
    /// that they come to the same.
    pub(super) async fn server(&self) -> Result<String, Failed> {
        let first = self.table().masters.values().next().cloned();
        let (node, connection) =
            first.ok_or_else(|| Failed::Lost("it has no masters".to_owned()))?;
        let read = self.read(&node, connection).await;
        read.map_err(|why| Failed::Lost(format!("{}: {why}", node.place)))?;
        let masters: Vec<_> = self.table().masters.values().cloned().collect();
        let asked = masters.into_iter().map(async |(node, mut connection)| {
            let info = node::info().query_async::<String>(&mut connection).await;
            info.map_err(|error| Failed::Said(node.place, error))
        });
        let mut ids = Vec::new();
        for info in futures_util::future::join_all(asked).await {
            ids.push(node::line(&info?, "run_id").unwrap_or_default().to_owned());
        }
        ids.sort_unstable();
        Ok(Digest::of_bytes(ids.join(" ").as_bytes()).hex())
    }

    /// A call whose keys all have the slot of `key`.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        key: &str,
        call: Call<'_>,
    ) -> Result<T, Failed> {
        let slot = slot(key);
        let by = Instant::now() + MOVING;
        let mut hops = 0;
        let mut at = self.owner(slot)?;
        let mut asking = false;
        loop {
            let mut connection = Through {
                connection: at.1.clone(),
                asking,
            };
            let error = match call.on(&mut connection).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let said = match error.kind() {
                ErrorKind::Server(it) if hops < HOPS || Instant::now() < by => it,
                _ => return Err(Failed::Said(at.0.place, error)),
            };
            if HOPS <= hops || said == ServerErrorKind::TryAgain {
                tokio::time::sleep(MOVING_PAUSE).await;
            }
            hops += 1;
            asking = said == ServerErrorKind::Ask;
            let next = match said {
                ServerErrorKind::Moved => self.moved(slot, &at.0, &error),
                ServerErrorKind::Ask => self.named(&at.0, &error),
                ServerErrorKind::TryAgain => self.owner(slot).ok(),
                _ => None,
            };
            at = next.ok_or(Failed::Said(at.0.place, error))?;
        }
    }

    /// Which server has a key.
    pub(super) fn node(&self, key: &str) -> Option<Node> {
        self.owner(slot(key)).ok().map(|it| it.0)
    }

    /// Every server that is known, for whoever looks for one that lives.
    pub(super) fn known(&self) -> Vec<Node> {
        let table = self.table();
        let known = table.known.iter();
        known
            .filter_map(|(host, port)| self.way.to(host, *port).ok())
            .collect()
    }

    fn owner(&self, slot: u16) -> Result<(Node, MultiplexedConnection), Failed> {
        let table = self.table();
        let range = table.slots.range(..=slot).next_back();
        let range = range.filter(|it| slot <= it.1.0).map(|it| &it.1.1);
        let address = table.moved.get(&slot).or(range);
        let found = address.and_then(|it| table.masters.get(it)).cloned();
        found.ok_or_else(|| {
            let error = RedisError::from((ErrorKind::Io, "no server has the slot of this key"));
            Failed::Said(format!("slot {slot}"), error)
        })
    }

    /// Whom an error sends to, if it is a master that is known.
    fn named(&self, from: &Node, error: &RedisError) -> Option<(Node, MultiplexedConnection)> {
        let address = address(from, error.redirect_node()?.0)?;
        self.table().masters.get(&address).cloned()
    }

    fn moved(
        &self,
        slot: u16,
        from: &Node,
        error: &RedisError,
    ) -> Option<(Node, MultiplexedConnection)> {
        let found = self.named(from, error)?;
        let address = address(from, error.redirect_node()?.0)?;
        self.table().moved.insert(slot, address);
        Some(found)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `host:port`, where an empty host is that of who says so.
fn address(from: &Node, named: &str) -> Option<Address> {
    let (host, port) = named.rsplit_once(':')?;
    let host = match host {
        "" | "?" => from.place.rsplit_once(':')?.0,
        it => it,
    };
    Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
}

/// The first slot, the last one, and who has them, the master first.
fn range_of(range: &Value, asked: &str) -> Option<(u16, u16, Vec<Address>)> {
    let Value::Array(parts) = range else {
        return None;
    };
    let [first, last, servers @ ..] = parts.as_slice() else {
        return None;
    };
    let number = |it: &Value| u16::from_redis_value_ref(it).ok();
    let (first, last) = (number(first)?, number(last)?);
    let server = |it: &Value| {
        let Value::Array(parts) = it else { return None };
        let host = Option::<String>::from_redis_value_ref(parts.first()?).ok()?;
        // a server that doesn't know how it is called is called as it was reached
        let host = host.filter(|it| !it.is_empty() && it != "?");
        Some((
            host.unwrap_or_else(|| asked.to_owned()),
            number(parts.get(1)?)?,
        ))
    };
    let servers: Option<Vec<Address>> = servers.iter().map(server).collect();
    (first <= last && last < SLOTS).then_some((first, last, servers?))
}

/// A connection on which each command may be said to be an ask: of a server to which the keys are on
/// their way.
struct Through {
    connection: MultiplexedConnection,
    asking: bool,
}

impl ConnectionLike for Through {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        if !self.asking {
            return self.connection.req_packed_command(command);
        }
        Box::pin(async move {
            let mut both = Pipeline::new();
            both.cmd("ASKING").ignore().add_command(command.clone());
            let answers = self.connection.req_packed_commands(&both, 1, 1).await?;
            let answer = answers.into_iter().next();
            answer.ok_or_else(|| RedisError::from((ErrorKind::Io, "an ask without an answer")))
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.connection.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // as `CLUSTER KEYSLOT` says
        for (key, expected) in [
            ("foo", 12_182),
            ("presswork:inbox", slot("{presswork:inbox}:holders")),
            ("{pw:lane:default}:held", slot("{pw:lane:default}:turns:2")),
            ("{}x", slot("{}x")),
        ] {
            assert_eq!(slot(key), expected, "{key}");
        }
        assert_ne!(slot("{}x"), slot("{}y"));
    }
}
