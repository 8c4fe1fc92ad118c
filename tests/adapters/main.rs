//! The adapters against the sandbox: each fault lands in the right class, each call is made once,
//! and what is repeated under the same key happens once, by the sandbox's own log.

#[path = "../kit/mod.rs"]
mod kit;
mod faults;
mod posts;
mod texts;
mod social;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use presswork::clock::Clock;
use presswork::config::{Account, Config};
use presswork::context::Tools;
use presswork::effect::{EffectId, Receipt};
use presswork::ledger::Ledger;
use presswork::ledger::sqlite::Sqlite;
use presswork::platform::CallError;
use presswork::platform::bluesky::{Bluesky, tid};
use presswork::platform::endpoint::Endpoint;
use presswork::platform::http::{Body, Call, Http, below};
use presswork::platform::instagram::{Image, Instagram};
use presswork::platform::mastodon::{Mastodon, Status};
use presswork::platform::openai::{self, Chat, Message, Role};
use presswork::platform::openai_images::{Drawing, Place, draw};
use presswork::platform::x::{Post, X};
use presswork::sandbox::{Options, Sandbox, WORKER_SECRET};
use serde_json::{Value, json};
use url::Url;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nnot much of a picture";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Platform {
    OpenAi,
    Images,
    Mastodon,
    Bluesky,
    X,
    Instagram,
    Http,
}

impl Platform {
    fn name(self) -> &'static str {
        match self {
            Self::OpenAi | Self::Images => "openai",
            Self::Mastodon => "mastodon",
            Self::Bluesky => "bluesky",
            Self::X => "x",
            Self::Instagram => "instagram",
            Self::Http => "http",
        }
    }

    fn op(self) -> &'static str {
        match self {
            Self::OpenAi => "chat.completion",
            Self::Images => "image.generate",
            Self::Mastodon => "status.create",
            Self::Bluesky => "putRecord",
            Self::X => "post.create",
            Self::Instagram => "media.publish",
            Self::Http => "call",
        }
    }

    /// What the sandbox calls the account of a name.
    fn who(self, name: &str) -> String {
        match self {
            Self::Bluesky => format!("{name}.test"),
            _ => name.to_owned(),
        }
    }
}

struct World {
    sandbox: Option<Sandbox>,
    http: Http,
    tools: Tools,
    limits: presswork::media::Limits,
    base: Url,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            dir: dir.path().to_owned(),
            seed: None,
            fault_rate: 0.0,
            requests: false,
        };
        let sandbox = Sandbox::start(options).await.unwrap();
        let base = Url::parse(&sandbox.url()).unwrap();
        let path = dir.path().join("ledger.sqlite");
        let ledger = Arc::new(Sqlite::open(&path, Clock::System).await.unwrap());
        ledger.migrate().await.unwrap();
        let config = Config::default_embedded(dir.path());
        let tools = Tools::new(&config, ledger, &Clock::System).unwrap();
        let http = tools.http.clone();
        Self {
            sandbox: Some(sandbox),
            http,
            tools,
            limits: presswork::media::Limits::of(&config.media),
            base,
            _dir: dir,
        }
    }

    fn account(&self, platform: Platform, name: &str) -> Account {
        let (place, secret) = match platform {
            Platform::Http => (format!("/http/{name}"), WORKER_SECRET.to_owned()),
            it => (format!("/{}", it.name()), format!("sandbox-{name}")),
        };
        let base_url = below(&self.base, &place);
        let identifier = match platform {
            Platform::Bluesky => Some(platform.who(name)),
            Platform::Instagram => Some("me".to_owned()),
            _ => None,
        };
        Account {
            identifier,
            secret: secret.into(),
            ..Account::at(platform.name(), base_url)
        }
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Vec<Value> {
        let mut url = below(&self.base, path);
        url.query_pairs_mut().extend_pairs(query);
        let answer = self.http.send(&Call::get(url, SLOW)).await.unwrap();
        answer.json().unwrap()
    }

    async fn post(&self, path: &str, body: Value) {
        let url = below(&self.base, path);
        let call = Call::post(url, Body::Json(body.to_string()), SLOW);
        let answer = self.http.send(&call).await.unwrap();
        assert!(answer.status < 300, "{path}: {:?}", answer.body);
    }

    async fn fault(&self, account: &str, op: &str, fault: &str, delay_ms: u32) {
        let script = json!({
            "account": account, "op": op, "fault": fault, "delay_ms": delay_ms, "retry_after_s": 7,
        });
        self.post("/_sandbox/faults", script).await;
    }

    async fn count(&self, what: &str, op: &str, account: &str) -> usize {
        let path = format!("/_sandbox/{what}");
        self.get(&path, &[("op", op), ("account", account)])
            .await
            .len()
    }

    /// The call with which the platform acts.
    async fn act(&self, platform: Platform, account: &Account) -> Result<Receipt, CallError> {
        let deadline = Duration::from_millis(1_500);
        match platform {
            Platform::Images => {
                let place = Place {
                    media: &self.tools.media,
                    limits: self.limits,
                };
                let (what, prices) = ((&drawing(), &[][..]), &BTreeMap::new());
                draw(&self.http, account, what, prices, &place, deadline).await
            }
            Platform::OpenAi => {
                let chat = chat("a fox");
                openai::complete(&self.http, account, &chat, &BTreeMap::new(), deadline).await
            }
            Platform::Http => {
                let endpoint = Endpoint {
                    http: &self.http,
                    account,
                    deadline,
                };
                let body = json!({"type": "x", "data": "hello"}).to_string();
                endpoint.call(CALL, None, body, 0).await
            }
            Platform::Mastodon => {
                let mastodon = self.mastodon(account, deadline);
                mastodon.publish("key-1", &status("hello")).await
            }
            Platform::X => {
                let post = Post {
                    text: "hello".to_owned(),
                    ..Post::default()
                };
                self.x(account, deadline).publish(&post, "me").await
            }
            Platform::Instagram => {
                let made = self
                    .instagram(account, SLOW)
                    .container("hello", &[fox()])
                    .await;
                let (made, since) = (made?, Clock::System.now());
                let instagram = self.instagram(account, deadline);
                instagram.publish(&made, "hello", since).await
            }
            Platform::Bluesky => {
                let bluesky = self.bluesky(account, deadline);
                bluesky
                    .publish(&tid(Clock::System.now(), 1), &record("hello"))
                    .await
            }
        }
    }

    fn mastodon<'a>(&'a self, account: &'a Account, deadline: Duration) -> Mastodon<'a> {
        let http = &self.http;
        Mastodon {
            http,
            account,
            deadline,
        }
    }

    fn x<'a>(&'a self, account: &'a Account, deadline: Duration) -> X<'a> {
        let http = &self.http;
        X {
            http,
            account,
            deadline,
        }
    }

    fn instagram<'a>(&'a self, account: &'a Account, deadline: Duration) -> Instagram<'a> {
        let http = &self.http;
        Instagram {
            http,
            account,
            deadline,
        }
    }

    fn bluesky<'a>(&'a self, account: &'a Account, deadline: Duration) -> Bluesky<'a> {
        let http = &self.http;
        Bluesky {
            http,
            account,
            deadline,
        }
    }
}

/// The id of a call.
const CALL: EffectId = EffectId(uuid::Uuid::from_u128(7));
const SLOW: Duration = Duration::from_secs(20);

fn chat(prompt: &str) -> Chat {
    let content = prompt.to_owned();
    let messages = vec![Message {
        role: Role::User,
        content,
    }];
    Chat {
        model: "gpt-4o-mini".to_owned(),
        messages,
        schema: None,
        temperature: None,
        max_tokens: None,
        seed: None,
    }
}

fn drawing() -> Drawing {
    let it = json!({"model": "gpt-image-2", "prompt": "a fox", "n": 1, "size": "256x256"});
    serde_json::from_value(it).unwrap()
}

fn status(text: &str) -> Status {
    Status {
        status: text.to_owned(),
        ..Status::default()
    }
}

/// A picture that the sandbox takes note of, and doesn't fetch.
fn fox() -> Image {
    Image {
        url: "https://example.com/fox.jpg".to_owned(),
        alt: "a fox".to_owned(),
    }
}

fn record(text: &str) -> Value {
    json!({"$type": "app.bsky.feed.post", "text": text, "createdAt": "2026-01-01T00:00:00.000Z"})
}
