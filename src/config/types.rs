//! What the daemon runs by.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::breaker::Settings;
use crate::budget::{Budget, Currency};
use crate::content::Guard;
use crate::effect::Resend;
use crate::lateness::Policy as LatePolicy;
use crate::oauth::Client;
use crate::retry::Policy;
use crate::telemetry::Format;
use crate::vault::Vault;

use super::error::Place;

/// What the daemon runs by. A snapshot: a reload makes another one.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it was read from, for people; `None` for the built-in defaults.
    pub origin: Option<PathBuf>,
    /// Where each key was said, by its path; what isn't here is a default.
    pub places: BTreeMap<String, Place>,
    /// The host's own files: lock, SQLite, sandbox log.
    pub state_dir: PathBuf,
    /// The log's level: `info`, or `info,presswork::engine=debug`.
    pub log: String,
    /// How log lines look.
    pub log_format: Format,
    /// The ledger.
    pub ledger: Store,
    /// The queue.
    pub queue: Store,
    /// The lease of a run; heartbeats come every third of it.
    pub lease: Duration,
    /// How long a drain waits for running jobs.
    pub drain: Duration,
    /// Mebibytes of memory: short of that the daemon runs less. `None`: what the service manager
    /// says (cgroup v2), else no limit.
    pub memory_mb: Option<u64>,
    /// The ids that the queue holds of a lane at most.
    pub window: u32,
    /// The HTTP API.
    pub api: Api,
    /// Where the Redis port listens, guarded by the API's token. `None`: not at all.
    pub resp: Option<SocketAddr>,
    /// Envelopes without a key are refused.
    pub require_key: bool,
    /// Unfinished jobs that intake accepts at most, before it answers "full".
    pub backlog_max: u64,
    /// Tenants with an inbox of their own in Redis, `presswork:inbox:TENANT`: names of envelopes, each
    /// once, at most [`TENANTS_MAX`](super::keys::TENANTS_MAX).
    pub tenants: Vec<String>,
    /// The weights of tenants that have one: their share of a lane, against 1 of the others.
    pub tenant_weights: BTreeMap<String, u32>,
    /// How long finished jobs are kept.
    pub keep_finished: Duration,
    /// How long idempotency keys are kept after their job's end.
    pub keep_keys: Duration,
    /// The media store, and what is fetched into it.
    pub media: Media,
    /// The policy of kinds that `[kinds]` gives none; `None`: each kind's own.
    pub retry: Option<Policy>,
    /// When a server that fails is left alone, and for how long.
    pub breaker: Settings,
    /// What holds for jobs that come late.
    pub late: Late,
    /// By lane. `default` is always there.
    pub lanes: BTreeMap<String, Lane>,
    /// By kind: only what differs from the kind's own defaults.
    pub kinds: BTreeMap<String, KindSettings>,
    /// By name: those of `jobs.toml`, and those of the ledger.
    pub accounts: BTreeMap<String, Account>,
    /// What credentials in the ledger are encrypted with.
    pub vault: Vault,
    /// By name: apps that were registered with platforms, by which accounts are logged in and kept so.
    pub oauth: BTreeMap<String, Client>,
    /// By name: how much may be done.
    pub budgets: BTreeMap<String, Budget>,
    /// By name: what jobs that draw have in common.
    pub presets: BTreeMap<String, Preset>,
    /// By name: programs that jobs may run.
    pub commands: BTreeMap<String, Command>,
    /// Prices by model, for the recorded cost.
    pub models: BTreeMap<String, Model>,
}

/// What holds for jobs that come late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// What is later than this goes at its account's pace.
    pub grace: Duration,
    /// The pace of accounts that post and say none: overdue jobs of one go so far apart. None at all: at once.
    pub pace: Duration,
}

/// A store's address.
#[derive(Clone, Debug)]
pub enum Store {
    /// `memory:`, of the queue only.
    Memory,
    /// A SQLite file, of the ledger only.
    Sqlite(PathBuf),
    /// A URL with its secrets: `postgres://`, `redis://`, `rediss://`.
    Server(SecretString),
}

impl PartialEq for Store {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Memory, Self::Memory) => true,
            (Self::Sqlite(a), Self::Sqlite(b)) => a == b,
            (Self::Server(a), Self::Server(b)) => a.expose_secret() == b.expose_secret(),
            _ => false,
        }
    }
}

/// The HTTP API.
#[derive(Clone, Debug)]
pub struct Api {
    /// Where it listens. `None`: not at all.
    pub listen: Option<SocketAddr>,
    /// The bearer token that guards it. Without one it listens on loopback only.
    pub token: Option<SecretString>,
    /// Where others reach it: what call-backs are sent to. `None`: nobody is asked to call back.
    pub public_url: Option<Url>,
}

/// The media store, and what is fetched into it.
#[derive(Clone, Debug, PartialEq)]
pub struct Media {
    /// The folder that it is in, or where what comes in is gathered before it goes into a bucket. It
    /// belongs to one ledger.
    pub folder: PathBuf,
    /// The account in whose bucket it is instead.
    pub account: Option<String>,
    /// What its keys begin with in that bucket; what is below belongs to one ledger.
    pub prefix: String,
    /// Bytes of a file at most.
    pub bytes_max: u64,
    /// Pixels of a picture at most.
    pub pixels_max: u64,
    /// How many times a picture's long side may be its short one.
    pub ratio_max: u32,
    /// How long media are kept that no job holds.
    pub grace: Duration,
    /// How long a URL isn't asked again.
    pub fetch_age: Duration,
    /// How long fetching a URL may take.
    pub fetch_timeout: Duration,
    /// `http://` may be fetched, too.
    pub fetch_http: bool,
    /// Addresses that may be fetched from although they aren't public, each with its port.
    pub fetch_allow: Vec<SocketAddr>,
}

/// A lane: a named line of ready jobs with its own limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Lane {
    /// Jobs of it that run at once, across all hosts. `None`: no limit but `room`.
    pub concurrency: Option<u32>,
    /// Jobs of it that run at once on this host.
    pub room: u32,
    /// What has been due for longer takes turns with higher priorities.
    pub waits_at_most: Duration,
}

impl Lane {
    /// Jobs of it that one daemon runs at once.
    pub fn places(&self) -> u32 {
        self.room.min(self.concurrency.unwrap_or(u32::MAX)).max(1)
    }
}

/// What a file says of a kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KindSettings {
    /// Its lane.
    pub lane: Option<String>,
    /// Its policy, whole: what the file leaves out comes from `[retry]`.
    pub retry: Option<Policy>,
    /// Seconds an attempt may take.
    pub timeout_s: Option<u32>,
    /// Seconds a job may grow old.
    pub age_max_s: Option<u32>,
    /// What becomes of jobs that come late and don't say it themselves.
    pub late: Option<LatePolicy>,
    /// How many seconds late that is.
    pub late_after_s: Option<u32>,
    /// Class P: sends after an unknown answer (`never` is 0).
    pub resend_times: Option<u32>,
    /// Classes B and C: the wait after a lost answer before it is looked for at the platform.
    pub look_after: Option<Duration>,
    /// Classes B and C: so long after its last permit it is looked for; then a person is asked.
    pub look_for: Option<Duration>,
    /// Classes B and C: what follows when it was looked for in vain.
    pub resend: Option<Resend>,
    /// Kinds that generate: seconds for which the result of the same request may be taken instead of
    /// asking again. `None`: each job asks.
    pub cache_age_s: Option<u32>,
    /// Work that a platform goes on with by itself: the longest that it is asked about.
    pub adopt_for: Option<Duration>,
    /// Who does its jobs where a job's own account can't, in order.
    pub fallbacks: Vec<Fallback>,
}

/// Who does a kind's jobs where the accounts before it can't.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// The account's name.
    pub account: String,
    /// The model that is asked there; `None`: the job's own.
    pub model: Option<String>,
}

/// Where an account stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Home {
    /// In `jobs.toml`.
    #[default]
    File,
    /// In the ledger.
    Ledger {
        /// Which of its credentials these are: see [`Kept::version`](crate::account::Kept::version).
        version: i64,
    },
}

/// An account of a platform.
#[derive(Clone, Debug)]
pub struct Account {
    /// One of [`PLATFORMS`](super::words::PLATFORMS).
    pub platform: String,
    /// Where it is reached; of a folder its path, as `file:///...`.
    pub base_url: Url,
    /// Who it is there, where the platform asks (Bluesky: handle or DID; Instagram: its number).
    pub identifier: Option<String>,
    /// The token, key or app password; of a bucket its secret access key. Empty for a folder.
    pub secret: SecretString,
    /// The bucket, of platforms that have some.
    pub bucket: Option<Bucket>,
    /// Where people find what is uploaded there, where that isn't `base_url`.
    pub public_url: Option<Url>,
    /// What is done about a post that says what the account has just said.
    pub guard: Guard,
    /// What its platform signs its call-backs with; see [`webhook_key`](super::webhook_key). `None`: it
    /// isn't listened to.
    pub webhook_secret: Option<SecretString>,
    /// Signs beside `secret` while receivers change from the one to the other (`http`).
    pub previous_secret: Option<SecretString>,
    /// How long an answer may take (`http`).
    pub timeout: Duration,
    /// Accounts of a platform that name the same share an app, and its quota; so do those that name none.
    pub app: Option<String>,
    /// How far apart its overdue jobs go; `None`: what `[late]` says, of accounts that post.
    pub pace: Option<Duration>,
    /// Whose jobs alone may use it; `None`: everybody's.
    pub tenant: Option<String>,
    /// Whose the ledger's account of the same name is, where this one stands in `jobs.toml`: both must allow
    /// a job.
    pub claimed: Option<String>,
    /// Where it stands.
    pub home: Home,
    /// Why it can't be used on this host, where it can't: its jobs wait.
    pub unusable: Option<String>,
    /// Its share of a lane, against 1 of the others.
    pub weight: u32,
}

impl Account {
    /// An account of which nothing is said but where it is reached.
    pub fn at(platform: &str, base_url: Url) -> Self {
        Self {
            platform: platform.to_owned(),
            base_url,
            identifier: None,
            secret: SecretString::default(),
            bucket: None,
            public_url: None,
            guard: Guard::default(),
            webhook_secret: None,
            previous_secret: None,
            timeout: Duration::from_secs(60),
            app: None,
            pace: None,
            tenant: None,
            claimed: None,
            home: Home::File,
            unusable: None,
            weight: 1,
        }
    }
}

/// A program of this host that jobs may run.
#[derive(Clone, Debug)]
pub struct Command {
    /// Its absolute path.
    pub program: PathBuf,
    /// Its arguments, whatever the job.
    pub args: Vec<String>,
    /// Its variables beside those that each program gets.
    pub env: BTreeMap<String, Variable>,
    /// The lane of its jobs that name none. `None`: the kind's.
    pub lane: Option<String>,
    /// It may be run again after an attempt of which nobody knows how far it got. `false`: a person is
    /// asked.
    pub repeatable: bool,
    /// How long it may run.
    pub timeout: Duration,
    /// Mebibytes of address space of each of its processes.
    pub memory_mb: Option<u64>,
    /// Seconds of processor time of each of its processes.
    pub cpu_s: Option<u64>,
    /// Files that each of its processes may have open.
    pub open_files: u64,
    /// Mebibytes of each file that it writes.
    pub file_mb: u64,
    /// Bytes of its output at most.
    pub output_bytes_max: usize,
}

/// What a variable of a program holds.
#[derive(Clone, Debug)]
pub enum Variable {
    /// What stands in the file.
    Plain(String),
    /// What a reference names.
    Secret(SecretString),
}

/// A bucket of an object store.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// The region that requests are signed for.
    pub region: String,
    /// Which key `secret` is of.
    pub access_key_id: SecretString,
    /// Its name stands in the path, not in the host.
    pub path_style: bool,
}

/// What jobs that draw have in common; what a payload says itself holds over it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preset {
    /// Stands before the prompt.
    pub prompt_prefix: Option<String>,
    /// Stands behind the prompt.
    pub prompt_suffix: Option<String>,
    /// What must not be seen.
    pub negative_prompt: Option<String>,
    /// The model's name.
    pub model: Option<String>,
    /// `auto`, or width and height in pixels: `1024x1024`.
    pub size: Option<String>,
    /// How far an edit may go from its reference pictures: 0 to 100.
    pub strength_percent: Option<u32>,
}

/// A model's prices, in millionths of a dollar (or what `currency` says) for a million tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model {
    /// Tokens in.
    pub input_micros_per_mtok: u64,
    /// Tokens out.
    pub output_micros_per_mtok: u64,
    /// A picture, where it isn't paid for by its tokens.
    pub image_micros: Option<u64>,
    /// The longest answer, of jobs that don't say it themselves, and of a picture: what is reserved for it.
    pub output_tokens_max: u64,
    /// What the prices are in.
    pub currency: Currency,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            input_micros_per_mtok: 0,
            output_micros_per_mtok: 0,
            image_micros: None,
            output_tokens_max: 16_384,
            currency: Currency::USD,
        }
    }
}
