//! What is shown of budgets and paces: who waits, until when, and who comes too late.

use chrono::{Duration, SecondsFormat};
use presswork::clock::{Clock, Time};
use serde_json::{Value, json};

use crate::shop::{CONFIG, Shop};
use crate::wait;

/// Two an hour, of whom it may be.
const TWO: &str = "\n[budgets.posts]\nform = \"rolling\"\nmost = 2\nwindow_s = 3600\naccount = \"main\"\nop = \"mastodon.status\"\n";

async fn post(shop: &Shop, n: usize, run_at: Option<Time>) -> presswork::job::JobId {
    let envelope = json!({
        "kind": "post.mastodon", "account": "main", "run_at": run_at,
        "payload": {"text": format!("post {n}")},
    });
    shop.accept(&envelope.to_string()).await
}

fn stamp(at: Time) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// The line of a table that begins so, without the blanks between its cells.
fn line(text: &str, first: &str) -> String {
    let found = text.lines().find(|it| it.starts_with(first));
    let found = found.unwrap_or_else(|| panic!("no line of {first}:\n{text}"));
    found.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn budgets_tell_of_paces_who_waits_and_until_when() {
    let shop = Shop::open().await;
    let told = shop.run("budgets").await;
    assert_eq!(told.exit, 0, "{}", told.all());
    assert!(!told.out.contains("OVERDUE OF"), "{}", told.out);
    assert_eq!(shop.json("budgets", 0).await["paces"], json!([]));
    // the shop's clock is hours slow: what was due at once is overdue where the binary looks
    for n in 0..4 {
        post(&shop, n, None).await;
    }
    // in time
    post(&shop, 4, Some(Clock::System.now() + Duration::hours(1))).await;
    let told = shop.run("budgets").await;
    assert_eq!(
        line(&told.out, "OVERDUE OF"),
        "OVERDUE OF PACE WAITING NEXT LAST"
    );
    assert_eq!(line(&told.out, "main "), "main one in 60 s 4 now in 3 m");
    let all = shop.json("budgets", 0).await;
    assert!(all["budgets"].as_array().is_some_and(|it| !it.is_empty()));
    let pace = &all["paces"][0];
    let told = [
        &pace["account"],
        &pace["pace_s"],
        &pace["waiting"],
        &pace["more"],
    ];
    assert_eq!(told, [&json!("main"), &json!(60), &json!(4), &json!(false)]);
    let time = |it: &Value| it.as_str().and_then(|it| it.parse::<Time>().ok());
    let (now, last) = (time(&all["now"]), time(&pace["drains_at"]));
    assert_eq!(time(&pace["next_at"]), now, "{all}");
    let wait = (last.unwrap() - now.unwrap()).num_seconds();
    assert!((180..=184).contains(&wait), "{all}");
    // an account without one
    shop.home.configure(&format!("{CONFIG}pace_s = 0\n"));
    let told = shop.run("budgets").await;
    assert_eq!(line(&told.out, "main "), "main at once 4");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_come_too_late_are_named_with_when_they_are_expected() {
    let shop = Shop::open().await;
    shop.home.configure(&format!("{CONFIG}{TWO}"));
    let none = shop.run("budgets --misses").await;
    assert_eq!(none.exit, 0, "{}", none.all());
    assert_eq!(
        line(&none.out, "JOB"),
        "JOB WANTED EXPECTED BUDGET OF",
        "{}",
        none.all()
    );
    assert_eq!(none.out.lines().count(), 1, "{}", none.out);
    let wanted = Clock::System.now() + Duration::hours(5);
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(post(&shop, n, Some(wanted)).await);
    }
    let all = shop.json("budgets --misses", 0).await;
    assert_eq!(all.as_array().map(Vec::len), Some(1), "{all}");
    let one = &all[0];
    assert_eq!(
        [&one["job"], &one["budget"], &one["whose"]],
        [&json!(ids[2]), &json!("posts"), &json!("")]
    );
    let expected: Time = one["expected_at"].as_str().unwrap().parse().unwrap();
    let after = (expected - wanted).num_seconds();
    // a window's parts are rounded up
    assert!((3_600..=3_661).contains(&after), "{all}");
    let told = shop.run("budgets --misses").await.out;
    let row = format!("{} {} {} posts", ids[2], stamp(wanted), stamp(expected));
    assert_eq!(line(&told, &ids[2].to_string()), row);
    assert_eq!(told.lines().count(), 2, "{told}");
    // the table of budgets says how many
    let told = shop.run("budgets").await.out;
    assert!(line(&told, "posts").contains("3, 1 too late"), "{told}");
    // with room for it, none
    let set = shop.run("budgets set posts --most 3").await;
    assert_eq!(set.exit, 0, "{}", set.all());
    wait::until("there is room", crate::SOON, async || {
        shop.json("budgets --misses", 0).await == json!([])
    })
    .await;
}
