//! Why a job isn't running, as `presswork explain` tells it of a running daemon's jobs.

use std::sync::Mutex;

use super::stops::command;
use super::*;

impl Case {
    /// A test job of a lane; its id.
    async fn in_lane(&mut self, host: &Host, lane: &str, payload: Value) -> JobId {
        let mut envelope = self.job("test.job", payload);
        envelope["lane"] = lane.into();
        self.accepted(host, envelope).await
    }

    async fn posted(&mut self, host: &Host, kind: &'static str) -> JobId {
        let envelope = self.job(kind, json!({}));
        self.accepted(host, envelope).await
    }

    async fn accepted(&self, host: &Host, envelope: Value) -> JobId {
        let ids = accept_directly(&*self.ledger, &rules(host), &[envelope]).await;
        ids.expect("the ledger takes it")[0]
    }
}

/// What is told of a job, once something of this sort keeps it: that, and all that is told with it.
/// What comes next may be told otherwise: a look at what is due goes on meanwhile.
async fn kept(host: &Host, id: JobId, what: &str) -> (Value, Value) {
    let id = id.to_string();
    let found = Mutex::new(None);
    wait::until(&format!("{what} keeps job {id}"), ENDED, async || {
        let looked = look(host, &id, what).await;
        let is_there = looked.is_some();
        *found.lock().expect("nobody panics with it") = looked;
        is_there
    })
    .await;
    let found = found.into_inner().expect("nobody panics with it");
    found.expect("it was found")
}

async fn look(host: &Host, id: &str, what: &str) -> Option<(Value, Value)> {
    let told = command(host, &["explain", id]).await;
    let mut all = told["constraints"].as_array().expect("a list").iter();
    let constraint = all.find(|it| it["what"] == what).cloned();
    constraint.map(|it| (it, told))
}

fn says(constraint: &Value, words: &[&str]) {
    let text = constraint["text"].as_str().expect("a text");
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_job_is_told_with_what_holds_it_and_what_helps() {
    let mut case = Case::new().await;
    case.stores.more = "[lanes.narrow]\nconcurrency = 1\n[lanes.quiet]\n\
         [budgets.posts]\nform = \"rolling\"\nmost = 1\nwindow_s = 3600\nper = \"account\"\n\
         op = \"mastodon.status\"\n"
        .to_owned();
    let host = case.host();
    let daemon = host.run();
    host.queue_in_use(&daemon).await;

    // a budget of one an hour, of which one is used
    let first = case.posted(&host, "post.mastodon").await;
    case.until_state(first, State::Completed).await;
    let second = case.posted(&host, "post.mastodon").await;
    let (budget, _) = kept(&host, second, "budget").await;
    let words = ["Budget `posts` of `alice`", "`mastodon.status`", "(1 of 1)"];
    says(&budget, &words);
    let until: Time = serde_json::from_value(budget["until"].clone()).expect("a time");
    let now = case.ledger.now().await.expect("the ledger answers");
    assert!(now < until && until < now + chrono::Duration::minutes(65));
    wait::until("it waits, and no attempt is charged", ENDED, async || {
        let job = case.one(second).await;
        job.state != State::Running && job.attempts == 0
    })
    .await;

    // a stop
    command(
        &host,
        &["stop", "--account", "bella", "--reason", "a wrong price"],
    )
    .await;
    let stopped = case.posted(&host, "post.bluesky").await;
    let (stop, _) = kept(&host, stopped, "stop").await;
    says(&stop, &["Account `bella` was stopped by", "a wrong price"]);
    assert_eq!(stop["command"], "presswork go --account bella");
    assert!(
        stop["by"].is_string() && stop["since"].is_string(),
        "{stop}"
    );

    // a paused lane
    command(&host, &["lanes", "pause", "quiet", "--reason", "moving"]).await;
    let mut found = None;
    while found.is_none() {
        // a daemon that hasn't noticed yet runs what comes first
        let paused = case.in_lane(&host, "quiet", json!({})).await;
        let id = paused.to_string();
        wait::until("it waits, or has run", ENDED, async || {
            let has_run = case.one(paused).await.state == State::Completed;
            has_run || look(&host, &id, "pause").await.is_some()
        })
        .await;
        found = look(&host, &id, "pause").await;
    }
    let (pause, _) = found.expect("it was found");
    says(&pause, &["Its lane `quiet` is paused by", "moving"]);
    assert_eq!(pause["command"], "presswork lanes resume quiet");

    // a full lane
    let long = json!({"sleep_ms": 50_000});
    let holds = case.in_lane(&host, "narrow", long).await;
    case.until_state(holds, State::Running).await;
    let runs = case.ledger.live_runs().await.expect("the ledger answers");
    let name = runs[0].host.clone();
    let next = case.in_lane(&host, "narrow", json!({})).await;
    let after = case.in_lane(&host, "narrow", json!({})).await;
    let (full, told) = kept(&host, next, "concurrency").await;
    let held = format!("1 of 1 run, held by {holds} on {name}");
    says(&full, &[&held]);
    assert_eq!(told["place"]["before"], 0, "{told}");
    let (_, told) = kept(&host, after, "concurrency").await;
    assert_eq!(told["place"]["before"], 1, "{told}");
    let (runs, _) = kept(&host, holds, "running").await;
    says(&runs, &[&format!("It runs on {name}"), "lease"]);

    // for people
    let said = host.home.cli(&["explain", &stopped.to_string()]).await;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    for line in [
        "What stands in its way",
        "  1. Account `bella` was stopped by",
        "       presswork go --account bella",
        "Its place in lane bluesky",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let none = JobId::mint().to_string();
    let none = host.home.cli(&["explain", &none]).await;
    assert_eq!(none.status.code(), Some(3));
}
