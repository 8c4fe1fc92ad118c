//! `http.call` by real daemons: an endpoint that dedupes by the id does the work once, whatever becomes
//! of answers and daemons; and work that goes on after its answer ends by a call-back or by being asked.

use std::time::Duration;

use presswork::effect::Effect;
use presswork::gate::Cause;
use presswork::job::Job;
use presswork::lifecycle::State;
use presswork::sandbox::WORKER_SECRET;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::Place;
use crate::adopted::{SECRET, signed};
use crate::kit::daemon::Daemon;
use crate::kit::languages::python_with;
use crate::kit::port::Port;
use crate::kit::process::{Process, dying_with_us};
use crate::kit::wait;
use crate::world::{ENDED, Host, READY, client};

/// A place with endpoints: `team`, which calls back, `mute`, which doesn't, and those of a test.
struct Works {
    place: Place,
    secrets: TempDir,
}

impl Works {
    async fn new(settings: Value) -> Self {
        let mut works = Self {
            place: Place::new().await,
            secrets: tempfile::tempdir().expect("a folder"),
        };
        let hook = works.file("hook", SECRET);
        let more = format!("webhook_secret = {{ file = \"{hook}\" }}\n");
        let sandbox = format!("{}/http", works.place.outside.url);
        works.endpoint("team", &format!("{sandbox}/team"), &more);
        works.endpoint("mute", &format!("{sandbox}/mute"), "");
        works
            .place
            .stores
            .more
            .push_str("[lanes.calls]\nconcurrency = 64\n");
        works.tell("settings", settings).await;
        works
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.secrets.path().join(name);
        std::fs::write(&path, text).expect("a secret can be written");
        path.display().to_string()
    }

    fn endpoint(&mut self, name: &str, url: &str, more: &str) {
        let key = self.file("key", WORKER_SECRET);
        self.place.stores.more.push_str(&format!(
            "[accounts.{name}]\nplatform = \"http\"\nbase_url = \"{url}\"\ntimeout_s = 3\n\
             secret = {{ file = \"{key}\" }}\n{more}"
        ));
    }

    async fn tell(&self, what: &str, body: Value) {
        let url = format!("{}/_sandbox/{what}", self.place.outside.url);
        let told = client().post(url).json(&body).send().await;
        assert!(told.expect("the sandbox answers").status().is_success());
    }

    /// A daemon that says where it is reached.
    async fn run(&self, host: &Host, crash: &str) -> Daemon {
        let url = format!("http://{}", host.api);
        let mut env = vec![("PRESSWORK_API_PUBLIC_URL", url.as_str())];
        if !crash.is_empty() {
            env.push(("PRESSWORK_CRASH", crash));
        }
        let daemon = host.home.start_with(&["run"], &env);
        daemon.wait_ready(host.api, READY).await;
        daemon
    }

    async fn submit(&self, host: &Host, key: &str, account: &str, data: Value) {
        let envelope = json!({"v": 1, "kind": "http.call", "key": key, "account": account,
            "payload": {"type": "thing.do", "path": "things", "data": data}});
        host.submit(&envelope).await;
    }

    /// The acts of one call.
    async fn acts(&self, effect: &Effect) -> Vec<Value> {
        let acts = self.place.outside.acts().await;
        let id = effect.id.to_string();
        let of = |it: &Value| it["op"] == "call" && it["key"] == *id;
        acts.into_iter().filter(of).collect()
    }

    /// Waits until a job has been put off while the endpoint works; its effect.
    async fn adopted(&self, key: &str) -> Effect {
        wait::until("its work is adopted", ENDED, async || {
            self.place.stands(key).await.state == State::Scheduled
        })
        .await;
        let (_, effect) = self.place.job(key).await;
        assert_eq!(effect.handle, Some(effect.id.to_string()));
        effect
    }

    async fn ended(&self, key: &str, state: State) -> (Job, Effect) {
        wait::until(&format!("{key} is {state}"), ENDED, async || {
            self.place.stands(key).await.state == state
        })
        .await;
        self.place.job(key).await
    }
}

fn result(job: &Job) -> Value {
    serde_json::from_str(job.result.as_deref().expect("it has a result")).expect("it is JSON")
}

/// A call-back to a host's `team`, signed; its status and what it led to.
async fn call_back(host: &Host, id: &str, body: &Value, forged: bool) -> (u16, Value) {
    let body = body.to_string();
    let said = if forged { "something else" } else { &body };
    let url = format!("http://{}/v1/hooks/team", host.api);
    let mut call = client().post(url).body(body.clone());
    for (name, value) in signed(id, said) {
        call = call.header(name, value);
    }
    let answer = call.send().await.expect("the daemon answers");
    let status = answer.status().as_u16();
    let text = answer.text().await.expect("a text");
    (status, serde_json::from_str(&text).expect("JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_does_it_once_whatever_becomes_of_its_answer() {
    let works = Works::new(json!({})).await;
    let host = works.place.host();
    let _daemon = works.run(&host, "").await;
    let faults = [
        "",
        "hang",
        "reset",
        "500",
        "503",
        "lie",
        "redirect",
        "429 retry_after=1",
        "429 retry_after=1 date",
        "act_hang",
        "act_reset",
        "act_500",
        "act_503",
        "act_504",
        "act_truncate",
        "act_lie",
        "act_late delay_ms=1000",
        "huge",
        "drip",
        "500 status=409",
        "500 status=425",
    ];
    let data = |fault: &str| match fault {
        "" => json!("fine"),
        it => json!(format!("[[fault:{it}]]")),
    };
    for (n, fault) in faults.iter().enumerate() {
        works
            .submit(&host, &format!("job-{n:06}"), "team", data(fault))
            .await;
    }
    for (n, fault) in [
        (100, "refuse times=always"),
        (101, "redirect times=always"),
        (102, "lie times=always"),
    ] {
        works
            .submit(&host, &format!("job-{n:06}"), "team", data(fault))
            .await;
    }
    for (n, fault) in faults.iter().enumerate() {
        let (job, effect) = works.ended(&format!("job-{n:06}"), State::Completed).await;
        assert_eq!(job.attempts, 0, "{fault}: a lost answer is nobody's fault");
        let acts = works.acts(&effect).await;
        assert_eq!(acts.len(), 1, "{fault}: {effect:?}");
        assert_eq!(acts[0]["detail"]["path"], "things", "{fault}");
        let event = &acts[0]["detail"]["event"];
        assert_eq!(
            (&event["type"], &event["job"]),
            (&json!("thing.do"), &json!(job.id))
        );
        assert_eq!(
            result(&job),
            json!({"done": acts[0]["n"], "data": data(fault)}),
            "{fault}"
        );
        assert_eq!(1 < effect.sends, !fault.is_empty(), "{fault}: {effect:?}");
    }
    for (n, code) in [(100, "unfit"), (101, "http_302"), (102, "unreadable")] {
        let (job, effect) = works.ended(&format!("job-{n:06}"), State::Dead).await;
        let failure = job.failure.expect("it says why");
        assert_eq!(failure.code, code, "{failure}");
        assert_eq!(works.acts(&effect).await.len(), 0, "{code}");
    }
    works.submit(&host, "job-000103", "team", data("401")).await;
    // the endpoint refuses what the call was signed with: its account waits for another secret
    wait::until("the account is parked", ENDED, async || {
        let closures = works.place.ledger.closures().await.expect("a list");
        closures.iter().any(|it| it.cause == Cause::Credentials)
    })
    .await;
    let (job, _) = works.ended("job-000103", State::Ready).await;
    assert_eq!(job.attempts, 0);
    let told = serde_json::to_string(&job).expect("JSON");
    assert!(!told.contains(WORKER_SECRET), "{told}");
}

#[cfg(feature = "crashpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn killed_around_a_call_it_is_repeated_under_the_same_id() {
    for (point, sends) in [
        ("journal.after_send", 2),
        ("effect.after_response", 1),
        ("settle.before_commit", 1),
    ] {
        let works = Works::new(json!({})).await;
        let host = works.place.host();
        let daemon = works.run(&host, &format!("{point}:1:kill")).await;
        works
            .submit(&host, "job-000001", "team", json!(point))
            .await;
        assert!(!daemon.wait_exit(READY).await.success(), "{point}");
        let _again = works.run(&host, "").await;
        let (_, effect) = works.ended("job-000001", State::Completed).await;
        assert_eq!(works.acts(&effect).await.len(), 1, "{point}");
        assert_eq!(effect.sends, sends, "{point}: {effect:?}");
        assert_eq!(works.place.outside.acts().await.len(), 1, "{point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_over_a_killed_daemon_and_ends_by_a_call_back() {
    let works = Works::new(json!({"http_work_ms": 600_000, "http_polled": false})).await;
    let host = works.place.host();
    let daemon = works.run(&host, "").await;
    works
        .submit(&host, "job-000001", "team", json!("long"))
        .await;
    let effect = works.adopted("job-000001").await;
    // an attempt that begins anew has no progress yet
    wait::until("it is put off", READY, async || {
        works.place.job("job-000001").await.0.state == State::Scheduled
    })
    .await;
    daemon.kill9();
    let _again = works.run(&host, "").await;
    let id = effect.id.to_string();
    let half = json!({"id": id, "progress": 40, "note": "half of it"});
    let (status, told) = call_back(&host, "wh_1", &half, false).await;
    assert_eq!((status, &told["led_to"]), (202, &json!("heard")), "{told}");
    let (job, _) = works.place.job("job-000001").await;
    let progress = job.progress.expect("it was told");
    assert_eq!(
        (progress.percent, progress.message.as_str()),
        (40, "half of it")
    );
    // who hasn't the secret changes nothing, nor does what can't be understood, nor another's id
    let end = json!({"id": id, "result": {"pages": 7}});
    assert_eq!(call_back(&host, "wh_2", &end, true).await.0, 401);
    assert_eq!(
        call_back(&host, "wh_3", &json!({"id": id}), false).await.0,
        422
    );
    let other = json!({"id": uuid::Uuid::new_v4(), "result": 1});
    let (status, told) = call_back(&host, "wh_4", &other, false).await;
    assert_eq!((status, &told["led_to"]), (202, &json!("nobody")));
    let (job, effect) = works.place.job("job-000001").await;
    assert!(
        job.result.is_none() && effect.told.is_none(),
        "{job:?} {effect:?}"
    );
    // again until it is taken: its job may be looking right now
    wait::until("the end is taken", ENDED, async || {
        call_back(&host, "wh_5", &end, false).await.0 == 202
    })
    .await;
    let (job, effect) = works.ended("job-000001", State::Completed).await;
    assert_eq!(
        (result(&job), job.attempts, effect.handle.clone()),
        (json!({"pages": 7}), 0, None)
    );
    let (_, told) = call_back(&host, "wh_5", &end, false).await;
    assert_eq!(told["led_to"], "repeated");
    assert_eq!(works.acts(&effect).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_an_endpoint_can_be_asked_another_host_asks_it() {
    let works = Works::new(json!({"http_work_ms": 600_000})).await;
    let (first, second) = (works.place.host(), works.place.host());
    let daemon = works.run(&first, "").await;
    works
        .submit(&first, "job-000001", "mute", json!("long"))
        .await;
    works.adopted("job-000001").await;
    daemon.kill9();
    let _heir = works.run(&second, "").await;
    works.tell("clock", json!({"advance_s": 600})).await;
    let (job, effect) = works.ended("job-000001", State::Completed).await;
    assert_eq!(result(&job)["data"], "long");
    assert_eq!(works.acts(&effect).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_called_off_is_stopped_where_it_can_be() {
    let works = Works::new(json!({"http_work_ms": 600_000})).await;
    let host = works.place.host();
    let _daemon = works.run(&host, "").await;
    for (key, polled) in [("job-000001", true), ("job-000002", false)] {
        works
            .tell(
                "settings",
                json!({"http_work_ms": 600_000, "http_polled": polled}),
            )
            .await;
        works.submit(&host, key, "team", json!("long")).await;
        let effect = works.adopted(key).await;
        let id = effect.job.to_string();
        let done = host.home.cli(&["jobs", "cancel", &id]).await;
        assert!(done.status.success(), "{done:?}");
        let (_, effect) = works.ended(key, State::Cancelled).await;
        assert_eq!(effect.handle, None, "{effect:?}");
        let acts = works.place.outside.acts().await;
        let stops = acts
            .iter()
            .filter(|it| it["op"] == "work.stop" && it["id"] == *effect.id.to_string());
        assert_eq!(stops.count(), usize::from(polled), "{effect:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_an_endpoints_call_backs_each_call_ends_once() {
    let works = Works::new(json!({})).await;
    let host = works.place.host();
    let _daemon = works.run(&host, "").await;
    let settings = |plan: &str, polled: bool, ends: &str| {
        json!({"http_work_ms": 700, "http_polled": polled, "http_hook": plan,
            "http_hook_secret": SECRET, "http_work_ends": ends})
    };
    let cases = [
        ("once", false, "completed", State::Completed),
        ("twice", false, "completed", State::Completed),
        // the end comes before the answer
        ("early", false, "completed", State::Completed),
        ("never", true, "completed", State::Completed),
        ("forged", true, "completed", State::Completed),
        ("once", false, "incomplete", State::Dead),
        ("never", true, "incomplete", State::Dead),
    ];
    for (n, (plan, polled, ends, _)) in cases.iter().enumerate() {
        works.tell("settings", settings(plan, *polled, ends)).await;
        let key = format!("job-{n:06}");
        works.submit(&host, &key, "team", json!(key)).await;
        wait::until("it is begun", ENDED, async || {
            works.place.outside.acts().await.len() == n + 1
        })
        .await;
    }
    for (n, (plan, _, ends, stands)) in cases.into_iter().enumerate() {
        let key = format!("job-{n:06}");
        let (job, effect) = works.ended(&key, stands).await;
        assert_eq!(effect.handle, None, "{plan}: {effect:?}");
        assert_eq!(works.acts(&effect).await.len(), 1, "{plan} {ends}");
        match stands {
            State::Completed => assert_eq!(result(&job)["data"], json!(key), "{plan}"),
            _ => assert_eq!(job.failure.expect("it says why").code, "unfit", "{plan}"),
        }
    }
    // what failed and may be tried again is another call
    works
        .tell("settings", settings("once", false, "failed"))
        .await;
    works
        .submit(&host, "job-000050", "team", json!("again"))
        .await;
    wait::until("the first call failed", ENDED, async || {
        works.place.stands("job-000050").await.attempts == 1
    })
    .await;
    works
        .tell("settings", settings("once", false, "completed"))
        .await;
    let (job, _) = works.ended("job-000050", State::Completed).await;
    let effects = works
        .place
        .ledger
        .effects(job.id)
        .await
        .expect("its effects");
    assert!(
        2 <= effects.len() && effects.iter().all(|it| it.handle.is_none()),
        "{effects:?}"
    );
    // nobody to ask, and nobody who may call back
    works
        .tell("settings", settings("never", false, "completed"))
        .await;
    works
        .submit(&host, "job-000051", "mute", json!("mute"))
        .await;
    let (job, _) = works.ended("job-000051", State::Dead).await;
    assert_eq!(job.failure.expect("it says why").code, "no_way_back");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoints_redirect_and_foreign_location_lead_nowhere() {
    let inside = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let trap = format!("http://{}/", inside.local_addr().expect("an address"));
    let door = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", door.local_addr().expect("an address"));
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = door.accept().await else {
                return;
            };
            let trap = trap.clone();
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let n = stream.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..n]);
                let status = if head.starts_with("POST /moved") {
                    "307 Moved"
                } else {
                    "202 Accepted"
                };
                let answer = format!(
                    "HTTP/1.1 {status}\r\nlocation: {trap}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    let mut works = Works::new(json!({})).await;
    works.endpoint("moved", &format!("{url}/moved"), "");
    works.endpoint("foreign", &format!("{url}/foreign"), "");
    let host = works.place.host();
    let _daemon = works.run(&host, "").await;
    works.submit(&host, "job-000001", "moved", json!(1)).await;
    works.submit(&host, "job-000002", "foreign", json!(1)).await;
    let (job, _) = works.ended("job-000001", State::Dead).await;
    let failure = job.failure.expect("it says why");
    assert!(
        failure.code == "http_307" && failure.message.contains("base_url"),
        "{failure}"
    );
    let (job, _) = works.ended("job-000002", State::Dead).await;
    assert_eq!(job.failure.expect("it says why").code, "no_way_back");
    let called = tokio::time::timeout(Duration::ZERO, inside.accept()).await;
    assert!(called.is_err(), "somebody was called whom an answer named");
}

/// A fence of the README, behind the comment `<!-- worker: NAME -->`.
pub fn readme(name: &str) -> String {
    let readme = include_str!("../../README.md");
    let mark = format!("<!-- worker: {name} -->\n```");
    let (_, rest) = readme.split_once(&mark).expect("the README has it");
    let (_, rest) = rest.split_once('\n').expect("a language");
    rest.split_once("\n```").expect("an end").0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_worker_takes_our_signature() {
    let python = match python_with("standardwebhooks").await {
        Ok(it) => it,
        Err(why) => {
            eprintln!("skipped: the README's worker: {why}");
            return;
        }
    };
    let port = Port::take();
    let mut works = Works::new(json!({})).await;
    let old = "whsec_b2xkLW9sZC1vbGQtb2xkLW9sZC1vbGQtb2xkLW9sZCE=";
    let (key, old_key) = (works.file("key", WORKER_SECRET), works.file("old", old));
    let url = format!("http://127.0.0.1:{}", port.number());
    works.endpoint("python", &url, "");
    // one that changes its secret is understood by receivers that have either
    works.place.stores.more.push_str(&format!(
        "[accounts.changing]\nplatform = \"http\"\nbase_url = \"{url}\"\n\
         secret = {{ file = \"{old_key}\" }}\nprevious_secret = {{ file = \"{key}\" }}\n\
         [accounts.stranger]\nplatform = \"http\"\nbase_url = \"{url}\"\nsecret = {{ file = \"{old_key}\" }}\n"
    ));
    let text = readme("python").replace("9000", &port.number().to_string());
    let file = works.secrets.path().join("worker.py");
    std::fs::write(&file, text).expect("it can be written");
    let mut command = dying_with_us(&python, "KILL");
    command.arg(&file).current_dir(works.secrets.path());
    command.env("WORKER_SECRET", WORKER_SECRET);
    let _worker = Process::start(command, works.secrets.path());
    wait::until("the worker listens", READY, async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port.number()))
            .await
            .is_ok()
    })
    .await;
    let host = works.place.host();
    let _daemon = works.run(&host, "").await;
    for (n, account) in ["python", "changing"].iter().enumerate() {
        let key = format!("job-{n:06}");
        works
            .submit(&host, &key, account, json!({"text": "hällo"}))
            .await;
        let (job, _) = works.ended(&key, State::Completed).await;
        assert_eq!(result(&job)["text"], "HÄLLO", "{account}");
    }
    works
        .submit(&host, "job-000009", "stranger", json!({"text": "x"}))
        .await;
    // what isn't signed by the worker's own secret is refused, and the account parked
    wait::until("the stranger is parked", ENDED, async || {
        let closures = works.place.ledger.closures().await.expect("a list");
        let mut parked = closures.iter().filter(|it| it.cause == Cause::Credentials);
        parked.any(|it| it.scope.account.as_deref() == Some("stranger"))
    })
    .await;
    let (job, _) = works.ended("job-000009", State::Ready).await;
    assert_eq!(job.attempts, 0);
}
