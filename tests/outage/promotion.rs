//! Postgres' standby takes over, by real servers: with the newest commits, or without them. What was
//! sent isn't sent again, and what is lost is told.

use std::collections::BTreeMap;

use kit::proxy::Proxy;
use presswork::effect::EffectState;

use super::*;

/// Lanes of their own for what is to be sent when the standby hears nothing any more, and short looks.
const MORE: &str = "[lanes.tail]\nconcurrency = 64\n[lanes.last]\nconcurrency = 64\n\
    [kinds.\"post.x\"]\nlook_after_ms = 200\nlook_for_s = 5\n\
    [kinds.\"post.instagram\"]\nlook_after_ms = 200\nlook_for_s = 5\n";
const PUBLISHED: [&str; 4] = ["status.create", "putRecord", "post.create", "media.publish"];
const POSTS: [&str; 4] = ["post.mastodon", "post.bluesky", "post.x", "post.instagram"];

/// What a primary may write to its log between a look at it and its end, in bytes.
const SLACK: u64 = 1 << 20;

/// A primary with a standby, and the address under which daemons know whichever is in charge.
struct Pair {
    primary: Postgres,
    /// Between the two.
    link: Proxy,
    standby: Postgres,
    front: Proxy,
    database: String,
    stores: Stores,
    outside: Outside,
    jobs: usize,
}

/// What became of a promotion.
#[derive(Debug, Default)]
#[expect(dead_code, reason = "it is printed")]
struct Told {
    accepted: usize,
    lost: usize,
    lost_wal: u64,
    unresolved: usize,
    acts: usize,
}

async fn number(server: &Postgres, sql: &str) -> u64 {
    let said = server.asked(&server.url("postgres"), sql).await;
    said.parse().expect("a number")
}

impl Pair {
    async fn new() -> Self {
        let primary = Postgres::start();
        let url = primary.create_database().await;
        let database = url.rsplit('/').next().expect("a name").to_owned();
        let link = Proxy::to(format!("127.0.0.1:{}", primary.port()));
        let standby = primary.standby(link.addr());
        let (front, through) = Proxy::before(&url);
        let mut stores = Stores::new(&through, "memory:");
        // two servers and a copy of one: a busy machine's permits may take a second
        stores.lease_s = 4;
        stores.more = MORE.to_owned();
        Self {
            primary,
            link,
            standby,
            front,
            database,
            stores,
            outside: Outside::new().await,
            jobs: 0,
        }
    }

    /// What is committed on the primary is on the standby from now on.
    async fn synchronous(&self) {
        let url = self.primary.url("postgres");
        sql(&url, "ALTER SYSTEM SET synchronous_standby_names = '*'").await;
        sql(&url, "SELECT pg_reload_conf()").await;
        let sql = "SELECT count(*)::text FROM pg_stat_replication WHERE sync_state = 'sync'";
        wait::until("the standby is synchronous", READY, async || {
            self.primary.asked(&url, sql).await == "1"
        })
        .await;
    }

    fn host(&self) -> Host {
        Host::new(&self.stores, &self.outside.url)
    }

    async fn ledger_of(&self, server: &Postgres) -> Arc<dyn Ledger> {
        let direct = Stores {
            ledger: server.url(&self.database),
            ..self.stores.clone()
        };
        direct.ledger().await
    }

    /// Submits a job to a lane; its key.
    async fn submit(&mut self, host: &Host, kind: &'static str, lane: &str, fault: &str) -> String {
        self.jobs += 1;
        let (wanted, mut envelope) = envelope(self.jobs, kind, json!({}), fault);
        envelope["lane"] = lane.into();
        host.submit(&envelope).await;
        wanted.key
    }

    /// Lanes are paused in the ledger, for whoever takes it over, too.
    async fn pause(&self, host: &Host, daemons: &[&Daemon]) {
        for lane in ["tail", "last"] {
            cli(host, &["lanes", "pause", lane]).await;
        }
        let knows = |it: &&Daemon| {
            let said = it.stderr();
            let mut paused = said.lines().filter(|it| it.contains("lanes paused"));
            paused
                .next_back()
                .is_some_and(|it| it.contains("last") && it.contains("tail"))
        };
        wait::until("the daemons know of the pauses", READY, async || {
            daemons.iter().all(knows)
        })
        .await;
    }

    /// The primary is gone, and the standby is in its place. How much of the log the standby lacked.
    async fn fail_over(&self) -> u64 {
        let wal = "SELECT (pg_current_wal_lsn() - '0/0')::bigint::text";
        let had = number(&self.primary, wal).await;
        self.primary.kill9();
        let wal = "SELECT (pg_last_wal_replay_lsn() - '0/0')::bigint::text";
        let has = number(&self.standby, wal).await;
        self.standby.promote().await;
        self.front
            .turn(format!("127.0.0.1:{}", self.standby.port()));
        had.saturating_sub(has)
    }

    async fn permitted_again(&self, ledger: &dyn Ledger) {
        wait::until("effects are permitted again", ENDED, async || {
            let history = ledger.history().await;
            history.is_ok_and(|it| it.is_some_and(|it| !it.is_held() && it.fork.is_some()))
        })
        .await;
    }

    /// How often each key was published, or asked for.
    async fn acts(&self) -> BTreeMap<String, usize> {
        let mut acts = BTreeMap::new();
        for act in self.outside.acts().await {
            let text = match act["op"].as_str() {
                Some(op) if PUBLISHED.contains(&op) => act["text"].as_str(),
                Some("chat.completion") => act["detail"]["prompt"].as_str(),
                _ => None,
            };
            let key = text.and_then(|it| it.split(' ').next()).unwrap_or_default();
            *acts.entry(key.to_owned()).or_default() += 1;
        }
        acts.remove("");
        acts
    }

    async fn no_duplicates(&self) -> usize {
        let acts = self.acts().await;
        let twice: Vec<_> = acts.iter().filter(|it| 1 < *it.1).collect();
        assert!(twice.is_empty(), "sent twice: {twice:?}");
        acts.len()
    }
}

async fn cli(host: &Host, args: &[&str]) {
    let what = || format!("{args:?}");
    wait::until_or(what, READY, async || {
        host.home.cli(args).await.status.success()
    })
    .await;
}

async fn states(ledger: &dyn Ledger) -> BTreeMap<String, Job> {
    let jobs = checker::by_key(ledger).await;
    let keyed = jobs
        .into_iter()
        .map(|it| (it.key.clone().unwrap_or_default(), it));
    keyed.collect()
}

async fn reach(ledger: &dyn Ledger, keys: &[String], wanted: &[State]) {
    let what = format!("{keys:?} are {wanted:?}");
    wait::until(&what, ENDED, async || {
        let jobs = states(ledger).await;
        keys.iter()
            .all(|it| jobs.get(it).is_some_and(|it| wanted.contains(&it.state)))
    })
    .await;
}

/// What the ledger says was lost, of the log.
async fn told_lost(ledger: &dyn Ledger) -> (u64, String) {
    let audit = ledger.audit(None, 1_000).await.expect("the ledger answers");
    let told = audit.into_iter().find(|it| it.action == "promotion");
    let detail = told.expect("the promotion is told").detail;
    let lost = detail.split("at least ").nth(1);
    let lost = lost.and_then(|it| it.split(' ').next()?.parse().ok());
    (lost.unwrap_or(0), detail)
}

/// One host lives through it, the other one is killed with the primary and comes back. All that they
/// sent is known, whatever the standby lacks.
async fn a_tail_is_lost() -> Told {
    let mut pair = Pair::new().await;
    let (host, other) = (pair.host(), pair.host());
    let (daemon, killed) = (host.run(), other.run());
    daemon.wait_ready(host.api, READY).await;
    killed.wait_ready(other.api, READY).await;
    let primary = pair.ledger_of(&pair.primary).await;
    let mut done = vec![];
    for kind in POSTS {
        done.push(pair.submit(&host, kind, "default", "").await);
    }
    pair.pause(&host, &[&daemon, &killed]).await;
    let repeated = pair
        .submit(&host, "post.mastodon", "default", "act_504")
        .await;
    let mut tail = vec![];
    for _ in 0..2 {
        for kind in POSTS.into_iter().chain(["generate.text"]) {
            tail.push(pair.submit(&host, kind, "tail", "").await);
        }
    }
    // no answer is heard, and nothing of them is on the standby but the job
    let mut unheard = vec![];
    for kind in ["post.mastodon", "post.x", "post.instagram"] {
        unheard.push(pair.submit(&host, kind, "tail", "act_reset").await);
    }
    let last = vec![
        pair.submit(&host, "post.x", "last", "slow delay_ms=4000")
            .await,
        pair.submit(&host, "post.x", "last", "slow delay_ms=4000")
            .await,
    ];
    reach(&*primary, &done, &[State::Completed]).await;
    pair.standby.catch_up(&pair.primary).await;
    pair.link.refuse();

    cli(&host, &["lanes", "resume", "tail"]).await;
    let mut late = vec![];
    for kind in POSTS {
        late.push(pair.submit(&host, kind, "default", "").await);
    }
    let all: Vec<String> = [&done[..], &tail, &late, std::slice::from_ref(&repeated)].concat();
    reach(&*primary, &all, &[State::Completed]).await;
    wait::until("what nobody hears of is published", ENDED, async || {
        let acts = pair.acts().await;
        unheard.iter().all(|it| acts.contains_key(it))
    })
    .await;
    cli(&host, &["lanes", "resume", "last"]).await;
    wait::until("the last ones are under way", ENDED, async || {
        let acts = pair.acts().await;
        last.iter().all(|it| acts.contains_key(it))
    })
    .await;
    killed.kill9();
    let gap = pair.fail_over().await;

    let again = other.run();
    let ledger = pair.ledger_of(&pair.standby).await;
    told(&daemon, "another server took the ledger over").await;
    pair.permitted_again(&*ledger).await;
    again.wait_ready(other.api, READY).await;
    for lane in ["tail", "last"] {
        cli(&host, &["lanes", "resume", lane]).await;
    }
    let known: Vec<String> = [&done[..], &tail, &last, &[repeated]].concat();
    let at_last = [State::Completed, State::Unresolved];
    reach(&*ledger, &[&known[..], &unheard].concat(), &at_last).await;
    let jobs = states(&*ledger).await;
    for key in &known {
        let job = &jobs[key];
        assert_eq!(job.state, State::Completed, "{key}: {job:?}");
        assert_eq!(job.attempts, 0, "{key}: nobody's fault");
    }
    assert!(
        late.iter().all(|it| !jobs.contains_key(it)),
        "nobody can know"
    );
    // every one of them was sent, and not again
    let acts = pair.acts().await;
    for key in [&known[..], &unheard, &late].concat() {
        assert_eq!(acts.get(&key), Some(&1), "{key}");
    }
    let (lost_wal, detail) = told_lost(&*ledger).await;
    assert!(
        0 < lost_wal && lost_wal <= gap + SLACK,
        "{lost_wal} of {gap}: {detail}"
    );
    let parked = |it: &&String| jobs[*it].state == State::Unresolved;
    Told {
        accepted: pair.jobs,
        lost: late.len(),
        lost_wal,
        unresolved: unheard.iter().filter(parked).count(),
        acts: pair.no_duplicates().await,
    }
}

/// The host that sent is gone with the primary: nobody knows what it sent, so nothing is sent blindly,
/// until it comes back and tells.
async fn a_tail_is_lost_with_its_host() -> Told {
    let mut pair = Pair::new().await;
    let host = pair.host();
    let daemon = host.run();
    daemon.wait_ready(host.api, READY).await;
    let primary = pair.ledger_of(&pair.primary).await;
    pair.pause(&host, &[&daemon]).await;
    let mut tail = vec![];
    for kind in POSTS {
        tail.push(pair.submit(&host, kind, "tail", "").await);
    }
    let unsent = pair.submit(&host, "post.mastodon", "last", "").await;
    pair.standby.catch_up(&pair.primary).await;
    pair.link.refuse();
    cli(&host, &["lanes", "resume", "tail"]).await;
    reach(&*primary, &tail, &[State::Completed]).await;
    daemon.kill9();
    pair.fail_over().await;

    let other = pair.host();
    let helper = other.run();
    helper.wait_ready(other.api, READY).await;
    let ledger = pair.ledger_of(&pair.standby).await;
    pair.permitted_again(&*ledger).await;
    for lane in ["tail", "last"] {
        cli(&other, &["lanes", "resume", lane]).await;
    }
    let fresh = pair.submit(&other, "post.mastodon", "default", "").await;
    reach(&*ledger, std::slice::from_ref(&fresh), &[State::Completed]).await;
    let all = [&tail[..], std::slice::from_ref(&unsent)].concat();
    reach(&*ledger, &all, &[State::Completed, State::Unresolved]).await;
    let acts = pair.acts().await;
    for key in &tail {
        assert_eq!(acts.get(key), Some(&1), "{key}");
    }
    assert_eq!(
        acts.get(&unsent),
        None,
        "it may have been sent, for all that is known"
    );
    assert_eq!(states(&*ledger).await[&unsent].state, State::Unresolved);
    let (_, detail) = told_lost(&*ledger).await;
    assert!(detail.contains("by hosts that said nothing"), "{detail}");

    let back = host.run();
    back.wait_ready(host.api, READY).await;
    reach(&*ledger, &tail, &[State::Completed]).await;
    for key in &tail {
        let job = &states(&*ledger).await[key];
        let effects = ledger.effects(job.id).await.expect("the ledger answers");
        assert!(
            effects.iter().all(|it| it.state == EffectState::Confirmed),
            "{effects:?}"
        );
    }
    let job = &states(&*ledger).await[&unsent];
    assert_eq!(
        job.state,
        State::Unresolved,
        "its journal says nothing of it"
    );
    let id = job.id.to_string();
    cli(&host, &["unresolved", "resolve", &id, "--did-not-happen"]).await;
    reach(&*ledger, &[unsent], &[State::Completed]).await;
    Told {
        accepted: pair.jobs,
        unresolved: 1,
        acts: pair.no_duplicates().await,
        ..Told::default()
    }
}

/// The standby has all that was acknowledged: nothing is lost, and no person is asked.
async fn a_synchronous_standby_takes_over() -> Told {
    const JOBS: usize = 18;
    let mut pair = Pair::new().await;
    pair.synchronous().await;
    let host = pair.host();
    let daemon = host.run();
    daemon.wait_ready(host.api, READY).await;
    let mut keys = vec![];
    for kind in POSTS {
        keys.push(pair.submit(&host, kind, "default", "").await);
    }
    let primary = pair.ledger_of(&pair.primary).await;
    reach(&*primary, &keys, &[State::Completed]).await;
    // these are under way; a text on X whose permit's answer is lost with the primary is asked about
    let clear = ["post.mastodon", "post.bluesky", "post.instagram"];
    for kind in clear.into_iter().cycle().take(JOBS) {
        keys.push(pair.submit(&host, kind, "default", "").await);
    }
    pair.fail_over().await;
    let ledger = pair.ledger_of(&pair.standby).await;
    pair.permitted_again(&*ledger).await;
    keys.push(pair.submit(&host, "post.x", "default", "").await);
    reach(&*ledger, &keys, &[State::Completed]).await;
    let acts = pair.acts().await;
    assert!(keys.iter().all(|it| acts.get(it) == Some(&1)), "{acts:?}");
    Told {
        accepted: pair.jobs,
        lost_wal: told_lost(&*ledger).await.0,
        acts: pair.no_duplicates().await,
        ..Told::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_with_a_lost_tail_publishes_nothing_twice() {
    println!("{:?}", a_tail_is_lost().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_host_may_have_sent_is_not_sent_blindly() {
    println!("{:?}", a_tail_is_lost_with_its_host().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_standby_loses_nothing_and_asks_nobody() {
    println!("{:?}", a_synchronous_standby_takes_over().await);
}

/// `PRESSWORK_PROMOTIONS=30`: as many, of all three kinds.
#[tokio::test(flavor = "multi_thread")]
async fn many_promotions() {
    let rounds = std::env::var("PRESSWORK_PROMOTIONS").unwrap_or_default();
    let rounds: usize = rounds.parse().unwrap_or(0);
    for round in 0..rounds {
        let (what, told) = match round % 3 {
            0 => ("tail lost", a_tail_is_lost().await),
            1 => ("tail and host lost", a_tail_is_lost_with_its_host().await),
            _ => ("synchronous", a_synchronous_standby_takes_over().await),
        };
        println!("promotion {}: {what}: {told:?}", round + 1);
    }
}
