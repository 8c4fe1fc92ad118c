//! A stop holds on all hosts at once, measured by what arrives at the platforms; what had its permit
//! before is told; and what was stopped goes on as if nothing had been.

use presswork::gate::{Closure, Scope};
use presswork::ledger::Run;

use super::*;

/// Jobs of each account, of each part of the test.
const JOBS: usize = 250;
/// What is promised from a stop's commit on.
const SECOND: chrono::Duration = chrono::Duration::seconds(1);

impl Case {
    /// As many posts of each kind, due at once.
    async fn posts(&mut self, host: &Host, count: usize) -> Vec<JobId> {
        let mut posts = Vec::new();
        for _ in 0..count {
            posts.push(self.job("post.mastodon", json!({})));
            posts.push(self.job("post.bluesky", json!({})));
        }
        let ids = accept_directly(&*self.ledger, &rules(host), &posts).await;
        ids.expect("the ledger takes them")
    }

    /// When each thing was done at a platform, in order.
    async fn arrivals(&self, platform: &str) -> Vec<Time> {
        let acts = self.outside.acts().await;
        let acts = acts.iter().filter(|it| it["platform"] == platform);
        let at = |it: &Value| serde_json::from_value(it["at"].clone()).expect("a time");
        let mut arrivals: Vec<Time> = acts.map(at).collect();
        arrivals.sort();
        arrivals
    }

    async fn until_arrived(&self, platform: &str, count: usize) {
        let what = format!("{count} things are done at {platform}");
        wait::until(&what, ENDED, async || {
            count <= self.arrivals(platform).await.len()
        })
        .await;
    }

    /// Waits until it is so long after a moment, by the ledger's clock.
    async fn until_past(&self, since: Time, span: chrono::Duration) {
        wait::until("some time has passed", ENDED, async || {
            since + span < self.ledger.now().await.expect("the ledger answers")
        })
        .await;
    }

    /// How many jobs are in a state.
    async fn count(&self, state: State) -> u64 {
        let counts = self.ledger.counts().await.expect("the ledger answers");
        let of = counts.iter().filter(|((_, it), _)| *it == state);
        of.map(|(_, n)| n).sum()
    }

    /// That no job that waits was charged anything, and how many wait.
    async fn uncharged(&self) -> usize {
        let filter = Filter {
            states: vec![State::Ready, State::Scheduled, State::Retrying],
            limit: 10_000,
            ..Filter::default()
        };
        let waiting = self.ledger.jobs(&filter).await.expect("a list");
        for job in &waiting {
            assert_eq!((job.attempts, job.crashes), (0, 0), "{job:?}");
            assert_eq!(job.state, State::Ready, "{job:?}");
        }
        waiting.len()
    }
}

/// What a command that goes well says, as JSON.
pub async fn command(host: &Host, args: &[&str]) -> Value {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let output = host.home.cli(&args).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}{wrong}");
    serde_json::from_str(&said).expect("JSON")
}

async fn stop(host: &Host, args: &[&str]) -> (Closure, Value) {
    let args: Vec<&str> = ["stop"].iter().chain(args).copied().collect();
    let mut told = command(host, &args).await;
    let closure = serde_json::from_value(told["closure"].take());
    (closure.expect("a closure"), told["slipped"].take())
}

/// What came latest before `until`, measured from the stop's commit.
fn latest(what: &str, arrivals: &[Time], (stopped, until): (Time, Time)) {
    let late = arrivals.iter().filter(|it| stopped < **it && **it < until);
    let late = late
        .max()
        .map_or(chrono::Duration::zero(), |it| *it - stopped);
    println!(
        "{what}: the last call arrived {} ms after the stop",
        late.num_milliseconds()
    );
    assert!(late <= SECOND, "{what}: {late}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_holds_on_all_hosts_within_a_second_and_what_was_stopped_goes_on() {
    let mut case = Case::new().await;
    let hosts: Vec<Host> = (0..3).map(|_| case.host()).collect();
    let daemons: Vec<Daemon> = hosts.iter().map(Host::run).collect();
    for (host, daemon) in hosts.iter().zip(&daemons) {
        host.queue_in_use(daemon).await;
    }
    let host = &hosts[0];

    // an account: the other one goes on meanwhile
    let ids = case.posts(host, JOBS).await;
    case.until_arrived("mastodon", 5).await;
    let (closure, _) = stop(host, &["--account", "alice", "--reason", "a wrong price"]).await;
    let of_bella = case.sent.len() / 2;
    case.until_arrived("bluesky", of_bella).await;
    case.until_past(closure.since, SECOND * 2).await;
    assert_eq!(case.count(State::Running).await, 0);
    let waiting = case.uncharged().await;
    let done = case.arrivals("mastodon").await;
    assert_eq!(done.len() + waiting, JOBS, "each is done, or waits");
    assert!(0 < waiting, "the stop came in the midst of it");
    latest("an account", &done, (closure.since, Time::MAX_UTC));
    let mut shut = None;
    for id in &ids {
        if case.one(*id).await.state == State::Ready {
            shut = Some(*id);
        }
    }
    let shut = shut.expect("one waits").to_string();
    let output = host.home.cli(&["jobs", "show", &shut]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for word in [
        "a wrong price",
        "account `alice`",
        "presswork go --account alice",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    // what isn't what was stopped opens nothing
    let wrong = host.home.cli(&["go"]).await;
    assert_eq!(wrong.status.code(), Some(3));
    command(host, &["go", "--account", "alice"]).await;
    case.all_well().await;

    // everything, a call under way
    let at = case.sent.len();
    let (wanted, slow) = envelope(at, "post.mastodon", json!({}), "slow delay_ms=2500");
    case.sent.push(wanted);
    let slow = accept_directly(&*case.ledger, &rules(host), &[slow]).await;
    let slow = slow.expect("the ledger takes it")[0];
    wait::until("the slow one is sent", ENDED, async || {
        let runs = case.ledger.live_runs().await.expect("the ledger answers");
        sends(&case, &runs, slow).await
    })
    .await;
    case.posts(host, JOBS).await;
    case.until_arrived("bluesky", of_bella + 5).await;
    let (closure, slipped) = stop(host, &["--wait", "30"]).await;
    let slipped = slipped.as_array().expect("a list").clone();
    let told = slipped.iter().find(|it| it["job"] == slow.to_string());
    let told = told.expect("the slow one slipped through");
    assert_eq!(told["state"], "confirmed", "and it is told how it ended");
    assert_eq!(
        (&told["op"], &told["account"]),
        (&json!("mastodon.status"), &json!("alice"))
    );
    assert!(
        told["url"].is_string() && told["host"].is_string(),
        "{told}"
    );
    case.until_past(closure.since, SECOND * 3).await;
    assert_eq!(case.count(State::Running).await, 0);
    assert!(
        0 < case.uncharged().await,
        "the stop came in the midst of it"
    );
    let list = command(host, &["stop", "--list"]).await;
    assert_eq!(
        list[0]["scope"],
        serde_json::to_value(Scope::default()).expect("JSON")
    );
    let until = case.ledger.now().await.expect("the ledger answers");
    let opened = command(host, &["go"]).await;
    assert_eq!(opened["shut"], json!([]));
    case.all_well().await;
    for platform in ["mastodon", "bluesky"] {
        let arrivals = case.arrivals(platform).await;
        latest(platform, &arrivals, (closure.since, until));
    }
}

async fn sends(case: &Case, runs: &[Run], job: JobId) -> bool {
    for run in runs {
        let sending = case.ledger.sending(run.id).await;
        let sending = sending.expect("the ledger answers");
        if sending.iter().any(|it| it.job == job) {
            return true;
        }
    }
    false
}
