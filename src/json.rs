//! JSON as it came: members in order, duplicates refused, a canonical digest.
//!
//! `serde_json::Value` rounds long integers, and Postgres' `jsonb` refuses `\u0000`; so payloads
//! are kept as bytes, and two of them are the same when their canonical forms are: keys sorted,
//! white space gone, strings unescaped and escaped anew, number tokens verbatim (RFC 8785 would
//! round them beyond 2^53).

use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

/// Deeper documents are refused: serde_json stops at 128, Postgres only at its stack.
pub const DEPTH_MAX: usize = 64;

/// What is wrong with a document, and where: `pointer` is a JSON pointer (RFC 6901).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    /// Where, as a JSON pointer; empty for the whole document.
    pub pointer: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl Violation {
    /// A violation at `pointer`.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        let (pointer, message) = (pointer.into(), message.into());
        Self { pointer, message }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pointer.as_str() {
            "" => f.write_str(&self.message),
            pointer => write!(f, "{pointer}: {}", self.message),
        }
    }
}

/// The SHA-256 of a document's canonical form.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of plain bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of a JSON document's canonical form.
    ///
    /// # Errors
    /// When `text` is no JSON, repeats a member, or nests deeper than [`DEPTH_MAX`].
    pub fn of_json(text: &str) -> Result<Self, Violation> {
        canonical(text).map(|it| Self::of_bytes(it.as_bytes()))
    }

    /// The digest's hexadecimal spelling.
    pub fn hex(&self) -> String {
        self.0.iter().map(|it| format!("{it:02x}")).collect()
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

/// The members of an object, in their order, each as it came.
pub struct Members(pub Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Walk)
    }
}

impl Members {
    /// Reads an object's members.
    ///
    /// # Errors
    /// When `text` isn't a JSON object or names a member twice.
    pub fn parse(text: &str, pointer: &str) -> Result<Self, Violation> {
        let members: Self =
            serde_json::from_str(text).map_err(|e| Violation::new(pointer, said(&e)))?;
        let mut names: Vec<&str> = members.0.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Violation::new(
                format!("{pointer}/{}", escape(pair[0])),
                "is there twice; keep one",
            )),
            None => Ok(members),
        }
    }
}

/// A member's name as a JSON pointer's token (RFC 6901: `~` is `~0`, `/` is `~1`).
pub fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn said(error: &serde_json::Error) -> String {
    format!("is not the JSON that was expected: {error}")
}

/// The canonical form of a document.
///
/// # Errors
/// As [`Digest::of_json`].
pub fn canonical(text: &str) -> Result<String, Violation> {
    let mut out = String::with_capacity(text.len());
    write(text, "", 0, &mut out)?;
    Ok(out)
}

fn write(text: &str, pointer: &str, depth: usize, out: &mut String) -> Result<(), Violation> {
    if DEPTH_MAX < depth {
        let message = format!("nests deeper than {DEPTH_MAX} levels; flatten it");
        return Err(Violation::new("", message));
    }
    let text = text.trim_matches([' ', '\t', '\n', '\r']);
    match text.as_bytes().first() {
        Some(b'{') => {
            let Members(mut members) = Members::parse(text, pointer)?;
            members.sort_by(|a, b| a.0.cmp(&b.0));
            out.push('{');
            for (i, (name, value)) in members.iter().enumerate() {
                if 0 < i {
                    out.push(',');
                }
                out.push_str(&serde_json::Value::from(name.as_str()).to_string());
                out.push(':');
                let pointer = format!("{pointer}/{}", escape(name));
                write(value.get(), &pointer, depth + 1, out)?;
            }
            out.push('}');
        }
        Some(b'[') => {
            let values: Vec<Box<RawValue>> =
                serde_json::from_str(text).map_err(|e| Violation::new(pointer, said(&e)))?;
            out.push('[');
            for (i, value) in values.iter().enumerate() {
                if 0 < i {
                    out.push(',');
                }
                write(value.get(), &format!("{pointer}/{i}"), depth + 1, out)?;
            }
            out.push(']');
        }
        Some(b'"') => {
            let value: String =
                serde_json::from_str(text).map_err(|e| Violation::new(pointer, said(&e)))?;
            out.push_str(&serde_json::Value::from(value).to_string());
        }
        _ => {
            let _: &RawValue =
                serde_json::from_str(text).map_err(|e| Violation::new(pointer, said(&e)))?;
            out.push_str(text);
        }
    }
    Ok(())
}

/// The pointers at which two documents differ, at most `most` of them.
pub fn differences(a: &serde_json::Value, b: &serde_json::Value, most: usize) -> Vec<String> {
    let mut found = Vec::new();
    differ(a, b, String::new(), most, &mut found);
    found
}

fn differ(
    a: &serde_json::Value,
    b: &serde_json::Value,
    at: String,
    most: usize,
    found: &mut Vec<String>,
) {
    use serde_json::Value::{Array, Object};
    if a == b || most <= found.len() {
        return;
    }
    match (a, b) {
        (Object(a), Object(b)) => {
            let more = b.keys().filter(|it| !a.contains_key(*it));
            for name in a.keys().chain(more) {
                let at = format!("{at}/{}", escape(name));
                match (a.get(name), b.get(name)) {
                    (Some(a), Some(b)) => differ(a, b, at, most, found),
                    _ if found.len() < most => found.push(at),
                    _ => {}
                }
            }
        }
        (Array(a), Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differ(a, b, format!("{at}/{i}"), most, found);
            }
        }
        _ => found.push(at),
    }
}

/// The nearest of `known` to `word`, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = known
        .into_iter()
        .map(|it| (strsim::jaro_winkler(word, it), it))
        .max_by(|a, b| a.0.total_cmp(&b.0))?;
    (0.8 <= near.0).then_some(near.1)
}

/// ", did you mean `x`?", or nothing.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map_or(String::new(), |it| format!("; did you mean `{it}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_and_order_are_no_difference() {
        let a = canonical(" { \"b\" : [1, 2.0 ,\"\\u0041\"], \"a\":null}").unwrap();
        assert_eq!(a, r#"{"a":null,"b":[1,2.0,"A"]}"#);
    }

    #[test]
    fn long_numbers_are_kept_verbatim() {
        let a = Digest::of_json("[123456789012345678901234567890]").unwrap();
        let b = Digest::of_json("[123456789012345678901234567891]").unwrap();
        assert_ne!(a, b);
    }

    #[test]
    fn a_member_twice_is_refused_with_its_pointer() {
        let e = canonical(r#"{"x":{"a/b":1,"a/b":2}}"#).unwrap_err();
        assert_eq!(e.pointer, "/x/a~1b");
    }

    #[test]
    fn deep_nesting_is_refused() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(canonical(&deep(DEPTH_MAX)).is_ok());
        assert!(canonical(&deep(DEPTH_MAX + 2)).is_err());
    }

    #[test]
    fn what_differs_is_named() {
        let a = serde_json::json!({"text": "a", "media": [{"alt": "x"}], "gone": 1});
        let b = serde_json::json!({"text": "b", "media": [{"alt": "y"}], "new": 1});
        let found = differences(&a, &b, 10);
        assert_eq!(found, ["/text", "/media/0/alt", "/gone", "/new"]);
    }

    #[test]
    fn a_near_word_is_suggested() {
        assert_eq!(
            did_you_mean("prioritty", ["priority", "payload"]),
            "; did you mean `priority`?"
        );
        assert_eq!(did_you_mean("zzz", ["priority"]), "");
    }
}
