//! The wall: a page that shows what was really published, generated and broken, and one page for each post.

mod card;

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;

use self::card::card;
use super::{acts::Act, faults::without_marks, stage::Shared, text::escape};

/// Posts, generations and faults that the wall shows; the rest is in the act log.
const SHOWN: usize = 200;
/// Seconds between two looks.
const REFRESH_S: u32 = 5;

/// The pages for people, and the files they show.
pub(super) fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(wall))
        .route("/wall.css", get(css))
        .route("/avatar.svg", get(avatar))
        .route("/media/{digest}", get(media))
        .route("/mastodon/{account}/{id}", get(status))
        .route("/bluesky/profile/{actor}/post/{rkey}", get(bluesky_post))
        .route("/x/{account}/status/{id}", get(x_post))
        .route("/instagram/p/{code}/", get(instagram_post))
        .with_state(shared)
}

#[derive(Deserialize)]
struct Filter {
    platform: Option<String>,
    account: Option<String>,
}

async fn css() -> Response {
    (
        [(header::CONTENT_TYPE, "text/css; charset=utf-8")],
        include_str!("wall.css"),
    )
        .into_response()
}

async fn avatar() -> Response {
    const SVG: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><rect width="8" height="8" fill="#a8431f"/></svg>"##;
    ([(header::CONTENT_TYPE, "image/svg+xml")], SVG).into_response()
}

async fn wall(State(shared): State<Arc<Shared>>, Query(filter): Query<Filter>) -> Response {
    let acts = shared.acts.all();
    let wanted = |act: &&Arc<Act>| {
        filter
            .platform
            .as_ref()
            .is_none_or(|platform| *platform == act.platform)
            && filter
                .account
                .as_ref()
                .is_none_or(|account| *account == act.account)
    };
    let live = still_there(&acts);
    let posts: Vec<_> = live.into_iter().rev().filter(wanted).take(SHOWN).collect();
    let made: Vec<_> = acts
        .iter()
        .rev()
        .filter(|act| act.op == "chat.completion")
        .filter(wanted)
        .take(SHOWN)
        .collect();
    let drawn: Vec<_> = acts
        .iter()
        .rev()
        .filter(|act| act.op.starts_with("image."))
        .filter(wanted)
        .take(SHOWN)
        .collect();
    let mut body = String::from(
        "<h1>Presswork sandbox</h1><p class=\"lead\">What this simulated internet really did. Nothing here left this machine.</p>",
    );
    body.push_str(&counters(&shared, &acts));
    body.push_str("<h2>Posts</h2>");
    if posts.is_empty() {
        body.push_str("<p class=\"lead\">Nothing has been published yet.</p>");
    }
    let cards: String = posts.iter().map(|act| card(act)).collect();
    body.push_str(&format!("<div class=\"cards\">{cards}</div>"));
    body.push_str(&pictures(&drawn));
    let stored = standing(&acts, STORES, UNSTORES);
    let stored: Vec<_> = stored
        .into_iter()
        .rev()
        .filter(wanted)
        .take(SHOWN)
        .collect();
    body.push_str(&objects(&stored));
    body.push_str(&generations(&made));
    body.push_str(&broken(&shared));
    page("Presswork sandbox", &body, true)
}

/// What publishes, and what takes it away again.
const PUBLISHES: &[&str] = &[
    "status.create",
    "putRecord",
    "createRecord",
    "post.create",
    "media.publish",
];
const REMOVES: &[&str] = &["deleteRecord", "post.delete"];
/// The same of objects.
const STORES: &[&str] = &["object.put", "upload.complete"];
const UNSTORES: &[&str] = &["object.delete"];

/// Posts that were not deleted or written over, oldest first.
fn still_there(acts: &[Arc<Act>]) -> Vec<&Arc<Act>> {
    let mut posts = standing(acts, PUBLISHES, REMOVES);
    // records that are no posts have no page
    posts.retain(|act| act.url.is_some());
    posts
}

/// What some operations made and none of the others took away or wrote over, oldest first.
fn standing<'a>(acts: &'a [Arc<Act>], make: &[&str], remove: &[&str]) -> Vec<&'a Arc<Act>> {
    let mut live: BTreeMap<u64, &Arc<Act>> = BTreeMap::new();
    let mut by_id: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for act in acts {
        let (op, id) = (act.op.as_str(), (act.platform.as_str(), act.id.as_str()));
        let makes = make.contains(&op);
        if (makes || remove.contains(&op))
            && let Some(n) = by_id.remove(&id)
        {
            live.remove(&n);
        }
        if makes {
            live.insert(act.n, act);
            by_id.insert(id, act.n);
        }
    }
    live.into_values().collect()
}

fn counters(shared: &Shared, acts: &[Arc<Act>]) -> String {
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for act in acts {
        *counts.entry((&act.platform, &act.op)).or_default() += 1;
    }
    let cost: f64 = acts
        .iter()
        .filter_map(|act| act.detail["cost_usd"].as_f64())
        .sum();
    let (requests, _) = shared.journal.newest_bent(0);
    let mut items: String = counts
        .iter()
        .map(|((platform, op), n)| {
            format!("<li>{} {} <b>{n}</b></li>", escape(platform), escape(op))
        })
        .collect();
    items.push_str(&format!(
        "<li>requests <b>{requests}</b></li><li>play money <b>${cost:.6}</b></li>"
    ));
    for (fault, n) in shared.faults.played() {
        items.push_str(&format!("<li class=\"fault\">{fault} <b>{n}</b></li>"));
    }
    format!("<ul class=\"counters\">{items}</ul>")
}

fn pictures(drawn: &[&Arc<Act>]) -> String {
    if drawn.is_empty() {
        return String::new();
    }
    let cards: String = drawn.iter().map(|act| card(act)).collect();
    format!("<h2>Pictures</h2><div class=\"cards\">{cards}</div>")
}

fn objects(stored: &[&Arc<Act>]) -> String {
    if stored.is_empty() {
        return String::new();
    }
    let row = |act: &&Arc<Act>| {
        let file = act.media.first();
        let digest = file.map(|file| file.digest.as_str()).unwrap_or_default();
        format!(
            "<tr><td>{}</td><td>{}</td><td><a href=\"/media/{}\">{}</a></td><td>{}</td><td class=\"number\">{}</td><td><code>{}</code></td></tr>",
            act.at.format("%H:%M:%S"),
            escape(&act.account),
            escape(digest),
            escape(&act.id),
            escape(file.map(|file| file.mime.as_str()).unwrap_or_default()),
            file.map_or(0, |file| file.bytes),
            escape(digest.get(..12).unwrap_or_default()),
        )
    };
    let rows: String = stored.iter().map(row).collect();
    format!(
        "<h2>Objects</h2><table><tr><th>Time</th><th>Account</th><th>Bucket and key</th><th>Type</th><th>Bytes</th><th>SHA-256</th></tr>{rows}</table>"
    )
}

fn generations(made: &[&Arc<Act>]) -> String {
    if made.is_empty() {
        return String::new();
    }
    let row = |act: &&Arc<Act>| {
        let completion = &act.detail["completion"];
        let tokens = |name: &str| completion["usage"][name].as_u64().unwrap_or_default();
        format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">${:.6}</td></tr>",
            act.at.format("%H:%M:%S"),
            escape(&act.account),
            escape(completion["model"].as_str().unwrap_or_default()),
            escape(&without_marks(
                act.detail["prompt"].as_str().unwrap_or_default()
            )),
            escape(&act.text),
            tokens("prompt_tokens"),
            tokens("completion_tokens"),
            act.detail["cost_usd"].as_f64().unwrap_or_default(),
        )
    };
    let rows: String = made.iter().map(row).collect();
    format!(
        "<h2>Generations</h2><table><tr><th>Time</th><th>Account</th><th>Model</th><th>Prompt</th><th>Text</th><th>Tokens in</th><th>out</th><th>Cost</th></tr>{rows}</table>"
    )
}

fn broken(shared: &Shared) -> String {
    let (_, bent) = shared.journal.newest_bent(SHOWN);
    if bent.is_empty() {
        return String::new();
    }
    let rows: String = bent
        .iter()
        .map(|seen| {
            format!(
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"fault\">{}</td><td class=\"number\">{}</td></tr>",
                seen.at.format("%H:%M:%S"),
                seen.platform,
                seen.op,
                escape(seen.account.as_deref().unwrap_or("")),
                seen.fault.unwrap_or_default(),
                seen.status.map_or_else(|| "none".to_owned(), |status| status.to_string()),
            )
        })
        .collect();
    format!(
        "<h2>Faults that were played</h2><table><tr><th>Time</th><th>Platform</th><th>Operation</th><th>Account</th><th>Fault</th><th>Status</th></tr>{rows}</table>"
    )
}

async fn status(
    State(shared): State<Arc<Shared>>,
    Path((account, id)): Path<(String, String)>,
) -> Response {
    let account = account.trim_start_matches('@').to_owned();
    single(&shared, |act| {
        act.op == "status.create" && act.account == account && act.id == id
    })
}

async fn bluesky_post(
    State(shared): State<Arc<Shared>>,
    Path((actor, rkey)): Path<(String, String)>,
) -> Response {
    single(&shared, |act| {
        let repo = act
            .id
            .strip_prefix("at://")
            .and_then(|rest| rest.split('/').next());
        act.platform == "bluesky"
            && act.key.as_deref() == Some(&rkey)
            && (act.account == actor || repo == Some(&actor))
    })
}

async fn x_post(
    State(shared): State<Arc<Shared>>,
    Path((account, id)): Path<(String, String)>,
) -> Response {
    single(&shared, |act| {
        act.op == "post.create" && act.account == account && act.id == id
    })
}

async fn instagram_post(State(shared): State<Arc<Shared>>, Path(code): Path<String>) -> Response {
    single(&shared, |act| {
        act.op == "media.publish" && act.detail["shortcode"] == code
    })
}

fn single(shared: &Shared, is: impl Fn(&Act) -> bool) -> Response {
    let acts = shared.acts.all();
    match still_there(&acts).into_iter().rev().find(|act| is(act)) {
        Some(act) => {
            let body = format!(
                "<p class=\"lead\"><a href=\"/\">The wall</a></p>{}",
                card(act)
            );
            page(
                &format!("{} on {}", act.account, act.platform),
                &body,
                false,
            )
        }
        None => {
            let mut response = page(
                "Not here",
                "<h1>There is no such post</h1><p><a href=\"/\">The wall</a></p>",
                false,
            );
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

async fn media(State(shared): State<Arc<Shared>>, Path(digest): Path<String>) -> Response {
    let Some(path) = shared.acts.media_path(&digest) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let Ok(file) = tokio::fs::File::open(path).await else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let acts = shared.acts.all();
    let mime = acts
        .iter()
        .flat_map(|act| &act.media)
        .find(|media| media.digest == digest)
        .map(|media| media.mime.clone());
    // What could run as a page is only ever downloaded.
    let shown = mime.filter(|mime| {
        let family = mime.split('/').next().unwrap_or_default();
        matches!(family, "image" | "video" | "audio") && !mime.contains("svg")
    });
    let headers = [
        (
            header::CONTENT_TYPE,
            shown.unwrap_or_else(|| "application/octet-stream".into()),
        ),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; sandbox".into(),
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".into()),
    ];
    (
        headers,
        Body::from_stream(tokio_util::io::ReaderStream::new(file)),
    )
        .into_response()
}

fn page(title: &str, body: &str, refresh: bool) -> Response {
    let again = if refresh {
        format!("<meta http-equiv=\"refresh\" content=\"{REFRESH_S}\">")
    } else {
        String::new()
    };
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">{again}<title>{}</title><link rel=\"stylesheet\" href=\"/wall.css\"></head><body>{body}</body></html>",
        escape(title)
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; img-src 'self'; media-src 'self'; base-uri 'none'; form-action 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, html).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn act(n: u64, op: &str, id: &str, text: &str, detail: Value) -> Arc<Act> {
        Arc::new(Act {
            n,
            at: chrono::Utc::now(),
            platform: if op == "status.create" {
                "mastodon".into()
            } else {
                "bluesky".into()
            },
            op: op.into(),
            account: "a<b".into(),
            key: None,
            id: id.into(),
            url: Some("http://127.0.0.1:1/x".into()),
            text: text.into(),
            media: vec![],
            detail,
        })
    }

    #[test]
    fn deleted_and_overwritten_records_are_gone() {
        let acts = [
            act(1, "putRecord", "at://a", "one", json!({})),
            act(2, "putRecord", "at://a", "two", json!({})),
            act(3, "putRecord", "at://b", "three", json!({})),
            act(4, "deleteRecord", "at://b", "", json!({})),
            act(5, "status.create", "9", "four", json!({})),
        ];
        let texts: Vec<_> = still_there(&acts)
            .iter()
            .map(|act| act.text.clone())
            .collect();
        assert_eq!(texts, ["two", "four"]);
    }
}
