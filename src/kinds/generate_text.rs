//! `generate.text`: a text, or JSON by a schema, from an OpenAI-compatible model; paid for once.

mod made;
mod background;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::{Account, Config};
use crate::context::{Context, Permit, Wanted};
use crate::handler::{AGE_MAX_S, Defaults, Handler};
use crate::job::Envelope;
use crate::json::Violation;
use crate::outcome::Outcome;
use crate::platform::openai::{self, Chat, Message, Role};
use crate::platform::openai_responses;
use crate::retry::Policy;

use made::{Made, made, told};

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
    const SENDS: &'static [&'static str] = &["openai.chat_completion", "openai.response"];

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
        let mut result = told(result, as_json)?;
        paid::say_who(cx, &mut result);
        if let Some(cache) = &cache {
            cache.offer().await?;
        }
        Ok(result)
    }
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
        price: paid::price_of_text(cx, chat),
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

#[cfg(test)]
mod tests {
    use super::*;

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
