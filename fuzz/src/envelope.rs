//! The one intake: whatever comes, it is admitted as what it says, or refused with every reason.

use std::path::Path;
use std::sync::LazyLock;

use chrono::DateTime;
use presswork::config::Config;
use presswork::intake::{Answer, Refusal, Rules, admit, quarantined};
use presswork::job::envelope::{ATTEMPTS_MAX, ENVELOPE_MAX, LABELS_MAX, TIMEOUT_MAX_S};
use presswork::job::{Envelope, JobId, NewJob};
use presswork::json::Digest;
use presswork::kinds;
use presswork::ledger::Reason;
use serde_json::{Value, json};

/// Accounts of every platform, so that envelopes can be admitted at all.
const JOBS_TOML: &str = r#"
[lanes.slow]
[accounts.news]
platform = "mastodon"
base_url = "https://mastodon.example"
secret = { env = "A" }
[accounts.sky]
platform = "bluesky"
identifier = "ada.example.com"
secret = { env = "A" }
[accounts.writer]
platform = "openai"
secret = { env = "A" }
[presets.fox]
prompt_prefix = "a fox, "
"#;

static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let secret = |_: &str| Some("only-for-the-fuzzer".to_owned());
    let env = |name: &str| secret(name).filter(|_| name == "A");
    let config = Config::parse(JOBS_TOML, Some(Path::new("jobs.toml")), &env);
    Rules {
        config: config.expect("the text above is a configuration").into(),
        kinds: kinds::all().into(),
    }
});

/// A refusal tells so much at most, whatever it quotes: it is answered, logged and kept.
const TOLD_MAX: usize = 64 << 10;

/// Panics unless the bytes are admitted as what they say, or refused with reasons.
pub fn holds(bytes: &[u8]) {
    let id = JobId::mint();
    match admit(&RULES, id, bytes) {
        Ok(job) => admitted(bytes, &job),
        Err(refusal) => refused(bytes, id, refusal),
    }
}

fn admitted(bytes: &[u8], job: &NewJob) {
    let config = &RULES.config;
    assert!(bytes.len() <= ENVELOPE_MAX);
    assert!(RULES.kinds.iter().any(|it| it.name() == job.kind));
    assert!(config.lanes.contains_key(&job.lane));
    assert!(job.account.is_none() || config.accounts.contains_key(job.account.as_ref().unwrap()));
    assert!((1..=ATTEMPTS_MAX).contains(&job.attempts_max));
    assert!((1..=TIMEOUT_MAX_S).contains(&job.timeout_s));
    assert!(job.labels.len() <= LABELS_MAX);
    if let (Some(from), Some(to)) = (job.run_at, job.not_after) {
        assert!(from <= to);
    }
    // what is kept as text has nothing that PostgreSQL's text can't hold, or a terminal would obey
    let kept = [&job.key, &job.account, &job.traceparent, &job.reply_to];
    let kept = kept.into_iter().flatten();
    let kept = kept.chain(job.labels.iter().flat_map(|(name, text)| [name, text]));
    for text in kept.chain([&job.kind, &job.lane, &job.tenant, &job.options]) {
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
    // the payload is the producer's, byte by byte, and its digest is that of what it means
    let text = std::str::from_utf8(bytes).expect("an envelope is UTF-8");
    assert!(text.contains(&*job.payload));
    assert_eq!(Digest::of_json(&job.payload), Ok(job.digest));
    let canonical = presswork::json::canonical(&job.payload).expect("it was admitted");
    assert_eq!(
        presswork::json::canonical(&canonical).as_ref(),
        Ok(&canonical)
    );
    assert_eq!(Digest::of_json(&canonical), Ok(job.digest));
    again(job);
}

/// The same, spelled from what is kept of it, is the same job: a repeat is no conflict.
fn again(job: &NewJob) {
    let mut spelled: serde_json::Map<String, Value> =
        serde_json::from_str(&job.options).expect("options are an object");
    let member = |it: &Option<String>| it.as_deref().map_or(Value::Null, Value::from);
    spelled.insert("kind".to_owned(), job.kind.as_str().into());
    spelled.insert("key".to_owned(), member(&job.key));
    spelled.insert("tenant".to_owned(), job.tenant.as_str().into());
    spelled.insert("traceparent".to_owned(), member(&job.traceparent));
    spelled.insert("reply_to".to_owned(), member(&job.reply_to));
    spelled.insert("v".to_owned(), json!(1));
    let mut text = Value::Object(spelled).to_string();
    text.pop();
    // not through a `Value`, which rounds long numbers
    let text = format!("{text},\"payload\":{}}}", job.payload);
    if ENVELOPE_MAX < text.len() {
        return;
    }
    let twin = admit(&RULES, job.id, text.as_bytes());
    let twin = twin.unwrap_or_else(|it| panic!("{}\n{text}", it.message()));
    // an instant beyond the year 9999 can't be spelled as RFC 3339
    for at in job.run_at.iter().chain(&job.not_after) {
        assert!(DateTime::parse_from_rfc3339(&at.to_rfc3339()).is_ok());
    }
    assert_eq!(&twin, job);
}

fn refused(bytes: &[u8], id: JobId, refusal: Refusal) {
    assert!(!refusal.violations.is_empty());
    assert_eq!(
        refusal.reason == Reason::TooLarge,
        ENVELOPE_MAX < bytes.len()
    );
    for it in &refusal.violations {
        assert!(it.pointer.is_empty() || it.pointer.starts_with('/'));
        assert!(!it.message.is_empty());
    }
    let told = refusal.message();
    assert!(told.len() <= TOLD_MAX, "{} bytes are told", told.len());
    if Envelope::parse(bytes).is_err() {
        assert!(matches!(
            refusal.reason,
            Reason::Malformed | Reason::TooLarge
        ));
    }
    let answer = Answer::Refused(refusal);
    let at = DateTime::UNIX_EPOCH;
    let kept = quarantined("inbox", id, at, bytes, &answer).expect("it was refused");
    assert!(bytes.starts_with(&kept.bytes) && !kept.message.is_empty());
}
