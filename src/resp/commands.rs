//! The commands that there are, and what clients are told of them.

use super::reply::Reply;

/// The words behind a command.
pub type Words<'a> = &'a [Vec<u8>];
/// An answer, or the error.
pub type Said = Result<Reply, String>;

/// What there is: name, how many words (at least, where negative), and whether it writes.
pub const COMMANDS: [(&str, i64, bool); 16] = [
    ("auth", -2, false),
    ("client", -2, false),
    ("command", -1, false),
    ("discard", 1, false),
    ("echo", 2, false),
    ("exec", 1, false),
    ("hello", -1, false),
    ("info", -1, false),
    ("lpush", -3, true),
    ("multi", 1, false),
    ("ping", -1, false),
    ("presswork.enqueue", -2, true),
    ("quit", -1, false),
    ("reset", 1, false),
    ("rpush", -3, true),
    ("select", 2, false),
];

/// The Redis whose commands these are: clients look whether it is new enough.
const REDIS: &str = "7.0.0";

/// What is told of a command with too few words, or too many.
pub fn few(name: &str) -> String {
    format!("ERR wrong number of arguments for '{name}' command")
}

/// Whether a command has as many words as it wants; of one that isn't known nothing is said.
///
/// # Errors
/// When it has others.
pub fn check(name: &str, words: usize) -> Result<(), String> {
    let arity = COMMANDS.iter().find(|it| it.0 == name).map(|it| it.1);
    let words = i64::try_from(words).unwrap_or(i64::MAX);
    match arity {
        Some(it) if it < 0 && words < -it => Err(few(name)),
        Some(it) if 0 < it && words != it => Err(few(name)),
        _ => Ok(()),
    }
}

/// The names of all, for people.
pub fn names() -> String {
    COMMANDS.map(|it| it.0.to_ascii_uppercase()).join(", ")
}

/// `INFO`: as much as clients look at before they begin.
pub fn info() -> Reply {
    Reply::text(format!(
        "# Server\r\nredis_version:{REDIS}\r\nredis_mode:standalone\r\npresswork_version:{}\r\n\
         # Persistence\r\nloading:0\r\n# Replication\r\nrole:master\r\n",
        env!("CARGO_PKG_VERSION")
    ))
}

/// `COMMAND`: all of them.
pub fn all() -> Reply {
    Reply::Array(COMMANDS.iter().map(about).collect())
}

/// As Redis tells of a command: its name, how many words, flags, and where its keys are.
fn about((name, arity, writes): &(&'static str, i64, bool)) -> Reply {
    let flag = match writes {
        true => Reply::Simple("write"),
        false => Reply::Simple("fast"),
    };
    let key = i64::from(name.ends_with("push"));
    let numbers = [key, key, key].map(Reply::Number);
    let mut all = vec![
        Reply::text(*name),
        Reply::Number(*arity),
        Reply::Array(vec![flag]),
    ];
    all.extend(numbers);
    Reply::Array(all)
}

/// `COMMAND` with a word behind it.
///
/// # Errors
/// What there is instead.
pub fn asked(sub: &[u8], names: Words<'_>) -> Said {
    let one = |name: &Vec<u8>| {
        let name = name.to_ascii_lowercase();
        let found = COMMANDS.iter().find(|it| it.0.as_bytes() == name);
        found.map_or(Reply::Null, about)
    };
    match (sub, names) {
        (b"count", []) => Ok(Reply::Number(COMMANDS.len() as i64)),
        (b"docs", _) => Ok(Reply::Map(Vec::new())),
        (b"info", []) => Ok(all()),
        (b"info", names) => Ok(Reply::Array(names.iter().map(one).collect())),
        (b"list", []) => Ok(Reply::Array(
            COMMANDS.iter().map(|it| Reply::text(it.0)).collect(),
        )),
        _ => Err("ERR of COMMAND there are COUNT, DOCS, INFO and LIST".to_owned()),
    }
}
