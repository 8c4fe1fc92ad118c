//! The wall: a page that shows what was really published, generated and broken, and one page for each post.

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
use serde_json::Value;

use super::{
    acts::{Act, Media},
    faults::without_marks,
    stage::Shared,
    text::{escape, links},
};

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
    body.push_str(&generations(&made));
    body.push_str(&broken(&shared));
    page("Presswork sandbox", &body, true)
}

/// Posts that were not deleted or written over, oldest first.
fn still_there(acts: &[Arc<Act>]) -> Vec<&Arc<Act>> {
    let mut live: BTreeMap<u64, &Arc<Act>> = BTreeMap::new();
    let mut records: BTreeMap<&str, u64> = BTreeMap::new();
    for act in acts {
        let record = matches!(
            act.op.as_str(),
            "putRecord" | "createRecord" | "deleteRecord"
        );
        let before = if record {
            records.remove(act.id.as_str())
        } else {
            None
        };
        if let Some(n) = before {
            live.remove(&n);
        }
        if act.op == "status.create" || (record && act.op != "deleteRecord" && act.url.is_some()) {
            live.insert(act.n, act);
            if record {
                records.insert(&act.id, act.n);
            }
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

fn card(act: &Act) -> String {
    // The port of an earlier life may be another one: the path is what counts.
    let path = act
        .url
        .as_deref()
        .and_then(|page| url::Url::parse(page).ok())
        .map(|page| page.path().to_owned());
    // the whole time doesn't fit beside the account
    let at = format!(
        "<time title=\"{}\">{}</time>",
        act.at.format("%Y-%m-%d %H:%M:%S UTC"),
        act.at.format("%H:%M:%S"),
    );
    let when = match path {
        Some(path) => format!("<a href=\"{}\">{at}</a>", escape(&path)),
        None => at,
    };
    let warning = act.detail["spoiler_text"]
        .as_str()
        .filter(|text| !text.is_empty());
    let warning = warning
        .map(|text| format!("<p><small>{}</small></p>", escape(text)))
        .unwrap_or_default();
    let files: String = act.media.iter().map(file).collect();
    let key = act
        .key
        .as_deref()
        .map(|key| format!("<footer>key {}</footer>", escape(key)))
        .unwrap_or_default();
    format!(
        "<article class=\"card\"><header><span>{} · {}</span><span>{when}</span></header>{warning}<p>{}</p>{}{files}{key}</article>",
        escape(&act.platform),
        escape(&act.account),
        rich(act),
        link_card(&act.detail["record"]["embed"]["external"]),
    )
}

fn file(media: &Media) -> String {
    let (page, alt) = (
        format!("/media/{}", escape(&media.digest)),
        escape(&media.alt),
    );
    let shown = match media.mime.split('/').next() {
        Some("image") => format!("<img src=\"{page}\" alt=\"{alt}\" loading=\"lazy\">"),
        Some("video") => format!("<video src=\"{page}\" controls preload=\"none\"></video>"),
        _ => format!("<a href=\"{page}\">{}</a>", escape(&media.mime)),
    };
    let told = if alt.is_empty() {
        "no alt text".to_owned()
    } else {
        alt
    };
    format!(
        "<figure>{shown}<figcaption>{told} · {} bytes</figcaption></figure>",
        media.bytes
    )
}

fn link_card(external: &Value) -> String {
    let Some(uri) = external["uri"].as_str() else {
        return String::new();
    };
    let text = |name: &str| escape(external[name].as_str().unwrap_or_default());
    format!(
        "<p>{} <small>{}</small></p>",
        anchor(uri, &text("title")),
        text("description")
    )
}

/// A link that leads outside; anything but http(s) is only named.
fn anchor(uri: &str, inner: &str) -> String {
    if uri.starts_with("https://") || uri.starts_with("http://") {
        format!(
            "<a href=\"{}\" rel=\"noopener noreferrer nofollow\">{inner}</a>",
            escape(uri)
        )
    } else {
        format!("{inner} <small>{}</small>", escape(uri))
    }
}

/// The text with its facets, or with the links that are found in it.
fn rich(act: &Act) -> String {
    let text = act.text.as_str();
    let mut spans: Vec<(usize, usize, String)> = Vec::new();
    if let Some(facets) = act.detail["record"]["facets"].as_array() {
        for facet in facets {
            let index = |name: &str| {
                facet["index"][name]
                    .as_u64()
                    .and_then(|n| usize::try_from(n).ok())
            };
            let feature = &facet["features"][0];
            let target = ["uri", "did", "tag"]
                .into_iter()
                .find_map(|name| feature[name].as_str());
            if let (Some(start), Some(end), Some(target)) =
                (index("byteStart"), index("byteEnd"), target)
            {
                spans.push((start, end, target.to_owned()));
            }
        }
        spans.sort();
    } else if act.platform == "mastodon" {
        spans.extend(
            links(text)
                .into_iter()
                .map(|link| (link.start, link.end, text[link].to_owned())),
        );
    }
    let (mut html, mut from) = (String::new(), 0);
    for (start, end, target) in spans {
        let (Some(before), Some(inner)) = (text.get(from..start), text.get(start..end)) else {
            continue;
        };
        html.push_str(&escape(&unmarked(before)));
        html.push_str(&anchor(&target, &escape(&without_marks(inner))));
        from = end;
    }
    html.push_str(&escape(&unmarked(text.get(from..).unwrap_or_default())));
    html.trim().to_owned()
}

/// Without markers, but with the white space around it: it stands between links.
fn unmarked(piece: &str) -> String {
    if !piece.contains("[[fault:") {
        return piece.to_owned();
    }
    let space = |at_start: bool| {
        let edge = if at_start {
            piece.chars().next()
        } else {
            piece.chars().last()
        };
        edge.filter(|c| c.is_whitespace())
            .map(String::from)
            .unwrap_or_default()
    };
    format!("{}{}{}", space(true), without_marks(piece), space(false))
}

fn pictures(drawn: &[&Arc<Act>]) -> String {
    if drawn.is_empty() {
        return String::new();
    }
    let cards: String = drawn.iter().map(|act| card(act)).collect();
    format!("<h2>Pictures</h2><div class=\"cards\">{cards}</div>")
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
    use serde_json::json;

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
    fn a_card_escapes_links_and_hides_markers() {
        let made = card(&act(
            1,
            "status.create",
            "1",
            "<script> https://e.example/?a&b [[fault:503 times=2]]",
            json!({}),
        ));
        assert!(
            made.contains("&lt;script&gt; <a href=\"https://e.example/?a&amp;b\""),
            "{made}"
        );
        assert!(
            !made.contains("<script") && !made.contains("fault:503") && !made.contains("a<b"),
            "{made}"
        );
    }

    #[test]
    fn facets_are_shown_where_they_are() {
        let feature =
            json!({"$type": "app.bsky.richtext.facet#link", "uri": "javascript:alert(1)"});
        let facets = json!([{"index": {"byteStart": 4, "byteEnd": 8}, "features": [feature]}]);
        let made = rich(&act(
            1,
            "putRecord",
            "at://x",
            "héy link",
            json!({"record": {"facets": facets}}),
        ));
        assert!(made.starts_with("héy") && !made.contains("href"), "{made}");
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
