//! Single flight: one call at a time for a key, shared by those that wait for it, and by nobody else.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::flight::Flights;
use crate::sync::point;
use crate::{any, in_any_order};

/// A platform that counts the calls for each key that are under way, and all of them.
#[derive(Default)]
struct Called {
    under_way: [AtomicUsize; 2],
    calls: AtomicUsize,
    /// The number of each call that has ended, by key.
    ended: Mutex<Vec<(usize, usize)>>,
}

struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Called {
    /// A call for a key: its number, as an answer or (the first so many) an error.
    async fn call(&self, key: usize, fail: usize) -> Result<usize, usize> {
        let before = self.under_way[key].fetch_add(1, Ordering::SeqCst);
        let _under_way = UnderWay(&self.under_way[key]);
        assert_eq!(before, 0, "two calls for one key at once");
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        for _ in 0..2 {
            point();
            shuttle::future::yield_now().await;
        }
        self.ended.lock().unwrap().push((key, number));
        if number < fail {
            Err(number)
        } else {
            Ok(number)
        }
    }

    fn has_ended(&self, key: usize) -> Vec<usize> {
        let ended = self.ended.lock().unwrap();
        let own = ended.iter().filter(|it| it.0 == key);
        own.map(|it| it.1).collect()
    }
}

type Calls = Flights<usize, Result<usize, usize>>;

/// One who needs `key`: whatever it gets is of a call that hadn't ended when it asked.
async fn needs(flights: &Calls, called: &Called, key: usize, fail: usize) -> Result<usize, usize> {
    point();
    let old = called.has_ended(key);
    let got = flights.get(key, || called.call(key, fail)).await;
    let number = got.unwrap_or_else(|it| it);
    assert!(!old.contains(&number), "call {number} had ended before");
    assert!(
        called.has_ended(key).contains(&number),
        "it is a call's own"
    );
    got
}

#[test]
fn one_call_at_a_time_for_all_that_need_it_and_nothing_is_kept() {
    in_any_order(|| async {
        let (flights, called) = (Arc::new(Calls::default()), Arc::new(Called::default()));
        let tasks: Vec<_> = [0, 0, 0, 1]
            .into_iter()
            .map(|key| {
                let (flights, called) = (flights.clone(), called.clone());
                shuttle::future::spawn(async move {
                    // an error is the end of that call, and what comes later asks again
                    let mut tries = 1;
                    while needs(&flights, &called, key, 2).await.is_err() {
                        tries += 1;
                    }
                    assert!(tries <= 3, "two calls failed");
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("nobody called it off");
        }
    });
}

#[test]
fn when_the_one_who_asks_goes_away_the_next_goes_on() {
    in_any_order(|| async {
        let (flights, called) = (Arc::new(Calls::default()), Arc::new(Called::default()));
        let ask = || {
            let (flights, called) = (flights.clone(), called.clone());
            shuttle::future::spawn(async move { needs(&flights, &called, 0, 0).await })
        };
        let leader = ask();
        let others = [ask(), ask()];
        for _ in 0..any(8) {
            shuttle::future::yield_now().await;
        }
        leader.abort();
        for it in others {
            let got = it.await.expect("nobody called it off");
            assert!(got.is_ok(), "it needs no second try: {got:?}");
        }
    });
}
