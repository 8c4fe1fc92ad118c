//! Containers: what a request for one may say, and how it is made.

use serde_json::{Map, Value, json};

use super::super::{
    acts::{Draft, Media, held},
    exchange::Answer,
};
use super::{
    fetch::{Fetched, fetch},
    graph::{error, flag, list, parameter, text},
    side::{Instagram, NAME, State},
};

/// The parameters of `POST /{ig-id}/media`.
pub(super) const PARAMETERS: &[&str] = &[
    "alt_text",
    "audio_name",
    "caption",
    "children",
    "collaborators",
    "cover_url",
    "image_url",
    "is_carousel_item",
    "location_id",
    "media_type",
    "product_tags",
    "share_to_feed",
    "thumb_offset",
    "trial_params",
    "upload_type",
    "user_tags",
    "video_url",
];
/// The version that answers name.
pub(super) const VERSION: &str = "v25.0";
/// Characters, hashtags and mentions of a caption.
const CAPTION: usize = 2200;
const HASHTAGS: usize = 30;
const MENTIONS: usize = 20;
const ALT_TEXT: usize = 1000;
/// Bytes of a picture.
const IMAGE_BYTES: u64 = 8 * 1024 * 1024;

/// A container that may be made.
#[derive(Debug)]
pub(in super::super) struct NewContainer {
    caption: String,
    alt: String,
    /// IMAGE, VIDEO, REELS, STORIES or CAROUSEL.
    media_type: String,
    url: Option<String>,
    is_video: bool,
    is_item: bool,
    resumable: bool,
    children: Vec<String>,
}

impl NewContainer {
    /// Checks what a request says.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn read(all: &Map<String, Value>) -> Result<NewContainer, Answer> {
        let common = ["access_token", "appsecret_proof", "fields"];
        let known = |name: &str| PARAMETERS.contains(&name) || common.contains(&name);
        if let Some(name) = all.keys().find(|name| !known(name.as_str())) {
            return Err(parameter(&format!("Invalid parameter: unknown {name}")));
        }
        let (image, video) = (text(all, "image_url"), text(all, "video_url"));
        let resumable = match text(all, "upload_type").as_deref() {
            None => false,
            Some("resumable") => true,
            Some(other) => return Err(parameter(&format!("Invalid upload_type: {other}"))),
        };
        let media_type = text(all, "media_type").unwrap_or_else(|| "IMAGE".into());
        let sources =
            usize::from(image.is_some()) + usize::from(video.is_some()) + usize::from(resumable);
        let is_video = video.is_some() || resumable;
        let is_item = flag(all, "is_carousel_item");
        let fits = match media_type.as_str() {
            "IMAGE" => image.is_some() && !is_video,
            "REELS" => is_video && image.is_none(),
            "VIDEO" => is_video && image.is_none() && is_item,
            "STORIES" => true,
            "CAROUSEL" => sources == 0,
            other => {
                return Err(parameter(&format!(
                    "Param media_type must be one of {{IMAGE, VIDEO, REELS, STORIES, CAROUSEL}} - got \"{other}\"."
                )));
            }
        };
        if !fits || (sources != 1 && media_type != "CAROUSEL") {
            return Err(parameter(&format!(
                "The parameters image_url, video_url and upload_type don't fit the media type {media_type}"
            )));
        }
        let new = NewContainer {
            caption: text(all, "caption").unwrap_or_default(),
            alt: text(all, "alt_text").unwrap_or_default(),
            media_type,
            url: image.or(video),
            is_video,
            is_item,
            resumable,
            children: list(all, "children"),
        };
        new.check()?;
        Ok(new)
    }

    fn check(&self) -> Result<(), Answer> {
        let count = |sign: char| {
            let words = self.caption.split_whitespace();
            words
                .filter(|word| word.starts_with(sign) && word.chars().count() > 1)
                .count()
        };
        if self.caption.chars().count() > CAPTION || count('#') > HASHTAGS || count('@') > MENTIONS
        {
            return Err(error(
                400,
                36_004,
                Some(2_207_010),
                &format!(
                    "The caption is too long: {CAPTION} characters, {HASHTAGS} hashtags and {MENTIONS} mentions are the most."
                ),
            ));
        }
        if self.alt.chars().count() > ALT_TEXT {
            return Err(parameter("alt_text is too long"));
        }
        let children = self.children.len();
        match self.media_type.as_str() {
            "CAROUSEL" if !(2..=10).contains(&children) => {
                Err(parameter("A carousel has 2 to 10 children"))
            }
            "CAROUSEL" => Ok(()),
            _ if children > 0 => Err(parameter("Only a carousel has children")),
            _ => Ok(()),
        }
    }

    fn product(&self) -> &'static str {
        match self.media_type.as_str() {
            "REELS" => "REELS",
            "STORIES" => "STORY",
            _ => "FEED",
        }
    }
}

impl Instagram {
    /// The text of a container, by which faults of its publishing are chosen.
    pub(super) fn caption_of(&self, id: &str) -> Option<String> {
        let side = held(&self.side);
        side.containers.get(id).map(|it| it.act.text.clone())
    }

    /// Makes a container. Nothing is visible yet.
    pub(super) async fn create(&self, account: String, new: NewContainer) -> Answer {
        let fails = self.settings.now().instagram_work_fails;
        let (mut media, mut failed) = (Vec::new(), fails.then_some("2207052"));
        if let Some(url) = &new.url {
            match fetch(url, &self.spool).await {
                Fetched::Noted => {}
                Fetched::Failed(why) if new.is_video => {
                    tracing::debug!(why, "a video could not be fetched");
                    failed = Some("2207052");
                }
                Fetched::Failed(why) => {
                    return error(
                        400,
                        9004,
                        Some(2_207_052),
                        &format!("The media could not be fetched from this URI: {url}: {why}"),
                    );
                }
                Fetched::File(file) => {
                    let jpeg = file.begins(&[0xff, 0xd8, 0xff]).unwrap_or(false);
                    if !new.is_video && (!jpeg || file.bytes > IMAGE_BYTES) {
                        return error(
                            400,
                            36_001,
                            Some(2_207_005),
                            "The image format is not supported. It must be JPEG of at most 8 MiB.",
                        );
                    }
                    let bytes = file.bytes;
                    match self.acts.keep_file(file).await {
                        Ok(digest) => media.push(Media {
                            digest,
                            alt: new.alt.clone(),
                            bytes,
                            mime: if new.is_video {
                                "video/mp4"
                            } else {
                                "image/jpeg"
                            }
                            .into(),
                        }),
                        Err(why) => return super::graph::usual(500, Some(&why.to_string())),
                    }
                }
            }
        }
        self.note(account, new, (media, failed))
    }

    fn note(
        &self,
        account: String,
        new: NewContainer,
        (mut media, failed): (Vec<Media>, Option<&str>),
    ) -> Answer {
        let mut side = held(&self.side);
        let now = self.clock.now();
        for id in &new.children {
            let child = side.containers.get(id);
            let child = child.filter(|it| it.act.account == account);
            let child = child.filter(|it| it.act.detail["is_carousel_item"] == true);
            let Some(child) = child else {
                return error(
                    400,
                    24,
                    Some(2_207_006),
                    &format!("The child {id} was not found"),
                );
            };
            if matches!(
                side.state(child, now),
                State::Error | State::Expired | State::Published
            ) {
                return error(
                    400,
                    9007,
                    Some(2_207_027),
                    &format!("The child {id} is not ready"),
                );
            }
            media.extend(child.media.iter().cloned());
        }
        let id = side.new_id(now).to_string();
        let draft = Draft {
            platform: NAME,
            op: "container.create",
            account,
            key: None,
            id: id.clone(),
            url: None,
            text: new.caption.clone(),
            media,
            detail: json!({
                "media_type": new.media_type, "product_type": new.product(), "url": new.url,
                "alt_text": new.alt, "is_carousel_item": new.is_item, "video": new.is_video,
                "resumable": new.resumable, "children": new.children, "failed": failed,
                "work_ms": self.settings.now().instagram_work_ms,
            }),
        };
        let act = self.acts.record(now, draft);
        side.apply(&act);
        if let Some(made) = side.containers.get_mut(&id)
            && new.is_video
            && failed.is_none()
        {
            made.looks = self.settings.now().instagram_looks;
        }
        let mut body = json!({"id": id});
        if new.resumable {
            body["uri"] = format!("{}/instagram/ig-api-upload/{VERSION}/{id}", self.base).into();
        }
        Answer::json(200, &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> Result<NewContainer, Answer> {
        NewContainer::read(value.as_object().expect("an object"))
    }

    #[test]
    fn sources_must_fit_the_type() {
        let (image, video) = ("https://e.example/a.jpg", "https://e.example/a.mp4");
        for good in [
            json!({"image_url": image, "caption": "x", "alt_text": "y"}),
            json!({"media_type": "REELS", "video_url": video}),
            json!({"media_type": "REELS", "upload_type": "resumable"}),
            json!({"media_type": "STORIES", "image_url": image}),
            json!({"media_type": "CAROUSEL", "children": "1,2"}),
            json!({"media_type": "VIDEO", "video_url": video, "is_carousel_item": "true"}),
        ] {
            assert!(read(good.clone()).is_ok(), "{good}");
        }
        for wrong in [
            json!({}),
            json!({"image_url": image, "video_url": video}),
            json!({"media_type": "REELS", "image_url": image}),
            json!({"media_type": "VIDEO", "video_url": video}),
            json!({"media_type": "STORIES"}),
            json!({"media_type": "CAROUSEL", "children": "1"}),
            json!({"image_url": image, "captoin": "x"}),
            json!({"image_url": image, "caption": "x".repeat(2201)}),
            json!({"image_url": image, "caption": "#a ".repeat(31)}),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_description_knows_every_parameter() {
        for node in ["IGUser", "IGUserForIGOnlyAPI"] {
            let path = format!("meta/graph-specs/{node}.json");
            let Some(text) = super::super::super::text::specification(&path) else {
                return;
            };
            let spec: Value = serde_json::from_str(&text).expect("JSON");
            let apis = spec["apis"].as_array().expect("apis");
            let media = apis
                .iter()
                .find(|api| api["method"] == "POST" && api["endpoint"] == "media");
            let params = media.expect("an edge")["params"]
                .as_array()
                .expect("params");
            let names: Vec<_> = params.iter().filter_map(|it| it["name"].as_str()).collect();
            assert_eq!(names, PARAMETERS);
        }
    }
}
