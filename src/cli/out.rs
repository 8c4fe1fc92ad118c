//! What a command says: tables, JSON, colour, and how it ends.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

use serde::Serialize;
use unicode_segmentation::UnicodeSegmentation;

pub use crate::clock::{span, stamp, when};
use crate::json::Violation;
use crate::ledger::LedgerError;
use crate::operate::Refused;
use crate::telemetry::redact;

/// How a command ends: the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It is done.
    Done = 0,
    /// It was tried and failed: a job that was waited for died.
    Failed = 1,
    /// It was asked wrongly: an unknown option, a payload that breaks its schema, a bad `jobs.toml`.
    Usage = 2,
    /// There is no such job, lane, kind or entry.
    Missing = 3,
    /// It can't be done to it as it is, or a key is taken.
    Conflict = 4,
    /// The ledger or the queue can't be reached, or isn't ready.
    Away = 5,
    /// Interrupted by Ctrl-C.
    Interrupted = 130,
}

impl Exit {
    /// A stable word for programs.
    fn code(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Missing => "missing",
            Self::Conflict => "conflict",
            Self::Away => "away",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Why a command didn't do what was asked.
#[derive(Debug)]
pub struct CliError {
    /// How the process ends.
    pub exit: Exit,
    /// What was wrong, for people. Empty: the command has said it all already.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// More of it for programs (with `--json`), as members of the error's object.
    pub detail: Vec<(String, serde_json::Value)>,
}

impl CliError {
    /// An error.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: None,
            detail: Vec::new(),
        }
    }

    /// It was tried and failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// It was asked wrongly.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// There is no such thing.
    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(Exit::Missing, message)
    }

    /// It can't be done to it as it is.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Exit::Conflict, message)
    }

    /// The ledger or the queue can't be reached.
    pub fn away(message: impl Into<String>) -> Self {
        Self::new(Exit::Away, message)
    }

    /// The command has said all there is to say: only the exit code follows.
    pub fn said(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// Several violations, a line each.
    pub fn violations(what: &str, violations: &[Violation]) -> Self {
        let lines: String = violations.iter().map(|it| format!("\n  {it}")).collect();
        Self::usage(format!("{what}:{lines}")).with("violations", violations)
    }

    /// With what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With a member for programs.
    pub fn with(mut self, name: &str, value: impl Serialize) -> Self {
        let value = serde_json::to_value(value).unwrap_or_default();
        self.detail.push((name.to_owned(), value));
        self
    }

    /// The error as JSON, for programs.
    pub fn to_json(&self) -> serde_json::Value {
        let mut error: serde_json::Map<_, _> = self.detail.iter().cloned().collect();
        for (name, value) in [
            ("code", self.exit.code().into()),
            ("message", redact::text(&self.message).into()),
            ("recoverable", (self.exit == Exit::Away).into()),
            ("retry_after", serde_json::Value::Null),
        ] {
            error.insert(name.to_owned(), value);
        }
        if let Some(hint) = &self.hint {
            error.insert("hint".to_owned(), redact::text(hint).into());
        }
        serde_json::json!({"error": error, "exit": self.exit as u8})
    }
}

impl From<io::Error> for CliError {
    /// A reader that left (`| head`) is no failure: it has what it wanted.
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Self::said(Exit::Done),
            _ => Self::failed(e.to_string()),
        }
    }
}

impl From<LedgerError> for CliError {
    fn from(e: LedgerError) -> Self {
        match e {
            LedgerError::Away(_) => {
                Self::away(e.to_string()).hint("`presswork check` says what is wrong with it")
            }
            LedgerError::Schema(_) => Self::away(e.to_string()),
            LedgerError::Row(_) | LedgerError::Other(_) => Self::failed(e.to_string()),
        }
    }
}

impl From<Refused> for CliError {
    fn from(e: Refused) -> Self {
        match e {
            Refused::Missing(message) => Self::missing(message),
            Refused::Unfit(message) => Self::conflict(message),
            Refused::Invalid(violations) => {
                Self::violations("the payload can't be accepted", &violations)
            }
            Refused::Ledger(e) => e.into(),
        }
    }
}

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What a piece of text means: its colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    #[default]
    Plain,
    /// It went well.
    Good,
    /// It went wrong.
    Bad,
    /// Somebody should look.
    Warn,
    /// Something is going on.
    Busy,
    /// Less important.
    Faint,
    /// A heading.
    Strong,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Warn => "33",
            Self::Busy => "36",
            Self::Faint => "2",
            Self::Strong => "1",
        }
    }
}

/// Where a command speaks, and how.
#[derive(Clone, Copy, Debug)]
pub struct Out {
    /// Programs read it: JSON only.
    pub json: bool,
    /// A person watches: standard output is a terminal.
    pub terminal: bool,
    colour: bool,
    error_colour: bool,
}

impl Out {
    /// By the options given, the environment and what standard output is.
    pub fn new(json: bool, colour: Colour) -> Self {
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|it| !it.is_empty());
        let wanted = |terminal: bool| match colour {
            Colour::Auto => terminal && !forbidden,
            Colour::Always => true,
            Colour::Never => false,
        };
        let terminal = io::stdout().is_terminal();
        Self {
            json,
            terminal,
            colour: wanted(terminal) && !json,
            error_colour: wanted(io::stderr().is_terminal()) && !json,
        }
    }

    /// The text in its tone's colour, where colour is used.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        paint(self.colour, tone, text)
    }

    /// One line for a person. Control characters must have been escaped by [`plain`].
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn line(&self, text: &str) -> Result<(), CliError> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.write_all(b"\n")?;
        Ok(stdout.flush()?)
    }

    /// One JSON document, with its own indents.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn document(&self, value: &impl Serialize) -> Result<(), CliError> {
        self.line(&serde_json::to_string_pretty(value).map_err(io::Error::from)?)
    }

    /// One line of JSON Lines.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn json_line(&self, value: &impl Serialize) -> Result<(), CliError> {
        self.line(&serde_json::to_string(value).map_err(io::Error::from)?)
    }

    /// A word on standard error that is no error: what happens meanwhile.
    pub fn note(&self, text: &str) {
        if !self.json {
            // there is nobody left to tell of a closed standard error
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Tells an error on standard error, without secrets.
    pub fn error(&self, e: &CliError) {
        if e.message.is_empty() {
            return;
        }
        let text = if self.json {
            e.to_json().to_string()
        } else {
            let said = |text: &str| {
                let text = redact::text(text);
                text.lines().map(plain).collect::<Vec<_>>().join("\n")
            };
            let head = paint(self.error_colour, Tone::Bad, "error:");
            let mut text = format!("{head} {}", said(&e.message));
            if let Some(hint) = &e.hint {
                let head = paint(self.error_colour, Tone::Busy, "hint:");
                let _ = write!(text, "\n{head} {}", said(hint));
            }
            text
        };
        // there is nobody left to tell of a closed standard error
        let _ = writeln!(io::stderr(), "{text}");
    }
}

fn paint(colour: bool, tone: Tone, text: &str) -> String {
    match tone.code() {
        code if colour && !code.is_empty() => format!("\x1b[{code}m{text}\x1b[0m"),
        _ => text.to_owned(),
    }
}

/// The text with whatever could play tricks on a terminal spelt out: control characters, and
/// those that turn the reading direction.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// A text cut to so many columns at most, with `…` where it was cut.
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for grapheme in text.graphemes(true) {
        used += width(grapheme);
        if columns <= used {
            break;
        }
        out.push_str(grapheme);
    }
    out.push('…');
    out
}

/// The columns that a text takes on a terminal: two for East Asian wide characters and emoji.
pub fn width(text: &str) -> usize {
    let wide = |c: char| {
        matches!(c, '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}'
            | '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe6f}' | '\u{ff00}'..='\u{ff60}'
            | '\u{ffe0}'..='\u{ffe6}' | '\u{1f300}'..='\u{1faff}' | '\u{20000}'..='\u{3fffd}')
    };
    let of = |it: &str| 1 + usize::from(it.chars().next().is_some_and(wide));
    text.graphemes(true).map(of).sum()
}

/// A cell of a table.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

impl Cell {
    /// A text in a tone.
    pub fn toned(tone: Tone, text: impl AsRef<str>) -> Self {
        Self {
            text: plain(text.as_ref()),
            tone,
            right: false,
        }
    }

    /// A number, set to the right.
    pub fn number(n: impl ToString) -> Self {
        Self {
            text: n.to_string(),
            tone: Tone::Plain,
            right: true,
        }
    }

    fn of_width(&self, out: &Out, columns: usize, last: bool) -> String {
        let pad = " ".repeat(columns.saturating_sub(width(&self.text)));
        let text = out.paint(self.tone, &self.text);
        match (self.right, last) {
            (true, _) => format!("{pad}{text}"),
            (false, true) => text,
            (false, false) => format!("{text}{pad}"),
        }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(Tone::Plain, text)
    }
}

/// A table for people: columns as wide as their widest cell.
#[derive(Clone, Debug)]
pub struct Table {
    heads: Vec<Cell>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these heads.
    pub fn new(heads: &[&str]) -> Self {
        let head = |it: &&str| Cell::toned(Tone::Strong, it);
        Self {
            heads: heads.iter().map(head).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Prints it.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn print(mut self, out: &Out) -> Result<(), CliError> {
        for (at, head) in self.heads.iter_mut().enumerate() {
            head.right = self
                .rows
                .iter()
                .any(|row| row.get(at).is_some_and(|it| it.right));
        }
        let all = || std::iter::once(&self.heads).chain(&self.rows);
        let columns: Vec<usize> = (0..self.heads.len())
            .map(|at| {
                all()
                    .filter_map(|row| row.get(at))
                    .map(|it| width(&it.text))
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        for row in all() {
            let last = row.len().saturating_sub(1);
            let cells: Vec<String> = row
                .iter()
                .zip(&columns)
                .enumerate()
                .map(|(at, (cell, columns))| cell.of_width(out, *columns, at == last))
                .collect();
            out.line(cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_plays_tricks_on_a_terminal() {
        assert_eq!(
            plain("a\x1b[31mb\nc\u{202e}d"),
            "a\\u{1b}[31mb\\nc\\u{202e}d"
        );
        assert_eq!(plain("Grüße 日本 🎉"), "Grüße 日本 🎉");
    }

    #[test]
    fn columns_are_counted_as_a_terminal_shows_them() {
        assert_eq!(
            (width("abc"), width("日本"), width("e\u{301}"), width("👩‍🎨")),
            (3, 4, 1, 2)
        );
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("abc", 3), "abc");
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let e = CliError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((e.exit, e.message.as_str()), (Exit::Done, ""));
    }
}
