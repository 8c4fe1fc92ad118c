//! What the simulated PDS remembers: repositories, blobs, and who was seen.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use super::super::{
    acts::{Act, ActLog, Media},
    clock::Clock,
    exchange::Answer,
    rate::Rates,
};
use super::session;

/// Requests in five minutes for an account. Ten times a PDS's own, so that a load test passes; enforced.
const REQUESTS: u32 = 30_000;
pub(super) const PERIOD_S: u32 = 300;
pub(super) const NAME: &str = "bluesky";

/// The platform.
#[derive(Debug)]
pub(in super::super) struct Bluesky {
    pub(super) acts: Arc<ActLog>,
    pub(super) clock: Arc<Clock>,
    pub(super) rates: Rates,
    pub(super) base: String,
    pub(super) side: Mutex<Side>,
}

impl Bluesky {
    pub(in super::super) fn new(acts: Arc<ActLog>, clock: Arc<Clock>, base: String) -> Bluesky {
        Bluesky {
            acts,
            clock,
            rates: Rates::new(REQUESTS, PERIOD_S),
            base,
            side: Mutex::default(),
        }
    }
}

/// An error as a PDS words it.
pub(super) fn refuse(status: u16, error: &str, message: &str) -> Answer {
    Answer::json(status, &json!({"error": error, "message": message}))
}

/// A record as it is now.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) cid: String,
    pub(super) value: Value,
}

/// All repositories, by DID.
#[derive(Debug, Default)]
pub(super) struct Side {
    pub(super) records: HashMap<String, BTreeMap<(String, String), Record>>,
    /// Blobs by DID and cid.
    pub(super) blobs: HashMap<(String, String), Media>,
    /// Handles by DID, of everybody who was seen.
    handles: HashMap<String, String>,
}

impl Side {
    pub(super) fn meet(&mut self, handle: &str) {
        self.handles
            .entry(session::did(handle))
            .or_insert_with(|| handle.to_owned());
    }

    /// The handle of a DID that was seen.
    pub(super) fn handle(&self, did: &str) -> Option<&String> {
        self.handles.get(did)
    }

    /// Takes an act in: the one way in which this state changes, now and after a restart.
    pub(super) fn apply(&mut self, act: &Act) {
        let did = session::did(&act.account);
        self.meet(&act.account);
        let place = || {
            let name = |field: &str| act.detail[field].as_str().unwrap_or_default().to_owned();
            (name("collection"), act.key.clone().unwrap_or_default())
        };
        match act.op.as_str() {
            "uploadBlob" => {
                if let (Some(media), Some(cid)) = (act.media.first(), act.detail["cid"].as_str()) {
                    self.blobs.insert((did, cid.to_owned()), media.clone());
                }
            }
            "putRecord" | "createRecord" => {
                let cid = act.detail["cid"].as_str().unwrap_or_default().to_owned();
                let record = Record {
                    cid,
                    value: act.detail["record"].clone(),
                };
                self.records.entry(did).or_default().insert(place(), record);
            }
            "deleteRecord" => {
                self.records.entry(did).or_default().remove(&place());
            }
            _ => {}
        }
    }
}
