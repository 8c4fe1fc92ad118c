//! The journal's files, compiled against our `crate::sync`; its own tests need no schedules.

pub use presswork::journal::{disk, record};

#[path = "../../src/journal/front.rs"]
mod front;
#[path = "../../src/journal/past.rs"]
mod past;
#[path = "../../src/journal/replay.rs"]
mod replay;
#[path = "../../src/journal/thread.rs"]
mod thread;
#[path = "../../src/journal/writer.rs"]
mod writer;

pub use front::Journal;
pub use writer::Options;

/// The journal of `run` on a disk that is none.
pub fn on(
    disk: Box<dyn disk::Disk>,
    run: &crate::ledger::Run,
    options: Options,
) -> std::io::Result<Journal> {
    within(std::path::Path::new(""), disk, run, options)
}

/// The journal of `run` in a folder.
pub fn within(
    folder: &std::path::Path,
    disk: Box<dyn disk::Disk>,
    run: &crate::ledger::Run,
    options: Options,
) -> std::io::Result<Journal> {
    Journal::on(disk, folder, run, options)
}
