//! OpenAI-compatible chat completions: what is sent, what it cost, and what an error means.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::{Account, Model};
use crate::effect::Receipt;
use crate::outcome::{Class, Scope};

use super::http::{Answer, Body, Call, Http, below};
use super::verdict::{CallError, Meaning, Rules, Said, ask, refused, unreadable};

/// The codes of refusals that money would mend.
pub const NO_MONEY: [&str; 2] = ["insufficient_quota", "billing_hard_limit_reached"];

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `system`, `developer`, `user` or `assistant`.
    pub role: Role,
    /// What it says.
    pub content: String,
}

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions, of older models.
    System,
    /// Instructions.
    Developer,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Chat {
    /// The model's name.
    pub model: String,
    /// The conversation.
    pub messages: Vec<Message>,
    /// The schema's name and the schema that the answer must follow.
    pub schema: Option<(String, Value)>,
    /// 0 to 2.
    pub temperature: Option<f64>,
    /// The longest answer, in tokens, thoughts included.
    pub max_tokens: Option<u32>,
    /// For answers that resemble each other.
    pub seed: Option<i64>,
}

impl Chat {
    /// The request's body.
    pub fn body(&self) -> Value {
        let mut body = json!({"model": self.model, "messages": self.messages});
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body[name] = value;
            }
        };
        put("temperature", self.temperature.map(Value::from));
        put("max_completion_tokens", self.max_tokens.map(Value::from));
        put("seed", self.seed.map(Value::from));
        let format = self.schema.as_ref().map(|(name, schema)| {
            json!({
                "type": "json_schema",
                "json_schema": {"name": name, "strict": true, "schema": schema},
            })
        });
        put("response_format", format);
        body
    }
}

/// What came back: kept with the receipt, so that it is paid for once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// The answer's text.
    pub text: Option<String>,
    /// Why the model refused, if it did.
    pub refusal: Option<String>,
    /// `stop`, `length`, `content_filter` ...
    pub finish_reason: String,
    /// The model that answered.
    pub model: String,
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written, thoughts included.
    pub output_tokens: u64,
    /// What it cost, in millionths of a US dollar; `None` without a price for the model.
    pub cost_micros: Option<u64>,
    /// The platform's id of the request, for its support.
    pub request_id: Option<String>,
}

/// An answer of [`complete`].
#[derive(Deserialize)]
pub struct Answered {
    id: String,
    model: String,
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    finish_reason: Option<String>,
    message: Spoken,
}

#[derive(Deserialize)]
struct Spoken {
    content: Option<String>,
    refusal: Option<String>,
}

#[derive(Default, Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
}

/// Asks for one completion, once. The receipt's detail is a [`Completion`].
///
/// # Errors
/// What was refused, or unknown: then it may have been made, and paid for.
pub async fn complete(
    http: &Http,
    account: &Account,
    chat: &Chat,
    prices: &BTreeMap<String, Model>,
    deadline: Duration,
) -> Result<Receipt, CallError> {
    let url = below(&account.base_url, "/v1/chat/completions");
    let call = Call::post(url, Body::Json(chat.body().to_string()), deadline)
        .bearer(&account.secret)
        .fresh()
        .patient();
    let (answered, answer) = ask::<Answered>(http, &RULES, &call).await?;
    let receipt = answered.receipt(&chat.model, prices, &answer);
    receipt.ok_or_else(|| unreadable(&RULES, &call, &answer, "it holds no choice"))
}

impl Answered {
    /// What is kept of it: its first choice; `None` if it has none.
    pub fn receipt(
        self,
        model: &str,
        prices: &BTreeMap<String, Model>,
        answer: &Answer,
    ) -> Option<Receipt> {
        let choice = self.choices.into_iter().next()?;
        let usage = self.usage.unwrap_or_default();
        let price = prices.get(model).or_else(|| prices.get(&self.model));
        let completion = Completion {
            text: choice.message.content,
            refusal: choice.message.refusal,
            finish_reason: choice.finish_reason.unwrap_or_else(|| "stop".to_owned()),
            model: self.model,
            input_tokens: usage.prompt_tokens,
            output_tokens: usage.completion_tokens,
            cost_micros: price.map(|it| cost(it, usage.prompt_tokens, usage.completion_tokens)),
            request_id: answer.header("x-request-id").map(str::to_owned),
        };
        let detail = json!(completion);
        Some(Receipt {
            remote_id: Some(self.id),
            url: None,
            at: answer.at,
            detail,
        })
    }
}

/// Asks for the list of models, which costs nothing: whether the key is taken. What it found, for
/// people.
///
/// # Errors
/// What was refused or lost.
pub async fn ping(http: &Http, account: &Account, deadline: Duration) -> Result<String, CallError> {
    #[derive(Deserialize)]
    struct Listed {
        data: Vec<Value>,
    }
    let call = Call::get(below(&account.base_url, "/v1/models"), deadline).bearer(&account.secret);
    let (listed, _) = ask::<Listed>(http, &RULES, &call).await?;
    Ok(format!("{} models", listed.data.len()))
}

/// A call's price in millionths of a US dollar, rounded up: money is never told too low.
pub fn cost(price: &Model, input_tokens: u64, output_tokens: u64) -> u64 {
    let of = |tokens: u64, micros: u64| u128::from(tokens) * u128::from(micros);
    let sum = of(input_tokens, price.input_micros_per_mtok)
        + of(output_tokens, price.output_micros_per_mtok);
    u64::try_from(sum.div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// What a text costs at most: a token has a byte at least, and the answer ends where it was told to, or
/// where the model's price says.
pub fn estimate(price: &Model, chat: &Chat) -> u64 {
    let input = chat.body().to_string().len();
    let output = chat.max_tokens.map_or(price.output_tokens_max, u64::from);
    cost(price, u64::try_from(input).unwrap_or(u64::MAX), output)
}

/// What OpenAI's answers mean.
pub const RULES: Rules = Rules {
    platform: "OpenAI",
    said,
    meaning,
};

fn said(body: &[u8]) -> Said {
    #[derive(Deserialize)]
    struct Whole {
        error: Told,
    }
    #[derive(Deserialize)]
    struct Told {
        message: String,
        #[serde(rename = "type")]
        kind: Option<String>,
        code: Option<Value>,
    }
    let Ok(Whole { error }) = serde_json::from_slice(body) else {
        return Said::default();
    };
    let code = error.code.and_then(|it| it.as_str().map(str::to_owned));
    Said {
        code: code.or(error.kind),
        message: Some(error.message),
    }
}

fn meaning(status: u16, said: &Said) -> Option<Meaning> {
    let code = said.code.as_deref().unwrap_or_default();
    match status {
        // waiting doesn't help: somebody has to pay
        400 | 429 if NO_MONEY.contains(&code) => Some(refused(Class::Permanent, Scope::App)),
        // The model answers these itself, at once, in its own form, documents them as "retry your
        // request" and bills nothing: taking them for lost answers would spend the one repeat of a
        // paid call, and then a person's attention, on each hiccup. A gateway's page under the same
        // status, a 504, or a body cut short says nothing about the model, which may have run.
        500 | 502 | 503 if said.message.is_some() => {
            Some(refused(Class::Transient, Scope::Platform))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::verdict::usual;
    use proptest::prelude::*;

    fn body(code: &str) -> Vec<u8> {
        json!({"error": {"message": "m", "type": "t", "param": null, "code": code}})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn each_status_has_its_meaning() {
        for status in 300..600 {
            let of = |body: &[u8]| {
                let it = meaning(status, &said(body)).unwrap_or_else(|| usual(status));
                (it.acted, it.class)
            };
            let expected = match status {
                400 | 404 | 405 | 410 | 413 | 415 | 422 => (false, Class::Permanent),
                401 | 403 => (false, Class::Unauthorised),
                429 => (false, Class::Throttled),
                500 | 502 | 503 => (false, Class::Transient),
                _ => (true, Class::Unknown),
            };
            assert_eq!(of(&body("x")), expected, "{status}");
            if matches!(status, 500 | 502 | 503) {
                assert_eq!(of(b"<html>"), (true, Class::Unknown), "{status}");
            }
        }
        let broke = meaning(429, &said(&body(NO_MONEY[0]))).unwrap();
        assert_eq!((broke.acted, broke.class), (false, Class::Permanent));
        // the images' way of saying it
        let broke = meaning(400, &said(&body(NO_MONEY[1]))).unwrap();
        assert_eq!((broke.acted, broke.scope), (false, Scope::App));
    }

    #[test]
    fn an_errors_code_falls_back_to_its_type() {
        let told = said(br#"{"error":{"message":"no","type":"server_error","code":null}}"#);
        assert_eq!(told.code.as_deref(), Some("server_error"));
    }

    #[test]
    fn a_body_holds_only_what_was_asked() {
        let mut chat = Chat {
            model: "gpt-5-mini".into(),
            messages: vec![Message {
                role: Role::User,
                content: "hi".into(),
            }],
            schema: None,
            temperature: None,
            max_tokens: None,
            seed: None,
        };
        let plain = json!({"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}]});
        assert_eq!(chat.body(), plain);
        chat.schema = Some(("a".into(), json!({"type": "object"})));
        chat.max_tokens = Some(9);
        let body = chat.body();
        assert_eq!(body["response_format"]["json_schema"]["strict"], true);
        assert_eq!(body["max_completion_tokens"], 9);
    }

    #[test]
    fn cost_is_rounded_up() {
        let price = Model {
            input_micros_per_mtok: 250_000,
            output_micros_per_mtok: 2_000_000,
            ..Model::default()
        };
        assert_eq!(cost(&price, 1_000_000, 0), 250_000);
        assert_eq!(cost(&price, 1, 1), 3);
        assert_eq!(cost(&price, u64::MAX, u64::MAX), u64::MAX);
    }

    proptest! {
        #[test]
        fn no_body_panics(body: Vec<u8>, text in ".{0,60}") {
            said(&body);
            said(text.as_bytes());
        }
    }
}
