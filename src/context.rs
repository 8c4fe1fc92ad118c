//! All that a handler may touch: its job, its account, media, steps, effects, progress, cancellation.
//!
//! [`Context::effect`] drives the protocol that keeps "nothing is published or paid for twice":
//! written down, permitted once, sent, concluded; and looked up before it is ever repeated.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Time};
use crate::config::{Account, Config};
use crate::crashpoint;
use crate::effect::{
    Effect, EffectId, EffectState, Evidence, Next, REFUSED, Receipt, Rule, intent_digest, next,
};
use crate::fetch::Fetcher;
use crate::job::{Job, JobId, Progress};
use crate::ledger::{Conclusion, Fence, Ledger, LedgerError};
use crate::media::Media;
use crate::outcome::{Class, Failure, Held, Outcome, Scope};
use crate::platform::CallError;
use crate::platform::fetch::SystemNames;
use crate::platform::http::Http;
use crate::results::Results;
use crate::stores;
use crate::telemetry::{metrics, redact};

/// Where running attempts tell how far they are; the engine keeps it, coalesced.
pub trait ProgressSink: Send + Sync {
    /// Takes the newest progress of a job.
    fn tell(&self, job: JobId, progress: Progress);
}

/// What handlers reach the world with: one of each a daemon. Cloning shares them.
#[derive(Clone)]
pub struct Tools {
    /// The one HTTP client, for platforms.
    pub http: Http,
    /// The media store.
    pub media: Media,
    /// The one client for URLs of users.
    pub fetcher: Arc<Fetcher>,
}

impl Tools {
    /// The tools of a daemon, by its configuration and over its ledger.
    ///
    /// # Errors
    /// When the media folder can't be made, or the system's certificates can't be read.
    pub fn new(config: &Config, ledger: Arc<dyn Ledger>, clock: &Clock) -> anyhow::Result<Self> {
        let media = stores::media(config, ledger.clone(), clock)?;
        let names = Arc::new(SystemNames);
        let fetcher = Fetcher::new(media.clone(), ledger, names, clock.clone());
        Ok(Self {
            http: Http::new(clock.clone())?,
            media,
            fetcher: Arc::new(fetcher),
        })
    }
}

/// All that a handler may touch. One an attempt.
pub struct Context {
    /// The job.
    pub job: Arc<Job>,
    /// The configuration that the attempt began with.
    pub config: Arc<Config>,
    /// The one HTTP client.
    pub http: Http,
    /// Fires when the job is cancelled, the lease is lost, or the daemon's drain is over.
    pub cancelled: CancellationToken,
    /// The attempt's number for people, from 1.
    pub attempt: u32,
    media: Media,
    fetcher: Arc<Fetcher>,
    fence: Fence,
    ledger: Arc<dyn Ledger>,
    sink: Arc<dyn ProgressSink>,
    /// Read-locked from a permit to its conclusion: an attempt isn't ended midway.
    sending: RwLock<()>,
}

/// An effect that a handler wants.
pub struct Wanted<'a> {
    /// The named part of the job.
    pub step: &'a str,
    /// Counts the effects of that step, from 0.
    pub ordinal: u32,
    /// What is done: `mastodon.status`.
    pub op: &'a str,
    /// What the platform's operation needs to be repeated, or not.
    pub rule: Rule,
    /// What is to be sent: text, media digests, target, options. Not what differs in each attempt.
    pub intent: serde_json::Value,
    /// What is minted once, before the first send, and the same in each (key, rkey, createdAt).
    pub keep: serde_json::Value,
    /// The longest a send may take, answer included.
    pub budget: Duration,
}

/// The right to send, once. `keep` is what was minted before the first send.
#[derive(Clone, Debug)]
pub struct Permit {
    /// The effect's id: a stable key for platforms that dedupe.
    pub id: EffectId,
    /// What was minted before the first send.
    pub keep: serde_json::Value,
    /// The number of this send, from 1.
    pub send: u32,
    /// Sends before this one whose answer was lost: they may have happened, and been paid for.
    pub lost: u32,
}

/// The waits after a lost answer, the first and the longest: an outage must not use up the repeats
/// within a minute.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

impl Context {
    /// The context of one attempt, whose writes compare `fence`.
    pub fn new(
        job: Arc<Job>,
        config: Arc<Config>,
        tools: Tools,
        cancelled: CancellationToken,
        fence: Fence,
        ledger: Arc<dyn Ledger>,
        sink: Arc<dyn ProgressSink>,
    ) -> Self {
        let attempt = job.attempts + 1;
        Self {
            job,
            config,
            http: tools.http,
            cancelled,
            attempt,
            media: tools.media,
            fetcher: tools.fetcher,
            fence,
            ledger,
            sink,
            sending: RwLock::new(()),
        }
    }

    /// The media store. What is stored there lasts once a step, the result or a payload names it.
    pub fn media(&self) -> &Media {
        &self.media
    }

    /// Results of earlier jobs of the same request.
    pub fn results(&self) -> Results<'_> {
        Results {
            job: &self.job,
            fence: self.fence,
            ledger: &*self.ledger,
            media: &self.media,
        }
    }

    /// Brings what is behind URLs of users into the media store.
    pub fn fetcher(&self) -> &Fetcher {
        &self.fetcher
    }

    /// Waits until no call of an effect is under way, and says whether one was. Once `cancelled` has
    /// fired, none begins.
    pub async fn idle(&self) -> bool {
        let quiet = self.sending.try_write().is_ok();
        if !quiet {
            drop(self.sending.write().await);
        }
        !quiet
    }

    /// The account the job acts for, which must be one of `platform`.
    ///
    /// # Errors
    /// Held for the account when none is configured by that name; permanent when it is of another
    /// platform.
    pub fn account(&self, platform: &str) -> Result<(&str, &Account), Outcome> {
        let Some(name) = self.job.account.as_deref() else {
            let message = format!(
                "the envelope names no account; set \"account\" to one of [accounts] for {platform}"
            );
            return Err(Failure::permanent("no_account", message).into());
        };
        match self.config.accounts.get(name) {
            Some(it) if it.platform == platform => Ok((name, it)),
            Some(it) => {
                let message = format!(
                    "account `{name}` is of platform {}, not {platform}",
                    it.platform
                );
                Err(Failure::permanent("wrong_account", message).into())
            }
            None => {
                let message = format!(
                    "no account `{name}` in [accounts]; add it and `presswork jobs release` the job"
                );
                let failure =
                    Failure::new(Class::Unauthorised, Scope::Account, "no_account", message);
                Err(Outcome::Held(Held::Account, failure))
            }
        }
    }

    /// Tells how far the attempt is. Cheap: it is kept once a second at most.
    pub fn progress(&self, percent: u8, message: impl Into<String>) {
        let message = redact::text(&message.into()).into_owned();
        self.sink.tell(
            self.job.id,
            Progress {
                percent: percent.min(100),
                message,
            },
        );
    }

    /// Waits, at most until the attempt has to stop.
    ///
    /// # Errors
    /// `Released` when it has to stop.
    pub async fn wait(&self, time: Duration) -> Result<(), Outcome> {
        tokio::select! {
            () = self.cancelled.cancelled() => Err(stopped()),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    /// Goes on only if the attempt needn't stop.
    ///
    /// # Errors
    /// `Released` when it has to stop.
    pub fn go_on(&self) -> Result<(), Outcome> {
        match self.cancelled.is_cancelled() {
            true => Err(stopped()),
            false => Ok(()),
        }
    }

    /// A named part of the job: its recorded value, or that of `work`, recorded.
    ///
    /// # Errors
    /// What `work` fails with; `Released` when the lease is lost.
    pub async fn step<T, F>(&self, name: &str, work: F) -> Result<T, Outcome>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<T, Outcome>>,
    {
        let known = self
            .ledger
            .step(self.job.id, self.fence.revision, name)
            .await
            .map_err(away)?;
        if let Some(text) = known {
            return serde_json::from_str(&text).map_err(|e| {
                let message =
                    format!("the recorded value of step `{name}` doesn't fit this program: {e}");
                Outcome::Held(
                    Held::Nondeterministic,
                    Failure::permanent("step_value", message),
                )
            });
        }
        let value = work.await?;
        let text = serde_json::to_string(&value).map_err(|e| {
            Failure::permanent(
                "step_value",
                format!("the value of step `{name}` is no JSON: {e}"),
            )
        })?;
        match self.record(name, &text).await.map_err(away)? {
            true => Ok(value),
            false => Err(lease_lost()),
        }
    }

    async fn record(&self, name: &str, text: &str) -> Result<bool, LedgerError> {
        crashpoint!("step.before_record", LedgerError::Away)?;
        let text = redact::known(text);
        let kept = self.ledger.record_step(&self.fence, name, &text).await?;
        crashpoint!("step.after_record", LedgerError::Away)?;
        Ok(kept)
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
            return Err(lease_lost());
        };
        crashpoint!("effect.after_intent", LedgerError::Away).map_err(away)?;
        let patience = self.patience(&wanted, &effect).await?;
        match next(&effect, &wanted.rule, &intent, patience, now) {
            Next::Done(receipt) => Ok(*receipt),
            Next::Send | Next::Repeat => self.send(&wanted, effect, now, send).await,
            Next::Wait(until) => {
                let message = format!("{}: an earlier request may still be under way", wanted.op);
                let failure = Failure::new(Class::Unknown, Scope::Platform, "in_flight", message);
                Err(failure.after(Some(until - now)).into())
            }
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
        let account = self.job.account.clone().unwrap_or_default();
        let revision = self.fence.revision;
        Effect {
            id: EffectId::new(self.job.id, revision, wanted.step, wanted.ordinal, &account),
            job: self.job.id,
            revision,
            step: wanted.step.to_owned(),
            account,
            op: wanted.op.to_owned(),
            class: wanted.rule.class,
            state: EffectState::Intended,
            intent: intent.to_owned(),
            keep: wanted.keep.clone(),
            sends: 0,
            first_sent_at: None,
            permit_at: None,
            permit_run: None,
            maybe_since: None,
            key_lost: false,
            receipt: None,
            evidence: vec![],
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
        let _under_way = self.sending.read().await;
        self.go_on()?;
        let from = (effect.state, effect.sends);
        // heartbeats renew the lease while a long send goes on; it is only asked to be fresh
        let left = wanted.budget.min(self.config.lease / 2);
        if !self.permit(effect.id, from, left).await.map_err(away)? {
            return Err(lease_lost());
        }
        let sends = effect.sends + 1;
        let permit = Permit {
            id: effect.id,
            keep: effect.keep.clone(),
            send: sends,
            lost: effect.lost(),
        };
        let answer = match tokio::time::timeout(wanted.budget, send(permit)).await {
            Ok(it) => it,
            Err(_) => {
                let message = format!("no answer within {} s", wanted.budget.as_secs());
                Err(CallError::Unknown(Failure::new(
                    Class::Unknown,
                    Scope::Platform,
                    "timeout",
                    message,
                )))
            }
        };
        let answer = answer.map(shown);
        let (conclusion, result) = concluded(wanted, effect.lost(), sends, now, answer);
        let kept = self.conclude(effect.id, sends, &conclusion).await?;
        metrics::effect(wanted.op, conclusion.to.as_str());
        if kept {
            return result;
        }
        // it was decided otherwise meanwhile; what was seen is kept for whoever looks
        let late = Evidence {
            seen: format!("came late: {}", conclusion.evidence.seen),
            ..conclusion.evidence
        };
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
        let permitted = self.ledger.permit(&self.fence, id, from, left).await?;
        crashpoint!("effect.after_permit", LedgerError::Away)?;
        Ok(permitted)
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
        written
            .retry(waits)
            .when(LedgerError::is_away)
            .await
            .map_err(away)
    }

    async fn ask(&self, effect: Effect, why: String, now: Time) -> Result<Receipt, Outcome> {
        let message = format!(
            "{} ({}): {why}; look there, then `presswork unresolved resolve {} --happened --url URL` or `--did-not-happen`",
            effect.op, effect.account, effect.job
        );
        if effect.state != EffectState::Unresolved {
            let evidence = Evidence { at: now, seen: why };
            let conclusion = Conclusion {
                to: EffectState::Unresolved,
                receipt: None,
                evidence,
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

/// How long a known answer is kept for a ledger that is away.
const CONCLUDE: Duration = Duration::from_secs(60);

/// What an answer means for the effect, of which `lost` earlier sends have no known answer, and for
/// the handler.
fn concluded(
    wanted: &Wanted<'_>,
    lost: u32,
    sends: u32,
    now: Time,
    answer: Result<Receipt, CallError>,
) -> (Conclusion, Result<Receipt, Outcome>) {
    let (to, receipt, seen, result) = match answer {
        Ok(receipt) => {
            let seen = match &receipt.remote_id {
                Some(id) => format!("send {sends}: confirmed as {id}"),
                None => format!("send {sends}: confirmed"),
            };
            (
                EffectState::Confirmed,
                Some(receipt.clone()),
                seen,
                Ok(receipt),
            )
        }
        Err(CallError::Refused(failure)) => (
            // that a repeat was refused says nothing of the sends before it
            match lost {
                0 => EffectState::Refused,
                _ => EffectState::Unknown,
            },
            None,
            format!("send {sends}: {REFUSED}{failure}"),
            Err(failure.into()),
        ),
        Err(CallError::Unknown(failure)) => {
            let seen = format!("send {sends}: {failure}");
            let message = format!(
                "{}: the answer was lost ({failure}); it is looked at again before anything is sent",
                wanted.op
            );
            let lost = Failure::new(Class::Unknown, failure.scope, "unknown", message)
                .after(failure.retry_after().or_else(|| pause(sends)));
            (EffectState::Unknown, None, seen, Err(lost.into()))
        }
    };
    let seen = redact::text(&seen).into_owned();
    (
        Conclusion {
            to,
            receipt,
            evidence: Evidence { at: now, seen },
        },
        result,
    )
}

/// A receipt without our secrets, which a platform may have sent back.
fn shown(receipt: Receipt) -> Receipt {
    let known = |it: String| redact::known(&it).into_owned();
    Receipt {
        remote_id: receipt.remote_id.map(known),
        url: receipt.url.map(known),
        detail: redact::known_value(receipt.detail),
        ..receipt
    }
}

/// The wait after the `sends`th send's answer was lost: doubled each time.
fn pause(sends: u32) -> Option<chrono::Duration> {
    let doublings = sends.saturating_sub(1).min(16);
    let wait = PAUSES.0.saturating_mul(1 << doublings).min(PAUSES.1);
    chrono::Duration::from_std(wait).ok()
}

fn stopped() -> Outcome {
    Outcome::Released {
        reason: "the attempt was asked to stop".to_owned(),
    }
}

fn lease_lost() -> Outcome {
    Outcome::Released {
        reason: "the lease was lost".to_owned(),
    }
}

/// A ledger that is away charges no attempt: stopping is not failing.
fn away(error: LedgerError) -> Outcome {
    Outcome::Released {
        reason: error.to_string(),
    }
}
