//! What a text is once it is written, whichever way it was asked for: the job's result from it.

use serde_json::{Value, json};

use crate::effect::Receipt;
use crate::outcome::{Failure, Outcome};
use crate::platform::openai::Completion;

use super::super::paid;

/// What was written, and how often that was asked for: what was lost may have been made, so it counts as
/// spent.
pub(super) struct Made {
    /// The answer.
    pub completion: Completion,
    /// How often it may have been paid for.
    pub sends: u64,
}

/// What a recorded answer holds: a re-run reads the same, and pays nothing.
pub(super) fn made(receipt: &Receipt) -> Result<Made, Outcome> {
    paid::is_here(receipt, "text")?;
    let completion = serde_json::from_value(receipt.detail.clone()).map_err(|e| {
        let why = format!("the recorded answer can't be read: {e}");
        Failure::permanent("receipt", why)
    })?;
    Ok(Made {
        completion,
        sends: sends(receipt),
    })
}

/// How often the effect of a receipt was sent, and may have been paid for.
pub(super) fn sends(receipt: &Receipt) -> u64 {
    receipt.detail["sends"].as_u64().unwrap_or(1)
}

/// The job's result.
pub(super) fn told(made: Made, as_json: bool) -> Result<Value, Outcome> {
    let Made { completion, sends } = made;
    if let Some(why) = completion.refusal {
        let message = format!("the model refused: {why}; it was paid for; change the prompt");
        return Err(Failure::permanent("refusal", message).into());
    }
    let text = completion.text.unwrap_or_default();
    if completion.finish_reason == "content_filter" {
        let message = "the platform's filter cut the answer; it was paid for; change the prompt";
        return Err(Failure::permanent("content_filter", message).into());
    }
    let mut result = json!({});
    if as_json {
        if completion.finish_reason == "length" {
            let message = format!(
                "the answer was cut after {} tokens, so its JSON isn't whole; it was paid for; `presswork dead revive --edit` with a higher max_tokens",
                completion.output_tokens
            );
            return Err(Failure::permanent("truncated", message).into());
        }
        result["json"] = serde_json::from_str(&text).map_err(|e| {
            let message = format!("the model's answer is no JSON ({e}); it was paid for");
            Outcome::from(Failure::permanent("no_json", message))
        })?;
    } else {
        result["text"] = text.into();
        if completion.finish_reason == "length" {
            result["truncated"] = true.into();
        }
    }
    result["model"] = completion.model.into();
    result["usage"] = json!({
        "input_tokens": completion.input_tokens,
        "output_tokens": completion.output_tokens,
        "sends": sends,
    });
    result["cost_micros"] = json!(completion.cost_micros.map(|it| it.saturating_mul(sends)));
    result["request_id"] = json!(completion.request_id);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(detail: Value) -> Receipt {
        let mut whole = json!({
            "text": "{\"a\": 1}", "refusal": null, "finish_reason": "stop", "model": "m",
            "input_tokens": 3, "output_tokens": 4, "cost_micros": 10, "request_id": "r",
        });
        for (name, value) in detail.as_object().unwrap() {
            whole[name] = value.clone();
        }
        Receipt {
            remote_id: None,
            url: None,
            at: crate::clock::Time::UNIX_EPOCH,
            detail: whole,
        }
    }

    fn code(detail: Value, as_json: bool) -> String {
        let outcome = told(made(&receipt(detail)).unwrap(), as_json).unwrap_err();
        outcome.failure().unwrap().code.clone()
    }

    #[test]
    fn what_was_lost_counts_as_spent() {
        let it = told(made(&receipt(json!({"sends": 2}))).unwrap(), true).unwrap();
        assert_eq!(it["cost_micros"], 20);
        assert_eq!(it["usage"]["sends"], 2);
        assert_eq!(it["json"], json!({"a": 1}));
    }

    #[test]
    fn an_answer_that_is_no_use_is_told_clearly() {
        assert_eq!(code(json!({"refusal": "no"}), false), "refusal");
        assert_eq!(
            code(json!({"finish_reason": "content_filter"}), false),
            "content_filter"
        );
        assert_eq!(code(json!({"finish_reason": "length"}), true), "truncated");
        assert_eq!(code(json!({"text": "hm"}), true), "no_json");
        let cut = made(&receipt(json!({"finish_reason": "length"}))).unwrap();
        let cut = told(cut, false).unwrap();
        assert_eq!(cut["truncated"], true);
    }
}
