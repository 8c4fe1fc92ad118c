//! A queue that fails at random, by a seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use presswork::job::JobId;
use presswork::ledger::Hint;
use presswork::queue::{Queue, QueueError, Taken, Woken};
use uuid::Uuid;

/// A queue that fails: all of it while it is `away`, and at random in between.
pub struct Stormy {
    inner: Arc<dyn Queue>,
    pub away: AtomicBool,
    /// Of a thousand calls, so many fail: half of them after they were made. However few calls an
    /// engine that batches well needs, the first of them isn't made and the second's answer is lost.
    pub per_mille: AtomicU64,
    stormed: AtomicU64,
    dice: AtomicU64,
    pub failed: AtomicU64,
}

impl Stormy {
    pub fn new(inner: Arc<dyn Queue>, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            inner,
            away: AtomicBool::new(false),
            per_mille: AtomicU64::new(0),
            stormed: AtomicU64::new(0),
            dice: AtomicU64::new(seed),
            failed: AtomicU64::new(0),
        })
    }

    /// splitmix64
    fn roll(&self) -> u64 {
        let mut z = self.dice.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn error(&self, roll: u64) -> QueueError {
        self.failed.fetch_add(1, Ordering::SeqCst);
        match roll % 4 {
            0 => QueueError::Stale,
            _ => QueueError::Away("the test says so".to_owned()),
        }
    }

    /// Before the call: an error means that it isn't made. `Ok(true)`: its answer is to be lost.
    fn weather(&self) -> std::result::Result<bool, QueueError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(self.error(1));
        }
        let per_mille = self.per_mille.load(Ordering::SeqCst);
        if per_mille == 0 {
            return Ok(false);
        }
        let roll = self.roll();
        let refused = match self.stormed.fetch_add(1, Ordering::SeqCst) {
            0 => true,
            1 => false,
            _ if per_mille <= roll % 1_000 => return Ok(false),
            _ => roll & (1 << 40) == 0,
        };
        match refused {
            true => Err(self.error(roll >> 20)),
            false => Ok(true),
        }
    }

    fn told<T>(
        &self,
        lost: bool,
        answer: std::result::Result<T, QueueError>,
    ) -> std::result::Result<T, QueueError> {
        match lost {
            true => Err(self.error(1)),
            false => answer,
        }
    }
}

type Answer<T> = std::result::Result<T, QueueError>;

#[async_trait]
impl Queue for Stormy {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    async fn server(&self) -> Answer<String> {
        let lost = self.weather()?;
        self.told(lost, self.inner.server().await)
    }
    async fn offer(&self, generation: i64, lane: &str, hints: &[Hint], window: u32) -> Answer<u64> {
        let lost = self.weather()?;
        self.told(
            lost,
            self.inner.offer(generation, lane, hints, window).await,
        )
    }
    async fn take(
        &self,
        generation: i64,
        lane: &str,
        run: Uuid,
        most: u32,
        concurrency: Option<u32>,
    ) -> Answer<Taken> {
        let lost = self.weather()?;
        self.told(
            lost,
            self.inner
                .take(generation, lane, run, most, concurrency)
                .await,
        )
    }
    async fn release(&self, generation: i64, lane: &str, ids: &[JobId]) -> Answer<()> {
        let lost = self.weather()?;
        self.told(lost, self.inner.release(generation, lane, ids).await)
    }
    async fn held(&self, generation: i64, lane: &str) -> Answer<Vec<(JobId, Uuid)>> {
        let lost = self.weather()?;
        self.told(lost, self.inner.held(generation, lane).await)
    }
    async fn size(&self, generation: i64, lane: &str) -> Answer<u64> {
        let lost = self.weather()?;
        self.told(lost, self.inner.size(generation, lane).await)
    }
    async fn reset(&self, generation: i64, lane: &str, held: &[(JobId, Uuid)]) -> Answer<bool> {
        let lost = self.weather()?;
        self.told(lost, self.inner.reset(generation, lane, held).await)
    }
    async fn wake(&self, lanes: &[String]) -> Answer<()> {
        let lost = self.weather()?;
        self.told(lost, self.inner.wake(lanes).await)
    }
    async fn woken(&self) -> Woken {
        self.inner.woken().await
    }
}
