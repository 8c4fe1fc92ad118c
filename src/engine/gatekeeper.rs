//! The gatekeeper: counts requests in budgets, exactly, across all hosts.
//!
//! What is used stands in the ledger, a row a part of a budget, and changes by compare-and-set: all the
//! rows that a batch of requests needs, or none. So no wipe or failover of a fast store lets anything
//! through twice, and a limit holds while Redis is away. What one host asks for while an earlier batch is
//! on its way goes in the next one; what it read or wrote last is tried first, so one batch is one statement
//! as long as nobody else writes the same rows.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::Mutex;

use super::batcher::Batcher;
use crate::budget::{
    Asked, Budget, Change, Counted, End, Form, Key, NEVER, Refused, Share, changed,
};
use crate::clock::{Time, stamp};
use crate::ledger::{Ledger, LedgerError};
use crate::platform::gate::{Full, Gate, Pass};
use crate::telemetry::metrics;

/// Requests that are counted in one statement, at most.
const BATCH: usize = 500;
/// Somebody who waits looks again after this: what others give back rings nowhere.
const LOOK: Duration = Duration::from_millis(50);
/// Nobody asks more often than this.
const SHORT: Duration = Duration::from_millis(2);
/// What is over is told to the ledger at the latest after this, where nobody asks for more.
const TELL: Duration = Duration::from_millis(100);
/// The ledger's time, as told with its last answer, is counted on for so long.
const TIME_AGE: Duration = Duration::from_secs(5);
/// Rows, and callers, that are kept in mind.
const KEPT_MAX: usize = 10_000;
/// A batch that somebody else was faster than is tried again so often.
const TRIES: u32 = 100;
/// The wait where it can't be counted at all, or where nobody knows how long it is.
const AWAY: Duration = Duration::from_secs(1);

/// What a request takes of one part of a budget.
#[derive(Clone, Debug)]
struct Want {
    key: Key,
    form: Form,
    amount: u64,
}

/// A request that wants to go, and is over `within` from then.
struct Ask {
    wants: Arc<[Want]>,
    within: Duration,
}

/// What was taken for a request.
struct Grant {
    wants: Arc<[Want]>,
    /// One for each of them, in order.
    shares: Vec<Share>,
}

impl Grant {
    fn parts(&self) -> impl Iterator<Item = (&Want, &Share)> {
        self.wants.iter().zip(&self.shares)
    }
}

enum Answer {
    Go(Grant),
    /// `early`: what is under way is usually over long before that.
    Full {
        key: Key,
        used: u64,
        most: u64,
        at: Time,
        now: Time,
        early: bool,
    },
    Away(String),
}

/// What is over, and when it was heard of.
struct Over {
    grant: Grant,
    sent: Option<Instant>,
}

/// The ledger's time, between two bounds: it was told after `asked` and before `heard`.
#[derive(Clone, Copy)]
struct Told {
    time: Time,
    asked: Instant,
    heard: Instant,
}

impl Told {
    /// No later than it is: what frees comes late, never early.
    fn least(&self) -> Time {
        self.time + since(self.heard, Instant::now())
    }

    /// No earlier than it was at `then`.
    fn most(&self, then: Instant) -> Time {
        self.time + since(self.asked, then)
    }
}

fn since(from: Instant, to: Instant) -> chrono::Duration {
    chrono::Duration::from_std(to.saturating_duration_since(from)).unwrap_or_default()
}

/// What was read or written last.
#[derive(Default)]
struct Books {
    rows: HashMap<Key, Counted>,
    told: Option<Told>,
}

struct Counter {
    ledger: Arc<dyn Ledger>,
    over: Arc<Lock<Vec<Over>>>,
    /// Held for a batch: one at a time.
    books: Mutex<Books>,
}

/// Which budgets hold, and what they ask of whom: of the same caller the same, found once.
#[derive(Default)]
struct Holding {
    budgets: Arc<BTreeMap<String, Budget>>,
    wants: HashMap<Vec<u8>, Arc<[Want]>>,
}

/// Counts requests for one daemon.
pub struct Gatekeeper {
    /// As `jobs.toml` says them.
    said: ArcSwap<BTreeMap<String, Budget>>,
    /// As they hold: with what people changed.
    holding: Lock<Holding>,
    changes: Lock<Vec<Change>>,
    ledger: Arc<dyn Ledger>,
    asks: Batcher<Ask, Answer>,
    over: Arc<Lock<Vec<Over>>>,
}

impl Gatekeeper {
    /// Starts counting in `ledger`, by these budgets.
    pub fn start(ledger: Arc<dyn Ledger>, budgets: BTreeMap<String, Budget>) -> Arc<Self> {
        let over = Arc::new(Lock::new(Vec::new()));
        let counter = Arc::new(Counter {
            ledger: ledger.clone(),
            over: over.clone(),
            books: Mutex::default(),
        });
        Arc::new(Self {
            said: ArcSwap::from_pointee(budgets.clone()),
            holding: Lock::new(Holding {
                budgets: Arc::new(budgets),
                ..Holding::default()
            }),
            changes: Lock::default(),
            ledger,
            asks: Batcher::start(BATCH, 1, move |asks| {
                let counter = counter.clone();
                async move { counter.batch(&asks).await }
            }),
            over,
        })
    }

    /// From now on these budgets hold, by the ledger's time; whether they are others. What was taken stays
    /// taken.
    pub fn reload(&self, budgets: BTreeMap<String, Budget>, now: Time) -> bool {
        self.said.store(Arc::new(budgets));
        self.renew(now)
    }

    fn renew(&self, now: Time) -> bool {
        let changes = locked(&self.changes);
        let budgets = changed(&self.said.load(), &changes, now);
        let mut holding = locked(&self.holding);
        let differs = *holding.budgets != budgets;
        if differs {
            *holding = Holding {
                budgets: Arc::new(budgets),
                ..Holding::default()
            };
        }
        differs
    }

    /// Learns what people changed, by the ledger's time; whether other budgets hold now.
    ///
    /// # Errors
    /// When the ledger is away.
    pub async fn learn(&self, now: Time) -> Result<bool, LedgerError> {
        let changes = self.ledger.budget_changes().await?;
        *locked(&self.changes) = changes;
        Ok(self.renew(now))
    }

    /// Tells the ledger what is over, until the daemon has ended.
    pub async fn run(&self) {
        let mut every = tokio::time::interval(TELL);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let idle = locked(&self.over).is_empty();
            if !idle {
                let nothing = Ask {
                    wants: Arc::default(),
                    within: Duration::ZERO,
                };
                self.asks.submit(nothing).await;
            }
        }
    }

    fn wants(&self, asked: &Asked<'_>) -> Arc<[Want]> {
        let caller = caller(asked);
        let mut holding = locked(&self.holding);
        if let Some(known) = holding.wants.get(&caller) {
            return known.clone();
        }
        let wants = holding.budgets.iter().filter_map(|(name, it)| {
            Some(Want {
                key: Key {
                    name: name.clone(),
                    whose: it.counts(asked)?,
                },
                form: it.form,
                amount: it.amount,
            })
        });
        let wants: Arc<[Want]> = wants.collect();
        if KEPT_MAX < holding.wants.len() {
            holding.wants.clear();
        }
        holding.wants.insert(caller, wants.clone());
        wants
    }
}

/// All that a budget can ask for, in one value: the lengths keep the texts apart.
fn caller(asked: &Asked<'_>) -> Vec<u8> {
    let Asked {
        platform,
        account,
        tenant,
        kind,
        op,
        nearby,
    } = *asked;
    let texts = [platform, account, tenant, kind, op];
    let mut key = vec![u8::from(nearby)];
    for text in texts {
        key.extend(text.len().to_le_bytes());
        key.extend(text.as_bytes());
    }
    key
}

fn locked<T>(it: &Lock<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Gate for Gatekeeper {
    async fn take(
        &self,
        asked: &Asked<'_>,
        within: Duration,
        patience: Duration,
    ) -> Result<Pass, Full> {
        let wants = self.wants(asked);
        if wants.is_empty() {
            return Ok(Pass::free());
        }
        let until = Instant::now() + patience;
        loop {
            let ask = Ask {
                wants: wants.clone(),
                within,
            };
            let (wait, message) = match self.asks.submit(ask).await {
                Some(Answer::Go(grant)) => {
                    let over = self.over.clone();
                    return Ok(Pass::new(move |sent| {
                        let sent = sent.then(Instant::now);
                        locked(&over).push(Over { grant, sent });
                    }));
                }
                Some(Answer::Full {
                    key,
                    used,
                    most,
                    at,
                    now,
                    early,
                }) => {
                    let wait = (at - now).to_std().unwrap_or_default();
                    let wait = if early { wait.min(AWAY) } else { wait };
                    if Instant::now() + wait <= until {
                        // of what is given back before its time nobody is told
                        tokio::time::sleep(wait.clamp(SHORT, LOOK)).await;
                        continue;
                    }
                    metrics::budget_full(&key.name);
                    (wait, full(&key, used, most, at))
                }
                Some(Answer::Away(why)) => (AWAY, format!("requests can't be counted now: {why}")),
                None => (AWAY, "the daemon stops".to_owned()),
            };
            return Err(Full { message, wait });
        }
    }
}

fn full(key: &Key, used: u64, most: u64, at: Time) -> String {
    let whose = match key.whose.as_str() {
        "" => String::new(),
        whose => format!(" of `{whose}`"),
    };
    let when = match at == NEVER {
        true => "one request takes more than it ever allows: raise `most` in jobs.toml".to_owned(),
        false => format!("it has room again at {}", stamp(at)),
    };
    format!(
        "budget `{}`{whose} is used up ({used} of {most}): {when}",
        key.name
    )
}

impl Counter {
    async fn batch(&self, asks: &[Ask]) -> Vec<Answer> {
        let mut books = self.books.lock().await;
        let over = std::mem::take(&mut *locked(&self.over));
        for _ in 0..TRIES {
            match self.once(&mut books, asks, &over).await {
                Ok(Some(answers)) => return answers,
                Ok(None) => {}
                Err(e) => {
                    books.rows.clear();
                    // it may have been written; what is given back twice would let too much through, so
                    // what wasn't told for certain runs out by its own time
                    return asks.iter().map(|_| Answer::Away(e.to_string())).collect();
                }
            }
        }
        let busy = "too many hosts count in the same budget at once";
        asks.iter().map(|_| Answer::Away(busy.to_owned())).collect()
    }

    /// One look and one write; `None`: somebody else was faster, or what was known was too old to refuse by.
    async fn once(
        &self,
        books: &mut Books,
        asks: &[Ask],
        over: &[Over],
    ) -> Result<Option<Vec<Answer>>, LedgerError> {
        let wanted = asks.iter().map(|it| &it.wants);
        let given_back = over.iter().map(|it| &it.grant.wants);
        let keys = keys(wanted.chain(given_back));
        let read = self.read(books, &keys).await?;
        let Some(told) = books.told else {
            return Ok(None);
        };
        let now = told.least();
        let mut rows: HashMap<&Key, Counted> = keys
            .iter()
            .filter_map(|key| Some((*key, books.rows.get(*key)?.clone())))
            .collect();
        for it in over {
            let end = it.sent.map_or(End::Unsent, |at| End::Sent(told.most(at)));
            for (want, share) in it.grant.parts() {
                if let Some(row) = rows.get_mut(&want.key) {
                    row.uses.finish(&want.form, share, end, now);
                }
            }
        }
        let answers: Vec<Answer> = asks.iter().map(|it| take(&mut rows, it, now)).collect();
        let refused = answers.iter().any(|it| matches!(it, Answer::Full { .. }));
        if refused && !read {
            // what others gave back since isn't known here: read it before anybody is sent away
            books.rows.retain(|key, _| !keys.contains(key));
            return Ok(None);
        }
        let changed: Vec<Counted> = keys
            .iter()
            .filter_map(|key| rows.remove(*key))
            .filter(|it| {
                books
                    .rows
                    .get(&it.key)
                    .is_some_and(|old| old.uses != it.uses)
            })
            .collect();
        let takes = answers
            .iter()
            .any(|it| matches!(it, Answer::Go(it) if !it.shares.is_empty()));
        if changed.is_empty() || (!takes && over.is_empty()) {
            return Ok(Some(answers));
        }
        let asked = Instant::now();
        let Some(time) = self.ledger.count(&changed).await? else {
            books.rows.retain(|key, _| !keys.contains(key));
            return Ok(None);
        };
        books.told = Some(Told {
            time,
            asked,
            heard: Instant::now(),
        });
        for mut it in changed {
            it.version += 1;
            books.rows.insert(it.key.clone(), it);
        }
        Ok(Some(answers))
    }

    /// Reads what isn't in mind; whether that was all of it.
    async fn read(&self, books: &mut Books, keys: &BTreeSet<&Key>) -> Result<bool, LedgerError> {
        let missing: Vec<Key> = keys
            .iter()
            .filter(|it| !books.rows.contains_key(**it))
            .map(|it| (*it).clone())
            .collect();
        let old = books.told.is_none_or(|it| TIME_AGE < it.heard.elapsed());
        if missing.is_empty() && !old {
            return Ok(keys.is_empty());
        }
        let asked = Instant::now();
        let (rows, time) = self.ledger.counted(&missing).await?;
        books.told = Some(Told {
            time,
            asked,
            heard: Instant::now(),
        });
        if KEPT_MAX < books.rows.len() {
            books.rows.retain(|key, _| keys.contains(key));
        }
        books
            .rows
            .extend(rows.into_iter().map(|it| (it.key.clone(), it)));
        Ok(missing.len() == keys.len())
    }
}

/// The parts of budgets that these want; those of one caller are one list, which is looked at once.
fn keys<'a>(all: impl Iterator<Item = &'a Arc<[Want]>>) -> BTreeSet<&'a Key> {
    let mut seen = HashSet::new();
    let lists = all.filter(|it| seen.insert(it.as_ptr()));
    lists.flat_map(|it| it.iter()).map(|it| &it.key).collect()
}

/// Takes all that a request wants, or nothing.
fn take(rows: &mut HashMap<&Key, Counted>, ask: &Ask, now: Time) -> Answer {
    let until = now + chrono::Duration::from_std(ask.within).unwrap_or_default();
    let mut taken: Vec<(&Want, Share)> = Vec::with_capacity(ask.wants.len());
    let mut full: Option<(Time, Answer)> = None;
    for want in ask.wants.iter() {
        let Some(row) = rows.get_mut(&want.key) else {
            return Answer::Away("a budget's row is gone".to_owned());
        };
        match row.uses.take(&want.form, want.amount, now, until) {
            Ok(share) => taken.push((want, share)),
            Err(Refused { at }) if full.as_ref().is_none_or(|(latest, _)| *latest < at) => {
                let answer = Answer::Full {
                    key: want.key.clone(),
                    used: row.uses.used(&want.form, now),
                    most: want.form.most(),
                    at,
                    now,
                    early: matches!(want.form, Form::Concurrency { .. }),
                };
                full = Some((at, answer));
            }
            Err(_) => {}
        }
    }
    let Some((_, answer)) = full else {
        return Answer::Go(Grant {
            wants: ask.wants.clone(),
            shares: taken.into_iter().map(|(_, share)| share).collect(),
        });
    };
    for (want, share) in &taken {
        if let Some(row) = rows.get_mut(&want.key) {
            row.uses.finish(&want.form, share, End::Unsent, now);
        }
    }
    answer
}
