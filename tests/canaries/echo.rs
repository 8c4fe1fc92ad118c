//! A platform that talks too much: whatever it is sent, and secrets of its own, come back in errors,
//! codes, pages, redirects and successes that can't be read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How an answer tells what it tells.
pub const MODES: usize = 6;
/// What comes back of a request's own token, beside the texts: see [`told`].
pub const FORMS: usize = 6;

/// The server; it ends with the runtime of its test.
pub struct Echo {
    pub url: String,
    /// Answers that told something.
    pub told: Arc<AtomicUsize>,
}

impl Echo {
    /// Tells one of `texts`, or a form of the request's token, by the number in the request's text
    /// (`item-12-3` is number 12 in mode 3). Sessions are opened with `session` for their tokens.
    pub async fn start(texts: Vec<String>, session: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let told = Arc::new(AtomicUsize::new(0));
        let (texts, count) = (Arc::new((texts, session)), told.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (texts, count) = (texts.clone(), count.clone());
                tokio::spawn(async move {
                    // a client that goes away ends its own connection only
                    let _ = serve(stream, &texts.0, &texts.1, &count).await;
                });
            }
        });
        Self { url, told }
    }
}

async fn serve(
    mut stream: TcpStream,
    texts: &[String],
    session: &str,
    count: &AtomicUsize,
) -> std::io::Result<()> {
    let asked = request(&mut stream).await?;
    let (head, body) = asked.split_once("\r\n\r\n").unwrap_or((&asked, ""));
    let path = head.split(' ').nth(1).unwrap_or_default();
    let token = head
        .lines()
        .find_map(|it| it.strip_prefix("authorization: Bearer "));
    let answer = if path.ends_with("createSession") {
        let opened = json!({
            "accessJwt": format!("{session}access"), "refreshJwt": format!("{session}refresh"),
            "handle": "bella.test", "did": "did:plc:bella",
        });
        answer("200 OK", "", &opened.to_string())
    } else if path.ends_with("/instance") {
        answer("200 OK", "", "{}")
    } else {
        let (item, mode) = number(&asked).unwrap_or((0, 0));
        let text = match texts.get(item) {
            Some(text) => text.clone(),
            None => told(item - texts.len(), token.unwrap_or_default(), body),
        };
        count.fetch_add(1, Ordering::SeqCst);
        chatty(mode, &text)
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// One request, whole.
async fn request(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        let read = stream.read(&mut part).await?;
        bytes.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            if read == 0 {
                return Ok(text);
            }
            continue;
        };
        let length = head.lines().find_map(|it| {
            let (name, value) = it.split_once(':')?;
            let named = name.eq_ignore_ascii_case("content-length");
            named.then(|| value.trim().parse::<usize>().ok())?
        });
        if read == 0 || length.unwrap_or(0) <= body.len() {
            return Ok(text);
        }
    }
}

fn number(asked: &str) -> Option<(usize, usize)> {
    let mut parts = asked
        .split("item-")
        .nth(1)?
        .split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The token that was sent, in one of the forms in which servers repeat it.
fn told(form: usize, token: &str, body: &str) -> String {
    let encoded: String = url::form_urlencoded::byte_serialize(token.as_bytes()).collect();
    match form {
        0 => token.to_owned(),
        1 => format!("seen {encoded} here"),
        2 => STANDARD.encode(format!("me:{token}")),
        3 => json!({"you_sent": token}).to_string(),
        4 => token.bytes().map(|it| format!("{it:02x}")).collect(),
        _ => format!("{token} with {body}"),
    }
}

fn chatty(mode: usize, text: &str) -> String {
    // all three platforms read this form of an error
    let error = |code: &str, said: &str| -> Value {
        json!({"error": {"message": said, "type": code, "code": code}, "message": said})
    };
    match mode {
        0 => answer("400 Bad Request", "", &error("bad", text).to_string()),
        // Bluesky's word for programs, and Mastodon's for people
        1 => answer(
            "422 Unprocessable",
            "",
            &json!({"error": text, "message": text}).to_string(),
        ),
        2 => answer("400 Bad Request", "", &error(text, "no").to_string()),
        3 => answer(
            "403 Forbidden",
            "x-you-sent: all\r\n",
            &format!("<html>{text}</html>"),
        ),
        4 => {
            let line: String = text.chars().filter(|it| !it.is_control()).collect();
            let head = format!("location: /elsewhere?{line}\r\nset-cookie: {line}\r\n");
            answer("302 Found", &head, text)
        }
        // a success that can't be read: what doesn't fit is quoted by whoever reads it
        _ => answer(
            "200 OK",
            "",
            &json!({"id": [text], "uri": {"a": text}, "choices": text}).to_string(),
        ),
    }
}

fn answer(status: &str, head: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{head}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
