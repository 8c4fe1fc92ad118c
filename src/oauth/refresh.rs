//! What becomes of an account's grant: when it is renewed, by whom, and what follows each answer. Pure.
//!
//! ```text
//! ok --begin--> refreshing(holder, until) --granted--> ok, version + 1
//!                 |  '--lost--> refreshing, once more with the old token --lost--> needs attention
//!                 '--refused--> needs attention
//! ```
//!
//! Each arrow is a compare-and-set of the record, so that of two hosts one goes on. `tries` counts the
//! requests with this version's token of whose answer nobody knows; it is written down *before* the
//! request, so that a holder that dies has counted, too. A rotating token is sent twice at most.

use chrono::TimeDelta;
use uuid::Uuid;

use crate::clock::Time;

use super::answer::{Grant, Told, Verdict};
use super::issuer::Renewal;

/// How often a token that is good for one use is sent: once, and once more when no answer came. Issuers
/// take the same one again for a moment; those that don't revoke everything, and more wouldn't help.
pub const TRIES: u32 = 2;
/// How long a holder has for a request and for writing down what came of it. A host that died is stood
/// in for after that.
pub const HOLD: TimeDelta = TimeDelta::seconds(60);
/// How long the request itself may take: well within [`HOLD`].
pub const DEADLINE: std::time::Duration = std::time::Duration::from_secs(20);
/// The longest time ahead of its end at which a token is renewed.
const AHEAD_MAX: TimeDelta = TimeDelta::days(7);
/// The wait after a refusal that isn't for ever, unless the issuer says another.
const WAIT: TimeDelta = TimeDelta::seconds(60);
/// The longest wait, whatever an issuer says.
const WAIT_MAX: TimeDelta = TimeDelta::hours(1);

/// Where an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It may be used.
    Ok,
    /// Somebody is at it.
    Refreshing,
    /// A person must come.
    Attention,
    /// A person stopped it.
    Paused,
}

/// What the record says of an account.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Where it is.
    pub phase: Phase,
    /// Requests with this token of whose answer nobody knows.
    pub tries: u32,
    /// Who is at it.
    pub held_by: Option<Uuid>,
    /// Until when somebody is at it; with [`Phase::Ok`], before when nobody begins again.
    pub held_until: Option<Time>,
    /// Since when it has these tokens.
    pub since: Time,
    /// Until when its token lives, if that is known.
    pub expires_at: Option<Time>,
    /// Its platform has refused its token.
    pub refused: bool,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Nothing before then, if ever.
    Rest(Option<Time>),
    /// Take hold of it, count a try, and ask.
    Begin,
    /// Nobody knows what came of its last request, and nothing may be sent any more: a person must come.
    GiveUp,
    /// Its token is over, and nothing but a person renews it.
    Over,
}

/// What follows an answer.
#[derive(Clone, Debug)]
pub enum Next {
    /// Write the new tokens down, with the next version, and let the account go on.
    Store(Grant),
    /// Ask once more at once, with the same token: count a try first.
    Repeat,
    /// Let go of it, and ask again later. `tries`: what the record says from now on.
    Release {
        /// Requests of whose answer nobody knows.
        tries: u32,
        /// How long nobody asks.
        wait: TimeDelta,
        /// What happened.
        told: Told,
    },
    /// A person must come.
    Attention(Told),
}

impl Seen {
    /// When it is to be renewed: a fifth of its life before its end, seven days at most, and for each
    /// account a little earlier, by `jitter` (0 to 255), so that not all come at once.
    pub fn due(&self, jitter: u8) -> Option<Time> {
        let end = self.expires_at?;
        let life = (end - self.since).max(TimeDelta::zero());
        let ahead = (life / 5).min(AHEAD_MAX);
        Some(end - ahead - ahead * i32::from(jitter) / 1_024)
    }

    /// Whether its token works as far as anybody knows.
    pub fn is_alive(&self, now: Time) -> bool {
        !self.refused && self.expires_at.is_none_or(|it| now < it)
    }

    /// What is to be done about it now.
    pub fn step(&self, renewal: Renewal, jitter: u8, now: Time) -> Step {
        let held = self.held_until.filter(|it| now < *it);
        match (self.phase, renewal) {
            (Phase::Attention | Phase::Paused, _) => Step::Rest(None),
            // somebody is at it, or it is too early to ask again
            (Phase::Ok | Phase::Refreshing, _) if held.is_some() => Step::Rest(held),
            (Phase::Ok, Renewal::Person) => match self.is_alive(now) {
                true => Step::Rest(self.expires_at),
                false => Step::Over,
            },
            // what was left behind under another configuration
            (Phase::Refreshing, Renewal::Person) => Step::Over,
            (Phase::Ok, _) if !self.refused && self.due(jitter).is_none_or(|it| now < it) => {
                Step::Rest(self.due(jitter))
            }
            (Phase::Ok | Phase::Refreshing, Renewal::Rotating) if TRIES <= self.tries => {
                Step::GiveUp
            }
            (Phase::Ok | Phase::Refreshing, _) => Step::Begin,
        }
    }
}

/// What follows an answer to the request that made it `tries`, where the old token is `alive`.
pub fn next(verdict: Verdict, renewal: Renewal, tries: u32, alive: bool) -> Next {
    let before = tries.saturating_sub(1);
    let wait = |after_s: Option<u64>| {
        let said = after_s.and_then(|it| TimeDelta::try_seconds(i64::try_from(it).ok()?));
        said.unwrap_or(WAIT).clamp(TimeDelta::seconds(1), WAIT_MAX)
    };
    match (verdict, renewal) {
        (Verdict::Granted(it), _) => Next::Store(it),
        (Verdict::Gone(told), _) => Next::Attention(told),
        // mended in the configuration, it goes on by itself while the token lives
        (Verdict::Client(told), _) if alive => Next::Release {
            tries: before,
            wait: WAIT_MAX.min(WAIT * 10),
            told,
        },
        (Verdict::Client(told), _) => Next::Attention(told),
        (Verdict::Later(told, after_s), _) => Next::Release {
            tries: before,
            wait: wait(after_s),
            told,
        },
        (Verdict::Unknown(_), Renewal::Rotating) if tries < TRIES => Next::Repeat,
        (Verdict::Unknown(told), Renewal::Rotating) => Next::Attention(told),
        // the token stays good whatever became of the request
        (Verdict::Unknown(told), _) => Next::Release {
            tries: 0,
            wait: wait(None),
            told,
        },
    }
}

#[cfg(test)]
mod tests;
