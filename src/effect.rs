//! An effect: one call that changes the outside world. Its identity, its states, and what may
//! follow each of them; the calls themselves are made by [`crate::context`].

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::{Time, stamp};
use crate::job::JobId;
use crate::json::Digest;
use crate::outcome::words;
use crate::sabotage;

/// The effect's own id: the same for each re-run of the same job, step and account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EffectId(pub Uuid);

/// The name space of effect ids (UUIDv5, RFC 9562), made once for Presswork.
const SPACE: Uuid = Uuid::from_u128(0x6f0d_41a5_2b1e_4c7b_9a36_5d1c_0e7f_8b24);

impl EffectId {
    /// The id of `job`'s effect number `ordinal` (from 0) in `step`, for `account`.
    /// Each part is length-prefixed, so that no two lists of parts look alike.
    pub fn new(job: JobId, revision: u32, step: &str, ordinal: u32, account: &str) -> Self {
        let name = format!(
            "{}:{revision}:{}:{step}:{ordinal}:{}:{account}",
            job.0,
            step.len(),
            account.len()
        );
        Self(Uuid::new_v5(&SPACE, name.as_bytes()))
    }
}

impl fmt::Display for EffectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

words! {
    /// Where an effect stands.
    EffectState {
        /// Written down, not permitted yet: it did not happen.
        Intended = "intended",
        /// Permitted: the request may be on its way.
        Sending = "sending",
        /// It happened; the receipt says where.
        Confirmed = "confirmed",
        /// A definitive answer: it did not happen.
        Refused = "refused",
        /// It may or may not have happened.
        Unknown = "unknown",
        /// Nothing could tell: a person must.
        Unresolved = "unresolved",
    }
}

words! {
    /// How the truth can be learnt after a lost answer.
    EffectClass {
        /// The platform dedupes by a key or id of ours, while the key lives.
        A = "A",
        /// A handle that we hold says yes or no.
        B = "B",
        /// Neither.
        C = "C",
        /// Paid, and invisible outside.
        P = "P",
    }
}

words! {
    /// What an operator has decided, in writing, about what was looked for in vain.
    Resend {
        /// A person says what happened.
        Ask = "ask",
        /// It is sent once more: the platform refuses a text that it has just published.
        DuplicateFilter = "duplicate-filter",
        /// It is sent once more, and once more again: better twice than not at all.
        Always = "always",
    }
}

impl Resend {
    /// How many sends there may be without a known answer.
    pub const fn sends_max(self) -> u32 {
        match self {
            Self::Ask => 1,
            Self::DuplicateFilter => 2,
            Self::Always => 3,
        }
    }
}

/// What a platform's operation needs to be repeated, or not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// How the truth can be learnt.
    pub class: EffectClass,
    /// How long the platform remembers our key, counted from the first send. `None`: for ever.
    pub key_life: Option<Duration>,
    /// How many sends there may be without a known answer, the first included (classes A and P).
    pub sends_max: u32,
    /// How long the platform may still be busy with a request whose sender is gone: a repeat waits
    /// for that, since a key that is stored only at the end protects nothing before.
    pub in_flight: Duration,
    /// How an effect without a known answer is looked for (classes B and C). `None`: nobody can look,
    /// so a person must.
    pub looking: Option<Looking>,
}

/// How an effect without a known answer is looked for: after growing waits, so that a platform that
/// is in trouble isn't stormed, and not for ever.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Looking {
    /// The wait before the first look, which is doubled after each.
    pub first: Duration,
    /// The longest wait between two looks.
    pub longest: Duration,
    /// So long after its last permit it is looked for.
    pub until: Duration,
    /// What follows then.
    pub resend: Resend,
}

impl Looking {
    /// What most platforms are looked at by: some 20 requests within a quarter of an hour. What a
    /// platform lists late it lists within minutes.
    pub const USUAL: Self = Self {
        first: Duration::from_secs(5),
        longest: Duration::from_secs(60),
        until: Duration::from_secs(900),
        resend: Resend::Ask,
    };

    /// The wait before the next look, after `looks` of them.
    pub fn wait(&self, looks: u32) -> Duration {
        let doubled = self.first.saturating_mul(1 << looks.min(16));
        doubled.min(self.longest)
    }
}

/// The usual [`Rule::in_flight`]: a status or a text that takes longer is rare, and a person who
/// waits for a restarted daemon shouldn't notice.
pub const IN_FLIGHT: Duration = Duration::from_secs(5);

impl Rule {
    /// Class A: the key lives for `key_life` (`None`: for ever).
    pub const fn keyed(key_life: Option<Duration>) -> Self {
        // a record that is put under our own id twice is the same record, at any moment
        let in_flight = match key_life {
            Some(_) => IN_FLIGHT,
            None => Duration::ZERO,
        };
        Self {
            class: EffectClass::A,
            key_life,
            sends_max: 20,
            in_flight,
            looking: None,
        }
    }

    /// Class B or C: after a lost answer nothing is sent before it was looked up, and `in_flight` is
    /// how long a request without a sender may still act.
    pub const fn looked_up(class: EffectClass, looking: Looking, in_flight: Duration) -> Self {
        Self {
            class,
            key_life: None,
            sends_max: 20,
            in_flight,
            looking: Some(looking),
        }
    }

    /// Class P: sent again `times` times after an unknown answer, each counted as spent.
    pub const fn paid(times: u32) -> Self {
        Self {
            class: EffectClass::P,
            key_life: None,
            sends_max: times.saturating_add(1),
            in_flight: IN_FLIGHT,
            looking: None,
        }
    }
}

/// The waits after a lost answer, the first and the longest: an outage must not use up the repeats
/// within a minute.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// The wait after the `sends`th send's answer was lost: doubled each time.
pub fn pause(sends: u32) -> Option<chrono::Duration> {
    let doublings = sends.saturating_sub(1).min(16);
    let wait = PAUSES.0.saturating_mul(1 << doublings).min(PAUSES.1);
    chrono::Duration::from_std(wait).ok()
}

/// Proof of an effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The platform's id of what was made.
    pub remote_id: Option<String>,
    /// Where a person can see it.
    pub url: Option<String>,
    /// When the platform answered.
    pub at: Time,
    /// What else the answer told that the job needs.
    #[serde(default)]
    pub detail: serde_json::Value,
}

/// An effect's row in the ledger.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Effect {
    /// Its deterministic id.
    pub id: EffectId,
    /// The job that wants it.
    pub job: JobId,
    /// The job's revision that wrote it down.
    pub revision: u32,
    /// The named part of the job.
    pub step: String,
    /// The account it is for.
    pub account: String,
    /// What is done: `mastodon.status`, `openai.chat_completion`.
    pub op: String,
    /// How the truth can be learnt.
    pub class: EffectClass,
    /// Where it stands.
    pub state: EffectState,
    /// The digest of what is to be sent (text, media digests, target, options), hexadecimal.
    pub intent: String,
    /// What was minted before the first send and must be the same in each: key, rkey, createdAt.
    pub keep: serde_json::Value,
    /// What it says to the readers of its account ([`crate::content::digest`]), where a guard looks.
    pub content: Option<Digest>,
    /// No permit is given while another effect of the account that says the same may have happened
    /// within so many seconds. `None`: nothing is refused for that.
    pub guard_s: Option<u32>,
    /// How many permits were given.
    pub sends: u32,
    /// When the first permit was given.
    pub first_sent_at: Option<Time>,
    /// When the last permit was given.
    pub permit_at: Option<Time>,
    /// The run that held the last permit.
    pub permit_run: Option<Uuid>,
    /// The time of the backup that the ledger was restored from (or at which a host that didn't tell was
    /// heard of last before a standby took over) while this wasn't confirmed: it may have been sent
    /// since without a trace here.
    pub maybe_since: Option<Time>,
    /// `keep` was minted after that, or (a handle, class B) may have been replaced since: what may have
    /// been sent had another.
    pub key_lost: bool,
    /// Proof, when confirmed.
    pub receipt: Option<Receipt>,
    /// What was seen: refusals, lost answers, look-ups, a person's word. Newest last.
    pub evidence: Vec<Evidence>,
    /// How often it was looked for since its last permit.
    pub looks: u32,
    /// When it is looked for next, while it is unknown.
    pub look_at: Option<Time>,
    /// What the platform goes on working on, until it is known what became of that.
    pub handle: Option<String>,
    /// What a call-back said of the work's end (JSON), where the platform is believed.
    pub told: Option<String>,
}

impl Effect {
    /// What is told of it where another one says the same.
    pub fn said_the_same(&self) -> String {
        let url = self.receipt.as_ref().and_then(|it| it.url.as_deref());
        let how = match (self.state, url) {
            (EffectState::Confirmed, Some(url)) => format!("published {url}"),
            (EffectState::Confirmed, None) => "published the same".to_owned(),
            _ => "may have published the same".to_owned(),
        };
        let at = self.permit_at.map(stamp).unwrap_or_default();
        format!("job {} {how} for this account at {at}", self.job)
    }

    /// When its first send was permitted, or may have been; `None`: nothing of it was begun.
    pub fn begun(&self) -> Option<Time> {
        let at = self.first_sent_at.or(self.permit_at).or(self.maybe_since);
        let begun = 0 < self.sends || self.state != EffectState::Intended;
        at.or_else(|| begun.then_some(Time::UNIX_EPOCH))
    }

    /// The effect number `ordinal` of a job's `step`, before anything was sent. What is to be sent
    /// (`intent`, `keep`) is the caller's to say.
    pub fn new(
        (job, revision): (JobId, u32),
        (step, ordinal): (&str, u32),
        account: &str,
        op: &str,
        class: EffectClass,
    ) -> Self {
        Self {
            id: EffectId::new(job, revision, step, ordinal, account),
            job,
            revision,
            step: step.to_owned(),
            account: account.to_owned(),
            op: op.to_owned(),
            class,
            state: EffectState::Intended,
            intent: String::new(),
            keep: serde_json::Value::Null,
            content: None,
            guard_s: None,
            sends: 0,
            first_sent_at: None,
            permit_at: None,
            permit_run: None,
            maybe_since: None,
            key_lost: false,
            receipt: None,
            evidence: Vec::new(),
            looks: 0,
            look_at: None,
            handle: None,
            told: None,
        }
    }

    /// Whether it may have happened and nobody knows.
    pub fn is_open(&self) -> bool {
        matches!(
            self.state,
            EffectState::Sending | EffectState::Unknown | EffectState::Unresolved
        )
    }

    /// Whether something of it is under way that a job which is called off doesn't leave behind: an
    /// answer, or work that the platform goes on with.
    pub fn is_unfinished(&self) -> bool {
        self.is_open() || self.handle.is_some()
    }

    /// The sends so far whose answer isn't known: what was permitted, and neither confirmed nor
    /// refused; and one that may have been made after the backup that the ledger was restored from.
    pub fn lost(&self) -> u32 {
        let refused = self.evidence.iter().filter(|it| it.refused).count();
        self.sends
            .saturating_sub(u32::try_from(refused).unwrap_or(u32::MAX))
            .saturating_add(u32::from(self.maybe_since.is_some()))
    }

    /// When the first request may have reached the platform.
    pub fn first_at(&self) -> Option<Time> {
        let both = [self.first_sent_at, self.maybe_since];
        both.into_iter().flatten().min()
    }

    /// Why nobody can know, after a restore or else by `usual`.
    fn doubt(&self, usual: String) -> String {
        match self.maybe_since {
            Some(backup) => restored(backup),
            None => usual,
        }
    }
}

/// Why an effect may have been sent although the ledger knows nothing of it: it was restored from a
/// backup of that time, or a standby took over and a host that was heard of last at that time says
/// nothing of what it sent.
pub fn restored(backup: Time) -> String {
    let at = stamp(backup);
    format!(
        "the ledger was restored from a backup of {at}, or taken over by a server that knows no more: it may have been sent since"
    )
}

/// The member of a receipt's detail that names the person on whose word it rests: there is nothing
/// else in it then.
pub const RESOLVED_BY: &str = "resolved_by";

/// The member of a receipt's detail that says that the answer was only the beginning: the platform goes
/// on working under the remote id.
pub const UNDER_WAY: &str = "under_way";
/// A longer remote id is no handle: ledgers couldn't look for it.
const HANDLE_MAX: usize = 255;

impl Receipt {
    /// What the platform goes on working under, where its answer was only the beginning.
    pub fn handle(&self) -> Option<&str> {
        let plain = |it: &&str| {
            it.len() <= HANDLE_MAX && !it.is_empty() && it.bytes().all(|b| b.is_ascii_graphic())
        };
        let id = self.remote_id.as_deref().filter(plain);
        id.filter(|_| self.detail[UNDER_WAY] == true)
    }

    /// How a receipt, written down as JSON, names a remote id: what ledgers look for in its text.
    pub fn naming(remote_id: &str) -> String {
        format!("\"remote_id\":{}", serde_json::Value::from(remote_id))
    }
}

/// One thing that was seen of an effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// When.
    pub at: Time,
    /// What: for people, without secrets.
    pub seen: String,
    /// It proves that one send didn't happen. Never read out of `seen`, whose words may be a platform's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
}

impl Evidence {
    /// Evidence that leaves open what became of a send, or tells that it happened.
    pub const fn new(at: Time, seen: String) -> Self {
        Self {
            at,
            seen,
            refused: false,
        }
    }

    /// Evidence that send number `send` didn't happen.
    pub fn refusal(at: Time, send: u32, why: impl fmt::Display) -> Self {
        Self {
            at,
            seen: format!("send {send}: refused: {why}"),
            refused: true,
        }
    }
}

/// A digest of an intent: what the effect would send.
pub fn intent_digest(intent: &serde_json::Value) -> String {
    let text = intent.to_string();
    match Digest::of_json(&text) {
        Ok(digest) => digest.hex(),
        Err(_) => Digest::of_bytes(text.as_bytes()).hex(),
    }
}

/// What may follow, given where an effect stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// It happened already: here is the receipt; nothing is sent.
    Done(Box<Receipt>),
    /// Take a permit and send.
    Send,
    /// Take a permit and send the same again with the same key.
    Repeat,
    /// A request may still be under way: look again then.
    Wait(Time),
    /// It is looked up before anything else happens: by the reconciler, from now on where it isn't yet.
    LookUp(Looking),
    /// Nobody can know but a person.
    Ask(String),
    /// This run would send something else than was written down.
    Nondeterministic,
}

/// Decides what may follow. Pure and total: the one place where a resend can come from.
///
/// `intent` is the digest of what this run would send; `patience` how long, from its permit on, a
/// request without an answer may still be under way; `now` the ledger's time.
pub fn next(effect: &Effect, rule: &Rule, intent: &str, patience: Duration, now: Time) -> Next {
    if let (EffectState::Confirmed, Some(receipt)) = (effect.state, &effect.receipt) {
        return Next::Done(Box::new(receipt.clone()));
    }
    if effect.intent != intent && !sabotage!("effect.intent") {
        return Next::Nondeterministic;
    }
    match effect.state {
        EffectState::Intended | EffectState::Refused => Next::Send,
        EffectState::Confirmed => Next::Ask("it is confirmed without a receipt".to_owned()),
        EffectState::Unresolved => {
            let usual = "it is not known whether it happened";
            Next::Ask(effect.doubt(usual.to_owned()))
        }
        EffectState::Sending => match effect.permit_at.map(|it| it + chrono_of(patience)) {
            Some(until) if now < until && !sabotage!("effect.in_flight") => Next::Wait(until),
            _ => unknown(effect, rule, now),
        },
        EffectState::Unknown => unknown(effect, rule, now),
    }
}

fn unknown(effect: &Effect, rule: &Rule, now: Time) -> Next {
    // what was refused certainly didn't happen: it doesn't use up a repeat
    let lost = effect.lost();
    if rule.sends_max <= lost && !sabotage!("effect.sends_max") {
        let usual = format!("it was sent {lost} times and no answer could be read");
        return Next::Ask(effect.doubt(usual));
    }
    match rule.class {
        EffectClass::P => Next::Repeat,
        EffectClass::A if effect.key_lost => {
            Next::Ask(effect.doubt("the key of an earlier send is lost".to_owned()))
        }
        EffectClass::A => match (rule.key_life, effect.first_at()) {
            (None, _) => Next::Repeat,
            _ if sabotage!("effect.key_life") => Next::Repeat,
            // the clock of the key runs at the platform from the first request on: keep a margin
            (Some(life), Some(first)) if now - first < chrono_of(life) * 9 / 10 => Next::Repeat,
            _ => {
                let usual = "the answer was lost and the platform has forgotten our key";
                Next::Ask(effect.doubt(usual.to_owned()))
            }
        },
        EffectClass::B | EffectClass::C => match rule.looking {
            Some(looking) => Next::LookUp(looking),
            None => {
                let usual = "the answer was lost and the platform can't be asked";
                Next::Ask(effect.doubt(usual.to_owned()))
            }
        },
    }
}

/// A bound in the arithmetic of times; beyond what that holds: practically for ever.
pub fn chrono_of(life: Duration) -> chrono::Duration {
    chrono::Duration::from_std(life).unwrap_or(chrono::Duration::MAX / 16)
}

#[cfg(test)]
mod tests;
