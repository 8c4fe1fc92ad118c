//! The configuration of each daemon of a proof: the user's own, with the same lanes, limits, kinds and
//! attempts, but with private stores, the sandbox instead of the platforms, and throw-away secrets. The
//! user's secrets are never opened. What would only be waited for (leases, waits before a retry or a
//! look) is shortened.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use toml::{Table, Value};

use super::plan::Stock;
use crate::config::{Config, Place};
use crate::handler::Kind;
use crate::sandbox::WORKER_SECRET;

/// The lease, in seconds: what is frozen for longer has lost it. No shorter, or a busy machine's daemons
/// lose theirs with nobody's doing.
pub const LEASE_S: i64 = 3;
/// Milliseconds: the widest waits before a retry, first and last.
const RETRY_MS: (i64, i64) = (100, 400);
/// Seconds: how long a breaker stays open the first time, at most.
const COOL_DOWN_S: i64 = 1;
/// The first look after a lost answer (ms), and how long it is looked for (s).
const LOOK: (i64, i64) = (300, 10);
/// Kinds whose lost answers are looked for.
const LOOKED_FOR: [&str; 2] = ["post.x", "post.instagram"];
/// Platforms that the sandbox plays, and what an account of each needs.
const PLAYED: [(&str, &[(&str, &str)]); 7] = [
    ("openai", &[]),
    ("mastodon", &[]),
    ("bluesky", &[("identifier", "prove.test")]),
    ("x", &[]),
    ("instagram", &[("identifier", "me")]),
    ("s3", &[("bucket", "prove")]),
    ("http", &[]),
];

/// Where a daemon's stores are.
#[derive(Clone, Debug)]
pub struct Stores {
    /// The ledger's URL.
    pub ledger: String,
    /// The queue's URL.
    pub queue: String,
}

/// What daemons are furnished from.
pub struct Furnisher {
    /// The user's file, as TOML.
    said: Table,
    sandbox: String,
    sandbox_addr: SocketAddr,
    folder: PathBuf,
}

/// What the daemons then run by.
#[derive(Debug)]
pub struct Furnished {
    /// The kinds that can be tried, each with an account.
    pub stock: Vec<Stock>,
    /// The lane of each kind.
    pub kinds: BTreeMap<String, String>,
    /// Jobs that each lane may run at once.
    pub lanes: BTreeMap<String, Option<u32>>,
    /// Repeats of a paid call.
    pub repeats: BTreeMap<String, u32>,
    /// What isn't tried, and why.
    pub left_out: Vec<String>,
}

impl Furnisher {
    /// Of the user's configuration; secrets and media go into `folder`.
    ///
    /// # Errors
    /// When it is no TOML, or the folder can't be written to.
    pub fn new(text: &str, sandbox: &str, folder: &Path) -> anyhow::Result<Self> {
        let address = sandbox.trim_start_matches("http://");
        let furnisher = Self {
            said: match text.parse() {
                Ok(said) => said,
                // in the words of the daemon, with the line
                Err(_) => {
                    return Err(Config::parse(text, None, &|_| None)
                        .map_or_else(anyhow::Error::from, |_| {
                            anyhow::anyhow!("the configuration is no TOML")
                        }));
                }
            },
            sandbox: sandbox.to_owned(),
            sandbox_addr: address.parse().context("the sandbox's address")?,
            folder: folder.to_owned(),
        };
        std::fs::create_dir_all(folder.join("secrets"))?;
        std::fs::create_dir_all(folder.join("shelf"))?;
        Ok(furnisher)
    }

    /// Writes a daemon's `jobs.toml` into its own folder; returns its path and what holds then.
    ///
    /// # Errors
    /// When the user's configuration is wrong, or a file can't be written.
    pub fn daemon(
        &self,
        home: &Path,
        api: SocketAddr,
        stores: &Stores,
    ) -> anyhow::Result<(PathBuf, Furnished)> {
        let mut table = self.said.clone();
        self.stores(&mut table, home, api, stores)?;
        let mut left_out = Vec::new();
        if table.remove("commands").is_some() {
            left_out.push("command.run: nobody watches what your programs do".to_owned());
        }
        self.accounts(&mut table, &mut left_out)?;
        // what holds for each kind is asked of the configuration itself, as it is so far
        let kinds = crate::kinds::all();
        let config = parsed(&table)?;
        shorten(&mut table, &kinds, &config)?;
        let config = parsed(&table)?;
        let path = home.join("jobs.toml");
        std::fs::write(&path, toml::to_string(&table)?)?;
        Ok((path, furnished(&kinds, &config, left_out)))
    }

    fn stores(
        &self,
        table: &mut Table,
        home: &Path,
        api: SocketAddr,
        stores: &Stores,
    ) -> anyhow::Result<()> {
        let daemon = section(table, "daemon")?;
        put(daemon, "state_dir", text(home.join("state")));
        put(daemon, "lease_s", LEASE_S);
        // a stop is measured, and not cut short where the machine is busy
        put(daemon, "drain_s", 60);
        put(daemon, "log", "info");
        put(daemon, "log_format", "json");
        put(section(table, "ledger")?, "url", &*stores.ledger);
        put(section(table, "queue")?, "url", &*stores.queue);
        table.remove("api");
        table.remove("resp");
        put(section(table, "api")?, "listen", api.to_string());
        let media = section(table, "media")?;
        // what one daemon has fetched another may send
        put(media, "folder", text(self.folder.join("media")));
        put(media, "fetch_http", true);
        put(media, "fetch_allow", self.sandbox_addr.to_string());
        Ok(())
    }

    /// Each account becomes one of the sandbox; a platform that has none gets one.
    fn accounts(&self, table: &mut Table, left_out: &mut Vec<String>) -> anyhow::Result<()> {
        let accounts = section(table, "accounts")?;
        let mut there = Vec::new();
        for (n, (name, account)) in accounts.iter_mut().enumerate() {
            let said = account.as_table();
            let platform = said.and_then(|it| it.get("platform")?.as_str());
            let Some(platform) = platform.map(str::to_owned) else {
                continue;
            };
            // Google's dialect differs in signatures, not in what can be lost
            let played = if platform == "gcs" { "s3" } else { &platform };
            if played == "folder" {
                let mut shelf = Table::new();
                put(&mut shelf, "platform", "folder");
                put(&mut shelf, "folder", text(self.folder.join("shelf")));
                *account = Value::Table(shelf);
                left_out.push(format!(
                    "account {name}: nobody watches a folder; uploads go to a bucket of the sandbox"
                ));
                continue;
            }
            if let Some(made) = self.account(played, n)? {
                *account = Value::Table(made);
                there.push(played.to_owned());
            }
        }
        for (n, (platform, _)) in PLAYED.iter().enumerate() {
            if !there.iter().any(|it| it == platform) {
                let made = self.account(platform, 1_000 + n)?;
                let made = made.context("a platform that is played")?;
                accounts.insert(format!("prove-{platform}"), Value::Table(made));
            }
        }
        Ok(())
    }

    fn account(&self, platform: &str, n: usize) -> anyhow::Result<Option<Table>> {
        let played = PLAYED.iter().find(|it| it.0 == platform);
        let Some((_, more)) = played else {
            return Ok(None);
        };
        // a name that is also a key has 8 characters at least
        let who = format!("prover{n:03}");
        let secret = |name: String, what: &str| -> anyhow::Result<Value> {
            let path = self.folder.join("secrets").join(name);
            std::fs::write(&path, what)?;
            let mut file = Table::new();
            put(&mut file, "file", text(path));
            Ok(Value::Table(file))
        };
        let mut account = Table::new();
        put(&mut account, "platform", platform);
        // an endpoint's calls say by their path whose they are
        let (place, token) = match platform {
            "http" => (format!("/{who}"), WORKER_SECRET.to_owned()),
            _ => (String::new(), format!("sandbox-{who}")),
        };
        let base_url = format!("{}/{platform}{place}", self.sandbox);
        put(&mut account, "base_url", base_url);
        for (key, value) in *more {
            put(&mut account, key, *value);
        }
        let token = secret(format!("{who}.secret"), &token)?;
        put(&mut account, "secret", token);
        if platform == "s3" {
            put(
                &mut account,
                "access_key_id",
                secret(format!("{who}.id"), &who)?,
            );
            put(&mut account, "path_style", true);
        }
        Ok(Some(account))
    }
}

/// Waits that would only be waited for, and what they would lead to.
fn shorten(table: &mut Table, kinds: &[Kind], config: &Config) -> anyhow::Result<()> {
    let open = config.breaker.cool_down.as_secs();
    let open = i64::try_from(open).unwrap_or(COOL_DOWN_S);
    put(
        section(table, "breaker")?,
        "cool_down_s",
        open.min(COOL_DOWN_S),
    );
    for kind in kinds {
        let policy = kind.settings(config).retry;
        let ms = |it: u64| i64::try_from(it).unwrap_or(i64::MAX);
        let of = section(section(table, "kinds")?, kind.name())?;
        put(of, "attempts", i64::from(policy.attempts_max));
        put(of, "base_ms", ms(policy.base_ms).min(RETRY_MS.0));
        put(of, "cap_ms", ms(policy.cap_ms).min(RETRY_MS.1));
        // what was broken here for long is done all the same
        put(of, "late", "publish");
        if LOOKED_FOR.contains(&kind.name()) {
            put(of, "look_after_ms", LOOK.0);
            put(of, "look_for_s", LOOK.1);
        }
    }
    Ok(())
}

fn furnished(kinds: &[Kind], config: &Config, mut left_out: Vec<String>) -> Furnished {
    let mut stock = Vec::new();
    for kind in kinds {
        let platforms = kind.defaults.platforms;
        // of a kind with a platform, nothing in a folder can be watched
        let fits = |platform: &str| platforms.contains(&platform) && platform != "folder";
        let accounts = config.accounts.iter().filter(|it| fits(&it.1.platform));
        let of = accounts.map(|(name, _)| Stock {
            kind: kind.name().to_owned(),
            account: Some(name.clone()),
        });
        stock.extend(of);
        let tried = platforms.is_empty() || stock.iter().any(|it| it.kind == kind.name());
        if !tried {
            left_out.push(format!(
                "{}: the sandbox plays none of its platforms",
                kind.name()
            ));
        }
    }
    let lanes = config.lanes.iter();
    Furnished {
        kinds: kinds
            .iter()
            .map(|it| (it.name().to_owned(), it.settings(config).lane))
            .collect(),
        lanes: lanes
            .map(|(name, it)| (name.clone(), it.concurrency))
            .collect(),
        repeats: config
            .kinds
            .iter()
            .filter_map(|(name, it)| Some((name.clone(), it.resend_times?)))
            .collect(),
        stock,
        left_out,
    }
}

fn parsed(table: &Table) -> anyhow::Result<Config> {
    let text = toml::to_string(table)?;
    // the environment of whoever calls has no say
    Config::parse(&text, None, &|_| None).map_err(|mut e| {
        // the lines are those of a text that nobody has written
        for it in &mut e.errors {
            it.place = Place::Nowhere;
        }
        e.into()
    })
}

/// A section of a table, made where there is none.
fn section<'a>(table: &'a mut Table, name: &str) -> anyhow::Result<&'a mut Table> {
    let section = table
        .entry(name)
        .or_insert_with(|| Value::Table(Table::new()));
    let section = section.as_table_mut();
    section.with_context(|| format!("[{name}] of the configuration is no table"))
}

fn put(table: &mut Table, key: &str, value: impl Into<Value>) {
    table.insert(key.to_owned(), value.into());
}

fn text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = r#"
        [daemon]
        lease_s = 60
        state_dir = "/var/lib/presswork"
        [ledger]
        url = { env = "A_SECRET_THAT_IS_NOT_HERE" }
        [api]
        listen = "0.0.0.0:80"
        token = { env = "ANOTHER" }
        [lanes.x]
        concurrency = 2
        [lanes.slow]
        concurrency = 1
        [kinds."post.mastodon"]
        lane = "slow"
        attempts = 3
        cap_ms = 90000
        [kinds."generate.text"]
        resend_times = 0
        [accounts.bird]
        platform = "x"
        secret = { file = "/nowhere/x" }
        [accounts.films]
        platform = "gcs"
        bucket = "films"
        access_key_id = { env = "ID" }
        secret = { env = "KEY" }
        [accounts.shelf]
        platform = "folder"
        folder = "/srv/films"
    "#;

    #[test]
    fn a_users_configuration_keeps_its_limits_and_loses_its_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let furnisher = Furnisher::new(SAID, "http://127.0.0.1:8090", dir.path()).unwrap();
        let stores = Stores {
            ledger: "postgres://p@127.0.0.1:1/p".to_owned(),
            queue: "redis://127.0.0.1:2".to_owned(),
        };
        let api = "127.0.0.1:8787".parse().unwrap();
        let (path, found) = furnisher.daemon(dir.path(), api, &stores).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for gone in [
            "SECRET",
            "ANOTHER",
            "nowhere",
            "/srv/films",
            "0.0.0.0",
            "/var/lib",
        ] {
            assert!(!text.contains(gone), "{gone}: {text}");
        }
        let config = Config::load(Some(&path), &|_| None).unwrap();
        assert_eq!(config.lease.as_secs(), LEASE_S.unsigned_abs());
        assert_eq!(found.lanes["x"], Some(2));
        assert_eq!(found.kinds["post.mastodon"], "slow");
        assert_eq!(found.repeats["generate.text"], 0);
        let policy = config.kinds["post.mastodon"].retry.unwrap();
        assert_eq!((policy.attempts_max, policy.cap_ms), (3, 400));
        let of = |kind: &str| {
            let of = found.stock.iter().filter(|it| it.kind == kind);
            of.map(|it| it.account.clone().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(of("post.x"), ["bird"]);
        assert_eq!(of("upload.object"), ["films"]);
        assert_eq!(
            of("post.bluesky"),
            ["prove-bluesky"],
            "what is missing is lent"
        );
        assert_eq!(found.left_out.len(), 1, "{:?}", found.left_out);
        assert_eq!(config.accounts["bird"].base_url.path(), "/x");
    }

    #[test]
    fn without_a_configuration_everything_is_lent() {
        let dir = tempfile::tempdir().unwrap();
        let furnisher = Furnisher::new("", "http://127.0.0.1:8090", dir.path()).unwrap();
        let stores = Stores {
            ledger: format!("sqlite:{}", dir.path().join("l.sqlite").display()),
            queue: "memory:".to_owned(),
        };
        let api = "127.0.0.1:8787".parse().unwrap();
        let (_, found) = furnisher.daemon(dir.path(), api, &stores).unwrap();
        assert_eq!(found.lanes["instagram"], Some(4));
        let mut kinds: Vec<&str> = found.stock.iter().map(|it| &*it.kind).collect();
        kinds.dedup();
        assert_eq!(
            kinds.len() + 2,
            crate::kinds::all().len(),
            "all but test.job and command.run"
        );
        let furnisher = Furnisher::new(
            "[lanes.x]\nroom = \"many\"",
            "http://127.0.0.1:1",
            dir.path(),
        );
        assert!(furnisher.unwrap().daemon(dir.path(), api, &stores).is_err());
    }
}
