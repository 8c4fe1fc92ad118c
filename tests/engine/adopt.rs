//! Work that a platform goes on with: begun once, its room free meanwhile, asked about by whoever is
//! there, woken by a call-back, stopped when its job is called off. Against the sandbox's OpenAI and
//! Instagram, with time in the test's hand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use presswork::config::{Account, Config, Lane};
use presswork::effect::Effect;
use presswork::gate::{Cause, Scope};
use presswork::job::{Job, JobId};
use presswork::lifecycle::State;
use presswork::operate::stops::{self, Hand};
use presswork::operate::why::{Around, why};
use presswork::operate::{self, By, Called};
use presswork::outcome::Class;
use presswork::sandbox::{Options, Sandbox};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::probe::kinds;
use crate::rig::{Base, Rig, somebody};
use crate::{SOON, kit};

/// OpenAI and Instagram.
pub struct Outside {
    pub sandbox: Sandbox,
    client: reqwest::Client,
    _dir: TempDir,
}

impl Outside {
    pub async fn new(settings: Value) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            dir: dir.path().to_owned(),
            seed: None,
            fault_rate: 0.0,
            requests: false,
        };
        let outside = Self {
            sandbox: Sandbox::start(options).await.unwrap(),
            client: reqwest::Client::builder().timeout(SOON).build().unwrap(),
            _dir: dir,
        };
        outside.tell("settings", settings).await;
        outside
    }

    pub async fn tell(&self, what: &str, body: Value) {
        let url = format!("{}/_sandbox/{what}", self.sandbox.url());
        let answer = self.client.post(url).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }

    pub async fn fault(&self, op: &str, fault: &str, times: u32) {
        let script = json!({"op": op, "fault": fault, "times": times, "retry_after_s": 1});
        self.tell("faults", script).await;
    }

    /// How often something was done (`acts`) or asked for (`requests`).
    pub async fn count(&self, what: &str, op: &str) -> usize {
        let url = format!("{}/_sandbox/{what}?op={op}", self.sandbox.url());
        let text = self.client.get(url).send().await.unwrap().text().await;
        let list: Vec<Value> = serde_json::from_str(&text.unwrap()).unwrap();
        list.len()
    }

    pub fn account(&self, platform: &str) -> Account {
        let base_url = format!("{}/{platform}", self.sandbox.url());
        Account {
            identifier: match platform {
                "instagram" => Some("me".to_owned()),
                "bluesky" => Some("me.test".to_owned()),
                _ => None,
            },
            secret: "sandbox-me".into(),
            ..Account::at(platform, base_url.parse().unwrap())
        }
    }

    /// A host whose lanes have room for one.
    async fn host(&self, base: &Base) -> Rig {
        self.host_with(base, |_| {}).await
    }

    pub async fn host_with(&self, base: &Base, edit: impl Fn(&mut Config)) -> Rig {
        let edited = |config: &mut Config| {
            for platform in ["openai", "instagram"] {
                let account = self.account(platform);
                config.accounts.insert(platform.to_owned(), account);
                let lane = Lane {
                    concurrency: Some(1),
                    room: 1,
                    ..Lane::default()
                };
                config.lanes.insert(platform.to_owned(), lane);
            }
            edit(config);
        };
        Rig::new(base, kinds(), edited).await
    }

    /// Time goes on, here and there.
    async fn pass(&self, rig: &Rig, seconds: u32) {
        rig.advance(Duration::from_secs(seconds.into())).await;
        self.tell("clock", json!({"advance_s": seconds})).await;
    }
}

fn text(background: bool) -> Value {
    let payload = json!({"model": "gpt-5-mini", "prompt": "a fox", "background": background});
    json!({"kind": "generate.text", "account": "openai", "payload": payload})
}

/// A minute's work.
fn minute() -> Value {
    json!({"openai_work_ms": 60_000})
}

/// A job for which OpenAI works, and which waits for that.
async fn adopted(outside: &Outside, rig: &Rig) -> (JobId, Effect) {
    let id = rig.enqueue(&text(true)).await;
    assert_eq!(rig.step("openai").await, 1);
    let job = rig.expect(id, State::Scheduled).await;
    assert_eq!(
        (job.attempts, outside.count("acts", "response.create").await),
        (0, 1)
    );
    let effect = rig.effects(id).await.pop().unwrap();
    assert!(effect.handle.is_some(), "{effect:?}");
    (id, effect)
}

async fn done(rig: &Rig, id: JobId) -> Job {
    let job = rig.expect(id, State::Completed).await;
    let effect = rig.effects(id).await.pop().unwrap();
    assert_eq!(effect.handle, None, "nothing is under way: {effect:?}");
    job
}

fn result(job: &Job) -> Value {
    serde_json::from_str(job.result.as_deref().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn adopted_work_leaves_its_room_to_others_and_is_begun_once() {
    for base in Base::both().await {
        let outside = Outside::new(json!({"openai_work_ms": 200_000})).await;
        let rig = outside.host(&base).await;
        let (id, effect) = adopted(&outside, &rig).await;
        let handle = effect.handle.unwrap();
        let mut waits = vec![];
        while rig.job(id).await.state == State::Scheduled {
            let job = rig.job(id).await;
            let now = base.clock.now();
            let config = rig.shared.config.load_full();
            let around = Around::read(&*base.ledger, &config, &job).await.unwrap();
            let said = why(&job, &around, &[]).text;
            let expected = format!("OpenAI works on {handle} since ");
            // where real time passes, too, it may be due by now
            assert!(
                said.contains(&expected) || around.now > job.run_at,
                "{said}"
            );
            let wait = u32::try_from((job.run_at - now).num_seconds()).unwrap();
            if wait == 30 {
                // room for one, and there it is
                let other = rig.enqueue(&text(false)).await;
                assert_eq!(rig.step("openai").await, 1);
                rig.expect(other, State::Completed).await;
            }
            waits.push(wait);
            outside.pass(&rig, wait).await;
            assert_eq!(
                rig.step("openai").await,
                1,
                "it is asked when that was said"
            );
        }
        let job = done(&rig, id).await;
        assert_eq!(job.attempts, 0, "waiting is not failing");
        assert!(
            result(&job)["text"]
                .as_str()
                .is_some_and(|it| it.contains("fox"))
        );
        match base.ledger.name() {
            // where time stands still
            "sqlite" => assert_eq!(waits[..7], [1, 1, 2, 4, 8, 16, 30], "{waits:?}"),
            // where real time passes, too, the work is older than was waited for
            _ => assert!(waits.is_sorted() && waits.ends_with(&[30]), "{waits:?}"),
        }
        assert_eq!(outside.count("acts", "response.create").await, 1);
        assert_eq!(outside.count("requests", "response.get").await, waits.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_back_wakes_the_one_that_waits() {
    for base in Base::both().await {
        let outside = Outside::new(json!({"openai_work_ms": 6_000_000})).await;
        let rig = outside.host(&base).await;
        let (id, effect) = adopted(&outside, &rig).await;
        let handle = effect.handle.unwrap();
        let called = async |account: &str, handle: &str| {
            operate::called(&*base.ledger, account, handle)
                .await
                .unwrap()
        };
        assert_eq!(called("instagram", &handle).await, Called::Nobody);
        assert_eq!(called("openai", "resp_x").await, Called::Nobody);
        outside.pass(&rig, 30).await;
        assert_eq!(rig.step("openai").await, 1);
        // too early: the platform says so itself, and the job waits on
        assert_eq!(called("openai", &handle).await, Called::Woken(id));
        assert_eq!(rig.step("openai").await, 1);
        rig.expect(id, State::Scheduled).await;
        assert_eq!(rig.step("openai").await, 0, "its time hasn't come");
        outside.tell("clock", json!({"advance_s": 6_000})).await;
        assert_eq!(called("openai", &handle).await, Called::Woken(id));
        assert_eq!(
            called("openai", &handle).await,
            Called::Woken(id),
            "said twice"
        );
        // no time has passed here
        assert_eq!(rig.step("openai").await, 1);
        done(&rig, id).await;
        assert_eq!(called("openai", &handle).await, Called::Nobody);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_and_a_call_back_at_once_end_it_once() {
    for base in Base::both().await {
        let outside = Outside::new(minute()).await;
        let rig = outside.host(&base).await;
        let (id, effect) = adopted(&outside, &rig).await;
        let handle = effect.handle.unwrap();
        outside.pass(&rig, 60).await;
        let asking = rig.take("openai").await.pop().unwrap();
        let early = operate::called(&*base.ledger, "openai", &handle).await;
        assert_eq!(early.unwrap(), Called::Asking(id));
        let run = rig.begin(asking);
        let ledger = base.ledger.clone();
        let calls = tokio::spawn(async move {
            for _ in 0..20 {
                operate::called(&*ledger, "openai", &handle).await.unwrap();
            }
        });
        run.await.unwrap();
        calls.await.unwrap();
        done(&rig, id).await;
        assert_eq!(rig.step("openai").await, 0);
        let attempts = rig.attempts(id).await;
        let ends: Vec<&str> = attempts.iter().map(|it| it.outcome.as_str()).collect();
        assert_eq!(ends, ["snoozed", "completed"]);
        assert_eq!(outside.count("acts", "response.create").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_goes_on_with_the_same_paid_work() {
    for base in Base::both().await {
        let outside = Outside::new(minute()).await;
        let victim = outside.host(&base).await;
        let (id, _) = adopted(&outside, &victim).await;
        outside.fault("response.get", "hang", 1).await;
        outside.pass(&victim, 2).await;
        // it dies amid a question
        let run = victim.begin(victim.take("openai").await.pop().unwrap());
        kit::wait::until("it asks", SOON, async || {
            outside.count("requests", "response.get").await == 1
        })
        .await;
        run.abort();
        base.ledger.end_run(victim.shared.run_id()).await.unwrap();
        let heir = outside.host(&base).await;
        heir.sweeper.reclaim().await.unwrap();
        outside.pass(&heir, 60).await;
        // the place of the dead is found out by comparing
        kit::wait::until("it goes on", SOON, async || heir.step("openai").await == 1).await;
        done(&heir, id).await;
        assert_eq!(outside.count("acts", "response.create").await, 1);
    }
}

async fn called_off(base: &Base, id: JobId) {
    let by = By {
        reason: "not wanted".to_owned(),
        ..somebody()
    };
    operate::cancel(&*base.ledger, id, &by).await.unwrap();
}

/// How a job that was called off ends: nothing is under way, and its receipt says why.
async fn stopped(rig: &Rig, id: JobId, said: &str) {
    let job = rig.expect(id, State::Cancelled).await;
    assert_eq!(job.attempts, 0);
    let effect = rig.effects(id).await.pop().unwrap();
    assert_eq!(effect.handle, None);
    let last = &effect.evidence.last().unwrap().seen;
    assert!(last.contains("called off") && last.contains(said), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_called_off_stops_its_work_there() {
    for base in Base::both().await {
        let outside = Outside::new(minute()).await;
        let rig = outside.host(&base).await;
        let (waiting, _) = adopted(&outside, &rig).await;
        called_off(&base, waiting).await;
        rig.expect(waiting, State::Ready).await;
        assert_eq!(rig.step("openai").await, 1);
        stopped(&rig, waiting, "cancelled").await;
        assert_eq!(outside.count("acts", "response.cancel").await, 1);
        // one that can't be told ends all the same
        let id = rig.enqueue(&text(true)).await;
        rig.step("openai").await;
        outside.fault("response.cancel", "500", 1).await;
        called_off(&base, id).await;
        rig.step("openai").await;
        stopped(&rig, id, "couldn't be told").await;
        assert_eq!(outside.count("acts", "response.cancel").await, 1);
        // nor one whose account is gone by then: its receipt says that the work is under way
        let id = rig.enqueue(&text(true)).await;
        rig.step("openai").await;
        let mut config = Config::clone(&rig.shared.config.load());
        config.accounts.remove("openai");
        rig.shared.config.store(Arc::new(config));
        called_off(&base, id).await;
        rig.step("openai").await;
        rig.expect(id, State::Cancelled).await;
        assert!(rig.effects(id).await[0].handle.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_called_off_while_it_asks_stops_its_work_there() {
    for base in Base::both().await {
        let outside = Outside::new(minute()).await;
        let rig = outside.host(&base).await;
        let (id, _) = adopted(&outside, &rig).await;
        outside.fault("response.get", "hang", 1).await;
        outside.pass(&rig, 2).await;
        let run = rig.begin(rig.take("openai").await.pop().unwrap());
        kit::wait::until("it asks", SOON, async || {
            outside.count("requests", "response.get").await == 1
        })
        .await;
        called_off(&base, id).await;
        rig.control.tick().await.unwrap();
        tokio::time::timeout(SOON, run).await.unwrap().unwrap();
        stopped(&rig, id, "cancelled").await;
        assert_eq!(outside.count("acts", "response.cancel").await, 1);
        // and one that was called off while it began, which nobody told it
        let id = rig.enqueue(&text(true)).await;
        let taken = rig.take("openai").await.pop().unwrap();
        called_off(&base, id).await;
        rig.begin(taken).await.unwrap();
        assert!(rig.expect(id, State::Scheduled).await.cancel);
        outside.pass(&rig, 2).await;
        rig.step("openai").await;
        stopped(&rig, id, "cancelled").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_there_is_begun_anew_by_a_later_attempt() {
    for base in Base::both().await {
        let outside =
            Outside::new(json!({"openai_work_ms": 1_000, "openai_work_ends": "failed"})).await;
        let rig = outside.host(&base).await;
        let (id, _) = adopted(&outside, &rig).await;
        outside.pass(&rig, 2).await;
        rig.step("openai").await;
        let job = rig.expect(id, State::Retrying).await;
        let failure = job.failure.unwrap();
        assert_eq!(
            (job.attempts, failure.class),
            (1, Class::Transient),
            "{failure}"
        );
        assert_eq!(failure.code, "server_error");
        outside
            .tell("settings", json!({"openai_work_ms": 1_000}))
            .await;
        outside.pass(&rig, 600).await;
        rig.step("openai").await;
        rig.expect(id, State::Scheduled).await;
        outside.pass(&rig, 2).await;
        rig.step("openai").await;
        let job = done(&rig, id).await;
        assert_eq!(
            (job.attempts, outside.count("acts", "response.create").await),
            (1, 2)
        );
        assert_eq!(
            result(&job)["usage"]["sends"],
            2,
            "both may have been paid for"
        );
        assert_eq!(rig.effects(id).await.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_fails_says_nothing_of_the_work() {
    for base in Base::both().await {
        let outside = Outside::new(minute()).await;
        let rig = outside.host(&base).await;
        let (id, _) = adopted(&outside, &rig).await;
        for fault in ["503", "reset", "429", "lie", "500"] {
            outside.fault("response.get", fault, 1).await;
            outside.pass(&rig, 31).await;
            assert_eq!(rig.step("openai").await, 1, "{fault}");
            let job = rig.expect(id, State::Scheduled).await;
            assert_eq!(job.attempts, 0, "{fault}");
        }
        outside.fault("response.get", "401", 1).await;
        outside.pass(&rig, 31).await;
        rig.step("openai").await;
        // its account is parked, and the work stays known
        let parked = rig.expect(id, State::Ready).await;
        assert_eq!((parked.attempts, parked.held), (0, None));
        assert_eq!(rig.step("openai").await, 0);
        let area = Scope {
            account: parked.account,
            ..Scope::default()
        };
        let hand = Hand {
            actor: "ann",
            reason: "the secret is renewed",
        };
        let opened = stops::go_on(&*base.ledger, (None, &area), hand).await;
        assert_eq!(opened.unwrap(), [Cause::Credentials]);
        rig.shared.look_at_closures().await.unwrap();
        rig.step("openai").await;
        done(&rig, id).await;
        assert_eq!(outside.count("acts", "response.create").await, 1);
        // but one that it knows nothing of (any more) is gone, and was paid for
        outside.fault("response.get", "404", 1).await;
        let id = rig.enqueue(&text(true)).await;
        rig.step("openai").await;
        outside.pass(&rig, 2).await;
        rig.step("openai").await;
        let dead = rig.expect(id, State::Dead).await;
        assert_eq!(dead.failure.unwrap().code, "gone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_says_where_it_is_and_a_revive_pays_nothing() {
    for base in Base::both().await {
        let outside = Outside::new(json!({"openai_work_ms": 600_000})).await;
        let rig = outside
            .host_with(&base, |config| {
                let kind = config.kinds.entry("generate.text".to_owned()).or_default();
                kind.adopt_for = Some(Duration::from_secs(100));
            })
            .await;
        let (id, effect) = adopted(&outside, &rig).await;
        outside.pass(&rig, 99).await;
        rig.step("openai").await;
        let job = rig.expect(id, State::Scheduled).await;
        let now = base.ledger.now().await.unwrap();
        assert!(
            job.run_at - now <= chrono::TimeDelta::seconds(1),
            "not beyond its time"
        );
        outside.pass(&rig, 2).await;
        rig.step("openai").await;
        let failure = rig.expect(id, State::Dead).await.failure.unwrap();
        assert_eq!(failure.code, "adopt_for");
        let place = format!(
            "{}/openai/v1/responses/{}",
            outside.sandbox.url(),
            effect.handle.unwrap()
        );
        assert!(failure.message.contains(&place), "{failure}");
        outside.pass(&rig, 600).await;
        operate::revive(&*base.ledger, id, None, &somebody())
            .await
            .unwrap();
        rig.step("openai").await;
        done(&rig, id).await;
        assert_eq!(outside.count("acts", "response.create").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_whose_answer_is_lost_is_paid_once_more_and_no_more() {
    for base in Base::both().await {
        let outside = Outside::new(json!({"openai_work_ms": 0})).await;
        let rig = outside.host(&base).await;
        outside.fault("response.create", "act_reset", 1).await;
        let id = rig.enqueue(&text(true)).await;
        assert_eq!(rig.drive(id).await.state, State::Completed);
        let job = done(&rig, id).await;
        assert_eq!(outside.count("acts", "response.create").await, 2);
        assert_eq!(result(&job)["usage"]["sends"], 2);
    }
}

fn picture() -> Value {
    let fox = json!({"url": "https://example.com/fox.jpg", "alt": "a fox"});
    let payload = json!({"caption": "hello", "images": [fox]});
    json!({"kind": "post.instagram", "account": "instagram", "payload": payload})
}

#[tokio::test(flavor = "multi_thread")]
async fn instagram_works_on_pictures_while_its_room_is_free() {
    for base in Base::both().await {
        let outside = Outside::new(json!({"instagram_work_ms": 600_000})).await;
        let rig = outside.host(&base).await;
        let slow = rig.enqueue(&picture()).await;
        for _ in 0..2 {
            assert_eq!(rig.step("instagram").await, 1);
            rig.expect(slow, State::Scheduled).await;
            outside.pass(&rig, 30).await;
        }
        assert_eq!(rig.step("instagram").await, 1);
        // room for one, and there it is
        outside.tell("settings", json!({})).await;
        let quick = rig.enqueue(&picture()).await;
        assert_eq!(rig.step("instagram").await, 1);
        rig.expect(quick, State::Completed).await;
        outside.pass(&rig, 600).await;
        assert_eq!(rig.step("instagram").await, 1);
        let job = rig.expect(slow, State::Completed).await;
        assert_eq!(job.attempts, 0);
        assert_eq!(outside.count("acts", "container.create").await, 2);
        assert_eq!(outside.count("acts", "media.publish").await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_comes_to_nothing_is_charged_once() {
    for base in Base::both().await {
        let settings = json!({"instagram_work_ms": 1_000, "instagram_work_fails": true});
        let outside = Outside::new(settings).await;
        let rig = outside.host(&base).await;
        let id = rig.enqueue(&picture()).await;
        rig.step("instagram").await;
        rig.expect(id, State::Scheduled).await;
        outside.pass(&rig, 2).await;
        rig.step("instagram").await;
        let job = rig.expect(id, State::Retrying).await;
        assert_eq!(
            (job.attempts, job.failure.unwrap().code.as_str()),
            (1, "container")
        );
        outside.tell("settings", json!({})).await;
        outside.pass(&rig, 900).await;
        rig.step("instagram").await;
        let job = rig.expect(id, State::Completed).await;
        assert_eq!(
            (
                job.attempts,
                outside.count("acts", "container.create").await
            ),
            (1, 2)
        );
    }
}
