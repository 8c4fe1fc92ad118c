//! Objects: put, looked at, fetched, listed, deleted.

use std::sync::Arc;

use axum::http::Method;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::super::{
    acts::{Act, Draft, Media, held},
    exchange::{Answer, Request, Slice},
    spool::Spooled,
    text::hex,
};
use super::{
    input::Condition,
    side::{NAME, Place, S3, Side, base64_of, pairs},
    sign::encode,
    xml::{document, empty, error, tag, time, usual},
};

/// An object that may be put.
#[derive(Debug)]
pub(in super::super) struct NewObject {
    pub(super) place: Place,
    pub(super) file: Arc<Spooled>,
    /// Kept headers and metadata.
    pub(super) about: Value,
    pub(super) condition: Condition,
    /// Whether its checksum was sent along.
    pub(super) summed: bool,
}

/// A look at an object.
#[derive(Debug)]
pub(in super::super) struct Look {
    pub(super) place: Place,
    pub(super) head: bool,
    range: Option<(Option<u64>, Option<u64>)>,
    none_match: Option<String>,
    condition: Option<String>,
    checksum: bool,
}

impl Look {
    pub(super) fn read(request: &Request, place: Place) -> Look {
        let etag = |name| {
            request
                .header(name)
                .map(|it| it.trim_matches('"').to_owned())
        };
        Look {
            place,
            head: request.method == Method::HEAD,
            range: request.header("range").and_then(range),
            none_match: etag("if-none-match"),
            condition: etag("if-match"),
            checksum: request.header("x-amz-checksum-mode") == Some("ENABLED"),
        }
    }
}

/// Reads `bytes=a-b`, `bytes=a-` or `bytes=-n`; several ranges aren't taken.
fn range(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| match text {
        "" => Some(None),
        text => text.parse().ok().map(Some),
    };
    Some((number(from)?, number(to)?))
}

/// Whether a write may go ahead over what is there.
pub(super) fn allowed(condition: &Condition, is: Option<&Arc<Act>>) -> Result<(), Answer> {
    let failed = |name: &str| {
        let why = "At least one of the pre-conditions you specified did not hold";
        Err(error(
            412,
            "PreconditionFailed",
            why,
            &[("Condition", name)],
        ))
    };
    if condition.absent && is.is_some() {
        return failed("If-None-Match");
    }
    match (&condition.etag, is) {
        (None, _) => Ok(()),
        (Some(_), None) => Err(usual(404, None)),
        (Some(wanted), Some(act)) if act.detail["etag"] == **wanted => Ok(()),
        (Some(_), Some(_)) => failed("If-Match"),
    }
}

/// The answer to a key where nothing is.
fn no_key(place: &Place) -> Answer {
    error(
        404,
        "NoSuchKey",
        "The specified key does not exist.",
        &[("Key", &place.key)],
    )
}

/// The object's page of its own.
pub(super) fn url(base: &str, place: &Place) -> String {
    let key = encode(place.key.as_bytes(), true);
    format!("{base}/s3/{}/{key}", place.bucket)
}

impl S3 {
    /// Puts an object, if its condition holds.
    pub(super) async fn put(&self, account: String, new: NewObject) -> Answer {
        if let Err(refusal) = allowed(&new.condition, held(&self.side).objects.get(&new.place)) {
            return refusal;
        }
        let (bytes, etag) = (new.file.bytes, hex(&new.file.md5));
        let digest = match self.acts.keep_file(new.file).await {
            Ok(digest) => digest,
            Err(why) => return usual(500, Some(&why.to_string())),
        };
        let checksum = new.summed.then(|| base64_of(&digest));
        let mut side = held(&self.side);
        // somebody may have come first while the file was kept
        if let Err(refusal) = allowed(&new.condition, side.objects.get(&new.place)) {
            return refusal;
        }
        let draft = self.object(
            "object.put",
            account,
            &new.place,
            (digest, bytes),
            json!({
                "etag": etag, "checksum": checksum, "about": new.about,
            }),
        );
        let act = self.acts.record(self.clock.now(), draft);
        side.apply(&act);
        let answer = empty(200).with("etag", format!("\"{etag}\""));
        match checksum {
            Some(sum) => answer
                .with("x-amz-checksum-sha256", sum)
                .with("x-amz-checksum-type", "FULL_OBJECT"),
            None => answer,
        }
    }

    /// The act by which an object comes into being.
    pub(super) fn object(
        &self,
        op: &'static str,
        account: String,
        place: &Place,
        (digest, bytes): (String, u64),
        mut detail: Value,
    ) -> Draft {
        detail["bucket"] = place.bucket.as_str().into();
        detail["key"] = place.key.as_str().into();
        let mime = detail["about"]["kept"]["content-type"].as_str();
        let mime = mime.unwrap_or("binary/octet-stream").to_owned();
        Draft {
            platform: NAME,
            op,
            account,
            key: Some(place.id()),
            id: place.id(),
            url: Some(url(&self.base, place)),
            text: place.key.clone(),
            media: vec![Media {
                digest,
                alt: String::new(),
                bytes,
                mime,
            }],
            detail,
        }
    }

    /// Answers GET and HEAD.
    pub(super) fn look(&self, look: &Look) -> Answer {
        let side = held(&self.side);
        let Some(act) = side.objects.get(&look.place) else {
            return no_key(&look.place);
        };
        let etag = act.detail["etag"].as_str().unwrap_or_default();
        if look.condition.as_deref().is_some_and(|it| it != etag) {
            return usual(412, None);
        }
        if look
            .none_match
            .as_deref()
            .is_some_and(|it| it == etag || it == "*")
        {
            return empty(304).with("etag", format!("\"{etag}\""));
        }
        let Some(media) = act.media.first() else {
            return no_key(&look.place);
        };
        let Some(path) = self.acts.media_path(&media.digest) else {
            return no_key(&look.place);
        };
        let (mut status, mut start, mut bytes) = (200, 0, media.bytes);
        let mut answer = match look.range {
            None => empty(200),
            Some(range) => match within(range, media.bytes) {
                Some((first, last)) => {
                    (status, start, bytes) = (206, first, last - first + 1);
                    let told = format!("bytes {first}-{last}/{}", media.bytes);
                    empty(206).with("content-range", told)
                }
                None => {
                    let why = "The requested range is not satisfiable";
                    return error(416, "InvalidRange", why, &[]);
                }
            },
        };
        answer.own = described(act, look.checksum && status == 200);
        answer = answer
            .with("etag", format!("\"{etag}\""))
            .with("accept-ranges", "bytes");
        if look.head {
            return answer.with("content-length", bytes);
        }
        answer.file = Some(Slice { path, start, bytes });
        answer
    }

    /// Deletes; what isn't there is deleted, too.
    pub(super) fn delete(&self, account: String, place: &Place) -> Answer {
        let mut side = held(&self.side);
        if side.objects.contains_key(place) {
            let draft = Draft {
                platform: NAME,
                op: "object.delete",
                account,
                key: Some(place.id()),
                id: place.id(),
                url: None,
                text: place.key.clone(),
                media: vec![],
                detail: json!({"bucket": place.bucket, "key": place.key}),
            };
            let act = self.acts.record(self.clock.now(), draft);
            side.apply(&act);
        }
        empty(204)
    }

    /// ListObjectsV2.
    pub(super) fn list(&self, bucket: &str, query: &[(String, String)]) -> Answer {
        let value = |name: &str| {
            let found = query.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_str()).unwrap_or_default()
        };
        let most = match value("max-keys") {
            "" => 1000,
            text => match text.parse::<usize>() {
                Ok(most) => most.min(1000),
                Err(_) => {
                    let why = "Provided max-keys not an integer or within integer range";
                    return error(400, "InvalidArgument", why, &[]);
                }
            },
        };
        let by_url = value("encoding-type") == "url";
        let coded = |text: &str| match by_url {
            true => encode(text.as_bytes(), true),
            false => text.to_owned(),
        };
        let (prefix, delimiter) = (value("prefix"), value("delimiter"));
        // a token is the last key of the page before
        let after = match value("continuation-token") {
            "" => value("start-after"),
            token => token,
        };
        let side = held(&self.side);
        let (found, more) = page(&side, bucket, (prefix, delimiter, after), most);
        let mut content = tag("Name", bucket)
            + &tag("Prefix", coded(prefix))
            + &tag("MaxKeys", most)
            + &tag("KeyCount", found.len())
            + &tag("IsTruncated", more);
        for (name, text) in [
            ("Delimiter", delimiter),
            ("StartAfter", value("start-after")),
        ] {
            if !text.is_empty() {
                content.push_str(&tag(name, coded(text)));
            }
        }
        if by_url {
            content.push_str(&tag("EncodingType", "url"));
        }
        if let (true, Some(last)) = (more, found.last()) {
            content.push_str(&tag("NextContinuationToken", last.token()));
        }
        for entry in &found {
            content.push_str(&match entry {
                Entry::Common(prefix) => {
                    let inner = tag("Prefix", coded(prefix));
                    format!("<CommonPrefixes>{inner}</CommonPrefixes>")
                }
                Entry::Object(key, act) => listed(&coded(key), act),
            });
        }
        document("ListBucketResult", &content)
    }
}

/// What a list names: an object, or all that begins alike.
enum Entry<'a> {
    Object(&'a str, &'a Act),
    Common(&'a str),
}

impl Entry<'_> {
    fn token(&self) -> String {
        match self {
            Entry::Object(key, _) => (*key).to_owned(),
            // behind everything that begins with it
            Entry::Common(prefix) => format!("{prefix}\u{10ffff}"),
        }
    }
}

/// One page of a list, and whether there is more.
fn page<'a>(
    side: &'a Side,
    bucket: &str,
    (prefix, delimiter, after): (&str, &str, &str),
    most: usize,
) -> (Vec<Entry<'a>>, bool) {
    let mut found: Vec<Entry> = Vec::new();
    for (place, act) in &side.objects {
        if place.bucket != bucket || !place.key.starts_with(prefix) || place.key.as_str() <= after {
            continue;
        }
        let rest = &place.key[prefix.len()..];
        let cut = match delimiter {
            "" => None,
            delimiter => rest.find(delimiter).map(|at| at + delimiter.len()),
        };
        let entry = match cut {
            Some(at) => Entry::Common(&place.key[..prefix.len() + at]),
            None => Entry::Object(&place.key, act),
        };
        if let (Entry::Common(new), Some(Entry::Common(last))) = (&entry, found.last())
            && new == last
        {
            continue;
        }
        if found.len() == most {
            return (found, most > 0);
        }
        found.push(entry);
    }
    (found, false)
}

fn listed(key: &str, act: &Act) -> String {
    let bytes = act.media.first().map_or(0, |media| media.bytes);
    let etag = act.detail["etag"].as_str().unwrap_or_default();
    format!(
        "<Contents>{}{}{}{}{}</Contents>",
        tag("Key", key),
        tag("LastModified", time(act.at)),
        tag("ETag", format!("\"{etag}\"")),
        tag("Size", bytes),
        tag("StorageClass", "STANDARD"),
    )
}

/// The first and the last byte of a range; nothing when it can't be satisfied.
fn within(range: (Option<u64>, Option<u64>), bytes: u64) -> Option<(u64, u64)> {
    let end = bytes.checked_sub(1)?;
    match range {
        (Some(first), last) => {
            let last = last.unwrap_or(end).min(end);
            (first <= last).then_some((first, last))
        }
        (None, Some(count)) if count > 0 => Some((bytes.saturating_sub(count), end)),
        (None, _) => None,
    }
}

/// The headers that an object was put with.
fn described(act: &Act, checksum: bool) -> Vec<(String, String)> {
    let about = &act.detail["about"];
    let mut own = vec![("content-type".to_owned(), "binary/octet-stream".to_owned())];
    let at: DateTime<Utc> = act.at;
    let date = at.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    own.push(("last-modified".into(), date));
    let kept = pairs(&about["kept"]).map(|(name, value)| (name.to_owned(), value.to_owned()));
    own.extend(kept);
    let metadata = pairs(&about["metadata"]);
    own.extend(metadata.map(|(name, value)| (format!("x-amz-meta-{name}"), value.to_owned())));
    if let (true, Some(sum)) = (checksum, act.detail["checksum"].as_str()) {
        let kind = match sum.contains('-') {
            true => "COMPOSITE",
            false => "FULL_OBJECT",
        };
        own.push(("x-amz-checksum-sha256".into(), sum.to_owned()));
        own.push(("x-amz-checksum-type".into(), kind.to_owned()));
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_lie_within_the_object() {
        let read = |text: &str| range(text).and_then(|it| within(it, 10));
        assert_eq!(read("bytes=0-3"), Some((0, 3)));
        assert_eq!(read("bytes=4-"), Some((4, 9)));
        assert_eq!(read("bytes=-3"), Some((7, 9)));
        assert_eq!(read("bytes=8-99"), Some((8, 9)));
        assert_eq!(read("bytes=10-"), None);
        assert_eq!(read("bytes=a-b"), None);
        assert_eq!(within((Some(0), None), 0), None);
    }
}
