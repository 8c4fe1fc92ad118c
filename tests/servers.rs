//! The servers that teams have: Redis as a cluster, behind sentinels, with TLS and access lists, and
//! Valkey; PostgreSQL of other versions, with TLS, and behind PgBouncer. Real ones, each the test's own,
//! under the real daemon while jobs flow. What can't be had here is skipped, in one line.

mod kit;
#[path = "servers/bouncer.rs"]
mod bouncer;
#[path = "servers/busy.rs"]
mod busy;
#[path = "servers/cluster.rs"]
mod cluster;
#[path = "servers/sentinel.rs"]
mod sentinel;
#[path = "servers/tls.rs"]
mod tls;
#[path = "servers/versions.rs"]
mod versions;
#[path = "storm/checker.rs"]
mod checker;
#[path = "storm/world.rs"]
mod world;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use checker::{Wanted, check};
use kit::daemon::Daemon;
use kit::postgres::Postgres;
use kit::wait;
use presswork::ledger::Ledger;
use presswork::queue::redis::{RedisOptions, RedisQueue};
use serde_json::{Value, json};
use world::{ENDED, Host, Outside, READY, Stores, ended, envelope};

const SOON: Duration = Duration::from_secs(60);

/// The stores of one case, and what was sent to the hosts on them.
struct Case {
    stores: Stores,
    outside: Outside,
    ledger: Arc<dyn Ledger>,
    sent: Vec<Wanted>,
}

impl Case {
    async fn new(ledger: &str, queue: &str) -> Self {
        let stores = Stores::new(ledger, queue);
        Self {
            ledger: stores.ledger().await,
            stores,
            outside: Outside::new().await,
            sent: Vec::new(),
        }
    }

    /// With a ledger of its own in the PostgreSQL that the tests share.
    async fn with_queue(queue: &str) -> Self {
        let ledger = Postgres::shared().create_database().await;
        Self::new(&ledger, queue).await
    }

    /// A host, and its daemon that uses the queue.
    async fn host(&self) -> (Host, Daemon) {
        let host = Host::new(&self.stores, &self.outside.url);
        let daemon = host.run();
        host.queue_in_use(&daemon).await;
        (host, daemon)
    }

    fn job(&mut self) -> Value {
        let kinds = ["test.job", "post.mastodon", "test.job", "post.bluesky"];
        let kind = kinds[self.sent.len() % kinds.len()];
        let (wanted, envelope) = envelope(self.sent.len(), kind, json!({"sleep_ms": 10}), "");
        self.sent.push(wanted);
        envelope
    }

    /// Some of each kind, over HTTP, until each is acknowledged.
    async fn load(&mut self, host: &Host, count: usize) {
        for _ in 0..count {
            let envelope = self.job();
            host.submit(&envelope).await;
        }
    }

    /// Jobs come in over HTTP for as long as `deed` takes; its result.
    async fn while_jobs_flow<T>(&mut self, host: &Host, deed: impl Future<Output = T>) -> T {
        let over = Cell::new(false);
        let deed = async {
            let done = deed.await;
            over.set(true);
            done
        };
        let flow = async {
            while !over.get() {
                self.load(host, 1).await;
            }
        };
        tokio::join!(deed, flow).0
    }

    /// Every job has ended as it was meant to, once.
    async fn all_well(&self) {
        ended(&*self.ledger, self.sent.len(), ENDED).await;
        let found = check(&*self.ledger, &self.sent, &self.outside.acts().await).await;
        println!("{found:?}");
    }
}

/// The queue at a URL, as the daemon opens it.
fn queue(url: &str) -> RedisQueue {
    let options = RedisOptions {
        url: url.into(),
        prefix: None,
    };
    RedisQueue::open(&options).expect("a URL of the kit's")
}

/// Waits until the daemon has said it so many times.
async fn said(daemon: &Daemon, what: &str, times: usize) {
    let waiting = || format!("`{what}` {times} times in the log:\n{}", daemon.stderr());
    wait::until_or(waiting, READY, async || {
        times <= daemon.stderr().matches(what).count()
    })
    .await;
}
