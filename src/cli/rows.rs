//! The rows of a file of jobs, one after the other: JSON Lines, or CSV with a head. A row is read whole,
//! the file never.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::columns::Columns;
use crate::job::envelope::ENVELOPE_MAX;
use crate::json::{Digest, Members, canonical};

/// A row of a file.
pub struct Row {
    /// Its line in the file, from 1.
    pub line: u64,
    /// As it stands there: a line of JSON Lines, the cells of CSV.
    pub raw: Raw,
    /// The envelope, or why there is none.
    pub envelope: Result<Vec<u8>, String>,
}

/// A row as it stands in its file.
pub enum Raw {
    /// A line, without its end.
    Line(Vec<u8>),
    /// Cells.
    Cells(Vec<String>),
}

/// What holds for each row that doesn't say otherwise: members of the envelope.
pub type Defaults = Map<String, Value>;

/// The rows of a file.
pub struct Rows {
    format: Format,
    defaults: Defaults,
    seen: HashMap<[u8; 16], u32>,
}

enum Format {
    Lines {
        from: BufReader<Counted>,
        line: u64,
    },
    Csv {
        from: Box<csv::Reader<Counted>>,
        head: Vec<String>,
        columns: Columns,
    },
}

/// The most bytes of a row of CSV. An envelope has a quarter of that; but quotes that aren't closed make
/// a row of all the rest of the file.
const ROW_MAX: u64 = 4 * ENVELOPE_MAX as u64;

/// A reader, which knows how much was read, and stops at a bound.
struct Counted {
    from: Box<dyn Read + Send>,
    bytes: u64,
    /// No more is read after so many.
    most: u64,
    /// Of CSV: where a quote is open.
    quotes: Option<Quotes>,
}

impl Counted {
    fn new(from: Box<dyn Read + Send>, quotes: Option<Quotes>) -> Self {
        Self {
            from,
            bytes: 0,
            most: u64::MAX,
            quotes,
        }
    }
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.most <= self.bytes {
            let opened = self.quotes.as_ref().and_then(|it| it.opened);
            let told = match opened {
                Some(line) => format!(
                    "the quote that is opened in line {line} isn't closed within {ROW_MAX} bytes: close it, or write it twice where it is meant as one"
                ),
                None => format!("a row is longer than {ROW_MAX} bytes"),
            };
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, told));
        }
        let n = self.from.read(into)?;
        self.bytes += n as u64;
        if let Some(quotes) = &mut self.quotes {
            into[..n].iter().for_each(|it| quotes.see(*it));
        }
        Ok(n)
    }
}

/// Where the quote was opened that is open, as CSV has them (RFC 4180): only at a cell's beginning, and two
/// within are one that is meant.
struct Quotes {
    /// What separates cells.
    by: u8,
    line: u64,
    opened: Option<u64>,
    /// The one that the last byte closed, unless the next byte is a quote, too.
    closed: Option<u64>,
    /// The next byte is a cell's first.
    first: bool,
}

impl Quotes {
    fn of(by: u8) -> Self {
        Self {
            by,
            line: 1,
            opened: None,
            closed: None,
            first: true,
        }
    }

    fn see(&mut self, byte: u8) {
        let closed = self.closed.take();
        match (byte, self.opened) {
            // a byte order mark
            (0xef | 0xbb | 0xbf, None) if self.first && self.line == 1 => return,
            (b'"', Some(_)) => self.closed = self.opened.take(),
            (b'"', None) if closed.is_some() => self.opened = closed,
            (b'"', None) if self.first => self.opened = Some(self.line),
            _ => {}
        }
        self.line += u64::from(byte == b'\n');
        self.first = self.opened.is_none() && (byte == self.by || byte == b'\n');
    }
}

/// A file, or standard input where it is called `-`.
///
/// # Errors
/// When it can't be opened.
pub fn open(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    match path.to_str() {
        Some("-") => Ok(Box::new(io::stdin())),
        _ => Ok(Box::new(std::fs::File::open(path)?)),
    }
}

impl Rows {
    /// Those of JSON Lines: an envelope a line. Empty lines, and those that begin with `#`, are passed over.
    pub fn lines(from: Box<dyn Read + Send>, defaults: Defaults) -> Self {
        let from = BufReader::with_capacity(1 << 16, Counted::new(from, None));
        Self {
            format: Format::Lines { from, line: 0 },
            defaults,
            seen: HashMap::new(),
        }
    }

    /// Those of CSV (RFC 4180) with a head, whose cells are separated by what separates the head's:
    /// commas, semicolons or tabs.
    ///
    /// # Errors
    /// When the head can't be read, or names what the schema doesn't know: all of it at once.
    pub fn csv(
        from: Box<dyn Read + Send>,
        defaults: Defaults,
        key: Option<&str>,
        schema: &Value,
    ) -> Result<Self, Vec<String>> {
        let said = |e: &dyn std::fmt::Display| vec![format!("the head can't be read: {e}")];
        let mut from = BufReader::with_capacity(1 << 16, from);
        let start = from.fill_buf().map_err(|e| said(&e))?;
        let head = start.split(|it| *it == b'\n').next().unwrap_or_default();
        let count = |it: u8| head.iter().filter(|c| **c == it).count();
        let by = [b',', b';', b'\t']
            .into_iter()
            .max_by_key(|it| (count(*it), *it == b','))
            .unwrap_or(b',');
        let mut from = Counted::new(Box::new(from), Some(Quotes::of(by)));
        from.most = ROW_MAX;
        let mut from = csv::ReaderBuilder::new()
            .delimiter(by)
            .flexible(true)
            // after CRLF, which it knows by itself, lines are counted wrongly
            .terminator(csv::Terminator::Any(b'\n'))
            .from_reader(from);
        let head = from.headers().map_err(|e| said(&e))?;
        let mut head: Vec<String> = head.iter().map(str::to_owned).collect();
        unended(&mut head);
        if head.iter().all(String::is_empty) {
            return Err(vec![
                "there is no head: the first line names the columns".to_owned(),
            ]);
        }
        let columns = Columns::new(&head, key, schema)?;
        Ok(Self {
            format: Format::Csv {
                from: Box::new(from),
                head,
                columns,
            },
            defaults,
            seen: HashMap::new(),
        })
    }

    /// The head, of CSV.
    pub fn head(&self) -> Option<&[String]> {
        match &self.format {
            Format::Lines { .. } => None,
            Format::Csv { head, .. } => Some(head),
        }
    }

    /// How many bytes of the file were read.
    pub fn bytes(&self) -> u64 {
        match &self.format {
            Format::Lines { from, .. } => from.get_ref().bytes,
            Format::Csv { from, .. } => from.get_ref().bytes,
        }
    }

    /// The next row; nothing at the end.
    ///
    /// # Errors
    /// When the file can't be read any more.
    pub fn row(&mut self) -> io::Result<Option<Row>> {
        let found = match &mut self.format {
            Format::Lines { from, line } => next_line(from, line)?,
            Format::Csv { from, columns, .. } => next_record(from, columns)?,
        };
        Ok(found.map(|(line, raw, read)| {
            let envelope = match read {
                Reading::Members(members) => Ok(self.finished(members)),
                Reading::Bytes(bytes) => Ok(bytes),
                Reading::Wrong(told) => Err(told),
            };
            Row {
                line,
                raw,
                envelope,
            }
        }))
    }

    /// The envelope with what holds for all rows, and with a key: a row that has none gets one of its own
    /// content, so that a second run of the file adds nothing. The second of two rows that are the same
    /// is meant as another job.
    fn finished(&mut self, mut members: Members) -> Vec<u8> {
        let has = |members: &Members, name: &str| {
            let mut named = members.0.iter().filter(|it| it.0 == name);
            named.any(|it| it.1.get() != "null")
        };
        let keyed = has(&members, "key");
        let mut content = String::new();
        if !keyed {
            content = match canonical(&written(&members)) {
                Ok(it) => it,
                // intake tells it with whatever else is wrong
                Err(_) => return written(&members).into_bytes(),
            };
        }
        for (name, value) in &self.defaults {
            if !has(&members, name) {
                members.0.retain(|it| it.0 != *name);
                members.0.push((name.clone(), raw(value)));
            }
        }
        if !keyed {
            let of = ["kind", "tenant", "account"].map(|it| self.defaults.get(it));
            let content = format!("{of:?}{content}");
            let mut digest = [0; 16];
            digest.copy_from_slice(&Digest::of_bytes(content.as_bytes()).0[..16]);
            let times = self.seen.entry(digest).or_default();
            *times += 1;
            let hex: String = digest.iter().map(|it| format!("{it:02x}")).collect();
            let key = match times {
                1 => format!("row:{hex}"),
                n => format!("row:{hex}:{n}"),
            };
            members.0.retain(|it| it.0 != "key");
            members.0.push(("key".to_owned(), raw(&Value::from(key))));
        }
        written(&members).into_bytes()
    }
}

fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).expect("a value's text is JSON")
}

/// The object of these members; their values stay as they came.
fn written(Members(members): &Members) -> String {
    let each = members
        .iter()
        .map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), value.get()));
    format!("{{{}}}", each.collect::<Vec<_>>().join(","))
}

/// What a row says.
enum Reading {
    /// An envelope's members.
    Members(Members),
    /// No envelope: intake says why, in the words of every door.
    Bytes(Vec<u8>),
    /// It can't be read.
    Wrong(String),
}

type Found = Option<(u64, Raw, Reading)>;

fn next_line(from: &mut impl BufRead, line: &mut u64) -> io::Result<Found> {
    loop {
        let mut bytes = Vec::new();
        // one byte more tells that there is too much
        let most = ENVELOPE_MAX as u64 + 2;
        let n = from.by_ref().take(most).read_until(b'\n', &mut bytes)?;
        if n == 0 {
            return Ok(None);
        }
        *line += 1;
        let whole = bytes.ends_with(b"\n");
        while bytes.last().is_some_and(|it| b"\r\n".contains(it)) {
            bytes.pop();
        }
        if ENVELOPE_MAX < bytes.len() {
            if !whole {
                from.skip_until(b'\n')?;
            }
            let told =
                format!("is longer than {ENVELOPE_MAX} bytes, the most that an envelope has");
            return Ok(Some((*line, Raw::Line(bytes), Reading::Wrong(told))));
        }
        if *line == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        if bytes.trim_ascii().is_empty() || bytes.starts_with(b"#") {
            continue;
        }
        let text = std::str::from_utf8(&bytes).ok();
        let read = match text.and_then(|it| Members::parse(it, "").ok()) {
            Some(members) => Reading::Members(members),
            None => Reading::Bytes(bytes.clone()),
        };
        return Ok(Some((*line, Raw::Line(bytes), read)));
    }
}

/// What is left of a line's end stands in its last cell.
fn unended(cells: &mut [String]) {
    if let Some(last) = cells.last_mut()
        && last.ends_with('\r')
    {
        last.pop();
    }
}

fn next_record(from: &mut csv::Reader<Counted>, columns: &Columns) -> io::Result<Found> {
    let mut record = csv::ByteRecord::new();
    loop {
        let begun = from.position().byte();
        from.get_mut().most = begun + ROW_MAX;
        if !from.read_byte_record(&mut record)? {
            return Ok(None);
        }
        let line = record.position().map_or(0, csv::Position::line);
        let lossy = |it: &[u8]| String::from_utf8_lossy(it).into_owned();
        let mut cells: Vec<String> = record.iter().map(lossy).collect();
        unended(&mut cells);
        if cells.len() == 1 && cells[0].is_empty() {
            continue; // an empty line
        }
        let bad = record
            .iter()
            .position(|it| std::str::from_utf8(it).is_err());
        let envelope = match bad {
            Some(at) => Err(format!("cell {} is no UTF-8", at + 1)),
            None => columns.envelope(&cells),
        };
        let member = |(name, value): (&String, &Value)| (name.clone(), raw(value));
        let read = match envelope {
            Ok(it) => Reading::Members(Members(it.iter().map(member).collect())),
            Err(told) => Reading::Wrong(told),
        };
        return Ok(Some((line, Raw::Cells(cells), read)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn all(mut rows: Rows) -> Vec<(u64, Result<Value, String>)> {
        let mut found = Vec::new();
        while let Some(row) = rows.row().unwrap() {
            let text = |it: &[u8]| String::from_utf8_lossy(it).into_owned();
            let read = |it: Vec<u8>| serde_json::from_slice(&it).map_err(|_| text(&it));
            found.push((row.line, row.envelope.and_then(read)));
        }
        found
    }

    fn lines(text: &str, defaults: &Value) -> Vec<(u64, Result<Value, String>)> {
        let from = Box::new(io::Cursor::new(text.to_owned()));
        all(Rows::lines(from, defaults.as_object().unwrap().clone()))
    }

    #[test]
    fn a_line_is_an_envelope_and_gets_what_it_leaves_out() {
        let text = "\u{feff}{\"kind\":\"a\",\"payload\":{\"n\":1.50},\"key\":\"k\"}\r\n\n# a word\n\
                    {\"payload\":{},\"key\":\"l\",\"account\":null}\nnonsense\n{\"a\":1,\"a\":2}";
        let found = lines(text, &json!({"kind": "b", "account": "alice"}));
        let numbers: Vec<u64> = found.iter().map(|it| it.0).collect();
        assert_eq!(numbers, [1, 4, 5, 6]);
        let first = json!({"kind": "a", "payload": {"n": 1.50}, "key": "k", "account": "alice"});
        assert_eq!(found[0].1, Ok(first));
        let second = json!({"kind": "b", "payload": {}, "key": "l", "account": "alice"});
        assert_eq!(found[1].1, Ok(second));
        assert_eq!(found[2].1, Err("nonsense".to_owned()), "as it is");
        assert_eq!(found[3], (6, Ok(json!({"a": 2}))), "as it is, too");
    }

    #[test]
    fn a_row_without_a_key_gets_one_of_its_content() {
        let text = "{\"payload\":{\"a\":1,\"b\":2}}\n{\"payload\": {\"b\":2,\"a\":1}}\n{\"payload\":{\"a\":2}}\n";
        let key = |defaults: &Value, at: usize| {
            lines(text, defaults)[at].1.as_ref().unwrap()["key"].clone()
        };
        let alice = json!({"kind": "k", "account": "alice"});
        let (first, second) = (key(&alice, 0), key(&alice, 1));
        assert_eq!(
            format!("{}:2", first.as_str().unwrap()),
            second,
            "meant twice"
        );
        assert_ne!(first, key(&alice, 2));
        // the same run again, at another time: the same jobs; for another account: others
        let later = json!({"kind": "k", "account": "alice", "run_at": "2031-01-01T00:00:00Z"});
        assert_eq!(key(&later, 0), first);
        assert_ne!(key(&json!({"kind": "k", "account": "bob"}), 0), first);
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_whole() {
        let text = format!(
            "{{\"a\":\"{}\"}}\n{{\"key\":\"k\"}}\n",
            "x".repeat(3 * ENVELOPE_MAX)
        );
        let found = lines(&text, &json!({}));
        assert!(found[0].1.as_ref().unwrap_err().contains("is longer than"));
        assert_eq!(found[1], (2, Ok(json!({"key": "k"}))));
    }

    #[test]
    fn a_quote_that_is_not_closed_is_told_where_it_was_opened() {
        let schema = json!({"properties": {"text": {"type": "string"}}});
        let long = "x".repeat(100_000);
        let read = |text: String| {
            let endless = io::Cursor::new(text).chain(io::repeat(b'x'));
            let rows = Rows::csv(Box::new(endless), Map::new(), Some("key"), &schema);
            let mut rows = rows.map_err(|it| it.join("\n"))?;
            for _ in 0..1_000 {
                if rows.row().map_err(|e| e.to_string())?.is_none() {
                    break;
                }
            }
            Err::<(), _>("it never ends".to_owned())
        };
        let head = "text,key\n";
        // line breaks within quotes, quotes that are meant, and some where they are no quotes
        let fine = format!("\"a\nb\"\"\n\"\"\",k\nit is 5\",\"{long}\"\n");
        for (text, told) in [
            (
                format!("{head}{fine}c,\"d \"\"e\"\"\n"),
                "in line 6 isn't closed",
            ),
            (format!("{head}\"e\n\nf\",\"g"), "in line 4 isn't closed"),
            (format!("{head}h,"), "a row is longer than 1048576 bytes"),
            ("\"text".to_owned(), "in line 1 isn't closed"),
        ] {
            let wrong = read(text.clone()).unwrap_err();
            assert!(wrong.contains(told), "{text:.60}: {wrong}");
        }
    }

    #[test]
    fn csv_is_read_as_spreadsheets_write_it() {
        let schema = json!({"properties": {"text": {"type": "string"}, "n": {"type": "integer"}}});
        let text = "\u{feff}text;n;key\r\n\"a;b\n\"\"c\"\"\";1;k\r\n\r\nd;x;l\r\ne;3\r\n";
        let from = Box::new(io::Cursor::new(text));
        let rows = Rows::csv(from, Map::new(), Some("key"), &schema);
        let found = all(rows.unwrap_or_else(|it| panic!("{it:?}")));
        let first = json!({"payload": {"text": "a;b\n\"c\"", "n": 1}, "key": "k"});
        assert_eq!(found[0], (2, Ok(first)));
        assert_eq!((found[1].0, found[2].0), (5, 6));
        assert!(found[1].1.as_ref().unwrap_err().contains("column `n`"));
        assert!(found[2].1.as_ref().unwrap_err().contains("has 2 cells"));
        for (text, told) in [("", "no head"), ("txt\n", "did you mean `text`?")] {
            let from = Box::new(io::Cursor::new(text));
            let wrong = Rows::csv(from, Map::new(), None, &schema).err().unwrap();
            assert!(wrong.join(" ").contains(told), "{wrong:?}");
        }
    }
}
