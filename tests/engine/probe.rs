//! `test.probe`: a kind whose every run, and every send of its effects, a test watches and scripts.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use presswork::budget::Price;
use presswork::clock::Time;
use presswork::content::digest;
use presswork::context::{self, Context, Permit, Wanted};
use presswork::effect::{Effect, EffectClass, IN_FLIGHT, Looking, Receipt, Rule};
use presswork::finding::Finding;
use presswork::handler::{AGE_MAX_S, Defaults, Handler, Kind};
use presswork::outcome::{Class, Failure, Outcome, Scope};
use presswork::platform::CallError;
use presswork::retry::Policy;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How the platform answers a send.
#[derive(Clone, Debug)]
pub enum Says {
    Yes,
    No(Failure),
    Lost,
    /// Answers only when the test adds a permit to `cue`.
    OnCue(Box<Says>),
    /// Never: the effect's budget ends it.
    Never,
}

/// What the probes of one test share.
pub struct World {
    pub id: String,
    /// The names of the runs, as they began.
    pub starts: Mutex<Vec<String>>,
    running: AtomicUsize,
    /// The most runs at once.
    pub peak: AtomicUsize,
    /// Runs that were dropped before they ended.
    pub dropped: AtomicUsize,
    pub gate: Semaphore,
    answers: Mutex<VecDeque<Says>>,
    /// Every send, as it was permitted.
    pub sent: Mutex<Vec<Permit>>,
    pub cue: Semaphore,
    tokens: Mutex<Vec<CancellationToken>>,
    /// Something that a run asked for and a re-run gets otherwise.
    pub text: Mutex<String>,
    findings: Mutex<VecDeque<Finding>>,
    /// Every effect that was looked for, as it stood.
    pub looks: Mutex<Vec<Effect>>,
}

static WORLDS: LazyLock<Mutex<HashMap<String, Arc<World>>>> = LazyLock::new(Mutex::default);

impl World {
    pub fn new() -> Arc<Self> {
        let world = Arc::new(Self {
            id: uuid::Uuid::new_v4().to_string(),
            starts: Mutex::default(),
            running: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
            gate: Semaphore::new(0),
            answers: Mutex::default(),
            sent: Mutex::default(),
            cue: Semaphore::new(0),
            tokens: Mutex::default(),
            text: Mutex::new("hello".to_owned()),
            findings: Mutex::default(),
            looks: Mutex::default(),
        });
        WORLDS
            .lock()
            .unwrap()
            .insert(world.id.clone(), world.clone());
        world
    }

    fn find(id: &str) -> Arc<Self> {
        WORLDS.lock().unwrap()[id].clone()
    }

    /// An envelope of a probe of this world.
    pub fn job(&self, act: &str, name: impl ToString) -> Value {
        json!({"kind": "test.probe", "payload": {"world": self.id, "act": act, "name": name.to_string()}})
    }

    /// How the next sends are answered; after them, yes.
    pub fn answers(&self, says: impl IntoIterator<Item = Says>) {
        self.answers.lock().unwrap().extend(says);
    }

    /// What the next looks find; after them, nothing.
    pub fn finds(&self, findings: impl IntoIterator<Item = Finding>) {
        self.findings.lock().unwrap().extend(findings);
    }

    pub fn looks(&self) -> usize {
        self.looks.lock().unwrap().len()
    }

    pub fn starts(&self) -> Vec<String> {
        self.starts.lock().unwrap().clone()
    }

    pub fn sends(&self) -> usize {
        self.sent.lock().unwrap().len()
    }

    /// The last run was told to stop.
    pub fn is_told_to_stop(&self) -> bool {
        self.tokens
            .lock()
            .unwrap()
            .last()
            .is_some_and(CancellationToken::is_cancelled)
    }

    async fn platform(&self, permit: Permit) -> Result<Receipt, CallError> {
        let send = permit.send;
        self.sent.lock().unwrap().push(permit);
        let mut says = self
            .answers
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or(Says::Yes);
        while let Says::OnCue(then) = says {
            self.cue.acquire().await.unwrap().forget();
            says = *then;
        }
        match says {
            Says::No(failure) => Err(CallError::Refused(failure)),
            Says::Lost => Err(CallError::Unknown(Failure::new(
                Class::Unknown,
                Scope::Platform,
                "reset",
                "the test lost the answer",
            ))),
            Says::Never => std::future::pending().await,
            Says::Yes | Says::OnCue(_) => Ok(Receipt {
                remote_id: Some(format!("remote-{send}")),
                url: Some("https://example.com/1".to_owned()),
                at: Time::UNIX_EPOCH,
                detail: Value::Null,
            }),
        }
    }
}

/// A refusal of a class, with a Retry-After in ms where it isn't 0.
pub fn no(class: Class, retry_after_ms: u64) -> Says {
    let mut failure = Failure::new(class, Scope::Platform, "asked", "the test says no");
    failure.retry_after_ms = Some(retry_after_ms).filter(|it| *it != 0);
    Says::No(failure)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Payload {
    world: String,
    name: String,
    act: Act,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Act {
    /// Ends at once.
    Note,
    /// Gives others a turn some times.
    Yield,
    /// Waits for the gate, whatever it is told.
    Gate,
    /// Looks at a setting before the gate and after it.
    Settings,
    /// Tells progress, then waits for the gate.
    Tell,
    /// Waits until it is told to stop.
    Watch,
    /// Waits for the gate and fails, transiently.
    GateFail,
    /// An effect of class A whose key lives for an hour.
    Keyed,
    /// An effect of class P, repeated once.
    Paid,
    /// An effect of class B: a handle tells.
    Handle,
    /// An effect of class C: a look may confirm.
    Blind,
    /// A step, then an effect of class A, then a wait for the gate.
    Steps,
}

struct Run(Arc<World>, bool);

impl Run {
    fn begin(world: &Arc<World>, name: &str) -> Self {
        world.starts.lock().unwrap().push(name.to_owned());
        let running = world.running.fetch_add(1, Ordering::SeqCst) + 1;
        world.peak.fetch_max(running, Ordering::SeqCst);
        Self(world.clone(), false)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        if !self.1 {
            self.0.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

struct Probe;

impl Handler for Probe {
    type Payload = Payload;
    const DEFAULTS: Defaults = Defaults {
        name: "test.probe",
        about: "is watched by a test",
        lane: "default",
        retry: Policy {
            attempts_max: 3,
            base_ms: 1_000,
            cap_ms: 4_000,
        },
        timeout_s: 60,
        age_max_s: AGE_MAX_S,
        platforms: &[],
        example: r#"{"world": "", "name": "", "act": "note"}"#,
    };
    const LOOKED_UP: Option<Rule> = Some(LOOKED_UP);

    async fn run(cx: &Context, payload: Payload) -> Result<Value, Outcome> {
        let world = World::find(&payload.world);
        world.tokens.lock().unwrap().push(cx.cancelled.clone());
        let mut run = Run::begin(&world, &payload.name);
        let ended = act(cx, &world, payload.act).await;
        run.1 = true;
        ended
    }

    async fn look(_: &context::Probe, payload: Payload, effect: &Effect) -> Finding {
        let world = World::find(&payload.world);
        world.looks.lock().unwrap().push(effect.clone());
        let says = world.findings.lock().unwrap().pop_front();
        says.unwrap_or_else(|| Finding::CannotTell("the test sees nothing".to_owned()))
    }
}

/// How lost answers are looked for, of class C.
pub const LOOKED_UP: Rule = Rule::looked_up(EffectClass::C, Looking::USUAL, IN_FLIGHT);

async fn act(cx: &Context, world: &Arc<World>, act: Act) -> Result<Value, Outcome> {
    let gate = async || world.gate.acquire().await.unwrap().forget();
    match act {
        Act::Note => {}
        Act::Yield => {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
        }
        Act::Gate => gate().await,
        Act::Settings => {
            let before = cx.config.window;
            gate().await;
            return Ok(json!([before, cx.config.window]));
        }
        Act::Tell => {
            cx.progress(42, "half way");
            gate().await;
        }
        Act::Watch => cx.wait(Duration::from_secs(3_600)).await?,
        Act::GateFail => {
            gate().await;
            return Err(Failure::transient("asked", "the test says no").into());
        }
        Act::Keyed | Act::Paid | Act::Handle | Act::Blind => return effect(cx, world, act).await,
        Act::Steps => {
            let name = world.text.lock().unwrap().clone();
            let value: String = cx.step("draw", async { Ok(name) }).await?;
            let receipt = effect(cx, world, Act::Keyed).await?;
            gate().await;
            return Ok(json!({"step": value, "receipt": receipt}));
        }
    }
    Ok(json!({"ran": true}))
}

async fn effect(cx: &Context, world: &Arc<World>, act: Act) -> Result<Value, Outcome> {
    let rule = match act {
        Act::Paid => Rule::paid(1),
        Act::Handle => Rule {
            class: EffectClass::B,
            ..LOOKED_UP
        },
        Act::Blind => LOOKED_UP,
        _ => Rule::keyed(Some(Duration::from_secs(3_600))),
    };
    let wanted = Wanted {
        step: "publish",
        ordinal: 0,
        op: "test.publish",
        rule,
        intent: json!({"text": *world.text.lock().unwrap()}),
        keep: json!({"key": uuid::Uuid::new_v4().to_string()}),
        says: digest::<&str>(&world.text.lock().unwrap(), &[], &[]),
        budget: Duration::from_secs(5),
        price: Price::Free,
    };
    let receipt = cx.effect(wanted, |permit| world.platform(permit)).await?;
    Ok(json!({"id": receipt.remote_id}))
}

/// The kinds of the program, and the probe.
pub fn kinds() -> Vec<Kind> {
    let mut kinds = presswork::kinds::all();
    kinds.push(Kind::of::<Probe>());
    kinds
}
