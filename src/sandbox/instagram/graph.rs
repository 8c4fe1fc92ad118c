//! The Graph API's manners: its error envelope, parameters from wherever they come, fields that are asked for.

use serde_json::{Map, Value, json};

use super::super::{
    exchange::{Answer, Request},
    form,
};

/// An error of the Graph API: HTTP status, code, subcode, message.
pub(super) fn error(status: u16, code: i64, subcode: Option<i64>, message: &str) -> Answer {
    let kind = match code {
        100 if subcode == Some(33) => "GraphMethodException",
        1 | 2 if status >= 500 => "GraphMethodException",
        _ => "OAuthException",
    };
    let mut body = json!({
        "message": message, "type": kind, "code": code,
        "is_transient": status >= 500,
        "fbtrace_id": uuid::Uuid::new_v4().simple().to_string(),
    });
    if let Some(subcode) = subcode {
        body["error_subcode"] = subcode.into();
        body["error_user_title"] = title(subcode).into();
        body["error_user_msg"] = message.into();
    }
    Answer::json(status, &json!({"error": body}))
}

fn title(subcode: i64) -> &'static str {
    match subcode {
        2_207_003 | 2_207_052 => "Media download has failed",
        2_207_005 => "Unsupported image format",
        2_207_006 => "Media not found",
        2_207_008 => "Media builder expired",
        2_207_010 => "Caption is too long",
        2_207_027 => "Cannot publish",
        2_207_042 => "Maximum number of posts reached",
        2_207_051 => "Action is blocked",
        _ => "Error",
    }
}

/// A parameter that can't be taken.
pub(super) fn parameter(why: &str) -> Answer {
    error(400, 100, None, &format!("(#100) {why}"))
}

/// There is no such object, or it belongs to somebody else.
pub(super) fn unknown(id: &str, method: &str) -> Answer {
    error(
        400,
        100,
        Some(33),
        &format!(
            "Unsupported {} request. Object with ID '{id}' does not exist, cannot be loaded due to missing permissions, or does not support this operation.",
            method.to_lowercase()
        ),
    )
}

/// The usual error of a status; too many requests come as 400, as they do there.
pub(super) fn usual(status: u16, message: Option<&str>) -> Answer {
    let say = |code, subcode, usual: &str| error(status, code, subcode, message.unwrap_or(usual));
    match status {
        401 => say(
            190,
            None,
            "Invalid OAuth access token - Cannot parse access token",
        ),
        403 => say(
            10,
            None,
            "(#10) Application does not have permission for this action",
        ),
        404 => say(100, Some(33), "Unsupported request. Object does not exist."),
        429 => error(
            400,
            80_002,
            None,
            message.unwrap_or(
                "(#80002) There have been too many calls to this Instagram account. Wait a bit and try again.",
            ),
        ),
        400..=499 => say(
            100,
            None,
            "(#100) Invalid parameter: refused by the sandbox on request",
        ),
        503 => say(2, None, "Service temporarily unavailable"),
        200..=399 => say(1, None, "An unknown error occurred"),
        _ => say(
            2,
            None,
            "An unexpected error has occurred. Please retry your request later.",
        ),
    }
}

/// The parameters of a request: those of its query, and those of its body over them.
///
/// # Errors
/// A sentence about a body that can't be read.
pub(super) async fn parameters(request: &Request) -> Result<Map<String, Value>, String> {
    let mut all: Map<String, Value> = request
        .query
        .iter()
        .map(|(name, value)| (name.clone(), Value::from(value.as_str())))
        .collect();
    if request.method != axum::http::Method::GET {
        all.extend(form::read(request).await?.fields);
    }
    Ok(all)
}

/// A text parameter; numbers count as their digits.
pub(super) fn text(all: &Map<String, Value>, name: &str) -> Option<String> {
    match all.get(name)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A parameter that is true or false.
pub(super) fn flag(all: &Map<String, Value>, name: &str) -> bool {
    match all.get(name) {
        Some(Value::Bool(yes)) => *yes,
        Some(Value::String(text)) => matches!(text.as_str(), "true" | "1"),
        _ => false,
    }
}

/// A list: an array, an array written as text, or words with commas between.
pub(super) fn list(all: &Map<String, Value>, name: &str) -> Vec<String> {
    let given = match all.get(name) {
        Some(Value::String(text)) => match serde_json::from_str(text) {
            Ok(Value::Array(items)) => Value::Array(items),
            _ => return text.split(',').map(|it| it.trim().to_owned()).collect(),
        },
        Some(Value::Object(numbered)) => numbered.values().cloned().collect(),
        Some(other) => other.clone(),
        None => return Vec::new(),
    };
    let items = given.as_array().into_iter().flatten();
    items
        .map(|item| {
            item.as_str()
                .map_or_else(|| item.to_string(), str::to_owned)
        })
        .collect()
}

/// The node with the fields that are asked for, and always its id.
///
/// # Errors
/// A field that this kind of node doesn't have.
pub(super) fn pick(
    node: &Value,
    (kind, known): (&str, &[&str]),
    fields: &[String],
) -> Result<Value, Answer> {
    let mut out = json!({});
    for field in fields.iter().filter(|it| !it.is_empty()) {
        // config{quota_total} asks for a part: the whole is given
        let name = field.split(['{', '.']).next().unwrap_or_default();
        if !known.contains(&name) {
            return Err(parameter(&format!(
                "Tried accessing nonexisting field ({name}) on node type ({kind})"
            )));
        }
        if !node[name].is_null() {
            out[name] = node[name].clone();
        }
    }
    if !node["id"].is_null() {
        out["id"] = node["id"].clone();
    }
    Ok(out)
}

/// The names in `fields`; a comma within braces parts nothing.
pub(super) fn fields(given: Option<&str>) -> Vec<String> {
    let (mut out, mut depth) = (vec![String::new()], 0usize);
    for c in given.unwrap_or_default().chars() {
        match c {
            '{' | '(' => depth += 1,
            '}' | ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                out.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = out.last_mut() {
            last.push(c);
        }
    }
    out.retain(|it| !it.trim().is_empty());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_in_many_forms() {
        let of = |value: Value| list(&Map::from_iter([("a".to_owned(), value)]), "a");
        for value in [
            json!("1,2"),
            json!("[\"1\",\"2\"]"),
            json!(["1", "2"]),
            json!([1, 2]),
            json!({"0": "1", "1": "2"}),
        ] {
            assert_eq!(of(value.clone()), ["1", "2"], "{value}");
        }
        assert_eq!(
            fields(Some("id,config{quota_total,quota_duration},x")),
            ["id", "config{quota_total,quota_duration}", "x"]
        );
    }
}
