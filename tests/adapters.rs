//! The adapters against the sandbox: each fault lands in the right class, each call is made once,
//! and what is repeated under the same key happens once, by the sandbox's own log.

mod kit;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use presswork::clock::Clock;
use presswork::config::{Account, Config, Model};
use presswork::context::Tools;
use presswork::effect::Receipt;
use presswork::ledger::Ledger;
use presswork::ledger::sqlite::Sqlite;
use presswork::outcome::{Class, Failure};
use presswork::platform::CallError;
use presswork::platform::bluesky::{Bluesky, tid};
use presswork::platform::http::{Body, Call, Http, below};
use presswork::platform::mastodon::{Limits, Mastodon, Processing, Status};
use presswork::platform::openai::{self, Chat, Completion, Message, Role};
use presswork::platform::openai_images::{Drawing, Place, draw};
use presswork::sandbox::{Options, Sandbox};
use serde_json::{Value, json};
use url::Url;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nnot much of a picture";
/// Every fault, with whether the sandbox acts, and what a careful adapter makes of it.
const FAULTS: [(&str, bool, Means); 24] = [
    ("refuse", false, Means::Refused(Class::Permanent)),
    ("401", false, Means::Refused(Class::Unauthorised)),
    ("403", false, Means::Refused(Class::Unauthorised)),
    ("404", false, Means::Refused(Class::Permanent)),
    ("429", false, Means::Refused(Class::Throttled)),
    ("500", false, Means::Failing),
    ("503", false, Means::Failing),
    ("act_500", true, Means::Failing),
    ("act_503", true, Means::Failing),
    ("act_504", true, Means::Unknown),
    ("hang", false, Means::Unknown),
    ("act_hang", true, Means::Unknown),
    ("reset", false, Means::Unknown),
    ("act_reset", true, Means::Unknown),
    ("truncate", false, Means::Unknown),
    ("act_truncate", true, Means::Unknown),
    ("lie", false, Means::Unknown),
    ("act_lie", true, Means::Unknown),
    ("drip", true, Means::Unknown),
    ("huge", true, Means::Unknown),
    ("act_late", true, Means::Unknown),
    ("slow", true, Means::Done),
    ("redirect", false, Means::Unknown),
    ("empty", false, Means::Unknown),
];

#[derive(Clone, Copy, Debug)]
enum Means {
    Done,
    Refused(Class),
    Unknown,
    /// A 500 or 503 in the platform's own form: OpenAI's are answered before the model runs.
    Failing,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Platform {
    OpenAi,
    Images,
    Mastodon,
    Bluesky,
}

impl Platform {
    fn name(self) -> &'static str {
        match self {
            Self::OpenAi | Self::Images => "openai",
            Self::Mastodon => "mastodon",
            Self::Bluesky => "bluesky",
        }
    }

    fn op(self) -> &'static str {
        match self {
            Self::OpenAi => "chat.completion",
            Self::Images => "image.generate",
            Self::Mastodon => "status.create",
            Self::Bluesky => "putRecord",
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
        let identifier = (platform == Platform::Bluesky).then(|| platform.who(name));
        Account {
            platform: platform.name().to_owned(),
            base_url: below(&self.base, &format!("/{}", platform.name())),
            identifier,
            secret: format!("sandbox-{name}").into(),
            bucket: None,
            public_url: None,
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
            Platform::Mastodon => {
                let mastodon = self.mastodon(account, deadline);
                mastodon.publish("key-1", &status("hello")).await
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

    fn bluesky<'a>(&'a self, account: &'a Account, deadline: Duration) -> Bluesky<'a> {
        let http = &self.http;
        Bluesky {
            http,
            account,
            deadline,
        }
    }
}

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

fn record(text: &str) -> Value {
    json!({"$type": "app.bsky.feed.post", "text": text, "createdAt": "2026-01-01T00:00:00.000Z"})
}

fn failure(it: Result<Receipt, CallError>) -> Option<(bool, Failure)> {
    match it {
        Ok(_) => None,
        Err(CallError::Refused(it)) => Some((true, it)),
        Err(CallError::Unknown(it)) => Some((false, it)),
    }
}

/// One fault of one platform: its class, one request, and no more acts than that request.
async fn played(world: &World, platform: Platform, (fault, acts, means): (&str, bool, Means)) {
    let at = format!("{} {fault}", platform.name());
    let name = format!("{}-{}", platform.name(), fault.replace('_', "-"));
    let (account, who) = (world.account(platform, &name), platform.who(&name));
    world.fault(&who, platform.op(), fault, 100).await;
    let seen = failure(world.act(platform, &account).await);
    match (means, &seen) {
        (Means::Done, None) => {}
        (Means::Refused(class), Some((true, it))) => assert_eq!(it.class, class, "{at}: {it}"),
        (Means::Unknown, Some((false, it))) => assert_eq!(it.class, Class::Unknown, "{at}"),
        (Means::Failing, Some((refused, it))) => {
            assert_eq!(*refused, platform.name() == "openai", "{at}: {it}");
        }
        _ => panic!("{at}: {seen:?}"),
    }
    if let Some((_, it)) = &seen {
        assert!(
            !it.message.contains(&format!("sandbox-{name}")),
            "{at}: {it}"
        );
        let told = it.retry_after().map(|it| it.num_seconds());
        assert_eq!(told, (fault == "429").then_some(7), "{at}");
    }
    let made = usize::from(acts);
    kit::wait::until(
        &format!("{at}: {made} acts"),
        Duration::from_secs(5),
        async || world.count("acts", platform.op(), &who).await == made,
    )
    .await;
    assert_eq!(
        world.count("requests", platform.op(), &who).await,
        1,
        "{at}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_lands_in_its_class_and_is_met_once() {
    let world = World::new().await;
    let openai = [Platform::OpenAi, Platform::Images];
    for platform in [openai, [Platform::Mastodon, Platform::Bluesky]].concat() {
        join_all(FAULTS.map(|it| played(&world, platform, it))).await;
    }
}

#[tokio::test]
async fn a_repeat_under_the_same_key_happens_once() {
    let world = World::new().await;
    for fault in ["act_500", "act_504", "act_reset", "act_truncate", "act_lie"] {
        let name = fault.replace('_', "-");
        let account = world.account(Platform::Mastodon, &name);
        world.fault(&name, "status.create", fault, 0).await;
        let mastodon = world.mastodon(&account, SLOW);
        assert!(matches!(
            mastodon.publish("k", &status("x")).await,
            Err(CallError::Unknown(_))
        ));
        let receipt = mastodon.publish("k", &status("x")).await.unwrap();
        let acts = world
            .get(
                "/_sandbox/acts",
                &[("op", "status.create"), ("account", &name)],
            )
            .await;
        assert_eq!(acts.len(), 1, "{fault}");
        assert_eq!(
            acts[0]["id"],
            *receipt.remote_id.as_ref().unwrap(),
            "{fault}"
        );

        let account = world.account(Platform::Bluesky, &name);
        let who = Platform::Bluesky.who(&name);
        world.fault(&who, "putRecord", fault, 0).await;
        let bluesky = world.bluesky(&account, SLOW);
        let rkey = tid(Clock::System.now(), 7);
        let lost = bluesky.publish(&rkey, &record("x")).await;
        assert!(
            matches!(lost, Err(CallError::Unknown(_))),
            "{fault}: {lost:?}"
        );
        let receipt = bluesky.publish(&rkey, &record("x")).await.unwrap();
        assert!(receipt.remote_id.unwrap().ends_with(&rkey), "{fault}");
        assert_eq!(world.count("acts", "putRecord", &who).await, 1, "{fault}");
    }
}

#[tokio::test]
async fn another_record_under_our_key_is_never_overwritten() {
    let world = World::new().await;
    let account = world.account(Platform::Bluesky, "taken");
    let bluesky = world.bluesky(&account, SLOW);
    let rkey = tid(Clock::System.now(), 3);
    bluesky.publish(&rkey, &record("first")).await.unwrap();
    let e = bluesky.publish(&rkey, &record("second")).await.unwrap_err();
    assert_eq!(e.refusal(), Some("key_taken"), "{e}");
    let found = bluesky.find(&rkey).await.unwrap().unwrap();
    assert_eq!(found.value["text"], "first");
    assert!(
        bluesky
            .find(&tid(Clock::System.now(), 4))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn one_login_serves_all_jobs_and_an_expired_token_is_renewed() {
    let world = World::new().await;
    let account = world.account(Platform::Bluesky, "many");
    let bluesky = world.bluesky(&account, SLOW);
    let now = Clock::System.now();
    let publish = async |i: u16| bluesky.publish(&tid(now, i), &record("x")).await.unwrap();
    join_all((0..8).map(publish)).await;
    let logins = async || {
        let path = "/_sandbox/requests";
        let of = async |op| {
            world
                .get(path, &[("platform", "bluesky"), ("op", op)])
                .await
                .len()
        };
        (of("createSession").await, of("refreshSession").await)
    };
    assert_eq!(logins().await, (1, 0));
    // access tokens of the sandbox live two hours, refresh tokens sixty days
    world
        .post("/_sandbox/clock", json!({"advance_s": 3 * 3_600}))
        .await;
    join_all((8..16).map(publish)).await;
    assert_eq!(logins().await, (1, 1));
    world
        .post("/_sandbox/clock", json!({"advance_s": 61 * 86_400}))
        .await;
    publish(16).await;
    assert_eq!(logins().await, (2, 2));
    assert_eq!(world.count("acts", "putRecord", "many.test").await, 17);
}

#[tokio::test]
async fn a_refused_login_is_not_tried_by_every_job() {
    let world = World::new().await;
    let mut account = world.account(Platform::Bluesky, "shut");
    account.secret = "not-the-password".to_owned().into();
    let bluesky = world.bluesky(&account, SLOW);
    for _ in 0..5 {
        let Err(CallError::Refused(it)) = bluesky.session().await else {
            panic!("a wrong password opened a session");
        };
        assert_eq!(it.class, Class::Unauthorised);
        assert!(!it.message.contains("not-the-password"), "{it}");
    }
    let asked = world
        .get("/_sandbox/requests", &[("op", "createSession")])
        .await;
    assert_eq!(asked.len(), 1);
    // another password is another try
    account.secret = "sandbox-shut".to_owned().into();
    world.bluesky(&account, SLOW).session().await.unwrap();
}

#[tokio::test]
async fn pictures_go_up_with_their_descriptions() {
    let world = World::new().await;
    let account = world.account(Platform::Mastodon, "pictures");
    let mastodon = world.mastodon(&account, SLOW);
    let (name, bytes) = ("media-0.png".to_owned(), Bytes::from_static(PNG));
    let focus = Some((0.5, -0.25));
    let made = mastodon
        .upload(name, "image/png", bytes, "ein Bär", focus)
        .await
        .unwrap();
    assert!(made.ready);
    assert_eq!(
        mastodon.processing(&made.id).await.unwrap(),
        Processing::Ready
    );
    let sent = Status {
        media_ids: vec![made.id.clone()],
        ..status("look")
    };
    let receipt = mastodon.publish("k", &sent).await.unwrap();
    assert!(receipt.url.is_some());
    // attached: the instance doesn't show it any more
    assert_eq!(
        mastodon.processing(&made.id).await.unwrap(),
        Processing::Hidden
    );
    let acts = world
        .get(
            "/_sandbox/acts",
            &[("op", "status.create"), ("account", "pictures")],
        )
        .await;
    assert_eq!(acts[0]["media"][0]["alt"], "ein Bär");

    let account = world.account(Platform::Bluesky, "pictures");
    let bluesky = world.bluesky(&account, SLOW);
    let blob = bluesky
        .upload("image/png", Bytes::from_static(PNG))
        .await
        .unwrap();
    let again = bluesky
        .upload("image/png", Bytes::from_static(PNG))
        .await
        .unwrap();
    assert_eq!(blob, again);
    let mut post = record("look");
    post["embed"] =
        json!({"$type": "app.bsky.embed.images", "images": [{"image": blob, "alt": "bear"}]});
    bluesky
        .publish(&tid(Clock::System.now(), 9), &post)
        .await
        .unwrap();
    let acts = world
        .get(
            "/_sandbox/acts",
            &[("op", "putRecord"), ("account", "pictures.test")],
        )
        .await;
    assert_eq!(acts[0]["media"][0]["alt"], "bear");
}

#[tokio::test]
async fn a_film_is_processed_before_it_can_be_attached() {
    let world = World::new().await;
    let account = world.account(Platform::Mastodon, "film");
    let mastodon = world.mastodon(&account, SLOW);
    let bytes = Bytes::from_static(b"\0\0\0\x18ftypmp42 not much of a film");
    let made = mastodon
        .upload("a.mp4".to_owned(), "video/mp4", bytes, "", None)
        .await
        .unwrap();
    assert!(!made.ready);
    let sent = Status {
        media_ids: vec![made.id.clone()],
        ..status("look")
    };
    let Err(CallError::Refused(early)) = mastodon.publish("k", &sent).await else {
        panic!("it was attached before it was ready");
    };
    assert_eq!(early.class, Class::Transient, "{early}");
    assert_eq!(
        mastodon.processing(&made.id).await.unwrap(),
        Processing::Underway
    );
    assert_eq!(
        mastodon.processing(&made.id).await.unwrap(),
        Processing::Ready
    );
    mastodon.publish("k", &sent).await.unwrap();
}

#[tokio::test]
async fn an_instances_limits_are_asked_once() {
    let world = World::new().await;
    let account = world.account(Platform::Mastodon, "limits");
    let mastodon = world.mastodon(&account, SLOW);
    let all = join_all((0..4).map(|_| mastodon.limits())).await;
    let all: Vec<Arc<Limits>> = all.into_iter().map(Result::unwrap).collect();
    assert_eq!(all[0].characters, 500);
    assert_eq!(all[0].media, 4);
    let asked = world
        .get("/_sandbox/requests", &[("op", "instance.get")])
        .await;
    assert_eq!(asked.len(), 1);
}

#[tokio::test]
async fn a_text_and_json_by_a_schema_are_paid_for_and_told() {
    let world = World::new().await;
    let account = world.account(Platform::OpenAi, "writer");
    let price = Model {
        input_micros_per_mtok: 1_000_000,
        output_micros_per_mtok: 1_000_000,
    };
    let prices = BTreeMap::from([("gpt-4o-mini".to_owned(), price)]);
    let complete = async |chat: &Chat| -> Completion {
        let receipt = openai::complete(&world.http, &account, chat, &prices, SLOW)
            .await
            .unwrap();
        assert!(receipt.remote_id.is_some());
        serde_json::from_value(receipt.detail).unwrap()
    };
    let plain = complete(&chat("a fox")).await;
    assert!(plain.text.is_some_and(|it| !it.is_empty()));
    assert_eq!(
        plain.cost_micros,
        Some(plain.input_tokens + plain.output_tokens)
    );
    let schema = json!({
        "type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"],
        "additionalProperties": false,
    });
    let asked = Chat {
        schema: Some(("answer".to_owned(), schema)),
        ..chat("a fox")
    };
    let structured = complete(&asked).await;
    let answer: Value = serde_json::from_str(&structured.text.unwrap()).unwrap();
    assert!(answer["title"].is_string(), "{answer}");

    let unknown = Chat {
        model: "no-such-model".to_owned(),
        ..chat("a fox")
    };
    let e = openai::complete(&world.http, &account, &unknown, &prices, SLOW)
        .await
        .unwrap_err();
    assert_eq!(e.refusal(), Some("model_not_found"), "{e}");
}

#[tokio::test]
async fn nothing_is_sent_to_a_platform_that_is_away() {
    let mut world = World::new().await;
    let accounts = [Platform::OpenAi, Platform::Mastodon, Platform::Bluesky]
        .map(|it| (it, world.account(it, "away")));
    world.sandbox.take().expect("it was started").stop().await;
    for (platform, account) in accounts {
        let Err(CallError::Refused(it)) = world.act(platform, &account).await else {
            panic!("{platform:?} is away, and it was reached");
        };
        assert_eq!(
            (it.class, it.code.as_str()),
            (Class::Transient, "connect"),
            "{it}"
        );
    }
}
