//! What a client may say, and what follows: who it is, its protocol, its transaction. Pure: what goes
//! to the ledger is only named here.

use std::sync::Arc;
use std::time::Instant;

use super::commands::{self, Said, Words};
use super::reply::{Protocol, Reply};
use super::wire::{Bounds, Excess, Request};
use crate::api::body::{BODY_MAX, MANY_MAX};
use crate::api::guard::Access;
use crate::api::keyring::{Denied, FRESH};
use crate::inbox::INBOX;
use crate::job::envelope::{ENVELOPE_MAX, is_name, too_large};
use crate::telemetry::redact;
use crate::token::{Asked, Shown, Token};

/// Jobs to be taken by one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// The envelopes' bytes, as they came.
    pub envelopes: Vec<Vec<u8>>,
    /// Only jobs of this tenant.
    pub tenant: Option<String>,
    /// The answer is their ids; else how many they are.
    pub ids: bool,
    /// The token that was shown: only jobs that it may make.
    pub by: Option<Arc<Token>>,
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
/// What is said while a token can't be looked up; clients try again by themselves.
const AWAY: &str = "LOADING the ledger can't be reached; send again with the same key";
/// Wrong tokens of one connection.
const WRONG_MAX: u32 = 8;
/// The longest name that a client may give itself, in bytes.
const NAME_MAX: usize = 128;
/// What is shown of what was sent, in bytes.
const SHOWN_MAX: usize = 64;

#[derive(Debug, Default)]
struct Transaction {
    queued: Vec<Queued>,
    envelopes: usize,
    bytes: usize,
    /// Something couldn't be queued: it won't be done.
    spoiled: bool,
}

/// What a client may do.
#[derive(Debug)]
enum Trust {
    /// Nothing, before it has shown a token.
    None,
    /// Everything.
    All,
    /// What its token says, which was looked at then.
    Token(Shown, Arc<Token>, Instant),
}

impl Trust {
    fn token(&self) -> Option<&Arc<Token>> {
        match self {
            Self::Token(_, token, _) => Some(token),
            Self::None | Self::All => None,
        }
    }
}

/// A client.
#[derive(Debug)]
pub struct Session {
    id: u64,
    protocol: Protocol,
    trust: Trust,
    /// Whether its token still counts can't be asked now.
    unsure: bool,
    /// What is known of the token that its next request shows.
    learnt: Option<(Shown, Result<Arc<Token>, Denied>)>,
    name: Vec<u8>,
    wrong: u32,
    transaction: Option<Transaction>,
}

impl Session {
    /// A client that has just come; `open`: nobody has to show a token.
    pub fn new(id: u64, open: bool) -> Self {
        Self {
            id,
            protocol: Protocol::Two,
            trust: match open {
                true => Trust::All,
                false => Trust::None,
            },
            unsure: false,
            learnt: None,
            name: Vec::new(),
            wrong: 0,
            transaction: None,
        }
    }

    /// What it speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// It has shown a token, or needn't.
    pub fn is_trusted(&self) -> bool {
        !matches!(self.trust, Trust::None)
    }

    /// The token that has to be looked up before a request is answered, since it is shown there, or since
    /// it was shown before and may count no more: [`Session::learn`] takes what is found.
    pub fn shows(&self, request: &Request) -> Option<Shown> {
        let name = request.words.first()?;
        let comes_in = name.eq_ignore_ascii_case(b"auth") || name.eq_ignore_ascii_case(b"hello");
        let shown = comes_in.then(|| request.words.iter().find_map(|it| Shown::parse(it)));
        match (shown.flatten(), &self.trust) {
            (Some(shown), _) => Some(shown),
            (None, Trust::Token(shown, _, at)) if FRESH <= at.elapsed() => Some(*shown),
            _ => None,
        }
    }

    /// What was found of a token.
    pub fn learn(&mut self, shown: Shown, found: Result<Arc<Token>, Denied>) {
        if let Trust::Token(own, token, at) = &mut self.trust
            && *own == shown
        {
            self.unsure = matches!(found, Err(Denied::Away(_)));
            match &found {
                Ok(it) => (*token, *at) = (it.clone(), Instant::now()),
                Err(Denied::Away(_)) => {}
                Err(Denied::Wrong | Denied::Expired | Denied::Revoked) => {
                    // nothing of it is left, not even half a transaction
                    (self.trust, self.transaction) = (Trust::None, None);
                }
            }
        }
        self.learnt = Some((shown, found));
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
        match self.is_trusted() {
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
                        "WRONGPASS this isn't a token of the API either; goodbye",
                    ));
                }
                said
            }
            _ if !self.is_trusted() => {
                Err("NOAUTH this port wants a token of the API: AUTH TOKEN".to_owned())
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
                match checked.and_then(|()| self.push(name, request)) {
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
            ("command", []) => Ok(commands::all()),
            ("command", [sub, rest @ ..]) => commands::asked(&sub.to_ascii_lowercase(), rest),
            ("info", _) => Ok(commands::info()),
            ("auth" | "hello", _) => Err(format!(
                "ERR {} has no place in a transaction",
                name.to_ascii_uppercase()
            )),
            ("ping", _) => Err(commands::few("ping")),
            _ => {
                let all = commands::names();
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
            [token] if access.is_open() && Shown::parse(token).is_none() => Err(
                "ERR AUTH called, and no token is set here ([api] token): nobody has to show one"
                    .to_owned(),
            ),
            [token] | [_, token] => self.show(token, access).map(|()| Reply::Simple("OK")),
            _ => Err("ERR syntax error: AUTH TOKEN, or AUTH USER TOKEN".to_owned()),
        }
    }

    /// Whatever user is named: the token says all.
    fn show(&mut self, said: &[u8], access: &Access) -> Result<(), String> {
        let learnt = self.learnt.take();
        let denied = match Shown::parse(said) {
            _ if access.is_token(said) => {
                self.trust = Trust::All;
                return Ok(());
            }
            None if access.is_open() => return Ok(()),
            None => Denied::Wrong,
            Some(shown) => match learnt.filter(|it| it.0 == shown) {
                Some((_, Ok(token))) => {
                    (self.trust, self.unsure) = (Trust::Token(shown, token, Instant::now()), false);
                    return Ok(());
                }
                Some((_, Err(denied))) => denied,
                None => Denied::Wrong,
            },
        };
        self.wrong += u32::from(!matches!(denied, Denied::Away(_)));
        Err(match denied {
            Denied::Wrong => "WRONGPASS this isn't a token of the API",
            Denied::Expired => "WRONGPASS this token's time is over",
            Denied::Revoked => "WRONGPASS this token was revoked",
            Denied::Away(_) => AWAY,
        }
        .to_owned())
    }

    /// What an RPUSH brings, if the token may make jobs there.
    fn push(&self, name: &str, request: Request) -> Result<Push, String> {
        let push = push(name, request)?;
        let Some(token) = self.trust.token() else {
            return Ok(push);
        };
        if !token.grant.may(Asked::Making) {
            let needs = Asked::Making;
            return Err(format!(
                "NOPERM this token may not make jobs: it would need the scope `{needs}`"
            ));
        }
        if self.unsure {
            return Err(AWAY.to_owned());
        }
        let own = &token.grant.tenant;
        match (&push.tenant, own) {
            (Some(other), Some(own)) if other != own => Err(format!(
                "NOPERM this token makes jobs of `{own}` only: RPUSH {INBOX} ENVELOPE"
            )),
            _ => Ok(Push {
                tenant: push.tenant.or_else(|| own.clone()),
                by: Some(token.clone()),
                ..push
            }),
        }
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
                    return Err(
                        "NOPROTO unsupported protocol version; there are 2 and 3".to_owned()
                    );
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
        if !self.is_trusted() {
            return Err(
                "NOAUTH this port wants a token of the API: HELLO 3 AUTH default TOKEN, or AUTH TOKEN before"
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

fn error(text: &str) -> Reply {
    Reply::Error(text.to_owned())
}

fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_MAX)]);
    redact::text(&text).escape_debug().to_string()
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
    commands::check(name, request.words.len())
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
        by: None,
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

#[cfg(test)]
mod tests;
