//! X's wire format: posts without any idempotency but a filter of repeats, chunked media, timelines that lag.

mod problem;
mod words;
mod input;
mod side;
mod media;
mod posts;

use std::sync::Arc;

use axum::http::Method;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

pub(super) use self::side::X;
use self::{
    input::{NewPost, NewUpload, is_id},
    posts::{Page, Wanted},
    side::{NAME, Side},
};
use super::{
    acts::{Act, held},
    exchange::{Answer, Peek, Platform, Request, Token},
    form,
    rate::{Rate, Rates},
};

/// A request that was understood, with the account that asks.
pub(super) enum Op {
    Post(String, NewPost),
    One(String, Wanted),
    Some(Vec<String>, Wanted),
    Delete(String, String),
    Me(String),
    Timeline(String, Page),
    Initialize(String, NewUpload),
    Append(String, String, u64, Bytes),
    Finalize(String, String),
    Status(String, String),
    Upload(String, NewUpload, Bytes),
    Describe(String, String, String),
}

/// Operations by method and path, with whether they write.
fn named(method: &Method, parts: &[&str]) -> (&'static str, bool) {
    match (method.as_str(), parts) {
        ("POST", ["2", "tweets"]) => ("post.create", true),
        ("GET", ["2", "tweets"]) => ("post.list", false),
        ("GET", ["2", "tweets", _]) => ("post.get", false),
        ("DELETE", ["2", "tweets", _]) => ("post.delete", true),
        ("GET", ["2", "users", "me"]) => ("user.me", false),
        ("GET", ["2", "users", _, "tweets"]) => ("user.posts", false),
        ("POST", ["2", "media", "upload", "initialize"]) => ("media.initialize", true),
        ("POST", ["2", "media", "upload", _, "append"]) => ("media.append", true),
        ("POST", ["2", "media", "upload", _, "finalize"]) => ("media.finalize", true),
        ("GET", ["2", "media", "upload"]) => ("media.status", false),
        ("POST", ["2", "media", "upload"]) => ("media.upload", true),
        ("POST", ["2", "media", "metadata"]) => ("media.describe", true),
        _ => ("unknown", false),
    }
}

impl X {
    async fn understand(&self, op: &str, request: &Request, account: String) -> Result<Op, Answer> {
        let invalid = |why: String| problem::invalid(&why);
        let parts = request.parts();
        let id = |at: usize| {
            let id = parts.get(at).copied().unwrap_or_default().to_owned();
            if is_id(&id) {
                Ok(id)
            } else {
                Err(problem::invalid(&format!(
                    "The `id` path parameter value [{id}] is not valid"
                )))
            }
        };
        Ok(match op {
            "post.create" => Op::Post(account, NewPost::read(request).map_err(invalid)?),
            "post.get" => Op::One(id(2)?, Wanted::only(&request.query).map_err(invalid)?),
            "post.list" => {
                let ids = request.query("ids").unwrap_or_default().split(',');
                let ids: Vec<String> = ids.map(str::to_owned).collect();
                if ids.len() > 100 || !ids.iter().all(|id| is_id(id)) {
                    return Err(problem::invalid("The `ids` query parameter is not valid"));
                }
                Op::Some(ids, Wanted::only(&request.query).map_err(invalid)?)
            }
            "post.delete" => Op::Delete(account, id(2)?),
            "user.me" => Op::Me(account),
            "user.posts" => Op::Timeline(id(2)?, Page::read(&request.query).map_err(invalid)?),
            "media.initialize" => {
                Op::Initialize(account, NewUpload::read(request).map_err(invalid)?)
            }
            "media.append" => {
                let (at, bytes) = segment(request).await.map_err(invalid)?;
                Op::Append(account, id(3)?, at, bytes)
            }
            "media.finalize" => Op::Finalize(account, id(3)?),
            "media.status" => match request.query("media_id").filter(|id| is_id(id)) {
                Some(id) => Op::Status(account, id.to_owned()),
                None => {
                    return Err(problem::invalid(
                        "The `media_id` query parameter can not be empty",
                    ));
                }
            },
            "media.upload" => {
                let (new, bytes) = one_shot(request).await.map_err(invalid)?;
                Op::Upload(account, new, bytes)
            }
            "media.describe" => {
                let (id, alt) = described(request).map_err(invalid)?;
                Op::Describe(account, id, alt)
            }
            _ => return Err(self.error(404, None)),
        })
    }
}

/// The index and the bytes of one segment.
async fn segment(request: &Request) -> Result<(u64, Bytes), String> {
    let form = form::read(request).await?;
    input::known_form(&form, &["media", "segment_index"])?;
    let index = match form.fields.get("segment_index") {
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_u64(),
        None => None,
    };
    let index = index
        .filter(|index| *index <= 999)
        .ok_or("$.segment_index: must be a whole number from 0 to 999")?;
    let bytes = input::bytes(&form)?;
    if bytes.len() > media::SEGMENT_BYTES {
        return Err(format!(
            "$.media: a segment has at most {} bytes",
            media::SEGMENT_BYTES
        ));
    }
    Ok((index, bytes))
}

/// The one-shot upload: the type is what the bytes say.
async fn one_shot(request: &Request) -> Result<(NewUpload, Bytes), String> {
    let form = form::read(request).await?;
    input::known_form(&form, &["media", "media_category", "additional_owners"])?;
    let category = form.fields.get("media_category").and_then(Value::as_str);
    let category = category.ok_or("$.media_category: is missing but it is required")?;
    let bytes = input::bytes(&form)?;
    let mime = match &bytes[..] {
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [b'G', b'I', b'F', b'8', ..] => "image/gif",
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => "image/webp",
        _ => return Err("$.media: the media type is unrecognized.".into()),
    };
    let total = bytes.len() as u64;
    let new = NewUpload::checked(mime.to_owned(), category.to_owned(), total)?;
    Ok((new, bytes))
}

fn described(request: &Request) -> Result<(String, String), String> {
    let body = Value::Object(input::object(request, &["id", "metadata"])?);
    let id = body["id"].as_str().filter(|id| is_id(id));
    let id = id.ok_or("$.id: is missing but it is required")?.to_owned();
    let alt = &body["metadata"]["alt_text"]["text"];
    let alt = alt
        .as_str()
        .ok_or("$.metadata.alt_text.text: is missing but it is required")?;
    if alt.chars().count() > 1000 {
        return Err("$.metadata.alt_text.text: may only be 1000 characters long".into());
    }
    Ok((id, alt.to_owned()))
}

impl Platform for X {
    type Op = Op;
    const NAME: &'static str = NAME;
    const PREFIX: &'static str = "/x";
    const REFUSAL: u16 = 403;
    const RETRY_AFTER: bool = false;

    async fn read(&self, request: &Request) -> (Peek, Result<Op, Answer>) {
        let parts = request.parts();
        let (op, writes) = named(&request.method, &parts);
        let mut peek = Peek {
            op,
            writes,
            ..Peek::default()
        };
        match op {
            "post.create" | "media.describe" => {
                let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
                let text = match op {
                    "post.create" => &body["text"],
                    _ => &body["metadata"]["alt_text"]["text"],
                };
                peek.text = text.as_str().map(str::to_owned);
            }
            "media.append" | "media.finalize" => peek.key = parts.get(3).map(|&id| id.to_owned()),
            "media.status" => peek.key = request.query("media_id").map(str::to_owned),
            _ => {}
        }
        let who = self.grants.who(request.bearer(), self.clock.now());
        let Token::Account(account) = who else {
            return (peek, Err(self.error(401, None)));
        };
        held(&self.side).meet(&account);
        peek.account = Some(account.clone());
        let op = self.understand(op, request, account).await;
        (peek, op)
    }

    fn lag(op: &mut Op, lag_ms: u32) {
        if let Op::Post(_, new) = op {
            new.lag_ms = lag_ms;
        }
    }

    async fn perform(&self, op: Op) -> Answer {
        match op {
            Op::Post(account, new) => self.post(account, new),
            Op::One(id, wanted) => self.one(&id, &wanted),
            Op::Some(ids, wanted) => self.some(&ids, &wanted),
            Op::Delete(account, id) => self.delete(account, id),
            Op::Me(account) => Answer::json(200, &json!({"data": posts::user(&account)})),
            Op::Timeline(id, page) => self.timeline(&id, &page),
            Op::Initialize(account, new) => self.initialize(&account, &new),
            Op::Append(account, id, at, bytes) => self.append(&account, &id, at, bytes).await,
            Op::Finalize(account, id) => self.finalize(&account, &id).await,
            Op::Status(account, id) => self.status(&account, &id),
            Op::Upload(account, new, bytes) => self.upload(&account, &new, bytes).await,
            Op::Describe(account, id, alt) => self.describe(&account, &id, alt),
        }
    }

    fn error(&self, status: u16, message: Option<&str>) -> Answer {
        problem::usual(status, message)
    }

    fn denial(&self) -> Answer {
        problem::duplicate()
    }

    fn rates(&self) -> &Rates {
        &self.rates
    }

    fn rate_headers(&self, rate: &Rate, _now: DateTime<Utc>) -> Vec<(&'static str, String)> {
        vec![
            ("x-rate-limit-limit", rate.limit.to_string()),
            ("x-rate-limit-remaining", rate.remaining.to_string()),
            ("x-rate-limit-reset", rate.reset.timestamp().to_string()),
        ]
    }

    fn replay(&self, act: &Act) {
        held(&self.side).apply(&Arc::new(act.clone()));
    }

    fn forget(&self) {
        *held(&self.side) = Side::default();
        self.rates.forget();
    }
}
