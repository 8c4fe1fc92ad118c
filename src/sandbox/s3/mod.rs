//! S3's wire format, path-style: objects, uploads in parts, signatures that are really checked.
//!
//! Every well-formed bucket exists, but those whose names begin with `missing`; those whose names
//! begin with `public` may be read by anybody.

mod xml;
mod sign;
mod side;
mod input;
mod objects;
mod uploads;

use std::sync::Arc;

use axum::http::Method;
use chrono::{DateTime, Utc};
use serde_json::Value;

pub(super) use self::side::S3;
use self::{
    input::Condition,
    objects::{Look, NewObject},
    side::{NAME, Place, Side},
    sign::{Payload, Signed},
    xml::{Named, document, empty, error},
};
use super::{
    acts::{Act, held},
    exchange::{Answer, Peek, Platform, Request},
    rate::{Rate, Rates},
    spool::Spooled,
    text::{hex, sha256},
};

/// A request that was understood.
pub(super) enum Op {
    Put(String, NewObject),
    Look(Look),
    Delete(String, Place),
    List(String, Vec<(String, String)>),
    Bucket(bool),
    Create {
        account: String,
        place: Place,
        about: Value,
        summed: bool,
    },
    Part {
        place: Place,
        upload: String,
        number: u16,
        file: Arc<Spooled>,
        summed: bool,
    },
    Parts {
        place: Place,
        upload: String,
        after: u16,
        most: usize,
    },
    Uploads(String, String),
    Complete {
        account: String,
        place: Place,
        upload: String,
        named: Vec<Named>,
        condition: Condition,
    },
    Abort(String, Place, String),
}

impl S3 {
    /// Who asks; anybody may read what is public.
    fn who(&self, request: &Request, place: &Place, op: &str) -> Result<Signed, Answer> {
        let path = format!("{}{}", Self::PREFIX, request.path);
        if let Some(signed) = sign::verify(request, &path, self.clock.now())? {
            return Ok(signed);
        }
        if place.bucket.starts_with("public") && matches!(op, "object.get" | "object.head") {
            return Ok(Signed {
                account: "anybody".into(),
                payload: Payload::Unsigned,
            });
        }
        Err(self.error(403, None))
    }

    fn understand(
        &self,
        op: &str,
        request: &Request,
        (place, signed): (Place, Signed),
    ) -> Result<Op, Answer> {
        input::known(request)?;
        if place.bucket.starts_with("missing") {
            return Err(error(
                404,
                "NoSuchBucket",
                "The specified bucket does not exist",
                &[("BucketName", &place.bucket)],
            ));
        }
        let account = signed.account.clone();
        let upload = || request.query("uploadId").unwrap_or_default().to_owned();
        let summed = request.headers.contains_key("x-amz-checksum-sha256");
        let number = |name: &str, usual: u16, most: u16| match request.query(name) {
            None | Some("") => Ok(usual),
            Some(text) => text
                .parse::<u16>()
                .ok()
                .filter(|number| *number <= most)
                .ok_or_else(|| {
                    let why = format!("{name} must be a whole number of at most {most}");
                    error(400, "InvalidArgument", &why, &[("ArgumentName", name)])
                }),
        };
        Ok(match op {
            "object.put" => {
                let file = body(request, &signed)?;
                let new = NewObject {
                    place,
                    file,
                    about: input::about(request)?,
                    condition: input::condition(request)?,
                    summed,
                };
                Op::Put(account, new)
            }
            "object.get" | "object.head" => Op::Look(Look::read(request, place)),
            "object.delete" => Op::Delete(account, place),
            "object.list" => Op::List(place.bucket, request.query.clone()),
            "bucket.head" => Op::Bucket(false),
            "bucket.location" => Op::Bucket(true),
            "upload.create" => Op::Create {
                account,
                place,
                about: input::about(request)?,
                summed: algorithm(request)?,
            },
            "upload.part" => {
                let number = number("partNumber", 0, uploads::PARTS)?;
                if number == 0 {
                    let why = "Part number must be an integer between 1 and 10000, inclusive";
                    return Err(error(400, "InvalidArgument", why, &[]));
                }
                Op::Part {
                    place,
                    upload: upload(),
                    number,
                    file: body(request, &signed)?,
                    summed,
                }
            }
            "upload.parts" => Op::Parts {
                place,
                upload: upload(),
                after: number("part-number-marker", 0, u16::MAX)?,
                most: usize::from(number("max-parts", 1000, u16::MAX)?.min(1000)),
            },
            "upload.list" => {
                let prefix = request.query("prefix").unwrap_or_default().to_owned();
                Op::Uploads(place.bucket, prefix)
            }
            "upload.complete" => {
                small_body(request, &signed)?;
                let named = xml::parts(&request.body).ok_or_else(|| {
                    let why = "The XML you provided was not well-formed or did not validate against our published schema";
                    error(400, "MalformedXML", why, &[])
                })?;
                Op::Complete {
                    account,
                    place,
                    upload: upload(),
                    named,
                    condition: input::condition(request)?,
                }
            }
            "upload.abort" => Op::Abort(account, place, upload()),
            _ => {
                return Err(error(
                    501,
                    "NotImplemented",
                    "A header or query you provided requested a function that is not implemented",
                    &[],
                ));
            }
        })
    }
}

/// Whether an upload's parts are summed; no other sums are known here.
fn algorithm(request: &Request) -> Result<bool, Answer> {
    match request.header("x-amz-checksum-algorithm") {
        None => Ok(false),
        Some("SHA256") => Ok(true),
        Some(other) => Err(error(
            501,
            "NotImplemented",
            "A header you provided implies functionality that is not implemented",
            &[("Algorithm", other)],
        )),
    }
}

/// The body of a PUT, checked.
fn body(request: &Request, signed: &Signed) -> Result<Arc<Spooled>, Answer> {
    let file = request.file.as_ref().ok_or_else(|| xml::usual(400, None))?;
    input::sums(request, signed, file)?;
    Ok(Arc::clone(file))
}

fn small_body(request: &Request, signed: &Signed) -> Result<(), Answer> {
    match &signed.payload {
        Payload::Hash(hash) if *hash != hex(&sha256(&request.body)) => Err(error(
            400,
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
            &[],
        )),
        _ => Ok(()),
    }
}

impl Platform for S3 {
    type Op = Op;
    const NAME: &'static str = NAME;
    const PREFIX: &'static str = "/s3";
    const REFUSAL: u16 = 400;
    const RETRY_AFTER: bool = false;

    fn streams(method: &Method, _path: &str) -> bool {
        method == Method::PUT
    }

    async fn read(&self, request: &Request) -> (Peek, Result<Op, Answer>) {
        let mut peek = Peek {
            op: "unknown",
            ..Peek::default()
        };
        let place = match input::place(&request.path) {
            Ok(place) => place,
            Err(refusal) => return (peek, Err(refusal)),
        };
        (peek.op, peek.writes, peek.quiet) = input::named(request, &place);
        if !place.key.is_empty() {
            peek.key = Some(place.id());
            peek.text = Some(place.key.clone());
        }
        let signed = match self.who(request, &place, peek.op) {
            Ok(signed) => signed,
            Err(refusal) => return (peek, Err(refusal)),
        };
        peek.account = Some(signed.account.clone());
        let op = self.understand(peek.op, request, (place, signed));
        (peek, op)
    }

    async fn perform(&self, op: Op) -> Answer {
        match op {
            Op::Put(account, new) => self.put(account, new).await,
            Op::Look(look) => self.look(&look),
            Op::Delete(account, place) => self.delete(account, &place),
            Op::List(bucket, query) => self.list(&bucket, &query),
            Op::Bucket(false) => empty(200).with("x-amz-bucket-region", "us-east-1"),
            Op::Bucket(true) => document("LocationConstraint", ""),
            Op::Create {
                account,
                place,
                about,
                summed,
            } => self.create(account, &place, about, summed),
            Op::Part {
                place,
                upload,
                number,
                file,
                summed,
            } => self.part(&place, &upload, number, file, summed).await,
            Op::Parts {
                place,
                upload,
                after,
                most,
            } => self.parts(&place, &upload, after, most),
            Op::Uploads(bucket, prefix) => self.uploads(&bucket, &prefix),
            Op::Complete {
                account,
                place,
                upload,
                named,
                condition,
            } => {
                self.complete(account, &place, &upload, (named, condition))
                    .await
            }
            Op::Abort(account, place, upload) => self.abort(account, &place, &upload).await,
        }
    }

    fn error(&self, status: u16, message: Option<&str>) -> Answer {
        xml::usual(status, message)
    }

    /// What a client sees whose first answer was lost and whose library asked again.
    fn denial(&self) -> Answer {
        xml::usual(412, None)
    }

    fn rates(&self) -> &Rates {
        &self.rates
    }

    fn rate_headers(&self, _rate: &Rate, _now: DateTime<Utc>) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn replay(&self, act: &Act) {
        held(&self.side).apply(&Arc::new(act.clone()));
    }

    fn forget(&self) {
        *held(&self.side) = Side::default();
        self.rates.forget();
        self.spool.forget_parts();
    }
}
