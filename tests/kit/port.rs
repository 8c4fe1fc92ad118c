//! Ports that stay ours: a server that is killed and started again must find its port free.

use std::fs::{self, File, TryLockError};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which Linux (32768 on) and macOS (49152 on) take the ports of outgoing
/// connections, which would otherwise grab a port while its server is down.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port on the loopback address, held by a file lock for as long as this value lives, so that no
/// other test takes it while nobody listens. The lock goes with the process, however it ends.
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// # Panics
    /// Where no port in the range is free.
    pub fn take() -> Port {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let locks = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ports");
        fs::create_dir_all(&locks).expect("the folder for port locks can be made");
        // Processes start at places far apart, so that they seldom meet.
        let first = (std::process::id().wrapping_mul(257) % u32::from(COUNT)) as u16;
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
            let number = FIRST + (first + step) % COUNT;
            let lock = File::create(locks.join(number.to_string())).expect("a port lock opens");
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => panic!("a port can't be locked: {error}"),
            }
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Port {
                    number,
                    _lock: lock,
                };
            }
        }
        panic!("no free port between {FIRST} and {}", FIRST + COUNT);
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}
