//! Accounts over HTTP: how they stand, without any secret; stopping one, and letting it go on.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State as Of};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::guard::Caller;
use super::problem::{Problem, answer};
use super::state::Api;
use crate::operate::{By, Refused, accounts};

/// `GET /v1/accounts`: the accounts of the ledger and of `jobs.toml`, and how they stand.
pub async fn list(Of(api): Of<Arc<Api>>) -> Result<Response, Problem> {
    let config = api.given.shared.config.load_full();
    let all = accounts::all(&*api.given.ledger, &config).await?;
    Ok(answer(StatusCode::OK, &json!({"accounts": all})))
}

/// Who says so, and why.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Word {
    by: Option<String>,
    #[serde(default)]
    reason: String,
}

/// `POST /v1/accounts/{name}/pause` with `{"by": "ada", "reason": "..."}`.
pub async fn pause(
    Of(api): Of<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    changed(&api, &caller, path, request, true).await
}

/// `POST /v1/accounts/{name}/resume` with `{"by": "ada", "reason": "..."}`.
pub async fn resume(
    Of(api): Of<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    changed(&api, &caller, path, request, false).await
}

async fn changed(
    api: &Api,
    caller: &Caller,
    path: Result<Path<String>, PathRejection>,
    request: Request,
    pause: bool,
) -> Result<Response, Problem> {
    let Path(name) = path.map_err(|e| Problem::bad(e.body_text()))?;
    let word: Word = api
        .word(request, r#"{"by": "ada", "reason": "..."}"#)
        .await?;
    let by = By {
        actor: caller.actor_named(word.by),
        reason: word.reason,
    };
    let given = &api.given;
    let (ledger, config) = (&*given.ledger, given.shared.config.load_full());
    let done = match pause {
        true => accounts::pause(ledger, &config, &name, &by).await,
        false => accounts::resume(ledger, &config, &name, &by).await,
    };
    let changed = done.map_err(problem)?;
    given.shared.look_at_closures().await?;
    let account = accounts::one(ledger, &config, &name)
        .await
        .map_err(problem)?;
    let told = json!({"account": account, "changed": changed});
    Ok(answer(StatusCode::OK, &told))
}

fn problem(e: Refused) -> Problem {
    match e {
        Refused::Missing(told) => Problem::new(StatusCode::NOT_FOUND, "not-found", told),
        Refused::Ledger(e) => e.into(),
        e => Problem::new(StatusCode::CONFLICT, "conflict", e.to_string()),
    }
}
