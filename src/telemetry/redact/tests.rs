//! Whether secrets are hidden, and nothing else, in time that is bounded.

use super::*;
use proptest::prelude::*;

fn redacted(text: &str) -> String {
    Redactor::default().redact(text).into_owned()
}

fn with(secret: &str) -> Redactor {
    let mut it = Redactor::default();
    it.register(&SecretString::from(secret));
    it
}

#[test]
fn what_is_forgotten_is_hidden_no_longer_and_the_rest_is() {
    let mut it = with("one plain value");
    it.register(&SecretString::from("another plain value"));
    let said = "one plain value, another plain value";
    assert_eq!(it.redact(said), "***, ***");
    it.forget(&SecretString::from("one plain value"));
    assert_eq!(it.redact(said), "one plain value, ***");
    it.forget(&SecretString::from("another plain value"));
    assert!(it.values.is_empty());
}

/// Ways in which a secret that nobody registered shows itself.
const UNREGISTERED: [&str; 31] = [
    "authorization: Bearer CANARY",
    "Authorization: Basic CANARY",
    "Set-Cookie: session=CANARY; Path=/; HttpOnly",
    r#"{"password":"CANARY","n":1}"#,
    r#"{"body":"{\"client_secret\":\"CANARY\"}"}"#,
    r#"{"a":"{\"b\":\"{\\\"refresh_token\\\":\\\"CANARY\\\"}\"}"}"#,
    r#"Account { name: "x", password: Some("CANARY"), n: 3 }"#,
    r#"headers {"cookie": ["a=CANARY"]}"#,
    r#"("x-api-key", "CANARY")"#,
    "api_key=CANARY status=200",
    "apikey: CANARY, next",
    "grant_type=refresh_token&refresh_token=CANARY&client_id=7",
    "https://h.example/p?X-Amz-Signature=CANARY&x=1",
    "https://h.example/p?sig=CANARY",
    "GET https://h.example/v1/models?key=CANARY#x",
    "redis://:CANARY@host:6379/0",
    "postgres://me:CANARY@host/db?sslmode=require",
    "run with --access-token CANARY please",
    "sent Bearer CANARY and got 401",
    "sk-proj-CANARY was refused",
    "whsec_CANARY",
    "pw_0123456789abcdef_CANARY",
    "asked with pw_0123456789abcdef_CANARY, which is over",
    "a=xpw_0123456789abcdef_CANARY&b",
    "-----BEGIN RSA PRIVATE KEY-----\\nCANARY\\n-----END RSA PRIVATE KEY-----",
    "Incorrect API key provided: 3fCANARY",
    "the access token 3fCANARY was revoked",
    "invalid credentials (basic 3fCANARY==)",
    "x-app-key: CANARY",
    "private_key=CANARY",
    "https://h.example/p?Policy=x&Key-Pair-Id=CANARY&x=1",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn no_canary_survives_its_shape(canary in "[A-Za-z0-9_-]{16,40}") {
        for shape in UNREGISTERED {
            let out = redacted(&shape.replace("CANARY", &canary));
            prop_assert!(!out.contains(&canary), "{shape}: {out}");
        }
    }

    #[test]
    fn no_registered_canary_survives(canary in "[!-~]{8,40}", before in "[a-z]{0,9}") {
        let it = with(&canary);
        let form: String = url::form_urlencoded::byte_serialize(canary.as_bytes()).collect();
        let json = serde_json::json!({"note": &canary}).to_string();
        let in_json = serde_json::json!({"note": &json}).to_string();
        let shapes = [
            (format!("plain {canary} plain"), canary.clone()),
            (format!("x{canary}y"), canary.clone()),
            (format!("/path/{form}/more"), form.clone()),
            (format!("/path/{}/more", lower_percent(&form)), lower_percent(&form)),
            (json, escaped(&canary)),
            (in_json, escaped(&escaped(&canary))),
            (format!("{:?}", Some(&canary)), canary.escape_debug().to_string()),
            (STANDARD_NO_PAD.encode(&canary), STANDARD_NO_PAD.encode(&canary)),
            (URL_SAFE_NO_PAD.encode(&canary), URL_SAFE_NO_PAD.encode(&canary)),
        ];
        for (text, spelling) in shapes {
            let out = it.redact(&text);
            prop_assert!(!out.contains(&spelling), "{text}: {out}");
        }
        if 10 <= canary.len() {
            let basic = STANDARD_NO_PAD.encode(format!("{before}:{canary}"));
            let out = it.redact(&basic).into_owned();
            prop_assert!(out.contains(HIDDEN) && out.len() <= basic.len() - 8 + HIDDEN.len());
        }
    }

    #[test]
    fn redacting_again_changes_nothing_and_no_text_grows_beyond_its_double(
        parts in proptest::collection::vec(PIECES, 0..12), secret in "\\PC{0,20}",
    ) {
        let it = with(&secret);
        let text = parts.concat().replace("SECRET", &secret);
        let out = it.redact(&text).into_owned();
        prop_assert_eq!(&it.redact(&out), &out);
        prop_assert!(out.len() <= 2 * text.len(), "{} of {}", out.len(), text.len());
    }
}

/// What texts that go against the grain are made of: anything, and beginnings of secrets that
/// don't end.
const PIECES: &str = "\\PC{0,12}|[\\\\\"'=:, {}()\\[\\]\\n]{1,6}|SECRET|token|sig=|\"password\":\"|cookie: |://|@|bearer |Basic |eyJaaaaa\\.|sk-|-----BEGIN PRIVATE KEY-----|AKIA[A-Z0-9]{10,20}|[a-z0-9]{20,30}|Some\\(|--api-key ";

/// Texts that make a pattern look far ahead again and again, if it can.
#[test]
fn the_work_grows_with_the_length_and_no_faster() {
    let time = |piece: &str, bytes: usize| {
        let text = piece.repeat(bytes / piece.len());
        let began = std::time::Instant::now();
        let _ = redacted(&text);
        began.elapsed()
    };
    for piece in [
        "token",
        "token ",
        "token=",
        "a.",
        "sig",
        "://",
        "a://@",
        "a://a",
        "eyJ",
        "eyJaaaaaa",
        "sk-",
        "\\",
        "\"token\":\"",
        "\\\"token\\\":",
        "cookie:",
        "-----BEGIN PRIVATE KEY-----",
        "bearer ",
        "basic a ",
        "token a a ",
        "access-",
        "Some(",
        "token=Some(",
        "}",
        "--token ",
        "&key=",
        "token: {",
        "secret\\",
    ] {
        // eight times the text: a square would take 64 times as long, and always does; a pause of
        // the machine doesn't come five times
        let grows = || {
            let short = time(piece, 20_000).max(std::time::Duration::from_millis(5));
            (short * 30 < time(piece, 160_000)).then_some(short)
        };
        assert!(
            (0..5).any(|_| grows().is_none()),
            "{piece:?} takes a square of time"
        );
    }
}

#[test]
fn what_is_around_a_secret_stays() {
    for (text, want) in [
        (
            r#"{"password":"a\"b","n":1}"#,
            r#"{"password":"***","n":1}"#,
        ),
        (r#"{"password":"a\\","n":1}"#, r#"{"password":"***","n":1}"#),
        ("api_key=abcd status=200", "api_key=*** status=200"),
        ("a?token=xyz1&b=1", "a?token=***&b=1"),
        ("redis://u:p@h/0", "redis://***@h/0"),
        ("{token: xyz1}", "{token: ***}"),
    ] {
        assert_eq!(redacted(text), want);
    }
}

#[test]
fn ordinary_lines_stay_as_they_are() {
    for text in [
        "lane default: 3 jobs, attempt 2 of 8, 120 ms",
        "input_tokens=512 output_tokens=20",
        "see https://mastodon.example/@ada/1",
        "risk-averse: the desk-bound task-force",
        "job 0190-abc settled as completed",
        "claimed under token 0190f3d2-5a7c-7cc1-9d0e-6f6f2c1f0a11 by run 7",
        "the basic understanding of internationalization",
    ] {
        assert!(
            matches!(Redactor::default().redact(text), Cow::Borrowed(_)) || redacted(text) == text,
            "{}",
            redacted(text)
        );
    }
}

#[test]
fn short_values_do_not_blank_ordinary_words() {
    assert_eq!(with("a").redact("a cat"), "a cat");
}

#[test]
fn names_of_secret_fields() {
    for name in [
        "authorization",
        "api-key",
        "ApiKey",
        "access_token",
        "db_password",
        "sig",
    ] {
        assert!(is_secret_name(name), "{name}");
    }
    for name in ["job", "kind", "design", "keys"] {
        assert!(!is_secret_name(name), "{name}");
    }
}

#[test]
fn an_errors_code_hides_no_words_but_what_looks_like_a_secret() {
    for said in [
        "send 1: refused: invalid_api_key: OpenAI answered 401",
        "expired_token: reconnect the account",
    ] {
        assert_eq!(redacted(said), said);
    }
    for (said, hidden) in [
        ("invalid_token: 3f9acc01deadbeef77", "3f9acc01deadbeef77"),
        ("invalid_token=abcDEF_ghi-jkl", "abcDEF_ghi-jkl"),
        ("api_key: OpenAIabcdefgh", "OpenAIabcdefgh"),
    ] {
        assert!(
            !redacted(said).contains(hidden),
            "{said}: {}",
            redacted(said)
        );
    }
}
