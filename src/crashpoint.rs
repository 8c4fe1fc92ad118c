//! Named places where a test may kill, stop, panic or fail the daemon.
//!
//! `PRESSWORK_CRASH=name:nth:action` arms one point: at its n-th hit (from 1) the
//! process does `action`: `kill` (SIGKILL to itself), `stop` (SIGSTOP), `panic`, or `error`
//! (only at the points that name an error). Without the `crashpoints` feature nothing of this exists.

/// Marks a place by name. With `crashpoint!("name")` the point may kill, stop or panic.
///
/// `crashpoint!("name", LedgerError::Away)` may fail, too: it evaluates to a `Result<(), LedgerError>`,
/// so that the caller sees what it would see of that seam: before the call, as if nothing had been
/// written; after it, as if the answer had been lost.
#[macro_export]
macro_rules! crashpoint {
    ($name:literal) => {
        #[cfg(feature = "crashpoints")]
        {
            let _ = $crate::crashpoint::hit($name);
        }
    };
    ($name:literal, $error:path) => {{
        #[cfg(feature = "crashpoints")]
        {
            $crate::crashpoint::hit($name).map_err($error)
        }
        #[cfg(not(feature = "crashpoints"))]
        {
            Ok::<(), String>(()).map_err($error)
        }
    }};
}

#[cfg(feature = "crashpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use signal_hook::consts::{SIGKILL, SIGSTOP};

    struct Armed {
        name: String,
        nth: u64,
        action: String,
        hits: AtomicU64,
    }

    fn armed() -> Option<&'static Armed> {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        ARMED
            .get_or_init(|| {
                let text = std::env::var("PRESSWORK_CRASH").ok()?;
                let mut parts = text.split(':');
                Some(Armed {
                    name: parts.next()?.to_owned(),
                    nth: parts.next()?.parse().ok()?,
                    action: parts.next()?.to_owned(),
                    hits: AtomicU64::new(0),
                })
            })
            .as_ref()
    }

    /// Counts a hit of `name` and acts when it is the armed one.
    ///
    /// # Errors
    /// When the armed action is `error`.
    ///
    /// # Panics
    /// When the armed action is `panic`.
    pub fn hit(name: &'static str) -> Result<(), String> {
        let Some(armed) = armed().filter(|it| it.name == name) else {
            return Ok(());
        };
        if armed.hits.fetch_add(1, Ordering::SeqCst) + 1 != armed.nth {
            return Ok(());
        }
        eprintln!("crashpoint {name}: {}", armed.action);
        match armed.action.as_str() {
            "kill" => drop(signal_hook::low_level::raise(SIGKILL)),
            "stop" => drop(signal_hook::low_level::raise(SIGSTOP)),
            "panic" => panic!("crashpoint {name}"),
            "error" => return Err(format!("crashpoint {name}")),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(feature = "crashpoints")]
pub use armed::hit;
