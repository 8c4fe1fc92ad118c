//! Any series of calls gives what a model gives that is too simple to be wrong.
//!
//! The calls are those of a relay and a dispatcher that keep to what is shut: jobs of an account that is shut
//! aren't offered, and one that is taken all the same (it was in the window before) is refused by the claim and
//! gives its slot back. Beside the model, these hold after each call:
//!
//! - A job is in one place: ready once, or held once.
//! - A higher rank stands before a lower one; a job stands below its own priority never, and above it only if it
//!   was lifted; within a flow, jobs of a rank stand as they were offered.
//! - No turn that waits is behind the one that is being served: nobody saves turns up.
//! - The lane's concurrency is never exceeded.
//! - What a claim refused since it is shut holds no slot, and comes again once it is open.
//!
//! And at the end, with all open again and everything offered anew, each job that isn't held comes out, once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use presswork::config;
use presswork::fair::Fair;
use presswork::job::{JobId, Priority};
use presswork::ledger::Hint;
use presswork::queue::memory::MemoryQueue;
use presswork::queue::{Queue, QueueError};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use uuid::Uuid;

use super::{hint, is_stale, job};
use crate::kit::redis::Redis;

#[derive(Clone, Debug)]
enum Command {
    Offer {
        hints: Vec<Hint>,
        window: u32,
    },
    Take {
        run: u128,
        most: u32,
        concurrency: Option<u32>,
    },
    Release(Vec<JobId>),
    /// Under the same generation, or under the next one with what is held now.
    Reset {
        same: bool,
    },
    /// Everything is lost, and then the lane is rebuilt with what is held.
    Wipe,
    /// Jobs of the account may not begin.
    Shut(&'static str),
    /// They may again.
    Open(&'static str),
}

/// As many jobs there are.
const JOBS: u128 = 60;
const ACCOUNTS: [&str; 3] = ["", "ann", "ben"];

/// A job's tenant never changes.
fn tenant(n: u128) -> &'static str {
    ["a", "b", "c"][(n % 3) as usize]
}

/// Nor does its account.
fn account(n: u128) -> &'static str {
    ACCOUNTS[(n / 3 % 3) as usize]
}

/// Of one tenant 3, of one account 2.
fn fair() -> Fair {
    let toml = "[tenants.b]\nweight = 3\n[accounts.ann]\nplatform = \"mastodon\"\nweight = 2\n\
                base_url = \"https://example.com\"\nsecret = { env = \"X\" }";
    let env = |name: &str| (name == "X").then(|| "a-secret-of-a-good-length".to_owned());
    Fair::of(&config::Config::parse(toml, None, &env).expect("it is well-formed"))
}

fn hinted(fair: &Fair, n: u128, priority: Priority, lifted: bool) -> Hint {
    Hint {
        account: Arc::from(account(n)),
        lifted: lifted && priority != Priority::High,
        step: fair.step(priority, tenant(n), account(n)),
        ..hint(n, priority, tenant(n))
    }
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let fair = fair();
    let one = (0..JOBS, 0..3_i16, prop::bool::weighted(0.2));
    let one =
        one.prop_map(move |(n, rank, lifted)| hinted(&fair, n, Priority::of_rank(rank), lifted));
    let offer = (prop::collection::vec(one, 0..12), 0..25_u32)
        .prop_map(|(hints, window)| Command::Offer { hints, window });
    let take =
        (0..3_u128, 0..8_u32, prop::option::of(0..10_u32)).prop_map(|(run, most, concurrency)| {
            Command::Take {
                run,
                most,
                concurrency,
            }
        });
    let release = prop::collection::vec((0..JOBS).prop_map(job), 0..12);
    let gate = || prop::sample::select(&ACCOUNTS[..]);
    let command = prop_oneof![
        8 => offer,
        6 => take,
        4 => release.prop_map(Command::Release),
        1 => any::<bool>().prop_map(|same| Command::Reset { same }),
        1 => Just(Command::Wipe),
        2 => gate().prop_map(Command::Shut),
        2 => gate().prop_map(Command::Open),
    ];
    prop::collection::vec(command, 1..40)
}

/// Whose turn it is: own rank, tenant, account.
type Flow = (i16, String, String);

struct Row {
    rank: i16,
    turn: u64,
    id: JobId,
    flow: Flow,
    /// The number of its offer, or of its lift.
    number: u64,
}

impl Row {
    /// Its member of Redis' set.
    fn member(&self) -> String {
        let (_, tenant, account) = &self.flow;
        let line = if account.is_empty() { "" } else { "\n" };
        format!("{} {tenant}{line}{account}", self.id)
    }
}

/// The same rules, written for reading: one list, sorted when something changes.
#[derive(Default)]
struct Model {
    generation: i64,
    offers: u64,
    ready: Vec<Row>,
    next: BTreeMap<(i16, Flow), u64>,
    now: BTreeMap<i16, u64>,
    held: BTreeMap<JobId, Uuid>,
}

impl Model {
    fn offer(&mut self, hints: &[Hint], window: usize) {
        for hint in hints {
            if self.held.contains_key(&hint.id) {
                continue;
            }
            let own = hint.priority.rank();
            let rank = if hint.lifted { 0 } else { own };
            if let Some(at) = self.ready.iter().position(|it| it.id == hint.id) {
                if !hint.lifted || self.ready[at].rank == 0 {
                    continue;
                }
                self.ready.remove(at);
            }
            let now = self.now.get(&rank).copied().unwrap_or(0);
            let flow = (own, hint.tenant.to_string(), hint.account.to_string());
            let next = self.next.entry((rank, flow.clone())).or_default();
            let turn = now.max(*next);
            *next = turn + hint.step;
            self.offers += 1;
            self.ready.push(Row {
                rank,
                turn,
                id: hint.id,
                flow,
                number: self.offers,
            });
        }
        let order = |it: &Row| (it.rank, it.turn, it.flow.0, it.id);
        self.ready.sort_by_key(order);
        let gone = self.ready.split_off(window.min(self.ready.len()));
        for row in gone {
            let next = self.next.get_mut(&(row.rank, row.flow)).unwrap();
            *next = row.turn.min(*next);
        }
        self.rest();
    }

    fn take(&mut self, run: Uuid, most: usize, concurrency: Option<u32>) -> Vec<JobId> {
        let free = concurrency.map_or(most, |it| (it as usize).saturating_sub(self.held.len()));
        let count = most.min(free).min(self.ready.len());
        let mut ids = Vec::new();
        for row in self.ready.drain(..count) {
            self.now.insert(row.rank, row.turn);
            self.held.insert(row.id, run);
            ids.push(row.id);
        }
        self.rest();
        ids
    }

    fn release(&mut self, ids: &[JobId]) {
        self.held.retain(|it, _| !ids.contains(it));
    }

    fn forget_ready(&mut self) {
        self.generation += 1;
        self.ready.clear();
        self.rest();
    }

    fn rest(&mut self) {
        if self.ready.is_empty() {
            self.next.clear();
            self.now.clear();
        }
    }

    /// What must hold whatever the rules of turns are.
    fn check(&self) -> Result<(), TestCaseError> {
        let ids: BTreeSet<_> = self.ready.iter().map(|it| it.id).collect();
        prop_assert_eq!(ids.len(), self.ready.len(), "no job is ready twice");
        prop_assert!(
            ids.iter().all(|it| !self.held.contains_key(it)),
            "nor ready and held"
        );
        for (i, first) in self.ready.iter().enumerate() {
            let own = first.flow.0;
            prop_assert!(
                first.rank == own || first.rank == 0,
                "its own rank, or lifted"
            );
            let now = self.now.get(&first.rank).copied().unwrap_or(0);
            prop_assert!(now <= first.turn, "no turn that waits is past");
            for later in &self.ready[i + 1..] {
                prop_assert!(first.rank <= later.rank, "priority first");
                let same = (first.rank, &first.flow) == (later.rank, &later.flow);
                prop_assert!(!same || first.number < later.number, "a flow's in order");
            }
        }
        Ok(())
    }
}

/// Plays the commands against a queue and the model. `wipe` loses everything, where that can be;
/// `inspect` looks for what the door doesn't show.
async fn play(
    queue: &dyn Queue,
    commands: &[Command],
    wipe: &dyn Fn(),
    inspect: &dyn Fn(&str, &Model) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let fail = |error: QueueError| TestCaseError::fail(error.to_string());
    let lane = Uuid::new_v4().to_string();
    let lane = lane.as_str();
    let mut model = Model::default();
    let mut shut: BTreeSet<&str> = BTreeSet::new();
    let account_of = |id: &JobId| account(id.0.as_u128());
    queue
        .reset(model.generation, lane, &[])
        .await
        .map_err(fail)?;
    for command in commands {
        let generation = model.generation;
        let slots: Vec<_> = model.held.clone().into_iter().collect();
        match command {
            Command::Offer { hints, window } => {
                // what is due and may go: the relay's look leaves out what is shut
                let hints = hints.iter().filter(|it| !shut.contains(&*it.account));
                let hints: Vec<Hint> = hints.cloned().collect();
                model.offer(&hints, *window as usize);
                let size = queue.offer(generation, lane, &hints, *window).await;
                prop_assert_eq!(size.map_err(fail)?, model.ready.len() as u64);
            }
            Command::Take {
                run,
                most,
                concurrency,
            } => {
                let run = Uuid::from_u128(*run);
                let before = model.held.len();
                let ids = model.take(run, *most as usize, *concurrency);
                let taken = queue.take(generation, lane, run, *most, *concurrency).await;
                let taken = taken.map_err(fail)?;
                prop_assert_eq!(&taken.ids, &ids);
                prop_assert_eq!(taken.ready, model.ready.len() as u64);
                prop_assert_eq!(taken.held, model.held.len() as u64);
                let most = concurrency.map_or(usize::MAX, |it| before.max(it as usize));
                prop_assert!(taken.held as usize <= most, "never above the concurrency");
                // the claim refuses what is shut, and the dispatcher gives its slot back
                let refused = taken
                    .ids
                    .into_iter()
                    .filter(|it| shut.contains(account_of(it)));
                let refused: Vec<JobId> = refused.collect();
                model.release(&refused);
                let given_back = queue.release(generation, lane, &refused).await;
                given_back.map_err(fail)?;
                let held = queue.held(generation, lane).await.map_err(fail)?;
                prop_assert!(
                    held.iter().all(|(it, _)| !refused.contains(it)),
                    "what is refused holds no slot"
                );
            }
            Command::Shut(account) => _ = shut.insert(account),
            Command::Open(account) => _ = shut.remove(account),
            Command::Release(ids) => {
                model.release(ids);
                queue.release(generation, lane, ids).await.map_err(fail)?;
            }
            Command::Reset { same: true } => {
                let did = queue.reset(generation, lane, &[]).await.map_err(fail)?;
                prop_assert!(!did);
            }
            Command::Reset { same: false } => {
                model.forget_ready();
                let did = queue.reset(model.generation, lane, &slots).await;
                prop_assert!(did.map_err(fail)?);
                prop_assert!(is_stale(queue.size(generation, lane).await));
            }
            Command::Wipe => {
                wipe();
                model.forget_ready();
                prop_assert!(is_stale(queue.held(model.generation, lane).await));
                let did = queue.reset(model.generation, lane, &slots).await;
                prop_assert!(did.map_err(fail)?);
            }
        }
        model.check()?;
        let size = queue.size(model.generation, lane).await.map_err(fail)?;
        prop_assert_eq!(size, model.ready.len() as u64);
        let held = queue.held(model.generation, lane).await.map_err(fail)?;
        let held: BTreeMap<_, _> = held.into_iter().collect();
        prop_assert_eq!(&held, &model.held);
        inspect(lane, &model)?;
    }
    // Everything that is left comes out, each once and in order; what was shut, too, now that it is open.
    let every = (0..JOBS).map(|n| hint(n, Priority::Normal, tenant(n)));
    let every = every.map(|it| Hint {
        account: Arc::from(account_of(&it.id)),
        ..it
    });
    let every: Vec<Hint> = every.collect();
    model.offer(&every, JOBS as usize);
    let offered = queue.offer(model.generation, lane, &every, JOBS as u32);
    offered.await.map_err(fail)?;
    inspect(lane, &model)?;
    let held: BTreeSet<JobId> = model.held.keys().copied().collect();
    let rest = model.take(Uuid::nil(), usize::MAX, None);
    let taken = queue
        .take(model.generation, lane, Uuid::nil(), 999, None)
        .await;
    prop_assert_eq!(&taken.map_err(fail)?.ids, &rest);
    let came: BTreeSet<JobId> = rest.iter().copied().collect();
    prop_assert_eq!(came.len(), rest.len(), "each once");
    prop_assert!(came.is_disjoint(&held));
    prop_assert_eq!(came.len() + held.len(), JOBS as usize, "nothing is lost");
    inspect(lane, &model)
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    })
}

#[test]
fn memory_does_what_the_model_does() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let played = runner(300).run(&commands(), |commands| {
        let queue = MemoryQueue::default();
        let inspect = |_: &str, _: &Model| Ok(());
        runtime.block_on(play(&queue, &commands, &|| (), &inspect))
    });
    played.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn redis_does_what_the_model_does() {
    let server = Redis::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let queue = runtime.block_on(async { super::open(&server.url()) });
    let client = redis::Client::open(server.url()).unwrap();
    let connection = std::sync::Mutex::new(client.get_connection().unwrap());
    let wipe = || {
        let mut connection = connection.lock().unwrap();
        redis::cmd("FLUSHALL").exec(&mut *connection).unwrap();
    };
    // Nothing is kept of a job that isn't ready, and nothing at all of an empty window.
    let inspect = |lane: &str, model: &Model| {
        let mut connection = connection.lock().unwrap();
        let key = |name: &str| format!("{{pw:lane:{lane}}}:{name}");
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg(key("*"))
            .query(&mut *connection)
            .unwrap();
        if model.ready.is_empty() {
            prop_assert_eq!(keys, [key("held")]);
        }
        let waiting: Vec<String> = redis::cmd("ZRANGE")
            .arg(key("ready"))
            .arg(0)
            .arg(-1)
            .query(&mut *connection)
            .unwrap();
        let expected = model.ready.iter().map(Row::member);
        prop_assert_eq!(waiting, expected.collect::<Vec<_>>());
        Ok(())
    };
    let played = runner(150).run(&commands(), |commands| {
        runtime.block_on(play(&queue, &commands, &wipe, &inspect))
    });
    played.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn redis_forgets_the_turns_of_tenants_that_have_gone() {
    let server = Redis::start();
    let queue = super::open(&server.url());
    queue.reset(0, "posts", &[]).await.unwrap();
    // The window is never empty, so that the turns are never reset as a whole.
    for round in 0..4 {
        let tenants = (0..500).map(|n| {
            let n = round * 1_000 + n;
            hint(n, Priority::Normal, &format!("tenant-{n}"))
        });
        let mut hints: Vec<_> = tenants.collect();
        let regular = (500..520).map(|n| hint(round * 1_000 + n, Priority::Normal, "regular"));
        hints.extend(regular);
        queue.offer(0, "posts", &hints, 9_999).await.unwrap();
        queue
            .take(0, "posts", Uuid::nil(), 515, None)
            .await
            .unwrap();
    }
    let turns = server.cli(&["ZCARD", "{pw:lane:posts}:turns:1"]);
    let turns: u64 = turns.parse().unwrap();
    assert!(turns <= 2, "{turns}");
}
