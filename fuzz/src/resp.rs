//! The Redis port: whatever bytes come, and however they are cut, they lead to the same answers, which
//! are RESP themselves, hold no more than they may, and tell no token.

use std::sync::LazyLock;

use presswork::api::guard::Access;
use presswork::job::envelope::ENVELOPE_MAX;
use presswork::resp::reply::{Protocol, Reply};
use presswork::resp::session::{KNOWN, Queued, Session, Step, TRANSACTION_MAX};
use presswork::resp::wire::{Broken, Parser};

const TOKEN: &str = "c4n4ry7d1ec4n4ry7d1e";
/// An open port, and one that wants the token.
static ACCESSES: LazyLock<[Access; 2]> = LazyLock::new(|| {
    let listen = "127.0.0.1:6380".parse().expect("an address");
    let access = |token| Access::new(listen, token).expect("it is on loopback");
    [access(None), access(Some(&TOKEN.into()))]
});

/// What the bytes lead to, up to where they can't be read.
#[derive(Debug, PartialEq)]
struct Talk {
    steps: Vec<(Protocol, Step)>,
    broken: Option<Broken>,
}

/// Panics unless it all holds. The first byte says whether the token is wanted, and how the rest is cut.
pub fn holds(bytes: &[u8]) {
    let [how, rest @ ..] = bytes else {
        return;
    };
    let access = &ACCESSES[usize::from(how & 1)];
    let whole = talk(access, rest, rest.len().max(1));
    let cut = talk(access, rest, usize::from(how >> 1) % 64 + 1);
    assert_eq!(whole, cut);
    // the name of a command is told back in small letters
    let shows = |it: &[u8]| it.eq_ignore_ascii_case(TOKEN.as_bytes());
    let secret = !rest.windows(TOKEN.len()).any(shows);
    for (protocol, step) in &whole.steps {
        let reply = match step {
            Step::Say(reply) | Step::End(reply) => reply,
            Step::Take(push) => {
                assert!((1..=KNOWN.words).contains(&push.envelopes.len()));
                assert!(
                    push.envelopes
                        .iter()
                        .all(|it| it.len() <= ENVELOPE_MAX.max(KNOWN.inline))
                );
                assert!(access.is_open() || !secret, "nobody has shown the token");
                continue;
            }
            Step::Together(queued) => {
                assert!(queued.len() <= TRANSACTION_MAX);
                let said = queued.iter().filter_map(|it| match it {
                    Queued::Say(reply) => Some(reply.clone()),
                    Queued::Take(_) => None,
                });
                well_formed(&Reply::Array(said.collect()), *protocol, secret);
                continue;
            }
        };
        well_formed(reply, *protocol, secret);
    }
}

fn talk(access: &Access, bytes: &[u8], at_once: usize) -> Talk {
    let (mut parser, mut session) = (Parser::default(), Session::new(1, access.is_open()));
    let mut talk = Talk {
        steps: Vec::new(),
        broken: None,
    };
    for piece in bytes.chunks(at_once) {
        parser.buffer().extend_from_slice(piece);
        loop {
            assert!(parser.held() <= bytes.len() && session.held() <= bytes.len());
            match parser.next(session.bounds()) {
                Ok(None) => break,
                Ok(Some(request)) => {
                    let step = session.step(request, access);
                    let ends = matches!(step, Step::End(_));
                    talk.steps.push((session.protocol(), step));
                    if ends {
                        return talk;
                    }
                }
                Err(broken) => {
                    talk.broken = Some(broken);
                    return talk;
                }
            }
        }
    }
    talk
}

fn well_formed(reply: &Reply, protocol: Protocol, secret: bool) {
    let mut out = Vec::new();
    reply.write(protocol, &mut out);
    assert_eq!(read(&out), Some(out.len()), "{}", out.escape_ascii());
    let tells = out.windows(TOKEN.len()).any(|it| it == TOKEN.as_bytes());
    assert!(!(secret && tells));
}

/// The length of the answer that the bytes begin with.
fn read(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(2).position(|it| it == b"\r\n")?;
    let line = std::str::from_utf8(&bytes[1..end]).ok()?;
    assert!(!line.contains(['\r', '\n']));
    let mut at = end + 2;
    let count = match bytes[0] {
        b'+' | b'-' | b'_' => return Some(at),
        b':' => return line.parse::<i64>().ok().map(|_| at),
        b'$' if line == "-1" => return Some(at),
        b'$' => {
            let length: usize = line.parse().ok()?;
            let after = bytes.get(at + length..at + length + 2)?;
            return (after == b"\r\n").then_some(at + length + 2);
        }
        b'*' => line.parse().ok()?,
        b'%' => line.parse::<usize>().ok()? * 2,
        _ => return None,
    };
    for _ in 0..count {
        at += read(bytes.get(at..).filter(|it| !it.is_empty())?)?;
    }
    Some(at)
}
