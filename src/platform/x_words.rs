//! X's texts: how they are counted, and how one is read back from a timeline, where links are
//! shortened, three characters escaped, and media and quoted posts are links at the end.

use std::ops::RangeInclusive;

use serde::Deserialize;
use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

use crate::clock::Time;

use super::text::links;

/// The weight that a text may have (docs.x.com, counting characters).
pub const WEIGHT_MAX: usize = 280;
/// What any link weighs.
const LINK: usize = 23;
/// Characters that weigh one; all others weigh two.
const LIGHT: [RangeInclusive<u32>; 4] = [0..=4351, 8192..=8205, 8208..=8223, 8242..=8247];

/// A text's weight as X counts it: of its composed form, a link 23, an emoji 2 however it is made, and
/// most scripts of East Asia 2 a character.
pub fn weight(text: &str) -> usize {
    let text: String = text.nfc().collect();
    let (mut weight, mut from) = (0, 0);
    for link in links(&text) {
        weight += LINK + unlinked(&text[from..link.start]);
        from = link.end;
    }
    weight + unlinked(&text[from..])
}

fn unlinked(text: &str) -> usize {
    let light = |c: char| LIGHT.iter().any(|it| it.contains(&u32::from(c)));
    let of = |cluster: &str| match cluster.chars().any(makes_emoji) {
        true => 2,
        false => cluster.chars().map(|c| 2 - usize::from(light(c))).sum(),
    };
    text.graphemes(true).map(of).sum()
}

/// Whether a character makes an emoji of its cluster: a pictograph, a flag's letter, a skin tone, the
/// selector of coloured forms, a key's frame.
fn makes_emoji(c: char) -> bool {
    matches!(u32::from(c), 0x1f000..=0x1faff | 0x2600..=0x27bf | 0x20e3 | 0xfe0f)
}

/// A text as two of them are compared: composed, with plain line ends, without space around it, and
/// an answer without the names that X puts before it.
pub fn plain(text: &str, answers: bool) -> String {
    let text: String = text.replace("\r\n", "\n").nfc().collect();
    let mut text = text.trim();
    while answers && text.starts_with('@') {
        let name = text.split_whitespace().next().unwrap_or(text);
        text = text[name.len()..].trim_start();
    }
    text.to_owned()
}

/// A page of a timeline.
#[derive(Deserialize)]
pub(super) struct Timeline {
    #[serde(default)]
    pub(super) data: Vec<Told>,
    pub(super) meta: Meta,
    /// What X couldn't tell.
    #[serde(default)]
    pub(super) errors: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
pub(super) struct Meta {
    pub(super) next_token: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Told {
    id: String,
    text: String,
    created_at: Option<Time>,
    #[serde(default)]
    attachments: Attachments,
    #[serde(default)]
    entities: Entities,
    #[serde(default, alias = "referenced_tweets")]
    referenced_posts: Vec<Referenced>,
}

#[derive(Default, Deserialize)]
struct Attachments {
    #[serde(default)]
    media_keys: Vec<String>,
}

#[derive(Default, Deserialize)]
struct Entities {
    #[serde(default)]
    urls: Vec<Short>,
}

#[derive(Deserialize)]
struct Short {
    #[serde(default)]
    start: usize,
    url: String,
    expanded_url: Option<String>,
    media_key: Option<String>,
}

#[derive(Deserialize)]
struct Referenced {
    #[serde(rename = "type")]
    how: String,
    id: String,
}

/// A post that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: String,
    /// When it was made, in whole seconds.
    pub created_at: Option<Time>,
    /// The keys of its media.
    pub media_keys: Vec<String>,
    /// The post it answers.
    pub reply_to: Option<String>,
    /// The post it quotes.
    pub quote: Option<String>,
    /// What may have been sent to make it: X puts a scheme before a bare host, and a link to the quoted
    /// post behind the text.
    pub texts: Vec<String>,
}

impl From<Told> for Found {
    fn from(it: Told) -> Self {
        let named = |how: &str| {
            let found = it.referenced_posts.iter().find(|it| it.how == how);
            found.map(|it| it.id.clone())
        };
        let (reply_to, quote) = (named("replied_to"), named("quoted"));
        let mut texts = vec![];
        for bare in [false, true] {
            for without in [None, quote.as_deref()] {
                texts.push(sent(&it.text, &it.entities.urls, bare, without));
            }
        }
        texts.dedup();
        Self {
            id: it.id,
            created_at: it.created_at,
            media_keys: it.attachments.media_keys,
            reply_to,
            quote,
            texts,
        }
    }
}

/// A text with its short links expanded, `bare` without their schemes, and those left out that X made
/// of media and of the post that is quoted.
fn sent(text: &str, urls: &[Short], bare: bool, quoted: Option<&str>) -> String {
    let mut urls: Vec<&Short> = urls.iter().collect();
    urls.sort_by_key(|it| it.start);
    let (mut made, mut rest) = (String::new(), text);
    for it in urls {
        // one link stands for all media, with an entity for each
        let Some((before, after)) = rest.split_once(&it.url) else {
            continue;
        };
        made.push_str(&unescaped(before));
        rest = after;
        let target = it.expanded_url.as_deref().unwrap_or(&it.url);
        let of_quote = quoted.is_some_and(|id| target.ends_with(&format!("/status/{id}")));
        if it.media_key.is_some() || (of_quote && after.trim().is_empty()) {
            continue;
        }
        made.push_str(match bare {
            true => target.split_once("://").map_or(target, |it| it.1),
            false => target,
        });
    }
    made.push_str(&unescaped(rest));
    made
}

/// X escapes these three and no others.
fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn found(json: Value) -> Found {
        serde_json::from_value::<Told>(json).unwrap().into()
    }

    #[test]
    fn a_text_weighs_what_x_says() {
        for (text, expected) in [
            ("hello", 5),
            ("he\u{301}llo", 5),
            ("日本", 4),
            ("👩‍👩‍👧 🇩🇪 1️⃣", 8),
            ("❤️‍🔥", 2),
            ("“quoted” – so…", 15),
        ] {
            assert_eq!(weight(text), expected, "{text}");
        }
        let link = format!("see https://example.com/{}", "x".repeat(300));
        assert_eq!(weight(&link), 27);
    }

    #[test]
    fn a_timelines_text_reads_as_it_was_sent() {
        let it = found(json!({
            "id": "7", "text": "Tea &amp; &lt;cake&gt; &amp;lt; https://t.co/a now https://t.co/b https://t.co/c",
            "created_at": "2026-01-01T00:00:00.000Z",
            "attachments": {"media_keys": ["3_1", "3_2"]},
            "entities": {"urls": [
                {"start": 50, "url": "https://t.co/c", "expanded_url": "https://x.com/a/status/7/photo/1", "media_key": "3_1"},
                {"start": 50, "url": "https://t.co/c", "expanded_url": "https://x.com/a/status/7/photo/1", "media_key": "3_2"},
                {"start": 20, "url": "https://t.co/a", "expanded_url": "https://e.example/?a=1&b=2"},
                {"start": 40, "url": "https://t.co/b", "expanded_url": "https://x.com/b/status/9"},
            ]},
            "referenced_posts": [{"type": "quoted", "id": "9"}],
        }));
        assert_eq!((it.quote.as_deref(), it.reply_to), (Some("9"), None));
        let texts: Vec<String> = it.texts.iter().map(|it| plain(it, false)).collect();
        let sent = "Tea & <cake> &lt; https://e.example/?a=1&b=2 now https://x.com/b/status/9";
        assert!(texts.iter().any(|it| it == sent), "{texts:?}");
    }

    #[test]
    fn what_x_adds_is_taken_away() {
        let quote = found(json!({
            "id": "1", "text": "Look: a.example https://t.co/q",
            "entities": {"urls": [{"start": 17, "url": "https://t.co/q", "expanded_url": "https://twitter.com/b/status/9"}]},
            "referenced_tweets": [{"type": "quoted", "id": "9"}],
        }));
        let is = |it: &Found, sent: &str, answers| {
            let sent = plain(sent, answers);
            it.texts.iter().any(|it| plain(it, answers) == sent)
        };
        assert!(is(&quote, "Look: a.example", false));
        assert!(!is(&quote, "Look:", false));
        let bare = found(json!({
            "id": "1", "text": "See https://t.co/b",
            "entities": {"urls": [{"start": 4, "url": "https://t.co/b", "expanded_url": "http://b.example/x"}]},
        }));
        assert!(is(&bare, "See b.example/x", false) && is(&bare, "See http://b.example/x", false));
        let answer = found(json!({
            "id": "1", "text": "@ada @bob thanks", "referenced_posts": [{"type": "replied_to", "id": "3"}],
        }));
        assert!(is(&answer, "thanks\r\n", true) && !is(&answer, "thanks", false));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_a_weight_is_bounded(text in "(https?://|@[a-z]|[^a]|é|🎉|&amp;|t.co/a){0,40}") {
            let it = found(json!({"id": "1", "text": text, "entities": {"urls": [{"url": "t.co/a"}]}}));
            prop_assert!(it.texts.iter().all(|it| plain(it, true).len() <= 4 * text.len()));
            prop_assert!(weight(&text) <= LINK * text.len());
        }
    }
}
