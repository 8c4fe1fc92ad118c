//! The effect protocol, which keeps "nothing is published or paid for twice": written down, permitted
//! once, sent, concluded; and looked up before it is ever repeated.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{ExponentialBuilder, Retryable};
use tokio_util::sync::CancellationToken;

use crate::clock::{Time, stamp};
use crate::content::{Guard, Reaction};
use crate::crashpoint;
use crate::effect::{
    Effect, EffectClass, EffectId, EffectState, Evidence, Looking, Next, Receipt, chrono_of,
    intent_digest, next, restored,
};
use crate::gate::Subject;
use crate::journal::Journal;
use crate::ledger::{Conclusion, Fence, Ledger, LedgerError};
use crate::outcome::{Class, Failure, Held, Outcome, Scope};
use crate::platform::CallError;
use crate::platform::gate::{self, Caller};
use crate::platform::verdict::settle;
use crate::sabotage;
use crate::sync::{RwLock, timeout};
use crate::telemetry::metrics;
use crate::wanted::{LOOKED, Permit, Wanted, concluded, shown};

/// The effects of one attempt.
pub struct Protocol {
    ledger: Arc<dyn Ledger>,
    journal: Option<Journal>,
    fence: Fence,
    subject: Subject,
    guard: Option<Guard>,
    lease: Duration,
    cancelled: CancellationToken,
    called_off: bool,
    elsewhere: Vec<String>,
    caller: Option<Caller>,
    /// Read-locked from a permit to its conclusion: an attempt isn't ended midway.
    sending: RwLock<()>,
}

impl Protocol {
    /// The effects of an attempt for a job, the guard of its account, and whose gate its sends go through;
    /// whose writes compare `fence`. None is begun once `cancelled` has fired.
    pub fn new(
        ledger: Arc<dyn Ledger>,
        journal: Option<Journal>,
        fence: Fence,
        (subject, guard, caller): (Subject, Option<Guard>, Option<Caller>),
        lease: Duration,
        cancelled: CancellationToken,
    ) -> Self {
        Self {
            ledger,
            journal,
            fence,
            subject,
            guard,
            lease,
            cancelled,
            called_off: false,
            elsewhere: Vec::new(),
            caller,
            sending: RwLock::new(()),
        }
    }

    /// The effects of an attempt that only sees to what is under way, since its job was called off.
    pub fn of_called_off(self, called_off: bool) -> Self {
        Self { called_off, ..self }
    }

    /// The effects of an attempt for a job that other accounts, these, may have done.
    pub fn beside(self, elsewhere: Vec<String>) -> Self {
        Self { elsewhere, ..self }
    }

    /// Waits until no call is under way, and says whether one was.
    pub async fn idle(&self) -> bool {
        let quiet = self.sending.try_write().is_ok();
        if !quiet {
            drop(self.sending.write().await);
        }
        !quiet
    }

    /// Makes an effect happen, at most once a permit, and returns its receipt. A re-run finds what
    /// an earlier run did. `send` makes the one call; it must not repeat anything by itself.
    ///
    /// # Errors
    /// What was refused, as its failure; class unknown when the answer was lost and the effect may
    /// be looked at again; `Unresolved` when only a person can say; `Held` when this run would send
    /// something else than was written down; `Released` when the lease is lost.
    pub async fn effect<S, F>(&self, wanted: Wanted<'_>, send: S) -> Result<Receipt, Outcome>
    where
        S: FnOnce(Permit) -> F,
        F: Future<Output = Result<Receipt, CallError>>,
    {
        let intent = intent_digest(&wanted.intent);
        let row = self.intended(&wanted, &intent);
        let found = self.ledger.intend(&self.fence, &row).await.map_err(away)?;
        let Some((effect, now)) = found else {
            return Err(self.held_or_lost().await);
        };
        crashpoint!("effect.after_intent", LedgerError::Away).map_err(away)?;
        if let Some(why) = self.done_elsewhere(&wanted, &effect).await? {
            return self.ask(effect, why, now).await;
        }
        let patience = self.patience(&wanted, &effect).await?;
        match next(&effect, &wanted.rule, &intent, patience, now) {
            Next::Done(receipt) => Ok(*receipt),
            // only a repeat under our key tells what became of it; else nothing more is sent, nor paid for
            found @ (Next::Send | Next::Repeat)
                if self.called_off
                    && (found == Next::Send || wanted.rule.class != EffectClass::A) =>
            {
                Err(Outcome::Cancelled)
            }
            Next::Send | Next::Repeat => self.send(&wanted, effect, now, send).await,
            Next::Wait(until) => {
                let message = format!("{}: an earlier request may still be under way", wanted.op);
                let failure = Failure::new(Class::Unknown, Scope::Platform, "in_flight", message);
                Err(failure.after(Some(until - now)).into())
            }
            Next::LookUp(looking) => self.look_up(effect, looking, now).await,
            Next::Ask(why) => self.ask(effect, why, now).await,
            Next::Nondeterministic => {
                let message = format!(
                    "step `{}` would send something else than effect {} wrote down; look at both, then revive with --edit or cancel",
                    wanted.step, effect.id
                );
                Err(Outcome::Held(
                    Held::Nondeterministic,
                    Failure::permanent("nondeterministic", message),
                ))
            }
        }
    }

    /// Why what was never sent here may have been sent for another account that could do the job: the
    /// ledger has lost who was chosen, and only a person can say what became of it. Paid work is repeated as
    /// after any lost answer, where nothing tells of it.
    async fn done_elsewhere(
        &self,
        wanted: &Wanted<'_>,
        effect: &Effect,
    ) -> Result<Option<String>, Outcome> {
        let unsent = effect.sends == 0
            && matches!(
                (effect.state, effect.maybe_since),
                (EffectState::Intended, _) | (EffectState::Unknown, Some(_))
            );
        if self.elsewhere.is_empty() || !unsent || sabotage!("effect.elsewhere") {
            return Ok(None);
        }
        let (job, revision) = (effect.job, effect.revision);
        let at = |it: &String| EffectId::new(job, revision, wanted.step, wanted.ordinal, it);
        let all: Vec<EffectId> = self.elsewhere.iter().map(at).collect();
        let Some(told) = self.ledger.told_of(&all).await.map_err(away)? else {
            return Err(self.held_or_lost().await);
        };
        let mut there = self.elsewhere.iter().zip(&all);
        if let Some((account, _)) = there.find(|it| told.contains(it.1)) {
            return Ok(Some(told_elsewhere(account)));
        }
        let maybe = effect
            .maybe_since
            .filter(|_| wanted.rule.class == EffectClass::A);
        Ok(maybe.map(|backup| maybe_elsewhere(backup, &self.elsewhere)))
    }

    /// How long an earlier request without an answer may still be under way: as long as its budget
    /// while the run that sent it lives (it will write the answer down), else the platform's part.
    async fn patience(&self, wanted: &Wanted<'_>, effect: &Effect) -> Result<Duration, Outcome> {
        let other = effect.permit_run.filter(|it| *it != self.fence.run);
        match other {
            Some(run) if effect.state == EffectState::Sending => {
                let live = self.ledger.live_runs().await.map_err(away)?;
                let lives = live.iter().any(|it| it.id == run);
                Ok(if lives {
                    wanted.budget
                } else {
                    wanted.rule.in_flight
                })
            }
            _ => Ok(wanted.rule.in_flight),
        }
    }

    fn intended(&self, wanted: &Wanted<'_>, intent: &str) -> Effect {
        let (job, revision) = (self.fence.job, self.fence.revision);
        let account = self.subject.account.as_deref().unwrap_or("");
        let (step, op) = ((wanted.step, wanted.ordinal), wanted.op);
        let guard = self.guard.filter(|_| wanted.says.is_some());
        let refuses = guard.filter(|it| it.reaction == Reaction::Refuse);
        Effect {
            intent: intent.to_owned(),
            keep: wanted.keep.clone(),
            content: wanted.says.filter(|_| guard.is_some()),
            guard_s: refuses.and_then(Guard::looks_back_s),
            ..Effect::new((job, revision), step, account, op, wanted.rule.class)
        }
    }

    async fn send<S, F>(
        &self,
        wanted: &Wanted<'_>,
        effect: Effect,
        now: Time,
        send: S,
    ) -> Result<Receipt, Outcome>
    where
        S: FnOnce(Permit) -> F,
        F: Future<Output = Result<Receipt, CallError>>,
    {
        // before its permit, which isn't kept waiting
        let spend = gate::spend(&effect, &wanted.price, self.fence.token);
        let what = (wanted.op, Some(&spend));
        let caller = gate::in_turn(self.caller.as_ref(), &effect, now).await?;
        let mut pass = gate::pass(caller.as_ref(), what, wanted.budget).await?;
        let _under_way = self.sending.read().await;
        if self.cancelled.is_cancelled() {
            pass.over(false);
            return Err(stopped());
        }
        let from = (effect.state, effect.sends);
        // heartbeats renew the lease while a long send goes on; it is only asked to be fresh
        let left = wanted.budget.min(self.lease / 2);
        self.warn(&effect, now).await?;
        let asked = Instant::now();
        let turns = self.journal.as_ref().map(Journal::turns);
        let permitted = self.permit(effect.id, from, left).await;
        if !permitted.map_err(away)? {
            pass.over(false);
            return Err(self.denied(&effect, now).await);
        }
        let sends = effect.sends + 1;
        if sends == 1 && caller.is_some_and(|it| it.overdue) {
            metrics::late("publish");
        }
        let permit = Permit {
            id: effect.id,
            keep: effect.keep.clone(),
            send: sends,
            lost: effect.lost(),
        };
        if let Err(e) = self.note_send(effect.id, sends, now).await {
            let why = format!("the send journal can't be written: {e}");
            return self.unsent(wanted, &effect, sends, now, &why).await;
        }
        if turns != self.journal.as_ref().map(Journal::turns) {
            let why = "another server has taken the ledger over since this was permitted";
            return self.unsent(wanted, &effect, sends, now, why).await;
        }
        if left < asked.elapsed() && !sabotage!("permit.asleep") {
            // stopped, or starved: by now another run may be told that this one is dead
            let why = "its daemon was asleep for longer than its lease lasts";
            return self.unsent(wanted, &effect, sends, now, why).await;
        }
        let bill = pass.bill();
        let (answer, left) = gate::with(pass, timeout(wanted.budget, send(permit))).await;
        if let Some(pass) = left {
            // no request of the client's went with it: what was done instead is known by its answer
            pass.over(!matches!(answer, Ok(Err(CallError::Refused(_)))));
        }
        let answer = answer.unwrap_or_else(|_| {
            let message = format!("no answer within {} s", wanted.budget.as_secs());
            let failure = Failure::new(Class::Unknown, Scope::Platform, "timeout", message);
            Err(CallError::Unknown(failure))
        });
        settle(bill, &answer);
        let answer = answer.map(shown);
        let (conclusion, result) = concluded(wanted, effect.lost(), sends, now, answer);
        self.note_answer(effect.id, sends, now, &conclusion).await;
        let kept = self.conclude(effect.id, sends, &conclusion).await?;
        metrics::effect(wanted.op, conclusion.to.as_str());
        if kept {
            return result;
        }
        // it was decided otherwise meanwhile; what was seen is kept for whoever looks
        let Evidence { at, seen, .. } = conclusion.evidence;
        let late = Evidence::new(at, format!("came late: {seen}"));
        self.ledger.witness(effect.id, &late).await.map_err(away)?;
        Err(lease_lost())
    }

    async fn permit(
        &self,
        id: EffectId,
        from: (EffectState, u32),
        left: Duration,
    ) -> Result<bool, LedgerError> {
        crashpoint!("effect.before_permit", LedgerError::Away)?;
        let (fence, platform) = (&self.fence, self.subject.platform.as_deref());
        let permitted = self.ledger.permit(fence, id, from, left, platform).await?;
        crashpoint!("effect.after_permit", LedgerError::Away)?;
        Ok(permitted)
    }

    /// Tells that the account said the same, where its guard does no more than that.
    async fn warn(&self, effect: &Effect, now: Time) -> Result<(), Outcome> {
        let warns = |it: &Guard| it.reaction == Reaction::Warn && effect.content.is_some();
        let Some(guard) = self.guard.filter(warns) else {
            return Ok(());
        };
        let other = self.ledger.repeats(effect.id, guard.within).await;
        let Some(other) = other.map_err(away)? else {
            return Ok(());
        };
        let seen = other.said_the_same();
        tracing::warn!(job = %effect.job, effect = %effect.id, op = effect.op, "{seen}");
        let evidence = Evidence::new(now, seen);
        self.ledger
            .witness(effect.id, &evidence)
            .await
            .map_err(away)
    }

    /// Why there was no permit: it is shut, the account said the same, or the lease is lost.
    async fn denied(&self, effect: &Effect, now: Time) -> Outcome {
        let shut = match self.ledger.closures().await {
            Err(e) => return away(e),
            Ok(closed) => closed.into_iter().find(|it| it.scope.fits(&self.subject)),
        };
        if let Some(reason) = shut.map(|it| it.to_string()) {
            return Outcome::shut(reason);
        }
        let Some(within_s) = effect.guard_s else {
            return self.held_or_lost().await;
        };
        let within = Duration::from_secs(within_s.into());
        match self.ledger.repeats(effect.id, within).await {
            Err(e) => away(e),
            Ok(None) => self.held_or_lost().await,
            Ok(Some(other)) => {
                let said = other.said_the_same();
                let until = other.permit_at.unwrap_or(now) + chrono_of(within);
                let message = format!(
                    "nothing was sent: {said}; revive it with another text (--edit), or after {}; a new job may say \"again\": true",
                    stamp(until)
                );
                Failure::permanent("same_content", message).into()
            }
        }
    }

    /// Why the ledger didn't take it: another server took the ledger's place and isn't told everything
    /// yet, or the lease is lost.
    async fn held_or_lost(&self) -> Outcome {
        match self.ledger.history().await {
            Err(e) => away(e),
            Ok(Some(history)) if history.is_held() => {
                let message = "nothing was sent: another server took the ledger over, and hosts are still telling it what they sent";
                let failure = Failure::new(Class::Throttled, Scope::Handler, "taken_over", message);
                failure.after(Some(chrono_of(UNSENT))).into()
            }
            Ok(_) => lease_lost(),
        }
    }

    /// The host's journal has the send before its first byte leaves: a crash from here on leaves
    /// something to read.
    async fn note_send(&self, id: EffectId, sends: u32, now: Time) -> io::Result<()> {
        let broken = |e: LedgerError| io::Error::other(e.to_string());
        crashpoint!("journal.before_send", LedgerError::Away).map_err(broken)?;
        if let Some(journal) = &self.journal
            && !sabotage!("permit.journal")
        {
            journal.send(id, sends, now).await?;
        }
        crashpoint!("journal.after_send", LedgerError::Away).map_err(broken)
    }

    /// What was heard is on this host before it is in the ledger, which may be away.
    async fn note_answer(&self, id: EffectId, sends: u32, now: Time, it: &Conclusion) {
        crashpoint!("journal.before_answer");
        if let Some(journal) = &self.journal
            && let Err(e) = journal.answer(id, sends, now, it).await
        {
            tracing::warn!(effect = %id, "the send journal can't be written, so that a crash now would lose an answer: {e}");
        }
        crashpoint!("journal.after_answer");
    }

    /// Nothing is sent for a reason of this host's; the permit is spent, and no attempt.
    async fn unsent(
        &self,
        wanted: &Wanted<'_>,
        effect: &Effect,
        sends: u32,
        now: Time,
        why: &str,
    ) -> Result<Receipt, Outcome> {
        let message = format!("nothing was sent, since {why}");
        let failure = Failure::new(Class::Throttled, Scope::Handler, "not_sent", message)
            .after(Some(chrono_of(UNSENT)));
        let refused = Err(CallError::Refused(failure));
        let (conclusion, result) = concluded(wanted, effect.lost(), sends, now, refused);
        // where the send itself stands there, a server that lost the ledger's word must not doubt it
        self.note_answer(effect.id, sends, now, &conclusion).await;
        self.conclude(effect.id, sends, &conclusion).await?;
        result
    }

    /// Writes down what a permit led to. An answer that is known is worth waiting for: while the
    /// ledger is away it tries again, as long as a drain or a lease leaves it.
    async fn conclude(&self, id: EffectId, sends: u32, it: &Conclusion) -> Result<bool, Outcome> {
        let waits = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(1))
            .with_total_delay(Some(CONCLUDE))
            .without_max_times();
        let written = async || {
            crashpoint!("effect.after_response", LedgerError::Away)?;
            let kept = self.ledger.conclude(id, sends, it).await?;
            crashpoint!("effect.after_conclude", LedgerError::Away)?;
            Ok(kept)
        };
        let written = written.retry(waits).when(LedgerError::is_away).await;
        if let (Some(journal), Ok(_)) = (&self.journal, &written) {
            journal.concluded(id, sends);
        }
        written.map_err(away)
    }

    /// Leaves the effect to the reconciler; the job comes back after each look, and is called as soon
    /// as one told.
    async fn look_up(
        &self,
        effect: Effect,
        looking: Looking,
        now: Time,
    ) -> Result<Receipt, Outcome> {
        let at = match effect.look_at {
            Some(at) => at,
            None => {
                let seen = "no answer was heard, and its sender is gone".to_owned();
                let conclusion = Conclusion {
                    to: EffectState::Unknown,
                    receipt: None,
                    evidence: Evidence::new(now, seen),
                    look_in: Some(looking.wait(0)),
                };
                let from = (effect.state, effect.sends);
                let decided = self.ledger.decide(effect.id, from, &conclusion, None).await;
                if !decided.map_err(away)? {
                    return Err(lease_lost());
                }
                now + chrono_of(looking.wait(0))
            }
        };
        let message = format!(
            "{}: the answer was lost; it is looked for at the platform before anything is sent",
            effect.op
        );
        let failure = Failure::new(Class::Unknown, Scope::Platform, "looked_for", message);
        let back = (at - now).max(chrono::Duration::zero()) + chrono_of(LOOKED);
        Err(failure.after(Some(back)).into())
    }

    async fn ask(&self, effect: Effect, why: String, now: Time) -> Result<Receipt, Outcome> {
        let message = format!(
            "{} ({}): {why}; look there, then `presswork unresolved resolve {} --happened --url URL` or `--did-not-happen`",
            effect.op, effect.account, effect.job
        );
        if effect.state != EffectState::Unresolved {
            let evidence = Evidence::new(now, why);
            let conclusion = Conclusion {
                to: EffectState::Unresolved,
                receipt: None,
                evidence,
                look_in: None,
            };
            self.ledger
                .decide(effect.id, (effect.state, effect.sends), &conclusion, None)
                .await
                .map_err(away)?;
        }
        Err(Outcome::Unresolved(Failure::new(
            Class::Unknown,
            Scope::Platform,
            "unresolved",
            message,
        )))
    }
}

/// What kept a send from leaving (a disk that is full, a sleep) is hoped to be over after this.
const UNSENT: Duration = Duration::from_secs(1);
/// How long a known answer is kept for a ledger that is away.
const CONCLUDE: Duration = Duration::from_secs(60);

/// What a host's send journal tells, and the ledger doesn't know.
fn told_elsewhere(account: &str) -> String {
    format!(
        "a host's send journal tells that it was sent for account `{account}`, which stood in; the ledger has lost that"
    )
}

/// What a restored ledger can't know.
fn maybe_elsewhere(backup: Time, accounts: &[String]) -> String {
    let (since, all) = (restored(backup), accounts.join("`, `"));
    format!("{since}, perhaps for another account that could do it (`{all}`)")
}

/// An attempt that is asked to stop hasn't failed.
pub(crate) fn stopped() -> Outcome {
    Outcome::released("the attempt was asked to stop")
}

/// What another run owns isn't written.
pub(crate) fn lease_lost() -> Outcome {
    Outcome::released("the lease was lost")
}

/// A ledger that is away charges no attempt: stopping is not failing.
pub(crate) fn away(error: LedgerError) -> Outcome {
    Outcome::released(error.to_string())
}
