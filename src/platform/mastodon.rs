//! Mastodon: media, statuses, an instance's own limits, and what an error means.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::clock::Time;
use crate::config::Account;
use crate::effect::Receipt;
use crate::outcome::{Class, RESTRICTED, Scope};

use super::http::{Body, Call, Http, Part, below};
use super::text::{graphemes, links};
use super::verdict::{CallError, Meaning, Rules, Said, ask, refused};

/// How long Mastodon remembers an `Idempotency-Key` (docs.joinmastodon.org, POST /api/v1/statuses).
pub const KEY_LIFE: Duration = Duration::from_secs(3_600);
/// How long an instance's limits are believed.
const LIMITS_LIFE: TimeDelta = TimeDelta::minutes(10);

/// A status, as it is sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    /// The text.
    pub status: String,
    /// The ids of its uploaded media.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub media_ids: Vec<String>,
    /// The status it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_reply_to_id: Option<String>,
    /// Whether its media are hidden at first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensitive: Option<bool>,
    /// What stands before a folded text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spoiler_text: Option<String>,
    /// Who sees it; the account's default if not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub visibility: Option<String>,
    /// ISO 639.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
}

/// Who an account is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Who {
    /// Its id at its instance.
    pub id: String,
    /// Its name, as in `@name`.
    pub acct: String,
}

/// An instance's limits. The default ones are those of an unchanged Mastodon 4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Characters of a status with its spoiler.
    pub characters: usize,
    /// Characters that any link counts.
    pub characters_per_url: usize,
    /// Media of a status.
    pub media: usize,
    /// Characters of a picture's description.
    pub alt: usize,
    /// Bytes of a picture.
    pub image_bytes: u64,
    /// Media types that are taken.
    pub types: Vec<String>,
}

/// Picture types that every Mastodon 4 takes.
const TYPES: [&str; 6] = [
    "image/jpeg",
    "image/png",
    "image/gif",
    "image/webp",
    "image/heic",
    "image/avif",
];

impl Default for Limits {
    fn default() -> Self {
        Self {
            characters: 500,
            characters_per_url: 23,
            media: 4,
            alt: 1_500,
            image_bytes: 16 << 20,
            types: TYPES.map(str::to_owned).to_vec(),
        }
    }
}

impl Limits {
    /// The limits that an instance tells in `GET /api/v2/instance`, the default ones elsewhere.
    pub fn told(instance: &Value) -> Self {
        let usual = Self::default();
        let number = |pointer: &str, usual: u64| {
            let told = instance.pointer(pointer).and_then(Value::as_u64);
            told.unwrap_or(usual)
        };
        let small = |pointer: &str, usual: usize| {
            usize::try_from(number(pointer, usual as u64)).unwrap_or(usize::MAX)
        };
        let types = instance
            .pointer("/configuration/media_attachments/supported_mime_types")
            .and_then(Value::as_array)
            .map(|list| {
                let texts = list.iter().filter_map(Value::as_str);
                texts.map(str::to_owned).collect::<Vec<_>>()
            })
            .filter(|it| !it.is_empty());
        let statuses = "/configuration/statuses";
        let media = "/configuration/media_attachments";
        Self {
            characters: small(&format!("{statuses}/max_characters"), usual.characters),
            characters_per_url: small(
                &format!("{statuses}/characters_reserved_per_url"),
                usual.characters_per_url,
            ),
            media: small(&format!("{statuses}/max_media_attachments"), usual.media),
            alt: small(&format!("{media}/description_limit"), usual.alt),
            image_bytes: number(&format!("{media}/image_size_limit"), usual.image_bytes),
            types: types.unwrap_or(usual.types),
        }
    }

    /// Characters as Mastodon counts them: graphemes, a link as a fixed number, `@user@host` as
    /// `@user`, the spoiler too.
    pub fn count(&self, text: &str, spoiler: &str) -> usize {
        let (mut count, mut from) = (graphemes(spoiler), 0);
        for link in links(text) {
            count += self.characters_per_url + local(&text[from..link.start]);
            from = link.end;
        }
        count + local(&text[from..])
    }
}

/// Graphemes of a text with `@user@host` counted as `@user`.
fn local(text: &str) -> usize {
    static REMOTE: std::sync::LazyLock<Regex> = std::sync::LazyLock::new(|| {
        let pattern =
            r"(^|[^=/\w])(@[A-Za-z0-9_]+(?:[A-Za-z0-9_.-]+[A-Za-z0-9_]+)?)@\w+(?:[.-]+\w+)+";
        Regex::new(pattern).expect("a constant pattern that is tested")
    });
    graphemes(&REMOTE.replace_all(text, "$1$2"))
}

/// A picture that was uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploaded {
    /// Its id.
    pub id: String,
    /// Whether it can be attached already.
    pub ready: bool,
}

/// How far an uploaded picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processing {
    /// It can be attached.
    Ready,
    /// Not yet.
    Underway,
    /// The instance doesn't show it any more: it is attached to a status already, or gone. Only the
    /// status tells which.
    Hidden,
}

/// An account of an instance.
pub struct Mastodon<'a> {
    /// The client.
    pub http: &'a Http,
    /// The account.
    pub account: &'a Account,
    /// What each call may take.
    pub deadline: Duration,
}

#[derive(Deserialize)]
struct Attachment {
    id: String,
}

/// A status that is there.
#[derive(Deserialize)]
pub struct Posted {
    id: String,
    uri: Option<String>,
    url: Option<String>,
}

impl Posted {
    /// What is kept of it.
    pub fn receipt(self, at: Time) -> Receipt {
        Receipt {
            remote_id: Some(self.id),
            url: self.url.or(self.uri),
            at,
            detail: Value::Null,
        }
    }
}

type CachedLimits = Mutex<Option<(Time, Arc<Limits>)>>;

impl Mastodon<'_> {
    /// The instance's own limits, at most ten minutes old. One that doesn't tell has the default.
    ///
    /// # Errors
    /// When the instance can't be reached or is out of order.
    pub async fn limits(&self) -> Result<Arc<Limits>, CallError> {
        let key = format!("mastodon limits {}", self.account.base_url);
        let slot = self.http.kept::<CachedLimits>(key);
        let mut slot = slot.lock().await;
        let now = self.http.now();
        if let Some((at, limits)) = &*slot
            && now - at < LIMITS_LIFE
        {
            return Ok(limits.clone());
        }
        let url = below(&self.account.base_url, "/api/v2/instance");
        let call = Call::get(url, self.deadline);
        let limits = match ask::<Value>(self.http, &RULES, &call).await {
            Ok((instance, _)) => Limits::told(&instance),
            // an older server, or one that shows itself to nobody: the status will tell
            Err(CallError::Refused(it))
                if matches!(it.class, Class::Permanent | Class::Unauthorised) =>
            {
                Limits::default()
            }
            Err(e) => return Err(e),
        };
        let limits = Arc::new(limits);
        *slot = Some((now, limits.clone()));
        Ok(limits)
    }

    /// Asks who the token is.
    ///
    /// # Errors
    /// What was refused or lost.
    pub async fn who(&self) -> Result<Who, CallError> {
        let url = below(
            &self.account.base_url,
            "/api/v1/accounts/verify_credentials",
        );
        let call = Call::get(url, self.deadline).bearer(&self.account.secret);
        let (who, _) = ask::<Who>(self.http, &RULES, &call).await?;
        Ok(who)
    }

    /// Uploads a picture. Unattached, it is forgotten by the instance after a day.
    ///
    /// # Errors
    /// What was refused or lost; an upload whose answer is lost may be repeated, nobody sees it.
    pub async fn upload(
        &self,
        name: String,
        mime: &str,
        bytes: Bytes,
        alt: &str,
        focus: Option<(f64, f64)>,
    ) -> Result<Uploaded, CallError> {
        let text = |name, text: String| Part {
            name,
            file: None,
            bytes: text.into(),
        };
        let mut parts = vec![];
        if !alt.is_empty() {
            parts.push(text("description", alt.to_owned()));
        }
        if let Some((x, y)) = focus {
            parts.push(text("focus", format!("{x},{y}")));
        }
        parts.push(Part {
            name: "file",
            file: Some((name, mime.to_owned())),
            bytes,
        });
        let url = below(&self.account.base_url, "/api/v2/media");
        let call = Call::post(url, Body::Multipart(parts), self.deadline)
            .bearer(&self.account.secret)
            .patient();
        let (made, answer) = ask::<Attachment>(self.http, &RULES, &call).await?;
        Ok(Uploaded {
            id: made.id,
            ready: answer.status == 200,
        })
    }

    /// How far an uploaded picture is.
    ///
    /// # Errors
    /// Permanent when the instance couldn't make sense of it; what was refused or lost else.
    pub async fn processing(&self, id: &str) -> Result<Processing, CallError> {
        let id: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
        let url = below(&self.account.base_url, &format!("/api/v1/media/{id}"));
        let call = Call::get(url, self.deadline).bearer(&self.account.secret);
        match ask::<Value>(self.http, &RULES, &call).await {
            Ok((_, answer)) if answer.status == 206 => Ok(Processing::Underway),
            Ok(_) => Ok(Processing::Ready),
            Err(e) if matches!(e.refusal(), Some("http_404")) => Ok(Processing::Hidden),
            Err(e) => Err(e),
        }
    }

    /// Publishes a status, once. The same `key` within its life returns the first status.
    ///
    /// # Errors
    /// What was refused; or unknown: then it may be published, and the same key may be sent again.
    pub async fn publish(&self, key: &str, status: &Status) -> Result<Receipt, CallError> {
        let body = serde_json::to_string(status).expect("texts and lists are always JSON");
        let url = below(&self.account.base_url, "/api/v1/statuses");
        let call = Call::post(url, Body::Json(body), self.deadline)
            .bearer(&self.account.secret)
            .header("idempotency-key", key)
            .fresh();
        let (posted, answer) = ask::<Posted>(self.http, &RULES, &call).await?;
        Ok(posted.receipt(answer.at))
    }
}

/// What Mastodon's answers mean.
pub const RULES: Rules = Rules {
    platform: "Mastodon",
    said,
    meaning,
};

fn said(body: &[u8]) -> Said {
    #[derive(Deserialize)]
    struct Told {
        error: String,
        error_description: Option<String>,
    }
    let Ok(told) = serde_json::from_slice::<Told>(body) else {
        return Said::default();
    };
    let message = match told.error_description {
        Some(more) => format!("{}: {more}", told.error),
        None => told.error,
    };
    // "Your login is currently disabled": a moderator did that
    let restricted = message.contains("login is currently disabled");
    Said {
        code: restricted.then(|| RESTRICTED.to_owned()),
        message: Some(message),
    }
}

fn meaning(status: u16, said: &Said) -> Option<Meaning> {
    let words = said.message.as_deref().unwrap_or_default();
    match status {
        // "Cannot attach files that have not finished processing. Try again in a moment!"
        422 if words.contains("finished processing") => {
            Some(refused(Class::Transient, Scope::Content))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::verdict::usual;
    use proptest::prelude::*;

    #[test]
    fn links_count_23_and_mentions_lose_their_host() {
        let limits = Limits::default();
        let link = format!("https://example.com/{}", "x".repeat(200));
        assert_eq!(limits.count(&link, ""), 23);
        assert_eq!(limits.count(&format!("a {link} b"), "cw"), 29);
        assert_eq!(limits.count("@bob@example.social hi", ""), "@bob hi".len());
        assert_eq!(limits.count("(@b.b@e.social)", ""), "(@b.b)".len());
        assert_eq!(limits.count("mail me@example.com", ""), 19);
        assert_eq!(limits.count("👩‍👩‍👧", ""), 1);
    }

    #[test]
    fn an_instance_tells_its_limits_and_may_leave_some_out() {
        let told = serde_json::json!({"configuration": {
            "statuses": {"max_characters": 5_000, "max_media_attachments": "many"},
            "media_attachments": {"supported_mime_types": ["image/png"], "image_size_limit": 10},
        }});
        let limits = Limits::told(&told);
        assert_eq!((limits.characters, limits.media), (5_000, 4));
        assert_eq!(limits.types, ["image/png"]);
        assert_eq!(limits.image_bytes, 10);
        assert_eq!(Limits::told(&Value::Null), Limits::default());
    }

    #[test]
    fn each_status_has_its_meaning() {
        for status in 300..600 {
            let it = meaning(status, &Said::default()).unwrap_or_else(|| usual(status));
            let expected = match status {
                400 | 404 | 405 | 410 | 413 | 415 | 422 => (false, Class::Permanent),
                401 | 403 => (false, Class::Unauthorised),
                429 => (false, Class::Throttled),
                _ => (true, Class::Unknown),
            };
            assert_eq!((it.acted, it.class), expected, "{status}");
        }
        let body = br#"{"error":"Validation failed: Cannot attach files that have not finished processing. Try again in a moment!"}"#;
        let it = meaning(422, &said(body)).unwrap();
        assert_eq!((it.acted, it.class), (false, Class::Transient));
    }

    #[test]
    fn a_status_holds_only_what_was_said() {
        let status = Status {
            status: "hi".into(),
            ..Status::default()
        };
        assert_eq!(
            serde_json::to_string(&status).unwrap(),
            r#"{"status":"hi"}"#
        );
    }

    proptest! {
        #[test]
        fn no_text_or_body_panics(text in "(@[a-z]|[@.a]|https://|[^a]){0,40}", body: Vec<u8>) {
            Limits::default().count(&text, &text);
            said(&body);
        }
    }
}
