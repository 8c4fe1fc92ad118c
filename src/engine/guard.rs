//! The guard of what this host can give: above a threshold of memory the daemon takes no more jobs
//! to run, then none at all, until what runs has ended; and it has files enough for its room.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::pressure::{Pressure, judge};
use super::shared::Shared;
use crate::config::Config;
use crate::telemetry::metrics;

const EVERY: Duration = Duration::from_millis(500);
const MIB: u64 = 1024 * 1024;

/// Files that a daemon has open beside those of running jobs: stores, API, logs.
const FILES_OWN: u64 = 512;
/// Files of a running job: its socket and a picture on its way.
const FILES_JOB: u64 = 2;

/// The bytes of memory this process holds, where the system says so.
fn used() -> Option<u64> {
    let said = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = said.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * u64::try_from(rustix::param::page_size()).ok()?)
}

/// The limit in bytes that the service manager set (cgroup v2), if any.
fn cgroup() -> Option<u64> {
    let said = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = said.lines().find_map(|it| it.strip_prefix("0::/"))?;
    let folder = std::path::Path::new("/sys/fs/cgroup").join(path);
    let limit = |name: &str| -> Option<u64> {
        let said = std::fs::read_to_string(folder.join(name)).ok()?;
        said.trim().parse().ok()
    };
    limit("memory.high")
        .into_iter()
        .chain(limit("memory.max"))
        .min()
}

/// The guard of a daemon.
pub struct Guard {
    shared: Arc<Shared>,
    cgroup: Option<u64>,
}

impl Guard {
    /// The guard of a daemon.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            cgroup: cgroup(),
        }
    }

    /// Ticks until the daemon has ended.
    pub async fn run(&self) {
        loop {
            self.tick();
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Looks once.
    fn tick(&self) {
        let Some(used) = used() else { return };
        metrics::memory(used);
        let said = self.shared.config.load().memory_mb;
        let limit = said.map(|it| it * MIB).or(self.cgroup);
        let was = self.shared.pressure.get();
        let now = match limit {
            // an allocator keeps what it has: with nothing left that could end, waiting mends nothing
            Some(limit) if !self.shared.running.is_empty() => judge(used, limit, was),
            _ => Pressure::None,
        };
        if now == was {
            return;
        }
        self.shared.pressure.set(now);
        let (used_mb, limit_mb) = (used / MIB, limit.unwrap_or(0) / MIB);
        match now {
            Pressure::None => {
                tracing::info!(used_mb, limit_mb, "memory: jobs are run again");
                self.shared.dispatch.all();
            }
            Pressure::High => {
                tracing::warn!(
                    used_mb,
                    limit_mb,
                    "memory: no further job is run until some have ended"
                );
            }
            Pressure::Critical => {
                tracing::warn!(
                    used_mb,
                    limit_mb,
                    "memory: no job is run nor taken in until some have ended"
                );
            }
        }
    }
}

/// Raises the limit of open files as far as this process may, and says when it isn't enough for the
/// room of all lanes.
pub fn files(config: &Config) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let room: u64 = config.lanes.values().map(|it| u64::from(it.room)).sum();
    let needed = FILES_OWN + FILES_JOB * room;
    if let Some(files) = current.filter(|it| *it < needed) {
        tracing::warn!(
            files,
            needed,
            "this process may open fewer files than its lanes have room for: raise the limit \
             (systemd: LimitNOFILE=), or give the lanes less room"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_some_memory() {
        assert!(MIB < used().expect("Linux says so"));
    }
}
