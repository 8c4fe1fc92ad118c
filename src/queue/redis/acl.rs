//! Who may do what in Redis: the rules of its access list for the daemon and for producers.
//!
//! Each user gets the least that works. An appended entry can't be read, moved or removed by who appended
//! it; a receipt can be taken by who knows its token, and not be forged: reading has rules of its own (a
//! selector, which Redis has since 7.0). A list is what untrusted producers append to, since a stream can
//! be emptied by `XADD`'s own options, which no rule forbids.

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::keys::Names;

/// What stands in the place of each password.
pub const PASSWORD: &str = "CHANGE-ME";

/// What a producer says at its inbox. (`AUTH`, `HELLO`, `QUIT` and `RESET` are free to everybody, and
/// clients do without what else they ask at first: `INFO`, `CLIENT SETINFO`, which Redis 7.0 hasn't.)
const PRODUCER: [&str; 3] = ["ping", "client|setname", "rpush"];
/// What a producer says at the lists of receipts, and nowhere else.
const RECEIPTS: [&str; 2] = ["blpop", "lpop"];
/// What the daemon says, itself and in its scripts, beside what is harmless of a connection's own
/// commands: every name that is in this folder's sources, as a test shows. `SCRIPT LOAD` and `EVALSHA` are
/// how the driver runs scripts (which may do no more than their user); `ROLE` and `CLUSTER SLOTS` are
/// asked where a sentinel or a cluster tells who is the master.
const DAEMON: [&str; 35] = [
    "blmove",
    "cluster|slots",
    "evalsha",
    "exists",
    "expire",
    "hdel",
    "hget",
    "hgetall",
    "hlen",
    "hmget",
    "hset",
    "info",
    "lindex",
    "llen",
    "lpop",
    "lrange",
    "lrem",
    "publish",
    "role",
    "rpush",
    "sadd",
    "script|load",
    "smembers",
    "srem",
    "subscribe",
    "unlink",
    "unsubscribe",
    "zadd",
    "zcard",
    "zmscore",
    "zpopmax",
    "zpopmin",
    "zrem",
    "zremrangebyscore",
    "zscore",
];

/// A user of Redis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// Its name.
    pub name: String,
    /// What it may do, for people.
    pub about: String,
    /// The tenant whose jobs alone it may bring.
    pub tenant: Option<String>,
    /// Its rules, in order, as `ACL SETUSER` takes them behind the name. The password is [`PASSWORD`].
    pub rules: Vec<String>,
}

impl User {
    /// As redis.conf and the file of an access list have it.
    pub fn line(&self) -> String {
        format!("user {} {}", self.name, self.rules.join(" "))
    }
}

/// The users that the Redis at `url` should know: the daemon, producers, and the producers of each of these
/// tenants. `prefix` is that of [`RedisOptions`](super::RedisOptions).
///
/// # Errors
/// The prefix is wrong.
pub fn users(
    url: &SecretString,
    prefix: Option<&str>,
    tenants: &[String],
) -> anyhow::Result<Vec<User>> {
    let names = Names::new(prefix).map_err(anyhow::Error::msg)?;
    let mut users = vec![daemon(&names)];
    let tenants = tenants.iter().map(|it| Some(it.as_str()));
    for tenant in std::iter::once(None).chain(tenants) {
        users.push(producer(&names, tenant, is_elsewhere(url)));
    }
    Ok(users)
}

/// Nothing at first: what an older line gave doesn't stay.
fn nothing() -> Vec<String> {
    let password = format!(">{PASSWORD}");
    ["reset", "on", &password].map(str::to_owned).to_vec()
}

fn daemon(names: &Names) -> User {
    let inbox = names.inbox(None).inbox;
    let mut rules = nothing();
    rules.extend([format!("~{inbox}"), format!("~{inbox}:*")]);
    rules.extend(names.tagged().map(|it| format!("~{it}")));
    // written by a script, whose keys a user must be let read, too
    rules.push(format!("~{}*", names.replies()));
    rules.push(format!("&{}", names.wake()));
    let connection = ["-@all", "+@connection", "-@admin", "-@dangerous"];
    rules.extend(connection.map(str::to_owned));
    rules.extend(DAEMON.map(|it| format!("+{it}")));
    User {
        name: names.own("presswork"),
        about: "the daemon, and presswork's commands: the user of queue.url".to_owned(),
        tenant: None,
        rules,
    }
}

fn producer(names: &Names, tenant: Option<&str>, elsewhere: bool) -> User {
    let inbox = names.inbox(tenant).inbox;
    let replies = names.replies();
    let mut rules = nothing();
    rules.extend([format!("%W~{inbox}"), "-@all".to_owned()]);
    rules.extend(PRODUCER.map(|it| format!("+{it}")));
    rules.extend(elsewhere.then(|| "+select".to_owned()));
    let read = RECEIPTS.map(|it| format!("+{it}")).join(" ");
    rules.push(format!("({read} ~{replies}*)"));
    let name = names.own("presswork-producer");
    let (name, whose) = match tenant {
        Some(tenant) => (format!("{name}-{tenant}"), format!("producers of {tenant}")),
        None => (name, "producers".to_owned()),
    };
    User {
        name,
        about: format!("{whose}: RPUSH {inbox} ENVELOPE, then BLPOP {replies}TOKEN 10"),
        tenant: tenant.map(str::to_owned),
        rules,
    }
}

/// Whether the URL names another database than the one that a connection begins in.
fn is_elsewhere(url: &SecretString) -> bool {
    let url = url.expose_secret().split(['?', '#']).next();
    let last = url.and_then(|it| it.rsplit('/').next());
    last.and_then(|it| it.parse().ok())
        .is_some_and(|it: u32| it != 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn all(url: &str, prefix: Option<&str>) -> Vec<User> {
        users(&url.into(), prefix, &["acme".to_owned()]).unwrap()
    }

    #[test]
    fn each_has_its_keys_and_an_installation_s_prefix_keeps_them_apart() {
        let lines: Vec<String> = all("redis://h:1/0", None).iter().map(User::line).collect();
        assert!(lines[0].starts_with(
            "user presswork reset on >CHANGE-ME ~presswork:inbox ~presswork:inbox:* ~{pw:lane:* \
             ~{presswork:inbox* ~presswork:reply:* &presswork:wake -@all "
        ));
        assert_eq!(
            lines[1..],
            [
                "user presswork-producer reset on >CHANGE-ME %W~presswork:inbox -@all +ping \
                 +client|setname +rpush (+blpop +lpop ~presswork:reply:*)",
                "user presswork-producer-acme reset on >CHANGE-ME %W~presswork:inbox:acme -@all +ping \
                 +client|setname +rpush (+blpop +lpop ~presswork:reply:*)",
            ]
        );
        for it in all("redis://h:1", Some("staging")) {
            assert!(it.name.starts_with("staging-presswork"), "{}", it.name);
            let places = it.rules.iter().filter(|it| it.contains(['~', '&']));
            let strange: Vec<_> = places.filter(|it| !it.contains("staging:")).collect();
            assert_eq!(strange, [""; 0]);
        }
        let selects = |url| {
            let users = all(url, None);
            users[1].rules.contains(&"+select".to_owned())
        };
        assert!(selects("redis://:a@h:1/3") && selects("rediss://h/12?x=/0"));
        assert!(!selects("redis://h:6379") && !selects("redis://h/0"));
    }

    /// What the daemon says is all that it may say.
    #[test]
    fn every_command_of_the_sources_is_in_the_daemon_s_list() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/queue/redis");
        let mut said = BTreeSet::new();
        let mut find = |text: &str, before: &str, quote: char| {
            for it in text.split(before).skip(1) {
                let word = it.split(quote).next().unwrap_or_default();
                said.insert(word.to_ascii_lowercase());
            }
        };
        for at in [folder.clone(), folder.join("scripts")] {
            for file in std::fs::read_dir(at).unwrap() {
                let path = file.unwrap().path();
                if path.ends_with(Path::new(file!()).file_name().unwrap()) {
                    continue;
                }
                let Ok(text) = std::fs::read_to_string(&path) else {
                    continue; // the folder of the scripts
                };
                find(&text, "redis::cmd(\"", '"');
                find(&text, "redis.call('", '\'');
                find(&text, "redis.pcall('", '\'');
            }
        }
        assert!(said.contains("zpopmin") && said.contains("blmove"));
        // the connection's own, and what is asked of sentinels, which have lists of their own
        for it in ["ping", "cluster", "sentinel"] {
            said.remove(it);
        }
        let missing: Vec<_> = said
            .iter()
            .filter(|it| !DAEMON.contains(&it.as_str()))
            .collect();
        assert_eq!(missing, [""; 0], "not allowed to the daemon");
        assert!(DAEMON.is_sorted());
    }
}
