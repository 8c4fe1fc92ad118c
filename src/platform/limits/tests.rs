//! What headers teach, form by form.

use bytes::Bytes;
use proptest::prelude::*;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::*;

fn now() -> Time {
    Utc.timestamp_opt(1_800_000_000, 0).unwrap()
}

fn answer(status: u16, headers: &[(&str, &str)]) -> Answer {
    let header = |(name, value): &(&str, &str)| {
        let name: HeaderName = name.parse().unwrap();
        (name, HeaderValue::from_str(value).unwrap())
    };
    Answer {
        status,
        headers: headers.iter().map(header).collect::<HeaderMap>(),
        body: Bytes::new(),
        at: now(),
    }
}

fn wait(status: u16, class: Class, headers: &[(&str, &str)]) -> Option<Duration> {
    come_back(&answer(status, headers), class)
}

/// Scope and seconds of what is learned.
fn taught(status: u16, headers: &[(&str, &str)]) -> Vec<(Scope, i64)> {
    let all = learned(&answer(status, headers));
    let short = |it: &Learned| (it.scope, (it.until - now()).num_seconds());
    all.iter().map(short).collect()
}

#[test]
fn retry_after_has_two_forms_and_a_cap() {
    let wait = |value: &str| wait(503, Class::Unknown, &[("retry-after", value)]);
    assert_eq!(wait("120"), Some(Duration::seconds(120)));
    assert_eq!(wait("0.5"), Some(Duration::milliseconds(500)));
    let date = (now() + Duration::seconds(90)).format("%a, %d %b %Y %H:%M:%S GMT");
    assert_eq!(wait(&date.to_string()), Some(Duration::seconds(90)));
    assert_eq!(
        wait("Fri, 31 Dec 1999 23:59:59 GMT"),
        Some(Duration::zero())
    );
    assert_eq!(wait("99999999999999999999"), Some(AFTER_MAX));
    assert_eq!(wait("soon"), None);
    assert_eq!(wait("-3"), None);
    assert_eq!(wait("NaN"), None);
}

#[test]
fn resets_count_where_there_were_too_many() {
    let unix = (now().timestamp() + 60).to_string();
    let rfc = (now() + Duration::seconds(70)).to_rfc3339();
    for (name, value, ms) in [
        ("RateLimit-Reset", unix.as_str(), 60_000),
        ("RateLimit-Reset", "45", 45_000),
        ("X-RateLimit-Reset", rfc.as_str(), 70_000),
        ("x-rate-limit-reset", unix.as_str(), 60_000),
        ("x-ratelimit-reset-requests", "1m0.5s", 60_500),
        ("x-ratelimit-reset-tokens", "12ms", 12),
        ("RateLimit", "\"default\";r=0;t=30", 30_000),
    ] {
        let told = wait(429, Class::Throttled, &[(name, value)]);
        assert_eq!(told, Some(Duration::milliseconds(ms)), "{name}");
        assert_eq!(wait(503, Class::Unknown, &[(name, value)]), None, "{name}");
    }
    let both = [
        ("x-ratelimit-reset-requests", "5s"),
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-tokens", "6m"),
        ("x-ratelimit-remaining-tokens", "900"),
    ];
    assert_eq!(
        wait(429, Class::Throttled, &both),
        Some(Duration::seconds(5))
    );
}

#[test]
fn a_success_teaches_where_it_says_that_nothing_is_left() {
    let unix = (now().timestamp() + 60).to_string();
    let unix = unix.as_str();
    let rfc = (now() + Duration::seconds(70)).to_rfc3339();
    let rfc = rfc.as_str();
    for (headers, expected) in [
        (
            vec![
                ("x-rate-limit-remaining", "0"),
                ("x-rate-limit-reset", unix),
            ],
            vec![(Scope::Account, 60)],
        ),
        (
            vec![
                ("x-rate-limit-remaining", "1"),
                ("x-rate-limit-reset", unix),
            ],
            vec![],
        ),
        (
            vec![
                ("x-app-limit-24hour-remaining", "0"),
                ("x-app-limit-24hour-reset", unix),
            ],
            vec![(Scope::App, 60)],
        ),
        (
            vec![
                ("ratelimit-limit", "30"),
                ("ratelimit-remaining", "0"),
                ("ratelimit-reset", unix),
                ("ratelimit-policy", "30;w=300"),
            ],
            vec![(Scope::Account, 60)],
        ),
        (
            vec![("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", rfc)],
            vec![(Scope::Account, 70)],
        ),
        (
            vec![
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", "1m0s"),
                ("x-ratelimit-remaining-tokens", "5"),
                ("x-ratelimit-reset-tokens", "6m"),
            ],
            vec![(Scope::Account, 60)],
        ),
        (
            vec![("ratelimit", "\"burst\";r=50;t=30, \"day\";r=0;t=3600")],
            vec![(Scope::Account, 3_600)],
        ),
        (vec![("x-rate-limit-remaining", "0")], vec![]),
        (vec![("retry-after", "5")], vec![]),
    ] {
        assert_eq!(taught(200, &headers), expected, "{headers:?}");
    }
    assert_eq!(taught(429, &[("retry-after", "5")]), [(Scope::Account, 5)]);
    assert_eq!(taught(503, &[("retry-after", "5")]), [(Scope::Platform, 5)]);
}

#[test]
fn metas_usage_is_told_in_percent_and_minutes() {
    let business = |usage: &str| taught(200, &[("x-business-use-case-usage", usage)]);
    let of = |percent: &str, minutes: &str| {
        format!(
            r#"{{"1": [{{"type": "a", "call_count": {percent}, "estimated_time_to_regain_access": 0}}, {{"type": "instagram", "estimated_time_to_regain_access": {minutes}}}]}}"#
        )
    };
    assert_eq!(business(&of("9", "3")), [(Scope::Account, 180)]);
    assert_eq!(
        business(&of("100", "0")),
        [(Scope::Account, SHARE_WAIT.num_seconds())]
    );
    assert_eq!(
        business(&of("9", "999999999999")),
        [(Scope::Account, REGAIN_MAX.num_seconds())]
    );
    for none in [
        of("99", "0"),
        of("9", "-1"),
        of("9", "\"soon\""),
        "{}".into(),
        "x".into(),
    ] {
        assert_eq!(business(&none), [], "{none}");
    }
    let app = |usage| taught(200, &[("x-app-usage", usage)]);
    let full = r#"{"call_count":28,"total_time":100,"total_cputime":25}"#;
    assert_eq!(app(full), [(Scope::App, SHARE_WAIT.num_seconds())]);
    assert_eq!(app(r#"{"call_count":99}"#), []);
}

#[test]
fn what_is_heard_says_whether_the_platform_works() {
    let heard = Heard::default();
    assert_eq!(heard.works(), None);
    heard.answer(&answer(422, &[]));
    assert_eq!(heard.works(), Some(true));
    heard.answer(&answer(502, &[("retry-after", "5")]));
    assert_eq!(heard.works(), Some(false));
    assert_eq!(heard.take(), []);
    heard.answer(&answer(429, &[("retry-after", "5")]));
    assert_eq!((heard.works(), heard.take().len()), (Some(true), 1));
    assert_eq!(heard.take(), []);
    let lost = |code| Lost {
        sent: false,
        code,
        held: None,
        message: String::new(),
    };
    heard.lost(&lost("source"));
    assert_eq!(heard.works(), Some(true));
    heard.lost(&lost("connect"));
    assert_eq!(heard.works(), Some(false));
}

#[test]
fn what_is_told_and_heard_keeps_an_account_quiet() {
    let quiet = Arc::new(Quiet::default());
    let at = |s| now() + Duration::seconds(s);
    let of = |s| quiet.until("ann", at(s));
    assert_eq!(of(0), None);
    let heard = Heard::of("ann", quiet.clone());
    heard.answer(&answer(429, &[("retry-after", "60")]));
    // as long as the ledger takes to tell it everybody
    assert_eq!((of(1), of(2)), (Some(at(2)), None));
    assert_eq!(heard.held(at(1)), Some(at(2)));
    quiet.told(HashMap::from([("ann".to_owned(), at(60))]));
    assert_eq!((of(2), of(59), of(60)), (Some(at(60)), Some(at(60)), None));
    assert_eq!(quiet.until("bob", at(1)), None);
    // somebody opened it
    quiet.told(HashMap::new());
    assert_eq!(of(2), None);
}

proptest! {
    #[test]
    fn no_header_panics(status in 100u16..600, value in "[ -~]{0,60}", unix: i64) {
        let unix = unix.to_string();
        for value in [value.as_str(), &unix] {
            for (before, after, _) in FORMS {
                let (remaining, reset) = (format!("{before}remaining{after}"), format!("{before}reset{after}"));
                let answer = answer(status, &[(&remaining, "0"), (&reset, value), ("ratelimit", value),
                    ("retry-after", value), ("x-app-usage", value), ("x-business-use-case-usage", value)]);
                for it in learned(&answer) {
                    prop_assert!(now() < it.until && it.until <= now() + AFTER_MAX);
                }
                let wait = come_back(&answer, Class::Throttled);
                prop_assert!(wait.is_none_or(|it| Duration::zero() <= it && it <= AFTER_MAX));
            }
        }
    }
}
