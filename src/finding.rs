//! What a look-up at the platform says of an effect whose answer was lost, and what follows.

use std::time::Duration;

use crate::clock::Time;
use crate::effect::{
    Effect, EffectClass, EffectState, Evidence, Looking, Receipt, Resend, chrono_of,
};

use crate::sabotage;

/// What a look-up at the platform says of an effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// It is there.
    Happened(Box<Receipt>),
    /// It certainly isn't, and the lost request can't make it any more; why, for people.
    DidNotHappen(String),
    /// It wasn't found, or couldn't be looked for; what was seen, for people.
    CannotTell(String),
}

/// What follows from a look-up.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The effect's state after it.
    pub to: EffectState,
    /// Proof, when confirmed.
    pub receipt: Option<Receipt>,
    /// The evidence to keep.
    pub evidence: Evidence,
    /// The wait before the next look, when there is one.
    pub look_in: Option<Duration>,
}

/// Decides what a look-up means. Pure and total: the one place that clears an unknown effect without
/// a person.
///
/// That something isn't found proves nothing in class C, whatever an adapter says, nor while a lost
/// request may still be under way, nor by another handle than the one that may have been used. Only an
/// operator's written word ([`Looking::resend`]) has it sent again all the same, and a bounded number of
/// times.
pub fn judge(
    effect: &Effect,
    looking: &Looking,
    in_flight: Duration,
    finding: Finding,
    now: Time,
) -> Judged {
    let number = effect.looks;
    let seen = |it: String| Evidence::new(now, format!("look {number}: {it}"));
    let since = effect.permit_at.or(effect.maybe_since).map(|it| now - it);
    let settled = since.is_none_or(|it| chrono_of(in_flight) <= it) || sabotage!("judge.in_flight");
    let is_handle = effect.class == EffectClass::B && !effect.key_lost;
    let (finding, is_handle) = match finding {
        Finding::CannotTell(why) if sabotage!("judge.not_found") => {
            (Finding::DidNotHappen(why), true)
        }
        it => (it, is_handle),
    };
    let unclear = |why: String| match since {
        Some(since) if since < chrono_of(looking.until) => Judged {
            to: EffectState::Unknown,
            receipt: None,
            evidence: seen(why),
            look_in: Some(looking.wait(number)),
        },
        _ if looking.resend != Resend::Ask && effect.lost() < looking.resend.sends_max() => {
            Judged {
                to: EffectState::Refused,
                receipt: None,
                // no refusal, which would use up no repeat
                evidence: seen(format!(
                    "{why}; it is sent again, as resend = \"{}\" says",
                    looking.resend
                )),
                look_in: None,
            }
        }
        _ => Judged {
            to: EffectState::Unresolved,
            receipt: None,
            evidence: seen(format!("{why}; it isn't looked for any more")),
            look_in: None,
        },
    };
    match finding {
        Finding::Happened(receipt) => Judged {
            to: EffectState::Confirmed,
            evidence: seen("it is there".to_owned()),
            receipt: Some(*receipt),
            look_in: None,
        },
        Finding::DidNotHappen(why) if is_handle && settled => Judged {
            to: EffectState::Refused,
            receipt: None,
            // it uses up no repeat
            evidence: Evidence::refusal(now, effect.sends, format_args!("look {number}: {why}")),
            look_in: None,
        },
        Finding::DidNotHappen(why) => unclear(format!("{why}, which proves nothing yet")),
        Finding::CannotTell(why) => unclear(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::IN_FLIGHT;
    use crate::job::JobId;
    use chrono::{TimeDelta, TimeZone, Utc};
    use uuid::Uuid;

    fn unknown(class: EffectClass, sent: Time) -> Effect {
        let job = (JobId(Uuid::nil()), 0);
        Effect {
            state: EffectState::Unknown,
            sends: 1,
            first_sent_at: Some(sent),
            permit_at: Some(sent),
            looks: 3,
            ..Effect::new(job, ("publish", 0), "a", "x", class)
        }
    }

    #[test]
    fn only_a_handle_clears_and_only_once_nothing_is_under_way() {
        let now = Utc.timestamp_opt(1_000_000, 0).unwrap();
        let judged = |class, ago: i64, finding: Finding| {
            let it = unknown(class, now - TimeDelta::seconds(ago));
            judge(&it, &Looking::USUAL, IN_FLIGHT, finding, now)
        };
        let absent = || Finding::DidNotHappen("the container expired".to_owned());
        let blank = || Finding::CannotTell("not in the timeline".to_owned());
        use EffectClass::{B, C};
        use EffectState::{Confirmed, Refused, Unknown, Unresolved};
        for (class, ago, finding, to) in [
            (B, 60, absent(), Refused),
            (B, 4, absent(), Unknown),
            (C, 60, absent(), Unknown),
            (C, 1_000, absent(), Unresolved),
            (B, 60, blank(), Unknown),
            (B, 899, blank(), Unknown),
            (B, 901, blank(), Unresolved),
            (C, 901, blank(), Unresolved),
        ] {
            let it = judged(class, ago, finding.clone());
            assert_eq!(it.to, to, "{class} after {ago} s: {finding:?}");
            assert_eq!(it.look_in.is_some(), to == Unknown);
        }
        // an operator's word: so many sends without an answer, and no more
        for (resend, sends, to) in [
            (Resend::DuplicateFilter, 1, Refused),
            (Resend::DuplicateFilter, 2, Unresolved),
            (Resend::Always, 2, Refused),
            (Resend::Always, 3, Unresolved),
        ] {
            let looking = Looking {
                resend,
                ..Looking::USUAL
            };
            let lost = Effect {
                sends,
                ..unknown(C, now - TimeDelta::seconds(901))
            };
            let it = judge(&lost, &looking, IN_FLIGHT, blank(), now);
            assert_eq!(it.to, to, "{resend} after {sends}");
            let early = unknown(C, now - TimeDelta::seconds(60));
            let it = judge(&early, &looking, IN_FLIGHT, blank(), now);
            assert_eq!(it.to, Unknown, "it is looked for first");
        }
        // restored since: the handle that was used then may be another one
        let restored = Effect {
            key_lost: true,
            ..unknown(B, now - TimeDelta::seconds(60))
        };
        let it = judge(&restored, &Looking::USUAL, IN_FLIGHT, absent(), now);
        assert_eq!(it.to, Unknown);
        let receipt = Receipt {
            remote_id: Some("1".into()),
            url: None,
            at: now,
            detail: serde_json::Value::Null,
        };
        let found = judged(C, 2_000, Finding::Happened(Box::new(receipt.clone())));
        assert_eq!((found.to, found.receipt), (Confirmed, Some(receipt)));
    }
}
