//! Whatever asks beside them: what was scheduled, and fits, gets its place at its time; and who is told to
//! wait finds room when it was told.

use chrono::Duration;
use proptest::prelude::*;

use super::super::form::Every;
use super::super::uses::{End, Share};
use super::*;

/// What a request takes until it is surely over.
const WITHIN: Duration = Duration::seconds(30);

fn start() -> Time {
    // the clocks change on the next day there
    "2026-03-07T20:00:00Z".parse().unwrap()
}

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![
        (1u64..7, 60i64..400).prop_map(|(most, minutes)| Form::Rolling {
            most,
            window: Duration::minutes(minutes),
        }),
        (1u64..7).prop_map(|most| Form::Calendar {
            most,
            every: Every::Day,
            zone: chrono_tz::America::Los_Angeles,
        }),
    ]
}

/// Those of these times that fit by themselves, in their order.
fn fitting(form: &Form, amount: u64, seconds: &[i64]) -> Vec<Time> {
    let mut times: Vec<i64> = seconds.to_vec();
    times.sort_unstable();
    let mut uses = Uses::default();
    let mut fit = Vec::new();
    for at in times {
        let at = start() + Duration::seconds(at);
        if uses.take(form, amount, at, at + WITHIN).is_ok() {
            fit.push(at);
        }
    }
    fit
}

/// A budget in use, by steps in time.
struct Play {
    form: Form,
    amount: u64,
    uses: Uses,
    open: Vec<(Time, Share)>,
}

impl Play {
    fn finish(&mut self, now: Time) {
        self.open.sort_by_key(|it| it.0);
        let over = self.open.iter().take_while(|it| it.0 <= now).count();
        for (end, share) in self.open.drain(..over) {
            self.uses.finish(&self.form, &share, End::Sent(end), now);
        }
    }

    /// Takes it, if it fits; it ends so many seconds later, or nobody tells.
    fn take(&mut self, now: Time, ends: Option<i64>) -> bool {
        self.finish(now);
        let taken = self.uses.take(&self.form, self.amount, now, now + WITHIN);
        let fits = taken.is_ok();
        if let (Ok(share), Some(ends)) = (taken, ends) {
            self.open.push((now + Duration::seconds(ends), share));
        }
        fits
    }

    fn kept_back(&mut self, kept: &[Time], now: Time) -> Option<KeptBack> {
        self.finish(now);
        let kept = Kept::of(self.amount, kept.iter().copied());
        let times = (now, now + WITHIN);
        self.uses.kept_back(&self.form, self.amount, &kept, times)
    }
}

fn ends() -> impl Strategy<Value = Option<i64>> {
    prop::option::weighted(0.7, 0i64..=30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_was_scheduled_and_fits_gets_its_place_whatever_asks_beside_it(
        form in form(), amount in 1u64..3,
        planned in prop::collection::vec(0i64..130_000, 0..16),
        asks in prop::collection::vec((0i64..130_000, ends()), 0..80),
    ) {
        prop_assume!(amount <= form.most());
        let planned = fitting(&form, amount, &planned);
        let mut steps: Vec<(Time, bool, Option<i64>)> =
            planned.iter().map(|at| (*at, true, None)).collect();
        let at = |seconds: i64| start() + Duration::seconds(seconds);
        steps.extend(asks.iter().map(|(seconds, ends)| (at(*seconds), false, *ends)));
        // at the same moment the other comes first
        steps.sort_by_key(|it| (it.0, it.1));
        let mut play = Play { form, amount, uses: Uses::default(), open: vec![] };
        let mut left = planned.as_slice();
        for (now, is_planned, ends) in steps {
            if is_planned {
                left = &left[1..];
                prop_assert!(play.take(now, ends), "{now}: {:?}", play.uses);
            } else if play.kept_back(left, now).is_none() {
                play.take(now, ends);
            }
        }
    }

    #[test]
    fn who_is_told_to_wait_for_those_who_have_places_finds_room_then(
        form in form(), amount in 1u64..3,
        planned in prop::collection::vec(0i64..130_000, 1..16),
        used in prop::collection::vec(0i64..20_000, 0..6),
    ) {
        prop_assume!(amount <= form.most());
        let mut play = Play { form, amount, uses: Uses::default(), open: vec![] };
        let mut used = used;
        used.sort_unstable();
        for seconds in used {
            play.take(start() - Duration::seconds(20_000 - seconds), None);
        }
        let planned = fitting(&form, amount, &planned);
        let now = start();
        // where it is full besides, that is told instead
        prop_assume!(play.uses.fits_at(&form, amount, now) == now);
        let Some(back) = play.kept_back(&planned, now) else { return Ok(()) };
        prop_assert!(now < back.at && 0 < back.places && back.until < NEVER);
        let (before, after): (Vec<Time>, Vec<Time>) =
            planned.iter().partition(|at| **at < back.at);
        for at in before {
            // of those the first ones may be refused: what was used before stands in their way
            play.take(at, None);
        }
        prop_assert_eq!(play.kept_back(&after, back.at), None);
        prop_assert!(play.take(back.at, None));
    }

    #[test]
    fn with_nothing_kept_nothing_is_kept_back(
        form in form(), used in prop::collection::vec(0i64..130_000, 0..20),
    ) {
        let mut play = Play { form, amount: 1, uses: Uses::default(), open: vec![] };
        for seconds in used {
            let now = start() + Duration::seconds(seconds);
            prop_assert_eq!(play.kept_back(&[], now), None);
            play.take(now, None);
        }
    }
}

fn calendar(most: u64) -> Form {
    Form::Calendar {
        most,
        every: Every::Day,
        zone: chrono_tz::UTC,
    }
}

#[test]
fn bulk_takes_what_is_left_of_the_day_and_is_told_when_the_next_begins() {
    let at = |text: &str| -> Time { text.parse().unwrap() };
    let midnight = at("2026-05-01T00:01:00Z");
    let kept = Kept::of(1, (0..10).map(|_| at("2026-05-01T09:00:00Z")));
    let mut uses = Uses::default();
    let form = calendar(50);
    let times = (midnight, midnight + WITHIN);
    for n in 0..40 {
        assert_eq!(uses.kept_back(&form, 1, &kept, times), None, "{n}");
        uses.take(&form, 1, times.0, times.1).unwrap();
    }
    let back = uses.kept_back(&form, 1, &kept, times).unwrap();
    assert_eq!(back.at, at("2026-05-02T00:00:05Z"));
    assert_eq!((back.places, back.until), (10, at("2026-05-01T09:00:00Z")));
    // the ones whose places they are
    for _ in 0..10 {
        let nine = at("2026-05-01T09:00:00Z");
        uses.take(&form, 1, nine, nine + WITHIN).unwrap();
    }
    // what is wanted tomorrow is no matter of today, and late ones still have their places
    let tomorrow = Kept::of(1, [at("2026-05-02T09:00:00Z")]);
    assert_eq!(
        Uses::default().kept_back(&calendar(1), 1, &tomorrow, times),
        None
    );
    let late = Kept::of(1, [midnight - Duration::hours(3)]);
    assert!(
        Uses::default()
            .kept_back(&calendar(1), 1, &late, times)
            .is_some()
    );
}

#[test]
fn places_are_kept_in_long_windows_only() {
    let window = Duration::minutes(59);
    let now = start();
    let kept = Kept::of(1, [now]);
    let long = Form::Rolling {
        most: 1,
        window: Duration::hours(1),
    };
    for form in [
        Form::Rolling { most: 1, window },
        Form::Concurrency { most: 1 },
        Form::Bucket {
            most: 1,
            window: Duration::hours(9),
            burst: 1,
        },
    ] {
        let back = Uses::default().kept_back(&form, 1, &kept, (now, now));
        assert!(!form.keeps_places() && back.is_none(), "{form}");
    }
    let back = Uses::default().kept_back(&long, 1, &kept, (now, now));
    assert!(back.is_some() && calendar(1).keeps_places());
}
