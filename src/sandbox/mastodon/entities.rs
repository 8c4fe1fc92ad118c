//! The JSON objects of Mastodon's answers: account, media attachment, status, scheduled status, instance.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::super::{
    acts::{Act, Media},
    text::fingerprint,
};
use super::status::{
    CHARACTERS_PER_URL, MAX_CHARACTERS, MAX_MEDIA, POLL_CHARACTERS, POLL_OPTIONS, POLL_SECONDS,
    content, hashtags,
};

/// Bytes of a picture, as Mastodon has it.
pub(super) const IMAGE_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of a video or sound: below Mastodon's 99 MiB, because the sandbox reads bodies up to 64 MiB.
pub(super) const VIDEO_BYTES: usize = 60 * 1024 * 1024;
/// Characters of a description.
pub(super) const DESCRIPTION: usize = 1500;
/// What may be uploaded, and what an attachment of it is called.
pub(super) const TYPES: &[(&str, &str)] = &[
    ("image/jpeg", "image"),
    ("image/png", "image"),
    ("image/webp", "image"),
    ("image/heic", "image"),
    ("image/avif", "image"),
    ("image/gif", "gifv"),
    ("video/webm", "video"),
    ("video/mp4", "video"),
    ("video/quicktime", "video"),
    ("audio/mpeg", "audio"),
    ("audio/ogg", "audio"),
    ("audio/wav", "audio"),
    ("audio/flac", "audio"),
    ("audio/aac", "audio"),
];

/// What an attachment of a media type is called.
pub(super) fn type_of(mime: &str) -> Option<&'static str> {
    TYPES
        .iter()
        .find(|(name, _)| *name == mime)
        .map(|(_, kind)| *kind)
}

/// The id of an account: eighteen digits that its name alone decides.
pub(super) fn account_id(name: &str) -> String {
    (fingerprint(&["mastodon account", name]) % 900_000_000_000_000_000 + 100_000_000_000_000_000)
        .to_string()
}

pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

pub(super) fn account(name: &str, base: &str, statuses: usize) -> Value {
    let page = format!("{base}/mastodon/@{name}");
    json!({
        "id": account_id(name), "username": name, "acct": name, "display_name": name,
        "locked": false, "bot": false, "discoverable": null, "indexable": false, "group": false,
        "created_at": "2026-01-01T00:00:00.000Z", "note": "", "url": page,
        "uri": format!("{base}/mastodon/users/{name}"),
        "avatar": format!("{base}/avatar.svg"), "avatar_static": format!("{base}/avatar.svg"),
        "header": format!("{base}/avatar.svg"), "header_static": format!("{base}/avatar.svg"),
        "followers_count": 0, "following_count": 0, "statuses_count": statuses, "last_status_at": null,
        "emojis": [], "fields": [],
    })
}

/// The account of the token, with what only its owner sees.
pub(super) fn own_account(name: &str, base: &str, statuses: usize) -> Value {
    let mut own = account(name, base, statuses);
    own["source"] = json!({
        "privacy": "public", "sensitive": false, "language": "", "note": "", "fields": [],
        "follow_requests_count": 0, "indexable": false, "hide_collections": null, "discoverable": null,
    });
    own["role"] =
        json!({"id": "-99", "name": "", "permissions": "65536", "color": "", "highlighted": false});
    own
}

/// An attachment; without its address while it is being processed.
pub(super) fn attachment(
    id: &str,
    media: &Media,
    focus: Option<(f64, f64)>,
    base: &str,
    ready: bool,
) -> Value {
    let page = ready.then(|| format!("{base}/media/{}", media.digest));
    json!({
        "id": id, "type": type_of(&media.mime).unwrap_or("unknown"), "url": page, "preview_url": page,
        "remote_url": null,
        "meta": focus.map_or_else(|| json!({}), |(x, y)| json!({"focus": {"x": x, "y": y}})),
        "description": (!media.alt.is_empty()).then_some(&media.alt), "blurhash": null,
    })
}

fn attachments(act: &Act, base: &str) -> Vec<Value> {
    let ids = act.detail["media_ids"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let id = |at: usize| ids.get(at).and_then(Value::as_str).unwrap_or_default();
    act.media
        .iter()
        .enumerate()
        .map(|(at, media)| attachment(id(at), media, None, base, true))
        .collect()
}

pub(super) fn status(act: &Act, base: &str, statuses: usize, now: DateTime<Utc>) -> Value {
    let detail = &act.detail;
    let name = act.account.as_str();
    let tags: Vec<_> = hashtags(&act.text)
        .into_iter()
        .map(|tag| json!({"name": tag, "url": format!("{base}/mastodon/tags/{tag}")}))
        .collect();
    json!({
        "id": act.id, "created_at": time(act.at),
        "in_reply_to_id": detail["in_reply_to_id"], "in_reply_to_account_id": detail["in_reply_to_account_id"],
        "sensitive": detail["sensitive"], "spoiler_text": detail["spoiler_text"],
        "visibility": detail["visibility"], "language": detail["language"],
        "uri": format!("{base}/mastodon/users/{name}/statuses/{}", act.id),
        "url": format!("{base}/mastodon/@{name}/{}", act.id),
        "replies_count": 0, "reblogs_count": 0, "favourites_count": 0, "edited_at": null,
        "favourited": false, "reblogged": false, "muted": false, "bookmarked": false, "pinned": false,
        "content": content(&act.text, base), "filtered": [], "reblog": null,
        "application": {"name": "Presswork sandbox", "website": null},
        "account": account(name, base, statuses), "media_attachments": attachments(act, base),
        "mentions": [], "tags": tags, "emojis": [], "card": null,
        "poll": poll(act, now),
    })
}

fn poll(act: &Act, now: DateTime<Utc>) -> Value {
    let given = &act.detail["poll"];
    let Some(options) = given["options"].as_array() else {
        return Value::Null;
    };
    let end = act.at + chrono::TimeDelta::seconds(given["expires_in"].as_i64().unwrap_or_default());
    json!({
        "id": act.id, "expires_at": time(end), "expired": end <= now, "multiple": given["multiple"],
        "votes_count": 0, "voters_count": 0, "voted": true, "own_votes": [], "emojis": [],
        "options": options.iter().map(|title| json!({"title": title, "votes_count": 0})).collect::<Vec<_>>(),
    })
}

pub(super) fn scheduled(act: &Act, base: &str) -> Value {
    let detail = &act.detail;
    json!({
        "id": act.id, "scheduled_at": detail["scheduled_at"],
        "params": {
            "text": act.text, "poll": detail["poll"], "media_ids": detail["media_ids"],
            "sensitive": detail["sensitive"], "spoiler_text": detail["spoiler_text"],
            "visibility": detail["visibility"], "language": detail["language"],
            "in_reply_to_id": detail["in_reply_to_id"], "scheduled_at": null,
            "application_id": 1, "idempotency": act.key, "with_rate_limit": false,
        },
        "media_attachments": attachments(act, base),
    })
}

pub(super) fn instance(base: &str) -> Value {
    let domain = base.split("://").nth(1).unwrap_or(base);
    json!({
        "domain": domain, "title": "Presswork sandbox", "version": "4.5.0+sandbox",
        "source_url": base, "description": "A simulated Mastodon: nothing here leaves this machine.",
        "usage": {"users": {"active_month": 0}},
        "thumbnail": {"url": format!("{base}/avatar.svg")}, "icon": [], "languages": ["en"],
        "configuration": {
            "urls": {"streaming": null, "about": base, "status": null},
            "accounts": {"max_featured_tags": 10, "max_pinned_statuses": 5},
            "statuses": {
                "max_characters": MAX_CHARACTERS, "max_media_attachments": MAX_MEDIA,
                "characters_reserved_per_url": CHARACTERS_PER_URL,
            },
            "media_attachments": {
                "supported_mime_types": TYPES.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
                "description_limit": DESCRIPTION,
                "image_size_limit": IMAGE_BYTES, "image_matrix_limit": 33_177_600,
                "video_size_limit": VIDEO_BYTES, "video_frame_rate_limit": 120, "video_matrix_limit": 8_294_400,
            },
            "polls": {
                "max_options": POLL_OPTIONS, "max_characters_per_option": POLL_CHARACTERS,
                "min_expiration": POLL_SECONDS.0, "max_expiration": POLL_SECONDS.1,
            },
            "translation": {"enabled": false},
        },
        "registrations": {"enabled": false, "approval_required": false, "message": null},
        "api_versions": {"mastodon": 7},
        "contact": {"email": "nobody@sandbox.test", "account": null}, "rules": [],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act() -> Act {
        Act {
            n: 1,
            at: Utc::now(),
            platform: "mastodon".into(),
            op: "status.create".into(),
            account: "alice".into(),
            key: None,
            id: "7".into(),
            url: None,
            text: "hi".into(),
            media: vec![],
            detail: json!({"visibility": "public", "sensitive": false, "spoiler_text": "",
                "scheduled_at": "2026-01-01T00:00:00Z"}),
        }
    }

    #[test]
    fn answers_hold_what_the_description_requires() {
        let Some(text) = super::super::super::text::specification("mastodon/openapi.json") else {
            return;
        };
        let spec: Value = serde_json::from_str(&text).expect("JSON");
        let media = Media {
            digest: "0".into(),
            alt: "a".into(),
            bytes: 1,
            mime: "image/png".into(),
        };
        let base = "http://127.0.0.1:1";
        for (schema, made) in [
            ("Status", status(&act(), base, 1, Utc::now())),
            ("ScheduledStatus", scheduled(&act(), base)),
            ("Account", account("alice", base, 1)),
            ("CredentialAccount", own_account("alice", base, 1)),
            ("MediaAttachment", attachment("1", &media, None, base, true)),
            ("Instance", instance(base)),
        ] {
            let required = spec["components"]["schemas"][schema]["required"]
                .as_array()
                .expect("a list");
            assert!(!required.is_empty());
            for name in required.iter().filter_map(Value::as_str) {
                assert!(
                    made.get(name).is_some_and(|value| !value.is_null()),
                    "{schema} lacks {name}"
                );
            }
        }
        let configuration =
            &spec["components"]["schemas"]["Instance"]["properties"]["configuration"];
        for part in configuration["required"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(Value::as_str)
        {
            let required = configuration["properties"][part]["required"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            for name in required.iter().filter_map(Value::as_str) {
                assert!(
                    instance(base)["configuration"][part].get(name).is_some(),
                    "configuration.{part}.{name}"
                );
            }
        }
    }
}
