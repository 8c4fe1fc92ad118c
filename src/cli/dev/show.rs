//! What `presswork dev` shows: a line an event, a table at the end, what to try next.

use std::cell::Cell as Flag;
use std::path::Path;
use std::time::Instant;

use super::super::out::{Cell, CliError, Out, Table, Tone, cut, plain, span};
use crate::engine::shared::{Happening, What};
use crate::job::JobId;
use crate::lifecycle::{State, Transition};
use crate::operate::stops::shell;
use crate::outcome::Outcome;

/// Where it shows, and since when.
pub(super) struct Show {
    out: Out,
    /// When the program started.
    pub(super) began: Instant,
    completed: Flag<bool>,
}

impl Show {
    pub(super) fn new(out: Out, began: Instant) -> Self {
        Self {
            out,
            began,
            completed: Flag::new(false),
        }
    }

    fn elapsed(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Where things are.
    pub(super) fn head(&self, places: &[(&str, String)]) -> Result<(), CliError> {
        if self.out.json {
            return Ok(());
        }
        let name = self.out.paint(Tone::Strong, "presswork dev");
        self.out.line(&format!(
            "{name}: a whole press shop on this machine; nothing leaves it"
        ))?;
        for (name, place) in places {
            self.out.line(&format!(
                "  {}{place}",
                self.out.paint(Tone::Faint, &format!("{name:10}"))
            ))?;
        }
        self.out.line("")
    }

    fn event(&self, lane: &str, kind: &str, id: JobId, text: &str) -> Result<(), CliError> {
        if self.out.json {
            return Ok(());
        }
        let at = self
            .out
            .paint(Tone::Faint, &format!("{:6.2} s", self.elapsed()));
        let id = self.out.paint(Tone::Busy, &short(id));
        let (lane, kind) = (plain(lane), plain(kind));
        self.out
            .line(&format!("{at}  {lane:9} {kind:16} {id}  {text}"))
    }

    /// A sample was sent.
    pub(super) fn enqueued(&self, name: &str, id: JobId, again: bool) -> Result<(), CliError> {
        let text = if again {
            format!(
                "{name}: {}",
                self.out.paint(Tone::Good, "known already, no second job")
            )
        } else {
            format!("{} {name}", self.out.paint(Tone::Faint, "enqueued"))
        };
        self.event("", "", id, &text)
    }

    /// Something happened to a job here.
    pub(super) fn happening(&self, it: &Happening) -> Result<(), CliError> {
        let job = &it.job;
        let text = match &it.what {
            What::Began(attempt) if *attempt < job.epoch => format!("attempt {attempt} goes on"),
            What::Began(attempt) => format!("attempt {attempt} begins"),
            What::Progress(at) => format!("{:3} % {}", at.percent, plain(&at.message)),
            What::Ended(outcome, then) => self.ended(outcome, then),
        };
        self.event(&job.lane, &job.kind, job.id, &text)
    }

    fn ended(&self, outcome: &Outcome, then: &Transition) -> String {
        let word = plain(&cut(&outcome.to_string(), 120));
        let follows = match (then.to, then.run_at) {
            (State::Retrying | State::Scheduled, Some(at)) => {
                let wait = at - crate::clock::Clock::System.now();
                match chrono::Duration::milliseconds(1) <= wait {
                    true => format!(", again in {}", span(wait)),
                    false => ", again at once".to_owned(),
                }
            }
            (State::Dead, _) => self.out.paint(Tone::Bad, ", dead"),
            (State::Held | State::Unresolved, _) => {
                self.out.paint(Tone::Warn, &format!(", {}", then.to))
            }
            _ => String::new(),
        };
        let tone = match outcome {
            Outcome::Completed(_) => Tone::Good,
            _ if then.to == State::Dead => Tone::Bad,
            _ => Tone::Warn,
        };
        let mut text = format!("{}{follows}", self.out.paint(tone, &word));
        if matches!(outcome, Outcome::Completed(_)) && !self.completed.replace(true) {
            let first = format!(" (the first one, {:.1} s after the start)", self.elapsed());
            text.push_str(&self.out.paint(Tone::Faint, &first));
        }
        text
    }

    /// More happened than could be shown.
    pub(super) fn missed(&self, events: u64) -> Result<(), CliError> {
        self.line(
            &self
                .out
                .paint(Tone::Faint, &format!("({events} events weren't shown)")),
        )
    }

    fn line(&self, text: &str) -> Result<(), CliError> {
        if self.out.json {
            Ok(())
        } else {
            self.out.line(text)
        }
    }

    /// What happened to the samples.
    pub(super) fn table(
        &self,
        rows: Vec<[Cell; 6]>,
        told: &[serde_json::Value],
        good: bool,
    ) -> Result<(), CliError> {
        if self.out.json {
            return self
                .out
                .document(&serde_json::json!({"good": good, "samples": told}));
        }
        let mut table = Table::new(&["SAMPLE", "EXPECTED", "HAPPENED", "ATTEMPTS", "TOOK", "SEE"]);
        for row in rows {
            table.row(row);
        }
        self.out.line("")?;
        table.print(&self.out)?;
        self.out.line("")?;
        let (tone, text) = if good {
            (Tone::Good, "each ended as it should")
        } else {
            (Tone::Bad, "not each ended as it should")
        };
        self.out.line(&self.out.paint(tone, text))
    }

    /// Three commands to try next, as they can be pasted.
    pub(super) fn next(&self, config: &Path, dead: Option<JobId>) -> Result<(), CliError> {
        let program = std::env::args()
            .next()
            .unwrap_or_else(|| "presswork".to_owned());
        let start = format!(
            "{} --config {}",
            shell(&program),
            shell(&config.display().to_string())
        );
        let last = match dead {
            Some(id) => [
                format!("{start} dead show {id}"),
                format!("{start} dead revive {id}"),
            ],
            None => [format!("{start} dead list"), format!("{start} kinds")],
        };
        self.line("\nTry next, from this folder:")?;
        for command in std::iter::once(format!("{start} jobs list")).chain(last) {
            self.line(&format!("  {}", self.out.paint(Tone::Strong, &command)))?;
        }
        self.line("")
    }

    /// A Redis was named, and can't be used.
    pub(super) fn without_redis(&self) -> Result<(), CliError> {
        let text =
            "Redis can't be used: the jobs go on without it (`presswork check` says what is wrong)";
        self.line(&self.out.paint(Tone::Warn, text))
    }

    /// A person said that it is enough.
    pub(super) fn stops(&self) -> Result<(), CliError> {
        self.line("\nIt stops. What hasn't ended goes on when it is started again.")
    }

    /// The samples are over, the daemon isn't.
    pub(super) fn stays(&self) -> Result<(), CliError> {
        self.line("It stays, and shows what you do with it. Ctrl-C ends it.\n")
    }
}

/// The end of an id, which is random: its beginning is the time, which neighbours share.
fn short(id: JobId) -> String {
    let id = id.to_string();
    format!("…{}", &id[id.len() - 8..])
}
