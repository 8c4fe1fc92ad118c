//! A person's word on a job that is held: it goes on, now or at another time.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State as Of};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::guard::Caller;
use super::jobs::{found, id_of};
use super::problem::{Problem, answer};
use super::state::Api;
use crate::clock::Time;
use crate::operate::{self, By};

/// A person's word.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Word {
    /// Not before.
    at: Option<Time>,
    /// Who says so: it is written down.
    by: Option<String>,
    #[serde(default)]
    reason: String,
}

/// `POST /v1/jobs/{id}/release` with `{}` or `{"at": "2027-01-31T09:00:00Z"}`.
pub async fn release(
    Of(api): Of<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let id = id_of(path)?;
    let form = r#"{"at": "2027-01-31T09:00:00Z", "by": "ada", "reason": "..."}, or {} for at once"#;
    let word: Word = api.word(request, form).await?;
    found(&api, &caller, id).await?;
    let by = By {
        actor: caller.actor_named(word.by),
        reason: word.reason,
    };
    let state = operate::release(&*api.given.ledger, id, word.at, &by).await?;
    api.given.shared.relay.notify_one();
    Ok(answer(StatusCode::OK, &json!({"id": id, "state": state})))
}
