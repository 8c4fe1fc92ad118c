//! The content guard: what makes two posts of an account the same to those who read them, and what is
//! done about the second one.

use std::time::Duration;

use unicode_normalization::UnicodeNormalization;

use crate::json::Digest;
use crate::outcome::words;

words! {
    /// What is done about a post that says what its account has just said.
    Reaction {
        /// It isn't accepted, and what was accepted all the same isn't sent.
        Refuse = "refuse",
        /// It is accepted and sent, and told.
        Warn = "warn",
        /// Nothing: nobody looks.
        Allow = "allow",
    }
}

/// The guard of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// What is done.
    pub reaction: Reaction,
    /// How long ago the other post may have been, at most 30 days.
    pub within: Duration,
}

impl Guard {
    /// What is looked back over where it isn't said: a day.
    pub const WITHIN_S: u64 = 86_400;
    /// The longest that may be looked back over, for which the ledger keeps what was said: 30 days.
    pub const WITHIN_MAX_S: u64 = 30 * 86_400;

    /// The guard in whole seconds, where anybody looks.
    pub fn looks_back_s(self) -> Option<u32> {
        let seconds = u32::try_from(self.within.as_secs()).unwrap_or(u32::MAX);
        (self.reaction != Reaction::Allow).then_some(seconds)
    }
}

impl Default for Guard {
    /// Tells what was said within a day.
    fn default() -> Self {
        Self {
            reaction: Reaction::Warn,
            within: Duration::from_secs(Self::WITHIN_S),
        }
    }
}

/// What a job is going to say, for its account's guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// What two jobs that say the same have in common.
    pub digest: Digest,
    /// The account's guard.
    pub guard: Guard,
    /// The producer knows that it was said already (`again` of the envelope).
    pub again: bool,
}

/// What two posts that say the same have in common: the text as a reader takes it in, the media in
/// their order, each by its digest or, where that isn't known yet, by where it lies; and what they
/// answer or quote, since "Thank you!" under two posts isn't the same. `None` where nothing is said.
pub fn digest<M: AsRef<str>>(text: &str, media: &[M], about: &[Option<&str>]) -> Option<Digest> {
    let text = plain(text);
    if text.is_empty() && media.is_empty() {
        return None;
    }
    let media: Vec<&str> = media.iter().map(AsRef::as_ref).collect();
    // an array of JSON, since no two lists of parts may look alike
    let parts = serde_json::json!([text, media, about]);
    Some(Digest::of_bytes(parts.to_string().as_bytes()))
}

/// How the digest of a medium stands among the media of a post.
pub fn medium(sha256: &str) -> String {
    format!("sha256:{sha256}")
}

/// A text as a reader takes it in: letters in one form and one case (NFKC, UAX #15), runs of white
/// space as one space, and nothing that can't be seen.
fn plain(text: &str) -> String {
    let seen = text.nfkc().filter(|it| !is_invisible(*it));
    let lower: String = seen.flat_map(char::to_lowercase).collect();
    lower.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Soft hyphen, zero-width space and joiners, marks of direction, word joiner and its kin, variation
/// selectors, byte order mark: what producers add to make the same post look new to a filter, and what
/// editors leave behind.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}'
        | '\u{2066}'..='\u{2069}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{e0100}'..='\u{e01ef}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Digest> {
        digest::<&str>(text, &[], &[])
    }

    #[test]
    fn what_reads_the_same_is_the_same() {
        let one = of("Héllo, wörld 1");
        for same in [
            "He\u{301}llo, wo\u{308}rld 1",
            "  héllo,\n\twörld  1 ",
            "HÉLLO, WÖRLD 1",
            "Hé\u{200b}llo,\u{feff} wörld\u{fe0f} 1",
            "Ｈéllo, wörld １",
        ] {
            assert_eq!(of(same), one, "{same}");
        }
        for other in ["Héllo, wörld 2", "Héllo wörld 1", "Hello, world 1"] {
            assert_ne!(of(other), one, "{other}");
        }
    }

    #[test]
    fn media_and_what_is_answered_count() {
        let posts = [
            digest("a", &["sha256:1", "sha256:2"], &[None, None]),
            digest("a", &["sha256:2", "sha256:1"], &[None, None]),
            digest("a", &["sha256:1"], &[None, None]),
            digest::<&str>("a", &[], &[None, None]),
            digest::<&str>("a", &[], &[Some("7"), None]),
            digest::<&str>("a", &[], &[None, Some("7")]),
        ];
        for (i, one) in posts.iter().enumerate() {
            assert!(one.is_some());
            assert!(!posts[..i].contains(one), "{i}");
        }
        assert_eq!(of(" \u{200b}\n"), None, "nothing is said");
        assert!(digest("", &["sha256:1"], &[]).is_some());
    }
}
