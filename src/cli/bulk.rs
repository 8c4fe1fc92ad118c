//! A file of jobs: each row goes in by the one intake, in batches; a bad row is told, kept aside, and
//! stops none of the others; a second run of the same file adds nothing.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use tokio::task::block_in_place;

use super::columns::REJECT_COLUMNS;
use super::cx::{Cx, refused};
use super::out::{CliError, Exit, Tone, plain};
use super::rows::{Defaults, Raw, Row, Rows, open};
use crate::intake::{Answer, Rules, accept, admit, known};
use crate::job::{JobId, NewJob};
use crate::ledger::Ledger;

/// Rows that are written down together: as many as one statement takes well.
const BATCH: usize = 500;
/// The bound on unfinished jobs is looked at after so many rows: counting reads the backlog.
const COUNTED_EVERY: u64 = 20_000;
/// Rejected rows that are told one by one; the file of rejects has all.
const TOLD_MAX: usize = 20;
const SHOWN_EVERY: Duration = Duration::from_millis(200);

/// Which file, and of which form.
pub struct Source<'a> {
    /// The file; `-` is standard input.
    pub path: &'a Path,
    /// It is CSV, not JSON Lines.
    pub csv: bool,
    /// The column whose cells are the idempotency keys, of CSV.
    pub key: Option<&'a str>,
    /// Where the rows go that aren't accepted, if not beside the file.
    pub rejects: Option<&'a Path>,
}

/// What became of a file.
#[derive(Debug, Default, Serialize)]
struct Told {
    rows: u64,
    new: u64,
    same: u64,
    /// New ones whose account says the same in another job.
    repeats: u64,
    rejected: u64,
    /// Where the rejected rows are.
    rejects: Option<PathBuf>,
    /// The first of them.
    reasons: Vec<Rejected>,
    ms: u64,
}

#[derive(Debug, Serialize)]
struct Rejected {
    line: u64,
    reason: String,
}

/// Takes a file in.
///
/// # Errors
/// When it can't be read, its head is wrong, the ledger is away, or the backlog is at its bound: what was
/// taken in until then stays, and the same command again goes on. When a row was rejected.
pub async fn run(cx: &Cx, source: &Source<'_>, defaults: Defaults) -> Result<(), CliError> {
    let whole = |it: &Path| it.canonicalize().ok();
    if let Some(rejects) = source.rejects.and_then(whole)
        && Some(rejects) == whole(source.path)
    {
        return Err(CliError::usage(
            "--rejects names the very file that is read: name another",
        ));
    }
    let rows = rows(cx, source, defaults)?;
    let ledger = cx.ledger().await?;
    let mut bulk = Bulk {
        cx,
        began: Instant::now(),
        shown: None,
        size: std::fs::metadata(source.path).map_or(0, |it| it.len()),
        rejects: Rejects::new(source, rows.head()),
        told: Told::default(),
    };
    let done = bulk.take_in(rows, &*ledger).await;
    bulk.hide();
    let told = bulk.end()?;
    done.map_err(|e| {
        let rows = counted(told.new + told.same);
        let hint =
            format!("{rows} taken in; the same command again goes on, and adds nothing twice");
        CliError {
            hint: Some(hint),
            ..e
        }
    })?;
    match told.rejected {
        0 => Ok(()),
        _ => Err(CliError::said(Exit::Usage)),
    }
}

fn rows(cx: &Cx, source: &Source<'_>, defaults: Defaults) -> Result<Rows, CliError> {
    let name = source.path.display();
    let from =
        open(source.path).map_err(|e| CliError::usage(format!("{name} can't be read: {e}")))?;
    if !source.csv {
        return Ok(Rows::lines(from, defaults));
    }
    let kind = defaults
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let rules = cx.rules();
    let found = known(&rules, &kind).map_err(|it| refused(&kind, &it))?;
    let schema = found.schema().to_value();
    block_in_place(|| Rows::csv(from, defaults, source.key, &schema)).map_err(|wrong| {
        CliError::usage(format!("{name}: {}", wrong.join("\n"))).hint(format!(
            "`presswork kinds schema {kind}` says what it takes"
        ))
    })
}

struct Bulk<'a> {
    cx: &'a Cx,
    began: Instant,
    shown: Option<Instant>,
    size: u64,
    rejects: Rejects,
    told: Told,
}

impl Bulk<'_> {
    async fn take_in(&mut self, mut rows: Rows, ledger: &dyn Ledger) -> Result<(), CliError> {
        let rules = self.cx.rules();
        let mut counted = None;
        loop {
            if counted.is_none_or(|it| it + COUNTED_EVERY <= self.told.rows) {
                self.cx.room(ledger).await?;
                counted = Some(self.told.rows);
            }
            let (from, jobs) = self.batch(&mut rows, &rules)?;
            let answers = accept(ledger, &jobs).await?;
            for (row, answer) in from.iter().zip(answers) {
                self.answered(row, &answer)?;
            }
            self.show(rows.bytes());
            if jobs.len() < BATCH {
                return Ok(());
            }
        }
    }

    /// The next rows that are jobs, and the jobs; fewer than [`BATCH`] at the end. The others are rejected.
    fn batch(
        &mut self,
        rows: &mut Rows,
        rules: &Rules,
    ) -> Result<(Vec<Row>, Vec<NewJob>), CliError> {
        let mut from: Vec<Row> = Vec::with_capacity(BATCH);
        let mut jobs: Vec<NewJob> = Vec::with_capacity(BATCH);
        while jobs.len() < BATCH {
            let row = block_in_place(|| rows.row());
            let row =
                row.map_err(|e| CliError::failed(format!("the file can't be read on: {e}")))?;
            let Some(row) = row else { break };
            self.told.rows += 1;
            let admitted = match &row.envelope {
                Err(reason) => Err(reason.clone()),
                Ok(bytes) => admit(rules, JobId::mint(), bytes).map_err(|it| it.message()),
            };
            match admitted {
                Err(reason) => self.reject(&row, &reason)?,
                Ok(job) => {
                    jobs.push(job);
                    from.push(row);
                }
            }
        }
        Ok((from, jobs))
    }

    fn answered(&mut self, row: &Row, answer: &Answer) -> Result<(), CliError> {
        if let Some((_, reason)) = answer.refusal() {
            return self.reject(row, &reason);
        }
        match answer {
            Answer::New { repeats, .. } => {
                self.told.new += 1;
                self.told.repeats += u64::from(repeats.is_some());
            }
            _ => self.told.same += 1,
        }
        Ok(())
    }

    fn reject(&mut self, row: &Row, reason: &str) -> Result<(), CliError> {
        let reason = reason.replace('\n', "; ");
        self.told.rejected += 1;
        if self.told.reasons.len() < TOLD_MAX {
            self.hide();
            self.cx
                .out
                .note(&format!("line {}: {}", row.line, plain(&reason)));
            self.told.reasons.push(Rejected {
                line: row.line,
                reason: reason.clone(),
            });
        }
        let path = self.rejects.path.display().to_string();
        let kept = self.rejects.keep(row, &reason);
        kept.map_err(|e| CliError::failed(format!("{path} can't be written: {e}")))
    }

    /// How far it is, where a person watches.
    fn show(&mut self, bytes: u64) {
        let watched = io::stderr().is_terminal() && !self.cx.out.json;
        if !watched || self.shown.is_some_and(|it| it.elapsed() < SHOWN_EVERY) {
            return;
        }
        self.shown = Some(Instant::now());
        let part = match self.size {
            0 => String::new(),
            size => format!(" {:3} %", (bytes.min(size) * 100) / size),
        };
        let Told { rows, rejected, .. } = self.told;
        // there is nobody left to tell of a closed standard error
        let _ = write!(
            io::stderr(),
            "\r\x1b[K{part} {rows} rows, {} a second, {rejected} rejected",
            rate(rows, self.began.elapsed())
        );
    }

    fn hide(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    fn end(&mut self) -> Result<Told, CliError> {
        let mut told = std::mem::take(&mut self.told);
        let ended = self.rejects.end();
        told.rejects = ended.map_err(|e| {
            CliError::failed(format!(
                "{} can't be written: {e}",
                self.rejects.path.display()
            ))
        })?;
        let took = self.began.elapsed();
        told.ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let out = self.cx.out;
        if out.json {
            out.document(&told)?;
            return Ok(told);
        }
        let more = told.rejected.saturating_sub(told.reasons.len() as u64);
        if 0 < more {
            out.note(&format!("... and {more} more"));
        }
        let mut line = format!(
            "{} in {:.1} s ({} a second): {} new, {} the same again, ",
            counted(told.rows),
            took.as_secs_f64(),
            rate(told.rows, took),
            told.new,
            told.same
        );
        let rejected = format!("{} rejected", told.rejected);
        let tone = if told.rejected == 0 {
            Tone::Plain
        } else {
            Tone::Bad
        };
        line.push_str(&out.paint(tone, &rejected));
        if let Some(path) = &told.rejects {
            line.push_str(&format!(
                ", with their reasons in {}",
                plain(&path.display().to_string())
            ));
        }
        if 0 < told.repeats {
            let same = format!(
                "; {} of the new ones say what their account says in another job",
                told.repeats
            );
            line.push_str(&out.paint(Tone::Warn, &same));
        }
        out.line(&line)?;
        Ok(told)
    }
}

fn counted(rows: u64) -> String {
    match rows {
        1 => "1 row".to_owned(),
        n => format!("{n} rows"),
    }
}

fn rate(rows: u64, took: Duration) -> u64 {
    let rate = rows as f64 / took.as_secs_f64().max(0.001);
    // both are positive, and nobody reads this fast
    rate.round() as u64
}

/// The rows that weren't accepted, in a file of the same form: mended, it is taken in like any other.
struct Rejects {
    path: PathBuf,
    head: Option<Vec<String>>,
    open: Option<Open>,
}

enum Open {
    Lines(BufWriter<File>),
    Csv(Box<csv::Writer<File>>),
}

impl Rejects {
    fn new(source: &Source<'_>, head: Option<&[String]>) -> Self {
        let form = if source.csv { "csv" } else { "jsonl" };
        let beside = || match source.path.to_str() {
            Some("-") => PathBuf::from(format!("rejects.{form}")),
            _ => source.path.with_extension(format!("rejects.{form}")),
        };
        Self {
            path: source.rejects.map_or_else(beside, Path::to_path_buf),
            head: head.map(<[String]>::to_vec),
            open: None,
        }
    }

    /// The columns of the file that aren't a former run's own.
    fn kept(head: &[String]) -> impl Iterator<Item = usize> {
        let own = |it: &&String| !REJECT_COLUMNS.contains(&it.as_str());
        let head = head.iter().enumerate().filter(move |it| own(&it.1));
        head.map(|it| it.0)
    }

    fn keep(&mut self, row: &Row, reason: &str) -> io::Result<()> {
        if self.open.is_none() {
            let file = File::create(&self.path)?;
            self.open = Some(match &self.head {
                None => Open::Lines(BufWriter::new(file)),
                Some(head) => {
                    let mut to = csv::WriterBuilder::new().flexible(true).from_writer(file);
                    let names = Self::kept(head).map(|at| head[at].as_str());
                    to.write_record(names.chain(REJECT_COLUMNS))?;
                    Open::Csv(Box::new(to))
                }
            });
        }
        match (&mut self.open, &row.raw) {
            (Some(Open::Lines(to)), Raw::Line(bytes)) => {
                writeln!(to, "# line {}: {reason}", row.line)?;
                to.write_all(bytes)?;
                to.write_all(b"\n")
            }
            (Some(Open::Csv(to)), Raw::Cells(cells)) => {
                let head = self.head.as_deref().unwrap_or_default();
                // a row with other cells than the head's stays as it is
                let own: Vec<usize> = match cells.len() == head.len() {
                    true => Self::kept(head).collect(),
                    false => (0..cells.len()).collect(),
                };
                let line = row.line.to_string();
                let cells = own.iter().map(|at| cells[*at].as_str());
                Ok(to.write_record(cells.chain([line.as_str(), reason]))?)
            }
            _ => Ok(()),
        }
    }

    /// Writes what is left; the file's name, where there is one.
    fn end(&mut self) -> io::Result<Option<PathBuf>> {
        match self.open.take() {
            None => return Ok(None),
            Some(Open::Lines(mut to)) => to.flush()?,
            Some(Open::Csv(mut to)) => to.flush()?,
        }
        Ok(Some(self.path.clone()))
    }
}
