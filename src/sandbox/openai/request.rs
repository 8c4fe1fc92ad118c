//! What a chat completion request may say, checked as strictly as the platform checks it.

use serde_json::{Map, Value};

/// The fields that the description of `CreateChatCompletionRequest` names.
const CHAT_FIELDS: &[&str] = &[
    "metadata",
    "top_logprobs",
    "temperature",
    "top_p",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "messages",
    "model",
    "service_tier",
    "modalities",
    "verbosity",
    "reasoning_effort",
    "max_completion_tokens",
    "frequency_penalty",
    "presence_penalty",
    "web_search_options",
    "response_format",
    "audio",
    "store",
    "moderation",
    "stream",
    "stop",
    "logit_bias",
    "logprobs",
    "max_tokens",
    "n",
    "prediction",
    "seed",
    "stream_options",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "function_call",
    "functions",
];

/// Known fields that the sandbox's model can't serve; null is allowed.
const NOT_SERVED: &[&str] = &[
    "audio",
    "web_search_options",
    "moderation",
    "prediction",
    "functions",
    "function_call",
];

/// A refusal: the message, the parameter it is about and the code.
#[derive(Debug, PartialEq)]
pub(super) struct Invalid {
    pub(super) message: String,
    pub(super) param: Option<String>,
    pub(super) code: Option<&'static str>,
    pub(super) status: u16,
}

pub(super) fn invalid<T>(param: &str, code: &'static str, message: String) -> Result<T, Invalid> {
    Err(Invalid {
        message,
        param: Some(param.to_owned()),
        code: Some(code),
        status: 400,
    })
}

pub(super) fn missing<T>(name: &str) -> Result<T, Invalid> {
    let message = format!("Missing required parameter: '{name}'.");
    invalid(name, "missing_required_parameter", message)
}

/// How the answer shall look.
#[derive(Debug, PartialEq)]
pub(in super::super) enum Format {
    Text,
    JsonObject,
    JsonSchema(Value),
}

/// A request that was understood.
#[derive(Debug)]
pub(in super::super) struct Chat {
    pub(super) model: String,
    /// All message texts, one a line.
    pub(super) prompt: String,
    /// The text of the last message of the user.
    pub(super) question: String,
    pub(super) format: Format,
    pub(super) n: u64,
    pub(super) max_tokens: Option<u64>,
    pub(super) seed: Option<i64>,
    pub(super) store: bool,
    pub(super) metadata: Map<String, Value>,
}

/// Checks a request body.
pub(super) fn chat(body: &[u8]) -> Result<Chat, Invalid> {
    let body: Value = serde_json::from_slice(body).map_err(|error| Invalid {
        message: format!("We could not parse the JSON body of your request: {error}"),
        param: None,
        code: None,
        status: 400,
    })?;
    let Some(fields) = body.as_object() else {
        return invalid(
            "body",
            "invalid_type",
            "The body must be a JSON object.".into(),
        );
    };
    known(fields, CHAT_FIELDS, "")?;
    for name in NOT_SERVED {
        if fields.get(*name).is_some_and(|value| !value.is_null()) {
            return invalid(
                name,
                "unsupported_parameter",
                format!("Unsupported parameter: '{name}' is not supported with this model."),
            );
        }
    }
    for name in ["stream", "logprobs"] {
        if flag(fields, name)? {
            return invalid(
                name,
                "unsupported_value",
                format!("Unsupported value: '{name}' does not support true with this model."),
            );
        }
    }
    let model = model(fields)?;
    numbers(fields)?;
    let (prompt, question) = messages(fields.get("messages"))?;
    let format = format(fields.get("response_format"), &prompt)?;
    let whole = |name: &str| fields.get(name).and_then(Value::as_u64);
    Ok(Chat {
        model,
        question,
        format,
        n: whole("n").unwrap_or(1),
        max_tokens: whole("max_completion_tokens").or_else(|| whole("max_tokens")),
        seed: fields.get("seed").and_then(Value::as_i64),
        store: flag(fields, "store")?,
        metadata: metadata(fields.get("metadata"))?,
        prompt,
    })
}

/// The model that a request names, which must be served here.
pub(super) fn model(fields: &Map<String, Value>) -> Result<String, Invalid> {
    let model = match fields.get("model") {
        Some(Value::String(model)) => model.clone(),
        Some(_) => {
            return invalid(
                "model",
                "invalid_type",
                "Invalid type for 'model': expected a string.".into(),
            );
        }
        None => {
            return invalid(
                "model",
                "missing_required_parameter",
                "you must provide a model parameter".into(),
            );
        }
    };
    if !served(&model) {
        return Err(Invalid {
            message: format!("The model `{model}` does not exist or you do not have access to it."),
            param: None,
            code: Some("model_not_found"),
            status: 404,
        });
    }
    Ok(model)
}

/// Models of this world: the platform's families and the sandbox's own.
fn served(model: &str) -> bool {
    let reasoning = model
        .strip_prefix('o')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    reasoning
        || ["gpt-", "chatgpt-", "sandbox-"]
            .iter()
            .any(|family| model.starts_with(family))
}

pub(super) fn known(fields: &Map<String, Value>, names: &[&str], at: &str) -> Result<(), Invalid> {
    match fields.keys().find(|name| !names.contains(&name.as_str())) {
        Some(name) => {
            let path = format!("{at}{name}");
            let message = if at.is_empty() {
                format!("Unrecognized request argument supplied: {path}")
            } else {
                format!("Unknown parameter: '{path}'.")
            };
            invalid(&path, "unknown_parameter", message)
        }
        None => Ok(()),
    }
}

pub(super) fn flag(fields: &Map<String, Value>, name: &str) -> Result<bool, Invalid> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => invalid(
            name,
            "invalid_type",
            format!("Invalid type for '{name}': expected a boolean."),
        ),
    }
}

pub(super) fn numbers(fields: &Map<String, Value>) -> Result<(), Invalid> {
    const RANGES: &[(&str, f64, f64, bool)] = &[
        ("temperature", 0.0, 2.0, false),
        ("top_p", 0.0, 1.0, false),
        ("frequency_penalty", -2.0, 2.0, false),
        ("presence_penalty", -2.0, 2.0, false),
        ("n", 1.0, 128.0, true),
        ("max_completion_tokens", 1.0, 1e9, true),
        ("max_tokens", 1.0, 1e9, true),
        ("top_logprobs", 0.0, 20.0, true),
        ("seed", -9.3e18, 9.3e18, true),
    ];
    for (name, low, high, whole) in RANGES {
        let Some(value) = fields.get(*name).filter(|value| !value.is_null()) else {
            continue;
        };
        let kind = if *whole { "an integer" } else { "a number" };
        let right = if *whole {
            value.is_i64() || value.is_u64()
        } else {
            value.is_number()
        };
        let Some(number) = value.as_f64().filter(|_| right) else {
            return invalid(
                name,
                "invalid_type",
                format!("Invalid type for '{name}': expected {kind}."),
            );
        };
        if number < *low || number > *high {
            let message = format!(
                "Invalid '{name}': expected {kind} between {low} and {high}, got {number}."
            );
            return invalid(name, "invalid_value", message);
        }
    }
    Ok(())
}

fn messages(list: Option<&Value>) -> Result<(String, String), Invalid> {
    let Some(list) = list else {
        return missing("messages");
    };
    let Some(list) = list.as_array().filter(|list| !list.is_empty()) else {
        return invalid(
            "messages",
            "empty_array",
            "Invalid 'messages': expected an array with at least one message.".into(),
        );
    };
    let (mut texts, mut question) = (Vec::new(), String::new());
    for (at, message) in list.iter().enumerate() {
        let text = one_message(message, &format!("messages[{at}]"))?;
        if message["role"] == "user" {
            question.clone_from(&text);
        }
        texts.push(text);
    }
    Ok((texts.join("\n"), question))
}

fn one_message(message: &Value, at: &str) -> Result<String, Invalid> {
    let Some(fields) = message.as_object() else {
        return invalid(
            at,
            "invalid_type",
            format!("Invalid type for '{at}': expected an object."),
        );
    };
    let role = fields
        .get("role")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let names: &[&str] = match role {
        "system" | "user" | "developer" => &["role", "content", "name"],
        "assistant" => &[
            "role",
            "content",
            "name",
            "refusal",
            "audio",
            "tool_calls",
            "function_call",
        ],
        "tool" => &["role", "content", "tool_call_id"],
        _ => {
            let message = format!(
                "Invalid value: '{role}'. Supported values are: 'system', 'assistant', 'user', 'tool', and 'developer'."
            );
            return invalid(&format!("{at}.role"), "invalid_value", message);
        }
    };
    known(fields, names, &format!("{at}."))?;
    if role == "tool" && !fields.get("tool_call_id").is_some_and(Value::is_string) {
        let param = format!("{at}.tool_call_id");
        return invalid(
            &param,
            "missing_required_parameter",
            format!("Missing required parameter: '{param}'."),
        );
    }
    let path = format!("{at}.content");
    match fields.get("content") {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) if !parts.is_empty() => content_parts(parts, &path, role),
        None | Some(Value::Null) if role == "assistant" => Ok(String::new()),
        _ => invalid(
            &path,
            "invalid_type",
            format!("Invalid type for '{path}': expected a string or an array of parts."),
        ),
    }
}

fn content_parts(parts: &[Value], path: &str, role: &str) -> Result<String, Invalid> {
    let mut text = String::new();
    for (at, part) in parts.iter().enumerate() {
        match part["type"].as_str() {
            Some("text") if part["text"].is_string() => {
                text.push_str(part["text"].as_str().unwrap_or_default())
            }
            Some("image_url") if role == "user" && part["image_url"]["url"].is_string() => {}
            Some("refusal") if role == "assistant" && part["refusal"].is_string() => {}
            _ => {
                let param = format!("{path}[{at}]");
                return invalid(
                    &param,
                    "invalid_value",
                    format!("Invalid content part at '{param}'."),
                );
            }
        }
    }
    Ok(text)
}

fn format(format: Option<&Value>, prompt: &str) -> Result<Format, Invalid> {
    let Some(format) = format.filter(|format| !format.is_null()) else {
        return Ok(Format::Text);
    };
    let only = |names| {
        format
            .as_object()
            .map_or(Ok(()), |fields| known(fields, names, "response_format."))
    };
    match format["type"].as_str() {
        Some("text") => only(&["type"]).map(|()| Format::Text),
        Some("json_object") => {
            only(&["type"])?;
            if prompt.to_lowercase().contains("json") {
                return Ok(Format::JsonObject);
            }
            let message = "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.";
            Err(Invalid { message: message.into(), param: Some("messages".into()), code: None, status: 400 })
        }
        Some("json_schema") => {
            only(&["type", "json_schema"])?;
            let names = ["name", "description", "schema", "strict"];
            schema_format(&format["json_schema"], "response_format.json_schema", &names)
        }
        _ => invalid(
            "response_format.type",
            "invalid_value",
            "Invalid value for 'response_format.type'. Supported values are: 'text', 'json_object', and 'json_schema'.".into(),
        ),
    }
}

/// A format by a schema, whose members are `names` and stand below `at`.
pub(super) fn schema_format(given: &Value, at: &str, names: &[&str]) -> Result<Format, Invalid> {
    let Some(fields) = given.as_object() else {
        return invalid(
            at,
            "missing_required_parameter",
            format!("Missing required parameter: '{at}'."),
        );
    };
    known(fields, names, &format!("{at}."))?;
    let name = fields
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let plain = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if name.is_empty() || name.len() > 64 || !plain {
        let message = format!(
            "Invalid '{at}.name': expected 1 to 64 of a-z, A-Z, 0-9, underscores and dashes."
        );
        return invalid(&format!("{at}.name"), "invalid_value", message);
    }
    let Some(schema) = fields.get("schema").filter(|schema| schema.is_object()) else {
        return invalid(
            &format!("{at}.schema"),
            "missing_required_parameter",
            format!("Missing required parameter: '{at}.schema'."),
        );
    };
    if flag(fields, "strict")? {
        strict(schema, "()").map_err(|why| Invalid {
            message: format!("Invalid schema for response_format '{name}': {why}"),
            param: Some(at.split(".json_schema").next().unwrap_or(at).to_owned()),
            code: None,
            status: 400,
        })?;
    }
    Ok(Format::JsonSchema(schema.clone()))
}

/// Strict schemas close every object and require every property.
fn strict(schema: &Value, at: &str) -> Result<(), String> {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        if schema.get("additionalProperties") != Some(&Value::Bool(false)) {
            return Err(format!(
                "In context={at}, 'additionalProperties' is required to be supplied and to be false."
            ));
        }
        let required = schema.get("required").and_then(Value::as_array);
        for (name, inner) in properties {
            if !required.is_some_and(|list| list.iter().any(|item| item == name)) {
                return Err(format!(
                    "In context={at}, 'required' is required to be supplied and to be an array including every key in properties. Missing '{name}'."
                ));
            }
            strict(inner, &format!("('properties', '{name}')"))?;
        }
    }
    let nested = ["anyOf", "$defs"]
        .into_iter()
        .filter_map(|key| schema.get(key));
    let lists = nested.flat_map(|value| match value {
        Value::Array(list) => list.iter().collect::<Vec<_>>(),
        Value::Object(named) => named.values().collect(),
        _ => Vec::new(),
    });
    lists
        .chain(schema.get("items"))
        .try_for_each(|inner| strict(inner, at))
}

pub(super) fn metadata(given: Option<&Value>) -> Result<Map<String, Value>, Invalid> {
    let pairs = match given {
        None | Some(Value::Null) => return Ok(Map::new()),
        Some(Value::Object(pairs)) => pairs,
        Some(_) => {
            return invalid(
                "metadata",
                "invalid_type",
                "Invalid type for 'metadata': expected an object.".into(),
            );
        }
    };
    if pairs.len() > 16 {
        let message = format!(
            "Invalid 'metadata': too many properties. Expected at most 16, got {}.",
            pairs.len()
        );
        return invalid("metadata", "object_above_max_properties", message);
    }
    for (key, value) in pairs {
        let fits = value
            .as_str()
            .is_some_and(|text| text.chars().count() <= 512);
        if key.chars().count() > 64 || !fits {
            let message = format!(
                "Invalid 'metadata.{key}': keys have at most 64 characters, values are strings of at most 512."
            );
            return invalid("metadata", "invalid_value", message);
        }
    }
    Ok(pairs.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ask(change: Value) -> Result<Chat, Invalid> {
        let mut body =
            json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "a cat"}]});
        let into = body.as_object_mut().expect("an object");
        into.extend(change.as_object().expect("an object").clone());
        chat(body.to_string().as_bytes())
    }

    #[test]
    fn a_plain_request_is_understood() {
        let chat =
            ask(json!({"n": 2, "store": true, "metadata": {"job": "1"}, "seed": 3})).expect("fine");
        assert_eq!(
            (chat.prompt.as_str(), chat.n, chat.store, chat.seed),
            ("a cat", 2, true, Some(3))
        );
    }

    #[test]
    fn mistakes_are_named() {
        let param = |change| ask(change).expect_err("refused").param;
        assert_eq!(param(json!({"stroe": true})), Some("stroe".into()));
        assert_eq!(param(json!({"temperature": 3})), Some("temperature".into()));
        assert_eq!(param(json!({"n": 1.5})), Some("n".into()));
        assert_eq!(param(json!({"messages": []})), Some("messages".into()));
        assert_eq!(
            param(json!({"messages": [{"role": "user", "content": "x", "id": 1}]})),
            Some("messages[0].id".into())
        );
        assert_eq!(
            param(json!({"messages": [{"role": "bot", "content": "x"}]})),
            Some("messages[0].role".into())
        );
        assert_eq!(
            param(json!({"metadata": {"a": 1}})),
            Some("metadata".into())
        );
        assert_eq!(
            param(json!({"response_format": {"type": "json_object"}})),
            Some("messages".into())
        );
        assert_eq!(param(json!({"stream": true})), Some("stream".into()));
        assert_eq!(
            ask(json!({"model": "none"})).expect_err("refused").status,
            404
        );
        assert!(chat(b"{").is_err());
    }

    #[test]
    fn strict_schemas_are_closed_and_whole() {
        let with = |schema| {
            ask(
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "strict": true, "schema": schema}}}),
            )
        };
        let open =
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]});
        assert!(with(open).is_err());
        let partial = json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": [], "additionalProperties": false});
        assert!(with(partial).is_err());
        let whole = json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": false});
        assert!(with(whole).is_ok());
    }

    #[test]
    fn the_description_knows_every_field() {
        let Some(text) = super::super::super::text::specification("openai/openapi.yaml") else {
            return;
        };
        for field in CHAT_FIELDS {
            assert!(
                text.contains(&format!(" {field}:\n")),
                "{field} is not in the description"
            );
        }
    }
}
