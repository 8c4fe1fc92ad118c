//! The envelope as JSON Schema (2020-12): what [`super::Envelope::parse`] takes, for programs.

use serde_json::{Map, Value, json};

use super::envelope::{ATTEMPTS_MAX, KEY_MAX, LABELS_MAX, NAME_MAX, TIMEOUT_MAX_S};
use crate::lateness::AFTER_MAX_S;

/// The schema of every envelope; the payload is any object.
pub fn envelope_schema() -> Value {
    let mut properties = Map::new();
    for (name, schema) in members() {
        properties.insert(name.to_owned(), schema);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Envelope",
        "description": "A job as every door of Presswork takes it: what to do, and options. Members that aren't listed are refused; null is the same as not there.",
        "type": "object",
        "properties": properties,
        "required": ["kind", "payload"],
        "additionalProperties": false,
    })
}

/// The schema of the envelopes of one kind: its payload's schema stands where the payload stands.
/// `needs_account`: it acts for an account.
pub fn envelope_schema_of(kind: &str, payload: Value, example: &str, needs_account: bool) -> Value {
    let mut schema = envelope_schema();
    let mut payload = payload;
    if let Some(inner) = payload.as_object_mut() {
        inner.remove("$schema");
        // references count from the root of the whole document
        if let Some(shared) = inner.remove("$defs") {
            schema["$defs"] = shared;
        }
        if let Ok(example) = serde_json::from_str::<Value>(example) {
            inner.insert("examples".to_owned(), json!([example]));
        }
    }
    schema["title"] = json!(format!("Envelope of {kind}"));
    schema["properties"]["kind"] = json!({"const": kind, "description": "Which handler."});
    schema["properties"]["payload"] = payload;
    if needs_account {
        schema["required"] = json!(["kind", "payload", "account"]);
    }
    schema
}

/// Letters, digits and a few signs.
const NAME: &str = "^[A-Za-z0-9._@:/+-]+$";
/// No control characters.
const TEXT: &str = r"^[^\u0000-\u001f\u007f-\u009f]+$";

fn members() -> [(&'static str, Value); 18] {
    let name = |about: &str| json!({"type": ["string", "null"], "pattern": NAME, "maxLength": NAME_MAX, "description": about});
    let number = |max: u32, about: &str| json!({"type": ["integer", "null"], "minimum": 1, "maximum": max, "description": about});
    let time = |about: &str| json!({"type": ["string", "null"], "format": "date-time", "description": about});
    [
        (
            "v",
            json!({"const": 1, "description": "The envelope's version."}),
        ),
        (
            "kind",
            json!({"type": "string", "pattern": NAME, "maxLength": NAME_MAX,
            "description": "Which handler: `post.mastodon`. `presswork kinds` lists them."}),
        ),
        (
            "payload",
            json!({"type": "object",
            "description": "What the kind needs; its schema: `presswork kinds schema KIND`."}),
        ),
        (
            "key",
            json!({"type": ["string", "null"], "pattern": TEXT, "maxLength": KEY_MAX,
            "description": "The idempotency key, at most 255 bytes: within tenant and kind, the same key with the same payload is the same job, with another payload a conflict."}),
        ),
        (
            "tenant",
            name("Whose job it is. Tenants take turns within a lane. Default: `default`."),
        ),
        (
            "account",
            name("The account it acts for, by its name in jobs.toml."),
        ),
        (
            "lane",
            name("The lane it waits in, one of jobs.toml. Default: its kind's."),
        ),
        (
            "priority",
            json!({"enum": ["high", "normal", "low", null],
            "description": "What goes first within the lane. Default: `normal`."}),
        ),
        ("run_at", time("Not before (RFC 3339). Default: at once.")),
        (
            "not_after",
            time("Not after (RFC 3339): a job that couldn't start by then dies as `expired`."),
        ),
        (
            "late",
            json!({"enum": ["publish", "skip", "ask", null],
            "description": "What becomes of it when it comes late: it is done all the same, given up (dead as `late`), or held for a person. Default: its kind's, else `publish`."}),
        ),
        (
            "late_after_s",
            number(
                AFTER_MAX_S,
                "How many seconds after its time it is late. Default: its kind's, else 3600.",
            ),
        ),
        (
            "attempts_max",
            number(
                ATTEMPTS_MAX,
                "Attempts in all, the first included. Default: its kind's.",
            ),
        ),
        (
            "timeout_s",
            number(
                TIMEOUT_MAX_S,
                "An attempt is ended after this many seconds. Default: its kind's.",
            ),
        ),
        (
            "labels",
            json!({"type": ["object", "null"], "maxProperties": LABELS_MAX,
            "propertyNames": {"maxLength": NAME_MAX},
            "additionalProperties": {"type": "string", "minLength": 1, "maxLength": 1024},
            "description": "The producer's own labels, kept and shown."}),
        ),
        (
            "traceparent",
            json!({"type": ["string", "null"],
            "pattern": "^[0-9a-fA-F]{2}-[0-9a-fA-F]{32}-[0-9a-fA-F]{16}-[0-9a-fA-F]{2}$",
            "description": "W3C trace context, passed on to logs and platforms that take it."}),
        ),
        (
            "reply_to",
            json!({"type": ["string", "null"], "pattern": "^[A-Za-z0-9_-]+$", "maxLength": 64,
            "description": "The token of the Redis list (`presswork:reply:<token>`) that gets the receipt."}),
        ),
        (
            "again",
            json!({"type": ["boolean", "null"],
            "description": "It is meant although the account said the same shortly before (`same_content` of the account)."}),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::envelope::MEMBERS;

    #[test]
    fn the_schema_has_the_members_that_are_read() {
        let schema = envelope_schema();
        let properties = schema["properties"].as_object().unwrap();
        let names: Vec<&str> = properties.keys().map(String::as_str).collect();
        assert_eq!(names, MEMBERS);
        for (name, member) in properties {
            let about = member["description"].as_str().unwrap_or_default();
            assert!(about.ends_with('.'), "{name} isn't described");
        }
    }

    #[test]
    fn a_kinds_payload_brings_its_definitions_to_the_root() {
        let payload = json!({"$schema": "x", "type": "object", "properties": {"a": {"$ref": "#/$defs/A"}},
            "$defs": {"A": {"type": "string"}}});
        let schema = envelope_schema_of("a.b", payload, r#"{"a":"x"}"#, true);
        assert_eq!(schema["$defs"]["A"]["type"], "string");
        assert_eq!(schema["properties"]["payload"]["examples"][0]["a"], "x");
        assert_eq!(schema["properties"]["payload"].get("$schema"), None);
        assert_eq!(schema["properties"]["kind"]["const"], "a.b");
        assert_eq!(schema["required"], json!(["kind", "payload", "account"]));
    }
}
