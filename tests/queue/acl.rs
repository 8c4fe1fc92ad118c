//! The users that are proposed for Redis do what they have to, and nothing else of all that Redis can do.

use std::collections::BTreeSet;

use presswork::inbox::Inbox;
use presswork::queue::redis::{PASSWORD, User, users};
use redis::{Commands, Connection, Value};

use super::open;
use crate::kit::redis::Redis;

const INBOX: &str = "presswork:inbox";
const ACME: &str = "presswork:inbox:acme";
const RECEIPT: &str = "presswork:reply:token";

fn as_user(server: &Redis, name: &str) -> String {
    format!("redis://{name}:{PASSWORD}@127.0.0.1:{}/", server.port())
}

fn connect(url: &str) -> Connection {
    let client = redis::Client::open(url).unwrap();
    client.get_connection().unwrap()
}

/// A server that knows the users of these tenants. Commands that it would refuse to everybody for reasons
/// of its own, it doesn't.
fn guarded(tenants: &[&str]) -> (Redis, Vec<User>) {
    let yes = [
        "--enable-debug-command",
        "yes",
        "--enable-module-command",
        "yes",
    ];
    let server = Redis::start_with(&yes);
    let tenants: Vec<String> = tenants.iter().map(|it| it.to_string()).collect();
    let users = users(&server.url().into(), None, &tenants).unwrap();
    for user in &users {
        let mut words = vec!["ACL", "SETUSER", &user.name];
        words.extend(user.rules.iter().map(String::as_str));
        assert_eq!(server.cli(&words), "OK");
    }
    (server, users)
}

/// A command that Redis has.
struct Command {
    /// Its name, of which a subcommand is a part: `client|kill`.
    name: String,
    /// How many words it takes, its own included; at least, where negative.
    arity: i64,
    flags: Vec<String>,
    keys: bool,
    categories: Vec<String>,
}

/// What `COMMAND` tells of one, and of its subcommands.
fn told(about: &Value, into: &mut Vec<Command>) {
    let Value::Array(about) = about else {
        panic!("{about:?}")
    };
    let texts = |it: &Value| -> Vec<String> {
        let all: Vec<String> = redis::from_redis_value_ref(it).unwrap();
        all.iter()
            .map(|it| it.trim_start_matches('@').to_owned())
            .collect()
    };
    let number = |it: &Value| -> i64 { redis::from_redis_value_ref(it).unwrap() };
    let arity = number(&about[1]);
    let Value::Array(below) = &about[9] else {
        panic!("{about:?}")
    };
    // what has subcommands can't be said alone, unless it can
    if below.is_empty() || arity == -1 {
        into.push(Command {
            name: redis::from_redis_value_ref(&about[0]).unwrap(),
            arity,
            flags: texts(&about[2]),
            keys: number(&about[3]) != 0,
            categories: texts(&about[6]),
        });
    }
    below.iter().for_each(|it| told(it, into));
}

fn commands(server: &Redis) -> Vec<Command> {
    let mut connection = connect(&server.url());
    let all: Vec<Value> = redis::cmd("COMMAND").query(&mut connection).unwrap();
    let mut commands = Vec::new();
    all.iter().for_each(|it| told(it, &mut commands));
    let mut list = redis::cmd("COMMAND");
    let list: Vec<String> = list.arg("LIST").query(&mut connection).unwrap();
    let of = |name: &str| {
        let below = format!("{name}|");
        commands
            .iter()
            .any(|it| it.name == name || it.name.starts_with(&below))
    };
    let missing: Vec<_> = list.iter().filter(|it| !of(it)).collect();
    assert_eq!(missing, [""; 0]);
    assert!(300 < commands.len(), "{}", commands.len());
    commands
}

/// Says a command to the end that it is allowed, or not: every word that it wants is `word`.
fn is_allowed(connection: &mut Connection, command: &Command, word: &str) -> bool {
    let mut said = redis::Cmd::new();
    let own: Vec<&str> = command.name.split('|').collect();
    let wanted = usize::try_from(command.arity.unsigned_abs()).unwrap();
    said.arg(&own)
        .arg(vec![word; wanted.saturating_sub(own.len())]);
    match said.exec(connection) {
        Err(error) if error.code() == Some("NOPERM") => false,
        // EXEC tells it in words of its own
        Err(error) if error.to_string().contains("NOPERM") => false,
        Err(error) if error.is_io_error() => panic!("{}: {error}", command.name),
        _ => true,
    }
}

/// What a user may say at all, with one of these words behind it; what everybody may is left out.
fn allowed(server: &Redis, user: &User, words: &[&str]) -> BTreeSet<String> {
    let mut connection = connect(&as_user(server, &user.name));
    let (free, others): (Vec<Command>, Vec<Command>) = commands(server)
        .into_iter()
        .partition(|it| it.flags.iter().any(|it| it == "no_auth"));
    let free: BTreeSet<&str> = free.iter().map(|it| &*it.name).collect();
    assert_eq!(free, BTreeSet::from(["auth", "hello", "quit", "reset"]));
    let mut may = |it: &&Command| {
        words.iter().any(|word| {
            let allowed = is_allowed(&mut connection, it, word);
            if allowed {
                // a transaction may have begun, or whatever else changes what follows
                connection = connect(&as_user(server, &user.name));
            }
            allowed
        })
    };
    let found: Vec<&Command> = others.iter().filter(&mut may).collect();
    found.into_iter().map(|it| it.name.clone()).collect()
}

/// Whether a command in words is refused to this connection, by the access list.
fn is_refused(connection: &mut Connection, words: &str) -> bool {
    let mut said = redis::Cmd::new();
    said.arg(words.split(' ').collect::<Vec<_>>());
    let error = said.exec(connection).err();
    error.is_some_and(|it| it.code() == Some("NOPERM"))
}

#[test]
fn of_all_that_redis_can_do_a_producer_may_append_and_take_receipts() {
    let (server, users) = guarded(&["acme", "zoo"]);
    for (user, own) in [(&users[1], INBOX), (&users[2], ACME)] {
        let words = [own, RECEIPT, "other"];
        let some = ["blpop", "client|setname", "lpop", "ping", "rpush"];
        let some = BTreeSet::from(some.map(str::to_owned));
        assert_eq!(allowed(&server, user, &words), some, "{}", user.name);
        let mut connection = connect(&as_user(&server, &user.name));
        let length: u64 = connection.rpush(own, "one").unwrap();
        assert!(0 < length);
        let _: u64 = connect(&server.url()).rpush(RECEIPT, "told").unwrap();
        let receipt: Vec<String> = connection.blpop(RECEIPT, 1.0).unwrap();
        assert_eq!(receipt, [RECEIPT, "told"]);
        for key in [
            INBOX,
            ACME,
            "presswork:inbox:zoo",
            "presswork:inbox:",
            "presswork:inboxes",
            "{presswork:inbox}:holders",
            "{presswork:inbox:acme}:holders",
            "{pw:lane:default}:ready",
            RECEIPT,
            "presswork:wake",
            "other",
        ] {
            let refused = is_refused(&mut connection, &format!("RPUSH {key} x"));
            assert_eq!(refused, key != own, "{}: RPUSH {key}", user.name);
            for command in [format!("LPOP {key}"), format!("BLPOP {RECEIPT} {key} 0.01")] {
                let refused = is_refused(&mut connection, &command);
                assert_eq!(refused, key != RECEIPT, "{}: {command}", user.name);
            }
        }
    }
}

#[test]
fn the_daemon_s_user_reaches_its_own_keys_and_nothing_that_endangers_others() {
    let (server, users) = guarded(&["acme"]);
    let user = &users[0];
    let may = allowed(&server, user, &["presswork:inbox"]);
    for command in commands(&server) {
        let worrying = |it: &String| ["admin", "dangerous"].contains(&it.as_str());
        if command.categories.iter().any(worrying) {
            let known = ["info", "role"].contains(&command.name.as_str());
            assert_eq!(may.contains(&command.name), known, "{}", command.name);
        }
    }
    let mut connection = connect(&as_user(&server, &user.name));
    let at_keys = commands(&server).into_iter().filter(|it| it.keys);
    for command in at_keys {
        for key in ["other", "presswork:other", "{pw:other}:ready"] {
            let name = &command.name;
            assert!(!is_allowed(&mut connection, &command, key), "{name} {key}");
        }
    }
    for command in [
        "PUBLISH other x",
        "EVAL return(1) 0",
        "FUNCTION LIST",
        "KEYS *",
    ] {
        assert!(is_refused(&mut connection, command), "{command}");
    }
}

#[tokio::test]
async fn who_shows_no_password_gets_nowhere_once_default_is_off() {
    let (server, users) = guarded(&[]);
    let producer = users[1].name.clone();
    let wrong = as_user(&server, &producer);
    let refused = open(&wrong).inbox().waiting().await.unwrap_err().0;
    assert!(
        refused.contains("access list") && !refused.contains(PASSWORD),
        "{refused}"
    );
    let mut open_to_all = connect(&server.url());
    let length: u64 = open_to_all.rpush(INBOX, "from anybody").unwrap();
    assert_eq!(length, 1);
    assert_eq!(server.cli(&["ACL", "SETUSER", "default", "off"]), "OK");
    let stranger = redis::Client::open(server.url()).unwrap();
    let refused = stranger
        .get_connection()
        .and_then(|mut it| it.rpush::<_, _, u64>(INBOX, "x"));
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("NOAUTH") || refused.contains("uthentication"),
        "{refused}"
    );
    // nor by becoming nobody
    let mut left = connect(&as_user(&server, &producer));
    redis::cmd("RESET").exec(&mut left).unwrap();
    let refused = left.rpush::<_, _, u64>(INBOX, "x").unwrap_err();
    assert_eq!(refused.code(), Some("NOAUTH"));
}
