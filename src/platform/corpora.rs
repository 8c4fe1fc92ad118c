//! What the platforms really answer, row by row: each lands in its class and its scope, and teaches what
//! nothing is left of.

use bytes::Bytes;
use chrono::{TimeZone as _, Utc};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::http::{Answer, Call};
use super::limits::learned;
use super::verdict::{CallError, Rules, judge};
use super::{bluesky, endpoint, instagram, mastodon, openai, x};
use crate::outcome::{BLOCKED, Class, Failure, RESTRICTED, Scope};

/// When each of these answers was there, in Unix seconds.
const NOW: i64 = 1_800_000_000;

type Headers<'a> = &'a [(&'a str, &'a str)];

fn answer(status: u16, headers: Headers<'_>, body: &str) -> Answer {
    let header = |(name, value): &(&str, &str)| {
        let name: HeaderName = name.parse().unwrap();
        (name, HeaderValue::from_str(value).unwrap())
    };
    Answer {
        status,
        headers: headers.iter().map(header).collect::<HeaderMap>(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        at: Utc.timestamp_opt(NOW, 0).unwrap(),
    }
}

/// What it means: whether it may have acted, and the failure.
fn means(rules: &Rules, answer: &Answer) -> (bool, Failure) {
    let url = url::Url::parse("https://a.example").unwrap();
    let call = Call::get(url, std::time::Duration::from_secs(1));
    match judge(rules, &call, answer) {
        CallError::Refused(it) => (false, it),
        CallError::Unknown(it) => (true, it),
    }
}

/// Where an answer lands: whether it may have acted, class, scope, and the wait in seconds.
type Lands = (bool, Class, Scope, Option<i64>);

fn check(rules: &Rules, rows: &[(u16, Headers<'_>, &str, Lands)]) {
    for (status, headers, body, lands) in rows {
        let (acted, it) = means(rules, &answer(*status, headers, body));
        let wait = it.retry_after().map(|it| it.num_seconds());
        let (platform, code) = (rules.platform, &it.code);
        assert_eq!(
            (acted, it.class, it.scope, wait),
            *lands,
            "{platform} {status} {code}: {body}"
        );
    }
}

const CREDENTIALS: Lands = (false, Class::Unauthorised, Scope::Account, None);
const CONTENT: Lands = (false, Class::Permanent, Scope::Content, None);
const OF_APP: Lands = (false, Class::Unauthorised, Scope::App, None);
const QUOTA_OF_APP: Lands = (false, Class::Permanent, Scope::App, None);
const NOBODY_KNOWS: Lands = (true, Class::Unknown, Scope::Platform, None);

const fn throttled(scope: Scope, wait: Option<i64>) -> Lands {
    (false, Class::Throttled, scope, wait)
}

#[test]
fn answers_of_x_land_in_their_scope() {
    let usage = r#"{"title":"UsageCapExceeded","detail":"Usage cap exceeded: Monthly product cap","status":429,"type":"https://api.x.com/2/problems/usage-capped"}"#;
    check(
        &x::RULES,
        &[
            (
                401,
                &[],
                r#"{"title":"Unauthorized","type":"about:blank","status":401,"detail":"Unauthorized"}"#,
                CREDENTIALS,
            ),
            (
                402,
                &[],
                r#"{"title":"CreditsDepleted","detail":"Your enrolled account does not have any credits","type":"https://api.x.com/2/problems/credits"}"#,
                QUOTA_OF_APP,
            ),
            (
                429,
                &[("x-rate-limit-reset", "1800000900")],
                usage,
                (false, Class::Permanent, Scope::App, None),
            ),
            (
                403,
                &[],
                r#"{"detail":"You are not allowed to create a Tweet with duplicate content.","type":"about:blank","title":"Forbidden","status":403}"#,
                NOBODY_KNOWS,
            ),
            (
                403,
                &[],
                r#"{"errors":[{"code":187,"message":"Status is a duplicate."}]}"#,
                NOBODY_KNOWS,
            ),
            (
                403,
                &[],
                r#"{"errors":[{"code":64,"message":"Your account is suspended"}]}"#,
                CREDENTIALS,
            ),
            (
                403,
                &[],
                r#"{"client_id":"1","reason":"client-not-enrolled","title":"Client Forbidden","type":"https://api.twitter.com/2/problems/client-forbidden"}"#,
                OF_APP,
            ),
            (
                403,
                &[],
                r#"{"title":"Forbidden","detail":"You are not permitted to perform this action.","type":"about:blank","status":403}"#,
                CONTENT,
            ),
            (
                400,
                &[],
                r#"{"errors":[{"message":"Invalid"}],"title":"Invalid Request","type":"https://api.x.com/2/problems/invalid-request"}"#,
                CONTENT,
            ),
            (
                429,
                &[
                    ("x-rate-limit-limit", "100"),
                    ("x-rate-limit-remaining", "0"),
                    ("x-rate-limit-reset", "1800000900"),
                ],
                r#"{"title":"Too Many Requests","detail":"Too Many Requests","type":"about:blank","status":429}"#,
                throttled(Scope::Account, Some(900)),
            ),
            (
                429,
                &[
                    ("x-rate-limit-remaining", "99"),
                    ("x-rate-limit-reset", "1800000100"),
                    ("x-app-limit-24hour-remaining", "0"),
                    ("x-app-limit-24hour-reset", "1800080000"),
                ],
                r#"{"errors":[{"code":88,"message":"Rate limit exceeded"}]}"#,
                throttled(Scope::Account, Some(80_000)),
            ),
            (
                503,
                &[],
                r#"{"title":"Service Unavailable","type":"about:blank"}"#,
                NOBODY_KNOWS,
            ),
        ],
    );
    let (_, it) = means(
        &x::RULES,
        &answer(403, &[], r#"{"errors":[{"code":326,"message":"locked"}]}"#),
    );
    assert_eq!(it.code, RESTRICTED);
    let day = answer(
        201,
        &[
            ("x-app-limit-24hour-remaining", "0"),
            ("x-app-limit-24hour-reset", "1800080000"),
            ("x-rate-limit-remaining", "3"),
        ],
        "{}",
    );
    let scopes: Vec<Scope> = learned(&day).iter().map(|it| it.scope).collect();
    assert_eq!(scopes, [Scope::App]);
}

#[test]
fn answers_of_instagram_land_in_their_scope() {
    let error = |code: i64, subcode: Option<i64>| {
        let subcode = subcode.map_or(String::new(), |it| format!(r#","error_subcode":{it}"#));
        format!(
            r#"{{"error":{{"message":"m","type":"OAuthException","code":{code}{subcode},"is_transient":false,"fbtrace_id":"x"}}}}"#
        )
    };
    let usage = r#"{"17841400008460056":[{"type":"instagram","call_count":100,"total_cputime":25,"total_time":25,"estimated_time_to_regain_access":5}]}"#;
    let usage: Headers<'_> = &[("x-business-use-case-usage", usage)];
    let blocked = (true, Class::Unknown, Scope::Account, None);
    for (status, headers, code, subcode, lands) in [
        (400, &[][..], 190, Some(463), CREDENTIALS),
        (401, &[], 190, None, CREDENTIALS),
        (403, &[], 10, None, CREDENTIALS),
        (403, &[], 200, None, CREDENTIALS),
        (400, &[], 299, None, CREDENTIALS),
        (400, &[], 4, None, throttled(Scope::App, None)),
        (
            403,
            &[("x-app-usage", r#"{"call_count":100}"#)],
            4,
            None,
            throttled(Scope::App, Some(600)),
        ),
        (400, usage, 17, None, throttled(Scope::Account, Some(300))),
        (400, &[], 32, None, throttled(Scope::Account, None)),
        (400, &[], 613, None, throttled(Scope::Account, None)),
        (
            400,
            usage,
            80_002,
            None,
            throttled(Scope::Account, Some(300)),
        ),
        (
            429,
            &[("retry-after", "7")],
            80_002,
            None,
            throttled(Scope::Account, Some(7)),
        ),
        (
            400,
            &[],
            9,
            Some(2_207_042),
            throttled(Scope::Account, None),
        ),
        (400, &[], 25, Some(2_207_050), CREDENTIALS),
        (400, &[], 4, Some(2_207_051), blocked),
        (400, &[], 36_003, Some(2_207_009), CONTENT),
        (500, &[], 2, None, NOBODY_KNOWS),
    ] {
        check(
            &instagram::RULES,
            &[(status, headers, &error(code, subcode), lands)],
        );
    }
    for (code, subcode, word) in [(25, 2_207_050, RESTRICTED), (4, 2_207_051, BLOCKED)] {
        let (_, it) = means(
            &instagram::RULES,
            &answer(400, &[], &error(code, Some(subcode))),
        );
        assert_eq!(it.code, word);
        assert!(it.message.contains(&subcode.to_string()), "{it}");
    }
}

#[test]
fn answers_of_bluesky_land_in_their_scope() {
    let spent: Headers<'_> = &[
        ("ratelimit-limit", "5000"),
        ("ratelimit-remaining", "0"),
        ("ratelimit-reset", "1800003600"),
        ("ratelimit-policy", "5000;w=3600"),
    ];
    check(
        &bluesky::RULES,
        &[
            (
                400,
                &[],
                r#"{"error":"ExpiredToken","message":"Token has expired"}"#,
                CREDENTIALS,
            ),
            (
                400,
                &[],
                r#"{"error":"InvalidToken","message":"Token could not be verified"}"#,
                CREDENTIALS,
            ),
            (
                401,
                &[],
                r#"{"error":"AuthenticationRequired","message":"Invalid identifier or password"}"#,
                CREDENTIALS,
            ),
            (
                401,
                &[],
                r#"{"error":"AccountTakedown","message":"Account has been taken down"}"#,
                CREDENTIALS,
            ),
            (
                400,
                &[],
                r#"{"error":"InvalidRequest","message":"Invalid app.bsky.feed.post record"}"#,
                CONTENT,
            ),
            (
                429,
                spent,
                r#"{"error":"RateLimitExceeded","message":"Rate Limit Exceeded"}"#,
                throttled(Scope::Account, Some(3_600)),
            ),
            (
                500,
                &[],
                r#"{"error":"InternalServerError","message":"Internal Server Error"}"#,
                NOBODY_KNOWS,
            ),
        ],
    );
    let (_, it) = means(
        &bluesky::RULES,
        &answer(401, &[], r#"{"error":"AccountTakedown"}"#),
    );
    assert_eq!(it.code, RESTRICTED);
    assert_eq!(learned(&answer(200, spent, "{}")).len(), 1);
}

#[test]
fn answers_of_mastodon_land_in_their_scope() {
    let spent: Headers<'_> = &[
        ("x-ratelimit-limit", "300"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "2027-01-15T08:05:00.000000Z"),
    ];
    check(
        &mastodon::RULES,
        &[
            (
                401,
                &[],
                r#"{"error":"The access token is invalid"}"#,
                CREDENTIALS,
            ),
            (
                403,
                &[],
                r#"{"error":"This action is outside the authorized scopes"}"#,
                CREDENTIALS,
            ),
            (
                403,
                &[],
                r#"{"error":"Your login is currently disabled"}"#,
                CREDENTIALS,
            ),
            (
                422,
                &[],
                r#"{"error":"Validation failed: Text can't be blank"}"#,
                CONTENT,
            ),
            (
                429,
                spent,
                r#"{"error":"Too many requests"}"#,
                throttled(Scope::Account, Some(300)),
            ),
            (
                503,
                &[("retry-after", "30")],
                "<html>",
                (true, Class::Unknown, Scope::Platform, Some(30)),
            ),
        ],
    );
    let disabled = answer(403, &[], r#"{"error":"Your login is currently disabled"}"#);
    assert_eq!(means(&mastodon::RULES, &disabled).1.code, RESTRICTED);
}

#[test]
fn answers_of_openai_land_in_their_scope() {
    let error = |kind: &str, code: &str| {
        format!(r#"{{"error":{{"message":"m","type":"{kind}","param":null,"code":"{code}"}}}}"#)
    };
    let spent: Headers<'_> = &[
        ("x-ratelimit-limit-requests", "500"),
        ("x-ratelimit-remaining-requests", "499"),
        ("x-ratelimit-reset-requests", "120ms"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "6m0s"),
    ];
    for (status, headers, kind, code, lands) in [
        (
            401,
            &[][..],
            "invalid_request_error",
            "invalid_api_key",
            CREDENTIALS,
        ),
        (
            403,
            &[],
            "invalid_request_error",
            "unsupported_country",
            CREDENTIALS,
        ),
        (
            429,
            spent,
            "tokens",
            "rate_limit_exceeded",
            throttled(Scope::Account, Some(360)),
        ),
        (
            429,
            &[("retry-after", "20")],
            "requests",
            "rate_limit_exceeded",
            throttled(Scope::Account, Some(20)),
        ),
        (
            429,
            &[],
            "insufficient_quota",
            "insufficient_quota",
            QUOTA_OF_APP,
        ),
        (
            400,
            &[],
            "invalid_request_error",
            "billing_hard_limit_reached",
            QUOTA_OF_APP,
        ),
        (
            400,
            &[],
            "invalid_request_error",
            "content_policy_violation",
            CONTENT,
        ),
        (
            503,
            &[],
            "server_error",
            "overloaded",
            (false, Class::Transient, Scope::Platform, None),
        ),
    ] {
        check(
            &openai::RULES,
            &[(status, headers, &error(kind, code), lands)],
        );
    }
}

#[test]
fn answers_of_endpoints_land_in_their_scope() {
    check(
        &endpoint::RULES,
        &[
            (401, &[], "", CREDENTIALS),
            (403, &[], r#"{"error":"no"}"#, CREDENTIALS),
            (402, &[], r#"{"error":"no"}"#, CONTENT),
            (
                429,
                &[("ratelimit", "\"default\";r=0;t=9")],
                "",
                throttled(Scope::Account, Some(9)),
            ),
            (
                429,
                &[("ratelimit-remaining", "0"), ("ratelimit-reset", "9")],
                "",
                throttled(Scope::Account, Some(9)),
            ),
            (502, &[], "<html>", NOBODY_KNOWS),
        ],
    );
}
