//! The resumable upload of a container's bytes, as rupload.facebook.com takes them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::{
    acts::{Draft, Media, held},
    exchange::Answer,
    spool::Spooled,
};
use super::side::{Container, Instagram, NAME};

/// A piece of a file that came.
#[derive(Debug)]
pub(in super::super) struct Piece {
    pub(super) offset: u64,
    pub(super) file_size: u64,
    pub(super) file: Arc<Spooled>,
}

/// An error as the upload service words it.
pub(super) fn refuse(status: u16, kind: &str, retriable: bool, message: &str) -> Answer {
    let body = json!({"debug_info": {"retriable": retriable, "type": kind, "message": message}});
    Answer::json(status, &body)
}

impl Instagram {
    /// Takes a piece at the offset where the last one ended. Of a piece whose connection died, what
    /// came is kept, too.
    pub(super) async fn transfer(&self, account: &str, id: &str, piece: Piece) -> Answer {
        let failed = |why: std::io::Error| refuse(500, "InternalError", true, &why.to_string());
        let found = held(&self.side).containers.get(id).cloned();
        let Some(container) = found.filter(|it| it.act.account == account && it.waiting) else {
            let why = format!("{id} waits for no upload");
            return refuse(400, "NotAuthorizedError", false, &why);
        };
        let here = container.transferred();
        if piece.offset != here || here + piece.file.bytes > piece.file_size {
            let why = format!(
                "offset {} does not fit: {here} bytes are here",
                piece.offset
            );
            return refuse(400, "OffsetInvalidError", true, &why);
        }
        let (cut, bytes) = (piece.file.cut, piece.file.bytes);
        let digest = match self.acts.keep_file(piece.file).await {
            Ok(digest) => digest,
            Err(why) => return failed(why),
        };
        let chunk = Media {
            digest: digest.clone(),
            alt: String::new(),
            bytes,
            mime: "application/octet-stream".into(),
        };
        if !self.uploaded("container.transfer", &container, chunk, here) {
            return refuse(400, "OffsetInvalidError", true, "another piece came first");
        }
        if here + bytes == piece.file_size && !cut {
            let before = container.chunks.iter().map(|(digest, _)| digest);
            let all = before.chain([&digest]);
            let parts = all.filter_map(|it| self.acts.media_path(it)).collect();
            let whole = match self.spool.joined(parts).await {
                Ok(whole) => Arc::new(whole),
                Err(why) => return failed(why),
            };
            let digest = match self.acts.keep_file(whole).await {
                Ok(digest) => digest,
                Err(why) => return failed(why),
            };
            let media = Media {
                digest,
                alt: container.detail("alt_text").to_owned(),
                bytes: piece.file_size,
                mime: "video/mp4".into(),
            };
            self.uploaded("container.upload", &container, media, piece.file_size);
        }
        Answer::json(
            200,
            &json!({"success": true, "message": "Upload successful."}),
        )
    }

    /// Notes what came, unless something else came to the same place first.
    fn uploaded(&self, op: &'static str, container: &Container, media: Media, at: u64) -> bool {
        let mut side = held(&self.side);
        let now = side.containers.get(&container.act.id);
        if now.is_none_or(|it| !it.waiting || it.transferred() != at) {
            return false;
        }
        let draft = Draft {
            platform: NAME,
            op,
            account: container.act.account.clone(),
            key: None,
            id: container.act.id.clone(),
            url: None,
            text: String::new(),
            media: vec![media],
            detail: json!({"offset": at}),
        };
        let act = self.acts.record(self.clock.now(), draft);
        side.apply(&act);
        true
    }
}

/// How far the upload of a container is, as `video_status` has it.
pub(super) fn video_status(container: &Container) -> Value {
    let phase = |done: bool| if done { "complete" } else { "in_progress" };
    let here = !container.waiting;
    json!({
        "uploading_phase": {
            "status": phase(here), "bytes_transferred": container.transferred(),
        },
        "processing_phase": {
            "status": if here { phase(container.looks == 0) } else { "not_started" },
        },
    })
}
