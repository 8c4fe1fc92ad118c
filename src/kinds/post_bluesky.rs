//! `post.bluesky`: a post with pictures, under a record key of our own: published once.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::SecondsFormat;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::budget::Price;
use crate::config::Config;
use crate::context::{Context, Permit, Wanted};
use crate::effect::Rule;
use crate::handler::{AGE_MAX_S, Defaults, Handler};
use crate::job::Envelope;
use crate::json::{Digest, Violation};
use crate::outcome::Outcome;
use crate::platform::bluesky::{
    BYTES_MAX, Bluesky, GRAPHEMES_MAX, IMAGE_BYTES_MAX, IMAGES_MAX, LANGS_MAX, tid,
};
use crate::platform::facets::{facets, mentions};
use crate::platform::text::graphemes;
use crate::retry::Policy;

use super::media::{Media, Takes, check, dimensions, uploaded};
use super::post;

/// What to publish.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Payload {
    /// The text: links, mentions of handles and hashtags are underlined. May be empty where there
    /// are pictures.
    #[serde(default)]
    text: String,
    /// Pictures, at most 4.
    #[serde(default)]
    media: Vec<Media>,
    /// The text's languages, at most 3: `["de"]`.
    #[serde(default)]
    langs: Vec<String>,
    /// The post that it answers.
    reply: Option<Reply>,
}

/// Which post is answered.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Reply {
    /// The first post of the thread.
    root: Post,
    /// The post that is answered.
    parent: Post,
}

/// A post that is there.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Post {
    /// `at://did:plc:.../app.bsky.feed.post/...`
    uri: String,
    /// Its content's id.
    cid: String,
}

/// What a send may take, answer included.
const BUDGET: Duration = Duration::from_secs(40);
/// What a call within a send may take: a send may need to renew the session, or to look.
const CALL: Duration = Duration::from_secs(12);
/// What an upload may take.
const UPLOAD: Duration = Duration::from_secs(60);
/// A PDS forgets a blob that no record holds after some minutes. The same picture makes the same
/// blob, so a repeat costs little.
const BLOB_LIFE: Duration = Duration::from_secs(120);
/// Bluesky itself has no limit for descriptions; its app writes no longer ones.
const ALT_MAX: usize = 2_000;
/// Pictures of a post; the types are those that the app shows.
const TAKES: Takes<'_> = Takes {
    count: IMAGES_MAX,
    types: &["image/jpeg", "image/png", "image/gif", "image/webp"],
    bytes: IMAGE_BYTES_MAX,
    alt: ALT_MAX,
};

/// A picture that was uploaded.
#[derive(Debug, Serialize, Deserialize)]
struct Blob {
    blob: Value,
    size: Option<(u32, u32)>,
}

/// The kind.
pub(super) struct PostBluesky;

impl Handler for PostBluesky {
    type Payload = Payload;
    const DEFAULTS: Defaults = Defaults {
        name: "post.bluesky",
        about: "a post with pictures on Bluesky",
        lane: "bluesky",
        retry: Policy {
            attempts_max: 8,
            base_ms: 2_000,
            cap_ms: 900_000,
        },
        timeout_s: 300,
        age_max_s: AGE_MAX_S,
        platforms: &["bluesky"],
        example: r#"{"text": "Hello from Presswork: https://example.com #hello", "langs": ["en"]}"#,
    };
    const SENDS: &'static [&'static str] = &["bluesky.record"];

    fn preflight(payload: &Payload, _: &Envelope, _: &Config) -> Vec<Violation> {
        violations(payload)
    }

    fn says(payload: &Payload) -> Option<Digest> {
        post::says(&payload.text, &payload.media, &payload.about())
    }

    async fn run(cx: &Context, payload: Payload) -> Result<Value, Outcome> {
        let (_, account) = cx.account("bluesky")?;
        let of = |deadline| Bluesky {
            http: &cx.http,
            account,
            deadline,
        };
        // before the permit: a login that fails must not use one up
        of(CALL).session().await.map_err(|e| e.harmless())?;
        let dids = dids(cx, &of(CALL), &payload.text).await?;
        let (mut images, mut digests) = (Vec::new(), Vec::new());
        for (i, media) in payload.media.iter().enumerate() {
            let upload = async || {
                let loaded = media.load(cx, &TAKES).await?;
                let bytes = loaded.bytes;
                let made = of(UPLOAD).upload(&loaded.mime, bytes.clone()).await;
                let blob = made.map_err(|e| e.harmless())?;
                let size = dimensions(&bytes);
                Ok((bytes, Blob { blob, size }))
            };
            let it = uploaded(cx, i, BLOB_LIFE, upload).await?;
            images.push(image(it.value, &media.alt));
            digests.push(it.digest);
        }
        let record = payload.record(&dids, images);
        let now = cx.http.now();
        let wanted = Wanted {
            step: "publish",
            ordinal: 0,
            op: "bluesky.record",
            rule: Rule::keyed(None),
            // blobs are named by their content, so the record says all that is sent
            intent: json!({"base_url": account.base_url, "record": record}),
            keep: json!({
                "rkey": tid(now, rand::random()),
                "created_at": now.to_rfc3339_opts(SecondsFormat::Millis, true),
            }),
            says: post::said(&payload.text, &digests, &payload.about()),
            budget: BUDGET,
            price: Price::Free,
        };
        let publish = |permit: Permit| {
            let (mut record, to) = (record.clone(), of(CALL));
            async move {
                record["createdAt"] = permit.keep["created_at"].clone();
                let rkey = permit.keep["rkey"].as_str().unwrap_or_default();
                to.publish(rkey, &record).await
            }
        };
        cx.progress(90, "publishing");
        let receipt = cx.effect(wanted, publish).await?;
        let cid = &receipt.detail["cid"];
        Ok(json!({"uri": receipt.remote_id, "cid": cid, "url": receipt.url}))
    }
}

impl Payload {
    /// What it answers.
    fn about(&self) -> [Option<&str>; 1] {
        [self.reply.as_ref().map(|it| it.parent.uri.as_str())]
    }

    /// The record without `createdAt`: it depends on nothing but the payload and recorded steps.
    fn record(&self, dids: &BTreeMap<String, Option<String>>, images: Vec<Value>) -> Value {
        let mut record = json!({"$type": "app.bsky.feed.post", "text": self.text});
        let facets = facets(&self.text, dids);
        if !facets.is_empty() {
            record["facets"] = facets.into();
        }
        if !self.langs.is_empty() {
            record["langs"] = json!(self.langs);
        }
        if let Some(reply) = &self.reply {
            record["reply"] = json!(reply);
        }
        if !images.is_empty() {
            record["embed"] = json!({"$type": "app.bsky.embed.images", "images": images});
        }
        record
    }
}

fn image(it: Blob, alt: &str) -> Value {
    let mut image = json!({"image": it.blob, "alt": alt});
    if let Some((width, height)) = it.size {
        image["aspectRatio"] = json!({"width": width, "height": height});
    }
    image
}

/// The DIDs of the handles that a text mentions, as they were when this was first asked.
async fn dids(
    cx: &Context,
    bluesky: &Bluesky<'_>,
    text: &str,
) -> Result<BTreeMap<String, Option<String>>, Outcome> {
    let handles = mentions(text);
    if handles.is_empty() {
        return Ok(BTreeMap::new());
    }
    let ask = async {
        let mut dids = BTreeMap::new();
        for handle in handles {
            cx.go_on()?;
            let did = bluesky.resolve(&handle).await.map_err(|e| e.harmless())?;
            dids.insert(handle, did);
        }
        Ok(dids)
    };
    cx.step("mentions", ask).await
}

/// What can be said against a post.
fn violations(payload: &Payload) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut wrong = |pointer: String, message: String| found.push(Violation::new(pointer, message));
    let (seen, bytes) = (graphemes(&payload.text), payload.text.len());
    if GRAPHEMES_MAX < seen {
        let message = format!("has {seen} characters; at most {GRAPHEMES_MAX} fit");
        wrong("/text".to_owned(), message);
    }
    if BYTES_MAX < bytes {
        let message = format!("has {bytes} bytes; at most {BYTES_MAX} fit");
        wrong("/text".to_owned(), message);
    }
    found.extend(post::empty(&payload.text, &payload.media));
    let mut wrong = |pointer: String, message: String| found.push(Violation::new(pointer, message));
    if LANGS_MAX < payload.langs.len() {
        let message = format!(
            "has {} languages; at most {LANGS_MAX} fit",
            payload.langs.len()
        );
        wrong("/langs".to_owned(), message);
    }
    let tags = payload.langs.iter().enumerate();
    found.extend(tags.filter_map(|(i, tag)| post::language(format!("/langs/{i}"), tag)));
    let mut wrong = |pointer: String, message: String| found.push(Violation::new(pointer, message));
    let posts = payload.reply.iter();
    for (name, post) in posts.flat_map(|it| [("root", &it.root), ("parent", &it.parent)]) {
        if !post.uri.starts_with("at://") {
            let message = format!(
                "`{}` is no address of a post; it begins with at://",
                post.uri
            );
            wrong(format!("/reply/{name}/uri"), message);
        }
    }
    found.extend(post::unfocused("Bluesky", &payload.media));
    found.extend(check(&payload.media, &TAKES));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(json: Value) -> Payload {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn all_violations_are_told_at_once() {
        let family = "👨‍👩‍👧‍👦"; // 25 bytes, one character
        let post = json!({"uri": "https://bsky.app/x", "cid": "c"});
        let wrong = payload(json!({
            "text": family.repeat(301), "langs": ["de", "en", "fr", "?"],
            "reply": {"root": post, "parent": post},
            "media": [{"file": "a.png", "type": "image/png", "focus": [0, 0]}],
        }));
        let found = violations(&wrong);
        let pointers: Vec<&str> = found.iter().map(|it| it.pointer.as_str()).collect();
        let expected = [
            "/text",
            "/text",
            "/langs",
            "/langs/3",
            "/reply/root/uri",
            "/reply/parent/uri",
            "/media/0/focus",
        ];
        assert_eq!(pointers, expected);
        assert_eq!(violations(&payload(json!({"text": "x".repeat(300)}))), []);
        assert_eq!(violations(&payload(json!({}))).len(), 1);
    }

    #[test]
    fn a_record_says_no_more_than_it_must() {
        let it = payload(json!({"text": "hi"}));
        let plain = json!({"$type": "app.bsky.feed.post", "text": "hi"});
        assert_eq!(it.record(&BTreeMap::new(), vec![]), plain);
        let blob = Blob {
            blob: json!({"$type": "blob"}),
            size: Some((2, 3)),
        };
        let it = payload(json!({"text": "#a", "langs": ["de"]}));
        let record = it.record(&BTreeMap::new(), vec![image(blob, "alt")]);
        assert_eq!(
            record["embed"]["images"][0]["aspectRatio"],
            json!({"width": 2, "height": 3})
        );
        assert_eq!(record["facets"][0]["features"][0]["tag"], "a");
    }
}
