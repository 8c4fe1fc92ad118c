//! Uploading: initialize, append, finalize, status, alt text, and the one-shot upload.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::super::{
    acts::{Draft, Media, held},
    exchange::Answer,
};
use super::{
    input::NewUpload,
    problem::{invalid, missing, usual},
    side::{Held, NAME, Progress, SESSION_S, X},
};

/// Bytes of one segment: the rule of the older API, of which the newer says nothing.
pub(super) const SEGMENT_BYTES: usize = 5 * 1024 * 1024;
/// Looks until a video is ready.
const LOOKS: u8 = 2;

impl X {
    /// Begins an upload.
    pub(super) fn initialize(&self, account: &str, new: &NewUpload) -> Answer {
        let (id, media_key) = self.begin(account, new);
        let data = json!({"id": id, "media_key": media_key, "expires_after_secs": SESSION_S});
        Answer::json(200, &json!({"data": data}))
    }

    fn begin(&self, account: &str, new: &NewUpload) -> (String, String) {
        let mut side = held(&self.side);
        let now = self.clock.now();
        let id = side.new_id(now).to_string();
        let kind = match new.category.split('_').next_back() {
            Some("gif") => 16,
            Some("video") => 7,
            _ => 3,
        };
        let media_key = format!("{kind}_{id}");
        let draft = Draft {
            platform: NAME,
            op: "media.initialize",
            account: account.to_owned(),
            key: None,
            id: id.clone(),
            url: None,
            text: String::new(),
            media: vec![],
            detail: json!({
                "media_key": media_key, "media_category": new.category,
                "media_type": new.mime, "total_bytes": new.total,
            }),
        };
        side.apply(&self.acts.record(now, draft));
        (id, media_key)
    }

    /// The upload of an account, while it may be used.
    fn mine(&self, account: &str, id: &str) -> Result<Held, Answer> {
        let side = held(&self.side);
        let found = side.media.get(id).filter(|it| it.account == account);
        match found {
            Some(it) if it.expires > self.clock.now() => Ok(it.clone()),
            _ => Err(missing("media", "id", id)),
        }
    }

    /// Takes one segment; the same one may come again.
    pub(super) async fn append(&self, account: &str, id: &str, at: u64, bytes: Bytes) -> Answer {
        let upload = match self.mine(account, id) {
            Ok(upload) => upload,
            Err(refusal) => return refusal,
        };
        if upload.media.is_some() {
            return invalid("The upload is finalized already.");
        }
        let size = bytes.len() as u64;
        let others = upload.segments.iter().filter(|(index, _)| **index != at);
        let before: u64 = others.map(|(_, (_, bytes))| bytes).sum();
        if before + size > upload.total {
            return invalid("Segments exceed the total_bytes of the upload.");
        }
        let digest = match self.acts.keep_media(bytes).await {
            Ok(digest) => digest,
            Err(error) => return usual(500, Some(&error.to_string())),
        };
        let chunk = Media {
            digest,
            alt: String::new(),
            bytes: size,
            mime: "application/octet-stream".into(),
        };
        self.note(
            "media.append",
            account,
            id,
            (String::new(), vec![chunk]),
            json!({"segment_index": at}),
        );
        let expires = upload.expires.timestamp();
        Answer::json(200, &json!({"data": {"expires_at": expires}}))
    }

    fn note(
        &self,
        op: &'static str,
        account: &str,
        id: &str,
        (text, media): (String, Vec<Media>),
        detail: Value,
    ) {
        let mut side = held(&self.side);
        let url = (op == "media.finalize")
            .then(|| {
                media
                    .first()
                    .map(|it| format!("{}/media/{}", self.base, it.digest))
            })
            .flatten();
        let draft = Draft {
            platform: NAME,
            op,
            account: account.to_owned(),
            key: None,
            id: id.to_owned(),
            url,
            text,
            media,
            detail,
        };
        let act = self.acts.record(self.clock.now(), draft);
        side.apply(&act);
    }

    /// Joins the segments. Repeated, it answers as the first time.
    pub(super) async fn finalize(&self, account: &str, id: &str) -> Answer {
        let upload = match self.mine(account, id) {
            Ok(upload) => upload,
            Err(refusal) => return refusal,
        };
        if upload.media.is_some() {
            return self.told(id, &upload);
        }
        let whole = upload
            .segments
            .values()
            .map(|(_, bytes)| bytes)
            .sum::<u64>();
        let gap = upload
            .segments
            .keys()
            .zip(0..)
            .any(|(is, should)| *is != should);
        if whole != upload.total || gap {
            return invalid(&format!("{whole} of {} bytes were appended.", upload.total));
        }
        let digests = upload.segments.values().map(|(digest, _)| digest);
        let parts = digests.filter_map(|digest| self.acts.media_path(digest));
        let joined = match self.spool.joined(parts.collect()).await {
            Ok(joined) => Arc::new(joined),
            Err(error) => return usual(500, Some(&error.to_string())),
        };
        let digest = match self.acts.keep_file(joined).await {
            Ok(digest) => digest,
            Err(error) => return usual(500, Some(&error.to_string())),
        };
        let media = Media {
            digest,
            alt: upload.alt,
            bytes: whole,
            mime: upload.mime,
        };
        self.note(
            "media.finalize",
            account,
            id,
            (String::new(), vec![media]),
            json!({}),
        );
        let mut side = held(&self.side);
        let Some(kept) = side.media.get_mut(id) else {
            return missing("media", "id", id);
        };
        if !kept.category.ends_with("image") && kept.category != "subtitles" {
            kept.progress = Progress::Processing(LOOKS);
        }
        let kept = kept.clone();
        drop(side);
        self.told(id, &kept)
    }

    /// One look at an upload: a video is ready at the second.
    pub(super) fn status(&self, account: &str, id: &str) -> Answer {
        if let Err(refusal) = self.mine(account, id) {
            return refusal;
        }
        let mut side = held(&self.side);
        let Some(kept) = side.media.get_mut(id) else {
            return missing("media", "id", id);
        };
        let was = kept.clone();
        if let Progress::Processing(looks) = kept.progress {
            kept.progress = match looks {
                0 | 1 => Progress::Ready,
                more => Progress::Processing(more - 1),
            };
        }
        let now = kept.clone();
        drop(side);
        let mut answer = self.state(id, &now);
        if was.media.is_some() && !matches!(was.category.as_str(), "tweet_image" | "dm_image") {
            answer["processing_info"] = match now.progress {
                Progress::Processing(_) => {
                    json!({"state": "in_progress", "check_after_secs": 1, "progress_percent": 50})
                }
                _ => json!({"state": "succeeded", "progress_percent": 100}),
            };
        }
        Answer::json(200, &json!({"data": answer}))
    }

    fn state(&self, id: &str, upload: &Held) -> Value {
        let left = (upload.expires - self.clock.now()).num_seconds();
        let mut data = json!({
            "id": id, "media_key": upload.media_key, "expires_after_secs": left.max(0),
        });
        if let Some(media) = &upload.media {
            data["size"] = media.bytes.into();
        }
        data
    }

    /// The answer of finalize.
    fn told(&self, id: &str, upload: &Held) -> Answer {
        let mut data = self.state(id, upload);
        if matches!(upload.progress, Progress::Processing(_)) {
            data["processing_info"] = json!({"state": "pending", "check_after_secs": 1});
        }
        Answer::json(200, &json!({"data": data}))
    }

    /// The one-shot upload: what three requests do, for a picture.
    pub(super) async fn upload(&self, account: &str, new: &NewUpload, bytes: Bytes) -> Answer {
        let (id, _) = self.begin(account, new);
        let appended = self.append(account, &id, 0, bytes).await;
        if !appended.succeeded() {
            return appended;
        }
        self.finalize(account, &id).await
    }

    /// Sets the alt text.
    pub(super) fn describe(&self, account: &str, id: &str, alt: String) -> Answer {
        if let Err(refusal) = self.mine(account, id) {
            return refusal;
        }
        let metadata = json!({"alt_text": {"text": alt}});
        self.note("media.describe", account, id, (alt, vec![]), json!({}));
        let data = json!({"id": id, "associated_metadata": metadata});
        Answer::json(200, &json!({"data": data}))
    }

    /// The files of a new post with their keys, in its order.
    pub(super) fn attach(
        &self,
        account: &str,
        ids: &[String],
    ) -> Result<Vec<(String, Media)>, Answer> {
        let wrong = || invalid("Your media IDs are invalid.");
        let mut files: Vec<(String, Media)> = Vec::new();
        let mut moving = false;
        for id in ids {
            let upload = self.mine(account, id).map_err(|_| wrong())?;
            let Some(media) = upload.media.filter(|_| upload.progress == Progress::Ready) else {
                return Err(wrong());
            };
            if !upload.category.starts_with("tweet_") && upload.category != "amplify_video" {
                return Err(wrong());
            }
            moving |= !upload.category.ends_with("image");
            files.push((
                upload.media_key,
                Media {
                    alt: upload.alt,
                    ..media
                },
            ));
        }
        if moving && files.len() > 1 {
            return Err(invalid(
                "A post carries up to 4 pictures, or one GIF, or one video.",
            ));
        }
        let mut unique: Vec<_> = ids.iter().collect();
        unique.sort();
        unique.dedup();
        if unique.len() < ids.len() {
            return Err(invalid("A media ID was named twice."));
        }
        Ok(files)
    }
}
