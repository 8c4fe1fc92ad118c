//! Keeps loops alive: one that ends or panics is started again, with a pause; one that won't live
//! stops the daemon. None is ever silently gone.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// A loop that dies so often within [`WINDOW`] stops the daemon.
const DEATHS_MAX: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// The supervisor of a daemon's loops. Cloning shares it.
#[derive(Clone)]
pub struct Supervisor {
    loops: Arc<tokio::sync::Mutex<JoinSet<()>>>,
    adding: tokio::sync::mpsc::UnboundedSender<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>>,
    draining: CancellationToken,
    failed: CancellationToken,
}

impl Supervisor {
    /// A supervisor whose loops may end once `draining` has fired; one that won't live fires `failed`.
    pub fn new(draining: CancellationToken, failed: CancellationToken) -> Self {
        let loops = Arc::new(tokio::sync::Mutex::new(JoinSet::new()));
        let (adding, mut added) = tokio::sync::mpsc::unbounded_channel();
        let held = Arc::downgrade(&loops);
        tokio::spawn(async move {
            while let Some(it) = added.recv().await {
                let Some(loops) = held.upgrade() else { return };
                loops.lock().await.spawn(it);
            }
        });
        Self {
            loops,
            adding,
            draining,
            failed,
        }
    }

    /// Keeps a loop alive until `closed` fires (then it is left to end by itself) or the daemon drains.
    pub fn keep<M, F>(&self, name: &str, closed: CancellationToken, make: M)
    where
        M: Fn() -> F + Send + 'static,
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (name, draining, failed) =
            (name.to_owned(), self.draining.clone(), self.failed.clone());
        let kept = async move {
            let mut deaths: Vec<Instant> = Vec::new();
            loop {
                let ended = AbortOnDropHandle::new(tokio::spawn(make())).await;
                if draining.is_cancelled() || closed.is_cancelled() {
                    return;
                }
                let why = match ended {
                    Ok(Ok(())) => "it ended by itself".to_owned(),
                    Ok(Err(e)) => format!("{e:#}"),
                    Err(e) => e.to_string(),
                };
                deaths.retain(|it| it.elapsed() < WINDOW);
                deaths.push(Instant::now());
                if DEATHS_MAX <= deaths.len() {
                    tracing::error!(
                        "loop `{name}` died {} times within a minute, last: {why}; stopping",
                        deaths.len()
                    );
                    failed.cancel();
                    return;
                }
                tracing::error!("loop `{name}` died: {why}; starting it again");
                tokio::time::sleep(PAUSE).await;
            }
        };
        // the receiver lives as long as the supervisor
        let _ = self.adding.send(Box::pin(kept));
    }

    /// Waits until every loop has ended by itself.
    pub async fn ended(&self) {
        let mut loops = self.loops.lock().await;
        while loops.join_next().await.is_some() {}
    }

    /// Ends all loops at once, where they stand.
    pub async fn abort(&self) {
        self.loops.lock().await.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_dead_loop_is_started_again_and_stops_the_daemon_when_it_will_not_live() {
        let (draining, failed) = (CancellationToken::new(), CancellationToken::new());
        let supervisor = Supervisor::new(draining, failed.clone());
        let lives = Arc::new(AtomicUsize::new(0));
        let counted = lives.clone();
        supervisor.keep("x", CancellationToken::new(), move || {
            let life = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                assert!(life != 1, "the second life panics");
                anyhow::bail!("life {life}")
            }
        });
        failed.cancelled().await;
        assert_eq!(lives.load(Ordering::SeqCst), DEATHS_MAX);
    }
}
