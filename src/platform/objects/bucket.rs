//! A bucket of an object store that speaks S3's protocol: one object put and looked up, and what an
//! answer means.

use std::time::Duration;

use crate::clock::Time;
use crate::config::Account;
use crate::effect::Receipt;
use crate::json::Digest;
use crate::media::Media;
use crate::outcome::{Class, Failure, Scope};
use crate::platform::http::{Answer, Call, Http, Stream};
use crate::platform::verdict::{CallError, Meaning, Rules, Said, judge, lost, refused, unreadable};

use super::object::{EFFECT, Found, Object, SHA256, below, place};
use super::sign::{Dialect, Request, Signer, query};
use super::xml::Element;

/// How long a store may think once it has all of a request.
const ANSWER: Duration = Duration::from_secs(120);

/// A bucket, as an account.
#[derive(Clone, Copy)]
pub struct Bucket<'a> {
    /// The client.
    pub http: &'a Http,
    /// The account.
    pub account: &'a Account,
    /// What each call may take.
    pub deadline: Duration,
}

impl Bucket<'_> {
    /// The store's words.
    pub fn dialect(&self) -> Dialect {
        match self.account.platform.as_str() {
            "gcs" => Dialect::Gcs,
            _ => Dialect::S3,
        }
    }

    fn rules(&self) -> &'static Rules {
        match self.dialect() {
            Dialect::S3 => &S3,
            Dialect::Gcs => &GCS,
        }
    }

    /// The address of a key (of the bucket, where it is empty), with a query.
    pub(super) fn url(&self, key: &str, pairs: &[(&str, &str)]) -> url::Url {
        let mut url = place(self.account);
        if !key.is_empty() {
            url = below(&url, key);
        }
        let query = query(pairs);
        url.set_query(Some(query.as_str()).filter(|it| !it.is_empty()));
        url
    }

    /// A header in the store's words: `x-amz-NAME`.
    pub(super) fn own(&self, name: &str) -> String {
        format!("{}{name}", self.dialect().prefix())
    }

    fn signed(&self, call: Call, payload: Digest) -> Call {
        let Some(bucket) = &self.account.bucket else {
            return call;
        };
        let url = call.url();
        let host = url.host_str().unwrap_or_default();
        let host = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let signer = Signer {
            dialect: self.dialect(),
            region: &bucket.region,
            access_key_id: &bucket.access_key_id,
            secret: &self.account.secret,
        };
        let signed = signer.sign(&Request {
            method: call.method(),
            host: &host,
            path: url.path(),
            query: url.query().unwrap_or_default(),
            headers: call.headers().collect(),
            payload,
            at: self.http.now(),
        });
        let call = signed
            .headers
            .into_iter()
            .fold(call, |call, (name, value)| call.header(name, value));
        call.authorization(signed.authorization)
            .hiding(&self.account.secret)
            .hiding(&bucket.access_key_id)
    }

    /// Makes a signed call, once; whatever isn't a success is told with advice.
    ///
    /// # Errors
    /// What the answer, or its loss, means.
    pub(super) async fn ask(&self, call: Call, payload: Digest) -> Result<Answer, CallError> {
        let call = self.signed(call.answered_within(ANSWER), payload);
        let answer = self.http.send(&call).await;
        let answer = answer.map_err(|e| lost(self.rules(), &e))?;
        let failed = said(&answer.body).code.is_some();
        match (200..300).contains(&answer.status) && !failed {
            true => Ok(answer),
            false => Err(self.refusal(&call, &answer)),
        }
    }

    /// As [`Bucket::ask`], for a call without a body of its own whose answer's may be of any length.
    ///
    /// # Errors
    /// What the answer's head, or its loss, means.
    pub(super) async fn open(&self, call: Call) -> Result<(Answer, Stream), CallError> {
        let call = self.signed(call.answered_within(ANSWER), Digest::of_bytes(b""));
        match self.http.open(&call).await {
            Ok((head, Some(body))) => Ok((head, body)),
            Ok((answer, None)) => Err(self.refusal(&call, &answer)),
            Err(e) => Err(lost(self.rules(), &e)),
        }
    }

    fn refusal(&self, call: &Call, answer: &Answer) -> CallError {
        advised(judge(self.rules(), call, answer), self.account)
    }

    /// A success in which something that has to be there isn't.
    pub(super) fn without(&self, answer: &Answer, what: &str) -> CallError {
        let call = Call::get(self.account.base_url.clone(), self.deadline);
        unreadable(self.rules(), &call, answer, &format!("{what} is missing"))
    }

    /// What an object is sent with, whole or in parts.
    pub(super) fn described(&self, call: Call, object: &Object) -> Call {
        let mut call = call.header("content-type", &object.mime);
        if let Some(it) = &object.cache_control {
            call = call.header("cache-control", it);
        }
        object.marked().into_iter().fold(call, |call, (name, it)| {
            call.header(self.own(&format!("meta-{name}")), it)
        })
    }

    /// Only where nothing is under the key, unless it may be replaced.
    pub(super) fn conditioned(&self, call: Call, object: &Object) -> Call {
        match (object.overwrite, self.dialect()) {
            (true, _) => call,
            (false, Dialect::S3) => call.header("if-none-match", "*"),
            (false, Dialect::Gcs) => call.header("x-goog-if-generation-match", "0"),
        }
    }

    /// Puts an object in one request.
    ///
    /// # Errors
    /// What was refused ([`is_taken`] where the key was taken), or lost.
    pub async fn put(&self, object: &Object, media: &Media) -> Result<Receipt, CallError> {
        let body = object.body(media, 0..object.source.bytes);
        let call = Call::put(self.url(&object.key, &[]), body, self.deadline);
        let mut call = self.conditioned(self.described(call, object), object);
        if self.dialect() == Dialect::S3 {
            call = call.header("x-amz-checksum-sha256", object.checksum());
        }
        let answer = self.ask(call, object.source.media.0).await?;
        let etag = answer.header("etag").map(str::to_owned);
        Ok(self.receipt(object, etag, answer.at))
    }

    /// What is under a key; `None` when nothing is.
    ///
    /// # Errors
    /// What was refused or lost. Without the right to read, some stores refuse what isn't there.
    pub async fn look(&self, key: &str) -> Result<Option<Found>, CallError> {
        let mut call = Call::head(self.url(key, &[]), self.deadline);
        if self.dialect() == Dialect::S3 {
            call = call.header("x-amz-checksum-mode", "ENABLED");
        }
        let answer = match self.ask(call, Digest::of_bytes(b"")).await {
            Ok(it) => it,
            Err(e) if e.refusal() == Some("http_404") => return Ok(None),
            Err(e) => return Err(e),
        };
        let text = |name: String| answer.header(&name).map(str::to_owned);
        let size = answer
            .header("content-length")
            .and_then(|it| it.parse().ok());
        Ok(Some(Found {
            bytes: size.ok_or_else(|| self.without(&answer, "its length"))?,
            etag: text("etag".to_owned()),
            effect: text(self.own(&format!("meta-{EFFECT}"))),
            sha256: text(self.own(&format!("meta-{SHA256}"))),
            checksum: text(self.own("checksum-sha256")),
        }))
    }

    /// What follows from a key that was taken when an object was sent under it: the proof that it is
    /// this object, or that it isn't.
    ///
    /// # Errors
    /// Permanent, as `exists`, when something else is there; transient when it is gone again; what was
    /// refused or lost else.
    pub async fn taken(&self, object: &Object) -> Result<Receipt, CallError> {
        match self.look(&object.key).await {
            Ok(Some(found)) if found.is(object) => Ok(self.found(object, &found)),
            Ok(Some(_)) => Err(CallError::Refused(exists(object))),
            Ok(None) => {
                let message = format!("`{}` was taken and is free again", object.key);
                Err(CallError::Refused(Failure::transient("conflict", message)))
            }
            Err(CallError::Refused(it)) if it.class == Class::Unauthorised => {
                let message = format!(
                    "`{}` is taken, and whether by this job can't be seen: let the account read objects, too (s3:GetObject): {}",
                    object.key, it.message
                );
                Err(CallError::Refused(Failure { message, ..it }))
            }
            Err(e) => Err(e),
        }
    }

    /// The proof that an object is there.
    pub fn found(&self, object: &Object, found: &Found) -> Receipt {
        self.receipt(object, found.etag.clone(), self.http.now())
    }

    pub(super) fn receipt(&self, object: &Object, etag: Option<String>, at: Time) -> Receipt {
        let etag = etag.map(|it| it.trim_matches('"').to_owned());
        Receipt {
            remote_id: Some(object.key.clone()),
            url: Some(object.url(self.account).into()),
            at,
            detail: serde_json::json!({"etag": etag}),
        }
    }

    /// Asks whether the bucket is there and takes the key.
    ///
    /// # Errors
    /// What was refused or lost.
    pub async fn who(&self) -> Result<String, CallError> {
        let none = Digest::of_bytes(b"");
        let call = Call::head(self.url("", &[]), self.deadline);
        if let Err(e) = self.ask(call, none).await {
            // the answer to a HEAD has no words: a list of nothing says why
            let list = self.url("", &[("list-type", "2"), ("max-keys", "0")]);
            let why = self.ask(Call::get(list, self.deadline), none).await;
            return Err(why.err().unwrap_or(e));
        }
        let bucket = self.account.bucket.as_ref();
        Ok(bucket.map_or_else(String::new, |it| format!("bucket {}", it.name)))
    }
}

/// Whether a call was refused because the key is taken (older MinIO answers 304).
pub fn is_taken(error: &CallError) -> bool {
    let codes = ["PreconditionFailed", "http_412", "http_304", "NotModified"];
    error.refusal().is_some_and(|it| codes.contains(&it))
}

/// Something else is under the key.
pub fn exists(object: &Object) -> Failure {
    let message = format!(
        "something else is under `{}` already; choose another `key`, or replace it with \"overwrite\": true",
        object.key
    );
    Failure::permanent("exists", message)
}

/// What the answers of S3 and of those that speak as it does mean.
const S3: Rules = Rules {
    platform: "S3",
    said,
    meaning,
};

/// What Google's answers mean.
const GCS: Rules = Rules {
    platform: "Google Cloud Storage",
    said,
    meaning,
};

fn said(body: &[u8]) -> Said {
    let error = Element::read(body).filter(|it| it.name == "Error");
    let Some(error) = error else {
        return Said::default();
    };
    let text = |name| error.get(name).map(str::to_owned);
    Said {
        // without a word it is an error nevertheless, in a 200 as well
        code: text("Code").or_else(|| Some("Error".to_owned())),
        message: text("Message").or_else(|| text("Details")),
    }
}

/// The codes by which an account is refused, whatever the status.
const ACCOUNT: [&str; 18] = [
    "AccessDenied",
    "AccountProblem",
    "AllAccessDisabled",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "IllegalLocationConstraintException",
    "InvalidAccessKeyId",
    "InvalidRegionName",
    "InvalidSecurity",
    "InvalidToken",
    "NotSignedUp",
    "PermanentRedirect",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "Unauthorized",
    "UserProjectAccountProblem",
];

fn meaning(status: u16, said: &Said) -> Option<Meaning> {
    let permanent = refused(Class::Permanent, Scope::Content);
    let transient = refused(Class::Transient, Scope::Platform);
    Some(match said.code.as_deref().unwrap_or_default() {
        it if ACCOUNT.contains(&it) => refused(Class::Unauthorised, Scope::Account),
        "NoSuchBucket" | "InvalidBucketName" => refused(Class::Permanent, Scope::Account),
        "NotImplemented" | "EntityTooLarge" | "EntityTooSmall" | "NoSuchUpload" => permanent,
        // it was looked at before it was kept: what came wasn't what was sent
        "BadDigest" | "IncompleteBody" | "RequestTimeout" | "XAmzContentSHA256Mismatch" => {
            transient
        }
        // two wrote the same key at once, or the bucket is being changed
        "ConditionalRequestConflict" | "OperationAborted" | "TemporaryRedirect" => transient,
        "SlowDown" | "TooManyRequests" => refused(Class::Throttled, Scope::Account),
        _ => match status {
            301 => refused(Class::Unauthorised, Scope::Account),
            304 | 412 => permanent,
            307 => transient,
            // S3's own word for it: "the request was not processed"
            409 if said.code.is_some() => transient,
            _ => return None,
        },
    })
}

/// What to do about a refusal, where that can be said.
fn advised(error: CallError, account: &Account) -> CallError {
    let CallError::Refused(failure) = error else {
        return error;
    };
    let region = account.bucket.as_ref().map_or("", |it| it.region.as_str());
    let advice = match failure.code.as_str() {
        "SignatureDoesNotMatch" => {
            "`secret` isn't that of `access_key_id`; write both anew, without blanks".to_owned()
        }
        "InvalidAccessKeyId" => {
            "the store knows no such `access_key_id`: was it deleted, or is base_url another store's?"
                .to_owned()
        }
        "RequestTimeTooSkewed" | "RequestExpired" => {
            "this host's clock is wrong: look at `timedatectl`".to_owned()
        }
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "InvalidRegionName" | "http_301" => {
            format!("the bucket is not in region `{region}`: say its `region`, and the base_url of it")
        }
        "AccessDenied" | "http_403" => {
            "the key needs s3:PutObject and s3:GetObject on the bucket's objects, and for large files s3:AbortMultipartUpload and s3:ListBucketMultipartUploads"
                .to_owned()
        }
        "NoSuchBucket" => "make the bucket, or correct `bucket`, then revive the job".to_owned(),
        _ => return CallError::Refused(failure),
    };
    let message = format!("{}; {advice}", failure.message);
    CallError::Refused(Failure { message, ..failure })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::verdict::usual;

    fn error(code: &str) -> Vec<u8> {
        format!("<Error><Code>{code}</Code><Message>m</Message></Error>").into_bytes()
    }

    #[test]
    fn each_code_has_its_meaning() {
        let of = |status, code: &str| {
            let it = said(&error(code));
            let it = meaning(status, &it).unwrap_or_else(|| usual(status));
            (it.acted, it.class)
        };
        for code in ACCOUNT {
            assert_eq!(of(403, code), (false, Class::Unauthorised), "{code}");
        }
        assert_eq!(of(200, "AccessDenied"), (false, Class::Unauthorised));
        for (status, code, class) in [
            (404, "NoSuchBucket", Class::Permanent),
            (400, "EntityTooLarge", Class::Permanent),
            (501, "NotImplemented", Class::Permanent),
            (412, "PreconditionFailed", Class::Permanent),
            (400, "InvalidArgument", Class::Permanent),
            (409, "ConditionalRequestConflict", Class::Transient),
            (400, "RequestTimeout", Class::Transient),
            (400, "BadDigest", Class::Transient),
            (503, "SlowDown", Class::Throttled),
            (429, "TooManyRequests", Class::Throttled),
        ] {
            assert_eq!(of(status, code), (false, class), "{code}");
        }
        for (status, code) in [
            (500, "InternalError"),
            (503, "ServiceUnavailable"),
            (200, "InternalError"),
            (504, ""),
        ] {
            assert_eq!(of(status, code), (true, Class::Unknown), "{code}");
        }
    }

    #[test]
    fn an_error_is_read_whatever_its_status() {
        let it = said(&error("InternalError"));
        assert_eq!(it.code.as_deref(), Some("InternalError"));
        assert_eq!(said(b"<Error/>").code.as_deref(), Some("Error"));
        assert_eq!(said(b"<Done/>"), Said::default());
        assert_eq!(said(b"<html>"), Said::default());
    }
}
