//! `jobs.toml`: any text is a configuration that holds together, or told what is wrong with it,
//! where; and never a secret.

use std::path::Path;

use presswork::config::{Config, ConfigErrors, Place, Store};
use presswork::kinds;

/// What every secret is that the environment knows.
const SECRET: &str = "c4n4ry-of-the-fuzzer-7d1e";
/// A store's address with a password.
const ADDRESS: &str = "postgres://me:c4n4ry-of-the-fuzzer-7d1e@db.example/presswork";

fn env(name: &str) -> Option<String> {
    match name {
        "SECRET" => Some(SECRET.to_owned()),
        "SHORT" => Some("abc".to_owned()),
        "ADDRESS" => Some(ADDRESS.to_owned()),
        _ => None,
    }
}

/// Panics unless the text is a configuration that holds together, or its mistakes are told.
pub fn holds(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let planted = text.contains(SECRET);
    match Config::parse(&text, Some(Path::new("jobs.toml")), &env) {
        Ok(config) => sound(&config, planted),
        Err(errors) => told(&text, &errors, planted),
    }
}

fn told(text: &str, errors: &ConfigErrors, planted: bool) {
    assert!(!errors.errors.is_empty());
    assert!(errors.errors.is_sorted_by_key(|it| &it.place));
    let lines: Vec<&str> = text.split('\n').collect();
    for error in &errors.errors {
        assert!(!error.message.is_empty());
        if let Place::File { line, column } = error.place {
            let there = lines.get(line as usize - 1).expect("the line is there");
            assert!((1..=there.chars().count() + 1).contains(&(column as usize)));
        }
    }
    let told = errors.to_string();
    assert_eq!(told.lines().count(), errors.errors.len(), "{told:?}");
    let line_break = |c: char| c.is_control() && c != '\n';
    assert!(!told.contains(line_break), "{told:?}");
    assert!(planted || !told.contains(SECRET), "{told}");
}

fn sound(config: &Config, planted: bool) {
    assert!(config.lanes.contains_key("default"));
    assert!(config.lanes.values().all(|it| 0 < it.room));
    assert!((1..=3_600).contains(&config.lease.as_secs()));
    assert!(0 < config.backlog_max && 0 < config.window);
    assert!(!matches!(config.ledger, Store::Memory));
    assert!(!matches!(config.queue, Store::Sqlite(_)));
    if let Some(listen) = config.api.listen {
        assert!(listen.ip().to_canonical().is_loopback() || config.api.token.is_some());
    }
    let policies = config.kinds.values().filter_map(|it| it.retry);
    for it in policies.chain(config.retry) {
        assert!(it.base_ms <= it.cap_ms && (1..=100).contains(&it.attempts_max));
    }
    let lanes = config.kinds.values().filter_map(|it| it.lane.as_ref());
    for lane in lanes {
        assert!(config.lanes.contains_key(lane));
    }
    for account in config.accounts.values() {
        let url = &account.base_url;
        assert!(matches!(url.scheme(), "https" | "http"));
        assert!(url.has_host() && url.username().is_empty() && url.password().is_none());
        assert!(account.platform != "bluesky" || account.identifier.is_some());
    }
    assert_eq!(config.fixed_since(&config.clone()), [""; 0]);
    let all = kinds::all();
    let known: Vec<&str> = all.iter().map(|it| it.name()).collect();
    let beyond = config.check_kinds(&known);
    assert!(beyond.len() <= config.kinds.len());
    for (key, value, place) in config.effective() {
        assert!(!key.is_empty() && !place.is_empty());
        assert!(planted || !value.contains(SECRET), "{key} = {value}");
    }
}
