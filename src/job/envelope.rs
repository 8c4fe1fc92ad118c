//! The envelope: what a producer sends, the same at every door.

use std::collections::BTreeMap;
use std::str::FromStr;

use chrono::{DateTime, Datelike, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::priority::Priority;
use crate::clock::Time;
use crate::json::{Members, Violation, canonical, did_you_mean, escape};
use crate::lateness::{AFTER_MAX_S, Policy};

/// The largest envelope, in bytes.
pub const ENVELOPE_MAX: usize = 256 * 1024;
/// The longest idempotency key, in bytes.
pub const KEY_MAX: usize = 255;
/// The longest name (kind, tenant, account, lane, label), in bytes.
pub const NAME_MAX: usize = 128;
/// The most labels.
pub const LABELS_MAX: usize = 32;
/// The longest `timeout_s`: a day.
pub const TIMEOUT_MAX_S: u32 = 86_400;
/// The most attempts.
pub const ATTEMPTS_MAX: u32 = 100;

/// What a producer sends: a kind, its payload, an idempotency key, and options.
#[derive(Clone, Debug, Default)]
pub struct Envelope {
    /// Which handler: `post.mastodon`.
    pub kind: String,
    /// The payload's bytes as they came; empty only in a default envelope.
    pub payload: String,
    /// The idempotency key: the same key and payload is the same job.
    pub key: Option<String>,
    /// Whose job it is. Default: `default`.
    pub tenant: Option<String>,
    /// The account it acts for, by its name in the configuration.
    pub account: Option<String>,
    /// The lane it waits in. Default: its kind's.
    pub lane: Option<String>,
    /// What goes first within the lane. Default: `normal`.
    pub priority: Option<Priority>,
    /// Not before (RFC 3339).
    pub run_at: Option<Time>,
    /// Not after (RFC 3339).
    pub not_after: Option<Time>,
    /// What becomes of it when it comes late. Default: its kind's, else `publish`.
    pub late: Option<Policy>,
    /// How many seconds late that is. Default: its kind's, else 3,600.
    pub late_after_s: Option<u32>,
    /// Attempts in all, 1 to 100. Default: its kind's policy.
    pub attempts_max: Option<u32>,
    /// An attempt is ended after this many seconds, 1 to 86,400. Default: its kind's.
    pub timeout_s: Option<u32>,
    /// The producer's own labels, at most 32.
    pub labels: BTreeMap<String, String>,
    /// W3C trace context, passed on to logs and platforms that take it.
    pub traceparent: Option<String>,
    /// The token of the reply list (`presswork:reply:<token>`) that gets the receipt.
    pub reply_to: Option<String>,
    /// It is meant although the account said the same shortly before (content guard).
    pub again: bool,
}

/// The members of an envelope, in the order in which help and schema show them.
pub const MEMBERS: [&str; 18] = [
    "v",
    "kind",
    "payload",
    "key",
    "tenant",
    "account",
    "lane",
    "priority",
    "run_at",
    "not_after",
    "late",
    "late_after_s",
    "attempts_max",
    "timeout_s",
    "labels",
    "traceparent",
    "reply_to",
    "again",
];

impl Envelope {
    /// Reads an envelope.
    ///
    /// # Errors
    /// Every violation at once, each with its JSON pointer and what to write instead.
    pub fn parse(bytes: &[u8]) -> Result<Self, Vec<Violation>> {
        let one = |message: String| vec![Violation::new("", message)];
        if ENVELOPE_MAX < bytes.len() {
            return Err(one(too_large(bytes.len())));
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|e| one(format!("is not UTF-8 (byte {})", e.valid_up_to())))?;
        if !text.trim_start().starts_with('{') {
            return Err(one(
                "is no JSON object; send {\"kind\": ..., \"payload\": {...}}".to_owned(),
            ));
        }
        let Members(members) = Members::parse(text, "").map_err(|it| vec![it])?;
        let mut reader = Reader::default();
        for (name, value) in &members {
            reader.member(name, value);
        }
        let said = |member: &str| {
            let named = members.iter().find(|(name, _)| name == member);
            named.is_some_and(|(_, value)| value.get() != "null")
        };
        if !said("kind") {
            reader.wrong("/kind", "is missing; `presswork kinds` lists them");
        }
        if !said("payload") {
            reader.wrong(
                "/payload",
                "is missing; send {} for a kind that needs nothing",
            );
        }
        if let (Some(from), Some(to)) = (reader.envelope.run_at, reader.envelope.not_after)
            && to < from
        {
            reader.wrong("/not_after", "is before run_at: the job could never start");
        }
        if reader.wrong.is_empty() {
            Ok(reader.envelope)
        } else {
            Err(reader.wrong)
        }
    }

    /// The options as asked, compact and in one order, without the payload and the key.
    pub fn options(&self) -> String {
        let time = |it: &Time| it.to_rfc3339();
        let mut out = serde_json::Map::new();
        let mut put = |name: &str, value: Option<serde_json::Value>| {
            if let Some(value) = value {
                out.insert(name.to_owned(), value);
            }
        };
        put("account", self.account.clone().map(Into::into));
        put("lane", self.lane.clone().map(Into::into));
        put("priority", self.priority.map(|it| it.as_str().into()));
        put("run_at", self.run_at.as_ref().map(time).map(Into::into));
        put(
            "not_after",
            self.not_after.as_ref().map(time).map(Into::into),
        );
        put("late", self.late.map(|it| it.as_str().into()));
        put("late_after_s", self.late_after_s.map(Into::into));
        put("attempts_max", self.attempts_max.map(Into::into));
        put("timeout_s", self.timeout_s.map(Into::into));
        if !self.labels.is_empty() {
            put("labels", serde_json::to_value(&self.labels).ok());
        }
        put("again", self.again.then_some(true.into()));
        serde_json::Value::Object(out).to_string()
    }
}

/// Whether a text can be a name: of a kind, a tenant, an account, a lane.
pub fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-@:/+".contains(c);
    (1..=NAME_MAX).contains(&text.len()) && text.chars().all(plain)
}

/// What is told of an envelope of so many bytes, which is too many.
pub fn too_large(bytes: usize) -> String {
    format!(
        "is {bytes} bytes; an envelope has at most {ENVELOPE_MAX}: keep media out of it and refer to them"
    )
}

#[derive(Default)]
struct Reader {
    envelope: Envelope,
    wrong: Vec<Violation>,
}

impl Reader {
    fn wrong(&mut self, pointer: &str, message: impl Into<String>) {
        self.wrong.push(Violation::new(pointer, message));
    }

    fn member(&mut self, name: &str, value: &RawValue) {
        let at = format!("/{}", escape(name));
        match name {
            "v" => {
                if !matches!(value.get(), "1" | "null") {
                    self.wrong(
                        &at,
                        format!("is {}; this Presswork speaks version 1", value.get()),
                    );
                }
            }
            "kind" => self.envelope.kind = self.name(&at, value).unwrap_or_default(),
            "payload" if value.get() == "null" => {}
            "payload" => match canonical(value.get()) {
                Ok(_) if value.get().trim_start().starts_with('{') => {
                    self.envelope.payload = value.get().to_owned();
                }
                Ok(_) => self.wrong(&at, "is no JSON object"),
                Err(it) => self.wrong(&format!("{at}{}", it.pointer), it.message),
            },
            "key" => self.envelope.key = self.text(&at, value, KEY_MAX),
            "tenant" => self.envelope.tenant = self.name(&at, value),
            "account" => self.envelope.account = self.name(&at, value),
            "lane" => self.envelope.lane = self.name(&at, value),
            "priority" => self.envelope.priority = self.word(&at, value),
            "run_at" => self.envelope.run_at = self.time(&at, value),
            "not_after" => self.envelope.not_after = self.time(&at, value),
            "late" => self.envelope.late = self.word(&at, value),
            "late_after_s" => self.envelope.late_after_s = self.number(&at, value, AFTER_MAX_S),
            "attempts_max" => self.envelope.attempts_max = self.number(&at, value, ATTEMPTS_MAX),
            "timeout_s" => self.envelope.timeout_s = self.number(&at, value, TIMEOUT_MAX_S),
            "labels" => self.labels(&at, value),
            "traceparent" => self.envelope.traceparent = self.traceparent(&at, value),
            "reply_to" => self.envelope.reply_to = self.token(&at, value),
            "again" => {
                let said = self.read(&at, value, "true or false");
                self.envelope.again = said.unwrap_or_default();
            }
            _ => self.wrong(
                &at,
                format!("is no member of an envelope{}", did_you_mean(name, MEMBERS)),
            ),
        }
    }

    /// `null` is the same as not there.
    fn read<'de, T: Deserialize<'de>>(
        &mut self,
        at: &str,
        value: &'de RawValue,
        wanted: &str,
    ) -> Option<T> {
        match serde_json::from_str::<Option<T>>(value.get()) {
            Ok(it) => it,
            Err(_) => {
                self.wrong(at, format!("must be {wanted}"));
                None
            }
        }
    }

    fn text(&mut self, at: &str, value: &RawValue, max: usize) -> Option<String> {
        let text: String = self.read(at, value, "a string")?;
        let wrong = if text.is_empty() {
            "is empty; leave it out instead".to_owned()
        } else if max < text.len() {
            format!("is {} bytes long; at most {max} are allowed", text.len())
        } else if text.chars().any(char::is_control) {
            "holds a control character".to_owned()
        } else {
            return Some(text);
        };
        self.wrong(at, wrong);
        None
    }

    fn word<T: FromStr<Err = String>>(&mut self, at: &str, value: &RawValue) -> Option<T> {
        let word = self.text(at, value, NAME_MAX)?;
        word.parse().map_err(|e: String| self.wrong(at, e)).ok()
    }

    fn name(&mut self, at: &str, value: &RawValue) -> Option<String> {
        let text = self.text(at, value, NAME_MAX)?;
        if is_name(&text) {
            return Some(text);
        }
        self.wrong(at, "may hold only letters, digits and . _ - @ : / +");
        None
    }

    fn number(&mut self, at: &str, value: &RawValue, max: u32) -> Option<u32> {
        let wanted = format!("a whole number from 1 to {max}");
        let number: u32 = self.read(at, value, &wanted)?;
        if (1..=max).contains(&number) {
            return Some(number);
        }
        self.wrong(at, format!("must be {wanted}"));
        None
    }

    fn time(&mut self, at: &str, value: &RawValue) -> Option<Time> {
        let text: String = self.read(at, value, "a time such as 2027-01-31T09:00:00Z")?;
        let read = DateTime::parse_from_rfc3339(&text).map(|it| it.with_timezone(&Utc));
        match read {
            // by its offset a time may leave the years that can be spelled again
            Ok(it) if (0..=9_999).contains(&it.year()) => Some(it),
            _ => {
                self.wrong(
                    at,
                    "must be a time as RFC 3339 spells it, such as 2027-01-31T09:00:00Z",
                );
                None
            }
        }
    }

    fn labels(&mut self, at: &str, value: &RawValue) {
        let Some(Members(members)) = self.read(at, value, "an object of strings") else {
            return;
        };
        if LABELS_MAX < members.len() {
            self.wrong(
                at,
                format!(
                    "has {} members; at most {LABELS_MAX} are allowed",
                    members.len()
                ),
            );
            return;
        }
        for (name, value) in &members {
            let at = format!("{at}/{}", escape(name));
            if name.is_empty() {
                self.wrong(&at, "has an empty name");
            } else if NAME_MAX < name.len() || name.chars().any(char::is_control) {
                self.wrong(&at, format!("has a name that is too long (over {NAME_MAX} bytes) or holds a control character"));
            } else if let Some(text) = self.text(&at, value, 1_024) {
                self.envelope.labels.insert(name.clone(), text);
            }
        }
    }

    /// W3C Trace Context: version, 32 hex digits, 16 hex digits, flags.
    fn traceparent(&mut self, at: &str, value: &RawValue) -> Option<String> {
        let text = self.text(at, value, 64)?;
        let parts: Vec<&str> = text.split('-').collect();
        let hex =
            |part: &&str, n: usize| part.len() == n && part.bytes().all(|b| b.is_ascii_hexdigit());
        match parts.as_slice() {
            [v, trace, parent, flags]
                if hex(v, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2) =>
            {
                Some(text)
            }
            _ => {
                self.wrong(at, "is no W3C traceparent, such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
                None
            }
        }
    }

    fn token(&mut self, at: &str, value: &RawValue) -> Option<String> {
        let text = self.text(at, value, 64)?;
        if text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        {
            return Some(text);
        }
        self.wrong(
            at,
            "is the token of a reply list: letters, digits, - and _ only",
        );
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wrong(text: &str) -> Vec<String> {
        let wrong = Envelope::parse(text.as_bytes()).unwrap_err();
        wrong.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_small_envelope_and_a_full_one() {
        let small = Envelope::parse(br#"{"kind":"test.job","payload":{}}"#).unwrap();
        assert_eq!(
            (small.kind.as_str(), small.payload.as_str()),
            ("test.job", "{}")
        );
        let full = br#"{"v":1,"kind":"post.mastodon","payload":{"text":"a\u0000","n":12345678901234567890123},
            "key":"k","tenant":"t","account":"a","lane":"l","priority":"high","run_at":"2027-01-01T00:00:00+01:00",
            "not_after":"2027-01-02T00:00:00Z","attempts_max":3,"timeout_s":60,"labels":{"a":"b"},
            "traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","reply_to":"r-1"}"#;
        let full = Envelope::parse(full).unwrap();
        assert!(full.payload.contains("12345678901234567890123"));
        assert_eq!(
            full.run_at.unwrap().to_rfc3339(),
            "2026-12-31T23:00:00+00:00"
        );
        assert_eq!(full.priority, Some(Priority::High));
    }

    #[test]
    fn every_violation_is_told_at_once_with_what_to_write() {
        let wrong = wrong(
            r#"{"kind":"x y","prioritty":"high","attempts_max":0,"run_at":"tomorrow","labels":{"a":1},"key":""}"#,
        );
        assert_eq!(wrong.len(), 7, "{wrong:#?}");
        assert!(
            wrong
                .iter()
                .any(|it| it.contains("did you mean `priority`?"))
        );
        assert!(wrong.iter().any(|it| it.starts_with("/labels/a: ")));
        assert!(
            wrong
                .iter()
                .any(|it| it.starts_with("/payload: is missing"))
        );
    }

    #[test]
    fn what_is_no_envelope_is_told_so() {
        assert!(wrong("[]")[0].contains("no JSON object"));
        assert!(wrong(r#"{"kind":"a","kind":"b","payload":{}}"#)[0].contains("twice"));
        assert!(
            wrong(&format!(
                "{{\"kind\":\"a\",\"payload\":\"{}\"}}",
                "x".repeat(ENVELOPE_MAX)
            ))[0]
                .contains("at most")
        );
        assert!(wrong(r#"{"kind":"a","payload":[]}"#)[0].contains("/payload"));
        assert!(wrong(r#"{"v":2,"kind":"a","payload":{}}"#)[0].contains("version 1"));
    }

    #[test]
    fn a_time_can_be_spelled_again() {
        for (time, fits) in [
            ("9999-12-31T23:59:59Z", true),
            ("9999-12-31T23:59:59-00:01", false),
            ("0000-01-01T00:00:00Z", true),
            ("0000-01-01T00:00:00+00:01", false),
        ] {
            let text = format!(r#"{{"kind":"a","payload":{{}},"run_at":"{time}"}}"#);
            assert_eq!(Envelope::parse(text.as_bytes()).is_ok(), fits, "{time}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,80}") {
            let _ = Envelope::parse(&bytes);
            let _ = Envelope::parse(format!("{{\"kind\":\"a\",\"payload\":{{\"x\":{text}}}}}").as_bytes());
        }
    }
}
