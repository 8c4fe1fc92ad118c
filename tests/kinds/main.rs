//! The kinds over a real ledger and the sandbox: what was lost is looked at again, and no re-run
//! publishes or pays twice.

#[path = "../kit/mod.rs"]
mod kit;
mod money;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use presswork::clock::Clock;
use presswork::config::{Account, Config};
use presswork::context::{Context, ProgressSink, StopSign, Tools};
use presswork::job::{Job, JobId, NewJob, Priority, Progress};
use presswork::json::Digest;
use presswork::kinds;
use presswork::ledger::sqlite::Sqlite;
use presswork::ledger::{Claim, Fence, Guard, Ledger, Run, Settled, Settlement};
use presswork::lifecycle::{Event, advance};
use presswork::outcome::{Class, Held, Outcome, Scope};
use presswork::platform::http::{Body, Call, below};
use presswork::retry::Policy;
use presswork::sandbox::{Options, Sandbox};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

struct Nowhere;

impl ProgressSink for Nowhere {
    fn tell(&self, _: JobId, _: Progress) {}
}

/// A ledger, a sandbox and one run between them.
struct Press {
    ledger: Arc<Sqlite>,
    config: Arc<Config>,
    tools: Tools,
    base: Url,
    run: Uuid,
    _sandbox: Sandbox,
    _dir: tempfile::TempDir,
}

impl Press {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            dir: dir.path().join("sandbox"),
            seed: None,
            fault_rate: 0.0,
            requests: false,
        };
        let sandbox = Sandbox::start(options).await.unwrap();
        let base = Url::parse(&sandbox.url()).unwrap();
        let path = dir.path().join("ledger.sqlite");
        let ledger = Arc::new(Sqlite::open(&path, Clock::System).await.unwrap());
        ledger.migrate().await.unwrap();
        let run = Run {
            id: Uuid::new_v4(),
            host: "here".to_owned(),
            boot: None,
            pid: 1,
            version: "0".to_owned(),
            began_at: Clock::System.now(),
        };
        ledger
            .begin_run(&run, Duration::from_secs(300))
            .await
            .unwrap();
        let mut config = Config::default_embedded(dir.path());
        config.media.fetch_http = true;
        config.media.fetch_allow = vec![sandbox.addr()];
        for platform in ["openai", "mastodon", "bluesky", "x", "instagram"] {
            let account = Account {
                identifier: match platform {
                    "bluesky" => Some("me.test".to_owned()),
                    "instagram" => Some("me".to_owned()),
                    _ => None,
                },
                secret: "sandbox-me".to_owned().into(),
                ..Account::at(platform, below(&base, &format!("/{platform}")))
            };
            config.accounts.insert(platform.to_owned(), account);
        }
        let tools = Tools::new(&config, ledger.clone(), &Clock::System).unwrap();
        Self {
            ledger,
            config: Arc::new(config),
            tools,
            base,
            run: run.id,
            _sandbox: sandbox,
            _dir: dir,
        }
    }

    /// A job that is accepted and claimed.
    async fn job(&self, kind: &str, account: Option<&str>, payload: &Value) -> Arc<Job> {
        let payload = payload.to_string();
        let kind = kinds::find(kind).unwrap();
        let new = NewJob {
            id: JobId::mint(),
            kind: kind.name().to_owned(),
            lane: "default".to_owned(),
            tenant: "default".to_owned(),
            account: account.map(str::to_owned),
            priority: Priority::Normal,
            key: None,
            digest: Digest::of_json(&payload).unwrap(),
            payload: payload.into(),
            run_at: None,
            not_after: None,
            late: None,
            late_after_s: None,
            attempts_max: 3,
            timeout_s: 60,
            age_max_s: 3_600,
            labels: BTreeMap::new(),
            traceparent: None,
            reply_to: None,
            options: "{}".to_owned(),
            said: None,
        };
        let id = new.id;
        self.ledger.accept(&[new]).await.unwrap();
        let claim = Claim {
            run: self.run,
            generation: None,
            lane: "default".to_owned(),
            kinds: Arc::new([kind.name().to_owned()]),
            concurrency: None,
            shut: Arc::default(),
            fair: Arc::default(),
        };
        let claimed = self.ledger.claim(&claim, &[id]).await.unwrap();
        Arc::new(claimed.into_iter().next().expect("it is due"))
    }

    /// Runs an attempt. Its end isn't settled, as if the daemon had died with the answer in hand.
    async fn attempt(&self, job: &Arc<Job>) -> Outcome {
        let fence = Fence {
            job: job.id,
            revision: job.revision,
            token: job.token.expect("it is claimed"),
            run: self.run,
        };
        let cx = Context::new(
            job.clone(),
            self.config.clone(),
            self.tools.clone(),
            StopSign::default(),
            fence,
            self.ledger.clone(),
            Arc::new(Nowhere),
        );
        kinds::find(&job.kind).unwrap().run(Arc::new(cx)).await
    }

    /// Results of the same request are taken for an hour.
    fn caches(&mut self) {
        let config = Arc::make_mut(&mut self.config);
        for kind in ["generate.text", "illustrate.image"] {
            let settings = config.kinds.entry(kind.to_owned()).or_default();
            settings.cache_age_s = Some(3_600);
        }
    }

    /// Runs a job to its end, and settles it.
    async fn whole(&self, job: &Arc<Job>) -> Value {
        let outcome = self.attempt(job).await;
        let result = completed(outcome.clone());
        let event = Event::Ended(outcome);
        let now = self.ledger.now().await.unwrap();
        let settlement = Settlement {
            id: job.id,
            guard: Guard::Token(job.token.expect("it is claimed")),
            transition: advance(&job.facts(Policy::default()), event, now).unwrap(),
            attempt: None,
            result: Some(result.to_string()),
            fingerprint: None,
            edit: None,
            audit: None,
        };
        let settled = self.ledger.settle(&[settlement]).await.unwrap();
        assert_eq!(settled, [Settled::Done]);
        result
    }

    async fn fault(&self, op: &str, fault: &str) {
        self.tell("faults", json!({"op": op, "fault": fault})).await;
    }

    /// Tells the sandbox something.
    async fn tell(&self, what: &str, body: Value) {
        let url = below(&self.base, &format!("/_sandbox/{what}"));
        let call = Call::post(url, Body::Json(body.to_string()), TIMEOUT);
        let answer = self.tools.http.send(&call).await.unwrap();
        assert!(answer.status < 300, "{what}: {:?}", answer.body);
    }

    async fn seen(&self, what: &str, op: &str) -> Vec<Value> {
        let mut url = below(&self.base, &format!("/_sandbox/{what}"));
        url.query_pairs_mut().append_pair("op", op);
        self.tools
            .http
            .send(&Call::get(url, TIMEOUT))
            .await
            .unwrap()
            .json()
            .unwrap()
    }
}

const TIMEOUT: Duration = Duration::from_secs(20);

fn picture() -> Value {
    let png = STANDARD.encode(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x02\0\0\0\x03");
    json!({"data": png, "type": "image/png", "alt": "a bear"})
}

fn class(outcome: &Outcome) -> Option<Class> {
    outcome.failure().map(|it| it.class)
}

fn completed(outcome: Outcome) -> Value {
    match outcome {
        Outcome::Completed(it) => it,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_status_whose_answer_is_lost_is_published_once() {
    let press = Press::new().await;
    let payload = json!({"text": "hello", "media": [picture()], "visibility": "unlisted"});
    let job = press.job("post.mastodon", Some("mastodon"), &payload).await;
    press.fault("status.create", "act_500").await;
    assert_eq!(class(&press.attempt(&job).await), Some(Class::Unknown));
    let first = completed(press.attempt(&job).await);
    let again = completed(press.attempt(&job).await);
    assert_eq!(first, again);
    assert_eq!(press.seen("acts", "media.create").await.len(), 1);
    let acts = press.seen("acts", "status.create").await;
    assert_eq!(acts.len(), 1);
    assert_eq!(acts[0]["id"], first["id"]);
    assert_eq!(acts[0]["media"][0]["alt"], "a bear");
    // the first send and its repeat under the same key; the third attempt sent nothing
    assert_eq!(press.seen("requests", "status.create").await.len(), 2);
}

#[tokio::test]
async fn a_post_whose_answer_is_lost_is_published_once() {
    let press = Press::new().await;
    let text = "see https://example.com/a #bears and @nobody.example";
    let payload = json!({"text": text, "media": [picture()], "langs": ["en"]});
    let job = press.job("post.bluesky", Some("bluesky"), &payload).await;
    press.fault("putRecord", "act_reset").await;
    assert_eq!(class(&press.attempt(&job).await), Some(Class::Unknown));
    let first = completed(press.attempt(&job).await);
    assert_eq!(first, completed(press.attempt(&job).await));
    let acts = press.seen("acts", "putRecord").await;
    assert_eq!(acts.len(), 1);
    assert_eq!(acts[0]["text"], text);
    assert_eq!(press.seen("requests", "createSession").await.len(), 1);
}

#[tokio::test]
async fn a_lost_generation_is_repeated_once_and_counted_twice() {
    let press = Press::new().await;
    let payload = json!({"model": "gpt-4o-mini", "prompt": "a bear"});
    let job = press.job("generate.text", Some("openai"), &payload).await;
    press.fault("chat.completion", "429").await;
    press.fault("chat.completion", "act_504").await;
    assert_eq!(class(&press.attempt(&job).await), Some(Class::Throttled));
    assert_eq!(class(&press.attempt(&job).await), Some(Class::Unknown));
    let first = completed(press.attempt(&job).await);
    assert_eq!(first["usage"]["sends"], 2, "{first}");
    assert_eq!(first, completed(press.attempt(&job).await));
    assert_eq!(press.seen("acts", "chat.completion").await.len(), 2);

    let job = press.job("generate.text", Some("openai"), &payload).await;
    for _ in 0..2 {
        press.fault("chat.completion", "act_504").await;
        assert_eq!(class(&press.attempt(&job).await), Some(Class::Unknown));
    }
    let asked = press.attempt(&job).await;
    assert!(matches!(asked, Outcome::Unresolved(_)), "{asked}");
}

#[tokio::test]
async fn a_lost_picture_is_drawn_once_more_and_counted_twice() {
    let press = Press::new().await;
    let payload = json!({"model": "gpt-image-1", "prompt": "a bear", "n": 2, "size": "1536x1024"});
    let draw = async || {
        press
            .job("illustrate.image", Some("openai"), &payload)
            .await
    };
    let job = draw().await;
    press.fault("image.generate", "429").await;
    press.fault("image.generate", "act_504").await;
    assert_eq!(class(&press.attempt(&job).await), Some(Class::Throttled));
    assert_eq!(class(&press.attempt(&job).await), Some(Class::Unknown));
    let first = completed(press.attempt(&job).await);
    assert_eq!(first["usage"]["sends"], 2, "{first}");
    assert_eq!(first, completed(press.attempt(&job).await));
    assert_eq!(press.seen("acts", "image.generate").await.len(), 2);
    let images = first["images"].as_array().unwrap();
    assert_eq!(images.len(), 2);
    for image in images {
        assert_eq!(
            (&image["width"], &image["height"]),
            (&json!(1536), &json!(1024))
        );
        let name = image["media"].as_str().unwrap().parse().unwrap();
        let (about, bytes) = press.tools.media.whole(name, 1 << 20).await.unwrap();
        assert_eq!(about.mime, "image/png");
        assert_eq!(json!(bytes.len()), image["bytes"]);
    }

    let job = draw().await;
    for _ in 0..2 {
        press.fault("image.generate", "act_504").await;
        assert_eq!(class(&press.attempt(&job).await), Some(Class::Unknown));
    }
    let asked = press.attempt(&job).await;
    assert!(matches!(asked, Outcome::Unresolved(_)), "{asked}");
}

#[tokio::test]
async fn a_picture_behind_a_url_is_copied_edited_and_posted() {
    let press = Press::new().await;
    let draw = async |payload: Value| {
        let job = press
            .job("illustrate.image", Some("openai"), &payload)
            .await;
        completed(press.attempt(&job).await)
    };
    let drawn = draw(json!({"model": "dall-e-3", "prompt": "a bear"})).await;
    let image = &drawn["images"][0];
    assert!(image["revised_prompt"].is_string(), "{drawn}");
    assert_eq!(drawn["usage"]["input_tokens"], Value::Null);
    let name = image["media"].as_str().unwrap();
    let digest = name.rsplit(':').next().unwrap();
    let url = below(&press.base, &format!("/media/{digest}")).to_string();

    let edit = json!({
        "model": "gpt-image-1", "prompt": "the bear wears a hat", "images": [name, url],
        "strength_percent": 20,
    });
    let edited = draw(edit).await;
    let acts = press.seen("acts", "image.edit").await;
    assert_eq!(acts.len(), 1);
    let sent = &acts[0]["detail"]["originals"];
    assert_eq!(*sent, json!([image["bytes"], image["bytes"]]));

    let picture = json!({"media": edited["images"][0]["media"], "alt": "a bear with a hat"});
    for (kind, account, op) in [
        ("post.mastodon", "mastodon", "status.create"),
        ("post.bluesky", "bluesky", "putRecord"),
    ] {
        let payload = json!({"text": "a hat", "media": [picture]});
        let job = press.job(kind, Some(account), &payload).await;
        completed(press.attempt(&job).await);
        let acts = press.seen("acts", op).await;
        let posted = acts[0]["media"][0]["digest"].as_str().unwrap();
        assert!(
            picture["media"].as_str().unwrap().ends_with(posted),
            "{op}: {posted}"
        );
    }
}

#[tokio::test]
async fn what_can_t_be_drawn_dies_and_says_why() {
    let press = Press::new().await;
    let failure = async |payload: Value| {
        let job = press
            .job("illustrate.image", Some("openai"), &payload)
            .await;
        press.attempt(&job).await.failure().unwrap().clone()
    };
    let refused = json!({"model": "gpt-image-1", "prompt": "a thing forbidden by policy"});
    let it = failure(refused).await;
    assert_eq!(
        (it.class, it.scope, it.code.as_str()),
        (Class::Permanent, Scope::Content, "moderation_blocked"),
        "{it}"
    );
    let gone = format!("media:sha256:{}", "0".repeat(64));
    let it = failure(json!({"model": "gpt-image-1", "prompt": "a", "images": [gone]})).await;
    assert_eq!(
        (it.class, it.code.as_str()),
        (Class::Permanent, "media_gone")
    );
    assert!(press.seen("requests", "image.edit").await.is_empty());
    let it = failure(json!({"preset": "gone", "prompt": "a"})).await;
    assert_eq!(
        (it.class, it.code.as_str()),
        (Class::Permanent, "preflight")
    );
    let job = json!({"model": "gpt-image-1", "prompt": "a"});
    let job = press.job("illustrate.image", Some("openai"), &job).await;
    press.fault("image.generate", "act_truncate").await;
    assert_eq!(class(&press.attempt(&job).await), Some(Class::Unknown));
}

#[tokio::test]
async fn the_same_request_is_paid_for_once_within_its_age() {
    let mut press = Press::new().await;
    press.caches();
    let text = json!({"model": "gpt-4o-mini", "prompt": "a bear", "seed": 7});
    let picture = json!({"model": "gpt-image-1", "prompt": "a bear"});
    let edit = |payload: &Value, name: &str, value: Value| {
        let mut edited = payload.clone();
        edited[name] = value;
        edited
    };
    for (kind, op, payload, made) in [
        ("generate.text", "chat.completion", &text, "text"),
        ("illustrate.image", "image.generate", &picture, "images"),
    ] {
        let job = async |payload: &Value| press.job(kind, Some("openai"), payload).await;
        // one whose answer is lost before anybody has one goes its own way to the end
        let lost = job(payload).await;
        press.fault(op, "act_504").await;
        assert_eq!(class(&press.attempt(&lost).await), Some(Class::Unknown));
        let first = job(payload).await;
        let told = press.whole(&first).await;
        assert!(told["cached"].is_null() && told[made] != Value::Null);
        let acts = async || press.seen("acts", op).await.len();
        assert_eq!(acts().await, 2);

        let again = press.whole(&job(payload).await).await;
        assert_eq!(again["cached"]["job"], json!(first.id), "{again}");
        assert!(again["cached"]["at"].is_string());
        assert_eq!(again[made], told[made]);
        assert_eq!(
            (&again["usage"]["sends"], &again["cost_micros"]),
            (&json!(0), &json!(0))
        );
        assert_eq!(acts().await, 2);
        assert_eq!(press.whole(&lost).await["usage"]["sends"], 2);
        assert_eq!(acts().await, 3);

        // who doesn't want it, and who asks for something else
        for other in [
            edit(payload, "cache", json!(false)),
            edit(payload, "prompt", json!("another bear")),
        ] {
            let before = acts().await;
            assert!(press.whole(&job(&other).await).await["cached"].is_null());
            assert_eq!(acts().await, before + 1);
        }
    }
    // a result whose pictures are gone is none
    std::fs::remove_dir_all(press.config.media.folder.join("sha256")).unwrap();
    let job = press
        .job("illustrate.image", Some("openai"), &picture)
        .await;
    assert!(press.whole(&job).await["cached"].is_null());
}

#[tokio::test]
async fn a_test_job_does_what_its_payload_says() {
    let press = Press::new().await;
    let run = async |payload: Value| {
        let job = press.job("test.job", None, &payload).await;
        (press.attempt(&job).await, press.attempt(&job).await)
    };
    assert_eq!(run(json!({})).await.0, Outcome::Completed(Value::Null));
    let told =
        run(json!({"result": {"a": 1}, "sleep_ms": 10, "progress": true, "spin_ms": 1})).await;
    assert_eq!(told.0, Outcome::Completed(json!({"a": 1})));
    let fails = json!({"fail_times": 1, "class": "throttled", "code": "c", "retry_after_ms": 9});
    let (failed, _) = run(fails).await;
    let failure = failed.failure().unwrap();
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (Class::Throttled, "c")
    );
    assert_eq!(failure.retry_after_ms, Some(9));
    let (put_off, then) = run(json!({"snooze_ms": 5, "result": 7})).await;
    assert!(matches!(put_off, Outcome::Snoozed { .. }), "{put_off}");
    assert_eq!(then, Outcome::Completed(json!(7)));
}

#[tokio::test]
async fn a_post_on_x_goes_out_with_its_pictures_and_names_them_for_the_look() {
    let press = Press::new().await;
    let payload = json!({"text": "he\u{301}llo", "media": [picture(), picture()]});
    let job = press.job("post.x", Some("x"), &payload).await;
    press.fault("media.append", "500").await;
    let first = completed(press.attempt(&job).await);
    let again = completed(press.attempt(&job).await);
    assert_eq!(first, again);
    let acts = press.seen("acts", "post.create").await;
    assert_eq!((acts.len(), &acts[0]["text"]), (1, &json!("héllo")));
    assert_eq!(acts[0]["media"][1]["alt"], "a bear");
    let effect = press.ledger.effects(job.id).await.unwrap().pop().unwrap();
    let keys: Vec<&Value> = (0..2)
        .map(|i| &effect.keep["media"][i]["media_key"])
        .collect();
    assert_eq!(acts[0]["detail"]["media_keys"], json!(keys));
    // a re-run uploads nothing again, and asks nobody who it is
    assert_eq!(press.seen("acts", "media.initialize").await.len(), 2);
    assert_eq!(press.seen("requests", "user.me").await.len(), 1);
}

#[tokio::test]
async fn an_app_of_x_without_credit_holds_its_jobs() {
    let press = Press::new().await;
    let job = press
        .job("post.x", Some("x"), &json!({"text": "hello"}))
        .await;
    let script = json!({"op": "post.create", "fault": "500", "status": 402});
    press.tell("faults", script).await;
    let outcome = press.attempt(&job).await;
    assert!(
        matches!(&outcome, Outcome::Held(presswork::outcome::Held::Budget, it) if it.scope == Scope::App),
        "{outcome}"
    );
    assert!(press.seen("acts", "post.create").await.is_empty());
}

#[tokio::test]
async fn a_lost_post_on_x_is_not_sent_by_a_re_run() {
    let press = Press::new().await;
    let job = press
        .job("post.x", Some("x"), &json!({"text": "hello"}))
        .await;
    press.fault("post.create", "reset").await;
    for _ in 0..3 {
        let outcome = press.attempt(&job).await;
        assert_eq!(class(&outcome), Some(Class::Unknown), "{outcome}");
    }
    assert_eq!(press.seen("requests", "post.create").await.len(), 1);
}

#[tokio::test]
async fn a_container_that_expired_is_made_anew_and_one_that_waits_is_used() {
    let press = Press::new().await;
    let fox = json!({"url": "https://example.com/fox.jpg", "alt": "a fox"});
    let payload = json!({"caption": "hello", "images": [fox, fox]});
    let job = press
        .job("post.instagram", Some("instagram"), &payload)
        .await;
    let made = async || press.seen("acts", "container.create").await.len();
    press.fault("container.get", "500").await;
    press.fault("media.publish", "503").await;
    // the container can't be read now, and then nobody knows whether it was published
    let later = press.attempt(&job).await;
    assert!(matches!(later, Outcome::Snoozed { .. }), "{later}");
    assert_eq!(class(&press.attempt(&job).await), Some(Class::Unknown));
    assert_eq!(made().await, 3, "two pictures and what holds them, once");
    let effect = press.ledger.effects(job.id).await.unwrap().pop().unwrap();
    assert_eq!(
        (effect.sends, &effect.keep["container"].is_string()),
        (1, &true)
    );

    press.fault("media.publish", "429").await;
    let job = press
        .job("post.instagram", Some("instagram"), &payload)
        .await;
    assert_eq!(class(&press.attempt(&job).await), Some(Class::Throttled));
    let before = made().await;
    press.tell("clock", json!({"advance_s": 86_400})).await;
    let done = completed(press.attempt(&job).await);
    assert!(done["url"].is_string(), "{done}");
    assert_eq!(made().await, before + 3, "the first one expired");
    let acts = press.seen("acts", "media.publish").await;
    assert_eq!(acts.len(), 1);
    let effect = press.ledger.effects(job.id).await.unwrap().pop().unwrap();
    assert_eq!(acts[0]["key"], effect.keep["container"]);
}
