//! What a handler wants done, the right to do it once, and what an answer to it means. Pure.

use std::time::Duration;

use crate::budget::Price;
use crate::clock::Time;
use crate::effect::{EffectId, EffectState, Evidence, Receipt, Rule, chrono_of, pause};
use crate::json::Digest;
use crate::ledger::Conclusion;
use crate::outcome::{Class, Failure, Outcome, POLICY};
use crate::platform::CallError;
use crate::telemetry::redact;

/// A job comes back so long after the look at its effect was due, where nobody called it.
pub(crate) const LOOKED: Duration = Duration::from_secs(3);

/// An effect that a handler wants.
pub struct Wanted<'a> {
    /// The named part of the job.
    pub step: &'a str,
    /// Counts the effects of that step, from 0.
    pub ordinal: u32,
    /// What is done: `mastodon.status`.
    pub op: &'a str,
    /// What the platform's operation needs to be repeated, or not.
    pub rule: Rule,
    /// What is to be sent: text, media digests, target, options. Not what differs in each attempt.
    pub intent: serde_json::Value,
    /// What is minted once, before the first send, and the same in each (key, rkey, createdAt). Of class
    /// B, the handle: another one may be named as long as the last certainly led to nothing.
    pub keep: serde_json::Value,
    /// What it says to the readers of the account, for its guard; `None` where nobody reads it.
    pub says: Option<Digest>,
    /// The longest a send may take, answer included.
    pub budget: Duration,
    /// What a send costs, for budgets that count money.
    pub price: Price,
}

/// The right to send, once. `keep` is what was minted before the first send.
#[derive(Clone, Debug)]
pub struct Permit {
    /// The effect's id: a stable key for platforms that dedupe.
    pub id: EffectId,
    /// What was minted before the first send.
    pub keep: serde_json::Value,
    /// The number of this send, from 1.
    pub send: u32,
    /// Sends before this one whose answer was lost: they may have happened, and been paid for.
    pub lost: u32,
}

/// What an answer means for the effect, of which `lost` earlier sends have no known answer, and for
/// the handler.
pub(crate) fn concluded(
    wanted: &Wanted<'_>,
    lost: u32,
    sends: u32,
    now: Time,
    answer: Result<Receipt, CallError>,
) -> (Conclusion, Result<Receipt, Outcome>) {
    let (to, receipt, seen, result) = match answer {
        Ok(receipt) => {
            let seen = match &receipt.remote_id {
                Some(id) => format!("send {sends}: confirmed as {id}"),
                None => format!("send {sends}: confirmed"),
            };
            let seen = Evidence::new(now, seen);
            (
                EffectState::Confirmed,
                Some(receipt.clone()),
                seen,
                Ok(receipt),
            )
        }
        Err(CallError::Refused(failure)) => (
            // that a repeat was refused says nothing of the sends before it
            match lost {
                0 => EffectState::Refused,
                _ => EffectState::Unknown,
            },
            None,
            Evidence::refusal(now, sends, &failure),
            Err(failure.into()),
        ),
        Err(CallError::Unknown(failure)) => {
            let seen = Evidence::new(now, format!("send {sends}: {failure}"));
            let message = format!(
                "{}: the answer was lost ({failure}); it is looked at again before anything is sent",
                wanted.op
            );
            let wait = match wanted.rule.looking {
                Some(looking) => Some(chrono_of(looking.wait(0) + LOOKED)),
                None => failure.retry_after().or_else(|| pause(sends)),
            };
            let code = POLICY.into_iter().find(|it| *it == failure.code);
            let code = code.unwrap_or("unknown");
            let lost = Failure::new(Class::Unknown, failure.scope, code, message).after(wait);
            (EffectState::Unknown, None, seen, Err(lost.into()))
        }
    };
    let looking = wanted.rule.looking.filter(|_| to == EffectState::Unknown);
    (
        Conclusion {
            to,
            receipt,
            evidence: redacted(seen),
            look_in: looking.map(|it| it.wait(0)),
        },
        result,
    )
}

/// Evidence without secrets, which a platform's words may hold.
pub(crate) fn redacted(evidence: Evidence) -> Evidence {
    Evidence {
        seen: redact::text(&evidence.seen).into_owned(),
        ..evidence
    }
}

/// A receipt without our secrets, which a platform may have sent back.
pub(crate) fn shown(receipt: Receipt) -> Receipt {
    let known = |it: String| redact::known(&it).into_owned();
    Receipt {
        remote_id: receipt.remote_id.map(known),
        url: receipt.url.map(known),
        detail: redact::known_value(receipt.detail),
        ..receipt
    }
}
