//! What may be said of budgets, and what is told of what may not.

use chrono::Duration;

use crate::budget::{Every, Form, Per};
use crate::config::{Config, ConfigErrors};

fn read(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, None, &|_| None)
}

fn wrong(text: &str) -> String {
    read(text).expect_err(text).to_string()
}

#[test]
fn each_form_is_read() {
    let config = read(
        "[budgets.a]\nform = \"concurrency\"\nmost = 3\n\
         [budgets.b]\nform = \"bucket\"\nmost = 10\nwindow_s = 60\n\
         [budgets.c]\nform = \"bucket\"\nmost = 10\nwindow_s = 60\nburst = 2\n\
         [budgets.d]\nform = \"rolling\"\nmost = 100\nwindow_s = 900\nper = \"account\"\nplatform = \"x\"\n\
         [budgets.e]\nform = \"calendar\"\nmost = 50\nevery = \"day\"\nzone = \"America/Los_Angeles\"\n\
         op = \"x.*\"\namount = 2\n\
         [budgets.f]\nform = \"spend\"\nmost = \"20.50\"\ncurrency = \"EUR\"\nevery = \"month\"\nper = \"tenant\"\n",
    )
    .unwrap();
    let form = |name: &str| config.budgets[name].form;
    let minute = Duration::seconds(60);
    assert_eq!(form("a"), Form::Concurrency { most: 3 });
    let bucket = |burst| Form::Bucket {
        most: 10,
        window: minute,
        burst,
    };
    assert_eq!((form("b"), form("c")), (bucket(10), bucket(2)));
    let window = Duration::minutes(15);
    assert_eq!(form("d"), Form::Rolling { most: 100, window });
    assert_eq!(config.budgets["d"].per, Per::Account);
    let (every, zone) = (Every::Day, chrono_tz::America::Los_Angeles);
    let most = 50;
    assert_eq!(form("e"), Form::Calendar { most, every, zone });
    assert_eq!(config.budgets["e"].amount, 2);
    let money = Form::Spend {
        most: 20_500_000,
        currency: "EUR".parse().unwrap(),
        every: Every::Month,
        zone: chrono_tz::Tz::UTC,
    };
    assert_eq!(form("f"), money);
    assert_eq!(money.to_string(), "20.50 EUR a month (UTC)");
}

#[test]
fn what_platforms_publish_is_built_in_and_can_be_said_otherwise() {
    let built_in = read("").unwrap().budgets;
    assert!(built_in.values().all(|it| it.published));
    assert!(built_in.contains_key("x-posts"));
    let config = read(
        "[budgets.x-posts]\noff = true\n\
         [budgets.instagram-posts]\nform = \"rolling\"\nmost = 25\nwindow_s = 86400\nop = \"instagram.media\"\n",
    )
    .unwrap();
    assert!(!config.budgets.contains_key("x-posts"));
    let mine = &config.budgets["instagram-posts"];
    assert_eq!((mine.form.most(), mine.published), (25, false));
    assert_eq!(config.budgets.len(), built_in.len() - 1);
}

#[test]
fn what_is_missing_or_means_nothing_is_told() {
    for (text, told) in [
        ("most = 3", "budgets.a.form"),
        ("form = \"rolling\"\nmost = 3", "budgets.a.window_s"),
        ("form = \"rolling\"\nwindow_s = 3", "budgets.a.most"),
        ("form = \"calendar\"\nmost = 3", "budgets.a.every"),
        (
            "form = \"concurrency\"\nmost = 3\nwindow_s = 3",
            "means nothing to form concurrency",
        ),
        (
            "form = \"rolling\"\nmost = 3\nwindow_s = 3\nburst = 3",
            "is for form bucket only",
        ),
        (
            "form = \"rolling\"\nmost = 3\nwindow_s = 3\nzone = \"UTC\"",
            "is for form calendar or spend only",
        ),
        (
            "form = \"calendar\"\nmost = 3\nevery = \"day\"\nzone = \"PST\"",
            "America/Los_Angeles",
        ),
        (
            "form = \"concurrency\"\nmost = 3\naccount = \"alice\"",
            "[accounts] has none of it",
        ),
        ("form = \"concurrency\"\nmost = 0", "budgets.a.most"),
        (
            "form = \"spend\"\nmost = 20\nevery = \"day\"",
            "most = \"20.00\"",
        ),
        ("form = \"spend\"\nmost = \"0\"\nevery = \"day\"", "above 0"),
        ("form = \"spend\"\nmost = \"1\"", "budgets.a.every"),
        (
            "form = \"spend\"\nmost = \"1\"\nevery = \"day\"\ncurrency = \"usd\"",
            "three capital letters",
        ),
        (
            "form = \"spend\"\nmost = \"1\"\nevery = \"day\"\namount = 2",
            "budgets.a.amount",
        ),
        (
            "form = \"rolling\"\nmost = 1\nwindow_s = 2\ncurrency = \"USD\"",
            "is for form spend only",
        ),
    ] {
        let error = wrong(&format!("[budgets.a]\n{text}\n"));
        assert!(error.contains(told), "{text}: {error}");
    }
}
