//! Accounts: what each platform needs to be said of them, and what it has no use for.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::time::Duration;

use secrecy::SecretString;
use url::{Host, Url};

use super::read::{Part, Reader, Said};
use super::secret::webhook_key;
use super::types::{Account, Bucket, Home};
use super::words::{PLATFORMS, POSTS};
use crate::content::{Guard, Reaction};
use crate::job::envelope::{NAME_MAX, is_name};

/// The platforms whose accounts are buckets.
const BUCKETS: [&str; 2] = ["s3", "gcs"];
/// The keys that only they have.
const OF_BUCKETS: [&str; 5] = [
    "access_key_id",
    "bucket",
    "region",
    "path_style",
    "public_url",
];

/// The keys that only endpoints have.
const OF_ENDPOINTS: [&str; 2] = ["previous_secret", "timeout_s"];
/// The platforms that call back.
const CALLS_BACK: [&str; 2] = ["openai", "http"];

/// The keys that only accounts that post have.
const OF_POSTS: [&str; 2] = ["same_content", "same_content_within_s"];

impl<'a> Reader<'a> {
    pub(super) fn accounts(&mut self) -> BTreeMap<String, Account> {
        let mut accounts = BTreeMap::new();
        for part in self.parts("accounts") {
            let platform = self.text(&part, "platform").map(|it| it.value);
            if platform.is_none() {
                let advice = format!("write one of {}", PLATFORMS.join(", "));
                self.missing(&part, "platform", &advice);
            }
            let account = match platform {
                Some(it) if it == "folder" => self.folder(&part, it),
                it => self.account(&part, it),
            };
            accounts.extend(account.map(|it| (part.name.to_owned(), it)));
        }
        accounts
    }

    fn account(&mut self, part: &Part<'a>, said: Option<String>) -> Option<Account> {
        let platform = said.as_deref();
        let is_bucket = platform.is_some_and(|it| BUCKETS.contains(&it));
        if platform.is_some() {
            self.useless(
                part,
                &["folder"],
                "is for platform folder only; leave it out",
            );
        }
        if platform.is_some_and(|it| !POSTS.contains(&it)) {
            let message = "is for accounts that post; leave it out";
            self.useless(part, &OF_POSTS, message);
        }
        if platform.is_some() && !is_bucket {
            self.useless(part, &OF_BUCKETS, "is for s3 and gcs only; leave it out");
        }
        let region = self.text(part, "region").map(|it| it.value);
        let base_url = self.base_url(part, platform, region.as_deref());
        let public_url = self.public_url(part);
        let identifier = self.text(part, "identifier").map(|it| it.value);
        if platform == Some("bluesky") && identifier.is_none() {
            let advice = "Bluesky asks for the handle or DID: identifier = \"ada.example.com\"";
            self.missing(part, "identifier", advice);
        }
        if platform == Some("instagram") && identifier.is_none() {
            let advice = "Instagram asks for the account's number: identifier = \"17841400008460056\"; with a login by Instagram itself, \"me\"";
            self.missing(part, "identifier", advice);
        }
        let secret = match platform {
            Some("http") => self.signing_secret(part, "secret"),
            _ => self.secret(part, "secret").map(|it| it.value),
        };
        if secret.is_none() {
            let advice = "write secret = { env = \"NAME\" }, { file = \"path\" } or { credential = \"name\" }";
            self.missing(part, "secret", advice);
        }
        if platform.is_some_and(|it| !CALLS_BACK.contains(&it)) {
            let message = "is for openai and http only: no other platform calls back; leave it out";
            self.useless(part, &["webhook_secret"], message);
        }
        let webhook_secret = self.signing_secret(part, "webhook_secret");
        if platform.is_some() && platform != Some("http") {
            self.useless(part, &OF_ENDPOINTS, "is for http only; leave it out");
        }
        let previous_secret = self.signing_secret(part, "previous_secret");
        let bucket = match is_bucket {
            true => Some(self.bucket(part, platform, region)?),
            false => None,
        };
        Some(Account {
            platform: said?,
            base_url: base_url?,
            identifier,
            secret: secret?,
            bucket,
            public_url,
            guard: self.guard(part),
            webhook_secret,
            previous_secret,
            timeout: Duration::from_secs(self.int_or_default(part, "timeout_s")),
            app: self.text(part, "app").map(|it| it.value),
            pace: self.pace(part),
            tenant: self.tenant(part),
            claimed: None,
            home: Home::File,
            unusable: None,
            weight: self.weight(part),
        })
    }

    /// Whose jobs alone may use it.
    fn tenant(&mut self, part: &Part<'a>) -> Option<String> {
        let said = self.text(part, "tenant")?;
        if !is_name(&said.value) {
            let message = format!(
                "a tenant's name, as envelopes say it: 1 to {NAME_MAX} letters, digits and . _ - @ : / +"
            );
            let shown = Some(format!("{:?}", said.value));
            self.wrong(&said.place, format!("{}.tenant", part.path), shown, message);
        }
        Some(said.value)
    }

    fn weight(&mut self, part: &Part<'a>) -> u32 {
        self.small(part, "weight").unwrap_or(1)
    }

    fn guard(&mut self, part: &Part<'a>) -> Guard {
        let reaction = self.text_or_default(part, "same_content").value;
        let within_s = self.int_or_default(part, "same_content_within_s");
        Guard {
            // another word was told already
            reaction: reaction.parse().unwrap_or(Reaction::Warn),
            within: Duration::from_secs(within_s),
        }
    }

    fn bucket(
        &mut self,
        part: &Part<'a>,
        platform: Option<&str>,
        region: Option<String>,
    ) -> Option<Bucket> {
        let name = self.text(part, "bucket");
        if name.is_none() {
            self.missing(part, "bucket", "write its name: bucket = \"films\"");
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if let Some(it) = name.as_ref().filter(|it| !it.value.chars().all(plain)) {
            let message = "a bucket's name has letters, digits and . _ - only; folders within it belong into a payload's `key`";
            let said = Some(format!("{:?}", it.value));
            self.wrong(&it.place, format!("{}.bucket", part.path), said, message);
        }
        let access_key_id = self.secret(part, "access_key_id").map(|it| it.value);
        if access_key_id.is_none() {
            let advice = "a bucket's key has two halves, this and `secret`: write access_key_id = { env = \"NAME\" }, { file = \"path\" } or { credential = \"name\" }";
            self.missing(part, "access_key_id", advice);
        }
        let usual = match platform {
            Some("gcs") => "auto",
            _ => "us-east-1",
        };
        Some(Bucket {
            region: region.unwrap_or_else(|| usual.to_owned()),
            path_style: self.bool(part, "path_style"),
            name: name?.value,
            access_key_id: access_key_id?,
        })
    }

    /// What calls or call-backs are signed with, if it is said.
    fn signing_secret(&mut self, part: &Part<'a>, key: &str) -> Option<SecretString> {
        let said = self.secret(part, key)?;
        match webhook_key(&said.value) {
            Ok(_) => Some(said.value),
            Err(message) => {
                let path = format!("{}.{key}", part.path);
                self.wrong(&said.place, path, None, message);
                None
            }
        }
    }

    /// A folder of this host.
    fn folder(&mut self, part: &Part<'a>, platform: String) -> Option<Account> {
        let keys = [
            "base_url",
            "identifier",
            "secret",
            "access_key_id",
            "bucket",
            "region",
            "path_style",
            "webhook_secret",
            "previous_secret",
            "timeout_s",
            "app",
        ];
        self.useless(part, &keys, "means nothing to a folder; leave it out");
        self.useless(part, &OF_POSTS, "is for accounts that post; leave it out");
        let public_url = self.public_url(part);
        let Some(said) = self.text(part, "folder") else {
            let advice = "write the folder's whole path: folder = \"/srv/films\"";
            self.missing(part, "folder", advice);
            return None;
        };
        let path = Path::new(&said.value);
        let plain = |it: Component<'_>| matches!(it, Component::RootDir | Component::Normal(_));
        match Url::from_directory_path(path) {
            Ok(base_url) if path.components().all(plain) => Some(Account {
                public_url,
                guard: self.guard(part),
                tenant: self.tenant(part),
                weight: self.weight(part),
                pace: self.pace(part),
                ..Account::at(&platform, base_url)
            }),
            _ => {
                let message = "a path from the root on and without `..`, such as \"/srv/films\", because the working directory differs from start to start";
                let shown = Some(format!("{:?}", said.value));
                self.wrong(&said.place, format!("{}.folder", part.path), shown, message);
                None
            }
        }
    }

    /// Tells keys that were said in vain.
    fn useless(&mut self, part: &Part<'a>, keys: &[&str], message: &str) {
        for key in keys {
            if let Some(said) = self.raw(part, key) {
                self.wrong(&said.place, format!("{}.{key}", part.path), None, message);
            }
        }
    }

    fn base_url(
        &mut self,
        part: &Part<'a>,
        platform: Option<&str>,
        region: Option<&str>,
    ) -> Option<Url> {
        let Some(said) = self.text(part, "base_url") else {
            let text = match (platform?, region) {
                ("openai", _) => "https://api.openai.com/v1".to_owned(),
                ("bluesky", _) => "https://bsky.social".to_owned(),
                ("x", _) => "https://api.x.com".to_owned(),
                ("instagram", _) => "https://graph.facebook.com/v25.0".to_owned(),
                ("gcs", _) => "https://storage.googleapis.com".to_owned(),
                ("s3", Some(it)) if it.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') => {
                    let china = if it.starts_with("cn-") { ".cn" } else { "" };
                    format!("https://s3.{it}.amazonaws.com{china}")
                }
                ("s3", _) => {
                    let advice = "write the endpoint of R2, MinIO or Ceph, such as base_url = \"https://ACCOUNT.r2.cloudflarestorage.com\"; for AWS itself region = \"eu-central-1\" is enough";
                    self.missing(part, "base_url", advice);
                    return None;
                }
                ("http", _) => {
                    let advice =
                        "write the endpoint's address: base_url = \"https://worker.example/jobs\"";
                    self.missing(part, "base_url", advice);
                    return None;
                }
                _ => {
                    let advice =
                        "write the server's address: base_url = \"https://mastodon.example\"";
                    self.missing(part, "base_url", advice);
                    return None;
                }
            };
            return Some(
                Url::parse(&text).expect("the built-in addresses are URLs, as a test shows"),
            );
        };
        self.address_of(part, "base_url", said)
    }

    /// Where people find what is uploaded, or platforms this daemon: no secret travels there, so any http will do.
    pub(super) fn public_url(&mut self, part: &Part<'a>) -> Option<Url> {
        let said = self.text(part, "public_url")?;
        let (place, url) = (said.place.clone(), said.value.clone());
        match Url::parse(&url) {
            Ok(url) if url.scheme() == "http" && url.host().is_some() && plain(&url) => Some(url),
            _ => self.address_of(part, "public_url", Said { value: url, place }),
        }
    }

    pub(super) fn address_of(
        &mut self,
        part: &Part<'a>,
        key: &str,
        said: Said<String>,
    ) -> Option<Url> {
        let wrong = match Url::parse(&said.value) {
            Err(_) => "an address such as \"https://example.com\"",
            Ok(url) if !matches!(url.scheme(), "http" | "https") => "begins with https://",
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                "holds a user or password; only `secret` says who it is"
            }
            Ok(url) if !plain(&url) => "ends before `?` and `#`; paths are added to it",
            Ok(url) if url.scheme() == "http" && !nearby(&url) => {
                "https://, because the account's secret would travel in clear; http:// is for this machine and private networks"
            }
            Ok(url) => return Some(url),
        };
        self.wrong(&said.place, format!("{}.{key}", part.path), None, wrong);
        None
    }
}

impl Account {
    /// Whether it is reached on this machine or a private network: a sandbox, or a server of one's own.
    pub fn is_nearby(&self) -> bool {
        nearby(&self.base_url)
    }

    /// Its server, for people: what a breaker is of.
    pub fn server(&self) -> String {
        let origin = self.base_url.origin().ascii_serialization();
        format!("{} at {origin}", self.platform)
    }
}

fn plain(url: &Url) -> bool {
    let anonymous = url.username().is_empty() && url.password().is_none();
    anonymous && url.query().is_none() && url.fragment().is_none()
}

/// Whether a server is this machine or on a private network: by its address, or by a name that
/// the public DNS doesn't have.
fn nearby(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback() || ip.is_private(),
        Some(Host::Ipv6(ip)) => ip.is_loopback() || ip.is_unique_local(),
        Some(Host::Domain(name)) => {
            !name.contains('.')
                || [".localhost", ".local", ".internal", ".test"]
                    .iter()
                    .any(|it| name.ends_with(it))
        }
        None => false,
    }
}
