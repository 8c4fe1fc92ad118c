//! The nemesis: it brings sends under way, strikes, and sees to it that what it broke is up again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use tokio::task::{JoinSet, block_in_place};

use super::books::Books;
use super::evidence::{Recovery, Sort, Stop, Strike};
use super::furnish::LEASE_S;
use super::outside::{Class, Requests};
use super::plan::{Blow, VOLLEY, Wishes, volley};
use super::producers::{Notes, by_http};
use super::talk;
use super::world::{Host, World, now};

/// How long the sandbox holds the sends that a blow is aimed at: until well behind the blow.
const HOLD_MS: u64 = 3_000;
/// The last jump of the ledger's clock, where somebody waits.
const HURRY_MS: i64 = 61_000;
/// How long sends may take to be under way, before the blow falls on what there is.
const AIM: Duration = Duration::from_secs(5);
/// How long a killed Redis stays away.
const AWAY: Duration = Duration::from_millis(700);
/// How long what died alone may take to come to an end.
const CALM: Duration = Duration::from_secs(120);
/// How long jobs may take to be taken back, or dispatched again.
const RECOVERED: Duration = Duration::from_secs(120);
/// What was on its way to be dispatched when the queue was wiped is so by then, and isn't counted.
const ON_ITS_WAY: Duration = Duration::from_millis(50);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What it works with, and what it has done.
pub struct Nemesis<'a> {
    /// What it breaks.
    pub world: &'a World,
    /// What was wished for.
    pub wishes: &'a Wishes,
    /// Where jobs that it brings are noted.
    pub notes: &'a Notes,
    /// What the outside has seen.
    pub requests: Requests,
    /// What it has done.
    pub strikes: Vec<Strike>,
    /// How much the ledger's clock is off.
    shift_ms: i64,
    stops: Vec<Stop>,
    recoveries: Arc<Mutex<Vec<Recovery>>>,
    watches: JoinSet<()>,
}

impl<'a> Nemesis<'a> {
    /// One that hasn't done anything yet.
    pub fn new(world: &'a World, wishes: &'a Wishes, notes: &'a Notes) -> Self {
        Self {
            world,
            wishes,
            notes,
            requests: Requests::of(&world.outside.dir.join("requests.jsonl")),
            strikes: Vec::new(),
            shift_ms: 0,
            stops: Vec::new(),
            recoveries: Arc::default(),
            watches: JoinSet::new(),
        }
    }

    /// Brings under way what a blow is aimed at: it must fall while the sandbox holds that.
    ///
    /// # Errors
    /// When the world doesn't take it.
    pub async fn prepare(&mut self, blow: &Blow) -> anyhow::Result<()> {
        if blow.sort.kills() {
            // one more kill might bury what died alone already
            self.calm().await;
        }
        if blow.aimed {
            self.aim(blow, self.strikes.len() + 1).await?;
        }
        Ok(())
    }

    /// Strikes once; returns when what was broken is up again.
    ///
    /// # Errors
    /// When the world doesn't come up again.
    pub async fn strike(&mut self, blow: &Blow) -> anyhow::Result<()> {
        let n = self.strikes.len() + 1;
        if !blow.aimed {
            tokio::time::sleep(Duration::from_millis(blow.wait_ms)).await;
        }
        let at = now();
        let what = self.fall(blow, n).await?;
        if blow.aimed {
            self.world.outside.control("DELETE", "faults", None).await?;
        }
        for host in &self.world.hosts {
            self.world.ready(host).await?;
        }
        self.requests.read()?;
        self.strikes.push(Strike {
            n,
            what,
            sort: blow.sort,
            at,
            until: now(),
            shift_ms: self.shift_ms,
        });
        Ok(())
    }

    /// Sets the ledger's clock forward by so much that nobody waits any more for a look that a dead daemon
    /// had taken up, nor for the deadline of a send whose daemon is gone.
    ///
    /// # Errors
    /// When the ledger doesn't answer.
    pub async fn hurry(&mut self) -> anyhow::Result<()> {
        let at = now();
        self.world.books.shift(HURRY_MS).await?;
        self.shift_ms += HURRY_MS;
        self.strikes.push(Strike {
            n: self.strikes.len() + 1,
            what: format!(
                "the ledger's clock jumps by {} s, so that nobody waits",
                HURRY_MS / 1_000
            ),
            sort: Sort::Skew,
            at,
            until: now(),
            shift_ms: self.shift_ms,
        });
        Ok(())
    }

    /// Waits until no job is there that was the one suspect of a daemon that died. One that never comes to
    /// an end the judge will see.
    async fn calm(&self) {
        let until = Instant::now() + CALM;
        while Instant::now() < until && !self.world.books.calm().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Brings sends of class B and C, which the sandbox holds, and waits until they are under way.
    async fn aim(&mut self, blow: &Blow, n: usize) -> anyhow::Result<()> {
        let outside = &self.world.outside;
        let most = VOLLEY as u64 + 3;
        let acted = (most * blow.acted).div_ceil(10);
        for (platform, op) in [("instagram", "media.publish"), ("x", "post.create")] {
            // the first ones never happen: those are what nobody can clear
            for (fault, times) in [("drop", most - acted), ("slow", acted)] {
                let script = json!({"platform": platform, "op": op, "fault": fault,
                    "times": times, "delay_ms": HOLD_MS});
                if 0 < times {
                    outside.control("POST", "faults", Some(&script)).await?;
                }
            }
        }
        let jobs = volley(self.wishes, n);
        by_http(self.world, self.notes, &jobs).await?;
        let furnished = &self.world.furnished;
        let wanted = |kind: &str| {
            let lane = furnished.kinds.get(kind);
            let most = lane.and_then(|it| furnished.lanes.get(it).copied().flatten());
            most.map_or(VOLLEY, |it| VOLLEY.min(it as usize))
        };
        let (b, c) = (wanted("post.instagram"), wanted("post.x"));
        let until = Instant::now() + AIM;
        loop {
            self.requests.read()?;
            let under_way = |class| self.requests.under_way(class);
            let enough = b <= under_way(Class::B) && c <= under_way(Class::C);
            if enough || until < Instant::now() {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The blow itself, and what ends it; what it was, in words.
    async fn fall(&mut self, blow: &Blow, n: usize) -> anyhow::Result<String> {
        let hosts: Vec<&Host> = blow.hosts.iter().map(|it| &self.world.hosts[*it]).collect();
        let names: Vec<String> = hosts.iter().map(|it| (it.n + 1).to_string()).collect();
        let who = format!("daemon {}", names.join(" and "));
        let which = if blow.ledger { "ledger" } else { "queue" };
        let lease = Duration::from_secs(LEASE_S.unsigned_abs());
        Ok(match blow.sort {
            Sort::Kill => {
                self.kill(&hosts, n, None).await?;
                format!("kill -9 of {who}")
            }
            Sort::Clock => {
                self.kill(&hosts, n, Some(blow.clock)).await?;
                format!(
                    "kill -9 of {who}, which starts with a clock of {}",
                    blow.clock
                )
            }
            Sort::Stop => {
                for host in &hosts {
                    self.stop(host, n).await?;
                }
                format!("SIGTERM to {who}")
            }
            Sort::Freeze => {
                for host in &hosts {
                    self.world.freeze(host, true).await;
                }
                tokio::time::sleep(lease * 3 / 2).await;
                for host in &hosts {
                    self.world.freeze(host, false).await;
                }
                format!("SIGSTOP of {who} for a lease and a half")
            }
            Sort::Flush => {
                self.redis(&[b"FLUSHALL"]).await?;
                self.watch_dispatch(n, Instant::now());
                "FLUSHALL".to_owned()
            }
            Sort::Redis => {
                let redis = self.world.redis.as_ref().context("there is no Redis")?;
                let mut redis = redis.lock().await;
                block_in_place(|| redis.kill9());
                self.watch_dispatch(n, Instant::now());
                tokio::time::sleep(AWAY).await;
                block_in_place(|| redis.start(&self.world.folder))?;
                "kill -9 of Redis".to_owned()
            }
            Sort::Postgres => {
                let postgres = self.world.postgres.as_ref();
                let mut postgres = postgres.context("there is no PostgreSQL")?.lock().await;
                block_in_place(|| {
                    postgres.kill9();
                    postgres.start(&self.world.folder)
                })?;
                self.watch_dispatch(n, Instant::now());
                "kill -9 of PostgreSQL".to_owned()
            }
            Sort::Cut | Sort::Hole => {
                for host in &hosts {
                    let of = if blow.ledger {
                        &host.ledger
                    } else {
                        &host.queue
                    };
                    let proxy = of.as_ref().context("there is no connection to break")?;
                    if blow.sort == Sort::Cut {
                        proxy.cut();
                        continue;
                    }
                    proxy.hole(true);
                    tokio::time::sleep(lease * 3 / 2).await;
                    proxy.hole(false);
                }
                match blow.sort {
                    Sort::Cut => format!("the connections of {who} to the {which} are reset"),
                    _ => format!(
                        "{who} and the {which} don't hear each other for a lease and a half"
                    ),
                }
            }
            Sort::Skew => {
                self.world.books.shift(blow.shift_ms).await?;
                self.shift_ms += blow.shift_ms;
                format!("the ledger's clock jumps by {} s", blow.shift_ms / 1_000)
            }
        })
    }

    async fn redis(&self, words: &[&[u8]]) -> anyhow::Result<()> {
        let port = self.world.redis_port.context("there is no Redis")?;
        talk::redis(port, words).await.map(drop)
    }

    /// Tells a daemon to stop, notes what that cost, and starts it again.
    async fn stop(&mut self, host: &Host, n: usize) -> anyhow::Result<()> {
        let held = match self.world.pid(host).await {
            Some(pid) => self.world.books.at_work(pid).await?,
            None => Vec::new(),
        };
        if let Some((took, exit)) = self.world.stop(host).await? {
            self.stops.push(Stop {
                strike: n,
                held,
                ms: i64::try_from(took.as_millis()).unwrap_or(i64::MAX),
                exit,
            });
        }
        self.world.run(host).await
    }

    /// Kills daemons, notes what they held, and starts them again: by a clock of their own, if one is said.
    async fn kill(&mut self, hosts: &[&Host], n: usize, clock: Option<&str>) -> anyhow::Result<()> {
        let mut held = Vec::new();
        let began = Instant::now();
        for host in hosts {
            if let Some(pid) = self.world.kill(host).await {
                // the dead change nothing any more
                held.extend(self.world.books.at_work(pid).await?);
            }
        }
        for host in hosts {
            self.world.run_at(host, clock).await?;
        }
        if held.is_empty() {
            return Ok(());
        }
        let books = Books::of(self.world.place.clone());
        let recoveries = self.recoveries.clone();
        self.watches.spawn(async move {
            while began.elapsed() < RECOVERED && !books.taken_back(&held).await {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            note(&recoveries, n, held.len(), began);
        });
        Ok(())
    }

    /// Notes how long after `since` the next job is dispatched, where any is ready.
    fn watch_dispatch(&mut self, n: usize, since: Instant) {
        let books = Books::of(self.world.place.clone());
        let recoveries = self.recoveries.clone();
        self.watches.spawn(async move {
            tokio::time::sleep(ON_ITS_WAY).await;
            let (Ok(before), Ok(ready)) = (books.held().await, books.ready().await) else {
                return;
            };
            if ready == 0 {
                return;
            }
            let others = async || {
                let there = books.held().await;
                there.is_ok_and(|it| !it.is_subset(&before))
            };
            while since.elapsed() < RECOVERED && !others().await {
                tokio::time::sleep(LOOK_EVERY / 4).await;
            }
            note(&recoveries, n, ready, since);
        });
    }

    /// What was done, how long the jobs lay after it, and what stops cost; waits for the last of them.
    pub async fn done(mut self) -> (Vec<Strike>, Vec<Recovery>, Vec<Stop>) {
        while self.watches.join_next().await.is_some() {}
        let mut recoveries = self
            .recoveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let recoveries = std::mem::take(&mut *recoveries);
        (self.strikes, recoveries, self.stops)
    }
}

fn note(recoveries: &Mutex<Vec<Recovery>>, strike: usize, held: usize, since: Instant) {
    let ms = i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX);
    let mut all = recoveries.lock().unwrap_or_else(PoisonError::into_inner);
    all.push(Recovery { strike, held, ms });
}
