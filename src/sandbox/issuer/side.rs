//! What the simulated issuer remembers: codes, and families of tokens that came from one grant.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::super::{
    acts::{Act, ActLog, Draft, held},
    clock::Clock,
    exchange::Answer,
    grants::{Grants, ISSUED},
    rate::Rates,
    settings::Settings,
    text::{fingerprint, hex, sha256},
};
use super::words::refuse;

pub(super) const NAME: &str = "issuer";
/// Requests in a quarter of an hour: no test comes near.
const REQUESTS: u32 = 90_000;
const PERIOD_S: u32 = 900;
/// How long a code may be redeemed, in seconds.
const CODE_S: i64 = 60;
/// How long a token lives that a short-lived one was changed for, in seconds.
const LONG_S: u32 = 60 * 86_400;

/// The issuer.
#[derive(Debug)]
pub(in super::super) struct Issuer {
    pub(super) acts: Arc<ActLog>,
    pub(super) clock: Arc<Clock>,
    pub(super) settings: Arc<Settings>,
    pub(super) grants: Arc<Grants>,
    pub(super) rates: Rates,
    pub(super) side: Mutex<Side>,
}

/// What a person is asked to grant.
#[derive(Debug)]
pub(in super::super) struct Asked {
    pub(super) app: String,
    pub(super) redirect: String,
    pub(super) challenge: Option<String>,
    pub(super) scope: String,
    pub(super) state: Option<String>,
}

/// A code that was given.
#[derive(Debug)]
struct Code {
    account: String,
    app: String,
    redirect: String,
    challenge: Option<String>,
    scope: String,
    until: DateTime<Utc>,
    /// The family that it was redeemed for.
    family: Option<String>,
}

/// The tokens of one grant.
#[derive(Debug)]
struct Family {
    account: String,
    app: String,
    scope: String,
    current: String,
    /// The token before, and when it was replaced; forgiven once within the grace.
    replaced: Option<(String, DateTime<Utc>)>,
    revoked: bool,
}

/// Everything.
#[derive(Debug, Default)]
pub(in super::super) struct Side {
    last: u64,
    codes: HashMap<String, Code>,
    families: HashMap<String, Family>,
    /// The family of each refresh token that there ever was.
    refreshes: HashMap<String, String>,
}

impl Side {
    /// Whose a refresh token is.
    pub(super) fn whose(&self, token: &str) -> Option<String> {
        let family = self.families.get(self.refreshes.get(token)?)?;
        Some(family.account.clone())
    }

    /// Whose a code is.
    pub(super) fn whose_code(&self, code: &str) -> Option<String> {
        self.codes.get(code).map(|it| it.account.clone())
    }

    fn text(&mut self, kind: &str, account: &str) -> String {
        self.last += 1;
        let n = self.last.to_string();
        format!(
            "{kind}{account}.{n}.{:016x}",
            fingerprint(&["issuer", kind, account, &n])
        )
    }

    /// Takes an act in: the one way in which this state changes, now and after a restart.
    fn apply(&mut self, act: &Act, grants: &Grants) {
        let text = |name: &str| act.detail[name].as_str().unwrap_or_default().to_owned();
        let maybe = |name: &str| act.detail[name].as_str().map(str::to_owned);
        let time = |name: &str| act.detail[name].as_str().and_then(|it| it.parse().ok());
        self.last = self.last.max(act.detail["last"].as_u64().unwrap_or(0));
        match act.op.as_str() {
            "code.issue" => {
                let code = Code {
                    account: act.account.clone(),
                    app: text("app"),
                    redirect: text("redirect"),
                    challenge: maybe("challenge"),
                    scope: text("scope"),
                    until: act.at + TimeDelta::seconds(CODE_S),
                    family: None,
                };
                self.codes.insert(act.id.clone(), code);
            }
            "token.grant" => {
                if let Some(code) = self.codes.get_mut(&text("code")) {
                    code.family = Some(act.id.clone());
                }
                let family = Family {
                    account: act.account.clone(),
                    app: text("app"),
                    scope: text("scope"),
                    current: text("refresh"),
                    replaced: None,
                    revoked: false,
                };
                self.families.insert(act.id.clone(), family);
            }
            "token.refresh" => {
                if let Some(family) = self.families.get_mut(&act.id) {
                    let forgiven = act.detail["forgiven"] == true;
                    let used = text("used");
                    let rotated = used != text("refresh");
                    family.replaced = (rotated && !forgiven).then_some((used, act.at));
                    family.current = text("refresh");
                }
            }
            "token.exchange" => {}
            "family.revoke" => {
                if let Some(family) = self.families.get_mut(&act.id) {
                    family.revoked = true;
                }
                grants.revoke(&act.id);
                return;
            }
            _ => return,
        }
        if let Some(refresh) = maybe("refresh") {
            self.refreshes.insert(refresh, act.id.clone());
        }
        if let (Some(access), Some(end)) = (maybe("access"), time("expires")) {
            grants.give(&access, (&act.account, &act.id), end);
        }
    }
}

impl Issuer {
    pub(in super::super) fn new(
        acts: Arc<ActLog>,
        clock: Arc<Clock>,
        settings: Arc<Settings>,
        grants: Arc<Grants>,
    ) -> Issuer {
        Issuer {
            acts,
            clock,
            settings,
            grants,
            rates: Rates::new(REQUESTS, PERIOD_S),
            side: Mutex::default(),
        }
    }

    /// Remembers an act of an earlier life.
    pub(super) fn take_in(&self, act: &Act) {
        held(&self.side).apply(act, &self.grants);
    }

    fn record(
        &self,
        side: &mut Side,
        (op, account, id): (&'static str, &str, &str),
        mut detail: Value,
    ) {
        detail["last"] = json!(side.last);
        let draft = Draft {
            platform: NAME,
            op,
            account: account.to_owned(),
            key: None,
            id: id.to_owned(),
            url: None,
            text: String::new(),
            media: vec![],
            detail,
        };
        let act = self.acts.record(self.clock.now(), draft);
        side.apply(&act, &self.grants);
    }

    /// Approves at once, or not at all, as the settings say, and sends the person back.
    pub(super) fn authorize(&self, asked: Asked) -> Answer {
        let settings = self.settings.now();
        let Ok(mut back) = url::Url::parse(&asked.redirect) else {
            return refuse(400, "invalid_request", "redirect_uri is no URL");
        };
        if settings.issuer_denies {
            back.query_pairs_mut()
                .append_pair("error", "access_denied")
                .append_pair("error_description", "The user said no");
        } else {
            let mut side = held(&self.side);
            let account = settings.issuer_account;
            let code = side.text("code.", &account);
            let detail = json!({
                "app": asked.app, "redirect": asked.redirect, "challenge": asked.challenge,
                "scope": asked.scope,
            });
            self.record(&mut side, ("code.issue", &account, &code), detail);
            back.query_pairs_mut().append_pair("code", &code);
        }
        if let Some(state) = &asked.state {
            back.query_pairs_mut().append_pair("state", state);
        }
        Answer {
            status: 302,
            body: Bytes::new(),
            mime: "text/plain; charset=utf-8",
            ..Answer::json(302, &json!({}))
        }
        .with("location", back)
    }

    /// The first tokens of a family, for a code.
    pub(super) fn redeem(
        &self,
        app: &str,
        code: &str,
        redirect: &str,
        verifier: Option<&str>,
    ) -> Answer {
        let gone = |why: &str| refuse(400, "invalid_grant", why);
        let mut side = held(&self.side);
        let now = self.clock.now();
        let Some(found) = side.codes.get(code) else {
            return gone("The code is unknown");
        };
        if let Some(family) = found.family.clone() {
            self.end(&mut side, &family, "its code came again");
            return gone("The code was used already");
        }
        let proven = match (&found.challenge, verifier) {
            (None, None) => true,
            (Some(challenge), Some(verifier)) => {
                let digest = sha256(verifier.as_bytes());
                *challenge == URL_SAFE_NO_PAD.encode(digest) || *challenge == hex(&digest)
            }
            _ => false,
        };
        if found.app != app || found.redirect != redirect || !proven || found.until <= now {
            return gone("The code was given to another client or address, or is too old");
        }
        let (account, scope) = (found.account.clone(), found.scope.clone());
        let family = format!("family-{}", side.families.len() + 1);
        let what = json!({"code": code, "app": app, "scope": scope});
        self.give(&mut side, "token.grant", (&account, &family), what)
    }

    /// New tokens, for a refresh token.
    pub(super) fn refresh(&self, token: &str) -> Answer {
        let gone = |why: &str| refuse(400, "invalid_grant", why);
        let settings = self.settings.now();
        let mut side = held(&self.side);
        let now = self.clock.now();
        let Some(id) = side.refreshes.get(token).cloned() else {
            return gone("The refresh token is unknown");
        };
        let Some(family) = side.families.get(&id).filter(|it| !it.revoked) else {
            return gone("The refresh token was revoked");
        };
        let grace = TimeDelta::milliseconds(i64::from(settings.issuer_grace_ms));
        let forgiven = family
            .replaced
            .as_ref()
            .is_some_and(|(it, at)| it == token && now - *at < grace);
        if family.current != token && !forgiven {
            self.end(&mut side, &id, "an old refresh token came again");
            return gone("The refresh token was used already; all tokens of its grant are revoked");
        }
        let (account, app, scope) = (
            family.account.clone(),
            family.app.clone(),
            family.scope.clone(),
        );
        let mut what = json!({"used": token, "forgiven": forgiven, "app": app, "scope": scope});
        if !settings.issuer_rotates {
            what["refresh"] = json!(token);
        }
        self.give(&mut side, "token.refresh", (&account, &id), what)
    }

    fn give(
        &self,
        side: &mut Side,
        op: &'static str,
        (account, family): (&str, &str),
        mut what: Value,
    ) -> Answer {
        let life_s = self.settings.now().issuer_access_s;
        let access = side.text(ISSUED, account);
        if what["refresh"].is_null() {
            what["refresh"] = json!(side.text("renews.", account));
        }
        let expires = self.clock.now() + TimeDelta::seconds(i64::from(life_s));
        what["access"] = json!(access);
        what["expires"] = json!(expires);
        let answer = json!({
            "token_type": "bearer", "access_token": access, "refresh_token": what["refresh"],
            "expires_in": life_s, "scope": what["scope"],
        });
        self.record(side, (op, account, family), what);
        Answer::json(200, &answer).with("cache-control", "no-store")
    }

    /// A long-lived token, for a short-lived one that is alive.
    pub(super) fn prolong(&self, token: &str) -> Answer {
        let mut side = held(&self.side);
        let now = self.clock.now();
        let Some((account, family)) = self.grants.family(token, now) else {
            return refuse(400, "invalid_grant", "The token is unknown or has expired");
        };
        let access = side.text(ISSUED, &account);
        let expires = now + TimeDelta::seconds(i64::from(LONG_S));
        let answer = json!({"token_type": "bearer", "access_token": access, "expires_in": LONG_S});
        let what = json!({"used": token, "access": access, "expires": expires});
        self.record(&mut side, ("token.exchange", &account, &family), what);
        Answer::json(200, &answer).with("cache-control", "no-store")
    }

    /// Takes a grant back, of whichever of its refresh tokens.
    pub(super) fn revoke(&self, token: &str) {
        let mut side = held(&self.side);
        if let Some(family) = side.refreshes.get(token).cloned() {
            self.end(&mut side, &family, "it was asked to");
        }
    }

    fn end(&self, side: &mut Side, family: &str, why: &str) {
        let Some(it) = side.families.get(family).filter(|it| !it.revoked) else {
            return;
        };
        let account = it.account.clone();
        self.record(
            side,
            ("family.revoke", &account, family),
            json!({"why": why}),
        );
    }
}
