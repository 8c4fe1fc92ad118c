//! Call-backs: a platform says that work has ended which it goes on with by itself.
//!
//! A call-back proves by its signature whose it is, and then only wakes the job that waits for that work:
//! what became of it the job asks the platform itself. Repeated, forged, too early, late or lost, it
//! changes nothing but when that is. Only of a team's own endpoint, which may have nothing to be asked by,
//! it is written down what the call-back says.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State as Of};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;
use tokio::time::Instant;

use super::body;
use super::problem::{Problem, answer};
use super::signed::Claim;
use super::state::Api;
use crate::config::{Account, webhook_key};
use crate::job::Progress;
use crate::ledger::{Ledger, Word};
use crate::operate::{self, Called};
use crate::platform::endpoint::{self, Told};
use crate::platform::http::BODY_MAX;
use crate::platform::openai_responses;
use crate::telemetry::{metrics, redact};

/// The route: below [`HOOKS`](super::guard::HOOKS).
pub const ROUTE: &str = "/v1/hooks/{account}";
/// The largest call-back, in bytes: they name what they are about, and little more.
const CALL_MAX: usize = 64 * 1024;
/// The largest of an endpoint, which may hold a result: as large as an answer may be, and its frame.
const RESULT_MAX: usize = BODY_MAX + 4_096;
/// Its body must be there by then: places are few, and anybody may ask for one.
const BODY: Duration = Duration::from_secs(5);
/// A job that is asking the platform right now may have asked too early; so long it is waited for, since
/// a question seldom takes longer.
const ASKING: Duration = Duration::from_secs(2);
/// How often that is looked at.
const EVERY: Duration = Duration::from_millis(50);
/// What is tried where there is no account, so that its absence takes as long to tell.
const NO_KEY: [u8; 32] = [0; 32];

/// `POST /v1/hooks/{account}`: 202 once it is taken, with what it led to.
pub async fn called(
    Of(api): Of<Arc<Api>>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let led_to = taken(&api, path, request).await;
    metrics::call(match &led_to {
        Ok(word) => word,
        Err(it) if it.status == StatusCode::UNAUTHORIZED => "refused",
        Err(_) => "busy",
    });
    led_to.map(|word| answer(StatusCode::ACCEPTED, &json!({"led_to": word})))
}

async fn taken(
    api: &Api,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<&'static str, Problem> {
    let busy = || {
        Problem::later(
            "busy",
            "too many call-backs at once",
            Duration::from_secs(2),
        )
    };
    let _place = api.calls.try_acquire().map_err(|_| busy())?;
    let Path(name) = path.map_err(|_| unproven())?;
    let (head, body) = request.into_parts();
    let claim = Claim::read(&head.headers, api.given.shared.now()).map_err(unsigned)?;
    let within = api.limits.body.min(BODY);
    let config = api.given.shared.config.load_full();
    let account = config.accounts.get(&name);
    let most = match account {
        Some(it) if it.platform == "http" => RESULT_MAX,
        _ => CALL_MAX,
    };
    let read = body::read(&head.headers, body, most, within, &api.large).await?;
    let secret = account.and_then(|it| it.webhook_secret.as_ref());
    let key = secret.and_then(|it| webhook_key(it).ok());
    let fits = claim.fits(key.as_deref().unwrap_or(&NO_KEY), &read.bytes);
    // both are looked at: neither's time tells of the other
    let (Some(account), true) = (account.filter(|_| key.is_some()), fits) else {
        return Err(unproven());
    };
    let ledger = &*api.given.ledger;
    if ledger.was_called(&name, &claim.id).await? {
        return Ok("repeated");
    }
    let led_to = match account.platform.as_str() {
        "http" => believed(api, ledger, &name, &read.bytes).await?,
        _ => match told_of(account, &read.bytes) {
            Some(handle) => wake(api, ledger, &name, &handle).await?,
            None => "nobody",
        },
    };
    // after that: a call-back that couldn't be taken is sent again
    ledger.note_call(&name, &claim.id).await?;
    Ok(led_to)
}

/// What the platform of an account calls the work that it calls about.
fn told_of(account: &Account, event: &[u8]) -> Option<String> {
    match account.platform.as_str() {
        "openai" => openai_responses::told_of(event),
        _ => None,
    }
}

/// Writes down what an endpoint says of its work. An end wakes its job, which may have none to wake yet:
/// an endpoint may be done before its answer is here.
async fn believed(
    api: &Api,
    ledger: &dyn Ledger,
    account: &str,
    event: &[u8],
) -> Result<&'static str, Problem> {
    let (effect, told) = endpoint::told_of(event).map_err(|why| {
        let code = StatusCode::UNPROCESSABLE_ENTITY;
        Problem::new(
            code,
            "unfit",
            format!("the call-back isn't understood: {why}"),
        )
    })?;
    let (said, is_end) = match told {
        Told::Progress(it) => {
            let message = redact::text(&it.message).into_owned();
            (Word::Progress(Progress { message, ..it }), false)
        }
        Told::Ended(it) => {
            let text = serde_json::to_string(&it).expect("what was JSON is JSON");
            (Word::End(redact::known(&text).into_owned()), true)
        }
    };
    match ledger.called_back(account, effect, &said).await? {
        None => Ok("nobody"),
        Some(_) if !is_end => Ok("heard"),
        Some(_) => match wake(api, ledger, account, &effect.to_string()).await? {
            "nobody" => Ok("heard"),
            woken => Ok(woken),
        },
    }
}

async fn wake(
    api: &Api,
    ledger: &dyn Ledger,
    account: &str,
    handle: &str,
) -> Result<&'static str, Problem> {
    let until = Instant::now() + ASKING;
    loop {
        match operate::called(ledger, account, handle).await? {
            Called::Woken(job) => {
                tracing::debug!(%job, "its platform called: it asks what became of the work");
                api.given.shared.relay.notify_one();
                return Ok("woken");
            }
            Called::Nobody => return Ok("nobody"),
            Called::Asking(_) if Instant::now() < until => tokio::time::sleep(EVERY).await,
            Called::Asking(_) => {
                let said = "its job is asking right now; send it again";
                return Err(Problem::later("busy", said, ASKING));
            }
        }
    }
}

fn unsigned(why: &'static str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unsigned", why)
}

/// One answer for an unknown account, one that isn't called back, and a wrong signature.
fn unproven() -> Problem {
    let said = "no account of this name is called back with this signature";
    unsigned(said)
}
