//! What is told to people: no secret survives, whatever stands around it, and what was redacted once
//! stays as it is.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use presswork::telemetry::redact::{Redactor, is_secret_name};
use secrecy::SecretString;

/// The shortest secret that the configuration takes, in bytes.
const SECRET_MIN: usize = 8;
/// Secrets that nobody registered, each known by its shape.
const SHAPED: [&str; 5] = [
    "sk-proj-c4n4ry7d1ec4n4ry7d1e",
    "ghp_c4n4ry7d1ec4n4ry7d1e",
    "eyJhbGciOiJ9.eyJjNG40cnk3.c4n4ry7d1e",
    "AKIAC4N4RY7D1EC4N4RY",
    "whsec_c4n4ry7d1ec4n4ry7d1e",
];

/// Panics unless every secret is taken out of the text.
///
/// The first byte says how long the secret is that stands at the beginning, and how it is spelled; the
/// second where in the rest it is put.
pub fn holds(bytes: &[u8]) {
    let [how, place, rest @ ..] = bytes else {
        return;
    };
    let (secret, text) = rest.split_at(rest.len().min(SECRET_MIN + usize::from(how >> 3)));
    let (secret, text) = (
        String::from_utf8_lossy(secret),
        String::from_utf8_lossy(text),
    );
    let plain = Redactor::default();
    stays(&plain, &text);
    let at = text.floor_char_boundary(usize::from(*place).min(text.len()));
    let (before, after) = text.split_at(at);
    // one that the text brings along may be glued to a word, where it looks like none: `risk-...`
    for shaped in SHAPED.iter().filter(|it| !text.contains(**it)) {
        let told = plain
            .redact(&format!("{before}\n{shaped}\n{after}"))
            .into_owned();
        assert!(!told.contains(*shaped), "{told}");
    }
    is_secret_name(&text);
    if !takes(&secret) {
        return;
    }
    let mut redactor = Redactor::default();
    redactor.register(&SecretString::from(secret.as_ref()));
    let spelled = spelled(&secret, how & 7);
    let whole = format!("{before}{spelled}{after}");
    stays(&redactor, &whole);
    let told = redactor.redact(&whole);
    assert!(!told.contains(&*secret), "{told}");
    assert!(!told.contains(&spelled), "{told}");
}

/// As the configuration takes secrets; one of asterisks can't be told from what hides it.
fn takes(secret: &str) -> bool {
    SECRET_MIN <= secret.len()
        && secret.trim() == secret
        && !secret.chars().any(|c| c.is_control() || c == '*')
}

fn spelled(secret: &str, how: u8) -> String {
    let json = |text: &str| {
        let quoted = serde_json::Value::from(text).to_string();
        quoted[1..quoted.len() - 1].to_owned()
    };
    let form = || url::form_urlencoded::byte_serialize(secret.as_bytes()).collect::<String>();
    match how {
        0 | 1 => secret.to_owned(),
        2 => form(),
        3 => json(secret),
        4 => json(&json(secret)),
        5 => secret.bytes().map(|it| format!("{it:02x}")).collect(),
        6 => STANDARD_NO_PAD.encode(secret),
        _ => URL_SAFE_NO_PAD.encode(secret),
    }
}

/// No text grows beyond its double, and what was redacted stays as it is.
fn stays(redactor: &Redactor, text: &str) {
    let told = redactor.redact(text);
    assert!(
        told.len() <= 2 * text.len(),
        "{} of {}",
        told.len(),
        text.len()
    );
    assert_eq!(redactor.redact(&told), told, "{text:?}");
}
