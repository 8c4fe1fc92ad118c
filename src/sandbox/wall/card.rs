//! One post as a card: text with its links, files, the key that it was published under.

use serde_json::Value;

use super::super::{
    acts::{Act, Media},
    faults::without_marks,
    text::{escape, links},
};

/// A post, a generation with pictures, or whatever else has a text and files.
pub(super) fn card(act: &Act) -> String {
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
    } else if matches!(act.platform.as_str(), "mastodon" | "x") {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn act(op: &str, text: &str, detail: Value) -> Act {
        let platform = match op {
            "status.create" => "mastodon",
            _ => "bluesky",
        };
        Act {
            n: 1,
            at: chrono::Utc::now(),
            platform: platform.into(),
            op: op.into(),
            account: "a<b".into(),
            key: None,
            id: "1".into(),
            url: Some("http://127.0.0.1:1/x".into()),
            text: text.into(),
            media: vec![],
            detail,
        }
    }

    #[test]
    fn a_card_escapes_links_and_hides_markers() {
        let made = card(&act(
            "status.create",
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
            "putRecord",
            "héy link",
            json!({"record": {"facets": facets}}),
        ));
        assert!(made.starts_with("héy") && !made.contains("href"), "{made}");
    }
}
