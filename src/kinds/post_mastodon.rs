//! `post.mastodon`: a status with pictures, published once.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::budget::Price;
use crate::config::Config;
use crate::context::{Context, Permit, Wanted};
use crate::effect::Rule;
use crate::handler::{AGE_MAX_S, Defaults, Handler};
use crate::job::Envelope;
use crate::json::{Digest, Violation};
use crate::outcome::{Failure, Outcome};
use crate::platform::mastodon::{KEY_LIFE, Limits, Mastodon, Processing, Status, Uploaded};
use crate::retry::Policy;

use super::media::{Media, Polled, Takes, awaited, check, uploaded};
use super::post;

/// What to publish.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Payload {
    /// The text. May be empty where there are pictures.
    #[serde(default)]
    text: String,
    /// Pictures, at most 4.
    #[serde(default)]
    media: Vec<Media>,
    /// Who sees it. Default: the account's own setting.
    visibility: Option<Visibility>,
    /// Whether the pictures are hidden at first.
    sensitive: Option<bool>,
    /// What stands before the text, which is folded.
    spoiler_text: Option<String>,
    /// The text's language: `de`.
    language: Option<String>,
    /// The id of the status that it answers.
    reply_to_id: Option<String>,
}

/// Who sees a status.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Visibility {
    Public,
    Unlisted,
    Private,
    Direct,
}

impl Visibility {
    fn word(self) -> String {
        let word = match self {
            Self::Public => "public",
            Self::Unlisted => "unlisted",
            Self::Private => "private",
            Self::Direct => "direct",
        };
        word.to_owned()
    }
}

/// What a send may take, answer included.
const BUDGET: Duration = Duration::from_secs(40);
/// What another call may take.
const CALL: Duration = Duration::from_secs(30);
/// What an upload may take.
const UPLOAD: Duration = Duration::from_secs(90);
/// An instance forgets a picture that no status holds after a day.
const MEDIA_LIFE: Duration = Duration::from_secs(12 * 3_600);
/// The kind.
pub(super) struct PostMastodon;

impl Handler for PostMastodon {
    type Payload = Payload;
    const DEFAULTS: Defaults = Defaults {
        name: "post.mastodon",
        about: "a status with pictures on Mastodon",
        lane: "mastodon",
        retry: Policy {
            attempts_max: 8,
            base_ms: 2_000,
            cap_ms: 900_000,
        },
        timeout_s: 300,
        age_max_s: AGE_MAX_S,
        platforms: &["mastodon"],
        example: r#"{"text": "Hello from Presswork: https://example.com", "language": "en"}"#,
    };
    const SENDS: &'static [&'static str] = &["mastodon.status"];

    fn preflight(payload: &Payload, _: &Envelope, _: &Config) -> Vec<Violation> {
        violations(payload, &Limits::default())
    }

    fn says(payload: &Payload) -> Option<Digest> {
        post::says(&payload.words(), &payload.media, &payload.about())
    }

    async fn run(cx: &Context, payload: Payload) -> Result<Value, Outcome> {
        let (_, account) = cx.account("mastodon")?;
        let of = |deadline| Mastodon {
            http: &cx.http,
            account,
            deadline,
        };
        let limits = of(CALL).limits().await.map_err(|e| e.harmless())?;
        fits(&payload, &limits)?;
        let types = types(&limits);
        let takes = takes(&limits, &types);
        let mut status = payload.status();
        let (mut digests, mut sent) = (Vec::new(), Vec::new());
        for (i, media) in payload.media.iter().enumerate() {
            let upload = async || {
                let loaded = media.load(cx, &takes).await?;
                let (name, bytes) = (loaded.name(i), loaded.bytes.clone());
                let made: Uploaded = of(UPLOAD)
                    .upload(name, &loaded.mime, bytes, &media.alt, media.focus)
                    .await
                    .map_err(|e| e.harmless())?;
                Ok((loaded.bytes, made))
            };
            let it = uploaded(cx, i, MEDIA_LIFE, upload).await?;
            if !it.value.ready {
                processed(cx, &of(CALL), &it.value.id).await?;
            }
            digests.push(json!({"sha256": it.digest, "alt": media.alt, "focus": media.focus}));
            sent.push(it.digest);
            status.media_ids.push(it.value.id);
        }
        let wanted = Wanted {
            step: "publish",
            ordinal: 0,
            op: "mastodon.status",
            rule: Rule::keyed(Some(KEY_LIFE)),
            // the ids of pictures may change, the pictures may not
            intent: json!({
                "base_url": account.base_url,
                "status": payload.status(),
                "media": digests,
            }),
            keep: json!({"key": Uuid::new_v4().to_string()}),
            says: post::said(&payload.words(), &sent, &payload.about()),
            budget: BUDGET,
            price: Price::Free,
        };
        let publish = |permit: Permit| {
            let (status, to) = (&status, of(BUDGET.mul_f32(0.9)));
            async move {
                let key = permit.keep["key"].as_str().unwrap_or_default();
                to.publish(key, status).await
            }
        };
        cx.progress(90, "publishing");
        let receipt = cx.effect(wanted, publish).await?;
        Ok(json!({"id": receipt.remote_id, "url": receipt.url}))
    }
}

impl Payload {
    /// All of its text, what stands before it included.
    fn words(&self) -> String {
        let before = self.spoiler_text.as_deref().unwrap_or_default();
        format!("{before}\n{}", self.text)
    }

    /// What it answers.
    fn about(&self) -> [Option<&str>; 1] {
        [self.reply_to_id.as_deref()]
    }

    /// The status without the ids of its pictures.
    fn status(&self) -> Status {
        Status {
            status: self.text.clone(),
            media_ids: vec![],
            in_reply_to_id: self.reply_to_id.clone(),
            sensitive: self.sensitive,
            spoiler_text: self.spoiler_text.clone(),
            visibility: self.visibility.map(Visibility::word),
            language: self.language.clone(),
        }
    }
}

fn types(limits: &Limits) -> Vec<&str> {
    limits.types.iter().map(String::as_str).collect()
}

fn takes<'a>(limits: &Limits, types: &'a [&'a str]) -> Takes<'a> {
    Takes {
        count: limits.media,
        types,
        bytes: limits.image_bytes,
        alt: limits.alt,
    }
}

/// What can be said against a status under an instance's limits.
fn violations(payload: &Payload, limits: &Limits) -> Vec<Violation> {
    let types = types(limits);
    let takes = takes(limits, &types);
    let mut found = Vec::new();
    let spoiler = payload.spoiler_text.as_deref().unwrap_or_default();
    let characters = limits.count(&payload.text, spoiler);
    if limits.characters < characters {
        let (most, link) = (limits.characters, limits.characters_per_url);
        let message = format!(
            "has {characters} characters, at most {most} fit; a link counts {link}, a mention without its host, the spoiler too"
        );
        found.push(Violation::new("/text", message));
    }
    found.extend(post::empty(&payload.text, &payload.media));
    let tag = payload.language.as_deref();
    found.extend(tag.and_then(|it| post::language("/language", it)));
    found.extend(check(&payload.media, &takes));
    found
}

/// The instance may take less than others do.
fn fits(payload: &Payload, limits: &Limits) -> Result<(), Failure> {
    let found = violations(payload, limits);
    if found.is_empty() {
        return Ok(());
    }
    let told: Vec<String> = found.iter().map(ToString::to_string).collect();
    let message = format!("the instance wouldn't take it: {}", told.join("; "));
    Err(Failure::permanent("preflight", message))
}

/// Waits until the instance has worked on a picture.
async fn processed(cx: &Context, mastodon: &Mastodon<'_>, id: &str) -> Result<(), Outcome> {
    let ask = async || match mastodon.processing(id).await.map_err(|e| e.harmless())? {
        Processing::Underway => Ok(Polled::Later(Duration::ZERO)),
        // hidden: attached to our own status by a send whose answer was lost, or gone; the send
        // itself, under the same key, says which
        Processing::Ready | Processing::Hidden => Ok(Polled::Done(())),
    };
    awaited(cx, "the instance still works on a picture", ask).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(json: Value) -> Payload {
        serde_json::from_value(json).unwrap()
    }

    fn pointers(json: Value, limits: &Limits) -> Vec<String> {
        let found = violations(&payload(json), limits);
        found.into_iter().map(|it| it.pointer).collect()
    }

    #[test]
    fn all_violations_are_told_at_once() {
        let picture = json!({"file": "../a.png", "type": "image/tiff", "alt": "x".repeat(1_501)});
        let wrong = json!({
            "text": "x".repeat(490), "spoiler_text": "y".repeat(11), "language": "english",
            "media": [picture, picture, picture, picture, picture],
        });
        let found = pointers(wrong, &Limits::default());
        assert_eq!(found[..3], ["/text", "/language", "/media"]);
        assert_eq!(found.len(), 3 + 5 * 3);
        assert_eq!(pointers(json!({}), &Limits::default()), ["/text"]);
    }

    #[test]
    fn an_instance_may_take_less() {
        let told = json!({"configuration": {"statuses": {"max_characters": 3}}});
        let e = fits(&payload(json!({"text": "four"})), &Limits::told(&told)).unwrap_err();
        assert!(e.message.contains("at most 3"), "{e}");
    }

    #[test]
    fn only_what_was_said_is_sent() {
        let it = payload(json!({"text": "a", "visibility": "unlisted", "reply_to_id": "7"}));
        let sent = serde_json::to_value(it.status()).unwrap();
        assert_eq!(
            sent,
            json!({"status": "a", "in_reply_to_id": "7", "visibility": "unlisted"})
        );
    }
}
