//! The runner: one attempt of one job, from its claim to its settled outcome.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::AbortOnDropHandle;

use super::accounts;
use super::fallbacks::{self, Provided};
use super::late::{self, Judge};
use super::progress::Sink;
use super::scopes;
use super::settler::{Ended, charge_ahead, settle};
use super::shared::{Assigned, Shared, What};
use crate::clock::Time;
use crate::context::{Context, ProgressSink, Stop};
use crate::crashpoint;
use crate::handler::Kind;
use crate::job::Job;
use crate::ledger::{Fence, Settled};
use crate::lifecycle::{Event, is_suspect};
use crate::outcome::{Class, Failure, Held, Outcome, Scope};
use crate::sabotage;
use crate::telemetry::{metrics, redact};

/// How long a handler that was told to stop may take to do so.
const GRACE: Duration = Duration::from_secs(3);
/// As [`GRACE`], where somebody called the job off: a cancel is done within a second.
const GRACE_CANCEL: Duration = Duration::from_millis(300);

/// Runs one attempt and settles it. The place in the lane is given back at the end, and so is a
/// suspect's turn: until its outcome is written down, its crash is charged.
pub async fn run(shared: Arc<Shared>, assigned: Assigned) {
    let job = assigned.job.clone();
    // each part of it is boxed: thousands of attempts wait for a platform at a time, and none keeps room
    // for what it needs before and after that
    let turn = Box::pin(turn(&shared, &job)).await;
    let began_at = shared.now();
    let (event, alone) = match turn {
        Err(event) => (event, None),
        Ok(alone) => {
            let waited = began_at - job.run_at.max(job.created_at);
            metrics::pickup(waited.to_std().unwrap_or_default());
            shared.tell(&job, What::Began(job.attempts + 1));
            tracing::debug!(job = %job.id, kind = job.kind, lane = job.lane, attempt = job.attempts + 1, epoch = job.epoch, "attempt begins");
            // a handler says what it likes: nothing of it is written down before this
            let mut outcome = Box::pin(attempt(&shared, &job)).await;
            if outcome == Outcome::Cancelled && shared.is_worked_on(&job).await {
                // called off while it asked a platform: it runs once more, to have the work stopped
                shared.running.looking(job.id);
                outcome = Box::pin(attempt(&shared, &job)).await;
            }
            if matches!(outcome, Outcome::Held(..)) && shared.is_only_worked_on(&job).await {
                // nobody can be told to stop the work any more: its receipt says that it is under way
                outcome = Outcome::Cancelled;
            }
            if matches!(outcome, Outcome::Shut { .. })
                && let Err(e) = shared.look_at_closures().await
            {
                tracing::debug!("closures: {e}");
            }
            let outcome = redact::outcome(outcome);
            (Event::Ended(outcome), alone)
        }
    };
    let word = match &event {
        Event::Ended(outcome) => outcome.word(),
        _ => "expired",
    };
    let ended = Ended {
        event,
        began_at,
        word,
    };
    Box::pin(settle(&shared, &job, &assigned.hold, ended)).await;
    drop(alone);
    drop(assigned);
}

/// Waits until the job may begin: most may at once, a suspect when it is the only one, and its crash is
/// charged ahead. It holds what is returned until it is settled.
///
/// # Errors
/// What ends the job before its handler starts.
async fn turn(shared: &Shared, job: &Arc<Job>) -> Result<Option<OwnedSemaphorePermit>, Event> {
    let mut alone = None;
    loop {
        // looked at after each wait: it may have been long
        if let Some(event) = before(shared, job, shared.now()).await {
            return Err(event);
        }
        let alone_at_all = is_suspect(job.crashes) && !sabotage!("runner.suspects");
        let Some(token) = job.token.filter(|_| alone_at_all) else {
            return Ok(None);
        };
        let stop = shared.running.sign(job.id).token().clone();
        if alone.is_none() {
            let turn = shared.suspects.clone().acquire_owned();
            alone = stop
                .run_until_cancelled(turn)
                .await
                .map(|it| it.expect("it is never closed"));
            continue;
        }
        match stop
            .run_until_cancelled(charge_ahead(shared, job, token))
            .await
        {
            Some(Some(Settled::Done)) => {
                tracing::warn!(job = %job.id, kind = job.kind, crashes = job.crashes, "a suspect begins, alone: daemons died while they ran it");
                return Ok(alone);
            }
            Some(_) => return Err(Event::Ended(stopped(Stop::LeaseLost))),
            None => {}
        }
    }
}

/// What ends a job before its handler starts.
async fn before(shared: &Shared, job: &Arc<Job>, now: Time) -> Option<Event> {
    if job.not_after.is_some_and(|it| it < now) || job.expires_at < now {
        return Some(Event::Expired);
    }
    if let Some(why @ (Stop::Drain | Stop::LeaseLost)) = shared.running.why(job.id) {
        return Some(Event::Ended(stopped(why)));
    }
    if !job.cancel && !shared.running.is_called_off(job.id) {
        // what would be sent too late, or waits for its turn, needn't be made ready
        let late = judge(shared, job).look(now).await.err()?;
        return Some(Event::Ended(late::put_off(shared, job, late).await));
    }
    if shared.is_open(job).await {
        // an effect that may have happened is looked at first, and the job called off after that
        shared.running.looking(job.id);
        return None;
    }
    Some(Event::Ended(Outcome::Cancelled))
}

/// Who judges how late it comes.
fn judge(shared: &Shared, job: &Arc<Job>) -> Judge {
    Judge::of(shared.ledger.clone(), job.clone(), &shared.config.load())
}

async fn attempt(shared: &Arc<Shared>, job: &Arc<Job>) -> Outcome {
    let Some(kind) = shared.kind(&job.kind) else {
        return Outcome::Released {
            reason: format!("this daemon doesn't know kind {}", job.kind),
        };
    };
    let (Some(token), Some(run)) = (job.token, job.run) else {
        return Outcome::Released {
            reason: "claimed without a token".to_owned(),
        };
    };
    let sink = {
        let (watchers, job) = (shared.clone(), job.clone());
        Sink {
            progresses: shared.progress.clone(),
            token,
            told: move |it| watchers.tell(&job, What::Progress(it)),
        }
    };
    let fence = Fence {
        job: job.id,
        revision: job.revision,
        token,
        run,
    };
    let provided = match fallbacks::provided(shared, job, &fence).await {
        Ok(it) => it,
        Err(outcome) => return outcome,
    };
    let outcome = by(shared, kind, provided, fence, Arc::new(sink)).await;
    fallbacks::waited(shared, job, outcome).await
}

/// One attempt by the account that does the job.
async fn by(
    shared: &Arc<Shared>,
    kind: &Kind,
    Provided { job, tried }: Provided,
    fence: Fence,
    sink: Arc<dyn ProgressSink>,
) -> Outcome {
    let job = &job;
    if let Some(outcome) = unfit(shared, job).await {
        return outcome;
    }
    let config = shared.config.load_full();
    let heard = scopes::ear(shared, job.account.as_deref());
    let mut tools = shared.tools.clone();
    tools.http = tools.http.heard_by(heard.clone());
    tools.lateness = Some(Arc::new(judge(shared, job)));
    let cx = Context::new(
        job.clone(),
        config.clone(),
        tools,
        shared.running.sign(job.id),
        fence,
        shared.ledger.clone(),
        sink,
    );
    let cx = cx.of_called_off(shared.running.is_looking(job.id));
    let cx = Arc::new(cx.in_stead_of(tried));
    if let (Some(tried), Some(account)) = (&cx.tried, &job.account) {
        cx.progress(1, format!("`{account}` does it: {}", tried.why));
    }
    crashpoint!("runner.before_handler");
    let attempt = supervise(shared, kind, cx);
    let outcome = scopes::attended(shared, (job, &config), &heard, attempt).await;
    late::put_off(shared, job, outcome).await
}

/// How a job ends that may not use its account, or can't on this host. One that was just added this host may
/// not know yet.
async fn unfit(shared: &Shared, job: &Job) -> Option<Outcome> {
    let name = job.account.as_deref()?;
    if !shared.config.load().accounts.contains_key(name)
        && let Err(e) = accounts::learn(shared).await
    {
        return Some(Outcome::released(e.to_string()));
    }
    let config = shared.config.load();
    let account = config.accounts.get(name)?;
    if !account.is_for(&job.tenant) && !sabotage!("runner.tenant") {
        return Some(foreign(name, &job.tenant));
    }
    let why = account.unusable.as_ref()?;
    Some(Outcome::shut(format!("account `{name}`: {why}")))
}

/// A job that names an account of another tenant. Whose it is isn't told.
fn foreign(account: &str, tenant: &str) -> Outcome {
    let message = format!(
        "account `{account}` isn't there for jobs of tenant `{tenant}`; nothing was sent. Let it be used by that tenant and `presswork jobs release` the job, or cancel it"
    );
    let failure = Failure::new(Class::Unauthorised, Scope::Account, "wrong_tenant", message);
    Outcome::Held(Held::Account, failure)
}

/// Runs the handler in a task of its own, under the attempt's time-out and its stop token. One that
/// is told to stop gets a moment; a call that is under way is waited for, since its answer is worth
/// more than the moment (its own deadline bounds it).
async fn supervise(shared: &Shared, kind: &Kind, cx: Arc<Context>) -> Outcome {
    let mut task = AbortOnDropHandle::new(tokio::spawn(kind.run(cx.clone())));
    let limit = Duration::from_secs(u64::from(cx.job.timeout_s));
    let late = tokio::select! {
        done = &mut task => return finished(done),
        () = cx.cancelled.cancelled() => None,
        () = tokio::time::sleep(limit) => {
            cx.stop(Stop::TimedOut);
            Some(Failure::new(Class::Transient, Scope::Handler, "timeout",
                format!("the attempt took longer than {} s (timeout_s)", limit.as_secs())))
        }
    };
    let grace = match (&late, shared.running.why(cx.job.id)) {
        (Some(_), _) => cx.grace(),
        (None, Some(Stop::Cancelled)) => GRACE_CANCEL.max(cx.grace()),
        (None, _) => GRACE,
    };
    let answered = tokio::time::timeout(grace, &mut task).await;
    let outcome = match answered {
        Ok(done) => Some(finished(done)),
        Err(_) => answered_late(&cx, &mut task).await,
    };
    let why = shared.running.why(cx.job.id);
    match (late, outcome) {
        // it ended by itself, or its call was answered: that is the truth
        (_, Some(it @ (Outcome::Completed(_) | Outcome::Unresolved(_)))) => it,
        (_, Some(Outcome::Failed(it))) if it.class == Class::Unknown => Outcome::Failed(it),
        (Some(failure), _) => Outcome::Failed(failure),
        (None, Some(it)) if why.is_none() => it,
        (None, _) => why.map_or_else(|| stopped(Stop::Cancelled), stopped),
    }
}

/// The end of a handler whose time is over, if a call was under way: the answer is in by then, and
/// the handler has yet to say what it means.
async fn answered_late(cx: &Context, task: &mut AbortOnDropHandle<Outcome>) -> Option<Outcome> {
    let called = tokio::select! {
        biased;
        done = &mut *task => return Some(finished(done)),
        called = cx.idle() => called,
    };
    if !called {
        return None;
    }
    let done = tokio::time::timeout(GRACE, task).await;
    done.ok().map(finished)
}

fn stopped(why: Stop) -> Outcome {
    let reason = match why {
        Stop::Cancelled => return Outcome::Cancelled,
        Stop::Drain => "the daemon stops",
        Stop::LeaseLost => "the lease couldn't be renewed",
        Stop::TimedOut => "its time is over",
    };
    Outcome::Released {
        reason: reason.to_owned(),
    }
}

/// A panic is a failure with its message, not a crash.
fn finished(done: Result<Outcome, tokio::task::JoinError>) -> Outcome {
    match done {
        Ok(outcome) => outcome,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => {
                let said = panic
                    .downcast_ref::<&str>()
                    .map(|it| (*it).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_else(|| "without a message".to_owned());
                Shared::own_failure("panic", format!("the handler panicked: {said}")).into()
            }
            Err(_) => Outcome::Released {
                reason: "the handler was aborted".to_owned(),
            },
        },
    }
}
