//! What the sandbox's model writes: short friendly stories, and documents that satisfy a JSON schema.

use serde_json::{Map, Value, json};

use super::super::text::fingerprint;

/// Schemas nest this deep at most; below it only the smallest value is given.
const MAX_DEPTH: usize = 8;

const OPENINGS: &[&str] = &[
    "Early one morning, {} woke the whole street.",
    "Nobody expected much of {}, and that was the beginning of it.",
    "There was a window above the harbour, and behind it {}.",
    "Grandmother kept one story for rainy days, and it was about {}.",
    "The last tram had gone when {} came round the corner.",
];
const MIDDLES: &[&str] = &[
    "A small fox listened from under the table and forgot its supper.",
    "The baker put out a chair, the postman brought a lamp, and they stayed.",
    "It rained a little, as it does when something is about to be understood.",
    "Somebody laughed first, and then it was easy.",
    "The clock in the hall missed a beat and pretended it had not.",
];
const ENDINGS: &[&str] = &[
    "In the end there was soup, and enough for everyone.",
    "They still tell it there, a little differently each year.",
    "And the light stayed on a while longer than it had to.",
    "What remained was a good night's sleep.",
    "Next day they did it all again.",
];

/// A story about a subject; the same words for the same seed.
pub(super) fn story(subject: &str, seed: u64) -> String {
    let pick = |from: &[&'static str], salt: &str| {
        let number = fingerprint(&[&seed.to_string(), salt]) % from.len() as u64;
        from[usize::try_from(number).expect("smaller than the list")]
    };
    let opening = pick(OPENINGS, "opening").replace("{}", subject);
    format!(
        "{opening} {} {}",
        pick(MIDDLES, "middle"),
        pick(ENDINGS, "ending")
    )
}

/// What a prompt is about: its first words, without the request around them.
pub(super) fn subject(prompt: &str) -> String {
    let flat = prompt.split_whitespace().collect::<Vec<_>>().join(" ");
    let about = flat
        .split_once(" about ")
        .map_or(flat.as_str(), |(_, about)| about);
    let clause = about
        .split(['.', '!', '?', ';', ':', '\n', ','])
        .next()
        .unwrap_or_default()
        .trim();
    let mut words = String::new();
    for word in clause.split(' ').filter(|word| !word.is_empty()) {
        if words.chars().count() + word.chars().count() > 47 {
            break;
        }
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(word);
    }
    if words.is_empty() {
        "a quiet afternoon".into()
    } else {
        words
    }
}

/// A document that satisfies a schema of objects, arrays, strings, numbers, booleans, enums, `$ref` and `anyOf`.
pub(super) fn document(schema: &Value, subject: &str, seed: u64) -> Value {
    Writer {
        root: schema,
        subject,
        seed,
    }
    .value(schema, "document", 0)
}

struct Writer<'a> {
    root: &'a Value,
    subject: &'a str,
    seed: u64,
}

impl Writer<'_> {
    fn value(&self, schema: &Value, name: &str, depth: usize) -> Value {
        if let Some(fixed) = schema.get("const") {
            return fixed.clone();
        }
        if let Some(choices) = schema
            .get("enum")
            .and_then(Value::as_array)
            .filter(|choices| !choices.is_empty())
        {
            let number = fingerprint(&[&self.seed.to_string(), name]) % choices.len() as u64;
            return choices[usize::try_from(number).expect("smaller than the list")].clone();
        }
        if let Some(target) = schema
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|path| self.resolve(path))
        {
            return if depth > MAX_DEPTH {
                Value::Null
            } else {
                self.value(target, name, depth + 1)
            };
        }
        if let Some(any) = schema
            .get("anyOf")
            .and_then(Value::as_array)
            .filter(|any| !any.is_empty())
        {
            let null = |option: &&Value| option.get("type") == Some(&json!("null"));
            let empty = depth > MAX_DEPTH && any.iter().any(|option| null(&option));
            let chosen = any
                .iter()
                .find(|option| null(option) == empty)
                .unwrap_or(&any[0]);
            return self.value(chosen, name, depth + 1);
        }
        match kind(schema) {
            "object" => self.object(schema, depth),
            "array" => self.array(schema, name, depth),
            "integer" => number(schema, self.seed, name, true),
            "number" => number(schema, self.seed, name, false),
            "boolean" => json!(fingerprint(&[&self.seed.to_string(), name]).is_multiple_of(2)),
            "null" => Value::Null,
            _ => Value::String(self.string(schema, name)),
        }
    }

    fn resolve(&self, path: &str) -> Option<&Value> {
        self.root.pointer(path.strip_prefix('#')?)
    }

    fn object(&self, schema: &Value, depth: usize) -> Value {
        let required = |name: &str| {
            schema
                .get("required")
                .and_then(Value::as_array)
                .is_some_and(|list| list.iter().any(|item| item == name))
        };
        let mut out = Map::new();
        for (name, inner) in schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            if depth <= MAX_DEPTH || required(name) {
                out.insert(name.clone(), self.value(inner, name, depth + 1));
            }
        }
        Value::Object(out)
    }

    fn array(&self, schema: &Value, name: &str, depth: usize) -> Value {
        let bound = |key: &str| schema.get(key).and_then(Value::as_u64);
        let least = bound("minItems").unwrap_or(0);
        let wanted = if depth > MAX_DEPTH { 0 } else { 2 };
        let count = least
            .max(wanted)
            .min(bound("maxItems").unwrap_or(u64::MAX))
            .min(1000);
        let any = json!({"type": "string"});
        let items = schema.get("items").unwrap_or(&any);
        (0..count)
            .map(|at| self.value(items, &format!("{name} {}", at + 1), depth + 1))
            .collect()
    }

    fn string(&self, schema: &Value, name: &str) -> String {
        let fixed = match schema.get("format").and_then(Value::as_str) {
            Some("date-time") => Some("2026-01-01T12:00:00Z"),
            Some("date") => Some("2026-01-01"),
            Some("time") => Some("12:00:00Z"),
            Some("email") => Some("reader@example.com"),
            Some("uri") => Some("https://example.com/story"),
            Some("uuid") => Some("00000000-0000-4000-8000-000000000000"),
            _ => None,
        };
        if let Some(fixed) = fixed {
            return fixed.to_owned();
        }
        let lower = name.to_lowercase();
        let mut text = if lower.contains("title") || lower.contains("headline") {
            format!("The story of {}", self.subject)
        } else if ["text", "story", "body", "content", "post", "caption"]
            .iter()
            .any(|word| lower.contains(word))
        {
            story(self.subject, self.seed)
        } else if lower.contains("tag") {
            lower.chars().filter(char::is_ascii_alphanumeric).collect()
        } else {
            format!("{name} of {}", self.subject)
        };
        let bound = |key: &str| {
            schema
                .get(key)
                .and_then(Value::as_u64)
                .and_then(|n| usize::try_from(n).ok())
        };
        let least = bound("minLength").unwrap_or(0).min(100_000);
        while text.chars().count() < least {
            text.push_str(" and so on");
        }
        text.chars()
            .take(bound("maxLength").unwrap_or(usize::MAX))
            .collect()
    }
}

/// The first type that isn't null; an object or array is known by its parts as well.
fn kind(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::String(kind)) => kind,
        Some(Value::Array(kinds)) => kinds
            .iter()
            .filter_map(Value::as_str)
            .find(|kind| *kind != "null")
            .unwrap_or("null"),
        _ if schema.get("properties").is_some() => "object",
        _ if schema.get("items").is_some() => "array",
        _ => "string",
    }
}

fn number(schema: &Value, seed: u64, name: &str, whole: bool) -> Value {
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
    let multiple = bound("multipleOf").filter(|step| *step > 0.0);
    let step = multiple.unwrap_or(1.0);
    let least = bound("minimum").or_else(|| bound("exclusiveMinimum").map(|m| m + step));
    let most = bound("maximum").or_else(|| bound("exclusiveMaximum").map(|m| m - step));
    let low = least.unwrap_or_else(|| most.map_or(1.0, |most| most.min(1.0)));
    let high = most.unwrap_or(low + 9.0).max(low);
    let steps = ((high - low) / step).floor().clamp(0.0, 9.0);
    let chosen = fingerprint(&[&seed.to_string(), name]) % (steps as u64 + 1);
    let first = if whole || multiple.is_some() {
        (low / step).ceil() * step
    } else {
        low
    };
    let value = (first + chosen as f64 * step).min(high.max(first));
    if whole {
        json!(value.round() as i64)
    } else {
        json!(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stories_are_short_and_the_same_again() {
        let told = story("a cat", 7);
        assert_eq!(told, story("a cat", 7));
        assert!(
            told.contains("a cat") && told.chars().count() < 260,
            "{told}"
        );
        assert!((0..20).any(|seed| story("a cat", seed) != told));
    }

    #[test]
    fn a_subject_is_what_the_prompt_is_about() {
        assert_eq!(
            subject("Write a short story about a cat that sails. Be kind."),
            "a cat that sails"
        );
        assert_eq!(subject("  "), "a quiet afternoon");
        assert!(subject(&"word ".repeat(100)).chars().count() <= 48);
    }

    #[test]
    fn documents_satisfy_their_schema() {
        let schema = json!({
            "type": "object",
            "required": ["title", "tags", "n", "mood", "next"],
            "properties": {
                "title": {"type": "string", "maxLength": 10},
                "tags": {"type": "array", "items": {"type": "string"}, "minItems": 3, "maxItems": 4},
                "n": {"type": "integer", "minimum": 5, "maximum": 6},
                "x": {"type": "number", "minimum": 0.5, "maximum": 0.75},
                "mood": {"enum": ["calm", "wild"]},
                "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
            },
        });
        let made = document(&schema, "a cat", 3);
        assert!(
            made["title"]
                .as_str()
                .is_some_and(|t| !t.is_empty() && t.chars().count() <= 10)
        );
        assert_eq!(made["tags"].as_array().map(Vec::len), Some(3));
        assert!(matches!(made["n"].as_i64(), Some(5 | 6)));
        assert!(
            made["x"]
                .as_f64()
                .is_some_and(|x| (0.5..=0.75).contains(&x))
        );
        assert!(made["mood"] == "calm" || made["mood"] == "wild");
        assert!(made["next"].is_object(), "recursion goes on, and ends");
    }
}
