//! Instagram's wire format: containers that are published later, by the Graph API and its upload service.

mod graph;
mod fetch;
mod side;
mod transfer;
mod container;
mod publish;

use std::sync::Arc;

use axum::http::Method;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

pub(super) use self::side::Instagram;
use self::{
    container::NewContainer,
    side::{NAME, Side, user_id},
    transfer::{Piece, refuse},
};
use super::{
    acts::{Act, held},
    exchange::{Answer, Peek, Platform, Request, Token},
    rate::{Rate, Rates},
};

/// A request that was understood, with the account that asks.
pub(super) enum Op {
    Create(String, NewContainer),
    Transfer(String, String, Piece),
    Publish {
        account: String,
        creation: String,
        lag_ms: u32,
    },
    Look(String, String, Option<String>),
    List(String, Map<String, Value>),
    Limit(String, Map<String, Value>),
}

/// The business that the usage headers speak of.
const BUSINESS: &str = "17841400000000000";

/// The parts of a path behind its version.
fn unversioned<'a>(parts: &'a [&'a str]) -> &'a [&'a str] {
    let version = |part: &str| {
        let numbers = part.strip_prefix('v').and_then(|it| it.split_once('.'));
        let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        numbers.is_some_and(|(major, minor)| number(major) && number(minor))
    };
    match parts {
        [first, rest @ ..] if version(first) => rest,
        all => all,
    }
}

/// The token: a parameter, or `Authorization: Bearer` or `OAuth`.
fn bearer(request: &Request, all: &Map<String, Value>) -> Option<String> {
    let header = || {
        let (scheme, token) = request.header("authorization")?.split_once(' ')?;
        let known = ["bearer", "oauth"]
            .iter()
            .any(|it| scheme.eq_ignore_ascii_case(it));
        known.then(|| token.trim().to_owned())
    };
    graph::text(all, "access_token").or_else(header)
}

impl Instagram {
    fn who(&self, bearer: Option<String>) -> Token {
        self.grants.who(bearer.as_deref(), self.clock.now())
    }

    fn understand(
        &self,
        request: &Request,
        (account, all): (String, Map<String, Value>),
        peek: &mut Peek,
    ) -> Result<Op, Answer> {
        let parts = request.parts();
        let parts = unversioned(&parts);
        let own = |id: &str| {
            if id == "me" || id == user_id(&account) {
                Ok(())
            } else {
                Err(graph::unknown(id, request.method.as_str()))
            }
        };
        match (&request.method, parts) {
            (&Method::POST, [id, "media"]) => {
                (peek.op, peek.writes, peek.quiet) = ("container.create", true, true);
                peek.text = graph::text(&all, "caption");
                own(id)?;
                Ok(Op::Create(account, NewContainer::read(&all)?))
            }
            (&Method::POST, [id, "media_publish"]) => {
                (peek.op, peek.writes) = ("media.publish", true);
                own(id)?;
                let creation = graph::text(&all, "creation_id")
                    .ok_or_else(|| graph::parameter("The parameter creation_id is required"))?;
                peek.text = self.caption_of(&creation);
                peek.key = Some(creation.clone());
                Ok(Op::Publish {
                    account,
                    creation,
                    lag_ms: 0,
                })
            }
            (&Method::GET, [id, "media"]) => {
                peek.op = "media.list";
                own(id)?;
                Ok(Op::List(account, all))
            }
            (&Method::GET, [id, "content_publishing_limit"]) => {
                peek.op = "limit.get";
                own(id)?;
                Ok(Op::Limit(account, all))
            }
            (&Method::GET, [id]) => {
                peek.op = publish::kind_of(&held(&self.side), id);
                peek.key = Some((*id).to_owned());
                let asked = graph::text(&all, "fields");
                Ok(Op::Look(account, (*id).to_owned(), asked))
            }
            (method, parts) => Err(graph::unknown(&parts.join("/"), method.as_str())),
        }
    }

    /// A request to the upload service.
    fn upload(&self, request: &Request, peek: &mut Peek) -> Result<Op, Answer> {
        let parts = request.parts();
        let id = parts.last().copied().unwrap_or_default().to_owned();
        (peek.op, peek.writes, peek.quiet) = ("container.upload", true, true);
        peek.text = self.caption_of(&id);
        peek.key = Some(id.clone());
        let Token::Account(account) = self.who(bearer(request, &Map::new())) else {
            return Err(refuse(
                401,
                "NotAuthorizedError",
                false,
                "Invalid OAuth access token",
            ));
        };
        held(&self.side).meet(&account);
        peek.account = Some(account.clone());
        let number = |name: &str| {
            let value = request.header(name).and_then(|it| it.parse::<u64>().ok());
            let why = format!("the header {name} must be a number");
            value.ok_or_else(|| refuse(400, "ParameterInvalidError", false, &why))
        };
        let (offset, file_size) = (number("offset")?, number("file_size")?);
        match &request.file {
            Some(file) => {
                let piece = Piece {
                    offset,
                    file_size,
                    file: Arc::clone(file),
                };
                Ok(Op::Transfer(account, id, piece))
            }
            None => Err(graph::unknown(&id, request.method.as_str())),
        }
    }
}

impl Platform for Instagram {
    type Op = Op;
    const NAME: &'static str = NAME;
    const PREFIX: &'static str = "/instagram";
    const REFUSAL: u16 = 400;
    const RETRY_AFTER: bool = false;

    fn streams(method: &Method, path: &str) -> bool {
        method == Method::POST && path.starts_with("/ig-api-upload/")
    }

    async fn read(&self, request: &Request) -> (Peek, Result<Op, Answer>) {
        let mut peek = Peek {
            op: "unknown",
            ..Peek::default()
        };
        if request.path.starts_with("/ig-api-upload/") {
            let op = self.upload(request, &mut peek);
            return (peek, op);
        }
        let all = match graph::parameters(request).await {
            Ok(all) => all,
            Err(why) => return (peek, Err(graph::parameter(&why))),
        };
        let account = match self.who(bearer(request, &all)) {
            Token::Account(account) => account,
            other => {
                let (subcode, why) = match other {
                    Token::Missing => (
                        None,
                        "An access token is required to request this resource.",
                    ),
                    Token::Expired => (
                        Some(463),
                        "Error validating access token: Session has expired.",
                    ),
                    _ => (
                        None,
                        "Invalid OAuth access token - Cannot parse access token",
                    ),
                };
                // told as 400, as it is there: the code says what it is
                return (peek, Err(graph::error(400, 190, subcode, why)));
            }
        };
        held(&self.side).meet(&account);
        peek.account = Some(account.clone());
        let op = self.understand(request, (account, all), &mut peek);
        (peek, op)
    }

    fn lag(op: &mut Op, by_ms: u32) {
        if let Op::Publish { lag_ms, .. } = op {
            *lag_ms = by_ms;
        }
    }

    async fn perform(&self, op: Op) -> Answer {
        match op {
            Op::Create(account, new) => self.create(account, new).await,
            Op::Transfer(account, id, piece) => self.transfer(&account, &id, piece).await,
            Op::Publish {
                account,
                creation,
                lag_ms,
            } => self.publish(account, creation, lag_ms),
            Op::Look(account, id, asked) => self.look(&account, &id, asked.as_deref()),
            Op::List(account, all) => self.list(&account, &all),
            Op::Limit(account, all) => self.limit(&account, &all),
        }
    }

    fn error(&self, status: u16, message: Option<&str>) -> Answer {
        graph::usual(status, message)
    }

    fn denial(&self) -> Answer {
        graph::error(
            403,
            4,
            Some(2_207_051),
            "We restrict certain activity to protect our community. Your action was blocked.",
        )
    }

    fn rates(&self) -> &Rates {
        &self.rates
    }

    fn rate_headers(&self, rate: &Rate, now: DateTime<Utc>) -> Vec<(&'static str, String)> {
        let used = 100 - u64::from(rate.remaining) * 100 / u64::from(rate.limit.max(1));
        let wait = match rate.remaining {
            // minutes, begun ones too
            0 => ((rate.reset - now).num_seconds().max(0) + 59) / 60,
            _ => 0,
        };
        let app = json!({"call_count": used, "total_cputime": used, "total_time": used});
        let mut business = app.clone();
        business["type"] = "instagram".into();
        business["estimated_time_to_regain_access"] = wait.into();
        let business = json!({ BUSINESS: [business] });
        vec![
            ("x-app-usage", app.to_string()),
            ("x-business-use-case-usage", business.to_string()),
        ]
    }

    fn replay(&self, act: &Act) {
        held(&self.side).apply(&Arc::new(act.clone()));
    }

    fn forget(&self) {
        *held(&self.side) = Side::default();
        self.rates.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_may_stand_before_the_path() {
        assert_eq!(unversioned(&["v25.0", "me"]), ["me"]);
        assert_eq!(unversioned(&["me", "media"]), ["me", "media"]);
        assert_eq!(unversioned(&["v.1", "x"]), ["v.1", "x"]);
    }
}
