//! Budgets over HTTP: what may be done, how much of it is used, and another number for it.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State as Of};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::guard::Caller;
use super::problem::{Problem, answer};
use super::state::Api;
use crate::operate::budgets;
use crate::operate::stops::Hand;

/// The longest change, in seconds: ten years.
const FOR_MAX_S: u64 = 10 * 366 * 86_400;

/// `GET /v1/budgets`: what may be done, and how much of it is used, and the paces of what is overdue.
pub async fn list(Of(api): Of<Arc<Api>>) -> Result<Response, Problem> {
    let shared = &api.given.shared;
    let config = shared.config.load_full();
    let limits = budgets::limits(&*api.given.ledger, &config, &shared.kinds).await?;
    Ok(answer(StatusCode::OK, &json!(limits)))
}

/// Another number, or none. Each member is judged by itself, so that what is wrong is told by its name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Word {
    /// `null`: as `jobs.toml` says; of money a text: `"20.00"`.
    #[serde(default)]
    most: Value,
    /// For so many seconds; until it is changed again unless said.
    #[serde(default)]
    for_s: Value,
    /// Who says so: it is written down.
    #[serde(default)]
    by: Value,
    #[serde(default)]
    reason: Value,
}

/// The member of this name isn't what it has to be.
fn unfit(name: &str, said: &Value, wanted: &str) -> Problem {
    Problem::bad(format!("`{name}`: `{said}`: {wanted}"))
}

fn seconds(said: &Value) -> Result<Option<chrono::Duration>, Problem> {
    let fits = || said.as_u64().filter(|it| *it <= FOR_MAX_S);
    match (said, fits()) {
        (Value::Null, _) => Ok(None),
        (_, Some(it)) => Ok(Some(chrono::Duration::seconds(it.cast_signed()))),
        (_, None) => {
            let wanted = format!(
                "a whole number of seconds, 0 to {FOR_MAX_S}, such as 7200; without it the change holds until the next one"
            );
            Err(unfit("for_s", said, &wanted))
        }
    }
}

fn text(name: &str, said: Value) -> Result<Option<String>, Problem> {
    match said {
        Value::Null => Ok(None),
        Value::String(it) => Ok(Some(it)),
        other => Err(unfit(name, &other, "a text, such as \"ada\"")),
    }
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
    let (by, reason) = (text("by", word.by)?, text("reason", word.reason)?);
    let (actor, reason) = (caller.actor_named(by), reason.unwrap_or_default());
    let hand = Hand {
        actor: &actor,
        reason: &reason,
    };
    let lasts = seconds(&word.for_s)?;
    let most = match word.most {
        Value::Null => None,
        Value::String(it) => Some(it),
        other => Some(other.to_string()),
    };
    let most = most.map(|it| budgets::most(&config.budgets, &name, &it));
    let most = most
        .transpose()
        .map_err(|e| Problem::bad(format!("`most`: {e}")))?;
    let ledger = &*api.given.ledger;
    let told = match most {
        None => json!({"budget": name, "changed": budgets::reset(ledger, &name, hand).await?}),
        Some(most) => json!(budgets::set(ledger, (&name, most), lasts, hand).await?),
    };
    Ok(answer(StatusCode::OK, &told))
}
