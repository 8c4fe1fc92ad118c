//! Programs of this host that do the work of a job: their input is JSON, their output progress and a
//! result. What is started ends with its attempt, whatever becomes of the daemon: see [`keeper`].

pub mod keeper;
pub mod output;

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::{ChildStdin, Command};
use tokio_util::sync::CancellationToken;

use crate::job::Progress;
use keeper::{End, KEEP, Order, TERM, itself};
use output::{Result as Text, Tail, heard, result};

/// Between the question to end and the blow.
const GRACE: Duration = Duration::from_secs(2);
/// What was killed is gone by then, or hangs in the kernel.
const GONE: Duration = Duration::from_secs(10);

/// Why a program was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It took longer than it may.
    Late,
    /// Its attempt has to stop.
    Stopped,
}

/// How a program ran.
#[derive(Debug)]
pub struct Ran {
    /// How it ended; `None` where it was killed and can't be seen to have ended.
    pub end: Option<End>,
    /// Why it was ended, if it was.
    pub ended: Option<Ended>,
    /// Its result as it was written.
    pub result: Text,
    /// The end of what it said on standard error.
    pub said: String,
}

/// What is told while a program runs.
pub struct Told<'a> {
    /// How far it is.
    pub progress: &'a (dyn Fn(Progress) + Sync),
    /// A line of its standard error.
    pub line: &'a (dyn Fn(&str) + Sync),
    /// Whether it may have a moment to end once `stop` has fired.
    pub grace: &'a (dyn Fn() -> bool + Sync),
}

/// Runs a program to its end, for `time` at most, and until `stop` fires; of its result `most` bytes are
/// kept. Dropped, it kills the program and all that it started.
///
/// # Errors
/// When nothing could be started.
pub async fn run(
    order: &Order,
    time: Duration,
    most: usize,
    stop: &CancellationToken,
    told: Told<'_>,
) -> io::Result<Ran> {
    let mut command = Command::new(itself()?);
    command.arg0("presswork").arg(KEEP).env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(Stdio::piped()).current_dir("/");
    // a signal from the terminal is the daemon's
    let mut child = command.process_group(0).spawn()?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut lifeline), Some(stdout), Some(stderr)) = pipes else {
        return Err(io::Error::other("its pipes are missing"));
    };
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    let ordered = lifeline.write_all(&line).await;
    let mut said = Tail::default();
    let mut text = Text::default();
    let (status, ended) = {
        let all = async {
            let out = result(stdout, most, told.progress, &mut text);
            let err = heard(stderr, told.line, &mut said);
            let ((), (), status) = tokio::join!(out, err, child.wait());
            status
        };
        tokio::pin!(all);
        let ended = tokio::select! {
            biased;
            status = &mut all => Err(status),
            () = stop.cancelled() => Ok(Ended::Stopped),
            () = tokio::time::sleep(time) => Ok(Ended::Late),
        };
        match ended {
            // if it couldn't be ordered to begin, its own words say why
            Err(status) => (Some(status), None),
            Ok(ended) => {
                let gently = ordered.is_ok() && (told.grace)();
                let status = match gently {
                    true => asked(&mut lifeline, &mut all).await,
                    false => None,
                };
                drop(lifeline);
                let status = match status {
                    Some(status) => Some(status),
                    None => tokio::time::timeout(GONE, &mut all).await.ok(),
                };
                (status, Some(ended))
            }
        }
    };
    Ok(Ran {
        end: status.transpose()?.map(end),
        ended,
        result: text,
        said: said.text(),
    })
}

/// Asks a program to end; its end, if that comes within its grace.
async fn asked<F>(lifeline: &mut ChildStdin, all: &mut F) -> Option<io::Result<ExitStatus>>
where
    F: Future<Output = io::Result<ExitStatus>> + Unpin,
{
    // a keeper that is gone leaves nothing to be asked
    let _ = lifeline.write_all(format!("{TERM}\n").as_bytes()).await;
    tokio::time::timeout(GRACE, all).await.ok()
}

fn end(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Code(code),
        (None, signal) => End::Signal(signal.unwrap_or_default()),
    }
}
