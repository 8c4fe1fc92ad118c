//! apalis-redis, with what its documentation names for throughput.

use std::time::Instant;

use apalis::layers::WorkerBuilderExt as _;
use apalis::prelude::*;
use apalis_redis::{Config, RedisStorage};
use presswork_peers::{BATCH, Role, Work, asked, produced, ran, tell};

/// Jobs at once.
const CONCURRENCY: usize = 100;
/// Jobs that are fetched at once.
const FETCHED: usize = 100;

async fn noop(work: Work) -> Result<(), BoxDynError> {
    ran(&work);
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (url, role) = asked()?;
    let connection = apalis_redis::connect(url).await?;
    // leases are for jobs that last longer than a heartbeat, says its documentation
    let config = Config::default()
        .queue("peers")
        .batch_size(FETCHED)
        .lock_tasks(false);
    let mut storage = RedisStorage::<Work>::new(connection).with_config(config);
    match role {
        Role::Work => {
            tell();
            let worker = WorkerBuilder::new("peer")
                .backend(storage)
                .concurrency(CONCURRENCY)
                .parallelize(tokio::spawn)
                .build(noop);
            worker.run().await?;
        }
        Role::Produce { count, work } => {
            let began = Instant::now();
            let mut left = count;
            while 0 < left {
                let batch = left.min(BATCH);
                storage.push_bulk(vec![work.clone(); batch]).await?;
                left -= batch;
            }
            produced(began);
        }
    }
    Ok(())
}
