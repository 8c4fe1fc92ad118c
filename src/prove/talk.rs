//! How producers speak: HTTP and RESP by hand. Whoever asks the daemons must not lean on the code that
//! they are made of.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// How long an answer may take: a daemon may be stopped, or wait for a ledger that is down.
const ANSWERED: Duration = Duration::from_secs(10);
/// Bytes of an answer at most.
const ANSWER_MAX: u64 = 64 << 20;

/// A request, and the answer's status and body.
///
/// # Errors
/// When there is no whole answer in time.
pub async fn http(
    to: SocketAddr,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> anyhow::Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(to).await?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
        parsed(&String::from_utf8_lossy(&answer))
    };
    let exchanged = tokio::time::timeout(ANSWERED, exchange).await;
    exchanged.with_context(|| format!("{to} doesn't answer"))?
}

/// A connection to an API that is kept for many requests.
pub struct Line {
    to: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Line {
    /// # Errors
    /// When nobody listens there.
    pub async fn open(to: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let stream = BufReader::new(stream);
        Ok(Self { to, stream })
    }

    /// A request with a JSON body, and the answer's status and body. After an error the connection is of
    /// no more use.
    ///
    /// # Errors
    /// When there is no whole answer in time.
    pub async fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> anyhow::Result<(u16, String)> {
        let to = self.to;
        let exchanged = tokio::time::timeout(ANSWERED, self.exchange(method, path, body)).await;
        exchanged.with_context(|| format!("{to} doesn't answer"))?
    }

    async fn exchange(
        &mut self,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> anyhow::Result<(u16, String)> {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            self.to,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.stream.write_all(&request).await?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = self.stream.read_line(&mut head).await?;
            ensure!(0 < read, "half an answer");
        }
        let length = length(&head).context("an answer without its length")?;
        ensure!(length as u64 <= ANSWER_MAX, "an answer of {length} bytes");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        let status = status(&head).context("no HTTP answer")?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

fn status(head: &str) -> Option<u16> {
    head.split(' ').nth(1)?.parse().ok()
}

fn length(head: &str) -> Option<usize> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse().ok())?
    })
}

/// Status and body of an answer, which must be whole.
fn parsed(answer: &str) -> anyhow::Result<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n").context("half an answer")?;
    if length(head).is_some_and(|it| body.len() < it) {
        bail!("half an answer");
    }
    Ok((status(head).context("no HTTP answer")?, body.to_owned()))
}

/// A command to a Redis, and the first line of its answer.
///
/// # Errors
/// When there is no answer in time, or it is an error.
pub async fn redis(port: u16, words: &[&[u8]]) -> anyhow::Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let mut ask = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            ask.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            ask.extend_from_slice(word);
            ask.extend_from_slice(b"\r\n");
        }
        stream.write_all(&ask).await?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await?;
        match line.trim_end() {
            line if line.starts_with([':', '+', '*']) => Ok(line.to_owned()),
            "" => bail!("Redis doesn't answer"),
            line => bail!("Redis: {line}"),
        }
    };
    let exchanged = tokio::time::timeout(ANSWERED, exchange).await;
    exchanged.context("Redis doesn't answer")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_answer_is_none() {
        let whole = "HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(parsed(whole).unwrap(), (201, "{}".to_owned()));
        assert!(parsed(&whole[..whole.len() - 1]).is_err());
        assert!(parsed("HTTP/1.1 201").is_err());
        assert!(parsed("").is_err());
    }
}
