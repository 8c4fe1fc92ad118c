//! Money, whatever happens to those who reserve it: never more than is allowed, never less counted than may
//! have been paid, and nothing counted for ever that wasn't.

use proptest::prelude::*;
use uuid::Uuid;

use super::super::form::Every;
use super::super::money::{Currency, Price};
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
