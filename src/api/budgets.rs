//! Budgets over HTTP: what may be done, how much of it is used, and another number for it.

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
use crate::operate::budgets;
use crate::operate::stops::Hand;

/// The longest change, in seconds: ten years.
const FOR_MAX_S: u64 = 10 * 366 * 86_400;

/// `GET /v1/budgets`: what may be done, and how much of it is used.
pub async fn list(Of(api): Of<Arc<Api>>) -> Result<Response, Problem> {
    let shared = &api.given.shared;
    let config = shared.config.load_full();
    let parts = budgets::parts(&*api.given.ledger, &config, &shared.kinds).await?;
    Ok(answer(StatusCode::OK, &json!({"budgets": parts})))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Most {
    Number(u64),
    Text(String),
}

/// Another number, or none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Word {
    /// `null`: as `jobs.toml` says; of money a text: `"20.00"`.
    most: Option<Most>,
    /// For so many seconds; until it is changed again unless said.
    for_s: Option<u64>,
    /// Who says so: it is written down.
    by: Option<String>,
    #[serde(default)]
    reason: String,
}

/// `POST /v1/budgets/{name}` with `{"most": 10, "for_s": 7200, "by": "ada", "reason": "..."}`; `"most": null`
/// takes it back.
pub async fn set(
    Of(api): Of<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let Path(name) = path.map_err(|e| Problem::bad(e.body_text()))?;
    let config = api.given.shared.config.load_full();
    budgets::known(&config.budgets, &name)
        .map_err(|e| Problem::new(StatusCode::NOT_FOUND, "not-found", e))?;
    let form = r#"{"most": 10, "for_s": 7200, "by": "ada", "reason": "..."}, or "most": null"#;
    let word: Word = api.word(request, form).await?;
    let actor = caller.actor_named(word.by);
    let hand = Hand {
        actor: &actor,
        reason: &word.reason,
    };
    let ledger = &*api.given.ledger;
    let told = match word.most {
        None => json!({"budget": name, "changed": budgets::reset(ledger, &name, hand).await?}),
        Some(most) => {
            let lasts = word.for_s.unwrap_or(0);
            let text = match most {
                Most::Number(it) => it.to_string(),
                Most::Text(it) => it,
            };
            let most = budgets::most(&config.budgets, &name, &text)
                .map_err(|e| Problem::bad(format!("`most`: {e}")))?;
            if FOR_MAX_S < lasts {
                return Err(Problem::bad(format!("`for_s`: at most {FOR_MAX_S}")));
            }
            let lasts = word
                .for_s
                .map(|_| chrono::Duration::seconds(lasts.cast_signed()));
            json!(budgets::set(ledger, (&name, most), lasts, hand).await?)
        }
    };
    Ok(answer(StatusCode::OK, &told))
}
