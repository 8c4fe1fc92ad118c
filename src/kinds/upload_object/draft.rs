//! What is to be uploaded: the payload, what can be said against it, and the object that it makes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::effect::EffectId;
use crate::json::{Violation, escape};
use crate::platform::objects::multipart::{PART_MAX, PART_MIN, PARTS_MAX};
use crate::platform::objects::object::Object;
use crate::reference::{Name, Reference};

/// What to upload, and where to.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::kinds) struct Payload {
    /// A name in the media store, as results of other jobs tell it: `media:sha256:...`. This or `url`.
    pub media: Option<Name>,
    /// A public address: what is behind it is brought into the media store first.
    pub url: Option<String>,
    /// Where it goes within the bucket or folder: `films/2026/intro.mp4`.
    pub key: String,
    /// Its media type; what its first bytes tell, unless said.
    pub content_type: Option<String>,
    /// Its `Cache-Control`: `public, max-age=31536000, immutable`. A folder doesn't keep it.
    pub cache_control: Option<String>,
    /// What else is kept with it, at most 2 KiB in all: names of small letters, digits and `-`. A
    /// folder doesn't keep it.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Whether something else under the key is replaced, instead of refused.
    #[serde(default)]
    pub overwrite: bool,
    /// Bytes of a part, 5 MiB at least: a larger file is sent in parts of this size. 16 MiB unless said,
    /// more where there would be more than a thousand.
    pub part_bytes: Option<u64>,
}

/// Bytes of a key at most, by S3.
const KEY_MAX: usize = 1_024;
/// Bytes of all metadata at most, by S3.
const METADATA_MAX: usize = 2_048;
/// The size of parts of a file that doesn't make too many of them.
const PART: u64 = 16 << 20;
/// So many parts are enough: each is a request, and is sent again as a whole.
const PARTS: u64 = 1_000;

impl Payload {
    /// All that can be said against it.
    pub fn violations(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut wrong = |at: &str, message: String| found.push(Violation::new(at, message));
        match (&self.media, self.url.as_deref()) {
            (Some(_), None) => {}
            (None, Some(url)) if !url.starts_with("https://") && !url.starts_with("http://") => {
                wrong("/url", "is no address; it begins with https://".to_owned());
            }
            (None, Some(_)) => {}
            _ => wrong("", "needs one of `media` and `url`".to_owned()),
        }
        if let Err(message) = key(&self.key) {
            wrong("/key", message);
        }
        let headers = [
            ("/content_type", &self.content_type),
            ("/cache_control", &self.cache_control),
        ];
        for (at, value) in headers {
            if let Some(Err(message)) = value.as_deref().map(header) {
                wrong(at, message);
            }
        }
        let is_type = |it: &String| {
            let halves = it.split_once('/');
            halves.is_some_and(|(a, b)| !a.is_empty() && !b.is_empty())
        };
        if self.content_type.as_ref().is_some_and(|it| !is_type(it)) {
            let message = "is no media type; write one like `video/mp4`, or leave it out";
            wrong("/content_type", message.to_owned());
        }
        let size: usize = self.metadata.iter().map(|(k, v)| k.len() + v.len()).sum();
        if METADATA_MAX < size {
            let message = format!("has {size} bytes; at most {METADATA_MAX} fit");
            wrong("/metadata", message);
        }
        for (name, value) in &self.metadata {
            let at = format!("/metadata/{}", escape(name));
            if let Err(message) = self::name(name).and_then(|()| header(value)) {
                wrong(&at, message);
            }
        }
        if let Some(it) = self.part_bytes
            && !(PART_MIN..=PART_MAX).contains(&it)
        {
            let message =
                format!("is {it}; from {PART_MIN} (5 MiB) to {PART_MAX} (5 GiB) is taken, by S3");
            wrong("/part_bytes", message);
        }
        found
    }

    /// The object that is to be.
    pub fn object(&self, source: Reference, effect: EffectId) -> Object {
        let mime = self.content_type.clone();
        Object {
            key: self.key.clone(),
            mime: mime.unwrap_or_else(|| source.mime.clone()),
            source,
            cache_control: self.cache_control.clone(),
            metadata: self.metadata.clone(),
            overwrite: self.overwrite,
            effect,
        }
    }

    /// The size of the parts of a file; `None` when it goes in one request.
    ///
    /// # Errors
    /// When it would have too many.
    pub fn part_size(&self, bytes: u64) -> Result<Option<u64>, String> {
        let usual = PART.max(bytes.div_ceil(PARTS).next_multiple_of(1 << 20));
        let size = self.part_bytes.unwrap_or(usual);
        let parts = bytes.div_ceil(size);
        if PARTS_MAX < parts {
            let least = bytes.div_ceil(PARTS_MAX);
            return Err(format!(
                "{bytes} bytes make {parts} parts of {size}, and at most {PARTS_MAX} are taken: write \"part_bytes\": {least} or more, or leave it out"
            ));
        }
        Ok(Some(size).filter(|it| *it < bytes))
    }
}

/// What is no key: stores take nearly anything, and others that read them don't.
fn key(key: &str) -> Result<(), String> {
    let wrong = match key {
        "" => "is empty; write one like `films/intro.mp4`".to_owned(),
        it if KEY_MAX < it.len() => format!("has {} bytes; at most {KEY_MAX} fit", it.len()),
        it if it.starts_with('/') => "begins with `/`; leave that out".to_owned(),
        it if it.ends_with('/') => "ends in `/`; a file's name must follow".to_owned(),
        it if it.chars().any(char::is_control) => "holds a control character".to_owned(),
        it if it.split('/').any(|it| matches!(it, "" | "." | "..")) => {
            "holds a part that is empty, `.` or `..`".to_owned()
        }
        it if it.split('/').any(|it| it.starts_with(".presswork-")) => {
            "holds a part that begins with `.presswork-`, which are files that aren't whole"
                .to_owned()
        }
        _ => return Ok(()),
    };
    Err(wrong)
}

/// What can't stand in a header.
fn header(value: &str) -> Result<(), String> {
    let plain = |c: char| matches!(c, ' '..='~');
    match value.trim() {
        it if it.is_empty() || it != value => Err("is empty, or has blanks around it".to_owned()),
        it if METADATA_MAX < it.len() => Err(format!(
            "has {} bytes; at most {METADATA_MAX} fit",
            it.len()
        )),
        it if !it.chars().all(plain) => {
            Err("holds other characters than those of ASCII; write them as %XX".to_owned())
        }
        _ => Ok(()),
    }
}

fn name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match name {
        it if it.starts_with("presswork-") => {
            Err("begins with `presswork-`, which are our own marks".to_owned())
        }
        it if it.is_empty() || !it.chars().all(plain) => {
            Err("is no name; small letters, digits and `-` are taken".to_owned())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Digest;
    use serde_json::{Value, json};

    fn payload(json: Value) -> Payload {
        serde_json::from_value(json).unwrap()
    }

    fn pointers(json: Value) -> Vec<String> {
        let found = payload(json).violations().into_iter();
        found.map(|it| it.pointer).collect()
    }

    #[test]
    fn all_violations_are_told_at_once() {
        let wrong = json!({
            "url": "ftp://a", "key": "../x", "content_type": "film", "cache_control": "ü",
            "metadata": {"presswork-effect": "x", "A": "b", "c": " "}, "part_bytes": 5,
        });
        let expected = [
            "/url",
            "/key",
            "/cache_control",
            "/content_type",
            "/metadata/A",
            "/metadata/c",
            "/metadata/presswork-effect",
            "/part_bytes",
        ];
        assert_eq!(pointers(wrong), expected);
        let name = Name(Digest::of_bytes(b"a")).to_string();
        let both = json!({"media": name, "url": "https://a.example", "key": "a"});
        assert_eq!(pointers(both), [""]);
        assert_eq!(pointers(json!({"key": "a"})), [""]);
        let good = json!({"media": name, "key": "films/ü b+.mp4", "content_type": "video/mp4",
            "metadata": {"made-by": "me"}, "part_bytes": PART_MIN});
        assert_eq!(pointers(good), [] as [&str; 0]);
    }

    #[test]
    fn keys_are_paths_without_tricks() {
        let long = "k".repeat(KEY_MAX + 1);
        for wrong in [
            "",
            "/a",
            "a/",
            "a//b",
            "a/../b",
            "..",
            "./a",
            "a\nb",
            "a\0",
            "a/.presswork-x",
            &long,
        ] {
            assert!(key(wrong).is_err(), "{wrong:?}");
        }
        for good in ["a", "a/b.c", "..a", "a b", "é/ü", &long[1..]] {
            assert!(key(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn parts_are_few_and_equal() {
        let it = |part: Option<u64>| payload(json!({"key": "a", "part_bytes": part}));
        let mib = 1 << 20;
        assert_eq!(it(None).part_size(16 * mib), Ok(None));
        assert_eq!(it(None).part_size(16 * mib + 1), Ok(Some(16 * mib)));
        assert_eq!(it(None).part_size(2_048 * mib), Ok(Some(16 * mib)));
        assert_eq!(it(None).part_size(mib * mib), Ok(Some(1_049 * mib)));
        assert_eq!(it(Some(5 * mib)).part_size(6 * mib), Ok(Some(5 * mib)));
        assert!(it(Some(5 * mib)).part_size(50_001 * mib).is_err());
        assert_eq!(it(None).part_size(0), Ok(None));
    }
}
