//! What the simulated Instagram remembers: containers, what was published, and who was seen.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use chrono::{DateTime, TimeDelta, Utc};

use super::super::{
    acts::{Act, ActLog, Media},
    clock::Clock,
    grants::Grants,
    rate::Rates,
    settings::Settings,
    spool::Spool,
    text::fingerprint,
};

/// Requests in an hour for an account, of which the usage headers tell the share; enforced.
const REQUESTS: u32 = 360_000;
const PERIOD_S: u32 = 3600;
pub(super) const NAME: &str = "instagram";
/// How long a container waits to be published.
pub(super) const LIFE: TimeDelta = TimeDelta::hours(24);

/// The platform.
#[derive(Debug)]
pub(in super::super) struct Instagram {
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

impl Instagram {
    pub(in super::super) fn new(
        acts: Arc<ActLog>,
        clock: Arc<Clock>,
        grants: Arc<Grants>,
        settings: Arc<Settings>,
        spool: Arc<Spool>,
        base: String,
    ) -> Instagram {
        Instagram {
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
    (17_841_400_000_000_000 + fingerprint(&["instagram", account]) % 1_000_000_000_000).to_string()
}

/// A container: what may be published.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) act: Arc<Act>,
    /// Digest and bytes of what came of a resumable upload, in order.
    pub(super) chunks: Vec<(String, u64)>,
    /// The files, once they are here.
    pub(super) media: Vec<Media>,
    /// Bytes are missing.
    pub(super) waiting: bool,
    /// Looks that still find it in progress.
    pub(super) looks: u32,
    /// What went wrong with its file.
    pub(super) failed: Option<String>,
    /// The media it became.
    pub(super) published: Option<String>,
}

/// The state of a container as `status_code` has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum State {
    InProgress,
    Finished,
    Published,
    Error,
    Expired,
}

impl State {
    pub(super) fn code(self) -> &'static str {
        match self {
            State::InProgress => "IN_PROGRESS",
            State::Finished => "FINISHED",
            State::Published => "PUBLISHED",
            State::Error => "ERROR",
            State::Expired => "EXPIRED",
        }
    }
}

impl Container {
    pub(super) fn transferred(&self) -> u64 {
        self.chunks.iter().map(|(_, bytes)| bytes).sum()
    }

    /// A detail of the request that made it.
    pub(super) fn detail(&self, name: &str) -> &str {
        self.act.detail[name].as_str().unwrap_or_default()
    }
}

/// Everything, by id; ids grow with time.
#[derive(Debug, Default)]
pub(super) struct Side {
    last_id: u64,
    /// Names by account id.
    pub(super) accounts: HashMap<String, String>,
    pub(super) containers: HashMap<String, Container>,
    pub(super) media: BTreeMap<u64, Arc<Act>>,
}

impl Side {
    pub(super) fn new_id(&mut self, now: DateTime<Utc>) -> u64 {
        let ms = u64::try_from(now.timestamp_millis() - 1_600_000_000_000).unwrap_or(0);
        self.last_id = (18_000_000_000_000_000 + ms * 100).max(self.last_id + 1);
        self.last_id
    }

    pub(super) fn meet(&mut self, account: &str) {
        let id = user_id(account);
        self.accounts
            .entry(id)
            .or_insert_with(|| account.to_owned());
    }

    /// The state of a container; of one with children, theirs first.
    pub(super) fn state(&self, container: &Container, now: DateTime<Utc>) -> State {
        if container.published.is_some() {
            return State::Published;
        }
        if now - container.act.at >= LIFE {
            return State::Expired;
        }
        let work = container.act.detail["work_ms"].as_i64().unwrap_or(0);
        if now < container.act.at + TimeDelta::milliseconds(work) {
            return State::InProgress;
        }
        if container.failed.is_some() {
            return State::Error;
        }
        let children = container.act.detail["children"].as_array();
        let children = children.into_iter().flatten().filter_map(|it| it.as_str());
        let children = children.filter_map(|id| self.containers.get(id));
        for child in children {
            match self.state(child, now) {
                State::Finished | State::Published => {}
                other => return other,
            }
        }
        match container.waiting || container.looks > 0 {
            true => State::InProgress,
            false => State::Finished,
        }
    }

    /// How often an account published within 24 hours.
    pub(super) fn used(&self, account: &str, now: DateTime<Utc>) -> usize {
        let recent = self
            .media
            .values()
            .rev()
            .take_while(|act| now - act.at < LIFE);
        recent.filter(|act| act.account == account).count()
    }

    /// Takes an act in: the one way in which this state changes, now and after a restart.
    pub(super) fn apply(&mut self, act: &Arc<Act>) {
        let Ok(id) = act.id.parse::<u64>() else {
            return;
        };
        self.last_id = self.last_id.max(id);
        self.meet(&act.account);
        match act.op.as_str() {
            "container.create" => {
                let container = Container {
                    act: Arc::clone(act),
                    chunks: Vec::new(),
                    media: act.media.clone(),
                    waiting: act.detail["resumable"] == true,
                    looks: 0,
                    failed: act.detail["failed"].as_str().map(str::to_owned),
                    published: None,
                };
                self.containers.insert(act.id.clone(), container);
            }
            "media.publish" => {
                let from = act.key.as_deref().unwrap_or_default();
                if let Some(container) = self.containers.get_mut(from) {
                    container.published = Some(act.id.clone());
                }
                self.media.insert(id, Arc::clone(act));
            }
            _ => self.apply_upload(act),
        }
    }

    fn apply_upload(&mut self, act: &Act) {
        let (Some(container), Some(media)) = (self.containers.get_mut(&act.id), act.media.first())
        else {
            return;
        };
        match act.op.as_str() {
            "container.transfer" => {
                let chunk = (media.digest.clone(), media.bytes);
                container.chunks.push(chunk);
            }
            "container.upload" => {
                container.media = vec![media.clone()];
                container.waiting = false;
            }
            _ => {}
        }
    }
}
