//! `generate.text`: a text, or JSON by a schema, from an OpenAI-compatible model; paid for once.

mod background;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::{Account, Config};
use crate::context::{Context, Permit, Wanted};
use crate::effect::Receipt;
use crate::handler::{AGE_MAX_S, Defaults, Handler};
use crate::job::Envelope;
use crate::json::Violation;
use crate::outcome::{Failure, Outcome};
use crate::platform::openai::{self, Chat, Completion, Message, Role};
use crate::platform::openai_responses;
use crate::retry::Policy;

use super::paid;

/// What to generate: `prompt` or `messages`, exactly one.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Payload {
    /// The model's name.
    model: String,
    /// What is asked.
    prompt: Option<String>,
    /// A whole conversation, instead of a prompt.
    messages: Option<Vec<Message>>,
    /// Instructions, before all else.
    system: Option<String>,
    /// The answer is JSON that follows this JSON Schema.
    json_schema: Option<Value>,
    /// The schema's name: letters, digits, `_` and `-`, at most 64. Default: `answer`.
    schema_name: Option<String>,
    /// 0 to 2: how much the model varies.
    temperature: Option<f64>,
    /// The longest answer in tokens, the model's thoughts included.
    max_tokens: Option<u32>,
    /// For answers that resemble each other.
    seed: Option<i64>,
    /// `true`: by OpenAI's Responses API in background mode. OpenAI goes on by itself, for hours if it
    /// has to, and the job's place in its lane is free meanwhile; other servers may not have it.
    #[serde(default)]
    background: bool,
    /// `false`: the model is asked, whatever `cache_age_s` in `jobs.toml` allows, and the answer isn't
    /// left to other jobs.
    cache: Option<bool>,
}

impl Payload {
    fn chat(self) -> Chat {
        let say = |role, content| Message { role, content };
        let system = self.system.map(|it| say(Role::System, it));
        let asked = self.prompt.map(|it| say(Role::User, it));
        let messages = self.messages.into_iter().flatten();
        let name = self.schema_name.unwrap_or_else(|| "answer".to_owned());
        Chat {
            model: self.model,
            messages: system.into_iter().chain(messages).chain(asked).collect(),
            schema: self.json_schema.map(|it| (name, it)),
            temperature: self.temperature,
            max_tokens: self.max_tokens,
            seed: self.seed,
        }
    }
}

/// The kind.
pub(super) struct GenerateText;

impl Handler for GenerateText {
    type Payload = Payload;
    const DEFAULTS: Defaults = Defaults {
        name: "generate.text",
        about: "a text, or JSON by a schema, from an OpenAI-compatible model",
        lane: "openai",
        retry: Policy {
            attempts_max: 6,
            base_ms: 2_000,
            cap_ms: 300_000,
        },
        timeout_s: 180,
        age_max_s: AGE_MAX_S,
        platforms: &["openai"],
        example: r#"{"model": "gpt-5-mini", "prompt": "One sentence about foxes."}"#,
    };

    fn preflight(payload: &Payload, _: &Envelope, _: &Config) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut wrong = |pointer: &str, message: &str| found.push(Violation::new(pointer, message));
        if payload.model.trim().is_empty() {
            wrong("/model", "is empty; name a model");
        }
        match (&payload.prompt, &payload.messages) {
            (Some(text), None) if text.trim().is_empty() => wrong("/prompt", "is empty"),
            (None, Some(list)) if list.is_empty() => wrong("/messages", "is empty"),
            (Some(_), None) | (None, Some(_)) => {}
            (Some(_), Some(_)) => wrong("/messages", "is there beside `prompt`; keep one of them"),
            (None, None) => wrong("/prompt", "is missing; say what to generate"),
        }
        if payload
            .temperature
            .is_some_and(|it| !(0.0..=2.0).contains(&it))
        {
            wrong("/temperature", "must be from 0 to 2");
        }
        if payload.background && payload.seed.is_some() {
            let message = "is unknown to background mode; leave one of them out";
            wrong("/seed", message);
        }
        if payload.max_tokens == Some(0) {
            wrong("/max_tokens", "must be 1 or more");
        }
        if payload
            .json_schema
            .as_ref()
            .is_some_and(|it| !it.is_object())
        {
            wrong("/json_schema", "must be a JSON Schema, which is an object");
        }
        if let Some(name) = &payload.schema_name {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
            if payload.json_schema.is_none() {
                wrong(
                    "/schema_name",
                    "names a schema, but `json_schema` is missing",
                );
            }
            if !(1..=64).contains(&name.len()) || !name.chars().all(plain) {
                wrong(
                    "/schema_name",
                    "must be 1 to 64 letters, digits, `_` or `-`",
                );
            }
        }
        found
    }

    async fn run(cx: &Context, payload: Payload) -> Result<Value, Outcome> {
        let (_, account) = cx.account("openai")?;
        let (cache, background) = (payload.cache, payload.background);
        let chat = payload.chat();
        let body = match background {
            true => openai_responses::body(&chat),
            false => chat.body(),
        };
        let intent = json!({"base_url": account.base_url, "request": body});
        let cache = paid::Cache::of(cx, cache, &intent);
        if let Some(cache) = &cache
            && let Some(result) = cache.find().await?
        {
            return Ok(result);
        }
        let as_json = chat.schema.is_some();
        let result = match background {
            true => background::written(cx, account, &chat, intent).await?,
            false => answered(cx, account, &chat, intent).await?,
        };
        cx.progress(100, "answered");
        let result = told(result, as_json)?;
        if let Some(cache) = &cache {
            cache.offer().await?;
        }
        Ok(result)
    }
}

/// What was written, and how often that was asked for: what was lost may have been made, so it counts as
/// spent.
struct Made {
    completion: Completion,
    sends: u64,
}

/// Asks the model and waits for its answer.
async fn answered(
    cx: &Context,
    account: &Account,
    chat: &Chat,
    intent: Value,
) -> Result<Made, Outcome> {
    let budget = paid::budget(cx);
    let wanted = Wanted {
        step: "generate",
        ordinal: 0,
        op: "openai.chat_completion",
        rule: paid::rule(cx),
        intent,
        keep: Value::Null,
        says: None,
        budget,
    };
    cx.progress(10, format!("asking {}", chat.model));
    let prices = &cx.config.models;
    let deadline = budget.mul_f32(0.95);
    let send = |permit: Permit| async move {
        let mut receipt = openai::complete(&cx.http, account, chat, prices, deadline).await?;
        receipt.detail["sends"] = json!(permit.lost + 1);
        Ok(receipt)
    };
    let receipt = cx.effect(wanted, send).await.map_err(paid::out_of_money)?;
    made(&receipt)
}

/// What a recorded answer holds: a re-run reads the same, and pays nothing.
fn made(receipt: &Receipt) -> Result<Made, Outcome> {
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

fn sends(receipt: &Receipt) -> u64 {
    receipt.detail["sends"].as_u64().unwrap_or(1)
}

/// The job's result.
fn told(made: Made, as_json: bool) -> Result<Value, Outcome> {
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

    #[test]
    fn all_violations_are_told_at_once() {
        let payload: Payload = serde_json::from_value(json!({
            "model": " ", "temperature": 3, "max_tokens": 0, "schema_name": "a b",
        }))
        .unwrap();
        let config = Config::default_embedded(std::path::Path::new("/nowhere"));
        let found = GenerateText::preflight(&payload, &Envelope::default(), &config);
        let pointers: Vec<&str> = found.iter().map(|it| it.pointer.as_str()).collect();
        let expected = [
            "/model",
            "/prompt",
            "/temperature",
            "/max_tokens",
            "/schema_name",
            "/schema_name",
        ];
        assert_eq!(pointers, expected);
    }

    #[test]
    fn a_system_text_comes_first() {
        let payload: Payload =
            serde_json::from_value(json!({"model": "m", "prompt": "p", "system": "s"})).unwrap();
        let body = payload.chat().body();
        assert_eq!(
            body["messages"][0],
            json!({"role": "system", "content": "s"})
        );
        assert_eq!(body["messages"][1], json!({"role": "user", "content": "p"}));
    }
}
