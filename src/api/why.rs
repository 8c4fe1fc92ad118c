//! Why a job stands where it stands, in one sentence.

use crate::clock::Time;
use crate::job::Job;
use crate::ledger::Pause;
use crate::lifecycle::State;

/// Why `job` stands where it stands at `now` (the ledger's time). `pause` is its lane's.
pub fn why(job: &Job, now: Time, pause: Option<&Pause>) -> String {
    let failed = job
        .failure
        .as_ref()
        .map_or(String::new(), |it| format!(": {it}"));
    match job.state {
        State::Waiting => "waits for the jobs that come before it".to_owned(),
        State::Scheduled | State::Ready | State::Retrying => waits(job, now, pause, &failed),
        State::Running if job.cancel => "runs, and was told to stop".to_owned(),
        State::Running => match &job.progress {
            Some(it) => format!("runs: {} %, {}", it.percent, it.message),
            None => "runs".to_owned(),
        },
        State::Held => {
            let held = job.held.map_or("", |it| it.as_str());
            format!("held ({held}) until a person has mended it{failed}")
        }
        State::Unresolved => format!(
            "an effect may or may not have happened, and only a person can say (presswork unresolved show {}){failed}",
            job.id
        ),
        State::Completed => format!("completed{}", at(job.ended_at)),
        State::Cancelled => format!("was cancelled{}", at(job.ended_at)),
        State::Dead => format!("was given up{}{failed}", at(job.ended_at)),
    }
}

/// The first of what stands in the way of a job that may be claimed.
fn waits(job: &Job, now: Time, pause: Option<&Pause>, failed: &str) -> String {
    let lane = &job.lane;
    if now < job.run_at {
        let time = stamp(job.run_at);
        return match job.state {
            State::Retrying => format!(
                "failed {} of {} times and is tried again at {time}{failed}",
                job.attempts, job.attempts_max
            ),
            _ => format!("waits for its time, {time}"),
        };
    }
    match pause {
        Some(it) if it.reason.is_empty() => format!("its lane `{lane}` is paused by {}", it.by),
        Some(it) => format!("its lane `{lane}` is paused by {}: {}", it.by, it.reason),
        None => format!("waits for its turn in lane `{lane}`"),
    }
}

fn at(time: Option<Time>) -> String {
    time.map_or(String::new(), |it| format!(" at {}", stamp(it)))
}

fn stamp(time: Time) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}
