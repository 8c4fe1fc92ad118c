//! Bodies: read under a bound, split into envelopes as they came, given a key from a header.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use futures_util::StreamExt;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::problem::Problem;
use crate::job::envelope::ENVELOPE_MAX;
use crate::json::Members;

/// The most envelopes of one request.
pub const MANY_MAX: usize = 1_000;
/// The largest body, in bytes.
pub const BODY_MAX: usize = 8 * 1024 * 1024;
/// Bodies beyond an envelope's size that are in memory at once.
pub const LARGE_AT_ONCE: usize = 8;

/// What is still taken of a body that is too large, so that the client gets to read why: closing
/// while it sends would reset the connection under the answer.
const LINGER: (usize, Duration) = (4 * BODY_MAX, Duration::from_secs(2));

/// A body, with its place among the large ones.
pub struct Read<'a> {
    /// The bytes as they came.
    pub bytes: Vec<u8>,
    _place: Option<SemaphorePermit<'a>>,
}

/// Only plain JSON is read.
///
/// # Errors
/// 415.
pub fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let unfit = |said: String| {
        let json = HeaderValue::from_static("application/json");
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong-type", said)
            .header(HeaderName::from_static("accept-post"), json)
    };
    if let Some(coded) = headers.get(CONTENT_ENCODING)
        && !coded.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return Err(unfit(
            "a compressed body isn't read; send it plain".to_owned(),
        ));
    }
    let said = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let said = String::from_utf8_lossy(said.unwrap_or_default());
    let essence = said.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let said = match essence {
        "" => "no content type was said".to_owned(),
        other => format!("the content type `{}` isn't read", other.escape_debug()),
    };
    Err(unfit(format!(
        "{said}; send `Content-Type: application/json`"
    )))
}

/// Reads a body of at most `most` bytes within `within`.
///
/// # Errors
/// 413, 408, or 400 when it breaks off.
pub async fn read<'a>(
    headers: &HeaderMap,
    body: Body,
    most: usize,
    within: Duration,
    large: &'a Semaphore,
) -> Result<Read<'a>, Problem> {
    let declared = headers.get(CONTENT_LENGTH).and_then(|it| it.to_str().ok());
    let declared = declared.and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
    let declared = usize::try_from(declared).unwrap_or(usize::MAX);
    let mut stream = body.into_data_stream();
    let read = match declared <= most {
        true => tokio::time::timeout(within, gather(&mut stream, declared, most, large)).await,
        false => Ok(Ok(None)),
    };
    match read {
        Ok(Ok(Some(read))) => Ok(read),
        Ok(Ok(None)) => {
            if !headers.contains_key(EXPECT) {
                linger(&mut stream).await;
            }
            let said = match most {
                BODY_MAX => format!(
                    "the body has more than {BODY_MAX} bytes; send fewer envelopes at once (one has at most {ENVELOPE_MAX})"
                ),
                most => format!("the body has more than {most} bytes"),
            };
            Err(Problem::too_large(said))
        }
        Ok(Err(e)) => Err(Problem::bad(format!("the body broke off: {e}"))),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "slow-body",
            format!("the body wasn't there within {} s", within.as_secs_f32()),
        )),
    }
}

/// `None`: there is more than `most`.
async fn gather<'a>(
    stream: &mut BodyDataStream,
    declared: usize,
    most: usize,
    large: &'a Semaphore,
) -> Result<Option<Read<'a>>, axum::Error> {
    let mut bytes = Vec::with_capacity(declared.min(ENVELOPE_MAX));
    let mut place = None;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        let length = bytes.len() + chunk.len();
        if most < length {
            return Ok(None);
        }
        if ENVELOPE_MAX < length && place.is_none() {
            // never closed; without a place the read's deadline ends this
            place = large.acquire().await.ok();
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(Read {
        bytes,
        _place: place,
    }))
}

async fn linger(stream: &mut BodyDataStream) {
    let (most, within) = LINGER;
    let taken = async {
        let mut taken = 0;
        while let Some(Ok(chunk)) = stream.next().await {
            taken += chunk.len();
            if most < taken {
                return;
            }
        }
    };
    // past the deadline the client has had its chance
    let _ = tokio::time::timeout(within, taken).await;
}

/// What a body holds.
#[derive(Debug)]
pub enum Sent<'a> {
    /// One envelope, or what should have been one.
    One(&'a [u8]),
    /// An array's elements, each as it came.
    Many(Vec<&'a [u8]>),
}

/// Splits a body into envelopes without reading them.
///
/// # Errors
/// 400 for an array that is no JSON, 413 for one with too many elements, 422 for an empty one.
pub fn split(bytes: &[u8]) -> Result<Sent<'_>, Problem> {
    if bytes.trim_ascii_start().first() != Some(&b'[') {
        return Ok(Sent::One(bytes));
    }
    let no_json = |e: &dyn std::fmt::Display| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "no-json",
            format!("the array is no JSON: {e}; none of it was taken"),
        )
    };
    let text = std::str::from_utf8(bytes).map_err(|e| no_json(&e))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let (elements, more) = json.deserialize_seq(Elements).map_err(|e| no_json(&e))?;
    json.end().map_err(|e| no_json(&e))?;
    if 0 < more {
        return Err(Problem::too_large(format!(
            "the array has {} envelopes; send at most {MANY_MAX} at once. None of it was taken",
            elements.len() + more
        )));
    }
    if elements.is_empty() {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "empty",
            "the array is empty; send at least one envelope",
        ));
    }
    let elements = elements.into_iter().map(|it| it.get().as_bytes());
    Ok(Sent::Many(elements.collect()))
}

/// Keeps the first [`MANY_MAX`] elements and counts the rest, so that millions of tiny ones take no
/// memory.
struct Elements;

impl<'de> Visitor<'de> for Elements {
    type Value = (Vec<&'de RawValue>, usize);
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of envelopes")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while elements.len() < MANY_MAX {
            match seq.next_element()? {
                Some(it) => elements.push(it),
                None => return Ok((elements, 0)),
            }
        }
        let mut more = 0;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            more += 1;
        }
        Ok((elements, more))
    }
}

/// Whether it is JSON at all, an envelope or not.
pub fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|it| serde_json::from_str::<&RawValue>(it).is_ok())
}

/// The key of the header `Idempotency-Key`: as it is, or quoted as a structured field (RFC 8941).
///
/// # Errors
/// 400 when it is there twice, empty, or no text.
pub fn header_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut said = headers.get_all("idempotency-key").iter();
    let Some(first) = said.next() else {
        return Ok(None);
    };
    if said.next().is_some() {
        return Err(Problem::bad("Idempotency-Key is there twice; send one"));
    }
    let key = std::str::from_utf8(first.as_bytes())
        .map_err(|_| Problem::bad("Idempotency-Key is not UTF-8"))?;
    let quoted = key.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    let key = quoted.map_or_else(|| key.to_owned(), unescaped);
    match key.as_str() {
        "" => Err(Problem::bad(
            "Idempotency-Key is empty; leave it out, or send a key",
        )),
        _ => Ok(Some(key)),
    }
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        out.extend(if c == '\\' { rest.next() } else { Some(c) });
    }
    out
}

/// The envelope with `key` as its key, where it has none; nothing else of it is touched. What is no
/// envelope is left for the door to judge.
///
/// # Errors
/// 409 when it has another key already.
pub fn keyed<'a>(bytes: &'a [u8], key: &str) -> Result<Cow<'a, [u8]>, Problem> {
    let text = std::str::from_utf8(bytes).ok();
    let text = text.filter(|it| it.len() <= ENVELOPE_MAX);
    let members = text.and_then(|it| Some((it.find('{')? + 1, Members::parse(it, "").ok()?)));
    let Some((at, Members(members))) = members else {
        return Ok(bytes.into());
    };
    if let Some((_, own)) = members.iter().find(|(name, _)| name == "key") {
        return match serde_json::from_str::<String>(own.get()) {
            Ok(own) if own != key => Err(Problem::new(
                StatusCode::CONFLICT,
                "two-keys",
                "the header Idempotency-Key and the envelope's `key` differ; send one of them, or the same",
            )),
            _ => Ok(bytes.into()),
        };
    }
    let mut out = bytes[..at].to_vec();
    let comma = if members.is_empty() { "" } else { "," };
    out.extend(format!("\"key\":{}{comma}", serde_json::Value::from(key)).into_bytes());
    out.extend(&bytes[at..]);
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(text: &str) -> Vec<&[u8]> {
        match split(text.as_bytes()) {
            Ok(Sent::Many(it)) => it,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn elements_are_taken_as_they_came() {
        let text = " [ {\"a\" : 1e400, \"b\":[ 12345678901234567890123 ] } , 1,\"]\" ] ";
        let expected: [&[u8]; 3] = [
            b"{\"a\" : 1e400, \"b\":[ 12345678901234567890123 ] }",
            b"1",
            b"\"]\"",
        ];
        assert_eq!(many(text), expected);
        assert!(matches!(split(b" {]"), Ok(Sent::One(b" {]"))));
    }

    #[test]
    fn an_array_that_cannot_be_taken_says_why() {
        let status = |text: &[u8]| split(text).unwrap_err().status.as_u16();
        assert_eq!(status(b"[]"), 422);
        assert_eq!(status(b"[{}"), 400);
        assert_eq!(status(b"[{}] x"), 400);
        assert_eq!(status(b"[\"\xff\"]"), 400);
        let of = |n: usize| format!("[{}]", vec!["{}"; n].join(","));
        assert_eq!(many(&of(MANY_MAX)).len(), MANY_MAX);
        assert_eq!(status(of(MANY_MAX + 1).as_bytes()), 413);
    }

    #[test]
    fn a_headers_key_is_put_where_none_is_and_changes_nothing_else() {
        let keyed = |text: &str, key: &str| {
            keyed(text.as_bytes(), key).map(|it| String::from_utf8(it.into()).unwrap())
        };
        assert_eq!(
            keyed(" {\"a\":1.0}", "k\"").unwrap(),
            " {\"key\":\"k\\\"\",\"a\":1.0}"
        );
        assert_eq!(keyed("{ }", "k").unwrap(), "{\"key\":\"k\" }");
        for left in [
            "{\"key\":\"k\"}",
            "{\"k\\u0065y\":\"k\"}",
            "{\"key\":1}",
            "[1]",
            "{",
            "",
        ] {
            assert_eq!(keyed(left, "k").unwrap(), left);
        }
        assert_eq!(
            keyed("{\"key\":\"other\"}", "k")
                .unwrap_err()
                .status
                .as_u16(),
            409
        );
    }

    #[test]
    fn a_key_may_come_quoted() {
        let key = |said: &[&str]| {
            let mut headers = HeaderMap::new();
            for it in said {
                headers.append("idempotency-key", it.parse().unwrap());
            }
            header_key(&headers).map_err(|it| it.status.as_u16())
        };
        assert_eq!(key(&[]), Ok(None));
        assert_eq!(key(&["a b"]), Ok(Some("a b".to_owned())));
        assert_eq!(key(&["\"a \\\"b\""]), Ok(Some("a \"b".to_owned())));
        assert_eq!(key(&["\""]), Ok(Some("\"".to_owned())));
        assert_eq!(key(&["\"\""]), Err(400));
        assert_eq!(key(&["a", "a"]), Err(400));
    }

    #[test]
    fn only_plain_json_is_read() {
        let fits = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(HeaderName::from_static(name), value.parse().unwrap());
            check_type(&headers).is_ok()
        };
        assert!(fits("content-type", "Application/JSON; charset=utf-8"));
        assert!(fits("content-encoding", "identity"));
        assert!(!fits("content-encoding", "gzip"));
        assert!(!fits("content-type", "text/plain"));
        assert!(!fits("content-type", "application/jsonx"));
        assert!(check_type(&HeaderMap::new()).is_err());
    }
}
