//! The control paths below `/_sandbox/`: acts, requests, faults, the clock, settings, reset.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Query, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    acts::held,
    bluesky::Bluesky,
    exchange::Platform,
    faults::Script,
    instagram::Instagram,
    issuer::Issuer,
    mastodon::Mastodon,
    openai::OpenAi,
    s3::S3,
    settings::Values,
    stage::{Shared, Stage},
    worker::Worker,
    x::X,
};

/// The whole sandbox.
pub(super) struct World {
    pub(super) openai: Arc<Stage<OpenAi>>,
    pub(super) mastodon: Arc<Stage<Mastodon>>,
    pub(super) bluesky: Arc<Stage<Bluesky>>,
    pub(super) x: Arc<Stage<X>>,
    pub(super) instagram: Arc<Stage<Instagram>>,
    pub(super) s3: Arc<Stage<S3>>,
    pub(super) worker: Arc<Stage<Worker>>,
    pub(super) issuer: Arc<Stage<Issuer>>,
    pub(super) shared: Arc<Shared>,
}

pub(super) fn routes(world: Arc<World>) -> Router {
    Router::new()
        .route("/_sandbox/acts", get(acts))
        .route("/_sandbox/requests", get(requests))
        .route(
            "/_sandbox/faults",
            get(waiting).post(script).delete(drop_scripts),
        )
        .route("/_sandbox/clock", get(clock).post(advance))
        .route("/_sandbox/calls", get(calls))
        .route("/_sandbox/settings", get(settings).post(set))
        .route("/_sandbox/reset", post(reset))
        .with_state(world)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    platform: Option<String>,
    op: Option<String>,
    key: Option<String>,
    account: Option<String>,
}

impl Filter {
    fn takes(&self, platform: &str, op: &str, key: Option<&str>, account: Option<&str>) -> bool {
        let same = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|w| Some(w) == is)
        };
        same(&self.platform, Some(platform))
            && same(&self.op, Some(op))
            && same(&self.key, key)
            && same(&self.account, account)
    }
}

async fn acts(State(world): State<Arc<World>>, Query(filter): Query<Filter>) -> Response {
    // What is told here must be true after a crash as well.
    if let Err(why) = world.shared.acts.settled().await {
        return refused(StatusCode::INTERNAL_SERVER_ERROR, &why);
    }
    let mut list = world.shared.acts.all();
    list.retain(|act| {
        filter.takes(
            &act.platform,
            &act.op,
            act.key.as_deref(),
            Some(&act.account),
        )
    });
    Json(list.iter().map(|act| json!(**act)).collect::<Vec<_>>()).into_response()
}

async fn requests(
    State(world): State<Arc<World>>,
    Query(filter): Query<Filter>,
) -> Json<Vec<Value>> {
    let mut list = world.shared.journal.all();
    list.retain(|seen| {
        filter.takes(
            seen.platform,
            seen.op,
            seen.key.as_deref(),
            seen.account.as_deref(),
        )
    });
    Json(list.iter().map(|seen| seen.to_json()).collect())
}

async fn waiting(State(world): State<Arc<World>>) -> Json<Vec<Script>> {
    Json(world.shared.faults.scripts())
}

async fn script(
    State(world): State<Arc<World>>,
    body: Result<Json<Script>, JsonRejection>,
) -> Response {
    let Json(script) = match body {
        Ok(script) => script,
        Err(error) => return refused(StatusCode::UNPROCESSABLE_ENTITY, &error.body_text()),
    };
    match world.shared.faults.script(script) {
        Ok(()) => (
            StatusCode::CREATED,
            Json(json!({"waiting": world.shared.faults.scripts().len()})),
        )
            .into_response(),
        Err(why) => refused(StatusCode::UNPROCESSABLE_ENTITY, &why),
    }
}

async fn drop_scripts(State(world): State<Arc<World>>) -> Json<Value> {
    Json(json!({"dropped": world.shared.faults.drop_scripts()}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance_s: u32,
}

async fn clock(State(world): State<Arc<World>>) -> Json<Value> {
    Json(json!({"now": world.shared.clock.now(), "offset_s": world.shared.clock.offset_s()}))
}

async fn advance(
    State(world): State<Arc<World>>,
    body: Result<Json<Advance>, JsonRejection>,
) -> Response {
    let Json(Advance { advance_s }) = match body {
        Ok(advance) => advance,
        Err(error) => return refused(StatusCode::UNPROCESSABLE_ENTITY, &error.body_text()),
    };
    let offset_s = world.shared.clock.advance(advance_s);
    world.mastodon.platform.publish_due();
    Json(json!({"now": world.shared.clock.now(), "offset_s": offset_s})).into_response()
}

async fn calls(State(world): State<Arc<World>>) -> Response {
    let mut calls = world.openai.platform.calls();
    calls.extend(world.worker.platform.calls());
    Json(calls).into_response()
}

async fn settings(State(world): State<Arc<World>>) -> Json<Values> {
    Json(world.shared.settings.now())
}

async fn set(
    State(world): State<Arc<World>>,
    body: Result<Json<Values>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(values)) => {
            world.shared.settings.set(values.clone());
            Json(values).into_response()
        }
        Err(error) => refused(StatusCode::UNPROCESSABLE_ENTITY, &error.body_text()),
    }
}

async fn reset(State(world): State<Arc<World>>) -> Response {
    held(&world.shared.late).abort_all();
    world.openai.platform.forget();
    world.mastodon.platform.forget();
    world.bluesky.platform.forget();
    world.x.platform.forget();
    world.instagram.platform.forget();
    world.s3.platform.forget();
    world.worker.platform.forget();
    world.issuer.platform.forget();
    world.shared.settings.set(Values::default());
    world.shared.faults.forget();
    world.shared.journal.forget();
    world.shared.clock.reset();
    world.shared.acts.clear();
    match world.shared.acts.settled().await {
        Ok(()) => Json(json!({"reset": true})).into_response(),
        Err(why) => refused(StatusCode::INTERNAL_SERVER_ERROR, &why),
    }
}

fn refused(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({"error": why}))).into_response()
}
