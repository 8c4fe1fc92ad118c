//! The checker: joins what was accepted, what the ledger says of it, and what the sandbox really did.
//!
//! The sandbox's log is the truth about the outside. Each text that is sent begins with its job's key
//! (`job-000042`), so that an act finds its job whatever the ledger believes.

#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;

use futures_util::StreamExt;
use presswork::effect::{Effect, EffectClass, EffectState};
use presswork::job::Job;
use presswork::ledger::{Attempt, Filter, Ledger};
use presswork::lifecycle::{CRASHES_MAX, State, is_suspect};
use presswork::outcome::Class;
use serde_json::Value;

/// Jobs that a look at the ledger lists at most.
const MOST: u32 = 1_000_000;
/// Faults that are told.
const TOLD: usize = 25;

/// How a job is meant to end, when nothing stops it for good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ends {
    Completed,
    /// As a dead letter of this code.
    Dead(&'static str),
}

/// A job that was acknowledged.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub key: String,
    pub kind: &'static str,
    pub ends: Ends,
}

/// What was found, for people.
#[derive(Debug, Default)]
pub struct Found {
    pub states: BTreeMap<String, usize>,
    pub attempts: usize,
    /// Attempts that ended with their owner.
    pub reclaimed: usize,
    /// Jobs that several owners' deaths made suspects, at some time.
    pub suspects: usize,
    /// Jobs that several owners' deaths buried.
    pub poisoned: usize,
    pub effects: usize,
    pub acts: usize,
    /// Sends beyond the first of their effect.
    pub repeats: usize,
}

/// Acts by the key of their job.
struct Acts<'a>(HashMap<&'a str, Vec<&'a Value>>);

/// The key that a text begins with.
fn key_in(text: &str) -> Option<&str> {
    let at = text.find("job-")?;
    text.get(at..at + "job-000000".len())
}

impl<'a> Acts<'a> {
    fn of(acts: &'a [Value]) -> Self {
        let mut by_key: HashMap<&str, Vec<&Value>> = HashMap::new();
        for act in acts {
            let text = match act["op"].as_str() {
                Some("status.create" | "putRecord" | "post.create" | "media.publish") => {
                    act["text"].as_str()
                }
                Some("chat.completion") => act["detail"]["prompt"].as_str(),
                Some("object.put") => act["key"].as_str(),
                _ => None,
            };
            if let Some(key) = text.and_then(key_in) {
                by_key.entry(key).or_default().push(act);
            }
        }
        Self(by_key)
    }

    fn of_key(&self, key: &str) -> &[&'a Value] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }
}

/// Whether every job that the ledger has taken has ended, or waits for a person.
pub async fn all_ended(ledger: &dyn Ledger) -> bool {
    let Ok(counts) = ledger.counts().await else {
        return false;
    };
    let rest = |state: State| !state.is_terminal() && state != State::Unresolved;
    !counts.iter().any(|((_, state), n)| rest(*state) && 0 < *n)
}

/// Every job of the ledger, by its key.
pub async fn by_key(ledger: &dyn Ledger) -> Vec<Job> {
    let filter = Filter {
        states: State::ALL.to_vec(),
        limit: MOST,
        ..Filter::default()
    };
    ledger
        .jobs(&filter)
        .await
        .expect("the ledger lists its jobs")
}

/// Checks every promise about jobs that have all ended.
///
/// # Panics
/// With all that is wrong.
pub async fn check(ledger: &dyn Ledger, wanted: &[Wanted], acts: &[Value]) -> Found {
    let mut wrong: Vec<String> = Vec::new();
    let mut found = Found::default();
    let acts = Acts::of(acts);
    let listed = by_key(ledger).await;
    if listed.len() != wanted.len() {
        let (there, sent) = (listed.len(), wanted.len());
        wrong.push(format!("{sent} jobs were accepted, {there} are there"));
    }
    let mut jobs: HashMap<String, Job> = HashMap::new();
    for job in listed {
        let key = job.key.clone().unwrap_or_else(|| job.id.to_string());
        if let Some(other) = jobs.insert(key.clone(), job) {
            wrong.push(format!("{key}: two jobs, one of them {}", other.id));
        }
    }
    let keys: BTreeSet<&str> = wanted.iter().map(|it| it.key.as_str()).collect();
    for key in acts.0.keys().filter(|it| !keys.contains(**it)) {
        wrong.push(format!("{key}: an act of a job that nobody sent"));
    }
    let stories = wanted.iter().map(|it| {
        let job = jobs.remove(&it.key);
        async move {
            let Some(job) = job else { return (it, None) };
            let attempts = ledger.attempts(job.id).await.expect("attempts");
            let effects = ledger.effects(job.id).await.expect("effects");
            (it, Some((job, attempts, effects)))
        }
    });
    let mut stories = futures_util::stream::iter(stories).buffer_unordered(4);
    while let Some((it, story)) = stories.next().await {
        let Some((job, attempts, effects)) = story else {
            wrong.push(format!("{}: lost", it.key));
            continue;
        };
        let mut told = Told {
            key: &it.key,
            wrong: &mut wrong,
        };
        told.job(it, &job, &effects);
        told.attempts(&job, &attempts);
        told.effects(&job, &effects, acts.of_key(&it.key));
        *found.states.entry(job.state.to_string()).or_default() += 1;
        found.attempts += attempts.len();
        found.reclaimed += attempts
            .iter()
            .filter(|it| it.outcome == "reclaimed")
            .count();
        let was_suspect = (0..=attempts.len()).any(|n| is_suspect(*crashes(&attempts[..n]).end()));
        found.suspects += usize::from(was_suspect);
        found.poisoned += usize::from(is_poisoned(&job));
        found.effects += effects.len();
        found.acts += acts.of_key(&it.key).len();
        let repeats = effects.iter().map(|it| it.sends.saturating_sub(1) as usize);
        found.repeats += repeats.sum::<usize>();
    }
    let more = wrong.len().saturating_sub(TOLD);
    wrong.truncate(TOLD);
    assert!(
        wrong.is_empty(),
        "{}\n(and {more} more; {found:?})",
        wrong.join("\n")
    );
    found
}

/// So many lost answers put an effect in front of a person.
fn asks_after(class: EffectClass) -> u32 {
    match class {
        EffectClass::C => 1,
        _ => 2,
    }
}

fn is_poisoned(job: &Job) -> bool {
    let code = job.failure.as_ref().map(|it| it.code.as_str());
    job.state == State::Dead && code == Some("poison") && CRASHES_MAX <= job.crashes
}

/// The crashes in a row at the end of a history. A suspect is charged only for what it had begun, which
/// the history doesn't tell: so at least so many, and at most.
fn crashes(attempts: &[Attempt]) -> RangeInclusive<u32> {
    let (mut least, mut most) = (0, 0);
    for it in attempts {
        match it.outcome.as_str() {
            "reclaimed" => {
                least += u32::from(!is_suspect(least));
                most = (most + 1).min(CRASHES_MAX);
            }
            "released" | "expired" => {}
            _ => (least, most) = (0, 0),
        }
    }
    least..=most
}

/// Tells what is wrong with one job.
struct Told<'a> {
    key: &'a str,
    wrong: &'a mut Vec<String>,
}

impl Told<'_> {
    fn unless(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(format!("{}: {}", self.key, what()));
        }
    }

    /// It ended as meant; what didn't has a reason that its history tells.
    fn job(&mut self, wanted: &Wanted, job: &Job, effects: &[Effect]) {
        self.unless(job.kind == wanted.kind, || format!("is a {}", job.kind));
        let code = job.failure.as_ref().map(|it| it.code.clone());
        let as_meant = match wanted.ends {
            Ends::Completed => job.state == State::Completed,
            Ends::Dead(meant) => job.state == State::Dead && code.as_deref() == Some(meant),
        };
        let explained = match job.state {
            State::Unresolved => effects
                .iter()
                .any(|it| it.state == EffectState::Unresolved && asks_after(it.class) <= it.lost()),
            _ => is_poisoned(job),
        };
        self.unless(as_meant || explained, || {
            format!("meant to be {:?}, is {} ({code:?})", wanted.ends, job.state)
        });
    }

    /// Settled once; each lease at most once in the history; charged for what failed only.
    fn attempts(&mut self, job: &Job, attempts: &[Attempt]) {
        let epochs: Vec<u32> = attempts.iter().map(|it| it.epoch).collect();
        let each: BTreeSet<u32> = epochs.iter().copied().collect();
        self.unless(each.len() == epochs.len(), || {
            format!("settled twice: {epochs:?}")
        });
        let newest = each.last().copied().unwrap_or_default();
        self.unless(newest <= job.epoch, || {
            format!("an attempt of lease {newest}, and it had {}", job.epoch)
        });
        let of = |word: &str| attempts.iter().filter(|it| it.outcome == word).count();
        let done = usize::from(job.state == State::Completed);
        self.unless(of("completed") == done, || {
            format!("is {} and completed {} times", job.state, of("completed"))
        });
        let charged = attempts.iter().filter(|it| {
            let class = it.failure.as_ref().map(|it| it.class);
            it.outcome == "failed" && matches!(class, Some(Class::Transient | Class::Permanent))
        });
        let (charged, crashes) = (charged.count(), crashes(attempts));
        self.unless(charged == job.attempts as usize, || {
            format!("{charged} attempts failed, {} are charged", job.attempts)
        });
        self.unless(crashes.contains(&job.crashes), || {
            format!(
                "{crashes:?} owners died in a row, {} are charged",
                job.crashes
            )
        });
        self.unless(job.attempts <= job.attempts_max, || {
            "tried too often".to_owned()
        });
    }

    /// Each effect at most once, by the sandbox's own log, and the ledger doesn't say otherwise.
    fn effects(&mut self, job: &Job, effects: &[Effect], acts: &[&Value]) {
        let ids: BTreeSet<_> = effects.iter().map(|it| it.id).collect();
        self.unless(effects.len() <= 1 && ids.len() == effects.len(), || {
            format!("{} effects of one step", effects.len())
        });
        let Some(effect) = effects.first() else {
            self.unless(acts.is_empty(), || {
                format!("{} acts, and no effect", acts.len())
            });
            self.unless(
                job.state != State::Completed || job.kind == "test.job",
                || "completed without an effect".to_owned(),
            );
            return;
        };
        let (sends, state) = (effect.sends, effect.state);
        let most = match effect.class {
            EffectClass::P => sends as usize,
            _ => 1,
        };
        self.unless(acts.len() <= most, || {
            format!(
                "happened {} times, sent {sends} times, class {}",
                acts.len(),
                effect.class
            )
        });
        let key = ["key", "rkey", "container"]
            .iter()
            .find_map(|it| effect.keep[*it].as_str());
        // an object's key is the job's own
        let ours = |it: &&&Value| it["op"] == "object.put" || it["key"].as_str() == key;
        let strange = acts.len() - acts.iter().filter(ours).count();
        self.unless(strange == 0 || effect.class == EffectClass::P, || {
            format!("{strange} acts under another key than {key:?}")
        });
        match state {
            EffectState::Confirmed => self.unless(!acts.is_empty(), || {
                "confirmed, and it never happened".to_owned()
            }),
            EffectState::Refused | EffectState::Intended => {
                self.unless(acts.is_empty(), || format!("{state}, and it happened"))
            }
            EffectState::Sending | EffectState::Unknown | EffectState::Unresolved => {}
        }
        self.unless(
            job.state != State::Completed || state == EffectState::Confirmed,
            || format!("completed, and its effect is {state}"),
        );
    }
}
