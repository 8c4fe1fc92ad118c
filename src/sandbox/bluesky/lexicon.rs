//! The lexicon of `app.bsky.feed.post` and of its embeds and facets, checked as a PDS checks a record.

use chrono::DateTime;
use serde_json::{Map, Value};

use super::super::text::graphemes;

/// The collection whose lexicon this is.
pub(super) const POST: &str = "app.bsky.feed.post";
/// The fields of a post.
const POST_FIELDS: &[&str] = &[
    "$type",
    "text",
    "entities",
    "facets",
    "reply",
    "embed",
    "langs",
    "labels",
    "tags",
    "createdAt",
];
/// Bytes and graphemes of a post's text.
const TEXT_BYTES: usize = 3000;
const TEXT_GRAPHEMES: usize = 300;

/// A blob that a record refers to, with what its place allows.
#[derive(Debug, PartialEq)]
pub(super) struct BlobRef {
    pub(super) cid: String,
    pub(super) mime: String,
    pub(super) size: u64,
    pub(super) alt: String,
    max_size: u64,
    accept: &'static str,
}

impl BlobRef {
    /// Whether the place that refers to the blob takes one like it; else the error's name and sentence.
    pub(super) fn fits(&self) -> Result<(), (&'static str, String)> {
        let right = self
            .accept
            .strip_suffix('*')
            .map_or(self.mime == self.accept, |family| {
                self.mime.starts_with(family)
            });
        if !right {
            return Err((
                "InvalidMimeType",
                format!(
                    "Wrong mimetype of file, got {}. Accepted: {}.",
                    self.mime, self.accept
                ),
            ));
        }
        if self.size > self.max_size {
            let why = format!(
                "This file is too large. It is {} but the maximum size is {}.",
                self.size, self.max_size
            );
            return Err(("BlobTooLarge", why));
        }
        Ok(())
    }
}

fn wrong<T>(at: &str, why: &str) -> Result<T, String> {
    Err(format!(
        "Invalid app.bsky.feed.post record: Record/{at} {why}"
    ))
}

/// Checks a post and answers the blobs it refers to.
pub(super) fn post(record: &Map<String, Value>) -> Result<Vec<BlobRef>, String> {
    if let Some(name) = record
        .keys()
        .find(|name| !POST_FIELDS.contains(&name.as_str()))
    {
        return wrong(name, "is not a field of a post");
    }
    let Some(text) = record.get("text").and_then(Value::as_str) else {
        return wrong("text", "must be a string");
    };
    if text.len() > TEXT_BYTES {
        return wrong(
            "text",
            &format!("must not be longer than {TEXT_BYTES} characters"),
        );
    }
    if graphemes(text) > TEXT_GRAPHEMES {
        return wrong(
            "text",
            &format!("must not be longer than {TEXT_GRAPHEMES} graphemes"),
        );
    }
    created_at(record.get("createdAt"))?;
    strings(record, "langs", 3, |tag| {
        (2..=64).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })?;
    strings(record, "tags", 8, |tag| {
        tag.len() <= 640 && graphemes(tag) <= 64
    })?;
    labels(record.get("labels"))?;
    reply(record.get("reply"))?;
    if let Some(entities) = record.get("entities").filter(|value| !value.is_array()) {
        return wrong("entities", &format!("must be an array, not {entities}"));
    }
    facets(record.get("facets"), text)?;
    record
        .get("embed")
        .map_or(Ok(Vec::new()), |given| embed(given, "embed"))
}

fn created_at(given: Option<&Value>) -> Result<(), String> {
    let Some(text) = given.and_then(Value::as_str) else {
        return wrong("createdAt", "must be a string");
    };
    let plain =
        text.as_bytes().get(10) == Some(&b'T') && !text.ends_with("-00:00") && !text.ends_with('z');
    if plain && DateTime::parse_from_rfc3339(text).is_ok() {
        return Ok(());
    }
    wrong(
        "createdAt",
        "must be an valid atproto datetime (both RFC-3339 and ISO-8601)",
    )
}

fn strings(
    record: &Map<String, Value>,
    name: &str,
    most: usize,
    fits: impl Fn(&str) -> bool,
) -> Result<(), String> {
    let Some(given) = record.get(name) else {
        return Ok(());
    };
    let Some(items) = given.as_array() else {
        return wrong(name, "must be an array");
    };
    if items.len() > most {
        return wrong(name, &format!("must not have more than {most} elements"));
    }
    match items
        .iter()
        .position(|item| !item.as_str().is_some_and(&fits))
    {
        Some(at) => wrong(&format!("{name}/{at}"), "is not well formed or too long"),
        None => Ok(()),
    }
}

fn labels(given: Option<&Value>) -> Result<(), String> {
    let Some(given) = given else { return Ok(()) };
    let values = given["values"].as_array().filter(|list| list.len() <= 10);
    let right = |label: &Value| label["val"].as_str().is_some_and(|val| val.len() <= 128);
    if given["$type"] == "com.atproto.label.defs#selfLabels"
        && values.is_some_and(|list| list.iter().all(right))
    {
        return Ok(());
    }
    wrong(
        "labels",
        "must be com.atproto.label.defs#selfLabels with at most 10 values",
    )
}

fn strong_ref(given: &Value, at: &str) -> Result<(), String> {
    let uri = given["uri"]
        .as_str()
        .is_some_and(|uri| uri.starts_with("at://"));
    if uri
        && given["cid"]
            .as_str()
            .is_some_and(|cid| cid.starts_with("baf"))
    {
        return Ok(());
    }
    wrong(at, "must have an at-uri and a cid")
}

fn reply(given: Option<&Value>) -> Result<(), String> {
    let Some(given) = given else { return Ok(()) };
    strong_ref(&given["root"], "reply/root")?;
    strong_ref(&given["parent"], "reply/parent")
}

fn uri(text: &str) -> bool {
    text.len() <= 8192 && url::Url::parse(text).is_ok()
}

fn facets(given: Option<&Value>, text: &str) -> Result<(), String> {
    let Some(given) = given else { return Ok(()) };
    let Some(list) = given.as_array() else {
        return wrong("facets", "must be an array");
    };
    for (at, facet) in list.iter().enumerate() {
        let at = format!("facets/{at}");
        let index = |name: &str| {
            facet["index"][name]
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
        };
        let (Some(start), Some(end)) = (index("byteStart"), index("byteEnd")) else {
            return wrong(
                &format!("{at}/index"),
                "must have the integers byteStart and byteEnd",
            );
        };
        if start >= end
            || end > text.len()
            || !text.is_char_boundary(start)
            || !text.is_char_boundary(end)
        {
            return wrong(
                &format!("{at}/index"),
                "must be a range of whole characters inside the text, in bytes",
            );
        }
        let Some(features) = facet["features"].as_array() else {
            return wrong(&format!("{at}/features"), "must be an array");
        };
        for feature in features {
            let is =
                |name: &str, fits: &dyn Fn(&str) -> bool| feature[name].as_str().is_some_and(fits);
            let right = match feature["$type"].as_str() {
                Some("app.bsky.richtext.facet#link") => is("uri", &uri),
                Some("app.bsky.richtext.facet#mention") => {
                    is("did", &|did| did.starts_with("did:"))
                }
                Some("app.bsky.richtext.facet#tag") => {
                    is("tag", &|tag| tag.len() <= 640 && graphemes(tag) <= 64)
                }
                _ => false,
            };
            if !right {
                return wrong(
                    &format!("{at}/features"),
                    "must be links with uri, mentions with did or tags with tag",
                );
            }
        }
    }
    Ok(())
}

fn embed(given: &Value, at: &str) -> Result<Vec<BlobRef>, String> {
    let only = |names: &[&str]| match given
        .as_object()
        .and_then(|f| f.keys().find(|k| !names.contains(&k.as_str())))
    {
        Some(name) => wrong(&format!("{at}/{name}"), "is not a field of this embed"),
        None => Ok(()),
    };
    match given["$type"].as_str() {
        Some("app.bsky.embed.images") => {
            only(&["$type", "images"])?;
            pictures(&given["images"], 4, false, &format!("{at}/images"))
        }
        Some("app.bsky.embed.gallery") => {
            only(&["$type", "items"])?;
            pictures(&given["items"], 20, true, &format!("{at}/items"))
        }
        Some("app.bsky.embed.external") => {
            only(&["$type", "external"])?;
            external(&given["external"], &format!("{at}/external"))
        }
        Some("app.bsky.embed.video") => {
            only(&[
                "$type",
                "video",
                "captions",
                "alt",
                "aspectRatio",
                "presentation",
            ])?;
            ratio(&given["aspectRatio"], at)?;
            let alt = given["alt"].as_str().unwrap_or_default();
            let mut blobs = vec![blob(
                &given["video"],
                &format!("{at}/video"),
                alt,
                300_000_000,
                "video/mp4",
            )?];
            for (n, caption) in given["captions"]
                .as_array()
                .into_iter()
                .flatten()
                .enumerate()
            {
                blobs.push(blob(
                    &caption["file"],
                    &format!("{at}/captions/{n}/file"),
                    "",
                    20_000,
                    "text/vtt",
                )?);
            }
            Ok(blobs)
        }
        Some("app.bsky.embed.record") => {
            only(&["$type", "record"])?;
            strong_ref(&given["record"], &format!("{at}/record")).map(|()| Vec::new())
        }
        Some("app.bsky.embed.recordWithMedia") => {
            only(&["$type", "record", "media"])?;
            strong_ref(&given["record"]["record"], &format!("{at}/record/record"))?;
            let kind = given["media"]["$type"].as_str().unwrap_or_default();
            if kind.starts_with("app.bsky.embed.record") {
                return wrong(
                    &format!("{at}/media"),
                    "must be images, a video or an external link",
                );
            }
            embed(&given["media"], &format!("{at}/media"))
        }
        _ => wrong(at, "must be an embed that app.bsky.feed.post names"),
    }
}

fn pictures(given: &Value, most: usize, gallery: bool, at: &str) -> Result<Vec<BlobRef>, String> {
    let Some(list) = given.as_array() else {
        return wrong(at, "must be an array");
    };
    if list.len() > most {
        return wrong(at, &format!("must not have more than {most} elements"));
    }
    let mut blobs = Vec::new();
    for (n, picture) in list.iter().enumerate() {
        let at = format!("{at}/{n}");
        let Some(alt) = picture["alt"].as_str() else {
            return wrong(&format!("{at}/alt"), "must be a string");
        };
        let known =
            |name: &&String| matches!(name.as_str(), "image" | "alt" | "aspectRatio" | "$type");
        if picture
            .as_object()
            .is_some_and(|fields| !fields.keys().all(|name| known(&name)))
        {
            return wrong(&at, "has an unknown field");
        }
        if gallery
            && (picture["$type"] != "app.bsky.embed.gallery#image"
                || picture["aspectRatio"].is_null())
        {
            return wrong(
                &at,
                "must be app.bsky.embed.gallery#image with an aspectRatio",
            );
        }
        ratio(&picture["aspectRatio"], &at)?;
        blobs.push(blob(
            &picture["image"],
            &format!("{at}/image"),
            alt,
            2_000_000,
            "image/*",
        )?);
    }
    Ok(blobs)
}

fn ratio(given: &Value, at: &str) -> Result<(), String> {
    let whole = |name: &str| given[name].as_u64().is_some_and(|n| n > 0);
    if given.is_null() || (whole("width") && whole("height")) {
        return Ok(());
    }
    wrong(
        &format!("{at}/aspectRatio"),
        "must have a width and a height of at least 1",
    )
}

fn external(given: &Value, at: &str) -> Result<Vec<BlobRef>, String> {
    if !given["uri"].as_str().is_some_and(uri) {
        return wrong(&format!("{at}/uri"), "must be a uri");
    }
    for name in ["title", "description"] {
        if !given[name].is_string() {
            return wrong(&format!("{at}/{name}"), "must be a string");
        }
    }
    match &given["thumb"] {
        Value::Null => Ok(Vec::new()),
        thumb => Ok(vec![blob(
            thumb,
            &format!("{at}/thumb"),
            "",
            1_000_000,
            "image/*",
        )?]),
    }
}

fn blob(
    given: &Value,
    at: &str,
    alt: &str,
    max_size: u64,
    accept: &'static str,
) -> Result<BlobRef, String> {
    let (cid, mime, size) = (
        given["ref"]["$link"].as_str(),
        given["mimeType"].as_str(),
        given["size"].as_u64(),
    );
    match (given["$type"] == "blob", cid, mime, size) {
        (true, Some(cid), Some(mime), Some(size)) => Ok(BlobRef {
            cid: cid.into(),
            mime: mime.into(),
            size,
            alt: alt.into(),
            max_size,
            accept,
        }),
        _ => wrong(at, "should be a blob ref"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(change: Value) -> Result<Vec<BlobRef>, String> {
        let mut record = json!({"$type": "app.bsky.feed.post", "text": "héllo link", "createdAt": "2026-01-01T00:00:00Z"});
        let fields = record.as_object_mut().expect("an object");
        fields.extend(change.as_object().expect("an object").clone());
        post(fields)
    }

    fn facet(start: u64, end: u64) -> Value {
        let feature =
            json!({"$type": "app.bsky.richtext.facet#link", "uri": "https://example.com"});
        json!({"facets": [{"index": {"byteStart": start, "byteEnd": end}, "features": [feature]}]})
    }

    fn image(size: u64) -> Value {
        let blob = json!({"$type": "blob", "ref": {"$link": "bafkreia"}, "mimeType": "image/png", "size": size});
        json!({"image": blob, "alt": "a cat"})
    }

    #[test]
    fn lengths_are_graphemes_and_bytes() {
        assert!(check(json!({"text": "é".repeat(300)})).is_ok());
        assert!(check(json!({"text": "é".repeat(301)})).is_err());
        assert!(
            check(json!({"text": "👩‍👩‍👧".repeat(200)})).is_err(),
            "200 graphemes, but more than 3000 bytes"
        );
    }

    #[test]
    fn facets_are_ranges_of_whole_characters() {
        assert!(check(facet(7, 11)).is_ok());
        assert!(check(facet(2, 4)).is_err(), "inside é");
        assert!(check(facet(7, 12)).is_err(), "behind the end");
        assert!(check(facet(7, 7)).is_err(), "nothing");
    }

    #[test]
    fn mistakes_are_refused() {
        for wrong in [
            json!({"txet": "x"}),
            json!({"createdAt": "yesterday"}),
            json!({"createdAt": "2026-01-01 00:00:00Z"}),
            json!({"createdAt": null}),
            json!({"langs": ["en", "de", "fr", "it"]}),
            json!({"embed": {"$type": "app.bsky.embed.images", "images": [{"image": image(1)["image"]}]}}),
            json!({"embed": {"$type": "app.bsky.embed.images", "images": vec![image(1); 5]}}),
            json!({"embed": {"$type": "app.bsky.embed.external", "external": {"uri": "x", "title": "", "description": ""}}}),
            json!({"embed": {"$type": "nothing"}}),
        ] {
            assert!(check(wrong.clone()).is_err(), "{wrong}");
        }
        let blobs = check(
            json!({"embed": {"$type": "app.bsky.embed.images", "images": [image(2_000_000), image(2_000_001)]}}),
        );
        let blobs = blobs.expect("well formed");
        assert!(blobs[0].fits().is_ok() && blobs[1].fits().is_err());
    }

    #[test]
    fn the_description_knows_every_field() {
        let Some(text) =
            super::super::super::text::specification("bluesky/lexicons/app/bsky/feed/post.json")
        else {
            return;
        };
        let spec: Value = serde_json::from_str(&text).expect("JSON");
        let record = &spec["defs"]["main"]["record"];
        let names = record["properties"].as_object().expect("fields");
        for field in POST_FIELDS.iter().filter(|field| **field != "$type") {
            assert!(names.contains_key(*field), "{field} is not in the lexicon");
        }
        assert_eq!(record["required"], json!(["text", "createdAt"]));
        assert_eq!(record["properties"]["text"]["maxGraphemes"], TEXT_GRAPHEMES);
        assert_eq!(record["properties"]["text"]["maxLength"], TEXT_BYTES);
    }
}
