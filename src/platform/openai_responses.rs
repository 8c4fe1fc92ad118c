//! OpenAI's Responses API in background mode: a text is asked for, its id comes at once, and what became of
//! it is read by that id, from any host, for as long as OpenAI keeps it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

use crate::config::{Account, Model};
use crate::effect::{Receipt, UNDER_WAY};
use crate::outcome::{Class, Failure, Scope};

use super::http::{Answer, Body, Call, Http, below};
use super::limits::come_back;
use super::openai::{Chat, Completion, RULES, cost};
use super::verdict::{CallError, Progressed, ask, unreadable};

/// What became of a response. Kept as a step: OpenAI may forget it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Ended {
    /// It was written, whole or cut short.
    Written(Completion),
    /// It wasn't, or is gone: another one may be asked for, and is paid for.
    Failed(Failure),
}

/// A response, as far as it is read.
#[derive(Deserialize)]
pub struct Response {
    id: String,
    status: String,
    #[serde(default)]
    model: String,
    #[serde(default)]
    output: Vec<Value>,
    usage: Option<Usage>,
    error: Option<Told>,
    incomplete_details: Option<Incomplete>,
}

#[derive(Clone, Copy, Default, Deserialize)]
struct Usage {
    input_tokens: u64,
    output_tokens: u64,
}

#[derive(Deserialize)]
struct Told {
    code: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
struct Incomplete {
    reason: Option<String>,
}

/// The body of the request for a response. There is no `seed` here.
pub fn body(chat: &Chat) -> Value {
    let mut body = json!({
        "model": chat.model,
        "input": chat.messages,
        "background": true,
        // what isn't stored can't be read later
        "store": true,
    });
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body[name] = value;
        }
    };
    put("temperature", chat.temperature.map(Value::from));
    put("max_output_tokens", chat.max_tokens.map(Value::from));
    let format = chat.schema.as_ref().map(|(name, schema)| {
        let format = json!({"type": "json_schema", "name": name, "strict": true, "schema": schema});
        json!({"format": format})
    });
    put("text", format);
    body
}

/// Asks for a response in the background, once. Its receipt has the id and is under way; `job` is named
/// in its metadata, so that a person finds it in OpenAI's own list.
///
/// # Errors
/// What was refused, or unknown: then it may be written, and paid for.
pub async fn begin(
    http: &Http,
    account: &Account,
    chat: &Chat,
    job: &str,
    deadline: Duration,
) -> Result<Receipt, CallError> {
    let mut body = body(chat);
    body["metadata"] = json!({"presswork_job": job});
    let url = below(&account.base_url, "/v1/responses");
    let call = Call::post(url, Body::Json(body.to_string()), deadline)
        .bearer(&account.secret)
        .fresh()
        .patient();
    let (begun, answer) = ask::<Response>(http, &RULES, &call).await?;
    if begun.id.is_empty() {
        return Err(unreadable(&RULES, &call, &answer, "it has no id"));
    }
    Ok(Receipt {
        remote_id: Some(begun.id),
        url: None,
        at: answer.at,
        detail: json!({UNDER_WAY: true, "status": begun.status}),
    })
}

/// Where a response can be read, and told to stop.
pub fn place(account: &Account, id: &str) -> Url {
    let mut url = below(&account.base_url, "/v1/responses");
    if let Ok(mut parts) = url.path_segments_mut() {
        parts.push(id);
    }
    url
}

/// Reads how far a response is, once.
///
/// # Errors
/// What was refused or lost: it can be asked again.
pub async fn look(
    http: &Http,
    account: &Account,
    id: &str,
    prices: &BTreeMap<String, Model>,
    deadline: Duration,
) -> Result<Progressed<Ended>, CallError> {
    let call = Call::get(place(account, id), deadline)
        .bearer(&account.secret)
        .at_most(ANSWER_MAX);
    let (response, answer) = match ask::<Response>(http, &RULES, &call).await {
        Err(CallError::Refused(it)) if it.class == Class::Permanent => {
            let message = format!(
                "{}; it was paid for, and can't be read any more",
                it.message
            );
            let gone = Failure::new(Class::Permanent, Scope::Platform, "gone", message);
            return Ok(Progressed::Ended(Ended::Failed(gone)));
        }
        other => other?,
    };
    match response.ended(prices, &answer) {
        Some(it) => Ok(Progressed::Ended(it)),
        None => Ok(Progressed::GoesOn(suggested(&answer))),
    }
}

/// Tells OpenAI to stop a response; how it stands then. One that has ended stays as it is.
///
/// # Errors
/// What was refused or lost.
pub async fn stop(
    http: &Http,
    account: &Account,
    id: &str,
    deadline: Duration,
) -> Result<String, CallError> {
    let mut url = place(account, id);
    if let Ok(mut parts) = url.path_segments_mut() {
        parts.push("cancel");
    }
    let call = Call::post(url, Body::Empty, deadline).bearer(&account.secret);
    let (response, _) = ask::<Response>(http, &RULES, &call).await?;
    Ok(response.status)
}

/// The id of the response that an event of OpenAI's webhooks is about; none where it is about something
/// else.
pub fn told_of(event: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Event {
        #[serde(rename = "type")]
        kind: String,
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        id: String,
    }
    let event: Event = serde_json::from_slice(event).ok()?;
    let is_response = event.kind.starts_with("response.");
    is_response.then_some(event.data.id)
}

/// An answer with all its thoughts is larger than most.
const ANSWER_MAX: usize = 8 << 20;

/// When OpenAI wants to be asked again, in its own header or in everybody's.
fn suggested(answer: &Answer) -> Option<Duration> {
    let own = answer.header("openai-poll-after-ms");
    let own = own.and_then(|it| it.trim().parse().ok());
    let usual = || come_back(answer, Class::Transient)?.to_std().ok();
    own.map(Duration::from_millis).or_else(usual)
}

impl Response {
    /// What became of it; nothing while it goes on.
    fn ended(self, prices: &BTreeMap<String, Model>, answer: &Answer) -> Option<Ended> {
        let told = |it: Option<Told>| {
            let Told { code, message } = it.unwrap_or(Told {
                code: None,
                message: None,
            });
            let message = message.unwrap_or_else(|| "it doesn't say why".to_owned());
            (code.unwrap_or_default(), message)
        };
        let reason = self.incomplete_details.as_ref();
        let reason = reason.and_then(|it| it.reason.as_deref());
        match (self.status.as_str(), reason) {
            ("queued" | "in_progress", _) => None,
            ("completed", _) => Some(Ended::Written(self.written("stop", prices, answer))),
            ("incomplete", Some("max_output_tokens")) => {
                Some(Ended::Written(self.written("length", prices, answer)))
            }
            ("incomplete", Some("content_filter")) => Some(Ended::Written(self.written(
                "content_filter",
                prices,
                answer,
            ))),
            ("cancelled", _) => {
                let message = format!("{} was stopped at OpenAI", self.id);
                let it = Failure::new(Class::Permanent, Scope::Platform, "stopped", message);
                Some(Ended::Failed(it))
            }
            (status, _) => {
                let (code, said) = told(self.error);
                let message = format!("{} is {status} at OpenAI: {said}", self.id);
                let (class, scope) = match code.as_str() {
                    it if CONTENT.contains(&it) => (Class::Permanent, Scope::Content),
                    _ => (Class::Transient, Scope::Platform),
                };
                let word = if code.is_empty() { status } else { &code };
                Some(Ended::Failed(Failure::new(class, scope, word, message)))
            }
        }
    }

    fn written(
        &self,
        finish_reason: &str,
        prices: &BTreeMap<String, Model>,
        answer: &Answer,
    ) -> Completion {
        let usage = self.usage.unwrap_or_default();
        let said = self.output.iter().filter(|it| it["type"] == "message");
        let parts = said.filter_map(|it| it["content"].as_array()).flatten();
        let of = |kind: &str, member: &str| {
            let parts = parts.clone().filter(|it| it["type"] == kind);
            let texts: Vec<&str> = parts.filter_map(|it| it[member].as_str()).collect();
            (!texts.is_empty()).then(|| texts.concat())
        };
        let price = prices.get(&self.model);
        Completion {
            text: of("output_text", "text"),
            refusal: of("refusal", "refusal"),
            finish_reason: finish_reason.to_owned(),
            model: self.model.clone(),
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            cost_micros: price.map(|it| cost(it, usage.input_tokens, usage.output_tokens)),
            request_id: answer.header("x-request-id").map(str::to_owned),
        }
    }
}

/// Errors of a response that another try has, too.
const CONTENT: [&str; 4] = [
    "invalid_prompt",
    "bio_policy",
    "data_residency_mismatch",
    "image_content_policy_violation",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;
    use crate::platform::openai::{Message, Role};
    use bytes::Bytes;
    use proptest::prelude::*;
    use reqwest::header::{HeaderMap, HeaderValue};

    fn answer(headers: &[(&'static str, &str)]) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        Answer {
            status: 200,
            headers: map,
            body: Bytes::new(),
            at: Time::UNIX_EPOCH,
        }
    }

    fn ended(change: Value) -> Option<Ended> {
        let mut body = json!({"id": "resp_1", "status": "completed", "model": "m", "output": [
            {"type": "reasoning", "summary": []},
            {"type": "message", "content": [
                {"type": "output_text", "text": "a fox", "annotations": []},
                {"type": "output_text", "text": " ran"},
            ]},
        ], "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}});
        for (name, value) in change.as_object().unwrap() {
            body[name] = value.clone();
        }
        let response: Response = serde_json::from_value(body).unwrap();
        let price = Model {
            input_micros_per_mtok: 1_000_000,
            output_micros_per_mtok: 1_000_000,
            ..Model::default()
        };
        let prices = BTreeMap::from([("m".to_owned(), price)]);
        response.ended(&prices, &answer(&[("x-request-id", "req_1")]))
    }

    fn written(change: Value) -> Completion {
        match ended(change) {
            Some(Ended::Written(it)) => it,
            other => panic!("{other:?}"),
        }
    }

    fn failed(change: Value) -> (Class, String) {
        match ended(change) {
            Some(Ended::Failed(it)) => (it.class, it.code),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_status_has_its_meaning() {
        for status in ["queued", "in_progress"] {
            assert_eq!(ended(json!({"status": status, "usage": null})), None);
        }
        let whole = written(json!({}));
        assert_eq!(whole.text.as_deref(), Some("a fox ran"));
        assert_eq!(
            (whole.cost_micros, whole.finish_reason.as_str()),
            (Some(7), "stop")
        );
        assert_eq!(whole.request_id.as_deref(), Some("req_1"));
        for (reason, finish) in [
            ("max_output_tokens", "length"),
            ("content_filter", "content_filter"),
        ] {
            let cut = json!({"status": "incomplete", "incomplete_details": {"reason": reason}});
            assert_eq!(written(cut).finish_reason, finish);
        }
        let error = |code: &str| {
            failed(json!({"status": "failed", "error": {"code": code, "message": "m"}}))
        };
        assert_eq!(
            error("server_error"),
            (Class::Transient, "server_error".into())
        );
        assert_eq!(
            error("invalid_prompt"),
            (Class::Permanent, "invalid_prompt".into())
        );
        assert_eq!(
            failed(json!({"status": "failed"})),
            (Class::Transient, "failed".into())
        );
        assert_eq!(
            failed(json!({"status": "cancelled"})),
            (Class::Permanent, "stopped".into())
        );
        // a status of tomorrow is no success
        assert_eq!(failed(json!({"status": "paused"})).0, Class::Transient);
    }

    #[test]
    fn a_refusal_is_told_apart_from_a_text() {
        let no = json!({"output": [{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}]});
        let it = written(no);
        assert_eq!((it.text, it.refusal.as_deref()), (None, Some("no")));
    }

    #[test]
    fn a_body_holds_only_what_was_asked() {
        let mut chat = Chat {
            model: "gpt-5".into(),
            messages: vec![Message {
                role: Role::User,
                content: "hi".into(),
            }],
            schema: None,
            temperature: None,
            max_tokens: None,
            seed: None,
        };
        let plain = json!({"model": "gpt-5", "input": [{"role": "user", "content": "hi"}],
            "background": true, "store": true});
        assert_eq!(body(&chat), plain);
        chat.schema = Some(("a".into(), json!({"type": "object"})));
        chat.max_tokens = Some(900);
        let body = body(&chat);
        assert_eq!(body["text"]["format"]["strict"], true);
        assert_eq!(body["max_output_tokens"], 900);
    }

    #[test]
    fn a_wait_is_taken_from_either_header() {
        let said = |headers: &[(&'static str, &str)]| suggested(&answer(headers));
        assert_eq!(said(&[]), None);
        assert_eq!(said(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        let both = [("retry-after", "7"), ("openai-poll-after-ms", "250")];
        assert_eq!(said(&both), Some(Duration::from_millis(250)));
        assert_eq!(said(&[("openai-poll-after-ms", "soon")]), None);
    }

    #[test]
    fn an_event_names_its_response_and_nothing_else() {
        let of = |text: &str| told_of(text.as_bytes());
        let event = r#"{"id":"evt_1","object":"event","type":"response.completed","created_at":1,"data":{"id":"resp_1"}}"#;
        assert_eq!(of(event).as_deref(), Some("resp_1"));
        assert_eq!(of(&event.replace("response.", "batch.")), None);
        assert_eq!(of(r#"{"type":"response.completed","data":{}}"#), None);
        assert_eq!(of("x"), None);
    }

    #[test]
    fn an_id_stays_within_its_path() {
        let base_url = Url::parse("https://example.com/v1").unwrap();
        let account = Account::at("openai", base_url);
        let url = place(&account, "../x?y");
        assert_eq!(url.as_str(), "https://example.com/v1/responses/..%2Fx%3Fy");
    }

    proptest! {
        #[test]
        fn no_event_panics(bytes: Vec<u8>, text in ".{0,60}") {
            told_of(&bytes);
            told_of(text.as_bytes());
        }
    }
}
