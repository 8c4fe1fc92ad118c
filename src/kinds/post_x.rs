//! `post.x`: a post with pictures. X dedupes nothing, so a lost answer is looked for in the account's
//! own timeline: what is found there completes the job, what isn't proves nothing.

use std::time::Duration;

use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use unicode_normalization::UnicodeNormalization;

use crate::budget::Price;
use crate::clock::Time;
use crate::config::Config;
use crate::context::{Context, Permit, Probe, Wanted};
use crate::effect::{Effect, EffectClass, IN_FLIGHT, Looking, Rule};
use crate::finding::Finding;
use crate::handler::{AGE_MAX_S, Defaults, Handler};
use crate::job::Envelope;
use crate::json::{Digest, Violation};
use crate::outcome::{Class, Failure, Outcome};
use crate::platform::CallError;
use crate::platform::x::{
    ALT_MAX, GIF_BYTES_MAX, IMAGE_BYTES_MAX, IMAGES_MAX, Post, Processing, Upload, X, is_id,
    receipt,
};
use crate::platform::x_words::{Found, WEIGHT_MAX, plain, weight};
use crate::retry::Policy;
use crate::sabotage;

use super::media::{Loaded, Media, Polled, Takes, Uploaded, awaited, check, uploaded};
use super::paid::out_of_money;
use super::post;

/// What to publish.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Payload {
    /// The text. May be empty where there are pictures.
    #[serde(default)]
    text: String,
    /// Pictures, at most 4, or one GIF.
    #[serde(default)]
    media: Vec<Media>,
    /// The id of the post that it answers.
    reply_to_id: Option<String>,
    /// The id of the post that it quotes.
    quote_id: Option<String>,
    /// Who may answer. Default: everybody.
    reply_settings: Option<ReplySettings>,
    /// Whether a model made it, as X wants to know.
    made_with_ai: Option<bool>,
}

/// Who may answer a post, in X's words.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum ReplySettings {
    Following,
    MentionedUsers,
    Subscribers,
    Verified,
}

impl ReplySettings {
    fn word(self) -> String {
        let word = match self {
            Self::Following => "following",
            Self::MentionedUsers => "mentionedUsers",
            Self::Subscribers => "subscribers",
            Self::Verified => "verified",
        };
        word.to_owned()
    }
}

/// What a send may take, answer included.
const BUDGET: Duration = Duration::from_secs(40);
/// What another call may take.
const CALL: Duration = Duration::from_secs(30);
/// What a call of a look may take: a look has two at most, and a page or two.
const LOOK: Duration = Duration::from_secs(8);
/// What a segment's upload may take.
const UPLOAD: Duration = Duration::from_secs(90);
/// X forgets an upload a day after it was finalized.
const MEDIA_LIFE: Duration = Duration::from_secs(20 * 3_600);
/// How often a segment is sent at most, and the wait between: it may come as often as one likes.
const SEGMENT_SENDS: (usize, Duration) = (3, Duration::from_millis(500));
/// X's clock tells whole seconds, and may differ from ours by so much: no more, so that an older post
/// with the same text isn't taken for this one.
const SKEW: TimeDelta = TimeDelta::seconds(5);
/// Beyond this no request acts any more: what comes later is somebody else's.
const LATEST: TimeDelta = TimeDelta::seconds(90);
/// Pictures of a post; how large they may be depends on their type.
const TAKES: Takes<'_> = Takes {
    count: IMAGES_MAX,
    types: &["image/jpeg", "image/png", "image/webp", GIF],
    bytes: GIF_BYTES_MAX,
    alt: ALT_MAX,
};
const GIF: &str = "image/gif";
/// A post with pictures is of class B, by their keys, but its look never clears it: not found proves
/// nothing here either.
const RULE: Rule = Rule::looked_up(EffectClass::C, Looking::USUAL, IN_FLIGHT);

/// What is minted before the first send, for the look.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// The account's id and name.
    user: String,
    username: String,
    /// The uploads, by id and key.
    media: Vec<Upload>,
    /// The digest of the plain text.
    text: String,
    reply_to: Option<String>,
    quote: Option<String>,
}

/// The kind.
pub(super) struct PostX;

impl Handler for PostX {
    type Payload = Payload;
    const DEFAULTS: Defaults = Defaults {
        name: "post.x",
        about: "a post with pictures on X",
        lane: "x",
        retry: Policy {
            attempts_max: 8,
            base_ms: 2_000,
            cap_ms: 900_000,
        },
        timeout_s: 300,
        age_max_s: AGE_MAX_S,
        platforms: &["x"],
        example: r#"{"text": "Hello from Presswork: https://example.com"}"#,
    };
    const SENDS: &'static [&'static str] = &["x.post"];
    const LOOKED_UP: Option<Rule> = Some(RULE);

    fn preflight(payload: &Payload, _: &Envelope, _: &Config) -> Vec<Violation> {
        violations(payload)
    }

    fn says(payload: &Payload) -> Option<Digest> {
        post::says(&payload.text, &payload.media, &payload.about())
    }

    async fn run(cx: &Context, payload: Payload) -> Result<Value, Outcome> {
        publish(cx, payload).await.map_err(out_of_money)
    }

    async fn look(probe: &Probe, _: Payload, effect: &Effect) -> Finding {
        match look(probe, effect).await {
            Ok(it) => it,
            Err(why) => Finding::CannotTell(why),
        }
    }
}

async fn publish(cx: &Context, payload: Payload) -> Result<Value, Outcome> {
    let (_, account) = cx.account("x")?;
    let of = |deadline| X {
        http: &cx.http,
        account,
        deadline,
    };
    // before the permit: a token that is refused must not use one up
    let me = of(CALL).me().await.map_err(|e| e.harmless())?;
    let (mut media, mut digests, mut sent, mut gifs) = (vec![], vec![], vec![], 0);
    for (i, it) in payload.media.iter().enumerate() {
        let up = async || {
            let loaded = fitting(it.load(cx, &TAKES).await?)?;
            let gif = loaded.mime == GIF;
            let made = upload(cx, &of(UPLOAD), &loaded, &it.alt).await?;
            Ok((loaded.bytes, (made, gif)))
        };
        let Uploaded { value, digest, .. } = uploaded(cx, i, MEDIA_LIFE, up).await?;
        let (upload, gif): (Upload, bool) = value;
        if gif {
            gifs += 1;
            processed(cx, &of(CALL), &upload.id).await?;
        }
        digests.push(json!({"sha256": digest, "alt": it.alt}));
        sent.push(digest);
        media.push(upload);
    }
    if 0 < gifs && 1 < media.len() {
        return Err(Failure::permanent("media", GIF_ALONE).into());
    }
    let post = payload.post();
    let class = match media.is_empty() {
        true => EffectClass::C,
        false => EffectClass::B,
    };
    let kept = Kept {
        user: me.id.clone(),
        username: me.username.clone(),
        media,
        text: digest(&post.text, post.reply_to.is_some()),
        reply_to: post.reply_to.clone(),
        quote: post.quote.clone(),
    };
    let wanted = Wanted {
        step: "publish",
        ordinal: 0,
        op: "x.post",
        rule: Rule {
            class,
            ..post::rule(cx, RULE)
        },
        // the ids of pictures may change, the pictures may not
        intent: json!({"base_url": account.base_url, "post": post.body(), "media": digests}),
        keep: json!(kept),
        says: post::said(&payload.text, &sent, &payload.about()),
        budget: BUDGET,
        price: Price::Free,
    };
    let send = |permit: Permit| {
        let (mut post, to) = (post.clone(), of(BUDGET.mul_f32(0.9)));
        async move {
            let kept = Kept::read(&permit.keep).map_err(CallError::Refused)?;
            post.media_ids = kept.media.into_iter().map(|it| it.id).collect();
            to.publish(&post, &kept.username).await
        }
    };
    cx.progress(90, "publishing");
    let receipt = cx.effect(wanted, send).await?;
    Ok(json!({"id": receipt.remote_id, "url": receipt.url}))
}

impl Kept {
    fn read(keep: &Value) -> Result<Self, Failure> {
        Self::deserialize(keep).map_err(|e| {
            let message = format!("what was kept for the look doesn't fit this program: {e}");
            Failure::permanent("keep", message)
        })
    }
}

/// What a text is compared by.
fn digest(text: &str, answers: bool) -> String {
    Digest::of_bytes(plain(text, answers).as_bytes()).hex()
}

/// One look at the timeline; why it can't tell, where it couldn't be asked.
async fn look(probe: &Probe, effect: &Effect) -> Result<Finding, String> {
    let account = post::account(probe, "x")?;
    let kept = Kept::read(&effect.keep).map_err(|e| e.message)?;
    let never = "it was never permitted";
    // of several sends any may have acted
    let first = effect.first_at().ok_or(never)?;
    let last = effect.permit_at.ok_or(never)?;
    let (since, until) = (first - SKEW, last + LATEST);
    let x = X {
        http: &probe.http,
        account,
        deadline: LOOK,
    };
    // X refuses an end that isn't past
    let end = (until + SKEW * 4 < probe.http.now()).then_some(until);
    let (found, all) = x
        .posts(&kept.user, since, end)
        .await
        .map_err(|e| e.to_string())?;
    let near: Vec<Found> = found
        .into_iter()
        .filter(|it| it.created_at.is_none_or(|at| at <= until))
        .collect();
    Ok(told(&kept, &near, all, probe.http.now()))
}

/// What a timeline since the send tells, `all` of it or a part. Nothing in it clears a post.
fn told(kept: &Kept, found: &[Found], all: bool, now: Time) -> Finding {
    let ours: Vec<&Found> = found.iter().filter(|it| kept.is(it)).collect();
    let number = found.len();
    match ours[..] {
        // the keys of uploads are ours alone; a text may be somebody else's just as well
        [first, ..] if !kept.media.is_empty() => happened(kept, first, now),
        [_] if !all => Finding::CannotTell(format!(
            "one of {number} posts is equal, and there are more that couldn't be read"
        )),
        [one] => happened(kept, one, now),
        [] => Finding::CannotTell(format!(
            "none of the {number} posts since then is it, which proves nothing on X"
        )),
        _ => Finding::CannotTell(format!(
            "{} posts since then are equal: any of them may be it",
            ours.len()
        )),
    }
}

fn happened(kept: &Kept, it: &Found, now: Time) -> Finding {
    let receipt = receipt(&it.id, &kept.username, now);
    Finding::Happened(Box::new(receipt))
}

impl Kept {
    /// Whether a post is the one that was sent.
    fn is(&self, it: &Found) -> bool {
        if sabotage!("look.by_text") {
            return it.texts.iter().any(|it| digest(it, false) == self.text);
        }
        if !self.media.is_empty() {
            return self
                .media
                .iter()
                .all(|own| it.media_keys.contains(&own.media_key));
        }
        let answers = self.reply_to.is_some();
        it.media_keys.is_empty()
            && it.reply_to == self.reply_to
            && it.quote == self.quote
            && it.texts.iter().any(|it| digest(it, answers) == self.text)
    }
}

impl Payload {
    /// What it answers and quotes.
    fn about(&self) -> [Option<&str>; 2] {
        [self.reply_to_id.as_deref(), self.quote_id.as_deref()]
    }

    /// The post without the ids of its pictures, its text in the form in which X keeps it.
    fn post(&self) -> Post {
        Post {
            text: self.text.nfc().collect(),
            media_ids: vec![],
            reply_to: self.reply_to_id.clone(),
            quote: self.quote_id.clone(),
            reply_settings: self.reply_settings.map(ReplySettings::word),
            made_with_ai: self.made_with_ai,
        }
    }
}

/// Uploads a picture. One that is left half way is forgotten by X.
async fn upload(cx: &Context, x: &X<'_>, loaded: &Loaded, alt: &str) -> Result<Upload, Outcome> {
    let begun = x.initialize(&loaded.mime, loaded.bytes.len()).await;
    let upload = begun.map_err(|e| e.harmless())?;
    for (i, segment) in X::segments(&loaded.bytes).enumerate() {
        for sends in 1.. {
            cx.go_on()?;
            let failure = match x.append(&upload.id, i, segment.clone()).await {
                Ok(()) => break,
                Err(e) => e.harmless(),
            };
            if failure.class != Class::Transient || SEGMENT_SENDS.0 <= sends {
                return Err(failure.into());
            }
            cx.wait(SEGMENT_SENDS.1).await?;
        }
    }
    let state = x.finalize(&upload.id).await.map_err(|e| e.harmless())?;
    if let Processing::Failed(why) = state {
        return Err(unfit(&why).into());
    }
    if !alt.is_empty() {
        let said = x.describe(&upload.id, alt).await;
        said.map_err(|e| e.harmless())?;
    }
    Ok(upload)
}

/// Waits until X has worked on a GIF.
async fn processed(cx: &Context, x: &X<'_>, id: &str) -> Result<(), Outcome> {
    let ask = async || match x.processing(id).await.map_err(|e| e.harmless())? {
        Processing::Ready => Ok(Polled::Done(())),
        Processing::Underway(wait) => Ok(Polled::Later(wait)),
        Processing::Failed(why) => Err(unfit(&why).into()),
    };
    awaited(cx, "X still works on a picture", ask).await
}

fn unfit(why: &str) -> Failure {
    Failure::permanent("media", format!("X can't make sense of a picture: {why}"))
}

/// A picture's own bound is lower than a GIF's.
fn fitting(it: Loaded) -> Result<Loaded, Failure> {
    let bytes = it.bytes.len() as u64;
    if it.mime != GIF && IMAGE_BYTES_MAX < bytes {
        let message = format!("a picture has {bytes} bytes; at most {IMAGE_BYTES_MAX} are taken");
        return Err(Failure::permanent("media", message));
    }
    Ok(it)
}

const GIF_ALONE: &str = "holds a GIF and more; a post has up to 4 pictures, or one GIF";

/// What can be said against a post.
fn violations(payload: &Payload) -> Vec<Violation> {
    let mut found = Vec::new();
    let weight = weight(&payload.text);
    if WEIGHT_MAX < weight {
        let message = format!(
            "weighs {weight}; at most {WEIGHT_MAX} fit: a link weighs 23, an emoji and most characters of East Asia 2"
        );
        found.push(Violation::new("/text", message));
    }
    found.extend(post::empty(&payload.text, &payload.media));
    for (pointer, id) in [
        ("/reply_to_id", &payload.reply_to_id),
        ("/quote_id", &payload.quote_id),
    ] {
        if let Some(id) = id.as_ref().filter(|it| !is_id(it)) {
            let message = format!("`{id}` is no id of a post; it is up to 19 digits");
            found.push(Violation::new(pointer, message));
        }
    }
    let is_gif = |it: &Media| it.mime.as_deref() == Some(GIF);
    if 1 < payload.media.len() && payload.media.iter().any(is_gif) {
        found.push(Violation::new("/media", GIF_ALONE));
    }
    found.extend(post::unfocused("X", &payload.media));
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
        let gif = json!({"file": "a.gif", "type": "image/gif", "focus": [0, 0]});
        let wrong = json!({
            "text": "日".repeat(141), "reply_to_id": "first", "quote_id": "-1",
            "media": [gif, gif, gif, gif, gif],
        });
        let found = violations(&payload(wrong));
        let pointers: Vec<&str> = found.iter().map(|it| it.pointer.as_str()).collect();
        let expected = ["/text", "/reply_to_id", "/quote_id", "/media"];
        assert_eq!(pointers[..4], expected);
        assert_eq!(pointers.len(), 4 + 5 + 1);
        let link = format!("{} https://example.com/{}", "x".repeat(256), "y".repeat(99));
        assert_eq!(violations(&payload(json!({"text": link}))), []);
        assert_eq!(violations(&payload(json!({})))[0].pointer, "/text");
    }

    #[test]
    fn only_one_equal_post_is_ours_and_keys_are_proof() {
        let found = |id: &str, text: &str, keys: &[&str]| Found {
            id: id.to_owned(),
            created_at: None,
            media_keys: keys.iter().map(|it| (*it).to_owned()).collect(),
            reply_to: None,
            quote: None,
            texts: vec![text.to_owned()],
        };
        let kept = |text: &str, keys: &[&str]| Kept {
            user: "1".to_owned(),
            username: "ada".to_owned(),
            media: keys
                .iter()
                .map(|it| Upload {
                    id: (*it).to_owned(),
                    media_key: (*it).to_owned(),
                })
                .collect(),
            text: digest(text, false),
            reply_to: None,
            quote: None,
        };
        let is = |kept: &Kept, found: &[Found], all| match told(kept, found, all, Time::UNIX_EPOCH)
        {
            Finding::Happened(it) => it.remote_id,
            Finding::CannotTell(_) => None,
            Finding::DidNotHappen(why) => panic!("X never clears a post: {why}"),
        };
        let posts = [
            found("1", "hi", &[]),
            found("2", "he\u{301}y ", &[]),
            found("3", "hi", &["k"]),
        ];
        let one = kept("héy", &[]);
        assert_eq!(is(&one, &posts, true).as_deref(), Some("2"));
        assert_eq!(is(&one, &posts, false), None, "there may be another one");
        let pair = [posts[1].clone(), found("4", "héy", &[])];
        assert_eq!(is(&one, &pair, true), None, "either may be it");
        // without pictures it isn't ours, whatever it says
        assert_eq!(is(&kept("hi", &[]), &posts, true).as_deref(), Some("1"));
        assert_eq!(
            is(&kept("other", &["k"]), &posts, false).as_deref(),
            Some("3")
        );
        assert_eq!(is(&kept("hi", &["k", "l"]), &posts, true), None);
        let answer = Found {
            reply_to: Some("9".to_owned()),
            ..found("5", "héy", &[])
        };
        assert_eq!(
            is(&one, &[answer], true),
            None,
            "that is an answer to something"
        );
    }
}
