//! A server that took the ledger over: noticed, told what this run sent, and permitted to send again
//! when all who may have sent what it lost have told, or were waited for long enough.
//!
//! The gate itself is in the permit's own statement, which refuses from the promotion on; nothing here
//! has to be in time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::rounds::rounds;
use super::shared::Shared;
use crate::journal::Past;
use crate::ledger::{Fork, History, Ledger, LedgerError, Mended, Result};
use crate::operate;
use crate::telemetry::metrics;
use crate::testimony::{is_whole, testify};

/// How often the server is asked where it stands: of what it lost, so much may stay unsaid.
const EVERY: Duration = Duration::from_millis(250);
/// Daemons that the ledger has lost are given so long beyond a lease to notice, and to tell.
const SCAN: Duration = Duration::from_secs(1);
/// Hosts that the ledger knows and that say nothing are waited for so many leases.
const LEASES: u32 = 3;

/// What this daemon saw of the ledger's server.
#[derive(Default)]
struct Memory {
    /// The timeline that it follows; nothing where no server can take another's place.
    follows: Option<String>,
    /// How far its log was when it was seen last.
    wal: u64,
    /// An old primary answers, too.
    is_told: bool,
}

/// The failover loop of a daemon.
pub struct Failover {
    shared: Arc<Shared>,
    memory: Mutex<Memory>,
}

impl Failover {
    /// Follows the timeline that the server is on by now. Begun before the run is entered: what comes
    /// after is noticed.
    ///
    /// # Errors
    /// When the ledger is away.
    pub async fn begin(shared: Arc<Shared>) -> Result<Self> {
        let mut memory = Memory::default();
        if let Some(history) = shared.ledger.history().await? {
            shared.ledger.follow(&history.current);
            memory.wal = history.wal;
            memory.follows = Some(history.current);
        }
        let memory = Mutex::new(memory);
        Ok(Self { shared, memory })
    }

    /// Ticks until the daemon has ended.
    pub async fn run(&self) {
        rounds(EVERY, "failover", || self.tick()).await;
    }

    /// One look.
    ///
    /// # Errors
    /// When the ledger is away; the next look goes on.
    pub async fn tick(&self) -> Result<()> {
        let mut memory = self.memory.lock().await;
        if memory.follows.is_none() {
            return Ok(());
        }
        let Some(history) = noted(&*self.shared.ledger).await? else {
            return Ok(());
        };
        let follows = memory.follows.clone().unwrap_or_default();
        if history.current == follows {
            memory.wal = memory.wal.max(history.wal);
        } else if History::is_before(&history.current, &follows) {
            if !std::mem::replace(&mut memory.is_told, true) {
                tracing::error!(timeline = %history.current, "an old primary of the ledger still answers, although another server took its place: stop it; nothing is sent on its word");
            }
            return Ok(());
        } else {
            self.changed(&memory, &follows, &history).await?;
            *memory = Memory {
                wal: history.wal,
                follows: Some(history.current.clone()),
                is_told: false,
            };
        }
        match history.is_held() {
            true => self.lift(&history).await,
            false => Ok(()),
        }
    }

    /// Tells all that this run sent, once on each timeline.
    async fn changed(&self, memory: &Memory, follows: &str, history: &History) -> Result<()> {
        let ledger = &self.shared.ledger;
        // from here on an old primary's permit is none, and one that isn't used yet is void
        ledger.follow(&history.current);
        if let Some(journal) = &self.shared.tools.journal {
            journal.turn();
        }
        let Some(fork) = &history.fork else {
            // another server in its place, or another daemon was quicker: but this one was never on it
            return Ok(());
        };
        let lost = memory.wal.saturating_sub(fork.wal);
        let mended = self.tell(history, fork, lost).await?;
        tracing::error!(
            from = follows,
            to = %history.current,
            bytes = lost,
            told = mended.forward + mended.kept,
            "another server took the ledger over, and may have lost the newest commits: nothing is sent until every host has told what it sent"
        );
        Ok(())
    }

    /// Twice: what was heard while it was told the first time found no row to be written to.
    async fn tell(&self, history: &History, fork: &Fork, lost: u64) -> Result<Mended> {
        let mut mended = Mended::default();
        let mut whole = true;
        for _ in 0..2 {
            let past = self.past().await?;
            let Some(past) = past else { continue };
            let more = testify(&*self.shared.ledger, &history.current, &past).await?;
            mended.forward += more.forward;
            mended.kept += more.kept;
            mended.jobs.extend(more.jobs);
            whole &= is_whole(&past, &self.shared.run, fork.known_until);
        }
        call(&*self.shared.ledger, &mended).await?;
        if whole {
            let (ledger, run) = (&self.shared.ledger, self.shared.run_id());
            ledger.heard(&history.current, run, Some(lost)).await?;
        } else {
            tracing::error!(
                "the send journal doesn't hold all that was sent since the new server knows: what may have been sent is doubted"
            );
        }
        Ok(mended)
    }

    async fn past(&self) -> Result<Option<Past>> {
        let Some(journal) = &self.shared.tools.journal else {
            return Ok(None);
        };
        let told = journal.told().await;
        let told = told.map_err(|e| LedgerError::Away(format!("the send journal: {e}")))?;
        Ok(Some(told))
    }

    async fn lift(&self, history: &History) -> Result<()> {
        let lease = self.shared.config.load().lease;
        let wait = (lease + SCAN, lease * LEASES + SCAN);
        let Some(lifted) = self.shared.ledger.lift(history, wait).await? else {
            return Ok(());
        };
        metrics::promoted();
        let silent: Vec<&str> = history.silent.iter().map(|it| it.host.as_str()).collect();
        tracing::warn!(
            to = %history.current,
            bytes = lifted.lost_wal,
            doubted = lifted.doubted,
            strange = lifted.strange,
            silent = ?silent,
            "effects are permitted again"
        );
        self.shared.dispatch.all();
        self.shared.relay.notify_one();
        Ok(())
    }
}

/// Where the ledger's server stands; that it is another one now is written down.
///
/// # Errors
/// When the ledger is away.
pub async fn noted(ledger: &dyn Ledger) -> Result<Option<History>> {
    let history = ledger.history().await?;
    match &history {
        Some(it) if it.is_held() && it.fork.is_none() => {
            ledger.found().await?;
            ledger.history().await
        }
        _ => Ok(history),
    }
}

/// Calls the jobs of effects of which a testimony told the end.
///
/// # Errors
/// When the ledger is away; what isn't called comes back by itself, or is called by a person.
pub async fn call(ledger: &dyn Ledger, mended: &Mended) -> Result<()> {
    for job in &mended.jobs {
        // else it runs, is due anyway, or is lost
        if let Err(operate::Refused::Ledger(e)) = operate::told(ledger, *job).await {
            return Err(e);
        }
    }
    Ok(())
}
