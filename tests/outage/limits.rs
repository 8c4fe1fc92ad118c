//! What a platform says of its limits, and that it fails, is heard by all hosts: judged by the
//! sandbox's own list of requests.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::*;
use crate::world::client;

/// What a platform says to wait.
const WAIT_S: i64 = 6;
/// All hosts know of a closure by then; what was on its way has arrived.
const KNOWN: TimeDelta = TimeDelta::milliseconds(700);

/// A request that the sandbox has seen.
struct Request {
    at: DateTime<Utc>,
    account: Option<String>,
    status: Option<u64>,
}

impl Outside {
    async fn requests(&self) -> Vec<Request> {
        let url = format!("{}/_sandbox/requests?platform=mastodon", self.url);
        let answer = client().get(url).send().await.expect("the sandbox answers");
        let text = answer.text().await.expect("the sandbox answers");
        let list: Vec<Value> = serde_json::from_str(&text).expect("the sandbox answers JSON");
        let read = |it: &Value| Request {
            at: it["at"].as_str().unwrap().parse().expect("a time"),
            account: it["account"].as_str().map(str::to_owned),
            status: it["status"].as_u64(),
        };
        list.iter().map(read).collect()
    }

    pub(super) async fn fault(&self, script: &Value) {
        let url = format!("{}/_sandbox/faults", self.url);
        let answer = client().post(url).body(script.to_string());
        let answer = answer.header("content-type", "application/json").send();
        let status = answer.await.expect("the sandbox answers").status();
        assert_eq!(status, StatusCode::CREATED);
    }

    async fn no_faults(&self) {
        let url = format!("{}/_sandbox/faults", self.url);
        let answer = client().delete(url).send().await;
        answer.expect("the sandbox answers");
    }
}

impl Case {
    /// The next post of an account.
    fn post(&mut self, account: &str) -> Value {
        let mut post = self.job("post.mastodon", json!({}));
        post["account"] = account.into();
        post
    }

    async fn attempts_charged(&self) -> u32 {
        let jobs = checker::by_key(&*self.ledger).await;
        jobs.iter().map(|it| it.attempts).sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_is_waited_out_by_all_jobs_of_its_account_on_all_hosts() {
    let mut case = Case::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("amy.secret");
    std::fs::write(&secret, "sandbox-amy").expect("a secret can be written");
    case.stores.more = format!(
        "[lanes.mastodon]\nconcurrency = 2\n[accounts.amy]\nplatform = \"mastodon\"\n\
         base_url = \"{}/mastodon\"\nsecret = {{ file = \"{}\" }}\n",
        case.outside.url,
        secret.display()
    );
    let (one, other) = (case.host(), case.host());
    let (first, second) = (one.run(), other.run());
    one.queue_in_use(&first).await;
    other.queue_in_use(&second).await;
    case.outside
        .fault(
            &json!({"platform": "mastodon", "op": "status.create", "account": "alice",
            "fault": "429", "retry_after_s": WAIT_S, "after": 4}),
        )
        .await;
    let posts: Vec<Value> = (0..30).map(|_| case.post("alice")).collect();
    let accepted = accept_directly(&*case.ledger, &rules(&one), &posts).await;
    accepted.expect("the ledger takes them");
    let refused = async || {
        let requests = case.outside.requests().await;
        let refused = requests.iter().find(|it| it.status == Some(429));
        refused.map(|it| it.at)
    };
    wait::until("a post is refused", ENDED, async || {
        refused().await.is_some()
    })
    .await;
    let refused = refused().await.expect("it was seen");
    let others: Vec<Value> = (0..5).map(|_| case.post("amy")).collect();
    for post in &others {
        one.submit(post).await;
    }
    case.all_well().await;
    let requests = case.outside.requests().await;
    let of = |name: &str| {
        let all = requests.iter();
        let own = all.filter(|it| it.account.as_deref() == Some(name));
        own.map(|it| it.at - refused).collect::<Vec<TimeDelta>>()
    };
    let early: Vec<TimeDelta> = of("alice")
        .into_iter()
        .filter(|it| KNOWN < *it && *it < TimeDelta::seconds(WAIT_S))
        .collect();
    assert_eq!(early, [], "sent before its time");
    let at_once = of("alice");
    let at_once = at_once
        .iter()
        .filter(|it| TimeDelta::zero() < **it && **it <= KNOWN);
    assert!(at_once.count() <= 2, "only what was on its way");
    let quick = of("amy").into_iter().min().expect("it has posted");
    assert!(
        quick < TimeDelta::seconds(WAIT_S),
        "another account waits: {quick}"
    );
    assert_eq!(case.attempts_charged().await, 0);
    println!("the first post of another account came {quick} after the refusal");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_is_left_alone_and_burns_no_attempts() {
    const COOL_DOWN: Duration = Duration::from_secs(2);
    let mut case = Case::new().await;
    case.stores.more = format!(
        "[breaker]\nfailures = 5\ncool_down_s = {}\n[lanes.mastodon]\nconcurrency = 1\n",
        COOL_DOWN.as_secs()
    );
    let (one, other) = (case.host(), case.host());
    let (first, second) = (one.run(), other.run());
    one.queue_in_use(&first).await;
    other.queue_in_use(&second).await;
    case.outside
        .fault(&json!({"platform": "mastodon", "fault": "503", "times": 1_000}))
        .await;
    let posts: Vec<Value> = (0..12).map(|_| case.post("alice")).collect();
    let accepted = accept_directly(&*case.ledger, &rules(&one), &posts).await;
    accepted.expect("the ledger takes them");
    // until every host knows that it is open, one may be on its way: those aren't counted
    let asked_since = async || {
        let requests = case.outside.requests().await;
        let opened = requests.get(4).map(|it| it.at + KNOWN);
        let later = requests
            .iter()
            .filter(|it| opened.is_some_and(|o| o < it.at));
        later.count()
    };
    let what = "it was asked twice whether it works";
    wait::until(what, ENDED, async || 2 <= asked_since().await).await;
    let requests = case.outside.requests().await;
    case.outside.no_faults().await;
    assert_eq!(case.attempts_charged().await, 5, "those that opened it");
    // until every host knows that it is open, one may be on its way
    let opened = requests[4].at;
    let later = requests
        .iter()
        .map(|it| it.at)
        .filter(|it| opened + KNOWN < *it);
    let asked: Vec<_> = std::iter::once(opened).chain(later).collect();
    assert!(
        requests.len() - 5 < asked.len() + 2,
        "only what was on its way"
    );
    let gaps = asked.windows(2).map(|it| it[1] - it[0]);
    let gaps: Vec<i64> = gaps.map(|it| it.num_milliseconds()).collect();
    let least = i64::try_from(COOL_DOWN.as_millis()).unwrap();
    println!("asked again after {gaps:?} ms");
    assert!(2 <= gaps.len(), "{gaps:?}");
    for (n, gap) in gaps.iter().enumerate() {
        assert!(least << n <= *gap, "asked too soon: {gaps:?}");
    }
    // and all go on by themselves
    case.all_well().await;
    assert_eq!(case.attempts_charged().await, 5);
}
