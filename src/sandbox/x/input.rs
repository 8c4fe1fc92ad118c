//! What a new post and an upload may say: X refuses unknown fields.

use serde_json::{Map, Value};

use super::super::{exchange::Request, form::Form};

/// The fields of `POST /2/tweets`, of its media, its reply and its poll.
pub(super) const POST: &[&str] = &[
    "card_uri",
    "community_id",
    "direct_message_deep_link",
    "edit_options",
    "for_super_followers_only",
    "geo",
    "made_with_ai",
    "media",
    "nullcast",
    "paid_partnership",
    "poll",
    "quote_tweet_id",
    "reply",
    "reply_settings",
    "share_with_followers",
    "text",
];
pub(super) const POST_MEDIA: &[&str] = &[
    "call_to_actions",
    "description",
    "embeddable",
    "media_ids",
    "preview_media_id",
    "tagged_user_ids",
    "title",
];
pub(super) const POST_REPLY: &[&str] = &[
    "auto_populate_reply_metadata",
    "exclude_reply_user_ids",
    "in_reply_to_tweet_id",
];
pub(super) const POST_POLL: &[&str] = &["duration_minutes", "options", "reply_settings"];
/// The fields of `POST /2/media/upload/initialize`.
pub(super) const INITIALIZE: &[&str] = &[
    "additional_owners",
    "media_category",
    "media_type",
    "shared",
    "total_bytes",
];
/// The categories of an upload, and the types of those that a post can carry.
pub(super) const CATEGORIES: &[&str] = &[
    "amplify_video",
    "tweet_gif",
    "tweet_image",
    "tweet_video",
    "dm_gif",
    "dm_image",
    "dm_video",
    "subtitles",
];
pub(super) const TYPES: &[&str] = &[
    "video/mp4",
    "video/webm",
    "video/mp2t",
    "video/quicktime",
    "text/srt",
    "text/vtt",
    "image/jpeg",
    "image/gif",
    "image/bmp",
    "image/png",
    "image/webp",
    "image/pjpeg",
    "image/tiff",
    "model/gltf-binary",
    "model/vnd.usdz+zip",
];
const REPLY_SETTINGS: &[&str] = &["following", "mentionedUsers", "subscribers", "verified"];
/// Bytes of a picture, a GIF and a video.
const IMAGE_BYTES: u64 = 5 * 1024 * 1024;
const GIF_BYTES: u64 = 15 * 1024 * 1024;
const VIDEO_BYTES: u64 = 512 * 1024 * 1024;

/// A new post that was understood.
#[derive(Debug)]
pub(in super::super) struct NewPost {
    pub(super) text: String,
    pub(super) media_ids: Vec<String>,
    pub(super) reply_to: Option<String>,
    pub(super) quoted: Option<String>,
    pub(super) poll: Option<Value>,
    pub(super) lag_ms: u32,
}

/// An upload that may begin.
#[derive(Debug)]
pub(in super::super) struct NewUpload {
    pub(super) mime: String,
    pub(super) category: String,
    pub(super) total: u64,
}

/// The object of a JSON body, with no other fields than these.
///
/// # Errors
/// What is wrong with it.
pub(super) fn object(request: &Request, names: &[&str]) -> Result<Map<String, Value>, String> {
    if request.content_type() != "application/json" {
        return Err("The Content-Type must be application/json.".into());
    }
    let body: Value = serde_json::from_slice(&request.body)
        .map_err(|error| format!("The body is not valid JSON: {error}."))?;
    known(&body, "$", names)?;
    match body {
        Value::Object(fields) => Ok(fields),
        _ => Err("$: must be an object".into()),
    }
}

fn known(value: &Value, at: &str, names: &[&str]) -> Result<(), String> {
    let fields = value
        .as_object()
        .ok_or_else(|| format!("{at}: must be an object"))?;
    match fields.keys().find(|name| !names.contains(&name.as_str())) {
        Some(name) => Err(format!(
            "{at}.{name}: is not defined in the schema and the schema does not allow additional properties"
        )),
        None => Ok(()),
    }
}

/// Whether a text is an id: up to 19 digits.
pub(super) fn is_id(text: &str) -> bool {
    (1..=19).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

fn id(value: &Value, at: &str) -> Result<Option<String>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if is_id(text) => Ok(Some(text.clone())),
        _ => Err(format!(
            "{at}: does not match the regex pattern ^[0-9]{{1,19}}$"
        )),
    }
}

fn ids(value: &Value, at: &str, most: usize) -> Result<Vec<String>, String> {
    let items = value
        .as_array()
        .ok_or_else(|| format!("{at}: must be an array"))?;
    if items.len() > most {
        return Err(format!("{at}: there must be a maximum of {most} items"));
    }
    let read = |item| id(item, at)?.ok_or_else(|| format!("{at}: must be a string"));
    items.iter().map(read).collect()
}

impl NewPost {
    /// Checks what a request says; the error is a sentence of an invalid-request problem.
    pub(super) fn read(request: &Request) -> Result<NewPost, String> {
        let body = Value::Object(object(request, POST)?);
        let text = match &body["text"] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            _ => return Err("$.text: must be a string".into()),
        };
        let mut media_ids = Vec::new();
        if !body["media"].is_null() {
            known(&body["media"], "$.media", POST_MEDIA)?;
            media_ids = ids(&body["media"]["media_ids"], "$.media.media_ids", 4)?;
            if media_ids.is_empty() {
                return Err("$.media.media_ids: there must be a minimum of 1 items".into());
            }
            if !body["media"]["tagged_user_ids"].is_null() {
                let tagged = &body["media"]["tagged_user_ids"];
                ids(tagged, "$.media.tagged_user_ids", 10)?;
            }
        }
        let reply_to = match &body["reply"] {
            Value::Null => None,
            reply => {
                known(reply, "$.reply", POST_REPLY)?;
                let at = "$.reply.in_reply_to_tweet_id";
                let to = id(&reply["in_reply_to_tweet_id"], at)?;
                Some(to.ok_or_else(|| format!("{at}: is missing but it is required"))?)
            }
        };
        for (name, at) in [("geo", "place_id"), ("edit_options", "previous_post_id")] {
            if !body[name].is_null() {
                known(&body[name], &format!("$.{name}"), &[at])?;
            }
        }
        for name in ["made_with_ai", "paid_partnership", "nullcast"] {
            if !matches!(body[name], Value::Null | Value::Bool(_)) {
                return Err(format!("$.{name}: must be a boolean"));
            }
        }
        match &body["reply_settings"] {
            Value::Null => {}
            Value::String(who) if REPLY_SETTINGS.contains(&who.as_str()) => {}
            _ => {
                return Err(format!(
                    "$.reply_settings: does not have a value in the enumeration {REPLY_SETTINGS:?}"
                ));
            }
        }
        let poll = poll(&body["poll"])?;
        if text.trim().is_empty() && media_ids.is_empty() {
            return Err("$.text: must be at least 1 characters long".into());
        }
        if poll.is_some() && !media_ids.is_empty() {
            return Err("A post has either a poll or media.".into());
        }
        Ok(NewPost {
            text,
            media_ids,
            reply_to,
            quoted: id(&body["quote_tweet_id"], "$.quote_tweet_id")?,
            poll,
            lag_ms: 0,
        })
    }
}

fn poll(poll: &Value) -> Result<Option<Value>, String> {
    if poll.is_null() {
        return Ok(None);
    }
    known(poll, "$.poll", POST_POLL)?;
    let fits = |option: &Value| {
        let chars = option.as_str().map(|text| text.chars().count());
        chars.is_some_and(|n| (1..=25).contains(&n))
    };
    let options = poll["options"].as_array();
    if !options.is_some_and(|it| (2..=4).contains(&it.len()) && it.iter().all(fits)) {
        return Err("$.poll.options: 2 to 4 options of 1 to 25 characters".into());
    }
    match poll["duration_minutes"].as_u64() {
        Some(5..=10_080) => Ok(Some(poll.clone())),
        _ => Err("$.poll.duration_minutes: must lie between 5 and 10080".into()),
    }
}

impl NewUpload {
    /// Checks what `initialize` says.
    pub(super) fn read(request: &Request) -> Result<NewUpload, String> {
        let body = Value::Object(object(request, INITIALIZE)?);
        let one_of = |name: &str, names: &[&str]| match &body[name] {
            Value::String(given) if names.contains(&given.as_str()) => Ok(given.clone()),
            _ => Err(format!(
                "$.{name}: does not have a value in the enumeration {names:?}"
            )),
        };
        let total = body["total_bytes"]
            .as_u64()
            .filter(|bytes| *bytes <= 17_179_869_184)
            .ok_or("$.total_bytes: must be a whole number up to 17179869184")?;
        NewUpload::checked(
            one_of("media_type", TYPES)?,
            one_of("media_category", CATEGORIES)?,
            total,
        )
    }

    /// Checks that category, type and size go together.
    pub(super) fn checked(mime: String, category: String, total: u64) -> Result<Self, String> {
        let (family, most) = match category.split('_').next_back().unwrap_or_default() {
            "image" => ("image/", IMAGE_BYTES),
            "gif" => ("image/gif", GIF_BYTES),
            "video" => ("video/", VIDEO_BYTES),
            _ => ("text/", IMAGE_BYTES),
        };
        if !mime.starts_with(family) {
            return Err(format!(
                "media type {mime} does not fit the media category {category}."
            ));
        }
        if total == 0 || total > most {
            return Err(format!(
                "File size must lie between 1 and {most} bytes for {category}."
            ));
        }
        Ok(NewUpload {
            mime,
            category,
            total,
        })
    }
}

/// The bytes in a field `media`: a file of a form, or base64 in JSON.
///
/// # Errors
/// What is wrong with it.
pub(super) fn bytes(form: &Form) -> Result<bytes::Bytes, String> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let file = form.files.iter().find(|file| file.field == "media");
    let found = match (file, form.fields.get("media")) {
        (Some(file), _) => file.bytes.clone(),
        (None, Some(Value::String(text))) => STANDARD
            .decode(text)
            .map_err(|_| "$.media: is not base64".to_owned())?
            .into(),
        _ => return Err("$.media: is missing but it is required".into()),
    };
    if found.is_empty() {
        return Err("$.media: must not be empty".into());
    }
    Ok(found)
}

/// Refuses fields of a form that X doesn't know.
///
/// # Errors
/// The first of them.
pub(super) fn known_form(form: &Form, names: &[&str]) -> Result<(), String> {
    known(&Value::Object(form.fields.clone()), "$", names)?;
    match form.files.iter().find(|file| file.field != "media") {
        Some(file) => Err(format!("$.{}: is not defined in the schema", file.field)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_knows_every_field() {
        let Some(text) = super::super::super::text::specification("x/openapi.json") else {
            return;
        };
        let spec: Value = serde_json::from_str(&text).expect("JSON");
        let schemas = &spec["components"]["schemas"];
        for (schema, names) in [
            ("CreatePostsRequest", POST),
            ("CreatePostsMedia", POST_MEDIA),
            ("CreatePostsReply", POST_REPLY),
            ("CreatePostsPoll", POST_POLL),
            ("InitializeMediaUploadRequest", INITIALIZE),
        ] {
            let schema = &schemas[schema];
            let known: Vec<&String> = schema["properties"]
                .as_object()
                .expect("properties")
                .keys()
                .collect();
            assert_eq!(known, names, "the same fields, neither more nor fewer");
            assert_eq!(schema["additionalProperties"], false);
        }
        let upload = &schemas["InitializeMediaUploadRequest"]["properties"];
        assert_eq!(upload["media_type"]["enum"], serde_json::json!(TYPES));
        let categories = &upload["media_category"]["enum"];
        assert_eq!(*categories, serde_json::json!(CATEGORIES));
    }
}
