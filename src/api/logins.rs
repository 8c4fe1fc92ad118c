//! The end of a login: an issuer sends a person back to `GET /v1/oauth/callback`.
//!
//! Anybody may ask: the state that is brought is the authority, for one login, once, and for ten minutes.

use std::sync::Arc;

use axum::extract::{Request, State as Of};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};

use super::state::Api;
use crate::oauth::login::Back;
use crate::operate::Refused;
use crate::operate::logins::{self, POLICY, page};

/// `GET /v1/oauth/callback?state=...&code=...`: a page that says what became of the login.
pub async fn back(Of(api): Of<Arc<Api>>, request: Request) -> Response {
    if request.method() != Method::GET {
        // what only looks at an address mustn't end a login
        return said(
            StatusCode::METHOD_NOT_ALLOWED,
            "this address is opened by a browser",
        );
    }
    let Ok(_place) = api.calls.try_acquire() else {
        let told = "too many at once: open the same address again in a moment";
        return said(StatusCode::SERVICE_UNAVAILABLE, told);
    };
    let back = Back::read(request.uri().query().unwrap_or_default());
    let Some(state) = back.state.clone() else {
        let told = "this address names no login: begin one with `presswork accounts login`";
        return said(StatusCode::BAD_REQUEST, told);
    };
    let returned = match back.returned() {
        Ok(it) => it,
        Err(stray) => return said(StatusCode::BAD_REQUEST, &stray.to_string()),
    };
    let (given, state) = (&api.given, state.into());
    let config = given.shared.config.load_full();
    let http = &given.shared.tools.http;
    let ended = logins::end(http, &*given.ledger, &config, (&state, returned)).await;
    match ended {
        Ok(it) if it.done => said(StatusCode::OK, &it.told),
        Ok(it) => said(StatusCode::CONFLICT, &it.told),
        Err(Refused::Ledger(e)) => {
            tracing::warn!("api: a login couldn't be ended: {e}");
            let told = "the ledger can't be reached: open the same address again in a moment";
            said(StatusCode::SERVICE_UNAVAILABLE, told)
        }
        Err(e) => said(StatusCode::NOT_FOUND, &e.to_string()),
    }
}

fn said(status: StatusCode, told: &str) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    (status, headers, page(told)).into_response()
}
