//! What the simulated X remembers: uploads, posts, and who was seen.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::super::{
    acts::{Act, ActLog, Media},
    clock::Clock,
    grants::Grants,
    rate::Rates,
    settings::Settings,
    spool::Spool,
    text::fingerprint,
};

/// Requests in fifteen minutes for an account. Far above X's 100 posts, so that a load test passes; enforced.
const REQUESTS: u32 = 90_000;
const PERIOD_S: u32 = 900;
pub(super) const NAME: &str = "x";
/// The start of X's ids, in milliseconds since 1970.
const EPOCH_MS: i64 = 1_288_834_974_657;
/// How long an upload may take, and how long its media may be used, in seconds.
pub(super) const SESSION_S: i64 = 1_295_999;
pub(super) const MEDIA_S: i64 = 86_400;

/// The platform.
#[derive(Debug)]
pub(in super::super) struct X {
    pub(super) acts: Arc<ActLog>,
    pub(super) clock: Arc<Clock>,
    pub(super) grants: Arc<Grants>,
    pub(super) settings: Arc<Settings>,
    pub(super) spool: Arc<Spool>,
    pub(super) rates: Rates,
    /// The sandbox's own address.
    pub(super) base: String,
    pub(super) side: Mutex<Side>,
}

impl X {
    pub(in super::super) fn new(
        acts: Arc<ActLog>,
        clock: Arc<Clock>,
        grants: Arc<Grants>,
        settings: Arc<Settings>,
        spool: Arc<Spool>,
        base: String,
    ) -> X {
        X {
            acts,
            clock,
            grants,
            settings,
            spool,
            rates: Rates::new(REQUESTS, PERIOD_S),
            base,
            side: Mutex::default(),
        }
    }
}

/// The numeric id of an account, the same in every sandbox.
pub(super) fn user_id(account: &str) -> String {
    (fingerprint(&["x", account]) % 900_000_000_000_000_000 + 100_000_000_000_000_000).to_string()
}

/// How far the processing of a file is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Progress {
    /// Bytes are missing.
    Uploading,
    /// So many looks until it's ready.
    Processing(u8),
    Ready,
}

/// An upload.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) account: String,
    pub(super) media_key: String,
    pub(super) category: String,
    pub(super) mime: String,
    pub(super) total: u64,
    /// Digest and bytes of what came, by its place.
    pub(super) segments: BTreeMap<u64, (String, u64)>,
    pub(super) alt: String,
    pub(super) media: Option<Media>,
    pub(super) progress: Progress,
    pub(super) expires: DateTime<Utc>,
}

/// Everything, by id; ids grow with time.
#[derive(Debug, Default)]
pub(super) struct Side {
    last_id: u64,
    /// Names by account id.
    pub(super) accounts: HashMap<String, String>,
    pub(super) media: HashMap<String, Held>,
    pub(super) posts: BTreeMap<u64, Arc<Act>>,
}

impl Side {
    /// A new id, built as X's are: milliseconds, then a counter.
    pub(super) fn new_id(&mut self, now: DateTime<Utc>) -> u64 {
        let by_time = u64::try_from(now.timestamp_millis() - EPOCH_MS).unwrap_or(0) << 22;
        self.last_id = by_time.max(self.last_id + 1);
        self.last_id
    }

    pub(super) fn meet(&mut self, account: &str) {
        let id = user_id(account);
        self.accounts
            .entry(id)
            .or_insert_with(|| account.to_owned());
    }

    /// A post that the account has with just this text and these files, not older than the window.
    pub(super) fn same(
        &self,
        account: &str,
        (text, media): (&str, &[String]),
        since: DateTime<Utc>,
    ) -> bool {
        self.posts.values().rev().any(|act| {
            act.account == account
                && act.at > since
                && act.text == text
                && texts(&act.detail["media_ids"]).eq(media.iter().map(String::as_str))
        })
    }

    /// Takes an act in: the one way in which this state changes, now and after a restart.
    pub(super) fn apply(&mut self, act: &Arc<Act>) {
        let Ok(id) = act.id.parse::<u64>() else {
            return;
        };
        self.last_id = self.last_id.max(id);
        self.meet(&act.account);
        let text = |name: &str| act.detail[name].as_str().unwrap_or_default().to_owned();
        match act.op.as_str() {
            "media.initialize" => {
                let held = Held {
                    account: act.account.clone(),
                    media_key: text("media_key"),
                    category: text("media_category"),
                    mime: text("media_type"),
                    total: act.detail["total_bytes"].as_u64().unwrap_or_default(),
                    segments: BTreeMap::new(),
                    alt: String::new(),
                    media: None,
                    progress: Progress::Uploading,
                    expires: act.at + TimeDelta::seconds(SESSION_S),
                };
                self.media.insert(act.id.clone(), held);
            }
            "post.create" => {
                self.posts.insert(id, Arc::clone(act));
            }
            "post.delete" => {
                self.posts.remove(&id);
            }
            _ => self.apply_upload(act),
        }
    }

    fn apply_upload(&mut self, act: &Act) {
        let Some(held) = self.media.get_mut(&act.id) else {
            return;
        };
        match (act.op.as_str(), act.media.first()) {
            ("media.append", Some(chunk)) => {
                let index = act.detail["segment_index"].as_u64().unwrap_or_default();
                held.segments
                    .insert(index, (chunk.digest.clone(), chunk.bytes));
            }
            ("media.finalize", Some(media)) => {
                held.media = Some(media.clone());
                held.segments.clear();
                held.progress = Progress::Ready;
                held.expires = act.at + TimeDelta::seconds(MEDIA_S);
            }
            ("media.describe", _) => held.alt.clone_from(&act.text),
            _ => {}
        }
    }
}

/// The texts of a list.
pub(super) fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}
