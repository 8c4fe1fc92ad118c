//! What any post has in common, whatever the platform: what can be said against it, and how it is
//! looked for.

use crate::config::Account;
use crate::content;
use crate::context::{Context, Probe};
use crate::effect::Rule;
use crate::handler::looked_up;
use crate::json::{Digest, Violation};

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

/// Focal points, where a platform has none.
pub(super) fn unfocused(platform: &str, media: &[Media]) -> Vec<Violation> {
    let focused = media
        .iter()
        .enumerate()
        .filter(|(_, it)| it.focus.is_some());
    let message = format!("{platform} has no focal points; leave it out");
    focused
        .map(|(i, _)| Violation::new(format!("/media/{i}/focus"), message.clone()))
        .collect()
}

/// What a post's payload is going to say, for the content guard.
pub(super) fn says(text: &str, media: &[Media], about: &[Option<&str>]) -> Option<Digest> {
    let known: Vec<String> = media.iter().map(Media::known).collect();
    content::digest(text, &known, about)
}

/// What a post says whose media have these digests.
pub(super) fn said(text: &str, digests: &[String], about: &[Option<&str>]) -> Option<Digest> {
    let known: Vec<String> = digests.iter().map(|it| content::medium(it)).collect();
    content::digest(text, &known, about)
}

/// A kind's own rule for looking, with what `jobs.toml` says otherwise.
pub(super) fn rule(cx: &Context, rule: Rule) -> Rule {
    looked_up(rule, cx.config.kinds.get(&cx.job.kind))
}

/// The account that a look asks as, or why there is none.
pub(super) fn account<'a>(probe: &'a Probe, platform: &str) -> Result<&'a Account, String> {
    let name = probe.job.account.as_deref().unwrap_or_default();
    let found = probe.config.accounts.get(name);
    let found = found.filter(|it| it.platform == platform);
    found.ok_or_else(|| format!("no account `{name}` of {platform} in [accounts]"))
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
