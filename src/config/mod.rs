//! The configuration: `jobs.toml` and the environment, checked once and as a whole.
//!
//! A file is read in three steps: TOML with the place of every value (`read`), what was said to
//! what holds (`build`), secrets by reference (`secret`). Every mistake is told at once, each with
//! line, column, key, and what to write instead. `keys` is the one table of what may be said.

mod error;
pub mod words;
mod shape;
mod budget_keys;
mod fair_keys;
mod late_keys;
mod account_keys;
mod oauth_keys;
mod types;
pub mod keys;
mod read;
mod late;
mod secret;
mod accounts;
mod vault;
mod oauth;
pub mod kept;
mod budgets;
mod commands;
mod fallbacks;
mod build;
mod effective;

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;
use toml::de::DeTable;

use crate::json::did_you_mean;
use crate::telemetry::{escaped, redact};

pub use error::{ConfigError, ConfigErrors, Place};
pub use fallbacks::falls_back_to;
pub use read::shown_key;
pub use secret::webhook_key;
pub use types::{
    Account, Api, Bucket, Command, Config, Fallback, Home, KindSettings, Lane, Late, Media, Model,
    Preset, Store, Variable,
};

/// The largest file, in bytes.
const FILE_MAX: u64 = 1024 * 1024;

impl Config {
    /// Reads the configuration: from `path`, else from the file that `PRESSWORK_CONFIG` names,
    /// else from `./jobs.toml` or `/etc/presswork/jobs.toml` where there is one, else the built-in
    /// defaults. Scalars of the fixed sections may be said by `env` too, which then holds.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(
        path: Option<&Path>,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigErrors> {
        match Self::find(path, env)? {
            Some((path, text)) => Self::parse(&text, Some(&path), env),
            None => Self::parse("", None, env),
        }
    }

    /// The file that [`Config::load`] reads, and what it says.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn find(
        path: Option<&Path>,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<(PathBuf, String)>, ConfigErrors> {
        let named = env("PRESSWORK_CONFIG").filter(|it| !it.is_empty());
        let named = path.map(Path::to_owned).or(named.map(PathBuf::from));
        if let Some(path) = named {
            let text = file(&path).map_err(|e| unreadable(&path, &e))?;
            return Ok(Some((path, text)));
        }
        for path in ["jobs.toml", "/etc/presswork/jobs.toml"].map(Path::new) {
            match file(path) {
                Ok(text) => return Ok(Some((path.to_owned(), text))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(unreadable(path, &e)),
            }
        }
        Ok(None)
    }

    /// Reads a configuration from text; `origin` is its file, for people.
    ///
    /// # Errors
    /// Everything that is wrong, at once, in the order of the file. Where it is no TOML only that.
    pub fn parse(
        text: &str,
        origin: Option<&Path>,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigErrors> {
        let (root, syntax) = DeTable::parse_recoverable(text);
        if !syntax.is_empty() {
            let told = syntax.iter().map(|e| ConfigError {
                place: e
                    .span()
                    .map_or(Place::Nowhere, |it| Place::of_byte(text, it.start)),
                key: String::new(),
                said: None,
                message: format!("is no TOML: {}", e.message()),
            });
            return Err(in_order(origin, told.collect()));
        }
        let mut reader = read::Reader::new(text, root.get_ref(), env);
        let config = reader.config(origin);
        match reader.errors {
            errors if errors.is_empty() => Ok(config),
            errors => Err(in_order(origin, errors)),
        }
    }

    /// The keys that `new` says otherwise, and that a running daemon can't take over: what is open
    /// stays as it was opened. (The engine says so of `daemon.lease_s` itself.)
    pub fn fixed_since(&self, new: &Self) -> Vec<&'static str> {
        let token = |it: &Self| {
            it.api
                .token
                .as_ref()
                .map(|it| it.expose_secret().to_owned())
        };
        let changed = [
            ("daemon.state_dir", self.state_dir != new.state_dir),
            ("daemon.log_format", self.log_format != new.log_format),
            ("ledger.url", self.ledger != new.ledger),
            ("queue.url", self.queue != new.queue),
            ("media.folder", self.media.folder != new.media.folder),
            ("media.account", self.media_bucket() != new.media_bucket()),
            ("media.prefix", self.media.prefix != new.media.prefix),
            ("api.listen", self.api.listen != new.api.listen),
            ("api.token", token(self) != token(new)),
            ("resp.listen", self.resp != new.resp),
            ("inbox.tenants", self.tenants != new.tenants),
        ];
        let changed = changed.into_iter().filter(|(_, it)| *it);
        changed.map(|(key, _)| key).collect()
    }

    /// The account in whose bucket the media store is, where it is in one.
    pub fn media_account(&self) -> Option<&Account> {
        self.accounts.get(self.media.account.as_ref()?)
    }

    /// Where the media store is, for people.
    pub fn media_place(&self) -> String {
        match self.media_account().and_then(|it| it.bucket.as_ref()) {
            Some(it) => format!("the bucket {}, below {}/", it.name, self.media.prefix),
            None => format!("the folder {}", self.media.folder.display()),
        }
    }

    /// All that the media store's bucket was opened with.
    fn media_bucket(&self) -> Option<[String; 6]> {
        let account = self.media_account()?;
        let bucket = account.bucket.as_ref()?;
        let exposed = |it: &secrecy::SecretString| it.expose_secret().to_owned();
        Some([
            account.base_url.to_string(),
            bucket.name.clone(),
            bucket.region.clone(),
            bucket.path_style.to_string(),
            exposed(&bucket.access_key_id),
            exposed(&account.secret),
        ])
    }

    /// The built-in defaults under a state directory: a SQLite ledger in it, the queue in memory,
    /// the API on loopback. Neither a file nor the environment is asked.
    pub fn default_embedded(state_dir: &Path) -> Self {
        let config = Self::parse("", None, &|_| None);
        let config = config.expect("the built-in defaults are valid, as a test shows");
        Self {
            state_dir: state_dir.to_owned(),
            ledger: Store::Sqlite(state_dir.join("ledger.sqlite")),
            media: Media {
                folder: state_dir.join("media-store"),
                ..config.media
            },
            ..config
        }
    }
}

/// What can be said against the names of variables: each `PRESSWORK_` one that nothing reads.
pub fn unknown_variables(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let known: Vec<String> = keys::variables().collect();
    let unknown = names
        .into_iter()
        .filter(|it| it.starts_with("PRESSWORK_") && !known.contains(it));
    unknown
        .map(|name| {
            let near = did_you_mean(&name, known.iter().map(String::as_str));
            format!("{name}: nothing reads this variable{near}")
        })
        .collect()
}

/// In the order of the file, a line each, and without what looks like a secret: one may stand where
/// it shouldn't.
fn in_order(origin: Option<&Path>, mut errors: Vec<ConfigError>) -> ConfigErrors {
    // a number's text may hold anything: the reader of TOML goes on after what is none
    let told = |text: &str| escaped(&redact::text(text));
    for it in &mut errors {
        it.key = told(&it.key);
        it.said = it.said.take().map(|said| told(&said));
        it.message = told(&it.message);
    }
    errors.sort_by(|a, b| a.place.cmp(&b.place));
    let origin = origin.map(Path::to_owned);
    ConfigErrors { origin, errors }
}

fn file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if FILE_MAX < text.len() as u64 {
        let message = format!("is larger than {FILE_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}

fn unreadable(path: &Path, e: &io::Error) -> ConfigErrors {
    ConfigErrors::whole(Some(path.to_owned()), format!("can't be read: {e}"))
}

#[cfg(test)]
mod tests;
