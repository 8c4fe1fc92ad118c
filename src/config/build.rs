//! From what was said to what holds: defaults filled in, and what must fit together checked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::breaker::Settings;
use crate::job::envelope::{NAME_MAX, is_name};
use crate::json::did_you_mean;
use crate::retry::Policy;
use crate::telemetry::{Format, check_level};

use super::error::Place;
use super::fair_keys::WAITS_AT_MOST_S;
use super::keys::{LANES, ROOM, TENANTS_MAX};
use super::read::{Part, Reader, Said, shown_key};
use super::types::{Account, Api, Config, KindSettings, Lane, Media, Model, Preset, Store};

const DAY: u64 = 86_400;
/// How the queue's URL may begin.
const QUEUES: [&str; 10] = [
    "memory:",
    "redis://",
    "rediss://",
    "redis-sentinel://",
    "rediss-sentinel://",
    "redis-cluster://",
    "rediss-cluster://",
    "valkey://",
    "valkeys://",
    "unix:///",
];

impl Default for Lane {
    /// One of which nothing is said.
    fn default() -> Self {
        Self {
            concurrency: None,
            room: ROOM,
            waits_at_most: Duration::from_secs(WAITS_AT_MOST_S),
        }
    }
}

impl<'a> Reader<'a> {
    /// The whole configuration. It only holds when no error was noted.
    pub(super) fn config(&mut self, origin: Option<&Path>) -> Config {
        let daemon = self.part("daemon");
        let state_dir = PathBuf::from(self.text_or_default(&daemon, "state_dir").value);
        let (log, log_format) = self.log(&daemon);
        let ledger = self.part("ledger");
        let queue = self.part("queue");
        let inbox = self.part("inbox");
        let keep = self.part("keep");
        let retry = self.part("retry");
        let retry = self.policy(&retry, None);
        let lanes = self.lanes();
        let commands = self.commands(&lanes);
        let media = self.media(&state_dir);
        let accounts = self.accounts();
        self.media_account(&media, &accounts);
        let mut kinds = self.kinds(&lanes, retry);
        let models = self.models();
        self.fallbacks(&mut kinds, &accounts, &models);
        let (api, resp) = self.api();
        let breaker = self.part("breaker");
        Config {
            breaker: Settings {
                failures: u32::try_from(self.int_or_default(&breaker, "failures"))
                    .expect("its bounds are below 2^32"),
                window: Duration::from_secs(self.int_or_default(&breaker, "window_s")),
                cool_down: Duration::from_secs(self.int_or_default(&breaker, "cool_down_s")),
            },
            origin: origin.map(Path::to_owned),
            lease: Duration::from_secs(self.int_or_default(&daemon, "lease_s")),
            drain: Duration::from_secs(self.int_or_default(&daemon, "drain_s")),
            memory_mb: self.int(&daemon, "memory_mb").map(|it| it.value),
            log,
            log_format,
            ledger: self
                .address(&ledger, &["sqlite:", "postgres://", "postgresql://"])
                .unwrap_or_else(|| Store::Sqlite(state_dir.join("ledger.sqlite"))),
            queue: self.address(&queue, &QUEUES).unwrap_or(Store::Memory),
            window: u32::try_from(self.int_or_default(&queue, "window"))
                .expect("its bounds are below 2^32"),
            api,
            resp,
            require_key: self.bool(&inbox, "require_key"),
            backlog_max: self.int_or_default(&inbox, "backlog_max"),
            tenants: self.tenants(&inbox),
            tenant_weights: self.tenant_weights(),
            keep_finished: Duration::from_secs(DAY * self.int_or_default(&keep, "finished_days")),
            keep_keys: Duration::from_secs(DAY * self.int_or_default(&keep, "keys_days")),
            media,
            kinds,
            late: self.late(),
            retry,
            lanes,
            budgets: self.budgets(&accounts),
            accounts,
            vault: self.vault(),
            oauth: self.clients(),
            presets: self.presets(),
            commands,
            models,
            state_dir,
            places: std::mem::take(&mut self.places),
        }
    }

    /// `PRESSWORK_LOG` holds over `daemon.log`: it is for the one time that somebody looks closer.
    fn log(&mut self, daemon: &Part<'a>) -> (String, Format) {
        let path = "daemon.log";
        let mut level = self.text_or_default(daemon, "log");
        if let Some(value) = (self.env)("PRESSWORK_LOG").filter(|it| !it.is_empty()) {
            let place = Place::Variable("PRESSWORK_LOG".to_owned());
            self.places.insert(path.to_owned(), place.clone());
            level = Said { value, place };
        }
        if let Err(message) = check_level(&level.value) {
            self.wrong(&level.place, path, None, message);
        }
        let format = self.text_or_default(daemon, "log_format").value;
        let format = format
            .parse()
            .expect("the table of keys has the words of the type, as a test shows");
        (level.value, format)
    }

    fn api(&mut self) -> (Api, Option<SocketAddr>) {
        let part = self.part("api");
        let token = self.secret(&part, "token");
        let guarded = token.is_some() || self.places.contains_key("api.token");
        let token = token.map(|it| self.long_enough("api.token", it));
        let api = Api {
            listen: self.listen(&part, 8787, guarded),
            public_url: self.public_url(&part),
            token,
        };
        let part = self.part("resp");
        let resp = self.listen(&part, 6380, guarded);
        (api, resp)
    }

    /// Where a server listens, by default at `port`; `guarded`: by the API's token.
    fn listen(&mut self, part: &Part<'a>, port: u16, guarded: bool) -> Option<SocketAddr> {
        let listen = self.text_or_default(part, "listen");
        if listen.value == "off" {
            return None;
        }
        let path = format!("{}.listen", part.path);
        let said = Some(format!("{:?}", listen.value));
        let address = listen.value.parse::<SocketAddr>();
        match &address {
            Err(_) => {
                let named = listen.value.rsplit(':').next();
                let port = named.and_then(|it| it.parse::<u16>().ok()).unwrap_or(port);
                let message = format!(
                    "an IP address and a port, such as \"127.0.0.1:{port}\" (\"0.0.0.0:{port}\" for every network), or \"off\""
                );
                self.wrong(&listen.place, path, said, message);
            }
            Ok(address) if !address.ip().to_canonical().is_loopback() && !guarded => {
                let message = "beyond loopback it must be guarded: set the variable PRESSWORK_API_TOKEN, or api.token = { env = \"NAME\" }, or listen on 127.0.0.1";
                self.wrong(&listen.place, path, said, message);
            }
            Ok(_) => {}
        }
        address.ok()
    }

    fn media(&mut self, state_dir: &Path) -> Media {
        let part = self.part("media");
        let folder = self.text(&part, "folder").map(|it| it.value.into());
        let seconds =
            |reader: &mut Self, key| Duration::from_secs(reader.int_or_default(&part, key));
        Media {
            folder: folder.unwrap_or_else(|| state_dir.join("media-store")),
            account: self.text(&part, "account").map(|it| it.value),
            prefix: self.media_prefix(&part),
            bytes_max: self.int_or_default(&part, "bytes_max"),
            pixels_max: self.int_or_default(&part, "pixels_max"),
            ratio_max: u32::try_from(self.int_or_default(&part, "ratio_max"))
                .expect("its bounds are below 2^32"),
            grace: seconds(self, "grace_s"),
            fetch_age: seconds(self, "fetch_age_s"),
            fetch_timeout: seconds(self, "fetch_timeout_s"),
            fetch_http: self.bool(&part, "fetch_http"),
            fetch_allow: self.addresses(&part, "fetch_allow"),
        }
    }

    fn media_prefix(&mut self, part: &Part<'a>) -> String {
        let said = self.text_or_default(part, "prefix");
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        let parts = |it: &str| it.split('/').all(|it| !["", ".", ".."].contains(&it));
        let it = said.value.as_str();
        if !it.chars().all(plain) || !parts(it) || 512 < it.len() {
            let message = "names with `/` between them, of letters, digits and . _ -, such as \"presswork/media\"";
            let shown = Some(format!("{it:?}"));
            self.wrong(&said.place, "media.prefix", shown, message);
        }
        said.value
    }

    /// The media store's account has to be one with a bucket.
    fn media_account(&mut self, media: &Media, accounts: &BTreeMap<String, Account>) {
        let Some(name) = &media.account else { return };
        let message = match accounts.get(name) {
            Some(it) if it.bucket.is_some() => return,
            Some(it) => format!(
                "an account of platform s3 or gcs; `{name}` is one of {}",
                it.platform
            ),
            // one that is there and wrong was told already
            None if self.names("accounts").contains(&name.as_str()) => return,
            None => {
                let near = did_you_mean(name, accounts.keys().map(String::as_str));
                format!("the name of an account with a bucket; [accounts] has none of it{near}")
            }
        };
        let place = self.places.get("media.account").cloned();
        let place = place.unwrap_or(Place::Nowhere);
        self.wrong(&place, "media.account", Some(format!("{name:?}")), message);
    }

    /// Addresses with their ports, between commas.
    fn addresses(&mut self, part: &Part<'a>, key: &str) -> Vec<SocketAddr> {
        let Some(said) = self.text(part, key) else {
            return Vec::new();
        };
        let all = said.value.split(',').map(|it| it.trim().parse());
        let all: Result<Vec<SocketAddr>, _> = all.collect();
        if all.is_err() {
            let message = "IP addresses with their ports, such as \"127.0.0.1:8080, [fd00::7]:443\"; names aren't taken, because what they lead to changes";
            let shown = Some(format!("{:?}", said.value));
            self.wrong(&said.place, format!("{}.{key}", part.path), shown, message);
        }
        all.unwrap_or_default()
    }

    /// Tenants, between commas.
    fn tenants(&mut self, part: &Part<'a>) -> Vec<String> {
        let Some(said) = self.text(part, "tenants") else {
            return Vec::new();
        };
        let all: Vec<String> = said
            .value
            .split(',')
            .map(|it| it.trim().to_owned())
            .collect();
        let twice = (1..all.len()).find(|at| all[..*at].contains(&all[*at]));
        let message = if let Some(it) = all.iter().find(|it| !is_name(it)) {
            Some(format!(
                "tenants' names, such as \"acme, zoo\"; `{it}` is none: a name has 1 to {NAME_MAX} letters, digits and . _ - @ : / +"
            ))
        } else if let Some(at) = twice {
            Some(format!("each tenant once; `{}` is there twice", all[at]))
        } else if TENANTS_MAX < all.len() {
            Some(format!(
                "at most {TENANTS_MAX} tenants, because each inbox is waited at by a connection of its own, and there are {}; let the others say their tenant at presswork:inbox, or send to the Redis port, which takes presswork:inbox:TENANT of any",
                all.len()
            ))
        } else {
            None
        };
        let Some(message) = message else { return all };
        let shown = Some(format!("{:?}", said.value));
        self.wrong(&said.place, "inbox.tenants", shown, message);
        Vec::new()
    }

    /// A policy, whole, when any of it is said; the rest is `base`'s, else the built-in one.
    fn policy(&mut self, part: &Part<'a>, base: Option<Policy>) -> Option<Policy> {
        let attempts = self.small(part, "attempts");
        let base_ms = self.int(part, "base_ms");
        let cap_ms = self.int(part, "cap_ms");
        if attempts.is_none() && base_ms.is_none() && cap_ms.is_none() {
            return None;
        }
        let base = base.unwrap_or_default();
        let policy = Policy {
            attempts_max: attempts.unwrap_or(base.attempts_max),
            base_ms: base_ms.as_ref().map_or(base.base_ms, |it| it.value),
            cap_ms: cap_ms.as_ref().map_or(base.cap_ms, |it| it.value),
        };
        if policy.cap_ms < policy.base_ms {
            let message = format!(
                "at least base_ms, which is {}, because no wait is wider than cap_ms",
                policy.base_ms
            );
            let place = cap_ms.or(base_ms).map_or(part.place.clone(), |it| it.place);
            let said = Some(policy.cap_ms.to_string());
            self.wrong(&place, format!("{}.cap_ms", part.path), said, message);
        }
        Some(policy)
    }

    fn lanes(&mut self) -> BTreeMap<String, Lane> {
        let fresh = |concurrency| Lane {
            concurrency,
            ..Lane::default()
        };
        let mut lanes: BTreeMap<String, Lane> = LANES
            .into_iter()
            .map(|(name, concurrency)| (name.to_owned(), fresh(concurrency)))
            .collect();
        for part in self.parts("lanes") {
            let concurrency = self.small(&part, "concurrency");
            let said = self.small(&part, "room");
            let waits = self.int_or_default(&part, "waits_at_most_s");
            let lane = lanes.entry(part.name.to_owned()).or_default();
            lane.concurrency = concurrency.or(lane.concurrency);
            lane.room = said.unwrap_or(lane.room);
            lane.waits_at_most = Duration::from_secs(waits);
        }
        lanes
    }

    fn tenant_weights(&mut self) -> BTreeMap<String, u32> {
        let parts = self.parts("tenants").into_iter();
        let weights = parts.filter_map(|it| Some((it.name.to_owned(), self.small(&it, "weight")?)));
        weights.collect()
    }

    fn kinds(
        &mut self,
        lanes: &BTreeMap<String, Lane>,
        retry: Option<Policy>,
    ) -> BTreeMap<String, KindSettings> {
        let mut kinds = BTreeMap::new();
        for part in self.parts("kinds") {
            let lane = self.text(&part, "lane");
            self.known_lane(&part, lane.as_ref(), lanes);
            let settings = KindSettings {
                lane: lane.map(|it| it.value),
                retry: self.policy(&part, retry),
                timeout_s: self.small(&part, "timeout_s"),
                age_max_s: self.small(&part, "age_max_s"),
                late: self
                    .text(&part, "late")
                    .and_then(|it| it.value.parse().ok()),
                late_after_s: self.small(&part, "late_after_s"),
                resend_times: self.small(&part, "resend_times"),
                look_after: self
                    .small(&part, "look_after_ms")
                    .map(|it| Duration::from_millis(it.into())),
                look_for: self
                    .small(&part, "look_for_s")
                    .map(|it| Duration::from_secs(it.into())),
                resend: self
                    .text(&part, "resend")
                    .and_then(|it| it.value.parse().ok()),
                cache_age_s: self.small(&part, "cache_age_s"),
                adopt_for: self
                    .small(&part, "adopt_for_s")
                    .map(|it| Duration::from_secs(it.into())),
                fallbacks: Vec::new(),
            };
            kinds.insert(part.name.to_owned(), settings);
        }
        kinds
    }

    /// Tells a lane that isn't there.
    pub(super) fn known_lane(
        &mut self,
        part: &Part<'a>,
        lane: Option<&Said<String>>,
        lanes: &BTreeMap<String, Lane>,
    ) {
        let Some(lane) = lane.filter(|it| !lanes.contains_key(&it.value)) else {
            return;
        };
        let known = lanes.keys().map(String::as_str);
        let message = match did_you_mean(&lane.value, known.clone()) {
            near if near.is_empty() => format!(
                "no such lane; add [lanes.{}], or take one of {}",
                shown_key(&lane.value),
                known.collect::<Vec<_>>().join(", ")
            ),
            near => format!("no such lane{near}"),
        };
        let said = Some(format!("{:?}", lane.value));
        self.wrong(&lane.place, format!("{}.lane", part.path), said, message);
    }

    fn presets(&mut self) -> BTreeMap<String, Preset> {
        let mut presets = BTreeMap::new();
        for part in self.parts("presets") {
            let mut text = |key: &str| self.text(&part, key).map(|it| it.value);
            let preset = Preset {
                prompt_prefix: text("prompt_prefix"),
                prompt_suffix: text("prompt_suffix"),
                negative_prompt: text("negative_prompt"),
                model: text("model"),
                size: text("size"),
                strength_percent: self.small(&part, "strength_percent"),
            };
            presets.insert(part.name.to_owned(), preset);
        }
        presets
    }

    fn models(&mut self) -> BTreeMap<String, Model> {
        let mut models = BTreeMap::new();
        for part in self.parts("models") {
            let mut price = |key: &str| {
                let said = self.int(&part, key).map(|it| it.value);
                if said.is_none() {
                    self.missing(
                        &part,
                        key,
                        "write the price of a million tokens in millionths of a US dollar, or 0",
                    );
                }
                said.unwrap_or(0)
            };
            let model = Model {
                input_micros_per_mtok: price("input_micros_per_mtok"),
                output_micros_per_mtok: price("output_micros_per_mtok"),
                image_micros: self.int(&part, "image_micros").map(|it| it.value),
                output_tokens_max: self.int_or_default(&part, "output_tokens_max"),
                currency: self.currency(&part),
            };
            models.insert(part.name.to_owned(), model);
        }
        models
    }
}
