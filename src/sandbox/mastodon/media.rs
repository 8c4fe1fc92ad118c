//! Uploading, looking at and describing media.

use serde_json::{Map, Value, json};

use super::super::{
    acts::{Draft, Media, held},
    exchange::Answer,
    form::Form,
    text::graphemes,
};
use super::{
    entities::{DESCRIPTION, IMAGE_BYTES, VIDEO_BYTES, attachment, type_of},
    side::{Mastodon, NAME, Side, refuse},
    status::string,
};

/// What a form says about a file.
#[derive(Debug, Default)]
pub(in super::super) struct About {
    pub(super) description: Option<String>,
    pub(super) focus: Option<(f64, f64)>,
}

/// A file that may be kept.
#[derive(Debug)]
pub(in super::super) struct NewMedia {
    mime: String,
    bytes: bytes::Bytes,
    about: About,
}

impl About {
    /// Reads `description` and `focus`; anything else is refused.
    pub(super) fn read(fields: &Map<String, Value>) -> Result<About, String> {
        if let Some(name) = fields
            .keys()
            .find(|name| !matches!(name.as_str(), "description" | "focus"))
        {
            return Err(format!("Validation failed: unknown parameter {name}"));
        }
        let description = string(fields, "description")?;
        if description
            .as_deref()
            .is_some_and(|text| graphemes(text) > DESCRIPTION)
        {
            return Err(format!(
                "Validation failed: Description is too long (maximum is {DESCRIPTION} characters)"
            ));
        }
        let focus = string(fields, "focus")?
            .map(|text| focus(&text))
            .transpose()?;
        Ok(About { description, focus })
    }
}

fn focus(text: &str) -> Result<(f64, f64), String> {
    let wrong = || {
        "Validation failed: Focus must be two numbers from -1.0 to 1.0 with a comma between"
            .to_owned()
    };
    let (x, y) = text.split_once(',').ok_or_else(wrong)?;
    let read = |part: &str| {
        part.trim()
            .parse::<f64>()
            .ok()
            .filter(|n| (-1.0..=1.0).contains(n))
            .ok_or_else(wrong)
    };
    Ok((read(x)?, read(y)?))
}

impl NewMedia {
    /// Checks an upload as Mastodon checks it: one file, a known type, a size below its limit.
    pub(super) fn read(form: Form) -> Result<NewMedia, String> {
        let mut file = None;
        for upload in form.files {
            match upload.field.as_str() {
                "file" if file.is_none() => file = Some(upload),
                "thumbnail" => {
                    return Err("Validation failed: this sandbox keeps no thumbnails".into());
                }
                other => return Err(format!("Validation failed: unknown parameter {other}")),
            }
        }
        let file = file.ok_or("Validation failed: File can't be blank")?;
        let mime = file
            .mime
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let Some(kind) = type_of(&mime) else {
            return Err("Validation failed: File content type is invalid, File is invalid".into());
        };
        if magic(&file.bytes).is_some_and(|real| real != mime) {
            return Err(format!(
                "Validation failed: File has contents that are not what they are reported to be ({mime})"
            ));
        }
        let (most, what) = if kind == "image" {
            (IMAGE_BYTES, "image")
        } else {
            (VIDEO_BYTES, "video")
        };
        if file.bytes.is_empty() {
            return Err("Validation failed: File can't be blank".into());
        }
        if file.bytes.len() > most {
            return Err(format!(
                "Validation failed: File file size must be less than {most} bytes for an {what}"
            ));
        }
        Ok(NewMedia {
            mime,
            bytes: file.bytes,
            about: About::read(&form.fields)?,
        })
    }
}

/// The type that the first bytes give away, for those types whose bytes do.
fn magic(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => Some("image/webp"),
        _ => None,
    }
}

impl Mastodon {
    /// Keeps a file. Pictures are ready at once, everything else is processed first.
    pub(super) async fn upload(&self, account: String, new: NewMedia) -> Answer {
        let size = new.bytes.len() as u64;
        let digest = match self.acts.keep_media(new.bytes).await {
            Ok(digest) => digest,
            Err(error) => return refuse(500, &format!("The file could not be kept: {error}")),
        };
        let media = Media {
            digest,
            alt: new.about.description.unwrap_or_default(),
            bytes: size,
            mime: new.mime,
        };
        let mut side = held(&self.side);
        let now = self.clock.now();
        let id = side.new_id(now).to_string();
        let act = self.acts.record(
            now,
            Draft {
                platform: NAME,
                op: "media.create",
                account,
                key: None,
                id: id.clone(),
                url: Some(format!("{}/media/{}", self.base, media.digest)),
                text: media.alt.clone(),
                media: vec![media],
                detail: json!({"focus": new.about.focus.map(|(x, y)| [x, y])}),
            },
        );
        side.apply(&act);
        let Some(kept) = side.media.get_mut(&id) else {
            return refuse(500, "The file was lost.");
        };
        kept.processing = type_of(&kept.media.mime) != Some("image");
        let status = if kept.processing { 202 } else { 200 };
        Answer::json(
            status,
            &attachment(&id, &kept.media, kept.focus, &self.base, !kept.processing),
        )
    }

    /// One look at a file: the first look at one in processing still says so.
    pub(super) fn look(&self, account: &str, id: &str) -> Answer {
        let mut side = held(&self.side);
        let Some(kept) = side
            .media
            .get_mut(id)
            .filter(|kept| kept.account == account && !kept.attached)
        else {
            return refuse(404, "Record not found");
        };
        let ready = !std::mem::take(&mut kept.processing);
        let status = if ready { 200 } else { 206 };
        Answer::json(
            status,
            &attachment(id, &kept.media, kept.focus, &self.base, ready),
        )
    }

    /// Changes a description or focus while the file is not attached.
    pub(super) fn describe(&self, account: &str, id: &str, about: About) -> Answer {
        let mut side = held(&self.side);
        let Some(kept) = side
            .media
            .get(id)
            .filter(|kept| kept.account == account && !kept.attached)
        else {
            return refuse(404, "Record not found");
        };
        let mut media = kept.media.clone();
        media.alt = about.description.unwrap_or(media.alt);
        let focus = about.focus.or(kept.focus);
        let act = self.acts.record(
            self.clock.now(),
            Draft {
                platform: NAME,
                op: "media.update",
                account: account.to_owned(),
                key: None,
                id: id.to_owned(),
                url: Some(format!("{}/media/{}", self.base, media.digest)),
                text: media.alt.clone(),
                media: vec![media],
                detail: json!({"focus": focus.map(|(x, y)| [x, y])}),
            },
        );
        side.apply(&act);
        let shown = side
            .media
            .get(id)
            .map(|kept| attachment(id, &kept.media, kept.focus, &self.base, !kept.processing));
        shown.map_or_else(
            || refuse(404, "Record not found"),
            |shown| Answer::json(200, &shown),
        )
    }

    /// The files of a new status, in its order; the error is the sentence of a 422.
    pub(super) fn attach(
        &self,
        account: &str,
        ids: &[String],
        side: &Side,
    ) -> Result<Vec<Media>, String> {
        let mut files = Vec::new();
        for id in ids {
            let kept = side
                .media
                .get(id)
                .filter(|kept| kept.account == account && !kept.attached);
            let kept = kept.ok_or_else(|| {
                format!(
                    "Validation failed: Media {id} not found or already attached to another post"
                )
            })?;
            if kept.processing {
                return Err("Validation failed: Cannot attach files that have not finished processing. Try again in a moment!".into());
            }
            files.push(kept.media.clone());
        }
        let mut unique: Vec<_> = ids.iter().collect();
        unique.sort();
        unique.dedup();
        if unique.len() < ids.len() {
            return Err("Validation failed: a file was named twice".into());
        }
        if files.len() > 1
            && files
                .iter()
                .any(|media| type_of(&media.mime) != Some("image"))
        {
            return Err(
                "Validation failed: Cannot attach a video to a post that already contains images"
                    .into(),
            );
        }
        Ok(files)
    }
}
