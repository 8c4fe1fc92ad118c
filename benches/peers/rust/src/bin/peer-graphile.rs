//! graphile_worker on PostgreSQL, with what its documentation names for throughput.

use std::time::{Duration, Instant};

use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, RawJobSpec, TaskHandler, WorkerContext,
    WorkerOptions, WorkerRecoveryConfig,
};
use presswork_peers::{BATCH, Role, Work, asked, produced, ran, tell};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPoolOptions;

/// Jobs at once.
const CONCURRENCY: usize = 16;
/// Connections: one for each job at once, and some for the fetches and the batches of outcomes.
const CONNECTIONS: u32 = 20;
/// Jobs that the local queue fetches at once.
const FETCHED: usize = 100;
/// How long finished jobs wait for others, to be written together.
const GATHERED: Duration = Duration::from_millis(5);

#[derive(Serialize, Deserialize)]
struct Noop(Work);

impl TaskHandler for Noop {
    const IDENTIFIER: &'static str = "noop";

    async fn run(self, _: WorkerContext) -> impl IntoTaskHandlerResult {
        ran(&self.0);
        Ok::<(), String>(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (url, role) = asked()?;
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS);
    let worker = WorkerOptions::default()
        .concurrency(CONCURRENCY)
        .poll_interval(Duration::from_millis(500))
        .complete_job_batch_delay(GATHERED)
        .fail_job_batch_delay(GATHERED)
        .local_queue(LocalQueueConfig::default().with_size(FETCHED))
        // off unless asked for: a crashed worker's jobs would stay locked for hours
        .worker_recovery(WorkerRecoveryConfig::default().enabled(true))
        .define_job::<Noop>()
        .pg_pool(pool.connect(&url).await?)
        .init()
        .await?;
    match role {
        Role::Work => {
            tell();
            worker.run().await?;
        }
        Role::Produce { count, work } => {
            let utils = worker.create_utils();
            let job = RawJobSpec {
                identifier: Noop::IDENTIFIER.to_owned(),
                payload: serde_json::to_value(Noop(work))?,
                spec: JobSpec::default(),
            };
            let began = Instant::now();
            let mut left = count;
            while 0 < left {
                let batch = left.min(BATCH);
                utils.add_raw_jobs(&vec![job.clone(); batch]).await?;
                left -= batch;
            }
            produced(began);
        }
    }
    Ok(())
}
