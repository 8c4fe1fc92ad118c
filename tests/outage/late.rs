//! What comes late, as the platform sees it: one post of an account in each span of its pace, whoever sends.

use presswork::clock::Clock;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn hosts_keep_one_pace_between_them() {
    const EACH: usize = 10;
    const NAMES: [&str; 2] = ["ann", "bob"];
    let mut case = Case::new().await;
    let secrets = tempfile::tempdir().expect("a folder can be made");
    case.stores.more = "[lanes.mastodon]\nconcurrency = 8\n".to_owned();
    for name in NAMES {
        let secret = secrets.path().join(name);
        std::fs::write(&secret, format!("sandbox-{name}")).expect("a secret can be written");
        case.stores.more.push_str(&format!(
            "[accounts.{name}]\nplatform = \"mastodon\"\nbase_url = \"{}/mastodon\"\n\
             secret = {{ file = \"{}\" }}\npace_s = 1\n",
            case.outside.url,
            secret.display()
        ));
    }
    let hosts = [case.host(), case.host()];
    let from = Clock::System.now() - chrono::Duration::hours(2);
    let mut envelopes = Vec::new();
    for n in 0..EACH * NAMES.len() {
        let mut it = case.job("post.mastodon", json!({}));
        let at = from + chrono::Duration::minutes(i64::try_from(n).expect("few"));
        it["account"] = NAMES[n % NAMES.len()].into();
        it["run_at"] = at.to_rfc3339().into();
        envelopes.push(it);
    }
    // what is in time goes with the first of them
    let fresh = case.job("post.mastodon", json!({}));
    let daemons: Vec<Daemon> = hosts.iter().map(Host::run).collect();
    for (host, daemon) in hosts.iter().zip(&daemons) {
        host.queue_in_use(daemon).await;
    }
    let accepted = accept_directly(&*case.ledger, &rules(&hosts[0]), &envelopes).await;
    let ids = accepted.expect("the ledger takes them");
    hosts[0].submit(&fresh).await;
    let found = case.all_well().await;
    let acts = case.outside.acts().await;
    for name in NAMES {
        let mut at: Vec<Time> = acts
            .iter()
            .filter(|it| it["account"] == name)
            .map(|it| it["at"].as_str().and_then(|it| it.parse().ok()))
            .map(|it| it.expect("a time"))
            .collect();
        at.sort();
        assert_eq!(at.len(), EACH, "{acts:?}");
        let apart: Vec<i64> = at
            .windows(2)
            .map(|it| (it[1] - it[0]).num_milliseconds())
            .collect();
        println!("{found:?}; {name}: {apart:?} ms apart");
        assert!(apart.iter().all(|it| 1_000 <= *it), "{name}: {apart:?}");
    }
    let mut attempts = 0;
    for id in ids {
        let job = case.one(id).await;
        assert_eq!(job.attempts, 0, "waiting for a turn is no failure: {job:?}");
        attempts += job.epoch;
    }
    println!("{attempts} claims of {} jobs", EACH * NAMES.len());
}
