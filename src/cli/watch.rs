//! Follows a job to its end: what `jobs watch` does.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::advice::held;
use super::cx::Cx;
use super::out::{CliError, Exit, Tone, plain, when};
use super::story::tone;
use crate::clock::Time;
use crate::job::{Job, JobId, Progress};
use crate::ledger::{Ledger, LedgerError};
use crate::lifecycle::State;
use crate::operate;
use crate::outcome::{Failure, Held};

/// How often the ledger is asked.
const EVERY: Duration = Duration::from_millis(150);

/// One line of `--json`: where the job stands now.
#[derive(Serialize)]
struct Seen<'a> {
    at: Time,
    id: JobId,
    state: State,
    attempts: u32,
    epoch: u32,
    run_at: Time,
    progress: Option<&'a Progress>,
    held: Option<Held>,
    failure: Option<&'a Failure>,
    result: Option<Box<RawValue>>,
}

/// Follows a job until it has ended, or only a person can let it go on.
///
/// # Errors
/// By its outcome: [`Exit::Failed`] when it died or was cancelled, [`Exit::Conflict`] when it waits
/// for a person, [`Exit::Missing`] when there is no such job.
pub async fn follow(cx: &Cx, ledger: &Arc<dyn Ledger>, id: JobId) -> Result<(), CliError> {
    let mut last: Option<Job> = None;
    let mut away = false;
    loop {
        match operate::job(&**ledger, id).await {
            Ok(job) => {
                if last.is_none() {
                    alone(cx, &**ledger, &job).await?;
                }
                if last.as_ref().is_none_or(|it| differs(it, &job)) {
                    tell(cx, &job, last.as_ref())?;
                }
                if ended(job.state) {
                    return end(cx, &job);
                }
                (last, away) = (Some(job), false);
            }
            // the ledger comes back, and a person who watches has the time
            Err(operate::Refused::Ledger(LedgerError::Away(e))) if last.is_some() => {
                if !away {
                    cx.out.note(&format!("the ledger is away, still trying: {}", plain(&e)));
                }
                away = true;
            }
            Err(e) => return Err(e.into()),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Says so when nobody would run it.
async fn alone(cx: &Cx, ledger: &dyn Ledger, job: &Job) -> Result<(), CliError> {
    if !ended(job.state) && ledger.live_runs().await?.is_empty() {
        cx.out.note("No daemon runs on this ledger; it goes on as soon as one does.");
    }
    Ok(())
}

fn ended(state: State) -> bool {
    state.is_terminal() || matches!(state, State::Held | State::Unresolved)
}

fn differs(a: &Job, b: &Job) -> bool {
    (a.state, a.epoch, a.attempts, &a.progress, a.cancel)
        != (b.state, b.epoch, b.attempts, &b.progress, b.cancel)
}

fn tell(cx: &Cx, job: &Job, last: Option<&Job>) -> Result<(), CliError> {
    let now = cx.clock.now();
    if cx.out.json {
        let result = job.result.clone().and_then(|it| RawValue::from_string(it).ok());
        return cx.out.json_line(&Seen {
            at: now,
            id: job.id,
            state: job.state,
            attempts: job.attempts,
            epoch: job.epoch,
            run_at: job.run_at,
            progress: job.progress.as_ref(),
            held: job.held,
            failure: job.failure.as_ref(),
            result,
        });
    }
    let began = last.is_none_or(|it| it.epoch != job.epoch || it.state != job.state);
    let failure = job.failure.as_ref();
    let failure = failure.map_or(String::new(), |it| format!("{}: {}", plain(&it.code), plain(&it.message)));
    let more = match (job.state, &job.progress) {
        (State::Running, _) if job.cancel => "told to stop".to_owned(),
        (State::Running, Some(it)) => format!("{:>3}%  {}", it.percent, plain(&it.message)),
        (State::Running, None) if began => format!("attempt {} of {}", job.attempts + 1, job.attempts_max),
        (State::Scheduled, _) => when(job.run_at, now),
        (State::Retrying, _) => format!("{}  {failure}", when(job.run_at, now)),
        (State::Dead | State::Unresolved, _) => failure,
        (State::Held, _) => job.held.map_or(String::new(), |it| it.to_string()),
        _ => String::new(),
    };
    let clock = cx.out.paint(Tone::Faint, &now.format("%H:%M:%S").to_string());
    let state = cx.out.paint(tone(job.state), &format!("{:10}", job.state));
    cx.out.line(format!("{clock}  {state}  {more}").trim_end())
}

/// The exit by the outcome, and the next step where one is needed.
fn end(cx: &Cx, job: &Job) -> Result<(), CliError> {
    let id = job.id;
    let exit = match job.state {
        State::Completed => return Ok(()),
        State::Held | State::Unresolved => Exit::Conflict,
        _ => Exit::Failed,
    };
    match job.state {
        State::Held => cx.out.note(&plain(&held(job).text)),
        State::Unresolved => cx.out.note(&format!("see: presswork unresolved show {id}")),
        State::Dead => cx.out.note(&format!("see: presswork dead show {id}")),
        _ => {}
    }
    Err(CliError::said(exit))
}
