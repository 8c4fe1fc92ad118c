//! What a kind is: a payload type, its schema, its defaults, and the code that runs it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;

use crate::config::{Config, KindSettings};
use crate::context::{Context, Probe};
use crate::effect::{Effect, Looking, Rule};
use crate::finding::Finding;
use crate::job::Envelope;
use crate::json::{Digest, Violation, did_you_mean, escape};
use crate::outcome::Outcome;
use crate::retry::Policy;

/// What a kind is by itself; `jobs.toml` may say otherwise.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// Its name: `post.mastodon`.
    pub name: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// Its lane.
    pub lane: &'static str,
    /// How often, and how far apart.
    pub retry: Policy,
    /// Seconds an attempt may take.
    pub timeout_s: u32,
    /// Seconds a job may grow old. Default of the design: 7 days.
    pub age_max_s: u32,
    /// The platforms of which it needs an account; none where it needs no account.
    pub platforms: &'static [&'static str],
    /// A payload to start from.
    pub example: &'static str,
}

/// Seven days, the default maximum age.
pub const AGE_MAX_S: u32 = 7 * 86_400;

/// The code of a kind.
pub trait Handler: Send + Sync + 'static {
    /// What it needs. Derive `Deserialize` with `deny_unknown_fields`, and `JsonSchema`.
    type Payload: DeserializeOwned + JsonSchema + Send + 'static;
    /// What the kind is by itself.
    const DEFAULTS: Defaults;
    /// How its effects of class B or C are looked for after a lost answer. `None`: it has none.
    const LOOKED_UP: Option<Rule> = None;
    /// The operations one of which a job of it comes to, as budgets call them: of a scheduled job a place
    /// is kept there. Empty: only budgets of all operations keep one.
    const SENDS: &'static [&'static str] = &[];

    /// What can be said against a payload without asking anybody: every violation at once, each
    /// with a pointer into the payload (`/text`).
    fn preflight(
        _payload: &Self::Payload,
        _envelope: &Envelope,
        _config: &Config,
    ) -> Vec<Violation> {
        Vec::new()
    }

    /// What it is going to say to the readers of its account, for the content guard
    /// ([`crate::content::digest`]); media that only the run can read stand by where they lie. `None`:
    /// it says nothing.
    fn says(_payload: &Self::Payload) -> Option<Digest> {
        None
    }

    /// Its lane, where the payload decides that. `None`: the kind's.
    fn lane(_payload: &Self::Payload, _config: &Config) -> Option<String> {
        None
    }

    /// Runs one attempt. The value is the job's result.
    fn run(
        cx: &Context,
        payload: Self::Payload,
    ) -> impl Future<Output = Result<serde_json::Value, Outcome>> + Send;

    /// Looks, once, for what became of an effect of which no answer was heard. Changes nothing.
    fn look(
        _probe: &Probe,
        _payload: Self::Payload,
        effect: &Effect,
    ) -> impl Future<Output = Finding> + Send {
        let op = effect.op.clone();
        async move { Finding::CannotTell(format!("this program can't look for {op}")) }
    }
}

type Looked = Pin<Box<dyn Future<Output = Finding> + Send>>;

type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A kind in the list.
#[derive(Clone)]
pub struct Kind {
    /// What it is by itself.
    pub defaults: Defaults,
    schema: fn() -> Schema,
    check: fn(&Envelope, &Config) -> Vec<Violation>,
    says: fn(&str) -> Option<Digest>,
    lane: fn(&str, &Config) -> Option<String>,
    run: fn(Arc<Context>) -> Running,
    looked_up: Option<Rule>,
    sends: &'static [&'static str],
    look: fn(Probe, Effect) -> Looked,
}

impl Kind {
    /// The kind whose code is `H`.
    pub fn of<H: Handler>() -> Self {
        Self {
            defaults: H::DEFAULTS,
            schema: || schemars::schema_for!(H::Payload),
            check: |envelope, config| match read::<H::Payload>(&envelope.payload) {
                Ok(payload) => H::preflight(&payload, envelope, config),
                Err(first) => misfits::<H::Payload>(&envelope.payload, first),
            },
            says: |payload| H::says(&read(payload).ok()?),
            lane: |payload, config| H::lane(&read(payload).ok()?, config),
            run: |cx| {
                Box::pin(async move {
                    let payload = match read::<H::Payload>(&cx.job.payload) {
                        Ok(it) => it,
                        Err(it) => {
                            return crate::outcome::Failure::permanent("payload", it.to_string())
                                .into();
                        }
                    };
                    match H::run(&cx, payload).await {
                        Ok(value) => Outcome::Completed(value),
                        Err(outcome) => outcome,
                    }
                })
            },
            looked_up: H::LOOKED_UP,
            sends: H::SENDS,
            look: |probe, effect| {
                Box::pin(async move {
                    match read::<H::Payload>(&probe.job.payload) {
                        Ok(payload) => H::look(&probe, payload, &effect).await,
                        Err(it) => Finding::CannotTell(format!("the payload can't be read: {it}")),
                    }
                })
            },
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.defaults.name
    }

    /// The operations one of which a job of it comes to.
    pub fn sends(&self) -> &'static [&'static str] {
        self.sends
    }

    /// Its payload's JSON Schema (2020-12), derived from the type.
    pub fn schema(&self) -> Schema {
        (self.schema)()
    }

    /// Checks an envelope's payload: schema first, then preflight. Pointers begin at the payload.
    pub fn check(&self, envelope: &Envelope, config: &Config) -> Vec<Violation> {
        (self.check)(envelope, config)
    }

    /// What a payload is going to say, for the content guard.
    pub fn says(&self, payload: &str) -> Option<Digest> {
        (self.says)(payload)
    }

    /// The lane of an envelope under a configuration: its own, else the payload's, else the kind's.
    pub fn lane(&self, envelope: &Envelope, config: &Config) -> String {
        let own = envelope.lane.clone();
        let own = own.or_else(|| (self.lane)(&envelope.payload, config));
        own.unwrap_or_else(|| self.settings(config).lane)
    }

    /// Runs one attempt.
    pub fn run(&self, cx: Arc<Context>) -> impl Future<Output = Outcome> + Send + use<> {
        (self.run)(cx)
    }

    /// How its effects are looked for under a configuration, where they can be.
    pub fn looked_up(&self, config: &Config) -> Option<Rule> {
        let said = config.kinds.get(self.name());
        self.looked_up.map(|it| looked_up(it, said))
    }

    /// Looks, once, for what became of an effect.
    pub fn look(
        &self,
        probe: Probe,
        effect: Effect,
    ) -> impl Future<Output = Finding> + Send + use<> {
        (self.look)(probe, effect)
    }

    /// Its lane, policy, timeout (s) and maximum age (s) under a configuration.
    pub fn settings(&self, config: &Config) -> Settings {
        let none = KindSettings::default();
        let said = config.kinds.get(self.name()).unwrap_or(&none);
        Settings {
            lane: said
                .lane
                .clone()
                .unwrap_or_else(|| self.defaults.lane.to_owned()),
            retry: said.retry.or(config.retry).unwrap_or(self.defaults.retry),
            timeout_s: said.timeout_s.unwrap_or(self.defaults.timeout_s),
            age_max_s: said.age_max_s.unwrap_or(self.defaults.age_max_s),
        }
    }
}

/// A kind's own rule for looking, with what `jobs.toml` says otherwise.
pub fn looked_up(rule: Rule, said: Option<&KindSettings>) -> Rule {
    let own = rule.looking.unwrap_or(Looking::USUAL);
    let looking = Looking {
        first: said.and_then(|it| it.look_after).unwrap_or(own.first),
        until: said.and_then(|it| it.look_for).unwrap_or(own.until),
        resend: said.and_then(|it| it.resend).unwrap_or(own.resend),
        ..own
    };
    Rule {
        looking: Some(looking),
        ..rule
    }
}

/// What holds for a kind under a configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Its lane.
    pub lane: String,
    /// How often, and how far apart.
    pub retry: Policy,
    /// Seconds an attempt may take.
    pub timeout_s: u32,
    /// Seconds a job may grow old.
    pub age_max_s: u32,
}

/// Reads a payload; what is wrong is told with its pointer.
fn read<T: DeserializeOwned>(text: &str) -> Result<T, Violation> {
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let mut pointer = String::new();
        for part in e.path() {
            use serde_path_to_error::Segment;
            match part {
                Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
                Segment::Map { key } => pointer.push_str(&format!("/{}", escape(key))),
                Segment::Enum { variant } => pointer.push_str(&format!("/{}", escape(variant))),
                Segment::Unknown => {}
            }
        }
        Violation::new(pointer, plain(&e.into_inner().to_string()))
    })
}

/// So many violations of a payload's shape are told.
const MISFITS_MAX: usize = 20;

/// All that keeps a payload from being read, beginning with `first`: serde stops at the first
/// misfit, so each one is taken out and the rest is read again, until nothing more is found.
fn misfits<T: DeserializeOwned>(text: &str, first: Violation) -> Vec<Violation> {
    let Ok(mut rest) = serde_json::from_str::<serde_json::Value>(text) else {
        return vec![first];
    };
    let (mut found, mut next) = (Vec::new(), Some(first));
    while let Some(it) = next.filter(|_| found.len() < MISFITS_MAX) {
        let taken = take_out(&mut rest, &it.pointer);
        // what was taken out is missing only because of that
        let missing = it
            .message
            .strip_prefix(MISSING)
            .and_then(|it| it.split('`').next());
        let here = |name: &str| format!("{}/{}", it.pointer, escape(name));
        let ours = missing.is_some_and(|name| {
            let at = here(name);
            found.iter().any(|it: &Violation| it.pointer == at)
        });
        match missing {
            _ if ours => {}
            Some(name) => found.push(Violation::new(here(name), "is missing")),
            None => found.push(it),
        }
        next = match taken {
            true => read::<T>(&rest.to_string()).err(),
            false => None,
        };
    }
    found
}

/// How serde begins to say that a member is missing.
const MISSING: &str = "missing field `";

/// Takes the member that a pointer names out of its object. An element of an array stays: without
/// it the others would be told under wrong pointers.
fn take_out(document: &mut serde_json::Value, pointer: &str) -> bool {
    let Some((parent, name)) = pointer.rsplit_once('/') else {
        return false;
    };
    let name = name.replace("~1", "/").replace("~0", "~");
    let object = document
        .pointer_mut(parent)
        .and_then(serde_json::Value::as_object_mut);
    object.is_some_and(|it| it.shift_remove(&name).is_some())
}

/// serde's words, without the position (the pointer says where) and with a suggestion.
fn plain(message: &str) -> String {
    let message = message
        .rsplit_once(" at line ")
        .map_or(message, |(it, _)| it);
    let mut words = message.split('`').skip(1).step_by(2);
    match (message.starts_with("unknown "), words.next()) {
        (true, Some(word)) => format!("{message}{}", did_you_mean(word, words)),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only its shape matters here")]
    struct Payload {
        text: String,
        #[serde(default)]
        count: Option<u32>,
        #[serde(default)]
        inner: Option<Inner>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only its shape matters here")]
    struct Inner {
        flag: bool,
    }

    fn told(text: &str) -> Vec<String> {
        let first = read::<Payload>(text).err().expect("it doesn't fit");
        let all = misfits::<Payload>(text, first);
        all.into_iter().map(|it| it.pointer).collect()
    }

    #[test]
    fn all_that_does_not_fit_is_told_at_once() {
        assert_eq!(
            told(r#"{"txt": 1, "count": "many", "inner": {"flg": true}}"#),
            ["/txt", "/count", "/inner/flg", "/inner/flag", "/text"]
        );
        assert_eq!(
            told(r#"{"txt": 1, "count": "many"}"#),
            ["/txt", "/count", "/text"]
        );
        // a member that is there and wrong isn't told as missing, too
        assert_eq!(told(r#"{"text": 7}"#), ["/text"]);
        assert_eq!(told("{}"), ["/text"]);
        assert_eq!(told(r#"{"text": "a", "inner": "x"}"#), ["/inner"]);
    }
}
