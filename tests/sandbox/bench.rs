//! A running sandbox with a client of it, and the calls that the tests share.

use std::{net::SocketAddr, path::Path, time::Duration};

use presswork::sandbox::{Options, Sandbox};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};

pub const PNG: &[u8] = b"\x89PNG\r\n\x1a\nnot much of a picture";
pub const TID: &str = "3jzfcijpj2z2a";

/// A running sandbox with a client of it.
pub struct Bench {
    pub sandbox: Sandbox,
    pub client: Client,
    pub dir: tempfile::TempDir,
}

pub async fn start(dir: &Path, seed: Option<u64>, fault_rate: f64) -> Sandbox {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    Sandbox::start(Options {
        listen,
        dir: dir.to_owned(),
        seed,
        fault_rate,
        requests: false,
    })
    .await
    .expect("starts")
}

impl Bench {
    pub async fn new() -> Bench {
        // Another test of this process may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().expect("a directory");
        let client = Client::builder()
            .timeout(Duration::from_secs(20))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client");
        Bench {
            sandbox: start(dir.path(), None, 0.0).await,
            client,
            dir,
        }
    }

    pub async fn restart(self) -> Bench {
        self.sandbox.stop().await;
        Bench {
            sandbox: start(self.dir.path(), None, 0.0).await,
            ..self
        }
    }

    pub fn call(&self, method: Method, path: &str, token: &str) -> reqwest::RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.sandbox.url()))
            .bearer_auth(token)
    }

    pub async fn get(&self, path: &str, token: &str) -> (StatusCode, Value) {
        read(
            self.call(Method::GET, path, token)
                .send()
                .await
                .expect("an answer"),
        )
        .await
    }

    pub async fn post(&self, path: &str, token: &str, body: Value) -> (StatusCode, Value) {
        read(
            self.call(Method::POST, path, token)
                .json(&body)
                .send()
                .await
                .expect("an answer"),
        )
        .await
    }

    pub async fn acts(&self, query: &str) -> Vec<Value> {
        let (status, acts) = self.get(&format!("/_sandbox/acts?{query}"), "").await;
        assert_eq!(status, 200, "{acts}");
        acts.as_array().expect("a list").clone()
    }

    pub async fn script(&self, fault: Value) {
        let (status, told) = self.post("/_sandbox/faults", "", fault).await;
        assert_eq!(status, 201, "{told}");
    }

    /// Posts a status with a key; the error of the client when there was no whole answer.
    pub async fn toot(&self, text: &str, key: &str) -> Result<Response, reqwest::Error> {
        let call = self.call(Method::POST, "/mastodon/api/v1/statuses", "sandbox-alice");
        call.header("Idempotency-Key", key)
            .json(&json!({"status": text}))
            .send()
            .await
    }

    pub async fn login(&self) -> (String, String) {
        let body = json!({"identifier": "alice.test", "password": "sandbox-secret"});
        let (status, session) = self
            .post("/bluesky/xrpc/com.atproto.server.createSession", "", body)
            .await;
        assert_eq!(status, 200, "{session}");
        (text(&session["accessJwt"]), text(&session["did"]))
    }

    pub async fn upload(&self, mime: &str, bytes: &'static [u8], alt: &str) -> (StatusCode, Value) {
        let part = reqwest::multipart::Part::bytes(bytes)
            .file_name("a")
            .mime_str(mime)
            .expect("a type");
        let form = reqwest::multipart::Form::new()
            .part("file", part)
            .text("description", alt.to_owned());
        let call = self
            .call(Method::POST, "/mastodon/api/v2/media", "sandbox-alice")
            .multipart(form);
        read(call.send().await.expect("an answer")).await
    }
}

pub async fn read(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    (status, response.json().await.expect("JSON"))
}

pub fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

pub fn chat(prompt: &str) -> Value {
    json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": prompt}]})
}

pub fn record(words: &str) -> Value {
    json!({"$type": "app.bsky.feed.post", "text": words, "createdAt": "2026-01-01T00:00:00Z"})
}

pub const PUT: &str = "/bluesky/xrpc/com.atproto.repo.putRecord";
pub const CREATE: &str = "/bluesky/xrpc/com.atproto.repo.createRecord";
pub const DRAW: &str = "/openai/v1/images/generations";
pub const EDIT: &str = "/openai/v1/images/edits";
pub const CHAT: &str = "/openai/v1/chat/completions";
