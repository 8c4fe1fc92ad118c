//! What Bluesky underlines in a text: links, mentions, hashtags, by byte ranges of its UTF-8.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Value, json};
use url::Url;

use super::text::{graphemes, links};

/// Something in a text that is more than text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feature {
    /// A link, with where it leads.
    Link(String),
    /// A mention, with the handle.
    Mention(String),
    /// A hashtag, without its sign.
    Tag(String),
}

/// Characters of a hashtag (app.bsky.richtext.facet#tag).
const TAG_MAX: (usize, usize) = (64, 640);

/// What a text holds, with its byte range, in order, none overlapping.
pub fn features(text: &str) -> Vec<(Range<usize>, Feature)> {
    let mut found = Vec::new();
    let mut from = 0;
    for range in links(text) {
        words(text, from..range.start, &mut found);
        let link = &text[range.clone()];
        if let Ok(url) = Url::parse(link) {
            // a link of plain ASCII is kept as it was written
            let uri = if link.is_ascii() { link } else { url.as_str() };
            found.push((range.clone(), Feature::Link(uri.to_owned())));
        }
        from = range.end;
    }
    words(text, from..text.len(), &mut found);
    found
}

/// The mentions and hashtags of a part of a text: they begin a word, but for an opening bracket.
fn words(text: &str, part: Range<usize>, found: &mut Vec<(Range<usize>, Feature)>) {
    let piece = &text[part.clone()];
    let mut from = 0;
    while let Some(at) = piece[from..].find(['@', '#', '＃']) {
        let start = from + at;
        let sign = piece[start..].chars().next().map_or(1, char::len_utf8);
        from = start + sign;
        let before = text[..part.start + start].chars().next_back();
        if before.is_some_and(|c| !c.is_whitespace() && !matches!(c, '(' | '[' | '"' | '“')) {
            continue;
        }
        let rest = &piece[from..];
        let found_here = match sign {
            1 if piece[start..].starts_with('@') => {
                handle(rest).map(|it| (it.len(), Feature::Mention(it.to_lowercase())))
            }
            _ => tag(rest).map(|it| (it.len(), Feature::Tag(it.to_owned()))),
        };
        if let Some((len, feature)) = found_here {
            let start = part.start + start;
            found.push((start..start + sign + len, feature));
            from += len;
        }
    }
}

/// A handle at the start of a text: a domain name of two labels or more (atproto.com/specs/handle).
fn handle(text: &str) -> Option<&str> {
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '-')
        .unwrap_or(text.len());
    let handle = text[..end].trim_end_matches(['.', '-']);
    // `@user@host` is somebody elsewhere
    let elsewhere = text[end..].starts_with(['@', '_']);
    let labels: Vec<&str> = handle.split('.').collect();
    let sound = |label: &&str| {
        (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    let top = labels
        .last()?
        .starts_with(|c: char| c.is_ascii_alphabetic());
    let whole = 2 <= labels.len() && handle.len() <= 253 && labels.iter().all(sound);
    (whole && top && !elsewhere).then_some(handle)
}

/// A hashtag's text: letters, digits and `_`, not digits alone, at most 64 characters.
fn tag(text: &str) -> Option<&str> {
    let joined = |c: char| c.is_alphanumeric() || c == '_' || matches!(c, '\u{300}'..='\u{36f}');
    let end = text.find(|c| !joined(c)).unwrap_or(text.len());
    let tag = &text[..end];
    let said = tag.chars().any(char::is_alphabetic);
    (said && graphemes(tag) <= TAG_MAX.0 && tag.len() <= TAG_MAX.1).then_some(tag)
}

/// The handles that a text mentions, each once.
pub fn mentions(text: &str) -> Vec<String> {
    let mut handles: Vec<String> = Vec::new();
    for (_, feature) in features(text) {
        if let Feature::Mention(handle) = feature
            && !handles.contains(&handle)
        {
            handles.push(handle);
        }
    }
    handles
}

/// The facets of a text; a mention whose handle has no DID in `dids` stays plain text.
pub fn facets(text: &str, dids: &BTreeMap<String, Option<String>>) -> Vec<Value> {
    let facet = |(range, feature): (Range<usize>, Feature)| {
        let feature = match feature {
            Feature::Link(uri) => json!({"$type": "app.bsky.richtext.facet#link", "uri": uri}),
            Feature::Tag(tag) => json!({"$type": "app.bsky.richtext.facet#tag", "tag": tag}),
            Feature::Mention(handle) => {
                let did = dids.get(&handle)?.as_ref()?;
                json!({"$type": "app.bsky.richtext.facet#mention", "did": did})
            }
        };
        let index = json!({"byteStart": range.start, "byteEnd": range.end});
        Some(json!({"index": index, "features": [feature]}))
    };
    features(text).into_iter().filter_map(facet).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(text: &str) -> Vec<(&str, Feature)> {
        let found = features(text).into_iter();
        found.map(|(range, it)| (&text[range], it)).collect()
    }

    #[test]
    fn links_mentions_and_tags_are_found_by_bytes() {
        let text = "Grüße 🎉 an @Anna.bsky.social, (siehe https://e.example/ä?x=1) #Köln! #42 @bob me@x.example";
        assert_eq!(
            seen(text),
            [
                (
                    "@Anna.bsky.social",
                    Feature::Mention("anna.bsky.social".into())
                ),
                (
                    "https://e.example/ä?x=1",
                    Feature::Link("https://e.example/%C3%A4?x=1".into())
                ),
                ("#Köln", Feature::Tag("Köln".into())),
            ]
        );
    }

    #[test]
    fn what_is_inside_a_link_is_the_links() {
        let text = "https://e.example/@a.example#top #＃ok @x@y.example";
        assert_eq!(
            seen(text),
            [(
                "https://e.example/@a.example#top",
                Feature::Link("https://e.example/@a.example#top".into())
            )]
        );
    }

    #[test]
    fn a_handle_that_nobody_has_stays_plain_text() {
        let text = "@a.example @b.example @a.example";
        assert_eq!(mentions(text), ["a.example", "b.example"]);
        let dids = BTreeMap::from([
            ("a.example".to_owned(), Some("did:plc:1".to_owned())),
            ("b.example".to_owned(), None),
        ]);
        let made = facets(text, &dids);
        assert_eq!(made.len(), 2);
        assert_eq!(made[1]["index"], json!({"byteStart": 22, "byteEnd": 32}));
        assert_eq!(made[1]["features"][0]["did"], "did:plc:1");
    }

    proptest! {
        #[test]
        fn byte_ranges_are_valid_for_any_text(text in "(@[a-z.]{1,9}|#\\w{1,5}|https://[a-z.]{1,9}| |[^a]|🎉|＃){0,30}") {
            let mut end = 0;
            for (range, _) in features(&text) {
                prop_assert!(end <= range.start && range.start < range.end, "{:?}", range);
                prop_assert!(text.get(range.clone()).is_some(), "{:?}", range);
                end = range.end;
            }
        }
    }
}
