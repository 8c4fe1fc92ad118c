//! Renews the tokens of accounts: ahead of their end, and at once when they were refused.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::renewing::{Entry, Renewing, Stage, UnderWay, held, jitter, means, seen};
use super::shared::Shared;
use crate::account::Kept;
use crate::oauth::refresh::Step;

/// How often it is looked whether anything is due.
const EVERY: Duration = Duration::from_millis(250);
/// Requests to issuers at once, of this host.
const AT_ONCE: usize = 8;

/// The loop that renews.
pub struct Refresher {
    shared: Arc<Shared>,
    under_way: UnderWay,
    tasks: TaskTracker,
    room: Arc<Semaphore>,
}

impl Refresher {
    /// The loop.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            under_way: UnderWay::default(),
            tasks: TaskTracker::new(),
            room: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Begins what is due and isn't under way here; how many that were.
    pub fn tick(&self) -> usize {
        if self.shared.draining.is_cancelled() {
            return 0;
        }
        let config = self.shared.config.load_full();
        let now = self.shared.now();
        let is_due = |it: &&Kept| {
            let Some(granted) = &it.granted else {
                return false;
            };
            let Some(client) = config.oauth.get(&granted.client) else {
                return false;
            };
            let (seen, jitter) = (seen(it, granted), jitter(&it.name));
            let is_due = |renewal| !matches!(seen.step(renewal, jitter, now), Step::Rest(_));
            // opened only where it is due: whether anything is there to renew it with, and here
            is_due(client.facts().renewal)
                && means(&config, it).is_some_and(|(_, _, renewal)| is_due(renewal))
        };
        let due: Vec<String> = {
            let seen = self.shared.accounts.seen();
            let due = seen.kept.iter().filter(is_due);
            due.map(|it| it.name.clone()).collect()
        };
        due.into_iter().filter(|it| self.begin(it)).count()
    }

    fn begin(&self, name: &str) -> bool {
        let Some(entry) = Entry::of(&self.under_way, name) else {
            return false;
        };
        let (shared, room) = (self.shared.clone(), self.room.clone());
        self.tasks.spawn(async move {
            // it is never closed
            let _place = room.acquire_owned().await;
            Renewing::new(shared, entry).run().await;
        });
        true
    }

    /// Ticks until the daemon has ended.
    pub async fn run(&self) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            self.tick();
        }
    }

    /// Waits until nothing is under way here.
    pub async fn idle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    /// Waits so long for what is under way, and says which accounts lose their tokens then.
    pub async fn end(&self, wait: Duration) {
        if tokio::time::timeout(wait, self.idle()).await.is_ok() {
            return;
        }
        let under_way = held(&self.under_way);
        for (name, _) in under_way.iter().filter(|it| *it.1 == Stage::Holding) {
            tracing::error!(
                account = name,
                "new tokens were granted and the ledger took none of them before this daemon had to stop: they are lost. The old ones are tried once more; where the platform takes them no more, a person is asked to log in again"
            );
        }
    }
}
