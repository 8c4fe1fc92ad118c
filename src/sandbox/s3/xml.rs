//! The XML that S3 speaks: answers, errors, and the one body that it reads.

use chrono::{DateTime, SecondsFormat, Utc};

use super::super::{exchange::Answer, text::escape};

const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// An element with a text.
pub(super) fn tag(name: &str, text: impl ToString) -> String {
    format!("<{name}>{}</{name}>", escape(&text.to_string()))
}

/// A moment as S3's XML has it.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A number for one request.
fn request_id() -> String {
    let id = uuid::Uuid::new_v4().simple().to_string().to_uppercase();
    id.chars().take(16).collect()
}

/// An answer without a body.
pub(super) fn empty(status: u16) -> Answer {
    Answer {
        status,
        headers: vec![("x-amz-request-id", request_id())],
        own: Vec::new(),
        body: bytes::Bytes::new(),
        file: None,
        mime: "application/xml",
    }
}

/// An answer with one element, its content given.
pub(super) fn document(root: &str, content: &str) -> Answer {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root} xmlns=\"{NAMESPACE}\">{content}</{root}>"
    );
    Answer {
        body: xml.into(),
        ..empty(200)
    }
}

/// An error; more elements may be told.
pub(super) fn error(status: u16, code: &str, message: &str, more: &[(&str, &str)]) -> Answer {
    let id = request_id();
    let more: String = more.iter().map(|(name, text)| tag(name, text)).collect();
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>{}{}{more}{}{}</Error>",
        tag("Code", code),
        tag("Message", message),
        tag("RequestId", &id),
        tag("HostId", "sandbox"),
    );
    Answer {
        headers: vec![("x-amz-request-id", id)],
        body: xml.into(),
        ..empty(status)
    }
}

/// The usual error of a status.
pub(super) fn usual(status: u16, message: Option<&str>) -> Answer {
    let (status, code, usual) = match status {
        400 => (400, "InvalidRequest", "Refused by the sandbox on request."),
        401 => (401, "Unauthorized", "Unauthorized"),
        403 => (403, "AccessDenied", "Access Denied"),
        404 => (404, "NoSuchKey", "The specified key does not exist."),
        409 => (
            409,
            "ConditionalRequestConflict",
            "A conflicting operation occurred during your request. Please try again.",
        ),
        412 => (
            412,
            "PreconditionFailed",
            "At least one of the pre-conditions you specified did not hold",
        ),
        // told as 400, as it is there
        413 => (
            400,
            "EntityTooLarge",
            "Your proposed upload exceeds the maximum allowed object size.",
        ),
        429 | 503 => (status, "SlowDown", "Please reduce your request rate."),
        504 => (504, "GatewayTimeout", "Gateway Timeout"),
        402..=499 => (
            status,
            "InvalidRequest",
            "Refused by the sandbox on request.",
        ),
        other => (
            other,
            "InternalError",
            "We encountered an internal error. Please try again.",
        ),
    };
    error(status, code, message.unwrap_or(usual), &[])
}

/// A part as the body of a completion names it.
#[derive(Debug, PartialEq)]
pub(in super::super) struct Named {
    pub(super) number: u16,
    pub(super) etag: String,
    /// Base64 of its SHA-256.
    pub(super) sha256: Option<String>,
}

/// Reads the body of CompleteMultipartUpload; nothing when it isn't one.
pub(super) fn parts(body: &[u8]) -> Option<Vec<Named>> {
    let text = std::str::from_utf8(body).ok()?;
    let root = text.find("<CompleteMultipartUpload")?;
    let end = text.rfind("</CompleteMultipartUpload>")?;
    let mut rest = text.get(root..end)?;
    let mut found = Vec::new();
    while let Some(at) = rest.find("<Part>") {
        let (part, after) = rest[at + "<Part>".len()..].split_once("</Part>")?;
        found.push(Named {
            number: inner(part, "PartNumber")?.parse().ok()?,
            etag: inner(part, "ETag")?.trim_matches('"').to_owned(),
            sha256: inner(part, "ChecksumSHA256"),
        });
        rest = after;
    }
    (!found.is_empty()).then_some(found)
}

/// The text of an element within a piece of XML.
fn inner(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let text = text.replace("&quot;", "\"").replace("&#34;", "\"");
    Some(text.replace("&amp;", "&").trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_is_read() {
        let body = b"<?xml version=\"1.0\"?><CompleteMultipartUpload xmlns=\"x\">\n<Part><ETag>&quot;abc&quot;</ETag><PartNumber>1</PartNumber></Part>\
            <Part><PartNumber>2</PartNumber><ETag>\"def\"</ETag><ChecksumSHA256>eA==</ChecksumSHA256></Part></CompleteMultipartUpload>";
        let found = parts(body).expect("readable");
        let named = |number, etag: &str, sha256: Option<&str>| Named {
            number,
            etag: etag.into(),
            sha256: sha256.map(str::to_owned),
        };
        assert_eq!(
            found,
            [named(1, "abc", None), named(2, "def", Some("eA=="))]
        );
        for wrong in [
            "",
            "<CompleteMultipartUpload></CompleteMultipartUpload>",
            "<Part>",
        ] {
            assert_eq!(parts(wrong.as_bytes()), None);
        }
    }
}
