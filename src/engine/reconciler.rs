//! The reconciler: looks for what became of effects of which no answer was heard.
//!
//! It looks after growing waits, at one effect of an account at a time, and writes down what it saw.
//! What it finds out calls the job; what it can't find out in its time is left to a person.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::rounds::rounds;
use super::scopes;
use super::shared::Shared;
use crate::context::Probe;
use crate::crashpoint;
use crate::effect::{Effect, EffectState, IN_FLIGHT, Looking};
use crate::finding::{Finding, judge};
use crate::ledger::{Conclusion, LedgerError, Result};
use crate::operate;
use crate::telemetry::metrics;
use crate::wanted::{redacted, shown};

/// How often due looks are looked for.
const EVERY: Duration = Duration::from_millis(500);
/// Looks that a tick takes at most.
const MOST: u32 = 32;
/// What a look may take.
const LOOK: Duration = Duration::from_secs(20);
/// What was published so long before may still be taken for what was sent then.
const AROUND: chrono::Duration = chrono::Duration::days(1);
/// Nobody else takes what this one took: all of an account's looks of a tick may be slow.
const HOLD: Duration = Duration::from_secs(60);

/// The reconciler of a daemon.
pub struct Reconciler {
    shared: Arc<Shared>,
}

impl Reconciler {
    /// The reconciler.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Ticks until the daemon has ended.
    pub async fn run(&self) {
        rounds(EVERY, "reconciler", || self.tick()).await;
    }

    /// One round: every look that is due, at most `MOST` of them. How many there were.
    ///
    /// # Errors
    /// When the ledger is away; the next round goes on.
    pub async fn tick(&self) -> Result<usize> {
        let due = self.shared.ledger.looks_due(MOST, HOLD).await?;
        let looks = due.len();
        let mut accounts: BTreeMap<String, Vec<Effect>> = BTreeMap::new();
        for it in due {
            accounts.entry(it.account.clone()).or_default().push(it);
        }
        // a storm of look-ups would be a storm of requests
        let one_by_one = |effects: Vec<Effect>| async {
            for effect in effects {
                self.look(effect).await?;
            }
            Ok(())
        };
        let done: Vec<Result<()>> = join_all(accounts.into_values().map(one_by_one)).await;
        done.into_iter().collect::<Result<Vec<()>>>()?;
        Ok(looks)
    }

    async fn look(&self, effect: Effect) -> Result<()> {
        // it comes up again once the hold is over
        let now = self.shared.clock.now();
        if self.shared.quiet.until(&effect.account, now).is_some() {
            return Ok(());
        }
        let Some(job) = self.shared.ledger.job(effect.job).await? else {
            return Ok(());
        };
        let config = self.shared.config.load_full();
        let kind = self.shared.kind(&job.kind);
        let rule = kind.and_then(|it| Some((it, it.looked_up(&config)?)));
        let (looking, in_flight, finding) = match rule {
            Some((kind, rule)) => {
                let heard = scopes::ear(&self.shared, Some(&effect.account));
                let http = self.shared.tools.http_of(&job, &config);
                let http = http.heard_by(heard.clone());
                let probe = Probe { job, config, http };
                let looked = tokio::time::timeout(LOOK, kind.look(probe, effect.clone())).await;
                scopes::learn(&self.shared, Some(&effect.account), &heard).await;
                let finding = looked.unwrap_or_else(|_| {
                    Finding::CannotTell(format!("no answer within {} s", LOOK.as_secs()))
                });
                (rule.looking, rule.in_flight, finding)
            }
            // another daemon may know the kind; else a person is asked in the end
            None => {
                let why = format!("no daemon that looks knows how to look for {}", effect.op);
                (None, IN_FLIGHT, Finding::CannotTell(why))
            }
        };
        let looking = looking.unwrap_or(Looking::USUAL);
        let finding = self.unless_anothers(&effect, finding).await?;
        let now = self.shared.now();
        let judged = judge(&effect, &looking, in_flight, finding, now);
        let conclusion = Conclusion {
            to: judged.to,
            receipt: judged.receipt.map(shown),
            evidence: redacted(judged.evidence),
            look_in: judged.look_in,
        };
        self.conclude(&effect, conclusion).await
    }

    /// What another effect was confirmed as is no proof of this one: two jobs may have had the same text.
    async fn unless_anothers(&self, effect: &Effect, finding: Finding) -> Result<Finding> {
        let Finding::Happened(receipt) = &finding else {
            return Ok(finding);
        };
        let (Some(remote_id), Some(sent)) = (&receipt.remote_id, effect.first_at()) else {
            return Ok(finding);
        };
        let ledger = &self.shared.ledger;
        let since = sent - AROUND;
        Ok(match ledger.is_anothers(effect, remote_id, since).await? {
            true => Finding::CannotTell(format!(
                "{remote_id} is like it, and is what another job has published"
            )),
            false => finding,
        })
    }

    async fn conclude(&self, effect: &Effect, conclusion: Conclusion) -> Result<()> {
        crashpoint!("reconciler.before_decide", LedgerError::Away)?;
        let from = (EffectState::Unknown, effect.sends);
        let ledger = &*self.shared.ledger;
        let decided = ledger.decide(effect.id, from, &conclusion, None).await?;
        crashpoint!("reconciler.after_decide", LedgerError::Away)?;
        if !decided || conclusion.to == EffectState::Unknown {
            return Ok(());
        }
        metrics::effect(&effect.op, conclusion.to.as_str());
        tracing::info!(job = %effect.job, effect = %effect.id, op = effect.op, state = conclusion.to.as_str(), "looked up: {}", conclusion.evidence.seen);
        // a job that isn't called comes back by itself after the look was due
        if let Err(operate::Refused::Ledger(e)) = operate::looked(ledger, effect.job).await {
            return Err(e);
        }
        self.shared.relay.notify_one();
        Ok(())
    }
}
