//! Two hosts in network namespaces of their own, one of which is cut off from everything while what it
//! sends is under way: nothing is refused, nothing reset, all is lost. Nor does the kernel of either side
//! know: a proxy would still answer its keep-alives.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use kit::net::{Net, NetHost};
use presswork::effect::{EffectClass, EffectState};
use uuid::Uuid;

use super::*;

/// Short looks for what was lost.
const MORE: &str = "[kinds.\"post.x\"]\nlook_after_ms = 200\nlook_for_s = 5\n\
    [kinds.\"post.instagram\"]\nlook_after_ms = 200\nlook_for_s = 5\n";
/// Long enough for what is under way to be still so when the link goes down.
const SLOW: [(&str, &str); 2] = [
    ("post.x", "slow delay_ms=8000"),
    ("post.instagram", "slow op=media.publish delay_ms=8000"),
];

/// What publishes something, as the sandbox names it.
const PUBLISHED: [&str; 4] = ["status.create", "putRecord", "post.create", "media.publish"];

/// A network, where there can be one; else it is said that a test is skipped.
async fn net() -> Option<Net> {
    let net = Net::new().await;
    net.inspect_err(|why| println!("skipped: no network namespaces can be made here: {why}"))
        .ok()
}

/// Stores and a sandbox that hosts reach over a network of their own.
struct Site {
    case: Case,
    net: Net,
    /// As the hosts name them.
    stores: Stores,
    url: String,
    _postgres: Postgres,
    _access: tempfile::NamedTempFile,
}

impl Site {
    async fn new(net: Net, more: &str) -> Self {
        let here = net.address().to_string();
        // who may come in, beyond this host
        let mut access = tempfile::Builder::new();
        let access = access.permissions(std::fs::Permissions::from_mode(0o644));
        let mut access = access.tempfile().expect("a temporary file can be made");
        let trusted = ["127.0.0.1/32", &net.range()].map(|it| format!("host all all {it} trust\n"));
        let rules = format!("local all all trust\n{}", trusted.concat());
        let written = access.write_all(rules.as_bytes());
        written.expect("a temporary file can be written");
        let postgres = Postgres::start_with(&[
            ("listen_addresses", &format!("127.0.0.1,{here}")),
            ("hba_file", &access.path().display().to_string()),
        ]);
        let database = postgres.create_database().await;
        let redis = Redis::start_with(&["--bind", "127.0.0.1", &here, "--protected-mode", "no"]);
        let outside = Outside::on(net.address()).await;
        let there = |url: &str| url.replace("127.0.0.1", &here);
        let mut stores = Stores::new(&there(&database), &there(&redis.url()));
        stores.more = more.to_owned();
        let case = Case {
            ledger: Stores::new(&database, "memory:").ledger().await,
            stores: stores.clone(),
            redis,
            outside,
            sent: Vec::new(),
        };
        Self {
            url: case.outside.url.clone(),
            case,
            net,
            stores,
            _postgres: postgres,
            _access: access,
        }
    }

    /// A host, and its daemon once the ledger knows it.
    async fn daemon(&mut self) -> (NetHost, Host, Daemon, Uuid) {
        let there = self.net.host().expect("the first one could be made");
        let host = Host::new(&self.stores, &self.url);
        let daemon = host.home.start_through(&there.enter(), &["run"]);
        told(&daemon, "\"ready\"").await;
        let runs = self.case.ledger.live_runs().await;
        let mut runs = runs.expect("the ledger answers").into_iter();
        let run = runs.find(|it| it.pid == daemon.pid());
        let run = run.expect("its run has begun").id;
        (there, host, daemon, run)
    }

    async fn accept(&mut self, host: &Host, kind: &'static str, fault: &str) -> JobId {
        let payload = json!({"sleep_ms": 10});
        let (wanted, envelope) = envelope(self.case.sent.len(), kind, payload, fault);
        self.case.sent.push(wanted);
        self.accept_this(host, envelope).await
    }

    async fn accept_this(&self, host: &Host, envelope: Value) -> JobId {
        let ids = accept_directly(&*self.case.ledger, &rules(host), &[envelope]).await;
        ids.expect("the ledger takes it")[0]
    }

    /// The classes of what a run is sending, as far as the ledger knows.
    async fn sending(&self, run: Uuid) -> Vec<EffectClass> {
        let sending = self.case.ledger.sending(run).await;
        let sending = sending.expect("the ledger answers");
        sending.into_iter().map(|it| it.class).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_link_goes_down_sends_nothing_twice_and_goes_on_when_it_is_back() {
    let Some(net) = net().await else { return };
    let mut site = Site::new(net, MORE).await;
    let (link, alone, daemon, first) = site.daemon().await;
    let (_other_link, _other, helper, second) = site.daemon().await;

    // jobs of both, until this one is amid sends of both classes, and a long one of its own
    let mut longs: Vec<JobId> = vec![];
    let long = loop {
        assert!(longs.len() < 64, "the other host takes everything");
        let long = site.case.job("test.job", json!({"sleep_ms": 50_000}));
        let long = site.accept_this(&alone, long).await;
        longs.push(long);
        let mut round = vec![long];
        for (kind, fault) in SLOW {
            round.push(site.accept(&alone, kind, fault).await);
        }
        wait::until("each of them is taken by a host", ENDED, async || {
            for id in &round {
                let job = site.case.one(*id).await;
                if job.run.is_none() && !job.state.is_terminal() {
                    return false;
                }
            }
            true
        })
        .await;
        let runs = site.case.one(long).await.run;
        let sending = site.sending(first).await;
        let classes = [EffectClass::B, EffectClass::C];
        if runs == Some(first) && classes.iter().all(|it| sending.contains(it)) {
            break long;
        }
    };
    link.unplug();
    let cut = Instant::now();
    let under_way = site.sending(first).await;
    for kind in ["post.mastodon", "post.x", "post.instagram", "test.job"] {
        site.accept(&alone, kind, "").await;
    }
    told(&daemon, "running jobs are told to stop, at no charge").await;
    wait::until("the other host runs what it ran", ENDED, async || {
        site.case.one(long).await.run == Some(second)
    })
    .await;
    let taken = cut.elapsed();
    wait::until("nothing is left under way", ENDED, async || {
        site.sending(first).await.is_empty()
    })
    .await;
    link.plug_in();
    // what it had to say of its attempts comes too late
    told(&daemon, "late settle refused").await;
    for id in longs {
        let called_off = operate::cancel(&*site.case.ledger, id, &by()).await;
        called_off.expect("it can be cancelled");
    }
    ended(&*site.case.ledger, site.case.sent.len(), ENDED).await;

    // by itself it goes on, and sends again
    helper.kill9();
    let mut after = vec![];
    for kind in ["post.x", "post.instagram", "post.mastodon", "test.job"] {
        after.push(site.accept(&alone, kind, "").await);
    }
    ended(&*site.case.ledger, site.case.sent.len(), ENDED).await;
    for id in after {
        assert_eq!(site.case.one(id).await.state, State::Completed);
    }
    assert!(daemon.ended().is_none(), "it lives through it");

    println!(
        "{} jobs, {under_way:?} under way when the link went down, taken over after {taken:?}",
        site.case.sent.len()
    );
    site.nothing_twice_and_nothing_lost(&[first, second]).await;
}

impl Site {
    /// Each job is there, and done once, called off, or in front of a person; nobody holds a permit.
    async fn nothing_twice_and_nothing_lost(&self, runs: &[Uuid]) {
        for run in runs {
            let sending = self.sending(*run).await;
            assert!(sending.is_empty(), "permits of {run}: {sending:?}");
        }
        let acts = self.case.outside.acts().await;
        let jobs = checker::by_key(&*self.case.ledger).await;
        assert_eq!(jobs.len(), self.case.sent.len());
        for job in &jobs {
            let key = job.key.as_deref().expect("each has a key");
            let of = |it: &&Value| {
                let op = it["op"].as_str().unwrap_or_default();
                PUBLISHED.contains(&op) && it["text"].as_str().is_some_and(|it| it.starts_with(key))
            };
            let times = acts.iter().filter(of).count();
            let posts = job.kind != "test.job";
            match job.state {
                State::Completed => assert_eq!(times, usize::from(posts), "{key}"),
                State::Unresolved => assert!(times <= 1, "{key} was sent {times} times"),
                State::Cancelled => assert!(!posts, "{key}"),
                other => panic!("{key} is {other}: {job:?}"),
            }
            assert_eq!(job.attempts, 0, "{key}: nobody's fault");
            let effects = self.case.ledger.effects(job.id).await;
            for effect in effects.expect("the ledger answers") {
                let known = [EffectState::Confirmed, EffectState::Unresolved];
                assert!(known.contains(&effect.state), "{key}: {effect:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hosts_share_a_lane() {
    let Some(net) = net().await else { return };
    let mut site = Site::new(net, "[lanes.default]\nconcurrency = 6\n").await;
    let mut hosts = Vec::new();
    for _ in 0..3 {
        let (link, host, daemon, _) = site.daemon().await;
        told(&daemon, "the queue is filled anew").await;
        hosts.push((link, host, daemon));
    }
    scale::backlog(&mut site.case, &hosts[0].1).await;
    let shares = scale::shares(&site.case).await;
    scale::assert_fair(&shares, hosts.len());
    site.case.all_well().await;
}
