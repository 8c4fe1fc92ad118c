//! What a request to the object store asks for: its place, its operation, its body's sums, its headers.

use axum::http::Method;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::super::{
    exchange::{Answer, Request},
    spool::Spooled,
    text::hex,
};
use super::{
    side::Place,
    sign::{Payload, Signed, decode},
    xml::error,
};

/// Bytes of a key and of all metadata together.
const KEY_BYTES: usize = 1024;
const METADATA_BYTES: usize = 8192;
/// Headers that are kept with an object and given back.
const KEPT: &[&str] = &[
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
];
/// Headers that ask for what isn't here.
const ABSENT: &[&str] = &[
    "x-amz-copy-source",
    "x-amz-trailer",
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-sha1",
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-tagging",
];

/// A bucket and a key, empty where the path ends before.
///
/// # Errors
/// A name that can't be one.
pub(super) fn place(path: &str) -> Result<Place, Answer> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    let key = decode(key).and_then(|it| String::from_utf8(it).ok());
    let key =
        key.ok_or_else(|| error(400, "InvalidURI", "Couldn't parse the specified URI.", &[]))?;
    if key.len() > KEY_BYTES {
        return Err(error(400, "KeyTooLongError", "Your key is too long", &[]));
    }
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = bucket.as_bytes();
    if !(3..=63).contains(&bytes.len())
        || !bytes.iter().all(|b| plain(*b))
        || !edge(bytes.first())
        || !edge(bytes.last())
    {
        return Err(error(
            400,
            "InvalidBucketName",
            "The specified bucket is not valid.",
            &[("BucketName", bucket)],
        ));
    }
    Ok(Place {
        bucket: bucket.to_owned(),
        key,
    })
}

/// The operation of a request: its name, whether it writes, whether a marker in the key is meant
/// for another one.
pub(super) fn named(request: &Request, place: &Place) -> (&'static str, bool, bool) {
    let has = |name: &str| request.query(name).is_some();
    let upload = has("uploadId");
    if place.key.is_empty() {
        return match request.method {
            Method::HEAD => ("bucket.head", false, true),
            Method::GET if has("uploads") => ("upload.list", false, true),
            Method::GET if has("location") => ("bucket.location", false, true),
            Method::GET if request.query("list-type") == Some("2") => ("object.list", false, true),
            _ => ("unknown", false, true),
        };
    }
    match request.method {
        Method::PUT if upload => ("upload.part", true, true),
        Method::PUT => ("object.put", true, false),
        Method::POST if has("uploads") => ("upload.create", true, true),
        Method::POST if upload => ("upload.complete", true, false),
        Method::GET if upload => ("upload.parts", false, true),
        Method::GET => ("object.get", false, true),
        Method::HEAD => ("object.head", false, true),
        Method::DELETE if upload => ("upload.abort", true, true),
        Method::DELETE => ("object.delete", true, false),
        _ => ("unknown", false, true),
    }
}

/// Refuses what would silently not be done: parameters and headers of parts of S3 that aren't here.
///
/// # Errors
/// NotImplemented.
pub(super) fn known(request: &Request) -> Result<(), Answer> {
    const PARAMETERS: &[&str] = &[
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-Security-Token",
        "X-Amz-Signature",
        "X-Amz-SignedHeaders",
        "continuation-token",
        "delimiter",
        "encoding-type",
        "fetch-owner",
        "key-marker",
        "list-type",
        "location",
        "max-keys",
        "max-parts",
        "max-uploads",
        "part-number-marker",
        "partNumber",
        "prefix",
        "start-after",
        "uploadId",
        "upload-id-marker",
        "uploads",
        "x-id",
    ];
    let absent = |what: &str, name: &str| {
        error(
            501,
            "NotImplemented",
            &format!("A {what} you provided implies functionality that is not implemented"),
            &[("Name", name)],
        )
    };
    let names = request.query.iter().map(|(name, _)| name.as_str());
    if let Some(name) = names.into_iter().find(|name| !PARAMETERS.contains(name)) {
        return Err(absent("parameter", name));
    }
    match ABSENT
        .iter()
        .find(|name| request.headers.contains_key(**name))
    {
        Some(name) => Err(absent("header", name)),
        None => Ok(()),
    }
}

/// Checks a body against all that was said of it.
///
/// # Errors
/// The mismatch.
pub(super) fn sums(request: &Request, signed: &Signed, body: &Spooled) -> Result<(), Answer> {
    if body.cut {
        return Err(error(
            400,
            "IncompleteBody",
            "You did not provide the number of bytes specified by the Content-Length HTTP header",
            &[],
        ));
    }
    if !request.headers.contains_key("content-length") {
        return Err(error(
            411,
            "MissingContentLength",
            "You must provide the Content-Length HTTP header.",
            &[],
        ));
    }
    if let Payload::Hash(hash) = &signed.payload
        && *hash != hex(&body.sha256)
    {
        return Err(error(
            400,
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
            &[
                ("ClientComputedContentSHA256", hash),
                ("S3ComputedContentSHA256", &hex(&body.sha256)),
            ],
        ));
    }
    let digest = |name: &str, code: &str, bytes: usize| match request.header(name) {
        None => Ok(None),
        Some(text) => {
            let sum = STANDARD.decode(text).ok().filter(|it| it.len() == bytes);
            let why = format!("Value for {name} header is invalid.");
            sum.map(Some).ok_or_else(|| error(400, code, &why, &[]))
        }
    };
    let bad = |name: &str| {
        let why = format!("The {name} you specified did not match the calculated checksum.");
        error(400, "BadDigest", &why, &[])
    };
    match digest("content-md5", "InvalidDigest", 16)? {
        Some(md5) if md5 != body.md5 => return Err(bad("Content-MD5")),
        _ => {}
    }
    match digest("x-amz-checksum-sha256", "InvalidRequest", 32)? {
        Some(sum) if sum != body.sha256 => Err(bad("SHA256")),
        _ => Ok(()),
    }
}

/// What is kept with an object: `kept` headers and the caller's own `metadata`.
///
/// # Errors
/// Metadata that is too large or can't be read.
pub(super) fn about(request: &Request) -> Result<Value, Answer> {
    let (mut kept, mut metadata, mut size) = (Map::new(), Map::new(), 0);
    for (name, value) in &request.headers {
        let name = name.as_str();
        let own = name.strip_prefix("x-amz-meta-");
        if own.is_none() && !KEPT.contains(&name) {
            continue;
        }
        let text = value.to_str().map_err(|_| {
            let why = "Metadata must be printable ASCII.";
            error(400, "InvalidArgument", why, &[("ArgumentName", name)])
        })?;
        match own {
            Some(own) => {
                size += own.len() + text.len();
                metadata.insert(own.to_owned(), text.into());
            }
            None => {
                kept.insert(name.to_owned(), text.into());
            }
        }
    }
    if size > METADATA_BYTES {
        return Err(error(
            400,
            "MetadataTooLarge",
            "Your metadata headers exceed the maximum allowed metadata size.",
            &[],
        ));
    }
    Ok(serde_json::json!({"kept": kept, "metadata": metadata}))
}

/// The condition of a write: only where nothing is, or only over this ETag.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Condition {
    pub(super) absent: bool,
    pub(super) etag: Option<String>,
}

/// Reads the condition of a write.
///
/// # Errors
/// A condition that S3 doesn't know.
pub(super) fn condition(request: &Request) -> Result<Condition, Answer> {
    let absent = match request.header("if-none-match") {
        None => false,
        Some("*") => true,
        Some(_) => {
            return Err(error(
                501,
                "NotImplemented",
                "A header you provided implies functionality that is not implemented",
                &[("Header", "If-None-Match")],
            ));
        }
    };
    let etag = request
        .header("if-match")
        .map(|it| it.trim_matches('"').to_owned());
    Ok(Condition { absent, etag })
}
