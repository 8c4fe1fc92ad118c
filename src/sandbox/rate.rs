//! Rate limits as the platforms announce them: so many requests in a fixed window, per account.

use std::{collections::HashMap, sync::Mutex};

use chrono::{DateTime, TimeDelta, Utc};

use super::acts::held;

/// Accounts whose windows are remembered; beyond it all windows start anew.
const MAX_ACCOUNTS: usize = 10_000;

/// Fixed windows of one platform.
#[derive(Debug)]
pub(super) struct Rates {
    limit: u32,
    period: TimeDelta,
    windows: Mutex<HashMap<String, (DateTime<Utc>, u32)>>,
}

/// What is left of an account's window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate {
    pub(super) limit: u32,
    pub(super) remaining: u32,
    pub(super) reset: DateTime<Utc>,
    /// This request was one too many.
    pub(super) over: bool,
}

impl Rates {
    /// `limit` requests in `period_s` seconds.
    pub(super) fn new(limit: u32, period_s: u32) -> Rates {
        Rates {
            limit,
            period: TimeDelta::seconds(i64::from(period_s)),
            windows: Mutex::default(),
        }
    }

    /// Counts one request of an account.
    pub(super) fn spend(&self, account: &str, now: DateTime<Utc>) -> Rate {
        let mut windows = held(&self.windows);
        if windows.len() >= MAX_ACCOUNTS && !windows.contains_key(account) {
            windows.clear();
        }
        let window = windows.entry(account.to_owned()).or_insert((now, 0));
        if now >= window.0 + self.period || now < window.0 {
            *window = (now, 0);
        }
        let over = window.1 >= self.limit;
        window.1 = window.1.saturating_add(1).min(self.limit);
        Rate {
            limit: self.limit,
            remaining: self.limit - window.1,
            reset: window.0 + self.period,
            over,
        }
    }

    /// The window of an account as it is.
    pub(super) fn look(&self, account: &str, now: DateTime<Utc>) -> Rate {
        let windows = held(&self.windows);
        let (start, used) = windows.get(account).copied().unwrap_or((now, 0));
        Rate {
            limit: self.limit,
            remaining: self.limit - used,
            reset: start + self.period,
            over: false,
        }
    }

    /// The window of an account that is told to wait `wait_s` seconds.
    pub(super) fn spent(&self, wait_s: u32, now: DateTime<Utc>) -> Rate {
        Rate {
            limit: self.limit,
            remaining: 0,
            reset: now + TimeDelta::seconds(i64::from(wait_s)),
            over: true,
        }
    }

    /// Every window starts anew.
    pub(super) fn forget(&self) {
        held(&self.windows).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_fills_up_and_starts_anew() {
        let (rates, start) = (Rates::new(2, 60), Utc::now());
        assert_eq!(rates.spend("a", start).remaining, 1);
        assert!(!rates.spend("a", start).over);
        let third = rates.spend("a", start + TimeDelta::seconds(59));
        assert!(third.over && third.remaining == 0);
        assert_eq!(third.reset, start + TimeDelta::seconds(60));
        assert!(
            !rates.spend("b", start).over,
            "accounts have windows of their own"
        );
        assert_eq!(
            rates.spend("a", start + TimeDelta::seconds(60)).remaining,
            1
        );
    }
}
