//! A connection: read what is there, answer it in order, and hold little of what isn't read or whole.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout};

use super::answers;
use super::port::Port;
use super::reply::{Protocol, Reply};
use super::session::{Session, Step};
use super::wire::Parser;
use crate::api::keyring::Denied;
use crate::job::envelope::ENVELOPE_MAX;
use crate::token::{Shown, Token};

/// What is read at once.
const READ: usize = 16 << 10;
/// What may be held of what isn't whole without a place among the large ones: an envelope, its
/// command, and what was read behind it.
const LIGHT: usize = 2 * ENVELOPE_MAX;
/// What is still taken of a client that was told goodbye, so that it gets to read why: closing while
/// it sends would reset the connection under the answer.
const LINGER: (usize, Duration) = (1 << 20, Duration::from_secs(1));

/// Serves a client until one of both has enough.
pub async fn serve(stream: TcpStream, number: u64, port: &Port) {
    // only a matter of speed
    let _ = stream.set_nodelay(true);
    let mut link = Link::new(stream, number, port);
    let late = async {
        port.stop.cancelled().await;
        tokio::time::sleep(port.limits.stop).await;
    };
    let ended = tokio::select! {
        ended = link.converse() => ended,
        () = late => Ok("what didn't end was cut off"),
    };
    match ended {
        Ok(why) => tracing::debug!("resp: a connection ended: {why}"),
        Err(e) => tracing::debug!("resp: a connection broke off: {e}"),
    }
}

/// Since when something goes on.
struct Since {
    born: Instant,
    heard: Instant,
    /// A command or a transaction isn't whole.
    midway: Option<Instant>,
    /// Answers wait to be read.
    unread: Option<Instant>,
}

struct Link<'a> {
    port: &'a Port,
    stream: TcpStream,
    parser: Parser,
    session: Session,
    /// Answers, and how much of them was written.
    out: Vec<u8>,
    written: usize,
    since: Since,
    /// The client says nothing more.
    heard_all: bool,
    /// Why it ends, once the answers are written.
    ends: Option<&'static str>,
    place: Option<SemaphorePermit<'a>>,
}

impl<'a> Link<'a> {
    fn new(stream: TcpStream, number: u64, port: &'a Port) -> Self {
        let now = Instant::now();
        Self {
            port,
            stream,
            parser: Parser::default(),
            session: Session::new(number, port.access.is_open()),
            out: Vec::new(),
            written: 0,
            since: Since {
                born: now,
                heard: now,
                midway: None,
                unread: None,
            },
            heard_all: false,
            ends: None,
            place: None,
        }
    }

    /// Reads and answers; why it ended.
    async fn converse(&mut self) -> io::Result<&'static str> {
        loop {
            while self.ends.is_none() && self.unread() < self.port.limits.unread {
                let steps = self.steps().await;
                if steps.is_empty() {
                    break;
                }
                self.act(steps).await;
                self.flush()?;
            }
            self.flush()?;
            if self.heard_all && self.unread() < self.port.limits.unread {
                self.ends.get_or_insert("the client has ended it");
            }
            if let (Some(why), 0) = (self.ends, self.unread()) {
                self.linger().await;
                return Ok(why);
            }
            self.go_on().await?;
        }
    }

    fn unread(&self) -> usize {
        self.out.len() - self.written
    }

    /// What the requests that are there lead to, as many as are read ahead.
    async fn steps(&mut self) -> Vec<(Protocol, Step)> {
        let (most, most_bytes) = self.port.limits.ahead;
        let (mut steps, mut bytes) = (Vec::new(), 0);
        while steps.len() < most && bytes < most_bytes {
            let step = match self.parser.next(self.session.bounds()) {
                Ok(None) => break,
                Ok(Some(request)) => {
                    bytes += request.bytes;
                    if let Some(shown) = self.session.shows(&request) {
                        self.session.learn(shown, look_up(self.port, &shown).await);
                    }
                    self.session.step(request, &self.port.access)
                }
                Err(broken) => Step::End(Reply::Error(format!("ERR {broken}"))),
            };
            let ends = matches!(step, Step::End(_));
            steps.push((self.session.protocol(), step));
            if ends {
                break;
            }
        }
        let midway = self.parser.is_midway() || self.session.is_midway();
        self.since.midway = match (midway, self.since.midway) {
            (false, _) => None,
            // another one has begun since
            (true, Some(since)) if steps.is_empty() || self.session.is_midway() => Some(since),
            (true, _) => Some(Instant::now()),
        };
        steps
    }

    /// Answers in order. Neighbours of a kind go to the ledger together, so that they share a commit.
    async fn act(&mut self, steps: Vec<(Protocol, Step)>) {
        let mut rest = steps.as_slice();
        while let Some((_, first)) = rest.first() {
            let kind = kind(first);
            let alike = rest.iter().take_while(|it| self::kind(&it.1) == kind);
            let (now, later) = rest.split_at(alike.count());
            let limit = self.port.limits.answer;
            let answered = join_all(now.iter().map(|(_, step)| answer(self.port, step)));
            match timeout(limit, answered).await {
                Ok(replies) => {
                    for ((protocol, _), (reply, ends)) in now.iter().zip(replies) {
                        reply.write(*protocol, &mut self.out);
                        self.ends = self.ends.or(ends);
                    }
                }
                Err(_) => {
                    for (protocol, _) in now {
                        answers::late(limit.as_secs_f32()).write(*protocol, &mut self.out);
                    }
                }
            }
            rest = later;
        }
    }

    /// Writes what the client takes at once.
    fn flush(&mut self) -> io::Result<()> {
        while self.written < self.out.len() {
            match self.stream.try_write(&self.out[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.written += n;
                    self.since.unread = Some(Instant::now());
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.since.unread.get_or_insert_with(Instant::now);
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
        // what a large answer needed isn't kept
        self.out.clear();
        self.out.shrink_to(READ);
        self.written = 0;
        self.since.unread = None;
        Ok(())
    }

    /// Waits until something can be read or written, or it is time to end.
    async fn go_on(&mut self) -> io::Result<()> {
        let heavy = LIGHT < self.parser.held() + self.session.held();
        if !heavy {
            self.place = None;
        }
        let (deadline, why) = self.deadline();
        let port = self.port;
        let reads = !self.heard_all && self.ends.is_none() && self.unread() < port.limits.unread;
        let wants_place = heavy && self.place.is_none();
        tokio::select! {
            biased;
            () = port.stop.cancelled(), if self.ends.is_none() => {
                self.ends = Some("the server stops");
            }
            () = tokio::time::sleep_until(deadline) => return Err(io::Error::new(ErrorKind::TimedOut, why)),
            ready = self.stream.writable(), if 0 < self.unread() => ready?,
            place = port.large.acquire(), if reads && wants_place => self.place = place.ok(),
            ready = self.stream.readable(), if reads && !wants_place => {
                ready?;
                self.read()?;
            }
        }
        Ok(())
    }

    /// When it has been waited enough, and for what.
    fn deadline(&self) -> (Instant, &'static str) {
        let (limits, since) = (&self.port.limits, &self.since);
        let all = [
            (!self.session.is_trusted()).then(|| (since.born + limits.auth, "no token was shown")),
            // while its answers pile up nothing more is read: then it isn't the client that is late
            since
                .midway
                .filter(|_| self.unread() < limits.unread)
                .map(|it| {
                    (
                        it + limits.command,
                        "a command or a transaction wasn't ended",
                    )
                }),
            since
                .unread
                .map(|it| (it + limits.write, "the answers weren't read")),
        ];
        let idle = (since.heard + limits.idle, "nothing was said");
        all.into_iter()
            .flatten()
            .fold(idle, |a, b| if b.0 < a.0 { b } else { a })
    }

    /// Reads what is there, up to what may be held.
    fn read(&mut self) -> io::Result<()> {
        for _ in 0..LIGHT / READ {
            let buffer = self.parser.buffer();
            buffer.reserve(READ);
            match self.stream.try_read_buf(buffer) {
                Ok(0) => {
                    // maybe only half: what was said before is answered
                    self.heard_all = true;
                    break;
                }
                Ok(_) => self.since.heard = Instant::now(),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Lets the client read its last answer before the connection goes.
    async fn linger(&mut self) {
        let (most, within) = LINGER;
        let stream = &mut self.stream;
        let taken = async {
            if stream.shutdown().await.is_err() {
                return;
            }
            let (mut taken, mut chunk) = (0, [0; 1024]);
            while taken < most && stream.readable().await.is_ok() {
                match stream.try_read(&mut chunk) {
                    Ok(0) => return,
                    Ok(n) => taken += n,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        };
        // past that the client has had its chance
        let _ = timeout(within, taken).await;
    }
}

/// The token that is shown, if it counts.
async fn look_up(port: &Port, shown: &Shown) -> Result<Arc<Token>, Denied> {
    let found = timeout(port.limits.answer, port.access.token(shown)).await;
    found.unwrap_or_else(|_| Err(Denied::Away("no answer in time".to_owned())))
}

/// What may go to the ledger together.
#[derive(PartialEq)]
enum Kind {
    Said,
    One,
    Several,
}

fn kind(step: &Step) -> Kind {
    match step {
        Step::Say(_) | Step::End(_) => Kind::Said,
        Step::Take(push) if push.envelopes.len() == 1 => Kind::One,
        Step::Take(_) | Step::Together(_) => Kind::Several,
    }
}

/// The answer; why the connection ends with it, if it does.
async fn answer(port: &Port, step: &Step) -> (Reply, Option<&'static str>) {
    let stops = |(reply, stops): (Reply, bool)| (reply, stops.then_some("the daemon stops"));
    match step {
        Step::Say(reply) => (reply.clone(), None),
        Step::End(reply) => (reply.clone(), Some("it was told goodbye")),
        Step::Take(push) => stops(answers::take(&port.doors, push).await),
        Step::Together(queued) => stops(answers::together(&port.doors, queued).await),
    }
}
