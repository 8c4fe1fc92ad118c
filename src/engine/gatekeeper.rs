//! The gatekeeper: counts requests in budgets, exactly, across all hosts.
//!
//! What is used stands in the ledger, a row a part of a budget, and changes by compare-and-set: all the
//! rows that a batch of requests needs, or none. So no wipe or failover of a fast store lets anything
//! through twice, and a limit holds while Redis is away. What one host asks for while an earlier batch is
//! on its way goes in the next one; what it read or wrote last is tried first, so one batch is one statement
//! as long as nobody else writes the same rows.

mod asks;
mod places;
mod purse;
mod relaxing;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::batcher::Batcher;
use crate::budget::{Asked, Budget, Change, Counted, End, Form, Key, NEVER, PACE, Paid, changed};
use crate::clock::Time;
use crate::config::Config;
use crate::gate::Closure;
use crate::handler::Kind;
use crate::ledger::{Ledger, LedgerError};
use crate::platform::gate::{Bill, Full, Gate, Pass};
use crate::telemetry::metrics;

pub use asks::Debt;
use asks::{Answer, Ask, Over, Want, take};
use places::Places;
pub use purse::Purse;
use relaxing::Relaxing;
use words::{full, kept_back, whose};

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
    places: Places,
    relaxing: Relaxing,
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
            places: Places::new(ledger.clone()),
            relaxing: Relaxing::default(),
            ledger,
            asks: Batcher::start(BATCH, 1, move |asks| {
                let counter = counter.clone();
                async move { counter.batch(&asks).await }
            }),
            over,
        })
    }

    /// From now on places are kept for jobs of these kinds that were scheduled; accounts are those of the
    /// configuration as it is then.
    pub fn keep_places(&self, config: Arc<ArcSwap<Config>>, kinds: Arc<[Kind]>) {
        self.places.begin(config, kinds);
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

    /// Accounts among those closed because their platform asked for less come back slowly, by the ledger's
    /// time.
    pub fn relax(&self, closures: &[Closure], now: Time) {
        self.relaxing.told(closures, now);
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
                    beside: None,
                    wanted_at: None,
                };
                self.asks.submit(nothing).await;
            }
        }
    }

    /// The parts of the budgets that count money, as they hold and as they are counted. Where no budget
    /// counts money, the ledger isn't asked.
    ///
    /// # Errors
    /// When the ledger is away.
    pub async fn purses(&self) -> Result<Vec<Purse>, LedgerError> {
        let budgets = locked(&self.holding).budgets.clone();
        if !budgets.values().any(|it| it.form.is_money()) {
            return Ok(Vec::new());
        }
        let counted = self.ledger.all_counted().await?.into_iter();
        let purses = counted.filter_map(|row| {
            let form = budgets.get(&row.key.name)?.form;
            form.is_money().then_some(Purse { form, row })
        });
        Ok(purses.collect())
    }

    /// It is known what became of a debt: the ledger is told within a moment. Said again it changes nothing.
    pub fn settle(&self, debt: Debt, paid: Paid) {
        locked(&self.over).push(Over::Debt(debt, paid));
    }

    /// What a request takes of which budgets. Of the same caller it is the same, unless it costs money.
    fn wants(&self, asked: &Asked<'_>) -> Result<Arc<[Want]>, Full> {
        let mut holding = locked(&self.holding);
        if asked.spend.is_some() {
            return wanted(&holding.budgets, asked);
        }
        let caller = caller(asked);
        if let Some(known) = holding.wants.get(&caller) {
            return Ok(known.clone());
        }
        let wants = wanted(&holding.budgets, asked)?;
        if KEPT_MAX < holding.wants.len() {
            holding.wants.clear();
        }
        holding.wants.insert(caller, wants.clone());
        Ok(wants)
    }
}

fn wanted(budgets: &BTreeMap<String, Budget>, asked: &Asked<'_>) -> Result<Arc<[Want]>, Full> {
    let mut wants = Vec::new();
    for (name, it) in budgets {
        let Some(whose) = it.counts(asked) else {
            continue;
        };
        let key = Key {
            name: name.clone(),
            whose,
        };
        let (amount, spend) = match (it.form, asked.spend) {
            (Form::Spend { currency, .. }, Some(spend)) => match spend.price.within(currency) {
                Ok(0) => continue,
                Ok(micros) => (micros, Some(spend.clone())),
                Err(why) => return Err(stuck(&key, &why)),
            },
            (Form::Spend { .. }, None) => continue,
            _ => (it.amount, None),
        };
        wants.push(Want {
            key,
            form: it.form,
            amount,
            spend,
            keeps: it.keeps_places().then(|| Arc::new(it.clone())),
        });
    }
    if let Some(window) = asked.pace {
        wants.push(Want {
            key: Key {
                name: PACE.to_owned(),
                whose: asked.account.to_owned(),
            },
            form: Form::Rolling { most: 1, window },
            amount: 1,
            spend: None,
            keeps: None,
        });
    }
    Ok(wants.into())
}

/// Nothing is sent, and no wait helps.
fn stuck(key: &Key, why: &str) -> Full {
    Full {
        message: format!(
            "nothing was sent: budget `{}`{} counts money, and {why}; then `presswork jobs release` the job",
            key.name,
            whose(key)
        ),
        wait: Duration::ZERO,
        stuck: true,
        paced: false,
    }
}

/// All that a budget can ask for, in one value: the lengths keep the texts apart.
fn caller(asked: &Asked<'_>) -> Vec<u8> {
    let Asked {
        platform,
        app,
        account,
        tenant,
        kind,
        op,
        nearby,
        spend: _,
        wanted_at: _,
        pace,
    } = *asked;
    let texts = [platform, app, account, tenant, kind, op];
    let mut key = vec![u8::from(nearby)];
    let pace = pace.map_or(0, |it| it.num_milliseconds());
    key.extend(pace.to_le_bytes());
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
        let wants = self.wants(asked)?;
        let wants = self.relaxing.beside(wants, asked.account);
        if wants.is_empty() {
            return Ok(Pass::free());
        }
        let until = Instant::now() + patience;
        loop {
            let answer = match self.places.of(&wants).await {
                Ok(beside) => {
                    let ask = Ask {
                        wants: wants.clone(),
                        within,
                        beside,
                        wanted_at: asked.wanted_at,
                    };
                    self.asks.submit(ask).await
                }
                Err(e) => Some(Answer::Away(e.to_string())),
            };
            let (wait, message, paced) = match answer {
                Some(Answer::Go(grant)) => {
                    let (over, debts) = (self.over.clone(), grant.debts());
                    let repeats = asked.spend.is_some_and(|it| it.repeats);
                    let told = over.clone();
                    let settle = move |paid| {
                        let debts = debts.into_iter().map(|it| Over::Debt(it, paid));
                        locked(&over).extend(debts);
                    };
                    let pass = Pass::new(move |sent| {
                        let sent = sent.then(Instant::now);
                        locked(&told).push(Over::Request(grant, sent));
                    });
                    return Ok(pass.billed(Bill::new(settle, repeats)));
                }
                Some(Answer::Full {
                    key,
                    form,
                    amount,
                    at,
                    ..
                }) if form.is_money() && at == NEVER => {
                    let (amount, most) = (form.amount(amount), form.amount(form.most()));
                    let why = format!(
                        "the send may cost {amount}, more than the {most} that it ever allows: raise `most` in jobs.toml"
                    );
                    return Err(stuck(&key, &why));
                }
                Some(Answer::Full {
                    key,
                    form,
                    used,
                    at,
                    now,
                    early,
                    kept,
                    ..
                }) => {
                    let wait = (at - now).to_std().unwrap_or_default();
                    let wait = if early { wait.min(AWAY) } else { wait };
                    if Instant::now() + wait <= until {
                        // of what is given back before its time nobody is told
                        tokio::time::sleep(wait.clamp(SHORT, LOOK)).await;
                        continue;
                    }
                    metrics::budget_full(&key.name);
                    let message = match kept {
                        Some(back) => kept_back(&key, &form, used, &back),
                        None => full(&key, &form, used, at),
                    };
                    (wait, message, key.name == PACE)
                }
                Some(Answer::Away(why)) => {
                    (AWAY, format!("requests can't be counted now: {why}"), false)
                }
                None => (AWAY, "the daemon stops".to_owned(), false),
            };
            return Err(Full {
                message,
                wait,
                stuck: false,
                paced,
            });
        }
    }

    async fn paid(&self, effect: Uuid, cost: Option<u64>) {
        let purses = match self.purses().await {
            Ok(it) => it,
            Err(e) => {
                tracing::debug!("what a send has cost can't be told: {e}");
                return;
            }
        };
        for purse in &purses {
            let its = purse.reserved().filter(|it| it.1.effect == effect);
            // the last send is the one that was answered
            if let Some(last) = its.max_by_key(|it| it.1.send) {
                self.settle(purse.debt(last), cost.map_or(Paid::Estimate, Paid::Cost));
            }
        }
    }
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
                    // what wasn't told for certain runs out by its own time; a debt is settled once
                    let debts = over.into_iter().filter(|it| matches!(it, Over::Debt(..)));
                    locked(&self.over).extend(debts);
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
        let keys = keys(asks, over);
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
            match it {
                Over::Request(grant, sent) => {
                    let end = sent.map_or(End::Unsent, |at| End::Sent(told.most(at)));
                    for (want, share) in grant.parts() {
                        if let Some(row) = rows.get_mut(&want.key) {
                            row.uses.finish(&want.form, share, end, now);
                        }
                    }
                }
                Over::Debt(debt, paid) => {
                    if let Some(row) = rows.get_mut(&debt.key) {
                        let whose = (debt.name.as_str(), debt.by);
                        row.uses.settle(&debt.form, whose, *paid, now);
                    }
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

/// The parts of budgets that a batch is about; what one caller wants is one list, which is looked at once.
fn keys<'a>(asks: &'a [Ask], over: &'a [Over]) -> BTreeSet<&'a Key> {
    let mut seen = HashSet::new();
    let asked = asks.iter().map(|it| &it.wants);
    let lists = asked.chain(over.iter().filter_map(Over::wants));
    let lists = lists.filter(|it| seen.insert(it.as_ptr()));
    let wanted = lists.flat_map(|it| it.iter()).map(|it| &it.key);
    wanted.chain(over.iter().filter_map(Over::owed)).collect()
}
