//! Call-backs: a platform says that work has ended which it goes on with by itself.
//!
//! A call-back proves by its signature whose it is, and then only wakes the job that waits for that work:
//! what became of it the job asks the platform itself. Repeated, forged, too early, late or lost, it
//! changes nothing but when that is.

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
use crate::ledger::Ledger;
use crate::operate::{self, Called};
use crate::platform::openai_responses;
use crate::telemetry::metrics;

/// The route: below [`HOOKS`](super::guard::HOOKS).
pub const ROUTE: &str = "/v1/hooks/{account}";
/// The largest call-back, in bytes: they name what they are about, and little more.
const CALL_MAX: usize = 64 * 1024;
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
    let read = body::read(&head.headers, body, CALL_MAX, within, &api.large).await?;
    let config = api.given.shared.config.load_full();
    let account = config.accounts.get(&name);
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
    let led_to = match told_of(account, &read.bytes) {
        Some(handle) => wake(api, ledger, &name, &handle).await?,
        None => "nobody",
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
