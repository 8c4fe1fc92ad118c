//! The folder of `presswork dev`: its configuration and its secrets, by which the other commands
//! find what it runs.

use std::fs::{DirBuilder, OpenOptions, rename};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::super::cx::wrong_config;
use super::super::out::CliError;
use crate::config::Config;
use crate::kinds;
use crate::sandbox::WORKER_SECRET;

/// What the folder is furnished with.
pub(super) struct Home<'a> {
    /// The folder.
    pub(super) dir: &'a Path,
    /// The sandbox's base URL.
    pub(super) sandbox: &'a str,
    /// Where the sandbox listens: its pictures may be fetched.
    pub(super) pictures: SocketAddr,
    /// Where the API listens.
    pub(super) api: SocketAddr,
    /// Where the Redis port listens.
    pub(super) resp: SocketAddr,
    /// A real ledger.
    pub(super) postgres: Option<&'a str>,
    /// A real queue.
    pub(super) redis: Option<&'a str>,
}

/// Accounts of the sandbox: name, platform, identifier. A token that begins with `sandbox-` is valid; all
/// endpoints have one secret, and say whose they are by their path.
const ACCOUNTS: [(&str, &str, Option<&str>); 6] = [
    ("alice", "mastodon", None),
    ("bella", "bluesky", Some("bella.test")),
    ("studio", "openai", None),
    ("xenia", "x", None),
    ("iris", "instagram", Some("me")),
    ("team", "http", None),
];
/// The account that isn't in the sandbox: a folder within the folder.
const SHELF: &str = "shelf";
/// Kinds whose lost answers are looked for at once: people watch.
const WATCHED: [&str; 2] = ["post.x", "post.instagram"];

impl Home<'_> {
    /// The configuration's file.
    pub(super) fn jobs_toml(&self) -> PathBuf {
        self.dir.join("jobs.toml")
    }

    /// The folder that uploads go to, from the root on.
    fn shelf(&self) -> PathBuf {
        let shelf = self.dir.join(SHELF);
        std::path::absolute(&shelf).unwrap_or(shelf)
    }

    /// Writes secrets and configuration, and reads the configuration as every command does.
    pub(super) fn furnish(&self) -> Result<Config, CliError> {
        let failed = |e: io::Error| {
            CliError::failed(format!("{} can't be furnished: {e}", self.dir.display()))
        };
        let secrets = self.dir.join("secrets");
        for folder in [&secrets, &self.shelf()] {
            let mut builder = DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(folder);
            made.map_err(failed)?;
        }
        for (name, platform, _) in ACCOUNTS {
            let secret = match platform {
                "http" => WORKER_SECRET.to_owned(),
                _ => format!("sandbox-{name}"),
            };
            write(&secrets.join(name), &secret).map_err(failed)?;
        }
        for (name, url) in [("ledger", self.postgres), ("queue", self.redis)] {
            if let Some(url) = url {
                write(&secrets.join(name), url).map_err(failed)?;
            }
        }
        let text = self.text();
        write(&self.jobs_toml(), &text).map_err(failed)?;
        // the environment has no say here: what dev shows is what the file says
        Config::parse(&text, Some(&self.jobs_toml()), &|_| None).map_err(|e| wrong_config(&e))
    }

    fn text(&self) -> String {
        let secret = |name: &str| {
            format!(
                "{{ file = {} }}",
                quoted(self.dir.join("secrets").join(name))
            )
        };
        let ledger = match self.postgres {
            Some(_) => secret("ledger"),
            None => quoted(format!(
                "sqlite:{}",
                self.dir.join("ledger.sqlite").display()
            )),
        };
        let queue = match self.redis {
            Some(_) => secret("queue"),
            None => quoted("memory:"),
        };
        let mut text = format!(
            "# Written by `presswork dev` at each start: your own goes into another file.\n\n\
             [daemon]\nstate_dir = {}\nlease_s = 10\ndrain_s = 5\n\n\
             [ledger]\nurl = {ledger}\n\n[queue]\nurl = {queue}\n\n[api]\nlisten = \"{}\"\n\n[resp]\nlisten = \"{}\"\n\n\
             # the sandbox's own pictures may be fetched\n[media]\nfetch_http = true\nfetch_allow = \"{}\"\n\n\
             # fast, so that there is something to see\n[retry]\nattempts = 5\nbase_ms = 300\ncap_ms = 1000\n",
            quoted(self.dir),
            self.api,
            self.resp,
            self.pictures
        );
        let mut lanes: Vec<&str> = kinds::all().iter().map(|it| it.defaults.lane).collect();
        lanes.sort_unstable();
        lanes.dedup();
        for lane in lanes {
            text.push_str(&format!("\n[lanes.{lane}]\nconcurrency = 4\n"));
        }
        for kind in WATCHED {
            text.push_str(&format!("\n[kinds.\"{kind}\"]\nlook_after_ms = 300\n"));
        }
        for (name, platform, identifier) in ACCOUNTS {
            let identifier =
                identifier.map_or(String::new(), |it| format!("identifier = \"{it}\"\n"));
            let place = match platform {
                "http" => format!("/{name}"),
                _ => String::new(),
            };
            let base_url = quoted(format!("{}/{platform}{place}", self.sandbox));
            text.push_str(&format!(
                "\n[accounts.{name}]\nplatform = \"{platform}\"\nbase_url = {base_url}\n{identifier}secret = {}\n",
                secret(name)
            ));
        }
        text.push_str(&format!(
            "\n[accounts.{SHELF}]\nplatform = \"folder\"\nfolder = {}\n",
            quoted(self.shelf())
        ));
        text
    }
}

/// A TOML string; what JSON escapes, TOML reads alike.
fn quoted(text: impl AsRef<std::ffi::OsStr>) -> String {
    serde_json::Value::from(text.as_ref().to_string_lossy()).to_string()
}

/// Writes a file that only its owner reads, in one step: a reader sees the old one or the new one.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_writes_is_read_as_meant() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("a \"b\"");
        let home = Home {
            dir: &dir,
            sandbox: "http://127.0.0.1:8090",
            pictures: "127.0.0.1:8090".parse().unwrap(),
            api: "127.0.0.1:8787".parse().unwrap(),
            resp: "127.0.0.1:6380".parse().unwrap(),
            postgres: Some("postgres://u:secret@localhost/p"),
            redis: None,
        };
        let config = home.furnish().unwrap();
        assert_eq!(config.state_dir, dir);
        assert_eq!(config.accounts.len(), ACCOUNTS.len() + 1);
        assert_eq!(config.media.fetch_allow, [home.pictures]);
        assert_eq!(
            config.accounts["bella"].base_url.as_str(),
            "http://127.0.0.1:8090/bluesky"
        );
        assert!(
            !std::fs::read_to_string(home.jobs_toml())
                .unwrap()
                .contains("secret@")
        );
        for kind in kinds::all() {
            assert!(config.lanes.contains_key(&kind.settings(&config).lane));
        }
        home.furnish().unwrap();
    }
}
