//! A signer of the tests' own: requests to the simulated S3, by signed headers and presigned URLs.

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Method, StatusCode, header::HeaderMap};
use sha2::{Digest, Sha256};

use crate::bench::Bench;

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

pub fn coded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    let code = |b: u8| match plain(b) {
        true => char::from(b).to_string(),
        false => format!("%{b:02X}"),
    };
    text.bytes().map(code).collect()
}

/// A request that is to be signed.
pub struct Ask<'a> {
    pub method: Method,
    /// `bucket/key`, not encoded.
    pub place: &'a str,
    pub query: Vec<(&'a str, &'a str)>,
    pub headers: Vec<(&'a str, String)>,
    pub body: Vec<u8>,
    pub key: &'a str,
    pub secret: &'a str,
    pub at: DateTime<Utc>,
}

/// What came back.
pub struct Told {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Told {
    pub fn code(&self) -> &str {
        inner(&self.body, "Code")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |it| it.to_str().expect("text"))
    }
}

/// The text of the first element of that name.
pub fn inner<'a>(xml: &'a str, name: &str) -> &'a str {
    let rest = xml
        .split_once(&format!("<{name}>"))
        .map_or("", |(_, rest)| rest);
    rest.split_once(&format!("</{name}>"))
        .map_or("", |(text, _)| text)
}

impl<'a> Ask<'a> {
    pub fn new(method: Method, place: &'a str) -> Ask<'a> {
        Ask {
            method,
            place,
            query: vec![],
            headers: vec![],
            body: vec![],
            key: "alice",
            secret: "sandbox-alice",
            at: Utc::now(),
        }
    }

    pub fn put(place: &'a str, body: impl Into<Vec<u8>>) -> Ask<'a> {
        Ask {
            body: body.into(),
            ..Ask::new(Method::PUT, place)
        }
    }

    pub fn get(place: &'a str) -> Ask<'a> {
        Ask::new(Method::GET, place)
    }

    pub fn with(mut self, name: &'a str, value: impl ToString) -> Ask<'a> {
        self.headers.push((name, value.to_string()));
        self
    }

    pub fn query(mut self, name: &'a str, value: &'a str) -> Ask<'a> {
        self.query.push((name, value));
        self
    }

    fn path(&self) -> String {
        let parts: Vec<String> = self.place.split('/').map(coded).collect();
        format!("/s3/{}", parts.join("/"))
    }

    pub fn signature(
        &self,
        host: &str,
        extra: &[(String, String)],
        payload: &str,
    ) -> (String, String) {
        let stamp = self.at.format("%Y%m%dT%H%M%SZ").to_string();
        let scope = format!("{}/auto/s3/aws4_request", self.at.format("%Y%m%d"));
        let mut query: Vec<(String, String)> = self
            .query
            .iter()
            .map(|(a, b)| (coded(a), coded(b)))
            .collect();
        query.extend(extra.iter().map(|(a, b)| (coded(a), coded(b))));
        query.sort();
        let query: Vec<String> = query.iter().map(|(a, b)| format!("{a}={b}")).collect();
        let mut headers = self.headers.clone();
        headers.push(("host", host.to_owned()));
        if extra.is_empty() {
            headers.push(("x-amz-content-sha256", payload.to_owned()));
            headers.push(("x-amz-date", stamp.clone()));
        }
        headers.sort();
        let lines: String = headers.iter().map(|(a, b)| format!("{a}:{b}\n")).collect();
        let names: Vec<&str> = headers.iter().map(|(a, _)| *a).collect();
        let names = names.join(";");
        let canonical = format!(
            "{}\n{}\n{}\n{lines}\n{names}\n{payload}",
            self.method,
            self.path(),
            query.join("&")
        );
        let digest = hex(&Sha256::digest(canonical));
        let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}");
        let mut key = format!("AWS4{}", self.secret).into_bytes();
        for step in scope.split('/') {
            key = mac(&key, step);
        }
        (names, hex(&mac(&key, &to_sign)))
    }

    pub fn request(&self, bench: &Bench, payload: &str) -> reqwest::RequestBuilder {
        let host = bench.sandbox.addr().to_string();
        let (names, signature) = self.signature(&host, &[], payload);
        let query: Vec<String> = self
            .query
            .iter()
            .map(|(a, b)| format!("{}={}", coded(a), coded(b)))
            .collect();
        let url = format!("http://{host}{}?{}", self.path(), query.join("&"));
        let scope = format!(
            "{}/{}/auto/s3/aws4_request",
            self.key,
            self.at.format("%Y%m%d")
        );
        let mut call = bench.client.request(self.method.clone(), url);
        for (name, value) in &self.headers {
            call = call.header(*name, value);
        }
        call.header("x-amz-content-sha256", payload)
            .header("x-amz-date", self.at.format("%Y%m%dT%H%M%SZ").to_string())
            .header("authorization", format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={names}, Signature={signature}"))
            .body(self.body.clone())
    }

    pub async fn send(self, bench: &Bench) -> Told {
        let payload = hex(&Sha256::digest(&self.body));
        told(self.request(bench, &payload)).await
    }

    pub fn presigned(&self, bench: &Bench, seconds: &str) -> String {
        let host = bench.sandbox.addr().to_string();
        let stamp = self.at.format("%Y%m%dT%H%M%SZ").to_string();
        let scope = format!(
            "{}/{}/auto/s3/aws4_request",
            self.key,
            self.at.format("%Y%m%d")
        );
        let extra: Vec<(String, String)> = [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", &scope),
            ("X-Amz-Date", &stamp),
            ("X-Amz-Expires", seconds),
            ("X-Amz-SignedHeaders", "host"),
        ]
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .to_vec();
        let (_, signature) = self.signature(&host, &extra, "UNSIGNED-PAYLOAD");
        let query: Vec<String> = extra
            .iter()
            .map(|(a, b)| format!("{a}={}", coded(b)))
            .collect();
        format!(
            "http://{host}{}?{}&X-Amz-Signature={signature}",
            self.path(),
            query.join("&")
        )
    }
}

pub async fn told(call: reqwest::RequestBuilder) -> Told {
    let answer = call.send().await.expect("an answer");
    Told {
        status: answer.status(),
        headers: answer.headers().clone(),
        body: answer.text().await.expect("text"),
    }
}

pub fn sum(bytes: &[u8]) -> String {
    STANDARD.encode(Sha256::digest(bytes))
}
