//! What both peers need: the job, and the tally that a worker keeps of it for `benches/peers/run`.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// Jobs of one request of the producer.
pub const BATCH: usize = 500;
/// How often the tally is told.
const TOLD: Duration = Duration::from_millis(20);

/// A job that does nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Work {
    /// It is run before the measurement, so that caches and connections aren't part of the figures.
    pub warm: bool,
}

/// How this process was started.
pub enum Role {
    /// Produce so many jobs.
    Produce {
        /// How many.
        count: usize,
        /// The job, each time the same.
        work: Work,
    },
    /// Work until killed.
    Work,
}

/// Reads `URL produce COUNT warm|work` or `URL work`.
///
/// # Errors
/// When it is something else.
pub fn asked() -> anyhow::Result<(String, Role)> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [url, "work"] => Ok((url.to_owned(), Role::Work)),
        [url, "produce", count, sort] => {
            let count = count.parse().context("the number of jobs")?;
            let work = Work {
                warm: sort == "warm",
            };
            Ok((url.to_owned(), Role::Produce { count, work }))
        }
        _ => bail!("usage: URL produce COUNT warm|work, or URL work"),
    }
}

/// Tells what producing took.
pub fn produced(began: Instant) {
    println!("{{\"seconds\":{}}}", began.elapsed().as_secs_f64());
}

#[derive(Default)]
struct Tally {
    warm: AtomicU64,
    jobs: AtomicU64,
    began_us: AtomicU64,
    ended_us: AtomicU64,
}

static TALLY: LazyLock<Tally> = LazyLock::new(Tally::default);

/// The named pipe on which `run` listens.
static PIPE: LazyLock<Option<Mutex<File>>> = LazyLock::new(|| {
    let path = std::env::var_os("PEERS_PIPE")?;
    let pipe = OpenOptions::new().write(true).open(path).ok()?;
    Some(Mutex::new(pipe))
});

fn say(line: &str) {
    if let Some(Ok(mut pipe)) = PIPE.as_ref().map(Mutex::lock) {
        // `run` has ended, and ends us
        let _ = pipe.write_all(line.as_bytes());
    }
}

/// A job begins and ends here: it does nothing.
pub fn ran(work: &Work) {
    if work.warm {
        TALLY.warm.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |it| it.as_micros() as u64);
    if TALLY.jobs.fetch_add(1, Ordering::Relaxed) == 0 {
        TALLY.began_us.store(now, Ordering::Relaxed);
        say(&format!("begun {}\n", std::process::id()));
    }
    TALLY.ended_us.fetch_max(now, Ordering::Relaxed);
}

/// Tells the tally as it grows, from a thread of its own.
pub fn tell() {
    std::thread::spawn(|| {
        let mut last = String::new();
        loop {
            std::thread::sleep(TOLD);
            let of = |it: &AtomicU64| it.load(Ordering::Relaxed);
            let line = format!(
                "tally {} {} {} {} {}\n",
                std::process::id(),
                of(&TALLY.warm),
                of(&TALLY.jobs),
                of(&TALLY.began_us),
                of(&TALLY.ended_us)
            );
            if line != last {
                say(&line);
                last = line;
            }
        }
    });
}
