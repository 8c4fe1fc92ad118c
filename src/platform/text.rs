//! How platforms read a text: links, and characters as a reader counts them.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// Characters as a reader counts them (extended grapheme clusters, UAX 29).
pub fn graphemes(text: &str) -> usize {
    text.graphemes(true).count()
}

/// The byte ranges of the http(s) links in a text, in order, none overlapping. Closing punctuation
/// isn't part of a link, nor is a bracket that was opened before it.
pub fn links(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = scheme(text, from) {
        let rest = &text[start..];
        let end = rest
            .find(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | '"'))
            .unwrap_or(rest.len());
        let link = unpunctuated(&rest[..end]);
        let free = !text[..start].ends_with(|c: char| c.is_alphanumeric());
        let hosted = link
            .split_once("://")
            .is_some_and(|(_, host)| host.starts_with(|c: char| c.is_alphanumeric() || c == '['));
        if free && hosted {
            found.push(start..start + link.len());
            from = start + link.len();
        } else {
            from = start + "http".len();
        }
    }
    found
}

fn scheme(text: &str, from: usize) -> Option<usize> {
    let rest = &text[from..];
    let found = [rest.find("https://"), rest.find("http://")];
    found.into_iter().flatten().min().map(|at| from + at)
}

fn unpunctuated(mut link: &str) -> &str {
    loop {
        let cut = link.trim_end_matches(['.', ',', ';', ':', '!', '?', '\'', '…']);
        let cut = match cut.chars().next_back() {
            Some(')') if cut.matches('(').count() < cut.matches(')').count() => {
                &cut[..cut.len() - 1]
            }
            Some(']') if cut.matches('[').count() < cut.matches(']').count() => {
                &cut[..cut.len() - 1]
            }
            _ => cut,
        };
        if cut.len() == link.len() {
            return link;
        }
        link = cut;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(text: &str) -> Vec<&str> {
        links(text).into_iter().map(|it| &text[it]).collect()
    }

    #[test]
    fn links_end_before_punctuation_and_need_a_host() {
        assert_eq!(
            found("See https://a.example/x?y=1, or (http://b.example/q). https:// is none"),
            ["https://a.example/x?y=1", "http://b.example/q"]
        );
        assert_eq!(
            found("https://e.example/a_(b)!"),
            ["https://e.example/a_(b)"]
        );
        assert_eq!(found("xhttps://a.example"), [""; 0]);
        assert_eq!(found("日本https://a.example"), [""; 0]);
        assert_eq!(found("🎉https://a.example🎉 b"), ["https://a.example🎉"]);
    }

    proptest! {
        #[test]
        fn ranges_are_ordered_and_lie_on_characters(text in "(https?://|[a-z./()]|[^a]|é|🎉){0,40}") {
            let mut end = 0;
            for range in links(&text) {
                prop_assert!(end <= range.start && range.start < range.end);
                prop_assert!(text.get(range.clone()).is_some());
                end = range.end;
            }
        }
    }
}
