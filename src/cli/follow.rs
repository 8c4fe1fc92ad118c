//! Following one job to its end, for whoever waits for it.

use std::io::{IsTerminal, Write as _, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::SIGINT;

use super::cx::Cx;
use super::out::{CliError, Exit, Tone, cut, plain, span, when};
use crate::job::{Job, JobId};
use crate::ledger::Ledger;
use crate::lifecycle::State;

/// How often the ledger is asked.
const LOOK: Duration = Duration::from_millis(100);
/// How long the ledger may be away.
const AWAY_MAX: Duration = Duration::from_secs(30);
/// Columns of the live line.
const COLUMNS: usize = 100;

/// Waits until a job has ended, or only a person can let it go on; tells what happens meanwhile on
/// standard error: one line that changes on a terminal, a line each elsewhere.
///
/// # Errors
/// When the time is up (exit 1), a person interrupts (exit 130), or the ledger stays away.
pub async fn follow(
    cx: &Cx,
    ledger: &Arc<dyn Ledger>,
    id: JobId,
    most: Option<Duration>,
) -> Result<Job, CliError> {
    let began = Instant::now();
    let mut teller = Teller::new(cx);
    let mut away: Option<Instant> = None;
    let enough = interrupted()?;
    if ledger.live_runs().await?.is_empty() {
        cx.out
            .note("no daemon is running: the job waits until one is started with `presswork run`");
    }
    loop {
        match ledger.job(id).await {
            Ok(Some(job)) => {
                away = None;
                if stands(job.state) {
                    teller.clear();
                    return Ok(job);
                }
                let now = ledger.now().await.unwrap_or(cx.clock.now());
                teller.tell(&standing(&job, now));
            }
            Ok(None) => return Err(CliError::missing(format!("job {id} is gone"))),
            Err(e) if e.is_away() && away.get_or_insert_with(Instant::now).elapsed() < AWAY_MAX => {
                teller.tell("the ledger can't be reached; still trying");
            }
            Err(e) => return Err(e.into()),
        }
        if enough.load(Ordering::Relaxed) {
            teller.clear();
            let told = CliError::new(Exit::Interrupted, format!("interrupted; job {id} goes on"));
            return Err(told
                .hint(format!("`presswork jobs watch {id}` follows it again"))
                .with("id", id));
        }
        if most.is_some_and(|it| it <= began.elapsed()) {
            teller.clear();
            return Err(CliError::failed(format!(
                "job {id} hasn't ended within {}; it goes on",
                span(chrono::Duration::from_std(began.elapsed()).unwrap_or_default())
            ))
            .hint(format!("`presswork jobs show {id}` says where it stands"))
            .with("id", id));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Set by Ctrl-C; a second one ends the process even while the ledger doesn't answer.
fn interrupted() -> Result<Arc<AtomicBool>, CliError> {
    let enough = Arc::new(AtomicBool::new(false));
    // in this order: the first sets the flag, the second finds it set
    let code = Exit::Interrupted as i32;
    signal_hook::flag::register_conditional_shutdown(SIGINT, code, enough.clone())?;
    signal_hook::flag::register(SIGINT, enough.clone())?;
    Ok(enough)
}

/// Tells how a job that was followed ended, and what to do about it.
///
/// # Errors
/// Exit 1 unless it completed.
pub fn end(cx: &Cx, job: &Job) -> Result<(), CliError> {
    let id = job.id;
    let (tone, hint) = match job.state {
        State::Completed => (Tone::Good, None),
        State::Dead => (
            Tone::Bad,
            Some(format!(
                "`presswork dead show {id}` says more, `presswork dead revive {id}` tries it again"
            )),
        ),
        State::Unresolved => (
            Tone::Warn,
            Some(format!(
                "look whether it happened, then say so: `presswork unresolved show {id}` tells where and how"
            )),
        ),
        State::Held => (
            Tone::Warn,
            Some(format!(
                "mend what it waits for, then `presswork jobs release {id}`"
            )),
        ),
        _ => (Tone::Warn, None),
    };
    let took = job.ended_at.map_or(String::new(), |it| {
        format!(" after {}", span(it - job.created_at))
    });
    let word = cx.out.paint(tone, job.state.as_str());
    cx.out.line(&format!("{id}  {word}{took}"))?;
    if let Some(result) = &job.result {
        cx.out.line(&plain(result))?;
    }
    let why = job
        .failure
        .as_ref()
        .map_or(String::new(), |it| format!(": {it}"));
    let told = CliError::failed(format!("the job is {}{why}", job.state));
    match (job.state, hint) {
        (State::Completed, _) => Ok(()),
        (_, Some(hint)) => Err(told.hint(hint)),
        (_, None) => Err(told),
    }
}

/// Whether following ends here: the job has ended, or only a person can let it go on.
pub fn stands(state: State) -> bool {
    state.is_terminal() || matches!(state, State::Held | State::Unresolved)
}

/// Where a job stands, in one line.
fn standing(job: &Job, now: crate::clock::Time) -> String {
    let attempt = job.attempts + u32::from(job.state == State::Running);
    let attempt = format!("attempt {attempt} of {}", job.attempts_max);
    let failure = job
        .failure
        .as_ref()
        .map_or(String::new(), |it| format!(" after {it}"));
    match job.state {
        State::Running => match &job.progress {
            Some(it) => format!(
                "running, {attempt}: {} % {}",
                it.percent,
                plain(&it.message)
            ),
            None => format!("running, {attempt}"),
        },
        State::Retrying => format!(
            "retrying{}, {} of {} attempts failed{}",
            again(job, now),
            job.attempts,
            job.attempts_max,
            plain(&failure)
        ),
        State::Scheduled => format!("scheduled in lane {}{}", plain(&job.lane), again(job, now)),
        state => format!("{state} in lane {}", plain(&job.lane)),
    }
}

/// How long it waits, while that is long enough to be told.
fn again(job: &Job, now: crate::clock::Time) -> String {
    match chrono::Duration::seconds(1) <= job.run_at - now {
        true => format!(", due {}", when(job.run_at, now)),
        false => String::new(),
    }
}

/// Tells what changes.
struct Teller {
    live: bool,
    silent: bool,
    last: String,
}

impl Teller {
    fn new(cx: &Cx) -> Self {
        Self {
            live: !cx.out.json && cx.out.terminal && stderr().is_terminal(),
            silent: cx.out.json,
            last: String::new(),
        }
    }

    fn tell(&mut self, text: &str) {
        if self.silent || text == self.last {
            return;
        }
        // a wait that counts down is news on a live line only
        if self.live {
            self.write(&format!("\r\x1b[K{}", cut(text, COLUMNS)));
        } else if without_wait(text) != without_wait(&self.last) {
            self.write(&format!("{text}\n"));
        }
        text.clone_into(&mut self.last);
    }

    fn clear(&mut self) {
        if self.live && !self.last.is_empty() {
            self.write("\r\x1b[K");
        }
    }

    fn write(&self, text: &str) {
        // there is nobody left to tell of a closed standard error
        let _ = stderr().write_all(text.as_bytes());
        let _ = stderr().flush();
    }
}

/// The line without the wait that counts down.
fn without_wait(line: &str) -> (&str, &str) {
    let Some((head, rest)) = line.split_once(", due ") else {
        return line.split_once(", ").unwrap_or((line, ""));
    };
    (head, rest.split_once(", ").map_or("", |(_, rest)| rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_counts_down_is_no_news() {
        let at = |wait| format!("retrying{wait}, 1 of 5 attempts failed after x: y, z");
        let news = [", due in 1.9 s", ", due in 15 s", ""].map(at);
        assert!(
            news.iter()
                .all(|it| without_wait(it) == without_wait(&news[0]))
        );
        assert_ne!(
            without_wait(&news[0]),
            without_wait("running, attempt 2 of 5")
        );
    }
}
