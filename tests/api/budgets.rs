//! Budgets over HTTP.

use std::sync::Arc;
use std::time::Duration;

use presswork::budget::{Budget, Currency, Every, Form, Per};
use presswork::clock::Time;
use presswork::config::{Account, Config};
use presswork::job::JobId;
use serde_json::{Value, json};

use super::site::{Site, Wishes};

const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_told_and_changed_over_http() {
    let site = Site::new(Wishes::default()).await;
    let say = async |path: &str, word: serde_json::Value| {
        let body = word.to_string();
        site.post_with(path, JSON, body.as_bytes()).await
    };
    let told = async || {
        let all = site.get("/v1/budgets").await.json();
        let all = all["budgets"].as_array().expect("a list").clone();
        let one = all.into_iter().find(|it| it["budget"] == "x-posts");
        one.expect("it is built in")
    };
    let before = told().await;
    assert_eq!(
        (&before["most"], &before["used"], &before["changed"]),
        (&json!(100), &json!(0), &json!(null))
    );
    for (word, why) in [
        (json!({"most": 0}), "1 to"),
        (json!({"most": "ten"}), "a whole number"),
        (json!({"most": -5}), "`most`: `-5`: a whole number, 1 to"),
        (json!({"most": 1.5}), "`most`: `1.5`: a whole number"),
        (json!({"most": true}), "`most`: `true`: a whole number"),
        (json!({"most": [1]}), "`most`: `[1]`: a whole number"),
        (
            json!({"most": 1, "for_s": "2h"}),
            "`for_s`: `\\\"2h\\\"`: a whole number of seconds",
        ),
        (
            json!({"most": 1, "for_s": -1}),
            "`for_s`: `-1`: a whole number of seconds",
        ),
        (
            json!({"most": 1, "for_s": 400_000_000_000u64}),
            "0 to 316224000",
        ),
        (
            json!({"most": null, "for_s": []}),
            "`for_s`: `[]`: a whole number of seconds",
        ),
        (json!({"most": 1, "by": 7}), "`by`: `7`: a text"),
        (json!({"most": 1, "reason": {}}), "`reason`: `{}`: a text"),
        (json!({"mots": 1}), "mots"),
    ] {
        let reply = say("/v1/budgets/x-posts", word.clone()).await;
        assert_eq!(
            (reply.status, &*reply.problem()),
            (400, "bad-request"),
            "{word}"
        );
        assert!(reply.text.contains(why), "{word}: {}", reply.text);
        assert!(!reply.text.contains("untagged"), "{word}: {}", reply.text);
        assert_eq!(told().await, before, "{word}");
    }
    let reply = say("/v1/budgets/x-post", json!({"most": 1})).await;
    assert_eq!(reply.status, 404);
    assert!(
        reply.text.contains("did you mean `x-posts`"),
        "{}",
        reply.text
    );

    let word = json!({"most": 10, "for_s": 7200, "by": "ada", "reason": "new"});
    assert_eq!(say("/v1/budgets/x-posts", word).await.status, 200);
    let after = told().await;
    assert_eq!(
        (&after["most"], &after["changed"]["actor"]),
        (&json!(10), &json!("http: ada"))
    );
    let back = say("/v1/budgets/x-posts", json!({"most": null})).await;
    assert_eq!(back.json(), json!({"budget": "x-posts", "changed": true}));
    assert_eq!(told().await, before);
}

/// The site's configuration, changed.
fn configure(site: &Site, change: impl FnOnce(&mut Config)) {
    let mut config = Config::clone(&site.shared.config.load());
    change(&mut config);
    site.shared.config.store(Arc::new(config));
}

/// A job of `ann` that is to run so many seconds from now.
async fn post(site: &Site, seconds: i64) -> JobId {
    let at = site.ledger.now().await.unwrap() + chrono::Duration::seconds(seconds);
    let word = json!({
        "kind": "test.echo", "account": "ann", "run_at": at, "payload": {"text": "a"},
    });
    let new = site.post(word.to_string()).await;
    assert_eq!(new.status, 201, "{new:?}");
    new.json()["id"].as_str().unwrap().parse().unwrap()
}

fn ann(config: &mut Config) {
    let account = Account {
        pace: Some(Duration::from_secs(600)),
        ..Account::at("x", "https://x.example".parse().unwrap())
    };
    config.accounts.insert("ann".to_owned(), account);
}

fn time(of: &Value) -> Time {
    of.as_str().unwrap_or_default().parse().expect("a time")
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_places_what_comes_too_late_and_paces_are_told_over_http() {
    let site = Site::new(Wishes::default()).await;
    configure(&site, |config| {
        ann(config);
        let form = Form::Rolling {
            most: 2,
            window: chrono::Duration::hours(1),
        };
        let budget = Budget {
            kind: Some("test.echo".to_owned()),
            ..Budget::of_all(form, Per::All)
        };
        config.budgets.insert("echoes".to_owned(), budget);
    });
    let all = site.get("/v1/budgets").await.json();
    assert_eq!(all["paces"], json!([]));
    // three at the same time, for which there are two places; one that waits beside them, and two overdue
    let mut slots = Vec::new();
    for _ in 0..3 {
        slots.push(post(&site, 1_800).await);
    }
    for _ in 0..2 {
        post(&site, -300).await;
    }
    let all = site.get("/v1/budgets").await.json();
    let parts = all["budgets"].as_array().expect("a list");
    let one = parts.iter().find(|it| it["budget"] == "echoes");
    let outlook = &one.expect("it is told")["outlook"];
    assert_eq!(
        [
            &outlook["backlog"],
            &outlook["scheduled"],
            &outlook["kept"],
            &outlook["late"]
        ],
        [&json!(5), &json!(3), &json!(2), &json!(1)],
        "{outlook}"
    );
    let miss = &outlook["misses"][0];
    assert_eq!(miss["job"], json!(slots[2]), "{outlook}");
    let after = time(&miss["expected_at"]) - time(&miss["wanted_at"]);
    assert!(chrono::Duration::minutes(59) < after, "{outlook}");
    // who wasn't scheduled goes when the places of those are free again
    assert!(
        time(&miss["expected_at"]) < time(&outlook["drains_at"]),
        "{outlook}"
    );

    let pace = &all["paces"][0];
    assert_eq!(all["paces"].as_array().map(Vec::len), Some(1), "{all}");
    assert_eq!(
        [&pace["account"], &pace["pace_s"], &pace["waiting"]],
        [&json!("ann"), &json!(600), &json!(2)]
    );
    assert_eq!(time(&pace["next_at"]), time(&all["now"]));
    let last = (time(&pace["drains_at"]) - time(&all["now"])).num_seconds();
    assert!((600..=610).contains(&last), "{pace}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_of_money_takes_an_amount_over_http() {
    let site = Site::new(Wishes::default()).await;
    configure(&site, |config| {
        let form = Form::Spend {
            most: 5_000_000,
            currency: Currency::USD,
            every: Every::Day,
            zone: chrono_tz::Tz::UTC,
        };
        let budget = Budget::of_all(form, Per::All);
        config.budgets.insert("money".to_owned(), budget);
    });
    let say = async |word: Value| {
        let body = word.to_string();
        site.post_with("/v1/budgets/money", JSON, body.as_bytes())
            .await
    };
    for wrong in [
        json!(-20),
        json!("-20.00"),
        json!(0),
        json!("much"),
        json!({}),
    ] {
        let reply = say(json!({"most": wrong})).await;
        assert_eq!(reply.status, 400, "{wrong}");
        assert!(reply.text.contains("such as 20.00"), "{}", reply.text);
    }
    for (said, micros) in [(json!("20.50"), 20_500_000), (json!(7), 7_000_000)] {
        let reply = say(json!({"most": said})).await;
        assert_eq!((reply.status, &reply.json()["most"]), (200, &json!(micros)));
    }
}
