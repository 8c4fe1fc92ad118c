//! Whether every state takes every event, soundly.

use super::*;
use chrono::{TimeZone, Utc};
use proptest::prelude::*;

fn now() -> Time {
    Utc.timestamp_opt(1_800_000_000, 0).unwrap()
}

fn facts(state: State) -> Facts {
    Facts {
        state,
        attempts: 0,
        attempts_max: 3,
        crashes: 0,
        cancel: false,
        open: false,
        seed: 7,
        expires_at: now() + Duration::days(7),
        policy: Policy::default(),
    }
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    let failure = (0..Class::ALL.len(), prop::option::of(0u64..100_000)).prop_map(|(i, wait)| {
        let mut it = Failure::new(Class::ALL[i], Scope::Platform, "x", "x");
        it.retry_after_ms = wait;
        it
    });
    let held = (0..Held::ALL.len()).prop_map(|i| Held::ALL[i]);
    prop_oneof![
        Just(Outcome::Completed(serde_json::Value::Null)),
        Just(Outcome::Cancelled),
        Just(Outcome::Released { reason: "x".into() }),
        Just(Outcome::Shut {
            reason: "x".into(),
            failure: Some(Failure::transient("x", "x")),
        }),
        (-100i64..100).prop_map(|s| Outcome::Snoozed {
            until: now() + Duration::seconds(s),
            reason: "x".into()
        }),
        failure.clone().prop_map(Outcome::Failed),
        failure.clone().prop_map(Outcome::Unresolved),
        (held, failure).prop_map(|(held, it)| Outcome::Held(held, it)),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Claimed),
        any_outcome().prop_map(Event::Ended),
        Just(Event::Begun),
        Just(Event::Reclaimed),
        Just(Event::CancelAsked),
        Just(Event::Expired),
        Just(Event::Revived),
        Just(Event::Looked),
        Just(Event::Discarded),
        Just(Event::Mended),
        proptest::option::of(-100i64..100)
            .prop_map(|s| Event::Admitted(s.map(|s| now() + Duration::seconds(s)))),
        Just(Event::Resolved),
    ]
}

proptest! {
    #[test]
    fn transitions_are_total_and_sound(
        state in 0..State::ALL.len(), event in any_event(),
        attempts in 0u32..5, crashes in 0..=CRASHES_MAX, cancel: bool, old: bool,
    ) {
        let mut facts = Facts { attempts, crashes, cancel, ..facts(State::ALL[state]) };
        if old {
            facts.expires_at = now() - Duration::seconds(1);
        }
        let revive = matches!(event, Event::Revived | Event::Discarded);
        // its place is the one that it had: it was due when it was claimed
        let keeps = matches!(event, Event::Ended(Outcome::Shut { .. }));
        if let Ok(it) = advance(&facts, event, now()) {
            prop_assert!(it.is_sound(), "{:?}", it);
            prop_assert!(!facts.state.is_terminal() || revive, "a terminal state was left");
            prop_assert!(keeps || !(it.to.is_claimable() && it.run_at.is_none()), "nobody would wake it: {:?}", it);
            prop_assert!(it.run_at.is_none_or(|at| now() <= at), "it would run in the past");
            prop_assert!(!it.to.is_terminal() || !it.cancel, "an ended job isn't to be cancelled");
        }
    }

    #[test]
    fn any_history_ends_or_waits_for_a_person(events in prop::collection::vec(any_event(), 1..60)) {
        let mut facts = facts(State::Ready);
        for event in events {
            let Ok(it) = advance(&facts, event, now()) else { continue };
            facts.state = it.to;
            facts.cancel = it.cancel;
            if it.reset {
                facts.attempts = 0;
            }
            facts.attempts += it.attempts;
            facts.crashes = it.crashes;
            prop_assert!(facts.attempts <= facts.attempts_max.max(1));
            prop_assert!(facts.crashes <= CRASHES_MAX);
            if it.archive { break }
        }
    }

    #[test]
    fn only_what_died_alone_is_poison(lives in prop::collection::vec(any_life(), 1..40)) {
        let mut facts = facts(State::Ready);
        let mut alone = 0;
        for life in lives {
            let claimed = facts;
            facts.state = State::Running;
            let begun = life.begins && is_suspect(facts.crashes);
            if begun {
                facts.crashes = advance(&facts, Event::Begun, now()).unwrap().crashes;
            }
            let it = match life.ends {
                None => advance(&facts, Event::Reclaimed, now()).unwrap(),
                Some(outcome) => {
                    let seen = Facts { state: State::Running, ..claimed };
                    let own = !matches!(outcome, Outcome::Released { .. } | Outcome::Shut { .. });
                    let it = advance(&seen, Event::Ended(outcome), now()).unwrap();
                    prop_assert_eq!(it.crashes, if own { 0 } else { claimed.crashes });
                    if own { alone = 0 }
                    facts = Facts { crashes: it.crashes, state: State::Ready, ..facts };
                    continue;
                }
            };
            alone += u32::from(begun);
            let rise = it.crashes - claimed.crashes;
            prop_assert_eq!(rise, u32::from(begun || !is_suspect(claimed.crashes)));
            prop_assert_eq!(it.to == State::Dead, alone == CRASHES_MAX - CRASHES_SUSPECT);
            if it.to == State::Dead { break }
            facts = Facts { crashes: it.crashes, state: it.to, ..facts };
        }
    }
}

/// From one claim to its end.
#[derive(Clone, Debug)]
struct Life {
    /// Its handler had its turn.
    begins: bool,
    /// How the attempt ended; `None`: with its daemon.
    ends: Option<Outcome>,
}

fn any_life() -> impl Strategy<Value = Life> {
    let ends = prop_oneof![6 => Just(None), 1 => any_outcome().prop_map(Some)];
    (any::<bool>(), ends).prop_map(|(begins, ends)| Life { begins, ends })
}

#[test]
fn stopping_is_not_failing() {
    for outcome in [
        Outcome::Released {
            reason: "drain".into(),
        },
        Outcome::Shut {
            reason: "stop".into(),
            failure: None,
        },
        Outcome::Snoozed {
            until: now(),
            reason: "later".into(),
        },
        Outcome::Failed(Failure::new(
            Class::Throttled,
            Scope::Account,
            "http_429",
            "slow down",
        )),
        Outcome::Failed(Failure::new(
            Class::Unknown,
            Scope::Platform,
            "lost",
            "no answer",
        )),
        Outcome::Failed(Failure::new(
            Class::Unauthorised,
            Scope::Account,
            "http_401",
            "who?",
        )),
    ] {
        let facts = Facts {
            crashes: 4,
            ..facts(State::Running)
        };
        let crashes = match outcome {
            Outcome::Released { .. } | Outcome::Shut { .. } => 4,
            _ => 0,
        };
        let it = advance(&facts, Event::Ended(outcome), now()).unwrap();
        assert_eq!((it.attempts, it.crashes), (0, crashes), "{it:?}");
        assert_ne!(it.to, State::Dead);
    }
}

#[test]
fn a_poison_job_is_buried_apart_from_its_attempts() {
    let mut facts = facts(State::Running);
    for crash in 1..=CRASHES_MAX {
        if is_suspect(facts.crashes) {
            let it = advance(&facts, Event::Reclaimed, now()).unwrap();
            assert_eq!(
                (it.to, it.crashes),
                (State::Ready, crash - 1),
                "it waited for its turn"
            );
            let it = advance(&facts, Event::Begun, now()).unwrap();
            assert_eq!((it.to, it.crashes), (State::Running, crash));
            facts.crashes = it.crashes;
        }
        let it = advance(&facts, Event::Reclaimed, now()).unwrap();
        assert_eq!((it.attempts, it.crashes), (0, crash));
        facts.crashes = it.crashes;
        match it.failure {
            None => assert_eq!(it.to, State::Ready),
            Some(failure) => {
                assert_eq!((it.to, crash), (State::Dead, CRASHES_MAX));
                assert_eq!(failure.code, "poison");
            }
        }
    }
    facts.state = State::Dead;
    let it = advance(&facts, Event::Revived, now()).unwrap();
    assert_eq!((it.reset, it.crashes), (true, 0));
}

#[test]
fn the_last_attempt_buries() {
    let facts = Facts {
        attempts: 2,
        ..facts(State::Running)
    };
    let it = advance(
        &facts,
        Event::Ended(Failure::transient("x", "x").into()),
        now(),
    )
    .unwrap();
    assert_eq!((it.to, it.attempts), (State::Dead, 1));
}
