//! What is read about a job that isn't running.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::askers::askers;
use super::full::{Full, Known, keeping, used_up};
use crate::budget::{Budget, Counted, Kept, Key, changed};
use crate::clock::Time;
use crate::config::Config;
use crate::effect::Effect;
use crate::fair::Fair;
use crate::fallback;
use crate::gate::{Closure, Shut};
use crate::job::{Job, JobId};
use crate::kinds;
use crate::ledger::{Filter, Ledger, LedgerError, Line, Pause, Run, Standing};
use crate::lifecycle::State;

/// Running jobs that are looked through for those that may hold a budget.
const BUSY: u32 = 200;
/// Places that are kept in one part of a budget are looked at up to this.
const PLACES: u32 = 10_000;

/// What was read about a job; what its state doesn't ask for is left empty.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The job.
    pub job: Job,
    /// Its effects.
    pub effects: Vec<Effect>,
    /// The ledger's time.
    pub now: Time,
    /// The kind is one that this program knows.
    pub kind_known: bool,
    /// What is closed, of whatever.
    pub closures: Vec<Closure>,
    /// Its lane's pause.
    pub pause: Option<Pause>,
    /// Where breakers stand.
    pub breakers: Vec<Standing>,
    /// Budgets as they hold now.
    pub budgets: BTreeMap<String, Budget>,
    /// What is used of them.
    pub counted: Vec<Counted>,
    /// The places that are kept in those that it would ask for.
    pub kept: BTreeMap<Key, Kept>,
    /// Runs of the daemon that live.
    pub runs: Vec<Run>,
    /// The running jobs of its lane, and their runs.
    pub running: Vec<(JobId, Uuid)>,
    /// Jobs that run in any lane, where they may hold what a budget allows at once.
    pub busy: Vec<Job>,
    /// When the lease of the run that has it ends.
    pub lease_until: Option<Time>,
    /// Where it is in line.
    pub line: Option<Line>,
}

impl Facts {
    /// Of a job of which nothing else was read yet.
    pub fn bare(job: Job, now: Time, kinds: &[String]) -> Self {
        Self {
            kind_known: kinds.contains(&job.kind),
            job,
            effects: Vec::new(),
            now,
            closures: Vec::new(),
            pause: None,
            breakers: Vec::new(),
            budgets: BTreeMap::new(),
            counted: Vec::new(),
            kept: BTreeMap::new(),
            runs: Vec::new(),
            running: Vec::new(),
            busy: Vec::new(),
            lease_until: None,
            line: None,
        }
    }

    /// Reads what the state of `job` asks for, and no more; `kinds` are those that this program knows.
    ///
    /// # Errors
    /// When the ledger is away.
    pub async fn read(
        ledger: &dyn Ledger,
        config: &Config,
        kinds: &[String],
        job: Job,
    ) -> Result<Self, LedgerError> {
        let mut it = Self::bare(job, ledger.now().await?, kinds);
        it.effects = ledger.effects(it.job.id).await?;
        if it.job.state.is_claimable() || it.job.state == State::Running {
            it.runs = ledger.live_runs().await?;
        }
        if let (State::Running, Some(run)) = (it.job.state, it.job.run) {
            it.lease_until = ledger.lease(run).await?;
        }
        if !it.job.state.is_claimable() {
            return Ok(it);
        }
        it.closures = ledger.closures().await?;
        let paused = ledger.paused().await?;
        it.pause = paused.into_iter().find(|pause| pause.lane == it.job.lane);
        it.breakers = ledger.breakers().await?;
        it.budgets = changed(&config.budgets, &ledger.budget_changes().await?, it.now);
        it.counted = ledger.all_counted().await?;
        it.running = ledger.running(&it.job.lane).await?;
        it.kept = it.places(ledger, config).await?;
        let full = used_up(&it.job, config, it.known(), it.now);
        let is_under_way = full.iter().any(Full::is_of_those_under_way);
        if is_under_way {
            let filter = Filter {
                states: vec![State::Running],
                limit: BUSY,
                ..Filter::default()
            };
            it.busy = ledger.jobs(&filter).await?;
        }
        if it.job.run_at <= it.now {
            let standing = fallback::standing(it.closures.iter(), config, kinds, it.now);
            let shut = Shut::of(&standing, config, it.now);
            let fair = Fair::of(config);
            it.line = Some(ledger.line(&it.job, kinds, &shut, &fair).await?);
        }
        Ok(it)
    }

    /// What is known of budgets.
    pub fn known(&self) -> Known<'_> {
        Known {
            budgets: &self.budgets,
            counted: &self.counted,
            kept: &self.kept,
        }
    }

    /// The places that are kept for others in what it would ask for.
    async fn places(
        &self,
        ledger: &dyn Ledger,
        config: &Config,
    ) -> Result<BTreeMap<Key, Kept>, LedgerError> {
        let mut all = BTreeMap::new();
        if self.job.wanted_at().is_some() {
            return Ok(all);
        }
        let kinds = kinds::all();
        for (key, budget) in keeping(&self.job, config, (&self.budgets, &self.counted)) {
            let Some(askers) = askers(budget, &key.whose, config, &kinds) else {
                continue;
            };
            let ahead = budget.form.looks_ahead().to_std().unwrap_or_default();
            let most = u32::try_from(budget.form.places(budget.amount)).unwrap_or(PLACES);
            let planned = ledger.planned(&askers, ahead, most.min(PLACES)).await?;
            let kept = Kept::of(budget.amount, planned.iter().map(|it| it.at));
            all.insert(key, kept);
        }
        Ok(all)
    }
}
