//! Many renewals by two hosts that race, while answers get lost on both sides.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use presswork::account::State;

use crate::bench::{Host, LIFE_S, Outside, kept, pass, token};
use crate::rig::Base;

/// Rounds where nobody says how many: of an account each.
const ROUNDS: usize = 80;
/// Accounts that are renewed in a round.
const ACCOUNTS: usize = 4;
/// What may come between: an answer that is lost after the issuer acted, or before it; one that says
/// nothing; one that says later; and at a host, the answer of its first or second write, or its ledger.
const TROUBLES: [&str; 10] = [
    "",
    "act_reset",
    "reset",
    "act_truncate",
    "act_500",
    "500",
    "begin",
    "store",
    "away",
    "",
];

fn rounds() -> usize {
    let said = std::env::var("PRESSWORK_REFRESHES").ok();
    said.map_or(ROUNDS, |it| it.parse().expect("a number"))
}

/// splitmix64
fn roll(dice: &AtomicU64) -> usize {
    let mut z = dice.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    usize::try_from((z ^ (z >> 31)) >> 33).unwrap()
}

/// What one account's rounds came to.
#[derive(Default)]
struct Count {
    rounds: usize,
    /// Requests more than one a round: after an answer that was lost.
    more: usize,
    /// Of these, those of which the issuer had acted on the one before.
    forgiven: usize,
}

async fn race(base: Base, rounds: usize) {
    let outside = Arc::new(Outside::new().await);
    let names: Vec<String> = (0..ACCOUNTS).map(|it| format!("press{it}")).collect();
    for name in &names {
        outside.log_in(&base, name).await;
    }
    let hosts = [
        Host::new(&base, &outside, vec![]).await,
        Host::new(&base, &outside, vec![]).await,
    ];
    let dice = AtomicU64::new(7);
    let mut counts: Vec<Count> = names.iter().map(|_| Count::default()).collect();
    for round in 0..rounds.div_ceil(ACCOUNTS) {
        // within the last fifth of its life
        pass(&outside, &base, LIFE_S - 600).await;
        let mut before = Vec::new();
        for (name, count) in names.iter().zip(&mut counts) {
            let it = kept(&base, name).await;
            assert_eq!(it.state, State::Ok, "{round}: {it:?}");
            before.push(it.version);
            count.rounds += 1;
            let trouble = TROUBLES[roll(&dice) % TROUBLES.len()];
            let host = &hosts[roll(&dice) % 2].ledger;
            match trouble {
                "" => {}
                "begin" => host.lose_nth(&["put_account"], 1),
                "store" => host.lose_nth(&["put_account"], 2),
                "away" => host.lose_nth(&["account"], 2),
                fault => {
                    outside.fault("token.refresh", name, fault).await;
                    count.more += 1;
                    count.forgiven += usize::from(fault.starts_with("act"));
                }
            }
        }
        for host in &hosts {
            host.hear().await;
        }
        let begun: usize = hosts.iter().map(|it| it.refresher.tick()).sum();
        assert_eq!(begun, 2 * ACCOUNTS, "both see that all are due");
        let idle = hosts.iter().map(|it| it.refresher.idle());
        futures_util::future::join_all(idle).await;
        for (name, before) in names.iter().zip(before) {
            let it = kept(&base, name).await;
            assert_eq!(it.state, State::Ok, "{round}: {:?}", it.why);
            assert_eq!((it.version, it.turn), (before + 1, None), "{round} {name}");
            assert!(outside.takes(&token(&it)).await, "{round} {name}");
        }
    }
    for (name, count) in names.iter().zip(&counts) {
        // by the issuer: each round renewed it once, and what came again was what had been lost
        let acts = outside.acts("token.refresh", name).await;
        let of = |forgiven: bool| {
            let of = acts
                .iter()
                .filter(|it| it["detail"]["forgiven"] == forgiven);
            of.count()
        };
        assert_eq!(
            (of(false), of(true)),
            (count.rounds, count.forgiven),
            "{name}"
        );
        let asked = outside.requests("token.refresh", name).await;
        assert_eq!(asked, count.rounds + count.more, "{name}");
        assert_eq!(
            outside.acts("family.revoke", name).await,
            [] as [serde_json::Value; 0]
        );
    }
    let all: usize = counts.iter().map(|it| it.rounds).sum();
    let more: usize = counts.iter().map(|it| it.more).sum();
    println!("{all} renewals, {more} answers lost, no account");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hosts_race_and_answers_are_lost_and_no_account_is() {
    for base in Base::both().await {
        race(base, rounds() / 2).await;
    }
}
