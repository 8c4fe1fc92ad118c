//! What a secret looks like, and how it is taken out of a text before anybody sees it.
//!
//! Three nets, each for what the others miss: by the **value** of every secret that was ever
//! resolved (also URL-encoded, in base64, in hex and escaped), by the **shape** of well-known
//! secrets, and by the **name** that stands before a value (`password=`, `"api_key":`) or the word
//! that stands near a long random one. It is better to hide a word too many: names and shapes err on
//! that side. The patterns run in linear time, and a text is gone through a few times at most:
//! until nothing is found any more, so that what was redacted once stays as it is.
//!
//! What is written down for good passes it too: [`outcome`] before it is settled, [`known`] where the
//! text is the content itself and only a secret of ours has no business in it.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use regex::{Captures, Regex};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use crate::outcome::{Failure, Outcome};
use crate::sabotage;

/// What stands where a secret was.
pub const HIDDEN: &str = "***";

/// Shorter values aren't hidden by value: they would blank ordinary words. In bytes.
pub const VALUE_MIN: usize = 4;

/// A text is gone through so often at most; each time more than the last is hidden, or it is done.
const ROUNDS: usize = 8;

/// Takes secrets out of text. Cloning is cheap enough for a registration, not for a line.
#[derive(Clone, Default)]
pub struct Redactor {
    /// Every spelling of every registered secret, the longest first.
    values: Vec<String>,
}

static REGISTRY: LazyLock<ArcSwap<Redactor>> = LazyLock::new(ArcSwap::default);

/// From now on this value is hidden in every line of the process, in all its spellings.
pub fn register(secret: &SecretString) {
    REGISTRY.rcu(|old| {
        let mut new = Redactor::clone(old);
        new.register(secret);
        Arc::new(new)
    });
}

/// This value, which is of no use to anybody any more, isn't looked for any longer: what is renewed every few
/// hours would else pile up.
pub fn forget(secret: &SecretString) {
    REGISTRY.rcu(|old| {
        let mut new = Redactor::clone(old);
        new.forget(secret);
        Arc::new(new)
    });
}

/// A text without its secrets: all that were registered, and all that look like one.
pub fn text(text: &str) -> Cow<'_, str> {
    REGISTRY.load().redact(text)
}

/// A text without the secrets that were registered; what only looks like one stays.
pub fn known(text: &str) -> Cow<'_, str> {
    REGISTRY.load().values(text)
}

/// Every text of a value as [`known`] leaves it.
pub fn known_value(value: Value) -> Value {
    match value {
        Value::String(text) => known(&text).into_owned().into(),
        Value::Array(all) => all.into_iter().map(known_value).collect(),
        Value::Object(all) => all
            .into_iter()
            .map(|(name, value)| (known(&name).into_owned(), known_value(value)))
            .collect(),
        other => other,
    }
}

/// A failure that may be written down and shown.
pub fn failure(failure: Failure) -> Failure {
    Failure {
        code: text(&failure.code).into_owned(),
        message: text(&failure.message).into_owned(),
        ..failure
    }
}

/// An outcome that may be written down and shown: its words without secrets, its result without ours.
pub fn outcome(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Completed(value) => Outcome::Completed(known_value(value)),
        Outcome::Failed(it) => Outcome::Failed(failure(it)),
        Outcome::Held(held, it) => Outcome::Held(held, failure(it)),
        Outcome::Unresolved(it) => Outcome::Unresolved(failure(it)),
        Outcome::Snoozed { until, reason } => Outcome::Snoozed {
            until,
            reason: text(&reason).into_owned(),
        },
        Outcome::Released { reason } => Outcome::Released {
            reason: text(&reason).into_owned(),
        },
        Outcome::Shut {
            reason,
            failure: said,
        } => Outcome::Shut {
            reason: text(&reason).into_owned(),
            failure: said.map(failure),
        },
        Outcome::Cancelled => Outcome::Cancelled,
    }
}

/// Whether a field of this name holds a secret.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    const PARTS: [&str; 12] = [
        "authorization",
        "cookie",
        "token",
        "secret",
        "password",
        "passphrase",
        "api_key",
        "apikey",
        "app_key",
        "access_key",
        "private_key",
        "jwt",
    ];
    PARTS.iter().any(|it| name.contains(it)) || ["sig", "signature"].contains(&name.as_str())
}

impl Redactor {
    /// Hides this value too. Values shorter than [`VALUE_MIN`] bytes are left alone.
    pub fn register(&mut self, secret: &SecretString) {
        let value = secret.expose_secret().trim();
        if value.len() < VALUE_MIN {
            return;
        }
        self.values.extend(spellings(value));
        self.values
            .sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        self.values.dedup();
    }

    /// Doesn't hide this value any more.
    pub fn forget(&mut self, secret: &SecretString) {
        let gone = spellings(secret.expose_secret().trim());
        self.values.retain(|it| !gone.contains(it));
    }

    /// The text without its secrets. Allocates only when there was one.
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = self.once(text);
        // what was hidden may have stood between two halves of something
        for _ in 1..ROUNDS {
            let Cow::Owned(before) = &text else { break };
            match self.once(before) {
                Cow::Owned(after) if after != *before => text = Cow::Owned(after),
                _ => break,
            }
        }
        text
    }

    fn once<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = self.values(text);
        for (shape, instead) in SHAPES.iter() {
            if let Cow::Owned(changed) = shape.replace_all(&text, *instead) {
                text = Cow::Owned(changed);
            }
        }
        if let Some(changed) = near_a_word(&text) {
            text = Cow::Owned(changed);
        }
        match by_name(&text) {
            Some(changed) => Cow::Owned(changed),
            None => text,
        }
    }

    /// The text without the values that were registered.
    fn values<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for value in &self.values {
            if text.contains(value.as_str()) && !sabotage!("redact.values") {
                text = Cow::Owned(text.replace(value.as_str(), HIDDEN));
            }
        }
        text
    }
}

/// How a value may be spelled in a URL, a header, JSON or a debug print.
fn spellings(value: &str) -> Vec<String> {
    let form: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
    let json = escaped(value);
    let hex: String = value.bytes().map(|it| format!("{it:02x}")).collect();
    let mut all = vec![
        value.to_owned(),
        form.replace('+', "%20"),
        form.replace('+', "%20").replace('*', "%2A"),
        lower_percent(&form),
        form,
        escaped(&json),
        json,
        value.escape_debug().to_string(),
        STANDARD_NO_PAD.encode(value),
        URL_SAFE_NO_PAD.encode(value),
        hex.to_ascii_uppercase(),
        hex,
    ];
    for shift in 0..3 {
        all.extend(inside_base64(value.as_bytes(), shift));
    }
    all
}

fn escaped(value: &str) -> String {
    let quoted = serde_json::Value::from(value).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// `%2F` as some libraries write it: `%2f`.
fn lower_percent(form: &str) -> String {
    let mut left = 0;
    form.chars()
        .map(|c| {
            left = if c == '%' { 2 } else { i32::max(left - 1, -1) };
            if (0..2).contains(&left) {
                c.to_ascii_lowercase()
            } else {
                c
            }
        })
        .collect()
}

/// What of base64 is the same wherever the value begins in what was encoded (`user:VALUE`):
/// the characters that hold only bits of the value. Too few of them aren't worth a match.
fn inside_base64(value: &[u8], shift: usize) -> Vec<String> {
    let mut bytes = vec![0; shift];
    bytes.extend_from_slice(value);
    let (from, to) = ((8 * shift).div_ceil(6), 8 * bytes.len() / 6);
    [
        STANDARD_NO_PAD.encode(&bytes),
        URL_SAFE_NO_PAD.encode(&bytes),
    ]
    .iter()
    .filter(|_| from + 8 <= to)
    .map(|it| it[from..to].to_owned())
    .collect()
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is a constant, compiled by a test")
}

/// Well-known secrets, whatever stands before them.
static SHAPES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        // keys and certificates; what has no end is hidden to the end
        (
            r"(?s)-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\z)",
            HIDDEN,
        ),
        // JSON web tokens: three parts of base64url, the first being `{"`
        (r"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?", HIDDEN),
        // our own tokens: the id names them, the secret is hidden
        (r"(pw_[0-9a-f]{16}_)[A-Za-z0-9_-]{8,}", "$1***"),
        // OpenAI; Stripe; Google; Meta; Standard Webhooks; GitHub; Slack; AWS
        (r"(?-u:\b)sk-[A-Za-z0-9_-]{8,}", HIDDEN),
        (r"(?-u:\b)[sr]k_(?:live|test)_[A-Za-z0-9]{8,}", HIDDEN),
        (r"(?-u:\b)ya29\.[A-Za-z0-9_.-]{8,}", HIDDEN),
        (r"(?-u:\b)AIza[A-Za-z0-9_-]{30,}", HIDDEN),
        (r"(?-u:\b)EAA[A-Za-z0-9]{16,}", HIDDEN),
        (r"(?-u:\b)whsec_[A-Za-z0-9+/=_-]{8,}", HIDDEN),
        (r"(?-u:\b)(?:gh[pousr]|github_pat)_[A-Za-z0-9_]{16,}", HIDDEN),
        (r"(?-u:\b)xox[a-z]-[A-Za-z0-9-]{10,}", HIDDEN),
        (r"(?-u:\b)A[KS]IA[A-Z0-9]{16}", HIDDEN),
        (r"((?i-u:\b(?:bearer|dpop)))(\s+)[A-Za-z0-9._~+/=%-]{6,}", "$1$2***"),
        // `user:password@` of a URL, up to the last `@` before the path
        (r#"([A-Za-z][A-Za-z0-9+.-]{0,30}://)[^\s/?#"<>\\]+@"#, "$1***@"),
        // what a query says beyond the names below
        (
            r#"((?i-u:[?&](?:key|code|auth|access|pass|pwd|hmac|policy|key-pair-id|x-amz-credential|x-goog-credential|awsaccesskeyid|googleaccessid)=))[^\s&#"'<>\\]+"#,
            "$1***",
        ),
    ]
    .into_iter()
    .map(|(text, instead)| (pattern(text), instead))
    .collect()
});

/// A secret's name and what stands between it and the value: `"password": `, `token=Some(`,
/// `x-amz-signature=`, `("authorization", `, `--api-key `.
static NAMED: LazyLock<Regex> = LazyLock::new(|| {
    const NAME: &str = "[a-z0-9_.-]*(?:authorization|cookie|(?:token|secret|password|passwd|passphrase|(?:api|app|access|private)[-_]?key|jwt|signature)[a-z0-9_-]*)|sig";
    pattern(&format!(
        r#"(?:(?i-u:\b({NAME}))(?:\\*["']\s*(?:=>?|[:,])|\s*(?:=>?|:))|(?i-u:--({NAME}))\s)\s*(?:Some\(|\[)*"#
    ))
});

/// What every name of [`NAMED`] has in it: most lines have none, and this is quick to see.
static HINT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        "(?i-u:authori|basic|credential|sign|cookie|token|secret|pass[wp]|api|app|access|private|jwt|sig)",
    )
});

/// A word that announces a secret, with two short words after it at most, and then a long one: `API
/// key provided: 3f9a...`, `Basic dXNlcjpwYXNz`.
static NEAR: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r#"(?i-u:\b(?:token|secret|password|passphrase|credentials?|basic|signature|(?:api|app|access|private|signing)[ _-]?key)\b)["']?(?:[ ,:=]{1,3}[A-Za-z]{1,12}){0,2}[ ,:=]{1,3}[`"'(<]?([A-Za-z0-9+/_-]{16,}=*)"#,
    )
});

/// Hides long random words near a word that announces a secret; `None` when there are none.
fn near_a_word(text: &str) -> Option<String> {
    if !HINT.is_match(text) {
        return None;
    }
    let mut out = String::new();
    let mut copied = 0;
    for found in NEAR.captures_iter(text) {
        let value = found.get(1).expect("the pattern has the group");
        if looks_random(value.as_str()) {
            out.push_str(&text[copied..value.start()]);
            out.push_str(HIDDEN);
            copied = value.end();
        }
    }
    (0 < copied).then(|| out + &text[copied..])
}

/// Whether a word may be a secret by its looks: long, letters and digits mixed, and no UUID, since
/// those name jobs and leases.
pub fn looks_random(word: &str) -> bool {
    let has = |it: fn(&u8) -> bool| word.as_bytes().iter().any(it);
    16 <= word.len()
        && has(u8::is_ascii_digit)
        && has(u8::is_ascii_alphabetic)
        && uuid::Uuid::parse_str(word).is_err()
}

/// Hides what stands after a secret's name; `None` when there is no such name.
fn by_name(text: &str) -> Option<String> {
    if !HINT.is_match(text) {
        return None;
    }
    let mut out = String::new();
    let mut copied = 0;
    while let Some(found) = NAMED.captures_at(text, copied) {
        let from = found.get(0).expect("a match has its whole").end();
        let (skip, length) = value_of(&text[from..], &found);
        out.push_str(&text[copied..from + skip]);
        if 0 < length {
            out.push_str(HIDDEN);
        }
        copied = from + skip + length;
    }
    (0 < copied).then(|| out + &text[copied..])
}

/// Where the value after a name begins, and how long it is: in quotes (at any depth of escaping)
/// to their end, otherwise to the next gap. Headers run to the end of the line.
fn value_of(rest: &str, found: &Captures<'_>) -> (usize, usize) {
    let name = found.get(1).or(found.get(2)).map_or("", |it| it.as_str());
    let depth = rest.len() - rest.trim_start_matches('\\').len();
    let quote = rest[depth..]
        .chars()
        .next()
        .filter(|it| matches!(it, '"' | '\''));
    if let Some(quote) = quote {
        let from = depth + 1;
        return (from, quoted(&rest[from..], quote, depth));
    }
    let header = name.to_ascii_lowercase();
    if header.ends_with("authorization") || header.ends_with("cookie") {
        let end = rest.find(['\r', '\n', '"']).unwrap_or(rest.len());
        return (0, rest[..end].trim_end_matches('\\').len());
    }
    let bare = bare(rest);
    if bare < VALUE_MIN {
        return (bare, 0); // "token: a bearer token" is advice, and `{` begins something else
    }
    if is_code(name) && rest[..bare].bytes().all(|it| it.is_ascii_alphabetic()) {
        return (bare, 0); // `invalid_api_key: OpenAI answered 401` is what was wrong, in words
    }
    let counted = name.to_ascii_lowercase().ends_with("tokens");
    match counted && rest[..bare].bytes().all(|it| it.is_ascii_digit()) {
        true => (bare, 0), // `input_tokens=512` is what was used, not what was said
        false => (0, bare),
    }
}

/// Whether a name is an error's code, which tells of a secret and isn't followed by it.
fn is_code(name: &str) -> bool {
    const WRONG: [&str; 8] = [
        "invalid",
        "missing",
        "expired",
        "incorrect",
        "wrong",
        "revoked",
        "unknown",
        "no",
    ];
    let name = name.to_ascii_lowercase();
    let first = name.split(['_', '-']).next().unwrap_or_default();
    first.len() < name.len() && WRONG.contains(&first)
}

/// The length up to the closing quote, which has as many backslashes before it as the opening
/// one, or a whole number of escaped backslashes more. Without one, all of it.
fn quoted(rest: &str, quote: char, depth: usize) -> usize {
    let mut run = 0;
    for (at, c) in rest.char_indices() {
        if c == '\\' {
            run += 1;
        } else if c == quote && depth <= run && (run - depth).is_multiple_of(2 * (depth + 1)) {
            return at - depth;
        } else {
            run = 0;
        }
    }
    rest.len()
}

/// The length of an unquoted value: to white space, a quote, `&` or `<`, or to what
/// closes something before such a gap.
fn bare(rest: &str) -> usize {
    let end = rest
        .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '&' | '<'))
        .unwrap_or(rest.len());
    rest[..end]
        .trim_end_matches([',', ';', ')', '}', ']', '\\'])
        .len()
}

#[cfg(test)]
mod tests;
