//! What tasks and threads wait for each other by, in the modules whose orders of events are tried one
//! after the other: `tests/schedules` compiles the same files against a module of its own in this one's
//! place, by which each call here is a place where anybody else may go on first.

pub use std::sync::{Mutex, mpsc as threads};
pub use std::thread;

pub use tokio::spawn;
pub use tokio::sync::{Mutex as AsyncMutex, OnceCell, RwLock, Semaphore, mpsc, oneshot};
pub use tokio::time::timeout;
