//! Secrets: by reference only, resolved once, registered with the redactor, never shown.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretString};
use toml::de::DeValue;
use url::Url;

use crate::json::did_you_mean;
use crate::telemetry::redact;

use super::read::{Env, Part, Raw, Reader, Said};
use super::types::Store;

/// The shortest secret: shorter ones can be guessed, and can't be hidden in a log without hiding
/// ordinary words.
const SECRET_MIN: usize = 8;
/// The longest, in bytes.
const SECRET_MAX: u64 = 64 * 1024;

pub(super) const FORMS: &str =
    "{ env = \"NAME\" }, { file = \"path\" } or { credential = \"name\" }";

impl<'a> Reader<'a> {
    /// A secret by reference, resolved. What the environment's overlay says is a reference too.
    pub(super) fn secret(&mut self, part: &Part<'a>, key: &str) -> Option<Said<SecretString>> {
        let said = self.raw(part, key)?;
        let path = format!("{}.{key}", part.path);
        let place = said.place.clone();
        let value = self.secret_of(said, path)?;
        Some(Said { value, place })
    }

    /// What a value that should be a reference names, resolved; `path` is told where it is none.
    pub(super) fn secret_of(&mut self, said: Said<Raw<'a>>, path: String) -> Option<SecretString> {
        let found = match said.value {
            Raw::Variable(text) => checked(text),
            Raw::Toml(DeValue::Table(_)) => reference(&said.value, self.env).and_then(checked),
            Raw::Toml(_) => Err(format!(
                "a secret doesn't stand in the file, where backups and repositories find it; write {FORMS}, and replace the secret if this file was shared"
            )),
        };
        match found {
            Ok(value) => {
                redact::register(&value);
                Some(value)
            }
            Err(message) => {
                self.wrong(&said.place, path, None, message);
                None
            }
        }
    }

    /// A store's address: literal while it holds no password, else by reference.
    pub(super) fn address(&mut self, part: &Part<'a>, schemes: &[&str]) -> Option<Store> {
        let said = self.raw(part, "url")?;
        let (text, literal) = match &said.value {
            Raw::Toml(DeValue::Table(_)) => (reference(&said.value, self.env), false),
            Raw::Toml(DeValue::String(text)) => (Ok(text.to_string()), true),
            Raw::Variable(text) => (Ok(text.clone()), false),
            Raw::Toml(_) => (Err(format!("a URL in quotes, or {FORMS}")), true),
        };
        let path = format!("{}.url", part.path);
        match text.and_then(|text| store(text.trim(), schemes, literal)) {
            Ok(store) => Some(store),
            Err(message) => {
                self.wrong(&said.place, path, None, message);
                None
            }
        }
    }

    /// Whether a token is good enough to guard a door.
    pub(super) fn long_enough(&mut self, path: &str, said: Said<SecretString>) -> SecretString {
        const LEAST: usize = 16;
        if said.value.expose_secret().len() < LEAST {
            let message = format!(
                "at least {LEAST} characters, because a shorter one can be guessed; `openssl rand -hex 24` makes one"
            );
            self.wrong(&said.place, path, None, message);
        }
        said.value
    }
}

/// How a secret for signed calls begins (Standard Webhooks).
const WEBHOOK: &str = "whsec_";

/// The key behind a secret that calls and call-backs are signed with: `whsec_`, then 24 to 64 bytes in base64, as
/// Standard Webhooks has it.
///
/// # Errors
/// What is wrong with it, without any of it.
pub fn webhook_key(secret: &SecretString) -> Result<Vec<u8>, &'static str> {
    let text = secret.expose_secret().strip_prefix(WEBHOOK);
    let text = text.ok_or(
        "what it names doesn't begin with whsec_: it is the signing secret that both sides have (the one that a platform shows when a webhook is made), not an API's key; `echo whsec_$(openssl rand -base64 32)` makes one",
    )?;
    match STANDARD.decode(text) {
        Ok(key) if (24..=64).contains(&key.len()) => Ok(key),
        Ok(_) => Err(
            "what it names holds a key that isn't 24 to 64 bytes long: it was cut, or is another secret",
        ),
        Err(_) => Err("what it names isn't base64 behind whsec_: it was cut, or is another secret"),
    }
}

/// The value that a reference names.
fn reference(said: &Raw<'_>, env: Env<'_>) -> Result<String, String> {
    let Raw::Toml(DeValue::Table(table)) = said else {
        return Err(format!("write {FORMS}"));
    };
    let mut members = table.iter();
    let (Some((how, what)), None) = (members.next(), members.next()) else {
        return Err(format!("names one source; write {FORMS}"));
    };
    source(how.get_ref(), what.get_ref(), env)
}

/// The value that a source of this form names.
pub(super) fn source(how: &str, what: &DeValue<'_>, env: Env<'_>) -> Result<String, String> {
    let Some(what) = what.as_str().filter(|it| !it.is_empty()) else {
        return Err(format!("`{how}` takes a name in quotes; write {FORMS}"));
    };
    match how {
        "env" => env(what)
            .filter(|it| !it.is_empty())
            .ok_or_else(|| format!("the variable {} isn't set, or is empty", named(what))),
        "file" => from_file(Path::new(what)),
        "credential" if what.contains('/') => Err(format!(
            "`{}` is a credential's name, without a path",
            named(what)
        )),
        "credential" => match env("CREDENTIALS_DIRECTORY") {
            Some(folder) => from_file(&PathBuf::from(folder).join(what)),
            None => Err(format!(
                "$CREDENTIALS_DIRECTORY isn't set: run it by systemd with LoadCredential={}:PATH, or write {{ env = \"NAME\" }} or {{ file = \"path\" }}",
                named(what)
            )),
        },
        other => {
            let near = did_you_mean(other, ["env", "file", "credential"]);
            Err(format!(
                "`{}` is no source of secrets; write {FORMS}{near}",
                named(other)
            ))
        }
    }
}

/// A name as it may be shown: the secret itself stands in its place now and then.
fn named(what: &str) -> String {
    let strange = |c: char| c.is_whitespace() || c.is_control() || "=+\"'".contains(c);
    // folders may have digests for names
    let last = what.rsplit('/').next().unwrap_or(what);
    match what.chars().any(strange) || last.split(['.', '-', '_']).any(redact::looks_random) {
        true => "(not shown: it looks like the secret itself; write the name of what holds it)"
            .to_owned(),
        false => redact::text(what).into_owned(),
    }
}

fn from_file(path: &Path) -> Result<String, String> {
    let name = path.to_string_lossy();
    let told = |e: std::io::Error| format!("{} can't be read: {e}", named(&name));
    let file = std::fs::File::open(path).map_err(told)?;
    let mut text = String::new();
    file.take(SECRET_MAX + 1)
        .read_to_string(&mut text)
        .map_err(told)?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(format!("{} is empty", named(&name))),
        it => Ok(it.to_owned()),
    }
}

fn checked(text: String) -> Result<SecretString, String> {
    if text.len() < SECRET_MIN {
        return Err(format!(
            "what it names is shorter than {SECRET_MIN} characters: too short to be kept secret"
        ));
    }
    if SECRET_MAX < text.len() as u64 {
        return Err(format!("what it names is longer than {SECRET_MAX} bytes"));
    }
    match text.chars().any(char::is_control) || text.trim() != text {
        true => Err(
            "what it names holds a line break, a control character, or blanks around it".to_owned(),
        ),
        false => Ok(SecretString::from(text)),
    }
}

/// A store of one of `schemes`. Errors never show the text: it may hold a password.
fn store(text: &str, schemes: &[&str], literal: bool) -> Result<Store, String> {
    let known = schemes.join(", ");
    let scheme = schemes.iter().find(|it| text.starts_with(**it));
    let Some(scheme) = scheme else {
        let scheme = text.split_once(':').map_or("", |it| it.0);
        let word = |it: &&str| it.len() <= 12 && it.chars().all(|c| c.is_ascii_lowercase());
        let names = schemes.iter().map(|it| it.trim_end_matches([':', '/']));
        let near = did_you_mean(scheme, names);
        return Err(match Some(scheme).filter(word) {
            Some("") | None => format!("must be a URL that begins with {known}"),
            Some(it) => format!("`{it}:` is no store that it can be; it begins with {known}{near}"),
        });
    };
    match *scheme {
        "memory:" if text == "memory:" => Ok(Store::Memory),
        "memory:" => Err("`memory:` takes nothing after it".to_owned()),
        "sqlite:" => match text["sqlite:".len()..].trim_start_matches("//") {
            "" | ":memory:" => Err(
                "a SQLite ledger is a file, or it forgets every job at the end: sqlite:.presswork/ledger.sqlite".to_owned(),
            ),
            path if path.contains('?') => Err("sqlite: takes a path and no options".to_owned()),
            path => Ok(Store::Sqlite(PathBuf::from(path))),
        },
        _ => server(text, literal),
    }
}

fn server(text: &str, literal: bool) -> Result<Store, String> {
    let url = Url::parse(&with_one_host(text).0).map_err(|e| format!("is no URL: {e}"))?;
    let said = |name: &str| {
        let names = ["password", "pass", "sentinel_password"];
        names.iter().any(|it| name.eq_ignore_ascii_case(it))
    };
    let query: Vec<String> = url
        .query_pairs()
        .filter(|(name, _)| said(name))
        .map(|(_, value)| value.into_owned())
        .collect();
    if literal && (url.password().is_some() || !query.is_empty()) {
        return Err(
            "the URL holds a password, which doesn't stand in the file; write url = { env = \"NAME\" }, { file = \"path\" } or { credential = \"name\" } and put the URL there".to_owned(),
        );
    }
    let public = [
        url.username(),
        url.path().trim_start_matches('/'),
        url.scheme(),
        "presswork",
    ];
    for password in url
        .password()
        .into_iter()
        .chain(query.iter().map(String::as_str))
    {
        // a password that equals the user's or database's name would blank that word in every line
        if !public.contains(&password) && SECRET_MIN <= password.len() {
            redact::register(&SecretString::from(password));
            let decoded = decoded(password);
            redact::register(&SecretString::from(decoded));
        }
    }
    Ok(Store::Server(SecretString::from(text)))
}

/// A URL as parsers take it: Redis' sentinels and clusters have several hosts between commas. With the
/// hosts as they were said, where they are several.
fn with_one_host(text: &str) -> (String, Option<&str>) {
    let whole = || (text.to_owned(), None);
    let Some((scheme, rest)) = text.split_once("://") else {
        return whole();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let at = authority.rfind('@').map_or(0, |it| it + 1);
    let (user, hosts) = authority.split_at(at);
    match hosts.split_once(',') {
        Some((first, _)) if scheme.starts_with("redis") => {
            (format!("{scheme}://{user}{first}{tail}"), Some(hosts))
        }
        _ => whole(),
    }
}

/// Percent-decoded, as the driver sends it. `+` stays: in a URL's authority it is no blank.
fn decoded(text: &str) -> String {
    let pair = format!("p={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(pair.as_bytes())
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

/// An address for people: no user, no password, no options.
pub(super) fn shown(store: &Store) -> String {
    match store {
        Store::Memory => "memory:".to_owned(),
        Store::Sqlite(path) => format!("sqlite:{}", path.display()),
        Store::Server(url) => {
            let (url, hosts) = with_one_host(url.expose_secret());
            let Ok(url) = Url::parse(&url) else {
                return redact::HIDDEN.to_owned();
            };
            let user = match url.username().is_empty() && url.password().is_none() {
                true => "",
                false => "***@",
            };
            let port = url.port().map(|it| format!(":{it}")).unwrap_or_default();
            let host = format!("{}{port}", url.host_str().unwrap_or_default());
            let hosts = hosts.unwrap_or(&host);
            format!("{}://{user}{hosts}{}", url.scheme(), url.path())
        }
    }
}
