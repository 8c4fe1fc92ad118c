//! What is shut on this host: what the ledger's closures say, and what the daemon shuts by itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use crate::clock::Time;
use crate::config::Config;
use crate::fallback;
use crate::gate::{Cause, Closure, Shut};
use crate::telemetry::metrics;

/// What dispatch passes over, from two sources. Only dispatch goes by it: permits ask the ledger.
#[derive(Default)]
pub struct Gates {
    /// The kinds that this program knows.
    kinds: Arc<[String]>,
    shut: ArcSwap<Shut>,
    closures: Mutex<Closures>,
}

#[derive(Default)]
struct Closures {
    /// As the ledger has them.
    written: Vec<Closure>,
    /// This daemon's own.
    own: Vec<Closure>,
}

/// What a change did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Something is shut that wasn't.
    pub closed: bool,
    /// Something goes that was shut: the relay and the dispatchers are to be woken.
    pub opened: bool,
}

impl Gates {
    fn lock(&self) -> MutexGuard<'_, Closures> {
        self.closures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a program that knows these kinds.
    pub fn of(kinds: Arc<[String]>) -> Self {
        Self {
            kinds,
            ..Self::default()
        }
    }

    /// All that is closed, as far as this host knows.
    pub fn closures(&self) -> Vec<Closure> {
        let closures = self.lock();
        let all = closures.written.iter().chain(&closures.own);
        all.cloned().collect()
    }

    /// What is shut now.
    pub fn load(&self) -> Arc<Shut> {
        self.shut.load_full()
    }

    /// Takes over what the ledger's closures are, and lets go what is past, by the ledger's clock. What a
    /// platform's accounts are may have changed, too.
    pub fn learn(&self, written: Vec<Closure>, config: &Config, now: Time) -> Changed {
        let mut closures = self.lock();
        closures.written = written;
        self.renew(closures, config, now)
    }

    /// Whether something that the ledger had closed for a cause isn't among what it has closed now.
    pub fn lets_go(&self, cause: Cause, written: &[Closure]) -> bool {
        let closures = self.lock();
        let mut before = closures.written.iter().filter(|it| it.cause == cause);
        before.any(|it| !written.iter().any(|is| is.id == it.id))
    }

    /// Shuts a scope on this host alone, until the closure's time; in place of what was shut of the same
    /// cause and scope.
    pub fn close(&self, closure: Closure, config: &Config, now: Time) -> Changed {
        let mut closures = self.lock();
        let is_same = |it: &Closure| {
            let kind = |it: &Closure| (it.cause, it.spares_planned);
            kind(it) == kind(&closure) && it.scope == closure.scope
        };
        closures.own.retain(|it| !is_same(it));
        closures.own.push(closure);
        self.renew(closures, config, now)
    }

    /// Shuts all of these on this host alone, in place of all that was shut for the cause.
    pub fn put(&self, cause: Cause, all: Vec<Closure>, config: &Config, now: Time) -> Changed {
        let mut closures = self.lock();
        closures.own.retain(|it| it.cause != cause);
        closures.own.extend(all);
        self.renew(closures, config, now)
    }

    /// Opens all that was shut on this host alone for a cause.
    pub fn open(&self, cause: Cause, config: &Config, now: Time) -> Changed {
        let mut closures = self.lock();
        closures.own.retain(|it| it.cause != cause);
        self.renew(closures, config, now)
    }

    fn renew(&self, mut closures: MutexGuard<'_, Closures>, config: &Config, now: Time) -> Changed {
        closures.own.retain(|it| it.is_closed(now));
        let all = closures.written.iter().chain(&closures.own);
        for cause in Cause::ALL {
            let of = all.clone().filter(|it| it.cause == *cause);
            let closed = of.filter(|it| it.is_closed(now)).count();
            metrics::closures(cause.as_str(), closed);
        }
        let standing = fallback::standing(all, config, &self.kinds, now);
        let shut = Shut::of(&standing, config, now);
        let (closed, opened) = shut.differs(&self.shut.load());
        if closed || opened {
            self.shut.store(Arc::new(shut));
        }
        Changed { closed, opened }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Scope;

    #[test]
    fn what_the_ledger_says_and_the_daemon_s_own_add_up_and_end_by_themselves() {
        let config = Config::default_embedded(std::path::Path::new("/nowhere"));
        let at = |s: i64| Time::UNIX_EPOCH + chrono::Duration::seconds(s);
        let of = |tenant: &str| Scope {
            tenant: Some(tenant.to_owned()),
            ..Scope::default()
        };
        let closure = |cause, tenant| Closure::new(cause, of(tenant), ("test", ""), at(0));
        let gates = Gates::default();
        let (closed, opened) = (
            Changed {
                closed: true,
                ..Changed::default()
            },
            Changed {
                opened: true,
                ..Changed::default()
            },
        );
        let written = vec![closure(Cause::Stop, "a")];
        assert_eq!(gates.learn(written.clone(), &config, at(1)), closed);
        assert_eq!(
            gates.learn(written.clone(), &config, at(1)),
            Changed::default()
        );
        let own = closure(Cause::Budget, "b").until(at(9));
        assert_eq!(gates.close(own.clone(), &config, at(2)), closed);
        // the same for longer
        let longer = own.until(at(20));
        assert_eq!(gates.close(longer, &config, at(3)), Changed::default());
        assert!(gates.load().is_whole("", "a") && gates.load().is_whole("", "b"));
        assert_eq!(
            gates.learn(written.clone(), &config, at(19)),
            Changed::default()
        );
        assert_eq!(gates.learn(written, &config, at(20)), opened);
        assert!(gates.load().is_whole("", "a") && !gates.load().is_whole("", "b"));
        assert!(gates.lets_go(Cause::Stop, &[]) && !gates.lets_go(Cause::Credentials, &[]));
        assert_eq!(gates.learn(vec![], &config, at(21)), opened);
        assert!(!gates.lets_go(Cause::Stop, &[]));
        assert!(gates.load().is_empty());
        gates.close(closure(Cause::Budget, "b"), &config, at(22));
        assert_eq!(gates.open(Cause::Budget, &config, at(22)), opened);
    }
}
