//! The sandbox's own log, read by a parser of our own: what really happened outside, and which requests
//! were under way when. The ledger and the engine have no say in it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;

use super::evidence::{KEY_DIGITS, Ms};

/// Something that happened at a platform.
#[derive(Clone, Debug, PartialEq)]
pub struct Act {
    /// The key of the job that it belongs to.
    pub key: String,
    /// What was done.
    pub op: String,
    /// When.
    pub at: Ms,
}

/// A request as a platform saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The key of the job that it belongs to.
    pub key: String,
    /// What was asked for.
    pub op: String,
    /// It may change something.
    pub writes: bool,
    /// When it came.
    pub at: Ms,
    /// When it was answered, or its connection ended; nothing: it was still under way.
    pub end: Option<Ms>,
    /// The status that it was answered with; nothing: no answer.
    pub status: Option<u64>,
    /// The misbehaviour that was asked for.
    pub fault: Option<String>,
}

/// What is written, as its job's class of effect says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The platform dedupes.
    A,
    /// A handle says yes or no.
    B,
    /// Neither.
    C,
    /// Paid for, invisible outside.
    P,
}

/// The class of an operation that publishes, stores or costs; nothing for what only prepares or looks.
pub fn class(op: &str) -> Option<Class> {
    match op {
        "status.create" | "putRecord" | "createRecord" | "object.put" | "call" => Some(Class::A),
        "media.publish" => Some(Class::B),
        "post.create" => Some(Class::C),
        "chat.completion" | "image.generate" | "image.edit" => Some(Class::P),
        _ => None,
    }
}

/// The key in a text: `job-` and its digits.
fn key_in(text: &str) -> Option<&str> {
    text.match_indices("job-").find_map(|(at, word)| {
        let key = text.get(at..at + word.len() + KEY_DIGITS)?;
        let digits = key.as_bytes()[word.len()..].iter().all(u8::is_ascii_digit);
        digits.then_some(key)
    })
}

/// The key in any of some members of a line.
fn key_of(line: &Value, members: &[&str]) -> Option<String> {
    let texts = members.iter().filter_map(|it| line.pointer(it)?.as_str());
    texts.filter_map(key_in).map(str::to_owned).next()
}

fn time(value: &Value) -> Option<Ms> {
    let time = chrono::DateTime::parse_from_rfc3339(value.as_str()?);
    Some(time.ok()?.timestamp_millis())
}

/// What happened, of a log of acts.
///
/// # Errors
/// When it can't be read, or a line is none.
pub fn acts(path: &Path) -> anyhow::Result<Vec<Act>> {
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("can't read {}", path.display()))?;
    let mut acts = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let told = || format!("{}:{} is no act", path.display(), n + 1);
        let line: Value = serde_json::from_str(line).with_context(told)?;
        let op = line["op"].as_str().with_context(told)?;
        if class(op).is_none() {
            continue;
        }
        let at = time(&line["at"]).with_context(told)?;
        // an act that is nobody's is told, too: it must not be there
        let key = key_of(&line, &["/text", "/detail/prompt", "/key", "/detail/key"]);
        acts.push(Act {
            key: key.unwrap_or_default(),
            op: op.to_owned(),
            at,
        });
    }
    Ok(acts)
}

/// The requests of a log, as far as it has been written.
#[derive(Debug)]
pub struct Requests {
    path: PathBuf,
    read: u64,
    rest: Vec<u8>,
    /// In the order they came.
    pub all: Vec<Request>,
    open: HashMap<u64, usize>,
}

impl Requests {
    /// Of a file; nothing of it is read yet.
    pub fn of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            read: 0,
            rest: Vec::new(),
            all: Vec::new(),
            open: HashMap::new(),
        }
    }

    /// Reads what was written since the last time.
    ///
    /// # Errors
    /// When it can't be read, or a line is none.
    pub fn read(&mut self) -> anyhow::Result<()> {
        let told = || format!("can't read {}", self.path.display());
        let mut file = File::open(&self.path).with_context(told)?;
        file.seek(SeekFrom::Start(self.read)).with_context(told)?;
        let more = file.read_to_end(&mut self.rest).with_context(told)?;
        self.read += more as u64;
        // a line may be half written
        let whole = self.rest.iter().rposition(|it| *it == b'\n');
        let lines: Vec<u8> = self.rest.drain(..whole.map_or(0, |it| it + 1)).collect();
        for line in lines.split(|it| *it == b'\n').filter(|it| !it.is_empty()) {
            self.line(line).with_context(|| {
                let line = String::from_utf8_lossy(line);
                format!("{}: {line} is no request", self.path.display())
            })?;
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> anyhow::Result<()> {
        let line: Value = serde_json::from_slice(line)?;
        let n = line["n"].as_u64().context("no number")?;
        if line.get("end").is_some() {
            let at = self.open.remove(&n).context("ends and never came")?;
            let request = &mut self.all[at];
            request.end = time(&line["end"]);
            request.status = line["status"].as_u64();
            request.fault = line["fault"].as_str().map(str::to_owned);
            return Ok(());
        }
        self.open.insert(n, self.all.len());
        self.all.push(Request {
            key: key_of(&line, &["/text", "/key"]).unwrap_or_default(),
            op: line["op"].as_str().context("no operation")?.to_owned(),
            writes: line["writes"].as_bool().unwrap_or_default(),
            at: time(&line["at"]).context("no time")?,
            end: None,
            status: None,
            fault: None,
        });
        Ok(())
    }

    /// How many sends of a class are under way, by what was read.
    pub fn under_way(&self, of: Class) -> usize {
        let open = self.open.values().map(|at| &self.all[*at]);
        open.filter(|it| class(&it.op) == Some(of)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_wherever_it_stands() {
        assert_eq!(key_in("job-00000012 says hello"), Some("job-00000012"));
        assert_eq!(key_in("a woodcut: job-00000012."), Some("job-00000012"));
        assert_eq!(key_in("job-12, then job-00000013"), Some("job-00000013"));
        assert_eq!(key_in("job-0000001ü"), None);
        assert_eq!(key_in("job-"), None);
    }

    #[test]
    fn requests_are_read_as_they_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("requests.jsonl");
        let first = r#"{"n":1,"at":"2026-01-01T00:00:01.000Z","op":"post.create","key":null,"text":"job-00000001 says","writes":true}"#;
        let end = r#"{"n":1,"end":"2026-01-01T00:00:02.500Z","status":null,"fault":"slow"}"#;
        std::fs::write(&path, format!("{first}\n{}", &end[..20])).unwrap();
        let mut requests = Requests::of(&path);
        requests.read().unwrap();
        assert_eq!(requests.under_way(Class::C), 1);
        assert_eq!(requests.under_way(Class::B), 0);
        std::fs::write(&path, format!("{first}\n{end}\n")).unwrap();
        requests.read().unwrap();
        assert_eq!(requests.under_way(Class::C), 0);
        let one = &requests.all[0];
        assert_eq!(one.end.unwrap() - one.at, 1_500);
        assert_eq!(
            (&*one.key, one.fault.as_deref()),
            ("job-00000001", Some("slow"))
        );
        std::fs::write(&path, format!("{first}\n{end}\nnonsense\n")).unwrap();
        assert!(requests.read().is_err());
    }
}
