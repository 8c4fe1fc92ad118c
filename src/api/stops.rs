//! Stopping over HTTP: what is stopped, a stop with what it came too late for, and going on.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Request, State as Of};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::guard::Caller;
use super::problem::{Problem, answer};
use super::state::Api;
use crate::gate::{Cause, Scope};
use crate::operate::stops::{self, Hand, checked};

/// The longest wait for calls that had their permit before a stop, in seconds.
const WAIT_MAX_S: u64 = 10;

/// `GET /v1/stops`: what is stopped or shut, by whom and why, the oldest first.
pub async fn list(Of(api): Of<Arc<Api>>) -> Result<Response, Problem> {
    let closures = api.given.ledger.closures().await?;
    Ok(answer(StatusCode::OK, &json!({"stops": closures})))
}

/// What is to be stopped, and by whom.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    /// Nothing named: everything.
    #[serde(default)]
    scope: Scope,
    /// Who says so: it is written down.
    by: Option<String>,
    #[serde(default)]
    reason: String,
    /// How long to wait for calls that had their permit before, in seconds.
    #[serde(default)]
    wait_s: u64,
}

/// What is to go on, and by whom.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Go {
    #[serde(default)]
    scope: Scope,
    cause: Option<Cause>,
    by: Option<String>,
    #[serde(default)]
    reason: String,
}

/// `POST /v1/stop` with `{"scope": {"account": "studio"}, "by": "ada", "reason": "..."}`; `{}` stops
/// everything. Answers with the closure, and with the calls that had their permit before.
pub async fn stop(
    Of(api): Of<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let form = r#"{"scope": {"account": "studio"}, "by": "ada", "reason": "...", "wait_s": 5}"#;
    let word: Stop = api.word(request, form).await?;
    let given = &api.given;
    let config = given.shared.config.load_full();
    let scope = checked(word.scope, &config).map_err(|e| Problem::bad(format!("`scope`: {e}")))?;
    if WAIT_MAX_S < word.wait_s {
        let wrong = format!("`wait_s`: at most {WAIT_MAX_S}");
        return Err(Problem::bad(wrong));
    }
    let actor = caller.actor_named(word.by);
    let hand = Hand {
        actor: &actor,
        reason: &word.reason,
    };
    let ledger = &*given.ledger;
    let closure = stops::stop(ledger, scope, hand).await?;
    given.shared.look_at_closures().await?;
    let wait = Duration::from_secs(word.wait_s);
    let slipped = stops::slipped(ledger, &config, &closure.scope, wait).await?;
    let told = json!({"closure": closure, "slipped": slipped});
    Ok(answer(StatusCode::OK, &told))
}

/// `POST /v1/go` with `{"scope": {"account": "studio"}, "by": "ada"}`; `{}` lets go on what `{}` stopped.
pub async fn go(
    Of(api): Of<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let form = r#"{"scope": {"account": "studio"}, "by": "ada", "reason": "..."}"#;
    let word: Go = api.word(request, form).await?;
    let actor = caller.actor_named(word.by);
    let hand = Hand {
        actor: &actor,
        reason: &word.reason,
    };
    let given = &api.given;
    let opened = stops::go_on(&*given.ledger, (word.cause, &word.scope), hand).await?;
    if opened.is_empty() {
        let told = format!("{} isn't stopped; GET /v1/stops tells what is", word.scope);
        return Err(Problem::new(StatusCode::NOT_FOUND, "not-found", told));
    }
    given.shared.look_at_closures().await?;
    Ok(answer(StatusCode::OK, &json!({"scope": word.scope})))
}
