//! Accounts of the ledger beside those of `jobs.toml`: made by the same rules, from what is kept of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::keys::section;
use super::shape::Shape;
use super::types::{Account, Config, Home};
use super::words::PLATFORMS;
use crate::account::{Credentials, Kept, PARTS};
use crate::json::did_you_mean;
use crate::vault::{Place, Unopened, Vault};

/// The keys of `[accounts]` that an account of the ledger has elsewhere.
const ELSEWHERE: [&str; 3] = ["platform", "tenant", "folder"];
/// The variables by which secrets come to the reader of `jobs.toml`.
const SECRET: &str = "secret:";

/// An account of the ledger that isn't used on this host as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Its name.
    pub name: String,
    /// Why, for people.
    pub why: String,
    /// `jobs.toml` has one of this name, which holds.
    pub is_shadowed: bool,
}

/// Checks what somebody sets of an account, and makes of it what jobs run by.
///
/// # Errors
/// All that is wrong, a line each, without a secret.
pub fn account(
    name: &str,
    platform: &str,
    settings: &BTreeMap<String, String>,
    credentials: &Credentials,
) -> Result<Account, String> {
    if platform == "folder" {
        return Err(
            "platform: a folder is of one host and has no secret; it stands in jobs.toml"
                .to_owned(),
        );
    }
    let mut wrong = Vec::new();
    let mut text = format!(
        "[accounts.{}]\nplatform = {}\n",
        quoted(name),
        quoted(platform)
    );
    let keys = section("accounts").keys;
    let takes = |it: &str| {
        let key = keys.iter().find(|key| key.name == it);
        key.map(|it| it.shape).filter(|_| !ELSEWHERE.contains(&it))
    };
    for (key, value) in settings {
        let written = match takes(key) {
            Some(Shape::Secret) => {
                wrong.push(format!(
                    "{key}: is a secret, and is given with the credentials"
                ));
                continue;
            }
            Some(Shape::Int(_)) if value.parse::<u64>().is_ok() => value.clone(),
            Some(Shape::Bool { .. }) if value.parse::<bool>().is_ok() => value.clone(),
            Some(_) => quoted(value),
            None => {
                let known: Vec<&str> = keys
                    .iter()
                    .map(|it| it.name)
                    .filter(|it| takes(it).is_some_and(|it| !matches!(it, Shape::Secret)))
                    .collect();
                let near = did_you_mean(key, known.iter().copied());
                wrong.push(format!(
                    "{key}: unknown key{near}; there are {}",
                    known.join(", ")
                ));
                continue;
            }
        };
        let _ = writeln!(text, "{key} = {written}");
    }
    for part in PARTS {
        if credentials.part(part).is_some() {
            let _ = writeln!(text, "{part} = {{ env = \"{SECRET}{part}\" }}");
        }
    }
    let env = |variable: &str| {
        let part = variable.strip_prefix(SECRET)?;
        credentials
            .part(part)
            .map(|it| it.expose_secret().to_owned())
    };
    match Config::parse(&text, None, &env) {
        Ok(mut config) if wrong.is_empty() => config
            .accounts
            .remove(name)
            .ok_or_else(|| format!("`{name}` is no name of an account")),
        Ok(_) => Err(wrong.join("\n")),
        Err(e) => {
            let path = format!("accounts.{}.", super::read::shown_key(name));
            wrong.extend(e.errors.iter().map(|it| {
                let it = it.to_string();
                it.strip_prefix(&path).unwrap_or(&it).to_owned()
            }));
            Err(wrong.join("\n"))
        }
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// The credentials of a kept account.
///
/// # Errors
/// When their key isn't here, or they were changed.
pub fn opened(vault: &Vault, it: &Kept) -> Result<Credentials, String> {
    let json = vault.open(Place::credentials(&it.name), &it.sealed);
    let json = json.map_err(|e: Unopened| e.to_string())?;
    Credentials::from_json(&json)
}

/// What jobs run by, of a kept account.
///
/// # Errors
/// When it can't be opened, or doesn't fit together: why, for people.
pub fn made(vault: &Vault, it: &Kept) -> Result<Account, String> {
    let credentials = opened(vault, it)?;
    let made = account(&it.name, &it.platform, &it.settings, &credentials);
    made.map_err(|e| format!("it doesn't fit together: {}", e.replace('\n', "; ")))
}

/// One that can't be used: jobs may name it, and wait.
fn unusable(it: &Kept, why: &str) -> Option<Account> {
    if !PLATFORMS.contains(&it.platform.as_str()) {
        return None;
    }
    let said = it.settings.get("base_url");
    let nowhere = || Url::parse("https://unusable.invalid").ok();
    let base_url = said.and_then(|it| Url::parse(it).ok()).or_else(nowhere)?;
    Some(Account {
        unusable: Some(why.to_owned()),
        ..Account::at(&it.platform, base_url)
    })
}

impl Config {
    /// The same with these accounts of the ledger in place of those that it had; and which of them can't be
    /// used here, or stand in `jobs.toml`, too, which holds then.
    pub fn with_kept(&self, kept: &[Kept]) -> (Self, Vec<Misfit>) {
        let mut config = self.clone();
        config.accounts.retain(|_, it| it.home == Home::File);
        config
            .accounts
            .values_mut()
            .for_each(|it| it.claimed = None);
        let mut misfits = Vec::new();
        for it in kept {
            if let Some(held) = config.accounts.get_mut(&it.name) {
                held.claimed = it.tenant.clone();
                misfits.push(Misfit {
                    name: it.name.clone(),
                    why: "an account of this name stands in jobs.toml, and holds".to_owned(),
                    is_shadowed: true,
                });
                continue;
            }
            let made = made(&self.vault, it).or_else(|why| {
                let account = unusable(it, &why);
                let (name, is_shadowed) = (it.name.clone(), false);
                misfits.push(Misfit {
                    name,
                    why,
                    is_shadowed,
                });
                account.ok_or(())
            });
            let home = Home::Ledger {
                version: it.version,
            };
            let made = made.map(|account| Account {
                home,
                tenant: it.tenant.clone(),
                ..account
            });
            config
                .accounts
                .extend(made.ok().map(|account| (it.name.clone(), account)));
        }
        (config, misfits)
    }
}

impl Account {
    /// Whether a job of this tenant may use it.
    pub fn is_for(&self, tenant: &str) -> bool {
        let allows = |it: &Option<String>| it.as_deref().is_none_or(|it| it == tenant);
        allows(&self.tenant) && allows(&self.claimed)
    }

    /// A short digest of its secrets under a salt: that others took their place shows, and of what they are
    /// it says next to nothing.
    pub fn mark(&self, salt: &str) -> String {
        let mut hash = Sha256::new();
        let bucket = self.bucket.as_ref().map(|it| &it.access_key_id);
        let secret = |it: &SecretString| it.expose_secret().as_bytes().to_vec();
        let parts = [
            salt.as_bytes().to_vec(),
            secret(&self.secret),
            bucket.map(secret).unwrap_or_default(),
        ];
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(&part);
        }
        let digits = hash.finalize();
        let digits: String = digits[..4].iter().map(|it| format!("{it:02x}")).collect();
        format!("{salt}:{digits}")
    }

    /// Whether a mark was made of other secrets than these.
    pub fn was_renewed_since(&self, mark: &str) -> bool {
        let salt = mark.rsplit_once(':').map_or("", |it| it.0);
        self.mark(salt) != mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::State;
    use crate::clock::Time;
    use crate::vault::Key;

    fn vault(ids: &[&str]) -> Vault {
        let keys = ids.iter().enumerate().map(|(n, id)| {
            let text = format!("{n:02x}{}", "1f".repeat(31));
            Key::read(id, &text.into()).unwrap()
        });
        Vault::new(keys.collect())
    }

    fn kept(vault: &Vault, name: &str, platform: &str) -> Kept {
        let json = Credentials::of("a-secret-of-some-length".into()).to_json();
        Kept {
            name: name.to_owned(),
            platform: platform.to_owned(),
            tenant: Some("acme".to_owned()),
            label: String::new(),
            settings: BTreeMap::from([("base_url".to_owned(), "https://m.example".to_owned())]),
            sealed: vault.seal(Place::credentials(name), &json).unwrap(),
            version: 3,
            edition: 1,
            scopes: vec![],
            expires_at: None,
            state: State::Ok,
            why: None,
            since: Time::UNIX_EPOCH,
            turn: None,
            granted: None,
            created_at: Time::UNIX_EPOCH,
            person: None,
            created_by: "ada".to_owned(),
        }
    }

    #[test]
    fn the_ledgers_accounts_stand_beside_the_files_which_hold() {
        let file = "[accounts.news]\nplatform = \"mastodon\"\nbase_url = \"https://file.example\"\nsecret = { env = \"S\" }\n";
        let env = |name: &str| (name == "S").then(|| "the-file-s-secret".to_owned());
        let mut config = Config::parse(file, None, &env).unwrap();
        config.vault = vault(&["a"]);
        let all = [
            kept(&config.vault, "news", "mastodon"),
            kept(&config.vault, "more", "mastodon"),
            kept(&vault(&["b"]), "lost", "mastodon"),
        ];
        let (merged, misfits) = config.with_kept(&all);
        let url = |it: &Config, name: &str| it.accounts[name].base_url.to_string();
        assert_eq!(url(&merged, "news"), "https://file.example/");
        assert_eq!(url(&merged, "more"), "https://m.example/");
        let more = &merged.accounts["more"];
        assert_eq!(more.secret.expose_secret(), "a-secret-of-some-length");
        assert_eq!(more.home, Home::Ledger { version: 3 });
        assert!(more.is_for("acme") && !more.is_for("zoo"));
        // a name is one account to permits: both must allow
        let news = &merged.accounts["news"];
        assert!(news.is_for("acme") && !news.is_for("zoo"));
        // it is known, so that its jobs wait for their key
        let lost = &merged.accounts["lost"];
        assert!(lost.unusable.as_ref().unwrap().contains("the key `b`"));
        let told: Vec<(&str, bool)> = misfits
            .iter()
            .map(|it| (it.name.as_str(), it.is_shadowed))
            .collect();
        assert_eq!(told, [("news", true), ("lost", false)]);
        // what is gone from the ledger goes, and the file's stays
        let (again, misfits) = merged.with_kept(&[]);
        assert_eq!(again.accounts.keys().collect::<Vec<_>>(), ["news"]);
        assert!(again.accounts["news"].is_for("zoo"));
        assert_eq!(misfits, []);
    }

    #[test]
    fn an_account_of_the_ledger_keeps_the_files_rules() {
        let secret = || Credentials::of("a-secret-of-some-length".into());
        let set = |all: &[(&str, &str)]| {
            let all = all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
            all.collect::<BTreeMap<String, String>>()
        };
        let it = account("a", "x", &set(&[("app", "news \"room\"")]), &secret()).unwrap();
        assert_eq!(it.base_url.as_str(), "https://api.x.com/");
        assert_eq!(it.app.as_deref(), Some("news \"room\""));
        let bucket = set(&[
            ("bucket", "films"),
            ("path_style", "false"),
            ("region", "eu-1"),
        ]);
        let both = Credentials {
            access_key_id: Some("AKIAEXAMPLE".into()),
            ..secret()
        };
        assert!(
            !account("a", "s3", &bucket, &both)
                .unwrap()
                .bucket
                .unwrap()
                .path_style
        );
        for (platform, settings, credentials, says) in [
            (
                "x",
                set(&[("ap", "n")]),
                secret(),
                "ap: unknown key; did you mean `app`?",
            ),
            (
                "x",
                set(&[("secret", "n")]),
                secret(),
                "secret: is a secret",
            ),
            (
                "x",
                set(&[("folder", "/n")]),
                secret(),
                "folder: unknown key",
            ),
            ("x", set(&[("base_url", "n")]), secret(), "base_url"),
            ("x", set(&[]), Credentials::default(), "secret: is missing"),
            ("folder", set(&[]), secret(), "jobs.toml"),
            ("bluesky", set(&[]), secret(), "identifier: is missing"),
            ("s3", bucket.clone(), secret(), "access_key_id: is missing"),
            (
                "http",
                set(&[("timeout_s", "0"), ("base_url", "https://w.example")]),
                Credentials::of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()),
                "timeout_s",
            ),
            ("mastodn", set(&[]), secret(), "did you mean `mastodon`"),
        ] {
            let e = account("a", platform, &settings, &credentials).unwrap_err();
            assert!(
                e.contains(says) && !e.contains("some-length"),
                "{platform}: {e}"
            );
        }
    }

    #[test]
    fn a_mark_tells_that_a_secret_was_renewed() {
        let url = Url::parse("https://a.example").unwrap();
        let of = |secret: &str| Account {
            secret: secret.into(),
            ..Account::at("x", url.clone())
        };
        let mark = of("one").mark("salt");
        assert!(!of("one").was_renewed_since(&mark) && of("two").was_renewed_since(&mark));
        assert_ne!(of("one").mark("other"), mark);
        assert!(of("one").was_renewed_since("") && mark.len() == 4 + 1 + 8);
    }
}
