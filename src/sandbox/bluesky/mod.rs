//! Bluesky's wire format: sessions, blobs and records of a PDS.

mod session;
mod lexicon;
mod input;
mod side;
mod records;

use axum::http::Method;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

pub(super) use self::side::Bluesky;
use self::{
    input::Write,
    session::{Refused, Scope},
    side::{NAME, PERIOD_S, Side, refuse},
};
use super::{
    acts::{Act, held},
    exchange::{Answer, Peek, Platform, Request},
    rate::{Rate, Rates},
};

/// Bytes of a blob.
const BLOB_BYTES: usize = 50 * 1024 * 1024;

/// A request that was understood.
pub(super) enum Op {
    Login(String),
    Refresh(String),
    Session(String),
    Upload(String, String, Bytes),
    Write(String, Write),
    Get {
        did: String,
        collection: String,
        rkey: String,
        cid: Option<String>,
    },
    List {
        did: String,
        collection: String,
        limit: usize,
        cursor: Option<String>,
        reverse: bool,
    },
    Delete {
        account: String,
        collection: String,
        rkey: String,
        swap: Option<String>,
    },
}

fn unauthorised(why: Refused) -> Answer {
    match why {
        Refused::Missing => refuse(401, "AuthMissing", "Authentication Required"),
        Refused::Invalid => refuse(400, "InvalidToken", "Token could not be verified"),
        Refused::Expired => refuse(400, "ExpiredToken", "Token has expired"),
    }
}

fn invalid(why: String) -> Answer {
    refuse(400, "InvalidRequest", &why)
}

impl Bluesky {
    fn session(&self, handle: &str, with_tokens: bool) -> Answer {
        held(&self.side).meet(handle);
        let did = session::did(handle);
        let now = self.clock.now();
        let mut body = json!({
            "handle": handle, "did": did, "email": format!("{handle}@sandbox.test"), "emailConfirmed": true,
            "emailAuthFactor": false, "active": true,
            "didDoc": {"id": did, "service": [{
                "id": "#atproto_pds", "type": "AtprotoPersonalDataServer",
                "serviceEndpoint": format!("{}/bluesky", self.base),
            }]},
        });
        if with_tokens {
            body["accessJwt"] = Value::String(session::issue(handle, Scope::Access, now));
            body["refreshJwt"] = Value::String(session::issue(handle, Scope::Refresh, now));
        }
        Answer::json(200, &body)
    }

    /// The DID that a handle or DID means.
    fn repo(&self, name: &str) -> Result<String, Answer> {
        if name.starts_with("did:plc:") && name.len() == 32 {
            return Ok(name.to_owned());
        }
        let handle =
            session::handle(name).ok_or_else(|| invalid(format!("Could not find repo: {name}")))?;
        Ok(session::did(&handle))
    }

    fn access(&self, request: &Request) -> Result<String, Answer> {
        session::verify(request.bearer(), Scope::Access, self.clock.now()).map_err(unauthorised)
    }

    /// The body of a write to one's own repository.
    fn own_body(
        &self,
        request: &Request,
        fields: &[&str],
    ) -> Result<(String, Map<String, Value>), Answer> {
        let account = self.access(request)?;
        let body = json_body(request, fields)?;
        let repo = self.repo(input::text(&body, "repo").map_err(invalid)?)?;
        if repo != session::did(&account) {
            return Err(refuse(
                401,
                "AuthMissing",
                "Authentication Required: this is the repo of somebody else",
            ));
        }
        Ok((account, body))
    }

    fn understand(&self, method: &str, request: &Request) -> Result<Op, Answer> {
        match method {
            "createSession" => self.login(request),
            "refreshSession" => {
                let account = session::verify(request.bearer(), Scope::Refresh, self.clock.now());
                account.map(Op::Refresh).map_err(unauthorised)
            }
            "getSession" => self.access(request).map(Op::Session),
            "uploadBlob" => self.blob(request),
            "putRecord" | "createRecord" => {
                let create = method == "createRecord";
                let fields: &[&str] = if create {
                    &[
                        "repo",
                        "collection",
                        "rkey",
                        "validate",
                        "record",
                        "swapCommit",
                    ]
                } else {
                    &[
                        "repo",
                        "collection",
                        "rkey",
                        "validate",
                        "record",
                        "swapRecord",
                        "swapCommit",
                    ]
                };
                let (account, body) = self.own_body(request, fields)?;
                let write = input::write(&body, create, self.clock.now()).map_err(invalid)?;
                Ok(Op::Write(account, write))
            }
            "deleteRecord" => {
                let (account, body) = self.own_body(
                    request,
                    &["repo", "collection", "rkey", "swapRecord", "swapCommit"],
                )?;
                let text = |name| input::text(&body, name).map(str::to_owned).map_err(invalid);
                let swap = input::text_or_none(&body, "swapRecord").map_err(invalid)?;
                Ok(Op::Delete {
                    account,
                    collection: text("collection")?,
                    rkey: text("rkey")?,
                    swap,
                })
            }
            "getRecord" => {
                known_query(request, &["repo", "collection", "rkey", "cid"])?;
                Ok(Op::Get {
                    did: self.repo(&param(request, "repo")?)?,
                    collection: collection(request)?,
                    rkey: param(request, "rkey")?,
                    cid: request.query("cid").map(str::to_owned),
                })
            }
            _ => self.listing(request),
        }
    }

    fn listing(&self, request: &Request) -> Result<Op, Answer> {
        known_query(
            request,
            &["repo", "collection", "limit", "cursor", "reverse"],
        )?;
        let limit = match request.query("limit").map_or(Ok(50), str::parse::<usize>) {
            Ok(limit @ 1..=100) => limit,
            _ => {
                return Err(invalid(
                    "Error: limit must be an integer from 1 to 100".into(),
                ));
            }
        };
        Ok(Op::List {
            did: self.repo(&param(request, "repo")?)?,
            collection: collection(request)?,
            limit,
            cursor: request.query("cursor").map(str::to_owned),
            reverse: request.query("reverse") == Some("true"),
        })
    }

    fn login(&self, request: &Request) -> Result<Op, Answer> {
        let body = json_body(
            request,
            &[
                "identifier",
                "password",
                "authFactorToken",
                "allowTakendown",
            ],
        )?;
        let identifier = input::text(&body, "identifier").map_err(invalid)?;
        let password = input::text(&body, "password").map_err(invalid)?;
        let known = held(&self.side).handle(identifier).cloned();
        let handle = known.or_else(|| session::handle(identifier));
        match handle {
            Some(handle)
                if password.starts_with("sandbox-") && !password.starts_with("sandbox-expired") =>
            {
                Ok(Op::Login(handle))
            }
            _ => Err(refuse(
                401,
                "AuthenticationRequired",
                "Invalid identifier or password",
            )),
        }
    }

    fn blob(&self, request: &Request) -> Result<Op, Answer> {
        let account = self.access(request)?;
        let mime = request.content_type();
        if !mime.contains('/') {
            return Err(invalid(
                "Request encoding (Content-Type) required but not provided".into(),
            ));
        }
        if request.body.is_empty() {
            return Err(invalid(
                "Request has a content-type but an empty body".into(),
            ));
        }
        if request.body.len() > BLOB_BYTES {
            return Err(refuse(413, "PayloadTooLarge", "request entity too large"));
        }
        Ok(Op::Upload(account, mime, request.body.clone()))
    }
}

fn json_body(request: &Request, fields: &[&str]) -> Result<Map<String, Value>, Answer> {
    if request.content_type() != "application/json" {
        let given = request.content_type();
        return Err(invalid(format!(
            "Wrong request encoding (Content-Type): {given:?}, expected application/json"
        )));
    }
    input::object(&request.body, fields).map_err(invalid)
}

fn known_query(request: &Request, names: &[&str]) -> Result<(), Answer> {
    match request
        .query
        .iter()
        .find(|(name, _)| !names.contains(&name.as_str()))
    {
        Some((name, _)) => Err(invalid(format!(
            "Params has the unknown property \"{name}\""
        ))),
        None => Ok(()),
    }
}

fn param(request: &Request, name: &str) -> Result<String, Answer> {
    let missing = || invalid(format!("Error: Params must have the property \"{name}\""));
    request
        .query(name)
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
        .ok_or_else(missing)
}

fn collection(request: &Request) -> Result<String, Answer> {
    let name = param(request, "collection")?;
    if input::nsid(&name) {
        Ok(name)
    } else {
        Err(invalid("Error: collection must be a valid nsid".into()))
    }
}

/// The procedures and queries that are served: full name, short name, whether it is a POST, whether it writes.
const METHODS: &[(&str, &str, bool, bool)] = &[
    (
        "com.atproto.server.createSession",
        "createSession",
        true,
        false,
    ),
    (
        "com.atproto.server.refreshSession",
        "refreshSession",
        true,
        false,
    ),
    ("com.atproto.server.getSession", "getSession", false, false),
    ("com.atproto.repo.uploadBlob", "uploadBlob", true, true),
    ("com.atproto.repo.putRecord", "putRecord", true, true),
    ("com.atproto.repo.createRecord", "createRecord", true, true),
    ("com.atproto.repo.deleteRecord", "deleteRecord", true, true),
    ("com.atproto.repo.getRecord", "getRecord", false, false),
    ("com.atproto.repo.listRecords", "listRecords", false, false),
];

impl Platform for Bluesky {
    type Op = Op;
    const NAME: &'static str = NAME;
    const PREFIX: &'static str = "/bluesky";
    const REFUSAL: u16 = 400;

    async fn read(&self, request: &Request) -> (Peek, Result<Op, Answer>) {
        let mut peek = Peek {
            op: "unknown",
            account: request
                .bearer()
                .and_then(session::account_of)
                .map(str::to_owned),
            ..Peek::default()
        };
        let parts = request.parts();
        let method = match &parts[..] {
            ["xrpc", nsid] => METHODS.iter().find(|(full, ..)| full == nsid),
            _ => None,
        };
        let Some((_, name, post, writes)) = method else {
            return (
                peek,
                Err(refuse(
                    501,
                    "MethodNotImplemented",
                    "Method Not Implemented",
                )),
            );
        };
        (peek.op, peek.writes) = (name, *writes);
        if *name != "uploadBlob" && *post {
            let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            let text = |value: &Value| value.as_str().map(str::to_owned);
            peek.key = text(&body["rkey"]);
            peek.text = text(&body["record"]["text"]);
            if *name == "createSession" {
                peek.account = body["identifier"].as_str().and_then(session::handle);
            }
        } else if !*post {
            peek.key = request.query("rkey").map(str::to_owned);
        }
        let right = if *post { Method::POST } else { Method::GET };
        if request.method != right {
            return (
                peek,
                Err(invalid(format!(
                    "Incorrect HTTP method ({}) expected {right}",
                    request.method
                ))),
            );
        }
        let op = self.understand(name, request);
        (peek, op)
    }

    async fn perform(&self, op: Op) -> Answer {
        match op {
            Op::Login(handle) | Op::Refresh(handle) => self.session(&handle, true),
            Op::Session(handle) => self.session(&handle, false),
            Op::Upload(account, mime, bytes) => self.upload(account, mime, bytes).await,
            Op::Write(account, write) => self.write(account, write),
            Op::Get {
                did,
                collection,
                rkey,
                cid,
            } => self.get(&did, &collection, &rkey, cid.as_deref()),
            Op::List {
                did,
                collection,
                limit,
                cursor,
                reverse,
            } => self.list(&did, &collection, limit, cursor.as_deref(), reverse),
            Op::Delete {
                account,
                collection,
                rkey,
                swap,
            } => self.delete(account, collection, rkey, swap),
        }
    }

    fn error(&self, status: u16, message: Option<&str>) -> Answer {
        let (name, usual) = match status {
            401 => ("AuthenticationRequired", "Invalid identifier or password"),
            403 => ("Forbidden", "Forbidden"),
            404 => ("XRPCNotSupported", "XRPCNotSupported"),
            413 => ("PayloadTooLarge", "request entity too large"),
            429 => ("RateLimitExceeded", "Rate Limit Exceeded"),
            400..=499 => ("InvalidRequest", "Refused by the sandbox on request"),
            502 => ("UpstreamFailure", "Upstream Failure"),
            503 => ("NotEnoughResources", "Not Enough Resources"),
            504 => ("UpstreamTimeout", "Upstream Timeout"),
            _ => ("InternalServerError", "Internal Server Error"),
        };
        refuse(status, name, message.unwrap_or(usual))
    }

    fn rates(&self) -> &Rates {
        &self.rates
    }

    fn rate_headers(&self, rate: &Rate, _now: DateTime<Utc>) -> Vec<(&'static str, String)> {
        vec![
            ("ratelimit-limit", rate.limit.to_string()),
            ("ratelimit-remaining", rate.remaining.to_string()),
            ("ratelimit-reset", rate.reset.timestamp().to_string()),
            ("ratelimit-policy", format!("{};w={PERIOD_S}", rate.limit)),
        ]
    }

    fn replay(&self, act: &Act) {
        held(&self.side).apply(act);
    }

    fn forget(&self) {
        *held(&self.side) = Side::default();
        self.rates.forget();
    }
}
