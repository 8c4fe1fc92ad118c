//! What a program says: lines of progress and then its result on standard output, words for people on
//! standard error. All of it is bounded, whatever it writes.

use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::job::Progress;

/// A longer line is no progress, in bytes.
const LINE_MAX: usize = 4_096;
/// What is kept of the end of standard error, in bytes.
const TAIL_MAX: usize = 8_192;
/// Bytes that are read at once.
const READ: usize = 16_384;

/// A result as it was written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Result {
    /// Its bytes, at most as many as are taken.
    pub bytes: Vec<u8>,
    /// There were more.
    pub cut: bool,
}

/// Takes output apart: lines of progress, as long as there are some; all that follows is the result.
struct Taker<'a> {
    most: usize,
    /// The line of which it isn't known yet what it is; nothing once the result has begun.
    line: Option<Vec<u8>>,
    result: &'a mut Result,
}

impl Taker<'_> {
    fn take(&mut self, mut bytes: &[u8], progress: &dyn Fn(Progress)) {
        while let Some(line) = self.line.as_mut().filter(|_| !bytes.is_empty()) {
            let end = bytes.iter().position(|it| *it == b'\n');
            let (now, rest) = bytes.split_at(end.map_or(bytes.len(), |it| it + 1));
            line.extend_from_slice(now);
            bytes = rest;
            match end.and_then(|_| progress_of(line)) {
                Some(it) => {
                    progress(it);
                    line.clear();
                }
                None if end.is_some() && line.trim_ascii().is_empty() => line.clear(),
                None if end.is_some() || LINE_MAX < line.len() => self.end(progress),
                None => {}
            }
        }
        let left = self.most.saturating_sub(self.result.bytes.len());
        let (kept, over) = bytes.split_at(bytes.len().min(left));
        self.result.bytes.extend_from_slice(kept);
        self.result.cut |= !over.is_empty();
    }

    /// Nothing more is looked for: what isn't known yet is the result's, or the last progress.
    fn end(&mut self, progress: &dyn Fn(Progress)) {
        let Some(line) = self.line.take() else { return };
        match progress_of(&line) {
            Some(it) => progress(it),
            None => self.take(&line, progress),
        }
    }
}

/// `{"progress": 40, "note": "half of it"}`, and nothing else in it.
fn progress_of(line: &[u8]) -> Option<Progress> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        progress: f64,
        #[serde(default)]
        note: String,
    }
    if LINE_MAX < line.len() {
        return None;
    }
    let line: Line = serde_json::from_slice(line).ok()?;
    Some(Progress {
        percent: line.progress.clamp(0.0, 100.0) as u8,
        message: line.note,
    })
}

/// Reads standard output to its end: progress is told, of the result `most` bytes are kept.
pub async fn result(
    mut from: impl AsyncRead + Unpin,
    most: usize,
    progress: &(dyn Fn(Progress) + Sync),
    into: &mut Result,
) {
    let mut taker = Taker {
        most,
        line: Some(Vec::new()),
        result: into,
    };
    let mut buffer = vec![0; READ];
    // a pipe that breaks is at its end, too
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        taker.take(&buffer[..n], progress);
    }
    taker.end(progress);
}

/// The end of what was said.
#[derive(Debug, Default)]
pub struct Tail {
    bytes: Vec<u8>,
    cut: bool,
}

impl Tail {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let over = self.bytes.len().saturating_sub(TAIL_MAX);
        self.bytes.drain(..over);
        self.cut |= 0 < over;
    }

    /// As text; half a word at its beginning may be half a secret, which nothing recognises.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let text = match self.cut {
            true => text.split_once(char::is_whitespace).map_or("", |it| it.1),
            false => &text,
        };
        text.trim().to_owned()
    }
}

/// Reads standard error to its end: whole lines are told, and its end is kept.
pub async fn heard(
    mut from: impl AsyncRead + Unpin,
    told: &(dyn Fn(&str) + Sync),
    into: &mut Tail,
) {
    let mut buffer = vec![0; READ];
    let mut line = Vec::new();
    let tell = |line: &mut Vec<u8>| {
        let text = String::from_utf8_lossy(line);
        if !text.trim().is_empty() {
            told(text.trim_end());
        }
        line.clear();
    };
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        into.add(&buffer[..n]);
        for part in buffer[..n].split_inclusive(|it| *it == b'\n') {
            // a line without an end isn't kept whole
            let left = LINE_MAX.saturating_sub(line.len());
            line.extend_from_slice(&part[..part.len().min(left)]);
            if part.ends_with(b"\n") {
                tell(&mut line);
            }
        }
    }
    tell(&mut line);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;

    /// The progress and the result of output that comes in pieces of a size.
    fn taken(output: &[u8], piece: usize, most: usize) -> (Vec<(u8, String)>, Result) {
        let (seen, mut result) = (RefCell::new(vec![]), Result::default());
        let tell = |it: Progress| seen.borrow_mut().push((it.percent, it.message));
        let mut taker = Taker {
            most,
            line: Some(Vec::new()),
            result: &mut result,
        };
        for it in output.chunks(piece.max(1)) {
            taker.take(it, &tell);
        }
        taker.end(&tell);
        (seen.into_inner(), result)
    }

    fn text(output: &str) -> (Vec<u8>, String) {
        let (seen, result) = taken(output.as_bytes(), 3, 1_000);
        let seen = seen.into_iter().map(|it| it.0).collect();
        (seen, String::from_utf8(result.bytes).unwrap())
    }

    #[test]
    fn progress_comes_first_and_the_rest_is_the_result() {
        let lines = "{\"progress\": 10}\n\n {\"progress\":250,\"note\":\"x\"} \r\n{\"a\":\n 1}\n";
        assert_eq!(text(lines), (vec![10, 100], "{\"a\":\n 1}\n".into()));
        // once the result has begun, nothing in it is progress
        let inner = "[\n{\"progress\": 10}\n]";
        assert_eq!(text(inner), (vec![], inner.into()));
        let more = "{\"progress\": 10, \"done\": true}";
        assert_eq!(text(more), (vec![], more.into()));
        assert_eq!(text("{\"progress\": 99}"), (vec![99], String::new()));
        assert_eq!(
            text("{\"progress\": \"x\"}"),
            (vec![], "{\"progress\": \"x\"}".into())
        );
        assert_eq!(text(""), (vec![], String::new()));
    }

    #[test]
    fn a_long_line_and_a_long_result_are_bounded() {
        let long = format!(
            "{{\"progress\": 1, \"note\": \"{}\"}}\n",
            "x".repeat(LINE_MAX)
        );
        let (seen, result) = taken(long.as_bytes(), 100, 1 << 20);
        assert_eq!(
            (seen.len(), result.bytes.len(), result.cut),
            (0, long.len(), false)
        );
        let (_, result) = taken(long.as_bytes(), 100, 10);
        assert_eq!((result.bytes.len(), result.cut), (10, true));
    }

    #[test]
    fn the_end_of_what_was_said_holds_no_half_word() {
        let mut tail = Tail::default();
        tail.add("secret-word ".repeat(1_000).as_bytes());
        let text = tail.text();
        assert!(text.len() <= TAIL_MAX);
        assert!(text.split(' ').all(|it| it == "secret-word"));
        let mut one = Tail::default();
        one.add(&vec![b'x'; TAIL_MAX + 1]);
        assert_eq!(one.text(), "");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(output: Vec<u8>, lines in proptest::collection::vec("(\\{\"progress\": [0-9]{1,3}\\}|[a-z{} ]{0,8})\n", 0..6), piece in 1usize..9) {
            let mut all = lines.concat().into_bytes();
            all.extend(output);
            let whole = taken(&all, all.len(), 64);
            prop_assert_eq!(taken(&all, piece, 64), whole);
        }
    }
}
