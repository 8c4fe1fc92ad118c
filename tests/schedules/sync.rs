//! What stands in the place of `src/sync.rs` here: tokio's own channels, locks and permits, with a place
//! before each call, and before each drop, where any other task may go on first; and for what blocks a
//! thread, shuttle's. Between two such places nobody else runs, so each call is one step, as it is for
//! whoever uses them.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;

pub use shuttle::sync::Mutex;
pub use shuttle::thread;

/// Anybody else may go on here.
pub fn point() {
    // not while a panic unwinds: the others would see it as theirs
    if !std::thread::panicking() {
        shuttle::sync::atomic::AtomicBool::new(false).load(std::sync::atomic::Ordering::SeqCst);
    }
}

/// Something whose drop the others notice.
struct Seen<T>(Option<T>);

impl<T> Drop for Seen<T> {
    fn drop(&mut self) {
        point();
        drop(self.0.take());
    }
}

impl<T> Deref for Seen<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl<T> Seen<T> {
    fn inner(&mut self) -> &mut T {
        self.0.as_mut().expect("it is there until it is dropped")
    }
}

/// A task of its own, whose panic is its own: nobody else's, as with tokio.
pub fn spawn<F>(task: F) -> shuttle::future::JoinHandle<()>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    shuttle::future::spawn(async {
        // whoever waited for it finds what it held dropped
        let _ = AssertUnwindSafe(task).catch_unwind().await;
    })
}

/// Time is no matter here: what is in time is a matter of the machine, not of the order of events.
pub async fn timeout<F: Future>(_most: Duration, it: F) -> Result<F::Output, ()> {
    point();
    Ok(it.await)
}

/// As `tokio::sync::Semaphore`.
pub struct Semaphore(Arc<tokio::sync::Semaphore>);

/// As `tokio::sync::OwnedSemaphorePermit`.
pub struct OwnedSemaphorePermit(#[allow(dead_code)] Seen<tokio::sync::OwnedSemaphorePermit>);

impl Semaphore {
    pub fn new(permits: usize) -> Self {
        Self(Arc::new(tokio::sync::Semaphore::new(permits)))
    }

    pub fn add_permits(&self, more: usize) {
        point();
        self.0.add_permits(more);
    }

    pub async fn acquire_owned(
        self: Arc<Self>,
    ) -> Result<OwnedSemaphorePermit, tokio::sync::AcquireError> {
        point();
        let permit = self.0.clone().acquire_owned().await?;
        Ok(OwnedSemaphorePermit(Seen(Some(permit))))
    }
}

/// As `tokio::sync::RwLock`.
pub struct RwLock<T>(tokio::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub fn new(it: T) -> Self {
        Self(tokio::sync::RwLock::new(it))
    }

    pub async fn read(&self) -> impl Drop {
        point();
        Seen(Some(self.0.read().await))
    }

    pub async fn write(&self) -> impl Drop {
        point();
        Seen(Some(self.0.write().await))
    }

    pub fn try_write(&self) -> Result<impl Drop, tokio::sync::TryLockError> {
        point();
        Ok(Seen(Some(self.0.try_write()?)))
    }
}

/// As `tokio::sync::Mutex`.
pub struct AsyncMutex<T>(tokio::sync::Mutex<T>);

/// As `tokio::sync::MutexGuard`.
pub struct AsyncGuard<'a, T>(Seen<tokio::sync::MutexGuard<'a, T>>);

impl<T> AsyncMutex<T> {
    pub fn new(it: T) -> Self {
        Self(tokio::sync::Mutex::new(it))
    }

    pub async fn lock(&self) -> AsyncGuard<'_, T> {
        point();
        AsyncGuard(Seen(Some(self.0.lock().await)))
    }
}

impl<T> Deref for AsyncGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for AsyncGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.inner()
    }
}

/// As `tokio::sync::OnceCell`.
pub struct OnceCell<T>(tokio::sync::OnceCell<T>);

impl<T> OnceCell<T> {
    pub fn new() -> Self {
        Self(tokio::sync::OnceCell::new())
    }

    pub fn initialized(&self) -> bool {
        point();
        self.0.initialized()
    }

    pub async fn get_or_init<F: Future<Output = T>>(&self, make: impl FnOnce() -> F) -> &T {
        point();
        let found = self.0.get_or_init(make).await;
        point();
        found
    }
}

/// As `tokio::sync::mpsc`.
pub mod mpsc {
    use super::{Seen, point};

    pub struct Sender<T>(Seen<tokio::sync::mpsc::Sender<T>>);
    pub struct Receiver<T>(Seen<tokio::sync::mpsc::Receiver<T>>);

    pub fn channel<T>(most: usize) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = tokio::sync::mpsc::channel(most);
        (Sender(Seen(Some(sender))), Receiver(Seen(Some(receiver))))
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            Self(Seen(Some((*self.0).clone())))
        }
    }

    impl<T> Sender<T> {
        pub async fn send(&self, it: T) -> Result<(), tokio::sync::mpsc::error::SendError<T>> {
            point();
            self.0.send(it).await
        }
    }

    impl<T> Receiver<T> {
        pub async fn recv_many(&mut self, into: &mut Vec<T>, most: usize) -> usize {
            point();
            self.0.inner().recv_many(into, most).await
        }
    }
}

/// As `tokio::sync::oneshot`.
pub mod oneshot {
    use super::*;

    pub struct Sender<T>(Seen<tokio::sync::oneshot::Sender<T>>);
    pub struct Receiver<T>(Seen<tokio::sync::oneshot::Receiver<T>>);

    pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        (Sender(Seen(Some(sender))), Receiver(Seen(Some(receiver))))
    }

    impl<T> Sender<T> {
        pub fn send(mut self, it: T) -> Result<(), T> {
            point();
            match self.0.0.take() {
                Some(sender) => sender.send(it),
                None => Err(it),
            }
        }
    }

    impl<T> Future for Receiver<T> {
        type Output = Result<T, tokio::sync::oneshot::error::RecvError>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            point();
            Pin::new(self.0.inner()).poll(cx)
        }
    }
}

/// As `std::sync::mpsc`. (Shuttle's own keeps what is queued when its receiver goes.)
pub mod threads {
    use std::collections::VecDeque;
    use std::sync::mpsc::{RecvError, SendError, TryRecvError};
    use std::sync::{Arc, PoisonError};

    use shuttle::sync::{Condvar, Mutex, MutexGuard};

    struct Queue<T> {
        items: VecDeque<T>,
        senders: usize,
        is_read: bool,
    }

    struct Shared<T> {
        queue: Mutex<Queue<T>>,
        changed: Condvar,
    }

    impl<T> Shared<T> {
        fn lock(&self) -> MutexGuard<'_, Queue<T>> {
            // what is in it is whole, whoever panicked
            self.queue.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    pub struct Sender<T>(Arc<Shared<T>>);
    pub struct Receiver<T>(Arc<Shared<T>>);

    pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let queue = Queue {
            items: VecDeque::new(),
            senders: 1,
            is_read: true,
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            changed: Condvar::new(),
        });
        (Sender(shared.clone()), Receiver(shared))
    }

    impl<T> Sender<T> {
        pub fn send(&self, it: T) -> Result<(), SendError<T>> {
            let mut queue = self.0.lock();
            if !queue.is_read {
                return Err(SendError(it));
            }
            queue.items.push_back(it);
            self.0.changed.notify_one();
            Ok(())
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            self.0.lock().senders += 1;
            Self(self.0.clone())
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            // a case that has failed is taken down: nobody goes on
            if !std::thread::panicking() {
                self.0.lock().senders -= 1;
                self.0.changed.notify_one();
            }
        }
    }

    impl<T> Receiver<T> {
        pub fn recv(&self) -> Result<T, RecvError> {
            let mut queue = self.0.lock();
            loop {
                if let Some(it) = queue.items.pop_front() {
                    return Ok(it);
                }
                if queue.senders == 0 {
                    return Err(RecvError);
                }
                let waited = self.0.changed.wait(queue);
                queue = waited.unwrap_or_else(PoisonError::into_inner);
            }
        }

        pub fn try_recv(&self) -> Result<T, TryRecvError> {
            self.0.lock().items.pop_front().ok_or(TryRecvError::Empty)
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                return;
            }
            let mut queue = self.0.lock();
            queue.is_read = false;
            let left = std::mem::take(&mut queue.items);
            drop(queue);
            drop(left);
        }
    }
}
