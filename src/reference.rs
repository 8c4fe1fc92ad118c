//! References to media: how a payload, a step or a result names a file of the media store.
//!
//! A file's name is the SHA-256 of its bytes, `media:sha256:` and 64 lower-case hexadecimal digits.
//! The ledger looks for this spelling in every text that it writes down for a job: what is found
//! there is held by the job, and kept for as long as the job is.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::json::Digest;

/// What a name begins with.
const PREFIX: &str = "media:sha256:";
/// Hexadecimal digits of a digest.
const DIGITS: usize = 64;

/// The name of a file in the media store: `media:sha256:` and its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name(pub Digest);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0.hex())
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix(PREFIX).filter(|it| it.len() == DIGITS);
        digits.and_then(digest).map(Self).ok_or_else(|| {
            format!("no name of media; write {PREFIX} and the SHA-256 in 64 lower-case digits")
        })
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Name {
    fn schema_name() -> Cow<'static, str> {
        "MediaName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^media:sha256:[0-9a-f]{64}$"})
    }
}

/// Width and height of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pixels {
    /// Pixels from left to right, 1 at least.
    pub width: u32,
    /// Pixels from top to bottom, 1 at least.
    pub height: u32,
}

/// A file of the media store, as results and payloads tell it:
/// `{"media": "media:sha256:...", "type": "image/png", "bytes": 12345, "width": 800, "height": 600}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reference {
    /// Its name.
    pub media: Name,
    /// Its media type, told by its first bytes.
    #[serde(rename = "type")]
    pub mime: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its pixels, when it is a picture.
    #[serde(flatten)]
    pub pixels: Option<Pixels>,
}

fn digest(digits: &str) -> Option<Digest> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let mut digest = [0; DIGITS / 2];
    if pairs.len() != digest.len() {
        return None;
    }
    for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
        *byte = value(*high)? << 4 | value(*low)?;
    }
    Some(Digest(digest))
}

/// The digests of all media that a text names, each once.
pub fn named_in(text: &str) -> Vec<Digest> {
    let mut found: Vec<Digest> = text
        .split(PREFIX)
        .skip(1)
        .filter_map(|it| digest(it.get(..DIGITS)?))
        .collect();
    found.sort_unstable_by_key(|it| it.0);
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_reads_as_it_was_written() {
        let it = Reference {
            media: Name(Digest::of_bytes(b"x")),
            mime: "image/png".to_owned(),
            bytes: 7,
            pixels: Some(Pixels {
                width: 2,
                height: 3,
            }),
        };
        let json = serde_json::to_value(&it).unwrap();
        assert_eq!(json["width"], 2);
        assert_eq!(serde_json::from_value::<Reference>(json).unwrap(), it);
        let film = Reference { pixels: None, ..it };
        let json = serde_json::to_string(&film).unwrap();
        assert!(!json.contains("width"), "{json}");
        assert_eq!(serde_json::from_str::<Reference>(&json).unwrap(), film);
    }

    #[test]
    fn names_are_found_in_any_text() {
        let (a, b) = (Digest::of_bytes(b"a"), Digest::of_bytes(b"b"));
        let text = format!(
            r#"{{"a":"{}","b":["{}","{}"],"c":"media:sha256:12"}}"#,
            Name(b),
            Name(a),
            Name(b)
        );
        let found = named_in(&text);
        assert_eq!(found.len(), 2);
        assert!(found.contains(&a) && found.contains(&b));
        assert_eq!(named_in("media:sha256:é"), vec![]);
    }

    #[test]
    fn only_one_spelling_is_a_name() {
        let name = Name(Digest::of_bytes(b"a")).to_string();
        assert!(name.parse::<Name>().is_ok());
        let digits = &name[PREFIX.len()..];
        for wrong in [
            digits.to_owned(),
            format!("{PREFIX}{}", digits.to_uppercase()),
            format!("{name}0"),
            format!("{PREFIX}{}", &digits[1..]),
            format!("{PREFIX}+{}", &digits[1..]),
        ] {
            assert!(wrong.parse::<Name>().is_err(), "{wrong}");
        }
    }
}
