//! The doors' way to the ledger: group commit of what was admitted, and a bound on the backlog.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::batcher::Batcher;
use super::group::{self, Grouped, Grouping, answered};
use super::pressure::Pressure;
use super::shared::{BATCH, Shared};
use crate::crashpoint;
use crate::inbox::{Entry, Inbox, InboxError, place};
use crate::intake::{Answer, Refusal, Within, accept, admit_of, admit_within, quarantined};
use crate::job::{JobId, NewJob};
use crate::ledger::{LedgerError, Reason};
use crate::lifecycle::State;
use crate::sabotage;
use crate::telemetry::metrics;
use crate::together::Culprit;

type Accepting = Batcher<NewJob, Result<Answer, Arc<LedgerError>>>;

/// Why a door can't take a job now: later it may.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// The backlog is at its bound.
    #[error("the backlog is at its bound of {0} unfinished jobs; send again later")]
    Full(u64),
    /// The daemon is short of memory.
    #[error("the daemon is short of memory; send again with the same key")]
    Memory,
    /// The ledger can't be reached.
    #[error("the ledger can't be reached; send again with the same key")]
    Away,
    /// The daemon is stopping.
    #[error("the daemon is stopping; send again with the same key")]
    Stopping,
}

/// All doors of a daemon. Cloning shares them.
#[derive(Clone)]
pub struct Doors {
    shared: Arc<Shared>,
    accepting: Accepting,
    grouping: Grouping,
    backlog: Arc<AtomicU64>,
    complaints: Complaints,
}

/// The loops that empty an inbox wait for what comes in turn: while one writes down what it took, the next one
/// waits already. When lists of dead runs were looked for last.
#[derive(Default)]
pub struct Turn(tokio::sync::Mutex<Option<Instant>>);

/// What the loops that empty inboxes complain of, and how many of them.
type Complaints = Arc<Mutex<BTreeMap<String, usize>>>;

/// What one of those loops complains of; it ends with the loop. An outage is told once, however many loops
/// it stops: that it lasts is told by the metrics, and by who else waits for it.
struct Complaint<'a> {
    all: &'a Complaints,
    said: String,
}

impl<'a> Complaint<'a> {
    fn none(all: &'a Complaints) -> Self {
        Self {
            all,
            said: String::new(),
        }
    }

    /// Replaces it (by nothing: all is well again). Whether nobody else said the same already.
    fn is_news(&mut self, complaint: &str) -> bool {
        if self.said == complaint {
            return false;
        }
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = all.get_mut(&self.said) {
            *n -= 1;
            if *n == 0 {
                all.remove(&self.said);
            }
        }
        self.said = complaint.to_owned();
        if complaint.is_empty() {
            return false;
        }
        let n = all.entry(complaint.to_owned()).or_default();
        *n += 1;
        *n == 1
    }
}

impl Drop for Complaint<'_> {
    fn drop(&mut self) {
        self.is_news("");
    }
}

impl Doors {
    /// The doors of a daemon.
    pub fn new(shared: Arc<Shared>) -> Self {
        let ledger = shared.ledger.clone();
        let relay = shared.clone();
        let accepting = Batcher::start(BATCH, 3, move |batch: Vec<NewJob>| {
            let (ledger, shared) = (ledger.clone(), relay.clone());
            async move {
                match answered(accept(&*ledger, &batch)).await {
                    Ok(answers) => {
                        shared.hint(&batch, &answers);
                        answers.into_iter().map(Ok).collect()
                    }
                    Err(e) => {
                        let e = Arc::new(e);
                        batch.iter().map(|_| Err(e.clone())).collect()
                    }
                }
            }
        });
        Self {
            grouping: group::start(shared.clone()),
            shared,
            accepting,
            backlog: Arc::default(),
            complaints: Arc::default(),
        }
    }

    /// Takes one envelope's bytes; answers after the ledger's commit.
    ///
    /// # Errors
    /// When it can't be taken now.
    pub async fn submit(&self, bytes: &[u8]) -> Result<Answer, Busy> {
        self.submit_within(bytes, Within::default()).await
    }

    /// As [`Doors::submit`], where only some jobs are taken.
    ///
    /// # Errors
    /// As [`Doors::submit`].
    pub async fn submit_within(&self, bytes: &[u8], within: Within<'_>) -> Result<Answer, Busy> {
        let answer = match admit_within(&self.shared.rules(), JobId::mint(), bytes, within) {
            Ok(job) => self.submit_job(job).await?,
            Err(refusal) => Answer::Refused(refusal),
        };
        if matches!(answer, Answer::New { .. }) {
            self.backlog.fetch_add(1, Ordering::Relaxed);
        }
        Ok(answer)
    }

    /// Takes several envelopes, each with what alone is taken where it came; all or none, answered after
    /// the ledger's commit.
    ///
    /// # Errors
    /// When they can't be taken now.
    pub async fn submit_together(&self, all: &[(&[u8], Within<'_>)]) -> Result<Grouped, Busy> {
        let rules = self.shared.rules();
        let mut jobs = Vec::with_capacity(all.len());
        for (at, (bytes, within)) in all.iter().enumerate() {
            match admit_within(&rules, JobId::mint(), bytes, *within) {
                Ok(job) => jobs.push(job),
                Err(refusal) => {
                    let (at, answer) = (Some(at), Answer::Refused(refusal));
                    return Ok(Err(Culprit { at, answer }));
                }
            }
        }
        self.open()?;
        let grouped = match self.grouping.submit(jobs).await {
            Some(Ok(grouped)) => grouped,
            Some(Err(e)) => return Err(away(&e)),
            None => return Err(Busy::Stopping),
        };
        let new = |it: &&Answer| matches!(it, Answer::New { .. });
        let new = grouped.iter().flatten().filter(new).count();
        self.backlog.fetch_add(new as u64, Ordering::Relaxed);
        Ok(grouped)
    }

    /// Counts an answer of an inbox, for the metrics and for the bound on the backlog.
    fn counted(&self, door: &'static str, answer: &Answer) {
        match answer.refusal() {
            Some((reason, _)) => metrics::refused(door, reason.as_str()),
            None if matches!(answer, Answer::New { .. }) => {
                self.backlog.fetch_add(1, Ordering::Relaxed);
                metrics::accepted(door, 1);
            }
            None => {}
        }
    }

    fn is_pressed(&self) -> bool {
        self.shared.pressure.get() == Pressure::Critical
    }

    /// Counts jobs that the quarantine let go.
    pub fn released(&self, jobs: u64) {
        self.backlog.fetch_add(jobs, Ordering::Relaxed);
        metrics::accepted("quarantine", jobs);
    }

    /// Whether the backlog is at its bound.
    pub fn is_full(&self) -> bool {
        self.shared.config.load().backlog_max <= self.backlog.load(Ordering::Relaxed)
    }

    /// Whether nothing is taken from inboxes now.
    fn is_shut(&self) -> bool {
        self.is_pressed() || self.is_full()
    }

    /// Whether a job can be taken now.
    fn open(&self) -> Result<(), Busy> {
        if self.shared.draining.is_cancelled() {
            return Err(Busy::Stopping);
        }
        if self.is_pressed() {
            return Err(Busy::Memory);
        }
        if self.is_full() {
            return Err(Busy::Full(self.shared.config.load().backlog_max));
        }
        Ok(())
    }

    async fn submit_job(&self, job: NewJob) -> Result<Answer, Busy> {
        self.open()?;
        if sabotage!("intake.commit") {
            let (id, lane) = (job.id, job.lane.clone());
            let accepting = self.accepting.clone();
            tokio::spawn(async move { accepting.submit(job).await.is_some() });
            return Ok(Answer::New {
                id,
                lane,
                due: true,
                repeats: None,
            });
        }
        match self.accepting.submit(job).await {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(e)) => Err(away(&e)),
            None => Err(Busy::Stopping),
        }
    }

    /// How many unfinished jobs the ledger held when it was last counted, and what came since.
    pub fn backlog(&self) -> u64 {
        self.backlog.load(Ordering::Relaxed)
    }

    /// Counts the backlog from time to time, for the bound.
    pub async fn count(&self) {
        loop {
            let began = Instant::now();
            if let Ok(counts) = self.shared.ledger.counts().await {
                let unfinished = counts.iter().filter(|((_, state), _)| !state.is_terminal());
                self.backlog
                    .store(unfinished.map(|(_, n)| n).sum(), Ordering::Relaxed);
                for lane in self.shared.config.load().lanes.keys() {
                    for state in State::ALL {
                        let n = counts.get(&(lane.clone(), *state)).copied().unwrap_or(0);
                        metrics::jobs(lane, state.as_str(), n);
                    }
                }
            }
            for inbox in &self.shared.inboxes {
                if let Ok(waiting) = inbox.waiting().await {
                    metrics::inbox_waiting(inbox.door(), inbox.tenant(), waiting);
                }
            }
            let pause = began.elapsed() * COUNT_SHARE;
            tokio::time::sleep(pause.clamp(COUNT_EVERY, COUNT_LATEST)).await;
        }
    }

    /// Moves entries of an inbox until the daemon drains. Each `slot` has a list of its own; all slots of an
    /// inbox share `turn`.
    pub async fn inbox(&self, inbox: Arc<dyn Inbox>, slot: u32, turn: Arc<Turn>) {
        let me = self.shared.run_id();
        let draining = &self.shared.draining;
        let mut complaint = Complaint::none(&self.complaints);
        // what is in the slot's list already is taken without waiting for more
        let mut waits = false;
        while let Some(mut looked) = draining.run_until_cancelled(turn.0.lock()).await {
            if looked.is_none_or(|it| ADOPT_EVERY < it.elapsed()) {
                *looked = Some(Instant::now());
                if let Err(e) = self.adopt(&*inbox).await {
                    tracing::debug!("inbox: {e}");
                }
            }
            if waits && !self.is_shut() {
                draining.run_until_cancelled(inbox.arrived()).await;
            }
            let moved = Instant::now();
            let taken = self.take(&*inbox, me, slot, MOST).await;
            drop(looked);
            let done = match taken {
                Ok(entries) => self.enter(&*inbox, me, slot, (entries, moved)).await,
                Err(e) => Err(e),
            };
            match &done {
                Ok(_) => {
                    complaint.is_news("");
                }
                Err(e) if complaint.is_news(e) => tracing::warn!("inbox: {e}"),
                Err(_) => {}
            }
            waits = done.as_ref().is_ok_and(|n| *n < MOST as usize);
            if done.is_err() || self.is_shut() {
                let pause = tokio::time::sleep(SHUT);
                draining.run_until_cancelled(pause).await;
            }
        }
    }

    /// Takes over the lists of dead runs: their entries have their ids already, so that taking one
    /// twice makes one job.
    async fn adopt(&self, inbox: &dyn Inbox) -> Result<(), String> {
        let holders = inbox.holders().await.map_err(|e| e.to_string())?;
        let me = self.shared.run_id();
        if holders.iter().all(|(run, _)| *run == me) {
            return Ok(());
        }
        let live = self
            .shared
            .ledger
            .live_runs()
            .await
            .map_err(|e| e.to_string())?;
        for (run, slot) in holders {
            if !live.iter().any(|it| it.id == run) {
                self.tick(inbox, run, slot, 0).await?;
            }
        }
        Ok(())
    }

    /// One batch of the inbox (at most `most` entries; 0: only what the list holds already): moved,
    /// written down, removed, in this order. How many there were.
    ///
    /// # Errors
    /// When Redis or the ledger is away: then the entries stay in the list, with their ids.
    pub async fn tick(
        &self,
        inbox: &dyn Inbox,
        run: uuid::Uuid,
        slot: u32,
        most: u32,
    ) -> Result<usize, String> {
        let moved = Instant::now();
        let entries = self.take(inbox, run, slot, most).await?;
        self.enter(inbox, run, slot, (entries, moved)).await
    }

    /// Moves entries to a slot's list; what that holds.
    async fn take(
        &self,
        inbox: &dyn Inbox,
        run: uuid::Uuid,
        slot: u32,
        most: u32,
    ) -> Result<Vec<Entry>, String> {
        if self.is_shut() && most != 0 {
            // it stays in the inbox: Redis is asked for nothing
            return Ok(Vec::new());
        }
        let said = |e: InboxError| e.to_string();
        crashpoint!("inbox.before_take", InboxError).map_err(said)?;
        inbox.take(run, slot, most).await.map_err(said)
    }

    /// Writes down the entries of a slot's list, moved there at some time, and removes them.
    async fn enter(
        &self,
        inbox: &dyn Inbox,
        run: uuid::Uuid,
        slot: u32,
        (entries, moved): (Vec<Entry>, Instant),
    ) -> Result<usize, String> {
        if entries.is_empty() {
            return Ok(0);
        }
        let said = |e: InboxError| e.to_string();
        if sabotage!("inbox.commit") {
            inbox.done(run, slot, &entries).await.map_err(said)?;
        }
        crashpoint!("inbox.after_take", InboxError).map_err(said)?;
        let answers = self
            .write_down(inbox, &entries)
            .await
            .map_err(|e| e.to_string())?;
        crashpoint!("inbox.after_commit", LedgerError::Away).map_err(|e| e.to_string())?;
        for (_, answer) in &answers {
            self.counted(inbox.door(), answer);
        }
        if !inbox.is_durable() {
            metrics::inbox_exposure(moved.elapsed());
        }
        inbox.done(run, slot, &entries).await.map_err(said)?;
        crashpoint!("inbox.after_done", InboxError).map_err(said)?;
        self.reply(inbox, &answers).await;
        Ok(entries.len())
    }

    async fn write_down(
        &self,
        inbox: &dyn Inbox,
        entries: &[Entry],
    ) -> Result<Vec<(Option<String>, Answer)>, LedgerError> {
        let (rules, place) = (self.shared.rules(), place(inbox));
        let mut jobs = Vec::new();
        let mut answers: Vec<(Option<String>, Option<Answer>)> = Vec::new();
        for entry in entries {
            match admit_of(&rules, entry.id, &entry.bytes, inbox.tenant()) {
                Ok(mut job) => {
                    // without a key of its own, the id that it got when it was moved is its key: an
                    // entry that is taken twice is one job even when the first has ended already
                    job.key
                        .get_or_insert_with(|| format!("{place}:{}", entry.id));
                    answers.push((job.reply_to.clone(), None));
                    jobs.push(job);
                }
                Err(refusal) => {
                    let reply_to = reply_to(&entry.bytes);
                    answers.push((reply_to, Some(Answer::Refused(refusal))));
                }
            }
        }
        let mut accepted = accept(&*self.shared.ledger, &jobs).await?;
        self.shared.hint(&jobs, &accepted);
        accepted.reverse();
        let answers: Vec<(Option<String>, Answer)> = answers
            .into_iter()
            .map(|(reply_to, answer)| {
                (
                    reply_to,
                    answer.or_else(|| accepted.pop()).unwrap_or_else(defect),
                )
            })
            .collect();
        let now = self.shared.clock.now();
        let kept = entries.iter().zip(&answers);
        let kept: Vec<_> = kept
            .filter_map(|(it, (_, answer))| quarantined(&place, it.id, now, &it.bytes, answer))
            .collect();
        if !kept.is_empty() {
            tracing::warn!(
                entries = kept.len(),
                "inbox: to quarantine (presswork quarantine list)"
            );
            self.shared.ledger.quarantine(&kept).await?;
        }
        Ok(answers)
    }

    async fn reply(&self, inbox: &dyn Inbox, answers: &[(Option<String>, Answer)]) {
        for (token, answer) in answers {
            let Some(token) = token else { continue };
            let receipt = receipt(answer).to_string();
            if let Err(e) = inbox.reply(token, &receipt).await {
                tracing::warn!("inbox: a receipt was lost: {e}");
            }
        }
    }
}

fn away(e: &LedgerError) -> Busy {
    tracing::warn!("intake: {e}");
    Busy::Away
}

/// How often the backlog is counted; what comes in between is added at once.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// A count reads all that is unfinished: of a large backlog it is made less often, so that it takes
/// this part of the time at most, but as often as this.
const COUNT_SHARE: u32 = 50;
const COUNT_LATEST: Duration = Duration::from_secs(60);
/// How often an inbox is looked at while nothing can be taken from it.
const SHUT: Duration = Duration::from_millis(250);
/// Entries that the inbox gives at once.
const MOST: u32 = 500;
/// How often lists of dead runs are looked for.
const ADOPT_EVERY: Duration = Duration::from_secs(1);

/// Where the answer to an envelope that can't be accepted may still go, if it says so.
fn reply_to(bytes: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Only {
        reply_to: String,
    }
    let Only { reply_to } = serde_json::from_slice(bytes).ok()?;
    // the inbox refuses what is no token
    Some(reply_to)
}

/// One answer each is the ledger's contract; without one the entry is kept, not lost.
fn defect() -> Answer {
    let violations = vec![crate::json::Violation::new(
        "",
        "the ledger gave no answer: a defect",
    )];
    Answer::Refused(Refusal {
        reason: Reason::Refused,
        violations,
        kind: None,
    })
}

/// An answer as JSON: the same at every door.
pub fn receipt(answer: &Answer) -> serde_json::Value {
    match answer {
        Answer::New { id, repeats, .. } => {
            let mut told = serde_json::json!({"result": "new", "id": id});
            if let Some(other) = repeats {
                told["repeats"] = serde_json::json!(other);
            }
            told
        }
        Answer::Repeats { id } => serde_json::json!({"result": "repeats", "id": id}),
        Answer::Same { id, differs } => {
            serde_json::json!({"result": "same", "id": id, "differs": differs})
        }
        Answer::Conflict { id, differs } => {
            serde_json::json!({"result": "conflict", "id": id, "differs": differs})
        }
        Answer::Refused(it) => {
            serde_json::json!({"result": "refused", "reason": it.reason, "violations": it.violations})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_loops_complain_of_is_news_once_until_all_are_well() {
        let all = Complaints::default();
        let (mut one, mut two) = (Complaint::none(&all), Complaint::none(&all));
        assert!(one.is_news("away") && !one.is_news("away") && !two.is_news("away"));
        assert!(two.is_news("loading"));
        assert!(!two.is_news("") && !one.is_news(""));
        assert!(two.is_news("away"), "it came back");
        drop(two);
        assert!(one.is_news("away"), "who said it is gone");
        drop(one);
        assert!(all.lock().unwrap().is_empty());
    }
}
