//! Whether the daemon lives, whether it is ready, and its figures.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::extract::State as Of;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::problem::answer;
use super::state::{Api, Looked};

/// A look at the ledger counts for so long: whoever asks more often gets the same answer.
const COUNTS: Duration = Duration::from_secs(1);
/// A ledger that takes longer doesn't answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// `GET /livez`: the process answers.
pub async fn livez() -> Response {
    answer(StatusCode::OK, &json!({"live": true}))
}

/// `GET /readyz`: 200 while the ledger answers with a schema that fits, the lease is held, and the
/// daemon doesn't drain; else 503. The queue is told, but isn't needed: dispatch goes on without.
pub async fn readyz(Of(api): Of<Arc<Api>>) -> Response {
    let shared = &api.given.shared;
    let looked = look(&api).await;
    let draining = shared.draining.is_cancelled();
    let beats = shared.ledger_up.load(Ordering::SeqCst);
    let ready = looked.answers && looked.fits && looked.leased && beats && !draining;
    let status = match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = json!({
        "ready": ready,
        "ledger": {
            "name": api.given.ledger.name(),
            "answers": looked.answers,
            "schema_fits": looked.fits,
            "heartbeat": beats,
        },
        "lease_held": looked.leased,
        "draining": draining,
        "queue": {"name": shared.queue.name(), "usable": shared.generation().is_some()},
    });
    answer(status, &body)
}

async fn look(api: &Api) -> Looked {
    // one looks, the others wait for it
    let mut looked = api.looked.lock().await;
    if let Some((at, it)) = &*looked
        && at.elapsed() < COUNTS
    {
        return it.clone();
    }
    let asked = async {
        let schema = api.given.ledger.schema().await?;
        let runs = api.given.ledger.live_runs().await?;
        let me = api.given.shared.run_id();
        Ok::<_, crate::ledger::LedgerError>(Looked {
            answers: true,
            fits: schema.fits(),
            leased: runs.iter().any(|it| it.id == me),
        })
    };
    let none = Looked {
        answers: false,
        fits: false,
        leased: false,
    };
    let found = match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(it)) => it,
        Ok(Err(e)) => {
            tracing::warn!("readyz: {e}");
            none
        }
        Err(_) => none,
    };
    *looked = Some((Instant::now(), found.clone()));
    found
}

/// `GET /metrics`: the figures as Prometheus reads them.
pub async fn metrics(Of(api): Of<Arc<Api>>) -> Response {
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(CONTENT_TYPE, text)], (api.given.render)()).into_response()
}
