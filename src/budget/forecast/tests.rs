//! A forecast is what comes about, if nothing else comes.

use chrono::Duration;
use proptest::prelude::*;

use super::super::form::Every;
use super::*;

fn start() -> Time {
    // the clocks change in the night there
    "2026-03-07T20:00:00Z".parse().unwrap()
}

fn at(minutes: i64) -> Time {
    start() + Duration::minutes(minutes)
}

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![
        // of whole minutes, as all else is here: what fits for a moment only would be missed by hand
        (1u64..6, 1i64..6).prop_map(|(most, minutes)| Form::Rolling {
            most,
            window: Duration::minutes(64 * minutes),
        }),
        (1u64..6).prop_map(|most| Form::Calendar {
            most,
            every: Every::Day,
            zone: chrono_tz::America::Los_Angeles,
        }),
        (1u64..6, 10i64..90, 1u64..6).prop_map(|(most, minutes, burst)| Form::Bucket {
            most,
            window: Duration::minutes(minutes),
            burst,
        }),
    ]
}

fn asks() -> impl Strategy<Value = Vec<Asks>> {
    let one = (-60i64..3_000, any::<bool>()).prop_map(|(minutes, planned)| Asks {
        from: if planned {
            at(minutes)
        } else {
            at(minutes.min(0))
        },
        planned,
    });
    prop::collection::vec(one, 0..12)
}

fn used(form: &Form, minutes: &[i64]) -> Uses {
    let mut uses = Uses::default();
    let mut minutes = minutes.to_vec();
    minutes.sort_unstable();
    for ago in minutes {
        let then = at(ago - 600);
        if let Ok(share) = uses.take(form, 1, then, then) {
            uses.finish(form, &share, End::Sent(then), then);
        }
    }
    uses
}

/// The same by hand: each minute everybody who waits asks, one after the other, as requests do.
fn by_hand(stands: Stands<'_>, asks: &[Asks]) -> Vec<Option<Time>> {
    let mut uses = stands.uses.clone();
    let mut expected: Vec<Option<Time>> = vec![None; asks.len()];
    for minute in 0..60_000 {
        if expected.iter().all(Option::is_some) {
            break;
        }
        let now = at(minute);
        let mut order: Vec<usize> = (0..asks.len()).filter(|n| expected[*n].is_none()).collect();
        let first = |n: &usize| stands.keeps && asks[*n].planned;
        order.sort_by_key(|n| (!first(n), asks[*n].from.max(start()), *n));
        let mut refused = [false; 2];
        for n in order.iter().copied().filter(|n| asks[*n].from <= now) {
            // who comes later in the same line is refused, too
            let line = usize::from(first(&n));
            if refused[line] {
                continue;
            }
            let left = order.iter().filter(|n| first(n) && expected[**n].is_none());
            let kept = Kept::of(stands.amount, left.map(|n| asks[*n].from));
            let times = (now, now);
            let back = uses.kept_back(stands.form, stands.amount, &kept, times);
            refused[line] = !first(&n) && back.is_some();
            if refused[line] {
                continue;
            }
            match uses.take(stands.form, stands.amount, now, now) {
                Ok(share) => {
                    uses.finish(stands.form, &share, End::Sent(now), now);
                    expected[n] = Some(now);
                }
                Err(_) => refused[line] = true,
            }
        }
    }
    expected
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_forecast_is_what_comes_about_to_the_minute(
        form in form(), asks in asks(), before in prop::collection::vec(0i64..600, 0..6),
        keeps in any::<bool>(),
    ) {
        let uses = used(&form, &before);
        let keeps = keeps && form.keeps_places();
        let stands = Stands { form: &form, amount: 1, keeps, uses: &uses };
        let told = forecast(stands, &asks, start());
        let mut told: Vec<Time> = told.into_iter().flatten().collect();
        let mut is: Vec<Time> = by_hand(stands, &asks).into_iter().flatten().collect();
        prop_assert_eq!(told.len(), is.len());
        // who goes when two ask at once within a minute is left open: how many have gone isn't
        told.sort_unstable();
        is.sort_unstable();
        // a slice of the window late at most, beside the minute
        let slack = match form {
            Form::Rolling { window, .. } => Duration::minutes(1) + window / 32,
            _ => Duration::minutes(1),
        };
        for (n, (told, is)) in told.iter().zip(&is).enumerate() {
            let slack = slack * i32::try_from(n + 1).unwrap();
            prop_assert!((*told - *is).abs() <= slack, "{n}: {told} {is}");
        }
    }

    #[test]
    fn more_jobs_never_make_it_sooner(form in form(), asks in asks(), more in 1usize..9) {
        let uses = Uses::default();
        let keeps = form.keeps_places();
        let stands = Stands { form: &form, amount: 1, keeps, uses: &uses };
        let bulk = Asks { from: start(), planned: false };
        let mut fewer = asks;
        fewer.push(bulk);
        let mut longer = fewer.clone();
        longer.extend(std::iter::repeat_n(bulk, more));
        let last = |asks: &[Asks]| {
            let expected = forecast(stands, asks, start());
            let of_bulk = expected.iter().zip(asks).filter(|it| !it.1.planned);
            of_bulk.map(|it| it.0.unwrap_or(NEVER)).max()
        };
        prop_assert!(last(&fewer) <= last(&longer));
    }

    #[test]
    fn what_was_scheduled_and_fits_is_foretold_for_its_time(
        form in form(), minutes in prop::collection::vec(0i64..3_000, 0..9), bulk in 0usize..40,
    ) {
        prop_assume!(form.keeps_places());
        let uses = Uses::default();
        let stands = Stands { form: &form, amount: 1, keeps: true, uses: &uses };
        let planned = |minutes: &i64| Asks { from: at(*minutes), planned: true };
        let alone: Vec<Asks> = minutes.iter().map(planned).collect();
        let fit = forecast(stands, &alone, start());
        prop_assume!(fit.iter().zip(&alone).all(|(told, it)| *told == Some(it.from)));
        let mut all = alone;
        all.extend(std::iter::repeat_n(Asks { from: start(), planned: false }, bulk));
        prop_assert_eq!(&forecast(stands, &all, start())[..fit.len()], &fit[..]);
    }
}

#[test]
fn nothing_waits_for_an_empty_backlog_and_nobody_foretells_what_is_under_way() {
    let uses = Uses::default();
    let of = |form: &Form, asks: &[Asks]| {
        let stands = Stands {
            form,
            amount: 2,
            keeps: true,
            uses: &uses,
        };
        forecast(stands, asks, start())
    };
    let window = Duration::hours(1);
    let one = [Asks {
        from: start(),
        planned: false,
    }];
    let rolling = Form::Rolling { most: 2, window };
    assert_eq!(of(&rolling, &[]), []);
    assert_eq!(of(&rolling, &one), [Some(start())]);
    let most = 9;
    assert_eq!(of(&Form::Concurrency { most }, &one), [None]);
    // more than it ever allows
    assert_eq!(of(&Form::Rolling { most: 1, window }, &one), [None]);
}

#[test]
fn an_import_of_five_hundred_at_forty_and_fifty_a_day_takes_ten_days() {
    let form = Form::Calendar {
        most: 50,
        every: Every::Day,
        zone: chrono_tz::UTC,
    };
    let uses = Uses::default();
    let stands = Stands {
        form: &form,
        amount: 1,
        keeps: true,
        uses: &uses,
    };
    let midnight: Time = "2026-05-01T00:01:00Z".parse().unwrap();
    let mut asks = vec![
        Asks {
            from: midnight + Duration::hours(9),
            planned: true,
        };
        10
    ];
    asks.extend(vec![
        Asks {
            from: midnight,
            planned: false,
        };
        500
    ]);
    let told = forecast(stands, &asks, midnight);
    assert!(
        told[..10]
            .iter()
            .all(|it| *it == Some(midnight + Duration::hours(9)))
    );
    let first = told[10..]
        .iter()
        .filter(|it| **it == Some(midnight))
        .count();
    assert_eq!(first, 40);
    let last: Time = "2026-05-11T00:00:05Z".parse().unwrap();
    assert_eq!(told.iter().flatten().max(), Some(&last));
}
