//! A team's endpoint: it verifies the signature by its own code, does the work of an id once, and answers
//! with the result, or later: by a call-back, or where it says that it can be asked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::http::Method;
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::task::JoinSet;

use super::{
    acts::{Act, ActLog, Draft, held},
    clock::Clock,
    exchange::{Answer, Peek, Platform, Request},
    hook::{Letter, Sent},
    rate::{Rate, Rates},
    settings::{Hook, Settings, Values},
};

/// What calls to every endpoint of the sandbox are signed with.
pub const SECRET: &str = "whsec_cHJlc3N3b3JrLXNhbmRib3gtc2lnbmluZy1rZXktMzI=";
/// A call may be so old, or from so far ahead.
const WINDOW_S: i64 = 300;
/// Calls a minute of an account.
const CALLS_PER_MINUTE: u32 = 100_000;
/// Below an account's path: what is asked about there.
const WORK: &str = "_work";

/// The platform.
#[derive(Debug)]
pub(super) struct Worker {
    acts: Arc<ActLog>,
    clock: Arc<Clock>,
    settings: Arc<Settings>,
    rates: Rates,
    /// By account and id: what was done.
    done: Mutex<HashMap<(String, String), Arc<Act>>>,
    /// Call-backs that are still to be sent; they end with the sandbox.
    letters: Mutex<JoinSet<()>>,
    sent: Arc<Mutex<Vec<Sent>>>,
}

/// A request that was understood.
pub(super) enum Op {
    Call(Box<Call>),
    Look(String, String),
    Stop(String, String),
}

/// A call.
pub(super) struct Call {
    account: String,
    id: String,
    path: String,
    event: Value,
}

impl Worker {
    pub(super) fn new(acts: Arc<ActLog>, clock: Arc<Clock>, settings: Arc<Settings>) -> Worker {
        Worker {
            acts,
            clock,
            settings,
            rates: Rates::new(CALLS_PER_MINUTE, 60),
            done: Mutex::default(),
            letters: Mutex::default(),
            sent: Arc::default(),
        }
    }

    /// The call-backs that were sent so far.
    pub(super) fn calls(&self) -> Vec<Sent> {
        held(&self.sent).clone()
    }

    fn refuse(status: u16, code: &str, message: &str) -> Answer {
        Answer::json(
            status,
            &json!({"error": {"code": code, "message": message}}),
        )
    }

    fn understand(request: &Request, peek: &mut Peek) -> Result<Op, Answer> {
        let parts = request.parts();
        let (Some(account), rest) = (parts.first(), parts.get(1..).unwrap_or_default()) else {
            return Err(Self::refuse(
                404,
                "not_found",
                "The path begins with an account.",
            ));
        };
        let account = (*account).to_owned();
        peek.account = Some(account.clone());
        let id = verified(request).map_err(|why| Self::refuse(401, "signature", why))?;
        peek.key = Some(id.clone());
        match (&request.method, rest) {
            (&Method::GET, [WORK, work]) => {
                peek.op = "work.get";
                Ok(Op::Look(account, (*work).to_owned()))
            }
            (&Method::DELETE, [WORK, work]) => {
                (peek.op, peek.writes) = ("work.stop", true);
                Ok(Op::Stop(account, (*work).to_owned()))
            }
            (&Method::POST, path) => {
                (peek.op, peek.writes) = ("call", true);
                let event: Value = serde_json::from_slice(&request.body)
                    .map_err(|_| Self::refuse(400, "json", "The body is no JSON."))?;
                if request.content_type() != "application/json" || !event["type"].is_string() {
                    let message = "The body is an event in JSON, with its type.";
                    return Err(Self::refuse(400, "event", message));
                }
                peek.text = Some(event["data"].to_string());
                Ok(Op::Call(Box::new(Call {
                    account,
                    id,
                    path: path.join("/"),
                    event,
                })))
            }
            _ => Err(Self::refuse(404, "not_found", "There is nothing here.")),
        }
    }

    /// Does it, unless it was done: then the same is answered again.
    async fn call(&self, call: Call) -> Answer {
        let values = self.settings.now();
        let act = match self.once(call, &values) {
            Ok(act) => act,
            Err(done) => return self.told(&done),
        };
        if 0 < values.http_work_ms || values.http_hook == Hook::Early {
            self.call_back(&act).await;
        }
        match values.http_work_ms {
            0 if values.http_hook != Hook::Early => ended(&act),
            _ => goes_on(&act),
        }
    }

    /// The act of a call, or the one that there was under its id. Looked for and done under one lock: of two
    /// calls of one id at once, one does it.
    fn once(&self, call: Call, values: &Values) -> Result<Arc<Act>, Arc<Act>> {
        let mut done = held(&self.done);
        let key = (call.account.clone(), call.id.clone());
        if let Some(act) = done.get(&key) {
            return Err(Arc::clone(act));
        }
        let act = self.acts.record(
            self.clock.now(),
            Draft {
                platform: Self::NAME,
                op: "call",
                account: call.account,
                key: Some(call.id.clone()),
                id: call.id,
                url: None,
                text: match &call.event["data"] {
                    Value::String(text) => text.clone(),
                    data => data.to_string(),
                },
                media: Vec::new(),
                detail: json!({
                    "path": call.path, "event": call.event, "work_ms": values.http_work_ms,
                    "ends": values.http_work_ends.word(), "polled": values.http_polled,
                }),
            },
        );
        done.insert(key, Arc::clone(&act));
        Ok(act)
    }

    fn told(&self, act: &Act) -> Answer {
        match self.clock.now() < ends_at(act) {
            true => goes_on(act),
            false => ended(act),
        }
    }

    fn of(&self, account: String, id: String, then: impl FnOnce(&Arc<Act>) -> Answer) -> Answer {
        match held(&self.done).get(&(account, id)) {
            Some(act) => then(act),
            None => Self::refuse(404, "not_found", "No call had this id."),
        }
    }

    /// Tells the work's progress, and when it has ended.
    async fn call_back(&self, act: &Arc<Act>) {
        let values = self.settings.now();
        let url = act.detail["event"]["callback_url"].as_str();
        let plan = values.http_hook;
        let secret = values.http_hook_secret.as_ref();
        let Some(letter) = Letter::of(url, secret, plan) else {
            return;
        };
        let (act, sent) = (Arc::clone(act), Arc::clone(&self.sent));
        let work = Duration::from_millis(values.http_work_ms.into());
        let post = async move {
            let id = act.id.as_str();
            if plan != Hook::Early {
                let half = json!({"id": id, "progress": 40, "note": "half of it"}).to_string();
                letter.post(("progress", id), &half, plan, &sent).await;
                tokio::time::sleep(work).await;
            }
            let end = end_of(&act).to_string();
            letter.post(("end", id), &end, plan, &sent).await;
        };
        match plan {
            Hook::Early => post.await,
            _ => {
                let mut letters = held(&self.letters);
                while letters.try_join_next().is_some() {}
                letters.spawn(post);
            }
        }
    }
}

/// The id of a call whose signature fits; an independent reading of the same specification.
fn verified(request: &Request) -> Result<String, &'static str> {
    let header = |name| {
        request
            .header(name)
            .ok_or("The webhook headers are missing.")
    };
    let (id, at) = (header("webhook-id")?, header("webhook-timestamp")?);
    let seconds: i64 = at.parse().map_err(|_| "The time is no number.")?;
    if WINDOW_S < (Utc::now().timestamp() - seconds).abs() {
        return Err("The call is too old, or from the future.");
    }
    let key = SECRET.trim_start_matches("whsec_");
    let key = STANDARD.decode(key).expect("a constant that is tested");
    let mut signed = format!("{id}.{at}.").into_bytes();
    signed.extend_from_slice(&request.body);
    let fits = |it: &str| {
        let Some(said) = it
            .strip_prefix("v1,")
            .and_then(|it| STANDARD.decode(it).ok())
        else {
            return false;
        };
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length");
        mac.update(&signed);
        mac.verify_slice(&said).is_ok()
    };
    match header("webhook-signature")?.split(' ').any(fits) {
        true => Ok(id.to_owned()),
        false => Err("No signature fits."),
    }
}

fn ends_at(act: &Act) -> DateTime<Utc> {
    act.at + TimeDelta::milliseconds(act.detail["work_ms"].as_i64().unwrap_or(0))
}

/// What a call-back says of the end.
fn end_of(act: &Act) -> Value {
    match act.detail["ends"].as_str() {
        Some("failed") => {
            json!({"id": act.id, "error": {"code": "gave_up", "message": "It was asked to give up.", "retry": true}})
        }
        Some("incomplete") => {
            json!({"id": act.id, "error": {"code": "unfit", "message": "It can't be done."}})
        }
        _ => json!({"id": act.id, "result": result(act)}),
    }
}

fn result(act: &Act) -> Value {
    json!({"done": act.n, "data": act.detail["event"]["data"]})
}

fn ended(act: &Act) -> Answer {
    match end_of(act).get("error") {
        Some(error) => Answer::json(422, &json!({"error": error})),
        None => Answer::json(200, &result(act)),
    }
}

fn goes_on(act: &Act) -> Answer {
    let answer = Answer::json(202, &json!({"progress": 10, "note": "begun"}));
    match act.detail["polled"] == true {
        true => {
            let place = format!("{}/{}/{WORK}/{}", Worker::PREFIX, act.account, act.id);
            answer.with("location", place)
        }
        false => answer,
    }
}

impl Platform for Worker {
    type Op = Op;
    const NAME: &'static str = "http";
    const PREFIX: &'static str = "/http";
    const REFUSAL: u16 = 422;

    async fn read(&self, request: &Request) -> (Peek, Result<Op, Answer>) {
        let mut peek = Peek {
            op: "unknown",
            ..Peek::default()
        };
        let op = Self::understand(request, &mut peek);
        (peek, op)
    }

    async fn perform(&self, op: Op) -> Answer {
        match op {
            Op::Call(call) => self.call(*call).await,
            Op::Look(account, id) => self.of(account, id, |act| self.told(act)),
            Op::Stop(account, id) => {
                let key = (account.clone(), id.clone());
                let Some(_) = held(&self.done).get(&key).cloned() else {
                    return self.of(account, id, |act| self.told(act));
                };
                self.acts.record(
                    self.clock.now(),
                    Draft {
                        platform: Self::NAME,
                        op: "work.stop",
                        account,
                        key: Some(id.clone()),
                        id,
                        url: None,
                        text: String::new(),
                        media: Vec::new(),
                        detail: Value::Null,
                    },
                );
                Answer::json(200, &json!({"stopped": true}))
            }
        }
    }

    fn error(&self, status: u16, message: Option<&str>) -> Answer {
        let (code, usual) = match status {
            401 => ("signature", "No signature fits."),
            403 => ("forbidden", "Not you."),
            404 => ("not_found", "There is nothing here."),
            422 => ("unfit", "It can't be done."),
            429 => ("busy", "Too many calls."),
            _ => ("broken", "Something broke here."),
        };
        Self::refuse(status, code, message.unwrap_or(usual))
    }

    fn rates(&self) -> &Rates {
        &self.rates
    }

    fn rate_headers(&self, _: &Rate, _: DateTime<Utc>) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn replay(&self, act: &Act) {
        if act.op == "call" {
            let key = (act.account.clone(), act.id.clone());
            held(&self.done).insert(key, Arc::new(act.clone()));
        }
    }

    fn forget(&self) {
        held(&self.done).clear();
        held(&self.letters).abort_all();
        held(&self.sent).clear();
        self.rates.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_holds_a_whole_key() {
        let key = STANDARD.decode(SECRET.trim_start_matches("whsec_"));
        assert_eq!(key.expect("base64"), b"presswork-sandbox-signing-key-32");
    }
}
