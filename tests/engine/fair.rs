//! Whose turn it is, through a whole host: how long an import delays others, and how long low waits.

use std::time::Duration;

use futures_util::future::join_all;
use presswork::config::{Config, Lane};
use presswork::fair::Fair;
use serde_json::Value;

use crate::LANE;
use crate::probe::{World, kinds};
use crate::rig::{Base, Rig};

/// One job at once, and this long until priority makes nobody wait any more.
fn one_at_once(waits_at_most_s: u64, window: u32) -> impl Fn(&mut Config) {
    move |config| {
        let lane = Lane {
            concurrency: Some(1),
            room: 1,
            waits_at_most: Duration::from_secs(waits_at_most_s),
        };
        config.lanes.insert(LANE.to_owned(), lane);
        config.window = window;
    }
}

fn of(world: &World, name: impl ToString, tenant: &str, priority: &str) -> Value {
    let mut job = world.job("note", name);
    job["tenant"] = tenant.into();
    job["priority"] = priority.into();
    job
}

async fn enqueue(rig: &Rig, jobs: &[Value]) {
    for some in jobs.chunks(500) {
        join_all(some.iter().map(|it| rig.enqueue(it))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_of_5000_posts_delays_anothers_single_post_by_one_turn_of_each_flow() {
    const OTHERS: usize = 5;
    for (base, window) in [
        (Base::embedded().await, 10_000),
        (Base::servers().await, 10_000),
        (Base::embedded().await, 150),
    ] {
        let rig = Rig::new(&base, kinds(), one_at_once(600, window)).await;
        let world = World::new();
        let mut jobs: Vec<Value> = Vec::new();
        jobs.extend((0..5_000).map(|n| of(&world, n, "import", "normal")));
        for other in 0..OTHERS {
            let tenant = format!("other-{other}");
            jobs.extend((0..60).map(|n| of(&world, format!("{tenant}-{n}"), &tenant, "normal")));
        }
        enqueue(&rig, &jobs).await;
        let mut most = 0;
        for n in 0..12 {
            for _ in 0..n {
                assert_eq!(rig.step(LANE).await, 1);
            }
            // one is claimed already; then somebody's only post is accepted
            let claimed = rig.take(LANE).await;
            assert_eq!(claimed.len(), 1);
            let name = format!("single-{n}");
            let before = world.starts().len();
            rig.enqueue(&of(&world, &name, &name, "normal")).await;
            for it in claimed {
                rig.begin(it).await.unwrap();
            }
            // what was claimed, and one of each other flow: of the import, too
            let bound = 1 + (OTHERS + 1);
            let mut begun = None;
            while begun.is_none() && world.starts().len() <= before + bound {
                assert_eq!(rig.step(LANE).await, 1);
                begun = world.starts().iter().position(|it| *it == name);
            }
            let starts = world.starts();
            let begun = begun.unwrap_or_else(|| panic!("{n}: {:?}", &starts[before..]));
            assert!(begun - before <= bound, "{n}: {:?}", &starts[before..]);
            most = most.max(begun - before);
        }
        println!(
            "{}, window {window}: {most} before it at most",
            base.ledger.name()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn low_begins_within_its_bound_while_high_keeps_coming() {
    for base in Base::both().await {
        let rig = Rig::new(&base, kinds(), one_at_once(60, 10_000)).await;
        let world = World::new();
        let mut first = None;
        for n in 0..3 {
            let low = rig
                .enqueue(&of(&world, format!("low-{n}"), "l", "low"))
                .await;
            first.get_or_insert(rig.job(low).await.run_at);
        }
        let late = first.expect("there are some") + chrono::TimeDelta::seconds(60);
        // the steps before and in which it may be lifted, as the ledger's time goes
        let (mut not_before, mut from) = (None, None);
        let mut begun = [None; 3];
        for step in 0..60_usize {
            // more of each than can be done
            for (tenant, priority, count) in [("h", "high", 2), ("n", "normal", 1)] {
                for n in 0..count {
                    let name = format!("{priority}-{step}-{n}");
                    rig.enqueue(&of(&world, name, tenant, priority)).await;
                }
            }
            if late <= base.ledger.now().await.unwrap() {
                from.get_or_insert(step);
            }
            assert_eq!(rig.step(LANE).await, 1);
            if late <= base.ledger.now().await.unwrap() {
                not_before.get_or_insert(step);
            }
            let starts = world.starts();
            for (n, begun) in begun.iter_mut().enumerate() {
                if begun.is_none() && starts.contains(&format!("low-{n}")) {
                    *begun = Some(step);
                }
            }
            rig.advance(Duration::from_secs(2)).await;
        }
        let name = base.ledger.name();
        let (not_before, from) = (not_before.expect("a step"), from.expect("a step"));
        println!("{name}: lifted from {from} on, begun at {begun:?}");
        // one turn of each other flow, and each next one after four of high and two of normal
        for (n, begun) in begun.into_iter().enumerate() {
            let begun = begun.unwrap_or_else(|| panic!("{name}: {n} waits for ever"));
            assert!(not_before <= begun, "{name}: high goes first until then");
            assert!(begun <= from + 2 + 7 * n, "{name}: {n} at {begun}");
        }
        let starts = world.starts();
        let before = &starts[..not_before];
        assert!(before.iter().all(|it| it.starts_with("high")), "{starts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_gives_other_weights() {
    let base = Base::embedded().await;
    let rig = Rig::new(&base, kinds(), one_at_once(600, 10_000)).await;
    let weight = |fair: &Fair| fair.weight("acme", "");
    assert_eq!(weight(&rig.shared.fair.load()), 1);
    let mut config = Config::clone(&rig.shared.config.load());
    config.tenant_weights.insert("acme".to_owned(), 4);
    presswork::engine::accounts::reload(&rig.shared, &config);
    assert_eq!(weight(&rig.shared.fair.load()), 4);
    let world = World::new();
    for n in 0..20 {
        for tenant in ["acme", "zoo"] {
            rig.enqueue(&of(&world, format!("{tenant}-{n}"), tenant, "normal"))
                .await;
        }
    }
    for _ in 0..20 {
        assert_eq!(rig.step(LANE).await, 1);
    }
    let starts = world.starts();
    let acme = starts.iter().filter(|it| it.starts_with("acme")).count();
    assert!((15..=17).contains(&acme), "four of five: {starts:?}");
}
