//! A post's text: how X counts it, and the short links it puts in.

use serde_json::{Value, json};
use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

use super::super::text::{fingerprint, links};

/// Characters of a post, weighted.
pub(super) const MAX_WEIGHT: usize = 280;
/// What any link weighs.
const LINK: usize = 23;
/// Characters that weigh one; all others weigh two.
const LIGHT: [std::ops::RangeInclusive<u32>; 4] = [0..=4351, 8192..=8205, 8208..=8223, 8242..=8247];

/// The weight of a text as X counts it: of its composed form, a link 23, an emoji and most of the
/// scripts of East Asia 2.
pub(super) fn weight(text: &str) -> usize {
    let text: String = text.nfc().collect();
    let (mut sum, mut from) = (0, 0);
    for link in links(&text) {
        sum += plain_weight(&text[from..link.start]) + LINK;
        from = link.end;
    }
    sum + plain_weight(&text[from..])
}

fn plain_weight(text: &str) -> usize {
    let light = |c: char| LIGHT.iter().any(|range| range.contains(&u32::from(c)));
    let of = |cluster: &str| {
        if cluster.chars().any(emoji) {
            return 2;
        }
        cluster.chars().map(|c| if light(c) { 1 } else { 2 }).sum()
    };
    text.graphemes(true).map(of).sum()
}

/// Whether a character makes its cluster an emoji: pictographs, flags, keycaps.
fn emoji(c: char) -> bool {
    matches!(u32::from(c), 0x1f000..=0x1faff | 0x2600..=0x27bf | 0x20e3 | 0xfe0f)
}

/// A text as X gives it back, with the entities in it.
pub(super) struct Shown {
    pub(super) text: String,
    pub(super) entities: Value,
}

/// The short link that stands for another.
fn short(post: &str, n: usize, target: &str) -> String {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut rest = fingerprint(&[post, &n.to_string(), target]);
    let mut name = String::from("https://t.co/");
    for _ in 0..10 {
        let digit = usize::try_from(rest % 62).expect("smaller than the alphabet");
        name.push(char::from(ALPHABET[digit]));
        rest /= 62;
    }
    name
}

/// What X makes of a text: short links for links, `&amp;` for `&`, and at its end a link to the
/// files. Indices count characters of the text as it's given back.
pub(super) fn shown(text: &str, id: &str, page: &str, files: &[&str]) -> Shown {
    let mut out = String::new();
    let mut urls = Vec::new();
    let mut from = 0;
    let push = |out: &mut String, urls: &mut Vec<Value>, target: &str, display: &str| {
        let link = short(id, urls.len(), target);
        let start = out.chars().count();
        out.push_str(&link);
        urls.push(json!({
            "start": start, "end": start + link.chars().count(), "url": link,
            "expanded_url": target, "display_url": display,
        }));
    };
    for link in links(text) {
        out.push_str(&escaped(&text[from..link.start]));
        let target = &text[link.clone()];
        let rest = target.split_once("://").map_or(target, |(_, rest)| rest);
        let mut display: String = rest.chars().take(26).collect();
        if display.len() < rest.len() {
            display.push('…');
        }
        push(&mut out, &mut urls, target, &display);
        from = link.end;
    }
    out.push_str(&escaped(&text[from..]));
    if !files.is_empty() {
        if !out.is_empty() {
            out.push(' ');
        }
        let first = urls.len();
        let target = format!("{page}/photo/1");
        let display = short(id, first, &target).replace("https://t.co/", "pic.x.com/");
        push(&mut out, &mut urls, &target, &display);
        // one link stands for all files, with an entity for each
        let one = urls[first].clone();
        urls[first]["media_key"] = files[0].into();
        for file in &files[1..] {
            let mut more = one.clone();
            more["media_key"] = (*file).into();
            urls.push(more);
        }
    }
    let mut entities = json!({});
    if !urls.is_empty() {
        entities["urls"] = Value::Array(urls);
    }
    let tags = hashtags(&out);
    if !tags.is_empty() {
        entities["hashtags"] = Value::Array(tags);
    }
    Shown {
        text: out,
        entities,
    }
}

/// X escapes these three and no others.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn hashtags(text: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut before = ' ';
    let chars: Vec<char> = text.chars().collect();
    for (start, c) in chars.iter().enumerate() {
        if *c == '#' && !before.is_alphanumeric() && before != '&' && before != '/' {
            let tag: String = chars[start + 1..]
                .iter()
                .take_while(|c| c.is_alphanumeric() || **c == '_')
                .collect();
            if tag.chars().any(char::is_alphabetic) {
                let end = start + 1 + tag.chars().count();
                found.push(json!({"start": start, "end": end, "tag": tag}));
            }
        }
        before = *c;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_weighs_what_x_says() {
        assert_eq!(weight("hello"), 5);
        assert_eq!(weight("héllo"), 5);
        assert_eq!(weight("he\u{301}llo"), 5, "the composed form counts");
        assert_eq!(weight("日本"), 4);
        assert_eq!(weight("👩‍👩‍👧 🇩🇪"), 5);
        let link = format!("see https://example.com/{}", "x".repeat(300));
        assert_eq!(weight(&link), 27);
        assert_eq!(weight(&"x".repeat(280)), MAX_WEIGHT);
    }

    #[test]
    fn links_are_shortened_and_their_places_are_told() {
        let text = "é & https://example.com/?a=1&b=2 #Cat";
        let made = shown(text, "7", "https://x.test/a/status/7", &["3_1", "3_2"]);
        assert!(
            made.text.starts_with("é &amp; https://t.co/"),
            "{}",
            made.text
        );
        let chars: Vec<char> = made.text.chars().collect();
        let urls = made.entities["urls"].as_array().expect("urls");
        assert_eq!(urls.len(), 3);
        for url in urls {
            let at = |name: &str| url[name].as_u64().and_then(|n| usize::try_from(n).ok());
            let (start, end) = (at("start").expect("start"), at("end").expect("end"));
            let inside: String = chars[start..end].iter().collect();
            assert_eq!(url["url"], inside);
        }
        assert_eq!(urls[0]["expanded_url"], "https://example.com/?a=1&b=2");
        assert_eq!(urls[2]["media_key"], "3_2");
        assert_eq!(made.entities["hashtags"][0]["tag"], "Cat");
        let bare = shown("", "8", "https://x.test/a/status/8", &["3_1"]);
        assert!(bare.text.starts_with("https://t.co/"));
        assert_eq!(shown("plain", "9", "", &[]).entities, json!({}));
    }
}
