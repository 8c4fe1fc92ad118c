//! Faults: the class of each, one request, and no more acts than that.

use std::time::Duration;

use futures_util::future::join_all;
use presswork::clock::Clock;
use presswork::effect::Receipt;
use presswork::outcome::{Class, Failure};
use presswork::platform::CallError;
use presswork::platform::bluesky::tid;

use crate::{Platform, SLOW, World, kit, record, status};

/// Every fault, with whether the sandbox acts, and what a careful adapter makes of it.
const FAULTS: [(&str, bool, Means); 24] = [
    ("refuse", false, Means::Refused(Class::Permanent)),
    ("401", false, Means::Refused(Class::Unauthorised)),
    ("403", false, Means::Refused(Class::Unauthorised)),
    ("404", false, Means::Refused(Class::Permanent)),
    ("429", false, Means::Refused(Class::Throttled)),
    ("500", false, Means::Failing),
    ("503", false, Means::Failing),
    ("act_500", true, Means::Failing),
    ("act_503", true, Means::Failing),
    ("act_504", true, Means::Unknown),
    ("hang", false, Means::Unknown),
    ("act_hang", true, Means::Unknown),
    ("reset", false, Means::Unknown),
    ("act_reset", true, Means::Unknown),
    ("truncate", false, Means::Unknown),
    ("act_truncate", true, Means::Unknown),
    ("lie", false, Means::Unknown),
    ("act_lie", true, Means::Unknown),
    ("drip", true, Means::Unknown),
    ("huge", true, Means::Unknown),
    ("act_late", true, Means::Unknown),
    ("slow", true, Means::Done),
    ("redirect", false, Means::Unknown),
    ("empty", false, Means::Unknown),
];

#[derive(Clone, Copy, Debug)]
enum Means {
    Done,
    Refused(Class),
    Unknown,
    /// A 500 or 503 in the platform's own form: OpenAI's are answered before the model runs.
    Failing,
}

fn failure(it: Result<Receipt, CallError>) -> Option<(bool, Failure)> {
    match it {
        Ok(_) => None,
        Err(CallError::Refused(it)) => Some((true, it)),
        Err(CallError::Unknown(it)) => Some((false, it)),
    }
}

/// What a platform makes of a fault, where that is its own.
fn means(platform: Platform, (fault, acts, usual): (&str, bool, Means)) -> (bool, Means) {
    let own = match (platform, fault) {
        // of this post, not of the account
        (Platform::X, "403") => Means::Refused(Class::Permanent),
        // its answer may be nothing
        (Platform::Http, "empty") => Means::Done,
        _ => usual,
    };
    (acts, own)
}

/// When to come back, in seconds, by a 429 that says so.
fn wait(platform: Platform) -> std::ops::RangeInclusive<i64> {
    match platform {
        // by the clock, of which some has run down when the answer is read
        Platform::X => 0..=7,
        // in whole minutes
        Platform::Instagram => 60..=60,
        _ => 7..=7,
    }
}

/// One fault of one platform: its class, one request, and no more acts than that request.
async fn played(world: &World, platform: Platform, it: (&str, bool, Means)) {
    let (fault, (acts, means)) = (it.0, means(platform, it));
    let at = format!("{} {fault}", platform.name());
    let name = format!("{}-{}", platform.name(), fault.replace('_', "-"));
    let (account, who) = (world.account(platform, &name), platform.who(&name));
    world.fault(&who, platform.op(), fault, 100).await;
    let seen = failure(world.act(platform, &account).await);
    match (means, &seen) {
        (Means::Done, None) => {}
        (Means::Refused(class), Some((true, it))) => assert_eq!(it.class, class, "{at}: {it}"),
        (Means::Unknown, Some((false, it))) => assert_eq!(it.class, Class::Unknown, "{at}"),
        (Means::Failing, Some((refused, it))) => {
            assert_eq!(*refused, platform.name() == "openai", "{at}: {it}");
        }
        _ => panic!("{at}: {seen:?}"),
    }
    if let Some((_, it)) = &seen {
        assert!(
            !it.message.contains(&format!("sandbox-{name}")),
            "{at}: {it}"
        );
        let told = it.retry_after().map(|it| it.num_seconds());
        match fault {
            "429" => assert!(
                told.is_some_and(|it| wait(platform).contains(&it)),
                "{at}: {told:?}"
            ),
            _ => assert_eq!(told, None, "{at}"),
        }
    }
    let made = usize::from(acts);
    kit::wait::until(
        &format!("{at}: {made} acts"),
        Duration::from_secs(5),
        async || world.count("acts", platform.op(), &who).await == made,
    )
    .await;
    assert_eq!(
        world.count("requests", platform.op(), &who).await,
        1,
        "{at}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_lands_in_its_class_and_is_met_once() {
    let world = World::new().await;
    let openai = [Platform::OpenAi, Platform::Images];
    let social = [Platform::X, Platform::Instagram, Platform::Http];
    for platform in [
        &openai[..],
        &[Platform::Mastodon, Platform::Bluesky],
        &social,
    ]
    .concat()
    {
        join_all(FAULTS.map(|it| played(&world, platform, it))).await;
    }
}

#[tokio::test]
async fn a_repeat_under_the_same_key_happens_once() {
    let world = World::new().await;
    for fault in ["act_500", "act_504", "act_reset", "act_truncate", "act_lie"] {
        let name = fault.replace('_', "-");
        let account = world.account(Platform::Mastodon, &name);
        world.fault(&name, "status.create", fault, 0).await;
        let mastodon = world.mastodon(&account, SLOW);
        assert!(matches!(
            mastodon.publish("k", &status("x")).await,
            Err(CallError::Unknown(_))
        ));
        let receipt = mastodon.publish("k", &status("x")).await.unwrap();
        let acts = world
            .get(
                "/_sandbox/acts",
                &[("op", "status.create"), ("account", &name)],
            )
            .await;
        assert_eq!(acts.len(), 1, "{fault}");
        assert_eq!(
            acts[0]["id"],
            *receipt.remote_id.as_ref().unwrap(),
            "{fault}"
        );

        let account = world.account(Platform::Bluesky, &name);
        let who = Platform::Bluesky.who(&name);
        world.fault(&who, "putRecord", fault, 0).await;
        let bluesky = world.bluesky(&account, SLOW);
        let rkey = tid(Clock::System.now(), 7);
        let lost = bluesky.publish(&rkey, &record("x")).await;
        assert!(
            matches!(lost, Err(CallError::Unknown(_))),
            "{fault}: {lost:?}"
        );
        let receipt = bluesky.publish(&rkey, &record("x")).await.unwrap();
        assert!(receipt.remote_id.unwrap().ends_with(&rkey), "{fault}");
        assert_eq!(world.count("acts", "putRecord", &who).await, 1, "{fault}");

        let account = world.account(Platform::Http, &name);
        world.fault(&name, "call", fault, 0).await;
        let lost = world.act(Platform::Http, &account).await;
        assert!(
            matches!(lost, Err(CallError::Unknown(_))),
            "{fault}: {lost:?}"
        );
        let receipt = world.act(Platform::Http, &account).await.unwrap();
        assert_eq!(receipt.detail["result"]["data"], "hello", "{fault}");
        assert_eq!(world.count("acts", "call", &name).await, 1, "{fault}");
    }
}

#[tokio::test]
async fn nothing_is_sent_to_a_platform_that_is_away() {
    let mut world = World::new().await;
    let platforms = [
        Platform::OpenAi,
        Platform::Mastodon,
        Platform::Bluesky,
        Platform::X,
        Platform::Instagram,
        Platform::Http,
    ];
    let accounts = platforms.map(|it| (it, world.account(it, "away")));
    world.sandbox.take().expect("it was started").stop().await;
    for (platform, account) in accounts {
        let Err(CallError::Refused(it)) = world.act(platform, &account).await else {
            panic!("{platform:?} is away, and it was reached");
        };
        assert_eq!(
            (it.class, it.code.as_str()),
            (Class::Transient, "connect"),
            "{it}"
        );
    }
}
