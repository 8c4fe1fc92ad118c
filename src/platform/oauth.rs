//! Requests to issuers of tokens: made once each, over a connection of their own.

use std::time::Duration;

use secrecy::ExposeSecret as _;

use super::http::{Body, Call, Http, Lost};
use super::{limits, verdict};
use crate::oauth::answer::{Told, Verdict, judge};
use crate::oauth::client::Ask;

/// The largest answer that is read, in bytes: a token has 16 KiB at most.
const ANSWER_MAX: usize = 256 * 1024;

/// Asks an issuer, once, within `deadline`. What the answer means, and nothing of what it was asked with.
pub async fn ask(http: &Http, ask: &Ask, deadline: Duration) -> Verdict {
    let call = call(ask, deadline);
    let verdict = match http.send(&call).await {
        Ok(answer) => {
            let after =
                limits::retry_after(&answer).map(|it| it.num_seconds().max(0).unsigned_abs());
            judge(answer.status, after, &answer.body)
        }
        Err(Lost {
            sent,
            code,
            held,
            message,
        }) => {
            let told = Told::new(code, message);
            let held = held.map(|it| it.num_seconds().max(0).unsigned_abs());
            match sent {
                true => Verdict::Unknown(told),
                false => Verdict::Later(told, held),
            }
        }
    };
    let clean = |it: Told| Told {
        code: verdict::redact(&it.code, &call),
        message: verdict::redact(&it.message, &call),
    };
    match verdict {
        Verdict::Granted(it) => Verdict::Granted(it),
        Verdict::Gone(it) => Verdict::Gone(clean(it)),
        Verdict::Client(it) => Verdict::Client(clean(it)),
        Verdict::Later(it, after) => Verdict::Later(clean(it), after),
        Verdict::Unknown(it) => Verdict::Unknown(clean(it)),
    }
}

fn call(ask: &Ask, deadline: Duration) -> Call {
    let call = match ask.post {
        true => {
            let form = ask.form.expose_secret().to_owned();
            let mime = "application/x-www-form-urlencoded".to_owned();
            Call::post(ask.url.clone(), Body::Bytes(mime, form.into()), deadline)
        }
        false => Call::get(ask.url.clone(), deadline),
    };
    // one that was kept may be closed in the moment of sending, and a refresh token is good for one use
    let call = call.fresh().patient().at_most(ANSWER_MAX);
    let call = call.header("accept", "application/json");
    let call = match &ask.authorization {
        Some(it) => call.authorization(it.clone()),
        None => call,
    };
    ask.secrets.iter().fold(call, Call::hiding)
}
