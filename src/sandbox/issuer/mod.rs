//! An issuer of tokens as OAuth 2 has it (RFC 6749, 7636): a page that approves at once, codes that are good
//! for one use, refresh tokens that rotate, and a family that is revoked when an old one comes again.

mod words;
mod side;

use axum::http::Method;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::json;

pub(super) use self::side::Issuer;
use self::side::{Asked, NAME};
use self::words::refuse;
use super::{
    acts::{Act, held},
    exchange::{Answer, Peek, Platform, Request},
    rate::{Rate, Rates},
};

/// The app that every sandbox knows, and its secret.
const APP: (&str, &str) = ("sandbox-app", "sandbox-app-secret");
/// An app without a secret: it has to use PKCE.
const PUBLIC: &str = "sandbox-public";

/// A request that was understood.
pub(super) enum Op {
    Authorize(Asked),
    Code {
        app: String,
        code: String,
        redirect: String,
        verifier: Option<String>,
    },
    Refresh {
        token: String,
    },
    Prolong {
        token: String,
    },
    Revoke {
        token: String,
    },
}

/// The fields of a form's body.
fn fields(request: &Request) -> Result<Vec<(String, String)>, Answer> {
    match request.content_type().as_str() {
        "application/x-www-form-urlencoded" => Ok(url::form_urlencoded::parse(&request.body)
            .into_owned()
            .collect()),
        _ => Err(refuse(
            400,
            "invalid_request",
            "The body must be application/x-www-form-urlencoded",
        )),
    }
}

/// The app that asks, if it proves that it is.
fn app(request: &Request, fields: &[(String, String)]) -> Result<String, Answer> {
    let unknown = || refuse(401, "invalid_client", "Client authentication failed");
    let basic = request
        .header("authorization")
        .and_then(|it| it.strip_prefix("Basic "));
    let (id, secret) = match basic {
        Some(text) => {
            let text = STANDARD.decode(text).map_err(|_| unknown())?;
            let text = String::from_utf8(text).map_err(|_| unknown())?;
            let (id, secret) = text.split_once(':').ok_or_else(unknown)?;
            (decoded(id), Some(decoded(secret)))
        }
        None => {
            let id = field(fields, "client_id").or_else(|| field(fields, "client_key"));
            (id.ok_or_else(unknown)?, field(fields, "client_secret"))
        }
    };
    match (id.as_str(), secret) {
        (id, Some(secret)) if (id, secret.as_str()) == APP => Ok(id.to_owned()),
        (PUBLIC, None) => Ok(id),
        _ => Err(unknown()),
    }
}

fn decoded(text: &str) -> String {
    let pair = format!("p={text}");
    url::form_urlencoded::parse(pair.as_bytes())
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

fn field(fields: &[(String, String)], name: &str) -> Option<String> {
    let found = fields.iter().find(|(key, _)| key == name);
    found
        .map(|(_, value)| value.clone())
        .filter(|it| !it.is_empty())
}

impl Issuer {
    fn asked(&self, request: &Request) -> Result<Asked, Answer> {
        let query = |name: &str| request.query(name).map(str::to_owned);
        let invalid = |why: &str| refuse(400, "invalid_request", why);
        let app = query("client_id").or_else(|| query("client_key"));
        let app = app
            .filter(|it| it == APP.0 || it == PUBLIC)
            .ok_or_else(|| invalid("The client is unknown"))?;
        let redirect = query("redirect_uri").filter(|it| url::Url::parse(it).is_ok());
        let redirect = redirect.ok_or_else(|| invalid("redirect_uri is missing or no URL"))?;
        if request.query("response_type") != Some("code") {
            return Err(invalid("response_type must be code"));
        }
        let challenge = query("code_challenge");
        if challenge.is_some() && request.query("code_challenge_method") != Some("S256") {
            return Err(invalid("code_challenge_method must be S256"));
        }
        if app == PUBLIC && challenge.is_none() {
            return Err(invalid("A client without a secret needs code_challenge"));
        }
        Ok(Asked {
            app,
            redirect,
            challenge,
            scope: query("scope").unwrap_or_default(),
            state: query("state"),
        })
    }

    fn exchange(&self, request: &Request, peek: &mut Peek) -> Result<Op, Answer> {
        let fields = fields(request)?;
        let grant = field(&fields, "grant_type");
        let missing = |name: &str| refuse(400, "invalid_request", &format!("{name} is missing"));
        let op = match grant.as_deref() {
            Some("authorization_code") => {
                peek.op = "token.grant";
                let code = field(&fields, "code").ok_or_else(|| missing("code"))?;
                peek.account = held(&self.side).whose_code(&code);
                Op::Code {
                    app: app(request, &fields)?,
                    code,
                    redirect: field(&fields, "redirect_uri").unwrap_or_default(),
                    verifier: field(&fields, "code_verifier"),
                }
            }
            Some("refresh_token") => {
                peek.op = "token.refresh";
                let token =
                    field(&fields, "refresh_token").ok_or_else(|| missing("refresh_token"))?;
                peek.account = held(&self.side).whose(&token);
                app(request, &fields)?;
                Op::Refresh { token }
            }
            _ => {
                return Err(refuse(
                    400,
                    "unsupported_grant_type",
                    "grant_type must be authorization_code or refresh_token",
                ));
            }
        };
        Ok(op)
    }

    /// A short-lived token is changed for a long-lived one, in the ways of Meta's platforms.
    fn prolonging(&self, request: &Request, peek: &mut Peek) -> Result<Op, Answer> {
        let query = |name: &str| request.query(name).filter(|it| !it.is_empty());
        let missing = |name: &str| refuse(400, "invalid_request", &format!("{name} is missing"));
        let name = match query("grant_type") {
            Some("fb_exchange_token") => "fb_exchange_token",
            Some("ig_exchange_token" | "th_exchange_token") => "access_token",
            _ => {
                let why =
                    "grant_type must be fb_exchange_token, ig_exchange_token or th_exchange_token";
                return Err(refuse(400, "unsupported_grant_type", why));
            }
        };
        let token = query(name).ok_or_else(|| missing(name))?.to_owned();
        let found = self.grants.family(&token, self.clock.now());
        peek.account = found.map(|it| it.0);
        // Facebook asks for the client's id, too
        let is_named = name == "access_token" || query("client_id") == Some(APP.0);
        if query("client_secret") != Some(APP.1) || !is_named {
            return Err(refuse(
                401,
                "invalid_client",
                "Client authentication failed",
            ));
        }
        Ok(Op::Prolong { token })
    }
}

impl Platform for Issuer {
    type Op = Op;
    const NAME: &'static str = NAME;
    const PREFIX: &'static str = "/issuer";
    const REFUSAL: u16 = 400;

    async fn read(&self, request: &Request) -> (Peek, Result<Op, Answer>) {
        let mut peek = Peek {
            op: "unknown",
            writes: true,
            ..Peek::default()
        };
        let op = match (&request.method, request.parts().as_slice()) {
            (&Method::GET, ["authorize"]) => {
                peek.op = "code.issue";
                let account = self.settings.now().issuer_account;
                peek.account = Some(account);
                self.asked(request).map(Op::Authorize)
            }
            (&Method::POST, ["token"]) => {
                peek.op = "token";
                self.exchange(request, &mut peek)
            }
            (&Method::GET, ["exchange"]) => {
                peek.op = "token.exchange";
                self.prolonging(request, &mut peek)
            }
            (&Method::POST, ["revoke"]) => {
                peek.op = "family.revoke";
                let revoked = || {
                    let fields = fields(request)?;
                    app(request, &fields)?;
                    let token = field(&fields, "token");
                    token.ok_or_else(|| refuse(400, "invalid_request", "token is missing"))
                };
                revoked().map(|token| Op::Revoke { token })
            }
            _ => Err(self.error(404, None)),
        };
        (peek, op)
    }

    async fn perform(&self, op: Op) -> Answer {
        match op {
            Op::Authorize(asked) => self.authorize(asked),
            Op::Code {
                app,
                code,
                redirect,
                verifier,
            } => self.redeem(&app, &code, &redirect, verifier.as_deref()),
            Op::Refresh { token } => self.refresh(&token),
            Op::Prolong { token } => self.prolong(&token),
            Op::Revoke { token } => {
                self.revoke(&token);
                // also of a token that isn't known (RFC 7009)
                Answer {
                    body: Bytes::new(),
                    ..Answer::json(200, &json!({}))
                }
            }
        }
    }

    fn error(&self, status: u16, message: Option<&str>) -> Answer {
        let code = match status {
            400 => "invalid_grant",
            401 => "invalid_client",
            403 => "access_denied",
            429 => "slow_down",
            500.. => "server_error",
            _ => "invalid_request",
        };
        refuse(status, code, message.unwrap_or("As the sandbox was told"))
    }

    fn rates(&self) -> &Rates {
        &self.rates
    }

    fn rate_headers(&self, _rate: &Rate, _now: DateTime<Utc>) -> Vec<(&'static str, String)> {
        vec![]
    }

    fn replay(&self, act: &Act) {
        self.take_in(act);
    }

    fn forget(&self) {
        *held(&self.side) = side::Side::default();
        self.grants.forget();
        self.rates.forget();
    }
}
