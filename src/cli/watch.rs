//! Follows a job for programs: a line of JSON for each change.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::cx::Cx;
use super::follow::stands;
use super::out::{CliError, Exit};
use crate::clock::Time;
use crate::job::{Job, JobId, Progress};
use crate::ledger::Ledger;
use crate::lifecycle::State;
use crate::operate::{self, Refused};
use crate::outcome::{Failure, Held};

/// How often the ledger is asked.
const LOOK: Duration = Duration::from_millis(100);

/// One line: where the job stands now.
#[derive(Serialize)]
struct Seen<'a> {
    at: Time,
    id: JobId,
    state: State,
    attempts: u32,
    epoch: u32,
    run_at: Time,
    progress: Option<&'a Progress>,
    cancel: bool,
    held: Option<Held>,
    failure: Option<&'a Failure>,
    result: Option<Box<RawValue>>,
}

/// Tells each change of a job until it has ended, or only a person can let it go on.
///
/// # Errors
/// Exit 1 unless it completed; exit 3 when there is no such job.
pub async fn lines(cx: &Cx, ledger: &Arc<dyn Ledger>, id: JobId) -> Result<(), CliError> {
    let mut last: Option<Job> = None;
    loop {
        match operate::job(&**ledger, id).await {
            Ok(job) => {
                if last.as_ref().is_none_or(|it| differs(it, &job)) {
                    line(cx, &job, ledger.now().await?)?;
                }
                match job.state {
                    State::Completed => return Ok(()),
                    state if stands(state) => return Err(CliError::said(Exit::Failed)),
                    _ => last = Some(job),
                }
            }
            // a ledger that was there comes back, and who watches has the time
            Err(Refused::Ledger(e)) if e.is_away() && last.is_some() => {}
            Err(e) => return Err(e.into()),
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn differs(a: &Job, b: &Job) -> bool {
    (a.version, a.epoch, &a.progress) != (b.version, b.epoch, &b.progress)
}

fn line(cx: &Cx, job: &Job, at: Time) -> Result<(), CliError> {
    let result = job
        .result
        .clone()
        .and_then(|it| RawValue::from_string(it).ok());
    cx.out.json_line(&Seen {
        at,
        id: job.id,
        state: job.state,
        attempts: job.attempts,
        epoch: job.epoch,
        run_at: job.run_at,
        progress: job.progress.as_ref(),
        cancel: job.cancel,
        held: job.held,
        failure: job.failure.as_ref(),
        result,
    })
}
