//! What the simulated Mastodon remembers: media, statuses, idempotency keys, scheduled statuses.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::super::{
    acts::{Act, ActLog, Media},
    clock::Clock,
    exchange::Answer,
    grants::Grants,
    rate::Rates,
};
use super::entities::account_id;

/// Requests in five minutes for an account. Far above Mastodon's 300, so that a load test passes; enforced.
const REQUESTS: u32 = 30_000;
const PERIOD_S: u32 = 300;
pub(super) const NAME: &str = "mastodon";

/// The platform.
#[derive(Debug)]
pub(in super::super) struct Mastodon {
    pub(super) acts: Arc<ActLog>,
    pub(super) clock: Arc<Clock>,
    pub(super) grants: Arc<Grants>,
    pub(super) rates: Rates,
    /// The sandbox's own address.
    pub(super) base: String,
    pub(super) side: Mutex<Side>,
}

impl Mastodon {
    pub(in super::super) fn new(
        acts: Arc<ActLog>,
        clock: Arc<Clock>,
        grants: Arc<Grants>,
        base: String,
    ) -> Mastodon {
        Mastodon {
            acts,
            clock,
            grants,
            rates: Rates::new(REQUESTS, PERIOD_S),
            base,
            side: Mutex::default(),
        }
    }
}

/// An error as Mastodon words it.
pub(super) fn refuse(status: u16, why: &str) -> Answer {
    Answer::json(status, &json!({"error": why}))
}

/// How long an Idempotency-Key is remembered.
pub(super) const KEY_LIFE: TimeDelta = TimeDelta::hours(1);

/// An uploaded file.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) account: String,
    pub(super) media: Media,
    pub(super) focus: Option<(f64, f64)>,
    /// Being processed: the next look still says so, the one after finds it ready.
    pub(super) processing: bool,
    pub(super) attached: bool,
}

/// Everything, by id; ids are numbers that grow with time.
#[derive(Debug, Default)]
pub(super) struct Side {
    last_id: u64,
    /// Names by account id.
    pub(super) accounts: HashMap<String, String>,
    pub(super) media: HashMap<String, Held>,
    pub(super) statuses: BTreeMap<u64, Arc<Act>>,
    pub(super) scheduled: BTreeMap<u64, Arc<Act>>,
    /// Scheduled statuses that are not published yet.
    pub(super) waiting: BTreeSet<u64>,
    /// Idempotency keys by account, with the act they made.
    keys: HashMap<(String, String), Arc<Act>>,
}

impl Side {
    /// A new id: milliseconds and a counter, as Mastodon's own ids are built.
    pub(super) fn new_id(&mut self, now: DateTime<Utc>) -> u64 {
        let by_time = u64::try_from(now.timestamp_millis()).unwrap_or(0) << 16;
        self.last_id = by_time.max(self.last_id + 1);
        self.last_id
    }

    pub(super) fn meet(&mut self, account: &str) {
        let id = account_id(account);
        self.accounts
            .entry(id)
            .or_insert_with(|| account.to_owned());
    }

    /// What the key made within its life.
    pub(super) fn by_key(&self, account: &str, key: &str, now: DateTime<Utc>) -> Option<&Arc<Act>> {
        let made = self.keys.get(&(account.to_owned(), key.to_owned()))?;
        (now - made.at < KEY_LIFE).then_some(made)
    }

    /// How many statuses an account has.
    pub(super) fn count(&self, account: &str) -> usize {
        self.statuses
            .values()
            .filter(|act| act.account == account)
            .count()
    }

    /// Takes an act in: the one way in which this state changes, now and after a restart.
    pub(super) fn apply(&mut self, act: &Arc<Act>) {
        let Ok(id) = act.id.parse::<u64>() else {
            return;
        };
        self.last_id = self.last_id.max(id);
        self.meet(&act.account);
        match act.op.as_str() {
            "media.create" => {
                let Some(media) = act.media.first().cloned() else {
                    return;
                };
                let (account, focus) = (act.account.clone(), focus_of(&act.detail));
                let held = Held {
                    account,
                    media,
                    focus,
                    processing: false,
                    attached: false,
                };
                self.media.insert(act.id.clone(), held);
            }
            "media.update" => {
                if let (Some(held), Some(media)) = (self.media.get_mut(&act.id), act.media.first())
                {
                    held.media.alt.clone_from(&media.alt);
                    held.focus = focus_of(&act.detail);
                }
            }
            "status.create" | "status.schedule" => self.apply_status(id, act),
            _ => {}
        }
    }

    fn apply_status(&mut self, id: u64, act: &Arc<Act>) {
        for media in act.detail["media_ids"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            if let Some(held) = self.media.get_mut(media) {
                held.attached = true;
            }
        }
        let schedule = act.detail["schedule"]
            .as_str()
            .and_then(|id| id.parse::<u64>().ok());
        if act.op == "status.schedule" {
            self.waiting.insert(id);
            self.scheduled.insert(id, Arc::clone(act));
        } else {
            self.statuses.insert(id, Arc::clone(act));
            if let Some(schedule) = schedule {
                // The key stays with the scheduled status that it made.
                self.waiting.remove(&schedule);
                return;
            }
        }
        if let Some(key) = &act.key {
            self.keys
                .insert((act.account.clone(), key.clone()), Arc::clone(act));
        }
    }
}

fn focus_of(detail: &Value) -> Option<(f64, f64)> {
    Some((detail["focus"][0].as_f64()?, detail["focus"][1].as_f64()?))
}
