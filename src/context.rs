//! All that a handler may touch: its job, its account, media, steps, effects, progress, cancellation.
//!
//! What a handler does to the outside world it does by [`Context::effect`]: see [`crate::protocol`].

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Time};
use crate::config::{Account, Config};
use crate::crashpoint;
use crate::effect::{EffectId, Evidence, Receipt};
use crate::fallback::elsewhere;
use crate::fetch::Fetcher;
use crate::gate::Subject;
use crate::job::{Job, JobId, Progress};
use crate::journal::Journal;
use crate::ledger::{Fence, Ledger, LedgerError};
use crate::media::Media;
use crate::outcome::{Class, Failure, Held, Outcome, Scope};
use crate::platform::CallError;
use crate::platform::fetch::SystemNames;
use crate::platform::gate::{self, Caller, Gate, Lateness, Pass};
use crate::platform::http::Http;
use crate::protocol::{Protocol, away, lease_lost, stopped};
use crate::results::Results;
use crate::stores;
use crate::telemetry::redact;
pub use crate::wanted::{Permit, Wanted};

/// Where running attempts tell how far they are; the engine keeps it, coalesced.
pub trait ProgressSink: Send + Sync {
    /// Takes the newest progress of a job.
    fn tell(&self, job: JobId, progress: Progress);
}

/// Why an attempt is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Somebody cancelled the job: it isn't run again.
    Cancelled,
    /// The drain's deadline is past: another daemon goes on.
    Drain,
    /// The lease is about to run out and couldn't be renewed: another daemon goes on.
    LeaseLost,
    /// It has taken longer than it may (`timeout_s`): a failed attempt.
    TimedOut,
}

/// Tells an attempt to stop, and why. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct StopSign {
    raised: CancellationToken,
    why: Arc<OnceLock<Stop>>,
}

impl StopSign {
    /// Tells the attempt to stop; the first reason stays.
    pub fn raise(&self, why: Stop) {
        self.why.get_or_init(|| why);
        self.raised.cancel();
    }

    /// The token that fires with it.
    pub fn token(&self) -> &CancellationToken {
        &self.raised
    }
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
    /// Where sends and answers are written down on this host. `None`: a crash leaves them unknown.
    pub journal: Option<Journal>,
    /// Counts requests to platforms. `None`: nobody does.
    pub gate: Option<Arc<dyn Gate>>,
    /// Judges how late the sends of one attempt's job come. `None`: nobody does.
    pub lateness: Option<Arc<dyn Lateness>>,
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
            journal: None,
            gate: None,
            lateness: None,
        })
    }

    /// For whom a job's requests are made, where they are counted.
    fn caller(&self, job: &Job, config: &Config) -> Option<Caller> {
        let account = job.account.as_deref().unwrap_or_default();
        let of = config.accounts.get(account);
        Some(Caller {
            gate: self.gate.clone()?,
            platform: of.map_or("", |it| &it.platform).into(),
            app: of
                .and_then(|it| it.app.as_deref())
                .unwrap_or_default()
                .into(),
            account: account.into(),
            tenant: (*job.tenant).into(),
            kind: (*job.kind).into(),
            nearby: of.is_some_and(Account::is_nearby),
            wanted_at: job.wanted_at(),
            lateness: self.lateness.clone(),
            pace: of.and_then(|it| config.pace_of(it)),
            overdue: false,
        })
    }

    /// The client for a job's requests: each is counted.
    pub fn http_of(&self, job: &Job, config: &Config) -> Http {
        self.http.of(self.caller(job, config))
    }
}

/// Whose stead an attempt is made in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The job's own account.
    pub account: String,
    /// Why it isn't asked, for people.
    pub why: String,
}

/// All that a handler may touch. One an attempt.
pub struct Context {
    /// The job, with the account that does it.
    pub job: Arc<Job>,
    /// Whose stead that account is in, where it isn't the job's own.
    pub tried: Option<Tried>,
    /// The configuration that the attempt began with.
    pub config: Arc<Config>,
    /// The one HTTP client.
    pub http: Http,
    /// Fires when the attempt has to stop; [`Context::stopped`] says why.
    pub cancelled: CancellationToken,
    /// The attempt's number for people, from 1.
    pub attempt: u32,
    sign: StopSign,
    /// In milliseconds.
    grace: AtomicU64,
    /// The job was called off while something of it was under way: it only runs to see to that.
    pub called_off: bool,
    media: Media,
    fetcher: Arc<Fetcher>,
    fence: Fence,
    caller: Option<Caller>,
    ledger: Arc<dyn Ledger>,
    sink: Arc<dyn ProgressSink>,
    protocol: Protocol,
}

/// What a look-up may touch: it changes nothing, so there is no lease behind it.
pub struct Probe {
    /// The job whose effect is looked for.
    pub job: Job,
    /// The configuration.
    pub config: Arc<Config>,
    /// The one HTTP client.
    pub http: Http,
}

impl Context {
    /// The context of one attempt, whose writes compare `fence`.
    pub fn new(
        job: Arc<Job>,
        config: Arc<Config>,
        tools: Tools,
        sign: StopSign,
        fence: Fence,
        ledger: Arc<dyn Ledger>,
        sink: Arc<dyn ProgressSink>,
    ) -> Self {
        let cancelled = sign.token().clone();
        let attempt = job.attempts + 1;
        let subject = Subject::of(&job, &config);
        let account = job.account.as_ref();
        let guard = account.and_then(|it| Some(config.accounts.get(it)?.guard));
        let guard = guard.filter(|it| it.looks_back_s().is_some());
        let caller = tools.caller(&job, &config);
        let http = tools.http.of(caller.clone());
        let protocol = Protocol::new(
            ledger.clone(),
            tools.journal,
            fence,
            (subject, guard, caller.clone()),
            config.lease,
            cancelled.clone(),
        );
        Self {
            job,
            tried: None,
            config,
            http,
            cancelled,
            attempt,
            sign,
            grace: AtomicU64::new(0),
            called_off: false,
            media: tools.media,
            fetcher: tools.fetcher,
            fence,
            caller,
            ledger,
            sink,
            protocol,
        }
    }

    /// The context of an attempt whose job may have been called off already: see [`Context::called_off`].
    pub fn of_called_off(self, called_off: bool) -> Self {
        Self {
            called_off,
            protocol: self.protocol.of_called_off(called_off),
            ..self
        }
    }

    /// The context of an attempt whose job names another account than it did, in that one's stead.
    pub fn in_stead_of(self, tried: Option<Tried>) -> Self {
        let here = self.job.account.as_deref();
        let own = tried.as_ref().map(|it| it.account.as_str()).or(here);
        let elsewhere = match (own, here) {
            (Some(own), Some(here)) => elsewhere(&self.config, &self.job.kind, own, here),
            _ => Vec::new(),
        };
        Self {
            protocol: self.protocol.beside(elsewhere),
            tried,
            ..self
        }
    }

    /// The name of a step that records what hangs on the account that does the job.
    pub fn step_here(&self, name: &str) -> String {
        match (&self.tried, self.job.account.as_deref()) {
            (Some(_), Some(account)) => format!("{name}-at-{account}"),
            _ => name.to_owned(),
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
        self.protocol.idle().await
    }

    /// Why the attempt has to stop; `None` while it needn't.
    pub fn stopped(&self) -> Option<Stop> {
        self.sign.why.get().copied()
    }

    /// Tells the attempt to stop; the first reason stays.
    pub(crate) fn stop(&self, why: Stop) {
        self.sign.raise(why);
    }

    /// From now on there is something to clear away when the job is called off or its time is over:
    /// then the attempt gets so long to do it, instead of a moment. It holds its lease meanwhile.
    pub fn clears_within(&self, grace: Duration) {
        let ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.grace.store(ms, Ordering::Relaxed);
    }

    /// What [`Context::clears_within`] has asked for.
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_millis(self.grace.load(Ordering::Relaxed))
    }

    /// Does some work, unless the attempt has to stop before its end: then the work is dropped.
    ///
    /// # Errors
    /// `Released` when it has to stop.
    pub async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, Outcome> {
        let done = self.cancelled.run_until_cancelled(work).await;
        done.ok_or_else(stopped)
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
        self.unless_stopped(tokio::time::sleep(time)).await
    }

    /// How an attempt ends that has to wait for somebody else: the job goes on at `until`, no attempt is
    /// charged, and its room is free meanwhile. `reason` is told as its progress until then.
    pub async fn put_off(&self, percent: u8, until: Time, reason: String) -> Outcome {
        let progress = Progress {
            percent: percent.min(100),
            message: redact::text(&reason).into_owned(),
        };
        let told = [(self.job.id, self.fence.token, progress)];
        // for people only: a ledger that is away refuses the outcome, too
        if let Err(e) = self.ledger.progress(&told).await {
            tracing::debug!(job = %self.job.id, "progress: {e}");
        }
        Outcome::Snoozed { until, reason }
    }

    /// Writes down what became of the work that a platform went on with under `handle`, which is stored
    /// with its effect's receipt: from now on nothing is under way there. Said again it changes nothing.
    ///
    /// # Errors
    /// `Released` when the ledger is away.
    pub async fn let_go(&self, handle: &str, seen: &str) -> Result<(), Outcome> {
        let evidence = Evidence::new(self.http.now(), redact::text(seen).into_owned());
        let gone = self.ledger.let_go(self.job.id, handle, &evidence);
        gone.await.map_err(away)
    }

    /// What a call-back said of the end of what an effect began, if one came.
    ///
    /// # Errors
    /// `Released` when the ledger is away.
    pub async fn heard(&self, id: EffectId) -> Result<Option<String>, Outcome> {
        let effects = self.ledger.effects(self.job.id).await.map_err(away)?;
        let effect = effects.into_iter().find(|it| it.id == id);
        Ok(effect.and_then(|it| it.told))
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

    /// Takes what one request of an operation needs of its budgets. The HTTP client does so by itself, and
    /// so does an effect: this is for requests that go another way. It is surely over `within` from now;
    /// what is returned says when it is.
    ///
    /// # Errors
    /// A budget is used up: the job goes on when it has room, at no charge.
    pub async fn permit(&self, op: &str, within: Duration) -> Result<Pass, Outcome> {
        gate::pass(self.caller.as_ref(), (op, None), within).await
    }

    /// It is known what the work cost that effect number `ordinal` of `step` has begun; `None`: the platform
    /// didn't say.
    pub async fn paid(&self, step: &str, ordinal: u32, cost: Option<u64>) {
        if let Some(caller) = &self.caller {
            let account = self.job.account.as_deref().unwrap_or_default();
            let id = EffectId::new(self.job.id, self.fence.revision, step, ordinal, account);
            caller.gate.paid(id.0, cost).await;
        }
    }

    /// Makes an effect happen, at most once a permit, and returns its receipt.
    ///
    /// # Errors
    /// See [`Protocol::effect`].
    pub async fn effect<S, F>(&self, wanted: Wanted<'_>, send: S) -> Result<Receipt, Outcome>
    where
        S: FnOnce(Permit) -> F,
        F: Future<Output = Result<Receipt, CallError>>,
    {
        self.protocol.effect(wanted, send).await
    }
}
