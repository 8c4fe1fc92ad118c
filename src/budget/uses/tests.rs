//! Whatever the clock does, and whenever requests arrive: never one over, in any window; and what is
//! allowed can be used.

use proptest::prelude::*;

use super::super::form::Every;
use super::*;

/// What is done to a budget, at some distance in time (milliseconds) from what came before.
#[derive(Clone, Debug)]
enum Step {
    /// A request that is over by `until_ms`, and arrives and ends so far between now and then (percent).
    Take {
        until_ms: i64,
        arrives: i64,
        ends: i64,
        unsent: bool,
        forgotten: bool,
    },
    Pass(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0i64..40_000, 0i64..=100, 0i64..=100, prop::bool::weighted(0.1), prop::bool::weighted(0.2))
            .prop_map(|(until_ms, a, b, unsent, forgotten)| Step::Take {
                until_ms, arrives: a.min(b), ends: a.max(b), unsent, forgotten,
            }),
        3 => (0i64..2_000).prop_map(Step::Pass),
        1 => (0i64..90_000).prop_map(Step::Pass),
    ]
}

/// A request that was let through: when it arrived, and from when to when it was under way.
struct Arrived {
    at: Time,
    from: Time,
    end: Time,
}

/// Plays the steps; what is finished is finished in the order of its end.
fn play(form: &Form, steps: &[Step], start: Time) -> Vec<Arrived> {
    let (mut uses, mut now) = (Uses::default(), start);
    let mut open: Vec<(Time, Share, bool)> = Vec::new();
    let mut arrived = Vec::new();
    for step in steps {
        match step {
            Step::Pass(ms) => now += Duration::milliseconds(*ms),
            Step::Take {
                until_ms,
                arrives,
                ends,
                unsent,
                forgotten,
            } => {
                let until = now + Duration::milliseconds(*until_ms);
                let Ok(share) = uses.take(form, 1, now, until) else {
                    continue;
                };
                let part = |percent: i64| now + Duration::milliseconds(until_ms * percent / 100);
                // nobody tells that it ended: it counts as if it had at its last moment
                let end = if *forgotten { until } else { part(*ends) };
                if !unsent {
                    let at = part(*arrives);
                    arrived.push(Arrived { at, from: now, end });
                }
                if !forgotten {
                    open.push((end, share, *unsent));
                }
            }
        }
        open.sort_by_key(|it| it.0);
        let over = open.iter().take_while(|it| it.0 <= now).count();
        for (end, share, unsent) in open.drain(..over) {
            let end = if unsent { End::Unsent } else { End::Sent(end) };
            // by the time that it is told: later than it was
            uses.finish(form, &share, end, now);
        }
        // it is kept as text between any two changes
        let text = serde_json::to_string(&uses).unwrap();
        assert_eq!(serde_json::from_str::<Uses>(&text).unwrap(), uses);
    }
    arrived.sort_by_key(|it| it.at);
    arrived
}

fn start() -> Time {
    "2026-03-08T06:59:50Z".parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_rolling_window_never_has_one_more(
        steps in prop::collection::vec(step(), 1..200), most in 1u64..12, window_s in 1i64..120,
    ) {
        let window = Duration::seconds(window_s);
        let arrived = play(&Form::Rolling { most, window }, &steps, start());
        for (n, it) in arrived.iter().enumerate() {
            let within = arrived[n..].iter().take_while(|other| other.at < it.at + window).count();
            prop_assert!(within as u64 <= most, "{within} within {window} of {}", it.at);
        }
    }

    #[test]
    fn a_bucket_never_gives_more_than_its_burst_and_what_the_time_brings(
        steps in prop::collection::vec(step(), 1..200), most in 1u64..20, window_s in 1i64..120,
        burst in 1u64..12,
    ) {
        let window = Duration::seconds(window_s);
        let arrived = play(&Form::Bucket { most, window, burst }, &steps, start());
        for (n, first) in arrived.iter().enumerate() {
            for (m, last) in arrived[n..].iter().enumerate() {
                let span = (last.at - first.at).num_microseconds().unwrap();
                let brings = span as f64 * most as f64 / (window_s * 1_000_000) as f64;
                prop_assert!((m + 1) as f64 <= burst as f64 + brings + 1e-6);
            }
        }
    }

    #[test]
    fn never_more_are_under_way(steps in prop::collection::vec(step(), 1..200), most in 1u64..12) {
        let arrived = play(&Form::Concurrency { most }, &steps, start());
        for it in &arrived {
            let beside = arrived.iter().filter(|other| other.from <= it.from && it.from < other.end);
            prop_assert!(beside.count() as u64 <= most);
        }
    }

    #[test]
    fn a_day_never_has_one_more_even_if_the_platforms_clock_is_off(
        steps in prop::collection::vec(step(), 1..200), most in 1u64..12, off_s in -5i64..=5,
    ) {
        // the day on which the clocks change there begins ten seconds after the start
        let zone = chrono_tz::America::Los_Angeles;
        let start = "2026-03-08T07:59:50Z".parse().unwrap();
        let arrived = play(&Form::Calendar { most, every: Every::Day, zone }, &steps, start);
        let mut days: BTreeMap<chrono::NaiveDate, u64> = BTreeMap::new();
        for it in &arrived {
            let theirs = it.at + Duration::seconds(off_s);
            *days.entry(theirs.with_timezone(&zone).date_naive()).or_default() += 1;
        }
        prop_assert!(days.values().all(|it| *it <= most), "{days:?}");
    }

    #[test]
    fn when_it_says_that_it_fits_it_fits(
        steps in prop::collection::vec(step(), 1..60), most in 1u64..6, which in 0u8..4,
    ) {
        let window = Duration::seconds(30);
        let form = match which {
            0 => Form::Concurrency { most },
            1 => Form::Bucket { most, window, burst: most },
            2 => Form::Rolling { most, window },
            _ => Form::Calendar { most, every: Every::Day, zone: chrono_tz::Tz::UTC },
        };
        let (mut uses, mut now) = (Uses::default(), start());
        for step in &steps {
            match step {
                Step::Pass(ms) => now += Duration::milliseconds(*ms),
                Step::Take { until_ms, .. } => {
                    let until = now + Duration::milliseconds(*until_ms);
                    if let Err(Refused { at }) = uses.take(&form, 1, now, until) {
                        prop_assert!(now < at, "it is refused for later");
                        if !matches!(form, Form::Bucket { .. }) {
                            prop_assert_eq!(uses.fits_at(&form, 1, at), at);
                        }
                    }
                }
            }
        }
    }
}

/// Takes whenever it may, as long as `lasts`; each request is over at once, or after `takes`.
fn greedy(form: &Form, lasts: Duration, takes: Duration) -> u64 {
    let (mut uses, mut now, mut taken) = (Uses::default(), start(), 0);
    let end = now + lasts;
    let mut open: Vec<(Time, Share)> = Vec::new();
    while now < end {
        let over = open.iter().take_while(|it| it.0 <= now).count();
        for (end, share) in open.drain(..over) {
            uses.finish(form, &share, End::Sent(end), now);
        }
        match uses.take(form, 1, now, now + Duration::seconds(30)) {
            Ok(share) => {
                taken += 1;
                open.push((now + takes, share));
            }
            Err(Refused { at }) => {
                now = open
                    .first()
                    .map_or(at, |it| it.0.min(at))
                    .max(now + Duration::milliseconds(1));
            }
        }
    }
    taken
}

#[test]
fn what_is_allowed_can_be_used() {
    let hour = Duration::hours(1);
    let at_once = Duration::zero();
    let takes = Duration::milliseconds(300);
    for (form, allowed) in [
        (
            Form::Rolling {
                most: 10,
                window: Duration::minutes(1),
            },
            600,
        ),
        (
            Form::Rolling {
                most: 100,
                window: Duration::minutes(15),
            },
            400,
        ),
        (
            Form::Bucket {
                most: 10,
                window: Duration::minutes(1),
                burst: 10,
            },
            610,
        ),
        (
            Form::Bucket {
                most: 5,
                window: Duration::seconds(1),
                burst: 5,
            },
            18_005,
        ),
    ] {
        for takes in [at_once, takes] {
            let taken = greedy(&form, hour, takes);
            assert!(taken <= allowed, "{form:?}: {taken} of {allowed}");
            assert!(
                allowed * 95 / 100 <= taken,
                "{form:?}: {taken} of {allowed}"
            );
        }
    }
}

#[test]
fn what_never_fits_is_told_at_once() {
    let form = Form::Rolling {
        most: 3,
        window: Duration::minutes(1),
    };
    let refused = Uses::default().take(&form, 4, start(), start());
    assert_eq!(refused, Err(Refused { at: NEVER }));
}

#[test]
fn lowering_takes_nothing_back_and_lets_nothing_more_through() {
    let (high, low) = (Form::Concurrency { most: 5 }, Form::Concurrency { most: 2 });
    let (mut uses, now) = (Uses::default(), start());
    let until = now + Duration::minutes(1);
    let shares: Vec<Share> = (0..4)
        .map(|_| uses.take(&high, 1, now, until).unwrap())
        .collect();
    assert_eq!(uses.used(&low, now), 4);
    for share in &shares[..3] {
        uses.take(&low, 1, now, until).unwrap_err();
        uses.finish(&low, share, End::Sent(now), now);
    }
    uses.take(&low, 1, now, until).unwrap();
}

#[test]
fn another_form_begins_anew() {
    let (mut uses, now) = (Uses::default(), start());
    let day = Form::Calendar {
        most: 1,
        every: Every::Day,
        zone: chrono_tz::Tz::UTC,
    };
    uses.take(&day, 1, now, now).unwrap();
    let minute = Form::Rolling {
        most: 1,
        window: Duration::minutes(1),
    };
    uses.take(&minute, 1, now, now).unwrap();
    assert_eq!(uses.used(&minute, now), 1);
}

/// Money, whatever happens to those who reserve it: never more than is allowed, never less counted than may
/// have been paid, and nothing counted for ever that wasn't.
mod money {
    use uuid::Uuid;

    use super::super::super::money::{Currency, Price};
    use super::*;

    const MOST: u64 = 1_000;

    fn form() -> Form {
        Form::Spend {
            most: MOST,
            currency: Currency::USD,
            every: Every::Day,
            zone: chrono_tz::Tz::UTC,
        }
    }

    fn noon() -> Time {
        "2026-03-08T12:00:00Z".parse().unwrap()
    }

    fn spend(effect: u128, send: u32, by: u128) -> Spend {
        Spend {
            job: Uuid::nil(),
            effect: Uuid::from_u128(effect),
            send,
            each: true,
            repeats: false,
            by: Uuid::from_u128(by),
            price: Price::Free,
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// A send of an effect, by some run.
        Reserve {
            effect: u128,
            send: u32,
            by: u128,
            micros: u64,
        },
        /// What one of the last runs says became of it.
        Settle {
            effect: u128,
            send: u32,
            by: u128,
            paid: Paid,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        let paid = prop_oneof![
            (0u64..400).prop_map(Paid::Cost),
            Just(Paid::Estimate),
            Just(Paid::Nothing),
        ];
        prop_oneof![
            (0u128..6, 1u32..3, 0u128..3, 1u64..300).prop_map(|(effect, send, by, micros)| {
                Step::Reserve {
                    effect,
                    send,
                    by,
                    micros,
                }
            }),
            (0u128..6, 1u32..3, 0u128..3, paid).prop_map(|(effect, send, by, paid)| Step::Settle {
                effect,
                send,
                by,
                paid,
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn money_is_never_counted_too_low_nor_for_ever(
            steps in prop::collection::vec(step(), 1..120),
        ) {
            let (form, now) = (form(), noon());
            let mut uses = Uses::default();
            // the truth: what is open, by name, and what was spent for good
            let mut open: BTreeMap<String, (u128, u64)> = BTreeMap::new();
            let mut spent = 0;
            for step in &steps {
                match step {
                    Step::Reserve { effect, send, by, micros } => {
                        let it = spend(*effect, *send, *by);
                        let others: u64 = open
                            .iter()
                            .filter(|(name, _)| **name != it.name())
                            .map(|(_, it)| it.1)
                            .sum();
                        let fits = spent + others + micros <= MOST;
                        let got = uses.reserve(&form, &it, *micros, now);
                        prop_assert_eq!(got.is_ok(), fits);
                        if fits {
                            open.insert(it.name(), (*by, *micros));
                        }
                    }
                    Step::Settle { effect, send, by, paid } => {
                        let it = spend(*effect, *send, *by);
                        let whose = (&*it.name(), it.by);
                        // it is said twice, as after a lost answer
                        uses.settle(&form, whose, *paid, now);
                        uses.settle(&form, whose, *paid, now);
                        if let Some((_, micros)) = open.get(&it.name()).filter(|it| it.0 == *by) {
                            spent += match paid {
                                Paid::Cost(cost) => *cost,
                                Paid::Estimate => *micros,
                                Paid::Nothing => 0,
                            };
                            open.remove(&it.name());
                        }
                    }
                }
                let reserved: u64 = open.values().map(|it| it.1).sum();
                prop_assert_eq!(uses.used(&form, now), spent + reserved);
                prop_assert_eq!(uses.reserved(&form, now), reserved);
                let text = serde_json::to_string(&uses).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Uses>(&text).unwrap(), &uses);
            }
        }
    }

    #[test]
    fn who_lost_its_job_takes_nothing_back() {
        let (form, now) = (form(), noon());
        let mut uses = Uses::default();
        uses.reserve(&form, &spend(1, 1, 1), 300, now).unwrap();
        // another run has taken the job over, and takes the same send
        let other = spend(1, 1, 2);
        uses.reserve(&form, &other, 300, now).unwrap();
        assert_eq!(uses.used(&form, now), 300);
        let first = spend(1, 1, 1);
        uses.settle(&form, (&first.name(), first.by), Paid::Nothing, now);
        assert_eq!(uses.used(&form, now), 300);
    }

    #[test]
    fn a_repeat_of_what_is_paid_for_each_time_counts_twice() {
        let (form, now) = (form(), noon());
        let mut uses = Uses::default();
        uses.reserve(&form, &spend(1, 1, 1), 300, now).unwrap();
        uses.reserve(&form, &spend(1, 2, 1), 300, now).unwrap();
        assert_eq!(uses.used(&form, now), 600);
        // what has a key is one debt, however often it is sent; and its repeat isn't held back
        let keyed = |send, repeats| Spend {
            each: false,
            repeats,
            ..spend(2, send, 1)
        };
        uses.reserve(&form, &keyed(1, false), 400, now).unwrap();
        uses.reserve(&form, &keyed(2, true), 400, now).unwrap();
        assert_eq!(uses.used(&form, now), MOST);
    }

    #[test]
    fn a_new_day_begins_with_nothing_spent() {
        let (form, now) = (form(), noon());
        let mut uses = Uses::default();
        uses.reserve(&form, &spend(1, 1, 1), MOST, now).unwrap();
        let at = uses.reserve(&form, &spend(2, 1, 1), 1, now).unwrap_err().at;
        assert_eq!(at, "2026-03-09T00:00:00Z".parse::<Time>().unwrap());
        uses.reserve(&form, &spend(2, 1, 1), MOST, at).unwrap();
        // the answer comes after midnight: it was yesterday's money
        let late = spend(1, 1, 1);
        uses.settle(&form, (&late.name(), late.by), Paid::Cost(MOST), at);
        assert_eq!(uses.used(&form, at), MOST);
    }

    #[test]
    fn of_too_many_open_ones_the_oldest_count_as_spent() {
        let big = Form::Spend {
            most: 1_000_000,
            currency: Currency::USD,
            every: Every::Day,
            zone: chrono_tz::Tz::UTC,
        };
        let mut uses = Uses::default();
        for n in 0..HOLDS_MAX as u128 + 10 {
            let now = noon() + Duration::milliseconds(n as i64);
            uses.reserve(&big, &spend(n, 1, 1), 1, now).unwrap();
        }
        let (first, now) = (spend(0, 1, 1), noon() + Duration::minutes(1));
        uses.settle(&big, (&first.name(), first.by), Paid::Nothing, now);
        assert_eq!(uses.holds().len(), HOLDS_MAX);
        assert_eq!(uses.used(&big, now), HOLDS_MAX as u64 + 10);
    }
}
