//! What a request for a response may say, checked as strictly as the platform checks it.

use serde_json::{Map, Value, json};

use super::request::{
    Chat, Format, Invalid, flag, invalid, known, metadata, missing, model, numbers, schema_format,
};

/// The fields that the description of `CreateResponse` names.
const FIELDS: &[&str] = &[
    "background",
    "context_management",
    "conversation",
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "model",
    "moderation",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
];
/// Known fields that the sandbox's model can't serve; null is allowed.
const NOT_SERVED: &[&str] = &[
    "context_management",
    "conversation",
    "moderation",
    "previous_response_id",
    "prompt",
    "tools",
];
/// The fewest tokens that an answer may be held to.
const TOKENS_MIN: u64 = 16;

/// A request that was understood.
#[derive(Debug)]
pub(in super::super) struct Ask {
    pub(super) chat: Chat,
    pub(super) background: bool,
}

/// Checks a request body.
pub(super) fn read(body: &[u8]) -> Result<Ask, Invalid> {
    let body: Value = serde_json::from_slice(body).map_err(|error| Invalid {
        message: format!("We could not parse the JSON body of your request: {error}"),
        param: None,
        code: None,
        status: 400,
    })?;
    let Some(fields) = body.as_object() else {
        let said = "The body must be a JSON object.";
        return invalid("body", "invalid_type", said.into());
    };
    if let Some(name) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        let said = format!("Unknown parameter: '{name}'.");
        return invalid(name, "unknown_parameter", said);
    }
    for name in NOT_SERVED {
        if fields.get(*name).is_some_and(|value| !value.is_null()) {
            let said = format!("Unsupported parameter: '{name}' is not supported with this model.");
            return invalid(name, "unsupported_parameter", said);
        }
    }
    if flag(fields, "stream")? {
        let said = "Unsupported value: 'stream' does not support true with this model.";
        return invalid("stream", "unsupported_value", said.into());
    }
    let background = flag(fields, "background")?;
    let store = fields.get("store").is_none_or(Value::is_null) || flag(fields, "store")?;
    if background && !store {
        let said = "Background mode requires 'store' to be true.";
        return invalid("store", "invalid_value", said.into());
    }
    let model = model(fields)?;
    numbers(fields)?;
    let most = most(fields)?;
    let (mut prompt, question) = input(fields.get("input"))?;
    if let Some(said) = fields.get("instructions").and_then(Value::as_str) {
        prompt = format!("{said}\n{prompt}");
    }
    let chat = Chat {
        model,
        question,
        format: format(fields.get("text"))?,
        n: 1,
        max_tokens: most,
        seed: None,
        store,
        metadata: metadata(fields.get("metadata"))?,
        prompt,
    };
    Ok(Ask { chat, background })
}

fn most(fields: &Map<String, Value>) -> Result<Option<u64>, Invalid> {
    match fields.get("max_output_tokens") {
        None | Some(Value::Null) => Ok(None),
        Some(it) => match it.as_u64() {
            Some(n) if TOKENS_MIN <= n => Ok(Some(n)),
            Some(n) => {
                let said = format!(
                    "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= {TOKENS_MIN}, but got {n} instead."
                );
                invalid("max_output_tokens", "integer_below_min_value", said)
            }
            None => {
                let said = "Invalid type for 'max_output_tokens': expected an integer.";
                invalid("max_output_tokens", "invalid_type", said.into())
            }
        },
    }
}

/// All texts of the input, one a line, and that of the user's last message.
fn input(given: Option<&Value>) -> Result<(String, String), Invalid> {
    let items = match given {
        None | Some(Value::Null) => return missing("input"),
        Some(Value::String(text)) => return Ok((text.clone(), text.clone())),
        Some(Value::Array(items)) if !items.is_empty() => items,
        Some(_) => {
            let said = "Invalid type for 'input': expected a string or an array of items.";
            return invalid("input", "invalid_type", said.into());
        }
    };
    let (mut texts, mut question) = (Vec::new(), String::new());
    for (i, item) in items.iter().enumerate() {
        let at = format!("input[{i}]");
        let text = message(item, &at)?;
        if item["role"] == "user" {
            question.clone_from(&text);
        }
        texts.push(text);
    }
    Ok((texts.join("\n"), question))
}

fn message(item: &Value, at: &str) -> Result<String, Invalid> {
    let Some(fields) = item.as_object() else {
        let said = format!("Invalid type for '{at}': expected an object.");
        return invalid(at, "invalid_type", said);
    };
    known(
        fields,
        &["role", "content", "type", "phase"],
        &format!("{at}."),
    )?;
    let role = fields.get("role").and_then(Value::as_str);
    if !role.is_some_and(|it| ["user", "assistant", "system", "developer"].contains(&it)) {
        let said = format!(
            "Invalid value: '{}'. Supported values are: 'assistant', 'system', 'developer', and 'user'.",
            role.unwrap_or_default()
        );
        return invalid(&format!("{at}.role"), "invalid_value", said);
    }
    let path = format!("{at}.content");
    match fields.get("content") {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) if !parts.is_empty() => {
            let mut text = String::new();
            for (i, part) in parts.iter().enumerate() {
                match (part["type"].as_str(), part["text"].as_str()) {
                    (Some("input_text" | "output_text"), Some(said)) => text.push_str(said),
                    (Some("input_image" | "input_file"), _) => {}
                    _ => {
                        let param = format!("{path}[{i}]");
                        let said = format!("Invalid content part at '{param}'.");
                        return invalid(&param, "invalid_value", said);
                    }
                }
            }
            Ok(text)
        }
        _ => {
            let said =
                format!("Invalid type for '{path}': expected a string or an array of parts.");
            invalid(&path, "invalid_type", said)
        }
    }
}

fn format(text: Option<&Value>) -> Result<Format, Invalid> {
    let Some(fields) = text.and_then(Value::as_object) else {
        return match text {
            None | Some(Value::Null) => Ok(Format::Text),
            Some(_) => {
                let said = "Invalid type for 'text': expected an object.";
                invalid("text", "invalid_type", said.into())
            }
        };
    };
    known(fields, &["format", "verbosity"], "text.")?;
    let Some(format) = fields.get("format").filter(|it| !it.is_null()) else {
        return Ok(Format::Text);
    };
    match format["type"].as_str() {
        Some("text") => Ok(Format::Text),
        Some("json_object") => Ok(Format::JsonObject),
        // flat here, and one level deeper in chat completions
        Some("json_schema") => schema_format(
            format,
            "text.format",
            &["type", "name", "description", "schema", "strict"],
        ),
        _ => {
            let said = "Invalid value for 'text.format.type'. Supported values are: 'text', 'json_object', and 'json_schema'.";
            invalid("text.format.type", "invalid_value", said.into())
        }
    }
}

impl Ask {
    /// What the answer repeats of the request.
    pub(super) fn echo(&self) -> Value {
        json!({
            "model": self.chat.model, "background": self.background, "store": self.chat.store,
            "metadata": self.chat.metadata, "max_output_tokens": self.chat.max_tokens,
            "instructions": null, "parallel_tool_calls": true, "previous_response_id": null,
            "temperature": 1.0, "top_p": 1.0, "tools": [], "tool_choice": "auto",
            "truncation": "disabled", "text": {"format": {"type": "text"}},
        })
    }
}

/// The texts of a body that may be wrong elsewhere, so that markers work in refused requests too.
pub(super) fn text_of(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let items = match &body["input"] {
        Value::String(text) => return Some(text.clone()),
        other => other.as_array()?,
    };
    let texts = items.iter().map(|it| match &it["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|it| it["text"].as_str()).collect(),
        _ => String::new(),
    });
    Some(texts.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(change: Value) -> Result<Ask, Invalid> {
        let mut body = json!({"model": "gpt-5-mini", "input": "a cat"});
        let into = body.as_object_mut().expect("an object");
        into.extend(change.as_object().expect("an object").clone());
        read(body.to_string().as_bytes())
    }

    #[test]
    fn a_plain_request_is_understood() {
        let it = ask(json!({"background": true, "max_output_tokens": 16})).expect("fine");
        assert_eq!((it.background, it.chat.prompt.as_str()), (true, "a cat"));
        let turns = json!({"input": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": [{"type": "input_text", "text": "a dog"}]},
        ]});
        let it = ask(turns).expect("fine");
        assert_eq!(
            (it.chat.prompt.as_str(), it.chat.question.as_str()),
            ("be kind\na dog", "a dog")
        );
        let schema = json!({"type": "object", "properties": {}, "required": [], "additionalProperties": false});
        let format = json!({"type": "json_schema", "name": "a", "strict": true, "schema": schema});
        let it = ask(json!({"text": {"format": format}})).expect("fine");
        assert!(matches!(it.chat.format, Format::JsonSchema(_)));
    }

    #[test]
    fn mistakes_are_named() {
        let param = |change| ask(change).expect_err("refused").param.unwrap_or_default();
        for (change, expected) in [
            (json!({"seed": 1}), "seed"),
            (json!({"messages": []}), "messages"),
            (json!({"max_output_tokens": 3}), "max_output_tokens"),
            (json!({"background": true, "store": false}), "store"),
            (json!({"background": "yes"}), "background"),
            (json!({"input": []}), "input"),
            (
                json!({"input": [{"role": "bot", "content": "x"}]}),
                "input[0].role",
            ),
            (
                json!({"input": [{"role": "user", "content": "x", "name": "y"}]}),
                "input[0].name",
            ),
            (
                json!({"text": {"format": {"type": "json_schema", "json_schema": {}}}}),
                "text.format.json_schema",
            ),
            (json!({"tools": [{"type": "web_search"}]}), "tools"),
            (json!({"metadata": {"a": 1}}), "metadata"),
        ] {
            assert_eq!(param(change.clone()), expected, "{change}");
        }
        assert_eq!(
            ask(json!({"model": "none"})).expect_err("refused").status,
            404
        );
    }

    #[test]
    fn the_description_knows_every_field() {
        let Some(text) = super::super::super::text::specification("openai/openapi.yaml") else {
            return;
        };
        for field in FIELDS {
            let line = format!(" {field}:\n");
            assert!(text.contains(&line), "{field} is not in the description");
        }
    }
}
