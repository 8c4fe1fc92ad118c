//! What calls that are paid for have in common, whatever they make.

use std::time::Duration;

use crate::context::Context;
use crate::effect::{RESOLVED_BY, Receipt, Rule};
use crate::outcome::{Failure, Held, Outcome};
use crate::platform::{openai, x};

/// What a send may take: the attempt's own time-out must not end a call that is about to be answered.
pub(super) fn budget(cx: &Context) -> Duration {
    Duration::from_secs(u64::from(cx.job.timeout_s.saturating_sub(5).max(1)))
}

/// Sent again after an unknown answer as often as the kind's settings say; once, when they don't.
pub(super) fn rule(cx: &Context) -> Rule {
    let kind = cx.config.kinds.get(&cx.job.kind);
    Rule::paid(kind.and_then(|it| it.resend_times).unwrap_or(1))
}

/// Waiting doesn't fill an account, so such a job is held until somebody did.
pub(super) fn out_of_money(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Failed(it)
            if [openai::NO_MONEY, x::NO_MONEY]
                .concat()
                .contains(&it.code.as_str()) =>
        {
            Outcome::Held(Held::Budget, it)
        }
        other => other,
    }
}

/// A person can say that something was made, but not bring it here.
pub(super) fn is_here(receipt: &Receipt, what: &str) -> Result<(), Failure> {
    match receipt.detail[RESOLVED_BY].as_str() {
        None => Ok(()),
        Some(who) => {
            let message = format!(
                "{who} says that it was generated, but the {what} isn't here: take it from the platform, or enqueue a new job, which is paid for again"
            );
            Err(Failure::permanent("receipt", message))
        }
    }
}
