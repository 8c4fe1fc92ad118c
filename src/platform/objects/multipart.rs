//! Uploads in parts: begun, sent part by part in any number of attempts, completed or aborted.

use bytes::Bytes;
use chrono::DateTime;

use crate::clock::Time;
use crate::effect::Receipt;
use crate::json::Digest;
use crate::media::Media;
use crate::platform::http::{Body, Call};
use crate::platform::verdict::CallError;

use super::bucket::Bucket;
use super::object::Object;
use super::xml::{Element, escaped};

/// The smallest part but the last, by S3.
pub const PART_MIN: u64 = 5 << 20;
/// The largest part, by S3.
pub const PART_MAX: u64 = 5 << 30;
/// Parts of an object at most, by S3.
pub const PARTS_MAX: u64 = 10_000;
/// Pages of a list that are read at most: a thousand entries each.
const PAGES_MAX: usize = 11;

/// A part that the store has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number, from 1.
    pub number: u32,
    /// Its size in bytes.
    pub size: u64,
    /// The store's word for its content.
    pub etag: String,
}

/// An upload that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The store's id of it.
    pub id: String,
    /// When it began, by the store's clock, where it says so.
    pub at: Option<Time>,
}

/// Whether the store knows no such upload (any more): it was completed, aborted, or cleaned up.
pub fn is_gone(error: &CallError) -> bool {
    error.refusal() == Some("NoSuchUpload")
}

impl Bucket<'_> {
    /// Begins an upload; its id. Until it is completed nobody sees it.
    ///
    /// # Errors
    /// What was refused or lost; a lost answer may leave an upload that [`Bucket::unfinished`] finds.
    pub async fn begin(&self, object: &Object) -> Result<String, CallError> {
        self.begin_as(&object.key, |call| self.described(call, object))
            .await
    }

    /// As [`Bucket::begin`], for what is described otherwise.
    pub(super) async fn begin_as(
        &self,
        key: &str,
        described: impl FnOnce(Call) -> Call,
    ) -> Result<String, CallError> {
        let url = self.url(key, &[("uploads", "")]);
        let call = Call::post(url, Body::Empty, self.deadline).header("content-length", "0");
        let call = described(call);
        let answer = self.ask(call, Digest::of_bytes(b"")).await?;
        let told = Element::read(&answer.body);
        let id = told.as_ref().and_then(|it| it.get("UploadId"));
        let id = id.map(str::to_owned);
        id.ok_or_else(|| self.without(&answer, "the upload's id"))
    }

    /// Sends a part, whose bytes have this digest; sent again it replaces itself.
    ///
    /// # Errors
    /// What was refused ([`is_gone`]) or lost.
    pub async fn part(
        &self,
        object: &Object,
        upload: &str,
        part: (u32, std::ops::Range<u64>, Digest),
        media: &Media,
    ) -> Result<Part, CallError> {
        let (number, range, digest) = part;
        let size = range.end.saturating_sub(range.start);
        let body = object.body(media, range);
        self.put_part(&object.key, upload, number, (size, body, digest))
            .await
    }

    /// As [`Bucket::part`], from anywhere: its size, body and digest.
    pub(super) async fn put_part(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        (size, body, digest): (u64, Body, Digest),
    ) -> Result<Part, CallError> {
        let text = number.to_string();
        let url = self.url(key, &[("partNumber", &text), ("uploadId", upload)]);
        let call = Call::put(url, body, self.deadline);
        let answer = self.ask(call, digest).await?;
        let etag = answer.header("etag").map(str::to_owned);
        Ok(Part {
            number,
            size,
            etag: etag.ok_or_else(|| self.without(&answer, "the part's ETag"))?,
        })
    }

    /// The parts that the store has of an upload, by their numbers.
    ///
    /// # Errors
    /// What was refused ([`is_gone`]) or lost.
    pub async fn parts(&self, key: &str, upload: &str) -> Result<Vec<Part>, CallError> {
        let (mut parts, mut from) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let mut pairs = vec![("uploadId", upload)];
            if !from.is_empty() {
                pairs.push(("part-number-marker", &from));
            }
            let list = self.list(key, &pairs, "ListParts").await?;
            parts.extend(list.all("Part").filter_map(part));
            match list.get("NextPartNumberMarker") {
                Some(next) if list.get("IsTruncated") == Some("true") && next != from => {
                    from = next.to_owned();
                }
                _ => break,
            }
        }
        Ok(parts)
    }

    /// The uploads under exactly this key that were begun and neither completed nor aborted.
    ///
    /// # Errors
    /// What was refused or lost.
    pub async fn unfinished(&self, key: &str) -> Result<Vec<Open>, CallError> {
        let (mut found, mut from) = (Vec::new(), (String::new(), String::new()));
        for _ in 0..PAGES_MAX {
            let mut pairs = vec![("uploads", ""), ("prefix", key)];
            if !from.1.is_empty() {
                pairs.push(("key-marker", &from.0));
                pairs.push(("upload-id-marker", &from.1));
            }
            let list = self.list("", &pairs, "ListMultipartUploads").await?;
            let of_key = |it: &&Element| it.get("Key") == Some(key);
            found.extend(list.all("Upload").filter(of_key).filter_map(open));
            let next = (list.get("NextKeyMarker"), list.get("NextUploadIdMarker"));
            match next {
                // keys come in order, and ours is the first with this prefix
                (Some(k), Some(id)) if list.get("IsTruncated") == Some("true") && k == key => {
                    from = (k.to_owned(), id.to_owned());
                }
                _ => break,
            }
        }
        Ok(found)
    }

    /// The uploads below a prefix that were begun and neither completed nor aborted, each with its key:
    /// a thousand at most.
    ///
    /// # Errors
    /// What was refused or lost.
    pub(super) async fn all_unfinished(
        &self,
        prefix: &str,
    ) -> Result<Vec<(String, Open)>, CallError> {
        let pairs = [("uploads", ""), ("prefix", prefix)];
        let list = self.list("", &pairs, "ListMultipartUploads").await?;
        let named = |it: &Element| Some((it.get("Key")?.to_owned(), open(it)?));
        let found = list.all("Upload").filter_map(named);
        // not every store keeps to the prefix
        Ok(found.filter(|it| it.0.starts_with(prefix)).collect())
    }

    pub(super) async fn list(
        &self,
        key: &str,
        pairs: &[(&str, &str)],
        root: &str,
    ) -> Result<Element, CallError> {
        let call = Call::get(self.url(key, pairs), self.deadline).at_most(4 << 20);
        let answer = self.ask(call, Digest::of_bytes(b"")).await?;
        // `ListPartsResult`; some say `ListPartsResponse`
        let list = Element::read(&answer.body).filter(|it| it.name.starts_with(root));
        list.ok_or_else(|| self.without(&answer, root))
    }

    /// Makes the object of its parts: from now on it is seen.
    ///
    /// # Errors
    /// What was refused ([`super::bucket::is_taken`], [`is_gone`]), in a 200 as well; or lost.
    pub async fn complete(
        &self,
        object: &Object,
        upload: &str,
        parts: &[Part],
    ) -> Result<Receipt, CallError> {
        let conditioned = |call| self.conditioned(call, object);
        let (etag, at) = self
            .complete_as(&object.key, upload, parts, conditioned)
            .await?;
        Ok(self.receipt(object, etag, at))
    }

    /// As [`Bucket::complete`], under a condition of the caller's; the object's ETag, and when.
    pub(super) async fn complete_as(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        conditioned: impl FnOnce(Call) -> Call,
    ) -> Result<(Option<String>, Time), CallError> {
        let part = |it: &Part| {
            let (number, etag) = (it.number, escaped(&it.etag));
            format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
        };
        let parts: String = parts.iter().map(part).collect();
        let body = Bytes::from(format!(
            "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{parts}</CompleteMultipartUpload>"
        ));
        let digest = Digest::of_bytes(&body);
        let url = self.url(key, &[("uploadId", upload)]);
        let body = Body::Bytes("application/xml".to_owned(), body);
        let call = Call::post(url, body, self.deadline);
        let answer = self.ask(conditioned(call), digest).await?;
        let told = Element::read(&answer.body);
        let told = told.filter(|it| it.name == "CompleteMultipartUploadResult");
        let told = told.ok_or_else(|| self.without(&answer, "the object's ETag"))?;
        Ok((told.get("ETag").map(str::to_owned), answer.at))
    }

    /// Gives an upload up, with its parts; one that is gone already is as good.
    ///
    /// # Errors
    /// What was refused or lost.
    pub async fn abort(&self, key: &str, upload: &str) -> Result<(), CallError> {
        let call = Call::delete(self.url(key, &[("uploadId", upload)]), self.deadline);
        match self.ask(call, Digest::of_bytes(b"")).await {
            Ok(_) => Ok(()),
            Err(e) if is_gone(&e) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

fn part(it: &Element) -> Option<Part> {
    Some(Part {
        number: it.get("PartNumber")?.parse().ok()?,
        size: it.get("Size")?.parse().ok()?,
        etag: it.get("ETag")?.to_owned(),
    })
}

fn open(it: &Element) -> Option<Open> {
    let at = it.get("Initiated").map(DateTime::parse_from_rfc3339);
    Some(Open {
        id: it.get("UploadId")?.to_owned(),
        at: at.and_then(Result::ok).map(Into::into),
    })
}
