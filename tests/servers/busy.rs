//! A Redis that is there and doesn't serve yet, or serves slowly.

use presswork::queue::{Queue as _, QueueError};

use crate::kit::redis::Redis;
use crate::kit::wait;
use crate::{Case, SOON, queue, said};

/// A large Redis takes minutes to read its data; meanwhile jobs are dispatched from the ledger.
#[tokio::test(flavor = "multi_thread")]
async fn while_redis_loads_dispatch_goes_on_from_the_ledger() {
    // microseconds a key, and bytes between looks at who asks
    let slowly = [
        "--key-load-delay",
        "4000",
        "--loading-process-events-interval-bytes",
        "1024",
    ];
    let server = Redis::start_with(&slowly);
    let mut case = Case::with_queue(&server.url()).await;
    let (host, daemon) = case.host().await;
    case.load(&host, 10).await;
    fill(&server);
    server.restart();
    let own = queue(&server.url());
    let mut loading = 0;
    while server.cli(&["INFO", "persistence"]).contains("loading:1") {
        if let Err(QueueError::Away(why)) = own.server().await {
            loading += usize::from(why.contains("still loading its data"));
        }
        case.load(&host, 1).await;
        crate::ended(&*case.ledger, case.sent.len(), SOON).await;
    }
    assert!(0 < loading, "it was met while it loaded");
    said(&daemon, "filled anew", 2).await;
    host.queue_in_use(&daemon).await;
    case.load(&host, 10).await;
    case.all_well().await;
}

/// A thousand keys, saved.
fn fill(server: &Redis) {
    let mut connection = redis::Client::open(server.url())
        .unwrap()
        .get_connection()
        .unwrap();
    let mut keys = redis::pipe();
    for n in 0..1_000 {
        keys.set(format!("key-{n}"), format!("{n:0>200}")).ignore();
    }
    keys.cmd("SAVE").ignore();
    keys.exec(&mut connection).unwrap();
}

/// What is slow isn't away: calls wait for their answers, as long as those come.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_redis_costs_time_and_is_not_given_up() {
    let server = Redis::start();
    let mut case = Case::with_queue(&server.url()).await;
    let (host, daemon) = case.host().await;
    case.load(&host, 10).await;
    let slow = async {
        for _ in 0..3 {
            server.cli(&["CLIENT", "PAUSE", "700", "ALL"]);
            // answered once the pause is over
            wait::until("it answers", SOON, async || server.cli(&["PING"]) == "PONG").await;
        }
    };
    case.while_jobs_flow(&host, slow).await;
    case.all_well().await;
    let told = daemon.stderr();
    assert!(!told.contains("Redis is away"), "{told}");
    assert!(!told.contains("dispatch goes on from the ledger"), "{told}");
}
