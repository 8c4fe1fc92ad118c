//! What calls that are paid for have in common, whatever they make.

use std::time::Duration;

use serde_json::{Value, json};

use crate::budget::Price;
use crate::config::shown_key;
use crate::context::Context;
use crate::effect::{RESOLVED_BY, Receipt, Rule};
use crate::json::Digest;
use crate::outcome::{Failure, Held, Outcome};
use crate::platform::openai::Chat;
use crate::platform::openai_images::{self, Drawing};
use crate::platform::{openai, x};
use crate::results::digest_of;

/// What a send may take: the attempt's own time-out must not end a call that is about to be answered.
pub(super) fn budget(cx: &Context) -> Duration {
    Duration::from_secs(u64::from(cx.job.timeout_s.saturating_sub(5).max(1)))
}

/// Sent again after an unknown answer as often as the kind's settings say; once, when they don't.
pub(super) fn rule(cx: &Context) -> Rule {
    let kind = cx.config.kinds.get(&cx.job.kind);
    Rule::paid(kind.and_then(|it| it.resend_times).unwrap_or(1))
}

/// What a text costs at most, as far as anybody can say before.
pub(super) fn price_of_text(cx: &Context, chat: &Chat) -> Price {
    match cx.config.models.get(&chat.model) {
        Some(it) => Price::About(openai::estimate(it, chat), it.currency),
        None => unpriced(&chat.model),
    }
}

/// What pictures cost at most, drawn from so many others.
pub(super) fn price_of_pictures(cx: &Context, drawing: &Drawing, originals: usize) -> Price {
    match openai_images::price(&cx.config.models, drawing) {
        Some(it) => {
            let about = openai_images::estimate(it, drawing, originals);
            Price::About(about, it.currency)
        }
        None => unpriced(&drawing.model),
    }
}

fn unpriced(model: &str) -> Price {
    Price::Unknown(format!(
        "what the model `{model}` costs isn't known: say it under [models.{}] in jobs.toml and reload",
        shown_key(model)
    ))
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

/// The member of a result that says who made it, where that isn't the job's own account.
const FALLBACK: &str = "fallback";

/// Says in a result who made it, where that isn't the job's own account.
pub(super) fn say_who(cx: &Context, result: &mut Value) {
    if let (Some(tried), Some(account)) = (&cx.tried, &cx.job.account) {
        result[FALLBACK] = json!({"account": account, "instead_of": tried.account});
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

/// A request whose result may be taken from an earlier job, and is left to later ones.
pub(super) struct Cache<'a> {
    cx: &'a Context,
    request: Digest,
    age: Duration,
}

impl<'a> Cache<'a> {
    /// For what the effect is about to send (`intent`), where the kind's settings say an age and the
    /// payload (`cache`) doesn't object. Across the accounts of a server, never across tenants.
    pub(super) fn of(cx: &'a Context, cache: Option<bool>, intent: &Value) -> Option<Self> {
        let age = cx.config.kinds.get(&cx.job.kind)?.cache_age_s?;
        let request = json!({"kind": cx.job.kind, "platform": "openai", "intent": intent});
        (cache != Some(false)).then(|| Self {
            cx,
            request: digest_of(&request),
            age: Duration::from_secs(u64::from(age)),
        })
    }

    /// An earlier result, which says so and cost nothing.
    pub(super) async fn find(&self) -> Result<Option<Value>, Outcome> {
        let found = self.cx.results().find(self.request, self.age).await?;
        let Some((offered, mut result)) = found else {
            return Ok(None);
        };
        let (job, kind) = (self.cx.job.id, &self.cx.job.kind);
        tracing::info!(%job, kind, cached = %offered.job, "the result of an earlier job of the same request is taken: nothing is sent");
        let said = format!("taken from job {}, nothing was sent", offered.job);
        self.cx.progress(100, said);
        result["usage"] = json!({"input_tokens": 0, "output_tokens": 0, "sends": 0});
        result["cost_micros"] = 0.into();
        // that is for the earlier job to say
        if let Some(members) = result.as_object_mut() {
            members.shift_remove(FALLBACK);
        }
        result["cached"] = json!({"job": offered.job, "at": offered.at});
        Ok(Some(result))
    }

    /// Leaves what this job is about to complete with to later ones.
    pub(super) async fn offer(&self) -> Result<(), Outcome> {
        self.cx.results().offer(self.request, self.age).await
    }
}
