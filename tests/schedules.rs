//! Orders of events: what waits for others, tried in thousands of schedules by `shuttle`. The files that
//! are tried are the daemon's own, compiled here against another `crate::sync` (tests/schedules/sync.rs);
//! all that they name besides is the library's.
//!
//! A failure prints its schedule: `PRESSWORK_SCHEDULE=... cargo test --features crashpoints --test
//! schedules NAME` runs it again. `PRESSWORK_SCHEDULES=100000` tries so many of each kind.

#[path = "schedules/sync.rs"]
mod sync;

#[path = "../src/engine/batcher.rs"]
mod batcher;
#[path = "../src/fetch/flight.rs"]
mod flight;
#[path = "../src/platform/session.rs"]
#[allow(dead_code)]
mod session;
#[path = "../src/protocol.rs"]
#[allow(dead_code)]
mod protocol;
#[path = "../src/wanted.rs"]
#[allow(dead_code)]
mod wanted;
#[path = "schedules/journal.rs"]
#[allow(dead_code)]
mod journal;
/// The ledger, as far as the protocol asks it.
mod ledger {
    use std::time::Duration;

    use presswork::clock::Time;
    use presswork::effect::{Effect, EffectId, EffectState, Evidence};
    use presswork::gate::Closure;
    pub use presswork::ledger::{Audit, Conclusion, Fence, History, LedgerError, Result, Run};

    #[async_trait::async_trait]
    pub trait Ledger: Send + Sync {
        async fn live_runs(&self) -> Result<Vec<Run>>;
        async fn history(&self) -> Result<Option<History>>;
        async fn told_of(&self, effects: &[EffectId]) -> Result<Option<Vec<EffectId>>>;
        async fn intend(&self, fence: &Fence, effect: &Effect) -> Result<Option<(Effect, Time)>>;
        async fn permit(
            &self,
            fence: &Fence,
            id: EffectId,
            from: (EffectState, u32),
            budget: Duration,
            platform: Option<&str>,
        ) -> Result<bool>;
        async fn closures(&self) -> Result<Vec<Closure>>;
        async fn repeats(&self, id: EffectId, within: Duration) -> Result<Option<Effect>>;
        async fn conclude(&self, id: EffectId, sends: u32, it: &Conclusion) -> Result<bool>;
        async fn decide(
            &self,
            id: EffectId,
            from: (EffectState, u32),
            conclusion: &Conclusion,
            audit: Option<&Audit>,
        ) -> Result<bool>;
        async fn witness(&self, id: EffectId, evidence: &Evidence) -> Result<()>;
    }
}
use presswork::platform::verdict;
use presswork::{
    budget, clock, content, crashpoint, effect, gate, json, outcome, platform, sabotage, telemetry,
};

#[path = "schedules/batches.rs"]
mod batches;
#[path = "schedules/disk.rs"]
mod disk;
#[path = "schedules/flights.rs"]
mod flights;
#[path = "schedules/journals.rs"]
mod journals;
#[path = "schedules/permits.rs"]
mod permits;
#[path = "schedules/sessions.rs"]
mod sessions;

use std::sync::Arc;

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, Runner};

/// Orders that are tried at random, and as many by priorities that change a few times (PCT).
const ORDERS: usize = 500;
/// How often priorities change.
const DEPTH: usize = 4;

/// Runs `case` in many orders.
///
/// # Panics
/// Where it panics in one of them, or nobody can go on: with the order.
fn in_any_order<F: Future<Output = ()>>(case: impl Fn() -> F + Send + Sync + 'static) {
    let case = Arc::new(move || shuttle::future::block_on(case()));
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let mut config = Config::new();
        // frames of an unoptimised build
        config.stack_size = 1 << 19;
        config.silence_warnings = true;
        // what failed is told, and nothing runs on beside it
        config
            .ungraceful_shutdown_config
            .immediately_return_on_panic = true;
        let case = case.clone();
        Runner::new(scheduler, config).run(move || case());
    };
    let set = |name: &str| std::env::var(name).ok().filter(|it| !it.is_empty());
    if let Some(order) = set("PRESSWORK_SCHEDULE") {
        return run(Box::new(ReplayScheduler::new_from_encoded(&order)));
    }
    let orders = set("PRESSWORK_SCHEDULES").map_or(ORDERS, |it| it.parse().expect("a number"));
    run(Box::new(RandomScheduler::new(orders)));
    run(Box::new(PctScheduler::new(DEPTH, orders)));
}

/// A number below `most` that belongs to the order that is tried.
fn any(most: u32) -> u32 {
    use shuttle::rand::Rng as _;
    shuttle::rand::thread_rng().gen_range(0..most)
}
