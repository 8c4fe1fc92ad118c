//! X: posts, uploads in segments, an account's own timeline, and what an error means.
//!
//! Nothing there dedupes but a filter of equal texts, which tells no id: what became of a post whose
//! answer was lost is read from the timeline.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::SecondsFormat;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::clock::Time;
use crate::config::Account;
use crate::effect::Receipt;
use crate::json::Digest;
use crate::outcome::{Class, RESTRICTED, Scope};

use super::http::{Body, Call, Http, Part, below};
use super::verdict::{CallError, Meaning, Rules, Said, UNKNOWN, ask, refused, unreadable};
use super::x_words::{Found, Timeline};

/// Pictures of a post.
pub const IMAGES_MAX: usize = 4;
/// Bytes of a picture (docs.x.com, media best practices).
pub const IMAGE_BYTES_MAX: u64 = 5 << 20;
/// Bytes of a GIF, of which a post has one and nothing else.
pub const GIF_BYTES_MAX: u64 = 15 << 20;
/// Characters of a picture's description.
pub const ALT_MAX: usize = 1_000;
/// Bytes of a segment: the older API took 5 MB, of which the newer says nothing.
const SEGMENT: usize = 4 << 20;
/// Posts of a page of the timeline.
const PAGE: &str = "100";
/// Pages that a look reads: the posts of a few minutes never fill them.
const PAGES: usize = 3;
/// The codes of refusals that money would mend.
pub const NO_MONEY: [&str; 2] = ["usage-capped", "http_402"];

/// Who an account is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Me {
    /// Its id.
    pub id: String,
    /// Its name, as in `@name`.
    pub username: String,
}

/// A post, as it is sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Post {
    /// The text.
    pub text: String,
    /// The ids of its uploaded media.
    pub media_ids: Vec<String>,
    /// The post it answers.
    pub reply_to: Option<String>,
    /// The post it quotes.
    pub quote: Option<String>,
    /// Who may answer; everybody if not said.
    pub reply_settings: Option<String>,
    /// Whether a model made it.
    pub made_with_ai: Option<bool>,
}

impl Post {
    /// The request's body: X refuses a field that says nothing.
    pub fn body(&self) -> Value {
        let mut body = json!({});
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body[name] = value;
            }
        };
        put("text", (!self.text.is_empty()).then(|| json!(self.text)));
        let media = (!self.media_ids.is_empty()).then(|| json!({"media_ids": self.media_ids}));
        put("media", media);
        let reply = self.reply_to.as_ref();
        put("reply", reply.map(|it| json!({"in_reply_to_tweet_id": it})));
        put("quote_tweet_id", self.quote.as_ref().map(|it| json!(it)));
        let who = self.reply_settings.as_ref();
        put("reply_settings", who.map(|it| json!(it)));
        put("made_with_ai", self.made_with_ai.map(Value::from));
        body
    }
}

/// An upload that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// Its id, by which a post names it.
    pub id: String,
    /// Its key, by which the timeline names it: no other upload has it.
    pub media_key: String,
}

/// How far an uploaded file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Processing {
    /// It can be attached.
    Ready,
    /// Not yet: to be asked again after this.
    Underway(Duration),
    /// X can't make sense of it; its words.
    Failed(String),
}

/// An account of X.
pub struct X<'a> {
    /// The client.
    pub http: &'a Http,
    /// The account.
    pub account: &'a Account,
    /// What each call may take.
    pub deadline: Duration,
}

#[derive(Deserialize)]
struct Whole<T> {
    data: T,
}

#[derive(Deserialize)]
struct Made {
    id: String,
}

#[derive(Deserialize)]
struct State {
    processing_info: Option<Info>,
}

#[derive(Deserialize)]
struct Info {
    state: String,
    check_after_secs: Option<u64>,
    error: Option<Value>,
}

impl State {
    fn processing(self) -> Processing {
        match self.processing_info {
            None => Processing::Ready,
            Some(it) => match it.state.as_str() {
                "succeeded" => Processing::Ready,
                "failed" => {
                    let why = it.error.unwrap_or_default();
                    let words = ["message", "name"].iter().find_map(|of| why[*of].as_str());
                    Processing::Failed(words.unwrap_or("it gave no reason").to_owned())
                }
                _ => Processing::Underway(Duration::from_secs(it.check_after_secs.unwrap_or(1))),
            },
        }
    }
}

type CachedMe = Mutex<Option<Arc<Me>>>;

impl X<'_> {
    /// Who the token is. Asked once a token: X answers this 75 times in a quarter of an hour.
    ///
    /// # Errors
    /// What was refused or lost.
    pub async fn me(&self) -> Result<Arc<Me>, CallError> {
        let token = Digest::of_bytes(self.account.secret.expose_secret().as_bytes()).hex();
        let key = format!("x user {} {token}", self.account.base_url);
        let slot = self.http.kept::<CachedMe>(key);
        let mut slot = slot.lock().await;
        if let Some(me) = &*slot {
            return Ok(me.clone());
        }
        let me = Arc::new(self.who().await?);
        *slot = Some(me.clone());
        Ok(me)
    }

    /// Asks who the token is.
    ///
    /// # Errors
    /// What was refused or lost.
    pub async fn who(&self) -> Result<Me, CallError> {
        let call = self.get("/2/users/me", &[]);
        let (it, _) = ask::<Whole<Me>>(self.http, &RULES, &call).await?;
        Ok(it.data)
    }

    fn get(&self, path: &str, query: &[(&str, &str)]) -> Call {
        let mut url = below(&self.account.base_url, path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Call::get(url, self.deadline).bearer(&self.account.secret)
    }

    fn post(&self, path: &str, body: Body) -> Call {
        let url = below(&self.account.base_url, path);
        Call::post(url, body, self.deadline).bearer(&self.account.secret)
    }

    /// Begins an upload. One that isn't finalized is forgotten; nobody ever sees it.
    ///
    /// # Errors
    /// What was refused or lost; another one may be begun.
    pub async fn initialize(&self, mime: &str, bytes: usize) -> Result<Upload, CallError> {
        let category = match mime {
            "image/gif" => "tweet_gif",
            _ => "tweet_image",
        };
        let body = json!({"media_type": mime, "total_bytes": bytes, "media_category": category});
        let call = self.post("/2/media/upload/initialize", Body::Json(body.to_string()));
        let (it, _) = ask::<Whole<Upload>>(self.http, &RULES, &call).await?;
        Ok(it.data)
    }

    /// The segments of a file, in order.
    pub fn segments(bytes: &Bytes) -> impl Iterator<Item = Bytes> {
        (0..bytes.len())
            .step_by(SEGMENT)
            .map(|from| bytes.slice(from..(from + SEGMENT).min(bytes.len())))
    }

    /// Sends a segment. The same one may be sent again.
    ///
    /// # Errors
    /// What was refused or lost.
    pub async fn append(&self, id: &str, index: usize, bytes: Bytes) -> Result<(), CallError> {
        let index = Part {
            name: "segment_index",
            file: None,
            bytes: index.to_string().into(),
        };
        let media = Part {
            name: "media",
            file: Some(("blob".to_owned(), "application/octet-stream".to_owned())),
            bytes,
        };
        let path = format!("/2/media/upload/{}/append", encoded(id));
        let call = self.post(&path, Body::Multipart(vec![index, media]));
        ask::<Value>(self.http, &RULES, &call.patient()).await?;
        Ok(())
    }

    /// Ends an upload: a day later its file can't be attached any more.
    ///
    /// # Errors
    /// What was refused or lost; it may be ended again.
    pub async fn finalize(&self, id: &str) -> Result<Processing, CallError> {
        let path = format!("/2/media/upload/{}/finalize", encoded(id));
        let call = self.post(&path, Body::Empty);
        let (it, _) = ask::<Whole<State>>(self.http, &RULES, &call).await?;
        Ok(it.data.processing())
    }

    /// How far an uploaded file is.
    ///
    /// # Errors
    /// What was refused or lost.
    pub async fn processing(&self, id: &str) -> Result<Processing, CallError> {
        let query = [("command", "STATUS"), ("media_id", id)];
        let call = self.get("/2/media/upload", &query);
        let (it, _) = ask::<Whole<State>>(self.http, &RULES, &call).await?;
        Ok(it.data.processing())
    }

    /// Says what can be seen on an uploaded picture.
    ///
    /// # Errors
    /// What was refused or lost; it may be said again.
    pub async fn describe(&self, id: &str, alt: &str) -> Result<(), CallError> {
        let body = json!({"id": id, "metadata": {"alt_text": {"text": alt}}});
        let call = self.post("/2/media/metadata", Body::Json(body.to_string()));
        ask::<Value>(self.http, &RULES, &call).await?;
        Ok(())
    }

    /// Publishes a post, once.
    ///
    /// # Errors
    /// What was refused; or unknown: then it may be published, and only the timeline tells. X's word
    /// that it has just published the same text is unknown, too: that may have been our own request.
    pub async fn publish(&self, post: &Post, username: &str) -> Result<Receipt, CallError> {
        let call = self.post("/2/tweets", Body::Json(post.body().to_string()));
        let call = call.fresh();
        let (made, answer) = ask::<Whole<Made>>(self.http, &RULES, &call).await?;
        let id = made.data.id;
        if !is_id(&id) {
            return Err(unreadable(&RULES, &call, &answer, "its id is no id"));
        }
        Ok(receipt(&id, username, answer.at))
    }

    /// What the account of an id published from `since` on, newest first, up to `until` where that
    /// is past; and whether that is all of it.
    ///
    /// # Errors
    /// What was refused or lost.
    pub async fn posts(
        &self,
        user: &str,
        since: Time,
        until: Option<Time>,
    ) -> Result<(Vec<Found>, bool), CallError> {
        // the description says `post.fields`, the guides still its older name: a server takes one
        match self.posts_by("post.fields", user, since, until).await {
            Err(CallError::Refused(it)) if it.code == "invalid-request" => {
                self.posts_by("tweet.fields", user, since, until).await
            }
            other => other,
        }
    }

    async fn posts_by(
        &self,
        fields: &str,
        user: &str,
        since: Time,
        until: Option<Time>,
    ) -> Result<(Vec<Found>, bool), CallError> {
        let path = format!("/2/users/{}/tweets", encoded(user));
        let text = |it: Time| it.to_rfc3339_opts(SecondsFormat::Secs, true);
        let (since, until) = (text(since), until.map(text));
        let (mut found, mut all, mut next) = (vec![], true, None::<String>);
        for _ in 0..PAGES {
            let mut query = vec![
                ("max_results", PAGE),
                ("start_time", &since),
                ("exclude", "retweets"),
                (fields, "created_at,attachments,entities,referenced_posts"),
                ("expansions", "attachments.media_keys"),
            ];
            if fields == "tweet.fields" {
                query[3].1 = "created_at,attachments,entities,referenced_tweets";
            }
            query.extend(until.as_deref().map(|it| ("end_time", it)));
            query.extend(next.as_deref().map(|it| ("pagination_token", it)));
            let call = self.get(&path, &query);
            let (page, _) = ask::<Timeline>(self.http, &RULES, &call).await?;
            all &= page.errors.is_empty();
            found.extend(page.data.into_iter().map(Found::from));
            next = page.meta.next_token;
            if next.is_none() {
                return Ok((found, all));
            }
        }
        Ok((found, false))
    }
}

/// The receipt of a post.
pub fn receipt(id: &str, username: &str, at: Time) -> Receipt {
    Receipt {
        remote_id: Some(id.to_owned()),
        url: Some(format!("https://x.com/{username}/status/{id}")),
        at,
        detail: Value::Null,
    }
}

/// Whether a text is an id: up to 19 digits.
pub fn is_id(text: &str) -> bool {
    (1..=19).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_digit())
}

fn encoded(part: &str) -> String {
    url::form_urlencoded::byte_serialize(part.as_bytes()).collect()
}

/// What X's answers mean.
pub const RULES: Rules = Rules {
    platform: "X",
    said,
    meaning,
};

/// The code of X's refusal of a text that it has just published: it may have been ours.
const DUPLICATE: &str = "duplicate";
/// X's older number for it.
const DUPLICATE_NUMBER: u64 = 187;
/// The account is suspended, or locked until its person has proven to be one.
const RESTRICTIONS: [u64; 2] = [64, 326];

fn said(body: &[u8]) -> Said {
    #[derive(Deserialize)]
    struct Problem {
        title: Option<String>,
        detail: Option<String>,
        #[serde(rename = "type")]
        kind: Option<String>,
        #[serde(default)]
        errors: Vec<Told>,
    }
    #[derive(Deserialize)]
    struct Told {
        code: Option<u64>,
        message: Option<String>,
        detail: Option<String>,
    }
    let Ok(it) = serde_json::from_slice::<Problem>(body) else {
        return Said::default();
    };
    let first = it.errors.into_iter().next();
    let (number, words) = match first {
        Some(it) => (it.code, it.message.or(it.detail)),
        None => (None, None),
    };
    let message = it.detail.or(it.title).or(words);
    let is_twin = message
        .as_deref()
        .is_some_and(|it| it.to_ascii_lowercase().contains("duplicate content"));
    let kind = it.kind.as_deref().filter(|it| *it != "about:blank");
    let word = kind.and_then(|it| it.rsplit('/').next());
    let code = match (word, number) {
        _ if is_twin || number == Some(DUPLICATE_NUMBER) => Some(DUPLICATE.to_owned()),
        (_, Some(it)) if RESTRICTIONS.contains(&it) => Some(RESTRICTED.to_owned()),
        (Some(it), _) => Some(it.to_owned()),
        (None, Some(it)) => Some(format!("code_{it}")),
        (None, None) => None,
    };
    Said { code, message }
}

fn meaning(status: u16, said: &Said) -> Option<Meaning> {
    let code = said.code.as_deref().unwrap_or_default();
    match status {
        // a hint that an earlier request acted, without its id
        400..500 if code == DUPLICATE => Some(UNKNOWN),
        // waiting doesn't help: somebody has to pay
        402 => Some(refused(Class::Permanent, Scope::App)),
        400..500 if NO_MONEY.contains(&code) => Some(refused(Class::Permanent, Scope::App)),
        // the app may not write: a person changes that in X's console
        403 if code == "client-forbidden" => Some(refused(Class::Unauthorised, Scope::App)),
        403 if code == RESTRICTED => Some(refused(Class::Unauthorised, Scope::Account)),
        // of this post: an answer to a deleted one, a quote that isn't allowed
        403 => Some(refused(Class::Permanent, Scope::Content)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::verdict::usual;
    use proptest::prelude::*;

    fn problem(kind: &str, detail: &str) -> Vec<u8> {
        json!({"type": kind, "title": "T", "detail": detail, "status": 403})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn each_status_has_its_meaning() {
        for status in 300..600 {
            let of = |body: &[u8]| {
                let it = meaning(status, &said(body)).unwrap_or_else(|| usual(status));
                (it.acted, it.class)
            };
            let plain = match status {
                400 | 402 | 403 | 404 | 405 | 410 | 413 | 415 | 422 => (false, Class::Permanent),
                401 => (false, Class::Unauthorised),
                429 => (false, Class::Throttled),
                _ => (true, Class::Unknown),
            };
            assert_eq!(of(b"<html>"), plain, "{status}");
            assert_eq!(of(&problem("about:blank", "no")), plain, "{status}");
            if (400..500).contains(&status) {
                let twin = problem("about:blank", "You may not post Duplicate Content.");
                assert_eq!(of(&twin), (true, Class::Unknown), "{status}");
                let old = br#"{"errors":[{"code":187,"message":"Status is a duplicate."}]}"#;
                assert_eq!(of(old), (true, Class::Unknown), "{status}");
                let broke = problem("https://api.x.com/2/problems/usage-capped", "no");
                assert_eq!(of(&broke), (false, Class::Permanent), "{status}");
            }
        }
        let app = problem("https://api.twitter.com/2/problems/client-forbidden", "no");
        let it = meaning(403, &said(&app)).unwrap();
        assert_eq!((it.acted, it.class), (false, Class::Unauthorised));
    }

    #[test]
    fn a_body_holds_only_what_was_asked() {
        let mut post = Post {
            text: "hi".to_owned(),
            ..Post::default()
        };
        assert_eq!(post.body(), json!({"text": "hi"}));
        post.media_ids = vec!["1".to_owned()];
        post.reply_to = Some("2".to_owned());
        let expected = json!({
            "text": "hi", "media": {"media_ids": ["1"]}, "reply": {"in_reply_to_tweet_id": "2"},
        });
        assert_eq!(post.body(), expected);
    }

    #[test]
    fn a_file_is_cut_into_segments_without_a_gap() {
        for size in [1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT] {
            let bytes = Bytes::from(vec![7; size]);
            let parts: Vec<Bytes> = X::segments(&bytes).collect();
            assert_eq!(parts.len(), size.div_ceil(SEGMENT));
            assert_eq!(parts.iter().map(Bytes::len).sum::<usize>(), size);
        }
    }

    #[test]
    fn processing_is_read_from_its_words() {
        let of = |json: Value| {
            let it: State = serde_json::from_value(json).unwrap();
            it.processing()
        };
        assert_eq!(of(json!({})), Processing::Ready);
        let wait = json!({"processing_info": {"state": "pending", "check_after_secs": 3}});
        assert_eq!(of(wait), Processing::Underway(Duration::from_secs(3)));
        let bad =
            json!({"processing_info": {"state": "failed", "error": {"name": "InvalidMedia"}}});
        assert_eq!(of(bad), Processing::Failed("InvalidMedia".to_owned()));
    }

    proptest! {
        #[test]
        fn no_body_panics(body: Vec<u8>, text in ".{0,60}") {
            said(&body);
            said(text.as_bytes());
        }
    }
}
