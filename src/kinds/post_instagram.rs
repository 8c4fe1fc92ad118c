//! `post.instagram`: a picture, or up to ten, with a caption. What is published is a container, which
//! says for sure whether it was: no lost answer needs a person.

use std::time::Duration;

use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

use crate::adopt::{self, NO_STOP, Work};
use crate::budget::Price;
use crate::clock::Time;
use crate::config::Config;
use crate::content;
use crate::context::{Context, Permit, Probe, Wanted};
use crate::effect::{Effect, EffectClass, IN_FLIGHT, Looking, Rule};
use crate::finding::Finding;
use crate::handler::{AGE_MAX_S, Defaults, Handler};
use crate::job::Envelope;
use crate::json::{Digest, Violation};
use crate::outcome::{Class, Failure, Outcome, Scope};
use crate::platform::instagram::{
    ALT_MAX, CAPTION_MAX, CONTAINER_LIFE, IMAGES_MAX, Image, Instagram, QUOTA_WAIT, State,
};
use crate::platform::text::graphemes;
use crate::platform::{CallError, Progressed};
use crate::retry::Policy;

use super::post;

/// What to publish.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Payload {
    /// The caption: at most 2,200 characters, 30 hashtags and 20 mentions.
    #[serde(default)]
    caption: String,
    /// The picture, or up to 10 that are shown as a carousel.
    images: Vec<Picture>,
}

/// A picture that Instagram fetches itself.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Picture {
    /// Where it is: a JPEG behind a public address, such as the `url` of an upload.
    url: String,
    /// What can be seen on it, for those who don't see it.
    #[serde(default)]
    alt: String,
}

/// What a send may take, answer and the look at the container included.
const BUDGET: Duration = Duration::from_secs(50);
/// What the one call may take.
const PUBLISH: Duration = Duration::from_secs(30);
/// What another call may take.
const CALL: Duration = Duration::from_secs(30);
/// What making a container may take: Instagram fetches the picture meanwhile.
const FETCH: Duration = Duration::from_secs(90);
/// What a call of a look may take; a look has two.
const LOOK: Duration = Duration::from_secs(8);
/// What working on the pictures of a container may take.
const WORK: Duration = Duration::from_secs(3_600);
/// An older container is left to expire, so that none does on its way.
const FRESH: Duration = Duration::from_secs(CONTAINER_LIFE.as_secs() - 4 * 3_600);
/// Instagram's clock tells whole seconds, and may differ from ours by so much.
const SKEW: TimeDelta = TimeDelta::seconds(5);
/// A container says yes or no, and can be published once only.
const RULE: Rule = Rule::looked_up(EffectClass::B, Looking::USUAL, IN_FLIGHT);

/// A container as its step records it.
#[derive(Debug, Serialize, Deserialize)]
struct Container {
    at: Time,
    id: String,
}

/// The kind.
pub(super) struct PostInstagram;

impl Handler for PostInstagram {
    type Payload = Payload;
    const DEFAULTS: Defaults = Defaults {
        name: "post.instagram",
        about: "a picture, or up to ten, with a caption on Instagram",
        lane: "instagram",
        retry: Policy {
            attempts_max: 8,
            base_ms: 5_000,
            cap_ms: 900_000,
        },
        timeout_s: 600,
        age_max_s: AGE_MAX_S,
        platforms: &["instagram"],
        example: r#"{"caption": "Hello from Presswork", "images": [{"url": "https://example.com/fox.jpg", "alt": "A fox"}]}"#,
    };
    const SENDS: &'static [&'static str] = &["instagram.media"];
    const LOOKED_UP: Option<Rule> = Some(RULE);

    fn preflight(payload: &Payload, _: &Envelope, _: &Config) -> Vec<Violation> {
        violations(payload)
    }

    fn says(payload: &Payload) -> Option<Digest> {
        let images: Vec<&str> = payload.images.iter().map(|it| it.url.as_str()).collect();
        content::digest(&payload.caption, &images, &[])
    }

    async fn run(cx: &Context, payload: Payload) -> Result<Value, Outcome> {
        let (_, account) = cx.account("instagram")?;
        let of = |deadline| Instagram {
            http: &cx.http,
            account,
            deadline,
        };
        let container = container(cx, &payload, of).await?;
        let images: Vec<[&str; 2]> = payload
            .images
            .iter()
            .map(|it| [it.url.as_str(), it.alt.as_str()])
            .collect();
        let wanted = Wanted {
            step: "publish",
            ordinal: 0,
            op: "instagram.media",
            rule: post::rule(cx, RULE),
            // containers come and go, what is in them may not
            intent: json!({
                "base_url": account.base_url,
                "account": account.identifier,
                "caption": payload.caption,
                "images": images,
            }),
            keep: json!({"container": container}),
            // Instagram fetches the pictures itself: their addresses are all that is known here
            says: Self::says(&payload),
            budget: BUDGET,
            price: Price::Free,
        };
        let publish = |permit: Permit| {
            let (caption, to, since) = (&payload.caption, of(PUBLISH), cx.http.now() - SKEW);
            async move {
                let id = kept(&permit.keep).map_err(CallError::Refused)?;
                to.publish(id, caption, since).await
            }
        };
        cx.progress(90, "publishing");
        let receipt = cx.effect(wanted, publish).await?;
        Ok(json!({"id": receipt.remote_id, "url": receipt.url}))
    }

    async fn look(probe: &Probe, payload: Payload, effect: &Effect) -> Finding {
        match look(probe, &payload.caption, effect).await {
            Ok(it) => it,
            Err(why) => Finding::CannotTell(why),
        }
    }
}

fn kept(keep: &Value) -> Result<&str, Failure> {
    let message = "what was kept for the look names no container";
    let id = keep["container"].as_str();
    id.ok_or_else(|| Failure::permanent("keep", message))
}

/// One look at the container; why it can't tell, where it couldn't be asked.
async fn look(probe: &Probe, caption: &str, effect: &Effect) -> Result<Finding, String> {
    let account = post::account(probe, "instagram")?;
    let id = kept(&effect.keep).map_err(|e| e.message)?;
    let sent = effect.permit_at.ok_or("it was never permitted")?;
    let instagram = Instagram {
        http: &probe.http,
        account,
        deadline: LOOK,
    };
    let state = instagram.state(id).await.map_err(|e| e.to_string())?;
    Ok(match state {
        State::Published => {
            let receipt = instagram.published(id, caption, sent - SKEW).await;
            Finding::Happened(Box::new(receipt))
        }
        State::Finished => Finding::DidNotHappen(format!("container {id} waits to be published")),
        State::Dead(why) => Finding::DidNotHappen(format!("container {id} is dead: {why}")),
        State::InProgress => Finding::CannotTell(format!("container {id} is being worked on")),
    })
}

/// A container that can be published, or was: the recorded one, and another one where that is dead.
async fn container<'a>(
    cx: &'a Context,
    payload: &Payload,
    of: impl Fn(Duration) -> Instagram<'a>,
) -> Result<String, Outcome> {
    let fresh = TimeDelta::from_std(FRESH).unwrap_or(TimeDelta::MAX);
    for round in 0.. {
        cx.go_on()?;
        let name = match round {
            0 => "container".to_owned(),
            round => format!("container-again-{round}"),
        };
        let made: Container = cx.step(&name, make(cx, payload, &of)).await?;
        let is_old = fresh <= cx.http.now() - made.at;
        let state = worked_on(cx, &of(CALL), &made).await?;
        // whether it could be published at all is recorded, so that its death is charged once at most
        let mut is_news = false;
        let step = format!("{name}-finished");
        let finished = cx.step(&step, async {
            is_news = true;
            Ok(!matches!(state, State::Dead(_)))
        });
        let finished: bool = finished.await?;
        match state {
            // one that was published is left as it is: the effect knows, or looks
            State::Published => return Ok(made.id),
            State::Finished | State::InProgress if !is_old => return Ok(made.id),
            State::Dead(why) if is_news && !finished => return Err(unfit(&why).into()),
            _ => {}
        }
    }
    unreachable!("a new container is fresh, or fails")
}

async fn make<'a>(
    cx: &'a Context,
    payload: &Payload,
    of: &impl Fn(Duration) -> Instagram<'a>,
) -> Result<Container, Outcome> {
    if !of(CALL).may_publish().await.map_err(|e| e.harmless())? {
        let message = "the account's quota of the last 24 hours is used up";
        let failure = Failure::new(Class::Throttled, Scope::Account, "quota", message);
        return Err(failure.after(Some(QUOTA_WAIT)).into());
    }
    cx.progress(20, "making the container");
    let at = cx.http.now();
    let images: Vec<Image> = payload.images.iter().map(Picture::image).collect();
    let id = of(FETCH).container(&payload.caption, &images).await;
    let id = id.map_err(|e| e.harmless())?;
    Ok(Container { at, id })
}

/// Where a container stands once Instagram has worked on its pictures: the room is free meanwhile.
async fn worked_on(
    cx: &Context,
    instagram: &Instagram<'_>,
    made: &Container,
) -> Result<State, Outcome> {
    let work = Work {
        by: "Instagram",
        handle: &made.id,
        since: made.at,
        place: "a container, which nobody sees",
        // most are finished by the time that they are answered
        is_new: false,
        most: WORK,
    };
    let ask = async {
        Ok(match instagram.state(&made.id).await? {
            State::InProgress => Progressed::GoesOn(None),
            told => Progressed::Ended(told),
        })
    };
    adopt::ended(cx, &work, ask, NO_STOP).await
}

/// Why a new container is dead. Another attempt makes another one.
fn unfit(why: &str) -> Failure {
    let message = format!("Instagram could make nothing of the pictures: {why}");
    Failure::transient("container", message)
}

impl Picture {
    fn image(&self) -> Image {
        Image {
            url: self.url.clone(),
            alt: self.alt.clone(),
        }
    }
}

/// What can be said against a post.
fn violations(payload: &Payload) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut wrong = |pointer: String, message: String| found.push(Violation::new(pointer, message));
    let [characters, hashtags, mentions] = CAPTION_MAX;
    let words = |mark: char| {
        let marked = |it: &&str| it.starts_with(mark) && 1 < it.len();
        payload.caption.split_whitespace().filter(marked).count()
    };
    for (is, most, what) in [
        (payload.caption.chars().count(), characters, "characters"),
        (words('#'), hashtags, "hashtags"),
        (words('@'), mentions, "mentions"),
    ] {
        if most < is {
            wrong(
                "/caption".to_owned(),
                format!("has {is} {what}; at most {most} fit"),
            );
        }
    }
    let images = payload.images.len();
    if !(1..=IMAGES_MAX).contains(&images) {
        let message =
            format!("has {images} pictures; a post needs one, and takes at most {IMAGES_MAX}");
        wrong("/images".to_owned(), message);
    }
    for (i, it) in payload.images.iter().enumerate() {
        let public = |it: Url| matches!(it.scheme(), "http" | "https") && it.has_host();
        if !Url::parse(&it.url).is_ok_and(public) {
            let message = "is no public address such as https://example.com/fox.jpg: Instagram fetches the picture itself";
            wrong(format!("/images/{i}/url"), message.to_owned());
        }
        let characters = graphemes(&it.alt);
        if ALT_MAX < characters {
            let message = format!("has {characters} characters; at most {ALT_MAX} fit");
            wrong(format!("/images/{i}/alt"), message);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_violations_are_told_at_once() {
        let bad = json!({"url": "media:sha256:12", "alt": "x".repeat(1_001)});
        let wrong = json!({
            "caption": format!("{} {} {}", "#a ".repeat(31), "@b ".repeat(21), "x".repeat(2_100)),
            "images": vec![bad; 11],
        });
        let found = violations(&serde_json::from_value(wrong).unwrap());
        let pointers: Vec<&str> = found.iter().map(|it| it.pointer.as_str()).collect();
        assert_eq!(
            pointers[..5],
            [
                "/caption",
                "/caption",
                "/caption",
                "/images",
                "/images/0/url"
            ]
        );
        assert_eq!(pointers.len(), 4 + 11 * 2);
        let none = serde_json::from_value(json!({"images": []})).unwrap();
        assert_eq!(violations(&none)[0].pointer, "/images");
    }
}
