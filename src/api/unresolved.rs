//! What only a person can say: the jobs that wait for it, the evidence, and the word. And receipts.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State as Of};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;

use super::guard::Caller;
use super::jobs::{found, id_of};
use super::problem::{Problem, answer};
use super::shown::{self, ShownJob};
use super::state::Api;
use crate::job::JobId;
use crate::ledger::Filter;
use crate::lifecycle::State;
use crate::operate::receipt::{Receipt, receipt};
use crate::operate::{self, By, Verdict};

/// Jobs that one list tells.
const MOST: u32 = 200;

/// `GET /v1/jobs/{id}/receipt`: what was sent when, from where, and the proof.
pub async fn show(
    Of(api): Of<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let job = found(&api, &caller, id_of(path)?).await?;
    let receipt = receipt(&*api.given.ledger, &job).await?;
    Ok(answer(StatusCode::OK, &shown::receipt(receipt, &caller)))
}

/// A job that waits for a person's word.
#[derive(Serialize)]
struct Waiting<'a> {
    job: ShownJob<'a>,
    receipt: Receipt,
}

/// `GET /v1/unresolved`: the jobs that wait for a person's word, newest first, with the evidence.
pub async fn list(
    Of(api): Of<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    let ledger = &*api.given.ledger;
    let filter = Filter {
        states: vec![State::Unresolved],
        tenant: caller.tenant().map(str::to_owned),
        limit: MOST,
        ..Filter::default()
    };
    let jobs = ledger.jobs(&filter).await?;
    let mut waiting = Vec::new();
    for job in &jobs {
        waiting.push(Waiting {
            job: ShownJob::of(job, &caller),
            receipt: shown::receipt(receipt(ledger, job).await?, &caller),
        });
    }
    Ok(answer(StatusCode::OK, &json!({"jobs": waiting})))
}

/// A person's word on what happened.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Word {
    happened: bool,
    url: Option<Url>,
    /// Who says so: it is written down.
    by: Option<String>,
    #[serde(default)]
    reason: String,
}

/// `POST /v1/jobs/{id}/resolve` with `{"happened": true, "url": "..."}` or `{"happened": false}`.
pub async fn resolve(
    Of(api): Of<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let id: JobId = id_of(path)?;
    let form = r#"{"happened": true, "url": "https://...", "by": "ada", "reason": "..."}, or "happened": false"#;
    let word: Word = api.word(request, form).await?;
    if let Some(url) = &word.url {
        check(url, word.happened)?;
    }
    found(&api, &caller, id).await?;
    let by = By {
        actor: caller.actor_named(word.by),
        reason: word.reason,
    };
    let verdict = match word.happened {
        true => Verdict::Happened {
            url: word.url.map(String::from),
        },
        false => Verdict::DidNotHappen,
    };
    let state = operate::resolve(&*api.given.ledger, id, &verdict, &by).await?;
    api.given.shared.relay.notify_one();
    Ok(answer(StatusCode::OK, &json!({"id": id, "state": state})))
}

fn check(url: &Url, happened: bool) -> Result<(), Problem> {
    let wrong = |said: &str| Err(Problem::bad(format!("`url`: {said}")));
    match url.scheme() {
        _ if !happened => wrong("what did not happen can be seen nowhere; leave it out"),
        "http" | "https" => Ok(()),
        _ => wrong("it must begin with https://"),
    }
}
