//! An account's session: one call at a time opens or renews it, and no refresh token is used twice.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use presswork::clock::Time;
use presswork::outcome::{Class, Failure, Scope};
use presswork::platform::verdict::CallError;

use crate::session::Sessions;
use crate::sync::point;
use crate::{any, in_any_order};

/// A platform whose sessions are numbers; each is renewed once, by the next one.
#[derive(Default)]
struct Server {
    newest: AtomicUsize,
    used: Mutex<Vec<usize>>,
    under_way: AtomicUsize,
    opened: AtomicUsize,
    /// So many calls from now on fail without a word of refusal.
    fails: AtomicUsize,
    /// All are refused.
    refuses: bool,
}

struct UnderWay<'a>(&'a Server);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

fn failure(class: Class) -> Failure {
    Failure::new(class, Scope::Account, "test", "the test says so")
}

impl Server {
    async fn call(&self) -> Result<usize, CallError> {
        let others = self.under_way.fetch_add(1, Ordering::SeqCst);
        let _under_way = UnderWay(self);
        assert_eq!(others, 0, "two calls at once");
        point();
        shuttle::future::yield_now().await;
        let less = |it: usize| it.checked_sub(1);
        let fails = self
            .fails
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        match fails.is_ok() {
            true => Err(CallError::Unknown(failure(Class::Transient))),
            false if self.refuses => Err(CallError::Refused(failure(Class::Unauthorised))),
            false => Ok(self.newest.fetch_add(1, Ordering::SeqCst) + 1),
        }
    }

    async fn open(&self) -> Result<usize, CallError> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        self.call().await
    }

    async fn renew(&self, old: usize) -> Result<usize, CallError> {
        let is_first = {
            let mut used = self.used.lock().unwrap();
            let is_first = !used.contains(&old);
            used.push(old);
            is_first
        };
        match is_first {
            true => self.call().await,
            false => Err(CallError::Refused(failure(Class::Unauthorised))),
        }
    }
}

/// A session that isn't `stale`.
async fn get(
    sessions: &Sessions<usize>,
    server: &Server,
    stale: Option<usize>,
) -> Result<usize, CallError> {
    let is_dead = |it: &usize, _: Time| Some(*it) == stale;
    let now = || Time::UNIX_EPOCH;
    let (renew, open) = (|old| server.renew(old), || server.open());
    sessions.get(now, is_dead, renew, open).await
}

#[test]
fn a_session_is_opened_once_and_each_is_renewed_once() {
    in_any_order(|| async {
        let (sessions, server) = (Arc::new(Sessions::default()), Arc::new(Server::default()));
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let (sessions, server) = (sessions.clone(), server.clone());
                shuttle::future::spawn(async move {
                    let one = get(&sessions, &server, None).await.expect("a session");
                    // a call with it was answered: it has expired
                    let other = get(&sessions, &server, Some(one)).await.expect("a session");
                    assert!(one < other, "{one} {other}");
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("nobody called it off");
        }
        assert_eq!(server.opened.load(Ordering::SeqCst), 1);
        let used = server.used.lock().unwrap();
        assert!(used.is_sorted_by(|a, b| a < b), "used twice: {used:?}");
    });
}

#[test]
fn who_goes_away_while_it_asks_leaves_it_to_the_next() {
    in_any_order(|| async {
        let (sessions, server) = (Arc::new(Sessions::default()), Arc::new(Server::default()));
        get(&sessions, &server, None).await.expect("a session");
        let ask = || {
            let (sessions, server) = (sessions.clone(), server.clone());
            shuttle::future::spawn(async move { get(&sessions, &server, Some(1)).await })
        };
        let first = ask();
        let others = [ask(), ask()];
        for _ in 0..any(6) {
            shuttle::future::yield_now().await;
        }
        first.abort();
        for it in others {
            let got = it.await.expect("nobody called it off");
            assert!(1 < got.expect("a session"));
        }
    });
}

#[test]
fn what_was_lost_is_asked_again_and_what_was_refused_is_not() {
    for refuses in [false, true] {
        in_any_order(move || async move {
            let server = Server {
                fails: AtomicUsize::new(1),
                refuses,
                ..Server::default()
            };
            let (sessions, server) = (Arc::new(Sessions::default()), Arc::new(server));
            let tasks: Vec<_> = (0..3)
                .map(|_| {
                    let (sessions, server) = (sessions.clone(), server.clone());
                    shuttle::future::spawn(async move { get(&sessions, &server, None).await })
                })
                .collect();
            let mut lost = 0;
            for task in tasks {
                match task.await.expect("nobody called it off") {
                    Ok(it) => assert_eq!(it, 1),
                    Err(CallError::Unknown(_)) => lost += 1,
                    Err(CallError::Refused(_)) => assert!(refuses),
                }
            }
            assert_eq!(lost, 1, "an error is told to who asked, and not kept");
            assert_eq!(server.opened.load(Ordering::SeqCst), 2);
        });
    }
}
