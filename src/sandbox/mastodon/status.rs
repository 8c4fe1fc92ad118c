//! What a new status may say, how Mastodon counts its characters, and the HTML it makes of it.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};

use super::super::text::{escape, graphemes, links};

/// The fields that the description of `POST /api/v1/statuses` names.
const STATUS_FIELDS: &[&str] = &[
    "status",
    "media_ids",
    "poll",
    "in_reply_to_id",
    "language",
    "quote_approval_policy",
    "quoted_status_id",
    "scheduled_at",
    "sensitive",
    "spoiler_text",
    "visibility",
];
/// Characters of a status.
pub(super) const MAX_CHARACTERS: usize = 500;
/// Characters that any link counts.
pub(super) const CHARACTERS_PER_URL: usize = 23;
/// Files of a status.
pub(super) const MAX_MEDIA: usize = 4;
/// Options of a poll, characters of each, and the bounds of its duration in seconds.
pub(super) const POLL_OPTIONS: usize = 4;
pub(super) const POLL_CHARACTERS: usize = 50;
pub(super) const POLL_SECONDS: (i64, i64) = (300, 2_629_746);
/// How far ahead a status must be scheduled.
const SCHEDULE_AHEAD: TimeDelta = TimeDelta::minutes(5);

/// A new status that was understood.
#[derive(Debug)]
pub(in super::super) struct NewStatus {
    pub(super) text: String,
    pub(super) media_ids: Vec<String>,
    pub(super) poll: Option<Poll>,
    pub(super) in_reply_to: Option<String>,
    pub(super) quoted: Option<String>,
    pub(super) language: Option<String>,
    pub(super) scheduled_at: Option<DateTime<Utc>>,
    pub(super) sensitive: bool,
    pub(super) spoiler: String,
    pub(super) visibility: String,
}

/// A poll that was understood.
#[derive(Debug)]
pub(in super::super) struct Poll {
    pub(super) options: Vec<String>,
    pub(super) expires_in_s: i64,
    pub(super) multiple: bool,
}

impl NewStatus {
    /// Checks the fields of a request; the error is the sentence of a 422.
    pub(super) fn read(
        fields: &Map<String, Value>,
        now: DateTime<Utc>,
    ) -> Result<NewStatus, String> {
        known(fields, STATUS_FIELDS, "")?;
        let status = NewStatus {
            text: string(fields, "status")?.unwrap_or_default(),
            media_ids: strings(fields, "media_ids")?,
            poll: poll(fields.get("poll"))?,
            in_reply_to: string(fields, "in_reply_to_id")?,
            quoted: string(fields, "quoted_status_id")?,
            language: string(fields, "language")?,
            scheduled_at: scheduled(string(fields, "scheduled_at")?, now)?,
            sensitive: boolean(fields, "sensitive")?,
            spoiler: string(fields, "spoiler_text")?.unwrap_or_default(),
            visibility: one_of(
                fields,
                "visibility",
                &["public", "unlisted", "private", "direct"],
            )?,
        };
        one_of(
            fields,
            "quote_approval_policy",
            &["public", "followers", "nobody"],
        )?;
        if status.language.as_deref().is_some_and(|tag| !language(tag)) {
            return Err("Validation failed: Language is not an ISO 639 code".into());
        }
        if status.media_ids.len() > MAX_MEDIA {
            return Err(format!(
                "Validation failed: Cannot attach more than {MAX_MEDIA} files"
            ));
        }
        if status.poll.is_some() && !status.media_ids.is_empty() {
            return Err("Validation failed: Cannot attach media to a status with a poll".into());
        }
        if status.text.trim().is_empty() && status.media_ids.is_empty() {
            return Err("Validation failed: Text can't be blank".into());
        }
        if characters(&status.text) + graphemes(&status.spoiler) > MAX_CHARACTERS {
            return Err(format!(
                "Validation failed: Text character limit of {MAX_CHARACTERS} exceeded"
            ));
        }
        Ok(status)
    }
}

fn known(fields: &Map<String, Value>, names: &[&str], at: &str) -> Result<(), String> {
    match fields.keys().find(|name| !names.contains(&name.as_str())) {
        Some(name) => Err(format!("Validation failed: unknown parameter {at}{name}")),
        None => Ok(()),
    }
}

/// A text field; null and an empty text other than `status` count as absent, as Rails' `presence` does.
pub(super) fn string(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok((!text.is_empty()).then(|| text.clone())),
        Some(Value::Number(number)) if name.ends_with("_id") => Ok(Some(number.to_string())),
        Some(_) => Err(format!("Validation failed: {name} must be a string")),
    }
}

fn strings(fields: &Map<String, Value>, name: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("Validation failed: {name} must be an array of strings");
    match fields.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong))
            .collect(),
        Some(_) => Err(wrong()),
    }
}

/// Forms send text where JSON sends `true`.
fn boolean(fields: &Map<String, Value>, name: &str) -> Result<bool, String> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if matches!(text.as_str(), "true" | "1" | "on") => Ok(true),
        Some(Value::String(text)) if matches!(text.as_str(), "false" | "0" | "off" | "") => {
            Ok(false)
        }
        Some(_) => Err(format!("Validation failed: {name} must be a boolean")),
    }
}

fn one_of(fields: &Map<String, Value>, name: &str, names: &[&str]) -> Result<String, String> {
    let given = string(fields, name)?.unwrap_or_else(|| "public".into());
    let known = names.contains(&given.as_str());
    known.then_some(given).ok_or_else(|| {
        format!(
            "Validation failed: {name} must be one of {}",
            names.join(", ")
        )
    })
}

fn language(tag: &str) -> bool {
    let first = tag.split('-').next().unwrap_or_default();
    (2..=3).contains(&first.len())
        && tag.len() <= 35
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn scheduled(given: Option<String>, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, String> {
    let Some(given) = given else { return Ok(None) };
    let at = DateTime::parse_from_rfc3339(&given)
        .map_err(|_| "Validation failed: Scheduled at is not a valid date".to_owned())?
        .with_timezone(&Utc);
    if at < now + SCHEDULE_AHEAD {
        return Err("Validation failed: Scheduled at date must be in the future".into());
    }
    Ok(Some(at))
}

fn poll(given: Option<&Value>) -> Result<Option<Poll>, String> {
    let fields = match given {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(fields)) => fields,
        Some(_) => return Err("Validation failed: poll must be an object".into()),
    };
    known(
        fields,
        &["options", "expires_in", "multiple", "hide_totals"],
        "poll.",
    )?;
    let options = strings(fields, "options")?;
    let seconds = match fields.get("expires_in") {
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_i64(),
        None => None,
    };
    boolean(fields, "hide_totals")?;
    let fits = |option: &String| !option.trim().is_empty() && graphemes(option) <= POLL_CHARACTERS;
    if !(2..=POLL_OPTIONS).contains(&options.len()) || !options.iter().all(fits) {
        return Err(format!(
            "Validation failed: a poll has 2 to {POLL_OPTIONS} options of 1 to {POLL_CHARACTERS} characters"
        ));
    }
    match seconds {
        Some(s) if (POLL_SECONDS.0..=POLL_SECONDS.1).contains(&s) => Ok(Some(Poll {
            options,
            expires_in_s: s,
            multiple: boolean(fields, "multiple")?,
        })),
        _ => Err(format!(
            "Validation failed: poll.expires_in must lie between {} and {}",
            POLL_SECONDS.0, POLL_SECONDS.1
        )),
    }
}

/// Characters as Mastodon counts them: graphemes, a link 23, the domain of a mention nothing.
fn characters(text: &str) -> usize {
    let (mut count, mut from) = (0, 0);
    for link in links(text) {
        count += without_domains(&text[from..link.start]) + CHARACTERS_PER_URL;
        from = link.end;
    }
    count + without_domains(&text[from..])
}

/// Graphemes of a text with `@user@host` counted as `@user`.
fn without_domains(text: &str) -> usize {
    let domain = |word: &str| {
        let rest = word
            .trim_start_matches(|c: char| !c.is_alphanumeric() && c != '@')
            .strip_prefix('@')?;
        let (user, host) = rest.split_once('@')?;
        let plain = !user.is_empty()
            && user
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        let host: String = host
            .chars()
            .take_while(|c| c.is_alphanumeric() || matches!(c, '.' | '-'))
            .collect();
        (plain && host.contains('.')).then(|| graphemes(host.trim_end_matches('.')) + 1)
    };
    graphemes(text) - text.split_whitespace().filter_map(domain).sum::<usize>()
}

/// The HTML of a status, as Mastodon's `content` has it: paragraphs, line breaks, links, hashtags.
pub(super) fn content(text: &str, base: &str) -> String {
    let mut html = String::from("<p>");
    let mut from = 0;
    for link in links(text) {
        html.push_str(&plain(&text[from..link.start], base));
        html.push_str(&anchor(&text[link.clone()]));
        from = link.end;
    }
    html.push_str(&plain(&text[from..], base));
    html.push_str("</p>");
    html
}

/// A link as it is shown: without its scheme, cut after 30 characters.
fn anchor(link: &str) -> String {
    let (scheme, rest) = link.split_at(link.find("://").map_or(0, |at| at + 3));
    let shown: String = rest.chars().take(30).collect();
    let hidden = &rest[shown.len()..];
    let class = if hidden.is_empty() { "" } else { "ellipsis" };
    format!(
        r#"<a href="{}" target="_blank" rel="nofollow noopener noreferrer" translate="no"><span class="invisible">{scheme}</span><span class="{class}">{}</span><span class="invisible">{}</span></a>"#,
        escape(link),
        escape(&shown),
        escape(hidden),
    )
}

/// Escapes a piece without links; hashtags become links, line breaks become markup.
fn plain(text: &str, base: &str) -> String {
    let (mut html, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('#') {
        let free = !rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '/');
        let tag: String = rest[at + 1..]
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        html.push_str(&escape(&rest[..at]));
        if free && tag.chars().any(char::is_alphabetic) {
            let page = escape(&format!("{base}/mastodon/tags/{}", tag.to_lowercase()));
            html.push_str(&format!(
                r#"<a href="{page}" class="mention hashtag" rel="tag">#<span>{tag}</span></a>"#
            ));
            rest = &rest[at + 1 + tag.len()..];
        } else {
            html.push('#');
            rest = &rest[at + 1..];
        }
    }
    html.push_str(&escape(rest));
    html.replace("\r\n", "\n")
        .replace("\n\n", "</p><p>")
        .replace('\n', "<br />")
}

/// The hashtags of a text, in lower case, each once.
pub(super) fn hashtags(text: &str) -> Vec<String> {
    let mut tags: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let Some(rest) = word.strip_prefix('#') else {
            continue;
        };
        let tag: String = rest
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if tag.chars().any(char::is_alphabetic) && !tags.contains(&tag.to_lowercase()) {
            tags.push(tag.to_lowercase());
        }
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(fields: Value) -> Result<NewStatus, String> {
        NewStatus::read(fields.as_object().expect("an object"), Utc::now())
    }

    #[test]
    fn links_count_23_and_mentions_lose_their_domain() {
        let link = format!("https://example.com/{}", "x".repeat(200));
        assert_eq!(characters(&link), 23);
        assert_eq!(characters(&format!("a {link} b")), 27);
        assert_eq!(characters("@bob@example.social hi"), "@bob hi".len());
        assert_eq!(characters("👩‍👩‍👧"), 1);
        assert!(read(json!({"status": "x".repeat(500)})).is_ok());
        assert!(read(json!({"status": "x".repeat(501)})).is_err());
        assert!(read(json!({"status": "x".repeat(499), "spoiler_text": "cw"})).is_err());
    }

    #[test]
    fn mistakes_are_refused() {
        for wrong in [
            json!({}),
            json!({"status": " "}),
            json!({"status": "x", "stauts": "y"}),
            json!({"status": "x", "visibility": "loud"}),
            json!({"status": "x", "media_ids": "1"}),
            json!({"status": "x", "media_ids": ["1", "2", "3", "4", "5"]}),
            json!({"status": "x", "scheduled_at": Utc::now().to_rfc3339()}),
            json!({"status": "x", "poll": {"options": ["a"], "expires_in": 300}}),
            json!({"status": "x", "language": "english language"}),
            json!({"status": 7}),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
        let form = json!({"status": "x", "sensitive": "true", "poll": {"options": ["a", "b"], "expires_in": "300"}});
        assert!(read(form).expect("a form").sensitive);
    }

    #[test]
    fn content_is_escaped_html() {
        assert_eq!(
            content("a <b>\n\nc\nd", "http://s"),
            "<p>a &lt;b&gt;</p><p>c<br />d</p>"
        );
        let made = content("go https://example.com/?a=1&b=2 #Cat", "http://s");
        assert!(
            made.contains(r#"href="https://example.com/?a=1&amp;b=2""#),
            "{made}"
        );
        assert!(
            made.contains(r#"href="http://s/mastodon/tags/cat""#),
            "{made}"
        );
        assert_eq!(hashtags("#Cat and #cat #1 #Dog!"), ["cat", "dog"]);
    }

    #[test]
    fn the_description_knows_every_field() {
        let Some(text) = super::super::super::text::specification("mastodon/openapi.json") else {
            return;
        };
        let spec: Value = serde_json::from_str(&text).expect("JSON");
        let schemas = &spec["components"]["schemas"];
        let mut names: Vec<&String> = Vec::new();
        for schema in ["BaseStatus", "TextStatus", "MediaStatus", "PollStatus"] {
            let parts = schemas[schema]["allOf"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            names.extend(
                schemas[schema]["properties"]
                    .as_object()
                    .into_iter()
                    .flat_map(Map::keys),
            );
            for at in 0..parts.len() {
                names.extend(
                    schemas[schema]["allOf"][at]["properties"]
                        .as_object()
                        .into_iter()
                        .flat_map(Map::keys),
                );
            }
        }
        for field in STATUS_FIELDS {
            assert!(
                names.iter().any(|name| name == field),
                "{field} is not in the description"
            );
        }
    }
}
