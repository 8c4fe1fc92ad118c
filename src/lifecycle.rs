//! Where a job stands, what can happen to it, and what follows: one total, pure function.
//!
//! [`advance`] is the only place that decides a change of state. The ledger applies what it
//! returns, and its CHECK constraints say the same as [`Transition::is_sound`].

use chrono::Duration;
use serde::Serialize;

use crate::clock::Time;
use crate::outcome::{Class, Failure, Held, LATE, Outcome, Scope, words};
use crate::retry::Policy;
use crate::sabotage;

words! {
    /// Where a job stands.
    State {
        /// Its parents haven't ended.
        Waiting = "waiting",
        /// Its time hasn't come.
        Scheduled = "scheduled",
        /// It may run.
        Ready = "ready",
        /// A run holds its lease.
        Running = "running",
        /// It failed and will be tried again.
        Retrying = "retrying",
        /// A person has to mend something first.
        Held = "held",
        /// An effect may or may not have happened: a person has to say.
        Unresolved = "unresolved",
        /// Done.
        Completed = "completed",
        /// Called off.
        Cancelled = "cancelled",
        /// Given up: a dead letter.
        Dead = "dead",
    }
}

impl State {
    /// Nothing but an operator's revive leaves it.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Dead)
    }

    /// A dispatcher may claim it once its `run_at` is past.
    pub fn is_claimable(self) -> bool {
        matches!(self, Self::Scheduled | Self::Ready | Self::Retrying)
    }
}

/// What can happen to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A dispatcher takes its lease.
    Claimed,
    /// Its attempt ended.
    Ended(Outcome),
    /// The handler of a suspect is about to begin: the crash is charged ahead of it.
    Begun,
    /// Its lease ran out, or its owner is proven dead.
    Reclaimed,
    /// Somebody asks to call it off.
    CancelAsked,
    /// `not_after` or its maximum age is past.
    Expired,
    /// An operator brings a dead letter back.
    Revived,
    /// An operator gives a dead letter up for good.
    Discarded,
    /// What it was held for is mended.
    Mended,
    /// A person wants what is held to be done however late it is: now, or at another time.
    Admitted(Option<Time>),
    /// A person has said what happened to its unknown effects.
    Resolved,
    /// A look at the platform told what became of the effect that it waits for, or the platform itself
    /// called about the work that it waits for.
    Looked,
}

/// What [`advance`] needs to know of a job.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Where it stands.
    pub state: State,
    /// Attempts that were charged.
    pub attempts: u32,
    /// Attempts in all.
    pub attempts_max: u32,
    /// Crashes in a row, as the ledger has them; to whoever ends the attempt: as it was claimed.
    pub crashes: u32,
    /// Somebody has asked to cancel it.
    pub cancel: bool,
    /// An effect of it may have happened, or a platform goes on working for it: that is seen to before it
    /// is called off.
    pub open: bool,
    /// The seed of its jitter.
    pub seed: u64,
    /// When it is too old to go on.
    pub expires_at: Time,
    /// Its kind's policy.
    pub policy: Policy,
}

/// What follows from an event: applied by the ledger in one write.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Transition {
    /// The state after it.
    pub to: State,
    /// When it may run next, where that changes.
    pub run_at: Option<Time>,
    /// Attempts charged (0 or 1).
    pub attempts: u32,
    /// Its crashes in a row after it: the count itself, so that what is written twice counts once.
    pub crashes: u32,
    /// The count of attempts starts again.
    pub reset: bool,
    /// However late it is, it is done: a person wants it. Where it is scheduled, it is late from then on.
    pub admitted: bool,
    /// Why it is held, in state `held` only.
    pub held: Option<Held>,
    /// The failure to keep as its last.
    pub failure: Option<Failure>,
    /// The value of the cancel mark after it.
    pub cancel: bool,
    /// It leaves the hot table for the history.
    pub archive: bool,
}

impl Transition {
    fn to(facts: &Facts, to: State) -> Self {
        Self {
            to,
            run_at: None,
            attempts: 0,
            crashes: facts.crashes,
            reset: false,
            admitted: false,
            held: None,
            failure: None,
            cancel: facts.cancel && !to.is_terminal(),
            archive: matches!(to, State::Completed | State::Cancelled),
        }
    }

    fn at(mut self, at: Time) -> Self {
        self.run_at = Some(at);
        self
    }

    fn with(mut self, failure: Failure) -> Self {
        self.failure = Some(failure);
        self
    }

    /// What the CHECK constraints of both ledgers say, too.
    pub fn is_sound(&self) -> bool {
        (self.held.is_some() == (self.to == State::Held))
            && (!self.archive || self.to.is_terminal())
            && (self.archive || !matches!(self.to, State::Completed | State::Cancelled))
            && self.attempts <= 1
            && self.crashes <= CRASHES_MAX
    }
}

/// Crashes in a row that make a job a suspect. Whatever ran beside a job that kills its daemon is
/// charged, too, so from here on its guilt is tried: of the suspects of a daemon one runs at a time,
/// and its crash is charged ahead, to it alone.
pub const CRASHES_SUSPECT: u32 = 2;
/// Crashes in a row that bury a job as poison: those above [`CRASHES_SUSPECT`] are deaths of daemons in
/// which it was the one suspect that had begun.
pub const CRASHES_MAX: u32 = 5;
// What kills its daemon each time does so CRASHES_SUSPECT times before it is a suspect itself: an
// innocent suspect that ran beside it each time must not be at the end by then.
const _: () = assert!(2 * CRASHES_SUSPECT < CRASHES_MAX);
/// The code of a job whose time is past.
const EXPIRED: &str = "expired";
/// A throttled job without the platform's word waits this long.
const THROTTLED: Duration = Duration::seconds(30);
/// What is given back isn't taken again at once: whatever it was given back for takes a moment.
const RELEASED_PAUSE: Duration = Duration::milliseconds(500);
/// An unknown outcome that the platform dedupes is looked at again after this long.
const UNKNOWN_PAUSE: Duration = Duration::seconds(2);

/// Whether a job with so many crashes in a row may be what kills its daemons.
pub fn is_suspect(crashes: u32) -> bool {
    CRASHES_SUSPECT <= crashes
}

/// What can't happen to a job in its state, in words for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// Decides what follows when `event` happens to a job at `now`.
///
/// # Errors
/// When the event can't happen in this state; nothing changes then.
pub fn advance(facts: &Facts, event: Event, now: Time) -> Result<Transition, Refused> {
    use State as S;
    let refused = |what: &str| Err(Refused(format!("a job that is {} {what}", facts.state)));
    match (facts.state, event) {
        (S::Scheduled | S::Ready | S::Retrying, Event::Claimed) => {
            Ok(Transition::to(facts, S::Running))
        }
        (_, Event::Claimed) => refused("can't be claimed"),

        (S::Running, Event::Ended(outcome)) => Ok(ended(facts, outcome, now)),
        (_, Event::Ended(_)) => refused("has no attempt that could end"),

        (S::Running, Event::Begun) if is_suspect(facts.crashes) => Ok(Transition {
            crashes: (facts.crashes + 1).min(CRASHES_MAX),
            ..Transition::to(facts, S::Running)
        }),
        (S::Running, Event::Begun) => refused("is no suspect"),
        (_, Event::Begun) => refused("has no attempt that could begin"),

        (S::Running, Event::Reclaimed) => Ok(reclaimed(facts, now)),
        (_, Event::Reclaimed) => refused("has no lease to reclaim"),

        (S::Running, Event::CancelAsked) => Ok(Transition {
            cancel: true,
            ..Transition::to(facts, S::Running)
        }),
        (S::Scheduled | S::Ready | S::Retrying | S::Held, Event::CancelAsked) if facts.open => {
            Ok(Transition {
                cancel: true,
                ..Transition::to(facts, S::Ready).at(now)
            })
        }
        (S::Waiting | S::Scheduled | S::Ready | S::Retrying | S::Held, Event::CancelAsked) => {
            Ok(Transition::to(facts, S::Cancelled))
        }
        (S::Unresolved, Event::CancelAsked) => {
            refused("can't be cancelled: say first what happened (presswork unresolved resolve)")
        }
        (S::Completed | S::Cancelled | S::Dead, Event::CancelAsked) => refused("has ended already"),

        // of a running one it is told when its lease is taken, before its handler starts
        (
            S::Waiting | S::Scheduled | S::Ready | S::Running | S::Retrying | S::Held,
            Event::Expired,
        ) => Ok(Transition::to(facts, S::Dead).with(expired())),
        (S::Unresolved, Event::Expired) => refused("waits for a person, however long"),
        (S::Completed | S::Cancelled | S::Dead, Event::Expired) => refused("has ended already"),

        (S::Dead, Event::Revived) => Ok(Transition {
            reset: true,
            admitted: true,
            crashes: 0,
            cancel: false,
            ..Transition::to(facts, S::Ready).at(now)
        }),
        (_, Event::Revived) => refused("is no dead letter: only those are revived"),

        (S::Dead, Event::Discarded) => Ok(Transition {
            archive: true,
            ..Transition::to(facts, S::Dead)
        }),
        (_, Event::Discarded) => refused("is no dead letter: only those are discarded"),

        (S::Held, Event::Mended) => Ok(Transition::to(facts, S::Ready).at(now)),
        (_, Event::Mended) => refused("isn't held"),

        (S::Held, Event::Admitted(at)) => Ok(Transition {
            admitted: true,
            ..match at.filter(|it| now < *it) {
                Some(at) => Transition::to(facts, S::Scheduled).at(at),
                None => Transition::to(facts, S::Ready).at(now),
            }
        }),
        (_, Event::Admitted(_)) => refused("isn't held"),

        (S::Unresolved, Event::Resolved) => Ok(Transition::to(facts, S::Ready).at(now)),
        (_, Event::Resolved) => refused("has nothing to resolve"),

        (S::Retrying, Event::Looked) => Ok(Transition::to(facts, S::Retrying).at(now)),
        (S::Scheduled, Event::Looked) => Ok(Transition::to(facts, S::Ready).at(now)),
        (_, Event::Looked) => refused("waits for no look"),
    }
}

/// Why a job is dead whose time is past.
pub fn expired() -> Failure {
    let message =
        "its not_after or its kind's maximum age is past; revive it if it is still wanted";
    Failure::new(Class::Permanent, Scope::Content, EXPIRED, message)
}

/// An attempt that came to an end of its own didn't kill its daemon: its crashes were no row. What is
/// given back has shown nothing: it keeps what it was claimed with, and a charge ahead is taken back.
fn ended(facts: &Facts, outcome: Outcome, now: Time) -> Transition {
    let crashes = match outcome {
        Outcome::Released { .. } | Outcome::Shut { .. } => facts.crashes,
        _ => 0,
    };
    Transition {
        crashes,
        ..after(facts, outcome, now)
    }
}

fn after(facts: &Facts, outcome: Outcome, now: Time) -> Transition {
    match outcome {
        Outcome::Completed(_) => Transition::to(facts, State::Completed),
        Outcome::Cancelled => Transition::to(facts, State::Cancelled),
        // what was cancelled meanwhile isn't run again
        Outcome::Snoozed { .. } | Outcome::Released { .. } | Outcome::Shut { .. }
            if facts.cancel && !facts.open =>
        {
            Transition::to(facts, State::Cancelled)
        }
        // dispatch passes over it for as long as it is shut; its place is the one it had
        Outcome::Shut { failure, .. } => Transition {
            failure,
            ..Transition::to(facts, State::Ready)
        },
        Outcome::Snoozed { until, .. } => later(facts, State::Scheduled, until, now),
        Outcome::Released { .. } => Transition {
            attempts: u32::from(sabotage!("failed.released")),
            ..Transition::to(facts, State::Ready).at(now + RELEASED_PAUSE)
        },
        Outcome::Held(held, failure) => Transition {
            held: Some(held),
            ..Transition::to(facts, State::Held).with(failure)
        },
        Outcome::Unresolved(failure) => Transition::to(facts, State::Unresolved).with(failure),
        Outcome::Failed(failure) => failed(facts, failure, now),
    }
}

/// Snoozes aren't counted, so the kind's maximum age bounds them.
fn later(facts: &Facts, to: State, until: Time, now: Time) -> Transition {
    if facts.expires_at <= now {
        return Transition::to(facts, State::Dead).with(expired());
    }
    Transition::to(facts, to).at(until.max(now))
}

fn failed(facts: &Facts, failure: Failure, now: Time) -> Transition {
    let charged = |it: Transition| Transition { attempts: 1, ..it };
    match failure.class {
        // an unknown effect must be looked at again even if the job was called off
        Class::Unknown => {
            let wait = failure.retry_after().unwrap_or(UNKNOWN_PAUSE);
            Transition::to(facts, State::Retrying)
                .at(now + wait)
                .with(failure)
        }
        _ if facts.cancel && !facts.open => Transition::to(facts, State::Cancelled).with(failure),
        Class::Throttled => {
            let wait = failure.retry_after().unwrap_or(THROTTLED);
            let mut transition = later(facts, State::Retrying, now + wait, now);
            transition.failure.get_or_insert(failure);
            transition
        }
        Class::Unauthorised => {
            let held = Some(Held::Account);
            Transition {
                held,
                ..Transition::to(facts, State::Held).with(failure)
            }
        }
        // nothing was tried
        Class::Permanent if [LATE, EXPIRED].contains(&failure.code.as_str()) => {
            Transition::to(facts, State::Dead).with(failure)
        }
        Class::Permanent => charged(Transition::to(facts, State::Dead).with(failure)),
        Class::Transient => {
            let failed = facts.attempts.saturating_add(1);
            if facts.attempts_max <= failed {
                return charged(Transition::to(facts, State::Dead).with(failure));
            }
            let wait = facts.policy.wait(failed, &failure, facts.seed);
            charged(
                Transition::to(facts, State::Retrying)
                    .at(now + wait)
                    .with(failure),
            )
        }
    }
}

/// Who isn't a suspect yet is charged. A suspect is charged ahead when it begins: below the end it may
/// have waited for its turn and is tried again; what has reached the end began, and its daemon died.
fn reclaimed(facts: &Facts, now: Time) -> Transition {
    if CRASHES_MAX <= facts.crashes {
        let alone = CRASHES_MAX - CRASHES_SUSPECT;
        let message = format!(
            "{CRASHES_MAX} daemons in a row died while they ran it, in the last {alone} no other suspect had begun: it may be what kills them"
        );
        let poison = Failure::new(Class::Permanent, Scope::Handler, "poison", message);
        return Transition::to(facts, State::Dead).with(poison);
    }
    let crashes = match is_suspect(facts.crashes) {
        true => facts.crashes,
        false => facts.crashes + 1,
    };
    // called off or not: an effect may be open, and the next run looks before it ends the job
    Transition {
        crashes,
        ..Transition::to(facts, State::Ready).at(now)
    }
}

#[cfg(test)]
mod tests;
