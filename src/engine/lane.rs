//! A lane's worker: a thin apalis worker over our own backend. The only file that names apalis.
//!
//! What apalis gives: readiness-gated fetching, tasks of their own (`parallelize`), a worker that
//! drains. What it doesn't get: our errors (an `Err` or a `None` of the backend ends or hangs a
//! worker), retries, leases, storage.

use std::convert::Infallible;
use std::future::Future;
use std::task::{Context, Poll};

use apalis::layers::WorkerBuilderExt;
use apalis_core::backend::{Backend, BackendConfig, finalize::Ephemeral};
use apalis_core::error::BoxDynError;
use apalis_core::task::{Task, builder::TaskBuilder, task_id::RandomId};
use apalis_core::worker::builder::WorkerBuilder;
use apalis_core::worker::context::WorkerContext;
use apalis_core::worker::ext::parallelize::ParallelizeExt;
use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tower::layer::util::Identity;

use super::shared::Assigned;

/// Hands over what the dispatcher has claimed; its errors are the dispatcher's business.
struct Claimed {
    jobs: mpsc::Receiver<Assigned>,
}

impl Backend for Claimed {
    type Task = Task<Assigned>;
    type Error = Infallible;

    fn poll_ready(
        &mut self,
        _: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, Infallible>>> {
        match self.jobs.poll_recv(cx) {
            Poll::Ready(Some(job)) => Poll::Ready(Some(Ok(TaskBuilder::new(job).build()))),
            Poll::Ready(None) => {
                // never `None`: it would hang the worker. Stopped, it drains and ends.
                if !worker.is_shutting_down() {
                    let _ = worker.stop();
                }
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_close(
        &mut self,
        _: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for Claimed {
    type Args = Assigned;
    type Id = RandomId;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}

/// Aborts the task when the lane is aborted; plain `tokio::spawn` would leave it running.
fn spawn_abortable<F>(future: F) -> AbortOnDropHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    AbortOnDropHandle::new(tokio::spawn(future))
}

/// Runs a lane's jobs until the sender of `jobs` is dropped and all have ended. Each runs in a task
/// of its own; dropping the returned future aborts them all.
///
/// # Errors
/// When the worker ends by itself, which it never should: the supervisor starts it again.
pub async fn run<W, F>(name: &str, jobs: mpsc::Receiver<Assigned>, work: W) -> anyhow::Result<()>
where
    W: Fn(Assigned) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let worker = WorkerBuilder::new(name.to_owned())
        .backend(Claimed { jobs })
        .parallelize(spawn_abortable)
        .catch_panic()
        .build(move |assigned: Assigned| {
            let work = work(assigned);
            async move {
                work.await;
                Ok::<(), BoxDynError>(())
            }
        });
    worker
        .run()
        .boxed()
        .await
        .map_err(|e| anyhow::anyhow!("lane {name}: its worker ended: {e}"))
}
