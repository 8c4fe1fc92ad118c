//! What a proof is judged by: what producers were told, what the ledger says, what was done to the daemons
//! and the stores, and when. What the outside saw is the sandbox's own log ([`super::outside`]).
//!
//! All of it is plain data, written down as it is, so that it can be judged again later, by anybody.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970, by this machine's clock.
pub type Ms = i64;

/// Digits of a job's key, after `job-`: room for every job, and for what comes along with every blow.
pub const KEY_DIGITS: usize = 8;

/// Everything but the sandbox's log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// What repeats the order of the events.
    pub seed: u64,
    /// On SQLite and a queue in memory, instead of PostgreSQL and Redis.
    pub embedded: bool,
    /// How many daemons.
    pub daemons: usize,
    /// Sends of class B, and as many of class C, that must have been in flight at a fault.
    pub in_flight_min: usize,
    /// When it began.
    pub began: Ms,
    /// When the last fault was over.
    pub calm: Ms,
    /// When it ended.
    pub ended: Ms,
    /// Jobs that each lane may run at once, across all daemons.
    pub lanes: BTreeMap<String, Option<u32>>,
    /// The lane of each kind.
    pub kinds: BTreeMap<String, String>,
    /// Repeats that a lost answer of a paid call is worth, by kind.
    pub repeats: BTreeMap<String, u32>,
    /// What was asked for, and what was answered.
    pub told: Vec<Told>,
    /// What the ledger says at the end.
    pub jobs: Vec<Row>,
    /// Envelopes that the ledger keeps as not acceptable: why.
    pub quarantined: Vec<String>,
    /// What was broken.
    pub strikes: Vec<Strike>,
    /// When which process lived.
    pub lives: Vec<Life>,
    /// How long it took to get over blows.
    pub recoveries: Vec<Recovery>,
    /// Graceful stops, and what their daemons were running.
    pub stops: Vec<Stop>,
    /// Outcomes of lost leases that the ledger refused, by the daemons' own logs.
    pub late_writes_refused: usize,
    /// How far it was, from time to time.
    pub progress: Vec<Progress>,
    /// What was not tried, and why.
    pub left_out: Vec<String>,
}

/// How far it was.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Progress {
    /// When.
    pub at: Ms,
    /// Jobs that were acknowledged by then.
    pub accepted: usize,
    /// Jobs that had ended.
    pub ended: usize,
}

/// The way by which a job came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// `POST /v1/jobs`: answers after the ledger's commit.
    Http,
    /// `RPUSH` on the Redis inbox: Redis answers, before the ledger knows of it.
    Inbox,
}

/// A job, as its producer knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    /// Its idempotency key, which also begins its text.
    pub key: String,
    /// Which handler.
    pub kind: String,
    /// By which way.
    pub door: Door,
    /// When it was first asked for; nothing: it never was.
    pub sent: Option<Ms>,
    /// When it was first acknowledged.
    pub accepted: Option<Ms>,
    /// It is meant to end as a dead letter of this code.
    pub meant: Option<String>,
}

/// A job, as the ledger has it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Row {
    /// Its id.
    pub id: String,
    /// Its idempotency key.
    pub key: String,
    /// Which handler.
    pub kind: String,
    /// Where it stands.
    pub state: String,
    /// Attempts that count.
    pub attempts: u32,
    /// Attempts that may count.
    pub attempts_max: u32,
    /// Owners that died in a row.
    pub crashes: u32,
    /// The number of its last lease.
    pub epoch: u32,
    /// The code of its last failure.
    pub code: Option<String>,
    /// Its attempts, oldest first.
    pub history: Vec<Past>,
    /// Its effects, in the order they were written down.
    pub effects: Vec<EffectRow>,
}

/// An attempt that is over.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Past {
    /// The number of its lease.
    pub epoch: u32,
    /// How it ended.
    pub outcome: String,
    /// The class of its failure.
    pub class: Option<String>,
}

/// An effect, as the ledger has it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EffectRow {
    /// What is done.
    pub op: String,
    /// How the truth can be learnt.
    pub class: String,
    /// Where it stands.
    pub state: String,
    /// Permits to send it.
    pub sends: u32,
    /// When it was last permitted: by the ledger's clock, which may have been shifted.
    pub permit_at: Option<Ms>,
}

/// Something that was broken.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Strike {
    /// Counted from 1.
    pub n: usize,
    /// What was done, in words.
    pub what: String,
    /// Of which sort.
    pub sort: Sort,
    /// When it fell.
    pub at: Ms,
    /// When it was over: what was broken is up again.
    pub until: Ms,
    /// By how much the ledger's clock was shifted from then on, in all.
    pub shift_ms: i64,
}

/// The sorts of what can be broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// A daemon is killed, and started again.
    #[default]
    Kill,
    /// A daemon is stopped for longer than its lease.
    Freeze,
    /// Everything in Redis is forgotten.
    Flush,
    /// Redis is killed, and started again with nothing.
    Redis,
    /// PostgreSQL is killed, and started again.
    Postgres,
    /// The connections of a daemon to a store are reset.
    Cut,
    /// What a daemon and a store send each other is swallowed, for longer than a lease.
    Hole,
    /// The ledger's clock jumps.
    Skew,
    /// A daemon is told to stop, as a deploy does it, and started again.
    Stop,
    /// A daemon is killed, and started again with a clock of its own that is wrong.
    Clock,
}

impl Sort {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Kill,
        Self::Freeze,
        Self::Flush,
        Self::Redis,
        Self::Postgres,
        Self::Cut,
        Self::Hole,
        Self::Skew,
        Self::Stop,
        Self::Clock,
    ];

    /// Its name where it is asked for, and in what is kept.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Flush => "flush",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Cut => "cut",
            Self::Hole => "hole",
            Self::Skew => "skew",
            Self::Stop => "stop",
            Self::Clock => "clock",
        }
    }

    /// Whether it breaks a server, or the way to one: where all is embedded there is none.
    pub fn needs_servers(self) -> bool {
        !matches!(self, Self::Kill | Self::Freeze | Self::Stop | Self::Clock)
    }

    /// Whether it ends a daemon without a word.
    pub fn kills(self) -> bool {
        matches!(self, Self::Kill | Self::Clock)
    }

    /// Whether it may leave it open what became of a send: a daemon that is told to stop may not.
    pub fn is_fault(self) -> bool {
        self != Self::Stop
    }

    /// By what a person knows it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kill => "daemons killed",
            Self::Freeze => "stopped beyond their lease",
            Self::Flush => "FLUSHALL",
            Self::Redis => "Redis killed",
            Self::Postgres => "PostgreSQL killed",
            Self::Cut => "connections reset",
            Self::Hole => "connections swallowed beyond a lease",
            Self::Skew => "clock jumps",
            Self::Stop => "stopped gracefully",
            Self::Clock => "started with a wrong clock",
        }
    }

    /// Whether Redis forgets what it had not given on yet.
    pub fn wipes(self) -> bool {
        matches!(self, Self::Flush | Self::Redis)
    }

    /// Whether it leaves a daemon at work whose lease runs out.
    pub fn makes_zombies(self) -> bool {
        matches!(
            self,
            Self::Freeze | Self::Hole | Self::Skew | Self::Postgres
        )
    }
}

/// The life of a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Life {
    /// `daemon 1`, `redis`, `postgres`.
    pub who: String,
    /// Its first moment.
    pub from: Ms,
    /// Its last one.
    pub until: Ms,
    /// How it ended.
    pub end: String,
}

/// How long it took to get over a blow: of a kill, until all that it hit were taken back from the dead, at
/// work again or waiting for their turn; of an outage of a store, until the next job was dispatched.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Recovery {
    /// The strike.
    pub strike: usize,
    /// Jobs that the killed daemon was running; of an outage, those that were ready.
    pub held: usize,
    /// From a kill, a flush, or the moment at which PostgreSQL was there again.
    pub ms: i64,
}

/// A daemon that was told to stop.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stop {
    /// The strike.
    pub strike: usize,
    /// What it was running, with the number of each lease.
    pub held: Vec<(String, u32)>,
    /// From the signal to its end.
    pub ms: i64,
    /// Its exit code; nothing: a signal ended it.
    pub exit: Option<i32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sort_is_kept_by_its_name() {
        for it in Sort::ALL {
            let kept = serde_json::to_value(it).unwrap();
            assert_eq!(kept, it.name());
        }
    }
}
