//! Fallbacks: two hosts, and two OpenAIs (and endpoints) of which one is closed for some reason. Who did a
//! job is judged by what the two have seen.

use std::time::Duration;

use presswork::budget::{Budget, Form, Per};
use presswork::config::{Config, Fallback, KindSettings, Lane, Model};
use presswork::effect::EffectState;
use presswork::engine::scopes::Prober;
use presswork::gate::{Cause, Closure, Scope};
use presswork::job::{Job, JobId};
use presswork::lifecycle::State;
use serde_json::{Value, json};

use crate::adopt::Outside;
use crate::probe::kinds;
use crate::rig::{Base, Rig};
use crate::{SOON, kit};

pub const TEXT: &str = "generate.text";
pub const CHAT: &str = "chat.completion";
const ALL: [&str; 3] = [TEXT, "illustrate.image", "http.call"];
pub const LANES: [&str; 2] = ["openai", "calls"];

/// Two hosts on the same stores, and what is outside of them.
pub struct Pair {
    pub one: Rig,
    pub other: Rig,
    pub a: Outside,
    pub b: Outside,
}

impl Pair {
    pub async fn new(base: &Base, edit: impl Fn(&mut Config)) -> Self {
        let a = Outside::new(json!({})).await;
        let b = Outside::new(json!({})).await;
        let edited = |config: &mut Config| {
            for (name, outside) in [("a", &a), ("b", &b)] {
                let openai = outside.account("openai");
                config.accounts.insert(name.to_owned(), openai);
                let mut endpoint = outside.account("http");
                endpoint.secret = presswork::sandbox::WORKER_SECRET.into();
                endpoint.base_url.set_path("/http/me");
                config.accounts.insert(format!("call-{name}"), endpoint);
            }
            for kind in ALL {
                let (account, model) = match kind {
                    TEXT => ("b", Some("gpt-5-nano".to_owned())),
                    "illustrate.image" => ("b", None),
                    _ => ("call-b", None),
                };
                let account = account.to_owned();
                let settings = KindSettings {
                    fallbacks: vec![Fallback { account, model }],
                    ..KindSettings::default()
                };
                config.kinds.insert(kind.to_owned(), settings);
            }
            for lane in LANES {
                let lane = (
                    lane.to_owned(),
                    Lane {
                        concurrency: Some(1),
                        room: 1,
                        waits_at_most: Duration::from_secs(600),
                    },
                );
                config.lanes.extend([lane]);
            }
            config
                .models
                .insert("gpt-5-nano".to_owned(), Model::default());
            config.breaker.failures = 2;
            config.breaker.cool_down = Duration::from_secs(60);
            config.media.fetch_http = true;
            config.media.fetch_allow = vec![a.sandbox.addr(), b.sandbox.addr()];
            edit(config);
        };
        Self {
            one: Rig::new(base, kinds(), edited).await,
            other: Rig::new(base, kinds(), edited).await,
            a,
            b,
        }
    }

    /// What the control loops do.
    pub async fn learn(&self) {
        for rig in [&self.one, &self.other] {
            rig.lease.lock().await.tick().await;
            rig.control.tick().await.unwrap();
        }
    }

    pub async fn text(&self) -> JobId {
        self.one.enqueue(&envelope(TEXT, "default")).await
    }

    /// Requests for texts that arrived at both.
    async fn asked(&self) -> (usize, usize) {
        let count = async |it: &Outside| it.count("requests", CHAT).await;
        (count(&self.a).await, count(&self.b).await)
    }

    /// This host goes on until a job has ended; others may come before it.
    async fn ends(&self, rig: &Rig, id: JobId) {
        for _ in 0..6 {
            if self.one.job(id).await.state.is_terminal() {
                return;
            }
            rig.step("openai").await;
        }
    }

    /// Both hosts have looked, and nothing was there for them.
    async fn waits(&self, id: JobId, state: State) {
        for rig in [&self.one, &self.other] {
            for lane in LANES {
                assert_eq!(rig.step(lane).await, 0, "it spins");
            }
        }
        self.one.expect(id, state).await;
    }

    async fn close(&self, cause: Cause, account: &str) -> Closure {
        let scope = Scope {
            account: Some(account.to_owned()),
            ..Scope::default()
        };
        let ledger = &self.one.base.ledger;
        let now = ledger.now().await.unwrap();
        let closure = Closure::new(cause, scope, ("test", "so it is"), now);
        let closure = ledger.close(&closure, false, None).await.unwrap();
        self.learn().await;
        closure
    }

    async fn open(&self, it: &Closure) {
        let ledger = &self.one.base.ledger;
        assert!(ledger.open(it.cause, &it.scope, None).await.unwrap());
        self.learn().await;
    }

    /// A job that was done by this account, and at no charge.
    pub async fn done(&self, id: JobId, account: &str) -> Job {
        let job = self.one.expect(id, State::Completed).await;
        assert_eq!(job.attempts, 0, "{job:?}");
        assert_eq!(self.at(id).await, [account]);
        let by = match account {
            "a" | "call-a" => None,
            _ if job.kind == "http.call" => None,
            _ => Some(json!({"account": account, "instead_of": "a"})),
        };
        assert_eq!(result(&job).get("fallback").cloned(), by);
        job
    }

    /// The accounts for which something of a job was written down.
    async fn at(&self, id: JobId) -> Vec<String> {
        let effects = self.one.effects(id).await;
        effects.into_iter().map(|it| it.account).collect()
    }
}

pub fn envelope(kind: &str, tenant: &str) -> Value {
    let (account, payload) = match kind {
        TEXT => ("a", json!({"model": "gpt-5-mini", "prompt": "a fox"})),
        "illustrate.image" => ("a", json!({"model": "gpt-image-1", "prompt": "a fox"})),
        _ => ("call-a", json!({"type": "fox.draw", "data": "a fox"})),
    };
    json!({"kind": kind, "account": account, "tenant": tenant, "payload": payload})
}

fn result(job: &Job) -> Value {
    serde_json::from_str(job.result.as_deref().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_moves_new_jobs_on_and_they_come_back() {
    for base in Base::both().await {
        let pair = Pair::new(&base, |_| {}).await;
        pair.a.fault(CHAT, "503", 2).await;
        let opened = [pair.text().await, pair.text().await];
        for _ in opened {
            assert_eq!(pair.one.step("openai").await, 1);
        }
        for id in opened {
            let job = pair.one.expect(id, State::Retrying).await;
            assert_eq!(job.attempts, 1);
        }
        pair.learn().await;
        // what comes now goes to the other one, on whatever host, and burns nothing
        for rig in [&pair.one, &pair.other, &pair.one] {
            let id = pair.text().await;
            pair.ends(rig, id).await;
            let job = pair.done(id, "b").await;
            let model = result(&job)["model"].as_str().unwrap().to_owned();
            assert!(model.starts_with("gpt-5-nano"), "{model}");
        }
        assert_eq!(pair.asked().await, (2, 3));
        // what was sent stays, and looks no more often than it has to
        pair.one.advance(Duration::from_secs(20)).await;
        pair.learn().await;
        for rig in [&pair.one, &pair.other, &pair.one] {
            rig.step("openai").await;
        }
        for id in opened {
            pair.waits(id, State::Scheduled).await;
            assert_eq!(pair.at(id).await, ["a"]);
        }
        assert_eq!(pair.asked().await, (2, 3));
        // it works again: the probe finds that
        pair.one.advance(Duration::from_secs(45)).await;
        pair.learn().await;
        Prober::new(pair.one.shared.clone()).tick().await.unwrap();
        pair.learn().await;
        let id = pair.text().await;
        for _ in 0..3 {
            pair.one.advance(Duration::from_secs(31)).await;
            pair.learn().await;
            pair.other.step("openai").await;
        }
        pair.done(id, "a").await;
        for id in opened {
            let job = pair.one.expect(id, State::Completed).await;
            assert_eq!((job.attempts, pair.at(id).await), (1, vec!["a".to_owned()]));
        }
        assert_eq!(pair.asked().await, (5, 3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_effect_never_moves() {
    for base in Base::both().await {
        let pair = Pair::new(&base, |_| {}).await;
        // one whose answer was lost, and one whose host died amid its send
        pair.a.fault(CHAT, "act_504", 1).await;
        let lost = pair.text().await;
        assert_eq!(pair.one.step("openai").await, 1);
        let victim = Rig::new(&base, kinds(), |config| {
            *config = Config::clone(&pair.one.shared.config.load());
        })
        .await;
        pair.a.fault(CHAT, "act_hang", 1).await;
        // the other one may be due again by then
        let mut urgent = envelope(TEXT, "default");
        urgent["priority"] = "high".into();
        let killed = pair.one.enqueue(&urgent).await;
        let run = victim.begin(victim.take("openai").await.pop().unwrap());
        kit::wait::until("it is sent", SOON, async || {
            2 == pair.a.count("acts", CHAT).await
        })
        .await;
        run.abort();
        base.ledger.end_run(victim.shared.run_id()).await.unwrap();
        pair.other.sweeper.reclaim().await.unwrap();
        let closure = pair.close(Cause::Breaker, "a").await;
        // the place of the dead is found out by comparing
        kit::wait::until("it goes on", SOON, async || {
            pair.other.step("openai").await == 1
        })
        .await;
        for round in 0..4 {
            pair.one.advance(Duration::from_secs(240)).await;
            pair.learn().await;
            let rig = [&pair.one, &pair.other][round % 2];
            for _ in 0..2 {
                kit::wait::until("they look whether it is open", SOON, async || {
                    rig.step("openai").await == 1
                })
                .await;
            }
            for id in [lost, killed] {
                assert_eq!(pair.at(id).await, ["a"], "it moves");
                let effect = pair.one.effects(id).await.pop().unwrap();
                let open = [EffectState::Unknown, EffectState::Sending];
                assert!(open.contains(&effect.state), "{effect:?}");
            }
        }
        assert_eq!(pair.asked().await, (2, 0));
        // but for what is new: that goes on
        let id = pair.text().await;
        pair.ends(&pair.one, id).await;
        pair.done(id, "b").await;
        pair.open(&closure).await;
        for _ in 0..4 {
            pair.one.advance(Duration::from_secs(240)).await;
            pair.learn().await;
            pair.other.step("openai").await;
        }
        for id in [lost, killed] {
            let job = pair.one.expect(id, State::Completed).await;
            assert_eq!(result(&job)["usage"]["sends"], 2, "{job:?}");
            assert_eq!(pair.at(id).await, ["a"]);
        }
        assert_eq!(pair.asked().await, (4, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_choice_that_was_never_permitted_is_made_anew_and_work_that_was_begun_goes_on_there() {
    for base in Base::both().await {
        let pair = Pair::new(&base, |_| {}).await;
        let closure = pair.close(Cause::Breaker, "a").await;
        // the other one is stopped before its permit, where this host doesn't know it yet
        let id = pair.text().await;
        let taken = pair.one.take("openai").await.pop().unwrap();
        let stop = pair.close(Cause::Stop, "b").await;
        pair.one.shared.learn_closures(vec![closure.clone()]);
        pair.one.begin(taken).await.unwrap();
        let effect = pair.one.effects(id).await.pop().unwrap();
        assert_eq!(
            (&*effect.account, effect.state),
            ("b", EffectState::Intended)
        );
        pair.learn().await;
        pair.waits(id, State::Ready).await;
        pair.open(&closure).await;
        assert_eq!(pair.other.step("openai").await, 1);
        let job = pair.one.expect(id, State::Completed).await;
        assert_eq!(result(&job).get("fallback"), None);
        assert_eq!(pair.asked().await, (1, 0));
        pair.open(&stop).await;

        // what was begun at the other one ends there
        let closure = pair.close(Cause::Credentials, "a").await;
        pair.b
            .tell("settings", json!({"openai_work_ms": 60_000}))
            .await;
        let mut envelope = envelope(TEXT, "default");
        envelope["payload"]["background"] = true.into();
        let id = pair.one.enqueue(&envelope).await;
        assert_eq!(pair.one.step("openai").await, 1);
        pair.one.expect(id, State::Scheduled).await;
        pair.open(&closure).await;
        pair.b.tell("clock", json!({"advance_s": 90})).await;
        pair.one.advance(Duration::from_secs(90)).await;
        pair.learn().await;
        assert_eq!(pair.other.step("openai").await, 1);
        pair.done(id, "b").await;
        assert_eq!(pair.a.count("requests", "response.create").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_budget_and_refused_credentials_move_jobs_on() {
    let form = Form::Rolling {
        most: 1,
        window: chrono::Duration::hours(1),
    };
    let budget = |account: &str| Budget {
        account: Some(account.to_owned()),
        op: Some("openai.chat_completion".to_owned()),
        ..Budget::of_all(form, Per::Account)
    };
    for base in Base::both().await {
        let pair = Pair::new(&base, |config| {
            for name in ["a", "b"] {
                config.budgets.insert(name.to_owned(), budget(name));
            }
        })
        .await;
        let ids = [pair.text().await, pair.text().await, pair.text().await];
        for _ in 0..5 {
            pair.one.step("openai").await;
        }
        pair.done(ids[0], "a").await;
        assert_eq!(pair.asked().await, (1, 1));
        // whoever of the others came first went on; the one that is left waits, since both are used up
        assert_eq!(pair.one.step("openai").await, 0);
        let is_done = pair.one.job(ids[1]).await.state == State::Completed;
        let (gone, left) = match is_done {
            true => (ids[1], ids[2]),
            false => (ids[2], ids[1]),
        };
        pair.done(gone, "b").await;
        let job = pair.one.expect(left, State::Ready).await;
        assert_eq!(job.attempts, 0);
        pair.one.advance(Duration::from_secs(3_700)).await;
        pair.learn().await;
        pair.ends(&pair.one, left).await;
        pair.one.expect(left, State::Completed).await;

        let pair = Pair::new(&base, |_| {}).await;
        pair.a.fault(CHAT, "401", 1).await;
        let refused = pair.text().await;
        assert_eq!(pair.one.step("openai").await, 1);
        pair.learn().await;
        let id = pair.text().await;
        pair.ends(&pair.other, id).await;
        pair.done(id, "b").await;
        // it was permitted, and refused: it waits for its own account
        pair.waits(refused, State::Scheduled).await;
        assert_eq!(pair.at(refused).await, ["a"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_are_closed_or_a_person_stopped_it_a_job_waits_and_goes_on() {
    for base in Base::both().await {
        let pair = Pair::new(&base, |_| {}).await;
        let stop = pair.close(Cause::Stop, "a").await;
        let id = pair.text().await;
        pair.waits(id, State::Ready).await;
        let fails = pair.close(Cause::Breaker, "a").await;
        pair.waits(id, State::Ready).await;
        pair.open(&stop).await;
        // its own fails still, and the other one does so, too
        let both = pair.close(Cause::Breaker, "b").await;
        pair.waits(id, State::Ready).await;
        pair.open(&both).await;
        assert_eq!(pair.other.step("openai").await, 1);
        pair.done(id, "b").await;
        let id = pair.text().await;
        let both = pair.close(Cause::Stop, "b").await;
        pair.waits(id, State::Ready).await;
        pair.open(&fails).await;
        assert_eq!(pair.other.step("openai").await, 1);
        pair.done(id, "a").await;
        pair.open(&both).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_account_stands_in_for_nobody_else() {
    for base in Base::both().await {
        let pair = Pair::new(&base, |config| {
            let b = config.accounts.get_mut("b").expect("it is there");
            b.tenant = Some("acme".to_owned());
        })
        .await;
        let fails = pair.close(Cause::Breaker, "a").await;
        let foreign = pair.text().await;
        // dispatch doesn't know whose it is: each host tries it once
        for rig in [&pair.one, &pair.other] {
            assert_eq!(rig.step("openai").await, 1);
        }
        pair.waits(foreign, State::Ready).await;
        assert_eq!(pair.at(foreign).await, [""; 0]);
        let own = pair.one.enqueue(&envelope(TEXT, "acme")).await;
        assert_eq!(pair.other.step("openai").await, 1);
        pair.done(own, "b").await;
        pair.open(&fails).await;
        pair.one.advance(Duration::from_secs(6)).await;
        pair.learn().await;
        assert_eq!(pair.one.step("openai").await, 1);
        pair.done(foreign, "a").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_that_has_fallbacks_goes_on_there() {
    for base in Base::both().await {
        let pair = Pair::new(&base, |_| {}).await;
        for account in ["a", "call-a"] {
            pair.close(Cause::Account, account).await;
        }
        for (kind, account, op) in [
            (TEXT, "b", CHAT),
            ("illustrate.image", "b", "image.generate"),
            ("http.call", "call-b", "call"),
        ] {
            let id = pair.one.enqueue(&envelope(kind, "default")).await;
            let lane = pair.one.job(id).await.lane;
            assert_eq!(pair.one.step(&lane).await, 1, "{kind}");
            pair.done(id, account).await;
            let acts = async |it: &Outside| it.count("acts", op).await;
            assert_eq!((acts(&pair.a).await, acts(&pair.b).await), (0, 1), "{kind}");
        }
    }
}
