//! OpenAI's wire format: chat completions and pictures that cost play money, their list, and the models.

mod request;
mod ask;
mod images;
mod png;
mod draw;
mod story;
mod said;
mod responses;

use std::sync::{Arc, Mutex};

use axum::http::Method;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use self::images::Order;
use self::request::{Chat, Invalid};
use self::responses::{About, Responses};
use self::said::{COMPLETION_USD, PROMPT_USD, refusal, refuse, tokens, write};
use super::{
    acts::{Act, ActLog, Draft, held},
    clock::Clock,
    exchange::{Answer, Peek, Platform, Request, Token, token},
    form::{self, Form},
    hook::Sent,
    rate::{Rate, Rates},
    settings::Settings,
};

/// Requests and tokens a minute that the rate headers speak of; the first is enforced.
const REQUESTS_PER_MINUTE: u32 = 10_000;
const TOKENS_PER_MINUTE: u32 = 2_000_000;
/// What `GET /v1/models` lists.
const MODELS: &[&str] = &[
    "gpt-4o-mini",
    "gpt-4o",
    "gpt-4.1-mini",
    "gpt-4.1",
    "gpt-5-mini",
    "gpt-5",
    "gpt-image-1",
    "dall-e-3",
    "sandbox-story",
];
/// 2025-01-01: all models of this world are of one age.
const MODELS_CREATED: i64 = 1_735_689_600;

/// A stored completion, as the list gives it.
#[derive(Clone, Debug)]
struct Stored {
    account: String,
    id: String,
    model: String,
    metadata: Value,
    completion: Value,
}

/// The platform.
#[derive(Debug)]
pub(super) struct OpenAi {
    acts: Arc<ActLog>,
    clock: Arc<Clock>,
    rates: Rates,
    stored: Mutex<Vec<Stored>>,
    responses: Responses,
    /// The sandbox's own address: its pictures are there.
    base: String,
}

/// A request that was understood.
pub(super) enum Op {
    Chat {
        account: String,
        chat: Box<Chat>,
        key: Option<String>,
    },
    Draw {
        account: String,
        order: Box<Order>,
        key: Option<String>,
    },
    List {
        account: String,
        query: Vec<(String, String)>,
    },
    Get {
        account: String,
        id: String,
    },
    Response(About),
    Models,
    Model {
        id: String,
    },
}

impl OpenAi {
    pub(super) fn new(
        acts: Arc<ActLog>,
        clock: Arc<Clock>,
        settings: Arc<Settings>,
        base: String,
    ) -> OpenAi {
        OpenAi {
            base,
            responses: Responses::new(Arc::clone(&acts), Arc::clone(&clock), settings),
            acts,
            clock,
            rates: Rates::new(REQUESTS_PER_MINUTE, 60),
            stored: Mutex::default(),
        }
    }

    /// The call-backs that were sent so far.
    pub(super) fn calls(&self) -> Vec<Sent> {
        self.responses.sent()
    }

    fn complete(&self, account: String, chat: &Chat, key: Option<String>) -> Answer {
        let (now, began) = (self.clock.now(), std::time::Instant::now());
        let id = format!("chatcmpl-{}", uuid::Uuid::new_v4().simple());
        let written: Vec<_> = (0..chat.n).map(|index| write(chat, index)).collect();
        let prompt_tokens = tokens(&chat.prompt);
        let completion_tokens: u64 = written.iter().map(|(text, _)| tokens(text)).sum();
        let cost = prompt_tokens as f64 * PROMPT_USD + completion_tokens as f64 * COMPLETION_USD;
        let completion = json!({
            "id": id,
            "object": "chat.completion",
            "created": now.timestamp(),
            "model": chat.model,
            "choices": written.iter().enumerate().map(|(index, (text, whole))| json!({
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": null, "annotations": []},
                "logprobs": null,
                "finish_reason": if *whole { "stop" } else { "length" },
            })).collect::<Vec<_>>(),
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                "completion_tokens_details": {
                    "reasoning_tokens": 0, "audio_tokens": 0,
                    "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
                },
            },
            "service_tier": "default",
            "system_fingerprint": "fp_sandbox",
            "metadata": chat.metadata,
        });
        let text = written
            .into_iter()
            .map(|(text, _)| text)
            .collect::<Vec<_>>()
            .join("\n\n");
        let act = self.acts.record(now, Draft {
            platform: Self::NAME,
            op: "chat.completion",
            account,
            key,
            id,
            url: None,
            text,
            media: Vec::new(),
            detail: json!({"prompt": chat.prompt, "cost_usd": cost, "store": chat.store, "completion": completion}),
        });
        self.replay(&act);
        Answer::json(200, &completion).with("openai-processing-ms", began.elapsed().as_millis())
    }

    async fn draw(&self, account: String, order: &Order, key: Option<String>) -> Answer {
        let now = self.clock.now();
        let (data, media) = match draw::drawn(order, &self.acts, &self.base).await {
            Ok(it) => it,
            Err(e) => {
                let message = format!("The pictures could not be kept: {e}");
                return refuse(500, &message, None, None);
            }
        };
        let usage = draw::usage(order, tokens(&order.prompt));
        let cost = draw::cost(order, &usage);
        let size = format!("{}x{}", order.size.0, order.size.1);
        self.acts.record(now, Draft {
            platform: Self::NAME,
            op: if order.originals.is_empty() { "image.generate" } else { "image.edit" },
            account,
            key,
            id: format!("img_{}", uuid::Uuid::new_v4().simple()),
            url: None,
            text: order.prompt.clone(),
            media,
            detail: json!({"prompt": order.prompt, "model": order.model, "size": size, "originals": order.originals, "cost_usd": cost}),
        });
        let mut answer = json!({"created": now.timestamp(), "data": data});
        if !order.is_dalle() {
            answer["background"] = order.background.as_str().into();
            answer["output_format"] = "png".into();
            answer["size"] = size.into();
            answer["quality"] = order.quality.as_str().into();
            answer["usage"] = usage;
        }
        Answer::json(200, &answer)
    }

    fn list(&self, account: &str, query: &[(String, String)]) -> Answer {
        let (mut after, mut limit, mut newest_first, mut model) = (None, 20, false, None);
        let mut wanted = Vec::new();
        for (name, value) in query {
            let inside = name
                .strip_prefix("metadata[")
                .and_then(|rest| rest.strip_suffix(']'));
            match (name.as_str(), inside) {
                (_, Some(key)) => wanted.push((key, value.as_str())),
                ("after", _) => after = Some(value.as_str()),
                ("model", _) => model = Some(value.as_str()),
                ("order", _) if value == "asc" || value == "desc" => newest_first = value == "desc",
                ("limit", _) => match value.parse::<usize>() {
                    Ok(number @ 1..=100) => limit = number,
                    _ => {
                        return refuse(
                            400,
                            "Invalid 'limit': expected an integer between 1 and 100.",
                            Some("limit"),
                            None,
                        );
                    }
                },
                _ => {
                    return refuse(
                        400,
                        &format!("Unknown parameter: '{name}'."),
                        Some(name),
                        Some("unknown_parameter"),
                    );
                }
            }
        }
        let matches = |one: &&Stored| {
            one.account == account
                && model.is_none_or(|model| one.model == model)
                && wanted.iter().all(|(key, value)| {
                    one.metadata.get(key).and_then(Value::as_str) == Some(value)
                })
        };
        let stored = held(&self.stored);
        let mut found: Vec<_> = stored.iter().filter(matches).collect();
        if newest_first {
            found.reverse();
        }
        let skip = after
            .and_then(|after| found.iter().position(|one| one.id == after))
            .map_or(0, |at| at + 1);
        let page: Vec<_> = found.iter().skip(skip).take(limit).collect();
        Answer::json(
            200,
            &json!({
                "object": "list",
                "data": page.iter().map(|one| &one.completion).collect::<Vec<_>>(),
                "first_id": page.first().map(|one| &one.id),
                "last_id": page.last().map(|one| &one.id),
                "has_more": found.len() > skip + page.len(),
            }),
        )
    }

    fn get(&self, account: &str, id: &str) -> Answer {
        let stored = held(&self.stored);
        match stored
            .iter()
            .find(|one| one.account == account && one.id == id)
        {
            Some(one) => Answer::json(200, &one.completion),
            None => refuse(
                404,
                &format!("Completion with id '{id}' not found."),
                Some("id"),
                None,
            ),
        }
    }
}

fn ordered(account: String, peek: &Peek, order: Result<Order, Invalid>) -> Result<Op, Answer> {
    let key = peek.key.clone();
    let draw = |order| Op::Draw {
        account,
        order: Box::new(order),
        key,
    };
    order.map(draw).map_err(refusal)
}

fn prompt_in(form: &Form) -> Option<String> {
    form.fields.get("prompt")?.as_str().map(str::to_owned)
}

fn model(id: &str) -> Value {
    json!({"id": id, "object": "model", "created": MODELS_CREATED, "owned_by": "sandbox"})
}

impl Platform for OpenAi {
    type Op = Op;
    const NAME: &'static str = said::NAME;
    const PREFIX: &'static str = "/openai";
    const REFUSAL: u16 = 400;

    async fn read(&self, request: &Request) -> (Peek, Result<Op, Answer>) {
        let mut peek = Peek {
            op: "unknown",
            key: request.header("idempotency-key").map(str::to_owned),
            ..Peek::default()
        };
        let token = token(request.bearer());
        let account = match &token {
            Token::Account(account) => account.clone(),
            _ => String::new(),
        };
        peek.account = (!account.is_empty()).then(|| account.clone());
        let parts = request.parts();
        let op = match (&request.method, &parts[..]) {
            (_, ["v1", "responses", ..]) => {
                responses::read(request, account, &mut peek).map(Op::Response)
            }
            (&Method::POST, ["v1", "chat", "completions"]) => {
                peek.op = "chat.completion";
                peek.writes = true;
                peek.text = prompt_of(&request.body);
                if request.content_type() != "application/json" {
                    Err(refuse(
                        415,
                        "Content-Type must be application/json.",
                        None,
                        Some("unsupported_content_type"),
                    ))
                } else {
                    let chat = request::chat(&request.body);
                    chat.map(|chat| Op::Chat {
                        account,
                        chat: Box::new(chat),
                        key: peek.key.clone(),
                    })
                    .map_err(refusal)
                }
            }
            (&Method::POST, ["v1", "images", "generations"]) => {
                (peek.op, peek.writes) = ("image.generate", true);
                let body: Option<Value> = serde_json::from_slice(&request.body).ok();
                peek.text = body.and_then(|it| it["prompt"].as_str().map(str::to_owned));
                ordered(account, &peek, images::draw(&request.body))
            }
            (&Method::POST, ["v1", "images", "edits"]) => {
                (peek.op, peek.writes) = ("image.edit", true);
                match form::read(request).await {
                    Ok(form) => {
                        peek.text = prompt_in(&form);
                        ordered(account, &peek, images::edit(form))
                    }
                    Err(why) => Err(refuse(400, &why, None, None)),
                }
            }
            (&Method::GET, ["v1", "chat", "completions"]) => {
                peek.op = "chat.list";
                Ok(Op::List {
                    account,
                    query: request.query.clone(),
                })
            }
            (&Method::GET, ["v1", "chat", "completions", id]) => {
                peek.op = "chat.get";
                Ok(Op::Get {
                    account,
                    id: (*id).to_owned(),
                })
            }
            (&Method::GET, ["v1", "models"]) => {
                peek.op = "models.list";
                Ok(Op::Models)
            }
            (&Method::GET, ["v1", "models", id]) => {
                peek.op = "models.get";
                Ok(Op::Model {
                    id: (*id).to_owned(),
                })
            }
            (method, _) => {
                let message = format!("Invalid URL ({method} {})", request.path);
                Err(refuse(404, &message, None, None))
            }
        };
        let op = match token {
            Token::Account(_) => op,
            Token::Missing => Err(refuse(
                401,
                "You didn't provide an API key. Put it into an Authorization header: Bearer sandbox-ACCOUNT.",
                None,
                None,
            )),
            Token::Expired | Token::Unknown => Err(self.error(401, None)),
        };
        (peek, op)
    }

    async fn perform(&self, op: Op) -> Answer {
        let answer = match op {
            Op::Chat { account, chat, key } => self.complete(account, &chat, key),
            Op::Draw {
                account,
                order,
                key,
            } => self.draw(account, &order, key).await,
            Op::List { account, query } => self.list(&account, &query),
            Op::Get { account, id } => self.get(&account, &id),
            Op::Response(about) => self.responses.response(about).await,
            Op::Models => {
                let list: Vec<_> = MODELS.iter().map(|id| model(id)).collect();
                Answer::json(200, &json!({"object": "list", "data": list}))
            }
            Op::Model { id } if MODELS.contains(&id.as_str()) => Answer::json(200, &model(&id)),
            Op::Model { id } => refuse(
                404,
                &format!("The model '{id}' does not exist"),
                Some("model"),
                Some("model_not_found"),
            ),
        };
        answer
            .with(
                "x-request-id",
                format!("req_{}", uuid::Uuid::new_v4().simple()),
            )
            .with("openai-version", "2020-10-01")
    }

    fn error(&self, status: u16, message: Option<&str>) -> Answer {
        let (usual, code) = match status {
            401 => (
                "Incorrect API key provided. Tokens of this sandbox look like sandbox-ACCOUNT.",
                Some("invalid_api_key"),
            ),
            403 => (
                "You are not allowed to use this model.",
                Some("unsupported_country_region_territory"),
            ),
            404 => ("There is no such thing.", None),
            413 => ("The request body is too large.", None),
            429 => (
                "Rate limit reached for requests. Please try again later.",
                Some("rate_limit_exceeded"),
            ),
            400..=499 => (
                "Your request was rejected by the sandbox on request.",
                Some("invalid_prompt"),
            ),
            503 => ("The server is overloaded or not ready yet.", None),
            _ => (
                "The server had an error while processing your request. Sorry about that!",
                None,
            ),
        };
        refuse(status, message.unwrap_or(usual), None, code)
    }

    fn rates(&self) -> &Rates {
        &self.rates
    }

    fn rate_headers(&self, rate: &Rate, now: DateTime<Utc>) -> Vec<(&'static str, String)> {
        let wait = (rate.reset - now).num_milliseconds().max(0);
        let wait = if wait < 1000 {
            format!("{wait}ms")
        } else {
            format!("{}s", wait.div_euclid(1000))
        };
        let tokens_left =
            u64::from(TOKENS_PER_MINUTE) * u64::from(rate.remaining) / u64::from(rate.limit);
        vec![
            ("x-ratelimit-limit-requests", rate.limit.to_string()),
            ("x-ratelimit-remaining-requests", rate.remaining.to_string()),
            ("x-ratelimit-reset-requests", wait.clone()),
            ("x-ratelimit-limit-tokens", TOKENS_PER_MINUTE.to_string()),
            ("x-ratelimit-remaining-tokens", tokens_left.to_string()),
            ("x-ratelimit-reset-tokens", wait),
        ]
    }

    fn replay(&self, act: &Act) {
        self.responses.replay(act);
        if act.detail["store"] != true {
            return;
        }
        let completion = act.detail["completion"].clone();
        held(&self.stored).push(Stored {
            account: act.account.clone(),
            id: act.id.clone(),
            model: completion["model"].as_str().unwrap_or_default().to_owned(),
            metadata: completion["metadata"].clone(),
            completion,
        });
    }

    fn forget(&self) {
        held(&self.stored).clear();
        self.responses.forget();
        self.rates.forget();
    }
}

/// The message texts of a body that may be wrong elsewhere, so that markers work in refused requests too.
fn prompt_of(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let text = |message: &Value| match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part["text"].as_str())
            .collect(),
        _ => String::new(),
    };
    Some(
        body["messages"]
            .as_array()?
            .iter()
            .map(text)
            .collect::<Vec<_>>()
            .join("\n"),
    )
}
