//! Signature Version 4, checked by code of the sandbox's own: signed headers and presigned URLs.
//!
//! The access key id names the account; its secret is `sandbox-` and the id. A key `expired` or
//! `expired-...` is always refused.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::super::{
    exchange::{Answer, Request, Token, token},
    text::{hex, sha256},
};
use super::xml::{error, time};

/// How far a client's clock may be from the sandbox's.
const SKEW: TimeDelta = TimeDelta::minutes(15);
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How long a presigned URL may live, in seconds.
const LONGEST_S: i64 = 604_800;

/// Who asks, and what was said of the body.
#[derive(Debug, PartialEq)]
pub(super) struct Signed {
    pub(super) account: String,
    pub(super) payload: Payload,
}

/// What a signature covers of the body.
#[derive(Debug, PartialEq)]
pub(super) enum Payload {
    /// Its SHA-256 in hexadecimal.
    Hash(String),
    Unsigned,
}

/// A signature with all that it names.
struct Claim {
    key: String,
    /// `<day>/<region>/s3/aws4_request`
    scope: String,
    headers: Vec<String>,
    signature: String,
    at: DateTime<Utc>,
    stamp: String,
    presigned: bool,
}

fn denied(why: &str) -> Answer {
    error(403, "AccessDenied", why, &[])
}

fn malformed(why: &str) -> Answer {
    error(400, "AuthorizationHeaderMalformed", why, &[])
}

/// Checks the signature of a request; nothing when it has none.
///
/// # Errors
/// S3's refusal.
pub(super) fn verify(
    request: &Request,
    path: &str,
    now: DateTime<Utc>,
) -> Result<Option<Signed>, Answer> {
    let claim = if request.query("X-Amz-Signature").is_some() {
        presigned(request, now)?
    } else if let Some(header) = request.header("authorization") {
        signed(request, header)?
    } else {
        return Ok(None);
    };
    let Token::Account(account) = token(Some(&format!("sandbox-{}", claim.key))) else {
        return Err(error(
            403,
            "InvalidAccessKeyId",
            "The AWS Access Key Id you provided does not exist in our records.",
            &[("AWSAccessKeyId", &claim.key)],
        ));
    };
    if (now - claim.at).abs() > SKEW && !(claim.presigned && now > claim.at) {
        return Err(error(
            403,
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
            &[
                ("RequestTime", &claim.stamp),
                ("ServerTime", &time(now)),
                ("MaxAllowedSkewMilliseconds", "900000"),
            ],
        ));
    }
    let payload = match (request.header("x-amz-content-sha256"), claim.presigned) {
        (Some(hash), _) => hash.to_owned(),
        (None, true) => "UNSIGNED-PAYLOAD".to_owned(),
        (None, false) => {
            return Err(error(
                400,
                "InvalidRequest",
                "Missing required header for this request: x-amz-content-sha256",
                &[],
            ));
        }
    };
    check_covered(request, &claim)?;
    let canonical = canonical(request, path, &claim.headers, &payload);
    let to_sign = format!(
        "{ALGORITHM}\n{}\n{}\n{}",
        claim.stamp,
        claim.scope,
        hex(&sha256(canonical.as_bytes()))
    );
    let right = signature(&format!("sandbox-{account}"), &claim.scope, &to_sign);
    if right != claim.signature {
        return Err(error(
            403,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
            &[
                ("AWSAccessKeyId", &claim.key),
                ("StringToSign", &to_sign),
                ("SignatureProvided", &claim.signature),
                ("CanonicalRequest", &canonical),
            ],
        ));
    }
    let payload = match payload.as_str() {
        "UNSIGNED-PAYLOAD" => Payload::Unsigned,
        other if other.starts_with("STREAMING-") => {
            return Err(error(
                501,
                "NotImplemented",
                "A header you provided implies functionality that is not implemented: signed chunks",
                &[("Header", "x-amz-content-sha256")],
            ));
        }
        _ => Payload::Hash(payload),
    };
    Ok(Some(Signed { account, payload }))
}

/// Host and every header of Amazon's must be covered.
fn check_covered(request: &Request, claim: &Claim) -> Result<(), Answer> {
    let covered = |name: &str| claim.headers.iter().any(|it| it == name);
    let names = request.headers.keys().map(|name| name.as_str());
    let open = names
        .filter(|name| *name == "host" || name.starts_with("x-amz-"))
        .find(|name| !covered(name));
    match open {
        Some(name) => Err(error(
            403,
            "AccessDenied",
            "There were headers present in the request which were not signed",
            &[("HeadersNotSigned", name)],
        )),
        None => Ok(()),
    }
}

fn signed(request: &Request, header: &str) -> Result<Claim, Answer> {
    let rest = header
        .strip_prefix(ALGORITHM)
        .ok_or_else(|| malformed("The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."))?;
    let fields: BTreeMap<&str, &str> = rest
        .split(',')
        .filter_map(|field| field.trim().split_once('='))
        .collect();
    let field = |name: &str| {
        let why = || malformed(&format!("the authorization header has no {name}"));
        fields.get(name).copied().ok_or_else(why)
    };
    let stamp = request
        .header("x-amz-date")
        .ok_or_else(|| denied("AWS authentication requires a valid Date or x-amz-date header"))?;
    claim(
        field("Credential")?,
        (field("SignedHeaders")?, field("Signature")?),
        stamp,
    )
}

fn presigned(request: &Request, now: DateTime<Utc>) -> Result<Claim, Answer> {
    let wrong = |why: &str| error(400, "AuthorizationQueryParametersError", why, &[]);
    let value = |name: &str| {
        let why = || wrong(&format!("Query-string authentication requires {name}"));
        request.query(name).ok_or_else(why)
    };
    if value("X-Amz-Algorithm")? != ALGORITHM {
        return Err(wrong("X-Amz-Algorithm only supports AWS4-HMAC-SHA256"));
    }
    let life = value("X-Amz-Expires")?.parse::<i64>().ok();
    let life = life
        .filter(|seconds| (1..=LONGEST_S).contains(seconds))
        .ok_or_else(|| wrong("X-Amz-Expires must lie between 1 and 604800"))?;
    let names = (value("X-Amz-SignedHeaders")?, value("X-Amz-Signature")?);
    let mut claim = claim(value("X-Amz-Credential")?, names, value("X-Amz-Date")?)?;
    claim.presigned = true;
    if now >= claim.at + TimeDelta::seconds(life) {
        return Err(denied("Request has expired"));
    }
    Ok(claim)
}

fn claim(
    credential: &str,
    (headers, signature): (&str, &str),
    stamp: &str,
) -> Result<Claim, Answer> {
    let at = NaiveDateTime::parse_from_str(stamp, "%Y%m%dT%H%M%SZ")
        .map_err(|_| denied("AWS authentication requires a valid Date or x-amz-date header"))?
        .and_utc();
    let (key, scope) = credential
        .split_once('/')
        .ok_or_else(|| malformed("the Credential is mal-formed; expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\"."))?;
    let parts: Vec<&str> = scope.split('/').collect();
    match parts[..] {
        [day, region, "s3", "aws4_request"]
            if stamp.starts_with(day) && day.len() == 8 && !region.is_empty() => {}
        _ => {
            return Err(malformed(
                "the Credential's scope must be the day of the request, a region, s3 and aws4_request",
            ));
        }
    }
    Ok(Claim {
        key: key.to_owned(),
        scope: scope.to_owned(),
        headers: headers.split(';').map(str::to_owned).collect(),
        signature: signature.to_owned(),
        at,
        stamp: stamp.to_owned(),
        presigned: false,
    })
}

/// The request as it is signed.
fn canonical(request: &Request, path: &str, headers: &[String], payload: &str) -> String {
    let path = decode(path).unwrap_or_else(|| path.as_bytes().to_vec());
    let mut query: Vec<(String, String)> = request
        .query
        .iter()
        .filter(|(name, _)| name != "X-Amz-Signature")
        .map(|(name, value)| {
            (
                encode(name.as_bytes(), false),
                encode(value.as_bytes(), false),
            )
        })
        .collect();
    query.sort();
    let query: Vec<String> = query
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let line = |name: &String| {
        let values = request.headers.get_all(name).iter();
        let values: Vec<String> = values
            .map(|value| {
                let text = String::from_utf8_lossy(value.as_bytes());
                text.split_whitespace().collect::<Vec<_>>().join(" ")
            })
            .collect();
        format!("{name}:{}\n", values.join(","))
    };
    let lines: String = headers.iter().map(line).collect();
    format!(
        "{}\n{}\n{}\n{lines}\n{}\n{payload}",
        request.method,
        encode(&path, true),
        query.join("&"),
        headers.join(";"),
    )
}

fn signature(secret: &str, scope: &str, to_sign: &str) -> String {
    let mut key = format!("AWS4{secret}").into_bytes();
    for step in scope.split('/') {
        key = mac(&key, step);
    }
    hex(&mac(&key, to_sign))
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// Percent-encoding as Amazon has it.
pub(super) fn encode(bytes: &[u8], keep_slash: bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b'/' if keep_slash => out.push('/'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The bytes that a percent-encoded text means; nothing when it can't be read.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
            out.push(u8::try_from(high * 16 + low).expect("two digits fit"));
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderMap, HeaderValue, Method};

    /// Amazon's own example: its key, its secret, its numbers.
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    const SCOPE: &str = "20130524/us-east-1/s3/aws4_request";
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn request(query: &[(&str, &str)], headers: &[(&'static str, &str)]) -> Request {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        Request {
            method: Method::GET,
            path: "/test.txt".into(),
            query: query
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            headers: map,
            body: Default::default(),
            file: None,
        }
    }

    fn of(request: &Request, headers: &[&str], payload: &str) -> String {
        let headers: Vec<String> = headers.iter().map(|it| (*it).to_owned()).collect();
        let canonical = canonical(request, "/test.txt", &headers, payload);
        let to_sign = format!(
            "{ALGORITHM}\n20130524T000000Z\n{SCOPE}\n{}",
            hex(&sha256(canonical.as_bytes()))
        );
        signature(SECRET, SCOPE, &to_sign)
    }

    #[test]
    fn amazons_examples_come_out_right() {
        let signed = request(
            &[],
            &[
                ("host", "examplebucket.s3.amazonaws.com"),
                ("range", "bytes=0-9"),
                ("x-amz-content-sha256", EMPTY),
                ("x-amz-date", "20130524T000000Z"),
            ],
        );
        let names = ["host", "range", "x-amz-content-sha256", "x-amz-date"];
        assert_eq!(
            of(&signed, &names, EMPTY),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let presigned = request(
            &[
                ("X-Amz-Algorithm", ALGORITHM),
                ("X-Amz-Credential", &format!("AKIAIOSFODNN7EXAMPLE/{SCOPE}")),
                ("X-Amz-Date", "20130524T000000Z"),
                ("X-Amz-Expires", "86400"),
                ("X-Amz-SignedHeaders", "host"),
                ("X-Amz-Signature", "left out"),
            ],
            &[("host", "examplebucket.s3.amazonaws.com")],
        );
        assert_eq!(
            of(&presigned, &["host"], "UNSIGNED-PAYLOAD"),
            "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
    }

    #[test]
    fn paths_are_encoded_once() {
        assert_eq!(encode("a b/ü".as_bytes(), true), "a%20b/%C3%BC");
        assert_eq!(decode("a%20b/%C3%BC").as_deref(), Some("a b/ü".as_bytes()));
        assert_eq!(decode("%2"), None);
        assert_eq!(decode("%zz"), None);
    }
}
