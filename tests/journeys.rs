//! Each kind end to end: an envelope's bytes through intake, dispatch and the effect protocol to the
//! settled result, against the sandbox, over both pairs of stores, in good weather and in bad.
//!
//! What is compared is what was done: what the ledger holds and what the sandbox acted on, never
//! which calls were made. `UPDATE_GOLDEN=1` writes the files under `tests/golden/journeys`.

mod kit;
#[path = "engine/rig.rs"]
mod rig;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use presswork::clock::Clock;
use presswork::config::{Account, Config, Model};
use presswork::gate::{Cause, Scope};
use presswork::job::JobId;
use presswork::lifecycle::State;
use presswork::operate::stops::{self, Hand};
use presswork::operate::{self, Verdict};
use presswork::platform::http::{Body, Call, Http, below};
use presswork::sandbox::{Options, Sandbox};
use regex::Regex;
use serde_json::{Value, json};
use url::Url;

use rig::{Base, Rig, somebody};

/// A picture of one pixel.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

/// Journeys that are walked at once.
const AT_ONCE: usize = 8;

/// What a person does when the job waits for one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    Nothing,
    Release,
    Happened,
    DidNotHappen,
}

/// One journey.
struct Journey {
    name: &'static str,
    kind: &'static str,
    payload: Value,
    /// Faults of the platform's own call, in their order: name and how often.
    faults: &'static [(&'static str, u32)],
    then: Then,
}

fn text() -> Value {
    json!({"model": "gpt-4o-mini", "prompt": "One sentence about foxes."})
}

fn by_schema() -> Value {
    let schema = json!({
        "type": "object", "properties": {"title": {"type": "string"}},
        "required": ["title"], "additionalProperties": false,
    });
    json!({"model": "gpt-4o-mini", "prompt": "A title.", "json_schema": schema})
}

fn picture() -> Value {
    json!({"model": "gpt-image-1", "prompt": "A fox in the snow.", "n": 2, "size": "1024x1536"})
}

fn by_url() -> Value {
    json!({"model": "dall-e-3", "prompt": "A fox in the snow.", "quality": "hd"})
}

fn toot() -> Value {
    let picture = |alt: &str| json!({"data": PNG, "type": "image/png", "alt": alt});
    json!({
        "text": "A fox: https://example.com/fox", "language": "en", "visibility": "unlisted",
        "media": [picture("A fox in the snow"), picture("Its tracks")],
    })
}

fn post() -> Value {
    json!({
        "text": "A fox, by @alice.test: https://example.com/fox #foxes", "langs": ["en"],
        "media": [{"data": PNG, "type": "image/png", "alt": "A fox in the snow"}],
    })
}

macro_rules! journeys {
    ($($name:literal $kind:literal $payload:expr, [$(($fault:literal, $times:literal)),*], $then:ident;)*) => {
        vec![$(Journey {
            name: $name, kind: $kind, payload: $payload, faults: &[$(($fault, $times)),*], then: Then::$then,
        }),*]
    };
}

fn all() -> Vec<Journey> {
    journeys! {
        "text-ok" "generate.text" text(), [], Nothing;
        "text-schema" "generate.text" by_schema(), [], Nothing;
        "text-503-twice" "generate.text" text(), [("503", 2)], Nothing;
        "text-429" "generate.text" text(), [("429", 1)], Nothing;
        "text-401" "generate.text" text(), [("401", 1)], Release;
        "text-lost-once" "generate.text" text(), [("act_reset", 1)], Nothing;
        "text-truncated-once" "generate.text" text(), [("act_truncate", 1)], Nothing;
        "text-lost-twice" "generate.text" text(), [("act_reset", 2)], Nothing;
        "text-lost-twice-then-not" "generate.text" text(), [("act_reset", 2)], DidNotHappen;
        "text-lost-twice-then-there" "generate.text" text(), [("act_reset", 2)], Happened;
        "text-refused" "generate.text" text(), [("refuse", 1)], Nothing;
        "image-ok" "illustrate.image" picture(), [], Nothing;
        "image-by-url" "illustrate.image" by_url(), [], Nothing;
        "image-503-twice" "illustrate.image" picture(), [("503", 2)], Nothing;
        "image-lost-once" "illustrate.image" picture(), [("act_reset", 1)], Nothing;
        "image-lost-twice" "illustrate.image" picture(), [("act_reset", 2)], Nothing;
        "image-lost-twice-then-there" "illustrate.image" picture(), [("act_reset", 2)], Happened;
        "image-refused" "illustrate.image" picture(), [("refuse", 1)], Nothing;
        "toot-ok" "post.mastodon" toot(), [], Nothing;
        "toot-503-twice" "post.mastodon" toot(), [("503", 2)], Nothing;
        "toot-429" "post.mastodon" toot(), [("429", 1)], Nothing;
        "toot-401" "post.mastodon" toot(), [("401", 1)], Release;
        "toot-act-500" "post.mastodon" toot(), [("act_500", 1)], Nothing;
        "toot-act-reset" "post.mastodon" toot(), [("act_reset", 2)], Nothing;
        "toot-act-truncate" "post.mastodon" toot(), [("act_truncate", 1)], Nothing;
        "toot-refused" "post.mastodon" toot(), [("refuse", 1)], Nothing;
        "post-ok" "post.bluesky" post(), [], Nothing;
        "post-503-twice" "post.bluesky" post(), [("503", 2)], Nothing;
        "post-429" "post.bluesky" post(), [("429", 1)], Nothing;
        "post-act-500" "post.bluesky" post(), [("act_500", 1)], Nothing;
        "post-act-hang" "post.bluesky" post(), [("act_hang", 1)], Nothing;
        "post-act-reset" "post.bluesky" post(), [("act_reset", 2)], Nothing;
        "post-act-truncate" "post.bluesky" post(), [("act_truncate", 1)], Nothing;
        "post-refused" "post.bluesky" post(), [("refuse", 1)], Nothing;
        "job-ok" "test.job" json!({"result": {"a": 1}}), [], Nothing;
        "job-fails-twice" "test.job" json!({"fail_times": 2, "result": 7}), [], Nothing;
        "job-dies" "test.job" json!({"fail_times": 1, "class": "permanent"}), [], Nothing;
    }
}

/// Platform, the sandbox's name of the call that changes the world, and of the account.
fn platform(kind: &str, account: &str) -> Option<(&'static str, &'static str, String)> {
    match kind {
        "generate.text" => Some(("openai", "chat.completion", account.to_owned())),
        "illustrate.image" => Some(("openai", "image.generate", account.to_owned())),
        "post.mastodon" => Some(("mastodon", "status.create", account.to_owned())),
        "post.bluesky" => Some(("bluesky", "putRecord", format!("{account}.test"))),
        _ => None,
    }
}

/// The simulated internet of a test.
struct Internet {
    sandbox: Sandbox,
    http: Http,
    base: Url,
    _dir: tempfile::TempDir,
}

const CALL: Duration = Duration::from_secs(20);

impl Internet {
    async fn new() -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let options = Options {
            listen,
            dir: dir.path().to_owned(),
            seed: None,
            fault_rate: 0.0,
            requests: false,
        };
        let sandbox = Sandbox::start(options).await.unwrap();
        let base = Url::parse(&sandbox.url()).unwrap();
        let http = Http::new(Clock::System).unwrap();
        Arc::new(Self {
            sandbox,
            http,
            base,
            _dir: dir,
        })
    }

    async fn fault(&self, op: &str, who: &str, fault: &str, times: u32) {
        let script =
            json!({"op": op, "account": who, "fault": fault, "times": times, "retry_after_s": 90});
        let url = below(&self.base, "/_sandbox/faults");
        let answer = self
            .http
            .send(&Call::post(url, Body::Json(script.to_string()), CALL))
            .await
            .unwrap();
        assert!(answer.status < 300, "{:?}", answer.body);
    }

    async fn acts(&self, who: &str) -> Vec<Value> {
        let mut url = below(&self.base, "/_sandbox/acts");
        url.query_pairs_mut().append_pair("account", who);
        self.http
            .send(&Call::get(url, CALL))
            .await
            .unwrap()
            .json()
            .unwrap()
    }

    /// An account of the journey's own, so that its faults meet nobody else.
    fn configure(&self, config: &mut Config, journey: &Journey) {
        let Some((name, _, who)) = platform(journey.kind, journey.name) else {
            return;
        };
        let account = Account {
            identifier: (name == "bluesky").then_some(who),
            secret: format!("sandbox-{}", journey.name).into(),
            ..Account::at(name, below(&self.base, &format!("/{name}")))
        };
        config.accounts.insert(journey.name.to_owned(), account);
        let prices = Model {
            input_micros_per_mtok: 150_000,
            output_micros_per_mtok: 600_000,
            ..Model::default()
        };
        for model in ["gpt-4o-mini", "gpt-image-1"] {
            config.models.insert(model.to_owned(), prices);
        }
        config.media.fetch_http = true;
        config.media.fetch_allow = vec![self.sandbox.addr()];
    }
}

/// Walks a journey and tells what was done.
async fn walk(internet: &Internet, base: &Base, journey: &Journey) -> String {
    let rig = Rig::new(base, presswork::kinds::all(), |it| {
        internet.configure(it, journey)
    })
    .await;
    let platform = platform(journey.kind, journey.name);
    if let Some((_, op, who)) = &platform {
        for (fault, times) in journey.faults {
            internet.fault(op, who, fault, *times).await;
        }
    }
    let mut envelope =
        json!({"kind": journey.kind, "payload": journey.payload, "key": journey.name});
    if platform.is_some() {
        envelope["account"] = journey.name.into();
    }
    let id = rig.enqueue(&envelope).await;
    let mut stands = vec![story(&rig, id, rig.drive(id).await.state).await];
    let ledger = &*base.ledger;
    let verdict = match journey.then {
        Then::Nothing => None,
        Then::Release => {
            // its account is parked, and it keeps its place
            let area = Scope {
                account: Some(journey.name.to_owned()),
                ..Scope::default()
            };
            let hand = Hand {
                actor: "ann",
                reason: "the secret is renewed",
            };
            let opened = stops::go_on(ledger, (None, &area), hand).await.unwrap();
            assert_eq!(opened, [Cause::Credentials]);
            None
        }
        Then::Happened => Some(Verdict::Happened {
            url: Some("https://example.com/1".to_owned()),
        }),
        Then::DidNotHappen => Some(Verdict::DidNotHappen),
    };
    if let Some(verdict) = verdict {
        operate::resolve(ledger, id, &verdict, &somebody())
            .await
            .unwrap();
    }
    if journey.then != Then::Nothing {
        stands.push(story(&rig, id, rig.drive(id).await.state).await);
    }
    let acts = match &platform {
        Some((_, op, who)) => {
            let acts = internet.acts(who).await;
            let acts = acts.iter().map(|it| {
                let kept = ["op", "text", "media", "id", "url"]
                    .map(|name| (name.to_owned(), it[name].clone()));
                let mut kept: serde_json::Map<_, _> = kept.into_iter().collect();
                kept.insert("with_key".to_owned(), (!it["key"].is_null()).into());
                if let Some(facets) = it["detail"]["record"].get("facets") {
                    kept.insert("facets".to_owned(), facets.clone());
                }
                Value::Object(kept)
            });
            let acts: Vec<Value> = acts.collect();
            json!({"changed_the_world": acts.iter().filter(|it| it["op"] == *op).count(), "acts": acts})
        }
        None => Value::Null,
    };
    // the same again is the same job, whatever became of it
    assert_eq!(rig.submit(&envelope).await.id(), Some(id));
    masked(&json!({"job": stands, "sandbox": acts}))
}

/// What the ledger holds of a job.
async fn story(rig: &Rig, id: JobId, state: State) -> Value {
    let job = rig.job(id).await;
    assert_eq!(job.state, state);
    let failure = |it: &Option<presswork::outcome::Failure>| {
        it.as_ref()
            .map(|it| format!("{} {} {}: {}", it.class, it.scope, it.code, it.message))
    };
    let attempts = rig.attempts(id).await;
    let attempts: Vec<Value> = attempts
        .iter()
        .map(|it| json!({"number": it.number, "outcome": it.outcome, "failure": failure(&it.failure)}))
        .collect();
    let effects = rig.effects(id).await;
    let effects: Vec<Value> = effects
        .iter()
        .map(|it| {
            json!({
                "step": it.step, "op": it.op, "class": it.class, "state": it.state, "sends": it.sends,
                "receipt": it.receipt.as_ref().map(|it| json!({"id": it.remote_id, "url": it.url})),
                "evidence": it.evidence.iter().map(|it| &it.seen).collect::<Vec<_>>(),
            })
        })
        .collect();
    let result: Value = job
        .result
        .as_deref()
        .map_or(Value::Null, |it| serde_json::from_str(it).unwrap());
    json!({
        "state": job.state, "charged": job.attempts, "held": job.held, "failure": failure(&job.failure),
        "result": result, "attempts": attempts, "effects": effects,
    })
}

/// Without what differs from run to run.
fn masked(value: &Value) -> String {
    static MASKS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        let masks = [
            (r"127\.0\.0\.1:\d+", "SANDBOX"),
            (
                r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
                "UUID",
            ),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", "TIME"),
            (r"did:plc:[a-z2-7]+", "DID"),
            (r"baf[a-z2-7]{20,}", "CID"),
            (r"\b3[a-z2-7]{12}\b", "TID"),
            (r"\b(chatcmpl|req|img)[-_][0-9A-Za-z_-]+", "$1-ID"),
            (r"\b\d{9,}\b", "ID"),
            // its number is another on each system
            (r" \(os error \d+\)", ""),
        ];
        masks
            .map(|(it, with)| (Regex::new(it).unwrap(), with))
            .into()
    });
    let mut text = serde_json::to_string_pretty(value).unwrap();
    for (mask, with) in &*MASKS {
        text = mask.replace_all(&text, *with).into_owned();
    }
    text + "\n"
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/journeys/{name}.json"))
}

fn compare(name: &str, told: &str) -> Result<(), String> {
    let path = golden(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, told).unwrap();
        return Ok(());
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    match kept == told {
        true => Ok(()),
        false => Err(format!(
            "{name} differs from {} (UPDATE_GOLDEN=1 writes it):\n{told}",
            path.display()
        )),
    }
}

async fn walk_all(servers: bool) {
    let internet = Internet::new().await;
    let journeys = all();
    // some at a time: each has a database of its own, and the connections to it
    let walked = stream::iter(&journeys).map(async |it| {
        let base = if servers {
            Base::servers().await
        } else {
            Base::embedded().await
        };
        compare(it.name, &walk(&internet, &base, it).await)
    });
    let walked: Vec<_> = walked.buffered(AT_ONCE).collect().await;
    let wrong: Vec<String> = walked.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(internet.sandbox.addr().port() != 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_ends_as_it_should_over_the_embedded_stores() {
    walk_all(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_ends_as_it_should_over_postgres_and_redis() {
    walk_all(true).await;
}

/// What no golden file may be changed to say.
#[test]
fn the_golden_files_keep_the_promises() {
    for journey in all() {
        let text = std::fs::read_to_string(golden(journey.name)).expect(journey.name);
        let told: Value = serde_json::from_str(&text).unwrap();
        let last = told["job"].as_array().unwrap().last().unwrap();
        let (sends, acts) = (
            &last["effects"][0]["sends"],
            &told["sandbox"]["changed_the_world"],
        );
        let at = format!("{}: {text}", journey.name);
        let posts = journey.kind.starts_with("post.");
        let refused = journey.faults.first().is_some_and(|it| it.0 == "refuse");
        if posts {
            assert_eq!(
                *acts,
                u64::from(!refused),
                "published once, or not at all: {at}"
            );
            assert_eq!(
                last["state"],
                if refused { "dead" } else { "completed" },
                "{at}"
            );
        }
        match journey.name {
            "text-lost-once" | "text-truncated-once" | "image-lost-once" => {
                assert_eq!((sends.as_u64(), acts.as_u64()), (Some(2), Some(2)), "{at}");
                assert_eq!(
                    last["result"]["usage"]["sends"], 2,
                    "what was lost counts as spent: {at}"
                );
            }
            "text-lost-twice" | "image-lost-twice" => {
                assert_eq!((sends.as_u64(), acts.as_u64()), (Some(2), Some(2)), "{at}");
                assert_eq!(last["state"], "unresolved", "{at}");
            }
            "text-401" | "toot-401" => {
                assert_eq!(told["job"][0]["state"], "ready", "{at}");
                assert_eq!(last["state"], "completed", "{at}");
            }
            _ => {}
        }
        if last["state"] != "dead"
            && journey
                .faults
                .iter()
                .all(|it| it.0 != "503" && it.0 != "refuse")
            && journey.kind != "test.job"
        {
            assert_eq!(
                last["charged"], 0,
                "stopping, throttling and the unknown charge nothing: {at}"
            );
        }
    }
}
