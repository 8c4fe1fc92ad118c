//! A log line: what an event and its spans say, for people or as JSON.

use std::fmt;

use serde_json::{Map, Value};
use tracing::Level;
use tracing::field::{Field, Visit};

use crate::clock::Time;

use super::redact::{HIDDEN, is_secret_name};

/// The fields of an event or a span, in their order.
#[derive(Default)]
pub(super) struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let name = field.name();
        // `input_tokens` counts, `has_token` answers; neither says one
        let tells = value.is_boolean() || value.is_number() && name.ends_with("tokens");
        let value = match is_secret_name(name) && !tells {
            true => HIDDEN.into(),
            false => value,
        };
        match self.0.iter_mut().find(|it| it.0 == name) {
            Some(old) => old.1 = value,
            None => self.0.push((name, value)),
        }
    }

    /// Adds the fields of a span around: what is nearer holds.
    pub(super) fn surround(&mut self, outer: &Self) {
        for (name, value) in &outer.0 {
            if self.0.iter().all(|it| it.0 != *name) {
                self.0.push((*name, value.clone()));
            }
        }
    }

    /// Takes a field out, as text.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|it| it.0 == name)?;
        Some(match self.0.remove(at).1 {
            Value::String(text) => text,
            other => other.to_string(),
        })
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

/// What one line says.
pub(super) struct Line<'a> {
    pub at: Time,
    pub level: Level,
    pub target: &'a str,
    pub message: &'a str,
    pub fields: &'a Fields,
}

impl Line<'_> {
    fn time(&self) -> String {
        self.at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
    }

    /// One JSON object. Its texts are redacted one by one: it stays JSON whatever was hidden.
    pub(super) fn json(&self, redact: impl Fn(&str) -> String) -> String {
        let mut all = Map::new();
        all.insert("time".into(), self.time().into());
        all.insert(
            "level".into(),
            self.level.as_str().to_ascii_lowercase().into(),
        );
        all.insert("target".into(), redact(self.target).into());
        all.insert("message".into(), redact(self.message).into());
        for (name, value) in &self.fields.0 {
            let value = match value {
                Value::String(text) => redact(text).into(),
                other => other.clone(),
            };
            all.entry(*name).or_insert(value);
        }
        one_line(&Value::Object(all).to_string())
    }

    /// A line for people. Colour goes around the level after `redact`, so that it can't stand
    /// between a secret and its name.
    pub(super) fn human(&self, redact: impl Fn(&str) -> String, colour: bool) -> String {
        let mut said = format!("{}: {}", escaped(self.target), escaped(self.message));
        for (name, value) in &self.fields.0 {
            let value = match value {
                Value::String(text) if plain(text) => text.clone(),
                Value::String(text) => escaped(&Value::from(text.as_str()).to_string()),
                other => other.to_string(),
            };
            said.push_str(&format!(" {name}={value}"));
        }
        let level = match colour {
            true => format!("\u{1b}[{}m{:>5}\u{1b}[0m", hue(self.level), self.level),
            false => format!("{:>5}", self.level),
        };
        format!("{} {level} {}", self.time(), redact(&said))
    }
}

fn hue(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    }
}

/// Whether a value needs no quotes.
fn plain(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| !c.is_whitespace() && !c.is_control() && !turns(c) && !"\"'=\\".contains(c))
}

/// Characters that turn the direction of text: with them a line can show what it doesn't say.
fn turns(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON escapes control characters up to U+001F by itself; the others become escapes too.
fn one_line(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c.is_control() || turns(c) || matches!(c, '\u{2028}' | '\u{2029}') {
            true => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    out
}

/// The text on one line, with control characters spelled out.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() || turns(c) || matches!(c, '\u{2028}' | '\u{2029}') {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelled_out() {
        assert_eq!(
            escaped("a\tb\r\n\u{1b}[0m\u{7f}é"),
            r"a\tb\r\n\u{1b}[0m\u{7f}é"
        );
        assert!(plain("j-1") && !plain("a b") && !plain("") && !plain("\u{202e}"));
    }
}
