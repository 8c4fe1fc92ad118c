//! `http.call`: a signed call to a team's own endpoint that does the work, in whatever language it is
//! written. The endpoint answers with the result, or goes on by itself and tells later.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use crate::adopt::{self, Work};
use crate::budget::{Currency, Price};
use crate::clock::stamp;
use crate::config::{Account, Config};
use crate::context::{Context, Permit, Wanted};
use crate::effect::{EffectId, IN_FLIGHT, RESOLVED_BY, Receipt, Rule};
use crate::handler::{AGE_MAX_S, Defaults, Handler};
use crate::job::Envelope;
use crate::json::Violation;
use crate::outcome::{Failure, Outcome};
use crate::platform::endpoint::{Ended, Endpoint};
use crate::platform::{CallError, Progressed};
use crate::retry::Policy;

/// What the endpoint is asked for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Payload {
    /// What happened, or is to be done, in a word for the endpoint: `invoice.render`. Default: `http.call`.
    #[serde(rename = "type")]
    event: Option<String>,
    /// Where below the account's address: `render/pdf`.
    path: Option<String>,
    /// What the call costs, in millionths of a US dollar, for budgets that count money. Default: nothing.
    cost_micros: Option<u64>,
    /// What the endpoint works on: any JSON.
    #[serde(default)]
    data: Value,
}

/// The longest type and path, in bytes.
const WORD_MAX: usize = 255;
/// What a question about work may take.
const CALL: Duration = Duration::from_secs(20);
/// The longest that work is waited for.
const MOST: Duration = Duration::from_secs(24 * 3_600);
/// Between two looks at whether a call-back came, which wakes the job anyhow.
const LISTEN: Duration = Duration::from_secs(120);

/// The kind.
pub(super) struct HttpCall;

impl Handler for HttpCall {
    type Payload = Payload;
    const DEFAULTS: Defaults = Defaults {
        name: "http.call",
        about: "a signed call to your own endpoint, which does the work",
        lane: "calls",
        retry: Policy {
            attempts_max: 8,
            base_ms: 2_000,
            cap_ms: 900_000,
        },
        // the account's own `timeout_s` is at most an hour
        timeout_s: 3_700,
        age_max_s: AGE_MAX_S,
        platforms: &["http"],
        example: r#"{"type": "invoice.render", "data": {"invoice": 4711}}"#,
    };
    const SENDS: &'static [&'static str] = &["http.call"];

    fn preflight(payload: &Payload, _: &Envelope, _: &Config) -> Vec<Violation> {
        let plain = |it: &str| {
            let letters = |c: char| c.is_ascii_alphanumeric() || "._-~".contains(c);
            !matches!(it, "" | "." | "..") && it.chars().all(letters)
        };
        let event = payload.event.as_deref();
        let event = event.filter(|it| WORD_MAX < it.len() || !plain(it));
        let path = payload.path.as_deref();
        let path = path.filter(|it| WORD_MAX < it.len() || !it.split('/').all(plain));
        let event = event.map(|_| {
            let message = format!("has 1 to {WORD_MAX} letters, digits and . _ - ~");
            Violation::new("/type", message)
        });
        let path = path.map(|_| {
            let message = format!(
                "is {WORD_MAX} bytes at most: names of letters, digits and . _ - ~ with `/` between them, such as `render/pdf`"
            );
            Violation::new("/path", message)
        });
        event.into_iter().chain(path).collect()
    }

    async fn run(cx: &Context, payload: Payload) -> Result<Value, Outcome> {
        let (name, account) = cx.account("http")?;
        let calls_back = callback(cx, name, account);
        for ordinal in 0.. {
            cx.go_on()?;
            let (receipt, is_new) = called(cx, account, &payload, ordinal, &calls_back).await?;
            is_here(&receipt)?;
            let Some(id) = receipt.handle().map(str::to_owned) else {
                return Ok(receipt.detail["result"].clone());
            };
            let mut is_news = false;
            let step = format!("called-{ordinal}");
            let recorded = cx.step(&step, async {
                is_news = true;
                ended(cx, account, &receipt, is_new, calls_back.is_some()).await
            });
            let recorded = recorded.await?;
            let seen = match &recorded {
                Ended::Done(_) => "the endpoint has ended it: done".to_owned(),
                Ended::Failed(it) => format!("the endpoint has ended it: {it}"),
            };
            cx.let_go(&id, &seen).await?;
            match recorded {
                Ended::Done(result) => return Ok(result),
                Ended::Failed(it) if is_news => return Err(it.into()),
                // an earlier attempt failed of it: this one is another call
                Ended::Failed(_) => {}
            }
        }
        unreachable!("each attempt begins one call at most, and fails of it")
    }
}

/// Where the endpoint may call back, if it can be believed and anybody told it where.
fn callback(cx: &Context, name: &str, account: &Account) -> Option<Url> {
    account.webhook_secret.as_ref()?;
    let mut url = cx.config.api.public_url.clone()?;
    let mut parts = url.path_segments_mut().ok()?;
    parts.pop_if_empty().extend(["v1", "hooks", name]);
    drop(parts);
    Some(url)
}

/// Makes call number `ordinal`, unless it was answered before; whether it was made now.
async fn called(
    cx: &Context,
    account: &Account,
    payload: &Payload,
    ordinal: u32,
    calls_back: &Option<Url>,
) -> Result<(Receipt, bool), Outcome> {
    let own = Duration::from_secs(u64::from(cx.job.timeout_s.saturating_sub(5).max(1)));
    let deadline = account.timeout.min(own);
    let endpoint = Endpoint {
        http: &cx.http,
        account,
        deadline,
    };
    let event = payload.event.as_deref().unwrap_or("http.call");
    let path = payload.path.as_deref();
    // the same bytes in each repetition
    let mut body = json!({
        "type": event,
        "timestamp": stamp(cx.job.created_at),
        "job": cx.job.id,
        "data": payload.data,
    });
    if let Some(url) = calls_back {
        body["callback_url"] = url.as_str().into();
    }
    let wanted = Wanted {
        step: "call",
        ordinal,
        op: "http.call",
        rule: Rule {
            in_flight: IN_FLIGHT,
            ..Rule::keyed(None)
        },
        intent: json!({"url": endpoint.place(path), "type": event, "data": payload.data}),
        keep: Value::Null,
        says: None,
        budget: deadline + Duration::from_secs(2),
        price: payload
            .cost_micros
            .map_or(Price::Free, |it| Price::About(it, Currency::USD)),
    };
    let mut is_new = false;
    let send = |permit: Permit| {
        is_new = true;
        let body = body.to_string();
        async move { endpoint.call(permit.id, path, body, permit.lost).await }
    };
    Ok((cx.effect(wanted, send).await?, is_new))
}

/// A person can say that it was done, but not bring its result here.
fn is_here(receipt: &Receipt) -> Result<(), Failure> {
    match receipt.detail[RESOLVED_BY].as_str() {
        None => Ok(()),
        Some(who) => {
            let message = format!("{who} says that it was done, but its result isn't here");
            Err(Failure::permanent("receipt", message))
        }
    }
}

/// How work ended that the endpoint goes on with.
async fn ended(
    cx: &Context,
    account: &Account,
    receipt: &Receipt,
    is_new: bool,
    calls_back: bool,
) -> Result<Ended, Outcome> {
    let id = receipt.remote_id.as_deref().unwrap_or_default();
    let effect = id.parse().map(EffectId);
    let effect = effect.map_err(|e| Failure::permanent("receipt", format!("{id}: {e}")))?;
    let place = receipt.detail["status_url"].as_str();
    let place = place.and_then(|it| Url::parse(it).ok());
    let heard = cx.heard(effect).await?;
    if heard.is_none() && place.is_none() && !calls_back {
        let message = "the endpoint answered 202, and there is no way to hear of the end: it gives no Location on its own server, and nobody may call back (webhook_secret of the account, api.public_url); mend one of them and revive: the same work is waited for";
        return Err(Failure::permanent("no_way_back", message).into());
    }
    let work = Work {
        by: "the endpoint",
        handle: id,
        since: receipt.at,
        place: place.as_ref().map_or("at the endpoint", Url::as_str),
        // what has called back already needn't be waited for
        is_new: is_new && heard.is_none(),
        most: MOST,
    };
    let endpoint = Endpoint {
        http: &cx.http,
        account,
        deadline: CALL,
    };
    let ask = async {
        match (heard, place.clone()) {
            (Some(text), _) => Ok(Progressed::Ended(read(&text))),
            (None, Some(place)) => endpoint.look(effect, place).await,
            (None, None) => Ok(Progressed::IsAt(None, Some(LISTEN))),
        }
    };
    let stop = async {
        match place.clone() {
            Some(place) => endpoint.stop(effect, place).await,
            None => {
                let message = "it gave no Location at which it could be told";
                Err(CallError::Refused(Failure::permanent("no_place", message)))
            }
        }
    };
    adopt::ended(cx, &work, ask, Some(stop)).await
}

/// What a call-back said, as it was written down.
fn read(text: &str) -> Ended {
    serde_json::from_str(text).unwrap_or_else(|e| {
        let message = format!("what the call-back said can't be read: {e}");
        Ended::Failed(Failure::permanent("called_back", message))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(json: Value) -> Vec<String> {
        let payload = serde_json::from_value(json).unwrap();
        let config = Config::default_embedded(std::path::Path::new("/nowhere"));
        let found = HttpCall::preflight(&payload, &Envelope::default(), &config);
        found.into_iter().map(|it| it.pointer).collect()
    }

    #[test]
    fn a_path_stays_below_the_address() {
        for path in ["a", "a/b.c", "render/pdf-2", "~x/_y"] {
            assert_eq!(pointers(json!({"path": path})), [""; 0], "{path}");
        }
        let long = "x".repeat(WORD_MAX + 1);
        for path in [
            "", "/a", "a/", "a//b", "..", "a/../b", "a/./b", "a?b", "a#b", "a%2e", "ä", "http://x",
            &long,
        ] {
            assert_eq!(pointers(json!({"path": path})), ["/path"], "{path}");
        }
        assert_eq!(
            pointers(json!({"type": "a b", "path": "?"})),
            ["/type", "/path"]
        );
    }
}
