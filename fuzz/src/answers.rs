//! What platforms answer: any status, headers and body have a meaning, and a doubtful one never
//! means that nothing happened.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Cursor;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta};
use presswork::config::Model;
use presswork::effect::Receipt;
use presswork::media::sniff;
use presswork::outcome::Class;
use presswork::platform::http::{Answer, Call};
use presswork::platform::limits::{come_back, learned};
use presswork::platform::verdict::{CallError, Rules, judge, read};
use presswork::platform::{bluesky, facets, mastodon, openai, openai_images};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::SecretString;
use serde_json::Value;
use url::Url;

/// The token of the call; where an answer says `SECRET`, it says this.
const TOKEN: &str = "c4n4ry-of-the-fuzzer-7d1e";
/// Of the token this much isn't told either.
const PART: &str = "c4n4ry-o";

/// Panics unless the answer that the bytes spell has a meaning that holds.
///
/// Two bytes are the status, lines up to an empty one the headers, the rest is the body.
pub fn holds(bytes: &[u8]) {
    let [high, low, rest @ ..] = bytes else {
        return;
    };
    let status = 100 + u16::from_be_bytes([*high, *low]) % 500;
    if rest.windows(PART.len()).any(|it| it == PART.as_bytes()) {
        return; // a part by chance, and not the token
    }
    let rest = with_token(rest);
    let end = rest.windows(2).position(|it| it == b"\n\n");
    let (head, body) = match end {
        Some(at) => (&rest[..at], &rest[at + 2..]),
        None => (&[][..], &*rest),
    };
    let answer = Answer {
        status,
        headers: headers(head),
        body: Bytes::copy_from_slice(body),
        at: DateTime::from_timestamp(1_800_000_000, 0).expect("a time"),
    };
    let url = Url::parse("https://platform.example").expect("a URL");
    let call = Call::post(
        url,
        presswork::platform::http::Body::Empty,
        Duration::from_secs(1),
    )
    .bearer(&SecretString::from(TOKEN));
    let bounds = TimeDelta::zero()..=TimeDelta::days(7);
    if let Some(wait) = come_back(&answer, Class::Throttled) {
        assert!(bounds.contains(&wait));
    }
    for it in learned(&answer) {
        assert!(bounds.contains(&(it.until - answer.at)));
    }
    for rules in [&openai::RULES, &mastodon::RULES, &bluesky::RULES] {
        judged(rules, &call, &answer);
    }
    made(&call, &answer);
    looked_at(body);
}

fn with_token(bytes: &[u8]) -> Cow<'_, [u8]> {
    const WORD: &[u8] = b"SECRET";
    let Some(at) = bytes.windows(WORD.len()).position(|it| it == WORD) else {
        return bytes.into();
    };
    let after = &bytes[at + WORD.len()..];
    [&bytes[..at], TOKEN.as_bytes(), after].concat().into()
}

fn headers(head: &[u8]) -> HeaderMap {
    let line = |line: &[u8]| {
        let at = line.iter().position(|it| *it == b':')?;
        let name = HeaderName::from_bytes(&line[..at]).ok()?;
        let value = HeaderValue::from_bytes(line[at + 1..].trim_ascii()).ok()?;
        Some((name, value))
    };
    head.split(|it| *it == b'\n').filter_map(line).collect()
}

fn judged(rules: &Rules, call: &Call, answer: &Answer) {
    if (200..300).contains(&answer.status) {
        return;
    }
    let error = judge(rules, call, answer);
    let told = error.to_string();
    assert!(!told.contains(PART), "{told}");
    let (CallError::Refused(failure) | CallError::Unknown(failure)) = &error;
    let lost = matches!(error, CallError::Unknown(_));
    assert_eq!(lost, failure.class == Class::Unknown, "{told}");
    assert!(
        !failure.code.is_empty() && failure.code.len() <= 60,
        "{told}"
    );
    assert!(failure.message.len() <= 2_048 + '…'.len_utf8(), "{told}");
    assert!(failure.retry_after_ms.is_none_or(|it| it <= 7 * 86_400_000));
    // whatever the body says: after these a platform may have acted
    let doubtful = match answer.status {
        100..400 | 402 | 408 | 409 | 425 | 504 => true,
        500..600 => rules.platform == "Mastodon",
        _ => false,
    };
    assert!(lost || !doubtful, "{} {told}", rules.platform);
    assert_ne!(error.harmless().class, Class::Unknown);
}

/// What each adapter makes of a success.
fn made(call: &Call, answer: &Answer) {
    let price = Model {
        input_micros_per_mtok: u64::MAX,
        output_micros_per_mtok: 1,
        ..Model::default()
    };
    let prices = BTreeMap::from([("m".to_owned(), price)]);
    match read::<openai::Answered>(&openai::RULES, call, answer) {
        Ok(it) => {
            if let Some(it) = it.receipt("m", &prices, answer) {
                let kept: openai::Completion =
                    serde_json::from_value(it.detail.clone()).expect("a receipt's own detail");
                assert!(kept.cost_micros.is_some() && it.remote_id.is_some());
                sound(&it, answer);
            }
        }
        Err(error) => doubted(&error, answer),
    }
    if let Err(error) = read::<openai_images::Answered<'_>>(&openai::RULES, call, answer) {
        doubted(&error, answer);
    }
    match read::<mastodon::Posted>(&mastodon::RULES, call, answer) {
        Ok(it) => sound(&it.receipt(answer.at), answer),
        Err(error) => doubted(&error, answer),
    }
    if let Ok(it) = read::<Value>(&mastodon::RULES, call, answer) {
        let limits = mastodon::Limits::told(&it);
        assert!(!limits.types.is_empty());
    }
    match read::<bluesky::Found>(&bluesky::RULES, call, answer) {
        Ok(it) => sound(&bluesky::receipt("3k", it.uri, it.cid, answer.at), answer),
        Err(error) => doubted(&error, answer),
    }
    match read::<bluesky::Opened>(&bluesky::RULES, call, answer) {
        Ok(it) => drop(bluesky::Session::from(it)),
        Err(error) => doubted(&error, answer),
    }
}

fn sound(receipt: &Receipt, answer: &Answer) {
    assert_eq!(receipt.at, answer.at);
    let text = serde_json::to_string(receipt).expect("a receipt is JSON");
    let again: Receipt = serde_json::from_str(&text).expect("it was written so");
    assert_eq!(&again, receipt);
}

/// A success that can't be read was made, perhaps; and what is told of it holds no secret.
fn doubted(error: &CallError, answer: &Answer) {
    let lost = matches!(error, CallError::Unknown(_));
    assert!(lost || !(200..300).contains(&answer.status), "{error}");
    assert!(!error.to_string().contains(PART), "{error}");
}

/// What is looked at beside JSON: a picture's head, a text's links and words.
fn looked_at(body: &[u8]) {
    let head = &body[..body.len().min(sniff::HEAD)];
    if let Some(mime) = sniff::mime(head) {
        let pixels = sniff::pixels(mime, &mut Cursor::new(body)).expect("memory can be read");
        assert!(pixels.is_none_or(|it| 0 < it.width && 0 < it.height));
    }
    let text = String::from_utf8_lossy(body);
    let mut end = 0;
    for (range, _) in facets::features(&text) {
        assert!(end <= range.start && range.start < range.end);
        assert!(text.get(range.clone()).is_some());
        end = range.end;
    }
    let limits = mastodon::Limits::default();
    limits.count(&text, "");
}
