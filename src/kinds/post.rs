//! What can be said against any post, whatever the platform.

use crate::json::Violation;

use super::media::Media;

/// A post without a text and without a picture.
pub(super) fn empty(text: &str, media: &[Media]) -> Option<Violation> {
    let message = "is empty; a post needs a text or a picture";
    (text.trim().is_empty() && media.is_empty()).then(|| Violation::new("/text", message))
}

/// What is no language tag (BCP 47): a language of two or three letters, then parts of letters and
/// digits, 35 characters in all.
pub(super) fn language(pointer: impl Into<String>, tag: &str) -> Option<Violation> {
    let mut parts = tag.split('-');
    let first = parts.next().unwrap_or_default();
    let letters = first.chars().all(|c| c.is_ascii_alphabetic());
    let plain = |part: &str| {
        (1..=8).contains(&part.len()) && part.chars().all(|c| c.is_ascii_alphanumeric())
    };
    let sound = (2..=3).contains(&first.len()) && letters && parts.all(plain) && tag.len() <= 35;
    let message = || format!("`{tag}` is no language tag; write one like `de` or `pt-BR`");
    (!sound).then(|| Violation::new(pointer, message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn language_tags_are_told_from_other_words() {
        for tag in ["de", "pt-BR", "zh-Hant-TW", "sl-rozaj-biske", "gsw"] {
            assert_eq!(language("/x", tag), None, "{tag}");
        }
        let long = format!("de{}", "-abcdefgh".repeat(4));
        for tag in [
            "", "d", "d1", "english", "de_DE", "de-", "-de", "de-ö", &long,
        ] {
            assert!(language("/x", tag).is_some(), "{tag}");
        }
    }
}
