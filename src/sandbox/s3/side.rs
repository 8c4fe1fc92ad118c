//! What the simulated object store remembers: objects, and uploads that aren't complete.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::super::{
    acts::{Act, ActLog},
    clock::Clock,
    rate::Rates,
    spool::Spool,
};

/// Requests in a minute for an account: S3 promises 3,500 writes a second for a prefix; enforced.
const REQUESTS: u32 = 210_000;
const PERIOD_S: u32 = 60;
pub(super) const NAME: &str = "s3";

/// The platform.
#[derive(Debug)]
pub(in super::super) struct S3 {
    pub(super) acts: Arc<ActLog>,
    pub(super) clock: Arc<Clock>,
    pub(super) spool: Arc<Spool>,
    pub(super) rates: Rates,
    /// The sandbox's own address.
    pub(super) base: String,
    pub(super) side: Mutex<Side>,
}

impl S3 {
    pub(in super::super) fn new(
        acts: Arc<ActLog>,
        clock: Arc<Clock>,
        spool: Arc<Spool>,
        base: String,
    ) -> S3 {
        S3 {
            acts,
            clock,
            spool,
            rates: Rates::new(REQUESTS, PERIOD_S),
            base,
            side: Mutex::default(),
        }
    }
}

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Place {
    pub(super) bucket: String,
    pub(super) key: String,
}

impl Place {
    /// `bucket/key`
    pub(super) fn id(&self) -> String {
        format!("{}/{}", self.bucket, self.key)
    }

    fn of(act: &Act) -> Place {
        let text = |name: &str| act.detail[name].as_str().unwrap_or_default().to_owned();
        Place {
            bucket: text("bucket"),
            key: text("key"),
        }
    }
}

/// A part of an upload.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) act: Arc<Act>,
    pub(super) etag: String,
    /// SHA-256 in hexadecimal.
    pub(super) digest: String,
    pub(super) bytes: u64,
}

/// An upload that isn't complete.
#[derive(Clone, Debug)]
pub(super) struct Upload {
    pub(super) act: Arc<Act>,
    pub(super) place: Place,
    pub(super) parts: BTreeMap<u16, Part>,
}

/// Everything.
#[derive(Debug, Default)]
pub(super) struct Side {
    pub(super) objects: BTreeMap<Place, Arc<Act>>,
    pub(super) uploads: BTreeMap<String, Upload>,
}

impl Side {
    /// Takes an act in: the one way in which this state changes, now and after a restart.
    pub(super) fn apply(&mut self, act: &Arc<Act>) {
        match act.op.as_str() {
            "object.put" => {
                self.objects.insert(Place::of(act), Arc::clone(act));
            }
            "object.delete" => {
                self.objects.remove(&Place::of(act));
            }
            "upload.create" => {
                let upload = Upload {
                    act: Arc::clone(act),
                    place: Place::of(act),
                    parts: BTreeMap::new(),
                };
                self.uploads.insert(act.id.clone(), upload);
            }
            "upload.part" => {
                let number = act.detail["part"]
                    .as_u64()
                    .and_then(|n| u16::try_from(n).ok());
                if let (Some(upload), Some(number), Some(file)) =
                    (self.uploads.get_mut(&act.id), number, act.media.first())
                {
                    let part = Part {
                        etag: act.detail["etag"].as_str().unwrap_or_default().to_owned(),
                        digest: file.digest.clone(),
                        bytes: file.bytes,
                        act: Arc::clone(act),
                    };
                    upload.parts.insert(number, part);
                }
            }
            "upload.complete" => {
                self.objects.insert(Place::of(act), Arc::clone(act));
                self.uploads
                    .remove(act.detail["upload"].as_str().unwrap_or_default());
            }
            "upload.abort" => {
                self.uploads.remove(&act.id);
            }
            _ => {}
        }
    }
}

/// The bytes of a digest in hexadecimal.
pub(super) fn unhex(digest: &str) -> Vec<u8> {
    (0..digest.len() / 2)
        .filter_map(|at| u8::from_str_radix(digest.get(2 * at..2 * at + 2)?, 16).ok())
        .collect()
}

/// Base64 of a digest in hexadecimal.
pub(super) fn base64_of(digest: &str) -> String {
    STANDARD.encode(unhex(digest))
}

/// The fields of a JSON object as pairs of text.
pub(super) fn pairs(value: &Value) -> impl Iterator<Item = (&str, &str)> {
    let fields = value.as_object().into_iter().flat_map(Map::iter);
    fields.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_change_their_spelling() {
        assert_eq!(base64_of("00ff10"), "AP8Q");
    }
}
