//! Waiting for a level, with a deadline: the one place where a test may sleep.

use std::future::Future;
use std::time::{Duration, Instant};

/// The first pause between two looks; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Looks at `condition` until it holds.
///
/// # Panics
/// With `what`, where it doesn't hold before `deadline` has passed. A look that itself hangs is
/// given up at the deadline, too.
#[track_caller]
pub fn until<F, Fut>(what: &str, deadline: Duration, condition: F) -> impl Future<Output = ()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    until_or(move || what.to_owned(), deadline, condition)
}

/// Like [`until`]; what it waited for is put into words only when it was in vain, so that the words
/// can say how things stand by then.
///
/// # Panics
/// As [`until`].
#[track_caller]
pub fn until_or<W, F, Fut>(what: W, deadline: Duration, condition: F) -> impl Future<Output = ()>
where
    W: FnOnce() -> String,
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let caller = std::panic::Location::caller();
    async move {
        let looked = tokio::time::timeout(deadline, look(condition)).await;
        if looked.is_err() {
            panic!("{caller}: waited {deadline:?} in vain for: {}", what());
        }
    }
}

async fn look<F, Fut>(mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let mut pause = PAUSE_MIN;
    while !condition().await {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Like [`until`], where there is no runtime to wait on: it blocks the thread.
///
/// # Panics
/// With `what`, where the condition doesn't hold before `deadline` has passed.
#[track_caller]
pub fn until_blocking(what: &str, deadline: Duration, condition: impl FnMut() -> bool) {
    assert!(
        within(deadline, condition),
        "waited {deadline:?} in vain for: {what}"
    );
}

/// Whether `condition` came to hold before `deadline` had passed; it blocks the thread.
pub fn within(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    let mut pause = PAUSE_MIN;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
