//! The list of requests that were seen, acted on or not; it never holds a secret or a body. On request
//! a file has them all, each with the times of its coming and its end.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex},
};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::{acts::held, clock::Clock, exchange::Peek};

/// Requests that are kept; the oldest go first.
const MAX_KEPT: usize = 100_000;
/// Characters of a text that the file has: enough to tell whose it is.
const TEXT_MAX: usize = 120;

/// A request that was seen.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) n: u64,
    pub(super) at: DateTime<Utc>,
    pub(super) platform: &'static str,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) op: &'static str,
    pub(super) account: Option<String>,
    pub(super) key: Option<String>,
    /// Nothing while there is no answer, and for ever when there is none.
    pub(super) status: Option<u16>,
    pub(super) fault: Option<&'static str>,
}

impl Seen {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "n": self.n,
            "at": stamp(self.at),
            "platform": self.platform,
            "method": self.method,
            "path": self.path,
            "op": self.op,
            "account": self.account,
            "key": self.key,
            "status": self.status.map_or(json!("none"), |status| json!(status)),
            "fault": self.fault,
        })
    }
}

/// The newest requests.
#[derive(Debug, Default)]
pub(super) struct Journal {
    kept: Mutex<(u64, VecDeque<Seen>)>,
    /// Two lines a request: its coming and its end.
    file: Option<Mutex<File>>,
}

/// A request that goes on for as long as this value lives: until it is answered, or its connection ends.
pub(super) struct Underway {
    journal: Arc<Journal>,
    clock: Arc<Clock>,
    n: u64,
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut ended = None;
        self.journal
            .change(self.n, |seen| ended = Some((seen.status, seen.fault)));
        let (status, fault) = ended.unwrap_or_default();
        let end = stamp(self.clock.now());
        self.journal
            .write(&json!({"n": self.n, "end": end, "status": status, "fault": fault}));
    }
}

fn stamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

impl Journal {
    /// One that writes to a file, too: `requests.jsonl`, begun anew.
    ///
    /// # Errors
    /// When the file can't be made.
    pub(super) fn to_file(path: &Path) -> io::Result<Self> {
        Ok(Self {
            kept: Mutex::default(),
            file: Some(Mutex::new(File::create(path)?)),
        })
    }

    /// Notes in the file when a request ends.
    pub(super) fn watch(self: &Arc<Self>, clock: &Arc<Clock>, n: u64) -> Option<Underway> {
        self.file.as_ref().map(|_| Underway {
            journal: Arc::clone(self),
            clock: Arc::clone(clock),
            n,
        })
    }

    /// One write a line: what was written is there whatever becomes of this process.
    fn write(&self, line: &Value) {
        let Some(file) = &self.file else { return };
        let wrote = held(file).write_all(format!("{line}\n").as_bytes());
        if let Err(error) = wrote {
            tracing::error!(%error, "a request could not be written down");
        }
    }

    /// Notes a request that has arrived; answers its number.
    pub(super) fn arrived(
        &self,
        at: DateTime<Utc>,
        platform: &'static str,
        call: (&str, &str),
        peek: &Peek,
    ) -> u64 {
        let mut kept = held(&self.kept);
        kept.0 += 1;
        let n = kept.0;
        let text = peek.text.as_deref().unwrap_or_default();
        let text: String = text.chars().take(TEXT_MAX).collect();
        self.write(&json!({
            "n": n, "at": stamp(at), "platform": platform, "op": peek.op, "key": peek.key,
            "text": text, "writes": peek.writes,
        }));
        if kept.1.len() >= MAX_KEPT {
            kept.1.pop_front();
        }
        kept.1.push_back(Seen {
            n,
            at,
            platform,
            method: call.0.to_owned(),
            path: call.1.to_owned(),
            op: peek.op,
            account: peek.account.clone(),
            key: peek.key.clone(),
            status: None,
            fault: None,
        });
        n
    }

    /// Notes the fault that is played.
    pub(super) fn bent(&self, n: u64, fault: &'static str) {
        self.change(n, |seen| seen.fault = Some(fault));
    }

    /// Notes the status that is sent.
    pub(super) fn answered(&self, n: u64, status: u16) {
        self.change(n, |seen| seen.status = Some(status));
    }

    /// The kept requests, oldest first.
    pub(super) fn all(&self) -> Vec<Seen> {
        held(&self.kept).1.iter().cloned().collect()
    }

    /// How many were seen in all, and the newest of those that a fault bent.
    pub(super) fn newest_bent(&self, most: usize) -> (u64, Vec<Seen>) {
        let kept = held(&self.kept);
        (
            kept.0,
            kept.1
                .iter()
                .rev()
                .filter(|seen| seen.fault.is_some())
                .take(most)
                .cloned()
                .collect(),
        )
    }

    pub(super) fn forget(&self) {
        held(&self.kept).1.clear();
    }

    fn change(&self, n: u64, with: impl FnOnce(&mut Seen)) {
        let mut kept = held(&self.kept);
        let Some(first) = kept.1.front().map(|seen| seen.n) else {
            return;
        };
        let at = n.checked_sub(first).and_then(|at| usize::try_from(at).ok());
        if let Some(seen) = at.and_then(|at| kept.1.get_mut(at)) {
            with(seen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_coming_and_the_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("requests.jsonl");
        let (journal, clock) = (Journal::to_file(&path), Arc::default());
        let journal = Arc::new(journal.expect("made"));
        let peek = Peek {
            op: "post.create",
            text: Some("x".repeat(500)),
            ..Peek::default()
        };
        let n = journal.arrived(Utc::now(), "x", ("POST", "/2/tweets"), &peek);
        let underway = journal.watch(&clock, n);
        let lines = || {
            let text = std::fs::read_to_string(&path).expect("there");
            let lines = text
                .lines()
                .map(|it| serde_json::from_str(it).expect("JSON"));
            lines.collect::<Vec<Value>>()
        };
        assert_eq!(lines().len(), 1);
        assert_eq!(lines()[0]["text"].as_str().map(str::len), Some(TEXT_MAX));
        journal.answered(n, 201);
        drop(underway);
        assert_eq!(
            (&lines()[1]["n"], &lines()[1]["status"]),
            (&json!(n), &json!(201))
        );
        assert!(Arc::new(Journal::default()).watch(&clock, n).is_none());
    }

    #[test]
    fn the_oldest_go_first_and_late_answers_find_their_request() {
        let journal = Journal::default();
        let note = || {
            journal.arrived(
                Utc::now(),
                "openai",
                ("GET", "/v1/models"),
                &Peek::default(),
            )
        };
        let first = note();
        let last = (0..MAX_KEPT).fold(0, |_, _| note());
        journal.answered(first, 200);
        journal.answered(last, 500);
        let all = journal.all();
        assert_eq!(all.len(), MAX_KEPT);
        assert_eq!(all[0].n, first + 1);
        assert_eq!(all[0].to_json()["status"], "none");
        assert_eq!(all.last().expect("some").status, Some(500));
    }
}
