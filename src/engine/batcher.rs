//! Group commit: what waits for the same disk goes in one write, and each caller waits for it.

use std::future::Future;
use std::sync::Arc;

use crate::sync::{Semaphore, mpsc, oneshot, spawn};

/// Gathers items that arrive while earlier batches are being written. Cloning shares it.
pub struct Batcher<T, R> {
    sender: mpsc::Sender<(T, oneshot::Sender<R>)>,
}

impl<T, R> Clone for Batcher<T, R> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
        }
    }
}

impl<T: Send + 'static, R: Send + 'static> Batcher<T, R> {
    /// Starts gathering: batches of at most `most`, at most `in_flight` of them written at once.
    /// `write` answers each item, in order; a missing answer is a dropped caller. Batches are
    /// written in tasks of their own: a caller that goes away cancels nothing midway.
    pub fn start<W, F>(most: usize, in_flight: usize, write: W) -> Self
    where
        W: Fn(Vec<T>) -> F + Send + Sync + 'static,
        F: Future<Output = Vec<R>> + Send + 'static,
    {
        let (sender, mut receiver) = mpsc::channel::<(T, oneshot::Sender<R>)>(most * 8);
        let turns = Arc::new(Semaphore::new(in_flight));
        spawn(async move {
            let mut batch = Vec::new();
            loop {
                // a turn first: what arrives while all turns are taken joins the next batch
                let Ok(turn) = turns.clone().acquire_owned().await else {
                    return;
                };
                if receiver.recv_many(&mut batch, most).await == 0 {
                    return;
                }
                let (items, callers): (Vec<T>, Vec<_>) = batch.drain(..).unzip();
                let written = write(items);
                spawn(async move {
                    for (answer, caller) in written.await.into_iter().zip(callers) {
                        // a caller that went away needs no answer
                        let _ = caller.send(answer);
                    }
                    drop(turn);
                });
            }
        });
        Self { sender }
    }

    /// Submits an item and waits for its answer. `None` when the batcher is gone.
    pub async fn submit(&self, item: T) -> Option<R> {
        let (caller, answer) = oneshot::channel();
        self.sender.send((item, caller)).await.ok()?;
        answer.await.ok()
    }
}
