//! What all of the simulated OpenAI says in one way: refusals, prices, and what its model writes.

use serde_json::json;

use super::super::{exchange::Answer, play::without_marks, text::fingerprint};
use super::{
    request::{Chat, Format, Invalid},
    story,
};

/// As acts, faults and the request list name the platform.
pub(super) const NAME: &str = "openai";
/// Play-money prices in USD per token, those of a small model.
pub(super) const PROMPT_USD: f64 = 0.15e-6;
pub(super) const COMPLETION_USD: f64 = 0.6e-6;

pub(super) fn refusal(it: Invalid) -> Answer {
    refuse(it.status, &it.message, it.param.as_deref(), it.code)
}

/// The text of one choice, and whether it was written to its end.
pub(super) fn write(chat: &Chat, index: u64) -> (String, bool) {
    let words = [
        chat.prompt.as_str(),
        &chat.seed.unwrap_or(0).to_string(),
        &index.to_string(),
    ];
    let seed = fingerprint(&words);
    let subject = story::subject(&without_marks(&chat.question));
    let text = match &chat.format {
        Format::Text => story::story(&subject, seed),
        Format::JsonObject => json!({"title": format!("The story of {subject}"), "text": story::story(&subject, seed)}).to_string(),
        Format::JsonSchema(schema) => story::document(schema, &subject, seed).to_string(),
    };
    let most = chat
        .max_tokens
        .and_then(|most| usize::try_from(most).ok())
        .map_or(usize::MAX, |most| most.saturating_mul(4));
    let cut: String = text.chars().take(most).collect();
    let whole = cut.len() == text.len();
    (cut, whole)
}

/// About four characters make a token.
pub(super) fn tokens(text: &str) -> u64 {
    text.chars().count().div_ceil(4) as u64
}

pub(super) fn refuse(
    status: u16,
    message: &str,
    param: Option<&str>,
    code: Option<&str>,
) -> Answer {
    let kind = match status {
        429 => "requests",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    Answer::json(
        status,
        &json!({"error": {"message": message, "type": kind, "param": param, "code": code}}),
    )
}
