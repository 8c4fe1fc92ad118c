//! Call-backs of simulated platforms: signed as Standard Webhooks has it, and sent as the settings ask, to
//! this machine only.

use std::{sync::Mutex, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::Utc;
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::Sha256;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use url::{Host, Url};

use super::{acts::held, settings::Hook};

/// How long a call-back may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// A call-back that isn't taken is sent again so often, so long after.
const TRIES: u32 = 5;
const AGAIN: Duration = Duration::from_millis(500);

/// Where call-backs go, and what they are signed with.
pub(super) struct Letter {
    url: Url,
    secret: String,
}

/// A call-back that was sent.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sent {
    /// Its `webhook-id`.
    id: String,
    /// `response.completed`
    event: String,
    /// The response.
    about: String,
    /// How it was answered; 0: not at all.
    status: u16,
}

impl Letter {
    /// What is asked for; nothing where nobody receives it.
    pub(super) fn of(url: Option<&str>, secret: Option<&String>, plan: Hook) -> Option<Letter> {
        let (url, secret) = (Url::parse(url?).ok()?, secret?.clone());
        (plan != Hook::Never).then_some(Letter { url, secret })
    }

    /// Sends a call-back: what happened, about what, and in which words.
    pub(super) async fn post(
        &self,
        (event, about): (&str, &str),
        body: &str,
        plan: Hook,
        sent: &Mutex<Vec<Sent>>,
    ) {
        let id = format!("wh_{}", uuid::Uuid::new_v4().simple());
        let times = if plan == Hook::Twice { 2 } else { 1 };
        for _ in 0..times {
            for attempt in 1..=TRIES {
                let told = tokio::time::timeout(PATIENCE, self.send(&id, body, plan)).await;
                let answered = told.ok().and_then(Result::ok).unwrap_or(0);
                held(sent).push(Sent {
                    id: id.clone(),
                    event: event.to_owned(),
                    about: about.to_owned(),
                    status: answered,
                });
                if (200..300).contains(&answered) || attempt == TRIES || plan == Hook::Forged {
                    break;
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    pub(super) fn signature(&self, id: &str, at: i64, body: &str) -> String {
        let key = self.secret.strip_prefix("whsec_").unwrap_or(&self.secret);
        let key = STANDARD.decode(key).unwrap_or_default();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{at}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }

    /// One POST by hand; its status.
    async fn send(&self, id: &str, body: &str, plan: Hook) -> std::io::Result<u16> {
        // the receiver compares it with a real clock, not with the sandbox's
        let at = Utc::now().timestamp();
        let signature = match plan {
            Hook::Forged => self.signature(id, at, "something else"),
            _ => self.signature(id, at, body),
        };
        let port = self.url.port_or_known_default().unwrap_or(80);
        let host = match self.url.host() {
            Some(Host::Ipv4(ip)) if ip.is_loopback() => ip.to_string(),
            Some(Host::Ipv6(ip)) if ip.is_loopback() => ip.to_string(),
            Some(Host::Domain("localhost")) => "127.0.0.1".to_owned(),
            // the sandbox never calls anything outside
            _ => return Err(std::io::Error::other("not on this machine")),
        };
        let mut stream = TcpStream::connect((host, port)).await?;
        let path = self.url.path();
        let authority = &self.url[url::Position::BeforeHost..url::Position::AfterPort];
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: presswork-sandbox\r\n\
             Content-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\
             webhook-id: {id}\r\nwebhook-timestamp: {at}\r\nwebhook-signature: {signature}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).and_then(|it| it.parse().ok());
        status.ok_or_else(|| std::io::Error::other("no HTTP status"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_official_example_is_signed_alike() {
        let letter = Letter {
            url: Url::parse("http://127.0.0.1/").expect("a URL"),
            secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into(),
        };
        let signed = letter.signature(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[tokio::test]
    async fn nothing_outside_is_called() {
        let letter = Letter {
            url: Url::parse("http://example.com/hook").expect("a URL"),
            secret: String::new(),
        };
        let told = letter.send("wh_1", "{}", Hook::Once).await;
        assert!(told.is_err_and(|it| it.to_string() == "not on this machine"));
    }
}
