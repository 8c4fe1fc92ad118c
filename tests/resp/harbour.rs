//! A port over a real ledger, and a client that says exactly what it is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use presswork::api::Serving;
use presswork::api::keyring::Keyring;
use presswork::resp::{Limits, Tokens, serve_within};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::site::{SOON, Site, Wishes};

/// A port that listens; its site's API listens beside it.
pub struct Harbour {
    pub site: Site,
    pub addr: SocketAddr,
    pub stop: CancellationToken,
    pub task: tokio::task::JoinHandle<()>,
}

/// The configured token, and the ledger's.
pub fn tokens(site: &Site, token: Option<&str>) -> Tokens {
    let keyring = Keyring::new(site.ledger.clone());
    (token.map(Into::into), Arc::new(keyring))
}

impl Harbour {
    pub async fn new(limits: Limits, wishes: Wishes) -> Self {
        let token = wishes.token;
        let site = Site::new(wishes).await;
        let stop = CancellationToken::new();
        let listen = "127.0.0.1:0".parse().expect("an address");
        let (tokens, doors) = (tokens(&site, token), site.doors.clone());
        let serving = serve_within(limits, listen, tokens, doors, stop.clone()).await;
        let Serving { addr, task } = serving.expect("it listens");
        Self {
            site,
            addr,
            stop,
            task,
        }
    }

    pub async fn limited(limits: Limits) -> Self {
        Self::new(limits, Wishes::default()).await
    }

    pub async fn usual() -> Self {
        Self::limited(Limits::default()).await
    }

    pub async fn connect(&self) -> Client {
        Client::connect(self.addr).await
    }

    /// Whether there is a job of this key.
    pub async fn has(&self, tenant: &str, key: &str) -> bool {
        let found = self.site.ledger.job_of_key(tenant, "test.echo", key).await;
        found.expect("the ledger answers").is_some()
    }
}

/// An envelope that is fine.
pub fn envelope(key: &str, text: &str) -> String {
    json!({"kind": "test.echo", "key": key, "payload": {"text": text}}).to_string()
}

/// Words as clients send them.
pub fn wire(words: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len());
    for it in words {
        out.push_str(&format!("${}\r\n{it}\r\n", it.len()));
    }
    out.into_bytes()
}

/// A connection.
pub struct Client {
    pub stream: TcpStream,
    seen: Vec<u8>,
}

impl Client {
    pub async fn connect(addr: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(addr).await.expect("connects"),
            seen: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // a server that has said its word may close before it has read everything
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next answer: errors as `{"error": ...}`. `None` when the server closes without one.
    pub async fn hear(&mut self) -> Option<Value> {
        let hearing = async {
            loop {
                if let Some((value, length)) = parse(&self.seen) {
                    self.seen.drain(..length);
                    return Some(value);
                }
                match self.stream.read_buf(&mut self.seen).await {
                    Ok(n) if 0 < n => {}
                    _ => return None,
                }
            }
        };
        let heard = tokio::time::timeout(SOON, hearing).await;
        heard.expect("an answer in time")
    }

    pub async fn say(&mut self, words: &[&str]) -> Value {
        self.send(&wire(words)).await;
        self.hear().await.expect("an answer")
    }

    /// The error that these words lead to.
    pub async fn wrong(&mut self, words: &[&str]) -> String {
        error(&self.say(words).await)
    }

    /// Waits until the server closes; what it said before.
    pub async fn closed(&mut self) -> Vec<Value> {
        let mut said = Vec::new();
        while let Some(it) = self.hear().await {
            said.push(it);
        }
        said
    }
}

pub fn error(answer: &Value) -> String {
    let text = answer["error"].as_str();
    text.unwrap_or_else(|| panic!("no error: {answer}"))
        .to_owned()
}

fn parse(bytes: &[u8]) -> Option<(Value, usize)> {
    let end = bytes.windows(2).position(|it| it == b"\r\n")?;
    let line = std::str::from_utf8(&bytes[1..end]).expect("a line is text");
    let number = || {
        line.parse::<i64>()
            .unwrap_or_else(|e| panic!("{e}: {line}"))
    };
    let mut at = end + 2;
    let value = match bytes[0] {
        b'+' => line.into(),
        b'-' => json!({"error": line}),
        b':' => number().into(),
        b'_' => Value::Null,
        b'$' if line == "-1" => Value::Null,
        b'$' => {
            let length = usize::try_from(number()).expect("a length");
            let text = bytes.get(at..at + length)?;
            bytes.get(at + length..at + length + 2)?;
            at += length + 2;
            String::from_utf8_lossy(text).into_owned().into()
        }
        sign @ (b'*' | b'%') => {
            let count = usize::try_from(number()).expect("a count");
            let mut all = Vec::new();
            for _ in 0..count * if sign == b'%' { 2 } else { 1 } {
                let (value, length) = parse(&bytes[at..]).filter(|_| at < bytes.len())?;
                at += length;
                all.push(value);
            }
            match sign {
                b'*' => all.into(),
                _ => {
                    let name = |it: &Value| it.as_str().expect("a name").to_owned();
                    let pairs = all.chunks(2).map(|it| (name(&it[0]), it[1].clone()));
                    pairs.collect::<Map<_, _>>().into()
                }
            }
        }
        other => panic!("no RESP: {}", char::from(other)),
    };
    Some((value, at))
}

/// Long enough for what comes at once, short enough to wait for what doesn't.
pub const SHORT: Duration = Duration::from_millis(200);
