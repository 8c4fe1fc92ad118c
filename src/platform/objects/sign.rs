//! Signatures of requests to object stores: AWS Signature Version 4 in a header, and Google's twin of
//! it. The payload's digest is part of what is signed, so that bytes that were changed on the way are
//! refused.

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

use crate::clock::Time;
use crate::json::Digest;

/// Which words a store speaks: S3's own, or Google's, which must not be mixed with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// S3, R2, MinIO, Ceph and most others.
    S3,
    /// Google Cloud Storage's XML API.
    Gcs,
}

impl Dialect {
    /// What the names of its own headers begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::S3 => "x-amz-",
            Self::Gcs => "x-goog-",
        }
    }

    /// Algorithm, the key's prefix, service and end of the scope.
    fn words(self) -> [&'static str; 4] {
        match self {
            Self::S3 => ["AWS4-HMAC-SHA256", "AWS4", "s3", "aws4_request"],
            Self::Gcs => ["GOOG4-HMAC-SHA256", "GOOG4", "storage", "goog4_request"],
        }
    }
}

/// Who signs.
#[derive(Clone, Copy)]
pub struct Signer<'a> {
    /// The store's words.
    pub dialect: Dialect,
    /// The region that the store is in.
    pub region: &'a str,
    /// Which key it is.
    pub access_key_id: &'a SecretString,
    /// The key.
    pub secret: &'a SecretString,
}

/// What is signed.
pub struct Request<'a> {
    /// `PUT`.
    pub method: &'a str,
    /// With its port, where that isn't the scheme's own.
    pub host: &'a str,
    /// As it is sent: [`encoded`].
    pub path: &'a str,
    /// As it is sent: [`query`].
    pub query: &'a str,
    /// The other headers that are signed, their names in small letters.
    pub headers: Vec<(&'a str, &'a str)>,
    /// The payload's digest.
    pub payload: Digest,
    /// Now.
    pub at: Time,
}

/// The headers that make a request a signed one.
pub struct Signed {
    /// Names and values that belong to the signature.
    pub headers: [(String, String); 2],
    /// The value of `Authorization`.
    pub authorization: SecretString,
}

impl Signer<'_> {
    /// Signs a request (docs.aws.amazon.com, "Signature Calculations for the Authorization Header";
    /// cloud.google.com/storage/docs/authentication/signatures).
    pub fn sign(&self, request: &Request<'_>) -> Signed {
        let [algorithm, key_prefix, service, end] = self.dialect.words();
        let prefix = self.dialect.prefix();
        let time = request.at.format("%Y%m%dT%H%M%SZ").to_string();
        let day = &time[..8];
        let own = [
            (format!("{prefix}content-sha256"), request.payload.hex()),
            (format!("{prefix}date"), time.clone()),
        ];
        let mut headers = request.headers.clone();
        headers.push(("host", request.host));
        headers.extend(
            own.iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        headers.sort_unstable();
        let names: Vec<&str> = headers.iter().map(|it| it.0).collect();
        let names = names.join(";");
        let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: String = headers
            .iter()
            .map(|(name, value)| format!("{name}:{}\n", plain(value)))
            .collect();
        let canonical = format!(
            "{}\n{}\n{}\n{lines}\n{names}\n{}",
            request.method,
            request.path,
            request.query,
            request.payload.hex()
        );
        let scope = format!("{day}/{}/{service}/{end}", self.region);
        let digest = Digest::of_bytes(canonical.as_bytes()).hex();
        let text = format!("{algorithm}\n{time}\n{scope}\n{digest}");
        let key = format!("{key_prefix}{}", self.secret.expose_secret());
        let key = [day, self.region, service, end]
            .iter()
            .fold(key.into_bytes(), |key, part| mac(&key, part).to_vec());
        let signature = Digest(mac(&key, &text)).hex();
        let id = self.access_key_id.expose_secret();
        let authorization = format!(
            "{algorithm} Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"
        );
        Signed {
            headers: own,
            authorization: authorization.into(),
        }
    }
}

fn mac(key: &[u8], text: &str) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

/// A text as it stands in a path or a query: all but unreserved characters (RFC 3986) and those of
/// `kept` as `%XX`.
pub fn encoded(text: &str, kept: &str) -> String {
    let mut all = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        match c.is_ascii_alphanumeric() || "-._~".contains(c) || kept.contains(c) {
            true => all.push(c),
            false => all.push_str(&format!("%{byte:02X}")),
        }
    }
    all
}

/// A query as it is sent and signed: sorted, each name with a `=`.
pub fn query(pairs: &[(&str, &str)]) -> String {
    let pair = |(name, value): &(&str, &str)| (encoded(name, ""), encoded(value, ""));
    let mut pairs: Vec<(String, String)> = pairs.iter().map(pair).collect();
    pairs.sort_unstable();
    let text = |(name, value): (String, String)| format!("{name}={value}");
    pairs.into_iter().map(text).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{TimeZone as _, Utc};

    /// The examples of AWS' own page.
    fn signed(request: impl FnOnce(&mut Request<'static>)) -> String {
        let mut it = Request {
            method: "GET",
            host: "examplebucket.s3.amazonaws.com",
            path: "/",
            query: "",
            headers: vec![],
            payload: Digest::of_bytes(b""),
            at: Utc.with_ymd_and_hms(2013, 5, 24, 0, 0, 0).unwrap(),
        };
        request(&mut it);
        let signer = Signer {
            dialect: Dialect::S3,
            region: "us-east-1",
            access_key_id: &"AKIAIOSFODNN7EXAMPLE".into(),
            secret: &"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
        };
        let signed = signer.sign(&it).authorization;
        let all = signed.expose_secret().to_owned();
        assert!(all.contains("AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request"));
        all.rsplit('=').next().unwrap().to_owned()
    }

    #[test]
    fn signatures_are_those_of_the_published_examples() {
        let get = signed(|it| {
            it.path = "/test.txt";
            it.headers = vec![("range", "bytes=0-9")];
        });
        assert_eq!(
            get,
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let put = signed(|it| {
            it.method = "PUT";
            it.path = "/test%24file.text";
            it.headers = vec![
                ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
                ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            ];
            it.payload = Digest::of_bytes(b"Welcome to Amazon S3.");
        });
        assert_eq!(
            put,
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        let lifecycle = signed(|it| it.query = "lifecycle=");
        assert_eq!(
            lifecycle,
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
        let list = signed(|it| it.query = "max-keys=2&prefix=J");
        assert_eq!(
            list,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }

    #[test]
    fn google_is_spoken_to_in_its_own_words() {
        let signer = Signer {
            dialect: Dialect::Gcs,
            region: "auto",
            access_key_id: &"GOOG1E".into(),
            secret: &"secret".into(),
        };
        let signed = signer.sign(&Request {
            method: "PUT",
            host: "storage.googleapis.com",
            path: "/b/k",
            query: "",
            headers: vec![("x-goog-if-generation-match", "0")],
            payload: Digest::of_bytes(b""),
            at: Utc.with_ymd_and_hms(2026, 1, 2, 3, 4, 5).unwrap(),
        });
        let told = signed.authorization.expose_secret();
        let scope = "GOOG4-HMAC-SHA256 Credential=GOOG1E/20260102/auto/storage/goog4_request, ";
        assert!(told.starts_with(scope), "{told}");
        let names =
            "SignedHeaders=host;x-goog-content-sha256;x-goog-date;x-goog-if-generation-match,";
        assert!(told.contains(names), "{told}");
        assert_eq!(signed.headers[1].1, "20260102T030405Z");
    }

    #[test]
    fn what_is_sent_is_spelt_as_it_is_signed() {
        assert_eq!(encoded("a/b c+ü$", "/"), "a/b%20c%2B%C3%BC%24");
        assert_eq!(
            query(&[("uploads", ""), ("prefix", "a/b")]),
            "prefix=a%2Fb&uploads="
        );
    }
}
