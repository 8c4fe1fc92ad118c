//! Uploads in parts: begun, filled, listed, completed, aborted.

use std::sync::Arc;

use md5::Md5;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::{
    acts::{Draft, Media, held},
    exchange::Answer,
    spool::Spooled,
    text::hex,
};
use super::{
    input::Condition,
    objects::{allowed, url},
    side::{NAME, Part, Place, S3, Upload, base64_of, unhex},
    xml::{Named, document, empty, error, tag, time, usual},
};

/// Bytes of every part but the last, at least.
const PART_BYTES: u64 = 5 * 1024 * 1024;
/// Parts of an upload.
pub(super) const PARTS: u16 = 10_000;

fn no_upload(id: &str) -> Answer {
    error(
        404,
        "NoSuchUpload",
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.",
        &[("UploadId", id)],
    )
}

impl S3 {
    fn upload(&self, place: &Place, id: &str) -> Result<Upload, Answer> {
        let side = held(&self.side);
        let found = side.uploads.get(id).filter(|it| it.place == *place);
        found.cloned().ok_or_else(|| no_upload(id))
    }

    /// Begins an upload.
    pub(super) fn create(
        &self,
        account: String,
        place: &Place,
        about: Value,
        summed: bool,
    ) -> Answer {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let draft = Draft {
            platform: NAME,
            op: "upload.create",
            account,
            key: Some(place.id()),
            id: id.clone(),
            url: None,
            text: place.key.clone(),
            media: vec![],
            detail: json!({
                "bucket": place.bucket, "key": place.key, "about": about, "summed": summed,
            }),
        };
        let act = self.acts.record(self.clock.now(), draft);
        held(&self.side).apply(&act);
        let content = tag("Bucket", &place.bucket) + &tag("Key", &place.key) + &tag("UploadId", id);
        let answer = document("InitiateMultipartUploadResult", &content);
        match summed {
            true => answer.with("x-amz-checksum-algorithm", "SHA256"),
            false => answer,
        }
    }

    /// Takes a part; the same number again replaces it.
    pub(super) async fn part(
        &self,
        place: &Place,
        id: &str,
        number: u16,
        file: Arc<Spooled>,
        summed: bool,
    ) -> Answer {
        let upload = match self.upload(place, id) {
            Ok(upload) => upload,
            Err(refusal) => return refusal,
        };
        let (bytes, etag, digest) = (file.bytes, hex(&file.md5), file.digest());
        if let Err(why) = self.spool.keep_part(file, id).await {
            return usual(500, Some(&why.to_string()));
        }
        let mut side = held(&self.side);
        if !side.uploads.contains_key(id) {
            return no_upload(id);
        }
        let draft = Draft {
            platform: NAME,
            op: "upload.part",
            account: upload.act.account.clone(),
            key: Some(place.id()),
            id: id.to_owned(),
            url: None,
            text: place.key.clone(),
            media: vec![Media {
                digest: digest.clone(),
                alt: String::new(),
                bytes,
                mime: "application/octet-stream".into(),
            }],
            detail: json!({"part": number, "etag": etag}),
        };
        let act = self.acts.record(self.clock.now(), draft);
        side.apply(&act);
        let answer = empty(200).with("etag", format!("\"{etag}\""));
        match summed {
            true => answer.with("x-amz-checksum-sha256", base64_of(&digest)),
            false => answer,
        }
    }

    /// ListParts.
    pub(super) fn parts(&self, place: &Place, id: &str, after: u16, most: usize) -> Answer {
        let upload = match self.upload(place, id) {
            Ok(upload) => upload,
            Err(refusal) => return refusal,
        };
        let summed = upload.act.detail["summed"] == true;
        let mut rest = upload.parts.iter().filter(|(number, _)| **number > after);
        let shown: Vec<(&u16, &Part)> = rest.by_ref().take(most).collect();
        let more = rest.next().is_some();
        let mut content = tag("Bucket", &place.bucket)
            + &tag("Key", &place.key)
            + &tag("UploadId", id)
            + &tag("PartNumberMarker", after)
            + &tag("MaxParts", most)
            + &tag("IsTruncated", more)
            + &tag("StorageClass", "STANDARD");
        if let Some((last, _)) = shown.last() {
            content.push_str(&tag("NextPartNumberMarker", last));
        }
        if summed {
            content.push_str(&tag("ChecksumAlgorithm", "SHA256"));
        }
        for (number, part) in shown {
            let mut inner = tag("PartNumber", number)
                + &tag("LastModified", time(part.act.at))
                + &tag("ETag", format!("\"{}\"", part.etag))
                + &tag("Size", part.bytes);
            if summed {
                inner.push_str(&tag("ChecksumSHA256", base64_of(&part.digest)));
            }
            content.push_str(&format!("<Part>{inner}</Part>"));
        }
        document("ListPartsResult", &content)
    }

    /// ListMultipartUploads: all that begin so, in one page.
    pub(super) fn uploads(&self, bucket: &str, prefix: &str) -> Answer {
        let side = held(&self.side);
        let mut found: Vec<(&String, &Upload)> = side
            .uploads
            .iter()
            .filter(|(_, it)| it.place.bucket == bucket && it.place.key.starts_with(prefix))
            .collect();
        found.sort_by_key(|(_, it)| (&it.place.key, it.act.at));
        let mut content = tag("Bucket", bucket)
            + &tag("Prefix", prefix)
            + &tag("MaxUploads", found.len().max(1000))
            + &tag("IsTruncated", false);
        for (id, upload) in found {
            let inner = tag("Key", &upload.place.key)
                + &tag("UploadId", id)
                + &tag("StorageClass", "STANDARD")
                + &tag("Initiated", time(upload.act.at));
            content.push_str(&format!("<Upload>{inner}</Upload>"));
        }
        document("ListMultipartUploadsResult", &content)
    }

    /// Makes one object of the parts. Of an upload that is complete already it knows nothing.
    pub(super) async fn complete(
        &self,
        account: String,
        place: &Place,
        id: &str,
        (named, condition): (Vec<Named>, Condition),
    ) -> Answer {
        let upload = match self.upload(place, id) {
            Ok(upload) => upload,
            Err(refusal) => return refusal,
        };
        let chosen = match choose(&upload, &named) {
            Ok(chosen) => chosen,
            Err(refusal) => return refusal,
        };
        if let Err(refusal) = allowed(&condition, held(&self.side).objects.get(place)) {
            return refusal;
        }
        let files = chosen.iter().map(|part| self.spool.part(id, &part.digest));
        let whole = match self.spool.joined(files.collect()).await {
            Ok(whole) => Arc::new(whole),
            Err(why) => return usual(500, Some(&why.to_string())),
        };
        let bytes = whole.bytes;
        let digest = match self.acts.keep_file(whole).await {
            Ok(digest) => digest,
            Err(why) => return usual(500, Some(&why.to_string())),
        };
        let (etag, checksum) = composite(&chosen);
        let checksum = (upload.act.detail["summed"] == true).then_some(checksum);
        {
            let mut side = held(&self.side);
            if !side.uploads.contains_key(id) {
                return no_upload(id);
            }
            // somebody may have come first while the file was made
            if let Err(refusal) = allowed(&condition, side.objects.get(place)) {
                return refusal;
            }
            let detail = json!({
                "etag": etag, "checksum": checksum, "about": upload.act.detail["about"],
                "upload": id, "parts": chosen.len(),
            });
            let draft = self.object("upload.complete", account, place, (digest, bytes), detail);
            let act = self.acts.record(self.clock.now(), draft);
            side.apply(&act);
        }
        self.spool.drop_parts(id).await;
        let mut content = tag("Location", url(&self.base, place))
            + &tag("Bucket", &place.bucket)
            + &tag("Key", &place.key)
            + &tag("ETag", format!("\"{etag}\""));
        if let Some(sum) = checksum {
            content.push_str(&tag("ChecksumSHA256", sum));
            content.push_str(&tag("ChecksumType", "COMPOSITE"));
        }
        document("CompleteMultipartUploadResult", &content)
    }

    /// Forgets an upload with its parts.
    pub(super) async fn abort(&self, account: String, place: &Place, id: &str) -> Answer {
        if let Err(refusal) = self.upload(place, id) {
            return refusal;
        }
        {
            let mut side = held(&self.side);
            let draft = Draft {
                platform: NAME,
                op: "upload.abort",
                account,
                key: Some(place.id()),
                id: id.to_owned(),
                url: None,
                text: place.key.clone(),
                media: vec![],
                detail: json!({"bucket": place.bucket, "key": place.key}),
            };
            let act = self.acts.record(self.clock.now(), draft);
            side.apply(&act);
        }
        self.spool.drop_parts(id).await;
        empty(204)
    }
}

/// The parts that a completion names, checked as S3 checks them, and as R2 does: all but the last
/// have one size.
fn choose<'a>(upload: &'a Upload, named: &[Named]) -> Result<Vec<&'a Part>, Answer> {
    let wrong = |why: &str| error(400, "InvalidPart", why, &[]);
    if named.windows(2).any(|two| two[0].number >= two[1].number) {
        let why =
            "The list of parts was not in ascending order. Parts must be ordered by part number.";
        return Err(error(400, "InvalidPartOrder", why, &[]));
    }
    let mut chosen: Vec<&Part> = Vec::new();
    for name in named {
        let part = upload.parts.get(&name.number);
        let part = part.filter(|part| part.etag == name.etag);
        let same = |part: &&Part| {
            let sum = name.sha256.as_ref();
            sum.is_none_or(|sum| *sum == base64_of(&part.digest))
        };
        chosen.push(part.filter(same).ok_or_else(|| {
            wrong("One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag.")
        })?);
    }
    let (_, before) = chosen
        .split_last()
        .ok_or_else(|| wrong("There are no parts."))?;
    if before.iter().any(|part| part.bytes < PART_BYTES) {
        let why = "Your proposed upload is smaller than the minimum allowed size";
        return Err(error(400, "EntityTooSmall", why, &[]));
    }
    if before.windows(2).any(|two| two[0].bytes != two[1].bytes) {
        return Err(wrong("All non-trailing parts must have the same length."));
    }
    Ok(chosen)
}

/// The ETag and the checksum of a whole: sums of its parts' sums.
fn composite(parts: &[&Part]) -> (String, String) {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let (mut md5, mut sha256) = (Md5::new(), Sha256::new());
    for part in parts {
        md5.update(unhex(&part.etag));
        sha256.update(unhex(&part.digest));
    }
    let count = parts.len();
    (
        format!("{}-{count}", hex(&md5.finalize())),
        format!("{}-{count}", STANDARD.encode(sha256.finalize())),
    )
}
