//! The HTTP API: jobs in, jobs looked at, probes, metrics.
//!
//! ```text
//! POST /v1/jobs              one envelope, or an array of up to 1,000
//! GET  /v1/jobs/{id}         a job with all that happened to it
//! GET  /v1/jobs/{id}/explain everything that keeps it from running
//! POST /v1/jobs/{id}/cancel  calls it off
//! POST /v1/jobs/{id}/release lets a held one go on, now or at another time
//! GET  /v1/jobs/{id}/receipt what it did to the outside world, and the proof
//! GET  /v1/unresolved        jobs of which a person must say whether they happened
//! POST /v1/jobs/{id}/resolve that word
//! GET  /v1/stops             what is stopped, by whom and why
//! GET  /v1/budgets           what may be done, and how much of it is used
//! POST /v1/budgets/{name}    another number for a budget
//! POST /v1/stop              stops everything, or a part; at once, on all hosts
//! POST /v1/go                lets that go on
//! POST /v1/hooks/{account}   a platform calls about work that it goes on with; signed, no token
//! GET  /v1/oauth/callback    an issuer sends a person back; its state is the authority, once
//! GET  /livez  /readyz       open to anybody
//! GET  /metrics              as Prometheus reads them
//! ```
//!
//! Who shows a `pw_` token may do what its scopes say, for its tenant if it is bound to one.
//! Whatever can't be done is told as problem details (RFC 9457). There is no CORS: no page of
//! another origin reads anything here.

pub mod problem;
pub mod keyring;
pub mod guard;
pub mod body;
pub mod state;
pub mod shown;
pub mod jobs;
pub mod unresolved;
pub mod held;
pub mod stops;
pub mod budgets;
pub mod accounts;
pub mod signed;
pub mod hooks;
pub mod logins;
pub mod probes;
pub mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use guard::{Access, Bounds, bounded};
use state::Api;

pub use guard::Limits;
pub use state::State;
pub use wire::Serving;

/// Serves the API at `listen` until `stop` fires; then open requests have a few seconds to end.
///
/// # Errors
/// When the address can't be listened on, or lies beyond loopback and there is no token.
pub async fn serve(
    listen: SocketAddr,
    token: Option<SecretString>,
    state: State,
    stop: CancellationToken,
) -> anyhow::Result<Serving> {
    serve_within(Limits::default(), listen, token, state, stop).await
}

/// As [`serve`], within other limits.
///
/// # Errors
/// As [`serve`].
pub async fn serve_within(
    limits: Limits,
    listen: SocketAddr,
    token: Option<SecretString>,
    state: State,
    stop: CancellationToken,
) -> anyhow::Result<Serving> {
    let access = Access::new(listen, token.as_ref())?.with(state.keyring.clone());
    let router = router(limits.clone(), access, state);
    wire::listen(listen, router, limits, stop).await
}

fn router(limits: Limits, access: Access, state: State) -> Router {
    let bounds = Arc::new(Bounds::new(&limits));
    Router::new()
        .route("/v1/jobs", post(jobs::submit))
        .route("/v1/jobs/{id}", get(jobs::show))
        .route("/v1/jobs/{id}/explain", get(jobs::explained))
        .route("/v1/jobs/{id}/cancel", post(jobs::cancel))
        .route("/v1/jobs/{id}/release", post(held::release))
        .route("/v1/jobs/{id}/receipt", get(unresolved::show))
        .route("/v1/jobs/{id}/resolve", post(unresolved::resolve))
        .route("/v1/unresolved", get(unresolved::list))
        .route("/v1/stops", get(stops::list))
        .route("/v1/stop", post(stops::stop))
        .route("/v1/go", post(stops::go))
        .route("/v1/budgets", get(budgets::list))
        .route("/v1/budgets/{name}", post(budgets::set))
        .route("/v1/accounts", get(accounts::list))
        .route("/v1/accounts/{name}/pause", post(accounts::pause))
        .route("/v1/accounts/{name}/resume", post(accounts::resume))
        .route(hooks::ROUTE, post(hooks::called))
        .route(guard::CALLBACK, get(logins::back))
        .route("/livez", get(probes::livez))
        .route("/readyz", get(probes::readyz))
        .route("/metrics", get(probes::metrics))
        .fallback(problem::unknown_path)
        .method_not_allowed_fallback(problem::wrong_method)
        .layer(from_fn_with_state(Arc::new(access), guard::guard))
        .layer(from_fn_with_state(bounds, bounded))
        .with_state(Arc::new(Api::new(state, limits)))
}
