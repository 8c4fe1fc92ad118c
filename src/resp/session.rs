//! What a client may say, and what follows: who it is, its protocol, its transaction. Pure: what goes
//! to the ledger is only named here.

use super::wire::{Bounds, Excess, Protocol, Reply, Request};
use crate::api::body::{BODY_MAX, MANY_MAX};
use crate::api::guard::Access;
use crate::job::envelope::{ENVELOPE_MAX, is_name, too_large};
use crate::queue::INBOX;

/// Jobs to be taken by one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// The envelopes' bytes, as they came.
    pub envelopes: Vec<Vec<u8>>,
    /// Only jobs of this tenant.
    pub tenant: Option<String>,
    /// The answer is their ids; else how many they are.
    pub ids: bool,
}

/// What was said within a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Queued {
    /// This is the answer.
    Say(Reply),
    /// Jobs.
    Take(Push),
}

/// What follows from a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This is the answer.
    Say(Reply),
    /// Jobs: the ledger knows the answer.
    Take(Push),
    /// A transaction: all of its jobs or none.
    Together(Vec<Queued>),
    /// This is the answer, and the connection's end.
    End(Reply),
}

/// What a client may send once it has shown the token.
pub const KNOWN: Bounds = Bounds {
    inline: 64 << 10,
    word: ENVELOPE_MAX,
    words: MANY_MAX + 2,
    bytes: BODY_MAX,
};
/// And before.
pub const UNKNOWN: Bounds = Bounds {
    inline: 1 << 10,
    word: 1 << 10,
    words: 16,
    bytes: 4 << 10,
};
/// The most commands of a transaction.
pub const TRANSACTION_MAX: usize = 1_000;
/// Wrong tokens of one connection.
const WRONG_MAX: u32 = 8;
/// The longest name that a client may give itself, in bytes.
const NAME_MAX: usize = 128;
/// What is shown of what was sent, in bytes.
const SHOWN_MAX: usize = 64;

/// What there is: name, how many words (at least, where negative), and whether it writes.
const COMMANDS: [(&str, i64, bool); 16] = [
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

#[derive(Debug, Default)]
struct Transaction {
    queued: Vec<Queued>,
    envelopes: usize,
    bytes: usize,
    /// Something couldn't be queued: it won't be done.
    spoiled: bool,
}

/// A client.
#[derive(Debug)]
pub struct Session {
    id: u64,
    protocol: Protocol,
    trusted: bool,
    name: Vec<u8>,
    wrong: u32,
    transaction: Option<Transaction>,
}

type Words<'a> = &'a [Vec<u8>];
type Said = Result<Reply, String>;

impl Session {
    /// A client that has just come; `open`: nobody has to show a token.
    pub fn new(id: u64, open: bool) -> Self {
        Self {
            id,
            protocol: Protocol::Two,
            trusted: open,
            name: Vec::new(),
            wrong: 0,
            transaction: None,
        }
    }

    /// What it speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// It has shown the token, or needn't.
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// It has begun a transaction, and not ended it.
    pub fn is_midway(&self) -> bool {
        self.transaction.is_some()
    }

    /// The bytes that its transaction holds.
    pub fn held(&self) -> usize {
        self.transaction.as_ref().map_or(0, |it| it.bytes)
    }

    /// How much it may send at once.
    pub fn bounds(&self) -> &'static Bounds {
        match self.trusted {
            true => &KNOWN,
            false => &UNKNOWN,
        }
    }

    /// What follows from a request.
    pub fn step(&mut self, request: Request, access: &Access) -> Step {
        let name = request.words.first().map(|it| it.to_ascii_lowercase());
        let name = String::from_utf8(name.unwrap_or_default()).unwrap_or_default();
        let last = request.words.last();
        if request.inline && last.is_some_and(|it| it.starts_with(b"HTTP/")) {
            // a browser can be made to send such lines, and whatever it likes after them
            return Step::End(error(
                "ERR this port speaks RESP, not HTTP; see [api] for that",
            ));
        }
        let arguments = request.words.get(1..).unwrap_or_default();
        let said = match name.as_str() {
            "quit" => return Step::End(Reply::Simple("OK")),
            "reset" => {
                *self = Self::new(self.id, access.is_open());
                return Step::Say(Reply::Simple("RESET"));
            }
            "auth" | "hello" if self.transaction.is_none() => {
                let said = check(&name, &request).and_then(|()| match name.as_str() {
                    "auth" => self.auth(arguments, access),
                    _ => self.hello(arguments, access),
                });
                if WRONG_MAX <= self.wrong {
                    return Step::End(error(
                        "WRONGPASS this isn't the API's token either; goodbye",
                    ));
                }
                said
            }
            _ if !self.trusted => {
                Err("NOAUTH this port wants the API's token: AUTH TOKEN".to_owned())
            }
            _ => return self.trusted_step(&name, request),
        };
        Step::Say(said.unwrap_or_else(Reply::Error))
    }

    fn trusted_step(&mut self, name: &str, request: Request) -> Step {
        let say = |said: Said| Step::Say(said.unwrap_or_else(Reply::Error));
        let checked = check(name, &request);
        match (name, self.transaction.is_some()) {
            ("multi", false) if checked.is_ok() => {
                self.transaction = Some(Transaction::default());
                Step::Say(Reply::Simple("OK"))
            }
            ("multi", true) => say(Err("ERR MULTI calls can not be nested".to_owned())),
            ("exec" | "discard", false) => {
                let name = name.to_ascii_uppercase();
                say(Err(format!("ERR {name} without MULTI")))
            }
            ("exec", true) if checked.is_ok() => {
                match self.transaction.take().filter(|it| !it.spoiled) {
                    Some(it) => Step::Together(it.queued),
                    None => Step::Say(error(
                        "EXECABORT Transaction discarded because of previous errors.",
                    )),
                }
            }
            ("discard", true) if checked.is_ok() => {
                self.transaction = None;
                Step::Say(Reply::Simple("OK"))
            }
            ("rpush" | "lpush" | "presswork.enqueue", midway) => {
                match checked.and_then(|()| push(name, request)) {
                    Ok(push) if midway => Step::Say(self.queue(Ok(Queued::Take(push)))),
                    Ok(push) => Step::Take(push),
                    Err(e) if midway => Step::Say(self.queue(Err(e))),
                    Err(e) => say(Err(e)),
                }
            }
            (_, midway) => {
                let arguments = request.words.get(1..).unwrap_or_default();
                let said = checked.and_then(|()| self.plain(name, arguments));
                match midway {
                    true => Step::Say(self.queue(said.map(Queued::Say))),
                    false => say(said),
                }
            }
        }
    }

    fn queue(&mut self, queued: Result<Queued, String>) -> Reply {
        let transaction = self.transaction.get_or_insert_default();
        let queued = queued.and_then(|it| {
            if let Queued::Take(push) = &it {
                transaction.envelopes += push.envelopes.len();
                transaction.bytes += push.envelopes.iter().map(Vec::len).sum::<usize>();
            }
            let few = transaction.queued.len() < TRANSACTION_MAX;
            match few && transaction.envelopes <= MANY_MAX && transaction.bytes <= BODY_MAX {
                true => Ok(it),
                false => Err(format!(
                    "TOOLARGE a transaction has at most {TRANSACTION_MAX} commands and {MANY_MAX} envelopes, of {BODY_MAX} bytes together; nothing of it will be taken"
                )),
            }
        });
        match queued {
            Ok(it) if !transaction.spoiled => {
                transaction.queued.push(it);
                Reply::Simple("QUEUED")
            }
            Ok(_) => Reply::Simple("QUEUED"),
            Err(e) => {
                // it waits for its EXEC, and holds nothing
                *transaction = Transaction {
                    spoiled: true,
                    ..Transaction::default()
                };
                Reply::Error(e)
            }
        }
    }

    /// What is answered at once, by whoever may ask.
    fn plain(&mut self, name: &str, arguments: Words<'_>) -> Said {
        match (name, arguments) {
            ("ping", []) => Ok(Reply::Simple("PONG")),
            ("ping" | "echo", [text]) => Ok(Reply::Bulk(text.clone())),
            ("select", [number]) if number == b"0" => Ok(Reply::Simple("OK")),
            ("select", _) => Err("ERR there is one database here: SELECT 0".to_owned()),
            ("client", [sub, rest @ ..]) => self.client(&sub.to_ascii_lowercase(), rest),
            ("command", []) => Ok(Reply::Array(COMMANDS.iter().map(about).collect())),
            ("command", [sub, rest @ ..]) => command(&sub.to_ascii_lowercase(), rest),
            ("info", _) => Ok(Reply::text(format!(
                "# Server\r\nredis_version:{REDIS}\r\nredis_mode:standalone\r\npresswork_version:{}\r\n\
                 # Persistence\r\nloading:0\r\n# Replication\r\nrole:master\r\n",
                env!("CARGO_PKG_VERSION")
            ))),
            ("auth" | "hello", _) => Err(format!(
                "ERR {} has no place in a transaction",
                name.to_ascii_uppercase()
            )),
            ("ping", _) => Err(few("ping")),
            _ => {
                let all = COMMANDS.map(|it| it.0.to_ascii_uppercase()).join(", ");
                Err(format!(
                    "ERR `{}` isn't known: this port takes jobs (RPUSH {INBOX} ENVELOPE), there are {all}",
                    shown(name.as_bytes())
                ))
            }
        }
    }

    fn client(&mut self, sub: &[u8], rest: Words<'_>) -> Said {
        match (sub, rest) {
            (b"id", []) => Ok(Reply::Number(i64::try_from(self.id).unwrap_or(i64::MAX))),
            (b"getname", []) if self.name.is_empty() => Ok(Reply::Null),
            (b"getname", []) => Ok(Reply::Bulk(self.name.clone())),
            (b"setname", [name]) => self.set_name(name),
            (b"setinfo", [_, _]) => Ok(Reply::Simple("OK")),
            _ => Err(
                "ERR of CLIENT there are ID, GETNAME, SETNAME NAME and SETINFO ATTRIBUTE VALUE"
                    .to_owned(),
            ),
        }
    }

    fn set_name(&mut self, name: &[u8]) -> Said {
        if NAME_MAX < name.len() || !name.iter().all(u8::is_ascii_graphic) {
            return Err(format!(
                "ERR a client's name has at most {NAME_MAX} letters, without spaces"
            ));
        }
        self.name = name.to_vec();
        Ok(Reply::Simple("OK"))
    }

    fn auth(&mut self, arguments: Words<'_>, access: &Access) -> Said {
        match arguments {
            [_] if access.is_open() => Err(
                "ERR AUTH called, and no token is set here ([api] token): nobody has to show one"
                    .to_owned(),
            ),
            [token] | [_, token] => self.show(token, access).map(|()| Reply::Simple("OK")),
            _ => Err("ERR syntax error: AUTH TOKEN, or AUTH USER TOKEN".to_owned()),
        }
    }

    /// Whatever user is named: the token says all.
    fn show(&mut self, token: &[u8], access: &Access) -> Result<(), String> {
        if access.is_open() || access.is_token(token) {
            self.trusted = true;
            return Ok(());
        }
        self.wrong += 1;
        Err("WRONGPASS this isn't the API's token".to_owned())
    }

    fn hello(&mut self, arguments: Words<'_>, access: &Access) -> Said {
        let syntax =
            || Err("ERR syntax error: HELLO [2|3 [AUTH USER TOKEN] [SETNAME NAME]]".to_owned());
        let (protocol, mut rest) = match arguments {
            [] => (self.protocol, arguments),
            [version, rest @ ..] => match version.as_slice() {
                b"2" => (Protocol::Two, rest),
                b"3" => (Protocol::Three, rest),
                _ => {
                    return Err("NOPROTO unsupported protocol version; there are 2 and 3".to_owned());
                }
            },
        };
        let mut name = None;
        while let [option, more @ ..] = rest {
            rest = match (option.to_ascii_lowercase().as_slice(), more) {
                (b"auth", [_, token, more @ ..]) => {
                    self.show(token, access)?;
                    more
                }
                (b"setname", [said, more @ ..]) => {
                    name = Some(said);
                    more
                }
                _ => return syntax(),
            };
        }
        if !self.trusted {
            return Err(
                "NOAUTH this port wants the API's token: HELLO 3 AUTH default TOKEN, or AUTH TOKEN before"
                    .to_owned(),
            );
        }
        if let Some(name) = name {
            self.set_name(name)?;
        }
        self.protocol = protocol;
        let number = match protocol {
            Protocol::Two => 2,
            Protocol::Three => 3,
        };
        Ok(Reply::Map(vec![
            ("server", Reply::text("presswork")),
            ("version", Reply::text(env!("CARGO_PKG_VERSION"))),
            ("proto", Reply::Number(number)),
            (
                "id",
                Reply::Number(i64::try_from(self.id).unwrap_or(i64::MAX)),
            ),
            ("mode", Reply::text("standalone")),
            ("role", Reply::text("master")),
            ("modules", Reply::Array(Vec::new())),
        ]))
    }
}

/// The Redis whose commands these are: clients look whether it is new enough.
const REDIS: &str = "7.0.0";

fn error(text: &str) -> Reply {
    Reply::Error(text.to_owned())
}

fn few(name: &str) -> String {
    format!("ERR wrong number of arguments for '{name}' command")
}

fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_MAX)]);
    text.escape_debug().to_string()
}

/// Whether there are as many words as the command wants, and none of them is too much.
fn check(name: &str, request: &Request) -> Result<(), String> {
    match request.excess {
        Some(Excess::Words(words)) => {
            return Err(format!(
                "TOOLARGE {} words are too many: send at most {MANY_MAX} envelopes at once; nothing was taken",
                words
            ));
        }
        Some(Excess::Bytes) => {
            return Err(format!(
                "TOOLARGE a command has at most {BODY_MAX} bytes; send fewer envelopes at once; nothing was taken"
            ));
        }
        Some(Excess::Word(at, bytes)) => {
            let first = match name {
                "rpush" | "lpush" => 2,
                "presswork.enqueue" => 1,
                _ => {
                    return Err(format!(
                        "ERR word {at} has {bytes} bytes, which is too long"
                    ));
                }
            };
            let value = at.saturating_sub(first);
            return Err(format!(
                "TOOLARGE [{value}] {}; nothing was taken",
                too_large(bytes)
            ));
        }
        None => {}
    }
    let arity = COMMANDS.iter().find(|it| it.0 == name).map(|it| it.1);
    let words = i64::try_from(request.words.len()).unwrap_or(i64::MAX);
    match arity {
        Some(it) if it < 0 && words < -it => Err(few(name)),
        Some(it) if 0 < it && words != it => Err(few(name)),
        _ => Ok(()),
    }
}

/// What an RPUSH brings. The key is the inbox's, or names the tenant, too.
fn push(name: &str, request: Request) -> Result<Push, String> {
    let mut words = request.words.into_iter().skip(1);
    let ids = name == "presswork.enqueue";
    let key = match ids {
        true => None,
        false => words.next(),
    };
    let tenant = key.map_or(Ok(None), |it| tenant(&it))?;
    let envelopes: Vec<Vec<u8>> = words.collect();
    if MANY_MAX < envelopes.len() {
        return Err(format!(
            "TOOLARGE {} envelopes are too many: send at most {MANY_MAX} at once; nothing was taken",
            envelopes.len()
        ));
    }
    Ok(Push {
        envelopes,
        tenant,
        ids,
    })
}

fn tenant(key: &[u8]) -> Result<Option<String>, String> {
    let text = std::str::from_utf8(key).unwrap_or_default();
    let rest = text.strip_prefix(INBOX);
    match rest.map(|it| it.strip_prefix(':').unwrap_or(it)) {
        Some("") if text == INBOX => Ok(None),
        Some(tenant) if text.len() != INBOX.len() + tenant.len() && is_name(tenant) => {
            Ok(Some(tenant.to_owned()))
        }
        _ => Err(format!(
            "ERR `{}` isn't where jobs go: that is {INBOX}, or {INBOX}:TENANT for those of one tenant",
            shown(key)
        )),
    }
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

fn command(sub: &[u8], names: Words<'_>) -> Said {
    let one = |name: &Vec<u8>| {
        let name = name.to_ascii_lowercase();
        let found = COMMANDS.iter().find(|it| it.0.as_bytes() == name);
        found.map_or(Reply::Null, about)
    };
    match (sub, names) {
        (b"count", []) => Ok(Reply::Number(COMMANDS.len() as i64)),
        (b"docs", _) => Ok(Reply::Map(Vec::new())),
        (b"info", []) => Ok(Reply::Array(COMMANDS.iter().map(about).collect())),
        (b"info", names) => Ok(Reply::Array(names.iter().map(one).collect())),
        (b"list", []) => Ok(Reply::Array(
            COMMANDS.iter().map(|it| Reply::text(it.0)).collect(),
        )),
        _ => Err("ERR of COMMAND there are COUNT, DOCS, INFO and LIST".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "presswork_1_0123456789abcdef";

    fn access(token: Option<&str>) -> Access {
        let token = token.map(Into::into);
        Access::new("127.0.0.1:0".parse().unwrap(), token.as_ref()).unwrap()
    }

    fn request(line: &str) -> Request {
        let words = line.split(' ').map(|it| it.as_bytes().to_vec()).collect();
        Request {
            words,
            ..Request::default()
        }
    }

    /// What each of these lines leads to.
    fn steps(token: Option<&str>, lines: &[&str]) -> Vec<Step> {
        let mut session = Session::new(7, token.is_none());
        let access = access(token);
        let step = |it: &&str| session.step(request(it), &access);
        lines.iter().map(step).collect()
    }

    fn wrong(step: &Step) -> &str {
        match step {
            Step::Say(Reply::Error(text)) | Step::End(Reply::Error(text)) => text,
            other => panic!("no error: {other:?}"),
        }
    }

    #[test]
    fn nothing_is_done_without_the_token() {
        for line in [
            "PING",
            "RPUSH presswork:inbox {}",
            "MULTI",
            "INFO",
            "CLIENT ID",
            "HELLO 3",
            "NONSENSE",
        ] {
            let told = steps(Some(TOKEN), &[line]);
            assert!(wrong(&told[0]).starts_with("NOAUTH "), "{line}: {told:?}");
        }
        let auth = format!("AUTH {TOKEN}");
        let user = format!("HELLO 3 AUTH anybody {TOKEN} SETNAME me");
        for line in [&auth, &user] {
            let told = steps(Some(TOKEN), &[line, "PING", "RESET", "PING"]);
            assert_eq!(told[1], Step::Say(Reply::Simple("PONG")), "{told:?}");
            assert!(wrong(&told[3]).starts_with("NOAUTH "), "{told:?}");
        }
        let mut tries = vec!["AUTH nonsense"; WRONG_MAX as usize];
        tries[3] = "HELLO 3 AUTH default nonsense";
        let told = steps(Some(TOKEN), &tries);
        assert!(
            told.iter().all(|it| wrong(it).starts_with("WRONGPASS ")),
            "{told:?}"
        );
        assert!(matches!(told.last(), Some(Step::End(_))), "{told:?}");
        assert!(!format!("{told:?}").contains("nonsense"));
    }

    #[test]
    fn a_key_names_the_tenant_or_is_refused() {
        assert_eq!(tenant(b"presswork:inbox"), Ok(None));
        assert_eq!(tenant(b"presswork:inbox:acme"), Ok(Some("acme".to_owned())));
        for key in [
            "",
            "presswork",
            "presswork:inbox:",
            "presswork:inboxacme",
            "presswork:inbox:a b",
            "inbox",
        ] {
            assert!(tenant(key.as_bytes()).is_err(), "{key}");
        }
    }

    #[test]
    fn a_transaction_is_done_whole_or_not_at_all() {
        let told = steps(
            None,
            &[
                "MULTI",
                "RPUSH presswork:inbox a",
                "PING",
                "PRESSWORK.ENQUEUE b c",
                "EXEC",
                "EXEC",
            ],
        );
        let Step::Together(queued) = &told[4] else {
            panic!("{told:?}");
        };
        assert_eq!(queued.len(), 3);
        assert!(matches!(&queued[2], Queued::Take(it) if it.ids && it.envelopes.len() == 2));
        assert!(wrong(&told[5]).contains("without MULTI"));
        for bad in [
            "GET a",
            "RPUSH nowhere a",
            "RPUSH presswork:inbox",
            "AUTH x",
            "SELECT 1",
        ] {
            let told = steps(
                None,
                &[
                    "MULTI",
                    "RPUSH presswork:inbox a",
                    bad,
                    "RPUSH presswork:inbox b",
                    "EXEC",
                ],
            );
            assert!(!wrong(&told[2]).is_empty());
            assert!(wrong(&told[4]).starts_with("EXECABORT "), "{told:?}");
        }
        let told = steps(None, &["MULTI", "MULTI", "DISCARD", "DISCARD"]);
        assert!(wrong(&told[1]).contains("nested"));
        assert_eq!(told[2], Step::Say(Reply::Simple("OK")));
        assert!(wrong(&told[3]).contains("without MULTI"));
    }

    #[test]
    fn a_transaction_that_is_too_much_holds_nothing() {
        let mut session = Session::new(1, true);
        let access = access(None);
        session.step(request("MULTI"), &access);
        for _ in 0..TRANSACTION_MAX {
            let step = session.step(request("RPUSH presswork:inbox x"), &access);
            assert_eq!(step, Step::Say(Reply::Simple("QUEUED")));
        }
        assert_eq!(session.held(), TRANSACTION_MAX);
        let step = session.step(request("PING"), &access);
        assert!(wrong(&step).starts_with("TOOLARGE "), "{step:?}");
        assert_eq!(session.held(), 0);
        let large = format!("RPUSH presswork:inbox {}", "x".repeat(ENVELOPE_MAX));
        session.step(request(&large), &access);
        let step = session.step(request("EXEC"), &access);
        assert!(wrong(&step).starts_with("EXECABORT "), "{step:?}");
    }

    #[test]
    fn every_command_of_the_list_is_known_and_others_are_told_what_there_is() {
        for (name, _, _) in COMMANDS {
            let told = steps(None, &[name]);
            let unknown =
                matches!(&told[0], Step::Say(Reply::Error(it)) if it.contains("isn't known"));
            assert!(!unknown, "{told:?}");
        }
        let told = steps(
            None,
            &[
                "CONFIG SET requirepass hunter2",
                "CLIENT LIST",
                "SELECT 1",
                "COMMAND COUNT",
            ],
        );
        assert!(
            wrong(&told[0]).contains("`config` isn't known") && wrong(&told[0]).contains("RPUSH")
        );
        assert!(!wrong(&told[0]).contains("hunter2"));
        assert!(wrong(&told[1]).contains("SETNAME"));
        assert_eq!(told[3], Step::Say(Reply::Number(16)));
    }

    #[test]
    fn what_a_browser_was_made_to_send_ends_the_connection() {
        let mut session = Session::new(1, true);
        let line = Request {
            inline: true,
            ..request("POST / HTTP/1.1")
        };
        let step = session.step(line, &access(None));
        assert!(matches!(&step, Step::End(_)), "{step:?}");
        assert!(wrong(&step).contains("HTTP"));
    }
}
