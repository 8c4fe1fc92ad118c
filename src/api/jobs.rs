//! Jobs in, jobs looked at, jobs called off.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State as Of};
use axum::http::header::{LOCATION, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::body::{self, BODY_MAX, Sent, header_key, is_json, keyed, split};
use super::guard::{Caller, DOOR};
use super::problem::{AWAY, Problem, answer, seconds};
use super::shown::{self, ShownEffect, ShownJob};
use super::state::Api;
use crate::engine::doors::{Busy, receipt};
use crate::intake::Answer;
use crate::job::{Job, JobId};
use crate::ledger::Reason;
use crate::operate::explain::{Eyes, explain, told};
use crate::operate::facts::Facts;
use crate::operate::why::{Around, why};
use crate::operate::{self, By};
use crate::telemetry::metrics;

/// When to come back to a backlog that is full.
const FULL: Duration = Duration::from_secs(5);
/// When to come back to a daemon that is short of memory: some jobs must end first.
const MEMORY: Duration = Duration::from_secs(10);
/// When to come back to a daemon that stops: another one, or its successor, may be there.
const STOPPING: Duration = Duration::from_secs(5);

/// `POST /v1/jobs`: one envelope, or an array of them.
pub async fn submit(
    Of(api): Of<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    body::check_type(&head.headers)?;
    let key = header_key(&head.headers)?;
    let read = body::read(&head.headers, body, BODY_MAX, api.limits.body, &api.large).await?;
    match (split(&read.bytes)?, key) {
        (Sent::One(bytes), Some(key)) => Ok(one(&api, &caller, &keyed(bytes, &key)?).await),
        (Sent::One(bytes), None) => Ok(one(&api, &caller, bytes).await),
        (Sent::Many(all), None) => Ok(many(&api, &caller, &all).await),
        (Sent::Many(_), Some(_)) => Err(Problem::bad(
            "Idempotency-Key can't be the key of many; give each envelope its own `key`",
        )),
    }
}

async fn one(api: &Api, caller: &Caller, bytes: &[u8]) -> Response {
    let submitted = api.given.doors.submit_within(bytes, caller.within());
    match judged(bytes, submitted.await) {
        Ok((status, receipt)) => {
            let place = place(&receipt);
            let mut response = answer(status, &receipt);
            if let (StatusCode::CREATED, Some(place)) = (status, place) {
                response.headers_mut().insert(LOCATION, place);
            }
            response
        }
        Err(problem) => problem.into_response(),
    }
}

/// Where the job of a receipt is.
fn place(receipt: &Map<String, Value>) -> Option<HeaderValue> {
    let id = receipt.get("id")?.as_str()?;
    HeaderValue::from_str(&format!("/v1/jobs/{id}")).ok()
}

/// All at once, so that they share a commit; answered in order, each by itself.
async fn many(api: &Api, caller: &Caller, all: &[&[u8]]) -> Response {
    let (doors, within) = (&api.given.doors, caller.within());
    let answers = join_all(all.iter().map(|it| doors.submit_within(it, within))).await;
    let mut wait = None;
    let told: Vec<Map<String, Value>> = all
        .iter()
        .zip(answers)
        .map(|(bytes, answer)| match judged(bytes, answer) {
            Ok((status, receipt)) => {
                let mut told = Map::from_iter([("status".to_owned(), status.as_u16().into())]);
                told.extend(receipt);
                told
            }
            Err(problem) => {
                wait = wait.max(problem.retry_after());
                problem.body(caller.is_operator())
            }
        })
        .collect();
    let mut response = answer(StatusCode::MULTI_STATUS, &told);
    if let Some(wait) = wait {
        let wait = HeaderValue::from(seconds(wait));
        response.headers_mut().insert(RETRY_AFTER, wait);
    }
    response
}

/// What the door's answer to `bytes` is in HTTP: a status and the receipt, or a problem.
fn judged(
    bytes: &[u8],
    answered: Result<Answer, Busy>,
) -> Result<(StatusCode, Map<String, Value>), Problem> {
    let answered = answered.map_err(|busy| {
        let said = busy.to_string();
        match busy {
            Busy::Full(_) => Problem::new(StatusCode::TOO_MANY_REQUESTS, "full", said).after(FULL),
            Busy::Away => Problem::later("ledger-away", said, AWAY),
            Busy::Memory => Problem::later("memory", said, MEMORY),
            Busy::Stopping => Problem::later("stopping", said, STOPPING),
        }
    })?;
    match answered.refusal() {
        Some((reason, _)) => metrics::refused(DOOR, reason.as_str()),
        None if matches!(answered, Answer::New { .. }) => metrics::accepted(DOOR, 1),
        None => {}
    }
    let receipt = receipt(&answered);
    let taken = |status: StatusCode| match receipt.clone() {
        Value::Object(it) => (status, it),
        _ => (status, Map::new()),
    };
    let conflict = |word| {
        let said = answered.refusal().map_or(String::new(), |it| it.1);
        Problem::new(StatusCode::CONFLICT, word, said)
    };
    let problem = match &answered {
        Answer::New { .. } => return Ok(taken(StatusCode::CREATED)),
        Answer::Same { .. } => return Ok(taken(StatusCode::OK)),
        Answer::Conflict { .. } => conflict("conflict"),
        Answer::Repeats { .. } => conflict("repeats"),
        Answer::Refused(refusal) => refused(bytes, refusal.reason),
    };
    Err(problem.with(receipt))
}

fn refused(bytes: &[u8], reason: Reason) -> Problem {
    let unfit = |word, said| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, word, said);
    match reason {
        Reason::TooLarge => Problem::too_large("the envelope is larger than one may be"),
        Reason::Malformed if !is_json(bytes) => {
            Problem::new(StatusCode::BAD_REQUEST, "no-json", "the body is no JSON")
        }
        Reason::Malformed => unfit("no-envelope", "this is no envelope; `violations` says why"),
        Reason::UnknownKind => unfit("unknown-kind", "no daemon here knows this kind"),
        Reason::Invalid => unfit(
            "invalid",
            "it can't be accepted as it is; `violations` says why",
        ),
        Reason::Forbidden => Problem::new(
            StatusCode::FORBIDDEN,
            "scope",
            "this token may not make jobs of this kind; `violations` says what it would need",
        ),
        Reason::Refused | Reason::Conflict | Reason::Repeats => unfit(
            "refused",
            "the ledger didn't take it; `violations` says why",
        ),
    }
}

/// The job that a path names.
pub(super) fn id_of(path: Result<Path<String>, PathRejection>) -> Result<JobId, Problem> {
    let Path(text) = path.map_err(|e| Problem::bad(e.body_text()))?;
    text.parse().map_err(Problem::bad)
}

/// The job of an id, if it is there for whoever asks: another tenant's is as if it never was.
///
/// # Errors
/// When there is none.
pub(super) async fn found(api: &Api, caller: &Caller, id: JobId) -> Result<Job, Problem> {
    let found = api.given.ledger.job(id).await?;
    found.filter(|it| caller.sees(&it.tenant)).ok_or_else(|| {
        let said = format!("there is no job {id}: it never was, or is past its keeping");
        Problem::new(StatusCode::NOT_FOUND, "no-such-job", said)
    })
}

/// A job as the API shows it.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    job: ShownJob<'a>,
    /// Why it stands where it stands, for people.
    why: String,
    /// As it came.
    payload: Option<&'a RawValue>,
    /// The attempts, oldest first.
    history: Vec<Map<String, Value>>,
    effects: Vec<ShownEffect<'a>>,
}

/// `GET /v1/jobs/{id}`: a job, unfinished or finished, with all that happened to it.
pub async fn show(
    Of(api): Of<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let id = id_of(path)?;
    let ledger = &*api.given.ledger;
    let job = found(&api, &caller, id).await?;
    let effects = ledger.effects(id).await?;
    let why = match caller.is_operator() {
        true => {
            let around = Around::read(ledger, &api.given.shared.config.load(), &job).await?;
            why(&job, &around, &effects).text
        }
        false => told(&job),
    };
    let attempts = ledger.attempts(id).await?;
    let shown = Shown {
        why,
        payload: serde_json::from_str(&job.payload).ok(),
        history: attempts
            .iter()
            .map(|it| shown::attempt(it, &caller))
            .collect(),
        effects: effects
            .iter()
            .map(|it| ShownEffect::of(it, &caller))
            .collect(),
        job: ShownJob::of(&job, &caller),
    };
    Ok(answer(StatusCode::OK, &shown))
}

/// `GET /v1/jobs/{id}/explain`: everything that keeps a job from running, its place in line, an estimate.
pub async fn explained(
    Of(api): Of<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let job = found(&api, &caller, id_of(path)?).await?;
    let shared = &api.given.shared;
    let config = shared.config.load_full();
    let kinds: Vec<String> = shared.kinds.iter().map(|it| it.name().to_owned()).collect();
    let facts = Facts::read(&*api.given.ledger, &config, &kinds, job).await?;
    // who is bound to a tenant isn't told of others' jobs, nor what operators say of all
    let eyes = match caller.is_operator() && caller.tenant().is_none() {
        true => Eyes::Operator,
        false => Eyes::User,
    };
    Ok(answer(StatusCode::OK, &explain(&facts, &config, eyes)))
}

/// The body of a cancel, where there is one.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cancel {
    #[serde(default)]
    reason: String,
}

/// The largest body of a cancel, in bytes.
const CANCEL_MAX: usize = 4 * 1024;

/// `POST /v1/jobs/{id}/cancel`, with or without `{"reason": "..."}`. 200: it is called off; 202: it
/// runs, and is told to stop.
pub async fn cancel(
    Of(api): Of<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let id = id_of(path)?;
    let (head, body) = request.into_parts();
    let read = body::read(&head.headers, body, CANCEL_MAX, api.limits.body, &api.large).await?;
    let cancel: Cancel = match read.bytes.trim_ascii() {
        b"" => Cancel::default(),
        bytes => {
            body::check_type(&head.headers)?;
            serde_json::from_slice(bytes).map_err(|e| {
                Problem::bad(format!("send {{\"reason\": \"...\"}} or nothing: {e}"))
            })?
        }
    };
    found(&api, &caller, id).await?;
    let by = By {
        actor: caller.actor(),
        reason: cancel.reason,
    };
    let state = operate::cancel(&*api.given.ledger, id, &by).await?;
    let status = match state.is_terminal() {
        true => StatusCode::OK,
        false => StatusCode::ACCEPTED,
    };
    Ok(answer(status, &json!({"id": id, "state": state})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_be_taken_now_is_told_when_to_come_back() {
        for (busy, status) in [
            (Busy::Full(7), 429),
            (Busy::Away, 503),
            (Busy::Memory, 503),
            (Busy::Stopping, 503),
        ] {
            let problem = judged(b"{}", Err(busy)).unwrap_err();
            assert_eq!(problem.status.as_u16(), status);
            assert!(problem.retry_after().is_some());
        }
    }
}
